package repo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// What repair puts beside manifests.
const (
	// brokenSuffix ends the name under which a manifest is kept that could not
	// be read and was rebuilt. It is listed no more.
	brokenSuffix = ".broken"
	// guardSuffix ends the name of an object that is there while a manifest is
	// replaced. It is listed as a manifest that cannot be read, so that nobody
	// takes the data files for orphans in the moment in which there is none.
	guardSuffix = ".rebuilding" + jsonSuffix

	guardText = "tenantkeep repair rebuilds this manifest, or was interrupted while it did: run it again.\n"
)

// wholeID is an id of a backup and nothing else.
var wholeID = regexp.MustCompile(`^[0-9]{8}_[0-9]{6}(_[0-9]+)?$`)

func guardKey(id string) string { return manifestPrefix + manifestName + id + guardSuffix }

// RepairPlan is what a repository needs, and what no repair brings back.
type RepairPlan struct {
	Rebuild []Rebuild
	Lost    []Loss
	Unused  []Unused
	Tenants []TenantPoints // of which something is lost

	guards []string // left by a repair that was interrupted at its very end
}

// Work reports whether Repair has anything to do.
func (p *RepairPlan) Work() bool { return len(p.Rebuild)+len(p.guards) > 0 }

// Rebuild is a manifest that can be rebuilt from data files.
type Rebuild struct {
	ID       string
	Key      string
	Manifest *manifest.Manifest
	Broken   string // what is wrong with the one that is there; empty: there is none
	Note     string // what to know of it; may be empty
}

// Loss is something that cannot be restored any more.
type Loss struct {
	Backup         string // id; empty: it is not known
	Schema, Tenant string // empty: all of the backup, or it is not known
	File           string // key
	Problem        string
}

// Unused is a data file that belongs to no backup.
type Unused struct {
	storage.Info
	Reason string
}

// TenantPoints is how often a schema can still be restored.
type TenantPoints struct {
	Schema, Tenant string
	Points         int
	Newest         string // id of the newest backup that holds it; empty: none
}

// RepairOptions say how to look at data files.
type RepairOptions struct {
	// Check reads data files to their end, and returns what is wrong with each, by
	// the ID of its backup. Each is the only one of a backup that is made up for
	// it, whose ID is its key.
	Check func(context.Context, []Backup) (map[string]error, error)
	// Media reads what a media archive says of itself: all but its key, size and
	// hash.
	Media func(storage.Object) (ArchiveInfo, error)
}

// ArchiveInfo is what a media archive says of itself.
type ArchiveInfo struct {
	Schema, Tenant string
	manifest.Media
}

// survey is what there is in a repository.
type survey struct {
	sizes   map[string]int64    // of data files and media, by key
	backups []Backup            // whose manifests can be read, the newest first
	broken  map[string]Backup   // by id
	newer   map[string]bool     // by id, of a format that this version does not know
	marks   map[string]bool     // by id
	guards  map[string]bool     // by id
	free    []storage.Info      // data files that no manifest names
	media   []storage.Info      // media archives that no manifest names
	unknown map[string][]string // of those, the keys of files whose index cannot be read, by the id in their names
	plan    *RepairPlan
}

// PlanRepair finds out what can be repaired and what is lost. It changes
// nothing, and needs the lock of the repository, shared.
func (r *Repo) PlanRepair(ctx context.Context, o RepairOptions) (*RepairPlan, error) {
	s, err := r.survey(ctx)
	if err != nil {
		return nil, err
	}
	files, err := r.candidates(ctx, s, o)
	if err != nil {
		return nil, err
	}
	for _, group := range groupByRun(files) {
		s.rebuild(group, r.now())
	}
	if err := r.findArchives(ctx, s, o); err != nil {
		return nil, err
	}
	s.judge()
	return s.plan, nil
}

