package media

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// Move is how one folder takes the place of another. It is noted down in the root
// before anything is renamed, so that a move that was interrupted can be completed
// or undone. Paths are below the root.
type Move struct {
	Name     string // of its note
	Database string // for whose schema it is
	Schema   string
	At       time.Time // when it was begun
	Folder   string    // of the tenant
	Incoming string    // what takes its place; empty: nothing does
	Replaced string    // what the present one is called then
	// In and Out identify the incoming folder and the present one; 0: there is none.
	In, Out uint64
	// Free says that no schema is replaced, so that nothing in the database tells
	// whether the move is to be completed but the schema itself.
	Free bool
	// Placed is when all of it was done. Zero: something is left to be done.
	Placed time.Time

	root *Root
	file *os.File // its note, locked by this process; nil: it is not at work on it
}

// The kinds of folders that restores make beside those of tenants.
const (
	kindStaging  = "staging"
	kindReplaced = "replaced"
)

// ownTime is the time in the names of folders that restores make.
const ownTime = "20060102_150405"

// ownName is the form of the names of such folders.
var ownName = regexp.MustCompile(`__(staging|replaced)_[0-9]{8}_[0-9]{6}(_[0-9]+)?$`)

// check refuses a move, which was read from somewhere, that is none of a tenant's
// folder.
func (m *Move) check() error {
	if err := checkFolder(m.Folder); err != nil {
		return fmt.Errorf("media folder %q: %w", m.Folder, err)
	}
	for _, name := range []string{m.Incoming, m.Replaced} {
		if name != "" && (parent(name) != parent(m.Folder) || !strings.HasPrefix(name, m.Folder+"__") || !ownName.MatchString(name)) {
			return fmt.Errorf("media folder %q is not one that a restore of %q has made", name, m.Folder)
		}
	}
	return nil
}

func randomHex() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}

// place is the folder in which those of a move are. All of them are directly in it,
// and no link is on the way to it.
type place struct {
	root, dir *os.Root
}

func (r *Root) place(folder string, create bool) (*place, error) {
	root, err := r.open()
	if err != nil {
		return nil, err
	}
	dir, err := descend(root, parent(folder), create)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open media folder %s: %w", path.Join(r.dir, parent(folder)), cause(err)), root.Close())
	}
	return &place{root, dir}, nil
}

func (p *place) close() {
	_ = p.dir.Close() // nothing is written through them
	_ = p.root.Close()
}

// number identifies a folder; 0: there is none.
func (p *place) number(name string) (uint64, error) {
	if name == "" {
		return 0, nil
	}
	info, err := p.dir.Lstat(path.Base(name))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, ok := inode(info)
	if !ok {
		return 0, fmt.Errorf("%s is %s, no folder", path.Join(p.dir.Name(), path.Base(name)), describe(info.Mode()))
	}
	return n, nil
}

func inode(info fs.FileInfo) (uint64, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() {
		return 0, false
	}
	return uint64(st.Ino), true
}

func (p *place) rename(from, to string) error {
	if err := p.dir.Rename(path.Base(from), path.Base(to)); err != nil {
		return fmt.Errorf("rename folder %s: %w", path.Join(p.dir.Name(), path.Base(from)), cause(err))
	}
	return nil
}

// exchange lets two folders have each other's name, at once. Where the system
// cannot do it the error matches errors.ErrUnsupported.
func (p *place) exchange(a, b string) error {
	dir, err := p.dir.Open(Top)
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // it was only read
	return exchange(dir, path.Base(a), path.Base(b))
}

// freeName is a path beside a folder that nothing has.
func (p *place) freeName(folder, kind string, at time.Time) (string, error) {
	for n := 1; ; n++ {
		name := folder + "__" + kind + "_" + at.UTC().Format(ownTime)
		if n > 1 {
			name += fmt.Sprintf("_%d", n)
		}
		if _, err := p.dir.Lstat(path.Base(name)); errors.Is(err, fs.ErrNotExist) {
			return name, nil
		} else if err != nil {
			return "", err
		}
	}
}

// Stage puts an archive beside the folder of a tenant. Until Release the process is
// at work on it.
func (r *Root) Stage(ctx context.Context, t Tenant, a *Archive, at time.Time, o PutOptions) (_ *Move, _ *Put, err error) {
	folder, err := r.Folder(t)
	if err != nil {
		return nil, nil, err
	}
	p, err := r.place(folder, true)
	if err != nil {
		return nil, nil, err
	}
	defer p.close()
	m := &Move{Database: r.database, Schema: t.Schema, At: at, Folder: folder, root: r}
	if m.Incoming, err = p.freeName(folder, kindStaging, at); err != nil {
		return nil, nil, err
	}
	if err := m.create(p.root); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Discard(at))
		}
	}()
	if err := m.rehearse(p); err != nil {
		return nil, nil, err
	}
	put, err := a.put(ctx, p.dir, path.Base(m.Incoming), o, func(dir *os.File) error {
		info, err := dir.Stat()
		if err := errors.Join(err, dir.Close()); err != nil {
			return err
		}
		m.In, _ = inode(info)
		return m.write()
	})
	return m, put, err
}

