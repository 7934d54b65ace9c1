// Package audit keeps the audit trail: a file to which every command that
// changes something adds a record when it begins, and one when it ends. Each
// record carries the hash of what stands before it, so that one that is
// changed, taken out or put in later is noticed. A command that was killed
// shows as a record without an end.
//
// The file only ever grows, and its records are never written again: it may be
// on a disk, or have an attribute, that allows nothing else.
package audit

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/filelock"
)

// Name is what the file is called in the directory of the logs.
const Name = "audit.jsonl"

// Format is the version of the records that this package writes.
const Format = 1

// none stands for the hash of what is before the first record.
var none = strings.Repeat("0", 2*sha256.Size)

const (
	lockWait = 5 * time.Second // others hold the lock for milliseconds
	lockPoll = 10 * time.Millisecond

	// maxError is how many characters of an error are kept.
	maxError = 1000

	dirMode  fs.FileMode = 0o700
	fileMode fs.FileMode = 0o600
)

// Event says which end of a command a record tells of.
type Event string

// The events.
const (
	Started Event = "started"
	Ended   Event = "ended"
	// Removing is between the two: what Removing names is deleted next.
	Removing Event = "removing"
)

// Result is how a command ended.
type Result string

// The results.
const (
	OK          Result = "ok"
	Partial     Result = "partial" // some tenants failed, the rest is done
	Failed      Result = "failed"
	Interrupted Result = "interrupted"
)

// Record is one line of the trail. Fields are only ever added.
type Record struct {
	Format int       `json:"format"`
	Time   time.Time `json:"time"`
	Event  Event     `json:"event"`
	Run    string    `json:"run"` // the same in both records of a command, and in no others

	User     string `json:"user"`                // of the operating system
	SudoUser string `json:"sudo_user,omitempty"` // who became that user, as sudo says
	Host     string `json:"host"`
	PID      int    `json:"pid"`

	Command   string   `json:"command"`
	Arguments []string `json:"arguments,omitempty"` // flags and settings that were given, without secrets

	Repository string   `json:"repository,omitempty"`
	Database   string   `json:"database,omitempty"` // with its host, and the role
	Schemas    []string `json:"schemas,omitempty"`  // or tenants, as they were named
	Backup     string   `json:"backup,omitempty"`   // that was made, or used
	Backups    []string `json:"backups,omitempty"`  // further ones, of a run that makes several
	Removing   []string `json:"removing,omitempty"` // what is about to be deleted or dropped for good
	Removed    []string `json:"removed,omitempty"`  // what was deleted or dropped for good
	Rebuilt    []string `json:"rebuilt,omitempty"`  // backups whose manifests were rebuilt

	Result  Result  `json:"result,omitempty"` // of Ended
	Code    *int    `json:"code,omitempty"`   // exit code
	Error   string  `json:"error,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`

	// Torn says that between the record before and this one stands text that is
	// no record: the end of one that could not be written whole.
	Torn bool `json:"torn,omitempty"`
	// Previous is the SHA-256 of the line before, without its line feed, and of
	// what is torn between; of nothing it is zeros.
	Previous string `json:"previous"`
}

// whole reports whether a line is a record.
func whole(line []byte) (Record, bool) {
	var r Record
	if json.Unmarshal(line, &r) != nil || r.Format < 1 {
		return r, false
	}
	sum, err := hex.DecodeString(r.Previous)
	return r, err == nil && len(sum) == sha256.Size
}

// Trail is an audit trail.
type Trail struct {
	path string
	now  func() time.Time
}

// Open returns the trail in a directory, which the first record makes. now is
// its clock; nil is time.Now.
func Open(dir string, now func() time.Time) *Trail {
	if now == nil {
		now = time.Now
	}
	return &Trail{path: filepath.Join(dir, Name), now: now}
}

// Path is where the trail is.
func (t *Trail) Path() string { return t.path }

// Run is a command that is at work.
type Run struct {
	Record // what the end is going to say; may be completed until End

	trail *Trail
	began time.Time
}

// Begin notes that a command begins. r says what it is; who, where and when is
// added. After an error, which says that nothing is noted, the Run can be used
// all the same, and End tries again.
func (t *Trail) Begin(ctx context.Context, r Record) (*Run, error) {
	r.Format, r.Event, r.Run, r.PID = Format, Started, rand.Text(), os.Getpid()
	r.User, r.SudoUser, r.Host = who()
	run := &Run{Record: r, trail: t, began: t.now()}
	return run, t.add(ctx, r)
}

