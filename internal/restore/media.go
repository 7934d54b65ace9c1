package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/media"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/repo"
)

// files are those of a unit on their way back.
type files struct {
	tenant media.Tenant // whose folder it becomes
	move   *media.Move  // nil: they are not staged yet
	placed bool
	// occupied says that there are files in the folder before.
	occupied bool
	// shared says that they are those of core, of which the missing ones are added.
	shared bool
}

// Existing says what becomes of a folder with files that is there already.
type Existing string

// Without a choice a folder is replaced together with its schema, if the backup is of
// the same database, and stops the restore otherwise: it may well be that of another
// database, or all that is left of the tenant.
const (
	ExistingKept     Existing = "keep"    // it stays as it is, and the files of the backup are left out
	ExistingReplaced Existing = "replace" // it is kept beside the restored one, as a replaced one is
)

// PlannedMedia is what is going to happen to the files of a tenant.
type PlannedMedia struct {
	Files, Bytes int64
	Stored       int64  // in the archive of the backup itself
	Folder       string // where they come
	Replaces     bool   // there is such a folder now
	Kept         bool   // it has files and stays as it is, so that those of the backup are left out
	Adds         bool   // only files that are missing come there
}

// leadsOutRemedy is what to do about links that are refused.
const leadsOutRemedy = "restore with --leave-out-links, which leaves such links out"

// media checks the archives of the files that are to be put back.
func (p *checker) media(ctx context.Context) error {
	if p.Media == nil || p.RowsOnly || p.Resume {
		return nil
	}
	if !p.Manifest.IncludeMedia {
		p.plan.Warnings = append(p.plan.Warnings, "the backup was taken without media: the files of tenants stay as they are")
		return nil
	}
	if err := p.Media.Ready(ctx); err != nil {
		p.findRoot(err)
		return nil
	}
	if err := p.apart(ctx); err != nil {
		return err
	}
	var needed int64
	var free, unfinished, foreign []string // tenants with files that are in the way
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
		if u.files != nil && u.files.occupied && p.Existing == "" {
			name := strconv.Quote(u.newName(p.As))
			switch {
			case u.core:
				p.addsToOthers()
			case u.live == nil:
				free = append(free, name)
			case u.live.unfinished():
				unfinished = append(unfinished, name)
			case !p.sameDatabase():
				foreign = append(foreign, name)
			}
		}
	}
	p.findExisting(free, fmt.Sprintf("and database %q has no such %s", p.info.Name, english.PluralWord(len(free), "schema", "")))
	p.findExisting(unfinished, fmt.Sprintf("and in database %q a restore of %s has not ended", p.info.Name, english.PluralWord(len(unfinished), "that schema", "these schemas")))
	p.findExisting(foreign, p.otherDatabase())
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

// findRoot is a finding about the media root.
func (p *checker) findRoot(err error) {
	f := Finding{Problem: err.Error(), Err: err}
	if hinted, ok := errors.AsType[*media.RootError](err); ok {
		f.Remedy = hinted.Hint()
	}
	p.find(f)
}

// findExisting says that there are files of tenants already, and why that is odd.
func (p *checker) findExisting(schemas []string, why string) {
	if len(schemas) == 0 {
		return
	}
	p.find(Finding{
		Problem: fmt.Sprintf("there is a folder with files of %s in %s already, %s", some(schemas), p.Media.Dir(), why),
		Remedy: "if these files are those of another database, give --include-media=false, or another directory with --media-root; " +
			"--existing-media keep restores the rows and leaves such folders as they are, and --existing-media replace keeps them beside the restored ones as …__replaced_…",
	})
}

// sameDatabase reports whether the backup is known to be of the target. The original
// system does not say of which database its own are.
func (p *checker) sameDatabase() bool {
	d := p.Manifest.Database
	return d != nil && d.Name == p.info.Name &&
		(d.SystemIdentifier == p.info.SystemIdentifier || d.SystemIdentifier == "" || p.info.SystemIdentifier == "")
}

