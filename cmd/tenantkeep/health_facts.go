package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/tenantkeep/tenantkeep/internal/backup"
	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/health"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/restore"
	"github.com/tenantkeep/tenantkeep/internal/retention"
	"github.com/tenantkeep/tenantkeep/internal/storage"
	"github.com/tenantkeep/tenantkeep/internal/verify"
)

const (
	// databasePatience is how long a health check waits for the database.
	databasePatience = 20 * time.Second
	// overdueAfter is for how long a backup may outlive its time before retention
	// counts as not done: a cleanup each night, and one that failed.
	overdueAfter = 48 * time.Hour
	// keepLeftovers is how long restores may leave something in the database:
	// cleanup keeps it for a day.
	keepLeftovers = 48 * time.Hour
	// stuckAfter is for how long a session may hold the lock of the database and ask
	// nothing of the server.
	stuckAfter = time.Hour
)

// examiner gathers the facts of a health check.
type examiner struct {
	*app
	cmd *cobra.Command
	cfg *config.Config
	examineOptions

	mu    sync.Mutex
	facts health.Facts
	info  *pg.Info // of the database that is looked at; nil: it could not be reached
}

// examineOptions say how to make the checks.
type examineOptions struct {
	full bool // all files are read, not only a sample
	// reading is told of that; nil: nobody waits.
	reading verify.Progress
	unread  bool // no file is read
	// serving is that this process runs the schedule, and refused why its newest
	// settings are not in use.
	serving bool
	refused error
}

// targets are what the settings call good enough.
func targets(cfg *config.Config) health.Targets {
	t := health.Targets{MaxAge: cfg.MaxAge, MaxProof: cfg.MaxDrillAge, MinDays: cfg.MinDiskDays, MaxReplaced: keepLeftovers}
	for _, m := range cfg.TenantMaxAges {
		t.MaxAges = append(t.MaxAges, health.TenantAge{Pattern: m.Pattern, MaxAge: m.MaxAge})
	}
	return t
}

