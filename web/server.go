package web

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/wire/quantra/v1/quantrav1connect"
	"github.com/quantra-l/quantra/wire/querier/v1/querierv1connect"
)

// Options are what a Server needs to know. Only Store has no default.
type Options struct {
	Store store.Store
	// Authorize refuses a question by returning an error, whose text the asker
	// reads. nil allows everyone. The dashboard's own files and health are for everyone.
	Authorize func(*http.Request) error
	// Allow refuses a question about profiles, once it is known what it is about, or says what of the answer the asker may see: it is
	// called before the store is asked, for each question. Its error may be a *[Refusal]. nil allows everyone everything.
	Allow func(context.Context, Question) (Scope, error)
	// Healthy says why the process should be started anew, Ready why it should
	// be asked nothing now. nil is never.
	Healthy, Ready func() error
	// Routes are further answers, by pattern of [http.ServeMux], each under /api/. They are guarded as questions are: by Hosts,
	// against other origins, by Authorize. Turns and time (MaxConcurrent, Timeout) are their own affair.
	Routes map[string]http.Handler
	// ProfileNow takes profiles of a service's targets now, for d, and keeps them; kind is as net/http/pprof has it. It says how many targets
	// it took them of; none is that the service sends by itself. nil is that no service has targets.
	ProfileNow func(ctx context.Context, tenant, service, kind string, d time.Duration) (int, error)
	// Hosts are the names, without port, under which the server may be asked,
	// beside localhost and every IP address; "*" is any. A name that is not here
	// is refused, or any web page could ask us through a name of its own that
	// it lets point here (DNS rebinding).
	Hosts []string
	// Timeout bounds one question. 0 is 30 s, negative is no bound.
	Timeout time.Duration
	// MaxConcurrent bounds the questions at work; others wait for their turn.
	// 0 is twice the number of cores and at least 4, negative is no bound.
	MaxConcurrent int

	Version  string                // shown by /healthz
	Logger   *slog.Logger          // for faults of ours; nil is slog.Default()
	Registry prometheus.Registerer // where metrics go; nil is nowhere
	Gatherer prometheus.Gatherer   // what /metrics shows; nil is 404
	Now      func() time.Time      // nil is time.Now
}

// Question is what somebody asks about profiles.
type Question struct {
	Raw      bool     // single profiles, or what the labels of samples say; else sums
	Services []string // that it names; nil is that it is about all
}

// Scope is what an asker may see.
type Scope struct {
	Services []string // the profiles of others are not there; nil is all
	// Rename is what a function is called, and whether that is another name than its own; nil hides nothing.
	Rename func(function string) (string, bool)
}

// Refusal is an error of [Options.Allow] that says how it is told.
type Refusal struct {
	Code       connect.Code
	Text       string
	RetryAfter time.Duration // 0 is not said
}

func (r *Refusal) Error() string { return r.Text }

// Server answers questions and serves the dashboard. See [New].
type Server struct {
	opt     Options
	mux     *http.ServeMux
	origins *http.CrossOriginProtection
	slots   chan struct{} // one token per question at work; nil is no bound
	waiting chan struct{} // one token per live profile that is waited for
	seconds *prometheus.HistogramVec
	files   *files
}

