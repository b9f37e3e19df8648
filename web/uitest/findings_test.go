package uitest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/watch"
	"github.com/quantra-l/quantra/web"
)

const (
	listed     = `[...document.querySelectorAll(".f-list > [data-finding]")].map((e) => e.dataset.finding).join(" ")`
	findingsUp = `document.querySelectorAll(".f-list > [data-finding]").length`
	param      = `((k) => new URLSearchParams(location.search).get(k) ?? "")`
)

func ids(records []watch.Record) string {
	var out []string
	for _, r := range records {
		out = append(out, r.ID)
	}
	return strings.Join(out, " ")
}

func of(records []watch.Record, keep func(*watch.Record) bool) []watch.Record {
	return slices.DeleteFunc(slices.Clone(records), func(r watch.Record) bool { return !keep(&r) })
}

// row is the text of a finding's row, by id.
func row(id string) string { return text(`[data-finding="` + id + `"]`) }

// visible is what a condition says of the page's own width: nothing is out of sight to the right.
const visible = `document.documentElement.scrollWidth <= innerWidth && [...document.querySelectorAll(".page, .f-body")].every((e) => e.scrollWidth <= e.clientWidth + 1)`

func TestFindingsListAndFilters(t *testing.T) {
	k := fullBook()
	all := k.records
	b := open(t, watched(t, k).URL)
	b.visit("/findings")
	unfixed := of(all, func(r *watch.Record) bool { return r.State != stFixed })
	b.until(findingsUp + fmt.Sprintf(` === %d`, len(unfixed)))
	if got := eval[string](b, listed); got != ids(unfixed) {
		t.Errorf("the list is\n%s, the server's is\n%s", got, ids(unfixed))
	}
	// Each says all that a person needs to choose by.
	first := eval[string](b, row(all[0].ID))
	for _, want := range []string{"cache.(*LRU).evict rose from 2.8 % to 19.5 % of checkout's CPU", "New", "Regression", "checkout", "1 warning", "310 USD", "more", "9 min ago"} {
		if !strings.Contains(first, want) {
			t.Errorf("the first row does not say %q:\n%s", want, first)
		}
	}
	if got := eval[string](b, `document.querySelector("[data-finding] .f-price b").title`); !strings.Contains(got, "0.031 USD a core-hour (default), 730 h a month") || !strings.Contains(got, "270 to 350 USD") {
		t.Errorf("the price's basis is %q", got)
	}
	if got := eval[string](b, `document.querySelector("[data-finding] .spark").getAttribute("aria-label")`); !strings.Contains(got, "2.8 % before, 19.5 % after, since") {
		t.Errorf("who cannot see the chart is told %q", got)
	}
	b.until(`document.querySelectorAll("[data-finding] .spark-line").length >= 6 && document.querySelectorAll("[data-finding] .spark-mark").length === 3`)
	b.until(`/Analysed up to \d\d:\d\d:\d\d/.test(` + text(".strip") + `) && /2.1 s behind/.test(` + text(".strip") + `) && /1,834 series \(functions over time\) of 3 services/.test(` + text(".strip") + `) && /1.4 s, 3.9 s at p99/.test(` + text(".strip") + `)`)

	// The URL is the filter, and what the server is asked.
	b.click(".pick", "All services")
	b.click(".menu-item", "catalog")
	catalog := of(unfixed, func(r *watch.Record) bool { return r.Finding.Service == "catalog" })
	b.until(listed + fmt.Sprintf(` === %q && %s("service") === "catalog"`, ids(catalog), param))
	b.click(".pick", "All kinds")
	b.do(chromedp.Click(`input[name="gc_pressure"]`), chromedp.Click(`input[name="anomaly"]`))
	b.click(".checks button", "Apply")
	b.until(listed + fmt.Sprintf(` === %q && %s("kind") === "gc_pressure,anomaly"`, catalog[0].ID, param))
	if got := eval[string](b, text(".f-filters")); !strings.Contains(got, "catalog") || !strings.Contains(got, "2 kinds") {
		t.Errorf("the filters say %q", got)
	}
	if q := k.queries(); q[len(q)-1] != "service=catalog&kind=gc_pressure%2Canomaly" {
		t.Errorf("the server was asked %q", q[len(q)-1])
	}
	b.do(chromedp.Reload())
	b.until(listed + fmt.Sprintf(` === %q`, catalog[0].ID))
	b.do(chromedp.NavigateBack())
	b.until(listed + fmt.Sprintf(` === %q`, ids(catalog)))
	b.click("button", "Clear filters")
	b.until(listed + fmt.Sprintf(` === %q && location.search === ""`, ids(unfixed)))
	b.click(".pick", "Not fixed")
	b.click(".menu-item", "Fixed")
	b.until(listed + fmt.Sprintf(` === %q && %s("state") === "fixed"`, all[6].ID, param))
	if got := eval[string](b, row(all[6].ID)); !strings.Contains(got, "25 USD") || !strings.Contains(got, "saved") || !strings.Contains(got, "25 min ago") {
		t.Errorf("a fixed one's row does not say what came true and when:\n%s", got)
	}
	b.click(".pick", "Any time")
	b.click(".menu-item", "Last 24 hours")
	b.until(param + `("since") === "24h" && ` + listed + fmt.Sprintf(` === %q`, all[6].ID))
	b.visit("/findings?state=open&since=24h")
	b.until(findingsUp + ` === 5`)
	b.do(chromedp.Click(`[data-finding] a.tag`))
	b.until(param + `("service") === "checkout"`)

	// What to look at first is the server's to say.
	b.visit("/findings?state=all")
	b.until(listed + fmt.Sprintf(` === %q`, ids(all)))
	turned := slices.Clone(all)
	slices.Reverse(turned)
	k.change(func(k *book) { k.records = turned })
	b.again()
	b.until(listed + fmt.Sprintf(` === %q`, ids(turned)))

	// More than the server lists at first is a step away.
	var many []watch.Record
	for i := range 200 {
		r := record(rose(time.Now()), time.Hour)
		r.ID = fmt.Sprintf("%016x", i)
		many = append(many, r)
	}
	k.change(func(k *book) { k.records = many })
	b.visit("/findings")
	b.until(findingsUp + ` === 200 && /200 findings, the first ones/.test(` + text(".f-count") + `)`)
	b.click(".f-count button", "Show more")
	b.until(param + `("limit") === "1000" && /^200 findings$/.test(` + text(".f-count") + `)`)
	b.quiet()
}

