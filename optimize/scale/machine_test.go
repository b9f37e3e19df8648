package scale

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/optimize"
)

const gibibyte = 1 << 30

// n2 are some of a zone's machine types.
var n2 = []Shape{
	{Name: "n2-highmem-2", Cores: 2, Memory: 16 * gibibyte},
	{Name: "n2-standard-2", Cores: 2, Memory: 8 * gibibyte},
	{Name: "n2-standard-4", Cores: 4, Memory: 16 * gibibyte},
	{Name: "n2-highcpu-4", Cores: 4, Memory: 4 * gibibyte},
	{Name: "n2-standard-8", Cores: 8, Memory: 32 * gibibyte},
	{Name: "n2-standard-16", Cores: 16, Memory: 64 * gibibyte},
	{Name: "n2-odd-1", Cores: 1, Memory: 32 * gibibyte, Odd: "planted"},
	{Name: "e2-standard-2", Cores: 2, Memory: 32 * gibibyte},
}

// machines of a type that used cores and memory at the 95th percentile, and a fifth of that else.
func machines(n int, kind string, cores, memory float64, hours int) (out []Machine) {
	for i := range n {
		m := Machine{ID: fmt.Sprintf("m%d", i), Resource: fmt.Sprintf("projects/p/zones/z/instances/m%d", i), Type: kind}
		for h := range hours {
			share := 0.2
			if h%10 == 0 {
				share = 1
			}
			m.Hours = append(m.Hours, Usage{At: monday.Add(-time.Duration(h) * time.Hour), Cores: cores * share, Memory: memory * max(share, 0.9)})
		}
		out = append(out, m)
	}
	return out
}

func TestMachines(t *testing.T) {
	const all = 7 * 24
	for _, c := range []struct {
		name string
		in   []Machine
		to   string // "" is nothing
		why  string
	}{
		{"idle", machines(4, "n2-standard-8", 2, 8*gibibyte, all), "n2-standard-4", ""},
		{"idle, and memory to match", machines(4, "n2-standard-8", 1, 3*gibibyte, all), "n2-standard-2", ""},
		{"idle, and much memory", machines(4, "n2-standard-8", 1, 11*gibibyte, all), "n2-highmem-2", ""},
		{"idle, and all memory", machines(4, "n2-standard-8", 1, 20*gibibyte, all), "", "is right"},
		{"busy", machines(4, "n2-standard-8", 7, 8*gibibyte, all), "n2-standard-16", ""},
		{"short of memory", machines(4, "n2-standard-4", 1, 15*gibibyte, all), "n2-standard-8", ""},
		{"between", machines(4, "n2-standard-4", 3, 8*gibibyte, all), "", "is right"},
		{"no larger one", machines(4, "n2-standard-16", 15, 8*gibibyte, all), "", "is right"},
		{"less than a week", machines(4, "n2-standard-8", 2, 8*gibibyte, 5*24), "", "not measured for four fifths"},
		{"one machine", machines(1, "n2-standard-8", 2, 8*gibibyte, all), "", "at least one other"},
		{"none", nil, "", "at least one other"},
		{"another zone's", machines(4, "c3-standard-8", 2, 8*gibibyte, all), "", "not among those"},
		{"off", machines(4, "n2-standard-8", 0, 8*gibibyte, all), "", "nothing is used"},
		{"not measured", machines(4, "n2-standard-8", math.NaN(), 8*gibibyte, all), "", "not measured for four fifths"},
		{"the busiest decides", append(machines(3, "n2-standard-8", 1, 3*gibibyte, all), Machine{ID: "z", Type: "n2-standard-8", Hours: machines(1, "", 2, 8*gibibyte, all)[0].Hours}), "n2-standard-4", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := ProposeMachine(MachineInput{Service: "checkout", Now: monday, Machines: c.in, Shapes: n2}, MachineOptions{CoreMonth: 20})
			if err != nil {
				t.Fatal(err)
			}
			if d.Proposal == nil {
				if c.to != "" || !strings.Contains(d.Why, c.why) {
					t.Errorf("nothing (%s), want %q %q", d.Why, c.to, c.why)
				}
				return
			}
			var s MachineSpec
			if err := json.Unmarshal(d.Proposal.Spec, &s); err != nil {
				t.Fatal(err)
			}
			if s.To != c.to || s.From != c.in[0].Type || len(s.Machines) != len(c.in) || d.Proposal.Kind != optimize.Machine {
				t.Errorf("%s: %+v, want %s", d.Proposal.Sentence, s, c.to)
			}
			if up := c.name == "busy"; up != (d.Proposal.Saving < 0 && d.Proposal.Cost == 4*8*20) && up {
				t.Errorf("saving %v, cost %v", d.Proposal.Saving, d.Proposal.Cost)
			}
			t.Log(d.Proposal.Sentence)
		})
	}
	for _, o := range []MachineOptions{{Window: time.Hour}, {Target: 0.9}, {TargetMemory: 0.95}, {UpAt: 2}, {CoreMonth: -1}} {
		if _, err := ProposeMachine(MachineInput{}, o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}
