package retention

import (
	"errors"
	"fmt"
	"strings"
)

// Policy is of how many days, weeks and months the newest backup is kept. 0
// switches a rule off.
type Policy struct {
	Daily, Weekly, Monthly int
}

// Named returns one of the policies default, aggressive and conservative.
func Named(name string) (Policy, bool) {
	switch name {
	case "default":
		return Policy{7, 4, 12}, true
	case "aggressive":
		return Policy{3, 2, 6}, true
	case "conservative":
		return Policy{14, 8, 24}, true
	default:
		return Policy{}, false
	}
}

// Validate refuses a policy that keeps nothing, or that makes no sense.
func (p Policy) Validate() error {
	switch {
	case p.Daily < 0 || p.Weekly < 0 || p.Monthly < 0:
		return errors.New("a number of days, weeks or months to keep is negative")
	case p.Daily+p.Weekly+p.Monthly == 0:
		return errors.New("the policy keeps no day, no week and no month")
	}
	return nil
}

// String names the numbers, for people.
func (p Policy) String() string {
	var parts []string
	for r := range voting {
		if n := p.of(r); n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, voting[r].rule))
		}
	}
	return strings.Join(parts, ", ")
}

// of is how many periods the voting rule counts.
func (p Policy) of(rule int) int {
	return [...]int{p.Daily, p.Weekly, p.Monthly}[rule]
}
