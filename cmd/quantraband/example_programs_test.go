package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/ingest/clienttest"
)

const examplesFolder = "../../examples"

// runExample runs a program until the test ends.
func runExample(t *testing.T, env []string, name string, args ...string) {
	t.Helper()
	var said bytes.Buffer
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Wait() // it is killed with the context: its error says so
		if t.Failed() {
			t.Logf("%s said: %s", name, &said)
		}
	})
}

// buildExample builds an example that is in Go.
func buildExample(t *testing.T, name string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), name)
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, examplesFolder+"/"+name).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// awaitFunction asks as README says to, until the function is there.
func awaitFunction(t *testing.T, base, service, kind, function string, again func()) {
	t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	want := regexp.MustCompile(function)
	for deadline := time.After(2 * time.Minute); ; { // a machine this slow is broken
		if again != nil {
			again()
		}
		var out, errs strings.Builder
		if run(t.Context(), []string{"query", "top", "-s", service, "-t", kind, "--server", base}, strings.NewReader(""), &out, &errs) == 0 && want.MatchString(out.String()) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s is in no profile %s of %s: %s%s", function, kind, service, &out, &errs)
		}
	}
}

// TestExamplePrograms runs each example, as its README has it, against a server, until its function is in a profile.
func TestExamplePrograms(t *testing.T) {
	server := mustStart(t, "--data", filepath.Join(t.TempDir(), "data"), "--no-self-profile")
	address := "PYROSCOPE_SERVER_ADDRESS=" + server.base
	for name, e := range map[string]struct {
		service, kind, function string
		start                   func(t *testing.T)
	}{
		"hello": {"hello", "cpu", `main\.isPrime`, func(t *testing.T) {
			runExample(t, []string{"QUANTRA_SERVER=" + server.base}, buildExample(t, "hello"))
		}},
		"pool": {"pool-example", "cpu", `main\.`, func(t *testing.T) {
			program, env := buildExample(t, "pool"), []string{"QUANTRA_SERVER=" + server.base, "POOL_DIR=" + t.TempDir()}
			pool := func(args ...string) {
				cmd := exec.Command(program, args...)
				cmd.Env = append(os.Environ(), env...)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%v: %v\n%s", args, err, out)
				}
			}
			t.Cleanup(func() { pool("set", "pool-example", "0") })
			pool("set", "pool-example", "1")
			pool("load", "pool-example", "0.5")
		}},
		"python": {"python-example", "cpu", `is_prime`, func(t *testing.T) {
			runExample(t, []string{address}, clienttest.Need(t, "QUANTRA_PYTHON", "a Python with pyroscope-io"), examplesFolder+"/python/main.py", "4")
		}},
		"node": {"node-example", "wall", `isPrime|turn`, func(t *testing.T) { // V8 may take the one into the other
			modules := clienttest.Need(t, "QUANTRA_NODE_MODULES", "the folder with @pyroscope/nodejs")
			runExample(t, []string{address, "NODE_PATH=" + modules, "PYROSCOPE_FLUSH_INTERVAL_MS=1000", "PYROSCOPE_WALL_SAMPLING_DURATION_MS=1000"}, "node", examplesFolder+"/node/main.js")
		}},
		"java": {"java-example", "cpu", `Primes\.isPrime`, func(t *testing.T) {
			jar := clienttest.Need(t, "QUANTRA_PYROSCOPE_JAVA", "the jar of io.pyroscope:agent")
			runExample(t, []string{address, "PYROSCOPE_APPLICATION_NAME=java-example", "PYROSCOPE_FORMAT=jfr", "PYROSCOPE_PROFILER_EVENT=itimer", "PYROSCOPE_UPLOAD_INTERVAL=1s"},
				"java", "-javaagent:"+jar, examplesFolder+"/java/Primes.java")
		}},
		"rust": {"rust-example", "cpu", `is_prime`, func(t *testing.T) {
			runExample(t, []string{address}, clienttest.Need(t, "QUANTRA_RUST_EXAMPLE", "the program of examples/rust"), "4")
		}},
		"cpp": {"primes", "samples", `is_prime`, func(t *testing.T) { // by what perf printed of it: not every machine lets perf run
			script, err := os.ReadFile(examplesFolder + "/cpp/perf.txt")
			if err != nil {
				t.Fatal(err)
			}
			var pprof, errs bytes.Buffer
			if code := run(t.Context(), []string{"profile", "convert", "--to", "pprof", "-"}, bytes.NewReader(script), &pprof, &errs); code != 0 {
				t.Fatalf("exit code %d: %s", code, &errs)
			}
			if code, err := push(server.base, "service_name=primes", pprof.Bytes()); code != http.StatusOK {
				t.Fatal(code, err)
			}
		}},
	} {
		if name == "pool" && runtime.GOOS == "windows" { // it is for Unix
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e.start(t)
			awaitFunction(t, server.base, e.service, e.kind, e.function, nil)
		})
	}
}

// TestExampleScrape: the program that only has net/http/pprof is scraped by the file that lies beside it.
func TestExampleScrape(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), buildExample(t, "scrape"), "127.0.0.1:0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait() // killed: its error says so
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	host := regexp.MustCompile(`//([^/]+)/`).FindStringSubmatch(line)
	if err != nil || host == nil {
		t.Fatalf("%q: %v", line, err)
	}
	config, err := os.ReadFile(examplesFolder + "/scrape/scrape.yaml")
	if err != nil || !bytes.Contains(config, []byte("127.0.0.1:6060")) {
		t.Fatal(err, string(config))
	}
	file := filepath.Join(t.TempDir(), "scrape.yaml")
	if err := os.WriteFile(file, bytes.ReplaceAll(config, []byte("127.0.0.1:6060"), []byte(host[1])), 0o600); err != nil {
		t.Fatal(err)
	}
	server := mustStart(t, "--data", filepath.Join(t.TempDir(), "data"), "--no-self-profile", "--scrape", file)
	awaitFunction(t, server.base, "scrape-example", "cpu", `main\.isPrime`, func() {
		// Before its target is found this fails, and is done again.
		run(context.WithoutCancel(t.Context()), []string{"targets", "profile", "-s", "scrape-example", "--type", "profile", "--seconds", "1", "--server", server.base}, strings.NewReader(""), new(strings.Builder), new(strings.Builder))
	})
}

// TestExampleReadmes: each example has a page that says how it is run, and none is without a test.
func TestExampleReadmes(t *testing.T) {
	folders, err := os.ReadDir(examplesFolder)
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("example_programs_test.go")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range folders {
		if !f.IsDir() {
			continue
		}
		n++
		page, err := os.ReadFile(filepath.Join(examplesFolder, f.Name(), "README.md"))
		if err != nil || !bytes.Contains(page, []byte("```sh\n")) {
			t.Errorf("examples/%s: no README.md with a command: %v", f.Name(), err)
		}
		if !bytes.Contains(source, fmt.Appendf(nil, "%q", f.Name())) {
			t.Errorf("examples/%s is not run by a test", f.Name())
		}
	}
	if n < 8 {
		t.Errorf("%d examples: the test shows nothing", n)
	}
}
