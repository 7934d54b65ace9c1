package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/restore"
	"github.com/tenantkeep/tenantkeep/internal/storage"
	"github.com/tenantkeep/tenantkeep/internal/storage/local"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// rollbackName is the folder of a repository in which the backups of what
// restores replaced are, a repository by itself; before an id it says that the
// backup is one of those.
const rollbackName = "rollback"

// place is where backups are.
type place struct {
	Repo     *repo.Repo
	Store    storage.Storage // that the repository is in
	Zone     *time.Location  // of times without one
	Rollback bool            // what is there was replaced by restores
	Database string          // that is restored into, by its name; empty: none, or not known
}

// name is what --manifest calls a backup of the place.
func (p place) name(id string) string {
	if p.Rollback {
		return rollbackName + "/" + id
	}
	return id
}

// inForce returns a function that tells whether a backup is something to go back
// to: a rollback point of a restore that did not replace anything is not.
// replaced are the schemas that are kept in the database, where that is known;
// they tell of a restore that was killed when it had just gone live.
func (p place) inForce(ctx context.Context, replaced []restore.Replaced) (func(repo.Backup) bool, error) {
	confirmed, err := p.Repo.Confirmed(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range replaced {
		confirmed[r.Point] = true
	}
	return func(b repo.Backup) bool { return !b.Manifest.RollbackPoint || confirmed[b.ID] }, nil
}

// openPlaces returns the repository that the settings name, and its rollback
// points, in this order.
func (a *app) openPlaces(cfg *config.Config) ([]place, error) {
	repository, store, err := a.openRepository(cfg)
	if err != nil {
		return nil, err
	}
	rollback, err := a.openPlace(filepath.Join(cfg.Repository, rollbackName), cfg.TimeZone)
	if err != nil {
		return nil, err
	}
	return []place{{Repo: repository, Store: store, Zone: cfg.TimeZone}, rollback}, nil
}

// openPlace returns the repository in a directory. zone is that of times without
// one in it.
func (a *app) openPlace(dir string, zone *time.Location) (place, error) {
	store, err := local.New(dir)
	if err != nil {
		return place{}, fmt.Errorf("open repository: %w", err)
	}
	return place{Repo: repo.Open(store, repo.Options{Now: a.now, Zone: zone}), Store: store, Zone: zone, Rollback: filepath.Base(dir) == rollbackName}, nil
}

// wanted says which backup is asked for, in one of three ways.
type wanted struct {
	Manifest string   // id, rollback/ and id, file name or path of a manifest
	Latest   bool     // the newest one
	At       string   // the newest one that was taken at this time or before
	Schemas  []string // what it must hold, by name of the schema or the tenant; empty: anything
	Media    bool     // of a time or the newest: with the files of these
}

// check refuses what makes no sense. Where nothing is said at all the error is
// errNoSource's.
func (w wanted) check() error {
	given := 0
	for _, is := range []bool{w.Manifest != "", w.Latest, w.At != ""} {
		if is {
			given++
		}
	}
	switch given {
	case 0:
		return errNoSource()
	case 1:
		return nil
	case 2:
		if w.At == "" {
			return usagef("--manifest and --latest are two different backups: give one of them")
		}
	}
	return usagef("--manifest, --latest and --at are different backups: give one of them")
}

// errNoSource says that nobody told what to restore, and nobody can be asked.
func errNoSource() error {
	return &usageError{
		err: errors.New("nothing says which backup to restore"),
		hint: "give --latest, --at with a time, or --manifest with the id of a backup; --list-available lists them. " +
			"On a terminal, restore without any of these asks",
	}
}

// usable reports whether a backup is one to go back to, which baselines are not,
// nor what the original system calls incremental, which has no rows.
func usable(m *manifest.Manifest) bool {
	return m.BackupType != manifest.Baseline && !m.DefinitionsOnly() && len(m.Schemas) > 0
}

// takenAt is the moment that an entry of a backup shows, as exactly as it is
// known: of the snapshot, which a schema that had to be taken again has for
// itself.
func takenAt(m *manifest.Manifest, s manifest.Schema) time.Time {
	switch {
	case s.Snapshot != nil && !s.Snapshot.Time.IsZero():
		return s.Snapshot.Time.UTC()
	case m.Snapshot != nil && !m.Snapshot.Time.IsZero():
		return m.Snapshot.Time.UTC()
	default:
		return m.Timestamp.UTC()
	}
}

// holds reports whether a backup has all that is asked for, and the moment that
// this shows: the latest of its schemas.
func (w wanted) holds(m *manifest.Manifest) (time.Time, bool) {
	if !usable(m) || w.Media && !m.IncludeMedia {
		return time.Time{}, false
	}
	var latest time.Time
	found := map[string]bool{}
	for _, s := range m.Schemas {
		for _, name := range w.Schemas {
			if s.Schema == name || s.Tenant == name {
				found[name] = true
			}
		}
		if len(w.Schemas) == 0 || found[s.Schema] || found[s.Tenant] {
			if w.Media && s.Media != nil && s.MediaBackup == "" { // they could not be saved
				return time.Time{}, false
			}
			if t := takenAt(m, s); t.After(latest) {
				latest = t
			}
		}
	}
	for _, name := range w.Schemas {
		if !found[name] {
			return time.Time{}, false
		}
	}
	return latest, true
}

// what names what is asked for.
func (w wanted) what() string {
	var names []string
	for _, name := range w.Schemas {
		names = append(names, ui.Safe(name))
	}
	switch text := strings.Join(names, " and "); {
	case w.Media && text == "":
		return "media"
	case w.Media:
		return text + " with media"
	default:
		return text
	}
}

// findBackup finds the backup that is asked for and says what the user should
// know about the choice. Only Manifest leads to a rollback point: what a restore
// replaced is not what the tenant was at any time after it. The first place is
// the repository itself.
func (a *app) findBackup(ctx context.Context, places []place, w wanted) (place, repo.Backup, error) {
	if err := w.check(); err != nil {
		return place{}, repo.Backup{}, err
	}
	if w.Manifest != "" {
		return a.namedBackupIn(ctx, places, w.Manifest)
	}
	until := moment{}
	if w.At != "" {
		m, err := parseMoment(w.At, a.now(), time.Local)
		if err != nil {
			return place{}, repo.Backup{}, err
		}
		until = m
	}
	p := places[0]
	all, err := p.Repo.List(ctx)
	if err != nil {
		return place{}, repo.Backup{}, err
	}
	backup, err := a.newest(p, all, w, until)
	return p, backup, err
}

// candidate is a backup that holds what is asked for.
type candidate struct {
	repo.Backup
	taken time.Time
}

// newest chooses from all backups, newest first, the newest that holds what is
// asked for and, where until is a moment, was taken by then.
func (a *app) newest(p place, all []repo.Backup, w wanted, until moment) (repo.Backup, error) {
	database, err := sourceDatabase(p, all)
	if err != nil {
		return repo.Backup{}, err
	}
	others := all
	all = slices.DeleteFunc(slices.Clone(all), func(b repo.Backup) bool { return !isFrom(b.Manifest, database) })
	var candidates []candidate
	for _, b := range all {
		if b.Err == nil {
			if taken, ok := w.holds(b.Manifest); ok {
				candidates = append(candidates, candidate{b, taken})
			}
		}
	}
	slices.SortStableFunc(candidates, func(x, y candidate) int { return y.taken.Compare(x.taken) })
	if len(w.Schemas) == 0 {
		// A backup of single tenants is not meant by "everything", if there is one
		// of all.
		whole := slices.DeleteFunc(slices.Clone(candidates), func(c candidate) bool { return !slices.ContainsFunc(c.Manifest.Schemas, manifest.Schema.IsCore) })
		if len(whole) > 0 && whole[0].ID != candidates[0].ID {
			a.ui().Warnf("passing over backup %s, which does not hold core", ui.Safe(candidates[0].ID))
		}
		if len(whole) > 0 {
			candidates = whole
		}
	}
	if len(candidates) == 0 {
		for _, b := range others {
			if b.Err != nil {
				continue
			}
			if _, ok := w.holds(b.Manifest); ok {
				return repo.Backup{}, &usageError{
					err:  fmt.Errorf("no backup of database %s in %s holds %s", ui.Safe(database), p.Repo.Location(), w.what()),
					hint: fmt.Sprintf("backup %s, which is of database %s, does: --manifest %s restores from it", ui.Safe(b.ID), ui.Safe(databaseName(b.Manifest)), ui.Safe(b.ID)),
				}
			}
		}
		return repo.Backup{}, nothingHolds(p, all, w)
	}
	i := 0
	if !until.IsZero() {
		if until.After(a.now()) {
			return repo.Backup{}, &usageError{
				err:  fmt.Errorf("--at: %s is %s", until, ui.Age(until.Time, a.now())),
				hint: fmt.Sprintf("the newest backup%s is %s, taken %s: --latest restores it", w.of(), ui.Safe(candidates[0].ID), candidates[0].when(a.now())),
			}
		}
		i = slices.IndexFunc(candidates, func(c candidate) bool { return !c.taken.After(until.Time) })
		if i < 0 {
			oldest := candidates[len(candidates)-1]
			return repo.Backup{}, &usageError{
				err: fmt.Errorf("--at: no backup%s in %s is as old as %s", w.of(), p.Repo.Location(), until),
				hint: fmt.Sprintf("the oldest is %s, taken %s, %s later: --manifest %s restores it",
					ui.Safe(oldest.ID), oldest.when(a.now()), span(oldest.taken.Sub(until.Time)), ui.Safe(oldest.ID)),
			}
		}
	}
	a.tellPassedOver(all, candidates[i], w, until)
	if !until.IsZero() {
		a.tellNeighbours(candidates, i, until)
	}
	return candidates[i].Backup, nil
}

// of says " of acme" where something in particular is asked for.
func (w wanted) of() string {
	switch text := w.what(); {
	case len(w.Schemas) > 0:
		return " of " + text
	case text != "":
		return " with " + text
	default:
		return ""
	}
}

func (c candidate) when(now time.Time) string {
	return c.taken.Format(stampLayout+" UTC") + " (" + ui.Age(c.taken, now) + ")"
}

// nothingHolds says why there is no backup to choose.
func nothingHolds(p place, all []repo.Backup, w wanted) error {
	broken := slices.IndexFunc(all, func(b repo.Backup) bool { return b.Err != nil })
	switch {
	case len(all) > 0 && broken >= 0 && !slices.ContainsFunc(all, func(b repo.Backup) bool { return b.Err == nil }):
		return fmt.Errorf("%w in %s that can be read: backup %s: %w", repo.ErrNoBackup, p.Repo.Location(), all[broken].ID, all[broken].Err)
	case w.what() != "" && len(all) > 0:
		return &usageError{
			err:  fmt.Errorf("no backup in %s holds %s", p.Repo.Location(), w.what()),
			hint: "tenantkeep restore --list-available shows what can be restored",
		}
	default:
		return &hintedError{
			err:  fmt.Errorf("there is no backup in %s", p.Repo.Location()),
			hint: "--repository says where backups are; tenantkeep backup takes one",
		}
	}
}

// tellPassedOver warns of backups that would have been chosen if they could be
// read or held what is asked for. The user may believe that one of them is used.
func (a *app) tellPassedOver(all []repo.Backup, chosen candidate, w wanted, until moment) {
	lacking := 0
	for _, b := range all {
		switch {
		case !b.Time().After(chosen.Time()), !until.IsZero() && b.Time().After(until.Time):
		case b.Err != nil:
			a.ui().Warnf("backup %s is passed over: its manifest cannot be read: %v", ui.Safe(b.ID), b.Err)
		case b.Manifest.BackupType == manifest.Baseline || b.Manifest.DefinitionsOnly():
		default:
			if _, ok := w.holds(b.Manifest); !ok {
				lacking++
			}
		}
	}
	if lacking > 0 && w.what() != "" {
		a.ui().Warnf("passing over %s newer than %s, without %s", ui.Plural(int64(lacking), "backup"), chosen.ID, w.what())
	}
}

// tellNeighbours says how the time was understood, and how near to it the
// backups before and after are.
func (a *app) tellNeighbours(candidates []candidate, i int, until moment) {
	text := fmt.Sprintf("As of %s: backup %s, taken %s before", until, ui.Safe(candidates[i].ID), span(until.Sub(candidates[i].taken)))
	if i > 0 {
		next := candidates[i-1]
		text += fmt.Sprintf("; the next one, %s, was taken %s after", ui.Safe(next.ID), span(next.taken.Sub(until.Time)))
	}
	a.ui().Printf("%s", text)
}

// span writes a length of time, in days where it is long.
func span(d time.Duration) string {
	if d >= 72*time.Hour {
		return ui.Plural(int64(d/(24*time.Hour)), "day")
	}
	return ui.Duration(d)
}

// namedBackupIn loads the backup of an id, of a rollback point, or of the path
// of a manifest, which may lie in another repository.
func (a *app) namedBackupIn(ctx context.Context, places []place, named string) (place, repo.Backup, error) {
	if info, err := os.Stat(named); err == nil && info.Mode().IsRegular() && filepath.Base(named) != named {
		dir, key, err := repo.SplitManifestPath(named)
		if err != nil {
			return place{}, repo.Backup{}, &usageError{
				err:  fmt.Errorf("--manifest: %s does not lie in a folder manifests", ui.Safe(named)),
				hint: "a manifest belongs to its repository: give its path there, REPOSITORY/manifests/FILE, or the id of the backup",
			}
		}
		p, err := a.openPlace(dir, places[0].Zone)
		if err != nil {
			return place{}, repo.Backup{}, err
		}
		backup, err := p.Repo.Load(ctx, key)
		return p, backup, err
	}
	id, rollback := strings.CutPrefix(named, rollbackName+"/")
	if name := filepath.Base(named); !rollback && strings.HasSuffix(name, ".json") && name != named {
		id = name
		if filepath.Dir(named) != "manifests" { // it may be the path in the container that wrote it
			a.ui().Printf("There is no %s: %s is looked for in %s", ui.Safe(named), ui.Safe(name), ui.Safe(places[0].Repo.Location()))
		}
	}
	for _, p := range places {
		if rollback && !p.Rollback {
			continue
		}
		backup, err := p.Repo.Load(ctx, id)
		if err == nil && p.Rollback && !rollback {
			a.ui().Printf("%s is a rollback point: what a restore replaced", ui.Safe(id))
		}
		if !errors.Is(err, repo.ErrNoBackup) {
			return p, backup, err
		}
	}
	return place{}, repo.Backup{}, &hintedError{
		err:  fmt.Errorf("backup %s in %s: %w", ui.Safe(named), places[0].Repo.Location(), repo.ErrNoBackup),
		hint: "tenantkeep restore --list-available shows the backups, with their ids",
	}
}