// TestFindingOpen goes from the list to one finding, by mouse and by keyboard, reads it, and follows its links.
func TestFindingOpen(t *testing.T) {
	k := fullBook()
	rec, hot := k.records[0], k.records[1]
	b := open(t, watched(t, k).URL)
	b.visit("/findings?state=all&refresh=off")
	b.until(findingsUp + ` === 7`)
	b.do(chromedp.Evaluate[chromedp.Void](`void (() => {
		const ask = window.fetch;
		window.asked = [];
		window.fetch = (url, o) => {
			if (/QuerierService/.test(url)) window.asked.push([url.split("/").pop(), JSON.parse(o.body)]);
			return ask(url, o);
		};
	})()`))
	b.do(chromedp.Click(`[data-finding="` + rec.ID + `"] .f-spark`))
	b.until(fmt.Sprintf(`location.pathname === "/findings/%s" && document.title.startsWith("cache.(*LRU).evict · checkout")`, rec.ID))
	b.until(drawn)
	for part, wants := range map[string][]string{
		".f-title":   {"cache.(*LRU).evict rose from 2.8 % to 19.5 %", "New", "Regression", "checkout", planted, "9 min ago"},
		".f-notices": {"Only 2 instances ran v2", "pager could not be told: POST https://events.pagerduty.com/v2/enqueue: 401 Unauthorized"},
		".tiles":     {"2.8 %", "95 %: 2.6 to 3 %", "19.5 %", "+16.7 points", "95 %: +16.1 to +17.2 points", "310 USD", "1.14 cores", "0.031 USD a core-hour (default), 730 h a month", "Costs more"},
		".f-sure":    {"41,250 samples of 2 instances", "likelihood ratio", "1 in 1 trillion (p = 1 × 10⁻¹²)", "1 in 330 million is expected to be false", "(q = 3 × 10⁻⁹)", "service_version=v2", "98.0 % of the change", "(15 min)"},
		".f-next":    {"Compare v1 with v2 in the flame graph, below cache.(*LRU).evict."},
		".f-also":    {"cache.(*LRU).Put", "8 %", "24 %", "+16 points", "caller", "runtime.mapiternext", "callee"},
		".f-history": {"found", "rose from"},
		".f-proof":   {`A: `, `{service_version="v1"}`, `{service_version="v2"}`, "Red grew"},
	} {
		got := eval[string](b, text(part))
		for _, want := range wants {
			if !strings.Contains(got, want) {
				t.Errorf("%s does not say %q:\n%s", part, want, got)
			}
		}
	}

	// The chart is drawn: the line, its band and the mark.
	// The mark goes from the top to the bottom where the new state began, six of fifteen minutes from the left.
	chart := eval[map[string]float64](b, `(() => {
		const c = document.querySelector(".chart-canvas"), d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data, n = { line: 0, band: 0, tall: 0, at: 0 };
		for (let x = 0; x < c.width; x++) {
			let mark = 0;
			for (let y = 0; y < c.height; y++) {
				const i = 4 * (y * c.width + x), [r, g, b, a] = d.subarray(i, i + 4);
				if (a > 20 && a < 90) n.band++;
				else if (a > 90 && b > 150 && r < 110) n.line++;
				else if (a > 90 && r > 150 && g < 130 && b < 130) mark++;
			}
			if (mark / c.height > n.tall) { n.tall = mark / c.height; n.at = ((x * c.clientWidth) / c.width - 74) / (c.clientWidth - 74 - 14); }
		}
		return n;
	})()`)
	if chart["line"] < 150 || chart["band"] < 150 || chart["tall"] < 0.6 || chart["at"] < 0.37 || chart["at"] > 0.45 {
		t.Errorf("pixels of the line and its band, the tallest column of the mark's colour as a share of the height, and where it is: %v", chart)
	}
	if got := eval[string](b, `document.querySelector(".chart-canvas").getAttribute("aria-label")`); !strings.Contains(got, "2.8 % before, 19.5 % after, since") {
		t.Errorf("who cannot see the chart is told %q", got)
	}

	// The difference is of these two and no others, whole, and zoomed to where the function is.
	var question struct {
		Base, Head struct {
			ProfileType, Matchers string
			Range                 struct{ FromMs, ToMs string }
			Filter                any
		}
		Normalize bool
	}
	if err := json.Unmarshal([]byte(eval[string](b, `JSON.stringify(window.asked.find(([m]) => m === "Diff")[1])`)), &question); err != nil {
		t.Fatal(err)
	}
	from, to := fmt.Sprint(rec.Finding.Base.From.UnixMilli()), fmt.Sprint(rec.Finding.Head.To.UnixMilli())
	for side, s := range map[string]struct {
		got struct {
			ProfileType, Matchers string
			Range                 struct{ FromMs, ToMs string }
			Filter                any
		}
		version string
	}{"base": {question.Base, "v1"}, "head": {question.Head, "v2"}} {
		if want := `{service_name="checkout", service_version="` + s.version + `"}`; s.got.Matchers != want || s.got.ProfileType != cpuType || s.got.Range.FromMs != from || s.got.Range.ToMs != to || s.got.Filter != nil {
			t.Errorf("%s asks for %+v", side, s.got)
		}
	}
	if got := eval[string](b, `document.querySelector(".crumb[aria-current]").title`); got != "github.com/acme/shop/api.(*Server).checkout" {
		t.Errorf("the graph is zoomed to %q", got)
	}
	if got := eval[string](b, `document.querySelector(".f-proof .t-row.selected .fn-name").title + document.querySelector(".f-proof .t-inner .fn-name").title`); got != planted+planted {
		t.Errorf("chosen and first in the table is %q", got)
	}

	// Its links lead to what it says.
	where := func(selector, words string) url.Values {
		t.Helper()
		u, err := url.Parse(eval[string](b, fmt.Sprintf(`[...document.querySelectorAll(%q)].find((a) => a.textContent.includes(%q)).href`, selector, words)))
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		q.Set("path", u.Path)
		return q
	}
	same := func(got url.Values, want map[string]string) {
		t.Helper()
		for k, v := range want {
			if got.Get(k) != v {
				t.Errorf("%s=%q, want %q", k, got.Get(k), v)
			}
		}
		if len(got) != len(want) {
			t.Errorf("the link has %v, want %v", got, want)
		}
	}
	v1, v2 := `{service_version="v1"}`, `{service_version="v2"}`
	same(where(".f-also a.fn-link", "Put"), map[string]string{"path": "/explore", "service": "checkout", "type": cpuType, "from": from, "to": to, "labels": v2, "view": "sandwich", "fn": "github.com/acme/shop/cache.(*LRU).Put"})
	same(where(".f-also a.tag", "Explore"), map[string]string{"path": "/explore", "service": "checkout", "type": cpuType, "from": from, "to": to, "labels": v2, "focus": `^github\.com/acme/shop/cache\.\(\*LRU\)\.Put$`})
	same(where(".f-next a", "Who calls it"), map[string]string{"path": "/explore", "service": "checkout", "type": cpuType, "from": from, "to": to, "labels": v2, "view": "sandwich", "fn": planted})
	same(where(".f-next a", "Compare"), map[string]string{"path": "/diff", "service": "checkout", "type": cpuType, "from": from, "to": to, "a.labels": v1, "a.from": from, "a.to": to, "b.labels": v2, "b.from": from, "b.to": to, "q": `^github\.com/acme/shop/cache\.\(\*LRU\)\.evict$`, "re": "1"})
	b.do(chromedp.Click(`.f-also a.fn-link`))
	b.until(`location.pathname === "/explore" && /LRU\).Put/.test(` + text(".sand-title") + `) && /total .*%/.test(` + text(".sand-title") + `)`)
	b.do(chromedp.NavigateBack())
	b.until(`!!document.querySelector(".finding .f-next a")`)
	b.click(".f-next a", "Compare before with after")
	b.until(`location.pathname === "/diff" && (document.querySelector(".verdict .fn-link") || {}).title === ` + fmt.Sprintf("%q", planted))

	// By keyboard, and back to where the list was left.
	b.visit("/findings?state=all&refresh=off")
	b.until(findingsUp + ` === 7`)
	b.do(chromedp.EmulateViewport(900, 420))
	b.do(chromedp.Evaluate[chromedp.Void](`void (document.querySelector(".page").scrollTop = 130)`), chromedp.Focus(`[data-finding="`+hot.ID+`"] .f-sentence`), chromedp.KeyEvent(kb.Enter))
	b.until(fmt.Sprintf(`location.pathname === "/findings/%s"`, hot.ID))
	b.until(`!!document.querySelector(".f-crumb a")`)
	scroll := 130
	b.do(chromedp.Click(`.f-crumb a`))
	b.until(fmt.Sprintf(`location.pathname === "/findings" && %s("state") === "all" && %s === 7 && document.querySelector(".page").scrollTop === %d`, param, findingsUp, scroll))
	b.do(chromedp.EmulateViewport(1440, 900))

	// Where there is nothing to compare with, the flame graph is of what is there.
	b.visit("/findings/" + hot.ID)
	b.until(`window.__quantra && __quantra.frames > 20 && __quantra.rects > 10 && /Where it is/.test(` + text(".f-proof") + `) && document.querySelector(".f-also").hidden`)
	if got := eval[string](b, text(".tiles")); !strings.Contains(got, "Now") || strings.Contains(got, "Before") || !strings.Contains(got, "Could save") {
		t.Errorf("a hot spot has the figures %q", got)
	}
	if got := eval[string](b, text(".f-sure")); !strings.Contains(got, "measured, not tested") || strings.Contains(got, "p =") {
		t.Errorf("how sure a hot spot is: %q", got)
	}
	frames := eval[int](b, `__quantra.frames`)
	b.click(".f-proof .seg button", "Only through it")
	b.until(fmt.Sprintf(`__quantra.frames < %d && document.querySelector(".f-proof .busy").hidden`, frames))
	same(where(".f-proof a", "Explore"), map[string]string{"path": "/explore", "service": "checkout", "type": cpuType, "from": fmt.Sprint(hot.Finding.Head.From.UnixMilli()), "to": fmt.Sprint(hot.Finding.Head.To.UnixMilli()), "focus": `^compress/flate\.\(\*compressor\)\.deflate$`})

	b.until(`/Where it is/.test(` + text(".f-proof") + `) && !/in none of these/.test(` + text(".f-proof") + `)`)
	b.visit("/findings/" + k.records[3].ID)
	b.until(`/The function is in none of these profiles/.test(` + text(".f-proof") + `)`)

	// The savings that came true, and what came back.
	b.visit("/findings/" + k.records[6].ID)
	b.until(`/It saved 1.1 cores: 25 USD a month \(.*730 h a month; 95 %: 21 to 29 USD a month\)/.test(` + text(".f-notices") + `)`)
	b.visit("/findings/" + k.records[2].ID)
	b.until(`/there again: for the 2nd time/.test(` + text(".f-notices") + `) && /came back/.test(` + text(".f-history") + `) && /fixed by ada/.test(` + text(".f-history") + `) && /GOGC=200 in the manifest/.test(` + text(".f-history") + `)`)
	if got := eval[string](b, `[...document.querySelectorAll(".f-events b")].map((e) => e.textContent).join()`); got != "came back,fixed,found" {
		t.Errorf("the history is %s, the newest should be first", got)
	}
	b.quiet()
}

