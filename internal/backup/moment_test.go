package backup_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/backup"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

// TestOneMoment moves money between tenants and core while the backup runs.
func TestOneMoment(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	const tenants, accounts, each = 12, 50, 1000
	schemas := []string{"public"}
	for n := range tenants {
		schemas = append(schemas, fmt.Sprintf("t%d", n))
	}
	for _, s := range schemas {
		w.db.Exec(t, fmt.Sprintf(`CREATE SCHEMA IF NOT EXISTS %[1]s; CREATE TABLE %[1]s.account (id int PRIMARY KEY, balance int NOT NULL);
			INSERT INTO %[1]s.account SELECT n, %[3]d FROM generate_series(1, %[2]d) n`, s, accounts, each))
	}
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	var transfers atomic.Int64
	for n := range 2 {
		conn := w.db.Conn(t)
		writers.Go(func() {
			for i := n; ctx.Err() == nil; i++ {
				from, to, account := schemas[i%len(schemas)], schemas[(i*7+3)%len(schemas)], 1+i%accounts
				sql := fmt.Sprintf(`BEGIN; UPDATE %[1]s.account SET balance = balance - 7 WHERE id = %[3]d; UPDATE %[2]s.account SET balance = balance + 7 WHERE id = %[3]d; COMMIT`, from, to, account)
				if from > to { // always in one order: no deadlocks
					sql = fmt.Sprintf(`BEGIN; UPDATE %[2]s.account SET balance = balance + 7 WHERE id = %[3]d; UPDATE %[1]s.account SET balance = balance - 7 WHERE id = %[3]d; COMMIT`, from, to, account)
				}
				if _, err := conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
					t.Errorf("transfer: %v", err)
					return
				}
				transfers.Add(1)
			}
		})
	}
	awaitMore := func(n int64) {
		for goal := transfers.Load() + n; transfers.Load() < goal && !t.Failed(); {
			time.Sleep(time.Millisecond)
		}
	}
	awaitMore(20)
	w.onStart = func() { awaitMore(50) }
	w.onDone = func(string) { awaitMore(5) }
	m := w.run(t)
	stop()
	writers.Wait()

	total := 0
	for _, s := range schemas {
		for _, row := range rows(t, w.open(t, m, s), "account") {
			_, balance, _ := strings.Cut(strings.TrimSuffix(row, "\n"), "\t")
			n, err := strconv.Atoi(balance)
			must(t, err)
			total += n
		}
	}
	if want := len(schemas) * accounts * each; total != want {
		t.Errorf("the backup holds %d, want %d: it is not of one moment", total, want)
	}
}

