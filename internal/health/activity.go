package health

import (
	"fmt"
	"time"

	"github.com/dustin/go-humanize/english"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

// run checks how the newest run ended, and reports the newest of each type.
func (j *judge) run() {
	v := &verdict{name: CheckRun}
	seen := map[manifest.Type]bool{}
	var newest *Backup
	for i := range j.Backups {
		b := &j.Backups[i]
		if b.Manifest == nil || b.Manifest.RollbackPoint || b.Time.After(j.Now.Add(clockSlack)) {
			continue
		}
		if newest == nil && b.Manifest.BackupType != manifest.Baseline {
			newest = b
		}
		if typ := b.Manifest.BackupType; !seen[typ] {
			seen[typ] = true
			j.report.Runs = append(j.report.Runs, newRun(b))
		}
		if len(seen) == 3 {
			break
		}
	}
	good := "no run is on record"
	if newest != nil {
		good = fmt.Sprintf("backup %s saved all that it was to", newest.ID)
		j.partial(v, newest)
	}
	const remedy = "tenantkeep backup; its error says what to do"
	ended := time.Time{}
	if newest != nil {
		ended = newest.Time
	}
	if j.TrailErr != "" {
		v.find(Warning, "the audit trail cannot be read: of runs that failed nobody knows", "let tenantkeep read --log-dir (BACKUP_LOG_DIR)").Cause = firstLine(j.TrailErr)
	}
	if t := j.Trail; t != nil {
		if t.Failed.After(t.Success) {
			v.find(Warning, fmt.Sprintf("the last run failed %s ago", span(j.Now.Sub(t.Failed))), remedy).Cause = firstLine(t.Error)
		}
		for _, end := range []time.Time{t.Success, t.Failed} {
			if end.After(ended) {
				ended = end
			}
		}
	}
	if j.Killed.After(ended) {
		v.find(Warning, fmt.Sprintf("the run that began at %s was killed", moment(j.Killed)), remedy)
	}
	j.close(v, good)
}

// partial tells what the newest backup lacks.
func (j *judge) partial(v *verdict, b *Backup) {
	for _, f := range b.Manifest.Failures {
		v.tenant(Warning, f.Schema, f.Tenant, fmt.Sprintf("could not be saved by backup %s", b.ID), "tenantkeep backup --schema "+called(f.Schema)+", once the cause is mended").Cause = firstLine(f.Error)
	}
	for n := range b.Manifest.Schemas {
		if s := &b.Manifest.Schemas[n]; s.Media != nil && s.Media.Failed > 0 {
			v.tenant(Warning, s.Schema, s.Tenant, fmt.Sprintf("has %s that backup %s could not save", english.Plural(int(s.Media.Failed), "media file", ""), b.ID), "let tenantkeep read all files below --media-root")
		}
	}
	if !b.Manifest.Rebuilt.IsZero() {
		v.find(Warning, fmt.Sprintf("the manifest of backup %s was lost and rebuilt, and may lack schemas", b.ID), "tenantkeep backup takes a new one")
	}
}

func newRun(b *Backup) Run {
	m := b.Manifest
	r := Run{Type: string(m.BackupType), Backup: b.ID, Time: b.Time.UTC(), Partial: m.Partial(), Schemas: len(m.Schemas), Stored: b.Stored}
	for n := range m.Schemas {
		r.Rows += m.Schemas[n].Rows
	}
	if m.Finished.After(b.Time) {
		seconds := m.Finished.Sub(b.Time).Seconds()
		r.Seconds = &seconds
	}
	return r
}

// scheduleSlack is how late a run may be before the schedule counts as dead.
const scheduleSlack = time.Hour

// schedule checks that something tries to make backups at all: what does not even
// try sends no message of failure.
func (j *judge) schedule() {
	v := &verdict{name: CheckSchedule}
	last := j.lastAttempt()
	every := j.targets.MaxAge
	const remedy = "see whether cron, the timer or tenantkeep serve runs; its log is in --log-dir"
	switch {
	case len(j.Running) > 0:
	case !j.Schedule.Due.IsZero() && j.Now.Sub(j.Schedule.Due) > scheduleSlack && last.Before(j.Schedule.Due):
		v.find(Critical, fmt.Sprintf("a backup has been due since %s, and nothing made it", moment(j.Schedule.Due)), remedy)
	case j.Schedule.Known:
	case last.IsZero():
		v.find(Warning, "no backup was ever tried", "set up a schedule: cron, a timer or tenantkeep serve")
	case every > 0 && j.Now.Sub(last) > every+scheduleSlack:
		v.find(Critical, fmt.Sprintf("nothing has tried to make a backup for %s", span(j.Now.Sub(last))), remedy)
	}
	good := "a backup was last tried " + span(j.Now.Sub(last)) + " ago"
	switch {
	case len(j.Running) > 0:
		good = "a backup is being made, since " + moment(j.Running[0])
	case last.IsZero():
		good = "no backup was tried yet"
	}
	if !j.Schedule.Next.IsZero() {
		good += ", the next is due at " + moment(j.Schedule.Next)
	}
	j.close(v, good)
}

// lastAttempt is when the newest run began, whatever became of it.
func (j *judge) lastAttempt() (last time.Time) {
	for i := range j.Backups {
		b := &j.Backups[i]
		if !b.Time.After(j.Now.Add(clockSlack)) && (b.Manifest == nil || b.Manifest.BackupType != manifest.Baseline) {
			last = b.Time
			break
		}
	}
	if j.Trail != nil && j.Trail.Last.After(last) {
		last = j.Trail.Last
	}
	return last
}

// drill checks when it was last proved that a backup restores.
func (j *judge) drill() {
	v := &verdict{name: CheckDrill}
	p := j.Proof
	const remedy = "restore into an empty database, and drop that again: tenantkeep restore --latest --no-owner --no-privileges, with the DATABASE_URL of the empty one"
	if p.Failed {
		v.find(Warning, "the last restore failed", remedy).Cause = firstLine(p.Error)
	}
	since, good := p.Time, ""
	switch {
	case !p.Time.IsZero():
		good = fmt.Sprintf("backup %s was restored and compared %s ago", p.Backup, span(j.Now.Sub(p.Time)))
		if p.Backup == "" {
			good = fmt.Sprintf("a backup was restored and compared %s ago", span(j.Now.Sub(p.Time)))
		}
	case len(j.Backups) > 0:
		since = j.Backups[len(j.Backups)-1].Time
		good = "no backup has been restored yet"
	default:
		good = "there is nothing to restore"
	}
	if m := j.targets.MaxProof; m > 0 && !since.IsZero() && j.Now.Sub(since) > m {
		v.find(Warning, fmt.Sprintf("no backup has been restored and compared for %s: nobody knows whether they restore", span(j.Now.Sub(since))), remedy)
	}
	j.close(v, good)
}

// locks checks that nothing is locked by who does not live any more.
func (j *judge) locks() {
	v := &verdict{name: CheckLocks}
	held := 0
	for _, l := range j.Locks {
		switch {
		case l.Dead:
			v.find(Warning, fmt.Sprintf("%s is held by %s, which is dead or stuck", l.What, l.Who), l.Remedy)
		case j.Now.Sub(l.Since) > lockLong:
			v.find(Warning, fmt.Sprintf("%s has been held for %s by %s", l.What, span(j.Now.Sub(l.Since)), l.Who), l.Remedy)
		default:
			held++
		}
	}
	good := "nothing is locked"
	if held > 0 {
		good = english.Plural(held, "lock", "") + " held by what is at work"
	}
	j.close(v, good)
}

// lockLong is for how long a lock may be held.
const lockLong = 24 * time.Hour

// leftovers checks what restores left in the database.
func (j *judge) leftovers() {
	v := &verdict{name: CheckLeftovers}
	if j.Database.Err != "" {
		j.close(v, "not looked for, since the database could not be reached")
		return
	}
	j.unknown(v)
	young := 0
	for _, l := range j.Leftovers {
		if l.Kind == "pending" {
			v.tenant(Warning, l.Schema, l.Schema, fmt.Sprintf("has not got its files back: they wait in %s for their place since a restore was interrupted %s ago", called(l.Name), span(j.Now.Sub(l.Since))), "tenantkeep cleanup puts them there")
			continue
		}
		if l.Kind == "unfinished" {
			v.tenant(Warning, l.Schema, l.Schema, fmt.Sprintf("is what a restore of %s has left that died: no backup saves it", called(l.Name)), "restore it again; tenantkeep doctor says more")
			continue
		}
		if j.Now.Sub(l.Since) <= j.targets.MaxReplaced {
			young++
			continue
		}
		what := map[string]string{
			"staged":   "waits to be swapped in",
			"replaced": "was replaced by a restore",
			"folder":   "holds files that a restore replaced or left",
		}[l.Kind]
		if what == "" {
			what = "was left by a restore that died"
		}
		v.find(Warning, fmt.Sprintf("%s (%s) %s %s ago", called(l.Name), size(l.Bytes), what, span(j.Now.Sub(l.Since))), "tenantkeep cleanup removes it; tenantkeep doctor says more")
	}
	good := "restores have left nothing"
	if young > 0 {
		good = fmt.Sprintf("%s of restores, which may be needed to go back", english.Plural(young, "leftover", ""))
	}
	j.close(v, good)
}

// notifications checks that messages get out.
func (j *judge) notifications() {
	v := &verdict{name: CheckNotifications}
	for _, f := range j.NotifierFailures {
		message := f.Notifier + " does not work"
		if f.Count > 0 {
			message = fmt.Sprintf("%s has not delivered %s", f.Notifier, english.Plural(f.Count, "message", ""))
		}
		if !f.Since.IsZero() {
			message += " since " + moment(f.Since)
		}
		v.find(Warning, message, "tenantkeep notify --test").Cause = firstLine(f.Error)
	}
	j.unknown(v)
	j.close(v, "no message waits to be delivered")
}

// settings checks that the settings in use are the newest.
func (j *judge) settings() {
	v := &verdict{name: CheckSettings}
	if j.SettingsErr != "" {
		v.find(Warning, "the newest settings make no sense, and those before are in use", "mend them, and let the process read them again with SIGHUP").Cause = firstLine(j.SettingsErr)
	}
	j.close(v, "the newest settings are in use")
}
