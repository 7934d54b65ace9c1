// Package pgcluster runs a private PostgreSQL cluster in a folder: for the
// demonstration, the tests and the benchmark.
//
// The server listens on a Unix socket in a folder that only its user can enter,
// so that it needs no password and no port. Where the caller is root, whom the
// server refuses, it runs as the user postgres or nobody. It ends when the
// process that started it ends, in whatever way that happens.
package pgcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Superuser is the role that owns a cluster.
const Superuser = "postgres"

const (
	// defaultPort only names the socket file as long as TCP is not asked for.
	defaultPort = 5432
	// maxSocketPath is what sockaddr_un holds on Linux less the final zero byte;
	// macOS has 104 bytes in all.
	maxSocketPath = 103

	startTimeout = 2 * time.Minute
	stopTimeout  = time.Minute
	pollInterval = 20 * time.Millisecond

	settingsFile = "tenantkeep.conf"
)

// Options say where a cluster lives and how it runs. The zero value is a
// temporary cluster with the server's default settings.
type Options struct {
	// Dir holds the cluster: it is made if need be, and a cluster that is in it
	// already is started again. Empty means a temporary folder that Close, or
	// the end of this process, removes.
	Dir string
	// Programs are the server programs; the zero value asks Find.
	Programs Programs
	// Settings are server settings by name, as in postgresql.conf but unquoted.
	Settings map[string]string
	// Unsafe trades the safety of the data against a crash of the machine (not
	// of the server) for speed: for what is thrown away anyway.
	Unsafe bool
	// TCP also listens on a free port of 127.0.0.1, where roles need a password
	// (scram-sha-256). Address names it.
	TCP bool
}

// Cluster is a private PostgreSQL cluster. Its methods are not safe for
// concurrent use, except URL, Env, CreateDatabase and DropDatabase.
type Cluster struct {
	// Programs run this cluster.
	Programs Programs

	dir       string
	temporary bool
	socketDir string
	ownSocket bool // socketDir lies outside dir and is removed on its own
	port      int
	tcp       bool
	settings  map[string]string
	user      *syscall.Credential // nil: the caller's own

	keeper *keeper
	server *exec.Cmd     // nil while stopped
	exited chan struct{} // closed when server has ended and was waited for
}

// StopMode is how a server treats those who are connected when it stops.
type StopMode syscall.Signal

// The three ways of pg_ctl stop -m.
const (
	// Smart waits for every session to end.
	Smart = StopMode(syscall.SIGTERM)
	// Fast ends the sessions and writes a checkpoint.
	Fast = StopMode(syscall.SIGINT)
	// Immediate ends without a checkpoint; the next start recovers.
	Immediate = StopMode(syscall.SIGQUIT)
)

