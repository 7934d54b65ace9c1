// Package verify reads what a repository holds and says what of it is not as it
// was written: files that are missing or changed, indexes and frames that
// cannot be read, rows that do not add up. It needs no database.
package verify

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sync/errgroup"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/restore"
	"github.com/tenantkeep/tenantkeep/internal/rowsum"
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
	Jobs     int // files that are read at once; 0: the number of cores
	Progress Progress
}

// Report is what a verification found. Fields are only ever added.
type Report struct {
	OK       bool      `json:"ok"`
	Backups  int       `json:"backups"`
	Files    int       `json:"files"`
	Bytes    int64     `json:"bytes"` // stored
	Tables   int64     `json:"tables"`
	Rows     int64     `json:"rows"`   // that were read and compared
	Legacy   int       `json:"legacy"` // files of the original format, of which only size, hash and compression can be checked
	Problems []Problem `json:"problems"`
	Leaks    []Leak    `json:"leaks"`
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
	backup repo.Backup
	order  int // of the backup, the newest first
	entry  manifest.Schema
	key    string
}

// run is one verification.
type run struct {
	Options
	mu     sync.Mutex
	report Report
	uses   map[string]use // by schema
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
	r := &run{Options: o, report: Report{Backups: len(o.Backups), Problems: []Problem{}, Leaks: []Leak{}}, uses: map[string]use{}}
	files, size := r.files()
	if len(files) > 0 {
		o.Progress.Start("verify", len(files), size)
		defer o.Progress.Finish()
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(o.Jobs)
	for _, f := range files {
		group.Go(func() error {
			errs := r.verify(groupCtx, f)
			if groupCtx.Err() != nil {
				return context.Cause(groupCtx)
			}
			r.found(f, errs)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(r.report.Problems, func(a, b Problem) int {
		return cmp.Or(strings.Compare(b.Backup, a.Backup), strings.Compare(a.File, b.File))
	})
	r.report.OK = len(r.report.Problems) == 0
	r.leaks()
	return &r.report, nil
}

// files lists the data files, the largest first, and their size.
func (r *run) files() (files []file, size int64) {
	for order, b := range r.Backups {
		if b.Err != nil {
			r.report.Problems = append(r.report.Problems, Problem{Backup: b.ID, File: b.Key, Error: "the manifest cannot be read: " + b.Err.Error()})
			continue
		}
		for _, e := range b.Manifest.Schemas {
			if len(r.Schemas) > 0 && !slices.Contains(r.Schemas, e.Schema) && !slices.Contains(r.Schemas, e.Tenant) {
				continue
			}
			if e.Filepath == "" { // everything of it is in files of earlier backups
				continue
			}
			key, err := e.Key(b.Manifest.Format)
			f := file{b, order, e, key}
			if err != nil {
				f.key = e.Filepath
				r.found(f, []error{err})
				continue
			}
			files = append(files, f)
			size += e.Size
			if b.Manifest.Format == 0 {
				r.report.Legacy++
			}
		}
	}
	r.report.Files, r.report.Bytes = len(files), size
	slices.SortStableFunc(files, func(a, b file) int { return cmp.Compare(b.entry.Size, a.entry.Size) })
	return files, size
}

func (r *run) found(f file, errs []error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, err := range errs {
		if i == maxProblems {
			err = fmt.Errorf("and %d more problems", len(errs)-i)
		}
		text := err.Error()
		if wrong, ok := errors.AsType[*repo.DataError](err); ok {
			text = wrong.What() // the file is named beside it
		}
		r.report.Problems = append(r.report.Problems, Problem{
			Backup: f.backup.ID, Schema: f.entry.Schema, Tenant: f.entry.Tenant, File: f.key, Error: text,
		})
		if i == maxProblems {
			break
		}
	}
	var first error
	if len(errs) > 0 {
		first = fmt.Errorf("backup %s: %w", f.backup.ID, errs[0])
	}
	r.Progress.TenantDone(f.entry.Tenant, first)
}

// verify checks one file and returns what is wrong with it.
func (r *run) verify(ctx context.Context, f file) []error {
	m := f.backup.Manifest
	object, err := r.Repo.OpenData(ctx, m, f.entry)
	if err != nil {
		return []error{err}
	}
	defer object.Close() //nolint:errcheck // it was only read
	var errs []error
	if err := repo.CheckHash(ctx, object, m, f.entry, func(n int64) { r.Progress.Add(n, 0) }); err != nil {
		errs = append(errs, err)
	}
	// What is inside says how much of a changed file is lost.
	if m.Format == 0 {
		if err := readLegacy(ctx, object); err != nil {
			errs = append(errs, err)
		}
		return errs
	}
	return append(errs, r.contents(ctx, object, f)...)
}

// readLegacy reads a file of the original format to its end.
func readLegacy(ctx context.Context, object storage.Object) error {
	in := io.NewSectionReader(object, 0, object.Size())
	head := make([]byte, 2)
	if _, err := in.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read: %w", err)
	}
	if datafile.Detect(head) != datafile.Gzip {
		return nil // the hash says all there is to say
	}
	d, err := gzip.NewReader(&cancelled{ctx, in})
	if err == nil {
		_, err = io.Copy(io.Discard, d)
	}
	if err != nil {
		return fmt.Errorf("it cannot be decompressed: %w", err)
	}
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

// contents reads a data file frame by frame and compares it with its index,
// and that with the manifest.
func (r *run) contents(ctx context.Context, object storage.Object, f file) []error {
	d, err := datafile.Open(object, object.Size())
	if err != nil {
		return []error{err}
	}
	var errs []error
	if err := restore.CheckIndex(d.Index, f.backup.Manifest, f.entry); err != nil {
		errs = append(errs, err)
	}
	c := newCounter(d.Index)
	var buffer []byte
	for i, frame := range d.Index.Frames {
		if ctx.Err() != nil {
			return errs
		}
		text, err := d.ReadFrame(i, buffer)
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
	errs = append(errs, c.judge()...)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Tables += int64(len(d.Index.Tables))
	r.report.Rows += c.rows
	if known, ok := r.uses[f.entry.Schema]; !ok || f.order < known.order {
		r.uses[f.entry.Schema] = use{f.order, f.entry.Tenant, d.Index.Header.Requires.Schemas}
	}
	return errs
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

// counter counts and hashes the rows of a data file while its frames go by.
type counter struct {
	index  *datafile.Index
	sums   []rowsum.Sum // by table
	lost   []bool       // rows of the table lie in a frame that cannot be read
	places map[int][]place
	hashes map[[2]int]hash.Hash // by table and segment, while it is read
	errs   []error
	rows   int64
	fresh  int64 // rows since take
}

// place is where rows lie in a frame.
type place struct {
	table, segment, piece int
	manifest.Piece
}

func newCounter(x *datafile.Index) *counter {
	c := &counter{
		index: x, sums: make([]rowsum.Sum, len(x.Tables)), lost: make([]bool, len(x.Tables)),
		places: map[int][]place{}, hashes: map[[2]int]hash.Hash{},
	}
	for t := range x.Tables {
		for s, g := range x.Tables[t].Segments {
			for p, piece := range g.Pieces {
				c.places[piece.Frame] = append(c.places[piece.Frame], place{t, s, p, piece})
			}
		}
	}
	return c
}

// damaged notes that a frame cannot be read.
func (c *counter) damaged(frame int) {
	for _, p := range c.places[frame] {
		c.lost[p.table] = true
	}
}

// frame counts the rows of one frame.
func (c *counter) frame(i int, text []byte) {
	for _, p := range c.places[i] {
		rows := text[p.Offset : p.Offset+p.Bytes]
		before := c.sums[p.table].Rows
		for rest := rows; len(rest) > 0; {
			end := bytes.IndexByte(rest, '\n') + 1
			if end == 0 {
				end = len(rest)
			}
			c.sums[p.table].Add(rest[:end])
			rest = rest[end:]
		}
		n := c.sums[p.table].Rows - before
		c.rows += n
		c.fresh += n
		c.hash(p, rows)
	}
}

// hash adds rows to the hash of their segment, whose pieces stand in the file
// in their order.
func (c *counter) hash(p place, rows []byte) {
	key := [2]int{p.table, p.segment}
	h := c.hashes[key]
	if h == nil {
		h = sha256.New()
		c.hashes[key] = h
	}
	h.Write(rows)
	g := c.index.Tables[p.table].Segments[p.segment]
	if p.piece < len(g.Pieces)-1 {
		return
	}
	delete(c.hashes, key)
	if got := hex.EncodeToString(h.Sum(nil)); got != g.Hash && !c.lost[p.table] {
		c.errs = append(c.errs, fmt.Errorf("segment %d of table %s has other contents than its index says", p.segment+1, c.index.Tables[p.table].Name))
	}
}

// take returns the rows that were counted since it was called before.
func (c *counter) take() int64 {
	n := c.fresh
	c.fresh = 0
	return n
}

// judge compares the sums with the index.
func (c *counter) judge() []error {
	errs := c.errs
	for i := range c.index.Tables {
		t := &c.index.Tables[i]
		switch {
		case c.lost[i]:
			errs = append(errs, fmt.Errorf("table %s: rows of it are in a frame that cannot be read", t.Name))
		case c.sums[i].Rows != t.Rows:
			errs = append(errs, fmt.Errorf("table %s has %d rows, its index says %d", t.Name, c.sums[i].Rows, t.Rows))
		case c.sums[i].Checksum() != t.Checksum:
			errs = append(errs, fmt.Errorf("table %s: the checksum of its %d rows is not that of its index", t.Name, t.Rows))
		}
	}
	return errs
}
