package seal

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/zalando/go-keyring"
)

var update = flag.Bool("update", false, "write the fixtures of this version anew")

// testKey is the key of the fixtures: that of RFC 8032's first vector.
func testKey(t testing.TB) Key {
	t.Helper()
	k, err := KeyFromSeed(unhex(t, "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// word is a passphrase that is given when it is asked for.
func word(s string) Passphrase { return func() ([]byte, error) { return []byte(s), nil } }

// program is the path of a program that tests work with.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("QUANTRA_CI") != "" {
			t.Fatalf("no %s: .ci/run installs it", name)
		}
		t.Skipf("NOT TESTED: no %s here. Debian has it in openssh-client, openssl and age", name)
	}
	return path
}

// command is what a program writes to standard output.
func command(t *testing.T, stdin []byte, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", filepath.Base(name), args, err, stderr.Bytes())
	}
	return string(out)
}

// TestKeyFixtures: files of this version are read by all later ones.
func TestKeyFixtures(t *testing.T) {
	k := testKey(t)
	for name, o := range map[string]KeyOptions{"v1.key": {}, "v1-passphrase.key": {Passphrase: []byte("correct horse"), Work: 4}} {
		path := filepath.Join("testdata", name)
		if *update {
			raw, err := EncodeKey(k, o)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeKey(raw, word("correct horse"))
		if err != nil || got.Public() != k.Public() || !bytes.Equal(got.Seed(), k.Seed()) {
			t.Errorf("%s: %v %v", name, got, err)
		}
		info, err := InspectKey(raw)
		if err != nil || info != (KeyInfo{k.Public(), "quantra", len(o.Passphrase) > 0}) {
			t.Errorf("%s: %+v %v", name, info, err)
		}
		if len(o.Passphrase) == 0 {
			if again, err := EncodeKey(k, o); err != nil || !bytes.Equal(again, raw) {
				t.Errorf("%s is written as %s", name, again)
			}
			continue
		}
		for _, ask := range []Passphrase{nil, word("wrong"), word("")} {
			if _, err := DecodeKey(raw, ask); !errors.Is(err, ErrPassphrase) {
				t.Errorf("%s with another passphrase: %v", name, err)
			}
		}
		stop := errors.New("stop")
		if _, err := DecodeKey(raw, func() ([]byte, error) { return nil, stop }); !errors.Is(err, stop) {
			t.Errorf("%s: what asking says is lost: %v", name, err)
		}
		if _, err := decodeKey(raw, word("correct horse"), 3); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: more work than is allowed: %v", name, err)
		}
	}
}

