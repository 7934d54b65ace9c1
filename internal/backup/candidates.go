package backup

import (
	"context"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// candidates are core and all tenants among the schemas of a database, core first.
func candidates(schemas []pg.Schema) []*tenant {
	core := &tenant{Schema: pg.Schema{Name: manifest.CoreSchema, Usable: true}, core: true}
	tenants := []*tenant{core}
	for _, s := range schemas {
		switch {
		case s.Name == manifest.CoreSchema:
			oids := append(core.oids, s.OID)
			core.Schema, core.oids = s, oids
		case s.OnlyExtensions:
			core.oids = append(core.oids, s.OID)
		case s.Own:
		default:
			tenants = append(tenants, &tenant{Schema: s, oids: []uint32{s.OID}})
		}
	}
	return tenants
}

// ListSchemas returns the names of the schemas that a backup of everything holds at
// this moment: core's first, then those of the tenants in the order of their names.
func ListSchemas(ctx context.Context, q pg.Querier) ([]string, error) {
	// Sizes are asked for of core alone: those of all take most of the time.
	schemas, err := pg.ListSchemas(ctx, q, manifest.CoreSchema)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, t := range candidates(schemas) {
		names = append(names, t.Name)
	}
	return names, nil
}
