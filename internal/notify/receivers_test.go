package notify

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// mailServer is a real SMTP server that keeps what it gets.
type mailServer struct {
	*smtp.Server
	address string
	roots   *x509.CertPool

	mu       sync.Mutex
	got      []received
	refuse   map[string]int // receivers, with the code of the answer
	attempts int            // conversations that were begun
	hang     bool           // no answer to the message
}

type received struct {
	from, to, user string
	encrypted      bool
	*mail.Message
	body []byte
}

// newMailServer starts a server: with a certificate that roots vouch for, where
// tls is not empty, and with TLS from the first byte where it is implicit.
func newMailServer(t *testing.T, security Security) *mailServer {
	t.Helper()
	s := &mailServer{refuse: map[string]int{}}
	s.Server = smtp.NewServer(s)
	s.Domain, s.ReadTimeout, s.WriteTimeout, s.MaxMessageBytes = "mail.test", 20*time.Second, 20*time.Second, 4<<20
	s.AllowInsecureAuth = false
	s.ErrorLog = discard{}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = listener.Addr().String()
	if security != NoTLS {
		var certificate tls.Certificate
		certificate, s.roots = newCertificate(t)
		s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	}
	if security == Implicit {
		listener = tls.NewListener(listener, s.TLSConfig)
	}
	go s.Serve(listener) //nolint:errcheck // it ends with the test
	t.Cleanup(func() { s.Close() })
	return s
}

type discard struct{}

func (discard) Printf(string, ...any) {}
func (discard) Println(...any)        {}

// server is how it is found.
func (s *mailServer) server(security Security) Server {
	return Server{Address: s.address, User: "backup", Password: "s3cret-mail", Security: security, TLS: &tls.Config{RootCAs: s.roots}}
}

func (s *mailServer) messages() []received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]received{}, s.got...)
}

func (s *mailServer) NewSession(c *smtp.Conn) (smtp.Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attempts++
	_, encrypted := c.TLSConnectionState()
	return &mailSession{s: s, conn: c, received: received{encrypted: encrypted}}, nil
}

type mailSession struct {
	received
	s    *mailServer
	conn *smtp.Conn
}

func (m *mailSession) AuthMechanisms() []string { return []string{sasl.Plain} }

func (m *mailSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != "backup" || password != "s3cret-mail" {
			return &smtp.SMTPError{Code: 535, Message: "wrong user or password"}
		}
		m.user = user
		return nil
	}), nil
}

func (m *mailSession) Mail(from string, _ *smtp.MailOptions) error {
	m.from = from
	return nil
}

func (m *mailSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	m.to = to
	if code := m.s.refuse[to]; code != 0 {
		return &smtp.SMTPError{Code: code, Message: "not for " + to}
	}
	return nil
}

func (m *mailSession) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if m.s.hang {
		m.s.mu.Unlock()
		defer m.s.mu.Lock()
		_, _ = io.Copy(io.Discard, m.conn.Conn()) // until the client goes
		return errors.New("gone")
	}
	if m.Message, err = mail.ReadMessage(bytes.NewReader(text)); err != nil {
		return err
	}
	m.body, err = io.ReadAll(m.Message.Body)
	_, m.encrypted = m.conn.TLSConnectionState()
	m.s.got = append(m.s.got, m.received)
	return err
}

func (*mailSession) Reset()        {}
func (*mailSession) Logout() error { return nil }

// newCertificate makes a certificate for this machine, and the roots that vouch
// for it.
func newCertificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

// webServer is a real HTTP server that keeps what it gets and answers as it is
// told.
type webServer struct {
	*httptest.Server
	mu  sync.Mutex
	got []request
	// answer says what becomes of the nth request, from 1; nil: 200.
	answer func(n int, w http.ResponseWriter, r *http.Request)
}

type request struct {
	method, path string
	header       http.Header
	body         []byte
}

func newWebServer(t *testing.T, answer func(n int, w http.ResponseWriter, r *http.Request)) *webServer {
	t.Helper()
	s := &webServer{answer: answer}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *webServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.got = append(s.got, request{r.Method, r.URL.String(), r.Header.Clone(), body})
	n, answer := len(s.got), s.answer
	s.mu.Unlock()
	if answer != nil {
		answer(n, w, r)
	}
}

// repair makes it work from now on, and forgets what it got.
func (s *webServer) repair() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer, s.got = nil, nil
}

func (s *webServer) requests() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]request{}, s.got...)
}

// status answers every request with a code.
func status(code int) func(int, http.ResponseWriter, *http.Request) {
	return func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// hanging answers only when the client has gone.
func hanging(_ int, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// sendOnce delivers an event by a notifier, with the retries of an outbox.
func sendOnce(t *testing.T, n Notifier, e *Event) error {
	t.Helper()
	return New(Options{Pause: time.Millisecond, Timeout: time.Minute, Attempt: 20 * time.Second}).Send(t.Context(), Channel{Name: "test", Notifier: n}, e)
}

func requireError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q lacks %q", err, part)
		}
	}
}
