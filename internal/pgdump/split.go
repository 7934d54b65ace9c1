package pgdump

import (
	"iter"
	"strings"
)

// kindOwner is the Kind of a Statement that gives an object its owner.
const kindOwner = "OWNER"

// publicSchema exists in every new database: initdb makes it.
const publicSchema = "public"

// Statement is one step of a schema's script.
type Statement struct {
	Section Section // PreData or PostData
	Schema  string  // the schema whose script it belongs to; empty: the database's
	Kind    string  // that of the entry ("TABLE", "INDEX", "FK CONSTRAINT", "ACL"…), or "OWNER" for the ALTER … OWNER TO that follows an object
	Tag     string  // that of the entry
	// Table is the unquoted name of the table, view or foreign table that an
	// index, constraint, trigger, rule, policy, default, statistics object or
	// attachment belongs to, and of the one that a comment or grant is on or
	// within; it is in the statement's schema. Empty for everything else.
	Table        string
	Role         string // of an OWNER: the new owner
	Tablespace   string // that the statement puts the object in; empty: the database's
	AccessMethod string // of the table; empty where there is none
	// SQL is one or more commands and ends with ";\n". It needs nothing but the
	// settings of Header, and leaves them as they were.
	SQL string
}

// pass is one of the runs through the table of contents in which pg_restore
// executes entries.
type pass int

const (
	mainPass   pass = iota
	grantsPass      // after all objects, so that no revoked right is missing
	finalPass       // event triggers, which would fire during the others
	passes
)

func passOf(e *Entry) pass {
	switch e.Kind {
	case kindACL, kindDefaultACL:
		return grantsPass
	case kindEventTrigger:
		return finalPass
	case kindComment, kindSecurityLabel:
		if strings.HasPrefix(e.Tag, kindEventTrigger+" ") {
			return finalPass
		}
	}
	return mainPass
}

// Split gives the statements of Statements by schema, and those of the
// database's own objects.
func (a *Archive) Split() (bySchema map[string][]Statement, database []Statement) {
	bySchema = make(map[string][]Statement)
	for s := range a.Statements() {
		if s.Schema != "" {
			bySchema[s.Schema] = append(bySchema[s.Schema], s)
		} else {
			database = append(database, s)
		}
	}
	return bySchema, database
}

// Statements gives the archive's statements in the order of execution:
// pre-data before post-data, which has indexes, constraints, triggers and the
// like, then grants, then event triggers.
//
// An extension goes with the schema that it is installed in where that schema
// is in the archive. What pg_restore leaves out of an existing database (its
// properties), subscriptions and everything with rows is left out.
func (a *Archive) Statements() iter.Seq[Statement] {
	s := newSplitter(a)
	// Comments and grants have no section: they are in that of the entries
	// around them.
	section := PreData
	for i := range a.Entries {
		if own := a.Entries[i].Section; own == PreData || own == PostData {
			section = own
		}
		s.sections[i] = section
	}
	return func(yield func(Statement) bool) {
		for _, section := range []Section{PreData, PostData} {
			for p := range passes {
				for i := range a.Entries {
					e := &a.Entries[i]
					if passOf(e) != p || s.skip(e) {
						continue
					}
					if p == mainPass && s.sections[i] != section || p != mainPass && section != PostData {
						continue
					}
					for _, statement := range s.statements(e, section) {
						if !yield(statement) {
							return
						}
					}
				}
			}
		}
	}
}

// splitter has what is needed to place entries.
type splitter struct {
	byID     map[int]*Entry
	sections []Section
}

func newSplitter(a *Archive) *splitter {
	s := &splitter{byID: make(map[int]*Entry, len(a.Entries)), sections: make([]Section, len(a.Entries))}
	for i := range a.Entries {
		s.byID[a.Entries[i].DumpID] = &a.Entries[i]
	}
	return s
}

// skip reports whether an entry has no place in a script of definitions.
func (s *splitter) skip(e *Entry) bool {
	switch e.Kind {
	case "ENCODING", "STDSTRINGS", "SEARCHPATH", // are in Header
		"DATABASE", "DATABASE PROPERTIES",
		"SUBSCRIPTION", "SUBSCRIPTION TABLE",
		"TABLE DATA", "SEQUENCE SET", "MATERIALIZED VIEW DATA", "BLOBS", "STATISTICS DATA":
		return true
	case kindACL, kindComment, kindSecurityLabel:
		if strings.HasPrefix(e.Tag, "DATABASE ") || strings.HasPrefix(e.Tag, "SUBSCRIPTION ") {
			return true
		}
	case kindSchema:
		// initdb makes it, and gives it to this role.
		return e.Tag == publicSchema && e.Owner == "pg_database_owner"
	}
	return strings.TrimSpace(e.Definition) == ""
}

// schemaOf is the schema whose script has the entry, empty for the database's.
func (s *splitter) schemaOf(e *Entry) string {
	switch e.Kind {
	case kindSchema:
		return userSchema(e.Tag)
	case kindExtension:
		// The one schema that an extension depends on is the one it is in.
		for _, id := range e.Dependencies {
			if on := s.byID[id]; on != nil && on.Kind == kindSchema {
				return userSchema(on.Tag)
			}
		}
		return ""
	case kindACL, kindComment, kindSecurityLabel:
		if e.Namespace != "" {
			break
		}
		if on := s.object(e); on != nil {
			return s.schemaOf(on)
		}
		// The entry of public is missing while its owner is the default.
		if e.Tag == kindSchema+" "+publicSchema {
			return publicSchema
		}
	}
	return userSchema(e.Namespace)
}

