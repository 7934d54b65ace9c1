package pgdump

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// relay lets pg_dump work on a session that was opened for it, through a Unix
// socket in a folder that only this user may enter. pg_dump needs no password
// and no rules of its own about where to connect.
//
// It passes on what both sides say, but for some of pg_dump's statements:
//
//   - LOCK TABLE is answered and not executed. pg_dump locks every table of a
//     run until it ends, which fills the server's lock table and holds up
//     others' DDL. The locks would keep the definitions as they are from then
//     on, not since the snapshot; whoever runs pg_dump on a snapshot has to look
//     for changes since then in any case, and finds those of the meantime too.
//   - Queries run within a savepoint, which gives back their locks: the server's
//     functions that print views, policies and SQL functions lock the tables that
//     these mention. Whoever holds locks and waits for more can be in a deadlock
//     with others' DDL, which would be ended as often as the backup.
//   - SET lock_timeout = 0 sets the caller's limit on waiting for those locks.
//   - The properties of sequences, which pg_dump before version 17 asks for one
//     by one, are read for a whole schema at once.
//
// And what an earlier run on the same snapshot was told about the whole
// catalogue is told again; see Answers.
type relay struct {
	dir      string
	listener net.Listener
	server   *pgconn.HijackedConn
	cancel   *pgconn.PgConn // can only cancel what the session does
	lockWait time.Duration
	answers  *Answers // nil: none are kept
	closing  chan struct{}

	mu     sync.Mutex // for the two below
	client net.Conn
	closed bool

	busy atomic.Bool // the server has a query and has not answered yet
	done chan struct{}
	err  error // what pg_dump said that is not understood; set before done is closed
}

const (
	// socketDirPrefix begins the names of folders of sockets, a number ends them.
	socketDirPrefix = "tenantkeep-"
	// staleAge is how old a folder is that nobody uses any more.
	staleAge = 24 * time.Hour
	// socketPort is the port in the name of the socket.
	socketPort = "5432"
	// maxSocketPath is what libpq and every system take for the path of a socket.
	maxSocketPath = 100
	// cancelTimeout bounds the request to cancel what the session still does.
	cancelTimeout = 5 * time.Second
)

// session opens the session of a run and the relay to it.
func (o Options) session(ctx context.Context) (*relay, error) {
	server, err := o.Connect(ctx)
	if err != nil {
		return nil, err
	}
	r, err := o.startRelay(server)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("run pg_dump: %w", err), server.Conn.Close())
	}
	return r, nil
}

func (o Options) startRelay(server *pgconn.HijackedConn) (_ *relay, err error) {
	r := &relay{server: server, lockWait: o.LockWait, answers: o.Answers, closing: make(chan struct{}), done: make(chan struct{})}
	if r.cancel, err = pgconn.Construct(server); err != nil {
		return nil, err
	}
	if r.dir, err = socketDir(); err != nil {
		return nil, fmt.Errorf("make a folder for its socket: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(r.dir))
		}
	}()
	if r.listener, err = net.Listen("unix", socketIn(r.dir)); err != nil {
		return nil, err
	}
	// Whatever the umask says.
	if err := os.Chmod(socketIn(r.dir), 0o600); err != nil {
		return nil, errors.Join(err, r.listener.Close())
	}
	go func() {
		defer close(r.done)
		r.err = r.serve()
	}()
	return r, nil
}

func socketIn(dir string) string { return filepath.Join(dir, ".s.PGSQL."+socketPort) }

// socketDir makes the folder of a socket, of which libpq must understand the
// path: TMPDIR may be too deep, or not writable.
func socketDir() (string, error) {
	var errs []error
	for _, parent := range []string{os.TempDir(), "/tmp", "/var/tmp"} {
		parent, err := filepath.Abs(parent)
		if err != nil || strings.Contains(parent, ",") { // separates hosts
			errs = append(errs, fmt.Errorf("%q cannot hold a socket", parent), err)
			continue
		}
		removeStale(parent)
		dir, err := os.MkdirTemp(parent, socketDirPrefix)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if len(socketIn(dir)) <= maxSocketPath {
			if err = os.Chmod(dir, 0o700); err == nil { // whatever the umask says
				return dir, nil
			}
		} else {
			err = fmt.Errorf("%s is too long for the path of a socket", parent)
		}
		errs = append(errs, err, os.Remove(dir))
	}
	return "", errors.Join(errs...)
}

