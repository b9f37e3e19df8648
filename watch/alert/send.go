package alert

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/PagerDuty/go-pagerduty"
	"github.com/slack-go/slack"

	"github.com/quantra-l/quantra/analyze"
)

// Message is one thing to tell: of a finding, or of a change of the fleet. As JSON it is a webhook's body.
type Message struct {
	ID      string           `json:"id"`      // of the finding or the change: the same for all that is told of one cause
	Episode int              `json:"episode"` // 1, and more each time: a finding came back or grew, or something else happened to the change
	Status  string           `json:"status"`  // of a finding "open" or "fixed", of a change what happened: one of Whats; or "test"
	Link    string           `json:"link"`    // to its page
	Also    []string         `json:"also_in,omitempty"`
	Finding *analyze.Finding `json:"finding,omitempty"`
	Change  *Change          `json:"change,omitempty"`
	File    *File            `json:"file,omitempty"`
}

// File is an event of watched files.
type File struct {
	Severity string    `json:"severity"` // one of FileSeverities
	Kind     string    `json:"kind"`     // as package integrity has it
	Path     string    `json:"path,omitempty"`
	Time     time.Time `json:"time"`
	Host     string    `json:"host,omitempty"` // whose files they are
	Sentence string    `json:"sentence"`
}

// Change is a change of the fleet, and what happened to it.
type Change struct {
	Kind     string         `json:"kind,omitempty"`    // "" is of no single one: a breaker of all kinds, a pause
	Service  string         `json:"service,omitempty"` // likewise
	What     string         `json:"what"`              // one of Whats
	Time     time.Time      `json:"time"`
	By       string         `json:"by"` // who did it: "optimizer", or a person
	Sentence string         `json:"sentence"`
	Note     string         `json:"note,omitempty"`
	Price    *analyze.Money `json:"price,omitempty"` // what it saves a month: expected, and when it is done shown
}

// Title is one line.
func (m *Message) Title() string {
	test := ""
	if m.Status == "test" {
		test = "Test of alerts: "
	}
	if m.Change != nil {
		return test + m.Change.title()
	}
	if m.File != nil {
		return test + "Files: " + m.File.Sentence
	}
	f := m.finding()
	s := f.Sentence + price(f.Price, "About")
	if len(m.Also) > 0 {
		s += " Also in " + strings.Join(m.Also, ", ") + "."
	}
	if m.Status == "fixed" {
		s = "Fixed: " + s
	}
	return test + s
}

// finding is the message's, which has one where it has neither a change nor a file.
func (m *Message) finding() *analyze.Finding {
	if m.Finding == nil {
		return &analyze.Finding{}
	}
	return m.Finding
}

func price(p *analyze.Money, word string) string {
	if p == nil || p.Amount < 0.5 {
		return ""
	}
	return fmt.Sprintf(" %s %.0f %s a month.", word, p.Amount, p.Currency)
}

// titles are what happened to a change, in a word or two before its sentence.
var titles = map[string]string{
	"proposed": "Proposed", "started": "Started", "waiting": "Waits", "approved": "Approved", "stage": "Next stage", "verdict": "Verdict", "undoing": "Is being undone",
	"undone": "Undone", "failed": "Failed, and undone", "done": "Done", "withdrawn": "Withdrawn", "paused": "Paused", "resumed": "Goes on", "breaker": "Circuit breaker", "not_undone": "NOT UNDONE YET",
}

func (c *Change) title() string {
	return titles[c.What] + ": " + c.Sentence + price(c.Price, map[bool]string{true: "It saves", false: "Expected:"}[c.What == "done"])
}

// told is a message as the ways to tell it need it.
type told struct {
	text      []string // below the title, a line each
	linkText  string
	source    string // what it is of
	component string
	class     string
	severity  string // PagerDuty's words
	resolved  bool   // it needs nobody any more
	details   any
}

func (m *Message) told() told {
	if c := m.Change; c != nil {
		t := told{linkText: "Open the change: approve, pause, undo", source: cmp.Or(c.Service, "quantra"), class: "change " + c.What, severity: "info", details: c}
		t.component = c.Kind
		if c.Note != "" && c.Note != c.Sentence {
			t.text = append(t.text, c.Note)
		}
		if c.By != "" && c.By != "optimizer" {
			t.text = append(t.text, "By "+c.By+".")
		}
		switch c.What {
		case "not_undone":
			t.severity = "critical"
		case "failed", "breaker":
			t.severity = "warning"
		case "done", "undone", "withdrawn", "resumed":
			t.resolved = true
		}
		return t
	}
	if f := m.File; f != nil {
		return told{linkText: "Open the server", source: cmp.Or(f.Host, "quantra"), component: f.Path, class: "files " + f.Kind, severity: f.Severity, details: f}
	}
	f := m.finding()
	t := told{linkText: "Open the finding", source: f.Service, component: f.Function, class: string(f.Kind), severity: "warning", resolved: m.Status == "fixed", details: f}
	if f.Next != "" && m.Status != "fixed" {
		t.text = append(t.text, f.Next)
	}
	t.text = append(t.text, f.Warnings...)
	return t
}

// Refused is an answer that another try would get too.
type Refused struct{ Text string }

func (r *Refused) Error() string { return r.Text }

// Later is an answer that says when to try again.
type Later struct {
	After time.Duration
	Text  string
}

func (l *Later) Error() string { return l.Text }

// sendWithin bounds one try.
const sendWithin = 10 * time.Second

