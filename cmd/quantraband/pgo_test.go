package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quantra-l/quantra/optimize/pgo"
	"github.com/quantra-l/quantra/profile"
)

// quantraband runs a command as a user would, and is what it ended with and wrote.
func quantraband(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(context.Background(), args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

// calleeShares are the callees of a profile for the compiler, with the share of the weight that each has.
func calleeShares(t *testing.T, b []byte) map[string]float64 {
	t.Helper()
	p, _, err := profile.Read(bytes.NewReader(b), profile.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	edges, err := pgo.EdgesOf(p)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, e := range edges.List {
		out[e.Callee] += float64(e.Weight) / float64(edges.Total)
	}
	return out
}

func wantShares(t *testing.T, b []byte, want map[string]float64) {
	t.Helper()
	got := calleeShares(t, b)
	if len(got) != len(want) {
		t.Errorf("calls of %v, not of %v", got, want)
	}
	for name, w := range want {
		if math.Abs(got[name]-w) > 1e-6 {
			t.Errorf("%s has %.4f of the weight, not %.4f", name, got[name], w)
		}
	}
}

// pgoFleet sends what two versions of a service did: v1 long ago and next to v2, with one instance that works a hundred
// times as hard as the others; and what a service did that is not in Go.
func pgoFleet(t *testing.T, s *server) {
	t.Helper()
	dir, now := t.TempDir(), time.Now()
	send := func(service, version, instance string, ago time.Duration, rows ...[]any) {
		t.Helper()
		body, err := os.ReadFile(gateProfile(t, filepath.Join(dir, "sent.pb"), rows...))
		if err != nil {
			t.Fatal(err)
		}
		at := now.Add(-ago)
		q := url.Values{"name": {"process_cpu"}, "service_name": {service}, "service_version": {version}, "service_instance_id": {instance}, "region": {"eu"},
			"from": {fmt.Sprint(at.Add(-10 * time.Second).UnixNano())}, "until": {fmt.Sprint(at.UnixNano())}}
		if code, err := push(s.base, q.Encode(), body); err != nil || code/100 != 2 {
			t.Fatalf("%d %v", code, err)
		}
	}
	row := func(name string, line, n int) []any { return []any{name, "/src/shop/cmd/shop/main.go", line, n} }
	for _, h := range []time.Duration{60 * time.Hour, 50 * time.Hour} {
		send("shop", "v1", "old", h, row("shop.old", 10, 1000), row("runtime.mallocgc", 20, 1000))
	}
	for _, h := range []time.Duration{30 * time.Hour, 20 * time.Hour} {
		send("shop", "v2", "loud", h, row("shop.loud", 10, 100_000), row("runtime.mallocgc", 20, 100_000))
		send("shop", "v2", "a", h, row("shop.quiet", 10, 500), row("runtime.mallocgc", 20, 500))
		send("shop", "v2", "b", h, row("shop.quiet", 10, 400), row("runtime.mallocgc", 20, 400))
	}
	send("shop", "v3", "canary", time.Hour, row("shop.new", 10, 10), row("runtime.mallocgc", 20, 10))
	send("script", "v1", "x", time.Hour, row("<module>", 1, 1000))
	send("bare", "v1", "x", time.Hour, row("runtime.mallocgc", 0, 500), row("bare.work", 0, 500))
}

// TestPGOServer: of a running server's profiles, by the week's hours and instances alike; which version; and what is refused.
func TestPGOServer(t *testing.T) {
	s := mustStart(t, "--no-self-profile", "--data", t.TempDir())
	pgoFleet(t, s)
	at := func(args string) []string {
		return append(strings.Fields("pgo --server "+s.base), strings.Fields(args)...)
	}

	code, stdout, stderr := quantraband(at("-s shop --since 7d")...)
	if code != exitOK {
		t.Fatalf("code %d: %s", code, stderr)
	}
	for _, want := range []string{"v3 is newer than v2, but has only 20 samples so far", `(?m)^shop: 403,600 samples of 3 instances, in 6 stretches of 2 places of the week$`,
		`version v2: 403,600 samples in 6 stretches`, `3 calls, of which the compiler acts on 3; two halves of the profiles agree on \d+ % of their weight`} {
		if !regexp.MustCompile(want).MatchString(stderr) {
			t.Errorf("no %s in:\n%s", want, stderr)
		}
	}
	// Three instances alike, whatever the loud one has: half of each is mallocgc's.
	v2 := map[string]float64{"shop.loud": 1.0 / 6, "shop.quiet": 2.0 / 6, "runtime.mallocgc": 0.5}
	wantShares(t, []byte(stdout), v2)
	if _, again, _ := quantraband(at("-s shop --since 7d")...); again != stdout {
		t.Error("asked again it is another file")
	}

	dir := t.TempDir()
	file := filepath.Join(dir, "default.pgo")
	code, told, stderr := quantraband(at("-s shop --since 0 --version v1 --json -o " + file)...)
	var report pgo.Report
	if err := json.Unmarshal([]byte(told), &report); code != exitOK || err != nil || report.Samples != 4000 || report.Versions[0].Version != "v1" {
		t.Errorf("code %d, %v, %s%s", code, err, told, stderr)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	wantShares(t, b, map[string]float64{"shop.old": 0.5, "runtime.mallocgc": 0.5})
	if out, err := exec.Command("go", "tool", "preprofile", "-i", file).CombinedOutput(); err != nil || !strings.Contains(string(out), "main.main\nshop.old\n3 500000000\n") {
		t.Errorf("go tool preprofile: %v: %s", err, out)
	}

	// An object in a bucket; and both versions: of v1 only mallocgc starts where it does in v2.
	code, _, stderr = quantraband(at("-s shop --all-versions -o " + folderURL(dir) + "/made/default.pgo")...)
	if b, err = os.ReadFile(filepath.Join(dir, "made", "default.pgo")); code != exitOK || err != nil {
		t.Fatalf("code %d, %v, %s", code, err, stderr)
	}
	// Four places of the week: two of v2 as above, two of v1 with half of their weight, all of it mallocgc's; and the canary's, of
	// which a tenth of a fifth counts: its 20 samples are less than the 100 of a full cell.
	if got := calleeShares(t, b); got["shop.old"] != 0 || got["shop.new"] != 0 || math.Abs(got["shop.quiet"]/got["shop.loud"]-2) > 1e-6 || got["runtime.mallocgc"] < 0.6 {
		t.Errorf("all versions: %v", got)
	}
	if !strings.Contains(stderr, "of older versions' functions that are not in v2 or start in another line there") {
		t.Errorf("all versions: %s", stderr)
	}

	for _, c := range []struct {
		name string
		code int
		args string
		want string
	}{
		{"no service", exitUsage, "", "say of which --service"},
		{"files and a service", exitUsage, "-s shop x.pb", "not both"},
		{"two ways to a version", exitUsage, "-s shop --version v1 --all-versions", "exclude each other"},
		{"a dry run of nothing", exitUsage, "-s shop --dry-run", "name its repository with --pull-request"},
		{"no repository", exitUsage, "-s shop --pull-request shop", "OWNER/NAME"},
		{"JSON beside the profile", exitUsage, "-s shop --json", "add -o FILE"},
		{"no token", exitUsage, "-s shop --pull-request shop/shop", "needs a token in GITHUB_TOKEN"},
		{"unknown service", exitUndecided, "-s nosuch", "no profiles that match"},
		{"unknown version", exitUndecided, "-s shop --version v9", "shop: no samples of version v9; there are [v3 v2 v1]"},
		{"not of Go", exitCorrupt, "-s script", "not a Go program's profile"},
		{"no start lines", exitCorrupt, "-s bare", "no function has a start line, and the compiler would refuse the profile: profile with Go 1.20 or later"},
		{"too small", exitUsage, "-s shop --max-size 40B", "--max-size: the bound on size is too small"},
		{"no bucket", exitUsage, "-s shop -o gs://default.pgo", "name the object"},
		{"nobody there", exitUnavailable, "-s shop --server http://127.0.0.1:1", "no server answers"},
	} {
		t.Setenv(githubToken, "")
		code, stdout, stderr := quantraband(at(c.args)...)
		if code != c.code || !strings.Contains(stderr, c.want) || stdout != "" && c.code != exitUsage {
			t.Errorf("%s: code %d, stdout %q, stderr %s", c.name, code, stdout, stderr)
		}
	}
}

// github is as much of GitHub as a pull request of one file needs, on loopback. It keeps what was sent to it.
func github(t *testing.T, there []byte) (base string, sent func() map[string]map[string]any) {
	var mu sync.Mutex
	got := map[string]map[string]any{}
	reply := func(w http.ResponseWriter, code int, text string) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(code)
		io.WriteString(w, text)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		p, ours := strings.CutPrefix(r.URL.Path, "/repos/shop/checkout")
		if r.Method != http.MethodGet {
			var body map[string]any
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil || r.Header.Get("Authorization") != "Bearer secret" {
				reply(w, 401, `{"message":"Bad credentials"}`)
				return
			}
			got[r.Method+" "+p] = body
			reply(w, 201, `{"sha":"0123","number":12,"html_url":"https://github.com/shop/checkout/pull/12"}`)
			return
		}
		switch {
		case !ours:
			reply(w, 404, `{"message":"Not Found"}`)
		case p == "":
			reply(w, 200, `{"default_branch":"main"}`)
		case p == "/git/ref/heads/main":
			reply(w, 200, `{"ref":"refs/heads/main","object":{"sha":"c0"}}`)
		case p == "/git/commits/c0":
			reply(w, 200, `{"sha":"c0","message":"first","tree":{"sha":"t0"}}`)
		case p == "/contents/cmd/checkout/default.pgo" && there != nil:
			reply(w, 200, fmt.Sprintf(`{"type":"file","size":%d,"sha":"b0"}`, len(there)))
		case p == "/git/blobs/b0":
			w.Write(there)
		case p == "/pulls":
			reply(w, 200, `[]`)
		default:
			reply(w, 404, `{"message":"Not Found"}`)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL, func() map[string]map[string]any { mu.Lock(); defer mu.Unlock(); return got }
}

// TestPGOPull: the pull request has the file and the evidence; where the file there is as good nothing is sent; a dry run sends nothing.
func TestPGOPull(t *testing.T) {
	t.Setenv(githubToken, "secret")
	dir := t.TempDir()
	file := func(name string, rows ...[]any) string { return gateProfile(t, filepath.Join(dir, name), rows...) }
	row := func(name string, n int) []any { return []any{name, "main.go", 10, n} }
	a := file("a.pb", row("shop.evict", 2000), row("runtime.mallocgc", 1000), row(hostile, 800))
	b := file("b.pb", row("shop.evict", 2100), row("runtime.mallocgc", 1000), row(hostile, 800))
	pr := func(api string, more ...string) []string {
		return append([]string{"pgo", a, b, "--pull-request", "shop/checkout", "--path", "cmd/checkout/default.pgo", "--api-url", api}, more...)
	}
	api, sent := github(t, nil)
	code, stdout, stderr := quantraband(pr(api, "--dry-run")...)
	if code != exitOK || len(sent()) > 0 || strings.Contains(stdout+stderr, "secret") {
		t.Fatalf("dry run: code %d, sent %v: %s%s", code, sent(), stdout, stderr)
	}
	for _, want := range []string{"POST " + api + "/repos/shop/checkout/git/blobs", `"ref": "refs/heads/quantraband/pgo-files"`, "there is no cmd/checkout/default.pgo yet", "dry run: nothing of this was sent"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("dry run: no %s in:\n%s", want, stdout)
		}
	}
	code, stdout, stderr = quantraband(pr(api, "--branch", "pgo")...)
	if code != exitOK || !strings.Contains(stdout, "opened: https://github.com/shop/checkout/pull/12") {
		t.Fatalf("code %d: %s%s", code, stdout, stderr)
	}
	made, err := base64.StdEncoding.DecodeString(sent()["POST /git/blobs"]["content"].(string))
	if err != nil {
		t.Fatal(err)
	}
	if got := calleeShares(t, made); math.Abs(got["shop.evict"]-(2000.0/3800+2100.0/3900)/2) > 1e-6 {
		t.Errorf("the file has %v", got)
	}
	body := sent()["POST /pulls"]["body"].(string)
	for _, want := range []string{"| samples | 7,700 |", "| instances | 2 |", "| two halves of the profiles agree on | 100 % of the hot weight |", "quantraband diff --service", "2 to 14 %", "`shop.evict`"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in:\n%s", want, body)
		}
	}
	for _, bad := range []string{"\x1b", "| <img", "\n`<img"} {
		if strings.Contains(body, bad) {
			t.Errorf("%q of a function's name is in:\n%s", bad, body)
		}
	}
	if got := sent()["POST /git/refs"]["ref"]; got != "refs/heads/pgo" {
		t.Errorf("branch %v", got)
	}

	asGood := filepath.Join(dir, "as-good.pgo")
	if code, _, stderr := quantraband("pgo", a, "-o", asGood); code != exitOK {
		t.Fatal(stderr)
	}
	for _, c := range []struct {
		name  string
		there []byte
		more  []string
		want  string
		sends bool
	}{
		{"the same", made, nil, "nothing to do: cmd/checkout/default.pgo is the same, byte by byte", false},
		{"as good", mustRead(t, asGood), nil, "nothing to do: cmd/checkout/default.pgo agrees with the new profile on 100 % of the weight of the hot calls (two halves of the new one: 100 %)", false},
		{"as good, and wanted", mustRead(t, asGood), []string{"--always"}, "opened: ", true},
		{"of other code", mustRead(t, file("c.pb", row("shop.gone", 1000))), nil, "opened: ", true},
		{"no profile", []byte("<<<<<<< HEAD"), nil, "opened: ", true},
	} {
		api, sent := github(t, c.there)
		code, stdout, stderr := quantraband(pr(api, c.more...)...)
		if code != exitOK || !strings.Contains(stdout, c.want) || (len(sent()) > 0) != c.sends {
			t.Errorf("%s: code %d, sent %v: %s%s", c.name, code, len(sent()) > 0, stdout, stderr)
		}
	}
	t.Setenv(githubToken, "wrong")
	api, _ = github(t, nil)
	if code, _, stderr := quantraband(pr(api)...); code != exitFailed || !strings.Contains(stderr, "GitHub does not know the token (Bad credentials)") || strings.Contains(stderr, "wrong") {
		t.Errorf("a wrong token: code %d: %s", code, stderr)
	}
	if code, _, stderr := quantraband(pr("http://127.0.0.1:1")...); code != exitUnavailable {
		t.Errorf("nobody there: code %d: %s", code, stderr)
	}
}

func mustRead(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// checked is a program whose main calls a function that is too large to be inlined, unless it is hot, through an
// interface: in line 27, 3 lines after main's first.
const checked = `package main

type shape interface{ area(n int) int }

type square struct{ side int }

func (s square) area(n int) int {
	sum := 0
	for i := 0; i < n; i++ {
		sum += s.side*i ^ n
		sum -= s.side & i
		sum ^= n << 3
		sum += sum >> 2
		sum ^= i * i * i
		sum += s.side*n - i*s.side + (sum&7)*(n|i)
		sum -= (sum ^ n) * (i | s.side) * (n - s.side) * (sum - i)
		sum += (sum | n) * (i ^ s.side) * (n + s.side) * (sum + i)
		sum ^= (sum & n) * (i & s.side) * (n * s.side) * (sum * i)
	}
	return sum
}

var shapes = []shape{square{3}}

func main() {
	sum := 0
	for i := 0; i < 10; i++ {
		sum += shapes[0].area(i)
	}
	println(sum)
}
`

// TestPGOCheck: a call of which the profile says that it is hot is made direct, and inlined; and what is wrong is told. With
// QUANTRA_CI it begins with an empty cache, as a user's does, and time is told; else that would be half a minute each time.
func TestPGOCheck(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module checked\n\ngo 1.26\n", "main.go": checked} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	t.Setenv("TMPDIR", t.TempDir()) // nobody else's
	lines := strings.Split(checked, "\n")
	main, call := slices.Index(lines, "func main() {")+1, slices.Index(lines, "\t\tsum += shapes[0].area(i)")+1
	area := slices.Index(lines, "func (s square) area(n int) int {") + 1
	b := profile.NewBuilder(profile.ValueType{Type: "cpu", Unit: "nanoseconds"})
	frame := func(name string, start, line int) uint32 {
		return b.Location(profile.Location{}, profile.Line{Function: b.Function(profile.Function{Name: b.String(name), StartLine: int64(start)}), Line: int64(line)})
	}
	b.Add(b.Stack(b.Stack(b.Stack(0, frame("runtime.main", 100, 110)), frame("main.main", main, call)), frame("main.square.area", area, area+3)), 0, 1e10)
	var raw bytes.Buffer
	if err := b.Profile().Encode(&raw); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("raw.pb.gz", raw.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := quantraband("pgo", "raw.pb.gz", "-o", "default.pgo"); code != exitOK {
		t.Fatalf("code %d: %s", code, stderr)
	}
	args := []string{"pgo", "check", "--json"}
	fresh := os.Getenv("QUANTRA_CI") != ""
	if !fresh {
		args = append(args, "--cached")
	}
	code, stdout, stderr := quantraband(args...)
	var got struct {
		Without, With pgoBuild
		Hot           int `json:"hot_calls"`
		Objections    []string
	}
	if err := json.Unmarshal([]byte(stdout), &got); code != exitOK || err != nil {
		t.Fatalf("code %d, %v: %s%s", code, err, stdout, stderr)
	}
	if got.With.Devirtualized != got.Without.Devirtualized+1 || got.With.Inlined <= got.Without.Inlined || got.Without.Inlined < 100 || got.Hot != 1 {
		t.Errorf("%+v", got)
	}
	if (got.With.Seconds > 0) != fresh || (got.Without.Seconds > 0) != fresh || got.With.Bytes < 100_000 || len(got.Objections) > 0 {
		t.Errorf("%+v", got)
	}
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "quantraband-pgo-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q %v", left, err)
	}

	if err := os.WriteFile("main.go", []byte("package main\n\nfunc main() { undefined() }\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		code int
		args []string
		want string
	}{
		{"does not compile", exitFailed, nil, "undefined: undefined"},
		{"no such package", exitFailed, []string{"--package", "./nosuch"}, "nosuch"},
		{"no such go", exitFailed, []string{"--go", "no-such-go"}, "--go says where it is"},
		{"no such profile", exitFailed, []string{"--profile", "nosuch.pgo"}, "no such file"},
		{"no profile", exitCorrupt, []string{"--profile", "main.go"}, "main.go"},
		{"an option as package", exitUsage, []string{"--package=-toolexec=x"}, "must be a package"},
	} {
		code, _, stderr := quantraband(append([]string{"pgo", "check", "--cached"}, c.args...)...)
		if code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: code %d: %s", c.name, code, stderr)
		}
	}
}
