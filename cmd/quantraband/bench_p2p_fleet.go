package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/host"
	p2pnet "github.com/libp2p/go-libp2p/core/network" // tests of this command have a network of their own
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/agent"
	"github.com/quantra-l/quantra/bench/load"
	"github.com/quantra-l/quantra/p2p"
	"github.com/quantra-l/quantra/p2p/broadcast"
	"github.com/quantra-l/quantra/p2p/direct"
	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust"
	"github.com/quantra-l/quantra/zerotrust/policy"
)

// The kinds of load.
const (
	kindDirect      = "direct"       // to one peer, kept nowhere
	kindDurable     = "durable"      // to one peer, on both disks
	kindBroadcast   = load.Broadcast // to all, signed
	kindConnections = "connections"  // no messages: users connect, are judged, and leave
)

// What is measured.
const (
	systemOwn    = "quantraband"
	systemPubsub = "pubsub" // go-libp2p-pubsub as it comes
	systemLibp2p = "libp2p" // bare connections
	systemNATS   = "nats"
)

const (
	benchTopic = "bench"
	benchAddr  = "/ip4/127.0.0.1/tcp/0"
	// benchQueue is how long queues of the peers are that would drop what is more, so that they drop nothing under a load that they can bear.
	benchQueue = 8192
)

// benchP2PNodes is a process with nodes that `bench p2p` measures.
func (a *app) benchP2PNodes() *cobra.Command {
	var system string
	cmd := &cobra.Command{
		Use: "p2p-nodes", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			open := map[string]load.Open{systemOwn: openOwnNodes, systemPubsub: openPubsub, systemLibp2p: openLibp2p}[system]
			if open == nil {
				return usagef("--system %q: it is quantraband, pubsub or libp2p", system)
			}
			return load.Serve(cmd.Context(), a.stdin, a.stdout, func(ctx context.Context, p load.Plan, heard func(int, []byte)) (*load.System, error) {
				s, err := open(ctx, p, heard)
				forgetStart() // as a node does
				return s, err
			})
		},
	}
	cmd.Flags().StringVar(&system, "system", systemOwn, "")
	return cmd
}

// benchNode is a node of ours with what it has beside.
type benchNode struct {
	i         int
	core      *p2p.Node
	guard     *zerotrust.Guard
	audit     *auditLog
	direct    *direct.Service
	broadcast *broadcast.Service
	sub       *broadcast.Subscription
	heardFrom sync.Map // peer.ID: whose warming message has come
}

// benchFleet are our nodes of a process.
type benchFleet struct {
	plan   load.Plan
	heard  func(int, []byte)
	nodes  []*benchNode // of this process
	ids    []peer.AddrInfo
	agent  *agent.Agent
	ctx    context.Context
	cancel context.CancelFunc
	group  sync.WaitGroup
}

func openOwnNodes(ctx context.Context, p load.Plan, heard func(int, []byte)) (_ *load.System, err error) {
	f := &benchFleet{plan: p, heard: heard}
	f.ctx, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	if slices.Contains(p.With, "agent") {
		if f.agent, err = agent.Start(ctx, agent.Options{Service: "bench-p2p", Server: os.Getenv("QUANTRA_SERVER"), Region: "local", SpoolBytes: -1}); err != nil {
			return nil, err
		}
	}
	s := &load.System{Connect: f.connect, Send: f.send, Close: f.close}
	count, first := p.Count, p.First
	if p.Kind == kindConnections {
		count, first = 1+p.Users, 0 // one who is asked, and one for each user
	}
	for i := first; i < first+count; i++ {
		n := &benchNode{i: i}
		f.nodes = append(f.nodes, n)
		if err := f.open(n); err != nil {
			return nil, fmt.Errorf("node %d: %w", i, err)
		}
		if p.Kind != kindConnections {
			s.Addresses = append(s.Addresses, n.core.Addrs()[0].String())
		}
	}
	return s, nil
}

