package chaostest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/p2p/broadcast"
	"github.com/quantra-l/quantra/p2p/direct"
	"github.com/quantra-l/quantra/seal"
)

var (
	seedFlag   = flag.Uint64("chaos.seed", 1, "seed of the first round")
	roundsFlag = flag.Int("chaos.rounds", 0, "rounds, each with the next seed; 0 is as many as a default run has")
	stepsFlag  = flag.Int("chaos.steps", 40, "what is done in a round")
)

const (
	topic   = "chaos"
	padding = "." // behind some messages, so that what must be bounded fills up
	// What a member keeps, small enough for a round to reach it.
	outboxBytes, historyBytes = 1 << 20, 4 << 20
)

// life is a node's from one start to the next crash: the disk of a life that has ended takes nothing more.
type life struct {
	dead      atomic.Bool
	fuse      atomic.Int64 // operations on the disk until the power goes; 0 is that it does not
	registry  *prometheus.Registry
	direct    *direct.Service
	broadcast *broadcast.Service
	sub       *broadcast.Subscription
	reading   sync.WaitGroup
}

// member is a node, of which everything but its key and its disk may be lost.
type member struct {
	name string
	key  seal.Key
	host host.Host
	mem  *vfs.Mem
	full atomic.Bool
	skew atomic.Int64 // of its clock, in nanoseconds
	hold atomic.Pointer[chan struct{}]
	life *life
}

var errPower = errors.New("no power")

func (m *member) now() time.Time { return time.Now().Add(time.Duration(m.skew.Load())) }

// disk is the member's in one life.
func (m *member) disk(l *life) vfs.FS {
	full := vfs.FullDisk(&m.full)
	return vfs.Hook(m.mem, func(op vfs.Op) error {
		if l.fuse.Load() > 0 && l.fuse.Add(-1) == 0 {
			l.dead.Store(true)
		}
		if l.dead.Load() {
			return errPower
		}
		return full(op)
	})
}

func newLife() *life { return &life{registry: prometheus.NewRegistry()} }

func allowAll(peer.ID, string, string) error { return nil }

// begin starts the member's services, as far as its disk lets it.
func (m *member) begin(l *life, b *Books, allow func(p peer.ID, action, resource string) error) error {
	quiet := slog.New(slog.DiscardHandler)
	var err error
	l.broadcast, err = broadcast.New(context.Background(), m.host, broadcast.Options{Key: m.key, Allow: allow, Dir: "/broadcast", FS: m.disk(l), Now: m.now, Log: quiet, Authors: 256, Metrics: l.registry})
	if err != nil {
		return err
	}
	if l.sub, err = l.broadcast.SubscribeWith(topic, broadcast.SubscribeOptions{Wait: time.Minute}); err != nil {
		return errors.Join(err, l.broadcast.Close())
	}
	l.reading.Go(func() {
		for {
			got, err := l.sub.Next(context.Background())
			if err != nil {
				return
			}
			if l.dead.Load() {
				continue // a reader in a process that has died
			}
			b.Hear(m.name, string(got.Payload), got.ID.From.String())
		}
	})
	deliver := func(ctx context.Context, got direct.Message) error {
		if hold := m.hold.Load(); hold != nil {
			select {
			case <-*hold:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if l.dead.Load() {
			return errPower
		}
		b.Show(m.name, strings.TrimRight(string(got.Body), padding), got.Index)
		return nil
	}
	l.direct, err = direct.New(m.host, direct.Options{Key: m.key, Allow: allow, Dir: "/direct", FS: m.disk(l), Now: m.now, Log: quiet, Deliver: deliver, RetryMax: 20 * time.Second,
		OutboxBytes: outboxBytes, InboxBytes: outboxBytes, HistoryBytes: historyBytes, Registry: l.registry})
	if err != nil {
		l.sub.Close()
		return errors.Join(err, l.broadcast.Close())
	}
	m.life = l
	return nil
}

// holdBack has the member's reader take nothing more, or go on.
func (m *member) holdBack(hold bool) {
	old := m.hold.Load()
	if hold && old == nil {
		c := make(chan struct{})
		m.hold.Store(&c)
	} else if !hold && old != nil {
		m.hold.Store(nil)
		close(*old)
	}
}

// end ends a life: in order, or by a loss of power, of which the disk is what synced bytes and chance leave.
func (m *member) end(crash *rand.Rand) error {
	l := m.life
	m.life = nil
	if l == nil {
		return nil
	}
	l.dead.Store(crash != nil)
	err := errors.Join(l.direct.Close(), l.broadcast.Close())
	l.reading.Wait()
	if crash != nil {
		m.mem, err = m.mem.Crash(crash), nil
	}
	return err
}

// refused are the reasons for which broadcasts were refused, and how many: for whoever asks why.
func (l *life) refused(t *testing.T) (out []string) {
	all, err := l.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if !strings.Contains(f.GetName(), "broadcast") {
			continue
		}
		for _, m := range f.Metric {
			if n := m.GetCounter().GetValue(); n > 0 && len(m.Label) > 0 {
				out = append(out, fmt.Sprintf("%s: %.0f", m.Label[0].GetValue(), n))
			}
		}
	}
	return out
}

// gauge is a metric of the member's.
func (l *life) gauge(t *testing.T, name string) float64 {
	all, err := l.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == name {
			return f.Metric[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}
