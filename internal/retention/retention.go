// Package retention decides which backups stay and which go, and says why. It
// touches nothing: it is given the manifests and the time, and answers.
//
// Terms: a rule is one ground to keep a backup; any rule that holds keeps it. The
// rules daily, weekly and monthly vote, for each schema of each database by
// itself: they count the days, weeks and months that have a successful backup of
// the schema, and keep the newest backup of each. A backup is complete when no
// schema of the run failed. A doubtful one is suspiciously empty. Neither partial
// nor doubtful backups vote. The files of a schema are voted on apart from its rows,
// among the backups that have an archive of them: backups of rows alone must not
// outvote the last one with files.
package retention

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

// young is the age up to which nothing goes: whoever made a backup by hand may
// still be looking for it.
const young = time.Hour

// dormantAfter is for how long a schema must be missing from the backups of its
// database before it counts as dropped, and for how long there must be no backup of
// a database, while there are of others, before that counts as retired. Then its
// periods are counted on the calendar of the database, or of all: by its own they
// would never pass.
const dormantAfter = 60 * 24 * time.Hour

// Backup is a backup as retention sees it.
type Backup struct {
	ID       string
	Time     time.Time          // of the manifest, or as well as it is known
	Manifest *manifest.Manifest // nil: it cannot be read
	Pin      *Pin               // nil: not pinned
	// Lacking says what is known to be wrong with its files, as "lacks data/x.sql";
	// empty: nothing. Such a backup is doubtful.
	Lacking string
}

// Pin keeps a backup until somebody takes it away.
type Pin struct {
	Reason string
	By     string
	At     time.Time
}

// Options say by what to decide.
type Options struct {
	Policy Policy
	Now    time.Time
	Zone   *time.Location // where days begin; nil: UTC
	// AllowDoubtful lets old backups go though the newest one of their database
	// is partial or doubtful.
	AllowDoubtful bool
	// Interrupted are runs that began and neither ended nor are at work.
	Interrupted []string
	// Unreadable are manifests, beside those of the backups, of which nobody knows
	// what they need.
	Unreadable []string
}

// Rule is a ground to keep a backup, or to remove it.
type Rule string

// The rules that keep a backup.
const (
	Daily      Rule = "daily"      // newest of a day
	Weekly     Rule = "weekly"     // newest of an ISO week
	Monthly    Rule = "monthly"    // newest of a month
	Newest     Rule = "newest"     // newest of a schema, of whatever quality
	LastFull   Rule = "last-full"  // newest of a schema that needs no other backup
	StandIn    Rule = "stand-in"   // partial or doubtful, and its day, week or month has nothing better
	Needed     Rule = "needed"     // a kept backup refers to its files
	Pinned     Rule = "pinned"     // somebody pinned it
	Young      Rule = "young"      // made within the last hour
	Future     Rule = "future"     // its time is yet to come: a clock was wrong
	Days       Rule = "days"       // its own retention days are not over
	Template   Rule = "baseline"   // baselines are templates
	Unreadable Rule = "unreadable" // its manifest cannot be read
	Held       Rule = "held"       // it would go, but nothing may now
)

// The rules by which a backup goes.
const (
	Expired  Rule = "expired"  // its own retention days are over
	Outvoted Rule = "outvoted" // its days, weeks and months are over, or have newer backups
	Replaced Rule = "replaced" // partial or doubtful, and there are better ones
	Dead     Rule = "dead"     // a rollback point of a restore that replaced nothing
)

// Reason is a rule and what it found, for people.
type Reason struct {
	Rule Rule
	Text string
}

// Decision is what becomes of one backup.
type Decision struct {
	ID      string
	Keep    bool
	Reasons []Reason // why it is kept, or else why it goes; never empty
	Needs   []string // the earlier backups whose files it refers to, the newest first
}

// Has reports whether a rule is among the reasons.
func (d Decision) Has(r Rule) bool {
	return slices.ContainsFunc(d.Reasons, func(x Reason) bool { return x.Rule == r })
}

