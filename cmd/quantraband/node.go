package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/quantra-l/quantra/agent"
	"github.com/quantra-l/quantra/agent/spans"
	"github.com/quantra-l/quantra/p2p"
	"github.com/quantra-l/quantra/p2p/broadcast"
	"github.com/quantra-l/quantra/p2p/direct"
	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust"
)

// What of a node lies in the data folder.
const (
	nodeDir     = "node"
	nodeKeyFile = "node.key"
)

// defaultHistory is how many messages of a topic are remembered where nothing else is said.
const defaultHistory = 1000

// nodeOptions are what a node is told beside what the guard is.
type nodeOptions struct {
	config                               string
	listen, announce, bootstrap, relays  []string
	noMDNS, noDHT, relayService, noPunch bool
	reach, identity                      string
	topics                               []string
	history                              int
	inbox                                byteSize
}

func (o *nodeOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.config, "config", "", "`file` of settings: docs/node.md; what flags say stands over it")
	f.StringSliceVar(&o.listen, "p2p-listen", nil, "`addresses` to listen on (default: TCP and QUIC on port 4242 of all addresses)")
	f.StringSliceVar(&o.announce, "announce", nil, "`addresses` that others are told, instead of those it listens on")
	f.StringSliceVar(&o.bootstrap, "bootstrap", nil, "`peers` to stay connected to, as /ip4/192.0.2.1/tcp/4242/p2p/ID")
	f.StringSliceVar(&o.relays, "relay", nil, "`relays` to be reached by where it is behind a NAT, likewise")
	f.BoolVar(&o.relayService, "relay-service", false, "be a relay for peers that were let in")
	f.BoolVar(&o.noPunch, "no-hole-punching", false, "do not try for direct connections with peers that were met at a relay")
	f.BoolVar(&o.noMDNS, "no-mdns", false, "do not look for peers on the local network, nor be found there")
	f.BoolVar(&o.noDHT, "no-dht", false, "take no part in the DHT")
	f.StringVar(&o.reach, "reach", "", "how it is reached: auto, public or private (default: auto)")
	f.StringVar(&o.identity, "identity", "", "`file` of the identity to present (default: one by which the node vouches for itself)")
	f.StringSliceVar(&o.topics, "topic", nil, "`topics` to hear from the start, whose last messages are remembered")
	o.inbox = byteSize(p2p.DefaultInbox)
	f.Var(&o.inbox, "inbox", "`size` of the folder of files that peers send, half of it for one of them; 0 takes none")
	f.IntVar(&o.history, "history", defaultHistory, "how many messages of a topic are remembered")
}

// settings are the file's, with what flags say over them.
func (o *nodeOptions) settings(changed func(string) bool) (p2p.Config, error) {
	c := p2p.DefaultConfig()
	if o.config != "" {
		f, err := os.Open(o.config)
		if err != nil {
			return c, usagef("--config: %w", pathError("read", o.config, err))
		}
		defer f.Close()
		if c, err = p2p.ReadConfig(f); err != nil {
			return c, usagef("--config: %s: %w", o.config, err)
		}
	}
	for _, l := range []struct {
		flag string
		from []string
		to   *[]string
	}{{"p2p-listen", o.listen, &c.Listen}, {"announce", o.announce, &c.Announce}, {"bootstrap", o.bootstrap, &c.Bootstrap}, {"relay", o.relays, &c.Relays}} {
		if changed(l.flag) {
			*l.to = l.from
		}
	}
	if changed("inbox") {
		c.Inbox = int64(o.inbox)
	}
	c.MDNS, c.DHT = c.MDNS && !o.noMDNS, c.DHT && !o.noDHT
	c.RelayService, c.HolePunch = c.RelayService || o.relayService, c.HolePunch && !o.noPunch
	switch o.reach {
	case "":
	case "auto":
		c.Reach = p2p.ReachAuto
	case "public", "private":
		c.Reach = p2p.Reach(o.reach)
	default:
		return c, usagef("--reach %q: it is auto, public or private", o.reach)
	}
	for _, name := range o.topics {
		if err := checkTopic(name); err != nil {
			return c, err
		}
	}
	return c, nil
}

