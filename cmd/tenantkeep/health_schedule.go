package main

import (
	"github.com/tenantkeep/tenantkeep/internal/health"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/schedule"
)

// schedule finds out what the schedule would do, where something runs it: who makes
// backups by other means has a calendar of which nobody knows.
func (x *examiner) schedule(backups []repo.Backup, files *fileCheck, trail *trailFacts) error {
	if x.facts.Database.Err != "" || !x.serving && (trail == nil || !trail.scheduled) {
		return nil
	}
	settings, err := scheduleSettings(x.cfg)
	if err != nil {
		return err
	}
	facts := schedule.Facts{Now: x.facts.Now, Schemas: x.facts.Database.Schemas, Lacks: files.lacks, Database: manifest.Database{
		Name: x.info.Name, Encoding: x.info.Encoding, SystemIdentifier: x.info.SystemIdentifier,
	}}
	for _, b := range backups {
		if b.Manifest != nil && !b.Bare {
			facts.Backups = append(facts.Backups, b.Manifest)
		}
	}
	plan := schedule.Decide(facts, settings)
	s := health.Schedule{Known: true, Next: plan.Next}
	for _, d := range plan.Decisions {
		if d.Due != "" && !d.Since.IsZero() && (s.Due.IsZero() || d.Since.Before(s.Due)) {
			s.Due = d.Since
		}
	}
	x.facts.Schedule = s
	return nil
}