// Why puts the reasons into one line.
func (d Decision) Why() string {
	texts := make([]string, len(d.Reasons))
	for i, r := range d.Reasons {
		texts[i] = r.Text
	}
	return strings.Join(texts, "; ")
}

// Hold says that no backup of a database goes, and why.
type Hold struct {
	Database string // name; empty: all databases
	System   string // identifier of its server; empty: it is not known
	Why      string
	// Run is a run that has not ended, or was killed; empty: it is about something
	// else.
	Run string
	// Absolute is one that AllowDoubtful does not lift.
	Absolute bool
}

// Plan is what becomes of all backups.
type Plan struct {
	Decisions []Decision // in the order of the backups
	Holds     []Hold
}

// Decide decides about all backups of a repository; those of rollback points are
// for Points. The order of the backups does not matter. It is pure: the same
// backups at the same time give the same plan, and after those that go are gone
// it lets no other go.
func Decide(backups []Backup, o Options) (*Plan, error) {
	if err := o.Policy.Validate(); err != nil {
		return nil, err
	}
	if o.Zone == nil {
		o.Zone = time.UTC
	}
	r := &run{Options: o, backups: backups}
	r.sortBackups()
	r.readSchemas()
	r.judge()
	r.hold()
	r.keepAlone()
	r.vote()
	r.follow()
	return r.plan(), nil
}

// run is one decision.
type run struct {
	Options
	backups []Backup
	order   []int   // places of the backups, the newest first
	facts   []facts // by place

	schemas []*schema
	// calendar are the newest days, weeks and months with a complete backup of
	// any database, as many as the policy counts.
	calendar [3][]int
	holds    []Hold
	held     string // why nothing at all may go; empty: it may
}

// facts are what is known of a backup.
type facts struct {
	database *database // nil: the backup takes no part in rules by schema
	entries  []int     // places in run.schemas, one for each entry of the manifest
	periods  [3]int    // day, week and month, as numbers that grow
	partial  bool
	doubtful string    // why it is; empty: it is not
	exact    bool      // lives by its own days, and does not vote
	until    time.Time // end of its own days; zero: none, or without limit
	future   bool

	keep   bool
	held   string // why it is kept though no rule keeps it; empty: one does
	found  [rules]finding
	media  [rules]finding // for files of schemas whose rows it is not found for by the rule
	alone  []Reason       // of rules that are not by schema
	needs  []int          // places of the backups that it refers to
	needer int            // place of the newest kept backup that refers to it; -1: none
	others int            // how many more do
}

// complete reports whether the backup may vote.
func (f *facts) complete() bool { return !f.partial && f.doubtful == "" }

// finding is for how many schemas a rule keeps a backup.
type finding struct {
	count int
	first int // place of one of the schemas
	last  int // place of the one counted last
}

// database is what has the backups of one database in common. A database is told
// by its name and the server's identifier, so that the "app" of production and
// that of staging do not outvote each other in one repository.
type database struct {
	name    string
	system  string         // identifier of its server
	schemas map[string]int // places in run.schemas
	last    []int          // of the backup that was read last
	seen    time.Time      // of its newest backup, of whatever quality
	newest  time.Time      // of its complete backups
	retired bool           // nothing has been backed up of it for long, of others it has
	// calendar are the newest days, weeks and months with a complete backup, as
	// many as the policy counts.
	calendar [3][]int
	held     string // why nothing of it may go; empty: it may
}

// schema is one schema of one database.
type schema struct {
	database *database
	name     string
	newest   time.Time // of the complete backups of it that vote; zero: none
	points   []point   // the newest first
	media    *schema   // its files, with points of their own; nil: no backup has any
	rows     int64     // as the walk from the oldest backup has found them last; -1: not known
}

// point is what one backup holds of a schema.
type point struct {
	backup int
	full   bool // it needs no other backup
}

