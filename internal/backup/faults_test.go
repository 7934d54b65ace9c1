package backup_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/backup"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgcluster"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/storage"
	"github.com/tenantkeep/tenantkeep/internal/storage/local"
	"github.com/tenantkeep/tenantkeep/internal/storage/storagetest"
	"github.com/tenantkeep/tenantkeep/internal/verify"
)

// TestSmallLockTable backs up more than pg_dump can on the same server.
func TestSmallLockTable(t *testing.T) {
	t.Parallel()
	cluster := pgtest.StartCluster(t, map[string]string{
		"max_connections": "20", "max_locks_per_transaction": "32", "max_worker_processes": "0", "max_wal_senders": "0", "autovacuum": "off",
	})
	w := setup(t, pgtest.NewIn(t, cluster))
	w.opts.LockTimeout = 200 * time.Millisecond
	var tenants []string
	for n := range 60 {
		tenant := fmt.Sprintf("t%d", n)
		tenants = append(tenants, tenant)
		w.db.Exec(t, fmt.Sprintf(`CREATE SCHEMA %[1]s`, tenant))
		w.db.Exec(t, fmt.Sprintf(`DO $$ BEGIN FOR n IN 1..30 LOOP
			EXECUTE format('CREATE TABLE %[1]s.t%%s (id int GENERATED ALWAYS AS IDENTITY, v text)', n);
			EXECUTE format('INSERT INTO %[1]s.t%%s (v) SELECT ''%[1]s'' FROM generate_series(1, %%s)', n, n); END LOOP; END $$`, tenant))
	}
	dump := exec.CommandContext(t.Context(), w.opts.PgDump, "--schema-only")
	dump.Env = w.db.Env()
	if out, err := dump.CombinedOutput(); err == nil || !strings.Contains(string(out), "out of shared memory") {
		t.Fatalf("pg_dump: %v, want a full lock table", err)
	}
	m := w.run(t)
	for _, tenant := range tenants {
		file := w.open(t, m, tenant)
		if got := rows(t, file, "t15"); len(got) != 15 || got[14] != "15\t"+tenant+"\n" {
			t.Fatalf("%s.t15 holds %q", tenant, got)
		}
		requireContains(t, string(w.text(t, m, tenant)), `SELECT pg_catalog.setval('"`+tenant+`"."t7_id_seq"', 7, true);`)
	}

	// One that alone does not fit.
	for part := range 40 {
		w.db.Exec(t, fmt.Sprintf(`CREATE SCHEMA IF NOT EXISTS huge; DO $$ BEGIN FOR n IN 1..60 LOOP
			EXECUTE format('CREATE TABLE huge.t%d_%%s (id int)', n); END LOOP; END $$`, part))
	}
	m, failures := w.runPartial(t, "huge")
	requireContains(t, failures["huge"], "its 2400 tables", "raise max_locks_per_transaction")
	if len(m.Schemas) != len(tenants)+1 {
		t.Errorf("%d schemas were saved", len(m.Schemas))
	}
}

// busy fills a database with tenants of some size, one of them in segments.
func busy(t *testing.T, db *pgtest.Database) {
	t.Helper()
	for n := range 4 {
		createTenant(t, db, fmt.Sprintf("t%d", n))
	}
	db.Exec(t, `CREATE SCHEMA big; CREATE TABLE big.t (id int, v text) WITH (fillfactor = 10);
		INSERT INTO big.t SELECT n, repeat(md5(n::text), 4) FROM generate_series(1, 60000) n`)
}

// requireWhole requires that a backup taken now is right, and the only one.
func (w *world) requireWhole(t *testing.T) {
	t.Helper()
	w.recorder = &recorder{}
	w.opts.Progress = w.recorder
	store, err := local.New(w.dir)
	must(t, err)
	w.use(store)
	m := w.run(t)
	w.requireSame(t, m, "t0", "t1", "t2", "t3", "big")
	manifests, err := filepath.Glob(filepath.Join(w.dir, "manifests", "*"))
	must(t, err)
	runs, err := filepath.Glob(filepath.Join(w.dir, "runs", "*"))
	must(t, err)
	if len(manifests) != 1 || len(runs) != 0 {
		t.Errorf("the repository holds %q and %q", manifests, runs)
	}
}

