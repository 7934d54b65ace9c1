// Package repo is the repository: the names of its files, its lock, and how a
// backup is written so that it exists whole or not at all.
//
// A backup exists when its manifest does. The manifest is written last, by
// BackupWriter.Finish and by nothing else. A run that has begun and not ended
// has a mark under runs/, which reserves its id. What no manifest names is an
// orphan; temporary files and marks of dead runs are remains. Dumps of the
// original system are no orphans: without a manifest they are a bare backup.
package repo

import (
	"time"

	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// Options change how a Repo works. The zero value is good.
type Options struct {
	// Now is the clock that backups are named by; nil is time.Now.
	Now func() time.Time
	// LockWait is how long Lock waits for others to give up the lock; 0 means
	// ten seconds, less than 0 not at all.
	LockWait time.Duration
	// Zone is that of times which the original system wrote without one; nil is
	// UTC.
	Zone *time.Location
}

// Repo is a repository in a storage.
type Repo struct {
	storage  storage.Storage
	now      func() time.Time
	lockWait time.Duration
	zone     *time.Location
}

// Open returns the repository in a storage. One that does not exist yet is
// empty, and made by the first backup.
func Open(s storage.Storage, o Options) *Repo {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.LockWait == 0 {
		o.LockWait = 10 * time.Second
	}
	if o.Zone == nil {
		o.Zone = time.UTC
	}
	return &Repo{storage: s, now: o.Now, lockWait: o.LockWait, zone: o.Zone}
}

// Location names the repository for people.
func (r *Repo) Location() string { return r.storage.Location() }
