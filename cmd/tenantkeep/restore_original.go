package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"sync"

	"github.com/spf13/cobra"

	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/plainsql"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/restore"
	"github.com/tenantkeep/tenantkeep/internal/storage"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// originalRestore is a restore from a backup of the original system, whose files
// are scripts of pg_dump. Each is run by itself, as one of --backup-file is.
type originalRestore struct {
	*app
	opts    RestoreOptions
	from    place
	backup  repo.Backup
	options restore.Options
	entries []manifest.Schema // that are restored, core first
	scripts []restore.Script  // of the entries
	objects []storage.Object  // of the scripts
}

// restoreOriginal restores from a backup of the original system.
func (a *app) restoreOriginal(ctx context.Context, cmd *cobra.Command, cfg *config.Config, opts RestoreOptions, target *pg.Server, places []place, from place, b repo.Backup) error {
	files, rowsOnly, err := opts.media(cfg, b.Manifest)
	if err != nil {
		return err
	}
	r := &originalRestore{app: a, opts: opts, from: from, backup: b, options: a.scriptOptions(cmd, cfg, opts, target, from.Repo, places[1], files, rowsOnly)}
	if err := r.choose(); err != nil {
		return err
	}
	if fails := b.Manifest.Failures; len(fails) > 0 && len(opts.Schemas) == 0 {
		a.ui().Warnf("backup %s is partial: schema %s is not restored: %s", ui.Safe(b.ID), ui.Safe(fails[0].Schema), fails[0].Error)
	}
	if b.Bare {
		a.ui().Warnf("backup %s has no manifest: there are no hashes to compare its files with, only their ends show whether they are whole", ui.Safe(b.ID))
	}
	defer r.close()
	if err := r.open(ctx); err != nil {
		return err
	}
	if len(r.scripts) == 1 {
		o := r.options
		o.Schemas = []string{r.entries[0].Schema}
		o.Confirm = func(p *restore.Plan) error { return a.confirmRestore(ctx, p, opts) }
		return r.explain(a.runScript(ctx, o, opts, r.scripts[0]))
	}
	return r.runAll(ctx)
}

// choose finds the entries that are asked for, core first, and refuses what a
// dump cannot do.
func (r *originalRestore) choose() error {
	m := r.backup.Manifest
	switch {
	case m.DefinitionsOnly():
		return &hintedError{
			err:  fmt.Errorf("backup %s is an incremental of the original system: it has definitions and no rows", r.backup.ID),
			hint: "restore a full backup. To look at a file of this one: tenantkeep restore --backup-file FILE --as NAME",
		}
	case len(r.opts.Tables) > 0:
		return &usageError{
			err:  fmt.Errorf("--table does not work with backup %s of the original system", r.backup.ID),
			hint: "restore the schema under another name with --as, and copy what you need from there",
		}
	}
	wanted := map[string]bool{} // names of schemas
	for _, name := range r.opts.Schemas {
		one, err := entryNamed(r.backup, name)
		if err != nil {
			return err
		}
		wanted[one.Schema] = true
	}
	for _, e := range m.Schemas {
		if len(wanted) == 0 || wanted[e.Schema] {
			r.entries = append(r.entries, e)
		}
	}
	if len(r.entries) == 0 {
		return fmt.Errorf("backup %s holds nothing that is whole", r.backup.ID)
	}
	slices.SortStableFunc(r.entries, func(x, y manifest.Schema) int {
		switch {
		case x.IsCore() == y.IsCore():
			return 0
		case x.IsCore():
			return -1
		}
		return 1
	})
	return nil
}

// open opens the files.
func (r *originalRestore) open(ctx context.Context) error {
	m := r.backup.Manifest
	unhashed := 0
	for _, e := range r.entries {
		hash, err := e.Digest(m.Format)
		if err != nil {
			return fmt.Errorf("schema %q: %w", e.Schema, err)
		}
		if hash == "" {
			unhashed++
		}
		object, err := r.from.Repo.OpenData(ctx, m, e)
		if err != nil {
			return r.explain(err)
		}
		r.objects = append(r.objects, object)
		r.scripts = append(r.scripts, restore.Script{
			Source: object, Size: object.Size(), Name: nameOf(m, e), Time: takenAt(m, e), Hash: hash, Tenant: e.Tenant,
		})
		if err := r.openFiles(ctx, e, &r.scripts[len(r.scripts)-1]); err != nil {
			return err
		}
	}
	if unhashed > 0 && !r.backup.Bare {
		r.ui().Warnf("the manifest of backup %s has no hash for %s: only the size and the end show whether it is whole", ui.Safe(r.backup.ID), ui.Plural(int64(unhashed), "file"))
	}
	return nil
}

