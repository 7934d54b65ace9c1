package restore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/media"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// Replaced is a schema that a restore, or a rollback, took the place of.
type Replaced struct {
	Name   string // of the schema as it is kept
	Schema string // whose place it had
	Backup string // that took its place; empty: another replaced schema did
	Point  string // the backup of it in rollback/; empty: none
	At     time.Time
	Tables int64
	Bytes  int64 // on disk, with indexes

	oid     uint32
	comment *string // its own
	objects bool    // of core: all of its objects
	media   string  // name of the move of its folder; empty: that was not touched

	// Registered says that rows elsewhere that register the tenant were changed
	// when it was replaced. A rollback leaves them as they are.
	Registered bool
}

// ListReplaced lists the replaced schemas of a database, the newest first.
func ListReplaced(ctx context.Context, server *pg.Server) ([]Replaced, error) {
	conn, err := server.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer pg.Close(conn)
	return listReplaced(ctx, conn)
}

func listReplaced(ctx context.Context, q pg.Querier) ([]Replaced, error) {
	all, err := listLabelled(ctx, q)
	if err != nil {
		return nil, err
	}
	var list []Replaced
	for _, l := range all {
		if l.State != stateReplaced {
			continue
		}
		r := Replaced{Name: l.name, Schema: l.Schema, Backup: l.Backup, Point: l.Point, At: l.At, oid: l.oid, comment: l.Comment, objects: l.Objects, media: l.Media, Registered: l.Registered}
		err := q.QueryRow(ctx, `
			SELECT count(*) FILTER (WHERE relkind IN ('r', 'p', 'f')),
				coalesce(sum(pg_catalog.pg_total_relation_size(oid)) FILTER (WHERE relkind IN ('r', 'm')), 0)::int8
			FROM pg_catalog.pg_class WHERE relnamespace = $1`, l.oid).Scan(&r.Tables, &r.Bytes)
		if err != nil {
			return nil, fmt.Errorf("look at schema %q: %w", l.name, err)
		}
		list = append(list, r)
	}
	slices.SortStableFunc(list, func(a, b Replaced) int { return b.At.Compare(a.At) })
	return list, nil
}

// RollbackOptions say what to swap back.
type RollbackOptions struct {
	Server *pg.Server
	// Schemas are those whose last replacement is undone, all in one transaction.
	// The tenant name of core means public, unless a schema has that name.
	Schemas     []string
	Replaced    string        // the name of a replaced schema of the only one; empty: the newest
	SwapTimeout time.Duration // 0: a minute
	// Media is where the tenants' files are, which go back where they were replaced
	// too. Nil: it is not known. With RowsOnly they stay as they are.
	Media    *media.Root
	RowsOnly bool
	Progress Progress
	Now      func() time.Time // nil: time.Now
	// Confirm is asked once it is known what is going to be done. With Asks the
	// lock of the database is not held meanwhile, and what was found is looked for
	// again afterwards.
	Confirm func([]Replaced) error
	Asks    bool
}

// RollbackResult says what a rollback did.
type RollbackResult struct {
	Schemas []RolledBack
	Blocked float64 // seconds for which others could not use the tables
}

// RolledBack is one schema of a rollback.
type RolledBack struct {
	Back     Replaced
	Replaced string // what the schema is called now that was live until then; empty: there was none
}

// NoReplacedError says that there is no replaced schema to swap back.
type NoReplacedError struct{ Schema, Name string }

// Error names what was looked for.
func (e *NoReplacedError) Error() string {
	if e.Name != "" {
		return fmt.Sprintf("there is no replaced schema %q of %q", e.Name, e.Schema)
	}
	return fmt.Sprintf("no replaced schema of %q is kept in the database", e.Schema)
}

// ErrChangedMeanwhile says that what somebody was asked about is not so any more.
var ErrChangedMeanwhile = errors.New("the database changed while the question waited for its answer; nothing was done")

// rollback is one at work.
type rollback struct {
	RollbackOptions
	conn  *pgx.Conn
	all   []Replaced // that are kept in the database
	backs []Replaced // that go back, core last
}

