// Client sends one known profile through a protocol's official client, as the test of ingest that runs it says: the exporters
// of OpenTelemetry's collector, and the clients that Pyroscope's API module has. It is a module of its own, so that their dependencies are not
// ours.
//
//	client CLIENT URL TOKEN
//
// It first sends a profile that is an hour ahead of the clock, which must be refused, and then the good one, by the
// same client. It prints what it was told of the first.
package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/google/pprof/profile"
	pushv1 "github.com/grafana/pyroscope/api/gen/proto/go/push/v1"
	"github.com/grafana/pyroscope/api/gen/proto/go/push/v1/pushv1connect"
	typesv1 "github.com/grafana/pyroscope/api/gen/proto/go/types/v1"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/exporter/otlpexporter"
	"go.opentelemetry.io/collector/exporter/otlphttpexporter"
	"go.opentelemetry.io/collector/exporter/xexporter"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pprofile"
)

const service = "client.test"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return errors.New("three arguments: CLIENT URL TOKEN")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	name, url, token := args[0], args[1], args[2]
	send, stop, err := sender(ctx, name, url, token)
	if err != nil {
		return err
	}
	refused := send(ctx, time.Now().Add(time.Hour))
	if refused == nil {
		return errors.New("a profile that is an hour ahead was taken")
	}
	fmt.Println(refused)
	return errors.Join(send(ctx, time.Now().Add(-time.Minute)), stop(ctx))
}

func none(context.Context) error { return nil }

// sender is the client of a name: it sends the profile as of a time.
func sender(ctx context.Context, name, url, token string) (send func(context.Context, time.Time) error, stop func(context.Context) error, err error) {
	switch name {
	case "push-connect":
		return pusher(url, token), none, nil
	case "push-grpc":
		return pusher(url, token, connect.WithGRPC()), none, nil
	case "push-json":
		return pusher(url, token, connect.WithProtoJSON()), none, nil
	case "otlp-grpc":
		return exports(ctx, otlpexporter.NewFactory(), map[string]any{
			"endpoint": strings.TrimPrefix(url, "http://"), "tls": map[string]any{"insecure": true}, "compression": "gzip",
		}, token)
	case "otlp-http":
		return exports(ctx, otlphttpexporter.NewFactory(), map[string]any{"endpoint": url, "compression": "zstd"}, token)
	case "otlp-json":
		return exports(ctx, otlphttpexporter.NewFactory(), map[string]any{"endpoint": url, "encoding": "json"}, token)
	}
	return nil, nil, fmt.Errorf("no client %q", name)
}

// pusher is Pyroscope's published Connect client.
func pusher(url, token string, opts ...connect.ClientOption) func(context.Context, time.Time) error {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true) // gRPC needs it
	client := pushv1connect.NewPusherServiceClient(&http.Client{Transport: &http.Transport{Protocols: protocols}}, url, append(opts, connect.WithSendGzip())...)
	return func(ctx context.Context, at time.Time) error {
		raw, err := pprof(at)
		if err != nil {
			return err
		}
		q := connect.NewRequest(&pushv1.PushRequest{Series: []*pushv1.RawProfileSeries{{
			Labels: []*typesv1.LabelPair{
				{Name: "__name__", Value: "process_cpu"}, {Name: "__session_id__", Value: "1"}, {Name: "service_name", Value: service},
				{Name: "deployment.environment", Value: "test"},
			},
			Samples: []*pushv1.RawSample{{RawProfile: raw, ID: "4d1a9f5e-0f0e-4b26-a1a7-4f7f34a3e6a1"}},
		}}})
		q.Header().Set("Authorization", "Bearer "+token)
		q.Header().Set("X-Scope-OrgID", "acme")
		_, err = client.Push(ctx, q)
		return err
	}
}

