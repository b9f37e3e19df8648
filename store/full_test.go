package store_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store"
)

// TestDiskFull: while the disk is full uploads are refused with that word, questions are answered, and what was acknowledged is
// there; when there is room again it goes on without a restart.
func TestDiskFull(t *testing.T) {
	mem := vfs.NewMem()
	var full atomic.Bool
	db, err := store.Open(context.Background(), dataDir, options(vfs.Hook(mem, func(op vfs.Op) error {
		switch op.Kind {
		case "write", "create", "mkdir", "sync":
			if full.Load() {
				return syscall.ENOSPC
			}
		}
		return nil
	}), -1))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx := context.Background()
	for i := range 10 {
		if err := db.Append(ctx, numbered(t, i)); err != nil {
			t.Fatal(err)
		}
	}
	full.Store(true)
	for i := 10; i < 20; i++ {
		err := db.Append(ctx, numbered(t, i))
		if !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "full") {
			t.Fatalf("upload %d while the disk is full: %v", i, err)
		}
		if db.Healthy() == nil {
			t.Fatal("it says that it is healthy")
		}
		if got := present(t, db); len(got) != 10 {
			t.Fatalf("%d profiles are there while the disk is full", len(got))
		}
	}
	full.Store(false)
	for i := 10; i < 20; i++ {
		if err := db.Append(ctx, numbered(t, i)); err != nil {
			t.Fatalf("upload %d when there is room: %v", i, err)
		}
	}
	if err := db.Healthy(); err != nil {
		t.Error(err)
	}
	if got := present(t, db); len(got) != 20 {
		t.Errorf("%d profiles, want 20", len(got))
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := store.Open(ctx, dataDir, options(mem.Crash(nil), -1))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got := present(t, again); len(got) != 20 {
		t.Errorf("%d profiles after a crash, want 20", len(got))
	}
}
