//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quantra-l/quantra/p2p"
	"github.com/quantra-l/quantra/p2p/nodeapi"
)

// nodeProcess is a real `quantraband node`.
type nodeProcess struct {
	t      *testing.T
	cmd    *exec.Cmd
	data   string
	id     string
	ready  string
	stderr lockedBuffer
	ended  chan struct{}
}

// startNode starts a node on loopback, which finds nobody by itself, and returns when it is ready.
func startNode(t *testing.T, data string, args ...string) *nodeProcess {
	t.Helper()
	return startNodeIn(t, "", data, args...)
}

// startNodeIn starts one in a network namespace; "" is the host's.
func startNodeIn(t *testing.T, namespace, data string, args ...string) *nodeProcess {
	t.Helper()
	n, err := launchNode(namespace, data, args...)
	if err != nil {
		t.Fatal(err)
	}
	n.t = t
	t.Cleanup(func() {
		n.cmd.Process.Kill()
		<-n.ended
	})
	return n
}

// launchNode is startNodeIn outside a test. Whoever calls it ends it.
func launchNode(namespace, data string, args ...string) (*nodeProcess, error) {
	path, err := exec.LookPath("quantraband")
	if err != nil {
		return nil, err
	}
	n := &nodeProcess{data: data, ended: make(chan struct{})}
	line := append([]string{path, "node", "--data", data, "--no-mdns", "--isolations", "none"}, args...)
	if namespace == "" {
		line = slices.Insert(line, 2, "--p2p-listen", "/ip4/127.0.0.1/tcp/0,/ip4/127.0.0.1/udp/0/quic-v1")
	} else {
		line = append([]string{"ip", "netns", "exec", namespace}, line...)
	}
	n.cmd = exec.Command(line[0], line[1:]...)
	n.cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+data+"-config")
	n.cmd.Stderr = &n.stderr
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := n.cmd.Start(); err != nil {
		return nil, err
	}
	ready := make(chan string, 1)
	go func() {
		var said strings.Builder
		for lines := bufio.NewScanner(out); lines.Scan(); {
			said.WriteString(lines.Text() + "\n")
			if strings.HasPrefix(lines.Text(), "Ctrl-C") {
				ready <- said.String()
			}
		}
		close(ready)
		n.cmd.Wait()
		close(n.ended)
	}()
	timeout := time.AfterFunc(patience, func() { n.cmd.Process.Kill() })
	n.ready = <-ready
	timeout.Stop()
	m := regexp.MustCompile(`id +(12D3KooW\w+)`).FindStringSubmatch(n.ready)
	if m == nil {
		n.cmd.Process.Kill()
		<-n.ended
		return nil, fmt.Errorf("the node was never ready: %s", &n.stderr)
	}
	n.id = m[1]
	return n, nil
}

// address is one at which it is reached, of a transport.
func (n *nodeProcess) address(transport string) string {
	for _, a := range regexp.MustCompile(`/ip4/\S+`).FindAllString(n.ready, -1) {
		if strings.Contains(a, transport) {
			return a
		}
	}
	n.t.Fatalf("the node has no address of %s: %s", transport, n.ready)
	return ""
}

// p2p runs a command by the node, and returns what it says.
func (n *nodeProcess) p2p(args ...string) (string, int) {
	n.t.Helper()
	var out, errs bytes.Buffer
	code := run(context.Background(), append([]string{"p2p", args[0], "--data", n.data}, args[1:]...), strings.NewReader(""), &out, &errs)
	if code != 0 && strings.Count(errs.String(), "\n") != 1 {
		n.t.Errorf("p2p %s: standard error is %q", args, &errs)
	}
	return out.String() + errs.String(), code
}

func (n *nodeProcess) must(args ...string) string {
	n.t.Helper()
	out, code := n.p2p(args...)
	if code != 0 {
		n.t.Fatalf("p2p %s ends with %d: %s", args, code, out)
	}
	return out
}

func (n *nodeProcess) stop(sig os.Signal) {
	n.t.Helper()
	if err := n.end(sig); err != nil {
		n.t.Fatal(err)
	}
}

