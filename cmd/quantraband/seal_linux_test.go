package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// onTerminal runs quantraband as a person does: a terminal is its input, output and where it asks. When the screen shows a prompt, the
// next answer is typed. It returns the screen and the exit code.
func onTerminal(t *testing.T, answers []string, args ...string) (string, int) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("quantraband", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	var screen bytes.Buffer
	seen := 0
	for b := make([]byte, 1024); ; {
		n, err := master.Read(b) // EIO when the other side is closed
		screen.Write(b[:n])
		if text := screen.Bytes()[seen:]; len(answers) > 0 && bytes.HasSuffix(text, []byte(": ")) {
			waitNoEcho(t, master)
			seen = screen.Len()
			if _, err := master.WriteString(answers[0] + "\n"); err != nil {
				t.Error(err)
			}
			answers = answers[1:]
		}
		if err != nil {
			break
		}
	}
	if err := cmd.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	if len(answers) > 0 {
		t.Errorf("it did not ask for %q: %s", answers, screen.String())
	}
	return screen.String(), cmd.ProcessState.ExitCode()
}

// waitNoEcho waits until the terminal shows nothing of what is typed: the prompt comes just before.
func waitNoEcho(t *testing.T, master *os.File) {
	t.Helper()
	for range 1_000_000 {
		s, err := unix.IoctlGetTermios(int(master.Fd()), unix.TCGETS)
		if err != nil || s.Lflag&unix.ECHO == 0 {
			return
		}
	}
	t.Error("what is typed is shown")
}

// TestTerminal: a passphrase is typed twice and not shown; neither binary bytes nor a secret key come to a terminal.
func TestTerminal(t *testing.T) {
	dir := t.TempDir()
	key, message := filepath.Join(dir, "a.key"), filepath.Join(dir, "message")
	if err := os.WriteFile(message, []byte("hello\x1b[31m"), 0o600); err != nil {
		t.Fatal(err)
	}
	if screen, code := onTerminal(t, []string{"one word", "another"}, "key", "generate", key); code != exitFailed || !strings.Contains(screen, "the two passphrases differ") {
		t.Errorf("%d %s", code, screen)
	}
	if screen, code := onTerminal(t, []string{""}, "key", "generate", key); code != exitUsage || !strings.Contains(screen, "say --no-passphrase") {
		t.Errorf("%d %s", code, screen)
	}
	if screen, code := onTerminal(t, nil, "key", "generate", key, "--no-passphrase"); code != 0 {
		t.Fatalf("%d %s", code, screen)
	}
	for _, args := range [][]string{{"encrypt", "-r", key, message}, {"key", "export", key, "--as", "openssh"}} {
		if screen, code := onTerminal(t, nil, args...); code != exitUsage || !strings.Contains(screen, "on a terminal") && !strings.Contains(screen, "to a terminal") {
			t.Errorf("%v: %d %q", args, code, screen)
		}
	}
	if screen, code := onTerminal(t, nil, "encrypt", "-r", key, message, "-o", message+".age"); code != 0 {
		t.Fatalf("%d %s", code, screen)
	}
	if screen, code := onTerminal(t, nil, "decrypt", "-k", key, message+".age"); code != exitUsage || strings.Contains(screen, "\x1b") {
		t.Errorf("%d %q", code, screen)
	}
	screen, code := onTerminal(t, []string{"correct horse", "correct horse"}, "key", "passwd", key)
	if code != 0 || strings.Contains(screen, "correct horse") || !strings.Contains(screen, "New passphrase of "+key+": ") {
		t.Errorf("%d %s", code, screen)
	}
	if raw, err := os.ReadFile(key); err != nil || !bytes.Contains(raw, []byte("AGE ENCRYPTED FILE")) {
		t.Errorf("%s %v", raw, err)
	}
}
