package load

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The words of the protocol between a process that is measured and the one that measures, each before a value of JSON in a line of its own.
// In that order: the one that measures sends a plan, and is told addresses; it sends those of all nodes, and is told when they are connected; it
// says when to begin, and is told how it goes and what was sent; it says how much each node should hear, and is told the result.
const (
	WordPlan      = "plan"
	WordAddresses = "addresses"
	WordPeers     = "peers"
	WordConnected = "connected"
	WordGo        = "go" // in Unix nanoseconds
	WordProgress  = "progress"
	WordSent      = "sent"
	WordExpect    = "expect"
	WordResult    = "result"
)

// MaxLine bounds a line of the protocol: a result with two histograms is some kilobytes.
const MaxLine = 1 << 20

const (
	progressEvery = time.Second
	// idle is after how long without a message those that are missing are given up.
	idle = 5 * time.Second
)

// Progress is how it goes, since the beginning.
type Progress struct {
	Heard uint64  `json:"heard"`
	P99   float64 `json:"p99_ms"`
}

// System is what is measured: the nodes of a plan that are in this process.
type System struct {
	Addresses []string // by which others connect; of each node one, or none where they need not
	// Connect connects them with those of all nodes, and returns when messages will arrive.
	Connect func(ctx context.Context, all []string) error
	Send    Sender
	Close   func() error
}

// Open opens a system. heard is to be called for each message that a node hears, by whichever goroutine has it.
type Open func(ctx context.Context, p Plan, heard func(node int, body []byte)) (*System, error)

// talk is the process's side of the protocol.
type talk struct {
	in  *bufio.Scanner
	mu  sync.Mutex
	out io.Writer
}

func (t *talk) say(word string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	_, err = fmt.Fprintf(t.out, "%s %s\n", word, raw)
	return err
}

func (t *talk) hear(word string, v any) error {
	if !t.in.Scan() {
		return fmt.Errorf("whoever measures has gone: %w", errors.Join(t.in.Err(), io.ErrUnexpectedEOF))
	}
	return Read(t.in.Text(), word, v)
}

// Read reads a line of the protocol that must be of this word.
func Read(line, word string, v any) error {
	rest, ok := cutWord(line, word)
	if !ok {
		return fmt.Errorf("%.80q came where %q was to come", line, word)
	}
	if err := json.Unmarshal([]byte(rest), v); err != nil {
		return fmt.Errorf("%s: %w", word, err)
	}
	return nil
}

func cutWord(line, word string) (string, bool) {
	if len(line) <= len(word) || line[:len(word)] != word || line[len(word)] != ' ' {
		return "", false
	}
	return line[len(word)+1:], true
}

// Serve is a process that is measured, from the plan to the result. It ends when its input does.
func Serve(ctx context.Context, in io.Reader, out io.Writer, open Open) (err error) {
	t := &talk{in: bufio.NewScanner(in), out: out}
	t.in.Buffer(nil, MaxLine)
	var p Plan
	if err := t.hear(WordPlan, &p); err != nil {
		return err
	}
	if err := p.Check(); err != nil {
		return err
	}
	tallies := make([]*Tally, p.Nodes)
	for i := p.First; i < p.First+p.Count; i++ {
		tallies[i] = NewTally()
	}
	s, err := open(ctx, p, func(node int, body []byte) { tallies[node].Heard(body) })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	var peers []string
	if err := errors.Join(t.say(WordAddresses, s.Addresses), t.hear(WordPeers, &peers)); err != nil {
		return err
	}
	if err := s.Connect(ctx, peers); err != nil {
		return err
	}
	var begin int64
	if err := errors.Join(t.say(WordConnected, len(peers)), t.hear(WordGo, &begin)); err != nil {
		return err
	}
	r, err := t.run(ctx, &p, time.Unix(0, begin), s, tallies)
	if err != nil {
		return err
	}
	if err := t.say(WordResult, r); err != nil {
		return err
	}
	for t.in.Scan() { // until the end: this process's accounts are looked at first
	}
	return t.in.Err()
}

// run is the load itself.
func (t *talk) run(ctx context.Context, p *Plan, start time.Time, s *System, tallies []*Tally) (*Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	var ticking sync.WaitGroup
	defer ticking.Wait()
	defer cancel()
	ticking.Go(func() { t.progress(ctx, tallies) })
	late := &lateness{h: newHistogram()}
	r := &Result{Sent: Drive(ctx, p, start, s.Send, late.add)}
	var expect []uint64
	if err := errors.Join(t.say(WordSent, r.Sent), t.hear(WordExpect, &expect)); err != nil {
		return nil, err
	}
	if len(expect) != p.Nodes {
		return nil, fmt.Errorf("%d nodes should hear something, of %d", len(expect), p.Nodes)
	}
	return r, r.collect(ctx, expect, tallies, late)
}

// Run is a load on a system in this process. counted is called when all users are there, with the time from which on messages count.
func Run(ctx context.Context, p Plan, open Open, counted func(from time.Time)) (_ *Result, err error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	tallies := make([]*Tally, p.Nodes)
	for i := range tallies {
		tallies[i] = NewTally()
	}
	s, err := open(ctx, p, func(node int, body []byte) { tallies[node].Heard(body) })
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.Connect(ctx, s.Addresses); err != nil {
		return nil, err
	}
	start := time.Now()
	from, _ := p.Measured(start)
	mark := time.AfterFunc(time.Until(from), func() { counted(from) })
	defer mark.Stop()
	l := &lateness{h: newHistogram()}
	r := &Result{Sent: Drive(ctx, &p, start, s.Send, l.add)}
	return r, r.collect(ctx, r.To, tallies, l)
}

// lateness is how late messages were handed over.
type lateness struct {
	mu sync.Mutex
	h  *hdrhistogram.Histogram
}

func (l *lateness) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	record(l.h, d)
}

// collect waits for what nodes should hear, and takes what they have heard.
func (r *Result) collect(ctx context.Context, expect []uint64, tallies []*Tally, late *lateness) (err error) {
	for i, tally := range tallies {
		if tally != nil {
			r.Expected += expect[i]
		}
	}
	drain(ctx, r.Expected, tallies)
	delays := newHistogram()
	for _, tally := range tallies {
		if tally != nil {
			r.take(tally, delays)
		}
	}
	if r.Delays, err = encodeHistogram(delays); err == nil {
		r.Late, err = encodeHistogram(late.h)
	}
	return err
}

// total is what all nodes have heard.
func total(tallies []*Tally) (n uint64) {
	for _, tally := range tallies {
		if tally != nil {
			n += tally.count()
		}
	}
	return n
}

// drain waits until all have come, or none has for a while.
func drain(ctx context.Context, expected uint64, tallies []*Tally) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	last, since := total(tallies), time.Now()
	for last < expected && time.Since(since) < idle {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if n := total(tallies); n != last {
			last, since = n, time.Now()
		}
	}
}

// progress says each second how it goes.
func (t *talk) progress(ctx context.Context, tallies []*Tally) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := Progress{Heard: total(tallies)}
		for _, tally := range tallies {
			if tally != nil {
				tally.mu.Lock()
				now.P99 = max(now.P99, float64(tally.delays.ValueAtPercentile(99))/1000)
				tally.mu.Unlock()
			}
		}
		if t.say(WordProgress, now) != nil {
			return // nobody listens: who has gone is found when the next word is due
		}
	}
}
