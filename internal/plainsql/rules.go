package plainsql

import (
	"slices"
	"strings"
)

// action is what becomes of a statement.
type action int

const (
	run    action = iota
	try           // run, and go on if it fails for one of the verdict's reasons
	skip          // leave out
	refuse        // end the script
)

// verdict is what the rules say of a statement.
type verdict struct {
	action  action
	reason  string
	outside bool   // a refusal that AllowOutside lifts
	quiet   bool   // a skip that is not worth a note
	setting bool   // changes settings, perhaps those of the reader
	note    string // what to say of a statement that is run
	// forgive are the SQLSTATEs after which a try goes on.
	forgive []string
	// forgiveRole makes a missing role such a reason.
	forgiveRole bool
}

// rules decide by the words that a statement begins with.
type rules struct {
	schema       string // "" for any
	allowOutside bool
	missingRoles bool // go on where a role is missing
	fixedRole    bool // the caller has set a role, which must stay
	settings     map[string]bool
	extensions   map[string]bool
	languages    map[string]bool
}

// SQLSTATEs of what is not there or there already.
var (
	missingCodes = []string{"42P01", "42703", "42704", "42883", "3F000"}
	existsCodes  = []string{"42P06", "42P07", "42710", "42723"}
	settingCodes = []string{"22023", "42704", "42501", "55P02"}
)

const wholeTransaction = "the whole script is one transaction, its own ones do not count"

func refusal(reason string) verdict { return verdict{action: refuse, reason: reason} }
func skipped(reason string) verdict { return verdict{action: skip, reason: reason} }

// elsewhere is the verdict on a statement about an object that may be in another
// schema. Watch would find it, too, but only after others had waited for its
// locks.
func (r *rules) elsewhere(object []string, verb string) verdict {
	if r.schema == "" || len(object) != 2 || object[0] == r.schema || object[0] == "pg_temp" {
		return verdict{}
	}
	v := r.outside(strings.ToUpper(verb))
	v.reason = "it is about the schema " + object[0] + ", not " + r.schema
	return v
}

// outside is the verdict on what is not part of the schema.
func (r *rules) outside(what string) verdict {
	if r.allowOutside {
		return verdict{}
	}
	return verdict{action: refuse, reason: what + " reaches outside of the schema", outside: true}
}

// judge decides on a statement, which is none of COPY … FROM stdin.
func (r *rules) judge(sql string) verdict {
	w := wordsOf(sql)
	first := w.next()
	if first.symbol("(") {
		return r.query(sql)
	}
	if first.kind != wordToken {
		return verdict{} // a syntax error, which the server explains
	}
	switch first.text {
	case "select", "with", "values", "table":
		return r.query(sql)
	case "insert", "update", "delete", "merge", "truncate", "lock":
		_ = w.skip("into") || w.skip("from") || w.skip("table")
		w.skip("only")
		return r.elsewhere(w.object(), first.text)
	case "analyze", "analyse", "cluster", "do", "call", "show", "explain", "declare", "fetch", "move", "close", "refresh":
		return verdict{}
	case "begin", "start":
		return verdict{action: skip, reason: wholeTransaction}
	case "commit", "end":
		if w.skip("prepared") {
			return refusal("transactions that are prepared are not the script's")
		}
		return skipped(wholeTransaction)
	case "rollback", "abort":
		return refusal("the whole script is one transaction, so that no part of it can be rolled back")
	case "savepoint", "release":
		return refusal("savepoints would get in the way of the transaction that the whole script is")
	case "prepare", "execute", "deallocate", "discard":
		return refusal("it changes the session for what comes after the script")
	case "listen", "unlisten", "notify", "load", "checkpoint":
		return refusal("it is for sessions and the server, not for a schema")
	case "vacuum":
		return skipped("VACUUM does not run in a transaction")
	case "set", "reset":
		return r.set(first.text, w)
	case "copy":
		return r.copy(sql)
	case "create", "alter", "drop":
		return r.define(first.text, w)
	case "comment", "security":
		return r.describe(first.text, w)
	case "grant", "revoke":
		return r.grant(w)
	case "reassign":
		return r.outside("REASSIGN OWNED")
	case "import":
		return r.outside("IMPORT FOREIGN SCHEMA")
	case "reindex":
		return r.reindex(w)
	}
	return refusal("it is no statement that tenantkeep knows")
}

