package broadcast

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"google.golang.org/protobuf/proto"
)

// TestMany: of twenty nodes two are malicious. They are known to a half of the others each, take part in gossip as good ones do, and send
// what is forged in the others' names, what they have heard before, and what promises what they do not have. Every message of the others
// comes to all of them, once; nothing of the forged to any; and who has sent it is taken nothing from any more.
func TestMany(t *testing.T) {
	const (
		honest, malicious = 18, 2
		each              = 20 // messages of each
		degree            = 3  // connections that each makes
	)
	rng := rand.New(rand.NewPCG(3, 4))
	nodes := make([]*node, honest)
	subs := make([]*Subscription, honest)
	for i := range nodes {
		nodes[i] = start(t, 1000+i)
		subs[i] = nodes[i].subscribe(t, "news", SubscribeOptions{Queue: 1 << 14})
	}
	for i, x := range nodes {
		connect(t, x.host, nodes[(i+1)%honest].host) // a ring, so that they hang together
		for range degree - 1 {
			if y := nodes[rng.IntN(honest)]; y != x {
				connect(t, x.host, y.host)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var liars sync.WaitGroup
	var victims []*node
	for m := range malicious {
		for i := m; i < honest; i += malicious {
			a := attack(t, 2000+m*honest+i, nodes[i], false) // a key for each: sybils, as it were
			a.subscribe("news")
			victims = append(victims, nodes[i])
			liars.Go(func() { a.lie(ctx, nodes) })
		}
	}
	for i, x := range nodes {
		x.hears(t, "news", nodes[(i+1)%honest])
		eventually(t, "it has a mesh", func() bool {
			topic := (*x.topics.Load())["news"]
			topic.hearMu.Lock()
			defer topic.hearMu.Unlock()
			return len(topic.mesh) >= 2
		})
	}
	sent := map[ID]bool{}
	for range each {
		for i, x := range nodes {
			sent[x.publish(t, "news", fmt.Sprintf("of %d", i))] = true
		}
	}
	for i, sub := range subs {
		heard := map[ID]bool{}
		for len(heard) < len(sent) {
			m := next(t, sub)
			if !sent[m.ID] || heard[m.ID] {
				t.Fatalf("node %d heard %v %q, which nobody has sent, or a second time", i, m.ID, m.Payload)
			}
			heard[m.ID] = true
		}
	}
	cancel()
	liars.Wait()
	for _, x := range victims {
		if x.refusals(refusedSignature) < 2 || x.refusals(refusedGray) == 0 {
			t.Errorf("of a liar %d false signatures were refused, and %d envelopes after that", x.refusals(refusedSignature), x.refusals(refusedGray))
		}
	}
}

// lie sends what an honest node does not, some hundred envelopes a second, until the context ends.
func (a *attacker) lie(ctx context.Context, nodes []*node) {
	rng := rand.New(rand.NewPCG(uint64(a.key.Public()[0]), 5))
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	topic := "news"
	for n := uint64(1); ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		victim := nodes[rng.IntN(len(nodes))]
		b := newBundle(victim.key, victim.sequence.epoch, 1+n, topic, 0) // the numbers that its next envelopes have
		b.add([]byte("a lie"))
		forged, err := b.sign(a.key, time.Now())
		if err != nil {
			panic(err)
		}
		rpc := &pb.RPC{Publish: []*pb.Message{{Topic: &topic, Data: forged}}, Control: &pb.ControlMessage{
			Ihave: []*pb.ControlIHave{{TopicID: &topic, MessageIDs: []string{fmt.Sprintf("%048d", rng.Uint64())}}},
			Graft: []*pb.ControlGraft{{TopicID: proto.String(topic)}},
		}}
		a.mu.Lock()
		if len(a.heard) > 0 {
			rpc.Publish = append(rpc.Publish, a.heard[rng.IntN(len(a.heard))])
		}
		a.mu.Unlock()
		if a.say(rpc) != nil {
			return // it was put out
		}
	}
}
