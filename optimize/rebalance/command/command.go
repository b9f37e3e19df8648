// Package command moves peers by the commands of whoever holds them, as room optimize/commands runs them.
package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/commands"
	"github.com/quantra-l/quantra/optimize/rebalance"
)

// maxPeers bounds what commands print of one node, maxNodes how many of them they name.
const (
	maxPeers = 1_000_000
	maxNodes = 10_000
)

// Options are the commands. In arguments {{.Service}} is the service, {{.ID}} names a move, {{.From}} and {{.To}} are nodes and
// {{.Peers}} is how many peers go.
type Options struct {
	// Nodes prints the nodes of {{.Service}}, as {"nodes": [Node...]}.
	Nodes []string
	// Check proves that {{.Peers}} could be moved {{.From}} a node {{.To}} another, and taken back, and moves nothing.
	Check []string
	// Move moves them under {{.ID}}: gracefully, and once, however often it is run. It does not wait until they have gone.
	Move []string
	// Back takes the move {{.ID}} back: those of its peers that are still where it took them. That there is none is no error.
	Back []string
	// Moved prints how the move {{.ID}} stands, as {"made": true, "peers": 12}: whether there is one that was not taken back, and how many
	// of its peers are where it took them.
	Moved []string
	// Env is the whole environment of the commands, as KEY=VALUE; Dir is where they run.
	Env []string
	Dir string
	// Timeout is how long one of them may take; 0 is 30 s.
	Timeout time.Duration
}

// Node is one that Nodes prints.
type Node struct {
	ID    string `json:"id"` // the instance, as in its profiles
	Zone  string `json:"zone"`
	Peers int    `json:"peers"` // that are connected
	// InFlight and Latency are requests at a time and seconds that one takes (the median), of the last minute; missing is not known here.
	InFlight *float64 `json:"in_flight"`
	Latency  *float64 `json:"latency"`
	// Since is when peers were last moved to or from it, or when it came.
	Since time.Time `json:"since"`
	// Fixed says that nothing may be moved to it or from it.
	Fixed bool `json:"fixed"`
}

// Commands hold the peers of services. It implements [rebalance.Mover].
type Commands struct {
	run                            commands.Runner
	nodes, check, move, back, made commands.Line
}

var _ rebalance.Mover = (*Commands)(nil)

// argument is what is put into templates.
type argument struct {
	Service, ID, From, To string
	Peers                 int
}

// New checks the commands. All of them must be there: what cannot be taken back is not moved.
func New(o Options) (*Commands, error) {
	if o.Timeout < 0 {
		return nil, fmt.Errorf("rebalance/command: timeout %v: it must be above 0", o.Timeout)
	}
	c := &Commands{run: commands.Runner{Env: o.Env, Dir: o.Dir, Timeout: o.Timeout}}
	a := argument{Service: "s", ID: "i", From: "a", To: "b", Peers: 1}
	for _, t := range []struct {
		name string
		argv []string
		to   *commands.Line
		has  string // what it must use
		b    argument
	}{
		{"nodes", o.Nodes, &c.nodes, "", a},
		{"check", o.Check, &c.check, "Peers", argument{Service: "s", ID: "i", From: "a", To: "b", Peers: 2}},
		{"move", o.Move, &c.move, "ID", argument{Service: "s", ID: "j", From: "a", To: "b", Peers: 1}},
		{"back", o.Back, &c.back, "ID", argument{Service: "s", ID: "j", From: "a", To: "b", Peers: 1}},
		{"moved", o.Moved, &c.made, "ID", argument{Service: "s", ID: "j", From: "a", To: "b", Peers: 1}},
	} {
		line, err := commands.Parse(t.argv, a, t.b, t.has)
		if err == nil && len(line) == 0 {
			err = errors.New("it must be there")
		}
		if err != nil {
			return nil, fmt.Errorf("rebalance/command: %s: %v", t.name, err)
		}
		*t.to = line
	}
	return c, nil
}

