package backup

import (
	"context"
	"encoding/hex"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgdump"
)

const slogWarn = slog.LevelWarn

type statement = pgdump.Statement

// Kinds of statements that pg_dump's table of contents does not have.
const (
	kindSequenceSet     = "SEQUENCE SET"
	kindLargeObjectData = "LARGE OBJECT DATA"
)

// writeHeader writes the frame that begins a file: what it is, and the settings
// under which the rest is to be read.
func (w *worker) writeHeader(t *tenant, typ manifest.Type, file *datafile.Writer) error {
	if typ == manifest.Incremental {
		w.enc.Begin(datafile.GuardFrame)
		if _, err := w.enc.Write([]byte(guard)); err != nil {
			return err
		}
		if err := w.append(file); err != nil {
			return err
		}
	}
	w.enc.Begin(datafile.HeaderFrame)
	_, err := fmt.Fprintf(w.enc, "-- tenantkeep: schema %q of database %q, as of %s\n-- A script for psql -v ON_ERROR_STOP=1; its last lines are an index.\n\n%s\n",
		t.Name, w.info.Name, w.snapshot.Time.Format("2006-01-02 15:04:05 UTC"), pgdump.Header(w.encoding))
	if err != nil {
		return err
	}
	return w.append(file)
}

// guard keeps psql from loading a part of a schema.
const guard = `-- This file holds only what changed since earlier backups: it is no script by
-- itself. "tenantkeep export" makes one of it.
\set ON_ERROR_STOP on
DO $$ BEGIN RAISE EXCEPTION 'this file is a part of an incremental backup: load what "tenantkeep export" makes of it'; END $$;

`

func (w *worker) append(file *datafile.Writer) error {
	if _, err := file.Append(w.enc); err != nil {
		return &storageError{err}
	}
	return nil
}

// writeDefinitions writes definitions: those that pg_dump gave, or those of the
// parent.
func (w *worker) writeDefinitions(t *tenant, e *earlier, kind datafile.FrameKind, statements []statement, file *datafile.Writer) error {
	if t.reused {
		return w.writeAgain(t, e, kind, file)
	}
	return w.writeStatements(t, e, file, kind, statements)
}

// listDefinitions writes the list of the statements of definitions.
func (w *worker) listDefinitions(t *tenant, e *earlier, file *datafile.Writer) error {
	if t.reused {
		return w.writeAgain(t, e, datafile.StatementsFrame, file)
	}
	if err := file.BeginStatements(w.enc); err != nil {
		return err
	}
	_, err := w.appendOrRefer(file, datafile.StatementsFrame, e)
	return err
}

// writeAgain writes the frames of a kind that the parent has, or refers to them
// where that is the earlier file.
func (w *worker) writeAgain(t *tenant, e *earlier, kind datafile.FrameKind, file *datafile.Writer) error {
	if e != nil {
		for i, f := range e.Index.Frames {
			if f.Kind == kind {
				e.refer(file, i)
			}
		}
		return nil
	}
	for _, f := range t.frames {
		if f.Kind != kind {
			continue
		}
		if err := w.storeAgain(f, file); err != nil {
			return err
		}
	}
	return nil
}

// storeAgain writes a frame of another file.
func (w *worker) storeAgain(f storedFrame, file *datafile.Writer) error {
	if !f.stored {
		w.enc.Begin(f.Kind)
		if _, err := w.enc.Write(f.bytes); err != nil {
			return err
		}
		return w.append(file)
	}
	if _, err := file.AppendStored(f.Frame, f.bytes); err != nil {
		return &storageError{err}
	}
	return nil
}

// writeStatements writes statements as frames of a kind, and into the index. A
// frame that the earlier file holds is referred to; nil is no such file.
func (w *worker) writeStatements(t *tenant, e *earlier, file *datafile.Writer, kind datafile.FrameKind, statements []statement) error {
	for len(statements) > 0 {
		w.enc.Begin(kind)
		var entries []datafile.Statement
		for len(statements) > 0 && w.enc.Size() < datafile.FrameTarget {
			st := statements[0]
			statements = statements[1:]
			entry := datafile.Statement{Offset: w.enc.Size(), Length: int64(len(st.SQL)), Kind: st.Kind, Tag: st.Tag, Table: st.Table, Role: st.Role}
			if st.Schema != t.Name {
				entry.Schema = st.Schema
			}
			entries = append(entries, entry)
			if _, err := w.enc.Write([]byte(st.SQL + "\n")); err != nil {
				return err
			}
		}
		n, err := w.appendOrRefer(file, kind, e)
		if err != nil {
			return err
		}
		for i := range entries {
			entries[i].Frame = n
		}
		file.AddStatements(entries...)
	}
	return nil
}

func (w *worker) appendOrRefer(file *datafile.Writer, kind datafile.FrameKind, e *earlier) (int, error) {
	if e != nil {
		if i, ok := e.frames[frameContent{kind, w.enc.Digest()}]; ok {
			return e.refer(file, i), nil
		}
	}
	n, err := file.Append(w.enc)
	if err != nil {
		return 0, &storageError{err}
	}
	return n, nil
}

// sequence is a sequence of a tenant, and where it stands.
type sequence struct {
	schema, name string
	logged       bool
	last         string // empty: not known yet
	called       bool
}