func (r *rules) copy(sql string) verdict {
	c, ok := parseCopy(sql)
	switch {
	case !ok:
		return refusal("this COPY cannot be understood")
	case !c.from:
		return refusal("COPY … TO writes outside of the database")
	case c.stdin && c.binary:
		return refusal("rows in binary form cannot stand in a script")
	case c.stdin:
		return r.elsewhere(c.table, "copy")
	}
	return refusal("COPY from " + c.place + " runs or reads things on the server's machine")
}

// query is SELECT and its like, by which pg_dump sets search_path, sequences
// and large objects.
func (r *rules) query(sql string) verdict {
	const enough = 4 << 10
	w := wordsOf(sql[:min(len(sql), enough)])
	if w.skip("select") {
		object := w.object()
		if len(object) == 2 && object[0] == "pg_catalog" {
			object = object[1:]
		}
		if len(object) == 1 {
			if v, ok := r.call(object[0], w); ok {
				return v
			}
		}
	}
	return verdict{setting: len(sql) <= enough && strings.Contains(strings.ToLower(sql), "set_config")}
}

// call decides on SELECT of a function that scripts call.
func (r *rules) call(function string, w *words) (v verdict, ok bool) {
	switch function {
	case "set_config":
		if open, name := w.next(), w.next(); open.symbol("(") && name.kind == stringToken {
			return r.setting(strings.ToLower(name.text)), true
		}
	case "lo_import", "lo_export":
		return refusal("it reads or writes files on the server's machine"), true
	case "lo_create", "lo_creat", "lo_open", "lo_put", "lo_from_bytea", "lo_unlink":
		v := r.outside("a large object")
		if v.action == run && function == "lo_unlink" {
			v = verdict{action: try, forgive: missingCodes, reason: notThere}
		}
		return v, true
	}
	return verdict{}, false
}

// kept are settings that protect others or the caller's own work, so that a
// script does not change them. That it tries is usual for the timeouts and for
// row_security.
var kept = []string{
	"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout", "transaction_timeout",
	"row_security", "track_counts", "synchronous_commit", "default_transaction_read_only", "default_transaction_isolation",
	"default_transaction_deferrable", "transaction_read_only", "transaction_isolation", "transaction_deferrable", "all",
}

// setting decides on a change of one setting.
func (r *rules) setting(name string) verdict {
	switch {
	case slices.Contains(kept, name):
		return verdict{action: skip, reason: "the setting " + name + " stays as it is", quiet: name != "all"}
	case name == "role" || name == "session_authorization":
		return r.role()
	case !strings.Contains(name, ".") && !r.settings[name]:
		return skipped("this server has no setting " + name)
	case slices.Contains([]string{"search_path", "client_encoding", "standard_conforming_strings"}, name):
		return verdict{setting: true}
	case name == "session_replication_role":
		return verdict{setting: true, note: "foreign keys are not checked and triggers do not fire while it is replica"}
	}
	return verdict{action: try, forgive: settingCodes, reason: "the setting " + name + " stays as it is", setting: true}
}

// role decides on SET ROLE and SET SESSION AUTHORIZATION, by which pg_dump
// --use-set-session-authorization gives objects to their owners.
func (r *rules) role() verdict {
	if r.fixedRole {
		return refusal("the script runs with the rights of one role")
	}
	return verdict{setting: true}
}

func (r *rules) set(verb string, w *words) verdict {
	if verb == "set" {
		switch {
		case w.skip("constraints"):
			return verdict{}
		case w.skip("transaction"), w.skip("session", "characteristics"):
			return skipped(wholeTransaction)
		}
		if w.skip("session", "authorization") {
			return r.role()
		}
		_ = w.skip("local") || w.skip("session")
	}
	if w.skip("session", "authorization") {
		return r.role()
	}
	name := strings.ToLower(strings.Join(w.object(), "."))
	switch name {
	case "time":
		name = "timezone"
	case "names":
		name = "client_encoding"
	case "schema":
		name = "search_path"
	case "xml":
		name = "xmloption"
	case "":
		return verdict{} // a syntax error
	}
	return r.setting(name)
}

