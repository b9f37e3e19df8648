package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/quantra-l/quantra/fleet"
)

// fakeAgent polls a server as an agent does, and follows the leases that it is given.
type fakeAgent struct {
	server            string
	service, instance string
	refuses           bool               // it refuses all leases by its switch
	key               ed25519.PrivateKey // nil signs nothing
}

// poll is one poll; wait as the protocol has it. lease is what the agent follows before and after it.
func (f *fakeAgent) poll(ctx context.Context, wait, lease string) (next string, status int, code string, err error) {
	body, err := json.Marshal(map[string]any{
		"service": f.service, "instance": f.instance, "version": "v7", "region": "local", "optimizer": !f.refuses, "lease": lease,
		"status": map[string]any{"cost": map[string]any{"cpu_percent": 0.25, "memory_bytes": 4 << 20}},
	})
	if err != nil {
		return "", 0, "", err
	}
	req, err := http.NewRequestWithContext(ctx, "POST", f.server+"/api/v1/agents/poll?wait="+wait, bytes.NewReader(body))
	if err != nil {
		return "", 0, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	if f.key != nil {
		signRequest(req, body, f.key)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", 0, "", err
	}
	defer res.Body.Close()
	var answer struct {
		Code  string
		Lease struct{ ID string }
	}
	err = json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&answer)
	return answer.Lease.ID, res.StatusCode, answer.Code, err
}

// run polls until ctx ends or the server does.
func (f *fakeAgent) run(ctx context.Context, ready chan<- error) {
	lease, status, _, err := f.poll(ctx, "0s", "")
	if err == nil && status != 200 {
		err = fmt.Errorf("the poll is answered %d", status)
	}
	ready <- err
	for err == nil && status == 200 {
		lease, status, _, err = f.poll(ctx, "30s", lease)
	}
}

// signRequest signs as docs/format/signature.md draws it.
func signRequest(r *http.Request, body []byte, key ed25519.PrivateKey) {
	sum := sha256.Sum256(body)
	digest := "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
	nonce := make([]byte, 16)
	rand.Read(nonce)
	params := fmt.Sprintf(`("@method" "@path" "@query" "content-type" "content-digest");created=%d;nonce="%s";alg="ed25519";keyid="%s";tag="quantra-agent"`,
		time.Now().Unix(), base64.RawURLEncoding.EncodeToString(nonce), keyName(key.Public().(ed25519.PublicKey)))
	base := fmt.Sprintf("\"@method\": %s\n\"@path\": %s\n\"@query\": ?%s\n\"content-type\": %s\n\"content-digest\": %s\n\"@signature-params\": %s",
		r.Method, r.URL.EscapedPath(), r.URL.RawQuery, r.Header.Get("Content-Type"), digest, params)
	r.Header.Set("Content-Digest", digest)
	r.Header.Set("Signature-Input", "quantra="+params)
	r.Header.Set("Signature", "quantra=:"+base64.StdEncoding.EncodeToString(ed25519.Sign(key, []byte(base)))+":")
}

// agent SERVICE INSTANCE [refuses] has an agent poll $QUANTRA_SERVER until the script ends.
func scriptAgent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: agent SERVICE INSTANCE [refuses]")
	}
	f := &fakeAgent{server: ts.Getenv("QUANTRA_SERVER"), service: args[0], instance: args[1], refuses: len(args) == 3}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		f.run(ctx, ready)
	}()
	ts.Defer(func() { cancel(); <-ended })
	ts.Check(<-ready)
}

