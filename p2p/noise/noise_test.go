package noise

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	mrand "math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/flynn/noise"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	tptu "github.com/libp2p/go-libp2p/p2p/net/upgrader"
	upstream "github.com/libp2p/go-libp2p/p2p/security/noise"
	"google.golang.org/protobuf/encoding/protowire"
)

// identity is a key of a type, by a seed; RSA's and ECDSA's have chance of their own besides.
func identity(t testing.TB, kind int, seed uint64) crypto.PrivKey {
	t.Helper()
	key, _, err := crypto.GenerateKeyPairWithReader(kind, 2048, mrand.NewChaCha8([32]byte{byte(seed)}))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func idOf(t testing.TB, key crypto.PrivKey) peer.ID {
	t.Helper()
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func muxers(names ...string) (out []tptu.StreamMuxer) {
	for _, n := range names {
		out = append(out, tptu.StreamMuxer{ID: protocol.ID(n)})
	}
	return out
}

// makers are both implementations.
var makers = []struct {
	name string
	make func(testing.TB, crypto.PrivKey, ...string) sec.SecureTransport
}{{"ours", ours}, {"libp2p", theirs}}

func ours(t testing.TB, key crypto.PrivKey, names ...string) sec.SecureTransport {
	t.Helper()
	tr, err := New(ID, key, muxers(names...))
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func theirs(t testing.TB, key crypto.PrivKey, names ...string) sec.SecureTransport {
	t.Helper()
	tr, err := upstream.New(upstream.ID, key, muxers(names...))
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// pipe is two ends in memory; tcp is two ends of a connection on loopback.
func pipe(testing.TB) (net.Conn, net.Conn) { return net.Pipe() }

func tcp(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

type secured struct {
	conn sec.SecureConn
	err  error
}

// shake runs a handshake at both ends. The responder asks for want, "" is anybody.
func shake(t testing.TB, dialer, listener sec.SecureTransport, a, b net.Conn, dialed, want peer.ID) (secured, secured) {
	t.Helper()
	t.Cleanup(func() { a.Close(); b.Close() })
	in := make(chan secured, 1)
	go func() {
		c, err := listener.SecureInbound(t.Context(), b, want)
		in <- secured{c, err}
	}()
	c, err := dialer.SecureOutbound(t.Context(), a, dialed)
	return secured{c, err}, <-in
}

// pair is two ends of a session between two identities.
func pair(t testing.TB, dialer, listener sec.SecureTransport, a, b net.Conn, to peer.ID) (sec.SecureConn, sec.SecureConn) {
	t.Helper()
	out, in := shake(t, dialer, listener, a, b, to, "")
	if out.err != nil || in.err != nil {
		t.Fatalf("dialer %v, listener %v", out.err, in.err)
	}
	return out.conn, in.conn
}

// both calls f for each pair of implementations of which one at least is ours.
func both(t *testing.T, f func(t *testing.T, dialer, listener func(testing.TB, crypto.PrivKey, ...string) sec.SecureTransport)) {
	for _, d := range makers {
		for _, l := range makers {
			if d.name == "ours" || l.name == "ours" {
				t.Run(d.name+" dials "+l.name, func(t *testing.T) { f(t, d.make, l.make) })
			}
		}
	}
}

// TestBoth: with go-libp2p's in either role, over memory and over TCP, with every type of key, both learn who the other is, and what one writes the
// other reads.
func TestBoth(t *testing.T) {
	kinds := []int{crypto.Ed25519, crypto.Secp256k1, crypto.ECDSA, crypto.RSA}
	keys := make([][2]crypto.PrivKey, len(kinds))
	for i, kind := range kinds {
		keys[i] = [2]crypto.PrivKey{identity(t, kind, 1), identity(t, kind, 2)}
	}
	both(t, func(t *testing.T, dialer, listener func(testing.TB, crypto.PrivKey, ...string) sec.SecureTransport) {
		for _, over := range []func(testing.TB) (net.Conn, net.Conn){pipe, tcp} {
			for i, kind := range kinds {
				alice, bob := keys[i][0], keys[i][1]
				a, b := over(t)
				out, in := pair(t, dialer(t, alice, "/m"), listener(t, bob, "/m"), a, b, idOf(t, bob))
				for _, side := range []struct {
					conn      sec.SecureConn
					own, peer crypto.PrivKey
				}{{out, alice, bob}, {in, bob, alice}} {
					if side.conn.LocalPeer() != idOf(t, side.own) || side.conn.RemotePeer() != idOf(t, side.peer) || !side.conn.RemotePublicKey().Equals(side.peer.GetPublic()) {
						t.Errorf("type %d: %v speaks with %v", kind, side.conn.LocalPeer(), side.conn.RemotePeer())
					}
				}
				// The responder's frames may follow the handshake at once.
				echo(t, in, out, 1)
				echo(t, out, in, 100)
			}
		}
	})
}

// echo has size bytes of a seed go from one to the other.
func echo(t testing.TB, from, to net.Conn, size int) {
	t.Helper()
	sent, got := make([]byte, size), make([]byte, size)
	mrand.NewChaCha8([32]byte{9}).Read(sent)
	done := make(chan error, 1)
	go func() {
		_, err := from.Write(sent)
		done <- err
	}()
	if _, err := io.ReadFull(to, got); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || !bytes.Equal(sent, got) {
		t.Fatalf("%d bytes: %v, equal: %v", size, err, bytes.Equal(sent, got))
	}
}

// TestMuxers: both ends choose what go-libp2p's ends choose, the first of the initiator's that the responder has.
func TestMuxers(t *testing.T) {
	many := make([]string, maxMuxers+1)
	for i := range many {
		many[i] = "/m/" + string(rune('A'+i))
	}
	alice, bob := identity(t, crypto.Ed25519, 1), identity(t, crypto.Ed25519, 2)
	both(t, func(t *testing.T, dialer, listener func(testing.TB, crypto.PrivKey, ...string) sec.SecureTransport) {
		for _, c := range []struct {
			initiator, responder []string
			want                 protocol.ID
		}{
			{[]string{"/a"}, []string{"/a"}, "/a"},
			{[]string{"/a", "/b"}, []string{"/b", "/a"}, "/a"},
			{[]string{"/b", "/a"}, []string{"/a", "/b"}, "/b"},
			{[]string{"/x", "/b"}, []string{"/a", "/b"}, "/b"},
			{[]string{"/a"}, []string{"/b"}, ""},
			{nil, []string{"/b"}, ""},
			{[]string{"/a"}, nil, ""},
			{nil, nil, ""},
			{many[:maxMuxers], many[maxMuxers-1:], protocol.ID(many[maxMuxers-1])},
		} {
			a, b := net.Pipe()
			out, in := pair(t, dialer(t, alice, c.initiator...), listener(t, bob, c.responder...), a, b, idOf(t, bob))
			for _, s := range []sec.SecureConn{out, in} {
				if got := s.ConnState(); got.StreamMultiplexer != c.want || got.UsedEarlyMuxerNegotiation != (c.want != "") {
					t.Errorf("%v and %v: %+v, and it is %q", c.initiator, c.responder, got, c.want)
				}
			}
		}
		// Of who names too many, none is looked at.
		a, b := net.Pipe()
		_, in := pair(t, dialer(t, alice, many...), listener(t, bob, many[0]), a, b, idOf(t, bob))
		if got := in.ConnState().StreamMultiplexer; got != "" {
			t.Errorf("of %d multiplexers it has chosen %q", len(many), got)
		}
	})
}

// TestLarge: more than a frame, both ways at the same time, and frames of all sizes about the bounds, read whole and byte by byte.
func TestLarge(t *testing.T) {
	alice, bob := identity(t, crypto.Ed25519, 1), identity(t, crypto.Ed25519, 2)
	both(t, func(t *testing.T, dialer, listener func(testing.TB, crypto.PrivKey, ...string) sec.SecureTransport) {
		a, b := tcp(t)
		out, in := pair(t, dialer(t, alice), listener(t, bob), a, b, idOf(t, bob))
		var ends sync.WaitGroup
		for _, way := range [][2]net.Conn{{out, in}, {in, out}} {
			ends.Go(func() {
				sent := make([]byte, 3<<20+7)
				mrand.NewChaCha8([32]byte{3}).Read(sent)
				written := make(chan error, 1)
				go func() {
					_, err := way[0].Write(sent)
					written <- err
				}()
				got := make([]byte, len(sent))
				_, err := io.ReadFull(way[1], got)
				if werr := <-written; err != nil || werr != nil || !bytes.Equal(sent, got) {
					t.Errorf("read %v, written %v", err, werr)
				}
			})
		}
		ends.Wait()
		for _, size := range []int{1, small - 19, small - 18, small - 17, small, maxPlain - 1, maxPlain, maxPlain + 1, 2 * maxPlain} {
			echo(t, out, in, size)
			one := make([]byte, size)
			got := make(chan error, 1)
			go func() {
				_, err := io.ReadFull(iotest.OneByteReader(out), one)
				got <- err
			}()
			if n, err := in.Write(bytes.Repeat([]byte{7}, size)); n != size || err != nil {
				t.Fatal(n, err)
			}
			if err := <-got; err != nil || !bytes.Equal(one, bytes.Repeat([]byte{7}, size)) {
				t.Errorf("%d bytes, one at a time: %v", size, err)
			}
		}
	})
}

// slow gives what comes one byte at a time.
type slow struct{ net.Conn }

func (s slow) Read(p []byte) (int, error) { return s.Conn.Read(p[:min(1, len(p))]) }

// TestByteByByte: frames are found however what came is cut.
func TestByteByByte(t *testing.T) {
	alice, bob := identity(t, crypto.Ed25519, 1), identity(t, crypto.Ed25519, 2)
	a, b := net.Pipe()
	out, in := pair(t, ours(t, alice, "/m"), ours(t, bob, "/m"), slow{a}, slow{b}, idOf(t, bob))
	echo(t, out, in, 3*small)
	echo(t, in, out, 17)
}

// TestMismatch: who is not the one that was asked for is told, in either role, and neither end has a connection that it can use.
func TestMismatch(t *testing.T) {
	alice, bob, eve := identity(t, crypto.Ed25519, 1), identity(t, crypto.Ed25519, 2), identity(t, crypto.Ed25519, 3)
	a, b := net.Pipe()
	out, in := shake(t, ours(t, alice), theirs(t, bob), a, b, idOf(t, eve), "")
	var wrong sec.ErrPeerIDMismatch
	if !errors.As(out.err, &wrong) || wrong.Expected != idOf(t, eve) || wrong.Actual != idOf(t, bob) || in.err == nil || out.conn != nil {
		t.Errorf("dialed: %v, %v", out.err, in.err)
	}
	a, b = net.Pipe()
	_, in = shake(t, theirs(t, alice), ours(t, bob), a, b, idOf(t, bob), idOf(t, eve))
	if !errors.As(in.err, &wrong) || wrong.Expected != idOf(t, eve) || wrong.Actual != idOf(t, alice) || in.conn != nil {
		t.Errorf("listened: %v", in.err)
	}
	a, b = net.Pipe()
	if out, in := shake(t, ours(t, alice), ours(t, bob), a, b, idOf(t, bob), idOf(t, alice)); out.err != nil || in.err != nil {
		t.Errorf("the one who was asked for: %v, %v", out.err, in.err)
	}
	a, b = net.Pipe()
	if out, in := shake(t, ours(t, alice), ours(t, bob), a, b, "", ""); out.err == nil || in.err == nil || !strings.Contains(out.err.Error(), "whom") {
		t.Errorf("nobody in particular was dialed: %v, %v", out.err, in.err)
	}
}

// changed is a connection whose frames pass through change before they are written: their numbers are from 0, and nil ends the stream.
type changed struct {
	net.Conn
	n      int
	change func(n int, frame []byte) []byte
}

func (c *changed) Write(p []byte) (int, error) {
	q := c.change(c.n, bytes.Clone(p))
	c.n++
	if len(q) > 0 {
		if _, err := c.Conn.Write(q); err != nil {
			return 0, err
		}
	}
	if len(q) < len(p) {
		return 0, errors.Join(errors.New("cut"), c.Conn.Close())
	}
	return len(p), nil
}

// TestTampered flips a bit of every third byte of each message of the handshake, and cuts the messages short: there is no session of both.
func TestTampered(t *testing.T) {
	alice, bob := identity(t, crypto.Ed25519, 1), identity(t, crypto.Ed25519, 2)
	dialer, listener := ours(t, alice, "/m"), ours(t, bob, "/m")
	lengths := []int{0, 0, 0} // of messages
	attempt := func(message int, change func([]byte) []byte) (secured, secured) {
		a, b := net.Pipe()
		out := &changed{Conn: a, change: func(n int, f []byte) []byte { return f }}
		in := &changed{Conn: b, change: func(n int, f []byte) []byte { return f }}
		end, nth := out, message/2 // 0 and 2 are the dialer's
		if message == 1 {
			end, nth = in, 0
		}
		end.change = func(n int, f []byte) []byte {
			if n != nth {
				return f
			}
			lengths[message] = len(f)
			return change(f)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan secured, 2)
		go func() {
			c, err := listener.SecureInbound(ctx, in, "")
			if err != nil {
				cancel() // a frame that claims to be longer than it is leaves who waits for it waiting
			}
			ended <- secured{c, err}
		}()
		go func() {
			c, err := dialer.SecureOutbound(ctx, out, idOf(t, bob))
			if err == nil && message == 2 {
				a.Close() // the dialer has said all: who listens waits for what does not come
			}
			if err != nil {
				cancel()
			}
			ended <- secured{c, err}
		}()
		if message != 2 {
			// What is longer by its length than what came ends by nobody: so the wait is ended when both have what there is.
			go func() { <-ctx.Done(); a.Close(); b.Close() }()
		}
		first, second := <-ended, <-ended
		a.Close()
		b.Close()
		return first, second
	}
	for message := range lengths {
		attempt(message, func(f []byte) []byte { return f })
		if lengths[message] < 34 {
			t.Fatalf("message %d has %d bytes", message, lengths[message])
		}
		for i := headSize; i < lengths[message]; i += 3 { // lengths have a test of their own
			x, y := attempt(message, func(f []byte) []byte { f[i] ^= 1 << (i % 8); return f })
			if x.err == nil && y.err == nil {
				t.Errorf("message %d, byte %d: changed, and both have a session", message, i)
			}
		}
		for i := 0; i < lengths[message]; i += 31 {
			x, y := attempt(message, func(f []byte) []byte { return f[:i] })
			if x.err == nil && y.err == nil {
				t.Errorf("message %d, cut after %d bytes: both have a session", message, i)
			}
		}
	}
}

// TestLengths: a message that says it is longer than a handshake's may be is refused before it has come, one too short for its keys when it has.
func TestLengths(t *testing.T) {
	tr := ours(t, identity(t, crypto.Ed25519, 1))
	for _, c := range []struct {
		length uint16
		want   string
	}{{maxHandshake + 1, "more than 8192"}, {1<<16 - 1, "more than 8192"}, {0, "too short"}, {31, "too short"}} {
		a, b := net.Pipe()
		go func() {
			a.Write(binary.BigEndian.AppendUint16(nil, c.length))
			if c.length <= maxHandshake {
				a.Write(make([]byte, c.length))
			}
		}()
		_, err := tr.SecureInbound(t.Context(), b, "")
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("length %d: %v", c.length, err)
		}
		a.Close()
	}
}

// stranger is the responder's or the initiator's end of a handshake of flynn/noise's own, with a payload of choice.
func stranger(conn net.Conn, initiator bool, static noise.DHKey, payload []byte) error {
	defer conn.Close()
	state, err := noise.NewHandshakeState(noise.Config{
		CipherSuite: noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashSHA256), Pattern: noise.HandshakeXX, Initiator: initiator, StaticKeypair: static,
	})
	if err != nil {
		return err
	}
	for i := range 3 {
		if (i%2 == 0) == initiator {
			said := payload
			if i == 0 {
				said = nil
			}
			m, _, _, err := state.WriteMessage(nil, said)
			if err != nil {
				return err
			}
			if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...)); err != nil {
				return err
			}
			continue
		}
		var head [2]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return err
		}
		m := make([]byte, binary.BigEndian.Uint16(head[:]))
		if _, err := io.ReadFull(conn, m); err != nil {
			return err
		}
		if _, _, _, err := state.ReadMessage(nil, m); err != nil {
			return err
		}
	}
	return nil
}

