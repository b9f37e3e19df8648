// Program small writes small.trace to standard output, and with an argument long.trace, which has
// several generations; build it with -trimpath and run it with GOMAXPROCS=2.
package main

import (
	"log"
	"os"
	"runtime"
	"runtime/trace"
	"sync"
	"time"
)

var sink []byte

func work(done *sync.WaitGroup, c chan int) {
	for n := range c {
		sink = make([]byte, n)
	}
	done.Done()
}

func main() {
	var done sync.WaitGroup
	c := make(chan int)
	done.Add(3)
	go work(&done, c)
	if err := trace.Start(os.Stdout); err != nil {
		log.Fatal(err)
	}
	for range 2 {
		go work(&done, c)
	}
	for range 10 {
		c <- 1 << 10
	}
	runtime.GC()
	if len(os.Args) > 1 {
		time.Sleep(2500 * time.Millisecond) // the runtime begins a generation each second
	}
	close(c)
	done.Wait()
	trace.Stop()
}
