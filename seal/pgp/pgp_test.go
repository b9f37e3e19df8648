package pgp_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/quantra-l/quantra/seal/pgp"
)

func generate(t testing.TB, name string) *pgp.Key {
	t.Helper()
	k, err := pgp.Generate(pgp.Options{Name: name, Email: name + "@example.test"})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func text(t testing.TB, write func(io.Writer) error) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func secret(t testing.TB, k *pgp.Key, pass string) []byte {
	return text(t, func(w io.Writer) error { return k.WriteSecret(w, []byte(pass)) })
}

func one(t testing.TB, raw []byte) *pgp.Key {
	t.Helper()
	keys, err := pgp.ReadKeys(raw)
	if err != nil || len(keys) != 1 {
		t.Fatalf("%d keys: %v", len(keys), err)
	}
	return keys[0]
}

func encrypt(t testing.TB, message []byte, o pgp.Encryption) []byte {
	t.Helper()
	return text(t, func(w io.Writer) error {
		e, err := pgp.Encrypt(w, o)
		if err != nil {
			return err
		}
		if _, err := e.Write(message); err != nil {
			return err
		}
		return e.Close()
	})
}

func word(s string) pgp.Passphrase { return func() ([]byte, error) { return []byte(s), nil } }

// TestKeys: what is written is read, with and without its secrets, locked and unlocked.
func TestKeys(t *testing.T) {
	k := generate(t, "ada")
	if k.User() != "ada <ada@example.test>" || !k.Secret() || k.Locked() || len(k.Fingerprint()) != 40 {
		t.Errorf("%v %q", k, k.User())
	}
	public := one(t, text(t, k.WritePublic))
	if public.Fingerprint() != k.Fingerprint() || public.Secret() || public.Locked() {
		t.Errorf("%v", public)
	}
	if err := public.WriteSecret(io.Discard, nil); err == nil {
		t.Error("a secret that is not there is written")
	}
	plain := one(t, secret(t, k, ""))
	locked := one(t, secret(t, k, "correct horse"))
	if !plain.Secret() || plain.Locked() || !locked.Secret() || !locked.Locked() || k.Locked() {
		t.Errorf("locked: %v %v %v", plain.Locked(), locked.Locked(), k.Locked())
	}
	if err := locked.Unlock([]byte("wrong")); !errors.Is(err, pgp.ErrPassphrase) || !locked.Locked() {
		t.Error(err)
	}
	if err := locked.WriteSecret(io.Discard, nil); !errors.Is(err, pgp.ErrPassphrase) {
		t.Error(err)
	}
	if err := pgp.Sign(io.Discard, strings.NewReader(""), locked, pgp.Detached, false); !errors.Is(err, pgp.ErrPassphrase) {
		t.Error(err)
	}
	if err := pgp.Sign(io.Discard, strings.NewReader(""), public, pgp.Detached, false); err == nil {
		t.Error("signed without a secret")
	}
	if err := locked.Unlock([]byte("correct horse")); err != nil || locked.Locked() {
		t.Error(err)
	}
	if s := fmt.Sprintf("%v %+v %#v %d", k, k, k, k); strings.Count(s, "pgp.Key(") != 4 {
		t.Error(s)
	}
	for _, o := range []pgp.Options{{}, {Name: " "}, {Name: "a<b"}, {Name: "a\nb"}, {Name: strings.Repeat("a", 300)}, {Name: "a", Lifetime: -1}, {Name: "a", Lifetime: time.Millisecond}} {
		if _, err := pgp.Generate(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
	for name, raw := range map[string][]byte{
		"nothing": nil, "text": []byte("hello"), "half": secret(t, k, "")[:200], "a message": encrypt(t, nil, pgp.Encryption{To: []*pgp.Key{k}}),
		"too long": make([]byte, 1<<20+1), "headers without end": []byte("-----BEGIN PGP PUBLIC KEY BLOCK-----\n" + strings.Repeat("A: b\n", 20000)),
	} {
		if _, err := pgp.ReadKeys(raw); !errors.Is(err, pgp.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestEncrypt: to keys and a passphrase, signed and not, and what opens them.
func TestEncrypt(t *testing.T) {
	ada, bob, eve := generate(t, "ada"), generate(t, "bob"), generate(t, "eve")
	locked := one(t, secret(t, ada, "correct horse"))
	message := bytes.Repeat([]byte("hello\x00\r\n "), 30000)
	for _, binary := range []bool{false, true} {
		raw := encrypt(t, message, pgp.Encryption{To: []*pgp.Key{ada, bob}, Signers: []*pgp.Key{bob}, Binary: binary})
		for name, c := range map[string]struct {
			keys []*pgp.Key
			ask  pgp.Passphrase
			by   *pgp.Key
		}{
			"bob": {[]*pgp.Key{bob}, nil, bob}, "ada": {[]*pgp.Key{ada}, nil, nil}, "ada, who knows bob": {[]*pgp.Key{ada, bob}, nil, bob},
			"ada, locked": {[]*pgp.Key{one(t, secret(t, ada, "correct horse"))}, word("correct horse"), nil},
		} {
			var got bytes.Buffer
			o, err := pgp.Decrypt(&got, bytes.NewReader(raw), c.keys, c.ask)
			if err != nil || !bytes.Equal(got.Bytes(), message) || !o.Signed || !o.Encrypted || o.By != c.by {
				t.Errorf("%s: %d bytes, %+v %v", name, got.Len(), o, err)
			}
		}
		if _, err := pgp.Decrypt(io.Discard, bytes.NewReader(raw), []*pgp.Key{eve}, word("x")); !errors.Is(err, pgp.ErrNoKey) {
			t.Errorf("another's key: %v", err)
		}
		for _, ask := range []pgp.Passphrase{nil, word("wrong")} {
			if _, err := pgp.Decrypt(io.Discard, bytes.NewReader(raw), []*pgp.Key{locked}, ask); !errors.Is(err, pgp.ErrPassphrase) {
				t.Errorf("another passphrase: %v", err)
			}
		}
	}
	raw := encrypt(t, message, pgp.Encryption{Passphrase: []byte("correct horse")})
	var got bytes.Buffer
	if o, err := pgp.Decrypt(&got, bytes.NewReader(raw), nil, word("correct horse")); err != nil || o.Signed || !bytes.Equal(got.Bytes(), message) {
		t.Error(o, err)
	}
	stop := errors.New("stop")
	for want, ask := range map[error]pgp.Passphrase{pgp.ErrPassphrase: word("wrong"), stop: func() ([]byte, error) { return nil, stop }} {
		if _, err := pgp.Decrypt(io.Discard, bytes.NewReader(raw), nil, ask); !errors.Is(err, want) {
			t.Errorf("%v, not %v", err, want)
		}
	}
	if _, err := pgp.Encrypt(io.Discard, pgp.Encryption{}); err == nil {
		t.Error("encrypted to nobody")
	}
	if _, err := pgp.Decrypt(io.Discard, bytes.NewReader(signed(t, message, bob, pgp.Inline, false)), []*pgp.Key{bob}, nil); !errors.Is(err, pgp.ErrCorrupt) {
		t.Errorf("a message that is not encrypted: %v", err)
	}
}

// TestBroken: a changed or cut message is never taken for whole.
func TestBroken(t *testing.T) {
	ada := generate(t, "ada")
	keys := []*pgp.Key{ada}
	raw := encrypt(t, bytes.Repeat([]byte("hello "), 300), pgp.Encryption{To: keys, Signers: keys, Binary: true})
	for i := 0; i < len(raw); i += 1 + i/100 {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if o, err := pgp.Decrypt(io.Discard, bytes.NewReader(bad), keys, nil); err == nil && o.By != nil && i > 110 {
			t.Errorf("byte %d: %+v", i, o)
		} else if err != nil && !errors.Is(err, pgp.ErrCorrupt) && !errors.Is(err, pgp.ErrNoKey) && !errors.Is(err, pgp.ErrPassphrase) {
			t.Errorf("byte %d: %v", i, err)
		}
		if _, err := pgp.Decrypt(io.Discard, bytes.NewReader(raw[:i]), keys, nil); !errors.Is(err, pgp.ErrCorrupt) && !errors.Is(err, pgp.ErrNoKey) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	fault := errors.New("the disk is on fire")
	for _, n := range []int{0, 30, 600} {
		if _, err := pgp.Decrypt(io.Discard, io.MultiReader(bytes.NewReader(raw[:n]), iotest.ErrReader(fault)), keys, nil); !errors.Is(err, fault) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
	if _, err := pgp.VerifyDetached(iotest.ErrReader(fault), signed(t, nil, ada, pgp.Detached, false), keys); !errors.Is(err, fault) {
		t.Error(err)
	}
}

func signed(t testing.TB, message []byte, k *pgp.Key, form pgp.Form, binary bool) []byte {
	t.Helper()
	return text(t, func(w io.Writer) error { return pgp.Sign(w, bytes.NewReader(message), k, form, binary) })
}

// TestSign: the three forms, and what must not verify.
func TestSign(t *testing.T) {
	ada, eve := generate(t, "ada"), generate(t, "eve")
	message := []byte("- a dash\nhello\n")
	for _, binary := range []bool{false, true} {
		s := signed(t, message, ada, pgp.Detached, binary)
		if by, err := pgp.VerifyDetached(bytes.NewReader(message), s, []*pgp.Key{eve, ada}); err != nil || by != ada {
			t.Error(by, err)
		}
		if _, err := pgp.VerifyDetached(strings.NewReader("other"), s, []*pgp.Key{ada}); !errors.Is(err, pgp.ErrSignature) {
			t.Errorf("another text: %v", err)
		}
		for _, keys := range [][]*pgp.Key{nil, {eve}} {
			if _, err := pgp.VerifyDetached(bytes.NewReader(message), s, keys); !errors.Is(err, pgp.ErrSignature) {
				t.Errorf("another's key: %v", err)
			}
		}
		if _, err := pgp.VerifyDetached(bytes.NewReader(message), s[:len(s)/2], []*pgp.Key{ada}); err == nil {
			t.Error("half a signature")
		}
	}
	for _, form := range []pgp.Form{pgp.Inline, pgp.Clear} {
		s := signed(t, message, ada, form, false)
		var got bytes.Buffer
		if by, err := pgp.Verify(&got, bytes.NewReader(s), []*pgp.Key{ada}); err != nil || by != ada || got.String() != string(message) {
			t.Errorf("%q %v %v", got.String(), by, err)
		}
		for _, keys := range [][]*pgp.Key{nil, {eve}} {
			if _, err := pgp.Verify(io.Discard, bytes.NewReader(s), keys); !errors.Is(err, pgp.ErrSignature) {
				t.Errorf("another's key: %v", err)
			}
		}
	}
	clear := signed(t, message, ada, pgp.Clear, false)
	var got bytes.Buffer
	if _, err := pgp.Verify(&got, bytes.NewReader(bytes.Replace(clear, []byte("hello"), []byte("hellO"), 1)), []*pgp.Key{ada}); !errors.Is(err, pgp.ErrSignature) || got.Len() > 0 {
		t.Errorf("changed text: %q %v", got.String(), err)
	}
	if _, err := pgp.Verify(io.Discard, bytes.NewReader(append(clear, "more"...)), []*pgp.Key{ada}); !errors.Is(err, pgp.ErrCorrupt) {
		t.Errorf("text after the signature: %v", err)
	}
	if err := pgp.Sign(io.Discard, io.LimitReader(zeros{}, 16<<20+1), ada, pgp.Clear, false); err == nil {
		t.Error("more clear text than is held")
	}
	// An encrypted message that nobody signed does not verify.
	if _, err := pgp.Verify(io.Discard, bytes.NewReader(encrypt(t, message, pgp.Encryption{To: []*pgp.Key{ada}})), []*pgp.Key{ada}); !errors.Is(err, pgp.ErrSignature) {
		t.Error(err)
	}
	// A key whose time is over does not sign.
	old, err := pgp.Generate(pgp.Options{Name: "old", Lifetime: time.Hour, Now: func() time.Time { return time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC) }})
	if err != nil {
		t.Fatal(err)
	}
	s := signed(t, message, old, pgp.Detached, false)
	late := one(t, text(t, old.WritePublic))
	if _, err := pgp.VerifyDetached(bytes.NewReader(message), s, []*pgp.Key{old}); err != nil {
		t.Error(err)
	}
	if by, err := pgp.VerifyDetached(bytes.NewReader(message), signed(t, message, one(t, secret(t, ada, "")), pgp.Detached, false), []*pgp.Key{late}); !errors.Is(err, pgp.ErrSignature) {
		t.Error(by, err)
	}
	if _, err := pgp.Encrypt(io.Discard, pgp.Encryption{To: []*pgp.Key{late}}); err == nil {
		t.Error("encrypted to a key whose time is over")
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// gnupg runs gpg in a home of its own.
type gnupg struct {
	t    *testing.T
	path string
	home string
}

func newGnupg(t *testing.T) *gnupg {
	t.Helper()
	path, err := exec.LookPath("gpg")
	if err != nil {
		if os.Getenv("QUANTRA_CI") != "" {
			t.Fatal("no gpg: .ci/run installs it")
		}
		t.Skip("NOT TESTED: no gpg here. Debian has it in gnupg")
	}
	home, err := os.MkdirTemp("", "pgp") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	g := &gnupg{t, path, home}
	t.Cleanup(func() {
		exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		os.RemoveAll(home)
	})
	return g
}

func (g *gnupg) try(stdin []byte, args ...string) ([]byte, string, error) {
	cmd := exec.Command(g.path, append([]string{"--homedir", g.home, "--batch", "--no-tty", "--pinentry-mode", "loopback", "--trust-model", "always", "--quiet"}, args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	return out, stderr.String(), err
}

func (g *gnupg) run(stdin []byte, args ...string) []byte {
	g.t.Helper()
	out, stderr, err := g.try(stdin, args...)
	if err != nil {
		g.t.Fatalf("gpg %v: %v: %s", args, err, stderr)
	}
	return out
}

// TestGnupg: Debian's gpg reads our keys, messages and signatures, and we read its.
func TestGnupg(t *testing.T) {
	g := newGnupg(t)
	ours := generate(t, "ada")
	message := bytes.Repeat([]byte("- hello\ntext \xc3\xa4\n"), 5000)
	file := filepath.Join(t.TempDir(), "message")
	if err := os.WriteFile(file, message, 0o600); err != nil {
		t.Fatal(err)
	}

	// Our key with a passphrase, into gpg and back.
	g.run(secret(t, ours, "correct horse"), "--passphrase", "correct horse", "--import")
	back := one(t, g.run(nil, "--passphrase", "correct horse", "--armor", "--export-secret-keys", ours.Fingerprint()))
	if back.Fingerprint() != ours.Fingerprint() || !back.Locked() || back.Unlock([]byte("correct horse")) != nil {
		t.Errorf("%v came back, locked %v", back, back.Locked())
	}
	// Its keys, of two kinds.
	var theirs []*pgp.Key
	for i, kind := range []string{"future-default", "rsa2048"} { // Ed25519 with X25519; RSA
		user := fmt.Sprintf("bob%d@example.test", i)
		usage := "default"
		if kind == "rsa2048" {
			usage = "sign,cert,encr"
		}
		g.run(nil, "--passphrase", "", "--quick-generate-key", user, kind, usage, "never")
		k := one(t, g.run(nil, "--export-secret-keys", user))
		if k.User() != user || k.Locked() {
			t.Errorf("%q", k.User())
		}
		theirs = append(theirs, k)
	}

	pass := []string{"--passphrase", "correct horse"}
	for i, k := range append(theirs, ours) {
		for _, binary := range []bool{i > 0, i < 1}[:1+i/2] { // both for ours
			// We encrypt and sign, it opens; and the other way round.
			raw := encrypt(t, message, pgp.Encryption{To: []*pgp.Key{k}, Signers: []*pgp.Key{ours}, Binary: binary})
			if got := g.run(raw, append(pass, "--decrypt")...); !bytes.Equal(got, message) {
				t.Errorf("%v: gpg reads %d bytes", k, len(got))
			}
			args := append(pass, "--encrypt", "--sign", "--local-user", ours.Fingerprint(), "--recipient", k.Fingerprint())
			if !binary {
				args = append(args, "--armor")
			}
			var got bytes.Buffer
			o, err := pgp.Decrypt(&got, bytes.NewReader(g.run(message, args...)), []*pgp.Key{k, ours}, nil)
			if err != nil || o.By == nil || o.By.Fingerprint() != ours.Fingerprint() || !bytes.Equal(got.Bytes(), message) {
				t.Errorf("%v: %d bytes, %+v %v", k, got.Len(), o, err)
			}
		}
		// Each form of signature.
		own := append([]string{}, pass...)
		own = append(own, "--local-user", k.Fingerprint(), "--armor")
		if by, err := pgp.VerifyDetached(bytes.NewReader(message), g.run(message, append(own, "--detach-sign")...), []*pgp.Key{k}); err != nil || by != k {
			t.Error(by, err)
		}
		for _, how := range []string{"--sign", "--clear-sign"} {
			var got bytes.Buffer
			if by, err := pgp.Verify(&got, bytes.NewReader(g.run(message, append(own, how)...)), []*pgp.Key{k}); err != nil || by != k {
				t.Error(how, by, err)
			} else if how == "--sign" && !bytes.Equal(got.Bytes(), message) {
				t.Errorf("%d bytes", got.Len())
			}
		}
		s := filepath.Join(t.TempDir(), "s")
		if err := os.WriteFile(s, signed(t, message, k, pgp.Detached, false), 0o600); err != nil {
			t.Fatal(err)
		}
		g.run(nil, "--verify", s, file)
		g.run(signed(t, message, k, pgp.Inline, false), "--verify")
		for n := range 3 { // a signature's length modulo 3, which is how its armour ends, is not always the same
			g.run(signed(t, append(message, byte('a'+n)), k, pgp.Clear, false), "--verify")
		}
	}
	if _, _, err := g.try(bytes.Replace(signed(t, message, ours, pgp.Clear, false), []byte("hello"), []byte("hellO"), 1), "--verify"); err == nil {
		t.Error("gpg verifies what was changed: this test shows nothing")
	}

	// By a passphrase alone.
	raw := encrypt(t, message, pgp.Encryption{Passphrase: []byte("correct horse")})
	if got := g.run(raw, append(pass, "--decrypt")...); !bytes.Equal(got, message) {
		t.Errorf("gpg reads %d bytes", len(got))
	}
	var got bytes.Buffer
	if _, err := pgp.Decrypt(&got, bytes.NewReader(g.run(message, append(pass, "--symmetric")...)), nil, word("correct horse")); err != nil || !bytes.Equal(got.Bytes(), message) {
		t.Errorf("%d bytes: %v", got.Len(), err)
	}
}

// FuzzRead: bytes of strangers as keys, messages and signatures.
func FuzzRead(f *testing.F) {
	ada := generate(f, "ada")
	keys := []*pgp.Key{ada}
	f.Add(text(f, ada.WritePublic))
	f.Add(secret(f, ada, ""))
	f.Add(encrypt(f, []byte("hello"), pgp.Encryption{To: keys, Signers: keys}))
	f.Add(encrypt(f, []byte("hello"), pgp.Encryption{To: keys, Binary: true}))
	for _, form := range []pgp.Form{pgp.Detached, pgp.Inline, pgp.Clear} {
		f.Add(signed(f, []byte("hello"), ada, form, false))
	}
	f.Add(signed(f, []byte("hello"), ada, pgp.Detached, true))
	f.Fuzz(func(t *testing.T, raw []byte) {
		known := func(err error) {
			t.Helper()
			for _, e := range []error{nil, pgp.ErrCorrupt, pgp.ErrNoKey, pgp.ErrPassphrase, pgp.ErrSignature} {
				if errors.Is(err, e) {
					return
				}
			}
			t.Errorf("an error of no kind: %v", err)
		}
		if read, err := pgp.ReadKeys(raw); err == nil {
			for _, k := range read {
				_, _ = k.User(), k.Locked()
				k.WritePublic(io.Discard)
			}
		} else {
			known(err)
		}
		_, err := pgp.Decrypt(io.Discard, bytes.NewReader(raw), keys, nil)
		known(err)
		_, err = pgp.Verify(io.Discard, bytes.NewReader(raw), keys)
		known(err)
		if by, err := pgp.VerifyDetached(strings.NewReader("what nobody signed"), raw, keys); err == nil {
			t.Errorf("%v has signed what nobody signed", by)
		} else {
			known(err)
		}
	})
}