// removeStale removes the folders of runs that were killed before their pg_dump had
// connected, which takes moments: none as old as this is waited for.
func removeStale(parent string) {
	found, err := filepath.Glob(filepath.Join(parent, socketDirPrefix+"[0-9]*"))
	if err != nil {
		return // parent has a bracket in its name
	}
	for _, dir := range found {
		info, err := os.Lstat(dir)
		if err == nil && info.IsDir() && time.Since(info.ModTime()) > staleAge {
			_ = os.Remove(socketIn(dir)) // it may be another user's, as the folder
			_ = os.Remove(dir)           // only if nothing else is in it
		}
	}
}

// env is where pg_dump connects to, in libpq's variables.
func (r *relay) env() []string {
	return []string{
		"PGHOST=" + r.dir, "PGPORT=" + socketPort, "PGUSER=" + r.server.Config.User, "PGDATABASE=" + r.server.Config.Database,
		"PGSSLMODE=disable", "PGGSSENCMODE=disable",
	}
}

// close ends both connections, and what the server still does, and waits until
// the relay is over.
func (r *relay) close() error {
	r.mu.Lock()
	r.closed = true
	close(r.closing)
	if r.client != nil {
		_ = r.client.Close() // it may be closed already, as all below
	}
	r.mu.Unlock()
	_ = r.listener.Close()
	if r.busy.Load() {
		// The end of the connection alone would only be noticed when the query
		// has a result, or is granted the lock for which it waits.
		ctx, cancel := context.WithTimeout(context.Background(), cancelTimeout)
		_ = r.cancel.CancelRequest(ctx) // the server may be what is gone
		cancel()
	}
	_ = r.server.Conn.Close()
	<-r.done
	return errors.Join(r.err, os.RemoveAll(r.dir))
}

// serve takes one connection, pg_dump's. A second one could only ask to cancel
// a query, which close does.
func (r *relay) serve() error {
	defer r.server.Conn.Close()
	client, err := r.listener.Accept()
	_ = r.listener.Close()
	if err != nil {
		return nil // pg_dump never came: its messages say why
	}
	defer client.Close()
	_ = os.RemoveAll(r.dir) // now, since a run that is killed removes nothing; close tells of errors
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.client = client
	r.mu.Unlock()

	t := talk{
		relay: r, client: client, clientIn: bufio.NewReaderSize(client, 8<<10),
		serverIn: bufio.NewReaderSize(r.server.Conn, 64<<10), sequences: map[string][]byte{},
	}
	err = t.welcome()
	for err == nil {
		err = t.next()
	}
	var unknown *protocolError
	if errors.As(err, &unknown) {
		return err
	}
	return nil // one side has gone, of which the other hears by the end of its connection
}

// protocolError is a message that the relay does not expect of pg_dump.
type protocolError struct{ what string }

func (e *protocolError) Error() string { return "pg_dump sent " + e.what }

// talk is a conversation of pg_dump with the server, of which only one side
// speaks at a time.
type talk struct {
	*relay
	client   net.Conn
	clientIn *bufio.Reader
	serverIn *bufio.Reader
	at       place // in what the server sends
	message  []byte
	answer   []byte

	sequenceColumns []byte            // the description of what follows
	sequences       map[string][]byte // by OID: messages with their properties
}

// Kinds of messages, of which some mean different things to either side.
const (
	messageQuery        = 'Q'
	messageFunctionCall = 'F'
	messageTerminate    = 'X'

	messageAuthentication = 'R'
	messageParameter      = 'S'
	messageKey            = 'K'
	messageReady          = 'Z'
	messageDone           = 'C'
	messageColumns        = 'T'
	messageRow            = 'D'
	messageProtocol       = 'v'
	messageError          = 'E'
)

// Codes in the place of the protocol's version.
const (
	requestTLS    = 80877103
	requestGSS    = 80877104
	protocolMajor = 3
)

