package health

import (
	"time"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

// Facts are what was found. The zero value of a part is that nothing is known of
// it, or that there is nothing.
type Facts struct {
	Now        time.Time
	Repository Repository
	Database   Database
	// Backups are those of the database, the newest first; where it could not be
	// reached, as well as that can be told.
	Backups []Backup
	// Running are when the backup runs began that are at work now.
	Running []time.Time
	// Killed is when the newest run began that did not end and is not at work; zero:
	// there is none.
	Killed    time.Time
	Disk      *Disk // nil: the storage does not tell
	Integrity Integrity
	Retention Retention
	// Trail says what the audit trail tells of runs; nil: there is none, or it
	// cannot be read, for which TrailErr is the reason.
	Trail     *Trail
	TrailErr  string
	Schedule  Schedule
	Proof     Proof
	Locks     []Lock
	Leftovers []Leftover
	// NotifierFailures are messages that could not be delivered.
	NotifierFailures []NotifierFailure
	// Serving is that a process that stays makes the checks, and SettingsErr why its
	// newest settings are not in use.
	Serving     bool
	SettingsErr string
	// Unknown are checks that could not look at what they judge, by name, with the
	// reason.
	Unknown map[string]string
}

// Repository is the place of the backups.
type Repository struct {
	Location string
	Err      string // why it cannot be read; empty: it can
	Hint     string // what to do about that
}

// Database is the database that is backed up.
type Database struct {
	Name string // empty: not known
	// Err is why it could not be reached, or that none is configured; empty: it
	// was reached.
	Err  string
	Hint string // what to do about that
	// Schemas are those that are to be backed up.
	Schemas []string
	// Excluded are those that the settings leave out.
	Excluded []string
}

// Backup is one backup.
type Backup struct {
	ID       string
	Time     time.Time
	Manifest *manifest.Manifest // nil: it cannot be read
	// Lacking are files of its entries, by their places in the manifest, that are
	// missing or of another size.
	Lacking map[int][]string
	Stored  int64 // bytes that this run has written
}

// Disk is the file system of the repository, in bytes.
type Disk struct {
	Free, Total int64
	Used        int64 // by backups
	// Growth is by how many bytes a day the backups grow, with what retention is
	// going to remove; nil: not known.
	Growth *float64
}

// Integrity is what was found of the files.
type Integrity struct {
	Files int   // that there are
	Bytes int64 // of these
	Read  int64 // bytes that were read and compared this time
	Full  bool  // all were
	// Bad are files whose contents, sizes or names are not as they were written.
	Bad []BadFile
	// Done is how much of the present round is read, from 0 to 1, and Began when it
	// began; Round is when the last whole round ended, zero: none did yet.
	Done         float64
	Began, Round time.Time
	// StateErr is why the place in the round could not be read or kept.
	StateErr string
}

// BadFile is a file that is not as it was written.
type BadFile struct {
	File           string // in the repository
	Backup         string // that needs it
	Schema, Tenant string
	What           string
}

// Retention is what the policy and the repository disagree about.
type Retention struct {
	// Overdue are backups that should have been removed some time ago.
	Overdue      []string
	OverdueBytes int64
	OverdueSince time.Duration // how long they have been waiting at least
	Holds        []string      // why none may go at present
	// Lost are backups that were made, that nobody removed, and that are not there.
	Lost []string
	// Pinned are pins of backups that are not there.
	Pinned []string
	// Orphaned are backups of which there are files and no manifest.
	Orphaned []string
	Err      string // why it cannot be told
}

// Trail is what the audit trail tells of backup runs. The zero times are that
// it tells of none.
type Trail struct {
	Last    time.Time // the newest run began
	Failed  time.Time // the newest run that failed ended
	Error   string    // of that
	Success time.Time // the newest run that succeeded, or did in part, ended
}

// Schedule is what the schedule is going to do.
type Schedule struct {
	Known bool
	Next  time.Time // zero: nothing is planned
	// Due is since when a run is due that was not made, as far as is known.
	Due time.Time
}

// Proof is the newest proof that a backup restores: a drill, or a restore whose
// rows were all compared.
type Proof struct {
	Time   time.Time // zero: none is on record
	Backup string
	Failed bool // what was tried last failed
	Error  string
}

// Lock is a lock, or the mark of a run, that may be in the way.
type Lock struct {
	What  string // "the lock of the repository"
	Who   string
	Since time.Time
	// Dead says that its holder does not live any more, or cannot be told from one
	// that does not.
	Dead   bool
	Remedy string
}

// Leftover is what a restore left in the database.
type Leftover struct {
	Name   string // unfinished: of the backup
	Schema string // that it was made for
	Kind   string // staged, replaced, remains, folder, pending or unfinished
	Since  time.Time
	Bytes  int64
}

// NotifierFailure is a way to tell people that does not work.
type NotifierFailure struct {
	Notifier string
	Since    time.Time // zero: not known
	Count    int       // messages that wait
	Error    string
}

// Targets are what is good enough.
type Targets struct {
	// MaxAge is the age up to which a schema's newest backup is fresh; 0: any is.
	MaxAge time.Duration
	// MaxAges are the exceptions, the first that fits counts.
	MaxAges []TenantAge
	// MaxProof is the age up to which the newest proof is good; 0: any is.
	MaxProof time.Duration
	// MinDays is for how many days the disk must be enough; 0: for any.
	MinDays int
	// MaxReplaced is how long what a restore left may stay.
	MaxReplaced time.Duration
}

// TenantAge is the target of schemas or tenants whose names fit a pattern.
type TenantAge struct {
	Pattern string // as package wildcard takes it
	MaxAge  time.Duration
}
