package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// restoreMode is what to do with a restore point.
type restoreMode string

// The modes.
const (
	modeLive   restoreMode = "live"   // in the place of the live schema
	modeBeside restoreMode = "beside" // under another name
	modeTables restoreMode = "tables" // some tables, into a schema of their own
)

// choice is what the user picked.
type choice struct {
	Schema string
	Point  restorePoint // of the schema; its place and backup say where it is
	Mode   restoreMode
	As     string   // modeBeside: the name to restore under
	Tables []string // modeTables: at least one
}

// liveFacts is what the picker tells of the database as it is now.
type liveFacts interface {
	// Schemas tells how much each schema holds.
	Schemas(ctx context.Context) ([]pg.LiveSize, error)
	// Tables tells how much each table of a schema holds, and whether the rows
	// were counted or are estimates.
	Tables(ctx context.Context, schema string) (tables []pg.LiveTable, exact bool, err error)
}

// liveDatabase reads the facts from a server, which it connects to when it is
// first asked.
type liveDatabase struct {
	server *pg.Server
	conn   *pgx.Conn
}

// connectPatience is how long the picker waits for a database that it can do
// without.
const connectPatience = 5 * time.Second

func (d *liveDatabase) connect(ctx context.Context) error {
	if d.conn != nil && !d.conn.IsClosed() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	conn, err := d.server.Connect(ctx)
	d.conn = conn
	return err
}

// Schemas reads the statistics.
func (d *liveDatabase) Schemas(ctx context.Context) ([]pg.LiveSize, error) {
	if err := d.connect(ctx); err != nil {
		return nil, err
	}
	return pg.LiveSizes(ctx, d.conn)
}

// Tables counts where that is cheap.
func (d *liveDatabase) Tables(ctx context.Context, schema string) ([]pg.LiveTable, bool, error) {
	if err := d.connect(ctx); err != nil {
		return nil, false, err
	}
	tables, err := pg.LiveTables(ctx, d.conn, schema)
	if err != nil {
		return nil, false, err
	}
	exact, err := pg.CountLive(ctx, d.conn, schema, tables)
	return tables, exact, err
}

// close ends the connection.
func (d *liveDatabase) close() { pg.Close(d.conn) }

// picker asks what to restore, one question after another.
type picker struct {
	*app
	live liveFacts

	schemas   map[string]pg.LiveSize // that are live; nil: the database did not tell
	unknown   string                 // why it did not
	tables    []pg.LiveTable         // of the schema that was chosen
	counted   bool
	notSaved  map[string][]restorePoint // by schema, those that cannot be restored
	tenants   []string                  // schemas with a point that can be restored
	of        map[string][]restorePoint // by schema, those points, newest first
	saved     []manifest.Table          // of the point that was chosen
	savedFrom string                    // which point that is

	choice  choice
	command func(choice) string
}

// pick lets the user choose on the terminal what to restore. Where there is no
// terminal the error is wrong usage and names the flags; where the user leaves
// it matches ui.ErrLeft. A database that cannot be reached is told and left out.
// cmd is the command that runs, whose flags the equivalent command line repeats.
// names are the only schemas or tenants to choose from; none: all.
func (a *app) pick(ctx context.Context, cmd *cobra.Command, places []place, live liveFacts, names []string) (choice, error) {
	if !a.ui().CanAsk() {
		return choice{}, errNoSource()
	}
	points, broken, err := restorePoints(ctx, places, names, a.now())
	if err != nil {
		return choice{}, err
	}
	if points, err = a.pointsFrom(places[0], points); err != nil {
		return choice{}, err
	}
	for _, b := range broken {
		a.ui().Warnf("backup %s is left out: its manifest cannot be read: %v", ui.Safe(b.ID), b.Err)
	}
	p := &picker{app: a, live: live, command: func(c choice) string { return commandLine(cmd, c) }}
	if err := p.sort(points); err != nil {
		return choice{}, fmt.Errorf("%s: %w", places[0].Repo.Location(), err)
	}
	if err := p.lookAtDatabase(ctx); err != nil {
		return choice{}, err
	}
	if len(names) == 0 || len(p.tenants) > 1 {
		return p.run(ctx, 0)
	}
	p.choice.Schema = p.tenants[0]
	if err := p.lookAtTenant(ctx); err != nil {
		return choice{}, err
	}
	return p.run(ctx, 1)
}

