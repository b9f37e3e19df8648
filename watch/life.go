package watch

import (
	"fmt"
	"slices"
	"time"

	"github.com/quantra-l/quantra/analyze"
)

// State is where a finding is in its life.
type State string

// The states of a finding. Open are StateNew, StateCameBack and StateAcknowledged: something is to be done, or is being done.
const (
	StateNew          State = "new"
	StateAcknowledged State = "acknowledged" // somebody knows, and it stays listed
	StateMuted        State = "muted"        // nobody wants to hear of it, until MutedUntil
	StateFixed        State = "fixed"        // it is gone
	StateCameBack     State = "came_back"    // it was fixed, and is there again
)

// States is all of them.
var States = []State{StateNew, StateAcknowledged, StateMuted, StateFixed, StateCameBack}

// Record is a finding with its life. It is what the control database keeps, as JSON.
type Record struct {
	ID      string          `json:"id"`
	Tenant  string          `json:"tenant"`
	State   State           `json:"state"`
	Finding analyze.Finding `json:"finding"`

	FirstSeen time.Time `json:"first_seen"`
	LastSeen  time.Time `json:"last_seen"`
	// Episode counts how often it began: 1 at first, one more each time it comes back or grows. Who was told, was
	// told of an episode.
	Episode int `json:"episode"`
	// EpisodeSince is when it began, and EpisodeSize how large it was by the time that its figures had settled: what it must outgrow to
	// be told of again.
	EpisodeSince time.Time `json:"episode_since,omitzero"`
	EpisodeSize  float64   `json:"episode_size,omitempty"`

	MutedUntil time.Time `json:"muted_until,omitzero"` // zero while muted is for ever
	GoneSince  time.Time `json:"gone_since,omitzero"`  // since when it has not been found where it would have been
	FixedAt    time.Time `json:"fixed_at,omitzero"`
	// Saved is what its end brought, measured: of the same unit as Finding.Saving.
	Saved *Saved `json:"saved,omitempty"`
	// CoveredBy names the record that stands for this one, in lists of all services and in alerts: the same function changed at the same
	// time in another service. AlsoIn is the other side of it, in lists only: services of records that this one stands for.
	CoveredBy string   `json:"covered_by,omitempty"`
	AlsoIn    []string `json:"also_in,omitempty"`
	// Alerts is who was told, by channel.
	Alerts map[string]Told `json:"alerts,omitempty"`

	version int64 // of the row
}

// Saved is a saving that came true.
type Saved struct {
	Amount float64        `json:"amount"`
	Unit   string         `json:"unit"` // "cores", "bytes"
	Price  *analyze.Money `json:"price,omitempty"`
}

// Told is what a channel was told of a finding.
type Told struct {
	Episode int       `json:"episode"`
	At      time.Time `json:"at,omitzero"` // zero while it has not come through
	Fixed   bool      `json:"fixed,omitempty"`
	Tries   int       `json:"tries,omitempty"`
	Next    time.Time `json:"next,omitzero"` // no try before
	Error   string    `json:"error,omitempty"`
}

// Event is a moment of a finding's history.
type Event struct {
	Time  time.Time `json:"time"`
	Actor string    `json:"actor"` // "analysis", or who asked
	What  string    `json:"what"`  // "found", "grew", "fixed", "came back", "acknowledged", "muted", "unmuted", "reopened"
	Note  string    `json:"note,omitempty"`
}

// Open says whether something is to be done about it.
func (r *Record) Open() bool {
	return r.State == StateNew || r.State == StateCameBack || r.State == StateAcknowledged
}

// Look is what one look at a service's profiles has found.
type Look struct {
	Tenant, Service string
	At              time.Time // up to when profiles were there
	Found           []analyze.Finding
	// Looked are the kinds that the look would have found, had they been there. A finding of these that was not found is gone;
	// of other kinds nothing is known.
	Looked []analyze.Kind
	// Now is the present figure of a regression or an improvement, in the finding's Unit; false if it cannot be told. A change
	// leaves the window of what is looked at, and is not gone for that.
	Now func(*analyze.Finding) (analyze.Estimate, bool)
}

// Rules are when a finding's life goes on. In each 0 is the default beside it.
type Rules struct {
	FixedAfter time.Duration // how long it must be gone to be fixed; 15 min
	NormAfter  time.Duration // how long a change stays open with nobody doing anything, before it is the norm; 14 days
	Grew       float64       // how many times as large a change must be, to be told of again; 1.5
	Settle     time.Duration // how long figures of what is new may move before they count as grown; 30 min
}

func (r Rules) withDefaults() Rules {
	if r.FixedAfter == 0 {
		r.FixedAfter = 15 * time.Minute
	}
	if r.NormAfter == 0 {
		r.NormAfter = 14 * 24 * time.Hour
	}
	if r.Grew == 0 {
		r.Grew = 1.5
	}
	if r.Settle == 0 {
		r.Settle = 30 * time.Minute
	}
	return r
}

