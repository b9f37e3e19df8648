package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/quantra-l/quantra/control"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/journal"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/watch/alert"
)

// proposal DIR VARIABLE SERVICE keeps a proposal in the control database of a data folder, as what looks at profiles would, and sets the
// variable to its ID.
func scriptProposal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: proposal DIR VARIABLE SERVICE")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	db, err := control.Open(ctx, "sqlite:"+filepath.Join(ts.MkAbs(args[0]), controlDB), control.Options{})
	ts.Check(err)
	defer db.Close()
	now := time.Now().UTC()
	p := optimize.Proposal{Kind: optimize.Runtime, Service: args[2], Subject: "gc", Spec: json.RawMessage(`{"gogc":300}`), Saving: 2.2,
		Sentence: args[2] + " spends 19 % of its CPU in garbage collection: GOGC 100 -> 300, expected -11 % CPU."}
	c := optimize.Change{ID: p.ID(), Tenant: store.DefaultTenant, Proposal: p, State: optimize.Proposed, ProposedAt: now, SeenAt: now}
	ts.Check(journal.New(db).Keep(ctx, &c, nil, optimize.Event{Time: now, Actor: "optimizer", What: optimize.WhatProposed, Note: p.Sentence}))
	ts.Setenv(args[1], c.ID)
}

// TestChangesDocs: the commands that docs/changes.md shows are commands with flags that they have. Its policy is decoded in optimize/policyfile.
func TestChangesDocs(t *testing.T) {
	n := 0
	for _, name := range []string{"changes.md", "audit.md", "alerts.md"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
			for line := range strings.Lines(block[1]) {
				for _, args := range ourCommands(line) {
					n++
					if err := parses(args); err != nil {
						t.Errorf("%s: %s: %v", name, strings.TrimSpace(line), err)
					}
				}
			}
		}
	}
	if n < 10 {
		t.Errorf("only %d commands found", n)
	}
}

// TestChangesSwitches: the environment and either file freeze; nonsense in the environment is refused.
func TestChangesSwitches(t *testing.T) {
	dir := t.TempDir()
	env := func(v string) func(string) string { return func(string) string { return v } }
	kill := filepath.Join(dir, "else", "off")
	policy := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(policy, []byte("kill_file: "+kill), 0o666); err != nil {
		t.Fatal(err)
	}
	for v, want := range map[string]string{"": "", "true": "", "false": "PROFILER_OPTIMIZER_ENABLED=false", "off": "PROFILER_OPTIMIZER_ENABLED=off"} {
		c, err := openPolicy(dir, policy, env(v), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.enabled(); !strings.Contains(got, want) || (got == "") != (want == "") {
			t.Errorf("%q: %q", v, got)
		}
	}
	if _, err := openPolicy(dir, "", env("maybe"), nil); exitCode(err) != exitUsage {
		t.Errorf("maybe: %v", err)
	}
	c, err := openPolicy(dir, policy, env(""), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{filepath.Join(dir, killFile), kill} {
		if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, nil, 0o666); err != nil {
			t.Fatal(err)
		}
		if got := c.enabled(); !strings.Contains(got, name) {
			t.Errorf("%s is there: %q", name, got)
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		if got := c.enabled(); got != "" {
			t.Errorf("%s is gone: %q", name, got)
		}
	}
}

// TestChangeKinds: rules of alerts have the kinds that there are: their room does not know package optimize.
func TestChangeKinds(t *testing.T) {
	if got, want := strings.Join(alert.ChangeKinds, ", "), join(optimize.Kinds); got != want {
		t.Errorf("alerts know %s, there are %s", got, want)
	}
}