// examine makes the report. An error is that of an interruption or of settings;
// what else goes wrong is in the report.
func (a *app) examine(ctx context.Context, cmd *cobra.Command, cfg *config.Config, o examineOptions) (*health.Report, error) {
	x := &examiner{app: a, cmd: cmd, cfg: cfg, examineOptions: o, facts: health.Facts{Now: a.now(), Serving: o.serving, Unknown: map[string]string{}}}
	if o.refused != nil {
		x.facts.SettingsErr = o.refused.Error()
	}
	places, err := a.openPlaces(cfg)
	if err != nil {
		return nil, err
	}
	policy, err := retentionOptions(cfg, x.facts.Now)
	if err != nil {
		return nil, err
	}
	x.facts.Repository.Location = places[0].Store.Location()
	var found *catalog
	var group errgroup.Group
	group.Go(func() error { return x.database(ctx) })
	group.Go(func() (err error) {
		if found, err = readCatalog(ctx, places[0].Repo, places[0].Store); err != nil && ctx.Err() == nil {
			x.facts.Repository.Err, x.facts.Repository.Hint = err.Error(), hintOf(err)
			return nil
		}
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if found != nil && x.facts.Repository.Err == "" {
		if err := x.repository(ctx, places, found, policy); err != nil {
			return nil, err
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return health.Judge(&x.facts, targets(cfg)), nil
}

// unknown notes that a check cannot be made.
func (x *examiner) unknown(check string, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.facts.Unknown[check] = err.Error()
}

// database looks into the database.
func (x *examiner) database(ctx context.Context) error {
	d := &x.facts.Database
	target, err := server(x.cfg)
	if err != nil {
		return err
	}
	d.Name = target.Database()
	limited, cancel := context.WithTimeout(ctx, databasePatience)
	defer cancel()
	if err := x.readDatabase(limited, target); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		d.Err, d.Hint = err.Error(), hintOf(err)
		d.Schemas, d.Excluded, x.info = nil, x.cfg.ExcludeSchemas, nil
	}
	return nil
}

func (x *examiner) readDatabase(ctx context.Context, target *pg.Server) error {
	conn, err := target.Connect(ctx)
	if err != nil {
		return err
	}
	defer pg.Close(conn)
	if x.info, err = pg.ReadInfo(ctx, conn); err != nil {
		return err
	}
	x.facts.Database.Name = x.info.Name
	names, err := backup.ListSchemas(ctx, conn)
	if err != nil {
		return err
	}
	for _, name := range names {
		if len(x.cfg.Schemas) > 0 && !slices.Contains(x.cfg.Schemas, name) || slices.Contains(x.cfg.ExcludeSchemas, name) {
			x.facts.Database.Excluded = append(x.facts.Database.Excluded, name)
		} else {
			x.facts.Database.Schemas = append(x.facts.Database.Schemas, name)
		}
	}
	holders, err := pg.LockHolders(ctx, conn)
	if err != nil {
		return err
	}
	for _, h := range holders {
		x.lock(health.Lock{
			What: "the lock of the database", Who: fmt.Sprintf("%q, server process %d", h.Application, h.PID), Since: h.Since,
			Dead: h.Idle > stuckAfter, Remedy: fmt.Sprintf("if its client is dead, end it with: SELECT pg_terminate_backend(%d)", h.PID),
		})
	}
	files, err := knownMedia(x.cfg)
	if err != nil {
		return err
	}
	left, err := restore.DropOwn(ctx, restore.DropOptions{Server: target, Before: x.facts.Now, DryRun: true, Media: files})
	if err != nil {
		x.unknown(health.CheckLeftovers, err)
		return nil
	}
	for _, l := range left {
		x.facts.Leftovers = append(x.facts.Leftovers, health.Leftover{Name: l.Name, Schema: l.Schema, Kind: l.Kind, Since: l.At, Bytes: l.Bytes})
	}
	unfinished, err := restore.ListUnfinished(ctx, target)
	if err != nil {
		x.unknown(health.CheckLeftovers, err)
		return nil
	}
	for _, u := range unfinished {
		if len(holders) == 0 { // else it may be at work
			x.facts.Leftovers = append(x.facts.Leftovers, health.Leftover{Name: u.Backup, Schema: u.Schema, Kind: "unfinished"})
		}
	}
	waiting, err := pendingMedia(ctx, target, files)
	if err != nil {
		x.unknown(health.CheckLeftovers, err)
		return nil
	}
	for _, l := range waiting {
		if !l.AtWork {
			x.facts.Leftovers = append(x.facts.Leftovers, health.Leftover{Name: l.Name, Schema: l.Tenant, Kind: "pending", Since: l.At})
		}
	}
	return nil
}

func (x *examiner) lock(l health.Lock) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.facts.Locks = append(x.facts.Locks, l)
}

// repository looks at what was found in the repository.
func (x *examiner) repository(ctx context.Context, places []place, found *catalog, policy retention.Options) error {
	mine := x.mine(found.backups)
	files := &fileCheck{sizes: found.sizes}
	for _, b := range found.backups {
		x.addBackup(b, files, mine[b.Key])
	}
	x.locks(ctx, places[0], found.backups)
	x.notifiers(ctx, places[0].Store)
	trail := x.trail(found.backups, mine)
	if err := x.schedule(found.backups, files, trail); err != nil {
		return err
	}
	if err := x.retention(ctx, places[0], found, policy, trail); err != nil {
		return err
	}
	if err := x.disk(ctx, places[0].Store, found, policy); err != nil {
		return err
	}
	return x.integrity(ctx, places[0], found)
}

// mine tells which backups are of the database that is looked at, by key. Where it
// could not be reached that is told by its name and, where no backup has that, it
// is that of the newest one. The original system notes no database.
func (x *examiner) mine(backups []repo.Backup) map[string]bool {
	var same func(*manifest.Manifest) bool
	if x.info != nil {
		same = isOf(x.info)
	} else {
		name := x.facts.Database.Name
		named := func(m *manifest.Manifest) bool { return m.Database != nil && m.Database.Name == name }
		if !slices.ContainsFunc(backups, func(b repo.Backup) bool { return b.Manifest != nil && named(b.Manifest) }) {
			if i := slices.IndexFunc(backups, func(b repo.Backup) bool { return b.Manifest != nil && b.Manifest.Database != nil }); i >= 0 {
				name = backups[i].Manifest.Database.Name
			}
		}
		same = named
	}
	mine := make(map[string]bool, len(backups))
	for _, b := range backups {
		mine[b.Key] = b.Manifest == nil || b.Manifest.Database == nil || same(b.Manifest)
	}
	return mine
}

// addBackup notes one backup, and what its files lack; mine is that it is of the
// database that is looked at.
func (x *examiner) addBackup(b repo.Backup, files *fileCheck, mine bool) {
	h := health.Backup{ID: b.ID, Time: b.Time(), Manifest: b.Manifest}
	if m := b.Manifest; m != nil {
		for n := range m.Schemas {
			s := &m.Schemas[n]
			if wroteFile(m, s) {
				h.Stored += s.Size
			}
			if wroteMedia(m, s) {
				h.Stored += s.Media.Size
			}
			missing := files.missing(m, n)
			if len(missing) == 0 {
				continue
			}
			if h.Lacking == nil {
				h.Lacking = map[int][]string{}
			}
			h.Lacking[n] = missing
			for _, key := range missing {
				x.facts.Integrity.Bad = append(x.facts.Integrity.Bad, health.BadFile{File: key, Backup: b.ID, Schema: s.Schema, Tenant: s.Tenant, What: "is missing or has another size"})
			}
		}
	}
	if mine {
		x.facts.Backups = append(x.facts.Backups, h)
	}
}

// disk finds out how full the disk is, and how the backups grow.
func (x *examiner) disk(ctx context.Context, store storage.Storage, found *catalog, policy retention.Options) error {
	spacer, ok := storage.As[storage.Spacer](store)
	if !ok {
		return nil
	}
	free, total, err := spacer.Space(ctx)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return nil
	case err != nil:
		x.unknown(health.CheckDisk, err)
		return nil
	}
	d := &health.Disk{Free: free, Total: total}
	for _, n := range found.sizes {
		d.Used += n
	}
	x.facts.Disk = d
	if rate, ok := growth(found.backups, policy); ok {
		d.Growth = &rate
	}
	return nil
}

// integrity reads the next files, or all.
func (x *examiner) integrity(ctx context.Context, p place, found *catalog) error {
	f := &x.facts.Integrity
	path := filepath.Join(x.cfg.LogDir, verify.RotationName)
	from, err := verify.LoadRotation(path, p.Store.Location())
	if err != nil {
		f.StateErr = err.Error()
	}
	o := verify.SampleOptions{Repo: p.Repo, Backups: found.backups, Sizes: found.sizes, Limit: x.cfg.HealthSample, From: from, Now: x.facts.Now, Jobs: x.cfg.Jobs}
	switch {
	case x.full:
		o.Limit, o.Progress = -1, x.reading
	case x.unread:
		o.Limit = 0
	}
	s, err := verify.Sample(ctx, o)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		x.unknown(health.CheckIntegrity, err)
		return nil
	}
	for _, p := range s.Problems {
		f.Bad = append(f.Bad, health.BadFile{File: p.File, Backup: p.Backup, Schema: p.Schema, Tenant: p.Tenant, What: p.Error})
	}
	f.Files, f.Bytes, f.Read, f.Full, f.Done = s.Files, s.Bytes, s.Read, x.full, s.Done
	f.Began, f.Round = s.Rotation.Began, s.Rotation.Ended
	if s.Files > 0 && !x.unread {
		if err := verify.SaveRotation(ctx, path, p.Store.Location(), s.Rotation, s.Good); err != nil && ctx.Err() == nil {
			f.StateErr = err.Error()
		}
	}
	return nil
}

