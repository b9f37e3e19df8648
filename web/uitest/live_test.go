package uitest

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/quantra-l/quantra/agent"
	"github.com/quantra-l/quantra/agent/live"
	"github.com/quantra-l/quantra/analyze/sched"
	"github.com/quantra-l/quantra/fleet"
	"github.com/quantra-l/quantra/ingest"
	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/web"
)

// text is what an element shows, "" where there is none.
func text(selector string) string {
	return fmt.Sprintf(`(document.querySelector(%q) || {innerText: ""}).innerText`, selector)
}

// click clicks on the first element of a kind that has words in it, as a script: what is refreshed may move.
func (b *tab) click(selector, words string) {
	b.t.Helper()
	find := fmt.Sprintf(`[...document.querySelectorAll(%q)].find((x) => x.textContent.includes(%q) && !x.disabled)`, selector, words)
	b.until("!!" + find)
	b.do(chromedp.Evaluate[chromedp.Void]("void " + find + ".click()"))
}

// again asks for a snapshot now.
func (b *tab) again() {
	b.t.Helper()
	b.do(chromedp.Click(`button[aria-label="Refresh now"]`))
}

func TestAgentsAreShown(t *testing.T) {
	s := withAgents(t, openStore(t), fleet.Options{})
	all := someAgents(t, s.URL)
	b := open(t, s.URL)
	b.visit("/agents")
	b.until(`document.querySelectorAll("[data-agent]").length === 5`)
	b.until(`/5 of 5 agents online · 1 with something left out/.test(` + text(".agents-facts") + `)`)
	billing := `document.querySelector('[data-agent="billing/billing-0"]')`
	for _, want := range []string{"1.60 %", "±0.30", "11 MiB", "225 profiles", "connection refused"} {
		if got := eval[string](b, billing+".innerText"); !strings.Contains(got, want) {
			t.Errorf("the row of a full disk does not say %q:\n%s", want, got)
		}
	}
	if n := eval[int](b, billing+`.querySelectorAll(".meter.over").length`); n != 2 {
		t.Errorf("%d meters are over what they may be, processor and memory are", n)
	}

	// What is left out says why, and leads to the steps there.
	shed := `document.querySelector('[data-agent="checkout/checkout-v2-0"] button.tag')`
	if got := eval[string](b, shed+".title"); !strings.Contains(got, "the agent takes 1.32 %") {
		t.Errorf("a chip of what is left out says %q, not why", got)
	}
	b.do(chromedp.Evaluate[chromedp.Void]("void " + shed + ".click()"))
	b.until(`document.querySelectorAll(".a-steps li").length === 2 && /97 % of its processors/.test(document.querySelector(".a-steps li").innerText)`) // the latest first
	b.until(`/another profiler has it/.test(` + text(".a-more") + `) && /sent to \/dev\/null/.test(` + text(".a-notices") + `)`)
	links := eval[string](b, `[...document.querySelectorAll(".a-acts a")].map((a) => decodeURIComponent(a.search)).join(" ")`)
	if want := `?service=checkout&labels={service_instance_id="checkout-v2-0"} ?service=checkout&instance=checkout-v2-0`; links != want {
		t.Errorf("its links are %q, want %q", links, want)
	}
	b.do(chromedp.Reload()) // the URL knows what is unfolded
	b.until(`document.querySelectorAll(".a-steps li").length === 2`)

	// By keyboard: the focus stays where it is while the page is drawn anew.
	const twist = `[data-agent="catalog/catalog-v7-0"] .g-twist`
	b.do(chromedp.Focus(twist), chromedp.KeyEvent(kb.Enter))
	b.until(`document.activeElement.matches('` + twist + `[aria-expanded="true"]')`)
	b.do(chromedp.KeyEvent(kb.Enter))
	b.until(`document.activeElement.matches('` + twist + `[aria-expanded="false"]') && !document.querySelector(".a-more")`)

	const first = `document.querySelector("[data-agent]").dataset.agent`
	b.click(".t-sort", "Processor")
	b.until(first + ` === "billing/billing-0" && document.querySelector(".a-cpu[aria-sort=descending]")`)
	b.click(".t-sort", "Processor")
	b.until(first + ` !== "billing/billing-0"`)
	b.do(chromedp.SendKeys(`.filter-services`, "CATALOG"))
	b.until(`document.querySelectorAll("[data-agent]").length === 1 && document.activeElement.classList.contains("filter-services")`)
	b.visit("/agents?service=checkout")
	b.until(`document.querySelectorAll("[data-agent]").length === 2`)

	// One that ends is offline, and can be told nothing.
	all["plain"].stop()
	b.click(".g-twist[aria-label='Details of checkout checkout-v1-0']", "")
	b.until(`(document.querySelector("button[aria-label='Refresh now']").click(), /offline/.test(document.querySelector('[data-agent="checkout/checkout-v1-0"] .a-state').innerText))`)
	b.until(`[...document.querySelectorAll(".a-acts button")].some((x) => /Lease/.test(x.textContent) && x.disabled && /offline/.test(x.title))`)
	b.quiet()
}

