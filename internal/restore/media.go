package restore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"golang.org/x/sync/errgroup"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/media"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/repo"
)

// files are those of a unit on their way back.
type files struct {
	tenant media.Tenant // whose folder it becomes
	staged *media.Staging
	move   *media.Move // once it is known what it replaces
	placed bool
}

// PlannedMedia is what is going to happen to the files of a tenant.
type PlannedMedia struct {
	Files, Bytes int64
	Stored       int64  // in the archive of the backup itself
	Folder       string // where they come
	Replaces     bool   // there is such a folder now
}

// leadsOutRemedy is what to do about links that are refused.
const leadsOutRemedy = "restore with --leave-out-links, which leaves such links out"

// media checks the archives of the files that are to be put back.
func (p *checker) media(ctx context.Context) error {
	if p.Media == nil || p.Resume {
		return nil
	}
	if !p.Manifest.IncludeMedia {
		p.plan.Warnings = append(p.plan.Warnings, "the backup was taken without media: the files of tenants stay as they are")
		return nil
	}
	if err := p.Media.Ready(ctx); err != nil {
		f := Finding{Problem: err.Error(), Err: err}
		if hinted, ok := errors.AsType[*media.RootError](err); ok {
			f.Remedy = hinted.Hint()
		}
		p.find(f)
		return nil
	}
	var needed int64
	for _, u := range p.archived() {
		size, err := p.archive(ctx, u)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			f := Finding{Tenant: u.entry.Tenant, Problem: err.Error(), Remedy: "restore from another backup, or without --include-media", Err: err}
			if _, ok := errors.AsType[*media.LinkError](err); ok {
				f.Remedy = leadsOutRemedy
			}
			p.find(f)
		}
		needed += size
	}
	if free, err := p.Media.Free(); err == nil && free < needed {
		p.find(Finding{
			Problem: fmt.Sprintf("the files need %s, and %s has %s left", humanize.Bytes(uint64(needed)), p.Media.Dir(), humanize.Bytes(uint64(max(free, 0)))),
			Remedy:  "make room: the present files stay there, beside the restored ones, until tenantkeep cleanup removes them",
		})
	}
	return nil
}

// archived are the units whose archives of files can be read.
func (p *checker) archived() []*unit {
	return slices.DeleteFunc(slices.Clone(p.units), func(u *unit) bool { return u.file == nil && u.imported == nil })
}

// archive checks that of one unit, and returns how many bytes its files have.
func (p *checker) archive(ctx context.Context, u *unit) (size int64, err error) {
	e := u.entry
	switch {
	case e.MediaBackup == "" && e.Media != nil && e.Media.Failed > 0:
		return 0, fmt.Errorf("its files could not be saved: %s", e.Media.Failures[0])
	case e.MediaBackup == "" || e.Media == nil:
		u.note("there are no files of it in the backup: its folder stays as it is")
		return 0, nil
	case u.core:
		if e.Media.Files > 0 {
			u.note(fmt.Sprintf("its files (%d) are not put back, because the folders of all tenants are among them: take what is needed out of %s with tar",
				e.Media.Files, e.MediaBackup))
		}
		return 0, nil
	}
	f := &files{tenant: media.Tenant{Schema: e.Schema, Name: e.Tenant}}
	if p.As != "" {
		f.tenant = media.Tenant{Schema: p.As, Name: p.As}
	}
	location, err := p.Media.Location(f.tenant)
	if err != nil {
		return 0, err
	}
	there, err := p.Media.Exists(f.tenant)
	if err != nil {
		return 0, err
	}
	if there && p.As != "" && !p.Over {
		p.find(Finding{Tenant: e.Tenant, Problem: fmt.Sprintf("there is a folder %s already", location), Remedy: "give another name with --as, or move the folder away"})
	}
	p.plannedSchema(u).Media = &PlannedMedia{Files: e.Media.Files, Bytes: e.Media.Bytes, Stored: e.Media.Size, Folder: location, Replaces: there}
	p.lacking(u)
	if u.imported == nil && p.checked == nil {
		if err := p.hash(ctx, e); err != nil {
			return 0, err
		}
	}
	archive, closer, err := p.openFiles(ctx, u)
	if err != nil {
		return 0, err
	}
	defer closer.Close() //nolint:errcheck // it was only read
	u.files = f
	return archive.Check(ctx, media.PutOptions{LeaveOutLinks: p.LeaveOutLinks})
}

// hash compares the archive of an entry with its hash.
func (p *checker) hash(ctx context.Context, e manifest.Schema) error {
	object, err := p.Repo.OpenMedia(ctx, p.Manifest, e)
	if err != nil {
		return err
	}
	return errors.Join(repo.CheckMediaHash(ctx, object, p.Manifest, e, nil), object.Close())
}

