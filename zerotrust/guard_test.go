package zerotrust_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust"
	"github.com/quantra-l/quantra/zerotrust/policy"
)

// clock is a clock that tests set.
type clock struct{ ns atomic.Int64 }

func newClock(t time.Time) *clock {
	c := &clock{}
	c.ns.Store(t.UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.ns.Load()).UTC() }
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

// ledger keeps what was recorded.
type ledger struct {
	mu     sync.Mutex
	events []zerotrust.Event
	err    error
}

func (l *ledger) record(_ context.Context, e zerotrust.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
	return l.err
}

func (l *ledger) last() zerotrust.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.events) == 0 {
		return zerotrust.Event{}
	}
	return l.events[len(l.events)-1]
}

func (l *ledger) count(what string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.events {
		if l.events[i].What == what {
			n++
		}
	}
	return n
}

// house is a guard with its issuer, clock and ledger.
type house struct {
	*zerotrust.Guard
	issuer seal.Key
	clock  *clock
	ledger *ledger
	seats  atomic.Int32
}

// open makes a guard that believes key 1, and peers who vouch for themselves, an hour after the tests' documents begin.
func open(t testing.TB, change ...func(*zerotrust.Options)) *house {
	t.Helper()
	h := &house{issuer: keyOf(1), clock: newClock(epoch.Add(time.Hour)), ledger: &ledger{}}
	o := zerotrust.Options{
		Issuers: []seal.PublicKey{h.issuer.Public()}, SelfSigned: []string{"peer"}, Record: h.ledger.record, Now: h.clock.now, MaxRecords: 1000, Cache: 64,
		Capacity: func(context.Context, policy.Level) (func(), error) {
			h.seats.Add(1)
			return func() { h.seats.Add(-1) }, nil
		},
	}
	for _, c := range change {
		c(&o)
	}
	var err error
	h.Guard, err = zerotrust.New(o)
	must(t, err)
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func withPolicy(s *policy.Set) func(*zerotrust.Options) {
	return func(o *zerotrust.Options) { o.Policy = func() *policy.Set { return s } }
}

// asks is a request of a key's owner to connect.
func asks(doc []byte, key seal.Key) zerotrust.Request {
	return zerotrust.Request{Document: doc, Key: key.Public(), Action: "connect", Resource: "peer/self"}
}

func decide(t testing.TB, h *house, r zerotrust.Request) zerotrust.Decision {
	t.Helper()
	d, err := h.Evaluate(context.Background(), r)
	must(t, err)
	d.Release()
	if e := h.ledger.last(); e.Decision != d.ID || e.Allowed != d.Allow || e.Reason != d.Reason || e.What != "decision" {
		t.Errorf("decided %+v, recorded %+v", d, e)
	}
	return d
}

// grow lets a principal's trust grow by good connections, until it is at least trust.
func grow(t testing.TB, h *house, r zerotrust.Request, trust int) {
	t.Helper()
	for range 100 {
		if rec, ok := h.Record(zerotrust.IDOf(r.Key)); ok && rec.Trust() >= trust {
			return
		}
		s, d, err := h.Begin(context.Background(), r, make([]byte, 32))
		must(t, err)
		if !d.Allow {
			t.Fatalf("not let in: %s", d.Reason)
		}
		h.clock.advance(time.Minute)
		s.Close()
	}
	t.Fatalf("trust does not come to %d", trust)
}

func TestEvaluate(t *testing.T) {
	h := open(t)
	k := keyOf(2)
	doc := document(t, k, h.issuer)
	d := decide(t, h, asks(doc, k))
	if !d.Allow || d.Trust != 50 || d.Level != policy.Basic || d.Principal != zerotrust.IDOf(k.Public()) || d.Kind != "peer" || len(d.Policies) == 0 {
		t.Errorf("%+v", d)
	}
	for what, change := range map[string]func(*zerotrust.Request){
		"no policy permits it":                              func(r *zerotrust.Request) { r.Action = "administer"; r.Resource = "people/x" },
		"the channel's key is not the identity's":           func(r *zerotrust.Request) { r.Key = keyOf(3).Public() },
		"the request is malformed":                          func(r *zerotrust.Request) { r.Resource = "topic/../critical/keys" },
		"the principal is malformed, or its kind not known": func(r *zerotrust.Request) { r.Document = nil; r.Principal = "x"; r.Kind = "peer" },
	} {
		r := asks(doc, k)
		change(&r)
		if d := decide(t, h, r); d.Allow || d.Reason != what {
			t.Errorf("%s: %+v", what, d)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if d, err := h.Evaluate(ctx, asks(doc, k)); err == nil || d.Allow {
		t.Errorf("an asker that is gone is answered: %+v", d)
	}
	st := h.Status()
	if st.Allowed != 1 || st.Denied != 4 || st.Verified != 1 || st.Records != 1 {
		t.Errorf("%+v", st)
	}
}

// TestPersons: whoever the caller has authenticated, with the roles that it grants.
func TestPersons(t *testing.T) {
	h := open(t, withPolicy(withRole("reader")))
	r := zerotrust.Request{Principal: "person-17", Kind: "person", Roles: []string{"reader"}, Action: "read", Resource: "findings"}
	if d := decide(t, h, r); !d.Allow || d.Principal != "person-17" || d.Kind != "person" || d.Trust != 50 {
		t.Errorf("%+v", d)
	}
	r.Roles = nil
	denied(t, h, r, "policy")
	r.Principal = "person 17"
	denied(t, h, r, "malformed")
}

// TestResources: each path means one thing, and what is critical is so in no other spelling.
func TestResources(t *testing.T) {
	h := open(t, withPolicy(anything(policy.Conditions{})))
	k := keyOf(2)
	doc := document(t, k, h.issuer)
	for path, reason := range map[string]string{
		"critical/keys":       "critical resources demand level critical",
		"critical":            "critical resources demand level critical",
		"/critical/keys":      "the request is malformed",
		"critical//keys":      "the request is malformed",
		"./critical/keys":     "the request is malformed",
		"x/../critical/keys":  "the request is malformed",
		"critical/":           "the request is malformed",
		"":                    "the request is malformed",
		"critical/ke ys":      "the request is malformed",
		"critical\x00":        "the request is malformed",
		"criticality/keys":    "",
		"profiles/raw/a.b..c": "",
	} {
		r := asks(doc, k)
		r.Resource = path
		if d := decide(t, h, r); d.Allow != (reason == "") || !d.Allow && d.Reason != reason {
			t.Errorf("%q: %+v", path, d)
		}
	}
}

// TestConditions: what a policy asks for is held, and what is not understood is not met.
func TestConditions(t *testing.T) {
	k := keyOf(2)
	for _, c := range []struct {
		then    policy.Conditions
		change  func(*zerotrust.Request)
		refused bool
	}{
		{policy.Conditions{MFA: true}, func(*zerotrust.Request) {}, true},
		{policy.Conditions{MFA: true}, func(r *zerotrust.Request) { r.MFA = true }, false},
		{policy.Conditions{ReadOnly: true}, func(r *zerotrust.Request) { r.Action = "write" }, true},
		{policy.Conditions{ReadOnly: true}, func(r *zerotrust.Request) { r.Action = "read" }, false},
		{policy.Conditions{Isolation: "process"}, func(*zerotrust.Request) {}, true},
		{policy.Conditions{Isolation: "process"}, func(r *zerotrust.Request) { r.Isolation = "wasm" }, true},
		{policy.Conditions{Isolation: "process"}, func(r *zerotrust.Request) { r.Isolation = "microvm" }, false},
		{policy.Conditions{Isolation: "process"}, func(r *zerotrust.Request) { r.Isolation = "fortress" }, true},
	} {
		h := open(t, withPolicy(anything(c.then)))
		r := asks(document(t, k, h.issuer), k)
		c.change(&r)
		if d := decide(t, h, r); d.Allow == c.refused || d.Reason == "" {
			t.Errorf("%+v: %+v", c.then, d)
		}
	}
}

// TestRate: a bucket for each principal, which fills by the clock.
func TestRate(t *testing.T) {
	h := open(t, withPolicy(anything(policy.Conditions{Rate: policy.Rate{Burst: 3, Every: 20 * time.Second}})))
	doc, other := document(t, keyOf(2), h.issuer), document(t, keyOf(3), h.issuer)
	for i := range 5 {
		if d := decide(t, h, asks(doc, keyOf(2))); d.Allow != (i < 3) || !d.Allow && d.Reason != "too many requests" {
			t.Errorf("request %d: %+v", i, d)
		}
	}
	if d := decide(t, h, asks(other, keyOf(3))); !d.Allow {
		t.Errorf("another's bucket is empty: %+v", d)
	}
	h.clock.advance(20 * time.Second)
	for i := range 2 {
		if d := decide(t, h, asks(doc, keyOf(2))); d.Allow != (i == 0) {
			t.Errorf("20 s later, request %d: %+v", i, d)
		}
	}
}

// TestSeats: from privileged on a seat is taken, given back once, and without one nobody is let in.
func TestSeats(t *testing.T) {
	h := open(t)
	k := keyOf(2)
	r := asks(document(t, k, h.issuer), k)
	grow(t, h, r, 71)
	d, err := h.Evaluate(context.Background(), r)
	must(t, err)
	if !d.Allow || d.Level != policy.Privileged || h.seats.Load() != 1 {
		t.Errorf("%+v, %d seats taken", d, h.seats.Load())
	}
	d.Release()
	d.Release()
	if h.seats.Load() != 0 {
		t.Errorf("%d seats", h.seats.Load())
	}
	h.ledger.err = errors.New("disk full")
	if d, err := h.Evaluate(context.Background(), r); err == nil || d.Allow || h.seats.Load() != 0 {
		t.Errorf("what cannot be recorded is allowed: %+v, %v, %d seats", d, err, h.seats.Load())
	}
	full := open(t, func(o *zerotrust.Options) {
		o.Capacity = func(context.Context, policy.Level) (func(), error) { return nil, errors.New("all taken") }
	})
	grow(t, full, r, 70)
	s, _, err := full.Begin(context.Background(), r, make([]byte, 32))
	must(t, err)
	full.clock.advance(time.Minute)
	s.Close()
	if d, err := full.Evaluate(context.Background(), r); !errors.Is(err, zerotrust.ErrUnavailable) || d.Allow {
		t.Errorf("without a seat: %+v, %v", d, err)
	}
}

// TestIsolated: an isolation that cannot be had is a denial with the reason, of the level whatever it is; a session that runs is not asked again.
func TestIsolated(t *testing.T) {
	var asked []string
	var missing error
	h := open(t, func(o *zerotrust.Options) {
		o.Isolated = func(_ context.Context, isolation string) error {
			asked = append(asked, isolation)
			return missing
		}
		o.Seats = func() zerotrust.Seats { return zerotrust.Seats{All: 3, Taken: 1} }
		o.PolicyStatus = func() policy.Status { return policy.StandardStatus(epoch) }
	})
	k := keyOf(2)
	r := asks(document(t, k, h.issuer), k)
	if d := decide(t, h, r); !d.Allow || len(asked) > 0 {
		t.Errorf("without an isolation: %+v, asked %v", d, asked)
	}
	r.Isolation = "process"
	s, d, err := h.Begin(context.Background(), r, make([]byte, 32))
	must(t, err)
	if !d.Allow || len(asked) != 1 || asked[0] != "process" {
		t.Fatalf("%+v, asked %v", d, asked)
	}
	missing = errors.New("no namespaces here")
	if d, err := s.Evaluate(context.Background(), "connect", "peer/self"); err != nil || !d.Allow || len(asked) != 1 {
		t.Errorf("a session that runs: %+v, %v, asked %v", d, err, asked)
	}
	s.Close()
	got, err := h.Evaluate(context.Background(), r)
	if !errors.Is(err, zerotrust.ErrUnavailable) || got.Allow || !strings.Contains(got.Reason, "no namespaces here") || h.ledger.last().Reason != got.Reason {
		t.Errorf("%+v, %v; recorded %+v", got, err, h.ledger.last())
	}
	if st := h.Status(); st.Seats == nil || st.Seats.All != 3 || st.Policy == nil || st.Policy.Name != "standard" || len(st.Policy.Files) == 0 || st.Policy.Policies < 10 {
		t.Errorf("%+v", st)
	}
}

// TestEvaluateAllocatesNothing: with a cached identity and a compiled policy.
func TestEvaluateAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Log("sync.Pool drops things at random under the race detector: nothing is counted")
		return
	}
	h := open(t, func(o *zerotrust.Options) {
		o.Record = func(context.Context, zerotrust.Event) error { return nil }
		o.Now = time.Now
	})
	k := keyOf(2)
	r := asks(now(t, k, h.issuer), k)
	ctx := context.Background()
	var wrong int
	n := testing.AllocsPerRun(1000, func() {
		if d, err := h.Evaluate(ctx, r); err != nil || !d.Allow {
			wrong++
		}
	})
	if n != 0 || wrong > 0 {
		t.Errorf("%v allocations a decision, %d wrong", n, wrong)
	}
}

// now is a document that holds by the real clock.
func now(t testing.TB, key, issuer seal.Key) []byte {
	t.Helper()
	d := zerotrust.Identity{Kind: "peer", Key: key.Public(), Issuer: issuer.Public(), NotBefore: time.Now().Add(-time.Minute), Expires: time.Now().Add(time.Hour), Attributes: []zerotrust.Attribute{{Name: "region", Value: "eu"}}}
	doc, err := d.Sign(issuer)
	must(t, err)
	return doc
}

// TestConcurrent: decisions, sessions, revocations and listings at once, for the race detector; and sums that come out.
func TestConcurrent(t *testing.T) {
	h := open(t, func(o *zerotrust.Options) { o.Cache = 8; o.MaxRecords = 16 })
	var allowed, denied atomic.Int64
	var group sync.WaitGroup
	for w := range 4 {
		group.Go(func() {
			for i := range 60 {
				k := keyOf(byte(10 + (i+w)%20))
				r := asks(document(t, k, h.issuer), k)
				s, d, err := h.Begin(context.Background(), r, make([]byte, 32))
				if s != nil {
					s.Observe(zerotrust.Activity{Messages: 1})
					_ = s.Level()
					s.Close()
				}
				if err == nil && d.Allow {
					allowed.Add(1)
				} else {
					denied.Add(1)
				}
			}
		})
	}
	group.Go(func() {
		for n := range 20 {
			id := zerotrust.IDOf(keyOf(byte(10 + n)).Public())
			if err := h.Revoke(revoke(t, h.issuer, uint64(n+1), zerotrust.Revocation{Principal: id, At: epoch})); err != nil {
				t.Error(err)
			}
			h.Connections()
			h.Records()
		}
	})
	group.Wait()
	if st := h.Status(); st.Connections != 0 || st.Allowed+st.Denied != 240 || allowed.Load()+denied.Load() != 240 || allowed.Load() == 0 {
		t.Errorf("%+v: %d allowed, %d denied", st, allowed.Load(), denied.Load())
	}
}

func BenchmarkEvaluate(b *testing.B) {
	h := open(b, func(o *zerotrust.Options) {
		o.Record = func(context.Context, zerotrust.Event) error { return nil }
		o.Now = time.Now
	})
	var rs []zerotrust.Request
	for i := range 16 {
		k := keyOf(byte(2 + i))
		rs = append(rs, asks(now(b, k, h.issuer), k))
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		ctx := context.Background()
		for i := 0; pb.Next(); i++ {
			if d, err := h.Evaluate(ctx, rs[i&15]); err != nil || !d.Allow {
				b.Fatal(d.Reason, err)
			}
		}
	})
}

