package audit_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/zerotrust/audit"
)

// frozen is the fixture: a log of 300 entries in tiles and three in a record, as the first version wrote it.
const frozen = "testdata/v1"

// TestFrozen: the bytes are those of docs/format/audit.md, for ever: what was written is read, and what is written is the same.
func TestFrozen(t *testing.T) {
	m := disk(t)
	fill(t, m, 300)
	l := open(t, options(m))
	for i := range 3 {
		_, err := l.Append(context.Background(), entry(300+i), i == 2)
		must(t, err)
	}
	all := files(t, m, dir)
	if *update {
		must(t, os.RemoveAll(frozen))
		for _, name := range all {
			rel, err := filepath.Rel(dir, name)
			must(t, err)
			if rel == "LOCK" {
				continue
			}
			must(t, os.MkdirAll(filepath.Join(frozen, filepath.Dir(rel)), 0o777))
			must(t, os.WriteFile(filepath.Join(frozen, rel), read(t, m, name), 0o666))
		}
	}
	var want []string
	must(t, filepath.WalkDir(frozen, func(name string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			want = append(want, name)
		}
		return err
	}))
	if len(want) != len(all)-1 || len(want) < 7 { // LOCK is in none
		t.Fatalf("the fixture has %d files, the log %d", len(want), len(all)-1)
	}
	for _, name := range want {
		rel, err := filepath.Rel(frozen, name)
		must(t, err)
		if !bytes.Equal(read(t, vfs.Default, name), read(t, m, filepath.Join(dir, rel))) {
			t.Errorf("%s is written otherwise", rel)
		}
	}
	r, err := audit.Verify(context.Background(), vfs.Default, frozen, audit.VerifyOptions{Trust: []audit.PublicKey{{Name: "example.com/audit", Key: keyOf(1).Public()}}})
	if err != nil || r.Checkpoint.Size != 303 || r.Published != 300 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestPage: the texts that docs/format/audit.md shows are the fixture's.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/format/audit.md")
	must(t, err)
	for _, name := range []string{"checkpoint", "keys/0"} {
		if text := strings.TrimSpace(string(read(t, vfs.Default, filepath.Join(frozen, name)))); !strings.Contains(string(page), text) {
			t.Errorf("the page has another %s", name)
		}
	}
}
