package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/quantra-l/quantra/agent"
	"github.com/quantra-l/quantra/agent/spans"
	"github.com/quantra-l/quantra/profile"
)

// ask asks the server's API, as the page does.
func ask(base, method string, request, answer any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	resp, err := owner(base).Post(base+"/quantra.v1.QuerierService/"+method, "application/json", strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", method, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}

// burn computes until done is closed.
func burn(done <-chan struct{}, sum uint64) uint64 {
	for {
		for i := range uint64(100_000) {
			sum = sum*31 ^ i
		}
		select {
		case <-done:
			return sum
		default:
		}
	}
}

//go:noinline
func slowQuery(done <-chan struct{}) uint64 { return burn(done, 1) + 1 }

//go:noinline
func renderPage(done <-chan struct{}) uint64 { return burn(done, 2) + 2 }

//go:noinline
func otherWork(done <-chan struct{}) uint64 { return burn(done, 3) + 3 }

// TestTraceHasItsOwnFlameGraph: a program with OpenTelemetry's SDK and the agent, and a
// server; the flame graph of one trace has what that trace did, on all its
// goroutines, and nothing of others. However many traces there are, the server has as
// many series as without them.
func TestTraceHasItsOwnFlameGraph(t *testing.T) {
	t.Setenv("QUANTRA_REGION", "local")
	s := mustStart(t, "--data", t.TempDir(), "--no-self-profile")
	tp := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans.New(spans.Options{})))
	tracer := tp.Tracer("test")
	a, err := agent.Start(t.Context(), agent.Options{Service: "traced", Server: s.base, Region: "local", SpoolBytes: -1, Window: 400 * time.Millisecond, Upload: 400 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Stop(context.Background())

	done := make(chan struct{})
	var working sync.WaitGroup
	end := sync.OnceFunc(func() { close(done); working.Wait() })
	defer end()
	traces := make([]trace.SpanContext, 2)
	started := make(chan struct{})
	for i, work := range []func(<-chan struct{}) uint64{slowQuery, otherWork} {
		working.Go(func() {
			pprof.Do(context.Background(), pprof.Labels("tenant", fmt.Sprint(i)), func(ctx context.Context) {
				ctx, span := tracer.Start(ctx, fmt.Sprintf("request %d", i))
				defer span.End()
				traces[i] = span.SpanContext()
				if i == 0 {
					working.Go(func() { // a part of the first trace, on a goroutine of its own
						_, part := tracer.Start(ctx, "render")
						defer part.End()
						renderPage(done)
					})
				}
				started <- struct{}{}
				work(done)
			})
		})
		<-started
	}

	flame := func(samples string) (string, error) {
		var out, stderr strings.Builder
		args := []string{"query", "flame", "-s", "traced", "-t", "cpu", "--samples", samples, "--width", "200", "--server", s.base}
		if code := run(t.Context(), args, nil, &out, &stderr); code != exitOK {
			return "", fmt.Errorf("code %d: %s", code, &stderr)
		}
		return out.String(), nil
	}
	one := fmt.Sprintf(`{trace_id="%s"}`, traces[0].TraceID())
	var got string
	eventually(t, "the flame graph of a trace", func() (bool, error) {
		var err error
		got, err = flame(one)
		return strings.Contains(got, "slowQuery") && strings.Contains(got, "renderPage"), err
	})
	if strings.Contains(got, "otherWork") {
		t.Errorf("the flame graph of %s has another trace's work:\n%s", one, got)
	}
	for _, c := range []struct{ samples, has, lacks string }{
		{fmt.Sprintf(`{trace_id="%s"}`, traces[1].TraceID()), "otherWork", "slowQuery"},
		{fmt.Sprintf(`{span_id="%s"}`, traces[0].SpanID()), "slowQuery", "renderPage"},
		{`{operation="render"}`, "renderPage", "slowQuery"},
		{`{operation="render", tenant="0"}`, "renderPage", "slowQuery"}, // the program's own label stays beside ours
	} {
		eventually(t, c.samples, func() (bool, error) {
			got, err := flame(c.samples)
			return strings.Contains(got, c.has), err
		})
		if got, err := flame(c.samples); err != nil || strings.Contains(got, c.lacks) {
			t.Errorf("the flame graph of %s has %s, %v:\n%s", c.samples, c.lacks, err, got)
		}
	}
	end()
	if err := a.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if err := tp.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	checkSeries(t, s, traces)
}

// checkSeries: labels of samples are no labels of series.
func checkSeries(t *testing.T, s *server, traces []trace.SpanContext) {
	t.Helper()
	const cpu = "process_cpu:cpu:nanoseconds:cpu:nanoseconds"
	var sets struct {
		Sets []struct {
			ProfileType string
			Profiles    int
			Labels      []struct{ Name string }
		}
	}
	if err := ask(s.base, "LabelSets", map[string]string{"matchers": `{service_name="traced"}`}, &sets); err != nil {
		t.Fatal(err)
	}
	series, profiles := 0, 0
	for _, set := range sets.Sets {
		if set.ProfileType == cpu {
			series, profiles = series+1, profiles+set.Profiles
		}
		for _, l := range set.Labels {
			if slices.Contains([]string{spans.LabelTrace, spans.LabelSpan, spans.LabelOperation}, l.Name) {
				t.Errorf("%s is a label of a series", l.Name)
			}
		}
	}
	if series != 1 || profiles < 2 {
		t.Errorf("%d series with %d CPU profiles of one program, want 1 with some", series, profiles)
	}
	// The labels are there all the same: of samples.
	var keys struct {
		Keys []struct {
			Key    string
			Values []struct{ Value string }
		}
	}
	if err := ask(s.base, "SampleLabels", map[string]any{"selection": map[string]string{"profileType": cpu, "matchers": `{service_name="traced"}`}}, &keys); err != nil {
		t.Fatal(err)
	}
	values := map[string]int{}
	for _, k := range keys.Keys {
		for _, v := range k.Values {
			values[k.Key+"="+v.Value]++
		}
	}
	for _, sc := range traces {
		if values[spans.LabelTrace+"="+sc.TraceID().String()] != 1 || values[spans.LabelSpan+"="+sc.SpanID().String()] != 1 {
			t.Errorf("trace %s, span %s is not among the labels of samples: %v", sc.TraceID(), sc.SpanID(), values)
		}
	}
}

// TestTracesAreNoSeries: to a server that takes two series of a tenant, a profile of 5,000 traces is one.
func TestTracesAreNoSeries(t *testing.T) {
	s := mustStart(t, "--data", t.TempDir(), "--no-self-profile", "--tenant-series", "2")
	b := profile.NewBuilder(profile.ValueType{Type: "cpu", Unit: "nanoseconds"})
	name := b.String("main.work")
	stack := b.Stack(0, b.Location(profile.Location{}, profile.Line{Function: b.Function(profile.Function{Name: name, SystemName: name}), Line: 1}))
	for i := range 5000 {
		b.Add(stack, b.LabelSet([]profile.SampleLabel{{Key: b.String(spans.LabelTrace), Str: b.String(fmt.Sprintf("%032x", i+1))}}), 10_000_000)
	}
	p := b.Profile()
	p.PeriodType, p.Period = p.SampleTypes[0], 10_000_000
	p.TimeNanos, p.DurationNanos = time.Now().Add(-time.Second).UnixNano(), int64(time.Second)
	for _, c := range []struct{ labels, what string }{{"", "200"}, {"&id=1", "200"}, {"", "200"}, {"&id=2", "429"}} {
		code, err := push(s.base, "service_name=many&name=process_cpu"+c.labels, p.AppendPprof(nil))
		if err != nil || fmt.Sprint(code) != c.what {
			t.Errorf("with %q: %d, %v; want %s", c.labels, code, err, c.what) // the last shows that series are counted
		}
	}
}
