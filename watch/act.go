package watch

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// The words a caller branches on.
var (
	ErrInvalid  = errors.New("invalid")   // the call itself is wrong
	ErrNotFound = errors.New("not found") // there is no such finding
	ErrConflict = errors.New("conflict")  // somebody changed it meanwhile; look again
)

// Action is what a person does with a finding.
type Action struct {
	Do    string    `json:"do"` // one of Actions
	By    string    `json:"by"`
	Note  string    `json:"note,omitempty"`
	Until time.Time `json:"until,omitzero"` // of "mute"; zero is for ever
}

// Actions are what can be done: acknowledge says that somebody is at it, mute that nobody wants to hear of it, fix that it is
// done (it comes back if it is not), reopen that it is new again.
var Actions = []string{"acknowledge", "mute", "unmute", "fix", "reopen"}

const maxText = 1000

// act does it. The error wraps ErrInvalid.
func (r Record) act(a Action, now time.Time) (Update, error) {
	e := Event{Time: now, Actor: a.By, Note: a.Note}
	invalid := func(format string, args ...any) (Update, error) {
		return Update{}, fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
	}
	if len(a.Note) > maxText || len(a.By) > maxText {
		return invalid("a note and a name have at most %d bytes", maxText)
	}
	if a.By == "" {
		e.Actor = "somebody"
	}
	if !a.Until.IsZero() && a.Do != "mute" {
		return invalid("until belongs to mute, not to %.40q", a.Do)
	}
	switch a.Do {
	case "acknowledge":
		if !r.Open() {
			return invalid("it is %s: only what is open can be acknowledged", r.State)
		}
		r.State, e.What = StateAcknowledged, "acknowledged"
	case "mute":
		if r.State == StateFixed {
			return invalid("it is fixed: there is nothing to mute")
		}
		if !a.Until.IsZero() && !a.Until.After(now) {
			return invalid("until %s: it must be in the future", a.Until.Format(time.RFC3339))
		}
		r.State, r.MutedUntil, e.What = StateMuted, a.Until, "muted"
	case "unmute":
		if r.State != StateMuted {
			return invalid("it is %s, not muted", r.State)
		}
		r.State, r.MutedUntil, e.What = StateNew, time.Time{}, "unmuted"
	case "fix":
		if r.State == StateFixed {
			return invalid("it is fixed")
		}
		r.State, r.FixedAt, r.MutedUntil, r.GoneSince, e.What = StateFixed, now, time.Time{}, time.Time{}, "fixed"
	case "reopen":
		if r.State != StateFixed && r.State != StateAcknowledged {
			return invalid("it is %s", r.State)
		}
		r.State, r.FixedAt, r.Saved, e.What = StateNew, time.Time{}, nil, "reopened"
	default:
		return invalid("%.40q is none of %v", a.Do, slices.Sorted(slices.Values(Actions)))
	}
	return Update{r, []Event{e}}, nil
}
