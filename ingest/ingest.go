// Package ingest is everything that arrives: it takes profiles over HTTP, judges
// them, and hands on what is sound. Each protocol is one route:
//
//	POST /api/v1/profiles                          ours: a pprof body, whose it is in the query (docs/format/push.md)
//	POST /ingest, /pyroscope/ingest                Pyroscope's, as its clients in Go, Python, Node, Rust and Java send it
//	/push.v1.PusherService/Push                    Pyroscope's newer one: gRPC, gRPC-Web, Connect and JSON
//	/parca.profilestore.v1alpha1.ProfileStoreService/WriteRaw
//	                                               Parca's, the same four; its Write and WriteArrow are refused in their words
//	POST /v1development/profiles                   OpenTelemetry's, protobuf and JSON; its gRPC is
//	/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export
//	/google.devtools.cloudprofiler.v2.ProfilerService/*, /v2/projects/*/profiles
//	                                               Google Cloud Profiler's agents, which are asked for profiles: gRPC and JSON
//	/profiling/v1/input, /api/v2/profile           Datadog's clients, as they send to its agent, or without one
//
// What a route owes its sender: an answer that names the fault and the remedy,
// a success only when [Options.Append] has said that the profile is kept, and a
// refusal (429 with Retry-After) before memory runs out. What it owes the
// server: no sender can make it hold more than [Options.InFlightBytes], nor
// hold anything longer than [Options.Timeout].
//
// What was sent is named by one model, whoever sent it: docs/model.md.
//
// The package knows no store. Where profiles go is a func field, and so is who
// may send them.
package ingest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quantra-l/quantra/ingest/gcp"
	"github.com/quantra-l/quantra/profile"
)

// What Append may say. Its error wraps one of them, or is a fault of ours: 500, and logged.
var (
	// ErrInvalid: this push is wrong and will never do. The sender gets 422 and the text.
	ErrInvalid = errors.New("invalid")
	// ErrOverloaded: a bound was reached. The sender gets 429 and is asked to come again.
	ErrOverloaded = errors.New("overloaded")
	// ErrDenied: this sender may not send this. It gets 403 and the text.
	ErrDenied = errors.New("denied")
	// ErrUnavailable: not now (closing, disk full). The sender gets 503 and is asked to come again.
	ErrUnavailable = errors.New("unavailable")
)

// Push is one profile that arrived whole and sound.
type Push struct {
	Tenant   string         // of X-Scope-OrgID; "" where the sender named none
	Name     string         // process_cpu, memory, goroutine, mutex, block, ...; never ""
	Labels   profile.Labels // has profile.LabelService
	From, To time.Time      // what was profiled, [From, To), To after From
	// Pprof is the profile in pprof's format, gzip, zstd or raw, as it came;
	// only where something else came (folded text, a cumulative profile with
	// the one before it) is it our own encoding. Profile is the same, decoded.
	// Both belong to Append.
	Pprof   []byte
	Profile *profile.Profile
	// SignedBy is the public key that signed the request, as its keyid has it; "" where it was not signed.
	SignedBy string
	// Own is that nobody has sent it: see [Ingest.Keep].
	Own bool
}

