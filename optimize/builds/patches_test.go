package builds

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/patch"
	"github.com/quantra-l/quantra/optimize/pull"
	"github.com/quantra-l/quantra/optimize/pull/pulltest"
)

const priceFile = "cart/price.go"

var shop = Source{Repository: "shop/checkout", Base: "main"}

// patcher is an actuator of patches, on the world's hub.
func (w *world) patcher() *Actuator {
	a, err := NewPatcher(PatchOptions{
		Source: func(service string) (Source, bool) { return shop, service == "checkout" },
		Clients: func(Source) (client, dry *pull.Client, err error) {
			o := pull.Options{API: w.hub.URL + "/api/v3", Token: "t"}
			if client, err = pull.New(o); err != nil {
				return nil, nil, err
			}
			o.DryRun = &bytes.Buffer{}
			dry, err = pull.New(o)
			return client, dry, err
		},
		Instances: func(string, string) []Instance { return slices.Clone(w.instances) },
		Now:       func() time.Time { return w.now },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// price is the file that a real linter's report is of.
func price(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "patch", "testdata", "price.go.txt"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// found is what a real linter's fix makes of a file.
func found(t testing.TB, rule, file string) *patch.Patch {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "patch", "testdata", "staticcheck.sarif"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := patch.Read(bytes.NewReader(raw), patch.Options{Columns: "utf8CodeUnits"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.Pick(0, rule)
	if err != nil {
		t.Fatal(err)
	}
	p, err := f.Apply(1, func(string) ([]byte, bool, error) { return []byte(file), true, nil })
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func input(t testing.TB) PatchInput {
	return PatchInput{Service: "checkout", Source: shop, Finding: "Staticcheck S1012 at cart/price.go:30", Text: "should use time.Since instead of time.Now().Sub", Patch: found(t, "S1012", price(t)),
		Gain: Gain{Known: true, Found: true, From: wednesday.Add(-3 * time.Hour), To: wednesday, Functions: 0.12, Lines: 0.05, Cores: 20}}
}

// newPatch is a world in which a patch of a real finding is proposed.
func newPatch(t *testing.T) *world {
	w := newWorld(t)
	w.hub = pulltest.New(t, map[string]string{priceFile: price(t), "go.mod": "module example.com/shop\n"})
	p, err := ProposePatch(input(t))
	if err != nil {
		t.Fatal(err)
	}
	w.patch = p
	return w
}

// begin proposes it, lets some time pass in which nothing is done, and starts it as a person.
func (w *world) begin() string {
	w.t.Helper()
	id := w.propose()
	for range 4 {
		w.pass()
	}
	if c := w.change(id); c.State != optimize.Proposed || len(w.hub.Pulls) != 0 {
		w.t.Fatalf("nobody has started it, and it is %s, with %d pull requests", c.State, len(w.hub.Pulls))
	}
	for range 5 {
		if _, err := w.o.Act(w.t.Context(), "t", id, optimize.Action{Do: "start", By: "ada"}); err == nil {
			return id
		}
		w.pass() // it died
	}
	w.t.Fatal("it cannot be started")
	return ""
}

// TestPatchGood: a person starts it, people merge it, go on with the same file, and roll it out; it is proven beside the version before.
func TestPatchGood(t *testing.T) {
	w := newPatch(t)
	w.cpu = 0.9
	id := w.begin()
	c := w.until("it waits", id, 10*window, awaiting)
	if !strings.Contains(c.Held, "pull request 7 waits to be merged") || c.Units[0].ID != "shop/checkout:cart/price.go" {
		t.Errorf("held at %s: %s", c.Units[0].ID, c.Held)
	}
	pr := w.hub.Pulls[0]
	branch := pr["head"].(map[string]any)["ref"].(string)
	if pr["title"] != "Patch: Staticcheck S1012 at cart/price.go:30" || branch != "quantraband/patch-checkout-"+id || !strings.Contains(pr["body"].(string), "at most") || !strings.Contains(pr["body"].(string), "Nobody has compiled") {
		t.Errorf("%s, %s:\n%s", pr["title"], branch, pr["body"])
	}
	if got := w.hub.Branch(branch); !strings.Contains(got[priceFile], "return time.Since(made)") || got["go.mod"] == "" || len(got) != 2 {
		t.Errorf("the branch has %q", got)
	}
	w.hub.Merge(7, w.now)
	w.hub.Commit("main", map[string]string{priceFile: "// A new first line.\n\n" + w.hub.Branch("main")[priceFile]})
	c = w.until("a build is out", id, time.Hour, is(optimize.Dwelling))
	if !slices.Equal(c.Versions, []string{"v1", "v2"}) {
		t.Errorf("versions %v", c.Versions)
	}
	c = w.until("it is judged", id, 2*time.Hour, is(optimize.Done))
	if c.Saved == nil || c.Saved.Cores.Low <= 0 || len(w.hub.Pulls) != 1 {
		t.Errorf("saved %+v; %d pull requests: %s", c.Saved, len(w.hub.Pulls), c.Reason)
	}
}

// TestPatchBad: what does harm is asked back by a pull request that takes out the patch, and leaves what others have done since.
func TestPatchBad(t *testing.T) {
	for _, others := range []string{"", "// A new first line.\n\n"} {
		w := newPatch(t)
		w.cpu, w.guilty = 1.4, true
		id := w.begin()
		w.until("it waits", id, 10*window, awaiting)
		w.hub.Merge(7, w.now)
		if others != "" {
			w.hub.Commit("main", map[string]string{priceFile: others + w.hub.Branch("main")[priceFile], "new.go": "package shop\n"})
		}
		c := w.until("the pull request back", id, 3*time.Hour, func(c *optimize.Change) bool { return strings.Contains(c.Held, "pull request 8") })
		if !strings.Contains(c.Held, "roll back to v1") || len(w.hub.Pulls) != 2 {
			t.Errorf("held: %s; %d pull requests", c.Held, len(w.hub.Pulls))
		}
		if title := w.hub.Pulls[1]["title"]; title != "shop/checkout: back to what it was before #7" || !strings.Contains(w.hub.Pulls[1]["body"].(string), "main.hash") {
			t.Errorf("%s\n%s", title, w.hub.Pulls[1]["body"])
		}
		for range 10 {
			w.pass()
		}
		if c := w.change(id); c.State != optimize.Undoing || len(w.hub.Pulls) != 2 {
			t.Errorf("before anybody has merged it is %s, with %d pull requests", c.State, len(w.hub.Pulls))
		}
		w.hub.Merge(8, w.now)
		w.until("the undo", id, time.Hour, is(optimize.Failed))
		got := w.hub.Branch("main")
		if got[priceFile] != others+price(t) || (others != "") != (got["new.go"] != "") {
			t.Errorf("the base has %q", got)
		}
		if _, err := w.o.Submit(t.Context(), "t", w.proposal(), "ada"); !errors.Is(err, optimize.ErrState) {
			t.Errorf("what failed may be proposed again: %v", err)
		}
	}
}

// TestPatchPeople: people close it, take it back, change what it changed, or have changed its files before it starts.
func TestPatchPeople(t *testing.T) {
	w := newPatch(t)
	id := w.begin()
	w.until("it waits", id, 10*window, awaiting)
	w.hub.Pulls[0]["state"] = "closed"
	c := w.until("nobody wants it", id, time.Hour, is(optimize.Undone))
	if !strings.Contains(c.Reason, "was closed and not merged") || len(w.hub.Pulls) != 1 {
		t.Errorf("%s; %d pull requests", c.Reason, len(w.hub.Pulls))
	}

	w = newPatch(t)
	id = w.begin()
	w.until("it waits", id, 10*window, awaiting)
	if _, err := w.o.Act(t.Context(), "t", id, optimize.Action{Do: "undo", By: "ada"}); err != nil {
		t.Fatal(err)
	}
	w.until("a person's undo", id, 10*time.Minute, is(optimize.Undone))
	if w.hub.Pulls[0]["state"] != "closed" || len(w.hub.Pulls) != 1 {
		t.Errorf("%+v", w.hub.Pulls)
	}

	// Started again, it is asked for anew: what became of the first pull request is of that time.
	if _, err := w.o.Act(t.Context(), "t", id, optimize.Action{Do: "start", By: "ada"}); err != nil {
		t.Fatal(err)
	}
	w.until("it waits again", id, 10*window, func(c *optimize.Change) bool { return awaiting(c) && strings.Contains(c.Held, "pull request 8 waits") })
	w.hub.Merge(8, w.now)
	w.until("it is judged", id, 3*time.Hour, is(optimize.Dwelling))
	if len(w.hub.Pulls) != 2 || w.hub.Pulls[0]["state"] != "closed" {
		t.Errorf("%+v", w.hub.Pulls)
	}

	for what, c := range map[string]struct{ file, want string }{
		"taken back":     {"// First.\n" + price(t), "taken back since"},
		"changed itself": {strings.Replace(price(t), "time.Now().Sub(made)", "time.Until(made)", 1), "somebody has changed cart/price.go"},
		"removed":        {"", "somebody has changed cart/price.go"},
	} {
		w := newPatch(t)
		id := w.begin()
		w.until("it waits", id, 10*window, awaiting)
		w.hub.Merge(7, w.now)
		w.until("a build is out", id, time.Hour, is(optimize.Dwelling))
		w.hub.Commit("main", map[string]string{priceFile: c.file})
		got := w.until(what, id, time.Hour, func(c *optimize.Change) bool { return c.State.Ended() })
		if got.State != optimize.Undone || !strings.Contains(got.Reason, c.want) || len(w.hub.Pulls) != 1 || w.hub.Branch("main")[priceFile] != c.file {
			t.Errorf("%s: %s: %s; %d pull requests", what, got.State, got.Reason, len(w.hub.Pulls))
		}
	}

	w = newPatch(t)
	w.hub.Commit("main", map[string]string{priceFile: price(t) + "\n// More.\n"})
	id = w.begin()
	c = w.until("the base has moved", id, 20*time.Minute, func(c *optimize.Change) bool { return c.State.Ended() })
	if c.State != optimize.Undone || !strings.Contains(c.Reason, "has changed since the patch was proposed: lint it again") || len(w.hub.Pulls) != 0 {
		t.Errorf("%s: %s; %d pull requests", c.State, c.Reason, len(w.hub.Pulls))
	}
}

// TestPatchCrashPoints: wherever the optimizer dies, at what it keeps and at what it sends, there is one pull request there, and one back at most, and it ends as it must.
func TestPatchCrashPoints(t *testing.T) {
	for _, cpu := range []float64{0.9, 1.4} {
		run := func(dieAt int, after bool) *world {
			w := newPatch(t)
			w.cpu, w.dieAt, w.dieAfter, w.first, w.back = cpu, dieAt, after, time.Minute, time.Minute
			w.hub.Fault = func(rw http.ResponseWriter, method, _ string) bool {
				if method == http.MethodGet && !w.dead {
					return false
				}
				if err := w.effect(func() error { return nil }); err != nil && (w.dead && !after || w.effects != w.dieAt) {
					w.hub.Refuse(rw, http.StatusBadGateway, "planted")
					return true
				}
				return false // it is done, and who asked is dead
			}
			id := w.begin()
			w.until("it waits", id, time.Hour, awaiting)
			w.hub.Merge(7, w.now)
			want := optimize.Done
			if cpu > 1 {
				want = optimize.Failed
				w.until("the pull request back", id, 8*time.Hour, func(c *optimize.Change) bool { return len(w.hub.Pulls) == 2 })
				w.hub.Merge(8, w.now)
			}
			what := fmt.Sprintf("died at effect %d (after it: %t)", dieAt, after)
			w.until(what, id, 8*time.Hour, is(want))
			if n := len(w.hub.Pulls); n != 1 && cpu < 1 || n != 2 && cpu > 1 || (w.hub.Branch("main")[priceFile] == price(t)) != (cpu > 1) {
				t.Fatalf("%s: %d pull requests; the base has %q", what, n, w.hub.Branch("main")[priceFile])
			}
			return w
		}
		effects := run(0, false).effects
		if effects < 15 {
			t.Fatalf("%d effects: there is nothing to die at", effects)
		}
		for at := 1; at <= min(effects, 26); at += crashStep {
			run(at, (at/crashStep)%2 == 0 == (cpu > 1))
		}
	}
}

// TestPatchSpec: a proposal goes only where the policy says, and a diff that does not make what was proposed is not put there.
func TestPatchSpec(t *testing.T) {
	w := newPatch(t)
	a := w.patcher()
	p := w.proposal()
	if err := a.Check(&p); err != nil {
		t.Fatal(err)
	}
	spec := func(change func(s *PatchSpec)) optimize.Proposal {
		p := w.proposal()
		s, _, err := ParsePatchSpec(p.Spec)
		if err != nil {
			t.Fatal(err)
		}
		change(&s)
		raw, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		p.Spec = raw
		return p
	}
	for what, change := range map[string]func(s *PatchSpec){
		"another repository": func(s *PatchSpec) { s.Repository = "shop/other" },
		"another base":       func(s *PatchSpec) { s.Base = "release" },
		"another server":     func(s *PatchSpec) { s.API = "https://example.com" },
		"no title":           func(s *PatchSpec) { s.Title = "" },
		"two lines":          func(s *PatchSpec) { s.Title = "a\nb" },
		"no diff":            func(s *PatchSpec) { s.Diff = "" },
		"another file":       func(s *PatchSpec) { s.Files[0].Path = "go.mod" },
		"a file more":        func(s *PatchSpec) { s.Files = append(s.Files, s.Files[0]) },
		"no name of git's":   func(s *PatchSpec) { s.Files[0].Was = "main" },
		"a way out": func(s *PatchSpec) {
			s.Diff = strings.ReplaceAll(s.Diff, priceFile, "../price.go")
			s.Files[0].Path = "../price.go"
		},
	} {
		p := spec(change)
		if err := a.Check(&p); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
	other := w.proposal()
	other.Service = "search"
	if err := a.Check(&other); !errors.Is(err, optimize.ErrRefused) || !strings.Contains(err.Error(), "under patch") {
		t.Errorf("a service without source: %v", err)
	}
	for what, change := range map[string]func(s *PatchSpec){
		"another outcome": func(s *PatchSpec) { s.Files[0].Becomes = pull.BlobID(nil) },
		"another line": func(s *PatchSpec) {
			s.Diff = strings.Replace(s.Diff, "+\treturn time.Since", "+\treturn time.Until", 1)
		},
		"another file": func(s *PatchSpec) { s.Files[0].Was = pull.BlobID([]byte("module example.com/shop\n")) },
	} {
		c := &optimize.Change{Proposal: spec(change), Tenant: "t"}
		if _, err := a.Snapshot(t.Context(), c, optimize.Target{}); !errors.Is(err, optimize.ErrRefused) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestPatchRace: somebody who commits to a file between the rehearsal and the pull request has it refused: what is there would be taken back by it.
func TestPatchRace(t *testing.T) {
	w := newPatch(t)
	a := w.patcher()
	c := &optimize.Change{ID: "0123456789abcdef", Proposal: w.proposal(), Tenant: "t"}
	snap, err := a.Snapshot(t.Context(), c, optimize.Target{})
	if err == nil {
		err = a.Rehearse(t.Context(), c, optimize.Target{}, snap)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.hub.Commit("main", map[string]string{priceFile: price(t) + "\n// More.\n"})
	if err := a.Apply(t.Context(), c, optimize.Target{}, snap); !errors.Is(err, optimize.ErrRefused) || !strings.Contains(err.Error(), "has changed in main since") || len(w.hub.Pulls) != 0 {
		t.Errorf("%v; %d pull requests", err, len(w.hub.Pulls))
	}
}

// TestProposePatch: what it may gain is at most what profiles say, with where that is from, and the same finding is the same change.
func TestProposePatch(t *testing.T) {
	in := input(t)
	p, err := ProposePatch(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, figure := range []string{"Staticcheck S1012", "should use time.Since", "shop/checkout (main)", "Age in cart/price.go:30", "at most 12 % CPU", "3 hours up to 25 Nov 09:00 UTC", "lines alone: 5 %"} {
		if !strings.Contains(p.Sentence, figure) {
			t.Errorf("%q does not say %q", p.Sentence, figure)
		}
	}
	if math.Abs(p.Saving-2.4) > 1e-9 || p.Expected["cpu_per_request"] != (analyze.Estimate{Value: -0.12, Low: -0.12}) || p.Stands != patchStands || p.Kind != optimize.Patch {
		t.Errorf("%+v", p)
	}
	hostile := input(t)
	hostile.Finding, hostile.Text = "lint fixes #1\n@ada", "closes #2 \x1b[2J<img src=x>\n"
	if q, err := ProposePatch(hostile); err != nil || strings.ContainsAny(q.Sentence+q.Subject, "\n\x1b") {
		t.Errorf("%+v, %v", q, err)
	} else if s, _, err := ParsePatchSpec(q.Spec); err != nil || s.Title != "Patch: lint fixes -1 -ada" {
		t.Errorf("%q, %v", s.Title, err)
	}
	in.Gain.Functions = 0.2
	if again, err := ProposePatch(in); err != nil || again.ID() != p.ID() {
		t.Errorf("other figures are another change: %v", err)
	}
	in.Patch = found(t, "S1012", price(t)+"\n// More.\n")
	if again, err := ProposePatch(in); err != nil || again.ID() == p.ID() {
		t.Errorf("another file is the same change: %v", err)
	}
	for what, c := range map[string]struct {
		gain Gain
		want string
	}{
		"no profiles":       {Gain{}, "not known: there are no profiles"},
		"not on a stack":    {Gain{Known: true, From: wednesday.Add(-time.Hour), To: wednesday, Cores: 3}, "nothing is expected"},
		"out of functions":  {Gain{Known: true, Outside: true, Cores: 3}, "in no function"},
		"partly outside":    {Gain{Known: true, Found: true, Outside: true, Functions: 0.5, Cores: 2}, "at most 50 %"},
		"less than nothing": {Gain{Known: true, Found: true, Functions: -1}, ""},
		"more than all":     {Gain{Known: true, Found: true, Functions: 1.1}, ""},
		"no number":         {Gain{Known: true, Found: true, Cores: math.NaN()}, ""},
	} {
		in.Gain = c.gain
		p, err := ProposePatch(in)
		if (err != nil) != (c.want == "") {
			t.Errorf("%s: %v", what, err)
		} else if err == nil && (!strings.Contains(p.Sentence, c.want) || (p.Saving != 0) != (c.gain.Functions > 0)) {
			t.Errorf("%s: saves %g: %s", what, p.Saving, p.Sentence)
		}
	}
}

// FuzzPatchSpec: a spec that is taken names files of its diff, all of them within the repository.
func FuzzPatchSpec(f *testing.F) {
	p, err := ProposePatch(input(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(p.Spec))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, diffs, err := ParsePatchSpec(raw)
		if err != nil {
			return
		}
		if len(s.Files) == 0 || len(s.Files) != len(diffs) || len(s.Files) > patch.MaxFiles || len(s.Diff) > patch.MaxDiff {
			t.Errorf("%s is taken", raw)
		}
		for _, file := range s.Files {
			if file.Path == "" || strings.HasPrefix(file.Path, "/") || strings.Contains("/"+file.Path+"/", "/../") || strings.ContainsAny(s.Title, "\r\n") {
				t.Errorf("%q, %q", file.Path, s.Title)
			}
		}
	})
}

// TestOldSnapshot: a change that was under way before there were patches goes on: its snapshot has the names of one file.
func TestOldSnapshot(t *testing.T) {
	w := newWorld(t)
	w.hub = pulltest.New(t, map[string]string{name: "a profile"})
	place, err := w.open(Where{Pull: &Pull{Repository: "shop/checkout", Path: name}})
	if err != nil {
		t.Fatal(err)
	}
	s := place.(*Pulls)
	was := func(raw string) (pullWas, error) { return s.was(Put{Was: json.RawMessage(raw)}) }
	if got, err := was(`{"was":"","ours":"b"}`); err != nil || got.Files[name] != (fileNames{"", "b"}) || len(got.Files) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	raw, err := s.Was(t.Context(), Put{Change: "c", Service: "checkout"}, map[string][]byte{name: []byte("another")})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := was(string(raw)); err != nil || got.Files[name] != (fileNames{pull.BlobID([]byte("a profile")), pull.BlobID([]byte("another"))}) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{`{}`, `x`, `{"files":{}}`} {
		if _, err := was(bad); !errors.Is(err, optimize.ErrRefused) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