// add notes what a backup holds of the schema, and of its files.
func (s *schema) add(backup int, m *manifest.Manifest, e *manifest.Schema) {
	s.points = append(s.points, point{backup: backup, full: own(m, e) && len(e.References) == 0 && !m.DefinitionsOnly()})
	if e.MediaBackup == "" {
		return
	}
	if s.media == nil {
		s.media = &schema{database: s.database, name: s.name}
	}
	s.media.points = append(s.media.points, point{backup: backup, full: len(earlierMedia(m, e)) == 0})
}

// own reports whether an entry's file was written by the backup itself.
func own(m *manifest.Manifest, s *manifest.Schema) bool {
	return m.Format == 0 || s.Filepath != "" && s.Timestamp == m.ID
}

// sortBackups sorts the places of the backups, the newest first, as package repo
// does, and finds what is known of each alone.
func (r *run) sortBackups() {
	r.facts = make([]facts, len(r.backups))
	r.order = make([]int, len(r.backups))
	for i := range r.backups {
		b, f := &r.backups[i], &r.facts[i]
		r.order[i], f.needer = i, -1
		f.future = b.Time.After(r.Now)
		local := b.Time.In(r.Zone)
		year, week := local.ISOWeek()
		f.periods = [3]int{
			(local.Year()*100+int(local.Month()))*100 + local.Day(),
			year*100 + week,
			local.Year()*100 + int(local.Month()),
		}
		m := b.Manifest
		if m == nil {
			continue
		}
		f.partial = m.Partial()
		f.exact = m.Retention == manifest.RetainExactly
		if m.Retention != "" && m.RetentionDays > 0 {
			// By the calendar, so that it ends at the time of day at which it began.
			f.until = local.AddDate(0, 0, m.RetentionDays)
		}
	}
	slices.SortFunc(r.order, func(x, y int) int {
		a, b := &r.backups[x], &r.backups[y]
		if c := b.Time.Compare(a.Time); c != 0 {
			return c
		}
		if c := len(b.ID) - len(a.ID); c != 0 {
			return c
		}
		return strings.Compare(b.ID, a.ID)
	})
}

// readSchemas finds the databases, and the points of each schema.
func (r *run) readSchemas() {
	databases := make(map[databaseID]*database)
	heir := r.heir()
	for _, i := range r.order {
		m, f := r.backups[i].Manifest, &r.facts[i]
		if m == nil || m.BackupType == manifest.Baseline {
			continue
		}
		var k databaseID
		switch {
		case m.Database != nil:
			k = databaseID{m.Database.Name, m.Database.SystemIdentifier}
		case m.Format == 0:
			k = heir
		}
		d := databases[k]
		if d == nil {
			d = &database{name: k.name, system: k.system, schemas: make(map[string]int)}
			databases[k] = d
		}
		f.database = d
		f.entries = make([]int, len(m.Schemas))
		for n := range m.Schemas {
			e := &m.Schemas[n]
			var place int
			// Mostly the schemas are those of the backup before, in their order.
			if n < len(d.last) && r.schemas[d.last[n]].name == e.Schema {
				place = d.last[n]
			} else {
				place = r.schemaOf(d, e.Schema)
			}
			f.entries[n] = place
			if f.future {
				continue
			}
			r.schemas[place].add(i, m, e)
		}
		d.last = f.entries
	}
}

// databaseID tells databases apart.
type databaseID struct{ name, system string }

// heir is the database of the backups of the original system, which do not say of
// which one they are. Where all others are of one database they were made of it
// as well, and its new backups outvote them; else they are of one by themselves.
func (r *run) heir() databaseID {
	var heir databaseID
	for _, b := range r.backups {
		m := b.Manifest
		if m == nil || m.Database == nil || m.BackupType == manifest.Baseline || len(m.Schemas) == 0 {
			continue
		}
		id := databaseID{m.Database.Name, m.Database.SystemIdentifier}
		if heir != (databaseID{}) && heir != id {
			return databaseID{}
		}
		heir = id
	}
	return heir
}

