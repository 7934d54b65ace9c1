package pgdump

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// versionTimeout bounds the run of pg_dump --version.
const versionTimeout = 30 * time.Second

// Program is a pg_dump on this machine.
type Program struct {
	Path    string
	Version string // "15.18", "19beta1"
	Num     int    // as the server's server_version_num: 150018 for 15.18
}

// Major is the major version, 15 for 15.18.
func (p Program) Major() int { return p.Num / 10000 }

// Warning says, for people, why the program should be updated before it dumps
// the given server; it is empty where it need not be. A client that is older
// than the server's minor release may not know what that release changed in
// the catalogue.
func (p Program) Warning(serverVersionNum int) string {
	if p.Major() != serverVersionNum/10000 || p.Num >= serverVersionNum {
		return ""
	}
	return fmt.Sprintf("pg_dump %s is older than the server's release %s: update the PostgreSQL %d client programs", p.Version, versionText(serverVersionNum), p.Major())
}

// NotFoundError says that there is no pg_dump at all.
type NotFoundError struct {
	ServerMajor int
}

func (e *NotFoundError) Error() string {
	return "pg_dump was not found in $PATH or where PostgreSQL is usually installed"
}

// Hint says how to get one.
func (e *NotFoundError) Hint() string { return installHint(e.ServerMajor) }

// TooOldError says that pg_dump cannot read the server's catalogue.
type TooOldError struct {
	Program       Program // the newest one there is, or the one asked for
	ServerVersion string
	ServerMajor   int
}

func (e *TooOldError) Error() string {
	return fmt.Sprintf("pg_dump %s (%s) is older than the server, which is PostgreSQL %s", e.Program.Version, e.Program.Path, e.ServerVersion)
}

// Hint says how to get a newer one.
func (e *TooOldError) Hint() string { return installHint(e.ServerMajor) }

func installHint(major int) string {
	return fmt.Sprintf("install the PostgreSQL %d client programs (Debian and Ubuntu: apt install postgresql-client-%d; Red Hat: dnf install postgresql%d; macOS: brew install postgresql@%d) or name one of that version or newer",
		major, major, major, major)
}

// installed are the directories in which distributions keep the programs of
// each major version.
var installed = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/usr/local/pgsql*/bin",
	"/usr/libexec/postgresql*",
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

// Find returns the pg_dump to use for a server: explicit, a path or a name in
// $PATH, where it is not empty, else the one of the lowest major version that
// is not below the server's, and of that the newest. Its errors are a
// *NotFoundError, a *TooOldError, or that an explicit one cannot be run.
func Find(ctx context.Context, explicit string, serverVersionNum int) (Program, error) {
	return find(ctx, explicit, serverVersionNum, installed)
}

func find(ctx context.Context, explicit string, serverVersionNum int, directories []string) (Program, error) {
	serverMajor := serverVersionNum / 10000
	var programs []Program
	if explicit != "" {
		path, err := exec.LookPath(explicit)
		if err != nil {
			return Program{}, fmt.Errorf("find pg_dump: %w", err)
		}
		program, err := inspect(ctx, path)
		if err != nil {
			return Program{}, err
		}
		programs = []Program{program}
	} else {
		programs = inspectAll(ctx, candidates(directories))
		if err := ctx.Err(); err != nil {
			return Program{}, err
		}
	}
	if len(programs) == 0 {
		return Program{}, &NotFoundError{ServerMajor: serverMajor}
	}
	slices.SortStableFunc(programs, func(a, b Program) int {
		if a.Major() != b.Major() {
			return a.Major() - b.Major()
		}
		return b.Num - a.Num
	})
	for _, program := range programs {
		if program.Major() >= serverMajor {
			return program, nil
		}
	}
	return Program{}, &TooOldError{
		Program:       programs[len(programs)-1],
		ServerVersion: versionText(serverVersionNum),
		ServerMajor:   serverMajor,
	}
}

// candidates are the places to look at, that of $PATH first.
func candidates(directories []string) []string {
	var paths []string
	if path, err := exec.LookPath("pg_dump"); err == nil {
		// Debian's /usr/bin/pg_dump is a script that picks a version by rules
		// of its own; what it picks from is found below.
		if target, err := filepath.EvalSymlinks(path); err != nil || filepath.Base(target) != "pg_wrapper" {
			paths = append(paths, path)
		}
	}
	for _, directory := range directories {
		// The patterns are well-formed, and no match is no candidate.
		found, _ := filepath.Glob(filepath.Join(directory, "pg_dump"))
		paths = append(paths, found...)
	}
	return paths
}

// inspectAll leaves out what does not run: another architecture's, a broken
// installation.
func inspectAll(ctx context.Context, paths []string) []Program {
	var programs []Program
	for _, path := range paths {
		if program, err := inspect(ctx, path); err == nil {
			programs = append(programs, program)
		}
	}
	return programs
}

func inspect(ctx context.Context, path string) (Program, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return Program{}, fmt.Errorf("ask %s for its version: %w", path, err)
	}
	version, num, err := parseVersion(string(out))
	if err != nil {
		return Program{}, fmt.Errorf("ask %s for its version: %w", path, err)
	}
	return Program{Path: path, Version: version, Num: num}, nil
}

var versionPattern = regexp.MustCompile(`^pg_dump \([^)]*\) ((\d{2,3})(?:\.(\d{1,3})|devel|(?:alpha|beta|rc)\d+))`)

func parseVersion(output string) (version string, num int, err error) {
	parts := versionPattern.FindStringSubmatch(output)
	if parts == nil {
		first, _, _ := strings.Cut(output, "\n")
		return "", 0, fmt.Errorf("%q is not the version of a pg_dump of PostgreSQL 10 or newer", first)
	}
	major, errMajor := strconv.Atoi(parts[2])
	minor, errMinor := 0, error(nil)
	if parts[3] != "" {
		minor, errMinor = strconv.Atoi(parts[3])
	}
	return parts[1], major*10000 + minor, errors.Join(errMajor, errMinor)
}

// versionText is 15.18 for 150018.
func versionText(num int) string { return fmt.Sprintf("%d.%d", num/10000, num%10000) }
