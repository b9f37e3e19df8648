package load

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func plan(change func(*Plan)) *Plan {
	p := &Plan{Kind: "direct", Users: 10, Rate: 100, Size: 64, Seconds: 10, Nodes: 2, Topology: "full", Count: 2}
	if change != nil {
		change(p)
	}
	return p
}

// TestOpenLoop: where a system stands still for a second of ten, the messages of that second are late by what is left of it, and are
// counted as such: a tenth of them waits, on average half a second.
func TestOpenLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, tally := plan(nil), NewTally()
		start := time.Now()
		stall := func(ctx context.Context, _ int, body []byte) error {
			if since := time.Since(start); since >= 4*time.Second && since < 5*time.Second {
				time.Sleep(5*time.Second - since)
			}
			tally.Heard(body)
			return nil
		}
		s := Drive(context.Background(), p, start, stall, func(time.Duration) {})
		if s.Offered != 1000 || s.Sent != 1000 || s.Failed+s.Unsent != 0 || tally.heard != 1000 || tally.counted != 1000 {
			t.Fatalf("%+v, %d heard", s, tally.heard)
		}
		if got := tally.delays.ValueAtPercentile(50); got > 1 {
			t.Errorf("median %d µs", got)
		}
		if got := tally.delays.ValueAtPercentile(95) / 1000; got < 480 || got > 520 { // half of the tenth
			t.Errorf("p95 %d ms, want half of the second", got)
		}
		if got := tally.delays.Max() / 1000; got < 990 || got > 1010 {
			t.Errorf("most %d ms, want the second", got)
		}
	})
}

// TestNeverTaken: what a system never takes does not keep the load from ending, and is counted.
func TestNeverTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := plan(nil)
		start := time.Now()
		stuck := func(ctx context.Context, _ int, _ []byte) error { <-ctx.Done(); return ctx.Err() }
		s := Drive(context.Background(), p, start, stuck, func(time.Duration) {})
		if s.Offered != 1000 || s.Sent != 0 || s.Failed != 10 || s.Unsent != 990 || s.Error == "" {
			t.Errorf("%+v", s)
		}
		if took := time.Since(start); took != 15*time.Second {
			t.Errorf("it ended after %s, want 10 s and half of that as grace", took)
		}
	})
}

// TestSpawn: users begin one after the other; what was due before all are there does not count, and the load afterwards is the rate.
func TestSpawn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := plan(func(p *Plan) { p.Spawn = 2 })
		start, tally := time.Now(), NewTally()
		var before atomic.Int64
		from, to := p.Measured(start)
		if from.Sub(start) != 5*time.Second || to.Sub(from) != 10*time.Second {
			t.Fatal(from, to)
		}
		Drive(context.Background(), p, start, func(_ context.Context, _ int, b []byte) error {
			if time.Now().Before(from) {
				before.Add(1)
			}
			tally.Heard(b)
			return nil
		}, func(time.Duration) {})
		if before.Load() < 200 || before.Load() > 300 || tally.counted != 1000 || tally.heard != 1000+uint64(before.Load()) {
			t.Errorf("%d before, %d counted of %d", before.Load(), tally.counted, tally.heard)
		}
	})
}

// TestClosedLoop: without a rate each user sends when the one before is sent.
func TestClosedLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := plan(func(p *Plan) { p.Rate = 0 })
		s := Drive(context.Background(), p, time.Now(), func(context.Context, int, []byte) error { time.Sleep(100 * time.Millisecond); return nil }, func(time.Duration) {})
		if s.Sent != 1000 || s.Offered != 1000 || !slices.Equal(s.To, []uint64{500, 500}) {
			t.Errorf("%+v", s)
		}
	})
}

