package pgdump

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// TestPlace finds the end of an answer however it is cut.
func TestPlace(t *testing.T) {
	t.Parallel()
	notice := appendMessage(nil, 'N', []byte("Z\x00\x00\x00\x05I"))
	stream := slices.Concat(appendMessage(nil, messageColumns, nil), appendMessage(nil, messageRow, bytes.Repeat([]byte{'Z'}, 300)), notice, appendMessage(nil, messageReady, []byte{'I'}))
	for size := 1; size <= len(stream); size++ {
		var p place
		for i := 0; i < len(stream); i += size {
			if p.ready {
				t.Fatalf("in pieces of %d bytes: ready at %d of %d", size, i, len(stream))
			}
			piece := stream[i:min(i+size, len(stream))]
			if n := p.pass(piece); n != len(piece) {
				t.Fatalf("in pieces of %d bytes: passed %d at %d of %d", size, n, i, len(stream))
			}
		}
		if !p.ready || p.failed || p.status != 'I' {
			t.Errorf("in pieces of %d bytes: ready %t, failed %t, status %q", size, p.ready, p.failed, p.status)
		}
		if n := p.pass(notice); n != 0 {
			t.Errorf("passed %d bytes beyond the end", n)
		}
		p.ready = false
		failure := appendMessage(nil, messageError, []byte("x"))
		if n := p.pass(append(notice, failure...)); n != len(notice)+len(failure) || p.ready || !p.failed {
			t.Errorf("passed %d bytes of the next answer; ready %t, failed %t", n, p.ready, p.failed)
		}
	}
}

func TestStatementsThatAreNotPassedOn(t *testing.T) {
	t.Parallel()
	for sql, want := range map[string]bool{
		"LOCK TABLE a.b IN ACCESS SHARE MODE":                   true,
		"LOCK TABLE ONLY a.b, ONLY a.c IN ACCESS SHARE MODE;\n": true,
		"LOCK TABLE a.b IN EXCLUSIVE MODE":                      false,
		"SELECT 'LOCK TABLE a IN ACCESS SHARE MODE'":            false,
	} {
		if got := isLock([]byte(sql)); got != want {
			t.Errorf("%q: %t", sql, got)
		}
	}
	list, oid, ok := sequenceQuery([]byte("SELECT format_type(seqtypid, NULL), seqcycle FROM pg_catalog.pg_sequence WHERE seqrelid = '4711'::oid"))
	if !ok || string(list) != "format_type(seqtypid, NULL), seqcycle" || string(oid) != "4711" {
		t.Errorf("%q, %q, %t", list, oid, ok)
	}
	for _, sql := range []string{
		"SELECT a FROM pg_catalog.pg_sequence WHERE seqrelid = ''::oid", "SELECT a FROM pg_catalog.pg_sequence WHERE seqrelid = '1 or'::oid",
		"SELECT a FROM pg_catalog.pg_sequence WHERE seqrelid = '1'::oid LIMIT 1", "SELECT seqrelid FROM pg_catalog.pg_sequence ORDER BY seqrelid",
	} {
		if _, _, ok := sequenceQuery([]byte(sql)); ok {
			t.Errorf("%q is taken for a query for one sequence", sql)
		}
	}
}

// TestDamagedRows takes nothing of what a server should not send.
func TestDamagedRows(t *testing.T) {
	t.Parallel()
	good := []byte("\x00\x02\x00\x00\x00\x024 \x00\x00\x00\x01x")
	if first, err := firstValue(good); err != nil || string(first) != "4 " {
		t.Errorf("%q, %v", first, err)
	}
	if rest, err := withoutFirst(good, skipValue); err != nil || string(rest) != "\x00\x01\x00\x00\x00\x01x" {
		t.Errorf("%q, %v", rest, err)
	}
	for _, body := range []string{"", "\x00", "\x00\x00", "\x00\x01\x00\x00", "\x00\x01\x00\x00\x00\x09x", "\x00\x01\x7f\xff\xff\xffx"} {
		_, errFirst := firstValue([]byte(body))
		_, errRest := withoutFirst([]byte(body), skipValue)
		if errFirst == nil || errRest == nil {
			t.Errorf("%q: %v, %v", body, errFirst, errRest)
		}
	}
	for _, body := range []string{"\x00\x01name", "\x00\x01name\x00short"} {
		if _, err := withoutFirst([]byte(body), skipColumn); err == nil {
			t.Errorf("%q: no error", body)
		}
	}
}

