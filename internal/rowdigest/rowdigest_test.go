package rowdigest_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/rowdigest"
)

const everything = `
	CREATE SCHEMA "o dd";
	CREATE TYPE "o dd"."mo od" AS ENUM ('glad', 'it''s');
	CREATE TYPE "o dd".pair AS (a int, b text);
	CREATE DOMAIN "o dd".code AS varchar(20) CHECK (VALUE <> 'no');
	CREATE COLLATION "o dd".blind (provider = icu, locale = 'und-u-ks-level1', deterministic = false);
	CREATE TABLE "o dd"."t""able" (
		id bigint GENERATED ALWAYS AS IDENTITY, small int2, yes bool, "a ""name" text, short varchar(30), fixed char(9), name name,
		letter "char", at timestamptz, day date, span interval, amount numeric(20,4), rate float8, address inet, net cidr,
		key uuid, doc jsonb, raw json, bytes bytea, tags text[], nested int[], during tstzrange, place point, bits bit varying(9),
		feeling "o dd"."mo od", couple "o dd".pair, code "o dd".code, feelings "o dd"."mo od"[], page xml, folded text COLLATE "o dd".blind,
		sized int GENERATED ALWAYS AS (length("a ""name")) STORED);
	INSERT INTO "o dd"."t""able" (small, yes) VALUES (NULL, NULL);
	INSERT INTO "o dd"."t""able" (small, yes, "a ""name", short, fixed, name, letter, at, day, span, amount, rate, address, net, key, doc, raw, bytes, tags, nested,
		during, place, bits, feeling, couple, code, feelings, page, folded)
	SELECT n - 4, n % 2 = 0, x, left(x, 30), left(x, 3), left(x, 9), 'x', '2024-02-28'::timestamptz + n * interval '1.23456789 days', '2000-01-01'::date - n::int * 1000,
		n * interval '1 day -3 hours', n / 7.0, n / 7.0, '10.0.0.1'::inet + n, '10.0.0.0/8', md5(x)::uuid, jsonb_build_object(x, n), to_json(x), convert_to(x, 'UTF8'),
		ARRAY[x, NULL, 'b'], ARRAY[[1, n], [3, 4]], tstzrange(now(), NULL), point(n, 0.1), '101', 'it''s', ROW(n, x)::"o dd".pair, left(x, 20), ARRAY['glad']::"o dd"."mo od"[], '<a>&amp;</a>', upper(x)
	FROM unnest(ARRAY['', 'x', E'tab\t line\n back\\slash \\N \r\b\f\v \x01\x7f', '\N', '\.', 'Käse 漢字 🦊', repeat('long ', 3000), 'abcdefghijkl', 'abcdefghijklm']) WITH ORDINALITY u (x, n)`

// table is the table of everything as its digest is made.
func table(t *testing.T, conn *pgx.Conn) (*rowdigest.Table, string) {
	t.Helper()
	rows, err := conn.Query(t.Context(), `
		SELECT attname::text, atttypid, format('%I.%I', n.nspname, p.proname)
		FROM pg_attribute a JOIN pg_type t ON t.oid = atttypid JOIN pg_proc p ON p.oid = typoutput JOIN pg_namespace n ON n.oid = pronamespace
		WHERE attrelid = '"o dd"."t""able"'::regclass AND attnum > 0 AND attgenerated = '' ORDER BY attnum`)
	if err != nil {
		t.Fatal(err)
	}
	columns, err := pgx.CollectRows(rows, pgx.RowToStructByPos[rowdigest.Column])
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range columns {
		names = append(names, pg.Identifier(c.Name))
	}
	return rowdigest.New(columns), strings.Join(names, ", ")
}

func connect(t *testing.T, db *pgtest.Database) *pgx.Conn {
	t.Helper()
	server, err := pg.Parse(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := server.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Close(conn) })
	return conn
}

