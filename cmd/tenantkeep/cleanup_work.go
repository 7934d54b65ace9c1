package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/restore"
	"github.com/tenantkeep/tenantkeep/internal/retention"
	"github.com/tenantkeep/tenantkeep/internal/storage"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// look finds out what is there and what of it may go. It changes nothing and
// holds no lock, so that nobody waits while the user reads.
func (c *cleanup) look(ctx context.Context) error {
	if c.target != nil {
		if err := c.lookIntoDatabase(ctx); err != nil {
			return err
		}
	}
	if c.places == nil {
		return nil
	}
	if err := c.lookIntoBackups(ctx); err != nil {
		return err
	}
	var err error
	if c.strays, err = c.places[0].Repo.Strays(ctx); err != nil {
		return err
	}
	if c.points, err = c.saved.Repo.List(ctx); err != nil {
		return err
	}
	if c.rule.Dead, err = c.deadPoints(ctx, c.points); err != nil {
		return err
	}
	if c.fates, err = c.decidePoints(ctx, c.points, c.backups); err != nil {
		return err
	}
	pointStrays, err := c.saved.Repo.Strays(ctx)
	if err != nil {
		return err
	}
	for i, backups := range [][]repo.Backup{slices.Concat(c.backups, c.strays), slices.Concat(c.points, pointStrays)} {
		if slices.ContainsFunc(backups, func(b repo.Backup) bool { return b.Err != nil }) {
			continue // nobody knows what is an orphan; the plan says so
		}
		if c.orphans[i], err = c.places[i].Repo.OldOrphans(ctx, backups, orphanAge); err != nil {
			return err
		}
	}
	c.logs, err = rotatedLogs(c.cfg.LogDir, c.now.Add(-time.Duration(c.opts.KeepLogs)))
	return err
}

// lookIntoBackups decides about the backups. A run that is at work is waited for as
// long as its lock would be: it is no reason to call for another backup.
func (c *cleanup) lookIntoBackups(ctx context.Context) error {
	r := c.places[0].Repo
	for waited := false; ; waited = true {
		var err error
		if c.backups, err = r.List(ctx); err != nil {
			return err
		}
		if c.plan, err = c.decide(ctx, c.backups); err != nil {
			return err
		}
		running := slices.ContainsFunc(c.plan.Holds, func(h retention.Hold) bool { return h.Run != "" })
		if !running || waited || c.opts.DryRun {
			return nil
		}
		_, unlock, err := r.Lock(ctx, repo.Exclusive, "cleanup")
		if err != nil {
			return err
		}
		if err := unlock(); err != nil {
			return err
		}
	}
}

// decide decides about backups.
func (c *cleanup) decide(ctx context.Context, backups []repo.Backup) (*retention.Plan, error) {
	pins, err := c.places[0].Repo.Pins(ctx)
	if err != nil {
		return nil, err
	}
	return decide(ctx, c.places[0].Repo, backups, pins, c.policy)
}

func (c *cleanup) lookIntoDatabase(ctx context.Context) (err error) {
	if c.kept, err = restore.ListReplaced(ctx, c.target); err != nil {
		return err
	}
	c.rule.Standing = map[string]string{}
	for _, r := range c.kept {
		c.rule.Standing[r.Point] = r.Name
	}
	if c.rule.SameDatabase, err = ofDatabase(ctx, c.target); err != nil {
		return err
	}
	c.schemas, err = restore.DropOwn(ctx, restore.DropOptions{Server: c.target, Before: c.before(), DryRun: true, Media: c.media})
	if err == nil {
		c.pending, err = pendingMedia(ctx, c.target, c.media)
	}
	if err == nil {
		c.unfinished, err = restore.ListUnfinished(ctx, c.target)
	}
	return err
}

// before is the time up to which replaced schemas go.
func (c *cleanup) before() time.Time { return c.now.Add(-time.Duration(c.opts.KeepReplaced)) }

func (c *cleanup) decidePoints(ctx context.Context, points, backups []repo.Backup) ([]retention.Decision, error) {
	pins, err := c.saved.Repo.Pins(ctx)
	if err != nil {
		return nil, err
	}
	c.rule.Now, c.rule.Keep = c.now, time.Duration(c.opts.KeepRollback)
	return retention.Points(retained(points, pins, nil), retained(backups, nil, nil), c.rule), nil
}