func TestLease(t *testing.T) {
	s := withAgents(t, openStore(t), fleet.Options{})
	all := someAgents(t, s.URL)
	b := open(t, s.URL)
	fill := func(values ...string) {
		t.Helper()
		b.until(`!!document.querySelector("dialog[open] form")`)
		for i := 0; i < len(values); i += 2 {
			in := `dialog [name="` + values[i] + `"]`
			b.do(chromedp.Evaluate[chromedp.Void](`void (document.querySelector('`+in+`').value = "")`), chromedp.SendKeys(in, values[i+1]))
		}
		b.click("dialog button", "Review")
	}
	b.visit("/agents?open=checkout/checkout-v1-0")
	b.click(".a-acts button", "Lease settings")
	fill("gomemlimit", "lots")
	b.until(`/512MiB or 2GiB/.test(` + text("dialog .field-error") + `)`)
	// What the server refuses is said in the form, with what was typed still there.
	fill("gomemlimit", "", "gogc", "5")
	b.click("dialog button", "Lease for 10m")
	b.until(`/gogc 5: it must be 10 or more/.test(` + text("dialog .field-error") + `) && document.querySelector("dialog [name=gogc]").value === "5"`)
	fill("gogc", "200", "gomemlimit", "512 MiB", "for", "2h")
	if got := eval[string](b, text("dialog .changes")); !strings.Contains(strings.Join(strings.Fields(got), " "), "GOGC 100 → 200 GOMEMLIMIT none → 512 MiB") {
		t.Errorf("before it acts it says %q", got)
	}
	if got := all["plain"].settings()["gogc"]; got != 100 {
		t.Errorf("GOGC is %v before anybody confirmed", got)
	}
	b.click("dialog button", "Lease for 2h")
	b.until(`!document.querySelector("dialog") && /in force\s+1 h 59 min left/.test(document.querySelector('[data-agent="checkout/checkout-v1-0"] .a-lease').innerText)`)
	b.until(`document.querySelectorAll(".a-facts .tag.hot").length === 2 && /512 MiB/.test(` + text(".a-facts") + `)`)
	if got := fmt.Sprint(all["plain"].settings()["gomemlimit"]); got != "536870912" {
		t.Errorf("the agent was told a memory limit of %s", got)
	}
	b.click(".a-acts button", "Release")
	b.until(`document.querySelector('[data-agent="checkout/checkout-v1-0"] .a-lease').innerText.trim() === "–" && !document.querySelector(".a-facts .tag.hot")`)
	if got := all["plain"].settings()["gogc"]; got != 100 {
		t.Errorf("after the release GOGC is %v", got)
	}

	// No limit is a number that JavaScript cannot write.
	b.click(".a-acts button", "Lease settings")
	fill("gomemlimit", "none")
	b.click("dialog button", "Lease for 10m")
	b.until(`!!document.querySelector(".a-facts .tag.hot")`)
	if got := fmt.Sprint(all["plain"].settings()["gomemlimit"]); got != "9223372036854775807" {
		t.Errorf("no memory limit is told as %s", got)
	}

	// An agent has guards of its own.
	b.visit("/agents?open=catalog/catalog-v7-0")
	b.click(".a-acts button", "Lease settings")
	fill("gogc", "200")
	b.click("dialog button", "Lease for 10m")
	b.until(`/It refused its lease: gogc 200 would need 612 MiB/.test(` + text(".a-notices") + `) && /refused/.test(document.querySelector('[data-agent="catalog/catalog-v7-0"] .a-lease').innerText)`)
	b.visit("/agents?open=billing/billing-0")
	b.until(`[...document.querySelectorAll(".a-acts button")].some((x) => /Lease/.test(x.textContent) && x.disabled && /PROFILER_OPTIMIZER_ENABLED/.test(x.title))`)
}