func (r *run) schemaOf(d *database, name string) int {
	place, ok := d.schemas[name]
	if !ok {
		place = len(r.schemas)
		d.schemas[name] = place
		r.schemas = append(r.schemas, &schema{database: d, name: name, rows: -1})
	}
	return place
}

// judge finds the doubtful backups, from the oldest on, and then what is newest
// and the calendars of the databases.
func (r *run) judge() {
	for _, i := range slices.Backward(r.order) {
		f := &r.facts[i]
		if f.database == nil || f.future {
			continue
		}
		f.doubtful = r.doubt(i)
		if !f.complete() {
			continue
		}
		m := r.backups[i].Manifest
		if m.Format > 0 {
			for n, place := range f.entries {
				r.schemas[place].rows = m.Schemas[n].Rows
			}
		}
	}
	var newest time.Time
	for _, i := range r.order {
		f := &r.facts[i]
		d := f.database
		if d == nil || f.future {
			continue
		}
		if newest.IsZero() {
			newest = r.backups[i].Time
		}
		if d.seen.IsZero() {
			d.seen = r.backups[i].Time
			// Of the original system nobody knows which database it was.
			d.retired = newest.Sub(d.seen) > dormantAfter && (d.name != "" || d.system != "")
		}
		if !f.complete() {
			continue
		}
		if d.newest.IsZero() {
			d.newest = r.backups[i].Time
		}
		if !f.exact {
			for n, place := range f.entries {
				s := r.schemas[place]
				if s.newest.IsZero() {
					s.newest = r.backups[i].Time
				}
				if s.media != nil && s.media.newest.IsZero() && r.backups[i].Manifest.Schemas[n].MediaBackup != "" {
					s.media.newest = r.backups[i].Time
				}
			}
		}
		for rule, p := range f.periods {
			for _, c := range []*[]int{&d.calendar[rule], &r.calendar[rule]} {
				if len(*c) < r.Policy.of(rule) && !slices.Contains(*c, p) {
					*c = append(*c, p)
				}
			}
		}
	}
}

// doubt says why a backup is suspiciously empty: all that it holds of schemas
// which had rows in the backup before is nothing. The walk from the oldest backup
// has come this far.
func (r *run) doubt(i int) string {
	m, f := r.backups[i].Manifest, &r.facts[i]
	switch {
	case r.backups[i].Lacking != "":
		return r.backups[i].Lacking
	case len(m.Schemas) == 0:
		return "holds no schema"
	case m.DefinitionsOnly():
		return "is an incremental of the original system, which has definitions and no rows"
	}
	var before, rows, size int64
	for n, place := range f.entries {
		size += m.Schemas[n].Size
		if known := r.schemas[place].rows; known > 0 {
			before += known
			rows += m.Schemas[n].Rows
		}
	}
	switch {
	case size == 0 && m.Format == 0:
		return "has only empty files"
	case m.Format > 0 && before > 0 && rows == 0:
		return "has no row, where the backup before had " + strconv.FormatInt(before, 10)
	}
	return ""
}