func (r *Repo) survey(ctx context.Context) (*survey, error) {
	s := &survey{
		sizes: map[string]int64{}, broken: map[string]Backup{}, newer: map[string]bool{}, marks: map[string]bool{}, guards: map[string]bool{},
		unknown: map[string][]string{}, plan: &RepairPlan{},
	}
	var data, media []storage.Info
	// In this order, so that a backup that ends meanwhile is found by its mark or
	// its manifest.
	for _, prefix := range []string{dataPrefix, mediaPrefix, runPrefix} {
		err := r.storage.List(ctx, prefix, func(i storage.Info) error {
			switch prefix {
			case runPrefix:
				s.marks[strings.TrimSuffix(path.Base(i.Key), jsonSuffix)] = true
				return nil
			case dataPrefix:
				data = append(data, i)
			case mediaPrefix:
				media = append(media, i)
			}
			s.sizes[i.Key] = i.Size
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list repository: %w", err)
		}
	}
	all, err := r.List(ctx)
	if err != nil {
		return nil, err
	}
	named := map[string]bool{}
	for _, b := range all {
		id, guard := strings.CutSuffix(b.ID+jsonSuffix, guardSuffix)
		switch {
		case guard:
			s.guards[id] = true
		case b.Err == nil:
			s.backups = append(s.backups, b)
			for _, f := range b.files() {
				named[f] = true
			}
		default:
			if _, ok := errors.AsType[*manifest.FormatError](b.Err); ok {
				s.newer[b.ID] = true
				s.lose(Loss{Backup: b.ID, File: b.Key, Problem: b.Err.Error()})
				continue
			}
			s.broken[b.ID] = b
		}
	}
	for id := range s.guards {
		switch {
		case slices.ContainsFunc(s.backups, func(b Backup) bool { return b.ID == id }):
			s.plan.guards = append(s.plan.guards, id)
		case s.broken[id].Err == nil && !s.newer[id]:
			s.broken[id] = Backup{ID: id, Key: guardKey(id), Err: errors.New("a repair was interrupted while it rebuilt it")}
		}
	}
	for _, i := range data {
		if !named[i.Key] {
			s.free = append(s.free, i)
		}
	}
	inUse, err := namedBy(s.backups)
	if err != nil {
		return nil, err
	}
	for _, i := range media {
		if !isNamed(inUse, i.Key) {
			s.media = append(s.media, i)
		}
	}
	return s, nil
}

// files are the data files that a readable backup names.
func (b Backup) files() (keys []string) {
	for _, e := range b.Manifest.Schemas {
		if key, err := e.Key(b.Manifest.Format); err == nil && e.Filepath != "" {
			keys = append(keys, key)
		}
		keys = append(keys, e.References...)
	}
	for _, f := range b.Manifest.Failures {
		keys = append(keys, f.File)
	}
	return append(keys, b.Manifest.Unreadable...)
}

func (s *survey) lose(l Loss) { s.plan.Lost = append(s.plan.Lost, l) }

func (s *survey) unused(i storage.Info, format string, args ...any) {
	s.plan.Unused = append(s.plan.Unused, Unused{i, fmt.Sprintf(format, args...)})
}

// candidate is a data file of which a manifest may be made.
type candidate struct {
	storage.Info
	index   *datafile.Index
	hash    string
	damaged error // what is wrong with its contents
}

// notKnown is what is wrong with a data file without an index.
const notKnown = "what it holds cannot be found out"

// candidates reads the data files that no manifest names, and keeps those of
// runs that have no manifest that can be read.
func (r *Repo) candidates(ctx context.Context, s *survey, o RepairOptions) (list []candidate, err error) {
	var check []Backup
	for _, i := range s.free {
		id := runOf(i.Key)
		c := candidate{Info: i}
		switch {
		case s.newer[id]:
			continue
		case s.unfinished(id):
			s.unused(i, "its run has not ended, or was killed before it did: the next backup removes what is left of it")
			continue
		}
		if c.index, err = r.dataIndex(ctx, i.Key); err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			s.lose(Loss{Backup: id, File: i.Key, Problem: notKnown + ": " + err.Error()})
			s.unknown[id] = append(s.unknown[id], i.Key)
			continue
		}
		h := c.index.Header
		switch {
		case !wholeID.MatchString(h.Backup) || h.Schema == "" || h.Started.IsZero():
			s.lose(Loss{Backup: id, Schema: h.Schema, Tenant: h.Tenant, File: i.Key, Problem: "no manifest names it, and it does not say which backup it belongs to"})
			continue
		case s.newer[h.Backup]:
			continue
		case s.unfinished(h.Backup):
			s.unused(i, "its run has not ended, or was killed before it did")
			continue
		case slices.ContainsFunc(s.backups, func(b Backup) bool { return b.ID == h.Backup }):
			s.unused(i, "the manifest of backup %s does not name it", h.Backup)
			continue
		}
		if err := r.hash(ctx, &c); err != nil {
			return nil, err
		}
		if c.damaged == nil {
			check = append(check, Backup{ID: i.Key, Manifest: manifestOf(c)})
		}
		list = append(list, c)
	}
	if len(check) == 0 {
		return list, nil
	}
	damaged, err := o.Check(ctx, check)
	if err != nil {
		return nil, err
	}
	for n := range list {
		if err := damaged[list[n].Key]; err != nil {
			list[n].damaged = err
		}
	}
	return list, nil
}