// The server and the client digest rows alike, and rows that are not the same
// otherwise.
func TestDigest(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, everything)
	conn := connect(t, db)
	if !rowdigest.Works(t.Context(), conn) {
		t.Fatal("the server is said to hash otherwise")
	}
	way, columns := table(t, conn)
	const name = `ONLY "o dd"."t""able"`
	client := func() rowdigest.Sum {
		t.Helper()
		var out bytes.Buffer
		if _, err := conn.PgConn().CopyTo(t.Context(), &out, "COPY (SELECT "+columns+" FROM "+name+") TO STDOUT"); err != nil {
			t.Fatal(err)
		}
		sum, err := way.Rows(out.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	type answer struct {
		rows   int64
		digest uint64
	}
	server := func(where string) answer {
		t.Helper()
		rows, digest, err := rowdigest.Scan(conn.QueryRow(t.Context(), way.Select(name+where)))
		if err != nil {
			t.Fatal(err)
		}
		return answer{rows, digest}
	}
	sent := client()
	if got := server(""); got != (answer{10, sent.Digest}) || sent.Rows != 10 {
		t.Errorf("the server gives %+v, the client %+v", got, sent)
	}
	first, rest := server(" WHERE id <= 4"), server(" WHERE id > 4")
	if first.rows != 4 || rest.rows != 6 || first.digest+rest.digest != sent.Digest {
		t.Errorf("in two parts it is %+v and %+v, want %+v", first, rest, sent)
	}
	if got := server(" WHERE false"); got != (answer{}) {
		t.Errorf("no rows give %+v", got)
	}
	for _, change := range []string{
		`"a ""name" = '\N' WHERE "a ""name" IS NULL`,
		`"a ""name" = NULL WHERE "a ""name" = '\N'`,
		`"a ""name" = '' WHERE "a ""name" IS NULL`,
		`fixed = 'y' WHERE fixed = 'x'`,
		`amount = amount + 0.0001 WHERE id = 5`,
		`at = at + interval '1 microsecond' WHERE id = 5`,
		`folded = lower(folded) WHERE id = 8`,
		`nested = '[0:1]={1,2}' WHERE id = 5`,
		`(small, short) = (SELECT small, short FROM "o dd"."t""able" WHERE id = 4) WHERE id = 3`,
		`"a ""name" = short, short = left("a ""name", 30) WHERE id = 8`,
		`small = CASE id WHEN 3 THEN 4 ELSE 3 END - 4 WHERE id IN (3, 4)`, // two rows exchange a value
	} {
		err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
			tag, err := tx.Exec(t.Context(), `UPDATE "o dd"."t""able" SET `+change)
			if err != nil || tag.RowsAffected() == 0 {
				return fmt.Errorf("%d rows: %w", tag.RowsAffected(), err)
			}
			got := server("")
			if got.rows != 10 || got.digest == sent.Digest {
				t.Errorf("%s: the server gives %+v as before", change, got)
			}
			if now := client(); now.Digest != got.digest {
				t.Errorf("%s: the server gives %+v, the client %+v", change, got, now)
			}
			return pgx.ErrTxClosed
		})
		if !errors.Is(err, pgx.ErrTxClosed) {
			t.Errorf("%s: %v", change, err)
		}
	}
}

func TestRowsOfAnotherForm(t *testing.T) {
	t.Parallel()
	text := func(name string) rowdigest.Column {
		return rowdigest.Column{Name: name, Type: 25, Output: "pg_catalog.textout"}
	}
	way := rowdigest.New([]rowdigest.Column{text("a"), text("b")})
	for _, text := range []string{"a\tb", "a\n", "a\tb\tc\n", "a\t\\x\n", "a\tb\\\n", "a\tb\n\n"} {
		if sum, err := way.Rows([]byte(text)); !errors.Is(err, rowdigest.ErrForm) {
			t.Errorf("%q gives %+v, %v", text, sum, err)
		}
	}
	if way := rowdigest.New(nil); way != nil {
		t.Error("rows without columns have a digest")
	}
	if way := rowdigest.New(slices.Repeat([]rowdigest.Column{text("a")}, 1000)); way != nil {
		t.Error("so many columns have a digest")
	}
	if way := rowdigest.New([]rowdigest.Column{text("a"), {Name: "b", Type: 16384}}); way != nil {
		t.Error("a column without an output function has a digest")
	}
}

// Where text is sent in another encoding than the one in which it is kept, or
// the function is not there, nothing is digested.
func TestWorks(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := connect(t, db)
	for _, sql := range []string{
		"SET client_encoding = 'LATIN1'",
		"RESET client_encoding; CREATE ROLE rowdigest_nobody; REVOKE EXECUTE ON FUNCTION pg_catalog.hashtextextended(text, int8) FROM PUBLIC; SET ROLE rowdigest_nobody",
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
		if rowdigest.Works(t.Context(), conn) {
			t.Errorf("works after %s", sql)
		}
	}
}
