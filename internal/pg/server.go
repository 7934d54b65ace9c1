// Package pg talks to PostgreSQL: connections set up so that what is read is
// exact, the inventory of schemas, an exported snapshot, rows by COPY.
//
// Names from the database are only ever put into SQL by Identifier, values by
// parameters.
package pg

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Server is a database to connect to: who, where, which. Its methods may be
// called from several goroutines.
type Server struct {
	mu     sync.Mutex
	config *pgx.ConnConfig // replaced, never changed
}

// connectLimit bounds the attempt to connect to one host, where connect_timeout says
// nothing: a server that accepts and never answers, such as one whose disk hangs,
// would keep a run, and all that wait for it, without end and without a word.
const connectLimit = 30 * time.Second

// readBuffer is how much a session reads from the server at once, in bytes. pgx
// alone reads 8 kB, a system call for every few rows of a COPY.
const readBuffer = 128 << 10

// schemes are the URL schemes that mean PostgreSQL, as the frameworks of the
// field write them.
var schemes = []string{"postgres", "postgresql", "pgsql", "postgis"}

// Parse reads a connection URL. An empty one takes everything from libpq's
// environment variables, ~/.pgpass and the service file. It does not connect.
func Parse(databaseURL string) (*Server, error) {
	if databaseURL != "" {
		u, err := url.Parse(databaseURL)
		if err != nil {
			// url.Error quotes the whole URL, the password included.
			return nil, errors.New("the database URL cannot be read: characters such as @ / : # ? in user or password must be percent-encoded")
		}
		scheme, _, _ := strings.Cut(u.Scheme, "+") // postgresql+psycopg://
		if !slices.Contains(schemes, scheme) {
			return nil, errors.New("the database URL does not begin with postgres://")
		}
		u.Scheme = "postgres"
		databaseURL = u.String()
	}
	config, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		return nil, err // pgx masks the password
	}
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		return pgproto3.NewFrontend(bufio.NewReaderSize(&gatherer{r: r, pause: pause}, readBuffer), w)
	}
	if config.Database == "" {
		config.Database = config.User
	}
	config.ConnectTimeout = cmp.Or(config.ConnectTimeout, connectLimit)
	for _, setting := range clientSettings {
		delete(config.RuntimeParams, setting)
	}
	return &Server{config: config}, nil
}

// clientSettings are libpq's own, which mean nothing to the server: it refuses
// what pgx does not know and would pass on.
var clientSettings = []string{
	"sslmode", "sslnegotiation", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "sslcrldir", "sslsni", "sslcertmode",
	"ssl_min_protocol_version", "ssl_max_protocol_version", "sslcompression", "requiressl", "channel_binding", "require_auth",
	"gssencmode", "gssdelegation", "gsslib", "krbsrvname", "requirepeer",
	"connect_timeout", "hostaddr", "passfile", "service", "servicefile", "fallback_application_name",
	"target_session_attrs", "load_balance_hosts", "min_protocol_version", "max_protocol_version", "replication",
	"keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
	"default_query_exec_mode", "statement_cache_capacity", "description_cache_capacity",
}

// WithDatabase is the same server with another database.
func (s *Server) WithDatabase(name string) *Server {
	c := s.current().Copy()
	c.Database = name
	return &Server{config: c}
}

// WithPassword is the same server with a password, where it has none yet.
func (s *Server) WithPassword(password string) *Server {
	if s.current().Password != "" || password == "" {
		return s
	}
	c := s.current().Copy()
	c.Password = password
	return &Server{config: c}
}

// Database is the name of the database.
func (s *Server) Database() string { return s.current().Database }

func (s *Server) current() *pgx.ConnConfig {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.config
}

// String names user, host and database, never the password.
func (s *Server) String() string {
	c := s.current()
	return fmt.Sprintf("database %q on %s as %q", c.Database, s.Address(), c.User)
}

// Address is host and port of the server, or the folder of its socket.
func (s *Server) Address() string {
	c := s.current()
	if strings.HasPrefix(c.Host, "/") {
		return c.Host
	}
	return net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))
}