// Options are what an Ingest needs to know. Only Append has no default.
type Options struct {
	// Append keeps a push. When it returns nil the sender is told that the profile is safe.
	Append func(context.Context, Push) error
	// Authorize refuses a request by returning an error, whose text the sender
	// reads (403). nil allows everyone.
	Authorize func(*http.Request) error
	// Signatures checks signed requests (docs/format/signature.md) on all routes. nil is a [Verifier] of its own that lets in
	// unsigned ones and any key.
	Signatures *Verifier

	// Names gives functions of a profile that arrives the names that people know, and addresses those of their functions. It returns
	// another profile, or the same where there is nothing to do; one that it could not look up is no reason to refuse a profile. nil names nothing.
	Names func(ctx context.Context, tenant string, p *profile.Profile) *profile.Profile

	// Limits bound one profile. Compressed is 16 MiB where it is 0, Decoded 256 MiB;
	// the others have profile.Limits' defaults.
	Limits profile.Limits
	// InFlightBytes bounds the sum over all requests of body and decoded
	// profile; past it senders get 429. 0 is 256 MiB, negative is no bound. A
	// single profile that is larger than the bound is let in when it is alone.
	InFlightBytes int64
	// TenantRate bounds the bytes that one tenant sends in a second, as they come, over time; TenantBurst what it may send at
	// once after a pause. Past it it gets 429. 0 is 4 MB, and 8 s of the rate or two profiles, whichever is more; a
	// negative TenantRate is no bound.
	TenantRate, TenantBurst int64
	// MaxConcurrent bounds the requests at work; past it senders get 429. 0 is 1024, negative is no bound.
	MaxConcurrent int
	// Timeout bounds first the reading of a body, then again what follows. 0 is 30 s, negative is no bound.
	Timeout time.Duration
	// MaxAge is how long ago the profiled window may have ended. 0 is 7 days, negative is any age.
	MaxAge time.Duration

	// Cloud is how Google Cloud Profiler's agents are paced. Its zero value has their own service's pace; its clock is Now.
	Cloud gcp.Options

	Logger   *slog.Logger          // for faults of ours; nil is slog.Default()
	Registry prometheus.Registerer // where metrics go; nil is nowhere
	Now      func() time.Time      // nil is time.Now
}

// maxAhead is how far a sender's clock may be ahead of ours.
const maxAhead = 10 * time.Minute

// Ingest takes profiles. See [New].
type Ingest struct {
	opt      Options
	inFlight budget
	rates    *rates // nil is no bound
	pacer    *gcp.Pacer
	requests chan struct{} // one token per request at work; nil is no bound
	decoders chan struct{} // one token per profile being decoded: more than there are cores would only add memory
	origins  *http.CrossOriginProtection
	metrics  *metrics
}

// New checks o and fills in its defaults.
func New(o Options) (*Ingest, error) {
	if o.Append == nil {
		return nil, errors.New("ingest: Options.Append is nil: there is nowhere to put what arrives")
	}
	o.Limits.Compressed = cmp.Or(o.Limits.Compressed, 16<<20)
	o.Limits.Decoded = cmp.Or(o.Limits.Decoded, 256<<20)
	o.InFlightBytes = cmp.Or(o.InFlightBytes, 256<<20)
	o.TenantRate = cmp.Or(o.TenantRate, 4e6)
	o.TenantBurst = cmp.Or(o.TenantBurst, max(8*o.TenantRate, 2*o.Limits.Compressed))
	o.MaxConcurrent = cmp.Or(o.MaxConcurrent, 1024)
	o.Timeout = cmp.Or(o.Timeout, 30*time.Second)
	o.MaxAge = cmp.Or(o.MaxAge, 7*24*time.Hour)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Signatures == nil {
		o.Signatures = NewVerifier(SignatureOptions{Now: o.Now})
	}
	o.Cloud.Now = o.Now
	in := &Ingest{
		opt:      o,
		pacer:    gcp.NewPacer(o.Cloud),
		inFlight: budget{limit: o.InFlightBytes},
		decoders: make(chan struct{}, runtime.GOMAXPROCS(0)),
		origins:  http.NewCrossOriginProtection(),
	}
	if o.TenantRate > 0 {
		in.rates = newRates(o.TenantRate, o.TenantBurst, o.Now)
	}
	if o.MaxConcurrent > 0 {
		in.requests = make(chan struct{}, o.MaxConcurrent)
	}
	var err error
	if in.metrics, err = newMetrics(o.Registry, &in.inFlight); err != nil {
		return nil, fmt.Errorf("ingest: metrics: %w", err)
	}
	return in, nil
}