// terminate ends sessions of the backup, by a condition on pg_stat_activity.
func terminate(t *testing.T, db *pgtest.Database, where string) {
	t.Helper()
	got := db.Query(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE application_name = 'tenantkeep' AND datname = current_database() AND `+where)
	if len(got) == 0 {
		t.Errorf("no session to terminate: %s", where)
	}
}

func TestSessionsTerminated(t *testing.T) {
	t.Parallel()
	const coordinator = `backend_start = (SELECT min(backend_start) FROM pg_stat_activity WHERE application_name = 'tenantkeep' AND datname = current_database())`
	t.Run("worker", func(t *testing.T) {
		t.Parallel()
		w := setup(t, nil)
		busy(t, w.db)
		// One that has sent all of its rows is replaced without a word.
		w.onAdd = func() {
			if !strings.Contains(w.told(), "the session was lost") {
				w.db.Query(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
					WHERE application_name = 'tenantkeep' AND datname = current_database() AND query LIKE '%COPY%'`)
			}
		}
		m := w.run(t)
		requireContains(t, w.told(), "the session was lost")
		w.requireSame(t, m, "t0", "t1", "t2", "t3", "big")
	})
	t.Run("all but the coordinator", func(t *testing.T) {
		t.Parallel()
		w := setup(t, nil)
		busy(t, w.db)
		var once sync.Once
		w.onAdd = func() { once.Do(func() { terminate(t, w.db, `NOT `+coordinator) }) }
		w.requireSame(t, w.run(t), "t0", "t1", "t2", "t3", "big")
	})
	t.Run("coordinator", func(t *testing.T) {
		t.Parallel()
		w := setup(t, nil)
		busy(t, w.db)
		w.onStart = func() { terminate(t, w.db, coordinator) }
		err := w.runFailing(t, t.Context())
		requireContains(t, err.Error(), "snapshot")
		w.requireWhole(t)
	})
}

func TestServerStops(t *testing.T) {
	t.Parallel()
	cluster := pgtest.StartCluster(t, map[string]string{"synchronous_commit": "on"}) // or the tenants are gone too
	w := setup(t, pgtest.NewIn(t, cluster))
	busy(t, w.db)
	var once sync.Once
	w.onAdd = func() { once.Do(func() { must(t, cluster.Stop(pgcluster.Immediate)) }) }
	err := w.runFailing(t, t.Context())
	if !pg.Lost(err) && !strings.Contains(err.Error(), "pg_dump") {
		t.Errorf("error %v", err)
	}
	err = w.runFailing(t, t.Context())
	requireContains(t, err.Error(), "connect to database")
	requireContains(t, hint(err), "is the server running")
	must(t, cluster.Restart(t.Context(), nil))
	w.requireWhole(t)
}

// TestStorageFails makes the repository fail at many points of a run.
func TestStorageFails(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	busy(t, w.db)
	store, err := local.New(w.dir)
	must(t, err)

	full := &storagetest.Full{Storage: store, Room: 300_000}
	w.use(full)
	err = w.runFailing(t, t.Context())
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error %v", err)
	}
	requireContains(t, err.Error(), "write to the repository", "no space left on device")

	for _, op := range []storagetest.Op{storagetest.Create, storagetest.Write, storagetest.Commit, storagetest.Sync} {
		w.use(&storagetest.Faulty{Storage: store, Before: storagetest.FailAt(op, 2)})
		if err := w.runFailing(t, t.Context()); !errors.Is(err, storagetest.ErrInjected) {
			t.Errorf("%s fails: error %v", op, err)
		}
	}
	w.requireWhole(t)
}

// TestDies ends the process at every operation on the storage, of a full backup
// and of an incremental one that refers to others. Afterwards every backup that
// is listed can be restored completely.
func TestDies(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.db.Exec(t, `CREATE SCHEMA a; CREATE TABLE a.t (id int); INSERT INTO a.t VALUES (1); CREATE TABLE a.u (id int); INSERT INTO a.u VALUES (1);
		CREATE SCHEMA b; CREATE TABLE b.t (id int); INSERT INTO b.t VALUES (1)`)
	w.run(t)
	w.db.Exec(t, `INSERT INTO a.t VALUES (2)`)
	w.incremental(t)
	w.db.Exec(t, `INSERT INTO a.u VALUES (2)`)
	for _, typ := range []manifest.Type{manifest.Full, manifest.Incremental} {
		t.Run(string(typ), func(t *testing.T) { // one after the other: a second run of one database is refused
			storagetest.ForEveryOperation(t, storagetest.CrashTest{
				Step: 2,
				Open: func(t *testing.T) storage.Storage {
					dir := t.TempDir()
					must(t, os.CopyFS(dir, os.DirFS(w.dir)))
					store, err := local.New(dir)
					must(t, err)
					return store
				},
				Run: func(s storage.Storage) error {
					o := w.opts
					o.Type, o.Repo, o.Jobs = typ, repo.Open(s, repo.Options{LockWait: -1}), 1
					_, err := backup.Run(t.Context(), o)
					return err
				},
				Check: func(t *testing.T, s storage.Storage, err error) {
					r := repo.Open(s, repo.Options{LockWait: -1})
					backups := restorable(t, r)
					if want := 3; err == nil && len(backups) != want {
						t.Errorf("it said that it was done, and %d backups are listed, want %d", len(backups), want)
					}
					if len(backups) < 2 {
						t.Errorf("%d backups are left", len(backups))
					}
					// The next run is not disturbed, and removes the remains.
					if _, err := r.RemoveRemains(t.Context()); err != nil {
						t.Error(err)
					}
					if orphans, err := r.Orphans(t.Context()); err != nil || len(orphans) > 0 {
						t.Errorf("files of which nobody knows what they are: %v, %v", orphans, err)
					}
					if n := len(restorable(t, r)); n != len(backups) {
						t.Errorf("%d backups after the removal of remains, %d before", n, len(backups))
					}
				},
			})
		})
	}
}