// probe is the name of the folder in a staging that is only there to find out
// whether folders can be renamed.
const probe = "probe"

// rehearse finds out whether the folder of a tenant can be renamed, which one that
// is a mount point cannot, without doing it: no folder takes the place of one that
// is not empty.
func (m *Move) rehearse(p *place) (err error) {
	out, err := p.number(m.Folder)
	if err != nil || out == 0 {
		return err
	}
	at := path.Base(m.Incoming)
	if err := p.dir.MkdirAll(at+"/"+probe, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.removeProbe(p)) }()
	err = p.dir.Rename(path.Base(m.Folder), at)
	switch {
	case errors.Is(err, syscall.ENOTEMPTY), errors.Is(err, syscall.EEXIST), errors.Is(err, fs.ErrExist):
		return nil
	case err == nil: // which no file system should do
		return errors.Join(errors.New("the file system renames folders over others that are not empty"), p.rename(m.Incoming, m.Folder))
	}
	return fmt.Errorf("folder %s cannot be renamed: %w", path.Join(p.dir.Name(), path.Base(m.Folder)), cause(err))
}

// removeProbe removes the incoming folder of a move as long as nothing is in it.
func (m *Move) removeProbe(p *place) error {
	at := path.Base(m.Incoming)
	for _, name := range []string{at + "/" + probe, at} {
		if err := p.dir.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Aim completes the move with what is in the place of the folder now.
func (m *Move) Aim(at time.Time, free bool) error {
	p, err := m.root.place(m.Folder, false)
	if err != nil {
		return err
	}
	defer p.close()
	return m.aim(p, at, free)
}

func (m *Move) aim(p *place, at time.Time, free bool) (err error) {
	if m.Out, err = p.number(m.Folder); err != nil {
		return err
	}
	in, err := p.number(m.Incoming)
	if err != nil {
		return err
	}
	if in != m.In {
		return fmt.Errorf("folder %s is not there any more, or is another", path.Join(m.root.dir, m.Incoming))
	}
	if m.Replaced, err = p.freeName(m.Folder, kindReplaced, at); err != nil {
		return err
	}
	m.Free = free
	return m.write()
}

// Back begins the move that brings back what an earlier one has replaced, or takes
// away what came where there was nothing. It is aimed already. free says that
// nothing is live in the place of the schema that comes back.
func (m *Move) Back(at time.Time, free bool) (*Move, error) {
	back := &Move{Database: m.Database, Schema: m.Schema, At: at, Folder: m.Folder, root: m.root}
	if m.Out != 0 {
		back.Incoming, back.In = m.Replaced, m.Out
	}
	return back, back.begin(at, free)
}

// begin notes a move for which nothing has to be staged.
func (m *Move) begin(at time.Time, free bool) error {
	p, err := m.root.place(m.Folder, false)
	if err != nil {
		return err
	}
	defer p.close()
	if err := m.create(p.root); err != nil {
		return err
	}
	if err := m.aim(p, at, free); err != nil {
		return errors.Join(err, m.forget(p.root))
	}
	return nil
}

// numbers tell what is called as the incoming folder is, and as the tenant's.
func (m *Move) numbers(p *place) (in, there uint64, err error) {
	if in, err = p.number(m.Incoming); err != nil {
		return 0, 0, err
	}
	there, err = p.number(m.Folder)
	return in, there, err
}

// Place renames what is left to be renamed; it may be called again.
func (m *Move) Place(at time.Time) error {
	p, err := m.root.place(m.Folder, false)
	if err != nil {
		return err
	}
	defer p.close()
	in, there, err := m.numbers(p)
	if err != nil {
		return err
	}
	switch {
	case m.In == 0 && m.Out != 0 && there == m.Out:
		err = p.rename(m.Folder, m.Replaced)
	case m.In == 0, there == m.In && in == 0: // it is done
	case there == m.In && in == m.Out: // exchanged, and then interrupted
		err = p.rename(m.Incoming, m.Replaced)
	case in != m.In:
		err = fmt.Errorf("folder %s, which is to take the place of %s, is not there any more", path.Join(m.root.dir, m.Incoming), m.Folder)
	case there == m.Out && there != 0:
		err = m.swap(p)
	default:
		if there != 0 {
			if err = m.setAside(at); err != nil {
				return err
			}
		}
		err = p.rename(m.Incoming, m.Folder)
	}
	return errors.Join(err, syncFolder(p.dir, Top))
}

// swap gives the incoming folder the place of the present one, at once where the
// system can do it.
func (m *Move) swap(p *place) error {
	err := p.exchange(m.Folder, m.Incoming)
	if errors.Is(err, errors.ErrUnsupported) {
		if err := p.rename(m.Folder, m.Replaced); err != nil {
			return err
		}
		return p.rename(m.Incoming, m.Folder)
	}
	if err != nil {
		return fmt.Errorf("exchange folder %s: %w", path.Join(m.root.dir, m.Folder), err)
	}
	return p.rename(m.Incoming, m.Replaced)
}

// setAside keeps a folder that somebody made where that of the tenant was.
func (m *Move) setAside(at time.Time) error {
	aside := &Move{Database: m.Database, Schema: m.Schema, At: at, Folder: m.Folder, root: m.root}
	if err := aside.begin(at, false); err != nil {
		return err
	}
	if err := aside.Place(at); err != nil {
		return errors.Join(err, aside.Release())
	}
	return aside.Done(at)
}

// Done notes that the move needs no completion any more, and lets go of it.
func (m *Move) Done(at time.Time) error {
	m.Placed = at
	return errors.Join(m.write(), m.Release())
}

// InPlace reports whether the incoming folder has the place of the tenant's.
func (m *Move) InPlace() (bool, error) {
	p, err := m.root.place(m.Folder, false)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer p.close()
	there, err := p.number(m.Folder)
	return m.In != 0 && there == m.In, err
}

// Revert undoes a move that was not Done, and leaves the incoming folder where it
// was.
func (m *Move) Revert() error {
	p, err := m.root.place(m.Folder, false)
	if err != nil {
		return err
	}
	defer p.close()
	in, there, err := m.numbers(p)
	if err != nil {
		return err
	}
	switch {
	case m.In != 0 && there == m.In && in == m.Out && m.Out != 0:
		err = p.exchange(m.Folder, m.Incoming)
		there = m.Out
	case m.In != 0 && there == m.In:
		err = p.rename(m.Folder, m.Incoming)
		there = 0
	}
	if err != nil {
		return err
	}
	if kept, err := p.number(m.Replaced); err != nil {
		return err
	} else if there == 0 && m.Out != 0 && kept == m.Out {
		if err := p.rename(m.Replaced, m.Folder); err != nil {
			return err
		}
	}
	return syncFolder(p.dir, Top)
}

// Undo brings back what an interrupted move has replaced, where somebody may have
// gone on in the folder that came: that one is kept, as a replaced one is.
func (m *Move) Undo(at time.Time) error {
	if err := m.Place(at); err != nil {
		return err
	}
	if err := m.Done(at); err != nil {
		return err
	}
	back, err := m.Back(at, true)
	if err != nil {
		return err
	}
	if err := back.Place(at); err != nil {
		return errors.Join(err, back.Release())
	}
	return errors.Join(back.Done(at), m.Forget())
}

// Discard removes the folder that was staged, if one was, and forgets the move. It
// is for moves that were not placed, or were reverted.
func (m *Move) Discard(at time.Time) error {
	p, err := m.root.place(m.Folder, false)
	if errors.Is(err, fs.ErrNotExist) {
		return m.Forget()
	}
	if err != nil {
		return err
	}
	defer p.close()
	if m.Stages() {
		if m.In == 0 {
			err = m.removeProbe(p)
		} else {
			err = m.remove(p, m.Incoming, m.In)
		}
		if err != nil {
			return errors.Join(err, m.Release())
		}
	}
	return m.settle(p, at)
}

// settle forgets the move, unless a folder is left that only its note tells of: that
// is kept then, as after a move that was done.
func (m *Move) settle(p *place, at time.Time) error {
	left, err := m.left(p)
	if err != nil {
		return errors.Join(err, m.Release())
	}
	if left.Staging == "" && left.Replaced == "" {
		return m.forget(p.root)
	}
	if m.Placed.IsZero() {
		return m.Done(at)
	}
	return m.Release()
}

// Stages reports whether the incoming folder was made for this move, rather than
// being an earlier one that comes back.
func (m *Move) Stages() bool { return strings.Contains(path.Base(m.Incoming), "__"+kindStaging+"_") }

// RemoveReplaced removes the folder that was replaced, and forgets the move.
func (m *Move) RemoveReplaced(at time.Time) error {
	p, err := m.root.place(m.Folder, false)
	if err != nil {
		return err
	}
	defer p.close()
	if err := m.remove(p, m.Replaced, m.Out); err != nil {
		return err
	}
	return m.settle(p, at)
}

// remove removes a folder, if it is still that one.
func (m *Move) remove(p *place, name string, number uint64) error {
	there, err := p.number(name)
	if err != nil || there == 0 || there != number {
		return err
	}
	if err := removeAll(p.dir, path.Base(name)); err != nil {
		return fmt.Errorf("remove folder %s: %w", path.Join(m.root.dir, name), err)
	}
	return nil
}

// removeAll removes a folder, also with folders in it that not even their owner may
// change.
func removeAll(root *os.Root, name string) error {
	err := root.RemoveAll(name)
	if errors.Is(err, fs.ErrPermission) {
		if err = unlock(root, name); err == nil {
			err = root.RemoveAll(name)
		}
	}
	return err
}

// unlock lets the owner change a folder and all that are in it.
func unlock(root *os.Root, name string) error {
	if err := root.Chmod(name, 0o700); err != nil {
		return err
	}
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	entries, err := dir.ReadDir(-1)
	err = errors.Join(err, dir.Close())
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, unlock(root, name+"/"+e.Name()))
		}
	}
	return err
}

