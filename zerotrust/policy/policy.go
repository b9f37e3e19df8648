// Package policy decides who may do what: Cedar policies, read from files, checked against one model of principals, actions and resources,
// and compiled. Nothing is permitted that no policy permits; what a policy forbids no other permits.
//
// A policy whose conditions are comparisons, memberships and patterns over the model is decided by a small program of our own, without
// allocation; any other by cedar-go. Both mean the same, which the tests hold them to.
package policy

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Level is how far a principal is trusted. Each holds what those below it do.
type Level uint8

// Levels, with the trust that they begin at.
const (
	Untrusted  Level = iota // 0
	Basic                   // 31
	Verified                // 51
	Privileged              // 71
	Critical                // 91
)

var levels = []string{"untrusted", "basic", "verified", "privileged", "critical"}

// levelFrom is the least trust of each level.
var levelFrom = [...]int{0, 31, 51, 71, 91}

// LevelOf is the level of a trust of 0 to 100; one below or above counts as the nearest.
func LevelOf(trust int) Level {
	l := Untrusted
	for l < Critical && trust >= levelFrom[l+1] {
		l++
	}
	return l
}

// Trust is the least trust that has this level.
func (l Level) Trust() int { return levelFrom[min(l, Critical)] }

// String is the level's name in policies.
func (l Level) String() string {
	if l > Critical {
		return fmt.Sprintf("level(%d)", uint8(l))
	}
	return levels[l]
}

// ParseLevel reads a level's name.
func ParseLevel(name string) (Level, error) {
	if i := slices.Index(levels, name); i >= 0 {
		return Level(i), nil
	}
	return 0, fmt.Errorf("%.40q is no level; there are %s", name, strings.Join(levels, ", "))
}

// Kinds of principals, Actions, Isolations from the weakest to the strongest, and the roles of the standard set. Treat them as constants.
var (
	Kinds      = []string{"peer", "agent", "person", "token", "service"}
	Actions    = []string{"connect", "send", "subscribe", "read", "write", "change", "administer"}
	Isolations = []string{"", "wasm", "process", "oci", "microvm"}
	Roles      = []string{"reader", "analyst", "operator", "admin", "writer"}
)

// Bounds of a request. One past them is denied.
const (
	maxPrincipal  = 256
	maxPath       = 1024
	maxSegments   = 16
	maxRoles      = 32
	maxRole       = 128
	maxAttributes = 64
	maxAttribute  = 1024
)

// Request is one question. What is in it must be proven: policies take it as true.
type Request struct {
	Principal  string            // who: an identity's id, or a person's or token's pseudonym
	Kind       string            // one of Kinds
	Roles      []string          // granted roles
	Action     string            // one of Actions
	Resource   string            // a path as "profiles/raw/checkout": segments with one slash between them, none of them "." or ".."
	Trust      int               // 0 to 100
	Level      Level             // not above what Trust gives, but it may be below it
	MFA        bool              // a second factor was shown
	Isolation  string            // what the session will run in, one of Isolations
	Attributes map[string]string // signed ones only; those that the set's schema declares are seen
	Remote     netip.Addr        // invalid: unknown
	Time       time.Time
}

// Rate is a token bucket: Burst at once, and one more each Every. The zero value is no limit. It is comparable: who enforces it keeps a
// bucket for each principal and rate.
type Rate struct {
	Burst int
	Every time.Duration
}

// String is the rate as a policy has it, or as near as a text comes where several were joined.
func (r Rate) String() string {
	if r == (Rate{}) {
		return "none"
	}
	for unit, d := range rateUnits {
		if r.Every == every(d, r.Burst) {
			return fmt.Sprintf("%d/%s", r.Burst, unit)
		}
	}
	return fmt.Sprintf("%d at once, then one in %s", r.Burst, r.Every)
}

// rateUnits are the units of @rate, of which no two give the same Every for a burst.
var rateUnits = map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}

// every is the time of one token, rounded up, so that a rate is never above what was written.
func every(unit time.Duration, n int) time.Duration {
	return (unit + time.Duration(n) - 1) / time.Duration(n)
}

// stricter is a bucket that gives no more than either.
func (r Rate) stricter(o Rate) Rate {
	switch (Rate{}) {
	case r:
		return o
	case o:
		return r
	}
	return Rate{Burst: min(r.Burst, o.Burst), Every: max(r.Every, o.Every)}
}

// Conditions are what holds beside a permission.
type Conditions struct {
	MFA       bool   // a second factor was shown
	ReadOnly  bool   // the session only reads: what it sends, writes or changes must be refused
	Isolation string // the session runs in at least this; "" is nothing
	Rate      Rate   // the principal's requests keep to this; who gets the answer enforces it
}

// with are both: what either asks holds.
func (c Conditions) with(o Conditions) Conditions {
	c.MFA = c.MFA || o.MFA
	c.ReadOnly = c.ReadOnly || o.ReadOnly
	if isolationOf(o.Isolation) > isolationOf(c.Isolation) {
		c.Isolation = o.Isolation
	}
	c.Rate = c.Rate.stricter(o.Rate)
	return c
}

