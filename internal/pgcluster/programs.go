package pgcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// BinDirVariable names the environment variable that picks one directory of
// server programs and switches the search off.
const BinDirVariable = "TENANTKEEP_PG_BIN"

// Programs are the server programs of one PostgreSQL installation.
type Programs struct {
	// BinDir is the directory that holds initdb and postgres, links resolved.
	BinDir string
	// Major is the major version, 15 for 15.18.
	Major int
	// Version is the whole version as the server says it, such as "15.18".
	Version string
}

// Path is the full path of one program of this installation.
func (p Programs) Path(program string) string {
	return filepath.Join(p.BinDir, program)
}

// MissingError says that no PostgreSQL server programs were found.
type MissingError struct {
	// Looked are the directories and patterns that were searched.
	Looked []string
}

func (e *MissingError) Error() string {
	return "no PostgreSQL server programs (initdb, postgres) in " + strings.Join(e.Looked, ", ")
}

// Hint is the command that installs the server programs on this system.
func (e *MissingError) Hint() string {
	switch {
	case runtime.GOOS == "darwin":
		return "install them with: brew install postgresql@17"
	case exists("/etc/debian_version"):
		return "install them with: sudo apt-get install postgresql"
	case exists("/etc/fedora-release"), exists("/etc/redhat-release"):
		return "install them with: sudo dnf install postgresql-server postgresql-contrib"
	default:
		return "install the PostgreSQL server package (Debian, Ubuntu: apt-get install postgresql; " +
			"Fedora: dnf install postgresql-server postgresql-contrib; macOS: brew install postgresql@17) " +
			"or name its directory of programs in " + BinDirVariable
	}
}

// binDirPatterns are where packages put server programs that are not in $PATH.
var binDirPatterns = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
}

// Find returns the newest usable installation of server programs on this
// machine, or a *MissingError. What BinDirVariable names is taken as it is.
func Find() (Programs, error) {
	if dir := os.Getenv(BinDirVariable); dir != "" {
		programs, err := Inspect(dir)
		if err != nil {
			return Programs{}, fmt.Errorf("use %s: %w", BinDirVariable, err)
		}
		return programs, nil
	}

	dirs := filepath.SplitList(os.Getenv("PATH"))
	looked := []string{"$PATH"}
	for _, pattern := range binDirPatterns {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			return Programs{}, fmt.Errorf("search %s: %w", pattern, err)
		}
		dirs = append(dirs, matches...)
		looked = append(looked, pattern)
	}

	var found []Programs
	for _, dir := range dirs {
		if programs, err := Inspect(dir); err == nil {
			found = append(found, programs)
		}
	}
	if len(found) == 0 {
		return Programs{}, &MissingError{Looked: looked}
	}
	return slices.MaxFunc(found, func(a, b Programs) int { return a.Major - b.Major }), nil
}

var serverVersion = regexp.MustCompile(`\(PostgreSQL\) ((\d+)\S*)`)

// Inspect looks at one directory of server programs. A directory with only
// some of the programs, or programs without the files that initdb copies from,
// is an error: links to single programs in a general directory are common.
func Inspect(dir string) (Programs, error) {
	// postgres finds its other files from where the file really lies.
	initdb, err := filepath.EvalSymlinks(filepath.Join(dir, "initdb"))
	if err != nil {
		return Programs{}, fmt.Errorf("find initdb: %w", err)
	}
	bin := filepath.Dir(initdb)
	for _, program := range []string{"initdb", "postgres"} {
		if _, err := exec.LookPath(filepath.Join(bin, program)); err != nil {
			return Programs{}, fmt.Errorf("find %s: %w", program, err)
		}
	}

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return Programs{}, fmt.Errorf("ask %s for its version: %w", filepath.Join(bin, "postgres"), err)
	}
	match := serverVersion.FindStringSubmatch(string(out))
	if match == nil {
		return Programs{}, fmt.Errorf("read version of %s: unknown form %q", bin, strings.TrimSpace(string(out)))
	}
	major, err := strconv.Atoi(match[2])
	if err != nil {
		return Programs{}, fmt.Errorf("read version of %s: %w", bin, err)
	}
	if !hasShareFiles(ctx, bin, match[2]) {
		return Programs{}, fmt.Errorf("find postgres.bki that belongs to %s: %w", bin, errors.ErrUnsupported)
	}
	return Programs{BinDir: bin, Major: major, Version: match[1]}, nil
}

// hasShareFiles reports whether the catalog template that initdb needs is there.
func hasShareFiles(ctx context.Context, bin, major string) bool {
	dirs := []string{
		filepath.Join(bin, "../share"),
		filepath.Join(bin, "../share/postgresql"),
		"/usr/share/postgresql/" + major,
		"/usr/share/pgsql",
	}
	if out, err := exec.CommandContext(ctx, filepath.Join(bin, "pg_config"), "--sharedir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	return slices.ContainsFunc(dirs, func(dir string) bool {
		return exists(filepath.Join(dir, "postgres.bki"))
	})
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
