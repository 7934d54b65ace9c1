package restore

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// state is what a schema of tenantkeep's own is.
type state string

const (
	stateStaging  state = "staging"  // being filled; of a restore that died if nobody holds the lock
	stateStaged   state = "staged"   // whole and compared, waiting for its swap
	stateReplaced state = "replaced" // was live until a restore took its place
	// stateRecovered is single tables for somebody to look at, who drops them.
	stateRecovered state = "recovered"
)

// label is what the comment of a schema of tenantkeep's own says of it. It is
// all that is known of the schema after the process has ended.
type label struct {
	State  state     `json:"state"`
	Schema string    `json:"schema"`           // whose place it is to take, or had
	Backup string    `json:"backup,omitempty"` // that was, or is to be, restored
	Point  string    `json:"point,omitempty"`  // the backup of the replaced schema in rollback/
	At     time.Time `json:"at"`
	// Loaded is when the rows of a staged one were there, by the server's clock.
	Loaded *time.Time `json:"loaded,omitempty"`
	// Lacks are the places, in the list of its file, of the statements that could
	// not be run for a staged one.
	Lacks []int `json:"lacks,omitempty"`
	// Objects says of core that all of its objects were replaced, not just rows.
	Objects bool `json:"objects,omitempty"`
	// Comment is the schema's own, to be given back. Nil: it has none.
	Comment *string `json:"comment,omitempty"`
}

func (l label) String() string {
	text, err := json.Marshal(l)
	if err != nil {
		panic(err) // strings and a time
	}
	return strings.TrimSuffix(pg.LabelPrefix, "{") + string(text)
}

func parseLabel(comment string) (l label, ok bool) {
	if !strings.HasPrefix(comment, pg.LabelPrefix) {
		return l, false
	}
	err := json.Unmarshal([]byte(strings.TrimPrefix(comment, strings.TrimSuffix(pg.LabelPrefix, "{"))), &l)
	return l, err == nil && l.State != "" && l.Schema != ""
}

// labelled is a schema with a label.
type labelled struct {
	label
	oid  uint32
	name string
}

// listLabelled lists the schemas with a label, the oldest first.
func listLabelled(ctx context.Context, q pg.Querier) ([]labelled, error) {
	rows, err := q.Query(ctx, `
		SELECT n.oid, n.nspname::text, pg_catalog.obj_description(n.oid, 'pg_namespace') FROM pg_catalog.pg_namespace n
		WHERE pg_catalog.starts_with(pg_catalog.obj_description(n.oid, 'pg_namespace'), $1) ORDER BY n.oid`, pg.LabelPrefix)
	if err != nil {
		return nil, fmt.Errorf("look for schemas of restores: %w", err)
	}
	var list []labelled
	var one labelled
	var comment string
	_, err = pgx.ForEachRow(rows, []any{&one.oid, &one.name, &comment}, func() error {
		// The name counts as well: a comment is copied easily.
		if l, ok := parseLabel(comment); ok && pg.IsOwn(one.name) {
			list = append(list, labelled{l, one.oid, one.name})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for schemas of restores: %w", err)
	}
	return list, nil
}

// maxName is how many bytes a name in PostgreSQL may have.
const maxName = 63

// ownName is the name of a schema of tenantkeep's own beside a live one. n
// tells names of one second apart.
func ownName(schema, kind string, at time.Time, n int) string {
	suffix := "__" + kind + "_" + at.UTC().Format("20060102_150405")
	if n > 1 {
		suffix += fmt.Sprintf("_%d", n)
	}
	room := maxName - len(suffix)
	if len(schema) > room {
		for room > 0 && !utf8.RuneStart(schema[room]) {
			room--
		}
		schema = schema[:room]
	}
	return schema + suffix
}

// RecoveredName is the name of a schema for single tables of another.
func RecoveredName(schema string, at time.Time) string { return ownName(schema, "recovered", at, 1) }

// freeName is the first own name that no schema has.
func freeName(ctx context.Context, q pg.Querier, schema, kind string, at time.Time) (string, error) {
	for n := 1; ; n++ {
		name := ownName(schema, kind, at, n)
		there, err := schemaExists(ctx, q, name)
		if err != nil || !there {
			return name, err
		}
	}
}

func schemaExists(ctx context.Context, q pg.Querier, name string) (there bool, err error) {
	err = q.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)`, name).Scan(&there)
	if err != nil {
		return false, fmt.Errorf("look for schema %q: %w", name, err)
	}
	return there, nil
}
