package files

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/quantra-l/quantra/profile"
)

const speedscope = `{"shared":{"frames":[{"name":"a"}]},"profiles":[{"type":"sampled","unit":"none","samples":[[0]],"weights":[3]}]}`

func read(t *testing.T, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// samples are files as their profilers wrote them, by format.
func samples(t *testing.T) map[string][]byte {
	z, err := gzip.NewReader(bytes.NewReader(read(t, "..", "jfr", "testdata", "agent-2.1.2.jfr.gz")))
	if err != nil {
		t.Fatal(err)
	}
	recording, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	z, err = gzip.NewReader(bytes.NewReader(read(t, "..", "..", "profile", "testdata", "corpus", "json_cpu.pb.gz")))
	if err != nil {
		t.Fatal(err)
	}
	pprof, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		Pprof: pprof, Folded: []byte("[unknown];a 3\n"), Perf: read(t, "..", "..", "profile", "testdata", "perf-6.1.txt"),
		Speedscope: []byte(speedscope), CPUProfile: read(t, "..", "formats", "testdata", "node-20.cpuprofile"),
		Chrome: read(t, "..", "formats", "testdata", "chromium-trace.json"), JFR: recording,
	}
}

// TestRead: what a file is, its bytes say, however they are packed; and when it is said instead, it is read as that.
func TestRead(t *testing.T) {
	all := samples(t)
	if len(all) != len(Formats()) {
		t.Fatalf("%d samples of %d formats", len(all), len(Formats()))
	}
	for format, raw := range all {
		var zipped bytes.Buffer
		w := gzip.NewWriter(&zipped)
		if _, err := w.Write(raw); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		enc, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		for how, b := range map[string][]byte{"raw": raw, "gzip": zipped.Bytes(), "zstd": enc.EncodeAll(raw, nil)} {
			for _, said := range []string{"", format} {
				f, err := Read(bytes.NewReader(b), Options{Format: said})
				if err != nil || f.Format != format || f.Main().NumSamples() == 0 {
					t.Errorf("%s, %s, told %q: %v", format, how, said, err)
				}
			}
		}
		if _, err := Read(bytes.NewReader(zipped.Bytes()[:zipped.Len()-12]), Options{}); !errors.Is(err, profile.ErrCorrupt) {
			t.Errorf("%s, cut: %v", format, err)
		}
	}
	f, err := Read(bytes.NewReader(all[JFR]), Options{Rate: 50})
	if err != nil || len(f.Profiles) != 3 || f.Main().Period != 2e7 {
		t.Error(err)
	}
}

func TestReadRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		in, format string
		lim        profile.Limits
		want       error
		text       string
	}{
		"nothing":         {"", "", profile.Limits{}, profile.ErrCorrupt, "empty; understood are pprof"},
		"some text":       {"hello\n", "", profile.Limits{}, profile.ErrCorrupt, `starts with "hello\n"; understood are pprof`},
		"perf.data":       {"PERFILE2h\x00\x00\x00", "", profile.Limits{}, profile.ErrCorrupt, "perf script -i FILE"},
		"perf.data, pipe": {"2ELIFREP\x00\x00", "", profile.Limits{}, profile.ErrCorrupt, "perf script -i FILE"},
		"a program":       {"\x7fELF\x02\x01\x01", "", profile.Limits{}, profile.ErrCorrupt, "symbols upload"},
		"Go's trace":      {"go 1.26 trace\x00\x00\x00", "", profile.Limits{}, profile.ErrCorrupt, "go tool trace"},
		"other JSON":      {`{"a":1}`, "", profile.Limits{}, profile.ErrCorrupt, "JSON of another kind"},
		"cut JSON":        {speedscope[:40], "", profile.Limits{}, profile.ErrCorrupt, "cut short"},
		"not as was said": {"a;b 3\n", Speedscope, profile.Limits{}, profile.ErrCorrupt, "speedscope"},
		"too large":       {speedscope, "", profile.Limits{Decoded: 20}, profile.ErrTooLarge, "more than 20 bytes"},
	} {
		_, err := Read(strings.NewReader(c.in), Options{Format: c.format, Limits: c.lim})
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v; want ...%s...", name, err, c.text)
		}
	}
	broken := errors.New("the disk is gone")
	for size, lim := range map[int64]profile.Limits{1<<30 + 1: {}, 101: {Compressed: 100, Decoded: 50}} {
		if _, err := Read(failing{broken}, Options{Size: size, Limits: lim}); !errors.Is(err, profile.ErrTooLarge) {
			t.Errorf("%d bytes, the limits are %v: %v; want it refused, unread", size, lim, err)
		}
	}
	if _, err := Read(strings.NewReader("go 1.26;b 3\n"), Options{Size: 1 << 30, Limits: profile.Limits{Decoded: -1}}); err != nil {
		t.Error(err)
	}
	if _, err := Read(io.MultiReader(strings.NewReader("["+strings.Repeat(" ", 1<<15)), failing{broken}), Options{Format: Chrome}); !errors.Is(err, broken) {
		t.Error(err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestWindow(t *testing.T) {
	const modified = 1e18
	for name, c := range map[string]struct {
		at, length  int64
		from, until int64
		by          string
	}{
		"all is known":      {5e17, 1e9, 5e17, 5e17 + 1e9, "file"},
		"a snapshot":        {5e17, 0, 5e17, 5e17 + 1e6, "file"},
		"the length":        {0, 1e9, modified - 1e9, modified, "length"},
		"nothing":           {0, 0, modified - 10e9, modified, "modified"},
		"a length too long": {0, 2e18, modified - 10e9, modified, "modified"},
	} {
		from, until, by := Window(&profile.Profile{TimeNanos: c.at, DurationNanos: c.length}, modified)
		if from != c.from || until != c.until || by != c.by {
			t.Errorf("%s: %d to %d by %s", name, from, until, by)
		}
	}
}
