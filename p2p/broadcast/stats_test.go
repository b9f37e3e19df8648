package broadcast

import (
	"maps"
	"testing"
)

// TestStats: what was said is counted for its topic, for who brought it and for all, at both ends alike; what was refused for its topic, by reason.
func TestStats(t *testing.T) {
	t.Parallel()
	a, b := start(t, 110), start(t, 111)
	connect(t, a.host, b.host)
	mine, theirs := a.subscribe(t, "news"), b.subscribe(t, "news")
	b.subscribe(t, "quiet")
	a.hears(t, "news", b)
	b.hears(t, "news", a)
	const many = 150 // more than an envelope has
	for range many {
		a.publish(t, "news", "x")
	}
	for range many {
		next(t, mine)
		next(t, theirs)
	}
	if err := a.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	heard := func(s Stats) TopicStats {
		t.Helper()
		if len(s.Topics) == 0 || s.Topics[0].Topic != "news" {
			t.Fatalf("the topics are %+v", s.Topics)
		}
		return s.Topics[0]
	}
	eventually(t, "what was written is counted", func() bool { return a.Stats().Peers[b.host.ID()].Out == many })
	from, to := a.Stats(), b.Stats()
	if from.Out != many || from.In != 0 || to.In != many || to.Out != 0 {
		t.Errorf("in all: %d out and %d in at who sends, %d and %d at who hears", from.Out, from.In, to.Out, to.In)
	}
	if s := heard(from); s.Out != many || s.In != 0 || s.Listeners != 1 || !s.Heard || s.Waiting != 0 {
		t.Errorf("the topic at who sends: %+v", s)
	}
	if s := heard(to); s.In != many || s.Out != 0 || s.Mesh != 1 || len(s.Refused) != 0 {
		t.Errorf("the topic at who hears: %+v", s)
	}
	if s := to.Topics[1]; s.Topic != "quiet" || s.In != 0 || s.Listeners != 0 {
		t.Errorf("the other topic: %+v", s)
	}
	if p := to.Peers[a.host.ID()]; p.In != many || p.Out != 0 || p.Topics != 1 || p.Score != 0 {
		t.Errorf("the neighbour: %+v", p)
	}

	b.rights.deny(a.host.ID().String()+" send *", true)
	a.publish(t, "news", "unheard")
	b.refuses(t, refusedPeer, 1)
	if s := heard(b.Stats()); s.In != many || !maps.Equal(s.Refused, map[string]uint64{"peer_rights": 1}) {
		t.Errorf("after a refusal: %+v", s)
	}
}
