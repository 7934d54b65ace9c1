package config

import (
	"log/slog"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// Setting describes one setting: its names and what it means. The table of
// all of them is the only place to add one.
type Setting struct {
	Key     string   // in the file
	Flag    string   // without dashes; empty: cannot be given as a flag
	Env     string   // variable; a secret also has Env + "_FILE" and Key + "-file"
	Default string   // as text; empty: the zero value
	Help    string   // one line for --help, lower case
	Kind    string   // name of the value in --help: PATH, N, …
	List    bool     // takes several values
	Words   bool     // the values are a program and its arguments: an argument may be empty
	Secret  bool     // not shown, and readable from a file of its own
	Switch  bool     // true or false; the flag alone means true
	Toggles []Toggle // other ways to give it

	// apply checks the texts and writes the value into a Config.
	apply func(c *Config, texts []string) error
	// checkFlag refuses what may not stand on a command line.
	checkFlag func(text string) error
}

// Toggle is a yes-or-no way to give a setting, such as --compress.
type Toggle struct {
	Flag, Env, Help string
	On, Off         string // the setting's value for true and for false
}

// Settings returns the definitions of all settings, in the order of the help.
func Settings() []Setting { return settings() }

func settings() []Setting {
	return append([]Setting{
		{
			Key: "database-url", Flag: "database-url", Env: "DATABASE_URL", Kind: "URL", Secret: true,
			Help:      "database to connect to, without a password; else libpq's variables and service files",
			apply:     one(parseDatabaseURL, func(c *Config, v string) { c.DatabaseURL = v }),
			checkFlag: refusePassword,
		},
		{
			Key: "database-password", Env: "PGPASSWORD", Secret: true,
			Help:  "password of the database role",
			apply: one(asIs, func(c *Config, v string) { c.DatabasePassword = v }),
		},
		{
			Key: "repository", Flag: "repository", Env: "BACKUP_REPOSITORY", Default: "./backups", Kind: "PATH",
			Help:  "directory of the backups",
			apply: one(asIs, func(c *Config, v string) { c.Repository = v }),
		},
		{
			Key: "baseline-dir", Flag: "baseline-dir", Env: "BASELINE_DIR", Default: "./baselineData", Kind: "PATH",
			Help:  "directory of the baselines",
			apply: one(asIs, func(c *Config, v string) { c.BaselineDir = v }),
		},
		{
			Key: "log-dir", Flag: "log-dir", Env: "BACKUP_LOG_DIR", Default: "./logs/backup", Kind: "PATH",
			Help:  "directory of the log files and the audit trail",
			apply: one(asIs, func(c *Config, v string) { c.LogDir = v }),
		},
		{
			Key: "log-level", Flag: "log-level", Env: "BACKUP_LOG_LEVEL", Default: "INFO", Kind: "LEVEL",
			Help:  "what to log: DEBUG, INFO, WARN or ERROR",
			apply: one(parseLogLevel, func(c *Config, v slog.Level) { c.LogLevel = v }),
		},
		{
			Key: "jobs", Flag: "jobs", Env: "BACKUP_JOBS", Default: strconv.Itoa(runtime.GOMAXPROCS(0)), Kind: "N",
			Help:  "how many workers, each with a connection",
			apply: one(wholeNumber(1, 256), func(c *Config, v int) { c.Jobs = v }),
		},
		{
			Key: "compression", Flag: "compression", Env: "BACKUP_COMPRESSION", Default: "zstd", Kind: "METHOD",
			Help:  "zstd, gzip or none, with a level after a colon (zstd:9)",
			apply: one(parseCompression, func(c *Config, v Compression) { c.Compression = v }),
			Toggles: []Toggle{{
				Flag: "compress", Env: "BACKUP_COMPRESS", On: "gzip", Off: "none",
				Help: "compress with gzip; the same as --compression gzip",
			}},
		},
		{
			Key: "retention-days", Flag: "retention-days", Env: "BACKUP_RETENTION_DAYS", Default: "30", Kind: "DAYS",
			Help:  "keep this backup for exactly so long, 0 without limit; as a variable, at least so long",
			apply: one(wholeNumber(0, 36500), func(c *Config, v int) { c.RetentionDays = v }),
		},
		{
			Key: "retention-policy", Flag: "retention-policy", Env: "BACKUP_RETENTION_POLICY", Default: "default", Kind: "POLICY",
			Help:  "which backups cleanup keeps: default (7 daily, 4 weekly, 12 monthly), aggressive (3, 2, 6), conservative (14, 8, 24) or custom",
			apply: one(oneOf("default", "aggressive", "conservative", "custom"), func(c *Config, v string) { c.RetentionPolicy = v }),
		},
		{
			Key: "daily-retention", Flag: "daily-retention", Env: "BACKUP_DAILY_RETENTION", Kind: "N",
			Help:  "for the policy custom: of how many days to keep a backup",
			apply: one(wholeNumber(0, 36500), func(c *Config, v int) { c.DailyRetention = v }),
		},
		{
			Key: "weekly-retention", Flag: "weekly-retention", Env: "BACKUP_WEEKLY_RETENTION", Kind: "N",
			Help:  "for the policy custom: of how many weeks",
			apply: one(wholeNumber(0, 5200), func(c *Config, v int) { c.WeeklyRetention = v }),
		},
		{
			Key: "monthly-retention", Flag: "monthly-retention", Env: "BACKUP_MONTHLY_RETENTION", Kind: "N",
			Help:  "for the policy custom: of how many months",
			apply: one(wholeNumber(0, 1200), func(c *Config, v int) { c.MonthlyRetention = v }),
		},
		{
			Key: "time-zone", Flag: "time-zone", Env: "BACKUP_TIME_ZONE", Default: "UTC", Kind: "ZONE",
			Help:  "where days, weeks and months begin, and the clock of the original system: UTC, local, or a name such as Europe/Berlin",
			apply: one(parseZone, func(c *Config, v *time.Location) { c.TimeZone = v }),
		},
		{
			Key: "schema", Flag: "schema", Env: "BACKUP_TENANT_SCHEMA", Kind: "NAME", List: true,
			Help:  "only this schema; repeat it for more",
			apply: many(func(c *Config, v []string) { c.Schemas = v }),
		},
		{
			Key: "exclude-schema", Flag: "exclude-schema", Env: "BACKUP_EXCLUDE_SCHEMA", Kind: "NAME", List: true,
			Help:  "leave this schema out; repeat it for more",
			apply: many(func(c *Config, v []string) { c.ExcludeSchemas = v }),
		},
		{
			Key: "backup-type", Flag: "backup-type", Env: "BACKUP_TYPE", Default: "full", Kind: "TYPE",
			Help:  "full, incremental or baseline",
			apply: one(oneOf("full", "incremental", "baseline"), func(c *Config, v string) { c.BackupType = v }),
		},
		{
			Key: "table-data", Flag: "table-data", Env: "BASELINE_TABLE_DATA", Kind: "PATTERN", List: true,
			Help:  "the rows of these tables belong to a template; repeat it for more",
			apply: many(func(c *Config, v []string) { c.TableData = v }),
		},
		{
			Key: "exclude-table-data", Flag: "exclude-table-data", Env: "BASELINE_EXCLUDE_TABLE_DATA", Kind: "PATTERN", List: true,
			Help:  "these tables stay empty in a baseline; repeat it for more",
			apply: many(func(c *Config, v []string) { c.ExcludeTableData = v }),
		},
		{
			Key: "new-tenant-sql", Flag: "new-tenant-sql", Env: "BASELINE_NEW_TENANT_SQL", Kind: "SQL",
			Help:  "statements that register a new tenant, with :schema, :template and parameters of --set; or @ and the path of a file",
			apply: one(asIs, func(c *Config, v string) { c.NewTenantSQL = v }),
		},
		{
			Key: "max-chain", Flag: "max-chain", Env: "BACKUP_MAX_CHAIN", Default: "30", Kind: "N",
			Help:  "take a schema in full again once its incremental backups need N files of earlier ones",
			apply: one(wholeNumber(1, 1000), func(c *Config, v int) { c.MaxChain = v }),
		},
		{
			Key: "wal-summaries", Flag: "wal-summaries", Env: "BACKUP_WAL_SUMMARIES", Default: "checkpoint", Kind: "MODE",
			Help:  "how an incremental backup uses the server's WAL summaries: ask for a checkpoint, wait for one, or off",
			apply: one(oneOf("checkpoint", "wait", "off"), func(c *Config, v string) { c.WALSummaries = v }),
		},
		{
			Key: "include-media", Flag: "include-media", Env: "BACKUP_INCLUDE_MEDIA", Default: "false", Kind: "bool", Switch: true,
			Help:  "with each schema the files of its tenant, from --media-root",
			apply: one(parseBool, func(c *Config, v bool) { c.IncludeMedia = v }),
		},
		{
			Key: "media-root", Flag: "media-root", Env: "BACKUP_MEDIA_ROOT", Kind: "PATH",
			Help:  "directory that the tenants' files are in",
			apply: one(asIs, func(c *Config, v string) { c.MediaRoot = v }),
		},
		{
			Key: "media-pattern", Flag: "media-pattern", Env: "BACKUP_MEDIA_PATTERN", Default: "{schema}", Kind: "PATTERN",
			Help:  "path below it of a tenant's folder, with {schema} or {tenant}",
			apply: one(asIs, func(c *Config, v string) { c.MediaPattern = v }),
		},
		{
			Key: "media-folder", Flag: "media-folder", Env: "BACKUP_MEDIA_FOLDER", Kind: "SCHEMA=PATH", List: true,
			Help:  "where the files of one schema are instead; repeat it for more",
			apply: parseFolders,
		},
		{
			Key: "registry-tables", Flag: "registry-table", Env: "BACKUP_REGISTRY_TABLES", Default: "auto", Kind: "COLUMN", List: true,
			Help:  "save with each tenant the rows that register it: auto for django-tenants' tables, none, or TABLE.COLUMN, where the column has the schema's name; repeat it for more",
			apply: many(func(c *Config, v []string) { c.RegistryTables = v }),
		},
		{
			Key: "registry", Flag: "registry", Env: "RESTORE_REGISTRY", Default: "keep", Kind: "MODE",
			Help:  "rows that register a restored tenant: keep those that are there and put missing ones back, overwrite what differs, or skip them",
			apply: one(oneOf("keep", "overwrite", "skip"), func(c *Config, v string) { c.Registry = v }),
		},
		{
			Key: "schedule-full", Flag: "schedule-full", Env: "BACKUP_SCHEDULE_FULL", Default: "0 0 * * 0", Kind: "CRON",
			Help:  "when full backups are due: a cron expression, or off",
			apply: one(asIs, func(c *Config, v string) { c.ScheduleFull = v }),
		},
		{
			Key: "schedule-incremental", Flag: "schedule-incremental", Env: "BACKUP_SCHEDULE_INCREMENTAL", Default: "0 0 * * *", Kind: "CRON",
			Help:  "when incremental backups are due: a cron expression, or off",
			apply: one(asIs, func(c *Config, v string) { c.ScheduleIncremental = v }),
		},
		{
			Key: "schedule-baseline", Flag: "schedule-baseline", Env: "BACKUP_SCHEDULE_BASELINE", Default: "0 0 1 * *", Kind: "CRON",
			Help:  "when the baseline of core is renewed: a cron expression, or off",
			apply: one(asIs, func(c *Config, v string) { c.ScheduleBaseline = v }),
		},
		{
			Key: "schedule-tenant", Flag: "schedule-tenant", Env: "BACKUP_SCHEDULE_TENANT", Kind: "RULE", List: true,
			Help:  "another time for some schemas: 'PATTERN full CRON', 'PATTERN incremental CRON' or 'PATTERN off'; repeat it for more, the first that matches counts",
			apply: many(func(c *Config, v []string) { c.ScheduleTenants = v }),
		},
		{
			Key: "schedule-type", Flag: "schedule-type", Env: "BACKUP_SCHEDULE_TYPE", Default: "auto", Kind: "TYPE",
			Help:  "type of all scheduled backups: full, incremental, baseline, or auto for whichever is due",
			apply: one(parseScheduleType, func(c *Config, v string) { c.ScheduleType = v }),
		},
		{
			Key: "max-age", Flag: "max-age", Env: "BACKUP_MAX_AGE", Default: "24h", Kind: "DURATION",
			Help:  "how old the newest backup of a schema may be: 36h, 7d, or off; more is a warning, twice as much critical",
			apply: one(ParseLimit, func(c *Config, v time.Duration) { c.MaxAge = v }),
		},
		{
			Key: "tenant-max-age", Flag: "tenant-max-age", Env: "BACKUP_TENANT_MAX_AGE", Kind: "PATTERN=DURATION", List: true,
			Help:  "how old that of certain schemas or tenants may be, such as demo_*=7d; the first that fits counts; repeat it for more",
			apply: parseMaxAges,
		},
		{
			Key: "max-drill-age", Flag: "max-drill-age", Env: "BACKUP_MAX_DRILL_AGE", Default: "90d", Kind: "DURATION",
			Help:  "how long ago it may be that a backup was restored and compared, or off",
			apply: one(ParseLimit, func(c *Config, v time.Duration) { c.MaxDrillAge = v }),
		},
		{
			Key: "min-disk-days", Flag: "min-disk-days", Env: "BACKUP_MIN_DISK_DAYS", Default: "14", Kind: "DAYS",
			Help:  "for how many days the disk of the repository must be enough, 0 for any",
			apply: one(wholeNumber(0, 36500), func(c *Config, v int) { c.MinDiskDays = v }),
		},
		{
			Key: "health-sample", Flag: "sample", Env: "BACKUP_HEALTH_SAMPLE", Default: "256MB", Kind: "SIZE",
			Help:  "how much of the files each health check reads and compares with their hashes, in turn: 256MB, 10GB, or 0",
			apply: one(parseSize, func(c *Config, v int64) { c.HealthSample = v }),
		},
		{
			Key: "metrics-file", Flag: "metrics-file", Env: "BACKUP_METRICS_FILE", Kind: "PATH",
			Help:  "write metrics of each health check into this file, for the textfile collector of Prometheus' node_exporter: its name ends in .prom",
			apply: one(parseMetricsFile, func(c *Config, v string) { c.MetricsFile = v }),
		},
		{
			Key: "listen", Flag: "listen", Env: "BACKUP_LISTEN", Default: "127.0.0.1:9754", Kind: "ADDRESS",
			Help:  "host and port that the server answers at; :9754 for all addresses of this machine",
			apply: one(parseAddress, func(c *Config, v string) { c.Listen = v }),
		},
		{
			Key: "stop-timeout", Flag: "stop-timeout", Env: "BACKUP_STOP_TIMEOUT", Default: "1m", Kind: "DURATION",
			Help:  "how long the server waits, when it is stopped, for a run that it has interrupted",
			apply: one(parseTimeout, func(c *Config, v time.Duration) { c.StopTimeout = v }),
		},
		{
			Key: "schedule-cleanup", Flag: "schedule-cleanup", Env: "BACKUP_SCHEDULE_CLEANUP", Default: "true", Kind: "bool", Switch: true,
			Help:  "after scheduled backups that succeeded, remove what the retention policy does not keep",
			apply: one(parseBool, func(c *Config, v bool) { c.ScheduleCleanup = v }),
		},
		{
			Key: "pg-dump", Flag: "pg-dump", Env: "TENANTKEEP_PG_DUMP", Kind: "PROGRAM",
			Help:  "pg_dump program to read definitions with",
			apply: one(asIs, func(c *Config, v string) { c.PgDump = v }),
		},
		{
			Key: "lock-timeout", Flag: "lock-timeout", Env: "BACKUP_LOCK_TIMEOUT", Default: "5s", Kind: "DURATION",
			Help:  "how long to wait for a lock before giving it up and trying again",
			apply: one(parseTimeout, func(c *Config, v time.Duration) { c.LockTimeout = v }),
		},
		{
			Key: "notify", Flag: "notify", Env: "BACKUP_NOTIFY", Default: "scheduled", Kind: "RUNS", Switch: true,
			Help:  "which runs are told of: scheduled, all (the flag alone), or none",
			apply: one(parseNotify, func(c *Config, v string) { c.Notify.Runs = v }),
		},
		{
			Key: "notify-on", Flag: "notify-on", Env: "BACKUP_NOTIFY_ON", Default: "failure", Kind: "EVENT", List: true,
			Help:  "what is told of: failure (failed and partial runs, recovery, health) or success (all of that, and runs that went well); or single ones of failed, partial, recovery, health",
			apply: parseNotifyOn,
		},
		{
			Key: "notify-timeout", Flag: "notify-timeout", Env: "BACKUP_NOTIFY_TIMEOUT", Default: "30s", Kind: "DURATION",
			Help:  "how long all messages of a run may take together; what is not delivered then is kept for the next one",
			apply: one(parseTimeout, func(c *Config, v time.Duration) { c.Notify.Timeout = v }),
		},
		{
			Key: "notification-email", Flag: "notification-email", Env: "BACKUP_NOTIFICATION_EMAIL", Kind: "ADDRESS", List: true,
			Help:  "who gets e-mails; repeat it for more",
			apply: many(func(c *Config, v []string) { c.Notify.Email = v }),
		},
		{
			Key: "smtp-server", Flag: "smtp-server", Env: "BACKUP_SMTP_SERVER", Default: "localhost:25", Kind: "HOST:PORT",
			Help:  "mail server that takes the e-mails",
			apply: one(asIs, func(c *Config, v string) { c.Notify.SMTPServer = strings.TrimSpace(v) }),
		},
		{
			Key: "smtp-tls", Flag: "smtp-tls", Env: "BACKUP_SMTP_TLS", Default: "auto", Kind: "MODE",
			Help:  "starttls, implicit, none, or auto: implicit on port 465, else starttls, which only localhost may lack",
			apply: one(oneOf("auto", "starttls", "implicit", "none"), func(c *Config, v string) { c.Notify.SMTPTLS = v }),
		},
		{
			Key: "smtp-user", Flag: "smtp-user", Env: "BACKUP_SMTP_USER", Kind: "NAME",
			Help:  "user at the mail server",
			apply: one(asIs, func(c *Config, v string) { c.Notify.SMTPUser = v }),
		},
		{
			Key: "smtp-password", Env: "BACKUP_SMTP_PASSWORD", Secret: true,
			Help:  "password at the mail server",
			apply: one(asIs, func(c *Config, v string) { c.Notify.SMTPPassword = v }),
		},
		{
			Key: "smtp-from", Flag: "smtp-from", Env: "BACKUP_SMTP_FROM", Kind: "ADDRESS",
			Help:  "sender of the e-mails; else tenantkeep at this machine",
			apply: one(asIs, func(c *Config, v string) { c.Notify.SMTPFrom = v }),
		},
		{
			Key: "slack-webhook", Env: "BACKUP_SLACK_WEBHOOK", Secret: true,
			Help:  "incoming webhook of Slack",
			apply: one(asIs, func(c *Config, v string) { c.Notify.SlackWebhook = v }),
		},
		{
			Key: "webhook-url", Env: "BACKUP_WEBHOOK_URL", Secret: true,
			Help:  "address that gets events as JSON",
			apply: one(asIs, func(c *Config, v string) { c.Notify.WebhookURL = v }),
		},
		{
			Key: "webhook-secret", Env: "BACKUP_WEBHOOK_SECRET", Secret: true,
			Help:  "what these are signed with",
			apply: one(asIs, func(c *Config, v string) { c.Notify.WebhookSecret = v }),
		},
		{
			Key: "heartbeat-url", Env: "BACKUP_HEARTBEAT_URL", Secret: true,
			Help:  "dead-man switch that is pinged when a backup starts, succeeds (the address itself) and fails (/start, /fail)",
			apply: one(asIs, func(c *Config, v string) { c.Notify.HeartbeatURL = v }),
		},
		{
			Key: "before-backup", Env: "BACKUP_HOOK_BEFORE_BACKUP", List: true, Words: true,
			Help:  "program, with its arguments, that runs before a backup; if it fails, so does the backup",
			apply: many(func(c *Config, v []string) { c.Hooks.BeforeBackup = v }),
		},
		{
			Key: "after-backup", Env: "BACKUP_HOOK_AFTER_BACKUP", List: true, Words: true,
			Help:  "program, with its arguments, that runs after a backup, however it ended",
			apply: many(func(c *Config, v []string) { c.Hooks.AfterBackup = v }),
		},
		{
			Key: "before-restore", Env: "BACKUP_HOOK_BEFORE_RESTORE", List: true, Words: true,
			Help:  "program, with its arguments, that runs before a restore or a rollback changes anything; if it fails, nothing is changed",
			apply: many(func(c *Config, v []string) { c.Hooks.BeforeRestore = v }),
		},
		{
			Key: "after-restore", Env: "BACKUP_HOOK_AFTER_RESTORE", List: true, Words: true,
			Help:  "program, with its arguments, that runs after a restore or a rollback, however it ended",
			apply: many(func(c *Config, v []string) { c.Hooks.AfterRestore = v }),
		},
		{
			Key: "hook-timeout", Flag: "hook-timeout", Env: "BACKUP_HOOK_TIMEOUT", Default: "5m", Kind: "DURATION",
			Help:  "how long each of these programs may take",
			apply: one(parseTimeout, func(c *Config, v time.Duration) { c.Hooks.Timeout = v }),
		},
	}, startupSettings()...)
}

// show returns the texts of a setting for people.
func (s Setting) show(texts []string) string {
	text := strings.Join(texts, ", ")
	switch {
	case !s.Secret || text == "":
		return text
	case s.Key == "database-url":
		return RedactURL(text)
	default:
		return masked
	}
}
