package pgo

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func withSamples(c Cell, n float64) Cell {
	c.Samples = n
	return c
}

func TestPlanVersion(t *testing.T) {
	hours := func(version string, from, to int, n float64) (out []Cell) {
		for h := from; h < to; h++ {
			out = append(out, withSamples(cell("i-"+version, version, h), n))
		}
		return out
	}
	for _, c := range []struct {
		name  string
		cells [][]Cell
		opt   PlanOptions
		want  []string
		warn  string
		err   string
	}{
		{"one", [][]Cell{hours("v1", 0, 5, 1000)}, PlanOptions{}, []string{"v1"}, "", ""},
		{"none has a name", [][]Cell{hours("", 0, 5, 1000)}, PlanOptions{}, []string{""}, "", ""},
		{"the newest", [][]Cell{hours("v1", 0, 5, 1000), hours("v2", 3, 5, 1000)}, PlanOptions{}, []string{"v2"}, "", ""},
		{"an old one that runs on", [][]Cell{hours("v2", 3, 5, 1000), hours("v1", 0, 9, 1000)}, PlanOptions{}, []string{"v2"}, "", ""},
		{"a canary of a minute", [][]Cell{hours("v1", 0, 5, 1000), hours("v2", 4, 5, 10)}, PlanOptions{}, []string{"v1"}, "v2 is newer than v1, but has only 10 samples", ""},
		{"side by side", [][]Cell{hours("v1", 0, 5, 1000), hours("v2", 0, 5, 1500)}, PlanOptions{}, []string{"v2"}, "side by side", ""},
		{"all are few", [][]Cell{hours("v1", 0, 5, 100), hours("v2", 4, 5, 10)}, PlanOptions{}, []string{"v1"}, "", ""},
		{"asked for", [][]Cell{hours("v1", 0, 5, 1000), hours("v2", 3, 5, 1000)}, PlanOptions{Version: "v1"}, []string{"v1"}, "", ""},
		{"all", [][]Cell{hours("v1", 0, 5, 1000), hours("v2", 3, 5, 1000)}, PlanOptions{AllVersions: true}, []string{"v2", "v1"}, "", ""},
		{"not there", [][]Cell{hours("v1", 0, 5, 1000)}, PlanOptions{Version: "v9"}, nil, "", "of version v9; there are [v1]"},
		{"nothing", [][]Cell{hours("v1", 0, 5, 0)}, PlanOptions{}, nil, "", "of any instance"},
	} {
		p, err := NewPlan(slices.Concat(c.cells...), c.opt)
		if c.err != "" {
			if !errors.Is(err, ErrNoSamples) || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if !slices.Equal(p.Versions, c.want) || p.Version != c.want[0] || !strings.Contains(strings.Join(p.Warnings, "\n"), c.warn) || (c.warn == "") != (len(p.Warnings) == 0) {
			t.Errorf("%s: versions %q, warnings %q", c.name, p.Versions, p.Warnings)
		}
		if p.Cells[0].Version != c.want[0] || p.Of != len(p.Cells) {
			t.Errorf("%s: %d of %d cells, the first of %s", c.name, len(p.Cells), p.Of, p.Cells[0].Version)
		}
	}
}

// TestPlanSpread: few of many cells are of all hours, zones and instances, and the same whatever order they come in.
func TestPlanSpread(t *testing.T) {
	var cells []Cell
	for h := range 168 {
		for i := range 30 {
			// Zone a has 20 of the 30, and instance 0 is there all the time; the others live for three days.
			if i > 0 && (h+5*i)/72%2 == 1 {
				continue
			}
			c := withSamples(cell(fmt.Sprint("i", i), "v1", h), 100)
			c.Zone = map[bool]string{true: "a", false: "b"}[i < 20]
			cells = append(cells, c)
		}
	}
	p, err := NewPlan(cells, PlanOptions{Cells: 336})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Cells) != 336 || p.Of != len(cells) {
		t.Fatalf("%d of %d cells", len(p.Cells), p.Of)
	}
	hours, zones, instances, twice := map[int64]int{}, map[string]int{}, map[string]int{}, map[Cell]bool{}
	for _, c := range p.Cells {
		hours[c.slot()]++
		zones[c.Zone]++
		instances[c.Instance]++
		if twice[c] {
			t.Errorf("%v is there twice", c)
		}
		twice[c] = true
	}
	for h, n := range hours {
		if n != 2 {
			t.Errorf("hour %d has %d cells", h/3600, n)
		}
	}
	if len(hours) != 168 || len(instances) != 30 || zones["a"] != 168 {
		t.Errorf("%d hours, %d instances, zones %v", len(hours), len(instances), zones)
	}
	for i, n := range instances {
		if n > 30 {
			t.Errorf("%s has %d of 336 cells", i, n)
		}
	}
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(cells), func(i, j int) { cells[i], cells[j] = cells[j], cells[i] })
	again, err := NewPlan(cells, PlanOptions{Cells: 336})
	if err != nil || !reflect.DeepEqual(p, again) {
		t.Error("another order gives another plan")
	}
	few, err := NewPlan(cells, PlanOptions{Cells: 7})
	if err != nil || len(few.Cells) != 7 {
		t.Fatal(err)
	}
	days := map[string]bool{}
	for _, c := range few.Cells {
		days[c.From.Weekday().String()] = true
	}
	if len(days) < 4 {
		t.Errorf("seven cells are of %v", days)
	}
	if all, err := NewPlan(cells, PlanOptions{Cells: -1}); err != nil || len(all.Cells) != len(cells) {
		t.Errorf("no bound: %v", err)
	}
}
