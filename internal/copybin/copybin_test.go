package copybin_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/tenantkeep/tenantkeep/internal/copybin"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

// cases are values of each type in SQL that have a binary format here.
var cases = map[string]string{
	"bool":         "SELECT v FROM (VALUES (true), (false), (NULL)) x (v)",
	"bytea":        `SELECT v FROM (VALUES (''::bytea), ('\x00ff10'), ('\x5c6e'), (NULL)) x (v)`,
	"int2":         "SELECT v FROM (VALUES (0::int2), (-32768), (32767), (NULL)) x (v)",
	"int4":         "SELECT v FROM (VALUES (0), (-2147483648), (2147483647), (NULL)) x (v)",
	"int8":         "SELECT v FROM (VALUES (0::int8), (-9223372036854775808), (9223372036854775807), (NULL)) x (v)",
	"text":         `SELECT v FROM (VALUES (''), (E'tab\t line\n back\\slash \\N \r\b\f\v \x01\x7f'), ('\N'), ('\.'), ('Käse 漢字 🦊'), (repeat('long ', 100000)), (NULL)) x (v)`,
	"varchar(20)":  `SELECT v FROM (VALUES (''::varchar), ('with spaces  '), (E'a\\b'), (NULL)) x (v)`,
	"char(5)":      "SELECT v FROM (VALUES (''::char(5)), ('ab'), ('äöüß€'), (NULL)) x (v)",
	"json":         `SELECT v FROM (VALUES ('{"b": 1,  "a": "\u00e4\n"}'::json), ('null'), (NULL)) x (v)`,
	"jsonb":        `SELECT v FROM (VALUES ('{"b": 1.50, "a": "\\ \n \t \u00e4"}'::jsonb), ('[]'), ('"\""'), (NULL)) x (v)`,
	"float4":       "SELECT v FROM (VALUES (0::float4), ('-0'), ('3.4028235e38'), ('1e-45'), ('0.1'), (NULL)) x (v)",
	"float8":       "SELECT v FROM (VALUES (0::float8), ('-0'), ('1.7976931348623157e308'), ('5e-324'), ('0.1'), ('123456789.123456789'), (NULL)) x (v)",
	"inet":         "SELECT v FROM (VALUES ('10.15.108.237'::inet), ('10.15.108.237/8'), ('0.0.0.0/0'), ('::1'), ('2001:db8::1/48'), ('::ffff:1.2.3.4'), (NULL)) x (v)",
	"date":         "SELECT v FROM (VALUES ('2000-01-01'::date), ('0001-01-01'), ('9999-12-31'), ('1999-12-31'), ('1969-12-31'), ('2024-02-29'), ('1900-03-01'), (NULL)) x (v)",
	"timestamp":    "SELECT v FROM (VALUES ('2000-01-01'::timestamp), ('0001-01-01 00:00:00.000001'), ('9999-12-31 23:59:59.999999'), ('1999-12-31 23:59:59.5'), ('1969-12-31 12:34:56.7801'), (NULL)) x (v)",
	"timestamptz":  "SELECT v FROM (VALUES ('2000-01-01 00:00:00+00'::timestamptz), ('1582-10-15 01:02:03.04+05'), ('2025-09-09 19:35:29.852288+00'), ('1883-11-18 12:03:57.9-05'), (NULL)) x (v)",
	"numeric":      "SELECT v FROM (VALUES (0::numeric), (0.00), (-0.05), (1), (10000), (12345.678900), (-99999999999999999999.0001), (0.00001234), (1e30), (1e-30), (100000000), (NULL)) x (v)",
	"numeric(9,2)": "SELECT v FROM (VALUES (0::numeric), (1234567.89), (-0.01), (NULL)) x (v)",
	"uuid":         "SELECT v FROM (VALUES ('00000000-0000-0000-0000-000000000000'::uuid), ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'), (NULL)) x (v)",
	"mood":         `SELECT v FROM (VALUES ('glad'::mood), ('so "so"'), ('back\slash'), (NULL)) x (v)`,
}

