package uitest

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/web"
)

func twoMinutes(t *testing.T, st store.Store) { fill(t, st, 2*time.Minute) }

// sendOne stores one profile of a service, ten seconds before the last second.
func sendOne(t *testing.T, st store.Store, service string, p *profile.Profile) {
	t.Helper()
	labels, err := profile.NewLabels(profile.Label{Name: profile.LabelService, Value: service})
	if err != nil {
		t.Fatal(err)
	}
	send(t, st, "process_cpu", labels, time.Now().Add(-11*time.Second).Truncate(time.Second), p)
}

// functions makes a profile of n functions, each with samples of its own.
func functions(n int) *profile.Profile {
	ps := make([]path, n)
	for i := range ps {
		ps[i] = path{v1: float64(1 + i%97), frames: []string{"main.main", fmt.Sprintf("example.com/many.f%05d", i)}}
	}
	cpu := profile.ValueType{Type: "cpu", Unit: "nanoseconds"}
	return sampled(ps, []profile.ValueType{cpu}, cpu, func(p path) []int64 { return []int64{int64(p.v1 * 1e7)} })
}

func TestMenuTurnAndRefresh(t *testing.T) {
	st := openStore(t)
	twoMinutes(t, st)
	h, err := web.New(web.Options{Store: st, Routes: ledgerOf().routes()})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	b := open(t, s.URL)
	b.visit("/explore?service=checkout&view=flame&refresh=2s")
	b.until(`window.__quantra && __quantra.frames > 20 && __quantra.rects > 20`)
	// Two minutes of data are not shown as a sliver of fifteen.
	b.until(`/Last 5 minutes/.test(document.querySelector(".controls").innerText)`)

	// What arrives is shown, in the page as it is.
	const profiles = `Number(/([\d,]+) profiles/.exec(document.querySelector(".facts").innerText)[1].replace(",", ""))`
	before := eval[int](b, `(window.__mark = 1, `+profiles+`)`)
	sendOne(t, st, "checkout", functions(3))
	b.until(fmt.Sprintf(`window.__mark === 1 && %s > %d`, profiles, before))

	// A button that is held down while new data come is still there when it is let go.
	const facts = `document.querySelector(".facts").innerText`
	top := eval[[]float64](b, `(() => { const r = [...document.querySelectorAll(".seg button")].find((x) => x.textContent === "Top table").getBoundingClientRect(); return [r.left + r.width / 2, r.top + r.height / 2] })()`)
	b.do(chromedp.MouseEvent(chromedp.MousePressed, top[0], top[1], chromedp.ButtonLeft, chromedp.ClickCount(1)))
	was := eval[string](b, facts)
	sendOne(t, st, "checkout", functions(4))
	b.until(fmt.Sprintf(`%s !== %q`, facts, was))
	b.do(chromedp.MouseEvent(chromedp.MouseReleased, top[0], top[1], chromedp.ButtonLeft, chromedp.ClickCount(1)))
	b.until(`new URLSearchParams(location.search).get("view") === "top"`)
	b.do(chromedp.Click(`//button[text()="Flame graph"]`))
	b.until(`new URLSearchParams(location.search).get("view") === "flame"`)

	// Turned over, the root is at the bottom.
	b.do(chromedp.Click(`button[aria-label="Turn the graph over"]`))
	b.until(`new URLSearchParams(location.search).get("dir") === "up" && document.querySelector("button[aria-label='Turn the graph over']").getAttribute("aria-pressed") === "true"`)
	r := eval[[]float64](b, `(() => { const r = document.querySelector(".pane-flame canvas").getBoundingClientRect(); return [r.left + r.width / 2, r.bottom - 8] })()`)
	b.do(chromedp.MouseEvent(chromedp.MouseMoved, r[0], r[1]))
	b.until(`(document.querySelector(".tip-name") || {}).textContent === "total"`)
	b.do(chromedp.Click(`button[aria-label="Turn the graph over"]`))
	b.until(`!new URLSearchParams(location.search).get("dir")`)

	// A frame's menu: leave out what goes through it.
	r = eval[[]float64](b, `(() => { const r = document.querySelector(".pane-flame canvas").getBoundingClientRect(); return [r.left + r.width / 2, r.top + 5 * 19 + 9] })()`)
	b.do(chromedp.MouseClickXY(r[0], r[1], chromedp.ButtonRight))
	b.until(`!!document.querySelector(".menu-head")`)
	name := eval[string](b, `document.querySelector(".menu-head").textContent`)
	b.do(chromedp.Click(`//button[@role="menuitem"][span[text()="Ignore"]]`))
	b.until(`/ignore/.test(document.querySelector(".facts").innerText) && new URLSearchParams(location.search).get("ignore")`)
	if got := eval[string](b, `new URLSearchParams(location.search).get("ignore").replaceAll("\\", "")`); !strings.Contains(got, name) {
		t.Errorf("Ignore on %s filters %q", name, got)
	}
	b.quiet()
}

func TestLabelsAndFilters(t *testing.T) {
	b := open(t, server(t, twoMinutes).URL)
	b.visit("/explore?service=checkout&view=labels")
	b.until(`document.querySelectorAll(".l-value").length === 4`) // three endpoints and what has none
	if got := eval[string](b, `document.querySelector(".label-key").innerText`); !strings.Contains(got, "endpoint") || !strings.Contains(got, "/checkout") {
		t.Errorf("by label it has:\n%s", got)
	}
	b.do(chromedp.Click(`//button[text()="/search"]`))
	b.until(`document.querySelectorAll(".l-value").length === 1 && /endpoint=/.test(document.querySelector(".facts").innerText)`)
	b.do(chromedp.Click(`//button[contains(text(), "Filter")]`), chromedp.SendKeys(`input[name="show"]`, "index\r"))
	b.until(`new URLSearchParams(location.search).get("show") === "index" && document.querySelectorAll(".chip.filter").length === 2`)
	b.do(chromedp.Click(`button[data-value="top"]`))
	b.until(`document.querySelectorAll(".t-inner .t-row").length === 3`) // Query, intersect and Query.func1
	b.quiet()
}

