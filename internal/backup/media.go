package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/media"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/repo"
)

// toldWarnings is how many warnings about the files of one tenant are told.
const toldWarnings = 5

// mediaTenants are all tenants of the database: what is in the folder of one that
// is not backed up does not belong to core all the same.
func (r *run) mediaTenants(all []*tenant) []media.Tenant {
	var list []media.Tenant
	for _, t := range all {
		switch {
		case t.core:
		case r.chosen[t.Name] && r.Type != manifest.Baseline: // whose tenant has the name of a template
			list = append(list, media.Tenant{Schema: t.Name, Name: t.tenant})
		default:
			list = append(list, media.Tenant{Schema: t.Name, Name: t.Name})
		}
	}
	return list
}

// tenantsNow returns what lists the tenants that the snapshot shows together with those
// that have come since: neither are the folders of these core's.
func (d *round) tenantsNow(all []media.Tenant) media.Tenants {
	known := slices.Collect(maps.Keys(d.byName))
	return func(ctx context.Context) ([]media.Tenant, error) {
		var names []string
		err := d.newest(ctx, func(q pg.Querier) error {
			rows, err := q.Query(ctx, `SELECT nspname::text FROM pg_catalog.pg_namespace
				WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'public') AND nspname <> ALL($1)`, known)
			if err == nil {
				names, err = pgx.CollectRows(rows, pgx.RowTo[string])
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("list new schemas: %w", err)
		}
		list := slices.Clone(all)
		for _, name := range names {
			if !pg.IsOwn(name) {
				list = append(list, media.Tenant{Schema: name, Name: name})
			}
		}
		return list, nil
	}
}

// checkMedia makes sure that files can be read, and finds out where they are.
func (r *run) checkMedia(ctx context.Context, tenants []*tenant, all []media.Tenant, result *Result) error {
	if r.Media == nil {
		return nil
	}
	if err := r.Media.Ready(ctx); err != nil {
		return err
	}
	if err := r.Media.Check(all); err != nil {
		return err
	}
	if err := r.findMedia(ctx, tenants); err != nil {
		return err
	}
	if err := r.checkGone(ctx, all); err != nil {
		return err
	}
	result.Folders = map[string]string{}
	if r.chosen[manifest.CoreSchema] {
		result.Folders[manifest.CoreSchema] = "what is in none of these"
	}
	for _, t := range all {
		if !r.chosen[t.Schema] {
			continue
		}
		tree, err := r.Media.Open(ctx, t)
		if err != nil {
			continue // none, or one that the run has to report
		}
		if err := tree.Close(); err != nil {
			return err
		}
		if result.Folders[t.Schema], err = r.Media.Location(t); err != nil {
			return err
		}
	}
	return nil
}

// saveMedia saves the files of the schemas that were saved. It comes after the
// rows: of what an application writes first to disk and then to the database, the
// files are there.
func (r *run) saveMedia(ctx context.Context, m *manifest.Manifest) error {
	if r.Media == nil {
		return nil
	}
	m.IncludeMedia = true
	var expected int64
	for _, p := range r.mediaParents {
		if p != nil {
			expected += p.entry.Media.Bytes
		}
	}
	r.Progress.Start("media", len(m.Schemas), expected)
	defer r.Progress.Finish()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.Jobs)
	for i := range m.Schemas {
		s := &m.Schemas[i]
		g.Go(func() error {
			o := &mediaRun{run: r, entry: s, parent: r.mediaParents[s.Schema]}
			err := o.save(ctx)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if _, ends := errors.AsType[*storageError](err); ends {
				return err
			}
			if err != nil {
				text := err.Error()
				if hinted, ok := errors.AsType[*media.RootError](err); ok {
					text += ": " + hinted.Hint()
				}
				s.MediaBackup, s.Media = "", &manifest.Media{Failed: 1, Failures: []string{text}}
			}
			if err == nil && s.Media != nil && s.Media.Failed > 0 {
				err = mediaError(s)
			}
			r.Progress.TenantDone(s.Tenant, err)
			return nil
		})
	}
	return g.Wait()
}

// mediaError tells what of the files of a schema could not be saved.
func mediaError(s *manifest.Schema) error {
	m := s.Media
	text := "media: " + m.Failures[0]
	if m.Failed > 1 {
		text += fmt.Sprintf(", and %d more could not be saved", m.Failed-1)
	}
	return errors.New(text)
}

// mediaRun saves the files of one schema.
type mediaRun struct {
	*run
	entry  *manifest.Schema
	parent *parent // nil: there is none
}

func (o *mediaRun) note(level slog.Level, format string, args ...any) {
	o.Progress.Note(level, o.entry.Tenant, fmt.Sprintf(format, args...))
}

// open opens the folder. Nil: there is none.
func (o *mediaRun) open(ctx context.Context) (media.OpenTree, error) {
	t := o.folder()
	tree, err := o.openMedia(ctx, t)
	if !errors.Is(err, fs.ErrNotExist) {
		return tree, err
	}
	if ready := o.Media.Ready(ctx); ready != nil {
		return nil, ready
	}
	place, _ := o.Media.Location(t) // it was found a moment ago
	return nil, o.mediaGone(t.Schema, "its folder "+place+" is gone")
}

func (o *mediaRun) save(ctx context.Context) (err error) {
	tree, err := o.open(ctx)
	if err != nil || tree == nil {
		return err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	so := media.SaveOptions{
		Compression: o.Compression, Schema: o.entry.Schema, Tenant: o.entry.Tenant, Backup: o.out.ID(), MaxReferences: max(o.MaxChain-1, 1),
		Progress: func(n int64) { o.Progress.Add(n, 0) },
	}
	if o.parent != nil && o.Type == manifest.Incremental && !slices.Contains(o.Full, o.entry.Schema) {
		earlier, err := media.OpenStored(ctx, o.Repo, o.parent.backup.Manifest, *o.parent.entry)
		if err != nil {
			o.note(slogWarn, "all files are stored again: backup %s cannot be built on: %v", o.parent.backup.ID, err)
		} else {
			defer earlier.Close() //nolint:errcheck // it was only read
			so.Parent = &media.Parent{Archive: earlier.Archive, Self: media.Reference{
				Key: o.parent.entry.MediaBackup, Size: o.parent.entry.Media.Size, Hash: o.parent.entry.Media.Hash, Stored: earlier.Stored,
			}}
		}
	}
	var file *repo.DataWriter
	defer func() {
		if err != nil && file != nil {
			err = errors.Join(err, file.Abort())
		}
	}()
	saved, err := media.Save(ctx, tree, func() (_ io.Writer, err error) {
		file, err = o.out.CreateMedia(ctx, o.entry.Schema, o.entry.Tenant, ".tar"+o.Compression.Suffix())
		return file, err
	}, so)
	switch {
	case media.IsWriting(err):
		return &storageError{err}
	case err != nil:
		return err
	}
	if saved.Files == 0 && saved.Failures.Count == 0 {
		if err := o.mediaGone(o.entry.Schema, "no file is left"); err != nil {
			return err
		}
	}
	if err := o.stillThere(ctx, saved); err != nil {
		return err
	}
	o.tell(saved)
	if saved.Unchanged {
		o.entry.MediaBackup, o.entry.Media = o.parent.entry.MediaBackup, o.parent.entry.Media
		if file != nil {
			return file.Abort()
		}
		return nil
	}
	stored, err := file.Commit()
	if err != nil {
		return &storageError{err}
	}
	o.entry.MediaBackup = stored.Key
	o.entry.Media = &manifest.Media{Backup: o.out.ID(), Size: stored.Size, Hash: stored.Hash, Files: saved.Files, Bytes: saved.Bytes, Failed: saved.Failures.Count}
	for _, ref := range saved.References {
		o.entry.Media.References = append(o.entry.Media.References, ref.Key)
	}
	for _, p := range saved.Failures.List {
		o.entry.Media.Failures = append(o.entry.Media.Failures, p.String())
	}
	return nil
}

// stillThere notes as a failure that the folder vanished while it was read: files that
// had not been read by then look as if they had been deleted one by one.
func (o *mediaRun) stillThere(ctx context.Context, saved *media.Saved) error {
	if o.entry.IsCore() || saved.Unchanged {
		return nil
	}
	tree, err := o.openMedia(ctx, o.folder())
	if errors.Is(err, fs.ErrNotExist) {
		saved.Failures.Count++
		saved.Failures.List = append(saved.Failures.List, media.Problem{Name: media.Top, Text: "vanished while it was read: the folder of the tenant is gone"})
		return nil
	}
	if err != nil {
		return err
	}
	return tree.Close()
}

// folder is whose folder is saved.
func (o *mediaRun) folder() media.Tenant {
	if o.Type == manifest.Baseline { // whose tenant has the name of a template
		return media.Tenant{Schema: o.entry.Schema, Name: o.entry.Schema}
	}
	return media.Tenant{Schema: o.entry.Schema, Name: o.entry.Tenant}
}

// tell tells the warnings about files, and the failures.
func (o *mediaRun) tell(saved *media.Saved) {
	for _, list := range []media.Problems{saved.Failures, saved.Warnings} {
		for i, p := range list.List {
			if i == toldWarnings {
				o.note(slogWarn, "and so it is with %d more files", list.Count-toldWarnings)
				break
			}
			o.note(slogWarn, "file %s", p)
		}
	}
}

// mediaFailures are the schemas of which files could not be saved.
func mediaFailures(m *manifest.Manifest) []manifest.Failure {
	var list []manifest.Failure
	for i := range m.Schemas {
		if s := &m.Schemas[i]; s.Media != nil && s.Media.Failed > 0 {
			list = append(list, manifest.Failure{Schema: s.Schema, Tenant: s.Tenant, Error: mediaError(s).Error()})
		}
	}
	return list
}
