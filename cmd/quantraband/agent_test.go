package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/cmd/quantraband/demo"
)

// spooledFiles counts the profiles that wait on disk.
func spooledFiles(dir string) (n int) {
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(p, ".profile") {
			n++
		}
		return nil // what goes away meanwhile was delivered
	})
	return n
}

// TestOutageLeavesNoHole: the server is killed while a fleet profiles under load, stays away for
// several windows and comes back: each instance's timeline is whole. QUANTRA_OUTAGE=1m is the long form.
func TestOutageLeavesNoHole(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the demo fleet is stopped by signals")
	}
	const window = 2 * time.Second
	outage, _ := time.ParseDuration(os.Getenv("QUANTRA_OUTAGE"))
	exe, err := exec.LookPath("quantraband")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	data, spool := t.TempDir(), t.TempDir()
	s := mustStart(t, "--data", data, "--listen", addr, "--no-self-profile")
	fleet, err := demo.StartFleet(t.Context(), demo.FleetOptions{
		Exe: exe, Spool: spool, Server: s.base, N: 2, Window: window,
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError})),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer fleet.Stop(t.Context())
	// windows are the CPU profiles that the server has, by instance, in the order of time.
	windows := func() (map[string][]profileJSON, error) {
		var list []profileJSON
		err := query(s, &list, "profiles", "-s", "checkout", "--since", "1h", "--limit", "10000")
		by := map[string][]profileJSON{}
		for _, p := range list {
			by[p.Labels["service_instance_id"]] = append(by[p.Labels["service_instance_id"]], p)
		}
		return by, err
	}
	reached := func(n int) func() (bool, error) {
		return func() (bool, error) {
			by, err := windows()
			for _, ps := range by {
				if len(ps) < n {
					return false, fmt.Errorf("%d windows", len(ps))
				}
			}
			return len(by) == 2, errors.Join(err, fmt.Errorf("%d instances", len(by)))
		}
	}
	eventually(t, "two windows of each", reached(2))
	s.cmd.Process.Kill()
	<-s.ended
	began := time.Now()
	eventually(t, "several windows on disk", func() (bool, error) {
		n := spooledFiles(spool)
		return n >= 40 && time.Since(began) >= outage, fmt.Errorf("%d profiles on disk", n)
	})
	s = mustStart(t, "--data", data, "--listen", addr, "--no-self-profile")
	eventually(t, "an empty spool", func() (bool, error) {
		n := spooledFiles(spool)
		return n == 0, fmt.Errorf("%d profiles on disk", n)
	})
	eventually(t, "windows from before, in and after the outage", reached(8))
	by, err := windows()
	if err != nil {
		t.Fatal(err)
	}
	for instance, ps := range by {
		slices.SortFunc(ps, func(a, b profileJSON) int { return a.From.Compare(b.From) })
		for i := 1; i < len(ps); i++ {
			if hole := ps[i].From.Sub(ps[i-1].To); hole > window*9/10 {
				t.Errorf("%s: nothing for %v after %v", instance, hole, ps[i-1].To)
			}
		}
	}
}