// pprof is main.main calling main.work: 7 samples of 10 ms.
func pprof(at time.Time) ([]byte, error) {
	outer, inner := &profile.Function{ID: 1, Name: "main.main", Filename: "main.go"}, &profile.Function{ID: 2, Name: "main.work", Filename: "main.go"}
	locations := []*profile.Location{{ID: 1, Line: []profile.Line{{Function: inner, Line: 13}}}, {ID: 2, Line: []profile.Line{{Function: outer, Line: 3}}}}
	p := &profile.Profile{
		SampleType: []*profile.ValueType{{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}},
		PeriodType: &profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, Period: 10_000_000,
		TimeNanos: at.UnixNano(), DurationNanos: int64(10 * time.Second),
		Function: []*profile.Function{outer, inner}, Location: locations,
		Sample: []*profile.Sample{{Location: locations, Value: []int64{7, 70_000_000}}},
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if err := errors.Join(p.WriteUncompressed(z), z.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// exports is an exporter of the collector's, without its queue: so that an error is the one of this request.
func exports(ctx context.Context, factory exporter.Factory, conf map[string]any, token string) (func(context.Context, time.Time) error, func(context.Context) error, error) {
	conf["headers"] = map[string]any{"Authorization": "Bearer " + token, "X-Scope-OrgID": "acme"}
	conf["sending_queue"] = map[string]any{"enabled": false}
	conf["retry_on_failure"] = map[string]any{"enabled": false}
	cfg := factory.CreateDefaultConfig()
	if err := confmap.NewFromStringMap(conf).Unmarshal(cfg); err != nil {
		return nil, nil, err
	}
	x, ok := factory.(xexporter.Factory)
	if !ok {
		return nil, nil, errors.New("the exporter does not export profiles")
	}
	e, err := x.CreateProfiles(ctx, exportertest.NewNopSettings(component.MustNewType(factory.Type().String())), cfg)
	if err != nil {
		return nil, nil, err
	}
	if err := e.Start(ctx, componenttest.NewNopHost()); err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context, at time.Time) error {
		return e.ConsumeProfiles(ctx, profiles(at))
	}, e.Shutdown, nil
}

// profiles is the same profile in OpenTelemetry's form, as a profiler of samples has it: counts with a period, an attribute and a link on the sample.
func profiles(at time.Time) pprofile.Profiles {
	all := pprofile.NewProfiles()
	d := all.Dictionary()
	d.StringTable().Append("", "samples", "count", "cpu", "nanoseconds", "main.main", "main.work", "main.go", "thread.name", "/usr/bin/program", "process.executable.build_id.gnu")
	d.FunctionTable().AppendEmpty()
	d.LocationTable().AppendEmpty()
	d.MappingTable().AppendEmpty()
	d.LinkTable().AppendEmpty()
	d.AttributeTable().AppendEmpty()
	d.StackTable().AppendEmpty()
	thread := d.AttributeTable().AppendEmpty()
	thread.SetKeyStrindex(8)
	thread.Value().SetStr("worker-1")
	build := d.AttributeTable().AppendEmpty()
	build.SetKeyStrindex(10)
	build.Value().SetStr("abcdef")
	m := d.MappingTable().AppendEmpty()
	m.SetMemoryStart(4096)
	m.SetMemoryLimit(8192)
	m.SetFilenameStrindex(9)
	m.AttributeIndices().Append(2)
	for i, name := range []int32{5, 6} {
		f := d.FunctionTable().AppendEmpty()
		f.SetNameStrindex(name)
		f.SetFilenameStrindex(7)
		f.SetStartLine(int64(10*i + 1))
		l := d.LocationTable().AppendEmpty()
		l.SetMappingIndex(1)
		l.SetAddress(uint64(4096 + i))
		line := l.Lines().AppendEmpty()
		line.SetFunctionIndex(int32(i + 1))
		line.SetLine(int64(10*i + 3))
	}
	k := d.LinkTable().AppendEmpty()
	k.SetTraceID(pcommon.TraceID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16})
	k.SetSpanID(pcommon.SpanID{1, 2, 3, 4, 5, 6, 7, 8})
	d.StackTable().AppendEmpty().LocationIndices().Append(2, 1) // the innermost first

	r := all.ResourceProfiles().AppendEmpty()
	r.Resource().Attributes().PutStr("service.name", service)
	r.Resource().Attributes().PutStr("service.version", "v1")
	r.Resource().Attributes().PutStr("deployment.environment", "test")
	r.Resource().Attributes().PutStr("process.command_line", "program --flag")
	p := r.ScopeProfiles().AppendEmpty().Profiles().AppendEmpty()
	p.SampleType().SetTypeStrindex(1)
	p.SampleType().SetUnitStrindex(2)
	p.PeriodType().SetTypeStrindex(3)
	p.PeriodType().SetUnitStrindex(4)
	p.SetPeriod(10_000_000)
	p.SetTime(pcommon.NewTimestampFromTime(at))
	p.SetDurationNano(uint64(10 * time.Second))
	s := p.Samples().AppendEmpty()
	s.SetStackIndex(1)
	s.SetLinkIndex(1)
	s.AttributeIndices().Append(1)
	s.Values().Append(7)
	return all
}
