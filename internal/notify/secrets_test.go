package notify

import (
	"strings"
	"testing"
)

// A receiver that repeats parts of its address in an answer gives nothing of it away.
func TestSecretsOfURL(t *testing.T) {
	t.Parallel()
	s := newScrubber(SecretsOfURL("https://robot:hunter22@hooks.example.com/services/T0/B0/q9X%2Fy7z8w6v5?key=k%20ey4567890&mode=on"))
	for _, answer := range []string{
		"Cannot POST /services/T0/B0/q9X%2Fy7z8w6v5",
		"Cannot POST /services/T0/B0/q9X/y7z8w6v5?key=k%20ey4567890&mode=on",
		"no hook q9X%2Fy7z8w6v5",
		"no such key: k ey4567890",
		"the value k%20ey4567890 is not known",
		"bad password hunter22",
	} {
		got := s.text(answer, maxText)
		for _, secret := range []string{"q9X", "y7z8", "ey45", "hunter22"} {
			if strings.Contains(got, secret) {
				t.Errorf("%s: %s", answer, got)
			}
		}
	}
	const plain = "mode on: T0 of the robot has no key"
	if got := s.text(plain, maxText); got != plain {
		t.Errorf("an ordinary sentence became %s", got)
	}
	if list := SecretsOfURL(""); len(newScrubber(list).secrets) != 0 {
		t.Errorf("without an address: %q", list)
	}
}
