package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/sandbox"
	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust"
	"github.com/quantra-l/quantra/zerotrust/policy"
)

// TestSeats: a guard lets somebody in only while there is a seat and the isolation that the session asks for, and says what is missing.
func TestSeats(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	s, err := openSeats(seatOptions{kinds: []string{"wasm", "oci"}, seats: 2, sandboxOptions: sandboxOptions{runtime: "no-such-runtime", timeout: time.Minute}}, log)
	if err != nil {
		t.Fatal(err)
	}
	issuer, key := seal.NewKey(), seal.NewKey()
	var reasons []string
	guard, _, err := openGuard(t.TempDir(), guardOptions{selfSigned: []string{"none"}}, issuer.Public(), s, func(_ context.Context, e zerotrust.Event) error {
		reasons = append(reasons, e.Reason)
		return nil
	}, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(guard.Close(), s.close()); err != nil {
			t.Error(err)
		}
	})
	if got := guard.Status().Seats; got == nil || got.All != 2 || got.Kinds[0].State != "untried" || got.Kinds[1].State != "no" {
		t.Errorf("before a trial: %+v", got)
	}
	d := zerotrust.Identity{Kind: "peer", Key: key.Public(), Issuer: issuer.Public(), NotBefore: time.Now().Add(-time.Minute), Expires: time.Now().Add(time.Hour)}
	doc, err := d.Sign(issuer)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(isolation string) (zerotrust.Decision, error) {
		return guard.Evaluate(t.Context(), zerotrust.Request{Document: doc, Key: key.Public(), Action: "connect", Resource: "peer/self", Isolation: isolation})
	}
	if got, err := ask("wasm"); err != nil || !got.Allow {
		t.Errorf("wasm: %+v, %v", got, err)
	}
	for isolation, why := range map[string]string{"oci": "no-such-runtime", "process": "not among --isolations"} {
		if got, err := ask(isolation); !errors.Is(err, zerotrust.ErrUnavailable) || got.Allow || !strings.Contains(got.Reason, why) || !strings.Contains(reasons[len(reasons)-1], why) {
			t.Errorf("%s: %+v, %v; recorded %q", isolation, got, err, reasons[len(reasons)-1])
		}
	}
	if got := guard.Status().Seats; got.Kinds[0].State != "yes" || got.Kinds[0].Boundary != "software" || got.Kinds[0].Start <= 0 {
		t.Errorf("after it: %+v", got)
	}

	first, err := s.reserve(t.Context(), policy.Privileged)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.reserve(t.Context(), policy.Critical); err != nil {
		t.Fatal(err)
	}
	if _, err := s.reserve(t.Context(), policy.Critical); !errors.Is(err, sandbox.ErrFull) {
		t.Errorf("a third seat of two: %v", err)
	}
	first()
	first()
	if got := s.status(); got.Taken != 1 {
		t.Errorf("%+v", got)
	}
}

func TestSeatFlags(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	if s, err := openSeats(seatOptions{kinds: []string{"none"}, seats: 1}, log); s != nil || err != nil {
		t.Errorf("none: %v, %v", s, err)
	}
	for _, o := range []seatOptions{{kinds: []string{"wasm"}}, {kinds: []string{"mock"}, seats: 1}, {kinds: []string{"wasm", "none"}, seats: 1}} {
		if _, err := openSeats(o, log); exitCode(err) != exitUsage {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