// Removing notes what the command is about to delete for good, so that a trace of it
// is left if it is killed.
func (r *Run) Removing(ctx context.Context, names []string) error {
	record := r.Record
	record.Event, record.Removing = Removing, names
	return r.trail.add(ctx, record)
}

// End notes how the command ended, also after ctx was cancelled.
func (r *Run) End(ctx context.Context, result Result, code int, err error) error {
	r.Event, r.Result, r.Code, r.Seconds = Ended, result, &code, r.trail.now().Sub(r.began).Seconds()
	if err != nil {
		text := []rune(strings.ToValidUTF8(err.Error(), "\uFFFD"))
		if len(text) > maxError {
			text = append(text[:maxError-1], '…')
		}
		r.Error = string(text)
	}
	return r.trail.add(context.WithoutCancel(ctx), r.Record)
}

// who is the user of the operating system, and the machine.
func who() (name, sudo, host string) {
	name = strconv.Itoa(os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return name, os.Getenv("SUDO_USER"), host
}

// add writes one record, durably, while no other process writes.
func (t *Trail) add(ctx context.Context, r Record) (err error) {
	f, err := t.lock(ctx)
	if err != nil {
		return fmt.Errorf("write audit trail: %w", err)
	}
	defer func() {
		if err = errors.Join(err, filelock.Release(f)); err != nil {
			err = fmt.Errorf("write audit trail: %w", err)
		}
	}()
	before, err := lastRecord(f)
	if err != nil {
		return err
	}
	r.Time, r.Previous, r.Torn = t.now().UTC(), before.hash, before.torn
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	if before.open {
		line = append([]byte{'\n'}, line...)
	}
	if _, err := f.Write(line); err != nil {
		// The disk is full, say. What was written of the line goes, or else the
		// next record says that it is torn.
		_ = f.Truncate(before.size)
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if before.size == 0 {
		return syncDir(filepath.Dir(t.path))
	}
	return nil
}

// lock opens the file for appending and locks it.
func (t *Trail) lock(ctx context.Context) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(t.path), dirMode); err != nil {
		return nil, err
	}
	deadline := time.Now().Add(lockWait)
	for {
		f, err := openFile(t.path, os.O_RDWR|os.O_CREATE|os.O_APPEND)
		if err != nil {
			return nil, err
		}
		err = filelock.Try(f, filelock.Exclusive)
		if err == nil {
			if sameFile(f, t.path) {
				return f, nil
			}
			err = filelock.ErrLocked // it was moved away between the two: the next try makes a new one
		}
		if err = errors.Join(err, f.Close()); !errors.Is(err, filelock.ErrLocked) || time.Now().After(deadline) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(lockPoll):
		}
	}
}

// openFile opens a trail, and nothing that is no file: a pipe would keep who reads
// it waiting for ever.
func openFile(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, flag|syscall.O_NONBLOCK, fileMode)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("open %s: it is not a file", path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func sameFile(f *os.File, path string) bool {
	opened, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(opened, named)
}

// end is what stands at the end of a trail.
type end struct {
	hash string // of the last record and of what is torn behind it
	torn bool
	open bool // the last line has no line feed
	size int64
}

// lastRecord reads the file backwards until it has a whole record.
func lastRecord(f *os.File) (end, error) {
	info, err := f.Stat()
	if err != nil {
		return end{}, err
	}
	e := end{size: info.Size()}
	if e.size == 0 {
		e.hash = none
		return e, nil
	}
	for length := int64(64 << 10); ; length *= 4 {
		length = min(length, e.size)
		text := make([]byte, length)
		if _, err := f.ReadAt(text, e.size-length); err != nil && !errors.Is(err, io.EOF) {
			return end{}, err
		}
		e.open = text[length-1] != '\n'
		if !e.open {
			text = text[:length-1]
		}
		for to := len(text); to >= 0; {
			from := bytes.LastIndexByte(text[:to], '\n') + 1
			if from == 0 && length < e.size {
				break // the line may begin before what was read
			}
			if _, ok := whole(text[from:to]); ok || from == 0 {
				sum := sha256.Sum256(text[from:])
				e.hash, e.torn = hex.EncodeToString(sum[:]), !ok || to < len(text)
				return e, nil
			}
			to = from - 1
		}
	}
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil // some network file systems cannot sync directories
	}
	return errors.Join(err, f.Close())
}
