package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/tenantkeep/tenantkeep/internal/config"
)

const top = "../.." // of the project

// instructions are those of a Dockerfile, continued lines joined, by stage.
func instructions(t *testing.T) (stages [][]string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(top, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^\s*#.*\n`).ReplaceAllString(string(text), "")
	stages = [][]string{nil}
	for line := range strings.Lines(strings.ReplaceAll(lines, "\\\n", " ")) {
		line = strings.Join(strings.Fields(line), " ")
		if strings.HasPrefix(line, "FROM ") {
			stages = append(stages, nil)
		}
		if line != "" {
			stages[len(stages)-1] = append(stages[len(stages)-1], line)
		}
	}
	return stages
}

func TestDockerfile(t *testing.T) {
	t.Parallel()
	stages := instructions(t)
	if len(stages) != 3 { // arguments, build, image
		t.Fatalf("%d stages", len(stages)-1)
	}
	find := func(stage []string, prefix string) []string {
		return slices.DeleteFunc(slices.Clone(stage), func(line string) bool { return !strings.HasPrefix(line, prefix) })
	}
	build, image := stages[1], stages[2]
	mention(t, strings.Join(build, "\n"), "CGO_ENABLED=0", "-X main.version=${VERSION}", "golang:${GO_VERSION}-alpine${ALPINE_VERSION}")
	mention(t, strings.Join(image, "\n"),
		"FROM alpine:${ALPINE_VERSION}", `"postgresql${POSTGRES_MAJOR}-client"`, "ca-certificates", "WORKDIR /app",
		`VOLUME ["/app/backups", "/app/baselineData", "/app/logs"]`, `ENTRYPOINT ["tenantkeep"]`, "org.opencontainers.image.version", "org.opencontainers.image.licenses")
	user := find(image, "USER ")
	if len(user) != 1 || !regexp.MustCompile(`^USER [1-9][0-9]*:[1-9][0-9]*$`).MatchString(user[0]) {
		t.Errorf("user %q is not the number of one other than root", user)
	}
	for i, line := range image {
		if strings.HasPrefix(line, "RUN ") && i > slices.Index(image, user[0]) {
			t.Errorf("runs as the user of the image: %s", line)
		}
	}
	if check := find(image, "HEALTHCHECK "); len(check) != 1 || !strings.Contains(check[0], "/healthz") {
		t.Errorf("health check %q", check)
	}
	ignored, err := os.ReadFile(filepath.Join(top, ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	mention(t, string(ignored), "\n*\n")
	for _, line := range append(find(build, "COPY "), find(image, "COPY ")...) {
		words := strings.Fields(line)[1:]
		if strings.HasPrefix(words[0], "--from") {
			continue
		}
		for _, source := range words[:len(words)-1] {
			source = strings.TrimPrefix(source, "./")
			if _, err := os.Stat(filepath.Join(top, source)); err != nil {
				t.Errorf("%s: %v", line, err)
			}
			if !strings.Contains(string(ignored), "\n!"+source+"\n") {
				t.Errorf("%s: .dockerignore keeps %s out", line, source)
			}
		}
	}
	for _, line := range find(image, "ENV ") {
		for _, word := range strings.Fields(line)[1:] {
			if name, _, _ := strings.Cut(word, "="); !isVariable(name) {
				t.Errorf("%s is no setting", name)
			}
		}
	}
}

// isVariable reports whether a setting comes from a variable of that name.
func isVariable(name string) bool {
	return slices.ContainsFunc(config.Settings(), func(s config.Setting) bool {
		return s.Env == name || s.Secret && s.Env+"_FILE" == name
	})
}

func TestCompose(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(top, "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	type service struct {
		Image       string
		Command     []string
		User        string
		ReadOnly    bool `yaml:"read_only"`
		CapDrop     []string
		Environment map[string]string
		Volumes     []string
		Secrets     []string
		Healthcheck struct {
			Test    []string
			Disable bool
		}
		DependsOn map[string]struct{ Condition string } `yaml:"depends_on"`
	}
	var doc struct {
		Services map[string]service
		Volumes  map[string]any
		Secrets  map[string]struct{ File string }
	}
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	known := newRootCommand(&app{})
	for _, name := range []string{"startup", "tenantkeep"} {
		s := doc.Services[name]
		for _, volume := range []string{"./backups:/app/backups", "./baselineData:/app/baselineData"} {
			if !slices.Contains(s.Volumes, volume) {
				t.Errorf("%s lacks the volume %s", name, volume)
			}
		}
		if !s.ReadOnly || s.User != "${TENANTKEEP_UID:-10001}:${TENANTKEEP_GID:-10001}" {
			t.Errorf("%s runs as %q, read-only %v", name, s.User, s.ReadOnly)
		}
		for variable := range s.Environment {
			if !isVariable(variable) {
				t.Errorf("%s: %s is no setting", name, variable)
			}
		}
		if !slices.Contains(s.Secrets, "database-password") || s.Environment["PGPASSWORD_FILE"] != "/run/secrets/database-password" || strings.Contains(s.Environment["DATABASE_URL"], ":app@") {
			t.Errorf("%s: password by %v", name, s.Secrets)
		}
		if cmd, _, err := known.Find(s.Command); err != nil || cmd == known {
			t.Errorf("%s: no command %q", name, s.Command)
		}
	}
	for _, variable := range []string{"RESTORE_BACKUP_FILE", "RESTORE_BACKUP_MANIFEST", "RESTORE_LATEST_BACKUP", "LOAD_BASELINE"} {
		if value := doc.Services["startup"].Environment[variable]; !strings.HasPrefix(value, "${"+variable+":-") {
			t.Errorf("%s is %q, and cannot be given from outside", variable, value)
		}
	}
	if len(doc.Services["database"].Healthcheck.Test) == 0 || doc.Services["startup"].DependsOn["database"].Condition != "service_healthy" ||
		doc.Services["tenantkeep"].DependsOn["startup"].Condition != "service_completed_successfully" {
		t.Errorf("the order of services is %+v", doc.Services)
	}
	if file := doc.Secrets["database-password"].File; file != "./secrets/database-password" {
		t.Errorf("the secret is %q", file)
	}
}
