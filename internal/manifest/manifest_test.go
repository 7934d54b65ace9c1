package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var digest = strings.Repeat("0123456789abcdef", 4)

func valid() *Manifest {
	return &Manifest{
		Timestamp:     NewTime(time.Date(2026, 11, 23, 0, 0, 1, 123456789, time.UTC)),
		BackupType:    Full,
		RetentionDays: 30,
		Retention:     RetainExactly,
		Compressed:    true,
		Format:        Format,
		ID:            "20261123_000001",
		Compression:   "zstd",
		Finished:      time.Date(2026, 11, 23, 0, 0, 9, 0, time.UTC),
		Tool:          &Tool{Name: "tenantkeep", Version: "1.0.0", PgDump: "15.18"},
		Database:      &Database{Name: "a=b", ServerVersion: "15.18", ServerVersionNum: 150018, Encoding: "UTF8"},
		Snapshot:      &Snapshot{Time: time.Date(2026, 11, 23, 0, 0, 2, 0, time.UTC), LSN: "0/1A2B3C"},
		Schemas: []Schema{{
			Schema: "public", Tenant: CoreTenant,
			Filename: "core_public_full_20261123_000001.sql.zst",
			Filepath: "data/core_public_full_20261123_000001.sql.zst",
			Size:     77, Hash: "sha256:" + digest, Timestamp: "20261123_000001", Type: Full,
			Tables: 3, Rows: 12, Bytes: 400,
		}, {
			Schema: "Öl & <Gas>", Tenant: "Öl & <Gas>",
			Filepath: "data/%C3%96l_full_20261123_000001.sql.zst",
			Hash:     "sha256:" + digest, Type: Full, References: []string{"data/older.sql.zst"},
		}},
		Failures: []Failure{{Schema: "broken", Tenant: "broken", Error: "copy orders: permission denied"}},
	}
}

func TestEncodeDecode(t *testing.T) {
	t.Parallel()
	m := valid()
	var b bytes.Buffer
	if err := m.Encode(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`  "timestamp": "2026-11-23T00:00:01.123456Z",` + "\n", // indented, microseconds, zone
		`"schema": "Öl & <Gas>"`,
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("JSON lacks %s:\n%s", want, b.String())
		}
	}
	got, err := Decode(&b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, got); diff != "" {
		t.Errorf("other after reading (-written +read):\n%s", diff)
	}
}

// As the original system writes it: no zone, a bare digest, null for no media.
const original = `{
  "timestamp": "2024-12-15T14:30:22.123456",
  "backup_type": "full",
  "schemas": [
    {
      "schema": "public",
      "tenant": "core",
      "filename": "core_public_full_20241215_143022.sql.gz",
      "filepath": "/app/backups/data/core_public_full_20241215_143022.sql.gz",
      "size": 1048576,
      "hash": "%s",
      "media_backup": null,
      "timestamp": "20241215_143022",
      "type": "full"
    },
    {
      "schema": "customer a",
      "tenant": "customer a",
      "filename": "customer a_customer a_full_20241215_143023.sql.gz",
      "filepath": "/app/backups/data/customer a_customer a_full_20241215_143023.sql.gz",
      "size": 5,
      "hash": "sha256:%s",
      "media_backup": "/app/backups/media/customer a_media_20241215_143023.tar.gz",
      "timestamp": "20241215_143023",
      "type": "full"
    }
  ],
  "retention_days": 30,
  "include_media": true,
  "compressed": true,
  "added_later": {"x": [1]}
}`

