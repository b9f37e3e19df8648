package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestIngestSigned: an agent enrols by a one-time token, and sends files that its key signs, for its service and no other; who has not enrolled
// sends none. A file may be at an address.
func TestIngestSigned(t *testing.T) {
	dir := t.TempDir()
	s := mustStart(t, "--data", filepath.Join(dir, "data"), "--no-self-profile", "--require-signed")
	secret, err := os.ReadFile(filepath.Join(dir, "data", ownerFile))
	if err != nil {
		t.Fatal(err)
	}
	owner := []string{"--server", s.base, "--token", strings.TrimSpace(string(secret))}
	command := func(want int, stdin string, args ...string) (string, string) {
		t.Helper()
		var out, errs strings.Builder
		if code := run(t.Context(), args, strings.NewReader(stdin), &out, &errs); code != want {
			t.Fatalf("%v: exit code %d: %s%s", args, code, out.String(), errs.String())
		}
		return out.String(), errs.String()
	}
	key, other := filepath.Join(dir, "agent.key"), filepath.Join(dir, "other.key")
	token, _ := command(exitOK, "", append([]string{"enrol", "create", "--service", "shop"}, owner...)...)
	command(exitOK, token, "agents", "enrol", "--key", key, "--server", s.base)
	if _, errs := command(exitDenied, token, "agents", "enrol", "--key", other, "--server", s.base); errs == "" {
		t.Error("the token is good twice")
	}
	if out, _ := command(exitOK, "", append([]string{"enrol", "list"}, owner...)...); !strings.Contains(out, "shop") {
		t.Error(out)
	}

	raw := addressesOf("b1d", 0x401000)
	file := filepath.Join(dir, "cpu.pb.gz")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	ingest := func(want int, key, service, name string) string {
		t.Helper()
		out, errs := command(want, "", "ingest", "--json", "--server", s.base, "--key", key, "--service", service, name)
		var got struct{ Kept, Skipped int }
		if err := json.Unmarshal([]byte(out), &got); err != nil || got.Kept+got.Skipped != 1 || (got.Kept == 1) != (want == exitOK) {
			t.Errorf("%v: %s", err, out)
		}
		return errs
	}
	ingest(exitOK, key, "shop", file)
	ingest(exitDenied, key, "bank", file)
	ingest(exitDenied, other, "shop", file) // it was made, and refused

	program := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/debug/pprof/profile" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(raw)
	}))
	defer program.Close()
	ingest(exitOK, key, "shop", program.URL+"/debug/pprof/profile?seconds=1")
	if errs := ingest(exitUnavailable, key, "shop", program.URL+"/nowhere"); !strings.Contains(errs, "404") {
		t.Error(errs)
	}
	if out, _ := command(exitOK, "", append([]string{"query", "top", "--service", "shop", "--type", "samples"}, owner...)...); !strings.Contains(out, "shop::Cart::price") {
		t.Error(out)
	}
	if _, errs := command(exitUsage, "", "ingest", "--server", s.base, "--key", filepath.Join(dir, "none.key"), "--service", "shop", file); !strings.Contains(errs, "none.key") {
		t.Error(errs)
	}
}
