package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/tenantkeep/tenantkeep/internal/baseline"
	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/retention"
	"github.com/tenantkeep/tenantkeep/internal/storage"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// ListOptions are the flags of the command list.
type ListOptions struct {
	Format           format
	Schemas          []string // by name of the schema or the tenant; empty: all
	Type             string   // empty: full and incremental
	Limit            int      // 0: no limit
	IncludeBaselines bool
}

// AddFlags adds the flags.
func (o *ListOptions) AddFlags(flags *pflag.FlagSet) {
	o.Format.addFlag(flags, formatTable, formatJSON, formatCSV)
	flags.StringArrayVar(&o.Schemas, "schema", nil, "only what backups hold of this schema or tenant `NAME`; repeat it for more")
	flags.StringVar(&o.Type, "type", "", "only backups of this `TYPE`: full, incremental or baseline")
	flags.IntVar(&o.Limit, "limit", 0, "only the newest `N`")
	flags.BoolVar(&o.IncludeBaselines, "include-baselines", false, "baselines too")
}

// check refuses values that mean nothing.
func (o *ListOptions) check() error {
	switch manifest.Type(o.Type) {
	case "", manifest.Full, manifest.Incremental, manifest.Baseline:
	default:
		return usagef("--type: %q is not one of full, incremental and baseline", o.Type)
	}
	if o.Limit < 0 {
		return usagef("--limit: %d is negative", o.Limit)
	}
	return nil
}

func newListCommand(a *app) *cobra.Command {
	var opts ListOptions
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"list_backups"},
		Short:   "List the backups of a repository",
		Long: `List the backups of a repository, the newest first.

A backup is "ok" when all is there that it needs, "partial" when some tenants
could not be saved, "incomplete" when files are missing or have another size,
and "broken" when its manifest cannot be read. What is inside the files is for
"tenantkeep verify" to check.

STORED is what the backup has written, TEXT what a restore of it loads. REFS are
the earlier backups that it needs. KEPT FOR are the rules by which cleanup would
keep it now, under the retention policy of the settings; "-" is that it would go.`,
		Example: `  tenantkeep list
  tenantkeep list --schema customer_a --limit 10
  tenantkeep list --format json`,
		GroupID: groupInspect,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := opts.check(); err != nil {
				return err
			}
			cfg, err := a.settings(cmd)
			if err != nil {
				return err
			}
			return runList(cmd.Context(), a, cfg, opts)
		},
	}
	opts.AddFlags(cmd.Flags())
	config.AddFlags(cmd.Flags(), append(retentionSettings, "baseline-dir")...)
	return cmd
}

// The states of a listed backup.
const (
	stateOK         = "ok"
	statePartial    = "partial"
	stateIncomplete = "incomplete"
	stateBroken     = "broken"
)

// listed is one backup of a list. Fields are only ever added.
type listed struct {
	ID            string             `json:"id"`
	Path          string             `json:"path"` // of the manifest in the repository, or of a baseline's file
	Time          time.Time          `json:"time"` // as well as it is known where the manifest is broken
	Type          string             `json:"type"`
	Template      string             `json:"template,omitempty"` // of a baseline of a tenant
	State         string             `json:"state"`
	Problem       string             `json:"problem,omitempty"` // why it is not ok
	Tenants       int                `json:"tenants"`           // core is none
	Core          bool               `json:"core"`
	Tables        *int64             `json:"tables"` // null where the original system made the backup
	Rows          *int64             `json:"rows"`
	BytesStored   int64              `json:"bytes_stored"` // media among it
	MediaStored   int64              `json:"media_bytes_stored"`
	MediaFiles    *int64             `json:"media_files"` // null: a backup without media
	BytesText     *int64             `json:"bytes_text"`  // as COPY text, uncompressed
	AgeSeconds    int64              `json:"age_seconds"`
	RetentionDays int                `json:"retention_days"`
	Compression   string             `json:"compression,omitempty"`
	Database      string             `json:"database,omitempty"`
	Schemas       []backupSchema     `json:"schemas"`
	Failures      []manifest.Failure `json:"failures"`
	References    []string           `json:"references"`  // ids of the earlier backups that it needs
	Pin           *listedPin         `json:"pin"`         // null: not pinned
	Legacy        bool               `json:"legacy"`      // the original system made it
	NoManifest    bool               `json:"no_manifest"` // it is put together from dumps that no manifest names
	Kept          *bool              `json:"kept"`        // by the next cleanup; null where retention does not decide about it
	KeptFor       []string           `json:"kept_for"`    // the rules
	Reason        string             `json:"reason,omitempty"`

	count int // of schemas
}