func TestRowsArriveAsTheyWere(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	server, err := pg.Parse(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := server.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close(conn)
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	copyOut := func(table string) string {
		t.Helper()
		var out bytes.Buffer
		if _, err := conn.PgConn().CopyTo(t.Context(), &out, "COPY "+table+" TO STDOUT"); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	exec("SET search_path = public")
	exec(`CREATE TYPE mood AS ENUM ('glad', 'so "so"', 'back\slash')`)
	n := 0
	for typ, values := range cases {
		n++
		from, to := fmt.Sprintf("from_%d", n), fmt.Sprintf("to_%d", n)
		// A column before and behind, so that each stands at every place.
		exec(fmt.Sprintf("CREATE TABLE %s (a int4, v %s, z text); CREATE TABLE %s (LIKE %[1]s)", from, typ, to))
		exec(fmt.Sprintf("INSERT INTO %s SELECT 1, v, 'end' FROM (%s) x", from, values))
		var oid uint32
		var enum bool
		err := conn.QueryRow(t.Context(), "SELECT t.oid, t.typtype = 'e' FROM pg_type t JOIN pg_attribute a ON a.atttypid = t.oid WHERE a.attrelid = $1::regclass AND a.attname = 'v'",
			from).Scan(&oid, &enum)
		if err != nil {
			t.Fatal(err)
		}
		if enum {
			oid = copybin.Enum
		}
		format := copybin.New([]uint32{23, oid, 25})
		if format == nil {
			t.Errorf("type %s is not known", typ)
			continue
		}
		text := copyOut(from)
		data, err := appendAll(format.Rows([]byte(text)))
		if err != nil {
			t.Errorf("type %s: %v", typ, err)
			continue
		}
		if _, err := conn.PgConn().CopyFrom(t.Context(), bytes.NewReader(data), "COPY "+to+" FROM STDIN WITH (FORMAT binary)"); err != nil {
			t.Errorf("type %s: %v", typ, err)
			continue
		}
		if got := copyOut(to); got != text {
			t.Errorf("type %s: %.200q became %.200q", typ, text, got)
		}
	}
}

// appendAll takes few bytes at a time, to have pieces that end anywhere.
func appendAll(rows *copybin.Rows) (data []byte, err error) {
	for {
		piece, err := rows.Append(nil, 64)
		if errors.Is(err, io.EOF) {
			return data, nil
		}
		if err != nil {
			return nil, err
		}
		data = append(data, piece...)
	}
}

func TestWhatMustGoAsText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		oid   uint32
		value string
	}{
		{16, "true"},
		{16, ""},
		{17, "abc"},
		{17, `\\x0`},
		{20, ""},
		{20, "9223372036854775808"},
		{20, "+1"},
		{20, "1 "},
		{21, "32768"},
		{23, "0x10"},
		{25, `unknown \q escape`},
		{25, `ends in \`},
		{25, "two\tfields"},
		{700, "NaN"},
		{701, "-Infinity"},
		{701, "0x1p-2"},
		{701, "1e400"},
		{869, "10.0.0.0/33"},
		{869, "fe80::1%eth0"},
		{869, "host"},
		{1082, "infinity"},
		{1082, "0044-03-15 BC"},
		{1082, "10000-01-01"},
		{1082, "2023-02-29"},
		{1082, "2023-13-01"},
		{1082, "2023-1-1"},
		{1114, "-infinity"},
		{1114, "2020-01-01"},
		{1114, "2020-01-01 24:00:00"},
		{1114, "2020-01-01 00:00:00."},
		{1114, "2020-01-01 00:00:00.1234567"},
		{1184, "2020-01-01 00:00:00"},
		{1184, "2020-01-01 00:00:00+01"},
		{1184, "2020-01-01 00:00:00+00 BC"},
		{1700, "NaN"},
		{1700, "Infinity"},
		{1700, ""},
		{1700, "-"},
		{1700, "1."},
		{1700, ".5"},
		{1700, "1e5"},
		{1700, strings.Repeat("9", 1001)},
		{2950, "a0eebc999c0b4ef8bb6d6bb9bd380a11"},
		{2950, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1g"},
	} {
		format := copybin.New([]uint32{c.oid})
		if data, err := appendAll(format.Rows([]byte(c.value + "\n"))); !errors.Is(err, copybin.ErrText) {
			t.Errorf("type %d, %.50q: got %x and error %v", c.oid, c.value, data, err)
		}
	}
	if _, err := appendAll(copybin.New([]uint32{25}).Rows([]byte("no end of line"))); !errors.Is(err, copybin.ErrText) {
		t.Errorf("a line without its end: %v", err)
	}
	if _, err := appendAll(copybin.New([]uint32{25, 25}).Rows([]byte("one field\n"))); !errors.Is(err, copybin.ErrText) {
		t.Errorf("a row with too few fields: %v", err)
	}
	for _, types := range [][]uint32{{}, {25, 0}, {1186}} {
		if copybin.New(types) != nil {
			t.Errorf("types %v are said to be known", types)
		}
	}
}
