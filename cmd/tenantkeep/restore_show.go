package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/registry"
	"github.com/tenantkeep/tenantkeep/internal/restore"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// planJSON is a dry run in JSON. Fields are only ever added.
type planJSON struct {
	Kind           string    `json:"kind"`
	Backup         string    `json:"backup"`
	Taken          time.Time `json:"taken"`
	Source         string    `json:"source"` // the database that was saved
	SourceVersion  string    `json:"source_version"`
	SourceEncoding string    `json:"source_encoding"`
	Target         string    `json:"target"`
	TargetVersion  string    `json:"target_version"`
	TargetEncoding string    `json:"target_encoding"`
	Schemas        []planned `json:"schemas"`
	Expected       float64   `json:"expected_seconds"` // about; 0: not known
	Remains        []string  `json:"remains"`          // schemas that a dead restore left, to be removed first
	Warnings       []string  `json:"warnings"`
	// Script is what the script holds that is to be restored. Null: it is a
	// backup.
	Script *scriptJSON `json:"script,omitempty"`
}

type planned struct {
	Schema string `json:"schema"`
	Tenant string `json:"tenant"`
	Tables int64  `json:"tables"`
	Rows   int64  `json:"rows"`
	Bytes  int64  `json:"bytes"`
	Stored int64  `json:"stored"`
	As     string `json:"as"`     // the name that it gets
	Target string `json:"target"` // what is in its place
	// Live is what is replaced. Null: nothing.
	Live       *plannedLive       `json:"live"`
	References []plannedReference `json:"references"` // what elsewhere will point at the restored schema
	// Media is what happens to the files. Null: they stay as they are.
	Media  *plannedMedia  `json:"media,omitempty"`
	Access []accessChange `json:"access"` // owners, grants, policies and comments of the live schema that are not those of the backup
	// Registration is what becomes of the rows elsewhere that register the tenant.
	// Null: nobody looks at them.
	Registration *registration `json:"registration"`
}

// registration is how the rows that register a tenant compare with the backup.
type registration struct {
	Inserted    int                  `json:"inserted"`    // rows that were missing
	Updated     int                  `json:"updated"`     // rows that are overwritten
	Differences []registryDifference `json:"differences"` // that are left
	Notes       []string             `json:"notes"`
}

type registryDifference struct {
	Table  string  `json:"table"`
	Row    string  `json:"row"`            // its key
	Only   string  `json:"only,omitempty"` // backup or database: the whole row is only there
	Column string  `json:"column,omitempty"`
	Backup *string `json:"backup"`
	Live   *string `json:"live"`
}

func newRegistration(r *registry.Report) *registration {
	if r == nil {
		return nil
	}
	doc := &registration{Inserted: r.Inserted, Updated: r.Updated, Differences: []registryDifference{}, Notes: append([]string{}, r.Notes...)}
	for _, d := range r.Differences {
		doc.Differences = append(doc.Differences, registryDifference{d.Table, d.Row, string(d.Only), d.Column, d.Backup, d.Live})
	}
	return doc
}

// tellRegistration says what was done, or would be, to the rows that register a
// tenant.
func (a *app) tellRegistration(tenant string, r *registry.Report, done bool) {
	if r == nil {
		return
	}
	will, left := "will be", "stay as they are; --registry overwrite would make them those of the backup"
	if done {
		will, left = "were", "stayed as they are; --registry overwrite makes them those of the backup"
	}
	if r.Inserted > 0 {
		a.ui().Printf("Of the rows that register %s in the application, %d missing %s put back.", ui.Safe(tenant), r.Inserted, will)
	}
	if r.Updated > 0 {
		a.ui().Printf("Of the rows that register %s in the application, %d %s overwritten.", ui.Safe(tenant), r.Updated, will)
	}
	for _, n := range r.Notes {
		a.ui().Warnf("tenant %s: %s", ui.Safe(tenant), n)
	}
	const enough = 10
	var lines []string
	for i, d := range r.Differences {
		if i == enough {
			lines = append(lines, fmt.Sprintf("  and %d more, which --format json lists", len(r.Differences)-i))
			break
		}
		lines = append(lines, "  "+d.String())
	}
	if len(lines) > 0 {
		a.ui().Warnf("rows that register %s differ from the backup and %s:\n%s", ui.Safe(tenant), left, strings.Join(lines, "\n"))
	}
}

// accessChange is how who may use an object, or what is said about it, differs
// between the live schema and the backup.
type accessChange struct {
	Object string   `json:"object"`
	Lost   []string `json:"lost"`   // that only the live one has
	Gained []string `json:"gained"` // that only the backup has
}

