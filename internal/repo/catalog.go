package repo

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// The index is an object of its own, which is written anew under another name
// when it has fallen behind by more than a few manifests. Writing it is a favour
// to the next one who reads: it is never waited for, and fails in silence.
const (
	// It lies among the manifests: a folder of its own, made by whoever lists the
	// backups first, might be one that whoever makes them cannot read.
	indexPrefix = manifestPrefix + "index-"
	indexSuffix = ".idx"

	// reindexAfter is how many manifests are read one by one before the index is
	// written anew: so many, and one in reindexShare.
	reindexAfter = 32
	reindexShare = 50

	// strangeIndexAge is when the index of another version of this program is
	// removed.
	strangeIndexAge = 7 * 24 * time.Hour
)

// Catalog returns what List returns, and is fast where there are many backups: a
// manifest that the index knows under its key, size and time of change is not
// read again. It is for looking at backups. Whoever deletes anything reads the
// manifests themselves, with List. The manifests may share parts and must not be
// changed.
func (r *Repo) Catalog(ctx context.Context) ([]Backup, error) {
	backups, _, err := r.names(ctx)
	if err != nil {
		return nil, err
	}
	var unknown []int
	known := map[string]indexed{}
	if len(backups) > reindexAfter {
		known = r.readIndex(ctx)
	}
	for i := range backups {
		b := &backups[i]
		if x, ok := known[b.Key]; ok && x.Size == b.size && x.Modified == b.modified.UnixNano() {
			b.Manifest = x.Manifest
		} else {
			unknown = append(unknown, i)
		}
	}
	if err := r.readManifests(ctx, backups, unknown); err != nil {
		return nil, err
	}
	readable := len(unknown)
	for _, i := range unknown {
		if backups[i].Err != nil {
			readable--
		}
	}
	if stale := len(known) - (len(backups) - len(unknown)); max(readable, stale) > reindexAfter+len(backups)/reindexShare {
		r.writeIndex(ctx, backups)
	}
	backups, _ = apart(slices.DeleteFunc(backups, removedMeanwhile))
	bare, err := r.bare(ctx, backups)
	if err != nil {
		return nil, fmt.Errorf("list backups: %w", err)
	}
	r.localize(backups) // after the index has them as they were read
	backups = append(backups, bare...)
	sortNewest(backups)
	return backups, nil
}

// readManifests reads the manifests of some of the backups.
func (r *Repo) readManifests(ctx context.Context, backups []Backup, which []int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2 * runtime.GOMAXPROCS(0))
	for _, i := range which {
		group.Go(func() error {
			b := &backups[i]
			r.readBackup(ctx, b)
			return ctx.Err()
		})
	}
	return group.Wait()
}

// indexes lists the indexes, the newest last, and tells those that this version
// reads from those of others.
func (r *Repo) indexes(ctx context.Context) (own, strange []storage.Info) {
	err := r.storage.List(ctx, indexPrefix, func(i storage.Info) error {
		switch {
		case !strings.HasSuffix(i.Key, indexSuffix):
		case strings.HasPrefix(i.Key, indexPrefix+signature()):
			own = append(own, i)
		default:
			strange = append(strange, i)
		}
		return nil
	})
	if err != nil {
		return nil, nil
	}
	slices.SortStableFunc(own, func(a, b storage.Info) int { return a.Modified.Compare(b.Modified) })
	return own, strange
}

// readIndex returns what the newest index knows, by key. One that cannot be read
// knows nothing.
func (r *Repo) readIndex(ctx context.Context) map[string]indexed {
	own, _ := r.indexes(ctx)
	for _, i := range slices.Backward(own) {
		list, err := r.openIndex(ctx, i.Key)
		if err != nil {
			continue
		}
		known := make(map[string]indexed, len(list))
		for _, x := range list {
			known[x.Key] = x
		}
		return known
	}
	return nil
}

func (r *Repo) openIndex(ctx context.Context, key string) ([]indexed, error) {
	o, err := r.storage.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	var content strings.Builder // all strings of the manifests are parts of its own
	content.Grow(int(o.Size()))
	if _, err := io.Copy(&content, io.NewSectionReader(o, 0, o.Size())); err != nil {
		return nil, err
	}
	return decodeIndex(content.String())
}

// writeIndex writes an index of what was read, and removes those before it.
func (r *Repo) writeIndex(ctx context.Context, backups []Backup) {
	list := make([]indexed, 0, len(backups))
	for _, b := range backups {
		if b.Err == nil {
			list = append(list, indexed{b.Key, b.size, b.modified.UnixNano(), b.Manifest})
		}
	}
	content, err := encodeIndex(list)
	if err != nil {
		return
	}
	own, strange := r.indexes(ctx)
	if r.put(ctx, indexPrefix+signature()+"-"+strings.ToLower(rand.Text())+indexSuffix, content) != nil {
		return
	}
	for _, i := range own {
		_ = r.storage.Delete(ctx, i.Key)
	}
	for _, i := range strange {
		if r.now().Sub(i.Modified) > strangeIndexAge {
			_ = r.storage.Delete(ctx, i.Key)
		}
	}
}