// testRelay is a relay to a server that the test plays.
func testRelay(t *testing.T) (r *relay, server net.Conn) {
	t.Helper()
	ours, server := net.Pipe()
	config, err := pgconn.ParseConfig("postgres://me@h/d")
	if err != nil {
		t.Fatal(err)
	}
	r, err = Options{}.startRelay(&pgconn.HijackedConn{
		Conn: ours, Config: config, PID: 7, SecretKey: []byte{1, 2, 3, 4}, ParameterStatuses: map[string]string{"server_version": "15.1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r, server
}

// TestWelcome connects as clients of several versions do.
func TestWelcome(t *testing.T) {
	t.Parallel()
	for _, version := range []uint32{3 << 16, 3<<16 | 2, 3<<16 | 9999} {
		r, _ := testRelay(t)
		client, err := net.Dial("unix", socketIn(r.dir))
		if err != nil {
			t.Fatal(err)
		}
		send := func(words ...uint32) {
			for _, w := range words {
				if err := binary.Write(client, binary.BigEndian, w); err != nil {
					t.Fatal(err)
				}
			}
		}
		send(8, requestTLS)
		if answer := make([]byte, 1); true {
			if _, err := io.ReadFull(client, answer); err != nil || answer[0] != 'N' {
				t.Fatalf("%q, %v", answer, err)
			}
		}
		const parameters = "user\x00me\x00_pq_.new\x00on\x00\x00"
		send(uint32(8+len(parameters)), version)
		if _, err := io.WriteString(client, parameters); err != nil {
			t.Fatal(err)
		}
		frontend := pgproto3.NewFrontend(client, client)
		var got []string
		for {
			message, err := frontend.Receive()
			if err != nil {
				t.Fatal(err)
			}
			switch m := message.(type) {
			case *pgproto3.NegotiateProtocolVersion:
				got = append(got, "negotiate "+strings.Join(m.UnrecognizedOptions, " "))
			case *pgproto3.ParameterStatus:
				got = append(got, m.Name+" "+m.Value)
			case *pgproto3.BackendKeyData:
				got = append(got, "key")
			}
			if _, ok := message.(*pgproto3.ReadyForQuery); ok {
				break
			}
		}
		if want := []string{"negotiate _pq_.new", "server_version 15.1", "key"}; !slices.Equal(got, want) {
			t.Errorf("version %x: %q", version, got)
		}
		// Nobody else gets in, and nothing is left if it is killed now.
		if _, err := net.Dial("unix", socketIn(r.dir)); err == nil {
			t.Error("a second connection was accepted")
		}
		if _, err := os.Stat(r.dir); !os.IsNotExist(err) {
			t.Errorf("the folder is there while pg_dump is at work: %v", err)
		}
		if err := r.close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(r.dir); !os.IsNotExist(err) {
			t.Errorf("the folder is still there: %v", err)
		}
	}
}

// TestUnknownMessage refuses what nobody answers.
func TestUnknownMessage(t *testing.T) {
	t.Parallel()
	r, _ := testRelay(t)
	client, err := net.Dial("unix", socketIn(r.dir))
	if err != nil {
		t.Fatal(err)
	}
	start := append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, 9), 3<<16), 0)
	if _, err := client.Write(append(start, "P\x00\x00\x00\x05\x00"...)); err != nil {
		t.Fatal(err)
	}
	<-r.done
	if err := r.close(); err == nil || !strings.Contains(err.Error(), `a message of the kind 'P'`) {
		t.Errorf("got error %v", err)
	}
}

// TestSocketDir finds a place for the socket where TMPDIR is of no use.
func TestSocketDir(t *testing.T) {
	deep := filepath.Join(t.TempDir(), strings.Repeat("d", 100))
	comma := filepath.Join(t.TempDir(), "a,b")
	for _, dir := range []string{deep, comma} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, tmp := range []string{deep, comma, "/nonexistent", "/proc/self"} {
		t.Setenv("TMPDIR", tmp)
		dir, err := socketDir()
		if err != nil {
			t.Fatalf("TMPDIR=%s: %v", tmp, err)
		}
		if filepath.Dir(dir) != "/tmp" {
			t.Errorf("TMPDIR=%s: %s", tmp, dir)
		}
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("TMPDIR=%s: %v, %v", tmp, info, err)
		}
		if left, err := os.ReadDir(deep); err != nil || len(left) > 0 {
			t.Errorf("left %v, %v", left, err)
		}
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	}
}

// TestStaleSocketDirs removes what killed runs left, and nothing else.
func TestStaleSocketDirs(t *testing.T) {
	parent, err := os.MkdirTemp("/tmp", "tk") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(parent) })
	t.Setenv("TMPDIR", parent)
	before := time.Now().Add(-2 * staleAge)
	for name, old := range map[string]bool{"tenantkeep-1": true, "tenantkeep-2": false, "tenantkeep-3x": true, "tenantkeep-pg-4": true, "other-5": true} {
		dir := filepath.Join(parent, name)
		files := []string{socketIn(dir)}
		if name == "tenantkeep-3x" {
			files = append(files, filepath.Join(dir, "precious"))
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if old {
			if err := os.Chtimes(dir, before, before); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir, err := socketDir()
	if err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(parent, "*"))
	want := []string{"other-5", filepath.Base(dir), "tenantkeep-2", "tenantkeep-3x", "tenantkeep-pg-4"}
	for i := range left {
		left[i] = filepath.Base(left[i])
	}
	slices.Sort(left)
	slices.Sort(want)
	if err != nil || !slices.Equal(left, want) {
		t.Errorf("left %q, want %q", left, want)
	}
}
