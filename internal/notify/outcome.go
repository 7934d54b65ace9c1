package notify

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

// Outcome is how a run of a backup ended.
type Outcome struct {
	Ended    time.Time
	Manifest *manifest.Manifest // nil: no backup was made
	Before   *manifest.Manifest // of the newest backup before it of the same database; nil: none, or not known
	Failures []manifest.Failure // of single schemas, where there is no manifest that has them
	Err      error              // why the run failed as a whole; nil also where some tenants failed
	Others   []Problem          // what else the run was to do and could not
	Hint     string             // what to do about Err, or Others

	Settled func(schema string) bool // see Event
}

// Backup returns the event of a backup that has ended.
func (r *Run) Backup(o Outcome) *Event {
	problems := append(problemsOf(o.Manifest, o.Failures), o.Others...)
	kind := Succeeded
	switch {
	case o.Err != nil || o.Manifest == nil && len(problems) > 0: // nothing was left to save otherwise
		kind = Failed
	case len(problems) > 0:
		kind = Partial
	}
	e := r.Event(kind, o.Ended)
	e.Settled = o.Settled
	e.Problems, e.ProblemCount = problems, len(problems)
	if o.Err != nil {
		e.Error = o.Err.Error()
	}
	if m := o.Manifest; m != nil {
		e.Backup, e.Type = m.ID, string(m.BackupType)
		e.Schemas, e.Stored = len(m.Schemas), Stored(m)
		for _, s := range m.Schemas {
			e.Tables, e.Rows, e.Bytes = e.Tables+s.Tables, e.Rows+s.Rows, e.Bytes+s.Bytes
		}
		e.Comparison = Compare(m, o.Before, len(r.Scope) == 0 && m.BackupType != manifest.Baseline)
	}
	e.Advice = advice(e, o)
	return e
}

// problemsOf lists what was wrong with single tenants.
func problemsOf(m *manifest.Manifest, failures []manifest.Failure) (list []Problem) {
	if m != nil {
		failures = m.Failures
	}
	for _, f := range failures {
		list = append(list, Problem{Tenant: cmp.Or(f.Tenant, f.Schema), Schema: f.Schema, Error: f.Error})
	}
	if m == nil {
		return list
	}
	for _, s := range m.Schemas {
		if s.Media == nil || s.Media.Failed == 0 {
			continue
		}
		text := plural(s.Media.Failed, "file") + " could not be saved"
		if len(s.Media.Failures) > 0 {
			text += ", the first is " + s.Media.Failures[0]
		}
		list = append(list, Problem{Tenant: s.Tenant, Schema: s.Schema, Error: text, Media: true})
	}
	return list
}

// shownCommands is how many schemas a command in a message may name.
const shownCommands = 5

// advice says what to do next.
func advice(e *Event, o Outcome) (list []string) {
	if o.Hint != "" {
		list = append(list, o.Hint)
	}
	switch e.Kind {
	case Failed:
		if o.Manifest == nil {
			list = append(list, "nothing was saved by this run; "+newestBackup(o))
		}
		list = append(list, "tenantkeep doctor checks connection, rights, pg_dump and repository, and says how to mend what is wrong")
	case Partial:
		list = append(list, "the other tenants are safe in backup "+e.Backup, "mend the causes, then take the missing ones: "+retryCommand(e.Problems))
	}
	if c := e.Comparison; c != nil {
		if len(c.Shrunk) > 0 {
			s := c.Shrunk[0].Tenant
			list = append(list, fmt.Sprintf("if %s was not meant to lose rows, look at the earlier ones beside it: tenantkeep restore --manifest %s --schema %s --as %s", s, c.Backup, shell(s), shell(s+"_before")))
		}
		if len(c.Gone) > 0 {
			list = append(list, fmt.Sprintf("if %s was not meant to go: tenantkeep restore --manifest %s --schema %s", c.Gone[0], c.Backup, shell(c.Gone[0])))
		}
	}
	return list
}

func newestBackup(o Outcome) string {
	if o.Before == nil {
		return "there is no earlier backup of this database"
	}
	return fmt.Sprintf("the newest backup is %s, of %s", o.Before.ID, o.Before.Timestamp.UTC().Format(timeLayout))
}

// retryCommand takes again what failed.
func retryCommand(problems []Problem) string {
	var schemas []string
	for _, p := range problems {
		if p.Schema != "" && !slices.Contains(schemas, p.Schema) {
			schemas = append(schemas, p.Schema)
		}
	}
	switch n := len(schemas); {
	case n == 0:
		return "tenantkeep schedule"
	case n > shownCommands:
		return "tenantkeep backup"
	}
	command := "tenantkeep backup"
	for _, s := range schemas {
		command += " --schema " + shell(s)
	}
	return command
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./][A-Za-z0-9_./-]*$`)

// shell quotes a word for a shell.
func shell(word string) string {
	if plainWord.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
