package optimize_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/optimize"
)

// TestPolicyOfPatches: no policy has patches start by themselves, whether it was checked or not; like a build they have one stage, and two weeks.
func TestPolicyOfPatches(t *testing.T) {
	for _, services := range []bool{false, true} {
		p := optimize.DefaultPolicy()
		kinds := map[optimize.Kind]optimize.KindPolicy{optimize.Patch: {Mode: optimize.Auto, Plan: optimize.DefaultPlan()}}
		if p.Kinds = kinds; services {
			p.Kinds, p.Services = nil, []optimize.ServicePolicy{{Match: "check*", Kinds: kinds}}
		}
		if err := p.Check(); !errors.Is(err, optimize.ErrInvalid) || !strings.Contains(err.Error(), "only a person starts") {
			t.Errorf("of services %t: %v", services, err)
		}
		if kp := p.For(optimize.Patch, "checkout"); kp.Mode != optimize.Propose {
			t.Errorf("of services %t: mode %s", services, kp.Mode)
		}
	}
	plan := optimize.DefaultPolicy().For(optimize.Patch, "checkout").Plan
	if len(plan.Stages) != 1 || plan.Stages[0].Percent != 100 || plan.ApplyWithin != 14*24*time.Hour {
		t.Errorf("%+v", plan)
	}
}

// TestAPIPatch: what the maker of proposals says becomes a change, or the answer to why not; a policy that wants none has nothing read.
func TestAPIPatch(t *testing.T) {
	var asked []optimize.PatchAsk
	var fails error
	policy := optimize.DefaultPolicy()
	proposal := optimize.Proposal{Kind: optimize.Patch, Service: "checkout", Subject: "lint R1", Spec: []byte(`{"diff":"` + strings.Repeat("x", 5<<10) + `"}`), Basis: "b", Sentence: "checkout: lint R1."}
	j := &optimize.Memory{}
	runner := func(patch func(context.Context, string, optimize.PatchAsk) (optimize.Proposal, error)) *desk {
		r, err := optimize.NewRunner(optimize.Options{
			Journal: j, Actuators: map[optimize.Kind]optimize.Actuator{optimize.Patch: newPlace(4)}, Policy: func() *optimize.Policy { return policy },
			Look: func(context.Context, optimize.Question) (optimize.Sight, error) { return optimize.Sight{}, nil },
			Now:  func() time.Time { return wednesday },
		}, optimize.RunOptions{Patch: patch, Tenants: func(context.Context) ([]string, error) { return nil, nil }})
		if err != nil {
			t.Fatal(err)
		}
		return &desk{t: t, h: r.Handler(), Runner: r}
	}
	d := runner(func(_ context.Context, tenant string, a optimize.PatchAsk) (optimize.Proposal, error) {
		if tenant != "default" {
			t.Errorf("tenant %q", tenant)
		}
		asked = append(asked, a)
		return proposal, fails
	})
	const path, body = optimize.ChangesPath + "/patch", `{"service":"checkout","report":{"version":"2.1.0"},"rule":"R1","by":"ada"}`
	dry := d.ask("POST", path, strings.Replace(body, `"by"`, `"dry_run":true,"by"`, 1), 200)
	if at(dry, "proposal", "sentence") != proposal.Sentence || at(dry, "id") != proposal.ID() {
		t.Errorf("%v", dry)
	}
	if l := d.ask("GET", optimize.ChangesPath+"?state=all", "", 200); len(at(l, "changes").([]any)) != 0 {
		t.Errorf("a dry run has kept %v", l)
	}
	for range 2 {
		if c := d.ask("POST", path, body, 200); at(c, "change", "id") != proposal.ID() || at(c, "change", "state") != "proposed" {
			t.Errorf("%v", c)
		}
	}
	if len(asked) != 3 || asked[2].Rule != "R1" || asked[2].By != "ada" || string(asked[2].Report) != `{"version":"2.1.0"}` || !asked[0].DryRun {
		t.Errorf("%+v", asked)
	}
	l := d.ask("GET", optimize.ChangesPath, "", 200)
	if spec, has := at(l, "changes", 0).(map[string]any)["spec"]; !has || spec != nil || len(at(l, "changes").([]any)) != 1 {
		t.Errorf("a list has the spec %v", spec)
	}
	if c := d.ask("GET", optimize.ChangesPath+"/"+proposal.ID(), "", 200); len(fmt.Sprint(at(c, "change", "spec", "diff"))) != 5<<10 {
		t.Errorf("%v", c)
	}
	for err, want := range map[error]int{fmt.Errorf("%w: x", optimize.ErrInvalid): 400, fmt.Errorf("%w: x", optimize.ErrState): 409, errors.New("GitHub is away"): 503} {
		fails = err
		if a := d.ask("POST", path, body, want); want == 503 && (a["code"] != "unavailable" || a["message"] != "GitHub is away") {
			t.Errorf("%v", a)
		}
	}
	fails = nil
	d.ask("POST", path, strings.Replace(body, `"ada"`, `""`, 1), 400)
	d.ask("POST", path, `{"service":"checkout","patch":1}`, 400)
	if a := d.ask("POST", optimize.ChangesPath, `{"kind":"patch","service":"checkout","spec":{},"sentence":"x","by":"ada"}`, 400); !strings.Contains(fmt.Sprint(a["message"]), path) {
		t.Errorf("%v", a)
	}
	n := len(asked)
	policy.Kinds[optimize.Patch] = optimize.KindPolicy{Mode: optimize.Off, Plan: optimize.DefaultPlan()}
	if a := d.ask("POST", path, body, 409); !strings.Contains(fmt.Sprint(a["message"]), "off") || len(asked) != n {
		t.Errorf("%v; asked %d times", a, len(asked)-n)
	}
	runner(nil).ask("POST", path, body, 400)
	req := httptest.NewRequest("POST", path, strings.NewReader(body))
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	rec := httptest.NewRecorder()
	if d.h.ServeHTTP(rec, req); rec.Code != 403 || len(asked) != n {
		t.Errorf("a page of another origin: %d", rec.Code)
	}
}
