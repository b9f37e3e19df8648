package seal

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oasisprotocol/curve25519-voi/curve"
	"github.com/oasisprotocol/curve25519-voi/curve/scalar"
	voi "github.com/oasisprotocol/curve25519-voi/primitives/ed25519"
)

// signed is a signature as verifiers get it.
type signed struct {
	key       PublicKey
	message   []byte
	signature Signature
}

// verdicts verifies each in every way there is, which must say the same, and returns it: true is good.
func verdicts(t *testing.T, all []signed, o *voi.Options) []bool {
	t.Helper()
	held := NewKeyCache(0)
	plain, cached := Batch{}, Batch{Cache: held}
	for _, s := range all {
		held.Hold(s.key)
		plain.add(s.key, s.message, s.signature, o)
		cached.add(s.key, s.message, s.signature, o)
	}
	inPlain, inCached := plain.Verify(), cached.Verify()
	out := make([]bool, len(all))
	for i, s := range all {
		single := verifyBy(nil, s.key, s.message, s.signature, o)
		alone := Batch{}
		alone.add(s.key, s.message, s.signature, o)
		for how, got := range map[string]bool{
			"by its expanded key":           verifyBy(held, s.key, s.message, s.signature, o),
			"in a batch":                    !slices.Contains(inPlain, i),
			"in a batch, its key expanded":  !slices.Contains(inCached, i),
			"in a batch of its own":         alone.Verify() == nil,
			"by a cache that has nothing":   verifyBy(NewKeyCache(0), s.key, s.message, s.signature, o),
			"in two batches, by the second": again(s, o),
		} {
			if got != single {
				t.Errorf("signature %d of %x: %v alone, %v %s", i, s.key, single, got, how)
			}
		}
		out[i] = single
	}
	return out
}

// again verifies by a batch that was used.
func again(s signed, o *voi.Options) bool {
	var b Batch
	b.add(PublicKey{}, nil, Signature{}, o)
	if len(b.Verify()) != 1 || b.Len() != 0 {
		return false
	}
	b.add(s.key, s.message, s.signature, o)
	return b.Verify() == nil
}

// TestSpeccheck: the cases of Chalkias, Garillot and Nikolaenko, "Taming the many EdDSAs" (2020), table 5; the file is
// ed25519-speccheck's cases.json.
func TestSpeccheck(t *testing.T) {
	raw, err := os.ReadFile("testdata/speccheck.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Message, Signature string
		Key                string `json:"pub_key"`
	}
	if err := json.Unmarshal(raw, &cases); err != nil {
		t.Fatal(err)
	}
	want := []bool{
		false, false, // a key of small order
		true, true, // a key of mixed order, R of small and of mixed order
		true, true, // good only with the cofactor, reduced before and after
		false, false, // S not below the group's order
		false, false, // R not canonical
		false, false, // a key not canonical
	}
	if len(cases) != len(want) {
		t.Fatalf("%d cases", len(cases))
	}
	var all []signed
	for _, c := range cases {
		s := signed{message: unhex(t, c.Message)}
		copy(s.key[:], unhex(t, c.Key))
		copy(s.signature[:], unhex(t, c.Signature))
		all = append(all, s)
	}
	got := verdicts(t, all, &voi.Options{Verify: rule})
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("case %d: %v", i, got[i])
		}
	}
	// The standard library's rule is another, which is why it verifies nothing of ours.
	differ := 0
	for i, s := range all {
		if ed25519.Verify(s.key[:], s.message, s.signature[:]) != got[i] {
			differ++
		}
	}
	if differ != 5 {
		t.Errorf("the two rules differ on %d cases", differ)
	}
}