// client follows no redirect: what is told goes where the file says.
var client = &http.Client{Timeout: sendWithin, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// Send tells m, once. Telling it again does no harm where the other side knows it by its id: PagerDuty does. The error is
// a *Refused, a *Later, or any other, which may pass.
func (ch *Channel) Send(ctx context.Context, m Message) error {
	ctx, cancel := context.WithTimeout(ctx, sendWithin)
	defer cancel()
	var err error
	switch ch.Type {
	case "webhook":
		err = ch.webhook(ctx, m)
	case "slack":
		err = ch.slack(ctx, m)
	case "pagerduty":
		err = ch.pagerduty(ctx, m)
	default:
		err = &Refused{"channel " + ch.Name + " was not checked"}
	}
	if err == nil {
		return nil
	}
	// A URL that is a secret is in errors of net/http.
	text := strings.ReplaceAll(err.Error(), ch.url, "its URL")
	if ch.key != "" {
		text = strings.ReplaceAll(text, ch.key, "its key")
	}
	var later *Later
	var refused *Refused
	switch {
	case errors.As(err, &later):
		return &Later{later.After, ch.Name + ": " + text}
	case errors.As(err, &refused):
		return &Refused{ch.Name + ": " + text}
	}
	return errors.New(ch.Name + ": " + text)
}

// SignatureHeader has the HMAC-SHA256 of a webhook's body under the key of key_env, as "sha256=" and hex.
const SignatureHeader = "Quantra-Signature"

func (ch *Channel) webhook(ctx context.Context, m Message) error {
	body, err := json.Marshal(m)
	if err != nil {
		return &Refused{err.Error()}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, ch.url, bytes.NewReader(body))
	if err != nil {
		return &Refused{err.Error()}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", fmt.Sprintf("%s-%d-%s", m.ID, m.Episode, m.Status))
	if ch.key != "" {
		mac := hmac.New(sha256.New, []byte(ch.key))
		mac.Write(body)
		req.Header.Set(SignatureHeader, "sha256="+hex.EncodeToString(mac.Sum(nil)))
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(res.Body, 512)) // for the message only
	wait, _ := strconv.Atoi(res.Header.Get("Retry-After"))
	return ofStatus(res.StatusCode, time.Duration(wait)*time.Second, strings.TrimSpace(string(answer)))
}

// ofStatus is what an HTTP status says of another try.
func ofStatus(code int, wait time.Duration, text string) error {
	text = fmt.Sprintf("it answers %d %s %.200q", code, http.StatusText(code), text)
	switch {
	case code >= 200 && code < 300:
		return nil
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable && wait > 0:
		return &Later{min(cmp.Or(max(wait, 0), time.Minute), time.Hour), text}
	case code >= 500 || code == http.StatusRequestTimeout:
		return errors.New(text)
	}
	return &Refused{text}
}

func (ch *Channel) slack(ctx context.Context, m Message) error {
	t := m.told()
	lines := []string{escapeSlack(m.Title())}
	for _, l := range t.text {
		lines = append(lines, "• "+escapeSlack(l))
	}
	if m.Link != "" {
		lines = append(lines, "<"+m.Link+"|"+t.linkText+">")
	}
	block := slack.NewSectionBlock(slack.NewTextBlockObject(slack.MarkdownType, clip(strings.Join(lines, "\n"), 2900), false, false), nil, nil)
	msg := &slack.WebhookMessage{Text: clip(escapeSlack(m.Title()), 2900), Blocks: &slack.Blocks{BlockSet: []slack.Block{block}}}
	err := slack.PostWebhookCustomHTTPContext(ctx, ch.url, client, msg)
	var status slack.StatusCodeError
	var limited *slack.RateLimitedError
	switch {
	case errors.As(err, &limited):
		return &Later{limited.RetryAfter, err.Error()}
	case errors.As(err, &status):
		return ofStatus(status.Code, 0, status.Status)
	}
	return err
}

// escapeSlack is text in Slack's markup: names of functions have * and <.
func escapeSlack(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}

// clip is s within n bytes, whole characters.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-3], "") + "..."
}

func (ch *Channel) pagerduty(ctx context.Context, m Message) error {
	t := m.told()
	e := &pagerduty.V2Event{RoutingKey: ch.key, Action: "trigger", DedupKey: "quantra-" + m.ID, Client: "Quantra-L", ClientURL: m.Link,
		Payload: &pagerduty.V2Payload{Summary: clip(m.Title(), 1024), Source: t.source, Severity: t.severity, Component: t.component, Group: t.source, Class: t.class, Details: t.details}}
	if m.Link != "" {
		e.Links = []any{map[string]string{"href": m.Link, "text": t.linkText}}
	}
	switch {
	case m.Status == "test":
		e.Payload.Severity = "info"
	case t.resolved:
		e.Action = "resolve"
	}
	c := pagerduty.NewClient("", pagerduty.WithV2EventsAPIEndpoint(ch.url))
	heard := &hearing{}
	c.HTTPClient = heard
	_, err := c.ManageEventWithContext(ctx, e)
	if err != nil && heard.status != 0 {
		return cmp.Or(ofStatus(heard.status, heard.wait, err.Error()), err)
	}
	return err
}

// hearing keeps the status of an answer: the library's error does not have it where the body is a proxy's, not PagerDuty's.
type hearing struct {
	status int
	wait   time.Duration
}

func (h *hearing) Do(r *http.Request) (*http.Response, error) {
	res, err := client.Do(r)
	if err == nil {
		seconds, _ := strconv.Atoi(res.Header.Get("Retry-After"))
		h.status, h.wait = res.StatusCode, time.Duration(seconds)*time.Second
		res.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(res.Body, 64<<10), res.Body}
	}
	return res, err
}