// TestChangedUnderTheRun changes tenants between the snapshot and the copy.
func TestChangedUnderTheRun(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	changes := map[string]string{ // by tenant; what needs a new snapshot
		"truncated":  `TRUNCATE truncated.t; INSERT INTO truncated.t VALUES (77, 'new')`,
		"emptied":    `TRUNCATE emptied.t`,
		"rewritten":  `DROP VIEW rewritten.v; ALTER TABLE rewritten.t ALTER a TYPE bigint`,
		"widened":    `ALTER TABLE widened.t ADD COLUMN c int DEFAULT 5`,
		"shortened":  `DROP TABLE shortened.t CASCADE`,
		"grown":      `CREATE TABLE grown.more AS SELECT 1 AS a`,
		"renamed":    `ALTER TABLE renamed.t RENAME b TO bb`,
		"moved":      `ALTER TABLE moved.t RENAME TO tt`,
		"vacuumed":   `VACUUM FULL vacuumed.t`,
		"clustered":  `CLUSTER clustered.t USING t_a`,
		"unindexed":  `DROP INDEX unindexed.t_a`,
		"viewed":     `CREATE OR REPLACE VIEW viewed.v AS SELECT a, 'new' AS x FROM viewed.t`,
		"functional": `CREATE OR REPLACE FUNCTION functional.f() RETURNS int LANGUAGE sql AS 'SELECT 2'`,
		"defaulted":  `ALTER TABLE defaulted.t ALTER b SET DEFAULT 'new'`,
		"guarded":    `ALTER TABLE guarded.t ADD CONSTRAINT positive CHECK (a > 0)`,
		"restarted":  `ALTER SEQUENCE restarted.s RESTART WITH 500; TRUNCATE restarted.t RESTART IDENTITY`,
		"exchanged":  `ALTER SCHEMA exchanged RENAME TO exchanged_old; CREATE SCHEMA exchanged; CREATE TABLE exchanged.t (a int, b text); INSERT INTO exchanged.t VALUES (5, 'other')`,
	}
	quiet := []string{"quiet", "inserted", "dropped"}
	for tenant := range changes {
		createTenant(t, w.db, tenant)
	}
	for _, tenant := range quiet {
		createTenant(t, w.db, tenant)
	}
	w.onStart = func() {
		w.onStart = nil
		for _, sql := range changes {
			w.db.Exec(t, sql)
		}
		w.db.Exec(t, `INSERT INTO inserted.t VALUES (1000, 'too late'); DELETE FROM inserted.t WHERE a = 1`)
		w.db.Exec(t, `DROP SCHEMA dropped CASCADE; CREATE SCHEMA too_late`)
	}
	m := w.run(t)

	var all []string
	for tenant := range changes {
		all = append(all, tenant)
		if entry(t, m, tenant).Snapshot == nil {
			t.Errorf("%s was not taken again", tenant)
		}
	}
	all = append(all, "quiet")
	for _, tenant := range []string{"quiet", "inserted", "public"} {
		if entry(t, m, tenant).Snapshot != nil {
			t.Errorf("%s was taken again", tenant)
		}
	}
	if len(m.Schemas) != len(changes)+3 {
		t.Errorf("%d schemas were saved, want %d", len(m.Schemas), len(changes)+3)
	}
	w.requireSame(t, m, all...)
	if got := rows(t, w.open(t, m, "inserted"), "t"); len(got) != 200 || got[0] != "1\tv1\n" {
		t.Errorf("the tenant with new rows has %d, the first %q", len(got), got[0])
	}
	requireContains(t, w.told(), "dropped: dropped while the backup ran", "truncated: changed while it was copied")
}

// TestDefinitionsOfOneMoment renames everything that definitions mention, all in
// one transaction, again and again while the backup runs: in what was saved all
// names are of one moment.
func TestDefinitionsOfOneMoment(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	const tenants = 8
	name := func(n int) string { return fmt.Sprintf("t%d", n) }
	for n := range tenants {
		w.db.Exec(t, strings.ReplaceAll(`CREATE SCHEMA @; SET search_path = @;
			CREATE TABLE t0 (c0 int, g text COLLATE "C"); CREATE DOMAIN d0 AS int; CREATE TYPE r0 AS (a0 int);
			CREATE FUNCTION f0(x int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
			CREATE INDEX i0 ON t0 (f0(c0)) WHERE c0 > 0;
			ALTER TABLE t0 ADD CONSTRAINT k0 CHECK (f0(c0) > 0), ADD COLUMN e d0 DEFAULT f0(1), ADD COLUMN r r0;
			CREATE VIEW v AS SELECT c0, f0(c0) AS f, (r).a0 AS a FROM t0;
			CREATE FUNCTION s() RETURNS bigint BEGIN ATOMIC SELECT sum(c0) FROM t0; END;
			CREATE TEXT SEARCH CONFIGURATION s0 (COPY = pg_catalog.simple);
			CREATE INDEX x ON t0 USING gin (to_tsvector('s0'::regconfig, g));
			CREATE STATISTICS st ON (c0 + 1), g FROM t0;
			ALTER TABLE t0 ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t0 USING (EXISTS (SELECT FROM v WHERE c0 > 0));
			CREATE FUNCTION tf() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
			CREATE TRIGGER g AFTER UPDATE OF c0 ON t0 FOR EACH ROW WHEN (NEW.c0 > 0) EXECUTE FUNCTION tf();
			INSERT INTO t0 SELECT n FROM generate_series(1, 20) n; RESET search_path`, "@", name(n)))
	}
	conn := w.db.Conn(t)
	ctx, stop := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			tenant, was, is := name(i%tenants), i/tenants, i/tenants+1
			sql := strings.NewReplacer("@", tenant, "#", strconv.Itoa(was), "+", strconv.Itoa(is)).Replace(`BEGIN;
				ALTER TABLE @.t# RENAME c# TO c+; ALTER TABLE @.t# RENAME CONSTRAINT k# TO k+; ALTER TABLE @.t# RENAME TO t+;
				ALTER TYPE @.r# RENAME ATTRIBUTE a# TO a+; ALTER TYPE @.r# RENAME TO r+; ALTER DOMAIN @.d# RENAME TO d+;
				ALTER FUNCTION @.f# RENAME TO f+; ALTER INDEX @.i# RENAME TO i+; ALTER TEXT SEARCH CONFIGURATION @.s# RENAME TO s+;
				ALTER VIEW @.v RENAME c# TO c+; COMMIT`)
			if _, err := conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
				t.Errorf("rename: %v", err)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(30 * time.Millisecond):
			}
		}
	})
	// As soon as some were taken again it may come to rest.
	w.onNote = func(_, message string) {
		if strings.Contains(message, "changed while it was copied") {
			stop()
		}
	}
	m := w.run(t)
	stop()
	done.Wait()
	var all []string
	numbered := regexp.MustCompile(`\b[tcdrafiks]([0-9]+)\b`)
	for n := range tenants {
		all = append(all, name(n))
		moments := map[string]bool{}
		definitions, _, _ := strings.Cut(strings.ReplaceAll(string(w.text(t, m, name(n))), name(n)+".", ""), "-- tenantkeep index")
		definitions = strings.ReplaceAll(strings.ReplaceAll(definitions, `"`+name(n)+`"`, ""), "SCHEMA "+name(n), "")
		for _, match := range numbered.FindAllStringSubmatch(definitions, -1) {
			moments[match[1]] = true
		}
		if len(moments) != 1 {
			t.Errorf("%s has names of %d moments: %v\n%s", name(n), len(moments), moments, definitions)
		}
	}
	requireContains(t, w.told(), "changed while it was copied")
	target := pgtest.NewIn(t, w.db.Cluster())
	for _, tenant := range append([]string{"public"}, all...) {
		w.load(t, m, tenant, target)
	}
}

