package policyfile_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/judge"
	"github.com/quantra-l/quantra/optimize/policyfile"
)

func decode(t *testing.T, text string) *policyfile.File {
	t.Helper()
	f, err := policyfile.Decode(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// example is the file that docs/changes.md shows.
func example(t testing.TB) string {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "changes.md"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(text)
	if m == nil {
		t.Fatal("docs/changes.md shows no file")
	}
	return string(m[1])
}

// TestExample: the file that is shown means what it says.
func TestExample(t *testing.T) {
	f := decode(t, example(t))
	p := f.Policy
	metric := func(plan *optimize.Plan, name string) judge.Metric {
		for _, m := range plan.Metrics {
			if m.Name == name {
				return m
			}
		}
		return judge.Metric{}
	}
	runtime := p.For(optimize.Runtime, "checkout")
	if runtime.Mode != optimize.Auto || runtime.Approve || !reflect.DeepEqual(runtime.Plan.Stages, optimize.DefaultPlan().Stages) {
		t.Errorf("%+v", runtime)
	}
	if m := metric(&runtime.Plan, "rss"); m.Tolerate != 1.5 || !m.Critical || !m.Stock {
		t.Errorf("%+v", m)
	}
	if m := metric(&runtime.Plan, "latency_p99"); m.Tolerate != 0.1 || m.Bound != 2 || !m.PerRequest {
		t.Errorf("%+v", m)
	}
	if k := p.For(optimize.Scale, "checkout"); k.Mode != optimize.Propose || !k.Approve || metric(&k.Plan, "rss").Tolerate != 0.1 {
		t.Errorf("%+v", k)
	}
	if k := p.For(optimize.Rebalance, "x"); k.Mode != optimize.Off {
		t.Errorf("%+v", k)
	}
	if k := p.For(optimize.Machine, "x"); k.Mode != optimize.Propose || !k.Approve || metric(&k.Plan, "latency_p99").Bound != 2 {
		t.Errorf("%+v", k)
	}
	pay := p.For(optimize.Runtime, "payment-eu")
	if pay.Mode != optimize.Propose || len(pay.Plan.Stages) != 2 || pay.Plan.Stages[0].Deadline != 3*time.Hour || metric(&pay.Plan, "rss").Tolerate != 1.5 {
		t.Errorf("%+v", pay)
	}
	d := optimize.DefaultPolicy()
	if p.BreakerFailures != d.BreakerFailures || p.BreakerOpen != d.BreakerOpen || p.Budget != d.Budget || p.ApproveAbove != d.ApproveAbove || p.NodeEvery != d.NodeEvery || p.WithdrawAfter != d.WithdrawAfter {
		t.Errorf("%+v", p)
	}
	if len(p.Windows) != 2 || len(p.Windows[0].Days) != 4 || p.Windows[0].Zone.String() != "Europe/Berlin" || p.Windows[1].To != 4*time.Hour {
		t.Errorf("%+v", p.Windows)
	}
	if want := []policyfile.PGO{
		{Service: "checkout", File: "/srv/build/checkout/default.pgo", Since: 7 * 24 * time.Hour, After: 24 * time.Hour},
		{Service: "search", Repository: "shop/search", Path: "cmd/search/default.pgo", Base: "main", Since: 72 * time.Hour, After: 12 * time.Hour},
	}; !reflect.DeepEqual(f.PGO, want) {
		t.Errorf("%+v", f.PGO)
	}
	if want := []policyfile.Patch{{Service: "checkout", Repository: "shop/checkout", Base: "main"}}; !reflect.DeepEqual(f.Patch, want) || p.For(optimize.Patch, "checkout").Mode != optimize.Propose {
		t.Errorf("%+v", f.Patch)
	}
	build := p.For(optimize.PGO, "checkout")
	if m := metric(&build.Plan, "stacks"); build.Mode != optimize.Propose || len(build.Plan.Stages) != 1 || build.Plan.Stages[0].Dwell != time.Hour || build.Plan.ApplyWithin != 14*24*time.Hour || !m.Critical || m.Tolerate != 0.2 {
		t.Errorf("%+v", build)
	}
	if !reflect.DeepEqual(f.Told, []string{"team"}) || f.KillFile != "/etc/quantra/optimizer.off" {
		t.Errorf("%+v", f)
	}
}

// TestOrder: a plan holds for kinds, and a kind for services, wherever they stand; what is not given is as by default.
func TestOrder(t *testing.T) {
	p := decode(t, `
services: [{match: "a*", kinds: {runtime: {approve: true}}}]
kinds: {runtime: {mode: off, judge: {warm_up: 0s, min_requests: 0}}}
plan: {stages: [{percent: 100, dwell: 1m}], metrics: {gc_cpu: {off: true}, cpu: {critical: true}}}
`).Policy
	for _, service := range []string{"abc", "b"} {
		k := p.For(optimize.Runtime, service)
		if k.Mode != optimize.Off || k.Approve != (service == "abc") || len(k.Plan.Stages) != 1 || k.Plan.Judge.WarmUp >= 0 || k.Plan.Judge.MinRequests >= 0 {
			t.Errorf("%s: %+v", service, k)
		}
		if n := len(k.Plan.Metrics); n != len(judge.DefaultMetrics()) || k.Plan.Metrics[n-1].Name != "cpu" || !k.Plan.Metrics[n-1].Critical {
			t.Errorf("%s: %+v", service, k.Plan.Metrics)
		}
	}
	for text, want := range map[string]time.Duration{"budget: 1": 20 * time.Minute, "plan: {apply_within: 3m}": 3 * time.Minute, "plan: {baseline: 1m}\nkinds: {machine: {apply_within: 1h}}": time.Hour} {
		if got := decode(t, text).Policy.For(optimize.Machine, "x").Plan.ApplyWithin; got != want {
			t.Errorf("%q: a machine has %v, want %v", text, got, want)
		}
	}
	all := decode(t, "budget: 1").Policy
	if all.Budget != 1 || !reflect.DeepEqual(all.For(optimize.Patch, "x"), optimize.DefaultPolicy().For(optimize.Patch, "x")) {
		t.Errorf("%+v", all)
	}
}

// TestRefuses: a slip is refused with its line and field.
func TestRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "it is empty",
		"a: [":                             "line 1",
		"budget: 1\n---\nx: 1":             "more than one document",
		"- 1":                              "line 1: it must be fields",
		"kinds:\n  patch:\n    mode: auto": "line 3: kinds.patch.mode: auto: only a person starts a patch: it must be off or propose",
		"services:\n  - match: a\n    kinds:\n      patch: {mode: auto}": "line 4: services[0].kinds.patch.mode: auto: only a person starts a patch",
		"patch:\n  - service: a":                                                       "line 2: patch[0].repository: it is missing",
		"patch:\n  - repository: a/b":                                                  "line 2: patch[0].service: it is missing",
		"patch:\n  - {service: a, repository: ab}":                                     "line 2: patch[0].repository: \"ab\": it must be OWNER/NAME",
		"patch:\n  - {service: a, repository: a/b, api: h}":                            "line 2: patch[0].api: \"h\": it must begin with https://",
		"patch:\n  - {service: a, repository: a/b, path: c}":                           "line 2: patch[0].path: there is no such field",
		"patch:\n  - {service: a, repository: a/b}\n  - {service: a, repository: c/d}": "line 3: patch[1].service: \"a\" is there twice",
		"pgo:\n  - file: a":                                                            "line 2: pgo[0].service: it is missing",
		"pgo:\n  - {service: a}":                                                       "line 2: pgo[0]: it must have either file or pull_request",
		"pgo:\n  - {service: a, file: b/}":                                             "line 2: pgo[0].file: \"b/\" is a folder",
		"pgo:\n  - {service: a, file: b, pull_request: {repository: c/d, path: e}}":    "line 2: pgo[0]: it must have either",
		"pgo:\n  - service: a\n    pull_request:\n      repository: cd\n      path: e": "line 4: pgo[0].pull_request.repository: \"cd\": it must be OWNER/NAME",
		"pgo:\n  - {service: a, pull_request: {repository: c/d}}":                      "line 2: pgo[0].pull_request.path: it is missing",
		"pgo:\n  - {service: a, pull_request: {repository: c/d, path: e, api: h}}":     "line 2: pgo[0].pull_request.api: \"h\": it must begin with https://",
		"pgo:\n  - {service: a, file: b, since: 1h, after: 2h}":                        "line 2: pgo[0]: after 2h0m0s is more than since, 1h0m0s",
		"pgo:\n  - {service: a, file: b}\n  - {service: a, file: c}":                   "line 3: pgo[1].service: \"a\" is there twice",
		"pgo:\n  - {service: a, file: b, files: c}":                                    "line 2: pgo[0].files: there is no such field",
		"budget: 1\nbudgett: 2":                                                        "line 2: budgett: there is no such field; there are approve_above, breaker, budget",
		"budget: 1\nbudget: 2":                                                         "line 2: budget: it is there twice",
		"budget: lots":                                                                 `line 1: budget: "lots": it must be a number from 0 to 1000000000`,
		"budget: .nan":                                                                 "it must be a number",
		"budget: -1":                                                                   "it must be a number",
		"\nnode_every: 1 hour":                                                         `line 2: node_every: "1 hour": it must be a time`,
		"node_every: 9999h":                                                            "from 0s to 8784h0m0s",
		"breaker: {failures: 0}":                                                       "line 1: breaker.failures",
		"breaker: {failures: 1.5}":                                                     "whole number",
		"breaker: {open: 1s}":                                                          "breaker.open",
		"kinds:\n  magic: {mode: auto}":                                                "line 2: kinds.magic: there is no such kind",
		"kinds:\n  runtime: {mode: yes please}":                                        "line 2: kinds.runtime.mode: \"yes please\": it must be off, propose or auto",
		"kinds:\n  runtime: {mode: true}":                                              "kinds.runtime.mode",
		"kinds:\n  runtime:\n    approve: 1":                                           "line 3: kinds.runtime.approve: it must be true or false",
		"plan:\n  stages: []":                                                          "line 2: plan: 0 stages: there must be 1 to 20",
		"plan: {stages: {nodes: 1}}":                                                   "plan.stages: it must be a list",
		"plan: {stages: [{nodes: 1, percent: 5, dwell: 1m}]}":                          "plan.stages[0]: it must have either",
		"plan: {stages: [{dwell: 1m}]}":                                                "either nodes or percent",
		"plan: {stages: [{nodes: 1}]}":                                                 "plan.stages[0].dwell: it is missing",
		"plan: {stages: [{nodes: 1, dwell: 5m, deadline: 1m}]}":                        "before the end of the dwell",
		"plan: {stages: [{percent: 101, dwell: 5m}]}":                                  "plan.stages[0].percent",
		"plan: {stages: [" + strings.Repeat("{nodes: 1, dwell: 5m},", 21) + "]}":       "more than 20",
		"plan: {metrics: {speed: {tolerate: 1}}}":                                      "plan.metrics.speed: there is no such metric; there are cpu, cpu_per_request",
		"plan: {metrics: {rss: {tolerate: -1}}}":                                       "plan.metrics.rss.tolerate",
		"plan: {metrics: {rss: {better: higher}}}":                                     "there is no such field; there are bound, critical",
		"plan:\n  metrics: {cpu_per_request: {critical: false}, latency_p99: {critical: false}, rss: {off: true}, errors: {off: true}, throughput: {off: true}}": "line 2: plan: no metric is critical",
		"plan: {judge: {alpha: 0.9}}":                                 "plan.judge.alpha",
		"plan: {judge: {min_windows: 0}}":                             "plan.judge.min_windows",
		"services: [{kinds: {}}]":                                     "services[0].match: it is missing",
		"services: [{match: '['}]":                                    "is no pattern",
		"services: [{match: a}]":                                      "services[0].kinds: it is missing",
		"services:\n  - {match: a, kinds: {scale: {baseline: -1m}}}":  "line 2: services[0].kinds.scale.baseline",
		"windows: [{from: '09:00'}]":                                  "it must have from and to",
		"windows: [{from: '9am', to: '10:00'}]":                       "time of day",
		"windows: [{from: '09:00', to: '09:00'}]":                     "must differ",
		"windows: [{from: '24:00', to: '09:00'}]":                     "before 24:00",
		"windows: [{days: [monday], from: '09:00', to: '10:00'}]":     "windows[0].days[0]: \"monday\": it must be one of sun, mon",
		"windows: [{from: '09:00', to: '10:00', zone: Middle/Earth}]": "time zone",
		"windows: [{from: '09:00', to: '10:00', zone: ''}]":           "time zone",
		"told: [1, {}]": "told[1]: it must be a text",
		"kill_file: ''": "kill_file: it must be a text",
		"a: &a {mode: auto}\nkinds: {runtime: *a}":      "line 1: a: there is no such field",
		"plan: &a {baseline: 1m}\nkinds: {runtime: *a}": "line 2: kinds.runtime: it must be fields",
		"? [x]\n: 1": "there is no such field",
		strings.Repeat("#", policyfile.MaxFile+1): "larger than",
	} {
		_, err := policyfile.Decode(strings.NewReader(text))
		if !errors.Is(err, policyfile.ErrFile) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", text, err, want)
		}
	}
}

