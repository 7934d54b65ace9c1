package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/filelock"
)

// Report is what a check of a trail found. Fields are only ever added.
type Report struct {
	File    string `json:"file"`
	Records int    `json:"records"`
	// Torn is how many lines could not be written whole, and are no records.
	Torn int `json:"torn"`
	// First is when the first record was written; zero: there is none.
	First time.Time `json:"first,omitzero"`
	// Backups are the ids that ends of commands name.
	Backups map[string]bool `json:"-"`
	// Unended are the commands that have begun and have no end: they were
	// killed, or are at work.
	Unended []Record `json:"unended"`
	// Problem is the first line that does not fit; nil: the chain is whole.
	Problem *Problem `json:"problem,omitempty"`
}

// Problem is a line that does not fit what stands before it.
type Problem struct {
	Line int    `json:"line"` // from 1
	What string `json:"what"`
}

// Error names the line and what is wrong with it.
func (p *Problem) Error() string { return fmt.Sprintf("line %d %s", p.Line, p.What) }

// Check reads a trail and checks its chain. One that does not exist is an error
// that matches fs.ErrNotExist. What it cannot know is whether records are
// missing at the end.
func Check(path string) (report *Report, err error) {
	f, err := openFile(path, os.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("check audit trail: %w", err)
	}
	defer f.Close()
	// Half a record may be on its way. Who cannot lock reads all the same.
	_ = waitShared(f)
	c := &checker{report: &Report{File: path, Unended: []Record{}, Backups: map[string]bool{}}, open: map[string]Record{}}
	in := bufio.NewReaderSize(f, 1<<20)
	for c.report.Problem == nil {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			c.line(line)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("check audit trail: %w", err)
		}
	}
	if c.report.Problem == nil {
		// The record that says so comes with the next command.
		c.report.Torn += c.torn
	}
	c.report.Unended = append(c.report.Unended, slices.Collect(maps.Values(c.open))...)
	slices.SortFunc(c.report.Unended, func(a, b Record) int { return a.Time.Compare(b.Time) })
	return c.report, nil
}

// checker follows the chain.
type checker struct {
	report  *Report
	lines   int
	pending []byte            // the last record, and what is torn behind it, with line feeds
	torn    int               // lines behind the last record that are none
	open    map[string]Record // by run, what has begun and not ended
}

func (c *checker) line(line []byte) {
	c.lines++
	r, ok := whole(bytes.TrimSuffix(line, []byte("\n")))
	switch {
	case ok && r.Format > Format:
		c.fail("is of format %d, which a newer version wrote", r.Format)
		return
	case !ok:
		// The next record tells whether it is torn, or something else put it there.
		c.torn++
		c.pending = append(c.pending, line...)
		return
	}
	want := none
	if len(c.pending) > 0 {
		sum := sha256.Sum256(bytes.TrimSuffix(c.pending, []byte("\n")))
		want = hex.EncodeToString(sum[:])
	}
	switch {
	case r.Previous == want && r.Torn == (c.torn > 0):
	case c.torn > 0 && !r.Torn:
		c.lines -= c.torn
		c.fail("is no record")
		return
	case c.lines == 1:
		c.fail("is not the first record of the trail: what was before it is missing")
		return
	default:
		c.fail("carries another hash than that of what stands before it: a record was changed, taken out or put in, there or here")
		return
	}
	if c.report.Records == 0 {
		c.report.First = r.Time
	}
	c.report.Records++
	c.report.Torn += c.torn
	c.torn, c.pending = 0, append(c.pending[:0], line...)
	switch r.Event {
	case Started:
		c.open[r.Run] = r
	case Ended:
		delete(c.open, r.Run)
		for _, id := range append(r.Backups, r.Backup) {
			c.report.Backups[id] = true
		}
	}
}

func (c *checker) fail(format string, args ...any) {
	c.report.Problem = &Problem{Line: c.lines, What: fmt.Sprintf(format, args...)}
}

// waitShared waits until nobody writes to the file.
func waitShared(f *os.File) error {
	deadline := time.Now().Add(lockWait)
	for {
		err := filelock.Try(f, filelock.Shared)
		if !errors.Is(err, filelock.ErrLocked) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(lockPoll)
	}
}
