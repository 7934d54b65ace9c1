package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tenantkeep/tenantkeep/internal/audit"
	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// The groups of commands in the help.
const (
	groupProtect = "protect"
	groupInspect = "inspect"
	groupOther   = "other"
)

// app is what the commands share: the streams of the process and the flags
// that all commands have.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	lookupEnv      func(string) (string, bool)
	now            func() time.Time

	configFile string
	quiet      bool
	verbosity  int
	noColor    bool

	talker  *ui.UI
	entered bool       // a command runs; what fails before that is wrong usage
	audit   *audit.Run // of a command that changes something; nil before its settings are known
	hooks   *hooks     // of a restore or a rollback; nil for others
}

// run executes one command line and returns the exit code of the process.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, lookupEnv: os.LookupEnv, now: time.Now}
	root := newRootCommand(a)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && !a.entered {
		err = asUsage(err)
	}
	return a.exit(ctx, err)
}

func newRootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "tenantkeep",
		Short: "Back up and restore PostgreSQL databases with one schema per customer",
		Long: `tenantkeep backs up every tenant of a PostgreSQL database at one moment, and
restores one of them, or all, without touching the others. Data files are plain
SQL: "zstdcat FILE | psql" restores them without tenantkeep.

Settings come from flags, then the environment, then tenantkeep.yaml. The
database is found through --database-url or DATABASE_URL, else through the
variables, password files and service files that psql uses.`,
		Version:           buildVersion().String(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		Args:              unknownCommand,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.checkFlags() },
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	root.SuggestionsMinimumDistance = 2
	a.addFlags(root.PersistentFlags())

	root.AddGroup(
		&cobra.Group{ID: groupProtect, Title: "Back up and restore:"},
		&cobra.Group{ID: groupInspect, Title: "Look and check:"},
		&cobra.Group{ID: groupOther, Title: "Other:"},
	)
	root.SetHelpCommandGroupID(groupOther)
	root.SetCompletionCommandGroupID(groupOther)
	root.AddCommand(commands(a)...)
	a.markEntered(root)
	return root
}

// commands lists all commands.
func commands(a *app) []*cobra.Command {
	return []*cobra.Command{
		newBackupCommand(a),
		newScheduleCommand(a),
		newServeCommand(a),
		newRestoreCommand(a),
		newExportCommand(a),
		newStartupCommand(a),
		newRollbackCommand(a),
		newCleanupCommand(a),
		newRepairCommand(a),
		newPinCommand(a),
		newUnpinCommand(a),
		newListCommand(a),
		newVerifyCommand(a),
		newHealthCommand(a),
		newDoctorCommand(a),
		newConfigCommand(a),
		newNotifyCommand(a),
		newDemoCommand(a),
		newVersionCommand(a),
	}
}

// globalSettings are the settings whose flags all commands have.
var globalSettings = map[string]bool{"repository": true, "log-dir": true, "log-level": true}

func (a *app) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&a.configFile, "config", "", "settings `FILE` (env "+config.FileEnv+"; default "+config.DefaultFile+" if it is there)")
	for key := range globalSettings {
		config.AddFlags(flags, key)
	}
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "say nothing but warnings and errors")
	flags.IntVarP(&a.verbosity, "verbosity", "v", ui.Normal, "how much to say, `0..3`")
	flags.BoolVar(&a.noColor, "no-color", false, "no colours (env NO_COLOR)")
}

// checkFlags checks the flags that all commands have.
func (a *app) checkFlags() error {
	if a.verbosity < ui.Quiet || a.verbosity > ui.Debug {
		return usagef("--verbosity: %d is not a number from %d to %d", a.verbosity, ui.Quiet, ui.Debug)
	}
	return nil
}

// markEntered notes for every command when its own code begins, and in the audit
// trail how it ended.
func (a *app) markEntered(cmd *cobra.Command) {
	if own := cmd.RunE; own != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			a.entered = true
			err := own(cmd, args)
			a.endAudit(cmd.Context(), err)
			return err
		}
	}
	for _, sub := range cmd.Commands() {
		a.markEntered(sub)
	}
}

// ui returns what talks to the user. Flags must have been read.
func (a *app) ui() *ui.UI {
	if a.talker == nil {
		verbosity := a.verbosity
		if a.quiet {
			verbosity = ui.Quiet
		}
		a.talker = ui.New(ui.Options{
			Stdin: a.stdin, Stdout: a.stdout, Stderr: a.stderr,
			Verbosity: verbosity, NoColor: a.noColor, LookupEnv: a.lookupEnv, Now: a.now,
		})
	}
	return a.talker
}

// progress returns what follows a long run: text for people, or JSON lines.
func (a *app) progress(form format) ui.Progress {
	if form.is(formatJSON) {
		return a.ui().JSONProgress()
	}
	return a.ui().TextProgress()
}

// logger returns the log of a command: on stderr by --verbosity or --quiet
// where they were given, else by the setting log-level where it was given, and
// with the other handlers.
func (a *app) logger(cmd *cobra.Command, cfg *config.Config, others ...slog.Handler) *slog.Logger {
	level := a.ui().LogLevel()
	if cfg.Given("log-level") && !a.quiet && !cmd.Flags().Changed("verbosity") {
		level = cfg.LogLevel
	}
	return a.ui().Logger(level, others...)
}

// settings resolves the settings for a command, tells the warnings about them,
// and notes in the audit trail that the command begins.
func (a *app) settings(cmd *cobra.Command) (*config.Config, error) {
	cfg, err := config.Load(config.Sources{Flags: cmd.Flags(), LookupEnv: a.lookupEnv, File: a.configFile})
	if err != nil {
		return nil, err
	}
	for _, w := range cfg.Warnings {
		a.ui().Warnf("%s", w)
	}
	if onlyReads(cmd) {
		return cfg, nil
	}
	return cfg, a.beginAudit(cmd, cfg)
}

// unknownCommand refuses what is not the name of a command.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := &usageError{err: fmt.Errorf("unknown command %s", ui.Safe(args[0])), hint: cmd.CommandPath() + " --help lists the commands"}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(append(names, c.Name()), c.Aliases...)
		}
	}
	if near := config.Nearest(args[0], names); near != "" {
		err.hint = "did you mean " + cmd.CommandPath() + " " + near + "?"
	}
	return err
}

// noArgs refuses words after a command that takes only flags.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return &usageError{
		err:  fmt.Errorf("%s takes no argument, and %s is one", cmd.CommandPath(), ui.Safe(args[0])),
		hint: cmd.CommandPath() + " --help lists its flags",
	}
}

// flagError explains a flag that cannot be read. It never repeats the value of
// a setting, which may be a secret.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var invalid *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown):
		out := &usageError{err: err, hint: cmd.CommandPath() + " --help lists its flags"}
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if near := config.Nearest(unknown.GetSpecifiedName(), names); near != "" && len(unknown.GetSpecifiedName()) > 1 {
			out.hint = "did you mean --" + near + "?"
		}
		return out
	case errors.As(err, &invalid):
		cause := invalid.Unwrap()
		var number *strconv.NumError
		if errors.As(cause, &number) {
			cause = fmt.Errorf("%q is not a %s", number.Num, map[bool]string{true: "true or false", false: "whole number"}[strings.HasSuffix(number.Func, "Bool")])
		}
		out := &usageError{err: fmt.Errorf("--%s: %w", invalid.GetFlag().Name, cause)}
		var hinter interface{ Hint() string }
		if errors.As(cause, &hinter) {
			out.hint = hinter.Hint()
		}
		return out
	default:
		return &usageError{err: err, hint: cmd.CommandPath() + " --help explains its flags"}
	}
}
