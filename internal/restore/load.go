package restore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/tenantkeep/tenantkeep/internal/copybin"
	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// wholeFrame is up to which size, in bytes, a frame is decompressed as a whole.
// A larger one holds an enormous row and is read as a stream.
const wholeFrame = 4 * datafile.FrameTarget

// place is where rows of a table lie in a frame.
type place struct {
	table *manifest.Table
	piece manifest.Piece
}

// load brings in the rows, the large objects and the values of the sequences:
// a frame is a task, whosever it is, and is decompressed once for all tables in
// it. The indexes of a big table are built as soon as its rows are there, beside
// the rows of others.
func (r *run) load(ctx context.Context) error {
	r.Progress.Start("load", 0, r.plan.Bytes)
	if err := errors.Join(r.findTextual(ctx), r.findFormats(ctx)); err != nil {
		return err
	}
	var total int64
	for _, u := range r.alive() {
		total += u.bytes()
	}
	var tasks []task
	for _, u := range r.alive() {
		places := u.places()
		early, err := r.planEarly(ctx, u)
		if err != nil {
			u.fail(err)
			continue
		}
		left := map[tableKey]*atomic.Int64{} // frames of big tables to be loaded
		for _, list := range places {
			for _, key := range u.tablesAt(list) {
				if left[key] == nil {
					left[key] = &atomic.Int64{}
				}
				left[key].Add(1)
			}
		}
		for i, f := range u.file.Index.Frames {
			t := task{unit: u, size: f.Size}
			switch f.Kind {
			case datafile.DataFrame:
				if len(places[i]) == 0 {
					continue
				}
				if table := places[i][0].table; table.Bytes >= bigTable {
					// All frames of a table have the same size here: they are taken in
					// their order, the greatest table first.
					t.size, t.table = table.Bytes, table
					t.most = max(1, int(math.Round(float64(r.Jobs)*float64(table.Bytes)/float64(total))))
				}
				if f.Size <= wholeFrame {
					t.read = func(ctx context.Context, buffer []byte) ([]byte, error) {
						return u.readFrame(ctx, i, buffer)
					}
				}
				t.run = func(ctx context.Context, s *session) ([]task, error) {
					if err := r.loadFrame(ctx, s, u, i, places[i]); err != nil {
						return nil, err
					}
					var indexes []task
					for _, key := range u.tablesAt(places[i]) {
						if left[key].Add(-1) == 0 {
							indexes = append(indexes, early[key]...)
						}
					}
					return indexes, nil
				}
			case datafile.LargeObjects, datafile.SequenceFrame:
				if u.kept != nil || u.inUse != nil || u.objects != nil && f.Kind == datafile.LargeObjects {
					continue // some of the sequences went with their tables; core's have their values
				}
				t.run = func(ctx context.Context, s *session) ([]task, error) {
					return nil, r.runFrame(ctx, s, u, i)
				}
			default:
				continue
			}
			tasks = append(tasks, t)
		}
	}
	return r.work(ctx, tasks)
}

// places finds what rows lie in which frame, in the order of their places.
func (u *unit) places() map[int][]place {
	places := map[int][]place{}
	for i := range u.file.Index.Tables {
		t := &u.file.Index.Tables[i]
		for _, g := range t.Segments {
			for _, p := range g.Pieces {
				if p.Rows > 0 {
					places[p.Frame] = append(places[p.Frame], place{t, p})
				}
			}
		}
	}
	for _, list := range places {
		slices.SortFunc(list, func(a, b place) int { return cmp.Compare(a.piece.Offset, b.piece.Offset) })
	}
	return places
}

