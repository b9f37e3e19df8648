//go:build linux || darwin

package wasm

import (
	"golang.org/x/sys/unix"

	"github.com/tetratelabs/wazero/experimental"
)

// memories are those of one module, outside of Go's heap: what a module may have is set aside as addresses at once, so growing copies
// nothing, and the system has it back when the module has ended. A module's code goes by addresses, so nothing is given back before.
type memories struct{ mapped [][]byte }

// Allocate implements [experimental.MemoryAllocator].
func (m *memories) Allocate(_, most uint64) experimental.LinearMemory {
	b, err := unix.Mmap(-1, 0, int(most), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return noMemory{} // the module is refused: it has less than it begins with
	}
	m.mapped = append(m.mapped, b)
	return linear(b)
}

// release is called when no code of the module's runs any more.
func (m *memories) release() {
	for _, b := range m.mapped {
		_ = unix.Munmap(b) // it is ours and whole
	}
	m.mapped = nil
}

// linear is one memory, with all that it may become.
type linear []byte

func (l linear) Reallocate(size uint64) []byte {
	if size > uint64(len(l)) {
		return nil
	}
	return l[:size]
}

func (l linear) Free() {}

type noMemory struct{}

func (noMemory) Reallocate(uint64) []byte { return nil }
func (noMemory) Free()                    {}
