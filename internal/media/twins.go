package media

import (
	"context"
	"errors"
	"iter"
)

// twins walks through the entries of a parent beside those of a folder, which
// are in the same order. Nil is one without entries.
type twins struct {
	pull func() (Entry, error, bool)
	stop func()
	next *Entry // not yet passed; nil: there is none
	gone bool   // something of the parent is not in the folder
	err  error
}

// errStopped ends the walk through a parent that is not needed any more.
var errStopped = errors.New("stopped")

func newTwins(ctx context.Context, a *Archive) *twins {
	t := &twins{}
	t.pull, t.stop = iter.Pull2(func(yield func(Entry, error) bool) {
		err := a.Entries(ctx, func(e Entry) error {
			if !yield(e, nil) {
				return errStopped
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStopped) {
			yield(Entry{}, err)
		}
	})
	t.step()
	return t
}

func (t *twins) step() {
	t.next = nil
	e, err, ok := t.pull()
	switch {
	case err != nil:
		t.err = err
	case ok:
		t.next = &e
	}
}

// find returns the parent's entry of that name; nil: it has none. Names must come
// in their order.
func (t *twins) find(name string) (*Entry, error) {
	if t == nil {
		return nil, nil
	}
	for t.next != nil && Compare(t.next.Name, name) < 0 {
		t.gone = true
		t.step()
	}
	if t.err != nil || t.next == nil || t.next.Name != name {
		return nil, t.err
	}
	e := t.next
	t.step()
	return e, t.err
}

// rest reports whether the parent has entries that were not asked for.
func (t *twins) rest() (bool, error) {
	if t == nil {
		return false, nil
	}
	return t.gone || t.next != nil, t.err
}
