package profile

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// TestSVGInBrowser opens a drawn graph in Chromium, clicks, types and walks.
func TestSVGInBrowser(t *testing.T) {
	browser := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			browser = p
			break
		}
	}
	if browser == "" {
		if os.Getenv("QUANTRA_CI") != "" {
			t.Fatal("no chromium in PATH")
		}
		t.Skip("SKIPPED, the graph's script is not tested: no chromium in PATH")
	}
	var svg bytes.Buffer
	if err := WriteSVG(&svg, NewTree(viewInput(t), 0), SVGOptions{Title: "CPU time", Unit: "nanoseconds", Icicle: true}); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "image/svg+xml")
		w.Write(svg.Bytes())
	}))
	defer srv.Close()
	ctx, stop := chromedp.NewExecAllocator(t.Context(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(browser), chromedp.NoSandbox, chromedp.Flag("disable-quic", true), chromedp.WindowSize(1200, 700))...)
	defer stop()
	ctx, stop = chromedp.NewContext(ctx)
	defer stop()
	ctx, stop = context.WithTimeout(ctx, time.Minute)
	defer stop()
	do := func(steps ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		if err := chromedp.Do(ctx, steps...); err != nil {
			t.Fatal(err)
		}
	}
	frame := func(name string) string {
		return `[...document.querySelectorAll("#frames > g")].find(g => g.querySelector("title").textContent.startsWith("` + name + `"))`
	}
	width := func(name string) float64 {
		return viewEval[float64](t, ctx, `(g => g.style.display === "none" ? 0 : +g.querySelector("rect").getAttribute("width"))(`+frame(name)+`)`)
	}
	text := func(query string) string {
		return viewEval[string](t, ctx, `document.querySelector("`+query+`").textContent`)
	}
	do(chromedp.Navigate(srv.URL), chromedp.WaitReady("#frames"))
	before := width("shop/pay.Charge")
	viewEval[bool](t, ctx, frame("shop/pay.Charge")+`.dispatchEvent(new MouseEvent("click", {bubbles: true}))`)
	zoomed, gone, detail := width("shop/pay.Charge"), width("shop/cart"), text("#detail")
	do(chromedp.KeyEvent(kb.Escape))
	reset := width("shop/pay.Charge")
	do(chromedp.KeyEvent("f", chromedp.KeyModifiers(chromedp.ModifierCtrl)), chromedp.KeyEvent("mallocgc$"))
	found, hits := text("#tools output"), viewEval[int](t, ctx, `document.querySelectorAll("#frames > g.hit").length`)
	typed := viewEval[string](t, ctx, `document.querySelector("#tools input").value`)
	do(chromedp.KeyEvent("("))
	bad := text("#tools output")
	do(chromedp.KeyEvent(kb.Escape), chromedp.KeyEvent(kb.ArrowUp), chromedp.KeyEvent(kb.ArrowUp), chromedp.KeyEvent(kb.Enter))
	walked := width("shop/cart")
	if before > 400 || zoomed < 1000 || gone != 0 || reset != before {
		t.Errorf("click and Escape: width %v, zoomed %v (its neighbour %v), then %v", before, zoomed, gone, reset)
	}
	if !strings.Contains(detail, "shop/pay.Charge") || !strings.Contains(detail, "880ms") {
		t.Errorf("detail: %q", detail)
	}
	if found != "2 frames, 8.05%" || hits != 2 || bad != "not a regular expression" {
		t.Errorf("search for %q: %q, %d hits; bad: %q", typed, found, hits, bad)
	}
	// From the selected frame two callers up is the handler, which calls the cart too.
	if walked <= gone {
		t.Errorf("walking up by keyboard and Enter: the cart is %v wide", walked)
	}
}

func viewEval[T any](t *testing.T, ctx context.Context, js string) T {
	t.Helper()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](js))
	if err != nil {
		t.Fatalf("%s: %v", js, err)
	}
	return v
}
