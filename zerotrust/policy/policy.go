// Package policy decides what a request may do, by rules that were compiled before: pure, without a clock, and denied by default.
package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Level is what a trust is worth.
type Level uint8

// The levels, by trust.
const (
	Untrusted  Level = iota // 0 to 30
	Basic                   // 31 to 50
	Verified                // 51 to 70
	Privileged              // 71 to 90
	Critical                // 91 to 100
)

var levelNames = [...]string{"untrusted", "basic", "verified", "privileged", "critical"}

// LevelOf is the level of a trust.
func LevelOf(trust int) Level {
	switch {
	case trust <= 30:
		return Untrusted
	case trust <= 50:
		return Basic
	case trust <= 70:
		return Verified
	case trust <= 90:
		return Privileged
	}
	return Critical
}

func (l Level) String() string {
	if int(l) < len(levelNames) {
		return levelNames[l]
	}
	return fmt.Sprintf("level %d", uint8(l))
}

// ParseLevel reads a level's name.
func ParseLevel(s string) (Level, error) {
	if i := slices.Index(levelNames[:], s); i >= 0 {
		return Level(i), nil
	}
	return 0, fmt.Errorf("level %.20q: it must be one of %s", s, strings.Join(levelNames[:], ", "))
}

// Request is what is decided about.
type Request struct {
	Principal  string   // who: an identity's id, or a person's or token's pseudonym
	Kind       string   // peer, agent, person, token or service
	Roles      []string // granted: reader, analyst, operator, admin
	Action     string   // connect, send, subscribe, read, write, change, administer
	Resource   string   // a path: profiles/raw/checkout
	Trust      int      // 0 to 100
	Level      Level
	MFA        bool
	Isolation  string            // what the session will run in: "", wasm, process, oci, microvm
	Attributes map[string]string // signed ones only
	Remote     netip.Addr
	Time       time.Time
}

// Isolations are what a session may run in, the weaker first.
var Isolations = []string{"", "wasm", "process", "oci", "microvm"}

// Rate is a bucket of Burst tokens, with one more for each Every; the zero value is no bound.
type Rate struct {
	Burst int
	Every time.Duration
}

// Conditions are what an allowed request must keep to.
type Conditions struct {
	MFA, ReadOnly bool
	Isolation     string // at least this; "" is none
	Rate          Rate   // a bucket per principal
}

// Result is a decision.
type Result struct {
	Allow      bool
	Policies   []string // the ids of those that decided; not to be changed
	Conditions Conditions
	Reason     string
	Native     bool
}

// Set is a compiled set of policies. It never changes.
type Set struct{ rules []rule }

type rule struct {
	ids     []string
	permit  bool
	matches func(*Request) bool
	then    Conditions
}

// NewSet is a set of one policy: permit what matches, under conditions.
func NewSet(id string, matches func(*Request) bool, then Conditions) *Set {
	return &Set{[]rule{{[]string{id}, true, matches, then}}}
}

// Standard is what holds where no file says otherwise.
func Standard() *Set {
	under := func(r *Request, prefix string) bool { return strings.HasPrefix(r.Resource, prefix) }
	return &Set{[]rule{
		{[]string{"distrusted"}, false, func(r *Request) bool { return r.Trust < 20 }, Conditions{}},
		{[]string{"critical"}, true, func(r *Request) bool { return under(r, "critical/") && r.Level >= Critical }, Conditions{Isolation: "process"}},
		{[]string{"profiles-raw"}, true, func(r *Request) bool {
			return under(r, "profiles/raw/") && r.Action == "read" && r.Level >= Critical
		}, Conditions{ReadOnly: true}},
		{[]string{"profiles-aggregate"}, true, func(r *Request) bool {
			return under(r, "profiles/aggregate/") && r.Action == "read" && r.Level >= Verified
		}, Conditions{ReadOnly: true}},
		{[]string{"peers"}, true, func(r *Request) bool {
			return (under(r, "topic/") || under(r, "peer/")) && (r.Action == "connect" || r.Action == "send" || r.Action == "subscribe") && r.Level >= Basic
		}, Conditions{}},
	}}
}

// Decide decides a request.
func (s *Set) Decide(r *Request) Result {
	var out Result
	for i := range s.rules {
		p := &s.rules[i]
		if !p.matches(r) {
			continue
		}
		if !p.permit {
			return Result{Policies: p.ids, Reason: "a policy forbids it", Native: true}
		}
		if !out.Allow {
			out = Result{Allow: true, Policies: p.ids, Conditions: p.then, Reason: "a policy permits it", Native: true}
		}
	}
	if !out.Allow {
		out = Result{Reason: "no policy permits it", Native: true}
	}
	return out
}
