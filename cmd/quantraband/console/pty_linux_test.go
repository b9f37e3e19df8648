package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pty is a pseudo-terminal: what the console writes to its far end is kept, and what is
// written to it are keys.
type pty struct {
	master, slave *os.File
	mu            sync.Mutex
	out           bytes.Buffer
	more          chan struct{}
}

func newPty(t *testing.T) *pty {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &pty{master: master, slave: slave, more: make(chan struct{}, 1)}
	p.resize(t, 100, 30)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			p.mu.Lock()
			p.out.Write(buf[:n])
			p.mu.Unlock()
			select {
			case p.more <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		master.WriteString("x\n") // ends the read of a key that nobody waits for any more
		slave.Close()
		master.Close()
	})
	return p
}

func (p *pty) resize(t *testing.T, width, height uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(p.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height}); err != nil {
		t.Fatal(err)
	}
}

// patience is how long a test waits for an event before it gives up. It is no promise about speed.
const patience = 30 * time.Second

// await waits until the console has written text after what was seen before, and forgets that.
func (p *pty) await(t *testing.T, text string) {
	t.Helper()
	for limit := time.After(patience); ; {
		p.mu.Lock()
		_, after, found := strings.Cut(p.out.String(), text)
		if found {
			p.out.Reset()
			p.out.WriteString(after)
		}
		p.mu.Unlock()
		if found {
			return
		}
		select {
		case <-p.more:
		case <-limit:
			t.Fatalf("%q does not come; there is %q", text, p.out.String())
		}
	}
}

func (p *pty) press(t *testing.T, keys string) {
	t.Helper()
	if _, err := p.master.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

func (p *pty) modes(t *testing.T) unix.Termios {
	t.Helper()
	m, err := unix.IoctlGetTermios(int(p.slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *m
}

// TestTerminal: on a real terminal keys come and the screen follows its size; and however it ends,
// the terminal is as it was before.
func TestTerminal(t *testing.T) {
	ended := errors.New("ended")
	for name, end := range map[string]struct {
		how  func(t *testing.T, p *pty, cancel context.CancelCauseFunc)
		want error
	}{
		"q":      {func(t *testing.T, p *pty, _ context.CancelCauseFunc) { p.press(t, "q") }, nil},
		"ctrl-c": {func(t *testing.T, p *pty, _ context.CancelCauseFunc) { p.press(t, "\x03") }, nil},
		"signal": {func(t *testing.T, p *pty, cancel context.CancelCauseFunc) { cancel(ended) }, ended},
		"hangup": {func(t *testing.T, p *pty, _ context.CancelCauseFunc) { syscall.Kill(os.Getpid(), syscall.SIGHUP) }, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPty(t)
			before := p.modes(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			done := make(chan error, 1)
			go func() { done <- Run(ctx, p.slave, p.slave, source(t), Options{Colour: true, Every: time.Hour}) }()
			p.await(t, enterScreen)
			p.await(t, "main.main")
			if p.modes(t) == before {
				t.Error("keys do not come one by one")
			}
			p.press(t, "s\x1b[B\r")
			p.await(t, "[states]")
			p.await(t, "▾ IO wait") // the second of the states, opened
			p.resize(t, 10, 3)
			p.await(t, "too small")
			p.resize(t, 100, 30)
			p.await(t, "[states]")
			end.how(t, p, cancel)
			if err := <-done; !errors.Is(err, end.want) {
				t.Errorf("it ends with %v, want %v", err, end.want)
			}
			p.await(t, leaveScreen)
			if p.modes(t) != before {
				t.Error("the terminal is not as it was")
			}
		})
	}
}

// TestTerminalPanic: a fault of ours leaves the terminal as it was, too.
func TestTerminalPanic(t *testing.T) {
	p := newPty(t)
	before := p.modes(t)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		Run(t.Context(), p.slave, p.slave, nil, Options{}) // without a source
	}()
	p.await(t, leaveScreen)
	if p.modes(t) != before {
		t.Error("the terminal is not as it was")
	}
}

// TestNoTerminal: what is no terminal is refused.
func TestNoTerminal(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Run(t.Context(), f, f, source(t), Options{}); err == nil {
		t.Error("taken")
	}
}
