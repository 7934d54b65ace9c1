package repo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
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

	was []byte // the manifest that is there; nil: there is none
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
	sizes     map[string]int64              // of data files and media, by key
	data      []storage.Info                // data files
	media     []storage.Info                // media archives that no manifest names
	backups   []Backup                      // whose manifests can be read, the newest first
	readable  map[string]*manifest.Manifest // theirs, by id
	owned     map[string]bool               // data files that these name as their own
	named     map[string]bool               // and all that these name
	broken    map[string]Backup             // by id
	changed   map[string]*manifest.Manifest // of those, what the ones say that only fail their digest
	newer     map[string]bool               // by id, of a format that this version does not know
	marks     map[string]bool               // by id
	guards    map[string]bool               // by id
	removals  []removal
	elsewhere map[string]string    // keys of manifests in other places, by id
	unknown   map[string][]string  // keys of data files whose index cannot be read, by the id in their names
	lent      map[string]candidate // data files of earlier backups that changed manifests name, by key
	plan      *RepairPlan
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
		s.rebuild(group[0].index.Header.Backup, group, r.now())
	}
	for _, id := range slices.Sorted(maps.Keys(s.changed)) {
		if s.broken[id].Err != nil { // nothing is left of its own files
			s.rebuild(id, nil, r.now())
		}
	}
	for i := range s.plan.Rebuild {
		re := &s.plan.Rebuild[i]
		if re.Broken == "" {
			continue
		}
		if re.was, err = r.content(ctx, re.Key); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if err := r.findArchives(ctx, s, o); err != nil {
		return nil, err
	}
	s.judge()
	return s.plan, nil
}