// unfinished reports whether a run has a mark and has written no manifest.
func (s *survey) unfinished(id string) bool { return s.marks[id] && s.broken[id].Err == nil }

func (r *Repo) dataIndex(ctx context.Context, key string) (*datafile.Index, error) {
	o, err := r.storage.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	f, err := datafile.Open(o, o.Size())
	if err != nil {
		return nil, err
	}
	return f.Index, nil
}

// hash reads a whole data file. What cannot be read of it is damage.
func (r *Repo) hash(ctx context.Context, c *candidate) error {
	object, err := r.storage.Open(ctx, c.Key)
	if err != nil {
		c.damaged = err
		return ctx.Err()
	}
	defer object.Close()
	h := sha256.New()
	piece := make([]byte, min(object.Size(), 1<<20))
	for off := int64(0); off < object.Size(); {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n, err := object.ReadAt(piece[:min(int64(len(piece)), object.Size()-off)], off)
		h.Write(piece[:n])
		off += int64(n)
		if err != nil && off < object.Size() {
			c.damaged = fmt.Errorf("read at byte %d: %w", off, err)
			return nil
		}
	}
	c.hash = "sha256:" + hex.EncodeToString(h.Sum(nil))
	return nil
}

// groupByRun sorts the files of each run, the oldest run first.
func groupByRun(files []candidate) [][]candidate {
	slices.SortStableFunc(files, func(a, b candidate) int {
		x, y := a.index.Header, b.index.Header
		last := func(is bool) int {
			if is {
				return 1
			}
			return 0
		}
		return cmp.Or(strings.Compare(x.Backup, y.Backup),
			last(x.Schema != manifest.CoreSchema)-last(y.Schema != manifest.CoreSchema), strings.Compare(x.Schema, y.Schema),
			last(a.damaged != nil)-last(b.damaged != nil), y.Snapshot.Time.Compare(x.Snapshot.Time)) // of one schema twice the newer first
	})
	var groups [][]candidate
	for i, c := range files {
		if i == 0 || files[i-1].index.Header.Backup != c.index.Header.Backup {
			groups = append(groups, nil)
		}
		last := &groups[len(groups)-1]
		*last = append(*last, c)
	}
	return groups
}

