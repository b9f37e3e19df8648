// Package buckettest starts real object storage for tests: a Google Cloud Storage server, an S3
// server and an Azure one, each on a free loopback port and ended with its test.
//
// The first two are Go programs that the module in servers pins; go builds them on first use (a
// minute or two) and keeps them in its cache. As that is too much for a first "go test ./...", they
// run only when QUANTRA_CI or QUANTRA_SERVERS is set. The third, Azurite, is a program
// of Node: QUANTRA_AZURITE is the path of its azurite-blob.
package buckettest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
)

// TB is what is used of testing.TB, so that no production build has package testing.
type TB interface {
	Helper()
	Cleanup(func())
	Context() context.Context
	TempDir() string
	Setenv(key, value string)
	Logf(format string, args ...any)
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Server is a server that runs, with an empty bucket.
type Server struct {
	URL      string // of the bucket, for bucket.Open
	Endpoint string // the part of URL that a proxy replaces
}

// Bucket is the name of the bucket (Azure: the container) on each server.
const Bucket = "profiles"

// missing skips, but in CI, where everything must run, it fails.
func missing(t TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("QUANTRA_CI") != "" {
		t.Fatalf("QUANTRA_CI is set, and "+format, args...)
	}
	t.Skipf(format, args...)
}

// tool is the path of a program of the module in servers, built at most once.
func tool(t TB, name string) string {
	t.Helper()
	if os.Getenv("QUANTRA_CI") == "" && os.Getenv("QUANTRA_SERVERS") == "" {
		t.Skipf("set QUANTRA_SERVERS=1 to test with a real server (%s); its first build takes a minute or two", name)
	}
	building.Lock()
	defer building.Unlock()
	if p := built[name]; p != "" {
		return p
	}
	_, here, _, _ := runtime.Caller(0)
	cmd := exec.Command("go", "tool", "-n", name)
	cmd.Dir = filepath.Join(filepath.Dir(here), "servers")
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=", "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		missing(t, "%s cannot be built: %v\n%s", name, err, stderr.String())
	}
	built[name] = strings.TrimSpace(string(out))
	return built[name]
}

var (
	building sync.Mutex // guards built
	built    = map[string]string{}
)

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

// start runs a server until the test ends, and waits until its port answers.
func start(t TB, port int, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	gone := make(chan struct{})
	var werr error
	go func() {
		werr = cmd.Wait()
		close(gone)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // fails only if it is gone
		<-gone
	})
	deadline := time.After(time.Minute)
	for {
		c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err == nil {
			_ = c.Close()
			return
		}
		select {
		case <-gone:
			t.Fatalf("%s ended: %v\n%s", name, werr, out.String())
		case <-deadline:
			t.Fatalf("%s does not listen after a minute: %v", name, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// GCS starts fake-gcs-server, which speaks Google's protocol, in memory.
func GCS(t TB) Server {
	t.Helper()
	program := tool(t, "fake-gcs-server")
	port := freePort(t)
	endpoint := fmt.Sprintf("http://127.0.0.1:%d", port)
	start(t, port, program, "-backend", "memory", "-data", t.TempDir(), "-scheme", "http", "-host", "127.0.0.1",
		"-port", strconv.Itoa(port), "-public-host", fmt.Sprintf("127.0.0.1:%d", port), "-log-level", "error")
	resp, err := http.Post(endpoint+"/storage/v1/b?project=test", "application/json", strings.NewReader(`{"name":"`+Bucket+`"}`))
	if err != nil {
		t.Fatalf("make the bucket: %v", err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("make the bucket: %s, %v", resp.Status, err)
	}
	return Server{URL: "gs://" + Bucket + "?endpoint=" + endpoint, Endpoint: endpoint}
}

// S3 starts versitygw, an S3 server over a folder, and puts its credentials into the environment.
func S3(t TB) Server {
	t.Helper()
	program := tool(t, "versitygw")
	dir := t.TempDir()
	for _, d := range []string{"data/" + Bucket, "meta"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatalf("%v", err)
		}
	}
	port := freePort(t)
	endpoint := fmt.Sprintf("http://127.0.0.1:%d", port)
	start(t, port, program, "--quiet", "--access", "quantra-test", "--secret", "quantra-secret", "--port", fmt.Sprintf("127.0.0.1:%d", port),
		"posix", "--sidecar", filepath.Join(dir, "meta"), filepath.Join(dir, "data"))
	t.Setenv("AWS_ACCESS_KEY_ID", "quantra-test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "quantra-secret")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(dir, "none"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(dir, "none"))
	return Server{URL: "s3://" + Bucket + "?region=us-east-1&path_style=true&endpoint=" + endpoint, Endpoint: endpoint}
}

// azuriteKey is the key of devstoreaccount1 that Microsoft publishes for its emulator.
const azuriteKey = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

// Azure starts Azurite, Microsoft's own emulator, in memory.
func Azure(t TB) Server {
	t.Helper()
	program := os.Getenv("QUANTRA_AZURITE")
	if program == "" {
		missing(t, "QUANTRA_AZURITE is not set: npm install azurite, and give the path of its azurite-blob")
	}
	port := freePort(t)
	start(t, port, program, "--blobHost", "127.0.0.1", "--blobPort", strconv.Itoa(port),
		"--inMemoryPersistence", "--disableTelemetry", "--silent", "--skipApiVersionCheck")
	endpoint := fmt.Sprintf("http://127.0.0.1:%d", port)
	cred, err := container.NewSharedKeyCredential("devstoreaccount1", azuriteKey)
	if err != nil {
		t.Fatalf("%v", err)
	}
	c, err := container.NewClientWithSharedKeyCredential(endpoint+"/devstoreaccount1/"+Bucket, cred, nil)
	if err != nil {
		t.Fatalf("%v", err)
	}
	if _, err := c.Create(t.Context(), nil); err != nil {
		t.Fatalf("make the container: %v", err)
	}
	t.Setenv("AZURE_STORAGE_CONNECTION_STRING", "")
	t.Setenv("AZURE_STORAGE_KEY", azuriteKey)
	return Server{URL: "azblob://" + Bucket + "?account=devstoreaccount1&endpoint=" + endpoint + "/devstoreaccount1", Endpoint: endpoint}
}
