package cpace

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/gtank/ristretto255"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The vectors of draft-irtf-cfrg-cpace, "Test vector for CPace using group ristretto255 and hash SHA-512".
const (
	vectorCI        = "0b415f696e69746961746f720b425f726573706f6e646572"
	vectorSID       = "7e4b4791d6a8ef019b936c79fb7f2c57"
	vectorGenerator = "222b6b195fe84b1652badb6f6a3ae3d24341e7306967f0b8115b40d5698c7e56"
	vectorSecretA   = "da3d23700a9e5699258aef94dc060dfda5ebb61f02a5ea77fad53f4ff0976d08"
	vectorSecretB   = "d2316b454718c35362d83d69df6320f38578ed5984651435e2949762d900b80d"
	vectorShareA    = "d6bac480f2c386c394efc7c47adb9925dcd2630b64f240c50f8d0eec482b9157"
	vectorShareB    = "3ea7e0b19560d7c0b0f5734f63b955286dfa8232b5ebe63324e2d9e7433f7258"
	vectorKey       = "b69effbf61b51d56401c0f65601abe428de8206feaaf0e32198896dcae7b35cd2b38950a39dfd5d4a79164614c2984f7daa460b588c1e80c3fa2068af7900447"
)

func vectorRun(t *testing.T, secret string) *Run {
	t.Helper()
	s := ristretto255.NewScalar()
	if err := s.Decode(unhex(t, secret)); err != nil {
		t.Fatal(err)
	}
	return start([]byte("Password"), unhex(t, vectorCI), unhex(t, vectorSID), s)
}

func TestVectors(t *testing.T) {
	g := generator([]byte("Password"), unhex(t, vectorCI), unhex(t, vectorSID))
	if got := hex.EncodeToString(g.Encode(nil)); got != vectorGenerator {
		t.Errorf("generator %s", got)
	}
	if n := len(generatorString([]byte("Password"), unhex(t, vectorCI), unhex(t, vectorSID))); n != 170 {
		t.Errorf("the generator's string has %d bytes, not 170", n)
	}
	a, b := vectorRun(t, vectorSecretA), vectorRun(t, vectorSecretB)
	if got := hex.EncodeToString(a.Share()); got != vectorShareA {
		t.Errorf("share of A %s", got)
	}
	if got := hex.EncodeToString(b.Share()); got != vectorShareB {
		t.Errorf("share of B %s", got)
	}
	ka, err := a.Key(true, b.Share(), []byte("ADa"), []byte("ADb"))
	if err != nil || hex.EncodeToString(ka) != vectorKey {
		t.Errorf("A's key %x, %v", ka, err)
	}
	kb, err := b.Key(false, a.Share(), []byte("ADb"), []byte("ADa"))
	if err != nil || !bytes.Equal(ka, kb) {
		t.Errorf("B's key %x, %v", kb, err)
	}
}

// TestLengths: the draft's vectors of prepend_len, at the border of one byte.
func TestLengths(t *testing.T) {
	for n, head := range map[int]string{0: "00", 127: "7f", 128: "8001"} {
		got := cat(make([]byte, n))
		if want := unhex(t, head); len(got) != n+len(want) || !bytes.HasPrefix(got, want) {
			t.Errorf("%d bytes begin with %x, not %x", n, got[:min(len(got), 2)], want)
		}
	}
}

// TestDisagree: whatever the two do not have in common, they share no key.
func TestDisagree(t *testing.T) {
	with := func(password, channel, session string, initiator bool, own, other string, share []byte, r *Run) []byte {
		k, err := r.Key(initiator, share, []byte(own), []byte(other))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	run := func(p, c, s string) *Run { return Start([]byte(p), []byte(c), []byte(s)) }
	for _, c := range []struct {
		what                                  string
		password, channel, session, own, othr string
		same                                  bool
	}{
		{"nothing", "pw", "ch", "id", "b", "a", true},
		{"the password", "pW", "ch", "id", "b", "a", false},
		{"the channel", "pw", "cH", "id", "b", "a", false},
		{"the session", "pw", "ch", "iD", "b", "a", false},
		{"its own data", "pw", "ch", "id", "B", "a", false},
		{"the other's data", "pw", "ch", "id", "b", "A", false},
	} {
		a, b := run("pw", "ch", "id"), run(c.password, c.channel, c.session)
		ka := with("pw", "ch", "id", true, "a", "b", b.Share(), a)
		kb := with(c.password, c.channel, c.session, false, c.own, c.othr, a.Share(), b)
		if bytes.Equal(ka, kb) != c.same {
			t.Errorf("they differ in %s: the same key is %v", c.what, !c.same)
		}
	}
}

// TestBadShares: no element, an element that is not in its one form, and the identity.
func TestBadShares(t *testing.T) {
	r := Start([]byte("pw"), nil, nil)
	for name, share := range map[string][]byte{
		"empty": {}, "short": make([]byte, 31), "long": make([]byte, 33), "identity": make([]byte, 32),
		"no element": bytes.Repeat([]byte{0xff}, 32), "negative": append([]byte{1}, make([]byte, 31)...),
	} {
		if _, err := r.Key(true, share, nil, nil); !errors.Is(err, ErrShare) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
