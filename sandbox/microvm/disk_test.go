//go:build linux && (amd64 || arm64)

package microvm

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestModules(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"modules.dep": "kernel/v/virtio.ko:\nkernel/v/virtio_ring.ko: kernel/v/virtio.ko\nkernel/v/virtio_pci.ko: kernel/v/virtio_ring.ko kernel/v/virtio.ko\n" +
			"kernel/c/virtio-console.ko: kernel/v/virtio_ring.ko kernel/v/virtio.ko\nkernel/x/xz.ko.xz:\n",
		"modules.builtin": "kernel/drivers/virtio/virtio_mmio.ko\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := modulesFor(dir, []string{"virtio_pci", "virtio_console", "virtio_mmio"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		got[i], _ = filepath.Rel(dir, got[i])
	}
	want := []string{"kernel/v/virtio.ko", "kernel/v/virtio_ring.ko", "kernel/v/virtio_pci.ko", "kernel/c/virtio-console.ko"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, missing := range []string{"vsock", "xz"} {
		if _, err := modulesFor(dir, []string{missing}); err == nil {
			t.Errorf("%s was found", missing)
		}
	}
	if _, err := modulesFor(t.TempDir(), []string{"x"}); err == nil {
		t.Error("a folder without lists was taken")
	}
}

func TestCompareVersions(t *testing.T) {
	sorted := []string{"vmlinuz-5.10.0-9-amd64", "vmlinuz-5.10.0-10-amd64", "vmlinuz-6.1.0-56-amd64", "vmlinuz-6.1.0-56-cloud-amd64", "vmlinuz-6.12"}
	for i, a := range sorted {
		for j, b := range sorted {
			if c := compareVersions(a, b); (c < 0) != (i < j) || (c == 0) != (i == j) {
				t.Errorf("%s and %s: %d", a, b, c)
			}
		}
	}
}

// What is trimmed is a program still, and smaller; what is none stays as it is.
func TestTrim(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if got := trim(b); len(got) >= len(b) && bytes.HasPrefix(b, []byte("\x7fELF")) {
		t.Errorf("%d bytes became %d", len(b), len(got))
	}
	for _, other := range []string{"", "x", "\x7fELF", strings.Repeat("\x7fELF\x02\x01\x01", 100)} {
		if got := trim([]byte(other)); string(got) != other {
			t.Errorf("%.10q became %d bytes", other, len(got))
		}
	}
}