// deadPoints finds the rollback points of restores that did not replace anything.
// That nothing confirms a point is not enough: what did may have been lost. For as
// long as a restore is at work, its own looks like one of them.
func (c *cleanup) deadPoints(ctx context.Context, points []repo.Backup) (map[string]bool, error) {
	dead := map[string]bool{}
	if c.rule.SameDatabase == nil { // nobody knows what was replaced
		return dead, nil
	}
	inForce, err := c.saved.inForce(ctx, c.kept)
	if err != nil {
		return nil, err
	}
	expected, err := c.saved.Repo.Expected(ctx)
	if err != nil {
		return nil, err
	}
	for _, b := range points {
		if b.Err == nil && expected[b.ID] && c.rule.SameDatabase(b.Manifest) && !inForce(b) {
			dead[b.ID] = true
		}
	}
	return dead, nil
}

// work removes what was shown, and nothing else: what is there is looked at again
// while nobody else can change it. A part that fails does not keep the others
// from being done.
func (c *cleanup) work(ctx context.Context) error {
	var errs []error
	if c.places != nil {
		errs = append(errs, c.cleanBackups(ctx))
	}
	c.rule.Dead = nil // until it is certain that no restore is at work
	if len(c.schemas)+len(c.pending) > 0 || slices.ContainsFunc(c.fates, func(d retention.Decision) bool { return !d.Keep && d.Has(retention.Dead) }) {
		errs = append(errs, c.cleanDatabase(ctx))
	}
	if c.places != nil {
		errs = append(errs, c.cleanPoints(ctx), c.removeLogs())
	}
	return errors.Join(errs...)
}

func (c *cleanup) cleanBackups(ctx context.Context) error {
	r, shown, orphans := c.places[0].Repo, goingOf(c.backups, c.plan.Decisions), c.goingOrphans(0)
	if len(shown) == 0 && len(orphans) == 0 {
		return nil
	}
	return r.Clean(ctx, func(ctx context.Context, clean *repo.Cleaning) error {
		plan, err := c.decide(ctx, clean.Backups())
		if err != nil {
			return err
		}
		c.plan.Holds = plan.Holds
		going := c.stillGoing(shown, clean.Backups(), plan.Decisions, "backup", "")
		return c.clean(ctx, clean, going, "", orphans)
	})
}

func (c *cleanup) cleanPoints(ctx context.Context) error {
	r, shown, orphans := c.saved.Repo, goingOf(c.points, c.fates), c.goingOrphans(1)
	if len(shown) == 0 && len(orphans) == 0 {
		return nil
	}
	backups, err := c.places[0].Repo.List(ctx) // some are gone now
	if err != nil {
		return err
	}
	return r.Clean(ctx, func(ctx context.Context, clean *repo.Cleaning) error {
		fates, err := c.decidePoints(ctx, clean.Backups(), backups)
		if err != nil {
			return err
		}
		going := c.stillGoing(shown, clean.Backups(), fates, "rollback point", rollbackName+"/")
		return c.clean(ctx, clean, going, rollbackName+"/", orphans)
	})
}

// clean removes backups and orphans of one place, whose names begin with prefix.
func (c *cleanup) clean(ctx context.Context, clean *repo.Cleaning, going []repo.Backup, prefix string, orphans []repo.Orphan) error {
	manifests := make(map[string]string) // ids by key
	for _, b := range clean.Backups() {
		manifests[b.Key] = b.ID
	}
	count := func(list []storage.Info) {
		for _, i := range list {
			c.removed[prefix+i.Key] = true
			if id, ok := manifests[i.Key]; ok {
				c.removed[prefix+id] = true
			}
			c.files++
			c.freed += i.Size
		}
	}
	removed, err := clean.Remove(ctx, going)
	count(removed)
	if err != nil {
		return err
	}
	removed, err = clean.RemoveOrphans(ctx, orphans, orphanAge)
	count(removed)
	if err != nil {
		return err
	}
	removed, err = clean.RemoveTemporary(ctx, orphanAge)
	count(removed)
	return err
}

// goingOf are the backups that go.
func goingOf(backups []repo.Backup, decisions []retention.Decision) []repo.Backup {
	var going []repo.Backup
	for i, d := range decisions {
		if !d.Keep {
			going = append(going, backups[i])
		}
	}
	return going
}

// stillGoing returns which of the backups that were shown still go, and tells why
// the others do not. now are the backups that are there now, in the order of the
// decisions about them.
func (c *cleanup) stillGoing(shown, now []repo.Backup, decisions []retention.Decision, kind, prefix string) []repo.Backup {
	return slices.DeleteFunc(shown, func(b repo.Backup) bool {
		i := slices.IndexFunc(now, func(n repo.Backup) bool { return n.Key == b.Key })
		why := ""
		switch {
		case i < 0:
			return true
		case !now[i].Same(b):
			why = "its manifest was exchanged meanwhile"
		case decisions[i].Keep:
			why = decisions[i].Why()
		default:
			return false
		}
		c.ui().Warnf("%s %s%s stays after all: %s", kind, prefix, ui.Safe(b.ID), why)
		return true
	})
}

