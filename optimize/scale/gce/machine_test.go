package gce

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/scale"
)

// plan is a change of one machine's type, on a server.
type plan struct {
	*server
	m      *Machines
	c      *optimize.Change
	target optimize.Target
	snap   json.RawMessage
	back   bool // it has rejoined
}

func newPlan(t *testing.T) *plan {
	t.Helper()
	p := &plan{server: newServer(t), back: true}
	spec, err := json.Marshal(scale.MachineSpec{From: "n2-standard-8", To: "n2-standard-4", Machines: []scale.MachineRef{{ID: "checkout-1", Resource: machine}}})
	if err != nil {
		t.Fatal(err)
	}
	p.c = &optimize.Change{Proposal: optimize.Proposal{Kind: optimize.Machine, Spec: spec}, ApprovedBy: "somebody"}
	p.m, err = NewMachines(MachineOptions{Cloud: p.cloud(t), StepTime: 20 * time.Second, Rejoined: func(context.Context, optimize.Target, time.Time) (bool, error) { return p.back, nil }})
	if err != nil {
		t.Fatal(err)
	}
	targets, err := p.m.Targets(t.Context(), p.c)
	if err != nil || len(targets) != 1 || targets[0].Zone != "europe-west3-a" || targets[0].Started.IsZero() {
		t.Fatalf("targets %+v, %v", targets, err)
	}
	p.target = targets[0]
	if p.snap, err = p.m.Snapshot(t.Context(), p.c, p.target); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *plan) stands(t *testing.T, want optimize.Standing) {
	t.Helper()
	got, word, err := p.m.Standing(t.Context(), p.c, p.target, p.snap)
	if got != want || err != nil {
		t.Fatalf("it stands %q (%s), %v: want %q", got, word, err, want)
	}
}

func (p *plan) apply(t *testing.T) error { return p.m.Apply(t.Context(), p.c, p.target, p.snap) }
func (p *plan) undo(t *testing.T) error  { return p.m.Undo(t.Context(), p.c, p.target, p.snap) }

func TestPlan(t *testing.T) {
	p := newPlan(t)
	p.stands(t, optimize.Absent)
	if err := errors.Join(p.m.Rehearse(t.Context(), p.c, p.target, p.snap), p.undo(t)); err != nil || len(p.calls) != 0 {
		t.Fatalf("rehearsing and undoing what was never made: %v, %v", err, p.calls)
	}
	for range 2 { // again is nothing
		if err := p.apply(t); err != nil {
			t.Fatal(err)
		}
	}
	if got := fmt.Sprint(p.calls); got != "[stop setMachineType start]" {
		t.Errorf("the steps were %s", got)
	}
	p.back = false
	p.stands(t, optimize.Pending)
	p.back = true
	p.stands(t, optimize.InForce)
	for range 2 {
		if err := p.undo(t); err != nil {
			t.Fatal(err)
		}
	}
	if got := fmt.Sprint(p.calls[3:]); got != "[stop setMachineType start]" {
		t.Errorf("the steps back were %s", got)
	}
	p.stands(t, optimize.Absent)
}

// TestResume leaves the plan at each step, as a crash would, and goes on or back.
func TestResume(t *testing.T) {
	small, large := "zones/europe-west3-a/machineTypes/n2-standard-4", "zones/europe-west3-a/machineTypes/n2-standard-8"
	for _, c := range []struct {
		name, status, machineType string
		on, back                  string
	}{
		{"not begun", "RUNNING", large, "[stop setMachineType start]", "[]"},
		{"stopping", "STOPPING", large, "[setMachineType start]", "[start]"},
		{"stopped", "TERMINATED", large, "[setMachineType start]", "[start]"},
		{"set", "TERMINATED", small, "[start]", "[setMachineType start]"},
		{"starting", "STAGING", small, "[]", "[stop setMachineType start]"},
		{"done", "RUNNING", small, "[]", "[stop setMachineType start]"},
		{"stopping on the way back", "STOPPING", small, "[start]", "[setMachineType start]"},
	} {
		for _, undo := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, undo %v", c.name, undo), func(t *testing.T) {
				p := newPlan(t)
				p.with(func() {
					p.inst["status"], p.inst["machineType"] = c.status, c.machineType
					p.at[p.gets+4] = func() { // what goes on by itself comes to its end
						switch p.inst["status"] {
						case "STOPPING":
							p.inst["status"] = "TERMINATED"
						case "STAGING":
							p.inst["status"] = "RUNNING"
						}
					}
				})
				do, want, stands := p.apply, c.on, optimize.InForce
				if undo {
					do, want, stands = p.undo, c.back, optimize.Absent
				}
				if err := do(t); err != nil {
					t.Fatal(err)
				}
				if got := fmt.Sprint(p.calls); got != want {
					t.Errorf("the steps were %s, want %s", got, want)
				}
				p.stands(t, stands)
			})
		}
	}
}

