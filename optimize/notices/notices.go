// Package notices tells people what happens to changes, through the channels of the file of alerts. What is to be told is taken from the
// journal's events, and from what holds all changes; what is left to tell, and to whom, is kept in the control database before the first
// is told and after each. So a restart forgets nothing, and repeats one thing at most.
package notices

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/quantra-l/quantra/control"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/judge"
	"github.com/quantra-l/quantra/watch/alert"
)

// Options of [New]. Journal, Control and Alerts have no default.
type Options struct {
	Journal optimize.Journal
	Control *control.DB
	Alerts  func() *alert.Config // asked each time: what is written in a file may change
	// Told are channels that hear of all that rules may have, beside the rules; nil is none.
	Told func() []string
	// Link is the page of a change, or of all where id is ""; nil is none.
	Link func(id string) string

	Logger *slog.Logger     // nil is silent
	Now    func() time.Time // nil is time.Now
}

// Teller tells. One goroutine at a time, on one server at a time.
type Teller struct{ o Options }

// New checks o.
func New(o Options) (*Teller, error) {
	if o.Journal == nil || o.Control == nil || o.Alerts == nil {
		return nil, errors.New("notices: Options need Journal, Control and Alerts")
	}
	if o.Told == nil {
		o.Told = func() []string { return nil }
	}
	if o.Link == nil {
		o.Link = func(string) string { return "" }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Teller{o}, nil
}

// How notices go.
const (
	every      = 2 * time.Second
	firstWait  = 5 * time.Second // after a try that failed; doubled up to lastWait
	lastWait   = 10 * time.Minute
	refusedIn  = time.Hour // another try of what was refused: the file or the other side may have been mended
	maxTries   = 50
	maxOutbox  = 1000                // notices of a tenant that wait; the oldest go
	lateUndo   = time.Minute         // an undo that takes longer is told
	stale      = 7 * 24 * time.Hour  // what happened longer ago is no news
	forgetting = 30 * 24 * time.Hour // of changes that nothing happens to any more
	mark       = "changes/told"
)

// told is what is kept of a tenant: how far its journal was read, and what waits to be told.
type told struct {
	// From is when the first look was: what happened before is nobody's news.
	From    time.Time            `json:"from"`
	Changes map[string]*progress `json:"changes,omitempty"`
	Outbox  []*notice            `json:"outbox,omitempty"`
	// Breakers are those that were told, by kind, with the time until which they are open; Paused is since when a pause is that was told.
	Breakers map[optimize.Kind]time.Time `json:"breakers,omitempty"`
	Paused   time.Time                   `json:"paused,omitzero"`
	Number   int                         `json:"number,omitempty"` // of notices that are of no single change
}

// progress is how far a change's events were read.
type progress struct {
	Seq     int64     `json:"seq"`
	At      time.Time `json:"at"`               // of the last one
	Undoing time.Time `json:"undoing,omitzero"` // since when it is being taken back
	Late    bool      `json:"late,omitempty"`   // it was told that this takes long
}

// notice is one thing to tell, with the channels that have not heard of it.
type notice struct {
	Message alert.Message   `json:"message"`
	To      map[string]*try `json:"to"`
}

// try is how often a channel was tried in vain, and when it is next.
type try struct {
	N    int       `json:"n,omitempty"`
	Next time.Time `json:"next,omitzero"`
}

// Run tells until ctx ends.
func (t *Teller) Run(ctx context.Context) {
	said := ""
	for {
		timer := time.NewTimer(every)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		tenants, err := t.o.Journal.Tenants(ctx)
		for _, tenant := range tenants {
			err = errors.Join(err, t.Tell(ctx, tenant))
		}
		text := ""
		if err != nil && ctx.Err() == nil {
			if text = err.Error(); text != said {
				t.o.Logger.Error("notices of changes; they are tried again", "err", err)
			}
		}
		said = text
	}
}

// Tell takes note of what has happened to a tenant's changes, and tells what is due.
func (t *Teller) Tell(ctx context.Context, tenant string) error {
	now := t.o.Now().UTC()
	k, err := t.load(ctx, tenant)
	if err != nil {
		return err
	}
	first := k.From.IsZero()
	if first {
		k.From = now
	}
	before := len(k.Outbox)
	changed, err := t.gather(ctx, tenant, k, now)
	if err != nil {
		return err
	}
	if over := len(k.Outbox) - maxOutbox; over > 0 {
		t.o.Logger.Error("notices of changes are lost: too many wait for channels that do not take them", "lost", over)
		k.Outbox = slices.Delete(k.Outbox, 0, over)
	}
	if first || changed || len(k.Outbox) != before {
		if err := t.save(ctx, tenant, k); err != nil {
			return err
		}
	}
	return t.send(ctx, tenant, k)
}

func (t *Teller) load(ctx context.Context, tenant string) (*told, error) {
	k := &told{}
	doc, err := t.o.Control.Mark(ctx, tenant, mark)
	if err == nil && doc != nil {
		if err = json.Unmarshal(doc, k); err != nil {
			err = fmt.Errorf("notices: what was told, as the control database has it: %w", err)
		}
	}
	if k.Changes == nil {
		k.Changes = map[string]*progress{}
	}
	if k.Breakers == nil {
		k.Breakers = map[optimize.Kind]time.Time{}
	}
	return k, err
}

func (t *Teller) save(ctx context.Context, tenant string, k *told) error {
	doc, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("notices: %w", err)
	}
	return t.o.Control.ChangeMark(ctx, tenant, mark, func([]byte) ([]byte, error) { return doc, nil })
}

