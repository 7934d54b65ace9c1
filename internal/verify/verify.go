// Package verify reads what a repository holds and says what of it is not as it
// was written: files that are missing or changed, indexes and frames that
// cannot be read, rows that do not add up. It needs no database.
package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/plainsql"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/restore"
	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// Progress is told what a verification does. Its methods are called from
// several goroutines.
type Progress interface {
	// Start begins a stage of so many data files and so many bytes.
	Start(stage string, files int, bytes int64)
	Add(bytes, rows int64)
	TenantDone(tenant string, err error)
	Note(level slog.Level, tenant, message string)
	Finish()
}

// Options say what to verify.
type Options struct {
	Repo    *repo.Repo
	Backups []repo.Backup // as the repository lists them, the broken ones too
	// Schemas limits the check to these schemas or tenants; empty means all.
	Schemas  []string
	Jobs     int // files, or parts of them, that are read at once; 0: the number of cores
	Progress Progress
}

// Report is what a verification found. Fields are only ever added.
type Report struct {
	OK       bool      `json:"ok"`
	Backups  int       `json:"backups"`
	Files    int       `json:"files"`
	Bytes    int64     `json:"bytes"` // stored
	Tables   int64     `json:"tables"`
	Rows     int64     `json:"rows"`                // that were read and compared
	Legacy   int       `json:"legacy"`              // dumps of the original system, whose rows are counted and cannot be compared
	Unhashed int       `json:"legacy_without_hash"` // of these, such as have no hash, mostly because no manifest names them
	Problems []Problem `json:"problems"`
	Leaks    []Leak    `json:"leaks"`

	Archives   int   `json:"media_archives"`
	MediaFiles int64 `json:"media_files"` // that were read in them and compared
	MediaBytes int64 `json:"media_bytes"` // stored
}

// Problem is one thing that is wrong.
type Problem struct {
	Backup string `json:"backup"`
	Schema string `json:"schema,omitempty"` // empty: it concerns the whole backup
	Tenant string `json:"tenant,omitempty"`
	File   string `json:"file"` // in the repository
	Error  string `json:"error"`
}

// Leak is a tenant that cannot be looked at alone: definitions of others refer to
// it, so that restoring it concerns them too. It is nothing that is wrong with a
// backup.
type Leak struct {
	Schema   string   `json:"schema"`
	Tenant   string   `json:"tenant"`
	NeededBy []string `json:"needed_by"` // tenants, or core
}

// maxProblems is how many problems of one file are worth reading.
const maxProblems = 5

// file is one data file to verify.
type file struct {
	key     string
	holders []holder // whose backups name it; incrementals name files of earlier ones
	needed  bool     // other files refer to it
}

// holder is an entry of a backup.
type holder struct {
	backup repo.Backup
	order  int // of the backup, the newest first
	entry  manifest.Schema
}

func (f *file) size() int64 { return f.holders[0].entry.Size }

// run is one verification.
type run struct {
	Options
	mu     sync.Mutex
	report Report
	uses   map[string]use // by schema
	good   goodSegments
	pieces *repo.Checker // of data files
}

// use is which schemas the newest file of a schema requires.
type use struct {
	order   int // of the backup
	tenant  string
	schemas []string
}

