package repo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// abortTimeout bounds the clean-up of a run that was cancelled.
const abortTimeout = 30 * time.Second

// BackupWriter writes one backup. CreateData may be called from several
// goroutines.
type BackupWriter struct {
	repo    *Repo
	id      string
	typ     manifest.Type
	started time.Time
	locked  context.Context // of the whole run; cancelled when the lock is lost
	unlock  Unlock

	mu       sync.Mutex
	taken    map[string]bool   // keys given out
	doubtful map[string]bool   // keys whose commit failed: the file may exist all the same
	open     int               // data files begun and neither committed nor aborted
	stored   map[string]Stored // by key
	manifest bool              // writing the manifest was tried: it may exist
	ended    bool
}

// Stored is a data file that was committed, as a manifest describes it.
type Stored struct {
	Key  string
	Size int64
	Hash string // "sha256:" and the digest
}

// NewBackup begins a backup: it shares the lock of the repository, so that no
// cleanup takes the new files for remains, and reserves an id that no other
// run has. ctx covers the whole run. Finish or Abort must follow.
func (r *Repo) NewBackup(ctx context.Context, typ manifest.Type) (*BackupWriter, error) {
	locked, unlock, err := r.Lock(ctx, Shared, string(typ)+" backup")
	if err != nil {
		return nil, err
	}
	started := r.now().UTC()
	// Where the manifests cannot be listed, the backup would not be found.
	_, _, err = r.names(ctx)
	id := ""
	if err == nil {
		id, err = r.reserve(ctx, started)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin backup: %w", err), unlock())
	}
	return &BackupWriter{
		repo: r, id: id, typ: typ, started: started, locked: locked, unlock: unlock,
		taken: make(map[string]bool), doubtful: make(map[string]bool), stored: make(map[string]Stored),
	}, nil
}

// reserve writes the mark of a run under the first id of that second that is
// free. Storages never replace an object, so that only one run gets it.
func (r *Repo) reserve(ctx context.Context, started time.Time) (string, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host" // it is for people who look into the mark
	}
	mark, err := json.Marshal(map[string]any{"pid": os.Getpid(), "host": host, "started": started})
	if err != nil {
		return "", err
	}
	stamp := started.Format(idLayout)
	for n := 1; ; n++ {
		id := stamp
		if n > 1 {
			id = fmt.Sprintf("%s_%d", stamp, n)
		}
		err := r.put(ctx, runKey(id), mark)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		// A run removes its mark after it wrote its manifest, so one that had
		// this id and is done shows now at the latest.
		free, err := r.absent(ctx, manifestKey(id))
		if err == nil && free {
			// Durable before the first data file: a file without a mark is taken for
			// what is left of a backup whose manifest was lost.
			if err = r.storage.Sync(ctx); err == nil {
				return id, nil
			}
		}
		if errDelete := r.storage.Delete(context.WithoutCancel(ctx), runKey(id)); err != nil || errDelete != nil {
			return "", errors.Join(err, errDelete)
		}
	}
}

func (r *Repo) absent(ctx context.Context, key string) (bool, error) {
	o, err := r.storage.Open(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, o.Close()
}

// put writes a small object.
func (r *Repo) put(ctx context.Context, key string, content []byte) error {
	return r.create(ctx, key, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}

// create makes an object of what is written.
func (r *Repo) create(ctx context.Context, key string, write func(io.Writer) error) error {
	w, err := r.storage.Create(ctx, key)
	if err != nil {
		return err
	}
	if err = write(w); err == nil {
		err = w.Commit()
	}
	if err != nil {
		return errors.Join(err, w.Abort())
	}
	return nil
}

// ID is the id of the backup: the second in which it began, UTC, and a number
// where others began in it too.
func (w *BackupWriter) ID() string { return w.id }

// Started is when the backup began.
func (w *BackupWriter) Started() time.Time { return w.started }

// CreateData begins the data file of a schema. ext is ".sql", with ".zst" or
// ".gz" and ".age" behind it where they apply. Names are distinct for distinct
// schemas, whatever they are called.
func (w *BackupWriter) CreateData(ctx context.Context, schema, tenant string, typ manifest.Type, ext string) (*DataWriter, error) {
	next, err := dataKeys(schema, tenant, typ, w.id, ext)
	if err != nil {
		return nil, err
	}
	return w.create(ctx, schema, "data file", next)
}

// CreateMedia begins the media archive of a schema, as CreateData its data file.
// ext is ".tar", with ".zst" or ".gz" and ".age" behind it where they apply.
func (w *BackupWriter) CreateMedia(ctx context.Context, schema, tenant, ext string) (*DataWriter, error) {
	next, err := mediaKeys(schema, tenant, w.id, ext)
	if err != nil {
		return nil, err
	}
	return w.create(ctx, schema, "media archive", next)
}

// create begins a file under the first name that is free.
func (w *BackupWriter) create(ctx context.Context, schema, what string, next func() string) (*DataWriter, error) {
	if err := w.begin(); err != nil {
		return nil, err
	}
	for {
		key := next()
		if !w.take(key) {
			continue
		}
		sw, err := w.repo.storage.Create(ctx, key)
		if errors.Is(err, fs.ErrExist) {
			continue // an orphan of a run that died in this second has it
		}
		if err != nil {
			w.end(key, nil)
			return nil, fmt.Errorf("create %s of schema %q: %w", what, schema, err)
		}
		return &DataWriter{backup: w, w: sw, key: key, hash: sha256.New()}, nil
	}
}

// begin counts a data file that is being written.
func (w *BackupWriter) begin() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.usable(); err != nil {
		return err
	}
	w.open++
	return nil
}

// usable is called with mu held.
func (w *BackupWriter) usable() error {
	if w.ended {
		return fmt.Errorf("backup %s has ended", w.id)
	}
	return context.Cause(w.locked)
}

func (w *BackupWriter) take(key string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.taken[key] {
		return false
	}
	w.taken[key] = true
	return true
}

// end counts a data file that is no longer being written. One that came to
// nothing gives its name back, for when its schema is taken again.
func (w *BackupWriter) end(key string, stored *Stored) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open--
	if stored == nil {
		delete(w.taken, key)
		return
	}
	w.stored[key] = *stored
}

