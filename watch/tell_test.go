package watch

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/watch/alert"
)

func alerts(t *testing.T, more string) *alert.Config {
	t.Helper()
	c, err := alert.Parse([]byte("channels: [{name: a, type: webhook, url: 'http://127.0.0.1:9/'}, {name: b, type: webhook, url: 'http://127.0.0.1:9/'}]\n"+more), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func record(f analyze.Finding, at time.Time) Record {
	return Record{ID: f.ID(), Tenant: "default", State: StateNew, Finding: f, FirstSeen: at, LastSeen: at, Episode: 1}
}

// say sends all that is due, with an answer, and returns what was told to whom.
func say(cfg *alert.Config, records []Record, now time.Time, answer error) string {
	tell, _ := due(cfg, records, now)
	var out []string
	for _, d := range tell {
		s := d.channel + " " + d.record.Finding.Service
		if d.fixed {
			s += " fixed"
		}
		if len(d.also) > 0 {
			s += fmt.Sprint(" also ", d.also)
		}
		out = append(out, s)
		m := map[string]Told{}
		for k, v := range d.record.Alerts {
			m[k] = v
		}
		m[d.channel] = m[d.channel].after(d.record.Episode, d.fixed, now, answer)
		d.record.Alerts = m
	}
	return strings.Join(out, ", ")
}

func TestDue(t *testing.T) {
	cfg := alerts(t, "rules: [{kinds: [regression], channels: [a, b]}, {kinds: [contention], fixed: false, channels: [a]}]")
	rs := []Record{record(rose(0.03, 0.05, noon), noon), record(contention(), noon)}
	want := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	want(say(cfg, rs, noon.Add(9*time.Second), nil), "") // it may show elsewhere too
	now := noon.Add(10 * time.Second)
	want(say(cfg, rs, now, errors.New("away")), "a checkout, b checkout, a checkout")
	want(say(cfg, rs, now.Add(4*time.Second), nil), "")
	want(say(cfg, rs, now.Add(5*time.Second), &alert.Refused{Text: "no"}), "a checkout, b checkout, a checkout")
	want(say(cfg, rs, now.Add(59*time.Minute), nil), "")
	now = now.Add(61 * time.Minute)
	want(say(cfg, rs, now, &alert.Later{After: 90 * time.Second}), "a checkout, b checkout, a checkout")
	want(say(cfg, rs, now.Add(89*time.Second), nil), "")
	now = now.Add(90 * time.Second)
	want(say(cfg, rs, now, nil), "a checkout, b checkout, a checkout")
	want(say(cfg, rs, now.Add(24*time.Hour), nil), "") // once

	// It grew: told again. Fixed: told those who were told of it, once.
	rs[0].Episode = 2
	want(say(cfg, rs, now, nil), "a checkout, b checkout")
	rs[0].State, rs[1].State = StateFixed, StateFixed
	want(say(cfg, rs, now, errors.New("away")), "a checkout fixed, b checkout fixed")
	want(say(cfg, rs, now.Add(time.Minute), nil), "a checkout fixed, b checkout fixed")
	want(say(cfg, rs, now.Add(time.Hour), nil), "")
	// It came back.
	rs[0].State, rs[0].Episode = StateCameBack, 3
	want(say(cfg, rs, now, nil), "a checkout, b checkout")

	for _, s := range []State{StateAcknowledged, StateMuted} {
		r := record(rose(0.03, 0.05, noon), noon)
		r.State = s
		want(say(cfg, []Record{r}, now, nil), "")
	}
}

// TestDueGivesUp: what never comes through is not tried for ever.
func TestDueGivesUp(t *testing.T) {
	cfg := alerts(t, "rules: [{channels: [a]}]")
	rs := []Record{record(rose(0.03, 0.05, noon), noon)}
	now, n := noon, 0
	for range 1000 {
		now = now.Add(10 * time.Minute)
		if say(cfg, rs, now, errors.New("away")) != "" {
			n++
		}
	}
	if n != maxTries || rs[0].Alerts["a"].Error != "away" {
		t.Errorf("%d tries, %+v", n, rs[0].Alerts)
	}
}

// TestOneAlertForOneCause: the same function in several services at the same time is told of once.
func TestOneAlertForOneCause(t *testing.T) {
	cfg := alerts(t, "rules: [{channels: [a]}]")
	in := func(service string, after time.Duration) Record {
		f := rose(0.03, 0.05, noon.Add(after))
		f.Service = service
		f.Price = nil
		return record(f, noon)
	}
	rs := []Record{in("billing", 0), in("checkout", time.Minute), in("search", 2*time.Minute), in("later", 20*time.Minute)}
	rs[1].Finding.Price = &analyze.Money{Amount: 100}
	if got, want := say(cfg, rs, noon.Add(time.Minute), nil), "a checkout also [billing search], a later"; got != want && got != "a later, a checkout also [billing search]" {
		t.Errorf("%q, want %q", got, want)
	}
	if rs[0].CoveredBy != rs[1].ID || rs[2].CoveredBy != rs[1].ID || rs[3].CoveredBy != "" {
		t.Errorf("%q %q %q", rs[0].CoveredBy, rs[2].CoveredBy, rs[3].CoveredBy)
	}
	// The one that stands for the others is fixed: if another is not, it is told of.
	rs[1].State = StateFixed
	if got := say(cfg, rs, noon.Add(time.Hour), nil); !strings.Contains(got, "a billing also [search]") || !strings.Contains(got, "a checkout fixed") {
		t.Errorf("%q", got)
	}
	// One more service, later: the one who was told of stands for it.
	late := in("mail", 3*time.Minute)
	late.FirstSeen = noon.Add(time.Hour)
	rs = append(rs, late)
	if got := say(cfg, rs, noon.Add(2*time.Hour), nil); got != "" || rs[4].CoveredBy != rs[0].ID {
		t.Errorf("%q, covered by %q", got, rs[4].CoveredBy)
	}
}

// TestListJoinsServices: in a list of all services one record stands for the others of its cause, and names their services.
func TestListJoinsServices(t *testing.T) {
	w := newWorld(t)
	x := w.watcher(Options{})
	var updates []Update
	for _, service := range []string{"billing", "checkout", "search"} {
		f := rose(0.03, 0.05, noon)
		f.Service = service
		if service != "checkout" {
			f.Price = nil
		}
		updates = append(updates, Update{Record: record(f, noon)})
	}
	if err := x.book.write(t.Context(), "default", updates); err != nil {
		t.Fatal(err)
	}
	w.now = noon.Add(time.Minute)
	if err := x.tell(t.Context()); err != nil { // nobody is to be told, and they are joined all the same
		t.Fatal(err)
	}
	list, err := x.Findings(t.Context(), "default", Filter{})
	if err != nil || len(list) != 1 || list[0].Finding.Service != "checkout" || strings.Join(list[0].AlsoIn, " ") != "billing search" {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err := x.Findings(t.Context(), "default", Filter{Service: "billing"}); err != nil || len(list) != 1 || list[0].CoveredBy == "" {
		t.Errorf("%+v, %v", list, err)
	}
}