func (s *sequence) statement() statement {
	return statement{
		Schema: s.schema, Kind: kindSequenceSet, Tag: s.name,
		SQL: fmt.Sprintf("SELECT pg_catalog.setval(%s, %s, %t);\n", pg.Literal(pg.Identifier(s.schema, s.name)), s.last, s.called),
	}
}

// listSequences lists the sequences of a tenant, with what is known of them, and
// before them, as statements, those that begin anew.
func listSequences(t *tenant) (all []*sequence, restarted []statement) {
	for _, rel := range t.relations {
		if rel.Kind != "S" {
			continue
		}
		s := &sequence{schema: rel.Schema, name: rel.Name, logged: rel.Persistent == "p"}
		if start, ok := t.restarts[rel.OID]; ok {
			s.last = strconv.FormatInt(start, 10)
			restarted = append(restarted, s.statement())
			continue
		}
		if value, ok := t.last[rel.OID]; ok {
			s.last, s.called = strconv.FormatInt(value, 10), true
		}
		all = append(all, s)
	}
	for _, c := range t.config {
		if c.Kind == "S" {
			all = append(all, &sequence{schema: c.Schema, name: c.Name})
		}
	}
	return all, restarted
}

// readSequences reads where those sequences stand of which it is not known: they
// are read as tables. The lock that the server's own function takes belongs to
// the whole transaction, and no savepoint gives it back.
func (w *worker) readSequences(ctx context.Context, sequences []*sequence) error {
	for part := range batches(unknown(sequences), batchTables) {
		batch := pg.Batch{SQL: batchSavepoint + selectSequences(part) + batchGiveBack, Row: takeSequence(part)}
		if err := batch.Run(ctx, w.conn); err != nil {
			return fmt.Errorf("read sequences: %w", err)
		}
	}
	return nil
}

// unknown are those of which it is not known where they stand.
func unknown(sequences []*sequence) []*sequence {
	return slices.DeleteFunc(slices.Clone(sequences), func(s *sequence) bool { return s.last != "" })
}

func selectSequences(sequences []*sequence) string {
	var selects []string
	for i, s := range sequences {
		selects = append(selects, fmt.Sprintf("SELECT %d, last_value, is_called FROM %s", i, pg.Identifier(s.schema, s.name)))
	}
	return strings.Join(selects, " UNION ALL ")
}

// takeSequence takes the rows of selectSequences.
func takeSequence(sequences []*sequence) func(int, [][]byte) error {
	return func(_ int, values [][]byte) error {
		i, err := strconv.Atoi(string(values[0]))
		if err != nil {
			return err
		}
		sequences[i].last, sequences[i].called = string(values[1]), string(values[2]) == "t"
		return nil
	}
}

// setSequences are the statements that put sequences where they stand. Their order
// is part of what backups are compared by.
func setSequences(sequences []*sequence) []statement {
	statements := make([]statement, 0, len(sequences))
	for part := range batches(sequences, batchTables) {
		called, others := partition(part, func(s *sequence) bool { return s.logged && s.called })
		for _, s := range slices.Concat(called, others) {
			statements = append(statements, s.statement())
		}
	}
	return statements
}

// Sizes of the pieces in which large objects are read and written, in bytes.
const (
	largeObjectBatch = 64
	largeObjectPiece = 256 << 10
)

// largeObjects reads the contents of the database's large objects, as statements
// that are handed to take in groups of about the size of a frame.
func (w *worker) largeObjects(ctx context.Context, take func([]statement) error) error {
	rows, err := w.conn.Query(ctx, `SELECT oid FROM pg_catalog.pg_largeobject_metadata ORDER BY oid`)
	if err != nil {
		return fmt.Errorf("list large objects: %w", err)
	}
	var oids []uint32
	for rows.Next() {
		var oid uint32
		if err := rows.Scan(&oid); err != nil {
			return fmt.Errorf("list large objects: %w", err)
		}
		oids = append(oids, oid)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("list large objects: %w", err)
	}
	var pending []statement
	size := 0
	flush := func() error {
		err := take(pending)
		pending, size = nil, 0
		return err
	}
	for part := range batches(oids, largeObjectBatch) {
		for offset, left := int64(0), part; len(left) > 0; offset += largeObjectPiece {
			rows, err := w.conn.Query(ctx, `SELECT oid, pg_catalog.lo_get(oid, $2, $3) FROM unnest($1::oid[]) oid`, left, offset, largeObjectPiece)
			if err != nil {
				return fmt.Errorf("read large objects: %w", err)
			}
			var more []uint32
			for rows.Next() {
				var oid uint32
				var piece []byte
				if err := rows.Scan(&oid, &piece); err != nil {
					return fmt.Errorf("read large objects: %w", err)
				}
				if len(piece) == largeObjectPiece {
					more = append(more, oid)
				}
				if len(piece) > 0 {
					sql := fmt.Sprintf("SELECT pg_catalog.lo_put(%d, %d, '\\x%s');\n", oid, offset, hex.EncodeToString(piece))
					pending = append(pending, statement{Kind: kindLargeObjectData, Tag: fmt.Sprint(oid), SQL: sql})
					size += len(sql)
				}
			}
			if err := rows.Err(); err != nil {
				return fmt.Errorf("read large objects: %w", err)
			}
			if size >= datafile.FrameTarget {
				if err := flush(); err != nil {
					return err
				}
			}
			left = more
		}
	}
	return flush()
}

// batches cuts a list into pieces of at most n.
func batches[T any](list []T, n int) iter.Seq[[]T] { return slices.Chunk(list, n) }
