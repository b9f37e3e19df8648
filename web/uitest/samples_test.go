package uitest

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

// The ids that a tracing page would link with.
const slowTrace, quickTrace = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b700f067aa0ba902b7"

// traced is a profile in which the slow trace has main.slow, which calls main.query, in a span whose id
// looks like a number, the quick one main.quick, and no trace main.idle.
func traced() *profile.Profile {
	b := profile.NewBuilder(profile.ValueType{Type: "cpu", Unit: "nanoseconds"})
	at := func(below uint32, name string) uint32 {
		n := b.String(name)
		return b.Stack(below, b.Location(profile.Location{}, profile.Line{Function: b.Function(profile.Function{Name: n, SystemName: n})}))
	}
	labels := func(pairs ...string) uint32 {
		var set []profile.SampleLabel
		for i := 0; i < len(pairs); i += 2 {
			set = append(set, profile.SampleLabel{Key: b.String(pairs[i]), Str: b.String(pairs[i+1])})
		}
		return b.LabelSet(set)
	}
	root, slow := at(0, "main.main"), labels("trace_id", slowTrace, "span_id", "1234567890123456", "operation", "GET /slow")
	b.Add(at(root, "main.slow"), slow, 3e9)
	b.Add(at(at(root, "main.slow"), "main.query"), slow, 1e9)
	b.Add(at(root, "main.quick"), labels("trace_id", quickTrace, "span_id", "00f067aa0ba902b7", "operation", "GET /quick"), 2e9)
	b.Add(at(root, "main.idle"), 0, 4e9)
	p := b.Profile()
	p.PeriodType = p.SampleTypes[0]
	return p
}

// TestSamplesOfATrace: a link with a trace's id opens its flame graph, and all else on the page is of it, too.
func TestSamplesOfATrace(t *testing.T) {
	b := open(t, server(t, func(t *testing.T, st store.Store) { sendOne(t, st, "traced", traced()) }).URL)
	const (
		chip  = `[...document.querySelectorAll(".chip.filter")].map((c) => c.textContent).join("|")`
		facts = `document.querySelector(".facts").innerText`
		rows  = `[...document.querySelectorAll(".pane-top .t-inner .fn-name")].map((n) => n.title).filter((n) => n !== "total").sort().join(" ")`
		trace = `{trace_id="` + slowTrace + `"}`
	)
	page := "/explore?service=traced&refresh=off&samples="
	for _, link := range []string{trace, slowTrace, "1234567890123456", `operation="GET /slow"`} {
		b.visit(page + url.QueryEscape(link))
		b.until(rows + ` === "main.main main.query main.slow"`)
		b.until(`/^4(\.0+)?\s?s/.test(` + facts + `)`)
		if got := eval[string](b, chip); got != "samples:"+link {
			t.Errorf("%s: its chip is %q", link, got)
		}
	}

	// A sandwich, the values by label and a download are of the trace, too.
	b.visit(page + url.QueryEscape(trace) + "&view=sandwich&fn=main.main")
	b.until(`/total 4(\.0+)?\s?s/.test(document.querySelector(".sand-title").innerText)`)
	b.visit(page + url.QueryEscape(trace) + "&view=labels")
	b.until(`[...document.querySelectorAll(".l-value")].map((v) => v.textContent).sort().join() === "1234567890123456,` + slowTrace + `,GET /slow"`)
	b.do(chromedp.Click(`button[aria-label="Download"]`))
	b.until(`document.querySelectorAll(".menu a").length === 4`)
	href := eval[string](b, `[...document.querySelectorAll(".menu a")].find((a) => /folded/.test(a.href)).href`)
	resp, err := http.Get(href)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	folded, err := io.ReadAll(resp.Body)
	if err != nil || strings.Count(string(folded), "\n") != 2 || strings.Count(string(folded), "main.slow") != 2 {
		t.Errorf("%s, %v: the download has\n%s", resp.Status, err, folded)
	}
	b.do(chromedp.KeyEvent("\x1b"))

	// Without the condition all is there again; a click on a value makes another.
	b.do(chromedp.Click(`button[aria-label="Remove samples"]`))
	b.until(`!new URLSearchParams(location.search).has("samples") && document.querySelectorAll(".l-value").length === 9`)
	value := func(text string) string {
		return fmt.Sprintf(`[...document.querySelectorAll(".l-value")].find((v) => v.textContent === %q)`, text)
	}
	for _, c := range []struct{ click, samples string }{
		{"00f067aa0ba902b7", `{span_id="00f067aa0ba902b7"}`},
		{"GET /quick", `{span_id="00f067aa0ba902b7", operation="GET /quick"}`},
	} {
		b.do(chromedp.Evaluate[chromedp.Void](`void ` + value(c.click) + `.click()`))
		b.until(fmt.Sprintf(`new URLSearchParams(location.search).get("samples") === %q && document.querySelectorAll(".l-value").length === 3`, c.samples))
	}

	// Typed into the filters, an id alone will do, of another trace. Every question is then of it, the timeline's too.
	b.visit("/explore?service=traced&refresh=off")
	b.until(rows + ` !== "" && document.querySelector(".busy").hidden`)
	b.do(chromedp.Evaluate[chromedp.Void](`void (() => {
		const ask = window.fetch;
		window.asked = {};
		window.fetch = (url, o) => {
			const sel = JSON.parse(o.body).selection;
			if (sel) window.asked[url.split("/").pop()] = sel.sampleMatchers ?? "nothing";
			return ask(url, o);
		};
	})()`))
	b.do(chromedp.Click(`//button[contains(text(), "Filter")]`), chromedp.SendKeys(`input[name="samples"]`, quickTrace+"\r"))
	b.until(rows + ` === "main.main main.quick"`)
	b.do(chromedp.Click(`button[data-value="labels"]`))
	b.until(`document.querySelectorAll(".l-value").length === 3`)
	quick := `{trace_id="` + quickTrace + `"}`
	for _, question := range []string{"FlameGraph", "Top", "Series", "SampleLabels"} {
		if got := eval[string](b, `window.asked[`+fmt.Sprintf("%q", question)+`] ?? "not asked"`); got != quick {
			t.Errorf("%s is asked with %s, want %s", question, got, quick)
		}
	}
	b.quiet()

	// What cannot be read is said, with the place.
	b.visit(page + url.QueryEscape(`{trace_id=oops}`))
	b.until(`/sample_matchers.*quoted value/.test(document.querySelector(".banner").innerText)`)
}
