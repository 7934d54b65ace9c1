package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// DataFile is a data file with the files of earlier backups that it refers to.
type DataFile struct {
	*datafile.File
	objects []storage.Object
}

// OpenFile opens the data file of an entry of a manifest, and what it refers to,
// and reads its index. It does not check its hash. What is wrong with one of the
// files is a *DataError.
func (r *Repo) OpenFile(ctx context.Context, m *manifest.Manifest, s manifest.Schema) (_ *DataFile, err error) {
	own, err := r.OpenData(ctx, m, s)
	if err != nil {
		return nil, err
	}
	f := &DataFile{objects: []storage.Object{own}}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if f.File, err = datafile.Open(own, own.Size()); err != nil {
		return nil, &DataError{Schema: s.Schema, Tenant: s.Tenant, Key: s.Filepath, Err: err}
	}
	var earlier []io.ReaderAt
	for _, ref := range f.Index.Header.Files {
		o, err := r.OpenReferred(ctx, ref)
		if err != nil {
			return nil, err
		}
		f.objects = append(f.objects, o)
		earlier = append(earlier, o)
	}
	if err := f.Refer(earlier); err != nil {
		return nil, err
	}
	return f, nil
}

// Close closes the files.
func (f *DataFile) Close() error {
	var errs []error
	for _, o := range f.objects {
		errs = append(errs, o.Close())
	}
	return errors.Join(errs...)
}

// OpenReferred opens a file that another one refers to, and checks its size.
// What is wrong with it is a *DataError.
func (r *Repo) OpenReferred(ctx context.Context, ref datafile.FileRef) (storage.Object, error) {
	wrong := &DataError{Key: ref.Key}
	o, err := r.storage.Open(ctx, ref.Key)
	if err != nil {
		wrong.Err = err
		if errors.Is(err, fs.ErrNotExist) {
			wrong.Err = ErrMissing
		}
		return nil, wrong
	}
	if o.Size() != ref.Size {
		wrong.Err, wrong.Got, wrong.Want = ErrSize, fmt.Sprintf("%d bytes", o.Size()), fmt.Sprint(ref.Size)
		return nil, errors.Join(wrong, o.Close())
	}
	return o, nil
}

// CheckPresent looks for the data file of an entry of a manifest, and those that
// it refers to. What is wrong with one of them is a *DataError. It does not read
// them.
func (r *Repo) CheckPresent(ctx context.Context, m *manifest.Manifest, s manifest.Schema) error {
	own, err := r.OpenData(ctx, m, s)
	if err != nil {
		return err
	}
	errs := []error{own.Close()}
	for _, key := range s.References {
		o, err := r.storage.Open(ctx, key)
		if errors.Is(err, fs.ErrNotExist) {
			err = ErrMissing
		}
		if err != nil {
			return errors.Join(append(errs, &DataError{Schema: s.Schema, Tenant: s.Tenant, Key: key, Err: err})...)
		}
		errs = append(errs, o.Close())
	}
	return errors.Join(errs...)
}
