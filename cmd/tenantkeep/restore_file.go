package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/media"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/plainsql"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/restore"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// standardInput is what --backup-file calls it.
const standardInput = "-"

// checkFile refuses what makes no sense with a script.
func (o *RestoreOptions) checkFile() error {
	switch {
	case o.BackupFile == "":
		return usagef("--allow-outside is for --backup-file")
	case o.Manifest != "" || o.Latest || o.At != "":
		return usagef("--backup-file is instead of a backup: leave out --manifest, --latest and --at")
	case o.All || len(o.Schemas) > 1:
		return usagef("--backup-file restores one schema: name it with --schema, or leave that to the script")
	case len(o.Tables) > 0:
		return &usageError{
			err:  errors.New("--table does not work with --backup-file"),
			hint: "restore the whole file under another name with --as, and copy what you need from there",
		}
	case o.Resume && o.As != "":
		return usagef("--resume goes on with a restore that replaces a live schema, without --as")
	case o.SwapTimeout <= 0:
		return usagef("--swap-timeout must be more than nothing")
	}
	return nil
}

// runRestoreFile restores a schema from a plain SQL script.
func runRestoreFile(ctx context.Context, a *app, cmd *cobra.Command, cfg *config.Config, opts RestoreOptions) error {
	target, err := server(cfg)
	if err != nil {
		return err
	}
	places, err := a.openPlaces(cfg)
	if err != nil {
		return err
	}
	if cfg.IncludeMedia && cfg.Source("include-media").Kind == config.FromFlag {
		return &usageError{
			err:  errors.New("--include-media: a script holds no files"),
			hint: "restore the backup that it belongs to with --manifest; tar takes files out of an archive",
		}
	}
	script, closeScript, err := a.openScript(ctx, cfg, places, opts.BackupFile)
	if err != nil {
		return err
	}
	defer closeScript()
	script.AllowOutside, script.Whole = opts.AllowOutside, opts.fill != nil && opts.AllowOutside
	files, err := knownMedia(cfg)
	if err != nil {
		return err
	}
	o := a.scriptOptions(cmd, cfg, opts, target, nil, places[1], files, true)
	o.Schemas = opts.Schemas
	o.Confirm = func(p *restore.Plan) error {
		named := opts
		named.Schemas = []string{p.Schemas[0].Schema} // if only by the script
		return a.confirmRestore(ctx, p, named)
	}
	return a.runScript(ctx, o, opts, script)
}

// scriptOptions are those of a restore from a script, but for what it is to
// restore and who is asked.
func (a *app) scriptOptions(cmd *cobra.Command, cfg *config.Config, opts RestoreOptions, target *pg.Server, from *repo.Repo, points place, files *media.Root, rowsOnly bool) restore.Options {
	o := restore.Options{
		Server: target, Repo: from, Media: files, RowsOnly: rowsOnly, LeaveOutLinks: opts.LeaveOutLinks, Existing: restore.Existing(opts.ExistingMedia),
		NoOwner: opts.NoOwner, NoPrivileges: opts.NoPrivileges, DryRun: opts.DryRun,
		Replace: opts.fill == nil, As: opts.As, Resume: opts.Resume, Incomplete: opts.Incomplete, SwapTimeout: opts.SwapTimeout,
		Progress: a.progress(opts.Format), Log: a.logger(cmd, cfg), Now: a.now, Asks: !opts.Yes && a.ui().CanAsk(),
	}
	if opts.CreateRollback {
		a.saveRollbackPoints(cmd, cfg, points, target, &o)
	}
	return o
}

// runScript restores a schema from a script and says what was done.
func (a *app) runScript(ctx context.Context, o restore.Options, opts RestoreOptions, script restore.Script) error {
	result, err := restore.RunScript(ctx, o, script)
	if errors.Is(err, repo.ErrHash) {
		err = &hintedError{err: err, hint: hintOtherFile}
	}
	if result.Plan != nil && opts.DryRun {
		if err := a.showPlan(result.Plan, opts); err != nil {
			return err
		}
	}
	if len(result.Tenants) > 0 {
		if err := a.showRestore(result, opts); err != nil {
			return err
		}
	}
	if wrong, ok := errors.AsType[*restore.ScriptSchemaError](err); ok && len(wrong.Uses) == 0 {
		return asUsage(err)
	}
	return err
}

