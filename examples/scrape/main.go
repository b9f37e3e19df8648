// Scrape is a program that only has net/http/pprof, as many have: it counts primes and knows nothing of a server of profiles, which fetches them.
//
//	go run ./examples/scrape &
//	go run ./cmd/quantraband up --scrape examples/scrape/scrape.yaml
//
// It listens on 127.0.0.1:6060, or on the address that is its argument.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	_ "net/http/pprof"
	"os"
)

func main() {
	address := "127.0.0.1:6060"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("http://%s/debug/pprof\n", ln.Addr())
	primes := 0
	go func() {
		for n := 2; ; n++ {
			if isPrime(n) {
				primes++
			}
		}
	}()
	log.Fatal(http.Serve(ln, nil))
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
