package direct

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/flynn/noise"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	transport "github.com/quantra-l/quantra/p2p/noise"
)

// Sessions are Noise_KK_25519_AESGCM_SHA256 (Noise protocol framework, revision 34, section 7.5): both sides know each other's static key
// from the bundles that they say first, which their identities have signed. The ephemeral keys give forward secrecy.
const (
	handshakeTime = 10 * time.Second // both sides, from the stream's first byte
	maxPlain      = 65535 - 16       // bytes of a record before encryption: Noise's limit less the tag
	recordHead    = 2
	// rekeyAfter is how many records are encrypted by one key, at most 1 GiB (Noise, section 11.3). Both ends count.
	rekeyAfter = 1 << 14
)

var suite = noise.NewCipherSuite(transport.X25519, noise.CipherAESGCM, noise.HashSHA256)

// secured is a stream whose both ends have shown who they are and what they say is read by nobody between. One goroutine reads, one
// writes.
type secured struct {
	stream    network.Stream
	bundle    *bundle // of the other side, verified
	send, get *noise.CipherState
	sent, got int

	head [recordHead]byte
}

// secure makes the handshake. The initiator is who opened the stream.
func secure(s network.Stream, keys *keyring, initiator bool, now time.Time) (*secured, error) {
	if err := s.SetDeadline(time.Now().Add(handshakeTime)); err != nil {
		return nil, err
	}
	own, ourBundle := keys.newest()
	remote := s.Conn().RemotePeer()
	theirs, err := greet(s, ourBundle, initiator, remote, now)
	if err != nil {
		return nil, err
	}
	first, second := ourBundle.raw, theirs.raw
	if !initiator {
		first, second = second, first
	}
	prologue := append([]byte("quantra direct session v1\x00"+string(s.Protocol())+"\x00"), first...)
	state, err := noise.NewHandshakeState(noise.Config{
		CipherSuite: suite, Pattern: noise.HandshakeKK, Initiator: initiator, Prologue: append(prologue, second...),
		StaticKeypair: noise.DHKey{Private: own.static.Bytes(), Public: own.static.PublicKey().Bytes()}, PeerStatic: theirs.static[:],
	})
	if err != nil {
		return nil, err
	}
	c := &secured{stream: s, bundle: theirs}
	if initiator {
		if _, _, err = writeNoise(s, state); err == nil {
			c.send, c.get, err = readNoise(s, state)
		}
	} else {
		if _, _, err = readNoise(s, state); err == nil {
			c.get, c.send, err = writeNoise(s, state)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("the handshake with %s: %w", remote, err)
	}
	return c, s.SetDeadline(time.Time{})
}

// greet says our bundle and reads the other's.
func greet(s network.Stream, ours *bundle, initiator bool, remote peer.ID, now time.Time) (*bundle, error) {
	var raw [bundleSize]byte
	say := func() error { _, err := s.Write(ours.raw); return err }
	hear := func() error { _, err := io.ReadFull(s, raw[:]); return err }
	steps := []func() error{say, hear}
	if !initiator {
		steps = []func() error{hear, say}
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, fmt.Errorf("%w: %s does not say its keys: %w", ErrUnavailable, remote, err)
		}
	}
	b, err := decodeBundle(raw[:])
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", remote, err)
	case idOf(b.key) != remote:
		return nil, fmt.Errorf("%w: %s shows the keys of %s", ErrCorrupt, remote, idOf(b.key))
	case now.Before(b.made.Add(-clockSlack)) || now.After(b.until.Add(clockSlack)):
		return nil, fmt.Errorf("%w: the keys of %s are from %s and it is %s: one of the two clocks is wrong", ErrDenied, remote,
			b.made.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return b, nil
}

// A message of the handshake is its length in two bytes, and itself.
const maxNoise = 256

func writeNoise(w io.Writer, state *noise.HandshakeState) (a, b *noise.CipherState, err error) {
	m, a, b, err := state.WriteMessage(make([]byte, 2), nil)
	if err != nil {
		return nil, nil, err
	}
	binary.BigEndian.PutUint16(m, uint16(len(m)-2))
	_, err = w.Write(m)
	return a, b, err
}

func readNoise(r io.Reader, state *noise.HandshakeState) (a, b *noise.CipherState, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, nil, err
	}
	n := binary.BigEndian.Uint16(head[:])
	if n > maxNoise {
		return nil, nil, fmt.Errorf("%w: a message of the handshake of %d bytes, of at most %d", ErrCorrupt, n, maxNoise)
	}
	m := make([]byte, n)
	if _, err := io.ReadFull(r, m); err != nil {
		return nil, nil, err
	}
	payload, a, b, err := state.ReadMessage(nil, m)
	if err == nil && len(payload) > 0 {
		err = fmt.Errorf("%w: a message of the handshake has a payload", ErrCorrupt)
	}
	return a, b, err
}

// record is room for one record: its head, what is encrypted, the tag.
type record [recordHead + 65535]byte

// write encrypts one record of 1 to maxPlain bytes and writes it within the time. buf is room to do it in.
func (c *secured) write(buf *record, plain []byte, within time.Duration) error {
	if c.sent == rekeyAfter {
		c.send.Rekey()
		c.sent = 0
	}
	c.sent++
	out, err := c.send.Encrypt(buf[:recordHead], nil, plain)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint16(out, uint16(len(out)-recordHead))
	if err := c.stream.SetWriteDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	_, err = c.stream.Write(out)
	return err
}

// next waits for a record as long as idle says (0 is for ever), and is its size. io.EOF is an end between two records.
func (c *secured) next(idle time.Duration) (int, error) {
	var until time.Time
	if idle > 0 {
		until = time.Now().Add(idle)
	}
	if err := c.stream.SetReadDeadline(until); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(c.stream, c.head[:]); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(c.head[:]))
	if n <= 16 {
		return 0, fmt.Errorf("%w: a record of %d bytes has nothing in it", ErrCorrupt, n)
	}
	return n, nil
}

// read is the content of the record that next has found, in buf.
func (c *secured) read(buf *record, n int, within time.Duration) ([]byte, error) {
	if err := c.stream.SetReadDeadline(time.Now().Add(within)); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(c.stream, buf[:n]); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if c.got == rekeyAfter {
		c.get.Rekey()
		c.got = 0
	}
	c.got++
	plain, err := c.get.Decrypt(buf[:0], nil, buf[:n])
	if err != nil {
		return nil, fmt.Errorf("%w: a record does not open: %w", ErrCorrupt, err)
	}
	return plain, nil
}
