package main

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenantkeep/tenantkeep/internal/notify"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// probeTimeout is how long doctor waits for one notifier.
const probeTimeout = 10 * time.Second

// notifiers checks that each notifier could deliver a message, and tells of those
// that wait.
func (d *doctor) notifiers(ctx context.Context, cmd *cobra.Command) error {
	channels, faults := channelsOf(d.cfg)
	if len(channels)+len(faults) == 0 {
		d.find("notify", findingNote, "nobody is told when a backup fails", noNotifier)
		return nil
	}
	for _, f := range faults {
		d.find("notify", findingProblem, fmt.Sprintf("%s: %v", ui.Safe(f.Channel), f.Err), "mend the setting; tenantkeep notify --test sends a test message")
	}
	for _, c := range channels {
		d.notifier(ctx, c)
	}
	if d.cfg.Notify.WebhookURL != "" && d.cfg.Notify.WebhookSecret == "" {
		d.find("notify", findingNote, "webhook: messages are not signed, so that the receiver cannot tell who sent them", "set BACKUP_WEBHOOK_SECRET to what the receiver knows too")
	}
	if !d.cfg.Notify.Tells(true) {
		d.find("notify", findingNote, "notifiers are configured, and no run uses them", "set notify to scheduled or all")
	}
	return d.undelivered(ctx, cmd, channels)
}

// notifier checks one notifier without sending a message.
func (d *doctor) notifier(ctx context.Context, c notify.Channel) {
	prober, ok := c.Notifier.(notify.Prober)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if err := prober.Probe(ctx); err != nil {
		d.find("notify", findingProblem, fmt.Sprintf("%s: %v", ui.Safe(c.Name), err), "tenantkeep notify --test sends a test message once that is mended")
		return
	}
	d.find("notify", findingOK, ui.Safe(c.Name)+" can be reached", "")
}

// undelivered tells of messages that wait.
func (d *doctor) undelivered(ctx context.Context, cmd *cobra.Command, channels []notify.Channel) error {
	store, err := openStorage(d.cfg)
	if err != nil {
		return err
	}
	list, err := d.newOutbox(cmd, d.cfg, store, channels).Status(ctx)
	if err != nil {
		d.failed("notify", err)
		return nil
	}
	for _, s := range list {
		if s.Waiting == 0 {
			continue
		}
		text := fmt.Sprintf("%s: %s not delivered, the first %s", ui.Safe(s.Channel), ui.Plural(int64(s.Waiting), "message"), ui.Age(s.Since, d.now()))
		if s.Error != "" {
			text += ": " + s.Error
		}
		d.find("notify", findingNote, text, "tenantkeep notify delivers what waits, and so does the next run")
	}
	return nil
}

// hookPrograms checks that the programs of hooks are there.
func (d *doctor) hookPrograms() {
	h := d.cfg.Hooks
	for _, hook := range []struct {
		key     string
		command []string
	}{{"before-backup", h.BeforeBackup}, {"after-backup", h.AfterBackup}, {"before-restore", h.BeforeRestore}, {"after-restore", h.AfterRestore}} {
		if len(hook.command) == 0 {
			continue
		}
		path, err := exec.LookPath(hook.command[0])
		if err != nil {
			d.find("hooks", findingProblem, fmt.Sprintf("%s: %v", name(d.cfg, hook.key), err), "give the path of a program that can be run; its arguments are further values of the list")
			continue
		}
		d.find("hooks", findingOK, fmt.Sprintf("%s: %s", hook.key, path), "")
	}
}
