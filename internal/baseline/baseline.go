// Package baseline keeps baselines in a directory: baseline.sql is the core of a
// new database, templates/NAME/baseline.sql a template for new tenants. Beside it,
// media/ID.tar.zst are the files that belong to it, where there are any: the media
// archive of the backup of that id, which the baseline names too.
//
// A baseline is one data file without compression, and therefore a plain script
// for psql. The index in its last lines tells what the file must look like, so
// that one that was cut short or changed by hand is noticed without any other
// file. The directory may lie in the application's repository or in its image.
package baseline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/media"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/storage"
)

const (
	fileName   = "baseline.sql"
	templates  = "templates"
	mediaDir   = "media"
	tempPrefix = ".tenantkeep-baseline-"

	// tempAge is how old a temporary file has to be so that nobody writes it any
	// more.
	tempAge = 24 * time.Hour

	dirMode fs.FileMode = 0o700
)

// templateName is what a template may be called: it is the name of a folder, on
// every system.
var templateName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// NameError is a name that no template can have.
type NameError struct{ Name string }

// Error names it.
func (e *NameError) Error() string { return fmt.Sprintf("%q cannot be the name of a template", e.Name) }

// Hint says what a name is.
func (e *NameError) Hint() string {
	return "a name begins with a letter or digit and has letters, digits, and _ . - only, at most 63; it is the name of a folder in templates/"
}

// Key is where the baseline of a template lies in the directory, with slashes;
// that of core where the name is empty. A name that leads elsewhere is a
// *NameError.
func Key(template string) (string, error) {
	switch {
	case template == "":
		return fileName, nil
	case !templateName.MatchString(template), strings.Contains(template, ".."), strings.HasSuffix(template, "."):
		return "", &NameError{template}
	}
	return templates + "/" + template + "/" + fileName, nil
}

// MissingError is a baseline that is not there.
type MissingError struct {
	Template string // empty: core
	Path     string
	Known    []string // the templates that there are
}

// Error names the file.
func (e *MissingError) Error() string {
	return fmt.Sprintf("there is no %s: %s is missing", what(e.Template), e.Path)
}

// Hint says how to make one, and which there are.
func (e *MissingError) Hint() string {
	if e.Template == "" {
		return "--baseline-dir says where baselines are; tenantkeep backup --backup-type baseline makes one"
	}
	known := "there is no template yet"
	if len(e.Known) > 0 {
		known = "there are " + strings.Join(e.Known, ", ")
	}
	return fmt.Sprintf("%s; --baseline-dir says where they are, and tenantkeep backup --backup-type baseline --template %s --schema SCHEMA makes this one", known, e.Template)
}

// Unwrap lets the error match fs.ErrNotExist.
func (e *MissingError) Unwrap() error { return fs.ErrNotExist }

// errNoArchive is that the archive of a baseline is missing, which is itself there.
var errNoArchive = errors.New("there is no such file")

// DamagedError is a baseline that is not what tenantkeep wrote.
type DamagedError struct {
	Path    string
	Foreign bool // it was never written by tenantkeep
	Media   bool // it is an archive of files
	Err     error
}

// Error says what is wrong.
func (e *DamagedError) Error() string {
	if errors.Is(e.Err, errNoArchive) {
		return fmt.Sprintf("%s is not there, with which the baseline was made", e.Path)
	}
	if e.Foreign {
		return fmt.Sprintf("%s was not written by tenantkeep: %v", e.Path, e.Err)
	}
	return fmt.Sprintf("%s was cut short or changed since it was written: %v", e.Path, e.Err)
}

// Hint says what can be done with such a file.
func (e *DamagedError) Hint() string {
	if e.Media {
		return "make the baseline anew with tenantkeep backup --backup-type baseline --include-media, or put an older one back with tenantkeep restore --baseline --manifest ID; with --include-media=false it is restored without files"
	}
	asScript := "--backup-file " + e.Path + " restores it as a plain SQL script, without the checks of a baseline"
	if e.Foreign {
		return asScript
	}
	return "make it anew with tenantkeep backup --backup-type baseline, or put an older one back with tenantkeep restore --baseline --manifest ID; if it was changed on purpose, " + asScript
}

// Unwrap returns the cause.
func (e *DamagedError) Unwrap() error { return e.Err }

func what(template string) string {
	if template == "" {
		return "baseline of core"
	}
	return fmt.Sprintf("template %q", template)
}

