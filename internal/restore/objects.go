package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// Kinds of objects that belong to the database and to no schema, as pg_dump
// names them, in the order in which they can be dropped: before the contents
// of public, and after.
var (
	firstToDrop = []string{kindEventTrigger, "PUBLICATION"}
	lastToDrop  = []string{"TRANSFORM", "CAST", "PROCEDURAL LANGUAGE", "ACCESS METHOD", "SERVER", "FOREIGN DATA WRAPPER", kindLargeObject}
)

const kindLargeObject = "LARGE OBJECT"

// databaseObject is an object that belongs to no schema.
type databaseObject struct {
	Kind string // as pg_dump names it
	Tag  string // as in pg_dump's table of contents: name, or what stands for it
}

// listedObject is one that there is.
type listedObject struct {
	databaseObject
	OID uint32
}

// key tells the object from others, also from one of the same name at another
// time.
func (o listedObject) key() string { return fmt.Sprintf("%s %d", o.Kind, o.OID) }

func (o databaseObject) description() string {
	switch o.Kind {
	case "CAST", "TRANSFORM":
		return strings.ToLower(o.Kind) + strings.TrimPrefix(o.Tag, o.Kind)
	}
	return fmt.Sprintf("%s %q", strings.ToLower(o.Kind), o.Tag)
}

// drop is the statement that drops the object.
func (o databaseObject) drop() string {
	switch o.Kind {
	case "CAST", "TRANSFORM": // the tag has all that the statement needs
		return "DROP " + o.Kind + " IF EXISTS" + strings.TrimPrefix(o.Tag, o.Kind) + " CASCADE"
	case kindLargeObject:
		return "SELECT pg_catalog.lo_unlink(" + o.Tag + ")"
	}
	return "DROP " + o.Kind + " IF EXISTS " + pg.Identifier(o.Tag) + " CASCADE"
}

// databaseObjects are those of a core file that exist in the target.
func (r *run) databaseObjects(ctx context.Context, core *unit) ([]databaseObject, error) {
	kinds := slices.Concat(firstToDrop, lastToDrop)
	wanted := map[databaseObject]bool{}
	for _, s := range core.file.Index.Statements {
		if slices.Contains(kinds, s.Kind) {
			wanted[databaseObject{s.Kind, s.Tag}] = true
		}
	}
	for _, oid := range r.blobs {
		wanted[databaseObject{kindLargeObject, oid}] = true
	}
	if len(wanted) == 0 {
		return nil, nil
	}
	list, err := listDatabaseObjects(ctx, r.main, texts(r.blobs))
	if err != nil {
		return nil, err
	}
	var found []databaseObject
	for _, o := range list {
		if wanted[o.databaseObject] {
			found = append(found, o.databaseObject)
		}
	}
	return found, nil
}

// listDatabaseObjects lists the objects that belong to no schema, those of the
// system and of extensions too. Of large objects only those with these OIDs are
// listed; all, where blobs is nil.
func listDatabaseObjects(ctx context.Context, q pg.Querier, blobs []string) ([]listedObject, error) {
	rows, err := q.Query(ctx, `
		SELECT 'PUBLICATION', pubname::text, oid FROM pg_catalog.pg_publication
		UNION ALL SELECT 'EVENT TRIGGER', evtname, oid FROM pg_catalog.pg_event_trigger
		UNION ALL SELECT 'SERVER', srvname, oid FROM pg_catalog.pg_foreign_server
		UNION ALL SELECT 'FOREIGN DATA WRAPPER', fdwname, oid FROM pg_catalog.pg_foreign_data_wrapper
		UNION ALL SELECT 'PROCEDURAL LANGUAGE', lanname, oid FROM pg_catalog.pg_language WHERE lanispl
		UNION ALL SELECT 'ACCESS METHOD', amname, oid FROM pg_catalog.pg_am
		UNION ALL SELECT 'CAST', 'CAST (' || pg_catalog.format_type(castsource, NULL) || ' AS ' || pg_catalog.format_type(casttarget, NULL) || ')', oid FROM pg_catalog.pg_cast
		UNION ALL SELECT 'TRANSFORM', 'TRANSFORM FOR ' || pg_catalog.format_type(trftype, NULL) || ' LANGUAGE ' || quote_ident(lanname), t.oid
			FROM pg_catalog.pg_transform t JOIN pg_catalog.pg_language l ON l.oid = t.trflang
		UNION ALL SELECT 'LARGE OBJECT', oid::text, oid FROM pg_catalog.pg_largeobject_metadata WHERE $1::text[] IS NULL OR oid::text = ANY($1)
		ORDER BY 1, 2`, blobs)
	if err != nil {
		return nil, fmt.Errorf("look for objects of the database: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[listedObject])
	if err != nil {
		return nil, fmt.Errorf("look for objects of the database: %w", err)
	}
	return list, nil
}

// dropDatabaseObjects drops those of the core's file.
func (s *session) dropDatabaseObjects(ctx context.Context, kinds []string) error {
	u := s.run.core
	if u == nil || u.file == nil {
		return nil
	}
	list, err := s.run.databaseObjects(ctx, u)
	if err != nil {
		return err
	}
	for _, kind := range kinds {
		for _, o := range list {
			if o.Kind != kind {
				continue
			}
			if err := s.exec(ctx, o.drop()); err != nil && !pg.Missing(err) {
				return fmt.Errorf("drop %s: %w", o.description(), err)
			}
		}
	}
	return nil
}
