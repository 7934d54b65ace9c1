package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/copybin"
	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/media"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/registry"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// Kinds of statements that are treated in a way of their own.
const (
	kindSchema          = "SCHEMA"
	kindOwner           = "OWNER"
	kindComment         = "COMMENT"
	kindSecurityLabel   = "SECURITY LABEL"
	kindACL             = "ACL"
	kindDefaultACL      = "DEFAULT ACL"
	kindExtension       = "EXTENSION"
	kindForeignKey      = "FK CONSTRAINT"
	kindConstraint      = "CONSTRAINT"
	kindIndex           = "INDEX"
	kindEventTrigger    = "EVENT TRIGGER"
	kindLargeObjectData = "LARGE OBJECT DATA"
)

// unit is one data file being restored.
type unit struct {
	entry manifest.Schema
	core  bool
	file  *datafile.File // nil: it cannot be read
	// imported is an archive of its files that is in no repository. Nil: it is where
	// the entry says.
	imported *media.Archive
	data     *data

	// schemas are those that the file makes; comments are the statements that
	// give them their own comments, which stand in the place of the mark last.
	schemas  []string
	comments map[string]string
	present  map[string]bool // schemas of the file that exist already, with nothing but extensions in them
	mask     *mask           // nil: the schemas are made under their own names
	target   string          // what the masked schema will be called
	live     *live           // what it takes the place of; nil: nothing
	inUse    *coreInUse      // of core, whose rows are exchanged; nil: it is made anew
	objects  *coreObjects    // of core, whose objects are exchanged
	resumed  bool            // the staging schema is complete already
	comment  *string         // of the schema that a script made; nil: none
	textual  map[string]bool // tables whose rows need the mask, see findTextual
	files    *files          // that are put back with it; nil: none
	kept     map[string]bool // the tables that are restored; nil: all
	// early are the tables whose indexes on columns are built as soon as their
	// rows are there.
	early map[tableKey]bool
	// analyzed are the tables whose statistics are gathered with the comparison.
	analyzed map[*manifest.Table]bool

	began, ended time.Time

	mu       sync.Mutex
	err      error
	problems []Problem
	notes    []string
	left     bool                // remains could not be removed
	finished bool                // its mark is taken off: it stays, whatever becomes of others
	prebuilt map[string]prebuilt // of the indexes of big tables, by name
	formats  map[*manifest.Table]*copybin.Format
	sent     map[*manifest.Table]*sentRows // of big tables that the server can digest
	replaced string                        // name of the schema whose place was taken
	point    string                        // its backup
	blocked  time.Duration
	access   []AccessChange // how it differs from the schema whose place it takes
	staged   string         // the schema that could not be swapped in
	loaded   arrival
	lacks    []int // of a resumed one, see label

	registered *registry.Report // nil: nobody looked at the rows that register it
}

// fail gives the unit up; the first reason is kept.
func (u *unit) fail(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err == nil {
		u.err = err
	}
}

func (u *unit) failed() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err != nil
}

func (u *unit) problem(p Problem) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.problems = append(u.problems, p)
}

func (u *unit) note(text string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.notes = append(u.notes, text)
}

func (u *unit) rows() (n int64) {
	for i := range u.file.Index.Tables {
		n += u.file.Index.Tables[i].Rows
	}
	return n
}

func (u *unit) bytes() (n int64) {
	for i := range u.file.Index.Tables {
		n += u.file.Index.Tables[i].Bytes
	}
	return n
}

// newName is the name that the schema of the unit gets.
func (u *unit) newName(as string) string {
	if as != "" {
		return as
	}
	return u.entry.Schema
}

// schemaOf is the schema of a statement.
func (u *unit) schemaOf(s datafile.Statement) string {
	if s.Schema != "" {
		return s.Schema
	}
	return u.entry.Schema
}

// tableSchema is the schema of a table.
func (u *unit) tableSchema(t *manifest.Table) string {
	if t.Schema != "" {
		return t.Schema
	}
	return u.entry.Schema
}

// step is one statement and its text.
type step struct {
	unit *unit
	datafile.Statement
	sql   string
	index int // in the list of the file
	// inPlace says that the text names the staging schema by its own name.
	inPlace bool
}

// object names what a step is about.
func (s step) object() string {
	if s.Table != "" && !strings.Contains(s.Tag, s.Table) {
		return s.Tag + " on " + s.Table
	}
	return s.Tag
}

