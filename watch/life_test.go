package watch

import (
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/analyze"
)

var noon = time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)

// rose is a regression of evict from before to after, in shares, which began at since.
func rose(before, after float64, since time.Time) analyze.Finding {
	est := func(v float64) analyze.Estimate { return analyze.Estimate{Value: v, Low: v - 0.002, High: v + 0.002} }
	kind := analyze.Regression
	saving := (after - before) * 10
	if after < before {
		kind, saving = analyze.Improvement, 0
	}
	f := analyze.Finding{
		Kind: kind, Service: "checkout", Function: "cache.evict", Type: "process_cpu:cpu:nanoseconds:cpu:nanoseconds", Metric: "self",
		Sentence: "It moved.", Unit: "share", Before: est(before), After: est(after), Change: est(after - before), Since: since,
		Saving: saving,
	}
	if saving > 0 {
		f.SavingUnit = "cores"
		f.Price = &analyze.Money{Amount: 100 * saving, Currency: "USD"}
	}
	return f
}

func contention() analyze.Finding {
	return analyze.Finding{Kind: analyze.Contention, Service: "checkout", Subject: "ledger", Unit: "seconds", After: analyze.Estimate{Value: 2, Low: 1.9, High: 2.1}}
}

// story is a service's findings, look by look.
type story struct {
	t     *testing.T
	known []Record
	at    time.Time
}

// look applies one look and returns what happened, as "event of function or subject".
func (s *story) look(after time.Duration, now float64, found ...analyze.Finding) string {
	s.at = s.at.Add(after)
	l := Look{Tenant: "default", Service: "checkout", At: s.at, Found: found, Looked: []analyze.Kind{analyze.Contention}}
	if now >= 0 {
		l.Now = func(*analyze.Finding) (analyze.Estimate, bool) { return analyze.Estimate{Value: now}, true }
	}
	var out []string
	for _, u := range (Rules{}).Apply(s.known, l) {
		s.put(u)
		for _, e := range u.Events {
			if !e.Time.Equal(s.at) || e.Actor != "analysis" {
				s.t.Errorf("event %+v at %v", e, s.at)
			}
			out = append(out, e.What+" "+u.Record.Finding.Function+u.Record.Finding.Subject)
		}
	}
	return strings.Join(out, ", ")
}

func (s *story) put(u Update) {
	for i := range s.known {
		if s.known[i].ID == u.Record.ID {
			s.known[i] = u.Record
			return
		}
	}
	s.known = append(s.known, u.Record)
}

func (s *story) want(got, want string) {
	s.t.Helper()
	if got != want {
		s.t.Errorf("%s: %q, want %q", s.at.Format("15:04"), got, want)
	}
}

func (s *story) act(a Action) {
	s.t.Helper()
	u, err := s.known[0].act(a, s.at)
	if err != nil {
		s.t.Fatal(err)
	}
	s.put(u)
}

func TestRegressionsLife(t *testing.T) {
	s := &story{t: t, at: noon}
	f := rose(0.03, 0.05, noon.Add(-5*time.Minute))
	s.want(s.look(0, -1, f), "found cache.evict")
	s.want(s.look(time.Minute, 0.05, f), "")
	// The change has left the window; the figure has not fallen.
	s.want(s.look(3*time.Hour, 0.05), "")
	s.want(s.look(24*time.Hour, 0.049), "")
	if k := s.known[0]; k.State != StateNew || !k.LastSeen.Equal(s.at) || !k.FirstSeen.Equal(noon) {
		t.Errorf("%+v", k)
	}
	// Nobody can tell: no profiles. That is not gone.
	s.want(s.look(time.Hour, -1), "")
	s.want(s.look(time.Hour, -1), "")
	// Gone, but not for long enough; back; gone for good.
	s.want(s.look(time.Minute, 0.031), "")
	s.want(s.look(10*time.Minute, 0.05), "")
	s.want(s.look(time.Minute, 0.031), "")
	s.want(s.look(14*time.Minute, 0.031), "")
	s.want(s.look(time.Minute, 0.031), "fixed cache.evict")
	k := s.known[0]
	if k.State != StateFixed || k.Saved == nil || k.Saved.Unit != "cores" || k.Saved.Amount < 0.189 || k.Saved.Amount > 0.191 || k.Saved.Price.Amount < 18.9 {
		t.Errorf("%+v, saved %+v", k, k.Saved)
	}
	// It stays fixed while the old change is still in the window, and comes back with a new one.
	s.want(s.look(time.Minute, 0.03, f), "")
	s.want(s.look(time.Hour, 0.06, rose(0.03, 0.06, s.at.Add(50*time.Minute))), "came back cache.evict")
	if k := s.known[0]; k.State != StateCameBack || k.Episode != 2 || k.Saved != nil || !k.FixedAt.IsZero() {
		t.Errorf("%+v", k)
	}
}