// TestPayload: whose identity has not signed the very key that the handshake is done with is refused, in either role.
func TestPayload(t *testing.T) {
	bob := identity(t, crypto.Ed25519, 2)
	tr := ours(t, identity(t, crypto.Ed25519, 1), "/m")
	own, err := noise.DH25519.GenerateKeypair(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	another, err := noise.DH25519.GenerateKeypair(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	payload := func(key crypto.PrivKey, static []byte) []byte {
		p, err := sign(key, static, nil)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	good := payload(bob, own.Public)
	public, err := crypto.MarshalPublicKey(bob.GetPublic())
	if err != nil {
		t.Fatal(err)
	}
	bare := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), public)
	unprefixed, err := bob.Sign(own.Public)
	if err != nil {
		t.Fatal(err)
	}
	with := func(signature []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(bytes.Clone(bare), 2, protowire.BytesType), signature)
	}
	for _, c := range []struct {
		name    string
		payload []byte
		want    string
	}{
		{"good", good, ""},
		{"another's static key", payload(bob, another.Public), "has not signed"},
		{"the key alone is signed", with(unprefixed), "has not signed"},
		{"a signature of noughts", with(make([]byte, 64)), "has not signed"},
		{"a short signature", with(make([]byte, 63)), "its Noise key"},
		{"no signature", bare, "its Noise key"},
		{"nothing", nil, "identity key"},
		{"no protobuf", []byte{0xff}, "payload"},
		{"half of it", good[:len(good)/2], "payload"},
		{"a key of no type", protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), []byte{8, 99, 18, 0}), "identity key"},
	} {
		for _, initiator := range []bool{true, false} {
			a, b := net.Pipe()
			done := make(chan error, 1)
			go func() { done <- stranger(b, !initiator, own, c.payload) }()
			secure := tr.SecureInbound
			if initiator {
				secure = tr.SecureOutbound
			}
			conn, err := secure(t.Context(), a, idOf(t, bob))
			if (c.want == "") != (err == nil) || err != nil && (conn != nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%s, initiator %v: %v, and it is %q", c.name, initiator, err, c.want)
			}
			a.Close()
			<-done
		}
	}
}