// Start makes the cluster if it is not there yet, starts its server and waits
// until it accepts connections.
func Start(ctx context.Context, opts Options) (_ *Cluster, err error) {
	if opts.Programs == (Programs{}) {
		if opts.Programs, err = Find(); err != nil {
			return nil, err
		}
	}
	c := &Cluster{Programs: opts.Programs, tcp: opts.TCP, settings: maps.Clone(opts.Settings)}
	if c.settings == nil {
		c.settings = map[string]string{}
	}
	if opts.Unsafe {
		for _, name := range []string{"fsync", "full_page_writes", "synchronous_commit"} {
			if _, set := c.settings[name]; !set {
				c.settings[name] = "off"
			}
		}
	}
	if c.user, err = serverUser(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if err := c.prepareDirs(opts.Dir); err != nil {
		return nil, err
	}
	if c.keeper, err = startKeeper(c.removals()...); err != nil {
		return nil, err
	}
	if !exists(filepath.Join(c.DataDir(), "PG_VERSION")) {
		if err := c.initialize(ctx); err != nil {
			return nil, err
		}
	}
	if err := c.choosePort(ctx); err != nil {
		return nil, err
	}
	if err := c.start(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// Dir is the folder of the cluster.
func (c *Cluster) Dir() string { return c.dir }

// DataDir is the server's data directory.
func (c *Cluster) DataDir() string { return filepath.Join(c.dir, "data") }

// LogFile is where the server writes its messages.
func (c *Cluster) LogFile() string { return filepath.Join(c.dir, "server.log") }

// SocketDir is the folder of the server's Unix socket, which is a host to libpq.
func (c *Cluster) SocketDir() string { return c.socketDir }

// Port names the socket, and is the TCP port where TCP was asked for.
func (c *Cluster) Port() int { return c.port }

// Address is host and port of the TCP listener; empty without one.
func (c *Cluster) Address() string {
	if !c.tcp {
		return ""
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port))
}

// URL is the connection string of a database for the superuser.
func (c *Cluster) URL(database string) string {
	query := url.Values{"host": {c.socketDir}, "port": {strconv.Itoa(c.port)}, "user": {Superuser}}
	return "postgres:///" + url.PathEscape(database) + "?" + strings.ReplaceAll(query.Encode(), "+", "%20")
}

// Env is the environment that leads libpq's programs to a database.
func (c *Cluster) Env(database string) []string {
	return []string{
		"PGHOST=" + c.socketDir,
		"PGPORT=" + strconv.Itoa(c.port),
		"PGUSER=" + Superuser,
		"PGDATABASE=" + database,
	}
}

// CreateDatabase makes an empty database.
func (c *Cluster) CreateDatabase(ctx context.Context, name string) error {
	if err := c.exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	return nil
}

// DropDatabase removes a database and ends the sessions in it; one that is not
// there is fine.
func (c *Cluster) DropDatabase(ctx context.Context, name string) error {
	drop := "DROP DATABASE IF EXISTS " + pgx.Identifier{name}.Sanitize() + " WITH (FORCE)"
	if err := c.exec(ctx, drop); err != nil {
		return fmt.Errorf("drop database %s: %w", name, err)
	}
	return nil
}

func (c *Cluster) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, c.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, sql)
	return err
}

// Stop stops the server and waits for its end. A server that does not end
// within a minute is killed, and that is an error. A stopped one is fine.
func (c *Cluster) Stop(mode StopMode) error {
	if c.server == nil {
		return nil
	}
	return c.end(syscall.Signal(mode), stopTimeout)
}

// Kill ends the postmaster with SIGKILL, as a crash would, and waits for it.
// Its backends notice within moments and end as well.
func (c *Cluster) Kill() error {
	if c.server == nil {
		return nil
	}
	return c.end(syscall.SIGKILL, stopTimeout)
}

func (c *Cluster) end(signal syscall.Signal, timeout time.Duration) error {
	// A server that has ended by itself cannot be signalled, and need not be.
	if err := c.server.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal PostgreSQL server: %w", err)
	}
	var late error
	select {
	case <-c.exited:
	case <-time.After(timeout):
		late = fmt.Errorf("stop PostgreSQL server: still running after %s, killed", timeout)
		late = errors.Join(late, c.server.Process.Kill())
		<-c.exited
	}
	c.server = nil
	return errors.Join(late, c.keeper.watch(0))
}

// Restart starts a stopped or killed server again; one that runs is stopped
// first, with Fast. The settings are added to those it had.
func (c *Cluster) Restart(ctx context.Context, settings map[string]string) error {
	if err := c.Stop(Fast); err != nil {
		return err
	}
	maps.Copy(c.settings, settings)
	return c.start(ctx)
}

// Close stops the server, and removes a temporary cluster.
func (c *Cluster) Close() error {
	mode := Fast
	if c.temporary {
		mode = Immediate
	}
	err := c.Stop(mode)
	for _, dir := range c.removals() {
		err = errors.Join(err, removeAll(dir))
	}
	return errors.Join(err, c.keeper.close())
}

// removals are the folders that are not to outlive the cluster.
func (c *Cluster) removals() []string {
	var dirs []string
	if c.temporary && c.dir != "" {
		dirs = append(dirs, c.dir)
	}
	if c.ownSocket && c.socketDir != "" {
		dirs = append(dirs, c.socketDir)
	}
	return dirs
}

// removeAll removes a folder in which the last backends of a server that was
// stopped the hard way may still be writing.
func removeAll(dir string) error {
	var err error
	for range 50 {
		if err = os.RemoveAll(dir); err == nil {
			return nil
		}
		time.Sleep(pollInterval)
	}
	return err
}

