package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store/clickhouse/clickhousetest"
)

// TestMain lets this test binary be quantraband: in scripts, and wherever a
// test starts a real process (see startServer).
func TestMain(m *testing.M) {
	sandboxChild()
	clickhousetest.Main()
	// Servers and commands of the tests are of one user, who is not the one who runs them.
	if os.Getenv(testHomeEnv) == "" {
		dir, err := os.MkdirTemp("", "quantraband-test")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Setenv(testHomeEnv, dir)
		os.Setenv("XDG_DATA_HOME", dir)
		defer os.RemoveAll(dir)
	}
	testscript.Main(m, map[string]func(){"quantraband": main, "bench-program": benchProgram})
}

// testHomeEnv says that the tests' folder is made.
const testHomeEnv = "QUANTRABAND_TEST_HOME"

// TestScripts runs the stories in testdata/script: one for each promise, its failures included.
func TestScripts(t *testing.T) {
	goEnv := goEnvironment(t)
	corpus, err := filepath.Abs("../../profile/testdata/corpus")
	if err != nil {
		t.Fatal(err)
	}
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	commands := map[string]func(ts *testscript.TestScript, neg bool, args []string){
		"heap-profile":  scriptHeapProfile,
		"cut":           scriptCut,
		"gunzip":        scriptGunzip,
		"one-line":      scriptOneLine,
		"lists":         scriptLists,
		"exit-code":     scriptExitCode,
		"empty-profile": scriptEmptyProfile,
		"server":        scriptServer, "stop-server": scriptStopServer, "take-port": scriptTakePort, "post": scriptPost,
		"agent": scriptAgent, "leased": scriptLeased, "proposal": scriptProposal,
	}
	maps.Copy(commands, nodeScripts)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Vars = append(env.Vars, goEnv...)
			// What the developer's own environment says must not steer a story.
			env.Setenv("QUANTRA_SERVER", "")
			env.Setenv("GITHUB_TOKEN", "")
			env.Setenv("CORPUS", corpus)
			env.Setenv("REPO", repo)
			env.Setenv("NO_COLOR", "")
			env.Setenv("COLUMNS", "")
			env.Setenv(tokenEnv, "")
			env.Setenv(testHomeEnv, os.Getenv(testHomeEnv))
			env.Setenv("XDG_DATA_HOME", os.Getenv("XDG_DATA_HOME")) // where servers leave their credentials
			return nil
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds:                commands,
	})
}

// goEnvironment is what the go command needs to run in a script, whose home is empty.
func goEnvironment(t *testing.T) []string {
	t.Helper()
	names := []string{"GOCACHE", "GOMODCACHE", "GOPROXY", "GOFLAGS", "GOTOOLCHAIN"}
	out, err := exec.Command("go", append([]string{"env"}, names...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	var env []string
	for i, v := range strings.Split(strings.TrimSuffix(string(out), "\n"), "\n") {
		env = append(env, names[i]+"="+v)
	}
	return env
}

// heap-profile FILE writes the test's own heap profile, as the runtime has it.
func scriptHeapProfile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: heap-profile FILE")
	}
	var b bytes.Buffer
	ts.Check(pprof.Lookup("heap").WriteTo(&b, 0))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b.Bytes(), 0o666))
}

// cut FILE N keeps the first N bytes of FILE.
func scriptCut(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: cut FILE N")
	}
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	ts.Check(os.Truncate(ts.MkAbs(args[0]), n))
}

// gunzip IN OUT decompresses a file.
func scriptGunzip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: gunzip IN OUT")
	}
	r, err := gzip.NewReader(strings.NewReader(ts.ReadFile(args[0])))
	ts.Check(err)
	var b bytes.Buffer
	_, err = b.ReadFrom(r)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), b.Bytes(), 0o666))
}

// one-line checks the promise on errors: standard error is one line that starts with quantraband.
func scriptOneLine(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: one-line")
	}
	got := ts.ReadFile("stderr")
	if !strings.HasPrefix(got, "quantraband: ") || strings.Count(got, "\n") != 1 || !strings.HasSuffix(got, "\n") {
		ts.Fatalf("standard error is not one line of ours: %q", got)
	}
}

// exit-code N COMMAND ARGS... runs a command, which must end with the code N.
func scriptExitCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exit-code N COMMAND ARGS...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("%s ends with %d, not %s", strings.Join(args[1:], " "), code, args[0])
	}
}

// empty-profile FILE TYPE UNIT writes a profile that has that sample type and no sample.
func scriptEmptyProfile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: empty-profile FILE TYPE UNIT")
	}
	var b bytes.Buffer
	ts.Check(profile.NewBuilder(profile.ValueType{Type: args[1], Unit: args[2]}).Profile().Encode(&b))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b.Bytes(), 0o666))
}

// lists DIR NAME... checks that DIR holds just these files: nothing temporary stayed.
func scriptLists(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: lists DIR NAME...")
	}
	entries, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got, want := strings.Join(names, " "), strings.Join(args[1:], " "); got != want {
		ts.Fatalf("%s holds %q, not %q", args[0], got, want)
	}
}

// TestRunIsAFunction: run takes its streams and its context from its caller.
func TestRunIsAFunction(t *testing.T) {
	var stdout, stderr bytes.Buffer
	stdin := strings.NewReader("main;work 3\n")
	if code := run(context.Background(), []string{"profile", "top", "-"}, stdin, &stdout, &stderr); code != exitOK {
		t.Fatalf("code %d, stderr %s", code, &stderr)
	}
	if !strings.Contains(stdout.String(), "work") {
		t.Errorf("stdout %q", &stdout)
	}

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	stderr.Reset()
	stdin = strings.NewReader("main;work 3\n")
	if code := run(ctx, []string{"profile", "top", "-"}, stdin, &stdout, &stderr); code != exitInterrupted {
		t.Errorf("cancelled: code %d, stderr %s", code, &stderr)
	}
	if got := stderr.String(); got != "quantraband: interrupted\n" {
		t.Errorf("cancelled: stderr %q", got)
	}
}