func accessChanges(list []restore.AccessChange) []accessChange {
	changes := []accessChange{}
	for _, c := range list {
		changes = append(changes, accessChange{c.Object, append([]string{}, c.Lost...), append([]string{}, c.Gained...)})
	}
	return changes
}

type plannedLive struct {
	Tables int64 `json:"tables"`
	Rows   int64 `json:"rows"` // about
	Bytes  int64 `json:"bytes_on_disk"`
	Locks  int   `json:"locks"` // that the swap takes
}

// plannedMedia are the files that are put back.
type plannedMedia struct {
	Files    int64  `json:"files"`
	Bytes    int64  `json:"bytes"`
	Stored   int64  `json:"stored"` // in the archive of the backup itself
	Folder   string `json:"folder"`
	Replaces bool   `json:"replaces"` // there is such a folder now, which is kept beside
	Kept     bool   `json:"kept"`     // there are files, which stay: those of the backup are left out
	Adds     bool   `json:"adds"`     // only what is missing comes there
}

type plannedReference struct {
	Kind   string   `json:"kind"`
	Schema string   `json:"schema"`
	Object string   `json:"object"`
	Into   []string `json:"into"`
	Remedy string   `json:"remedy,omitempty"` // it is in the way
}

// showPlan shows source and target side by side.
func (a *app) showPlan(p *restore.Plan, opts RestoreOptions) error {
	doc := planJSON{
		Kind: "plan", Backup: p.Backup, Taken: p.Taken.UTC(),
		Source: p.Source.Name, SourceVersion: p.Source.ServerVersion, SourceEncoding: p.Source.Encoding,
		Target: p.Server, TargetVersion: p.Target.ServerVersion, TargetEncoding: p.Target.Encoding,
		Expected: p.Expected.Seconds(), Schemas: []planned{}, Remains: append([]string{}, p.Remains...), Warnings: append([]string{}, p.Warnings...),
	}
	table := ui.NewTable(ui.Column{Title: "schema"}, ui.Column{Title: "tables", Right: true}, ui.Column{Title: "rows", Right: true},
		ui.Column{Title: "text", Right: true}, ui.Column{Title: "stored", Right: true},
		ui.Column{Title: "in its place now"}, ui.Column{Title: "rows now", Right: true})
	for _, s := range p.Schemas {
		one := planned{
			Schema: s.Schema, Tenant: s.Tenant, Tables: s.Tables, Rows: s.Rows, Bytes: s.Bytes, Stored: s.Stored, As: s.As, Target: s.Target,
			References: []plannedReference{}, Access: accessChanges(s.Access), Registration: newRegistration(s.Registration),
		}
		name, now := s.Schema, ""
		if s.As != s.Schema {
			name += " as " + s.As
		}
		if s.Live != nil {
			one.Live = &plannedLive{s.Live.Tables, s.Live.Rows, s.Live.Bytes, s.Live.Locks}
			now = "about " + ui.Count(s.Live.Rows)
		}
		if m := s.Media; m != nil {
			one.Media = &plannedMedia{m.Files, m.Bytes, m.Stored, m.Folder, m.Replaces, m.Kept, m.Adds}
		}
		for _, r := range s.References {
			one.References = append(one.References, plannedReference(r))
		}
		doc.Schemas = append(doc.Schemas, one)
		table.Add(name, ui.Count(s.Tables), ui.Count(s.Rows), ui.Bytes(s.Bytes), ui.Bytes(s.Stored), s.Target, now)
	}
	doc.Script = newScriptJSON(p.Script)
	if opts.Format.is(formatJSON) {
		return a.ui().JSONLine(doc)
	}
	if p.Script != nil {
		a.tellScript(p)
	} else {
		a.ui().Printf("From: database %s, PostgreSQL %s, %s", ui.Safe(p.Source.Name), ui.Safe(p.Source.ServerVersion), p.Taken.UTC().Format("2006-01-02 15:04:05 UTC"))
	}
	a.ui().Printf("Into: %s, PostgreSQL %s", p.Server, ui.Safe(p.Target.ServerVersion))
	if err := a.ui().Table(table); err != nil {
		return err
	}
	for i, s := range doc.Schemas {
		a.tellRegistration(s.Tenant, p.Schemas[i].Registration, false)
		if s.Live != nil {
			a.ui().Printf("Schema %s will be replaced: the swap locks %s for a moment, and the schema stays as %s__replaced_….",
				ui.Safe(s.As), ui.Plural(int64(s.Live.Locks), "table"), ui.Safe(s.As))
		}
		for _, r := range s.References {
			a.ui().Printf("  %s %s will point at the restored %s", r.Kind, ui.Safe(r.Object), ui.Safe(strings.Join(r.Into, ", ")))
		}
		if m := s.Media; m != nil && m.Kept {
			a.ui().Printf("The files in %s stay as they are, and those of the backup are left out.", ui.Safe(m.Folder))
		} else if m != nil {
			kept := ""
			if m.Adds {
				kept = ", where they are missing; what is there stays as it is"
			}
			if m.Replaces {
				kept = "; what is there now is kept beside it as …__replaced_…"
			}
			a.ui().Printf("%s of %s will be put into %s%s.", ui.Plural(m.Files, "file"), ui.Bytes(m.Bytes), ui.Safe(m.Folder), kept)
		}
		if len(s.Access) > 0 {
			a.ui().Printf("Owners, grants, policies and comments will be those of the backup:\n%s", accessLines(s.Access))
		}
	}
	if p.Expected > 0 {
		a.ui().Printf("It takes about %s, as far as the backup's own time tells.", ui.Duration(max(p.Expected, time.Second)))
	}
	for _, name := range doc.Remains {
		a.ui().Printf("Schema %s, left by an earlier restore, will be removed.", ui.Safe(name))
	}
	return nil
}

