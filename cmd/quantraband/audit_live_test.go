package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/zerotrust/audit"
)

// TestAuditGone: a log whose folder was removed is missed when the server starts, not when the first request is refused for it.
func TestAuditGone(t *testing.T) {
	dir, keyFile := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "audit.key")
	a, err := openAuditLog(dir, keyFile, silent)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(a.record(t.Context(), optimize.Entry{Time: time.Now(), Act: "start", Actor: "ann"}), a.Close(), os.RemoveAll(dir)); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	if a, err = openAuditLog(dir, keyFile, slog.New(slog.NewTextHandler(&said, nil))); err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if !errors.Is(a.fault, audit.ErrBroken) || !strings.Contains(said.String(), "is gone or was begun anew") {
		t.Errorf("%v; it says %q", a.fault, &said)
	}
}

// TestAuditLive: a log in use changes its key and loses what is old, and nothing that is recorded meanwhile is refused or missing.
func TestAuditLive(t *testing.T) {
	dir := t.TempDir()
	keyFile := filepath.Join(t.TempDir(), "audit.key")
	a, err := openAuditLog(dir, keyFile, silent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := a.rotate(); err == nil {
		t.Error("a log that is not there has changed its key")
	}
	old := time.Now().Add(-400 * 24 * time.Hour)
	act := func(at time.Time) error {
		return a.record(t.Context(), optimize.Entry{Time: at, Act: "start", Actor: "ann"})
	}
	if err := act(old); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	trust := a.opened.Key()
	var acts sync.WaitGroup
	const senders, each = 4, 150
	for range senders {
		acts.Go(func() {
			for range each {
				if err := act(old); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 3 {
		if _, err := a.rotate(); err != nil {
			t.Fatal(err)
		}
	}
	acts.Wait()
	if now, err := os.ReadFile(keyFile); err != nil || string(now) == string(first) {
		t.Errorf("the key's file is as it was: %v", err)
	}
	if a.opened.Key() == trust {
		t.Error("the same key signs")
	}

	// What is old goes, with a copy: the log's own entries are of today, so it is looked at more than a year from now.
	tick := make(chan time.Time)
	archive := t.TempDir()
	later := func() time.Time { return time.Now().Add(400 * 24 * time.Hour) }
	stop := inBackground(t.Context(), a.keepAudit(auditOptions{keep: age(365 * 24 * time.Hour), archive: archive}, later, tick))
	for gone := false; !gone; { // only what has been published goes, and that is some moments behind
		tick <- time.Now()
		kept, err := os.ReadDir(archive)
		if gone = len(kept) > 0; err != nil {
			t.Fatal(err)
		}
	}
	tick <- time.Now() // that round is over
	stop()

	// By the clock: a key that is new stays.
	o := auditOptions{rekey: age(24 * time.Hour)}
	before := a.opened.Key()
	stop = inBackground(t.Context(), a.keepAudit(o, time.Now, tick))
	tick <- time.Now()
	tick <- time.Now()
	stop()
	if a.opened.Key() != before {
		t.Error("a key of today was changed")
	}
	day := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(keyFile, day, day); err != nil {
		t.Fatal(err)
	}
	stop = inBackground(t.Context(), a.keepAudit(o, time.Now, tick))
	tick <- time.Now()
	tick <- time.Now()
	stop()
	if a.opened.Key() == before {
		t.Error("a key of yesterday was not changed")
	}
	if err := act(time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	report, err := audit.Verify(context.Background(), vfs.Default, filepath.Join(dir, auditDir), audit.VerifyOptions{Trust: []audit.PublicKey{trust}, Archive: archive})
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(senders*each + 2); int64(report.Checkpoint.Size) < want || report.Pruned == 0 || len(report.Keys) != 5 || !report.Trusted {
		t.Errorf("%+v", report)
	}
	a.opened = nil
}
