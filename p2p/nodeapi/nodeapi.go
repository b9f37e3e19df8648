// Package nodeapi is how people see a running node: its figures, its peers and topics, what the guard has decided of them lately and what
// happened to watched files, as JSON for the dashboard. All of it is read from what the node counts anyway: while
// nobody looks it costs a look at the counters every five seconds.
package nodeapi

import (
	"cmp"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/internal/jsonapi"
	"github.com/quantra-l/quantra/p2p"
	"github.com/quantra-l/quantra/p2p/broadcast"
	"github.com/quantra-l/quantra/p2p/direct"
	"github.com/quantra-l/quantra/zerotrust"
)

// Path is under what [API.Handler] answers.
const Path = "/api/v1/node"

// The bounds of answers.
const (
	defaultPeers, maxPeers   = 200, 1000
	defaultEvents, maxEvents = 100, kept
	maxTopics                = 200
	maxReason                = 128 // bytes of why a peer's session is ended
)

// Options are those of an [API]. Now has a default; all the others must be there where Node is.
type Options struct {
	Node      *p2p.Node // nil: there is none, which is what is answered
	Direct    *direct.Service
	Broadcast *broadcast.Service
	Guard     *zerotrust.Guard
	Events    *Events
	Watched   bool                                     // files are watched
	Usage     func() (cpu time.Duration, memory int64) // of this process: processor time since it began, resident bytes
	Version   string
	Now       func() time.Time // nil is time.Now
	Log       *slog.Logger
}

// API answers questions about a node. It may be asked by many at a time.
type API struct {
	o     Options
	began time.Time

	mu           sync.Mutex
	before, last *sample // the sample before the last, and the last
	past         Past
}

// New is an API, whose rates are from now on. [API.Run] keeps them to the last seconds.
func New(o Options) *API {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Events == nil {
		o.Events = &Events{}
	}
	a := &API{o: o, began: o.Now()}
	if o.Node != nil {
		a.last = a.look()
		a.before = a.last
	}
	return a
}

// Rates are messages a second.
type Rates struct {
	In  float64 `json:"messages_in_per_second"`
	Out float64 `json:"messages_out_per_second"`
}

// Past is the last minutes, a value for each step, the newest last.
type Past struct {
	Step  float64   `json:"step_s"`
	In    []float64 `json:"messages_in_per_second"`
	Out   []float64 `json:"messages_out_per_second"`
	Cores []float64 `json:"cpu_cores"`
}

// Figures are a node's own, without anything of a single peer.
type Figures struct {
	Running bool      `json:"running"`
	ID      string    `json:"id"`
	Version string    `json:"version"`
	Time    time.Time `json:"time"`
	Since   time.Time `json:"since"` // the node's start
	Reach   string    `json:"reach"` // public, private or unknown
	Rates
	BytesIn  float64 `json:"bytes_in_per_second"`
	BytesOut float64 `json:"bytes_out_per_second"`
	Past     Past    `json:"past"`
	Process  Process `json:"process"`
	Peers    Crowd   `json:"peers"`

	Pending      int   `json:"pending"` // private messages that are not acknowledged
	PendingBytes int64 `json:"pending_bytes"`

	Counts    p2p.Counts       `json:"counts"`
	Admission p2p.Admission    `json:"admission"`
	Guard     Guard            `json:"guard"`
	Seats     *zerotrust.Seats `json:"seats"` // null: there are none
	Topics    []Topic          `json:"topics"`
	AllTopics int              `json:"topics_total"`
	Files     Files            `json:"files"`
	Faults    int              `json:"faults"` // their texts are with the events
}

// Process is this process, of which the node may be a part.
type Process struct {
	Cores      float64 `json:"cpu_cores"`
	Memory     int64   `json:"memory_bytes"`
	Goroutines int     `json:"goroutines"`
}

// Crowd is the peers that are let in, as sums.
type Crowd struct {
	All     int            `json:"all"`
	Levels  map[string]int `json:"levels"`
	Relayed int            `json:"relayed"`
	RTT     time.Duration  `json:"rtt_max_ns"` // the slowest one's last
	Known   int            `json:"known"`      // that the node keeps to
	Table   int            `json:"table"`      // of the DHT
}

// Guard is its counts, since it began: also of what people ask.
type Guard struct {
	Allowed uint64 `json:"allowed"`
	Denied  uint64 `json:"denied"`
}

// Topic is one that the node hears or publishes to.
type Topic struct {
	Topic     string `json:"topic"`
	Heard     bool   `json:"heard"`
	Listeners int    `json:"listeners"` // neighbours that hear it
	Mesh      int    `json:"mesh"`      // of them, whom messages are forwarded to
	Rates
	In      uint64            `json:"messages_in"`
	Out     uint64            `json:"messages_out"`
	Waiting int               `json:"waiting"`
	Refused map[string]uint64 `json:"refused"` // by reason
}

