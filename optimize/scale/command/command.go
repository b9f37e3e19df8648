// Package command scales by the commands of whoever runs the place, as room optimize/commands runs them. It is the way for all that has no
// room of its own.
package command

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/commands"
	"github.com/quantra-l/quantra/optimize/scale"
)

const (
	maxNodes    = 10000
	maxReplicas = 1000000
)

// Options are the commands. In arguments {{.Group}} is the group, {{.Replicas}} how many are asked for, {{.From}} how many
// there are, and {{.Node}} a node.
type Options struct {
	// Get prints how many replicas are asked for: the number alone, or a JSON object as [Answer] is.
	Get []string
	// Set asks for {{.Replicas}}. It must do nothing where there are as many already, and must end replicas gracefully.
	Set []string
	// Check proves that Set would be taken, and changes nothing. Without it a dry run is a Get, and a Set of what is set already.
	Check []string
	// Drain takes load from {{.Node}} before a Set ends it, and returns 0 once nothing is in flight there. Doing it twice must be no error.
	// It needs a Get that prints nodes. Undrain takes that back, and must be there if Drain is.
	Drain, Undrain []string
	// Env is the whole environment of the commands, as KEY=VALUE; Dir is where they run.
	Env []string
	Dir string
	// Timeout is how long one of them may take; 0 is 30 s.
	Timeout time.Duration
}

// Answer is what Get may print.
type Answer struct {
	ID       string `json:"id"`       // changes if the group is made anew
	Replicas int    `json:"replicas"` // asked for
	Ready    *int   `json:"ready"`    // bear load; as many as Replicas if it is not there
	Current  *int   `json:"current"`  // there are; as many as Replicas if it is not there
	Owner    string `json:"owner"`    // who else decides; nobody if it is not there
	Zone     string `json:"zone"`
	// Nodes are those that take load or could, in the order in which Set would end them: the first goes first.
	Nodes []string `json:"nodes"`
	// Drained are those of Nodes that Drain took load from.
	Drained []string `json:"drained"`
}

// Commands are a place of replicas. It implements [scale.Replicas].
type Commands struct {
	run                            commands.Runner
	get, set, check, drain, undone commands.Line
	acting                         sync.Mutex // one Set at a time
}

var _ scale.Replicas = (*Commands)(nil)

// argument is what is put into templates.
type argument struct {
	Group, Node    string
	Replicas, From int
}

// New checks the commands.
func New(o Options) (*Commands, error) {
	if o.Timeout < 0 {
		return nil, fmt.Errorf("scale/command: timeout %v: it must be above 0", o.Timeout)
	}
	c := &Commands{run: commands.Runner{Env: o.Env, Dir: o.Dir, Timeout: cmp.Or(o.Timeout, 30*time.Second)}}
	for _, t := range []struct {
		name string
		argv []string
		to   *commands.Line
		must bool
		has  string // what the output must depend on
	}{
		{"get", o.Get, &c.get, true, ""},
		{"set", o.Set, &c.set, true, "Replicas"},
		{"check", o.Check, &c.check, false, "Replicas"},
		{"drain", o.Drain, &c.drain, false, "Node"},
		{"undrain", o.Undrain, &c.undone, len(o.Drain) > 0, "Node"},
	} {
		line, err := commands.Parse(t.argv, argument{Group: "g", Node: "n", Replicas: 2, From: 1}, argument{Group: "g", Node: "m", Replicas: 3, From: 1}, t.has)
		if err == nil && t.must && len(line) == 0 {
			err = errors.New("it must be there")
		}
		if err != nil {
			return nil, fmt.Errorf("scale/command: %s: %v", t.name, err)
		}
		*t.to = line
	}
	return c, nil
}

// Get implements [scale.Replicas].
func (c *Commands) Get(ctx context.Context, group string) (scale.State, error) {
	a, err := c.answer(ctx, group)
	if err != nil {
		return scale.State{}, err
	}
	return scale.State{ID: a.ID, Replicas: a.Replicas, Ready: *a.Ready, Current: *a.Current, Owner: a.Owner, Drained: len(a.Drained) > 0, Zone: a.Zone}, nil
}

// Set implements [scale.Replicas]. Nodes are drained one after the other; if one cannot be, or the set fails, those that were get
// their load back.
func (c *Commands) Set(ctx context.Context, group string, was scale.State, n int, dry bool) error {
	if n < 0 || n > maxReplicas {
		return fmt.Errorf("scale/command: %s: %w: %d replicas: it must be 0 to %d", group, optimize.ErrRefused, n, maxReplicas)
	}
	c.acting.Lock()
	defer c.acting.Unlock()
	now, err := c.same(ctx, group, was)
	if err != nil {
		return err
	}
	arg := argument{Group: group, Replicas: n, From: now.Replicas}
	if dry {
		return c.dry(ctx, arg, now)
	}
	if n == now.Replicas {
		return c.each(ctx, "undrain", c.undone, arg, now.Drained)
	}
	if n > now.Replicas || len(c.drain) == 0 {
		if err := c.each(ctx, "undrain", c.undone, arg, now.Drained); err != nil {
			return err
		}
		return c.act(ctx, arg)
	}
	ending, err := now.ending(group, n)
	if err != nil {
		return err
	}
	err = c.each(ctx, "drain", c.drain, arg, ending)
	if err == nil {
		// Draining takes its time: somebody may have changed it meanwhile.
		if _, err = c.same(ctx, group, was); err == nil {
			err = c.act(ctx, arg)
		}
	}
	if err == nil {
		return nil
	}
	// The caller's time may be over; giving load back is worth more.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.run.Timeout)
	defer cancel()
	back, gerr := c.answer(ctx, group)
	if gerr == nil && back.Replicas == now.Replicas { // else the set was made after all, and those nodes end
		gerr = c.each(ctx, "undrain", c.undone, arg, back.Drained)
	}
	return errors.Join(err, gerr)
}

