package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/audit"
	"github.com/tenantkeep/tenantkeep/internal/health"
	"github.com/tenantkeep/tenantkeep/internal/repo"
)

// trailFacts are what the audit trail tells of the repository.
type trailFacts struct {
	made map[string]bool // backups that runs said to have made
	gone map[string]bool // what was removed, or was about to be
	open map[string]audit.Record
	// scheduled is that the newest run of the database was one of the schedule's.
	scheduled bool

	database string          // name of that which is looked at; empty: any
	others   map[string]bool // backups of others in the same repository
}

// concerns reports whether a run was one of the database that is looked at. Its name
// tells, since who runs the schedule may reach the server by another address, and the
// backup that it made.
func (t *trailFacts) concerns(r audit.Record) bool {
	for _, id := range append([]string{r.Backup}, r.Backups...) {
		if t.others[id] {
			return false
		}
	}
	return t.database == "" || r.Database == "" || strings.HasPrefix(r.Database, fmt.Sprintf("database %q on ", t.database))
}

// makesBackups are the commands whose end names a backup that they made.
var makesBackups = []string{"backup", "schedule", "serve"}

// trail reads the audit trail; nil: there is none that can be read. mine tells which
// backups are of the database that is looked at.
func (x *examiner) trail(backups []repo.Backup, mine map[string]bool) *trailFacts {
	repository, err := filepath.Abs(x.cfg.Repository)
	if err != nil {
		return nil
	}
	t := &trailFacts{made: map[string]bool{}, gone: map[string]bool{}, open: map[string]audit.Record{}, database: x.facts.Database.Name, others: map[string]bool{}}
	for _, b := range backups {
		t.others[b.ID] = !mine[b.Key]
	}
	f := &health.Trail{}
	err = audit.Read(audit.Open(x.cfg.LogDir, x.now).Path(), func(r audit.Record) {
		if r.Repository != repository {
			return
		}
		for _, name := range slices.Concat(r.Removing, r.Removed) {
			t.gone[name] = true
		}
		switch {
		case slices.Contains(makesBackups, r.Command):
			t.backup(f, r)
		case r.Command == "restore" && r.Event == audit.Ended && !t.others[r.Backup]:
			x.proof(r)
		}
	})
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			x.facts.TrailErr = err.Error()
		}
		return nil
	}
	for _, r := range t.open {
		x.killed(r.Time)
	}
	// A backup that exists was a success, whoever keeps the trail.
	for _, b := range backups {
		if mine[b.Key] && b.Manifest != nil {
			if b.Manifest.Finished.After(f.Success) {
				f.Success = b.Manifest.Finished
			}
			break
		}
	}
	x.facts.Trail = f
	return t
}

// killed notes a run that did not end, unless something is at work.
func (x *examiner) killed(began time.Time) {
	if len(x.facts.Running)+len(x.facts.Locks) == 0 && began.After(x.facts.Killed) {
		x.facts.Killed = began
	}
}

// backup takes in a record of a command that makes backups.
func (t *trailFacts) backup(f *health.Trail, r audit.Record) {
	mine := t.concerns(r)
	later := func(at *time.Time) {
		if mine && r.Time.After(*at) {
			*at = r.Time
		}
	}
	switch r.Event {
	case audit.Started:
		if !mine {
			return
		}
		t.open[r.Run] = r
		t.scheduled = r.Command != "backup"
		later(&f.Last)
	case audit.Ended:
		delete(t.open, r.Run)
		switch r.Result {
		case audit.OK, audit.Partial:
			later(&f.Success)
			for _, id := range append(r.Backups, r.Backup) {
				if id != "" {
					t.made[id] = true
				}
			}
		case audit.Failed, audit.Interrupted:
			// A deployment interrupts the process that stays, and the next one makes the
			// backup. Where there is none, the check of the schedule tells.
			if mine && (r.Result == audit.Failed || r.Command != "serve") {
				later(&f.Failed)
				f.Error = r.Error
			}
		}
	}
}

// proof takes in that a restore ended: all of its rows were compared with the
// checksums of the backup.
func (x *examiner) proof(r audit.Record) {
	switch {
	case strings.HasPrefix(r.Backup, rollbackName+"/"):
	case r.Result == audit.OK && r.Backup != "":
		x.facts.Proof = health.Proof{Time: r.Time, Backup: r.Backup}
	case r.Result == audit.Failed && r.Backup != "":
		x.facts.Proof.Failed, x.facts.Proof.Error = true, r.Error
	}
}
