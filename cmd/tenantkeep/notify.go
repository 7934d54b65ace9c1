package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenantkeep/tenantkeep/internal/audit"
	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/notify"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/storage"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// notifyFlags are the settings about notifications.
var notifyFlags = []string{"notify", "notify-on", "notify-timeout", "notification-email", "smtp-server", "smtp-tls", "smtp-user", "smtp-from"}

func newNotifyCommand(a *app) *cobra.Command {
	var form format
	var test bool
	cmd := &cobra.Command{
		Use:   "notify",
		Short: "Deliver notifications that wait, or try the notifiers",
		Long: `Deliver the messages that could not be delivered when they were due, and tell how
each notifier works. Each run that notifies does the same at its beginning and
its end.

With --test one test message goes through each notifier that is configured, and
what happened is told. A heartbeat notes the test and takes it for no success.

Exit codes: 0 all is delivered, 1 something could not be, 2 wrong usage.`,
		Example: `  tenantkeep notify --test
  BACKUP_NOTIFICATION_EMAIL=ops@example.com tenantkeep notify --test --smtp-server mail.example.com:587`,
		GroupID: groupInspect,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.settings(cmd)
			if err != nil {
				return err
			}
			return runNotify(cmd.Context(), a, cmd, cfg, test, form)
		},
	}
	cmd.Flags().BoolVar(&test, "test", false, "send a test message through each notifier")
	form.addFlag(cmd.Flags(), formatTable, formatJSON)
	config.AddFlags(cmd.Flags(), append([]string{"database-url"}, notifyFlags...)...)
	return cmd
}

// notifiedJSON is what became of a notifier's messages. Fields are only ever added.
type notifiedJSON struct {
	Notifier string `json:"notifier"`
	OK       bool   `json:"ok"`
	Error    string `json:"error,omitempty"`
	Waiting  int    `json:"waiting"` // messages that could not be delivered yet
}