// rebuild makes the manifest of one run.
func (s *survey) rebuild(files []candidate, now time.Time) {
	first := files[0].index.Header
	for _, c := range files {
		h := c.index.Header
		if h.Database.Name != first.Database.Name || h.Database.SystemIdentifier != first.Database.SystemIdentifier {
			for _, c := range files {
				h := c.index.Header
				s.lose(Loss{Backup: h.Backup, Schema: h.Schema, Tenant: h.Tenant, File: c.Key, Problem: "files of different backups carry this id: they were copied together from several repositories"})
			}
			return
		}
	}
	m := manifestOf(files[0])
	m.Schemas, m.Rebuilt = []manifest.Schema{}, now.UTC().Truncate(time.Second)
	for _, c := range files { // the moment of the backup is the first; schemas that changed were taken later
		if snapshot := c.index.Header.Snapshot; snapshot.Time.Before(m.Snapshot.Time) {
			m.Snapshot = &snapshot
		}
		if c.index.Header.Type == manifest.Incremental { // which takes new schemas in full
			m.BackupType = manifest.Incremental
		}
	}
	taken := map[string]bool{}
	for _, c := range files {
		h := c.index.Header
		switch {
		case taken[h.Schema]:
			s.unused(c.Info, "another file of backup %s holds the same schema, as it was later", h.Backup)
			continue
		case c.damaged != nil:
			problem := "its data file is damaged: " + c.damaged.Error()
			m.Failures = append(m.Failures, manifest.Failure{Schema: h.Schema, Tenant: h.Tenant, Error: problem, File: c.Key})
			s.lose(Loss{Backup: h.Backup, Schema: h.Schema, Tenant: h.Tenant, File: c.Key, Problem: problem})
		default:
			m.Schemas = append(m.Schemas, entryOf(c, m.Snapshot))
		}
		taken[h.Schema] = true
	}
	m.Unreadable = s.unknown[m.ID]
	re := Rebuild{ID: m.ID, Key: manifestKey(m.ID), Manifest: m}
	broken := s.broken[m.ID]
	delete(s.broken, m.ID)
	if broken.Err != nil {
		re.Broken = broken.Err.Error()
	}
	if len(m.Schemas) == 0 {
		return // it would be a backup of nothing
	}
	if m.BackupType == manifest.Incremental {
		re.Note = "schemas in which nothing had changed have no file of this backup and are not in it"
	}
	if err := m.Validate(); err != nil {
		s.lose(Loss{Backup: m.ID, File: re.Key, Problem: "no manifest can be made of its files: " + err.Error()})
		return
	}
	s.plan.Rebuild = append(s.plan.Rebuild, re)
}

// Describe is the manifest of a backup of which one data file is all that is
// known: its index, key, size and hash.
func Describe(x *datafile.Index, key string, size int64, hash string) *manifest.Manifest {
	return manifestOf(candidate{Info: storage.Info{Key: key, Size: size}, index: x, hash: hash})
}

// findArchives gives the entries of rebuilt manifests their media archives, as far
// as these were written by the same run: of one in which no file had changed
// nothing tells where its files are.
func (r *Repo) findArchives(ctx context.Context, s *survey, o RepairOptions) error {
	for _, i := range s.media {
		id := runOf(i.Key)
		n := slices.IndexFunc(s.plan.Rebuild, func(re Rebuild) bool { return re.ID == id })
		if n < 0 || o.Media == nil {
			continue
		}
		m := s.plan.Rebuild[n].Manifest
		c := candidate{Info: i}
		if err := r.hash(ctx, &c); err != nil {
			return err
		}
		info, err := r.archiveInfo(ctx, i, o)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err = cmp.Or(c.damaged, err); err != nil {
			s.lose(Loss{Backup: id, File: i.Key, Problem: "what it holds cannot be read: " + err.Error()})
			continue
		}
		e := slices.IndexFunc(m.Schemas, func(e manifest.Schema) bool { return e.Schema == info.Schema })
		if e < 0 || info.Backup != id {
			s.unused(i, "there is no data file of schema %q of its backup", info.Schema)
			continue
		}
		info.Size, info.Hash = i.Size, c.hash
		m.IncludeMedia = true
		m.Schemas[e].MediaBackup, m.Schemas[e].Media = i.Key, &info.Media
	}
	return nil
}

func (r *Repo) archiveInfo(ctx context.Context, i storage.Info, o RepairOptions) (ArchiveInfo, error) {
	object, err := r.storage.Open(ctx, i.Key)
	if err != nil {
		return ArchiveInfo{}, err
	}
	defer object.Close() //nolint:errcheck // it was only read
	return o.Media(object)
}

// manifestOf describes a backup of one data file.
func manifestOf(c candidate) *manifest.Manifest {
	h := c.index.Header
	return &manifest.Manifest{
		Timestamp: manifest.NewTime(h.Started), BackupType: h.Type, RetentionDays: h.Retention,
		Compression: h.Compression, Compressed: h.Compression != string(datafile.None), Schemas: []manifest.Schema{entryOf(c, &h.Snapshot)},
		Format: manifest.Format, ID: h.Backup, Tool: &h.Tool, Database: &h.Database, Snapshot: &h.Snapshot,
	}
}

