package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	httppprof "net/http/pprof"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/ingest/clienttest"
	"github.com/quantra-l/quantra/ingest/console"
)

// TestScrape: a program that only has net/http/pprof is found by a file, profiled now by a command, and read by `go tool pprof`, live, with a
// token as the password in the address.
func TestScrape(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", httppprof.Index)
	program := httptest.NewServer(mux)
	t.Cleanup(program.Close)
	dir := t.TempDir()
	file := filepath.Join(dir, "scrape.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, "scrape_configs: [{job_name: plain, profiles: [goroutine], scrape_interval: 5s, cpu_duration: 1s, static_configs: [{targets: [%q]}]}]\n", program.Listener.Addr()), 0o600); err != nil {
		t.Fatal(err)
	}
	s := mustStart(t, "--data", filepath.Join(dir, "data"), "--no-self-profile", "--require-signed", "--scrape", file) // nobody signs what is fetched
	secret, err := os.ReadFile(filepath.Join(dir, "data", ownerFile))
	if err != nil {
		t.Fatal(err)
	}
	command := func(args ...string) (string, error) {
		var out, errs strings.Builder
		code := run(t.Context(), append(args, "--server", s.base, "--token", strings.TrimSpace(string(secret))), strings.NewReader(""), &out, &errs)
		if code != 0 {
			return "", fmt.Errorf("%v: exit code %d: %s", args, code, errs.String())
		}
		return out.String(), nil
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(time.Minute); ; {
		out, err := command("targets", "list")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out, program.URL+"/debug/pprof") && strings.HasPrefix(strings.Split(out, "\n")[1], "up ") { // what nobody asked for is kept, too
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal(out)
		}
	}
	if out, err := command("targets", "profile", "-s", "plain", "--type", "goroutine", "--seconds", "1"); err != nil || !strings.Contains(out, "Targets of plain profiled: 1.") {
		t.Error(out, err)
	}
	tool, err := exec.Command("go", "tool", "-n", "pprof").Output()
	if err != nil {
		t.Fatal(err)
	}
	address := strings.Replace(s.base, "://", "://me:"+strings.TrimSpace(string(secret))+"@", 1)
	cmd := exec.CommandContext(t.Context(), strings.TrimSpace(string(tool)), "-top", address+"/pprof/plain/heap?live=true&seconds=1")
	cmd.Env = append(os.Environ(), "PPROF_TMPDIR="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "Type: inuse_space") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestRustTasks: a Rust program with console-subscriber is watched by a server whose file of targets names it; commands show its tasks, and
// their profile is asked for as every other's.
func TestRustTasks(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	program := exec.CommandContext(t.Context(), clienttest.Need(t, "QUANTRA_RUST_CONSOLE", "the program of ingest/clients/rust-console"), address)
	stdin, err := program.StdinPipe() // it runs until this ends
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); program.Wait() }) // how it ends is tested where it is watched
	dir := t.TempDir()
	file := filepath.Join(dir, "scrape.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, "scrape_configs: [{job_name: gateway, tokio_console: true, scrape_interval: 5s, static_configs: [{targets: [%q]}]}]\n", address), 0o600); err != nil {
		t.Fatal(err)
	}
	s := mustStart(t, "--data", filepath.Join(dir, "data"), "--no-self-profile", "--require-signed", "--scrape", file)
	secret, err := os.ReadFile(filepath.Join(dir, "data", ownerFile))
	if err != nil {
		t.Fatal(err)
	}
	command := func(args ...string) (out, errs strings.Builder) {
		run(t.Context(), append(args, "--server", s.base, "--token", strings.TrimSpace(string(secret))), strings.NewReader(""), &out, &errs)
		return out, errs
	}
	lineOf := regexp.MustCompile(`(?m)^(\d+)\s+lost-waker\s.*lost-waker$`)
	until := func(pattern *regexp.Regexp, args ...string) []string {
		t.Helper()
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.After(time.Minute); ; {
			out, errs := command(args...)
			if m := pattern.FindStringSubmatch(out.String()); m != nil {
				return m
			}
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatalf("%v: %s%s", args, out.String(), errs.String())
			}
		}
	}
	id := until(lineOf, "tasks", "list", "-s", "gateway")[1]
	until(regexp.MustCompile(`(?m)^gateway\s+\S+\s+online\s+1\d\d\s`), "tasks", "programs")
	if out, errs := command("tasks", "show", id, "-s", "gateway"); !strings.Contains(out.String(), "polls took") || !strings.Contains(errs.String(), console.LostWaker) {
		t.Error(out.String(), errs.String())
	}
	until(regexp.MustCompile(`(?m)^up\s+gateway\s`), "targets", "list")
	until(regexp.MustCompile(`never-yields`), "query", "top", "-s", "gateway", "-t", "busy")
}
