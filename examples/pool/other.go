//go:build !unix

// Pool is the smallest supervisor that quantraband can scale by commands. It needs Unix, for its signals.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "pool: it needs Unix")
	os.Exit(1)
}