func TestImprovementEndsRegression(t *testing.T) {
	s := &story{t: t, at: noon}
	s.look(0, -1, rose(0.03, 0.05, noon.Add(-5*time.Minute)))
	s.want(s.look(time.Hour, 0.03, rose(0.05, 0.03, noon.Add(50*time.Minute))), "fixed cache.evict")
	if len(s.known) != 1 || s.known[0].Saved == nil {
		t.Errorf("%+v", s.known)
	}
	s.want(s.look(time.Minute, 0.03, rose(0.05, 0.03, noon.Add(50*time.Minute))), "")
	// One of its own, from where that had ended; and its end.
	s.want(s.look(time.Hour, -1, rose(0.03, 0.01, s.at.Add(50*time.Minute))), "found cache.evict")
	s = &story{t: t, at: noon}
	s.want(s.look(0, -1, rose(0.03, 0.01, noon.Add(-5*time.Minute))), "found cache.evict")
	s.want(s.look(time.Hour, 0.03, rose(0.01, 0.03, noon.Add(55*time.Minute))), "undone cache.evict, found cache.evict")
}

// TestStepsLife: a slow step that recovers is fixed and no improvement; one that is faster than it was is one, until it is slow.
func TestStepsLife(t *testing.T) {
	est := func(v float64) analyze.Estimate { return analyze.Estimate{Value: v, Low: v * 0.95, High: v * 1.05} }
	took := func(kind analyze.Kind, before, after float64, since time.Time) analyze.Finding {
		return analyze.Finding{Kind: kind, Service: "checkout", Subject: "a -> b", Type: "spans:duration:nanoseconds:spans:count", Metric: "value", Unit: "seconds",
			Before: est(before), After: est(after), Change: est(after - before), Since: since}
	}
	s := &story{t: t, at: noon}
	if got := s.look(0, -1, took(analyze.Transition, 1, 3, noon)); got != "found a -> b" {
		t.Fatal(got)
	}
	if got := s.look(time.Hour, -1, took(analyze.Improvement, 3, 1.1, noon.Add(time.Hour))); got != "fixed a -> b" || len(s.known) != 1 {
		t.Errorf("recovered: %q, %d records", got, len(s.known))
	}
	if got := s.look(time.Minute, -1, took(analyze.Improvement, 3, 1.1, noon.Add(time.Hour))); got != "" {
		t.Errorf("still recovered: %q", got)
	}
	if got := s.look(time.Hour, -1, took(analyze.Improvement, 1, 0.4, noon.Add(2*time.Hour))); got != "found a -> b" || len(s.known) != 2 {
		t.Errorf("faster than it was before it was slow: %q", got)
	}
	if got := s.look(time.Hour, 0.45); got != "" {
		t.Errorf("out of what is looked at, and still so: %q", got)
	}
	if got := s.look(time.Hour, -1, took(analyze.Transition, 0.5, 3, noon.Add(4*time.Hour))); !strings.Contains(got, "undone a -> b") || !strings.Contains(got, "came back a -> b") {
		t.Errorf("slow again: %q", got)
	}
	steps := subject{steps: map[string][2]analyze.Estimate{"a -> b": {est(0.01), est(0.5)}}}
	f := took(analyze.Improvement, 1, 0.4, noon)
	if v, ok := steps.step(&f); !ok || v.Value != 0.5 {
		t.Errorf("p99 of the step is %+v", v)
	}
	f.Subject = "c"
	if v, ok := steps.step(&f); ok {
		t.Errorf("of no such step it is %+v", v)
	}
}

