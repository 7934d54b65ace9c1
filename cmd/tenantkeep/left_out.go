package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/restore"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// leftOut is a schema that a restore of everything does not bring back, or not as
// it was last saved.
type leftOut struct {
	Schema string
	Backup string    // id of the newest one that has it
	Taken  time.Time // what that shows
	Older  bool      // the chosen backup has it too, as it was before
}

// line tells a person of it, and how to bring it back.
func (l leftOut) line(chosen string, now time.Time) string {
	what := "is not in it, and"
	if l.Older {
		what = "is in it as it was before:"
	}
	return fmt.Sprintf("backup %s is not all: schema %s %s its newest backup is %s, taken %s\ntenantkeep restore --manifest %s --schema %s brings it back",
		ui.Safe(chosen), ui.Safe(l.Schema), what, ui.Safe(l.Backup), ui.Age(l.Taken, now), shellWord(l.Backup), shellWord(l.Schema))
}

// findLeftOut lists, in the order of their names, the schemas that were in the
// database of the chosen backup at a moment and that a restore of this backup does
// not bring back as they were last saved by then. until is the moment, zero: now.
// Those that were dropped by then do not count, if a backup tells so.
func findLeftOut(all []repo.Backup, chosen repo.Backup, until time.Time) []leftOut {
	inTime := func(t time.Time) bool { return until.IsZero() || !t.After(until) }
	newest := map[string]leftOut{}
	has := map[string]time.Time{}
	for _, s := range chosen.Manifest.Schemas {
		has[s.Schema] = takenAt(chosen.Manifest, s)
	}
	all = slices.DeleteFunc(slices.Clone(all), func(b repo.Backup) bool {
		return b.Err != nil || !isFrom(b.Manifest, databaseName(chosen.Manifest)) && databaseName(chosen.Manifest) != ""
	})
	for _, b := range all {
		if !usable(b.Manifest) {
			continue
		}
		for _, s := range b.Manifest.Schemas {
			taken := takenAt(b.Manifest, s)
			if known, ok := newest[s.Schema]; inTime(taken) && (!ok || taken.After(known.Taken)) {
				newest[s.Schema] = leftOut{Schema: s.Schema, Backup: b.ID, Taken: taken}
			}
		}
	}
	var list []leftOut
	for schema, l := range newest {
		taken, ok := has[schema]
		if l.Older = ok; ok && !l.Taken.After(taken) {
			continue
		}
		dropped := slices.ContainsFunc(all, func(b repo.Backup) bool {
			at := takenAt(b.Manifest, manifest.Schema{})
			return at.After(l.Taken) && inTime(at) && lacks(b.Manifest, schema)
		})
		if !dropped {
			list = append(list, l)
		}
	}
	slices.SortFunc(list, func(x, y leftOut) int { return strings.Compare(x.Schema, y.Schema) })
	return list
}

// lacks reports whether a backup tells that a schema was not in the database. The
// original system saves all schemas or a single one.
func lacks(m *manifest.Manifest, schema string) bool {
	there, known := m.Knows(schema)
	if m.Format == 0 {
		known = m.BackupType == manifest.Full && len(m.Schemas) > 1
	}
	return known && !there
}

// tellLeftOut warns of what a restore of everything leaves out. After the newest
// backup and that of a time it returns how many schemas these are; who names a
// backup gets what is in it, and only hears what it lacks of its own moment.
func (a *app) tellLeftOut(ctx context.Context, from place, chosen repo.Backup, w wanted) (int, error) {
	if len(w.Schemas) > 0 || from.Rollback || !usable(chosen.Manifest) {
		return 0, nil
	}
	all, err := from.Repo.List(ctx)
	if err != nil {
		return 0, err
	}
	until := time.Time{}
	switch {
	case w.Manifest != "":
		for _, s := range chosen.Manifest.Schemas {
			if t := takenAt(chosen.Manifest, s); t.After(until) {
				until = t
			}
		}
	case w.At != "":
		m, err := parseMoment(w.At, a.now(), time.Local)
		if err != nil {
			return 0, err
		}
		until = m.Time
	}
	list := findLeftOut(all, chosen, until)
	const most = 20
	for i, l := range list {
		if i == most {
			a.ui().Warnf("backup %s leaves out %d more schemas: tenantkeep restore --list-available shows the backups of each", ui.Safe(chosen.ID), len(list)-most)
			break
		}
		a.ui().Warnf("%s", l.line(chosen.ID, a.now()))
	}
	return len(list), nil
}

// errLeftOut says that a restore of everything was not one.
func errLeftOut(id string, n int) error {
	return &hintedError{
		err:  fmt.Errorf("%s of the database %s not, or not as last saved, in backup %s", ui.Plural(int64(n), "schema"), are(n), ui.Safe(id)),
		hint: "the warnings above have the command for each",
	}
}

// refuseLeftOut refuses to start an application on a part of its database.
func refuseLeftOut(b repo.Backup, missing int) error {
	err := errLeftOut(b.ID, missing)
	if !slices.ContainsFunc(b.Manifest.Schemas, manifest.Schema.IsCore) {
		err = fmt.Errorf("backup %s does not hold core", ui.Safe(b.ID))
	} else if missing == 0 {
		return nil
	}
	return &restore.FillingError{
		Err: err,
		Advice: "nothing was restored, so that nobody takes a part of the database for all of it. Restore by hand, a backup with core first and then what it leaves out; " +
			"or set RESTORE_INCOMPLETE=true to start without that",
	}
}

func are(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}
