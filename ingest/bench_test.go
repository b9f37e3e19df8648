package ingest

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// BenchmarkSurfaces is one request through each surface, without a network and a store: all sent profiles are of the same 1,000 stacks of 24 frames, but for the recording
// and the collector's request, which are what their clients sent. "ms-CPU/1000" is the time of one processor for 1,000 profiles.
//
//	go test -run '^$' -bench Surfaces ./ingest
func BenchmarkSurfaces(b *testing.B) {
	raw := gz(benchProfile().AppendPprof(nil))
	push := pushRequest(raw, "__name__", "process_cpu", "service_name", "checkout")
	parca := field(nil, 2, field(field(nil, 1, field(nil, 1, field(field(nil, 1, []byte("job")), 2, []byte("checkout")))), 2, field(nil, 1, raw)))
	cloud := field(field(nil, 1, []byte("projects/p")), 2, field(field(nil, 3, field(field(nil, 1, []byte("p")), 2, []byte("checkout"))), 5, raw))
	cloudJSON, err := json.Marshal(map[string]any{"profileType": "CPU", "deployment": map[string]string{"projectId": "p", "target": "checkout"}, "profileBytes": raw})
	if err != nil {
		b.Fatal(err)
	}
	formKind, form := datadogForm(b, `{"start":"`+now.Add(-time.Minute).Format(time.RFC3339Nano)+`","end":"`+now.Format(time.RFC3339Nano)+`","tags_profiler":"service:checkout"}`, map[string][]byte{"cpu.pprof": raw})
	read := func(path string) []byte {
		b, err := os.ReadFile(path)
		if err != nil {
			panic(err)
		}
		return b
	}
	const ingest = "/ingest?name=checkout&from=1777895940&until=1777895950&format="
	for _, s := range []struct {
		name, path, kind string
		body             []byte
	}{
		{"push", "/api/v1/profiles?service_name=checkout", "application/octet-stream", raw},
		{"ingest-pprof", ingest + "pprof", "application/octet-stream", raw},
		{"ingest-tree", ingest + "tree", "application/octet-stream", benchTree()},
		{"ingest-jfr", ingest + "jfr", "application/octet-stream", read("jfr/testdata/agent-2.1.2.jfr.gz")},
		{"pusher-connect", pushProcedure, "application/proto", push},
		{"parca-connect", writeRawProcedure, "application/proto", parca},
		{"otlp-protobuf", otlpPath, "application/x-protobuf", benchOTLP()},
		{"cloudprofiler", cloudProcedures + "CreateOfflineProfile", "application/proto", cloud},
		{"cloudprofiler-json", "/v2/projects/p/profiles:createOffline", "application/json", cloudJSON},
		{"datadog", "/profiling/v1/input", formKind, form},
		{"otlp-json-small", otlpPath, "application/json", read("otlp/testdata/collector-0.165.0.json")},
	} {
		b.Run(s.name, func(b *testing.B) {
			in, err := New(Options{Append: func(context.Context, Push) error { return nil }, InFlightBytes: -1, TenantRate: -1, Now: func() time.Time { return now }})
			if err != nil {
				b.Fatal(err)
			}
			mux := http.NewServeMux()
			in.Register(mux)
			b.SetBytes(int64(len(s.body)))
			b.ReportAllocs()
			for b.Loop() {
				w, r := httptest.NewRecorder(), httptest.NewRequest("POST", s.path, bytes.NewReader(s.body))
				r.Header.Set("Content-Type", s.kind)
				if mux.ServeHTTP(w, r); w.Code != 200 {
					b.Fatal(w.Code, w.Body)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "profiles/s")
			b.ReportMetric(float64(b.Elapsed().Milliseconds())*1000/float64(b.N), "ms-CPU/1000")
		})
	}
}

// benchTree is benchProfile as Pyroscope's tree.
func benchTree() []byte {
	p := benchProfile()
	children := make([][]uint32, len(p.Stacks.Parent))
	for i := 1; i < len(children); i++ {
		children[p.Stacks.Parent[i]] = append(children[p.Stacks.Parent[i]], uint32(i))
	}
	self := make([]int64, len(children))
	for i, s := range p.SampleStack {
		self[s] += p.Values[0][i]
	}
	var b []byte
	var walk func(uint32)
	walk = func(i uint32) {
		name := ""
		if i > 0 {
			name = p.Strings[p.Functions[p.Lines[p.Locations[p.Stacks.Loc[i]].FirstLine].Function].Name]
		}
		b = append(binary.AppendUvarint(b, uint64(len(name))), name...)
		b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(self[i])), uint64(len(children[i])))
		for _, c := range children[i] {
			walk(c)
		}
	}
	walk(0)
	return b
}

// benchOTLP is benchProfile as a request of OpenTelemetry's.
func benchOTLP() []byte {
	p := benchProfile()
	num := func(b []byte, at protowire.Number, n uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, at, protowire.VarintType), n)
	}
	var dict []byte
	for _, s := range append(p.Strings, "samples", "count", "cpu", "nanoseconds") {
		dict = field(dict, 5, []byte(s))
	}
	for _, at := range []protowire.Number{1, 2, 3, 4, 6, 7} {
		dict = field(dict, at, nil)
	}
	for _, f := range p.Functions {
		dict = field(dict, 3, num(num(num(nil, 1, uint64(f.Name)), 3, uint64(f.File)), 4, uint64(f.StartLine)))
	}
	for _, l := range p.Locations {
		line := p.Lines[l.FirstLine]
		dict = field(dict, 2, field(num(nil, 2, l.Address), 3, num(num(nil, 1, uint64(line.Function)+1), 2, uint64(line.Line))))
	}
	at := uint64(len(p.Strings))
	q := field(nil, 1, num(num(nil, 1, at), 2, at+1))
	q = field(q, 5, num(num(nil, 1, at+2), 2, at+3))
	q = num(protowire.AppendFixed64(protowire.AppendTag(q, 3, protowire.Fixed64Type), uint64(p.TimeNanos)), 4, uint64(p.DurationNanos))
	q = num(q, 6, uint64(p.Period))
	for i, s := range p.SampleStack {
		var locs []byte
		for n := s; n > 0; n = p.Stacks.Parent[n] {
			locs = protowire.AppendVarint(locs, uint64(p.Stacks.Loc[n])+1)
		}
		dict = field(dict, 7, field(nil, 1, locs))
		q = field(q, 2, field(num(nil, 1, uint64(i)+1), 4, protowire.AppendVarint(nil, uint64(p.Values[0][i]))))
	}
	key := field(field(nil, 1, []byte("service.name")), 2, field(nil, 1, []byte("checkout")))
	return field(field(nil, 1, field(field(nil, 1, field(nil, 1, key)), 2, field(nil, 2, q))), 2, dict)
}