// TestFindingOfSomeSamples: a finding about a span is shown by the samples of that span, and its links keep to them.
func TestFindingOfSomeSamples(t *testing.T) {
	now := time.Now()
	sel := &analyze.Selection{Type: cpuType, From: now.Add(-5 * time.Minute), To: now, Samples: map[string]string{"operation": "GET /slow"}}
	slow := record(analyze.Finding{Kind: analyze.Transition, Service: "traced", Subject: "request -> answer", Type: cpuType, Metric: "value", Unit: "seconds", Sentence: "`GET /slow` takes 4 s.",
		After: analyze.Estimate{Value: 4, Low: 3.5, High: 4.5}, Samples: 90, Instances: 1, P: 1, Q: 1, From: sel.From, To: now, Head: sel}, time.Minute)
	slower := slow
	slower.ID, slower.Finding.Base = "slower", sel
	k := bookOf(slow, slower)
	st := openStore(t)
	sendOne(t, st, "traced", traced())
	b := open(t, watchedStore(t, st, k).URL)
	const only = `{operation="GET /slow"}`
	const explores = `new URL([...document.querySelectorAll(".f-next a")].find((a) => /Profiles of it/.test(a.textContent)).href)`
	b.visit("/findings/" + slow.ID)
	b.until(`__quantra.frames === 4 && /operation="GET .slow"/.test(` + text(".f-proof") + `)`) // total, main, slow, query: neither quick nor idle
	if got := eval[string](b, explores+`.searchParams.get("samples")`); got != only {
		t.Errorf("its profiles are those of samples %q", got)
	}
	if got := eval[string](b, text(".f-title")+" + "+text(".tiles")); !strings.Contains(got, "request -> answer") || !strings.Contains(got, "4 s") || !strings.Contains(got, "95 %: 3.5 to 4.5 s") {
		t.Errorf("it says %q", got)
	}
	b.visit("/findings/slower")
	b.until(`__quantra.frames === 4 && document.querySelectorAll(".f-proof .t-inner .t-row").length >= 3`)
	if got := eval[string](b, `new URL(document.querySelector(".f-proof-head a").href).searchParams.get("samples")`); got != only {
		t.Errorf("it is compared by samples %q", got)
	}
	b.quiet()
}

