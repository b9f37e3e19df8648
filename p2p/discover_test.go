package p2p

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// TestDHT: a peer is found by its id alone, by way of one that both know.
func TestDHT(t *testing.T) {
	table := func(o *Options) { o.NoDHT = false; o.Listen = []string{"/ip4/127.0.0.1/tcp/0"} }
	middle := newNode(t, table)
	address := middle.Addrs()[0].String()
	near := func(o *Options) { table(o); o.Bootstrap = []string{address} }
	a, b := newNode(t, near), newNode(t, near)
	eventually(t, "both are in the table of the one in the middle, and it is in theirs", func() bool {
		return middle.dht.RoutingTable().Size() == 2 && a.dht.RoutingTable().Size() > 0 && b.dht.RoutingTable().Size() > 0
	})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := a.Connect(ctx, peer.AddrInfo{ID: b.ID()}); err != nil {
		t.Fatal(err)
	}
	if got := a.Status(); got.Table < 1 || len(got.Peers) != 2 || len(got.Known) != 1 {
		t.Errorf("status %+v", got)
	}
}

// TestBackAgain: a peer that it keeps to is connected to again when it comes back at the same address.
func TestBackAgain(t *testing.T) {
	key := keyOf(7)
	b := newNode(t, func(o *Options) { o.Key, o.Listen = key, []string{"/ip4/127.0.0.1/tcp/0"} })
	listen := b.inner.Network().ListenAddresses()[0].String()
	a := newNode(t, func(o *Options) { o.Bootstrap = []string{b.Addrs()[0].String()} })
	eventually(t, "it is connected to", func() bool { return a.guards.get(b.ID()) != nil })
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is gone", func() bool { return a.guards.get(b.ID()) == nil })
	again := newNode(t, func(o *Options) { o.Key = key; o.Listen = []string{listen} })
	eventually(t, "it is back", func() bool { return a.guards.get(again.ID()) != nil && again.guards.get(a.ID()) != nil })
}

// TestRelay: two that reach each other only by a relay judge each other through it; the relay serves whoever it has let in, and nobody else.
func TestRelay(t *testing.T) {
	// A relay gives out places by its public addresses alone. This one says that it has one.
	relay := newNode(t, func(o *Options) {
		o.RelayService, o.Reach = true, ReachPublic
		o.Listen, o.Announce = []string{"/ip4/127.0.0.1/tcp/0"}, []string{"/ip4/1.2.3.4/tcp/4242"}
	})
	direct := slices.DeleteFunc(relay.inner.Network().ListenAddresses(), func(a ma.Multiaddr) bool { _, err := a.ValueForProtocol(ma.P_TCP); return err != nil })
	address := direct[0].String() + "/p2p/" + relay.ID().String()
	hidden := newNode(t, func(o *Options) {
		o.Listen = []string{"/ip4/127.0.0.1/tcp/0"}
		o.Relays = []string{address}
		o.Reach = ReachPrivate
	})
	circuit := ma.StringCast(address + "/p2p-circuit/p2p/" + hidden.ID().String())
	eventually(t, "it has a place at the relay", func() bool {
		for _, a := range hidden.inner.Addrs() {
			if _, err := a.ValueForProtocol(ma.P_CIRCUIT); err == nil {
				return true
			}
		}
		return false
	})
	a := newNode(t, func(o *Options) { o.Listen = nil; o.HolePunch = true })
	info, err := peer.AddrInfoFromP2pAddr(circuit)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// The relay answers nobody whom it has not judged: whoever asks waits for that.
	if err := a.Connect(ctx, peer.AddrInfo{ID: relay.ID(), Addrs: direct}); err != nil {
		t.Fatal(err)
	}
	if err := a.Connect(ctx, *info); err != nil {
		t.Fatal(err)
	}
	if err := a.Allow(hidden.ID(), "send", "topic/x"); err != nil {
		t.Error(err)
	}
	for _, p := range a.Status().Peers {
		if p.ID == hidden.ID().String() && !p.Relayed {
			t.Errorf("%+v is not by the relay", p)
		}
	}
}

// TestSpans: a connection is a span from its first packet, with its parts in it; one that was denied says so.
func TestSpans(t *testing.T) {
	kept := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(kept))
	a := newNode(t, func(o *Options) { o.Tracer = provider })
	b := newNode(t, func(o *Options) { o.Listen = []string{"/ip4/127.0.0.1/tcp/0"} })
	connect(t, a, b)
	eventually(t, "the spans have ended", func() bool { return len(kept.GetSpans()) == 4 })
	var names []string
	root := ""
	for _, s := range kept.GetSpans() {
		names = append(names, s.Name)
		if s.Name == "p2p.connection" {
			root = s.SpanContext.SpanID().String()
		}
		if !s.EndTime.After(s.StartTime) && s.Name != "p2p.handshake" {
			t.Errorf("%s has no length", s.Name)
		}
	}
	for _, s := range kept.GetSpans() {
		if s.Name != "p2p.connection" && s.Parent.SpanID().String() != root {
			t.Errorf("%s is not within the connection", s.Name)
		}
	}
	if got := strings.Join(names, " "); got != "p2p.dial p2p.handshake p2p.guard p2p.connection" {
		t.Errorf("spans %s", got)
	}
	stranger := plain(t)
	if err := stranger.Connect(context.Background(), info(a)); err != nil {
		t.Fatal(err)
	}
	_ = stranger.Network().ClosePeer(a.ID())
	eventually(t, "the stranger is gone", func() bool { return a.inner.Network().Connectedness(stranger.ID()) == network.NotConnected })
}
