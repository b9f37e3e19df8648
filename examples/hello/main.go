// Hello is the smallest program that profiles itself: it counts primes and
// sends where the time goes to the Quantra-L server on this machine.
//
//	go run ./cmd/quantraband up &
//	go run ./examples/hello
//
// then open http://localhost:4040. Ctrl-C ends it.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/quantra-l/quantra/agent"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	a, err := agent.Start(ctx, agent.Options{Service: "hello"})
	if err != nil {
		log.Print(err) // the program runs on, unprofiled
	}
	n := countPrimes(ctx)
	if err := a.Stop(context.Background()); err != nil {
		log.Print(err)
	}
	fmt.Printf("%d primes, %d profiles uploaded\n", n, a.Status().Uploaded)
}

func countPrimes(ctx context.Context) (n int) {
	for i := 2; ctx.Err() == nil; i++ {
		if isPrime(i) {
			n++
		}
	}
	return n
}

//go:noinline
func isPrime(n int) bool {
	for d := 2; d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return true
}