func TestFindingActions(t *testing.T) {
	k := bookOf(record(rose(time.Now()), 8*time.Minute))
	b := open(t, watched(t, k).URL)
	id := k.records[0].ID
	b.visit("/findings/" + id + "?refresh=off")
	const buttons = `[...document.querySelectorAll(".f-buttons button")].map((e) => e.textContent).join()`
	const state = `document.querySelector(".f-title [class*=state-]").textContent`
	b.until(buttons + ` === "Acknowledge,Mute,Fixed"`)
	act := func(do ...string) {
		t.Helper()
		b.click(".f-buttons button", do[0])
		for _, item := range do[1:] {
			b.click(".menu-item", item)
		}
	}
	last := func(want watch.Action, until time.Duration) {
		t.Helper()
		acts := k.did()
		got := acts[len(acts)-1]
		if until != 0 {
			if off := time.Until(got.Until) - until; off > 5*time.Second || off < -time.Minute {
				t.Errorf("muted until %v, which is %v from now, not %v", got.Until, time.Until(got.Until), until)
			}
			got.Until = time.Time{}
		}
		if got != want {
			t.Errorf("the server was told %+v, want %+v", got, want)
		}
	}
	b.do(chromedp.SendKeys(`.f-act [name="by"]`, "ada"), chromedp.SendKeys(`.f-act [name="note"]`, `seen; "rollback" <soon>`))
	act("Acknowledge")
	b.until(state + ` === "Acknowledged" && ` + buttons + ` === "Mute,Fixed,Reopen" && document.querySelector(".f-act [name=note]").value === ""`)
	last(watch.Action{Do: "acknowledge", By: "ada", Note: `seen; "rollback" <soon>`}, 0)
	b.until(`/acknowledged by ada\s+seen; "rollback" <soon>/.test(` + text(".f-history") + `)`)
	b.do(chromedp.Reload())
	b.until(buttons + ` === "Mute,Fixed,Reopen" && document.querySelector(".f-act [name=by]").value === "ada"`)
	act("Reopen")
	b.until(state + ` === "New"`)
	last(watch.Action{Do: "reopen", By: "ada"}, 0)
	act("Mute", "1 day")
	b.until(`/^Muted until /.test(` + state + `) && ` + buttons + ` === "Unmute,Mute,Fixed"`)
	last(watch.Action{Do: "mute", By: "ada"}, 24*time.Hour)
	act("Mute", "1 week")
	b.until(`/1 week/.test("1 week") && document.querySelectorAll(".f-events li").length === 5`)
	last(watch.Action{Do: "mute", By: "ada"}, 7*24*time.Hour)
	act("Mute", "For ever")
	b.until(state + ` === "Muted"`)
	last(watch.Action{Do: "mute", By: "ada"}, 0)
	act("Unmute")
	b.until(state + ` === "New"`)
	last(watch.Action{Do: "unmute", By: "ada"}, 0)
	act("Fixed")
	b.until(state + ` === "Fixed" && ` + buttons + ` === "Reopen" && /What it saved is not measured/.test(` + text(".f-notices") + `)`)
	last(watch.Action{Do: "fix", By: "ada"}, 0)
	act("Reopen")
	b.until(state + ` === "New"`)

	// While it is on its way, it cannot be sent twice; and by keyboard.
	gate := make(chan struct{})
	release := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(release) // or the server would wait for it
	k.change(func(k *book) { k.gate = gate })
	n := len(k.did())
	b.do(chromedp.Focus(`.f-buttons button`), chromedp.KeyEvent(kb.Enter))
	b.until(`[...document.querySelectorAll(".f-buttons button")].every((e) => e.disabled)`)
	b.do(chromedp.KeyEvent(kb.Enter))
	release()
	b.until(state + ` === "Acknowledged" && [...document.querySelectorAll(".f-buttons button")].every((e) => !e.disabled)`)
	if got := len(k.did()) - n; got != 1 {
		t.Errorf("it was sent %d times", got)
	}
	b.quiet()

	// What the server refuses is said, what was written stays, and it can be tried again.
	k.change(func(k *book) {
		k.fault = &bookFault{"POST", 409, "aborted", "somebody changed it meanwhile; look again"}
	})
	b.do(chromedp.SendKeys(`.f-act [name="note"]`, "again"))
	act("Fixed")
	b.until(`/somebody changed it meanwhile/.test(` + text(".banner") + `) && document.querySelector(".f-act [name=note]").value === "again" && ` + state + ` === "Acknowledged"`)
	k.change(func(k *book) {
		k.history[id] = append(k.history[id], watch.Event{Time: time.Now(), Actor: "bob", What: "grew"})
	})
	b.again()
	b.until(`/grew by bob/.test(` + text(".f-history") + `)`)
	if got := eval[string](b, text(".banner")); !strings.Contains(got, "somebody changed it meanwhile") {
		t.Errorf("a refresh has taken the refusal away: %q", got)
	}
	k.change(func(k *book) { k.fault = nil })
	b.click(".banner button", "Try again")
	b.until(state + ` === "Fixed" && document.querySelector(".banner").hidden`)
	last(watch.Action{Do: "fix", By: "ada", Note: "again"}, 0)
}