// Register puts the routes on mux. They are registered for every method, so
// that a wrong one gets an answer in JSON like every other fault.
func (in *Ingest) Register(mux *http.ServeMux) {
	mux.Handle("/api/v1/profiles", in.route("push", one(in.receivePush)))
	mux.Handle("/ingest", in.route("pyroscope", in.receivePyroscope))
	mux.Handle("/pyroscope/ingest", in.route("pyroscope", in.receivePyroscope))
	mux.Handle(pushProcedure, in.rpc("pusher", pushProcedure, in.receiveSeries(readPush), answerEmpty))
	mux.Handle(writeRawProcedure, in.rpc("parca", writeRawProcedure, in.receiveSeries(readWriteRaw), answerEmpty))
	for _, procedure := range arrowProcedures {
		mux.Handle(procedure, in.refuseArrow())
	}
	mux.Handle(otlpPath, in.otlpHTTP())
	mux.Handle(otlpProcedure, in.rpc("otlp", otlpProcedure, in.receiveOTLP, otlpResponse))
	in.registerCloud(mux)
	for _, path := range []string{"/profiling/v1/input", "/api/v2/profile"} {
		mux.Handle(path, in.route("datadog", in.receiveDatadog))
	}
}

// Close ends requests that wait for something to do, as those of Cloud Profiler's agents do for up to a minute: a server that stops calls it. Uploads go on.
func (in *Ingest) Close() { in.pacer.Close() }

// InFlightBytes is what the requests at work hold now.
func (in *Ingest) InFlightBytes() int64 { return in.inFlight.used.Load() }

// batch is the profiles of one request.
type batch struct {
	pushes []Push // all but their tenants
	// left is why other profiles of the request are not kept. Only protocols that can tell their sender have any; elsewhere
	// one that is wrong has the whole request refused before anything is kept.
	left    []error
	partial bool   // the protocol can tell of left
	reply   []byte // what the sender is told, where the protocol has more to say than that it is kept
	done    func() // called when the profiles are kept; nil is nothing
}

// receiver reads one protocol's request.
type receiver func(r *http.Request, h *hold) (batch, error)

// one is the receiver of a protocol whose requests have one profile each.
func one(receive func(r *http.Request, h *hold) (Push, error)) receiver {
	return func(r *http.Request, h *hold) (batch, error) {
		p, err := receive(r, h)
		return batch{pushes: []Push{p}}, err
	}
}

// route is a protocol whose answers are ours, in JSON.
func (in *Ingest) route(name string, receive receiver) http.Handler {
	return in.routeWith(name, http.MethodPost, receive, replyKept, func(w http.ResponseWriter, _ *http.Request, f *fault) { f.reply(w) })
}

// routeWith is what all protocols over HTTP have in common: who may come in and
// how many at once, for how long, and what they are told, which kept and refused say in the protocol's own words.
func (in *Ingest) routeWith(name, method string, receive receiver, kept func(http.ResponseWriter, *http.Request, batch), refused func(http.ResponseWriter, *http.Request, *fault)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := in.opt.Now()
		h := &hold{budget: &in.inFlight, method: method}
		defer h.release()
		r, leave, err := in.enter(w, r, h)
		defer leave()
		var b batch
		if err == nil {
			if b, err = receive(r, h); err == nil {
				err = in.keep(r.Context(), h, &b)
			}
		}
		if f := in.judged(r.Context(), name, start, b, err); f != nil {
			refused(w, r, f)
			return
		}
		kept(w, r, b)
	})
}

// judged counts a request, and is its fault: nil where it was kept.
func (in *Ingest) judged(ctx context.Context, name string, start time.Time, b batch, err error) *fault {
	took := in.opt.Now().Sub(start)
	for _, err := range b.left {
		in.metrics.rejects.WithLabelValues(name, in.faultOf(ctx, err).code).Inc()
	}
	if err == nil {
		in.metrics.kept(name, b.pushes, took)
		if b.done != nil {
			b.done()
		}
		return nil
	}
	f := in.faultOf(ctx, err)
	in.metrics.rejected(name, f.code, took)
	if f.status >= 500 {
		in.opt.Logger.Error("ingest: a profile was not kept", "route", name, "status", f.status, "err", err)
	}
	return f
}

