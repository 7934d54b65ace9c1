package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// The forms of output.
const (
	formatText  = "text"
	formatTable = "table"
	formatJSON  = "json"
	formatCSV   = "csv"
)

// format is the flag --format of a command: the first of its choices unless
// another is given.
type format struct {
	choices []string
	chosen  string
}

// addFlag adds --format with these choices.
func (f *format) addFlag(flags *pflag.FlagSet, choices ...string) {
	f.choices = choices
	flags.Var(f, "format", "form of the output: "+strings.Join(choices, ", ")+" (default "+choices[0]+")")
}

// is reports whether this form was chosen.
func (f *format) is(choice string) bool {
	return f.chosen == choice || (f.chosen == "" && len(f.choices) > 0 && f.choices[0] == choice)
}

// String returns what was given.
func (f *format) String() string { return f.chosen }

// Type names the value in the help.
func (f *format) Type() string { return "FORM" }

// Set takes one of the choices.
func (f *format) Set(text string) error {
	if !slices.Contains(f.choices, text) {
		return fmt.Errorf("%q is not one of %s", text, strings.Join(f.choices, ", "))
	}
	f.chosen = text
	return nil
}