func TestFindingsEmptyAndBroken(t *testing.T) {
	k := bookOf()
	k.analysis = map[string]any{"leader": true, "behind_seconds": 0, "services": 0, "series": 0, "passes": 0}
	b := open(t, watched(t, k).URL)
	empty := text(".findings .empty")
	b.visit("/findings")
	b.until(`/The analysis has not looked yet/.test(` + empty + `) && /has not looked yet/.test(` + text(".strip") + `) && document.querySelector(".f-head").hidden`)
	k.change(func(k *book) { k.analysis = analysed() })
	b.visit("/findings?since=24h")
	b.until(`/Nothing found in the last 24 h over 1,834 series \(functions over time\) of 3 services\./.test(` + empty + `) && !/not looked/.test(document.body.innerText)`)
	b.click(".empty button", "Clear filters")
	b.until(`/Nothing found over 1,834 series \(functions over time\) of 3 services that is not fixed\./.test(` + empty + `)`)
	b.visit("/findings?kind=anomaly")
	b.until(`/No finding passes these filters/.test(` + empty + `) && /looked over 1,834 series \(functions over time\) of 3 services/.test(` + empty + `)`)

	// An analysis that is behind is no peace, and what it went on without is said.
	k.change(func(k *book) {
		k.analysis = analysed()
		maps.Copy(k.analysis, map[string]any{"behind_seconds": 420.0, "set_aside": []any{map[string]any{"service": "billing", "type": cpuType, "from": time.Now().Add(-time.Hour), "to": time.Now(), "reason": "a stack of 4,000,000 frames", "at": time.Now()}}})
	})
	b.visit("/findings?refresh=2s")
	b.until(`/7 min behind/.test(` + text(".strip") + `) && document.querySelector(".strip.late") && /It is behind/.test(` + empty + `)`)
	b.click(".strip summary", "1 part set aside")
	b.until(`document.querySelector(".strip details").open && /billing CPU time.*: a stack of 4,000,000 frames/.test(` + text(".strip") + `)`)
	was := eval[string](b, text(".f-how"))
	k.anew()
	b.until(fmt.Sprintf(`%s !== %q && document.querySelector(".strip details").open`, text(".f-how"), was))
	b.quiet()

	// A server that has not the turn does not know over how much, and says so.
	k.change(func(k *book) {
		k.analysis = map[string]any{"leader": false, "analysed_to": time.Now(), "behind_seconds": 0, "services": 0, "series": 0, "passes": 0, "set_aside": []any{}}
	})
	b.visit("/findings")
	b.until(`/Nothing found that is not fixed. Another server analyses/.test(` + empty + `) && /another server analyses/.test(` + text(".strip") + `) && !/behind|series/.test(` + text(".strip") + `)`)

	// An answer that did not come is not an empty one; and an older one of the same question stays.
	k.change(func(k *book) {
		k.records = fullBook().records
		k.fault = &bookFault{"GET", 503, "unavailable", "the control database does not answer now: disk I/O error"}
	})
	b.visit("/findings")
	b.until(`/disk I\/O error/.test(` + text(".banner") + `) && /keeps trying/.test(` + text(".banner") + `) && ` + findingsUp + ` === 0 && !document.querySelector(".empty, .skeleton")`)
	k.change(func(k *book) { k.fault = nil })
	b.click(".banner button", "Try again")
	b.until(`document.querySelector(".banner").hidden && ` + findingsUp + ` === 6`)
	k.change(func(k *book) { k.fault = &bookFault{"GET", 503, "unavailable", "disk I/O error"} })
	b.again()
	b.until(`/disk I\/O error/.test(` + text(".banner") + `) && ` + findingsUp + ` === 6`)
	b.click(".pick", "All services")
	b.click(".menu-item", "billing")
	b.until(`/disk I\/O error/.test(` + text(".banner") + `) && ` + findingsUp + ` === 0`)
	k.change(func(k *book) { k.fault = nil })
	b.visit("/findings?state=frozen")
	b.until(`/No finding passes these filters/.test(` + empty + `)`)
	b.visit("/findings/nosuch")
	b.until(`/there is no finding "nosuch"/.test(` + text(".banner") + `) && document.querySelector(".f-body").hidden`)
	b.click(".f-crumb a", "Findings")
	b.until(findingsUp + ` > 0`)

	// Profiles that are gone make no empty graph.
	old := rose(time.Now().Add(-48 * time.Hour))
	rec := record(old, 48*time.Hour)
	k.change(func(k *book) { k.records = []watch.Record{rec} })
	b.visit("/findings/" + rec.ID)
	b.until(`/no profiles from before any more/.test(` + text(".f-proof") + `)`)
	bad := record(old, time.Hour)
	bad.Finding.Base.Type, bad.Finding.Head.Type = "no type", "no type"
	k.change(func(k *book) { k.records = []watch.Record{bad} })
	b.visit("/findings/" + bad.ID)
	b.until(`!document.querySelector(".f-proof .banner").hidden && /no type/.test(` + text(".f-proof .banner") + `) && /rose from/.test(` + text(".f-title") + `)`)
}

