package plainsql

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const head = "--\n-- PostgreSQL database dump\n--\n\n-- Dumped from database version 15.18\n-- Dumped by pg_dump version 17.2\n\nSET standard_conforming_strings = %s;\n"

func TestScan(t *testing.T) {
	t.Parallel()
	// The backslash is a plain character, or else escapes the quote.
	on := strings.Replace(head, "%s", "on", 1) + "CREATE SCHEMA a;\nCREATE TABLE a.t (x text DEFAULT '\\');\nCOPY a.t (x) FROM stdin;\n1\n2\n\\.\n"
	off := strings.Replace(head, "%s", "off", 1) + "CREATE SCHEMA a;\nCREATE TABLE a.t (x text DEFAULT '\\'');\nCOPY a.t (x) FROM stdin;\n1\n2\n\\.\n"
	const end = "--\n-- PostgreSQL database dump complete\n--\n"
	for name, script := range map[string]string{"on": on + end, "off": off + end} {
		var bytes, rows int64
		s, err := Scan(t.Context(), NewReader(strings.NewReader(script), ReaderOptions{}), func(b, r int64) { bytes, rows = bytes+b, rows+r })
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if bytes != int64(len(script)) || s.Rows != 2 || s.Count("CREATE TABLE") != 1 || s.Origin.Program != "pg_dump" || s.RefusedCount != 0 {
			t.Errorf("%s: %d bytes, %+v", name, bytes, s)
		}
		if diff := cmp.Diff([]TableRows{{"a", "t", 2}}, s.Tables); diff != "" {
			t.Error(diff)
		}
	}
	// It judges nothing, but what cannot be read is an error.
	if _, err := Scan(t.Context(), NewReader(strings.NewReader("DROP DATABASE x;\n\\connect x\n"), ReaderOptions{}), nil); err != nil {
		t.Error(err)
	}
	for name, script := range map[string]string{
		"no end": on, "in the middle of rows": on[:len(on)-4], "in the middle of a string": on[:strings.Index(on, `\`)],
	} {
		_, err := Scan(t.Context(), NewReader(strings.NewReader(script), ReaderOptions{}), nil)
		if _, ok := errors.AsType[*CutError](err); !ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBegin(t *testing.T) {
	t.Parallel()
	start := strings.Replace(head, "%s", "on", 1)
	for _, c := range []struct{ script, program, schema string }{
		{start + "CREATE SCHEMA \"Odd;Name\";\n", "pg_dump", "Odd;Name"},
		{start + "CREATE SCHEMA public;\nCREATE TABLE public.t ();\n", "pg_dump", "public"},
		{start + "CREATE FUNCTION public.f() RETURNS int AS $$ CREATE SCHEMA no; $$;\nCREATE VIEW public.v AS SELECT 1;\n", "pg_dump", "public"},
		{start + "COPY a.t (x) FROM stdin;\n1\n\\.\n", "pg_dump", "a"},
		{start, "pg_dump", ""},
		{start + strings.Repeat("SELECT 1;\n", 1000) + "CREATE SCHEMA late;\n", "pg_dump", ""},
		{start + "CREATE TABLE a.t (x text DEFAULT 'cut", "pg_dump", ""},
		{"CREATE SCHEMA a;\n", "", "a"},
		{"<html>", "", ""},
		{"", "", ""},
	} {
		origin, schema := Begin(NewReader(strings.NewReader(c.script), ReaderOptions{AllowCut: true}))
		if origin.Program != c.program || schema != c.schema {
			t.Errorf("%.300q: %q of %q", c.script, schema, origin.Program)
		}
	}
}

func TestEnds(t *testing.T) {
	t.Parallel()
	const end = "--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict abc\n\n"
	for script, want := range map[string]bool{
		end:                                      true,
		strings.Repeat("1\n", 100_000) + end:     true,
		end + "GRANT USAGE ON SCHEMA a TO b;\n":  true,
		"":                                       false,
		"1\n2":                                   false,
		end + strings.Repeat("SELECT 1;\n", 1e4): false,
	} {
		if got, err := Ends(strings.NewReader(script), int64(len(script))); got != want || err != nil {
			t.Errorf("%d bytes: %v, %v", len(script), got, err)
		}
	}
}