// userSchema gives up the system's schemas: rights on a system function that
// someone changed are the database's.
func userSchema(name string) string {
	if strings.HasPrefix(name, "pg_") || name == "information_schema" {
		return ""
	}
	return name
}

// object is the entry that a comment, grant or label is on, nil where the
// archive has none.
func (s *splitter) object(e *Entry) *Entry {
	for _, id := range e.Dependencies {
		// Grants on columns depend on those on their table too, which are no
		// object.
		if on := s.byID[id]; on != nil && !isAttribute(on.Kind) {
			return on
		}
	}
	return nil
}

// statements are those of one entry: its definition and, where it can have one,
// its owner.
func (s *splitter) statements(e *Entry, section Section) []Statement {
	statement := Statement{
		Section:      section,
		Schema:       s.schemaOf(e),
		Kind:         e.Kind,
		Tag:          e.Tag,
		Table:        s.table(e),
		Tablespace:   e.Tablespace,
		AccessMethod: e.TableAM,
		SQL:          s.sql(e),
	}
	statements := make([]Statement, 0, 2)
	if e.Kind != kindSchema || e.Tag != publicSchema { // initdb makes public
		statements = append(statements, statement)
	}
	if sql := ownerSQL(e); sql != "" {
		statements = append(statements, Statement{Section: section, Schema: statement.Schema, Kind: kindOwner, Tag: e.Tag, Table: statement.Table, Role: e.Owner, SQL: sql})
	}
	return statements
}

// table is the table that an entry belongs to, see Statement.Table.
func (s *splitter) table(e *Entry) string {
	switch e.Kind {
	case kindComment, kindACL, kindSecurityLabel:
		on := s.object(e)
		switch {
		case on == nil || e.Namespace == "":
			return ""
		case isRelation(on.Kind):
			return on.Tag
		}
		return s.table(on)
	case "INDEX", "CONSTRAINT", "FK CONSTRAINT", "CHECK CONSTRAINT", "TRIGGER", "RULE", "POLICY", "ROW SECURITY",
		"DEFAULT", "STATISTICS", "TABLE ATTACH", "INDEX ATTACH", "PUBLICATION TABLE":
	default:
		return ""
	}
	candidates := s.tables(e)
	if len(candidates) > 1 {
		candidates = narrow(candidates, func(t *Entry) bool { return named(e, t) })
	}
	if len(candidates) > 1 {
		candidates = narrow(candidates, func(t *Entry) bool { return generatedFor(e, t) })
	}
	if len(candidates) == 0 {
		return ""
	}
	return candidates[0].Tag
}

// tables are the relations in the entry's schema that it depends on, itself or
// through the index that it attaches.
func (s *splitter) tables(e *Entry) []*Entry {
	var found []*Entry
	for _, id := range e.Dependencies {
		on := s.byID[id]
		if on == nil || on.Namespace != e.Namespace {
			continue
		}
		switch {
		case isRelation(on.Kind):
			found = append(found, on)
		case e.Kind == "INDEX ATTACH" && (on.Kind == "INDEX" && on.Tag == e.Tag || on.Kind == "CONSTRAINT" && strings.HasSuffix(on.Tag, " "+e.Tag)):
			// Only the attached index has this name in this schema.
			return s.tables(on)
		}
	}
	return found
}

func narrow(entries []*Entry, keep func(*Entry) bool) []*Entry {
	kept := entries[:0:0]
	for _, e := range entries {
		if keep(e) {
			kept = append(kept, e)
		}
	}
	if len(kept) == 0 {
		return entries
	}
	return kept
}

// named reports whether the entry's tag allows for it to be of the table: a
// foreign key depends on two tables, and begins with the name of its own.
func named(e, table *Entry) bool {
	switch e.Kind {
	case "INDEX", "INDEX ATTACH", "STATISTICS":
		return true
	case "TABLE ATTACH", "ROW SECURITY":
		return e.Tag == table.Tag
	case "PUBLICATION TABLE":
		return strings.HasSuffix(e.Tag, " "+table.Tag)
	}
	return strings.HasPrefix(e.Tag, table.Tag+" ")
}

// generatedFor tells tables apart that the tag does not: "a b c" may be the
// constraint "c" of "a b" or "b c" of "a", and an index may use the row type of
// a second table. The commands that pg_dump generates have the table at a fixed
// place.
func generatedFor(e, table *Entry) bool {
	for _, schema := range [2]string{table.Namespace, quoteIdent(table.Namespace)} {
		for _, name := range [2]string{table.Tag, quoteIdent(table.Tag)} {
			name := schema + "." + name
			switch e.Kind {
			case "TRIGGER", "POLICY", "RULE":
				if strings.HasSuffix(e.DropStatement, " ON "+name+";\n") {
					return true
				}
			case "INDEX":
				start, _, _ := strings.Cut(e.Definition, " USING ")
				if strings.HasPrefix(start, "CREATE ") && (strings.HasSuffix(start, " ON "+name) || strings.HasSuffix(start, " ON ONLY "+name)) {
					return true
				}
			default:
				for _, command := range [...]string{"ALTER TABLE ", "ALTER TABLE ONLY ", "ALTER FOREIGN TABLE ", "ALTER FOREIGN TABLE ONLY "} {
					rest, ok := strings.CutPrefix(e.DropStatement, command+name)
					if ok && strings.HasPrefix(rest, " ") {
						return true
					}
				}
			}
		}
	}
	return false
}

func isAttribute(kind string) bool {
	return kind == kindACL || kind == kindComment || kind == kindSecurityLabel
}

func isRelation(kind string) bool {
	switch kind {
	case "TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW":
		return true
	}
	return false
}
