package blocks

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
)

// exported is a tar of two blocks, and what it was made of.
func exported(t testing.TB) []byte {
	t.Helper()
	mem := vfs.NewMem()
	b := openBlocks(t, folder(t, mem), testOptions(mem))
	for n := range 2 {
		if err := b.Put(context.Background(), []store.Staged{stage(t, mem, n+1)}); err != nil {
			t.Fatal(err)
		}
	}
	settled(t, b)
	var out bytes.Buffer
	read := int64(0)
	m, err := b.Export(context.Background(), &out, ExportOptions{Progress: func(n int64) { read += n }})
	if err != nil || m.Blocks != 2 || m.Bytes == 0 || read != m.Bytes || b.ExportBytes() != read {
		t.Fatalf("export: %+v, %d bytes, %v", m, read, err)
	}
	return out.Bytes()
}

func TestMove(t *testing.T) {
	raw := exported(t)
	mem := vfs.NewMem()
	bk := folder(t, mem)
	b := openBlocks(t, bk, testOptions(mem))
	m, err := b.Import(t.Context(), bytes.NewReader(raw))
	if err != nil || m.Blocks != 2 || m.Profiles == 0 {
		t.Fatalf("%+v, %v", m, err)
	}
	if err := b.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := present(t, b); fmt.Sprint(got) != "[1 2]" {
		t.Fatalf("%v", got)
	}
	if m, err := b.Import(t.Context(), bytes.NewReader(raw)); err != nil || m.Blocks != 0 || m.Present != 2 {
		t.Errorf("again: %+v, %v", m, err)
	}
	var out bytes.Buffer
	if _, err := b.Export(t.Context(), &out, ExportOptions{}); err != nil || !bytes.Equal(out.Bytes(), raw) {
		t.Errorf("what was imported is exported as %d bytes, not the %d it came in; %v", out.Len(), len(raw), err)
	}
	if m, err := b.Export(t.Context(), io.Discard, ExportOptions{Tenant: "nobody"}); err != nil || m.Blocks != 0 {
		t.Errorf("of nobody: %+v, %v", m, err)
	}
	if m, err := b.Export(t.Context(), io.Discard, ExportOptions{To: epoch.AddDate(-1, 0, 0)}); err != nil || m.Blocks != 0 {
		t.Errorf("of before: %+v, %v", m, err)
	}
	// What was deleted here does not come back.
	for _, k := range b.now.Load().all {
		if err := b.putTombstone(t.Context(), k, "test"); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := b.Import(t.Context(), bytes.NewReader(raw)); err != nil || m.Blocks != 0 || m.Deleted != 2 {
		t.Errorf("after deletion: %+v, %v", m, err)
	}
}

// retar rewrites an archive entry by entry; change gives what to write in its place.
func retar(t testing.TB, raw []byte, change func(h *tar.Header, body []byte) ([]byte, bool)) []byte {
	t.Helper()
	var out bytes.Buffer
	tr, tw := tar.NewReader(bytes.NewReader(raw)), tar.NewWriter(&out)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			tw.Close()
			return out.Bytes()
		}
		body, e := io.ReadAll(tr)
		if err != nil || e != nil {
			t.Fatal(err, e)
		}
		body, keep := change(h, body)
		if !keep {
			continue
		}
		h.Size = int64(len(body))
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(body); err != nil {
			t.Fatal(err)
		}
	}
}

