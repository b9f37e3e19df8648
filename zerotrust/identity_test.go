package zerotrust_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"flag"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust"
)

var freeze = flag.Bool("freeze", false, "write the fixtures of testdata/v1 anew: only while version 1 is not released")

// epoch is when the tests' documents begin.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// keyOf is a key of the tests, by its number.
func keyOf(n byte) seal.Key {
	k, err := seal.KeyFromSeed(bytes.Repeat([]byte{n}, 32))
	if err != nil {
		panic(err)
	}
	return k
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// document is an identity of a key, signed by an issuer for a year.
func document(t testing.TB, key, issuer seal.Key, attrs ...zerotrust.Attribute) []byte {
	t.Helper()
	d := zerotrust.Identity{Kind: "peer", Key: key.Public(), Issuer: issuer.Public(), NotBefore: epoch, Expires: epoch.Add(zerotrust.DefaultLife), Attributes: attrs}
	doc, err := d.Sign(issuer)
	must(t, err)
	return doc
}

// TestPeerID: the id is libp2p's, by the vector of its specification (peer-ids.md), which gives the same id in base58 and as a CID.
func TestPeerID(t *testing.T) {
	const id, cid = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA", "bafzaajaiaejcal72gwuz2or47oyxxn6b3rkwdmmkrxgkjxzy3rqt5kczyn7lcm3l"
	raw, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ToUpper(cid[1:]))
	must(t, err)
	key, err := zerotrust.ParseID(id)
	must(t, err)
	if !bytes.Equal(raw[len(raw)-32:], key[:]) {
		t.Errorf("the key is %x, the CID has %x", key, raw[len(raw)-32:])
	}
	for _, k := range []seal.PublicKey{key, {}, {31: 1}, seal.PublicKey(bytes.Repeat([]byte{0xff}, 32)), keyOf(1).Public()} {
		got := zerotrust.IDOf(k)
		if len(got) != 52 || !strings.HasPrefix(got, "12D3KooW") {
			t.Errorf("id %q", got)
		}
		if back, err := zerotrust.ParseID(got); err != nil || back != k {
			t.Errorf("%s is read as %x: %v", got, back, err)
		}
	}
	if got := zerotrust.IDOf(key); got != id {
		t.Errorf("the id is %s, not %s", got, id)
	}
	for _, bad := range []string{"", id[1:], id + "1", "0" + id[1:], "2" + id[1:], "1" + id[:51], "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", strings.Repeat("z", 52), strings.Repeat("1", 52)} {
		if _, err := zerotrust.ParseID(bad); !errors.Is(err, zerotrust.ErrCorrupt) {
			t.Errorf("id %q: %v", bad, err)
		}
	}
}

func TestIdentityRoundTrip(t *testing.T) {
	issuer, key := keyOf(1), keyOf(2)
	d := zerotrust.Identity{
		Kind: "agent", Key: key.Public(), Issuer: issuer.Public(), NotBefore: epoch, Expires: epoch.Add(time.Hour),
		Attributes: []zerotrust.Attribute{{Name: "team", Value: "payments"}, {Name: "roles", Value: "reader,operator"}, {Name: "note", Value: ""}},
	}
	doc, err := d.Sign(issuer)
	must(t, err)
	got, err := zerotrust.VerifyDocument(doc)
	must(t, err)
	if !slices.IsSortedFunc(got.Attributes, func(a, b zerotrust.Attribute) int { return strings.Compare(a.Name, b.Name) }) || len(got.Attributes) != 3 {
		t.Errorf("attributes %v", got.Attributes)
	}
	if got.Kind != "agent" || got.Key != key.Public() || got.Issuer != issuer.Public() || !got.NotBefore.Equal(epoch) || !got.Expires.Equal(d.Expires) || got.ID() != zerotrust.IDOf(key.Public()) {
		t.Errorf("%+v", got)
	}
	again, err := got.Sign(issuer)
	must(t, err)
	if !bytes.Equal(again, doc) {
		t.Error("what was decoded is signed as other bytes")
	}
	if _, err := d.Sign(key); err == nil {
		t.Error("signed by a key that is not the issuer's")
	}
}