// sort parts what can be restored from what cannot.
func (p *picker) sort(points []restorePoint) error {
	p.of, p.notSaved = map[string][]restorePoint{}, map[string][]restorePoint{}
	for _, point := range points {
		switch {
		case point.State != stateOK:
			p.notSaved[point.Schema] = append(p.notSaved[point.Schema], point)
		case usable(point.backup.Manifest):
			if len(p.of[point.Schema]) == 0 {
				p.tenants = append(p.tenants, point.Schema)
			}
			p.of[point.Schema] = append(p.of[point.Schema], point)
		}
	}
	if len(p.tenants) == 0 {
		return &hintedError{err: errors.New("there is no backup to restore from"), hint: "--repository says where backups are; tenantkeep list shows what is wrong with them"}
	}
	return nil
}

func (p *picker) lookAtDatabase(ctx context.Context) error {
	sizes, err := p.live.Schemas(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		p.unknown = err.Error()
		p.ui().Warnf("the database cannot be asked what it holds now: %v", err)
		return nil
	}
	p.schemas = map[string]pg.LiveSize{}
	for _, s := range sizes {
		p.schemas[s.Schema] = s
	}
	return nil
}

// run asks question after question from one of them on, and goes back where the
// user wants to.
func (p *picker) run(ctx context.Context, at int) (choice, error) {
	questions := []func(context.Context) error{p.askTenant, p.askPoint, p.askMode, p.askDetails, p.agree}
	back := false
	for at < len(questions) {
		if at == 3 && p.choice.Mode == modeLive { // which has no details
			if back {
				at--
			} else {
				at++
			}
			continue
		}
		err := questions[at](ctx)
		back = errors.Is(err, ui.ErrBack)
		switch {
		case back:
			at--
		case errors.Is(err, errOnceMore):
			at = 0
		case err != nil:
			return choice{}, err
		default:
			at++
		}
	}
	return p.choice, nil
}

// askTenant shows the tenants that can be restored with what they hold now.
func (p *picker) askTenant(ctx context.Context) error {
	menu := ui.Menu{
		Title: "Which tenant is to be restored?", Subject: "Tenant", Find: true,
		Columns: []ui.Column{
			{Title: "schema"},
			{Title: "rows now", Right: true},
			{Title: "size now", Right: true},
			{Title: "points", Right: true},
			{Title: "newest"},
		},
	}
	if p.unknown != "" {
		menu.Notes = append(menu.Notes, "The database did not answer: what the tenants hold now is not known.")
	}
	if n := p.withoutPoint(); n > 0 {
		menu.Notes = append(menu.Notes, fmt.Sprintf("%s of the database %s no restore point.", ui.Plural(int64(n), "schema"), has(n)))
	}
	for i, schema := range p.tenants {
		points := p.of[schema]
		rows, size := "?", "?"
		if p.schemas != nil {
			rows, size = "not there", ""
			if live, ok := p.schemas[schema]; ok {
				rows, size = about(live.Rows, false), ui.Bytes(live.Bytes)
			}
		}
		if schema == p.choice.Schema {
			menu.Start = i
		}
		menu.Also = append(menu.Also, points[0].Tenant)
		menu.Rows = append(menu.Rows, []string{schema, rows, size, ui.Count(int64(len(points))), ui.Age(newestPoint(points).Taken, p.now())})
	}
	i, err := p.ui().Choose(ctx, menu)
	if err != nil {
		return err
	}
	if p.choice.Schema != p.tenants[i] {
		p.choice = choice{}
		p.tables, p.counted = nil, false
	}
	p.choice.Schema = p.tenants[i]
	return p.lookAtTenant(ctx)
}