// listedPin is a pin of a listed backup.
type listedPin struct {
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
}

// backupSchema is one schema of a listed backup.
type backupSchema struct {
	Schema      string `json:"schema"`
	Tenant      string `json:"tenant"`
	File        string `json:"file,omitempty"`
	Rows        *int64 `json:"rows"`
	BytesStored int64  `json:"bytes_stored"`
	Media       string `json:"media,omitempty"` // archive of its files
	MediaFiles  int64  `json:"media_files,omitempty"`
	MediaBytes  int64  `json:"media_bytes,omitempty"` // of these files
}

// listGCPercent is by how much memory may grow before garbage is collected.
const listGCPercent = 400

// runList lists the backups of the repository.
func runList(ctx context.Context, a *app, cfg *config.Config, opts ListOptions) error {
	// What is read here lives until the end: to look for garbage in it is most of
	// the time that a list of many backups takes.
	defer debug.SetGCPercent(debug.SetGCPercent(listGCPercent))
	repository, store, err := a.openRepository(cfg)
	if err != nil {
		return err
	}
	found, err := readCatalog(ctx, repository, store)
	if err != nil {
		return err
	}
	all := found.backups
	pins, err := repository.Pins(ctx)
	if err != nil {
		return err
	}
	decided := make(chan []retention.Decision, 1)
	go func() { decided <- a.fates(ctx, cfg, repository, all, pins) }()
	files := &fileCheck{sizes: found.sizes}
	var backups []listed
	var places []int // in all
	for i, s := range all {
		if b, ok := opts.describe(s, files); ok {
			backups, places = append(backups, b), append(places, i)
		}
	}
	decisions := <-decided
	for n, i := range places {
		if p, ok := pins[all[i].ID]; ok {
			backups[n].Pin = &listedPin{p.Reason, p.By, p.At}
		}
		if decisions != nil {
			backups[n].judged(decisions[i])
		}
	}
	if opts.wantBaselines() && len(opts.Schemas) == 0 {
		baselines, err := a.baselineFiles(ctx, cfg.BaselineDir)
		if err != nil {
			return err
		}
		backups = append(backups, baselines...)
	}
	slices.SortStableFunc(backups, func(x, y listed) int { return y.Time.Compare(x.Time) })
	if opts.Limit > 0 && len(backups) > opts.Limit {
		backups = backups[:opts.Limit]
	}
	now := a.now()
	for i := range backups {
		backups[i].AgeSeconds = int64(now.Sub(backups[i].Time).Seconds())
	}
	if err := show(a.ui(), opts.Format, backups, now); err != nil {
		return fmt.Errorf("write list: %w", err)
	}
	for _, problem := range found.problems {
		a.ui().Warnf("%s", problem)
	}
	a.tellStrays(found.strays)
	for _, id := range slices.Sorted(maps.Keys(pins)) {
		if !slices.ContainsFunc(all, func(b repo.Backup) bool { return b.ID == id }) {
			a.ui().Warnf("%s is pinned, but is not there: tenantkeep unpin %s", ui.Safe(id), shellWord(id))
		}
	}
	explain(a.ui(), opts.Format, store.Location(), len(all), backups)
	return nil
}

// catalog is what a list is made from.
type catalog struct {
	backups  []repo.Backup
	strays   []repo.Backup
	sizes    map[string]int64 // of files, by key
	problems []string         // with what is none and lies among them
}