// locks looks for holders of the lock of the repository and for runs that have not
// ended.
func (x *examiner) locks(ctx context.Context, p place, backups []repo.Backup) {
	marks, err := p.Repo.Interrupted(ctx, backups)
	if err != nil {
		x.unknown(health.CheckLocks, err)
		return
	}
	if len(backups)+len(marks) == 0 {
		return // a repository that does not exist is not made by looking at it
	}
	quick := repo.Open(p.Store, repo.Options{Now: x.now, Zone: p.Zone, LockWait: -1})
	_, unlock, err := quick.Lock(ctx, repo.Exclusive, "health")
	if err == nil {
		err = unlock()
	}
	locked, held := errors.AsType[*repo.LockedError](err)
	if held {
		for _, h := range locked.Holders {
			x.lock(health.Lock{What: "the lock of the repository", Who: h.String(), Since: h.Since, Remedy: locked.Hint()})
		}
		for _, name := range locked.Doubtful {
			x.lock(health.Lock{What: "the lock of the repository", Who: name, Dead: true, Remedy: locked.Hint()})
		}
	} else if err != nil {
		return // who may not lock cannot tell, and keeps nobody waiting
	}
	for _, id := range marks {
		t, ok := repo.IDTime(id)
		switch {
		case !ok:
		case held:
			x.facts.Running = append(x.facts.Running, t)
		default:
			x.killed(t)
		}
	}
}

