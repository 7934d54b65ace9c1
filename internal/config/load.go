package config

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/pflag"
)

// DefaultFile is the settings file that is read if it is there; FileEnv names
// another.
const (
	DefaultFile = "tenantkeep.yaml"
	FileEnv     = "TENANTKEEP_CONFIG"
)

// Sources is where Load looks for settings.
type Sources struct {
	Flags     *pflag.FlagSet              // as parsed; may be nil
	LookupEnv func(string) (string, bool) // os.LookupEnv
	File      string                      // path from --config; empty: FileEnv, then DefaultFile if it is there
}

// Load resolves all settings. The error joins an *Error for every setting that
// cannot be used, so that all of them can be mended at once.
func Load(from Sources) (*Config, error) {
	c := &Config{values: map[string]value{}}
	file, err := openFile(from)
	if err != nil {
		return nil, err
	}
	c.File = file.path
	faults := file.check()
	for _, s := range settings() {
		v, err := from.find(s, file)
		if err == nil {
			err = at(v.source, s.apply(c, v.texts))
		}
		if err != nil {
			faults = append(faults, err)
			continue
		}
		c.values[s.Key] = v
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	c.Warnings = append(c.Warnings, file.warnings()...)
	return c, nil
}

// find returns the value of a setting from the strongest source that has it.
func (from Sources) find(s Setting, file *file) (value, error) {
	if v, found, err := fromFlags(from.Flags, s); found || err != nil {
		return v, err
	}
	if v, found, err := from.fromEnv(s); found || err != nil {
		return v, err
	}
	if v, found, err := file.find(s); found || err != nil {
		return v, err
	}
	if s.Default == "" {
		return value{}, nil
	}
	return value{texts: []string{s.Default}}, nil
}

// env returns a variable; one that is empty or only white space is not set.
func (from Sources) env(name string) (string, bool) {
	if from.LookupEnv == nil || name == "" {
		return "", false
	}
	text, found := from.LookupEnv(name)
	return text, found && strings.TrimSpace(text) != ""
}

// fromEnv looks for a setting in the environment: its variable, the _FILE twin
// of a secret, then its toggles.
func (from Sources) fromEnv(s Setting) (value, bool, error) {
	var found []value
	if text, ok := from.env(s.Env); ok {
		src := Source{Kind: FromEnv, Name: s.Env}
		texts, err := split(s, text)
		if err != nil {
			return value{}, false, at(src, err)
		}
		found = append(found, value{texts, src})
	}
	if path, ok := from.env(s.Env + "_FILE"); ok && s.Secret {
		src := Source{Kind: FromEnv, Name: s.Env + "_FILE"}
		text, err := readSecret(path)
		if err != nil {
			return value{}, false, at(src, err)
		}
		// Which of the two is meant nobody can know, even where they agree today.
		if len(found) > 0 {
			return value{}, false, &Error{Source: src, Err: fmt.Errorf("%s is set too", s.Env), Advice: "unset one of the two"}
		}
		found = append(found, value{[]string{text}, src})
	}
	if len(found) == 0 {
		for _, t := range s.Toggles {
			if text, ok := from.env(t.Env); ok {
				src := Source{Kind: FromEnv, Name: t.Env}
				on, err := parseBool(text)
				if err != nil {
					return value{}, false, at(src, err)
				}
				found = append(found, value{[]string{t.text(on)}, src})
			}
		}
	}
	return pick(found)
}

// split cuts a list in a variable at its commas; a name that has commas itself
// stands in double quotes.
func split(s Setting, text string) ([]string, error) {
	if !s.List {
		return []string{text}, nil
	}
	r := csv.NewReader(strings.NewReader(text))
	r.TrimLeadingSpace = true
	texts, err := r.Read()
	if err != nil {
		return nil, errors.New("is not a list of names with commas between them, and double quotes around names with commas")
	}
	names := texts[:0]
	for _, t := range texts {
		if t = strings.TrimSpace(t); t != "" {
			names = append(names, t)
		}
	}
	return names, nil
}

// maxSecret is the greatest size of a file with a secret; what is longer is
// some other file.
const maxSecret = 64 << 10

// readSecret returns what is in a file, without the end of its line.
func readSecret(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() && info.Mode()&fs.ModeNamedPipe == 0 {
		return "", fmt.Errorf("%s is not a file", path)
	}
	if info.Size() > maxSecret {
		return "", fmt.Errorf("%s is too long for a secret", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	secret := strings.TrimRight(string(text), "\r\n")
	if strings.TrimSpace(secret) == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return secret, nil
}

// at adds the source to the error of a value.
func at(src Source, err error) error {
	if err == nil {
		return nil
	}
	e := &Error{Source: src, Err: err}
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) {
		e.Advice = hinted.Hint()
	}
	return e
}
