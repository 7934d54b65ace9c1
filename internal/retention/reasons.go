package retention

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// The rules by schema, by which findings are counted. The voting ones come first,
// in the order of the periods of a backup.
const (
	ruleDaily = iota
	ruleWeekly
	ruleMonthly
	ruleNewest
	ruleLastFull
	ruleStandIn
	rules
)

// voting are the rules that vote.
var voting = [...]struct {
	rule   Rule
	period func(time.Time) string
}{
	ruleDaily:   {Daily, func(t time.Time) string { return "day " + t.Format(time.DateOnly) }},
	ruleWeekly:  {Weekly, week},
	ruleMonthly: {Monthly, func(t time.Time) string { return "month " + t.Format("2006-01") }},
}

func week(t time.Time) string {
	year, week := t.ISOWeek()
	return fmt.Sprintf("week %d-W%02d", year, week)
}

// plan puts the decisions together.
func (r *run) plan() *Plan {
	p := &Plan{Decisions: make([]Decision, len(r.backups)), Holds: r.holds}
	for i := range r.backups {
		d, f := &p.Decisions[i], &r.facts[i]
		d.ID, d.Keep = r.backups[i].ID, f.keep
		for _, n := range f.needs {
			d.Needs = append(d.Needs, r.backups[n].ID)
		}
		switch {
		case f.held != "":
			d.Reasons = []Reason{{Held, "would go (" + r.whyNot(f).Text + "), but " + f.held}}
		case f.keep:
			d.Reasons = r.reasonsOf(i)
		default:
			d.Reasons = []Reason{r.whyNot(f)}
		}
	}
	return p
}

// reasonsOf are the reasons to keep a backup.
func (r *run) reasonsOf(i int) []Reason {
	f := &r.facts[i]
	reasons := f.alone
	local := r.backups[i].Time.In(r.Zone)
	for n, v := range voting {
		if f.holds(n) {
			reasons = append(reasons, Reason{v.rule, "newest of " + v.period(local) + r.scope(f, n)})
		}
	}
	if f.holds(ruleNewest) {
		reasons = append(reasons, Reason{Newest, "newest" + r.scope(f, ruleNewest)})
	}
	if f.holds(ruleLastFull) {
		reasons = append(reasons, Reason{LastFull, "last full" + r.scope(f, ruleLastFull)})
	}
	if f.holds(ruleStandIn) {
		kind := "partial"
		if f.doubtful != "" {
			kind = "doubtful"
		}
		reasons = append(reasons, Reason{StandIn, kind + ", but nothing is better in its time" + r.scope(f, ruleStandIn)})
	}
	if f.needer >= 0 {
		text := "needed by " + r.backups[f.needer].ID
		if f.others > 0 {
			text += " and " + plural(f.others, "other")
		}
		reasons = append(reasons, Reason{Needed, text})
	}
	return reasons
}

// holds reports whether a rule by schema keeps the backup.
func (f *facts) holds(rule int) bool { return f.found[rule].count > 0 || f.media[rule].count > 0 }

// scope names the schemas for which a rule keeps a backup, unless they are all
// that it holds, and those for whose files it does.
func (r *run) scope(f *facts, rule int) string {
	text := ""
	if x := f.found[rule]; x.count > 0 && x.count < len(f.entries) {
		text = " of " + r.named(x)
	}
	if x := f.media[rule]; x.count > 0 {
		if f.found[rule].count > 0 {
			text += " and"
		}
		text += " with the files of " + r.named(x)
	}
	return text
}

// named names the first schema of a finding, and how many others there are.
func (r *run) named(x finding) string {
	text := called(r.schemas[x.first].name)
	if x.count > 1 {
		text += " and " + plural(x.count-1, "other")
	}
	return text
}

// whyNot is the reason for which a backup goes.
func (r *run) whyNot(f *facts) Reason {
	switch {
	case f.exact:
		return Reason{Expired, "its days ended " + f.until.Format("2006-01-02 15:04")}
	case f.doubtful != "":
		return Reason{Replaced, "it " + f.doubtful + ", and there are better ones"}
	case f.partial:
		return Reason{Replaced, "partial, and there are better ones"}
	default:
		return Reason{Outvoted, "newest of no day, week or month that counts"}
	}
}

func pinText(p Pin) string {
	text := "pinned"
	if p.By != "" {
		text += " by " + p.By
	}
	if p.Reason != "" {
		text += ": " + p.Reason
	}
	return text
}

// called is a name as it stands in a reason: quoted where it is not one plain
// word.
func called(name string) string {
	plain := func(c rune) bool { return unicode.IsLetter(c) || unicode.IsDigit(c) || strings.ContainsRune("_-.$", c) }
	if name == "" || strings.ContainsFunc(name, func(c rune) bool { return !plain(c) }) {
		return strconv.Quote(name)
	}
	return name
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return strconv.Itoa(n) + " " + word + "s"
}