// TestTamperedData: a changed byte of any part of a frame ends the reading, for good, and gives none of it; a stream that was cut says so.
func TestTamperedData(t *testing.T) {
	alice, bob := identity(t, crypto.Ed25519, 1), identity(t, crypto.Ed25519, 2)
	dialer, listener := ours(t, alice), ours(t, bob)
	const good, sent = "first", "second words"
	start := func(change func([]byte) []byte) net.Conn {
		a, b := tcp(t)
		// The dialer's frames: two of the handshake, one good, one changed, and one good again.
		out, in := pair(t, dialer, listener, &changed{Conn: a, change: func(n int, f []byte) []byte {
			if n == 3 {
				return change(f)
			}
			return f
		}}, b, idOf(t, bob))
		go func() {
			for _, words := range []string{good, sent, good} {
				out.Write([]byte(words))
			}
			out.Close()
		}()
		return in
	}
	for _, room := range []int{3, 1024} { // opened where it lies, and where it is read to
		for i := range len(sent) + headSize + tagSize {
			in := start(func(f []byte) []byte { f[i] ^= 0x20; return f })
			got, err := io.ReadAll(struct{ io.Reader }{&chunked{in, room}})
			if string(got) != good || err == nil {
				t.Errorf("byte %d: %q, %v", i, got, err)
			}
			if n, again := in.Read(make([]byte, room)); n != 0 || again == nil {
				t.Errorf("byte %d: after the error it reads %d bytes, %v", i, n, again)
			}
			in.Close()
		}
		for i := range len(sent) + headSize + tagSize {
			in := start(func(f []byte) []byte { return f[:i] })
			got, err := io.ReadAll(struct{ io.Reader }{&chunked{in, room}})
			if string(got) != good || (i == 0) != (err == nil) || i > 0 && err != io.ErrUnexpectedEOF {
				t.Errorf("cut after %d bytes: %q, %v", i, got, err)
			}
			in.Close()
		}
	}
	in := start(func(f []byte) []byte { return append(f, 0, 15, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15) })
	if got, err := io.ReadAll(in); string(got) != good+sent || err == nil || !strings.Contains(err.Error(), "15 bytes") {
		t.Errorf("a frame that is shorter than its tag: %q, %v", got, err)
	}
	in = start(func(f []byte) []byte { return append(f, f...) })
	if got, err := io.ReadAll(in); string(got) != good+sent || err == nil {
		t.Errorf("a frame twice: %q, %v", got, err)
	}
}

