package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/rowsum"
)

// segmentBlocks is the range of heap blocks that is a segment: the unit that
// workers share, and the unit of incrementals. Smaller ones let incrementals
// store less, and the server wait more often for the next: 512 took a tenth longer.
const segmentBlocks = 2048

// segmentBytes is about how much of a table is a segment.
const segmentBytes = segmentBlocks * 8192

// batchTables is how many small tables are copied in one message.
const batchTables = 128

// source is a table, or a part of it, as COPY reads it.
type source struct {
	schema, name string
	columns      []string
	condition    string
	root         bool // partitioned: read and loaded through the topmost table
	first, end   int64
	segmented    bool
}

// from is the COPY statement that reads the rows.
func (s source) from() string {
	table := pg.Identifier(s.schema, s.name)
	list := identifiers(s.columns)
	only := "ONLY "
	if s.root {
		only = ""
	}
	switch {
	case s.segmented && s.end > 0:
		return fmt.Sprintf("COPY (SELECT %s FROM ONLY %s WHERE ctid >= '(%d,0)' AND ctid < '(%d,0)') TO STDOUT", list, table, s.first, s.end)
	case s.segmented:
		return fmt.Sprintf("COPY (SELECT %s FROM ONLY %s WHERE ctid >= '(%d,0)') TO STDOUT", list, table, s.first)
	case s.condition != "":
		return fmt.Sprintf("COPY (SELECT %s FROM %s%s %s) TO STDOUT", list, only, table, s.condition)
	case s.root || len(s.columns) == 0:
		return fmt.Sprintf("COPY (SELECT %s FROM %s%s) TO STDOUT", list, only, table)
	default:
		return fmt.Sprintf("COPY %s (%s) TO STDOUT", table, list)
	}
}

// into is the COPY statement that a script begins the rows with.
func (s source) into() string {
	return datafile.CopyStatement(s.schema, &manifest.Table{Name: s.name, Columns: s.columns})
}

func identifiers(names []string) string {
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = pg.Identifier(n)
	}
	return strings.Join(q, ", ")
}

// sink puts rows into frames of one data file.
type sink struct {
	file *datafile.Writer // nil: the rows are only counted and hashed
	enc  *datafile.Encoder
	add  func(bytes, rows int64)
	// stored are frames that an earlier file has; nil: none. It is for small
	// tables: a segment of a big one does not know its frames before its end.
	stored    *storedRows
	segmented bool

	open     bool              // a frame is begun
	appended bool              // a frame is in the file
	pending  []*manifest.Piece // pieces in it

	table *copied // that is being written
	piece *manifest.Piece
	chunk []byte
	sum   rowsum.Sum
	hash  hash.Hash
	parts []*manifest.Piece
}

// hashOfNothing is the hash of a segment without rows.
var hashOfNothing = hex.EncodeToString(sha256.New().Sum(nil))

// chunkSize is how many bytes of short rows are hashed and compressed at once.
const chunkSize = 32 << 10

// begin starts the rows of a table or segment.
func (k *sink) begin(c *copied) {
	k.table, k.piece, k.parts, k.sum = c, nil, nil, rowsum.Sum{}
	if k.hash == nil {
		k.hash = sha256.New()
	}
	k.hash.Reset()
}

func (k *sink) row(row []byte) error {
	if len(row) == 0 || row[len(row)-1] != '\n' {
		return errors.New("the server sent a row without its end")
	}
	if k.piece == nil {
		if err := k.beginPiece(); err != nil {
			return err
		}
	}
	k.sum.Add(row)
	k.piece.Rows++
	k.piece.Bytes += int64(len(row))
	if len(k.chunk)+len(row) < chunkSize {
		if k.chunk == nil {
			k.chunk = make([]byte, 0, chunkSize)
		}
		k.chunk = append(k.chunk, row...)
		return nil
	}
	if err := k.flushChunk(); err != nil {
		return err
	}
	if err := k.put(row); err != nil {
		return err
	}
	if k.file == nil || k.enc.Size() < datafile.FrameTarget {
		return nil
	}
	if err := k.endPiece(); err != nil {
		return err
	}
	return k.endFrame()
}

