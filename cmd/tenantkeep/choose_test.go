package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// stage is an app in a time of its own, with repositories of written manifests.
type stage struct {
	*app
	dir            string
	stdout, stderr bytes.Buffer
}

func newStage(t *testing.T, now string) *stage {
	t.Helper()
	s := &stage{dir: t.TempDir()}
	at := stageTime(t, now)
	s.app = &app{
		stdin: strings.NewReader(""), stdout: &s.stdout, stderr: &s.stderr, verbosity: ui.Normal,
		lookupEnv: func(string) (string, bool) { return "", false }, now: func() time.Time { return at },
	}
	return s
}

func stageTime(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.DateTime, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// places opens the repository and its rollback points.
func (s *stage) places(t *testing.T) []place {
	t.Helper()
	var places []place
	for _, dir := range []string{s.dir, filepath.Join(s.dir, rollbackName)} {
		p, err := s.openPlace(dir, time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		places = append(places, p)
	}
	return places
}

// backup writes a manifest of a backup that was taken at a time and holds
// schemas; change, which may be nil, changes it before.
func (s *stage) backup(t *testing.T, folder, taken string, schemas []string, change func(*manifest.Manifest)) string {
	t.Helper()
	at := stageTime(t, taken)
	id := at.Format("20060102_150405")
	m := manifest.Manifest{Format: 1, ID: id, BackupType: manifest.Full, Timestamp: manifest.NewTime(at), Schemas: []manifest.Schema{}}
	for _, name := range schemas {
		file := name + "_full_" + id + ".sql.zst"
		m.Schemas = append(m.Schemas, manifest.Schema{
			Schema: name, Tenant: name, Filename: file, Filepath: "data/" + file, Size: 4, Hash: "sha256:" + strings.Repeat("0", 64),
			Timestamp: id, Type: manifest.Full, Tables: 2, Rows: 1234, Bytes: 5000,
		})
	}
	if change != nil {
		change(&m)
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, filepath.Join(folder, "manifests", "backup_manifest_"+id+".json"), string(text))
	for _, entry := range m.Schemas {
		s.write(t, filepath.Join(folder, entry.Filepath), "data")
	}
	return id
}

func (s *stage) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFindBackup(t *testing.T) {
	t.Parallel()
	s := newStage(t, "2026-11-23 12:00:00")
	s.backup(t, "", "2026-11-19 00:00:00", []string{"acme"}, func(m *manifest.Manifest) { m.Format, m.ID = 0, "" })
	s.backup(t, "", "2026-11-20 00:00:00", []string{"acme", "globex"}, func(m *manifest.Manifest) {
		m.IncludeMedia, m.Schemas[1].Media = true, &manifest.Media{Failed: 1, Failures: []string{"gone"}}
	})
	s.backup(t, "", "2026-11-21 00:00:00", []string{"acme"}, func(m *manifest.Manifest) {
		m.Failures = []manifest.Failure{{Schema: "globex", Tenant: "globex", Error: "permission denied"}}
	})
	// Its snapshot, and later that of globex alone, was taken after it began.
	s.backup(t, "", "2026-11-22 00:00:00", []string{"acme", "globex"}, func(m *manifest.Manifest) {
		m.Snapshot = &manifest.Snapshot{Time: m.Timestamp.Add(250 * time.Millisecond)}
		m.Schemas[1].Snapshot = &manifest.Snapshot{Time: m.Timestamp.Add(10 * time.Minute)}
		m.Schemas[1].Tenant = "Globex Inc"
	})
	s.backup(t, "", "2026-11-22 06:00:00", []string{"acme", "globex"}, func(m *manifest.Manifest) { m.BackupType = manifest.Baseline })
	s.backup(t, rollbackName, "2026-11-23 09:00:00", []string{"acme"}, nil)
	s.write(t, "manifests/backup_manifest_20261123_100000.json", "{")
	for _, tt := range []struct {
		name  string
		want  wanted
		id    string
		error string // in the error
		said  []string
	}{
		{"nothing", wanted{}, "", "nothing says which backup", nil},
		{"two", wanted{Manifest: "x", Latest: true}, "", "--manifest and --latest are two different backups", nil},
		{"three", wanted{Manifest: "x", Latest: true, At: "now"}, "", "--manifest, --latest and --at are different", nil},
		{"latest", wanted{Latest: true}, "20261122_000000", "", []string{"20261123_100000 is passed over"}},
		{"latest of a tenant by name", wanted{Latest: true, Schemas: []string{"Globex Inc", "acme"}}, "20261122_000000", "", nil},
		{"of nobody", wanted{Latest: true, Schemas: []string{"nobody\x1b"}}, "", `holds "nobody\x1b"`, nil},
		{"with media", wanted{Latest: true, Media: true, Schemas: []string{"acme"}}, "20261120_000000", "", []string{"passing over 2 backups newer than 20261120_000000, without acme with media"}},
		{"with media that could not be saved", wanted{Latest: true, Media: true}, "", "holds media", nil},
		{"now", wanted{At: "now"}, "20261122_000000", "", []string{"taken 35h50m before"}},
		{"just before", wanted{At: "2026-11-21 23:59", Schemas: []string{"acme"}}, "20261121_000000", "", []string{
			"As of 2026-11-21 23:59:00 UTC", "backup 20261121_000000, taken 23h59m before; the next one, 20261122_000000, was taken 1m0s after",
		}},
		{"of a list, to the second", wanted{At: "2026-11-22 00:00:00", Schemas: []string{"acme"}}, "20261122_000000", "", nil},
		{"by an id", wanted{At: "20261122_000000", Schemas: []string{"acme"}}, "20261122_000000", "", nil},
		{"a schema that was taken later", wanted{At: "2026-11-22 00:09:59", Schemas: []string{"globex"}}, "20261120_000000", "", []string{"passing over 1 backup newer than 20261120_000000, without globex"}},
		{"when that was taken", wanted{At: "2026-11-22 00:10:00", Schemas: []string{"globex"}}, "20261122_000000", "", nil},
		{"no rollback point", wanted{At: "2026-11-23 09:30", Schemas: []string{"acme"}}, "20261122_000000", "", nil},
		{"too old", wanted{At: "2026-11-01", Schemas: []string{"acme"}}, "", "no backup of acme in", nil},
		{"too old, of all", wanted{At: "2026-11-01"}, "", "is as old as 2026-11-01 00:00:00 UTC", nil},
		{"in the future", wanted{At: "2026-11-23 14:00", Schemas: []string{"acme"}}, "", "--at: 2026-11-23 14:00:00 UTC is 2 hours from now", nil},
		{"no time", wanted{At: "14 o'clock"}, "", "not a time", nil},
		{"by id", wanted{Manifest: "20261120_000000"}, "20261120_000000", "", nil},
		{"by file", wanted{Manifest: "backup_manifest_20261120_000000.json"}, "20261120_000000", "", nil},
		{"by path", wanted{Manifest: filepath.Join(s.dir, "manifests/backup_manifest_20261120_000000.json")}, "20261120_000000", "", nil},
		{"a rollback point", wanted{Manifest: "rollback/20261123_090000"}, "rollback/20261123_090000", "", nil},
		{"a rollback point by id alone", wanted{Manifest: "20261123_090000"}, "rollback/20261123_090000", "", []string{"is a rollback point"}},
		{"a rollback point by path", wanted{Manifest: filepath.Join(s.dir, "rollback/manifests/backup_manifest_20261123_090000.json")}, "rollback/20261123_090000", "", nil},
		{"no rollback point", wanted{Manifest: "rollback/20261120_000000"}, "", "no such backup", nil},
		{"a broken one", wanted{Manifest: "20261123_100000"}, "", "20261123_100000", nil},
		{"a file elsewhere", wanted{Manifest: filepath.Join(s.dir, "data/acme_full_20261120_000000.sql.zst")}, "", "does not lie in a folder manifests", nil},
	} {
		s.stderr.Reset()
		p, b, err := s.findBackup(t.Context(), s.places(t), tt.want)
		if tt.error != "" {
			if err == nil || !strings.Contains(err.Error(), tt.error) {
				t.Errorf("%s: %v, want %q", tt.name, err, tt.error)
			}
			continue
		}
		if err != nil || p.name(b.ID) != tt.id {
			t.Errorf("%s: %s, %v; want %s", tt.name, p.name(b.ID), err, tt.id)
		}
		mention(t, s.stderr.String(), tt.said...)
	}

	empty := newStage(t, "2026-11-23 12:00:00")
	_, _, err := empty.findBackup(t.Context(), empty.places(t), wanted{Latest: true, Schemas: []string{"acme"}})
	if err == nil || !strings.Contains(err.Error(), "there is no backup in") {
		t.Error(err)
	}
	_, _, err = empty.findBackup(t.Context(), empty.places(t), wanted{At: "2099-01-01"})
	if err == nil || !strings.Contains(err.Error(), "there is no backup in") {
		t.Error(err)
	}
}

func TestListAvailable(t *testing.T) {
	t.Parallel()
	s := newStage(t, "2026-11-23 12:00:00")
	evil := "a\nb\x1b[2J"
	s.backup(t, "", "2026-11-20 12:00:00", []string{"public", "acme"}, func(m *manifest.Manifest) {
		m.Schemas[0].Tenant = "core"
		m.Failures = []manifest.Failure{{Schema: evil, Tenant: evil, Error: "permission\ndenied"}}
	})
	s.backup(t, "", "2026-11-21 12:00:00", []string{"acme"}, nil)
	s.backup(t, "", "2026-11-22 12:00:00", []string{"acme"}, func(m *manifest.Manifest) { m.BackupType = manifest.Baseline })
	s.backup(t, rollbackName, "2026-11-23 11:00:00", []string{"acme"}, nil)
	if err := os.Remove(filepath.Join(s.dir, "data/acme_full_20261120_120000.sql.zst")); err != nil {
		t.Fatal(err)
	}
	s.write(t, "manifests/backup_manifest_20261123_100000.json", "{")

	table := format{choices: []string{formatTable, formatJSON}}
	if err := s.listAvailable(t.Context(), s.places(t), nil, table); err != nil {
		t.Fatal(err)
	}
	want := "" +
		`SCHEMA         BACKUP                    TYPE      AGE         TABLES   ROWS  STORED  STATE
public         20261120_120000           full      3 days ago       2  1,234     4 B  ok
"a\nb\x1b[2J"  20261120_120000           full      3 days ago       -      -       -  failed
acme           rollback/20261123_110000  rollback  1 hour ago       2  1,234     4 B  ok
acme           20261121_120000           full      2 days ago       2  1,234     4 B  ok
acme           20261120_120000           full      3 days ago       2  1,234     4 B  incomplete
`
	if diff := cmp.Diff(want, s.stdout.String()); diff != "" {
		t.Error(diff)
	}
	mention(t, s.stderr.String(), "backup 20261123_100000 is broken", "schema acme of backup 20261120_120000 is incomplete: 1 file missing",
		`schema "a\nb\x1b[2J" of backup 20261120_120000 is failed: permission`, "5 restore points in "+s.dir)
	if strings.Contains(s.stderr.String(), "\x1b") {
		t.Errorf("%q", s.stderr.String())
	}

	s.stdout.Reset()
	form := table
	form.chosen = formatJSON
	if err := s.listAvailable(t.Context(), s.places(t), []string{"acme"}, form); err != nil {
		t.Fatal(err)
	}
	var got []map[string]any
	if err := json.Unmarshal(s.stdout.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 {
		t.Fatalf("%d points:\n%s", len(got), s.stdout.String())
	}
	first := map[string]any{
		"tenant": "acme", "schema": "acme", "backup": "20261123_110000", "manifest": "rollback/20261123_110000", "rollback": true,
		"taken": "2026-11-23T11:00:00Z", "age_seconds": 3600.0, "type": "full", "state": "ok",
		"tables": 2.0, "rows": 1234.0, "bytes_stored": 4.0, "bytes_text": 5000.0,
	}
	if diff := cmp.Diff(first, got[0]); diff != "" {
		t.Error(diff)
	}

	s.stdout.Reset()
	s.stderr.Reset()
	if err := s.listAvailable(t.Context(), s.places(t), []string{"nobody"}, form); err != nil || s.stdout.String() != "[]\n" {
		t.Errorf("%q, %v", s.stdout.String(), err)
	}
	mention(t, s.stderr.String(), "can be restored of nobody")
}

// A tenant that is called otherwise than its schema has a column, and both
// names lead to it.
func TestListAvailableOfMappedTenants(t *testing.T) {
	t.Parallel()
	s := newStage(t, "2026-11-23 12:00:00")
	s.backup(t, "", "2026-11-20 12:00:00", []string{"t17", "t18"}, func(m *manifest.Manifest) { m.Schemas[0].Tenant = "Acme Ltd" })
	for _, name := range []string{"t17", "Acme Ltd"} {
		s.stdout.Reset()
		if err := s.listAvailable(t.Context(), s.places(t), []string{name}, format{choices: []string{formatTable}}); err != nil {
			t.Fatal(err)
		}
		if text := s.stdout.String(); !strings.HasPrefix(text, "SCHEMA  TENANT    BACKUP") || strings.Contains(text, "t18") {
			t.Errorf("of %s:\n%s", name, text)
		}
	}
}
