package restore

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/tenantkeep/tenantkeep/internal/media"
)

// media reads the archive of files that belongs to the script, and checks it as those
// of backups are checked.
func (s *script) media(ctx context.Context) error {
	u := s.unit
	if s.Files == nil || s.Media == nil || s.RowsOnly || s.Resume {
		return nil
	}
	if u.core {
		s.plan.Warnings = append(s.plan.Warnings, fmt.Sprintf(
			"the files of core are not put back, because the folders of all tenants are among them: take what is needed out of %s with tar", s.FilesName))
		return nil
	}
	if s.imported == nil {
		if err := s.importFiles(ctx); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			s.check.find(Finding{Tenant: u.entry.Tenant, Problem: fmt.Sprintf("its archive %s: %v", s.FilesName, err), Remedy: withoutMedia, Err: err})
			return nil
		}
	}
	u.imported = s.imported
	u.entry.Media.Files, u.entry.Media.Bytes = s.imported.Files, s.imported.Bytes
	s.Manifest.IncludeMedia = true
	return s.check.media(ctx)
}

// withoutMedia is what to do about an archive that cannot be used.
const withoutMedia = "restore the rows alone with --include-media=false, and take what is needed out of the archive with tar"

// importFiles unpacks the archive beside the folders of the tenants, where there must
// be room for the files anyway, into a file that nobody sees.
func (s *script) importFiles(ctx context.Context) (err error) {
	spool, err := s.Media.Spool()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, spool.Close())
		}
	}()
	s.Progress.Start("verify media", 1, 0)
	defer s.Progress.Finish()
	e := s.unit.entry
	archive, err := media.Import(ctx, io.NewSectionReader(s.Files, 0, s.FilesSize), []string{e.Schema, s.Tenant, "media"}, spool, func(n int64) { s.Progress.Add(n, 0) })
	if err != nil {
		return err
	}
	s.imported, s.spool = archive, spool
	return nil
}

// closeMedia gives the room of the unpacked archive back.
func (s *script) closeMedia() {
	if s.spool != nil {
		_ = s.spool.Close() // nobody needs what was in it
	}
}

// openFiles opens the archive of the files of a unit.
func (r *run) openFiles(ctx context.Context, u *unit) (*media.Archive, io.Closer, error) {
	if u.imported != nil {
		return u.imported, io.NopCloser(nil), nil
	}
	stored, err := media.OpenStored(ctx, r.Repo, r.Manifest, u.entry)
	if err != nil {
		return nil, nil, err
	}
	return stored.Archive, stored, nil
}
