package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// version is the release, set by the linker; a build without it tells the
// version of the module.
var version string

// build says what this program was made from.
type build struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Time     string `json:"commit_time,omitempty"`
	Modified bool   `json:"modified,omitempty"` // the sources differ from the commit
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func buildVersion() build {
	b := build{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if ok && b.Version == "" {
		b.Version = info.Main.Version
	}
	if b.Version == "" || b.Version == "(devel)" {
		b.Version = "dev"
	}
	if !ok {
		return b
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

// String tells the build in one line.
func (b build) String() string {
	s := "tenantkeep " + b.Version + " ("
	if b.Commit != "" {
		s += fmt.Sprintf("commit %.12s", b.Commit)
		if b.Modified {
			s += " with changes"
		}
		if b.Time != "" {
			s += " of " + b.Time
		}
		s += ", "
	}
	return s + b.Go + ", " + b.Platform + ")"
}

// VersionOptions are the flags of the command version.
type VersionOptions struct {
	Format format
}

// AddFlags adds the flags.
func (o *VersionOptions) AddFlags(flags *pflag.FlagSet) {
	o.Format.addFlag(flags, formatText, formatJSON)
}

func newVersionCommand(a *app) *cobra.Command {
	var opts VersionOptions
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Tell the version of this program",
		GroupID: groupOther,
		Args:    noArgs,
		RunE:    func(*cobra.Command, []string) error { return runVersion(a, opts) },
	}
	opts.AddFlags(cmd.Flags())
	return cmd
}

func runVersion(a *app, opts VersionOptions) error {
	if opts.Format.is(formatJSON) {
		return a.ui().JSON(buildVersion())
	}
	_, err := fmt.Fprintln(a.ui().Stdout(), buildVersion())
	return err
}
