package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// patience is how long a test waits for an event before it gives up. It is no
// promise about speed: only what hangs takes that long.
const patience = 90 * time.Second

// server is a real `quantraband up` process.
type server struct {
	cmd    *exec.Cmd
	base   string // http://127.0.0.1:port
	ready  string // what it had said when it was ready
	stderr lockedBuffer
	ended  chan struct{} // closed when it has ended; code is valid then
	code   int
}

// lockedBuffer is written by the process's pipe and read by the test.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// startServer starts `quantraband up` with args on a free port, and returns
// when it is ready. The process is this test binary under quantraband's name: see TestMain.
func startServer(args ...string) (*server, error) {
	path, err := exec.LookPath("quantraband")
	if err != nil {
		return nil, err
	}
	s := &server{ended: make(chan struct{})}
	s.cmd = exec.Command(path, append([]string{"up", "--listen", "127.0.0.1:0"}, args...)...)
	for i, arg := range args {
		if arg == "--data" && i+1 < len(args) { // the keys of its audit log are not to be the developer's own
			s.cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+filepath.Clean(args[i+1])+"-config")
		}
	}
	s.cmd.Stderr = &s.stderr
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	ready := make(chan string)
	go func() {
		defer close(ready)
		var said strings.Builder
		sent := false
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			said.WriteString(lines.Text() + "\n")
			if !sent && strings.HasPrefix(lines.Text(), "Ctrl-C") {
				sent = true
				ready <- said.String()
			}
		}
	}()
	timeout := time.AfterFunc(patience, func() { s.cmd.Process.Kill() })
	s.ready = <-ready
	timeout.Stop()
	go func() {
		defer close(s.ended)
		<-ready // all output is read before Wait closes the pipe
		s.cmd.Wait()
		s.code = s.cmd.ProcessState.ExitCode()
	}()
	m := regexp.MustCompile(`dashboard +(https?://\S+)`).FindStringSubmatch(s.ready)
	if m == nil {
		<-s.ended
		return nil, fmt.Errorf("up ended with %d and was never ready: %s", s.code, &s.stderr)
	}
	s.base = m[1]
	return s, nil
}

// stop sends sig and waits for the end. It returns the exit code, -1 where a signal ended it.
func (s *server) stop(sig os.Signal) (int, error) {
	select {
	case <-s.ended:
		return s.code, nil
	default:
	}
	if err := s.cmd.Process.Signal(sig); err != nil {
		return 0, err
	}
	select {
	case <-s.ended:
		return s.code, nil
	case <-time.After(patience):
		s.cmd.Process.Kill()
		return 0, fmt.Errorf("it did not end: %s", &s.stderr)
	}
}

func mustStart(t *testing.T, args ...string) *server {
	t.Helper()
	s, err := startServer(args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		select {
		case <-s.ended:
		default:
			s.cmd.Process.Kill()
			<-s.ended
		}
	})
	return s
}

// owner asks as the user whose server it is.
func owner(base string) *http.Client { return new(credentials).client(base, &http.Client{}) }

// push sends a profile as any program would, and is the status it got.
func push(base, query string, body []byte) (int, error) {
	resp, err := http.Post(base+"/api/v1/profiles?"+query, "application/octet-stream", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// server NAME ARGS... starts `quantraband up ARGS...`, puts its address in the
// environment as QUANTRA_SERVER, and stops it when the script ends.
// What it said is in the files ready and, at the end, the test's log.
func scriptServer(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("usage: server ARGS...")
	}
	s, err := startServer(append([]string{"--no-self-profile"}, args...)...)
	ts.Check(err)
	scriptServers.Store(ts, s)
	ts.Setenv("QUANTRA_SERVER", s.base)
	ts.Setenv("PORT", s.base[strings.LastIndexByte(s.base, ':')+1:])
	ts.Check(os.WriteFile(ts.MkAbs("ready"), []byte(s.ready), 0o666))
	ts.Defer(func() {
		if code, err := s.stop(os.Interrupt); err != nil || code != exitOK {
			ts.Logf("server: code %d, %v, %s", code, err, &s.stderr)
		}
	})
}

// scriptServers are the servers that scripts started last, by script.
var scriptServers sync.Map

// stop-server ends the server that was started last, which must end well.
func scriptStopServer(ts *testscript.TestScript, neg bool, args []string) {
	s, ok := scriptServers.Load(ts)
	if neg || len(args) > 0 || !ok {
		ts.Fatalf("usage: stop-server, behind server")
	}
	if code, err := s.(*server).stop(os.Interrupt); err != nil || code != exitOK {
		ts.Fatalf("server: code %d, %v, %s", code, err, &s.(*server).stderr)
	}
}

// post FILE QUERY [STATUS] sends a profile to $QUANTRA_SERVER, which must answer STATUS, or else 200 or 204.
func scriptPost(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: post FILE QUERY [STATUS]")
	}
	code, err := push(ts.Getenv("QUANTRA_SERVER"), args[1], []byte(ts.ReadFile(args[0])))
	ts.Check(err)
	if ok := code/100 == 2; len(args) == 2 && !ok || len(args) == 3 && args[2] != fmt.Sprint(code) {
		ts.Fatalf("the server answers %d", code)
	}
}

// take-port VAR holds a port for the rest of the script and puts its number in the environment.
func scriptTakePort(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: take-port VAR")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { ln.Close() })
	ts.Setenv(args[0], fmt.Sprint(ln.Addr().(*net.TCPAddr).Port))
}
