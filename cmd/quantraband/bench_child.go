package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/quantra-l/quantra/bench/load"
)

const (
	childReady = 30 * time.Second // to listen
	childEnds  = 20 * time.Second // to end when asked, its last uploads included
	tailBytes  = 2 << 10          // of standard error that an error shows
	lineBytes  = load.MaxLine     // of one line of standard output
)

// benchChild is a process of a benchmark: started by us, and ended by us whatever happens.
type benchChild struct {
	name   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser // closed to end it, where it listens to that
	lines  chan string    // of standard output, the first few; closed at its end
	tail   *tail
	exited chan struct{}
	err    error // how it ended; written before exited closes
}

// startChild starts a process with these variables beside our environment. stderr, if not nil, gets what it writes to its own.
func startChild(name string, env []string, stderr io.Writer, args ...string) (*benchChild, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	keepChild(cmd)
	c := &benchChild{name: name, cmd: cmd, lines: make(chan string, 64), tail: &tail{also: stderr}, exited: make(chan struct{})}
	cmd.Stderr, cmd.Stdout = c.tail, &lineWriter{to: c.lines}
	cmd.WaitDelay = time.Second // for a pipe that something it started holds open
	var err error
	if c.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		c.err = cmd.Wait() // it has written its last when this returns
		close(c.lines)
		close(c.exited)
	}()
	return c, nil
}

// lineWriter hands on each line that is written. Those that nobody takes, and what of a line is too long, are dropped.
type lineWriter struct {
	to  chan<- string
	buf []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		if len(w.buf) < lineBytes {
			w.buf = append(w.buf, line...)
		}
		if line[len(line)-1] != '\n' {
			break
		}
		select {
		case w.to <- strings.TrimRight(string(w.buf), "\r\n"):
		default:
		}
		w.buf = nil
	}
	return len(p), nil
}

func (c *benchChild) pid() int { return c.cmd.Process.Pid }

// died is the error of a child that ended before its time.
func (c *benchChild) died() error {
	<-c.exited
	text := oneLine(c.tail.String())
	if text == "" {
		text = "it wrote nothing to standard error"
	}
	if c.err == nil {
		return fmt.Errorf("%s ended before its time: %s", c.name, text)
	}
	return fmt.Errorf("%s ended before its time: %w: %s", c.name, c.err, text)
}

// line waits for a line that begins with prefix, and is what follows.
func (c *benchChild) line(ctx context.Context, prefix string) (string, error) {
	timer := time.NewTimer(childReady)
	defer timer.Stop()
	for {
		select {
		case line, ok := <-c.lines:
			if !ok {
				return "", c.died()
			}
			if rest, ok := strings.CutPrefix(strings.TrimSpace(line), prefix); ok {
				return strings.TrimSpace(rest), nil
			}
		case <-timer.C:
			return "", fmt.Errorf("%s has not written %q after %v", c.name, prefix, childReady)
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// end asks the child to end, by the end of its input and by a signal if that is its way, and kills it if it does not.
func (c *benchChild) end(signal bool) error {
	c.stdin.Close()
	if signal {
		interruptChild(c.cmd) // what does not hear it is killed
	}
	timer := time.NewTimer(childEnds)
	defer timer.Stop()
	select {
	case <-c.exited:
	case <-timer.C:
		c.kill()
		return fmt.Errorf("%s did not end within %v and was killed", c.name, childEnds)
	}
	killChild(c.cmd) // what it may have left of its group
	return c.err
}

// kill ends the child at once. After it, and after end, it is gone.
func (c *benchChild) kill() {
	killChild(c.cmd)
	<-c.exited
}

// tail keeps the end of what is written.
type tail struct {
	mu   sync.Mutex
	buf  []byte
	also io.Writer // gets all of it; nil is none
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.also != nil {
		t.also.Write(p) // a terminal that is gone is no reason to end
	}
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailBytes; over > tailBytes {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.buf
	if over := len(b) - tailBytes; over > 0 {
		b = b[over:]
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			b = b[i+1:]
		}
		return "... " + string(b)
	}
	return string(b)
}

// benchServer is a server of our own, on a folder of its own.
type benchServer struct {
	*benchChild
	url string
}

// startBenchServer runs `up` and returns when it is ready.
func startBenchServer(ctx context.Context, data string, stderr io.Writer, args ...string) (*benchServer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args = append([]string{self, "up", "--data", data, "--listen", "127.0.0.1:0", "--no-self-profile", "--log-level", "warn"}, args...)
	c, err := startChild("the server", []string{"QUANTRA_REGION=local"}, stderr, args...)
	if err != nil {
		return nil, err
	}
	s := &benchServer{benchChild: c}
	if s.url, err = c.line(ctx, "dashboard"); err == nil {
		_, err = c.line(ctx, "Ctrl-C")
	}
	if err != nil {
		c.kill()
		return nil, err
	}
	return s, nil
}

// stop ends the server in good order.
func (s *benchServer) stop() error {
	if err := s.end(true); err != nil {
		return errors.Join(fmt.Errorf("the server: %w", err), errors.New(oneLine(s.tail.String())))
	}
	return nil
}