// entryOf describes a data file as the run that wrote it did.
func entryOf(c candidate, moment *manifest.Snapshot) manifest.Schema {
	h := c.index.Header
	e := manifest.Schema{
		Schema: h.Schema, Tenant: h.Tenant, Filename: path.Base(c.Key), Filepath: c.Key, Size: c.Size, Hash: c.hash,
		Timestamp: h.Backup, Type: h.Type, Tables: int64(len(c.index.Tables)), Definitions: h.Definitions,
	}
	for _, f := range h.Files {
		e.References = append(e.References, f.Key)
	}
	for _, t := range c.index.Tables {
		e.Rows += t.Rows
		e.Bytes += t.Bytes
	}
	if !h.Snapshot.Time.Equal(moment.Time) {
		e.Snapshot = &h.Snapshot
	}
	return e
}

// judge finds what the backups lack that have a manifest, and how often each
// schema can be restored that lost something.
func (s *survey) judge() {
	for id, b := range s.broken {
		s.lose(Loss{Backup: id, File: b.Key, Problem: "its manifest cannot be read, and no data file is left of which it could be rebuilt: " + b.Err.Error()})
	}
	type name struct{ schema, tenant string }
	points := map[name]*TenantPoints{}
	count := func(id string, m *manifest.Manifest, whole func(manifest.Schema) bool) {
		for _, e := range m.Schemas {
			n := name{e.Schema, e.Tenant}
			if points[n] == nil {
				points[n] = &TenantPoints{Schema: e.Schema, Tenant: e.Tenant}
			}
			if whole(e) {
				points[n].Points++
				points[n].Newest = max(points[n].Newest, id)
			}
		}
	}
	for _, b := range s.backups {
		for _, f := range b.Manifest.Failures {
			if f.File != "" {
				s.lose(Loss{Backup: b.ID, Schema: f.Schema, Tenant: f.Tenant, File: f.File, Problem: f.Error})
			}
		}
		for _, key := range b.Manifest.Unreadable {
			s.lose(Loss{Backup: b.ID, File: key, Problem: notKnown})
		}
		count(b.ID, b.Manifest, func(e manifest.Schema) bool { return s.complete(b, e) })
	}
	for _, re := range s.plan.Rebuild {
		count(re.ID, re.Manifest, func(manifest.Schema) bool { return true })
	}
	slices.SortStableFunc(s.plan.Lost, func(a, b Loss) int {
		return cmp.Or(strings.Compare(a.Tenant, b.Tenant), strings.Compare(a.Schema, b.Schema), strings.Compare(b.Backup, a.Backup), strings.Compare(a.File, b.File))
	})
	slices.SortFunc(s.plan.Unused, func(a, b Unused) int { return strings.Compare(a.Key, b.Key) })
	told := map[name]bool{}
	for _, l := range s.plan.Lost {
		n := name{l.Schema, l.Tenant}
		if l.Schema == "" || told[n] {
			continue
		}
		told[n] = true
		if points[n] == nil {
			points[n] = &TenantPoints{Schema: l.Schema, Tenant: l.Tenant}
		}
		s.plan.Tenants = append(s.plan.Tenants, *points[n])
	}
}