// readCatalog reads what backups there are and, at the same time, what files.
func readCatalog(ctx context.Context, repository *repo.Repo, store storage.Storage) (*catalog, error) {
	c := new(catalog)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		c.sizes, c.problems, err = fileSizes(ctx, store)
		return err
	})
	group.Go(func() (err error) {
		c.backups, err = repository.Catalog(ctx)
		return err
	})
	group.Go(func() (err error) {
		c.strays, err = repository.Strays(ctx)
		return err
	})
	return c, group.Wait()
}

// tellStrays tells of manifests that keep files without being backups.
func (a *app) tellStrays(strays []repo.Backup) {
	if n := int64(len(strays)); n > 0 {
		a.ui().Warnf("%s under other names or in other folders are no backups, and keep the files that they name; the first is %s",
			ui.Plural(n, "manifest"), ui.Safe(strays[0].Key))
	}
}

// fates are what the next cleanup would do with the backups; nil where the
// settings of retention make no sense, of which the user is warned: it is no
// reason to show nothing.
func (a *app) fates(ctx context.Context, cfg *config.Config, r *repo.Repo, all []repo.Backup, pins map[string]repo.Pin) []retention.Decision {
	o, err := retentionOptions(cfg, a.now())
	if err == nil {
		var plan *retention.Plan
		if plan, err = decide(ctx, r, all, pins, o); err == nil {
			return plan.Decisions
		}
	}
	a.ui().Warnf("what cleanup would keep is not shown: %v", err)
	return nil
}

// judged fills in what retention says.
func (b *listed) judged(d retention.Decision) {
	b.Kept, b.Reason = &d.Keep, d.Why()
	b.References = append(b.References, d.Needs...)
	if d.Keep {
		for _, r := range d.Reasons {
			b.KeptFor = append(b.KeptFor, string(r.Rule))
		}
	}
}

// fileSizes returns the sizes of the data files and media archives by key, and
// tells of what cannot be opened.
func fileSizes(ctx context.Context, store storage.Storage) (sizes map[string]int64, problems []string, err error) {
	sizes = map[string]int64{}
	for _, prefix := range []string{"data/", "media/"} {
		err := store.List(ctx, prefix, func(info storage.Info) error {
			if info.Problem != "" {
				problems = append(problems, ui.Safe(info.Key)+" cannot be used: "+info.Problem)
			} else {
				sizes[info.Key] = info.Size
			}
			return nil
		})
		if err != nil {
			return nil, nil, fmt.Errorf("list files of backups: %w", err)
		}
	}
	return sizes, problems, nil
}

// wantBaselines reports whether baselines are asked for.
func (o *ListOptions) wantBaselines() bool {
	return o.Type == string(manifest.Baseline) || (o.IncludeBaselines && o.Type == "")
}

// describe returns the row of a manifest, and whether it is asked for. A
// broken one always is, unless the user looks for something in particular:
// nobody knows what it would be.
func (o *ListOptions) describe(s repo.Backup, files *fileCheck) (listed, bool) {
	b := newListed(s)
	m := s.Manifest
	b.NoManifest, b.Legacy = s.Bare, m != nil && m.Format == 0
	if s.Err != nil {
		b.State, b.Problem = stateBroken, s.Err.Error()
		return b, len(o.Schemas) == 0 && o.Type == ""
	}
	b.Type, b.RetentionDays, b.Compression = string(m.BackupType), m.RetentionDays, m.Compression
	if m.Database != nil {
		b.Database = m.Database.Name
	}
	if m.BackupType == manifest.Baseline && len(m.Schemas) == 1 && !m.Schemas[0].IsCore() {
		b.Template = m.Schemas[0].Tenant
	}
	b.addSchemas(m, o.Schemas, files, o.Format.is(formatJSON))
	switch {
	case o.Type != "" && b.Type != o.Type,
		b.Type == string(manifest.Baseline) && !o.wantBaselines(),
		len(o.Schemas) > 0 && b.count+len(b.Failures) == 0:
		return b, false
	}
	return b, true
}