// Rollback swaps replaced schemas back. The schemas that are live until then are
// kept in the same way, so that a rollback can be undone by another.
func Rollback(ctx context.Context, o RollbackOptions) (*RollbackResult, error) {
	if o.SwapTimeout == 0 {
		o.SwapTimeout = defaultSwapTimeout
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Progress == nil {
		o.Progress = silent{}
	}
	r := &rollback{RollbackOptions: o}
	defer func() { pg.Close(r.conn) }()
	if err := r.find(ctx, !o.Asks); err != nil {
		return nil, err
	}
	if o.Confirm != nil {
		if err := o.Confirm(r.backs); err != nil {
			return nil, err
		}
	}
	if o.Asks {
		asked := r.backs
		if err := r.find(ctx, true); err != nil {
			return nil, err
		}
		if !slices.EqualFunc(asked, r.backs, func(a, b Replaced) bool { return a.oid == b.oid && a.Name == b.Name }) {
			return nil, ErrChangedMeanwhile
		}
	}
	return r.swap(ctx)
}

func (r *rollback) note(text string) { r.Progress.Note(slog.LevelWarn, "", text) }

// find connects and finds what goes back.
func (r *rollback) find(ctx context.Context, lock bool) (err error) {
	pg.Close(r.conn)
	if r.conn, err = r.Server.Connect(ctx); err != nil {
		return err
	}
	if lock {
		if err := pg.LockSchemas(ctx, r.conn, "rollback"); err != nil {
			return err
		}
	}
	if err := setLockTimeout(ctx, r.conn, lockTimeout); err != nil {
		return err
	}
	if r.Media, err = bindMedia(ctx, r.conn, r.Media); err != nil {
		return err
	}
	err = untilFree(ctx, r.conn, r.Schemas[0], r.SwapTimeout, r.note, func() (err error) {
		r.all, err = listReplaced(ctx, r.conn)
		return err
	})
	if err != nil {
		return err
	}
	r.backs = nil
	for _, name := range r.Schemas {
		if name == manifest.CoreTenant {
			there, err := schemaExists(ctx, r.conn, name)
			if err != nil {
				return err
			}
			if !there && !slices.ContainsFunc(r.all, func(l Replaced) bool { return l.Schema == name }) {
				name = manifest.CoreSchema
			}
		}
		i := slices.IndexFunc(r.all, func(l Replaced) bool {
			return l.Schema == name && (r.Replaced == "" || l.Name == r.Replaced)
		})
		if i < 0 {
			return &NoReplacedError{Schema: name, Name: r.Replaced}
		}
		if !slices.ContainsFunc(r.backs, func(b Replaced) bool { return b.Name == r.all[i].Name }) {
			r.backs = append(r.backs, r.all[i])
		}
	}
	// Tenants are locked before core: so do those who write rows that refer to it.
	slices.SortStableFunc(r.backs, func(a, b Replaced) int {
		if a.Schema == b.Schema || a.Schema != manifest.CoreSchema && b.Schema != manifest.CoreSchema {
			return 0
		}
		if a.Schema == manifest.CoreSchema {
			return 1
		}
		return -1
	})
	return nil
}

// core is the place of core among those that go back; -1: it does not.
func (r *rollback) core() int {
	return slices.IndexFunc(r.backs, func(b Replaced) bool { return b.Schema == manifest.CoreSchema })
}

// swap does it.
func (r *rollback) swap(ctx context.Context) (*RollbackResult, error) {
	core := r.core()
	if core >= 0 && r.backs[core].objects && len(r.backs) > 1 {
		return nil, &UnsupportedError{
			Reason: "the objects of core were replaced, not only its rows: they cannot go back together with tenants",
			Remedy: "roll back core (public) alone, then the tenants",
		}
	}
	if err := r.settleMedia(ctx); err != nil {
		return nil, err
	}
	result := &RollbackResult{}
	var list []*exchange
	at := r.Now()
	for _, back := range r.backs {
		x, err := r.exchange(ctx, back, at)
		if err != nil {
			return nil, err
		}
		if x.live.oid == 0 { // nothing is live in its place
			if len(r.backs) > 1 {
				return nil, &UnsupportedError{
					Reason: fmt.Sprintf("there is no live schema %q: what goes back together takes the place of live schemas", back.Schema),
					Remedy: "roll back that one alone, with a command of its own",
				}
			}
			if err := x.rename(ctx, r.conn, r.SwapTimeout, r.note); err != nil {
				return nil, err
			}
			if err := r.placeMedia(x); err != nil {
				return nil, err
			}
			result.Schemas = []RolledBack{{Back: back}}
			return result, nil
		}
		list = append(list, x)
		result.Schemas = append(result.Schemas, RolledBack{Back: back, Replaced: x.replaced})
	}
	if core >= 0 && list[core].rows != nil {
		for _, x := range list[:core] {
			list[core].rows.leave = append(list[core].rows.leave, x.live.name)
			list[core].rows.take = append(list[core].rows.take, x.incoming)
		}
	}
	blocked, err := swap(ctx, r.Server, r.conn, list, r.SwapTimeout, r.note)
	if err != nil {
		return nil, err
	}
	result.Blocked = blocked.Seconds()
	for _, x := range list {
		if err := r.placeMedia(x); err != nil {
			return nil, err
		}
	}
	if core >= 0 && list[core].rows != nil {
		s := &session{run: &run{}, conn: r.conn}
		for _, p := range refreshViews(ctx, s, list[core].live.oid) {
			r.note(fmt.Sprintf("materialized view %s: %v; %s", p.Object, p.Err, p.Remedy))
		}
	}
	return result, nil
}

// exchange prepares the way back of one schema.
func (r *rollback) exchange(ctx context.Context, back Replaced, at time.Time) (*exchange, error) {
	own := ""
	if back.comment != nil {
		own = *back.comment
	}
	x := &exchange{
		incoming: back.Name, comment: commentSQL(back.Schema, own), objects: back.objects,
		live: live{name: back.Schema}, label: label{State: stateReplaced, Schema: back.Schema, At: at},
	}
	if r.core() < 0 { // else the exchange of core looks itself
		err := untilFree(ctx, r.conn, back.Schema, r.SwapTimeout, r.note, func() error { return parentsInCore(ctx, r.conn, back, r.all) })
		if err != nil {
			return nil, err
		}
	}
	err := r.conn.QueryRow(ctx, `SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1`, back.Schema).Scan(&x.live.oid)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("look for schema %q: %w", back.Schema, err)
	}
	if x.move, err = r.backMedia(back, x.live.oid != 0); err != nil {
		return nil, err
	}
	if x.move != nil {
		x.label.Media = x.move.Name
	}
	if x.live.oid == 0 {
		return x, nil
	}
	if x.replaced, err = freeName(ctx, r.conn, back.Schema, "replaced", at); err != nil {
		return nil, err
	}
	if back.Schema == manifest.CoreSchema && !back.objects {
		x.rows = &rowSwap{public: x.live.oid, other: back.Name, again: true, replaced: x.replaced, label: x.label}
	}
	return x, nil
}

