package uitest

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
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

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/quantra-l/quantra/fleet"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/web"
)

var (
	serve      = flag.String("serve", "", "TestServe: the address to serve the tests' data on, until interrupted")
	screenshot = flag.String("screenshot", "", "TestScreenshot: the PNG to write")
	pageURL    = flag.String("url", "", "TestScreenshot: the page; empty is the tests' own server")
	dark       = flag.Bool("dark", false, "TestScreenshot: in the dark theme")
	size       = flag.String("size", "1440x900", "TestScreenshot: of the window")
)

func openStore(t *testing.T) store.Store {
	t.Helper()
	st, err := store.Open(t.Context(), t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

// server is the real API over a store that fill has filled.
func server(t *testing.T, fills ...func(*testing.T, store.Store)) *httptest.Server {
	t.Helper()
	st := openStore(t)
	for _, f := range fills {
		f(t, st)
	}
	return watchedStore(t, st, bookOf())
}

// shared is what tests that only read have together: filling a store and starting
// a browser take longer than most of the tests. TestMain ends it.
var shared struct {
	quarter, browser sync.Once
	server           *httptest.Server
	store            store.Store     // of server
	filled           time.Time       // when the last of its profiles ended
	ctx              context.Context // of the browser
	ends             []func() error  // the last first
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, end := range slices.Backward(shared.ends) {
		if err := end(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// quarter is the server over sixteen minutes of the fleet. It is everyone's: a
// test that sends profiles or closes its server makes one of its own.
func quarter(t *testing.T) *httptest.Server {
	t.Helper()
	shared.quarter.Do(func() {
		dir, err := os.MkdirTemp("", "uitest")
		if err != nil {
			t.Fatal(err)
		}
		shared.ends = append(shared.ends, func() error { return os.RemoveAll(dir) })
		st, err := store.Open(context.Background(), dir, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		shared.ends = append(shared.ends, st.Close)
		fill(t, st, 16*time.Minute)
		shared.filled = time.Now()
		h, err := web.New(web.Options{Store: st, Routes: fullBook().routes()})
		if err != nil {
			t.Fatal(err)
		}
		s := httptest.NewServer(h)
		shared.ends = append(shared.ends, func() error { s.Close(); return nil })
		if !t.Failed() {
			shared.server, shared.store = s, st
		}
	})
	if shared.server == nil {
		t.Fatal("there is no server with the fleet's profiles: the first test that wanted it says why")
	}
	return shared.server
}

// browser finds one, or skips.
func browser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "google-chrome", "chromium-browser", "chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			return p
		}
	}
	const missing = "no chromium or google-chrome in PATH: the dashboard is not tested in a browser"
	if os.Getenv("QUANTRA_CI") != "" {
		t.Fatal(missing)
	}
	t.Skip(missing)
	return ""
}

// tab is a page that fails its test when the page complains. It shares the
// browser's process with other tests' tabs and nothing else: no cache, no storage.
type tab struct {
	t    *testing.T
	ctx  context.Context
	base string
	mu   sync.Mutex
	said []string
}

// startBrowser is the context of the one browser.
func startBrowser(t *testing.T) context.Context {
	t.Helper()
	path := browser(t)
	shared.browser.Do(func() {
		dir, err := os.MkdirTemp("", "uitest-browser")
		if err != nil {
			t.Fatal(err)
		}
		shared.ends = append(shared.ends, func() error { return os.RemoveAll(dir) })
		opts := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.ExecPath(path), chromedp.NoSandbox,
			chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.WindowSize(1440, 900), chromedp.UserDataDir(dir))
		alloc, cancelAlloc := chromedp.NewExecAllocator(context.Background(), opts...)
		ctx, cancel := chromedp.NewContext(alloc)
		shared.ends = append(shared.ends, func() error { cancel(); cancelAlloc(); return nil }) // cancelAlloc waits for the process
		if err := chromedp.Do(ctx); err != nil {
			t.Fatal(err)
		}
		shared.ctx = ctx
	})
	if shared.ctx == nil {
		t.Fatal("the browser did not start: the first test that wanted it says why")
	}
	return shared.ctx
}

func open(t *testing.T, base string) *tab {
	t.Helper()
	b := &tab{t: t, base: base}
	ctx, cancel := chromedp.NewContext(startBrowser(t), chromedp.WithNewBrowserContext(), chromedp.WithListener(func(ev any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch e := ev.(type) {
		case *runtime.EventExceptionThrown:
			b.said = append(b.said, fmt.Sprintf("exception: %s %+v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception))
		case *log.EventEntryAdded:
			if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning {
				b.said = append(b.said, e.Entry.Text+" "+e.Entry.URL)
			}
		}
	}))
	t.Cleanup(cancel)
	b.ctx = ctx
	b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, log.Enable, cdp.Empty{})
		return err
	}), chromedp.EmulateViewport(1440, 900))
	return b
}

