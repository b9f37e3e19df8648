package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestForgetStart: what start-up has mapped of the program itself is given back, but for what was written to before it was protected, as the dynamic linker
// does; and the program goes on.
func TestForgetStart(t *testing.T) {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(page)
	page[0] = 'x' // it was 0x7f, of an ELF file
	if err := unix.Mprotect(page, unix.PROT_READ); err != nil {
		t.Fatal(err)
	}
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
	if page[0] != 'x' {
		t.Errorf("what was written is %#x again", page[0])
	}
}
