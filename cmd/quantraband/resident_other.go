//go:build !linux

package main

// forgetStart is of Linux.
func forgetStart() {}
