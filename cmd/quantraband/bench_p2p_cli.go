package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/quantra-l/quantra/bench/load"
)

// benchPair is two real nodes, of which the first sends.
type benchPair struct {
	self     string
	data     [2]string
	children [2]*benchChild
	to       string // id of the second
}

// startPair starts two nodes that are connected.
func startPair(ctx context.Context, dir string) (p *benchPair, err error) {
	p = &benchPair{}
	defer func() {
		if err != nil {
			p.kill()
		}
	}()
	if p.self, err = os.Executable(); err != nil {
		return p, err
	}
	var bootstrap []string
	for _, i := range []int{1, 0} {
		p.data[i] = filepath.Join(dir, fmt.Sprint(i))
		args := append([]string{p.self, "node", "--data", p.data[i], "--p2p-listen", benchAddr, "--no-mdns", "--no-dht", "--self-signed", "peer",
			"--audit-key", filepath.Join(dir, fmt.Sprintf("audit-%d.key", i)), "--log-level", "error"}, bootstrap...)
		if p.children[i], err = startChild("a node", []string{"QUANTRA_REGION=local"}, nil, args...); err != nil {
			return p, err
		}
		if p.to, err = p.children[i].line(ctx, "id"); err != nil {
			return p, err
		}
		address, err := p.children[i].line(ctx, "reached by")
		if err != nil {
			return p, err
		}
		if _, err := p.children[i].line(ctx, "Ctrl-C"); err != nil {
			return p, err
		}
		if i == 1 {
			bootstrap = []string{"--bootstrap", address}
			defer func(id string) { p.to = id }(p.to)
		}
	}
	return p, nil
}

// send runs the command that sends a message and waits until the other one has it.
func (p *benchPair) send(ctx context.Context, body []byte) error {
	cmd := exec.CommandContext(ctx, p.self, "p2p", "send", "--data", p.data[0], "--to", p.to, "--wait")
	cmd.Stdin = bytes.NewReader(body)
	keepChild(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, oneLine(strings.TrimSpace(string(out))))
	}
	return nil
}

func (p *benchPair) kill() {
	for _, c := range p.children {
		if c != nil {
			c.kill()
		}
	}
}

// accounts are the two nodes' processor time so far, and their most memory.
func (p *benchPair) accounts() (cpu time.Duration, memory, sum int64, err error) {
	for _, c := range p.children {
		t, err := cpuTime(c.pid())
		if err != nil {
			return 0, 0, 0, err
		}
		_, peak, err := memoryOf(c.pid())
		if err != nil {
			return 0, 0, 0, err
		}
		cpu, memory, sum = cpu+t, max(memory, peak), sum+peak
	}
	return cpu, memory, sum, nil
}

// measureCommands is a round in which each message is a command. A message has come when its command has ended, by when the other node has it
// on its disk. Processor time and memory are the nodes', not the commands'.
func (a *app) measureCommands(ctx context.Context, o *p2pBench, s *p2pSystem, dir string) (*p2pMeasure, error) {
	p, err := startPair(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer p.kill()
	live := a.newP2PLive(s.name)
	defer live.end()
	plan := o.plan
	var heard atomic.Uint64
	open := func(_ context.Context, _ load.Plan, tell func(int, []byte)) (*load.System, error) {
		return &load.System{
			Connect: func(ctx context.Context, _ []string) error { return p.send(ctx, []byte("warm")) },
			Send: func(ctx context.Context, user int, body []byte) error {
				if err := p.send(ctx, body); err != nil {
					return err
				}
				tell(plan.Target(user), body)
				live.show(0, load.Progress{Heard: heard.Add(1)})
				return nil
			},
			Close: func() error { return nil },
		}, nil
	}
	m := &p2pMeasure{}
	var before time.Duration
	r, err := load.Run(ctx, plan, open, func(from time.Time) {
		m.from = from
		before, _, _, _ = p.accounts() // that they have died is seen at the end
	})
	if err != nil {
		return nil, err
	}
	m.Result = *r
	m.waiting = time.Unix(0, m.Last).Sub(m.from)
	after, memory, sum, err := p.accounts()
	if err != nil {
		return nil, err
	}
	m.cpu, m.memory, m.sum = after-before, memory, sum
	return m, errors.Join(p.children[0].end(true), p.children[1].end(true))
}
