package backup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/wildcard"
)

// RowRules say whose rows a baseline holds. A pattern is the name of a table, or
// schema, dot and name, with * for any text and ? for one character; names are
// exact, upper and lower case included. A partition is meant by the names of the
// tables that it is a partition of, too. The zero value takes all rows.
type RowRules struct {
	Keep     []string // tables whose rows belong to the baseline
	Empty    []string // tables whose rows do not; they win over Keep
	Complete bool     // a table with rows that neither names is an error
	Strict   []string // patterns of the two that have to match a table
}

// decision is what becomes of the rows of a table.
type decision int

const (
	unlisted decision = iota
	kept
	emptied
)

// decide says what becomes of the rows of a table that goes by these names.
func (r *RowRules) decide(names []string) decision {
	any := func(patterns []string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool {
			return slices.ContainsFunc(names, func(name string) bool { return wildcard.Match(p, name) })
		})
	}
	switch {
	case any(r.Empty):
		return emptied
	case any(r.Keep):
		return kept
	default:
		return unlisted
	}
}

// UnlistedError is a template with rows of which nobody said whether they belong
// to it: they may be a customer's.
type UnlistedError struct {
	Schema string
	Rows   map[string]int64 // by table
}

// Error names the tables, with their rows.
func (e *UnlistedError) Error() string {
	return fmt.Sprintf("schema %q has rows in %s of which nothing says whether they belong to the template:%s",
		e.Schema, english.Plural(len(e.Rows), "table", ""), listCounts(e.Rows))
}

// Hint says how to list them.
func (e *UnlistedError) Hint() string {
	return "name the tables whose rows belong to it with --table-data and those that stay empty with --exclude-table-data, patterns like 'order*' included, or in tenantkeep.yaml; --all-rows takes all of them"
}

// DanglingError is a baseline whose rows refer to rows that it leaves out, so
// that its foreign keys could not be made again.
type DanglingError struct {
	Schema string
	Rows   map[string]int64 // by the foreign key
}

// Error names the foreign keys, with how many rows each concerns.
func (e *DanglingError) Error() string {
	return fmt.Sprintf("rows of schema %q that are to be in the baseline refer to rows of tables that stay empty:%s", e.Schema, listCounts(e.Rows))
}

// Hint says what to do.
func (e *DanglingError) Hint() string {
	return "let these tables stay empty too, with --exclude-table-data, or take the rows that they refer to, with --table-data"
}

// PatternError is a pattern that matches no table: most likely a slip of the pen.
type PatternError struct {
	Schema  string
	Pattern string
}

// Error names the pattern.
func (e *PatternError) Error() string {
	return fmt.Sprintf("no table of schema %q is meant by %q", e.Schema, e.Pattern)
}

// Hint says what a pattern is.
func (e *PatternError) Hint() string {
	return "names are exact, upper and lower case included; * stands for any text, ? for one character"
}

// PartitionError is a partition that is to stay empty though its rows can only be
// taken together with those of the whole table.
type PartitionError struct{ Partition, Table string }

// Error names both.
func (e *PartitionError) Error() string {
	return fmt.Sprintf("partition %q is to stay empty, but the rows of table %q can only be taken together", e.Partition, e.Table)
}

// Hint says what to do.
func (e *PartitionError) Hint() string {
	return fmt.Sprintf("let the whole table stay empty: --exclude-table-data %q", e.Table)
}

func listCounts(counts map[string]int64) string {
	var b strings.Builder
	for i, name := range slices.Sorted(maps.Keys(counts)) {
		if i == shownFailures {
			fmt.Fprintf(&b, "\n  and %d more", len(counts)-i)
			break
		}
		fmt.Fprintf(&b, "\n  %s: %s %s", name, humanize.Comma(counts[name]), english.PluralWord(int(min(counts[name], 2)), "row", ""))
	}
	return b.String()
}

