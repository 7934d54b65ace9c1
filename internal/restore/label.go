package restore

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
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
	// Horizon is the id of a transaction: see arrival.
	Horizon string `json:"horizon,omitempty"`
	// Lacks are the places, in the list of its file, of the statements that could
	// not be run for a staged one.
	Lacks []int `json:"lacks,omitempty"`
	// Objects says of core that all of its objects were replaced, not just rows.
	Objects bool `json:"objects,omitempty"`
	// Media is the name of the move by which the folder with the tenant's files takes
	// the place of the live one together with a staged schema, or took it when the
	// schema was replaced. The move itself is noted in the media root: what stands
	// here can be written by the owner of the schema.
	Media string `json:"media,omitempty"`
	// Registered says that the restore which replaced it changed rows elsewhere
	// that register the tenant.
	Registered bool `json:"registered,omitempty"`
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

// arrival is when the rows of a staged schema were there.
func (l label) arrival() arrival {
	if l.Loaded == nil {
		return arrival{}
	}
	return arrival{at: *l.Loaded, horizon: l.Horizon}
}

// labelled is a schema with a label.
type labelled struct {
	label
	oid   uint32
	owner uint32
	name  string
}

// listLabelled lists the schemas with a label, the oldest first.
func listLabelled(ctx context.Context, q pg.Querier) ([]labelled, error) {
	rows, err := q.Query(ctx, `
		SELECT n.oid, n.nspname::text, pg_catalog.obj_description(n.oid, 'pg_namespace'), n.nspowner,
			(SELECT r.rolsuper OR r.rolname = current_user OR r.oid = d.datdba OR NOT pg_catalog.has_database_privilege(r.oid, d.oid, 'CREATE')
				FROM pg_catalog.pg_roles r, pg_catalog.pg_database d WHERE r.oid = n.nspowner AND d.datname = current_database())
		FROM pg_catalog.pg_namespace n
		WHERE pg_catalog.starts_with(pg_catalog.obj_description(n.oid, 'pg_namespace'), $1) ORDER BY n.oid`, pg.LabelPrefix)
	if err != nil {
		return nil, fmt.Errorf("look for schemas of restores: %w", err)
	}
	var list []labelled
	var one labelled
	var comment string
	var trusted bool
	var doubtful []labelled
	_, err = pgx.ForEachRow(rows, []any{&one.oid, &one.name, &comment, &one.owner, &trusted}, func() error {
		l, ok := parseLabel(comment)
		if !ok || !l.belongsTo(one.name) {
			return nil
		}
		one.label = l
		if trusted {
			list = append(list, one)
		} else {
			doubtful = append(doubtful, one)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for schemas of restores: %w", err)
	}
	for _, l := range doubtful {
		// Whoever may create schemas, or rename them, could make one that looks
		// like what the tenant of somebody else goes back to.
		var same bool
		err := q.QueryRow(ctx, `SELECT coalesce((SELECT nspowner = $2 FROM pg_catalog.pg_namespace WHERE nspname = $1), false)`, l.Schema, l.owner).Scan(&same)
		if err != nil {
			return nil, fmt.Errorf("look for the owner of schema %q: %w", l.Schema, err)
		}
		if same {
			list = append(list, l)
		}
	}
	slices.SortFunc(list, func(a, b labelled) int { return cmp.Compare(a.oid, b.oid) })
	return list, nil
}

// belongsTo reports whether a schema of this name can have the label: a comment
// is copied easily, its owner could make it out to be another tenant's, and states of
// later versions are not known.
func (l label) belongsTo(name string) bool {
	if l.State == stateRecovered {
		return pg.IsOwn(name)
	}
	parts := ownForm.FindStringSubmatch(name)
	if parts == nil {
		return false
	}
	at, err := time.Parse(ownTime, parts[2])
	n := 1
	if err == nil && parts[3] != "" {
		n, err = strconv.Atoi(parts[3])
	}
	if err != nil || name != ownName(l.Schema, parts[1], at, n) {
		return false
	}
	switch l.State {
	case stateStaging, stateStaged:
		return parts[1] == "staging"
	case stateReplaced:
		return parts[1] == "replaced" && at.Equal(l.At.UTC().Truncate(time.Second))
	}
	return false
}

// ownForm takes the names of stagings and of replaced schemas apart.
var ownForm = regexp.MustCompile(`__(staging|replaced)_([0-9]{8}_[0-9]{6})(?:_([0-9]+))?$`)

// StagedBackup is the id of the backup from which the newest schema is that
// waits to take the place of the given one; empty: there is none.
func StagedBackup(ctx context.Context, server *pg.Server, schema string) (string, error) {
	conn, err := server.Connect(ctx)
	if err != nil {
		return "", err
	}
	defer pg.Close(conn)
	list, err := listLabelled(ctx, conn)
	if err != nil {
		return "", err
	}
	backup, at := "", time.Time{}
	for _, l := range list {
		if l.State == stateStaged && l.Schema == schema && l.At.After(at) {
			backup, at = l.Backup, l.At
		}
	}
	return backup, nil
}

// ownTime is the time in the names of tenantkeep's own schemas.
const ownTime = "20060102_150405"

// maxName is how many bytes a name in PostgreSQL may have.
const maxName = 63

// ownName is the name of a schema of tenantkeep's own beside a live one. n
// tells names of one second apart. Where a name has to be cut, a hash of all of
// it tells it from others that begin alike.
func ownName(schema, kind string, at time.Time, n int) string {
	suffix := "__" + kind + "_" + at.UTC().Format(ownTime)
	if n > 1 {
		suffix += fmt.Sprintf("_%d", n)
	}
	room := maxName - len(suffix)
	if len(schema) > room {
		hash := sha256.Sum256([]byte(schema))
		suffix = fmt.Sprintf("~%x", hash[:4]) + suffix
		room = maxName - len(suffix)
		for room > 0 && !utf8.RuneStart(schema[room]) {
			room--
		}
		schema = schema[:room]
	}
	return schema + suffix
}

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