// New checks o and fills in its defaults. For gRPC without TLS the http.Server
// around it must speak unencrypted HTTP/2; Connect and gRPC-Web need HTTP/1.1 only.
func New(o Options) (*Server, error) {
	if o.Store == nil {
		return nil, errors.New("web: Options.Store is nil: there is nothing to ask")
	}
	o.Timeout = cmp.Or(o.Timeout, 30*time.Second)
	o.MaxConcurrent = cmp.Or(o.MaxConcurrent, max(4, 2*runtime.GOMAXPROCS(0)))
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{opt: o, mux: http.NewServeMux(), origins: http.NewCrossOriginProtection(), waiting: make(chan struct{}, maxLive)}
	if o.MaxConcurrent > 0 {
		s.slots = make(chan struct{}, o.MaxConcurrent)
	}
	s.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "quantra_web_duration_seconds", Help: "Time to answer one question, by what was asked and how it ended.",
		Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
	}, []string{"method", "code"})
	if o.Registry != nil {
		if err := o.Registry.Register(s.seconds); err != nil {
			return nil, fmt.Errorf("web: metrics: %w", err)
		}
	}
	var err error
	if s.files, err = loadFiles(); err != nil {
		return nil, fmt.Errorf("web: the dashboard's files: %w", err)
	}
	rpcs := connect.WithHandlerOptions(
		connect.WithInterceptors(connect.UnaryInterceptorFunc(s.interceptor)),
		connect.WithReadMaxBytes(1<<20), // a question; its largest part is regular expressions
		connect.WithCompressMinBytes(1<<10),
		withFastGzip())
	path, rpc := quantrav1connect.NewQuerierServiceHandler(&querier{s}, rpcs)
	s.mux.Handle(path, s.guarded(rpc))
	g := &grafana{&querier{s}}
	path, rpc = querierv1connect.NewQuerierServiceHandler(g, rpcs)
	s.mux.Handle(path, s.guarded(rpc))
	s.registerCloud(rpcs)
	s.mux.Handle("GET /pprof/{service}/{kind}", s.guarded(http.HandlerFunc(s.pprof)))
	s.mux.Handle("GET /pyroscope/render", s.guarded(http.HandlerFunc(g.render)))
	s.mux.Handle("GET /pyroscope/render-diff", s.guarded(http.HandlerFunc(g.renderDiff)))
	s.mux.Handle("/api/v1/export", s.guarded(http.HandlerFunc(s.export)))
	if err := s.addRoutes(); err != nil {
		return nil, err
	}
	s.mux.HandleFunc("/api/", func(w http.ResponseWriter, r *http.Request) {
		replyError(w, http.StatusNotFound, connect.CodeNotFound, fmt.Sprintf("there is nothing at %s; docs/api.md lists what there is", r.URL.Path))
	})
	// Where no door stands before this server everyone may everything, and the page is told so.
	s.mux.HandleFunc("GET /api/v1/access/me", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		replyJSON(w, http.StatusOK, map[string]string{"how": "open"})
	})
	s.mux.HandleFunc("GET /healthz", s.health(o.Healthy))
	s.mux.HandleFunc("GET /readyz", s.health(o.Ready))
	if o.Gatherer != nil {
		s.mux.Handle("GET /metrics", promhttp.HandlerFor(o.Gatherer, promhttp.HandlerOpts{}))
	} else {
		s.mux.HandleFunc("GET /metrics", http.NotFound)
	}
	s.mux.Handle("/", s.files)
	return s, nil
}

// addRoutes registers Options.Routes.
func (s *Server) addRoutes() (err error) {
	defer func() {
		if r := recover(); r != nil { // ServeMux panics on a pattern that is none, or is there twice
			err = fmt.Errorf("web: Options.Routes: %v", r)
		}
	}()
	for pattern, h := range s.opt.Routes {
		_, path, ok := strings.Cut(pattern, " ")
		if !ok {
			path = pattern
		}
		if !strings.HasPrefix(strings.TrimSpace(path), "/api/") || h == nil {
			return fmt.Errorf("web: Options.Routes: %q: it must be a path under /api/, with a handler", pattern)
		}
		s.mux.Handle(pattern, s.guarded(h))
	}
	return nil
}

// ServeHTTP is what every answer has in common: headers that tell a browser to
// trust nothing, and refusal of what another web page asked for.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	probe := r.URL.Path == "/healthz" || r.URL.Path == "/readyz" // tell nothing, and probes name hosts as they like
	if !probe && !s.hostAllowed(r.Host) {
		replyError(w, http.StatusMisdirectedRequest, connect.CodePermissionDenied,
			fmt.Sprintf("this server does not answer as %.100q; ask for localhost or an IP address, or add the name to the allowed hosts", r.Host))
		return
	}
	if err := s.origins.Check(r); err != nil {
		replyError(w, http.StatusForbidden, connect.CodePermissionDenied, err.Error())
		return
	}
	s.mux.ServeHTTP(w, r)
}

func (s *Server) hostAllowed(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") || net.ParseIP(strings.Trim(host, "[]")) != nil {
		return true
	}
	return slices.Contains(s.opt.Hosts, "*") || slices.ContainsFunc(s.opt.Hosts, func(h string) bool { return strings.EqualFold(h, host) })
}

// guarded is h for those who may ask. It puts the tenant into the context.
func (s *Server) guarded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.opt.Authorize != nil {
			if err := s.opt.Authorize(r); err != nil {
				replyError(w, http.StatusForbidden, connect.CodePermissionDenied, err.Error())
				return
			}
		}
		tenant := r.Header.Get("X-Scope-OrgID")
		if len(tenant) > 150 || strings.ContainsFunc(tenant, func(c rune) bool { return c <= ' ' || c > '~' }) {
			replyError(w, http.StatusBadRequest, connect.CodeInvalidArgument, "X-Scope-OrgID is not a tenant's name: 1 to 150 characters of ASCII without spaces")
			return
		}
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), tenantKey{}, tenant)))
	})
}