// DataWriter writes one data file. It belongs to one goroutine.
type DataWriter struct {
	backup *BackupWriter
	w      storage.Writer
	key    string
	hash   hash.Hash
	size   int64
	ended  bool
}

// Key is the key that the file is going to have.
func (d *DataWriter) Key() string { return d.key }

// Size is how many bytes were written.
func (d *DataWriter) Size() int64 { return d.size }

func (d *DataWriter) Write(p []byte) (int, error) {
	n, err := d.w.Write(p)
	d.hash.Write(p[:n])
	d.size += int64(n)
	return n, err
}

// Commit makes the file exist. It belongs to no backup before Finish.
func (d *DataWriter) Commit() (Stored, error) {
	d.backup.mu.Lock()
	err := d.backup.usable()
	d.backup.mu.Unlock()
	if err == nil && d.ended {
		err = fmt.Errorf("commit %s: %w", d.key, fs.ErrClosed)
	}
	if err == nil {
		if err = d.w.Commit(); err != nil && !errors.Is(err, fs.ErrExist) {
			d.backup.doubt(d.key)
		}
	}
	if err != nil {
		return Stored{}, err
	}
	s := Stored{Key: d.key, Size: d.size, Hash: hashPrefix + hex.EncodeToString(d.hash.Sum(nil))}
	d.ended = true
	d.backup.end(d.key, &s)
	return s, nil
}

func (w *BackupWriter) doubt(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.doubtful[key] = true
}

// Abort gives the file up. After Commit it does nothing, so that it can be
// deferred.
func (d *DataWriter) Abort() error {
	if d.ended {
		return nil
	}
	d.ended = true
	err := d.w.Abort()
	d.backup.end(d.key, nil)
	return err
}

// Finish makes the backup exist: it makes the data files durable, writes the
// manifest and makes that durable. It sets Format and ID of the manifest, and
// type, time and end where they are not set. Every data file that the manifest
// names must be one that this run committed, with that size and hash, or be in
// the repository already.
//
// After an error the backup does not exist and Abort must follow, unless the
// error says that the backup is complete.
func (w *BackupWriter) Finish(ctx context.Context, m *manifest.Manifest) error {
	if err := w.prepare(ctx, m); err != nil {
		return fmt.Errorf("finish backup %s: %w", w.id, err)
	}
	s := w.repo.storage
	if err := s.Sync(ctx); err != nil {
		return fmt.Errorf("finish backup %s: %w", w.id, err)
	}
	w.mu.Lock()
	w.manifest = true
	err := w.usable()
	w.mu.Unlock()
	if err == nil {
		err = w.repo.create(ctx, manifestKey(w.id), m.Encode)
	}
	if err != nil {
		return fmt.Errorf("write manifest of backup %s: %w", w.id, err)
	}

	// From here on the backup exists, and a cancellation comes too late.
	w.mu.Lock()
	w.ended = true
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	err = s.Sync(ctx)
	// A mark or a lock that stays behind harms nothing: the next run removes
	// the mark, and the lock ends with the process.
	_ = s.Delete(ctx, runKey(w.id))
	_ = w.unlock()
	if err != nil {
		return fmt.Errorf("backup %s is complete, but may be lost if this machine stops now: %w", w.id, err)
	}
	return nil
}