// TestRoleRenamedUnderTheRun renames an owner after the snapshot: pg_dump writes
// the old name, which the next backup must not take over. A role that is made
// then is nobody's. Not parallel: roles are those of all databases.
func TestRoleRenamedUnderTheRun(t *testing.T) {
	w := setup(t, nil)
	w.db.Exec(t, `CREATE ROLE renamed_old; CREATE SCHEMA a; CREATE TABLE a.t (x int); ALTER TABLE a.t OWNER TO renamed_old`)
	w.onStart = func() { w.db.Exec(t, `ALTER ROLE renamed_old RENAME TO renamed_new`) }
	first := w.run(t)
	w.onStart = nil
	if known := entry(t, first, "a").Definitions; known != "" {
		t.Errorf("definitions of two moments are known by %q", known)
	}
	second := w.run(t)
	for n, want := range map[*manifest.Manifest]string{first: "renamed_old", second: "renamed_new"} {
		if all := strings.Join(definitions(t, w.open(t, n, "a")), "\n"); strings.Count(all, "renamed_") == 0 || strings.Count(all, "renamed_") != strings.Count(all, want) {
			t.Errorf("the owner in backup %s is not %s:\n%s", n.ID, want, all)
		}
	}
	w.db.Exec(t, `ALTER TABLE a.t ADD y int`)
	w.onStart = func() { w.db.Exec(t, `CREATE ROLE made_since`) }
	third := w.run(t)
	w.onStart = nil
	if e := entry(t, third, "a"); e.Definitions == "" || e.Definitions == entry(t, second, "a").Definitions {
		t.Errorf("definitions are known by %q beside a role that was made", e.Definitions)
	}
}

// createTenant makes a tenant with a table of 200 rows and what goes with it.
func createTenant(t *testing.T, db *pgtest.Database, name string) {
	t.Helper()
	db.Exec(t, strings.ReplaceAll(`CREATE SCHEMA @; CREATE TABLE @.t (a int, b text DEFAULT 'old'); CREATE INDEX t_a ON @.t (a);
		INSERT INTO @.t SELECT n, 'v' || n FROM generate_series(1, 200) n;
		CREATE VIEW @.v AS SELECT a FROM @.t; CREATE SEQUENCE @.s; SELECT nextval('@.s');
		CREATE FUNCTION @.f() RETURNS int LANGUAGE sql AS 'SELECT 1'`, "@", pgx.Identifier{name}.Sanitize()))
}

