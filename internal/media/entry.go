package media

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Kind is what an entry is.
type Kind string

// The kinds of entries that archives hold.
const (
	KindFile   Kind = "file"
	KindFolder Kind = "dir"
	KindLink   Kind = "link" // symbolic
	KindHard   Kind = "hard" // another name of a file that stands before it
)

// Top is the name of the folder itself.
const Top = "."

// Entry is one thing in a folder.
type Entry struct {
	Name  string
	Kind  Kind // empty: something that is not saved, such as a socket
	What  string
	Size  int64  // of a file, in bytes, holes included
	Mode  uint32 // permissions with set-user-ID, set-group-ID and sticky bit, as chmod takes them
	Time  time.Time
	UID   int
	GID   int
	User  string // empty: not known
	Group string
	Link  string // where a link leads; the other name of a hard link
	// Attributes are the extended ones, by name.
	Attributes map[string]string
	// Version changes whenever the contents of a file may have changed.
	Version string
	// Same is equal for the names of one file; empty: it has but one.
	Same string

	// Of a file in an archive:

	// Hash is the SHA-256 of the contents, hexadecimal; of a sparse file that of
	// its extents, one behind the other.
	Hash string
	// Extents are the parts of a sparse file that are no holes. Nil: it has none.
	Extents []Extent
	// Archive is where the contents are: 0 this one, n the n-th of its references.
	Archive int
	// At is where the contents begin in the decompressed archive.
	At int64
	// Unsure says that the file was written to so shortly before it was read that
	// its version does not tell whether it changed since.
	Unsure bool
}

// Stored is how many bytes of contents an archive holds of a file.
func (e *Entry) Stored() int64 {
	if e.Extents == nil {
		return e.Size
	}
	var n int64
	for _, x := range e.Extents {
		n += x.Length
	}
	return n
}

// Compare orders names: a folder before what is in it, and that before whatever
// follows the folder; names of one folder by their bytes.
func Compare(a, b string) int {
	switch {
	case a == b:
		return 0
	case a == Top:
		return -1
	case b == Top:
		return 1
	}
	for i := range min(len(a), len(b)) {
		if x, y := a[i], b[i]; x != y {
			if x == '/' || y != '/' && x < y {
				return -1
			}
			return 1
		}
	}
	if len(a) < len(b) {
		return -1
	}
	return 1
}

// checkName refuses what cannot be the name of an entry.
func checkName(name string) error {
	switch {
	case name == Top:
		return nil
	case name == "":
		return errors.New("the name is empty")
	case name[0] == '/':
		return errors.New("the name is absolute")
	case strings.ContainsRune(name, 0):
		return errors.New("the name holds a zero byte")
	}
	for element := range strings.SplitSeq(name, "/") {
		switch element {
		case "", ".":
			return errors.New("the name is not a plain path")
		case "..":
			return errors.New("the name leads out of the folder")
		}
	}
	return nil
}

// parent is the name of the folder that an entry is in.
func parent(name string) string {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i]
	}
	return Top
}

// LeadsOut reports whether a symbolic link leads out of its folder, or may: one
// with ".." behind another element goes up from wherever that leads.
func (e *Entry) LeadsOut() bool {
	if e.Kind != KindLink {
		return false
	}
	if strings.HasPrefix(e.Link, "/") {
		return true
	}
	up, down := 0, false
	for element := range strings.SplitSeq(e.Link, "/") {
		switch element {
		case "", ".":
		case "..":
			if down {
				return true
			}
			up++
		default:
			down = true
		}
	}
	return up > strings.Count(e.Name, "/")
}

// raw is text that need not be UTF-8, which names of files are not always.
type raw string

// MarshalJSON writes a string, or where JSON has none for it an object.
func (r raw) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(r)) {
		return json.Marshal(string(r))
	}
	return json.Marshal(map[string]string{"base64": base64.StdEncoding.EncodeToString([]byte(r))})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (r *raw) UnmarshalJSON(text []byte) error {
	if len(text) > 0 && text[0] == '"' {
		return json.Unmarshal(text, (*string)(r))
	}
	var bytes struct {
		Base64 []byte `json:"base64"`
	}
	if err := json.Unmarshal(text, &bytes); err != nil {
		return err
	}
	*r = raw(bytes.Base64)
	return nil
}

