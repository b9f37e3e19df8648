package zerotrust_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust"
	"github.com/quantra-l/quantra/zerotrust/policy"
)

var channel = bytes.Repeat([]byte{7}, 32)

// live makes a guard on the bubble's clock.
func live(t *testing.T, change ...func(*zerotrust.Options)) *house {
	return open(t, append([]func(*zerotrust.Options){func(o *zerotrust.Options) { o.Now = time.Now }}, change...)...)
}

// enter begins a session of a key on the bubble's clock.
func enter(t *testing.T, h *house, k seal.Key) *zerotrust.Session {
	t.Helper()
	d := zerotrust.Identity{Kind: "peer", Key: k.Public(), Issuer: h.issuer.Public(), NotBefore: time.Now().Add(-time.Hour), Expires: time.Now().Add(24 * time.Hour)}
	doc, err := d.Sign(h.issuer)
	must(t, err)
	s, dec, err := h.Begin(context.Background(), asks(doc, k), channel)
	must(t, err)
	if s == nil {
		t.Fatalf("not let in: %s", dec.Reason)
	}
	return s
}

func trustOf(h *house, s *zerotrust.Session) int {
	r, _ := h.Record(s.Principal())
	return r.Trust()
}

// answering is the other end: it answers what comes by the channel with the key.
func answering(k seal.Key, binding []byte, count *int) func(context.Context, []byte) ([]byte, error) {
	return func(_ context.Context, c []byte) ([]byte, error) {
		*count++
		return zerotrust.Answer(k, binding, c)
	}
}

// TestSessionIsVerified: every five minutes, for +5 each; at its end it is a good connection.
func TestSessionIsVerified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := live(t)
		k := keyOf(2)
		s := enter(t, h, k)
		ctx, cancel := context.WithCancel(context.Background())
		t.Cleanup(cancel)
		done := make(chan error, 1)
		n := 0
		go func() { done <- s.Run(ctx, answering(k, channel, &n)) }()
		time.Sleep(16 * time.Minute)
		synctest.Wait()
		if n != 3 || trustOf(h, s) != 65 || s.Level() != policy.Verified {
			t.Errorf("%d challenges, trust %d, level %v", n, trustOf(h, s), s.Level())
		}
		if c := h.Connections(); len(c) != 1 || c[0].Level != "verified" || c[0].ID != s.ID() {
			t.Errorf("%+v", c)
		}
		cancel()
		if err := <-done; err != nil || !errors.Is(s.Err(), zerotrust.ErrClosed) {
			t.Errorf("%v, %v", err, s.Err())
		}
		if rec, _ := h.Record(s.Principal()); rec.Trust() != 66 || rec.Connections != 1 || rec.Passed != 3 {
			t.Errorf("%+v", rec)
		}
		if d, err := s.Evaluate(context.Background(), "send", "topic/chat"); d.Allow || err == nil {
			t.Errorf("an ended session may: %+v", d)
		}
	})
}

// TestChallengeFails: each way to fail costs 15 and ends the session; a channel that is gone costs nothing and earns nothing.
func TestChallengeFails(t *testing.T) {
	k := keyOf(2)
	var before []byte
	for _, c := range []struct {
		what, says string
		trust      int
		exchange   func(context.Context, []byte) ([]byte, error)
	}{
		{"no answer", "not answered in time", 35, func(ctx context.Context, _ []byte) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }},
		{"an answer after 31 s", "not answered in time", 35, func(_ context.Context, c []byte) ([]byte, error) {
			time.Sleep(31 * time.Second)
			return zerotrust.Answer(k, channel, c)
		}},
		{"another's key", "does not verify", 35, func(_ context.Context, c []byte) ([]byte, error) { return zerotrust.Answer(keyOf(3), channel, c) }},
		{"another channel", "does not verify", 35, func(_ context.Context, c []byte) ([]byte, error) {
			return zerotrust.Answer(k, bytes.Repeat([]byte{8}, 32), c)
		}},
		{"an answer from before", "another challenge", 35, func(_ context.Context, c []byte) ([]byte, error) {
			if before == nil {
				var err error
				if before, err = zerotrust.Answer(k, channel, append(bytes.Clone(c[:5]), make([]byte, 32)...)); err != nil {
					return nil, err
				}
			}
			return before, nil
		}},
		{"noise", "no answer of version 1", 35, func(context.Context, []byte) ([]byte, error) { return []byte("yes"), nil }},
		{"a channel that is gone", "channel is gone", 50, func(context.Context, []byte) ([]byte, error) { return nil, errors.New("reset") }},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := live(t)
			s := enter(t, h, k)
			err := s.Run(context.Background(), c.exchange)
			var ended *zerotrust.Ended
			if !errors.As(err, &ended) && !errors.As(s.Err(), &ended) || !strings.Contains(s.Err().Error(), c.says) || !errors.Is(s.Err(), zerotrust.ErrDenied) {
				t.Errorf("%s: %v, %v", c.what, err, s.Err())
			}
			if got := trustOf(h, s); got != c.trust || s.Level() != policy.Untrusted {
				t.Errorf("%s: trust %d, level %v", c.what, got, s.Level())
			}
			if rec, _ := h.Record(s.Principal()); rec.Connections != 0 {
				t.Errorf("%s: it is a good connection", c.what)
			}
			if want := 1; c.trust < 50 && h.ledger.count("challenge") != want {
				t.Errorf("%s: %d events", c.what, h.ledger.count("challenge"))
			}
		})
	}
}