// session is what every connection sets, so that no setting of server,
// database or role changes what values look like or which rows are seen.
const session = `
SET search_path = '';
SET application_name = 'tenantkeep';
SET datestyle = 'ISO, MDY';
SET intervalstyle = 'postgres';
SET timezone = 'UTC';
SET extra_float_digits = 3;
SET bytea_output = 'hex';
SET xmloption = 'content';
SET standard_conforming_strings = on;
SET row_security = off;
SET synchronize_seqscans = off;
SET quote_all_identifiers = off;
SET plan_cache_mode = force_custom_plan;
SET jit = off;
SET max_parallel_workers_per_gather = 0;
SET check_function_bodies = off;
SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_min_messages = warning`

// laterSettings exist only in later servers, by server_version_num.
var laterSettings = []struct {
	since int
	set   string
}{
	{140000, "SET idle_session_timeout = 0"},
	{170000, "SET transaction_timeout = 0"},
}

// Connect opens a connection. The first one pins a list of hosts to the one
// that answered, because a snapshot lives on one server. A host that does not answer
// within connect_timeout, or 30 seconds, is given up.
func (s *Server) Connect(ctx context.Context) (*pgx.Conn, error) {
	var errs []error
	for _, c := range s.hosts() {
		conn, err := pgx.ConnectConfig(ctx, c)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if err := setUpInTime(ctx, conn, c.ConnectTimeout); err != nil {
			err = errors.Join(err, closeNow(conn))
			if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
				errs = append(errs, err)
				continue
			}
			return nil, err
		}
		s.mu.Lock()
		s.config = c
		s.mu.Unlock()
		return conn, nil
	}
	return nil, &ConnectError{Server: s.String(), Err: errors.Join(errs...)}
}

// KeepPlans lets the session keep the plans of its statements: for short ones that
// are asked often, of which planning is a large part, and whose plan must not depend
// on their parameters.
func KeepPlans(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.PgConn().Exec(ctx, "SET plan_cache_mode = force_generic_plan").ReadAll(); err != nil {
		return fmt.Errorf("set up session: %w", err)
	}
	return nil
}

// hosts are the configurations to try, one for each host.
func (s *Server) hosts() []*pgx.ConnConfig {
	type place struct {
		host string
		port uint16
	}
	var order []place
	byPlace := map[place]*pgx.ConnConfig{}
	config := s.current()
	first := config.Copy()
	first.Fallbacks = nil
	at := place{first.Host, first.Port}
	order, byPlace[at] = append(order, at), first
	for _, f := range config.Fallbacks {
		at := place{f.Host, f.Port}
		if c := byPlace[at]; c != nil {
			c.Fallbacks = append(c.Fallbacks, f) // sslmode=prefer: the same host without TLS
			continue
		}
		c := config.Copy()
		c.Host, c.Port, c.TLSConfig, c.Fallbacks = f.Host, f.Port, f.TLSConfig, nil
		order, byPlace[at] = append(order, at), c
	}
	var out []*pgx.ConnConfig
	for _, at := range order {
		out = append(out, byPlace[at])
	}
	return out
}

func setUpInTime(ctx context.Context, conn *pgx.Conn, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return setUp(ctx, conn)
}

func setUp(ctx context.Context, conn *pgx.Conn) error {
	set := session
	for _, l := range laterSettings {
		if VersionNum(conn) >= l.since {
			set += ";\n" + l.set
		}
	}
	set += ";\nSET client_encoding = '" + ClientEncoding(conn) + "'"
	if _, err := conn.PgConn().Exec(ctx, set).ReadAll(); err != nil {
		return fmt.Errorf("set up session: %w", err)
	}
	// One message and no prepared statement, which a pooler might lose.
	results, err := conn.PgConn().Exec(ctx, "SELECT pg_catalog.pg_backend_pid()").ReadAll()
	if err != nil {
		return fmt.Errorf("set up session: %w", err)
	}
	if pid := string(results[0].Rows[0][0]); pid != strconv.FormatUint(uint64(conn.PgConn().PID()), 10) {
		return &PoolerError{}
	}
	return nil
}

