package local

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
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

	"github.com/tenantkeep/tenantkeep/internal/filelock"
	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// A lock is that of the file locks/NAME.lock, which the kernel gives back when
// the process ends. The file is never removed: another process may be about to
// lock it.
//
// Beside it each holder has a file NAME-MODE-WHERE-RANDOM.json that describes
// it, and that it keeps locked too, so that the files of the living can be told
// from those of the dead. WHERE stands for the running kernel and its file
// system. Only within one of them a lock that is not seen is surely not held:
// a network file system may be mounted so that locks stay on one machine, and
// it tells nobody. The file of a holder elsewhere therefore counts as long as
// it is fresh, which its holder sees to. One whose time lies in the future counts as
// long as that changes.
const (
	lockDir        = "locks"
	lockSuffix     = ".lock"
	holderSuffix   = ".json"
	maxHolderBytes = 64 << 10

	markShared    = "s"
	markExclusive = "x"

	// lockBeat is how often a holder freshens its file, lockStale the age from
	// which nobody does any more.
	lockBeat  = 20 * time.Second
	lockStale = 2 * time.Minute
)

type lock struct {
	file *os.File
	root *os.Root

	holder *os.File // nil where it could not be written
	name   string   // of holder
	text   []byte   // in holder

	stop chan struct{} // closed by Unlock
	done chan struct{} // closed when nothing freshens holder any more
	lost chan struct{}
	once sync.Once
	err  error
}

// noLocksError says that a file system has no locks.
type noLocksError struct {
	dir string
	err error
}

func (e *noLocksError) Error() string {
	return fmt.Sprintf("lock repository %s: its file system cannot lock files: %v", e.dir, e.err)
}

func (e *noLocksError) Unwrap() error { return e.err }

