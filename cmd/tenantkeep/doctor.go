package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/media"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgdump"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/restore"
	"github.com/tenantkeep/tenantkeep/internal/storage"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

func newDoctorCommand(a *app) *cobra.Command {
	var form format
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Tell whether everything is in place",
		Long: `Tell whether everything is in place for backups and restores: the connection, the
rights of the role, pg_dump, the lock table, the repository, schemas that
restores left in the database, notifiers and hooks. Each finding comes with its
remedy. Nothing is changed, and no message is sent.

Exit codes: 0 all is well, 1 something is missing, 2 wrong usage.`,
		Example: "  tenantkeep doctor",
		GroupID: groupProtect,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.settings(cmd)
			if err != nil {
				return err
			}
			return runDoctor(cmd.Context(), a, cmd, cfg, form)
		},
	}
	form.addFlag(cmd.Flags(), formatTable, formatJSON)
	config.AddFlags(cmd.Flags(), "database-url", "media-root", "media-pattern", "media-folder", "pg-dump")
	config.AddFlags(cmd.Flags(), notifyFlags...)
	return cmd
}

// The states of a finding.
const (
	findingOK      = "ok"
	findingNote    = "note"    // nothing is wrong, but somebody should know
	findingProblem = "problem" // backups or restores fail because of it
)

// findingJSON is what doctor found in one place. Fields are only ever added.
type findingJSON struct {
	Check  string `json:"check"`
	State  string `json:"state"`
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

// doctor gathers findings.
type doctor struct {
	*app
	cfg  *config.Config
	list []findingJSON
}

func (d *doctor) find(check, state, text, remedy string) {
	d.list = append(d.list, findingJSON{check, state, text, remedy})
}

// failed adds an error, with its hint as the remedy.
func (d *doctor) failed(check string, err error) {
	remedy := ""
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) {
		remedy = hinted.Hint()
	}
	d.find(check, findingProblem, err.Error(), remedy)
}

func runDoctor(ctx context.Context, a *app, cmd *cobra.Command, cfg *config.Config, form format) error {
	d := &doctor{app: a, cfg: cfg}
	if err := d.database(ctx); err != nil {
		return err
	}
	if err := d.repository(ctx); err != nil {
		return err
	}
	if err := d.notifiers(ctx, cmd); err != nil {
		return err
	}
	d.hookPrograms()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	problems := 0
	for _, f := range d.list {
		if f.State == findingProblem {
			problems++
		}
	}
	if form.is(formatJSON) {
		if err := a.ui().JSONLine(d.list); err != nil {
			return err
		}
	} else if err := d.show(); err != nil {
		return err
	}
	if problems > 0 {
		return fmt.Errorf("%s found", ui.Plural(int64(problems), "problem"))
	}
	a.ui().Printf("Everything is in place.")
	return nil
}

// show writes a line for each finding, and the remedy below it.
func (d *doctor) show() error {
	var out strings.Builder
	for _, f := range d.list {
		fmt.Fprintf(&out, "%-7s  %-10s  %s\n", f.State, f.Check, f.Text)
		if f.Remedy != "" {
			fmt.Fprintf(&out, "%19s  %s\n", "", f.Remedy)
		}
	}
	_, err := io.WriteString(d.stdout, out.String())
	return err
}

// database checks what the connection, and the role, are good for.
func (d *doctor) database(ctx context.Context) error {
	target, err := server(d.cfg)
	if err != nil {
		return err
	}
	conn, err := target.Connect(ctx)
	if err != nil {
		d.failed("connection", err)
		return nil
	}
	defer pg.Close(conn)
	info, err := pg.ReadInfo(ctx, conn)
	if err != nil {
		return err
	}
	d.find("connection", findingOK, fmt.Sprintf("%s, PostgreSQL %s", target, info.ServerVersion), "")
	if info.ReadOnly {
		d.find("server", findingNote, "a standby, which only reads: it can be backed up, not restored into", "")
	}
	d.program(ctx, info)
	if err := d.rights(ctx, conn, info); err != nil {
		return err
	}
	d.find("lock table", findingOK, fmt.Sprintf("room for %s locks", ui.Count(int64(info.LockSlots))), "")
	return d.remains(ctx, target)
}