func newListed(s repo.Backup) listed {
	return listed{
		ID: s.ID, Path: s.Key, Time: s.Time().UTC(), State: stateOK,
		Schemas: []backupSchema{}, Failures: []manifest.Failure{}, References: []string{}, KeptFor: []string{},
	}
}

// fileCheck tells whether the files of entries are there. Most entries are the
// same as in the backup before, at the same place: the last answers are kept.
type fileCheck struct {
	sizes map[string]int64 // of all files, by key
	last  []checked
}

type checked struct {
	file    string
	size    int64
	missing []string
}

// missing returns what is not there, or of another size, of what the n-th entry
// of a manifest needs.
func (c *fileCheck) missing(m *manifest.Manifest, n int) []string {
	s := &m.Schemas[n]
	for len(c.last) <= n {
		c.last = append(c.last, checked{})
	}
	if last := &c.last[n]; s.MediaBackup == "" && s.Filepath != "" && last.file == s.Filepath && last.size == s.Size {
		return last.missing
	}
	var missing []string
	for _, key := range s.References {
		if _, found := c.sizes[key]; !found {
			missing = append(missing, key)
		}
	}
	if key, err := s.Key(m.Format); s.Filepath != "" && err == nil {
		if size, found := c.sizes[key]; !found || size != s.Size {
			missing = append(missing, key)
		}
	}
	if s.MediaBackup == "" {
		c.last[n] = checked{s.Filepath, s.Size, missing}
		return missing
	}
	if key, err := s.MediaKey(m.Format); err == nil {
		size, found := c.sizes[key]
		if s.Media == nil && !c.hasMedia(key) || s.Media != nil && (!found || size != s.Media.Size) {
			missing = append(missing, key)
		}
	}
	if s.Media != nil {
		for _, key := range s.Media.References {
			if _, found := c.sizes[key]; !found {
				missing = append(missing, key)
			}
		}
	}
	return missing
}

// lacks reports whether something of that is missing.
func (c *fileCheck) lacks(m *manifest.Manifest, n int) bool { return len(c.missing(m, n)) > 0 }

// hasMedia reports whether a media archive is there, or in its place the folder
// that the original system may have saved.
func (c *fileCheck) hasMedia(key string) bool {
	if _, found := c.sizes[key]; found {
		return true
	}
	for other := range c.sizes {
		if strings.HasPrefix(other, key+"/") {
			return true
		}
	}
	return false
}

// addSchemas fills in what the manifest holds of the named schemas, or of all,
// and whether their files are there; schema by schema where it is asked for.
func (b *listed) addSchemas(m *manifest.Manifest, names []string, files *fileCheck, each bool) {
	wanted := func(schema, tenant string) bool {
		return len(names) == 0 || slices.Contains(names, schema) || slices.Contains(names, tenant)
	}
	var tables, rows, text, mediaFiles, unsaved int64
	var missing map[string]bool
	for n := range m.Schemas {
		s := &m.Schemas[n]
		if !wanted(s.Schema, s.Tenant) {
			continue
		}
		for _, key := range files.missing(m, n) {
			if missing == nil {
				missing = map[string]bool{}
			}
			missing[key] = true
		}
		tables, rows, text = tables+s.Tables, rows+s.Rows, text+s.Bytes
		if wroteFile(m, s) {
			b.BytesStored += s.Size
		}
		if wroteMedia(m, s) {
			b.BytesStored += s.Media.Size
			b.MediaStored += s.Media.Size
		}
		if s.Media != nil {
			mediaFiles += s.Media.Files
			if s.Media.Failed > 0 {
				unsaved++
			}
		}
		b.count++
		if s.IsCore() {
			b.Core = true
		} else {
			b.Tenants++
		}
		if each {
			own := backupSchema{Schema: s.Schema, Tenant: s.Tenant, BytesStored: s.Size}
			if key, err := s.Key(m.Format); s.Filepath != "" && err == nil {
				own.File = key
			}
			if m.Format > 0 {
				own.Rows = &s.Rows
			}
			if key, err := s.MediaKey(m.Format); s.MediaBackup != "" && err == nil {
				own.Media = key
			}
			if s.Media != nil {
				own.MediaFiles, own.MediaBytes = s.Media.Files, s.Media.Bytes
			}
			b.Schemas = append(b.Schemas, own)
		}
	}
	if m.Format > 0 {
		b.Tables, b.Rows, b.BytesText = &tables, &rows, &text
	}
	if m.IncludeMedia && m.Format > 0 {
		b.MediaFiles = &mediaFiles
	}
	for _, f := range m.Failures {
		if wanted(f.Schema, f.Tenant) {
			b.Failures = append(b.Failures, f)
		}
	}
	if unsaved > 0 {
		b.State, b.Problem = statePartial, "media files of "+ui.Plural(unsaved, "schema")+" could not be saved"
	}
	if !m.Rebuilt.IsZero() {
		b.State, b.Problem = statePartial, "its manifest was rebuilt, and what had no file then is not in it"
	}
	if b.count == 0 && len(b.Failures) == 0 && len(names) == 0 {
		b.State, b.Problem = statePartial, "it holds no schema"
	}
	b.judge(missing)
}

