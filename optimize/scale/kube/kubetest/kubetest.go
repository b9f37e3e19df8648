// Package kubetest starts a real Kubernetes API server on a real etcd for tests, on loopback ports, ended with its test.
//
// Both are Go programs that the module in servers pins; go builds them on first use (kube-apiserver takes some ten minutes) and keeps them
// in its cache. As that is too much for a first "go test ./...", they run only when QUANTRA_CI or QUANTRA_SERVERS is set.
//
// There are no controllers and no kubelets: what they would write, as how many replicas are ready, the test writes itself.
package kubetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// TB is what is used of testing.TB, so that no production build has package testing.
type TB interface {
	Helper()
	Cleanup(func())
	Context() context.Context
	TempDir() string
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Server is an API server that runs.
type Server struct {
	URL string
	dir string
}

// tools are the paths of etcd and kube-apiserver, built if they are not.
func tools(t TB) (paths [2]string) {
	t.Helper()
	ci := os.Getenv("QUANTRA_CI") != ""
	if !ci && os.Getenv("QUANTRA_SERVERS") == "" {
		t.Skipf("set QUANTRA_SERVERS=1 to test with a real Kubernetes API server; its first build takes some ten minutes")
	}
	_, here, _, _ := runtime.Caller(0)
	for i, name := range []string{"server", "kube-apiserver"} { // the first is etcd's
		cmd := exec.Command("go", "tool", "-n", name)
		cmd.Dir = filepath.Join(filepath.Dir(here), "servers")
		cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil && ci {
			t.Fatalf("QUANTRA_CI is set, and %s cannot be built: %v\n%s", name, err, stderr.String())
		}
		if err != nil {
			t.Skipf("%s cannot be built: %v\n%s", name, err, stderr.String())
		}
		paths[i] = strings.TrimSpace(string(out))
	}
	return paths
}

// Start starts both. users are names of users that may do nothing until a Role says so; admin may do all.
func Start(t TB, users ...string) *Server {
	t.Helper()
	programs := tools(t)
	s := &Server{dir: t.TempDir()}
	etcd, peer, port := freePort(t), freePort(t), freePort(t)
	etcdURL, peerURL := fmt.Sprintf("http://127.0.0.1:%d", etcd), fmt.Sprintf("http://127.0.0.1:%d", peer)
	s.URL = fmt.Sprintf("https://127.0.0.1:%d", port)
	s.run(t, programs[0], etcdURL+"/readyz", http.DefaultClient, "", "--data-dir", s.path("etcd"), "--unsafe-no-fsync", "--log-level", "error",
		"--listen-client-urls", etcdURL, "--advertise-client-urls", etcdURL, "--listen-peer-urls", peerURL,
		"--initial-advertise-peer-urls", peerURL, "--initial-cluster", "default="+peerURL)

	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatalf("a key for service accounts: %v", err)
	}
	tokens := "admin-token,admin,admin,system:masters\n"
	for _, u := range users {
		tokens += fmt.Sprintf("%s-token,%s,%s\n", u, u, u)
	}
	for file, b := range map[string][]byte{
		"sa.key": pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		"tokens": []byte(tokens),
	} {
		if err := os.WriteFile(s.path(file), b, 0o600); err != nil {
			t.Fatalf("%v", err)
		}
	}
	client := &http.Client{Transport: &http.Transport{
		// It makes its certificate as it starts; the clients of the test know it by then.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	t.Cleanup(client.CloseIdleConnections)
	s.run(t, programs[1], s.URL+"/readyz", client, "admin-token", "--etcd-servers", etcdURL, "--bind-address", "127.0.0.1", "--secure-port", fmt.Sprint(port),
		"--cert-dir", s.path("certs"), "--token-auth-file", s.path("tokens"), "--authorization-mode", "RBAC",
		"--service-cluster-ip-range", "10.0.0.0/24", "--endpoint-reconciler-type", "none", "--disable-admission-plugins", "ServiceAccount",
		"--service-account-issuer", s.URL, "--service-account-key-file", s.path("sa.key"), "--service-account-signing-key-file", s.path("sa.key"))
	return s
}

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }

// Kubeconfig is the path of a kubeconfig for a user; its certificate is checked.
func (s *Server) Kubeconfig(t TB, user string) string {
	t.Helper()
	p := s.path("kubeconfig-" + user)
	err := os.WriteFile(p, fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: test
clusters: [{name: test, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: test, user: {token: %q}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
`, s.URL, s.path("certs/apiserver.crt"), user+"-token"), 0o600)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return p
}

// freePort is one that was free a moment ago.
func freePort(t TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("no free port: %v", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		t.Fatalf("free a port: %v", err)
	}
	return port
}

// run starts a program until the test ends, and waits until it says that it is ready.
func (s *Server) run(t TB, program, ready string, client *http.Client, token string, args ...string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	log := s.path(filepath.Base(program) + ".log")
	out, err := os.Create(log)
	if err != nil {
		t.Fatalf("%v", err)
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", program, err)
	}
	gone := make(chan struct{})
	go func() {
		_ = cmd.Wait() // its log says why
		close(gone)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // fails only if it is gone
		<-gone
		_ = out.Close()
	})
	deadline := time.After(2 * time.Minute)
	for {
		req, err := http.NewRequest(http.MethodGet, ready, nil)
		if err != nil {
			t.Fatalf("%v", err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		if resp, err := client.Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-gone:
			b, _ := os.ReadFile(log)
			t.Fatalf("%s ended:\n%s", filepath.Base(program), b[max(0, len(b)-4000):])
		case <-deadline:
			b, _ := os.ReadFile(log)
			t.Fatalf("%s is not ready after 2 minutes:\n%s", filepath.Base(program), b[max(0, len(b)-4000):])
		case <-time.After(20 * time.Millisecond):
		}
	}
}