// ClientEncoding is the encoding in which text travels: UTF8, but for
// databases of encoding SQL_ASCII, whose bytes must pass as they are.
func ClientEncoding(conn *pgx.Conn) string {
	if conn.PgConn().ParameterStatus("server_encoding") == "SQL_ASCII" {
		return "SQL_ASCII"
	}
	return "UTF8"
}

// VersionNum is the server's version as server_version_num has it: 150020 for
// 15.20.
func VersionNum(conn *pgx.Conn) int {
	return ParseVersion(conn.PgConn().ParameterStatus("server_version"))
}

// ParseVersion turns a version as the server prints it, such as
// "15.20 (Debian 15.20-0+deb12u1)" or "19beta1", into a number like 150020.
func ParseVersion(s string) int {
	digits := func() int {
		i := 0
		for i < len(s) && s[i] >= '0' && s[i] <= '9' {
			i++
		}
		n, _ := strconv.Atoi(s[:i]) // empty: 0
		s = s[i:]
		return n
	}
	major := digits()
	if !strings.HasPrefix(s, ".") {
		return major * 10000
	}
	s = s[1:]
	return major*10000 + digits()
}

func closeNow(conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return conn.Close(ctx)
}

// Close ends a connection in good order, even when the context of the work on
// it is over.
func Close(conn *pgx.Conn) {
	if conn != nil {
		_ = closeNow(conn) // the server rolls back what was open, whatever this says
	}
}

// ConnectError is a server that could not be reached or that refused.
type ConnectError struct {
	Server string
	Err    error
}

func (e *ConnectError) Error() string {
	err := e.Err
	var inner *pgconn.ConnectError
	if errors.As(err, &inner) && inner.Unwrap() != nil {
		err = inner.Unwrap() // without user and database once more
	}
	// With sslmode=prefer each address is tried twice, mostly to the same end.
	var reasons []string
	for reason := range strings.Lines(err.Error()) {
		reason = strings.TrimSpace(reason)
		if reason != "" && !slices.Contains(reasons, reason) {
			reasons = append(reasons, reason)
		}
	}
	return fmt.Sprintf("connect to %s: %s", e.Server, strings.Join(reasons, "; "))
}

func (e *ConnectError) Unwrap() error { return e.Err }

// Hint says what to look at, by the kind of failure.
func (e *ConnectError) Hint() string {
	switch code := Code(e.Err); {
	case code == "28P01" || code == "28000":
		return "check user and password: DATABASE_URL, PGPASSWORD, PGPASSWORD_FILE or ~/.pgpass, and pg_hba.conf on the server"
	case code == "3D000":
		return "check the name of the database in DATABASE_URL or PGDATABASE"
	case code == "53300":
		return "the server has no connection left: raise max_connections, or lower --jobs"
	case code == "57P03":
		return "the server is starting up or shutting down: try again in a moment"
	case code == "" && errors.Is(e.Err, context.DeadlineExceeded):
		return "it did not answer in time: is the server at work, and is nothing in between that drops what is sent? connect_timeout in DATABASE_URL, or PGCONNECT_TIMEOUT, " +
			"gives it more seconds than 30"
	default:
		return "is the server running, and are host and port right? DATABASE_URL, or PGHOST and PGPORT"
	}
}

// PoolerError is a connection that does not lead to the server itself.
type PoolerError struct{}

func (*PoolerError) Error() string {
	return "the connection goes through a connection pooler: the session that answers is not the one that was opened"
}

// Hint names the remedy.
func (*PoolerError) Hint() string {
	return "a snapshot, locks and settings must stay with one server session: connect to PostgreSQL directly, past pgbouncer and the like (often port 5432 instead of 6432)"
}

// Hijacked opens a connection and gives it away as it is on the wire, for a
// program that is to work on a session set up as Connect does it.
func (s *Server) Hijacked(ctx context.Context) (*pgconn.HijackedConn, error) {
	conn, err := s.Connect(ctx)
	if err != nil {
		return nil, err
	}
	hijacked, err := conn.PgConn().Hijack()
	if err != nil {
		Close(conn)
		return nil, fmt.Errorf("hand over the connection: %w", err)
	}
	return hijacked, nil
}
