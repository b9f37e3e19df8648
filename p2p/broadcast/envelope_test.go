package broadcast

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/seal"
)

var golden = flag.Bool("golden", false, "write testdata/v1 anew")

var birth = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)

// made is a signed envelope.
func made(t testing.TB, key seal.Key, epoch, sequence uint64, topic string, at time.Time, payloads ...string) []byte {
	t.Helper()
	b := newBundle(key.Public(), epoch, sequence, topic, 0)
	for _, p := range payloads {
		b.add([]byte(p))
	}
	raw, err := b.sign(key, at)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// valid says what verify says of an envelope's signature.
func valid(raw []byte) error {
	e, err := decodeEnvelope(raw, len(raw))
	if err != nil {
		return err
	}
	digest := sha256.Sum256(raw[:len(raw)-seal.SignatureSize])
	return e.author.Verify(domain, digest[:], e.signature)
}

// TestEnvelopeFrozen: the fixture of version 1 is what is written today, and reads as it was meant.
func TestEnvelopeFrozen(t *testing.T) {
	file := filepath.Join("testdata", "v1", "envelope.bin")
	raw := made(t, keyAt(1), 7, 42, "news/eu", birth, "first", "", "third")
	if *golden {
		if err := os.WriteFile(file, raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(raw, want) {
		t.Errorf("the envelope of version 1 is written otherwise than it was:\n%x\n%x", raw, want)
	}
	if err := valid(want); err != nil {
		t.Fatal(err)
	}
	e, err := decodeEnvelope(want, len(want))
	if err != nil {
		t.Fatal(err)
	}
	if e.author != keyAt(1).Public() || e.epoch != 7 || e.sequence != 42 || e.topic != "news/eu" || !time.Unix(0, e.time).Equal(birth) ||
		len(e.payloads) != 3 || string(e.payloads[0]) != "first" || len(e.payloads[1]) != 0 || string(e.payloads[2]) != "third" {
		t.Errorf("the envelope of version 1 reads as %+v", e)
	}
	const id = "78c524c4"
	if got := hex.EncodeToString([]byte(gossipID("news/eu", want)))[:8]; got != id {
		t.Errorf("its id in gossip begins with %s, not %s", got, id)
	}
	if got, want := (ID{From: peerOf(e.author), Epoch: 7, Sequence: 42, Index: 2}).String(), peerOf(e.author).String()+"/7/42/2"; got != want {
		t.Errorf("the id of the third message is %s, not %s", got, want)
	}
}

// TestEnvelopeEachBit: no bit can change, and no byte can go, without the envelope being refused or its signature failing; and each such
// change is another envelope for gossip.
func TestEnvelopeEachBit(t *testing.T) {
	raw := made(t, keyAt(1), 7, 42, "news", birth, "some payload", "another")
	whole := gossipID("news", raw)
	for i := range len(raw) * 8 {
		raw[i/8] ^= 1 << (i % 8)
		if err := valid(raw); err == nil {
			t.Errorf("bit %d can be changed", i)
		}
		if gossipID("news", raw) == whole {
			t.Errorf("bit %d is not in the id", i)
		}
		raw[i/8] ^= 1 << (i % 8)
	}
	for n := range raw {
		if err := valid(raw[:n]); err == nil {
			t.Errorf("%d of %d bytes are enough", n, len(raw))
		}
	}
	if err := valid(append(bytes.Clone(raw), 0)); err == nil {
		t.Error("a byte can be appended")
	}
	if gossipID("other", raw) == whole {
		t.Error("the topic is not in the id")
	}
}

// TestEnvelopeBounds: what is out of bounds is refused by name.
func TestEnvelopeBounds(t *testing.T) {
	ok := made(t, keyAt(1), 1, 1, "t", birth, "x")
	change := func(at int, b ...byte) []byte { return append(append(bytes.Clone(ok[:at]), b...), ok[at+len(b):]...) }
	for _, c := range []struct {
		name, says string
		raw        []byte
	}{
		{"magic", "begin", change(0, 'X')},
		{"version", "begin", change(4, 2)},
		{"flags", "begin", change(5, 1)},
		{"no payloads", "0 payloads", change(atCount, 0, 0)},
		{"too many payloads", "65 payloads", change(atCount, 0, 65)},
		{"fewer payloads than said", "ends in the length", change(atCount, 0, 2)},
		{"no epoch", "begin at 1", change(atEpoch, 0, 0, 0, 0, 0, 0, 0, 0)},
		{"no sequence", "begin at 1", change(atSequence, 0, 0, 0, 0, 0, 0, 0, 0)},
		{"before 1970", "1970", change(atTime, 0x80)},
		{"no topic", "topic's name", change(atTopicLength, 0)},
		{"a topic beyond the end", "topic has", change(atTopicLength, 200)},
		{"a payload beyond the end", "of which", change(envelopeFixed+1, 0xff)},
		{"a control character", "control", change(envelopeFixed, '\n')},
		{"a short one", "bytes, not", ok[:minimum-1]},
		{"a long one", "bytes, not", append(bytes.Clone(ok), make([]byte, 1000)...)},
	} {
		if _, err := decodeEnvelope(c.raw, 500); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for name, good := range map[string]bool{"a": true, "a/b": true, "ä b": true, strings.Repeat("x", MaxTopic): true, "": false, "/a": false, "a/": false,
		"a//b": false, ".": false, "a/../b": false, "a\x00": false, "\xff": false, strings.Repeat("x", MaxTopic+1): false} {
		if err := checkTopic(name); (err == nil) != good {
			t.Errorf("topic %q: %v", name, err)
		}
	}
}

// FuzzEnvelope: what is decoded is what encode writes of it, byte for byte, whatever came.
func FuzzEnvelope(f *testing.F) {
	fixture, err := os.ReadFile(filepath.Join("testdata", "v1", "envelope.bin"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(fixture)
	f.Add(made(f, keyAt(2), 1, 1, "t", birth, ""))
	f.Add(made(f, keyAt(3), 1<<63, 1<<40, strings.Repeat("t", MaxTopic), birth, strings.Repeat("x", 300), "y"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := decodeEnvelope(raw, 4096)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%v is not one of the words to branch on", err)
			}
			return
		}
		b := newBundle(e.author, e.epoch, e.sequence, e.topic, 0)
		for _, p := range e.payloads {
			b.add(p)
		}
		again, err := b.sign(keyAt(1), time.Unix(0, e.time))
		if err != nil {
			t.Fatal(err)
		}
		copy(again[len(again)-seal.SignatureSize:], e.signature[:])
		if !bytes.Equal(raw, again) {
			t.Fatalf("decoded and encoded it is other bytes:\n%x\n%x", raw, again)
		}
	})
}
