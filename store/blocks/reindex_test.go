package blocks

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/bucket"
)

// TestReindex: whatever the copies say, only the bucket is believed; what waits for it is not lost.
func TestReindex(t *testing.T) {
	mem := vfs.NewMem()
	far := &hooked{Bucket: folder(t, mem), url: "s3://far", before: func(string, string) error { return nil }}
	fill(t, mem, far, stage(t, mem, 1), stage(t, mem, 2))
	copies := filepath.Join(dataDir, metasDir)
	// Without the blocks' own copies a start fetches what it must know, and keeps that.
	if err := vfs.RemoveAll(mem, filepath.Join(dataDir, localDir)); err != nil {
		t.Fatal(err)
	}
	openBlocks(t, far, testOptions(mem)).Close()
	// Copies that lie: a good checksum, another block.
	names, err := mem.List(copies)
	if err != nil || len(names) == 0 {
		t.Fatalf("copies: %v, %v", names, err)
	}
	if err := mem.Rename(filepath.Join(copies, names[0]), filepath.Join(copies, idOf(7).String())); err != nil {
		t.Fatal(err)
	}
	queue := filepath.Join(dataDir, queueDir, idOf(3).String())
	if err := mem.Rename(stage(t, mem, 3).Dir, queue); err != nil {
		t.Fatal(err)
	}
	st, err := Reindex(t.Context(), far, testOptions(mem))
	if err != nil || st.Asked != 3 {
		t.Fatalf("%+v, %v", st, err)
	}
	if _, err := mem.Stat(filepath.Join(copies, idOf(7).String())); err == nil {
		t.Error("a copy of before is still there")
	}
	if got := present(t, openBlocks(t, far, testOptions(mem))); fmt.Sprint(got) != "[1 2 3]" {
		t.Errorf("%v", got)
	}
}

func TestReindexRefused(t *testing.T) {
	mem := vfs.NewMem()
	b := folder(t, mem)
	bs, err := Open(t.Context(), b, testOptions(mem))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Reindex(t.Context(), b, testOptions(mem)); !errors.Is(err, vfs.ErrLocked) || !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("while a server has it: %v", err)
	}
	if err := bs.Close(); err != nil {
		t.Fatal(err)
	}
	away := &hooked{Bucket: b, before: func(op, _ string) error {
		if op == "list" {
			return errAway
		}
		return nil
	}}
	if _, err := Reindex(context.Background(), away, testOptions(mem)); !errors.Is(err, bucket.ErrUnavailable) {
		t.Errorf("the bucket is away: %v", err)
	}
}