// Run verifies backups. Its error says that it could not be done; what is wrong
// with the backups is in the report.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Jobs <= 0 {
		o.Jobs = runtime.NumCPU()
	}
	r := &run{
		Options: o, report: Report{Backups: len(o.Backups), Problems: []Problem{}, Leaks: []Leak{}}, uses: map[string]use{}, pieces: repo.NewChecker(o.Jobs),
	}
	files, size := r.files()
	if len(files) > 0 {
		o.Progress.Start("verify", len(files), size)
		defer o.Progress.Finish()
	}
	// Those that refer to others come last: what the others hold is known then.
	for _, stage := range stages(files) {
		group, groupCtx := errgroup.WithContext(ctx)
		group.SetLimit(o.Jobs)
		for _, f := range stage {
			group.Go(func() error {
				errs := r.verify(groupCtx, f)
				if groupCtx.Err() != nil {
					return context.Cause(groupCtx)
				}
				for _, h := range f.holders {
					r.found(f.key, h, errs)
				}
				r.done(f, errs)
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			return nil, err
		}
	}
	if err := r.media(ctx); err != nil {
		return nil, err
	}
	slices.SortStableFunc(r.report.Problems, func(a, b Problem) int {
		return cmp.Or(strings.Compare(b.Backup, a.Backup), strings.Compare(a.File, b.File))
	})
	r.report.OK = len(r.report.Problems) == 0
	r.leaks()
	return &r.report, nil
}

// stages are the files that refer to no others, and those that do.
func stages(files []*file) (list [2][]*file) {
	for _, f := range files {
		stage := 0
		if len(f.holders[0].entry.References) > 0 {
			stage = 1
		}
		list[stage] = append(list[stage], f)
	}
	return list
}

// files lists the data files, the largest first, and their size.
func (r *run) files() (files []*file, size int64) {
	byKey := map[string]*file{}
	needed := map[string]bool{}
	for order, b := range r.Backups {
		if b.Err != nil {
			r.report.Problems = append(r.report.Problems, Problem{Backup: b.ID, File: b.Key, Error: "the manifest cannot be read: " + b.Err.Error()})
			continue
		}
		if len(b.Manifest.Schemas)+len(b.Manifest.Failures) == 0 {
			r.report.Problems = append(r.report.Problems, Problem{Backup: b.ID, File: b.Key, Error: "the backup holds no schema"})
		}
		for _, f := range b.Manifest.Failures {
			if b.Bare && (len(r.Schemas) == 0 || slices.Contains(r.Schemas, f.Schema) || slices.Contains(r.Schemas, f.Tenant)) {
				r.report.Problems = append(r.report.Problems, Problem{Backup: b.ID, Schema: f.Schema, Tenant: f.Tenant, File: f.File, Error: f.Error})
			}
		}
		for _, e := range b.Manifest.Schemas {
			if len(r.Schemas) > 0 && !slices.Contains(r.Schemas, e.Schema) && !slices.Contains(r.Schemas, e.Tenant) {
				continue
			}
			h := holder{b, order, e}
			key, err := e.Key(b.Manifest.Format)
			if err != nil {
				r.found(e.Filepath, h, []error{err})
				continue
			}
			for _, ref := range e.References {
				needed[ref] = true
			}
			f := byKey[key]
			if f == nil {
				f = &file{key: key}
				byKey[key] = f
				files = append(files, f)
				size += e.Size
				if b.Manifest.Format == 0 {
					r.report.Legacy++
					if e.Hash == "" {
						r.report.Unhashed++
					}
				}
			}
			f.holders = append(f.holders, h)
		}
	}
	for _, f := range files {
		f.needed = needed[f.key]
	}
	r.report.Files, r.report.Bytes = len(files), size
	slices.SortStableFunc(files, func(a, b *file) int { return cmp.Compare(b.size(), a.size()) })
	return files, size
}

// found notes what is wrong with the file of an entry.
func (r *run) found(key string, h holder, errs []error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, err := range errs {
		if i == maxProblems {
			err = fmt.Errorf("and %d more problems", len(errs)-i)
		}
		text := err.Error()
		if wrong, ok := errors.AsType[*repo.DataError](err); ok && wrong.Key == key {
			text = wrong.What() // the file is named beside it
		}
		r.report.Problems = append(r.report.Problems, Problem{
			Backup: h.backup.ID, Schema: h.entry.Schema, Tenant: h.entry.Tenant, File: key, Error: text,
		})
		if i == maxProblems {
			break
		}
	}
}

func (r *run) done(f *file, errs []error) {
	var first error
	if len(errs) > 0 {
		first = fmt.Errorf("backup %s: %w", f.holders[0].backup.ID, errs[0])
	}
	r.Progress.TenantDone(f.holders[0].entry.Tenant, first)
}

// verify checks one file and returns what is wrong with it.
func (r *run) verify(ctx context.Context, f *file) []error {
	h := f.holders[0]
	m := h.backup.Manifest
	object, err := r.Repo.OpenData(ctx, m, h.entry)
	if err != nil {
		return []error{err}
	}
	defer object.Close() //nolint:errcheck // it was only read
	var errs []error
	if err := r.pieces.Index(ctx, object, m, h.entry, r.read); err != nil {
		errs = append(errs, err)
	}
	for _, other := range f.holders[1:] {
		if !sameFile(other.entry, h.entry) {
			errs = append(errs, fmt.Errorf("backups %s and %s have other sizes or hashes of it", h.backup.ID, other.backup.ID))
		}
	}
	// What is inside says how much of a changed file is lost.
	if m.Format == 0 {
		if err := r.original(ctx, object); err != nil {
			errs = append(errs, err)
		}
		return errs
	}
	return append(errs, r.contents(ctx, object, f)...)
}

// read is told of bytes that were read.
func (r *run) read(n int64) { r.Progress.Add(n, 0) }

// sameFile reports whether two entries say the same of the file that they name. A
// hash of the index only newer ones have.
func sameFile(a, b manifest.Schema) bool {
	return a.Size == b.Size && a.Hash == b.Hash && (a.IndexHash == b.IndexHash || a.IndexHash == "" || b.IndexHash == "")
}

// original reads a dump of the original system to its end.
func (r *run) original(ctx context.Context, object storage.Object) error {
	script, err := plainsql.Open(&cancelled{ctx, io.NewSectionReader(object, 0, object.Size())}, plainsql.ReaderOptions{})
	if err != nil {
		return err
	}
	defer script.Close()
	found, err := plainsql.Scan(ctx, script.Reader, nil)
	if err != nil {
		return err
	}
	if found.Origin.Program != "pg_dump" {
		return errors.New("nothing in it says that pg_dump wrote it, so that nobody can tell whether it is whole")
	}
	r.Progress.Add(0, found.Rows)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Tables += found.Count("CREATE TABLE")
	r.report.Rows += found.Rows
	return nil
}

// cancelled is a reader that ends with its context.
type cancelled struct {
	ctx context.Context
	io.Reader
}

// Read reads unless the context is over.
func (c *cancelled) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.Reader.Read(p)
}