// String are the conditions as annotations.
func (c Conditions) String() string {
	var out []string
	if c.MFA {
		out = append(out, `@mfa("required")`)
	}
	if c.Isolation != "" {
		out = append(out, fmt.Sprintf("@isolation(%q)", c.Isolation))
	}
	if c.ReadOnly {
		out = append(out, `@read_only("true")`)
	}
	if c.Rate != (Rate{}) {
		out = append(out, fmt.Sprintf("@rate(%q)", c.Rate))
	}
	return strings.Join(out, " ")
}

// Result is the answer.
type Result struct {
	Allow bool
	// Policies are the ids of those that decided, in the set's order: of an allowed request every permit that matches, of a forbidden one
	// every forbid. None permitted what has none. It is shared: do not write to it.
	Policies []string
	// Conditions are those of all permits that match. Decide has held MFA and Isolation against the request, and ReadOnly against its
	// action; Rate, and a session's ReadOnly, are for the caller to enforce. Of a denied request they are what would have to hold, where
	// that was all that was missing, so that one may show a second factor, or start the isolation, and ask again.
	Conditions Conditions
	Reason     string // one of a few sentences, for logs and people
	Native     bool   // no policy had to be decided by cedar-go
}

// Reasons of a Result.
const (
	reasonAllowed   = "permitted"
	reasonForbidden = "a policy forbids it"
	reasonNone      = "no policy permits it"
	reasonMFA       = "it is permitted with a second factor, which was not shown"
	reasonIsolation = "it is permitted in a stronger isolation than the session has"
	reasonReadOnly  = "it is permitted for reading only"
	reasonError     = "a policy could not be evaluated"
)

// facts are a request, checked, with its words as numbers.
type facts struct {
	r         *Request
	kind      int
	action    int
	isolation int
	roles     uint64     // those of the request that the set knows
	remote    netip.Addr // unmapped, without a zone
	time      int64      // ms since 1970, as Cedar has it
}

// kindOf, actionOf and isolationOf are places in Kinds, Actions and Isolations, or -1: by a switch, which is quicker than to look there.
func kindOf(s string) int {
	switch s {
	case "peer":
		return 0
	case "agent":
		return 1
	case "person":
		return 2
	case "token":
		return 3
	case "service":
		return 4
	}
	return -1
}

func actionOf(s string) int {
	switch s {
	case "connect":
		return 0
	case "send":
		return 1
	case "subscribe":
		return 2
	case "read":
		return 3
	case "write":
		return 4
	case "change":
		return 5
	case "administer":
		return 6
	}
	return -1
}

func isolationOf(s string) int {
	switch s {
	case "":
		return 0
	case "wasm":
		return 1
	case "process":
		return 2
	case "oci":
		return 3
	case "microvm":
		return 4
	}
	return -1
}

// factsOf checks a request; why says why it is none, or is "". It returns the facts, rather than filling them in, so that the compiler sees
// that the request does not escape.
func factsOf(r *Request) (f facts, why string) {
	f = facts{r: r, kind: kindOf(r.Kind), action: actionOf(r.Action), isolation: isolationOf(r.Isolation), time: r.Time.UnixMilli()}
	if r.Remote.IsValid() {
		f.remote = r.Remote.Unmap()
		if f.remote.Zone() != "" {
			f.remote = f.remote.WithZone("")
		}
	}
	switch {
	case r.Principal == "" || len(r.Principal) > maxPrincipal:
		return f, "the request's principal is empty or too long"
	case f.kind < 0:
		return f, "the request's kind of principal is not known"
	case f.action < 0:
		return f, "the request's action is not known"
	case f.isolation < 0:
		return f, "the request's isolation is not known"
	case r.Trust < 0 || r.Trust > 100:
		return f, "the request's trust is not of 0 to 100"
	case r.Level > LevelOf(r.Trust):
		return f, "the request's level is above its trust"
	case !cleanPath(r.Resource):
		return f, "the request's resource is no path"
	case len(r.Roles) > maxRoles || len(r.Attributes) > maxAttributes:
		return f, "the request has too many roles or attributes"
	}
	for _, role := range r.Roles {
		if len(role) > maxRole {
			return f, "a role of the request is too long"
		}
	}
	return f, ""
}

// cleanPath says whether a path is written as policies have it, so that no other spelling slips past one.
func cleanPath(p string) bool {
	if p == "" || len(p) > maxPath {
		return false
	}
	start, segments := 0, 0
	for i := 0; i <= len(p); i++ {
		if i < len(p) && p[i] != '/' {
			if p[i] < ' ' || p[i] == 0x7f {
				return false
			}
			continue
		}
		switch seg := p[start:i]; seg {
		case "", ".", "..":
			return false
		}
		start = i + 1
		if segments++; segments > maxSegments {
			return false
		}
	}
	return true
}