// Update is a record that is to be written, with what happened.
type Update struct {
	Record Record
	Events []Event
}

// cause is what two findings of one cause have in common: one that was first found without knowing its version is the same
// when the version is known.
type cause struct {
	kind                             analyze.Kind
	service, function, subject, typ_ string
}

func causeOf(f *analyze.Finding) cause {
	return cause{f.Kind, f.Service, f.Function, f.Subject, f.Type}
}

func isChange(k analyze.Kind) bool { return k == analyze.Regression || k == analyze.Improvement }

// seenEvery is how often LastSeen is written where nothing else has changed.
const seenEvery = time.Minute

// Apply is what a look does to what is known of the service. It is a function of its arguments: known is not changed.
func (r Rules) Apply(known []Record, look Look) []Update {
	r = r.withDefaults()
	l := &life{rules: r, look: look, by: map[cause]int{}}
	for i := range known {
		k := known[i]
		k.Finding.Service = look.Service
		// Of several of one cause the one that is not fixed, then the latest, goes on.
		c := causeOf(&k.Finding)
		if j, ok := l.by[c]; ok && !later(&k, &l.all[j].Record) {
			continue
		}
		l.by[c] = len(l.all)
		l.all = append(l.all, entry{Update: Update{Record: k}})
	}
	for i := range look.Found {
		l.found(look.Found[i])
	}
	for i := range l.all {
		l.passed(&l.all[i])
	}
	var out []Update
	for i := range l.all {
		if l.all[i].changed {
			out = append(out, l.all[i].Update)
		}
	}
	return out
}

func later(a, b *Record) bool {
	if (a.State == StateFixed) != (b.State == StateFixed) {
		return b.State == StateFixed
	}
	return a.LastSeen.After(b.LastSeen)
}

type entry struct {
	Update
	seen, changed bool
}

func (e *entry) happened(at time.Time, what, note string) {
	e.Events = append(e.Events, Event{Time: at, Actor: "analysis", What: what, Note: note})
	e.changed = true
}

type life struct {
	rules Rules
	look  Look
	all   []entry
	by    map[cause]int
}

// found takes in one finding.
func (l *life) found(f analyze.Finding) {
	at := l.look.At
	if f.Kind == analyze.Improvement && l.undoes(&f) {
		return
	}
	if f.Kind == analyze.Regression || f.Kind == analyze.Transition {
		if i, ok := l.by[cause{analyze.Improvement, f.Service, f.Function, f.Subject, f.Type}]; ok {
			if e := &l.all[i]; e.Record.State != StateFixed && f.Since.After(e.Record.Finding.Since) {
				l.end(e, "undone", "it takes more again: see the finding of that")
			}
		}
	}
	i, ok := l.by[causeOf(&f)]
	if !ok {
		l.by[causeOf(&f)] = len(l.all)
		e := entry{seen: true, Update: Update{Record: Record{ID: f.ID(), Tenant: l.look.Tenant, State: StateNew, Finding: f, FirstSeen: at, LastSeen: at, Episode: 1, EpisodeSince: at, EpisodeSize: magnitude(&f)}}}
		e.happened(at, "found", f.Sentence)
		l.all = append(l.all, e)
		return
	}
	e := &l.all[i]
	e.seen = true
	k := &e.Record
	before := k.Finding
	switch {
	case k.State == StateFixed:
		if isChange(f.Kind) && !f.Since.After(k.FixedAt.Add(-l.rules.FixedAfter)) {
			return // what was fixed is still in the window that is looked at
		}
		k.State, k.FixedAt, k.Saved, k.GoneSince, k.FirstSeen = StateCameBack, time.Time{}, nil, time.Time{}, at
		k.begin(at, &f)
		e.happened(at, "came back", f.Sentence)
	case before.Unit != f.Unit || before.Metric != f.Metric:
		k.EpisodeSince, k.EpisodeSize = at, magnitude(&f) // measured otherwise: neither more nor less
	case at.Sub(k.EpisodeSince) < l.rules.Settle:
		k.EpisodeSize = max(k.EpisodeSize, magnitude(&f))
	case grew(k.EpisodeSize, &f, l.rules.Grew):
		k.begin(at, &f)
		if k.State == StateAcknowledged {
			k.State = StateNew // what was known is not what is there now
		}
		e.happened(at, "grew", f.Sentence)
	}
	if !k.GoneSince.IsZero() {
		k.GoneSince = time.Time{}
		e.changed = true
	}
	if f.Since.IsZero() || !before.Since.IsZero() && before.Since.Before(f.Since) && !k.EpisodeSince.Equal(at) {
		f.Since = before.Since // it began then; what is looked at may begin later
	}
	if f.Cause == nil {
		f.Cause = before.Cause
	}
	if len(f.Chart) == 0 && before.Unit == f.Unit && before.Metric == f.Metric {
		f.Chart = before.Chart // until it is drawn anew
	}
	if at.Sub(k.LastSeen) >= seenEvery || e.changed || differs(&before, &f) {
		k.Finding, k.LastSeen, e.changed = f, at, true
	}
}