func TestAgentsFaults(t *testing.T) {
	s := withAgents(t, openStore(t), fleet.Options{})
	b := open(t, s.URL)
	for _, path := range []string{"/agents", "/live"} {
		b.visit(path)
		b.until(`/agent.Start/.test(` + text(".welcome") + `)`)
	}
	b.quiet()
	p := scripted("checkout", "v1", "checkout-v1-0").run(t, s.URL)
	b.visit("/live?service=nobody")
	b.until(`/No agent of nobody/.test(` + text(".welcome") + `) && document.querySelector(".panel").offsetHeight === 0`)
	b.click(".welcome a.btn", "checkout")
	b.until(`document.querySelectorAll(".g-row").length > 5 && !document.querySelector(".welcome")?.offsetHeight`)
	b.quiet()

	b.visit("/agents?refresh=off")
	b.until(`document.querySelectorAll("[data-agent]").length === 1`)
	s.breaks("/api/v1/agents")
	b.again()
	b.until(`/a fault of the server's/.test(` + text(".banner:not([hidden])") + `) && document.querySelectorAll("[data-agent]").length === 1`)
	s.breaks("")
	b.click(".banner button", "Try again")
	b.until(`document.querySelector(".banner").hidden`)

	b.visit("/live?service=checkout")
	b.until(`document.querySelectorAll(".g-row").length > 5`)
	s.breaks("/api/v1/agents/goroutines")
	b.again()
	b.until(`/a fault of the server's/.test(` + text(".banner:not([hidden])") + `) && /as they were at/.test(` + text(".facts") + `) && document.querySelector(".panes.stale")`)
	s.breaks("")
	b.click(".banner button", "Try again")
	b.until(`document.querySelector(".banner").hidden && !document.querySelector(".panes.stale")`)
	p.stop()
	<-p.ended
	s.CloseClientConnections()
	s.Close()
	b.again()
	b.until(`/does not answer/.test(` + text(".banner:not([hidden])") + `) && /Not reached/.test(` + text(".top") + `)`)
}

