package broadcast

import (
	"context"
	"sync"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

const (
	// sampledMost is how many envelopes are followed at a time: what would be more is not sampled.
	sampledMost = 64
	// sendWait is after how long an envelope that has gone to no neighbour is done: there was none to send it to.
	sendWait = 2 * time.Second
)

// sampled is an envelope that is followed: a span for its way, and one in it for each step (receive, verify, route, send). Its methods do
// nothing on nil, which is what most envelopes have.
type sampled struct {
	s     *Service
	data  *byte // of the envelope, by which it is known in what is sent
	begun time.Time

	mu   sync.Mutex
	ctx  context.Context
	span trace.Span // of the way
	now  trace.Span // of the step; nil when the way is over
}

// samples are the envelopes that are followed.
type samples struct {
	mu    sync.Mutex
	count uint64
	all   map[*byte]*sampled
}

// sample follows one envelope in Options.TraceEvery.
func (s *Service) sample(m *pubsub.Message, r *received) *sampled {
	if s.o.Tracer == nil {
		return nil
	}
	s.samples.mu.Lock()
	defer s.samples.mu.Unlock()
	s.samples.count++
	if (s.samples.count-1)%uint64(s.o.TraceEvery) != 0 || len(s.samples.all) >= sampledMost {
		return nil
	}
	f := &sampled{s: s, data: &m.Data[0], begun: r.came}
	f.ctx, f.span = s.o.Tracer.Start(context.Background(), "broadcast", trace.WithTimestamp(r.came), trace.WithAttributes(
		attribute.String("topic", r.topic), attribute.Int("messages", len(r.payloads)), attribute.Int64("bytes", r.size), attribute.String("neighbour", m.ReceivedFrom.String())))
	_, f.now = s.o.Tracer.Start(f.ctx, "receive", trace.WithTimestamp(r.came))
	s.samples.all[f.data] = f
	return f
}

// step ends the step before, and begins one.
func (f *sampled) step(name string) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.now == nil {
		return
	}
	f.now.End()
	_, f.now = f.s.o.Tracer.Start(f.ctx, name)
}

// end ends the way.
func (f *sampled) end(err error) {
	if f == nil {
		return
	}
	f.s.samples.mu.Lock()
	delete(f.s.samples.all, f.data)
	f.s.samples.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.now == nil {
		return
	}
	if err != nil {
		f.now.RecordError(err)
		f.span.SetStatus(codes.Error, err.Error())
	}
	f.now.End()
	f.span.End()
	f.now = nil
}

// wentOut ends the way of what was written to a neighbour: the first of them.
func (s *Service) wentOut(rpc *pubsub.RPC) {
	if s.o.Tracer == nil {
		return
	}
	for _, m := range rpc.Publish {
		if len(m.Data) == 0 {
			continue
		}
		s.samples.mu.Lock()
		f := s.samples.all[&m.Data[0]]
		s.samples.mu.Unlock()
		f.end(nil)
	}
}

// endSamples ends what goes to nobody.
func (s *Service) endSamples(before time.Time) {
	s.samples.mu.Lock()
	var old []*sampled
	for _, f := range s.samples.all {
		if f.begun.Before(before) {
			old = append(old, f)
		}
	}
	s.samples.mu.Unlock()
	for _, f := range old {
		f.end(nil)
	}
}
