package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"filippo.io/age"
)

// sealed is text encrypted to recipients.
func sealed(t *testing.T, text []byte, armored bool, to ...Recipient) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := Encrypt(&b, armored, to...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func open(raw []byte, by ...Identity) ([]byte, error) {
	r, err := Decrypt(bytes.NewReader(raw), by...)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// pairs are a recipient of each kind and what opens for it.
func pairs(t *testing.T) map[string]struct {
	to Recipient
	by Identity
} {
	t.Helper()
	x, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	h, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]struct {
		to Recipient
		by Identity
	}{}
	add := func(name, recipient, identity string) {
		to, err := ParseRecipient(recipient)
		if err != nil {
			t.Fatal(name, err)
		}
		by, err := ParseIdentities([]byte("# a comment\n"+identity+"\n"), nil)
		if err != nil || len(by) != 1 {
			t.Fatal(name, err)
		}
		out[name] = struct {
			to Recipient
			by Identity
		}{to, by[0]}
	}
	add("X25519", x.Recipient().String(), x.String())
	add("post-quantum", h.Recipient().String(), h.String())
	k := testKey(t)
	file, err := EncodeKey(k, KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	add("our key", k.Public().String(), string(file))
	add("OpenSSH's", k.Public().SSH(), string(file))
	p, err := PassphraseRecipient([]byte("correct horse"), 1)
	if err != nil {
		t.Fatal(err)
	}
	out["a passphrase"] = struct {
		to Recipient
		by Identity
	}{p, AskIdentity(word("correct horse"))}
	return out
}

// TestEncrypt: each kind of recipient, binary and as text, at sizes around the pieces that are authenticated.
func TestEncrypt(t *testing.T) {
	all := pairs(t)
	for name, p := range all {
		for _, armored := range []bool{false, true} {
			for _, size := range []int{0, 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 200000} {
				text := bytes.Repeat([]byte{7}, size)
				raw := sealed(t, text, armored, p.to)
				got, err := open(raw, p.by)
				if err != nil || !bytes.Equal(got, text) {
					t.Errorf("%s, %d bytes: %d %v", name, size, len(got), err)
				}
				if armored != bytes.HasPrefix(raw, []byte("-----BEGIN AGE ENCRYPTED FILE-----\n")) {
					t.Errorf("%s begins with %q", name, raw[:20])
				}
			}
		}
	}
	// Several recipients: each opens, another does not and is told for whom it is.
	raw := sealed(t, []byte("hello"), true, all["X25519"].to, all["our key"].to)
	for _, name := range []string{"X25519", "our key"} {
		if got, err := open(raw, all["a passphrase"].by, all[name].by); err != nil || string(got) != "hello" {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
	other, err := NewKey().Identity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(raw, other); !errors.Is(err, ErrNoKey) || !strings.HasSuffix(err.Error(), "it is for X25519, ssh-ed25519") {
		t.Errorf("another key: %v", err)
	}
	if _, err := open(sealed(t, nil, false, all["a passphrase"].to), AskIdentity(word("wrong"))); !errors.Is(err, ErrPassphrase) {
		t.Errorf("another passphrase: %v", err)
	}
	if _, err := Encrypt(io.Discard, false); err == nil {
		t.Error("encrypted to nobody")
	}
	if _, err := Encrypt(io.Discard, false, all["X25519"].to, all["a passphrase"].to); err == nil {
		t.Error("a passphrase beside a key: who has the key could make files that the passphrase opens")
	}
	if _, err := Decrypt(bytes.NewReader(raw)); !errors.Is(err, ErrNoKey) {
		t.Error(err)
	}
	for _, text := range []string{"", "age1x", "AGE-SECRET-KEY-1X", "ssh-rsa AAAA", "age1pq1x"} {
		if _, err := ParseRecipient(text); err == nil {
			t.Errorf("%q is a recipient", text)
		}
	}
	if _, err := ParseIdentities([]byte("AGE-SECRET-KEY-1SECRET\n"), nil); !errors.Is(err, ErrCorrupt) || strings.Contains(err.Error(), "SECRET-KEY") {
		t.Errorf("an identity that is none: %v", err)
	}
}

// TestLazyIdentity: a key is loaded for files that are for it, and no others.
func TestLazyIdentity(t *testing.T) {
	all := pairs(t)
	k, loaded := testKey(t), 0
	lazy := LazyIdentity(k.Public(), func() (Key, error) { loaded++; return k, nil })
	strange, err := NewKey().Public().Recipient()
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []Recipient{all["X25519"].to, all["a passphrase"].to, strange} {
		if _, err := open(sealed(t, nil, false, to), lazy); !errors.Is(err, ErrNoKey) || loaded != 0 {
			t.Errorf("loaded %d times: %v", loaded, err)
		}
	}
	for range 2 {
		if got, err := open(sealed(t, []byte("x"), false, strange, all["our key"].to), lazy); err != nil || string(got) != "x" || loaded != 1 {
			t.Errorf("loaded %d times: %q %v", loaded, got, err)
		}
	}
	stop := errors.New("stop")
	lazy = LazyIdentity(k.Public(), func() (Key, error) { return Key{}, stop })
	if _, err := open(sealed(t, nil, false, all["our key"].to), lazy); !errors.Is(err, stop) {
		t.Error(err)
	}
}

// TestDecryptBroken: any byte changed, any cut, and bytes after the end are found; what is read before is the text's beginning.
func TestDecryptBroken(t *testing.T) {
	p := pairs(t)["X25519"]
	text := make([]byte, 150000)
	for i := range text {
		text[i] = byte(i / 7)
	}
	raw := sealed(t, text, false, p.to)
	check := func(what string, bad []byte) {
		t.Helper()
		got, err := open(bad, p.by)
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNoKey) {
			t.Errorf("%s: %v", what, err)
		}
		if !bytes.HasPrefix(text, got) || len(got)%(64<<10) != 0 && len(got) != len(text) {
			t.Errorf("%s: %d bytes of the text", what, len(got))
		}
	}
	for i := 0; i < len(raw); i += 1 + i/40 { // every byte of the start, ever fewer behind it
		bad := bytes.Clone(raw)
		bad[i] ^= 0x20
		check(fmt.Sprint("byte ", i), bad)
		check(fmt.Sprint("cut at ", i), raw[:i])
	}
	check("bytes after the end", append(bytes.Clone(raw), 0))
	check("two files", append(bytes.Clone(raw), raw...))
	check("nothing", nil)

	armored := sealed(t, text, true, p.to)
	check("text that is cut", armored[:len(armored)/2])
	check("text that ends early", armored[:len(armored)-40])

	// Faults of the disk are not the file's.
	fault := errors.New("the disk is on fire")
	for _, n := range []int{0, 50, 100000} {
		r, err := Decrypt(io.MultiReader(bytes.NewReader(raw[:n]), iotest.ErrReader(fault)), p.by)
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		if !errors.Is(err, fault) || errors.Is(err, ErrCorrupt) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

// endless are bytes nearly without an end, in constant memory.
type endless struct{ n int64 }

func (e *endless) Read(p []byte) (int, error) {
	if e.n > 1<<27 {
		return 0, io.EOF // far beyond what any test takes, so that a bound that is missing is seen
	}
	for i := range p {
		p[i] = 'A'
	}
	e.n += int64(len(p))
	return len(p), nil
}

// TestDecryptBounds: what a stranger's file makes us hold is bounded.
func TestDecryptBounds(t *testing.T) {
	p := pairs(t)["X25519"]
	for name, start := range map[string]string{
		"a header's line without end":        "age-encryption.org/v1\n-> X25519 ",
		"a header of recipients without end": "age-encryption.org/v1\n",
		"a line of text without end":         "-----BEGIN AGE ENCRYPTED FILE-----\n",
	} {
		var src endless
		var body io.Reader = &src
		if strings.Contains(name, "recipients") {
			body = &repeated{line: "-> X AAAA\n\n", n: &src.n}
		}
		_, err := Decrypt(io.MultiReader(strings.NewReader(start), body), p.by)
		if !errors.Is(err, ErrCorrupt) || src.n > 3<<20 {
			t.Errorf("%s: %d bytes read, %v", name, src.n, err)
		}
	}
}

// repeated is a line over and over.
type repeated struct {
	text, line string
	n          *int64
}

func (r *repeated) Read(p []byte) (int, error) {
	if *r.n > 1<<27 {
		return 0, io.EOF
	}
	if r.text == "" {
		r.text = r.line
	}
	n := copy(p, r.text)
	r.text = r.text[n:]
	*r.n += int64(n)
	return n, nil
}

// TestConstantMemory: 32 MiB go through a pipe, encrypted, decrypted, signed and verified, while the heap stays under 8.
func TestConstantMemory(t *testing.T) {
	const size = 32 << 20
	k := testKey(t)
	to, err := k.Public().Recipient()
	if err != nil {
		t.Fatal(err)
	}
	by, err := k.Identity()
	if err != nil {
		t.Fatal(err)
	}
	var most uint64
	watch := writerFunc(func(p []byte) (int, error) {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		most = max(most, m.HeapInuse)
		return len(p), nil
	})
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	cipher, w := io.Pipe()
	go func() {
		e, err := Encrypt(w, false, to)
		if err == nil {
			_, err = io.Copy(e, io.LimitReader(&endless{}, size))
			err = errors.Join(err, e.Close())
		}
		w.CloseWithError(err)
	}()
	text, err := Decrypt(cipher, by)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	counted := io.TeeReader(text, writerFunc(func(p []byte) (int, error) {
		if n += len(p); n%(4<<20) < len(p) {
			watch.Write(nil)
		}
		return len(p), nil
	}))
	s, err := k.SignFile(counted)
	if err != nil || n != size {
		t.Fatalf("%d bytes: %v", n, err)
	}
	if err := s.Verify(io.LimitReader(&endless{}, size), k.Public()); err != nil {
		t.Error(err)
	}
	if most == 0 || most > before.HeapInuse+8<<20 {
		t.Errorf("the heap grew from %d to %d bytes", before.HeapInuse, most)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestAge: the age command opens our files and we open its, for its own keys and for OpenSSH's, which ours are.
func TestAge(t *testing.T) {
	ageProgram, keygen := program(t, "age"), program(t, "age-keygen")
	dir := t.TempDir()
	identity := filepath.Join(dir, "age.txt")
	command(t, nil, keygen, "-o", identity)
	recipient := strings.TrimSpace(command(t, nil, keygen, "-y", identity))
	k := testKey(t)
	raw, err := EncodeOpenSSH(k, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	ssh := filepath.Join(dir, "id_ed25519")
	if err := os.WriteFile(ssh, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	text := bytes.Repeat([]byte("hello\x00"), 30000)
	for _, c := range []struct{ recipient, file string }{{recipient, identity}, {k.Public().SSH(), ssh}} {
		to, err := ParseRecipient(c.recipient)
		if err != nil {
			t.Fatal(err)
		}
		secret, err := os.ReadFile(c.file)
		if err != nil {
			t.Fatal(err)
		}
		by, err := ParseIdentities(secret, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, armored := range []bool{false, true} {
			if got := command(t, sealed(t, text, armored, to), ageProgram, "-d", "-i", c.file); got != string(text) {
				t.Errorf("%s: age reads %d bytes", c.recipient, len(got))
			}
			args := []string{"-r", c.recipient}
			if armored {
				args = append(args, "-a")
			}
			theirs := command(t, text, ageProgram, args...)
			if got, err := open([]byte(theirs), by...); err != nil || !bytes.Equal(got, text) {
				t.Errorf("%s: we read %d bytes: %v", c.recipient, len(got), err)
			}
		}
	}
}

// TestBox: a frozen one, computed by another library (docs/format/box.md), and that nothing else opens.
func TestBox(t *testing.T) {
	key, salt := make([]byte, 32), make([]byte, 32)
	for i := range key {
		key[i], salt[i] = byte(i), byte(100+i)
	}
	b, err := NewBox(key)
	if err != nil {
		t.Fatal(err)
	}
	const want = "016465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f80818283805da72a3ca67d4e88364a31aa1f1b1115f29b8e34463ca3ea36b9e2ef9c88859565302cbce32fd5c65ec25f3155e025b849ef0b8aaae26b8db3f1284bb3"
	value, context := []byte("a small secret"), []byte("token of user 7")
	if got, err := b.seal(salt, value, context); err != nil || fmt.Sprintf("%x", got) != want {
		t.Errorf("%x %v", got, err)
	}
	frozen := unhex(t, want)
	if got, err := b.Open(frozen, context); err != nil || !bytes.Equal(got, value) {
		t.Errorf("%q %v", got, err)
	}
	if _, err := b.Open(frozen, []byte("token of user 8")); !errors.Is(err, ErrBox) {
		t.Errorf("another context: %v", err)
	}
	for i := range frozen {
		bad := bytes.Clone(frozen)
		bad[i] ^= 1
		if _, err := b.Open(bad, context); !errors.Is(err, ErrBox) {
			t.Errorf("byte %d: %v", i, err)
		}
		if _, err := b.Open(frozen[:i], context); !errors.Is(err, ErrBox) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	other, err := NewBox(NewBoxKey())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open(frozen, context); !errors.Is(err, ErrBox) {
		t.Errorf("another key: %v", err)
	}
	for _, size := range []int{0, 1, MaxBox} {
		one, err := other.Seal(make([]byte, size), nil)
		if err != nil || len(one) != size+BoxOverhead {
			t.Fatalf("%d bytes: %d %v", size, len(one), err)
		}
		two, err := other.Seal(make([]byte, size), nil)
		if err != nil || bytes.Equal(one[:boxHead], two[:boxHead]) {
			t.Errorf("%d bytes: the same salt twice, or %v", size, err)
		}
		if got, err := other.Open(one, nil); err != nil || len(got) != size {
			t.Errorf("%d bytes: %d %v", size, len(got), err)
		}
	}
	if _, err := other.Seal(make([]byte, MaxBox+1), nil); err == nil {
		t.Error("more than a box holds")
	}
	if _, err := other.Open(make([]byte, MaxBox+BoxOverhead+1), nil); !errors.Is(err, ErrBox) {
		t.Error(err)
	}
	if _, err := NewBox(make([]byte, 16)); err == nil {
		t.Error("half a key")
	}
}
