package plainsql

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// read lists the items of a script as lines: number, kind and text, and rows.
func read(t testing.TB, r *Reader) (lines []string, err error) {
	t.Helper()
	for {
		item, err := r.Next()
		if err != nil {
			return lines, err
		}
		switch item.Kind {
		case Statement:
			lines = append(lines, fmt.Sprintf("%d %s", item.Line, item.SQL))
		case Connect:
			lines = append(lines, fmt.Sprintf("%d connect %q", item.Line, item.Database))
		case Copy:
			rows, err := io.ReadAll(item.Rows)
			if err != nil {
				return lines, err
			}
			lines = append(lines, fmt.Sprintf("%d %s <%q>", item.Line, item.SQL, rows))
		}
	}
}

func TestReader(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		script string
		want   []string
	}{
		{"empty", "", nil},
		{"comments", "-- a; b\n/* ; /* ; */ ' */ ;; \n", nil},
		{"statements", "SELECT 1;\n\n-- two\nSELECT\n 2 ; SELECT 3;", []string{"1 SELECT 1", "4 SELECT\n 2", "5 SELECT 3"}},
		{"byte order mark", "\ufeffSELECT 1;", []string{"1 SELECT 1"}},
		{"carriage returns", "SELECT 1;\r\nCOPY t FROM stdin;\r\n1\r\n\\.\r\nSELECT 2;\r\n", []string{"1 SELECT 1", `2 COPY t FROM stdin <"1\r\n">`, "5 SELECT 2"}},
		{"strings", `SELECT 'a;''b', '\', "x;""y", E'\';\\', e'a''\';', U&'d\0061;', U&"q;";`, []string{`1 SELECT 'a;''b', '\', "x;""y", E'\';\\', e'a''\';', U&'d\0061;', U&"q;"`}},
		{"continued strings", "SELECT E'a' -- c\n  'b\\';' ; SELECT 'a' 'b\\';", []string{"1 SELECT E'a' -- c\n  'b\\';'", `2 SELECT 'a' 'b\'`}},
		{"dollars", "SELECT $$;$$, $a$;$b$;$$;$a$, $1, a$b$ ; SELECT x$a$;", []string{"1 SELECT $$;$$, $a$;$b$;$$;$a$, $1, a$b$", "1 SELECT x$a$"}},
		{"rule", "CREATE RULE r AS ON INSERT TO t DO ALSO (DELETE FROM a; DELETE FROM b);SELECT 1;", []string{"1 CREATE RULE r AS ON INSERT TO t DO ALSO (DELETE FROM a; DELETE FROM b)", "1 SELECT 1"}},
		{
			"atomic", "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT (CASE 1 WHEN 1 THEN 2 END);\nEND; SELECT 1;",
			[]string{"1 CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT (CASE 1 WHEN 1 THEN 2 END);\nEND", "2 SELECT 1"},
		},
		{"function begin", "CREATE FUNCTION begin() RETURNS int LANGUAGE sql AS 'SELECT 1'; COPY t FROM PROGRAM 'x'; END;", []string{"1 CREATE FUNCTION begin() RETURNS int LANGUAGE sql AS 'SELECT 1'", "1 COPY t FROM PROGRAM 'x'", "1 END"}},
		{"begin outside of functions", "BEGIN; CREATE TABLE begin (atomic int); END;", []string{"1 BEGIN", "1 CREATE TABLE begin (atomic int)", "1 END"}},
		{"comments within", "SELECT 1 /* ; */ + -- ;\n 2;", []string{"1 SELECT 1 /* ; */ + -- ;\n 2"}},
		{"operators", "SELECT 1 +/* ; */ 2 *-- ;\n 3;", []string{"1 SELECT 1 +/* ; */ 2 *-- ;\n 3"}},
		{"restrict", "\\restrict abcXYZ09\nSELECT 1;\n\\unrestrict abcXYZ09\n", []string{"2 SELECT 1"}},
		{"connect", "\\connect db\n\\c \"a \"\"b\"\n\\connect -reuse-previous=on \"dbname='a\\\\b=\\'c'\"\n", []string{`1 connect "db"`, `2 connect "a \"b"`, `3 connect "a\\b='c"`}},
		{
			"rows", "COPY t (a, \"FROM\") FROM stdin; -- rows\n\\.x\na\\.\n\\N\n\\.\nCOPY t FROM STDIN WITH (FORMAT csv);\n\\.\n",
			[]string{`1 COPY t (a, "FROM") FROM stdin <"\\.x\na\\.\n\\N\n">`, `6 COPY t FROM STDIN WITH (FORMAT csv) <"">`},
		},
		{"rows end with the file", "COPY t FROM stdin;\n1\n\\.", []string{`1 COPY t FROM stdin <"1\n">`}},
		{
			"a data file of tenantkeep", "-- tenantkeep: schema \"a\" of database \"b\", as of 2026\nSELECT 1;\n\n-- tenantkeep index 1\n-- {\"frame\":{}}\n" +
				"-- tenantkeep end of file: index at 0 length 1\n", []string{"2 SELECT 1"},
		},
		{"variables stay", "SELECT :'x;y', :name, a[1:2], b::text;", []string{"1 SELECT :'x;y', :name, a[1:2], b::text"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, source := range []io.Reader{strings.NewReader(test.script), iotest.OneByteReader(strings.NewReader(test.script)), iotest.DataErrReader(strings.NewReader(test.script))} {
				got, err := read(t, NewReader(source, ReaderOptions{}))
				if !errors.Is(err, io.EOF) {
					t.Errorf("error %v", err)
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

func TestReaderWithoutStandardStrings(t *testing.T) {
	t.Parallel()
	r := NewReader(strings.NewReader(`SELECT 'a\';'; SELECT 'a\'; SELECT 2;`), ReaderOptions{})
	r.StandardStrings(false)
	item, err := r.Next()
	if err != nil || item.SQL != `SELECT 'a\';'` {
		t.Fatalf("got %v, %v", item, err)
	}
	r.StandardStrings(true)
	if item, err := r.Next(); err != nil || item.SQL != `SELECT 'a\'` {
		t.Fatalf("got %v, %v", item, err)
	}
}

func TestReaderErrors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ script, want string }{
		{"SELECT 1;\nSELECT 2", "the script is cut: line 2: the statement that begins here is not ended by a semicolon"},
		{"SELECT\n 'a;\n", "the script is cut: line 2: the string that begins here has no end"},
		{"SELECT E'a\\';", "the script is cut: line 1: the string that begins here has no end"},
		{"SELECT $a$;$b$", "the script is cut: line 1: the string that begins here has no end"},
		{"SELECT $x$ $y$x$ $x$;", "the script is cut: line 1: the string that begins here has no end"},
		{"SELECT \"a;", "the script is cut: line 1: the quoted name that begins here has no end"},
		{"\n/* /* */", "the script is cut: line 2: the comment that begins here has no end"},
		{"COPY t FROM stdin;\n1\n2\n", `the script is cut: line 2: the rows that begin here have no line \. behind them`},
		{"COPY t FROM stdin;", `the script is cut: line 1: the rows that begin here have no line \. behind them`},
		{"CREATE FUNCTION f() BEGIN ATOMIC SELECT 1;", "the script is cut: line 1: the statement that begins here is not ended by a semicolon"},
		{"--\n-- PostgreSQL database dump\n--\nSELECT 1;\n", `the script is cut: line 5: its last line, "-- PostgreSQL database dump complete", is missing`},
		{"-- tenantkeep: schema \"a\" of database \"b\"\n", `the script is cut: line 2: its last line, "-- tenantkeep end of file:", is missing`},
		{"COPY t FROM stdin; SELECT 1;\n\\.\n", "line 1: the script has text behind COPY … FROM stdin, where its rows begin on the next line"},
		{"SELECT 1;\n\\! rm -rf /\n", `line 2: \! is a command for psql, not SQL, and is not run`},
		{"\\o |sh\n", `line 1: \o is a command for psql, not SQL, and is not run`},
		{"\\copy t from program 'x'\n", `line 1: \copy is a command for psql, not SQL, and is not run`},
		{"SELECT 1 \\g |sh\n", `line 1: \g is a command for psql, not SQL, and is not run`},
		{"SELECT 1\\; SELECT 2;\n", `line 1: \; is a command for psql, not SQL, and is not run`},
		{"\\restrict abc \\! rm\n", `line 1: \restrict is a command for psql, not SQL, and is not run`},
		{"\\connect db user host\n", `line 1: \connect is a command for psql, not SQL, and is not run`},
		{"\\connect \"host=evil dbname=x\"\n", `line 1: \connect is a command for psql, not SQL, and is not run`},
		{"\\c postgresql://evil/x\n", `line 1: \c is a command for psql, not SQL, and is not run`},
		{"SELECT 1;\n\\.\n", `line 2: \. ends rows, but there is no COPY … FROM stdin before it`},
		{"SELECT 1;\nSELECT '\x00';", "line 2: the script has a zero byte"},
	} {
		_, err := read(t, NewReader(strings.NewReader(test.script), ReaderOptions{}))
		if err == nil || err.Error() != test.want {
			t.Errorf("%q:\n got %v\nwant %s", test.script, err, test.want)
		}
	}
	_, err := read(t, NewReader(strings.NewReader("SELECT '"+strings.Repeat("x", 3<<20)+"';"), ReaderOptions{MaxStatement: 1 << 20}))
	var long *TooLongError
	if !errors.As(err, &long) {
		t.Errorf("giant statement: %v", err)
	}
	if _, err := read(t, NewReader(strings.NewReader("-- PostgreSQL database dump\n"), ReaderOptions{AllowCut: true})); !errors.Is(err, io.EOF) {
		t.Errorf("AllowCut: %v", err)
	}
}

// TestGiantRows reads rows that are larger than any buffer, of which none is
// kept.
func TestGiantRows(t *testing.T) {
	t.Parallel()
	line := strings.Repeat("x", 1<<20) + "\n"
	var parts []io.Reader
	parts = append(parts, strings.NewReader("COPY t FROM stdin;\n"))
	for range 64 {
		parts = append(parts, strings.NewReader(line))
	}
	parts = append(parts, strings.NewReader("\\.\nSELECT '"+line+"';SELECT 1;"))
	r := NewReader(io.MultiReader(parts...), ReaderOptions{MaxStatement: 4 << 20})
	item, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, item.Rows)
	if err != nil || n != int64(64*len(line)) {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if cap(r.buffer) > keptBuffer {
		t.Errorf("buffer of %d bytes for rows", cap(r.buffer))
	}
	for _, want := range []int{67, 68} {
		if item, err = r.Next(); err != nil || item.Line != want {
			t.Fatalf("got %v, want line %d", err, want)
		}
	}
	if item.SQL != "SELECT 1" {
		t.Errorf("got %q", item.SQL)
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	const text = "SELECT 1;\nSELECT 2;\n"
	var zipped, zstandard bytes.Buffer
	for part := range strings.Lines(text) { // members and frames
		gz := gzip.NewWriter(&zipped)
		_, _ = gz.Write([]byte(part))
		_ = gz.Close()
		zs, err := zstd.NewWriter(&zstandard)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = zs.Write([]byte(part))
		_ = zs.Close()
	}
	for _, data := range [][]byte{[]byte(text), zipped.Bytes(), zstandard.Bytes()} {
		script, err := Open(bytes.NewReader(data), ReaderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := read(t, script.Reader)
		if diff := cmp.Diff([]string{"1 SELECT 1", "2 SELECT 2"}, got); diff != "" || !errors.Is(err, io.EOF) {
			t.Errorf("%v %s", err, diff)
		}
		script.Close()
	}
	for _, data := range [][]byte{zipped.Bytes(), zstandard.Bytes()} {
		script, err := Open(bytes.NewReader(data[:len(data)-3]), ReaderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var cut *CutError
		if _, err := read(t, script.Reader); !errors.As(err, &cut) {
			t.Errorf("cut file: %v", err)
		}
		script.Close()
	}
	var inner bytes.Buffer
	gz := gzip.NewWriter(&inner)
	_, _ = gz.Write([]byte("PGDMP\x01\x0e"))
	_ = gz.Close()
	for _, data := range []string{"PGDMP\x01", "\xff\xfeS\x00", "BZh9", inner.String()} {
		var not *NotSQLError
		if _, err := Open(strings.NewReader(data), ReaderOptions{}); !errors.As(err, &not) || not.Hint() == "" {
			t.Errorf("%q: %v", data, err)
		}
	}
}

// FuzzReader cuts scripts into items and puts them together again.
func FuzzReader(f *testing.F) {
	for _, seed := range []string{
		"SELECT 1; SELECT 'a\\';''';", "COPY t FROM stdin;\n1\t2\n\\.\nSELECT 2;", "\\restrict a\n\\connect b\n/* /* */ */ -- x\n;",
		"CREATE FUNCTION f() BEGIN ATOMIC SELECT CASE WHEN 1 THEN 2 END; END;", "SELECT $a$;$a$, U&'', E'\\'' \n '\\'';", "\ufeffCREATE RULE r DO (a;b);",
		"COPY t(a) FROM stdin;\r\n\\.\r\n\\! x",
	} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	f.Fuzz(func(t *testing.T, script string, standard bool) {
		r := NewReader(iotest.HalfReader(strings.NewReader(script)), ReaderOptions{MaxStatement: 1 << 20})
		r.StandardStrings(standard)
		var gaps strings.Builder
		end := 0
		for {
			item, err := r.Next()
			if err != nil {
				if errors.Is(err, io.EOF) {
					gaps.WriteString(script[end:])
					checkGaps(t, gaps.String())
				}
				return
			}
			if item.Line != 1+strings.Count(script[:item.Start], "\n") {
				t.Fatalf("line %d of %q", item.Line, item.SQL)
			}
			gaps.WriteString(script[end:item.Start])
			end = int(item.End)
			if item.Kind != Connect && script[item.Start:item.End] != item.SQL {
				t.Fatalf("%q is not %q", item.SQL, script[item.Start:item.End])
			}
			if item.Kind != Copy {
				continue
			}
			rows, err := io.ReadAll(item.Rows)
			if err != nil {
				continue
			}
			i := strings.Index(script[end:], string(rows)+`\.`)
			if i < 0 || !strings.Contains(script[end:end+i], "\n") {
				t.Fatalf("rows %q are not behind %q", rows, item.SQL)
			}
			gaps.WriteString(script[end : end+i])
			end += i + len(rows) + 2
		}
	})
}

// checkGaps shows that what is between items is none.
func checkGaps(t *testing.T, gaps string) {
	t.Helper()
	if item, err := NewReader(strings.NewReader(gaps), ReaderOptions{}).Next(); err == nil {
		t.Fatalf("%q was passed over", item.SQL)
	}
}

func BenchmarkReader(b *testing.B) {
	for name, script := range map[string]string{
		"rows":    "COPY t FROM stdin;\n" + strings.Repeat("1\t\\N\ta line of an ordinary row\t2024-01-01 00:00:00+00\n\\N\n", 100_000) + "\\.\n",
		"inserts": strings.Repeat("INSERT INTO public.t VALUES (1, NULL, 'a line of an ordinary row', '2024-01-01 00:00:00+00');\n", 50_000),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(script)))
			b.ReportAllocs()
			for b.Loop() {
				r := NewReader(strings.NewReader(script), ReaderOptions{})
				for {
					if _, err := r.Next(); err != nil {
						break
					}
				}
			}
		})
	}
}