func (b *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.fail(err)
	}
}

// fail ends the test with what the page shows.
func (b *tab) fail(err error) {
	b.t.Helper()
	text, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string](`location.href + "\n" + document.body.innerText.slice(0, 1500)`)) // only to help who reads the failure
	b.t.Fatalf("%v\nconsole: %q\npage: %s", err, b.complaints(), text)
}

func (b *tab) complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.said)
}

func (b *tab) quiet() {
	b.t.Helper()
	if said := b.complaints(); len(said) > 0 {
		b.t.Errorf("the console has errors: %q", said)
	}
}

func (b *tab) visit(path string) { b.t.Helper(); b.do(chromedp.Navigate(b.base + path)) }

// patience is how long a test waits for a page. It is no promise about speed: only what hangs takes that long.
const patience = time.Minute

// until waits for a condition in the page's own language.
func (b *tab) until(js string) {
	b.t.Helper()
	if _, err := chromedp.Run(b.ctx, chromedp.Poll[any](js, chromedp.WithPollingTimeout(patience))); err != nil {
		b.fail(fmt.Errorf("waiting until %s: %w", js, err))
	}
}

func eval[T any](b *tab, js string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](js))
	if err != nil {
		b.fail(fmt.Errorf("%s: %w", js, err))
	}
	return v
}

const drawn = `window.__quantra && __quantra.frames > 20 && __quantra.rects > 20 && document.querySelectorAll(".t-inner .t-row").length > 5`

// clickFrame clicks into the icicle's first canvas, x a share of its width, row from the top.
func (b *tab) clickFrame(x float64, row int) {
	b.t.Helper()
	r := eval[[]float64](b, `(() => { const r = document.querySelector(".pane-flame canvas").getBoundingClientRect(); return [r.left, r.top, r.width] })()`)
	b.do(chromedp.MouseClickXY(r[0]+x*r[2], r[1]+float64(row)*19+9))
}

func TestOpenPickZoomSearch(t *testing.T) {
	b := open(t, quarter(t).URL)
	b.visit("/")
	b.until(`document.querySelectorAll("[data-service]").length === 3`)
	b.do(chromedp.Click(`[data-service="checkout"] .s-name > a`))
	b.until(drawn)
	if got := eval[string](b, `location.pathname + new URLSearchParams(location.search).get("service")`); got != "/explorecheckout" {
		t.Errorf("a click on checkout leads to %s", got)
	}
	if got := eval[string](b, `document.querySelector(".t-inner").innerText`); !strings.Contains(got, "evict") {
		t.Errorf("the top table does not show the hot function:\n%s", got)
	}

	all := eval[int](b, `__quantra.rects`)
	b.clickFrame(0.3, 5)
	b.until(`new URLSearchParams(location.search).get("zoom") && document.querySelector(".crumb[aria-current]")`)
	zoomed := eval[string](b, `location.href`)
	crumb := eval[string](b, `document.querySelector(".crumb[aria-current]").textContent`)
	b.do(chromedp.Reload())
	b.until(drawn + ` && document.querySelector(".crumb[aria-current]")`)
	if got := eval[string](b, `document.querySelector(".crumb[aria-current]").textContent`); got != crumb {
		t.Errorf("after a reload of %s it is zoomed into %q, before into %q", zoomed, got, crumb)
	}
	b.do(chromedp.NavigateBack())
	b.until(`!new URLSearchParams(location.search).get("zoom") && !document.querySelector(".crumb[aria-current]")`)
	b.until(drawn)
	b.until(fmt.Sprintf(`(__quantra.redraw(), __quantra.rects === %d)`, all)) // the flight out has landed

	b.do(chromedp.SendKeys(`.search-input`, "evict"))
	b.until(`/%/.test(document.querySelector(".search-found").textContent) && new URLSearchParams(location.search).get("q") === "evict"`)
	b.until(`document.querySelectorAll(".t-inner .t-row").length === 1`)
	b.quiet()
}

