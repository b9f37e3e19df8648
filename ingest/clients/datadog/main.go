// Client is a busy program that profiles itself with Datadog's client for Go, until it is ended, as the test of ingest that runs it says. It is a
// module of its own, so that its dependencies are not ours.
//
//	client HOST:PORT
package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/DataDog/dd-trace-go/v2/profiler"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "client: one argument: HOST:PORT")
		os.Exit(2)
	}
	runtime.SetMutexProfileFraction(1)
	err := profiler.Start(
		profiler.WithAgentAddr(os.Args[1]), profiler.WithService("dd.test"), profiler.WithEnv("ci"), profiler.WithVersion("v3"), profiler.WithTags("team:shop"),
		profiler.WithPeriod(time.Second), profiler.CPUDuration(500*time.Millisecond),
		profiler.WithProfileTypes(profiler.CPUProfile, profiler.HeapProfile, profiler.MutexProfile, profiler.GoroutineProfile),
	)
	if err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
	busyWork()
}

var kept [][]byte

func busyWork() {
	sum := sha256.Sum256(nil)
	for i := 0; ; i++ {
		sum = sha256.Sum256(sum[:])
		if i%1000 == 0 {
			if kept = append(kept, make([]byte, 64<<10)); len(kept) > 64 {
				kept = nil
			}
		}
	}
}
