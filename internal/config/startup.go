package config

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"
)

// Startup says how a container begins, see the command startup.
type Startup struct {
	// What an empty database is restored from, in the order of priority.
	BackupFile     string // path of a plain SQL script; empty: none
	BackupManifest string // id of a backup, or path of its manifest; empty: none
	LatestBackup   bool
	LoadBaseline   bool

	NoOwner, NoPrivileges bool // as the flags of restore
	Fallback              bool // the next source is tried where one fails
	Incomplete            bool // what there is of the database is restored, where backups leave out schemas of it
	StartEmpty            bool // the application starts although nothing could be restored that was asked for

	MigrateCommand []string // what makes the tables where nothing was restored; empty: nothing does

	Wait     time.Duration // at most, for the database to be up
	PeerWait time.Duration // at most, for another container that fills the database
}

// startupSettings are those of the command startup, with the variables of the
// original system's container where it had one.
func startupSettings() []Setting {
	return []Setting{
		{
			Key: "restore-backup-file", Flag: "backup-file", Env: "RESTORE_BACKUP_FILE", Kind: "FILE",
			Help:  "plain SQL script to fill an empty database from, before all others",
			apply: one(asIs, func(c *Config, v string) { c.Startup.BackupFile = v }),
		},
		{
			Key: "restore-backup-manifest", Flag: "manifest", Env: "RESTORE_BACKUP_MANIFEST", Kind: "PATH",
			Help:  "backup to fill an empty database from, by the path of its manifest or its id",
			apply: one(asIs, func(c *Config, v string) { c.Startup.BackupManifest = v }),
		},
		{
			Key: "restore-latest-backup", Flag: "latest", Env: "RESTORE_LATEST_BACKUP", Default: "false", Kind: "bool", Switch: true,
			Help:  "fill an empty database from the newest backup",
			apply: one(parseBool, func(c *Config, v bool) { c.Startup.LatestBackup = v }),
		},
		{
			Key: "load-baseline", Flag: "load-baseline", Env: "LOAD_BASELINE", Default: "true", Kind: "bool", Switch: true,
			Help:  "fill an empty database from the baseline of core, if nothing else does",
			apply: one(parseBool, func(c *Config, v bool) { c.Startup.LoadBaseline = v }),
		},
		{
			Key: "restore-no-owner", Flag: "no-owner", Env: "RESTORE_NO_OWNER", Default: "false", Kind: "bool", Switch: true,
			Help:  "leave objects to the role that restores them",
			apply: one(parseBool, func(c *Config, v bool) { c.Startup.NoOwner = v }),
		},
		{
			Key: "restore-no-privileges", Flag: "no-privileges", Env: "RESTORE_NO_PRIVILEGES", Default: "false", Kind: "bool", Switch: true,
			Help:  "leave grants out",
			apply: one(parseBool, func(c *Config, v bool) { c.Startup.NoPrivileges = v }),
		},
		{
			Key: "restore-fallback", Flag: "fallback", Env: "RESTORE_FALLBACK", Default: "true", Kind: "bool", Switch: true,
			Help:  "try the next source where one fails",
			apply: one(parseBool, func(c *Config, v bool) { c.Startup.Fallback = v }),
		},
		{
			Key: "restore-incomplete", Flag: "incomplete", Env: "RESTORE_INCOMPLETE", Default: "false", Kind: "bool", Switch: true,
			Help:  "fill an empty database also where backups leave out schemas of it",
			apply: one(parseBool, func(c *Config, v bool) { c.Startup.Incomplete = v }),
		},
		{
			Key: "start-empty", Flag: "start-empty", Env: "STARTUP_START_EMPTY", Default: "false", Kind: "bool", Switch: true,
			Help:  "start the application although nothing could be restored that was asked for",
			apply: one(parseBool, func(c *Config, v bool) { c.Startup.StartEmpty = v }),
		},
		{
			Key: "migrate-command", Flag: "migrate-command", Env: "MIGRATE_COMMAND", Kind: "COMMAND",
			Help:  "program and arguments that make the tables, run where nothing was restored; quoted as for a shell, which is not used",
			apply: one(parseCommand, func(c *Config, v []string) { c.Startup.MigrateCommand = v }),
		},
		{
			Key: "startup-wait", Flag: "wait", Env: "STARTUP_WAIT", Default: "2m", Kind: "DURATION",
			Help:  "how long to wait for the database to be up",
			apply: one(parseWait, func(c *Config, v time.Duration) { c.Startup.Wait = v }),
		},
		{
			Key: "startup-peer-wait", Flag: "peer-wait", Env: "STARTUP_PEER_WAIT", Default: "2h", Kind: "DURATION",
			Help:  "how long to wait for another container that fills the same database",
			apply: one(parseWait, func(c *Config, v time.Duration) { c.Startup.PeerWait = v }),
		},
	}
}