// welcome answers pg_dump's first message as the server answered ours.
func (t *talk) welcome() error {
	for {
		var head [8]byte
		if _, err := io.ReadFull(t.clientIn, head[:]); err != nil {
			return err
		}
		length, version := int(binary.BigEndian.Uint32(head[:])), binary.BigEndian.Uint32(head[4:])
		if version == requestTLS || version == requestGSS {
			if _, err := t.client.Write([]byte{'N'}); err != nil {
				return err
			}
			continue
		}
		if length < len(head) || length > maxMessage || version>>16 != protocolMajor {
			return &protocolError{fmt.Sprintf("a first message of %d bytes for version %d of the protocol", length, version>>16)}
		}
		parameters := make([]byte, length-len(head))
		if _, err := io.ReadFull(t.clientIn, parameters); err != nil {
			return err
		}
		return t.greet(version, parameters)
	}
}

func (t *talk) greet(version uint32, parameters []byte) error {
	var out []byte
	// A client that knows more than the session must learn that it has 3.0.
	var unknown []byte
	count := uint32(0)
	for i, word := range bytes.Split(parameters, []byte{0}) {
		if i%2 == 0 && bytes.HasPrefix(word, []byte("_pq_.")) {
			unknown = append(append(unknown, word...), 0)
			count++
		}
	}
	if version&0xffff != 0 || count > 0 {
		body := binary.BigEndian.AppendUint32(nil, protocolMajor<<16)
		out = appendMessage(out, messageProtocol, append(binary.BigEndian.AppendUint32(body, count), unknown...))
	}
	out = appendMessage(out, messageAuthentication, []byte{0, 0, 0, 0})
	for name, value := range t.server.ParameterStatuses {
		out = appendMessage(out, messageParameter, []byte(name+"\x00"+value+"\x00"))
	}
	out = appendMessage(out, messageKey, append(binary.BigEndian.AppendUint32(nil, t.server.PID), t.server.SecretKey...))
	out = appendMessage(out, messageReady, []byte{'I'})
	_, err := t.client.Write(out)
	return err
}

func appendMessage(out []byte, kind byte, body []byte) []byte {
	out = append(out, kind)
	out = binary.BigEndian.AppendUint32(out, uint32(len(body)+4))
	return append(out, body...)
}

// maxMessage is the longest message of pg_dump that is taken: it writes lists of
// a hundred kilobytes.
const maxMessage = 64 << 20

// next passes on what pg_dump says next, and the answer.
func (t *talk) next() error {
	head, err := t.clientIn.Peek(5)
	if err != nil {
		return err
	}
	kind, length := head[0], int(binary.BigEndian.Uint32(head[1:]))+1
	if length < len(head) || length > maxMessage {
		return &protocolError{fmt.Sprintf("a message of %d bytes", length)}
	}
	if cap(t.message) < length {
		t.message = make([]byte, length)
	}
	t.message = t.message[:length]
	if _, err := io.ReadFull(t.clientIn, t.message); err != nil {
		return err
	}
	switch kind {
	case messageQuery:
		return t.query(bytes.TrimRight(t.message[len(head):], "\x00"))
	case messageFunctionCall:
		return t.ask(t.message)
	case messageTerminate:
		if _, err := t.server.Conn.Write(t.message); err != nil {
			return err
		}
		return io.EOF
	default:
		return &protocolError{fmt.Sprintf("a message of the kind %q", kind)}
	}
}

func (t *talk) query(sql []byte) error {
	if isLock(sql) {
		_, err := t.client.Write(lockAnswer)
		return err
	}
	if string(sql) == "SET lock_timeout = 0" && t.lockWait > 0 {
		return t.ask(queryMessage("SET lock_timeout = " + strconv.FormatInt(max(t.lockWait.Milliseconds(), 1), 10)))
	}
	if list, oid, ok := sequenceQuery(sql); ok {
		return t.sequence(list, oid)
	}
	if t.answers != nil && wholeCatalogue(sql) {
		return t.askOnce(sql)
	}
	return t.ask(t.message)
}

func queryMessage(sql string) []byte {
	return appendMessage(nil, messageQuery, append([]byte(sql), 0))
}

// isLock reports whether a query is one of those by which pg_dump locks tables.
func isLock(sql []byte) bool {
	return bytes.HasPrefix(sql, []byte("LOCK TABLE ")) && bytes.HasSuffix(bytes.TrimRight(sql, "; \n"), []byte(" IN ACCESS SHARE MODE"))
}

// lockAnswer is that of a server to a LOCK TABLE within a transaction.
var lockAnswer = []byte("C\x00\x00\x00\x0fLOCK TABLE\x00Z\x00\x00\x00\x05T")

// ask passes a message on to the server, and its answer to pg_dump.
func (t *talk) ask(message []byte) error {
	return t.askAnd(message, func([]byte) error { return nil })
}