// undoes says whether an improvement is the end of a regression, or of a slow step, that is known: then it is that, and nothing of its
// own.
func (l *life) undoes(f *analyze.Finding) bool {
	i, ok := l.by[cause{analyze.Regression, f.Service, f.Function, f.Subject, f.Type}]
	if !ok {
		i, ok = l.by[cause{analyze.Transition, f.Service, f.Function, f.Subject, f.Type}]
	}
	if !ok {
		return false
	}
	e := &l.all[i]
	r := &e.Record.Finding
	if e.Record.State == StateFixed && f.Before.Value < r.Before.Value+r.Change.Value/2 {
		return false // it had ended before, and this begins from where that left it
	}
	if !f.Since.After(r.Since) || f.After.Value > r.Before.Value+goneWithin*r.Change.Value {
		return false
	}
	e.seen = true
	if e.Record.State != StateFixed {
		l.fix(e, f.After, f.Sentence)
	}
	return true
}

// goneWithin is which part of a change may be left for it to count as gone.
const goneWithin = 0.25

// begin begins another episode.
func (r *Record) begin(at time.Time, f *analyze.Finding) {
	r.Episode++
	r.EpisodeSince, r.EpisodeSize = at, magnitude(f)
}

func grew(b float64, now *analyze.Finding, factor float64) bool {
	n := magnitude(now)
	lo := min(now.Change.Low, now.Change.High)
	if now.Change == (analyze.Estimate{}) {
		lo = min(now.After.Low, now.After.High)
	} else if now.Change.Value < 0 {
		lo = -max(now.Change.Low, now.Change.High)
	}
	return b > 0 && n > b*factor && lo > b // surely more, and much
}

func magnitude(f *analyze.Finding) float64 {
	if f.Change != (analyze.Estimate{}) {
		return max(f.Change.Value, -f.Change.Value)
	}
	return f.After.Value
}

// differs says whether a reader would see another figure.
func differs(a, b *analyze.Finding) bool {
	if a.Cause == nil != (b.Cause == nil) || len(a.Warnings) != len(b.Warnings) {
		return true
	}
	m, n := magnitude(a), magnitude(b)
	return max(m, n) > 1.1*min(m, n)
}

// passed lets time pass for one that is known.
func (l *life) passed(e *entry) {
	k, at := &e.Record, l.look.At
	if k.State == StateMuted && !k.MutedUntil.IsZero() && !at.Before(k.MutedUntil) {
		k.State, k.MutedUntil = StateNew, time.Time{}
		e.happened(at, "unmuted", "its time is over")
	}
	if k.State == StateFixed || e.seen {
		return
	}
	f := &k.Finding
	gone := slices.Contains(l.look.Looked, f.Kind)
	var now analyze.Estimate
	if isChange(f.Kind) {
		ok := false
		if l.look.Now != nil {
			now, ok = l.look.Now(f)
		}
		if !ok {
			return // nothing is known
		}
		left := now.Value - f.Before.Value
		if f.Kind == analyze.Improvement {
			left = -left
		}
		if gone = left <= goneWithin*magnitude(f); !gone {
			if at.Sub(k.FirstSeen) > l.rules.NormAfter {
				l.end(e, "fixed", fmt.Sprintf("it has been so for %v and is the norm now", l.rules.NormAfter))
				return
			}
			if at.Sub(k.LastSeen) >= seenEvery {
				k.LastSeen, e.changed = at, true
			}
		}
	}
	switch {
	case !gone:
		if !k.GoneSince.IsZero() {
			k.GoneSince, e.changed = time.Time{}, true
		}
	case k.GoneSince.IsZero():
		k.GoneSince, e.changed = at, true
	case at.Sub(k.GoneSince) >= l.rules.FixedAfter:
		if f.Kind == analyze.Improvement {
			l.end(e, "undone", "it takes what it took before")
			return
		}
		l.fix(e, now, "")
	}
}

// fix ends it, with what that has saved.
func (l *life) fix(e *entry, now analyze.Estimate, why string) {
	f := &e.Record.Finding
	if f.Saving > 0 && f.SavingUnit != "" {
		part := 1.0
		if m := magnitude(f); isChange(f.Kind) && m > 0 {
			part = min(1, max(0, (f.After.Value-now.Value)/m))
		}
		s := &Saved{Amount: f.Saving * part, Unit: f.SavingUnit}
		if p := f.Price; p != nil {
			s.Price = &analyze.Money{Amount: p.Amount * part, Low: p.Low * part, High: p.High * part, Currency: p.Currency, Basis: p.Basis}
		}
		e.Record.Saved = s
	}
	l.end(e, "fixed", why)
}

func (l *life) end(e *entry, what, why string) {
	k := &e.Record
	k.State, k.FixedAt, k.GoneSince, k.MutedUntil = StateFixed, l.look.At, time.Time{}, time.Time{}
	e.happened(l.look.At, what, why)
}