// prepare completes the manifest and checks it against what was written.
func (w *BackupWriter) prepare(ctx context.Context, m *manifest.Manifest) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.usable(); err != nil {
		return err
	}
	if w.open > 0 {
		return fmt.Errorf("%d data files are still being written", w.open)
	}
	m.Format, m.ID = manifest.Format, w.id
	if m.BackupType == "" {
		m.BackupType = w.typ
	}
	if m.Timestamp.IsZero() {
		m.Timestamp = manifest.NewTime(w.started)
	}
	if m.Finished.IsZero() {
		m.Finished = w.repo.now().UTC()
	}
	if m.Schemas == nil {
		m.Schemas = []manifest.Schema{}
	}
	if err := m.Validate(); err != nil {
		return err
	}
	return w.checkFiles(ctx, m)
}

// checkFiles is called with mu held.
func (w *BackupWriter) checkFiles(ctx context.Context, m *manifest.Manifest) error {
	earlier := make(map[string]int64) // size of files that this run did not write; -1: not found
	for i := range m.Schemas {
		s := &m.Schemas[i]
		for _, key := range append([]string{s.Filepath}, neededBy(s)...) {
			if _, own := w.stored[key]; !own && key != "" {
				earlier[key] = -1
			}
		}
	}
	if len(earlier) > 0 {
		err := w.repo.listFiles(ctx, func(i storage.Info) {
			if _, ok := earlier[i.Key]; ok && i.Problem == "" {
				earlier[i.Key] = i.Size
			}
		})
		if err != nil {
			return err
		}
	}
	for i := range m.Schemas {
		s := &m.Schemas[i]
		for _, key := range neededBy(s) {
			if earlier[key] < 0 {
				return fmt.Errorf("schema %q needs %s, which is not in the repository", s.Schema, key)
			}
		}
		if err := w.checkFile(s.Schema, Stored{s.Filepath, s.Size, s.Hash}, earlier); err != nil {
			return err
		}
		if s.Media != nil {
			if err := w.checkFile(s.Schema, Stored{s.MediaBackup, s.Media.Size, s.Media.Hash}, earlier); err != nil {
				return err
			}
		}
	}
	return nil
}

// neededBy are the files that an entry of this version names, but for its data
// file.
func neededBy(s *manifest.Schema) []string {
	list := slices.Clone(s.References)
	if s.MediaBackup != "" {
		list = append(list, s.MediaBackup)
	}
	if s.Media != nil {
		list = append(list, s.Media.References...)
	}
	return list
}

// checkFile compares what a manifest says of a file with what was written.
func (w *BackupWriter) checkFile(schema string, want Stored, earlier map[string]int64) error {
	if want.Key == "" {
		return nil
	}
	size, hash := earlier[want.Key], want.Hash
	if own, ok := w.stored[want.Key]; ok {
		size, hash = own.Size, own.Hash
	}
	switch {
	case size < 0:
		return fmt.Errorf("schema %q: %s was not written", schema, want.Key)
	case size != want.Size:
		return fmt.Errorf("schema %q: %s has %d bytes, not %d", schema, want.Key, size, want.Size)
	case hash != want.Hash:
		return fmt.Errorf("schema %q: %s has the hash %s, not %s", schema, want.Key, hash, want.Hash)
	}
	return nil
}

// Abort gives the backup up and removes the files that it wrote. After Finish
// succeeded it does nothing, so that it can be deferred. It works after ctx is
// cancelled.
func (w *BackupWriter) Abort(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return nil
	}
	w.ended = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	if err := errors.Join(w.remove(ctx), w.unlock()); err != nil {
		return fmt.Errorf("remove what backup %s wrote: %w", w.id, err)
	}
	return nil
}

// remove removes the manifest, in case that writing it did succeed, and only
// when it is gone for good the files that it names.
func (w *BackupWriter) remove(ctx context.Context) error {
	s := w.repo.storage
	if w.manifest {
		err := s.Delete(ctx, manifestKey(w.id))
		if err == nil {
			err = s.Sync(ctx)
		}
		if err != nil {
			return err
		}
	}
	keys := maps.Clone(w.doubtful)
	for key := range w.stored {
		keys[key] = true
	}
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		errs = append(errs, s.Delete(ctx, key))
	}
	// The mark goes last, once the files are gone for good: by it the next run
	// finds what is left of them.
	if err := errors.Join(append(errs, s.Sync(ctx))...); err != nil {
		return err
	}
	return errors.Join(s.Delete(ctx, runKey(w.id)), s.Sync(ctx))
}