// hold finds out of which databases nothing may go: of those whose newest backup
// is no success, since what it lacks may be what an old one has. A retired one will
// have no better.
func (r *run) hold() {
	seenID := make(map[string]bool, len(r.backups))
	for _, b := range r.backups {
		if b.Manifest == nil {
			r.holdAll(Hold{Why: "the manifest of backup " + b.ID + " cannot be read, and nobody knows what it needs", Absolute: true})
		}
		if seenID[b.ID] {
			r.holdAll(Hold{Why: "two manifests are of backup " + b.ID + ", and nobody knows which of them is meant", Absolute: true})
		}
		seenID[b.ID] = true
	}
	for _, name := range r.Unreadable {
		r.holdAll(Hold{Why: "the manifest " + name + " cannot be read, and nobody knows what it needs", Absolute: true})
	}
	if r.AllowDoubtful {
		return
	}
	for _, id := range r.Interrupted {
		r.holdAll(Hold{Why: "the backup run " + id + " has not ended, and none was made since", Run: id})
	}
	seen := make(map[*database]bool)
	for _, i := range r.order {
		f := &r.facts[i]
		if f.database == nil || f.future || seen[f.database] || r.backups[i].Manifest.DefinitionsOnly() {
			continue
		}
		seen[f.database] = true
		if f.complete() || f.database.retired {
			continue
		}
		why := "the newest backup, " + r.backups[i].ID + ", " + f.doubtful
		if f.doubtful == "" {
			why = "the newest backup, " + r.backups[i].ID + ", is partial"
		}
		f.database.held = why
		r.holds = append(r.holds, Hold{Database: f.database.name, System: f.database.system, Why: why})
	}
}

func (r *run) holdAll(h Hold) {
	r.holds = append(r.holds, h)
	if r.held == "" {
		r.held = h.Why
	}
}

// keepAlone applies the rules that look at one backup only.
func (r *run) keepAlone() {
	for i := range r.backups {
		b, f := &r.backups[i], &r.facts[i]
		m := b.Manifest
		if b.Pin != nil {
			f.add(Pinned, pinText(*b.Pin))
		}
		if m == nil {
			f.add(Unreadable, "its manifest cannot be read")
			continue
		}
		made := b.Time
		if m.Finished.After(made) && !m.Finished.After(r.Now) {
			made = m.Finished
		}
		switch {
		case f.future:
			f.add(Future, "its time is yet to come: a clock was wrong")
		case r.Now.Sub(made) < young:
			f.add(Young, "made within the last hour")
		}
		switch {
		case m.Retention == "":
		case m.RetentionDays == 0:
			f.add(Days, "kept without limit")
		case r.Now.Before(f.until):
			f.add(Days, "for "+string(m.Retention)+" "+plural(m.RetentionDays, "day")+", until "+f.until.Format("2006-01-02 15:04"))
		}
		if m.BackupType == manifest.Baseline && !f.exact {
			f.add(Template, "a baseline")
		}
	}
}

func (f *facts) add(rule Rule, text string) {
	f.keep = true
	f.alone = append(f.alone, Reason{rule, text})
}

// vote applies the rules that look at a schema and all that is there of it.
func (r *run) vote() {
	var slots []slot
	for place, s := range r.schemas {
		slots = r.voteOn(s, slots, func(rule, backup int) { r.keepFor(rule, backup, place) })
		if s.media != nil {
			slots = r.voteOn(s.media, slots, func(rule, backup int) { r.keepForMedia(rule, backup, place) })
		}
	}
}

// voteOn tells which backups the rules keep for a schema, or for its files. The
// slots are to be used again.
func (r *run) voteOn(s *schema, slots []slot, keep func(rule, backup int)) []slot {
	if len(s.points) == 0 {
		return slots
	}
	full := r.lastFull(s)
	if full >= 0 {
		keep(ruleLastFull, full)
	}
	// Of a schema that is gone for good the last full is what stays.
	if full < 0 || !s.dormant() || !r.facts[full].complete() {
		r.keepNewest(s, keep)
	}
	for rule := range voting {
		slots = r.slotsOf(s, rule, slots[:0])
		for _, slot := range slots {
			switch {
			case slot.vote >= 0:
				keep(rule, slot.vote)
			case slot.standIn >= 0:
				keep(ruleStandIn, slot.standIn)
			}
		}
	}
	return slots
}

// keepFor notes that a rule keeps a backup for a schema.
func (r *run) keepFor(rule, backup, schema int) {
	f := &r.facts[backup]
	f.keep = true
	f.found[rule].add(schema)
}

