package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"sync"
	"syscall"
)

// bufferSize joins small writes, of frame headers and index lines. Larger ones
// go straight through.
const bufferSize = 128 << 10

// buffers are those of files that are written no more: a backup of many small
// tenants would make garbage of one for each.
var buffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, bufferSize) }}

// writer writes one new file under a temporary name.
type writer struct {
	ctx   context.Context // of the whole write, see storage.Storage
	store *Store
	root  *os.Root
	file  *os.File
	buf   *bufio.Writer
	key   string
	temp  string
	err   error // the first one: a file with a hole in it must not be committed
	done  bool
}

func newWriter(ctx context.Context, s *Store, root *os.Root, f *os.File, key, temp string) *writer {
	buf := buffers.Get().(*bufio.Writer) //nolint:errcheck,forcetypeassert // nothing else is put there
	buf.Reset(f)
	return &writer{ctx: ctx, store: s, root: root, file: f, buf: buf, key: key, temp: temp}
}

func (w *writer) Write(p []byte) (int, error) {
	if err := w.ready(); err != nil {
		return 0, err
	}
	n, err := w.buf.Write(p)
	if err != nil {
		w.err = fmt.Errorf("write %s: %w", w.store.path(w.key), err)
	}
	return n, w.err
}

func (w *writer) ready() error {
	if w.done {
		return fmt.Errorf("write %s: %w", w.store.path(w.key), fs.ErrClosed)
	}
	if w.err == nil {
		w.err = w.ctx.Err()
	}
	return w.err
}

// Commit makes the contents durable before the name: a name without contents
// would pass for an object after a crash.
func (w *writer) Commit() error {
	if err := w.ready(); err != nil {
		return err
	}
	err := w.buf.Flush()
	if err == nil {
		err = w.file.Sync()
	}
	if err == nil {
		err = w.file.Close()
	}
	if err == nil {
		err = w.name()
	}
	if err != nil {
		w.err = fmt.Errorf("write %s: %w", w.store.path(w.key), err)
		return w.err
	}
	w.done = true
	w.buf.Reset(nil)
	buffers.Put(w.buf)
	w.buf = nil
	w.store.touch(w.store.path(path.Dir(w.key)))
	// What is left open or undone here harms nothing: the object exists.
	_ = w.root.Close()
	return nil
}

// name gives the temporary file its name, unless another file has it.
func (w *writer) name() error {
	err := w.root.Link(w.temp, w.key)
	switch {
	case err == nil || errors.Is(err, fs.ErrExist) && w.sameFile():
		// Should this fail, the name that is left is a remain like that of a
		// killed run.
		_ = w.root.Remove(w.temp)
		return nil
	case errors.Is(err, fs.ErrExist):
		return existsError(w.store.path(w.key))
	case !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, syscall.EPERM):
		return err
	}
	// exFAT, SMB and some FUSE systems have no hard links.
	if err := renameExclusive(w.root, w.temp, w.key); !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, syscall.EINVAL) {
		if errors.Is(err, fs.ErrExist) {
			return existsError(w.store.path(w.key))
		}
		return err
	}
	// Nothing atomic is left. Runs of tenantkeep keep out of one another's way
	// by the time in their names; this guards against the goroutines of one.
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	if _, err := w.root.Lstat(w.key); err == nil {
		return existsError(w.store.path(w.key))
	}
	return w.root.Rename(w.temp, w.key)
}

// sameFile reports whether the name is a link to the temporary file. Over NFS a
// link whose answer was lost is sent again, and the second answer is that the
// name exists.
func (w *writer) sameFile() bool {
	temp, err := w.root.Lstat(w.temp)
	if err != nil {
		return false
	}
	named, err := w.root.Lstat(w.key)
	return err == nil && os.SameFile(temp, named)
}

// Abort removes the temporary file.
func (w *writer) Abort() error {
	if w.done {
		return nil
	}
	w.done = true
	_ = w.file.Close() // its contents are of no use any more; Commit may have closed it
	err := w.root.Remove(w.temp)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("remove temporary file of %s: %w", w.store.path(w.key), err)
	}
	return errors.Join(err, w.root.Close())
}