// TestSource: a change is read, a slip leaves what was, and both are said.
func TestSource(t *testing.T) {
	name := filepath.Join(t.TempDir(), "policy.yaml")
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	open := func() (*policyfile.Source, error) {
		return policyfile.Open(name, slog.New(slog.NewTextHandler(&log, nil)), func() time.Time { return now })
	}
	if _, err := open(); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	put("budgett: 1")
	if _, err := open(); !errors.Is(err, policyfile.ErrFile) || !strings.Contains(err.Error(), "policy.yaml") {
		t.Error(err)
	}
	put("budget: 1")
	s, err := open()
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		text   string
		budget float64
		fault  string
	}{
		{"budget: 1", 1, ""}, {"budget: 2", 2, ""}, {"budgett: 3", 2, "line 1: budgett"}, {"budgett: 3", 2, "line 1: budgett"}, {"budget: 2", 2, ""},
		{"gone", 2, "no such file"}, {"budget: 2", 2, ""}, {"budget: 4", 4, ""},
	} {
		if step.text == "gone" {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		} else {
			put(step.text)
		}
		now = now.Add(2 * time.Second)
		st := s.Status()
		if got := s.File().Policy.Budget; got != step.budget || !strings.Contains(st.Error, step.fault) || (st.Error == "") != (step.fault == "") || st.Name != name {
			t.Errorf("%q: budget %v, %+v", step.text, got, st)
		}
	}
	if n := strings.Count(log.String(), "is wrong"); n != 2 {
		t.Errorf("it was said %d times:\n%s", n, &log)
	}
	put("budget: 5")
	if got := s.File().Policy.Budget; got != 4 {
		t.Errorf("it is read within the second: %v", got)
	}
}