// TestChangesOnEveryRound gives a tenant up that never holds still.
func TestChangesOnEveryRound(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	createTenant(t, w.db, "restless")
	createTenant(t, w.db, "gone")
	createTenant(t, w.db, "quiet")
	// One of those that were asked for goes away: the others are taken again all
	// the same.
	w.opts.Schemas = []string{"restless", "quiet", "gone"}
	w.onStart = func() { w.db.Exec(t, "TRUNCATE restless.t; DROP SCHEMA gone CASCADE") }
	stop := keepTruncating(t, w.db, "restless.t")
	m, failures := w.runPartial(t, "restless", "gone")
	stop()
	requireContains(t, failures["restless"], "again and again")
	requireContains(t, failures["gone"], "dropped while the backup ran")
	if len(m.Schemas) != 1 || m.Schemas[0].Schema != "quiet" {
		t.Errorf("saved %+v", m.Schemas)
	}
}

// keepTruncating truncates a table as often as it can.
func keepTruncating(t *testing.T, db *pgtest.Database, table string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	conn := db.Conn(t)
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			if _, err := conn.PgConn().Exec(t.Context(), "TRUNCATE "+table).ReadAll(); err != nil {
				t.Errorf("truncate: %v", err)
				return
			}
		}
	})
	return func() { cancel(); done.Wait() }
}

// TestLocked backs up while others hold tables.
func TestLocked(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"for ever", "for a moment"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w := setup(t, nil)
			w.opts.LockTimeout = 50 * time.Millisecond
			createTenant(t, w.db, "held")
			createTenant(t, w.db, "free")
			holder := w.db.Conn(t)
			tx, err := holder.Begin(t.Context())
			must(t, err)
			_, err = tx.Exec(t.Context(), "LOCK TABLE held.t IN ACCESS EXCLUSIVE MODE")
			must(t, err)
			if how == "for ever" {
				_, failures := w.runPartial(t, "held")
				requireContains(t, failures["held"], "another session has held a lock", "ALTER TABLE")
				must(t, tx.Rollback(t.Context()))
				return
			}
			var once sync.Once
			w.onNote = func(_, message string) {
				if strings.Contains(message, "holds a lock") {
					once.Do(func() { must(t, tx.Rollback(t.Context())) })
				}
			}
			w.requireSame(t, w.run(t), "held", "free")
			requireContains(t, w.told(), "held: another session holds a lock")
		})
	}
}

// TestLocksAreGivenBack has locks of another session hold up one tenant: those of a
// tenant that is done are given back while its worker waits, and the sequences of
// others are read.
func TestLocksAreGivenBack(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.opts.LockTimeout = 50 * time.Millisecond
	createTenant(t, w.db, "held")
	createTenant(t, w.db, "free")
	w.run(t)
	w.db.Exec(t, "INSERT INTO free.t VALUES (4711); SELECT nextval('held.s'), nextval('free.s'), nextval('free.s')")
	tx, err := w.db.Conn(t).Begin(t.Context())
	must(t, err)
	// One lock keeps readers out, the other only the function that tells where sequences stand.
	_, err = tx.Exec(t.Context(), "ALTER SEQUENCE held.s CACHE 1; LOCK TABLE held.t IN ACCESS EXCLUSIVE MODE")
	must(t, err)
	var once sync.Once
	w.onNote = func(_, message string) {
		if !strings.Contains(message, "holds a lock") {
			return
		}
		once.Do(func() { // the other worker has done its tenant by now, or soon, and waits for the next
			kept := "not asked yet"
			for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
				w.mu.Lock()
				_, done := w.done["free"]
				w.mu.Unlock()
				kept = w.db.Query(t, "SELECT count(*) FROM pg_locks WHERE relation = 'free.t'::regclass")[0]
				if done && kept == "0" {
					break
				}
			}
			if kept != "0" {
				t.Errorf("locks on free.t while its worker waits: %s", kept)
			}
			must(t, tx.Rollback(t.Context()))
		})
	}
	m := w.incremental(t)
	w.requireSame(t, m, "held", "free")
	requireContains(t, w.told(), "held: another session holds a lock")
}