// TestFindingsOfServices: how many are open, on the first page; a server without analysis has all the rest.
func TestFindingsOfServices(t *testing.T) {
	k := fullBook()
	b := open(t, watched(t, k).URL)
	b.visit("/")
	b.until(`[...document.querySelectorAll(".s-name > .tag")].map((e) => e.closest("[data-service]").dataset.service + " " + e.textContent).sort().join() === "billing 1 finding,catalog 2 findings,checkout 2 findings"`)
	if q := k.queries(); q[0] != "state=open&limit=1000" {
		t.Errorf("it is counted over %q", q[0])
	}
	b.do(chromedp.Click(`[data-service="checkout"] .s-name > .tag`))
	open_ := of(k.records, func(r *watch.Record) bool { return r.Open() && r.Finding.Service == "checkout" })
	b.until(listed + fmt.Sprintf(` === %q && %s("state") === "open"`, ids(open_), param))
	b.quiet()

	quarter(t)
	h, err := web.New(web.Options{Store: shared.store})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	b = open(t, s.URL)
	b.visit("/?refresh=2s")
	b.until(`document.querySelectorAll("[data-service]").length === 3`)
	b.until(`performance.getEntriesByType("resource").filter((e) => /Services$/.test(e.name)).length >= 3`)
	if n := eval[int](b, `performance.getEntriesByType("resource").filter((e) => /api.v1.findings/.test(e.name)).length`); n != 1 {
		t.Errorf("a server without analysis was asked for findings %d times", n)
	}
	if got := eval[string](b, `document.body.innerText`); strings.Contains(got, "Try again") {
		t.Errorf("the services are not shown without findings:\n%s", got)
	}
	b.visit("/findings")
	b.until(`/there is nothing at .api.v1.findings/.test(` + text(".banner") + `)`)
}

