package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestByteSize(t *testing.T) {
	for _, c := range []struct {
		in   string
		want int64
		out  string
	}{
		{"2GiB", 2 << 30, "2GiB"}, {"1.5 MiB", 3 << 19, "1536KiB"}, {"500MB", 5e8, "500MB"}, {"500mb", 5e8, "500MB"},
		{"12", 12, "12B"}, {"0", 0, "0"}, {"7kB", 7000, "7kB"},
	} {
		var b byteSize
		if err := b.Set(c.in); err != nil || int64(b) != c.want || b.String() != c.out {
			t.Errorf("%q: %d %q %v, want %d %q", c.in, int64(b), b.String(), err, c.want, c.out)
		}
	}
	for _, bad := range []string{"", "GiB", "-1", "1XB", "9000000000TiB", "NaN", "inf"} {
		var b byteSize
		if err := b.Set(bad); err == nil {
			t.Errorf("%q is taken as %d", bad, int64(b))
		}
	}
}

func TestAge(t *testing.T) {
	for _, c := range []struct {
		in   string
		want time.Duration
		out  string
	}{
		{"30d", 720 * time.Hour, "30d"}, {"0.5d", 12 * time.Hour, "12h"}, {"36h", 36 * time.Hour, "36h"}, {"48h", 48 * time.Hour, "2d"},
		{"90m", 90 * time.Minute, "1h30m"}, {"10s", 10 * time.Second, "10s"}, {"0", 0, "0s"}, {"-1d", -24 * time.Hour, "-1d"},
	} {
		var a age
		if err := a.Set(c.in); err != nil || time.Duration(a) != c.want || a.String() != c.out {
			t.Errorf("%q: %v %q %v, want %v %q", c.in, time.Duration(a), a.String(), err, c.want, c.out)
		}
	}
	for _, bad := range []string{"", "d", "soon", "1w", "NaNd", "99999999d", "1e99d"} {
		var a age
		if err := a.Set(bad); err == nil {
			t.Errorf("%q is taken as %v", bad, time.Duration(a))
		}
	}
}

