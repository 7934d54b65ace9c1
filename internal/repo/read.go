package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// Backup is one backup as the repository shows it. Where the manifest cannot
// be read, Manifest is nil and Err says why.
type Backup struct {
	ID       string // from the name of the manifest
	Key      string // of the manifest
	Manifest *manifest.Manifest
	Err      error
	// Bare says that there is no manifest, only dumps of the original system: the
	// Manifest is made up of what they tell, without hashes, ID is the time in their
	// names, and Key that of the first.
	Bare bool

	modified time.Time
	size     int64 // of the manifest
}

// Time is the moment of the backup, as well as it is known.
func (b Backup) Time() time.Time {
	if b.Manifest != nil {
		return b.Manifest.Timestamp.Time
	}
	if t, ok := IDTime(b.ID); ok {
		return t
	}
	return b.modified
}

// ErrNoBackup says that a backup is not there.
var ErrNoBackup = errors.New("no such backup")

// List returns all backups, newest first. One whose manifest is broken does
// not hide the others: it is in the list with its error.
func (r *Repo) List(ctx context.Context) ([]Backup, error) {
	backups, _, err := r.read(ctx)
	return backups, err
}

// Strays returns the manifests that are no backups where they lie: in a folder of
// their own, or under another name than their own. The files that they name are
// kept all the same.
func (r *Repo) Strays(ctx context.Context) ([]Backup, error) {
	backups, strays, err := r.names(ctx)
	if err != nil {
		return nil, err
	}
	others, err := r.readNames(ctx, slices.DeleteFunc(backups, func(b Backup) bool { return b.Key == manifestKey(b.ID) }))
	if err != nil {
		return nil, err
	}
	if strays, err = r.readNames(ctx, strays); err != nil {
		return nil, err
	}
	_, others = apart(others)
	return append(strays, others...), nil
}

// read returns all backups, newest first, and the strays.
func (r *Repo) read(ctx context.Context) (backups, strays []Backup, err error) {
	if backups, strays, err = r.names(ctx); err != nil {
		return nil, nil, err
	}
	if backups, err = r.readNames(ctx, backups); err != nil {
		return nil, nil, err
	}
	if strays, err = r.readNames(ctx, strays); err != nil {
		return nil, nil, err
	}
	backups, more := apart(backups)
	bare, err := r.bare(ctx, backups)
	if err != nil {
		return nil, nil, fmt.Errorf("list backups: %w", err)
	}
	r.localize(backups)
	backups = append(backups, bare...)
	sortNewest(backups)
	return backups, append(strays, more...), nil
}