// checkTopic says why a name is no topic's.
func checkTopic(name string) error {
	if name == "" || len(name) > broadcast.MaxTopic || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return usagef("topic %.40q: it must be 1 to %d printable characters without blanks", name, broadcast.MaxTopic)
	}
	return nil
}

// runningNode is a node with what peers say to each other by it.
type runningNode struct {
	core      *p2p.Node
	direct    *direct.Service
	broadcast *broadcast.Service
	hub       *hub
	inbox     *inbox
	registry  *prometheus.Registry
	dir       string
	log       *slog.Logger
	heard     []*broadcast.Subscription // topics that are heard from the start
	stops     []func()
}

// nodeParts are what a node is made of that is not its own.
type nodeParts struct {
	dir    string // the data folder
	opt    nodeOptions
	config p2p.Config
	guard  *zerotrust.Guard
	issuer seal.Key // vouches for whoever comes by invitation
	tracer trace.TracerProvider
	log    *slog.Logger
}

// openNode starts a node. It is to be closed before its guard.
func openNode(ctx context.Context, p nodeParts) (n *runningNode, err error) {
	dir := filepath.Join(p.dir, nodeDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	key, err := keyIn(filepath.Join(dir, nodeKeyFile), true, nil)
	if err != nil {
		return nil, err
	}
	n = &runningNode{dir: dir, log: p.log, registry: prometheus.NewRegistry(), hub: newHub(), inbox: newInbox(dir, p.config.Inbox, p.log)}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	o := p2p.Options{Key: key, Guard: p.guard, Issue: vouching(p.issuer), Dir: dir, Lost: n.changed, Ready: n.ready, Load: n.load, Settle: n.settle, Log: p.log, Tracer: p.tracer}
	p.config.Apply(&o)
	if p.opt.identity != "" {
		if o.Document, _, err = readIdentity(p.opt.identity); err != nil {
			return n, err
		}
	}
	o.Before = func(core *p2p.Node) error {
		n.core = core
		return n.speak(ctx, key, p)
	}
	if _, err = p2p.New(ctx, o); err != nil {
		n.core = nil // it has closed itself
		return n, inUseAddress(err)
	}
	n.registry.MustRegister(n.core)
	stop, err := n.control()
	if err != nil {
		return n, err
	}
	n.stops = append(n.stops, stop)
	return n, nil
}

// speak opens what peers say to each other, before the first of them is there.
func (n *runningNode) speak(ctx context.Context, key seal.Key, p nodeParts) (err error) {
	var ofBroadcast, ofDirect trace.Tracer
	if p.tracer != nil {
		ofBroadcast, ofDirect = p.tracer.Tracer("github.com/quantra-l/quantra/p2p/broadcast"), p.tracer.Tracer("github.com/quantra-l/quantra/p2p/direct")
	}
	n.broadcast, err = broadcast.New(ctx, n.core.Host(), broadcast.Options{
		Key: key, Allow: n.core.Allow, Author: n.core.AllowAuthor, Dir: filepath.Join(n.dir, "broadcast"), Log: p.log, Metrics: n.registry, Tracer: ofBroadcast, History: p.opt.history,
	})
	if err != nil {
		return err
	}
	n.direct, err = direct.New(n.core.Host(), direct.Options{
		Key: key, Allow: n.core.Allow, Dir: filepath.Join(n.dir, "direct"), Log: p.log, Registry: n.registry, Tracer: ofDirect, Deliver: n.hub.deliver,
		AcceptFile: n.inbox.accept, FileEnded: n.inbox.ended,
	})
	if err != nil {
		return err
	}
	for _, name := range p.opt.topics {
		s, err := n.broadcast.SubscribeWith(name, broadcast.SubscribeOptions{Queue: 1, Bytes: 1, Oldest: true}) // for its history alone
		if err != nil {
			return err
		}
		n.heard = append(n.heard, s)
	}
	return nil
}

// inUseAddress says what to do where an address is taken.
func inUseAddress(err error) error {
	const wsaEADDRINUSE = syscall.Errno(10048) // Windows has a number of its own
	if errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, wsaEADDRINUSE) {
		return inUsef("%w; another node may run: choose other addresses with --p2p-listen, as /ip4/0.0.0.0/tcp/0", err)
	}
	return err
}