// complete reports whether all files of an entry are there, and notes those that
// are not. What is in them is for a verification to find out.
func (s *survey) complete(b Backup, e manifest.Schema) bool {
	whole := true
	lose := func(file, problem string) {
		whole = false
		s.lose(Loss{Backup: b.ID, Schema: e.Schema, Tenant: e.Tenant, File: file, Problem: problem})
	}
	if key, err := e.Key(b.Manifest.Format); e.Filepath != "" {
		size, found := s.sizes[key]
		switch {
		case err != nil:
			lose(e.Filepath, err.Error())
		case !found:
			lose(key, ErrMissing.Error())
		case size != e.Size:
			lose(key, fmt.Sprintf("%v (%d bytes, the manifest says %d)", ErrSize, size, e.Size))
		}
	}
	for _, key := range e.References {
		if _, found := s.sizes[key]; !found {
			lose(key, ErrMissing.Error()+", and it is needed by this later backup")
		}
	}
	if e.Media == nil {
		return whole
	}
	rows := whole
	if size, found := s.sizes[e.MediaBackup]; e.MediaBackup != "" && !found {
		lose(e.MediaBackup, ErrMissing.Error())
	} else if e.MediaBackup != "" && size != e.Media.Size {
		lose(e.MediaBackup, fmt.Sprintf("%v (%d bytes, the manifest says %d)", ErrSize, size, e.Media.Size))
	}
	for _, key := range e.Media.References {
		if _, found := s.sizes[key]; !found {
			lose(key, ErrMissing.Error()+", and it is needed by this later backup")
		}
	}
	return rows // which can be restored without the files
}

// Repair writes the manifests of a plan. It has the repository for itself, and
// leaves out what is not any more as it was planned. A manifest that cannot be
// read is kept under another name; nothing else is touched. It returns what it
// wrote, also with an error.
func (r *Repo) Repair(ctx context.Context, plan *RepairPlan) (done []Rebuild, err error) {
	ctx, unlock, err := r.Lock(ctx, Exclusive, "repair")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	var errs []error
	for _, re := range plan.Rebuild {
		wrote, err := r.replaceManifest(ctx, re)
		if wrote {
			done = append(done, re)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("rebuild manifest of backup %s: %w", re.ID, err))
		}
	}
	for _, id := range plan.guards {
		errs = append(errs, r.storage.Delete(ctx, guardKey(id)))
	}
	return done, errors.Join(append(errs, r.storage.Sync(ctx))...)
}

// replaceManifest writes one manifest, in an order in which an interruption
// leaves what was there, or the guard, or the new one.
func (r *Repo) replaceManifest(ctx context.Context, re Rebuild) (wrote bool, err error) {
	for _, e := range re.Manifest.Schemas {
		o, err := r.OpenData(ctx, re.Manifest, e)
		if err != nil {
			return false, err
		}
		if err := o.Close(); err != nil {
			return false, err
		}
	}
	var b bytes.Buffer
	if err := re.Manifest.Encode(&b); err != nil {
		return false, err
	}
	_, errRead := r.readManifest(ctx, re.Key)
	newer, isNewer := errors.AsType[*manifest.FormatError](errRead)
	switch {
	case errRead == nil:
		return false, nil // somebody else repaired it
	case isNewer:
		return false, newer
	case errors.Is(errRead, fs.ErrNotExist):
	default:
		if err := r.setAside(ctx, re); err != nil {
			return false, err
		}
	}
	if err := r.put(ctx, re.Key, b.Bytes()); err != nil {
		return false, err
	}
	if err := r.storage.Sync(ctx); err != nil {
		return false, err
	}
	return true, r.storage.Delete(ctx, guardKey(re.ID))
}

// setAside keeps a manifest under another name, and puts the guard in its place.
func (r *Repo) setAside(ctx context.Context, re Rebuild) error {
	content, err := r.read(ctx, re.Key)
	if err != nil {
		return err
	}
	for n := 1; ; n++ {
		name := re.Key + brokenSuffix
		if n > 1 {
			name += fmt.Sprintf("-%d", n)
		}
		err := r.put(ctx, name, content)
		if errors.Is(err, fs.ErrExist) {
			// A repair that was interrupted may have put it there.
			if there, errRead := r.read(ctx, name); errRead != nil || !bytes.Equal(there, content) {
				continue
			}
			err = nil
		}
		if err != nil {
			return err
		}
		break
	}
	if err := r.put(ctx, guardKey(re.ID), []byte(guardText)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := r.storage.Sync(ctx); err != nil {
		return err
	}
	return r.storage.Delete(ctx, re.Key)
}

// read reads a whole manifest, whatever it holds.
func (r *Repo) read(ctx context.Context, key string) ([]byte, error) {
	o, err := r.storage.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	return io.ReadAll(io.NewSectionReader(o, 0, o.Size()))
}