// TestKeyBroken: what is no key, and lines that say another key than the file has.
func TestKeyBroken(t *testing.T) {
	k := testKey(t)
	plain, err := EncodeKey(k, KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	locked, err := EncodeKey(k, KeyOptions{Passphrase: []byte("x"), Work: 1})
	if err != nil {
		t.Fatal(err)
	}
	other := NewKey().Public().String()
	swap := func(raw []byte, from, to string) string { return strings.Replace(string(raw), from, to, 1) }
	for name, text := range map[string]string{
		"nothing":                   "",
		"no block":                  "quantra",
		"a certificate":             "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
		"half a block":              string(plain[:len(plain)-30]),
		"bytes after it":            string(plain) + "more",
		"another version":           swap(plain, "key 1", "key 2"),
		"another public key":        swap(plain, k.Public().String(), other),
		"another public key, lockd": swap(locked, k.Public().String(), other),
		"a public line that is not": swap(plain, k.Public().String(), "x"),
		"a locked file, cut":        string(locked[:len(locked)-60]),
		"too long":                  string(plain) + strings.Repeat("\n", maxKeyFile),
		"no key in PKCS #8":         "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
		"no key in OpenSSH's":       "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
	} {
		if _, err := DecodeKey([]byte(text), word("x")); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range locked { // no byte of an encrypted key can change unseen
		bad := bytes.Clone(locked)
		bad[i] ^= 4
		got, err := DecodeKey(bad, word("x"))
		if err == nil && got.Public() != k.Public() {
			t.Fatalf("byte %d: the key is another", i)
		}
	}
	if _, err := EncodeKey(Key{}, KeyOptions{}); err == nil {
		t.Error("no key is written")
	}
	if _, err := EncodeKey(k, KeyOptions{Passphrase: []byte("x"), Work: 99}); err == nil {
		t.Error("work without end")
	}
	w := NewKey()
	held, twin := w.private(), w
	if w.Wipe(); !bytes.Equal(held, make([]byte, len(held))) {
		t.Error("the secret is there after Wipe")
	}
	if _, err := twin.Sign("test v1", nil); err == nil || twin.Seed() != nil {
		t.Error("a copy signs after Wipe")
	}
}

// TestNoSecrets: no way to print a key or a box shows what is in it.
func TestNoSecrets(t *testing.T) {
	k := testKey(t)
	box, err := NewBox(k.Seed())
	if err != nil {
		t.Fatal(err)
	}
	holder := struct {
		key Key
		box *Box
	}{k, box}
	for _, v := range []any{k, &k, box, holder, &holder, []Key{k}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			out := fmt.Sprintf(verb, v)
			if strings.Contains(out, "9d61b1") || strings.Contains(out, "157 97 177") {
				t.Errorf("%s of %T: %s", verb, v, out)
			}
		}
	}
}

// TestKeyFile: who may have written it, and that it appears whole, for its user alone.
func TestKeyFile(t *testing.T) {
	k := testKey(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "a.key")
	if err := SaveKey(path, k, KeyOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err := LoadKey(path, nil); err != nil || got.Public() != k.Public() {
		t.Fatal(got, err)
	}
	if err := SaveKey(path, NewKey(), KeyOptions{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("written over another: %v", err)
	}
	if err := SaveKey(path, k, KeyOptions{Passphrase: []byte("x"), Work: 1, Replace: true}); err != nil {
		t.Error(err)
	}
	if got, err := LoadKey(path, word("x")); err != nil || got.Public() != k.Public() {
		t.Error(got, err)
	}
	var wrote atomic.Int32
	var wait sync.WaitGroup
	for range 8 { // of many at a time one writes
		wait.Go(func() {
			switch err := SaveKey(filepath.Join(dir, "many.key"), k, KeyOptions{}); {
			case err == nil:
				wrote.Add(1)
			case !errors.Is(err, fs.ErrExist):
				t.Error(err)
			}
		})
	}
	if wait.Wait(); wrote.Load() != 1 {
		t.Errorf("%d have written one file", wrote.Load())
	}
	os.Remove(filepath.Join(dir, "many.key"))
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("in the folder are %v %v", left, err)
	}
	if _, err := LoadKey(filepath.Join(dir, "none.key"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := LoadKey(dir, nil); !errors.Is(err, ErrUnsafe) {
		t.Errorf("a folder: %v", err)
	}
	if err := SaveKey(filepath.Join(dir, "none", "a.key"), k, KeyOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	long := filepath.Join(dir, "long.key")
	if err := os.WriteFile(long, make([]byte, maxKeyFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKey(long, nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a long file: %v", err)
	}
	if runtime.GOOS == "windows" {
		return
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	link := filepath.Join(dir, "link.key")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKey(link, word("x")); !errors.Is(err, ErrUnsafe) {
		t.Errorf("a link: %v", err)
	}
	if err := SaveKey(link, k, KeyOptions{Replace: true}); !errors.Is(err, ErrUnsafe) {
		t.Errorf("over a link: %v", err)
	}
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o620, 0o602} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadKey(path, word("x")); !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %v: %v", mode, err)
		}
	}
	if os.Geteuid() == 0 { // only root can give a file away
		if err := errors.Join(os.Chmod(path, 0o600), os.Chown(path, 1, 1)); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadKey(path, word("x")); !errors.Is(err, ErrUnsafe) {
			t.Errorf("another user's: %v", err)
		}
	}
}

// TestPublicKey: its texts, and what is no key.
func TestPublicKey(t *testing.T) {
	k := testKey(t).Public()
	for _, text := range []string{k.String(), k.SSH(), " " + k.SSH() + " a comment\n"} {
		if got, err := ParsePublicKey(text); err != nil || got != k {
			t.Errorf("%q: %v %v", text, got, err)
		}
	}
	if k.String() != "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" {
		t.Error(k)
	}
	var back PublicKey
	if text, err := k.MarshalText(); err != nil || back.UnmarshalText(text) != nil || back != k {
		t.Errorf("%s %v", text, err)
	}
	for _, text := range []string{
		"", "x", k.String() + "A", k.String()[:42], "ssh-rsa AAAA", "ssh-ed25519 AAAA", k.SSH() + "\n" + k.SSH(),
		"command=\"x\" " + k.SSH(), strings.Repeat("A", maxPublicText+1),
		PublicKey{}.String(), PublicKey{1}.String(), PublicKey{2}.String(), // of small order, the identity, no point
		PublicKey(unhex(t, "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")).String(),
		"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7vbqajDw4o6gJy8UtmIbkcpnkO3Kwc4qsEnSZp/TR+fQi62F79RHWmwKOtFmwteURgLbj7D/WGuNLGOfa/2vse3G2eHnHl5CB8ruRX9fBl/KgwCVr2JaEuUm66bBQeP5XeBotdR4cvX38uPYivCDdPjJ1QWPdspTBKcxeFbccDw==",
	} {
		if got, err := ParsePublicKey(text); err == nil {
			t.Errorf("%q is taken for %v", text, got)
		}
	}
}

// TestOpenSSH: ssh-keygen reads our keys and we read its, with a passphrase and without, and the fingerprint is the same.
func TestOpenSSH(t *testing.T) {
	keygen := program(t, "ssh-keygen")
	k, dir := testKey(t), t.TempDir()
	for _, pass := range []string{"", "correct horse"} {
		raw, err := EncodeOpenSSH(k, "a comment", []byte(pass))
		if err != nil {
			t.Fatal(err)
		}
		ours := filepath.Join(dir, "ours"+pass)
		if err := os.WriteFile(ours, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := command(t, nil, keygen, "-y", "-P", pass, "-f", ours); !strings.HasPrefix(got, k.Public().SSH()) {
			t.Errorf("ssh-keygen reads %q", got)
		}
		info, err := InspectKey(raw)
		if err != nil || info != (KeyInfo{k.Public(), "openssh", pass != ""}) {
			t.Errorf("%+v %v", info, err)
		}
		if got, err := DecodeKey(raw, word(pass)); err != nil || got.Public() != k.Public() {
			t.Error(got, err)
		}

		theirs := filepath.Join(dir, "theirs"+pass)
		command(t, nil, keygen, "-q", "-t", "ed25519", "-N", pass, "-f", theirs)
		got, err := LoadKey(theirs, word(pass))
		if err != nil {
			t.Fatal(err)
		}
		line, err := os.ReadFile(theirs + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		if p, err := ParsePublicKey(string(line)); err != nil || p != got.Public() {
			t.Errorf("%v, the .pub file says %v %v", got.Public(), p, err)
		}
		if shown := command(t, nil, keygen, "-l", "-f", theirs); !strings.Contains(shown, got.Public().Fingerprint()) {
			t.Errorf("fingerprint %s, ssh-keygen says %s", got.Public().Fingerprint(), shown)
		}
		if pass != "" {
			for _, ask := range []Passphrase{nil, word("wrong")} {
				if _, err := LoadKey(theirs, ask); !errors.Is(err, ErrPassphrase) {
					t.Errorf("another passphrase: %v", err)
				}
			}
		}
	}
	rsa := filepath.Join(dir, "rsa")
	command(t, nil, keygen, "-q", "-t", "rsa", "-N", "", "-f", rsa)
	if _, err := LoadKey(rsa, nil); err == nil || !strings.Contains(err.Error(), "must be Ed25519") {
		t.Errorf("an RSA key: %v", err)
	}
}

// TestOpenSSL: it reads our keys and we read its.
func TestOpenSSL(t *testing.T) {
	openssl := program(t, "openssl")
	raw := []byte(command(t, nil, openssl, "genpkey", "-algorithm", "ed25519"))
	k, err := DecodeKey(raw, nil)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := InspectKey(raw); err != nil || info != (KeyInfo{k.Public(), "pkcs8", false}) {
		t.Errorf("%+v %v", info, err)
	}
	ours, err := EncodeKey(k, KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := command(t, ours, openssl, "pkey"); got != string(raw) {
		t.Errorf("%s, not %s", got, raw)
	}
	locked := command(t, raw, openssl, "pkey", "-aes256", "-passout", "pass:x")
	if _, err := DecodeKey([]byte(locked), word("x")); err == nil || !strings.Contains(err.Error(), "openssl pkey") {
		t.Errorf("a passphrase of OpenSSL's: %v", err)
	}
}

// TestKeyring: the library's keyring in memory, and a machine that has none.
func TestKeyring(t *testing.T) {
	if runtime.GOOS == "linux" {
		t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "none"))
		if _, err := LoadKeyring("a"); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "in a file instead") {
			t.Errorf("no keyring: %v", err)
		}
		if err := SaveKeyring("a", testKey(t), false); !errors.Is(err, ErrUnavailable) {
			t.Errorf("no keyring: %v", err)
		}
	}
	keyring.MockInit()
	k := testKey(t)
	if _, err := LoadKeyring("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := SaveKeyring("a", k, false); err != nil {
		t.Fatal(err)
	}
	if got, err := LoadKeyring("a"); err != nil || got.Public() != k.Public() {
		t.Error(got, err)
	}
	if err := SaveKeyring("a", NewKey(), false); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	if err := SaveKeyring("a", NewKey(), true); err != nil {
		t.Error(err)
	}
}

// FuzzKeyFile: no bytes are read as a key that is written as another, and none take more than they have.
func FuzzKeyFile(f *testing.F) {
	k := testKey(f)
	for _, pass := range []string{"", "x"} {
		ours, err := EncodeKey(k, KeyOptions{Passphrase: []byte(pass), Work: 1})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(ours)
	}
	theirs, err := EncodeOpenSSH(k, "c", nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(theirs)
	f.Add([]byte("AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		info, infoErr := InspectKey(raw)
		if k, err := decodeKey(raw, word("x"), 2); err == nil {
			if k.Public().Check() != nil || infoErr == nil && info.Public != k.Public() {
				t.Errorf("%v of %+v", k, info)
			}
			again, err := EncodeKey(k, KeyOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if back, err := DecodeKey(again, nil); err != nil || back.Public() != k.Public() {
				t.Errorf("%v became %v: %v", k, back, err)
			}
		}
		if !bytes.Contains(raw, []byte("BEGIN")) { // a passphrase's work is bounded only by what users wait for
			if _, err := ParseIdentities(raw, nil); err != nil && !errors.Is(err, ErrCorrupt) {
				t.Error(err)
			}
		}
	})
}