func TestKeyboard(t *testing.T) {
	b := open(t, quarter(t).URL)
	b.visit("/explore?service=checkout&view=both")
	b.until(drawn)
	b.do(chromedp.Focus(`.pane-flame canvas`), chromedp.KeyEvent(kb.ArrowDown), chromedp.KeyEvent(kb.ArrowDown), chromedp.KeyEvent(kb.ArrowDown), chromedp.KeyEvent(kb.Enter))
	b.until(`!!document.querySelector(".crumb[aria-current]")`)
	if got := eval[string](b, `document.querySelector(".flame [aria-live]").textContent`); !strings.Contains(got, "%") {
		t.Errorf("walking by keyboard says %q to a screen reader, not name and share", got)
	}
	b.do(chromedp.KeyEvent(kb.Escape))
	b.until(`!document.querySelector(".crumb[aria-current]")`)
	b.do(chromedp.KeyEvent("/"))
	b.until(`document.activeElement.classList.contains("search-input")`)
	b.quiet()
}

func TestDiffNamesThePlanted(t *testing.T) {
	b := open(t, quarter(t).URL)
	b.visit("/diff?service=checkout")
	b.until(`[...document.querySelectorAll(".controls .btn.on")].some((x) => x.textContent === "v1 → v2")`) // nobody had to choose
	b.until(`/rose from/.test(document.querySelector(".verdict").textContent)`)
	if got := eval[string](b, `document.querySelector(".verdict .fn-link").title`); got != planted {
		t.Errorf("the sentence names %s, planted was %s\n%s", got, planted, eval[string](b, `document.querySelector(".verdict").innerText`))
	}
	b.until(drawn)
	if got := eval[string](b, `document.querySelector(".t-inner .t-row .fn-name").title`); got != planted {
		t.Errorf("the first row of the table by change is %s", got)
	}
	for _, w := range []int64{1440, 1320, 1200, 1181, 1100} {
		b.do(chromedp.EmulateViewport(w, 800))
		if cut := eval[int](b, `[...document.querySelectorAll(".diff .t-row")].filter((e) => e.lastElementChild.getBoundingClientRect().right > e.closest(".table").getBoundingClientRect().right + 1).length`); cut != 0 {
			t.Errorf("at %d px %d rows of the table are cut off", w, cut)
		}
	}
	b.quiet()
}

func TestSandwichFilterAndDownload(t *testing.T) {
	b := open(t, quarter(t).URL)
	b.visit("/explore?service=checkout&view=sandwich&fn=" + strings.NewReplacer("(", "%28", ")", "%29", "*", "%2A").Replace(planted))
	b.until(`/evict/.test(document.querySelector(".sand-title").textContent) && /%/.test(document.querySelector(".sand-title").textContent)`)
	b.visit("/explore?service=checkout&focus=sha256&labels=%7Bservice_version%3D%22v1%22%7D")
	b.until(`document.querySelectorAll(".t-inner .t-row").length > 5`)
	b.until(`/focus/.test(document.querySelector(".facts").innerText)`) // it does not hide that it is filtered
	b.do(chromedp.Click(`button[title="Download"]`))
	links := eval[[]string](b, `[...document.querySelectorAll("a[role=menuitem]")].map((a) => a.href)`)
	if len(links) != 4 {
		t.Fatalf("the download menu has %d links: %q", len(links), links)
	}
	for _, l := range links {
		res, err := http.Get(l)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK || len(body) < 100 || !strings.Contains(res.Header.Get("Content-Disposition"), "attachment") {
			t.Errorf("%s: %s, %d bytes, %q, %v", l, res.Status, len(body), res.Header.Get("Content-Disposition"), err)
		}
		if strings.Contains(l, "format=pprof") {
			if p, err := profile.DecodeBytes(body, profile.Limits{}); err != nil || p.NumSamples() == 0 {
				t.Errorf("%s is no profile with samples: %v", l, err)
			}
		}
	}
	b.quiet()
}