// TestRFC8032: Ed25519ctx (section 7.2) and Ed25519ph (7.3).
func TestRFC8032(t *testing.T) {
	for _, v := range []struct{ seed, domain, message, signature string }{
		{"0305334e381af78f141cb666f6199f57bc3495335a256a95bd2a55bf546663f6", "foo", "f726936d19c800494e3fdaff20b276a8",
			"55a4cc2f70a54e04288c5f4cd1e45a7bb520b36292911876cada7323198dd87a8b36950b95130022907a7fb7c4e9b2d5f6cca685a587b4b21f4b888e4e7edb0d"},
		{"0305334e381af78f141cb666f6199f57bc3495335a256a95bd2a55bf546663f6", "bar", "f726936d19c800494e3fdaff20b276a8",
			"fc60d5872fc46b3aa69f8b5b4351d5808f92bcc044606db097abab6dbcb1aee3216c48e8b3b66431b5b186d1d28f8ee15a5ca2df6668346291c2043d4eb3e90d"},
		{"0305334e381af78f141cb666f6199f57bc3495335a256a95bd2a55bf546663f6", "foo", "508e9e6882b979fea900f62adceaca35",
			"8b70c1cc8310e1de20ac53ce28ae6e7207f33c3295e03bb5c0732a1d20dc64908922a8b052cf99b7c4fe107a5abb5b2c4085ae75890d02df26269d8945f84b0b"},
		{"ab9c2853ce297ddab85c993b3ae14bcad39b2c682beabc27d6d4eb20711d6560", "foo", "f726936d19c800494e3fdaff20b276a8",
			"21655b5f1aa965996b3f97b3c849eafba922a0a62992f73b3d1b73106a84ad85e9b86a7b6005ea868337ff2d20a7f5fbd4cd10b0be49a68da2b2e0dc0ad8960f"},
	} {
		k, err := KeyFromSeed(unhex(t, v.seed))
		if err != nil {
			t.Fatal(err)
		}
		s, err := k.Sign(v.domain, unhex(t, v.message))
		if err != nil || hex.EncodeToString(s[:]) != v.signature {
			t.Errorf("%s: %x %v", v.domain, s, err)
		}
		if got := verdicts(t, []signed{{k.Public(), unhex(t, v.message), s}}, &voi.Options{Context: v.domain, Verify: rule}); !got[0] {
			t.Errorf("%s: it does not verify", v.domain)
		}
	}
	k, err := KeyFromSeed(unhex(t, "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42"))
	if err != nil {
		t.Fatal(err)
	}
	digest := sha512.Sum512([]byte("abc"))
	var s Signature
	copy(s[:], unhex(t, "98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae4131f85042463c2a355a2003d062adf5aaa10b8c61e636062aaad11c2a26083406"))
	if got := verdicts(t, []signed{{k.Public(), digest[:], s}}, &voi.Options{Hash: crypto.SHA512, Verify: rule}); !got[0] {
		t.Error("Ed25519ph: it does not verify")
	}
}

// torsion are the points of small order: the multiples of one of order 8.
func torsion(t testing.TB) []*curve.EdwardsPoint {
	t.Helper()
	one := point(t, "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")
	all := []*curve.EdwardsPoint{curve.NewEdwardsPoint()}
	for i := range 7 {
		all = append(all, curve.NewEdwardsPoint().Add(all[i], one))
	}
	if !curve.NewEdwardsPoint().Add(all[7], one).IsIdentity() || all[4].IsIdentity() {
		t.Fatal("the point is not of order 8")
	}
	return all
}