// leased INSTANCE STATE waits until the lease of that agent is in that state: in_force, waiting, none.
func scriptLeased(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: leased INSTANCE STATE")
	}
	deadline := time.After(patience)
	for {
		var stdout, stderr bytes.Buffer
		if code := run(context.Background(), []string{"agents", "list", "--json", "--server", ts.Getenv("QUANTRA_SERVER")}, nil, &stdout, &stderr); code != exitOK {
			ts.Fatalf("code %d: %s", code, &stderr)
		}
		var agents []fleet.Agent
		ts.Check(json.Unmarshal(stdout.Bytes(), &agents))
		got := "no such agent"
		for _, a := range agents {
			if a.Instance != args[0] {
				continue
			}
			switch {
			case a.Granted == nil && a.Lease == "":
				got = "none"
			case a.Granted == nil:
				got = "ending"
			case a.Granted.InForce:
				got = "in_force"
			default:
				got = "waiting"
			}
		}
		if got == args[1] {
			return
		}
		select {
		case <-deadline:
			ts.Fatalf("the lease of %s is %s, and never was %s", args[0], got, args[1])
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// TestSignedUp: a server that requires signatures takes them by the keys in its file, and by those that are added while it runs; a
// slip in the file shuts nobody out.
func TestSignedUp(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "agents.keys")
	newKey := func() ed25519.PrivateKey {
		_, k, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	first, second := newKey(), newKey()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	line := func(k ed25519.PrivateKey) string { return keyName(k.Public().(ed25519.PublicKey)) }
	write("# those of eu\n\n" + line(first) + "  checkout\n")
	s := mustStart(t, "--data", filepath.Join(dir, "data"), "--no-self-profile", "--agent-keys", file)
	if !strings.Contains(s.ready, "signatures   required, by a key in "+file) || strings.Contains(s.ready, "curl") {
		t.Errorf("it says\n%s", s.ready)
	}
	if _, err := os.Stat(filepath.Join(dir, "data", ownKeyFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nobody needs a key, and there is one: %v", err)
	}
	upload := func(key ed25519.PrivateKey) (int, string) {
		t.Helper()
		body := testProfile(t, 7, time.Now().Add(-time.Minute))
		req, err := http.NewRequest("POST", s.base+"/api/v1/profiles?service_name=signed", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/octet-stream")
		if key != nil {
			signRequest(req, body, key)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var fault struct{ Code string }
		if err := json.NewDecoder(res.Body).Decode(&fault); err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, fault.Code
	}
	expect := func(what string, key ed25519.PrivateKey, status int, code string) {
		t.Helper()
		if gotStatus, gotCode := upload(key); gotStatus != status || gotCode != code {
			t.Errorf("%s: an upload is answered %d %s, want %d %s", what, gotStatus, gotCode, status, code)
		}
		a := &fakeAgent{server: s.base, service: "signed", instance: "a", key: key}
		if _, gotStatus, gotCode, err := a.poll(t.Context(), "0s", ""); err != nil || gotStatus != status || gotCode != code {
			t.Errorf("%s: a poll is answered %d %s, want %d %s: %v", what, gotStatus, gotCode, status, code, err)
		}
	}
	expect("nobody", nil, 401, "unsigned")
	expect("the first", first, 200, "")
	expect("the second", second, 403, "unknown_key")
	var agents []fleet.Agent
	var stdout bytes.Buffer
	if code := run(t.Context(), []string{"agents", "list", "--json", "--server", s.base}, nil, &stdout, &stdout); code != exitOK || json.Unmarshal(stdout.Bytes(), &agents) != nil {
		t.Fatalf("code %d: %s", code, &stdout)
	}
	if len(agents) != 1 || agents[0].SignedBy != line(first) {
		t.Errorf("agents %+v", agents)
	}
	write(line(first) + "\n" + line(second) + "\n")
	eventually(t, "the second key", func() (bool, error) { status, code := upload(second); return status == 200, errors.New(code) })
	write(line(first) + "\nnonsense\n")
	eventually(t, "a word about the bad file", func() (bool, error) {
		status, _ := upload(second)
		return status == 200 && strings.Contains(s.stderr.String(), "line 2"), errors.New(s.stderr.String())
	})
	expect("a bad file, the second", second, 200, "")
	write(line(first) + "\n")
	eventually(t, "the second key taken away", func() (bool, error) { status, code := upload(second); return status == 403, errors.New(code) })
	expect("the second taken away, the first", first, 200, "")
}

// TestStopWithPolls: polls under way do not hold up the end.
func TestStopWithPolls(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows cannot send an interrupt to one process")
	}
	s := mustStart(t, "--data", t.TempDir(), "--no-self-profile")
	a := &fakeAgent{server: s.base, service: "shop", instance: "a"}
	ready := make(chan error, 1)
	answer := make(chan string, 1)
	go func() {
		_, status, code, err := a.poll(context.Background(), "60s", "")
		answer <- fmt.Sprint(status, " ", code, " ", err)
	}()
	close(ready)
	eventually(t, "the poll", func() (bool, error) {
		var stdout bytes.Buffer
		code := run(t.Context(), []string{"agents", "list", "--json", "--server", s.base}, nil, &stdout, &stdout)
		return code == exitOK && strings.Contains(stdout.String(), `"polling": true`), errors.New(stdout.String())
	})
	if code, err := s.stop(os.Interrupt); err != nil || code != exitOK {
		t.Fatalf("code %d, %v: %s", code, err, &s.stderr)
	}
	if got := <-answer; got != "503 unavailable <nil>" {
		t.Errorf("the poll is answered %s", got)
	}
	if strings.Contains(s.stderr.String(), "cut off") {
		t.Errorf("it waited: %s", &s.stderr)
	}
}

// TestAgentKeys is the file's grammar, with the place of what is wrong.
func TestAgentKeys(t *testing.T) {
	good := "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" // of RFC 8032's first vector
	for text, want := range map[string]string{
		good:                                  "1",
		good + "\n" + good + "  twice\n":      "1",
		"# a\n\n  " + good + "\tcheckout, eu": "1",
		"PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw # b\r\n" + good + "\r\n": "2",
		"":                                 "no key",
		"# nothing\n":                      "no key",
		good + "=":                         "line 1",
		"#\n" + good[:42]:                  "line 2",
		"# x\n# y\n" + good + "x":          "line 3",
		strings.Replace(good, "_", "/", 1): "line 1",
		good[:42] + "p":                    "line 1", // its last bits are not 0
		"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA": "line 1: the key is a point of small order",
		good + "\n" + strings.Repeat("x", 5000):       "line 2: it is longer",
	} {
		keys, err := parseAgentKeys([]byte(text))
		if got := fmt.Sprint(len(keys)); err != nil && !strings.Contains(err.Error(), want) || err == nil && got != want {
			t.Errorf("%.60q: %s keys, %v, want %s", text, got, err, want)
		}
	}
}

// TestKeysAtOnce: a file that is written again within the clock of its file system is seen all the same, and one that goes away takes no key with it.
func TestKeysAtOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	at := time.Now()
	var log lockedBuffer
	var keys []ed25519.PublicKey
	for range 3 {
		k, _, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	write := func(k ed25519.PublicKey, modified time.Time) {
		if err := errors.Join(os.WriteFile(file, []byte(keyName(k)), 0o600), os.Chtimes(file, modified, modified)); err != nil {
			t.Fatal(err)
		}
	}
	write(keys[0], at)
	k, err := openAgentKeys(file, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	now := at
	k.now = func() time.Time { return now }
	check := func(what string, want int) {
		t.Helper()
		now = now.Add(keyCheckEvery)
		for i := range keys {
			if ok := k.allow(keys[i]) == nil; ok != (i == want) {
				t.Errorf("%s: key %d: %v", what, i, ok)
			}
		}
	}
	check("at first", 0)
	write(keys[1], at) // the same time, the same size
	check("written at once", 1)
	now = now.Add(time.Minute)
	check("later", 1)
	write(keys[2], at.Add(time.Minute))
	check("written later", 2)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	check("gone", 2)
	check("gone", 2)
	if n := strings.Count(log.String(), "could not be read again"); n != 1 {
		t.Errorf("said %d times: %s", n, log.String())
	}
	write(keys[0], at)
	check("back", 0)
}

// TestOwnAgentKey: it is made once, for its user alone; what is not it is refused.
func TestOwnAgentKey(t *testing.T) {
	dir := t.TempDir()
	path, pub, err := ownAgentKey(dir)
	if err != nil || path != filepath.Join(dir, "agent.key") || len(pub) != ed25519.PublicKeySize {
		t.Fatalf("%s %x %v", path, pub, err)
	}
	if _, again, err := ownAgentKey(dir); err != nil || !again.Equal(pub) {
		t.Errorf("the second time: %x %v", again, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("in the folder are %v, %v", entries, err)
	}
	if runtime.GOOS != "windows" {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v %v", info.Mode(), err)
		}
		if err := os.Chmod(path, 0o640); err != nil {
			t.Fatal(err)
		}
		if _, _, err := ownAgentKey(dir); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("others may read it: %v", err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, text := range []string{"", "nonsense", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := ownAgentKey(dir); err == nil || !strings.Contains(err.Error(), "delete it") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, _, err := ownAgentKey(filepath.Join(dir, "nowhere")); err == nil {
		t.Error("a folder that is not there")
	}
}

func TestCostText(t *testing.T) {
	for status, want := range map[string]string{
		``: "-", `null`: "-", `[]`: "-", `{}`: "-", `{"cost":{}}`: "-", `{"cost":"x","cpu_percent":"y"}`: "-", `{"cpu_percent":-1}`: "-", `{"memory_bytes":1e300}`: "-",
		`{"cost":{"cpu_percent":0.5,"memory_bytes":8388608}}`: "0.50% CPU, 8MB", `{"cpu_percent":1}`: "1.00% CPU",
	} {
		if got := costText(json.RawMessage(status)); got != want {
			t.Errorf("%s: %s, want %s", status, got, want)
		}
	}
	if got := plain("a\x1b[31m\nb" + strings.Repeat("ä", 200)); strings.ContainsAny(got, "\x1b\n") || len([]rune(got)) != 123 {
		t.Errorf("%q", got)
	}
}
