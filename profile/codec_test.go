package profile

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	google "github.com/google/pprof/profile"
)

// codecSums is what a profile says, in a form that does not depend on who read
// it: each distinct sample, as frames and labels in text, with the sum of its values.
func codecSums(p *Profile) map[string][]int64 {
	locs := make([]string, len(p.Locations))
	for i, l := range p.Locations {
		mp := p.Mappings[l.Mapping]
		locs[i] = fmt.Sprintf("%x %v %q %q\n", l.Address, l.Folded, p.Strings[mp.File], p.Strings[mp.BuildID])
		for _, ln := range p.LinesOf(uint32(i)) {
			f := p.Functions[ln.Function]
			locs[i] += codecLine(p.Strings[f.Name], p.Strings[f.SystemName], p.Strings[f.File], f.StartLine, ln.Line, ln.Column)
		}
	}
	sets := make([]string, len(p.LabelSets))
	for i, set := range p.LabelSets {
		var ls []string
		for _, l := range set {
			ls = append(ls, fmt.Sprintf("%q %q %d %q", p.Strings[l.Key], p.Strings[l.Str], l.Num, p.Strings[l.Unit]))
		}
		slices.Sort(ls)
		sets[i] = strings.Join(ls, "\n")
	}
	m := map[string][]int64{}
	var k strings.Builder
	for i, s := range p.SampleStack {
		k.Reset()
		for n := s; n != 0; n = p.Stacks.Parent[n] {
			k.WriteString(locs[p.Stacks.Loc[n]])
		}
		k.WriteString(sets[p.SampleLabels[i]])
		vals := make([]int64, len(p.Values))
		for t := range vals {
			vals[t] = p.Values[t][i]
		}
		codecAdd(m, k.String(), vals)
	}
	return m
}

func codecLine(name, system, file string, start, line, column int64) string {
	return fmt.Sprintf(" %q %q %q %d %d %d\n", name, system, file, start, line, column)
}

// codecGoogleSums is codecSums of google/pprof's form.
func codecGoogleSums(g *google.Profile) map[string][]int64 {
	valid := func(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
	locs := map[*google.Location]string{}
	for _, l := range g.Location {
		var mp google.Mapping
		if l.Mapping != nil {
			mp.File, mp.BuildID = l.Mapping.File, l.Mapping.BuildID
		}
		text := fmt.Sprintf("%x %v %q %q\n", l.Address, l.IsFolded, valid(mp.File), valid(mp.BuildID))
		for _, ln := range l.Line {
			f := ln.Function
			text += codecLine(valid(f.Name), valid(f.SystemName), valid(f.Filename), f.StartLine, ln.Line, ln.Column)
		}
		locs[l] = text
	}
	m := map[string][]int64{}
	var k strings.Builder
	for _, s := range g.Sample {
		k.Reset()
		for _, l := range s.Location {
			k.WriteString(locs[l])
		}
		var ls []string
		for key, vs := range s.Label {
			for _, v := range vs {
				ls = append(ls, fmt.Sprintf("%q %q %d %q", valid(key), valid(v), 0, ""))
			}
		}
		for key, vs := range s.NumLabel {
			for i, v := range vs {
				unit := ""
				if u := s.NumUnit[key]; i < len(u) {
					unit = u[i]
				}
				ls = append(ls, fmt.Sprintf("%q %q %d %q", valid(key), "", v, valid(unit)))
			}
		}
		slices.Sort(ls)
		k.WriteString(strings.Join(ls, "\n"))
		codecAdd(m, k.String(), s.Value)
	}
	return m
}

func codecAdd(m map[string][]int64, k string, vals []int64) {
	if m[k] == nil {
		m[k] = make([]int64, len(vals))
	}
	for t, v := range vals {
		m[k][t] += v
	}
}

// codecAgree fails unless p and g say the same.
func codecAgree(t *testing.T, p *Profile, g *google.Profile) {
	t.Helper()
	var types []ValueType
	for _, vt := range g.SampleType {
		types = append(types, ValueType{strings.ToValidUTF8(vt.Type, "\uFFFD"), strings.ToValidUTF8(vt.Unit, "\uFFFD")})
	}
	if !slices.Equal(types, p.SampleTypes) {
		t.Fatalf("sample types %v, google/pprof has %v", p.SampleTypes, types)
	}
	if len(g.Location) != len(p.Locations) || len(g.Function) != len(p.Functions) || len(g.Mapping)+1 != len(p.Mappings) || len(g.Sample) != p.NumSamples() {
		t.Fatalf("%d locations, %d functions, %d mappings, %d samples; google/pprof has %d, %d, %d, %d", len(p.Locations), len(p.Functions),
			len(p.Mappings)-1, p.NumSamples(), len(g.Location), len(g.Function), len(g.Mapping), len(g.Sample))
	}
	if p.TimeNanos != g.TimeNanos || p.DurationNanos != g.DurationNanos || p.Period != g.Period || len(p.Comments) != len(g.Comments) {
		t.Fatal("headers differ")
	}
	ours, theirs := codecSums(p), codecGoogleSums(g)
	if !maps.EqualFunc(ours, theirs, slices.Equal) {
		for k, v := range theirs {
			if !slices.Equal(ours[k], v) {
				t.Fatalf("sample\n%s\nis %v, google/pprof has %v", k, ours[k], v)
			}
		}
		t.Fatalf("%d distinct samples, google/pprof has %d", len(ours), len(theirs))
	}
}

// codecRoundTrip fails unless p is what its encoding decodes to, but for strings
// of the header that the table did not have.
func codecRoundTrip(t *testing.T, p *Profile) {
	t.Helper()
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
	g, err := google.ParseData(p.AppendPprof(nil))
	if err != nil {
		t.Fatalf("google/pprof on what we encode: %v", err)
	}
	codecAgree(t, p, g)
}

func TestAgreementWithGoogle(t *testing.T) {
	for name, b := range codecCorpus(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, err := google.ParseData(b)
			if err != nil {
				t.Fatal(err)
			}
			p, err := Decode(bytes.NewReader(b), Limits{})
			if err != nil {
				t.Fatal(err)
			}
			codecAgree(t, p, g)
			codecRoundTrip(t, p)

			// Merging a profile with itself is twice the profile, to both.
			twice, err := Merge(p, p)
			if err != nil {
				t.Fatal(err)
			}
			if err := twice.Check(); err != nil {
				t.Fatal(err)
			}
			gg, err := google.Merge([]*google.Profile{g, g.Copy()})
			if err != nil {
				t.Fatal(err)
			}
			if ours, theirs := codecSums(twice), codecGoogleSums(gg); !maps.EqualFunc(ours, theirs, slices.Equal) {
				t.Fatalf("merged: %d distinct samples, google/pprof has %d, or their values differ", len(ours), len(theirs))
			}
			diff, err := Diff(p, p, false)
			if err != nil {
				t.Fatal(err)
			}
			if diff.NumSamples() != 0 || diff.Stacks.Len() != 1 {
				t.Fatalf("p - p has %d samples and %d stacks", diff.NumSamples(), diff.Stacks.Len())
			}
		})
	}
}

