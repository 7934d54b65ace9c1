package main

import (
	"context"
	"errors"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tenantkeep/tenantkeep/internal/audit"
	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

func newPinCommand(a *app) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "pin ID --reason TEXT",
		Short: "Keep a backup until it is unpinned",
		Long: `Keep a backup, and whatever it needs, from cleanup until tenantkeep unpin. Who
pinned it, when and why is recorded in the repository, and shown by list.

rollback/ID is a rollback point.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.`,
		Example: `  tenantkeep pin 20261123_020000 --reason "before the move to the new cluster"`,
		GroupID: groupProtect,
		Args:    oneBackup,
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.TrimSpace(reason) == "" {
				return &usageError{err: errors.New("--reason is missing"), hint: "say for those who find the pin in a year why it is there: --reason TEXT"}
			}
			cfg, err := a.settings(cmd)
			if err != nil {
				return err
			}
			return a.pin(cmd.Context(), cfg, args[0], reason)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why it is kept, `TEXT` for people")
	return cmd
}

func newUnpinCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "unpin ID",
		Short: "Let retention decide about a backup again",
		Long: `Take the pin of a backup away. From then on the next cleanup may remove it.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.`,
		Example: `  tenantkeep unpin 20261123_020000`,
		GroupID: groupProtect,
		Args:    oneBackup,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := a.settings(cmd)
			if err != nil {
				return err
			}
			return a.unpin(cmd.Context(), cfg, args[0])
		},
	}
}

// oneBackup refuses all but one word.
func oneBackup(cmd *cobra.Command, args []string) error {
	if len(args) == 1 && args[0] != "" {
		return nil
	}
	return &usageError{err: errors.New("which backup? One id is needed"), hint: "tenantkeep list shows the ids; " + cmd.CommandPath() + " --help"}
}

// pinned finds the repository of a backup that is named on the command line, and
// its id there.
func (a *app) pinned(cfg *config.Config, backup string) (place, string, error) {
	places, err := a.openPlaces(cfg)
	if err != nil {
		return place{}, "", err
	}
	at := places[0]
	id, isPoint := strings.CutPrefix(backup, rollbackName+"/")
	if isPoint {
		at = places[1]
	}
	if id == "" || strings.ContainsAny(id, `/\`) {
		return place{}, "", usagef("%s is not the id of a backup", ui.Safe(backup))
	}
	return at, id, nil
}

func (a *app) pin(ctx context.Context, cfg *config.Config, backup, reason string) error {
	at, id, err := a.pinned(cfg, backup)
	if err != nil {
		return err
	}
	if id, err = at.Repo.Pin(ctx, repo.Pin{Backup: id, Reason: reason, By: whoami()}); id != "" {
		backup = at.name(id)
		a.noteAudit(func(r *audit.Record) { r.Backup = backup })
	}
	switch {
	case errors.Is(err, repo.ErrPinned):
		return &hintedError{err: err, hint: "tenantkeep list shows why; to give another reason, unpin it first"}
	case errors.Is(err, repo.ErrNoBackup):
		return &hintedError{err: err, hint: "tenantkeep list shows the ids of the backups"}
	case err != nil:
		return err
	}
	a.ui().Printf("Backup %s is pinned: no cleanup removes it until tenantkeep unpin %s", ui.Safe(backup), shellWord(backup))
	return nil
}

func (a *app) unpin(ctx context.Context, cfg *config.Config, backup string) error {
	at, id, err := a.pinned(cfg, backup)
	if err != nil {
		return err
	}
	p, err := at.Repo.Unpin(ctx, id)
	if err != nil {
		return err
	}
	backup = at.name(p.Backup)
	a.noteAudit(func(r *audit.Record) { r.Backup = backup })
	a.ui().Printf("Backup %s is no longer pinned (%s).", ui.Safe(backup), pinText(p))
	return nil
}

// pinText tells of a pin in one line.
func pinText(p repo.Pin) string {
	var parts []string
	if p.By != "" {
		parts = append(parts, "by "+ui.Safe(p.By))
	}
	if !p.At.IsZero() {
		parts = append(parts, p.At.UTC().Format(stampLayout+" UTC"))
	}
	if p.Reason != "" {
		parts = append(parts, ui.Safe(p.Reason))
	}
	return strings.Join(parts, ", ")
}

// whoami names user and machine, for people.
func whoami() string {
	name := "uid " + strconv.Itoa(os.Getuid())
	if u, err := user.Current(); err == nil && u.Username != "" {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}
