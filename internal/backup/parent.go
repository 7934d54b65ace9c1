package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/repo"
)

// parent is what an earlier backup has of a schema.
type parent struct {
	backup *repo.Backup
	entry  *manifest.Schema // of its manifest
}

// DefaultMaxChain is how many files of earlier backups a schema may need before
// it is taken in full again.
const DefaultMaxChain = 30

const (
	// parentOpens is how many files are looked for at once.
	parentOpens = 8
	// parentEntries is how many entries of earlier backups are looked at for a
	// tenant that the newest ones do not have: most likely no backup has it, and
	// all manifests of years would take minutes to read.
	parentEntries = 100_000
)

// findParents finds, for each of the tenants, the newest backup of this database
// that has it with all files that it needs, and the marks of the newest backups
// where this run has one.
func (r *run) findParents(ctx context.Context, tenants []*tenant, marked bool) (map[string]*parent, error) {
	parents := map[string]*parent{}
	missing := map[string]string{} // tenant by schema
	for _, t := range tenants {
		if !slices.Contains(r.Full, t.Name) {
			missing[t.Name] = t.tenant
		}
	}
	visit := func(b repo.Backup) error {
		if b.Err != nil || !r.comparable(b.Manifest) {
			return nil
		}
		if s := b.Manifest.Snapshot; s != nil && s.Mark != nil {
			r.marks = append(r.marks, pg.Mark(*s.Mark))
		}
		var entries []*manifest.Schema
		for i := range b.Manifest.Schemas {
			e := &b.Manifest.Schemas[i]
			if tenant, ok := missing[e.Schema]; ok && tenant == e.Tenant && e.Filepath != "" {
				entries = append(entries, e)
			}
		}
		problems := make([]error, len(entries))
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(parentOpens)
		for i, e := range entries {
			g.Go(func() error {
				problems[i] = r.Repo.CheckPresent(ctx, b.Manifest, *e)
				return context.Cause(ctx)
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for i, e := range entries {
			if problems[i] != nil {
				r.Progress.Note(slogWarn, e.Tenant, fmt.Sprintf("nothing can be built on backup %s: %v", b.ID, problems[i]))
				continue
			}
			parents[e.Schema] = &parent{&b, e}
			delete(missing, e.Schema)
		}
		return nil
	}
	if r.Parent != "" {
		b, err := r.Repo.Load(ctx, r.Parent)
		if err != nil {
			return nil, err
		}
		if !r.comparable(b.Manifest) {
			return nil, &ParentError{Backup: b.ID, Database: r.info.Name}
		}
		return parents, visit(b)
	}
	var failure error
	visited, entries := 0, 0
	err := r.Repo.Newest(ctx, func(b repo.Backup) bool {
		failure = visit(b)
		visited++
		if b.Err == nil {
			entries += len(b.Manifest.Schemas)
		}
		return failure == nil && (len(missing) > 0 && entries < parentEntries || marked && visited < olderMarks)
	})
	return parents, errors.Join(failure, err)
}

// comparable reports whether a backup is one of this database, whose rows have
// the same text. Baselines are none: they come and go by rules of their own.
func (r *run) comparable(m *manifest.Manifest) bool {
	d := m.Database
	return m.Format > 0 && m.BackupType != manifest.Baseline && d != nil && d.Name == r.info.Name && d.Encoding == r.info.Encoding &&
		(d.SystemIdentifier == r.info.SystemIdentifier || d.SystemIdentifier == "" || r.info.SystemIdentifier == "")
}

// disown forgets the parent of a tenant, which turned out to be unusable.
func (d *round) disown(t *tenant) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.parents, t.Name)
}

// newestParent is the id of the newest backup that entries of a manifest were
// built on.
func (r *run) newestParent(m *manifest.Manifest) string {
	if r.Type != manifest.Incremental {
		return ""
	}
	var newest *repo.Backup
	for i := range m.Schemas {
		if p := r.parents[m.Schemas[i].Schema]; p != nil && (newest == nil || p.backup.Time().After(newest.Time())) {
			newest = p.backup
		}
	}
	if newest == nil {
		return ""
	}
	return newest.ID
}

// ParentError is a backup that was named as a parent and cannot be one.
type ParentError struct{ Backup, Database string }

func (e *ParentError) Error() string {
	return fmt.Sprintf("backup %s cannot be the parent: it is not one of database %q on this server", e.Backup, e.Database)
}

// Hint says what to do.
func (e *ParentError) Hint() string {
	return "leave --parent away: the newest backup of each schema is found by itself"
}

// earlier is a parent's data file, opened to be compared with.
type earlier struct {
	*repo.DataFile
	self     datafile.FileRef
	segments map[string]manifest.Segment // by hash
	frames   map[frameContent]int        // of statements
}

type frameContent struct {
	kind datafile.FrameKind
	hash string
}

// open opens the data file of the parent.
func (p *parent) open(ctx context.Context, r *repo.Repo) (*earlier, error) {
	f, err := r.OpenFile(ctx, p.backup.Manifest, *p.entry)
	if err != nil {
		return nil, err
	}
	if h := f.Index.Header; h.Schema != p.entry.Schema || h.Backup != p.entry.Timestamp {
		err := fmt.Errorf("data file %s is that of schema %q in backup %s", p.entry.Filepath, h.Schema, h.Backup)
		return nil, errors.Join(err, f.Close())
	}
	e := &earlier{
		DataFile: f,
		self:     datafile.FileRef{Key: p.entry.Filepath, Size: p.entry.Size, Hash: p.entry.Hash},
		segments: map[string]manifest.Segment{}, frames: map[frameContent]int{},
	}
	for i, frame := range f.Index.Frames {
		switch {
		case frame.Kind != datafile.DataFrame:
			e.frames[frameContent{frame.Kind, frame.Hash}] = i
		case frame.File == 0:
			e.self.Rows += frame.Length
		}
	}
	for _, t := range f.Index.Tables {
		for _, g := range t.Segments {
			if g.Rows > 0 {
				e.segments[g.Hash] = g
			}
		}
	}
	return e, nil
}

// refer makes a frame of the parent's one of the new file.
func (e *earlier) refer(file *datafile.Writer, frame int) int {
	return file.Refer(e.Index.Place(e.self, frame))
}

// worn reports whether of the file that holds most of the rows less than half
// is still in use.
func (e *earlier) worn() bool {
	used := map[int]int64{} // bytes of rows in use, by frame
	for _, t := range e.Index.Tables {
		for _, g := range t.Segments {
			for _, p := range g.Pieces {
				used[p.Frame] += p.Bytes
			}
		}
	}
	live := map[datafile.FileRef]float64{}
	for i, n := range used {
		if to, f := e.Index.Place(e.self, i); f.Size > 0 {
			live[to] += float64(f.Length) * float64(n) / float64(f.Size)
		}
	}
	biggest := e.self
	for _, ref := range e.Index.Header.Files {
		if ref.Rows > biggest.Rows {
			biggest = ref
		}
	}
	return live[biggest]*2 < float64(biggest.Rows)
}
