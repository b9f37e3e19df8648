package audit_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/quantra-l/quantra/zerotrust/audit"
)

func TestOpenKey(t *testing.T) {
	base := t.TempDir()
	name := filepath.Join(base, "keys", "audit.key")
	k, err := audit.OpenKey(name)
	must(t, err)
	again, err := audit.OpenKey(name)
	if err != nil || again.Public() != k.Public() {
		t.Errorf("%v, %v", again, err)
	}
	if runtime.GOOS != "windows" {
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		must(t, os.Chmod(name, 0o640))
		if _, err := audit.OpenKey(name); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("others can read it: %v", err)
		}
		must(t, os.Chmod(name, 0o600))
		link := filepath.Join(base, "link.key")
		must(t, os.Symlink(name, link))
		if _, err := audit.OpenKey(link); err == nil || !strings.Contains(err.Error(), "symbolic link") {
			t.Errorf("a symbolic link: %v", err)
		}
		dangling := filepath.Join(base, "dangling.key")
		must(t, os.Symlink(filepath.Join(base, "elsewhere"), dangling))
		if _, err := audit.OpenKey(dangling); err == nil {
			t.Error("a symbolic link to nothing is filled")
		}
	}
	if names, err := os.ReadDir(filepath.Dir(name)); err != nil || len(names) != 1 {
		t.Errorf("beside the key: %v, %v", names, err)
	}
	raw, err := os.ReadFile(name)
	must(t, err)
	for what, b := range map[string]string{"empty": "", "no PEM": "key", "two": string(raw) + string(raw), "another kind": strings.ReplaceAll(string(raw), "PRIVATE", "PUBLIC"), "large": string(raw) + strings.Repeat("\n", 5000)} {
		must(t, os.WriteFile(name, []byte(b), 0o600))
		if _, err := audit.OpenKey(name); err == nil {
			t.Errorf("%s is a key", what)
		}
	}
	if _, err := audit.OpenKey(base); err == nil {
		t.Error("a folder is a key")
	}
}

func TestOutside(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "data", "audit")
	must(t, os.MkdirAll(dir, 0o700))
	must(t, audit.Outside(dir, filepath.Join(base, "data", "audit.key")))
	must(t, audit.Outside(dir, filepath.Join(base, "none", "deep", "audit.key")))
	if audit.Outside(dir, filepath.Join(dir, "keys", "audit.key")) == nil {
		t.Error("a key in the log's folder is taken")
	}
	if runtime.GOOS == "windows" {
		return
	}
	must(t, os.Symlink(dir, filepath.Join(base, "link")))
	for _, name := range []string{"audit.key", "new/audit.key"} {
		if audit.Outside(dir, filepath.Join(base, "link", name)) == nil {
			t.Error("a key in the log's folder, by a symbolic link, is taken")
		}
	}
	if audit.Outside(filepath.Join(base, "link"), filepath.Join(dir, "audit.key")) == nil {
		t.Error("the log's folder, by a symbolic link")
	}
}

// TestPseudonyms: known answers, made by another implementation:
// printf 'quantra pseudonym v1\0ann@example.com' | openssl dgst -sha256 -mac HMAC -macopt hexkey:0101...01 -binary | head -c 16 | base32
func TestPseudonyms(t *testing.T) {
	p, err := audit.NewPseudonyms([]byte(strings.Repeat("\x01", 32)))
	must(t, err)
	for _, id := range []string{"ann@example.com", " Ann@Example.COM\n"} {
		if got := p.Of(id); got != "~zay2zjhycknymnxn4bkiv6zcii" {
			t.Errorf("%q is %s", id, got)
		}
	}
	if p.Of("bob@example.com") == p.Of("ann@example.com") {
		t.Error("two have one pseudonym")
	}
	name := filepath.Join(t.TempDir(), "pseudonyms.key")
	one, err := audit.OpenPseudonyms(name)
	must(t, err)
	two, err := audit.OpenPseudonyms(name)
	if err != nil || one.Of("x") != two.Of("x") || one.Of("x") == p.Of("x") {
		t.Error("the key is not kept")
	}
	must(t, os.Remove(name))
	three, err := audit.OpenPseudonyms(name)
	if err != nil || one.Of("x") == three.Of("x") {
		t.Error("a new key gives the same pseudonyms")
	}
}
