package ingest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/profiler"
	"google.golang.org/api/option"
	pb "google.golang.org/genproto/googleapis/devtools/cloudprofiler/v2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/quantra-l/quantra/ingest/clienttest"
	"github.com/quantra-l/quantra/ingest/gcp"
	"github.com/quantra-l/quantra/profile"
)

// cloudAddress tells this test's program, run once more, where to be profiled.
const cloudAddress = "QUANTRA_TEST_CLOUD_ADDRESS"

// cloudServer is ingest on loopback, in every protocol that it speaks, with a pace for tests.
func cloudServer(t *testing.T, pace gcp.Options) (*arrived, *httptest.Server) {
	t.Helper()
	got := &arrived{total: map[string]int64{}, pushes: map[string]Push{}, news: make(chan struct{}, 1)}
	in, err := New(Options{Append: got.append, Logger: slog.New(slog.DiscardHandler), Cloud: pace})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	in.Register(mux)
	mux.HandleFunc("/token", func(w http.ResponseWriter, _ *http.Request) { // of Google's OAuth
		replyJSON(w, http.StatusOK, map[string]any{"access_token": "t", "token_type": "Bearer", "expires_in": 3600})
	})
	srv := httptest.NewUnstartedServer(mux)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	t.Cleanup(srv.Close)
	return got, srv
}

// await waits until something of every type has come.
func (a *arrived) await(t *testing.T, log *bytes.Buffer, want ...string) {
	t.Helper()
	deadline := time.After(time.Minute) // a machine this slow is broken
	for len(a.missing(want)) > 0 {
		select {
		case <-a.news:
		case <-deadline:
			t.Fatalf("never arrived: %v; there are %v\n%s", a.missing(want), a.total, log)
		}
	}
}

// client runs a program until the test ends, and returns what it prints, to be read when it has ended.
func client(t *testing.T, env []string, name string, args ...string) *bytes.Buffer {
	t.Helper()
	log := new(bytes.Buffer)
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Wait() }) // it is killed with the context: its error says so
	return log
}

// TestCloudProfilerGo runs Google's agent for Go in a program of its own, until each kind of profile that it takes has come. It is told to come later
// all the time, and would then wait for a minute if it did not find out for how long.
func TestCloudProfilerGo(t *testing.T) {
	if addr := os.Getenv(cloudAddress); addr != "" {
		runCloudAgent(t, addr)
		return
	}
	got, srv := cloudServer(t, gcp.Options{Every: 300 * time.Millisecond, Duration: 150 * time.Millisecond, Wait: time.Millisecond})
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Without a metadata service of Google's, the agent does not ask for one.
	log := client(t, []string{cloudAddress + "=" + srv.Listener.Addr().String(), "GCE_METADATA_HOST="}, exe, "-test.run=^TestCloudProfilerGo$", "-test.timeout=2m")
	got.await(t, log,
		"process_cpu:samples:count:cpu:nanoseconds", "process_cpu:cpu:nanoseconds:cpu:nanoseconds", "memory:alloc_space:bytes:space:bytes",
		"memory:inuse_space:bytes:space:bytes", "goroutine:goroutine:count:goroutine:count", "mutex:delay:nanoseconds:contentions:count", atWork)
	got.mu.Lock()
	defer got.mu.Unlock()
	for name, p := range got.pushes {
		want := `{cloud_account_id="p-1", cloud_availability_zone="eu-west1-b", process_runtime_name="go", service_instance_id="vm-1", service_name="sdk.test", service_version="v1"}`
		if p.Labels.String() != want || !p.From.Before(p.To) || time.Since(p.To) > time.Minute {
			t.Errorf("%s: %v, from %v to %v", name, p.Labels, p.From, p.To)
		}
	}
	clienttest.Record(t, clienttest.Row{
		Protocol: "Google Cloud Profiler (gRPC)", Client: "cloud.google.com/go/profiler", Version: moduleVersion(t, "cloud.google.com/go/profiler"),
		Sent: "CPU, heap, allocations, goroutines and contention, when asked, and told to come later", Seen: "all types with samples, the busy function, every label",
	})
}