// tablesAt are the big tables among places.
func (u *unit) tablesAt(places []place) []tableKey {
	var keys []tableKey
	for _, p := range places {
		key := tableKey{u.tableSchema(p.table), p.table.Name}
		if p.table.Bytes >= bigTable && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// readFrame decompresses a frame into a buffer.
func (u *unit) readFrame(ctx context.Context, frame int, buffer []byte) ([]byte, error) {
	if err := u.data.acquire(ctx); err != nil {
		return nil, err
	}
	defer u.data.release()
	return u.file.ReadFrame(frame, buffer)
}

// loadFrame copies the rows of one frame into their tables. The session has read
// it, unless it is to be read as a stream.
func (r *run) loadFrame(ctx context.Context, s *session, u *unit, frame int, places []place) error {
	stream := u.file.Index.Frames[frame].Size > wholeFrame
	text := s.buffer
	var reader *forward
	if stream {
		if err := u.data.acquire(ctx); err != nil {
			return err
		}
		defer u.data.release()
		f, err := u.file.OpenFrame(frame)
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // it was only read
		reader = &forward{r: f}
	}
	for chunk, textual := range u.chunks(places) {
		copies := make([]copyIn, len(chunk))
		var size, rows int64
		binary := false
		fill := func() {
			size, rows, binary = 0, 0, false
			for i, p := range chunk {
				c := copyIn{sql: u.copySQL(p.table), rows: p.piece.Rows, name: u.qualified(p.table)}
				format := u.format(p.table)
				switch {
				case stream:
					c.data = &section{from: reader, offset: p.piece.Offset, left: p.piece.Bytes}
				case format != nil:
					c.sql += " WITH (FORMAT binary)"
					c.binary = format.Rows(text[p.piece.Offset : p.piece.Offset+p.piece.Bytes])
					binary = true
				default:
					c.data = bytes.NewReader(text[p.piece.Offset : p.piece.Offset+p.piece.Bytes])
				}
				copies[i] = c
				size += p.piece.Bytes
				rows += p.piece.Rows
			}
		}
		send := func(on, off string) error { return runCopies(ctx, s.conn, on, copies, off) }
		fill()
		err := u.masked(textual, send)
		refused := errors.Is(err, copybin.ErrText) || pg.Code(err) != ""
		if binary && refused && !s.broken(ctx, err) {
			// Nothing of the message has stayed. As text the rows go in as they are,
			// or the server says what is wrong with them.
			for _, p := range chunk {
				u.asText(p.table)
			}
			fill()
			err = u.masked(textual, send)
		}
		if err != nil {
			return fmt.Errorf("load rows: %w", err)
		}
		r.Progress.Add(size, rows)
	}
	return nil
}

// chunks cuts places into messages, in their order, and says whether a message
// needs the mask.
func (u *unit) chunks(places []place) iter.Seq2[[]place, bool] {
	return func(yield func([]place, bool) bool) {
		for len(places) > 0 {
			textual := u.isTextual(places[0].table)
			n := 1
			for n < min(len(places), messageStatements) && u.isTextual(places[n].table) == textual {
				n++
			}
			if !yield(places[:n], textual) {
				return
			}
			places = places[n:]
		}
	}
}

func (u *unit) copySQL(t *manifest.Table) string {
	if len(t.Columns) == 0 {
		return "COPY " + u.sqlName(t) + " FROM STDIN"
	}
	return "COPY " + u.sqlName(t) + " (" + columns(t) + ") FROM STDIN"
}

// forward reads a frame once from its beginning to its end.
type forward struct {
	r  io.Reader
	at int64
}

// section is a part of a frame that lies behind the sections read before.
type section struct {
	from         *forward
	offset, left int64
}

// Read reads the section. A frame that ends within it is an error.
func (s *section) Read(p []byte) (int, error) {
	if skip := s.offset - s.from.at; skip > 0 {
		n, err := io.CopyN(io.Discard, s.from.r, skip)
		s.from.at += n
		if err != nil {
			return 0, fmt.Errorf("skip to the rows: %w", err)
		}
	}
	if s.left == 0 {
		return 0, io.EOF
	}
	n, err := s.from.r.Read(p[:min(int64(len(p)), s.left)])
	s.from.at += int64(n)
	s.offset += int64(n)
	s.left -= int64(n)
	if err == io.EOF { //nolint:errorlint // readers return it bare
		err = nil
		if s.left > 0 {
			err = fmt.Errorf("the frame ends within the rows: %w", io.ErrUnexpectedEOF)
		}
	}
	return n, err
}

// runFrame runs the statements of a frame of sequence values or large objects.
func (r *run) runFrame(ctx context.Context, s *session, u *unit, frame int) error {
	steps, err := u.steps(ctx, func(_ int, st datafile.Statement) bool { return st.Frame == frame })
	if err != nil {
		return err
	}
	failed, err := s.execAll(ctx, steps)
	if err != nil {
		return err
	}
	for _, f := range failed {
		if holdsRows(f.Kind) {
			return fmt.Errorf("%s %s: %w", strings.ToLower(f.Kind), f.Tag, f.err)
		}
	}
	r.deferAll(failed)
	return nil
}
