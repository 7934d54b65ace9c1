package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/filelock"
)

// RotationName is what the file is called, in the directory of the logs, that keeps
// how far the rotating checks of repositories have got.
const RotationName = "integrity.json"

// rotationFormat is the version of that file.
const rotationFormat = 1

// Rotation is how far the rotating check of a repository has got: it reads all
// files in the order of their names, a piece in each run.
type Rotation struct {
	// Next is the file that comes next; before it, in this round, all were read.
	Next string `json:"next"`
	// Offset is how much of it was read already, Hash the state of the hash of
	// that, and Size and Want what the manifest said of it then.
	Offset int64  `json:"offset,omitempty"`
	Hash   []byte `json:"hash,omitempty"`
	Want   string `json:"want,omitempty"`

	Began time.Time `json:"began"`          // of this round
	Ended time.Time `json:"ended,omitzero"` // of the last whole one; zero: none did yet
	// Bad are the files that were not as they were written when they were last
	// read, by name. They are read again in every run.
	Bad map[string]string `json:"bad,omitempty"`
}

// rotationFile is the file: repositories by location.
type rotationFile struct {
	Format       int                 `json:"format"`
	Repositories map[string]Rotation `json:"repositories"`
}

// LoadRotation reads how far the rotating check of the repository at a location has
// got. A file that does not exist is a check that begins; so is one that cannot be
// understood, which is an error as well.
func LoadRotation(path, location string) (Rotation, error) {
	f, err := readRotations(path)
	return f.Repositories[location], err
}

func readRotations(path string) (f rotationFile, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return rotationFile{}, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	if err == nil && f.Format > rotationFormat {
		err = fmt.Errorf("its format %d is that of a newer version", f.Format)
	}
	if err != nil {
		return rotationFile{}, fmt.Errorf("read %s: %w", path, err)
	}
	return f, nil
}

// rotationWait is how long SaveRotation waits for others, who hold the lock for
// milliseconds.
const rotationWait = 5 * time.Second

// SaveRotation keeps how far the check has got, durably and whole or not at all.
// good are files that this run found to be as they were written; what another run
// has found bad meanwhile stays noted.
func SaveRotation(ctx context.Context, path, location string, r Rotation, good map[string]bool) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("keep rotation: %w", err)
	}
	lock, err := lockRotations(ctx, path+".lock")
	if err != nil {
		return fmt.Errorf("keep rotation: lock %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, filelock.Release(lock)) }()
	f, err := readRotations(path)
	if err != nil {
		f = rotationFile{} // LoadRotation has told
	}
	bad := maps.Clone(f.Repositories[location].Bad)
	maps.DeleteFunc(bad, func(key, _ string) bool { return good[key] })
	if bad == nil {
		bad = map[string]string{}
	}
	maps.Copy(bad, r.Bad)
	r.Bad, f.Format = bad, rotationFormat
	if f.Repositories == nil {
		f.Repositories = map[string]Rotation{}
	}
	f.Repositories[location] = r
	text, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("keep rotation: %w", err)
	}
	if err := replaceFile(path, append(text, '\n')); err != nil {
		return fmt.Errorf("keep rotation: %w", err)
	}
	return nil
}

func lockRotations(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(rotationWait); ; {
		err := filelock.Try(f, filelock.Exclusive)
		if err == nil || filelock.IsUnsupported(err) {
			return f, nil
		}
		if !errors.Is(err, filelock.ErrLocked) || time.Now().After(deadline) {
			return nil, errors.Join(err, f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), f.Close())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// replaceFile writes a file anew under the same name.
func replaceFile(path string, text []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".integrity-*.tmp") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if _, err := f.Write(text); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
