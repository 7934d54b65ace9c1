package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	slackapi "github.com/slack-go/slack"
)

// Slack sends events to an incoming webhook.
type Slack struct {
	URL       string
	Version   string
	Transport http.RoundTripper // nil: the default one
}

var _ Notifier = (*Slack)(nil)

// Limits of Slack, and of what is worth reading in a chat.
const (
	slackHeader   = 150
	slackSection  = 2900
	slackLimit    = 3000
	slackProblems = 10
	slackError    = 280 // characters of one problem
)

// Notify sends one message.
func (s *Slack) Notify(ctx context.Context, e *Event) error {
	body, err := json.Marshal(slackMessage(e))
	if err != nil {
		return &PermanentError{fmt.Errorf("write message: %w", err)}
	}
	header := http.Header{}
	header.Set("Content-Type", "application/json")
	header.Set(HeaderID, e.ID)
	return newWeb(s.Transport, s.Version).post(ctx, s.URL, body, header)
}

// slackMessage writes an event in blocks. Text is what notifications of the
// desktop and screen readers show.
func slackMessage(e *Event) *slackapi.WebhookMessage {
	m := newMessage(e)
	sign := map[tone]string{good: ":white_check_mark:", warning: ":warning:", bad: ":rotating_light:", neutral: ":information_source:"}[m.Tone]
	blocks := []slackapi.Block{
		slackapi.NewHeaderBlock(slackapi.NewTextBlockObject(slackapi.PlainTextType, shorten(sign+" "+m.Title, slackHeader), true, false)),
	}
	add := func(text string) {
		if text != "" {
			blocks = append(blocks, slackapi.NewSectionBlock(slackapi.NewTextBlockObject(slackapi.MarkdownType, shorten(text, slackLimit), false, false), nil, nil))
		}
	}
	if e.Error != "" {
		add("```" + escapeSlack(strings.ReplaceAll(shorten(e.Error, slackSection/6), "```", "'''")) + "```")
	}
	add(slackList("Problems", len(e.Problems), m.More, func(i int) string {
		p := e.Problems[i]
		return bold(p.label()) + ": " + escapeSlack(oneLine(p.Error))
	}))
	add(slackList("Checks", len(e.Checks), m.MoreBad, func(i int) string {
		c := e.Checks[i]
		return strings.ToUpper(c.State) + " " + bold(c.label()) + ": " + escapeSlack(oneLine(c.Text))
	}))
	add(slackList("Look at", len(m.Changes), 0, func(i int) string { return escapeSlack(oneLine(m.Changes[i])) }))
	add(slackList("What to do", len(e.Advice), 0, func(i int) string { return escapeSlack(oneLine(e.Advice[i])) }))
	if len(m.Facts) > 0 {
		var lines []string
		for _, f := range m.Facts {
			lines = append(lines, "*"+f.Name+"*  "+escapeSlack(shorten(f.Value, slackError)))
		}
		add(strings.Join(lines, "\n"))
	}
	footer := escapeSlack(strings.TrimSpace("tenantkeep " + e.Version + ", event " + e.ID))
	blocks = append(blocks, slackapi.NewContextBlock("", slackapi.NewTextBlockObject(slackapi.MarkdownType, footer, false, false)))
	return &slackapi.WebhookMessage{Text: escapeSlack(m.Title), Blocks: &slackapi.Blocks{BlockSet: blocks}}
}

// slackList writes n items under a title, the first of many, and counts the rest.
func slackList(title string, n, more int, item func(i int) string) string {
	if n == 0 {
		return ""
	}
	text := "*" + title + "*"
	for i := range n {
		line := "\n• " + item(i)
		if i == slackProblems || len(text)+len(line) > slackSection {
			more += n - i
			break
		}
		text += line
	}
	if more > 0 {
		text += fmt.Sprintf("\n• and %d more", more)
	}
	return text
}

func bold(text string) string { return "*" + strings.ReplaceAll(escapeSlack(text), "*", "∗") + "*" }

func oneLine(text string) string {
	return shorten(strings.Join(strings.Fields(text), " "), slackError)
}

// escapeSlack keeps text from being read as mentions and links.
func escapeSlack(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
}
