package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// OpenMedia opens the media archive of an entry of a manifest and checks its size,
// where the manifest knows it. What is wrong with it is a *DataError.
func (r *Repo) OpenMedia(ctx context.Context, m *manifest.Manifest, s manifest.Schema) (storage.Object, error) {
	key, err := s.MediaKey(m.Format)
	if err != nil {
		return nil, fmt.Errorf("schema %q: %w", s.Schema, err)
	}
	size := int64(-1)
	if s.Media != nil {
		size = s.Media.Size
	}
	o, err := r.OpenArchive(ctx, key, size)
	if wrong, ok := errors.AsType[*DataError](err); ok {
		wrong.Schema, wrong.Tenant = s.Schema, s.Tenant
	}
	return o, err
}

// OpenArchive opens a media archive that a later one refers to, and checks its
// size unless that is negative. What is wrong with it is a *DataError.
func (r *Repo) OpenArchive(ctx context.Context, key string, size int64) (storage.Object, error) {
	wrong := &DataError{Key: key}
	o, err := r.storage.Open(ctx, key)
	if err != nil {
		wrong.Err = err
		if errors.Is(err, fs.ErrNotExist) {
			wrong.Err = ErrMissing
		}
		return nil, wrong
	}
	if size >= 0 && o.Size() != size {
		wrong.Err, wrong.Got, wrong.Want = ErrSize, fmt.Sprintf("%d bytes", o.Size()), fmt.Sprint(size)
		return nil, errors.Join(wrong, o.Close())
	}
	return o, nil
}

// CheckMediaHash reads an opened media archive once and compares it with the entry
// of its manifest, which has its hash. What is wrong with it is a *DataError.
// progress, which may be nil, is told the bytes of each piece that was read.
func CheckMediaHash(ctx context.Context, o storage.Object, m *manifest.Manifest, s manifest.Schema, progress func(n int64)) error {
	key, err := s.MediaKey(m.Format)
	if err != nil {
		return fmt.Errorf("schema %q: %w", s.Schema, err)
	}
	want, err := s.Media.Digest(m.Format)
	if err != nil {
		return fmt.Errorf("schema %q: %w", s.Schema, err)
	}
	return checkHash(ctx, o, s.Media.Size, want, DataError{Schema: s.Schema, Tenant: s.Tenant, Key: key}, progress)
}