// TestChallengeOnce: an answer is good for one challenge, the newest, once.
func TestChallengeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := live(t)
		k := keyOf(2)
		ctx := context.Background()
		s := enter(t, h, k)
		first := s.Challenge()
		second := s.Challenge()
		if bytes.Equal(first, second) || len(first) != zerotrust.ChallengeSize {
			t.Fatal("a challenge is not new")
		}
		answer, err := zerotrust.Answer(k, channel, second)
		must(t, err)
		if len(answer) != zerotrust.AnswerSize {
			t.Errorf("%d bytes", len(answer))
		}
		must(t, s.Verify(ctx, answer))
		if err := s.Verify(ctx, answer); !errors.Is(err, zerotrust.ErrDenied) || s.Err() == nil {
			t.Errorf("the same answer again: %v", err)
		}
		s = enter(t, h, k)
		old, err := zerotrust.Answer(k, channel, s.Challenge())
		must(t, err)
		s.Challenge()
		if err := s.Verify(ctx, old); !errors.Is(err, zerotrust.ErrDenied) {
			t.Errorf("the answer to a challenge that another has replaced: %v", err)
		}
	})
}

// TestLevelsAreLive: what is known of a principal changes what its open sessions may, at once.
func TestLevelsAreLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := live(t)
		k := keyOf(2)
		ctx := context.Background()
		s := enter(t, h, k)
		defer s.Close()
		other := enter(t, h, k)
		if d, err := s.Evaluate(ctx, "send", "topic/chat"); err != nil || !d.Allow {
			t.Fatalf("%+v, %v", d, err)
		}
		for range 4 {
			must(t, h.Failed(ctx, s.Principal()))
		}
		if s.Level() != policy.Untrusted || other.Level() != policy.Untrusted {
			t.Errorf("levels %v, %v", s.Level(), other.Level())
		}
		select {
		case <-s.Changed():
		default:
			t.Error("nobody was told")
		}
		if d, err := s.Evaluate(ctx, "send", "topic/chat"); err != nil || d.Allow || d.Level != policy.Untrusted {
			t.Errorf("%+v, %v", d, err)
		}
		other.Terminate("by hand")
		if e := h.ledger.last(); e.What != "session" || !strings.Contains(e.Reason, "by hand") || e.Allowed {
			t.Errorf("%+v", e)
		}
		if h.Terminate(other.ID(), "again") || !h.Terminate(s.ID(), "by id") || s.Err() == nil {
			t.Error("Terminate")
		}
	})
}

// TestExpiryEndsASession: with its document, within one interval.
func TestExpiryEndsASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := live(t)
		k := keyOf(2)
		d := zerotrust.Identity{Kind: "peer", Key: k.Public(), Issuer: h.issuer.Public(), NotBefore: time.Now(), Expires: time.Now().Add(time.Minute)}
		doc, err := d.Sign(h.issuer)
		must(t, err)
		s, _, err := h.Begin(context.Background(), asks(doc, k), channel)
		must(t, err)
		from, n := time.Now(), 0
		err = s.Run(context.Background(), answering(k, channel, &n))
		if took := time.Since(from); err == nil || !strings.Contains(err.Error(), "expired") || took < time.Minute || took > 70*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