// entryJSON is an entry in the index of an archive: a line of its own.
type entryJSON struct {
	Name       raw            `json:"name"`
	Kind       Kind           `json:"kind"`
	Size       int64          `json:"size,omitempty"`
	Mode       uint32         `json:"mode"`
	Seconds    int64          `json:"mtime"`
	Nano       int            `json:"mtime_nano,omitempty"`
	UID        int            `json:"uid"`
	GID        int            `json:"gid"`
	User       raw            `json:"user,omitempty"`
	Group      raw            `json:"group,omitempty"`
	Link       raw            `json:"link,omitempty"`
	Attributes map[string]raw `json:"attributes,omitempty"`
	Version    string         `json:"version,omitempty"`
	Hash       string         `json:"hash,omitempty"`
	Extents    [][2]int64     `json:"extents,omitempty"`
	Sparse     bool           `json:"sparse,omitempty"` // of a file that is one hole
	Archive    int            `json:"in,omitempty"`
	At         int64          `json:"at,omitempty"`
	Unsure     bool           `json:"unsure,omitempty"`
}

func (e *Entry) line() ([]byte, error) {
	x := entryJSON{
		Name: raw(e.Name), Kind: e.Kind, Size: e.Size, Mode: e.Mode, Seconds: e.Time.Unix(), Nano: e.Time.Nanosecond(), UID: e.UID, GID: e.GID,
		User: raw(e.User), Group: raw(e.Group), Link: raw(e.Link), Version: e.Version, Hash: e.Hash, Archive: e.Archive, At: e.At, Unsure: e.Unsure,
		Sparse: e.Extents != nil,
	}
	for _, p := range e.Extents {
		x.Extents = append(x.Extents, [2]int64{p.Offset, p.Length})
	}
	for name, v := range e.Attributes {
		if x.Attributes == nil {
			x.Attributes = map[string]raw{}
		}
		x.Attributes[name] = raw(v)
	}
	line, err := json.Marshal(x)
	return append(line, '\n'), err
}

func parseEntry(line []byte) (e Entry, err error) {
	var x entryJSON
	if err := json.Unmarshal(line, &x); err != nil {
		return e, err
	}
	e = Entry{
		Name: string(x.Name), Kind: x.Kind, Size: x.Size, Mode: x.Mode, Time: time.Unix(x.Seconds, int64(x.Nano)), UID: x.UID, GID: x.GID,
		User: string(x.User), Group: string(x.Group), Link: string(x.Link), Version: x.Version, Hash: x.Hash, Archive: x.Archive, At: x.At, Unsure: x.Unsure,
	}
	if x.Sparse {
		e.Extents = []Extent{}
	}
	for _, p := range x.Extents {
		e.Extents = append(e.Extents, Extent{p[0], p[1]})
	}
	for name, v := range x.Attributes {
		if e.Attributes == nil {
			e.Attributes = map[string]string{}
		}
		e.Attributes[name] = string(v)
	}
	return e, e.check()
}

// check refuses an entry that no archive of ours holds.
func (e *Entry) check() error {
	if err := checkName(e.Name); err != nil {
		return fmt.Errorf("entry %q: %w", e.Name, err)
	}
	wrong := ""
	switch {
	case e.Kind != KindFile && e.Kind != KindFolder && e.Kind != KindLink && e.Kind != KindHard:
		wrong = fmt.Sprintf("it is a %q, which is not put back", e.Kind)
	case (e.Name == Top) != (e.Kind == KindFolder) && e.Name == Top:
		wrong = "the folder itself is no folder"
	case e.Size < 0 || e.At < 0 || e.Archive < 0:
		wrong = "its size or its place is negative"
	case e.Mode > 0o7777:
		wrong = "its mode is none"
	case e.Kind == KindFile && len(e.Hash) != 64:
		wrong = "it has no hash"
	case e.Kind == KindLink && (e.Link == "" || strings.ContainsRune(e.Link, 0)):
		wrong = "it leads nowhere"
	case e.Kind == KindHard && (e.Link == Top || checkName(e.Link) != nil || Compare(e.Link, e.Name) >= 0):
		wrong = fmt.Sprintf("it is to be another name of %q, which does not stand before it", e.Link)
	}
	end := int64(0)
	for _, x := range e.Extents {
		if x.Offset < end || x.Length < 0 || x.Length > e.Size-x.Offset {
			wrong = "its extents are not within it"
		}
		end = x.Offset + x.Length
	}
	if wrong != "" {
		return fmt.Errorf("entry %q: %s", e.Name, wrong)
	}
	return nil
}
