package profile

import (
	"bytes"
	"errors"
	"flag"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	google "github.com/google/pprof/profile"
)

// codecFuzzLimits keep what one input costs small, and make every limit one that a fuzzer can pass.
var codecFuzzLimits = Limits{Compressed: 16 << 10, Decoded: 64 << 10, SampleTypes: 8, Samples: 500, Depth: 200, Stacks: 5000,
	Labels: 10, LabelSets: 500, Locations: 1000, Lines: 1000, Functions: 1000, Mappings: 50, Comments: 50, Strings: 1000, StringBytes: 1000}

// codecFuzzQuickly leaves a fuzzer time to find things. By default go test spends up to a minute on making each
// input that reaches new code smaller, and tries every pair of its bytes; a profile has hundreds. What
// -fuzzminimizetime says on the command line holds.
func codecFuzzQuickly(f *testing.F) {
	f.Helper()
	const name = "test.fuzzminimizetime"
	said := false
	flag.Visit(func(fl *flag.Flag) { said = said || fl.Name == name })
	if !said {
		if err := flag.Set(name, "50x"); err != nil {
			f.Fatal(err)
		}
	}
}

// codecTiny is p with nothing but what its first samples need, one with labels among them if there is one.
func codecTiny(p *Profile) *Profile {
	q := *p
	q.Values = make([][]int64, len(p.Values))
	for t := range p.Values {
		q.Values[t] = make([]int64, p.NumSamples())
	}
	left, labelled := 2, false
	for i := range p.SampleStack {
		if labels := p.SampleLabels[i] != 0; left > 0 || labels && !labelled {
			for t, v := range p.Values {
				q.Values[t][i] = max(v[i], 1)
			}
			left--
			labelled = labelled || labels
		}
	}
	return q.Compact()
}

// codecSeeds is a tiny profile of each kind in the corpus, and every broken one that the tests know.
func codecSeeds(f *testing.F) {
	f.Helper()
	kinds := map[string]bool{}
	for name, b := range codecCorpus(f) {
		_, kind, _ := strings.Cut(name, "_")
		if kinds[kind] {
			continue
		}
		kinds[kind] = true
		p, err := DecodeBytes(b, Limits{})
		if err != nil {
			f.Fatalf("%s: %v", name, err)
		}
		p = codecTiny(p)
		if p.NumSamples() == 0 {
			f.Fatalf("%s: a seed without samples", name)
		}
		f.Add(p.AppendPprof(nil))
		if kind == "threadcreate" { // the smallest
			var z bytes.Buffer
			if err := p.Encode(&z); err != nil {
				f.Fatal(err)
			}
			f.Add(z.Bytes())
		}
	}
	if len(kinds) < 8 {
		f.Fatalf("the corpus has %d kinds of profile, want at least 8", len(kinds))
	}
	for _, c := range codecBroken {
		f.Add(c.msg)
	}
	f.Add(codecSmall(2, codecMsg(1, 1, 1, 1, 2, 9)))
}

func FuzzDecode(f *testing.F) {
	codecFuzzQuickly(f)
	codecSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := DecodeBytes(b, codecFuzzLimits)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrTooLarge) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		if err := p.Check(); err != nil {
			t.Fatal(err)
		}
		q, err := DecodeBytes(p.AppendPprof(nil), Limits{})
		if err != nil {
			t.Fatalf("what we encode: %v", err)
		}
		if !reflect.DeepEqual(p, q) {
			t.Fatalf("decode(encode(p)) is not p:\n%+v\n%+v", p, q)
		}
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
	codecFuzzQuickly(f)
	codecSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		raw, err := decompress(b, codecFuzzLimits.withDefaults())
		if err != nil {
			return
		}
		p, err := DecodeBytes(raw, codecFuzzLimits)
		if errors.Is(err, ErrTooLarge) || err != nil && strings.Contains(err.Error(), "varint") {
			return
		}
		g, gerr := google.ParseUncompressed(raw)
		if gerr != nil || g.CheckValid() != nil {
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
