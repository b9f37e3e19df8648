package main

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/internal/jsonapi"
)

// nodePath is where the server answers what its node is doing.
const nodePath = "/api/node"

// upNodeOptions are those of a node that is part of a server.
type upNodeOptions struct {
	on     bool
	config string
	topics []string
}

func (o *upNodeOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&o.on, "node", false, "be a node as well, of peers that the guard lets in: docs/node.md")
	f.StringVar(&o.config, "node-config", "", "`file` of the node's settings (implies --node)")
	f.StringSliceVar(&o.topics, "node-topic", nil, "`topics` that the node hears from the start (implies --node)")
}

// openNode starts the server's node, with the server's guard; nil where it has none. It is to be closed before the guard.
func (g *given) openNode(ctx context.Context, d *door) (*runningNode, error) {
	o := g.node
	if !o.on && o.config == "" && len(o.topics) == 0 {
		return nil, nil
	}
	opt := nodeOptions{config: o.config, topics: o.topics, history: defaultHistory}
	c, err := opt.settings(func(string) bool { return false })
	if err != nil {
		return nil, err
	}
	issuer, _, err := openIssuer(g.dir)
	if err != nil {
		return nil, err
	}
	return openNode(ctx, nodeParts{dir: g.dir, opt: opt, config: c, guard: d.guard, issuer: issuer, log: g.log})
}

// page answers what the node is doing, also where there is none.
func (n *runningNode) page(log *slog.Logger) http.Handler {
	door := &jsonapi.Door{Tenant: func(*http.Request) (string, error) { return "", nil }, Fault: nodeFault, Logger: log}
	mux := http.NewServeMux()
	door.Handle(mux, "GET "+nodePath, nil, func(*http.Request, string) (any, error) {
		if n == nil {
			return map[string]bool{"running": false}, nil
		}
		return n.status(), nil
	})
	door.Else(mux)
	return mux
}