// open opens a node, whom nobody knows yet.
func (f *benchFleet) open(n *benchNode) (err error) {
	dir := filepath.Join(f.plan.Dir, fmt.Sprint("node-", n.i))
	quiet := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	record := func(context.Context, zerotrust.Event) error { return nil }
	if slices.Contains(f.plan.With, "audit") {
		if n.audit, err = openAuditLog(dir, filepath.Join(f.plan.Dir, fmt.Sprintf("audit-%d.key", n.i)), quiet); err != nil {
			return err
		}
		record = n.audit.decided
	}
	seat := func(context.Context, policy.Level) (func(), error) { return func() {}, nil }
	if n.guard, err = zerotrust.New(zerotrust.Options{Dir: filepath.Join(dir, guardDir), SelfSigned: []string{"peer"}, Record: record, Capacity: seat}); err != nil {
		return err
	}
	key := seal.NewKey()
	o := p2p.Options{Key: key, Guard: n.guard, Dir: filepath.Join(dir, nodeDir), Listen: []string{benchAddr}, NoDHT: true, Log: quiet}
	o.Admission = zerotrust.AdmissionOptions{PerAddress: 1 << 20, Total: 1 << 20} // all come from one address, on purpose
	o.Limits.Connections, o.Limits.ConnectionsAddress = 4096, 4096
	if f.plan.Kind == kindConnections && n.i > 0 {
		o.Listen = nil
	}
	o.Ready, o.Lost = n.ready, n.lost
	o.Before = func(core *p2p.Node) error {
		n.core = core
		return f.speak(n, key, dir, quiet)
	}
	if _, err = p2p.New(f.ctx, o); err != nil {
		n.core = nil // it has closed itself
	}
	return err
}

func (n *benchNode) ready(p peer.ID) {
	if n.broadcast != nil {
		n.broadcast.Changed(p)
	}
	if n.direct != nil {
		n.direct.Ready(p)
	}
}

func (n *benchNode) lost(p peer.ID) {
	if n.broadcast != nil {
		n.broadcast.Changed(p)
	}
	if n.direct != nil {
		n.direct.Lost(p)
	}
}

// speak opens what the load is of, before anybody is there.
func (f *benchFleet) speak(n *benchNode, key seal.Key, dir string, quiet *slog.Logger) (err error) {
	switch f.plan.Kind {
	case kindBroadcast:
		return f.openBroadcast(n, key, dir, quiet)
	case kindDirect, kindDurable:
		n.direct, err = direct.New(n.core.Host(), direct.Options{Key: key, Allow: n.core.Allow, Dir: filepath.Join(dir, "direct"), Log: quiet,
			Receive: func(_ peer.ID, body []byte) error { f.heard(n.i, body); return nil },
			Deliver: func(_ context.Context, m direct.Message) error { f.heard(n.i, m.Body); return nil }})
	}
	return err
}

func (f *benchFleet) openBroadcast(n *benchNode, key seal.Key, dir string, log *slog.Logger) (err error) {
	if n.broadcast, err = broadcast.New(f.ctx, n.core.Host(), broadcast.Options{Key: key, Allow: n.core.Allow, Dir: filepath.Join(dir, "broadcast"), Log: log}); err != nil {
		return err
	}
	// Who measures misses nothing: the queue waits for its reader, and with it those who send.
	if n.sub, err = n.broadcast.SubscribeWith(benchTopic, broadcast.SubscribeOptions{Wait: time.Minute}); err != nil {
		return err
	}
	f.group.Go(func() {
		var some [256]broadcast.Message
		for {
			k, err := n.sub.Read(f.ctx, some[:])
			if err != nil {
				return
			}
			for _, m := range some[:k] {
				switch {
				case bytes.Equal(m.Payload, warming):
					n.heardFrom.Store(m.ID.From, true)
				case m.ID.From != n.core.ID():
					f.heard(n.i, m.Payload)
				}
			}
		}
	})
	return nil
}

// warming is what goes round until everybody hears everybody.
var warming = []byte("warm")

// connect connects the nodes of this process with their neighbours.
func (f *benchFleet) connect(ctx context.Context, all []string) error {
	if f.plan.Kind == kindConnections {
		return nil
	}
	for _, text := range all {
		info, err := p2p.ParsePeer(text)
		if err != nil {
			return err
		}
		f.ids = append(f.ids, info)
	}
	for _, n := range f.nodes {
		for _, j := range f.plan.Neighbours(n.i) {
			if j < n.i { // the other one dials
				continue
			}
			if err := n.core.Connect(ctx, f.ids[j]); err != nil {
				return fmt.Errorf("node %d to node %d: %w", n.i, j, err)
			}
		}
	}
	return f.settle(ctx)
}