func (r *Repo) survey(ctx context.Context) (*survey, error) {
	s := &survey{
		sizes: map[string]int64{}, readable: map[string]*manifest.Manifest{}, owned: map[string]bool{}, named: map[string]bool{},
		broken: map[string]Backup{}, changed: map[string]*manifest.Manifest{}, newer: map[string]bool{}, marks: map[string]bool{},
		guards: map[string]bool{}, elsewhere: map[string]string{}, unknown: map[string][]string{}, lent: map[string]candidate{}, plan: &RepairPlan{},
	}
	// In this order, so that a backup that ends meanwhile is found by its mark or
	// its manifest.
	for _, prefix := range []string{dataPrefix, mediaPrefix, runPrefix} {
		err := r.storage.List(ctx, prefix, func(i storage.Info) error {
			switch prefix {
			case runPrefix:
				s.marks[idOf(i.Key)] = true
				return nil
			case dataPrefix:
				s.data = append(s.data, i)
			case mediaPrefix:
				s.media = append(s.media, i)
			}
			if i.Problem == "" {
				s.sizes[i.Key] = i.Size
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list repository: %w", err)
		}
	}
	all, strays, err := r.read(ctx)
	if err != nil {
		return nil, err
	}
	if s.removals, err = r.removals(ctx); err != nil {
		return nil, err
	}
	strays = slices.DeleteFunc(strays, func(b Backup) bool { return b.Err != nil })
	for _, b := range strays {
		if b.Manifest.ID != "" {
			s.elsewhere[b.Manifest.ID] = b.Key
		}
	}
	for _, b := range all {
		if err := r.assess(ctx, s, b); err != nil {
			return nil, err
		}
	}
	inUse, err := namedBy(s.backups, strays)
	if err != nil {
		return nil, err
	}
	s.media = slices.DeleteFunc(s.media, func(i storage.Info) bool { return isNamed(inUse, i.Key) || i.Problem != "" })
	return s, r.resume(ctx, s)
}

// assess finds out what a manifest is worth.
func (r *Repo) assess(ctx context.Context, s *survey, b Backup) error {
	id, guard := strings.CutSuffix(b.ID+jsonSuffix, guardSuffix)
	_, newer := errors.AsType[*manifest.FormatError](b.Err)
	switch {
	case guard:
		s.guards[id] = true
	case b.Err == nil:
		s.backups = append(s.backups, b)
		s.readable[b.ID] = b.Manifest
		for _, key := range b.files() {
			s.named[key] = true
		}
		for _, key := range b.ownFiles() {
			s.owned[key] = true
		}
	case newer:
		s.newer[b.ID] = true
		s.lose(Loss{Backup: b.ID, File: b.Key, Problem: b.Err.Error()})
	default:
		s.broken[b.ID] = b
		if errors.Is(b.Err, manifest.ErrChanged) {
			return r.readChanged(ctx, s, b.ID, b.Key)
		}
	}
	return nil
}

// readChanged reads a manifest of a backup whatever its digest is. One that cannot
// be read is none.
func (r *Repo) readChanged(ctx context.Context, s *survey, id, key string) error {
	o, err := r.storage.Open(ctx, key)
	if err != nil {
		return ctx.Err()
	}
	defer o.Close()
	if m, err := manifest.DecodeChanged(io.NewSectionReader(o, 0, o.Size())); err == nil && m.Format > 0 && m.ID == id {
		s.changed[id] = m
	}
	return ctx.Err()
}

// resume finds repairs that were interrupted, and what they were about to replace.
func (r *Repo) resume(ctx context.Context, s *survey) error {
	for id := range s.guards {
		switch {
		case s.readable[id] != nil:
			s.plan.guards = append(s.plan.guards, id)
			continue
		case s.broken[id].Err != nil || s.newer[id]:
			continue
		}
		s.broken[id] = Backup{ID: id, Key: guardKey(id), Err: errors.New("a repair was interrupted while it rebuilt it")}
		aside := ""
		err := r.storage.List(ctx, manifestKey(id)+brokenSuffix, func(i storage.Info) error {
			if len(i.Key) >= len(aside) { // the last one
				aside = i.Key
			}
			return nil
		})
		if err == nil && aside != "" {
			err = r.readChanged(ctx, s, id, aside)
		}
		if err != nil {
			return err
		}
	}
	return nil
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

// ownFiles are those of them that its run wrote. What a rebuilt manifest has only
// noted as damaged is looked at again: somebody may have brought the file back.
func (b Backup) ownFiles() (keys []string) {
	for _, e := range b.Manifest.Schemas {
		if key, err := e.Key(b.Manifest.Format); err == nil && wrote(b.Manifest, e) {
			keys = append(keys, key)
		}
	}
	return keys
}

// wrote reports whether the file of an entry is that of the backup itself, rather
// than of an earlier one.
func wrote(m *manifest.Manifest, e manifest.Schema) bool {
	return e.Filepath != "" && (m.Format == 0 || e.Timestamp == m.ID)
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
	tail    string // hash of index and trailer; of data files
	damaged error  // what is wrong with its contents
}

// notKnown is what is wrong with a data file without an index.
const notKnown = "what it holds cannot be found out"

// candidates reads the data files that no manifest names as its own, and keeps
// those of runs that have no manifest that can be read, or only one that was
// rebuilt without them. That other backups refer to a file changes nothing.
func (r *Repo) candidates(ctx context.Context, s *survey, o RepairOptions) (list []candidate, err error) {
	lent := s.filesLent()
	for _, i := range s.data {
		if s.owned[i.Key] && !lent[i.Key] {
			continue
		}
		c := candidate{Info: i}
		c.index, err = r.dataIndex(ctx, i.Key)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		fits := !s.owned[i.Key] && s.isCandidate(c, err)
		if err != nil || !fits && !lent[i.Key] {
			continue
		}
		if err := r.hash(ctx, &c); err != nil {
			return nil, err
		}
		if lent[i.Key] {
			s.lent[i.Key] = c
		}
		if fits {
			list = append(list, c)
		}
	}
	return list, s.check(ctx, list, o)
}

// filesLent are the files of earlier backups that changed manifests name.
func (s *survey) filesLent() map[string]bool {
	lent := map[string]bool{}
	for _, m := range s.changed {
		for _, e := range m.Schemas {
			if e.Filepath != "" && !wrote(m, e) {
				lent[e.Filepath] = true
			}
		}
	}
	return lent
}

// isCandidate reports whether a manifest may be made of a data file that none names
// as its own, and tells why not where nobody refers to it. errIndex says that its
// index cannot be read.
func (s *survey) isCandidate(c candidate, errIndex error) bool {
	id, referred := runOf(c.Key), s.named[c.Key]
	unused := func(format string, args ...any) {
		if !referred {
			s.unused(c.Info, format, args...)
		}
	}
	switch {
	case s.newer[id]:
		return false
	case s.unfinished(id):
		unused("its run has not ended, or was killed before it did: the next backup removes what is left of it")
		return false
	case !referred && slices.ContainsFunc(s.removals, func(n removal) bool { return n.names(c.Key) }):
		unused("a cleanup was removing its backup and was interrupted: the next one ends that")
		return false
	case errIndex != nil:
		if !referred {
			s.lose(Loss{Backup: id, File: c.Key, Problem: notKnown + ": " + errIndex.Error()})
		}
		s.unknown[id] = append(s.unknown[id], c.Key)
		return false
	}
	h := c.index.Header
	m := s.readable[h.Backup]
	switch {
	case !wholeID.MatchString(h.Backup) || h.Schema == "" || h.Started.IsZero():
		if !referred {
			s.lose(Loss{Backup: id, Schema: h.Schema, Tenant: h.Tenant, File: c.Key, Problem: "no manifest names it, and it does not say which backup it belongs to"})
		}
	case s.newer[h.Backup]:
	case s.unfinished(h.Backup):
		unused("its run has not ended, or was killed before it did")
	case m != nil && m.Rebuilt.IsZero():
		unused("the manifest of backup %s does not name it", h.Backup)
	case m == nil && s.elsewhere[h.Backup] != "":
		s.lose(Loss{
			Backup: h.Backup, Schema: h.Schema, Tenant: h.Tenant, File: c.Key,
			Problem: fmt.Sprintf("its manifest is not where it belongs: move %s to %s", s.elsewhere[h.Backup], manifestKey(h.Backup)),
		})
	default:
		return true
	}
	return false
}

// check reads files to their end, and notes what is wrong with them.
func (s *survey) check(ctx context.Context, list []candidate, o RepairOptions) error {
	var files []Backup
	seen := map[string]bool{}
	for _, c := range slices.Concat(list, slices.Collect(maps.Values(s.lent))) {
		if c.damaged == nil && !seen[c.Key] {
			seen[c.Key] = true
			files = append(files, Backup{ID: c.Key, Manifest: manifestOf(c)})
		}
	}
	if len(files) == 0 {
		return nil
	}
	damaged, err := o.Check(ctx, files)
	if err != nil {
		return err
	}
	for n := range list {
		if err := damaged[list[n].Key]; err != nil {
			list[n].damaged = err
		}
	}
	for key, c := range s.lent {
		if err := damaged[key]; err != nil {
			c.damaged = err
			s.lent[key] = c
		}
	}
	return nil
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

// hash reads a whole file, and of a data file what lies behind its frames once
// more. What cannot be read of it is damage.
func (r *Repo) hash(ctx context.Context, c *candidate) error {
	object, err := r.storage.Open(ctx, c.Key)
	if err != nil {
		c.damaged = err
		return ctx.Err()
	}
	defer object.Close()
	read := func(from int64) string {
		digest, at, err := hashRange(ctx, object, from, object.Size(), nil)
		if err != nil {
			c.damaged = cmp.Or(c.damaged, fmt.Errorf("read at byte %d: %w", at, err))
			return ""
		}
		return hashPrefix + digest
	}
	c.hash = read(0)
	if c.index != nil {
		c.tail = read(c.index.End())
	}
	return context.Cause(ctx)
}

// groupByRun sorts the files of each run, the oldest run first.
func groupByRun(files []candidate) [][]candidate {
	slices.SortStableFunc(files, func(a, b candidate) int {
		x, y := a.index.Header, b.index.Header
		return cmp.Or(strings.Compare(x.Backup, y.Backup), compareSchemas(x.Schema, y.Schema),
			trueLast(a.damaged != nil, b.damaged != nil), y.Snapshot.Time.Compare(x.Snapshot.Time)) // of one schema twice the newer first
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

// compareSchemas sorts core first, and the others by their names.
func compareSchemas(a, b string) int {
	return cmp.Or(trueLast(a != manifest.CoreSchema, b != manifest.CoreSchema), strings.Compare(a, b))
}

func trueLast(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}

// rebuild makes the manifest of one run of its files, of what a manifest says that
// only fails its digest, as far as the files agree, and of one that was rebuilt
// before.
func (s *survey) rebuild(id string, files []candidate, now time.Time) {
	if s.mixed(files) {
		return
	}
	text, before := s.changed[id], s.readable[id]
	var m *manifest.Manifest
	switch {
	case before != nil:
		m = copyOf(before)
	case len(files) > 0:
		m = manifestOf(files[0])
		m.Schemas = []manifest.Schema{}
		for _, c := range files { // the moment of the backup is the first; schemas that changed were taken later
			if snapshot := c.index.Header.Snapshot; snapshot.Time.Before(m.Snapshot.Time) {
				m.Snapshot = &snapshot
			}
		}
	default:
		m = copyOf(text)
		m.Schemas = []manifest.Schema{}
	}
	if text != nil {
		adopt(m, text, len(files) > 0)
	}
	m.Rebuilt = now.UTC().Truncate(time.Second)
	added := s.addFiles(m, files)
	if before != nil && added == 0 {
		return
	}
	if text != nil {
		s.addNamed(m, text)
	}
	s.addUnknown(m)
	slices.SortStableFunc(m.Schemas, func(a, b manifest.Schema) int { return compareSchemas(a.Schema, b.Schema) })
	re := Rebuild{ID: id, Key: manifestKey(id), Manifest: m}
	broken := s.broken[id]
	delete(s.broken, id)
	if broken.Err != nil {
		re.Broken = broken.Err.Error()
	}
	if len(m.Schemas) == 0 {
		return // it would be a backup of nothing
	}
	switch {
	case before != nil:
		re.Broken = fmt.Sprintf("it was rebuilt before, without %d of them", added)
	case m.BackupType == manifest.Incremental && text == nil:
		re.Note = "schemas in which nothing had changed have no file of this backup and are not in it"
	}
	if err := m.Validate(); err != nil {
		s.lose(Loss{Backup: id, File: re.Key, Problem: "no manifest can be made of its files: " + err.Error()})
		return
	}
	s.plan.Rebuild = append(s.plan.Rebuild, re)
}

// mixed reports whether the files of one run are of several databases.
func (s *survey) mixed(files []candidate) bool {
	for _, c := range files {
		h, first := c.index.Header, files[0].index.Header
		if h.Database.Name == first.Database.Name && h.Database.SystemIdentifier == first.Database.SystemIdentifier {
			continue
		}
		for _, c := range files {
			h := c.index.Header
			s.lose(Loss{Backup: h.Backup, Schema: h.Schema, Tenant: h.Tenant, File: c.Key, Problem: "files of different backups carry this id: they were copied together from several repositories"})
		}
		return true
	}
	return false
}

// copyOf is a copy that can be added to.
func copyOf(m *manifest.Manifest) *manifest.Manifest {
	c := *m
	c.Schemas, c.Failures, c.Unreadable = slices.Clone(m.Schemas), slices.Clone(m.Failures), slices.Clone(m.Unreadable)
	c.LeftOut = slices.Clone(m.LeftOut)
	return &c
}

// adopt takes over from a changed manifest what no data file tells. filed says that
// the rest is from one. Days that it does not confirm let no backup go early.
func adopt(m, text *manifest.Manifest, filed bool) {
	m.BackupType, m.Parent, m.Finished, m.IncludeMedia = text.BackupType, text.Parent, text.Finished, text.IncludeMedia
	m.RollbackPoint, m.Failures, m.Unreadable = text.RollbackPoint, slices.Clone(text.Failures), slices.Clone(text.Unreadable)
	m.LeftOut = slices.Clone(text.LeftOut)
	m.Retention = text.Retention
	if m.Retention == manifest.RetainExactly && text.RetentionDays > 0 && (!filed || m.RetentionDays != text.RetentionDays) {
		m.Retention = manifest.RetainAtLeast
	}
}

// addFiles adds the files of the run itself that are not in the manifest yet, and
// returns how many schemas it added.
func (s *survey) addFiles(m *manifest.Manifest, files []candidate) (added int) {
	taken := map[string]bool{}
	for _, e := range m.Schemas {
		taken[e.Schema] = true
	}
	for _, c := range files {
		h := c.index.Header
		if h.Type == manifest.Incremental { // which takes new schemas in full
			m.BackupType = manifest.Incremental
		}
		switch {
		case taken[h.Schema]:
			s.unused(c.Info, "another file of backup %s holds the same schema, as it was later", h.Backup)
			continue
		case c.damaged != nil:
			s.fail(m, h.Schema, h.Tenant, c.Key, "its data file is damaged: "+c.damaged.Error())
		default:
			m.Failures = slices.DeleteFunc(m.Failures, func(f manifest.Failure) bool { return f.Schema == h.Schema })
			m.Unreadable = slices.DeleteFunc(m.Unreadable, func(key string) bool { return key == c.Key })
			m.Schemas = append(m.Schemas, entryOf(c, m.Snapshot))
			added++
		}
		taken[h.Schema] = true
	}
	return added
}

// addNamed adds the schemas that a changed manifest names and whose files are those
// of earlier backups, as far as they are what it says, and notes what it names and
// is not there.
func (s *survey) addNamed(m, text *manifest.Manifest) {
	for _, e := range text.Schemas {
		if slices.ContainsFunc(m.Schemas, func(have manifest.Schema) bool { return have.Schema == e.Schema }) ||
			slices.ContainsFunc(m.Failures, func(f manifest.Failure) bool { return f.Schema == e.Schema }) {
			continue
		}
		c, found := s.lent[e.Filepath]
		_, there := s.sizes[e.Filepath]
		switch {
		case !there:
			s.fail(m, e.Schema, e.Tenant, e.Filepath, ErrMissing.Error())
		case !found:
			s.fail(m, e.Schema, e.Tenant, e.Filepath, "its data file is not of this backup, or cannot be read")
		case c.damaged != nil:
			s.fail(m, e.Schema, e.Tenant, e.Filepath, "its data file is damaged: "+c.damaged.Error())
		case c.hash != e.Hash || c.index.Header.Schema != e.Schema:
			s.fail(m, e.Schema, e.Tenant, e.Filepath, "its data file, which is of an earlier backup, is not what the manifest says")
		default:
			kept := entryOf(c, &c.index.Header.Snapshot)
			kept.Tenant, kept.Snapshot = e.Tenant, e.Snapshot
			m.Schemas = append(m.Schemas, kept)
		}
	}
}

// fail notes a schema that the manifest lacks. Its file, where there is one, is kept.
func (s *survey) fail(m *manifest.Manifest, schema, tenant, file, problem string) {
	s.lose(Loss{Backup: m.ID, Schema: schema, Tenant: tenant, File: file, Problem: problem})
	m.Failures = append(slices.DeleteFunc(m.Failures, func(f manifest.Failure) bool { return f.Schema == schema }),
		manifest.Failure{Schema: schema, Tenant: tenant, Error: problem, File: file})
}

// addUnknown adds the files that nobody knows what is in.
func (s *survey) addUnknown(m *manifest.Manifest) {
	for _, key := range s.unknown[m.ID] {
		if !slices.Contains(m.Unreadable, key) && !slices.ContainsFunc(m.Failures, func(f manifest.Failure) bool { return f.File == key }) {
			m.Unreadable = append(m.Unreadable, key)
		}
	}
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
		switch {
		case o.Media == nil:
			continue
		case n < 0:
			if err := r.lostArchive(ctx, s, i, o); err != nil {
				return err
			}
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
			s.loseArchive(i, info)
			continue
		}
		info.Size, info.Hash = i.Size, c.hash
		m.IncludeMedia = true
		m.Schemas[e].MediaBackup, m.Schemas[e].Media = i.Key, &info.Media
	}
	return nil
}

// lostArchive tells of an archive of which no manifest that is rebuilt is the backup:
// only files of tenants had changed when that was taken.
func (r *Repo) lostArchive(ctx context.Context, s *survey, i storage.Info, o RepairOptions) error {
	id := runOf(i.Key)
	switch m := s.readable[id]; {
	case s.newer[id], s.elsewhere[id] != "", s.broken[id].Err != nil, m != nil && m.Rebuilt.IsZero():
		return nil // told already, or nothing was lost
	case s.unfinished(id):
		return nil // what is left of it goes
	case slices.ContainsFunc(s.removals, func(n removal) bool { return n.names(i.Key) }):
		return nil
	}
	info, err := r.archiveInfo(ctx, i, o)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err == nil { // else it is most likely one of the original system
		s.loseArchive(i, info)
	}
	return nil
}

func (s *survey) loseArchive(i storage.Info, info ArchiveInfo) {
	s.lose(Loss{
		Backup: info.Backup, Schema: info.Schema, Tenant: info.Tenant, File: i.Key,
		Problem: "no data file is left that tells the rows of that moment: its files can be taken out with tar, until cleanup --remove-orphans removes it",
	})
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
		Schema: h.Schema, Tenant: h.Tenant, Filename: path.Base(c.Key), Filepath: c.Key, Size: c.Size, Hash: c.hash, IndexHash: c.tail,
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
		problem := "its manifest cannot be read, and no data file is left of which it could be rebuilt: "
		if bare := s.bareOf(id); bare != "" {
			problem = "its manifest cannot be read; the dumps of the original system of that time are backup " + bare + ", so that it can be moved away: "
		}
		s.lose(Loss{Backup: id, File: b.Key, Problem: problem + b.Err.Error()})
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
	completed := map[string]*manifest.Manifest{}
	for _, re := range s.plan.Rebuild {
		completed[re.ID] = re.Manifest
	}
	for _, b := range s.backups {
		again := completed[b.ID] != nil
		if again {
			b.Manifest = completed[b.ID]
		}
		for _, f := range b.Manifest.Failures {
			if f.File != "" {
				s.lose(Loss{Backup: b.ID, Schema: f.Schema, Tenant: f.Tenant, File: f.File, Problem: f.Error})
			}
		}
		for _, key := range b.Manifest.Unreadable {
			s.lose(Loss{Backup: b.ID, File: key, Problem: notKnown})
		}
		if !again {
			count(b.ID, b.Manifest, func(e manifest.Schema) bool { return s.complete(b, e) && !b.Manifest.DefinitionsOnly() })
		}
	}
	for _, re := range s.plan.Rebuild {
		count(re.ID, re.Manifest, func(manifest.Schema) bool { return true })
	}
	slices.SortStableFunc(s.plan.Lost, func(a, b Loss) int {
		return cmp.Or(strings.Compare(a.Tenant, b.Tenant), strings.Compare(a.Schema, b.Schema), strings.Compare(b.Backup, a.Backup), strings.Compare(a.File, b.File))
	})
	s.plan.Lost = slices.Compact(s.plan.Lost)
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

// bareOf is the id of a bare backup of the same time as a manifest; empty: there
// is none.
func (s *survey) bareOf(id string) string {
	for _, b := range s.backups {
		if b.Bare && strings.HasPrefix(b.ID, id+bareSuffix) {
			return b.ID
		}
	}
	return ""
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
	m, errRead := r.readManifest(ctx, re.Key)
	if newer, ok := errors.AsType[*manifest.FormatError](errRead); ok {
		return false, newer
	}
	switch there, err := r.content(ctx, re.Key); {
	case errRead == nil && m.Rebuilt.IsZero():
		return false, nil // somebody brought it back
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return false, err
	case !bytes.Equal(there, re.was):
		return false, nil // it is not as it was planned any more
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
	for n := 1; ; n++ {
		name := re.Key + brokenSuffix
		if n > 1 {
			name += fmt.Sprintf("-%d", n)
		}
		err := r.put(ctx, name, re.was)
		if errors.Is(err, fs.ErrExist) {
			// A repair that was interrupted may have put it there.
			if there, errRead := r.content(ctx, name); errRead != nil || !bytes.Equal(there, re.was) {
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

// content reads a whole manifest, whatever it holds.
func (r *Repo) content(ctx context.Context, key string) ([]byte, error) {
	o, err := r.storage.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	return io.ReadAll(io.NewSectionReader(o, 0, o.Size()))
}