// TestLeftBehind: once a machine is stopped no error is final, and the undo brings it back.
func TestLeftBehind(t *testing.T) {
	for _, plant := range []func(p *plan){
		func(p *plan) { p.fail["POST setMachineType"], p.reason = 403, "forbidden" },
		func(p *plan) { p.failOp["setMachineType"] = "UNSUPPORTED_OPERATION" },
		func(p *plan) { p.failOp["start"] = "QUOTA_EXCEEDED" },
		func(p *plan) { p.failOp["start"] = "ZONE_RESOURCE_POOL_EXHAUSTED" },
	} {
		p := newPlan(t)
		p.with(func() { plant(p) })
		for range 2 {
			err := p.apply(t)
			if err == nil || errors.Is(err, optimize.ErrRefused) || errors.Is(err, optimize.ErrGone) {
				t.Fatalf("%v after %v: it must not be final", err, p.calls)
			}
			p.stands(t, optimize.Pending)
		}
		p.with(func() { p.fail, p.failOp = map[string]int{}, map[string]string{} })
		if err := p.undo(t); err != nil {
			t.Fatal(err)
		}
		p.stands(t, optimize.Absent)
	}
	p := newPlan(t)
	p.with(func() { p.fail["POST stop"], p.reason = 403, "forbidden" })
	if err := p.apply(t); !errors.Is(err, optimize.ErrRefused) {
		t.Errorf("before anything was done: %v, want refused", err)
	}
}

// TestUnderWay: what takes longer than a step is not waited for, and is not final.
func TestUnderWay(t *testing.T) {
	p := newPlan(t)
	p.m.o.StepTime = 100 * time.Millisecond
	p.with(func() { p.inst["status"] = "STOPPING" })
	err := p.apply(t)
	if err == nil || errors.Is(err, optimize.ErrRefused) {
		t.Errorf("%v: want that it is STOPPING", err)
	}
	p.stands(t, optimize.Pending)
}

