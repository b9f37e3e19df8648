package web

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

// heapOf is a heap profile of one instance: grow allocates, hold keeps.
func heapOf(alloc, inuse int64) *profile.Profile {
	b := profile.NewBuilder(profile.ValueType{Type: "alloc_space", Unit: "bytes"}, profile.ValueType{Type: "inuse_space", Unit: "bytes"})
	for i, name := range []string{"shop.grow", "shop.hold"} {
		f := b.Function(profile.Function{Name: b.String(name), SystemName: b.String(name), File: b.String("/src/shop/heap.go")})
		b.Add(b.Stack(0, b.Location(profile.Location{}, profile.Line{Function: f, Line: 1})), 0, []int64{alloc, 0}[i], []int64{0, inuse}[i])
	}
	p := b.Profile()
	p.PeriodType, p.Period = profile.ValueType{Type: "space", Unit: "bytes"}, 1
	return p
}

func appendHeap(t *testing.T, s store.Store, instance string, from time.Time, alloc, inuse int64) {
	t.Helper()
	ls, err := profile.NewLabels(profile.Label{Name: profile.LabelService, Value: "checkout"}, profile.Label{Name: profile.LabelInstance, Value: instance})
	if err != nil {
		t.Fatal(err)
	}
	p := heapOf(alloc, inuse)
	if err := s.Append(t.Context(), store.Upload{Name: "memory", Labels: ls, From: from, To: from.Add(10 * time.Second), Pprof: p.AppendPprof(nil), Profile: p}); err != nil {
		t.Fatal(err)
	}
}

// goPprof is `go tool pprof`, the real one.
func goPprof(t *testing.T, args ...string) string {
	t.Helper()
	tool, err := exec.Command("go", "tool", "-n", "pprof").Output()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), strings.TrimSpace(string(tool)), args...)
	cmd.Env = append(cmd.Environ(), "PPROF_TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("go tool pprof %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// TestGoToolPprof: the tool that Go programmers have reads a service as it reads a process. Of what is in use the last state of each instance
// counts, of what happened all of the window.
func TestGoToolPprof(t *testing.T) {
	var db store.Store
	srv := apiServer(t, func(o *Options) { db = o.Store })
	appendHeap(t, db, "a", apiNow.Add(-50*time.Second), 100, 7000)
	appendHeap(t, db, "a", apiNow.Add(-40*time.Second), 200, 5000)
	appendHeap(t, db, "b", apiNow.Add(-45*time.Second), 400, 3000)
	appendHeap(t, db, "a", apiNow.Add(-20*time.Minute), 1<<20, 1<<20) // not of the window

	out := goPprof(t, "-top", "-unit=ns", srv.URL+"/pprof/checkout/profile?seconds=20")
	if !strings.Contains(out, "Type: cpu") || !strings.Contains(out, "of 4540ns total") || !strings.Contains(out, "shop.(*Cache).evict") {
		t.Error(out)
	}
	if out = goPprof(t, "-top", "-unit=ns", srv.URL+`/pprof/checkout/profile?from=now-1h&matchers={service_version="v1"}`); !strings.Contains(out, "of 3000ns total") {
		t.Error(out)
	}
	if out = goPprof(t, "-tags", srv.URL+"/pprof/checkout/profile"); !strings.Contains(out, "endpoint") {
		t.Error(out)
	}
	out = goPprof(t, "-top", "-unit=B", srv.URL+"/pprof/checkout/heap")
	if !strings.Contains(out, "Type: inuse_space") || !strings.Contains(out, "8000B total") || !strings.Contains(out, "shop.hold") {
		t.Error(out)
	}
	out = goPprof(t, "-top", "-unit=B", srv.URL+"/pprof/checkout/allocs")
	if !strings.Contains(out, "Type: alloc_space") || !strings.Contains(out, "700B total") {
		t.Error(out)
	}
	res, b := apiGet(t, srv, "/pprof/checkout/heap")
	p, err := profile.DecodeBytes(b, profile.Limits{})
	if err != nil || res.StatusCode != 200 || len(p.SampleTypes) != 2 || len(p.Comments) != 1 {
		t.Error(res.Status, p, err)
	}
}

func TestPprofWrong(t *testing.T) {
	srv := apiServer(t, nil)
	for path, want := range map[string]int{
		"checkout/block":                          404,
		"nobody/profile":                          404,
		"checkout/9x":                             400,
		"checkout/profile?seconds=0":              400,
		"checkout/profile?seconds=301&live=true":  400,
		"checkout/profile?live=maybe":             400,
		"checkout/profile?live=true&from=now-1h":  400,
		"checkout/profile?debug=1":                400,
		"checkout/profile?second=1":               400,
		"checkout/profile?matchers={":             400,
		"checkout/profile?seconds=5&seconds=6":    400,
		"checkout/profile?from=now-1h&to=now-30m": 404,
	} {
		if res, b := apiGet(t, srv, "/pprof/"+path); res.StatusCode != want || res.Header.Get("X-Go-Pprof") == "" || bytes.HasPrefix(b, []byte("{")) {
			t.Errorf("%s: %s %s, want %d and what is wrong as net/http/pprof says it", path, res.Status, b, want)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/pprof/"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "*/*")
		res, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != want || !bytes.HasPrefix(b, []byte("{")) {
			t.Errorf("%s: %s %s %v, want %d", path, res.Status, b, err, want)
		}
	}
	out, err := exec.CommandContext(t.Context(), "go", "tool", "pprof", "-top", srv.URL+"/pprof/nobody/profile").CombinedOutput()
	if err == nil || !strings.Contains(string(out), `of service "nobody"`) {
		t.Errorf("go tool pprof says %s, %v; want what is wrong", out, err)
	}
}

// TestPprofLive: what is asked for live is what began after the question: taken now where there are targets, else what comes.
func TestPprofLive(t *testing.T) {
	var db store.Store
	asked := 0
	srv := apiServer(t, func(o *Options) {
		db = o.Store
		o.ProfileNow = func(ctx context.Context, _, service, kind string, d time.Duration) (int, error) {
			asked++
			if service != "checkout" || kind != "heap" || d != 2*time.Second {
				t.Errorf("%s %s %v", service, kind, d)
			}
			appendHeap(t, db, "new", apiNow, 11, 22)
			return 1, nil
		}
	})
	appendHeap(t, db, "old", apiNow.Add(-10*time.Second), 1, 1)
	out := goPprof(t, "-top", "-unit=B", srv.URL+"/pprof/checkout/heap?seconds=2&live=true")
	if !strings.Contains(out, "22B total") || asked != 1 {
		t.Error(out)
	}
	// A service that sends by itself: what has come once it covers the seconds.
	srv = apiServer(t, func(o *Options) { db = o.Store })
	appendHeap(t, db, "sent", apiNow.Add(time.Second), 33, 44)
	if out = goPprof(t, "-top", "-unit=B", srv.URL+"/pprof/checkout/heap?seconds=2&live=true"); !strings.Contains(out, "44B total") {
		t.Error(out)
	}
	refused := apiServer(t, func(o *Options) {
		o.Allow = scoped(new(int), Scope{})
		o.ProfileNow = func(context.Context, string, string, string, time.Duration) (int, error) {
			t.Error("who may not read had a profile taken")
			return 0, nil
		}
	})
	if res, b := apiGet(t, refused, "/pprof/checkout/heap?seconds=2&live=true"); res.StatusCode != 403 {
		t.Error(res.Status, string(b))
	}
}