func has(n int) string {
	if n == 1 {
		return "has"
	}
	return "have"
}

// newestPoint passes over rollback points, which are no backups that somebody
// relies on, where there is another one.
func newestPoint(points []restorePoint) restorePoint {
	for _, point := range points {
		if !point.Rollback {
			return point
		}
	}
	return points[0]
}

// withoutPoint counts live schemas that nothing can bring back.
func (p *picker) withoutPoint() int {
	n := 0
	for schema := range p.schemas {
		if len(p.of[schema]) == 0 && !pg.IsOwn(schema) {
			n++
		}
	}
	return n
}

// about writes a number of rows, with a mark where it is an estimate.
func about(rows int64, exact bool) string {
	if exact || rows == 0 {
		return ui.Count(rows)
	}
	return "~" + ui.Count(rows)
}

// lookAtTenant reads what the tables of the chosen tenant hold now.
func (p *picker) lookAtTenant(ctx context.Context) error {
	if _, there := p.schemas[p.choice.Schema]; !there || p.tables != nil {
		return nil
	}
	tables, counted, err := p.live.Tables(ctx, p.choice.Schema)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		p.ui().Warnf("the rows of schema %s cannot be counted: %v", ui.Safe(p.choice.Schema), err)
	}
	p.tables, p.counted = tables, counted
	return nil
}

// rowsNow sums up the rows of the chosen tenant; ok is false where they are not
// known.
func (p *picker) rowsNow() (rows int64, ok bool) {
	for _, t := range p.tables {
		rows += t.Rows
	}
	return rows, p.tables != nil
}

// since tells how many rows were added or are gone since a backup.
func since(then, now int64, exact bool) string {
	mark := ""
	if !exact {
		mark = "~"
	}
	switch d := now - then; {
	case d > 0:
		return mark + "+" + ui.Count(d)
	case d < 0:
		return mark + ui.Count(d)
	default:
		return mark + "0"
	}
}

// askPoint shows the restore points of the tenant.
func (p *picker) askPoint(ctx context.Context) error {
	points := p.of[p.choice.Schema]
	menu := ui.Menu{
		Title: "Which restore point of " + ui.Safe(p.choice.Schema) + "?", Subject: "Restore point", Find: true, Back: true,
		Columns: []ui.Column{
			{Title: "taken (UTC)"},
			{Title: "age"},
			{Title: "type"},
			{Title: "rows", Right: true},
			{Title: "since then", Right: true},
			{Title: "stored", Right: true},
		},
	}
	now, known := p.rowsNow()
	switch {
	case known && p.counted:
		menu.Notes = append(menu.Notes, fmt.Sprintf("Now it holds %s.", ui.Plural(now, "row")))
	case known:
		menu.Notes = append(menu.Notes, fmt.Sprintf("Now it holds about %s, by the server's statistics.", ui.Plural(now, "row")))
	case p.schemas != nil:
		menu.Notes = append(menu.Notes, "It is not in the database now.")
	}
	if lost := p.notSaved[p.choice.Schema]; len(lost) > 0 {
		menu.Notes = append(menu.Notes, fmt.Sprintf("%s not shown, the newest of %s: it is %s.",
			ui.Plural(int64(len(lost)), "point"), lost[0].Taken.Format("2006-01-02 15:04"), lost[0].State))
	}
	begin := p.choice.Point
	if begin.Manifest == "" {
		begin = newestPoint(points)
	}
	for i, point := range points {
		rows, changed := "?", ""
		if point.Rows != nil {
			rows = ui.Count(*point.Rows)
			if known {
				changed = since(*point.Rows, now, p.counted)
			}
		}
		if point.Manifest == begin.Manifest {
			menu.Start = i
		}
		menu.Rows = append(menu.Rows, []string{
			point.Taken.Format("2006-01-02 15:04:05"), ui.Age(point.Taken, p.now()), point.kind(), rows, changed, ui.Bytes(point.BytesStored),
		})
	}
	i, err := p.ui().Choose(ctx, menu)
	if err != nil {
		return err
	}
	p.choice.Point = points[i]
	return nil
}

