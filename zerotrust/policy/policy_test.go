package policy_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quantra-l/quantra/zerotrust/policy"
)

// TestLevels: the bounds of the levels, from both sides.
func TestLevels(t *testing.T) {
	for trust, want := range map[int]policy.Level{
		-5: policy.Untrusted, 0: policy.Untrusted, 30: policy.Untrusted, 31: policy.Basic, 50: policy.Basic, 51: policy.Verified, 70: policy.Verified,
		71: policy.Privileged, 90: policy.Privileged, 91: policy.Critical, 100: policy.Critical, 1000: policy.Critical,
	} {
		if got := policy.LevelOf(trust); got != want {
			t.Errorf("trust %d is %s, not %s", trust, got, want)
		}
	}
	for l := policy.Untrusted; l <= policy.Critical; l++ {
		if got, err := policy.ParseLevel(l.String()); err != nil || got != l || policy.LevelOf(l.Trust()) != l {
			t.Errorf("%s: %v %v", l, got, err)
		}
	}
	if _, err := policy.ParseLevel("Critical"); err == nil {
		t.Error("a level in capitals is taken")
	}
	if got := policy.Level(9).String(); got != "level(9)" {
		t.Error(got)
	}
}

// TestRates: a rate is read, written back the same, and what is none is refused.
func TestRates(t *testing.T) {
	for text, want := range map[string]policy.Rate{
		"100/m": {Burst: 100, Every: 600 * time.Millisecond}, "1/d": {Burst: 1, Every: 24 * time.Hour}, "3/s": {Burst: 3, Every: 333333334}, "1000000/h": {Burst: 1e6, Every: 3600 * time.Microsecond},
	} {
		got, err := policy.ParseRate(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%s: %v (%s), %v", text, got, got, err)
		}
	}
	for _, bad := range []string{"", "100", "/m", "0/m", "-1/m", "1.5/m", "1000001/s", "010/m", "+1/m", "1/w", "1/m ", "1/min", "1e3/s", "1/m/m"} {
		if r, err := policy.ParseRate(bad); err == nil {
			t.Errorf("%q is %v", bad, r)
		}
	}
}