// adjectives stand between CREATE and the kind of an object.
var adjectives = []string{"global", "local", "temp", "temporary", "unlogged", "trusted", "procedural", "unique", "constraint", "recursive"}

// clusterKinds belong to all databases of the server.
var clusterKinds = []string{"role", "user", "group", "tablespace", "system"}

// databaseKinds belong to the database and to no schema.
var databaseKinds = []string{
	"event trigger", "publication", "subscription", "cast", "foreign data", "server", "user mapping",
	"access method", "transform", "extension", "language", "large object",
}

// objectKind takes the kind of object that a statement is about, in the words
// that tell it from others.
func objectKind(w *words) string {
	first := w.next()
	if first.kind != wordToken {
		w.back(first)
		return ""
	}
	for _, two := range []string{"event trigger", "foreign data", "user mapping", "access method", "default privileges", "large object"} {
		before, after, _ := strings.Cut(two, " ")
		if first.text == before && w.skip(after) {
			return two
		}
	}
	return first.text
}

// define is CREATE, ALTER and DROP.
func (r *rules) define(verb string, w *words) verdict {
	if verb == "create" {
		w.skip("or", "replace")
	}
	for {
		next := w.next()
		if !next.is(adjectives...) {
			w.back(next)
			break
		}
	}
	kind := objectKind(w)
	what := strings.ToUpper(verb + " " + kind)
	switch {
	case kind == "database":
		return skipped("databases are not made, changed or dropped: the script runs in the one that is connected")
	case slices.Contains(clusterKinds, kind):
		return refusal(what + " concerns all databases of the server")
	case kind == "schema":
		return r.defineSchema(verb, w)
	case verb == "create" && kind == "extension" && r.existing(w, r.extensions):
		return skipped("the extension is there already")
	case verb == "create" && kind == "language" && r.existing(w, r.languages):
		return skipped("the language is there already")
	case verb == "alter" && kind == "language" && w.skip("plpgsql"):
		return skipped("the language plpgsql is PostgreSQL's own")
	case kind == "cast" && r.ownTypes(w):
		return r.change(verb, w)
	case verb == "alter" && kind == "publication" && r.ownTables(w):
		return verdict{action: try, forgive: missingCodes, reason: "the publication is not there"}
	case kind == "owned" || slices.Contains(databaseKinds, kind):
		v := r.outside(what)
		if v.action == run && verb == "drop" {
			v = verdict{action: try, forgive: missingCodes, reason: notThere}
		}
		return v
	case kind == "default privileges":
		return r.defaultPrivileges(w)
	case verb == "create" && kind == "view" && dummyView(w):
		return verdict{action: try, forgive: missingCodes, reason: notThere}
	case kind == "index" && w.skip("concurrently"):
		return refusal("CONCURRENTLY does not work in a transaction, which the whole script is")
	}
	return r.change(verb, w)
}

// dummyView reports whether a view selects nothing but NULL. By CREATE OR
// REPLACE of such a one, pg_dump --clean cuts the ties of a view to others
// before it drops them.
func dummyView(w *words) bool {
	w.object()
	w.parentheses()
	if !w.skip("as", "select", "null") {
		return false
	}
	colon := w.next()
	return colon.symbol(":")
}

// ownTypes reports whether the types in the parentheses that come next are of
// the schema or built in, and not all of the latter.
func (r *rules) ownTypes(w *words) bool {
	w.skip("if", "exists")
	open := w.next()
	if !open.symbol("(") {
		return false
	}
	own := 0
	for depth := 1; depth > 0; {
		if name := w.object(); len(name) > 1 {
			if name[0] != r.schema && name[0] != "pg_catalog" {
				return false
			}
			if name[0] == r.schema {
				own++
			}
		}
		switch next := w.next(); {
		case next.kind == endToken:
			return false
		case next.symbol("("):
			depth++
		case next.symbol(")"):
			depth--
		}
	}
	return own > 0
}

