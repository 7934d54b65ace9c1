package health

import (
	"fmt"
	"time"

	"github.com/dustin/go-humanize/english"
)

// database checks that it can be reached.
func (j *judge) database() {
	v := &verdict{name: CheckDatabase}
	if j.Database.Err != "" {
		v.find(Critical, "the database could not be reached, and only the repository was looked at", j.Database.Hint).Cause = firstLine(j.Database.Err)
	}
	j.close(v, fmt.Sprintf("database %s: %s to back up", called(j.Database.Name), english.Plural(len(j.Database.Schemas), "schema", "")))
}

// repository checks that it and its manifests can be read.
func (j *judge) repository() {
	v := &verdict{name: CheckRepository}
	if j.Repository.Err != "" {
		v.find(Critical, "the repository cannot be read", j.Repository.Hint).Cause = firstLine(j.Repository.Err)
	}
	for _, b := range j.Backups {
		if b.Manifest == nil {
			v.find(Critical, "the manifest of backup "+b.ID+" cannot be read", "tenantkeep repair --dry-run says what can be rebuilt")
		}
	}
	j.close(v, fmt.Sprintf("%s in %s", english.Plural(len(j.Backups), "backup", ""), j.Repository.Location))
}

// leastFree is how many bytes must be free even where no backup is that large.
const leastFree = 50 << 20

// diskSoon is how many days before the end of the space it is critical.
const diskSoon = 3

// disk checks the space of the repository: for the next backup, and for how long.
func (j *judge) disk() {
	v := &verdict{name: CheckDisk}
	d := j.Disk
	if d == nil {
		j.unknown(v)
		j.close(v, "the storage tells of no limit")
		return
	}
	r := &DiskReport{Used: d.Used, Free: d.Free, Total: d.Total, Growth: d.Growth}
	j.report.Disk = r
	if d.Growth != nil && *d.Growth > 0 {
		days := float64(d.Free) / *d.Growth
		r.DaysLeft = &days
	}
	const remedy = "enlarge the disk, or let fewer backups stay (--retention-policy) and run tenantkeep cleanup"
	switch next := j.largest(); {
	case next > d.Free:
		v.find(Critical, fmt.Sprintf("%s free, and the largest of the last backups has %s: the next may not fit", size(d.Free), size(next)), remedy)
	case d.Free < leastFree:
		v.find(Critical, fmt.Sprintf("only %s free", size(d.Free)), remedy)
	}
	if r.DaysLeft != nil && *r.DaysLeft < float64(max(j.targets.MinDays, diskSoon)) && j.targets.MinDays > 0 {
		state := Warning
		if *r.DaysLeft < diskSoon {
			state = Critical
		}
		v.find(state, fmt.Sprintf("%s free, which is enough for %.1f days: the backups grow by %s a day", size(d.Free), *r.DaysLeft, size(int64(*d.Growth))), remedy)
	}
	good := fmt.Sprintf("%s free of %s", size(d.Free), size(d.Total))
	switch {
	case r.DaysLeft != nil && *r.DaysLeft < 3650:
		good += fmt.Sprintf(", enough for %.0f days at the present growth", *r.DaysLeft)
	case d.Growth != nil:
		good += ", and the backups hardly grow"
	default:
		good += "; how the backups grow is not known yet"
	}
	j.close(v, good)
}

// largestWindow is how far back the next backup's size is looked for.
const largestWindow = 31 * 24 * time.Hour

// largest is what the largest of the last backups has written, in bytes.
func (j *judge) largest() (most int64) {
	for i := range j.Backups {
		b := &j.Backups[i]
		if b.Manifest == nil {
			continue
		}
		if j.Now.Sub(b.Time) > largestWindow {
			break
		}
		most = max(most, b.Stored)
	}
	return most
}

// integrity checks that files are there and are as they were written.
func (j *judge) integrity() {
	v := &verdict{name: CheckIntegrity}
	f := &j.Integrity
	j.unknown(v)
	for _, b := range f.Bad {
		v.tenant(Critical, b.Schema, b.Tenant, fmt.Sprintf("in backup %s: %s: %s", b.Backup, b.File, b.What),
			"take a full backup now and look for the cause; tenantkeep verify reads everything, tenantkeep repair rebuilds manifests")
	}
	if f.StateErr != "" {
		v.find(Warning, "where the rotating check of the files has got to could not be kept", "let tenantkeep write to --log-dir (BACKUP_LOG_DIR)").Cause = firstLine(f.StateErr)
	}
	good := fmt.Sprintf("%s, %s: all are there; %s read and compared", english.Plural(f.Files, "file", ""), size(f.Bytes), size(f.Read))
	switch {
	case f.Full || f.Read >= f.Bytes:
	case !f.Round.IsZero():
		good += fmt.Sprintf(", %.0f%% of this round, the last ended %s ago", 100*f.Done, span(j.Now.Sub(f.Round)))
	default:
		good += fmt.Sprintf(", %.0f%% of the first round", 100*f.Done)
	}
	j.close(v, good)
}

// retention checks that what should be gone is, and that what should exist does.
func (j *judge) retention() {
	v := &verdict{name: CheckRetention}
	r := &j.Retention
	if r.Err != "" {
		v.find(Warning, "what should stay cannot be told", "tenantkeep cleanup --dry-run shows what retention decides").Cause = firstLine(r.Err)
	}
	for _, id := range r.Lost {
		v.find(Critical, "backup "+id+" was made and nobody removed it, but it is not there", "tenantkeep repair --dry-run says what can be rebuilt; find out who deletes files of the repository")
	}
	for _, id := range r.Orphaned {
		v.find(Critical, "there are files of backup "+id+", and its manifest is gone", "tenantkeep repair rebuilds it")
	}
	for _, id := range r.Pinned {
		v.find(Warning, "backup "+id+" is pinned, and is not there", "tenantkeep unpin "+id)
	}
	if n := len(r.Overdue); n > 0 {
		message := fmt.Sprintf("%s (%s) should have been removed more than %s ago", english.Plural(n, "backup", ""), size(r.OverdueBytes), span(r.OverdueSince))
		remedy := "tenantkeep cleanup; the schedule should run it"
		if len(r.Holds) > 0 {
			message += ", but are held back: " + r.Holds[0]
			remedy = "make a backup that succeeds; tenantkeep cleanup --dry-run says more"
		}
		v.find(Warning, message, remedy)
	}
	j.close(v, "what the policy keeps is there, and what it does not keep is gone")
}

// unknown notes that a check could not look at what it judges.
func (j *judge) unknown(v *verdict) {
	if why := j.Unknown[v.name]; why != "" {
		v.find(Critical, "cannot be told", "").Cause = firstLine(why)
	}
}