// vouching issues the identity of a peer that came by invitation: for as long as an identity holds.
func vouching(issuer seal.Key) func(seal.PublicKey) ([]byte, error) {
	return func(key seal.PublicKey) ([]byte, error) {
		from := time.Now().Add(-time.Minute)
		d := zerotrust.Identity{Kind: "peer", Key: key, Issuer: issuer.Public(), NotBefore: from, Expires: from.Add(zerotrust.DefaultLife)}
		return d.Sign(issuer)
	}
}

// changed is p2p.Options.Lost. A peer that has rights still, of another level, gets what waits for it by a session that was asked for anew:
// without being told, direct would wait as for one that is away.
func (n *runningNode) changed(p peer.ID) {
	n.direct.Lost(p)
	n.broadcast.Changed(p)
	if n.core.LetIn(p) {
		n.direct.Ready(p)
	}
}

// ready is p2p.Options.Ready.
func (n *runningNode) ready(p peer.ID) {
	n.direct.Ready(p)
	n.broadcast.Changed(p)
}

// load is p2p.Options.Load.
func (n *runningNode) load() (inFlight, latency float64) { return n.direct.Load() }

// settle is p2p.Options.Settle: what waits for the peer is said, what it was asked is answered, and no topic is heard by it alone.
func (n *runningNode) settle(ctx context.Context, p peer.ID) {
	spared := make(chan error, 1)
	go func() { spared <- n.broadcast.Spare(ctx, p) }() // beside the other: a slow answer must not take its time
	if err := errors.Join(n.direct.Settle(ctx, p), <-spared); err != nil {
		n.log.Debug("a peer goes before all is done", "peer", p, "why", err) // what waits for it is on disk
	}
}

// Close ends it: who asks, who speaks, who is connected. nil is no node.
func (n *runningNode) Close() (err error) {
	if n == nil {
		return nil
	}
	for _, stop := range n.stops {
		stop()
	}
	n.hub.close()
	for _, s := range n.heard {
		s.Close()
	}
	if n.direct != nil {
		err = errors.Join(err, n.direct.Close())
	}
	if n.broadcast != nil {
		err = errors.Join(err, n.broadcast.Close())
	}
	if n.core != nil {
		err = errors.Join(err, n.core.Close())
	}
	return err
}

// nodeCommandOptions are those of quantraband node.
type nodeCommandOptions struct {
	data, server, auditKey string
	node                   nodeOptions
	guard                  guardOptions
	seats                  seatOptions
	log                    logOptions
}

func (a *app) nodeCommand() *cobra.Command {
	var o nodeCommandOptions
	cmd := &cobra.Command{
		Use:     "node",
		GroupID: "main",
		Short:   "Start a node: it finds peers, and speaks with those whom the guard lets in",
		Long: `Start a node, without the server of profiles (that is up, which has a node by --node). It listens on
TCP and QUIC, finds peers on the local network and by the DHT, and lets nobody in whom the guard has not judged. Each decision is recorded
in the audit log of the data folder. The node's identity is made at the first start.

Other commands of the same user speak by it: quantraband p2p. docs/node.md tells of it all.`,
		Example: `  quantraband node
  quantraband node --data ./alice --p2p-listen /ip4/127.0.0.1/tcp/0 --no-mdns
  quantraband node --bootstrap /ip4/192.0.2.1/tcp/4242/p2p/12D3KooWQ5JRMQHGTXhPRwwENXfRU1grfMcZGuUXYVqXvUGBpeSR --server http://127.0.0.1:4040`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := o.node.settings(cmd.Flags().Changed)
		if err != nil {
			return err
		}
		return a.node(cmd.Context(), o, c)
	}
	f := cmd.Flags()
	f.StringVar(&o.data, "data", "", "`folder` to keep keys, messages and records in (default: quantra in the user's data home)")
	f.StringVar(&o.server, "server", "", "`address` of a quantraband server to send this node's own profiles to (default: they are not taken)")
	f.StringVar(&o.auditKey, "audit-key", "", "`file` of the key that signs the audit log, made if it is missing; never in the log's folder: docs/audit.md (default: quantra/audit.key in the user's configuration)")
	o.node.flags(cmd)
	o.guard.flags(cmd)
	o.seats.flags(cmd)
	o.log.flags(cmd)
	return cmd
}

