package notify

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// sample is an event with text that would break a page, a chat or a header.
func sample() *Event {
	e := someRun().Backup(Outcome{
		Ended:    evening,
		Manifest: backupOf("20261123_201330", 90*time.Second, map[string]int64{"acme": 2000, "bad": -1}),
		Before:   backupOf("20261122_201330", 60*time.Second, map[string]int64{"acme": 1000}),
	})
	e.Problems[0].Tenant = "<b>bäd</b> & <!channel>"
	return newScrubber(nil).event(*e)
}

// parts returns the parts of a mail by their types.
func parts(t *testing.T, m received) map[string]string {
	t.Helper()
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/alternative" {
		t.Fatalf("type %q: %v", kind, err)
	}
	found := map[string]string{}
	reader := multipart.NewReader(bytes.NewReader(m.body), params["boundary"])
	for {
		part, err := reader.NextRawPart()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		var body io.Reader = part
		switch part.Header.Get("Content-Transfer-Encoding") {
		case "quoted-printable":
			body = quotedprintable.NewReader(part)
		case "base64":
			body = base64.NewDecoder(base64.StdEncoding, part)
		}
		text, err := io.ReadAll(body)
		if err != nil {
			t.Fatal(err)
		}
		kind, _, _ := strings.Cut(part.Header.Get("Content-Type"), ";")
		found[kind] = strings.ReplaceAll(string(text), "\r\n", "\n")
	}
}