// openFiles opens the archive of the files of an entry, if it has one and they are to
// be put back.
func (r *originalRestore) openFiles(ctx context.Context, e manifest.Schema, s *restore.Script) error {
	if r.options.Media == nil || r.options.RowsOnly || e.MediaBackup == "" {
		return nil
	}
	object, err := r.from.Repo.OpenMedia(ctx, r.backup.Manifest, e)
	if err != nil {
		return &hintedError{err: err, hint: "put the archive there, or restore the rows alone with --include-media=false; files that lie there in a folder are to be copied by hand"}
	}
	r.objects = append(r.objects, object)
	s.Files, s.FilesSize = object, object.Size()
	s.FilesName, err = e.MediaKey(r.backup.Manifest.Format)
	return err
}

// nameOf is the name of the file of an entry, whatever path stands before it.
func nameOf(m *manifest.Manifest, e manifest.Schema) string {
	key, err := e.Key(m.Format)
	if err != nil {
		key = e.Filepath
	}
	return path.Base(key)
}

func (r *originalRestore) close() {
	for _, o := range r.objects {
		_ = o.Close() // it was only read
	}
}

// hintOtherFile is what to do about a file with another size or hash.
const hintOtherFile = "the file is not the one that the manifest describes: restore another backup. " +
	"If you know what it is, copy it out of the repository and give the copy as --backup-file"

// explain says what to do about a file that is not what its manifest says.
func (r *originalRestore) explain(err error) error {
	wrong, ok := errors.AsType[*repo.DataError](err)
	if !ok {
		return err
	}
	i := slices.IndexFunc(r.entries, func(e manifest.Schema) bool { return e.Schema == wrong.Schema })
	if i < 0 {
		return err
	}
	hint := hintOtherFile
	switch {
	case errors.Is(err, repo.ErrHash), errors.Is(err, repo.ErrSize):
	case !errors.Is(err, repo.ErrMissing):
		return err
	default:
		hint = fmt.Sprintf("the manifest names %s, which is looked for as %s in %s and nowhere else: put it there, or give it as --backup-file",
			ui.Safe(r.entries[i].Filepath), ui.Safe(wrong.Key), ui.Safe(r.from.Repo.Location()))
	}
	return &hintedError{err: err, hint: hint}
}

// runAll restores several schemas. All that can be checked beforehand is checked
// of all of them before the first is touched.
func (r *originalRestore) runAll(ctx context.Context) error {
	progress := &tellOnce{Progress: r.options.Progress, told: map[string]bool{}}
	r.options.Progress = progress
	plan, live, err := r.plan(ctx)
	if err != nil {
		return r.explain(err)
	}
	if r.opts.DryRun {
		return r.showPlan(plan, r.opts)
	}
	if err := r.confirmRestore(ctx, plan, r.opts); err != nil {
		return err
	}
	progress.second = true
	began := r.now()
	sum := &restore.Result{Plan: plan}
	var failed []error
	for i, s := range r.scripts {
		o := r.options
		o.Schemas, o.Asks = []string{r.entries[i].Schema}, false
		o.Confirm = func(p *restore.Plan) error {
			if one := p.Schemas[0]; one.Live != nil && !live[one.Schema] {
				return fmt.Errorf("schema %s was made meanwhile: it would be replaced, and nobody was asked", one.Schema)
			}
			return nil
		}
		result, err := restore.RunScript(ctx, o, s)
		sum.Tenants = append(sum.Tenants, result.Tenants...)
		sum.Tables, sum.Rows, sum.Bytes = sum.Tables+result.Tables, sum.Rows+result.Rows, sum.Bytes+result.Bytes
		if err != nil {
			failed = append(failed, r.explain(err))
		}
		if err != nil && (r.entries[i].IsCore() || ctx.Err() != nil) {
			break // tenants need core
		}
	}
	sum.Seconds = r.now().Sub(began).Seconds()
	if len(sum.Tenants) > 0 {
		if err := r.showRestore(sum, r.opts); err != nil {
			return err
		}
	}
	switch err := errors.Join(failed...); {
	case err == nil, ctx.Err() != nil, !slices.ContainsFunc(sum.Tenants, func(t restore.TenantResult) bool { return t.Err == nil }):
		return err
	default:
		return &partialError{err}
	}
}