// gather puts what is new into the outbox. It says whether anything is to be kept.
func (t *Teller) gather(ctx context.Context, tenant string, k *told, now time.Time) (changed bool, err error) {
	since := k.From
	for _, p := range k.Changes {
		if p.At.After(since) {
			since = p.At
		}
	}
	// What is written late by a server whose clock is behind is not missed, and one whose clock is ahead hides nothing.
	if since.After(now) {
		since = now
	}
	changes, err := t.o.Journal.Changes(ctx, tenant, optimize.Filter{Since: since.Add(-10 * time.Minute), Limit: 10_000})
	if err != nil {
		return false, err
	}
	slices.Reverse(changes) // what happened first is told first
	for i := range changes {
		c := &changes[i]
		p := cmp.Or(k.Changes[c.ID], &progress{})
		events, err := t.o.Journal.Events(ctx, tenant, c.ID, p.Seq)
		if err != nil {
			return changed, err
		}
		for j := range events {
			k.Changes[c.ID], changed = p, true
			t.event(k, p, c, &events[j], now)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(k.Changes)) {
		p := k.Changes[id]
		switch {
		case !p.Undoing.IsZero() && !p.Late && now.Sub(p.Undoing) >= lateUndo:
			c, ok, err := t.o.Journal.Change(ctx, tenant, id)
			if err != nil {
				return changed, err
			}
			p.Late, changed = true, true
			if ok && c.State == optimize.Undoing {
				t.put(k, &c, "not_undone", int(p.Seq), now, "optimizer", cmp.Or(c.Held, fmt.Sprintf("It is being taken back since %s, and is not yet.", p.Undoing.Format("15:04:05 MST"))))
			}
		case p.Undoing.IsZero() && now.Sub(p.At) > forgetting:
			delete(k.Changes, id)
			changed = true
		}
	}
	all, err := t.all(ctx, tenant, k, now)
	return changed || all, err
}

// event takes note of one event of a change.
func (t *Teller) event(k *told, p *progress, c *optimize.Change, e *optimize.Event, now time.Time) {
	p.Seq, p.At = e.Seq, e.Time
	switch e.What {
	case optimize.WhatUndoing:
		p.Undoing, p.Late = e.Time, false
	case optimize.WhatUndone, optimize.WhatFailed:
		p.Undoing = time.Time{}
	case optimize.WhatPaused, optimize.WhatResumed:
		if e.Actor == "optimizer" {
			return // the pause of all is told once, not for each
		}
	case optimize.WhatVerdict:
		if e.Verdict != nil && e.Verdict.Decision == judge.Fail {
			return // that it failed is told, with the same reason
		}
	}
	if !slices.Contains(alert.Whats, e.What) || e.Time.Before(k.From) || now.Sub(e.Time) > stale {
		return
	}
	t.put(k, c, e.What, int(e.Seq), e.Time, e.Actor, noteOf(e))
}

func noteOf(e *optimize.Event) string {
	if v := e.Verdict; v != nil {
		return fmt.Sprintf("%s: %s", v.Decision, cmp.Or(v.Reason, e.Note))
	}
	return e.Note
}

// put makes a notice of a change, for the channels that are to hear of it.
func (t *Teller) put(k *told, c *optimize.Change, what string, number int, at time.Time, by, note string) {
	m := alert.Message{ID: c.ID, Episode: number, Status: what, Link: t.o.Link(c.ID), Change: &alert.Change{
		Kind: string(c.Kind), Service: c.Service, What: what, Time: at, By: by, Sentence: clip(c.Sentence), Note: clip(note), Price: c.Price,
	}}
	if what == optimize.WhatDone && c.Saved != nil {
		m.Change.Price = c.Saved.Price
	}
	t.queue(k, m)
}

// all takes note of what holds all changes: breakers that have opened, a pause.
func (t *Teller) all(ctx context.Context, tenant string, k *told, now time.Time) (changed bool, err error) {
	rails, err := t.o.Journal.Rails(ctx, tenant)
	if err != nil {
		return false, err
	}
	holds, err := t.o.Journal.Holds(ctx, tenant)
	if err != nil {
		return false, err
	}
	say := func(id, what, kind, by, sentence, note string) {
		changed = true
		k.Number++
		t.queue(k, alert.Message{ID: id, Episode: k.Number, Status: what, Link: t.o.Link(""),
			Change: &alert.Change{Kind: kind, What: what, Time: now, By: by, Sentence: clip(sentence), Note: clip(note)}})
	}
	for _, kind := range slices.Sorted(maps.Keys(rails.Breakers)) {
		b := rails.Breakers[kind]
		if b.OpenUntil.IsZero() || b.OpenUntil.Equal(k.Breakers[kind]) {
			continue
		}
		k.Breakers[kind] = b.OpenUntil
		of := "changes"
		if kind != "" {
			of = "changes of the kind " + string(kind)
		}
		say("breaker-"+cmp.Or(string(kind), "all"), "breaker", string(kind), "optimizer",
			fmt.Sprintf("%d %s in a row have failed; none is started until %s.", b.Failures, of, b.OpenUntil.Format("2 Jan 15:04 MST")), "")
	}
	for kind := range k.Breakers {
		if rails.Breakers[kind].OpenUntil.IsZero() {
			delete(k.Breakers, kind)
			changed = true
		}
	}
	p := holds.Paused
	if p != nil && !p.Until.IsZero() && !now.Before(p.Until) {
		p = nil // it is over
	}
	switch {
	case p != nil && !p.At.Equal(k.Paused):
		k.Paused = p.At
		if p.At.Before(k.From) {
			return true, nil
		}
		end := ""
		if !p.Until.IsZero() {
			end = " until " + p.Until.Format("2 Jan 15:04 MST")
		}
		say("pause", "paused", "", p.By, "All changes are paused"+end+".", p.Note)
	case p == nil && !k.Paused.IsZero():
		k.Paused = time.Time{}
		say("pause", "resumed", "", "", "The pause of all changes is over.", "")
	}
	return changed, nil
}

// queue adds a notice to the outbox, if anybody is to hear of it.
func (t *Teller) queue(k *told, m alert.Message) {
	to := t.o.Alerts().RouteChange(m.Change.Kind, m.Change.Service, m.Change.What)
	if slices.Contains(alert.DefaultWhats, m.Change.What) {
		to = append(to, t.o.Told()...)
	}
	n := &notice{Message: m, To: map[string]*try{}}
	for _, ch := range to {
		if t.o.Alerts().Channel(ch) == nil {
			t.o.Logger.Warn("the policy tells a channel that the file of alerts does not have", "channel", ch)
			continue
		}
		n.To[ch] = &try{}
	}
	if len(n.To) > 0 {
		k.Outbox = append(k.Outbox, n)
	}
}

// send tells what is due, in order, and keeps after each what came through. A channel that did not take one is not asked again before
// its time, so that what it hears is in order, too.
func (t *Teller) send(ctx context.Context, tenant string, k *told) error {
	waits := map[string]bool{}
	for _, n := range slices.Clone(k.Outbox) {
		for _, name := range slices.Sorted(maps.Keys(n.To)) {
			tr, ch := n.To[name], t.o.Alerts().Channel(name)
			now := t.o.Now().UTC()
			switch {
			case ch == nil: // the file has it no more
				delete(n.To, name)
			case waits[name] || now.Before(tr.Next):
				waits[name] = true
				continue
			default:
				err := ch.Send(ctx, n.Message)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if !t.after(n, name, tr, now, err) {
					waits[name] = true
				}
			}
			if len(n.To) == 0 {
				k.Outbox = slices.DeleteFunc(k.Outbox, func(o *notice) bool { return o == n })
			}
			if err := t.save(ctx, tenant, k); err != nil {
				return err
			}
		}
	}
	return nil
}

// after notes how a try went, and says whether the channel can be told more now.
func (t *Teller) after(n *notice, name string, tr *try, now time.Time, err error) bool {
	if err == nil {
		delete(n.To, name)
		return true
	}
	tr.N++
	wait := min(lastWait, firstWait<<min(tr.N-1, 10))
	var refused *alert.Refused
	var later *alert.Later
	switch {
	case tr.N >= maxTries:
		t.o.Logger.Error("a notice of a change is given up", "change", n.Message.ID, "what", n.Message.Status, "channel", name, "err", err)
		delete(n.To, name)
		return true
	case errors.As(err, &refused):
		wait = refusedIn
	case errors.As(err, &later):
		wait = max(wait, later.After)
	}
	tr.Next = now.Add(wait)
	t.o.Logger.Warn("a notice of a change did not come through", "change", n.Message.ID, "what", n.Message.Status, "channel", name, "err", err)
	return false
}

// clip bounds a text of a notice.
func clip(s string) string {
	const most = 1000
	if len(s) <= most {
		return s
	}
	cut := most
	for cut > 0 && s[cut]&0xc0 == 0x80 { // within a character
		cut--
	}
	return s[:cut] + "..."
}
