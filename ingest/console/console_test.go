package console

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/quantra-l/quantra/profile"
	consolev1 "github.com/quantra-l/quantra/wire/console/v1"
	"github.com/quantra-l/quantra/wire/console/v1/consolev1connect"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// misbehaving is a program whose streams are what the test writes into them, as gRPC frames.
func misbehaving(t *testing.T, streams map[string]func(send func([]byte), done <-chan struct{})) string {
	t.Helper()
	srv := httptest.NewUnstartedServer(streaming(streams))
	srv.Config.Protocols = &http.Protocols{}
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.URL
}

func streaming(streams map[string]func(send func([]byte), done <-chan struct{})) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc+proto")
		w.Header().Set("Trailer", "Grpc-Status")
		w.WriteHeader(http.StatusOK)
		rc := http.NewResponseController(w)
		rc.Flush() // an error is that the other side is gone, which done says
		if stream := streams[r.URL.Path]; stream != nil {
			stream(func(b []byte) {
				w.Write(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...))
				rc.Flush()
			}, r.Context().Done())
		}
		w.Header().Set("Grpc-Status", "0")
	})
}

// outcome is what Watch has told of a program.
type outcome struct {
	mu     sync.Mutex
	began  int
	kept   int
	errors []string
}

func (o *outcome) seen(kept bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case err != nil:
		o.errors = append(o.errors, err.Error())
	case kept:
		o.kept++
	default:
		o.began++
	}
}

// said is how often an error has been told that has this text.
func (o *outcome) said(text string) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.errors {
		if strings.Contains(e, text) {
			n++
		}
	}
	return n
}

// counts are how often a connection has begun, and a profile been kept.
func (o *outcome) counts() (began, kept int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.began, o.kept
}

// watched is a Watcher of programs by their services' names, until the test ends.
func watched(t *testing.T, o Options, urls map[string]string) (*Watcher, map[string]*outcome) {
	t.Helper()
	if o.Append == nil {
		o.Append = func(context.Context, Profile) error { return nil }
	}
	o.Logger, o.Registry = slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	w, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	out := map[string]*outcome{}
	for service, url := range urls {
		labels, err := profile.NewLabels(profile.Label{Name: profile.LabelService, Value: service}, profile.Label{Name: profile.LabelInstance, Value: service + "-1"})
		if err != nil {
			t.Fatal(err)
		}
		told := &outcome{}
		out[service] = told
		wait.Go(func() {
			w.Watch(ctx, Target{Labels: labels, URL: url, Interval: 300 * time.Millisecond}, told.seen)
		})
	}
	t.Cleanup(func() {
		cancel()
		wait.Wait()
		if n := w.held.used.Load(); n != 0 || len(w.programs) != 0 {
			t.Errorf("%d bytes and %d programs are left", n, len(w.programs))
		}
	})
	until(t, "all are known", func() bool { return len(w.of("", "")) == len(urls) })
	return w, out
}

// until waits for what must come.
func until(t *testing.T, what string, met func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(time.Minute); !met(); { // a machine this slow is broken
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("it did not come about: %s", what)
		}
	}
}

func one(t *testing.T, w *Watcher, service string) Program {
	t.Helper()
	all := w.Programs("", service)
	if len(all) != 1 {
		t.Fatalf("%+v", all)
	}
	return all[0]
}