func TestDecodeOriginal(t *testing.T) {
	t.Parallel()
	m, err := Decode(strings.NewReader("\ufeff" + fmt.Sprintf(original, strings.ToUpper(digest), digest)))
	if err != nil {
		t.Fatal(err)
	}
	if want := time.Date(2024, 12, 15, 14, 30, 22, 123456000, time.UTC); !m.Timestamp.Time.Equal(want) {
		t.Errorf("timestamp %v, want %v", m.Timestamp, want)
	}
	if m.Schemas[0].Filepath != "/app/backups/data/core_public_full_20241215_143022.sql.gz" {
		t.Errorf("filepath became %q", m.Schemas[0].Filepath)
	}
	type place struct{ Key, Media, Digest string }
	var got []place
	for _, s := range m.Schemas {
		var p place
		if p.Key, err = s.Key(m.Format); err != nil {
			t.Error(err)
		}
		if s.MediaBackup != "" {
			if p.Media, err = s.MediaKey(m.Format); err != nil {
				t.Error(err)
			}
		}
		if p.Digest, err = s.Digest(m.Format); err != nil {
			t.Error(err)
		}
		got = append(got, p)
	}
	want := []place{
		{"data/core_public_full_20241215_143022.sql.gz", "", digest},
		{"data/customer a_customer a_full_20241215_143023.sql.gz", "media/customer a_media_20241215_143023.tar.gz", digest},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var b bytes.Buffer
	if err := m.Encode(&b); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), `"2024-12-15T14:30:22.123456"`) {
		t.Errorf("the time is not kept as it was read:\n%s", b.String())
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	encoded := func(change func(m map[string]any)) string {
		var b bytes.Buffer
		if err := valid().Encode(&b); err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(b.Bytes(), &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		out, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	set := func(field string, v any) string { return encoded(func(m map[string]any) { m[field] = v }) }
	first := func(field string, v any) string {
		return encoded(func(m map[string]any) { m["schemas"].([]any)[0].(map[string]any)[field] = v })
	}
	fine := encoded(func(map[string]any) {})
	if _, err := Decode(strings.NewReader(fine)); err != nil {
		t.Fatalf("the manifest that the cases change is refused: %v", err)
	}
	for name, c := range map[string]struct{ in, want string }{
		"empty":                  {"", "is empty"},
		"blank":                  {" \n", "is empty"},
		"not JSON":               {"PGDMP\x01", "not a JSON object"},
		"null":                   {"null", "not a JSON object"},
		"list":                   {"[]", "not a JSON object"},
		"broken":                 {`{"timestamp": }`, "not JSON at byte"},
		"cut short":              {fine[:len(fine)/2], "cut short"},
		"garbage at the end":     {fine + "{}", "not JSON at byte"},
		"zero bytes at the end":  {fine + "\x00\x00", "not JSON at byte"},
		"newer":                  {set("format", 7), "manifest format 7 is newer than this version of tenantkeep reads (1)"},
		"newer in another shape": {`{"format": 7, "schemas": {"by": "name"}, "timestamp": 5}`, "manifest format 7 is newer"},
		"negative format":        {set("format", -1), "format -1"},
		"format as text":         {set("format", "1"), `"format"`},
		"another JSON":           {`{"name": "package.json"}`, "no timestamp"},
		"no schemas":             {set("schemas", nil), "no list of schemas"},
		"schemas as text":        {set("schemas", "all"), `"schemas"`},
		"no id":                  {set("id", ""), "no id"},
		"bad time":               {set("timestamp", "yesterday"), "is not a time"},
		"time as number":         {set("timestamp", 17), "not a string"},
		"unknown type":           {set("backup_type", "sideways"), `unknown backup_type "sideways"`},
		"unknown retention":      {set("retention", "maybe"), `unknown retention "maybe"`},
		"no schema name":         {first("schema", ""), "entry 1 of schemas has no schema name"},
		"schema twice":           {first("schema", "Öl & <Gas>"), "twice"},
		"negative size":          {first("size", -1), "size -1 is negative"},
		"fractional size":        {first("size", 1.5), `"schemas.size"`},
		"negative rows":          {first("rows", -1), "negative"},
		"year 10000 in UTC":      {set("timestamp", "9999-12-31T23:59:59-12:00"), "year 10000 is out of range"},
		"year 9999":              {set("timestamp", "9999-06-01T00:00:00Z"), "out of range"},
		"year 0":                 {set("timestamp", "0001-01-01T00:00:00+12:00"), "year 0 is out of range"},
		"finished in year 10000": {set("finished", "9999-12-31T23:59:59-12:00"), "finished of which the year 10000"},
		"rebuilt in year 0":      {set("rebuilt", "0001-01-01T00:00:00+12:00"), "rebuilt of which the year 0"},
		"endless retention":      {set("retention_days", 36501), "retention_days 36501, which is more than 36500"},
		"too many rows":          {first("rows", int64(1<<62)), "more tables, rows or bytes"},
		"too many bytes": {
			encoded(func(m map[string]any) {
				for _, s := range m["schemas"].([]any) {
					s.(map[string]any)["bytes"] = int64(1<<53 - 1)
				}
			}), "more tables, rows or bytes",
		},
		"no file": {first("filepath", ""), "no filepath"},
		"one file twice": {
			encoded(func(m map[string]any) {
				s := m["schemas"].([]any)
				s[0].(map[string]any)["filepath"] = s[1].(map[string]any)["filepath"]
				s[0].(map[string]any)["filename"] = ""
			}), "name the same file",
		},
		"other filename":  {first("filename", "x.sql"), "is not that of filepath"},
		"short hash":      {first("hash", "sha256:abc123"), "64 hexadecimal digits"},
		"no hash":         {first("hash", ""), "does not begin with sha256:"},
		"index hash":      {first("index_hash", "sha256:abc"), "index_hash"},
		"other hash":      {first("hash", "md5:"+digest), "does not begin with sha256:"},
		"hash of letters": {first("hash", "sha256:"+strings.Repeat("z", 64)), "64 hexadecimal digits"},
		"media outside":   {first("media_backup", "../media.tar"), "outside the repository"},
		"reference outside": {
			first("references", []string{"data/ok.sql", "data/../../x.sql"}), "outside the repository",
		},
		"saved and failed": {
			set("failures", []any{map[string]any{"schema": "public"}}), "both as saved and as failed",
		},
		"failure of nobody": {set("failures", []any{map[string]any{"error": "x"}}), "failures has no schema name"},
	} {
		_, err := Decode(strings.NewReader(c.in))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
	_, err := Decode(strings.NewReader(set("format", 7)))
	if fe, ok := errors.AsType[*FormatError](err); !ok || fe.Format != 7 {
		t.Errorf("a newer format gives %#v, want a FormatError with 7", err)
	}
}

// A manifest that was damaged anywhere is refused, or means what it meant.
func TestDigest(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := valid().Encode(&b); err != nil {
		t.Fatal(err)
	}
	text := b.Bytes()
	lines := bytes.SplitAfter(text, []byte("\n"))
	before := bytes.Join(lines[:len(lines)-3], nil) // the digest, the brace, and nothing
	sum := sha256.Sum256(bytes.TrimSuffix(before, []byte(",\n")))
	if got := string(lines[len(lines)-3]); got != fmt.Sprintf("  \"digest\": \"sha256:%x\"\n", sum) {
		t.Errorf("the last field is %q", got)
	}
	want, err := Decode(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	for i := range text {
		for bit := range 8 {
			bad := bytes.Clone(text)
			bad[i] ^= 1 << bit
			got, err := Decode(bytes.NewReader(bad))
			if errors.Is(err, ErrChanged) {
				changed++
			}
			if err == nil && !cmp.Equal(want, got) {
				t.Fatalf("bit %d of byte %d inverted is not noticed:\n%s", bit, i, cmp.Diff(want, got))
			}
		}
	}
	if changed < 1000 {
		t.Errorf("the digest found only %d of %d changes", changed, 8*len(text))
	}
	edited := strings.Replace(string(text), `"retention_days": 30`, `"retention_days": 3`, 1)
	if _, err := Decode(strings.NewReader(edited)); !errors.Is(err, ErrChanged) {
		t.Errorf("an edited manifest: %v", err)
	}
	// Who edits it on purpose removes the digest.
	var m map[string]any
	if err := json.Unmarshal([]byte(edited), &m); err != nil {
		t.Fatal(err)
	}
	delete(m, "digest")
	by, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Decode(bytes.NewReader(by)); err != nil || got.RetentionDays != 3 {
		t.Errorf("without a digest: %v", err)
	}
}

func TestDecodeTooLarge(t *testing.T) {
	if testing.Short() {
		t.Skip("reads 256 MiB")
	}
	_, err := Decode(&spaces{n: MaxSize + 1})
	if err == nil || !strings.Contains(err.Error(), "larger than 256 MiB") {
		t.Errorf("error %v", err)
	}
}

// spaces is an endless JSON object: blanks, which are legal, after a brace.
type spaces struct{ n, at int }

func (s *spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	if s.at == 0 {
		p[0] = '{'
	}
	s.at += len(p)
	return len(p), nil
}

func TestKey(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		format int
		path   string
		want   string // empty: refused
	}{
		{1, "data/a_full_20261123_000001.sql.zst", "data/a_full_20261123_000001.sql.zst"},
		{1, "rollback/data/a.sql", "rollback/data/a.sql"},
		{1, "data/%2E%2E_full.sql", "data/%2E%2E_full.sql"},
		{1, "", ""},
		{1, ".", ""},
		{1, "..", ""},
		{1, "/etc/passwd", ""},
		{1, "../data/a.sql", ""},
		{1, "data/../../a.sql", ""},
		{1, "data/..", ""},
		{1, "data/../data/a.sql", ""},
		{1, "data//a.sql", ""},
		{1, "data/./a.sql", ""},
		{1, "data/", ""},
		{1, `data\a.sql`, ""},
		{1, `..\..\a.sql`, ""},
		{1, `C:\a.sql`, ""},
		{1, "C:/a.sql", ""},
		{1, "data/a\x00.sql", ""},
		{1, "data/a\n.sql", ""},
		{1, "data/\xff.sql", ""},
		{1, "data/.tmp-a.sql-1", ""},
		{0, "/app/backups/data/a.sql", "data/a.sql"},
		{0, "/app/backups/../../data/a b.sql.gz", "data/a b.sql.gz"},
		{0, "a.sql", "data/a.sql"},
		{0, "", ""},
		{0, "/", ""},
		{0, "/app/..", ""},
		{0, "/app/.hidden", ""},
		{0, `C:\backups\a.sql`, "data/a.sql"},
		{0, `C:\backups/data\..`, ""},
		{0, `C:\backups\`, "data/backups"},
		{0, "/app/a\x00.sql", ""},
	} {
		got, err := Schema{Filepath: c.path}.Key(c.format)
		if c.want == "" {
			if err == nil {
				t.Errorf("format %d, %q: taken as %q", c.format, c.path, got)
			}
			continue
		}
		if err != nil || got != c.want {
			t.Errorf("format %d, %q: %q, %v, want %q", c.format, c.path, got, err, c.want)
		}
	}
}

func TestTime(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"2024-12-15T14:30:22.123456":       "2024-12-15T14:30:22.123456Z",
		"2024-12-15T14:30:22":              "2024-12-15T14:30:22.000000Z",
		"2024-12-15T14:30:22Z":             "2024-12-15T14:30:22.000000Z",
		"2024-12-15 14:30:22":              "2024-12-15T14:30:22.000000Z",
		"2024-12-15 14:30:22.5+02:00":      "2024-12-15T12:30:22.500000Z",
		"2024-12-15T14:30:22.5+02:00":      "2024-12-15T12:30:22.500000Z",
		"2024-12-15T14:30:22.123456+00:00": "2024-12-15T14:30:22.123456Z",
	} {
		got, err := ParseTime(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got.String() != in {
			t.Errorf("%s is written as %s", in, got)
		}
		if s := NewTime(got.Time).String(); s != want {
			t.Errorf("%s is %s, want %s", in, s, want)
		}
		got.Time = got.Add(time.Hour)
		if got.String() == in {
			t.Errorf("%s changed by an hour is still written as read", in)
		}
	}
	for _, in := range []string{"", "20241215_143022", "2024-12-15", "2024-13-15T14:30:22", "2024-12-15T14:30:22 Z", "2024-12-15  14:30:22", "2024-12-15 "} {
		if got, err := ParseTime(in); err == nil {
			t.Errorf("%q is read as %v", in, got)
		}
	}
}

// A time without a zone is one of the clock that whoever reads it names.
func TestTimeInZone(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"2024-12-15T14:30:22.123456":  "2024-12-15T13:30:22.123456Z",
		"2024-07-15T14:30:22":         "2024-07-15T12:30:22.000000Z",
		"2024-07-15 14:30:22":         "2024-07-15T12:30:22.000000Z",
		"2024-12-15T14:30:22Z":        "2024-12-15T14:30:22.000000Z",
		"2024-12-15T14:30:22.5+02:00": "2024-12-15T12:30:22.500000Z",
	} {
		read, err := ParseTime(in)
		if err != nil {
			t.Fatal(err)
		}
		got := read.InZone(berlin)
		if s := NewTime(got.Time).String(); s != want {
			t.Errorf("%s is %s, want %s", in, s, want)
		}
		if again := got.InZone(berlin); !again.Equal(got) {
			t.Errorf("%s is %s the second time", in, again)
		}
		if back := got.InZone(time.UTC); !back.Equal(read) || back.String() != in {
			t.Errorf("%s in UTC is %s", in, back)
		}
	}
	at := NewTime(time.Date(2024, 12, 15, 14, 30, 22, 0, time.UTC))
	if got := at.InZone(berlin); !got.Equal(at) {
		t.Errorf("%s was not read, and is now %s", at, got)
	}
}

func TestEncodeRefusesNamesThatJSONCannotHold(t *testing.T) {
	t.Parallel()
	m := valid()
	m.Schemas[0].Schema = "latin\xe9"
	if err := m.Encode(new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), "not UTF-8") {
		t.Errorf("error %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	var b bytes.Buffer
	if err := valid().Encode(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(fmt.Appendf(nil, original, digest, digest))
	f.Add([]byte(`{"format":7}`))
	f.Add([]byte(`{"timestamp":"2024-12-15T14:30:22","backup_type":"full","schemas":[]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := Decode(bytes.NewReader(in))
		if err != nil {
			return
		}
		for _, s := range m.Schemas {
			key, err := s.Key(m.Format)
			if s.Filepath != "" && (err != nil || strings.HasPrefix(key, "/") || strings.Contains("/"+key+"/", "/../")) {
				t.Fatalf("filepath %q gave the key %q, %v", s.Filepath, key, err)
			}
		}
		var out bytes.Buffer
		if err := m.Encode(&out); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		again, err := Decode(&out)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if diff := cmp.Diff(m, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("other after writing (-first +second):\n%s", diff)
		}
	})
}