// lacking looks at the files that could not be saved when the backup was taken.
// The folder that takes the place of one with all of them must not lack any unless
// somebody wants it.
func (p *checker) lacking(u *unit) {
	m := u.entry.Media
	if m.Failed == 0 {
		return
	}
	plan := p.plannedSchema(u)
	lost := english.Plural(int(m.Failed), "file", "")
	problem := Problem{
		Kind: "MEDIA", Object: "of " + lost, Err: fmt.Errorf("not saved when the backup was taken, the first: %s", m.Failures[0]),
		Remedy: "take what is missing from another backup, or from the folder that was replaced",
	}
	if p.Incomplete || plan.Live == nil && !plan.Media.Replaces && !p.New {
		u.problem(problem)
		return
	}
	p.find(Finding{
		Tenant:  u.entry.Tenant,
		Problem: fmt.Sprintf("its archive lacks %s, %v", lost, problem.Err),
		Remedy:  "restore from another backup, or the rows alone with --include-media=false; or let the files be missing, with restore --allow-incomplete",
	})
}

// putMedia puts the files of all units beside the live ones.
func (r *run) putMedia(ctx context.Context) error {
	var units []*unit
	var bytes int64
	for _, u := range r.alive() {
		if u.files != nil {
			units = append(units, u)
			bytes += u.entry.Media.Bytes
		}
	}
	if len(units) == 0 {
		return nil
	}
	r.Progress.Start("put media", len(units), bytes)
	defer r.Progress.Finish()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.Jobs)
	for _, u := range units {
		g.Go(func() error {
			err := r.stageMedia(ctx, u)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				u.fail(fmt.Errorf("put its files back: %w", err))
			}
			r.Progress.TenantDone(u.entry.Tenant, err)
			return nil
		})
	}
	return g.Wait()
}

func (r *run) stageMedia(ctx context.Context, u *unit) (err error) {
	archive, closer, err := r.openFiles(ctx, u)
	if err != nil {
		return err
	}
	defer closer.Close() //nolint:errcheck // it was only read
	f := u.files
	f.staged, err = r.Media.Stage(ctx, f.tenant, archive, r.Now(), media.PutOptions{
		LeaveOutLinks: r.LeaveOutLinks, Progress: func(n int64) { r.Progress.Add(n, 0) },
	})
	if err != nil {
		return err
	}
	f.move = &f.staged.Move
	for _, w := range f.staged.Warnings.List {
		u.note("file " + w.String())
	}
	return nil
}

// aim finds out, right before a swap, which folder the files of a unit replace.
func (r *run) aim(u *unit) (*media.Move, error) {
	if u.files == nil || u.files.move == nil {
		return nil, nil
	}
	m, err := r.Media.Aim(*u.files.move, r.Now())
	if err != nil {
		return nil, err
	}
	u.files.move = &m
	return &m, nil
}

// placeMedia gives the files of a unit that is live now the place of the others.
// What cannot be done is done by the next run, which finds it in the label of the
// replaced schema.
func (r *run) placeMedia(u *unit) {
	f := u.files
	if f == nil || f.move == nil {
		return
	}
	if err := r.Media.Place(*f.move); err != nil {
		u.problem(Problem{
			Kind: "MEDIA", Object: "folder " + f.move.Folder, Err: err,
			Remedy: fmt.Sprintf("the restored files are in %s below the media root: mend the cause, and tenantkeep cleanup puts them in place", f.move.Incoming),
		})
		return
	}
	f.placed = true
	u.releaseMedia()
}

// placeFree gives the files of a unit whose schema has a free place theirs, before
// the schema is shown: nothing in the database tells of it afterwards.
func (r *run) placeFree(u *unit) error {
	m, err := r.aim(u)
	if m == nil || err != nil {
		return err
	}
	if err := r.Media.Place(*m); err != nil {
		return err
	}
	u.files.placed = true
	if m.Out != 0 {
		u.note(fmt.Sprintf("its folder was there already: what was in it is kept as %s below the media root", m.Replaced))
	}
	return nil
}

func (u *unit) releaseMedia() {
	if u.files != nil && u.files.staged != nil {
		_ = u.files.staged.Release() // it ends with the process at the latest
	}
}

// undoMedia removes the files of units that failed, and gives the old ones their
// place back.
func (r *run) undoMedia(failed []*unit) error {
	var errs []error
	for _, u := range failed {
		f := u.files
		if f == nil || f.staged == nil {
			continue
		}
		if u.staged != "" { // it waits for its swap, with the schema
			u.releaseMedia()
			continue
		}
		if f.placed {
			errs = append(errs, r.Media.Revert(*f.move))
		}
		errs = append(errs, f.staged.Discard())
	}
	return errors.Join(errs...)
}

// movedMedia is where the folder of a unit is that was replaced; empty: none was.
func (u *unit) movedMedia() string {
	if u.files == nil || !u.files.placed || u.files.move.Out == 0 {
		return ""
	}
	return u.files.move.Replaced
}