// goes reports whether an orphan is removed. One whose manifest may have been lost
// is all that is left of its backup.
func (c *cleanup) goes(o repo.Orphan) bool {
	return o.Problem == "" && (o.Removal || c.opts.RemoveOrphans)
}

// goingOrphans are the orphans of a place that are removed.
func (c *cleanup) goingOrphans(place int) []repo.Orphan {
	return slices.DeleteFunc(slices.Clone(c.orphans[place]), func(o repo.Orphan) bool { return !c.goes(o) })
}

// reasonOfOrphan says why a file is an orphan, or stays.
func reasonOfOrphan(o repo.Orphan) string {
	switch {
	case o.Problem != "":
		return o.Problem
	case o.Removal:
		return "left by a cleanup that was interrupted"
	case o.Backup != "":
		return "of backup " + ui.Safe(o.Backup) + ", but no manifest names it"
	default:
		return "belongs to no backup that is known"
	}
}

// cleanDatabase drops the schemas that were shown, and finds out which rollback
// points are dead.
func (c *cleanup) cleanDatabase(ctx context.Context) error {
	shown := c.schemas
	list, err := restore.DropOwn(ctx, restore.DropOptions{
		Server: c.target, Before: c.before(), Kept: c.settlePoints, Media: c.media,
		Note: func(text string) { c.ui().Warnf("%s", ui.Safe(text)) },
		Only: func(d restore.Dropped) bool {
			return slices.ContainsFunc(shown, func(s restore.Dropped) bool { return s.Name == d.Name })
		},
	})
	if err != nil {
		return fmt.Errorf("clean up database: %w", err)
	}
	c.schemas = list
	for _, d := range list {
		if len(d.Dependents) == 0 && d.Waits == "" {
			c.removed[d.Name] = true
		}
	}
	return nil
}

// settlePoints decides which rollback points are dead, while no restore is at
// work. Of the others it notes down what so far only a replaced schema tells,
// which may be about to go.
func (c *cleanup) settlePoints(ctx context.Context, kept []restore.Replaced) error {
	points, err := c.saved.Repo.List(ctx)
	if err != nil {
		return err
	}
	confirmed, err := c.saved.Repo.Confirmed(ctx)
	if err != nil {
		return err
	}
	for _, r := range kept {
		there := slices.ContainsFunc(points, func(b repo.Backup) bool { return b.ID == r.Point })
		if !there || confirmed[r.Point] {
			continue
		}
		if err := c.saved.Repo.Confirm(ctx, r.Point); err != nil {
			return err
		}
		confirmed[r.Point] = true
	}
	c.kept = kept
	c.rule.Dead, err = c.deadPoints(ctx, points)
	return err
}

// logFile is a log file that was rotated.
type logFile struct {
	path string
	size int64
	at   time.Time // last written
}

// rotated is the name of a log file of ours after its rotation. The folder may be
// one that others log to as well, and the audit trail in it is never removed.
var rotated = regexp.MustCompile(`^backup_scheduler\.log[.-][0-9][0-9TZ:_-]*(\.(gz|zst|xz|bz2))?$`)

// rotatedLogs lists the rotated log files that were last written to before a
// time.
func rotatedLogs(dir string, before time.Time) ([]logFile, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for old log files: %w", err)
	}
	var logs []logFile
	for _, e := range entries {
		if !e.Type().IsRegular() || !rotated.MatchString(e.Name()) {
			continue
		}
		info, err := e.Info()
		if err == nil && info.ModTime().Before(before) {
			logs = append(logs, logFile{filepath.Join(dir, e.Name()), info.Size(), info.ModTime()})
		}
	}
	return logs, nil
}

func (c *cleanup) removeLogs() error {
	var errs []error
	for _, l := range c.logs {
		// It may be another one by now, under the same name.
		if info, err := os.Lstat(l.path); err != nil || !info.ModTime().Equal(l.at) || info.Size() != l.size {
			continue
		}
		if err := os.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove old log file: %w", err))
			continue
		}
		c.removed[l.path] = true
		c.files++
		c.freed += l.size
	}
	return errors.Join(errs...)
}

