// Package p2p is the core of a node: it finds peers and connects to them, and lets nobody in whom the guard has not judged.
//
// It fences go-libp2p. A connection comes about in three steps: the gate, before any work with keys ([zerotrust.Admission]); libp2p's own
// handshake, which shows that who is there has the key of its id; and /quantra/guard/1 (docs/format/guard-protocol.md), in which both
// ends present their identities and each judges the other. Until that is done no protocol but those of [Open] is answered, whatever
// registered it: there is one place where streams come in, and it asks. Afterwards what a peer may do is [Node.Allow], which goes by the
// guard's session with it at each moment.
//
// What peers say to each other is the rooms' below: p2p/direct and p2p/broadcast work on [Node.Host].
package p2p

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	"go.opentelemetry.io/otel/trace"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust"
)

// The words to branch on.
var (
	// ErrUnguarded says that there is no session with a peer: it is not connected, not judged yet, or was not let in.
	ErrUnguarded = errors.New("the peer is not let in")
	// ErrDenied says that a peer was judged, and may not do what was asked.
	ErrDenied = zerotrust.ErrDenied
	// ErrUnavailable says that it cannot be done now.
	ErrUnavailable = zerotrust.ErrUnavailable
	// ErrCorrupt says that what came makes no sense.
	ErrCorrupt = zerotrust.ErrCorrupt
	// ErrClosed says that the node was closed.
	ErrClosed = errors.New("the node is closed")
)

// Our protocols.
const (
	GuardProtocol  protocol.ID = "/quantra/guard/1"
	InviteProtocol protocol.ID = "/quantra/invite/1"
	// DHTPrefix is before the name of the DHT's protocol, so that our tables and the public network's never mix.
	DHTPrefix protocol.ID = "/quantra"
	// mdnsService is what nodes of a local network are announced as.
	mdnsService = "_quantra._udp"
)

// Open are the protocols that are answered before a peer was judged: who it is, and how it comes to be judged. Every other one waits for
// the verdict.
var Open = []protocol.ID{GuardProtocol, InviteProtocol, "/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0"}

// The times of a connection.
const (
	// writeTime is how long a frame may take to be written.
	writeTime = 10 * time.Second
	// lingerTime is how long the last word on a line may take to be read.
	lingerTime = time.Second
	// dialTime bounds one attempt to connect.
	dialTime = 15 * time.Second
)

// Reach says how a node is reached.
type Reach string

// What a node may be told of how it is reached.
const (
	ReachAuto    Reach = ""        // it finds out from its peers
	ReachPublic  Reach = "public"  // as the operator knows
	ReachPrivate Reach = "private" // it is behind a NAT: it keeps a place at a relay, if there is one
)

// Options are a node's. Key and Guard have no default.
type Options struct {
	Key   seal.Key
	Guard *zerotrust.Guard
	// Document is the identity that is presented to whoever has given us none of its own. nil is one by which the key vouches for itself, for
	// a year from the start.
	Document []byte
	// Issue makes the document that a peer is given that came by invitation: who presents it later is known. nil is that none is given.
	Issue func(seal.PublicKey) ([]byte, error)

	Dir string // where known peers are kept; "" is nowhere
	FS  vfs.FS // of Dir; nil is the host's

	// Listen are the addresses to listen on, as multiaddresses. nil is none: the node only dials.
	Listen []string
	// Announce are addresses that are told to others instead of those it listens on. nil is those.
	Announce []string
	// Bootstrap are peers that it keeps trying to be connected to, as multiaddresses that end in /p2p/ID. At most 64.
	Bootstrap []string
	MDNS      bool // look for peers on the local network, be found there, and dial what is found
	NoDHT     bool // take no part in the DHT, by which peers' addresses are found
	// Relays are those that it keeps a place at where it is not reached directly, as Bootstrap. RelayService lets it be one, for peers that
	// it has let in. HolePunch has two peers that met at a relay try to connect directly.
	Relays       []string
	RelayService bool
	HolePunch    bool
	Reach        Reach

	Limits    Limits
	Admission zerotrust.AdmissionOptions
	// JudgeTime is within what a connection is judged, or ended. 0 is 15 s.
	JudgeTime time.Duration

	// Lost is told of a peer whose rights have changed or ended: what was decided by them is to be asked again. It is called without locks, by
	// one goroutine for each peer, and must not wait for that peer.
	Lost func(peer.ID)
	// Ready is told of a peer that has been let in, likewise.
	Ready func(peer.ID)

	// Load is what moving peers goes by: requests in flight, on average over the last minute, and seconds that one takes, the median. nil is that
	// nothing is.
	Load func() (inFlight, latency float64)
	// Settle waits until nothing is under way with a peer that is about to go, or until ctx ends. nil does not wait.
	Settle func(ctx context.Context, p peer.ID)

	// Before is called once, when the node is there and has reached nobody, and nobody it: what speaks with peers begins in it. An error ends
	// the start. nil is nothing.
	Before func(*Node) error

	Log    *slog.Logger         // nil is silence
	Tracer trace.TracerProvider // nil is none
	Now    func() time.Time     // nil is time.Now
}

