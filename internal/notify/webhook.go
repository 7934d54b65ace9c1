package notify

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// The headers of a webhook.
const (
	HeaderID        = "Idempotency-Key"
	HeaderKind      = "Tenantkeep-Event"
	HeaderTime      = "Tenantkeep-Timestamp"
	HeaderSignature = "Tenantkeep-Signature"
)

// Webhook sends events as JSON. With a secret it signs them, so that the receiver
// can tell who sent them, and when.
type Webhook struct {
	URL, Secret string
	Version     string            // of tenantkeep
	Transport   http.RoundTripper // nil: the default one
	Now         func() time.Time  // nil: time.Now
}

var _ Notifier = (*Webhook)(nil)

// Notify sends one event.
func (w *Webhook) Notify(ctx context.Context, e *Event) error {
	body, err := json.Marshal(e)
	if err != nil {
		return &PermanentError{fmt.Errorf("write event: %w", err)}
	}
	now := time.Now
	if w.Now != nil {
		now = w.Now
	}
	stamp := strconv.FormatInt(now().Unix(), 10)
	header := http.Header{}
	header.Set("Content-Type", "application/json")
	header.Set(HeaderID, e.ID)
	header.Set(HeaderKind, string(e.Kind))
	header.Set(HeaderTime, stamp)
	if w.Secret != "" {
		header.Set(HeaderSignature, Sign(w.Secret, stamp, body))
	}
	return newWeb(w.Transport, w.Version).post(ctx, w.URL, body, header)
}

// Sign returns the signature of a message: HMAC-SHA256 over the time in the
// header, a dot, and the body.
func Sign(secret, stamp string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(stamp + "."))
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}