// Files is what happened to watched files since the start.
type Files struct {
	Watched bool           `json:"watched"`
	Events  map[string]int `json:"events"` // by severity
}

// Peer is one that is let in.
type Peer struct {
	p2p.Peer
	Rates
	In       uint64  `json:"messages_in"`
	Out      uint64  `json:"messages_out"`
	InFlight int     `json:"in_flight"` // requests that are waited for, and envelopes in the queue to it
	Pending  int     `json:"pending"`   // private messages that it has not acknowledged
	Topics   int     `json:"topics"`    // that it hears
	Score    float64 `json:"score"`     // of what it broadcasts: 0, or below
}

// Away is a peer that is not connected and that messages wait for.
type Away struct {
	ID      string `json:"id"`
	Pending int    `json:"pending"`
}

// Peers is who is let in, and for whom something waits.
type Peers struct {
	Running   bool     `json:"running"`
	ID        string   `json:"id"`
	Addresses []string `json:"addresses"` // of the node, with its id
	Peers     []Peer   `json:"peers"`
	All       int      `json:"total"`
	Away      []Away   `json:"away"`
}

// Happened is what the guard said, what happened to files, and what is wrong.
type Happened struct {
	Running   bool       `json:"running"`
	Decisions []Decision `json:"decisions"`
	Files     []File     `json:"files"`
	Watched   bool       `json:"watched"`
	Faults    []string   `json:"faults"`
}

// Handler answers. Who may ask is to be decided before it.
//
//	GET  /api/v1/node                        figures
//	GET  /api/v1/node/peers                  ?sort=since|trust|rtt|messages|bytes|in_flight|pending  ?limit=1..1000
//	GET  /api/v1/node/events                 ?refused=true  ?limit=1..256
//	POST /api/v1/node/peers/{id}/terminate   {"reason": "..."}
func (a *API) Handler() http.Handler {
	door := &jsonapi.Door{Tenant: func(*http.Request) (string, error) { return "", nil }, Fault: func(error) *jsonapi.Fault { return nil }, Logger: a.o.Log}
	mux := http.NewServeMux()
	answer := func(pattern string, params []string, do func(*http.Request) (any, error)) {
		door.Handle(mux, pattern, params, func(r *http.Request, _ string) (any, error) {
			if a.o.Node == nil && r.Method == http.MethodGet {
				return map[string]bool{"running": false}, nil
			}
			return do(r)
		})
	}
	answer("GET "+Path, nil, func(*http.Request) (any, error) { return a.figures(), nil })
	answer("GET "+Path+"/peers", []string{"sort", "limit"}, func(r *http.Request) (any, error) {
		limit, err := jsonapi.Number("limit", r.FormValue("limit"), defaultPeers, 1, maxPeers)
		if err != nil {
			return nil, err
		}
		return a.peers(r.FormValue("sort"), limit)
	})
	answer("GET "+Path+"/events", []string{"refused", "limit"}, func(r *http.Request) (any, error) {
		limit, err := jsonapi.Number("limit", r.FormValue("limit"), defaultEvents, 1, maxEvents)
		if err != nil {
			return nil, err
		}
		refused := r.FormValue("refused")
		if refused != "" && refused != "true" && refused != "false" {
			return nil, jsonapi.Invalid("refused=%.40q: it must be true or false", refused)
		}
		h := Happened{Running: true, Watched: a.o.Watched, Faults: a.faults()}
		h.Decisions, h.Files = a.o.Events.recent(limit, refused == "true")
		return h, nil
	})
	answer("POST "+Path+"/peers/{id}/terminate", nil, a.terminate)
	door.Else(mux)
	return mux
}

// terminate ends the guard's session of a peer, and with it the connection.
func (a *API) terminate(r *http.Request) (any, error) {
	var why struct {
		Reason string `json:"reason"`
	}
	if err := jsonapi.Body(r, &why); err != nil {
		return nil, err
	}
	if len(why.Reason) > maxReason {
		return nil, jsonapi.Invalid("a reason has at most %d bytes", maxReason)
	}
	id := r.PathValue("id")
	if a.o.Node != nil {
		for _, p := range a.o.Node.Status().Peers {
			if p.ID == id && a.o.Guard.Terminate(p.Session, cmp.Or(why.Reason, "by hand")) {
				return map[string]bool{"terminated": true}, nil
			}
		}
	}
	return nil, &jsonapi.Fault{Status: http.StatusNotFound, Code: "not_found", Text: "no such peer is connected: it may have gone meanwhile"}
}