// plan checks all scripts and puts their plans together. live are the schemas
// that are going to be replaced.
func (r *originalRestore) plan(ctx context.Context) (sum *restore.Plan, live map[string]bool, err error) {
	live = map[string]bool{}
	kinds := map[string]int{}
	var errs []error
	for i, s := range r.scripts {
		o := r.options
		o.Schemas, o.DryRun, o.Confirm = []string{r.entries[i].Schema}, true, nil
		result, err := restore.RunScript(ctx, o, s)
		if err != nil {
			errs = append(errs, err)
			if ctx.Err() != nil {
				return nil, nil, err
			}
			continue
		}
		p := result.Plan
		for n := range p.Schemas {
			live[p.Schemas[n].Schema] = p.Schemas[n].Live != nil
		}
		for _, k := range p.Script.Kinds {
			kinds[k.Kind] += k.Count
		}
		if sum == nil {
			sum = p
			continue
		}
		sum.Schemas = append(sum.Schemas, p.Schemas...)
		sum.Makes = append(sum.Makes, p.Makes...)
		sum.Warnings = append(sum.Warnings, p.Warnings...)
		for _, name := range p.Remains {
			if !slices.Contains(sum.Remains, name) {
				sum.Remains = append(sum.Remains, name)
			}
		}
		addScript(sum.Script, p.Script)
	}
	if len(errs) > 0 {
		return nil, nil, errors.Join(errs...)
	}
	sum.Backup = r.from.name(r.backup.ID)
	sum.Script.Kinds = nil
	for kind, n := range kinds {
		sum.Script.Kinds = append(sum.Script.Kinds, plainsql.KindCount{Kind: kind, Count: n})
	}
	slices.SortFunc(sum.Script.Kinds, func(x, y plainsql.KindCount) int {
		return cmp.Or(cmp.Compare(y.Count, x.Count), cmp.Compare(x.Kind, y.Kind))
	})
	return sum, live, nil
}

// addScript adds what another script holds, but for the kinds of its statements.
func addScript(sum, other *plainsql.Summary) {
	sum.Bytes += other.Bytes
	sum.Statements += other.Statements
	sum.Rows += other.Rows
	sum.CopyBytes += other.CopyBytes
	sum.Tables = append(sum.Tables, other.Tables...)
	sum.Makes = append(sum.Makes, other.Makes...)
	sum.Uses = append(sum.Uses, other.Uses...)
	sum.Refers = append(sum.Refers, other.Refers...)
	sum.Exact = sum.Exact && other.Exact
}

// tellOnce passes each note on once, and the stages of reading a script and an
// archive only the first time: the scripts of tenants are alike, and each is checked twice.
type tellOnce struct {
	restore.Progress

	mu     sync.Mutex
	told   map[string]bool
	second bool // all scripts were read
	silent bool // until the stage ends
}

// Start begins a stage.
func (p *tellOnce) Start(stage string, tenants int, bytes int64) {
	p.mu.Lock()
	p.silent = p.second && (stage == "verify" || stage == "verify media")
	p.mu.Unlock()
	if !p.isSilent() {
		p.Progress.Start(stage, tenants, bytes)
	}
}

// Add counts what was done in a stage that is told.
func (p *tellOnce) Add(bytes, rows int64) {
	if !p.isSilent() {
		p.Progress.Add(bytes, rows)
	}
}

// Finish ends a stage.
func (p *tellOnce) Finish() {
	if !p.isSilent() {
		p.Progress.Finish()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = false
}

// Note passes a note on that was not told yet.
func (p *tellOnce) Note(level slog.Level, tenant, message string) {
	p.mu.Lock()
	told := p.told[tenant+message]
	p.told[tenant+message] = true
	p.mu.Unlock()
	if !told {
		p.Progress.Note(level, tenant, message)
	}
}

func (p *tellOnce) isSilent() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.silent
}
