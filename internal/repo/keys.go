package repo

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

// The folders of a repository.
const (
	dataPrefix     = "data/"
	mediaPrefix    = "media/"
	manifestPrefix = "manifests/"
	runPrefix      = "runs/"
	pinPrefix      = "pins/"
	swapPrefix     = "swaps/"    // of rollback points: whether they are in force
	removalPrefix  = "removals/" // of what a cleanup is about to remove
)

const (
	manifestName = "backup_manifest_"
	jsonSuffix   = ".json"
	// pendingSuffix ends the key of the note that a rollback point waits for what
	// it was made for.
	pendingSuffix = ".pending" + jsonSuffix

	// latestManifest is a link to the newest manifest that the original system
	// keeps beside the manifests.
	latestManifest = manifestPrefix + "latest_manifest" + jsonSuffix

	idLayout = "20060102_150405"

	// maxStem bounds tenant and schema in a file name, so that with type, time
	// and extension the name stays under the 255 bytes of file systems.
	maxStem = 160
)

func manifestKey(id string) string { return manifestPrefix + manifestName + id + jsonSuffix }
func runKey(id string) string      { return runPrefix + id + jsonSuffix }
func swapKey(id string) string     { return swapPrefix + id + jsonSuffix }
func pendingKey(id string) string  { return swapPrefix + id + pendingSuffix }

// idOf is the id of the backup whose manifest has this key.
func idOf(key string) string {
	return strings.TrimPrefix(strings.TrimSuffix(path.Base(key), jsonSuffix), manifestName)
}

// IDTime is the time in the id of a backup; false: there is none.
func IDTime(id string) (time.Time, bool) {
	if len(id) < len(idLayout) {
		return time.Time{}, false
	}
	t, err := time.Parse(idLayout, id[:len(idLayout)])
	return t, err == nil
}

// dataExt is what follows the name of a data file: the extension that the
// ordinary tools know it by.
var dataExt = regexp.MustCompile(`^\.sql(\.zst|\.gz)?(\.age)?$`)

// dataKeys returns a function that gives one key after another for the data
// file of a schema, the plainest first. The later ones are for when it is
// taken: tenant "a" with schema "b_c" and tenant "a_b" with schema "c" have the
// same plain name.
func dataKeys(schema, tenant string, typ manifest.Type, id, ext string) (func() string, error) {
	if schema == "" {
		return nil, errors.New("name data file: the schema has no name")
	}
	switch typ {
	case manifest.Full, manifest.Incremental, manifest.Baseline:
	default:
		return nil, fmt.Errorf("name data file of schema %q: unknown type %q", schema, typ)
	}
	if !dataExt.MatchString(ext) {
		return nil, fmt.Errorf("name data file of schema %q: unknown extension %q", schema, ext)
	}
	stem := encodeName(schema)
	if tenant != "" && tenant != schema {
		stem = encodeName(tenant) + "_" + stem
	}
	return fileKeys(dataPrefix, stem, schema, tenant, fmt.Sprintf("_%s_%s%s", typ, id, ext)), nil
}

// mediaExt is what follows the name of a media archive.
var mediaExt = regexp.MustCompile(`^\.tar(\.zst|\.gz)?(\.age)?$`)

// mediaKeys is dataKeys for the media archive of a schema.
func mediaKeys(schema, tenant, id, ext string) (func() string, error) {
	if schema == "" {
		return nil, errors.New("name media archive: the schema has no name")
	}
	if !mediaExt.MatchString(ext) {
		return nil, fmt.Errorf("name media archive of schema %q: unknown extension %q", schema, ext)
	}
	if tenant == "" {
		tenant = schema
	}
	return fileKeys(mediaPrefix, encodeName(tenant), schema, tenant, "_media_"+id+ext), nil
}

// fileKeys returns a function that gives one key after another: a stem between a
// folder and the rest of the name, and when that is taken one that a hash of
// schema and tenant makes distinct.
func fileKeys(folder, stem, schema, tenant, rest string) func() string {
	sum := sha256.Sum256([]byte(tenant + "\x00" + schema))
	digest := hex.EncodeToString(sum[:8])
	if len(stem) > maxStem {
		stem = cutName(stem, maxStem-1-len(digest)) + "-" + digest
	}
	n := 0
	return func() string {
		n++
		name := stem
		if n > 1 {
			name = cutName(stem, maxStem-1-len(digest)) + "-" + digest
		}
		if n > 2 {
			name += fmt.Sprintf("-%d", n-1)
		}
		return folder + name + rest
	}
}

// fileOfRun finds the id of a run in the name of a file that it wrote.
var fileOfRun = regexp.MustCompile(`_(?:full|incremental|baseline|media)_([0-9]{8}_[0-9]{6}(?:_[0-9]+)?)\.(?:sql|tar)(?:\.[a-z]+)*$`)

// runOf is the id of the run that wrote a file; empty: it cannot be told.
func runOf(key string) string {
	m := fileOfRun.FindStringSubmatch(key)
	if m == nil {
		return ""
	}
	return m[1]
}

// encodeName makes a file name of any name. Capitals are encoded as well:
// names that differ only in case are different schemas and must be different
// files where the disk does not care for case. So is a leading dash, which
// tools take for an option.
func encodeName(name string) string {
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		if 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '_' || c == '-' && i > 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// cutName cuts an encoded name to at most n bytes, between two characters.
func cutName(name string, n int) string {
	if len(name) <= n {
		return name
	}
	if i := strings.LastIndexByte(name[:n], '%'); i >= 0 && i > n-3 {
		n = i
	}
	return name[:n]
}

// SplitManifestPath tells which repository a manifest on the local disk belongs
// to, and its key there: the folder that holds the manifests is called
// "manifests", and the repository is around it.
func SplitManifestPath(name string) (dir, key string, err error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return "", "", fmt.Errorf("find manifest %s: %w", name, err)
	}
	folder := filepath.Dir(abs)
	if filepath.Base(folder)+"/" != manifestPrefix {
		return "", "", fmt.Errorf("manifest %s is not in a folder called manifests, beside which its data files would be", name)
	}
	return filepath.Dir(folder), manifestPrefix + filepath.Base(abs), nil
}