// chunked reads at most so many bytes at once.
type chunked struct {
	r    io.Reader
	most int
}

func (c *chunked) Read(p []byte) (int, error) { return c.r.Read(p[:min(c.most, len(p))]) }

// TestCancel: the end of a context ends a handshake with who says nothing, in either role, at each message, and closes the connection; the end of
// it afterwards does nothing.
func TestCancel(t *testing.T) {
	alice, bob := identity(t, crypto.Ed25519, 1), identity(t, crypto.Ed25519, 2)
	dialer, listener := ours(t, alice), ours(t, bob)
	for _, initiator := range []bool{true, false} {
		a, b := net.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			secure := listener.SecureInbound
			if initiator {
				secure = dialer.SecureOutbound
			}
			_, err := secure(ctx, a, idOf(t, bob))
			ended <- err
		}()
		if initiator {
			io.ReadFull(b, make([]byte, headSize+32)) // it has begun, and waits for an answer
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("initiator %v: %v", initiator, err)
		}
		if _, err := b.Write([]byte{0}); err == nil {
			t.Errorf("initiator %v: the connection is open", initiator)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	a, b := net.Pipe()
	defer b.Close()
	if _, err := dialer.SecureOutbound(ctx, a, idOf(t, bob)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a deadline: %v", err)
	}

	a, b = tcp(t)
	ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
	in := make(chan sec.SecureConn, 1)
	go func() {
		c, _ := listener.SecureInbound(ctx, b, "")
		in <- c
	}()
	out, err := dialer.SecureOutbound(ctx, a, idOf(t, bob))
	if err != nil {
		t.Fatal(err)
	}
	to := <-in
	cancel()
	echo(t, out, to, 10)
	echo(t, to, out, 10)
}

// TestDeadline: a read whose deadline passed in the midst of a frame goes on where it was; a write whose deadline passed says so to those after it.
func TestDeadline(t *testing.T) {
	alice, bob := identity(t, crypto.Ed25519, 1), identity(t, crypto.Ed25519, 2)
	a, b := net.Pipe()
	release := make(chan struct{})
	half := make(chan struct{})
	late := &changed{Conn: a}
	late.change = func(n int, f []byte) []byte {
		if n < 2 {
			return f
		}
		a.Write(f[:len(f)/2])
		close(half)
		<-release
		a.Write(f[len(f)/2:])
		return nil
	}
	out, in := pair(t, ours(t, alice), ours(t, bob), late, b, idOf(t, bob))
	go func() {
		<-half
		in.SetReadDeadline(time.Unix(1, 0))
	}()
	go out.Write([]byte("in two parts"))
	got := make([]byte, 100)
	if _, err := in.Read(got); err == nil || !err.(net.Error).Timeout() {
		t.Fatalf("with a deadline that passed: %v", err)
	}
	in.SetReadDeadline(time.Time{})
	close(release)
	if n, err := in.Read(got); string(got[:n]) != "in two parts" || err != nil {
		t.Fatalf("%q, %v", got[:n], err)
	}

	in.SetWriteDeadline(time.Unix(1, 0))
	if _, err := in.Write([]byte("x")); err == nil || !err.(net.Error).Timeout() {
		t.Fatalf("with a deadline that passed: %v", err)
	}
	in.SetWriteDeadline(time.Time{})
	if _, err := in.Write([]byte("x")); err == nil || !strings.Contains(err.Error(), "earlier write") {
		t.Fatalf("after a write that failed: %v", err)
	}
}

// TestClose: it ends a read that waits, the other side reads the end, buffers are back, and nothing is read or written after.
func TestClose(t *testing.T) {
	alice, bob := identity(t, crypto.Ed25519, 1), identity(t, crypto.Ed25519, 2)
	a, b := tcp(t)
	out, in := pair(t, ours(t, alice), ours(t, bob), a, b, idOf(t, bob))
	echo(t, out, in, 2*small)
	if _, err := out.Write([]byte("of this one is read")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(in, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	waits := make(chan error, 1)
	go func() {
		_, err := out.Read(make([]byte, 1))
		waits <- err
	}()
	if err := out.Close(); err != nil {
		t.Error(err)
	}
	if err := <-waits; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read that waited: %v", err)
	}
	if got, err := io.ReadAll(in); string(got) != "f this one is read" || err != nil {
		t.Errorf("the other side: %q, %v", got, err)
	}
	if in.(*session).in == nil {
		t.Error("the other side has no buffer before it is closed: the test shows nothing")
	}
	in.Close()
	for _, s := range []sec.SecureConn{out, in} {
		if s.(*session).in != nil {
			t.Error("a closed session holds a buffer")
		}
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a read after the end: %v", err)
		}
		if _, err := s.Write([]byte{1}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a write after the end: %v", err)
		}
	}
}

// TestIdleBuffer: when a large frame has been read, a connection on which nothing comes holds a small buffer.
func TestIdleBuffer(t *testing.T) {
	alice, bob := identity(t, crypto.Ed25519, 1), identity(t, crypto.Ed25519, 2)
	a, b := tcp(t)
	out, in := pair(t, ours(t, alice), ours(t, bob), a, b, idOf(t, bob))
	echo(t, out, in, maxPlain)
	s := in.(*session)
	if len(s.in) <= small {
		t.Fatalf("a frame of %d bytes came in a buffer of %d", maxPlain, len(s.in))
	}
	s.SetReadDeadline(time.Unix(1, 0))
	if _, err := s.Read(make([]byte, 1)); err == nil || len(s.in) != small {
		t.Errorf("%v; it holds %d bytes", err, len(s.in))
	}
}

// TestEmpty: a read or a write of nothing does nothing, and a frame of nothing is passed over.
func TestEmpty(t *testing.T) {
	alice, bob := identity(t, crypto.Ed25519, 1), identity(t, crypto.Ed25519, 2)
	a, b := tcp(t)
	out, in := pair(t, ours(t, alice), ours(t, bob), a, b, idOf(t, bob))
	if n, err := out.Write(nil); n != 0 || err != nil {
		t.Error(n, err)
	}
	if n, err := in.Read(nil); n != 0 || err != nil {
		t.Error(n, err)
	}
	o := out.(*session)
	for range 3 {
		frame, err := o.seal.Encrypt(make([]byte, headSize), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		frame[1] = tagSize
		if _, err := o.Conn.Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	echo(t, out, in, 5)
}

// TestTooLarge: an identity with more multiplexers than the handshake has room for is refused when the transport is made.
func TestTooLarge(t *testing.T) {
	_, err := New(ID, identity(t, crypto.Ed25519, 1), muxers(strings.Repeat("m", maxHandshake)))
	if err == nil || !strings.Contains(err.Error(), "has room for") {
		t.Error(err)
	}
	largest := slices.Repeat([]string{"/" + strings.Repeat("m", 60)}, maxMuxers)
	if _, err := New(ID, identity(t, crypto.Ed25519, 1), muxers(largest...)); err != nil {
		t.Error(err)
	}
}

// TestPanic: a panic while what came is read ends the handshake with an error, and the connection with it.
func TestPanic(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	_, err := ours(t, identity(t, crypto.Ed25519, 1)).SecureInbound(t.Context(), panics{a}, "")
	if err == nil || !strings.Contains(err.Error(), "panic: what came") {
		t.Errorf("%v", err)
	}
	if _, err := a.Write([]byte{1}); err == nil {
		t.Error("the connection is open")
	}
}

type panics struct{ net.Conn }

func (panics) Read([]byte) (int, error) { panic("what came") }
