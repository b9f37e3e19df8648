// Program states has a goroutine in each state that a program can put one in. The dumps beside it
// are what it printed, built with -trimpath, of: states 1, states 2, states 2 minutes, states throw
// with GOTRACEBACK=crash (and cut), and states 2 with GODEBUG=tracebackancestors=5.
package main

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"sync"
	"time"
)

type T[A any] struct{}

func (t *T[A]) work(c chan int) { <-c }

func deep(n int, c chan int) {
	if n == 0 {
		<-c
		return
	}
	deep(n-1, c)
}

func spawn(c chan int) {
	go func() { <-c }()
}

func main() {
	c, s := make(chan int), make(chan int)
	var mu sync.Mutex
	var rw sync.RWMutex
	var wg sync.WaitGroup
	wg.Add(1)
	cond := sync.NewCond(&sync.Mutex{})
	mu.Lock()
	rw.Lock()
	go (&T[int]{}).work(c)
	go func() { s <- 1 }()
	go func() { var n chan int; <-n }()
	go func() { var n chan int; n <- 1 }()
	go func() { select {} }()
	go func() {
		select {
		case <-c:
		case s <- 1:
		}
	}()
	go func() { mu.Lock() }()
	go func() { rw.RLock() }()
	go func() { rw.Lock() }()
	go func() { wg.Wait() }()
	go func() { cond.L.Lock(); cond.Wait() }()
	go func() { time.Sleep(time.Hour) }()
	go func() { runtime.LockOSThread(); <-c }()
	go func() {
		for {
		}
	}()
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	go l.Accept()
	r, w, _ := os.Pipe()
	defer w.Close()
	go func() { bufio.NewReader(r).ReadByte() }()
	sg := make(chan os.Signal, 1)
	signal.Notify(sg, os.Interrupt)
	go pprof.Do(context.Background(), pprof.Labels("span", "abc", "op", "x y\n]"), func(context.Context) { <-c })
	go deep(150, c)
	for range 20 {
		go spawn(c) // each ends, and its child lives
	}
	for range 100 {
		go (&T[string]{}).work(c)
	}
	time.Sleep(time.Second)
	runtime.GC() // from now on the runtime knows since when they wait
	wait := time.Second
	if len(os.Args) > 2 {
		wait = 130 * time.Second
	}
	time.Sleep(wait)
	switch os.Args[1] {
	case "crash":
		panic("end")
	case "throw":
		m := map[int]int{}
		go func() {
			for {
				m[1]++
			}
		}()
		for {
			m[2]++
		}
	case "1":
		pprof.Lookup("goroutine").WriteTo(os.Stdout, 1)
	case "2":
		pprof.Lookup("goroutine").WriteTo(os.Stdout, 2)
	}
}
