package plainsql

import (
	"bytes"
	"regexp"
)

// Origin is what the comments of a script say of where it comes from. Anybody
// can write such comments.
type Origin struct {
	Program string // "pg_dump" or "tenantkeep"; empty: it does not say
	Version string // of pg_dump
	Server  string // the version of the server that was dumped
}

var (
	dumpedBy   = regexp.MustCompile(`^-- Dumped by pg_dump(?:all)? version ([^ \r\n]+)`)
	dumpedFrom = regexp.MustCompile(`^-- Dumped from database version ([^ \r\n]+)`)
	tenantkeep = []byte("-- tenantkeep: schema ")
)

// see looks at a comment. The first that says something counts.
func (o *Origin) see(comment []byte) {
	const longest = 200
	comment = comment[:min(len(comment), longest)]
	if m := dumpedFrom.FindSubmatch(comment); m != nil && o.Server == "" {
		o.Server = string(m[1])
	}
	if o.Program != "" {
		return
	}
	if m := dumpedBy.FindSubmatch(comment); m != nil {
		o.Program, o.Version = "pg_dump", string(m[1])
	} else if bytes.HasPrefix(comment, tenantkeep) {
		o.Program = "tenantkeep"
	}
}
