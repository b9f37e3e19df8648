// Package console watches Rust programs that tell of their tasks by console-subscriber, as tokio's own console does: gRPC
// rs.tokio.console.instrument.Instrument, on port 6669 of the program. It is the client; programs are given by what knows them (ingest/scrape).
//
// Of each program there is one model in memory: its live tasks and what they wait for, as its updates tell. It is what people are shown, as
// goroutines are, and once in each interval a profile is made of it: tasks and their time by where they were spawned. What a program sends is
// bounded in bytes, in what is kept of it, and in updates a second; when it vanishes, ends or sends what is no update its model is thrown away
// and begun anew with the next connection, whose first update tells everything.
//
// Where profiles go is a func field.
package console

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/quantra-l/quantra/profile"
	consolev1 "github.com/quantra-l/quantra/wire/console/v1"
	"github.com/quantra-l/quantra/wire/console/v1/consolev1connect"
)

// Target is one program.
type Target struct {
	Tenant   string // whose it is; "" is the default one
	Labels   profile.Labels
	URL      string        // http://host:6669, or https
	TLS      *tls.Config   // of https; nil has its defaults
	Interval time.Duration // how often a profile is kept; 0 is a minute
}

// Profile is what has come together in a program in one interval.
type Profile struct {
	Tenant, Name string
	Labels       profile.Labels
	From, To     time.Time
	Pprof        []byte
}

// Options are what a Watcher needs to know. Only Append has no default.
type Options struct {
	// Append keeps a profile.
	Append func(context.Context, Profile) error
	// Bytes bounds what is kept of one program, AllBytes what is kept of all. What is past it is left out, which the program's list says.
	// 0 is 32 MiB and 256 MiB.
	Bytes, AllBytes int64
	// MaxMessage bounds one update. 0 is 8 MiB: the first is less than 4 MiB, by console-subscriber itself.
	MaxMessage int
	// MinPause is the time between two updates at least; what a program sends faster waits there. 0 is 50 ms.
	MinPause time.Duration
	// Silence is after how long without an update a program is asked whether it is paused, and how long it has for the answer. 0 is 1 min.
	Silence time.Duration
	// Backoff is the pause before the first attempt to connect again; it doubles up to a minute. 0 is 1 s.
	Backoff time.Duration

	Logger   *slog.Logger          // nil is slog.Default()
	Registry prometheus.Registerer // where metrics go; nil is nowhere
	Now      func() time.Time      // nil is time.Now
}

const (
	maxBackoff = time.Minute
	// perSecond bounds the bytes of updates that are read in a second, over time.
	perSecond = 4 << 20
	// oneQuestion is how long details of a task may take.
	oneQuestion = 10 * time.Second
	// maxQuestions bounds the details that are asked for at once.
	maxQuestions = 8
)

// Watcher watches programs. See [New].
type Watcher struct {
	opt       Options
	held      budget
	questions chan struct{} // one token per question for details
	metrics   *metrics

	mu       sync.Mutex // guards programs; taken before a program's own
	programs map[*program]bool
}

// New checks o and fills in its defaults.
func New(o Options) (*Watcher, error) {
	if o.Append == nil {
		return nil, errors.New("console: Options.Append is nil: there is nowhere to put profiles")
	}
	o.Bytes = cmp.Or(o.Bytes, 32<<20)
	o.AllBytes = cmp.Or(o.AllBytes, 256<<20)
	o.MaxMessage = cmp.Or(o.MaxMessage, 8<<20)
	o.MinPause = cmp.Or(o.MinPause, 50*time.Millisecond)
	o.Silence = cmp.Or(o.Silence, time.Minute)
	o.Backoff = cmp.Or(o.Backoff, time.Second)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	w := &Watcher{opt: o, held: budget{limit: o.AllBytes}, questions: make(chan struct{}, maxQuestions), programs: map[*program]bool{}}
	var err error
	if w.metrics, err = newMetrics(o.Registry, w); err != nil {
		return nil, fmt.Errorf("console: metrics: %w", err)
	}
	return w, nil
}

// program is one program that is watched.
type program struct {
	Target
	client *http.Client

	mu        sync.Mutex // guards what follows
	model     *model     // nil while there is no connection, or no update yet
	connected time.Time  // since when there is a model
	last      time.Time  // when the last update came
	window    time.Time  // when the window of the next profile began
	paused    bool       // another console has paused it
	err       error      // why there is no connection
}

