package p2p

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"time"

	"github.com/quantra-l/quantra/zerotrust"
	"github.com/quantra-l/quantra/zerotrust/policy"
)

// The bounds of what is remembered of rights.
const (
	// rightFor is how long a decision is good without being asked for again, while the level stays: so long a change of policies takes to
	// reach those who are connected. What ends a session or moves its level is seen at once.
	rightFor = 10 * time.Second
	// faultFor is how long one is that could not be made.
	faultFor = time.Second
	// maxRights are the decisions that are remembered of one peer. A peer that asks for more is asked anew.
	maxRights = 512
	// The longest names of what is asked.
	maxAction, maxResource = 32, 192
	// decideTime bounds a decision: its record may wait for the disk.
	decideTime = 5 * time.Second
)

// errRate, errReadOnly and the like are made once, so that to refuse costs nothing.
var (
	errEnded    = fmt.Errorf("%w: its session has ended", ErrUnguarded)
	errName     = fmt.Errorf("%w: no resource has such a name", ErrDenied)
	errRevoked  = fmt.Errorf("%w: it was revoked", ErrDenied)
	errReadOnly = fmt.Errorf("%w: its session only reads", ErrDenied)
)

// RateError says that a peer asks more often than its level may. It is [ErrDenied].
type RateError struct{ Rate policy.Rate }

func (e *RateError) Error() string {
	return "denied: more often than " + e.Rate.String()
}

// Unwrap is [ErrDenied].
func (e *RateError) Unwrap() error { return ErrDenied }

// asked is what somebody wants to do.
type asked struct{ action, resource string }

// right is a decision that is remembered.
type right struct {
	level   policy.Level
	until   int64 // Unix nanoseconds
	err     error // nil: allowed
	limited *RateError
	every   int64         // nanoseconds of a token, where it is limited
	burst   int64         // nanoseconds of a full bucket
	arrival *atomic.Int64 // when the bucket would be full again: the generic cell rate algorithm, as zerotrust's
}

// take takes a token.
func (r *right) take(now int64) bool {
	for {
		at := r.arrival.Load()
		next := max(at, now) + r.every
		if next > now+r.burst {
			return false
		}
		if r.arrival.CompareAndSwap(at, next) {
			return true
		}
	}
}

// allow says whether the peer may, now. It counts what was asked as behaviour.
func (g *guarded) allow(action, resource string) error {
	if g.session.Err() != nil {
		return errEnded
	}
	now := g.node.opt.Now().UnixNano()
	r := (*g.rights.Load())[asked{action, resource}]
	if r == nil || r.until < now || r.level != g.session.Level() {
		r = g.decide(action, resource, now)
	}
	if r.err == nil && r.limited != nil && !r.take(now) {
		g.session.Observe(zerotrust.Activity{Faults: 1})
		return r.limited
	}
	if r.err != nil {
		g.session.Observe(zerotrust.Activity{Faults: 1})
		return r.err
	}
	g.session.Observe(zerotrust.Activity{Messages: 1})
	return nil
}

// decide asks the guard, and remembers what it says.
func (g *guarded) decide(action, resource string, now int64) *right {
	if len(action) > maxAction || len(resource) > maxResource {
		return &right{err: errName}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	level := g.session.Level()
	rights := *g.rights.Load()
	old := rights[asked{action, resource}]
	if old != nil && old.until >= now && old.level == level { // another was faster
		return old
	}
	if old == nil {
		g.session.Observe(zerotrust.Activity{Resources: 1})
	}
	ctx, cancel := context.WithTimeout(g.ctx, decideTime)
	defer cancel()
	r := g.judge(ctx, level, action, resource, now)
	if old != nil && r.limited != nil && old.limited != nil && *old.limited == *r.limited {
		r.arrival = old.arrival // who asks again has not thereby earned a full bucket
	}
	next := make(map[asked]*right, len(rights)+1)
	if len(rights) < maxRights || old != nil {
		maps.Copy(next, rights)
	}
	next[asked{strings.Clone(action), strings.Clone(resource)}] = r
	g.rights.Store(&next)
	return r
}

// judge is one decision.
func (g *guarded) judge(ctx context.Context, level policy.Level, action, resource string, now int64) *right {
	r := &right{level: level, until: now + int64(rightFor)}
	switch action {
	case "connect", "subscribe", "read":
	default:
		readOnly, err := g.terms(ctx, level)
		if err != nil {
			r.err, r.until = err, now+int64(faultFor)
			return r
		}
		if readOnly {
			r.err = errReadOnly
			return r
		}
	}
	d, err := g.session.Evaluate(ctx, action, resource)
	defer d.Release()
	switch {
	case err != nil:
		r.err, r.until = fmt.Errorf("%w: it could not be decided: %w", ErrUnavailable, err), now+int64(faultFor)
		if errors.Is(err, zerotrust.ErrDenied) {
			r.err = errEnded
		}
	case !d.Allow && d.RetryAfter > 0:
		r.err, r.until = &RateError{d.Conditions.Rate}, now+int64(d.RetryAfter)
	case !d.Allow:
		r.err = fmt.Errorf("%w: %s", ErrDenied, d.Reason)
	case d.Conditions.Rate != (policy.Rate{}):
		rate := d.Conditions.Rate
		r.limited = &RateError{rate}
		r.every, r.burst, r.arrival = int64(rate.Every), int64(rate.Every)*int64(rate.Burst), new(atomic.Int64)
	}
	return r
}

// terms are the conditions of being connected at a level: that a session only reads. g.mu is held.
func (g *guarded) terms(ctx context.Context, level policy.Level) (readOnly bool, err error) {
	if g.termsLevel == level {
		return g.readOnly, nil
	}
	d, err := g.session.Evaluate(ctx, "connect", g.node.ownResource)
	defer d.Release()
	switch {
	case err != nil:
		return true, fmt.Errorf("%w: it could not be decided: %w", ErrUnavailable, err)
	case !d.Allow:
		return true, fmt.Errorf("%w: %s", ErrDenied, d.Reason)
	}
	g.termsLevel, g.readOnly = level, d.Conditions.ReadOnly
	return g.readOnly, nil
}

// mayStay says why the peer may not be connected any more, "" where it may.
func (g *guarded) mayStay(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, decideTime)
	defer cancel()
	d, err := g.session.Evaluate(ctx, "connect", g.node.ownResource)
	d.Release()
	if err == nil && !d.Allow && d.RetryAfter == 0 {
		return d.Reason
	}
	return ""
}