// Limits bound what a node takes. Each of 0 is its default; none may be negative.
type Limits struct {
	Peers               int   // peers that are kept: past it those least used go. 256; the connection manager begins at the next eighth above
	Connections         int   // at once, of all kinds. Twice Peers and 128
	ConnectionsAddress  int   // from one address (IPv6: a /56). 64
	Streams             int   // at once. 64 for each of Peers
	StreamsPeer         int   // of one peer at once. 256
	Memory              int64 // bytes of buffers that libp2p may reserve: windowFor for each of Peers. What is reserved is what a peer may fill, not what it has
	Judging             int   // handshakes of the guard at once. 256
	Waiting             int   // streams of one peer that wait for its verdict. 16
	RememberedAddresses int   // addresses of peers that were let in, which come in under a flood. 4,096
}

// windowFor is what a peer's streams reserve: each has a window of 256 KiB from its beginning (yamux, "Initial window size"), and a peer that hears and
// sends has six for good, and more for moments.
const windowFor = 2 << 20

func (l *Limits) defaults() error {
	for _, f := range []struct {
		name string
		at   *int
		to   int
	}{
		{"Peers", &l.Peers, 256}, {"Connections", &l.Connections, 0}, {"ConnectionsAddress", &l.ConnectionsAddress, 64}, {"Streams", &l.Streams, 0},
		{"StreamsPeer", &l.StreamsPeer, 256}, {"Judging", &l.Judging, 256}, {"Waiting", &l.Waiting, 16}, {"RememberedAddresses", &l.RememberedAddresses, 4096},
	} {
		if *f.at < 0 {
			return fmt.Errorf("p2p: Limits.%s is %d: it must not be negative", f.name, *f.at)
		}
		if *f.at == 0 {
			*f.at = f.to
		}
	}
	if l.Connections == 0 {
		l.Connections = 2*l.Peers + 128
	}
	if l.Streams == 0 {
		l.Streams = 64 * l.Peers
	}
	if l.Memory < 0 {
		return fmt.Errorf("p2p: Limits.Memory is %d: it must not be negative", l.Memory)
	}
	if l.Memory == 0 {
		l.Memory = windowFor * int64(l.Peers)
	}
	return nil
}

// most bounds lists of addresses in Options.
const most = 64

