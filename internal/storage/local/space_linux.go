package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/tenantkeep/tenantkeep/internal/storage"
)

var _ storage.Spacer = (*Store)(nil)

// Space tells of the file system of the directory, or of where it would be made.
func (s *Store) Space(context.Context) (free, total int64, err error) {
	var st unix.Statfs_t
	for dir := s.dir; ; dir = filepath.Dir(dir) {
		err := unix.Statfs(dir, &st)
		switch {
		case err == nil:
			return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, nil
		case !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir):
			return 0, 0, fmt.Errorf("look for the space of %s: %w", s.dir, err)
		}
	}
}
