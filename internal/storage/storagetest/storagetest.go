// Package storagetest is for tests only: a suite that every storage must pass,
// and wrappers that make a storage fail, run full or give back other bytes.
package storagetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// Test checks that what open returns keeps the promises of storage.Storage.
// Each call of open must return a new and empty storage.
func Test(t *testing.T, open func(t *testing.T) storage.Storage) {
	for name, test := range map[string]func(*testing.T, storage.Storage){
		"absent":          testAbsent,
		"round trip":      testRoundTrip,
		"large":           testLarge,
		"not committed":   testNotCommitted,
		"no overwriting":  testNoOverwriting,
		"racing writers":  testRacingWriters,
		"list":            testList,
		"no folder":       testNoFolder,
		"delete":          testDelete,
		"bad keys":        testBadKeys,
		"cancelled":       testCancelled,
		"stays readable":  testStaysReadable,
		"temporary files": testTemporary,
		"locks":           testLocks,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

// Put writes one object and makes it durable.
func Put(t *testing.T, s storage.Storage, key string, content []byte) {
	t.Helper()
	w, err := s.Create(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Get reads one object.
func Get(t *testing.T, s storage.Storage, key string) []byte {
	t.Helper()
	o, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	b, err := io.ReadAll(io.NewSectionReader(o, 0, o.Size()))
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(b)) != o.Size() {
		t.Fatalf("%s: read %d bytes of an object of size %d", key, len(b), o.Size())
	}
	return b
}

// Keys lists the keys that begin with prefix.
func Keys(t *testing.T, s storage.Storage, prefix string) []string {
	t.Helper()
	keys := []string{}
	err := s.List(t.Context(), prefix, func(i storage.Info) error {
		keys = append(keys, i.Key)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func wantKeys(t *testing.T, s storage.Storage, prefix string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(append([]string{}, want...), Keys(t, s, prefix)); diff != "" {
		t.Errorf("keys with prefix %q (-want +got):\n%s", prefix, diff)
	}
}

func testAbsent(t *testing.T, s storage.Storage) {
	wantKeys(t, s, "")
	wantKeys(t, s, "data/")
	if _, err := s.Open(t.Context(), "data/a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opening an absent object: %v", err)
	}
	if err := s.Delete(t.Context(), "data/a"); err != nil {
		t.Errorf("deleting an absent object: %v", err)
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Errorf("syncing an empty storage: %v", err)
	}
	if s.Location() == "" {
		t.Error("the storage has no location")
	}
}

func testRoundTrip(t *testing.T, s storage.Storage) {
	for _, key := range []string{"top", "data/a.sql", "a/b/c/d", "data/with space", "data/%41~=+,;@é", "data/" + strings.Repeat("n", 240)} {
		content := []byte("content of " + key)
		Put(t, s, key, content)
		if got := Get(t, s, key); !bytes.Equal(got, content) {
			t.Errorf("%s: read %q, wrote %q", key, got, content)
		}
	}
	Put(t, s, "empty", nil)
	if got := Get(t, s, "empty"); len(got) != 0 {
		t.Errorf("an empty object holds %q", got)
	}

	o, err := s.Open(t.Context(), "data/a.sql")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	b := make([]byte, 4)
	if n, err := o.ReadAt(b, 11); n != 4 || string(b) != "data" || err != nil {
		t.Errorf("ReadAt in the middle: %q, %v", b[:n], err)
	}
	if n, err := o.ReadAt(b, o.Size()-2); n != 2 || !errors.Is(err, io.EOF) {
		t.Errorf("ReadAt across the end: %d bytes, %v", n, err)
	}
	if n, err := o.ReadAt(b, o.Size()+10); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("ReadAt beyond the end: %d bytes, %v", n, err)
	}
}

// testLarge writes pieces of many sizes, so that every path of a buffer is
// taken.
func testLarge(t *testing.T, s storage.Storage) {
	content := make([]byte, 5<<20)
	if _, err := rand.Read(content); err != nil {
		t.Fatal(err)
	}
	w, err := s.Create(t.Context(), "data/large")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for rest, size := content, 1; len(rest) > 0; size = size*3 + 1 {
		n := min(size, len(rest))
		if size > 1<<20 {
			size = 1
		}
		if written, err := w.Write(rest[:n]); written != n || err != nil {
			t.Fatalf("write of %d bytes: %d, %v", n, written, err)
		}
		rest = rest[n:]
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(Get(t, s, "data/large"), content) {
		t.Error("other bytes than those written")
	}
}

func testNotCommitted(t *testing.T, s storage.Storage) {
	w, err := s.Create(t.Context(), "data/a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<20)); err != nil {
		t.Fatal(err)
	}
	wantKeys(t, s, "")
	if _, err := s.Open(t.Context(), "data/a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opening what is not committed: %v", err)
	}
	for range 2 {
		if err := w.Abort(); err != nil {
			t.Errorf("abort: %v", err)
		}
	}
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("writing goes on after an abort")
	}
	if err := w.Commit(); err == nil {
		t.Error("an aborted object can be committed")
	}
	wantKeys(t, s, "")

	Put(t, s, "data/a", []byte("second try"))
	wantKeys(t, s, "", "data/a")
	w, err = s.Create(t.Context(), "data/b")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := w.Abort(); err != nil {
		t.Errorf("abort after commit: %v", err)
	}
	wantKeys(t, s, "", "data/a", "data/b")
}

func testNoOverwriting(t *testing.T, s storage.Storage) {
	late, err := s.Create(t.Context(), "data/a")
	if err != nil {
		t.Fatal(err)
	}
	defer late.Abort()
	if _, err := late.Write([]byte("late")); err != nil {
		t.Fatal(err)
	}
	Put(t, s, "data/a", []byte("early"))
	if err := late.Commit(); !errors.Is(err, fs.ErrExist) {
		t.Errorf("committing over an object: %v", err)
	}
	if err := late.Abort(); err != nil {
		t.Errorf("abort after a refused commit: %v", err)
	}
	if w, err := s.Create(t.Context(), "data/a"); err == nil {
		if err = w.Commit(); !errors.Is(err, fs.ErrExist) {
			t.Errorf("writing an object again: %v", err)
		}
		if err := w.Abort(); err != nil {
			t.Error(err)
		}
	} else if !errors.Is(err, fs.ErrExist) {
		t.Errorf("creating an object again: %v", err)
	}
	if got := Get(t, s, "data/a"); string(got) != "early" {
		t.Errorf("the object now holds %q", got)
	}
	wantKeys(t, s, "", "data/a")
}

func testRacingWriters(t *testing.T, s storage.Storage) {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		won  []string
		lost int
	)
	for i := range 16 {
		wg.Go(func() {
			content := strings.Repeat(fmt.Sprint(i, " "), 1000)
			w, err := s.Create(t.Context(), "data/a")
			if err == nil {
				_, err = w.Write([]byte(content))
				if err == nil {
					err = w.Commit()
				}
				err = errors.Join(err, w.Abort())
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won = append(won, content)
			case errors.Is(err, fs.ErrExist):
				lost++
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 || lost != 15 {
		t.Fatalf("%d writers of one key won and %d lost", len(won), lost)
	}
	if got := Get(t, s, "data/a"); string(got) != won[0] {
		t.Error("the object is not that of the writer who was told so")
	}
}

func testList(t *testing.T, s storage.Storage) {
	// The byte order of keys is not that of a walk: '-' and '.' come before '/'.
	keys := []string{"data-old", "data.txt", "data/a-c", "data/a.b/c", "data/a/b", "data/b", "data0", "manifests/x.json", "Z"}
	for _, key := range slices.Backward(keys) {
		Put(t, s, key, []byte(key))
	}
	slices.Sort(keys)
	for _, prefix := range []string{"", "d", "data", "data/", "data/a", "data/a/", "data/a/b", "manifests/", "manifests/x.json", "none/"} {
		var want []string
		for _, key := range keys {
			if strings.HasPrefix(key, prefix) {
				want = append(want, key)
			}
		}
		wantKeys(t, s, prefix, want...)
	}
	err := s.List(t.Context(), "data/", func(i storage.Info) error {
		if i.Size != int64(len(i.Key)) || i.Modified.IsZero() {
			t.Errorf("listed as %+v", i)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	stop, calls := errors.New("stop"), 0
	err = s.List(t.Context(), "data/", func(storage.Info) error {
		calls++
		return stop
	})
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("a listing that was stopped: %v after %d calls", err, calls)
	}
}

// testNoFolder has an object where a folder should be. Where nothing can be below
// it, the list of what is there would be empty, and is an error.
func testNoFolder(t *testing.T, s storage.Storage) {
	Put(t, s, "manifests", []byte("no folder"))
	Put(t, s, "data/a", []byte("a"))
	for place, below := range map[string]string{"manifests": "manifests/x.json", "data/a": "data/a/b"} {
		w, err := s.Create(t.Context(), below)
		if err == nil {
			if err = w.Commit(); err != nil {
				t.Errorf("commit %s: %v", below, errors.Join(err, w.Abort()))
			}
			wantKeys(t, s, place+"/", below)
			continue
		}
		for _, prefix := range []string{place + "/", below} {
			if err := s.List(t.Context(), prefix, func(storage.Info) error { return nil }); err == nil {
				t.Errorf("list %s: no error, though %v", prefix, err)
			}
		}
	}
	wantKeys(t, s, "manifests", "manifests")
	wantKeys(t, s, "data/", "data/a")
}

func testDelete(t *testing.T, s storage.Storage) {
	Put(t, s, "data/a", []byte("a"))
	Put(t, s, "data/b", []byte("b"))
	for range 2 {
		if err := s.Delete(t.Context(), "data/a"); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	wantKeys(t, s, "", "data/b")
	if err := s.Delete(t.Context(), "data"); err != nil {
		t.Errorf("deleting a prefix, which is no object: %v", err)
	}
	if err := s.Delete(t.Context(), "data/b"); err != nil {
		t.Error(err)
	}
	if err := s.Delete(t.Context(), "data"); err != nil {
		t.Errorf("deleting a prefix, which is no object: %v", err)
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Error(err)
	}
	wantKeys(t, s, "")
	Put(t, s, "data/a", []byte("again"))
	if got := Get(t, s, "data/a"); string(got) != "again" {
		t.Errorf("an object written again holds %q", got)
	}
}

func testBadKeys(t *testing.T, s storage.Storage) {
	for _, key := range []string{
		"", ".", "..", "/", "/etc/passwd", "../a", "a/../../b", "a/..", "a/./b", "a//b", "a/", `a\b`, `..\a`,
		"a\x00b", "a\nb", "\xff", ".hidden", "data/.tmp-a-1", "locks", "locks/repository.lock",
	} {
		if w, err := s.Create(t.Context(), key); err == nil {
			t.Errorf("create %q: no error", key)
			_ = w.Abort()
		} else if !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("create %q: %v does not match fs.ErrInvalid", key, err)
		}
		if o, err := s.Open(t.Context(), key); err == nil {
			t.Errorf("open %q: no error", key)
			_ = o.Close()
		}
		if err := s.Delete(t.Context(), key); err == nil {
			t.Errorf("delete %q: no error", key)
		}
	}
	wantKeys(t, s, "")
}

func testCancelled(t *testing.T, s storage.Storage) {
	Put(t, s, "data/a", []byte("a"))
	ctx, cancel := context.WithCancel(t.Context())
	w, err := s.Create(ctx, "data/b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("b")); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := w.Write([]byte("b")); !errors.Is(err, context.Canceled) {
		t.Errorf("write: %v", err)
	}
	if err := w.Commit(); !errors.Is(err, context.Canceled) {
		t.Errorf("commit: %v", err)
	}
	if err := w.Abort(); err != nil {
		t.Errorf("abort: %v", err)
	}
	if _, err := s.Create(ctx, "data/c"); !errors.Is(err, context.Canceled) {
		t.Errorf("create: %v", err)
	}
	if err := s.Delete(ctx, "data/a"); !errors.Is(err, context.Canceled) {
		t.Errorf("delete: %v", err)
	}
	if err := s.List(ctx, "", func(storage.Info) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("list: %v", err)
	}
	wantKeys(t, s, "", "data/a")
}

func testStaysReadable(t *testing.T, s storage.Storage) {
	content := bytes.Repeat([]byte("a"), 1<<20)
	Put(t, s, "data/a", content)
	o, err := s.Open(t.Context(), "data/a")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if err := s.Delete(t.Context(), "data/a"); err != nil {
		t.Fatal(err)
	}
	Put(t, s, "data/a", []byte("other"))
	b, err := io.ReadAll(io.NewSectionReader(o, 0, o.Size()))
	if err == nil && !bytes.Equal(b, content) {
		t.Error("a deleted object reads as other bytes without an error")
	}
}

func testTemporary(t *testing.T, s storage.Storage) {
	c, ok := storage.As[storage.Cleaner](s)
	if !ok {
		t.Skip("killed writers leave nothing here")
	}
	if removed, err := c.CleanTemporary(t.Context(), 0); err != nil || len(removed) > 0 {
		t.Errorf("cleaning an empty storage: %v, %v", removed, err)
	}
	Put(t, s, "data/a", []byte("a"))
	w, err := s.Create(t.Context(), "data/deep/b")
	if err != nil {
		t.Fatal(err)
	}
	if removed, err := c.CleanTemporary(t.Context(), 1<<40); err != nil || len(removed) > 0 {
		t.Errorf("cleaning what is 18 minutes old: %v, %v", removed, err)
	}
	removed, err := c.CleanTemporary(t.Context(), 0)
	if err != nil || len(removed) != 1 {
		t.Errorf("cleaning one temporary file: %v, %v", removed, err)
	}
	if err := w.Commit(); err == nil {
		t.Error("a writer whose file was removed commits")
	}
	if err := w.Abort(); err != nil {
		t.Errorf("abort: %v", err)
	}
	wantKeys(t, s, "", "data/a")
}

func testLocks(t *testing.T, s storage.Storage) {
	l, ok := storage.As[storage.Locker](s)
	if !ok {
		t.Skip("no locks")
	}
	lock := func(shared bool, who string) storage.Lock {
		t.Helper()
		held, err := l.Lock(t.Context(), "one", shared, []byte(who))
		if err != nil {
			t.Fatalf("%s: %v", who, err)
		}
		return held
	}
	unlock := func(held storage.Lock) {
		t.Helper()
		for range 2 {
			if err := held.Unlock(); err != nil {
				t.Error(err)
			}
		}
	}
	refused := func(shared bool, want ...string) {
		t.Helper()
		_, err := l.Lock(t.Context(), "one", shared, []byte("loser"))
		locked, ok := errors.AsType[*storage.LockedError](err)
		if !ok {
			t.Fatalf("error %v, want a LockedError", err)
		}
		got := []string{}
		for _, h := range locked.Holders {
			got = append(got, string(h))
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("holders (-want +got):\n%s", diff)
		}
	}

	a, b := lock(true, "a"), lock(true, "b")
	refused(false, "a", "b")
	unlock(a)
	refused(false, "b")
	unlock(b)
	c := lock(false, "c")
	refused(false, "c")
	refused(true, "c")
	other, err := l.Lock(t.Context(), "two", false, []byte("another lock"))
	if err != nil {
		t.Fatal(err)
	}
	unlock(other)
	wantKeys(t, s, "") // locks are no objects
	unlock(c)
	unlock(lock(true, "d"))
}
