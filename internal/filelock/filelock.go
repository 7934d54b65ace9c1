// Package filelock locks files against other processes, and against other
// descriptors of this one. The locks are advisory, and the kernel gives them
// back when the process ends. Over NFS they are locks of the server.
package filelock

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// Mode is how a file is locked.
type Mode int

// The modes. For an exclusive lock over NFS the file must be open for writing,
// for a shared one for reading.
const (
	Shared    Mode = syscall.LOCK_SH
	Exclusive Mode = syscall.LOCK_EX
)

// ErrLocked says that others hold a lock.
var ErrLocked = errors.New("the file is locked")

// Try locks an open file without waiting, until Release or, at the latest, the
// end of the process. While others hold it the error is ErrLocked. A file system
// that cannot lock is an error that IsUnsupported knows.
func Try(f *os.File, mode Mode) error {
	err := flock(f, int(mode)|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}

// Release gives the lock of a file back and closes the file. Closing alone would
// do, but not at once: a program that is being started just then has a copy of
// the descriptor for a moment.
func Release(f *os.File) error {
	return errors.Join(flock(f, syscall.LOCK_UN), f.Close())
}

func flock(f *os.File, how int) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var errLock error
	err = conn.Control(func(fd uintptr) {
		for {
			if errLock = syscall.Flock(int(fd), how); !errors.Is(errLock, syscall.EINTR) {
				return
			}
		}
	})
	if err == nil && errLock != nil {
		err = &fs.PathError{Op: "flock", Path: f.Name(), Err: errLock}
	}
	return err
}

// IsUnsupported reports whether a lock could not be had because the file system
// has none: a network file system that is mounted without locks, or whose
// server does not answer for them.
func IsUnsupported(err error) bool {
	return errors.Is(err, syscall.ENOLCK) || errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EINVAL)
}
