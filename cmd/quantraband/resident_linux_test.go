package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestForgetStart: what start-up has mapped of the program itself is given back, and the program goes on.
func TestForgetStart(t *testing.T) {
	mapped := func() (kib int) {
		raw, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		_, of, _ := strings.Cut(string(raw), "RssFile:")
		if _, err := fmt.Sscan(of, &kib); err != nil {
			t.Fatal(err)
		}
		return kib
	}
	before := mapped()
	forgetStart()
	if after := mapped(); after > before*3/4 {
		t.Errorf("of the %d KiB of its file that were mapped, %d are", before, after)
	}
}