func runNotify(ctx context.Context, a *app, cmd *cobra.Command, cfg *config.Config, test bool, form format) error {
	channels, faults := channelsOf(cfg)
	if len(channels)+len(faults) == 0 {
		return &usageError{err: errors.New("no notifier is configured"), hint: noNotifier}
	}
	store, err := openStorage(cfg)
	if err != nil {
		return err
	}
	outbox := a.newOutbox(cmd, cfg, store, channels)
	list := []notifiedJSON{}
	if test {
		for _, f := range faults {
			list = append(list, notifiedJSON{Notifier: f.Channel, Error: f.Err.Error()})
		}
		e := a.testEvent(cfg)
		for _, c := range channels {
			result := notifiedJSON{Notifier: c.Name, OK: true}
			if err := outbox.Send(ctx, c, e); err != nil {
				result.OK, result.Error = false, err.Error()
			}
			list = append(list, result)
		}
	} else {
		outbox.Flush(ctx)
		status, err := outbox.Status(ctx)
		if err != nil {
			return err
		}
		for _, s := range status {
			list = append(list, notifiedJSON{Notifier: s.Channel, OK: s.Error == "" && s.Waiting == 0, Error: s.Error, Waiting: s.Waiting})
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return a.showNotified(list, test, form)
}

func (a *app) showNotified(list []notifiedJSON, test bool, form format) error {
	bad := int64(0)
	for _, n := range list {
		if !n.OK {
			bad++
		}
	}
	if form.is(formatJSON) {
		if err := a.ui().JSONLine(list); err != nil {
			return err
		}
	} else {
		for _, n := range list {
			if _, err := fmt.Fprintf(a.stdout, "%-7s  %s%s\n", map[bool]string{true: "ok", false: "failed"}[n.OK], ui.Safe(n.Notifier), n.detail(test)); err != nil {
				return err
			}
		}
	}
	if bad > 0 {
		return &hintedError{err: fmt.Errorf("%s of %d did not work", ui.Plural(bad, "notifier"), len(list)), hint: "tenantkeep doctor looks at the settings of each"}
	}
	return nil
}

// detail says more than that it works or not.
func (n notifiedJSON) detail(test bool) string {
	var parts []string
	if n.Error != "" {
		parts = append(parts, strings.Join(strings.Fields(n.Error), " "))
	}
	if n.Waiting > 0 {
		parts = append(parts, ui.Plural(int64(n.Waiting), "message")+" waiting")
	}
	if n.OK && test {
		parts = append(parts, "test message delivered")
	}
	if len(parts) == 0 {
		return ""
	}
	return ": " + strings.Join(parts, "; ")
}

// testEvent is what notify --test sends.
func (a *app) testEvent(cfg *config.Config) *notify.Event {
	e := &notify.Event{
		ID: notify.NewID(), Kind: notify.Test, Time: a.now().UTC(), Repository: absolute(cfg.Repository), Host: hostname(), Version: buildVersion().Version,
		Advice: []string{"nothing: this message shows that notifications of tenantkeep on " + hostname() + " arrive"},
	}
	if target, err := server(cfg); err == nil {
		e.Database, e.Server = target.Database(), target.Address()
	}
	return e
}

// noNotifier is the hint where nobody would be told.
const noNotifier = "set BACKUP_NOTIFICATION_EMAIL, BACKUP_SLACK_WEBHOOK, BACKUP_WEBHOOK_URL or BACKUP_HEARTBEAT_URL, or their keys in tenantkeep.yaml"

// channelFault is a notifier whose settings make no sense.
type channelFault struct {
	Channel string
	Err     error
}

// channelsOf returns the notifiers that the settings ask for, and those that
// cannot work: these must not keep anybody from a backup.
func channelsOf(cfg *config.Config) (channels []notify.Channel, faults []channelFault) {
	n, version := cfg.Notify, buildVersion().Version
	wants := func(e *notify.Event) bool { return isWanted(n.On, e) }
	add := func(c notify.Channel, key string, err error) {
		if err != nil {
			faults = append(faults, channelFault{c.Name, fmt.Errorf("%s: %w", name(cfg, key), err)})
			return
		}
		channels = append(channels, c)
	}
	sender := cmp.Or(n.SMTPFrom, "tenantkeep@"+hostname())
	server := mailServer(cfg)
	for _, to := range n.Email {
		c := notify.Channel{Name: "e-mail to " + to, Notifier: &notify.Mail{Server: server, From: sender, To: to}, Wants: wants}
		key, err := "notification-email", notify.CheckAddress(to)
		if err == nil {
			key, err = "smtp-from", notify.CheckAddress(sender)
		}
		if err == nil {
			key, err = "smtp-server", server.Check()
		}
		add(c, key, err)
	}
	if n.SlackWebhook != "" {
		add(notify.Channel{Name: "slack", Notifier: &notify.Slack{URL: n.SlackWebhook, Version: version}, Wants: wants}, "slack-webhook", notify.CheckURL(n.SlackWebhook))
	}
	if n.WebhookURL != "" {
		hook := &notify.Webhook{URL: n.WebhookURL, Secret: n.WebhookSecret, Version: version}
		add(notify.Channel{Name: "webhook", Notifier: hook, Wants: wants}, "webhook-url", notify.CheckURL(n.WebhookURL))
	}
	if n.HeartbeatURL != "" {
		beat := &notify.Heartbeat{URL: n.HeartbeatURL, Version: version}
		add(notify.Channel{Name: "heartbeat", Notifier: beat, Wants: beat.Wants, Fleeting: true}, "heartbeat-url", notify.CheckURL(n.HeartbeatURL))
	}
	return channels, faults
}

// mailServer is the one that the settings name.
func mailServer(cfg *config.Config) notify.Server {
	n := cfg.Notify
	return notify.Server{Address: n.SMTPServer, User: n.SMTPUser, Password: n.SMTPPassword, Security: notify.Security(n.SMTPTLS)}
}

// channels returns the notifiers for a run, and warns of those that cannot work;
// none where nobody is to be told.
func (a *app) channels(cfg *config.Config, scheduled bool) []notify.Channel {
	if !cfg.Notify.Tells(scheduled) {
		return nil
	}
	channels, faults := channelsOf(cfg)
	for _, f := range faults {
		a.ui().Warnf("nobody is notified by %s: %v", ui.Safe(f.Channel), f.Err)
	}
	if len(channels)+len(faults) == 0 && cfg.Given("notify") {
		a.ui().Warnf("nobody is notified, since no notifier is configured: %s", noNotifier)
	}
	return channels
}

// newRun describes a run that begins now; target nil: of no database.
func (a *app) newRun(cfg *config.Config, job notify.Job, target *pg.Server) notify.Run {
	run := notify.Run{
		ID: notify.NewID(), Job: job, Repository: absolute(cfg.Repository), Host: hostname(), PID: os.Getpid(), Version: buildVersion().Version, Started: a.now(),
	}
	if target != nil {
		run.Database, run.Server = target.Database(), target.Address()
	}
	return run
}

// tellCleanup tells how a cleanup ended that began then.
func (a *app) tellCleanup(ctx context.Context, cmd *cobra.Command, cfg *config.Config, began time.Time, err error, scheduled bool) {
	if errors.Is(err, ui.ErrLeft) || exitCode(ctx, err) == exitUsage {
		return
	}
	channels := a.channels(cfg, scheduled)
	if len(channels) == 0 {
		return
	}
	store, errStore := openStorage(cfg)
	if errStore != nil {
		return // then the cleanup has said so itself
	}
	target, errTarget := server(cfg)
	if errTarget != nil {
		target = nil
	}
	run := a.newRun(cfg, notify.Cleanup, target)
	run.Started = began
	kind := map[audit.Result]notify.Kind{audit.OK: notify.Succeeded, audit.Partial: notify.Partial}[resultOf(ctx, err)]
	e := run.Event(cmp.Or(kind, notify.Failed), a.now())
	if err != nil {
		e.Error = err.Error()
	}
	if hint := hintOf(err); hint != "" {
		e.Advice = []string{hint}
	}
	a.newOutbox(cmd, cfg, store, channels).Tell(ctx, e)
}

// flushNotifications delivers what waits, where a scheduled run has nothing to tell.
func (a *app) flushNotifications(ctx context.Context, cmd *cobra.Command, cfg *config.Config) {
	channels := a.channels(cfg, true)
	if len(channels) == 0 {
		return
	}
	if store, err := openStorage(cfg); err == nil { // it was open a moment ago
		a.newOutbox(cmd, cfg, store, channels).Flush(ctx)
	}
}

// isWanted reports whether the setting notify-on asks for an event.
func isWanted(on map[string]bool, e *notify.Event) bool {
	switch e.Kind {
	case notify.Begun:
		return false
	case notify.Failed:
		return on["failed"]
	case notify.Partial:
		return on["partial"]
	case notify.Recovered:
		return on["recovery"] || on["success"]
	case notify.Succeeded:
		return on["success"]
	case notify.Worsened, notify.Improved:
		return on["health"]
	default:
		return true
	}
}

// newOutbox returns what delivers messages.
func (a *app) newOutbox(cmd *cobra.Command, cfg *config.Config, store storage.Storage, channels []notify.Channel) *notify.Outbox {
	return notify.New(notify.Options{
		Storage: store, Channels: channels, Secrets: secretsOf(cfg), Timeout: cfg.Notify.Timeout, Log: a.logger(cmd, cfg), Now: a.now,
	})
}

// secretsOf are the values that no message may hold.
func secretsOf(cfg *config.Config) []string {
	n := cfg.Notify
	list := []string{cfg.DatabasePassword, n.SMTPPassword, n.WebhookSecret}
	for _, address := range []string{n.SlackWebhook, n.WebhookURL, n.HeartbeatURL} {
		list = append(list, notify.SecretsOfURL(address)...)
	}
	if u, err := url.Parse(cfg.DatabaseURL); err == nil && u.User != nil {
		if password, ok := u.User.Password(); ok {
			list = append(list, password)
		}
	}
	return list
}

func hostname() string {
	host, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return host
}