// cleanedJSON is one thing that a cleanup looked at. Fields are only ever added.
type cleanedJSON struct {
	Kind    string    `json:"kind"` // backup, rollback, orphan, log, schema, media (a folder); summary is the last
	Name    string    `json:"name"` // id, key, path or name
	Schema  string    `json:"schema"`
	Type    string    `json:"type,omitempty"` // of a backup
	At      time.Time `json:"at"`
	Bytes   int64     `json:"bytes_on_disk"`
	Keep    bool      `json:"keep"`
	Reason  string    `json:"reason"`
	Rules   []string  `json:"rules,omitempty"` // of a backup or rollback point
	Dropped bool      `json:"dropped"`         // it is gone now
	Needed  []string  `json:"needed_by"`       // what depends on a schema, so that it stays
}

// items are all things that the cleanup looks at.
func (c *cleanup) items() []cleanedJSON {
	items := []cleanedJSON{}
	if c.plan != nil {
		items = appendBackups(items, "backup", "", c.backups, c.plan.Decisions)
		items = appendBackups(items, "rollback", rollbackName+"/", c.points, c.fates)
	}
	for i, orphans := range c.orphans {
		prefix := []string{"", rollbackName + "/"}[i]
		for _, o := range orphans {
			items = append(items, cleanedJSON{
				Kind: "orphan", Name: prefix + o.Key, At: o.Modified.UTC(), Bytes: o.Size, Keep: !c.goes(o), Reason: reasonOfOrphan(o),
			})
		}
	}
	for _, l := range c.logs {
		items = append(items, cleanedJSON{Kind: "log", Name: l.path, At: l.at.UTC(), Bytes: l.size, Reason: "rotated"})
	}
	for _, d := range c.schemas {
		kind := "schema"
		if d.Kind == restore.KindFolder {
			kind = "media"
		}
		items = append(items, cleanedJSON{
			Kind: kind, Name: d.Name, Schema: d.Schema, At: d.At.UTC(), Bytes: d.Bytes, Keep: len(d.Dependents) > 0 || d.Waits != "",
			Reason: cmp.Or(d.Waits, reasonOf(d, c.now)), Needed: d.Dependents,
		})
	}
	for i := range items {
		items[i].Dropped = c.removed[items[i].Name]
		items[i].Needed = append([]string{}, items[i].Needed...)
	}
	return items
}

func appendBackups(items []cleanedJSON, kind, prefix string, backups []repo.Backup, decisions []retention.Decision) []cleanedJSON {
	for i, d := range decisions {
		item := cleanedJSON{Kind: kind, Name: prefix + d.ID, At: backups[i].Time().UTC(), Keep: d.Keep, Reason: d.Why()}
		if m := backups[i].Manifest; m != nil {
			item.Type, item.Bytes = string(m.BackupType), ownBytes(m)
		}
		for _, r := range d.Reasons {
			item.Rules = append(item.Rules, string(r.Rule))
		}
		items = append(items, item)
	}
	return items
}

// ownBytes is the size of the data files and media archives that a backup wrote
// itself.
func ownBytes(m *manifest.Manifest) int64 {
	var n int64
	for i := range m.Schemas {
		if wroteFile(m, &m.Schemas[i]) {
			n += m.Schemas[i].Size
		}
		if wroteMedia(m, &m.Schemas[i]) {
			n += m.Schemas[i].Media.Size
		}
	}
	return n
}

// wroteFile reports whether the file of an entry is the backup's own rather than
// that of an earlier one.
func wroteFile(m *manifest.Manifest, s *manifest.Schema) bool {
	return m.Format == 0 || s.Timestamp == m.ID
}

// wroteMedia is wroteFile for the media archive.
func wroteMedia(m *manifest.Manifest, s *manifest.Schema) bool {
	return s.Media != nil && s.MediaBackup != "" && s.Media.Backup == m.ID
}

func reasonOf(d restore.Dropped, now time.Time) string {
	switch d.Kind {
	case restore.KindReplaced:
		return fmt.Sprintf("was %s until it was replaced %s", ui.Safe(d.Schema), ui.Age(d.At, now))
	case restore.KindStaged:
		return fmt.Sprintf("a restore of %s loaded it %s and has not swapped it in", ui.Safe(d.Schema), ui.Age(d.At, now))
	case restore.KindFolder:
		return fmt.Sprintf("media folder that a restore replaced or left %s", ui.Age(d.At, now))
	default:
		return fmt.Sprintf("a restore of %s left it %s when it died", ui.Safe(d.Schema), ui.Age(d.At, now))
	}
}

// going are the items that go.
func (c *cleanup) going() []cleanedJSON {
	return slices.DeleteFunc(c.items(), func(i cleanedJSON) bool { return i.Keep })
}

