package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/schedule"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// plannedJSON is a plan of the schedule. Fields are only ever added.
type plannedJSON struct {
	Kind     string         `json:"kind"` // plan
	Now      time.Time      `json:"now"`
	Zone     string         `json:"time_zone"`
	Backups  []stepJSON     `json:"backups"`       // that are due
	Next     time.Time      `json:"next,omitzero"` // when something else is due; missing: never
	Schemas  []decisionJSON `json:"schemas,omitempty"`
	Baseline *decisionJSON  `json:"baseline,omitempty"`
}

// stepJSON is one backup that is due.
type stepJSON struct {
	Type    manifest.Type `json:"type"`
	Schemas []string      `json:"schemas"` // null: all
	Full    []string      `json:"full,omitempty"`
}

// decisionJSON is what is due of one schema.
type decisionJSON struct {
	Schema   string         `json:"schema"`
	Due      manifest.Type  `json:"due"` // empty: nothing
	Cause    schedule.Cause `json:"cause"`
	Why      string         `json:"why"`
	Since    time.Time      `json:"since,omitzero"`
	Last     *schedule.Past `json:"last,omitempty"`
	LastFull *schedule.Past `json:"last_full,omitempty"`
	Next     time.Time      `json:"next,omitzero"`
}

func planOf(p *schedule.Plan, cfg *config.Config, now time.Time) plannedJSON {
	j := plannedJSON{Kind: "plan", Now: now.UTC(), Zone: cfg.TimeZone.String(), Backups: []stepJSON{}, Next: utc(p.Next)}
	for _, s := range p.Steps() {
		j.Backups = append(j.Backups, stepJSON{s.Type, s.Schemas, s.Full})
	}
	return j
}

func decided(d schedule.Decision) decisionJSON {
	j := decisionJSON{Schema: d.Schema, Due: d.Due, Cause: d.Cause, Why: d.Why, Since: utc(d.Since), Next: utc(d.Next)}
	if d.Last.ID != "" {
		j.Last = &d.Last
	}
	if d.Full.ID != "" {
		j.LastFull = &d.Full
	}
	return j
}

// utc is a time in UTC; the zero time stays zero.
func utc(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.UTC()
}

// showSchedule writes what is due, and why.
func (a *app) showSchedule(p *schedule.Plan, cfg *config.Config, now time.Time, form format) error {
	if form.is(formatJSON) {
		j := planOf(p, cfg, now)
		for _, d := range p.Decisions {
			j.Schemas = append(j.Schemas, decided(d))
		}
		baseline := decided(p.Baseline)
		j.Baseline = &baseline
		return a.ui().JSON(j)
	}
	table := ui.NewTable(ui.Column{Title: "schema", Text: true}, ui.Column{Title: "due", Tone: toneOfDue}, ui.Column{Title: "last"},
		ui.Column{Title: "next"}, ui.Column{Title: "why", Text: true})
	add := func(name string, d schedule.Decision) {
		due, last, next := "no", "never", ""
		if d.Due != "" {
			due = string(d.Due)
		}
		if d.Last.ID != "" {
			last = fmt.Sprintf("%s (%s)", ui.Age(d.Last.Time, now), d.Last.Type)
		}
		if !d.Next.IsZero() {
			next = zoned(d.Next, cfg)
		}
		table.Add(name, due, last, next, d.Why)
	}
	for _, g := range a.groups(p.Decisions) {
		add(nameSome(g), g[0])
	}
	add("baseline of core", p.Baseline)
	if err := a.ui().Table(table); err != nil {
		return fmt.Errorf("write plan: %w", err)
	}
	if p.Work() {
		a.ui().Printf("Would make %s.", dueOf(p))
	} else {
		a.ui().Printf("Nothing is due.")
	}
	return nil
}

// enoughRows is how many schemas have a row each; more are put together, unless
// all is to be said.
const enoughRows = 30

// groups puts schemas together of which the same is to be said.
func (a *app) groups(list []schedule.Decision) (groups [][]schedule.Decision) {
	if len(list) <= enoughRows || a.ui().Verbosity() >= ui.Verbose {
		for _, d := range list {
			groups = append(groups, []schedule.Decision{d})
		}
		return groups
	}
	for _, d := range list {
		i := slices.IndexFunc(groups, func(g []schedule.Decision) bool {
			return g[0].Due == d.Due && g[0].Why == d.Why && g[0].Last == d.Last && g[0].Next.Equal(d.Next)
		})
		if i < 0 {
			groups, i = append(groups, nil), len(groups)
		}
		groups[i] = append(groups[i], d)
	}
	return groups
}

// nameSome names schemas.
func nameSome(group []schedule.Decision) string {
	const enough = 4
	var names []string
	for _, d := range group[:min(len(group), enough)] {
		name := d.Schema
		if name == manifest.CoreSchema {
			name = manifest.CoreTenant
		}
		names = append(names, ui.Safe(name))
	}
	text := strings.Join(names, ", ")
	if n := len(group) - enough; n > 0 {
		text += fmt.Sprintf(" and %s more", ui.Count(int64(n)))
	}
	return text
}

func toneOfDue(due string) ui.Tone {
	if due == "no" {
		return ui.Good
	}
	return ui.Warning
}

// dueOf names the backups that are due.
func dueOf(p *schedule.Plan) string {
	var parts []string
	for _, s := range p.Steps() {
		switch n := int64(len(s.Schemas)); {
		case s.Type == manifest.Baseline:
			parts = append(parts, "the baseline of core")
			continue
		case s.Schemas == nil:
			parts = append(parts, fmt.Sprintf("a backup of all schemas (%s", s.Type))
		default:
			parts = append(parts, fmt.Sprintf("a backup of %s (%s", ui.Plural(n, "schema"), s.Type))
		}
		if n := int64(len(s.Full)); n > 0 {
			parts[len(parts)-1] += fmt.Sprintf(", of %s in full", ui.Plural(n, "schema"))
		}
		parts[len(parts)-1] += ")"
	}
	return strings.Join(parts, " and ")
}

// tellDue says what is about to be done, and why.
func (a *app) tellDue(p *schedule.Plan, cfg *config.Config, form format) error {
	if form.is(formatJSON) {
		return a.ui().JSONLine(planOf(p, cfg, a.now()))
	}
	a.ui().Printf("Due is %s.", dueOf(p))
	due := slices.DeleteFunc(slices.Clone(p.Decisions), func(d schedule.Decision) bool {
		return d.Due == "" || d.Cause == schedule.Time
	})
	for _, g := range a.groups(due) {
		a.ui().Printf("%s: %s.", nameSome(g), ui.SafeText(g[0].Why))
	}
	a.tellBlocked(p)
	return nil
}

// tellIdle says that nothing is due, and when something is.
func (a *app) tellIdle(p *schedule.Plan, cfg *config.Config, form format) error {
	if form.is(formatJSON) {
		return a.ui().JSONLine(planOf(p, cfg, a.now()))
	}
	if p.Next.IsZero() {
		a.ui().Printf("Nothing is due, and nothing ever will be: all schedules are off.")
	} else {
		a.ui().Printf("Nothing is due before %s.", zoned(p.Next, cfg))
	}
	a.tellBlocked(p)
	return nil
}

// tellBlocked says why a baseline that somebody wants is not made.
func (a *app) tellBlocked(p *schedule.Plan) {
	if p.Baseline.Cause == schedule.Blocked {
		a.ui().Printf("No baseline of core is made: %s.", ui.SafeText(p.Baseline.Why))
	}
}