// figures are the node's own.
func (a *API) figures() Figures {
	st, g := a.o.Node.Status(), a.o.Guard.Status()
	s, before, past := a.now()
	d := s.at.Sub(before.at)
	f := Figures{
		Running: true, ID: st.ID, Version: a.o.Version, Time: s.at.UTC(), Since: a.began.UTC(), Reach: st.Reach,
		Rates: s.all.since(before.all, d), BytesIn: rate(before.bytes.In, s.bytes.In, d), BytesOut: rate(before.bytes.Out, s.bytes.Out, d), Past: past,
		Process: Process{s.cores(before), s.memory, runtime.NumGoroutine()},
		Peers:   Crowd{All: len(st.Peers), Levels: map[string]int{}, Known: len(st.Known), Table: st.Table},
		Pending: s.direct.Pending, PendingBytes: s.direct.PendingBytes, Counts: st.Counts, Admission: st.Admission,
		Guard: Guard{g.Allowed, g.Denied}, Seats: g.Seats, Topics: []Topic{}, AllTopics: len(s.topic),
		Files: Files{a.o.Watched, a.o.Events.bySeverity()}, Faults: len(a.faults()),
	}
	for _, p := range st.Peers {
		f.Peers.Levels[p.Level]++
		f.Peers.RTT = max(f.Peers.RTT, p.RTT)
		if p.Relayed {
			f.Peers.Relayed++
		}
	}
	for _, t := range s.topic {
		now := s.topics[t.Topic]
		f.Topics = append(f.Topics, Topic{t.Topic, t.Heard, t.Listeners, t.Mesh, now.since(before.topics[t.Topic], d), t.In, t.Out, t.Waiting, t.Refused})
	}
	slices.SortStableFunc(f.Topics, func(a, b Topic) int { return cmp.Compare(b.Rates.In+b.Rates.Out, a.Rates.In+a.Rates.Out) })
	f.Topics = head(f.Topics, maxTopics)
	return f
}

// orders are how peers may be sorted: what is most first, those that came first otherwise.
var orders = map[string]func(a, b *Peer) int{
	"":          func(*Peer, *Peer) int { return 0 },
	"since":     func(*Peer, *Peer) int { return 0 },
	"trust":     func(a, b *Peer) int { return cmp.Compare(b.Trust, a.Trust) },
	"rtt":       func(a, b *Peer) int { return cmp.Compare(b.RTT, a.RTT) },
	"messages":  func(a, b *Peer) int { return cmp.Compare(b.Rates.In+b.Rates.Out, a.Rates.In+a.Rates.Out) },
	"bytes":     func(a, b *Peer) int { return cmp.Compare(b.BytesIn+b.BytesOut, a.BytesIn+a.BytesOut) },
	"in_flight": func(a, b *Peer) int { return cmp.Compare(b.InFlight, a.InFlight) },
	"pending":   func(a, b *Peer) int { return cmp.Compare(b.Pending, a.Pending) },
}

// peers are those that are let in. Their status has them in the order in which they came.
func (a *API) peers(sort string, limit int) (any, error) {
	order, ok := orders[sort]
	if !ok {
		return nil, jsonapi.Invalid("sort=%.40q: it must be since, trust, rtt, messages, bytes, in_flight or pending", sort)
	}
	st := a.o.Node.Status()
	s, before, _ := a.now()
	d := s.at.Sub(before.at)
	out := Peers{Running: true, ID: st.ID, Addresses: st.Addresses, All: len(st.Peers), Away: []Away{}}
	here := map[peer.ID]bool{}
	var all []Peer
	for _, p := range st.Peers {
		id, err := peer.Decode(p.ID)
		if err != nil {
			continue // cannot be: the node has made the text
		}
		here[id] = true
		own, gossip, now := s.direct.Peers[id], s.gossip[id], s.peers[id]
		p.BytesIn, p.BytesOut = s.bytesSince(before, id)
		all = append(all, Peer{
			Peer: p, Rates: now.since(before.peers[id], d), In: now.in, Out: now.out, InFlight: own.InFlight + gossip.Queued, Pending: own.Pending,
			Topics: gossip.Topics, Score: gossip.Score,
		})
	}
	slices.SortStableFunc(all, func(a, b Peer) int { return order(&a, &b) })
	out.Peers = head(all, limit)
	for id, p := range s.direct.Peers {
		if p.Pending > 0 && !here[id] {
			out.Away = append(out.Away, Away{id.String(), p.Pending})
		}
	}
	slices.SortFunc(out.Away, func(a, b Away) int { return cmp.Or(cmp.Compare(b.Pending, a.Pending), cmp.Compare(a.ID, b.ID)) })
	out.Away = head(out.Away, limit)
	return out, nil
}

// faults are what is wrong with what the node keeps on disk.
func (a *API) faults() []string {
	out := []string{}
	for _, err := range []error{a.o.Direct.Healthy(), a.o.Broadcast.Health(), a.o.Guard.Healthy()} {
		if err != nil {
			out = append(out, bounded(err.Error()))
		}
	}
	return out
}