func TestBeforeAfter(t *testing.T) {
	b := open(t, server(t, twoMinutes).URL)
	b.visit("/diff?service=checkout&from=now-2m")
	b.until(`/rose from/.test(document.querySelector(".verdict").textContent)`)
	b.do(chromedp.Click(`//button[text()="Before → after"]`))
	b.until(`new URLSearchParams(location.search).get("split") === "1" && !/a.labels/.test(location.search) && document.querySelectorAll(".side .chip").length === 0`)
	b.until(`/\d profile/.test((document.querySelector(".verdict .totals") || {}).textContent) && document.querySelector(".busy").hidden`)

	// A service with one version is compared with itself before.
	b.visit("/diff?service=catalog")
	b.until(`new URLSearchParams(location.search).get("split") === "1"`)
	b.quiet()
}

func TestManyFunctionsAndServices(t *testing.T) {
	b := open(t, server(t, func(t *testing.T, st store.Store) {
		sendOne(t, st, "many", functions(50_000))
		for i := range 11 {
			sendOne(t, st, fmt.Sprintf("service-%02d", i), functions(1))
		}
	}).URL)
	b.visit("/explore?service=many&view=top&refresh=off")
	b.until(`Number(document.querySelector(".pane-top .table").getAttribute("aria-rowcount")) > 50000`)
	b.do(chromedp.Evaluate[chromedp.Void](`void (document.querySelector(".t-body").scrollTop = 1e9)`))
	b.until(`[...document.querySelectorAll(".t-inner .t-row")].some((r) => r.getAttribute("aria-rowindex") === document.querySelector(".pane-top .table").getAttribute("aria-rowcount"))`)
	if n := eval[int](b, `document.querySelectorAll(".t-inner .t-row").length`); n > 100 {
		t.Errorf("the document has %d rows of the table; only those in sight should be", n)
	}
	b.visit("/")
	b.until(`document.querySelectorAll("[data-service]").length === 12`)
	b.do(chromedp.SendKeys(`.filter-services`, "-03"))
	b.until(`document.querySelectorAll("[data-service]").length === 1 && document.activeElement.classList.contains("filter-services")`)
	b.quiet()
}

// TestNumberLabels: what a row of the by-label view says is what a click on it gives,
// also where the label is a number, with a unit, without, and rounded.
func TestNumberLabels(t *testing.T) {
	b := profile.NewBuilder(profile.ValueType{Type: "cpu", Unit: "nanoseconds"})
	for i, set := range [][]profile.SampleLabel{
		{{Key: b.String("shard"), Num: 42, Unit: b.String("count")}, {Key: b.String("size"), Num: 1543, Unit: b.String("bytes")}},
		{{Key: b.String("shard"), Num: 7, Unit: b.String("count")}, {Key: b.String("size"), Num: 4096, Unit: b.String("bytes")}},
		{{Key: b.String("shard"), Str: b.String("13")}}, nil,
	} {
		name := b.String(fmt.Sprintf("main.f%d", i))
		b.Add(b.Stack(0, b.Location(profile.Location{}, profile.Line{Function: b.Function(profile.Function{Name: name, SystemName: name})})), b.LabelSet(set), 1e9)
	}
	p := b.Profile()
	p.PeriodType = p.SampleTypes[0]
	u := open(t, server(t, func(t *testing.T, st store.Store) { sendOne(t, st, "numbers", p) }).URL)
	for _, c := range []struct{ key, row, button, left string }{
		{"shard", "42", "value", "main.f0"}, {"shard", "13", "value", "main.f2"}, {"size", "1.51kB", "value", "main.f0"}, {"size", "without it", "value", "main.f2 main.f3"},
		{"shard", "42", "Ignore", "main.f1 main.f2 main.f3"}, {"size", "4kB", "Ignore", "main.f0 main.f2 main.f3"}, {"size", "without it", "Ignore", "main.f0 main.f1"},
	} {
		u.visit("/explore?service=numbers&view=labels&refresh=off")
		u.until(`document.querySelectorAll(".label-key").length === 2`)
		find := fmt.Sprintf(`[...document.querySelectorAll(".label-key")].find((k) => k.querySelector("code").textContent === %q)`, c.key)
		row := fmt.Sprintf(`[...%s.querySelectorAll(".l-row")].find((r) => r.querySelector(".l-value").textContent === %q)`, find, c.row)
		button := ".l-value"
		if c.button == "Ignore" {
			button = ".btn"
		}
		u.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf(`void %s.querySelector(%q).click()`, row, button)), chromedp.Click(`button[data-value="top"]`))
		u.until(`document.querySelector(".chip.filter") && document.querySelector(".busy").hidden`)
		got := eval[string](u, `[...document.querySelectorAll(".t-inner .fn-name")].map((n) => n.title).filter((n) => n !== "total").sort().join(" ")`)
		if got != c.left {
			t.Errorf("%s of %s=%s leaves %q, want %q", c.button, c.key, c.row, got, c.left)
		}
	}
	u.quiet()
}
