package p2p

import (
	"cmp"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/metrics"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/quantra-l/quantra/zerotrust"
)

// Status is what a node is doing.
type Status struct {
	ID        string    `json:"id"`
	Addresses []string  `json:"addresses"` // with the id: what others are given to connect
	Reach     string    `json:"reach"`     // public, private or unknown
	Peers     []Peer    `json:"peers"`
	Known     []Known   `json:"known"` // that it keeps to
	Table     int       `json:"table"` // peers of the DHT's table
	Counts    Counts    `json:"counts"`
	Admission Admission `json:"admission"`
	BytesIn   float64   `json:"bytes_in_per_second"`
	BytesOut  float64   `json:"bytes_out_per_second"`
}

// Admission is what the gate is doing.
type Admission = zerotrust.AdmissionStatus

// Peer is a peer that was let in.
type Peer struct {
	ID        string        `json:"id"`
	Session   string        `json:"session"` // the guard's name of it
	Address   string        `json:"address"`
	Transport string        `json:"transport"`
	Direction string        `json:"direction"` // inbound or outbound
	Relayed   bool          `json:"relayed"`
	Since     time.Time     `json:"since"`
	Trust     int           `json:"trust"`
	Level     string        `json:"level"`
	ReadOnly  bool          `json:"read_only"`
	RTT       time.Duration `json:"rtt_ns"` // of the last challenge
	BytesIn   float64       `json:"bytes_in_per_second"`
	BytesOut  float64       `json:"bytes_out_per_second"`
	Streams   int           `json:"streams"`
	Rights    int           `json:"rights"` // decisions that are remembered
	Agent     string        `json:"agent,omitempty"`
}

// Counts are of the node's life.
type Counts struct {
	Accepted uint64 `json:"accepted"` // connections
	Dialed   uint64 `json:"dialed"`
	Refused  uint64 `json:"refused"`  // before any work with keys
	Judged   uint64 `json:"judged"`   // let in by both ends
	Denied   uint64 `json:"denied"`   // not let in, by us or by them
	Failed   uint64 `json:"failed"`   // handshakes that did not come to an end
	Verified uint64 `json:"verified"` // challenges answered since
	Reset    uint64 `json:"reset"`    // streams of peers that were not let in
	Lost     uint64 `json:"lost"`     // sessions that have ended
}

// Status is what the node is doing now.
func (n *Node) Status() Status {
	s := Status{ID: n.ID().String(), Addresses: []string{}, Peers: []Peer{}, Known: []Known{}, Reach: "unknown", Admission: n.gate.admission.Status(), Counts: n.Counts()}
	for _, a := range n.Addrs() {
		s.Addresses = append(s.Addresses, a.String())
	}
	if n.opt.Reach != ReachAuto {
		s.Reach = string(n.opt.Reach)
	}
	if n.dht != nil {
		s.Table = n.dht.RoutingTable().Size()
	}
	total := n.bandwidth.GetBandwidthTotals()
	s.BytesIn, s.BytesOut = total.RateIn, total.RateOut
	for _, g := range n.guards.all() {
		s.Peers = append(s.Peers, g.status())
	}
	slices.SortFunc(s.Peers, func(a, b Peer) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID)) })
	for _, p := range n.known.list() {
		s.Known = append(s.Known, n.known.shown(p))
	}
	return s
}

// Bytes are those of streams since the node began. Of a peer that was away for an hour they begin anew.
type Bytes struct{ In, Out uint64 }

// Bytes are those of all peers, and of each that is let in.
func (n *Node) Bytes() (all Bytes, of map[peer.ID]Bytes) {
	bytes := func(s metrics.Stats) Bytes { return Bytes{uint64(max(0, s.TotalIn)), uint64(max(0, s.TotalOut))} }
	of = map[peer.ID]Bytes{}
	for _, g := range n.guards.all() {
		of[g.peer] = bytes(n.bandwidth.GetBandwidthForPeer(g.peer))
	}
	return bytes(n.bandwidth.GetBandwidthTotals()), of
}

// Counts are what was counted so far.
func (n *Node) Counts() Counts {
	c := &n.count
	return Counts{
		c.accepted.Load(), c.dialed.Load(), c.refused.Load(), c.judged.Load(), c.denied.Load(), c.failed.Load(), c.verified.Load(), c.reset.Load(), c.lost.Load(),
	}
}

