package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/quantra-l/quantra/sandbox/channel"
)

// Report is what a trial of an isolation has shown.
type Report struct {
	Kind      Kind          `json:"isolation"`
	Available bool          `json:"available"`
	Boundary  Boundary      `json:"boundary"`
	How       string        `json:"how,omitempty"`      // what guests run on
	Reason    string        `json:"reason,omitempty"`   // why it is not available
	Start     time.Duration `json:"start_ns,omitempty"` // from the wish to an answer of the small guest
	At        time.Time     `json:"at"`
}

// Err is why nothing may be started by this report, or nil.
func (r *Report) Err() error {
	if r.Available && r.Boundary == BoundaryNone {
		return Unavailable("%s is here only without a boundary (%s)", r.Kind, r.How)
	}
	return r.err()
}

// err is Err for who accepts an isolation without a boundary.
func (r *Report) err() error {
	if r.Available {
		return nil
	}
	return fmt.Errorf("%w: %s: %s", ErrUnavailable, r.Kind, r.Reason)
}

// How long what a trial has shown is taken as so. What is missing is looked for sooner than what is there.
const (
	trustYes = 10 * time.Minute
	trustNo  = time.Minute
)

// trials is one isolation's last report. Its turn is held while a trial runs, so that those who ask at the same time share it.
type trials struct {
	turn   chan struct{} // holds one token
	last   atomic.Pointer[Report]
	closed bool // guarded by turn
}

// Known is what the last trial of an isolation has shown, however old it is, without starting one; false where none was made.
func (p *Pool) Known(kind Kind) (Report, bool) {
	t := p.trials[kind]
	if t == nil {
		return p.missing(kind), true
	}
	if r := t.last.Load(); r != nil {
		return *r, true
	}
	return Report{Kind: kind, Boundary: BoundaryNone}, false
}

// missing is the report of an isolation that the pool was not given.
func (p *Pool) missing(kind Kind) Report {
	r := Report{Kind: kind, Boundary: BoundaryNone, Reason: "this pool was not given it", At: time.Now()}
	if err := p.o.Missing[kind]; err != nil {
		r.Reason = strings.TrimPrefix(err.Error(), ErrUnavailable.Error()+": ")
	}
	return r
}

// Probe says what an isolation is worth on this host, by starting a small guest in it, unless one has been started not long ago.
func (p *Pool) Probe(ctx context.Context, kind Kind) Report {
	t := p.trials[kind]
	if t == nil {
		return p.missing(kind)
	}
	select {
	case <-t.turn:
		defer func() { t.turn <- struct{}{} }()
	case <-ctx.Done():
		return Report{Kind: kind, Boundary: BoundaryNone, Reason: "while waiting for the trial of another: " + context.Cause(ctx).Error(), At: time.Now()}
	}
	if t.closed {
		return Report{Kind: kind, Boundary: BoundaryNone, Reason: "the pool is closed", At: time.Now()}
	}
	if last := t.last.Load(); last != nil {
		if age := time.Since(last.At); last.Available && age < trustYes || !last.Available && age < trustNo {
			return *last
		}
	}
	// The trial serves all who ask, so it does not end with the one who asks now.
	r := p.try(context.WithoutCancel(ctx), kind)
	t.last.Store(&r)
	return r
}

// try starts the small guest. It takes no seat: there is one for each isolation at most.
func (p *Pool) try(ctx context.Context, kind Kind) Report {
	r := Report{Kind: kind, Boundary: BoundaryNone}
	ctx, cancel := context.WithTimeoutCause(ctx, p.startTimeout, errors.New("the small guest was not there in time"))
	defer cancel()
	iso := p.isolations[kind]
	err := func() (err error) {
		if r.Boundary, r.How, err = iso.Boundary(ctx); err != nil {
			return err
		}
		image, args, err := iso.Echo()
		if err != nil {
			return err
		}
		var said tail
		begin := time.Now()
		guest, err := iso.Start(ctx, Launch{Image: image, Args: args, Limits: Privileged.Limits(), Stderr: &said})
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, guest.Kill)
		err = greet(guest)
		r.Start = time.Since(begin)
		if !stop() {
			err = context.Cause(ctx)
		}
		guest.Kill()
		ended := guest.Wait() // killed: how it ended says nothing, unless it had never lived
		if err != nil && ended != nil {
			err = fmt.Errorf("%w (%w)%s", err, ended, &said)
		}
		return err
	}()
	r.At = time.Now()
	r.Available = err == nil
	if err != nil {
		r.Boundary, r.Start, r.Reason = BoundaryNone, 0, strings.TrimPrefix(err.Error(), ErrUnavailable.Error()+": ")
	}
	return r
}

// greet waits for a guest's Hello and for one answer.
func greet(g *Guest) error {
	frames := channel.NewReader(g.Stdout)
	if err := hello(frames); err != nil {
		return err
	}
	if err := channel.Write(g.Stdin, channel.Ping, []byte("trial")); err != nil {
		return err
	}
	kind, payload, err := frames.Read()
	if err == nil && (kind != channel.Ping || string(payload) != "trial") {
		err = fmt.Errorf("%w: a ping came back as kind %d", channel.ErrCorrupt, kind)
	}
	return err
}

func hello(frames *channel.Reader) error {
	kind, payload, err := frames.Read()
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("the handler ended without a word")
	case err != nil:
		return err
	case kind != channel.Hello || len(payload) != 1 || payload[0] != channel.Version:
		return fmt.Errorf("%w: the handler did not begin with the Hello of version %d", channel.ErrCorrupt, channel.Version)
	}
	return nil
}