func (d *doctor) program(ctx context.Context, info *pg.Info) {
	program, err := pgdump.Find(ctx, d.cfg.PgDump, info.ServerVersionNum)
	switch {
	case err != nil:
		d.failed("pg_dump", err)
	case program.Warning(info.ServerVersionNum) != "":
		d.find("pg_dump", findingNote, program.Warning(info.ServerVersionNum), "")
	default:
		d.find("pg_dump", findingOK, fmt.Sprintf("%s, version %s", program.Path, program.Version), "")
	}
}

// rights checks what the role may read, and whether it may do more than it
// needs.
func (d *doctor) rights(ctx context.Context, conn pg.Querier, info *pg.Info) error {
	var superuser, create bool
	var denied, filtered int64
	err := conn.QueryRow(ctx, `
		SELECT r.rolsuper, pg_catalog.has_database_privilege(current_database(), 'CREATE'),
			(SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
				WHERE c.relkind IN ('r', 'p', 'S', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
				AND NOT (pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT'))),
			(SELECT count(*) FROM pg_catalog.pg_class c WHERE c.relrowsecurity AND NOT r.rolsuper AND NOT r.rolbypassrls
				AND (c.relforcerowsecurity OR NOT pg_catalog.pg_has_role(c.relowner, 'USAGE')))
		FROM pg_catalog.pg_roles r WHERE r.rolname = current_user`).Scan(&superuser, &create, &denied, &filtered)
	if err != nil {
		return fmt.Errorf("read the rights of the role: %w", err)
	}
	role := pg.Identifier(info.User)
	switch {
	case denied > 0:
		d.find("backup", findingProblem, fmt.Sprintf("role %s may not read %s", role, ui.Plural(denied, "table")), fmt.Sprintf("GRANT pg_read_all_data TO %s", role))
	case filtered > 0:
		d.find("backup", findingProblem, fmt.Sprintf("row-level security would hide rows of %s from role %s", ui.Plural(filtered, "table"), role),
			fmt.Sprintf("ALTER ROLE %s BYPASSRLS", role))
	default:
		d.find("backup", findingOK, fmt.Sprintf("role %s may read all tables", role), "")
	}
	if superuser {
		d.find("role", findingNote, fmt.Sprintf("role %s is a superuser, which a backup does not need", role),
			"for backups: CREATE ROLE tenantkeep LOGIN BYPASSRLS IN ROLE pg_read_all_data")
	}
	if create {
		d.find("restore", findingOK, fmt.Sprintf("role %s may create schemas", role), "")
	} else {
		d.find("restore", findingNote, fmt.Sprintf("role %s may not create schemas: it can back up, not restore", role),
			fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s, or restore as another role", pg.Identifier(info.Name), role))
	}
	return nil
}

// remains names the schemas that restores left.
func (d *doctor) remains(ctx context.Context, target *pg.Server) error {
	files, err := knownMedia(d.cfg)
	if err != nil {
		return err
	}
	if files != nil {
		usable, err := d.mediaRoot(ctx, target, files)
		if err != nil {
			return err
		}
		if !usable {
			files = nil
		}
	}
	list, err := restore.DropOwn(ctx, restore.DropOptions{Server: target, Before: d.now(), DryRun: true, Media: files})
	if err != nil {
		return err
	}
	for _, s := range list {
		remedy := ""
		switch s.Kind {
		case restore.KindStaged:
			remedy = "tenantkeep restore --resume swaps it in; tenantkeep cleanup removes it once it is older than --keep-replaced"
		case restore.KindRemains:
			remedy = "a restore is at work at this moment, or has died: then the next one, or tenantkeep cleanup, removes it"
		}
		check := "schemas"
		if s.Kind == restore.KindFolder {
			check = "media"
			remedy = "tenantkeep cleanup removes it, with its schema where it has one"
		}
		d.find(check, findingNote, fmt.Sprintf("%s: %s (%s)", ui.Safe(s.Name), reasonOf(s, d.now()), ui.Bytes(s.Bytes)), remedy)
	}
	filling, err := d.filling(ctx, target)
	if err != nil {
		return err
	}
	unfinished, err := restore.ListUnfinished(ctx, target)
	if err != nil {
		return err
	}
	for _, u := range unfinished {
		d.find("schemas", findingProblem, fmt.Sprintf("%s: a restore of %s into it is at work at this moment, or has died over it: no backup saves it as it is", ui.Safe(u.Schema), ui.Safe(u.Backup)),
			"if no restore is at work, "+pg.UnfinishedRemedy(u.Schema))
	}
	if len(list)+len(unfinished) == 0 && !filling {
		d.find("schemas", findingOK, "restores have left nothing", "")
	}
	return nil
}

// filling tells of a startup that fills the database, or has died over it.
func (d *doctor) filling(ctx context.Context, target *pg.Server) (found bool, err error) {
	conn, err := target.Connect(ctx)
	if err != nil {
		return false, err
	}
	defer pg.Close(conn)
	there, err := restore.ReadContents(ctx, conn)
	if err != nil || there.Filling == nil {
		return false, err
	}
	d.find("schemas", findingProblem, fmt.Sprintf("what is in the database is only a part of %s: %s began to restore it %s, and gave its last sign of life %s",
		ui.Safe(there.Filling.Source), ui.Safe(there.Filling.Host), ui.Age(there.Filling.Begun, d.now()), ui.Age(there.Filling.Alive, d.now())),
		"wait for it; if it has died, tenantkeep startup begins again. No backup is made until then")
	return true, nil
}

// mediaRoot checks that the tenants' files can be read, and whether a swap of
// folders is still to be done.
func (d *doctor) mediaRoot(ctx context.Context, target *pg.Server, files *media.Root) (usable bool, err error) {
	if err := files.Ready(ctx); err != nil {
		d.failed("media", err)
		return false, nil
	}
	conn, err := target.Connect(ctx)
	if err != nil {
		return false, err
	}
	defer pg.Close(conn)
	list, err := restore.LeftMedia(ctx, conn, files)
	if err != nil {
		d.failed("media", err)
		return false, nil
	}
	d.find("media", findingOK, fmt.Sprintf("%s can be read", files.Dir()), "")
	for _, l := range list {
		if l.Pending {
			d.find("media", findingProblem, fmt.Sprintf("the files of schema %s were not put in their place, because a restore was interrupted: they are in %s", ui.Safe(l.Tenant), ui.Safe(l.Name)),
				"tenantkeep cleanup puts them there, and so does the next restore or rollback; what is written into the present folder until then is kept beside them")
		}
	}
	return true, nil
}

// repository checks that it is there and can be written to.
func (d *doctor) repository(ctx context.Context) error {
	repository, store, err := d.openRepository(d.cfg)
	if err != nil {
		return err
	}
	if err := probe(ctx, store); err != nil {
		d.failed("repository", err)
		return nil
	}
	backups, err := repository.List(ctx)
	if err != nil {
		d.failed("repository", err)
		return nil
	}
	if len(backups) == 0 {
		d.find("repository", findingNote, fmt.Sprintf("%s has no backup yet", repository.Location()), "tenantkeep backup takes one")
		return nil
	}
	d.find("repository", findingOK, fmt.Sprintf("%s: %s, the newest %s", repository.Location(), ui.Plural(int64(len(backups)), "backup"), ui.Age(backups[0].Time(), d.now())), "")
	d.original(backups)
	return nil
}

// original says how backups of the original system are read.
func (d *doctor) original(backups []repo.Backup) {
	var old, bare int64
	for _, b := range backups {
		switch {
		case b.Bare:
			bare++
			old++
		case b.Manifest != nil && b.Manifest.Format == 0:
			old++
		}
	}
	if old == 0 {
		return
	}
	text := fmt.Sprintf("%s of the original system, whose clock is read as %s", ui.Plural(old, "backup"), d.cfg.TimeZone)
	if bare > 0 {
		text += fmt.Sprintf("; %d of them without a manifest", bare)
	}
	d.find("repository", findingNote, text, "if that clock was in another zone, set time-zone; tenantkeep verify reads the dumps to their end")
}

// probe begins to write an object and gives it up.
func probe(ctx context.Context, store storage.Storage) error {
	w, err := store.Create(ctx, "runs/doctor.json")
	if err != nil {
		return err
	}
	return w.Abort()
}