// parseWait reads how long to wait; a bare number is in seconds, and 0 is not at
// all.
func parseWait(text string) (time.Duration, error) {
	if strings.TrimSpace(text) == "0" {
		return 0, nil
	}
	d, err := time.ParseDuration(strings.TrimSpace(text))
	if seconds, notNumber := strconv.Atoi(strings.TrimSpace(text)); notNumber == nil {
		d, err = time.Duration(seconds)*time.Second, nil
	}
	if err != nil || d < 0 || d > 7*24*time.Hour {
		return 0, fmt.Errorf("%q is not a duration from 0s to 168h, such as 90s, 5m or 2h", text)
	}
	return d, nil
}

// parseCommand cuts a command into words as a shell does. Nothing else of a shell
// is done, and what only a shell could do is refused, not passed on as a word.
func parseCommand(text string) ([]string, error) {
	const hint = "give the program and its arguments, with quotes where needed; for more write sh -c '…'"
	var words []string
	for word, err := range syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).WordsSeq(strings.NewReader(text)) {
		if err == nil {
			err = plainWord(word)
		}
		if err != nil {
			return nil, fmt.Errorf("%w, and no shell is used: %s", err, hint)
		}
		var plain strings.Builder
		for _, part := range word.Parts {
			if l, ok := part.(*syntax.Lit); ok {
				plain.WriteString(escaped.ReplaceAllString(l.Value, "$1"))
				continue
			}
			text, err := expand.Literal(&expand.Config{}, &syntax.Word{Parts: []syntax.WordPart{part}})
			if err != nil {
				return nil, fmt.Errorf("%w: %s", err, hint)
			}
			plain.WriteString(text)
		}
		words = append(words, plain.String())
	}
	if len(words) == 0 || words[0] == "" {
		return nil, errors.New("names no program: " + hint)
	}
	if name, _, assigns := strings.Cut(words[0], "="); assigns && !strings.Contains(name, "/") {
		return nil, fmt.Errorf("%q sets a variable, and no shell is used: %s", words[0], hint)
	}
	return words, nil
}

// escaped finds characters outside of quotes after a backslash.
var escaped = regexp.MustCompile(`(?s)\\(.)`)

// forShell finds what a shell replaces by the names of files.
var forShell = regexp.MustCompile(`^~|(?:^|[^\\])(?:\\\\)*[*?\[]`)

// plainWord refuses a word in which a shell would replace something.
func plainWord(word *syntax.Word) (err error) {
	syntax.Walk(word, func(n syntax.Node) bool {
		switch n.(type) {
		case *syntax.ParamExp, *syntax.CmdSubst, *syntax.ArithmExp, *syntax.ProcSubst, *syntax.ExtGlob:
			err = errors.New("$ and ` mean something to a shell")
		}
		return true
	})
	for _, part := range word.Parts {
		if l, ok := part.(*syntax.Lit); ok && forShell.MatchString(l.Value) {
			err = fmt.Errorf("%s means something to a shell", l.Value)
		}
	}
	return err
}