// askMode asks what to do with the restore point.
func (p *picker) askMode(ctx context.Context) error {
	schema := ui.Safe(p.choice.Schema)
	live := "put it in the place of " + schema + ", which stays as a rollback point"
	if _, there := p.schemas[p.choice.Schema]; p.schemas != nil && !there {
		live = "bring " + schema + " back, which is not there now"
	}
	modes := []restoreMode{modeLive, modeBeside, modeTables}
	menu := ui.Menu{
		Title: "What is to be done with it?", Subject: "To do", Back: true,
		Columns: []ui.Column{{}, {Text: true}},
		Rows: [][]string{
			{"live", live},
			{"beside", "restore it under another name, and leave " + schema + " alone"},
			{"tables", "restore some tables into a schema of their own, to compare"},
		},
		Start: max(0, slices.Index(modes, p.choice.Mode)),
	}
	i, err := p.ui().Choose(ctx, menu)
	if err != nil {
		return err
	}
	p.choice.Mode = modes[i]
	if p.choice.Mode != modeBeside {
		p.choice.As = ""
	}
	if p.choice.Mode != modeTables {
		p.choice.Tables = nil
	}
	return nil
}

func (p *picker) askDetails(ctx context.Context) error {
	if p.choice.Mode == modeBeside {
		return p.askName(ctx)
	}
	return p.askTables(ctx)
}

// askName asks under which name to restore.
func (p *picker) askName(ctx context.Context) error {
	if p.choice.As == "" {
		p.choice.As = p.proposal()
	}
	name, err := p.ui().Ask(ctx, ui.Question{
		Title: "Under which name?", Subject: "New schema", Value: p.choice.As, Check: p.checkName, Back: true,
		Note: "A schema of this name is made. It must not exist yet.",
	})
	if err != nil {
		return err
	}
	p.choice.As = name
	return nil
}

// maxName is how many bytes a name may have in PostgreSQL.
const maxName = 63

// proposal is the schema's name with the day of the restore point, and a number
// where that is taken. A name that cannot be shown as it is cannot be edited
// either.
func (p *picker) proposal() string {
	name := p.choice.Schema
	if ui.Safe(name) != name {
		name = "restored"
	}
	day := p.choice.Point.Taken.Format("_20060102")
	for n := 1; ; n++ {
		suffix := day
		if n > 1 {
			suffix += "_" + strconv.Itoa(n)
		}
		stem := name
		for len(stem)+len(suffix) > maxName {
			_, size := utf8.DecodeLastRuneInString(stem)
			stem = stem[:len(stem)-size]
		}
		if _, taken := p.schemas[stem+suffix]; !taken {
			return stem + suffix
		}
	}
}

// checkName refuses what cannot be the name of a new schema.
func (p *picker) checkName(name string) error {
	_, taken := p.schemas[name]
	switch {
	case name == "":
		return errors.New("give a name")
	case len(name) > maxName:
		return fmt.Errorf("a name has at most %d bytes, and this one has %d", maxName, len(name))
	case !utf8.ValidString(name) || strings.ContainsRune(name, 0):
		return errors.New("this is no name that PostgreSQL can keep")
	case strings.HasPrefix(name, "pg_") || name == "information_schema":
		return errors.New("this name belongs to PostgreSQL itself")
	case pg.IsOwn(name):
		return errors.New("this is what tenantkeep calls its own schemas")
	case taken || name == p.choice.Schema:
		return fmt.Errorf("a schema %s exists already", ui.Safe(name))
	}
	return nil
}

