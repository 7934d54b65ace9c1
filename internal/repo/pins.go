package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// Pin keeps a backup from retention until somebody takes it away. It is an object
// of its own: manifests never change.
type Pin struct {
	Backup string    `json:"backup"` // id
	Reason string    `json:"reason"`
	By     string    `json:"by"` // user and host, for people
	At     time.Time `json:"at"`
}

// Errors about pins.
var (
	ErrPinned    = errors.New("the backup is pinned already")
	ErrNotPinned = errors.New("the backup is not pinned")
)

// maxPin bounds what is read of a pin.
const maxPin = 1 << 20

func pinKey(id string) string { return pinPrefix + id + jsonSuffix }

// Pin pins a backup, named as for Load, durably, and returns its id. A backup that is pinned already gives an error that
// matches ErrPinned; one that does not exist one that matches ErrNoBackup.
func (r *Repo) Pin(ctx context.Context, p Pin) (id string, err error) {
	// Not while a cleanup is under way, which may have this backup on its list.
	ctx, unlock, err := r.Lock(ctx, Shared, "pin")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	b, err := r.Load(ctx, p.Backup)
	if err != nil {
		return "", err
	}
	p.Backup = b.ID
	p.At = r.now().UTC().Truncate(time.Second)
	content, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return "", fmt.Errorf("pin backup %s: %w", p.Backup, err)
	}
	err = r.put(ctx, pinKey(p.Backup), append(content, '\n'))
	if errors.Is(err, fs.ErrExist) {
		return b.ID, fmt.Errorf("pin backup %s: %w", p.Backup, ErrPinned)
	}
	if err == nil {
		err = r.storage.Sync(ctx)
	}
	if err != nil {
		return b.ID, fmt.Errorf("pin backup %s: %w", p.Backup, err)
	}
	return b.ID, nil
}

// Unpin takes the pin of a backup away and returns it. The backup, which may be gone,
// is named by its id or by the file name of its manifest. One that is not pinned
// gives an error that matches ErrNotPinned.
func (r *Repo) Unpin(ctx context.Context, name string) (p Pin, err error) {
	ctx, unlock, err := r.Lock(ctx, Shared, "unpin")
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	pins, err := r.Pins(ctx)
	if err != nil {
		return p, err
	}
	id := name
	if _, ok := pins[id]; !ok && strings.HasSuffix(name, jsonSuffix) {
		id = idOf(name)
	}
	p, ok := pins[id]
	if !ok {
		return p, fmt.Errorf("unpin backup %s: %w", id, ErrNotPinned)
	}
	if err := r.storage.Delete(ctx, pinKey(id)); err != nil {
		return p, err
	}
	return p, r.storage.Sync(ctx)
}

// Pins returns all pins by the id of the backup. One that cannot be read is there
// all the same, with the error for a reason: it was meant to keep something.
func (r *Repo) Pins(ctx context.Context) (map[string]Pin, error) {
	pins := make(map[string]Pin)
	err := r.storage.List(ctx, pinPrefix, func(i storage.Info) error {
		if id, ok := strings.CutSuffix(path.Base(i.Key), jsonSuffix); ok && i.Key == pinKey(id) {
			pins[id] = Pin{Backup: id, Reason: i.Problem}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	for id, p := range pins {
		if p.Reason != "" {
			p.Reason = "the pin cannot be read: " + p.Reason
			pins[id] = p
			continue
		}
		p, err := r.readPin(ctx, id)
		if errors.Is(err, fs.ErrNotExist) {
			delete(pins, id) // taken away meanwhile
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err != nil {
			p = Pin{Reason: "the pin cannot be read: " + err.Error()}
		}
		p.Backup = id
		pins[id] = p
	}
	return pins, nil
}

func (r *Repo) readPin(ctx context.Context, id string) (p Pin, err error) {
	o, err := r.storage.Open(ctx, pinKey(id))
	if err != nil {
		return p, err
	}
	defer o.Close()
	content, err := io.ReadAll(io.NewSectionReader(o, 0, min(o.Size(), maxPin)))
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(content, &p); err != nil {
		return p, err
	}
	return p, manifest.CheckTime(p.At)
}