func (k *sink) beginPiece() error {
	k.piece = &manifest.Piece{}
	if k.file == nil {
		return nil
	}
	if !k.open {
		k.beginFrame()
	}
	if _, err := k.enc.Write([]byte(k.table.into())); err != nil {
		return err
	}
	k.piece.Offset = k.enc.Size()
	k.parts = append(k.parts, k.piece)
	k.pending = append(k.pending, k.piece)
	return nil
}

func (k *sink) beginFrame() {
	k.open = true
	if k.segmented {
		k.enc.BeginSegment()
		return
	}
	k.enc.Begin(datafile.DataFrame)
	if k.stored != nil {
		k.enc.Hold()
	}
}

func (k *sink) put(rows []byte) error {
	k.hash.Write(rows)
	if k.file == nil {
		return nil
	}
	_, err := k.enc.Write(rows)
	return err
}

func (k *sink) flushChunk() error {
	err := k.put(k.chunk)
	k.chunk = k.chunk[:0]
	return err
}

func (k *sink) endPiece() error {
	if k.piece == nil {
		return nil
	}
	k.add(k.piece.Bytes, k.piece.Rows)
	k.piece = nil
	if err := k.flushChunk(); err != nil || k.file == nil {
		return err
	}
	_, err := k.enc.Write([]byte(datafile.EndOfRows))
	return err
}

// end finishes the rows that begin started.
func (k *sink) end() (manifest.Segment, rowsum.Sum, error) {
	if err := k.endPiece(); err != nil {
		return manifest.Segment{}, k.sum, err
	}
	g := manifest.Segment{Rows: k.sum.Rows, Bytes: k.sum.Bytes, Hash: hex.EncodeToString(k.hash.Sum(nil))}
	if k.open && k.enc.Size() >= datafile.FrameTarget {
		if err := k.endFrame(); err != nil {
			return g, k.sum, err
		}
	}
	return g, k.sum, nil
}

func (k *sink) endFrame() error {
	if !k.open {
		return nil
	}
	k.open = false
	n, err := k.appendFrame()
	if err != nil {
		return &storageError{err}
	}
	k.appended = true
	for _, p := range k.pending {
		p.Frame = n
	}
	k.pending = k.pending[:0]
	return nil
}

// appendFrame writes the frame, as an earlier file has it if it does.
func (k *sink) appendFrame() (int, error) {
	if !k.segmented {
		if f, bytes, ok := k.stored.read(k.enc.Digest()); ok {
			return k.file.AppendStored(f, bytes)
		}
	}
	return k.file.Append(k.enc)
}

// copied is a table that is being written, with its segments by number.
type copied struct {
	source
	segments []manifest.Segment
	parts    [][]*manifest.Piece
	sums     []rowsum.Sum
	known    []bool         // unread, since nobody wrote into them
	held     []bool         // the earlier file has them
	heap     *manifest.Heap // nil: nothing is known of where the rows lie
}

func newCopied(s source, segments int) *copied {
	return &copied{
		source: s, segments: make([]manifest.Segment, segments),
		parts: make([][]*manifest.Piece, segments), sums: make([]rowsum.Sum, segments), known: make([]bool, segments), held: make([]bool, segments),
	}
}

// blocks is the range of a segment; an end of 0 is that of the table.
func (c *copied) blocks(n int) (first, end int64) {
	first = int64(n) * segmentBlocks
	if n < len(c.segments)-1 {
		end = first + segmentBlocks
	}
	return first, end
}

// table is the entry of the index, once all frames are written.
func (c *copied) table(schema string) manifest.Table {
	t := manifest.Table{Name: c.name, Columns: c.columns, Condition: c.condition, Heap: c.heap}
	if c.schema != schema {
		t.Schema = c.schema
	}
	var all rowsum.Sum
	for i, g := range c.segments {
		for _, p := range c.parts[i] {
			g.Pieces = append(g.Pieces, *p)
		}
		all.Merge(c.sums[i])
		if c.segmented {
			g.Checksum = c.sums[i].Checksum()
		}
		if g.Rows > 0 {
			t.Segments = append(t.Segments, g)
		}
	}
	t.Rows, t.Bytes, t.Checksum = all.Rows, all.Bytes, all.Checksum()
	return t
}