type tenantKey struct{}

func tenantOf(ctx context.Context) string {
	t, _ := ctx.Value(tenantKey{}).(string)
	return t
}

// interceptor is [Server.ask] around every RPC.
func (s *Server) interceptor(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (res connect.AnyResponse, err error) {
		name := strings.TrimPrefix(req.Spec().Procedure, "/")
		name = strings.TrimPrefix(name, quantrav1connect.QuerierServiceName+"/") // Grafana's keep theirs
		err = s.ask(ctx, name, func(ctx context.Context) (err error) {
			res, err = next(ctx, req)
			return err
		})
		return res, err
	}
}

// ask runs one question in its turn and its time. Its error is a
// *connect.Error, and has been logged if the fault is ours.
func (s *Server) ask(ctx context.Context, name string, f func(context.Context) error) error {
	start := s.opt.Now()
	if s.opt.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.opt.Timeout)
		defer cancel()
	}
	err := func() error {
		if s.slots != nil {
			select {
			case s.slots <- struct{}{}:
				defer func() { <-s.slots }()
			case <-ctx.Done():
				return fmt.Errorf("%w: %d questions are being answered and this one's turn did not come; ask again later", store.ErrOverloaded, cap(s.slots))
			}
		}
		return f(ctx)
	}()
	code := "ok"
	if err != nil {
		c := s.errorOf(err)
		if c.Code() == connect.CodeInternal || c.Code() == connect.CodeDataLoss {
			s.opt.Logger.Error("web: a question was not answered", "method", name, "err", err)
		}
		code, err = c.Code().String(), c
	}
	s.seconds.WithLabelValues(name, code).Observe(s.opt.Now().Sub(start).Seconds())
	return err
}

// errorOf is err as an asker should see it.
func (s *Server) errorOf(err error) *connect.Error {
	var c *connect.Error
	var refused *Refusal
	switch {
	case errors.As(err, &c):
		return c
	case errors.As(err, &refused):
		c = connect.NewError(refused.Code, refused)
		if refused.RetryAfter > 0 {
			c.Meta().Set("Retry-After", fmt.Sprint(int(math.Ceil(refused.RetryAfter.Seconds()))))
		}
		return c
	case errors.Is(err, context.Canceled):
		return connect.NewError(connect.CodeCanceled, err)
	case errors.Is(err, context.DeadlineExceeded):
		return connect.NewError(connect.CodeDeadlineExceeded, fmt.Errorf("no answer within %v: ask for a shorter range or fewer series", s.opt.Timeout))
	case errors.Is(err, store.ErrInvalid):
		return connect.NewError(connect.CodeInvalidArgument, err)
	case errors.Is(err, store.ErrOverloaded):
		return connect.NewError(connect.CodeResourceExhausted, err)
	case errors.Is(err, store.ErrTooLarge): // asking again does not help: the question must be narrower
		return connect.NewError(connect.CodeOutOfRange, err)
	case errors.Is(err, store.ErrUnavailable):
		return connect.NewError(connect.CodeUnavailable, err)
	case errors.Is(err, store.ErrCorrupt):
		return connect.NewError(connect.CodeDataLoss, err)
	}
	return connect.NewError(connect.CodeInternal, errors.New("a fault of the server's, which is in its log"))
}

// health answers a probe.
func (s *Server) health(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		status, body := http.StatusOK, map[string]string{"status": "ok", "version": s.opt.Version}
		if check != nil {
			if err := check(); err != nil {
				status, body = http.StatusServiceUnavailable, map[string]string{"status": "failing", "reason": err.Error()}
			}
		}
		w.Header().Set("Cache-Control", "no-store")
		replyJSON(w, status, body)
	}
}

// replyError answers outside of an RPC in the form that Connect's errors have.
func replyError(w http.ResponseWriter, status int, code connect.Code, text string) {
	replyJSON(w, status, map[string]string{"code": code.String(), "message": text})
}

func replyJSON(w http.ResponseWriter, status int, v map[string]string) {
	b, err := json.Marshal(v)
	if err != nil { // cannot be: strings marshal
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(b, '\n')) // an error means that the asker is gone
}