// ownTables reports whether tables of the schema are added to the publication
// whose name comes next.
func (r *rules) ownTables(w *words) bool {
	w.object()
	if w.skip("add", "tables", "in", "schema") {
		name, end := w.object(), w.next()
		return len(name) == 1 && name[0] == r.schema && end.kind == endToken
	}
	if !w.skip("add", "table") {
		return false
	}
	w.skip("only")
	table := w.object()
	// Behind it come columns and a condition, or a comma and other tables.
	return len(table) == 2 && table[0] == r.schema && !slices.ContainsFunc(w.flat(), func(w word) bool { return w.symbol(",") })
}

// existing reports whether the next name, behind IF NOT EXISTS, is known.
func (r *rules) existing(w *words, known map[string]bool) bool {
	w.skip("if", "not", "exists")
	name := w.object()
	return len(name) == 1 && known[name[0]]
}

// change is about an object of a schema. What --clean drops may be gone, since
// the script runs beside what it replaces.
func (r *rules) change(verb string, w *words) verdict {
	if verb == "create" {
		return verdict{}
	}
	w.skip("if", "exists")
	w.skip("only")
	if v := r.elsewhere(w.object(), verb); v.action == refuse {
		return v
	}
	if verb == "drop" {
		return verdict{action: try, forgive: missingCodes, reason: notThere}
	}
	rest := w.flat()
	n := len(rest)
	switch {
	case slices.ContainsFunc(rest, func(w word) bool { return w.symbol(",") }):
		return verdict{} // what is forgiven to one part would be lost for the others
	case dropsPart(rest):
		return verdict{action: try, forgive: missingCodes, reason: notThere}
	case r.missingRoles && n >= 3 && rest[n-3].is("owner") && rest[n-2].is("to"):
		return verdict{action: try, forgiveRole: true, reason: missingRoleReason}
	}
	return verdict{}
}

const notThere = "what is to be dropped is not there"

const missingRoleReason = "a role is missing, so that owners and grants differ"

// dropsPart reports whether ALTER … is DROP … or ALTER [COLUMN] … DROP ….
func dropsPart(rest []word) bool {
	for i := range min(len(rest), 4) {
		if rest[i].is("drop") {
			return i == 0 || rest[0].is("alter") && (i == 2 || i == 3 && rest[1].is("column"))
		}
	}
	return false
}

// defaultPrivileges is ALTER DEFAULT PRIVILEGES.
func (r *rules) defaultPrivileges(w *words) verdict {
	for previous := (word{}); ; {
		next := w.next()
		if next.kind == endToken || next.is("grant", "revoke") {
			return r.outside("ALTER DEFAULT PRIVILEGES for all schemas")
		}
		if previous.is("in") && next.is("schema") {
			return r.forSchemas(w, "ALTER DEFAULT PRIVILEGES")
		}
		previous = next
	}
}

// forSchemas decides on what concerns the schemas whose names come next.
func (r *rules) forSchemas(w *words, what string) verdict {
	v := verdict{}
	if r.missingRoles {
		v = verdict{action: try, forgiveRole: true, reason: missingRoleReason}
	}
	for {
		name := w.object()
		if len(name) != 1 {
			return v // nonsense, or no name left: the server explains
		}
		if r.schema != "" && name[0] != r.schema {
			return r.otherSchema(what, name[0])
		}
		if comma := w.next(); !comma.symbol(",") {
			return v
		}
	}
}

// public is the schema that every dump of a whole database mentions, because
// it is there before.
const public = "public"

func (r *rules) otherSchema(what, name string) verdict {
	if r.allowOutside {
		return verdict{}
	}
	if name == public {
		return skipped("the schema public stays as it is")
	}
	v := r.outside(what + " " + name)
	v.reason = what + " is about the schema " + name + ", not " + r.schema
	return v
}