// segment is a part of a big table, for whichever worker is free.
type segment struct {
	table *copied
	n     int
	file  *datafile.Writer // nil: to be counted and hashed only
	add   func(bytes, rows int64)
	done  chan<- helped
}

// helped is what came of a segment that was given to another worker.
type helped struct {
	n   int
	err error
}

// errUntouched wraps what kept a worker from helping before it wrote anything:
// the segment can still be copied by the worker whose tenant it is.
var errUntouched = errors.New("nothing copied yet")

// worker copies rows on a session of its own.
type worker struct {
	*round
	conn     *pgx.Conn // in a transaction on the snapshot
	enc      *datafile.Encoder
	segments chan *segment
	reader   sink // of what is only counted and hashed
	// saved says that the session has a savepoint, and may have locks since then.
	saved bool
}

func (w *worker) close() { pg.Close(w.conn) }

// work takes tenants, and segments of others' tenants, until there are no
// more. finish is called for each tenant; its errors end the run.
func (w *worker) work(ctx context.Context, tenants <-chan *tenant, segments <-chan *segment, finish func(*tenant, *manifest.Schema, error) error) error {
	var err error
	if w.enc, err = datafile.NewEncoder(w.Compression); err != nil {
		return err
	}
	for {
		select { // the next one gives the locks of the one before back, if it is here already
		case t, ok := <-tenants:
			if ok {
				if err := w.finish(ctx, t, finish); err != nil {
					return err
				}
				continue
			}
			tenants = nil
		default:
		}
		w.release(ctx)
		select {
		case t, ok := <-tenants:
			if !ok {
				tenants = nil
				continue
			}
			if err := w.finish(ctx, t, finish); err != nil {
				return err
			}
		case s, ok := <-segments:
			if !ok {
				return nil
			}
			s.done <- helped{s.n, w.helpWith(ctx, s)}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (w *worker) finish(ctx context.Context, t *tenant, finish func(*tenant, *manifest.Schema, error) error) error {
	s, err := w.tenant(ctx, t)
	return finish(t, s, err)
}

// session makes sure that there is a session on the snapshot.
func (w *worker) session(ctx context.Context) error {
	if w.conn != nil && !w.conn.IsClosed() {
		return nil
	}
	conn, err := w.Server.Connect(ctx)
	for attempt := 1; pg.Code(err) == pg.OutOfMemory && attempt < lockAttempts; attempt++ { // the lock table is full for a moment
		if err := pause(ctx, min(w.LockTimeout, time.Second)); err != nil {
			return err
		}
		conn, err = w.Server.Connect(ctx)
	}
	if err != nil {
		return err
	}
	if err := w.snapshot.Import(ctx, conn); err != nil {
		pg.Close(conn)
		if pg.Code(err) != "" {
			err = fmt.Errorf("%w: %w", errSnapshotGone, err)
		}
		return err
	}
	w.conn, w.saved = conn, false
	return nil
}

const (
	savepoint = "SAVEPOINT tenantkeep"
	backTo    = "ROLLBACK TO SAVEPOINT tenantkeep"
	giveBack  = backTo + "; RELEASE SAVEPOINT tenantkeep"

	// Around the statements of one message, within the other.
	batchSavepoint = "SAVEPOINT tenantkeep_batch;"
	batchGiveBack  = ";ROLLBACK TO SAVEPOINT tenantkeep_batch; RELEASE SAVEPOINT tenantkeep_batch"
)

// release gives all locks back. A session for which that does not work is
// given up; the server gives them back then.
func (w *worker) release(ctx context.Context) {
	if !w.saved || w.conn.IsClosed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := w.giveBack(ctx); err != nil {
		pg.Close(w.conn)
	}
}

func (w *worker) giveBack(ctx context.Context) error {
	_, err := w.conn.PgConn().Exec(ctx, giveBack).ReadAll()
	w.saved = err != nil
	return err
}

// tenant copies one tenant into its file. A session that is lost on the way is
// replaced, as long as the snapshot lives.
func (w *worker) tenant(ctx context.Context, t *tenant) (*manifest.Schema, error) {
	for attempt := 1; ; attempt++ {
		if err := w.session(ctx); err != nil {
			return nil, &sessionError{err}
		}
		s, err := w.attempt(ctx, t)
		var storage *storageError
		switch {
		case err == nil:
			return s, nil
		case ctx.Err() != nil, errors.As(err, &storage):
			return nil, err
		case pg.Code(err) == pg.OutOfMemory && attempt < lockAttempts: // others fill the lock table for a moment
			if err := pause(ctx, min(w.LockTimeout, time.Second)); err != nil {
				return nil, err
			}
		case attempt >= copyAttempts:
			return nil, err
		case pg.Lost(err):
			w.Progress.Note(slogWarn, t.tenant, fmt.Sprintf("the session was lost (%v): trying again", err))
		case pg.Code(err) == pg.Deadlock, pg.Code(err) == pg.LockNotAvailable:
			w.Progress.Note(slogWarn, t.tenant, fmt.Sprintf("another session was in the way (%v): trying again", err))
		default:
			return nil, err
		}
	}
}

// attempt tries to copy a tenant. It leaves its locks to whoever takes the next.
func (w *worker) attempt(ctx context.Context, t *tenant) (_ *manifest.Schema, err error) {
	defer func() {
		if err != nil {
			w.release(ctx)
		}
	}()
	if t.unregistered != nil {
		return nil, t.unregistered
	}
	blocks, err := w.lock(ctx, t)
	if err != nil {
		return nil, err
	}
	if err := w.unchanged(ctx, t); err != nil {
		return nil, err
	}
	s, err := w.save(ctx, t, blocks)
	if pg.Missing(err) || pg.Code(err) == pg.Internal { // what no lock keeps, by name or by OID: a sequence, a type, the schema itself
		err = &changedError{err.Error()}
	}
	return s, err
}

// save writes the file of a tenant, or finds that an earlier one still holds all
// of it.
func (w *worker) save(ctx context.Context, t *tenant, blocks map[uint32]int64) (*manifest.Schema, error) {
	c, err := w.plan(ctx, t, blocks)
	if err != nil {
		return nil, err
	}
	typ := w.Type
	var e *earlier
	if typ == manifest.Incremental {
		if e, err = w.compare(ctx, t, c); err != nil {
			return nil, err
		}
		if c.same && t.reused {
			return w.asBefore(t), nil
		}
		if e == nil {
			typ = manifest.Full
		} else {
			defer e.Close() //nolint:errcheck // it was only read
		}
	}
	return w.store(ctx, t, c, e, typ)
}

// store writes the file of a tenant. What the earlier file holds already is
// referred to; nil is no such file.
func (w *worker) store(ctx context.Context, t *tenant, c *contents, e *earlier, typ manifest.Type) (_ *manifest.Schema, err error) {
	data, err := w.out.CreateData(ctx, t.Name, t.tenant, typ, w.Compression.Ext())
	if err != nil {
		return nil, &storageError{err}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, data.Abort())
		}
	}()
	file := datafile.NewWriter(data, w.Compression)
	index, err := w.write(ctx, t, c, e, typ, file)
	if err != nil {
		return nil, err
	}
	if e != nil && c.same && !index.Adds() && t.definitions == t.parent.entry.Definitions {
		// The definitions were taken anew, and are what they were.
		return w.asBefore(t), data.Abort()
	}
	stored, err := data.Commit()
	if err != nil {
		return nil, &storageError{err}
	}
	s := &manifest.Schema{
		Schema: t.Name, Tenant: t.tenant, Filename: stored.Key[strings.LastIndexByte(stored.Key, '/')+1:], Filepath: stored.Key,
		Size: stored.Size, Hash: stored.Hash, IndexHash: file.IndexHash(), Timestamp: w.out.ID(), Type: typ, Tables: int64(len(index.Tables)),
		Definitions: t.definitions, Content: c.digest(), Uses: t.uses,
	}
	for _, table := range index.Tables {
		s.Rows += table.Rows
		s.Bytes += table.Bytes
	}
	for _, ref := range index.Header.Files {
		s.References = append(s.References, ref.Key)
	}
	w.taken(s)
	return s, nil
}

// asBefore is the entry of a tenant of which the parent's file still holds all.
func (w *worker) asBefore(t *tenant) *manifest.Schema {
	s := *t.parent.entry
	s.MediaBackup, s.Media, s.Snapshot = "", nil, nil
	w.taken(&s)
	return &s
}

// taken notes the moment of an entry that is not that of its backup.
func (w *worker) taken(s *manifest.Schema) {
	if w.later {
		s.Snapshot = w.moment()
	}
}

// lock locks all that is copied, for as little time as possible each try: who
// waits behind a lock request of ours waits with us. It gives back what the tenant
// before has locked, and returns the blocks of big tables.
func (w *worker) lock(ctx context.Context, t *tenant) (map[uint32]int64, error) {
	tables := t.locked()
	sql := fmt.Sprintf("; SET LOCAL lock_timeout = %d", w.LockTimeout.Milliseconds())
	if len(tables) > 0 {
		sql += "; LOCK TABLE " + strings.Join(tables, ", ") + " IN ACCESS SHARE MODE"
	}
	sized := w.toMeasure(t)
	if sized {
		sql += "; " + pg.BlocksQuery(t.ordinary(), segmentBlocks)
	}
	sql += "; SET LOCAL lock_timeout = 0"
	for attempt := 1; ; attempt++ {
		begin := savepoint
		if w.saved {
			begin = backTo
		}
		w.saved = true
		results, err := w.conn.PgConn().Exec(ctx, begin+sql).ReadAll()
		switch {
		case err == nil && sized:
			return pg.ParseBlocks(results[len(results)-2].Rows)
		case err == nil:
			return nil, nil
		case pg.Missing(err):
			return nil, &changedError{err.Error()}
		case pg.Code(err) == pg.LockNotAvailable && attempt < lockAttempts:
			if err := w.giveBack(ctx); err != nil {
				return nil, err
			}
			w.Progress.Note(slogWarn, t.tenant, "another session holds a lock on one of its tables: trying again")
		case pg.Code(err) == pg.LockNotAvailable:
			return nil, &lockedError{time.Duration(lockAttempts) * w.LockTimeout}
		case pg.Code(err) == pg.OutOfMemory && attempt < lockAttempts && len(tables) < w.info.LockSlots:
			// Others fill the lock table too: runs of pg_dump, other workers.
			if err := w.giveBack(ctx); err != nil {
				return nil, err
			}
			if err := pause(ctx, min(w.LockTimeout, time.Second)); err != nil {
				return nil, err
			}
		case pg.Code(err) == pg.OutOfMemory:
			return nil, &tooManyError{len(tables)}
		default:
			return nil, fmt.Errorf("lock tables: %w", err)
		}
	}
}

// toMeasure reports whether the sizes of a tenant's tables are to be asked for,
// which for small ones takes as long as a part of reading them. An incremental
// backup that reads everything anyway finds out on the way where the statistics
// take a big one for small.
func (w *worker) toMeasure(t *tenant) bool {
	return w.Type != manifest.Incremental || w.mark != nil || t.parent == nil || w.long(t) || t.Bytes >= segmentBytes/2
}

// long reports whether a tenant's parent needs so many files that it is to be taken
// in full again.
func (w *worker) long(t *tenant) bool { return len(t.parent.entry.References) >= w.MaxChain }

// locked are the tables of a tenant that are locked while it is copied, for LOCK.
func (t *tenant) locked() (tables []string) {
	for _, rel := range t.relations {
		if rel.Kind == "r" || rel.Kind == "p" {
			tables = append(tables, "ONLY "+pg.Identifier(rel.Schema, rel.Name))
		}
	}
	for _, c := range t.config {
		if c.Kind == "r" {
			tables = append(tables, "ONLY "+pg.Identifier(c.Schema, c.Name))
		}
	}
	return tables
}

// ordinary are the tables of a tenant that have rows of their own.
func (t *tenant) ordinary() (oids []uint32) {
	for _, rel := range t.relations {
		if rel.Kind == "r" {
			oids = append(oids, rel.OID)
		}
	}
	return oids
}

// unchanged makes sure, under the locks, that the newest state of the tables is
// the one that the snapshot shows. A TRUNCATE, or an ALTER TABLE that rewrites
// the table, is not seen through a snapshot: it would read as empty.
func (w *worker) unchanged(ctx context.Context, t *tenant) error {
	oids := make([]uint32, len(t.relations))
	var withColumns []uint32 // that matter: those of sequences and views are not read
	for i, rel := range t.relations {
		oids[i] = rel.OID
		if hasColumns(rel) {
			withColumns = append(withColumns, rel.OID)
		}
	}
	var now []pg.Relation
	var columns map[uint32]string
	unchanged := false
	err := w.newest(ctx, func(q pg.Querier) error {
		touched, err := pg.Touched(ctx, q, t.oids, oids, withColumns, w.snapshot)
		if unchanged = err == nil && !touched; unchanged || err != nil {
			return err
		}
		if now, err = pg.ReadRelations(ctx, q, t.oids); err != nil {
			return err
		}
		columns, err = pg.ReadColumns(ctx, q, withColumns)
		return err
	})
	if err != nil || unchanged {
		return err
	}
	columnsBefore, err := pg.ReadColumns(ctx, w.conn, withColumns)
	if err != nil {
		return err
	}
	before := map[uint32]pg.Relation{}
	for _, rel := range t.relations {
		before[rel.OID] = rel
	}
	for _, rel := range now {
		was, ok := before[rel.OID]
		delete(before, rel.OID)
		switch {
		case !ok:
			return &changedError{fmt.Sprintf("%s was created", rel.Name)}
		case columns[rel.OID] != columnsBefore[rel.OID], was.Name != rel.Name || was.Schema != rel.Schema:
			return &changedError{fmt.Sprintf("%s was altered", rel.Name)}
		case was == rel:
		case was.Filenode != rel.Filenode && (rel.Kind == "S" || rel.Kind == "m"):
			// Neither the value of a sequence nor the rows of a materialized
			// view are read through the snapshot.
		default:
			return &changedError{fmt.Sprintf("%s was truncated or rewritten", rel.Name)}
		}
	}
	for _, rel := range before {
		return &changedError{fmt.Sprintf("%s was dropped", rel.Name)}
	}
	return nil
}

// hasColumns reports whether a relation has columns that anybody can alter.
func hasColumns(rel pg.Relation) bool { return strings.Contains("rpmf", rel.Kind) }

// write writes the whole file.
func (w *worker) write(ctx context.Context, t *tenant, c *contents, e *earlier, typ manifest.Type, file *datafile.Writer) (*datafile.Index, error) {
	requires := t.script.requires
	if t.reused && e != nil {
		requires = w.requiresNow(e.Index.Header.Requires)
	}
	if err := w.writeHeader(t, typ, file); err != nil {
		return nil, err
	}
	if err := w.writeDefinitions(t, e, datafile.PreDataFrame, t.script.pre, file); err != nil {
		return nil, err
	}
	if err := w.rows(ctx, t, c, e, file); err != nil {
		return nil, err
	}
	if err := w.readOthers(ctx, t, c, func(statements []statement) error {
		return w.writeStatements(t, e, file, datafile.LargeObjects, statements)
	}); err != nil {
		return nil, err
	}
	for _, table := range c.tables() {
		file.AddTable(table.table(t.Name))
	}
	if err := w.writeStatements(t, e, file, datafile.SequenceFrame, c.setting); err != nil {
		return nil, err
	}
	if err := w.writeDefinitions(t, e, datafile.PostDataFrame, t.script.post, file); err != nil {
		return nil, err
	}
	if err := w.listDefinitions(t, e, file); err != nil {
		return nil, err
	}
	m := w.manifest(w.round)
	index, err := file.Close(w.enc, datafile.Header{
		Backup: w.out.ID(), Type: typ, Started: w.out.Started(), Schema: t.Name, Tenant: t.tenant,
		Encoding: w.encoding, Retention: w.RetentionDays, Requires: requires, Definitions: t.definitions,
		Registration: t.registration,
		Database:     *m.Database, Snapshot: *m.Snapshot, Tool: *m.Tool,
	})
	if err != nil {
		return nil, &storageError{err}
	}
	return index, nil
}

// rows copies those segments of a tenant's tables that the earlier file does not
// hold.
func (w *worker) rows(ctx context.Context, t *tenant, c *contents, e *earlier, file *datafile.Writer) (err error) {
	add := w.Progress.Add
	if c.read {
		add = func(int64, int64) {} // told when they were read for the first time
	}
	sink := &sink{file: file, enc: w.enc, add: add, stored: w.openStored(ctx, t)}
	defer func() { err = errors.Join(err, w.closeStored(t)) }()
	e.hold(c, file)
	small := slices.DeleteFunc(slices.Clone(c.small), func(table *copied) bool { return table.held[0] })
	if err := w.copySmall(ctx, sink, small, c.sequences); err != nil {
		return err
	}
	if err := sink.endFrame(); err != nil {
		return err
	}
	for _, table := range c.big {
		if err := w.copySegments(ctx, sink, table, without(table.held)); err != nil {
			return fmt.Errorf("copy %s: %w", pg.Identifier(table.schema, table.name), err)
		}
	}
	return nil
}

// copySmall copies small tables, and reads those sequences of which it is not known
// where they stand, if they fit.
func (w *worker) copySmall(ctx context.Context, sink *sink, tables []*copied, sequences []*sequence) error {
	sequences = unknown(sequences)
	for len(tables) > 0 {
		part := tables[:min(len(tables), batchTables)]
		tables = tables[len(part):]
		var fitting []*sequence
		if len(tables) == 0 && len(part)+len(sequences) <= batchTables {
			fitting = sequences
		}
		if err := w.copyBatch(ctx, sink, part, fitting); err != nil {
			return err
		}
	}
	return nil
}

// plan says what is copied and how: small tables whole, big ones in segments.
// blocks are the sizes of those that are big.
func (w *worker) plan(ctx context.Context, t *tenant, blocks map[uint32]int64) (*contents, error) {
	var err error
	var heaps map[uint32]pg.Heap
	if w.mark != nil {
		if heaps, err = pg.ReadHeaps(ctx, w.conn, t.ordinary()); err != nil {
			return nil, err
		}
	}
	tables, err := w.rule(ctx, t)
	if err != nil {
		return nil, err
	}
	plan := &contents{registration: t.registration}
	add := func(list *[]*copied, oid uint32, s source, segments int) {
		if tables[oid].decision == emptied {
			list, segments = &plan.empty, 0
		}
		c := newCopied(s, segments)
		if h, ok := heaps[oid]; ok && !s.root && s.condition == "" {
			heap := manifest.Heap(h)
			c.heap = &heap
		}
		*list = append(*list, c)
	}
	for _, rel := range t.relations {
		root, inTree := w.roots[rel.OID]
		detail := t.details[rel.OID]
		s := source{schema: rel.Schema, name: rel.Name, columns: detail.Copied}
		switch {
		case inTree && root.OID == rel.OID:
			s.root = true
			add(&plan.small, rel.OID, s, 1)
		case inTree && tables[rel.OID].decision == emptied && tables[root.OID].decision != emptied:
			return nil, &PartitionError{rel.Name, tables[root.OID].Name}
		case rel.Kind != "r" || inTree:
		case detail.Heap && len(s.columns) > 0 && blocks[rel.OID] > 0 && w.info.ServerVersionNum >= 140000: // before, a range of ctid reads the whole table
			s.segmented = true
			add(&plan.big, rel.OID, s, int((blocks[rel.OID]+segmentBlocks-1)/segmentBlocks))
		default:
			add(&plan.small, rel.OID, s, 1)
		}
	}
	for _, c := range t.config {
		if c.Kind == "r" {
			add(&plan.small, c.OID, source{schema: c.Schema, name: c.Name, columns: t.details[c.OID].Copied, condition: c.Condition}, 1)
		}
	}
	plan.sequences, plan.setting = listSequences(t)
	return plan, nil
}

// copyBatch copies small tables, and reads sequences, one message for all of them.
func (w *worker) copyBatch(ctx context.Context, sink *sink, tables []*copied, sequences []*sequence) error {
	statements := make([]string, len(tables), len(tables)+1)
	for i, c := range tables {
		statements[i] = c.from()
	}
	if len(sequences) > 0 {
		statements = append(statements, selectSequences(sequences))
	}
	at, done := -1, 0
	batch := pg.Batch{
		// The savepoint gives back the locks on what belongs to the tables:
		// indexes, and where their large values are.
		SQL: batchSavepoint + strings.Join(statements, ";") + batchGiveBack,
		CopyRow: func(n int, row []byte) error {
			if n != at {
				at = n
				sink.begin(tables[n])
			}
			return sink.row(row)
		},
		CopyDone: func(n int) error {
			if n != at {
				at = n
				sink.begin(tables[n])
			}
			done = n + 1
			return sink.finish(tables[n], 0)
		},
		Row: takeSequence(sequences),
	}
	if err := batch.Run(ctx, w.conn); err != nil {
		if done < len(tables) && pg.Code(err) != "" {
			return fmt.Errorf("copy %s: %w", pg.Identifier(tables[done].schema, tables[done].name), err)
		}
		return fmt.Errorf("copy rows: %w", err)
	}
	return nil
}

// finish notes the end of the rows of a segment of a table.
func (k *sink) finish(c *copied, n int) error {
	parts := k.parts
	g, sum, err := k.end()
	if err != nil {
		return err
	}
	g.FirstBlock, g.EndBlock = c.blocks(n)
	c.segments[n], c.parts[n], c.sums[n] = g, parts, sum
	return nil
}

// copySegments copies segments of a big table, with the help of workers that have nothing
// else to do. The locks of this worker keep its definition as it is for all.
func (w *worker) copySegments(ctx context.Context, sink *sink, c *copied, wanted []int) error {
	done := make(chan helped, len(wanted))
	given := 0
	var failure error
	for _, n := range wanted {
		if failure != nil {
			break
		}
		select {
		case w.segments <- &segment{table: c, n: n, file: sink.file, add: sink.add, done: done}:
			given++
		default:
			failure = w.copySegment(ctx, sink, c, n, "")
		}
	}
	// All must have ended before the file is: they write to it.
	for range given {
		h := <-done
		if errors.Is(h.err, errUntouched) && failure == nil {
			h.err = w.copySegment(ctx, sink, c, h.n, "")
		}
		failure = errors.Join(failure, h.err)
	}
	return failure
}

// copySegment copies one segment, after the statements of before.
func (w *worker) copySegment(ctx context.Context, sink *sink, c *copied, n int, before string) error {
	s := c.source
	s.first, s.end = c.blocks(n)
	sink.segmented = true
	sink.begin(c)
	batch := pg.Batch{SQL: s.from(), CopyRow: func(_ int, row []byte) error { return sink.row(row) }}
	if before != "" {
		batch.SQL = before + ";" + batch.SQL + ";" + giveBack
	}
	if err := batch.Run(ctx, w.conn); err != nil {
		return err
	}
	if err := sink.finish(c, n); err != nil {
		return err
	}
	return sink.endFrame()
}

// helpWith copies a segment of another worker's tenant. It does not wait for a
// lock for long: where a session waits to alter the table it waits for that
// other worker, which waits for this one, and the server cannot see that.
func (w *worker) helpWith(ctx context.Context, s *segment) error {
	if err := w.session(ctx); err != nil {
		return errors.Join(errUntouched, err)
	}
	sink := &sink{file: s.file, enc: w.enc, add: s.add}
	w.saved = true
	err := w.copySegment(ctx, sink, s.table, s.n, fmt.Sprintf("%s; SET LOCAL lock_timeout = %d", savepoint, w.LockTimeout.Milliseconds()))
	if err == nil {
		w.saved = false
		return nil
	}
	w.release(ctx)
	if !sink.appended && ctx.Err() == nil {
		err = errors.Join(errUntouched, err)
	}
	return err
}
