package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/symbols"
)

// addressesOf is a CPU profile of a binary's own addresses, as profilers of whole machines send them.
func addressesOf(buildID string, addresses ...uint64) []byte {
	b := profile.NewBuilder(profile.ValueType{Type: "samples", Unit: "count"})
	m := b.Mapping(profile.Mapping{File: b.String("program"), BuildID: b.String(buildID)})
	for _, at := range addresses {
		b.Add(b.Stack(0, b.Location(profile.Location{Address: at, Mapping: m})), 0, 5)
	}
	n := b.String("_ZN4shop4Cart5priceEi")
	b.Add(b.Stack(0, b.Location(profile.Location{}, profile.Line{Function: b.Function(profile.Function{Name: n})})), 0, 1)
	p := b.Profile()
	p.TimeNanos, p.DurationNanos = time.Now().Add(-time.Minute).UnixNano(), int64(10*time.Second)
	return p.AppendPprof(nil)
}

// TestSymbols: a profile that came before the symbols of its binary, and one that comes after them, are read by names.
func TestSymbols(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "program")
	for name, text := range map[string]string{"main.go": "package main\n\nfunc main() { println(slow(9)) }\n\n//go:noinline\nfunc slow(n int) int { return n * n }\n", "go.mod": "module program\n\ngo 1.26\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", binary, ".")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	f, err := os.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := symbols.ReadBinary(f, binary)
	if err != nil {
		t.Fatal(err)
	}
	at := uint64(0)
	for a := uint64(0x401000); a < 0x600000 && at == 0; a++ { // where Go's linker puts programs
		if frames := table.Frames(a); len(frames) > 0 && frames[0].Name == "main.slow" {
			at = a
		}
	}
	if at == 0 {
		t.Fatal("main.slow is nowhere")
	}

	s := mustStart(t, "--data", filepath.Join(dir, "data"), "--no-self-profile")
	secret, err := os.ReadFile(filepath.Join(dir, "data", ownerFile))
	if err != nil {
		t.Fatal(err)
	}
	command := func(want int, args ...string) string {
		t.Helper()
		var out, errs strings.Builder
		if code := run(t.Context(), append(args, "--server", s.base, "--token", strings.TrimSpace(string(secret))), strings.NewReader(""), &out, &errs); code != want {
			t.Fatalf("%v: exit code %d: %s%s", args, code, out.String(), errs.String())
		}
		return out.String()
	}
	send := func(service string) {
		t.Helper()
		file := filepath.Join(dir, service+".pb.gz")
		if err := os.WriteFile(file, addressesOf(table.BuildIDs[0], at), 0o600); err != nil {
			t.Fatal(err)
		}
		command(exitOK, "ingest", "--service", service, file)
	}
	top := func(service string) string {
		t.Helper()
		return command(exitOK, "query", "top", "--service", service, "--type", "samples")
	}
	send("before")
	if out := top("before"); strings.Contains(out, "main.slow") || !strings.Contains(out, "program+0x") || !strings.Contains(out, "shop::Cart::price") {
		t.Error(out)
	}
	bad := filepath.Join(dir, "main.go")
	if out := command(exitCorrupt, "symbols", "upload", bad, binary); !strings.Contains(out, "no ELF binary") || !strings.Contains(out, "kept     "+binary) {
		t.Error(out)
	}
	if out := command(exitOK, "symbols", "list"); !strings.Contains(out, "program  dwarf") || !strings.Contains(out, table.BuildIDs[0]) {
		t.Error(out)
	}
	send("after")
	for _, service := range []string{"before", "after"} {
		if out := top(service); !strings.Contains(out, "main.slow") || strings.Contains(out, "program+0x") {
			t.Errorf("%s: %s", service, out)
		}
	}
}