// restoreSummary is the last line of a restore in JSON. Fields are only ever
// added.
type restoreSummary struct {
	Kind     string           `json:"kind"`
	Backup   string           `json:"backup"`
	Target   string           `json:"target"`
	Restored int              `json:"restored"` // schemas, those that lack objects among them
	Failed   int              `json:"failed"`
	Tables   int64            `json:"tables"`
	Rows     int64            `json:"rows"`
	Bytes    int64            `json:"bytes"`
	Seconds  float64          `json:"seconds"`
	Schemas  []restoredSchema `json:"schemas"`
	Compare  []string         `json:"compare,omitempty"` // SQL that compares single tables with the live ones
}

type restoredSchema struct {
	Schema  string  `json:"schema"`
	Tenant  string  `json:"tenant"`
	As      string  `json:"as"` // the name that it has now
	OK      bool    `json:"ok"`
	Error   string  `json:"error,omitempty"`
	Tables  int64   `json:"tables"`
	Rows    int64   `json:"rows"`
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
	// Back is what a rollback went back to, and Since when that was replaced.
	Back  string    `json:"back,omitempty"`
	Since time.Time `json:"replaced_at,omitzero"`
	// Replaced is what the schema is called now whose place was taken.
	Replaced string `json:"replaced,omitempty"`
	// Rollback is the backup of it, as restore --manifest takes it.
	Rollback string `json:"rollback,omitempty"`
	// Blocked is for how many seconds others could not use its tables.
	Blocked float64 `json:"blocked_seconds"`
	// Files are those that were put back, and ReplacedFiles the folder, below the
	// media root, of those whose place they took.
	Files         int64             `json:"media_files,omitempty"`
	ReplacedFiles string            `json:"media_replaced,omitempty"`
	Staged        string            `json:"staged,omitempty"` // the schema that waits for its swap
	Access        []accessChange    `json:"access"`           // how owners, grants, policies and comments of what was replaced differ
	Notes         []string          `json:"notes"`
	Problems      []restoredProblem `json:"problems"` // objects that could not be made
	// Registration is what became of the rows elsewhere that register the tenant.
	// Null: nobody looked at them.
	Registration *registration `json:"registration"`
}

type restoredProblem struct {
	Kind   string `json:"kind"`
	Object string `json:"object"`
	Error  string `json:"error"`
	Remedy string `json:"remedy,omitempty"`
	SQL    string `json:"sql"`
}

