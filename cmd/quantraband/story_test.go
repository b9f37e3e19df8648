//go:build story

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/quantra-l/quantra/cmd/quantraband/demo"
	"github.com/quantra-l/quantra/optimize"
)

// storyPolicy has two stages of a minute and a half. What is tolerated of latency and throughput is wide: the machine that tests run on is
// shared, and it is CPU, memory and errors by which these endings differ.
const storyPolicy = `
plan:
  stages:
    - {nodes: 1, dwell: 90s, deadline: 6m}
    - {percent: 100, dwell: 90s, deadline: 6m}
  metrics:
    latency_p99: {tolerate: 0.5}
    throughput: {tolerate: 0.3}
  baseline: 10m
  judge: {warm_up: 10s}
node_every: 0s
`

// TestStory is the demo as she sees it, in a real browser and on a fleet of real processes, with both endings: what the server proposes is
// started by its button, judged and promoted until its saving has come true; it is undone; a bad change is started, and undone within
// seconds, with the reason. It takes some minutes, so it has a tag of its own: go test -tags story -run TestStory ./cmd/quantraband
func TestStory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(storyPolicy), 0o600); err != nil {
		t.Fatal(err)
	}
	s := mustStart(t, "--demo", "--data", t.TempDir(), "--policy", file)
	page := openPage(t, s)
	var good optimize.Change
	await(t, "a proposal for the collector", 8*time.Minute, func() (string, bool) {
		cs := changesOf(t, s)
		for _, c := range cs {
			if c.Kind == optimize.Runtime && c.Service == "checkout" {
				good = c
				return c.Sentence, true
			}
		}
		return fmt.Sprintf("%d changes", len(cs)), false
	})
	t.Log(good.Sentence)

	// She presses Start, and sees what will happen before she agrees.
	page.visit(s.base + "/changes/" + good.ID)
	page.click(`button`, "Start")
	page.click(`dialog button[type="submit"]`, "Start")
	await(t, "the saving", 12*time.Minute, func() (string, bool) {
		c := changeOf(t, s, good.ID)
		if c.State == optimize.Failed || c.State == optimize.Undone {
			t.Fatalf("%s: %s", c.State, c.Reason)
		}
		return fmt.Sprintf("%s, stage %d: %s", c.State, c.Stage, c.Held), c.State == optimize.Done && applied(&c) == 4
	})
	c := changeOf(t, s, good.ID)
	if c.Saved == nil || c.Saved.Cores.Low <= 0 {
		t.Errorf("it has saved %+v, want more than nothing, for certain", c.Saved)
	}
	t.Log(c.Reason)
	page.says("Saves a month")

	// The other ending.
	act := func(args ...string) (c optimize.Change) {
		t.Helper()
		if err := tell(s, &c, append([]string{"changes"}, args...)...); err != nil {
			t.Fatal(err)
		}
		return c
	}
	act("undo", good.ID, "--by", "ada")
	await(t, "the undo", time.Minute, func() (string, bool) {
		c := changeOf(t, s, good.ID)
		return string(c.State), c.State == optimize.Undone && applied(&c) == 0
	})
	bad := act("propose", "-s", "checkout", "--gogc", "20", "--by", "ada")
	act("start", bad.ID, "--by", "ada")
	await(t, "the undo of what did harm", 5*time.Minute, func() (string, bool) {
		c := changeOf(t, s, bad.ID)
		return fmt.Sprintf("%s: %s", c.State, c.Held), c.State == optimize.Failed
	})
	c = changeOf(t, s, bad.ID)
	took := c.EndedAt.Sub(c.StageAt)
	t.Logf("undone %s after it was in force: %s", took.Round(time.Second), c.Reason)
	if applied(&c) != 0 || c.Stage != 0 {
		t.Errorf("it is in force at %d nodes, stage %d", applied(&c), c.Stage)
	}
	page.visit(s.base + "/changes/" + bad.ID)
	page.says(firstWords(c.Reason))
}