// restorable requires that all that is listed is whole, and returns it.
func restorable(t *testing.T, r *repo.Repo) []repo.Backup {
	t.Helper()
	backups := sound(t, r)
	for _, b := range backups {
		if len(b.Manifest.Schemas) != 3 {
			t.Errorf("backup %s holds %d schemas", b.ID, len(b.Manifest.Schemas))
		}
	}
	return backups
}

// sound requires that all files of what is listed are there and good.
func sound(t *testing.T, r *repo.Repo) []repo.Backup {
	t.Helper()
	backups, err := r.List(t.Context())
	must(t, err)
	report, err := verify.Run(t.Context(), verify.Options{Repo: r, Backups: backups, Jobs: 1, Progress: &recorder{}})
	must(t, err)
	for _, p := range report.Problems {
		t.Errorf("backup %s, schema %s, %s: %s", p.Backup, p.Schema, p.File, p.Error)
	}
	return backups
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	busy(t, w.db)
	store, err := local.New(w.dir)
	must(t, err)
	for n := 1; n < 40; n += 6 {
		ctx, cancel := context.WithCancel(t.Context())
		w.use(&storagetest.Faulty{Storage: store, Before: func(c storagetest.Call) error {
			if c.All == n {
				cancel()
			}
			return nil
		}})
		if err := w.runFailing(t, ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled at operation %d: error %v", n, err)
		}
		cancel()
	}
	ctx, cancel := context.WithCancel(t.Context())
	w.use(store)
	w.onAdd = cancel
	if err := w.runFailing(t, ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while copying: error %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	w.onAdd, w.onStart = nil, cancel
	if err := w.runFailing(t, ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while reading definitions: error %v", err)
	}
	w.requireWhole(t)
}

// TestTwoAtOnce starts a second backup of the same database.
func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	createTenant(t, w.db, "t0")
	var second error
	w.onStart = func() {
		other := setup(t, w.db)
		_, second = backup.Run(t.Context(), other.opts)
	}
	w.run(t)
	var locked *pg.LockedError
	if !errors.As(second, &locked) {
		t.Fatalf("the second one ended with %v", second)
	}
	requireContains(t, second.Error(), w.db.Name, `"tenantkeep backup"`, fmt.Sprint(locked.PID))
	requireContains(t, hint(second), "pg_terminate_backend")
}

func TestCannotConnect(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	cluster := w.db.Cluster()
	for name, tt := range map[string]struct{ url, says, hint string }{
		"no server":      {"postgres://someone:secret@127.0.0.1:1/db", `connect to database "db" on 127.0.0.1:1 as "someone"`, "is the server running"},
		"wrong password": {"postgres://postgres:secret@" + cluster.Address() + "/" + w.db.Name, "28P01", "check user and password"},
		"no database":    {cluster.URL("no_such_database"), "no_such_database", "check the name of the database"},
	} {
		t.Run(name, func(t *testing.T) {
			w.opts.Server = parse(t, tt.url)
			err := w.runFailing(t, t.Context())
			requireContains(t, err.Error(), tt.says)
			requireContains(t, hint(err), tt.hint)
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the password is in: %v", err)
			}
			t.Log(err)
		})
	}
}

func TestProgramMissingOrOld(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	old := filepath.Join(t.TempDir(), "pg_dump")
	must(t, os.WriteFile(old, []byte("#!/bin/sh\necho 'pg_dump (PostgreSQL) 11.4'\n"), 0o755))
	w.opts.PgDump = old
	err := w.runFailing(t, t.Context())
	requireContains(t, err.Error(), "pg_dump 11.4", "older than the server")
	requireContains(t, hint(err), "install the PostgreSQL")
	w.opts.PgDump = old + "_missing"
	err = w.runFailing(t, t.Context())
	requireContains(t, err.Error(), "find pg_dump")
}

// TestFewConnections leaves fewer connections than there are workers.
func TestFewConnections(t *testing.T) {
	t.Parallel()
	cluster := pgtest.StartCluster(t, map[string]string{"max_connections": "10", "superuser_reserved_connections": "0"})
	w := setup(t, pgtest.NewIn(t, cluster))
	busy(t, w.db)
	w.opts.Jobs = 20
	m, err := backup.Run(t.Context(), w.opts)
	if err != nil {
		if code := pg.Code(err); code != pg.TooManyConnections && !strings.Contains(err.Error(), "too many clients") {
			t.Errorf("error %v", err)
		}
		w.requireNothing(t)
		return
	}
	w.requireSame(t, m.Manifest, "t0", "t1", "t2", "t3", "big")
}
