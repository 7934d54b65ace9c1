package pgdump

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStripAttributeVersion(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ definition, want string }{
		"only option": {
			"CREATE TABLE s.t (a int);\nALTER TABLE ONLY s.t ALTER COLUMN a SET (pg_attver=12);\nALTER TABLE s.t REPLICA IDENTITY FULL;\n",
			"CREATE TABLE s.t (a int);\nALTER TABLE s.t REPLICA IDENTITY FULL;\n",
		},
		"first":   {"ALTER TABLE ONLY s.t ALTER COLUMN a SET (pg_attver=1, n_distinct=5);\n", "ALTER TABLE ONLY s.t ALTER COLUMN a SET (n_distinct=5);\n"},
		"last":    {"ALTER TABLE ONLY s.t ALTER COLUMN a SET (n_distinct=5, pg_attver=1);\n", "ALTER TABLE ONLY s.t ALTER COLUMN a SET (n_distinct=5);\n"},
		"foreign": {"ALTER FOREIGN TABLE ONLY s.t ALTER COLUMN a SET (pg_attver=1);\n", ""},
		"odd names": {
			"x;\nALTER TABLE ONLY \"s; '\"\"\".\"t (\" ALTER COLUMN \"a b\n);\" SET (pg_attver=1);\ny;\n", "x;\ny;\n",
		},
		"another option": {"ALTER TABLE ONLY s.t ALTER COLUMN a SET (not_pg_attver=1);\n", "ALTER TABLE ONLY s.t ALTER COLUMN a SET (not_pg_attver=1);\n"},
		"a column of that name": {
			"ALTER TABLE ONLY s.t ALTER COLUMN pg_attver SET (n_distinct=1);\n", "ALTER TABLE ONLY s.t ALTER COLUMN pg_attver SET (n_distinct=1);\n",
		},
		"default": {
			"CREATE TABLE s.t (a text DEFAULT ';\nALTER TABLE ONLY s.t ALTER COLUMN a SET (pg_attver=1);\n');\n",
			"CREATE TABLE s.t (a text DEFAULT ';\nALTER TABLE ONLY s.t ALTER COLUMN a SET (pg_attver=1);\n');\n",
		},
		"escaped string": {
			"CREATE TABLE s.t (a text DEFAULT E'it''s \\';\nALTER TABLE ONLY s.t ALTER COLUMN a SET (pg_attver=1);\n');\n",
			"CREATE TABLE s.t (a text DEFAULT E'it''s \\';\nALTER TABLE ONLY s.t ALTER COLUMN a SET (pg_attver=1);\n');\n",
		},
		"quoted in dollars and comments": {
			"$a$;\nALTER TABLE ONLY s.t ALTER COLUMN a SET (pg_attver=1);\n$a$ /* /* */ ;\nALTER TABLE ONLY s.t ALTER COLUMN a SET (pg_attver=1);\n*/ -- ;\n;\n",
			"$a$;\nALTER TABLE ONLY s.t ALTER COLUMN a SET (pg_attver=1);\n$a$ /* /* */ ;\nALTER TABLE ONLY s.t ALTER COLUMN a SET (pg_attver=1);\n*/ -- ;\n;\n",
		},
	}
	for name, test := range tests {
		if diff := cmp.Diff(test.want, stripAttributeVersion(test.definition)); diff != "" {
			t.Errorf("%s: - want, + got:\n%s", name, diff)
		}
	}
}

// TestLargeObjectGroups expands the entries that stand for many large objects.
func TestLargeObjectGroups(t *testing.T) {
	t.Parallel()
	a := &Archive{Entries: []Entry{
		{DumpID: 1, Tag: "11..30", Kind: "BLOB METADATA", Section: Data, Definition: "11\n30\n", DropStatement: "-- dummy", Owner: `o"w`},
		{DumpID: 2, Tag: "LARGE OBJECT 30", Kind: "COMMENT", Definition: "COMMENT ON LARGE OBJECT 30 IS 'x';\n", Dependencies: []int{1}},
		{
			DumpID: 3, Tag: "LARGE OBJECTS 11..30", Kind: "ACL", Dependencies: []int{1},
			Definition: "REVOKE ALL ON LARGE OBJECT 11 FROM PUBLIC;\nGRANT SELECT ON LARGE OBJECT 11 TO \"x; LARGE OBJECT 7 \"\"y\" WITH GRANT OPTION;\n",
		},
	}}
	bySchema, database := a.Split()
	if len(bySchema) > 0 {
		t.Errorf("large objects in schemas: %v", bySchema)
	}
	var script strings.Builder
	for _, s := range database {
		script.WriteString(string(s.Section) + " " + s.Kind + "\n" + s.SQL)
	}
	want := `pre-data BLOB METADATA
SELECT pg_catalog.lo_create('11');
SELECT pg_catalog.lo_create('30');
pre-data OWNER
ALTER LARGE OBJECT 11 OWNER TO "o""w";
ALTER LARGE OBJECT 30 OWNER TO "o""w";
pre-data COMMENT
COMMENT ON LARGE OBJECT 30 IS 'x';
post-data ACL
REVOKE ALL ON LARGE OBJECT 11 FROM PUBLIC;
REVOKE ALL ON LARGE OBJECT 30 FROM PUBLIC;
GRANT SELECT ON LARGE OBJECT 11 TO "x; LARGE OBJECT 7 ""y" WITH GRANT OPTION;
GRANT SELECT ON LARGE OBJECT 30 TO "x; LARGE OBJECT 7 ""y" WITH GRANT OPTION;
`
	if diff := cmp.Diff(want, script.String()); diff != "" {
		t.Errorf("- want, + got:\n%s", diff)
	}
}