func TestLiveTree(t *testing.T) {
	var grown atomic.Int64
	s := withAgents(t, openStore(t), fleet.Options{})
	p := scripted("checkout", "v1", "checkout-v1-0").taking(func(bool) any { return shop(int(grown.Load())) }).run(t, s.URL)
	scripted("checkout", "v1", "checkout-v1-1").run(t, s.URL)
	b := open(t, s.URL)
	const rows = `[...document.querySelectorAll(".g-row")].map((r) => r.dataset.func.replace(/.*\//, "")).join(" ")`
	b.visit("/live?service=checkout&refresh=30s")
	b.until(`new URLSearchParams(location.search).get("instance") === "checkout-v1-0"`) // it stays with one
	b.until(rows + ` === "all goroutines main.main work.(*Pool).run http.(*conn).serve order.(*Book).audit http.(*connReader).backgroundRead sql.(*DB).connectionOpener cache.(*LRU).sweep signal.loop api.(*Server).notify mail.(*Sender).send"`)
	if got := eval[string](b, text(".facts")); !strings.Contains(got, "1,123 goroutines in 13 groups") || !strings.Contains(got, "stood still for 1.9 ms") {
		t.Errorf("it says %q", got)
	}

	// What is selected is what the flame graph shows.
	frames := eval[int](b, `__quantra.frames`)
	b.click(".g-row", "Pool")
	b.until(fmt.Sprintf(`__quantra.frames < %d && /work.\(\*Pool\).run\s+833 goroutines/.test(%s)`, frames, text(".chosen")))
	b.do(chromedp.Focus(`.pane-flame canvas`), chromedp.KeyEvent(kb.ArrowDown))
	b.until(`/work\.\(\*Pool\)\.run, 100 % of the goroutines/.test(document.querySelector(".flame [aria-live]").textContent)`)
	b.until(`/created by work\.New at work\.go:77 · waiting for up to 4 min · ids 20, 21/.test(` + text(".chosen-more") + `)`)

	// States: a filter, and the way back.
	b.click(".state", "running")
	b.until(`/Pool\).run\s+24 goroutines/.test(` + text(".chosen") + `) && ` + rows + ` === "all goroutines main.main work.(*Pool).run"`)
	b.click(".state", "sync.Mutex.Lock")
	b.until(rows + ` === "all goroutines main.main http.(*conn).serve work.(*Pool).run"`)
	b.click(".states button", "all states")
	b.until(`document.querySelectorAll(".g-row").length === 11`)

	// The keyboard walks, folds and unfolds.
	selected := `document.querySelector(".g-row.selected").dataset.func`
	b.do(chromedp.Focus(`.gtree .t-body`), chromedp.KeyEvent(kb.Home), chromedp.KeyEvent(kb.ArrowDown), chromedp.KeyEvent(kb.ArrowLeft))
	b.until(selected + ` === "main.main" && document.querySelectorAll(".g-row").length === 4 && document.querySelector(".g-row.selected").getAttribute("aria-expanded") === "false"`)
	b.do(chromedp.KeyEvent(kb.ArrowRight), chromedp.KeyEvent(kb.ArrowRight))
	b.until(selected + ` === "` + pool + `" && document.getElementById(document.activeElement.getAttribute("aria-activedescendant")).classList.contains("selected")`)
	b.click(".gtree button", "Fold")
	b.until(`document.querySelectorAll(".g-row").length === 3`)
	b.click(".gtree button", "Unfold all")
	b.until(`document.querySelectorAll(".g-row").length === 11`)

	// By what waits longest, and by what grew; what grows and waits is pointed out.
	b.click(".t-sort", "Waits")
	b.until(rows + `.startsWith("all goroutines main.main signal.loop sql.")`)
	for n := range 2 {
		grown.Add(5)
		b.again()
		b.until(fmt.Sprintf(`/\+%d since/.test(%s)`, 5*(n+1), text(".facts")))
	}
	b.until(`/Perhaps a leak: a group has waited for over a minute and only grown, mail.\(\*Sender\).send by 10/.test(` + text(".notice:not([hidden])") + `)`)
	b.click(".t-sort", "Growth")
	b.until(rows + `.startsWith("all goroutines api.(*Server).notify mail.(*Sender).send main.main")`)
	b.click(".notice button", "Show")
	b.until(selected + ` === "` + mail + `" && /leak\?/.test(document.querySelector(".g-row.selected").innerText) && /\+10/.test(document.querySelector(".g-row.selected").innerText)`)
	grown.Store(7) // it shrinks: it was load
	b.again()
	b.until(`/\+7 since/.test(` + text(".facts") + `) && !document.querySelector(".tag.bad") && !document.querySelector(".notice:not([hidden])")`)

	b.do(chromedp.SendKeys(`.search-input`, "sha256|evict"), chromedp.Click(`.search-re`))
	b.until(rows + ` === "all goroutines main.main work.(*Pool).run"`)
	b.quiet()

	// It goes away, and the page says so and where to go.
	p.stop()
	<-p.ended
	b.until(`(document.querySelector("button[aria-label='Refresh now']").click(), /checkout-v1-0 is offline/.test(` + text(".notice:not([hidden])") + `))`)
	b.click(".notice a", "Show checkout-v1-1")
	b.until(`new URLSearchParams(location.search).get("instance") === "checkout-v1-1" && document.querySelectorAll(".notice:not([hidden]), .banner:not([hidden])").length === 0`)
}

// timers counts the page's intervals of a second and more: what refreshes.
const timers = `(() => {
	const set = window.setInterval.bind(window), clear = window.clearInterval.bind(window), on = window.__timers = new Map();
	window.setInterval = (f, ms, ...rest) => { const id = set(f, ms, ...rest); if (ms >= 1000) on.set(id, ms); return id; };
	window.clearInterval = (id) => { on.delete(id); clear(id); };
})()`