func (c *Cluster) prepareDirs(dir string) error {
	if dir == "" {
		temporary, err := makeTempDir(c.user)
		if err != nil {
			return err
		}
		c.dir, c.temporary = temporary, true
	} else {
		absolute, err := filepath.Abs(dir)
		if err != nil {
			return fmt.Errorf("resolve folder of the cluster: %w", err)
		}
		if err := os.MkdirAll(absolute, 0o700); err != nil {
			return fmt.Errorf("make folder of the cluster: %w", err)
		}
		if blocking := closedParent(absolute, c.user); blocking != "" {
			return fmt.Errorf("use %s for a cluster: the server runs as uid %d, which may not enter %s", dir, c.user.Uid, blocking)
		}
		c.dir = absolute
	}
	if err := chown(c.dir, c.user); err != nil {
		return err
	}

	c.socketDir = filepath.Join(c.dir, "socket")
	if len(socketPath(c.socketDir, 65535)) > maxSocketPath {
		socketDir, err := makeTempDir(c.user)
		if err != nil {
			return err
		}
		c.socketDir, c.ownSocket = socketDir, true
		return nil
	}
	if err := os.MkdirAll(c.socketDir, 0o700); err != nil {
		return fmt.Errorf("make folder of the socket: %w", err)
	}
	return chown(c.socketDir, c.user)
}

// initialize runs initdb.
func (c *Cluster) initialize(ctx context.Context) error {
	// Both order by code point, on every system alike; C.UTF-8 knows letters
	// beyond ASCII as well, but macOS does not have it.
	var firstErr error
	for _, locale := range []string{"C.UTF-8", "C"} {
		cmd := exec.CommandContext(ctx, c.Programs.Path("initdb"),
			"--pgdata", c.DataDir(), "--username", Superuser, "--encoding", "UTF8", "--locale", locale,
			"--auth-local", "trust", "--auth-host", "scram-sha-256", "--no-sync", "--no-instructions")
		c.confine(cmd)
		out, err := cmd.CombinedOutput()
		if err == nil {
			return c.includeSettings()
		}
		if ctx.Err() != nil {
			return fmt.Errorf("create PostgreSQL cluster: %w", ctx.Err())
		}
		if firstErr == nil {
			firstErr = fmt.Errorf("create PostgreSQL cluster in %s: %w: %s", c.DataDir(), err, bytes.TrimSpace(out))
		}
	}
	return firstErr
}

// includeSettings makes the server read settingsFile, which each start writes.
func (c *Cluster) includeSettings() error {
	f, err := os.OpenFile(filepath.Join(c.DataDir(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("configure PostgreSQL cluster: %w", err)
	}
	_, err = f.WriteString("\ninclude '" + settingsFile + "'\n")
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("configure PostgreSQL cluster: %w", err)
	}
	return nil
}

func (c *Cluster) writeSettings() error {
	settings := map[string]string{
		"listen_addresses":        "",
		"port":                    strconv.Itoa(c.port),
		"unix_socket_directories": c.socketDir,
		"unix_socket_permissions": "0700",
		"log_line_prefix":         "%m [%p] %d ",
	}
	if c.tcp {
		settings["listen_addresses"] = "127.0.0.1"
	}
	maps.Copy(settings, c.settings)
	var conf strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&conf, "%s = '%s'\n", name, strings.ReplaceAll(settings[name], "'", "''"))
	}
	path := filepath.Join(c.DataDir(), settingsFile)
	if err := os.WriteFile(path, []byte(conf.String()), 0o600); err != nil {
		return fmt.Errorf("configure PostgreSQL cluster: %w", err)
	}
	return chown(path, c.user)
}

func (c *Cluster) choosePort(ctx context.Context) error {
	c.port = defaultPort
	if !c.tcp {
		return nil
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("find a free port: %w", err)
	}
	c.port = listener.Addr().(*net.TCPAddr).Port
	return listener.Close()
}

// errStillInUse says that backends of a killed postmaster are still there.
var errStillInUse = errors.New("backends of the server that ran before are still there")

func (c *Cluster) start(ctx context.Context) error {
	if err := c.writeSettings(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := c.startOnce(ctx)
		if !errors.Is(err, errStillInUse) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pollInterval):
		}
	}
}

