package wildcard

import "testing"

func TestMatch(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		pattern string
		yes, no []string
	}{
		{"acme", []string{"acme"}, []string{"", "Acme", "acme2", "acm"}},
		{"*", []string{"", "a", "a b"}, nil},
		{"big_*", []string{"big_", "big_one"}, []string{"bigone", "a big_one"}},
		{"*_old", []string{"_old", "a_old", "a_old_old"}, []string{"a_older"}},
		{"a?c", []string{"abc", "a c", "aéc"}, []string{"ac", "abbc"}},
		{"a*b*c", []string{"abc", "a1b2c", "abbcc"}, []string{"acb", "ab"}},
		{"[a]", []string{"[a]"}, []string{"a"}},
		{"", []string{""}, []string{"a"}},
	} {
		for want, names := range map[bool][]string{true: tt.yes, false: tt.no} {
			for _, name := range names {
				if Match(tt.pattern, name) != want {
					t.Errorf("%q and %q: want %v", tt.pattern, name, want)
				}
			}
		}
	}
}