// Open reads a baseline from its directory and checks every byte of it. What it
// returns describes it as the manifest of a backup does: the directory is to a
// restore a repository with that backup. A missing baseline is a *MissingError,
// one that is not whole a *DamagedError: with files its archive of files counts too,
// where it has one.
func Open(ctx context.Context, dir storage.Storage, template string, files bool) (*manifest.Manifest, error) {
	key, err := Key(template)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir.Location(), filepath.FromSlash(key))
	o, err := dir.Open(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		known, err := known(ctx, dir)
		if err != nil {
			return nil, err
		}
		return nil, &MissingError{Template: template, Path: path, Known: known}
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", what(template), err)
	}
	defer o.Close() //nolint:errcheck // it is only read
	x, err := check(o, o.Size())
	if err != nil {
		head := make([]byte, len(firstLine))
		n, _ := o.ReadAt(head, 0) // what cannot be read is not ours either
		return nil, &DamagedError{Path: path, Foreign: string(head[:n]) != firstLine, Err: err}
	}
	isCore := x.Header.Schema == manifest.CoreSchema
	switch {
	case template == "" && !isCore:
		return nil, &DamagedError{Path: path, Err: fmt.Errorf("it holds schema %q, not core", x.Header.Schema)}
	case template != "" && isCore:
		return nil, &DamagedError{Path: path, Err: errors.New("it holds core, not a tenant")}
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, io.NewSectionReader(o, 0, o.Size())); err != nil {
		return nil, fmt.Errorf("read %s: %w", what(template), err)
	}
	m := repo.Describe(x, key, o.Size(), "sha256:"+hex.EncodeToString(hash.Sum(nil)))
	if err := addMedia(ctx, dir, m, x.Header.Media); err != nil {
		return nil, err
	}
	if files && x.Header.Media != "" && !m.IncludeMedia {
		return nil, &DamagedError{Path: filepath.Join(filepath.Dir(path), mediaDir, m.ID+archiveExts[0]), Media: true, Err: errNoArchive}
	}
	return m, nil
}

// archiveExts are how an archive may be compressed.
var archiveExts = []string{".tar.zst", ".tar.gz", ".tar"}

// addMedia describes the archive that belongs to a baseline, if there is one. It
// must have the hash that the baseline says; empty: it says that there is none.
func addMedia(ctx context.Context, dir storage.Storage, m *manifest.Manifest, want string) error {
	e := &m.Schemas[0]
	for _, ext := range archiveExts {
		key := strings.TrimSuffix(e.Filepath, fileName) + mediaDir + "/" + m.ID + ext
		o, err := dir.Open(ctx, key)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open the files of a baseline: %w", err)
		}
		e.Media, err = describe(o, m, want)
		if err := errors.Join(err, o.Close()); err != nil {
			return &DamagedError{Path: filepath.Join(dir.Location(), filepath.FromSlash(key)), Media: true, Err: err}
		}
		e.MediaBackup, m.IncludeMedia = key, true
		return nil
	}
	return ctx.Err()
}

// describe reads what an archive says of itself, and compares it with what its
// baseline says.
func describe(o storage.Object, m *manifest.Manifest, want string) (*manifest.Media, error) {
	if want == "" {
		return nil, errors.New("the baseline was made without files")
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, io.NewSectionReader(o, 0, o.Size())); err != nil {
		return nil, err
	}
	if got := "sha256:" + hex.EncodeToString(hash.Sum(nil)); got != want {
		return nil, fmt.Errorf("it has the hash %s, the baseline says %s", got, want)
	}
	a, err := media.Open(o, o.Size())
	if err != nil {
		return nil, err
	}
	switch {
	case a.Backup != m.ID || a.Schema != m.Schemas[0].Schema:
		return nil, fmt.Errorf("it is that of schema %q in backup %s", a.Schema, a.Backup)
	case len(a.References) > 0:
		return nil, errors.New("it is a part of an incremental backup")
	}
	return &manifest.Media{Backup: a.Backup, Size: o.Size(), Hash: want, Files: a.Files, Bytes: a.Bytes}, nil
}

// firstLine begins every data file that is not compressed.
const firstLine = "-- tenantkeep: schema "