// Hint says what to do.
func (*noLocksError) Hint() string {
	return "mount it so that locks work (NFS: version 4, or without nolock), or keep the repository elsewhere"
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
	mode, mark := filelock.Exclusive, markExclusive
	if shared {
		mode, mark = filelock.Shared, markShared
	}
	if err := filelock.Try(f, mode); err != nil {
		switch {
		case errors.Is(err, filelock.ErrLocked):
			found := s.holders(root, name)
			err = &storage.LockedError{Holders: found.alive, Doubtful: found.doubtful}
		case filelock.IsUnsupported(err):
			err = &noLocksError{s.dir, err}
		default:
			err = fmt.Errorf("lock repository %s: %w", s.dir, err)
		}
		return nil, errors.Join(err, f.Close())
	}
	l := &lock{file: f, root: root, text: holder, stop: make(chan struct{}), done: make(chan struct{}), lost: make(chan struct{})}
	now := time.Now()
	if l.describe(name+"-"+mark+"-"+s.where(root)+"-", holder) == nil {
		if info, err := l.holder.Stat(); err == nil {
			now = info.ModTime() // by the clock of the file server
		}
		go l.keep(s.beat)
	} else {
		// The lock holds without its description, which must not keep a cleanup
		// from a full disk.
		close(l.done)
	}
	// Whoever is found here holds a lock that this file system does not show, or
	// that of a lock file which somebody removed.
	if unseen := s.sweep(root, name, l.name, mark, now); len(unseen.conflicts) > 0 {
		return nil, errors.Join(&storage.LockedError{Holders: unseen.conflicts, Doubtful: unseen.doubtful}, l.release())
	}
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

// where stands for the running kernel and the file system of the locks. Empty:
// it is not known.
func (s *Store) where(root *os.Root) string {
	if s.place != "" {
		return s.place
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		host, err := os.Hostname()
		if err != nil {
			return ""
		}
		kernel = []byte(host)
	}
	info, err := root.Stat(lockDir)
	if err != nil {
		return ""
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", kernel, stat.Dev))
	return hex.EncodeToString(sum[:8])
}

// describe writes the file of the holder. It is locked before it gets its
// name, so that nobody takes it for that of a dead one, and synced, so that
// other machines see what is in it while it is open.
func (l *lock) describe(prefix string, holder []byte) error {
	name := prefix + rand.Text()
	temp := path.Join(lockDir, tempPrefix+name)
	f, err := l.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	file := path.Join(lockDir, name+holderSuffix)
	err = filelock.Try(f, filelock.Exclusive)
	if err == nil {
		_, err = f.Write(holder)
	}
	if err == nil {
		err = f.Sync()
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

// keep freshens the file of the holder until the lock is given up. That the
// file is gone means that another machine took this process for dead.
func (l *lock) keep(every time.Duration) {
	defer close(l.done)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-ticker.C:
		}
		_, err := l.holder.WriteAt(l.text, 0)
		err = errors.Join(err, l.holder.Sync())
		_, errName := l.root.Lstat(l.name)
		if errors.Is(errName, fs.ErrNotExist) || errors.Is(err, syscall.ESTALE) || errors.Is(err, syscall.EIO) {
			close(l.lost)
			return
		}
	}
}

// holders returns what those who hold a lock say of themselves. One that has
// just taken the lock is waited for a moment.
func (s *Store) holders(root *os.Root, name string) (f found) {
	for range 5 {
		if f = s.sweep(root, name, "", markExclusive, time.Now()); len(f.alive) > 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return f
}

// sighting is when the file of a holder was first seen with a time.
type sighting struct {
	modified time.Time
	seen     time.Time
}

// beats reports whether the file of a holder, whose time lies in the future and
// tells nothing, may be one that is freshened: its time has changed, or has not been
// watched for long enough.
func (s *Store) beats(file string, modified time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, known := s.ahead[file]
	if !known || !last.modified.Equal(modified) {
		s.ahead[file] = sighting{modified, time.Now()}
		return true
	}
	return time.Since(last.seen) < 2*s.beat
}

// found is what a sweep found.
type found struct {
	alive     [][]byte // what holders say of themselves that may live
	conflicts [][]byte // of those, what holders say whose lock excludes that of the caller
	doubtful  []string // of all, paths of those whose time lies in the future
}

// sweep reads the files of the holders of a lock, but for own, and removes those
// of the dead. mode and now are the caller's.
func (s *Store) sweep(root *os.Root, name, own, mode string, now time.Time) (f found) {
	var names []string
	err := readDir(root, lockDir, func(e fs.DirEntry) error {
		names = append(names, e.Name())
		return nil
	})
	if err != nil {
		return f // who cannot read there has no description of his own either
	}
	here := s.where(root)
	for _, held := range names {
		file := path.Join(lockDir, held)
		rest, ok := strings.CutPrefix(held, name+"-")
		if !ok || !strings.HasSuffix(rest, holderSuffix) || file == own {
			continue
		}
		theirs, rest, _ := strings.Cut(rest, "-")
		place, _, _ := strings.Cut(rest, "-")
		h, err := root.Open(file)
		if err != nil {
			continue
		}
		unseen := filelock.Try(h, filelock.Shared) == nil
		text, errRead := io.ReadAll(io.LimitReader(h, maxHolderBytes))
		info, errStat := h.Stat()
		_ = h.Close()
		fresh, ahead := false, false
		if errStat == nil {
			age := now.Sub(info.ModTime())
			ahead = -age > s.stale
			fresh = age < s.stale && (!ahead || s.beats(file, info.ModTime()))
		}
		switch {
		case unseen && (place != "" && place == here || !fresh):
			_ = root.Remove(file)
		case errRead == nil:
			f.alive = append(f.alive, text)
			if ahead && unseen {
				f.doubtful = append(f.doubtful, s.path(file))
			}
			if mode == markExclusive || theirs == markExclusive {
				f.conflicts = append(f.conflicts, text)
			}
		}
	}
	return f
}

// Lost is closed when another machine took the lock for that of a dead process,
// or the file server did.
func (l *lock) Lost() <-chan struct{} { return l.lost }

func (l *lock) Unlock() error {
	l.once.Do(func() {
		if err := errors.Join(l.release(), l.root.Close()); err != nil {
			l.err = fmt.Errorf("unlock repository: %w", err)
		}
	})
	return l.err
}

// release gives the lock back, its description first.
func (l *lock) release() error {
	close(l.stop)
	<-l.done
	var errs []error
	if l.holder != nil {
		if err := l.root.Remove(l.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		errs = append(errs, l.holder.Close())
	}
	return errors.Join(append(errs, filelock.Release(l.file))...)
}