func syncFolder(root *os.Root, name string) error {
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	err = dir.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, dir.Close())
}

// Left is what is there now of the folders that a move made or replaced; empty
// names: nothing.
type Left struct {
	Staging  string // made for it, and not in place
	Returns  string // an earlier one that is to come back, and has not
	Replaced string
}

// Left looks for them.
func (m *Move) Left() (l Left, err error) {
	p, err := m.root.place(m.Folder, false)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return l, err
	}
	defer p.close()
	return m.left(p)
}

func (m *Move) left(p *place) (l Left, err error) {
	in, err := p.number(m.Incoming)
	if err != nil {
		return l, err
	}
	switch { // between the two steps of an exchange it is the old one
	case in == 0 || in != m.In && (in != m.Out || !m.Placed.IsZero()):
	case m.Stages():
		l.Staging = m.Incoming
	case m.Placed.IsZero():
		l.Returns = m.Incoming
	}
	if kept, err := p.number(m.Replaced); err != nil {
		return l, err
	} else if kept != 0 && kept == m.Out {
		l.Replaced = m.Replaced
	}
	return l, nil
}

// Forget removes the note of a move of which nothing is left; where something is, it
// stays.
func (m *Move) Forget() error {
	p, err := m.root.place(m.Folder, false)
	if err == nil {
		defer p.close()
		left, err := m.left(p)
		if err != nil || left != (Left{}) {
			return errors.Join(err, m.Release())
		}
		return m.forget(p.root)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	root, err := m.root.open()
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // nothing is written through it
	return m.forget(root)
}

// Occupied reports whether there are files in the folder of a tenant, and whether
// there is a folder. What a restore that died has placed, for a schema that did not
// appear, does not count, but what it replaced.
func (r *Root) Occupied(t Tenant) (files, folder bool, err error) {
	name, err := r.Folder(t)
	if err != nil {
		return false, false, err
	}
	p, err := r.place(name, false)
	if errors.Is(err, fs.ErrNotExist) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	defer p.close()
	there, err := p.number(name)
	if err != nil {
		return false, false, err
	}
	moves, err := r.allMoves(p.root)
	if err != nil {
		return false, false, err
	}
	for _, m := range moves {
		if m.Database == r.database && m.Free && m.Placed.IsZero() && m.Folder == name && m.In != 0 && m.In == there {
			name, there = m.Replaced, m.Out
			if in, err := p.number(m.Incoming); err == nil && in == m.Out {
				name = m.Incoming
			}
		}
	}
	if there == 0 {
		return false, false, nil
	}
	files, err = holdsFiles(p.dir, path.Base(name), nil)
	return files, true, err
}

// holdsFiles reports whether anything but folders is in a folder, beside what is to
// be skipped of it. Nil: nothing is.
func holdsFiles(root *os.Root, name string, skip func(name string) bool) (bool, error) {
	dir, err := root.Open(name)
	if err != nil {
		return false, err
	}
	defer dir.Close() //nolint:errcheck // it was only read
	for {
		entries, err := dir.ReadDir(64)
		for _, e := range entries {
			below := path.Join(name, e.Name())
			if skip != nil && skip(below) {
				continue
			}
			if !e.IsDir() {
				return true, nil
			}
			if found, err := holdsFiles(root, below, skip); found || err != nil {
				return found, err
			}
		}
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// Free is how many bytes may be written below the root. Where it is not known
// the error matches errors.ErrUnsupported.
func (r *Root) Free() (int64, error) {
	root, err := r.open()
	if err != nil {
		return 0, err
	}
	defer root.Close()
	dir, err := root.Open(Top)
	if err != nil {
		return 0, err
	}
	defer dir.Close() //nolint:errcheck // it was only read
	return free(dir)
}