// TestWaitingAlter has somebody wait for a big table while several workers copy
// it: whoever begins then waits behind them.
func TestWaitingAlter(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.opts.Jobs = 3
	w.opts.LockTimeout = 100 * time.Millisecond
	w.db.Exec(t, `CREATE SCHEMA t; CREATE TABLE t.big (id int, v text) WITH (fillfactor = 10);
		INSERT INTO t.big SELECT n, repeat('x', 100) || n FROM generate_series(1, 60000) n`)
	conn, watcher := w.db.Conn(t), w.db.Conn(t)
	var alter sync.WaitGroup
	var once sync.Once
	w.onAdd = func() {
		once.Do(func() {
			alter.Go(func() {
				if _, err := conn.Exec(t.Context(), "ALTER TABLE t.big ADD COLUMN late int DEFAULT 1"); err != nil {
					t.Errorf("alter: %v", err)
				}
			})
			for waiting := false; !waiting; {
				must(t, watcher.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 't.big'::regclass AND NOT granted) OR
					EXISTS (SELECT FROM pg_attribute WHERE attrelid = 't.big'::regclass AND attname = 'late')`).Scan(&waiting))
			}
		})
	}
	m := w.run(t)
	alter.Wait()
	if got := rows(t, w.open(t, m, "t"), "big"); len(got) != 60000 {
		t.Errorf("%d rows", len(got))
	}
}

// TestUnreadable backs up as a role that may not read everything.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	for _, tenant := range []string{"table", "sequence", "schema", "policy", "fine"} {
		createTenant(t, w.db, "no_"+tenant)
	}
	role := "reader_" + w.db.Name
	w.db.Exec(t, fmt.Sprintf(`CREATE ROLE %[1]s LOGIN;
		GRANT USAGE ON SCHEMA public, no_table, no_sequence, no_policy, no_fine TO %[1]s;
		GRANT SELECT ON ALL TABLES IN SCHEMA public, no_sequence, no_policy, no_fine TO %[1]s;
		GRANT SELECT ON ALL SEQUENCES IN SCHEMA no_table, no_policy, no_fine TO %[1]s;
		ALTER TABLE no_policy.t ENABLE ROW LEVEL SECURITY; CREATE POLICY odd ON no_policy.t USING (a %% 2 = 1);`, pgx.Identifier{role}.Sanitize()))
	t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), w.db.URL())
		must(t, err)
		defer conn.Close(context.Background())
		_, err = conn.PgConn().Exec(context.Background(), fmt.Sprintf("DROP OWNED BY %[1]s; DROP ROLE %[1]s", pgx.Identifier{role}.Sanitize())).ReadAll()
		must(t, err)
	})
	w.opts.Server = parse(t, strings.Replace(w.db.URL(), "user=postgres", "user="+role, 1))
	m, failures := w.runPartial(t, "no_table", "no_sequence", "no_schema", "no_policy")
	requireContains(t, failures["no_table"], `may not read "no_table"."t"`, "GRANT SELECT ON TABLE")
	requireContains(t, failures["no_sequence"], `may not read "no_sequence"."s"`, "GRANT SELECT ON SEQUENCE")
	requireContains(t, failures["no_schema"], "GRANT USAGE ON SCHEMA")
	requireContains(t, failures["no_policy"], `row-level security would hide rows of "no_policy"."t"`, "BYPASSRLS")
	if len(m.Schemas) != 2 {
		t.Errorf("saved %+v", m.Schemas)
	}
}

func TestNothingSaved(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.opts.LockTimeout = 10 * time.Millisecond
	createTenant(t, w.db, "held")
	w.opts.Schemas = []string{"held"}
	tx, err := w.db.Conn(t).Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), "LOCK TABLE held.t IN ACCESS EXCLUSIVE MODE")
	must(t, err)
	err = w.runFailing(t, t.Context())
	must(t, tx.Rollback(t.Context()))
	var failed *backup.FailedError
	if !errors.As(err, &failed) || len(failed.Failures) != 1 {
		t.Errorf("error %v", err)
	}
	requireContains(t, err.Error(), "nothing could be saved", "held: another session has held a lock")

	w.opts.Schemas = []string{"Held"}
	err = w.runFailing(t, t.Context())
	requireContains(t, err.Error(), `has no schema "Held"`)
	requireContains(t, hint(err), `"held"`)
}
