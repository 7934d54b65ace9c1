package main

import (
	"context"
	"errors"
	"strings"

	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/restore"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// deadReason is why a rollback point is removed.
const deadReason = "the restore that saved it replaced nothing"

// points are the rollback points of one database.
type points struct {
	app     *app
	sources place // the repository that restores read, and hold the lock of
	place   place
	same    func(*manifest.Manifest) bool // is of this database
	dead    []repo.Backup                 // of restores that did not replace anything
}

func (a *app) openPoints(ctx context.Context, cfg *config.Config, target *pg.Server) (*points, error) {
	places, err := a.openPlaces(cfg)
	if err != nil {
		return nil, err
	}
	same, err := ofDatabase(ctx, target)
	if err != nil {
		return nil, err
	}
	return &points{app: a, sources: places[0], place: places[1], same: same}, nil
}

// judge finds the points of restores that did not replace anything, while no
// restore is at work. With confirm it notes down of the others what so far only
// the database knows, in which a replaced schema does not stay.
func (p *points) judge(ctx context.Context, kept []restore.Replaced, confirm bool) error {
	p.dead = nil
	backups, err := p.place.Repo.List(ctx)
	if err != nil {
		p.app.ui().Warnf("rollback points are left alone: %v", err)
		return nil
	}
	confirmed, err := p.place.Repo.Confirmed(ctx)
	if err != nil {
		return err
	}
	inForce, err := p.place.inForce(ctx, kept)
	if err != nil {
		return err
	}
	for _, b := range backups {
		switch {
		case b.Err != nil || !b.Manifest.RollbackPoint || !p.same(b.Manifest) || confirmed[b.ID]:
		case !inForce(b):
			p.dead = append(p.dead, b)
		case confirm:
			if err := p.place.Repo.Confirm(ctx, b.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// remove removes the dead points. Where somebody else restores from the
// repository or saves a point they stay for another time.
func (p *points) remove(ctx context.Context) (err error) {
	for _, in := range []place{p.sources, p.place} {
		var unlock repo.Unlock
		if ctx, unlock, err = in.Repo.Lock(ctx, repo.Exclusive, "cleanup"); err != nil {
			if locked, ok := errors.AsType[*repo.LockedError](err); ok {
				p.app.ui().Warnf("rollback points stay for now: %v", locked)
				p.dead = nil
				return nil
			}
			return err
		}
		defer func() { err = errors.Join(err, unlock()) }()
	}
	for _, b := range p.dead {
		if err := p.place.Repo.Remove(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// namesIn lists the schemas of a backup.
func namesIn(m *manifest.Manifest) string {
	var names []string
	for _, s := range m.Schemas {
		names = append(names, ui.Safe(s.Schema))
	}
	return strings.Join(names, ", ")
}
