package optimize

import (
	"fmt"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC) // a Wednesday

func targets(cells ...string) (ts []Target) {
	for i, c := range cells {
		ts = append(ts, Target{ID: fmt.Sprintf("n%d", i), Version: c[:2], Zone: c[2:], Started: noon.Add(-time.Duration(len(cells)-i) * time.Hour)})
	}
	return ts
}

// TestChoose: a cohort is spread over versions and zones as all targets are, the first of the largest; the same targets give the same.
func TestChoose(t *testing.T) {
	ts := targets("v1a", "v1a", "v1a", "v1b", "v1b", "v2a")
	for n, want := range map[int]string{0: "[]", 1: "[n0]", 2: "[n0 n3]", 3: "[n0 n3 n5]", 4: "[n0 n3 n5 n1]", 9: "[n0 n3 n5 n1 n4 n2]"} {
		var ids []string
		for _, x := range choose(ts, nil, n) {
			ids = append(ids, x.ID)
		}
		if got := fmt.Sprint(ids); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	if got := choose(ts[1:], ts[:1], 1); got[0].ID != "n3" {
		t.Errorf("beside n0 %s is chosen, want the other zone", got[0].ID)
	}
}

// TestControls: each treated target has a control of its version, of its zone and age if there is one; none of another version.
func TestControls(t *testing.T) {
	ts := targets("v1a", "v1b", "v1a", "v2a", "v1a")
	var ids []string
	for _, x := range controls([]Target{ts[0], ts[3]}, []Target{ts[1], ts[2], ts[4]}) {
		ids = append(ids, x.ID)
	}
	if got := fmt.Sprint(ids); got != "[n2]" {
		t.Errorf("%s, want [n2]: n1 is of another zone, n4 as far in age as any, and for v2 there is none", got)
	}
}

func TestStageSize(t *testing.T) {
	c := Change{Plan: DefaultPlan()}
	for total, want := range map[int]string{1: "1 1 1 1", 2: "1 1 1 1", 4: "1 1 2 3", 40: "1 4 20 39", 1000: "1 100 500 999"} {
		got := fmt.Sprint(c.want(0, total), c.want(1, total), c.want(2, total), c.want(3, total))
		if got != want {
			t.Errorf("of %d: %s, want %s", total, got, want)
		}
	}
}

func TestWindow(t *testing.T) {
	at := func(day, hour int) time.Time { return time.Date(2026, 11, day, hour, 30, 0, 0, time.UTC) } // the 25th is a Wednesday
	night := Window{Days: []time.Weekday{time.Wednesday}, From: 22 * time.Hour, To: 4 * time.Hour}
	day := Window{From: 9 * time.Hour, To: 17 * time.Hour, Zone: time.FixedZone("x", 2*3600)}
	for _, c := range []struct {
		w    Window
		at   time.Time
		want bool
	}{
		{night, at(25, 21), false}, {night, at(25, 22), true}, {night, at(26, 3), true}, {night, at(26, 4), false},
		{night, at(25, 3), false}, {night, at(26, 22), false},
		{day, at(25, 7), true}, {day, at(25, 6), false}, {day, at(25, 15), false},
		{Window{From: 0, To: 24 * time.Hour}, at(25, 23), true},
	} {
		if got := c.w.holds(c.at); got != c.want {
			t.Errorf("%+v at %s: %t", c.w, c.at, got)
		}
	}
}

func TestPolicyCheck(t *testing.T) {
	if err := DefaultPolicy().Check(); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*Policy){
		"kind":   func(p *Policy) { p.Kinds["x"] = KindPolicy{Mode: Auto, Plan: DefaultPlan()} },
		"mode":   func(p *Policy) { p.Kinds[Runtime] = KindPolicy{Mode: "yes", Plan: DefaultPlan()} },
		"stages": func(p *Policy) { p.Kinds[Runtime] = KindPolicy{Mode: Auto} },
		"metrics": func(p *Policy) {
			k := KindPolicy{Mode: Auto, Plan: DefaultPlan()}
			k.Plan.Metrics = nil
			p.Kinds[Runtime] = k
		},
		"deadline": func(p *Policy) {
			k := KindPolicy{Mode: Auto, Plan: DefaultPlan()}
			k.Plan.Stages[1].Deadline = 1
			p.Kinds[Runtime] = k
		},
		"both": func(p *Policy) {
			k := KindPolicy{Mode: Auto, Plan: DefaultPlan()}
			k.Plan.Stages[0].Percent = 5
			p.Kinds[Runtime] = k
		},
		"breaker": func(p *Policy) { p.BreakerFailures = 0 },
		"budget":  func(p *Policy) { p.Budget = -1 },
		"window":  func(p *Policy) { p.Windows = []Window{{From: 5, To: 5}} },
		"pattern": func(p *Policy) { p.Services = []ServicePolicy{{Match: "["}} },
		"service": func(p *Policy) { p.Services = []ServicePolicy{{Match: "a*", Kinds: map[Kind]KindPolicy{Runtime: {}}}} },
	} {
		p := DefaultPolicy()
		spoil(p)
		if err := p.Check(); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
}