func ExampleGuard_Evaluate() {
	issuer, key := keyOf(1), keyOf(2)
	id := zerotrust.Identity{Kind: "peer", Key: key.Public(), Issuer: issuer.Public(), NotBefore: epoch, Expires: epoch.Add(zerotrust.DefaultLife)}
	doc, err := id.Sign(issuer)
	if err != nil {
		panic(err)
	}
	g, err := zerotrust.New(zerotrust.Options{
		Issuers: []seal.PublicKey{issuer.Public()},
		Record:  func(context.Context, zerotrust.Event) error { return nil },
		Now:     func() time.Time { return epoch.Add(time.Hour) },
	})
	if err != nil {
		panic(err)
	}
	defer g.Close()
	for _, resource := range []string{"peer/self", "people/x"} {
		d, err := g.Evaluate(context.Background(), zerotrust.Request{Document: doc, Key: key.Public(), Action: "connect", Resource: resource})
		fmt.Println(resource, d.Allow, d.Level, err)
	}
	// Output:
	// peer/self true basic <nil>
	// people/x false basic <nil>
}

// TestLoginTrust: what a login has proved counts at once, runs nothing, and is less where the principal has failed verifications.
func TestLoginTrust(t *testing.T) {
	h := open(t)
	ask := func(trust int, action, resource string, roles ...string) zerotrust.Decision {
		t.Helper()
		d, err := h.Evaluate(t.Context(), zerotrust.Request{Principal: "p-1", Kind: "person", Roles: roles, Trust: trust, Action: action, Resource: resource})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if d := ask(100, "read", "profiles/raw/checkout", "analyst"); !d.Allow || d.Level != policy.Critical || h.seats.Load() != 0 {
		t.Errorf("a login that proved level critical: %+v, %d seats", d, h.seats.Load())
	}
	if d := ask(60, "read", "profiles/raw/checkout", "analyst"); d.Allow || d.Level != policy.Verified {
		t.Errorf("one that proved level verified: %+v", d)
	}
	if d := ask(0, "read", "profiles/aggregate/checkout", "reader"); d.Allow {
		t.Errorf("one that proved nothing is no more than a stranger: %+v", d)
	}
	for range 4 { // 5 points each
		if err := h.Failed(t.Context(), "p-1"); err != nil {
			t.Fatal(err)
		}
	}
	if d := ask(100, "read", "profiles/raw/checkout", "analyst"); d.Allow || d.Trust != 80 {
		t.Errorf("after failures: %+v", d)
	}
	var refused zerotrust.Decision
	for i := 0; i < 101 && refused.RetryAfter == 0; i++ {
		refused = ask(60, "read", "findings", "reader")
	}
	if refused.Allow || refused.RetryAfter != 600*time.Millisecond {
		t.Errorf("100 a minute: %+v", refused)
	}
}