// TestMisbehaving: programs that end, send garbage, too much at once or without a pause are told of as that, nothing is kept of those that are
// gone, and the one beside them is watched as ever.
func TestMisbehaving(t *testing.T) {
	tasks := func(n uint64) []byte {
		return update(10, func(_ *consolev1.Update, task func(uint64, string, func(*consolev1.Task, *consolev1.TaskStats))) {
			for i := range n {
				task(i+1, "worker", nil)
			}
		})
	}
	updates := func(f func(send func([]byte), done <-chan struct{})) string {
		return misbehaving(t, map[string]func(func([]byte), <-chan struct{}){consolev1connect.InstrumentWatchUpdatesProcedure: f})
	}
	const pause = 20 * time.Millisecond
	began := time.Now()
	w, seen := watched(t, Options{MinPause: pause, Backoff: 10 * time.Millisecond, MaxMessage: 1 << 20}, map[string]string{
		"good":    updates(func(send func([]byte), done <-chan struct{}) { send(tasks(3)); <-done }),
		"ends":    updates(func(send func([]byte), _ <-chan struct{}) { send(tasks(2)) }),
		"garbage": updates(func(send func([]byte), done <-chan struct{}) { send(tasks(2)); send([]byte("not an update")); <-done }),
		"huge":    updates(func(send func([]byte), done <-chan struct{}) { send(make([]byte, 1<<20+1)); <-done }),
		"floods": updates(func(send func([]byte), done <-chan struct{}) {
			for {
				select {
				case <-done:
					return
				default:
					send(tasks(5))
				}
			}
		}),
		"web page": aWebServer(t),
		"nobody":   "http://127.0.0.1:1",
	})
	for service, text := range map[string]string{"ends": "it ended the stream", "garbage": "not an update", "huge": "larger than configured max", "web page": "", "nobody": "refused"} {
		until(t, service+" fails twice", func() bool { return seen[service].said(text) >= 2 })
	}
	until(t, "the flood is read", func() bool { return one(t, w, "floods").Updates >= 5 })
	p := one(t, w, "floods")
	if most := uint64(time.Since(began)/pause) + 1; p.Updates > most || p.Tasks != 5 {
		t.Errorf("%d updates were read in a time for %d, of %d tasks", p.Updates, most, p.Tasks)
	}
	begun, _ := seen["good"].counts()
	if p := one(t, w, "good"); !p.Online || p.Tasks != 3 || p.LastError != "" || begun != 1 {
		t.Errorf("the one that is well: %+v, begun %d times", p, begun)
	}
	if p := one(t, w, "huge"); p.Online || p.Tasks != 0 || p.Bytes != 0 || p.LastError == "" {
		t.Errorf("the one that sends too much: %+v", p)
	}
	if began, _ := seen["ends"].counts(); began < 2 {
		t.Error("the one that ends is not watched again")
	}
	until(t, "a profile is kept of the one that is well", func() bool {
		_, kept := seen["good"].counts()
		return kept > 0
	})
}

// aWebServer is a server of something else.
func aWebServer(t *testing.T) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }))
	t.Cleanup(srv.Close)
	return srv.URL
}

// TestSilence: a program that says nothing is asked whether it is paused. If it is, what is known stays; if it does not say so, it is gone.
func TestSilence(t *testing.T) {
	quiet := func(send func([]byte), done <-chan struct{}) {
		send(update(10, func(_ *consolev1.Update, task func(uint64, string, func(*consolev1.Task, *consolev1.TaskStats))) {
			task(1, "x", nil)
		}))
		<-done
	}
	paused, err := proto.Marshal(&consolev1.State{Temporality: consolev1.Temporality_PAUSED})
	if err != nil {
		t.Fatal(err)
	}
	w, seen := watched(t, Options{Silence: 100 * time.Millisecond, Backoff: 10 * time.Millisecond}, map[string]string{
		"paused": misbehaving(t, map[string]func(func([]byte), <-chan struct{}){
			consolev1connect.InstrumentWatchUpdatesProcedure: quiet,
			consolev1connect.InstrumentWatchStateProcedure:   func(send func([]byte), done <-chan struct{}) { send(paused); <-done },
		}),
		"hangs": misbehaving(t, map[string]func(func([]byte), <-chan struct{}){
			consolev1connect.InstrumentWatchUpdatesProcedure: quiet,
			consolev1connect.InstrumentWatchStateProcedure:   func(_ func([]byte), done <-chan struct{}) { <-done },
		}),
		"hangs at once": misbehaving(t, map[string]func(func([]byte), <-chan struct{}){
			consolev1connect.InstrumentWatchUpdatesProcedure: func(_ func([]byte), done <-chan struct{}) { <-done },
			consolev1connect.InstrumentWatchStateProcedure:   func(_ func([]byte), done <-chan struct{}) { <-done },
		}),
	})
	until(t, "paused", func() bool { return one(t, w, "paused").Paused })
	for _, service := range []string{"hangs", "hangs at once"} {
		until(t, service+" is given up", func() bool { return seen[service].said(errSilent.Error()) > 0 })
	}
	begun, _ := seen["paused"].counts()
	if p := one(t, w, "paused"); p.Tasks != 1 || !p.Online || begun != 1 {
		t.Errorf("%+v, begun %d times", p, begun)
	}
}