// end is stop outside a test.
func (n *nodeProcess) end(sig os.Signal) error {
	if err := n.cmd.Process.Signal(sig); err != nil {
		return err
	}
	select {
	case <-n.ended:
		return nil
	case <-time.After(patience):
		return fmt.Errorf("it did not end: %s", &n.stderr)
	}
}

// TestNodeStory: two strangers meet by a code and see the same words; they speak, privately and on a topic; what one says while the other is
// away arrives when it is back; commands say what is wrong, and end with the code for it.
func TestNodeStory(t *testing.T) {
	dir := t.TempDir()
	alice := startNode(t, filepath.Join(dir, "alice"), "--topic", "news", "--self-signed", "none")
	bob := startNode(t, filepath.Join(dir, "bob"), "--topic", "news", "--self-signed", "none")
	if out, code := bob.p2p("ping", alice.address("/tcp/")); code != exitDenied {
		t.Fatalf("a stranger is let in, or the code is wrong: %d, %s", code, out)
	}
	r, w := io.Pipe()
	invite := make(chan int, 1)
	go func() {
		var errs bytes.Buffer
		invite <- run(context.Background(), []string{"p2p", "invite", "--data", alice.data, "--json"}, strings.NewReader(""), w, &errs)
		w.Close()
	}()
	dec := json.NewDecoder(r)
	var code, met, joined invited
	if err := dec.Decode(&code); err != nil || code.Code == "" {
		t.Fatal(code, err)
	}
	if err := json.Unmarshal([]byte(bob.must("join", code.Code, "--json")), &joined); err != nil {
		t.Fatal(err)
	}
	if err := dec.Decode(&met); err != nil || met.Peer != bob.id || joined.Peer != alice.id || met.Words == "" || met.Words != joined.Words {
		t.Fatalf("%+v and %+v, %v", met, joined, err)
	}
	if got := <-invite; got != 0 {
		t.Fatalf("invite ends with %d", got)
	}
	if out, got := bob.p2p("join", code.Code); got != exitDenied && got != exitUnavailable {
		t.Errorf("the code is good twice: %d, %s", got, out)
	}

	// A topic, and private messages.
	heard := make(chan string, 1)
	started := startHearing(t, alice, heard, "news")
	<-started
	soon(t, "the topic is heard by the other", func() (string, bool) {
		out := bob.must("send", "--topic", "news", "--message", "first", "--json")
		var s sent
		return out, json.Unmarshal([]byte(out), &s) == nil && s.Hearers == 1
	})
	if got := <-heard; !strings.Contains(got, "first") || !strings.Contains(got, bob.id) {
		t.Errorf("alice hears %q", got)
	}
	alice.must("send", "--to", bob.id, "--message", "hello bob", "--wait")
	if out := bob.must("history", "--peer", alice.id); !strings.Contains(out, "hello bob") {
		t.Errorf("bob's history: %q", out)
	}
	if out := alice.must("history", "--topic", "news", "--json"); !strings.Contains(out, `"topic":"news"`) {
		t.Errorf("the topic's history: %q", out)
	}
	var st nodeStatus
	st.Status = &p2p.Status{}
	if err := json.Unmarshal([]byte(alice.must("peers", "--json")), &st); err != nil || len(st.Peers) != 1 || st.Peers[0].Level != "verified" {
		t.Errorf("peers: %+v, %v", st.Peers, err)
	}

	// Away, and back.
	bob.stop(syscall.SIGTERM)
	if out, code := bob.p2p("peers"); code != exitUnavailable || !strings.Contains(out, "quantraband node --data") {
		t.Errorf("without a node: %d, %q", code, out)
	}
	if out := alice.must("send", "--to", bob.id, "--message", "for later"); !strings.Contains(out, "waits") {
		t.Errorf("to one who is away: %q", out)
	}
	bob = startNode(t, bob.data, "--self-signed", "none")
	soon(t, "what was said meanwhile", func() (string, bool) {
		out := bob.must("history", "--peer", alice.id)
		return out, strings.Count(out, "for later") == 1
	})

	for _, c := range []struct {
		code int
		args []string
	}{
		{exitUsage, []string{"send", "--message", "to nobody"}}, {exitUsage, []string{"send", "--to", "x", "--message", "y"}},
		{exitUsage, []string{"send", "--topic", "a b", "--message", "y"}}, {exitUsage, []string{"history"}}, {exitUsage, []string{"join", "nonsense"}},
		{exitUsage, []string{"ping", "nobody"}}, {exitUsage, []string{"subscribe", "a b"}}, {exitUsage, []string{"invite", "--address", "nowhere:x"}},
	} {
		if out, code := alice.p2p(c.args...); code != c.code {
			t.Errorf("p2p %s ends with %d, not %d: %s", c.args, code, c.code, out)
		}
	}
	alice.stop(os.Interrupt)
	if code := alice.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("an interrupted node ends with %d: %s", code, &alice.stderr)
	}
}

