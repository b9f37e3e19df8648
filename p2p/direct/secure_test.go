package direct

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
)

// secured2 is both ends of a secured stream between two hosts.
func secured2(t *testing.T, keysA, keysB *keyring, now time.Time) (a, b *secured, errs [2]error) {
	t.Helper()
	ha, hb := newHost(t, keyNumber(1)), newHost(t, keyNumber(2))
	meet(ha, hb)
	done := make(chan struct{})
	hb.SetStreamHandler("/test", func(s network.Stream) {
		b, errs[1] = secure(s, keysB, false, now)
		if errs[1] != nil {
			s.Reset()
		}
		close(done)
	})
	s, err := ha.NewStream(soon(t), hb.ID(), "/test")
	if err != nil {
		t.Fatal(err)
	}
	if a, errs[0] = secure(s, keysA, true, now); errs[0] != nil {
		s.Reset()
	}
	<-done
	return a, b, errs
}

// TestRekey: records are read also after their keys have changed, and with the keys of before they are not.
func TestRekey(t *testing.T) {
	a, b, errs := secured2(t, testKeys(t, keyNumber(1), birth), testKeys(t, keyNumber(2), birth), birth)
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	const n = rekeyAfter + 5
	sent := make(chan error, 1)
	go func() {
		buf := new(record)
		for i := range n {
			if err := a.write(buf, []byte{byte(i)}, time.Minute); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	buf := new(record)
	first := b.get.UnsafeKey()
	for i := range n {
		size, err := b.next(time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := b.read(buf, size, time.Minute)
		if err != nil || len(plain) != 1 || plain[0] != byte(i) {
			t.Fatal(i, plain, err)
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if b.get.UnsafeKey() == first || a.send.UnsafeKey() != b.get.UnsafeKey() {
		t.Fatal("the key is the one of the beginning")
	}
	// What is between the two can change a record; it does not open.
	if _, err := a.stream.Write(append([]byte{0, 40}, make([]byte, 40)...)); err != nil {
		t.Fatal(err)
	}
	size, err := b.next(time.Minute)
	if err != nil || size != 40 {
		t.Fatal(size, err)
	}
	if _, err := b.read(buf, size, time.Minute); !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
	if err := a.stream.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.next(time.Minute); err != io.EOF {
		t.Fatal(err)
	}
}

// TestHandshakeRefused: the keys of another, keys of another time, and static keys that are not those of the bundle.
func TestHandshakeRefused(t *testing.T) {
	right := testKeys(t, keyNumber(2), birth)
	if _, _, errs := secured2(t, testKeys(t, keyNumber(3), birth), right, birth); !errors.Is(errs[1], ErrCorrupt) || errs[0] == nil {
		t.Error(errs)
	}
	if _, _, errs := secured2(t, testKeys(t, keyNumber(1), birth.Add(-30*24*time.Hour)), right, birth); !errors.Is(errs[1], ErrDenied) {
		t.Error(errs)
	}
	stolen := testKeys(t, keyNumber(1), birth) // the bundle is A's, the secret another's
	stolen.all[0].static = testKeys(t, keyNumber(1), birth).all[0].static
	if _, _, errs := secured2(t, stolen, right, birth); errs[1] == nil || errs[0] == nil {
		t.Error(errs)
	}
}
