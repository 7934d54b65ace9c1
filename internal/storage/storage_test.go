package storage

import (
	"errors"
	"io/fs"
	"testing"
)

func TestValidKey(t *testing.T) {
	t.Parallel()
	for key, valid := range map[string]bool{
		"data/a.sql": true, "a": true, "data/%41 é": true, "data/a..b": true, "data/lock": true, "data/locks/x": true, "lockshop": true,
		"": false, ".": false, "/a": false, "a/": false, "a//b": false, "../a": false, "a/../b": false, `a\b`: false,
		"a\x00": false, "a\x7f": false, "\xff": false, ".a": false, "a/.b": false, "locks": false, "locks/a": false,
	} {
		err := ValidKey(key)
		if (err == nil) != valid {
			t.Errorf("%q: %v", key, err)
		}
		if err != nil && !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v does not match fs.ErrInvalid", key, err)
		}
	}
}

type wrapper struct{ Storage }

func (w wrapper) Unwrap() Storage { return w.Storage }

type plain struct{ Storage }

type locker struct {
	Storage
	Locker
}

func TestAs(t *testing.T) {
	t.Parallel()
	if _, ok := As[Locker](wrapper{wrapper{locker{}}}); !ok {
		t.Error("not found through two wrappers")
	}
	if _, ok := As[Locker](wrapper{plain{locker{}}}); ok {
		t.Error("found through what does not unwrap")
	}
	if _, ok := As[Locker](nil); ok {
		t.Error("found in nothing")
	}
}
