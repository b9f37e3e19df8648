package direct

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hpke"
	"errors"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/seal"
)

// testKeys is a keyring of a key in memory.
func testKeys(t testing.TB, k seal.Key, now time.Time) *keyring {
	t.Helper()
	return keysIn(t, vfs.NewMem(), k, now)
}

func keysIn(t testing.TB, f vfs.FS, k seal.Key, now time.Time) *keyring {
	t.Helper()
	if err := f.MkdirAll("/d"); err != nil {
		t.Fatal(err)
	}
	if err := f.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	r, err := openKeyring(f, "/d", k, testBox(), now)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestForwardSecrecy: what was sealed opens until its prekey is deleted, and with all that is on disk it does not afterwards.
func TestForwardSecrecy(t *testing.T) {
	mem := vfs.NewMem()
	keys := keysIn(t, mem, keyNumber(2), birth)
	_, bundle := keys.newest()
	sealed, err := sealTo(keyNumber(1), bundle, []byte("an envelope"))
	if err != nil {
		t.Fatal(err)
	}
	for _, day := range []int{0, 1, 2, 7, 13, 14, 15, 40} {
		now := birth.Add(time.Duration(day) * 24 * time.Hour)
		if err := keys.turn(now); err != nil {
			t.Fatal(err)
		}
		keys = keysIn(t, mem.Crash(nil), keyNumber(2), now) // by what a thief finds
		from, envelope, err := keys.open(sealed)
		if day < 14 && (err != nil || from != idA || string(envelope) != "an envelope") {
			t.Fatal(day, err)
		}
		if day >= 14 && !errors.Is(err, ErrCorrupt) {
			t.Fatalf("on day %d it opens: %v", day, err)
		}
		if n := len(keys.all); n > 8 || !keys.all[n-1].made.Equal(now) {
			t.Fatalf("%d generations on day %d, the newest of %v", n, day, keys.all[n-1].made)
		}
		mem = keys.fs.(*vfs.Mem)
	}
}

// TestSealed: what is changed, passed on or sealed to another does not open as what it was.
func TestSealed(t *testing.T) {
	keys := testKeys(t, keyNumber(2), birth)
	_, bundle := keys.newest()
	sealed, err := sealTo(keyNumber(1), bundle, []byte("an envelope"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, _, err := keys.open(bad); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("with byte %d changed: %v", i, err)
		}
	}
	for n := range len(sealed) {
		if _, _, err := keys.open(sealed[:n]); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	if _, _, err := testKeys(t, keyNumber(3), birth).open(sealed); !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
	// The recipient opens it, and seals what is in it to a third as if it were from the first: the signature names whom it was for.
	third := testKeys(t, keyNumber(3), birth)
	_, other := third.newest()
	_, envelope, err := keys.open(sealed)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := sealTo(keyNumber(2), other, envelope)
	if err != nil {
		t.Fatal(err)
	}
	if from, _, err := third.open(forged); err != nil || from != idB {
		t.Fatal("it is from who sealed it", from, err)
	}
	// A third says that it is from the first: it names its key, and cannot sign for it. Nor does a signature of the first for another do.
	point, err := ecdh.X25519().NewPublicKey(bundle.prekey[:])
	if err != nil {
		t.Fatal(err)
	}
	public, err := hpke.NewDHKEMPublicKey(point)
	if err != nil {
		t.Fatal(err)
	}
	for _, signer := range []byte{3, 1} {
		enc, sender, err := hpke.NewSender(public, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(sealedDomain))
		if err != nil {
			t.Fatal(err)
		}
		head := append(bytes.Clone(sealed[:37]), enc...)
		signed := signedOf(head, []byte("forged"))
		if signer == 1 {
			signed = signedOf(sealed[:sealedHead], []byte("forged")) // by another encapsulated key: of another message
		}
		sig, err := keyNumber(signer).Sign(sealedDomain, signed)
		if err != nil {
			t.Fatal(err)
		}
		from := keyNumber(1).Public()
		body, err := sender.Seal(head, append(append(from[:], sig[:]...), "forged"...))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := keys.open(append(head, body...)); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("signed by %d it was taken: %v", signer, err)
		}
	}
}

// TestBundle: a bundle that is changed, or holds for too long, is none.
func TestBundle(t *testing.T) {
	keys := testKeys(t, keyNumber(2), birth)
	_, b := keys.newest()
	if b.key != keyNumber(2).Public() || !b.made.Equal(birth) || b.until.Sub(b.made) != sealFor || len(b.raw) != bundleSize {
		t.Fatalf("%+v", b)
	}
	for i := range b.raw {
		bad := bytes.Clone(b.raw)
		bad[i] ^= 1
		if _, err := decodeBundle(bad); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("with byte %d changed: %v", i, err)
		}
	}
	if _, err := decodeBundle(b.raw[:len(b.raw)-1]); !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
}

// TestKeysCrash: the power fails at each operation while keys are turned. The keys of before or those after it are there, whole.
func TestKeysCrash(t *testing.T) {
	for n := 0; ; n++ {
		mem := vfs.NewMem()
		keysIn(t, mem, keyNumber(2), birth)
		hit := false
		nth := vfs.FailNth(n, errors.New("no power"))
		keys, err := openKeyring(vfs.Hook(mem, func(op vfs.Op) error {
			err := nth(op)
			hit = hit || err != nil
			if hit {
				return errors.New("no power")
			}
			return nil
		}), "/d", keyNumber(2), testBox(), birth.Add(48*time.Hour))
		if err == nil && hit {
			t.Fatal("a failure was not said")
		}
		if err == nil && len(keys.all) != 2 {
			t.Fatal(len(keys.all))
		}
		after := keysIn(t, mem.Crash(nil), keyNumber(2), birth.Add(48*time.Hour))
		if len(after.all) != 2 || after.all[0].number != 1 {
			t.Fatalf("operation %d: %d generations", n, len(after.all))
		}
		if !hit {
			if n < 5 {
				t.Fatalf("there were %d operations", n)
			}
			return
		}
	}
}
