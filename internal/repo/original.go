package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/plainsql"
	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// The original system, whose repositories are read too, wrote scripts of pg_dump
// under names that tell tenant, schema, type and time, or only schema and time.
// Of those that no manifest names, the ones of one second and type are a bare
// backup: for listing, restoring and retention it is a backup like others, and
// nothing is written for it.

var (
	dumpName  = regexp.MustCompile(`^data/([^/]+?)(?:_(full|incremental|baseline))?_([0-9]{8}_[0-9]{6})\.sql(?:\.gz)?$`)
	mediaName = regexp.MustCompile(`^media/([^/]+)_media_([0-9]{8}_[0-9]{6})\.tar\.gz$`)
)

// bareSuffix ends the id of a bare backup where a manifest has the plain one.
const bareSuffix = "-files"

// dump is a script of pg_dump that no manifest names.
type dump struct {
	storage.Info
	stem, stamp string
	typ         manifest.Type
	schema      string // that it is of, as far as its beginning tells
	cut         bool   // it is known not to be whole
}

// bare puts the dumps that none of the backups names together to backups. The
// backups must be all that have manifests.
func (r *Repo) bare(ctx context.Context, backups []Backup) ([]Backup, error) {
	candidates := map[string]dump{}
	err := r.storage.List(ctx, dataPrefix, func(i storage.Info) error {
		if m := dumpName.FindStringSubmatch(i.Key); m != nil {
			typ := manifest.Type(m[2])
			if typ == "" {
				typ = manifest.Full
			}
			candidates[i.Key] = dump{Info: i, stem: m[1], typ: typ, stamp: m[3]}
		}
		return nil
	})
	if err != nil || len(candidates) == 0 {
		return nil, err
	}
	// What a cleanup was removing when it was interrupted is no backup any more.
	removals, err := r.removals(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range removals {
		for _, key := range n.Files {
			delete(candidates, key)
		}
	}
	ids := map[string]bool{}
	for _, b := range backups {
		ids[b.ID] = true
		if b.Manifest == nil {
			continue
		}
		for _, key := range b.files() {
			delete(candidates, key)
		}
	}
	dumps, err := r.dumps(ctx, candidates)
	if err != nil || len(dumps) == 0 {
		return nil, err
	}
	archives, err := r.looseArchives(ctx, backups)
	if err != nil {
		return nil, err
	}
	return r.group(dumps, archives, ids), nil
}

// dumps are those of the candidates that pg_dump wrote, by their keys.
func (r *Repo) dumps(ctx context.Context, candidates map[string]dump) ([]dump, error) {
	list := make([]dump, 0, len(candidates))
	for _, d := range candidates {
		list = append(list, d)
	}
	slices.SortFunc(list, func(a, b dump) int { return strings.Compare(a.Key, b.Key) })
	is := make([]bool, len(list))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2 * runtime.GOMAXPROCS(0))
	for i := range list {
		group.Go(func() error {
			d := &list[i]
			var err error
			is[i], err = r.lookInto(ctx, d)
			if err != nil && ctx.Err() == nil {
				is[i] = false // it can be read by nobody, and so be no backup
				err = nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var dumps []dump
	for i, d := range list {
		if is[i] {
			dumps = append(dumps, d)
		}
	}
	return dumps, nil
}

// lookInto reports whether a file is a script of pg_dump, and finds out what its
// beginning and, where that costs nothing, its end tell.
func (r *Repo) lookInto(ctx context.Context, d *dump) (bool, error) {
	o, err := r.storage.Open(ctx, d.Key)
	if err != nil {
		return false, err
	}
	defer o.Close()
	script, err := plainsql.Open(io.NewSectionReader(o, 0, o.Size()), plainsql.ReaderOptions{AllowCut: true})
	if err != nil {
		_, other := errors.AsType[*plainsql.NotSQLError](err)
		if other {
			err = nil
		}
		return false, err
	}
	defer script.Close()
	origin, schema := plainsql.Begin(script.Reader)
	d.schema = schema
	if origin.Program != "pg_dump" {
		return false, nil
	}
	if !strings.HasSuffix(d.Key, ".gz") {
		whole, err := plainsql.Ends(o, o.Size())
		d.cut = !whole
		return err == nil, err
	}
	return true, nil
}

// looseArchives are the media archives of the original system's kind that no
// backup names.
func (r *Repo) looseArchives(ctx context.Context, backups []Backup) (map[string]bool, error) {
	archives := map[string]bool{}
	err := r.storage.List(ctx, mediaPrefix, func(i storage.Info) error {
		if mediaName.MatchString(i.Key) {
			archives[i.Key] = true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, b := range backups {
		if b.Manifest == nil {
			continue
		}
		for _, s := range b.Manifest.Schemas {
			if key, err := s.MediaKey(b.Manifest.Format); s.MediaBackup != "" && err == nil {
				delete(archives, key)
			}
		}
	}
	return archives, nil
}

// group makes backups of dumps. Of two of one schema, such as a script and its
// compressed copy, the second is one of another backup.
func (r *Repo) group(dumps []dump, archives, ids map[string]bool) []Backup {
	type kind struct {
		stamp string
		typ   manifest.Type
	}
	groups := map[kind][]*Backup{}
	var list []*Backup
	for _, d := range dumps {
		t, ok := IDTime(d.stamp)
		if !ok {
			continue // no such day or time
		}
		e := d.entry(archives)
		k := kind{d.stamp, d.typ}
		var b *Backup
		for _, other := range groups[k] {
			if !other.saves(e.Schema) {
				b = other
				break
			}
		}
		if b == nil {
			b = &Backup{
				ID: freeID(d.stamp, ids), Key: d.Key, Bare: true,
				Manifest: &manifest.Manifest{Timestamp: manifest.NewTime(r.local(t)), BackupType: d.typ, Schemas: []manifest.Schema{}},
			}
			groups[k] = append(groups[k], b)
			list = append(list, b)
		}
		b.add(d, e)
	}
	backups := make([]Backup, len(list))
	for i, b := range list {
		slices.SortStableFunc(b.Manifest.Schemas, func(x, y manifest.Schema) int {
			switch {
			case x.IsCore() == y.IsCore():
				return strings.Compare(x.Schema, y.Schema)
			case x.IsCore():
				return -1
			}
			return 1
		})
		backups[i] = *b
	}
	return backups
}

// freeID returns an id that no backup has, and takes it.
func freeID(stamp string, ids map[string]bool) string {
	id := stamp
	for n := 1; ids[id]; n++ {
		id = stamp + bareSuffix
		if n > 1 {
			id += fmt.Sprint(n)
		}
	}
	ids[id] = true
	return id
}

// saves reports whether a bare backup has a dump of a schema already.
func (b *Backup) saves(schema string) bool {
	return slices.ContainsFunc(b.Manifest.Schemas, func(s manifest.Schema) bool { return s.Schema == schema }) ||
		slices.ContainsFunc(b.Manifest.Failures, func(f manifest.Failure) bool { return f.Schema == schema })
}

// add adds a dump to a bare backup.
func (b *Backup) add(d dump, e manifest.Schema) {
	b.size += d.Size
	if d.Modified.After(b.modified) {
		b.modified = d.Modified
	}
	m := b.Manifest
	if d.cut {
		m.Failures = append(m.Failures, manifest.Failure{
			Schema: e.Schema, Tenant: e.Tenant, File: d.Key, Error: "the dump is cut: it does not end as pg_dump ends a script",
		})
		return
	}
	m.Compressed = m.Compressed || strings.HasSuffix(d.Key, ".gz")
	m.IncludeMedia = m.IncludeMedia || e.MediaBackup != ""
	m.Schemas = append(m.Schemas, e)
}

// entry describes a dump as the manifest would that is missing.
func (d dump) entry(archives map[string]bool) manifest.Schema {
	schema, tenant := d.names()
	e := manifest.Schema{
		Schema: schema, Tenant: tenant, Filename: path.Base(d.Key), Filepath: d.Key, Size: d.Size, Timestamp: d.stamp, Type: d.typ,
	}
	for _, name := range []string{tenant, schema} {
		if key := mediaPrefix + name + "_media_" + d.stamp + ".tar.gz"; archives[key] {
			e.MediaBackup = key
			break
		}
	}
	return e
}

// names tells the schema and the tenant of a dump. What is in it counts more than
// what it is called.
func (d dump) names() (schema, tenant string) {
	schema, tenant = d.schema, ""
	if half := len(d.stem) / 2; schema == "" {
		switch {
		case d.stem == manifest.CoreTenant || d.stem == manifest.CoreTenant+"_"+manifest.CoreSchema:
			schema = manifest.CoreSchema
		case len(d.stem)%2 == 1 && d.stem[half] == '_' && d.stem[:half] == d.stem[half+1:]:
			schema = d.stem[:half]
		default:
			schema = d.stem
		}
	}
	if prefix, ok := strings.CutSuffix(d.stem, "_"+schema); ok && prefix != "" {
		tenant = prefix
	}
	switch {
	case schema == manifest.CoreSchema:
		tenant = manifest.CoreTenant
	case tenant == "":
		tenant = schema
	}
	return schema, tenant
}

// local is the moment at which the clocks of the original system showed a time
// that is given as if it were UTC.
func (r *Repo) local(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), r.zone)
}

// localize reads times without a zone as those of the zone of the original
// system.
func (r *Repo) localize(backups []Backup) {
	for _, b := range backups {
		if m := b.Manifest; m != nil && m.Format == 0 && !b.Bare {
			m.Timestamp = m.Timestamp.InZone(r.zone)
		}
	}
}

// loadBare finds a bare backup by its id or by the key of its first file.
func (r *Repo) loadBare(ctx context.Context, name string) (Backup, error) {
	backups, err := r.List(ctx)
	if err != nil {
		return Backup{}, err
	}
	i := slices.IndexFunc(backups, func(b Backup) bool { return b.Bare && (b.ID == name || b.Key == name) })
	if i < 0 {
		return Backup{}, fmt.Errorf("backup %s in %s: %w", name, r.Location(), ErrNoBackup)
	}
	return backups[i], nil
}

// isForeign reports whether a file that no backup names is none of ours to call
// an orphan: a script of pg_dump, whatever it is called, what cannot be read to
// find that out, and a media archive of the original system's kind.
func (r *Repo) isForeign(ctx context.Context, i storage.Info) bool {
	switch {
	case strings.HasPrefix(i.Key, mediaPrefix):
		return mediaName.MatchString(i.Key) && !r.isArchive(ctx, i)
	case !strings.HasSuffix(i.Key, ".sql") && !strings.HasSuffix(i.Key, ".sql.gz"):
		return false
	}
	d := dump{Info: i}
	is, err := r.lookInto(ctx, &d)
	return is || err != nil && !errors.Is(err, fs.ErrNotExist)
}

// isArchive reports whether a media archive is one of ours, which has an index. One
// that cannot be read is not known to be.
func (r *Repo) isArchive(ctx context.Context, i storage.Info) bool {
	o, err := r.storage.Open(ctx, i.Key)
	if err != nil {
		return false
	}
	defer o.Close() //nolint:errcheck // it was only read
	_, _, _, err = datafile.ReadTrailer(o, o.Size())
	return err == nil
}

// CheckMedia looks for the media archive of an entry of a manifest, or the folder
// that the original system may have saved. What is wrong with it is a *DataError.
// It does not read it.
func (r *Repo) CheckMedia(ctx context.Context, m *manifest.Manifest, s manifest.Schema) error {
	key, err := s.MediaKey(m.Format)
	if err != nil {
		return fmt.Errorf("schema %q: %w", s.Schema, err)
	}
	wrong := &DataError{Schema: s.Schema, Tenant: s.Tenant, Key: key}
	o, err := r.storage.Open(ctx, key)
	if err == nil && o.Size() == 0 {
		wrong.Err = errors.Join(errors.New("the file is empty"), o.Close())
		return wrong
	}
	if err == nil {
		return o.Close()
	}
	if wrong.Err = err; errors.Is(err, fs.ErrNotExist) {
		wrong.Err = ErrMissing
	}
	found := errors.New("there is something")
	if err := r.storage.List(ctx, key+"/", func(storage.Info) error { return found }); errors.Is(err, found) {
		return nil
	}
	return wrong
}

// Lacking tells by id what is wrong with files that manifests of the original
// system name, as far as their names and sizes tell: missing, or of another size.
// Its files may have been moved or removed by others, of which it knew nothing.
func (r *Repo) Lacking(ctx context.Context, backups []Backup) (map[string]string, error) {
	old := slices.DeleteFunc(slices.Clone(backups), func(b Backup) bool { return b.Manifest == nil || b.Manifest.Format > 0 || b.Bare })
	if len(old) == 0 {
		return nil, nil
	}
	sizes := map[string]int64{}
	if err := r.listFiles(ctx, func(i storage.Info) { sizes[i.Key] = i.Size }); err != nil {
		return nil, fmt.Errorf("look for files of backups: %w", err)
	}
	lacking := map[string]string{}
	for _, b := range old {
		for _, s := range b.Manifest.Schemas {
			key, err := s.Key(b.Manifest.Format)
			if err != nil {
				continue // it would not have been read
			}
			if size, found := sizes[key]; !found {
				lacking[b.ID] = "lacks " + key
			} else if size != s.Size {
				lacking[b.ID] = "has " + key + " in another size than its manifest says"
			}
		}
	}
	return lacking, nil
}