func (r *rules) defineSchema(verb string, w *words) verdict {
	what := strings.ToUpper(verb) + " SCHEMA"
	_ = w.skip("if", "not", "exists") || w.skip("if", "exists")
	name := w.object()
	if verb == "create" && len(name) == 1 && name[0] == "authorization" {
		name = w.object()
	}
	if len(name) != 1 {
		return verdict{}
	}
	own := r.schema == "" || name[0] == r.schema
	if verb == "drop" {
		for comma := w.next(); comma.symbol(","); comma = w.next() {
			own = false
		}
		if own && r.schema != "" {
			return skipped("the schema is not dropped: the script has its place")
		}
		if r.allowOutside || own {
			return verdict{action: try, forgive: missingCodes, reason: notThere}
		}
		v := r.outside(what)
		v.reason = what + " is about the schema " + name[0] + ", not " + r.schema
		return v
	}
	if !own {
		if v := r.otherSchema(what, name[0]); v.action != run {
			return v
		}
	}
	switch {
	case verb == "create":
		return verdict{action: try, forgive: existsCodes, reason: "the schema " + name[0] + " is there already"}
	case own && r.schema != "" && w.skip("rename"):
		return refusal("the script's own schema keeps its name")
	case name[0] == public:
		return verdict{action: try, forgive: []string{"42501"}, forgiveRole: r.missingRoles, reason: "the role may not change the schema public"}
	}
	w.back(word{quotedToken, name[0]})
	return r.change(verb, w)
}

// describe is COMMENT and SECURITY LABEL.
func (r *rules) describe(verb string, w *words) verdict {
	if verb == "security" {
		for next := w.next(); next.kind != endToken && !next.is("on"); {
			next = w.next()
		}
	} else {
		w.skip("on")
	}
	w.skip("procedural")
	kind := objectKind(w)
	what := strings.ToUpper(verb + " on " + kind)
	switch {
	case kind == "database":
		return skipped("comments and labels of the database are left out")
	case kind == "extension" || kind == "language":
		if r.allowOutside {
			return verdict{action: try, forgive: []string{"42501", "42704"}, reason: "the role may not comment on it, or it is not there"}
		}
		return skipped("comments and labels of extensions and languages are left out")
	case slices.Contains(clusterKinds, kind):
		return refusal(what + " concerns all databases of the server")
	case kind == "cast" && r.ownTypes(w):
		return verdict{}
	case slices.Contains(databaseKinds, kind):
		return r.outside(what)
	case kind == "schema":
		v := r.forSchemas(w, what)
		if v.action == run || v.action == try {
			v = verdict{action: try, forgive: []string{"42501"}, reason: "the role may not comment on the schema"}
		}
		return v
	}
	return verdict{}
}

// grant is GRANT and REVOKE.
func (r *rules) grant(w *words) verdict {
	for {
		next := w.next()
		switch {
		case next.is("to", "from") || next.kind == endToken:
			return r.outside("membership in roles")
		case next.symbol("("):
			w.back(next)
			if !w.parentheses() {
				return verdict{}
			}
		case next.is("on"):
			return r.grantOn(w)
		}
	}
}

func (r *rules) grantOn(w *words) verdict {
	if w.skip("all") { // TABLES IN SCHEMA and its like
		for previous := (word{}); ; {
			next := w.next()
			if next.kind == endToken {
				return verdict{}
			}
			if previous.is("in") && next.is("schema") {
				return r.forSchemas(w, "GRANT")
			}
			previous = next
		}
	}
	if w.skip("foreign", "server") {
		return r.outside("GRANT ON FOREIGN SERVER")
	}
	switch kind := objectKind(w); {
	case kind == "database":
		return skipped("rights on the database are left out")
	case kind == "tablespace" || kind == "parameter":
		return refusal("rights on a " + kind + " concern all databases of the server")
	case kind == "schema":
		return r.forSchemas(w, "GRANT ON SCHEMA")
	case slices.Contains(databaseKinds, kind):
		return r.outside("GRANT ON " + strings.ToUpper(kind))
	}
	if r.missingRoles {
		return verdict{action: try, forgiveRole: true, reason: missingRoleReason}
	}
	return verdict{}
}

func (r *rules) reindex(w *words) verdict {
	w.parentheses()
	if kind := w.next(); kind.is("database", "system") {
		return refusal("it does not work in a transaction, which the whole script is")
	}
	return verdict{}
}
