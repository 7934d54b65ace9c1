package media

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/filelock"
)

// notesFolder is the folder in a Root in which restores note down what they move.
// It is the only proof that a folder is one that a restore made or replaced: a name
// can be anybody's, and a label in the database can be written by the tenant.
const notesFolder = ".tenantkeep"

// The modes of that folder and of the notes, whatever the umask is: whoever saves the
// files must be able to tell which folders are not the application's.
const (
	notesMode = 0o755
	noteMode  = 0o644
)

// noteName is the form of the names of notes.
var noteName = regexp.MustCompile(`^[0-9]{8}_[0-9]{6}_[0-9a-f]{16}$`)

// A note is a file of JSON lines, of which the last one counts. It only ever gets
// longer, so that one that is being written when the machine stops says what it
// said before, and so that its lock stays with it.

// openNotes opens the folder of the notes, or makes it. One that is not there and
// is not to be made is nil.
func openNotes(root *os.Root, create bool) (*os.Root, error) {
	if create {
		if err := root.Mkdir(notesFolder, notesMode); err == nil {
			if err := errors.Join(root.Chmod(notesFolder, notesMode), syncFolder(root, Top)); err != nil {
				return nil, err
			}
		} else if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	notes, err := descend(root, notesFolder, false)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !create:
		return nil, nil
	case errors.Is(err, fs.ErrPermission):
		return nil, unreadable(path.Join(root.Name(), notesFolder))
	}
	return notes, err
}

// unreadable says that a note, or the folder of all, is somebody else's alone. Those
// of earlier versions were as the umask of who restored would have it.
func unreadable(name string) error {
	return &RootError{
		fmt.Sprintf("%s, which tells which folders are not the application's, may not be read", name),
		fmt.Sprintf("let its owner run: chmod -R a+rX %s", name),
	}
}

// create makes the note of a move and locks it, as long as the process is at work
// on the move.
func (m *Move) create(root *os.Root) (err error) {
	var notes *os.Root
	for try := 0; ; try++ {
		if notes, err = openNotes(root, true); err != nil {
			return fmt.Errorf("note the move of a folder: %w", err)
		}
		m.Name = fmt.Sprintf("%s_%s", m.At.UTC().Format(ownTime), randomHex())
		m.file, err = notes.OpenFile(m.Name, os.O_RDWR|os.O_APPEND|os.O_CREATE|os.O_EXCL, noteMode)
		if errors.Is(err, fs.ErrNotExist) && try < 3 { // whoever removed the last note took the folder along
			_ = notes.Close()
			continue
		}
		break
	}
	defer func() { err = errors.Join(err, notes.Close()) }()
	if err != nil {
		return fmt.Errorf("note the move of a folder: %w", err)
	}
	if err := m.file.Chmod(noteMode); err != nil {
		return fmt.Errorf("note the move of a folder: %w", err)
	}
	if err := filelock.Try(m.file, filelock.Shared); err != nil && !filelock.IsUnsupported(err) {
		return err
	}
	if err := m.write(); err != nil {
		return err
	}
	return syncFolder(notes, Top)
}

// moveJSON is a move as its note has it. What comes from names of schemas and folders
// need not be UTF-8.
type moveJSON struct {
	Database string    `json:"database"`
	Schema   raw       `json:"schema"`
	At       time.Time `json:"at"`
	Folder   raw       `json:"folder"`
	Incoming raw       `json:"incoming,omitempty"`
	Replaced raw       `json:"replaced,omitempty"`
	In       uint64    `json:"in,omitempty"`
	Out      uint64    `json:"out,omitempty"`
	Free     bool      `json:"free,omitempty"`
	Placed   time.Time `json:"placed,omitzero"`
}

func (m *Move) line() ([]byte, error) {
	return json.Marshal(moveJSON{
		Database: m.Database, Schema: raw(m.Schema), At: m.At, Folder: raw(m.Folder), Incoming: raw(m.Incoming), Replaced: raw(m.Replaced),
		In: m.In, Out: m.Out, Free: m.Free, Placed: m.Placed,
	})
}

func (r *Root) parseMove(name string, line []byte) (*Move, error) {
	var x moveJSON
	if err := json.Unmarshal(line, &x); err != nil {
		return nil, err
	}
	m := &Move{
		Name: name, Database: x.Database, Schema: string(x.Schema), At: x.At, Folder: string(x.Folder), Incoming: string(x.Incoming), Replaced: string(x.Replaced),
		In: x.In, Out: x.Out, Free: x.Free, Placed: x.Placed, root: r,
	}
	return m, m.check()
}