// openScript opens the file of --backup-file. Standard input, which can be read
// only once, goes through a temporary file.
func (a *app) openScript(ctx context.Context, cfg *config.Config, places []place, path string) (script restore.Script, closer func(), err error) {
	if path == standardInput {
		return a.spool(ctx)
	}
	file, err := a.findFile(cfg, path)
	if err != nil {
		return script, nil, &usageError{err: fmt.Errorf("--backup-file: %w", err)}
	}
	closer = func() { _ = file.Close() } // it is only read
	info, err := file.Stat()
	if err == nil && info.IsDir() {
		err = &usageError{
			err:  fmt.Errorf("--backup-file: %s is a directory", path),
			hint: "turn a directory of pg_dump into a script: pg_restore -f backup.sql DIRECTORY",
		}
	}
	if err == nil && !info.Mode().IsRegular() {
		err = &usageError{err: fmt.Errorf("--backup-file: %s is no file", path), hint: "give - to read it from standard input: … --backup-file - < " + path}
	}
	if err != nil {
		closer()
		return script, nil, err
	}
	script = restore.Script{Source: file, Size: info.Size(), Name: filepath.Base(path), Time: info.ModTime()}
	if script.Hash, err = knownHash(ctx, places, file.Name(), info.Size()); err != nil {
		closer()
		return script, nil, err
	}
	return script, closer, nil
}

// openFlags let a named pipe be opened, and then refused, although nobody writes to
// it: without them that waits for ever.
const openFlags = os.O_RDONLY | syscall.O_NONBLOCK

// findFile opens a file whose path is relative to the working directory, or to
// the repository as in its manifests. One that is not there, such as a path in
// the container in which the original system ran, is looked for by its name where
// the repository has its files, and nowhere else.
func (a *app) findFile(cfg *config.Config, path string) (*os.File, error) {
	file, err := os.OpenFile(path, openFlags, 0)
	if !errors.Is(err, fs.ErrNotExist) || strings.Contains(cfg.Repository, "://") {
		return file, err
	}
	name := filepath.Base(path)
	places := []string{filepath.Join("data", name), filepath.Join(rollbackName, name), filepath.Join(rollbackName, "data", name)}
	if !filepath.IsAbs(path) {
		places = append([]string{path}, places...)
	}
	root, errRoot := os.OpenRoot(cfg.Repository)
	if errRoot != nil {
		return nil, err
	}
	defer root.Close()
	for _, place := range places {
		other, errOther := root.OpenFile(place, openFlags, 0)
		if errOther == nil {
			full := filepath.Join(cfg.Repository, place)
			if place != path {
				a.ui().Printf("There is no %s: it is taken from %s", ui.Safe(path), ui.Safe(full))
			}
			return other, nil
		}
	}
	return nil, err
}

// knownHash is the hash of a file that lies in the repository, as its manifest
// says, or empty where none says so. A file of another size is an error.
func knownHash(ctx context.Context, places []place, name string, size int64) (string, error) {
	name, err := filepath.Abs(name)
	if err != nil {
		return "", fmt.Errorf("--backup-file: %w", err)
	}
	for _, p := range places {
		key, err := filepath.Rel(p.Repo.Location(), name)
		if err != nil || !strings.HasPrefix(key, "data"+string(filepath.Separator)) {
			continue
		}
		backups, err := p.Repo.List(ctx)
		if err != nil {
			return "", err
		}
		for _, b := range backups {
			if b.Manifest == nil {
				continue
			}
			for _, e := range b.Manifest.Schemas {
				k, err := e.Key(b.Manifest.Format)
				if err != nil || e.Hash == "" || k != filepath.ToSlash(key) {
					continue
				}
				if size != e.Size {
					err := &repo.DataError{Schema: e.Schema, Tenant: e.Tenant, Key: k, Err: repo.ErrSize, Got: fmt.Sprintf("%d bytes", size), Want: fmt.Sprint(e.Size)}
					return "", &hintedError{err: err, hint: hintOtherFile}
				}
				return e.Digest(b.Manifest.Format)
			}
		}
	}
	return "", nil
}