// enter is the door of all protocols. The request that it returns has the
// deadlines; leave gives back what it holds, and is never nil.
func (in *Ingest) enter(w http.ResponseWriter, r *http.Request, h *hold) (_ *http.Request, leave func(), err error) {
	leave = func() {}
	if r.Method != h.method {
		w.Header().Set("Allow", h.method)
		return r, leave, faultf(http.StatusMethodNotAllowed, "method", "%s is not understood here: %s a profile", r.Method, h.method)
	}
	if err := in.origins.Check(r); err != nil {
		return r, leave, faultf(http.StatusForbidden, "cross_origin", "a web page of another origin may not send profiles: %v", err)
	}
	if in.opt.Authorize != nil {
		if err := in.opt.Authorize(r); err != nil {
			return r, leave, faultf(http.StatusForbidden, "denied", "%v", err)
		}
	}
	if in.requests != nil {
		select {
		case in.requests <- struct{}{}:
			leave = sync.OnceFunc(func() { <-in.requests })
			h.leave = leave
		default:
			return r, leave, busy("%d uploads are being taken already", cap(in.requests))
		}
	}
	if h.tenant, err = TenantOf(r); err != nil {
		return r, leave, err
	}
	// Before the rates and the body: what a stranger sends takes nothing from a tenant, and no memory.
	if h.signed, err = in.opt.Signatures.begin(r); err != nil {
		return r, leave, err
	}
	if h.length = r.ContentLength; h.length > 0 { // else it counts when it has been read
		if err := in.rates.take(h.tenant, h.length); err != nil {
			return r, leave, err
		}
	}
	if in.opt.Timeout <= 0 {
		return r, leave, nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), 2*in.opt.Timeout)
	r, give := r.WithContext(ctx), leave
	// Not every ResponseWriter has deadlines; the servers of cmd and of the tests do.
	rc := http.NewResponseController(w)
	if rc.SetReadDeadline(time.Now().Add(in.opt.Timeout)) == nil {
		r.Body = &undeadline{r.Body, rc}
	}
	return r, func() { cancel(); give() }, nil
}

// keep hands on a request's profiles. Where one fails the request has failed, unless
// the protocol can tell of single ones: they may be sent again, as what was kept of them is known by its bytes and counts once.
func (in *Ingest) keep(ctx context.Context, h *hold, b *batch) error {
	keyID := ""
	if h.signed != nil {
		if !h.signed.finished {
			return errors.New("the route read a signed request's body without checking it")
		}
		keyID = h.signed.keyID
	}
	if h.length < 0 {
		if err := in.rates.take(h.tenant, h.arrived); err != nil {
			return err
		}
	}
	if err := b.each(func(p *Push) error {
		changed := withoutColons(p.Profile)
		if err := checkTypes(p.Profile); err != nil || !changed {
			return err
		}
		return encoded(h, p)
	}); err != nil {
		return err
	}
	if err := in.name(ctx, h, b); err != nil {
		return err
	}
	return b.each(func(p *Push) error {
		p.Tenant, p.SignedBy = h.tenant, keyID
		return in.opt.Append(ctx, *p)
	})
}

// name gives names to the functions of all profiles.
func (in *Ingest) name(ctx context.Context, h *hold, b *batch) error {
	if in.opt.Names == nil {
		return nil
	}
	return b.each(func(p *Push) error {
		named := in.opt.Names(ctx, h.tenant, p.Profile)
		if named == p.Profile {
			return nil
		}
		p.Profile = named
		return encoded(h, p)
	})
}

// each does something for every profile. One for which it fails for good is left out where that can be told; when all are, that is why the
// request fails.
func (b *batch) each(do func(*Push) error) error {
	kept := b.pushes[:0]
	for i := range b.pushes {
		p := b.pushes[i]
		switch err := do(&p); {
		case err == nil:
			kept = append(kept, p)
		case b.partial && forGood(err):
			b.left = append(b.left, err)
		default:
			return err
		}
	}
	if b.pushes = kept; len(kept) == 0 && len(b.left) > 0 {
		return b.left[0]
	}
	return nil
}

