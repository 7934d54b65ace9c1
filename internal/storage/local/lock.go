package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// A lock is flock on locks/NAME.lock, which the kernel gives back when the
// process ends. That file is never removed: another process may be about to
// lock it. Beside it each holder has a file NAME-RANDOM.json that describes it
// and that it keeps locked too, so that the files of the living can be told
// from those of the dead.
const (
	lockDir        = "locks"
	lockSuffix     = ".lock"
	holderSuffix   = ".json"
	maxHolderBytes = 64 << 10
)

type lock struct {
	file   *os.File
	root   *os.Root
	holder *os.File // nil where it could not be written
	name   string   // of holder
	once   sync.Once
	err    error
}

// Lock takes an advisory lock of the file system.
func (s *Store) Lock(ctx context.Context, name string, shared bool, holder []byte) (storage.Lock, error) {
	if err := check(ctx, name); err != nil {
		return nil, err
	}
	root, err := s.openForWriting()
	if err != nil {
		return nil, err
	}
	l, err := s.lock(root, name, shared, holder)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return l, nil
}

func (s *Store) lock(root *os.Root, name string, shared bool, holder []byte) (*lock, error) {
	f, err := s.openLock(root, name, shared)
	if err != nil {
		return nil, fmt.Errorf("lock repository %s: %w", s.dir, err)
	}
	how := syscall.LOCK_EX
	if shared {
		how = syscall.LOCK_SH
	}
	if err := flock(f, how); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = &storage.LockedError{Holders: holders(root, name)}
		} else {
			err = fmt.Errorf("lock repository %s: %w", s.dir, err)
		}
		return nil, errors.Join(err, f.Close())
	}
	readHolders(root, name+"-") // which removes what dead ones said
	l := &lock{file: f, root: root}
	// The lock holds without its description, which must not keep a cleanup
	// from a full disk.
	_ = l.describe(name, holder)
	return l, nil
}

// openLock opens the file that is locked. Who only reads a repository that he
// may not write to can still share the lock.
func (s *Store) openLock(root *os.Root, name string, shared bool) (*os.File, error) {
	file := path.Join(lockDir, name+lockSuffix)
	err := s.makeDir(root, lockDir)
	if err == nil {
		var f *os.File
		if f, err = root.OpenFile(file, os.O_RDWR|os.O_CREATE, fileMode); err == nil {
			return f, nil
		}
	}
	if shared {
		if f, errRead := root.Open(file); errRead == nil {
			return f, nil
		}
	}
	return nil, err
}

// describe writes the file of the holder. It is locked before it gets its
// name, so that nobody takes it for that of a dead one.
func (l *lock) describe(name string, holder []byte) error {
	random := rand.Text()
	temp := path.Join(lockDir, tempPrefix+name+"-"+random)
	f, err := l.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	file := path.Join(lockDir, name+"-"+random+holderSuffix)
	err = flock(f, syscall.LOCK_EX)
	if err == nil {
		_, err = f.Write(holder)
	}
	if err == nil {
		err = l.root.Rename(temp, file)
	}
	if err != nil {
		return errors.Join(err, f.Close(), l.root.Remove(temp))
	}
	l.holder, l.name = f, file
	return nil
}

// holders returns what those who hold a lock say of themselves, and removes
// what dead ones said. One that has just taken the lock is waited for a moment.
func holders(root *os.Root, name string) [][]byte {
	for range 5 {
		if found := readHolders(root, name+"-"); len(found) > 0 {
			return found
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

// readHolders reads the files of holders whose names have a prefix.
func readHolders(root *os.Root, prefix string) [][]byte {
	entries, err := readDir(root, lockDir)
	if err != nil {
		return nil // they are for a message only
	}
	var found [][]byte
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) || !strings.HasSuffix(e.Name(), holderSuffix) {
			continue
		}
		file := path.Join(lockDir, e.Name())
		f, err := root.Open(file)
		if err != nil {
			continue
		}
		if flock(f, syscall.LOCK_SH) == nil {
			_ = root.Remove(file)
		} else if b, err := io.ReadAll(io.LimitReader(f, maxHolderBytes)); err == nil {
			found = append(found, b)
		}
		_ = f.Close()
	}
	return found
}

// Lost is nil: the kernel takes no lock away.
func (l *lock) Lost() <-chan struct{} { return nil }

func (l *lock) Unlock() error {
	l.once.Do(func() {
		var errs []error
		if l.holder != nil {
			if err := l.root.Remove(l.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
			errs = append(errs, l.holder.Close())
		}
		// Closing the only descriptor gives the lock back.
		errs = append(errs, l.file.Close(), l.root.Close())
		if err := errors.Join(errs...); err != nil {
			l.err = fmt.Errorf("unlock repository: %w", err)
		}
	})
	return l.err
}

// flock takes a lock without waiting.
func flock(f *os.File, how int) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var errLock error
	err = conn.Control(func(fd uintptr) {
		for {
			if errLock = syscall.Flock(int(fd), how|syscall.LOCK_NB); !errors.Is(errLock, syscall.EINTR) {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	if errLock != nil && !errors.Is(errLock, syscall.EWOULDBLOCK) {
		return &fs.PathError{Op: "flock", Path: f.Name(), Err: errLock}
	}
	return errLock
}