func point(t testing.TB, encoded string) *curve.EdwardsPoint {
	t.Helper()
	c, err := curve.NewCompressedEdwardsYFromBytes(unhex(t, encoded))
	if err != nil {
		t.Fatal(err)
	}
	p, err := curve.NewEdwardsPoint().SetCompressedY(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// crafted is how a signature is made that honest signers never make.
type crafted struct {
	secret, nonce byte   // of the key and of R; 0 leaves the torsion alone
	onKey, onR    int    // the point of small order that is added
	malleable     bool   // S plus the order of the group
	flip          int    // a bit of S that is turned over, above 0
	message       []byte // of this
	domain        string // in this
}

// make makes it, and says whether our rule takes it.
func (c crafted) make(t testing.TB, torsion []*curve.EdwardsPoint) (signed, bool) {
	t.Helper()
	a, r := scalar.NewFromUint64(uint64(c.secret)*7919), scalar.NewFromUint64(uint64(c.nonce)*104729)
	encode := func(s *scalar.Scalar, add *curve.EdwardsPoint) []byte {
		p := curve.NewEdwardsPoint().MulBasepoint(curve.ED25519_BASEPOINT_TABLE, s)
		raw, err := p.Add(p, add).MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	var s signed
	s.message = c.message
	copy(s.key[:], encode(a, torsion[c.onKey]))
	copy(s.signature[:32], encode(r, torsion[c.onR]))
	h := sha512.New()
	h.Write([]byte("SigEd25519 no Ed25519 collisions\x00")) // dom2 (RFC 8032 section 2)
	h.Write([]byte{byte(len(c.domain))})
	h.Write([]byte(c.domain))
	h.Write(s.signature[:32])
	h.Write(s.key[:])
	h.Write(s.message)
	k, err := scalar.NewFromBytesModOrderWide(h.Sum(nil))
	if err != nil {
		t.Fatal(err)
	}
	S := scalar.New().Mul(k, a)
	if err := S.Add(S, r).ToBytes(s.signature[32:]); err != nil {
		t.Fatal(err)
	}
	if c.malleable {
		addOrder(s.signature[32:])
	}
	if c.flip > 0 {
		s.signature[32+c.flip/8%31] ^= 1 << (c.flip % 8)
	}
	return s, c.secret != 0 && !c.malleable && c.flip == 0
}

// addOrder adds the order of the group of the base point, 2^252 + 27742317777372353535851937790883648493.
func addOrder(le []byte) {
	order := [32]byte{0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 31: 0x10}
	carry := 0
	for i := range le {
		carry += int(le[i]) + int(order[i])
		le[i] = byte(carry)
		carry >>= 8
	}
}

// TestCrafted: every pair of points of small order on the key and on R, and what must be refused.
func TestCrafted(t *testing.T) {
	points := torsion(t)
	var all []signed
	var want []bool
	add := func(c crafted) {
		c.message, c.domain = []byte("a message"), "test v1"
		s, good := c.make(t, points)
		all, want = append(all, s), append(want, good)
	}
	for onKey := range points {
		for onR := range points {
			add(crafted{secret: 3, nonce: 5, onKey: onKey, onR: onR})
		}
		add(crafted{secret: 3, onKey: onKey, onR: 3}) // R itself of small order
		add(crafted{nonce: 5, onKey: onKey})          // the key itself of small order
		add(crafted{secret: 3, nonce: 5, onKey: onKey, malleable: true})
		add(crafted{secret: 3, nonce: 5, onKey: onKey, flip: 9})
	}
	// The identity as R and as a key, written as p+1, is not canonical.
	identity := unhex(t, "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")
	s, _ := crafted{secret: 3, message: []byte("a message"), domain: "test v1"}.make(t, points)
	copy(s.signature[:], identity)
	all, want = append(all, s), append(want, false)
	copy(s.key[:], identity)
	all, want = append(all, s), append(want, false)

	for i, got := range verdicts(t, all, &voi.Options{Context: "test v1", Verify: rule}) {
		if got != want[i] {
			t.Errorf("signature %d of %x: %v", i, all[i].key, got)
		}
	}
}

// FuzzAgree: all ways to verify say the same, and what they say is what the signature was made to be.
func FuzzAgree(f *testing.F) {
	points := torsion(f)
	f.Add([]byte("\x03\x05\x00\x00\x00\x00"))                         // honest
	f.Add([]byte("\x03\x05\x04\x00\x00\x00\x03\x05\x01\x07\x00\x00")) // torsion
	f.Add([]byte("\x00\x05\x01\x00\x00\x00\x03\x05\x00\x00\x01\x00\x03\x05\x00\x00\x00\x09"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var all []signed
		var want []bool
		for len(in) >= 6 && len(all) < 6 {
			c := crafted{secret: in[0], nonce: in[1], onKey: int(in[2] % 8), onR: int(in[3] % 8), malleable: in[4]&1 != 0, flip: int(in[5]), message: in[4:6], domain: "fuzz v1"}
			in = in[6:]
			s, good := c.make(t, points)
			all, want = append(all, s), append(want, good)
		}
		if len(in) > 0 && len(all) > 0 { // and bytes of any kind
			s := all[0]
			copy(s.signature[:], in)
			all, want = append(all, s), append(want, want[0] && s.signature == all[0].signature)
		}
		for i, got := range verdicts(t, all, &voi.Options{Context: "fuzz v1", Verify: rule}) {
			if got != want[i] {
				t.Errorf("signature %d of %x: %v", i, all[i].key, got)
			}
		}
	})
}

// fleet is n signatures, each by a key of its own.
func fleet(t testing.TB, n int) []signed {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	out := make([]signed, n)
	for i := range out {
		seed := make([]byte, ed25519.SeedSize)
		for j := range seed {
			seed[j] = byte(rng.Uint32())
		}
		k, err := KeyFromSeed(seed)
		if err != nil {
			t.Fatal(err)
		}
		m := bytes.Repeat([]byte{byte(i)}, 100)
		s, err := k.Sign("test v1", m)
		if err != nil {
			t.Fatal(err)
		}
		out[i] = signed{k.Public(), m, s}
	}
	return out
}

// TestBatch: the bad ones are named, wherever they are and however many.
func TestBatch(t *testing.T) {
	all := fleet(t, 200)
	for _, n := range []int{1, 2, 64, 95, 200} {
		for _, bad := range [][]int{nil, {0}, {n - 1}, {0, n / 2}} {
			b := Batch{Cache: NewKeyCache(0)}
			for i, s := range all[:n] {
				if slices.Contains(bad, i) {
					s.signature[0] ^= 1
				}
				b.Add("test v1", s.key, s.message, s.signature)
			}
			if b.Len() != n {
				t.Errorf("%d in it, not %d", b.Len(), n)
			}
			if got := b.Verify(); !slices.Equal(got, slices.Compact(bad)) {
				t.Errorf("%d with %v bad: %v", n, bad, got)
			}
		}
	}
	b := Batch{}
	b.Add("test v1", all[0].key, all[0].message, all[0].signature)
	b.Add("test v2", all[1].key, all[1].message, all[1].signature)
	b.Add("", all[2].key, all[2].message, all[2].signature)
	b.Add(string(make([]byte, 256)), all[3].key, all[3].message, all[3].signature)
	if got := b.Verify(); !slices.Equal(got, []int{1, 2, 3}) {
		t.Errorf("another domain and none: %v are bad", got)
	}
	if b.Verify() != nil {
		t.Error("an empty batch has bad ones")
	}
}

// TestKeyCache: what gets in, and that no stranger gets a held key out.
func TestKeyCache(t *testing.T) {
	all := fleet(t, 12)
	verify := func(c *KeyCache, s signed) {
		t.Helper()
		if err := c.Verify("test v1", s.key, s.message, s.signature); err != nil {
			t.Fatal(err)
		}
	}
	c := NewKeyCache(2)
	verify(c, all[0])
	if c.get(all[0].key) != nil {
		t.Error("a key that was seen once is in the cache")
	}
	bad := all[1]
	bad.signature[0] ^= 1
	for range 3 {
		if err := c.Verify("test v1", bad.key, bad.message, bad.signature); !errors.Is(err, ErrSignature) {
			t.Error(err)
		}
	}
	if c.get(bad.key) != nil || c.once[bad.key] {
		t.Error("a bad signature gets a key into the cache")
	}
	verify(c, all[0])
	if c.get(all[0].key) == nil {
		t.Error("a key that was seen twice is not in the cache")
	}
	if !c.Hold(all[2].key) || !c.Hold(all[3].key) || !c.Hold(all[3].key) || c.Hold(all[4].key) {
		t.Error("what is held is not what there is room for")
	}
	if c.Hold(PublicKey{2}) {
		t.Error("what is no point is held")
	}
	for _, s := range all[5:] { // a stranger with many keys
		verify(c, s)
		verify(c, s)
	}
	if c.get(all[2].key) == nil || c.get(all[3].key) == nil {
		t.Error("strangers have flushed a held key")
	}
	if c.get(all[0].key) != nil || len(c.used) > 2 || c.order.Len() != len(c.used) || len(c.once) > 2 || len(c.ring) > 2 {
		t.Errorf("%d keys used, %d in order, %d and %d once: more than there is room for", len(c.used), c.order.Len(), len(c.once), len(c.ring))
	}
	c.Release(all[2].key)
	if c.get(all[2].key) != nil || !c.Hold(all[4].key) {
		t.Error("a key that was released has its room still")
	}
	verify(c, all[5])
	verify(c, all[5])
	c.Hold(all[5].key)
	if len(c.held) != 2 {
		t.Errorf("%d held", len(c.held))
	}
}

// TestVerifier: many callers at a time each hear of their own.
func TestVerifier(t *testing.T) {
	all := fleet(t, 100)
	for _, o := range []VerifierOptions{{}, {Wait: -1}, {Size: 3, Queue: 1, Workers: 2, Cache: NewKeyCache(0)}} {
		v, err := NewVerifier(o)
		if err != nil {
			t.Fatal(err)
		}
		var wait sync.WaitGroup
		for i, s := range all {
			wait.Go(func() {
				if i%10 == 3 {
					s.signature[1] ^= 1
				}
				err := v.Verify(t.Context(), "test v1", s.key, s.message, s.signature)
				if (err != nil) != (i%10 == 3) || err != nil && !errors.Is(err, ErrSignature) {
					t.Errorf("%d: %v", i, err)
				}
			})
		}
		wait.Wait()
		v.Close()
		v.Close()
		if err := v.Verify(t.Context(), "test v1", all[0].key, all[0].message, all[0].signature); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
	for _, o := range []VerifierOptions{{Size: -1}, {Queue: 1<<20 + 1}, {Workers: -1}} {
		if _, err := NewVerifier(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

// TestVerifierTime: a batch waits for its time or until it is full, in virtual time; who gives up is let go, who closes waits for nobody.
func TestVerifierTime(t *testing.T) {
	all := fleet(t, 4)
	synctest.Test(t, func(t *testing.T) {
		v, err := NewVerifier(VerifierOptions{Size: 2, Wait: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		verify := func(ctx context.Context, s signed) <-chan error {
			c := make(chan error, 1)
			go func() { c <- v.Verify(ctx, "test v1", s.key, s.message, s.signature) }()
			return c
		}
		if err := <-verify(t.Context(), all[0]); err != nil || time.Since(begin) != time.Second {
			t.Errorf("one alone: %v after %v", err, time.Since(begin))
		}
		a, b := verify(t.Context(), all[0]), verify(t.Context(), all[1])
		if err := errors.Join(<-a, <-b); err != nil || time.Since(begin) != time.Second {
			t.Errorf("a full batch: %v after %v", err, time.Since(begin))
		}
		// A worker has this one, so the end of its context changes nothing.
		ctx, cancel := context.WithCancel(t.Context())
		a = verify(ctx, all[0])
		synctest.Wait()
		cancel()
		if err := <-a; err != nil {
			t.Errorf("taken, then given up: %v", err)
		}
		if err := v.Verify(ctx, "test v1", all[0].key, all[0].message, all[0].signature); !errors.Is(err, context.Canceled) {
			t.Errorf("given up before: %v", err)
		}
		if err := v.Verify(t.Context(), "", all[0].key, nil, all[0].signature); err == nil || errors.Is(err, ErrSignature) {
			t.Errorf("no domain: %v", err)
		}
		v.Close()
		// Nobody works any more: what is queued is left.
		r := &request{answer: make(chan error, 1)}
		if err := r.leave(ErrClosed); !errors.Is(err, ErrClosed) || r.state.CompareAndSwap(waiting, taken) {
			t.Errorf("a request that was left: %v", err)
		}
	})
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// BenchmarkVerify: the standard library's rule is here for the figure alone.
func BenchmarkVerify(b *testing.B) {
	all := fleet(b, 64)
	held := NewKeyCache(0)
	for _, s := range all {
		held.Hold(s.key)
	}
	each := func(name string, verify func(signed) bool) {
		b.Run(name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				if !verify(all[i%len(all)]) {
					b.Fatal("it does not verify")
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sig/s")
		})
	}
	standard := &ed25519.Options{Context: "test v1"}
	each("standard", func(s signed) bool {
		return ed25519.VerifyWithOptions(s.key[:], s.message, s.signature[:], standard) == nil
	})
	each("single", func(s signed) bool { return s.key.Verify("test v1", s.message, s.signature) == nil })
	each("cached", func(s signed) bool { return held.Verify("test v1", s.key, s.message, s.signature) == nil })
	for _, n := range []int{2, 4, 8, 16, 64} {
		for name, c := range map[string]*KeyCache{"batch": nil, "batch-cached": held} {
			b.Run(fmt.Sprintf("%s-%d", name, n), func(b *testing.B) {
				batch := Batch{Cache: c}
				for b.Loop() {
					for _, s := range all[:n] {
						batch.Add("test v1", s.key, s.message, s.signature)
					}
					if batch.Verify() != nil {
						b.Fatal("it does not verify")
					}
				}
				b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "sig/s")
			})
		}
	}
}

// BenchmarkBatchBad: to name the bad ones of 64 by what the batch has computed, and by halving.
func BenchmarkBatchBad(b *testing.B) {
	all := fleet(b, 64)
	held := NewKeyCache(0)
	for _, s := range all {
		held.Hold(s.key)
	}
	for _, bad := range []int{0, 1, 4, 16} {
		some := slices.Clone(all)
		for i := range bad {
			some[i*len(all)/bad].signature[40] ^= 1
		}
		b.Run(fmt.Sprintf("each/bad-%d", bad), func(b *testing.B) {
			batch := Batch{Cache: held}
			for b.Loop() {
				for _, s := range some {
					batch.Add("test v1", s.key, s.message, s.signature)
				}
				if len(batch.Verify()) != bad {
					b.Fatal("others are named")
				}
			}
		})
		b.Run(fmt.Sprintf("halves/bad-%d", bad), func(b *testing.B) {
			for b.Loop() {
				if halves(held, some) != bad {
					b.Fatal("others are named")
				}
			}
		})
	}
}

// halves counts the bad ones by halving batches that do not verify. Of two halves of a bad batch the second must be bad where the first
// is good, and is halved at once.
func halves(c *KeyCache, all []signed) int {
	o := &voi.Options{Context: "test v1", Verify: rule}
	good := func(part []signed) bool {
		v := voi.NewBatchVerifierWithCapacity(len(part))
		for _, s := range part {
			v.AddExpandedWithOptions(c.get(s.key), s.message, s.signature[:], o)
		}
		return v.VerifyBatchOnly(nil)
	}
	var count func(part []signed, known bool) int
	count = func(part []signed, known bool) int {
		if !known && good(part) {
			return 0
		}
		if len(part) == 1 {
			return 1
		}
		first := count(part[:len(part)/2], false)
		return first + count(part[len(part)/2:], first == 0)
	}
	return count(all, false)
}