// firstSegment is what comes before a path's first slash.
func firstSegment(p string) string {
	first, _, _ := strings.Cut(p, "/")
	return first
}

// lastSegment is what comes after a path's last slash.
func lastSegment(p string) string { return p[strings.LastIndexByte(p, '/')+1:] }

// Decide answers. Forbids come before permits, and nothing is permitted that no policy permits. A request that is out of bounds, and one
// whose policies cannot be evaluated, is denied. Where no policy needs cedar-go it allocates nothing, unless more than 8 policies decide.
func (s *Set) Decide(r *Request) Result {
	f, why := factsOf(r)
	if why != "" {
		return Result{Reason: why, Native: true}
	}
	for _, role := range r.Roles {
		if i := slices.Index(s.roles, role); i >= 0 {
			f.roles |= 1 << i
		}
	}
	prog := s.programFor(&f)
	var by matches
	var c forCedar
	if s.run(prog.forbids, &f, &by, &c); by.n > 0 {
		return Result{Policies: s.names(&by), Reason: reasonForbidden, Native: c.question == nil}
	}
	s.run(prog.permits, &f, &by, &c)
	res := Result{Reason: reasonNone, Native: c.question == nil}
	switch {
	case c.failed: // Cedar passes such a policy over, which for a forbid would be to permit
		res.Reason = reasonError
	case by.n > 0:
		res.Policies = s.names(&by)
		res.Conditions = s.policies[by.at(0)].conditions
		for i := 1; i < by.n; i++ {
			res.Conditions = res.Conditions.with(s.policies[by.at(i)].conditions)
		}
		res.Allow, res.Reason = f.meets(&res.Conditions)
	}
	return res
}

// forCedar is what cedar-go is asked with, made when the first policy needs it, and whether it failed to answer.
type forCedar struct {
	question *question
	failed   bool
}

// run adds the policies that match.
func (s *Set) run(steps []step, f *facts, by *matches, c *forCedar) {
next:
	for i := range steps {
		st := &steps[i]
		for j := range st.tests {
			if !st.tests[j].holds(f) {
				continue next
			}
		}
		if st.cedar {
			if c.question == nil {
				c.question = s.ask(*f.r) // a copy, so that a request that is decided natively stays where its caller has it
			}
			ok, err := s.policies[st.policy].matches(c.question)
			c.failed = c.failed || err != nil
			if !ok {
				continue
			}
		}
		by.add(st.policy)
	}
}

// meets says whether the request has what conditions ask of it.
func (f *facts) meets(c *Conditions) (bool, string) {
	switch {
	case c.MFA && !f.r.MFA:
		return false, reasonMFA
	case f.isolation < isolationOf(c.Isolation):
		return false, reasonIsolation
	case c.ReadOnly && !reads[f.action]:
		return false, reasonReadOnly
	}
	return true, reasonAllowed
}

// reads are the actions of Actions that a read-only permission covers.
var reads = [...]bool{true, false, true, true, false, false, false}

// Bounds of matches: beyond the first, they are a slice; beyond the second, lists of names are made anew each time.
const (
	fewMatches = 8
	maxLists   = 4096
)

// matches are the policies that decided, by their place in the set.
type matches struct {
	n    int
	few  few
	more []uint16
}

type few [fewMatches]uint16

func (m *matches) add(policy uint16) {
	if m.n < fewMatches {
		m.few[m.n] = policy
	} else {
		m.more = append(m.more, policy)
	}
	m.n++
}

func (m *matches) at(i int) uint16 {
	if i < fewMatches {
		return m.few[i]
	}
	return m.more[i-fewMatches]
}

// listKey is a list of policies as a map's key. Places that are not used are [math.MaxUint16], which is no policy's.
type listKey few

// names are the ids of policies: part of the set's own list where they follow each other, else a list that is kept for the next time.
func (s *Set) names(m *matches) []string {
	first, last := int(m.at(0)), int(m.at(m.n-1))
	if last-first == m.n-1 {
		return s.ids[first : last+1 : last+1]
	}
	if m.n > fewMatches {
		return s.list(m)
	}
	key := listKey(m.few)
	for i := m.n; i < fewMatches; i++ {
		key[i] = math.MaxUint16
	}
	if have, ok := (*s.lists.Load())[key]; ok {
		return have
	}
	return s.keep(key, s.list(m))
}

func (s *Set) list(m *matches) []string {
	out := make([]string, m.n)
	for i := range out {
		out[i] = s.ids[m.at(i)]
	}
	return out
}

// keep remembers a list by a copy of the map, so that readers need no lock.
func (s *Set) keep(key listKey, list []string) []string {
	s.keeping.Lock()
	defer s.keeping.Unlock()
	old := *s.lists.Load()
	if len(old) >= maxLists {
		return list
	}
	all := make(map[listKey][]string, len(old)+1)
	for k, v := range old {
		all[k] = v
	}
	all[key] = list
	s.lists.Store(&all)
	return list
}