// Around a query that runs in pg_dump's transaction, in messages of their own.
var (
	aside = queryMessage("SAVEPOINT tenantkeep")
	back  = queryMessage("ROLLBACK TO SAVEPOINT tenantkeep; RELEASE SAVEPOINT tenantkeep")
)

// isQuery reports whether a statement reads, and leaves nothing behind in the
// session that a savepoint would take back.
func isQuery(message []byte) bool {
	sql := message[5:]
	return message[0] == messageQuery && (bytes.HasPrefix(sql, []byte("SELECT")) || bytes.HasPrefix(sql, []byte("EXECUTE "))) &&
		!bytes.Contains(sql, []byte("set_config("))
}

// askAnd is ask with the answer for keep, too, piece by piece.
func (t *talk) askAnd(message []byte, keep func(piece []byte) error) error {
	apart := t.at.status == inTransaction && isQuery(message)
	if apart {
		message = slices.Concat(aside, message, back)
	}
	if err := t.send(message); err != nil {
		return err
	}
	if apart {
		if err := t.skip(); err != nil {
			return err
		}
	}
	for !t.at.ready {
		if _, err := t.serverIn.Peek(1); err != nil {
			return err
		}
		piece, err := t.serverIn.Peek(t.serverIn.Buffered())
		if err != nil {
			return err
		}
		piece = piece[:t.at.pass(piece)]
		if _, err := t.client.Write(piece); err != nil {
			return err
		}
		if err := keep(piece); err != nil {
			return err
		}
		if _, err := t.serverIn.Discard(len(piece)); err != nil {
			return err
		}
	}
	if apart {
		if err := t.skip(); err != nil {
			return err
		}
	}
	t.busy.Store(false)
	return nil
}

// skip reads the answer to a statement of the relay's own.
func (t *talk) skip() error {
	for {
		kind, _, err := t.receive()
		if err != nil || kind == messageReady {
			return err
		}
	}
}

// askOnce is ask for a query that every run makes.
func (t *talk) askOnce(sql []byte) error {
	a, fetch := t.answers.of(sql)
	if fetch {
		err := t.askAnd(t.message, a.add)
		a.settle(err == nil && !t.at.failed)
		return err
	}
	select {
	case <-a.settled:
	case <-t.closing:
		return net.ErrClosed
	}
	if a.text == nil {
		return t.ask(t.message)
	}
	return a.replay(t.client)
}

func (t *talk) send(message []byte) error {
	t.at.ready, t.at.failed = false, false
	t.busy.Store(true)
	_, err := t.server.Conn.Write(message)
	return err
}

// place is where in the stream of messages of a server one is.
type place struct {
	head   [5]byte
	have   int  // bytes of the head
	left   int  // of the body
	ready  bool // the server waits for the next query
	status byte // of the transaction, then
	failed bool // it answered with an error
}

// inTransaction is the status within a transaction that has not failed.
const inTransaction = 'T'

// pass goes over the next bytes, as far as the server is ready, and returns how
// many they are.
func (p *place) pass(b []byte) int {
	at := 0
	for !p.ready && (at < len(b) || p.have == len(p.head) && p.left == 0) {
		if p.have < len(p.head) {
			n := copy(p.head[p.have:], b[at:])
			p.have += n
			at += n
			if p.have == len(p.head) {
				p.left = int(binary.BigEndian.Uint32(p.head[1:])) - 4
			}
			continue
		}
		n := min(p.left, len(b)-at)
		p.left -= n
		at += n
		if p.left > 0 {
			continue
		}
		p.have = 0
		switch p.head[0] {
		case messageReady:
			p.ready = true
			if n > 0 {
				p.status = b[at-1]
			}
		case messageError:
			p.failed = true
		}
	}
	return at
}

// sequenceQuery cuts a query for the properties of one sequence into what it
// asks for and of which.
func sequenceQuery(sql []byte) (list, oid []byte, ok bool) {
	list, rest, ok := bytes.Cut(sql, []byte(" FROM pg_catalog.pg_sequence WHERE seqrelid = '"))
	if !ok {
		return nil, nil, false
	}
	list, isSelect := bytes.CutPrefix(list, []byte("SELECT "))
	oid, isOID := bytes.CutSuffix(rest, []byte("'::oid"))
	for _, digit := range oid {
		isOID = isOID && '0' <= digit && digit <= '9'
	}
	return list, oid, isSelect && isOID && len(oid) > 0
}