// defaults checks the options and fills in what was left out.
func (o *Options) defaults() error {
	if o.Key.Seed() == nil {
		return errors.New("p2p: Options.Key: there is none")
	}
	if o.Guard == nil {
		return errors.New("p2p: Options.Guard: there is none, and nobody is let in without one")
	}
	switch o.Reach {
	case ReachAuto, ReachPublic, ReachPrivate:
	default:
		return fmt.Errorf("p2p: Options.Reach %q: it is public, private, or empty", o.Reach)
	}
	for name, list := range map[string][]string{"Listen": o.Listen, "Announce": o.Announce, "Bootstrap": o.Bootstrap, "Relays": o.Relays} {
		if len(list) > most {
			return fmt.Errorf("p2p: Options.%s has %d addresses, more than %d", name, len(list), most)
		}
	}
	if err := o.Limits.defaults(); err != nil {
		return err
	}
	if o.JudgeTime < 0 {
		return fmt.Errorf("p2p: Options.JudgeTime is %s: it must not be negative", o.JudgeTime)
	}
	if o.JudgeTime == 0 {
		o.JudgeTime = 15 * time.Second
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Document == nil {
		from := o.Now().Add(-time.Minute) // others' clocks may be behind
		d := zerotrust.Identity{Kind: "peer", Key: o.Key.Public(), Issuer: o.Key.Public(), NotBefore: from, Expires: from.Add(zerotrust.DefaultLife)}
		doc, err := d.Sign(o.Key)
		if err != nil {
			return fmt.Errorf("p2p: an identity for Options.Key: %w", err)
		}
		o.Document = doc
	}
	d, err := zerotrust.Decode(o.Document)
	if err != nil {
		return fmt.Errorf("p2p: Options.Document: %w", err)
	}
	if d.Key != o.Key.Public() {
		return errors.New("p2p: Options.Document is of another key than Options.Key")
	}
	return nil
}

// KeyOf is the key of a peer's id; false where it is not an Ed25519 key, which nobody of ours has.
func KeyOf(p peer.ID) (key seal.PublicKey, ok bool) {
	const head = "\x00\x24\x08\x01\x12\x20" // as zerotrust.IDOf has it
	if len(p) != len(head)+len(key) || string(p[:len(head)]) != head {
		return key, false
	}
	copy(key[:], p[len(head):])
	return key, true
}

// IDOf is the peer id of a key.
func IDOf(key seal.PublicKey) peer.ID {
	return peer.ID("\x00\x24\x08\x01\x12\x20" + string(key[:]))
}

// ParseAddress reads a multiaddress with or without /p2p/ID at its end.
func ParseAddress(text string) (ma.Multiaddr, error) {
	const longest = 512
	if len(text) > longest {
		return nil, fmt.Errorf("%w: an address has %d characters, more than %d", ErrCorrupt, len(text), longest)
	}
	a, err := ma.NewMultiaddr(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %q is no multiaddress, as /ip4/192.0.2.1/tcp/4242: %w", ErrCorrupt, text, err)
	}
	return a, nil
}

// ParsePeer reads a multiaddress that ends in /p2p/ID, or an id alone.
func ParsePeer(text string) (peer.AddrInfo, error) {
	if id, err := peer.Decode(text); err == nil {
		if _, ok := KeyOf(id); !ok {
			return peer.AddrInfo{}, fmt.Errorf("%w: %q is not the id of an Ed25519 key", ErrCorrupt, text)
		}
		return peer.AddrInfo{ID: id}, nil
	}
	a, err := ParseAddress(text)
	if err != nil {
		return peer.AddrInfo{}, err
	}
	info, err := peer.AddrInfoFromP2pAddr(a)
	if err != nil {
		return peer.AddrInfo{}, fmt.Errorf("%w: %q says no peer: it must end in /p2p/ID", ErrCorrupt, text)
	}
	if _, ok := KeyOf(info.ID); !ok {
		return peer.AddrInfo{}, fmt.Errorf("%w: %q is not the address of an Ed25519 key", ErrCorrupt, text)
	}
	return *info, nil
}

func parsePeers(name string, list []string) (out []peer.AddrInfo, err error) {
	for _, text := range list {
		info, err := ParsePeer(text)
		if err != nil {
			return nil, fmt.Errorf("p2p: Options.%s: %w", name, err)
		}
		out = append(out, info)
	}
	return out, nil
}

// relayed says that a connection goes by a relay that limits it.
func relayed(c network.Conn) bool { return c.Stat().Limited }
