package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/quantra-l/quantra/agent"
	"github.com/quantra-l/quantra/agent/spans"
	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/profile"
)

// TestSpansBecomeTransitions: what a program's spans took comes through the agent and the server to analyze whole: every span, its path, its
// bucket and its status.
func TestSpansBecomeTransitions(t *testing.T) {
	t.Setenv("QUANTRA_REGION", "local")
	s := mustStart(t, "--data", t.TempDir(), "--no-self-profile")
	traced := spans.New(spans.Options{})
	tp := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(traced))
	looked := make(chan struct{}, 1000)
	src := traced.Source()
	write := src.Write
	src.Write = func(w io.Writer) error {
		defer func() { looked <- struct{}{} }()
		return write(w)
	}
	a, err := agent.Start(t.Context(), agent.Options{
		Service: "node", Server: s.base, Region: "local", SpoolBytes: -1, Types: agent.Runtime, Sources: []agent.Source{src},
		Window: 200 * time.Millisecond, Upload: 200 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Stop(context.Background())
	<-looked
	tracer := tp.Tracer("test")
	now := time.Now()
	const connections = 500
	for i := range connections {
		ctx, c := tracer.Start(t.Context(), "connection", trace.WithTimestamp(now))
		c.AddEvent("dial", trace.WithTimestamp(now))
		c.AddEvent("handshake", trace.WithTimestamp(now.Add(10*time.Millisecond)))
		_, v := tracer.Start(ctx, "verify", trace.WithTimestamp(now))
		if i%5 == 0 {
			v.RecordError(fmt.Errorf("no"))
			v.SetStatus(codes.Error, "no")
		}
		v.End(trace.WithTimestamp(now.Add(time.Millisecond)))
		c.End(trace.WithTimestamp(now.Add(40 * time.Millisecond)))
	}
	ask := "/api/v1/export?profile_type=spans:spans:count:spans:count&matchers=" + url.QueryEscape(`{service_name="node"}`)
	want := map[string]struct {
		n      int64
		low    time.Duration // of the bucket
		high   time.Duration
		errors float64
	}{
		"connection":                    {connections, 37748736, 41943040, 0},
		"connection: dial -> handshake": {connections, 9437184, 10485760, 0},
		"connection -> verify":          {connections, 983040, 1048576, 0.2},
	}
	eventually(t, "all spans are in the profile", func() (bool, error) {
		resp, err := owner(s.base).Get(s.base + ask)
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return false, nil // nothing yet
		}
		p, err := profile.Decode(resp.Body, profile.Limits{})
		if err != nil {
			return false, err
		}
		edges, _, err := analyze.Transitions(analyze.TransitionInput{Service: "node", Windows: []analyze.SpanWindow{{From: now, To: now.Add(time.Minute), Profile: p}}}, analyze.TransitionOptions{})
		if err != nil || len(edges) < len(want) || slices.ContainsFunc(edges, func(e analyze.Edge) bool { return e.N < connections }) {
			return false, err
		}
		for _, e := range edges {
			w, ok := want[e.Name]
			if !ok || e.N != w.n || e.P50.Low < w.low.Seconds() || e.P50.High > w.high.Seconds() || e.P99.Value == 0 || e.Errors.Value != w.errors {
				t.Errorf("%s is %+v, want %+v", e.Name, e, w)
			}
		}
		return true, nil
	})
}
