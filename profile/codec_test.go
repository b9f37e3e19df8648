package profile

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	google "github.com/google/pprof/profile"
)

// codecSums is what a profile says, in a form that does not depend on who read
// it: each distinct sample, as frames and labels in text, with the sum of its values.
func codecSums(p *Profile) map[string][]int64 {
	m := map[string][]int64{}
	for i, s := range p.SampleStack {
		var k strings.Builder
		for n := s; n != 0; n = p.Stacks.Parent[n] {
			l := p.Locations[p.Stacks.Loc[n]]
			mp := p.Mappings[l.Mapping]
			fmt.Fprintf(&k, "%x %v %q %q\n", l.Address, l.Folded, p.Strings[mp.File], p.Strings[mp.BuildID])
			for _, ln := range p.LinesOf(p.Stacks.Loc[n]) {
				f := p.Functions[ln.Function]
				fmt.Fprintf(&k, " %q %q %q %d %d %d\n", p.Strings[f.Name], p.Strings[f.SystemName], p.Strings[f.File], f.StartLine, ln.Line, ln.Column)
			}
		}
		var ls []string
		for _, l := range p.LabelSets[p.SampleLabels[i]] {
			ls = append(ls, fmt.Sprintf("%q %q %d %q", p.Strings[l.Key], p.Strings[l.Str], l.Num, p.Strings[l.Unit]))
		}
		slices.Sort(ls)
		vals := make([]int64, len(p.Values))
		for t := range vals {
			vals[t] = p.Values[t][i]
		}
		codecAdd(m, k.String()+strings.Join(ls, "\n"), vals)
	}
	return m
}

// codecGoogleSums is codecSums of google/pprof's form.
func codecGoogleSums(g *google.Profile) map[string][]int64 {
	valid := func(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
	m := map[string][]int64{}
	for _, s := range g.Sample {
		var k strings.Builder
		for _, l := range s.Location {
			var mp google.Mapping
			if l.Mapping != nil {
				mp.File, mp.BuildID = l.Mapping.File, l.Mapping.BuildID
			}
			fmt.Fprintf(&k, "%x %v %q %q\n", l.Address, l.IsFolded, valid(mp.File), valid(mp.BuildID))
			for _, ln := range l.Line {
				f := ln.Function
				fmt.Fprintf(&k, " %q %q %q %d %d %d\n", valid(f.Name), valid(f.SystemName), valid(f.Filename), f.StartLine, ln.Line, ln.Column)
			}
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
		codecAdd(m, k.String()+strings.Join(ls, "\n"), s.Value)
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
	corpus := codecCorpus(t)
	// google/pprof's own test profiles, where the module cache has them.
	if dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/pprof").Output(); err == nil {
		files, _ := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "profile", "testdata", "*.pb.gz"))
		for _, f := range files {
			if b, err := os.ReadFile(f); err == nil {
				corpus["google_"+filepath.Base(f)] = b
			}
		}
	}
	for name, b := range corpus {
		t.Run(name, func(t *testing.T) {
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

func TestGoToolReadsOurs(t *testing.T) {
	for name, b := range codecCorpus(t) {
		if !strings.HasPrefix(name, "json_") {
			continue
		}
		p, err := DecodeBytes(b, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "p.pb.gz")
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Encode(f); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		theirs := filepath.Join("testdata", "corpus", name+".pb.gz")
		want, err := exec.Command("go", "tool", "pprof", "-top", "-symbolize=none", theirs).Output()
		if err != nil {
			t.Fatal(err)
		}
		got, err := exec.Command("go", "tool", "pprof", "-top", "-symbolize=none", file).Output()
		if err != nil {
			t.Fatalf("%s: go tool pprof: %v", name, err)
		}
		if !bytes.Equal(got, want) || len(got) == 0 {
			t.Errorf("%s: go tool pprof -top says of ours\n%s\nof the original\n%s", name, got, want)
		}
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
