package notify

import (
	"net/url"
	"strings"
)

// shortestPart is the fewest characters of a part of an address that may be a secret.
// Of a shorter one an ordinary word of a message might be masked.
const shortestPart = 8

// SecretsOfURL returns what of an address nobody else may see: the whole of it, and
// what a receiver repeats of it in an answer.
func SecretsOfURL(address string) []string {
	address = strings.TrimSpace(address)
	u, err := url.Parse(address)
	if err != nil || address == "" {
		return []string{address}
	}
	list := []string{address}
	add := func(parts ...string) {
		for _, p := range parts {
			if len(p) >= shortestPart {
				list = append(list, p)
			}
		}
	}
	add(u.RequestURI(), u.EscapedPath(), u.Path, u.RawQuery, u.Fragment)
	for _, path := range []string{u.EscapedPath(), u.Path} {
		add(strings.Split(path, "/")...)
	}
	for _, pair := range strings.FieldsFunc(u.RawQuery, func(r rune) bool { return r == '&' || r == ';' }) {
		_, value, _ := strings.Cut(pair, "=")
		add(value)
	}
	for _, values := range u.Query() {
		add(values...)
	}
	if u.User != nil {
		add(u.User.String(), u.User.Username())
		if password, ok := u.User.Password(); ok {
			list = append(list, password)
		}
	}
	return list
}