func TestBrushAndLabels(t *testing.T) {
	b := open(t, quarter(t).URL)
	b.visit("/explore?service=checkout&by=service_version")
	b.until(drawn + ` && document.querySelectorAll(".legend-item").length === 2`)
	r := eval[[]float64](b, `(() => { const r = document.querySelector(".timeline-canvas").getBoundingClientRect(); return [r.left, r.top, r.width] })()`)
	y := r[1] + 50
	b.do(chromedp.MouseEvent(chromedp.MousePressed, r[0]+r[2]*0.4, y, chromedp.ButtonLeft), chromedp.MouseEvent(chromedp.MouseMoved, r[0]+r[2]*0.6, y, chromedp.ButtonLeft),
		chromedp.MouseEvent(chromedp.MouseReleased, r[0]+r[2]*0.6, y, chromedp.ButtonLeft))
	b.until(`/^\d+$/.test(new URLSearchParams(location.search).get("from") || "")`)
	span := eval[float64](b, `(() => { const p = new URLSearchParams(location.search); return (p.get("to") - p.get("from")) / 60000 })()`)
	if span < 2 || span > 5 {
		t.Errorf("a fifth of fifteen minutes is brushed as %.1f minutes", span)
	}
	b.do(chromedp.Click(`.add-label`), chromedp.SendKeys(`input[aria-label="Label"]`, "service_version"), chromedp.SendKeys(`input[aria-label="Value"]`, "v2\r"))
	b.until(`document.querySelectorAll(".labels .chip").length === 1 && /v2/.test(location.search)`)
	b.until(`document.querySelectorAll(".legend-item").length === 1`)
	b.quiet()
}

func TestEmptyAndBroken(t *testing.T) {
	s := server(t)
	b := open(t, s.URL)
	b.visit("/")
	b.until(`/agent.Start/.test(document.body.innerText) && /curl/.test(document.body.innerText) && /ServerAddress/.test(document.body.innerText)`)
	b.quiet()

	b.visit("/explore")
	b.until(`/No profiles in this range/.test(document.querySelector(".empty").innerText) && document.querySelector(".timeline-panel").offsetHeight === 0`)

	s = server(t, twoMinutes)
	b = open(t, s.URL)
	b.visit("/explore?service=nobody")
	b.until(`/No profile of nobody/.test(document.querySelector(".empty").innerText) && document.querySelector(".timeline-panel").offsetHeight === 0`)
	b.do(chromedp.Click(`//button[text()="All services"]`))
	b.until(`document.querySelectorAll("[data-service]").length === 3`)
	b.visit("/diff?service=nobody")
	b.until(`/no profile of nobody/.test(document.querySelector(".verdict").innerText)`)
	b.visit("/nothing")
	b.until(`/no such page/.test(document.body.innerText) && !/Live/.test(document.body.innerText)`)
	b.quiet()

	// An answer that did not come is not an older one, and not an empty one.
	b.visit("/explore?service=checkout")
	b.until(drawn)
	b.do(chromedp.Click(`//button[contains(text(), "Filter")]`), chromedp.SendKeys(`input[name="focus"]`, "((\r"))
	b.until(`!document.querySelector(".banner").hidden && /Try again/.test(document.querySelector(".banner").innerText)`)
	b.until(`/No answer/.test(document.querySelector(".facts").innerText) && getComputedStyle(document.querySelector(".panes")).visibility === "hidden"`)
	b.do(chromedp.Click(`button[aria-label="Remove focus"]`))
	b.until(drawn + ` && document.querySelector(".banner").hidden && getComputedStyle(document.querySelector(".panes")).visibility === "visible"`)
	s.CloseClientConnections()
	s.Close()
	b.do(chromedp.Click(`button[aria-label="Refresh now"]`))
	b.until(`/does not answer/.test(document.querySelector(".banner").innerText) && /Not reached/.test(document.querySelector(".top").innerText) && !/Live/.test(document.querySelector(".top").innerText)`)
}

func TestThemes(t *testing.T) {
	b := open(t, quarter(t).URL)
	b.do(scheme("dark"))
	b.visit("/explore?service=checkout")
	b.until(drawn + ` && document.documentElement.dataset.theme === "dark"`)
	b.do(chromedp.Click(`button[aria-label="light theme"]`), chromedp.Reload())
	b.until(drawn + ` && document.documentElement.dataset.theme === "light"`)
	b.quiet()
}