// Watch watches a program until ctx ends, over as many connections as it takes. seen is told of each profile whether it was kept, of each
// connection that it has begun (false, nil), and why it ended.
func (w *Watcher) Watch(ctx context.Context, t Target, seen func(kept bool, err error)) {
	t.Interval = cmp.Or(t.Interval, time.Minute)
	transport := newTransport(t.TLS)
	defer transport.CloseIdleConnections()
	p := &program{Target: t, client: &http.Client{Transport: transport}}
	w.mu.Lock()
	w.programs[p] = true
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.programs, p)
		w.mu.Unlock()
	}()
	pause := w.opt.Backoff
	for {
		began := w.opt.Now()
		err := w.connection(ctx, p, seen)
		w.leave(ctx, p, err, seen)
		if ctx.Err() != nil {
			return
		}
		seen(false, err)
		if w.opt.Now().Sub(began) > maxBackoff { // it was well for a while
			pause = w.opt.Backoff
		}
		timer := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		pause = min(2*pause, maxBackoff)
	}
}

// newTransport speaks HTTP/2 only, without TLS too, as gRPC does. A peer that is gone without a word is noticed within a minute.
func newTransport(conf *tls.Config) *http.Transport {
	t := &http.Transport{
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSClientConfig:        conf.Clone(), // the library adds to it, and targets share theirs
		TLSHandshakeTimeout:    10 * time.Second,
		IdleConnTimeout:        time.Minute,
		MaxResponseHeaderBytes: 64 << 10,
		Protocols:              &http.Protocols{},
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
	t.Protocols.SetHTTP2(true)
	t.Protocols.SetUnencryptedHTTP2(true)
	return t
}

// rawCodec hands over messages as they came: generated structs of many tiny messages take a hundred times their bytes.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(m any) ([]byte, error) {
	if p, ok := m.(proto.Message); ok {
		return proto.Marshal(p)
	}
	return nil, fmt.Errorf("console: %T is no message", m)
}

func (rawCodec) Unmarshal(b []byte, m any) error {
	to, ok := m.(*raw)
	if !ok {
		return proto.Unmarshal(b, m.(proto.Message))
	}
	to.b = append(to.b[:0], b...)
	return nil
}

// raw is a message as bytes.
type raw struct{ b []byte }

// watchStream opens one of the program's streams.
func watchStream[Q any](ctx context.Context, w *Watcher, p *program, procedure string, ask *Q) (*connect.ServerStreamForClient[raw], error) {
	c := connect.NewClient[Q, raw](p.client, p.URL+procedure, connect.WithGRPC(), connect.WithCodec(rawCodec{}), connect.WithReadMaxBytes(w.opt.MaxMessage))
	return c.CallServerStream(ctx, connect.NewRequest(ask))
}

var (
	errSilent = errors.New("it sends nothing, and does not say whether it is paused")
	errEnded  = errors.New("it ended the stream")
)