// behaving runs a session whose other end answers, and does what act says each interval.
func behaving(t *testing.T, h *house, k seal.Key, n *int) (s *zerotrust.Session, interval func(messages uint64), stop func()) {
	t.Helper()
	s = enter(t, h, k)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx, answering(k, channel, n))
	}()
	interval = func(messages uint64) {
		s.Observe(zerotrust.Activity{Messages: messages, Bytes: 100 * messages})
		time.Sleep(10 * time.Second)
		synctest.Wait()
	}
	stop = func() { cancel(); <-done }
	t.Cleanup(stop) // a session that goes on would keep the bubble's time going for ever
	return s, interval, stop
}

// TestBehaviour: a jump takes the level away, has it verified at once, and the level comes back when it is ordinary again; more sessions
// do not make more room, and to come back does not wash it off.
func TestBehaviour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := live(t)
		k := keyOf(2)
		n := 0
		s, interval, stop := behaving(t, h, k, &n)
		for i := range 40 {
			interval(200 + uint64(i%3))
		}
		level, verified := s.Level(), n
		if level != policy.Basic && level != policy.Verified {
			t.Fatalf("level %v", level)
		}
		interval(2000)
		if s.Level() != level {
			t.Error("one burst has taken the level away")
		}
		interval(2000)
		if s.Level() != policy.Untrusted || n != verified+1 {
			t.Errorf("ten times the traffic: level %v, %d challenges", s.Level(), n-verified)
		}
		if h.ledger.count("behaviour") != 1 {
			t.Errorf("%d events", h.ledger.count("behaviour"))
		}
		if again, d, err := h.Begin(context.Background(), asks(now(t, k, h.issuer), k), channel); err != nil || d.Level != policy.Untrusted {
			t.Errorf("another connection has washed it off: %+v, %v", d, err)
		} else if again != nil {
			again.Close()
		}
		trust := trustOf(h, s)
		for range 12 {
			interval(200)
		}
		if s.Level() < level || h.ledger.count("behaviour") != 2 {
			t.Errorf("ordinary again: level %v, %d events", s.Level(), h.ledger.count("behaviour"))
		}
		if got := trustOf(h, s); got > trust+5 {
			t.Errorf("odd behaviour has earned %d trust by its challenges", got-trust)
		}
		stop()
	})
}

// TestSlowDriftIsSeen: growth that no score shows is recorded and verified.
func TestSlowDriftIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := live(t)
		n := 0
		s, interval, stop := behaving(t, h, keyOf(2), &n)
		defer stop()
		rate := 2000.0
		for i := range 70 {
			interval(uint64(rate) + uint64(i%7))
		}
		if h.ledger.count("drift") != 0 {
			t.Fatal("steady traffic drifts")
		}
		for range 200 {
			rate *= 1.005
			interval(uint64(rate))
		}
		if h.ledger.count("drift") < 2 || h.ledger.count("behaviour") != 0 || s.Err() != nil {
			t.Errorf("%d events of drift, %d of behaviour, %v", h.ledger.count("drift"), h.ledger.count("behaviour"), s.Err())
		}
	})
}

// TestPersonsAreReauthenticated: who has no key is not challenged; to log in again is what gives a level back.
func TestPersonsAreReauthenticated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := live(t, withPolicy(anything(policy.Conditions{})))
		ctx, cancel := context.WithCancel(context.Background())
		t.Cleanup(cancel)
		s, _, err := h.Begin(ctx, zerotrust.Request{Principal: "person-17", Kind: "person", Action: "connect", Resource: "topic/chat"}, channel)
		must(t, err)
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx, nil) }()
		time.Sleep(11 * time.Minute)
		synctest.Wait()
		if s.Err() != nil {
			t.Fatal(s.Err())
		}
		must(t, s.Reauthenticated(ctx))
		if trustOf(h, s) != 55 {
			t.Errorf("trust %d", trustOf(h, s))
		}
		must(t, h.Revoke(revoke(t, h.issuer, 1, zerotrust.Revocation{Principal: "person-17", At: epoch})))
		if err := <-done; err == nil || !strings.Contains(err.Error(), "revoked") {
			t.Errorf("%v", err)
		}
		cancel()
		if s, d, _ := h.Begin(context.Background(), zerotrust.Request{Principal: "person-17", Kind: "person", Action: "connect", Resource: "topic/chat"}, channel); s != nil || d.Allow {
			t.Error("a revoked person comes back")
		}
	})
}
