// Package media saves the files that a tenant keeps beside its schema, and puts
// them back.
//
// An archive is an ordinary tar file in frames that are compressed one by one,
// with an index behind its end that tar does not look at: tar -x gives back what
// is stored in it. The index lists everything that was in the folder. Of files
// that did not change since an earlier archive it says where in that one they
// are. The format is described in docs/format.md.
//
// Terms: a folder is what belongs to one tenant; an entry is one thing in it: a
// file, a folder, a link; its name is the path from the folder, with slashes.
// Save reads a Tree and writes an archive, Put reads archives and writes a
// folder. A Root is where the folders of all tenants are.
package media

import (
	"context"
	"fmt"
	"io"
)

// Tree is a folder that is being saved. A directory is one, see Folder.
type Tree interface {
	// List calls yield for the folder itself and for everything in it, in the
	// order of Compare. The error says why an entry, of which only the name is
	// known, cannot be saved; one that matches fs.ErrNotExist vanished meanwhile.
	List(ctx context.Context, yield func(Entry, error) error) error
	// Open opens a file for reading. One that is not there any more is an error
	// that matches fs.ErrNotExist.
	Open(ctx context.Context, name string) (Content, error)
}

// Content is a file of a Tree that is open.
type Content interface {
	io.ReaderAt
	io.Closer
	// Stat is what the file is at this moment; without its name.
	Stat() (Entry, error)
	// Extents are the parts of the first size bytes that are no holes. Nil: there
	// are no holes, or it cannot be told.
	Extents(size int64) ([]Extent, error)
}

// Extent is a part of a sparse file that holds data.
type Extent struct{ Offset, Length int64 }

// Progress is told how much was read or written. It may be nil.
type Progress func(bytes int64)

func (p Progress) add(n int64) {
	if p != nil {
		p(n)
	}
}

// Problem is something about one entry that somebody should know.
type Problem struct {
	Name string
	Text string
}

// String names the entry and what is the matter with it.
func (p Problem) String() string { return fmt.Sprintf("%q %s", p.Name, p.Text) }

// maxProblems is how many problems are kept of one folder, one by one; all are
// counted.
const maxProblems = 50

// Problems are those of one folder, the first of them one by one.
type Problems struct {
	List  []Problem
	Count int64
}

func (p *Problems) add(name, text string) {
	p.Count++
	if len(p.List) < maxProblems {
		p.List = append(p.List, Problem{name, text})
	}
}