// steps reads the statements of the file that want takes, in their order.
func (u *unit) steps(ctx context.Context, want func(i int, s datafile.Statement) bool) ([]step, error) {
	if err := u.data.acquire(ctx); err != nil {
		return nil, err
	}
	defer u.data.release()
	var steps []step
	frame, text := -1, []byte(nil)
	for i, s := range u.file.Index.Statements {
		if !want(i, s) {
			continue
		}
		if s.Frame != frame {
			var err error
			if text, err = u.file.ReadFrame(s.Frame, text); err != nil {
				return nil, err
			}
			frame = s.Frame
		}
		steps = append(steps, step{unit: u, Statement: s, index: i, sql: string(text[s.Offset : s.Offset+s.Length])})
	}
	return steps, nil
}

// skipped reports whether an option leaves a statement out.
func (r *run) skipped(u *unit, s datafile.Statement) bool {
	if !r.wanted(u, s) && u.file.Index.Frames[s.Frame].Kind == datafile.PostDataFrame {
		return true
	}
	if u.inUse != nil {
		return true // all objects are there
	}
	switch s.Kind {
	case kindOwner:
		return r.NoOwner
	case kindACL, kindDefaultACL:
		return r.NoPrivileges
	}
	// The publications of a live schema go over to the one that replaces it.
	return u.swaps() && isMembership(s)
}

// isMembership reports whether a statement puts tables into a publication.
func isMembership(s datafile.Statement) bool { return strings.HasPrefix(s.Kind, "PUBLICATION TABLE") }

// phases of the statements after the rows, in the order of execution.
type phase int

const (
	phaseIndexes phase = iota
	phaseMain
	phaseForeignKeys // need the unique constraints and the rows of all schemas
	phaseAfterKeys   // would hide rows from the check of a foreign key, or need what others make
	phaseGrants
	phaseRefresh
	phaseEventTriggers // would fire during the others
	phases
)

// phasesOf gives the phase of each statement of an index; of those before the
// rows it says nothing. Owners, comments and labels go with the object that
// they follow, though never before phaseMain.
func phasesOf(x *datafile.Index) []phase {
	list := make([]phase, len(x.Statements))
	last := phaseMain
	for i, s := range x.Statements {
		switch s.Kind {
		case kindIndex, kindConstraint:
			last = phaseIndexes
		case kindForeignKey:
			last = phaseForeignKeys
		case "POLICY", "ROW SECURITY", "PUBLICATION", "PUBLICATION TABLE", "PUBLICATION TABLES IN SCHEMA":
			last = phaseAfterKeys
		case kindACL, kindDefaultACL:
			last = phaseGrants
		case "REFRESH":
			last = phaseRefresh
		case kindEventTrigger:
			last = phaseEventTriggers
		case kindOwner, kindComment, kindSecurityLabel:
			if strings.HasPrefix(s.Tag, kindEventTrigger+" ") {
				last = phaseEventTriggers
			}
			last = max(last, phaseMain)
		default:
			last = phaseMain
		}
		list[i] = last
	}
	return list
}

// isSchemaComment reports whether a statement gives a schema its comment.
func isSchemaComment(s datafile.Statement) bool {
	return s.Kind == kindComment && strings.HasPrefix(s.Tag, kindSchema+" ")
}

// choose makes the units of what is to be restored, core first.
func (r *run) choose() error {
	m := r.Manifest
	if m.Format == 0 {
		return &UnsupportedError{
			Reason: "the backup was made by the original system: its files are plain scripts of pg_dump",
			Remedy: "restore a file of it: tenantkeep restore --backup-file FILE",
		}
	}
	chosen := map[string]bool{} // names of schemas
	for _, name := range r.Schemas {
		of, err := named(m, name)
		if err != nil {
			return err
		}
		for _, schema := range of {
			chosen[schema] = true
		}
	}
	for _, entry := range m.Schemas {
		if len(r.Schemas) > 0 && !chosen[entry.Schema] {
			continue
		}
		u := &unit{entry: entry, core: entry.IsCore(), comments: map[string]string{}, present: map[string]bool{}}
		u.data = &data{repo: r.Repo, manifest: m, entry: entry}
		if u.core {
			r.core = u
			r.units = slices.Insert(r.units, 0, u)
		} else {
			r.units = append(r.units, u)
		}
	}
	if len(r.units) == 0 {
		return fmt.Errorf("backup %s holds no schema", m.ID)
	}
	return nil
}