// TestFindingsHostile: text of profiles and people is text, whatever it says, and however long it is.
func TestFindingsHostile(t *testing.T) {
	const evil = `<img src=x onerror="window.__hit=1">`
	long := strings.Repeat("VeryLongWithoutSpaces", 40)
	f := rose(time.Now())
	f.Service, f.Function, f.Subject = "shop"+evil, "main.f"+evil+long, evil
	f.Sentence = "`" + f.Function + "` rose " + evil + " <script>window.__hit=2</script> " + long
	f.Next, f.Warnings, f.Test = evil+long, []string{evil, long}, evil
	f.Cause = &analyze.Cause{Label: "service_version", Value: evil + long, Event: "deploy " + evil, Share: 1.4}
	f.Also = []analyze.Moved{{Function: "main.g" + evil + long, Before: 0.1, After: 0.2, Why: evil}}
	f.Price.Currency, f.Price.Basis = evil, evil+long
	f.Head.Labels, f.Base.Labels = map[string]string{"service_version": evil}, map[string]string{"service_version": `"} or {x="`}
	rec := record(f, time.Hour)
	rec.State, rec.CoveredBy = stCameBack, `"><img src=x>`
	rec.Alerts = map[string]watch.Told{evil: {Error: evil + long}}
	fixed := record(f, time.Hour)
	fixed.ID, fixed.State, fixed.FixedAt = "fixed", stFixed, time.Now()
	fixed.Saved = &watch.Saved{Amount: 1, Unit: evil, Price: f.Price}
	k := bookOf(rec, fixed)
	k.history[rec.ID] = append(k.history[rec.ID], watch.Event{Time: time.Now(), Actor: evil + long, What: evil, Note: "`" + evil + "` " + long})
	k.analysis["set_aside"] = []any{map[string]any{"service": evil, "type": evil, "reason": evil + long}}

	// The function is also in the profiles, so that table and flame graph have it.
	st := openStore(t)
	pb := profile.NewBuilder(profile.ValueType{Type: "cpu", Unit: "nanoseconds"})
	at := uint32(0)
	for _, name := range []string{"main.main", f.Function, "main.leaf"} {
		n := pb.String(name)
		at = pb.Stack(at, pb.Location(profile.Location{}, profile.Line{Function: pb.Function(profile.Function{Name: n, SystemName: n})}))
	}
	pb.Add(at, 0, 5e9)
	p := pb.Profile()
	p.PeriodType = p.SampleTypes[0]
	for _, version := range []string{f.Head.Labels["service_version"], f.Base.Labels["service_version"]} {
		labels, err := profile.NewLabels(profile.Label{Name: profile.LabelService, Value: f.Service}, profile.Label{Name: profile.LabelVersion, Value: version})
		if err != nil {
			t.Fatal(err)
		}
		send(t, st, "process_cpu", labels, time.Now().Add(-time.Minute).Truncate(time.Second), p)
	}
	b := open(t, watchedStore(t, st, k).URL)
	harmless := func(where string) {
		t.Helper()
		if n := eval[int](b, `document.querySelectorAll("main img, main script, .popup img, .tip img").length + (window.__hit ?? 0)`); n != 0 {
			t.Errorf("%s: text has become markup", where)
		}
		for _, w := range []int64{1440, 900, 400} {
			b.do(chromedp.EmulateViewport(w, 900))
			if !eval[bool](b, visible) {
				t.Errorf("%s: at %d px something is out of sight: %s", where, w, eval[string](b, `[...document.querySelectorAll("main *")].filter((e) => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX === "visible" && getComputedStyle(e).display !== "inline").map((e) => e.className).join()`))
			}
		}
		b.do(chromedp.EmulateViewport(1440, 900))
	}
	b.visit("/findings?state=all")
	b.until(findingsUp + ` === 2`)
	b.until(`document.querySelector(".f-sentence").textContent.includes("onerror")`)
	b.click(".strip summary", "1 part")
	b.click(".pick", "All services")
	b.until(`document.querySelector(".menu").textContent.includes("onerror")`)
	harmless("the list")
	b.visit("/findings/" + rec.ID)
	b.until(`__quantra.rects >= 4 && document.querySelectorAll(".f-proof .t-inner .t-row").length >= 3 && document.querySelector(".f-also").textContent.includes("onerror")`)
	r := eval[[]float64](b, `(() => { const r = document.querySelector(".f-proof canvas").getBoundingClientRect(); document.querySelector(".f-proof canvas").scrollIntoView({ block: "center" }); const q = document.querySelector(".f-proof canvas").getBoundingClientRect(); return [q.left + 60, q.top + 48] })()`)
	b.do(chromedp.MouseEvent(chromedp.MouseMoved, r[0], r[1]))
	b.until(`document.querySelector(".tip-name").textContent.includes("onerror")`)
	harmless("a finding")
	if got := eval[string](b, text(".f-sure")); !strings.Contains(got, "all of the change and more") {
		t.Errorf("a cause that has more than all of the change: %q", got)
	}
	b.visit("/findings/fixed")
	b.until(`/onerror/.test(` + text(".f-notices .good") + `)`)
	harmless("a fixed one")
	b.quiet()
}