// TestStorageOfPartitioned gives a partitioned table its access method by a
// command of its own, which other tables get by a setting.
func TestStorageOfPartitioned(t *testing.T) {
	t.Parallel()
	table := Entry{DumpID: 1, Tag: `t"`, Kind: "TABLE", Section: PreData, Namespace: "S", Tablespace: "fast", TableAM: "columnar", Definition: "CREATE TABLE;\n"}
	partitioned := table
	partitioned.DumpID, partitioned.RelKind = 2, RelKindPartitioned
	partitioned.Definition = "\n\nCREATE TABLE"
	bySchema, _ := (&Archive{Entries: []Entry{table, partitioned}}).Split()
	var got []string
	for _, s := range bySchema["S"] {
		got = append(got, s.SQL)
	}
	want := []string{
		"SET default_table_access_method = \"columnar\";\nSET default_tablespace = \"fast\";\nCREATE TABLE;\nSET default_tablespace = '';\nSET default_table_access_method = heap;\n",
		"SET default_tablespace = \"fast\";\nCREATE TABLE;\nSET default_tablespace = '';\nALTER TABLE \"S\".\"t\"\"\" SET ACCESS METHOD \"columnar\";\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("- want, + got:\n%s", diff)
	}
}

// TestOrder has the passes of pg_restore, and leaves out what it leaves out.
func TestOrder(t *testing.T) {
	t.Parallel()
	entry := func(id int, kind, tag string, section Section, on ...int) Entry {
		return Entry{DumpID: id, Kind: kind, Tag: tag, Section: section, Namespace: "s", Definition: kind + ";\n", Dependencies: on}
	}
	global := func(e Entry) Entry {
		e.Namespace = ""
		return e
	}
	_, database := (&Archive{Entries: []Entry{
		global(entry(1, "DATABASE", "d", PreData)), global(entry(2, "ACL", "DATABASE d", SectionNone, 1)), global(entry(3, "COMMENT", "DATABASE d", SectionNone, 1)),
		global(entry(4, "ENCODING", "ENCODING", PreData)),
	}}).Split()
	if len(database) > 0 {
		t.Errorf("left in: %+v", database)
	}
	bySchema, database := (&Archive{Entries: []Entry{
		global(entry(10, "SCHEMA", "s", PreData)), global(entry(11, "COMMENT", "SCHEMA s", SectionNone, 10)), global(entry(12, "ACL", "SCHEMA s", SectionNone, 10)),
		global(entry(13, "EXTENSION", "e", PreData, 10)), global(entry(14, "SECURITY LABEL", "EXTENSION e", SectionNone, 13)),
		global(entry(15, "ACL", "SCHEMA public", SectionNone, 99)),
		entry(20, "TABLE", "t", PreData), entry(21, "ACL", "TABLE t", SectionNone, 20), entry(22, "COMMENT", "TABLE t", SectionNone, 20),
		entry(30, "TABLE DATA", "t", Data, 20), entry(31, "SEQUENCE SET", "q", Data),
		entry(40, "INDEX", "i", PostData, 20), entry(41, "COMMENT", "INDEX i", SectionNone, 40),
		global(entry(42, "EVENT TRIGGER", "et", PostData)), global(entry(43, "COMMENT", "EVENT TRIGGER et", SectionNone, 42)),
		global(entry(44, "PUBLICATION", "p", PostData)), entry(45, "PUBLICATION TABLE", "p t", PostData, 44, 20),
		entry(46, "DEFAULT ACL", "DEFAULT PRIVILEGES FOR TABLES", PostData), global(entry(47, "DEFAULT ACL", "DEFAULT PRIVILEGES FOR TABLES", PostData)),
		entry(48, "MATERIALIZED VIEW DATA", "m", PostData),
		{DumpID: 49, Kind: "ACL", Tag: "FUNCTION f", Namespace: "pg_catalog", Definition: "ACL;\n"},
	}}).Split()
	list := func(statements []Statement) []string {
		var lines []string
		for _, s := range statements {
			lines = append(lines, string(s.Section)+" "+s.Kind+" "+s.Tag)
		}
		return lines
	}
	got := map[string][]string{"database": list(database)}
	for schema, statements := range bySchema {
		got[schema] = list(statements)
	}
	want := map[string][]string{
		"s": {
			"pre-data SCHEMA s", "pre-data COMMENT SCHEMA s", "pre-data EXTENSION e", "pre-data SECURITY LABEL EXTENSION e",
			"pre-data TABLE t", "pre-data COMMENT TABLE t",
			"post-data INDEX i", "post-data COMMENT INDEX i", "post-data PUBLICATION TABLE p t",
			"post-data ACL SCHEMA s", "post-data ACL TABLE t", "post-data DEFAULT ACL DEFAULT PRIVILEGES FOR TABLES",
		},
		"public": {"post-data ACL SCHEMA public"},
		"database": {
			"post-data PUBLICATION p", "post-data DEFAULT ACL DEFAULT PRIVILEGES FOR TABLES", "post-data ACL FUNCTION f",
			"post-data EVENT TRIGGER et", "post-data COMMENT EVENT TRIGGER et",
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("- want, + got:\n%s", diff)
	}
}

func TestHeaderHasNoSettingOfNewServersOnly(t *testing.T) {
	t.Parallel()
	header := Header("UTF8")
	for _, want := range []string{"SET client_encoding = 'UTF8';\n", "set_config('search_path', '', false)", "SET row_security = off;\n"} {
		if !strings.Contains(header, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if strings.Contains(header, "SET transaction_timeout") {
		t.Error("servers up to 16 refuse transaction_timeout")
	}
}
