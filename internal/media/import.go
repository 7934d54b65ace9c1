package media

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
)

// Spool is where Import keeps the contents of an archive. A file is one.
type Spool interface {
	io.Writer
	io.ReaderAt
}

// MixedError is an archive in which the folder of a tenant stands beside others.
type MixedError struct{ Folder, Other string }

// Error names both.
func (e *MixedError) Error() string {
	return fmt.Sprintf("it holds the folder %q and beside it %q, which seems to be of somebody else", e.Folder, e.Other)
}

// Import reads a tar archive that others have made, plain or compressed, and returns
// it as an Archive, with the same checks and promises. Its contents go into the spool,
// which must be empty and last as long as the Archive does.
//
// Mostly what a tenant has stands in some folders there, such as media/acme. They are
// left out down to the last one that has one of the names, the most telling one first;
// what is beside them is a *MixedError. Contents of sparse files are stored in full.
func Import(ctx context.Context, r io.Reader, names []string, spool Spool, progress Progress) (*Archive, error) {
	in := bufio.NewReaderSize(&interruptible{ctx, r}, 1<<20)
	head, err := in.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	plain, err := datafile.Decompress(datafile.Detect(head), in)
	if err != nil {
		return nil, err
	}
	defer plain.Close() //nolint:errcheck // it was only read
	i := &importer{entries: map[string]Entry{}, progress: progress}
	i.out, err = newOutput(func() (io.Writer, error) { return spool, nil }, datafile.Compression{Algorithm: datafile.None}, func() bool { return true })
	if err != nil {
		return nil, err
	}
	defer i.out.close() //nolint:errcheck // it was only read
	members := tar.NewReader(plain)
	for {
		h, err := members.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := i.member(h, members); err != nil {
			return nil, fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
	if _, err := io.Copy(io.Discard, plain); err != nil { // what is behind the end may be cut
		return nil, err
	}
	if err := i.descend(names); err != nil {
		return nil, err
	}
	return i.finish(spool)
}

// Spool is a new file in the directory, without a name: it is gone when it is closed.
func (r *Root) Spool() (*os.File, error) {
	f, err := os.CreateTemp(r.dir, ".tenantkeep-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// interruptible is a reader that ends with its context.
type interruptible struct {
	ctx context.Context
	io.Reader
}

// Read reads unless the context is over.
func (r *interruptible) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}

// importer collects what a tar archive holds. Of entries of one name the last counts.
type importer struct {
	entries  map[string]Entry
	out      *output
	progress Progress
}

func (i *importer) member(h *tar.Header, content io.Reader) error {
	for _, name := range []string{h.Name, h.Linkname} {
		if slices.Contains(strings.Split(name, "/"), "..") && (name == h.Name || h.Typeflag == tar.TypeLink) {
			return errors.New("the name leads out of the folder")
		}
	}
	name := path.Clean(h.Name)
	e := Entry{
		Name: name, Mode: uint32(h.Mode & 0o7777), Time: h.ModTime, UID: h.Uid, GID: h.Gid, User: h.Uname, Group: h.Gname, //nolint:gosec // cut to the bits
	}
	if err := checkName(name); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		e.Kind = KindFolder
	case tar.TypeSymlink:
		e.Kind, e.Link, e.Mode = KindLink, h.Linkname, 0o777
	case tar.TypeLink:
		e.Kind, e.Link = KindHard, path.Clean(h.Linkname)
	case tar.TypeReg, tar.TypeGNUSparse:
		e.Kind, e.Size, e.At = KindFile, h.Size, i.out.at
		digest := sha256.New()
		n, err := io.Copy(io.MultiWriter(i.out, digest), content)
		if err != nil {
			return err
		}
		i.progress.add(n)
		e.Size, e.Hash = n, hex.EncodeToString(digest.Sum(nil))
	case tar.TypeXGlobalHeader:
		return nil
	default:
		return fmt.Errorf("it is of the type %q, which is not put back", h.Typeflag)
	}
	i.entries[name] = e
	return nil
}

// descend leaves out the folders that everything is in.
func (i *importer) descend(names []string) error {
	at, best, rank := Top, Top, len(names)
	for {
		var below []string
		for name := range i.entries {
			if name != Top && within(name, at) {
				element, _, _ := strings.Cut(strings.TrimPrefix(name, prefix(at)), "/")
				below = append(below, element)
			}
		}
		slices.Sort(below)
		below = slices.Compact(below)
		if n := slices.IndexFunc(below, func(s string) bool { return i.means(prefix(at)+s, names) }); len(below) > 1 && n >= 0 && rank > 0 && slices.Index(names, below[n]) < rank {
			return &MixedError{Folder: below[n], Other: below[(n+1)%len(below)]}
		}
		if len(below) != 1 {
			break
		}
		at = prefix(at) + below[0]
		if e, ok := i.entries[at]; ok && e.Kind != KindFolder {
			break
		}
		if n := slices.Index(names, below[0]); n >= 0 && n < rank {
			best, rank = at, n
		}
	}
	if best == Top {
		return nil
	}
	kept := map[string]Entry{}
	for name, e := range i.entries {
		switch {
		case name == best:
			e.Name = Top
		case within(name, best):
			e.Name = strings.TrimPrefix(name, best+"/")
		default:
			continue // a folder above
		}
		if e.Kind == KindHard {
			e.Link = strings.TrimPrefix(e.Link, best+"/")
		}
		kept[e.Name] = e
	}
	i.entries = kept
	return nil
}

// means reports whether a folder is one of those with these names. The last of them is
// that of the folder of all, and may well be that of a folder in a tenant's own: it
// means the former if one with another of the names is in it.
func (i *importer) means(folder string, names []string) bool {
	n := slices.Index(names, path.Base(folder))
	if n < len(names)-1 {
		return n >= 0
	}
	for entry := range i.entries {
		element, _, _ := strings.Cut(strings.TrimPrefix(entry, folder+"/"), "/")
		if within(entry, folder) && slices.Contains(names[:n], element) {
			return true
		}
	}
	return false
}

// prefix is what the names of entries in a folder begin with.
func prefix(folder string) string {
	if folder == Top {
		return ""
	}
	return folder + "/"
}

func within(name, folder string) bool { return strings.HasPrefix(name, prefix(folder)) }

// finish writes the index, and opens the archive. Folders that the tar archive does
// not tell of are made as mkdir would.
func (i *importer) finish(spool Spool) (*Archive, error) {
	t := &Table{Format: Format, Started: time.Now().UTC()}
	for _, name := range slices.Collect(maps.Keys(i.entries)) {
		for above := name; above != Top; {
			above = parent(above)
			if _, ok := i.entries[above]; !ok {
				i.entries[above] = Entry{Name: above, Kind: KindFolder, Mode: 0o755, Time: t.Started, UID: i.entries[name].UID, GID: i.entries[name].GID}
			}
		}
	}
	if len(i.entries) == 0 {
		return nil, errors.New("it is empty")
	}
	i.settleLinks()
	for _, name := range slices.SortedFunc(maps.Keys(i.entries), Compare) {
		e := i.entries[name]
		switch e.Kind {
		case KindFolder:
			t.Folders++
		case KindLink:
			t.Links++
		default:
			t.Files++
			t.Bytes += e.Size
			t.Stored += e.Stored()
		}
		if err := i.out.list(&e); err != nil {
			return nil, err
		}
	}
	if err := i.out.finish(t); err != nil {
		return nil, err
	}
	return Open(spool, i.out.offset)
}

// settleLinks turns hard links around whose file stands behind them in the order of
// an Archive: the first name of a file is the one with its contents.
func (i *importer) settleLinks() {
	for _, name := range slices.SortedFunc(maps.Keys(i.entries), Compare) {
		e := i.entries[name]
		file, ok := i.entries[e.Link]
		if e.Kind != KindHard || !ok || file.Kind != KindFile || Compare(e.Link, name) < 0 {
			continue
		}
		first, last := file, e
		first.Name, last.Name, last.Link = name, file.Name, name
		last.Mode, last.Time = file.Mode, file.Time
		i.entries[name], i.entries[file.Name] = first, last
		for other, o := range i.entries {
			if o.Kind == KindHard && o.Link == file.Name && other != file.Name {
				o.Link = name
				i.entries[other] = o
			}
		}
	}
}
