package p2p

import (
	"fmt"
	"slices"
	"testing"

	ma "github.com/multiformats/go-multiaddr"
)

// TestPunchAddresses: what peers see us as is told to others where it leads to a port of ours, the last of it, and of peers that were let in alone; where the NAT has left the port as it is
// the other transport's with it.
func TestPunchAddresses(t *testing.T) {
	n := newNode(t, func(o *Options) { o.Listen = []string{"/ip4/127.0.0.1/tcp/0"} })
	tcp, _, ok := portOf(n.inner.Network().ListenAddresses()[0])
	if !ok {
		t.Fatal("it listens nowhere")
	}
	if err := n.inner.Network().Listen(ma.StringCast(fmt.Sprintf("/ip4/127.0.0.1/udp/%d/quic-v1", tcp.Port()))); err != nil {
		t.Fatal(err) // the port is another program's for UDP: nearly never
	}
	b := newNode(t)
	if err := n.Connect(t.Context(), info(b)); err != nil {
		t.Fatal(err)
	}
	p := &puncher{n: n}
	local := fmt.Sprintf("/ip4/10.0.0.2/tcp/%d", tcp.Port())
	for _, c := range []struct{ local, seen string }{
		{local, "/ip4/10.0.0.9/tcp/4242"},                                                      // private
		{local, "/ip4/11.0.0.9/udp/4242/quic-v1"},                                              // of another transport
		{"/ip4/10.0.0.2/tcp/1", "/ip4/11.0.0.2/tcp/4242"},                                      // of a port that is none of ours
		{local, "/ip4/11.0.0.1/tcp/1/p2p/" + n.ID().String() + "/p2p-circuit"},                 // the relay's
		{"/ip4/11.0.0.1/tcp/1/p2p/" + n.ID().String() + "/p2p-circuit", "/ip4/11.0.0.2/tcp/1"}, // by the relay
		{local, "/unix/x"},
	} {
		if p.note(b.ID(), ma.StringCast(c.local), ma.StringCast(c.seen)); len(p.seen) > 0 {
			t.Errorf("%s is noted for %s", c.seen, c.local)
		}
	}
	said := func() (out []string) {
		for _, a := range p.addresses() {
			out = append(out, a.String())
		}
		return out
	}
	p.note(b.ID(), ma.StringCast(local), ma.StringCast("/ip4/11.0.0.2/tcp/40000"))
	if got := said(); !slices.Equal(got, []string{"/ip4/11.0.0.2/tcp/40000"}) {
		t.Errorf("another port: %v", got)
	}
	p.note(b.ID(), ma.StringCast(local), ma.StringCast(fmt.Sprintf("/ip4/11.0.0.2/tcp/%d", tcp.Port())))
	if got := said(); !slices.Contains(got, fmt.Sprintf("/ip4/11.0.0.2/udp/%d/quic-v1", tcp.Port())) || len(got) != 3 {
		t.Errorf("the same port: %v", got)
	}
	for i := range 10 {
		p.note(b.ID(), ma.StringCast(local), ma.StringCast(fmt.Sprintf("/ip6/2606:4700::%d/tcp/40000", i+1)))
	}
	for i := range 2 * maxNoted { // strangers, who could have us tell others whom to dial
		p.note(IDOf(keyOf(byte(100+i%100)).Public()), ma.StringCast(local), ma.StringCast(fmt.Sprintf("/ip6/2606:4701::%d/tcp/443", i+1)))
	}
	if len(p.seen) != maxNoted {
		t.Errorf("%d are remembered", len(p.seen))
	}
	if got := said(); len(got) != maxSeen || !slices.Contains(got, "/ip6/2606:4700::10/tcp/40000") {
		t.Errorf("after many: %v", got)
	}
}