// FuzzDecode: what is taken is a policy that the engine takes; what is not is said as such.
func FuzzDecode(f *testing.F) {
	f.Add(example(f))
	f.Add("kinds: {runtime: {mode: auto, stages: [{nodes: 1, dwell: 1m}]}}\n")
	f.Add("services: [{match: '*', kinds: {scale: {approve: true}}}]\nwindows: [{days: [sun], from: '22:00', to: '04:00', zone: UTC}]\n")
	f.Add("a: &a [*a]")
	f.Add(places)
	for _, text := range shown(f, "scale.md") {
		f.Add(text)
	}
	f.Add("plan: {metrics: {rss: {off: true}}, judge: {q: 0.1}}")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := policyfile.Decode(strings.NewReader(text))
		if err != nil {
			if !errors.Is(err, policyfile.ErrFile) {
				t.Fatal(err)
			}
			return
		}
		if err := file.Policy.Check(); err != nil {
			t.Fatal(err)
		}
		for _, k := range optimize.Kinds {
			if kp := file.Policy.For(k, "checkout"); len(kp.Plan.Stages) == 0 {
				t.Fatalf("%s has no stages", k)
			}
		}
		for service, p := range file.Places {
			if service == "" {
				t.Fatal("a place of nobody")
			}
			if r := p.Replicas; r != nil {
				if name, group := r.Place(); name == "" || group == "" || r.Rules.Check() != nil {
					t.Fatalf("%s: %+v", service, r)
				}
			}
		}
	})
}