// TestUnfit are machines that are not stopped, each with what must be done by hand.
func TestUnfit(t *testing.T) {
	for name, c := range map[string]struct {
		change func(inst map[string]any)
		says   string
	}{
		"local SSD": {func(i map[string]any) {
			i["disks"] = []any{map[string]any{"type": "PERSISTENT"}, map[string]any{"type": "SCRATCH", "deviceName": "local-ssd-0"}}
		}, "local SSD (local-ssd-0), whose data a stop loses: copy"},
		"in a group": {func(i map[string]any) {
			i["metadata"] = map[string]any{"items": []any{map[string]any{"key": "created-by", "value": "projects/1/zones/europe-west3-a/instanceGroupManagers/checkout"}}}
		}, "managed instance group checkout"},
		"accelerators": {func(i map[string]any) { i["guestAccelerators"] = []any{map[string]any{"acceleratorCount": 1}} }, "accelerators"},
		"sole tenant": {func(i map[string]any) {
			i["scheduling"] = map[string]any{"nodeAffinities": []any{map[string]any{"key": "k"}}}
		}, "sole-tenant"},
		"spot":  {func(i map[string]any) { i["scheduling"] = map[string]any{"provisioningModel": "SPOT"} }, "spot machine"},
		"cores": {func(i map[string]any) { i["advancedMachineFeatures"] = map[string]any{"threadsPerCore": 1} }, "advanced machine features"},
		"reservation": {func(i map[string]any) {
			i["reservationAffinity"] = map[string]any{"consumeReservationType": "SPECIFIC_RESERVATION"}
		}, "reservation by hand"},
		"another type": {func(i map[string]any) { i["machineType"] = "zones/z/machineTypes/n2-standard-16" }, "its type is n2-standard-16"},
		"stopped":      {func(i map[string]any) { i["status"] = "TERMINATED" }, "it is TERMINATED"},
	} {
		p := newPlan(t)
		p.with(func() { c.change(p.inst) })
		_, err := p.m.Snapshot(t.Context(), p.c, p.target)
		if !errors.Is(err, optimize.ErrRefused) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: snapshot: %v: want refused, and %q", name, err, c.says)
		}
		if err := p.m.Rehearse(t.Context(), p.c, p.target, p.snap); !errors.Is(err, optimize.ErrRefused) {
			t.Errorf("%s: rehearse: %v: want refused", name, err)
		}
		if name != "stopped" { // that is a plan under way, to Apply
			if err := p.apply(t); !errors.Is(err, optimize.ErrRefused) || len(p.calls) != 0 {
				t.Errorf("%s: apply: %v, %v: want refused, and nothing done", name, err, p.calls)
			}
		}
		if ts, err := p.m.Targets(t.Context(), p.c); name != "stopped" && (len(ts) != 0 || err != nil) {
			t.Errorf("%s: targets %v, %v: want none", name, ts, err)
		}
	}
}

func TestRehearsal(t *testing.T) {
	for name, c := range map[string]struct {
		plant func(p *plan)
		says  string
	}{
		"may not":           {func(p *plan) { p.may = p.may[:2] }, "has not compute.instances.setMachineType"},
		"no such type":      {func(p *plan) { delete(p.types, "n2-standard-4") }, "has no machine type n2-standard-4"},
		"no way back":       {func(p *plan) { delete(p.types, "n2-standard-8") }, "has no machine type n2-standard-8"},
		"type is at an end": {func(p *plan) { p.types["n2-standard-4"] = p.types["n2-standard-2"] }, "it is obsolete"},
	} {
		p := newPlan(t)
		p.with(func() { c.plant(p) })
		if err := p.m.Rehearse(t.Context(), p.c, p.target, p.snap); !errors.Is(err, optimize.ErrRefused) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v: want refused, and %q", name, err, c.says)
		}
	}
}

func TestMachineRefusals(t *testing.T) {
	p := newPlan(t)
	p.c.ApprovedBy = ""
	if err := p.apply(t); !errors.Is(err, optimize.ErrRefused) || !strings.Contains(err.Error(), "nobody has approved") || len(p.calls) != 0 {
		t.Errorf("without approval: %v", err)
	}
	p = newPlan(t)
	if err := p.apply(t); err != nil {
		t.Fatal(err)
	}
	p.with(func() { p.inst["machineType"] = "zones/z/machineTypes/n2-standard-16" })
	if err := p.undo(t); !errors.Is(err, optimize.ErrRefused) || !strings.Contains(err.Error(), "somebody else made it n2-standard-16") {
		t.Errorf("undo of somebody else's: %v", err)
	}
	p.stands(t, optimize.Refused)
	p.with(func() { p.inst["machineType"], p.inst["id"] = "zones/z/machineTypes/n2-standard-4", "78" })
	if err := p.undo(t); !errors.Is(err, optimize.ErrGone) {
		t.Errorf("undo of a machine made anew: %v", err)
	}
	p.stands(t, optimize.Gone)
	p.with(func() { p.inst = nil })
	p.stands(t, optimize.Gone)
	for _, spec := range []string{`{`, `{"from":"n2-standard-8","to":"n2-standard-8"}`, `{"from":"n2-standard-8","to":"../x"}`} {
		p.c.Spec = json.RawMessage(spec)
		if _, err := p.m.Targets(t.Context(), p.c); !errors.Is(err, optimize.ErrRefused) {
			t.Errorf("spec %s: %v", spec, err)
		}
	}
	if _, err := NewMachines(MachineOptions{}); err == nil {
		t.Error("empty options are taken")
	}
}