// TestManyFrames says how long 100,000 frames take to draw; it holds the number
// of rectangles, which is what bounds the time, to what the screen can show.
func TestManyFrames(t *testing.T) {
	b := open(t, server(t, func(t *testing.T, st store.Store) {
		labels, err := profile.NewLabels(profile.Label{Name: profile.LabelService, Value: "big"})
		if err != nil {
			t.Fatal(err)
		}
		send(t, st, "process_cpu", labels, time.Now().Add(-time.Minute).Truncate(time.Second), wide(130_000))
	}).URL)
	b.visit("/explore?service=big&view=flame&all=1&refresh=off")
	b.until(`window.__quantra && __quantra.frames > 100000 && __quantra.rects > 1000`)
	// One draw a frame, as in use: drawn in a row, they would queue up for the rasteriser.
	b.do(chromedp.Evaluate[chromedp.Void](`(() => {
		const q = __quantra, out = { Frames: q.frames, Most: 0, Draws: 0, Whole: [], Zoomed: [] };
		let i = 0;
		const step = () => {
			const before = q.draws, whole = i % 3 === 0;
			q.zoomTo(whole ? 0 : Math.floor(q.frames * ((i * 0.618) % 1) / (1 + i % 9)));
			out[whole ? "Whole" : "Zoomed"].push(q.lastDrawMs);
			out.Draws += q.draws - before;
			out.Most = Math.max(out.Most, q.rects);
			if (++i < 240) requestAnimationFrame(step);
			else window.__drawings = out;
		};
		step();
	})()`))
	b.until(`!!window.__drawings`)
	d := eval[struct {
		Frames, Most, Draws int
		Whole, Zoomed       []float64
	}](b, `window.__drawings`)
	for name, ms := range map[string][]float64{"the whole": d.Whole, "a zoom": d.Zoomed} {
		slices.Sort(ms)
		t.Logf("%d frames: drawing %s takes %.2f ms in the median, %.2f ms at the 95th percentile, %.2f ms at most (n=%d)", d.Frames, name, ms[len(ms)/2], ms[len(ms)*95/100], ms[len(ms)-1], len(ms))
	}
	t.Logf("at most %d rectangles", d.Most)
	if limit := 1440 * 50; d.Most == 0 || d.Most > limit {
		t.Errorf("a draw has %d rectangles, the screen has room for less than %d", d.Most, limit)
	}
	if d.Draws < 240 {
		t.Errorf("%d draws happened, 240 were asked for: the figures are of something else", d.Draws)
	}
	b.quiet()
}

// TestServe shows the tests' data to a person.
func TestServe(t *testing.T) {
	if *serve == "" {
		t.Skip("only with -serve=ADDRESS")
	}
	st := openStore(t)
	fill(t, st, time.Hour)
	all := fullBook()
	all.ledger = fullLedger()
	s := withAgents(t, st, fleet.Options{Summarize: summed}, all)
	someAgents(t, s.URL)
	grown := make(chan int, 1)
	grown <- 0
	scripted("checkout", "v2", "checkout-v2-1").taking(func(bool) any {
		n := <-grown
		grown <- n + 3
		return shop(n)
	}).run(t, s.URL)
	l, err := net.Listen("tcp", *serve)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("http://%s", l.Addr())
	t.Fatal(http.Serve(l, s.Config.Handler))
}

// TestScreenshot writes a picture of a page, of this test's own server or of another.
func TestScreenshot(t *testing.T) {
	if *screenshot == "" {
		t.Skip("only with -screenshot=FILE")
	}
	url := *pageURL
	if url == "" {
		url = quarter(t).URL + "/explore?service=checkout&by=service_version"
	}
	b := open(t, "")
	want := "light"
	if *dark {
		want = "dark"
	}
	var w, h int64
	if _, err := fmt.Sscanf(*size, "%dx%d", &w, &h); err != nil {
		t.Fatalf("-size=%s: %v; it must be as 1440x900", *size, err)
	}
	b.do(chromedp.EmulateViewport(w, h), scheme(want))
	b.visit(url)
	b.until(`document.querySelector("#app") && (window.__quantra?.rects > 0 || document.querySelector("[data-service], .welcome, [data-finding], [data-change], .change .tiles > *"))`)
	b.until(`!document.querySelector(".busy:not([hidden])") && document.fonts.status === "loaded"`)
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(*screenshot), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(*screenshot, png, 0o644); err != nil {
		t.Fatal(err)
	}
	b.quiet()
}

// scheme makes the browser prefer light or dark.
func scheme(name string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}}})
		return err
	})
}
