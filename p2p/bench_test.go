package p2p

import (
	"context"
	"log/slog"
	"testing"

	"github.com/quantra-l/quantra/zerotrust"
)

// BenchmarkConnect is a connection, both ends of which are here: dialed, judged at both ends, closed. Eight nodes come to one at the same time.
func BenchmarkConnect(b *testing.B) {
	quiet := func(o *Options) {
		o.Listen, o.Log, o.JudgeTime = []string{"/ip4/127.0.0.1/tcp/0"}, slog.New(slog.DiscardHandler), patience
		o.Admission, o.Limits.ConnectionsAddress = zerotrust.AdmissionOptions{PerAddress: 1 << 20, Total: 1 << 20}, 1<<20
	}
	server := newNode(b, quiet)
	const users = 8
	free := make(chan *Node, users)
	for range users {
		free <- newNode(b, quiet)
	}
	to := info(server)
	b.SetParallelism(users)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n := <-free
			if err := n.Connect(context.Background(), to); err != nil {
				b.Error(err)
			}
			if err := n.Disconnect(server.ID()); err != nil {
				b.Error(err)
			}
			free <- n
		}
	})
}
