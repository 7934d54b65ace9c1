package notify

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"strconv"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"
)

// Security is how the connection to a mail server is protected.
type Security string

// How a connection is protected.
const (
	// Auto is Implicit on port 465. On others it is STARTTLS, without which
	// nothing is sent but to a server on this machine.
	Auto     Security = "auto"
	STARTTLS Security = "starttls"
	Implicit Security = "implicit"
	NoTLS    Security = "none"
)

// implicitPort is that of submissions.
const implicitPort = 465

// Server is a mail server that takes messages.
type Server struct {
	Address        string // host:port
	User, Password string // empty: without authentication
	Security       Security
	TLS            *tls.Config // nil: certificates of the system
}

// Mail sends events to one receiver: what one of several servers or receivers
// refuses then concerns no other.
type Mail struct {
	Server
	From, To string // addresses, with or without a name
}

var _ Notifier = (*Mail)(nil)

// CheckAddress reports what is wrong with an e-mail address.
func CheckAddress(text string) error {
	a, err := mail.ParseAddress(text)
	if err != nil || strings.ContainsAny(text, "\r\n\x00") {
		return fmt.Errorf("%q is not an e-mail address", text)
	}
	if _, domain, _ := strings.Cut(a.Address, "@"); domain == "" {
		return fmt.Errorf("%q is not an e-mail address", text)
	}
	return nil
}

// Split returns host and port of an address, which are 25 and this machine where
// nothing is said.
func (s Server) split() (host string, port int, err error) {
	host, text, err := net.SplitHostPort(s.Address)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not the host of a mail server, a colon and a port", s.Address)
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < 1 || port > 65535 || host == "" {
		return "", 0, fmt.Errorf("%q is not the host of a mail server, a colon and a port", s.Address)
	}
	return host, port, nil
}

// Check reports what is wrong with the settings of the server, as far as can be
// told without asking it.
func (s Server) Check() error {
	host, _, err := s.split()
	switch {
	case err != nil:
		return err
	case s.User == "" && s.Password != "":
		return errors.New("there is a password for the mail server, and no user")
	case s.User != "" && s.Password == "":
		return errors.New("there is a user for the mail server, and no password")
	case s.User != "" && s.Security == NoTLS && !isLocal(host):
		return fmt.Errorf("the password would go to %s without encryption", host)
	}
	return nil
}

// isLocal reports whether a host is this machine.
func isLocal(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// client returns what talks to the server.
func (s Server) client(timeout time.Duration) (*gomail.Client, error) {
	if err := s.Check(); err != nil {
		return nil, &PermanentError{err}
	}
	host, port, err := s.split()
	if err != nil {
		return nil, &PermanentError{err}
	}
	options := []gomail.Option{gomail.WithPort(port), gomail.WithTimeout(timeout), gomail.WithoutNoop()}
	security := s.Security
	if security == "" {
		security = Auto
	}
	switch {
	case security == Implicit || security == Auto && port == implicitPort:
		options = append(options, gomail.WithSSL())
	case security == NoTLS:
		options = append(options, gomail.WithTLSPolicy(gomail.NoTLS))
	case security == Auto && isLocal(host):
		options = append(options, gomail.WithTLSPolicy(gomail.TLSOpportunistic))
	default:
		options = append(options, gomail.WithTLSPolicy(gomail.TLSMandatory))
	}
	config := &tls.Config{}
	if s.TLS != nil {
		config = s.TLS.Clone()
	}
	config.ServerName, config.MinVersion = host, tls.VersionTLS12
	options = append(options, gomail.WithTLSConfig(config))
	if s.User != "" {
		options = append(options, gomail.WithSMTPAuth(gomail.SMTPAuthAutoDiscover), gomail.WithUsername(s.User), gomail.WithPassword(s.Password))
	}
	c, err := gomail.NewClient(host, options...)
	if err != nil {
		return nil, &PermanentError{fmt.Errorf("set up mail: %w", err)}
	}
	return c, nil
}

// Probe connects to the server, logs in, and sends nothing.
func (s Server) Probe(ctx context.Context) error {
	c, err := s.client(timeLeft(ctx))
	if err != nil {
		return err
	}
	if err := c.DialWithContext(ctx); err != nil {
		return fmt.Errorf("connect to mail server %s: %w", s.Address, err)
	}
	return c.Close()
}

// Notify sends one message, as text and as HTML.
func (m *Mail) Notify(ctx context.Context, e *Event) error {
	c, err := m.client(timeLeft(ctx))
	if err != nil {
		return err
	}
	msg, err := m.message(e)
	if err != nil {
		return &PermanentError{fmt.Errorf("write mail: %w", err)}
	}
	if err := c.DialAndSendWithContext(ctx, msg); err != nil {
		err = fmt.Errorf("mail by %s: %w", m.Address, err)
		if refused, ok := errors.AsType[*gomail.SendError](err); ok && !refused.IsTemp() && refused.ErrorCode() >= 500 {
			return &PermanentError{err}
		}
		return err
	}
	return nil
}

// message writes the mail.
func (m *Mail) message(e *Event) (*gomail.Msg, error) {
	msg := gomail.NewMsg()
	if err := msg.From(m.From); err != nil {
		return nil, err
	}
	if err := msg.To(m.To); err != nil {
		return nil, err
	}
	text := newMessage(e)
	page, err := text.HTML()
	if err != nil {
		return nil, err
	}
	sender, err := mail.ParseAddress(m.From)
	if err != nil {
		return nil, err
	}
	_, domain, _ := strings.Cut(sender.Address, "@")
	// The receiver's mail program drops a message that it has already.
	msg.SetMessageIDWithValue(e.ID + "@" + domain)
	msg.SetDateWithValue(e.Time)
	msg.SetUserAgent(strings.TrimSpace("tenantkeep " + e.Version))
	msg.SetGenHeader("Auto-Submitted", "auto-generated")
	msg.SetGenHeader("X-Auto-Response-Suppress", "All")
	msg.SetGenHeader(HeaderKind, string(e.Kind))
	if e.Kind == Failed {
		msg.SetImportance(gomail.ImportanceHigh)
	}
	msg.Subject(text.Subject)
	msg.SetBodyString(gomail.TypeTextPlain, text.Text())
	msg.AddAlternativeString(gomail.TypeTextHTML, page)
	return msg, nil
}

// timeLeft is how long a step of a conversation may take.
func timeLeft(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return max(time.Millisecond, time.Until(deadline))
	}
	return DefaultTimeout
}
