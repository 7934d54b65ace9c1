package main

import (
	"time"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/retention"
)

const (
	growthPeriod = 7 * 24 * time.Hour // holds a weekly full backup
	leastPeriod  = 24 * time.Hour
)

// growth is by how many bytes a day the backups grow: if what was made in the last
// week is made again in the next, and retention removes what it does not keep then.
// It is not known before there are backups for a day.
func growth(backups []repo.Backup, policy retention.Options) (perDay float64, known bool) {
	if len(backups) == 0 {
		return 0, false
	}
	period := min(growthPeriod, policy.Now.Sub(backups[len(backups)-1].Time()))
	if period < leastPeriod {
		return 0, false
	}
	now := retained(backups, nil, nil)
	later := now
	for _, b := range now {
		if policy.Now.Sub(b.Time) >= period || b.Manifest == nil || b.Manifest.BackupType == manifest.Baseline {
			continue
		}
		again := b
		again.ID += "_again"
		again.Time = b.Time.Add(period)
		later = append(later, again)
	}
	// What is held back now will go one day.
	policy.AllowDoubtful = true
	before, err := keptBytes(now, policy)
	if err != nil {
		return 0, false
	}
	policy.Now = policy.Now.Add(period)
	after, err := keptBytes(later, policy)
	if err != nil {
		return 0, false
	}
	return float64(after-before) / (period.Hours() / 24), true
}

// keptBytes is how much the backups have written that retention keeps.
func keptBytes(backups []retention.Backup, o retention.Options) (n int64, err error) {
	plan, err := retention.Decide(backups, o)
	if err != nil {
		return 0, err
	}
	for i, d := range plan.Decisions {
		if d.Keep {
			n += storedBy(backups[i].Manifest)
		}
	}
	return n, nil
}