// The kinds of schemas that restores leave.
const (
	KindReplaced = "replaced" // was live until a restore took its place
	KindStaged   = "staged"   // restored and compared, but never swapped in
	KindRemains  = "remains"  // of a restore that died
	KindFolder   = "folder"   // with files of a tenant, that restores replaced or left
)

// Dropped is a schema of tenantkeep's own that was dropped, or was not because
// of what depends on it.
type Dropped struct {
	Name       string
	Schema     string
	Kind       string
	At         time.Time
	Bytes      int64
	Dependents []string // not empty: it is still there
	// Waits says why it is still there, although its time has passed; empty: it goes.
	Waits string

	folder LeftFolder // of KindFolder
}

// DropOptions say which schemas of tenantkeep's own to drop.
type DropOptions struct {
	Server *pg.Server
	// Before is the time up to which replaced schemas are dropped, and stagings
	// that wait for a swap. What a dead restore left unfinished is dropped in
	// any case.
	Before time.Time
	DryRun bool
	// Only says which of these are to go. Nil: all.
	Only func(Dropped) bool
	// Media is where the tenants' files are, of which those go that belong to such
	// schemas. Nil: it is not known, and the schemas stay to which some belong.
	Media *media.Root
	// Note is told what was done with folders that interrupted restores have left. Nil:
	// nobody needs to know.
	Note func(string)
	// Kept is told of the replaced schemas before any of them goes, while no
	// restore is at work; an error keeps them all. It is not called in a dry run.
	// Nil: nobody needs to know.
	Kept func(context.Context, []Replaced) error
}