// keepForMedia notes that a rule keeps a backup for the files of a schema. That it
// keeps it for the rows has been noted before, and says enough.
func (r *run) keepForMedia(rule, backup, schema int) {
	f := &r.facts[backup]
	f.keep = true
	if x := f.found[rule]; x.count == 0 || x.last != schema {
		f.media[rule].add(schema)
	}
}

// add counts a schema; they come one after the other.
func (x *finding) add(schema int) {
	switch {
	case x.count == 0:
		x.first = schema
	case x.last == schema:
		return
	}
	x.last = schema
	x.count++
}

// keepNewest keeps the newest backup of a schema, and the newest complete one.
func (r *run) keepNewest(s *schema, keep func(rule, backup int)) {
	keep(ruleNewest, s.points[0].backup)
	for _, p := range s.points {
		if r.facts[p.backup].complete() {
			keep(ruleNewest, p.backup)
			return
		}
	}
}

// lastFull is the newest backup that holds all of a schema without needing
// another one; -1: there is none. A complete backup is better than one that is
// partial or doubtful.
func (r *run) lastFull(s *schema) int {
	other := -1
	for _, p := range s.points {
		switch {
		case p.full && r.facts[p.backup].complete():
			return p.backup
		case p.full && other < 0:
			other = p.backup
		}
	}
	return other
}

// slot is a period that a rule counts, or passes over.
type slot struct {
	period        int
	vote, standIn int // places of backups; -1: none
}

// slotsOf finds what a voting rule keeps of a schema, the newest first. Periods
// without a complete backup are passed over and not counted.
func (r *run) slotsOf(s *schema, rule int, slots []slot) []slot {
	most := r.Policy.of(rule)
	if most == 0 {
		return slots
	}
	oldest := 0
	var calendar []int
	switch {
	case s.database.retired:
		calendar = r.calendar[rule]
	case s.dormant():
		calendar = s.database.calendar[rule]
	}
	if len(calendar) == most {
		oldest = slices.Min(calendar)
	}
	counted := 0
	for _, p := range s.points {
		f := &r.facts[p.backup]
		if f.exact {
			// It goes when its days are over: if it could take a day, that day
			// would be without a backup then.
			continue
		}
		period := f.periods[rule]
		if period < oldest {
			break
		}
		at := slices.IndexFunc(slots, func(x slot) bool { return x.period == period })
		if at < 0 {
			if counted == most {
				break
			}
			at = len(slots)
			slots = append(slots, slot{period: period, vote: -1, standIn: -1})
		}
		switch x := &slots[at]; {
		case f.complete() && x.vote < 0:
			x.vote = p.backup
			counted++
		case !f.complete() && x.standIn < 0:
			x.standIn = p.backup
		}
	}
	return slots
}

// dormant reports whether a schema is gone for so long that the calendar of its
// database counts.
func (s *schema) dormant() bool {
	return !s.newest.IsZero() && s.database.newest.Sub(s.newest) > dormantAfter
}

// follow keeps what kept backups refer to, and what those refer to in turn.
func (r *run) follow() {
	r.findNeeds()
	var queue []int
	for i := range r.facts {
		if r.facts[i].keep {
			queue = append(queue, i)
		}
	}
	r.keepNeeds(queue)
	queue = nil
	for i := range r.facts {
		f := &r.facts[i]
		if f.keep {
			continue
		}
		if f.held = r.held; f.held == "" && f.database != nil {
			f.held = f.database.held
		}
		if f.held != "" {
			queue = append(queue, i)
		}
	}
	for _, i := range queue {
		r.facts[i].keep = true
	}
	r.keepNeeds(queue)
	for _, i := range r.order {
		if !r.facts[i].keep {
			continue
		}
		for _, n := range r.facts[i].needs {
			if f := &r.facts[n]; f.needer < 0 {
				f.needer = i
			} else {
				f.others++
			}
		}
	}
}