// TestImportRefused: what is not whole, or not a block's, is refused with a reason, and leaves nothing.
func TestImportRefused(t *testing.T) {
	raw := exported(t)
	named := func(file string, do func(h *tar.Header, body []byte) ([]byte, bool)) []byte {
		return retar(t, raw, func(h *tar.Header, body []byte) ([]byte, bool) {
			if strings.HasSuffix(h.Name, "/"+file) {
				return do(h, body)
			}
			return body, true
		})
	}
	for name, c := range map[string]struct {
		tar  []byte
		says string
	}{
		"not a tar":   {bytes.Repeat([]byte("x"), 1024), "store export"},
		"cut":         {raw[:len(raw)/3], "store export"},
		"no meta":     {named(block.MetaFile, func(*tar.Header, []byte) ([]byte, bool) { return nil, false }), "before block"},
		"a file less": {named(block.SamplesFile, func(*tar.Header, []byte) ([]byte, bool) { return nil, false }), block.SamplesFile},
		"a bit": {named(block.SamplesFile, func(_ *tar.Header, b []byte) ([]byte, bool) {
			b = slices.Clone(b)
			b[len(b)/2] ^= 1
			return b, true
		}), block.SamplesFile},
		"another's meta": {named(block.MetaFile, func(_ *tar.Header, b []byte) ([]byte, bool) {
			return bytes.Replace(b, []byte(`"local"`), []byte(`"other"`), 1), true
		}), "is of"},
		"out of the bucket": {named(block.SamplesFile, func(h *tar.Header, b []byte) ([]byte, bool) {
			h.Name = "../../etc/" + h.Name
			return b, true
		}), "not a file of a block"},
		"a link": {named(block.SamplesFile, func(h *tar.Header, b []byte) ([]byte, bool) {
			h.Typeflag, h.Linkname = tar.TypeSymlink, "/etc/passwd"
			return nil, true
		}), "not a file of a block"},
		"a tombstone": {named(block.SamplesFile, func(h *tar.Header, b []byte) ([]byte, bool) {
			h.Name = strings.Replace(h.Name, block.SamplesFile, TombstoneFile, 1)
			return b, true
		}), "not a file of a block"},
		"one file more": {named(block.SamplesFile, func(h *tar.Header, b []byte) ([]byte, bool) {
			h.Name += ".bak"
			return b, true
		}), "bytes"},
	} {
		mem := vfs.NewMem()
		bk := folder(t, mem)
		b := openBlocks(t, bk, testOptions(mem))
		m, err := b.Import(t.Context(), bytes.NewReader(c.tar))
		if !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, block.ErrCorrupt) || !strings.Contains(err.Error(), c.says) || m.Blocks != 0 {
			t.Errorf("%s: %+v, %v; it should say %q", name, m, err, c.says)
		}
		for o, err := range bk.List(t.Context(), "", false) {
			t.Errorf("%s: the bucket has %s, %v", name, o.Key, err)
		}
		if left, _ := mem.List(dataDir + "/" + workDir); len(left) != 0 {
			t.Errorf("%s: it left %v", name, left)
		}
	}
	other := testOptions(vfs.NewMem())
	other.Region = "mars"
	b := openBlocks(t, folder(t, other.FS), other)
	if _, err := b.Import(t.Context(), bytes.NewReader(raw)); !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), `"mars"`) {
		t.Errorf("another region: %v", err)
	}
}

// FuzzImport gives any bytes as an archive: an error, or blocks that pass the check.
func FuzzImport(f *testing.F) {
	raw := exported(f)
	f.Add(raw)
	f.Add(raw[:len(raw)/2])
	f.Add(retar(f, raw, func(h *tar.Header, b []byte) ([]byte, bool) { return b, !strings.HasSuffix(h.Name, "stacks.parquet") }))
	f.Fuzz(func(t *testing.T, raw []byte) {
		mem := vfs.NewMem()
		bk := folder(t, mem)
		opt := testOptions(mem)
		opt.Compact.Off = true
		b := openBlocks(t, bk, opt)
		m, err := b.Import(context.Background(), bytes.NewReader(raw))
		if err == nil && m.Blocks == 0 && m.Present == 0 && len(raw) > 10240 {
			return // padding, or empty
		}
		r, err := Fsck(context.Background(), bk, FsckOptions{FS: mem, Now: opt.Now})
		if err != nil || r.Damaged != 0 || int(r.Blocks) != m.Blocks {
			t.Fatalf("%d blocks were taken in, the check finds %+v, %v", m.Blocks, r, err)
		}
	})
}
