package direct

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// endings is a recorder of spans that says when one has ended.
type endings struct {
	*tracetest.SpanRecorder
	ended chan struct{}
}

func (e endings) OnEnd(s sdktrace.ReadOnlySpan) {
	e.SpanRecorder.OnEnd(s)
	signal(e.ended)
}

// TestSpans: the way of each request and each durable message, and of one post in so many, is its steps in a span; what is refused ends at the step
// that has refused it, with an error; what Answer does is within the step that it is.
func TestSpans(t *testing.T) {
	kept := endings{tracetest.NewSpanRecorder(), make(chan struct{}, 1)}
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(kept)).Tracer("test")
	r, posts := newReader(), make(chan struct{}, 8)
	a, b := pair(t, func(_, b *Options) {
		b.Tracer, b.TraceEvery, b.Deliver = tracer, 2, r.deliver
		b.Receive = func(peer.ID, []byte) error { posts <- struct{}{}; return nil }
		b.Answer = func(ctx context.Context, _ peer.ID, body []byte) ([]byte, error) {
			_, span := tracer.Start(ctx, "own")
			span.End()
			if string(body) == "fail" {
				return nil, errors.New("as asked")
			}
			return body, nil
		}
	})
	ctx := soon(t)
	if _, err := a.Request(ctx, b.self, []byte("well")); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Request(ctx, b.self, []byte("fail")); err == nil {
		t.Error("a request that fails is answered")
	}
	for range 3 {
		if err := a.Post(ctx, b.self, []byte("post")); err != nil {
			t.Fatal(err)
		}
		<-posts
	}
	if _, err := a.Send(ctx, b.self, []byte("kept")); err != nil {
		t.Fatal(err)
	}
	r.bodies(t, 1)
	ways := func() (out []string) {
		all := kept.Ended()
		for _, root := range all {
			if root.Parent().IsValid() || root.Name() == "direct.where" { // what a session asks when it begins
				continue
			}
			steps := slices.DeleteFunc(slices.Clone(all), func(s sdktrace.ReadOnlySpan) bool { return s.Parent().SpanID() != root.SpanContext().SpanID() })
			slices.SortStableFunc(steps, func(x, y sdktrace.ReadOnlySpan) int { return x.StartTime().Compare(y.StartTime()) })
			text, end := root.Name(), root.StartTime()
			for _, s := range steps {
				text += " " + s.Name()
				if s.StartTime().Before(end) || s.EndTime().Before(s.StartTime()) || s.EndTime().After(root.EndTime()) {
					t.Errorf("%s: the step %s is from %v to %v, the one before ended at %v, all at %v", root.Name(), s.Name(), s.StartTime(), s.EndTime(), end, root.EndTime())
				}
				end = s.EndTime()
				for _, in := range all {
					if in.Parent().SpanID() == s.SpanContext().SpanID() {
						text += " (" + in.Name() + ")"
					}
				}
			}
			if root.Status().Code == codes.Error {
				text += ": " + root.Status().Description
			}
			if root.SpanKind() != trace.SpanKindServer {
				t.Errorf("%s is a span of kind %v", root.Name(), root.SpanKind())
			}
			out = append(out, text)
		}
		slices.Sort(out)
		return out
	}
	want := []string{
		"direct.message receive verify route send",
		"direct.post receive verify route", "direct.post receive verify route",
		"direct.request receive verify route (own) send",
		"direct.request receive verify route (own) send: the request failed: as asked",
	}
	for got := ways(); !slices.Equal(got, want); got = ways() {
		select {
		case <-kept.ended:
		case <-ctx.Done():
			t.Fatalf("spans:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// TestSettle: who settles has what it asked answered, and what it asks then is asked on another session; one that is not answered in time is told of.
func TestSettle(t *testing.T) {
	hold, asked := make(chan struct{}), make(chan string, 4)
	a, b := pair(t, func(_, b *Options) {
		b.Answer = func(ctx context.Context, _ peer.ID, body []byte) ([]byte, error) {
			asked <- string(body)
			if string(body) == "slow" {
				select {
				case <-hold:
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			return body, nil
		}
	})
	ctx := soon(t)
	if err := a.Settle(ctx, b.self); err != nil {
		t.Errorf("with nothing under way: %v", err)
	}
	answers := make(chan error, 2)
	ask := func(what string) {
		answer, err := a.Request(ctx, b.self, []byte(what))
		if err == nil && string(answer) != what {
			err = fmt.Errorf("%q is answered by %q", what, answer)
		}
		answers <- err
	}
	go ask("slow")
	<-asked
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := a.Settle(short, b.self); err == nil || !strings.Contains(err.Error(), "1 requests") {
		t.Errorf("a request that is not answered: %v", err)
	}
	go ask("quick") // on another session, past the slow one
	if err := <-answers; err != nil {
		t.Error(err)
	}
	close(hold)
	if err := <-answers; err != nil {
		t.Errorf("a request of the session that was to end: %v", err)
	}
	hold = make(chan struct{})
	go ask("slow")
	for what := range asked {
		if what == "slow" {
			break
		}
	}
	settled := make(chan error, 1)
	go func() { settled <- a.Settle(ctx, b.self) }()
	select {
	case err := <-settled:
		t.Fatalf("settled (%v) with a request under way", err)
	case <-time.After(20 * time.Millisecond):
	}
	close(hold)
	if err := errors.Join(<-answers, <-settled); err != nil {
		t.Error(err)
	}
	if err := a.Settle(ctx, b.self); err != nil {
		t.Error(err)
	}
}