func TestCgroupLimit(t *testing.T) {
	files := func(pairs ...string) func(string) ([]byte, error) {
		return func(name string) ([]byte, error) {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == name {
					return []byte(pairs[i+1]), nil
				}
			}
			return nil, fs.ErrNotExist
		}
	}
	for name, c := range map[string]struct {
		read func(string) ([]byte, error)
		want int64
	}{
		"not Linux": {files(), 0},
		"container": {files("/proc/self/cgroup", "0::/\n", "/sys/fs/cgroup/memory.max", "536870912\n"), 512 << 20},
		"no limit":  {files("/proc/self/cgroup", "0::/\n", "/sys/fs/cgroup/memory.max", "max\n"), 0},
		"the parent's is less": {files("/proc/self/cgroup", "1:name=systemd:/x\n0::/a/b\n", "/sys/fs/cgroup/a/b/memory.max", "900\n",
			"/sys/fs/cgroup/a/memory.max", "800\n", "/sys/fs/cgroup/memory.max", "max\n"), 800},
		"nonsense": {files("/proc/self/cgroup", "0::/../..\n", "/sys/fs/cgroup/memory.max", "-5\n"), 0},
	} {
		if got := cgroupLimit(c.read); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// TestShares: what the parts may take leaves half for the rest, whatever the limit.
func TestShares(t *testing.T) {
	for _, total := range []int64{minMemory, 256 << 20, 1 << 30, 1 << 40} {
		s := shares(total, 0)
		if sum := s.head + s.query + s.columns + s.inFlight; sum > total/2 || s.head <= 0 || s.query <= 0 || s.columns <= 0 || s.inFlight <= 0 {
			t.Errorf("%d: %+v", total, s)
		}
		if all := s.head + s.query + s.columns + s.inFlight + s.ingest + s.agents + s.results + s.nonces + s.symbols; all > total/4*3 || s.agents <= 0 || s.results <= 0 || s.nonces <= 0 || s.symbols <= 0 {
			t.Errorf("%d: all parts at once leave too little: %+v", total, s)
		}
	}
	if s := shares(0, 0); s != (memoryShares{1 << 30, 256 << 20, 64 << 20, 64 << 20, 256 << 20, 256 << 20, 128 << 20, 64 << 20, 192 << 20}) {
		t.Errorf("no limit: %+v", s)
	}
	if s := shares(1<<30, 5); s.query != 5 {
		t.Errorf("--query-memory is not heard: %+v", s)
	}
}

func TestDefaultDataDir(t *testing.T) {
	home := func() (string, error) { return "/home/u", nil }
	homeless := func() (string, error) { return "", errors.New("$HOME is not defined") }
	for _, c := range []struct {
		goos string
		env  map[string]string
		home func() (string, error)
		want string // "" is an error
	}{
		{"linux", nil, home, "/home/u/.local/share/quantra"},
		{"linux", map[string]string{"XDG_DATA_HOME": "/x"}, home, "/x/quantra"},
		{"linux", map[string]string{"XDG_DATA_HOME": "relative"}, home, "/home/u/.local/share/quantra"},
		{"linux", nil, homeless, ""},
		{"darwin", nil, home, "/home/u/Library/Application Support/quantra"},
		{"windows", map[string]string{"LocalAppData": "/local"}, home, "/local/quantra"},
		{"windows", nil, home, ""},
	} {
		got, err := defaultDataDir(c.goos, func(k string) string { return c.env[k] }, c.home)
		if (err == nil) != (c.want != "") || filepath.ToSlash(got) != c.want {
			t.Errorf("%s %v: %q %v, want %q", c.goos, c.env, got, err, c.want)
		}
	}
}

func TestOneLine(t *testing.T) {
	if got, want := oneLine("a\n\n  b \nc"), "a b c"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestWriteFileIsAtomic: what was there stays until the new is whole, and
// nothing else is left in the folder.
func TestWriteFileIsAtomic(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "out")
	put := func(text string, fail error) error {
		return writeFile(name, func(w io.Writer) error {
			fmt.Fprint(w, text)
			return fail
		})
	}
	if err := put("old", nil); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	if err := put("new", broken); !errors.Is(err, broken) || !strings.Contains(err.Error(), name) {
		t.Errorf("error %v must wrap the cause and name %s", err, name)
	}
	if b, err := os.ReadFile(name); err != nil || string(b) != "old" {
		t.Errorf("after a failure the file holds %q, %v", b, err)
	}
	if err := put("new", nil); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(name); err != nil || string(b) != "new" {
		t.Errorf("the file holds %q, %v", b, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v, %v", entries, err)
	}
	if runtime.GOOS != "windows" {
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm()&0o400 == 0 || info.Mode().Perm() == fs.FileMode(0o600) && umaskAllowsGroup(t) {
			t.Errorf("mode %v, %v: the umask should say, not a temporary file", info.Mode(), err)
		}
	}
}

// umaskAllowsGroup says whether a plain new file can be read by the group.
func umaskAllowsGroup(t *testing.T) bool {
	t.Helper()
	name := filepath.Join(t.TempDir(), "plain")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()&0o040 != 0
}

func TestProgressAppearsAfterASecond(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	p := newProgress(&out, "reading cpu.pb.gz", 1000, func() time.Time { return now })
	p.add(100)
	now = now.Add(progressDelay - 1)
	p.add(100)
	if out.Len() != 0 {
		t.Fatalf("drawn early: %q", &out)
	}
	now = now.Add(1)
	p.add(100)
	if !strings.Contains(out.String(), "reading cpu.pb.gz") {
		t.Errorf("not drawn: %q", &out)
	}
	p.end()

	quiet := &progress{}
	quiet.add(1 << 40)
	quiet.end()
	if quiet.bar != nil {
		t.Error("the zero value draws")
	}
}

func TestColours(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	for mode, want := range map[string]bool{"always": true, "never": false, "auto": false} {
		if got, err := colours(&bytes.Buffer{}, mode); err != nil || got != want {
			t.Errorf("%s to a buffer: %v %v", mode, got, err)
		}
	}
	if _, err := colours(&bytes.Buffer{}, "pink"); exitCode(err) != exitUsage {
		t.Errorf("pink: %v", err)
	}
}

func TestKeepRules(t *testing.T) {
	var k keepRules
	for _, s := range []string{"default/checkout=90d", "*/batch=36h", "a/*=forever"} {
		if err := k.Set(s); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := k.String(), "default/checkout=90d,*/batch=36h,a/*=forever"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	o := engineOptions{retention: age(24 * time.Hour), keep: k[:2]}
	if got := o.longest(); got != 90*24*time.Hour {
		t.Errorf("the longest is %v", got)
	}
	if o.keep = k; o.longest() != forever {
		t.Errorf("the longest is %v", o.longest())
	}
	r := o.retain()
	if r.KeepFor("x", "batch") != 36*time.Hour || r.KeepFor("a", "y") >= 0 || r.KeepFor("x", "y") != 24*time.Hour || r.ArchiveAfter >= 0 {
		t.Errorf("%+v", r)
	}
	for _, bad := range []string{"", "90d", "a=90d", "/b=1d", "a/b", "a/b=", "a/b=0d", "a/b=-1h", "a/b=never"} {
		if err := new(keepRules).Set(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
