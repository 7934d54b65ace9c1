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
		r := Replaced{Name: l.name, Schema: l.Schema, Backup: l.Backup, Point: l.Point, At: l.At, oid: l.oid, comment: l.Comment, objects: l.Objects}
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
	Server      *pg.Server
	Schema      string        // whose last replacement is undone
	Replaced    string        // the name of a replaced schema of it; empty: the newest
	SwapTimeout time.Duration // 0: a minute
	Progress    Progress
	Now         func() time.Time // nil: time.Now
	// Confirm is asked once it is known what is going to be done.
	Confirm func(Replaced) error
}

// RollbackResult says what a rollback did.
type RollbackResult struct {
	Back     Replaced
	Replaced string  // what the schema is called now that was live until then; empty: there was none
	Blocked  float64 // seconds for which others could not use the tables
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

// Rollback swaps a replaced schema back. The schema that is live until then is
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
	conn, err := o.Server.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer pg.Close(conn)
	if err := pg.Lock(ctx, conn, "rollback"); err != nil {
		return nil, err
	}
	if err := setLockTimeout(ctx, conn, lockTimeout); err != nil {
		return nil, err
	}
	note := func(text string) { o.Progress.Note(slog.LevelWarn, "", text) }
	var list []Replaced
	err = untilFree(ctx, conn, o.Schema, o.SwapTimeout, note, func() (err error) {
		list, err = listReplaced(ctx, conn)
		return err
	})
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(r Replaced) bool {
		return r.Schema == o.Schema && (o.Replaced == "" || r.Name == o.Replaced)
	})
	if i < 0 {
		return nil, &NoReplacedError{Schema: o.Schema, Name: o.Replaced}
	}
	back := list[i]
	if o.Confirm != nil {
		if err := o.Confirm(back); err != nil {
			return nil, err
		}
	}
	if back.Schema == manifest.CoreSchema && !back.objects {
		return rollbackCore(ctx, conn, o, back)
	}
	err = untilFree(ctx, conn, back.Schema, o.SwapTimeout, note, func() error { return parentsInCore(ctx, conn, back, list) })
	if err != nil {
		return nil, err
	}
	own := ""
	if back.comment != nil {
		own = *back.comment
	}
	result := &RollbackResult{Back: back}
	x := exchange{incoming: back.Name, comment: commentSQL(back.Schema, own)}
	x.live.name, x.objects = back.Schema, back.objects
	err = conn.QueryRow(ctx, `SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1`, back.Schema).Scan(&x.live.oid)
	if errors.Is(err, pgx.ErrNoRows) {
		if err := x.rename(ctx, conn, o.SwapTimeout, note); err != nil {
			return nil, err
		}
		return result, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for schema %q: %w", back.Schema, err)
	}
	at := o.Now()
	if x.replaced, err = freeName(ctx, conn, back.Schema, "replaced", at); err != nil {
		return nil, err
	}
	x.label = label{State: stateReplaced, Schema: back.Schema, At: at}
	blocked, err := swap(ctx, o.Server, conn, []*exchange{&x}, o.SwapTimeout, note)
	if err != nil {
		return nil, err
	}
	result.Replaced, result.Blocked = x.replaced, blocked.Seconds()
	return result, nil
}

// The kinds of schemas that restores leave.
const (
	KindReplaced = "replaced" // was live until a restore took its place
	KindStaged   = "staged"   // restored and compared, but never swapped in
	KindRemains  = "remains"  // of a restore that died
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
}

// DropOptions say which schemas of tenantkeep's own to drop.
type DropOptions struct {
	Server *pg.Server
	// Before is the time up to which replaced schemas are dropped, and stagings
	// that wait for a swap. What a dead restore left unfinished is dropped in
	// any case.
	Before time.Time
	DryRun bool
	// Confirm is asked with all that is going to be dropped, unless it is
	// nothing.
	Confirm func([]Dropped) error
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
		if err := pg.Lock(ctx, conn, "cleanup"); err != nil {
			return nil, err
		}
	}
	if err := setLockTimeout(ctx, conn, lockTimeout); err != nil {
		return nil, err
	}
	all, err := listLabelled(ctx, conn)
	if err != nil {
		return nil, err
	}
	var list []Dropped
	var remains []remainder
	for _, l := range all {
		if l.State == stateRecovered || l.State != stateStaging && !l.At.Before(o.Before) {
			continue
		}
		d := Dropped{Name: l.name, Schema: l.Schema, Kind: kindOf(l.State), At: l.At}
		err := untilFree(ctx, conn, l.name, defaultSwapTimeout, func(string) {}, func() error {
			return conn.QueryRow(ctx, `SELECT coalesce(sum(pg_catalog.pg_total_relation_size(oid)), 0)::int8
				FROM pg_catalog.pg_class WHERE relnamespace = $1 AND relkind IN ('r', 'm')`, l.oid).Scan(&d.Bytes)
		})
		if err != nil {
			return nil, fmt.Errorf("look at schema %q: %w", l.name, err)
		}
		list = append(list, d)
		remains = append(remains, remainder{oid: l.oid, schema: l.name, backup: l.Backup})
	}
	if len(list) == 0 || o.DryRun {
		return list, nil
	}
	if o.Confirm != nil {
		if err := o.Confirm(list); err != nil {
			return nil, err
		}
	}
	s := &session{run: &run{}, conn: conn}
	if err := s.set(ctx); err != nil {
		return nil, err
	}
	left, err := s.removeSchemas(ctx, remains)
	for _, k := range left {
		i := slices.IndexFunc(list, func(d Dropped) bool { return d.Name == k.schema })
		list[i].Dependents = k.dependents
	}
	return list, err
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