// kinds names the kinds of items for people.
var kinds = []struct{ kind, noun string }{
	{"backup", "backup"}, {"rollback", "rollback point"}, {"orphan", "file without a backup"}, {"log", "log file"}, {"schema", "schema"}, {"media", "media folder"},
}

// summaryOf counts items by kind.
func summaryOf(items []cleanedJSON) string {
	var parts []string
	for _, k := range kinds {
		n := int64(0)
		for _, i := range items {
			if i.Kind == k.kind {
				n++
			}
		}
		switch {
		case n > 1 && k.kind == "orphan":
			parts = append(parts, ui.Count(n)+" files without a backup")
		case n > 0:
			parts = append(parts, ui.Plural(n, k.noun))
		}
	}
	switch n := len(parts); n {
	case 0:
		return "nothing"
	case 1:
		return parts[0]
	default:
		return strings.Join(parts[:n-1], ", ") + " and " + parts[n-1]
	}
}

// cleanupSummary is the last element of a cleanup in JSON.
type cleanupSummary struct {
	Kind   string   `json:"kind"`
	DryRun bool     `json:"dry_run"`
	Policy string   `json:"policy"`
	Files  int64    `json:"files_removed"`
	Freed  int64    `json:"bytes_freed"` // in the repository and of log files
	Holds  []string `json:"holds"`       // why backups are held back
}

// show writes what stays and what goes, and why.
func (c *cleanup) show() error {
	items := c.items()
	if c.opts.Format.is(formatJSON) {
		s := cleanupSummary{Kind: "summary", DryRun: c.opts.DryRun, Policy: c.policy.Policy.String(), Files: c.files, Freed: c.freed, Holds: []string{}}
		if c.plan != nil {
			for _, h := range c.plan.Holds {
				s.Holds = append(s.Holds, h.Why)
			}
		}
		document := make([]any, 0, len(items)+1)
		for _, i := range items {
			document = append(document, i)
		}
		return c.ui().JSONLine(append(document, s))
	}
	if len(items) > 0 {
		table := ui.NewTable(ui.Column{Title: "what"}, ui.Column{Title: "name"}, ui.Column{Title: "age"}, ui.Column{Title: "size", Right: true},
			ui.Column{Title: "fate", Tone: toneOfFate}, ui.Column{Title: "why"})
		for _, i := range items {
			fate := fateStays
			if !i.Keep {
				fate = fateGoes
			}
			table.Add(i.Kind, i.Name, ui.Age(i.At, c.now), ui.Bytes(i.Bytes), fate, i.Reason)
		}
		if err := c.ui().Table(table); err != nil {
			return fmt.Errorf("write list: %w", err)
		}
	}
	c.tellStrays(c.strays)
	for _, l := range c.pending {
		c.ui().Printf("The files of %s wait in %s for their place, which an interrupted restore could not give them any more: this is done first.", ui.Safe(l.Tenant), ui.Safe(l.Name))
	}
	for _, u := range c.unfinished {
		c.ui().Warnf("schema %s stays, though a restore of %s into it has not ended: somebody may have gone on in it; %s", ui.Safe(u.Schema), ui.Safe(u.Backup), pg.UnfinishedRemedy(u.Schema))
	}
	switch goes := c.going(); {
	case len(goes) == 0:
		c.ui().Printf("There is nothing to remove.")
	case c.opts.DryRun:
		c.ui().Printf("Would remove %s.", summaryOf(goes))
	}
	return nil
}

// What becomes of an item.
const (
	fateStays = "stays"
	fateGoes  = "goes"
)

func toneOfFate(fate string) ui.Tone {
	if fate == fateGoes {
		return ui.Warning
	}
	return ui.Good
}

// tellDone says what was done.
func (c *cleanup) tellDone() {
	var done []cleanedJSON
	var dropped int64
	for _, i := range c.items() {
		if !i.Dropped {
			continue
		}
		done = append(done, i)
		if i.Kind == "schema" {
			dropped += i.Bytes
		}
	}
	for _, d := range c.schemas {
		if len(d.Dependents) > 0 {
			c.ui().Warnf("schema %s stays, because these depend on it: %s", ui.Safe(d.Name), ui.Safe(strings.Join(d.Dependents, ", ")))
		}
	}
	if len(done) == 0 && c.files == 0 {
		return
	}
	c.ui().Printf("Removed %s. %s and %s are free again in the repository, %s in the database.", summaryOf(done), ui.Plural(c.files, "file"), ui.Bytes(c.freed), ui.Bytes(dropped))
}