// settleMedia completes what a restore that was killed, or could not finish, has
// left to be done with the folders of tenants, and removes what is of no use. It
// is for who holds the lock of the database.
func settleMedia(ctx context.Context, q pg.Querier, root *media.Root, note func(string)) error {
	if root == nil || root.Ready(ctx) != nil { // whoever needs it says so
		return nil
	}
	list, err := LeftMedia(ctx, q, root)
	if err != nil {
		return err
	}
	for _, l := range list {
		switch {
		case l.pending != nil:
			if err := root.Place(*l.pending); err != nil {
				return err
			}
			note(fmt.Sprintf("folder %s is in its place now, as an interrupted restore had meant it", l.pending.Folder))
		case l.Dead:
			if err := root.Remove(l.Name); err != nil {
				return err
			}
			note(fmt.Sprintf("removed folder %s, left by a restore that died", l.Name))
		}
	}
	return nil
}

// LeftFolder is a folder that a restore made or replaced.
type LeftFolder struct {
	media.Left
	Schema string // the schema of tenantkeep's own that it belongs to; empty: none
	Dead   bool   // it is of no use
	// Pending says that a schema was swapped, and its folder was not yet.
	Pending bool

	pending *media.Move
}

// LeftMedia lists the folders that restores made or replaced.
func LeftMedia(ctx context.Context, q pg.Querier, root *media.Root) ([]LeftFolder, error) {
	left, err := root.Left()
	if err != nil || len(left) == 0 {
		return nil, err
	}
	labels, err := listLabelled(ctx, q)
	if err != nil {
		return nil, err
	}
	var list []LeftFolder
	for _, l := range left {
		f := LeftFolder{Left: l}
		for i := range labels {
			m := labels[i].Media
			if m == nil {
				continue
			}
			if m.Incoming == l.Name && (labels[i].State == stateStaged || labels[i].State == stateReplaced) {
				f.Schema = labels[i].name
				if labels[i].State == stateReplaced {
					f.Pending, f.pending = true, m
				}
			}
			if m.Replaced == l.Name && labels[i].State == stateReplaced {
				f.Schema = labels[i].name
			}
		}
		f.Dead = f.Schema == "" && l.Kind == "staging" && !l.AtWork
		list = append(list, f)
	}
	return list, nil
}

// noteMedia is a note of settleMedia as a warning.
func (r *run) noteMedia(text string) { r.Progress.Note(slog.LevelWarn, "", text) }

// backMedia finds out how the folder goes back with a replaced schema. Nil: it
// does not.
func (r *rollback) backMedia(back Replaced) (*media.Move, error) {
	if back.media == nil || r.RowsOnly {
		return nil, nil
	}
	if r.Media == nil {
		return nil, &UnsupportedError{
			Reason: fmt.Sprintf("the restore of %q replaced its media folder too, and nothing says where that is", back.Schema),
			Remedy: "name the directory of the tenants' folders with --media-root, or undo the rows only with --include-media=false",
		}
	}
	m := media.Move{Folder: back.media.Folder}
	if back.media.Out != 0 {
		m.Incoming = back.media.Replaced
	}
	m, err := r.Media.Aim(m, r.Now())
	if err != nil {
		return nil, fmt.Errorf("schema %q: %w", back.Schema, err)
	}
	return &m, nil
}

// placeMedia lets the folder follow a schema that is live again.
func (r *rollback) placeMedia(x *exchange) error {
	if x.label.Media == nil {
		return nil
	}
	if err := r.Media.Place(*x.label.Media); err != nil {
		return fmt.Errorf("schema %q is live again, but its files are not yet: %w", x.live.name, err)
	}
	return nil
}

// findFolders finds the folders that go: those of schemas that are dropped, and
// those that belong to no schema and are old enough or of no use.
func (o *DropOptions) findFolders(ctx context.Context, q pg.Querier, schemas []Dropped) ([]Dropped, error) {
	if o.Media == nil || o.Media.Ready(ctx) != nil {
		return nil, nil
	}
	left, err := LeftMedia(ctx, q, o.Media)
	if err != nil {
		return nil, err
	}
	var list []Dropped
	for _, l := range left {
		goes := slices.ContainsFunc(schemas, func(d Dropped) bool { return d.Name == l.Schema })
		if l.Pending || l.AtWork || !goes && !l.Dead && (l.Schema != "" || !l.At.Before(o.Before)) {
			continue
		}
		d := Dropped{Name: l.Name, Schema: l.Schema, Kind: KindFolder, At: l.At}
		if o.Only == nil || o.Only(d) {
			list = append(list, d)
		}
	}
	return list, nil
}

// dropFolders removes folders, now that their schemas are gone.
func (o *DropOptions) dropFolders(ctx context.Context, q pg.Querier, schemas, folders []Dropped) ([]Dropped, error) {
	if err := settleMedia(ctx, q, o.Media, func(string) {}); err != nil {
		return schemas, err
	}
	for _, d := range folders {
		i := slices.IndexFunc(schemas, func(s Dropped) bool { return s.Name == d.Schema })
		if i >= 0 && len(schemas[i].Dependents) > 0 {
			continue
		}
		if err := o.Media.Remove(d.Name); err != nil {
			return schemas, err
		}
		schemas = append(schemas, d)
	}
	return schemas, nil
}