func parse(t testing.TB, text string) *policy.Set {
	t.Helper()
	s, err := policy.Parse("p.cedar", text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func request(change func(*policy.Request)) *policy.Request {
	r := &policy.Request{Principal: "p", Kind: "peer", Action: "read", Resource: "x/y", Trust: 50, Level: policy.Basic, Time: policy.TestTime}
	if change != nil {
		change(r)
	}
	return r
}

// TestRequests: a request that is none is denied by a set that permits everything.
func TestRequests(t *testing.T) {
	all := parse(t, "permit (principal, action, resource);")
	if res := all.Decide(request(nil)); !res.Allow {
		t.Fatal(res)
	}
	long := strings.Repeat("x", 2000)
	for what, change := range map[string]func(*policy.Request){
		"no principal":   func(r *policy.Request) { r.Principal = "" },
		"long principal": func(r *policy.Request) { r.Principal = long },
		"kind":           func(r *policy.Request) { r.Kind = "Peer" },
		"no kind":        func(r *policy.Request) { r.Kind = "" },
		"action":         func(r *policy.Request) { r.Action = "delete" },
		"isolation":      func(r *policy.Request) { r.Isolation = "none" },
		"trust below":    func(r *policy.Request) { r.Trust = -1 },
		"trust above":    func(r *policy.Request) { r.Trust = 101 },
		"level":          func(r *policy.Request) { r.Level = policy.Verified },
		"level 9":        func(r *policy.Request) { r.Trust, r.Level = 100, 9 },
		"roles":          func(r *policy.Request) { r.Roles = make([]string, 33) },
		"long role":      func(r *policy.Request) { r.Roles = []string{long} },
		"attributes": func(r *policy.Request) {
			r.Attributes = map[string]string{}
			for i := range 65 {
				r.Attributes[strconv.Itoa(i)] = ""
			}
		},
		"no path": func(r *policy.Request) { r.Resource = "" }, "slash": func(r *policy.Request) { r.Resource = "/" },
		"slash before": func(r *policy.Request) { r.Resource = "/x" }, "slash behind": func(r *policy.Request) { r.Resource = "x/" },
		"two slashes": func(r *policy.Request) { r.Resource = "x//y" }, "dot": func(r *policy.Request) { r.Resource = "x/./y" },
		"up": func(r *policy.Request) { r.Resource = "x/../critical" }, "newline": func(r *policy.Request) { r.Resource = "x\ny" },
		"NUL": func(r *policy.Request) { r.Resource = "critical\x00" }, "long path": func(r *policy.Request) { r.Resource = long },
		"deep path": func(r *policy.Request) { r.Resource = strings.Repeat("a/", 16) + "a" },
	} {
		if res := all.Decide(request(change)); res.Allow || len(res.Policies) > 0 || res.Reason == "" {
			t.Errorf("%s: %+v", what, res)
		}
	}
}

// TestConditions: what each condition asks is held against the request; of several permits all conditions hold.
func TestConditions(t *testing.T) {
	s := parse(t, `
@id("m") @mfa("required") permit (principal, action, resource in Path::"m");
@id("i") @isolation("process") permit (principal, action, resource in Path::"i");
@id("r") @read_only("true") permit (principal, action, resource in Path::"r");
@id("a") @rate("100/m") @isolation("wasm") permit (principal, action, resource in Path::"both");
@id("b") @rate("10/s") @mfa("required") @isolation("oci") permit (principal, action, resource in Path::"both");
@id("plain") permit (principal, action == Action::"read", resource);
`)
	both := policy.Conditions{MFA: true, Isolation: "oci", Rate: policy.Rate{Burst: 10, Every: 600 * time.Millisecond}}
	for _, c := range []struct {
		resource, action, isolation string
		mfa, allow                  bool
		conditions                  policy.Conditions
		by                          []string
		reason                      string
	}{
		{"m", "read", "", false, false, policy.Conditions{MFA: true}, []string{"m", "plain"}, "second factor"},
		{"m", "read", "", true, true, policy.Conditions{MFA: true}, []string{"m", "plain"}, "permitted"},
		{"i/x", "write", "", true, false, policy.Conditions{Isolation: "process"}, []string{"i"}, "isolation"},
		{"i/x", "write", "wasm", true, false, policy.Conditions{Isolation: "process"}, []string{"i"}, "isolation"},
		{"i/x", "write", "process", true, true, policy.Conditions{Isolation: "process"}, []string{"i"}, "permitted"},
		{"i/x", "write", "microvm", true, true, policy.Conditions{Isolation: "process"}, []string{"i"}, "permitted"},
		{"r", "connect", "", false, true, policy.Conditions{ReadOnly: true}, []string{"r"}, "permitted"},
		{"r", "subscribe", "", false, true, policy.Conditions{ReadOnly: true}, []string{"r"}, "permitted"},
		{"r", "read", "", false, true, policy.Conditions{ReadOnly: true}, []string{"r", "plain"}, "permitted"},
		{"r", "send", "", false, false, policy.Conditions{ReadOnly: true}, []string{"r"}, "reading only"},
		{"r", "write", "", false, false, policy.Conditions{ReadOnly: true}, []string{"r"}, "reading only"},
		{"r", "change", "", false, false, policy.Conditions{ReadOnly: true}, []string{"r"}, "reading only"},
		{"r", "administer", "", false, false, policy.Conditions{ReadOnly: true}, []string{"r"}, "reading only"},
		{"both", "send", "microvm", true, true, both, []string{"a", "b"}, "permitted"},
		{"both", "send", "process", true, false, both, []string{"a", "b"}, "isolation"},
		{"both", "send", "microvm", false, false, both, []string{"a", "b"}, "second factor"},
		{"x", "send", "", true, false, policy.Conditions{}, nil, "no policy"},
	} {
		res := s.Decide(request(func(r *policy.Request) {
			r.Resource, r.Action, r.Isolation, r.MFA = c.resource, c.action, c.isolation, c.mfa
		}))
		if res.Allow != c.allow || res.Conditions != c.conditions || !slices.Equal(res.Policies, c.by) || !strings.Contains(res.Reason, c.reason) {
			t.Errorf("%+v:\n%+v", c, res)
		}
	}
	if got := both.String(); got != `@mfa("required") @isolation("oci") @rate("10 at once, then one in 600ms")` {
		t.Error(got)
	}
}

// TestAnotherPermit: a permit more never drops a condition of what was allowed before, whatever the order.
func TestAnotherPermit(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	annotations := []string{"", `@mfa("required")`, `@read_only("true")`, `@isolation("wasm")`, `@isolation("oci")`, `@rate("100/m")`, `@rate("10/s")`, `@rate("1/d")`}
	tighter := func(a, b policy.Conditions) bool { // a holds at least what b does
		rank := func(i string) int { return slices.Index(policy.Isolations, i) }
		return (a.MFA || !b.MFA) && (a.ReadOnly || !b.ReadOnly) && rank(a.Isolation) >= rank(b.Isolation) &&
			(b.Rate == policy.Rate{} || a.Rate != policy.Rate{} && a.Rate.Burst <= b.Rate.Burst && a.Rate.Every >= b.Rate.Every)
	}
	for range 200 {
		var texts []string
		for range 2 + rng.IntN(4) {
			texts = append(texts, annotations[rng.IntN(len(annotations))]+" permit (principal, action, resource);\n")
		}
		r := request(func(r *policy.Request) { r.MFA, r.Isolation = true, "microvm" })
		before, after := parse(t, strings.Join(texts[1:], "")).Decide(r), parse(t, strings.Join(texts, "")).Decide(r)
		if !before.Allow || !after.Allow || !tighter(after.Conditions, before.Conditions) {
			t.Fatalf("%q:\n%+v\n%+v", texts, before, after)
		}
		slices.Reverse(texts)
		if turned := parse(t, strings.Join(texts, "")).Decide(r); turned.Conditions != after.Conditions {
			t.Fatalf("%q: the order counts", texts)
		}
	}
}

// TestErrors: a policy that cannot be evaluated denies, a forbid as well as a permit; a forbid that matches is said first.
func TestErrors(t *testing.T) {
	const overflow = "when { principal.trust * 9223372036854775807 > 0 };"
	for _, text := range []string{
		`@id("ok") permit (principal, action, resource); @id("bad") forbid (principal, action, resource) ` + overflow,
		`@id("ok") permit (principal, action, resource); @id("bad") permit (principal, action, resource) ` + overflow,
	} {
		if res := parse(t, text).Decide(request(nil)); res.Allow || res.Native || !strings.Contains(res.Reason, "could not be evaluated") {
			t.Errorf("%+v", res)
		}
		if res := parse(t, text).Decide(request(func(r *policy.Request) { r.Trust, r.Level = 0, 0 })); !res.Allow {
			t.Errorf("without an overflow: %+v", res)
		}
		if res := parse(t, text+`@id("no") forbid (principal, action, resource);`).Decide(request(nil)); res.Allow || !slices.Equal(res.Policies, []string{"no"}) {
			t.Errorf("%+v", res)
		}
	}
}

// TestManyDecide: the names of all that decide are told, however many, and a list that is not a run of the set's is made once.
func TestManyDecide(t *testing.T) {
	var text strings.Builder
	var want []string
	for i := range 30 {
		id := "p" + strconv.Itoa(i)
		path := "x"
		if i%3 == 1 {
			path = "y"
		} else {
			want = append(want, id)
		}
		text.WriteString(`@id("` + id + `") permit (principal, action, resource in Path::"` + path + "\");\n")
	}
	if res := parse(t, text.String()).Decide(request(nil)); !slices.Equal(res.Policies, want) {
		t.Error(res.Policies)
	}
	few := parse(t, `@id("a") permit (principal, action, resource); @id("b") permit (principal, action, resource in Path::"b"); @id("c") permit (principal, action, resource);`)
	r := request(nil)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if res := few.Decide(r); !slices.Equal(res.Policies, []string{"a", "c"}) {
					t.Error(res.Policies)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := testing.AllocsPerRun(100, func() { few.Decide(r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestNoAllocation: the standard set decides without allocating, allowed or not, for a request on the caller's stack.
func TestNoAllocation(t *testing.T) {
	s := policy.Standard()
	for _, r := range []policy.Request{
		*request(func(r *policy.Request) { r.Resource, r.Action = "peer/x", "connect" }),
		*request(func(r *policy.Request) {
			r.Resource, r.Remote = "critical/keys", netip.MustParseAddr("::ffff:10.0.0.1")
		}),
		*request(func(r *policy.Request) { r.Trust, r.Level = 3, 0 }),
		*request(func(r *policy.Request) { r.Kind, r.Roles, r.Resource = "person", []string{"analyst", "admin"}, "audit" }),
	} {
		if n := testing.AllocsPerRun(100, func() { on := r; s.Decide(&on) }); n != 0 {
			t.Errorf("%+v: %v allocations", r, n)
		}
	}
}

// TestStandard: testdata/standard.yaml holds, and asks every policy.
func TestStandard(t *testing.T) {
	f, err := os.Open(filepath.Join("testdata", "standard.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tests, err := policy.DecodeTests(f)
	if err != nil {
		t.Fatal(err)
	}
	s, asked := policy.Standard(), map[string]bool{}
	for _, test := range tests.Tests {
		for _, wrong := range test.Run(s) {
			t.Errorf("line %d: %s: %s", test.Line, test.Name, wrong)
		}
		for _, id := range s.Decide(&test.Request).Policies {
			asked[id] = true
		}
	}
	for _, id := range s.IDs() {
		if !asked[id] {
			t.Errorf("no test is decided by %s", id)
		}
	}
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "policy.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range s.IDs() {
		if !strings.Contains(string(doc), "| `"+id+"` |") {
			t.Errorf("docs/policy.md does not tell of %s", id)
		}
	}
}

// TestExplain: of each policy, whether it matches, and the first condition that fails.
func TestExplain(t *testing.T) {
	s := parse(t, `
@id("a") @doc("why") @rate("5/s") permit (principal in Role::"reader", action == Action::"read", resource in Path::"x");
@id("b") permit (principal is Peer, action, resource) when { principal.trust > 40 && resource.path like "x/*" } unless { principal.mfa || resource.name == "y" };
@id("c") forbid (principal, action, resource) when { principal.trust * 9223372036854775807 > 0 };
`)
	res, verdicts := s.Explain(request(func(r *policy.Request) { r.Roles = []string{"reader"} }))
	if res.Allow || len(verdicts) != 3 {
		t.Fatalf("%+v %+v", res, verdicts)
	}
	if v := verdicts[0]; !v.Matches || v.Effect != "permit" || v.Doc != "why" || v.Line != 2 || v.File != "p.cedar" || v.Conditions != `@rate("5/s")` || !v.Native {
		t.Errorf("%+v", v)
	}
	if v := verdicts[1]; v.Matches || v.Why != `!(principal.mfa || resource.name == "y")` {
		t.Errorf("%+v", v)
	}
	if v := verdicts[2]; v.Matches || v.Native || !strings.Contains(v.Why, "cannot be evaluated") || !strings.Contains(v.Why, "overflow") {
		t.Errorf("%+v", v)
	}
	_, verdicts = s.Explain(request(nil))
	if v := verdicts[0]; v.Why != `principal in Role::"reader"` {
		t.Errorf("%+v", v)
	}
	if res, verdicts := s.Explain(request(func(r *policy.Request) { r.Kind = "" })); res.Allow || verdicts != nil {
		t.Errorf("%+v %+v", res, verdicts)
	}
}

func write(t testing.TB, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

const (
	permitAll = "@id(\"all\") permit (principal, action, resource);\n"
	forbidAll = "@id(\"none\") forbid (principal, action, resource);\n"
)

// TestSource: a change is taken when two looks have seen it, a slip leaves in force what was, and Status tells the difference.
func TestSource(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	open := func() (*policy.Source, error) {
		return policy.Open(dir, slog.New(slog.NewTextHandler(&log, nil)), nil)
	}
	if _, err := open(); !errors.Is(err, policy.ErrPolicy) || !strings.Contains(err.Error(), "no policies") {
		t.Fatal(err)
	}
	write(t, dir, "a.cedar", permitAll)
	synctest.Test(t, func(t *testing.T) {
		s, err := open()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { s.Run(ctx) })
		start := time.Now().UTC()
		second := func() { time.Sleep(time.Second); synctest.Wait() } // virtual
		time.Sleep(time.Millisecond)
		allows := func() bool { return s.Set().Decide(request(nil)).Allow }
		second()
		if st := s.Status(); !allows() || st.Generation != 1 || st.Error != "" || st.Policies != 1 || st.Name != dir || st.Digest != s.Set().Digest() || !st.Loaded.Equal(start) {
			t.Errorf("%+v", st)
		}
		write(t, dir, "b.cedar", forbidAll)
		if second(); !allows() {
			t.Error("it is taken at the first look")
		}
		second()
		if st := s.Status(); allows() || st.Generation != 2 || st.Policies != 2 || !st.Loaded.After(start) {
			t.Errorf("%+v", st)
		}
		write(t, dir, "b.cedar", "forbid (principal, action, resource) when { principal.turst < 3 };")
		second()
		second()
		st := s.Status()
		if allows() || st.Generation != 2 || !strings.Contains(st.Error, "b.cedar:1:55: attribute `turst`") || st.Since.IsZero() {
			t.Errorf("%+v", st)
		}
		second()
		if again := s.Status(); !reflect.DeepEqual(again, st) {
			t.Errorf("the same slip is another: %+v", again)
		}
		write(t, dir, "b.cedar", "forbid")
		second()
		second()
		if again := s.Status(); again.Error == st.Error || !again.Since.Equal(st.Since) {
			t.Errorf("%+v", again)
		}
		write(t, dir, "b.cedar", forbidAll)
		second()
		second()
		if st := s.Status(); allows() || st.Generation != 2 || st.Error != "" || !st.Since.IsZero() {
			t.Errorf("%+v", st)
		}
		for _, name := range []string{"a.cedar", "b.cedar"} { // nothing left must not mean that nothing is forbidden
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		second()
		second()
		if st := s.Status(); allows() || st.Generation != 2 || !strings.Contains(st.Error, "no policies") {
			t.Errorf("%+v", st)
		}
		write(t, dir, "a.cedar", permitAll)
		if err := s.Reload(); err != nil || !allows() || s.Status().Generation != 3 || s.Status().Error != "" {
			t.Errorf("%v %+v", err, s.Status())
		}
		write(t, dir, "a.cedar", "x")
		if err := s.Reload(); !errors.Is(err, policy.ErrPolicy) || !allows() {
			t.Errorf("%v", err)
		}
		cancel()
		wg.Wait()
	})
	for text, want := range map[string]int{"the policies are wrong": 4, "policies are in force": 3} {
		if n := strings.Count(log.String(), text); n != want {
			t.Errorf("%q was said %d times:\n%s", text, n, &log)
		}
	}
}

// TestDecodeTests: what a file of tests says, and where it is wrong.
func TestDecodeTests(t *testing.T) {
	f, err := policy.DecodeTests(strings.NewReader(`
policies: ../policies
tests:
  - request: {principal: p, kind: peer, action: send, resource: topic/chat, trust: 60, level: basic, mfa: true, isolation: oci, roles: [a, b],
              remote: 10.0.0.1, time: 2026-03-01T10:00:00+01:00, attributes: {team: pay}}
    expect: deny
    by: []
    conditions: {rate: 5/s, isolation: wasm, read_only: true, mfa: false}
  - {name: short, request: {principal: p, kind: peer, action: send, resource: x, level: critical}, expect: allow}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := policy.Request{
		Principal: "p", Kind: "peer", Roles: []string{"a", "b"}, Action: "send", Resource: "topic/chat", Trust: 60, Level: policy.Basic, MFA: true, Isolation: "oci",
		Attributes: map[string]string{"team": "pay"}, Remote: netip.MustParseAddr("10.0.0.1"),
	}
	one, two := f.Tests[0], f.Tests[1]
	if !one.Request.Time.Equal(time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)) {
		t.Error(one.Request.Time)
	}
	if one.Request.Time = (time.Time{}); !reflect.DeepEqual(one.Request, want) {
		t.Errorf("%+v", one.Request)
	}
	if f.Policies != "../policies" || one.Line != 4 || one.Name != "p send topic/chat" || one.Allow || one.By == nil || len(*one.By) != 0 ||
		*one.Conditions != (policy.Conditions{ReadOnly: true, Isolation: "wasm", Rate: policy.Rate{Burst: 5, Every: 200 * time.Millisecond}}) {
		t.Errorf("%+v", one)
	}
	if two.Name != "short" || !two.Allow || two.By != nil || two.Conditions != nil || two.Request.Trust != 91 || two.Request.Level != policy.Critical || two.Request.Time != policy.TestTime {
		t.Errorf("%+v", two)
	}
	request := "tests:\n  - expect: allow\n    request: {principal: p, kind: peer, action: send, resource: x"
	for text, want := range map[string]string{
		"":                                              "it is empty",
		"tests: []":                                     "line 1: tests: there are none",
		"policies: x":                                   "tests: there are none",
		"tests: [{expect: allow}]":                      "line 1: tests[0].request: it is missing",
		request + "}\n    expects: deny":                "line 4: tests[0].expects: there is no such field; there are by, conditions, expect, name, request",
		request + ", kind: peer}":                       "it is there twice",
		request + ", trust: 101}":                       "line 3: tests[0].request.trust: \"101\": it must be a number from 0 to 100",
		request + ", trust: 1.5}":                       "whole number",
		request + ", trust: 10, level: basic}":          "tests[0].request.level: basic is above what a trust of 10 has: untrusted",
		request + ", level: high}":                      "\"high\" must be one of untrusted, basic",
		request + ", isolation: ''}":                    "a text of 1 to 128 bytes",
		request + ", isolation: none}":                  "must be one of wasm, process, oci, microvm",
		request + ", mfa: maybe}":                       "true or false",
		request + ", remote: localhost}":                "must be an address",
		request + ", time: noon}":                       "must be a time",
		request + ", attributes: [a]}":                  "fields with a colon",
		request + ", roles: admin}":                     "it must be a list",
		request + "}\n    by: x":                        "line 4: tests[0].by: it must be a list",
		request + "}\n    conditions: {rate: often}":    "line 4: tests[0].conditions.rate: \"often\" must be a number",
		"tests:\n  - {expect: maybe}":                   "line 2: tests[0].expect: \"maybe\" must be one of allow, deny",
		"tests:\n  - request: {principal: p}":           "tests[0].request.kind: it is missing",
		"a: &peer 1\ntests: [{request: {kind: *peer}}]": "there is no such field",
	} {
		if _, err := policy.DecodeTests(strings.NewReader(text)); !errors.Is(err, policy.ErrTests) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// TestRun: a test that does not hold says in what.
func TestRun(t *testing.T) {
	s := parse(t, `@id("a") @rate("5/s") permit (principal, action, resource);`)
	run := func(change func(*policy.Test)) string {
		test := policy.Test{Request: *request(nil), Allow: true, By: &[]string{"a"}, Conditions: &policy.Conditions{Rate: policy.Rate{Burst: 5, Every: 200 * time.Millisecond}}}
		change(&test)
		return strings.Join(test.Run(s), "\n")
	}
	if got := run(func(*policy.Test) {}); got != "" {
		t.Error(got)
	}
	for want, change := range map[string]func(*policy.Test){
		"expected deny, got allow: permitted (a)":                          func(test *policy.Test) { test.Allow = false },
		"expected allow, got deny: the request's kind":                     func(test *policy.Test) { test.Request.Kind = "" },
		"there is no policy \"b\"\nexpected to be decided by [b], got [a]": func(test *policy.Test) { test.By = &[]string{"b"} },
		"expected to be decided by [], got [a]":                            func(test *policy.Test) { test.By = &[]string{} },
		`expected the conditions [], got [@rate("5/s")]`:                   func(test *policy.Test) { test.Conditions = &policy.Conditions{} },
	} {
		if got := run(change); !strings.Contains(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// FuzzTests: what is taken is requests that a set can decide; what is not is said as such.
func FuzzTests(f *testing.F) {
	f.Add("# a\ntests:\n  - name: n\n    request: {principal: p, kind: person, roles: [reader], level: verified, mfa: true, action: read, resource: findings}\n    expect: allow\n    by: [readers]\n")
	f.Add("policies: x\ntests: [{name: n, expect: deny, by: [], conditions: {rate: 5/s, isolation: oci}, request: {principal: p, kind: token, action: read, resource: a/b, remote: '::1', time: 2026-01-01T00:00:00Z, attributes: {a: b}}}]")
	f.Add("tests: &a [*a]")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := policy.DecodeTests(strings.NewReader(text))
		if err != nil {
			if !errors.Is(err, policy.ErrTests) {
				t.Fatal(err)
			}
			return
		}
		for _, test := range file.Tests {
			if test.Request.Level > policy.LevelOf(test.Request.Trust) {
				t.Fatalf("%+v", test.Request)
			}
			test.Run(policy.Standard())
		}
	})
}

// TestDocs: the policy, the schema and the tests that docs/policy.md shows hold together, and so does the file of docs/format/policy-tests.md.
func TestDocs(t *testing.T) {
	blocks := func(name, language string) []string {
		text, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllSubmatch(text, -1) {
			out = append(out, string(m[1]))
		}
		if len(out) != 1 {
			t.Fatalf("%s has %d blocks of %s", name, len(out), language)
		}
		return out
	}
	dir := t.TempDir()
	write(t, dir, "a.cedar", blocks("policy.md", "cedar")[0])
	write(t, dir, "b.cedarschema", blocks("policy.md", "cedarschema")[0])
	documented, err := policy.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, set := range map[string]*policy.Set{"policy.md": documented, "format/policy-tests.md": policy.Standard()} {
		tests, err := policy.DecodeTests(strings.NewReader(blocks(name, "yaml")[0]))
		if err != nil {
			t.Fatal(err)
		}
		for _, test := range tests.Tests {
			for _, wrong := range test.Run(set) {
				t.Errorf("%s: %s: %s", name, test.Name, wrong)
			}
		}
	}
}
