package copytext_test

import (
	"testing"

	"github.com/tenantkeep/tenantkeep/internal/copytext"
)

func TestUnescape(t *testing.T) {
	t.Parallel()
	for field, want := range map[string]string{
		"":                          "",
		"as it is":                  "as it is",
		`\b\f\n\r\t\v\\`:            "\b\f\n\r\t\v\\",
		`\\N`:                       `\N`,
		`a\\\tb`:                    "a\\\tb",
		`C:\\new\\table\n` + "äöü€": "C:\\new\\table\n" + "äöü€",
	} {
		got, ok := copytext.Unescape([]byte("before "), []byte(field))
		if !ok || string(got) != "before "+want {
			t.Errorf("%q gives %q, %t, want %q", field, got, ok, want)
		}
	}
	for _, field := range []string{copytext.Null, `\`, `a\\\`, `\x41`, `\101`, `\.`} {
		if got, ok := copytext.Unescape(nil, []byte(field)); ok {
			t.Errorf("%q gives %q", field, got)
		}
	}
}