// settle waits until all neighbours of our nodes are let in, and messages arrive.
func (f *benchFleet) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, childReady)
	defer cancel()
	for _, n := range f.nodes {
		for _, j := range f.plan.Neighbours(n.i) {
			p := f.ids[j].ID
			if err := until(ctx, func() bool {
				return !errors.Is(n.core.Allow(p, "send", "peer/"+n.core.ID().String()), p2p.ErrUnguarded)
			}); err != nil {
				return fmt.Errorf("node %d is not let in by node %d: %w", j, n.i, err)
			}
		}
	}
	if f.plan.Kind != kindBroadcast {
		return nil
	}
	var last time.Time
	warm := func() bool {
		if time.Since(last) > 200*time.Millisecond {
			last = time.Now()
			for _, n := range f.nodes {
				if _, err := n.broadcast.Publish(ctx, benchTopic, warming); err != nil {
					return false
				}
			}
		}
		for _, n := range f.nodes {
			for i, other := range f.ids {
				if _, ok := n.heardFrom.Load(other.ID); !ok && i != n.i {
					return false
				}
			}
		}
		return true
	}
	if err := until(ctx, warm); err != nil {
		return fmt.Errorf("not everybody hears everybody: %w", err)
	}
	settled := time.Now() // those of other processes may still wait for ours
	return until(ctx, func() bool { return !warm() || len(f.nodes) == len(f.ids) || time.Since(settled) > time.Second })
}