// check reads a whole data file and compares it with its index.
func check(r io.ReaderAt, size int64) (*datafile.Index, error) {
	f, err := datafile.Open(r, size)
	if err != nil {
		return nil, err
	}
	if len(f.Index.Header.Files) > 0 {
		return nil, errors.New("it is a part of an incremental backup")
	}
	for i := range f.Index.Frames {
		if err := f.CheckFrame(i); err != nil {
			return nil, err
		}
	}
	return f.Index, nil
}

// Archive is a media archive to be written beside a baseline.
type Archive struct {
	Name  string // the id of its backup, and an extension
	Write func(io.Writer) error
}

// Write writes a baseline into its directory, where it takes the place of an
// older one only once it is whole and durable. script writes the data file,
// without compression. The archive, nil where there are no files, comes before:
// the new baseline names it, and the old one goes on with its own. It returns the
// path of the baseline.
func Write(dir, template string, script func(io.Writer) error, archive *Archive) (path string, err error) {
	key, err := Key(template)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s into %s: %w", what(template), dir, err)
		}
	}()
	path = filepath.Join(dir, filepath.FromSlash(key))
	archives := filepath.Join(filepath.Dir(path), mediaDir)
	if archive != nil {
		if err := put(dir, filepath.Join(archives, archive.Name), archive.Write, func(*os.File) error { return nil }); err != nil {
			return "", err
		}
	}
	if err := put(dir, path, script, whole); err != nil {
		return "", err
	}
	removeOthers(archives, archive)
	return path, nil
}

// put writes a file below dir, durably and in the place of another one.
func put(dir, path string, write func(io.Writer) error, check func(*os.File) error) (err error) {
	folder := filepath.Dir(path)
	if err := os.MkdirAll(folder, dirMode); err != nil {
		return err
	}
	removeOld(folder)
	f, err := os.CreateTemp(folder, tempPrefix) // readable by nobody else
	if err != nil {
		return err
	}
	defer func() {
		if failure := os.Remove(f.Name()); !errors.Is(failure, fs.ErrNotExist) {
			err = errors.Join(err, failure)
		}
	}()
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = check(f)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	// The folders may be new, and so are their names.
	for at := folder; ; at = filepath.Dir(at) {
		if err := syncDir(at); err != nil {
			return err
		}
		if at == filepath.Dir(filepath.Clean(dir)) || at == filepath.Dir(at) {
			return nil
		}
	}
}

// archiveName is what archives beside a baseline are called.
var archiveName = regexp.MustCompile(`^[0-9]{8}_[0-9]{6}(_[0-9]+)?\.tar(\.zst|\.gz)?$`)

// removeOthers removes the archives of older baselines. What else is in the folder
// is somebody's own, and an archive that stays is in nobody's way.
func removeOthers(folder string, keep *Archive) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return
	}
	for _, e := range entries {
		if archiveName.MatchString(e.Name()) && (keep == nil || e.Name() != keep.Name) {
			_ = os.Remove(filepath.Join(folder, e.Name()))
		}
	}
}

// whole reads back what was written.
func whole(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	_, err = check(f, info.Size())
	return err
}

// removeOld removes what writers that were killed left. It is in nobody's way.
func removeOld(folder string) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && strings.HasPrefix(e.Name(), tempPrefix) && time.Since(info.ModTime()) > tempAge {
			_ = os.Remove(filepath.Join(folder, e.Name()))
		}
	}
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrPermission) {
		return nil // then it is not one of those that were made
	}
	if err != nil {
		return err
	}
	err = f.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil // SMB and some FUSE systems cannot sync directories
	}
	return errors.Join(err, f.Close())
}

// File is a baseline in its directory.
type File struct {
	Template string // empty: core
	Path     string // with slashes, from the directory that List was given
	Size     int64
	Modified time.Time
}

// List lists the baselines in a directory, core first, without reading them.
func List(ctx context.Context, dir storage.Storage) ([]File, error) {
	var files []File
	err := dir.List(ctx, "", func(i storage.Info) error {
		template := ""
		if rest, ok := strings.CutPrefix(i.Key, templates+"/"); ok {
			template, _, _ = strings.Cut(rest, "/")
		}
		if key, err := Key(template); err == nil && key == i.Key {
			files = append(files, File{Template: template, Path: i.Key, Size: i.Size, Modified: i.Modified})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list baselines: %w", err)
	}
	return files, nil
}

func known(ctx context.Context, dir storage.Storage) ([]string, error) {
	files, err := List(ctx, dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files {
		if f.Template != "" {
			names = append(names, f.Template)
		}
	}
	return names, nil
}