// forGood says that sending the same again will not do.
func forGood(err error) bool {
	var f *fault
	if errors.As(err, &f) {
		return f.status < 500 && f.status != http.StatusTooManyRequests
	}
	return errors.Is(err, ErrInvalid) || errors.Is(err, ErrDenied) || errors.Is(err, profile.ErrCorrupt) || errors.Is(err, profile.ErrTooLarge)
}

// checkTypes refuses sample types that a profile type's text could not carry.
func checkTypes(p *profile.Profile) error {
	if len(p.SampleTypes) == 0 {
		return faultf(http.StatusUnprocessableEntity, "no_sample_types", "the profile has no sample types, so it measures nothing")
	}
	for i, t := range append([]profile.ValueType{p.PeriodType}, p.SampleTypes...) {
		if i > 0 && t.Type == "" {
			return faultf(http.StatusUnprocessableEntity, "sample_type", "sample type %d has no name", i-1)
		}
		for _, s := range []string{t.Type, t.Unit} {
			if len(s) > profile.MaxLabelName {
				return faultf(http.StatusUnprocessableEntity, "sample_type", "sample type %.40q... has %d bytes, the limit is %d", s, len(s), profile.MaxLabelName)
			}
			for _, c := range s {
				if c < ' ' {
					return faultf(http.StatusUnprocessableEntity, "sample_type", "sample type %q has the character %q, which no type's name may have", s, c)
				}
			}
		}
	}
	for i, t := range p.SampleTypes {
		for _, u := range p.SampleTypes[:i] {
			if t == u {
				return faultf(http.StatusUnprocessableEntity, "sample_type", "sample type %s/%s is there twice", t.Type, t.Unit)
			}
		}
	}
	return nil
}

// withoutColons has "_" for the colons in the names of types, and says whether there were any: the text of a profile type has its own. They come from
// perf's events, as "cycles:P" and "sched:sched_switch".
func withoutColons(p *profile.Profile) (changed bool) {
	types := append([]*profile.ValueType{&p.PeriodType}, make([]*profile.ValueType, len(p.SampleTypes))...)
	for i := range p.SampleTypes {
		types[i+1] = &p.SampleTypes[i]
	}
	for _, t := range types {
		for _, s := range []*string{&t.Type, &t.Unit} {
			if strings.Contains(*s, ":") {
				*s, changed = strings.ReplaceAll(*s, ":", "_"), true
			}
		}
	}
	if changed {
		p.DefaultSampleType = strings.ReplaceAll(p.DefaultSampleType, ":", "_")
	}
	return changed
}

// MaxTenant is the longest tenant, in bytes. Length and characters are those of
// Grafana's databases, so that the same header works here and there.
const MaxTenant = 150

// TenantOf is the tenant that a request names in X-Scope-OrgID, "" if it names none. Uploads and questions are told apart by the same.
func TenantOf(r *http.Request) (string, error) {
	t := r.Header.Get("X-Scope-OrgID")
	if len(t) > MaxTenant {
		return "", faultf(http.StatusBadRequest, "tenant", "X-Scope-OrgID has %d bytes, the limit is %d", len(t), MaxTenant)
	}
	if t == "." || t == ".." {
		return "", faultf(http.StatusBadRequest, "tenant", "X-Scope-OrgID is %q, which is not a name", t)
	}
	for i, c := range []byte(t) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '!' || c == '-' || c == '_' || c == '.' || c == '*' || c == '\'' || c == '(' || c == ')':
		default:
			return "", faultf(http.StatusBadRequest, "tenant", "X-Scope-OrgID: character %q at %d; letters, digits and !-_.*'() are allowed", c, i)
		}
	}
	return t, nil
}
