package registry_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/registry"
)

func TestParse(t *testing.T) {
	t.Parallel()
	reference := func(names ...string) *manifest.RegistryReference {
		return &manifest.RegistryReference{Schema: names[0], Name: names[1], Column: names[2]}
	}
	for text, want := range map[string]registry.Table{
		"customers_client.schema_name": {Schema: "public", Name: "customers_client", Column: "schema_name"},
		" shared.Client . schema ":     {Schema: "shared", Name: "Client", Column: "schema"},
		`"a.b"."c""d"`:                 {Schema: "public", Name: "a.b", Column: `c"d`},
		"domain.tenant_id=client.id":   {Schema: "public", Name: "domain", Column: "tenant_id", Refers: reference("public", "client", "id")},
		`x."of = tenant" = y.z."id"`:   {Schema: "public", Name: "x", Column: "of = tenant", Refers: reference("y", "z", "id")},
	} {
		got, err := registry.Parse(text)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", text, err, diff)
			continue
		}
		if again, err := registry.Parse(got.String()); err != nil || !cmp.Equal(again, got) {
			t.Errorf("%s is %+v when it is read again: %v", got, again, err)
		}
	}
	for text, want := range map[string]string{
		"":                  "empty",
		"client":            "TABLE.COLUMN",
		"a.b.c.d":           "TABLE.COLUMN",
		"a..b":              "empty",
		`"a.b`:              "no end",
		`"a"b.c`:            "behind its quote",
		"a.b=c.d=e.f":       "more than one =",
		"domain.tenant_id=": "empty",
	} {
		if _, err := registry.Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestParseChoice(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		texts []string
		want  int // tables
		auto  bool
	}{
		{nil, 0, false},
		{[]string{"auto"}, 0, true},
		{[]string{" None "}, 0, false},
		{[]string{"client.schema_name", "domain.tenant_id=client.id", "alias.domain_id=domain.id"}, 3, false},
	} {
		got, err := registry.ParseChoice(c.texts)
		if err != nil || len(got.Tables) != c.want || got.Auto != c.auto {
			t.Errorf("%q: %+v, %v", c.texts, got, err)
		}
	}
	for _, c := range []struct {
		texts []string
		want  string
	}{
		{[]string{"domain.tenant_id=client.id", "client.schema_name"}, "not named before"},
		{[]string{"client.schema_name", "client.other"}, "twice"},
		{[]string{"auto", "client.schema_name"}, "TABLE.COLUMN"},
	} {
		if _, err := registry.ParseChoice(c.texts); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.texts, err, c.want)
		}
	}
}
