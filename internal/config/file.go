package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// file is the settings file as it was read: a mapping of keys to values.
type file struct {
	path    string
	entries []entry
	mode    fs.FileMode
}

// entry is one key of the file.
type entry struct {
	key  string
	line int
	node *yaml.Node
}

// openFile reads the settings file: the one that was named, which must be
// there, or the default one, which need not.
func openFile(from Sources) (*file, error) {
	path, named := from.File, Source{Kind: FromFlag, Name: "--config"}
	if path == "" {
		path, _ = from.env(FileEnv)
		named = Source{Kind: FromEnv, Name: FileEnv}
	}
	explicit := path != ""
	if !explicit {
		path = DefaultFile
	}
	info, err := os.Stat(path)
	if !explicit && errors.Is(err, fs.ErrNotExist) {
		return &file{}, nil
	}
	if !explicit {
		named = Source{}
	}
	if err != nil {
		return nil, at(named, fmt.Errorf("read settings: %w", err))
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, at(named, fmt.Errorf("read settings: %w", err))
	}
	f, err := parseFile(path, text)
	if err != nil {
		return nil, at(Source{}, err)
	}
	f.mode = info.Mode()
	return f, nil
}

// parseFile reads the text of a settings file.
func parseFile(path string, text []byte) (*file, error) {
	f := &file{path: path}
	loader, err := yaml.NewLoader(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var doc, second yaml.Node
	if err := loader.Load(&doc); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %s", path, strings.TrimPrefix(err.Error(), "go-yaml load error "))
	}
	if len(doc.Content) == 0 {
		return f, nil
	}
	if err := loader.Load(&second); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: settings are one YAML document, and here are more", path)
	}
	top := doc.Content[0]
	if top.Tag == "!!null" {
		return f, nil
	}
	if top.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s:%d: settings are lines of \"key: value\"", path, top.Line)
	}
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, node := top.Content[i], top.Content[i+1]
		if node.Kind == yaml.AliasNode {
			node = node.Alias
		}
		f.entries = append(f.entries, entry{key: key.Value, line: key.Line, node: node})
	}
	return f, nil
}

// check finds keys that no setting has, and keys that stand twice.
func (f *file) check() (faults []error) {
	var known []string
	for _, s := range settings() {
		known = append(known, s.Key)
		if s.Secret {
			known = append(known, s.Key+"-file")
		}
	}
	seen := map[string]int{}
	for _, e := range f.entries {
		if line, twice := seen[e.key]; twice {
			faults = append(faults, at(f.source(e), fmt.Errorf("stands twice; first in line %d", line)))
		}
		seen[e.key] = e.line
		if !slices.Contains(known, e.key) {
			fault := &Error{Source: f.source(e), Err: errors.New("unknown setting"), Advice: "known settings: " + strings.Join(known, ", ")}
			if near := Nearest(e.key, known); near != "" {
				fault.Advice = "did you mean " + near + "?"
			}
			faults = append(faults, fault)
		}
	}
	return faults
}

// find returns the value that the file gives a setting.
func (f *file) find(s Setting) (value, bool, error) {
	var found []value
	for _, e := range f.entries {
		secretFile := s.Secret && e.key == s.Key+"-file"
		if e.key != s.Key && !secretFile {
			continue
		}
		texts, err := e.texts(s)
		if err == nil && secretFile && len(texts) > 0 {
			texts[0], err = readSecret(texts[0])
		}
		if err != nil {
			return value{}, false, at(f.source(e), err)
		}
		if len(texts) > 0 {
			found = append(found, value{texts, f.source(e)})
		}
	}
	return pick(found)
}

// warnings tells of secrets that other users of the machine can read.
func (f *file) warnings() []string {
	if f.mode.Perm()&0o077 == 0 {
		return nil
	}
	for _, s := range settings() {
		v, found, err := f.find(s)
		if err != nil || !found || !s.Secret || strings.HasSuffix(v.source.Name, "-file") {
			continue
		}
		if text := v.texts[0]; s.show(v.texts) != text {
			return []string{fmt.Sprintf("%s holds a secret and can be read by others: chmod 600 %s", v.source, f.path)}
		}
	}
	return nil
}

func (f *file) source(e entry) Source {
	return Source{Kind: FromFile, Name: e.key, File: f.path, Line: e.line}
}

// texts returns the values of an entry for a setting; none where it is empty.
func (e entry) texts(s Setting) ([]string, error) {
	nodes := []*yaml.Node{e.node}
	if e.node.Kind == yaml.SequenceNode && s.List {
		nodes = e.node.Content
	}
	var texts []string
	for _, n := range nodes {
		if n.Kind == yaml.AliasNode {
			n = n.Alias
		}
		if n.Kind != yaml.ScalarNode {
			return nil, errors.New(map[bool]string{true: "is not a name or a list of names", false: "is not a single value"}[s.List])
		}
		if n.Tag != "!!null" && (strings.TrimSpace(n.Value) != "" || s.Words && len(texts) > 0) {
			texts = append(texts, n.Value)
		}
	}
	return texts, nil
}