// spool keeps standard input in a file that only this user can read and that
// has no name any more where the system allows it, so that nothing is left
// whatever happens.
func (a *app) spool(ctx context.Context) (script restore.Script, closer func(), err error) {
	file, err := os.CreateTemp("", "tenantkeep-*.sql")
	if err != nil {
		return script, nil, fmt.Errorf("keep standard input: %w", err)
	}
	name := file.Name()
	removed := os.Remove(name) == nil
	closer = func() {
		_ = file.Close()
		if !removed {
			_ = os.Remove(name) // it could not be removed while it was open
		}
	}
	// A read of a terminal or a pipe cannot be interrupted: it ends with the
	// process.
	done := make(chan error, 1)
	var size int64
	go func() {
		var err error
		size, err = io.Copy(file, a.stdin)
		done <- err
	}()
	select {
	case <-ctx.Done():
		err = context.Cause(ctx)
	case err = <-done:
	}
	if err != nil {
		closer()
		return script, nil, fmt.Errorf("keep standard input in %s: %w", filepath.Dir(name), err)
	}
	return restore.Script{Source: file, Size: size, Name: "standard input", Time: a.now()}, closer, nil
}

// scriptJSON is what a script holds. Fields are only ever added.
type scriptJSON struct {
	Program       string               `json:"program"` // that wrote it, as it says; empty: unknown
	Version       string               `json:"program_version"`
	ServerVersion string               `json:"server_version"` // that was dumped
	Bytes         int64                `json:"bytes"`          // decompressed
	Statements    int                  `json:"statements"`
	Kinds         []plainsql.KindCount `json:"kinds"`
	Tables        []scriptTable        `json:"tables"`     // with rows
	Makes         []string             `json:"makes"`      // schemas
	References    []string             `json:"references"` // tables elsewhere to which its foreign keys refer
	Refused       []refusedJSON        `json:"refused"`    // the first statements that are not run
	RefusedCount  int                  `json:"refused_count"`
}

type scriptTable struct {
	Schema string `json:"schema"` // empty: the script does not say
	Table  string `json:"table"`
	Rows   int64  `json:"rows"` // an INSERT counts as one
}

type refusedJSON struct {
	Line   int    `json:"line"`
	SQL    string `json:"sql"`
	Reason string `json:"reason"`
	Remedy string `json:"remedy"`
}

func newScriptJSON(s *plainsql.Summary) *scriptJSON {
	if s == nil {
		return nil
	}
	doc := &scriptJSON{
		Program: s.Origin.Program, Version: s.Origin.Version, ServerVersion: s.Origin.Server, Bytes: s.Bytes, Statements: s.Statements,
		Kinds: append([]plainsql.KindCount{}, s.Kinds...), Tables: []scriptTable{}, Makes: append([]string{}, s.Makes...),
		References: append([]string{}, s.Refers...), Refused: []refusedJSON{}, RefusedCount: s.RefusedCount,
	}
	for _, t := range s.Tables {
		doc.Tables = append(doc.Tables, scriptTable(t))
	}
	for _, r := range s.Refused {
		doc.Refused = append(doc.Refused, refusedJSON{r.Line, r.SQL, r.Reason, r.Hint()})
	}
	return doc
}

// tellScript says where a script comes from and what is in it.
func (a *app) tellScript(p *restore.Plan) {
	s := p.Script
	by := "a script that does not say who wrote it"
	if s.Origin.Program != "" {
		by = "a script of " + strings.TrimSpace(s.Origin.Program+" "+ui.Safe(s.Origin.Version))
	}
	if s.Origin.Server != "" {
		by += ", from PostgreSQL " + ui.Safe(s.Origin.Server)
	}
	a.ui().Printf("From: %s, %s, file of %s", ui.Safe(p.Backup), by, p.Taken.UTC().Format("2006-01-02 15:04:05 UTC"))
	const enough = 8
	var kinds []string
	rest := 0
	for i, k := range s.Kinds {
		if i >= enough {
			rest += k.Count
			continue
		}
		kinds = append(kinds, ui.Count(int64(k.Count))+" "+k.Kind)
	}
	if rest > 0 {
		kinds = append(kinds, ui.Count(int64(rest))+" others")
	}
	a.ui().Printf("It has %s in %s: %s.", ui.Plural(int64(s.Statements), "statement"), ui.Bytes(s.Bytes), strings.Join(kinds, ", "))
	if len(s.Makes) == 0 {
		a.ui().Printf("It does not make its schema, which is made for it.")
	}
}

// tellCounted says how sure it is that a script was restored as it stands.
func (a *app) tellCounted(r *restore.Result) {
	name := ui.Safe(cmp.Or(r.Plan.Backup, "the script"))
	if r.Plan.Script.Exact {
		a.ui().Printf("Every table was counted and has the rows that %s stored in it.", name)
		return
	}
	a.ui().Printf("Every table was counted. %s changes rows by other means than COPY and INSERT, so that there is nothing to compare them with.", name)
}