// ruled is a table of a baseline and what becomes of its rows.
type ruled struct {
	pg.Relation
	decision
}

// rule decides about the rows of all tables of a tenant, and makes sure that what
// is left is a whole.
func (w *worker) rule(ctx context.Context, t *tenant) (map[uint32]ruled, error) {
	if w.Rows == nil {
		return nil, nil
	}
	ancestors, err := w.ancestors(ctx, t)
	if err != nil {
		return nil, err
	}
	tables := map[uint32]ruled{}
	used := map[string]bool{}
	for _, rel := range append(slices.Clone(t.relations), configRelations(t)...) {
		if rel.Kind != "r" && rel.Kind != "p" {
			continue
		}
		names := []string{rel.Name, rel.Schema + "." + rel.Name}
		names = append(names, ancestors[rel.OID]...)
		for _, p := range w.Rows.Strict {
			used[p] = used[p] || slices.ContainsFunc(names, func(name string) bool { return wildcard.Match(p, name) })
		}
		tables[rel.OID] = ruled{rel, w.Rows.decide(names)}
	}
	for _, p := range w.Rows.Strict {
		if !used[p] {
			return nil, &PatternError{t.Name, p}
		}
	}
	if w.Rows.Complete {
		if err := w.listed(ctx, t, tables); err != nil {
			return nil, err
		}
	}
	return tables, w.whole(ctx, t, tables)
}

// configRelations are the configuration tables of extensions, whose rows an
// extension asks to be saved.
func configRelations(t *tenant) []pg.Relation {
	var list []pg.Relation
	for _, c := range t.config {
		list = append(list, pg.Relation{Schema: c.Schema, OID: c.OID, Name: c.Name, Kind: c.Kind})
	}
	return list
}

