package health

import "time"

// lastingFor is how far apart two reports have to be for what both show to last.
// Something that happens has checks made at once, whatever was found a moment before.
const lastingFor = 45 * time.Second

// Lasting is what reports that follow one another agree about: what mends itself
// within a minute is not worth a message.
type Lasting struct{ before *Report }

// Add takes in the next report and returns it without what did not last; nil: it is
// too early to tell.
func (l *Lasting) Add(r *Report) *Report {
	before := l.before
	if before == nil {
		l.before = r
		return nil
	}
	both := r.Lasting(before)
	if r.Time.Sub(before.Time).Abs() < lastingFor {
		both.Time, l.before = before.Time, both // what was good in between has not lasted
		return nil
	}
	l.before = r
	return both
}
