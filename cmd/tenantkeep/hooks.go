package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenantkeep/tenantkeep/internal/backup"
	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/hook"
	"github.com/tenantkeep/tenantkeep/internal/restore"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// hooks are the programs that a user wants before and after a command, with what
// they are told. Those after it run if and only if those before it were to run.
type hooks struct {
	*app
	first, last hook.Hook
	env         map[string]string
	began       time.Time // zero: it has not begun
}

// newHooks returns the hooks of a command. before and after are the names of the
// settings.
func (a *app) newHooks(cmd *cobra.Command, cfg *config.Config, before, after string) *hooks {
	log := a.logger(cmd, cfg)
	commands := map[string][]string{
		"before-backup": cfg.Hooks.BeforeBackup, "after-backup": cfg.Hooks.AfterBackup,
		"before-restore": cfg.Hooks.BeforeRestore, "after-restore": cfg.Hooks.AfterRestore,
	}
	h := &hooks{
		app:   a,
		first: hook.Hook{Name: before, Command: commands[before], Timeout: cfg.Hooks.Timeout, Log: log},
		last:  hook.Hook{Name: after, Command: commands[after], Timeout: cfg.Hooks.Timeout, Log: log},
		env:   map[string]string{"COMMAND": cmd.Name(), "REPOSITORY": absolute(cfg.Repository)},
	}
	if target, err := server(cfg); err == nil {
		h.env["DATABASE"], h.env["SERVER"] = target.Database(), target.Address()
	}
	return h
}

// begin runs the hook before the work, the first time that it is called. Its
// failure is the end of the run.
func (h *hooks) begin(ctx context.Context) error {
	if h == nil || !h.began.IsZero() {
		return nil
	}
	h.began = h.now()
	err := h.first.Run(ctx, h.env)
	if err == nil {
		return nil
	}
	return &hintedError{
		err:  fmt.Errorf("nothing was done, because a program that is to run before it failed: %w", err),
		hint: "mend the program, or the setting " + h.first.Name + ", and try again",
	}
}

// end runs the hook after the work, if that was to begin, and tells it how the work
// ended. That it fails is only a warning.
func (h *hooks) end(ctx context.Context, err error) {
	if h.began.IsZero() {
		return
	}
	h.env["RESULT"] = string(resultOf(ctx, err))
	h.env["SECONDS"] = strconv.FormatFloat(h.now().Sub(h.began).Seconds(), 'f', 3, 64)
	if err != nil {
		h.env["ERROR"] = err.Error()
	}
	if err := h.last.Run(context.WithoutCancel(ctx), h.env); err != nil {
		h.ui().Warnf("%v", err)
	}
}

// note tells the hooks more.
func (h *hooks) note(name, value string) {
	if h != nil {
		h.env[name] = value
	}
}

// noteBackup tells the hook after a backup what was made.
func (h *hooks) noteBackup(r *backup.Result, err error) {
	if r != nil && r.Manifest != nil {
		h.note("BACKUP", r.Manifest.ID)
	}
	var failed []string
	for _, f := range failuresOf(r, err) {
		failed = append(failed, f.Schema)
	}
	h.note("FAILED_SCHEMAS", strings.Join(failed, "\n"))
}

// noteRestore tells the hooks of a restore what is restored: of one from several
// backups the first of these, and the schemas of all that have come so far.
func (h *hooks) noteRestore(p *restore.Plan, part bool) {
	var names []string
	if part && h != nil && !h.began.IsZero() {
		names = append(names, h.env["SCHEMAS"])
	} else {
		h.note("BACKUP", p.Backup)
	}
	for _, s := range p.Schemas {
		names = append(names, cmp.Or(s.As, s.Schema))
	}
	h.note("SCHEMAS", strings.Join(names, "\n"))
}

// withRestoreHooks does work that calls begin of the hooks before it changes
// anything.
func (a *app) withRestoreHooks(cmd *cobra.Command, cfg *config.Config, work func() error) error {
	a.hooks = a.newHooks(cmd, cfg, "before-restore", "after-restore")
	err := work()
	if !errors.Is(err, ui.ErrLeft) {
		a.hooks.end(cmd.Context(), err)
	}
	return err
}