// soon waits for a condition that no event tells of; state is what is said where it does not come.
func soon(t *testing.T, what string, ok func() (state string, done bool)) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); ; {
		state, done := ok()
		if done {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within %s: %s", what, patience, state)
		}
	}
}

// startHearing hears one message of a topic; started is closed when nothing is missed any more.
func startHearing(t *testing.T, n *nodeProcess, heard chan<- string, topic string) (started <-chan struct{}) {
	t.Helper()
	q := nodeQuestion{data: n.data}
	up := make(chan struct{})
	go func() {
		r, err := q.open(context.Background(), "GET", "/v1/subscribe?topic="+topic, nil)
		if err != nil {
			heard <- err.Error()
			close(up)
			return
		}
		defer r.Close()
		close(up)
		line, err := bufio.NewReader(r).ReadBytes('\n')
		var s said
		if err = errors.Join(err, json.Unmarshal(line, &s)); err != nil {
			heard <- err.Error()
			return
		}
		heard <- fmt.Sprintf("%s: %s", s.From, s.Body)
	}()
	return up
}

// TestNodeSocket: the socket is this user's alone, and one node has a data folder.
func TestNodeSocket(t *testing.T) {
	n := startNode(t, filepath.Join(t.TempDir(), "data"))
	path, _ := controlPath(filepath.Join(n.data, nodeDir))
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info, err)
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("its folder: %v, %v", info, err)
	}
	var out, errs bytes.Buffer
	t.Setenv("XDG_CONFIG_HOME", n.data+"-config")
	if code := run(context.Background(), []string{"node", "--data", n.data, "--p2p-listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns"}, strings.NewReader(""), &out, &errs); code != exitInUse {
		t.Errorf("a second node on the folder ends with %d: %s", code, &errs)
	}
	for _, args := range [][]string{{"--reach", "x"}, {"--config", "nosuch.yaml"}, {"--topic", "a b"}, {"--p2p-listen", "x"}, {"--bootstrap", "/ip4/127.0.0.1/tcp/1"}, {"--identity", "nosuch"}} {
		errs.Reset()
		if code := run(context.Background(), append([]string{"node", "--no-mdns", "--data", filepath.Join(t.TempDir(), "d")}, args...), strings.NewReader(""), &out, &errs); code == 0 || strings.Count(errs.String(), "quantraband: ") != 1 {
			t.Errorf("%s: %d, %q", args, code, &errs)
		}
	}
	// A folder with a name too long for a socket.
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 120))
	other := startNode(t, long)
	if out := other.must("peers"); !strings.Contains(out, other.id) {
		t.Errorf("peers: %q", out)
	}
}

