//go:build amd64 || arm64

package microvm

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/quantra-l/quantra/sandbox/microvm/guest"
)

// archive writes a cpio archive of the "newc" form, which the kernel unpacks into its first root
// (Documentation/driver-api/early-userspace/buffer-format.rst).
type archive struct {
	w     io.Writer
	inode uint32
	n     int64
	err   error
}

// Modes of entries (stat(2)).
const (
	modeDir    = 0o040000
	modeFile   = 0o100000
	modeLink   = 0o120000
	modeDevice = 0o020000
)

func (a *archive) write(b []byte) {
	if a.err == nil {
		_, a.err = a.w.Write(b)
		a.n += int64(len(b))
	}
}

func (a *archive) pad() {
	if over := a.n % 4; over != 0 {
		a.write(make([]byte, 4-over))
	}
}

func (a *archive) entry(name string, mode, major, minor uint32, data []byte) {
	a.inode++
	var b bytes.Buffer
	b.WriteString("070701")
	for _, v := range []uint32{a.inode, mode, 0, 0, 1, 0, uint32(len(data)), 0, 0, major, minor, uint32(len(name) + 1), 0} {
		fmt.Fprintf(&b, "%08X", v)
	}
	b.WriteString(name)
	b.WriteByte(0)
	a.write(b.Bytes())
	a.pad()
	a.write(data)
	a.pad()
}

// disk is the root of a machine: init, handler, modules.
func disk(w io.Writer, initBinary, handler []byte, modules []string) error {
	a := &archive{w: w}
	for _, dir := range []string{"dev", "sys", strings.TrimPrefix(guest.ModulesPath, "/")} {
		a.entry(dir, modeDir|0o755, 0, 0, nil)
	}
	a.entry("dev/console", modeDevice|0o600, 5, 1, nil)
	a.entry("dev/null", modeDevice|0o666, 1, 3, nil) // Go opens it for each of 0, 1, 2 that is closed
	a.entry("init", modeFile|0o755, 0, 0, trim(initBinary))
	if bytes.Equal(initBinary, handler) {
		a.entry(strings.TrimPrefix(guest.HandlerPath, "/"), modeLink|0o777, 0, 0, []byte("init"))
	} else {
		a.entry(strings.TrimPrefix(guest.HandlerPath, "/"), modeFile|0o755, 0, 0, trim(handler))
	}
	for i, path := range modules {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		a.entry(fmt.Sprintf("%s/%02d-%s", strings.TrimPrefix(guest.ModulesPath, "/"), i, filepath.Base(path)), modeFile|0o644, 0, 0, b)
	}
	a.entry("TRAILER!!!", 0, 0, 0, nil)
	return a.err
}

// trim leaves away what a program does not need to run: debugging information is most of a Go binary, and a machine's disk is its memory.
// What is no ELF file of 64 bits stays as it is.
func trim(b []byte) []byte {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil || f.Class != elf.ELFCLASS64 || f.ByteOrder != binary.LittleEndian {
		return b
	}
	var end uint64
	for _, p := range f.Progs {
		end = max(end, p.Off+p.Filesz)
	}
	if end > uint64(len(b)) || end < 64 {
		return b
	}
	out := slices.Clone(b[:end])
	// The header no longer points to sections: e_shoff; e_shentsize, e_shnum and e_shstrndx (elf(5)).
	clear(out[40:48])
	clear(out[58:64])
	return out
}

// wanted are the modules that a machine's drivers are, where the kernel does not have them built in.
var wanted = map[string][]string{
	"qemu":        {"virtio_pci", "virtio_console"},
	"firecracker": {"virtio_mmio", "vmw_vsock_virtio_transport"},
}

// modulesFor lists the files of modules with what they depend on, in the order to load them, by the kernel's modules.dep and modules.builtin.
func modulesFor(dir string, names []string) ([]string, error) {
	if dir == "" {
		return nil, nil // a kernel that has all of it built in
	}
	dep, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, err
	}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range names {
		files, err := moduleAndDeps(string(dep), name)
		if err != nil {
			if strings.Contains(string(builtin), "/"+name+".ko") {
				continue
			}
			return nil, fmt.Errorf("the kernel of %s: %w", dir, err)
		}
		for _, f := range files {
			if path := filepath.Join(dir, f); !slices.Contains(out, path) {
				out = append(out, path)
			}
		}
	}
	return out, nil
}

// moduleAndDeps reads modules.dep(5): a module's file, a colon, and the files that it needs, the nearest first.
func moduleAndDeps(dep, name string) ([]string, error) {
	for line := range strings.Lines(dep) {
		file, needs, ok := strings.Cut(strings.TrimSpace(line), ":")
		base := filepath.Base(file)
		if !ok || strings.ReplaceAll(strings.TrimSuffix(base, ".ko"), "-", "_") != name {
			continue
		}
		files := append([]string{file}, strings.Fields(needs)...)
		slices.Reverse(files)
		return files, nil
	}
	return nil, fmt.Errorf("it has no module %s, built in or as an uncompressed file", name)
}

// findKernel is the newest kernel of /boot that has modules.
func findKernel() (kernel, modules string, err error) {
	found, err := filepath.Glob("/boot/vmlinuz-*")
	if err != nil {
		return "", "", err
	}
	slices.SortFunc(found, func(a, b string) int { return compareVersions(b, a) })
	for _, k := range found {
		dir := filepath.Join("/lib/modules", strings.TrimPrefix(filepath.Base(k), "vmlinuz-"))
		if _, err := os.Stat(filepath.Join(dir, "modules.dep")); err == nil {
			return k, dir, nil
		}
	}
	return "", "", errors.New("no kernel for machines in /boot with its modules in /lib/modules (Debian: linux-image-cloud-amd64)")
}

// compareVersions orders names with numbers in them.
func compareVersions(a, b string) int {
	for a != "" && b != "" {
		da, db := digits(a), digits(b)
		if da > 0 && db > 0 {
			x, y := strings.TrimLeft(a[:da], "0"), strings.TrimLeft(b[:db], "0")
			if len(x) != len(y) {
				return len(x) - len(y)
			}
			if c := strings.Compare(x, y); c != 0 {
				return c
			}
			a, b = a[da:], b[db:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}
