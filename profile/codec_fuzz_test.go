package profile

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"testing"

	google "github.com/google/pprof/profile"
)

// codecFuzzLimits keep a fuzzer's inputs small.
var codecFuzzLimits = Limits{Compressed: 1 << 20, Decoded: 4 << 20}

func codecSeeds(f *testing.F) {
	f.Helper()
	for name, b := range codecCorpus(f) {
		raw, err := decompress(b, Limits{}.withDefaults())
		if err != nil {
			f.Fatalf("%s: %v", name, err)
		}
		if len(raw) < 40<<10 { // mutating more is slow and finds no more
			f.Add(b)
			f.Add(slices.Clone(raw))
		}
	}
	for _, c := range codecBroken {
		f.Add(c.msg)
	}
}

func FuzzDecode(f *testing.F) {
	codecSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := DecodeBytes(b, codecFuzzLimits)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrTooLarge) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		codecRoundTrip(t, p)
		if ids := p.StackIDs(); len(ids) != p.Stacks.Len() {
			t.Fatalf("%d identities of %d stacks", len(ids), p.Stacks.Len())
		}
		if err := p.Compact().Check(); err != nil {
			t.Fatalf("compact: %v", err)
		}
	})
}

// FuzzAgree: what google/pprof reads we read, and it means the same, but for the
// exceptions that Decode names.
func FuzzAgree(f *testing.F) {
	codecSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		raw, err := decompress(b, codecFuzzLimits.withDefaults())
		if err != nil {
			return
		}
		g, err := google.ParseUncompressed(raw)
		if err != nil || g.CheckValid() != nil {
			return
		}
		p, err := DecodeBytes(raw, codecFuzzLimits)
		if errors.Is(err, ErrTooLarge) || err != nil && bytes.Contains([]byte(err.Error()), []byte("varint")) {
			return
		}
		if err != nil {
			t.Fatalf("google/pprof reads it, we say: %v", err)
		}
		if ours, theirs := codecSums(p), codecGoogleSums(g); !maps.EqualFunc(ours, theirs, slices.Equal) {
			t.Fatalf("ours:\n%v\ngoogle/pprof's:\n%v", ours, theirs)
		}
	})
}