func TestStatesLife(t *testing.T) {
	s := &story{t: t, at: noon}
	s.want(s.look(0, -1, contention()), "found ledger")
	s.want(s.look(time.Minute, -1), "")
	s.want(s.look(14*time.Minute, -1), "")
	s.want(s.look(time.Minute, -1), "fixed ledger")
	s.want(s.look(time.Hour, -1, contention()), "came back ledger")
	// Larger is told again, unless it surely is not, or its figures have not settled yet.
	c := contention()
	c.After = analyze.Estimate{Value: 4, Low: 3.9, High: 4.1}
	s.want(s.look(29*time.Minute, -1, c), "")
	c.After = analyze.Estimate{Value: 8, Low: 1, High: 15}
	s.want(s.look(time.Minute, -1, c), "")
	for v := 4.0; v < 5.9; v += 0.1 { // slowly, too
		c.After = analyze.Estimate{Value: v, Low: v - 0.1, High: v + 0.1}
		s.want(s.look(time.Minute, -1, c), "")
	}
	c.After = analyze.Estimate{Value: 6.2, Low: 6.1, High: 6.3}
	s.want(s.look(time.Minute, -1, c), "grew ledger")
	c.Unit, c.After = "share", analyze.Estimate{Value: 100, Low: 99, High: 101}
	s.want(s.look(time.Hour, -1, c), "")
	// A kind that was not looked at is not gone.
	s.at = s.at.Add(time.Hour)
	if u := (Rules{}).Apply(s.known, Look{At: s.at}); len(u) != 0 {
		t.Errorf("%+v", u)
	}
}

// TestSameCause: a version that becomes known later makes no second finding, nor does another metric.
func TestSameCause(t *testing.T) {
	s := &story{t: t, at: noon}
	f := rose(0.03, 0.05, noon)
	s.look(0, -1, f)
	f.Cause, f.Metric = &analyze.Cause{Label: "service_version", Value: "v2", Share: 1}, "total"
	s.want(s.look(time.Minute, -1, f), "")
	if len(s.known) != 1 || s.known[0].Finding.Cause == nil {
		t.Errorf("%+v", s.known)
	}
	id := s.known[0].ID
	f.Cause = nil
	s.look(time.Minute, -1, f)
	if s.known[0].Finding.Cause == nil || s.known[0].ID != id {
		t.Error("the cause is forgotten")
	}
}

func TestNorm(t *testing.T) {
	s := &story{t: t, at: noon}
	s.look(0, -1, rose(0.03, 0.05, noon))
	s.want(s.look(13*24*time.Hour, 0.05), "")
	s.want(s.look(25*time.Hour, 0.05), "fixed cache.evict")
	if s.known[0].Saved != nil {
		t.Error("what became the norm has saved nothing")
	}
}

func TestPeopleAct(t *testing.T) {
	s := &story{t: t, at: noon}
	f := rose(0.03, 0.05, noon)
	s.look(0, -1, f)
	s.act(Action{Do: "acknowledge", By: "ada"})
	s.want(s.look(time.Minute, -1, f), "")
	if s.known[0].State != StateAcknowledged {
		t.Error(s.known[0].State)
	}
	s.want(s.look(time.Hour, -1, rose(0.03, 0.09, noon)), "grew cache.evict")
	if s.known[0].State != StateNew {
		t.Error("what grew is not what was acknowledged")
	}
	s.act(Action{Do: "mute", Until: s.at.Add(time.Hour)})
	s.want(s.look(59*time.Minute, -1, rose(0.03, 0.09, noon)), "")
	s.want(s.look(time.Minute, -1, rose(0.03, 0.09, noon)), "unmuted cache.evict")
	s.act(Action{Do: "fix"})
	s.act(Action{Do: "reopen"})

	for _, bad := range []struct {
		in   Action
		want string
	}{
		{Action{Do: "unmute"}, "not muted"},
		{Action{Do: "mute", Until: s.at}, "in the future"},
		{Action{Do: "acknowledge", Until: s.at}, "until belongs to mute"},
		{Action{Do: "delete"}, "is none of"},
		{Action{Do: "acknowledge", Note: strings.Repeat("x", maxText+1)}, "at most"},
	} {
		if _, err := s.known[0].act(bad.in, s.at); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%+v: %v, want %q", bad.in, err, bad.want)
		}
	}
}