// TestStacksInAnyForm: samples whose ids, values and labels are packed, one by one, or some of each, and
// whose stacks share and part anywhere, ids of every length among them, mean what they mean to google/pprof.
func TestStacksInAnyForm(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	ids := []uint64{1, 2, 127, 128, 300, 1<<14 - 1, 1 << 14, 1<<21 + 5, 1 << 40, 1<<64 - 1}
	e := pprofEncoder{b: codecMsg(6, "", 6, "cpu", 6, "ns", 6, "key", 1, codecMsg(1, 1, 2, 2), 5, codecMsg(1, 1, 2, 1))}
	for i, id := range ids {
		at := e.open(4)
		e.opt(1, id)
		e.opt(3, uint64(0x1000+i))
		e.done(at)
	}
	var stack []uint64
	for range 3000 {
		// The leaf is first, so that what is kept is the callers'.
		stack = slices.Clone(stack[rnd.IntN(len(stack)+1):])
		for rnd.IntN(4) > 0 && len(stack) < 30 {
			stack = slices.Insert(stack, 0, ids[rnd.IntN(len(ids))])
		}
		at := e.open(2)
		label := func() {
			e.b = append(e.b, codecMsg(3, codecMsg(1, 3, 3, 1+rnd.IntN(2)))...)
		}
		for left := stack; len(left) > 0; {
			n := 1 + rnd.IntN(len(left))
			if rnd.IntN(3) == 0 {
				n = len(left)
			}
			if n > 1 || rnd.IntN(2) == 0 {
				list := e.open(1)
				for _, id := range left[:n] {
					e.varint(id)
				}
				e.done(list)
			} else {
				e.opt(1, left[0])
			}
			if left = left[n:]; rnd.IntN(8) == 0 {
				label()
			}
		}
		e.opt(2, uint64(1+rnd.IntN(1000)))
		for range rnd.IntN(3) {
			label()
		}
		e.done(at)
	}
	p, err := DecodeBytes(e.b, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	g, err := google.ParseUncompressed(e.b)
	if err != nil {
		t.Fatal(err)
	}
	codecAgree(t, p, g)
	codecRoundTrip(t, p)
}

// TestLargeProfile: the short cuts of large profiles are taken, and every sample is google/pprof's.
func TestLargeProfile(t *testing.T) {
	raw := codecSynthetic(3 * memorySamples)
	d := pprofDecoder{wireReader: wireReader{b: raw}, lim: Limits{}.withDefaults()}
	p, err := d.profile()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	if d.samples.known.hits < p.NumSamples()/4 {
		t.Errorf("%d of %d stacks were known, want a quarter", d.samples.known.hits, p.NumSamples())
	}
	g, err := google.ParseUncompressed(raw)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range g.Sample {
		n := p.SampleStack[i]
		for _, l := range s.Location {
			if n == 0 || uint64(p.Stacks.Loc[n])+1 != l.ID {
				t.Fatalf("sample %d: location %d, google/pprof has %d", i, p.Stacks.Loc[n]+1, l.ID)
			}
			n = p.Stacks.Parent[n]
		}
		if n != 0 || s.Value[0] != p.Values[0][i] || s.Value[1] != p.Values[1][i] || len(s.Label) != len(p.LabelSets[p.SampleLabels[i]]) {
			t.Fatalf("sample %d differs from google/pprof's %v", i, s)
		}
	}
}

// TestTopAgreesWithGoogle: self and total of every function, in every column of every profile, are
// those of google/pprof's form of it, and still are when google/pprof has read what we encode.
func TestTopAgreesWithGoogle(t *testing.T) {
	for name, b := range codecCorpus(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := DecodeBytes(b, Limits{})
			if err != nil {
				t.Fatal(err)
			}
			for by, b := range map[string][]byte{"the original": b, "what we encode": p.AppendPprof(nil)} {
				g, err := google.ParseData(b)
				if err != nil {
					t.Fatal(err)
				}
				for col, vt := range p.SampleTypes {
					want := viewGoogleTop(g, col, p)
					if got := viewOurTop(p, col); got != want {
						t.Errorf("%s: our table is\n%s\ngoogle/pprof's of %s\n%s", vt.Type, got, by, want)
					}
					if want == "" && p.Total(col) != 0 {
						t.Errorf("%s: an empty table of a total of %d", vt.Type, p.Total(col))
					}
				}
			}
		})
	}
}

