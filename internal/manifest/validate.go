package manifest

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// hashPrefix names the algorithm before the digest of a file.
const hashPrefix = "sha256:"

// What a manifest may say at most.
const (
	// MaxRetentionDays is a hundred years.
	MaxRetentionDays = 36500
	// maxCount is what the rows, bytes or tables of all schemas may add up to:
	// numbers up to it are exact in every program that reads JSON, and sums of a
	// thousand of them do not overflow.
	maxCount = 1 << 53
)

// Validate reports what makes the manifest unusable or unsafe to act on: a
// missing name, a file outside the repository, a hash or size that cannot be,
// a schema that occurs twice. It does not look at the files.
func (m *Manifest) Validate() error {
	switch {
	case m.Format < 0:
		return fmt.Errorf("manifest format %d is not known", m.Format)
	case m.Format > Format:
		return &FormatError{Format: m.Format}
	case m.Timestamp.IsZero():
		return errors.New("manifest has no timestamp")
	case m.BackupType == "":
		return errors.New("manifest has no backup_type")
	case m.Schemas == nil:
		// An empty list is fine: every schema of the run may have failed.
		return errors.New("manifest has no list of schemas")
	case m.RetentionDays < 0:
		return fmt.Errorf("manifest has retention_days %d", m.RetentionDays)
	}
	if m.Format > 0 {
		if m.ID == "" {
			return errors.New("manifest has no id")
		}
		switch m.BackupType {
		case Full, Incremental, Baseline:
		default:
			return fmt.Errorf("manifest has the unknown backup_type %q", m.BackupType)
		}
		switch m.Retention {
		case "", RetainExactly, RetainAtLeast:
		default:
			return fmt.Errorf("manifest has the unknown retention %q", m.Retention)
		}
	}

	if err := m.validateNumbers(); err != nil {
		return err
	}
	schemas := make(map[string]bool, len(m.Schemas))
	files := make(map[string]string, len(m.Schemas)) // key to schema
	for i, s := range m.Schemas {
		if s.Schema == "" {
			return fmt.Errorf("entry %d of schemas has no schema name", i+1)
		}
		if schemas[s.Schema] {
			return fmt.Errorf("schema %q is in the manifest twice", s.Schema)
		}
		schemas[s.Schema] = true
		if err := s.validate(m.Format); err != nil {
			return fmt.Errorf("schema %q: %w", s.Schema, err)
		}
		if s.Filepath == "" {
			continue
		}
		key, err := s.Key(m.Format)
		if err != nil {
			return err
		}
		if other, ok := files[key]; ok {
			return fmt.Errorf("schemas %q and %q name the same file %s", other, s.Schema, key)
		}
		files[key] = s.Schema
	}
	for _, file := range m.Unreadable {
		if err := checkPath(file); err != nil {
			return err
		}
	}
	return m.validateFailures(schemas)
}

// validateNumbers refuses times and numbers with which nobody can reckon.
func (m *Manifest) validateNumbers() error {
	if m.Format > 0 && m.RetentionDays > MaxRetentionDays {
		return fmt.Errorf("manifest has retention_days %d, which is more than %d", m.RetentionDays, MaxRetentionDays)
	}
	times := map[string]time.Time{"timestamp": m.Timestamp.Time, "finished": m.Finished, "rebuilt": m.Rebuilt}
	if m.Snapshot != nil {
		times["time of the snapshot"] = m.Snapshot.Time
	}
	for name, t := range times {
		if err := CheckTime(t); err != nil {
			return fmt.Errorf("manifest has a %s of which the %w", name, err)
		}
	}
	var tables, rows, bytes, size int64
	for _, s := range m.Schemas {
		if s.Snapshot != nil {
			if err := CheckTime(s.Snapshot.Time); err != nil {
				return fmt.Errorf("schema %q has a snapshot of which the %w", s.Schema, err)
			}
		}
		for _, n := range []struct {
			sum *int64
			add int64
		}{{&tables, s.Tables}, {&rows, s.Rows}, {&bytes, s.Bytes}, {&size, s.Size}} {
			if n.add > maxCount-*n.sum {
				return fmt.Errorf("schema %q has more tables, rows or bytes than there can be", s.Schema)
			}
			*n.sum += max(n.add, 0)
		}
	}
	return nil
}

// CheckTime refuses a time that is not in the years 1 to 9998 everywhere on earth:
// there are forms of it that cannot be written.
func CheckTime(t time.Time) error {
	if y := t.UTC().Year(); y < 1 || y > 9998 {
		return fmt.Errorf("year %d is out of range", y)
	}
	return nil
}