func TestTopologies(t *testing.T) {
	for name, want := range map[string][][]int{
		"full": {{1, 2, 3}, {2, 3, 0}, {3, 0, 1}, {0, 1, 2}}, "ring": {{1, 3}, {2, 0}, {3, 1}, {0, 2}}, "line": {{1}, {2, 0}, {3, 1}, {2}}, "star": {{1, 2, 3}, {0}, {0}, {0}},
	} {
		p := plan(func(p *Plan) { p.Nodes, p.Count, p.Topology = 4, 4, name })
		for i, w := range want {
			if got := p.Neighbours(i); !slices.Equal(got, w) {
				t.Errorf("%s: %d has %v, want %v", name, i, got, w)
			}
		}
		for u := range 40 {
			if to := p.Target(u); !slices.Contains(p.Neighbours(p.Home(u)), to) {
				t.Errorf("%s: user %d writes to %d", name, u, to)
			}
		}
	}
	if err := plan(func(p *Plan) { p.Topology = "heap" }).Check(); err == nil {
		t.Error("an unknown topology was taken")
	}
	for i, bad := range []func(*Plan){
		func(p *Plan) { p.Users = 0 }, func(p *Plan) { p.Rate = -1 }, func(p *Plan) { p.Size = HeaderSize - 1 }, func(p *Plan) { p.Seconds = 0 }, func(p *Plan) { p.Nodes = 1 }, func(p *Plan) { p.First = 1 },
	} {
		if plan(bad).Check() == nil {
			t.Errorf("bad plan %d was taken", i)
		}
	}
}

// lossy is a system that loses each tenth message and brings each seventh twice.
func lossy(_ context.Context, p Plan, heard func(int, []byte)) (*System, error) {
	var n atomic.Int64
	return &System{
		Addresses: []string{"a", "b"}[p.First : p.First+p.Count],
		Connect: func(_ context.Context, all []string) error {
			if len(all) != p.Nodes {
				return fmt.Errorf("%v", all)
			}
			return nil
		},
		Send: func(_ context.Context, user int, body []byte) error {
			i := n.Add(1)
			if i%10 == 0 {
				return nil
			}
			heard(p.Target(user), body)
			if i%7 == 0 {
				heard(p.Target(user), body)
			}
			return nil
		},
		Close: func() error { return nil },
	}, nil
}

// TestServe: over the protocol, of 1,000 messages what a system loses is lost, and what it doubles is doubled.
func TestServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inR, in := io.Pipe()
		out, outW := io.Pipe()
		done := make(chan error, 1)
		go func() {
			err := Serve(context.Background(), inR, outW, lossy)
			outW.CloseWithError(errors.Join(err, io.EOF))
			done <- err
		}()
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, MaxLine)
		hear := func(word string, v any) {
			t.Helper()
			for lines.Scan() {
				if _, ok := cutWord(lines.Text(), WordProgress); ok {
					continue
				}
				if err := Read(lines.Text(), word, v); err != nil {
					t.Fatal(err)
				}
				return
			}
			t.Fatal(lines.Err())
		}
		say := func(word string, v any) {
			raw, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(in, "%s %s\n", word, raw)
		}
		say(WordPlan, plan(nil))
		var addresses []string
		hear(WordAddresses, &addresses)
		say(WordPeers, addresses)
		var n int
		hear(WordConnected, &n)
		say(WordGo, time.Now().UnixNano())
		var s Sent
		hear(WordSent, &s)
		say(WordExpect, s.To)
		var r Result
		hear(WordResult, &r)
		in.Close()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if r.Expected != 1000 || r.Heard != 900 || r.Lost() != 100 || r.Doubled != 1000/7-1000/70 || r.Strange != 0 || r.Counted != 900 {
			t.Errorf("%+v", r)
		}
		two := r
		if err := two.Merge(&r); err != nil || two.Heard != 1800 || two.Lost() != 200 {
			t.Errorf("%+v, %v", two, err)
		}
		if h, err := Histogram(two.Delays); err != nil || h.TotalCount() != 1800 {
			t.Errorf("the histogram has %v: %v", h, err)
		}
	})
}

// TestTally: what is not of this load is strange, and takes no memory.
func TestTally(t *testing.T) {
	tally := NewTally()
	b := make([]byte, HeaderSize)
	for _, bad := range [][]byte{nil, b[:10], b} {
		tally.Heard(bad)
	}
	stamp(b, 1, maxNumber, true, time.Now())
	tally.Heard(b)
	stamp(b, MaxUsers, 1, true, time.Now())
	tally.Heard(b)
	if tally.strange != 5 || tally.heard != 0 || len(tally.seen) != 0 {
		t.Errorf("%+v", tally)
	}
}

// TestServeRefuses: what is no protocol ends it with an error.
func TestServeRefuses(t *testing.T) {
	for _, in := range []string{"", "hello\n", "plan {}\n", "plan 7\n", "plan " + strings.Repeat("x", MaxLine+1)} {
		if err := Serve(context.Background(), strings.NewReader(in), io.Discard, lossy); err == nil {
			t.Errorf("%.20q was taken", in)
		}
	}
}