func TestMailArrives(t *testing.T) {
	t.Parallel()
	for _, security := range []Security{STARTTLS, Implicit, Auto, NoTLS} {
		t.Run(string(security), func(t *testing.T) {
			t.Parallel()
			s := newMailServer(t, security)
			m := &Mail{Server: s.server(security), From: "Backups <backup@example.com>", To: "Ops <ops@example.com>"}
			if security == NoTLS {
				m.User, m.Password = "", ""
			}
			if err := m.Probe(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := sendOnce(t, m, sample()); err != nil {
				t.Fatal(err)
			}
			all := s.messages()
			if len(all) != 1 {
				t.Fatalf("%d messages", len(all))
			}
			got := all[0]
			if got.encrypted != (security != NoTLS) || got.user != m.User || got.from != "backup@example.com" || got.to != "ops@example.com" {
				t.Errorf("encrypted %v, user %q, from %q, to %q", got.encrypted, got.user, got.from, got.to)
			}
			subject, err := new(mime.WordDecoder).DecodeHeader(got.Header.Get("Subject"))
			if err != nil || subject != "[tenantkeep] Backup of saas incomplete: 1 problem of 2 schemas" {
				t.Errorf("subject %q, error %v", subject, err)
			}
			for name, want := range map[string]string{
				"Message-Id": "<partial-r1@example.com>", "Auto-Submitted": "auto-generated", HeaderKind: "partial", "To": `"Ops" <ops@example.com>`,
			} {
				if got := got.Header.Get(name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			p := parts(t, got)
			for kind, wants := range map[string][]string{
				"text/plain": {"<b>bäd</b> & <!channel> (schema bad): it is broken\n", "1,000 rows (100%) more than last time", "tenantkeep backup --schema bad"},
				"text/html":  {"&lt;b&gt;bäd&lt;/b&gt; &amp; &lt;!channel&gt;", "it is broken", "1,000 rows (100%) more than last time", "background:#b45309"},
			} {
				for _, want := range wants {
					if !strings.Contains(p[kind], want) {
						t.Errorf("no %q in:\n%s", want, p[kind])
					}
				}
			}
			if strings.Contains(p["text/html"], "<b>b") || strings.Contains(p["text/html"], "ZgotmplZ") {
				t.Errorf("the page has foreign tags:\n%s", p["text/html"])
			}
		})
	}
}

func TestMailThatIsRefused(t *testing.T) {
	t.Parallel()
	s, plain := newMailServer(t, STARTTLS), newMailServer(t, NoTLS)
	s.refuse["full@example.com"], s.refuse["nobody@example.com"] = 452, 550
	mail := func(change func(*Mail)) *Mail {
		m := &Mail{Server: s.server(STARTTLS), From: "a@example.com", To: "b@example.com"}
		change(m)
		return m
	}
	for name, tt := range map[string]struct {
		mail      *Mail
		permanent bool
		wants     []string
	}{
		"wrong password":    {mail(func(m *Mail) { m.Password = "wrong-pw" }), false, []string{"535"}},
		"strange server":    {mail(func(m *Mail) { m.TLS = nil }), false, []string{"certificate"}},
		"no such receiver":  {mail(func(m *Mail) { m.To = "nobody@example.com" }), true, []string{"550"}},
		"full":              {mail(func(m *Mail) { m.To = "full@example.com" }), false, []string{"452"}},
		"no TLS there":      {mail(func(m *Mail) { m.Address = plain.address }), false, []string{"STARTTLS"}},
		"password in clear": {mail(func(m *Mail) { m.Address, m.Security = "mail.example.com:25", NoTLS }), true, []string{"without encryption"}},
		"nobody listens":    {mail(func(m *Mail) { m.Address = "127.0.0.1:1" }), false, []string{"127.0.0.1:1", "refused"}},
		"no port":           {mail(func(m *Mail) { m.Address = "mail.example.com" }), true, []string{"a colon and a port"}},
		"half a login":      {mail(func(m *Mail) { m.Password = "" }), true, []string{"no password"}},
	} {
		err := sendOnce(t, tt.mail, sample())
		requireError(t, err, tt.wants...)
		if _, permanent := errors.AsType[*PermanentError](err); permanent != tt.permanent {
			t.Errorf("%s: permanent %v: %v", name, permanent, err)
		}
		if strings.Contains(err.Error(), "wrong-pw") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error tells the password: %v", name, err)
		}
	}
	if n := len(s.messages()) + len(plain.messages()); n > 0 {
		t.Errorf("%d messages were delivered", n)
	}
	for text, ok := range map[string]bool{
		"a@example.com": true, "A B <a@b.example>": true, "a": false, "a@": false, "a@b\r\nBcc: c@d": false, "": false, "a@b, c@d": false,
	} {
		if err := CheckAddress(text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestWebhookIsSigned(t *testing.T) {
	t.Parallel()
	s := newWebServer(t, nil)
	e := sample()
	now := func() time.Time { return evening }
	if err := sendOnce(t, &Webhook{URL: s.URL + "/in?token=1", Secret: "k", Version: "1.2.3", Now: now}, e); err != nil {
		t.Fatal(err)
	}
	got := s.requests()[0]
	var back Event
	if err := json.Unmarshal(got.body, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(*e, back); diff != "" {
		t.Error(diff)
	}
	if got.method != http.MethodPost || got.path != "/in?token=1" || got.header.Get(HeaderID) != "partial-r1" || got.header.Get(HeaderKind) != "partial" ||
		got.header.Get("Content-Type") != "application/json" || got.header.Get("User-Agent") != "tenantkeep/1.2.3" {
		t.Errorf("request %s %s %v", got.method, got.path, got.header)
	}
	if want := Sign("k", "1795464900", got.body); got.header.Get(HeaderTime) != "1795464900" || got.header.Get(HeaderSignature) != want {
		t.Errorf("time %s, signature %s, want %s", got.header.Get(HeaderTime), got.header.Get(HeaderSignature), want)
	}
	// As openssl has it: printf 1.x | openssl dgst -sha256 -hmac key
	if got, want := Sign("key", "1", []byte("x")), "sha256=fc4913c41a7bf793267e2a384f3261c9436ec2cd097bd745e7b0d99113f510ec"; got != want {
		t.Errorf("signature %s, want %s", got, want)
	}
}

func TestHeartbeat(t *testing.T) {
	t.Parallel()
	s := newWebServer(t, nil)
	h := &Heartbeat{URL: s.URL + "/ping/uuid?x=1"}
	bad := *sample()
	for _, e := range []*Event{
		someRun().Event(Begun, evening), someRun().Event(Succeeded, evening), someRun().Event(Recovered, evening), &bad, someRun().Event(Failed, evening),
		{ID: "t", Kind: Test},
	} {
		if !h.Wants(e) {
			t.Errorf("%s is not wanted", e.Kind)
		}
		if err := sendOnce(t, h, e); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, r := range s.requests() {
		got = append(got, r.path)
	}
	want := []string{"/ping/uuid/start?x=1", "/ping/uuid?x=1", "/ping/uuid?x=1", "/ping/uuid/fail?x=1", "/ping/uuid/fail?x=1", "/ping/uuid/log?x=1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if text := string(s.requests()[3].body); !strings.Contains(text, "it is broken") {
		t.Errorf("failure says %q", text)
	}
	for _, e := range []*Event{{Kind: Worsened, Job: Health}, {Kind: Improved, Job: Health}, {Kind: Succeeded, Job: Cleanup}} {
		if h.Wants(e) {
			t.Errorf("%s of %s looks like a backup", e.Kind, e.Job)
		}
	}
}

func TestSlack(t *testing.T) {
	t.Parallel()
	s := newWebServer(t, nil)
	e := sample()
	for range 300 {
		e.Problems = append(e.Problems, Problem{Tenant: "t", Error: strings.Repeat("<", 500)})
	}
	e.ProblemCount, e.Error = len(e.Problems), "a ``` b"
	if err := sendOnce(t, &Slack{URL: s.URL}, e); err != nil {
		t.Fatal(err)
	}
	body := s.requests()[0].body
	var message struct {
		Text   string
		Blocks []struct {
			Type string
			Text struct{ Type, Text string }
		}
	}
	if err := json.Unmarshal(body, &message); err != nil {
		t.Fatal(err)
	}
	if message.Text != "Backup of saas incomplete: 301 problems of 302 schemas" {
		t.Errorf("text %q", message.Text)
	}
	all := ""
	for _, b := range message.Blocks {
		if n := len([]rune(b.Text.Text)); n > 3000 || b.Type == "header" && n > 150 || b.Type != "context" && n == 0 {
			t.Errorf("block %s of %d characters", b.Type, n)
		}
		all += b.Text.Text + "\n"
	}
	for _, want := range []string{
		":warning: Backup of saas incomplete", "```a ''' b```", "*&lt;b&gt;bäd&lt;/b&gt; &amp; &lt;!channel&gt; (schema bad)*: it is broken", " more\n",
		"*Took*  1m30s, 30s longer than last time", "• the other tenants are safe in backup 20261123_201330",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in:\n%s", want, all)
		}
	}
	if len(message.Blocks) > 50 || strings.Contains(all, "<") {
		t.Errorf("%d blocks, or a mention:\n%s", len(message.Blocks), all)
	}
}

func TestAnswersOfReceivers(t *testing.T) {
	t.Parallel()
	limited := func(n int, w http.ResponseWriter, _ *http.Request) {
		if n < 3 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
		}
	}
	for name, tt := range map[string]struct {
		answer   func(int, http.ResponseWriter, *http.Request)
		requests int
		wants    []string // of the error; none: it is delivered
	}{
		"fine":     {nil, 1, nil},
		"accepted": {status(http.StatusAccepted), 1, nil},
		"limited":  {limited, 3, nil},
		"broken":   {status(http.StatusInternalServerError), maxTries, []string{"500 Internal Server Error"}},
		"gone":     {status(http.StatusGone), 1, []string{"410 Gone"}},
		"redirect": {func(_ int, w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/other", http.StatusFound) }, 1, []string{"302 Found"}},
		"says why": {func(_ int, w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "invalid_blocks", http.StatusBadRequest)
		}, 1, []string{"400 Bad Request: invalid_blocks"}},
		"much later": {func(_ int, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusServiceUnavailable)
		}, 1, []string{"503 Service Unavailable"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newWebServer(t, tt.answer)
			err := sendOnce(t, &Webhook{URL: s.URL + "/secret-path"}, sample())
			if tt.wants == nil && err != nil {
				t.Error(err)
			}
			if tt.wants != nil {
				requireError(t, err, tt.wants...)
				if strings.Contains(err.Error(), "secret-path") {
					t.Errorf("the error tells the address: %v", err)
				}
			}
			if n := len(s.requests()); n != tt.requests {
				t.Errorf("%d requests, want %d", n, tt.requests)
			}
		})
	}
}

func TestReceiversThatDoNotAnswer(t *testing.T) {
	t.Parallel()
	encrypted := httptest.NewTLSServer(http.NotFoundHandler())
	defer encrypted.Close()
	mute := newWebServer(t, hanging)
	slow := newMailServer(t, STARTTLS)
	slow.hang = true
	for name, n := range map[string]Notifier{
		"no such host":        &Slack{URL: "http://127.0.0.1:1/T0/secret-path"},
		"unknown certificate": &Webhook{URL: encrypted.URL + "/secret-path"},
		"hangs":               &Heartbeat{URL: mute.URL + "/secret-path"},
		"mail hangs":          &Mail{Server: slow.server(Auto), From: "a@example.com", To: "b@example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := New(Options{Pause: time.Millisecond, Timeout: 400 * time.Millisecond, Attempt: 150 * time.Millisecond})
			err := o.Send(t.Context(), Channel{Name: name, Notifier: n}, sample())
			requireError(t, err)
			if strings.Contains(err.Error(), "secret-path") {
				t.Errorf("the error tells the address: %v", err)
			}
		})
	}
}

func TestCheckURL(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"https://hooks.slack.com/services/x": "", " http://localhost:8080 \n": "", "hooks.slack.com/x": "https://", "https:///x": "host",
		"ftp://h/secret": "https://", "https://h\x7f/secret": "valid", "": "https://",
	} {
		err := CheckURL(text)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