// named returns the schemas that a name means: the schema of that name, else
// those of the tenant. A schema may well be called "core".
func named(m *manifest.Manifest, name string) ([]string, error) {
	var ofTenant []string
	for _, e := range m.Schemas {
		if e.Schema == name {
			return []string{name}, nil
		}
		if e.Tenant == name {
			ofTenant = append(ofTenant, e.Schema)
		}
	}
	if len(ofTenant) > 0 {
		return ofTenant, nil
	}
	for _, f := range m.Failures {
		if name == f.Schema || name == f.Tenant {
			return nil, fmt.Errorf("tenant %s is not in backup %s: saving it failed: %s", name, m.ID, f.Error)
		}
	}
	return nil, &UnknownSchemaError{Name: name, Backup: m.ID}
}

// UnknownSchemaError is a name that the backup does not have.
type UnknownSchemaError struct{ Name, Backup string }

// Error names both.
func (e *UnknownSchemaError) Error() string {
	return fmt.Sprintf("backup %s has no schema or tenant %q", e.Backup, e.Name)
}

// Hint says where to look.
func (e *UnknownSchemaError) Hint() string {
	return "tenantkeep list --format json shows what each backup holds"
}

// UnsupportedError is a backup that this version does not restore.
type UnsupportedError struct{ Reason, Remedy string }

// Error is the reason.
func (e *UnsupportedError) Error() string { return e.Reason }

// Hint is the remedy.
func (e *UnsupportedError) Hint() string { return e.Remedy }

// data is a data file that is open while somebody reads it, so that a restore
// of thousands of tenants does not hold as many files.
type data struct {
	repo     *repo.Repo
	manifest *manifest.Manifest
	entry    manifest.Schema

	mu       sync.Mutex
	object   storage.Object
	referred []referred // files of earlier backups that it refers to
	users    int
}

// referred is a file that a data file refers to, open as long as that one.
type referred struct {
	datafile.FileRef
	data   *data
	object storage.Object
}

// ReadAt reads from the open file.
func (r *referred) ReadAt(p []byte, off int64) (int, error) { return r.data.readAt(&r.object, p, off) }

// acquire opens the file, unless it is open. release must follow.
func (d *data) acquire(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.users == 0 {
		if err := d.open(ctx); err != nil {
			return errors.Join(err, d.close())
		}
	}
	d.users++
	return nil
}

func (d *data) open(ctx context.Context) (err error) {
	if d.object, err = d.repo.OpenData(ctx, d.manifest, d.entry); err != nil {
		return err
	}
	for i := range d.referred {
		if err := d.referred[i].open(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (r *referred) open(ctx context.Context) (err error) {
	r.object, err = r.data.repo.OpenReferred(ctx, r.FileRef)
	return err
}

func (d *data) close() error {
	var errs []error
	for i := range d.referred {
		if o := &d.referred[i].object; *o != nil {
			errs = append(errs, (*o).Close())
			*o = nil
		}
	}
	if d.object != nil {
		errs = append(errs, d.object.Close())
		d.object = nil
	}
	return errors.Join(errs...)
}

// refer opens the files that an open file refers to, and keeps them open as long
// as that one.
func (d *data) refer(ctx context.Context, f *datafile.File) error {
	sources, err := d.openReferred(ctx, f.Index.Header.Files)
	if err != nil {
		return err
	}
	return f.Refer(sources)
}

func (d *data) openReferred(ctx context.Context, files []datafile.FileRef) ([]io.ReaderAt, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.referred = make([]referred, len(files))
	sources := make([]io.ReaderAt, len(files))
	for i, ref := range files {
		r := &d.referred[i]
		*r = referred{FileRef: ref, data: d}
		if err := r.open(ctx); err != nil {
			return nil, err
		}
		sources[i] = r
	}
	return sources, nil
}

func (d *data) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.users--
	if d.users == 0 {
		_ = d.close() // it was only read
	}
}

// ReadAt reads from the open file.
func (d *data) ReadAt(p []byte, off int64) (int, error) { return d.readAt(&d.object, p, off) }

func (d *data) readAt(object *storage.Object, p []byte, off int64) (int, error) {
	d.mu.Lock()
	o := *object
	d.mu.Unlock()
	if o == nil {
		return 0, errors.New("read a data file that is not open")
	}
	return o.ReadAt(p, off)
}

// qualified is the name of a table in SQL.
func (u *unit) qualified(t *manifest.Table) string {
	return pg.Identifier(u.place(u.tableSchema(t)), t.Name)
}

// columns is a list of columns in SQL.
func columns(t *manifest.Table) string {
	names := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		names[i] = pg.Identifier(c)
	}
	return strings.Join(names, ", ")
}
