package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/quantra-l/quantra/p2p"
)

// wires is namespaces of the kernel with links between them, which end with the test.
type wires struct {
	t    *testing.T
	name string // before each namespace's, so that two runs do not meet
}

func (n *wires) ns(name string) string { return n.name + name }

// run runs a command in a namespace; "" is the host's.
func (n *wires) run(ns string, args ...string) {
	n.t.Helper()
	if ns != "" {
		args = append([]string{"ip", "netns", "exec", n.ns(ns)}, args...)
	}
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		n.t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// link is a cable between two namespaces.
func (n *wires) link(a, aDev, aAddr, b, bDev, bAddr string) {
	n.t.Helper()
	n.run("", "ip", "link", "add", aDev, "netns", n.ns(a), "type", "veth", "peer", "name", bDev, "netns", n.ns(b))
	for _, e := range [][3]string{{a, aDev, aAddr}, {b, bDev, bAddr}} {
		if e[2] != "" {
			n.run(e[0], "ip", "addr", "add", e[2], "dev", e[1])
		}
		n.run(e[0], "ip", "link", "set", e[1], "up")
	}
}

// behindNAT makes namespaces for a host and its router, which hides it: from outside nobody gets in who was not spoken to.
func (n *wires) behindNAT(host, router, outside string) {
	n.t.Helper()
	n.link(host, "eth0", "10.0.0.2/24", router, "lan", "10.0.0.1/24")
	n.run(host, "ip", "route", "add", "default", "via", "10.0.0.1")
	n.link(router, "wan", outside, "middle", router, "")
	n.run("middle", "ip", "link", "set", router, "master", "bridge0")
	n.run(router, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
	for _, rule := range []string{
		"add table ip nat", "add chain ip nat post { type nat hook postrouting priority 100 ; }", "add rule ip nat post oifname wan masquerade",
		"add table ip hide", "add chain ip hide through { type filter hook forward priority 0 ; policy drop ; }",
		"add rule ip hide through iifname lan accept", "add rule ip hide through ct state established,related accept",
		"add chain ip hide into { type filter hook input priority 0 ; policy accept ; }", "add rule ip hide into iifname wan ct state new drop",
	} {
		n.run(router, append([]string{"nft"}, strings.Fields(rule)...)...)
	}
}

// newWires makes two hosts behind routers of their own, and a relay between them. All of it is in namespaces: nothing leaves this machine.
func newWires(t *testing.T) *wires {
	t.Helper()
	for _, tool := range []string{"ip", "nft", "sysctl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("NODES BEHIND NAT ARE NOT TESTED: there is no %s", tool)
		}
	}
	if os.Getuid() != 0 {
		t.Skip("NODES BEHIND NAT ARE NOT TESTED: namespaces of the network need root")
	}
	n := &wires{t, fmt.Sprintf("q%d", os.Getpid())}
	if out, err := exec.Command("ip", "netns", "add", n.ns("probe")).CombinedOutput(); err != nil {
		t.Skipf("NODES BEHIND NAT ARE NOT TESTED: this kernel gives no namespace: %s", out)
	}
	n.run("", "ip", "netns", "del", n.ns("probe"))
	for _, name := range []string{"middle", "a", "ra", "b", "rb"} {
		n.run("", "ip", "netns", "add", n.ns(name))
		t.Cleanup(func() { exec.Command("ip", "netns", "del", n.ns(name)).Run() })
		n.run(name, "ip", "link", "set", "lo", "up")
	}
	// Addresses that libp2p takes for public ones; nobody outside these namespaces sees them.
	n.run("middle", "ip", "link", "add", "name", "bridge0", "type", "bridge")
	n.run("middle", "ip", "addr", "add", "11.0.0.1/24", "dev", "bridge0")
	n.run("middle", "ip", "link", "set", "bridge0", "up")
	n.behindNAT("a", "ra", "11.0.0.2/24")
	n.behindNAT("b", "rb", "11.0.0.3/24")
	return n
}

// peersOf is what a node says of its peers.
func peersOf(n *nodeProcess) map[string]p2p.Peer {
	st := nodeStatus{Status: &p2p.Status{}}
	if err := json.Unmarshal([]byte(n.must("peers", "--json")), &st); err != nil {
		n.t.Fatal(err)
	}
	out := map[string]p2p.Peer{}
	for _, p := range st.Peers {
		out[p.ID] = p
	}
	return out
}

// TestNodeNAT: two nodes behind NAT, each of which nobody reaches, come together by a relay, judge each other through it and speak; and from there
// they find a direct way, also where they have begun at the same moment and each knows the relay by another transport.
func TestNodeNAT(t *testing.T) {
	net := newWires(t)
	dir := t.TempDir()
	relay := startNodeIn(t, net.ns("middle"), filepath.Join(dir, "relay"), "--relay-service", "--reach", "public",
		"--p2p-listen", "/ip4/11.0.0.1/tcp/4242,/ip4/11.0.0.1/udp/4242/quic-v1")
	via := relay.address("/udp/")
	behind := func(ns string) *nodeProcess {
		return startNodeIn(t, net.ns(ns), filepath.Join(dir, ns), "--reach", "private", "--relay", relay.address("/tcp/"), "--bootstrap", via, "--log-level", "debug",
			"--p2p-listen", "/ip4/0.0.0.0/tcp/4242,/ip4/0.0.0.0/udp/4242/quic-v1")
	}
	a, b := behind("a"), behind("b")
	var st nodeStatus
	soon(t, "a place at the relay", func() (string, bool) {
		out := a.must("peers", "--json")
		st = nodeStatus{Status: &p2p.Status{}}
		if err := json.Unmarshal([]byte(out), &st); err != nil {
			t.Fatal(err)
		}
		return out, strings.Contains(strings.Join(st.Addresses, " "), "/p2p-circuit")
	})
	soon(t, "the other is let in by the relay", func() (string, bool) {
		out, code := b.p2p("ping", relay.address("/tcp/")+"/p2p-circuit/p2p/"+a.id)
		return out, code == 0
	})
	b.must("send", "--to", a.id, "--message", "by the relay", "--wait")
	if out := a.must("history", "--peer", b.id); !strings.Contains(out, "by the relay") {
		t.Errorf("a's history: %s", out)
	}
	soon(t, "they are connected directly", func() (string, bool) {
		one, two := peersOf(a)[b.id], peersOf(b)[a.id]
		return fmt.Sprintf("%+v and %+v: %s%s", one, two, &a.stderr, &b.stderr), one.ID != "" && two.ID != "" && !one.Relayed && !two.Relayed
	})
	b.must("send", "--to", a.id, "--message", "directly", "--wait")
}

// TestNodeLocal: two nodes that know nothing of each other find each other on a local network, and connect.
func TestNodeLocal(t *testing.T) {
	net := newWires(t)
	net.run("a", "ip", "route", "add", "224.0.0.0/4", "dev", "eth0")
	net.run("ra", "ip", "route", "add", "224.0.0.0/4", "dev", "lan")
	dir := t.TempDir()
	a := startNodeIn(t, net.ns("a"), filepath.Join(dir, "a"), "--no-mdns=false", "--p2p-listen", "/ip4/10.0.0.2/tcp/0")
	b := startNodeIn(t, net.ns("ra"), filepath.Join(dir, "ra"), "--no-mdns=false", "--p2p-listen", "/ip4/10.0.0.1/tcp/0")
	soon(t, "they find each other", func() (string, bool) {
		_, one := peersOf(a)[b.id]
		_, two := peersOf(b)[a.id]
		return a.stderr.String(), one && two
	})
}