// otherDatabase says that the backup is not known to be of the target.
func (p *checker) otherDatabase() string {
	if p.Manifest.Database == nil {
		return fmt.Sprintf("and nothing says whether the backup is of database %q", p.info.Name)
	}
	return fmt.Sprintf("and the backup is of another database than %q", p.info.Name)
}

// addsToOthers warns of files of core that come to those of another database, perhaps.
// Nothing is overwritten by them, and they may be what is missing of a restore that was
// interrupted.
func (p *checker) addsToOthers() {
	if !p.sameDatabase() {
		p.plan.Warnings = append(p.plan.Warnings, fmt.Sprintf("there are files in %s that belong to no tenant, %s: those that are missing are added to them, unless --include-media=false or --existing-media keep says no",
			p.Media.Dir(), p.otherDatabase()))
	}
}

// apart makes sure that no folder that is to be written to is that of another schema
// of the database, by any of the names that are known of it.
func (p *checker) apart(ctx context.Context) error {
	rows, err := p.main.Query(ctx, `SELECT nspname::text FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'`)
	if err != nil {
		return fmt.Errorf("list schemas: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("list schemas: %w", err)
	}
	var tenants, others []media.Tenant
	for _, u := range p.archived() {
		if !u.core {
			tenants = append(tenants, p.tenant(u))
		}
	}
	there := map[string]bool{}
	for _, name := range names {
		if name != manifest.CoreSchema && !pg.IsOwn(name) {
			there[name] = true
			others = append(others, media.Tenant{Schema: name, Name: name})
		}
	}
	for _, e := range p.Manifest.Schemas {
		if there[e.Schema] {
			others = append(others, media.Tenant{Schema: e.Schema, Name: e.Tenant})
		}
	}
	if err := p.Media.Apart(tenants, others); err != nil {
		p.findRoot(err)
	}
	p.tenants = slices.Concat(tenants, others)
	for _, e := range p.Manifest.Schemas {
		if !e.IsCore() {
			p.tenants = append(p.tenants, media.Tenant{Schema: e.Schema, Name: e.Tenant})
		}
	}
	return nil
}

// tenant is whose folder the files of a unit become.
func (r *run) tenant(u *unit) media.Tenant {
	if r.As != "" {
		return media.Tenant{Schema: r.As, Name: r.As}
	}
	return media.Tenant{Schema: u.entry.Schema, Name: u.entry.Tenant}
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
	case u.core && e.Media.Files == 0:
		return 0, nil
	}
	f, planned, err := p.place(u)
	if err != nil {
		return 0, err
	}
	planned.Files, planned.Bytes, planned.Stored = e.Media.Files, e.Media.Bytes, e.Media.Size
	p.plannedSchema(u).Media = planned
	if f.occupied && p.Existing == ExistingKept {
		planned.Kept, planned.Replaces, planned.Adds = true, false, false
		u.note(fmt.Sprintf("there are files in %s already: they stay as they are, and those of the backup are not put back", planned.Folder))
		return 0, nil
	}
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
	if u.core { // only what is missing is added, and nothing replaced
		u.note(fmt.Sprintf("%s could not be saved when the backup was taken, the first: %s", lost, m.Failures[0]))
		return
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

// place is where the files of a unit come, and what is there now.
func (p *checker) place(u *unit) (*files, *PlannedMedia, error) {
	if u.core {
		occupied, err := p.Media.SharedFiles(p.tenants)
		return &files{shared: true, occupied: occupied}, &PlannedMedia{Folder: p.Media.Dir(), Adds: true}, err
	}
	f := &files{tenant: p.tenant(u)}
	location, err := p.Media.Location(f.tenant)
	if err != nil {
		return nil, nil, err
	}
	occupied, there, err := p.Media.Occupied(f.tenant)
	f.occupied = occupied
	return f, &PlannedMedia{Folder: location, Replaces: there}, err
}

// resumeMedia finds the files that wait with a staged schema. The name of their move
// is empty where there are none.
func (p *checker) resumeMedia(u *unit, name string) error {
	if name == "" {
		return nil
	}
	if p.Media == nil || p.RowsOnly || u.entry.Media == nil {
		return errors.New("nothing says where they are")
	}
	move, err := p.Media.Move(name)
	if err != nil {
		return err
	}
	if move.Schema != u.target {
		return fmt.Errorf("the move %s is of schema %q", name, move.Schema)
	}
	u.files = &files{move: move}
	return nil
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
	o := media.PutOptions{LeaveOutLinks: r.LeaveOutLinks, Progress: func(n int64) { r.Progress.Add(n, 0) }}
	if f.shared {
		added, err := r.Media.AddShared(ctx, archive, r.tenants, r.Now(), o)
		if err != nil {
			return err
		}
		u.note(fmt.Sprintf("of the media files that belong to no tenant %s missing and %[2]s back",
			english.Plural(int(added.Files), "was", "were"), english.PluralWord(int(added.Files), "is", "are")))
		if added.Kept > 0 {
			u.note(fmt.Sprintf("%s there already and %s as before: those of the backup can be taken out of %s with tar",
				english.Plural(int(added.Kept), "media file is", "media files are"), english.PluralWord(int(added.Kept), "stays", "stay"), u.entry.MediaBackup))
		}
		noteAll(u, added.Warnings)
		return nil
	}
	move, put, err := r.Media.Stage(ctx, f.tenant, archive, r.Now(), o)
	if err != nil {
		return err
	}
	f.move = move
	noteAll(u, put.Warnings)
	return nil
}

func noteAll(u *unit, warnings media.Problems) {
	for _, w := range warnings.List {
		u.note("file " + w.String())
	}
}

// aim finds out, right before a swap, which folder the files of a unit replace, and
// returns the name of the move for the label; empty: there is none.
func (r *run) aim(u *unit) (string, error) {
	if u.files == nil || u.files.move == nil {
		return "", nil
	}
	return u.files.move.Name, u.files.move.Aim(r.Now(), false)
}

// placeMedia gives the files of a unit that is live now the place of the others.
// What cannot be done is done by the next run, which finds it in the label of the
// replaced schema.
func (r *run) placeMedia(u *unit) {
	f := u.files
	if f == nil || f.move == nil {
		return
	}
	err := f.move.Place(r.Now())
	f.placed = err == nil
	if err == nil {
		err = f.move.Done(r.Now())
	}
	if err != nil {
		u.problem(Problem{
			Kind: "MEDIA", Object: "folder " + f.move.Folder, Err: err,
			Remedy: fmt.Sprintf("the restored files are in %s below the media root: mend the cause, and tenantkeep cleanup puts them in place", f.move.Incoming),
		})
		u.releaseMedia()
	}
}

// placeFree gives the files of a unit whose schema has a free place theirs, before
// the schema is shown.
func (r *run) placeFree(u *unit) error {
	f := u.files
	if f == nil || f.move == nil {
		return nil
	}
	if err := f.move.Aim(r.Now(), true); err != nil {
		return err
	}
	f.placed = true // or in part, which is undone as well
	return f.move.Place(r.Now())
}

// confirmFree notes that a schema appeared whose files have their place.
func (r *run) confirmFree(u *unit) {
	if u.files == nil || u.files.move == nil {
		return
	}
	if u.files.occupied {
		u.note(fmt.Sprintf("its folder was there already: what was in it is kept as %s below the media root", u.files.move.Replaced))
	}
	if err := u.files.move.Done(r.Now()); err != nil { // the next run sees that the schema is there
		r.Progress.Note(slog.LevelWarn, u.entry.Tenant, err.Error())
		u.releaseMedia()
	}
}

func (u *unit) releaseMedia() {
	if u.files != nil && u.files.move != nil {
		_ = u.files.move.Release() // it ends with the process at the latest
	}
}

// undoMedia removes the files of units that failed, and gives the old ones their
// place back. marked are the schemas that are not finished, as their comments say:
// where the answer to the last commit was lost, the schema may be there.
func (r *run) undoMedia(failed []*unit, marked []remainder) error {
	var errs []error
	for _, u := range failed {
		f := u.files
		if f == nil || f.move == nil {
			continue
		}
		made := slices.ContainsFunc(marked, func(m remainder) bool { return m.schema == u.place(u.entry.Schema) })
		switch {
		case f.placed && !made:
			r.confirmFree(u)
		case u.staged != "" || u.resumed || !made: // it waits with its schema, or was swapped in with it
			u.releaseMedia()
		default:
			err := f.move.Revert()
			if err == nil {
				err = f.move.Discard(r.Now())
			}
			u.releaseMedia()
			errs = append(errs, err)
		}
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

// folders is what the database and the media root together tell of the folders that
// restores moved.
type folders struct {
	moves  []*media.Move
	labels map[string]labelled // of schemas of tenantkeep's own, by the name of the move
	shown  map[string]bool     // schemas that are there, and finished
	// making are the schemas that restores were at work on, by the name that they
	// were to get.
	making map[string][]string
}

// bindMedia is the media root for one database. Nil stays nil.
func bindMedia(ctx context.Context, q pg.Querier, root *media.Root) (*media.Root, error) {
	if root == nil {
		return nil, nil
	}
	id, err := pg.Identity(ctx, q)
	if err != nil {
		return nil, err
	}
	return root.Of(id), nil
}

// readFolders looks at both. A root that is not there has no moves.
func readFolders(ctx context.Context, q pg.Querier, root *media.Root) (*folders, error) {
	f := &folders{labels: map[string]labelled{}, shown: map[string]bool{}, making: map[string][]string{}}
	root, err := bindMedia(ctx, q, root)
	if err != nil || root == nil || root.Ready(ctx) != nil {
		return f, err
	}
	if f.moves, err = root.Moves(); err != nil || len(f.moves) == 0 {
		return f, err
	}
	labels, err := listLabelled(ctx, q)
	if err != nil {
		return nil, err
	}
	schema := map[string]string{}
	for _, m := range f.moves {
		schema[m.Name] = m.Schema
	}
	for _, l := range labels {
		if l.Media != "" && schema[l.Media] == l.Schema {
			f.labels[l.Media] = l
		}
		if l.State == stateStaging {
			f.making[l.Schema] = append(f.making[l.Schema], l.name)
		}
	}
	rows, err := q.Query(ctx, `SELECT nspname::text, coalesce(pg_catalog.obj_description(oid, 'pg_namespace'), '') FROM pg_catalog.pg_namespace`)
	if err != nil {
		return nil, fmt.Errorf("list schemas: %w", err)
	}
	var name, comment string
	_, err = pgx.ForEachRow(rows, []any{&name, &comment}, func() error {
		if _, marked := pg.Unfinished(comment); marked {
			f.making[name] = append(f.making[name], name)
		} else {
			f.shown[name] = true
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list schemas: %w", err)
	}
	return f, nil
}

// pending reports whether a schema was swapped, or came back, and its folder has not
// followed it yet.
func (f *folders) pending(m *media.Move) bool {
	if !m.Placed.IsZero() {
		return false
	}
	l, labelled := f.labels[m.Name]
	return labelled && l.State == stateReplaced || !labelled && m.Free && !m.Stages() && f.shown[m.Schema]
}

// settling says how to settle what was interrupted.
type settling struct {
	at   time.Time
	note func(string)
	// removes reports whether what a dead restore made in the database, a schema of
	// that name, is about to be removed.
	removes func(schema string) bool
	// replaces reports whether such a schema is about to be replaced, and kept: somebody
	// may have gone on in it. Nil: none is.
	replaces func(schema string) bool
	// needs reports whether a schema must be settled to go on.
	needs func(schema string) bool
	only  string // a schema, of which alone this may be done; empty: all
}

// settleMedia completes what a restore that was killed, or could not finish, has
// left to be done with the folders of tenants, and removes what is of no use. It
// is for who holds the lock of the database.
func settleMedia(ctx context.Context, q pg.Querier, root *media.Root, s settling) error {
	f, err := readFolders(ctx, q, root)
	if err != nil {
		return err
	}
	if s.only == "" && root != nil && root.Ready(ctx) == nil {
		if err := root.RemoveShared(); err != nil {
			return err
		}
	}
	for _, m := range f.moves {
		if s.only != "" && m.Schema != s.only {
			continue
		}
		if busy, err := m.AtWork(); err != nil || busy {
			if err != nil {
				return err
			}
			continue
		}
		err := f.settle(m, s)
		switch {
		case err == nil:
		case s.needs(m.Schema):
			return fmt.Errorf("complete what an earlier restore of %q has left to be done with its files: %w", m.Schema, err)
		default:
			s.note(fmt.Sprintf("what an earlier restore of %q has left to be done with its files is still to be done: %v", m.Schema, err))
		}
	}
	return nil
}

func (f *folders) settle(m *media.Move, s settling) error {
	_, labelled := f.labels[m.Name]
	switch {
	case f.pending(m):
		if err := m.Place(s.at); err != nil {
			return err
		}
		text := fmt.Sprintf("folder %s is in its place now, as an interrupted restore had meant it", m.Folder)
		if m.Out != 0 {
			text += fmt.Sprintf("; what was there until now, with all that was written into it since, is kept as %s", m.Replaced)
		}
		s.note(text)
		return m.Done(s.at)
	case labelled:
		return nil
	case !m.Placed.IsZero():
		left, err := m.Left()
		if err != nil || left.Replaced != "" {
			return err
		}
		return m.Forget()
	case m.Free && m.Stages():
		return f.settleFree(m, s)
	}
	return discard(m, s)
}

// settleFree settles a move for a schema whose place was free.
func (f *folders) settleFree(m *media.Move, s settling) error {
	inPlace, err := m.InPlace()
	if err != nil {
		return err
	}
	making := f.making[m.Schema]
	removed := !f.shown[m.Schema] && slices.ContainsFunc(making, s.removes)
	switch {
	case inPlace && !f.shown[m.Schema] && s.replaces != nil && s.replaces(m.Schema):
		if err := m.Undo(s.at); err != nil {
			return err
		}
		s.note(fmt.Sprintf("folder %s is again what it was before a restore that died; what that one had put there is kept beside it, until cleanup removes it", m.Folder))
		return nil
	case inPlace && !removed && !f.shown[m.Schema] && len(making) > 0: // whoever removes the schema decides
		return nil
	case inPlace && !removed:
		return errors.Join(m.Place(s.at), m.Done(s.at))
	}
	if err := m.Revert(); err != nil {
		return err
	}
	return discard(m, s)
}

// discard gives up a move that came to nothing.
func discard(m *media.Move, s settling) error {
	left, err := m.Left()
	if err != nil {
		return err
	}
	inPlace, err := m.InPlace()
	if err != nil {
		return err
	}
	if inPlace || left.Replaced != "" && !m.Stages() { // interrupted, and nothing is in the database that tells of it
		return errors.Join(m.Place(s.at), m.Done(s.at))
	}
	if err := m.Revert(); err != nil {
		return err
	}
	if err := m.Discard(s.at); err != nil {
		return err
	}
	if left.Staging != "" {
		s.note(fmt.Sprintf("removed folder %s, left by a restore that died", left.Staging))
	}
	return nil
}

// LeftFolder is a folder that a restore made or replaced.
type LeftFolder struct {
	Name   string // below the media root
	At     time.Time
	Schema string // the schema of tenantkeep's own that it belongs to; empty: none
	Tenant string // the schema whose files are in it
	Dead   bool   // it is of no use
	// Pending says that a schema was swapped, and its folder was not yet.
	Pending bool
	AtWork  bool // somebody is at work on it at this moment

	move    *media.Move
	staged  bool
	settled bool // nothing is left to be done
}

// LeftMedia lists the folders that restores made or replaced.
func LeftMedia(ctx context.Context, q pg.Querier, root *media.Root) ([]LeftFolder, error) {
	f, err := readFolders(ctx, q, root)
	if err != nil {
		return nil, err
	}
	var list []LeftFolder
	returns := map[string]bool{} // replaced folders that are about to be live again
	for _, m := range f.moves {
		left, err := m.Left()
		if err != nil {
			return nil, err
		}
		one := LeftFolder{At: m.At, Tenant: m.Schema, Pending: f.pending(m), move: m, settled: !m.Placed.IsZero()}
		l, labelled := f.labels[m.Name]
		if labelled {
			one.Schema = l.name
		}
		if one.AtWork, err = m.AtWork(); err != nil {
			return nil, err
		}
		if one.Pending {
			one.Name = cmp.Or(left.Staging, left.Returns, m.Folder)
			returns[left.Returns] = true
			list = append(list, one)
		} else if left.Staging != "" {
			one.Name, one.staged, one.Dead = left.Staging, true, !labelled && !one.AtWork
			list = append(list, one)
		}
		if left.Replaced != "" {
			one.Name, one.staged, one.Dead, one.Pending = left.Replaced, false, false, false
			if one.settled {
				one.At = m.Placed
			}
			list = append(list, one)
		}
	}
	return slices.DeleteFunc(list, func(l LeftFolder) bool { return returns[l.Name] && !l.Pending }), nil
}

// noteMedia is a note of settleMedia as a warning.
func (r *run) noteMedia(text string) { r.Progress.Note(slog.LevelWarn, "", text) }

// settleMedia settles what earlier restores have left.
func (r *run) settleMedia(ctx context.Context) error {
	s := settling{
		at: r.Now(), note: r.noteMedia,
		removes: func(schema string) bool {
			return slices.ContainsFunc(r.remains, func(m remainder) bool { return m.schema == schema })
		},
		replaces: func(schema string) bool {
			return slices.ContainsFunc(r.units, func(u *unit) bool { return u.live != nil && u.live.name == schema && u.live.unfinished() })
		},
		needs: func(schema string) bool {
			return slices.ContainsFunc(r.units, func(u *unit) bool { return r.tenant(u).Schema == schema })
		},
	}
	if r.New { // others make new tenants meanwhile
		s.only = r.As
	}
	return settleMedia(ctx, r.main, r.Media, s)
}

// settleMedia settles what restores have left.
func (r *rollback) settleMedia(ctx context.Context) error {
	return settleMedia(ctx, r.conn, r.Media, settling{
		at: r.Now(), note: r.note, removes: func(string) bool { return false },
		needs: func(schema string) bool {
			return slices.ContainsFunc(r.backs, func(b Replaced) bool { return b.Schema == schema })
		},
	})
}

// settleMedia settles what restores have left, before the labels go that tell of it.
func (o *DropOptions) settleMedia(ctx context.Context, q pg.Querier) error {
	s := settling{
		at: time.Now(), note: o.Note, needs: func(string) bool { return false },
		removes: func(schema string) bool {
			return pg.IsOwn(schema) && (o.Only == nil || o.Only(Dropped{Name: schema}))
		},
	}
	if s.note == nil {
		s.note = func(string) {}
	}
	return settleMedia(ctx, q, o.Media, s)
}

// backMedia finds out how the folder goes back with a replaced schema. Nil: it
// does not.
func (r *rollback) backMedia(back Replaced, live bool) (*media.Move, error) {
	if back.media == "" || r.RowsOnly {
		return nil, nil
	}
	const rowsOnly = "undo the rows only with --include-media=false"
	if r.Media == nil {
		return nil, &UnsupportedError{
			Reason: fmt.Sprintf("the restore of %q replaced its media folder too, and nothing says where that is", back.Schema),
			Remedy: "name the directory of the tenants' folders with --media-root, or " + rowsOnly,
		}
	}
	earlier, err := r.Media.Move(back.media)
	if err == nil && earlier.Schema != back.Schema {
		err = fmt.Errorf("the move %s is of schema %q", back.media, earlier.Schema)
	}
	if err != nil {
		return nil, &UnsupportedError{
			Reason: fmt.Sprintf("the restore of %q replaced its media folder too: %v", back.Schema, err),
			Remedy: "name the directory in which that was with --media-root, or " + rowsOnly,
		}
	}
	m, err := earlier.Back(r.Now(), !live)
	if err != nil {
		return nil, fmt.Errorf("schema %q: %w", back.Schema, err)
	}
	return m, nil
}

// placeMedia lets the folder follow a schema that is live again.
func (r *rollback) placeMedia(x *exchange) error {
	if x.move == nil {
		return nil
	}
	if err := x.move.Place(r.Now()); err != nil {
		return fmt.Errorf("schema %q is live again, but its files are not yet: %w", x.live.name, err)
	}
	return x.move.Done(r.Now())
}

// since is when a schema, and its folder where that followed later, was replaced.
func (l *labelled) since(left []LeftFolder) time.Time {
	at := l.At
	for _, f := range left {
		if f.Schema == l.name && f.At.After(at) {
			at = f.At
		}
	}
	return at
}

// waits says why a schema must stay although it is old enough to go: with its label
// goes what is known of its folder. Empty: nothing.
func (o *DropOptions) waits(l *labelled, left []LeftFolder) string {
	if l.Media == "" {
		return ""
	}
	if o.Media == nil {
		return "a media folder belongs to it, and nothing says where that is: name the directory of the tenants' folders with --media-root"
	}
	move, err := o.Media.Move(l.Media)
	switch {
	case err != nil:
		return fmt.Sprintf("a media folder belongs to it: %v; if that is not to be had any more, drop the schema by hand", err)
	case slices.ContainsFunc(left, func(f LeftFolder) bool { return f.Pending && f.Schema == l.name }):
		return fmt.Sprintf("folder %s has not taken its place yet", move.Incoming)
	}
	return ""
}

// findFolders finds the folders that go: those of schemas that are dropped, and
// those that belong to no schema and are old enough or of no use.
func (o *DropOptions) findFolders(left []LeftFolder, schemas []Dropped) []Dropped {
	var list []Dropped
	for _, l := range left {
		goes := slices.ContainsFunc(schemas, func(d Dropped) bool { return d.Name == l.Schema && d.Waits == "" })
		if l.Pending || l.AtWork || !l.staged && !l.settled || !goes && !l.Dead && (l.Schema != "" || !l.At.Before(o.Before)) {
			continue
		}
		d := Dropped{Name: l.Name, Schema: l.Schema, Kind: KindFolder, At: l.At, folder: l}
		if o.Only == nil || o.Only(d) {
			list = append(list, d)
		}
	}
	return list
}

// dropFolders removes folders, now that their schemas are gone.
func (o *DropOptions) dropFolders(schemas, folders []Dropped) ([]Dropped, error) {
	for _, d := range folders {
		i := slices.IndexFunc(schemas, func(s Dropped) bool { return s.Name == d.Schema })
		if i >= 0 && len(schemas[i].Dependents) > 0 {
			continue
		}
		remove := d.folder.move.RemoveReplaced
		if d.folder.staged {
			remove = d.folder.move.Discard
		}
		if err := remove(time.Now()); err != nil {
			return schemas, err
		}
		schemas = append(schemas, d)
	}
	return schemas, nil
}
