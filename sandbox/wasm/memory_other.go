//go:build !linux && !darwin

package wasm

import "github.com/tetratelabs/wazero/experimental"

// memories are Go's here: a module that grows is copied.
type memories struct{}

// Allocate implements [experimental.MemoryAllocator].
func (m *memories) Allocate(least, _ uint64) experimental.LinearMemory {
	return &linear{make([]byte, 0, least)}
}

func (m *memories) release() {}

type linear struct{ b []byte }

func (l *linear) Reallocate(size uint64) []byte {
	if size > uint64(cap(l.b)) {
		l.b = append(l.b[:cap(l.b)], make([]byte, size-uint64(cap(l.b)))...)
	}
	l.b = l.b[:size]
	return l.b
}

func (l *linear) Free() {}