// TestTLS: a program behind https is watched by whoever trusts its certificate, and by nobody else; targets may share their settings.
func TestTLS(t *testing.T) {
	srv := httptest.NewUnstartedServer(streaming(map[string]func(func([]byte), <-chan struct{}){consolev1connect.InstrumentWatchUpdatesProcedure: func(send func([]byte), done <-chan struct{}) {
		send(update(10, func(_ *consolev1.Update, task func(uint64, string, func(*consolev1.Task, *consolev1.TaskStats))) {
			task(1, "x", nil)
		}))
		<-done
	}}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	shared := &tls.Config{RootCAs: roots}
	w, _ := watched(t, Options{Backoff: 10 * time.Millisecond}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	t.Cleanup(func() { cancel(); wait.Wait() })
	var strangers outcome
	for _, c := range []struct {
		conf *tls.Config
		seen func(bool, error)
	}{{shared, new(outcome).seen}, {shared, new(outcome).seen}, {nil, strangers.seen}} {
		wait.Go(func() { w.Watch(ctx, Target{URL: srv.URL, TLS: c.conf}, c.seen) })
	}
	until(t, "a stranger's certificate is refused", func() bool { return strangers.said("certificate") > 0 })
	until(t, "two watch", func() bool {
		online := 0
		for _, p := range w.Programs("", "") {
			if p.Online && p.Tasks == 1 {
				online++
			}
		}
		return online == 2
	})
}

// TestAPI: questions that cannot be answered say why, and nobody is told of another tenant's programs.
func TestAPI(t *testing.T) {
	w, seen := watched(t, Options{Backoff: 10 * time.Millisecond}, map[string]string{
		"nobody": "http://127.0.0.1:1",
		"shop": misbehaving(t, map[string]func(func([]byte), <-chan struct{}){consolev1connect.InstrumentWatchUpdatesProcedure: func(send func([]byte), done <-chan struct{}) {
			send(update(10, func(_ *consolev1.Update, task func(uint64, string, func(*consolev1.Task, *consolev1.TaskStats))) {
				task(1, "x", nil)
			}))
			<-done
		}}),
	})
	until(t, "shop is watched", func() bool { return one(t, w, "shop").Online })
	until(t, "nobody is not", func() bool { return seen["nobody"].said("") > 0 })
	h := w.Handler(func(r *http.Request) (string, error) { return r.Header.Get("X-Scope-OrgID"), nil })
	get := func(tenant, path string) (int, string) {
		r := httptest.NewRequest("GET", path, nil)
		r.Header.Set("X-Scope-OrgID", tenant)
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		return rec.Code, rec.Body.String()
	}
	for _, c := range []struct {
		tenant, path string
		status       int
		text         string
	}{
		{"", ProgramsPath, 200, `"service":"shop"`},
		{"other", ProgramsPath, 200, `{"programs":[]}`},
		{"", SnapshotPath + "?service=shop", 200, `"detail":"full"`},
		{"default", SnapshotPath + "?service=shop&instance=shop-1", 200, `"runtime":"tokio"`},
		{"other", SnapshotPath + "?service=shop", 404, "no tasks of service"},
		{"", SnapshotPath, 400, "service is not given"},
		{"", SnapshotPath + "?service=nobody", 503, "is not connected"},
		{"", ListPath + "?service=shop", 200, `"name":"x"`},
		{"", ListPath + "?service=shop&limit=0", 400, "limit"},
		{"", ListPath + "?service=shop&sort=busy", 400, "not understood"},
		{"", DetailsPath + "?service=shop&task=x", 400, "task"},
		{"", DetailsPath + "?service=shop&task=77", 404, "has ended"},
		{"", DetailsPath + "?service=shop&task=1001", 502, "ended the stream"},
		{"", ProgramsPath + "/more", 404, "nothing here"},
	} {
		if status, body := get(c.tenant, c.path); status != c.status || !strings.Contains(body, c.text) || !json.Valid([]byte(body)) {
			t.Errorf("%s of %q: %d %s", c.path, c.tenant, status, body)
		}
	}
}
