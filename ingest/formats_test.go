package ingest

import (
	"os"
	"strings"
	"testing"

	"github.com/quantra-l/quantra/profile"
)

// TestPyroscopeFormats: what each format's upload is filed under. The stacks are those of formats' own tests.
func TestPyroscopeFormats(t *testing.T) {
	tree := "\x00\x00\x01\x01a\x00\x02\x01b\x01\x00\x01c\x02\x00"
	trie := "\x00\x00\x01\x02a;\x00\x02\x01b\x01\x00\x01c\x02\x00"
	speedscope := func(unit string) string {
		return `{"shared":{"frames":[{"name":"a"},{"name":"b"},{"name":"c"}]},"profiles":[{"type":"sampled","name":"main","unit":"` + unit + `","samples":[[0,1],[0,2]],"weights":[1,2]}]}`
	}
	recording, err := os.ReadFile("jfr/testdata/agent-2.1.2.jfr.gz")
	if err != nil {
		t.Fatal(err)
	}
	jfrForm, jfrBody := form(t, "jfr", string(recording))
	const cpu = "process_cpu:samples:count:cpu:nanoseconds process_cpu:cpu:nanoseconds:cpu:nanoseconds"
	for name, c := range map[string]struct {
		query, kind, body string
		types             string
		last              int64 // the last column's total
	}{
		"tree":                    {"name=shop.cpu&format=tree&sampleRate=50", "", tree, cpu, 60_000_000},
		"trie":                    {"name=shop&format=trie", "", trie, cpu, 30_000_000},
		"tree by content type":    {"name=shop", "binary/octet-stream+tree", tree, cpu, 30_000_000},
		"trie by content type":    {"name=shop", "binary/octet-stream+trie", trie, cpu, 30_000_000},
		"tree, gzip":              {"name=shop&format=tree", "", string(gz([]byte(tree))), cpu, 30_000_000},
		"tree of bytes":           {"name=shop.alloc_space&format=tree", "", tree, "memory:alloc_space:bytes:space:bytes", 3},
		"units":                   {"name=shop&format=tree&units=objects&aggregationType=average", "", tree, "memory:inuse_objects:count:space:bytes", 3},
		"units of locks":          {"name=shop&format=tree&units=lock_nanoseconds", "", tree, "mutex:delay:nanoseconds:contentions:count", 3},
		"the name before units":   {"name=shop.cpu&format=tree&units=objects", "", tree, cpu, 30_000_000},
		"units of CPU":            {"name=shop&format=tree&units=samples", "", tree, cpu, 30_000_000},
		"speedscope":              {"name=shop&format=speedscope", "", speedscope("none"), cpu, 30_000_000},
		"speedscope, time":        {"name=shop.wall&format=speedscope", "", speedscope("milliseconds"), "wall:wall:nanoseconds:wall:nanoseconds", 3_000_000},
		"speedscope, bytes":       {"name=shop&format=speedscope", "", speedscope("bytes"), "memory:alloc_space:bytes:space:bytes", 3},
		"Flight Recorder":         {"name=shop&format=jfr", "", string(recording), cpu + " memory:alloc_objects:count:space:bytes memory:alloc_space:bytes:space:bytes mutex:contentions:count:contentions:count mutex:delay:nanoseconds:contentions:count", 1_330_421_644},
		"Flight Recorder, form":   {"name=shop&format=jfr&sampleRate=100", jfrForm, string(jfrBody), cpu + " memory:alloc_objects:count:space:bytes memory:alloc_space:bytes:space:bytes mutex:contentions:count:contentions:count mutex:delay:nanoseconds:contentions:count", 1_330_421_644},
		"form without its format": {"name=shop", jfrForm, string(jfrBody), cpu + " memory:alloc_objects:count:space:bytes memory:alloc_space:bytes:space:bytes mutex:contentions:count:contentions:count mutex:delay:nanoseconds:contentions:count", 1_330_421_644},
	} {
		t.Run(name, func(t *testing.T) {
			var s sink
			_, srv := serve(t, Options{Append: s.append})
			if c.kind == "" {
				c.kind = "application/octet-stream"
			}
			if strings.HasSuffix(name, "gzip") {
				c.kind = "binary/octet-stream+tree"
			}
			r := request{path: "/pyroscope/ingest?from=1777895940&until=1777895950&" + c.query, body: []byte(c.body), header: map[string]string{"Content-Type": c.kind}}
			if strings.HasSuffix(name, "gzip") {
				r.header["Content-Encoding"] = "gzip"
			}
			if status, code, text, _ := r.do(t, srv); status != 200 {
				t.Fatalf("%d %s: %s", status, code, text)
			}
			var types []string
			var last int64
			for _, p := range s.pushes {
				for i, st := range p.Profile.SampleTypes {
					types = append(types, profile.Type{Name: p.Name, Sample: st, Period: p.Profile.PeriodType}.String())
					last = p.Profile.Total(i)
				}
				if p.Labels.Get("service_name") != "shop" || p.From.Unix() != 1777895940 || p.To.Unix() != 1777895950 {
					t.Errorf("%v from %v until %v", p.Labels, p.From, p.To)
				}
				if again, err := profile.DecodeBytes(p.Pprof, profile.Limits{}); err != nil || again.Total(0) != p.Profile.Total(0) {
					t.Errorf("the bytes handed on do not decode to the profile: %v", err)
				}
			}
			if got := strings.Join(types, " "); got != c.types || last != c.last {
				t.Errorf("%s, the last %d; want %s, %d", got, last, c.types, c.last)
			}
		})
	}
	var s sink
	_, srv := serve(t, Options{Append: s.append})
	r := request{path: "/ingest?name=shop.goroutines&format=speedscope", body: []byte(speedscope("seconds"))}
	if status, code, _, _ := r.do(t, srv); status != 422 || code != "units" {
		t.Errorf("goroutines in seconds: %d %s", status, code)
	}
}

// TestModel: names of other senders in ours.
func TestModel(t *testing.T) {
	p := sample()
	for sent, want := range map[string]string{
		"": "process_cpu", "process_cpu": "process_cpu", "goroutines": "goroutine", "godeltaprof_mutex": "mutex", "heap": "memory", "parca_agent_cpu": "process_cpu", "no name": "process_cpu", "fgprof": "fgprof",
	} {
		if got := modelName(sent, p); got != want {
			t.Errorf("%q is %q, must be %q", sent, got, want)
		}
	}
	for want, pairs := range map[string][]profile.Label{
		"a": {{Name: "service.name", Value: "a"}, {Name: "job", Value: "b"}}, "b": {{Name: "job", Value: "b"}, {Name: "comm", Value: "c"}}, "unknown_service": {{Name: "__meta", Value: "x"}},
	} {
		if _, ls, err := modelLabels(pairs); err != nil || ls.Get("service_name") != want {
			t.Errorf("%v: %v %v", pairs, ls, err)
		}
	}
	samples := sample(profile.ValueType{Type: "samples", Unit: "count"})
	if !toModel(samples) || len(samples.SampleTypes) != 2 || samples.Total(1) != 70_000_000 || samples.Check() != nil {
		t.Errorf("samples at a rate: %v", samples.SampleTypes)
	}
	if toModel(samples) {
		t.Error("what is in the model is changed")
	}
	huge := sample(profile.ValueType{Type: "samples", Unit: "count"})
	huge.Values[0][0] = 1 << 62
	if toModel(huge) {
		t.Error("more CPU time than 64 bits")
	}
}
