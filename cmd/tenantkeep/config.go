package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

func newConfigCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "config",
		Short:   "Show the settings in force, or check a settings file",
		GroupID: groupInspect,
		Args:    unknownCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newConfigShowCommand(a), newConfigValidateCommand(a))
	return cmd
}

func newConfigShowCommand(a *app) *cobra.Command {
	var form format
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show each setting with its value and where that comes from",
		Long: `Show the value that each setting has here and now, and where it comes from: a
flag, a variable, a line of the settings file, or the default. Secrets are masked.

It takes the flags of all settings, to see what they change.`,
		Example: `  tenantkeep config show
  tenantkeep config show --config /etc/tenantkeep.yaml --format json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.settings(cmd)
			if err != nil {
				return err
			}
			return a.showSettings(cfg, form)
		},
	}
	form.addFlag(cmd.Flags(), formatTable, formatJSON)
	for _, s := range config.Settings() {
		if s.Flag != "" && !globalSettings[s.Key] {
			config.AddFlags(cmd.Flags(), s.Key)
		}
	}
	return cmd
}

// settingJSON is one setting in force. Fields are only ever added.
type settingJSON struct {
	Key     string     `json:"key"`
	Value   string     `json:"value"` // several with commas between them; secrets are masked
	Given   bool       `json:"given"`
	Source  sourceJSON `json:"source"`
	Flag    string     `json:"flag,omitempty"`
	Env     string     `json:"variable"`
	Default string     `json:"default"`
	Secret  bool       `json:"secret"`
	Help    string     `json:"help"`
}

// sourceJSON is where a value comes from.
type sourceJSON struct {
	Kind string `json:"kind"` // default, file, variable or flag
	Name string `json:"name,omitempty"`
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
}

func (a *app) showSettings(cfg *config.Config, form format) error {
	kinds := map[config.SourceKind]string{config.FromDefault: "default", config.FromFile: "file", config.FromEnv: "variable", config.FromFlag: "flag"}
	list := []settingJSON{}
	table := ui.NewTable(ui.Column{Title: "setting"}, ui.Column{Title: "value", Text: true}, ui.Column{Title: "from", Text: true})
	for _, s := range config.Settings() {
		from := cfg.Source(s.Key)
		j := settingJSON{
			Key: s.Key, Value: cfg.Value(s.Key), Given: cfg.Given(s.Key), Env: s.Env, Default: s.Default, Secret: s.Secret, Help: s.Help,
			Source: sourceJSON{Kind: kinds[from.Kind], Name: from.Name, File: from.File, Line: from.Line},
		}
		if s.Flag != "" {
			j.Flag = "--" + s.Flag
		}
		list = append(list, j)
		table.Add(j.Key, j.Value, from.String())
	}
	if form.is(formatJSON) {
		return a.ui().JSON(list)
	}
	return a.ui().Table(table)
}

func newConfigValidateCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "validate [FILE]",
		Short: "Check a settings file, and nothing else",
		Long: `Check a settings file: unknown keys, values that make no sense, settings that
contradict each other. Without FILE it is that of --config or TENANTKEEP_CONFIG, or
tenantkeep.yaml. Variables and flags do not count, and nothing is connected to.
Files with secrets that it names are read.

Exit codes: 0 it can be used, 2 it cannot.`,
		Example: `  tenantkeep config validate
  tenantkeep config validate deploy/tenantkeep.yaml`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return noArgs(cmd, args[1:])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			file := a.settingsFile()
			if len(args) > 0 {
				file = args[0]
			}
			return a.validate(cmd.Context(), file)
		},
	}
}

// settingsFile is the file that commands take their settings from.
func (a *app) settingsFile() string {
	if a.configFile != "" {
		return a.configFile
	}
	if file, ok := a.lookupEnv(config.FileEnv); ok && file != "" {
		return file
	}
	return config.DefaultFile
}

// validate checks a settings file by itself.
func (a *app) validate(_ context.Context, file string) error {
	if _, err := os.Stat(file); err != nil {
		return &usageError{err: fmt.Errorf("read settings: %w", err), hint: "give the path of the settings file: tenantkeep config validate FILE"}
	}
	cfg, err := config.Load(config.Sources{File: file})
	if err != nil {
		return err
	}
	for _, w := range cfg.Warnings {
		a.ui().Warnf("%s", w)
	}
	if err := checkSettings(cfg); err != nil {
		return err
	}
	a.tellMissingPrograms(cfg)
	n := int64(0)
	for _, s := range config.Settings() {
		if cfg.Given(s.Key) {
			n++
		}
	}
	a.ui().Printf("%s is in order: %s.", ui.Safe(file), ui.Plural(n, "setting"))
	return nil
}

// tellMissingPrograms warns of programs that are not on this machine. The file may be
// meant for another one.
func (a *app) tellMissingPrograms(cfg *config.Config) {
	for _, p := range []struct {
		key     string
		command []string
	}{
		{"before-backup", cfg.Hooks.BeforeBackup},
		{"after-backup", cfg.Hooks.AfterBackup},
		{"before-restore", cfg.Hooks.BeforeRestore},
		{"after-restore", cfg.Hooks.AfterRestore},
		{"migrate-command", cfg.Startup.MigrateCommand},
	} {
		if _, err := findProgram(p.command); err != nil {
			a.ui().Warnf("%s: %v", name(cfg, p.key), err)
		}
	}
}

// checkSettings finds what commands would refuse, each once it needs it.
func checkSettings(cfg *config.Config) error {
	var faults []error
	fault := func(err error) {
		if err != nil {
			faults = append(faults, err)
		}
	}
	_, err := scheduleSettings(cfg)
	fault(err)
	_, err = retentionPolicy(cfg)
	fault(err)
	_, err = registryTables(cfg)
	fault(err)
	_, err = mediaRoot(cfg)
	fault(err)
	if cfg.DatabaseURL != "" {
		_, err = server(cfg)
		fault(err)
	}
	_, err = openStorage(cfg)
	fault(err)
	if len(cfg.Notify.Email) == 0 && cfg.Given("smtp-server") {
		if err := mailServer(cfg).Check(); err != nil {
			fault(asUsage(fmt.Errorf("%s: %w", name(cfg, "smtp-server"), err)))
		}
	}
	_, unfit := channelsOf(cfg)
	for _, f := range unfit {
		fault(asUsage(f.Err))
	}
	return errors.Join(faults...)
}