func (c *Cluster) startOnce(ctx context.Context) (err error) {
	logFile, err := os.OpenFile(c.LogFile(), os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open log of the server: %w", err)
	}
	defer logFile.Close()
	before, err := logFile.Stat()
	if err != nil {
		return fmt.Errorf("open log of the server: %w", err)
	}

	// Not CommandContext: the server outlives ctx, which only bounds the start.
	server := exec.Command(c.Programs.Path("postgres"), "-D", c.DataDir())
	server.Stdout, server.Stderr = logFile, logFile
	c.confine(server)
	if err := server.Start(); err != nil {
		return fmt.Errorf("start PostgreSQL server: %w", err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = server.Wait() // how it ended is in its log
	}()
	c.server, c.exited = server, exited
	if err := c.keeper.watch(server.Process.Pid); err != nil {
		return errors.Join(err, c.end(syscall.SIGQUIT, stopTimeout))
	}

	err = c.waitReady(ctx)
	if err == nil {
		return nil
	}
	err = errors.Join(err, c.end(syscall.SIGQUIT, stopTimeout))
	said, readErr := os.ReadFile(c.LogFile())
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	said = bytes.TrimSpace(said[min(before.Size(), int64(len(said))):])
	if bytes.Contains(said, []byte("pre-existing shared memory block")) {
		return fmt.Errorf("%w: %s", errStillInUse, said)
	}
	return fmt.Errorf("%w; the server said: %s", err, lastLines(said, 20))
}

// waitReady tries to connect until the server lets it in, or has ended.
func (c *Cluster) waitReady(ctx context.Context) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		conn, err := pgx.Connect(ctx, c.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-c.exited:
			return errors.New("start PostgreSQL server: it ended at once")
		case <-ctx.Done():
			return fmt.Errorf("wait for PostgreSQL server: %w: %w", ctx.Err(), err)
		case <-ticker.C:
		}
	}
}

// confine makes cmd run as the server's user, out of reach of a terminal's
// Ctrl-C, which is this process's to handle.
func (c *Cluster) confine(cmd *exec.Cmd) {
	cmd.Dir = c.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: c.user}
	// libpq variables and locales of the caller are no business of the server.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
}

func socketPath(dir string, port int) string {
	return filepath.Join(dir, ".s.PGSQL."+strconv.Itoa(port)+".lock")
}

func chown(path string, user *syscall.Credential) error {
	if user == nil {
		return nil
	}
	if err := os.Chown(path, int(user.Uid), int(user.Gid)); err != nil {
		return fmt.Errorf("hand over to the server's user: %w", err)
	}
	return nil
}

// closedParent returns the nearest folder above dir that user may not enter;
// empty when there is none.
func closedParent(dir string, user *syscall.Credential) string {
	if user == nil {
		return ""
	}
	for parent := filepath.Dir(dir); ; parent = filepath.Dir(parent) {
		info, err := os.Stat(parent)
		if err != nil || !mayEnter(info, user) {
			return parent
		}
		if parent == filepath.Dir(parent) {
			return ""
		}
	}
}

func mayEnter(info fs.FileInfo, user *syscall.Credential) bool {
	mode := info.Mode().Perm()
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && owner.Uid == user.Uid {
		return mode&0o100 != 0
	}
	return mode&0o001 != 0
}

// makeTempDir makes a folder that belongs to user, at a place that user can
// reach and that leaves room for a socket's name.
func makeTempDir(user *syscall.Credential) (string, error) {
	var errs error
	for _, root := range []string{os.TempDir(), "/tmp", "/var/tmp"} {
		dir, err := os.MkdirTemp(root, "tenantkeep-pg-")
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		blocking := closedParent(dir, user)
		fits := len(socketPath(filepath.Join(dir, "socket"), 65535)) <= maxSocketPath
		if blocking == "" && fits {
			return dir, chown(dir, user)
		}
		errs = errors.Join(errs, os.Remove(dir))
		if blocking != "" {
			errs = errors.Join(errs, fmt.Errorf("uid %d may not enter %s", user.Uid, blocking))
		} else {
			errs = errors.Join(errs, fmt.Errorf("path of %s is too long for a socket", root))
		}
	}
	return "", fmt.Errorf("make temporary folder for a cluster: %w", errs)
}

func lastLines(text []byte, n int) []byte {
	lines := bytes.Split(text, []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-n):], []byte("\n"))
}