// write makes the note say what the move is now.
func (m *Move) write() error {
	file := m.file
	if file == nil {
		root, err := m.root.open()
		if err != nil {
			return err
		}
		defer root.Close() //nolint:errcheck // nothing is written through it
		file, err = root.OpenFile(path.Join(notesFolder, m.Name), os.O_RDWR|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		defer file.Close() //nolint:errcheck // it is synced
	}
	line, err := m.line()
	if err != nil {
		return err
	}
	// Half a line, of somebody whose disk was full, ends here.
	if _, err := file.Write(slices.Concat([]byte("\n"), line, []byte("\n"))); err != nil {
		return fmt.Errorf("note the move of folder %s: %w", m.Folder, err)
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("note the move of folder %s: %w", m.Folder, err)
	}
	return nil
}

// readNote reads a note. One in which nothing stands yet is an error that matches
// io.EOF.
func (r *Root) readNote(notes *os.Root, name string) (*Move, error) {
	text, err := notes.ReadFile(name)
	if errors.Is(err, fs.ErrPermission) {
		return nil, unreadable(path.Join(r.dir, notesFolder, name))
	}
	if err != nil {
		return nil, err
	}
	lines := bytes.Split(text, []byte("\n"))
	for _, line := range slices.Backward(lines[:len(lines)-1]) { // what follows the last end of a line is half of one
		if len(line) == 0 || !json.Valid(line) {
			continue
		}
		m, err := r.parseMove(name, line)
		if err != nil {
			return nil, &RootError{
				fmt.Sprintf("note %s of a move of folders: %v", path.Join(r.dir, notesFolder, name), err),
				"if the folders that it names are in order, move that file away",
			}
		}
		return m, nil
	}
	return nil, io.EOF
}

// Move returns the move with that name. One that is not noted is an error that
// matches fs.ErrNotExist.
func (r *Root) Move(name string) (*Move, error) {
	missing := fmt.Errorf("no note in %s tells of the move %s: %w", path.Join(r.dir, notesFolder), name, fs.ErrNotExist)
	if !noteName.MatchString(name) {
		return nil, missing
	}
	root, err := r.open()
	if err != nil {
		return nil, err
	}
	defer root.Close() //nolint:errcheck // it was only read
	notes, err := openNotes(root, false)
	if err != nil {
		return nil, err
	}
	if notes == nil {
		return nil, missing
	}
	defer notes.Close() //nolint:errcheck // it was only read
	m, err := r.readNote(notes, name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && m.Database != r.database { //nolint:errorlint // nil is no error
		return nil, missing
	}
	return m, err
}

// Moves lists the moves that are noted for the database of the Root, the oldest
// first.
func (r *Root) Moves() ([]*Move, error) {
	root, err := r.open()
	if err != nil {
		return nil, err
	}
	defer root.Close() //nolint:errcheck // it was only read
	list, err := r.allMoves(root)
	return slices.DeleteFunc(list, func(m *Move) bool { return m.Database != r.database }), err
}

// allMoves lists the moves of all databases.
func (r *Root) allMoves(root *os.Root) (list []*Move, err error) {
	notes, err := openNotes(root, false)
	if err != nil || notes == nil {
		return nil, err
	}
	defer notes.Close() //nolint:errcheck // it was only read
	dir, err := notes.Open(Top)
	if err != nil {
		return nil, err
	}
	names, err := dir.Readdirnames(-1)
	if err := errors.Join(err, dir.Close()); err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		if !noteName.MatchString(name) {
			continue
		}
		m, err := r.readNote(notes, name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, io.EOF) { // gone meanwhile, or just being made
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, nil
}

// forget removes the note.
func (m *Move) forget(root *os.Root) error {
	err := root.Remove(path.Join(notesFolder, m.Name))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	_ = root.Remove(notesFolder) // where it was the last one
	return errors.Join(err, m.Release())
}

// Release tells that this process is not at work on the move any more.
func (m *Move) Release() error {
	if m.file == nil {
		return nil
	}
	err := filelock.Release(m.file)
	m.file = nil
	return err
}

// AtWork reports whether a process, this one too, is at work on the move.
func (m *Move) AtWork() (bool, error) {
	if m.file != nil {
		return true, nil
	}
	root, err := m.root.open()
	if err != nil {
		return false, err
	}
	defer root.Close() //nolint:errcheck // it was only read
	file, err := root.OpenFile(path.Join(notesFolder, m.Name), os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.Is(err, fs.ErrPermission): // somebody else's, who may be
		return true, nil
	}
	if err != nil {
		return false, err
	}
	err = filelock.Try(file, filelock.Exclusive)
	if errors.Is(err, filelock.ErrLocked) {
		return true, file.Close()
	}
	return false, filelock.Release(file)
}
