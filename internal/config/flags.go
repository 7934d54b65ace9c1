package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// AddFlags adds the flags of the settings with these keys, to be read by Load.
// An unknown key, or one without a flag, is a mistake in the program and
// panics.
func AddFlags(flags *pflag.FlagSet, keys ...string) {
	all := settings()
	for _, key := range keys {
		i := slices.IndexFunc(all, func(s Setting) bool { return s.Key == key && s.Flag != "" })
		if i < 0 {
			panic("config: no flag for setting " + key)
		}
		s := all[i]
		if f := flags.VarPF(&flag{setting: s}, s.Flag, "", s.usage()); s.Switch {
			f.NoOptDefVal = "true"
		}
		for _, t := range s.Toggles {
			f := flags.VarPF(&toggleFlag{toggle: t}, t.Flag, "", fmt.Sprintf("%s (env %s)", t.Help, t.Env))
			f.NoOptDefVal = "true"
		}
	}
}

// usage returns the line for --help.
func (s Setting) usage() string {
	notes := []string{"env " + s.Env}
	if s.Secret {
		notes[0] += " or " + s.Env + "_FILE"
	}
	if s.Default != "" {
		notes = append(notes, "default "+s.Default)
	}
	return s.Help + " (" + strings.Join(notes, "; ") + ")"
}

// flag collects the values of one setting; it checks each as it comes, so that
// a wrong one is an error of the command line.
type flag struct {
	setting Setting
	texts   []string
}

// String returns what was given so far.
func (f *flag) String() string { return f.setting.show(f.texts) }

// Type names the kind of value in --help.
func (f *flag) Type() string { return f.setting.Kind }

// Set takes one more value.
func (f *flag) Set(text string) error {
	if strings.TrimSpace(text) == "" {
		return errors.New("the value is empty")
	}
	if err := f.setting.apply(new(Config), []string{text}); err != nil {
		return err
	}
	if check := f.setting.checkFlag; check != nil {
		if err := check(text); err != nil {
			return err
		}
	}
	if !f.setting.List {
		f.texts = nil
	}
	f.texts = append(f.texts, text)
	return nil
}

// toggleFlag is the flag of a yes-or-no way to give a setting.
type toggleFlag struct {
	toggle Toggle
	on     bool
}

// String returns the state, or nothing while it is off.
func (f *toggleFlag) String() string {
	if f.on {
		return "true"
	}
	return ""
}

// Type makes --help show the flag without a value.
func (f *toggleFlag) Type() string { return "bool" }

// IsBoolFlag lets the flag stand without a value.
func (f *toggleFlag) IsBoolFlag() bool { return true }

// Set takes true or false.
func (f *toggleFlag) Set(text string) error {
	on, err := parseBool(text)
	f.on = on
	return err
}

// fromFlags looks for a setting among the flags that were given.
func fromFlags(flags *pflag.FlagSet, s Setting) (value, bool, error) {
	if flags == nil || s.Flag == "" {
		return value{}, false, nil
	}
	var found []value
	// The type tells a setting's flag from one of the same name that a command
	// has for itself, such as the filter --schema of a listing.
	if f := flags.Lookup(s.Flag); f != nil && f.Changed {
		if own, ok := f.Value.(*flag); ok {
			found = append(found, value{own.texts, Source{Kind: FromFlag, Name: "--" + s.Flag}})
		}
	}
	for _, t := range s.Toggles {
		if f := flags.Lookup(t.Flag); f != nil && f.Changed {
			if own, ok := f.Value.(*toggleFlag); ok {
				found = append(found, value{[]string{t.text(own.on)}, Source{Kind: FromFlag, Name: "--" + t.Flag}})
			}
		}
	}
	return pick(found)
}

// text returns the setting's value for a state of the toggle.
func (t Toggle) text(on bool) string {
	if on {
		return t.On
	}
	return t.Off
}

// pick takes the value that was found, and refuses two that differ.
func pick(found []value) (value, bool, error) {
	if len(found) == 0 {
		return value{}, false, nil
	}
	for _, other := range found[1:] {
		if !slices.Equal(other.texts, found[0].texts) {
			return value{}, false, &Error{
				Source: found[0].source,
				Err:    fmt.Errorf("contradicts %s", other.source),
				Advice: "give only one of the two",
			}
		}
	}
	return found[0], true, nil
}

// SettingOf returns the key of the setting that a flag belongs to. A command
// may have a flag of the same name that is no setting.
func SettingOf(f *pflag.Flag) (key string, ok bool) {
	switch v := f.Value.(type) {
	case *flag:
		return v.setting.Key, true
	case *toggleFlag:
		for _, s := range settings() {
			if slices.ContainsFunc(s.Toggles, func(t Toggle) bool { return t.Flag == v.toggle.Flag }) {
				return s.Key, true
			}
		}
	}
	return "", false
}