// node runs a node until ctx ends.
func (a *app) node(ctx context.Context, o nodeCommandOptions, c p2p.Config) (err error) {
	log, err := o.log.logger(a.stderr)
	if err != nil {
		return err
	}
	dir, err := dataDir(o.data)
	if err != nil {
		return err
	}
	issuer, _, err := openIssuer(dir)
	if err != nil {
		return err
	}
	audit, err := openAuditLog(dir, o.auditKey, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, audit.Close()) }()
	room, err := openSeats(o.seats, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, room.close()) }()
	guard, policies, err := openGuard(dir, o.guard, issuer.Public(), room, recordTo(audit, log), log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, guard.Close()) }()
	if policies != nil {
		defer inBackground(ctx, policies.Run)()
	}
	if room != nil {
		defer inBackground(ctx, room.try)()
	}
	tracer, stopAgent, err := profileNode(ctx, dir, o.server, log)
	if err != nil {
		return err
	}
	defer stopAgent()
	n, err := openNode(ctx, nodeParts{dir: dir, opt: o.node, config: c, guard: guard, issuer: issuer, tracer: tracer, log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	n.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), newStatsCollector("quantra_audit_", audit.stats, auditMetrics))
	if err := n.writeReady(a.stdout, dir); err != nil {
		return err
	}
	forgetStart()
	<-ctx.Done()
	fmt.Fprintln(a.stderr, "stopping; once more to stop at once")
	return nil
}

// nodeSpans counts a node's spans. Samples have labels of what is done for one request.
func nodeSpans() *spans.Processor {
	return spans.New(spans.Options{LocalRootOnly: true, Filter: func(s sdktrace.ReadOnlySpan) bool {
		return s.Name() != direct.SpanMessage && s.Name() != direct.SpanPost
	}})
}

// profileNode has the node profile itself to a server, with a span for each connection and each traced message. "" is that nothing is.
func profileNode(ctx context.Context, dir, server string, log *slog.Logger) (trace.TracerProvider, func(), error) {
	if server == "" {
		return nil, func() {}, nil
	}
	keyFile, _, err := ownAgentKey(dir)
	if err != nil {
		return nil, nil, err
	}
	traced := nodeSpans()
	self, err := agent.Start(context.WithoutCancel(ctx), agent.Options{Service: "quantra-node", Server: server, KeyFile: keyFile, Sources: []agent.Source{traced.Source()}, Logger: log})
	if err != nil {
		return nil, nil, usagef("--server: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(traced))
	return provider, func() {
		stopWithin(ctx, agentGrace, "the spans", log, provider.Shutdown)
		stopWithin(ctx, agentGrace, "the agent", log, self.Stop)
	}, nil
}

// writeReady says that the node is ready, and how it is reached.
func (n *runningNode) writeReady(w io.Writer, dir string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "quantraband node is ready.\n\n  id           %s\n", n.core.ID())
	for i, addr := range n.core.Addrs() {
		fmt.Fprintf(&b, "  %-11s  %s\n", map[bool]string{true: "reached by"}[i == 0], addr)
	}
	fmt.Fprintf(&b, "  data folder  %s\n\nSpeak by it with quantraband p2p%s.\n\nCtrl-C stops it.\n", dir, dataFlag(dir))
	_, err := io.WriteString(w, b.String())
	return err
}

// dataFlag is how other commands are told of a data folder that is not the default.
func dataFlag(dir string) string {
	if have, err := dataDir(""); err == nil && have == dir {
		return ""
	}
	return " --data " + dir
}