// connection is one stream of updates, from its first to its end. The error is why it ended, and is never nil.
func (w *Watcher) connection(ctx context.Context, p *program, seen func(bool, error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel(nil)
	p.mu.Lock()
	p.last = w.opt.Now()
	p.mu.Unlock()
	wait.Go(func() { w.attend(ctx, cancel, p, seen) })
	stream, err := watchStream(ctx, w, p, consolev1connect.InstrumentWatchUpdatesProcedure, &consolev1.InstrumentRequest{})
	if err != nil {
		return because(ctx, err)
	}
	defer stream.Close()
	for stream.Receive() {
		update := stream.Msg().b
		first, err := w.update(p, update)
		if err != nil {
			w.metrics.updates.WithLabelValues("corrupt").Inc()
			return err
		}
		if first {
			seen(false, nil) // what was wrong before is over
		}
		w.metrics.updates.WithLabelValues("applied").Inc()
		// What comes faster waits in the program, which drops the stream when its buffer is full, and tells all anew.
		timer := time.NewTimer(max(w.opt.MinPause, time.Duration(len(update))*time.Second/perSecond))
		select {
		case <-ctx.Done():
			timer.Stop()
			return because(ctx, ctx.Err())
		case <-timer.C:
		}
	}
	if err := stream.Err(); err != nil && !errors.Is(err, io.EOF) {
		return because(ctx, err)
	}
	return errEnded
}

// because is why a connection ended: what ended it here, if that did.
func because(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil {
		return c
	}
	return err
}

// update applies one update, and says whether it was the connection's first.
func (w *Watcher) update(p *program, b []byte) (first bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := w.opt.Now()
	if first = p.model == nil; first {
		p.model = newModel(w.opt.Bytes, &w.held)
		p.connected, p.window, p.err = now, now, nil
	}
	p.last, p.paused = now, false
	return first, p.model.apply(b)
}

// attend keeps a profile in each interval, and asks what is silent whether it is paused.
func (w *Watcher) attend(ctx context.Context, cancel context.CancelCauseFunc, p *program, seen func(bool, error)) {
	profiles, silence := time.NewTicker(p.Interval), time.NewTicker(w.opt.Silence)
	defer profiles.Stop()
	defer silence.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-profiles.C:
			if kept, err := w.keep(ctx, p); kept || err != nil {
				seen(kept, err)
			}
		case <-silence.C:
			p.mu.Lock()
			silent := w.opt.Now().Sub(p.last) >= w.opt.Silence
			p.mu.Unlock()
			if !silent {
				continue
			}
			paused, err := w.askState(ctx, p)
			if err != nil {
				cancel(fmt.Errorf("%w: %w", errSilent, err))
				return
			}
			p.mu.Lock()
			p.paused = paused
			p.mu.Unlock()
		}
	}
}

// askState asks a program whether it is paused, by another console: then it has no updates for anybody.
func (w *Watcher) askState(ctx context.Context, p *program) (paused bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, w.opt.Silence)
	defer cancel()
	stream, err := watchStream(ctx, w, p, consolev1connect.InstrumentWatchStateProcedure, &consolev1.StateRequest{})
	if err != nil {
		return false, err
	}
	defer stream.Close()
	if !stream.Receive() {
		return false, cmp.Or(stream.Err(), errEnded)
	}
	var s consolev1.State
	if err := decode(stream.Msg().b, "state", &s); err != nil {
		return false, err
	}
	return s.GetTemporality() == consolev1.Temporality_PAUSED, nil
}

// keep has what has come together since the last profile kept. Nothing at all is no profile, and no error.
func (w *Watcher) keep(ctx context.Context, p *program) (kept bool, err error) {
	p.mu.Lock()
	if p.model == nil {
		p.mu.Unlock()
		return false, nil
	}
	made, from, to := p.model.take(), p.window, w.opt.Now()
	p.window = to
	p.mu.Unlock()
	if made == nil || !to.After(from) {
		return false, nil
	}
	err = w.opt.Append(ctx, Profile{Tenant: p.Tenant, Name: ProfileName, Labels: p.Labels, From: from, To: to, Pprof: made.AppendPprof(nil)})
	return err == nil, err
}

// leave throws away what is known of a program whose connection has ended, when the rest of its window is kept.
func (w *Watcher) leave(ctx context.Context, p *program, err error, seen func(bool, error)) {
	if ctx.Err() == nil {
		if kept, err := w.keep(ctx, p); kept || err != nil {
			seen(kept, err)
		}
		p.mu.Lock()
		if p.err == nil {
			w.opt.Logger.Warn("console: a program's tasks cannot be watched now", "url", p.URL, "err", err)
		}
		p.mu.Unlock()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err, p.paused = err, false
	if p.model != nil {
		p.model.close()
		p.model = nil
	}
}

// metrics are what is told of watching. The labels are closed sets.
type metrics struct{ updates *prometheus.CounterVec }

func newMetrics(reg prometheus.Registerer, w *Watcher) (*metrics, error) {
	m := &metrics{prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "quantra_console_updates_total", Help: "Updates of Rust programs' tasks, by how they ended.",
	}, []string{"result"})}
	if reg == nil {
		return m, nil
	}
	bytes := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "quantra_console_bytes", Help: "Bytes of what is known of Rust programs' tasks, about."},
		func() float64 { return float64(w.held.used.Load()) })
	programs := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "quantra_console_programs", Help: "Rust programs whose tasks are watched, connected or not."}, func() float64 {
		w.mu.Lock()
		defer w.mu.Unlock()
		return float64(len(w.programs))
	})
	for _, c := range []prometheus.Collector{m.updates, bytes, programs} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