// askTables shows the tables that the restore point holds.
func (p *picker) askTables(ctx context.Context) error {
	if err := p.readTables(ctx); err != nil {
		if ctx.Err() != nil {
			return err
		}
		p.ui().Warnf("the tables of this restore point cannot be read: %v", err)
		return ui.ErrBack
	}
	menu := ui.Menu{
		Title: "Which tables of " + ui.Safe(p.choice.Schema) + "?", Subject: "Tables", Find: true, Back: true,
		Columns: []ui.Column{{Title: "table"}, {Title: "rows then", Right: true}, {Title: "rows now", Right: true}, {Title: "since then", Right: true}, {Title: "text", Right: true}},
	}
	now := map[string]int64{}
	for _, t := range p.tables {
		now[t.Name] = t.Rows
	}
	for i, t := range p.saved {
		rows, changed := "?", ""
		if n, there := now[t.Name]; there {
			rows, changed = about(n, p.counted), since(t.Rows, n, p.counted)
		} else if p.schemas != nil {
			rows = "not there"
		}
		if slices.Contains(p.choice.Tables, t.Name) {
			menu.Marked = append(menu.Marked, i)
		}
		menu.Rows = append(menu.Rows, []string{t.Name, ui.Count(t.Rows), rows, changed, ui.Bytes(t.Bytes)})
	}
	chosen, err := p.ui().ChooseMany(ctx, menu)
	if err != nil {
		return err
	}
	p.choice.Tables = nil
	for _, i := range chosen {
		p.choice.Tables = append(p.choice.Tables, p.saved[i].Name)
	}
	return nil
}

// readTables reads from the index of the data file which tables there are.
func (p *picker) readTables(ctx context.Context) (err error) {
	from := p.choice.Point.Manifest + "\x00" + p.choice.Schema
	if p.savedFrom == from {
		return nil
	}
	m := p.choice.Point.backup.Manifest
	if m.Format == 0 {
		return errors.New("a dump of the original system is restored whole: choose another name, and copy what you need from there")
	}
	object, err := p.choice.Point.place.Repo.OpenData(ctx, m, p.choice.Point.entry)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, object.Close()) }()
	file, err := datafile.Open(object, object.Size())
	if err != nil {
		return err
	}
	p.saved = nil
	for _, t := range file.Index.Tables {
		if t.Schema == "" || t.Schema == p.choice.Schema {
			p.saved = append(p.saved, t)
		}
	}
	if len(p.saved) == 0 {
		return errors.New("it holds none")
	}
	slices.SortFunc(p.saved, func(x, y manifest.Table) int { return strings.Compare(x.Name, y.Name) })
	p.savedFrom = from
	return nil
}

// errOnceMore begins with the first question again.
var errOnceMore = errors.New("once more")

// agree shows what will be done, and the command that does the same.
func (p *picker) agree(ctx context.Context) error {
	fmt.Fprintf(p.ui().Stderr(), "\n%s\nThe same without questions:\n  %s\n\n", p.summary(), p.command(p.choice))
	i, err := p.ui().Choose(ctx, ui.Menu{
		Title: "Go on with this?", Back: true, Columns: []ui.Column{{}, {Text: true}},
		Rows: [][]string{{"yes", ""}, {"no", "choose something else"}},
	})
	if err == nil && i == 1 {
		return errOnceMore
	}
	return err
}