// moduleVersion is the version of a module that this test is built with, as go.mod has it.
func moduleVersion(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func runCloudAgent(t *testing.T, addr string) {
	err := profiler.Start(profiler.Config{
		Service: "sdk.test", ServiceVersion: "v1", ProjectID: "p-1", Zone: "eu-west1-b", Instance: "vm-1", APIAddr: addr,
		MutexProfiling: true, AllocForceGC: true, DebugLogging: true,
	}, option.WithoutAuthentication(), option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	if err != nil {
		t.Fatal(err)
	}
	var lock sync.Mutex
	go contendedWork(t.Context(), &lock)
	contendedWork(t.Context(), &lock) // until it is killed
}

// cloudPythonVersion is what .ci/run installs.
const cloudPythonVersion = "4.1.0"

// cloudPython is a program that Google's agent for Python profiles.
const cloudPython = `
import googlecloudprofiler, sys
def spin_for_profile():
    n = 0
    while True:
        n += sum(i * i for i in range(1000))
googlecloudprofiler.start(service="py.test", service_version="v2", project_id="p-1", verbose=3,
    service_account_json_file=sys.argv[1], discovery_service_url=sys.argv[2] + "/$discovery/rest?version={apiVersion}")
spin_for_profile()
`

// TestCloudProfilerPython runs Google's agent for Python, which speaks JSON.
func TestCloudProfilerPython(t *testing.T) {
	python := clienttest.Need(t, "QUANTRA_PYTHON", "a Python that has google-cloud-profiler")
	got, srv := cloudServer(t, gcp.Options{Every: 300 * time.Millisecond, Duration: 150 * time.Millisecond, Wait: time.Millisecond})
	account := filepath.Join(t.TempDir(), "account.json")
	if err := os.WriteFile(account, serviceAccount(t, srv.URL+"/token"), 0o600); err != nil {
		t.Fatal(err)
	}
	log := client(t, nil, python, "-c", cloudPython, account, srv.URL)
	got.await(t, log, "process_cpu:cpu:nanoseconds:cpu:nanoseconds", "wall:wall:nanoseconds:wall:nanoseconds")
	got.mu.Lock()
	defer got.mu.Unlock()
	p := got.pushes["process_cpu"]
	if p.Labels.Get("service_name") != "py.test" || p.Labels.Get("process_runtime_name") != "python" || p.Labels.Get("service_version") != "v2" {
		t.Errorf("labels %v", p.Labels)
	}
	if !slices.ContainsFunc(profile.Top(p.Profile, 1), func(r profile.TopRow) bool { return strings.Contains(r.Name, "spin_for_profile") }) {
		t.Errorf("the function at work is not in the CPU profile: %v", profile.Top(p.Profile, 1))
	}
	clienttest.Record(t, clienttest.Row{
		Protocol: "Google Cloud Profiler (JSON)", Client: "google-cloud-profiler for Python", Version: cloudPythonVersion,
		Sent: "CPU and wall time, when asked", Seen: "both types with samples, the busy function, the service and its version",
	})
}

// serviceAccount is the file of an account that Google's libraries sign with, made for this test.
func serviceAccount(t *testing.T, tokens string) []byte {
	t.Helper()
	b, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "p-1", "client_email": "profiler@p-1.example", "token_uri": tokens, "private_key_id": "1", "private_key": accountKey(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCloudProfilerFaults: each wrong call has an answer in the protocol's words, and the next right one works.
func TestCloudProfilerFaults(t *testing.T) {
	got, srv := cloudServer(t, gcp.Options{Every: time.Hour, Wait: time.Millisecond})
	conn, err := grpc.NewClient(srv.Listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := pb.NewProfilerServiceClient(conn)
	d := &pb.Deployment{ProjectId: "p", Target: "shop", Labels: map[string]string{"zone": "a"}}
	ask := &pb.CreateProfileRequest{Parent: "projects/p", Deployment: d, ProfileType: []pb.ProfileType{pb.ProfileType_CPU}}

	_, err = c.CreateProfile(t.Context(), &pb.CreateProfileRequest{Deployment: d})
	wantCode(t, "no types", err, codes.InvalidArgument)
	q, err := c.CreateProfile(t.Context(), ask)
	if err != nil || q.ProfileType != pb.ProfileType_CPU || q.Duration.AsDuration() != 10*time.Second {
		t.Fatal(q, err)
	}
	_, err = c.CreateProfile(t.Context(), ask)
	wantCode(t, "too soon", err, codes.Aborted)
	var after time.Duration
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			after = info.RetryDelay.AsDuration()
		}
	}
	if after <= 0 || after > time.Hour {
		t.Errorf("it is asked to come again after %v", after)
	}
	late := benchProfile()
	late.TimeNanos = time.Now().Add(time.Hour).UnixNano()
	good := benchProfile()
	good.TimeNanos = time.Now().Add(-time.Minute).UnixNano()
	for _, bad := range [][]byte{nil, []byte("no profile"), late.AppendPprof(nil)} {
		_, err = c.UpdateProfile(t.Context(), &pb.UpdateProfileRequest{Profile: &pb.Profile{Name: q.Name, ProfileBytes: bad}})
		wantCode(t, "bad profile", err, codes.InvalidArgument)
	}
	_, err = c.UpdateProfile(t.Context(), &pb.UpdateProfileRequest{Profile: &pb.Profile{Name: "projects/p/profiles/1", ProfileBytes: good.AppendPprof(nil)}})
	wantCode(t, "not asked for", err, codes.NotFound)
	if _, err = c.UpdateProfile(t.Context(), &pb.UpdateProfileRequest{Profile: &pb.Profile{Name: q.Name, ProfileBytes: good.AppendPprof(nil)}}); err != nil {
		t.Error(err)
	}
	_, err = c.UpdateProfile(t.Context(), &pb.UpdateProfileRequest{Profile: &pb.Profile{Name: q.Name, ProfileBytes: good.AppendPprof(nil)}})
	wantCode(t, "once more", err, codes.NotFound)
	if p := got.pushes["process_cpu"]; p.Labels.Get("service_name") != "shop" || p.Labels.Get("cloud_availability_zone") != "a" {
		t.Errorf("kept: %v", p.Labels)
	}
	if _, err = c.CreateOfflineProfile(t.Context(), &pb.CreateOfflineProfileRequest{Parent: "projects/p", Profile: &pb.Profile{
		ProfileType: pb.ProfileType_CPU, Deployment: &pb.Deployment{ProjectId: "p", Target: "batch"}, ProfileBytes: good.AppendPprof(nil),
	}}); err != nil || got.pushes["process_cpu"].Labels.Get("service_name") != "batch" {
		t.Error(err, got.pushes["process_cpu"].Labels)
	}
	if string(got.pushes["process_cpu"].Pprof) != string(good.AppendPprof(nil)) {
		t.Error("the profile's bytes have changed on the way")
	}
}

// TestCloudProfilerJSON: the same in JSON, with Google's form of errors.
func TestCloudProfilerJSON(t *testing.T) {
	_, srv := cloudServer(t, gcp.Options{Every: time.Hour, Wait: time.Millisecond})
	call := func(method, path, body string) (int, map[string]any) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		var v map[string]any
		if err != nil || json.Unmarshal(b, &v) != nil {
			t.Fatalf("%s %s: %s", method, path, b)
		}
		return resp.StatusCode, v
	}
	const ask = `{"profileType":["WALL","CPU"],"deployment":{"projectId":"p","target":"shop"}}`
	code, q := call("POST", "/v2/projects/p/profiles", ask)
	if code != 200 || q["profileType"] != "WALL" || q["duration"] != "10s" {
		t.Fatal(code, q)
	}
	code, v := call("POST", "/v2/projects/p/profiles", ask)
	e, _ := v["error"].(map[string]any)
	details, _ := e["details"].([]any)
	if code != 409 || e["status"] != "ABORTED" || len(details) != 1 || !strings.HasSuffix(details[0].(map[string]any)["retryDelay"].(string), "s") {
		t.Error(code, v)
	}
	name := "/v2/" + q["name"].(string)
	if code, v := call("PATCH", name, `{"profileBytes":"AAAA"}`); code != 400 {
		t.Error(code, v)
	}
	if code, v := call("POST", name, `{}`); code != 405 {
		t.Error(code, v)
	}
	p := benchProfile()
	p.TimeNanos = time.Now().Add(-time.Minute).UnixNano()
	if code, v := call("PATCH", name, `{"profileBytes":"`+base64.StdEncoding.EncodeToString(p.AppendPprof(nil))+`"}`); code != 200 {
		t.Error(code, v)
	}
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: %v (%v), not %v", what, got, err, want)
	}
}

// TestCloudProfilerWait: calls that hang take no place among the uploads.
func TestCloudProfilerWait(t *testing.T) {
	in, err := New(Options{Append: func(context.Context, Push) error { return nil }, Logger: slog.New(slog.DiscardHandler), MaxConcurrent: 1, Cloud: gcp.Options{Every: time.Minute, Wait: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	in.Register(mux)
	ask := func(ctx context.Context) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(ctx, "POST", "/v2/projects/p/profiles", strings.NewReader(`{"profileType":["CPU"],"deployment":{"target":"shop"}}`))
		mux.ServeHTTP(w, r)
		return w
	}
	if w := ask(t.Context()); w.Code != 200 {
		t.Fatal(w.Code, w.Body)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var hanging sync.WaitGroup
	hanging.Go(func() { ask(ctx) })
	for in.pacer.Waiting() == 0 { // until it hangs
		select {
		case <-time.After(time.Millisecond):
		case <-t.Context().Done():
		}
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest("POST", "/v2/projects/p/profiles", strings.NewReader(`{"profileType":["CPU"],"deployment":{"target":"bank"}}`)))
	if w.Code != 200 || in.InFlightBytes() != 0 {
		t.Error(w.Code, w.Body, in.InFlightBytes())
	}
	cancel()
	hanging.Wait()
}

// TestCloudProfilerStop: a server that stops ends the calls that hang, as ABORTED with when to come again, so that nothing is to be cut off.
func TestCloudProfilerStop(t *testing.T) {
	in, err := New(Options{Append: func(context.Context, Push) error { return nil }, Logger: slog.New(slog.DiscardHandler), Cloud: gcp.Options{Every: time.Hour, Wait: 2 * time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	in.Register(mux)
	srv := httptest.NewUnstartedServer(mux)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Config.RegisterOnShutdown(in.Close)
	srv.Start()
	defer srv.Close()
	conn, err := grpc.NewClient(srv.Listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := pb.NewProfilerServiceClient(conn)
	ask := &pb.CreateProfileRequest{Deployment: &pb.Deployment{Target: "shop"}, ProfileType: []pb.ProfileType{pb.ProfileType_CPU}}
	if _, err := c.CreateProfile(t.Context(), ask); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := c.CreateProfile(t.Context(), ask)
		ended <- err
	}()
	for in.pacer.Waiting() == 0 { // until it hangs
		select {
		case <-time.After(time.Millisecond):
		case err := <-ended:
			t.Fatal(err)
		}
	}
	if err := srv.Config.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	err = <-ended
	wantCode(t, "a call that hung", err, codes.Aborted)
	if len(status.Convert(err).Details()) != 1 {
		t.Errorf("it is not told when to come again: %v", err)
	}
}

// TestCloudProfilerPythonToken: the agent for Python shows a token of ours, where it is told by a file of Google's that the token is one it has got
// already.
func TestCloudProfilerPythonToken(t *testing.T) {
	python := clienttest.Need(t, "QUANTRA_PYTHON", "a Python that has google-cloud-profiler")
	got := &arrived{total: map[string]int64{}, pushes: map[string]Push{}, news: make(chan struct{}, 1)}
	in, err := New(Options{Append: got.append, Logger: slog.New(slog.DiscardHandler), Cloud: gcp.Options{Every: 300 * time.Millisecond, Duration: 150 * time.Millisecond, Wait: time.Millisecond},
		Authorize: func(r *http.Request) error {
			if r.Header.Get("Authorization") != "Bearer "+clientToken {
				return errors.New("no token")
			}
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	in.Register(mux)
	srv := httptest.NewServer(mux)
	defer srv.Close()
	account := filepath.Join(t.TempDir(), "credentials.json")
	if err := os.WriteFile(account, []byte(`{"type":"authorized_user","client_id":"-","client_secret":"-","refresh_token":"-","token":"`+clientToken+`","expiry":"2099-01-01T00:00:00Z"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	program := strings.Replace(cloudPython, "service_account_json_file=sys.argv[1],", "", 1)
	log := client(t, []string{"GOOGLE_APPLICATION_CREDENTIALS=" + account}, python, "-c", program, account, srv.URL)
	got.await(t, log, "process_cpu:cpu:nanoseconds:cpu:nanoseconds")
}

// TestCloudProfilerPythonList: Google's client for Python reads our description of the API, and asks for the list by it.
func TestCloudProfilerPythonList(t *testing.T) {
	python := clienttest.Need(t, "QUANTRA_PYTHON", "a Python that has google-cloud-profiler, and with it Google's client for Python")
	_, own := cloudServer(t, gcp.Options{})
	asked := ""
	mux := http.NewServeMux()
	mux.Handle("/", own.Config.Handler)
	mux.HandleFunc("GET /v2/projects/{project}/profiles", func(w http.ResponseWriter, r *http.Request) { // web's
		asked = r.PathValue("project") + " " + r.URL.Query().Get("pageSize") + " " + r.URL.Query().Get("pageToken")
		replyJSON(w, http.StatusOK, map[string]any{"nextPageToken": "n"})
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	out := runClient(t, nil, python, "-c", `
import sys, googleapiclient.discovery as d
s = d.build("cloudprofiler", "v2", discoveryServiceUrl=sys.argv[1] + "/$discovery/rest?version={apiVersion}", developerKey="-", static_discovery=False)
print(s.projects().profiles().list(parent="projects/p-1", pageSize=7, pageToken="t").execute()["nextPageToken"])
`, srv.URL)
	if asked != "p-1 7 t" || !strings.HasSuffix(strings.TrimSpace(out), "n") {
		t.Errorf("asked %q, told %q", asked, out)
	}
}

// accountKey is a new RSA key in PEM.
func accountKey(t *testing.T) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}
