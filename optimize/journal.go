package optimize

import (
	"context"
	"errors"
	"time"
)

// The words a caller branches on.
var (
	ErrInvalid  = errors.New("invalid")   // the call itself is wrong
	ErrNotFound = errors.New("not found") // there is no such change
	ErrConflict = errors.New("conflict")  // somebody changed it meanwhile: read it again
	ErrState    = errors.New("state")     // it cannot be done with a change in this state
)

// Filter chooses changes. Zero fields choose all.
type Filter struct {
	Service string
	Kinds   []Kind
	States  []State
	Since   time.Time // something happened to it at or after
	Limit   int       // those that something happened to last; 0 is 1000
}

// Journal is where changes are kept: what is about to be done is in it before it is done. The optimizer and those who ask
// it may be several processes on one journal. Memory is one, room optimize/journal another on the control database.
type Journal interface {
	// Keep writes a change, what happened to it, and the rails unless that is nil, as one: all of it or nothing. It is durable when it
	// returns. [ErrConflict] is that the change is another than the one that was read; c keeps its version.
	Keep(ctx context.Context, c *Change, rails *Rails, events ...Event) error
	// Change is one; ok is false if there is none.
	Change(ctx context.Context, tenant, id string) (c Change, ok bool, err error)
	// Changes are a tenant's, those that something happened to last first: an event, or that it was proposed again.
	Changes(ctx context.Context, tenant string, f Filter) ([]Change, error)
	// Events are at most [MaxEvents] of a change's after the event number after, the oldest first; with after below 0 they are its last
	// -after, at most as many. Their numbers count from 1, and none goes away.
	Events(ctx context.Context, tenant, id string, after int64) ([]Event, error)
	// Tenants are those that have changes, sorted.
	Tenants(ctx context.Context) ([]string, error)

	// Rails are the tenant's; only who acts writes them.
	Rails(ctx context.Context, tenant string) (Rails, error)
	// Holds are what people and incidents hold all changes by; ChangeHolds changes them as one, change may be called more than once.
	Holds(ctx context.Context, tenant string) (Holds, error)
	ChangeHolds(ctx context.Context, tenant string, change func(*Holds) error) error
}

// MaxEvents is how many events one call of [Journal.Events] returns at most.
const MaxEvents = 1000

// Version is the number of writes that c has seen, for a [Journal]: 0 is that it is new to it.
func (c *Change) Version() int64 { return c.version }

// SetVersion is for a [Journal]: to say which write it was that c was read from.
func (c *Change) SetVersion(v int64) { c.version = v }

// Rails are what acting has used up: it bounds what comes.
type Rails struct {
	// Breakers by kind, and under "" the one of all.
	Breakers map[Kind]Breaker `json:"breakers,omitempty"`
	// Touched is when a node was changed last, by its ID; older than the policy's bound is forgotten.
	Touched map[string]time.Time `json:"touched,omitempty"`
	// Spent is what changes have added to the bill in a month, by "2026-11".
	Spent map[string]float64 `json:"spent,omitempty"`
}

// Breaker keeps changes from being made after several have done harm.
type Breaker struct {
	Failures  int       `json:"failures,omitempty"` // in a row
	OpenUntil time.Time `json:"open_until,omitzero"`
	// Trial is the one change that is let through when the time is over: it closes the breaker or opens it again.
	Trial string `json:"trial,omitempty"`
}

// Holds are what keeps all changes from going on.
type Holds struct {
	Paused *Hold `json:"paused,omitempty"`
	// Incidents are those that are open, by their name.
	Incidents map[string]Hold `json:"incidents,omitempty"`
}

// Hold is who holds, since when and why.
type Hold struct {
	By    string    `json:"by"`
	At    time.Time `json:"at"`
	Note  string    `json:"note,omitempty"`
	Until time.Time `json:"until,omitzero"` // zero is until it is ended
}