// summary puts then and now side by side.
func (p *picker) summary() string {
	c := p.choice
	var b strings.Builder
	line := func(title, format string, args ...any) {
		fmt.Fprintf(&b, "%-14s %s\n", title, fmt.Sprintf(format, args...))
	}
	line("Restore", "%s, as it was %s, %s", ui.Safe(c.Schema), c.Point.Taken.Format(stampLayout+" UTC"), ui.Age(c.Point.Taken, p.now()))
	line("From", "%s %s", c.Point.kind(), ui.Safe(c.Point.Manifest))
	if c.Point.Rows != nil && c.Point.Tables != nil {
		line("Then", "%s, %s, %s stored", ui.Plural(*c.Point.Tables, "table"), ui.Plural(*c.Point.Rows, "row"), ui.Bytes(c.Point.BytesStored))
	}
	if now, known := p.rowsNow(); known {
		text := ui.Plural(int64(len(p.tables)), "table") + ", "
		if !p.counted {
			text += "about "
		}
		text += ui.Plural(now, "row")
		if c.Point.Rows != nil {
			text += " (" + since(*c.Point.Rows, now, p.counted) + ")"
		}
		line("Now", "%s", text)
	}
	switch c.Mode {
	case modeBeside:
		line("Into", "a new schema %s; %s is left alone", ui.Safe(c.As), ui.Safe(c.Schema))
	case modeTables:
		line("Only", "%s, into a schema of their own", ui.Plural(int64(len(c.Tables)), "table"))
	default:
		if _, there := p.schemas[c.Schema]; there {
			line("Into", "the place of %s, which stays as a rollback point", ui.Safe(c.Schema))
		} else {
			line("Into", "schema %s", ui.Safe(c.Schema))
		}
	}
	return b.String()
}

// args are the flags that say the same as the choice.
func (c choice) args() []string {
	args := []string{"--manifest", c.Point.Manifest, "--schema", c.Schema}
	if c.As != "" {
		args = append(args, "--as", c.As)
	}
	for _, t := range c.Tables {
		args = append(args, "--table", t)
	}
	return args
}

// commandLine is what to type in a shell to restore the choice without being
// asked: the command, the flags that were given to it, and those of the choice.
func commandLine(cmd *cobra.Command, c choice) string {
	words := []string{"tenantkeep", "restore"}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		switch f.Name {
		case "manifest", "schema", "as", "table", "yes":
			return
		}
		values := []string{f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			values = list.GetSlice()
		}
		for _, value := range values {
			if f.NoOptDefVal != "" && value == f.NoOptDefVal {
				words = append(words, "--"+f.Name)
			} else {
				words = append(words, shellWord("--"+f.Name+"="+value))
			}
		}
	})
	for _, arg := range c.args() {
		words = append(words, shellWord(arg))
	}
	if c.Mode == modeLive {
		words = append(words, "--yes")
	}
	return strings.Join(words, " ")
}

// shellWord quotes a word for a shell, so that it means itself and cannot write
// to the terminal: what is not printable is written as $'…' with its bytes,
// which bash, zsh, ksh and the POSIX shells since 2024 read.
func shellWord(word string) string {
	ordinary := func(r rune) bool {
		return r < utf8.RuneSelf && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:@%+=,", r))
	}
	hidden := !utf8.ValidString(word) || strings.ContainsFunc(word, func(r rune) bool { return !strconv.IsPrint(r) })
	switch {
	case hidden:
		return "$'" + escapeShell(word) + "'"
	case word != "" && word[0] != '=' && !strings.ContainsFunc(word, func(r rune) bool { return !ordinary(r) }):
		return word
	default:
		return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
}

// escapeShell writes what stands inside $'…'. Octal escapes have three digits
// at most, so that no digit behind is taken for one of theirs.
func escapeShell(word string) string {
	var b strings.Builder
	for len(word) > 0 {
		r, size := utf8.DecodeRuneInString(word)
		switch {
		case r == '\'' || r == '\\':
			b.WriteString(`\` + string(r))
		case r == utf8.RuneError && size == 1, !strconv.IsPrint(r):
			for i := range size {
				fmt.Fprintf(&b, `\%03o`, word[i])
			}
		default:
			b.WriteString(word[:size])
		}
		word = word[size:]
	}
	return b.String()
}
