package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// storedRows are frames of rows of a tenant's parent, for a full backup to store
// again where the rows are the same: to copy bytes takes less than to compress.
type storedRows struct {
	file   datafile.FileRef
	frames map[string]datafile.Frame // by the hash of what is in them
	object storage.Object            // the file, while it is open
	// damaged is why a frame could not be used.
	damaged error
}

// storedRows are the frames that the parent's own file holds, if it is compressed
// as the new one will be; else nil.
func (d *round) storedRows(t *tenant, e *earlier) *storedRows {
	if e.Index.Header.Compression != d.Compression.String() {
		return nil
	}
	s := &storedRows{file: e.self, frames: map[string]datafile.Frame{}}
	for _, f := range e.Index.Frames {
		if f.Kind == datafile.DataFrame && f.File == 0 && f.Hash != "" {
			s.frames[f.Hash] = f
		}
	}
	if len(s.frames) == 0 {
		return nil
	}
	return s
}

// openStored opens the file with stored rows of a tenant. Where that cannot be,
// they are compressed anew: the rows themselves are at hand.
func (w *worker) openStored(ctx context.Context, t *tenant) *storedRows {
	if t.stored == nil {
		return nil
	}
	if t.stored.object, t.stored.damaged = w.Repo.OpenReferred(ctx, t.stored.file); t.stored.damaged != nil {
		return nil
	}
	return t.stored
}

func (w *worker) closeStored(t *tenant) error {
	if t.stored == nil {
		return nil
	}
	if t.stored.damaged != nil {
		w.Progress.Note(slogWarn, t.tenant, fmt.Sprintf("backup %s is damaged, which does no harm to this one: %s: %v", t.parent.backup.ID, t.stored.file.Key, t.stored.damaged))
	}
	if t.stored.object == nil {
		return nil
	}
	err := t.stored.object.Close()
	t.stored.object = nil
	return err
}

// read finds the frame of that content. One that is not as it was written, or
// cannot be read, is of no use.
func (s *storedRows) read(hash string) (datafile.Frame, []byte, bool) {
	if s == nil {
		return datafile.Frame{}, nil, false
	}
	f, ok := s.frames[hash]
	if !ok {
		return f, nil, false
	}
	b := make([]byte, f.Length)
	if _, err := s.object.ReadAt(b, f.Offset); err != nil {
		s.damaged = err
		return f, nil, false
	}
	if stored := sha256.Sum256(b); hex.EncodeToString(stored[:]) != f.Stored {
		s.damaged = errors.New("rows in it are not as they were written")
		return f, nil, false
	}
	return f, b, true
}
