package backup_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// TestPooler connects through a real transaction pooler.
func TestPooler(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer"
	}
	if _, err := os.Stat(program); err != nil {
		t.Skip("pgbouncer is not installed: scripts/install-test-tools.sh")
	}
	w := setup(t, nil)
	createTenant(t, w.db, "t0")
	cluster := w.db.Cluster()

	// It refuses root, and the socket is for the server's user.
	socket, err := os.Stat(cluster.SocketDir())
	must(t, err)
	owner := socket.Sys().(*syscall.Stat_t)
	dir, err := os.MkdirTemp("/tmp", "tenantkeep-pooler-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	conf := filepath.Join(dir, "pgbouncer.ini")
	must(t, os.WriteFile(conf, fmt.Appendf(nil, `[databases]
pooled = host=%s port=%d dbname=%s user=postgres
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = %s
auth_type = any
pool_mode = transaction
ignore_startup_parameters = extra_float_digits
`, cluster.SocketDir(), cluster.Port(), w.db.Name, dir), 0o644))
	must(t, os.Chown(dir, int(owner.Uid), int(owner.Gid)))
	cmd := exec.CommandContext(t.Context(), program, conf)
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	}
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for deadline := time.Now().Add(20 * time.Second); ; {
		conn, err := new(net.Dialer).DialContext(t.Context(), "unix", filepath.Join(dir, ".s.PGSQL.6432"))
		if err == nil {
			must(t, conn.Close())
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("pgbouncer does not answer: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}

	w.opts.Server = parse(t, "postgres:///pooled?host="+dir+"&port=6432&user=postgres")
	err = w.runFailing(t, t.Context())
	var pooler *pg.PoolerError
	if !errors.As(err, &pooler) {
		t.Fatalf("error %v", err)
	}
	requireContains(t, hint(err), "connect to PostgreSQL directly")
}