func (m *Manifest) validateFailures(saved map[string]bool) error {
	for i, f := range m.Failures {
		switch {
		case f.Schema == "":
			return fmt.Errorf("entry %d of failures has no schema name", i+1)
		case saved[f.Schema]:
			return fmt.Errorf("schema %q is in the manifest both as saved and as failed", f.Schema)
		case !utf8.ValidString(f.Schema):
			return fmt.Errorf("schema %q: its name is not UTF-8", f.Schema)
		}
		if f.File != "" {
			if err := checkPath(f.File); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s Schema) validate(format int) error {
	// JSON cannot hold other bytes: they would come back as another name.
	if !utf8.ValidString(s.Schema) || !utf8.ValidString(s.Tenant) {
		return errors.New("its name is not UTF-8")
	}
	if s.Size < 0 {
		return fmt.Errorf("size %d is negative", s.Size)
	}
	if s.Tables < 0 || s.Rows < 0 || s.Bytes < 0 {
		return errors.New("a count of tables, rows or bytes is negative")
	}
	if s.Filepath == "" && (format == 0 || len(s.References) == 0) {
		return errors.New("it has no filepath")
	}
	if s.Filepath != "" {
		if _, err := s.Key(format); err != nil {
			return err
		}
		if _, err := s.Digest(format); err != nil {
			return err
		}
		if _, err := s.IndexDigest(format); err != nil {
			return fmt.Errorf("index_%w", err)
		}
		if name := path.Base(s.Filepath); format > 0 && s.Filename != "" && s.Filename != name {
			return fmt.Errorf("filename %q is not that of filepath %q", s.Filename, s.Filepath)
		}
	}
	if s.MediaBackup != "" {
		if _, err := s.MediaKey(format); err != nil {
			return err
		}
	}
	for _, r := range s.References {
		if err := checkPath(r); err != nil {
			return err
		}
	}
	return s.validateMedia(format)
}

func (s Schema) validateMedia(format int) error {
	m := s.Media
	switch {
	case m == nil:
		return nil
	case m.Size < 0 || m.Files < 0 || m.Bytes < 0 || m.Failed < 0:
		return errors.New("a size or a count of its media is negative")
	case s.MediaBackup != "":
		if _, err := m.Digest(format); err != nil {
			return fmt.Errorf("media: %w", err)
		}
	}
	for _, r := range m.References {
		if err := checkPath(r); err != nil {
			return err
		}
	}
	return nil
}

// Key is where the data file lies in the repository of a manifest of that
// format. The original system (format 0) wrote absolute paths of the machine
// or container it ran in, such as C:\\app\\backups\\data\\x.sql; there the file is data/
// and the last element of the path, wherever the repository is now.
func (s Schema) Key(format int) (string, error) {
	return key(s.Filepath, "data/", format)
}

// MediaKey is where the media archive lies, as Key for the data file.
func (s Schema) MediaKey(format int) (string, error) {
	return key(s.MediaBackup, "media/", format)
}

func key(filepath, dir string, format int) (string, error) {
	if format == 0 {
		name := path.Base(strings.ReplaceAll(filepath, `\`, "/"))
		if err := checkName(name); err != nil {
			return "", fmt.Errorf("file %q: %w", filepath, err)
		}
		return dir + name, nil
	}
	return filepath, checkPath(filepath)
}

// Digest is the SHA-256 of the data file as lower-case hexadecimal digits. The
// original system may have written it without the name of the algorithm, or not
// at all: then it is empty, and nothing but the size can be compared.
func (s Schema) Digest(format int) (string, error) {
	if s.Hash == "" && format == 0 {
		return "", nil
	}
	return hexDigest(s.Hash, format)
}

// IndexDigest is the SHA-256 of index and trailer of the data file, as Digest that
// of the whole. Empty where the entry has none.
func (s Schema) IndexDigest(format int) (string, error) {
	if s.IndexHash == "" || format == 0 { // the files of the original system have no index
		return "", nil
	}
	return hexDigest(s.IndexHash, format)
}

// Digest is that of the archive, as Schema.Digest for the data file.
func (m *Media) Digest(format int) (string, error) { return hexDigest(m.Hash, format) }

func hexDigest(text string, format int) (string, error) {
	digits, ok := strings.CutPrefix(text, hashPrefix)
	if !ok && format > 0 {
		return "", fmt.Errorf("hash %q does not begin with %s", text, hashPrefix)
	}
	if b, err := hex.DecodeString(digits); err != nil || len(b) != 32 {
		return "", fmt.Errorf("hash %q is not a SHA-256 of 64 hexadecimal digits", text)
	}
	return strings.ToLower(digits), nil
}

// checkPath refuses every path that is not a plain one inside the repository.
// A backslash or a colon is a way out on some systems, so neither is taken.
func checkPath(p string) error {
	if path.IsAbs(p) || p == ".." || strings.HasPrefix(p, "../") || strings.Contains(p, "/../") ||
		strings.HasSuffix(p, "/..") || strings.ContainsAny(p, `\:`) {
		return fmt.Errorf("file %q points outside the repository", p)
	}
	if !fs.ValidPath(p) || p == "." {
		return fmt.Errorf("file %q is not a clean relative path", p)
	}
	for name := range strings.SplitSeq(p, "/") {
		if err := checkName(name); err != nil {
			return fmt.Errorf("file %q: %w", p, err)
		}
	}
	return nil
}

// checkName refuses names that are no file's or that a storage keeps for
// itself.
func checkName(name string) error {
	switch {
	case name == "" || name == "/" || strings.HasPrefix(name, "."):
		return errors.New("its name is empty or begins with a dot")
	case strings.ContainsRune(name, '\\'):
		return errors.New("its name holds a backslash")
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return errors.New("its name holds characters that cannot be shown")
	}
	return nil
}