// until looks every few milliseconds whether something is so.
func until(ctx context.Context, so func() bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// send is load.Sender.
func (f *benchFleet) send(ctx context.Context, user int, body []byte) error {
	if f.plan.Kind == kindConnections {
		return f.come(ctx, user, body)
	}
	n := f.nodes[f.plan.Home(user)-f.plan.First]
	switch f.plan.Kind {
	case kindBroadcast:
		_, err := n.broadcast.Publish(ctx, benchTopic, body)
		return err
	case kindDirect:
		return n.direct.Post(ctx, f.ids[f.plan.Target(user)].ID, body)
	}
	to := f.ids[f.plan.Target(user)].ID
	for {
		_, err := n.direct.Send(ctx, to, body)
		if !errors.Is(err, direct.ErrUnavailable) {
			return err
		}
		if err := n.direct.Flush(ctx, to); err != nil { // the outbox is full: what a program would do, too
			return err
		}
	}
}

// come is one connection: until both ends have judged each other, and back.
func (f *benchFleet) come(ctx context.Context, user int, body []byte) error {
	n, to := f.nodes[1+user], f.nodes[0].core
	if err := n.core.Connect(ctx, peer.AddrInfo{ID: to.ID(), Addrs: to.Host().Network().ListenAddresses()}); err != nil {
		return err
	}
	f.heard(f.plan.Target(user), body)
	return n.core.Disconnect(to.ID())
}

func (f *benchFleet) close() (err error) {
	for _, n := range f.nodes {
		if n.direct != nil {
			err = errors.Join(err, n.direct.Close())
		}
		if n.broadcast != nil {
			err = errors.Join(err, n.broadcast.Close())
		}
		if n.core != nil {
			err = errors.Join(err, n.core.Close())
		}
		if n.guard != nil {
			err = errors.Join(err, n.guard.Close())
		}
		if n.audit != nil {
			err = errors.Join(err, n.audit.Close())
		}
	}
	f.cancel()
	f.group.Wait()
	if f.agent != nil {
		ctx, cancel := context.WithTimeout(context.Background(), agentGrace)
		defer cancel()
		err = errors.Join(err, f.agent.Stop(ctx))
	}
	return err
}

// bareHosts are n hosts as libp2p comes.
func bareHosts(n int) (all []host.Host, err error) {
	for range n {
		h, err := libp2p.New(libp2p.ListenAddrStrings(benchAddr), libp2p.ResourceManager(&p2pnet.NullResourceManager{}), libp2p.DisableMetrics())
		if err != nil {
			return all, err
		}
		all = append(all, h)
	}
	return all, nil
}

func closeHosts(all []host.Host) (err error) {
	for _, h := range all {
		err = errors.Join(err, h.Close())
	}
	return err
}

// pubsubFleet is go-libp2p-pubsub with its own settings: each message signed by its sender and verified by everybody. Its queues are longer, as
// it drops what has no room.
type pubsubFleet struct {
	plan   load.Plan
	hosts  []host.Host
	topics []*pubsub.Topic
	warmed sync.Map // [2]int: node has heard node
	cancel context.CancelFunc
	group  sync.WaitGroup
}

func openPubsub(ctx context.Context, p load.Plan, heard func(int, []byte)) (_ *load.System, err error) {
	if p.Kind != kindBroadcast || p.Count != p.Nodes {
		return nil, errors.New("pubsub broadcasts, in one process")
	}
	f := &pubsubFleet{plan: p}
	ctx, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	if f.hosts, err = bareHosts(p.Nodes); err != nil {
		return nil, err
	}
	for i := range f.hosts {
		if err := f.open(ctx, i, heard); err != nil {
			return nil, err
		}
	}
	send := func(ctx context.Context, user int, body []byte) error {
		return f.topics[p.Home(user)].Publish(ctx, bytes.Clone(body))
	}
	return &load.System{Connect: f.connect, Send: send, Close: f.close}, nil
}

// open has a host hear the topic.
func (f *pubsubFleet) open(ctx context.Context, i int, heard func(int, []byte)) error {
	ps, err := pubsub.NewGossipSub(ctx, f.hosts[i], pubsub.WithPeerOutboundQueueSize(benchQueue), pubsub.WithValidateQueueSize(benchQueue))
	if err != nil {
		return err
	}
	topic, err := ps.Join(benchTopic)
	if err != nil {
		return err
	}
	f.topics = append(f.topics, topic)
	sub, err := topic.Subscribe(pubsub.WithBufferSize(benchQueue))
	if err != nil {
		return err
	}
	f.group.Go(func() {
		for {
			m, err := sub.Next(ctx)
			if err != nil {
				return
			}
			from := slices.IndexFunc(f.hosts, func(h host.Host) bool { return h.ID() == m.GetFrom() })
			switch {
			case bytes.Equal(m.Data, warming):
				f.warmed.Store([2]int{i, from}, true)
			case from != i:
				heard(i, m.Data)
			}
		}
	})
	return nil
}

func (f *pubsubFleet) connect(ctx context.Context, _ []string) error {
	for i, h := range f.hosts {
		for _, j := range f.plan.Neighbours(i) {
			if err := h.Connect(ctx, peer.AddrInfo{ID: f.hosts[j].ID(), Addrs: f.hosts[j].Addrs()}); err != nil {
				return err
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, childReady)
	defer cancel()
	return until(ctx, func() bool {
		all := true
		for i := range f.topics {
			for j := range f.topics {
				if _, ok := f.warmed.Load([2]int{i, j}); !ok && i != j {
					all = false
					_ = f.topics[j].Publish(ctx, warming) // an error is found by what does not arrive
				}
			}
		}
		return all
	})
}

func (f *pubsubFleet) close() error {
	f.cancel()
	f.group.Wait()
	return closeHosts(f.hosts)
}

// openLibp2p is connections without a guard: libp2p's handshake, and identify.
func openLibp2p(_ context.Context, p load.Plan, heard func(int, []byte)) (*load.System, error) {
	if p.Kind != kindConnections {
		return nil, errors.New("bare libp2p has connections, and no messages")
	}
	hosts, err := bareHosts(1 + p.Users)
	if err != nil {
		return nil, errors.Join(err, closeHosts(hosts))
	}
	to := peer.AddrInfo{ID: hosts[0].ID(), Addrs: hosts[0].Addrs()}
	return &load.System{
		Connect: func(context.Context, []string) error { return nil },
		Send: func(ctx context.Context, user int, body []byte) error {
			h := hosts[1+user]
			if err := h.Connect(ctx, to); err != nil {
				return err
			}
			heard(p.Target(user), body)
			return h.Network().ClosePeer(to.ID)
		},
		Close: func() error { return closeHosts(hosts) },
	}, nil
}