// contents reads a data file frame by frame and compares it with its index, and
// that with the manifest. Of the earlier files that it refers to it reads what
// was not read for themselves.
func (r *run) contents(ctx context.Context, object storage.Object, f *file) []error {
	entry := f.holders[0].entry
	d, err := datafile.Open(object, object.Size())
	if err != nil {
		return []error{err}
	}
	errs := f.checkIndex(d.Index)
	checked := entry.IndexHash != "" // the own frames are, in their turn
	if err := r.pieces.Own(ctx, d, f.holders[0].backup.Manifest, entry, r.read); err != nil {
		errs, checked = append(errs, err), false
	}
	earlier, missing := r.openReferred(ctx, d)
	defer func() {
		for _, o := range earlier {
			_ = o.Close() // it was only read
		}
	}()
	if len(missing) > 0 {
		return append(errs, missing...)
	}
	c := newCounter(d.Index, datafile.FileRef{Key: f.key, Size: entry.Size, Hash: entry.Hash}, &r.good)
	var buffer []byte
	for i, frame := range d.Index.Frames {
		if ctx.Err() != nil {
			return errs
		}
		if frame.File > 0 && c.isKnown(i) {
			continue
		}
		text, err := d.ReadFrame(i, buffer)
		if err == nil && !(checked && frame.File == 0) {
			err = d.CheckFrame(i)
		}
		if err != nil {
			errs = append(errs, err)
			c.damaged(i)
			continue
		}
		c.frame(i, text)
		buffer = text
		if cap(buffer) > 4*datafile.FrameTarget {
			buffer = nil // one enormous row shall not stay in memory for good
		}
		if frame.Kind == datafile.DataFrame {
			r.Progress.Add(0, c.take())
		}
	}
	errs = append(errs, c.judge(f.needed)...)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Tables += int64(len(d.Index.Tables))
	r.report.Rows += c.rows
	for _, h := range f.holders {
		if known, ok := r.uses[entry.Schema]; !ok || h.order < known.order {
			r.uses[entry.Schema] = use{h.order, entry.Tenant, d.Index.Header.Requires.Schemas}
		}
	}
	return errs
}

// checkIndex compares an index with the entries that name its file.
func (f *file) checkIndex(x *datafile.Index) (errs []error) {
	for _, h := range f.holders {
		if err := restore.CheckIndex(x, h.entry); err != nil {
			return append(errs, err)
		}
		refers := make([]string, len(x.Header.Files))
		for i, ref := range x.Header.Files {
			refers[i] = ref.Key
		}
		if !slices.Equal(refers, h.entry.References) {
			return append(errs, fmt.Errorf("it refers to the files %q, the manifest of backup %s says %q", refers, h.backup.ID, h.entry.References))
		}
	}
	return nil
}

// openReferred opens the files that a data file refers to.
func (r *run) openReferred(ctx context.Context, d *datafile.File) (opened []storage.Object, errs []error) {
	var sources []io.ReaderAt
	for _, ref := range d.Index.Header.Files {
		o, err := r.Repo.OpenReferred(ctx, ref)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		opened = append(opened, o)
		sources = append(sources, o)
	}
	if len(errs) == 0 {
		if err := d.Refer(sources); err != nil {
			errs = append(errs, err)
		}
	}
	return opened, errs
}

// leaks finds the tenants that others need, by the newest file of each: what was
// needed in older ones may be mended. That tenants need core is as it should be.
func (r *run) leaks() {
	needed := map[string][]string{}
	for _, u := range r.uses {
		for _, schema := range u.schemas {
			if schema != manifest.CoreSchema {
				needed[schema] = append(needed[schema], u.tenant)
			}
		}
	}
	for _, schema := range slices.Sorted(maps.Keys(needed)) {
		slices.Sort(needed[schema])
		r.report.Leaks = append(r.report.Leaks, Leak{Schema: schema, Tenant: r.tenantOf(schema), NeededBy: needed[schema]})
	}
}

// tenantOf is the name of a schema's tenant, which the backups need not hold.
func (r *run) tenantOf(schema string) string {
	for _, b := range r.Backups {
		if b.Err != nil {
			continue
		}
		for _, e := range b.Manifest.Schemas {
			if e.Schema == schema {
				return e.Tenant
			}
		}
	}
	return schema
}
