package spans

import (
	"context"
	"fmt"
	"io"
	"runtime/pprof"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// BenchmarkGoroutineID is the two ways of goroutineID by how deep the stack is.
func BenchmarkGoroutineID(b *testing.B) {
	for _, depth := range []int{1, 20, 50} {
		for _, way := range []struct {
			name string
			id   func() uint64
		}{{"coroutine", goroutineID}, {"own stack", goroutineIDDirect}} {
			b.Run(fmt.Sprintf("%s/depth=%d", way.name, depth), func(b *testing.B) {
				b.ReportAllocs()
				deep(depth, func() {
					for b.Loop() {
						way.id()
					}
				})
			})
		}
	}
}

// BenchmarkSpan is the start and end of a span on a stack of 20 frames, as a
// request has. "nothing" is the SDK with a processor that does nothing, without which
// the SDK makes no snapshot of a span that ends.
//
// "wrapper" is the other way to do it, that of github.com/grafana/otel-profiling-go: a
// wrapper around the tracer, which can hand back a context with the labels in it. It
// costs less, as it never asks which goroutine it is on; for the same reason a span that ends
// on another goroutine takes away that one's labels there, and spans that end out of order
// leave the wrong ones. And it must be around every tracer, where a processor is
// named once.
func BenchmarkSpan(b *testing.B) {
	bench := func(name string, tracer trace.Tracer) {
		one := func(ctx context.Context) {
			_, s := tracer.Start(ctx, "checkout")
			s.End()
		}
		ctx, root := tracer.Start(context.Background(), "root")
		defer root.End()
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			deep(20, func() {
				for b.Loop() {
					one(ctx)
				}
			})
		})
		b.Run(name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				deep(20, func() {
					for pb.Next() {
						one(ctx)
					}
				})
			})
		})
	}
	with := func(p sdktrace.SpanProcessor) trace.Tracer {
		return sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(p)).Tracer("bench")
	}
	bench("nothing", with(nothing{}))
	bench("wrapper", wrapper{Tracer: with(nothing{})})
	bench("processor", with(New(Options{MaxPerSecond: -1})))
	bench("processor, no attribute", with(New(Options{MaxPerSecond: -1, NoAttribute: true})))
	bench("processor, operation only", with(New(Options{MaxPerSecond: -1, OperationOnly: true})))
	bench("processor, not the local root", with(New(Options{LocalRootOnly: true})))
	bench("processor, as it comes", with(New(Options{}))) // most are more than MaxPerSecond
	counting := func(o Options) *Processor {
		p := New(o)
		p.Source()
		return p
	}
	bench("counting, no labels", with(counting(Options{Filter: func(sdktrace.ReadOnlySpan) bool { return false }})))
	bench("counting, as it comes", with(counting(Options{})))
}

// BenchmarkUnsampled is a span that is sampled out: a processor never hears of it, counting or not.
func BenchmarkUnsampled(b *testing.B) {
	for _, name := range []string{"labels", "counting"} {
		b.Run(name, func(b *testing.B) {
			p := New(Options{})
			if name == "counting" {
				p.Source()
			}
			tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(p), sdktrace.WithSampler(sdktrace.NeverSample())).Tracer("bench")
			b.ReportAllocs()
			for b.Loop() {
				_, s := tracer.Start(context.Background(), "checkout")
				s.End()
			}
		})
	}
}

// BenchmarkEvents is a span with five events, counted.
func BenchmarkEvents(b *testing.B) {
	for _, count := range []bool{false, true} {
		b.Run(fmt.Sprintf("counting=%v", count), func(b *testing.B) {
			p := New(Options{Filter: func(sdktrace.ReadOnlySpan) bool { return false }})
			if count {
				p.Source()
			}
			tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(p)).Tracer("bench")
			b.ReportAllocs()
			for b.Loop() {
				_, s := tracer.Start(context.Background(), "connection")
				for _, e := range []string{"dial", "handshake", "established", "active", "closed"} {
					s.AddEvent(e)
				}
				s.End()
			}
		})
	}
}

// BenchmarkWriteProfile is the profile of so many paths, each with durations over three octaves.
func BenchmarkWriteProfile(b *testing.B) {
	for _, paths := range []int{20, 1000} {
		b.Run(fmt.Sprintf("paths=%d", paths), func(b *testing.B) {
			p := New(Options{MaxPerSecond: 1})
			c := p.counting()
			for i := range paths {
				at := c.path(nil, c.frame(fmt.Sprint("operation ", i), "", false))
				for ns := int64(1_000_000); ns < 8_000_000; ns += 50_000 {
					c.add(at, 0, ns, ns)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := p.WriteProfile(io.Discard); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkManyLive is a span among 10,000 that live.
func BenchmarkManyLive(b *testing.B) {
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(New(Options{MaxPerSecond: -1}))).Tracer("bench")
	for range 10_000 {
		elsewhere(func() { tracer.Start(context.Background(), "live") })
	}
	b.ReportAllocs()
	for b.Loop() {
		_, s := tracer.Start(context.Background(), "checkout")
		s.End()
	}
}

type nothing struct{}

func (nothing) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (nothing) OnEnd(sdktrace.ReadOnlySpan)                     {}
func (nothing) Shutdown(context.Context) error                  { return nil }
func (nothing) ForceFlush(context.Context) error                { return nil }

// wrapper puts labels on goroutines as a wrapper around the tracer can.
type wrapper struct{ trace.Tracer }

func (w wrapper) Start(ctx context.Context, name string, o ...trace.SpanStartOption) (context.Context, trace.Span) {
	before := ctx
	ctx, s := w.Tracer.Start(ctx, name, o...)
	sc := s.SpanContext()
	ctx = pprof.WithLabels(ctx, pprof.Labels(LabelOperation, name, LabelSpan, sc.SpanID().String(), LabelTrace, sc.TraceID().String()))
	pprof.SetGoroutineLabels(ctx)
	return ctx, wrapped{s, before}
}

type wrapped struct {
	trace.Span
	before context.Context
}

func (w wrapped) End(o ...trace.SpanEndOption) {
	w.Span.End(o...)
	pprof.SetGoroutineLabels(w.before)
}
