//go:build unix

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// nodeScripts are the commands of scripts that have nodes.
var nodeScripts = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"node": scriptNode, "stop-node": scriptStopNode, "until": scriptUntil, "match": scriptMatch, "bytes": scriptBytes,
}

// scriptNodes are the nodes of scripts, by script and name.
var scriptNodes sync.Map

type scriptNodeKey struct {
	ts   *testscript.TestScript
	name string
}

// node NAME ARGS... starts `quantraband node` on loopback with the data folder NAME, and puts its id and address into the environment as NAME and
// NAME_ADDR. It ends with the script.
func scriptNode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: node NAME ARGS...")
	}
	n, err := launchNode("", ts.MkAbs(args[0]), args[1:]...)
	ts.Check(err)
	scriptNodes.Store(scriptNodeKey{ts, args[0]}, n)
	ts.Setenv(args[0], n.id)
	ts.Setenv(args[0]+"_ADDR", regexp.MustCompile(`/ip4/\S+/tcp/\S+`).FindString(n.ready))
	ts.Defer(func() {
		n.cmd.Process.Kill()
		<-n.ended
		ts.Logf("node %s: %s", args[0], &n.stderr)
	})
}

// stop-node NAME ends a node in order.
func scriptStopNode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: stop-node NAME, behind node NAME")
	}
	n, ok := scriptNodes.Load(scriptNodeKey{ts, args[0]})
	if !ok {
		ts.Fatalf("there is no node %s", args[0])
	}
	ts.Check(n.(*nodeProcess).end(syscall.SIGTERM))
}

// match NAME REGEXP ARGS... puts what the first group of the expression matches in what quantraband ARGS says into the environment.
func scriptMatch(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: match NAME REGEXP ARGS...")
	}
	want, err := regexp.Compile(args[1])
	ts.Check(err)
	var out, errs bytes.Buffer
	code := run(context.Background(), args[2:], strings.NewReader(""), &out, &errs)
	m := want.FindStringSubmatch(out.String())
	if code != 0 || len(m) < 2 {
		ts.Fatalf("%s: %d, %s%s", args, code, &out, &errs)
	}
	ts.Setenv(args[0], m[1])
}

// until REGEXP ARGS... runs quantraband ARGS, in the test's own folder, again and again until it ends well and what it says matches.
func scriptUntil(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until REGEXP ARGS...")
	}
	want, err := regexp.Compile(`(?m)` + args[0])
	ts.Check(err)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); ; {
		var out, errs bytes.Buffer
		code := run(context.Background(), args[1:], strings.NewReader(""), &out, &errs)
		if code == 0 && want.Match(out.Bytes()) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			ts.Fatalf("%s: not within %s: %d, %s%s", args, patience, code, &out, &errs)
		}
	}
}

// bytes FILE N makes a file of N bytes that are no two pages alike.
func scriptBytes(ts *testscript.TestScript, neg bool, args []string) {
	var n int
	if neg || len(args) != 2 {
		ts.Fatalf("usage: bytes FILE N")
	}
	_, err := fmt.Sscan(args[1], &n)
	ts.Check(err)
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>12) ^ byte(i*7)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o666))
}
