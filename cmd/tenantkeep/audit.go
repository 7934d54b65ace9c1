package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tenantkeep/tenantkeep/internal/audit"
	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// onlyReads reports whether a command changes nothing in a database or a
// repository, the way it is called, or says by itself when it begins to. What is
// not known here changes something.
func onlyReads(cmd *cobra.Command) bool {
	if slices.Contains([]string{"list", "verify", "health", "export", "doctor", "notify", "demo", "version", "schedule", "serve", "show"}, cmd.Name()) {
		return true
	}
	for _, name := range []string{"dry-run", "list", "list-available"} {
		if on, err := cmd.Flags().GetBool(name); err == nil && on {
			return true
		}
	}
	return false
}

// deletes reports whether a command removes for good what nothing brings back.
func deletes(cmd *cobra.Command) bool { return cmd.Name() == "cleanup" }

// beginAudit notes in the audit trail that a command begins to change something.
//
// A trail that cannot be written keeps nobody from a backup, or from a restore
// on the day on which everything is broken: they lose nothing, and are told of
// loudly. It does keep a cleanup, which is never urgent, from deleting what
// nobody could trace, unless it is a full disk that the cleanup may free.
func (a *app) beginAudit(cmd *cobra.Command, cfg *config.Config) error {
	if a.audit != nil {
		return nil
	}
	trail := audit.Open(cfg.LogDir, a.now)
	run, err := trail.Begin(cmd.Context(), describe(cmd, cfg))
	a.audit = run
	if err == nil {
		return nil
	}
	if deletes(cmd) && !isFull(err) {
		a.audit = nil
		return noTrail(err)
	}
	a.ui().Warnf("this run is not in the audit trail: %v", err)
	return nil
}

// noTrail is the error of a command that deletes and cannot be traced.
func noTrail(err error) error {
	return &hintedError{
		err:  fmt.Errorf("nothing is deleted without an audit trail: %w", err),
		hint: "--log-dir (BACKUP_LOG_DIR) says where it is written",
	}
}

// isFull reports whether a disk, or the share of it that the user may have, is full.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// endAudit notes how the command ended.
func (a *app) endAudit(ctx context.Context, err error) {
	if a.audit == nil {
		return
	}
	if errEnd := a.audit.End(ctx, resultOf(ctx, err), exitCode(ctx, err), err); errEnd != nil {
		a.ui().Warnf("the audit trail lacks the end of this run: %v", errEnd)
	}
	a.audit = nil
}

// resultOf says in a word how a command ended.
func resultOf(ctx context.Context, err error) audit.Result {
	switch exitCode(ctx, err) {
	case exitDone:
		return audit.OK
	case exitPartial:
		return audit.Partial
	case exitInterrupted:
		return audit.Interrupted
	default:
		return audit.Failed
	}
}

// noteAudit adds what is only known while a command works to what the audit
// trail says of its end.
func (a *app) noteAudit(note func(*audit.Record)) {
	if a.audit != nil {
		note(&a.audit.Record)
	}
}

// describe says what a command is about to do, and on what.
func describe(cmd *cobra.Command, cfg *config.Config) audit.Record {
	r := audit.Record{Command: cmd.Name(), Repository: absolute(cfg.Repository)}
	switch args := cmd.Flags().Args(); {
	case cmd.Name() == "pin" || cmd.Name() == "unpin":
		r.Backup = strings.Join(args, " ")
	case cmd.Name() == "startup": // they are a command
	default:
		r.Schemas = args
	}
	told := map[string]bool{}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		key, setting := config.SettingOf(f)
		switch {
		case setting && cfg.Given(key) && !told[key]:
			r.Arguments = append(r.Arguments, "--"+key+"="+cfg.Value(key))
			told[key] = true
		case setting || !f.Changed:
		default:
			r.Arguments = append(r.Arguments, "--"+f.Name+"="+f.Value.String())
		}
		if f.Name == "database-url" {
			if target, err := server(cfg); err == nil {
				r.Database = target.String()
			}
		}
	})
	r.Arguments = append(r.Arguments, cmd.Flags().Args()...)
	if names, err := cmd.Flags().GetStringArray("schema"); err == nil {
		r.Schemas = append(r.Schemas, names...)
	} else if cmd.Flags().Lookup("schema") != nil {
		r.Schemas = append(r.Schemas, cfg.Schemas...)
	}
	if id, err := cmd.Flags().GetString("manifest"); err == nil {
		r.Backup = id
	}
	return r
}

// absolute is a path that means the same wherever it is read.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// auditError says that the audit trail is not as it was written.
type auditError struct{ report *audit.Report }

func (e *auditError) Error() string {
	return fmt.Sprintf("audit trail %s: %v", e.report.File, e.report.Problem)
}

// Unwrap returns the line that does not fit.
func (e *auditError) Unwrap() error { return e.report.Problem }

// Hint says what to do.
func (*auditError) Hint() string {
	return "keep the file as it is and find out who can write to it; once it is moved away, the next command begins a new trail"
}

// checkAudit checks the chain of the audit trail; nil: there is no trail.
func (a *app) checkAudit(cfg *config.Config) (*audit.Report, error) {
	report, err := audit.Check(audit.Open(cfg.LogDir, a.now).Path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return report, err
}

// tellGaps warns of backups of which the audit trail of a directory does not tell
// and should: the chain does not show what is missing at its end, nor all of it.
func (a *app) tellGaps(trail *audit.Report, dir string, backups []repo.Backup) {
	var newest repo.Backup
	n := int64(0)
	for _, b := range backups {
		if b.Manifest == nil || b.Manifest.Format == 0 {
			continue
		}
		if trail != nil && trail.Records > 0 && (b.Time().Before(trail.First) || trail.Backups[b.ID]) {
			continue // from before the trail, or in it
		}
		if n++; n == 1 {
			newest = b
		}
	}
	const why = "records were taken away, or the log directory was another one"
	switch {
	case trail == nil && n == 0:
		a.ui().Printf("There is no audit trail in %s.", ui.Safe(dir))
	case trail == nil:
		a.ui().Warnf("there is no audit trail in %s, though %s made: %s", ui.Safe(dir), were(n), why)
	case n > 0 && trail.Records == 0:
		a.ui().Warnf("the audit trail in %s has no record, though %s made: %s", ui.Safe(dir), were(n), why)
	case n > 0:
		a.ui().Warnf("the audit trail does not tell of %s made since it was begun, the newest is %s: %s", ui.Plural(n, "backup"), ui.Safe(newest.ID), why)
	}
}

// were counts backups, with the verb.
func were(n int64) string {
	if n == 1 {
		return "1 backup was"
	}
	return ui.Plural(n, "backup") + " were"
}

// tellAudit says what a check of the audit trail found, but for a chain that is
// broken, which is an error.
func (a *app) tellAudit(r *audit.Report) {
	if r == nil || r.Problem != nil || r.Records == 0 {
		return
	}
	text := fmt.Sprintf("Audit trail: %s, an unbroken chain.", ui.Plural(int64(r.Records), "record"))
	if r.Torn > 0 {
		text += fmt.Sprintf(" %s could not be written whole.", ui.Plural(int64(r.Torn), "line"))
	}
	a.ui().Printf("%s", text)
	if n := len(r.Unended); n > 0 {
		last := r.Unended[n-1]
		a.ui().Printf("It lacks the end of %s, killed or still at work; the last is %s of %s (process %d on %s).", ui.Plural(int64(n), "command"),
			ui.Safe(last.Command), last.Time.UTC().Format("2006-01-02 15:04:05 UTC"), last.PID, ui.Safe(last.Host))
	}
}
