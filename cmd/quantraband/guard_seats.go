package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/sandbox"
	"github.com/quantra-l/quantra/zerotrust"
	"github.com/quantra-l/quantra/zerotrust/policy"
)

// seatOptions say what a server's guard may isolate sessions with.
type seatOptions struct {
	kinds []string
	seats int
	sandboxOptions
}

func (o *seatOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVar(&o.kinds, "isolations", kindNames(), "what sessions may be isolated with, or none: who is trusted with much is then refused; docs/sandbox.md")
	f.IntVar(&o.seats, "sandbox-seats", 100, "how many sessions may be isolated at a time")
	f.StringVar(&o.cgroup, "sandbox-cgroup", "", "make cgroups of sandboxes below this `path` of the hierarchy (default: this process's own, or the one above)")
	o.timeout = 20 * time.Second
}

func kindNames() (out []string) {
	for _, k := range sandbox.Kinds() {
		out = append(out, string(k))
	}
	return out
}

// seats are room for sessions in sandboxes, for the guard of a server.
type seats struct {
	pool    *sandbox.Pool
	offered []sandbox.Kind
	log     *slog.Logger
}

// How a seat is decided on.
const (
	// seatWait is how long a decision waits for a trial that is under way.
	seatWait = 5 * time.Second
	// heavyDelay is how long the trial of a virtual machine waits after the start: where machines are emulated it takes a core for seconds.
	heavyDelay = time.Minute
)

// openSeats makes the pool; nil is that nothing is to be isolated. It is to be closed.
func openSeats(o seatOptions, log *slog.Logger) (*seats, error) {
	if len(o.kinds) == 0 || len(o.kinds) == 1 && o.kinds[0] == "none" {
		return nil, nil
	}
	if o.seats < 1 {
		return nil, usagef("--sandbox-seats %d: it must be more than 0; --isolations none has no seats", o.seats)
	}
	s := &seats{log: log}
	for _, name := range o.kinds {
		kind, err := sandbox.ParseKind(name)
		if err != nil {
			return nil, usagef("--isolations: %w", err)
		}
		s.offered = append(s.offered, kind)
	}
	var err error
	s.pool, err = o.poolOf(sandbox.Options{Capacity: o.seats}, s.offered)
	return s, err
}

// close ends what runs in sandboxes.
func (s *seats) close() error {
	if s == nil {
		return nil
	}
	return s.pool.Close()
}

// try finds out what this host offers, the lightest first, so that the first who asks need not wait for it.
func (s *seats) try(ctx context.Context) {
	for _, kind := range s.offered {
		if kind == sandbox.MicroVM {
			select {
			case <-ctx.Done():
				return
			case <-time.After(heavyDelay):
			}
		}
		if ctx.Err() != nil {
			return
		}
		r := s.pool.Probe(ctx, kind)
		s.log.Info("an isolation was tried", "isolation", string(kind), "available", r.Err() == nil, "boundary", string(r.Boundary), "start", r.Start, "reason", r.Reason)
	}
}

// reserve is zerotrust.Options.Capacity.
func (s *seats) reserve(ctx context.Context, level policy.Level) (func(), error) {
	class := sandbox.Privileged
	if level >= policy.Critical {
		class = sandbox.Critical
	}
	seat, err := s.pool.Reserve(ctx, class)
	if err != nil {
		return nil, err
	}
	return seat.Release, nil
}

// isolated is zerotrust.Options.Isolated: an isolation is there when a small guest has run in it not long ago, behind a boundary.
func (s *seats) isolated(ctx context.Context, name string) error {
	kind, err := sandbox.ParseKind(name)
	if err != nil {
		return err
	}
	if !slices.Contains(s.offered, kind) {
		return sandbox.Unavailable("%s is not among --isolations", kind)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, seatWait, errors.New("its trial is under way"))
	defer cancel()
	r := s.pool.Probe(ctx, kind)
	return r.Err()
}

// status is zerotrust.Options.Seats.
func (s *seats) status() zerotrust.Seats {
	st := s.pool.Stats()
	out := zerotrust.Seats{All: st.Capacity, Taken: st.Taken, Sessions: st.Sessions}
	for _, kind := range s.offered {
		r, tried := s.pool.Known(kind)
		i := zerotrust.Isolation{Name: string(kind), State: "yes", Boundary: string(r.Boundary), Text: r.How, Start: r.Start, At: r.At.UTC()}
		switch {
		case !tried:
			i = zerotrust.Isolation{Name: string(kind), State: "untried"}
		case !r.Available:
			i.State, i.Boundary, i.Text = "no", "", r.Reason
		case r.Err() != nil:
			i.State = "weak"
		}
		out.Kinds = append(out.Kinds, i)
	}
	return out
}

// writeSeats shows what a guard has to isolate with.
func (a *app) writeSeats(s *zerotrust.Seats) error {
	if s == nil {
		_, err := fmt.Fprintln(a.stdout, "no seats in sandboxes: identities of level privileged and above are refused")
		return err
	}
	fmt.Fprintf(a.stdout, "%d of %d seats in sandboxes are taken, %d sessions run\n", s.Taken, s.All, s.Sessions)
	for _, i := range s.Kinds {
		text := i.Text
		switch i.State {
		case "untried":
			text = "not tried yet"
		case "weak":
			text += ": no boundary, so nobody is let in by it"
		case "yes":
			text = fmt.Sprintf("%s, started in %s, %s", i.Boundary, i.Start.Round(100*time.Microsecond), text)
		}
		fmt.Fprintf(a.stdout, "  %-8s %-8s %s\n", plain(i.Name), i.State, plain(oneLine(text)))
	}
	return nil
}

// writePolicies shows which policies are in force, and what is wrong with the files as they are.
func (a *app) writePolicies(p *policy.Status) {
	if p == nil {
		return
	}
	names := make([]string, 0, len(p.Files))
	for _, f := range p.Files {
		names = append(names, filepath.Base(f))
	}
	fmt.Fprintf(a.stdout, "policies %s: %d in %d files (%s), generation %d, read %s, SHA-256 %.16s\n",
		plain(p.Name), p.Policies, len(p.Files), plain(strings.Join(names, ", ")), p.Generation, p.Loaded.Format(time.RFC3339), plain(p.Digest))
	if p.Error != "" {
		fmt.Fprintf(a.stdout, "the policies' files are wrong since %s, and what was read before stays in force: %s\n", p.Since.Format(time.RFC3339), plain(oneLine(p.Error)))
	}
}