// judge sets the state.
func (b *listed) judge(missing map[string]bool) {
	var problems []string
	if b.Problem != "" {
		problems = append(problems, b.Problem)
	}
	if n := len(b.Failures); n > 0 {
		b.State = statePartial
		problems = append(problems, ui.Plural(int64(n), "schema")+" could not be saved, the first is "+ui.Safe(b.Failures[0].Schema))
	}
	if n := len(missing); n > 0 {
		b.State = stateIncomplete
		first := slices.Min(slices.Collect(maps.Keys(missing)))
		problems = append(problems, ui.Plural(int64(n), "file")+" missing or of another size, the first is "+first)
	}
	b.Problem = strings.Join(problems, "; ")
}

// baselineFiles lists the baselines in their directory, that of core in any
// compression.
func (a *app) baselineFiles(ctx context.Context, dir string) ([]listed, error) {
	at, err := a.openPlace(dir, time.UTC)
	if err != nil {
		return nil, err
	}
	files, err := baseline.List(ctx, at.Store)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"baseline.sql.gz", "baseline.sql.zst"} { // of the original system
		info, err := os.Stat(filepath.Join(dir, name))
		if err == nil {
			files = append(files, baseline.File{Path: name, Size: info.Size(), Modified: info.ModTime()})
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list baselines: %w", err)
		}
	}
	var found []listed
	for _, f := range files {
		b := listed{
			ID: f.Path, Path: filepath.ToSlash(filepath.Join(dir, f.Path)), Time: f.Modified.UTC(), Type: string(manifest.Baseline), Template: f.Template, State: stateOK,
			Core: f.Template == "", BytesStored: f.Size, Schemas: []backupSchema{}, Failures: []manifest.Failure{}, References: []string{}, KeptFor: []string{},
		}
		if !b.Core {
			b.Tenants = 1
		}
		found = append(found, b)
	}
	return found, nil
}

// show writes the backups in the form that was asked for.
func show(u *ui.UI, form format, backups []listed, now time.Time) error {
	switch {
	case form.is(formatJSON):
		if backups == nil {
			backups = []listed{}
		}
		return u.JSON(backups)
	case form.is(formatCSV):
		return showCSV(u, backups)
	default:
		return showTable(u, backups, now)
	}
}

func showTable(u *ui.UI, backups []listed, now time.Time) error {
	table := ui.NewTable(
		ui.Column{Title: "backup"}, ui.Column{Title: "type"}, ui.Column{Title: "age"},
		ui.Column{Title: "tenants", Right: true}, ui.Column{Title: "rows", Right: true},
		ui.Column{Title: "stored", Right: true}, ui.Column{Title: "text", Right: true}, ui.Column{Title: "refs", Right: true},
		ui.Column{Title: "state", Tone: toneOf}, ui.Column{Title: "kept for"},
	)
	for _, b := range backups {
		keptFor := "-"
		if len(b.KeptFor) > 0 {
			keptFor = strings.Join(b.KeptFor, " ")
		}
		if b.State == stateBroken {
			table.Add(b.ID, "-", ui.Age(b.Time, now), "-", "-", "-", "-", "-", b.State, keptFor)
			continue
		}
		typ := b.Type
		if b.Template != "" {
			typ += " " + ui.Safe(b.Template)
		}
		table.Add(b.ID, typ, ui.Age(b.Time, now), ui.Count(int64(b.Tenants)), known(b.Rows, ui.Count),
			ui.Bytes(b.BytesStored), known(b.BytesText, ui.Bytes), ui.Count(int64(len(b.References))), b.State, keptFor)
	}
	return u.Table(table)
}