// TestStoryBuild is the ending of a build: the server proposes a profile for the compiler, she starts it, one node gets the build that comes of it, which is
// slower in one function; it is taken back, and the page and the command line name the function. It takes about six minutes, and longer where
// the fleet gets so little processor time that its profile is not steady at first.
func TestStoryBuild(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(storyPolicy), 0o600); err != nil {
		t.Fatal(err)
	}
	s := mustStart(t, "--demo", "--data", t.TempDir(), "--policy", file)
	page := openPage(t, s)
	var build optimize.Change
	await(t, "a proposal of a profile", 25*time.Minute, func() (string, bool) {
		cs := changesOf(t, s)
		for _, c := range cs {
			if c.Kind == optimize.PGO && c.Service == demo.Service {
				build = c
				return c.Sentence, true
			}
		}
		return fmt.Sprintf("%d changes", len(cs)), false
	})
	t.Log(build.Sentence)
	page.visit(s.base + "/changes/" + build.ID)
	page.click(`button`, "Start")
	page.click(`dialog button[type="submit"]`, "Start")
	await(t, "one node to run the build", 3*time.Minute, func() (string, bool) {
		c := changeOf(t, s, build.ID)
		return fmt.Sprintf("%s: %s", c.State, c.Held), c.State == optimize.Dwelling
	})
	if c := changeOf(t, s, build.ID); !slices.Contains(c.Versions, demo.V3) {
		t.Errorf("it is judged on %v", c.Versions)
	}
	await(t, "the undo of the slower build", 10*time.Minute, func() (string, bool) {
		c := changeOf(t, s, build.ID)
		if c.State == optimize.Undone || c.State == optimize.Done {
			t.Fatalf("%s: %s", c.State, c.Reason)
		}
		return fmt.Sprintf("%s: %s", c.State, c.Held), c.State == optimize.Failed
	})
	c := changeOf(t, s, build.ID)
	t.Logf("taken back %s after it was in force: %s", c.EndedAt.Sub(c.StageAt).Round(time.Second), c.Reason)
	if c.Verdict == nil || c.Verdict.Guilty != demo.SlowFunction {
		t.Errorf("guilty is %+v", c.Verdict)
	}
	page.visit(s.base + "/changes/" + build.ID)
	page.says("signReceipt")
	var told, stderr bytes.Buffer
	if code := run(t.Context(), []string{"changes", "show", build.ID, "--server", s.base}, nil, &told, &stderr); code != exitOK || !strings.Contains(told.String(), demo.SlowFunction) {
		t.Errorf("code %d: %s%s", code, &told, &stderr)
	}
}

// firstWords are enough of a sentence to find it by.
func firstWords(s string) string {
	words := strings.Fields(s)
	return strings.Join(words[:min(5, len(words))], " ")
}

func applied(c *optimize.Change) (n int) {
	for _, u := range c.Units {
		if u.State == optimize.UnitApplied {
			n++
		}
	}
	return n
}

func changesOf(t *testing.T, s *server) []optimize.Change {
	t.Helper()
	var answer struct {
		Changes []optimize.Change `json:"changes"`
	}
	if err := tell(s, &answer, "changes", "list"); err != nil {
		t.Fatal(err)
	}
	return answer.Changes
}

func changeOf(t *testing.T, s *server, id string) optimize.Change {
	t.Helper()
	var answer struct {
		Change optimize.Change `json:"change"`
	}
	if err := tell(s, &answer, "changes", "show", id); err != nil {
		t.Fatal(err)
	}
	return answer.Change
}

// await waits for what happens in a fleet of processes, which no event tells.
func await(t *testing.T, what string, most time.Duration, ok func() (string, bool)) {
	t.Helper()
	end := time.NewTimer(most)
	defer end.Stop()
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		is, done := ok()
		if done {
			return
		}
		select {
		case <-end.C:
			t.Fatalf("%s: not within %s; it is %s", what, most, is)
		case <-tick.C:
		}
	}
}

// tab is a page in a browser.
type tab struct {
	t   *testing.T
	ctx context.Context
}

// openPage is a browser in which the server's owner is logged in, by the link that the server has printed; without a browser there is no story.
func openPage(t *testing.T, s *server) *tab {
	t.Helper()
	exe := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			exe = path
			break
		}
	}
	if exe == "" {
		t.Fatal("there is no chromium or google-chrome in PATH")
	}
	alloc, end := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(exe), chromedp.NoSandbox)...)
	t.Cleanup(end)
	ctx, end := chromedp.NewContext(alloc)
	t.Cleanup(end)
	if _, err := chromedp.Run(ctx, chromedp.Title()); err != nil { // starts it, for as long as ctx lives
		t.Fatal(err)
	}
	p := &tab{t, ctx}
	link := regexp.MustCompile(`http\S+/login\?code=\S+`).FindString(s.ready)
	if link == "" {
		t.Fatalf("no link to log in by: %s", s.ready)
	}
	p.visit(link)
	p.says("Log out")
	return p
}

func (p *tab) run(what string, a chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	if _, err := chromedp.Run(ctx, a); err != nil {
		text, _ := chromedp.Run(p.ctx, chromedp.Evaluate[string](`location.href + "\n" + document.body.innerText.slice(0, 1500)`)) // only to help who reads the failure
		p.t.Fatalf("%s: %v\n%s", what, err, text)
	}
}

func (p *tab) visit(url string) { p.t.Helper(); p.run("visit "+url, chromedp.Navigate(url)) }

// poll waits until an expression is true.
func (p *tab) poll(what, js string) {
	p.t.Helper()
	p.run(what, chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := chromedp.Poll[any](js, chromedp.WithPollingTimeout(50*time.Second))(ctx, t)
		return err
	}))
}

// click presses what is chosen and has exactly these words, once it is there.
func (p *tab) click(selector, words string) {
	p.t.Helper()
	find := fmt.Sprintf(`[...document.querySelectorAll(%q)].find((x) => x.textContent.trim() === %q && !x.disabled)`, selector, words)
	p.poll("a button "+words, "!!"+find)
	p.run("click "+words, chromedp.Evaluate[chromedp.Void]("void "+find+".click()"))
}

func (p *tab) says(words string) {
	p.t.Helper()
	p.poll("the page says "+words, fmt.Sprintf(`document.body.innerText.toLowerCase().includes(%q.toLowerCase())`, words))
}
