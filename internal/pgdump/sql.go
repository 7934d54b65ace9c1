package pgdump

import (
	"fmt"
	"strings"
)

// defaultAccessMethod is the table access method of Header.
const defaultAccessMethod = "heap"

// Header is the settings that a script begins with. All definitions are written
// for them: names are resolved without a search_path, strings have no escapes,
// bodies of functions are not checked. encoding is that of the script, as
// PostgreSQL names it; empty leaves the client's.
func Header(encoding string) string {
	var header strings.Builder
	header.WriteString("SET statement_timeout = 0;\nSET lock_timeout = 0;\nSET idle_in_transaction_session_timeout = 0;\n")
	if encoding != "" {
		header.WriteString("SET client_encoding = " + quoteLiteral(encoding) + ";\n")
	}
	header.WriteString(`SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
SET default_tablespace = '';
SET default_table_access_method = heap;
`)
	return header.String()
}

// sql is the text of the entry's own statement.
func (s *splitter) sql(e *Entry) string {
	switch {
	case e.Kind == kindLargeObjects:
		return forEachLargeObject(e, "SELECT pg_catalog.lo_create('", "')")
	case e.Kind == kindACL && strings.HasPrefix(e.Tag, "LARGE OBJECTS"):
		return largeObjectGrants(e, s.object(e))
	}
	sql := terminated(e.Definition)
	if e.Tablespace != "" {
		sql = "SET default_tablespace = " + quoteIdent(e.Tablespace) + ";\n" + sql + "SET default_tablespace = '';\n"
	}
	switch {
	case e.TableAM == "":
	case e.RelKind == RelKindPartitioned:
		// It has no storage, so that the default does not reach it.
		sql += "ALTER TABLE " + qualified(e) + " SET ACCESS METHOD " + quoteIdent(e.TableAM) + ";\n"
	case e.TableAM != defaultAccessMethod:
		sql = "SET default_table_access_method = " + quoteIdent(e.TableAM) + ";\n" + sql + "SET default_table_access_method = " + defaultAccessMethod + ";\n"
	}
	return sql
}

// terminated makes text end in ";\n", which costs no copy where it does.
func terminated(sql string) string {
	if strings.HasSuffix(sql, ";\n") && !strings.HasPrefix(sql, "\n") {
		return sql
	}
	sql = strings.Trim(sql, " \t\r\n")
	return strings.TrimSuffix(sql, ";") + ";\n"
}

// ownerSQL gives the entry's object to its owner, or is empty for what has no
// owner of its own: of that there is no DROP either.
func ownerSQL(e *Entry) string {
	if e.Owner == "" || e.DropStatement == "" {
		return ""
	}
	var object string
	switch e.Kind {
	case kindLargeObjects:
		return forEachLargeObject(e, "ALTER LARGE OBJECT ", " OWNER TO "+quoteIdent(e.Owner))
	case kindLargeObject:
		object = "LARGE OBJECT " + e.Tag
	case "AGGREGATE", "FUNCTION", "OPERATOR", "OPERATOR CLASS", "OPERATOR FAMILY", "PROCEDURE":
		// They need their arguments, which only the DROP has.
		object = strings.TrimRight(strings.TrimPrefix(e.DropStatement, "DROP "), ";\n")
	case "COLLATION", "CONVERSION", "DOMAIN", "FOREIGN TABLE", "MATERIALIZED VIEW", "SEQUENCE", "STATISTICS", "TABLE",
		"TEXT SEARCH CONFIGURATION", "TEXT SEARCH DICTIONARY", "TYPE", "VIEW",
		kindEventTrigger, "FOREIGN DATA WRAPPER", "PROCEDURAL LANGUAGE", "PUBLICATION", kindSchema, "SERVER":
		object = e.Kind + " " + qualified(e)
	default:
		return ""
	}
	return "ALTER " + object + " OWNER TO " + quoteIdent(e.Owner) + ";\n"
}

// qualified is the entry's name in SQL.
func qualified(e *Entry) string {
	if e.Namespace == "" {
		return quoteIdent(e.Tag)
	}
	return quoteIdent(e.Namespace) + "." + quoteIdent(e.Tag)
}

// forEachLargeObject puts each large object of a group between two halves of a
// command. A group's definition is their OIDs, one a line.
func forEachLargeObject(group *Entry, before, after string) string {
	var out strings.Builder
	for oid := range strings.FieldsSeq(group.Definition) {
		fmt.Fprintf(&out, "%s%s%s;\n", before, oid, after)
	}
	return out.String()
}

// largeObjectGrants repeats grants, which are written for the first large
// object of a group, for all of them. What stands around them, since somebody
// else than the owner has granted, is kept as it is. Role names in double quotes
// are the only part of them that may have anything in it.
func largeObjectGrants(e, group *Entry) string {
	if group == nil || group.Kind != kindLargeObjects {
		return terminated(e.Definition)
	}
	const object = "LARGE OBJECT "
	var out strings.Builder
	for _, command := range splitStatements(e.Definition) {
		command = strings.TrimRight(command, ";\n")
		repeated := command + ";\n" // who grants
		for i := 0; i < len(command); i++ {
			if after := skipQuoted(command, i); after > i {
				i = after - 1
				continue
			}
			if strings.HasPrefix(command[i:], object) {
				before := command[:i+len(object)]
				rest := strings.TrimLeft(command[len(before):], "0123456789")
				repeated = forEachLargeObject(group, before, rest)
				break
			}
		}
		out.WriteString(repeated)
	}
	return out.String()
}

func quoteIdent(name string) string {
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

func quoteLiteral(text string) string {
	return "'" + strings.ReplaceAll(text, "'", "''") + "'"
}