func toneOf(state string) ui.Tone {
	switch state {
	case stateOK:
		return ui.Good
	case statePartial:
		return ui.Warning
	default:
		return ui.Bad
	}
}

// known writes a number, or a dash where it is not known.
func known(n *int64, write func(int64) string) string {
	if n == nil {
		return "-"
	}
	return write(*n)
}

// showCSV writes numbers as they are, and nothing where they are not known.
func showCSV(u *ui.UI, backups []listed) error {
	w := csv.NewWriter(u.Stdout())
	digits := func(n *int64) string {
		if n == nil {
			return ""
		}
		return strconv.FormatInt(*n, 10)
	}
	records := [][]string{{
		"id", "time", "type", "state", "tenants", "core", "tables", "rows",
		"bytes_stored", "bytes_text", "age_seconds", "retention_days", "database", "path",
		"references", "pin", "kept_for",
	}}
	for _, b := range backups {
		pin := ""
		if b.Pin != nil {
			pin = b.Pin.Reason
		}
		records = append(records, []string{
			safeCell(b.ID), b.Time.Format(time.RFC3339), safeCell(b.Type), b.State, strconv.Itoa(b.Tenants), strconv.FormatBool(b.Core), digits(b.Tables), digits(b.Rows),
			strconv.FormatInt(b.BytesStored, 10), digits(b.BytesText), strconv.FormatInt(b.AgeSeconds, 10), strconv.Itoa(b.RetentionDays), safeCell(b.Database), safeCell(b.Path),
			strconv.Itoa(len(b.References)), safeCell(pin), strings.Join(b.KeptFor, " "),
		})
	}
	return w.WriteAll(records)
}

// safeCell makes a name safe to be written to a terminal, and to be opened in a
// spreadsheet, which takes what begins like a formula for one; JSON is the form that
// keeps every name as it is.
func safeCell(name string) string {
	if name == "" {
		return ""
	}
	name = ui.Safe(name)
	if strings.ContainsRune("=+-@", rune(name[0])) { // a tab is escaped already
		return "'" + name
	}
	return name
}

// explain says for people what the list alone does not.
func explain(u *ui.UI, form format, location string, manifests int, backups []listed) {
	for _, b := range backups {
		if b.State != stateOK {
			u.Warnf("backup %s is %s: %s", ui.Safe(b.ID), b.State, b.Problem)
		}
	}
	if bare := int64(len(slices.DeleteFunc(slices.Clone(backups), func(b listed) bool { return !b.NoManifest }))); bare > 0 && form.is(formatTable) {
		u.Printf("%s without a manifest: put together from dumps of the original system by the time in their names.", ui.Plural(bare, "backup"))
	}
	for _, b := range backups {
		if b.Pin != nil && form.is(formatTable) {
			u.Printf("%s is pinned: %s", ui.Safe(b.ID), pinText(repo.Pin{Reason: b.Pin.Reason, By: b.Pin.By, At: b.Pin.At}))
		}
	}
	switch {
	case manifests == 0 && len(backups) == 0:
		u.Printf("No backups yet in %s. The first is made with: tenantkeep backup", ui.Safe(location))
	case len(backups) == 0:
		u.Printf("None of the %s in %s is asked for.", ui.Plural(int64(manifests), "backup"), ui.Safe(location))
	case form.is(formatTable):
		u.Printf("%s in %s", ui.Plural(int64(len(backups)), "backup"), ui.Safe(location))
	}
}
