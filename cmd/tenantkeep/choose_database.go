package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// databaseName is the name of the database that a backup is of, empty where that
// is not known: the original system did not note it.
func databaseName(m *manifest.Manifest) string {
	if m == nil || m.Database == nil {
		return ""
	}
	return m.Database.Name
}

// sourceDatabase tells of which database those backups are that are meant where
// nobody names one: of that with the name of the target or, where no backup is, of
// the only one in the repository. Where there are several the error is wrong usage
// and lists them. all are backups, newest first.
func sourceDatabase(p place, all []repo.Backup) (string, error) {
	newest := map[string]repo.Backup{}
	for _, b := range all {
		if name := databaseName(b.Manifest); name != "" && usable(b.Manifest) {
			if _, known := newest[name]; !known {
				newest[name] = b
			}
		}
	}
	names := slices.Sorted(maps.Keys(newest))
	switch {
	case slices.Contains(names, p.Database):
		return p.Database, nil
	case len(names) == 0:
		return "", nil
	case len(names) == 1:
		return names[0], nil
	}
	var list []string
	for _, name := range names {
		list = append(list, fmt.Sprintf("%s (%s)", ui.Safe(name), ui.Safe(newest[name].ID)))
	}
	what := "nothing says of which"
	if p.Database != "" {
		what = fmt.Sprintf("none of them is %s", ui.Safe(p.Database))
	}
	return "", &usageError{
		err:  fmt.Errorf("%s holds backups of several databases, and %s; with the newest backup of each: %s", p.Repo.Location(), what, strings.Join(list, ", ")),
		hint: "name the backup that is meant with --manifest",
	}
}

// isFrom reports whether a backup may be of a database: backups of the original
// system, and manifests that cannot be read, do not tell.
func isFrom(m *manifest.Manifest, database string) bool {
	name := databaseName(m)
	return name == "" || name == database
}

// pointsFrom leaves out the points of other databases than the one that is meant.
// What a restore replaced is the target's own.
func (a *app) pointsFrom(p place, points []restorePoint) ([]restorePoint, error) {
	var backups []repo.Backup
	for _, point := range points {
		if !point.Rollback {
			backups = append(backups, point.backup)
		}
	}
	slices.SortStableFunc(backups, func(x, y repo.Backup) int { return y.Time().Compare(x.Time()) })
	database, err := sourceDatabase(p, backups)
	if err != nil {
		return nil, err
	}
	others := map[string]bool{}
	points = slices.DeleteFunc(points, func(point restorePoint) bool {
		m := point.backup.Manifest
		other := !isFrom(m, database) && (!point.Rollback || !isFrom(m, p.Database))
		if other {
			others[databaseName(m)] = true
		}
		return other
	})
	for _, name := range slices.Sorted(maps.Keys(others)) {
		a.ui().Printf("Backups of database %s are not offered: --manifest restores from them", ui.Safe(name))
	}
	return points, nil
}
