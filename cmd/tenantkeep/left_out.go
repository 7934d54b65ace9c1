package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/restore"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// leftOut is a schema that the backup which is chosen for everything does not hold,
// or not as it was last saved.
type leftOut struct {
	Schema string
	Backup string    // id of the newest one that has it; empty: none could save it
	Taken  time.Time // what that shows
	Older  bool      // the chosen backup has it too, as it was before
	Error  string    // why it could not be saved
}

// line tells a person of it, and how to bring it back.
func (l leftOut) line(chosen string, now time.Time) string {
	if l.Backup == "" {
		return fmt.Sprintf("backup %s is not all: schema %s is in no backup, since saving it failed: %s", ui.Safe(chosen), ui.Safe(l.Schema), ui.Safe(l.Error))
	}
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
	for _, b := range all {
		if b.Manifest.BackupType == manifest.Baseline {
			continue
		}
		for _, f := range b.Manifest.Failures {
			at := takenAt(b.Manifest, manifest.Schema{})
			if known, ok := newest[f.Schema]; inTime(at) && (!ok || known.Backup == "" && at.After(known.Taken)) {
				newest[f.Schema] = leftOut{Schema: f.Schema, Taken: at, Error: f.Error}
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

// whole is what a restore of everything takes from which backup.
type whole struct {
	parts   []part // in the order in which they are restored
	missing int    // schemas that none of them has, or not as last saved
}

// part is what a restore of everything takes from one backup.
type part struct {
	backup  repo.Backup
	schemas []string // nil: all that it holds
}

// taken is the newest moment that the part shows.
func (p part) taken() (latest time.Time) {
	for _, s := range p.backup.Manifest.Schemas {
		if t := takenAt(p.backup.Manifest, s); (p.schemas == nil || slices.Contains(p.schemas, s.Schema)) && t.After(latest) {
			latest = t
		}
	}
	return latest
}

// hasCore reports whether core is in the part.
func (p part) hasCore() bool {
	return slices.ContainsFunc(p.backup.Manifest.Schemas, func(s manifest.Schema) bool {
		return s.IsCore() && (p.schemas == nil || slices.Contains(p.schemas, s.Schema))
	})
}

// everything says what a restore of everything takes from the chosen backup and,
// where that leaves schemas out or has them as they were before, from their own
// newest ones. It tells what is missing all the same. Who names a backup gets what is
// in it, and only hears what it lacks of its own moment.
func (a *app) everything(ctx context.Context, from place, chosen repo.Backup, w wanted) (whole, error) {
	only := whole{parts: []part{{backup: chosen}}}
	if len(w.Schemas) > 0 || from.Rollback || !usable(chosen.Manifest) {
		return only, nil
	}
	all, err := from.Repo.List(ctx)
	if err != nil {
		return only, err
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
			return only, err
		}
		until = m.Time
	}
	list := findLeftOut(all, chosen, until)
	if w.Manifest == "" {
		if only, list, err = a.complete(ctx, from, all, chosen, list, until, w); err != nil {
			return only, err
		}
	}
	only.missing = len(list)
	const most = 20
	for i, l := range list {
		if i == most {
			a.ui().Warnf("backup %s leaves out %d more schemas: tenantkeep restore --list-available shows the backups of each", ui.Safe(chosen.ID), len(list)-most)
			break
		}
		a.ui().Warnf("%s", l.line(chosen.ID, a.now()))
	}
	return only, nil
}

// complete finds for each schema that the chosen backup leaves out the newest one
// whose files are there, and returns those for which there is none.
func (a *app) complete(ctx context.Context, from place, all []repo.Backup, chosen repo.Backup, list []leftOut, until time.Time, w wanted) (whole, []leftOut, error) {
	copies := copiesOf(all, chosen, list, until, w)
	schemas := map[string][]string{} // by the key of the backup that they come from
	backups := map[string]repo.Backup{chosen.Key: chosen}
	elsewhere := map[string]bool{}
	var missing []leftOut
	for _, l := range list {
		found := false
		for _, c := range copies[l.Schema] {
			if err := from.Repo.CheckPresent(ctx, c.backup.Manifest, c.entry); err != nil {
				if ctx.Err() != nil {
					return whole{}, nil, context.Cause(ctx)
				}
				a.ui().Warnf("backup %s is passed over for schema %s: %v", ui.Safe(c.backup.ID), ui.Safe(l.Schema), err)
				continue
			}
			found, elsewhere[l.Schema] = true, true
			schemas[c.backup.Key], backups[c.backup.Key] = append(schemas[c.backup.Key], l.Schema), c.backup
			break
		}
		if !found {
			missing = append(missing, l)
		}
	}
	if len(elsewhere) == 0 {
		return whole{parts: []part{{backup: chosen}}}, missing, nil
	}
	for _, s := range chosen.Manifest.Schemas {
		if !elsewhere[s.Schema] {
			schemas[chosen.Key] = append(schemas[chosen.Key], s.Schema)
		}
	}
	var parts []part
	for key, names := range schemas {
		parts = append(parts, part{backups[key], names})
	}
	// Tenants need core; and what fails is to fail early.
	slices.SortFunc(parts, func(x, y part) int {
		if x.hasCore() != y.hasCore() {
			return map[bool]int{true: -1, false: 1}[x.hasCore()]
		}
		return cmp.Or(len(y.schemas)-len(x.schemas), y.backup.Time().Compare(x.backup.Time()), strings.Compare(x.backup.ID, y.backup.ID))
	})
	return whole{parts: parts}, missing, nil
}

// copyOf is a schema in a backup.
type copyOf struct {
	backup repo.Backup
	entry  manifest.Schema
	taken  time.Time
}

// copiesOf returns for each schema that is left out the backups that have it as it
// was later than in the chosen one, the newest first.
func copiesOf(all []repo.Backup, chosen repo.Backup, list []leftOut, until time.Time, w wanted) map[string][]copyOf {
	after := map[string]time.Time{}
	for _, l := range list {
		after[l.Schema] = time.Time{}
	}
	for _, s := range chosen.Manifest.Schemas {
		if _, ok := after[s.Schema]; ok {
			after[s.Schema] = takenAt(chosen.Manifest, s)
		}
	}
	copies := map[string][]copyOf{}
	for _, b := range all {
		if b.Err != nil || !usable(b.Manifest) || w.Media && !b.Manifest.IncludeMedia || databaseName(chosen.Manifest) != "" && !isFrom(b.Manifest, databaseName(chosen.Manifest)) {
			continue
		}
		for _, s := range b.Manifest.Schemas {
			taken := takenAt(b.Manifest, s)
			if than, ok := after[s.Schema]; !ok || !taken.After(than) || !until.IsZero() && taken.After(until) {
				continue
			}
			copies[s.Schema] = append(copies[s.Schema], copyOf{b, s, taken})
		}
	}
	for _, list := range copies {
		slices.SortStableFunc(list, func(x, y copyOf) int { return y.taken.Compare(x.taken) })
	}
	return copies
}

// tellParts says what comes from where, and that it is not of one moment.
func (a *app) tellParts(log *slog.Logger, parts []part) {
	const most = 10
	lines := []string{fmt.Sprintf("no backup has everything as it was last saved: this restore takes it from %d backups. What it brings back is not of one moment; rows of core and of tenants that refer to one another may not fit", len(parts))}
	for i, p := range parts {
		log.Warn("A restore of everything takes schemas from a backup.", "backup", p.backup.ID, "taken", p.taken(), "schemas", p.schemas)
		if i == most {
			lines = append(lines, fmt.Sprintf("and from %s more", ui.Plural(int64(len(parts)-most), "backup")))
		}
		if i < most {
			lines = append(lines, fmt.Sprintf("backup %s, taken %s: %s", ui.Safe(p.backup.ID), ui.Age(p.taken(), a.now()), p.names()))
		}
	}
	a.ui().Warnf("%s", strings.Join(lines, "\n"))
}

// names are the schemas of a part, for people.
func (p part) names() string {
	const most = 5
	var names []string
	for i, name := range p.schemas {
		if i == most {
			names = append(names, fmt.Sprintf("and %d more", len(p.schemas)-most))
			break
		}
		names = append(names, ui.Safe(name))
	}
	return strings.Join(names, ", ")
}

// errLeftOut says that a restore of everything was not one.
func errLeftOut(id string, n int) error {
	return &hintedError{
		err:  fmt.Errorf("%s of the database %s not, or not as last saved, in backup %s", ui.Plural(int64(n), "schema"), are(n), ui.Safe(id)),
		hint: "the warnings above tell of each",
	}
}

// refuseLeftOut refuses to start an application on a part of its database.
func refuseLeftOut(w whole) error {
	id := w.parts[0].backup.ID
	err := errLeftOut(id, w.missing)
	if !w.parts[0].hasCore() {
		err = fmt.Errorf("backup %s does not hold core", ui.Safe(id))
	} else if w.missing == 0 {
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