func TestLivePauseAndFullList(t *testing.T) {
	s := withAgents(t, openStore(t), fleet.Options{})
	p := scripted("catalog", "v7", "catalog-v7-0").taking(counted).run(t, s.URL)
	b := open(t, s.URL)
	b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: timers})
		return err
	}))
	b.visit("/live?service=catalog")
	b.until(`/44,920 goroutines are counted by stack/.test(` + text(".notice:not([hidden])") + `) && document.querySelectorAll(".g-row").length === 10`)
	b.until(`[...__timers.values()].join() === "2000"`)
	b.until(`/ms$/.test(/for about (\d+0 ms)/.exec(` + text(".notice:not([hidden]) button") + `)[1])`)

	// Paused, nothing asks the program any more; going on, it does.
	b.click(".viewbar button", "Pause")
	b.until(`__timers.size === 0 && !document.querySelector(".live") && document.querySelector(".viewbar button[aria-pressed=true]").textContent === "Go on"`)
	b.click(".viewbar button", "Go on")
	b.until(`[...__timers.values()].join() === "2000" && !!document.querySelector(".live")`)
	for _, task := range p.tasks() {
		if task != "goroutines full=false" {
			t.Errorf("the program was asked for %q before anybody wanted it", task)
		}
	}

	// The full list stops the program: only on demand, once, and the page waits.
	b.click(".notice button", "Take the full list")
	b.until(`/full list, the program stood still for 148 ms/.test(` + text(".facts") + `) && __timers.size === 0 && document.querySelectorAll(".g-row").length === 11`)
	full := 0
	for _, task := range p.tasks() {
		if task == "goroutines full=true" {
			full++
		}
	}
	if full != 1 {
		t.Errorf("the full list was taken %d times", full)
	}
	b.click(".notice button", "Go on with counts")
	b.until(`/counted in 9 ms/.test(` + text(".facts") + `) && __timers.size === 1`)

	// What the program cannot do is said.
	p.taking(func(bool) any { return errors.New("live: goroutine profile: out of luck") })
	b.again()
	b.until(`/out of luck/.test(` + text(".banner:not([hidden])") + `)`)
}

func TestExecutionTrace(t *testing.T) {
	s := withAgents(t, openStore(t), fleet.Options{Summarize: summed})
	p := scripted("checkout", "v1", "checkout-v1-0").run(t, s.URL)
	b := open(t, s.URL)
	b.visit("/live?service=checkout")
	b.click(".viewbar button", "Execution trace 5 s")
	b.until(`document.querySelectorAll(".x-row[data-entry]").length === 5 && !document.querySelector(".panes").offsetHeight && !document.querySelector(".live")`)
	first := `document.querySelector(".x-row[data-entry]")`
	if got := strings.Join(strings.Fields(eval[string](b, first+".innerText")), " "); got != "work.(*Pool).run 833 6.1 s 1.9 s 12 ms 90 ms 1.11 h" {
		t.Errorf("the first row is %q", got)
	}
	if got := eval[string](b, first+`.querySelector(".x-life .stack").getAttribute("aria-label")`); !strings.Contains(got, "chan receive 1.1 h, sync 41 s") {
		t.Errorf("its bar says %q", got)
	}
	if got := eval[string](b, text(".trace .facts")); !strings.Contains(got, "1,124 goroutines on 4 processors") || !strings.Contains(got, "at most 14.2 ms") || !strings.Contains(got, "6 GC cycles") {
		t.Errorf("it sums up as %q", got)
	}
	b.click(".t-sort", "Syscall")
	b.until(first + `.dataset.entry === "net/http.(*conn).serve"`)
	link := eval[string](b, `document.querySelector(".viewbar a[download]").href`)
	res, err := http.Get(link)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK || !strings.HasPrefix(string(body), "go 1.") {
		t.Errorf("%s is %s, %q, %v", link, res.Status, body, err)
	}
	b.click(".seg button", "Goroutines now")
	b.until(`document.querySelectorAll(".g-row").length === 11`)
	b.quiet()
	p.stop()
	<-p.ended

	s = withAgents(t, openStore(t), fleet.Options{})
	scripted("checkout", "v1", "checkout-v1-0").run(t, s.URL)
	b = open(t, s.URL)
	b.visit("/live?service=checkout&view=trace")
	b.click(".viewbar button", "Take a trace")
	b.until(`/without a reader of traces/.test(` + text(".trace .banner:not([hidden])") + `)`)
}

