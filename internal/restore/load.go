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
	if err := errors.Join(r.findTextual(ctx), r.planBigTables(ctx)); err != nil {
		return err
	}
	var total int64
	for _, u := range r.alive() {
		total += u.bytes()
	}
	freeze, err := r.mayFreeze(ctx)
	if err != nil {
		return err
	}
	var tasks []task
	for _, u := range r.alive() {
		l := &loading{run: r, unit: u, total: total, places: u.places()}
		if err := l.prepare(ctx, freeze); err != nil {
			u.fail(err)
			continue
		}
		tasks = append(tasks, l.tasks()...)
	}
	return r.work(ctx, tasks)
}

// loading is how the rows of a unit come in.
type loading struct {
	run    *run
	unit   *unit
	total  int64 // bytes of all units
	places map[int][]place
	frozen map[*manifest.Table][]int // tables that are loaded frozen, with their frames
	early  map[tableKey][]task
	left   map[tableKey]*atomic.Int64 // frames of big tables to be loaded
}

// prepare plans what follows big tables, and which of them are loaded frozen.
func (l *loading) prepare(ctx context.Context, freeze bool) (err error) {
	if l.early, err = l.run.planEarly(ctx, l.unit); err != nil {
		return err
	}
	l.left = map[tableKey]*atomic.Int64{}
	for _, list := range l.places {
		for _, key := range l.unit.tablesAt(list) {
			if l.left[key] == nil {
				l.left[key] = &atomic.Int64{}
			}
			l.left[key].Add(1)
		}
	}
	if freeze {
		l.frozen, err = l.findFrozen(ctx)
	}
	return err
}

// tasks are those for all frames of the unit.
func (l *loading) tasks() []task {
	r, u := l.run, l.unit
	var tasks []task
	for i, f := range u.file.Index.Frames {
		switch f.Kind {
		case datafile.DataFrame:
			places := l.places[i]
			if len(places) == 0 {
				continue
			}
			frames := l.frozen[places[0].table]
			switch {
			case frames == nil:
				tasks = append(tasks, l.frame(i))
			case frames[0] == i:
				tasks = append(tasks, l.table(places[0].table, frames))
			}
		case datafile.LargeObjects, datafile.SequenceFrame:
			if u.kept != nil || u.inUse != nil || u.objects != nil && f.Kind == datafile.LargeObjects {
				continue // some of the sequences went with their tables; core's have their values
			}
			tasks = append(tasks, task{unit: u, size: f.Size, run: func(ctx context.Context, s *session) ([]task, error) {
				return nil, r.runFrame(ctx, s, u, i)
			}})
		}
	}
	return tasks
}

// frame is the task for a frame of rows.
func (l *loading) frame(i int) task {
	u, places := l.unit, l.places[i]
	size := u.file.Index.Frames[i].Size
	t := task{unit: u, size: size}
	if table := places[0].table; table.Bytes >= bigTable {
		// All frames of a table have the same size here: they are taken in
		// their order, the greatest table first.
		t.size, t.table = table.Bytes, table
		t.most = max(1, int(math.Round(float64(l.run.Jobs)*float64(table.Bytes)/float64(l.total))))
	}
	if size <= wholeFrame {
		t.read = func(ctx context.Context, _ int, buffer []byte) ([]byte, error) {
			return l.readFrame(ctx, i, buffer)
		}
	}
	t.run = func(ctx context.Context, s *session) ([]task, error) {
		if err := l.run.loadFrame(ctx, s, u, i, places); err != nil {
			return nil, err
		}
		return l.loaded(i), nil
	}
	return t
}

// loaded counts frames that are loaded and returns what became possible by the
// last one of a table.
func (l *loading) loaded(frames ...int) []task {
	var indexes []task
	for _, i := range frames {
		for _, key := range l.unit.tablesAt(l.places[i]) {
			if l.left[key].Add(-1) == 0 {
				indexes = append(indexes, l.early[key]...)
			}
		}
	}
	return indexes
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

// readFrame decompresses a frame into a buffer, and digests the rows in it.
func (l *loading) readFrame(ctx context.Context, frame int, buffer []byte) ([]byte, error) {
	text, err := l.unit.readFrame(ctx, frame, buffer)
	if err == nil {
		l.digest(frame, text)
	}
	return text, err
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
		var m message
		fill := func() {
			if stream {
				m = u.streamed(chunk, reader)
			} else {
				m = u.message(chunk, s.buffer)
			}
		}
		send := func(on, off string) error { return runCopies(ctx, s.conn, on, m.copies, off) }
		fill()
		err := u.masked(textual, send)
		if m.binary && s.refused(ctx, err) {
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
		r.Progress.Add(m.size, m.rows)
	}
	return nil
}

// refused reports whether rows were not taken, in the form in which they were
// sent, by a server that goes on.
func (s *session) refused(ctx context.Context, err error) bool {
	return (errors.Is(err, copybin.ErrText) || pg.Code(err) != "") && !s.broken(ctx, err)
}

// message is several COPY statements that are sent together.
type message struct {
	copies     []copyIn
	size, rows int64
	binary     bool // some of the rows
}

func (m *message) add(p place, c copyIn) {
	c.rows = p.piece.Rows
	m.copies = append(m.copies, c)
	m.size += p.piece.Bytes
	m.rows += p.piece.Rows
	m.binary = m.binary || c.binary != nil
}

// message is the one for rows of a frame that was read as a whole.
func (u *unit) message(places []place, text []byte, options ...string) (m message) {
	for _, p := range places {
		rows := text[p.piece.Offset : p.piece.Offset+p.piece.Bytes]
		c := copyIn{sql: u.copySQL(p.table), name: u.qualified(p.table)}
		with := options
		if format := u.format(p.table); format != nil {
			with = append([]string{"FORMAT binary"}, options...)
			c.binary = format.Rows(rows)
		} else {
			c.data = bytes.NewReader(rows)
		}
		if len(with) > 0 {
			c.sql += " WITH (" + strings.Join(with, ", ") + ")"
		}
		m.add(p, c)
	}
	return m
}

// streamed is message for a frame that is read as a stream.
func (u *unit) streamed(places []place, reader *forward) (m message) {
	for _, p := range places {
		m.add(p, copyIn{sql: u.copySQL(p.table), name: u.qualified(p.table), data: &section{from: reader, offset: p.piece.Offset, left: p.piece.Bytes}})
	}
	return m
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