// TestIdentityRefused: each rule of the form, by an identity that breaks it alone.
func TestIdentityRefused(t *testing.T) {
	k := keyOf(1)
	good := zerotrust.Identity{Kind: "peer", Key: keyOf(2).Public(), Issuer: k.Public(), NotBefore: epoch, Expires: epoch.Add(time.Hour)}
	attr := func(as ...zerotrust.Attribute) func(*zerotrust.Identity) {
		return func(d *zerotrust.Identity) { d.Attributes = as }
	}
	many := func(d *zerotrust.Identity) {
		for i := range zerotrust.MaxAttributes + 1 {
			d.Attributes = append(d.Attributes, zerotrust.Attribute{Name: "a" + strings.Repeat("b", i)})
		}
	}
	large := func(d *zerotrust.Identity) {
		for i := range zerotrust.MaxAttributes {
			d.Attributes = append(d.Attributes, zerotrust.Attribute{Name: "a" + strings.Repeat("b", i), Value: strings.Repeat("v", 256)})
		}
	}
	for what, change := range map[string]func(*zerotrust.Identity){
		"no kind":               func(d *zerotrust.Identity) { d.Kind = "" },
		"another kind":          func(d *zerotrust.Identity) { d.Kind = "king" },
		"ends before it begins": func(d *zerotrust.Identity) { d.Expires = d.NotBefore },
		"holds for ever":        func(d *zerotrust.Identity) { d.Expires = d.NotBefore.Add(11 * zerotrust.DefaultLife) },
		"before 1970":           func(d *zerotrust.Identity) { d.NotBefore = time.Unix(-1, 0) },
		"no name":               attr(zerotrust.Attribute{Name: ""}),
		"a name in capitals":    attr(zerotrust.Attribute{Name: "Team"}),
		"a long name":           attr(zerotrust.Attribute{Name: strings.Repeat("a", 65)}),
		"a name twice":          attr(zerotrust.Attribute{Name: "a", Value: "1"}, zerotrust.Attribute{Name: "a", Value: "2"}),
		"a long value":          attr(zerotrust.Attribute{Name: "a", Value: strings.Repeat("v", 257)}),
		"a line end":            attr(zerotrust.Attribute{Name: "a", Value: "x\ny"}),
		"no text":               attr(zerotrust.Attribute{Name: "a", Value: "\xff"}),
		"too many":              many,
		"too large":             large,
		"roles of his own": func(d *zerotrust.Identity) {
			d.Key = d.Issuer
			d.Attributes = []zerotrust.Attribute{{Name: "roles", Value: "admin"}}
		},
		"a small key": func(d *zerotrust.Identity) { d.Key = seal.PublicKey{0: 1} },
	} {
		d := good
		change(&d)
		if _, err := d.Sign(k); !errors.Is(err, zerotrust.ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := good.Sign(k); err != nil {
		t.Error(err)
	}
}

// TestIdentityDamage: a document with any one bit changed, cut anywhere, or with something behind it, is none.
func TestIdentityDamage(t *testing.T) {
	doc := document(t, keyOf(2), keyOf(1), zerotrust.Attribute{Name: "team", Value: "payments"})
	for i := range doc {
		for bit := range 8 {
			bad := bytes.Clone(doc)
			bad[i] ^= 1 << bit
			if _, err := zerotrust.VerifyDocument(bad); !errors.Is(err, zerotrust.ErrCorrupt) && !errors.Is(err, zerotrust.ErrDenied) {
				t.Fatalf("bit %d of byte %d: %v", bit, i, err)
			}
		}
		if _, err := zerotrust.VerifyDocument(doc[:i]); err == nil {
			t.Fatalf("cut to %d bytes it is taken", i)
		}
	}
	if _, err := zerotrust.VerifyDocument(append(bytes.Clone(doc), 0)); err == nil {
		t.Error("with a byte behind it it is taken")
	}
}

// TestSmallOrder: the keys that are refused are the whole torsion subgroup, reckoned here anew on the curve, in both signs, and what is
// not canonical.
func TestSmallOrder(t *testing.T) {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	mod := func(x *big.Int) *big.Int { return x.Mod(x, p) }
	inv := func(x int64) *big.Int { return new(big.Int).ModInverse(big.NewInt(x), p) }
	d := mod(new(big.Int).Mul(big.NewInt(-121665), inv(121666)))
	// A point has order 8 where its double has order 4: y = 0. Doubling gives y' = (y^2 + x^2) / (1 - d x^2 y^2), so y^2 = -x^2, and the
	// curve -x^2 + y^2 = 1 + d x^2 y^2 becomes 2 y^2 = 1 - d y^4.
	order8 := func(y *big.Int) bool {
		y2 := mod(new(big.Int).Mul(y, y))
		left := new(big.Int).Mul(d, mod(new(big.Int).Mul(y2, y2)))
		return mod(left.Add(left, y2).Add(left, y2).Sub(left, big.NewInt(1))).Sign() == 0
	}
	le := func(y *big.Int) (k seal.PublicKey) {
		b := y.FillBytes(make([]byte, 32))
		slices.Reverse(b)
		copy(k[:], b)
		return k
	}
	issuer := keyOf(1)
	refused := func(k seal.PublicKey) bool {
		i := zerotrust.Identity{Kind: "peer", Key: k, Issuer: issuer.Public(), NotBefore: epoch, Expires: epoch.Add(time.Hour)}
		_, err := i.Sign(issuer)
		return errors.Is(err, zerotrust.ErrCorrupt)
	}
	ys := []*big.Int{big.NewInt(1), big.NewInt(0), new(big.Int).Sub(p, big.NewInt(1))}
	for _, hex := range []string{"05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826", "7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd84d3d706a17c7"} {
		y, _ := new(big.Int).SetString(hex, 16)
		if !order8(y) {
			t.Errorf("%s is not of order 8", hex)
		}
		ys = append(ys, y)
	}
	for _, y := range append(ys, p, new(big.Int).Add(p, big.NewInt(1)), new(big.Int).Add(p, big.NewInt(18))) {
		k := le(y)
		signed := k
		signed[31] |= 0x80
		if !refused(k) || !refused(signed) {
			t.Errorf("y = %x is taken", y)
		}
	}
	if order8(big.NewInt(7)) || refused(keyOf(9).Public()) {
		t.Error("any key is refused")
	}
}

func revoke(t testing.TB, issuer seal.Key, number uint64, entries ...zerotrust.Revocation) []byte {
	t.Helper()
	l := zerotrust.RevocationList{Issuer: issuer.Public(), Number: number, Issued: epoch, Entries: entries}
	raw, err := l.Sign(issuer)
	must(t, err)
	return raw
}

func TestRevocationList(t *testing.T) {
	issuer := keyOf(1)
	raw := revoke(t, issuer, 7,
		zerotrust.Revocation{Document: sha256.Sum256([]byte("doc")), At: epoch, Reason: "wrong roles"},
		zerotrust.Revocation{Principal: zerotrust.IDOf(keyOf(3).Public()), At: epoch, Reason: "stolen"},
		zerotrust.Revocation{Principal: "person-17", At: epoch})
	l, err := zerotrust.DecodeRevocations(raw)
	must(t, err)
	if l.Number != 7 || len(l.Entries) != 3 || l.Entries[1].Principal != "person-17" || l.Entries[2].Reason != "wrong roles" {
		t.Errorf("%+v", l)
	}
	if again, err := l.Sign(issuer); err != nil || !bytes.Equal(again, raw) {
		t.Errorf("signed again it is another: %v", err)
	}
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 0x10
		if _, err := zerotrust.DecodeRevocations(bad); err == nil {
			t.Fatalf("byte %d changed: it is taken", i)
		}
		if _, err := zerotrust.DecodeRevocations(raw[:i]); err == nil {
			t.Fatalf("cut to %d bytes it is taken", i)
		}
	}
	for what, l := range map[string]zerotrust.RevocationList{
		"no number": {Issuer: issuer.Public(), Issued: epoch},
		"twice":     {Issuer: issuer.Public(), Number: 1, Issued: epoch, Entries: []zerotrust.Revocation{{Principal: "a", At: epoch}, {Principal: "a", At: epoch}}},
		"a blank":   {Issuer: issuer.Public(), Number: 1, Issued: epoch, Entries: []zerotrust.Revocation{{Principal: "a b", At: epoch}}},
	} {
		if _, err := l.Sign(issuer); !errors.Is(err, zerotrust.ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestFixtures: what version 1 has written is read, and is written the same.
func TestFixtures(t *testing.T) {
	doc := document(t, keyOf(2), keyOf(1), zerotrust.Attribute{Name: "region", Value: "eu"}, zerotrust.Attribute{Name: "roles", Value: "reader"})
	list := revoke(t, keyOf(1), 3, zerotrust.Revocation{Principal: zerotrust.IDOf(keyOf(3).Public()), At: epoch, Reason: "stolen"})
	for name, want := range map[string][]byte{"identity.qid": doc, "revocations.qrl": list} {
		path := filepath.Join("testdata", "v1", name)
		if *freeze {
			must(t, os.WriteFile(path, want, 0o666))
		}
		have, err := os.ReadFile(path)
		must(t, err)
		if !bytes.Equal(have, want) {
			t.Errorf("%s is written otherwise now", name)
		}
		if strings.HasSuffix(name, "qid") {
			_, err = zerotrust.VerifyDocument(have)
		} else {
			_, err = zerotrust.DecodeRevocations(have)
		}
		must(t, err)
	}
}

// FuzzDocument: whatever is decoded is encoded as the very same bytes, so no identity has two forms. Revocations and challenges, which
// come from outside as well, are read beside.
func FuzzDocument(f *testing.F) {
	f.Add(document(f, keyOf(2), keyOf(1), zerotrust.Attribute{Name: "team", Value: "payments"}, zerotrust.Attribute{Name: "zone", Value: "b"}))
	f.Add(document(f, keyOf(1), keyOf(1)))
	f.Add(revoke(f, keyOf(1), 3, zerotrust.Revocation{Principal: "x", At: epoch, Reason: "stolen"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := zerotrust.Decode(b); err == nil {
			// The signature cannot be made again without the issuer's key: another issuer's in its place changes 32 bytes and the last 64.
			k := keyOf(200)
			if d.SelfSigned() {
				d.Key = k.Public()
			}
			d.Issuer = k.Public()
			again, err := d.Sign(k)
			if err != nil {
				t.Fatalf("decoded, but cannot be signed: %v", err)
			}
			n := len(again) - seal.SignatureSize
			if len(again) != len(b) || !bytes.Equal(again[:6], b[:6]) || !bytes.Equal(again[70:n], b[70:n]) {
				t.Fatalf("%x is written as %x", b, again)
			}
		} else if !errors.Is(err, zerotrust.ErrCorrupt) {
			t.Fatal(err)
		}
		if l, err := zerotrust.DecodeRevocations(b); err == nil && len(l.Entries) > zerotrust.MaxRevocations {
			t.Fatal("too many entries")
		}
		_, _ = zerotrust.Answer(keyOf(1), make([]byte, 16), b)
	})
}