// TestLiveTreeAgrees: the page's tree is agent/live's, also where creators go in circles and functions stand at several places.
func TestLiveTreeAgrees(t *testing.T) {
	s := withAgents(t, openStore(t), fleet.Options{})
	var now atomic.Value
	now.Store(shop(0))
	scripted("tree", "v1", "tree-0").taking(func(bool) any { return now.Load() }).run(t, s.URL)
	b := open(t, s.URL)
	r := rand.New(rand.NewPCG(5, 6))
	b.do(chromedp.EmulateViewport(1440, 8000))
	for i := range 10 {
		if i > 0 {
			now.Store(tangled(r, 3+4*i))
		}
		j, err := json.Marshal(now.Load())
		if err != nil {
			t.Fatal(err)
		}
		var snap live.Snapshot
		if err := json.Unmarshal(j, &snap); err != nil {
			t.Fatal(err)
		}
		var want []string
		flatten(live.Tree(snap), 0, &want)
		b.visit("/live?service=tree&refresh=off")
		b.click(".gtree button", "Unfold all")
		b.until(`document.querySelectorAll(".g-row").length > 1`)
		got := eval[[]string](b, `[...document.querySelectorAll(".g-row")].map((r) => (r.getAttribute("aria-level") - 1) + " " + r.dataset.func + " " + r.querySelector(".bar span").textContent.replaceAll(",", ""))`)
		if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
			t.Fatalf("snapshot %d: the page's tree is\n%s\nagent/live's is\n%s\nof %s", i, g, w, j)
		}
	}
	b.quiet()
}

func flatten(n *live.Node, level int, out *[]string) {
	*out = append(*out, fmt.Sprintf("%d %s %d", level, n.Func, n.Total))
	for _, c := range n.Children {
		flatten(c, level+1, out)
	}
}

// tangled is goroutines of few functions that create each other in every way. Counts are such that no two sums are the same.
func tangled(r *rand.Rand, n int) snapshot {
	s := snapshot{Detail: "full"}
	fns := []string{"main.main", "a.run", "b.run", "c.run", "d.run", "sync.(*WaitGroup).Go.func1", "e.run"}
	parents := append([]string{"(ended)", "(unknown)", "gone.run"}, fns...)
	for range n {
		stack := frames(fns[r.IntN(len(fns))], "x.y"+strconv.Itoa(r.IntN(3)), "runtime.gopark")
		g := group{Count: 1000 + r.IntN(1e9), State: []string{"select", "chan receive", "running"}[r.IntN(3)], Stack: stack}
		if r.IntN(5) > 0 {
			in := fns[r.IntN(len(fns))]
			g.Creator = &frame{Func: in, File: "x.go", Line: 1}
			g.Parents = map[string]int{}
			left := g.Count
			for range 1 + r.IntN(3) {
				k := r.IntN(left + 1)
				if p := parents[r.IntN(len(parents))]; g.Parents[p] == 0 && k > 0 {
					g.Parents[p] = k
					left -= k
				}
			}
		}
		s.Groups = append(s.Groups, g)
	}
	return s.sum()
}

// TestLiveCrowd: as many groups as an agent tells are in the document only where they are in sight.
func TestLiveCrowd(t *testing.T) {
	s := withAgents(t, openStore(t), fleet.Options{})
	scripted("crowd", "v1", "crowd-0").taking(crowd).run(t, s.URL)
	b := open(t, s.URL)
	b.visit("/live?service=crowd&refresh=off")
	b.click(".gtree button", "Unfold all")
	b.until(`Number(document.querySelector(".gtree .t-body").getAttribute("aria-rowcount")) === 2002`)
	b.do(chromedp.Evaluate[chromedp.Void](`void (document.querySelector(".gtree .t-body").scrollTop = 1e9)`))
	b.until(`!!document.getElementById("g2001")`)
	if n := eval[int](b, `document.querySelectorAll(".g-row").length`); n > 100 {
		t.Errorf("the document has %d rows of the tree; only those in sight should be", n)
	}
	b.until(`/small groups are summed up as “other”/.test(` + text(".facts") + `)`)
	b.do(chromedp.Focus(`.gtree .t-body`), chromedp.KeyEvent(kb.Home))
	ms := eval[[]float64](b, `(() => { const out = []; for (let i = 0; i < 40; i++) { const t = performance.now(); document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown", bubbles: true })); out.push(performance.now() - t); } return out })()`)
	var sum, most float64
	for _, x := range ms {
		sum, most = sum+x, max(most, x)
	}
	t.Logf("2,001 groups of 31 frames: a step of the selection takes %.1f ms in the mean, %.1f ms at most; the flame graph follows (n=%d)", sum/float64(len(ms)), most, len(ms))
	b.quiet()
}

