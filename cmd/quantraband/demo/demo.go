// Package demo is a small fleet of real processes to profile: a web shop's
// checkout service in two versions, and the customers.
//
// The work is real (JSON, hashing, compression, a cache, a ledger, payments, a report) and its functions are named so that a flame
// graph reads like a table of contents. Planted in it, for the server to find by itself, is what [Planted] lists:
//
//	function                  what is wrong                                            finding
//	(*Cache).evict            v2 looks through the whole map instead of at a list      regression, with version v2
//	(*Ledger).Post            a dozen goroutines of an order wait for one lock         contention of "ledger"
//	(*Bank).authorisePayment  a connection and a TLS handshake for each payment        blocking, connection set-up
//	(no function)             GOGC is 60, though 256 MiB are allowed and few are used  gc_pressure
//	compressJournal           makes a compressor of 1 MB for each order                allocation
//
// The fourth is what a change of settings mends: GOGC is raised under the limit that is there. [BadChange] is one to be undone. And where a profile for the
// compiler is put to [FleetOptions].Build the fleet's pipeline "builds" V3 and gives it to one node: signReceipt is slower in it, and it is to be undone.
//
// What follows from these is no error either: v2 looks through the map under the cache's lock, so "prices" may be waited for, too.
//
// [StartFleet] runs the fleet by starting the program's own executable with the
// hidden commands [ServiceCommand] and [LoadCommand], whose bodies are
// [ServiceMain] and [LoadMain]. A child lives as long as its standard input is
// open: the operating system closes that pipe when the parent dies, however it
// dies, so no child outlives it.
package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"runtime/pprof"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/quantra-l/quantra/agent"
	"github.com/quantra-l/quantra/agent/lock"
	"github.com/quantra-l/quantra/agent/spans"
)

// The versions of the service.
const (
	V1 = "v1"
	V2 = "v2" // has the regression
	V3 = "v3" // v2 as a profile's build would have it, and slower in a function
)

// Service is the name that the demo's profiles have.
const Service = "checkout"

// Options is one process of the service.
type Options struct {
	Version  string // V1, V2 or V3; "" is V1
	Instance string // name among the instances; "" is the agent's default
	Addr     string // where it listens; "" is a free port of 127.0.0.1
	Server   string // where its profiles go; "" is the agent's default
	Region   string // label of its profiles; "" is "local": a demo asks no cloud where it runs
	Spool    string // folder for profiles while the server is away; "" is none: a demo leaves nothing behind
	// Window is the time that one profile covers. 0 is 4 s: a demo must fill its first page soon.
	Window time.Duration
	Logger *slog.Logger // nil is slog.Default()
	// Ready hears the address once it listens; nil is none.
	Ready func(url string) error
}

// Run serves until ctx ends, profiled by an agent. It returns nil when ctx
// ended it, and all it started has ended then.
func Run(ctx context.Context, o Options) error {
	if o.Version == "" {
		o.Version = V1
	}
	if o.Version != V1 && o.Version != V2 && o.Version != V3 {
		return fmt.Errorf("demo: version %q: it must be %s, %s or %s", o.Version, V1, V2, V3)
	}
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	if o.Window == 0 {
		o.Window = 4 * time.Second
	}
	if o.Region == "" {
		o.Region = "local"
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	// The agent would record one contention of a hundred, which is right for a
	// year and slow for a demo. It leaves alone what the program has set.
	runtime.SetMutexProfileFraction(5)
	l, err := net.Listen("tcp", o.Addr)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	bank, err := OpenBank()
	if err != nil {
		l.Close()
		return err
	}
	defer bank.Close()
	spool := int64(-1)
	if o.Spool != "" {
		spool = 0 // its default
	}
	traced := spans.New(spans.Options{})
	a, err := agent.Start(context.WithoutCancel(ctx), agent.Options{
		Service: Service, Version: o.Version, Instance: o.Instance, Server: o.Server,
		Labels: map[string]string{"env": "demo"},
		Window: o.Window, Upload: o.Window, Logger: o.Logger, Region: o.Region, SpoolDir: o.Spool, SpoolBytes: spool,
		Sources: []agent.Source{lock.Source(), traced.Source()},
		Budget:  agent.Budget{BytesPerMinute: 4e6}, // short windows are more bytes
	})
	if err != nil {
		l.Close()
		return fmt.Errorf("demo: %w", err)
	}
	// Spans go nowhere but onto the profiles.
	traces := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(traced))
	shop := NewShop(o.Version, traces.Tracer("shop"))
	shop.bank = bank
	srv := &http.Server{
		Handler:           shop.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	if o.Ready != nil {
		err = o.Ready("http://" + l.Addr().String())
	}
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-served:
		}
	}
	// ctx is over: the end has a deadline of its own, which nothing may outlast.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if e := srv.Shutdown(end); e != nil {
		srv.Close()
	}
	if e := traces.Shutdown(end); e != nil {
		o.Logger.Debug("the tracer has not ended", "err", e)
	}
	if e := a.Stop(end); e != nil {
		o.Logger.Debug("the last profiles were not delivered", "err", e)
	}
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("demo: %w", err)
	}
	return nil
}

// endpoint serves h, each request a span, with its path as a label of the samples that it costs.
func (s *Shop) endpoint(path string, h http.HandlerFunc) (string, http.Handler) {
	return labelled(path, func(w http.ResponseWriter, r *http.Request) {
		ctx, span := s.tracer.Start(r.Context(), r.Method+" "+path, trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		h(w, r.WithContext(ctx))
	})
}

// labelled serves h with its path as a label of the samples that it costs.
func labelled(path string, h http.HandlerFunc) (string, http.Handler) {
	labels := pprof.Labels("endpoint", path)
	return path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pprof.Do(r.Context(), labels, func(ctx context.Context) { h(w, r.WithContext(ctx)) })
	})
}
