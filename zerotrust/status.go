package zerotrust

import (
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/zerotrust/policy"
)

// Status is what a guard is doing.
type Status struct {
	Allowed     uint64       `json:"allowed"`
	Denied      uint64       `json:"denied"`
	Verified    uint64       `json:"documents_verified"` // signatures that were checked: the others were known
	Records     int          `json:"records"`
	Connections int          `json:"connections"`
	Issuers     []string     `json:"issuers"`
	Revocations []ListStatus `json:"revocations"`
	// Policy is what is in force, from where, and what is wrong with the files as they are now; nil where nobody tells.
	Policy *policy.Status `json:"policy,omitempty"`
	// Seats are those of sandboxes; nil where there are none, so that nobody of level privileged or above is let in by an identity.
	Seats *Seats `json:"seats,omitempty"`
	// Clock is the latest time seen; where the host's clock is behind it, it has gone back, and expiry goes by this one.
	Clock time.Time `json:"clock"`
	// Fault is why changes of trust cannot be kept, "" where they can.
	Fault string `json:"fault,omitempty"`
}

// Seats are room for sessions that run in a sandbox.
type Seats struct {
	All      int         `json:"all"`
	Taken    int         `json:"taken"`
	Sessions int         `json:"sessions"` // that run; a seat may be taken before its session starts
	Kinds    []Isolation `json:"isolations"`
}

// Isolation is a way to isolate, and what a trial on this host has shown.
type Isolation struct {
	Name string `json:"isolation"`
	// State is yes, no, untried, or weak: it runs and is no boundary, so nobody is let in by it.
	State    string        `json:"state"`
	Boundary string        `json:"boundary,omitempty"` // what holds a guest: software, kernel, hypervisor
	Text     string        `json:"text,omitempty"`     // how it runs, or why it is not there
	Start    time.Duration `json:"start_ns,omitempty"` // how long a small guest took to start
	At       time.Time     `json:"at,omitzero"`        // of the trial
}

// ListStatus is a list of revocations in force.
type ListStatus struct {
	Issuer  string    `json:"issuer"`
	Number  uint64    `json:"number"`
	Issued  time.Time `json:"issued"`
	Entries int       `json:"entries"`
}

// Status is what the guard is doing now.
func (g *Guard) Status() Status {
	s := Status{Verified: g.verified.Load(), Records: g.records.count(), Connections: len(g.openSessions()), Clock: time.Unix(g.moment().unix, 0).UTC()}
	for i := range g.counts {
		s.Allowed += g.counts[i].allowed.Load()
		s.Denied += g.counts[i].denied.Load()
	}
	a := g.authority.Load()
	s.Issuers, s.Revocations = []string{}, []ListStatus{}
	for _, id := range a.issuers {
		s.Issuers = append(s.Issuers, id)
	}
	slices.Sort(s.Issuers)
	for _, l := range a.lists {
		s.Revocations = append(s.Revocations, ListStatus{IDOf(l.Issuer), l.Number, l.Issued, len(l.Entries)})
	}
	slices.SortFunc(s.Revocations, func(a, b ListStatus) int { return strings.Compare(a.Issuer, b.Issuer) })
	if g.opt.PolicyStatus != nil {
		p := g.opt.PolicyStatus()
		s.Policy = &p
	}
	if g.opt.Capacity != nil && g.opt.Seats != nil {
		seats := g.opt.Seats()
		s.Seats = &seats
	}
	if err := g.Healthy(); err != nil {
		s.Fault = err.Error()
	}
	return s
}

// Connection is an open session.
type Connection struct {
	ID        string    `json:"id"`
	Principal string    `json:"principal"`
	Kind      string    `json:"kind"`
	Remote    string    `json:"remote,omitempty"`
	Since     time.Time `json:"since"`
	Trust     int       `json:"trust"`
	Level     string    `json:"level"`
	Score     float64   `json:"score"` // of behaviour, 0 to 1: above 0.5 it is out of the ordinary
	Isolation string    `json:"isolation,omitempty"`
}

// Connections are the open sessions, the oldest first.
func (g *Guard) Connections() []Connection {
	out := []Connection{}
	for _, s := range g.openSessions() {
		c := Connection{ID: s.id, Principal: s.w.principal, Kind: s.w.kind, Since: s.from.UTC(), Trust: int(s.w.r.trust.Load()), Level: s.Level().String(), Score: s.w.r.meter.lastScore(), Isolation: s.basis.Isolation}
		if s.remote.IsValid() {
			c.Remote = s.remote.String()
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Connection) int {
		if c := a.Since.Compare(b.Since); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out
}

// Records are all records, by principal.
func (g *Guard) Records() []Record { return g.records.list() }

// Terminate ends the session with this id, and is false where there is none.
func (g *Guard) Terminate(id, reason string) bool {
	for _, s := range g.openSessions() {
		if s.id == id {
			s.Terminate(reason)
			return true
		}
	}
	return false
}
