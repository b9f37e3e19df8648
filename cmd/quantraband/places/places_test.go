//go:build unix

package places

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/fleet"
	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/judge"
	"github.com/quantra-l/quantra/optimize/measure"
	"github.com/quantra-l/quantra/optimize/policyfile"
	"github.com/quantra-l/quantra/optimize/rebalance"
	"github.com/quantra-l/quantra/optimize/scale"
	"github.com/quantra-l/quantra/optimize/scale/gce"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// yard is places with a store, in a time that the test sets.
type yard struct {
	*Places
	t    *testing.T
	db   *store.DB
	file *policyfile.File
	now  time.Time
}

func newYard(t *testing.T, policy string, cloud gce.Options) *yard {
	t.Helper()
	y := &yard{t: t, now: noon}
	y.read(policy)
	var err error
	y.db, err = store.Open(t.Context(), t.TempDir(), store.Options{FS: vfs.NewMem(), Now: func() time.Time { return y.now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := y.db.Close(); err != nil {
			t.Error(err)
		}
	})
	agents, err := fleet.New(fleet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	now := func() time.Time { return y.now }
	y.Places, err = New(Options{
		File: func() *policyfile.File { return y.file }, Store: y.db, Reader: measure.New(y.db, now), Fleet: agents,
		CoreMonth: func(string) float64 { return 20 }, Getenv: func(string) string { return "" }, Cloud: cloud, Now: now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return y
}

func (y *yard) read(policy string) {
	y.t.Helper()
	f, err := policyfile.Decode(strings.NewReader(policy))
	if err != nil {
		y.t.Fatal(err)
	}
	y.file = f
}

// put keeps a profile of an instance's window that ends at a time.
func (y *yard) put(name, service, instance string, end time.Time, window time.Duration, p *profile.Profile) {
	y.t.Helper()
	labels, err := profile.NewLabels(profile.Label{Name: profile.LabelService, Value: service}, profile.Label{Name: profile.LabelInstance, Value: instance})
	if err != nil {
		y.t.Fatal(err)
	}
	if err := y.db.Append(context.Background(), store.Upload{Name: name, Labels: labels, From: end.Add(-window), To: end, Profile: p, Pprof: p.AppendPprof(nil)}); err != nil {
		y.t.Fatal(err)
	}
}

// runtimeOf is a profile of figures, as an agent's.
func runtimeOf(units map[string]string, values map[string]float64) *profile.Profile {
	var types []profile.ValueType
	var row []int64
	for name, unit := range units {
		types, row = append(types, profile.ValueType{Type: name, Unit: unit}), append(row, int64(values[name]))
	}
	b := profile.NewBuilder(types...)
	b.Add(b.Stack(0, b.Location(profile.Location{}, profile.Line{Function: b.Function(profile.Function{Name: b.String("all")})})), 0, row...)
	return b.Profile()
}

// slow is a place whose calls take their time and fail.
type slow struct {
	takes time.Duration
	err   error
	y     *time.Time
	calls int
}

func (s *slow) Get(context.Context, string) (scale.State, error) {
	s.calls++
	*s.y = s.y.Add(s.takes)
	return scale.State{}, s.err
}

func (s *slow) Set(context.Context, string, scale.State, int, bool) error { return s.err }

// TestGate: a place that lets callers wait is not asked for a while; one that fails at once, or that says no for good, is.
func TestGate(t *testing.T) {
	away := errors.New("connection timed out")
	for _, c := range []struct {
		name  string
		takes time.Duration
		err   error
		calls int
	}{{"slow", 8 * time.Second, away, 2}, {"fast", time.Millisecond, away, 41}, {"gone", 8 * time.Second, optimize.ErrGone, 41}, {"well", 8 * time.Second, nil, 41}} {
		now := noon
		s := &slow{takes: c.takes, err: c.err, y: &now}
		g := &gate{to: s, now: func() time.Time { return now }}
		for range 40 {
			_, err := g.Get(t.Context(), "g")
			if (err == nil) != (c.err == nil) || err != nil && !strings.Contains(err.Error(), c.err.Error()) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		now = now.Add(31 * time.Second)
		_, _ = g.Get(t.Context(), "g") // counted below
		if s.calls != c.calls {
			t.Errorf("%s: it was asked %d times, want %d", c.name, s.calls, c.calls)
		}
	}
}

const commandPolicy = `
places:
  shop:
    replicas: {command: {group: g, get: [echo, "4"], set: [true, "{{.Replicas}}"]}, floor: 3, ceiling: 9}
`

func scaling(tenant, service, place, group string, to int) *optimize.Change {
	spec, err := json.Marshal(scale.Spec{Place: place, Group: group, From: 4, To: to})
	if err != nil {
		panic(err)
	}
	return &optimize.Change{Tenant: tenant, State: optimize.Proposed, Proposal: optimize.Proposal{Kind: optimize.Scale, Service: service, Spec: spec}}
}

// TestFind: a change is of the place that the policy has for its service and tenant, within its bounds; one that was begun at a place that is
// out of the policy is found still, and nothing new is begun there.
func TestFind(t *testing.T) {
	y := newYard(t, commandPolicy, gce.Options{})
	acts, err := y.Actuators()
	if err != nil {
		t.Fatal(err)
	}
	act := acts[optimize.Scale]
	targets := func(c *optimize.Change) int {
		t.Helper()
		ts, err := act.Targets(t.Context(), c)
		if err != nil && !errors.Is(err, optimize.ErrRefused) {
			t.Errorf("%+v: %v", c, err)
		}
		return len(ts)
	}
	good := scaling("default", "shop", "command", "g", 6)
	for _, c := range []struct {
		c    *optimize.Change
		want int
	}{
		{good, 1}, {scaling("", "shop", "command", "g", 6), 1}, {scaling("acme", "shop", "command", "g", 6), 0}, {scaling("default", "shop", "command", "other", 6), 0},
		{scaling("default", "shop", "kube", "g", 6), 0}, {scaling("default", "bank", "command", "g", 6), 0}, {scaling("default", "shop", "command", "g", 2), 0}, {scaling("default", "shop", "command", "g", 10), 0},
	} {
		if got := targets(c.c); got != c.want {
			t.Errorf("%s of %s/%s: %d targets, want %d", c.c.Spec, c.c.Tenant, c.c.Service, got, c.want)
		}
	}
	check := act.(optimize.Checker)
	if err := check.Check(&good.Proposal); err != nil {
		t.Error(err)
	}
	y.read("budget: 1")
	if got := targets(good); got != 0 {
		t.Errorf("out of the policy it has %d targets", got)
	}
	if err := check.Check(&good.Proposal); !errors.Is(err, scale.ErrNoPlace) {
		t.Errorf("%v", err)
	}
	begun := *good
	begun.State = optimize.Undoing
	if err := act.Undo(t.Context(), &begun, optimize.Target{}, json.RawMessage(`{"replicas":4}`)); err != nil {
		t.Errorf("an undo where the place is out of the policy: %v", err)
	}
	if got := y.Tenants(); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

// TestUpTo: the time up to which nine of ten replicas were measured, not before what is too old.
func TestUpTo(t *testing.T) {
	member := func(ago time.Duration) judge.Member {
		return judge.Member{Series: map[string][]judge.Point{"cpu": {{From: noon.Add(-ago - 10*time.Second), To: noon.Add(-ago)}}}}
	}
	var many []judge.Member
	for i := range 10 {
		many = append(many, member(time.Duration(10*i)*time.Second))
	}
	for _, c := range []struct {
		members  []judge.Member
		replicas int
		want     time.Duration
	}{
		{nil, 4, 0}, {many, 10, 80 * time.Second}, {many, 5, 40 * time.Second}, {many, 1000, 90 * time.Second},
		{[]judge.Member{member(time.Hour)}, 1, oldest}, {[]judge.Member{member(-time.Minute)}, 1, 0}, {[]judge.Member{{}, member(time.Second)}, 1, time.Second},
	} {
		if got := noon.Sub(upTo(c.members, c.replicas, noon)); got != c.want {
			t.Errorf("%d members of %d replicas: %v ago, want %v", len(c.members), c.replicas, got, c.want)
		}
	}
}

// TestHistory: what a service used is the same whether it was asked for at once or bit by bit.
func TestHistory(t *testing.T) {
	y := newYard(t, "budget: 1", gce.Options{})
	k := key{"default", "shop", optimize.Scale, "g"}
	begin := noon
	for i := range 5 * 12 { // five hours of windows of 150 s, of two
		y.now = begin.Add(time.Duration(i) * 5 * time.Minute)
		for j := range 2 {
			for _, id := range []string{"a", "b"} {
				y.put("runtime", "shop", id, y.now.Add(time.Duration(j+1)*150*time.Second), 150*time.Second, runtimeOf(map[string]string{"process_cpu": "nanoseconds"}, map[string]float64{"process_cpu": float64(i) * 150e9}))
			}
		}
		now, err := y.history(t.Context(), k, y.now.Add(2*time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		for n, l := range now { // what is half over is no load yet
			if l.Cores != 2*float64(n) {
				t.Fatalf("at %v, %d: %+v", y.now, n, l)
			}
		}
	}
	y.now = begin.Add(5*time.Hour + 2*time.Minute)
	bits, err := y.history(t.Context(), k, y.now)
	if err != nil {
		t.Fatal(err)
	}
	clear(y.loads)
	whole, err := y.history(t.Context(), k, y.now)
	if err != nil || len(whole) != 60 || fmt.Sprint(bits) != fmt.Sprint(whole) {
		t.Errorf("%d and %d loads, %v", len(bits), len(whole), err)
	}
	for i, l := range whole {
		if l.Cores != 2*float64(i) || !l.At.Equal(begin.Add(time.Duration(i+1)*5*time.Minute)) {
			t.Fatalf("%d: %+v", i, l)
		}
	}
}

// TestUnknownPeers: where nobody says how many peers nodes have there are no fewer replicas; that is said, and more are not kept from being.
func TestUnknownPeers(t *testing.T) {
	const policy = `
places:
  shop:
    replicas: {command: {group: g, get: [echo, "8"], set: ["true", "{{.Replicas}}"]}, min_history: 0s}
`
	with := `    peers: {nodes: [%s], check: ["true", "{{.Peers}}"], move: ["true", "{{.ID}}"], back: ["true", "{{.ID}}"], moved: ["true", "{{.ID}}"]}
`
	nodes := `echo, '{"nodes":[{"id":"i0","peers":10},{"id":"i1","peers":10}]}'`
	for _, c := range []struct {
		name, policy string
		cores        float64 // of each, of one
		to           int     // 0 is no proposal
		fault        string
	}{
		{"alone", policy, 0.1, 7, ""}, {"peers", policy + fmt.Sprintf(with, nodes), 0.1, 7, ""}, {"unknown", policy + fmt.Sprintf(with, `"false"`), 0.1, 0, "nodes"},
		{"unknown, and full", policy + fmt.Sprintf(with, `"false"`), 0.9, 12, "nodes"},
	} {
		y := newYard(t, c.policy, gce.Options{})
		for end := noon.Add(-75 * time.Minute); !end.After(noon); end = end.Add(30 * time.Second) {
			for i := range 8 {
				p := runtimeOf(map[string]string{"process_cpu": "nanoseconds", "gomaxprocs": "count"}, map[string]float64{"process_cpu": c.cores * 30e9, "gomaxprocs": 1})
				y.put("runtime", "shop", fmt.Sprint("i", i), end, 30*time.Second, p)
			}
		}
		y.now = noon.Add(-40 * time.Minute)
		_, _ = y.Propose(t.Context(), "") // it sees the number of replicas
		y.now = noon
		ps, err := y.Propose(t.Context(), "")
		said := y.Status("")
		to := 0
		for i := range ps {
			var s scale.Spec
			if ps[i].Kind == optimize.Scale && json.Unmarshal(ps[i].Spec, &s) == nil {
				to = s.To
			}
		}
		if to != c.to || (err != nil) != (c.fault != "") || !strings.Contains(said[len(said)-1].Error, c.fault) {
			t.Errorf("%s: %d replicas, %v, %+v; want %d", c.name, to, err, said, c.to)
		}
	}
}

// google answers as much of Compute Engine as proposals ask.
func google(t *testing.T) (gce.Options, *httptest.Server) {
	mux := http.NewServeMux()
	say := func(v any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(v) // the client tells
		}
	}
	var types []map[string]any
	for name, cores := range map[string]int{"n2-standard-2": 2, "n2-standard-4": 4, "n2-standard-8": 8, "n2-highmem-2": 2, "n2-highcpu-4": 4} {
		gib := 4 * cores
		if name == "n2-highcpu-4" {
			gib = 8 // it would be the smallest that does
		}
		types = append(types, map[string]any{"name": name, "guestCpus": cores, "memoryMb": 1024 * gib})
	}
	mux.HandleFunc("GET /projects/p/zones/z/machineTypes", say(map[string]any{"items": types}))
	for _, name := range []string{"m-1", "m-2"} {
		mux.HandleFunc("GET /projects/p/zones/z/instances/"+name, say(map[string]any{"id": "1", "name": name, "machineType": "https://x/zones/z/machineTypes/n2-standard-8", "status": "RUNNING"}))
	}
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return gce.Options{Endpoint: srv.URL, NoCredentials: true}, srv
}

const machinePolicy = "places: {shop: {machines: {gce: {project: p, zone: z}, types: [%s], others_gib: 2}}}"

// TestMachines: from a week's use a smaller type is proposed of those that the policy has, for the machines that have the instances' names; what a
// person proposes is held to the same; and a cloud that does not answer is an error of this place.
func TestMachines(t *testing.T) {
	cloud, srv := google(t)
	y := newYard(t, fmt.Sprintf(machinePolicy, `"n2-standard-*"`), cloud)
	units := map[string]string{"process_cpu": "nanoseconds", "machine_load": "millicores", "rss": "bytes"}
	for i := range 7 * 24 * 4 {
		at := noon.Add(-time.Duration(i) * usageStep)
		for _, name := range []string{"m-1", "m-2"} {
			y.put("runtime", "shop", name, at, usageStep, runtimeOf(units, map[string]float64{"process_cpu": 0.5 * 900e9, "machine_load": 1500, "rss": 3 << 30}))
		}
	}
	y.put("runtime", "shop", "pod-1", noon, usageStep, runtimeOf(units, map[string]float64{"process_cpu": 1e9}))
	ask := func() (*optimize.Proposal, optimize.PlaceStatus) {
		t.Helper()
		clear(y.fits)
		ps, err := y.Propose(t.Context(), "default")
		said := y.Status("default")
		if len(said) != 1 || (err != nil) != (said[0].Error != "") {
			t.Fatalf("%+v, %v", said, err)
		}
		if len(ps) == 0 {
			return nil, said[0]
		}
		return &ps[0], said[0]
	}
	p, said := ask()
	var s scale.MachineSpec
	if p == nil || json.Unmarshal(p.Spec, &s) != nil || s.From != "n2-standard-8" || s.To != "n2-standard-4" || len(s.Machines) != 2 || p.Kind != optimize.Machine {
		t.Fatalf("%+v: %+v", p, said)
	}
	if !strings.Contains(said.Says, "left out: pod-1") || said.Place != "projects/p/zones/z" {
		t.Errorf("%+v", said)
	}
	acts, err := y.Actuators()
	if err != nil {
		t.Fatal(err)
	}
	check := acts[optimize.Machine].(optimize.Checker)
	if err := check.Check(p); err != nil {
		t.Error(err)
	}
	c := &optimize.Change{Tenant: "default", State: optimize.Proposed, Proposal: *p}
	if ts, err := acts[optimize.Machine].Targets(t.Context(), c); err != nil || len(ts) != 2 {
		t.Errorf("%+v, %v", ts, err)
	}
	for _, spec := range []string{
		`{"from":"n2-standard-8","to":"n2-highmem-2","machines":[]}`, `{`,
		`{"from":"n2-standard-8","to":"n2-standard-4","machines":[{"id":"m-1","resource":"projects/p/zones/z/instances/db"}]}`,
		`{"from":"n2-standard-8","to":"n2-standard-4","machines":[{"id":"m-1","resource":"projects/other/zones/z/instances/m-1"}]}`,
	} {
		bad := *c
		bad.Spec = json.RawMessage(spec)
		if err := check.Check(&bad.Proposal); err == nil {
			t.Errorf("%s can be proposed", spec)
		}
		if ts, err := acts[optimize.Machine].Targets(t.Context(), &bad); len(ts) != 0 || err != nil {
			t.Errorf("%s: %v, %v", spec, ts, err)
		}
		if err := acts[optimize.Machine].Rehearse(t.Context(), &bad, optimize.Target{ID: "m-1"}, nil); !errors.Is(err, optimize.ErrRefused) {
			t.Errorf("%s: %v", spec, err)
		}
	}
	y.read(fmt.Sprintf(machinePolicy, "n2-standard-2"))
	if p, said := ask(); p != nil {
		t.Errorf("%s: %+v", p.Sentence, said)
	}
	srv.Close()
	if p, said := ask(); p != nil || said.Error == "" {
		t.Errorf("the cloud is away: %+v", said)
	}
}

// TestPeers: peers go from the node where requests wait to one where they do not, as spans have it; the policy's commands say who has how many.
func TestPeers(t *testing.T) {
	said := filepath.Join(t.TempDir(), "nodes")
	nodes := `{"nodes":[{"id":"a","peers":60},{"id":"b","peers":60},{"id":"c","peers":60},{"id":"d","peers":60}]}`
	policy := fmt.Sprintf(`
places:
  feed:
    peers: {nodes: [cat, %q], check: [true, "{{.Peers}}"], move: [true, "{{.ID}}"], back: [true, "{{.ID}}"], moved: [echo, "{\"made\":true,\"peers\":5}", "{{.ID}}"]}
`, said)
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(said, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(nodes)
	y := newYard(t, policy, gce.Options{})
	for i := range 12 {
		at := noon.Add(-time.Duration(i) * 10 * time.Second)
		for _, id := range []string{"a", "b", "c", "d"} {
			took := int64(1 << 24) // 17 ms
			if id == "a" {
				took = 1 << 30 // 1 s
			}
			b := profile.NewBuilder(profile.ValueType{Type: "spans", Unit: "count"})
			set := b.LabelSet([]profile.SampleLabel{{Key: b.String("le"), Num: took, Unit: b.String("nanoseconds")}})
			b.Add(b.Stack(0, b.Location(profile.Location{}, profile.Line{Function: b.Function(profile.Function{Name: b.String("GET")})})), set, 200)
			p := b.Profile()
			p.Period, p.PeriodType = 1, profile.ValueType{Type: "spans", Unit: "count"}
			y.put("spans", "feed", id, at, 10*time.Second, p)
			y.put("runtime", "feed", id, at, 10*time.Second, runtimeOf(map[string]string{"process_cpu": "nanoseconds"}, map[string]float64{"process_cpu": 1e9}))
		}
	}
	ps, err := y.Propose(t.Context(), "")
	if err != nil || len(ps) != 1 || ps[0].Kind != optimize.Rebalance {
		t.Fatalf("%+v, %v; %+v", ps, err, y.Status(""))
	}
	var s rebalance.Spec
	if err := json.Unmarshal(ps[0].Spec, &s); err != nil || len(s.Moves) != 1 || s.Moves[0].From != "a" {
		t.Errorf("%s, %v", ps[0].Spec, err)
	}
	acts, err := y.Actuators()
	if err != nil {
		t.Fatal(err)
	}
	act := acts[optimize.Rebalance]
	c := &optimize.Change{ID: "c", Tenant: "default", Proposal: ps[0]}
	if ts, err := act.Targets(t.Context(), c); err != nil || len(ts) != 1 {
		t.Errorf("%v, %v", ts, err)
	}
	c.Tenant = "acme"
	if ts, err := act.Targets(t.Context(), c); err != nil || len(ts) != 0 {
		t.Errorf("another tenant's: %v, %v", ts, err)
	}
	c.Tenant = "default"
	y.read("kinds: {rebalance: {mode: off}}")
	if ts, err := act.Targets(t.Context(), c); err != nil || len(ts) != 0 || act.(optimize.Checker).Check(&ps[0]) == nil {
		t.Errorf("out of the policy: %v, %v", ts, err)
	}
	if err := act.Undo(t.Context(), c, optimize.Target{}, nil); err != nil {
		t.Errorf("an undo where the place is out of the policy: %v", err)
	}
	y.read(policy)
	write("nothing")
	if _, err := y.Propose(t.Context(), ""); err == nil || !strings.Contains(y.Status("")[0].Error, "what nodes printed") {
		t.Errorf("%v, %+v", err, y.Status(""))
	}
	y.read(policy + "kinds: {rebalance: {mode: off}}\n")
	if ps, err := y.Propose(t.Context(), ""); err != nil || len(ps) != 0 || len(y.Status("")) != 0 {
		t.Errorf("what is off is asked: %v, %v", ps, err)
	}
}