// TestLiveRealAgent is the whole way: an agent in this process, a server, and the page.
func TestLiveRealAgent(t *testing.T) {
	browser(t)
	t.Setenv("QUANTRA_REGION", "local")
	st := openStore(t)
	f, err := fleet.New(fleet.Options{Summarize: func(b []byte) (any, error) { return sched.Summarize(strings.NewReader(string(b)), sched.Limits{}) }})
	if err != nil {
		t.Fatal(err)
	}
	in, err := ingest.New(ingest.Options{Append: func(ctx context.Context, p ingest.Push) error {
		return st.Append(ctx, store.Upload{Tenant: p.Tenant, Name: p.Name, Labels: p.Labels, From: p.From, To: p.To, Pprof: p.Pprof, Profile: p.Profile})
	}, Signatures: ingest.NewVerifier(ingest.SignatureOptions{Verify: func(key ed25519.PublicKey, message, signature []byte) bool {
		return seal.PublicKey(key).VerifyNote(message, seal.Signature(signature)) == nil
	}})})
	if err != nil {
		t.Fatal(err)
	}
	routes := readers(f)
	maps.Copy(routes, ledgerOf().routes())
	maps.Copy(routes, tasksOf(t))
	h, err := web.New(web.Options{Store: st, Routes: routes})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	in.Register(mux)
	f.Register(mux)
	mux.Handle("/", h)
	s := httptest.NewServer(mux)
	defer s.Close()
	defer f.Close()

	percent := debug.SetGCPercent(100)
	defer debug.SetGCPercent(percent)
	gate := make(chan struct{})
	defer close(gate)
	for range 25 {
		go waitAtGate(gate)
	}
	a, err := agent.Start(t.Context(), agent.Options{Service: "uitest", Instance: "here", Server: s.URL, Region: "local", SpoolBytes: -1, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	b := open(t, s.URL)
	b.visit("/agents?refresh=2s&open=uitest/here")
	b.until(`/online/.test(` + text(`[data-agent="uitest/here"] .a-state`) + `)`)
	b.click(".a-acts button", "Lease settings")
	b.until(`!!document.querySelector("dialog[open] form")`)
	b.do(chromedp.SendKeys(`dialog [name="gogc"]`, "150\r"))
	b.click("dialog button", "Lease for 10m")
	b.until(`/in force/.test(` + text(`[data-agent="uitest/here"] .a-lease`) + `)`)
	if got := debug.SetGCPercent(150); got != 150 {
		t.Errorf("the page says that a GOGC of 150 is in force, it is %d", got)
	}
	b.click(".a-acts button", "Release")
	b.until(`document.querySelector('[data-agent="uitest/here"] .a-lease').innerText.trim() === "–" && [...document.querySelectorAll(".a-facts dl div")].some((x) => /GOGC\s+100/.test(x.innerText))`)
	if got := debug.SetGCPercent(100); got != 100 {
		t.Errorf("after the release GOGC is %d", got)
	}

	b.click(".a-acts a", "Goroutines now")
	b.until(`[...document.querySelectorAll(".g-row")].some((r) => /waitAtGate/.test(r.dataset.func) && r.querySelector(".bar span").textContent === "25")`)
	b.click(".g-row", "waitAtGate")
	b.until(`/waitAtGate\s+25 goroutines/.test(` + text(".chosen") + `) && /created by uitest.TestLiveRealAgent at live_test.go/.test(` + text(".chosen") + `)`)
	b.click(".seg button", "Execution trace")
	b.click(`.pick[title="Length of the trace"]`, "5 s")
	b.click(`.menu-item`, "1 s")
	b.click(".viewbar button", "Take a trace")
	b.until(`[...document.querySelectorAll(".x-row[data-entry]")].some((r) => /waitAtGate/.test(r.dataset.entry) && /^25$/m.test(r.innerText))`)
	b.quiet()
}

func waitAtGate(gate chan struct{}) { <-gate }
