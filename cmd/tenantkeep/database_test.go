package main

import (
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

// databases gives scripts the commands "database", which makes a database and
// leads tenantkeep to it by DATABASE_URL, and "sql", which runs SQL in it.
type databases struct{}

// databaseKey is where a script keeps its database.
type databaseKey struct{}

func (databases) setup(env *testscript.Env) error {
	env.Values[databaseKey{}] = &scriptDatabase{t: env.T().(testing.TB)}
	return nil
}

type scriptDatabase struct {
	t  testing.TB
	db *pgtest.Database
}

func (databases) make(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: database")
	}
	s := ts.Value(databaseKey{}).(*scriptDatabase)
	s.db = pgtest.New(s.t)
	ts.Setenv("DATABASE_URL", s.db.URL())
	ts.Setenv("DATABASE", s.db.Name)
}

func (databases) sql(ts *testscript.TestScript, neg bool, args []string) {
	s := ts.Value(databaseKey{}).(*scriptDatabase)
	if neg || s.db == nil {
		ts.Fatalf("usage: database, then sql STATEMENTS")
	}
	s.db.Exec(s.t, strings.Join(args, " "))
}