// readNames reads the manifests of backups that were listed, and leaves out those
// that were removed meanwhile.
func (r *Repo) readNames(ctx context.Context, backups []Backup) ([]Backup, error) {
	for i := range backups {
		r.readBackup(ctx, &backups[i])
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(backups, removedMeanwhile), nil
}

func removedMeanwhile(b Backup) bool { return errors.Is(b.Err, fs.ErrNotExist) }

// readBackup reads the manifest of a backup, unless the listing told that it
// cannot be read.
func (r *Repo) readBackup(ctx context.Context, b *Backup) {
	if b.Err == nil {
		b.Manifest, b.Err = r.readManifest(ctx, b.Key)
	}
}

// apart tells backups from strays by what their manifests say. Those of the
// original system may have any name.
func apart(all []Backup) (backups, strays []Backup) {
	backups = all[:0]
	for _, b := range all {
		if b.Key != manifestKey(b.ID) && b.Manifest != nil && b.Manifest.Format > 0 {
			strays = append(strays, b)
		} else {
			backups = append(backups, b)
		}
	}
	return backups, strays
}

func sortNewest(backups []Backup) {
	slices.SortFunc(backups, func(a, b Backup) int {
		if c := b.Time().Compare(a.Time()); c != 0 {
			return c
		}
		return later(a, b)
	})
}

// names lists the backups without reading their manifests, each under an id of its
// own, and those manifests apart that cannot be backups where they lie.
func (r *Repo) names(ctx context.Context) (backups, strays []Backup, err error) {
	ids := make(map[string]bool)
	var others []Backup // that have not the name that tenantkeep gives
	err = r.storage.List(ctx, manifestPrefix, func(i storage.Info) error {
		if !strings.HasSuffix(i.Key, jsonSuffix) || i.Key == latestManifest {
			return nil
		}
		b := Backup{ID: idOf(i.Key), Key: i.Key, modified: i.Modified, size: i.Size}
		if i.Problem != "" {
			b.Err = errors.New(i.Problem)
		}
		if b.Key == manifestKey(b.ID) {
			ids[b.ID] = true
			backups = append(backups, b)
		} else {
			others = append(others, b)
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list backups: %w", err)
	}
	for _, b := range others {
		if path.Dir(b.Key)+"/" != manifestPrefix || ids[b.ID] {
			strays = append(strays, b)
		} else {
			ids[b.ID] = true
			backups = append(backups, b)
		}
	}
	return backups, strays, nil
}

// later orders backups of one second by their ids: "_10" is newer than "_9".
func later(a, b Backup) int {
	return cmp.Or(len(b.ID)-len(a.ID), strings.Compare(b.ID, a.ID))
}

// Newest calls yield for one backup with a manifest after the other, the one with
// the newest id first, until it returns false. A manifest is read when its turn comes, so that
// few are where few are needed.
func (r *Repo) Newest(ctx context.Context, yield func(Backup) bool) error {
	backups, _, err := r.names(ctx)
	if err != nil {
		return err
	}
	slices.SortFunc(backups, func(a, b Backup) int {
		if c := b.Time().Compare(a.Time()); c != 0 { // of the id: nothing has been read
			return c
		}
		return later(a, b)
	})
	for _, b := range backups {
		r.readBackup(ctx, &b)
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, strays := apart([]Backup{b}); len(strays) > 0 || removedMeanwhile(b) {
			continue
		}
		if !yield(b) {
			return nil
		}
	}
	return nil
}

func (r *Repo) readManifest(ctx context.Context, key string) (*manifest.Manifest, error) {
	o, err := r.storage.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	return manifest.Decode(io.NewSectionReader(o, 0, o.Size()))
}

// Load reads one backup, named by its id, by the file name of its manifest or
// by its key. A missing one is an error that matches ErrNoBackup.
func (r *Repo) Load(ctx context.Context, name string) (Backup, error) {
	key := name
	switch {
	case strings.HasPrefix(name, dataPrefix):
		return r.loadBare(ctx, name)
	case strings.Contains(name, "/"):
	case strings.HasSuffix(name, jsonSuffix):
		key = manifestPrefix + name
	default:
		key = manifestKey(name)
	}
	m, err := r.readManifest(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return r.loadBare(ctx, name)
	}
	if err != nil {
		return Backup{}, fmt.Errorf("backup %s in %s: %w", name, r.Location(), err)
	}
	b := Backup{ID: idOf(key), Key: key, Manifest: m}
	r.localize([]Backup{b})
	return b, nil
}

// What can be wrong with a data file.
var (
	ErrMissing = errors.New("the file is missing")
	ErrSize    = errors.New("the file has another size")
	ErrHash    = errors.New("the file has other contents")
)

// DataError says what is wrong with the data file or the media archive of a
// schema. It matches
// ErrMissing, ErrSize or ErrHash, or wraps the error of reading it.
type DataError struct {
	Schema, Tenant string // empty: of a file that others refer to
	Key            string
	Err            error
	Want, Got      string // size or hash; empty where it is neither
}

// Error names schema, file and what is wrong.
func (e *DataError) Error() string {
	what := "data file"
	if strings.HasPrefix(e.Key, mediaPrefix) {
		what = "media archive"
	}
	if e.Schema == "" {
		return fmt.Sprintf("%s %s: %s", what, e.Key, e.What())
	}
	return fmt.Sprintf("%s %s of schema %q: %s", what, e.Key, e.Schema, e.What())
}

// What tells what is wrong, for where schema and file are named already.
func (e *DataError) What() string {
	if e.Want == "" {
		return e.Err.Error()
	}
	return fmt.Sprintf("%v (%s, the manifest says %s)", e.Err, e.Got, e.Want)
}

// Unwrap returns the kind.
func (e *DataError) Unwrap() error { return e.Err }

// OpenData opens the data file of an entry of a manifest and checks its size.
// What is wrong with the file is a *DataError.
func (r *Repo) OpenData(ctx context.Context, m *manifest.Manifest, s manifest.Schema) (storage.Object, error) {
	key, err := s.Key(m.Format)
	if err != nil {
		return nil, fmt.Errorf("schema %q: %w", s.Schema, err)
	}
	wrong := &DataError{Schema: s.Schema, Tenant: s.Tenant, Key: key}
	o, err := r.storage.Open(ctx, key)
	if err != nil {
		wrong.Err = err
		if errors.Is(err, fs.ErrNotExist) {
			wrong.Err = ErrMissing
		}
		return nil, wrong
	}
	if o.Size() != s.Size {
		wrong.Err, wrong.Got, wrong.Want = ErrSize, fmt.Sprintf("%d bytes", o.Size()), fmt.Sprint(s.Size)
		return nil, errors.Join(wrong, o.Close())
	}
	return o, nil
}
