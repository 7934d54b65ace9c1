package media

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
)

// Stored is the archive of a schema in a repository, open with all that it refers
// to.
type Stored struct {
	*Archive
	Object  io.ReaderAt // the archive as it is stored
	closers []io.Closer
}

// OpenStored opens the archive that an entry of a manifest names, and those that
// it refers to. It does not check their hashes. What is wrong with a file is a
// *repo.DataError.
func OpenStored(ctx context.Context, r *repo.Repo, m *manifest.Manifest, e manifest.Schema) (_ *Stored, err error) {
	object, err := r.OpenMedia(ctx, m, e)
	if err != nil {
		return nil, err
	}
	s := &Stored{Object: object, closers: []io.Closer{object}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	wrong := func(key string, err error) error {
		return &repo.DataError{Schema: e.Schema, Tenant: e.Tenant, Key: key, Err: err}
	}
	if s.Archive, err = Open(object, object.Size()); err != nil {
		return nil, wrong(e.MediaBackup, err)
	}
	if e.Media != nil && (s.Schema != e.Schema || s.Backup != e.Media.Backup) {
		return nil, wrong(e.MediaBackup, fmt.Errorf("it is that of schema %q in backup %s, the manifest says %q in %s", s.Schema, s.Backup, e.Schema, e.Media.Backup))
	}
	var earlier []*Archive
	for _, ref := range s.References {
		object, err := r.OpenArchive(ctx, ref.Key, ref.Size)
		if err != nil {
			return nil, err
		}
		s.closers = append(s.closers, object)
		a, err := Open(object, object.Size())
		if err != nil {
			return nil, wrong(ref.Key, err)
		}
		earlier = append(earlier, a)
	}
	return s, s.Refer(earlier)
}

// Close closes the archives.
func (s *Stored) Close() error {
	var errs []error
	for _, c := range s.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
