package spans

import (
	"bytes"
	"iter"
	"runtime"
	"sync"
)

// goroutineID is the number of this goroutine, which no other has or will have.
//
// The runtime tells it in runtime.Stack alone, whose first line is "goroutine
// 18 [running]:". But Stack writes down the whole stack, however short the
// buffer: a microsecond for each frame, 20 where a request is handled.
//
// So the question is asked by a goroutine whose stack has two frames, of which Stack says
// "created by iter.Pull[...] in goroutine 18". That is a coroutine: the thread switches to it
// and back directly, no scheduler takes part and no other processor is woken, as a go
// statement would. It costs the same at any depth (BenchmarkGoroutineID).
func goroutineID() uint64 {
	a := askers.Get().(*asker)
	next, _ := iter.Pull(a.seq)
	next() // runs ask to its end; there is nothing to stop
	id, ok := creator(a.buf[:a.n])
	askers.Put(a)
	if !ok {
		return goroutineIDDirect()
	}
	return id
}

// goroutineIDDirect is goroutineID, slower the deeper the stack: for a runtime that words it another way.
func goroutineIDDirect() uint64 {
	var b [64]byte
	id, _ := number(bytes.TrimPrefix(b[:runtime.Stack(b[:], false)], []byte("goroutine ")))
	return id
}

// asker is a coroutine's body and what it says. Two kilobytes have room for the names of two
// functions and their files.
type asker struct {
	seq iter.Seq[struct{}]
	buf [2048]byte
	n   int
}

var askers = sync.Pool{New: func() any {
	a := &asker{}
	a.seq = a.ask
	return a
}}

func (a *asker) ask(func(struct{}) bool) { a.n = runtime.Stack(a.buf[:], false) }

// creator is the goroutine that created the one whose stack this is.
func creator(stack []byte) (uint64, bool) {
	_, rest, _ := bytes.Cut(stack, []byte("\ncreated by "))
	line, _, whole := bytes.Cut(rest, []byte("\n"))
	_, digits, ok := bytes.Cut(line, []byte(" in goroutine "))
	if !ok || !whole {
		return 0, false
	}
	return number(digits)
}

// number reads the digits that b begins with.
func number(b []byte) (n uint64, ok bool) {
	for _, c := range b {
		if c < '0' || c > '9' {
			break
		}
		n, ok = n*10+uint64(c-'0'), true
	}
	return n, ok
}