// showRestore says what was done.
func (a *app) showRestore(r *restore.Result, opts RestoreOptions) error {
	s := restoreSummary{
		Kind: "summary", Backup: r.Plan.Backup, Target: r.Plan.Server, Tables: r.Tables, Rows: r.Rows, Bytes: r.Bytes, Seconds: r.Seconds,
		Schemas: []restoredSchema{}, Compare: r.Compare,
	}
	for _, t := range r.Tenants {
		one := restoredSchema{
			Schema: t.Schema, Tenant: t.Tenant, As: t.As, Replaced: t.Replaced, Blocked: t.Blocked, Staged: t.Staged, OK: t.Err == nil && len(t.Problems) == 0, Tables: t.Tables, Rows: t.Rows, Bytes: t.Bytes,
			Seconds: t.Seconds, Access: accessChanges(t.Access), Notes: append([]string{}, t.Notes...), Problems: []restoredProblem{},
			Registration: newRegistration(t.Registration),
		}
		one.Files, one.ReplacedFiles = t.Files, t.ReplacedFiles
		if t.Point != "" {
			one.Rollback = rollbackName + "/" + t.Point
		}
		if t.Err != nil {
			one.Error = t.Err.Error()
			s.Failed++
		} else {
			s.Restored++
		}
		for _, p := range t.Problems {
			one.Problems = append(one.Problems, restoredProblem{p.Kind, p.Object, p.Err.Error(), p.Remedy, p.SQL})
		}
		s.Schemas = append(s.Schemas, one)
	}
	if opts.undoes {
		for i := range s.Schemas {
			s.Schemas[i].Back, s.Schemas[i].Since = opts.Manifest, r.Plan.Taken.UTC()
		}
	}
	switch {
	case opts.Format.is(formatJSON) && opts.undoes:
		return a.ui().JSONLine(rollbackOf(s))
	case opts.Format.is(formatJSON):
		return a.ui().JSONLine(s)
	}
	a.tellProblems(s)
	if s.Restored > 0 {
		a.ui().Printf("Restored %s: %s, %s, %s of text in %s.", ui.Plural(int64(s.Restored), "schema"), ui.Plural(s.Tables, "table"),
			ui.Plural(s.Rows, "row"), ui.Bytes(s.Bytes), ui.Duration(time.Duration(s.Seconds*float64(time.Second))))
		if r.Plan.Script != nil {
			a.tellCounted(r)
		} else {
			a.ui().Printf("Every table was read again and has the rows and the checksum of backup %s.", ui.Safe(s.Backup))
		}
	}
	for _, t := range s.Schemas {
		switch {
		case t.ReplacedFiles != "":
			a.ui().Printf("%s; what was there is kept as %s.", filesBack(t), ui.Safe(t.ReplacedFiles))
		case t.Files > 0:
			a.ui().Printf("%s.", filesBack(t))
		}
	}
	for _, t := range r.Tenants {
		a.tellRegistration(t.Tenant, t.Registration, true)
	}
	a.tellSwaps(s)
	if len(r.Compare) > 0 {
		_, err := fmt.Fprintln(a.stdout, strings.Join(r.Compare, "\n\n"))
		return err
	}
	return nil
}

func filesBack(t restoredSchema) string {
	verb := "are"
	if t.Files == 1 {
		verb = "is"
	}
	return fmt.Sprintf("%s of tenant %s %s back", ui.Plural(t.Files, "file"), ui.Safe(t.Tenant), verb)
}

// accessLines lists the first changes.
func accessLines(list []accessChange) string {
	const enough, longest = 6, 100
	var lines []string
	for _, c := range list {
		for _, side := range []struct {
			items []string
			text  string
		}{{c.Lost, "goes"}, {c.Gained, "comes back"}} {
			for _, item := range side.items {
				if runes := []rune(item); len(runes) > longest {
					item = string(runes[:longest]) + "…"
				}
				lines = append(lines, fmt.Sprintf("  %s: %s %s", ui.Safe(c.Object), ui.Safe(item), side.text))
			}
		}
	}
	if more := len(lines) - enough; more > 0 {
		lines = append(lines[:enough], fmt.Sprintf("  and %d more, which --format json lists", more))
	}
	return strings.Join(lines, "\n")
}

// tellSwaps says what became of the replaced schemas, and how to get them back.
func (a *app) tellSwaps(s restoreSummary) {
	for _, t := range s.Schemas {
		switch {
		case t.Staged != "":
			a.ui().Warnf("tenant %s waits in schema %s for its swap.\nTry the swap again: tenantkeep restore --resume --schema %s\ntenantkeep cleanup removes it.",
				ui.Safe(t.Tenant), ui.Safe(t.Staged), shellWord(t.Schema))
		case t.Replaced != "":
			a.ui().Printf("Schema %s is live. The swap kept others waiting for %d ms at most; what it replaced is kept as %s.",
				ui.Safe(t.As), max(int64(t.Blocked*1000), 1), ui.Safe(t.Replaced))
			if len(t.Access) > 0 {
				a.ui().Warnf("owners, grants, policies and comments of %s are those of the backup:\n%s", ui.Safe(t.As), accessLines(t.Access))
			}
			a.ui().Printf("Undo: tenantkeep rollback %s", shellWord(t.As))
		}
	}
}

// tellProblems names what is missing, with what to do about it.
func (a *app) tellProblems(s restoreSummary) {
	for _, t := range s.Schemas {
		for _, n := range t.Notes {
			a.ui().Warnf("tenant %s: %s", ui.Safe(t.Tenant), n)
		}
		for _, p := range t.Problems {
			text := fmt.Sprintf("tenant %s: %s %s could not be made: %s", ui.Safe(t.Tenant), strings.ToLower(p.Kind), p.Object, p.Error)
			if p.Remedy != "" {
				text += "\n" + p.Remedy
			}
			if sql := strings.TrimSpace(p.SQL); sql != "" {
				text += "\n" + sql
			}
			a.ui().Warnf("%s", text)
		}
	}
}