// TestNodeSpans: a node that profiles itself, by itself or as part of a server, sends how long connections and messages took, step by step.
func TestNodeSpans(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "node.yaml")
	if err := os.WriteFile(config, []byte("listen: [/ip4/127.0.0.1/tcp/0]\nmdns: false\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	s := mustStart(t, "--data", data, "--isolations", "none", "--node-config", config)
	node := startNode(t, filepath.Join(dir, "node"), "--server", s.base)
	up := &nodeProcess{t: t, data: data}
	up.must("ping", node.address("/tcp/"))
	up.must("send", "--to", node.id, "--message", "to the node", "--wait")
	node.must("send", "--to", ownPeer(t, up), "--message", "to the server", "--wait")
	for service, stop := range map[string]func(){"quantra-node": func() { node.stop(syscall.SIGTERM) }, "quantraband": func() {}} {
		stop() // what was not sent yet is
		soon(t, "the spans of "+service, func() (string, bool) {
			var out, errs bytes.Buffer
			code := run(t.Context(), []string{"query", "export", "-s", service, "-t", "spans:spans:count:spans:count", "--format", "folded", "--since", "10m", "--server", s.base}, strings.NewReader(""), &out, &errs)
			lacks := slices.DeleteFunc([]string{"direct.message;receive", "direct.message;verify", "direct.message;route", "direct.message;send", ";p2p.guard"}, func(path string) bool { return strings.Contains(out.String(), path) })
			return fmt.Sprintf("%d: %s%s lacks %q", code, &out, &errs, lacks), code == exitOK && len(lacks) == 0
		})
	}
}

// ownPeer is the id of the node itself.
func ownPeer(t *testing.T, n *nodeProcess) string {
	t.Helper()
	st := nodeStatus{Status: &p2p.Status{}}
	if err := json.Unmarshal([]byte(n.must("peers", "--json")), &st); err != nil || st.ID == "" {
		t.Fatalf("%+v, %v", st, err)
	}
	return st.ID
}

// TestUpNode: up --node has the node beside the server, behind the same guard: on the page's API, in the metrics, and for commands.
func TestUpNode(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "node.yaml")
	if err := os.WriteFile(config, []byte("listen: [/ip4/127.0.0.1/tcp/0]\nmdns: false\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	s := mustStart(t, "--data", data, "--no-self-profile", "--isolations", "none", "--node-config", config, "--node-topic", "news")
	peer := startNode(t, filepath.Join(dir, "peer"), "--topic", "news")
	up := &nodeProcess{t: t, data: data}
	up.must("ping", peer.address("/tcp/"))
	get := func(path string) string {
		res, err := owner(s.base).Get(s.base + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		raw, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("%s: %s, %v", path, res.Status, err)
		}
		return string(raw)
	}
	var st nodeStatus
	st.Status = &p2p.Status{}
	soon(t, "the node's page", func() (string, bool) {
		text := get(nodePath)
		if err := json.Unmarshal([]byte(text), &st); err != nil {
			t.Fatal(err)
		}
		return text, st.Running && len(st.Peers) == 1 && st.Peers[0].ID == peer.id && len(st.Topics) == 1 && len(st.Topics[0].Listeners) == 1
	})
	var figures nodeapi.Figures
	var peers nodeapi.Peers
	var events nodeapi.Happened
	for path, v := range map[string]any{"": &figures, "/peers": &peers, "/events": &events} {
		if err := json.Unmarshal([]byte(get(nodeapi.Path+path)), v); err != nil {
			t.Fatal(err)
		}
	}
	if figures.Peers.All != 1 || figures.Process.Memory < 1<<20 || len(figures.Topics) != 1 || len(peers.Peers) != 1 || peers.Peers[0].ID != peer.id {
		t.Errorf("the page's figures and peers: %+v, %+v", figures, peers)
	}
	if !slices.ContainsFunc(events.Decisions, func(d nodeapi.Decision) bool { return d.Principal == peer.id && d.Action == "connect" && d.Allowed }) {
		t.Errorf("the page's events: %+v", events)
	}
	if text := get("/api/guard/connections"); !strings.Contains(text, peer.id) {
		t.Errorf("the guard's connections: %s", text)
	}
	if text := get("/metrics"); !strings.Contains(text, `quantra_p2p_peers{level="verified"} 1`) {
		t.Errorf("the metrics have no peer: %s", text)
	}
	if !strings.Contains(s.ready, "node         "+st.ID) {
		t.Errorf("ready: %s", s.ready)
	}
}