// call runs a command of a service's.
func (c *Commands) call(ctx context.Context, what string, l commands.Line, arg argument) ([]byte, error) {
	for _, s := range []string{arg.Service, arg.ID, arg.From, arg.To} {
		if s != "" && !commands.Name.MatchString(s) {
			return nil, fmt.Errorf("rebalance/command: %s: %w: %.100q: letters, digits and ._:/@- only, and no - first", what, optimize.ErrRefused, s)
		}
	}
	out, err := c.run.Run(ctx, l, arg)
	if err != nil {
		return nil, fmt.Errorf("rebalance/command: %s: %s: %w", arg.Service, what, err)
	}
	return out, nil
}

// Nodes implements [rebalance.Mover]. What is not known of a node is NaN.
func (c *Commands) Nodes(ctx context.Context, service string) ([]rebalance.Node, error) {
	out, err := c.call(ctx, "nodes", c.nodes, argument{Service: service})
	if err != nil {
		return nil, err
	}
	nodes, err := decode(out)
	if err != nil {
		return nil, fmt.Errorf("rebalance/command: %s: what nodes printed: %w", service, err)
	}
	return nodes, nil
}

// decode reads what nodes printed.
func decode(out []byte) ([]rebalance.Node, error) {
	var a struct {
		Nodes []Node `json:"nodes"`
	}
	if err := json.Unmarshal(out, &a); err != nil {
		return nil, err
	}
	if len(a.Nodes) > maxNodes {
		return nil, fmt.Errorf("%d nodes: at most %d", len(a.Nodes), maxNodes)
	}
	seen := map[string]bool{}
	var nodes []rebalance.Node
	for _, n := range a.Nodes {
		switch {
		case !commands.Name.MatchString(n.ID) || seen[n.ID]:
			return nil, fmt.Errorf("node %.100q: each has an id of its own, of letters, digits and ._:/@-, and no - first", n.ID)
		case n.Peers < 0 || n.Peers > maxPeers:
			return nil, fmt.Errorf("node %s: %d peers: it must be 0 to %d", n.ID, n.Peers, maxPeers)
		}
		seen[n.ID] = true
		r := rebalance.Node{ID: n.ID, Zone: n.Zone, Peers: n.Peers, RIF: math.NaN(), Latency: math.NaN(), Since: n.Since, Fixed: n.Fixed}
		for _, of := range []struct {
			from *float64
			to   *float64
			what string
		}{{n.InFlight, &r.RIF, "in_flight"}, {n.Latency, &r.Latency, "latency"}} {
			if of.from == nil {
				continue
			}
			if *of.from < 0 || *of.from > 1e9 {
				return nil, fmt.Errorf("node %s: %s %v: it must be 0 to 1e9", n.ID, of.what, *of.from)
			}
			*of.to = *of.from
		}
		nodes = append(nodes, r)
	}
	return nodes, nil
}

// Check implements [rebalance.Mover].
func (c *Commands) Check(ctx context.Context, service string, m rebalance.Move) error {
	_, err := c.call(ctx, "check", c.check, argument{Service: service, From: m.From, To: m.To, Peers: m.Peers})
	return err
}

// Move implements [rebalance.Mover].
func (c *Commands) Move(ctx context.Context, service, id string, m rebalance.Move) error {
	_, err := c.call(ctx, "move", c.move, argument{Service: service, ID: id, From: m.From, To: m.To, Peers: m.Peers})
	return err
}

// Back implements [rebalance.Mover].
func (c *Commands) Back(ctx context.Context, service, id string, _ rebalance.Move) error {
	_, err := c.call(ctx, "back", c.back, argument{Service: service, ID: id})
	return err
}

// Moved implements [rebalance.Mover].
func (c *Commands) Moved(ctx context.Context, service, id string, _ rebalance.Move) (peers int, made bool, err error) {
	out, err := c.call(ctx, "moved", c.made, argument{Service: service, ID: id})
	if err != nil {
		return 0, false, err
	}
	var a struct {
		Made  *bool `json:"made"`
		Peers int   `json:"peers"`
	}
	if err := json.Unmarshal(out, &a); err != nil || a.Made == nil || a.Peers < 0 || a.Peers > maxPeers {
		return 0, false, fmt.Errorf("rebalance/command: %s: what moved printed of %s: %.100q: it must be as {\"made\": true, \"peers\": 12}", service, id, out)
	}
	return a.Peers, *a.Made, nil
}
