package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// runBenchP2P runs the command in a process of its own, as its children are of the same program.
func runBenchP2P(t *testing.T, args ...string) (out []byte, err error) {
	t.Helper()
	if measurable() != nil {
		t.Skip("needs Linux")
	}
	path, err := exec.LookPath("quantraband")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.Background(), path, append([]string{"bench", "p2p"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir(), "QUANTRA_REGION=local")
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err = cmd.Output()
	if err != nil {
		t.Logf("%s", errOut.Bytes())
	}
	return out, err
}

// TestBenchP2P: in one process and in several, all that was taken arrives once, and all of it is in the histogram.
func TestBenchP2P(t *testing.T) {
	for name, args := range map[string][]string{
		"direct":      {"--kind", "direct"},
		"broadcast":   {"--kind", "broadcast", "--nodes", "3", "--topology", "line", "--processes"},
		"connections": {"--connections", "--peer", "libp2p", "--users", "2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "report.json")
			out, err := runBenchP2P(t, append(args, "--rate", "40", "--spawn-rate", "0", "--time", "500ms", "--with", "audit", "-o", file)...)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var r p2pReport
			if err := json.Unmarshal(raw, &r); err != nil {
				t.Fatal(err)
			}
			if name == "connections" && len(r.Systems) != 2 || !strings.Contains(string(out), "| latency, p99 |") {
				t.Errorf("%s", out)
			}
			for _, s := range r.Systems {
				figures := map[string]float64{}
				for _, f := range s.Figures {
					figures[f.What] = f.median()
				}
				if figures["lost"]+figures["doubled"]+figures["refused"] != 0 || figures["latency, p50"] <= 0 || figures["most memory of all"] <= 0 {
					t.Errorf("%s: %v", s.Name, figures)
				}
			}
		})
	}
}

// TestBenchP2PRefuses: what cannot be measured is said before anything is started.
func TestBenchP2PRefuses(t *testing.T) {
	for _, args := range []string{
		"--kind pigeon", "--users 0", "--nodes 1", "--nodes 51", "--topology heap", "--size 1", "--rate -1", "--time 0s", "--rounds 0", "--with luck", "--cli --connections",
		"--connections --nodes 3", "--cli --peer pubsub", "--peer nats", "--peer pubsub=x", "--kind durable --peer nats=x", "--peer pubsub", "--connections --users 1001",
	} {
		var out bytes.Buffer
		a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &out}
		root := a.rootCommand()
		root.SetArgs(append([]string{"bench", "p2p"}, strings.Fields(args)...))
		if err := root.Execute(); exitCode(err) != exitUsage {
			t.Errorf("%s: %v", args, err)
		}
	}
}