// TestFindingsRefresh: new answers come in under somebody who reads, types and chooses, and nothing moves.
func TestFindingsRefresh(t *testing.T) {
	k := fullBook()
	b := open(t, watched(t, k).URL)
	b.do(chromedp.EmulateViewport(1440, 420))
	b.visit("/findings?state=all&refresh=2s")
	b.until(findingsUp + ` === 7 && /7 findings/.test(` + text(".f-count") + `)`)
	b.do(chromedp.Evaluate[chromedp.Void](`void (() => {
		document.querySelector(".page").scrollTop = 120;
		document.querySelectorAll(".f-list > li").forEach((e) => (e.__mark = e.querySelector(".f-row")));
		document.querySelectorAll(".f-sentence")[2].focus({ preventScroll: true });
		window.__shift = 0;
		new PerformanceObserver((l) => l.getEntries().forEach((e) => (window.__shift += e.value))).observe({ type: "layout-shift" });
	})()`))
	const places = `JSON.stringify([...document.querySelectorAll(".f-list > li")].map((e) => Math.round(e.getBoundingClientRect().top)))`
	was := eval[string](b, places)
	focused := k.records[2].ID
	change := func(price float64) {
		k.change(func(k *book) {
			k.records = slices.Clone(k.records)
			p := *k.records[2].Finding.Price
			p.Amount = price
			k.records[2].Finding.Price = &p
		})
		k.anew()
	}
	const still = `(i) => [...document.querySelectorAll(".f-list > li")].every((e, n) => (e.__mark === e.querySelector(".f-row")) === (n !== i))`
	change(77)
	b.until(`/77 USD/.test(` + row(focused) + `)`)
	if !eval[bool](b, `(`+still+`)(2)`) {
		t.Error("rows that have not changed were made anew, or the one that has was not")
	}
	if got := eval[string](b, `document.activeElement.dataset.focus ?? document.activeElement.tagName`); got != focused {
		t.Errorf("the focus was on %s, is on %s", focused, got)
	}
	if got := eval[string](b, places); got != was {
		t.Errorf("rows were at %s, are at %s", was, got)
	}

	// A choice that is being made is not taken away.
	b.click(".pick", "All kinds")
	b.do(chromedp.Click(`input[name="recursion"]`))
	change(78)
	b.until(`/78 USD/.test(` + row(focused) + `)`)
	if !eval[bool](b, `document.querySelector("input[name=recursion]")?.checked && document.activeElement.name === "recursion"`) {
		t.Error("the filter that was being chosen is gone")
	}
	b.do(chromedp.KeyEvent("\x1b"))

	// Nor what is marked to be copied, nor what is pressed.
	b.do(chromedp.Evaluate[chromedp.Void](`void getSelection().selectAllChildren(document.querySelectorAll(".f-sentence")[2])`))
	change(79)
	b.until(fmt.Sprintf(`performance.getEntriesByType("resource").filter((e) => /findings\?/.test(e.name)).length > %d`, eval[int](b, `performance.getEntriesByType("resource").filter((e) => /findings\?/.test(e.name)).length`)+1))
	if !eval[bool](b, `getSelection().toString().startsWith("Garbage collection")`) {
		t.Errorf("what was marked is %q", eval[string](b, `getSelection().toString()`))
	}
	b.do(chromedp.Evaluate[chromedp.Void](`void getSelection().removeAllRanges()`))
	b.until(`/79 USD/.test(` + row(focused) + `)`)
	b.until(`document.querySelector(".page").scrollTop === 120`)
	if got := eval[float64](b, `window.__shift`); got != 0 {
		t.Errorf("the layout has shifted by %v", got)
	}

	// One finding: what is typed, the menu, the place and the flame graph stay.
	b.do(chromedp.EmulateViewport(1440, 700))
	b.visit("/findings/" + k.records[0].ID + "?refresh=2s")
	b.until(drawn)
	b.do(chromedp.SendKeys(`.f-act [name="note"]`, "half a sen"))
	b.click(".f-buttons button", "Mute")
	b.do(chromedp.Evaluate[chromedp.Void](`void (() => {
		document.querySelector(".page").scrollTop = 210;
		document.querySelector(".f-proof .t-body").scrollTop = 90;
		window.__mark = ["h1", ".f-proof canvas", ".f-sure dl", ".moved", ".f-proof .t-inner .t-row"].map((s) => document.querySelector(s));
	})()`))
	k.change(func(k *book) {
		id := k.records[0].ID
		k.history[id] = append(k.history[id], watch.Event{Time: time.Now(), Actor: "analysis", What: "grew", Note: "more"})
		k.records = slices.Clone(k.records)
		k.records[0].Finding.After.Value = 0.21
	})
	b.until(`/grew/.test(` + text(".f-history") + `) && /21 %/.test(` + text(".tiles") + `)`)
	if !eval[bool](b, `["h1", ".f-proof canvas", ".f-sure dl", ".moved", ".f-proof .t-inner .t-row"].every((s, i) => document.querySelector(s) === window.__mark[i])`) {
		t.Error("parts that have not changed were made anew")
	}
	if got := eval[string](b, `[document.querySelector(".f-act [name=note]").value, document.querySelectorAll(".menu .menu-item").length, document.querySelector(".page").scrollTop, document.querySelector(".f-proof .t-body").scrollTop, performance.getEntriesByType("resource").filter((e) => /Diff$/.test(e.name)).length].join()`); got != "half a sen,3,210,90,1" {
		t.Errorf("note, menu items, scrolled by, table scrolled by, differences asked for: %s", got)
	}
	b.click(".menu-item", "For ever")
	b.until(`document.querySelector(".f-title .state-muted")`)
	if acts := k.did(); len(acts) != 1 || acts[0].Note != "half a sen" {
		t.Errorf("the server was told %+v", acts)
	}
	b.quiet()
}

// TestFindingsSizes: all of it is in sight on a small screen, and pages that need room have it.
func TestFindingsSizes(t *testing.T) {
	k := fullBook()
	for i := range k.records { // times of another day are the wider ones
		r := &k.records[i]
		for _, at := range []*time.Time{&r.FixedAt, &r.Finding.Since} {
			if !at.IsZero() {
				*at = at.AddDate(0, 0, -3)
			}
		}
	}
	b := open(t, watched(t, k).URL)
	for _, w := range []int64{400, 640, 900, 1440} {
		b.do(chromedp.EmulateViewport(w, 900))
		b.visit("/findings?state=all")
		b.until(findingsUp + ` === 7`)
		if !eval[bool](b, visible) {
			t.Errorf("at %d px the list is wider than the screen", w)
		}
		for _, r := range k.records {
			b.visit("/findings/" + r.ID + "?refresh=off")
			b.until(`!document.querySelector(".f-body").hidden && document.querySelectorAll(".tile").length > 0`)
			if !eval[bool](b, visible) {
				t.Errorf("at %d px %s of %s is wider than the screen", w, r.Finding.Kind, r.Finding.Service)
			}
		}
	}
	b.do(chromedp.EmulateViewport(400, 900))
	b.visit("/agents")
	b.until(`document.querySelector("#app").offsetWidth === 900`)
}