// ancestors are the names of the tables that partitions belong to, by partition.
func (w *worker) ancestors(ctx context.Context, t *tenant) (map[uint32][]string, error) {
	var oids []uint32
	for _, rel := range t.relations {
		if rel.Partition {
			oids = append(oids, rel.OID)
		}
	}
	names := map[uint32][]string{}
	if len(oids) == 0 {
		return names, nil
	}
	rows, err := w.conn.Query(ctx, `
		WITH RECURSIVE tree (leaf, parent) AS (
			SELECT inhrelid, inhparent FROM pg_catalog.pg_inherits WHERE inhrelid = ANY($1)
			UNION ALL SELECT t.leaf, i.inhparent FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhrelid = t.parent)
		SELECT t.leaf, n.nspname, c.relname FROM tree t JOIN pg_catalog.pg_class c ON c.oid = t.parent JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace`, oids)
	if err != nil {
		return nil, fmt.Errorf("read partitions: %w", err)
	}
	var leaf uint32
	var schema, name string
	_, err = pgx.ForEachRow(rows, []any{&leaf, &schema, &name}, func() error {
		names[leaf] = append(names[leaf], name, schema+"."+name)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read partitions: %w", err)
	}
	return names, nil
}

// listed makes sure that a table of which nothing is said has no rows.
func (w *worker) listed(ctx context.Context, t *tenant, tables map[uint32]ruled) error {
	var unknown []ruled
	for _, table := range tables {
		if table.decision == unlisted && table.Kind == "r" && !slices.ContainsFunc(t.config, func(c pg.ConfigTable) bool { return c.OID == table.OID }) {
			unknown = append(unknown, table)
		}
	}
	counts := make([]string, len(unknown))
	for i, table := range unknown {
		counts[i] = "SELECT count(*) FROM ONLY " + pg.Identifier(table.Schema, table.Name)
	}
	found, err := w.count(ctx, counts)
	if err != nil {
		return fmt.Errorf("count rows: %w", err)
	}
	e := &UnlistedError{Schema: t.Name, Rows: map[string]int64{}}
	for i, n := range found {
		if n > 0 {
			e.Rows[unknown[i].Name] = n
		}
	}
	if len(e.Rows) > 0 {
		return e
	}
	return nil
}

// count runs queries of one number each, many in one message, and gives back the
// locks that they take.
func (w *worker) count(ctx context.Context, queries []string) ([]int64, error) {
	var counts []int64
	for part := range batches(queries, batchTables) {
		batch := pg.Batch{
			SQL: batchSavepoint + strings.Join(part, " UNION ALL ") + batchGiveBack,
			Row: func(_ int, values [][]byte) error {
				var n int64
				if _, err := fmt.Sscan(string(values[0]), &n); err != nil {
					return err
				}
				counts = append(counts, n)
				return nil
			},
		}
		if err := batch.Run(ctx, w.conn); err != nil {
			return nil, err
		}
	}
	return counts, nil
}

// whole makes sure that no row of the baseline refers to one that is left out,
// and notes the sequences of the tables that stay empty: they begin anew.
func (w *worker) whole(ctx context.Context, t *tenant, tables map[uint32]ruled) error {
	var full, empty []uint32
	for oid, table := range tables {
		if table.decision == emptied {
			empty = append(empty, oid)
		} else if table.Kind == "r" {
			full = append(full, oid)
		}
	}
	if len(empty) == 0 {
		return nil
	}
	rows, err := w.conn.Query(ctx, `
		SELECT pg_catalog.format('foreign key %I of %s, to %s', k.conname, c.relname, f.relname), pg_catalog.format('SELECT count(*) FROM ONLY %I.%I WHERE %s',
			n.nspname, c.relname, (SELECT pg_catalog.string_agg(pg_catalog.format('%I IS NOT NULL', a.attname), ' AND ')
				FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY(k.conkey)))
		FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_catalog.pg_class f ON f.oid = k.confrelid
		WHERE k.contype = 'f' AND k.conrelid = ANY($1) AND k.confrelid = ANY($2)`, full, empty)
	if err != nil {
		return fmt.Errorf("read foreign keys: %w", err)
	}
	var keys, counts []string
	var key, count string
	if _, err = pgx.ForEachRow(rows, []any{&key, &count}, func() error {
		keys, counts = append(keys, key), append(counts, count)
		return nil
	}); err != nil {
		return fmt.Errorf("read foreign keys: %w", err)
	}
	found, err := w.count(ctx, counts)
	if err != nil {
		return fmt.Errorf("count rows: %w", err)
	}
	e := &DanglingError{Schema: t.Name, Rows: map[string]int64{}}
	for i, n := range found {
		if n > 0 {
			e.Rows[keys[i]] = n
		}
	}
	if len(e.Rows) > 0 {
		return e
	}
	return w.restarts(ctx, t, empty)
}

// restarts notes where the sequences of tables begin.
func (w *worker) restarts(ctx context.Context, t *tenant, tables []uint32) error {
	rows, err := w.conn.Query(ctx, `
		SELECT s.seqrelid, s.seqstart FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_sequence s ON s.seqrelid = d.objid
		WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
		AND d.refobjid = ANY($1) AND d.deptype IN ('a', 'i')`, tables)
	if err != nil {
		return fmt.Errorf("read sequences: %w", err)
	}
	t.restarts = map[uint32]int64{}
	var oid uint32
	var start int64
	if _, err = pgx.ForEachRow(rows, []any{&oid, &start}, func() error {
		t.restarts[oid] = start
		return nil
	}); err != nil {
		return fmt.Errorf("read sequences: %w", err)
	}
	return nil
}

// refuses reports whether an error is that the rules for rows are not met, which
// ends the run.
func refuses(err error) bool {
	var unlisted *UnlistedError
	var dangling *DanglingError
	var pattern *PatternError
	var partition *PartitionError
	return errors.As(err, &unlisted) || errors.As(err, &dangling) || errors.As(err, &pattern) || errors.As(err, &partition)
}