// goToolPprof is where the program is that `go tool pprof` runs: asked once, it runs without the go command.
var goToolPprof = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "tool", "-n", "pprof").Output()
	return strings.TrimSpace(string(out)), err
})

// runPprof is what `go tool pprof` with args prints.
func runPprof(t *testing.T, args ...string) string {
	t.Helper()
	tool, err := goToolPprof()
	if err != nil {
		if os.Getenv("QUANTRA_CI") != "" {
			t.Fatal(err)
		}
		t.Skip("SKIPPED, agreement with go tool pprof is not shown: ", err)
	}
	cmd := exec.Command(tool, args...)
	cmd.Env = append(os.Environ(), "PPROF_TMPDIR="+t.TempDir())
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || len(out) == 0 {
		t.Fatalf("go tool pprof %q: %v, %d bytes; it says:\n%s", args, err, len(out), stderr.String())
	}
	return string(out)
}

// TestGoToolReadsOurs: `go tool pprof -top` prints the same of the original and of what we encode,
// for one profile of each kind.
func TestGoToolReadsOurs(t *testing.T) {
	corpus := codecCorpus(t)
	kinds := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(corpus)) {
		_, kind, _ := strings.Cut(name, "_")
		if kinds[kind] {
			continue
		}
		kinds[kind] = true
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := DecodeBytes(corpus[name], Limits{})
			if err != nil {
				t.Fatal(err)
			}
			var z bytes.Buffer
			if err := p.Encode(&z); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "p.pb.gz")
			if err := os.WriteFile(file, z.Bytes(), 0o666); err != nil {
				t.Fatal(err)
			}
			want := runPprof(t, "-top", "-symbolize=none", filepath.Join("testdata", "corpus", name+".pb.gz"))
			if got := runPprof(t, "-top", "-symbolize=none", file); got != want {
				t.Errorf("go tool pprof -top says of ours\n%s\nof the original\n%s", got, want)
			}
		})
	}
	if len(kinds) < 10 {
		t.Fatalf("%d kinds of profile in the corpus, want 10", len(kinds))
	}
}

// TestAllocations: a decode makes at least ten times fewer objects than google/pprof's.
func TestAllocations(t *testing.T) {
	var ours, theirs float64
	for _, b := range codecCorpus(t) {
		ours += testing.AllocsPerRun(1, func() {
			if _, err := DecodeBytes(b, Limits{}); err != nil {
				t.Fatal(err)
			}
		})
		theirs += testing.AllocsPerRun(1, func() {
			if _, err := google.ParseData(b); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Logf("%.0f allocations, google/pprof %.0f: %.1f times", ours, theirs, theirs/ours)
	if ours*10 > theirs {
		t.Errorf("%.0f allocations, google/pprof %.0f: want at least 10 times fewer", ours, theirs)
	}
}
