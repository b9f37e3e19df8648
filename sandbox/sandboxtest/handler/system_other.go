//go:build !linux

package main

import "fmt"

func attemptSystem(what, _ string) (string, error) {
	return "", fmt.Errorf("%s: not on this system", what)
}
