package filelock

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestTry(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "a")
	open := func() *os.File {
		t.Helper()
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	a, b, c := open(), open(), open()
	if err := errors.Join(Try(a, Shared), Try(b, Shared)); err != nil {
		t.Fatalf("two share it: %v", err)
	}
	if err := Try(c, Exclusive); !errors.Is(err, ErrLocked) {
		t.Errorf("exclusively beside others: %v", err)
	}
	if err := errors.Join(Release(a), b.Close(), Try(c, Exclusive)); err != nil {
		t.Errorf("after they gave it back: %v", err)
	}
	d := open()
	if err := Try(d, Shared); !errors.Is(err, ErrLocked) {
		t.Errorf("shared beside an exclusive one: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Try(d, Shared); err == nil || errors.Is(err, ErrLocked) {
		t.Errorf("a closed file: %v", err)
	}
	if !IsUnsupported(&fs.PathError{Err: syscall.ENOLCK}) || IsUnsupported(&fs.PathError{Err: syscall.EIO}) {
		t.Error("ENOLCK means that there are no locks, EIO does not")
	}
}