// sequence answers for the properties of a sequence. pg_dump comes by the
// others of its schema soon.
func (t *talk) sequence(list, oid []byte) error {
	if _, ok := t.sequences[string(oid)]; !ok {
		known, err := t.readSequences(list, oid)
		if err != nil || !known {
			return err
		}
	}
	row, ok := t.sequences[string(oid)]
	if !ok {
		return t.ask(t.message)
	}
	delete(t.sequences, string(oid))
	t.answer = append(append(t.answer[:0], t.sequenceColumns...), row...)
	t.answer = append(t.answer, "C\x00\x00\x00\x0dSELECT 1\x00Z\x00\x00\x00\x05T"...)
	_, err := t.client.Write(t.answer)
	return err
}

// readSequences reads the properties of all sequences of the schema in which
// the one is. Where the server refuses, pg_dump gets its error as the answer
// and known is false.
func (t *talk) readSequences(list, oid []byte) (known bool, err error) {
	err = t.send(queryMessage("SELECT seqrelid, " + string(list) + ` FROM pg_catalog.pg_sequence WHERE seqrelid IN (
		SELECT o.objid FROM pg_catalog.pg_depend s JOIN pg_catalog.pg_depend o
			ON o.classid = s.classid AND o.refclassid = s.refclassid AND o.refobjid = s.refobjid
		WHERE s.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND s.objid = ` + string(oid) + ` AND s.objsubid = 0
			AND s.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass)`))
	if err != nil {
		return false, err
	}
	known = true
	for {
		kind, body, err := t.receive()
		if err != nil {
			return false, err
		}
		switch kind {
		case messageColumns:
			if body, err = withoutFirst(body, skipColumn); err == nil {
				t.sequenceColumns = appendMessage(nil, kind, body)
			}
		case messageRow:
			var first []byte
			if first, err = firstValue(body); err == nil {
				if body, err = withoutFirst(body, skipValue); err == nil {
					t.sequences[string(first)] = appendMessage(nil, kind, body)
				}
			}
		case messageDone:
		case messageReady:
			t.busy.Store(false)
			if !known {
				_, err = t.client.Write(appendMessage(nil, kind, body))
			}
			return known, err
		default: // an error, or a notice
			known = known && kind != messageError
			_, err = t.client.Write(appendMessage(nil, kind, body))
		}
		if err != nil {
			return false, err
		}
	}
}

// receive reads one message of the server, when the last one was passed whole.
func (t *talk) receive() (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(t.serverIn, head[:]); err != nil {
		return 0, nil, err
	}
	length := int(binary.BigEndian.Uint32(head[1:])) - 4
	if length < 0 || length > maxMessage {
		return 0, nil, errDamaged
	}
	body = make([]byte, length)
	_, err = io.ReadFull(t.serverIn, body)
	return head[0], body, err
}

var errDamaged = errors.New("the server sent a damaged message")

// withoutFirst takes the first of the elements, of which there are as many as
// the first two bytes say, out of a message.
func withoutFirst(body []byte, skip func([]byte) int) ([]byte, error) {
	if len(body) < 2 || binary.BigEndian.Uint16(body) == 0 {
		return nil, errDamaged
	}
	n := skip(body[2:])
	if n < 0 || n > len(body)-2 {
		return nil, errDamaged
	}
	out := binary.BigEndian.AppendUint16(make([]byte, 0, len(body)-n), binary.BigEndian.Uint16(body)-1)
	return append(out, body[2+n:]...), nil
}

// skipColumn is the length of the description of a column: a name and 18 bytes.
func skipColumn(b []byte) int {
	end := bytes.IndexByte(b, 0)
	if end < 0 {
		return -1
	}
	return end + 1 + 18
}

// skipValue is the length of a value with its own length before it.
func skipValue(b []byte) int {
	if len(b) < 4 {
		return -1
	}
	return 4 + int(max(int32(binary.BigEndian.Uint32(b)), 0))
}

func firstValue(body []byte) ([]byte, error) {
	if len(body) < 6 {
		return nil, errDamaged
	}
	n := skipValue(body[2:])
	if n > len(body)-2 {
		return nil, errDamaged
	}
	return body[6 : 2+n], nil
}