// DropOwn drops schemas that nobody needs any more: those that restores
// replaced, and what dead ones left. Tables are dropped in steps that fit the
// server's lock table. A schema on which something outside depends stays.
func DropOwn(ctx context.Context, o DropOptions) ([]Dropped, error) {
	conn, err := o.Server.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer pg.Close(conn)
	if !o.DryRun {
		if err := pg.LockSchemas(ctx, conn, "cleanup"); err != nil {
			return nil, err
		}
	}
	if err := setLockTimeout(ctx, conn, lockTimeout); err != nil {
		return nil, err
	}
	if o.Kept != nil && !o.DryRun {
		if err := o.tellKept(ctx, conn); err != nil {
			return nil, err
		}
	}
	if o.Media, err = bindMedia(ctx, conn, o.Media); err != nil {
		return nil, err
	}
	if !o.DryRun {
		if err := o.settleMedia(ctx, conn); err != nil {
			return nil, err
		}
	}
	left, err := LeftMedia(ctx, conn, o.Media)
	if err != nil {
		return nil, err
	}
	list, remains, err := o.find(ctx, conn, left)
	if err != nil {
		return nil, err
	}
	folders := o.findFolders(left, list)
	if o.DryRun || len(list)+len(folders) == 0 {
		return append(list, folders...), nil
	}
	s := &session{run: &run{}, conn: conn}
	if err := s.set(ctx); err != nil {
		return nil, err
	}
	kept, err := s.removeSchemas(ctx, remains)
	for _, k := range kept {
		i := slices.IndexFunc(list, func(d Dropped) bool { return d.Name == k.schema })
		list[i].Dependents = k.dependents
	}
	if err != nil {
		return list, err
	}
	return o.dropFolders(list, folders)
}

func (o *DropOptions) tellKept(ctx context.Context, conn *pgx.Conn) error {
	var kept []Replaced
	err := untilFree(ctx, conn, "of restores", defaultSwapTimeout, func(string) {}, func() (err error) {
		kept, err = listReplaced(ctx, conn)
		return err
	})
	if err != nil {
		return err
	}
	return o.Kept(ctx, kept)
}

// find finds the schemas that are to be dropped.
func (o *DropOptions) find(ctx context.Context, conn *pgx.Conn, left []LeftFolder) (list []Dropped, remains []remainder, err error) {
	all, err := listLabelled(ctx, conn)
	if err != nil {
		return nil, nil, err
	}
	for _, l := range all {
		if l.State == stateRecovered || l.State != stateStaging && !l.since(left).Before(o.Before) {
			continue
		}
		d := Dropped{Name: l.name, Schema: l.Schema, Kind: kindOf(l.State), At: l.At, Waits: o.waits(&l, left)}
		err := untilFree(ctx, conn, l.name, defaultSwapTimeout, func(string) {}, func() error {
			return conn.QueryRow(ctx, `SELECT coalesce(sum(pg_catalog.pg_total_relation_size(oid)), 0)::int8
				FROM pg_catalog.pg_class WHERE relnamespace = $1 AND relkind IN ('r', 'm')`, l.oid).Scan(&d.Bytes)
		})
		if err != nil {
			return nil, nil, fmt.Errorf("look at schema %q: %w", l.name, err)
		}
		if o.Only == nil || o.Only(d) {
			list = append(list, d)
			if d.Waits == "" {
				remains = append(remains, remainder{oid: l.oid, schema: l.name, backup: l.Backup})
			}
		}
	}
	return list, remains, nil
}

func kindOf(s state) string {
	switch s {
	case stateReplaced:
		return KindReplaced
	case stateStaged:
		return KindStaged
	}
	return KindRemains
}
