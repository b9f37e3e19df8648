package direct

import (
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// Names of spans that are made when all is over, of what several goroutines have had a part in: labels of a goroutine for them would be wrong.
const (
	SpanMessage = "direct.message" // a durable message, until it is acknowledged
	SpanPost    = "direct.post"
)

// followed is something that came, on its way through steps. Of a request the spans live while it is worked on, so that what Answer does is within
// them; of all else times are noted, and spans made of them at the end. Its methods do nothing on nil, which is what all are without a tracer. One
// goroutine at a time has it.
type followed struct {
	tracer trace.Tracer
	name   string
	peer   peer.ID
	size   int
	steps  [4]struct {
		name string
		at   time.Time
	}
	n int

	ctx       context.Context // of the way; nil where spans are made at the end
	span, now trace.Span      // of the way, and of the step that it is at
}

// follow begins the way of what a peer says, of so many bytes.
func (s *Service) follow(p peer.ID, name string, size int) *followed {
	if s.o.Tracer == nil {
		return nil
	}
	f := &followed{tracer: s.o.Tracer, name: name, peer: p, size: size}
	f.step("receive")
	return f
}

// followPost is follow for one post in Options.TraceEvery.
func (s *Service) followPost(p peer.ID, size int) *followed {
	if s.o.Tracer == nil || (s.posts.Add(1)-1)%uint64(s.o.TraceEvery) != 0 {
		return nil
	}
	return s.follow(p, SpanPost, size)
}

func (f *followed) open(ctx context.Context) (context.Context, trace.Span) {
	return f.tracer.Start(ctx, f.name, trace.WithTimestamp(f.steps[0].at), trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(attribute.String("peer", f.peer.String()), attribute.Int("bytes", f.size)))
}

// live says that this goroutine takes it to its end.
func (f *followed) live(ctx context.Context) {
	if f == nil {
		return
	}
	f.ctx, f.span = f.open(ctx)
	_, f.now = f.tracer.Start(f.ctx, f.steps[0].name, trace.WithTimestamp(f.steps[0].at))
}

// step ends the step before, and begins one.
func (f *followed) step(name string) {
	switch {
	case f == nil:
	case f.ctx != nil:
		f.now.End()
		_, f.now = f.tracer.Start(f.ctx, name)
	default:
		f.steps[f.n].name, f.steps[f.n].at = name, time.Now()
		f.n++
	}
}

// within is a context with the span of the step.
func (f *followed) within(ctx context.Context) context.Context {
	if f == nil {
		return ctx
	}
	return trace.ContextWithSpan(ctx, f.now)
}

// end ends the way.
func (f *followed) end(err error) {
	if f == nil {
		return
	}
	now := time.Now()
	if f.ctx == nil {
		f.ctx, f.span = f.open(context.Background())
		for i, step := range f.steps[:f.n] {
			_, f.now = f.tracer.Start(f.ctx, step.name, trace.WithTimestamp(step.at))
			if i < f.n-1 {
				f.now.End(trace.WithTimestamp(f.steps[i+1].at))
			}
		}
	}
	if err != nil {
		f.now.RecordError(err)
		f.span.SetStatus(codes.Error, err.Error())
	}
	f.now.End(trace.WithTimestamp(now))
	f.span.End(trace.WithTimestamp(now))
}
