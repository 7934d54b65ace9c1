package restore

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// Finding is a reason not to begin.
type Finding struct {
	Tenant  string `json:"tenant,omitempty"` // empty: it concerns all of them
	Problem string `json:"problem"`
	Remedy  string `json:"remedy,omitempty"`
	Err     error  `json:"-"` // behind it, if there is one
}

// PreflightError says why a restore did not begin. Nothing was touched.
type PreflightError struct {
	Findings []Finding
}

// shownFindings is how many findings are worth reading.
const shownFindings = 20

// Error lists the first findings, each with its remedy.
func (e *PreflightError) Error() string {
	lines := make([]string, 0, len(e.Findings)+1)
	if len(e.Findings) != 1 {
		lines = append(lines, fmt.Sprintf("the restore cannot begin for %d reasons:", len(e.Findings)))
	}
	for i, f := range e.Findings {
		if i == shownFindings {
			lines = append(lines, fmt.Sprintf("- and %d more", len(e.Findings)-i))
			break
		}
		line := f.Problem
		if f.Tenant != "" {
			line = fmt.Sprintf("tenant %s: %s", f.Tenant, line)
		}
		if len(e.Findings) == 1 {
			return line
		}
		lines = append(lines, "- "+line)
		if f.Remedy != "" {
			lines = append(lines, "  "+f.Remedy)
		}
	}
	return strings.Join(lines, "\n")
}

// Hint is the remedy of a single finding, and that nothing has happened.
func (e *PreflightError) Hint() string {
	if len(e.Findings) == 1 && e.Findings[0].Remedy != "" {
		return e.Findings[0].Remedy + "; nothing was changed"
	}
	return "nothing was changed"
}

// Unwrap returns the errors behind the findings.
func (e *PreflightError) Unwrap() []error {
	var errs []error
	for _, f := range e.Findings {
		if f.Err != nil {
			errs = append(errs, f.Err)
		}
	}
	return errs
}

// PartialError says that a restore did its work for some tenants only, or left
// out objects that could not be made.
type PartialError struct {
	Done       int            // tenants that are whole
	Failed     []TenantResult // that are not there
	Incomplete []TenantResult // that are there with all rows, but lack objects or files
}

// Error tells how many, and the first of each kind.
func (e *PartialError) Error() string {
	var parts []string
	if n := len(e.Failed); n > 0 {
		were := "were not restored, the first is"
		if n == 1 {
			were = "was not restored:"
		}
		parts = append(parts, fmt.Sprintf("%d of %d tenants %s %s: %v", n, n+len(e.Incomplete)+e.Done, were, e.Failed[0].Tenant, e.Failed[0].Err))
	}
	if n := len(e.Incomplete); n > 0 {
		t := e.Incomplete[0]
		lacks := fmt.Sprintf("%d tenants have all of their rows but lack objects, the first is %s:", n, t.Tenant)
		switch {
		case n == 1 && len(t.Problems) == 1:
			lacks = fmt.Sprintf("tenant %s has all of its rows but lacks", t.Tenant)
		case n == 1:
			lacks = fmt.Sprintf("tenant %s has all of its rows but lacks %d objects, the first is", t.Tenant, len(t.Problems))
		}
		parts = append(parts, fmt.Sprintf("%s %s %s: %v", lacks, strings.ToLower(t.Problems[0].Kind), t.Problems[0].Object, t.Problems[0].Err))
	}
	return strings.Join(parts, "\n")
}

// Hint says what to do next.
func (e *PartialError) Hint() string {
	if slices.ContainsFunc(e.Failed, func(t TenantResult) bool { return t.Left }) {
		return "not all that failed could be removed, see the notes above: mend the cause, drop what is left of it, and restore it with --schema"
	}
	if len(e.Failed) > 0 {
		return "what failed was removed again: mend the cause and restore it with --schema"
	}
	if !slices.ContainsFunc(e.Incomplete, func(t TenantResult) bool {
		return slices.ContainsFunc(t.Problems, func(p Problem) bool { return p.SQL != "" })
	}) {
		return "see above what to do about each"
	}
	return "mend the cause and run the statements shown above by hand"
}

// DiskFullError says that the server's disk has no room for the restore, which
// ends it for all tenants.
type DiskFullError struct {
	Tenant string // whose turn it was
	Err    error
}

// Error is the server's error, with the tenant.
func (e *DiskFullError) Error() string { return fmt.Sprintf("tenant %s: %v", e.Tenant, e.Err) }

// Unwrap returns the server's error.
func (e *DiskFullError) Unwrap() error { return e.Err }

// Hint says what to do.
func (*DiskFullError) Hint() string {
	return "make room on the disk of the server, or restore fewer tenants at a time with --schema"
}

// mismatchError says that a table's rows are not those of the backup.
type mismatchError struct {
	schema, table string
	want, got     int64 // rows
}

func (e *mismatchError) Error() string {
	name := pg.Identifier(e.schema, e.table)
	if e.want != e.got {
		return fmt.Sprintf("table %s has %d rows, the backup has %d", name, e.got, e.want)
	}
	return fmt.Sprintf("table %s has the %d rows of the backup, but with other contents", name, e.got)
}

// remedy says what can be done about a statement that failed.
func remedy(kind string, err error) string {
	switch code := pg.Code(err); {
	case code == "42883" && kind != "CAST":
		return "a function is called without its schema: give the calling function a search_path by ALTER FUNCTION … SET search_path, then run the statement by hand"
	case pg.Missing(err):
		return "restore or create what it refers to, then run the statement by hand"
	case code == pg.Privilege:
		return "run the statement by hand as a role that may"
	case code == "23503":
		return "rows refer to others that are not there: restore those too, or add the constraint with NOT VALID"
	case code == pg.LockNotAvailable:
		return "another session holds a lock for a long time: run the statement by hand when it is gone"
	}
	return ""
}