// act sets, and reads back what was set.
func (c *Commands) act(ctx context.Context, arg argument) error {
	if _, err := c.call(ctx, "set", c.set, arg); err != nil {
		return err
	}
	a, err := c.answer(ctx, arg.Group)
	if err != nil {
		return err
	}
	if a.Replicas != arg.Replicas {
		return fmt.Errorf("scale/command: %s: set of %d was no error, but get says %d", arg.Group, arg.Replicas, a.Replicas)
	}
	return nil
}

// dry proves as much as there is a command for.
func (c *Commands) dry(ctx context.Context, arg argument, now Answer) error {
	if len(c.drain) > 0 && arg.Replicas < now.Replicas {
		if _, err := now.ending(arg.Group, arg.Replicas); err != nil {
			return err
		}
	}
	if len(c.check) > 0 {
		_, err := c.call(ctx, "check", c.check, arg)
		return err
	}
	if arg.Replicas != now.Replicas {
		return nil
	}
	return c.act(ctx, arg)
}

// ending are the nodes that a set of n ends.
func (a *Answer) ending(group string, n int) ([]string, error) {
	k := a.Replicas - n
	if len(a.Nodes) < a.Replicas {
		return nil, fmt.Errorf("scale/command: %s: %w: get names %d nodes of %d: to drain them it must name all, those first that a set ends first", group,
			optimize.ErrRefused, len(a.Nodes), a.Replicas)
	}
	return a.Nodes[:k], nil
}

// same is what there is, which must be what was.
func (c *Commands) same(ctx context.Context, group string, was scale.State) (Answer, error) {
	a, err := c.answer(ctx, group)
	if err == nil && (a.ID != was.ID || a.Replicas != was.Replicas) {
		err = fmt.Errorf("scale/command: %s: %w: it had %d replicas, and somebody set it to %d", group, optimize.ErrRefused, was.Replicas, a.Replicas)
	}
	return a, err
}

func (c *Commands) each(ctx context.Context, what string, argv commands.Line, arg argument, nodes []string) error {
	for _, n := range nodes {
		arg.Node = n
		if _, err := c.call(ctx, what, argv, arg); err != nil {
			return err
		}
	}
	return nil
}

func (c *Commands) answer(ctx context.Context, group string) (a Answer, err error) {
	out, err := c.call(ctx, "get", c.get, argument{Group: group})
	if err != nil {
		return a, err
	}
	if a, err = decode(out); err != nil {
		return a, fmt.Errorf("scale/command: %s: what get printed: %w", group, err)
	}
	return a, nil
}

// decode reads what get printed.
func decode(out []byte) (a Answer, err error) {
	out = bytes.TrimSpace(out)
	if len(out) > 0 && out[0] == '{' {
		a.Replicas = -1
		if err := json.Unmarshal(out, &a); err != nil {
			return a, err
		}
	} else if a.Replicas, err = strconv.Atoi(string(out)); err != nil {
		return a, fmt.Errorf("%.100q is neither a number nor a JSON object", out)
	}
	if a.Ready == nil {
		a.Ready = &a.Replicas
	}
	if a.Current == nil {
		a.Current = &a.Replicas
	}
	for _, v := range []int{a.Replicas, *a.Ready, *a.Current} {
		if v < 0 || v > maxReplicas {
			return a, fmt.Errorf("replicas %d, ready %d, current %d: each must be 0 to %d", a.Replicas, *a.Ready, *a.Current, maxReplicas)
		}
	}
	if len(a.Nodes) > maxNodes || len(a.Drained) > maxNodes {
		return a, fmt.Errorf("%d nodes: at most %d", max(len(a.Nodes), len(a.Drained)), maxNodes)
	}
	for _, n := range append(a.Nodes[:len(a.Nodes):len(a.Nodes)], a.Drained...) {
		if !commands.Name.MatchString(n) {
			return a, fmt.Errorf("node %.100q: letters, digits and ._:/@- only, and no - first", n)
		}
	}
	return a, nil
}

// call runs one command, and gives what it printed.
func (c *Commands) call(ctx context.Context, what string, line commands.Line, arg argument) ([]byte, error) {
	if arg.Node != "" {
		what += " of " + arg.Node
	}
	if !commands.Name.MatchString(arg.Group) {
		return nil, fmt.Errorf("scale/command: %s: %s: %w: a group's name has letters, digits and ._:/@- only, and no - first", arg.Group, what, optimize.ErrRefused)
	}
	out, err := c.run.Run(ctx, line, arg)
	if err != nil {
		return nil, fmt.Errorf("scale/command: %s: %s: %w", arg.Group, what, err)
	}
	return out, nil
}
