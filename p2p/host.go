package p2p

import (
	"context"
	"slices"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
)

// guardedHost is libp2p's host, of which who connects has been let in by both ends, and streams are opened to nobody else. What comes in needs
// nothing here: [Node.incoming] is below all hosts.
type guardedHost struct {
	host.Host
	n *Node
}

// Connect is nil when the peer is let in.
func (h *guardedHost) Connect(ctx context.Context, p peer.AddrInfo) error {
	if h.n.guards.get(p.ID) != nil {
		return nil
	}
	if err := h.Host.Connect(limited(ctx), p); err != nil {
		return err
	}
	return h.n.await(ctx, p.ID)
}

// NewStream opens a stream to a peer that is let in; it waits for the verdict.
func (h *guardedHost) NewStream(ctx context.Context, p peer.ID, names ...protocol.ID) (network.Stream, error) {
	if h.n.guards.get(p) == nil {
		if noDial, _ := network.GetNoDial(ctx); !noDial {
			if err := h.Host.Connect(limited(ctx), peer.AddrInfo{ID: p}); err != nil {
				return nil, err
			}
		}
		wait, cancel := context.WithTimeout(ctx, h.n.opt.JudgeTime)
		defer cancel()
		if err := h.n.await(wait, p); err != nil {
			return nil, err
		}
	}
	return h.Host.NewStream(limited(ctx), p, names...)
}

// IDService is libp2p's, for those who ask a host for it.
func (h *guardedHost) IDService() identify.IDService {
	if i, ok := h.n.inner.(interface{ IDService() identify.IDService }); ok {
		return i.IDService()
	}
	return nil
}

// Unguarded are the protocols of a host that are answered to peers that were not let in: for tests, that it is these and no more.
func (n *Node) Unguarded() (open []protocol.ID) {
	for _, name := range n.inner.Mux().Protocols() {
		if slices.Contains(Open, name) {
			open = append(open, name)
		}
	}
	return open
}
