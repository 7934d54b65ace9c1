// Package config turns flags, the environment and tenantkeep.yaml into one
// Config, once, before anything runs.
//
// A setting is one thing that a user can decide. A flag wins over the
// environment, the environment over the file, the file over the default; what
// is empty or only white space counts as not given. All settings are defined
// in the table in settings.go, and a Config remembers where each value came
// from.
package config

import (
	"log/slog"
	"strconv"
	"time"
)

// Config is what the user decided, complete and valid. Paths are relative to
// the working directory.
type Config struct {
	// File is the settings file that was read; empty: there was none.
	File string

	// DatabaseURL is a URL without, or with, a password; empty means the libpq variables and service files. It is a
	// secret: RedactURL makes it fit for people.
	DatabaseURL string
	// DatabasePassword is the password to use where DatabaseURL has none;
	// empty means none was given here, and ~/.pgpass may have one.
	DatabasePassword string

	Repository  string // directory of the backups
	BaselineDir string // directory of the templates
	LogDir      string // directory of the log files

	Jobs          int // workers, at least one
	Compression   Compression
	RetentionDays int // how long a backup made now is to be kept; 0: no limit in days

	// RetentionPolicy is default, aggressive, conservative or custom. The three
	// numbers belong to custom; 0 also where one was not given.
	RetentionPolicy                                   string
	DailyRetention, WeeklyRetention, MonthlyRetention int
	TimeZone                                          *time.Location // of the calendar of retention, and of times without a zone in backups of the original system

	Schemas        []string // the only schemas to take, by exact name; empty: all
	ExcludeSchemas []string // schemas to leave out, by exact name
	BackupType     string   // of one run: full, incremental or baseline

	// TableData and ExcludeTableData are patterns of the tables whose rows belong
	// to a baseline, and of those whose rows do not.
	TableData, ExcludeTableData []string
	// NewTenantSQL registers a new tenant: statements with parameters, or @ and the
	// path of a file that holds them; empty: none.
	NewTenantSQL string

	WALSummaries string // checkpoint, wait or off
	MaxChain     int    // how many files of earlier backups a schema may need, at least one
	PgDump       string // program, a name on PATH or a path; empty: the newest that is found
	LockTimeout  time.Duration

	// ScheduleFull, ScheduleIncremental and ScheduleBaseline are cron expressions or off.
	ScheduleFull, ScheduleIncremental, ScheduleBaseline string
	ScheduleTenants                                     []string // rules for tenants of their own; see package schedule
	ScheduleType                                        string   // of scheduled runs: full, incremental or baseline; empty: whatever is due
	ScheduleCleanup                                     bool     // retention follows scheduled backups

	IncludeMedia bool              // the tenants' files are saved, or put back, with their schemas
	MediaRoot    string            // directory with the folders of tenants; empty: not known
	MediaPattern string            // where in it that of a tenant is
	MediaFolders map[string]string // and where it is for single schemas

	RegistryTables []string // auto, none, or the tables with the rows that register tenants
	Registry       string   // what a restore does with these rows: keep, overwrite or skip

	MaxAge        time.Duration // up to which the newest backup of a schema is fresh; 0: any is
	TenantMaxAges []TenantMaxAge
	MaxDrillAge   time.Duration // up to which the proof is good that backups restore; 0: any is
	MinDiskDays   int           // for which the disk must be enough; 0: any are
	HealthSample  int64         // bytes of files that a health check reads
	MetricsFile   string        // empty: none is written

	Listen      string        // host and port of the server
	StopTimeout time.Duration // for what it has interrupted

	Startup Startup // of the command startup
	Notify  Notify
	Hooks   Hooks

	LogLevel slog.Level // of the log files, and of stderr where it was given

	// Warnings are sentences for the user about settings that work but are
	// not as they should be.
	Warnings []string

	values map[string]value
}

// TenantMaxAge is the age up to which backups of certain schemas or tenants are
// fresh.
type TenantMaxAge struct {
	Pattern string        // of names, with * and ?
	MaxAge  time.Duration // 0: any
}

// Notify is who is told how runs ended, and of what. Addresses are as the user
// wrote them: one that makes no sense must not keep anybody from a restore.
type Notify struct {
	Runs    string          // scheduled, all or none
	On      map[string]bool // of success, failed, partial, recovery and health
	Timeout time.Duration   // of all messages of a run

	Email                  []string // receivers
	SMTPServer, SMTPTLS    string   // host:port; auto, starttls, implicit or none
	SMTPUser, SMTPPassword string
	SMTPFrom               string // empty: made up

	SlackWebhook, WebhookURL, WebhookSecret, HeartbeatURL string // all of them secrets; empty: not wanted
}

// Hooks are programs with their arguments that run before and after others; empty:
// none.
type Hooks struct {
	BeforeBackup, AfterBackup, BeforeRestore, AfterRestore []string
	Timeout                                                time.Duration // of each
}

// Source says where the value of a setting came from.
type Source struct {
	Kind SourceKind
	Name string // the flag, variable or key, as the user wrote it
	File string // path of the settings file, where Kind is FromFile
	Line int    // in that file
}

// SourceKind is one of the four places of settings.
type SourceKind int

// The places of settings, the weakest first.
const (
	FromDefault SourceKind = iota
	FromFile
	FromEnv
	FromFlag
)

// String names the source as it begins a message: "--jobs", "BACKUP_JOBS",
// "tenantkeep.yaml:3: jobs".
func (s Source) String() string {
	switch s.Kind {
	case FromFile:
		return s.File + ":" + strconv.Itoa(s.Line) + ": " + s.Name
	case FromEnv, FromFlag:
		return s.Name
	default:
		return "default"
	}
}

// value is what was found for a setting.
type value struct {
	texts  []string
	source Source
}

// Source returns where the setting with that key came from.
func (c *Config) Source(key string) Source { return c.values[key].source }

// Given reports whether the user gave the setting at all.
func (c *Config) Given(key string) bool { return c.values[key].source.Kind != FromDefault }

// FromFile lists the keys of the settings that the settings file decides, in the
// order of the table.
func (c *Config) FromFile() (keys []string) {
	for _, s := range settings() {
		if c.values[s.Key].source.Kind == FromFile {
			keys = append(keys, s.Key)
		}
	}
	return keys
}

// Value returns a setting as text, for people: secrets are masked.
func (c *Config) Value(key string) string {
	for _, s := range settings() {
		if s.Key == key {
			return s.show(c.values[key].texts)
		}
	}
	return ""
}

// Error is a setting that cannot be used.
type Error struct {
	Source Source
	Err    error
	Advice string // what to do next; may be empty
}

// Error names the setting the way the user gave it.
func (e *Error) Error() string {
	if e.Source.Kind == FromDefault {
		return e.Err.Error()
	}
	return e.Source.String() + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Hint returns what to do next, or nothing.
func (e *Error) Hint() string { return e.Advice }