func (g *guarded) status() Peer {
	n := g.node
	rate := n.bandwidth.GetBandwidthForPeer(g.peer)
	g.mu.Lock()
	readOnly := g.readOnly
	g.mu.Unlock()
	p := Peer{
		ID: g.peer.String(), Session: g.session.ID(), Address: g.conn.RemoteMultiaddr().String(), Transport: g.conn.ConnState().Transport,
		Direction: "outbound", Relayed: relayed(g.conn), Since: g.since.UTC(), Level: g.session.Level().String(), ReadOnly: readOnly,
		RTT: time.Duration(g.rtt.Load()), BytesIn: rate.RateIn, BytesOut: rate.RateOut, Rights: len(*g.rights.Load()),
	}
	if g.inbound {
		p.Direction = "inbound"
	}
	for _, c := range n.inner.Network().ConnsToPeer(g.peer) {
		p.Streams += len(c.GetStreams())
	}
	if r, ok := n.opt.Guard.Record(g.session.Principal()); ok {
		p.Trust = r.Trust()
	}
	if v, err := n.inner.Peerstore().Get(g.peer, "AgentVersion"); err == nil {
		if text, ok := v.(string); ok && len(text) <= 128 {
			p.Agent = text
		}
	}
	return p
}

// The metrics of a node.
var (
	peersDesc    = prometheus.NewDesc("quantra_p2p_peers", "Peers that are let in, by level.", []string{"level"}, nil)
	tableDesc    = prometheus.NewDesc("quantra_p2p_table_peers", "Peers in the DHT's table.", nil, nil)
	connsDesc    = prometheus.NewDesc("quantra_p2p_connections_total", "Connections that began, by direction.", []string{"direction"}, nil)
	refusedDesc  = prometheus.NewDesc("quantra_p2p_refused_total", "Connections that were refused before any work with keys.", nil, nil)
	judgedDesc   = prometheus.NewDesc("quantra_p2p_handshakes_total", "Handshakes of the guard, by how they ended.", []string{"outcome"}, nil)
	verifiedDesc = prometheus.NewDesc("quantra_p2p_challenges_total", "Challenges of open sessions that were answered.", nil, nil)
	resetDesc    = prometheus.NewDesc("quantra_p2p_streams_reset_total", "Streams that were reset, as their peer was not let in.", nil, nil)
	lostDesc     = prometheus.NewDesc("quantra_p2p_sessions_ended_total", "Sessions that have ended.", nil, nil)
	bytesDesc    = prometheus.NewDesc("quantra_p2p_bytes_total", "Bytes of streams, by direction.", []string{"direction"}, nil)
	rttDesc      = prometheus.NewDesc("quantra_p2p_rtt_seconds", "The greatest time that a peer's last challenge took.", nil, nil)
)

// Describe is prometheus.Collector's: a node is one.
func (n *Node) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{peersDesc, tableDesc, connsDesc, refusedDesc, judgedDesc, verifiedDesc, resetDesc, lostDesc, bytesDesc, rttDesc} {
		out <- d
	}
}

// Collect is prometheus.Collector's.
func (n *Node) Collect(out chan<- prometheus.Metric) {
	levels := map[string]int{"untrusted": 0, "basic": 0, "verified": 0, "privileged": 0, "critical": 0}
	var slowest int64
	for _, g := range n.guards.all() {
		levels[g.session.Level().String()]++
		slowest = max(slowest, g.rtt.Load())
	}
	for level, peers := range levels {
		out <- prometheus.MustNewConstMetric(peersDesc, prometheus.GaugeValue, float64(peers), level)
	}
	if n.dht != nil {
		out <- prometheus.MustNewConstMetric(tableDesc, prometheus.GaugeValue, float64(n.dht.RoutingTable().Size()))
	}
	c := n.Counts()
	count := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	count(connsDesc, float64(c.Accepted), "inbound")
	count(connsDesc, float64(c.Dialed), "outbound")
	count(refusedDesc, float64(c.Refused))
	count(judgedDesc, float64(c.Judged), "let in")
	count(judgedDesc, float64(c.Denied), "denied")
	count(judgedDesc, float64(c.Failed), "failed")
	count(verifiedDesc, float64(c.Verified))
	count(resetDesc, float64(c.Reset))
	count(lostDesc, float64(c.Lost))
	total := n.bandwidth.GetBandwidthTotals()
	count(bytesDesc, float64(total.TotalIn), "in")
	count(bytesDesc, float64(total.TotalOut), "out")
	out <- prometheus.MustNewConstMetric(rttDesc, prometheus.GaugeValue, time.Duration(slowest).Seconds())
}
