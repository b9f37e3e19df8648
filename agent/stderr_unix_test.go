//go:build unix

package agent

import (
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// redirectStderr makes descriptor 2 f's, until undo.
func redirectStderr(t *testing.T, f *os.File) (undo func()) {
	t.Helper()
	was, err := syscall.Dup(2)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Dup2(int(f.Fd()), 2); err != nil {
		t.Fatal(err)
	}
	return func() {
		unix.Dup2(was, 2)
		syscall.Close(was)
	}
}
