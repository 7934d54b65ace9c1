package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/retention"
)

// retentionSettings are the settings that say which backups stay.
var retentionSettings = []string{"retention-policy", "daily-retention", "weekly-retention", "monthly-retention", "time-zone"}

// retentionPolicy returns the policy that the settings name. Numbers beside a
// named policy contradict it, unless they come from a weaker source: a flag may
// choose another policy than the file does.
func retentionPolicy(cfg *config.Config) (retention.Policy, error) {
	named := cfg.Source("retention-policy")
	var given []string
	for _, key := range []string{"daily-retention", "weekly-retention", "monthly-retention"} {
		if cfg.Given(key) && cfg.Source(key).Kind >= named.Kind {
			given = append(given, name(cfg, key))
		}
	}
	if p, ok := retention.Named(cfg.RetentionPolicy); ok {
		if len(given) == 0 {
			return p, nil
		}
		return p, &usageError{
			err:  fmt.Errorf("%s: the policy %s has numbers of its own (%s)", strings.Join(given, ", "), cfg.RetentionPolicy, p),
			hint: "give --retention-policy custom with it",
		}
	}
	// A number that is not given is that of the default policy: who asks for 14
	// days does not ask for the loss of all months.
	p, _ := retention.Named("default")
	any := false
	for key, set := range map[string]func(){
		"daily-retention":   func() { p.Daily = cfg.DailyRetention },
		"weekly-retention":  func() { p.Weekly = cfg.WeeklyRetention },
		"monthly-retention": func() { p.Monthly = cfg.MonthlyRetention },
	} {
		if cfg.Given(key) {
			any = true
			set()
		}
	}
	if !any {
		return p, &usageError{
			err:  fmt.Errorf("%s: the policy custom has no numbers", name(cfg, "retention-policy")),
			hint: "give --daily-retention, --weekly-retention or --monthly-retention",
		}
	}
	if err := p.Validate(); err != nil {
		return p, asUsage(err)
	}
	return p, nil
}

// retained turns backups, pins and what is known to be wrong with files, by id,
// into what package retention decides about.
func retained(backups []repo.Backup, pins map[string]repo.Pin, lacking map[string]string) []retention.Backup {
	list := make([]retention.Backup, len(backups))
	for i, b := range backups {
		list[i] = retention.Backup{ID: b.ID, Time: b.Time(), Manifest: b.Manifest, Lacking: lacking[b.ID]}
		if p, ok := pins[b.ID]; ok {
			list[i].Pin = &retention.Pin{Reason: p.Reason, By: p.By, At: p.At}
		}
	}
	return list
}

// retentionOptions are what the settings say about retention.
func retentionOptions(cfg *config.Config, now time.Time) (retention.Options, error) {
	policy, err := retentionPolicy(cfg)
	return retention.Options{Policy: policy, Now: now, Zone: cfg.TimeZone}, err
}

// decide plans the retention of a repository. Marks of runs and manifests in other
// places are read from it.
func decide(ctx context.Context, r *repo.Repo, backups []repo.Backup, pins map[string]repo.Pin, o retention.Options) (*retention.Plan, error) {
	var err error
	if o.Interrupted, err = r.Interrupted(ctx, backups); err != nil {
		return nil, err
	}
	strays, err := r.Strays(ctx)
	if err != nil {
		return nil, err
	}
	for _, b := range strays {
		if b.Err != nil {
			o.Unreadable = append(o.Unreadable, b.Key)
		}
	}
	lacking, err := r.Lacking(ctx, backups)
	if err != nil {
		return nil, err
	}
	return retention.Decide(retained(backups, pins, lacking), o)
}

// days is a length of time as a flag: like 36h, 7d or 2w.
type days time.Duration

// String writes whole days as such.
func (d *days) String() string {
	t := time.Duration(*d)
	if t > 0 && t%(24*time.Hour) == 0 {
		return strconv.FormatInt(int64(t/(24*time.Hour)), 10) + "d"
	}
	return t.String()
}

// Type names the value in the help.
func (*days) Type() string { return "DURATION" }

// Set reads a length of time.
func (d *days) Set(text string) error {
	t, err := config.ParseSpan(text)
	if err != nil {
		return err
	}
	*d = days(t)
	return nil
}
