// Package storage is where the bytes of a repository live: a directory or a
// bucket, seen as keys with contents.
//
// A key is a slash-separated relative path such as
// "data/acme_full_20261123_000001.sql.zst". Keys that package repo makes are
// plain ASCII; files of the original system may have others.
package storage

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"
	"unicode"
)

// Storage holds contents by key. All methods may be called at the same time
// from several goroutines. A key that ValidKey refuses is an error in each.
type Storage interface {
	// Create begins a new object. Nothing is visible under key before Commit
	// returns; after a crash the key holds the whole object or does not
	// exist. An object that exists already is an error that matches
	// fs.ErrExist, found at Create or at Commit, and is never replaced.
	//
	// ctx covers the whole write: once it is cancelled, Write and Commit of
	// the Writer fail.
	Create(ctx context.Context, key string) (Writer, error)

	// Open gives random access to an object. A missing one is an error that
	// matches fs.ErrNotExist.
	Open(ctx context.Context, key string) (Object, error)

	// List calls yield for every object whose key begins with prefix, in the
	// byte order of keys, and stops at the first error, which it returns. What
	// a Writer has not committed is not listed, nor is anything under
	// LockPrefix. A storage that does not exist yet is empty. What may have
	// objects and cannot be looked into is an error: whoever deletes what he does
	// not find named anywhere relies on it that the list is whole.
	List(ctx context.Context, prefix string, yield func(Info) error) error

	// Delete removes an object for good. That it is absent is fine.
	Delete(ctx context.Context, key string) error

	// Sync makes durable all that was committed and deleted before it was
	// called. Commit makes the contents of an object durable, Sync its name.
	// After an error, all of it is still to be made durable.
	Sync(ctx context.Context) error

	// Location names the storage for people: a path or a URL without secrets.
	Location() string
}

// Writer takes the contents of a new object. It belongs to one goroutine.
type Writer interface {
	io.Writer
	// Commit makes the object exist under its key. After an error the object
	// does not exist, or, where the answer of a remote storage was lost, may
	// exist whole; Abort must follow.
	Commit() error
	// Abort gives the object up and removes what was written. After Commit
	// succeeded it does nothing, so that it can be deferred.
	Abort() error
}

// Object is an object opened for reading. It stays readable when it is deleted
// meanwhile, or reading it fails; it never changes.
type Object interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// Info describes an object of a listing.
type Info struct {
	Key      string
	Size     int64
	Modified time.Time
	// Problem says why the object cannot be opened, as far as the listing tells:
	// something is there that is none. It is never deleted. Empty: nothing is
	// wrong.
	Problem string
}

// Locker is implemented by storages that can hold locks. A lock ends with the
// process that holds it at the latest, however that process ends.
type Locker interface {
	// Lock takes the lock called name, one plain word, without waiting. Any
	// number may hold it shared, or one exclusively. holder describes the
	// caller to those who do not get it. While others hold it so that it
	// cannot be had, the error is a *LockedError.
	Lock(ctx context.Context, name string, shared bool, holder []byte) (Lock, error)
}

// Lock is a lock that is held.
type Lock interface {
	// Lost is closed when the lock is lost though nobody gave it up. It is nil
	// where that cannot happen.
	Lost() <-chan struct{}
	// Unlock gives the lock up. Calling it again does nothing.
	Unlock() error
}

// LockedError says that others hold a lock.
type LockedError struct {
	Holders [][]byte // as they described themselves; empty where they could not
	// Doubtful are the descriptions, as people find them, whose time lies in the
	// future, so that nothing tells whether their holders live.
	Doubtful []string
}

// Error says that the lock is not free. Who holds it is in a form that only the
// caller of Lock knows.
func (e *LockedError) Error() string { return "the lock is held by others" }

// Cleaner is implemented by storages in which a writer that was killed leaves
// something behind.
type Cleaner interface {
	// CleanTemporary removes what writers left that neither committed nor
	// aborted, where it was last written to at least age ago, and returns what
	// it removed, under the names that it had. It cannot tell a killed writer
	// from a slow one: the caller makes sure, by a lock, that none is at work.
	CleanTemporary(ctx context.Context, age time.Duration) ([]Info, error)
}

// Spacer is implemented by storages that can be full.
type Spacer interface {
	// Space returns how many bytes can still be written, and how many there is room
	// for in all. Where that cannot be told the error matches
	// errors.ErrUnsupported.
	Space(ctx context.Context) (free, total int64, err error)
}

// As finds the first storage that is a T in a chain of wrappers, each of which
// gives what it wraps by a method Unwrap.
func As[T any](s Storage) (T, bool) {
	for s != nil {
		if t, ok := s.(T); ok {
			return t, true
		}
		w, ok := s.(interface{ Unwrap() Storage })
		if !ok {
			break
		}
		s = w.Unwrap()
	}
	var none T
	return none, false
}

// LockPrefix begins the keys that a storage keeps for its locks. They are no
// objects.
const LockPrefix = "locks/"

// ValidKey refuses what cannot be a key: what is not a clean relative path, or
// leaves the repository on any system, or begins an element with a dot, as
// temporary files do, or belongs to the locks.
func ValidKey(key string) error {
	problem := ""
	switch {
	case !fs.ValidPath(key):
		problem = "is not a clean relative path in UTF-8"
	case strings.HasPrefix(key, ".") || strings.Contains(key, "/."):
		problem = "has an element that begins with a dot"
	case strings.ContainsRune(key, '\\') || strings.ContainsFunc(key, unicode.IsControl):
		problem = "holds a backslash or a control character"
	case strings.HasPrefix(key+"/", LockPrefix):
		problem = "is reserved for locks"
	default:
		return nil
	}
	return &KeyError{Key: key, Problem: problem}
}

// KeyError says why a key cannot be one. It matches fs.ErrInvalid.
type KeyError struct {
	Key     string
	Problem string
}

// Error names the key and what is wrong with it.
func (e *KeyError) Error() string { return fmt.Sprintf("key %q %s", e.Key, e.Problem) }

// Is matches fs.ErrInvalid.
func (e *KeyError) Is(target error) bool { return target == fs.ErrInvalid }
