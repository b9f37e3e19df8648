package main

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/quantra-l/quantra/internal/jsonapi"
	"github.com/quantra-l/quantra/p2p/nodeapi"
	"github.com/quantra-l/quantra/zerotrust"
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
	p := nodeParts{dir: g.dir, opt: opt, config: c, guard: d.guard, issuer: issuer, log: g.log}
	if !g.noSelfProfile {
		g.spans = nodeSpans()
		p.tracer = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(g.spans))
	}
	return openNode(ctx, p)
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

// api answers the dashboard's questions about the node, also where there is none.
func (n *runningNode) api(guard *zerotrust.Guard, audit *auditLog, watched bool, log *slog.Logger) *nodeapi.API {
	o := nodeapi.Options{Guard: guard, Events: audit.recent, Watched: watched, Usage: processUsage(), Version: readBuild().Version, Log: log}
	if n != nil {
		o.Node, o.Direct, o.Broadcast = n.core, n.direct, n.broadcast
	}
	return nodeapi.New(o)
}

// processUsage is this process's processor time and resident memory, as Prometheus's collector reads them on each system.
func processUsage() func() (cpu time.Duration, memory int64) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return func() (cpu time.Duration, memory int64) {
		families, _ := registry.Gather() // of an error, what could be read is there all the same
		for _, f := range families {
			for _, m := range f.GetMetric() {
				switch f.GetName() {
				case "process_cpu_seconds_total":
					cpu = time.Duration(m.GetCounter().GetValue() * float64(time.Second))
				case "process_resident_memory_bytes":
					memory = int64(m.GetGauge().GetValue())
				}
			}
		}
		return cpu, memory
	}
}