// keepNeeds keeps all that backups refer to that are kept themselves.
func (r *run) keepNeeds(queue []int) {
	for len(queue) > 0 {
		f := &r.facts[queue[0]]
		queue = queue[1:]
		for _, i := range f.needs {
			if !r.facts[i].keep {
				r.facts[i].keep = true
				queue = append(queue, i)
			}
		}
	}
}

// findNeeds finds out whose files each backup refers to.
func (r *run) findNeeds() {
	writers := r.findWriters()
	if len(writers) == 0 {
		return
	}
	place := make([]int, len(r.backups)) // in r.order
	for n, i := range r.order {
		place[i] = n
	}
	// Most entries are those of the backup before: of each schema the last answer
	// is kept.
	type answer struct {
		file  string
		needs []int // of whoever borrows the file
	}
	answers := make([]answer, len(r.schemas))
	counted := make([]int, len(r.backups)) // by place: the backup that has it among its needs already, and 1
	for _, i := range r.order {
		m, f := r.backups[i].Manifest, &r.facts[i]
		if m == nil {
			continue
		}
		for n := range m.Schemas {
			s := &m.Schemas[n]
			for _, key := range earlierMedia(m, s) {
				if w := writers[key]; w >= 0 && w != i && counted[w] != i+1 {
					counted[w] = i + 1
					f.needs = append(f.needs, w)
				}
			}
			if own(m, s) && len(s.References) == 0 {
				continue
			}
			var a answer
			if f.database != nil {
				a = answers[f.entries[n]]
			}
			if a.file == "" || a.file != s.Filepath {
				a = answer{file: s.Filepath}
				for _, key := range append([]string{s.Filepath}, s.References...) {
					if w, known := writers[key]; known && w >= 0 {
						a.needs = append(a.needs, w)
					}
				}
				if f.database != nil {
					answers[f.entries[n]] = a
				}
			}
			for _, w := range a.needs {
				if w != i && counted[w] != i+1 {
					counted[w] = i + 1
					f.needs = append(f.needs, w)
				}
			}
		}
		slices.SortFunc(f.needs, func(a, b int) int { return place[a] - place[b] })
	}
}

// earlierMedia are the archives of earlier backups that an entry needs.
func earlierMedia(m *manifest.Manifest, s *manifest.Schema) []string {
	switch {
	case s.Media == nil:
		return nil
	case s.MediaBackup != "" && s.Media.Backup != m.ID:
		return append(s.Media.References[:len(s.Media.References):len(s.Media.References)], s.MediaBackup)
	default:
		return s.Media.References
	}
}

// findWriters returns the places of the backups that wrote the files which others
// refer to; -1 where it is not there.
func (r *run) findWriters() map[string]int {
	writers := make(map[string]int)
	last := make([]string, len(r.schemas))
	for _, i := range r.order {
		m, f := r.backups[i].Manifest, &r.facts[i]
		if m == nil {
			continue
		}
		for n := range m.Schemas {
			s := &m.Schemas[n]
			for _, key := range earlierMedia(m, s) {
				writers[key] = -1
			}
			if !own(m, s) && s.Filepath != "" {
				if f.database != nil {
					if last[f.entries[n]] == s.Filepath {
						continue
					}
					last[f.entries[n]] = s.Filepath
				}
				writers[s.Filepath] = -1
			}
			for _, key := range s.References {
				writers[key] = -1
			}
		}
	}
	if len(writers) == 0 {
		return nil
	}
	for i := range r.backups {
		m := r.backups[i].Manifest
		if m == nil {
			continue
		}
		for n := range m.Schemas {
			s := &m.Schemas[n]
			if own(m, s) {
				if _, wanted := writers[s.Filepath]; wanted {
					writers[s.Filepath] = i
				}
			}
			if s.Media != nil && s.Media.Backup == m.ID {
				if _, wanted := writers[s.MediaBackup]; wanted {
					writers[s.MediaBackup] = i
				}
			}
		}
	}
	return writers
}
