package formats

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/profile"
)

// testdata/node-20.cpuprofile is what Node 20.20.2 wrote with --cpu-prof --cpu-prof-interval 5000 for a program that calls slow and fast by
// turns; chromium-trace.json is of Chromium 156 with --trace-startup and the category disabled-by-default-v8.cpu_profiler, for a page that does the same,
// cut to the first events of two renderers, with the startTime that DevTools adds. Only folders' names were changed.
func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// self is what each function had itself.
func self(p *profile.Profile, col int) map[string]int64 {
	out := map[string]int64{}
	for _, r := range profile.Top(p, col) {
		if r.Self != 0 {
			out[r.Name] = r.Self
		}
	}
	return out
}

// TestNode: the figures are those that V8 counted itself, node by node, beside the samples.
func TestNode(t *testing.T) {
	raw := readFile(t, "node-20.cpuprofile")
	p, err := ParseCPUProfile(raw, profile.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	var file struct {
		Nodes []struct {
			HitCount  int64
			CallFrame struct{ FunctionName string }
		}
		StartTime, EndTime int64
		TimeDeltas         []int64
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	hits := map[string]int64{}
	for _, n := range file.Nodes {
		hits[n.CallFrame.FunctionName] += n.HitCount
	}
	samples, cpu := self(p, 0), self(p, 1)
	for _, name := range []string{"slow", "fast", "run", "(garbage collector)"} {
		if samples[name] != hits[name] || hits[name] == 0 {
			t.Errorf("%s: %d samples, and V8 counted %d", name, samples[name], hits[name])
		}
	}
	if _, ok := samples["(idle)"]; ok || hits["(idle)"] == 0 {
		t.Error("idle time is in it, or was not in the file")
	}
	if cpu["slow"] < 5*cpu["fast"] || cpu["fast"] == 0 {
		t.Errorf("slow has %d ns, fast %d", cpu["slow"], cpu["fast"])
	}
	// All of the time is there but that before the first sample: at work or idle.
	if want := (file.EndTime - file.StartTime - file.TimeDeltas[0]) * 1e3; len(p.Comments) != 1 || p.Total(1) >= want || p.DurationNanos != (file.EndTime-file.StartTime)*1e3 {
		t.Errorf("%d ns of %d, duration %d, %q", p.Total(1), want, p.DurationNanos, p.Comments)
	} else if idle, err := time.ParseDuration(strings.Fields(p.Comments[0])[0]); err != nil || p.Total(1)+idle.Nanoseconds() != want {
		t.Errorf("%d ns and %v idle are not %d (%v)", p.Total(1), idle, want, err)
	}
	if got := folded(t, p); !strings.Contains(got, "processTimers;listOnTimeout;(anonymous:L#5:C#12);made;run;slow 35") {
		t.Error(got)
	}
}

// TestChrome: as counted by a script of some lines in another language.
func TestChrome(t *testing.T) {
	raw := readFile(t, "chromium-trace.json")
	p, err := ParseChromeTrace(raw, profile.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	samples, cpu := self(p, 0), self(p, 1)
	for name, want := range map[string][2]int64{"slow": {435, 248601e3}, "fast": {33, 10651e3}, "work": {11, 2625e3}, "finalize": {9, 1889e3}, "(program)": {33, 23824e3}} {
		if got := [2]int64{samples[name], cpu[name]}; got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if at := time.Unix(0, p.TimeNanos).UTC(); at != time.Date(2026, 11, 26, 16, 37, 0, 0, time.UTC) {
		t.Errorf("it began at %v", at)
	}
	pids := map[int64]string{}
	for _, set := range p.LabelSets[1:] {
		if len(set) != 2 || p.Strings[set[0].Key] != "pid" || p.Strings[set[1].Key] != "thread" {
			t.Fatalf("labels %v", set)
		}
		pids[set[0].Num] = p.Strings[set[1].Str]
	}
	if len(pids) != 2 || pids[21325] != "CrRendererMain" {
		t.Errorf("threads %v", pids)
	}
	// The events alone are a trace, too.
	var top struct{ TraceEvents json.RawMessage }
	if err := json.Unmarshal(raw, &top); err != nil {
		t.Fatal(err)
	}
	bare, err := ParseChromeTrace(top.TraceEvents, profile.Limits{})
	if err != nil || bare.Total(1) != p.Total(1) || bare.TimeNanos != 0 {
		t.Error(err)
	}
}

const tinyV8 = `{"nodes":[{"id":1,"callFrame":{"functionName":"(root)"},"children":[2,4]},{"id":2,"callFrame":{"functionName":"a","url":"a.js","lineNumber":2},"hitCount":1,"children":[3]},
{"id":3,"callFrame":{"functionName":"","url":"a.js","lineNumber":6,"columnNumber":4},"hitCount":3},{"id":4,"callFrame":{"functionName":"(idle)"}}],
"startTime":1000,"endTime":2000,"samples":[2,3,4,3],"timeDeltas":[100,300,300,-100]}`

func TestV8(t *testing.T) {
	for name, c := range map[string]struct{ in, samples, cpu string }{
		// By time: a at 1100, the anonymous at 1400, again at 1600, idle from 1700 on.
		"late samples": {tinyV8, "a 1\na;(anonymous:L#7:C#5) 2\n", "a 300000\na;(anonymous:L#7:C#5) 300000\n"},
		"no samples":   {strings.Replace(tinyV8, `,"samples":[2,3,4,3],"timeDeltas":[100,300,300,-100]`, "", 1), "a 1\na;(anonymous:L#7:C#5) 3\n", "a 250000\na;(anonymous:L#7:C#5) 750000\n"},
	} {
		p, err := ParseCPUProfile([]byte(c.in), profile.Limits{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var cpu strings.Builder
		if err := profile.WriteFolded(&cpu, p, 1); err != nil {
			t.Fatal(err)
		}
		if got := folded(t, p); got != c.samples || cpu.String() != c.cpu {
			t.Errorf("%s: %q %q", name, got, cpu.String())
		}
	}
}

func TestV8Refused(t *testing.T) {
	replace := func(old, new string) string { return strings.Replace(tinyV8, old, new, 1) }
	chunk := func(s string) string {
		return `[{"name":"Profile","id":"0x1","pid":1,"tid":1,"args":{"data":{"startTime":0}}},{"name":"ProfileChunk","id":"0x1","pid":1,"tid":2,"args":{"data":` + s + `}}]`
	}
	for name, c := range map[string]struct {
		in   string
		want error
		text string
	}{
		"cut":               {tinyV8[:200], profile.ErrCorrupt, "unexpected end"},
		"no nodes":          {`{"nodes":[],"startTime":1}`, profile.ErrCorrupt, "no nodes"},
		"no samples":        {`{"nodes":[{"id":1,"callFrame":{"functionName":"a"}}],"startTime":1}`, profile.ErrCorrupt, "no samples"},
		"deltas":            {replace("100,300,300,-100", "100"), profile.ErrCorrupt, "4 samples and 1 timeDeltas"},
		"an unknown sample": {replace("[2,3,4,3]", "[2,3,4,9]"), profile.ErrCorrupt, "node 9"},
		"an unknown child":  {replace("[2,4]", "[2,9]"), profile.ErrCorrupt, "calls 9"},
		"twice":             {replace(`"id":4`, `"id":3`), profile.ErrCorrupt, "node 3 is there twice"},
		"two callers":       {replace("[2,4]", "[2,3,4]"), profile.ErrCorrupt, "called by two"},
		"a circle":          {`{"nodes":[{"id":1,"callFrame":{"functionName":"a"},"children":[2]},{"id":2,"callFrame":{"functionName":"b"},"children":[1]}],"startTime":1,"samples":[1],"timeDeltas":[1]}`, profile.ErrCorrupt, "calls itself"},
		"a time":            {replace(`"startTime":1000`, `"startTime":1e300`), profile.ErrCorrupt, "microseconds"},
		"a sum of times":    {replace("100,300,300,-100", "9e14,9e14,0,0"), profile.ErrCorrupt, "microseconds"},
		"hits":              {`{"nodes":[{"id":1,"hitCount":-1}],"startTime":1}`, profile.ErrCorrupt, "-1 hits"},
		"a long name":       {replace(`"a"`, `"`+strings.Repeat("x", maxFrame+1)+`"`), profile.ErrTooLarge, "a name"},

		"trace, none":         {`[]`, profile.ErrCorrupt, "no CPU profile"},
		"trace, cut":          {`[{"name":"Profile"`, profile.ErrCorrupt, "at byte"},
		"trace, no list":      {`{"traceEvents":{}}`, profile.ErrCorrupt, "no list"},
		"trace, a parent":     {chunk(`{"cpuProfile":{"nodes":[{"id":2,"parent":7}]}}`), profile.ErrCorrupt, "called by 7"},
		"trace, deltas":       {chunk(`{"cpuProfile":{"nodes":[{"id":1}],"samples":[1,1]},"timeDeltas":[1]}`), profile.ErrCorrupt, "2 samples and 1 timeDeltas"},
		"trace, begun before": {strings.Replace(chunk(`{"cpuProfile":{"nodes":[{"id":1}],"samples":[1]},"timeDeltas":[1]}`), `"Profile"`, `"other"`, 1), profile.ErrCorrupt, "no samples"},
	} {
		parse := ParseCPUProfile
		if strings.HasPrefix(name, "trace") {
			parse = ParseChromeTrace
		}
		if _, err := parse([]byte(c.in), profile.Limits{}); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v; want %v ...%s...", name, err, c.want, c.text)
		}
	}
	deep := `{"nodes":[{"id":1,"callFrame":{"functionName":"(root)"},"children":[2]}`
	for i := 2; i < 100; i++ {
		b, err := json.Marshal(map[string]any{"id": i, "children": []int{i + 1}})
		if err != nil {
			t.Fatal(err)
		}
		deep += "," + string(b)
	}
	deep += `,{"id":100}],"startTime":0,"samples":[100],"timeDeltas":[1]}`
	if _, err := ParseCPUProfile([]byte(deep), profile.Limits{Depth: 98}); !errors.Is(err, profile.ErrTooLarge) {
		t.Error(err)
	}
	if _, err := ParseCPUProfile([]byte(deep), profile.Limits{Depth: 99}); err != nil {
		t.Error(err)
	}
	if _, err := ParseCPUProfile([]byte(deep), profile.Limits{Stacks: 99}); !errors.Is(err, profile.ErrTooLarge) {
		t.Error(err)
	}
	if _, err := ParseCPUProfile([]byte(tinyV8), profile.Limits{Samples: 3}); !errors.Is(err, profile.ErrTooLarge) {
		t.Error(err)
	}
}

func TestSniff(t *testing.T) {
	for want, in := range map[string]string{"speedscope": speedscopeOf, "cpuprofile": tinyV8, "chrome": string(readFile(t, "chromium-trace.json")), "": `{"a":1}`} {
		if got := Sniff([]byte(" \n" + in)); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if Sniff([]byte("[]")) != "chrome" || Sniff(nil) != "" || Sniff([]byte("{")) != "" {
		t.Error("a list, nothing, half an object")
	}
}
