package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/media"
	"github.com/tenantkeep/tenantkeep/internal/repo"
)

// mediaPast is what earlier backups have of the files of a schema.
type mediaPast struct {
	archive *parent // the newest that there is; nil: none, or the files are known to be gone since
	failed  string  // a newer backup, which could save none of them; empty: there is none
}

// had reports whether there were files, as far as anybody knows.
func (p mediaPast) had() bool {
	return p.archive != nil && p.archive.entry.Media.Files > 0 || p.archive == nil && p.failed != ""
}

// String says who saved how many files, or could not.
func (p mediaPast) String() string {
	if p.archive == nil {
		return fmt.Sprintf("which backup %s could not save", p.failed)
	}
	return fmt.Sprintf("of which backup %s has %d files", p.archive.backup.ID, p.archive.entry.Media.Files)
}

// findMedia finds out what earlier backups have of the files of the tenants, and
// on which archives this one builds. A backup that could not save the files of a
// tenant is no answer: what is missing stays missing until somebody says that it
// is gone.
func (r *run) findMedia(ctx context.Context, tenants []*tenant) error {
	r.mediaPast, r.mediaParents = map[string]mediaPast{}, map[string]*parent{}
	if r.RollbackPoint { // what is lost may be why there is a restore
		return nil
	}
	missing := map[string]string{} // tenant by schema
	for _, t := range tenants {
		missing[t.Name] = t.tenant
	}
	entries := 0
	err := r.Repo.Newest(ctx, func(b repo.Backup) bool {
		r.visitMedia(b, missing)
		if b.Err == nil {
			entries += len(b.Manifest.Schemas)
		}
		return len(missing) > 0 && entries < parentEntries
	})
	if err != nil {
		return err
	}
	for schema, p := range r.mediaPast {
		r.mediaParents[schema] = p.archive
	}
	if r.Parent == "" {
		return nil
	}
	b, err := r.Repo.Load(ctx, r.Parent)
	if err != nil {
		return err
	}
	clear(r.mediaParents)
	if !r.comparable(b.Manifest) {
		return nil // which ends the run, with its reason
	}
	for _, t := range tenants {
		for i := range b.Manifest.Schemas {
			e := &b.Manifest.Schemas[i]
			if e.Schema == t.Name && e.Tenant == t.tenant && e.Media != nil && e.MediaBackup != "" {
				r.mediaParents[e.Schema] = &parent{&b, e}
			}
		}
	}
	return nil
}

// visitMedia takes from a backup what it tells of the schemas of which nothing is
// known yet.
func (r *run) visitMedia(b repo.Backup, missing map[string]string) {
	if b.Err != nil || !r.comparable(b.Manifest) || !b.Manifest.IncludeMedia {
		return
	}
	for i := range b.Manifest.Schemas {
		e := &b.Manifest.Schemas[i]
		if tenant, ok := missing[e.Schema]; !ok || tenant != e.Tenant {
			continue
		}
		p := r.mediaPast[e.Schema]
		switch {
		case e.Media == nil && !b.Manifest.Rebuilt.IsZero(): // nobody knows
		case e.Media == nil: // there were none
			delete(missing, e.Schema)
		case e.MediaBackup == "" || e.Media.Files == 0 && e.Media.Failed > 0:
			if p.failed == "" {
				p.failed = b.ID
			}
		default:
			p.archive = &parent{&b, e}
			delete(missing, e.Schema)
		}
		if p != (mediaPast{}) {
			r.mediaPast[e.Schema] = p
		}
	}
}

// mediaGone says that files are not there which were there before; nil: there were
// none, or somebody said that they are gone. place is where they were.
func (r *run) mediaGone(schema, place string) error {
	past := r.mediaPast[schema]
	if !past.had() || slices.Contains(r.MediaGone, schema) {
		return nil
	}
	return fmt.Errorf("%s, %s: bring them back, or say that they are gone for good with --media-gone %s", place, past, schema)
}

// MediaGoneError is a run that found none of the folders that tenants had.
type MediaGoneError struct {
	Location string   // of one of them
	Schemas  []string // at least two
}

func (e *MediaGoneError) Error() string {
	return fmt.Sprintf("the media folders of all %d tenants that had files are gone, %s among them", len(e.Schemas), e.Location)
}

// Hint says what to do.
func (e *MediaGoneError) Hint() string {
	return fmt.Sprintf("is the disk mounted? --include-media=false backs up the rows alone; of files that are gone for good say it once, --media-gone %s", e.Schemas[0])
}

// MediaThereError is a schema of which somebody said that its files are gone, and
// they are not.
type MediaThereError struct{ Schema, Location string }

func (e *MediaThereError) Error() string {
	return fmt.Sprintf("schema %q has files in %s: they are not gone", e.Schema, e.Location)
}

// Hint says what to do.
func (e *MediaThereError) Hint() string {
	return "leave out --media-gone " + e.Schema + "; if it stood in a schedule, it would hide the day on which they are lost"
}

// checkGone refuses a run where all folders of tenants that had files are gone, as
// they are when a disk is not mounted, and one that is to take files for gone that
// are there.
func (r *run) checkGone(ctx context.Context, all []media.Tenant) error {
	for _, schema := range r.MediaGone {
		if !r.chosen[schema] {
			return &NoSchemaError{Database: r.info.Name, Names: []string{schema}, Known: r.chosenNames()}
		}
		if err := r.checkNoFiles(ctx, schema, all); err != nil {
			return err
		}
	}
	gone := &MediaGoneError{}
	for _, t := range all {
		if !r.chosen[t.Schema] || !r.mediaPast[t.Schema].had() || slices.Contains(r.MediaGone, t.Schema) {
			continue
		}
		tree, err := r.Media.Open(ctx, t)
		switch {
		case err == nil:
			return tree.Close()
		case !errors.Is(err, fs.ErrNotExist):
			return nil // it is there, and the run has to report it
		}
		gone.Schemas = append(gone.Schemas, t.Schema)
		if gone.Location == "" {
			gone.Location, _ = r.Media.Location(t) // it was looked for there
		}
	}
	if len(gone.Schemas) < 2 {
		return nil
	}
	return gone
}

func (r *run) chosenNames() []string {
	names := make([]string, 0, len(r.chosen))
	for name := range r.chosen {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// errFile ends a walk at the first file.
var errFile = errors.New("a file")

// checkNoFiles refuses a schema that has files.
func (r *run) checkNoFiles(ctx context.Context, schema string, all []media.Tenant) (err error) {
	t := media.Tenant{Schema: schema, Name: schema}
	if i := slices.IndexFunc(all, func(t media.Tenant) bool { return t.Schema == schema }); i >= 0 {
		t = all[i]
	}
	tree, err := r.openMedia(ctx, t)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	err = tree.List(ctx, func(e media.Entry, err error) error {
		if err != nil || e.Kind == media.KindFile { // who cannot look cannot say that there is none
			return errors.Join(errFile, err)
		}
		return nil
	})
	if !errors.Is(err, errFile) {
		return err
	}
	location := "the media root, beside the tenants' folders"
	if schema != manifest.CoreSchema {
		if location, err = r.Media.Location(t); err != nil {
			return err
		}
	}
	return &MediaThereError{Schema: schema, Location: location}
}

// openMedia opens the folder of a tenant, or what belongs to core.
func (r *run) openMedia(ctx context.Context, t media.Tenant) (media.OpenTree, error) {
	if t.Schema == manifest.CoreSchema {
		return r.Media.OpenShared(ctx, r.tenants)
	}
	return r.Media.Open(ctx, t)
}
