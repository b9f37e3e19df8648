package chaostest

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"google.golang.org/protobuf/proto"

	"github.com/quantra-l/quantra/p2p/direct"
	"github.com/quantra-l/quantra/seal"
)

// eve is a peer with all rights and no manners: she says again what she has heard, changes it, and floods.
type eve struct {
	host host.Host
	key  seal.Key
	sent int

	mu    sync.Mutex
	heard []*pb.Message
	open  sync.WaitGroup
}

// gossip is what broadcasts go by.
const gossip protocol.ID = "/meshsub/1.2.0"

// keptByEve bounds what she remembers.
const keptByEve = 1000

func newEve(h host.Host, key seal.Key) *eve {
	e := &eve{host: h, key: key}
	h.SetStreamHandler(gossip, e.listen)
	return e
}

func (e *eve) listen(s network.Stream) {
	e.open.Add(1)
	defer e.open.Done()
	defer s.Reset()
	for {
		raw, err := readDelimited(s)
		if err != nil {
			return
		}
		var rpc pb.RPC
		if proto.Unmarshal(raw, &rpc) != nil {
			return
		}
		e.mu.Lock()
		e.heard = append(e.heard, rpc.Publish...)
		e.heard = e.heard[max(0, len(e.heard)-keptByEve):]
		e.mu.Unlock()
	}
}

func readDelimited(r io.Reader) ([]byte, error) {
	n, err := binary.ReadUvarint(oneByte{r})
	if err != nil || n > 4<<20 {
		return nil, errors.Join(err, io.ErrUnexpectedEOF)
	}
	raw := make([]byte, n)
	_, err = io.ReadFull(r, raw)
	return raw, err
}

type oneByte struct{ io.Reader }

func (r oneByte) ReadByte() (byte, error) {
	var b [1]byte
	_, err := io.ReadFull(r, b[:])
	return b[0], err
}

// attack does something bad to a node. What comes of it, errors of a node that has sent her away among it, is not hers to know.
func (e *eve) attack(to peer.ID, r *rand.Rand) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	e.mu.Lock()
	heard := append([]*pb.Message(nil), e.heard...)
	e.mu.Unlock()
	name, rpc := topic, greeting()
	switch r.IntN(4) {
	case 0: // again, several times
		for range 3 {
			rpc.Publish = append(rpc.Publish, heard...)
		}
	case 1: // forged
		for _, m := range heard {
			data := append([]byte(nil), m.GetData()...)
			data[r.IntN(len(data))] ^= 1 << r.IntN(8)
			rpc.Publish = append(rpc.Publish, &pb.Message{Topic: &name, Data: data})
		}
	case 2: // nonsense
		for range 200 {
			data := make([]byte, r.IntN(300))
			for i := range data {
				data[i] = byte(r.Uint32())
			}
			rpc.Publish = append(rpc.Publish, &pb.Message{Topic: &name, Data: data})
		}
	case 3: // private messages that are none
		e.say(ctx, to, direct.ProtocolMessages, make([]byte, 1+r.IntN(4096)))
		e.say(ctx, to, direct.ProtocolFiles, make([]byte, 1+r.IntN(4096)))
	}
	e.sent += len(rpc.Publish)
	e.gossip(ctx, to, rpc)
}

// greeting is that she hears the topic, and wants to be told.
func greeting() *pb.RPC {
	name := topic
	return &pb.RPC{Subscriptions: []*pb.RPC_SubOpts{{Topicid: &name, Subscribe: proto.Bool(true)}}, Control: &pb.ControlMessage{Graft: []*pb.ControlGraft{{TopicID: &name}}}}
}

// greet has a node tell her what it hears.
func (e *eve) greet(to peer.ID) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	e.gossip(ctx, to, greeting())
}

func (e *eve) gossip(ctx context.Context, to peer.ID, rpc *pb.RPC) {
	raw, err := proto.Marshal(rpc)
	if err != nil {
		panic(err)
	}
	e.say(ctx, to, gossip, append(binary.AppendUvarint(nil, uint64(len(raw))), raw...))
}

func (e *eve) say(ctx context.Context, to peer.ID, name protocol.ID, raw []byte) {
	s, err := e.host.NewStream(ctx, to, name)
	if err != nil {
		return
	}
	defer s.Close()
	_, _ = s.Write(raw)
}

func (e *eve) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.heard)
}

func (e *eve) close() {
	for _, c := range e.host.Network().Conns() {
		c.Close()
	}
	e.open.Wait()
}