// retention compares what the policy says with what is there.
func (x *examiner) retention(ctx context.Context, p place, found *catalog, policy retention.Options, trail *trailFacts) error {
	r := &x.facts.Retention
	pins, err := p.Repo.Pins(ctx)
	if err == nil {
		err = x.overdue(ctx, p, found.backups, pins, policy)
	}
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r.Err = err.Error()
		return nil
	}
	there := map[string]bool{}
	for _, b := range found.backups {
		there[b.ID] = true
	}
	for _, id := range slices.Sorted(maps.Keys(pins)) {
		if !there[id] {
			r.Pinned = append(r.Pinned, id)
		}
	}
	if trail != nil {
		for _, id := range slices.Sorted(maps.Keys(trail.made)) {
			if !there[id] && !trail.gone[id] {
				r.Lost = append(r.Lost, id)
			}
		}
	}
	return x.orphans(ctx, p, found, r)
}

// orphans looks for files of backups whose manifests are gone.
func (x *examiner) orphans(ctx context.Context, p place, found *catalog, r *health.Retention) error {
	all := slices.Concat(found.backups, found.strays)
	if slices.ContainsFunc(all, func(b repo.Backup) bool { return b.Err != nil }) {
		return nil // nobody knows what is an orphan, and the repository's check tells
	}
	orphans, err := p.Repo.OldOrphans(ctx, all, orphanAge)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r.Err = err.Error()
		return nil
	}
	seen := map[string]bool{}
	for _, o := range orphans {
		if o.Backup != "" && !o.Removal && !seen[o.Backup] && !slices.Contains(r.Lost, o.Backup) {
			seen[o.Backup] = true
			r.Orphaned = append(r.Orphaned, o.Backup)
		}
	}
	slices.Sort(r.Orphaned)
	return nil
}

// overdue finds the backups that should have been removed some time ago: those that
// the policy did not keep then already, of what there was then.
func (x *examiner) overdue(ctx context.Context, p place, backups []repo.Backup, pins map[string]repo.Pin, policy retention.Options) error {
	r := &x.facts.Retention
	then := policy
	then.Now = policy.Now.Add(-overdueAfter)
	old := slices.DeleteFunc(slices.Clone(backups), func(b repo.Backup) bool { return b.Time().After(then.Now) })
	if len(old) == 0 {
		return nil
	}
	then.AllowDoubtful = true // what is held back is told as such
	plan, err := retention.Decide(retained(old, pins, nil), then)
	if err != nil {
		return err
	}
	overdue := map[string]bool{}
	for _, d := range plan.Decisions {
		if !d.Keep {
			overdue[d.ID] = true
		}
	}
	if len(overdue) == 0 {
		return nil
	}
	// What was made since may need one of them, or hold all back.
	now, err := decide(ctx, p.Repo, backups, pins, policy)
	if err != nil {
		return err
	}
	r.OverdueSince = overdueAfter
	for i, d := range now.Decisions {
		if overdue[d.ID] && (!d.Keep || d.Has(retention.Held)) {
			r.Overdue = append(r.Overdue, d.ID)
			r.OverdueBytes += storedBy(backups[i].Manifest)
		}
	}
	for _, h := range now.Holds {
		r.Holds = append(r.Holds, h.Why)
	}
	return nil
}

// storedBy is how many bytes a run has written.
func storedBy(m *manifest.Manifest) (n int64) {
	if m == nil {
		return 0
	}
	for i := range m.Schemas {
		s := &m.Schemas[i]
		if wroteFile(m, s) {
			n += s.Size
		}
		if wroteMedia(m, s) {
			n += s.Media.Size
		}
	}
	return n
}
