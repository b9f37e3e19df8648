package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/commands"
	"github.com/quantra-l/quantra/optimize/rebalance"
)

// The test's own program is also what the commands run: whoever holds the peers, whose nodes and moves are files of a folder.
const envDir = "QUANTRA_TEST_PEERS"

func TestMain(m *testing.M) {
	if dir := os.Getenv(envDir); dir != "" {
		code, err := holder(dir, os.Args[1:])
		if err == nil {
			os.Exit(0)
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// holder holds peers: nodes SERVICE, check FROM TO N, move ID FROM TO N, back ID, moved ID.
func holder(dir string, args []string) (code int, err error) {
	peers := func(node string, by int) (int, error) {
		file := filepath.Join(dir, "node-"+node)
		b, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		n, err := strconv.Atoi(string(b))
		if err != nil || by == 0 {
			return n, err
		}
		return n + by, os.WriteFile(file, []byte(strconv.Itoa(n+by)), 0o600)
	}
	switch args[0] {
	case "nodes":
		files, err := filepath.Glob(filepath.Join(dir, "node-*"))
		out := []map[string]any{}
		for _, f := range files {
			id := strings.TrimPrefix(filepath.Base(f), "node-")
			n, err := peers(id, 0)
			if err != nil {
				return 1, err
			}
			out = append(out, map[string]any{"id": id, "peers": n})
		}
		return 1, errors.Join(err, json.NewEncoder(os.Stdout).Encode(map[string]any{"nodes": out}))
	case "check":
		n, err := strconv.Atoi(args[3])
		if err != nil {
			return 1, err
		}
		has, err := peers(args[1], 0)
		if err != nil {
			return commands.ExitGone, err
		}
		if has < n {
			return commands.ExitRefused, fmt.Errorf("%s has %d peers only", args[1], has)
		}
		return 1, nil
	}
	file := filepath.Join(dir, "move-"+strings.ReplaceAll(args[1], "/", "_"))
	_, err = os.Stat(file)
	there := err == nil
	switch args[0] {
	case "move":
		if there {
			return 1, nil
		}
		n, err := strconv.Atoi(args[4])
		if err != nil {
			return 1, err
		}
		_, err = peers(args[2], -n)
		if err == nil {
			_, err = peers(args[3], n)
		}
		return 1, errors.Join(err, os.WriteFile(file, []byte(strings.Join(args[2:], " ")), 0o600))
	case "back":
		if !there {
			return 1, nil
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return 1, err
		}
		var from, to string
		var n int
		if _, err := fmt.Sscan(string(b), &from, &to, &n); err != nil {
			return 1, err
		}
		_, err = peers(from, n)
		if err == nil {
			_, err = peers(to, -n)
		}
		return 1, errors.Join(err, os.Remove(file))
	case "moved":
		b, _ := os.ReadFile(file) // a move that is not there has no peers
		var from, to string
		var n int
		_, _ = fmt.Sscan(string(b), &from, &to, &n)
		return 1, json.NewEncoder(os.Stdout).Encode(map[string]any{"made": there, "peers": n})
	}
	return 1, fmt.Errorf("no such command: %q", args)
}

// options are commands of the holder of a folder with nodes, each with its peers.
func options(t *testing.T, nodes map[string]int) (Options, string) {
	t.Helper()
	dir := t.TempDir()
	for id, n := range nodes {
		if err := os.WriteFile(filepath.Join(dir, "node-"+id), []byte(strconv.Itoa(n)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Nodes: []string{exe, "nodes", "{{.Service}}"}, Check: []string{exe, "check", "{{.From}}", "{{.To}}", "{{.Peers}}"},
		Move: []string{exe, "move", "{{.ID}}", "{{.From}}", "{{.To}}", "{{.Peers}}"}, Back: []string{exe, "back", "{{.ID}}"}, Moved: []string{exe, "moved", "{{.ID}}"},
		Env: []string{envDir + "=" + dir}, Timeout: time.Minute,
	}, dir
}

// TestChange: a change of two moves is rehearsed, made, made again, and taken back, by commands; and what is refused leaves all as it was.
func TestChange(t *testing.T) {
	o, _ := options(t, map[string]int{"a": 60, "b": 60, "c": 60, "d": 5})
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	act, err := rebalance.NewActuator(m)
	if err != nil {
		t.Fatal(err)
	}
	count := func() string {
		t.Helper()
		nodes, err := m.Nodes(t.Context(), "feed")
		if err != nil {
			t.Fatal(err)
		}
		s := ""
		for _, n := range nodes {
			if !math.IsNaN(n.RIF) || !math.IsNaN(n.Latency) {
				t.Errorf("%+v: what was not said is not known", n)
			}
			s += fmt.Sprint(n.ID, n.Peers, " ")
		}
		return s
	}
	change := func(moves ...rebalance.Move) *optimize.Change {
		spec, err := json.Marshal(rebalance.Spec{Moves: moves})
		if err != nil {
			t.Fatal(err)
		}
		return &optimize.Change{ID: "c1", Proposal: optimize.Proposal{Kind: optimize.Rebalance, Service: "feed", Spec: spec}}
	}
	ctx := t.Context()
	c := change(rebalance.Move{From: "a", To: "b", Peers: 10}, rebalance.Move{From: "c", To: "d", Peers: 20})
	targets, err := act.Targets(ctx, c)
	if err != nil || len(targets) != 1 {
		t.Fatalf("%v, %v", targets, err)
	}
	snap, err := act.Snapshot(ctx, c, targets[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := act.Rehearse(ctx, c, targets[0], snap); err != nil || count() != "a60 b60 c60 d5 " {
		t.Fatalf("a rehearsal: %v, %s", err, count())
	}
	for range 2 {
		if err := act.Apply(ctx, c, targets[0], snap); err != nil || count() != "a50 b70 c40 d25 " {
			t.Fatalf("%v, %s", err, count())
		}
	}
	if s, word, err := act.Standing(ctx, c, targets[0], snap); s != optimize.InForce || err != nil {
		t.Errorf("%s, %s, %v", s, word, err)
	}
	for range 2 {
		if err := act.Undo(ctx, c, targets[0], snap); err != nil || count() != "a60 b60 c60 d5 " {
			t.Fatalf("%v, %s", err, count())
		}
	}
	if s, word, err := act.Standing(ctx, c, targets[0], snap); s != optimize.Absent || err != nil {
		t.Errorf("%s, %s, %v", s, word, err)
	}
	if err := act.Rehearse(ctx, change(rebalance.Move{From: "d", To: "a", Peers: 6}), targets[0], snap); !errors.Is(err, optimize.ErrRefused) || !strings.Contains(err.Error(), "5 peers only") {
		t.Errorf("%v", err)
	}
	if ts, err := act.Targets(ctx, change(rebalance.Move{From: "x", To: "a", Peers: 6})); err != nil || len(ts) != 0 {
		t.Errorf("a node that is gone: %v, %v", ts, err)
	}
}

// TestNew: each command must be there, and use what makes it the one.
func TestNew(t *testing.T) {
	for field, spoil := range map[string]func(o *Options){
		"nodes": func(o *Options) { o.Nodes = nil }, "check": func(o *Options) { o.Check = o.Check[:3] }, "move": func(o *Options) { o.Move[2] = "it" },
		"back": func(o *Options) { o.Back = nil }, "moved": func(o *Options) { o.Moved = []string{"moved", "{{.Nonsense}}"} }, "timeout": func(o *Options) { o.Timeout = -1 },
	} {
		o, _ := options(t, nil)
		spoil(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	o, _ := options(t, nil)
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Back(t.Context(), "feed", "--all", rebalance.Move{}); !errors.Is(err, optimize.ErrRefused) {
		t.Errorf("an ID that is an option: %v", err)
	}
}

// FuzzDecode: whatever a command prints, nodes have names of their own and figures that can be, or there are none.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"nodes":[{"id":"host-1","zone":"a","peers":60,"in_flight":3.5,"latency":0.02,"since":"2026-11-25T12:00:00Z","fixed":true},{"id":"host-2","peers":0}]}`))
	f.Add([]byte(`{"nodes":[{"id":"-x","peers":1}]}`))
	f.Add([]byte(`{"nodes":[{"id":"a","peers":-1},{"id":"a"}]}`))
	f.Add([]byte("3\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		nodes, err := decode(out)
		if err != nil && len(nodes) > 0 {
			t.Fatal("both an error and nodes")
		}
		seen := map[string]bool{}
		for _, n := range nodes {
			if seen[n.ID] || !commands.Name.MatchString(n.ID) || n.Peers < 0 || n.RIF < 0 || n.Latency < 0 || math.IsInf(n.RIF, 0) || math.IsInf(n.Latency, 0) {
				t.Fatalf("%+v", n)
			}
			seen[n.ID] = true
		}
	})
}
