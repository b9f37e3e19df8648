package uitest

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/judge"
	"github.com/quantra-l/quantra/watch"
)

// inGroup is the ids in a group of the list, in order.
func inGroup(group string) string {
	return fmt.Sprintf(`[...document.querySelectorAll('[data-group=%q]:not([hidden]) > ol > [data-change]')].map((e) => e.dataset.change).join(" ")`, group)
}

// changeRow is the text of a change's row, by id.
func changeRow(id string) string { return text(`[data-change="` + id + `"]`) }

const (
	changeState = `(document.querySelector(".f-title [class*='tag at-']") || {}).textContent`
	navMark     = `(document.querySelector('.nav-item[href^="/changes"] .badge') || { textContent: "" }).textContent`
	focusedOn   = `(document.activeElement.dataset.focus ?? document.activeElement.tagName)`
	doable      = `[...document.querySelectorAll(".f-buttons button")].map((e) => e.textContent).join()`
)

// says fails for each of wants that a part of the page does not show.
func (b *tab) says(part string, wants ...string) {
	b.t.Helper()
	got := eval[string](b, text(part))
	for _, want := range wants {
		if !strings.Contains(got, want) {
			b.t.Errorf("%s does not say %q:\n%s", part, want, got)
		}
	}
}

// TestChangesList: what a person decides by is in each row, what could be saved comes first.
func TestChangesList(t *testing.T) {
	l := fullLedger()
	b := open(t, changing(t, l).URL)
	b.visit("/changes?refresh=off")
	b.until(inGroup("decide") + ` === "gc small more" && ` + inGroup("acting") + ` === "acting undoing"`)
	if got := eval[string](b, inGroup("ended")); got != "failed done rejected" {
		t.Errorf("ended are %s, the last should be first", got)
	}
	for id, wants := range map[string][]string{
		"gc":       {"checkout spends 19 % of its CPU in garbage collection", "Proposed", "Runtime settings", "checkout", "190 USD", "to save", "Start"},
		"small":    {"31 USD", "1 warning", "Profile-guided build"},
		"more":     {"Waiting", "It adds 120 a month, above 50: it needs an approval.", "adds 120", "Approve"},
		"acting":   {"Watched", "Stage 2 of 4: 10 %", "min", "left", "1 treated, 1 control", "started"},
		"undoing":  {"Being undone", "1 being undone", "cache.(*LRU).evict"},
		"done":     {"Done", "In force", "182 USD", "saved"},
		"failed":   {"Failed, undone", "Ended at stage 1 of 4", "cache.(*LRU).evict", "was expected"},
		"rejected": {"Rejected", "Black Friday"},
	} {
		b.says(`[data-change="`+id+`"]`, wants...)
	}
	b.says(".f-count", "8 changes", "12 of 500 added to the bill in 2026-11")
	b.until(navMark + ` === "3" && document.querySelector('.nav-item[href^="/changes"]').getAttribute("aria-label") === "Changes, 3 to decide"`)

	// The URL is the filter; what holds all of them is of all of them.
	b.click(".pick", "All services")
	b.click(".menu-item", "checkout")
	b.until(inGroup("decide") + ` === "gc" && ` + param + `("service") === "checkout" && /2 changes are under way/.test(` + text(".c-hold") + `)`)
	b.click(".pick", "All changes")
	b.click(".menu-item", "Ended")
	b.until(`/No change passes these filters/.test(` + text(".empty") + `) && /Pause all/.test(` + text(".c-hold") + `)`)
	b.do(chromedp.Reload())
	b.until(`/No change passes these filters/.test(` + text(".empty") + `)`)
	b.click(".empty button", "Clear filters")
	b.until(inGroup("ended") + ` === "failed done rejected" && location.search === "?refresh=off"`)
	b.do(chromedp.Click(`[data-change="gc"] .f-what p, [data-change="gc"] .f-what`))
	b.until(`location.pathname === "/changes/gc"`)
	b.do(chromedp.Click(`.f-crumb a`))
	b.until(inGroup("decide") + ` === "gc small more"`)

	// Elsewhere the mark is kept true by asking for what can be decided, and only for that.
	b.visit("/explore?service=checkout")
	b.until(navMark + ` === "3"`)
	b.quiet()
}

// TestChangeStory goes from a proposal to a saving that came true: she starts it, the charts fill, it passes stage after stage.
func TestChangeStory(t *testing.T) {
	l := ledgerOf(proposal("gc"))
	l.plan = []map[string]any{{"change": inList(l.changes[0]), "mode": "propose", "starts": false, "why": "Nobody has started it.", "targets": 4, "stages": []int{1, 2, 2, 3}, "nodes": []string{changed.ID}, "controls": []string{beside.ID}}}
	b := open(t, changing(t, l).URL)
	b.visit("/changes?refresh=2s")
	b.until(inGroup("decide") + ` === "gc" && document.querySelector(".c-hold").hidden`)
	b.click("button", "Start")
	b.until(`!!document.querySelector("dialog[open]") && /Start this change/.test(` + text("dialog") + `) && document.activeElement.textContent === "Start"`)
	b.says("dialog", "GOGC 100 -> 300", "First checkout-v2-0 (1 of 4 nodes), for as long as", "beside checkout-v1-0 that is left as it is", "Then 2 of 4, 3 of 4: each only once", "10 min", "How it is undone: Each node's settings are a lease", "undone at once")
	if got := l.did(); len(got) != 0 {
		t.Errorf("before it was confirmed the server was told %q", got)
	}
	b.do(chromedp.SendKeys(`dialog [name="by"]`, "ada"+kb.Enter))
	b.until(inGroup("acting") + ` === "gc" && !document.querySelector("dialog") && ` + navMark + ` === "" && /Nothing waits for a decision/.test(` + text(`[data-group="decide"]`) + `)`)
	if got := l.did(); !slices.Equal(got, []string{"start gc ada"}) {
		t.Errorf("the server was told %q", got)
	}

	// One node has it, beside one that has not.
	l.change(func(l *ledger) {
		l.dwell("gc", 0, 90*time.Second)
		l.latest["gc"] = unknown()
	})
	b.until(`/Stage 1 of 4: 1 node\s+8 min \d+ s left\s+1 treated, 1 control/.test(` + changeRow("gc") + `) && /1 change is under way/.test(` + text(".c-hold") + `)`)
	b.do(chromedp.Click(`[data-change="gc"] .f-sentence`))
	b.until(changeState + ` === "Watched" && document.querySelectorAll(".c-chart").length === 6 && /8 min \d+ s left of 10 min/.test(` + text(".c-clock") + `)`)
	b.says(".f-title", "started by ada", "GC's share of CPU", "GC pressure")
	b.says(".tiles", "190 USD", "1.1 cores", "Expected: CPU per request", "−11 %", "95 %: −14 to −8 %")
	b.says(`[data-part="nodes"]`, "checkout-v2-0", "Treated", "v2", "eu-west1-b", "checkout-v1-0", "Control", "v1", "eu-west1-c")
	b.says(`[data-part="verdict"]`, "Not known yet", "Of 12 windows that are needed there are 4", "+∞", "4 and 4 windows", "of 1 and 1 nodes")
	b.says(".c-charts", "with the change (1 node)", "left as it was (1 node)", "what is tolerated")
	if got := eval[string](b, `document.querySelector(".c-stages [aria-current=step]").innerText`); !strings.Contains(got, "1 node") || !strings.Contains(got, "watched") {
		t.Errorf("the stage that is on says %q", got)
	}
	if share := eval[float64](b, `Number(document.querySelector(".c-stages [role=progressbar]").getAttribute("aria-valuenow"))`); share < 14 || share > 30 {
		t.Errorf("after 90 s of 10 min the bar says %v %%", share)
	}
	// Who cannot see the chart is told, and what is drawn is two lines, the band, and the mark where it was applied.
	if got := eval[string](b, `document.querySelector(".c-chart canvas").getAttribute("aria-label")`); !strings.Contains(got, "CPU per request, since") || !strings.Contains(got, "treated") || !strings.Contains(got, "control") {
		t.Errorf("the chart's words are %q", got)
	}
	fills := func() map[string]float64 {
		t.Helper()
		return eval[map[string]float64](b, `(() => {
			const c = document.querySelector(".c-chart canvas"), copy = new OffscreenCanvas(c.width, c.height).getContext("2d", { willReadFrequently: true });
			copy.drawImage(c, 0, 0);
			const d = copy.getImageData(0, 0, c.width, c.height).data, n = { treated: 0, control: 0, band: 0, right: 0 };
			for (let x = 0; x < c.width; x++) for (let y = 0; y < c.height; y++) {
				const i = 4 * (y * c.width + x), [r, g, b, a] = d.subarray(i, i + 4);
				if (a > 150 && r > 150 && g < 130 && b < 90) n.treated++;
				else if (a > 150 && b > 150 && r < 110) { n.control++; n.right = Math.max(n.right, x / c.width); }
				else if (a > 10 && a < 90 && g > r + 40 && g > b + 20) n.band++;
			}
			return n;
		})()`)
	}
	was := fills()
	if was["treated"] < 150 || was["control"] < 150 || was["band"] < 60 {
		t.Errorf("pixels of the treated, the control and the band: %v", was)
	}
	l.change(func(l *ledger) { l.series["gc 0"] = course(l.find("gc").StageAt, 8*time.Minute, 0.89) })
	b.until(`performance.getEntriesByType("resource").filter((e) => /series/.test(e.name)).length > ` + fmt.Sprint(eval[int](b, `performance.getEntriesByType("resource").filter((e) => /series/.test(e.name)).length`)+1))
	if now := fills(); now["right"] < was["right"]+0.15 || now["right"] < 0.8 {
		t.Errorf("the chart ended at %.2f of its width, then at %.2f: it does not fill", was["right"], now["right"])
	}

	// It passes, and the next stage begins; the one before stays to be read.
	l.change(func(l *ledger) {
		l.judged("gc", passed(), 1)
		l.dwell("gc", 1, time.Second)
		delete(l.latest, "gc")
		l.find("gc").Verdict = nil
	})
	b.until(`/10 %/.test(document.querySelector(".c-stages [aria-current=step]").innerText) && /passed/.test(document.querySelector(".c-stages li").innerText)`)
	b.until(`/Nothing has been judged of this stage yet/.test(` + text(`[data-part="verdict"]`) + `)`)
	b.do(chromedp.Click(`.c-stages li:first-child button`))
	b.until(param + `("stage") === "0" && /Not worse/.test(` + text(`[data-part="verdict"] .c-said`) + `)`)
	b.says(`[data-part="verdict"]`, "CPU per request fell by 10.8 %", "1.12 ms", "999 µs", "−10.8 %", "−13.4 to −8.1 %", "up to 5 % more", "57 and 58 windows", "Mann-Whitney U", "4 × 10⁻⁴", "Were it exactly as bad as is tolerated, the chance of figures as good is 1 in 2,500.", "−11.4 points", "up to 10 % less")
	b.says(`[data-part="moved"]`, "runtime.gcBgMarkWorker", "19 %", "7.6 %", "−11.4 points", "it costs less")

	// Done: what it saves is confirmed.
	l.change(func(l *ledger) { l.finish("gc", optimize.Done, passed()) })
	b.until(changeState + ` === "Done"`)
	b.says(".f-body .f-notices .good", "It saves 1.06 cores", "182 USD a month", "95 %: 146 to 218 USD a month", "0.031 USD a core-hour")
	b.says(".tiles", "Saves a month", "182 USD")
	b.says(`[data-part="history"]`, "done", "judged", "Not worse", "Undo was rehearsed", "in force checkout-v2-0", "started by ada", "proposed")
	b.until(doable + ` === "Undo"`)
	if got := eval[string](b, `[...document.querySelectorAll(".c-stages .c-at")].map((e) => e.textContent).join()`); got != "passed,passed,passed,passed" {
		t.Errorf("the stages are %s", got)
	}
	// A link of the history leads to the stage it was written in.
	b.do(chromedp.Evaluate[chromedp.Void](`void [...document.querySelectorAll(".f-events .c-proof")].findLast((a) => a.textContent === "stage").click()`))
	b.until(`/^\d+$/.test(` + param + `("from")) && !!document.querySelector(".c-stage.picked")`)

	// It can still be undone, and started again.
	b.do(chromedp.SendKeys(`.f-act [name="note"]`, "the limit moves"))
	b.click(".f-buttons button", "Undo")
	b.until(changeState + ` === "Being undone" && /ada wants it undone. the limit moves/.test(` + text(".f-body .f-notices") + `)`)
	l.change(func(l *ledger) {
		c := l.find("gc")
		c.State, c.EndedAt = optimize.Undone, time.Now()
	})
	b.until(doable + ` === "Start again"`)
	b.quiet()
}

// TestChangeFails: what does harm is undone, the guilty function is named, and the flame graph shows it.
func TestChangeFails(t *testing.T) {
	bad := proposal("bad")
	bad.Sentence = "checkout keeps 200 MiB free: GOGC 100 -> 20."
	l := ledgerOf(bad)
	srv := changing(t, l)
	ago := time.Since(shared.filled) + 4*time.Minute // there are profiles of the stage, however late this test runs
	l.dwell("bad", 0, ago)
	l.series["bad 0"] = course(l.find("bad").StageAt, ago, 1.31)
	b := open(t, srv.URL)
	b.visit("/changes/bad?refresh=2s")
	b.until(changeState + ` === "Watched"`)
	l.change(func(l *ledger) {
		l.judged("bad", harmed(), 0)
		c := l.find("bad")
		c.State, c.UndoTo, c.Reason, c.Units[0].State = optimize.Undoing, optimize.Failed, harmed().Reason, optimize.UnitUndoing
		l.add(c, optimize.Event{What: optimize.WhatUndoing, Note: c.Reason}, optimize.Event{What: optimize.WhatUndo, Target: changed.ID})
	})
	b.until(changeState + ` === "Being undone" && /Nothing stops that/.test(` + text(".f-act") + `) && /Being undone/.test(` + text(`[data-part="nodes"]`) + `)`)
	l.change(func(l *ledger) {
		c := l.find("bad")
		c.State, c.EndedAt = optimize.Failed, time.Now()
		c.Units = []optimize.Unit{{Target: changed, State: optimize.UnitUndone, Applied: c.StageAt, Undone: c.EndedAt}}
		l.add(c, optimize.Event{What: optimize.WhatUnit, Target: changed.ID}, optimize.Event{What: optimize.WhatFailed, Note: c.Reason})
	})
	b.until(changeState + ` === "Failed, undone" && document.querySelectorAll(".f-body .f-notices .bad").length === 1`)
	b.says(".f-body .f-notices", "It did harm, and was undone at", "What grew is cache.(*LRU).evict", "CPU per request rose by 31 %")
	b.says(`[data-part="verdict"]`, "Worse", "+31 %", "+26 to +36 %", "harm: 1 × 10⁻⁸", "Were it no worse than is tolerated, the chance of figures as bad is 1 in 100 million.")
	b.says(`[data-part="moved"]`, "What grew is cache.(*LRU).evict", "2.8 %", "19.5 %", "it costs more", "because of cache.(*LRU).evict")
	b.says(`[data-part="history"]`, "failed", "undone there checkout-v2-0", "about to be undone")
	b.says(".f-act", "is not tried again")
	if got := eval[string](b, doable); got != "" {
		t.Errorf("of what failed there is to do: %s", got)
	}

	// The control, which is no part of a change that has ended, is still compared with: who it was is in what was measured.
	u, err := url.Parse(eval[string](b, `document.querySelector(".c-guilty a").href`))
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	at := l.find("bad").StageAt.UnixMilli()
	for k, want := range map[string]string{"service": "checkout", "type": cpuType, "a.labels": `{service_instance_id=~"checkout-v1-0"}`, "b.labels": `{service_instance_id=~"checkout-v2-0"}`, "from": fmt.Sprint(at), "b.from": fmt.Sprint(at), "q": `^github\.com/acme/shop/cache\.\(\*LRU\)\.evict$`} {
		if q.Get(k) != want {
			t.Errorf("the link to the difference has %s=%q, want %q", k, q.Get(k), want)
		}
	}
	b.do(chromedp.Click(`.c-guilty a`))
	b.until(`location.pathname === "/diff" && (document.querySelector(".verdict .fn-link") || {}).title === ` + fmt.Sprintf("%q", planted))
	b.quiet()
}

// TestPauseAll: one click stops all that is unproven, whoever looks sees who did and why, and it goes on from where it stood.
func TestPauseAll(t *testing.T) {
	l := fullLedger()
	b := open(t, changing(t, l).URL)
	b.do(chromedp.EmulateViewport(1440, 420))
	b.visit("/changes?refresh=2s")
	b.until(inGroup("acting") + ` === "acting undoing"`)
	b.do(chromedp.Evaluate[chromedp.Void](`void (document.querySelector(".page").scrollTop = 9999)`))
	if got := eval[float64](b, `document.querySelector(".c-hold").getBoundingClientRect().top`); got < 48 || got > 80 {
		t.Errorf("scrolled to the end, the button to pause all is at %v px: it is not in sight", got)
	}
	b.click(".c-hold button", "Pause all")
	b.until(`/All changes are paused by dashboard since/.test(` + text(".c-hold") + `) && /Resume/.test(` + text(".c-hold") + `) && !/Pause all/.test(` + text(".c-hold") + `)`)
	b.do(chromedp.SendKeys(`.c-why input`, "the shop is on <television>"+kb.Enter))
	b.until(`/: the shop is on <television>/.test(` + text(".c-hold") + `) && document.querySelector(".c-why").hidden`)
	if got := l.did(); !slices.Equal(got, []string{"pause all dashboard", "pause all dashboard: the shop is on <television>"}) {
		t.Errorf("the server was told %q", got)
	}
	// The clock of a stage stands still.
	l.change(func(l *ledger) {
		c := l.find("acting")
		c.FrozenAt, c.Held = c.StageAt.Add(4*time.Minute), "All changes are paused by dashboard since 12:04. the shop is on <television>"
	})
	b.until(`/6 min 0 s left, stopped/.test(` + changeRow("acting") + `) && /All changes are paused by dashboard since 12:04/.test(` + changeRow("acting") + `)`)

	// On a change's page it is in sight, too; who starts one is told that it waits.
	b.visit("/changes/gc?refresh=2s")
	b.until(`/the shop is on <television>/.test(` + text(".c-hold") + `) && ` + doable + ` === "Start,Reject"`)
	b.click(".f-buttons button", "Start")
	b.until(`!!document.querySelector("dialog")`)
	b.says("dialog", "It waits. All changes are paused by dashboard since 12:04.", "First one node", "beside a control of the same size", "Then 10 %, 50 %, all of them")
	b.do(chromedp.KeyEvent(kb.Escape))
	b.until(`!document.querySelector("dialog") && document.activeElement.textContent === "Start"`)
	b.visit("/changes/acting?refresh=2s")
	b.until(`/6 min 0 s left, stopped/.test(` + text(".c-clock") + `) && /It waits. All changes are paused/.test(` + text(".f-body .f-notices") + `)`)

	// A refusal is said, and it can be tried again.
	l.change(func(l *ledger) {
		l.fault = &bookFault{"POST", 503, "unavailable", "the control database does not answer now: disk I/O error"}
	})
	b.click(".c-hold button", "Resume")
	b.until(`/disk I\/O error/.test(` + text(".c-rails .banner") + `) && /paused by/.test(` + text(".c-hold") + `)`)
	l.change(func(l *ledger) { l.fault = nil })
	b.click(".c-rails .banner button", "Try again")
	b.until(`/Pause all/.test(` + text(".c-hold") + `) && document.querySelector(".c-rails .banner").hidden`)

	// One alone can be held as well.
	b.do(chromedp.SendKeys(`.f-act [name="by"]`, "bob"))
	b.click(".f-buttons button", "Pause")
	b.until(doable + ` === "Resume,Undo"`)
	b.click(".f-buttons button", "Resume")
	b.until(doable + ` === "Pause,Undo"`)
	if got := l.did(); !slices.Equal(got[2:], []string{"resume all dashboard", "pause acting bob", "resume acting bob"}) {
		t.Errorf("the server was told %q", got)
	}
}

// TestChangeApproval: what costs more than the policy lets pass waits for a person, who is told what it costs.
func TestChangeApproval(t *testing.T) {
	l := fullLedger()
	b := open(t, changing(t, l).URL)
	b.visit("/changes/more?refresh=off")
	b.until(doable + ` === "Approve,Pause,Reject"`)
	b.says(".f-body .f-notices", "It waits. It adds 120 a month, above 50: it needs an approval.")
	b.says(".tiles", "Adds to the bill, a month", "120", "counts against the budget")
	b.do(chromedp.SendKeys(`.f-act [name="by"]`, "grace"), chromedp.SendKeys(`.f-act [name="note"]`, "until the sale is over"))
	b.click(".f-buttons button", "Approve")
	b.until(doable + ` === "Pause,Reject" && /approved by grace/.test(` + text(".f-title") + `) && /approved by grace\s+until the sale is over/.test(` + text(`[data-part="history"]`) + `)`)
	if got := l.did(); !slices.Equal(got, []string{"approve more grace: until the sale is over"}) {
		t.Errorf("the server was told %q", got)
	}
	if got := eval[string](b, `document.querySelector(".f-act [name=note]").value`); got != "" {
		t.Errorf("the note of what is done is still there: %q", got)
	}
	b.click(".f-buttons button", "Reject")
	b.until(changeState + ` === "Rejected" && ` + doable + ` === ""`)

	// From the list, with its price; and one that is not started yet is approved and started at once.
	l.change(func(l *ledger) {
		c := l.find("more")
		c.State, c.ApprovedBy, c.Rejected, c.EndedAt, c.Held = optimize.Waiting, "", false, time.Time{}, "It adds 120 a month, above 50: it needs an approval."
		l.find("gc").Cost = 70
	})
	b.visit("/changes?refresh=off")
	b.until(inGroup("decide") + ` === "gc small more"`)
	b.do(chromedp.Click(`[data-change="more"] .c-do button`))
	b.until(`/Approve this change\?/.test(` + text("dialog") + `) && /It adds 120 a month to the bill/.test(` + text("dialog") + `)`)
	b.click("dialog button", "Approve")
	b.until(inGroup("decide") + ` === "gc small" && ` + inGroup("acting") + ` === "acting undoing more"`)
	b.visit("/changes/gc?refresh=off")
	b.until(doable + ` === "Start,Approve and start,Reject"`)
	b.click(".f-buttons button", "Approve and start")
	b.click("dialog button", "Approve and start")
	b.until(changeState + ` === "Waiting" && /approved by grace/.test(` + text(".f-title") + `)`)
	if got := l.did(); !slices.Equal(got[2:], []string{"approve more grace", "approve gc grace"}) {
		t.Errorf("the server was told %q", got)
	}

	// What cannot be done any more is said where it was asked for.
	l.change(func(l *ledger) { l.find("small").State = optimize.Withdrawn })
	b.visit("/changes/small?refresh=off")
	l.change(func(l *ledger) { l.find("small").State = optimize.Proposed })
	b.again()
	b.until(doable + ` === "Start,Reject"`)
	l.change(func(l *ledger) { l.find("small").State = optimize.Withdrawn })
	b.click(".f-buttons button", "Start")
	b.click("dialog button", "Start")
	b.until(`/a change that is withdrawn cannot be made to start/.test(` + text("dialog .field-error") + `) && /decide again/.test(` + text("dialog .field-error") + `)`)
	b.click("dialog button", "Cancel")
	b.until(`!document.querySelector("dialog")`)
}

// TestChangesKeyboard: all of the story without a mouse.
func TestChangesKeyboard(t *testing.T) {
	l := fullLedger()
	b := open(t, changing(t, l).URL)
	b.visit("/changes?refresh=off")
	b.until(inGroup("decide") + ` === "gc small more"`)
	tabTo := func(js string) {
		t.Helper()
		for range 60 {
			if eval[bool](b, js) {
				return
			}
			b.do(chromedp.KeyEvent(kb.Tab))
		}
		t.Fatalf("60 tabs do not lead to where %s; the focus is on %q", js, eval[string](b, `document.activeElement.outerHTML.slice(0, 200)`))
	}
	tabTo(`document.activeElement.textContent === "Pause all"`)
	tabTo(focusedOn + ` === "gc"`) // the strip comes before the list
	tabTo(focusedOn + ` === "start gc"`)
	if got := eval[string](b, `document.activeElement.getAttribute("aria-label")`); !strings.HasPrefix(got, "Start: checkout spends") {
		t.Errorf("a screen reader says %q of the button", got)
	}
	b.do(chromedp.KeyEvent(kb.Enter))
	b.until(`document.activeElement.closest("dialog[open]") && document.activeElement.textContent === "Start"`)
	b.do(chromedp.KeyEvent(kb.Escape))
	b.until(`!document.querySelector("dialog") && ` + focusedOn + ` === "start gc"`)
	b.do(chromedp.KeyEvent(kb.Enter))
	b.until(`document.activeElement.closest("dialog[open]") && document.activeElement.textContent === "Start"`)
	// While it is on its way, it cannot be sent twice.
	gate := make(chan struct{})
	release := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(release) // or the server would wait for it
	l.change(func(l *ledger) { l.gate = gate })
	b.do(chromedp.KeyEvent(kb.Enter))
	b.until(`document.querySelector("dialog button.primary").disabled`)
	b.do(chromedp.KeyEvent(kb.Enter))
	release()
	b.until(inGroup("acting") + ` === "acting undoing gc" && !document.querySelector("dialog") && ` + focusedOn + ` === "gc"`)
	if got := l.did(); !slices.Equal(got, []string{"start gc dashboard"}) {
		t.Errorf("the server was told %q", got)
	}
	b.do(chromedp.KeyEvent(kb.Enter))
	b.until(`location.pathname === "/changes/gc" && ` + doable + ` === "Pause,Reject"`)
	b.visit("/changes/done?refresh=off")
	b.until(changeState + ` === "Done" && document.querySelectorAll(".c-chart").length === 6`)
	tabTo(focusedOn + ` === "stage 1"`)
	b.do(chromedp.KeyEvent(kb.Enter))
	b.until(param + `("stage") === "1" && document.activeElement.getAttribute("aria-pressed") === "true" && ` + focusedOn + ` === "stage 1"`)
	tabTo(focusedOn + ` === "do Undo"`)
	b.do(chromedp.KeyEvent(kb.Enter))
	b.until(changeState + ` === "Being undone"`)
	// Each part and each control has a name.
	if got := eval[string](b, `[...document.querySelectorAll("main button, main input, main a, main section, main [role=progressbar], main canvas, main [tabindex]")].filter((e) => !e.hidden && e.checkVisibility() && !(e.getAttribute("aria-label") || e.textContent.trim())).map((e) => e.outerHTML.slice(0, 120)).join("\n")`); got != "" {
		t.Errorf("without a name for who cannot see:\n%s", got)
	}
	b.quiet()
}

// TestChangesPlaces: where replicas and load are changed is listed with what was found there last, also where that is a fault.
func TestChangesPlaces(t *testing.T) {
	l := fullLedger()
	l.status["places"] = []optimize.PlaceStatus{
		{Service: "checkout", Kind: optimize.Scale, Place: "kube:deployments/shop/checkout", Says: "4 replicas are right: load takes 61 % of their CPU", At: time.Now().Add(-20 * time.Second)},
		{Service: "search", Kind: optimize.Scale, Place: "command:search", Error: "<b>no</b> such file", At: time.Now()},
	}
	b := open(t, changing(t, l).URL)
	b.visit("/changes?refresh=off")
	b.until(`document.querySelectorAll(".places tbody tr").length === 2`)
	b.says(`[data-place="kube:deployments/shop/checkout"]`, "checkout", "Replicas", "4 replicas are right", "ago")
	b.says(`[data-place="command:search"]`, "search", "<b>no</b> such file")
	if n := eval[int](b, `document.querySelectorAll(".places tr.bad").length`); n != 1 {
		t.Errorf("%d places are marked as bad, want 1", n)
	}
	b.visit("/changes?refresh=off&service=search")
	b.until(`document.querySelectorAll(".places tbody tr").length === 1`)
	b.quiet()
}

func TestChangesEmptyAndBroken(t *testing.T) {
	l := ledgerOf()
	b := open(t, changing(t, l).URL)
	b.visit("/changes?refresh=2s")
	b.until(`/Nothing is proposed/.test(` + text(".empty") + `) && /What was found/.test(` + text(".empty") + `) && !document.querySelector(".skeleton") && ` + navMark + ` === ""`)

	// What keeps all from acting is said, with what is wrong.
	l.change(func(l *ledger) {
		l.status["frozen"], l.status["policy"] = "PROFILER_OPTIMIZER_ENABLED is false.", map[string]any{"name": "policy.yaml", "error": "policy.yaml:7: mode \"yes\": it must be off, propose or auto"}
		l.status["breakers"] = map[optimize.Kind]optimize.Breaker{optimize.Runtime: {Failures: 3, OpenUntil: time.Now().Add(time.Hour)}}
		l.holds.Incidents = map[string]optimize.Hold{"shop-down": {By: "pagerduty", At: time.Now(), Note: "checkout answers 500"}, "old": {By: "x", At: time.Now().Add(-2 * time.Hour), Until: time.Now().Add(-time.Hour)}}
	})
	b.until(`document.querySelectorAll(".c-rails li").length === 4`)
	b.says(".c-rails", "No change is made: PROFILER_OPTIMIZER_ENABLED is false.", "policy.yaml:7", "what was read before is in force", "The circuit breaker is open for changes of the kind Runtime settings: 3 in a row did harm", "Incident shop-down is open", "told by pagerduty: checkout answers 500")
	b.says(".empty", "PROFILER_OPTIMIZER_ENABLED is false.")
	b.quiet()

	// An answer that did not come is not an empty one, and an older one stays.
	l.change(func(l *ledger) {
		l.fault = &bookFault{"GET", 503, "unavailable", "the control database does not answer now: disk I/O error"}
	})
	b.visit("/changes?refresh=off")
	b.until(`/disk I\/O error/.test(` + text(".page > .banner") + `) && /keeps trying/.test(` + text(".page > .banner") + `) && !document.querySelector(".empty, .skeleton")`)
	l.change(func(l *ledger) {
		l.fault = nil
		full := fullLedger()
		l.changes, l.history, l.series, l.holds, l.status = full.changes, full.history, full.series, full.holds, full.status
	})
	b.click(".page > .banner button", "Try again")
	b.until(inGroup("decide") + ` === "gc small more" && document.querySelector(".page > .banner").hidden`)
	l.change(func(l *ledger) { l.fault = &bookFault{"GET", 503, "unavailable", "disk I/O error"} })
	b.again()
	b.until(`/disk I\/O error/.test(` + text(".page > .banner") + `) && ` + inGroup("decide") + ` === "gc small more"`)
	l.change(func(l *ledger) { l.fault = nil })
	b.visit("/changes/nosuch")
	b.until(`/there is no change "nosuch"/.test(` + text(".page > .banner") + `) && document.querySelector(".f-body").hidden`)
	b.click(".f-crumb a", "Changes")
	b.until(inGroup("decide") + ` === "gc small more"`)

	// A stage of which nothing was measured yet is no broken chart; nor is a change without any stage.
	l.change(func(l *ledger) { l.series["acting 1"].Members = nil })
	b.visit("/changes/acting?refresh=off")
	b.until(`/Nothing was measured of its nodes yet/.test(` + text(".c-charts") + `)`)
	b.visit("/changes/gc?refresh=off")
	b.until(`/It has not been started/.test(` + text(`[data-part="stages"]`) + `) && document.querySelector(".c-charts").hidden && document.querySelector('[data-part="verdict"]').hidden`)
}

// TestFindingHasItsChange: what was found leads to what would mend it, and back.
func TestFindingHasItsChange(t *testing.T) {
	k := fullBook()
	gc := proposal("gc")
	gc.Service = "catalog"
	procs := proposal("procs")
	procs.Service, procs.Subject = "catalog", "procs"
	k.ledger = ledgerOf(procs, gc)
	b := open(t, watched(t, k).URL)
	found := of(k.records, func(r *watch.Record) bool { return r.Finding.Kind == analyze.GCPressure })[0]
	b.visit("/findings/" + found.ID + "?refresh=2s")
	b.until(`/A change is proposed for this/.test(` + text(".f-next") + `)`)
	k.ledger.change(func(l *ledger) { l.dwell("gc", 0, time.Minute) })
	b.until(`/The change for this: watched/.test(` + text(".f-next") + `)`)
	b.click(".f-next a", "The change for this")
	b.until(`location.pathname === "/changes/gc" && ` + changeState + ` === "Watched"`)
	b.click(".c-evidence a", "GC pressure")
	b.until(listed + ` === "` + found.ID + `"`)
	other := k.records[0]
	n := func() int {
		k.ledger.mu.Lock()
		defer k.ledger.mu.Unlock()
		return k.ledger.asked["list"]
	}
	b.visit("/findings/" + other.ID + "?refresh=off")
	b.until(`!document.querySelector(".f-body").hidden`)
	was := n()
	b.again()
	b.until(`performance.getEntriesByType("resource").filter((e) => /findings\//.test(e.name)).length >= 2`)
	if got := n() - was; got != 0 {
		t.Errorf("of a %s changes were asked for %d times", other.Finding.Kind, got)
	}
	b.quiet()
}

// TestChangesHostile: text of profiles, people and policies is text, whatever it says, and however long it is.
func TestChangesHostile(t *testing.T) {
	const evil = `<img src=x onerror="window.__hit=1">`
	long := strings.Repeat("VeryLongWithoutSpaces", 40)
	c := proposal("evil")
	c.Service, c.Subject, c.Sentence, c.Basis = "shop"+evil+long, evil, "`main.f"+evil+"` "+evil+" <script>window.__hit=2</script> "+long, evil
	c.Warnings, c.Evidence = []string{evil, long}, []optimize.Evidence{{What: evil + long, Link: "javascript:window.__hit=3"}, {What: "here" + evil, Link: `/explore?service="><img src=x>`}, {What: "data", Link: "data:text/html,<script>1</script>"}}
	c.Price.Currency, c.Price.Basis, c.Kind = evil, evil+long, optimize.Kind(evil)
	c.Expected = map[string]analyze.Estimate{evil: est(-0.1, -0.2, -0.05)}
	c.StartedBy = evil + long
	l := ledgerOf(c, c, c)
	l.changes[1].ID, l.changes[2].ID = "held", "open"
	l.dwell("evil", 0, time.Minute)
	v := harmed()
	v.Reason, v.Guilty, v.Warnings = evil+long, "main.f"+evil+long, []string{evil + long}
	v.Metrics[0].Name, v.Metrics[0].Test, v.Metrics[0].Why, v.Metrics[0].Decision = evil, evil+long, evil, judge.Decision(evil)
	v.Functions[0].Function, v.Functions[0].Was, v.Functions[1].By, v.Functions[1].Verdict = "main.f"+evil+long, evil, evil, analyze.Verdict(evil)
	l.judged("evil", v, 0)
	e := l.find("evil")
	e.ApprovedBy = evil
	e.State, e.Reason, e.Held, e.PausedBy, e.Paused = optimize.Failed, evil+" "+v.Guilty+evil, evil+long, evil, true
	e.Units[0].ID, e.Units[0].Note, e.Units[0].Zone, e.Units[0].Version = evil+long, evil+long, evil, evil
	e.Units[1].State = optimize.UnitState(evil)
	l.add(e, optimize.Event{Actor: evil + long, What: evil, Target: evil + long, Note: "`" + evil + "` " + long, Evidence: c.Evidence})
	m := l.series["evil 0"]
	m.Metrics[0].Name, m.Warnings, m.Members[0].Name = evil, []string{evil + long}, evil
	m.Members[0].Series[evil] = m.Members[0].Series["cpu_per_request"]
	h := l.find("held")
	h.State, h.Held, h.Cost = optimize.Waiting, evil+" needs an approval "+long, 70
	l.holds = optimize.Holds{Paused: &optimize.Hold{By: evil + long, At: time.Now(), Note: evil + long}, Incidents: map[string]optimize.Hold{evil: {By: evil, At: time.Now(), Note: long}}}
	l.status["policy"], l.status["frozen"], l.status["errors"] = map[string]any{"name": evil, "error": evil + long}, evil, []string{evil + long}
	l.plan = []map[string]any{{"change": inList(*h), "why": evil + long, "targets": 2, "stages": []int{1}, "nodes": []string{evil + long}, "controls": []string{evil}}}
	l.status["breakers"] = map[string]any{evil: map[string]any{"failures": 3, "open_until": time.Now().Add(time.Hour)}}

	b := open(t, changing(t, l).URL)
	harmless := func(where string) {
		t.Helper()
		if n := eval[int](b, `document.querySelectorAll("main img, main script, dialog img, .popup img, .tip img").length + (window.__hit ?? 0)`); n != 0 {
			t.Errorf("%s: text has become markup", where)
		}
		if got := eval[string](b, `[...document.querySelectorAll("main a, dialog a")].map((a) => a.protocol).filter((p) => !/^https?:$/.test(p)).join()`); got != "" {
			t.Errorf("%s: there are links of %s", where, got)
		}
		for _, w := range []int64{1440, 900, 640} {
			b.do(chromedp.EmulateViewport(w, 900))
			if !eval[bool](b, visible) {
				t.Errorf("%s: at %d px something is out of sight: %s", where, w, eval[string](b, `[...document.querySelectorAll("main *")].filter((e) => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX === "visible" && getComputedStyle(e).display !== "inline").map((e) => e.tagName + "." + e.className).join()`))
			}
		}
		b.do(chromedp.EmulateViewport(1440, 900))
	}
	b.visit("/changes?refresh=off")
	b.until(`document.querySelectorAll("[data-change]").length === 3 && document.querySelector(".c-hold").textContent.includes("onerror")`)
	b.click(".pick", "All services")
	b.until(`document.querySelector(".menu")?.textContent.includes("onerror")`)
	harmless("the list")
	b.click("button", "Approve")
	b.until(`document.querySelector("dialog")?.textContent.includes("onerror")`)
	harmless("the confirmation")
	b.visit("/changes/evil?refresh=off")
	b.until(`document.querySelectorAll(".c-chart").length === 6 && document.querySelector('[data-part="moved"]').textContent.includes("onerror") && document.querySelector(".f-events").textContent.includes("onerror")`)
	r := eval[[]float64](b, `(() => { document.querySelector(".c-chart canvas").scrollIntoView({ block: "center" }); const q = document.querySelector(".c-chart canvas").getBoundingClientRect(); return [q.left + 120, q.top + 60] })()`)
	b.do(chromedp.MouseEvent(chromedp.MouseMoved, r[0], r[1]))
	b.until(`/Treated|Control/.test(` + text(".tip") + `)`)
	harmless("a change")
	if got := eval[string](b, text(".c-evidence")); !strings.Contains(got, "javascript:window.__hit=3") || !strings.Contains(got, "data:text/html") {
		t.Errorf("links that lead to no page are not shown as text: %q", got)
	}
	b.visit("/changes/held?refresh=off")
	b.until(`document.querySelector(".f-body .f-notices")?.textContent.includes("onerror")`)
	harmless("one that waits")
	b.quiet()
}

// TestChangesRefresh: new answers come in under somebody who reads, types and chooses, and nothing moves.
func TestChangesRefresh(t *testing.T) {
	l := fullLedger()
	b := open(t, changing(t, l).URL)
	b.do(chromedp.EmulateViewport(1440, 420))
	b.visit("/changes?refresh=2s")
	b.until(inGroup("decide") + ` === "gc small more"`)
	b.do(chromedp.Evaluate[chromedp.Void](`void (() => {
		document.querySelector(".page").scrollTop = 120;
		document.querySelectorAll("[data-change]").forEach((e) => (e.__mark = e.querySelector(".f-row")));
		document.querySelector('[data-focus="start small"]').focus({ preventScroll: true });
		window.__shift = 0;
		new PerformanceObserver((l) => l.getEntries().forEach((e) => (window.__shift += e.value))).observe({ type: "layout-shift" });
	})()`))
	const places = `JSON.stringify([...document.querySelectorAll("[data-change]")].map((e) => Math.round(e.getBoundingClientRect().top)))`
	was := eval[string](b, places)
	price := func(id string, v float64) {
		l.change(func(l *ledger) { l.find(id).Price = usd(v) })
	}
	price("small", 33)
	b.until(`/33 USD/.test(` + changeRow("small") + `)`)
	if got := eval[string](b, `[...document.querySelectorAll("[data-change]")].filter((e) => e.__mark !== e.querySelector(".f-row")).map((e) => e.dataset.change).join()`); got != "small" {
		t.Errorf("made anew were the rows of %q", got)
	}
	if got := eval[string](b, focusedOn); got != "start small" {
		t.Errorf("the focus was on the button of small, is on %q", got)
	}
	if got := eval[string](b, places); got != was {
		t.Errorf("rows were at %s, are at %s", was, got)
	}
	// A menu and a confirmation stay open, with what is written in it.
	b.click(".pick", "All services")
	price("small", 34)
	b.until(`/34 USD/.test(` + changeRow("small") + `)`)
	if !eval[bool](b, `!!document.querySelector(".menu")`) {
		t.Error("the menu is gone")
	}
	b.do(chromedp.KeyEvent(kb.Escape))
	b.do(chromedp.Evaluate[chromedp.Void](`void document.querySelector('[data-focus="start small"]').click()`), chromedp.SendKeys(`dialog [name="by"]`, "gra"))
	price("small", 35)
	b.until(`/35 USD/.test(` + changeRow("small") + `)`)
	if got := eval[string](b, `document.querySelector("dialog [name=by]").value + " " + document.activeElement.name`); got != "gra by" {
		t.Errorf("written, and with the focus, is %q", got)
	}
	b.do(chromedp.KeyEvent(kb.Escape))
	b.until(focusedOn + ` === "start small" && document.querySelector(".page").scrollTop === 120`)
	// Nor is what is marked taken away.
	b.do(chromedp.Evaluate[chromedp.Void](`void getSelection().selectAllChildren(document.querySelector('[data-change="small"] .f-sentence'))`))
	price("small", 36)
	price("gc", 191)
	b.until(`/191 USD/.test(` + changeRow("gc") + `)`)
	if !eval[bool](b, `getSelection().toString().startsWith("catalog is built")`) {
		t.Errorf("what was marked is %q", eval[string](b, `getSelection().toString()`))
	}
	if got := eval[float64](b, `window.__shift`); got != 0 {
		t.Errorf("the layout has shifted by %v", got)
	}

	// One change: what is typed, the place, the focus and the charts stay while figures move.
	b.do(chromedp.EmulateViewport(1440, 600))
	b.visit("/changes/acting?refresh=2s")
	b.until(changeState + ` === "Watched" && document.querySelectorAll(".c-chart").length === 6`)
	b.do(chromedp.SendKeys(`.f-act [name="note"]`, "half a sen"))
	b.do(chromedp.Evaluate[chromedp.Void](`void (() => {
		document.querySelector(".page").scrollTop = 210;
		window.__mark = ["h1", ".c-chart canvas", ".nodes", ".tiles > *", ".f-buttons button", ".c-stages"].map((s) => document.querySelector(s));
		window.__shift = 0;
	})()`))
	parts := `["h1", ".c-chart canvas", ".nodes", ".tiles > *", ".f-buttons button", ".c-stages"].map((s, i) => (document.querySelector(s) === window.__mark[i] ? "" : s)).join("")`
	l.change(func(l *ledger) {
		v := unknown()
		v.Reason = "Of 12 windows that are needed there are 9."
		l.latest["acting"] = v
		l.add(l.find("acting"), optimize.Event{What: optimize.WhatRestarted, Target: changed.ID})
		l.series["acting 1"] = course(l.find("acting").StageAt, 6*time.Minute, 0.9)
	})
	b.until(`/there are 9/.test(` + text(`[data-part="verdict"]`) + `) && /restarted/.test(` + text(".f-events") + `)`)
	if got := eval[string](b, parts); got != "" {
		t.Errorf("parts that have not changed were made anew: %s", got)
	}
	if got := eval[string](b, `[document.querySelector(".f-act [name=note]").value, document.activeElement.name, document.querySelector(".page").scrollTop].join()`); got != "half a sen,note,210" {
		t.Errorf("note, focus, scrolled by: %s", got)
	}
	left := eval[string](b, text(".c-clock .c-left"))
	b.until(text(".c-clock .c-left") + fmt.Sprintf(` !== %q`, left)) // the clock goes on by itself
	b.click(".f-buttons button", "Pause")
	b.until(doable + ` === "Resume,Undo"`)
	if got := l.did(); !slices.Equal(got, []string{"pause acting dashboard: half a sen"}) {
		t.Errorf("the server was told %q", got)
	}
	b.quiet()
}

// TestChangesSizes: all of it is in sight from 640 px on, in both themes; the navigation has room for its mark.
func TestChangesSizes(t *testing.T) {
	l := fullLedger()
	ids := []string{}
	for i := range l.changes {
		c := &l.changes[i]
		ids = append(ids, c.ID)
		for _, at := range []*time.Time{&c.StartedAt, &c.EndedAt} { // times of another day are the wider ones
			if !at.IsZero() {
				*at = at.AddDate(0, 0, -3)
			}
		}
	}
	b := open(t, changing(t, l).URL)
	for _, w := range []int64{640, 900, 1440} {
		b.do(chromedp.EmulateViewport(w, 900))
		b.visit("/changes?refresh=off")
		b.until(inGroup("decide") + ` === "gc small more"`)
		if !eval[bool](b, visible) {
			t.Errorf("at %d px the list is wider than the screen", w)
		}
		for _, id := range ids {
			b.visit("/changes/" + id + "?refresh=off")
			b.until(`!document.querySelector(".f-body").hidden`)
			if !eval[bool](b, visible) {
				t.Errorf("at %d px %s is wider than the screen", w, id)
			}
		}
	}
	b.do(chromedp.EmulateViewport(900, 900))
	b.visit("/explore?service=checkout")
	b.until(navMark + ` === "3" && /Live/.test(` + text(".top") + `)`)
	if got := eval[[]int](b, `[document.querySelector(".top").scrollWidth, document.documentElement.scrollWidth]`); got[0] > 900 || got[1] > 900 {
		t.Errorf("at 900 px the navigation is %d wide, the page %d", got[0], got[1])
	}
	for _, theme := range []string{"light", "dark"} {
		b.do(scheme(theme))
		b.visit("/changes/done?refresh=off")
		b.until(fmt.Sprintf(`document.documentElement.dataset.theme === %q && document.querySelectorAll(".c-chart").length === 6`, theme))
		// Text is told from what is behind it: 4.5 is what WCAG 2.2 asks for.
		low := eval[string](b, contrast)
		if low != "" {
			t.Errorf("in the %s theme, too little contrast: %s", theme, low)
		}
	}
	b.quiet()
}

// contrast names what has less than 4.5 to 1 of contrast between its text and what is behind it.
const contrast = `(() => {
	const ctx = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
	const over = (stack) => { ctx.clearRect(0, 0, 1, 1); for (const c of stack) { ctx.fillStyle = c; ctx.fillRect(0, 0, 1, 1); } return [...ctx.getImageData(0, 0, 1, 1).data].slice(0, 3); };
	const lum = (c) => { const [r, g, b] = c.map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
	const out = new Set();
	for (const e of document.querySelectorAll("main .tag, main td, main .c-at, main .btn, main .f-notices span, main .tile *, main .c-said *")) {
		if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || !e.checkVisibility() || e.disabled || e.closest("[disabled]")) continue;
		const behind = [];
		for (let p = e; p; p = p.parentElement) behind.unshift(getComputedStyle(p).backgroundColor);
		const a = lum(over(behind)), b = lum(over([...behind, getComputedStyle(e).color])), ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
		if (ratio < 4.5) out.add(e.className + " " + e.textContent.slice(0, 20) + " " + ratio.toFixed(2));
	}
	return [...out].join("; ");
})()`

// TestChangePatch: a patch shows its diff as text, what may come of it at most, and where it goes; other changes show none.
func TestChangePatch(t *testing.T) {
	const evil = `<img src=x onerror="window.__hit=1">`
	diff := "--- a/cart/price.go\n+++ b/cart/price.go\n@@ -27,5 +27,5 @@\n \n // Age is how long ago it was made.\n-\treturn time.Now().Sub(made)\n+\treturn time.Since(made)\u202e // " + evil + "\n " + strings.Repeat("long ", 200) + "\n"
	spec, err := json.Marshal(map[string]any{"repository": "shop/" + evil, "base": "main", "title": "x", "files": []any{}, "diff": diff})
	if err != nil {
		t.Fatal(err)
	}
	c := proposal("p1")
	c.Kind, c.Subject, c.Spec, c.Sentence = optimize.Patch, "staticcheck S1012", spec, "checkout: staticcheck S1012 at cart/price.go:30 has “should use time.Since”: open a pull request for shop/checkout (main)."
	c.Expected = map[string]analyze.Estimate{"cpu_per_request": est(-0.12, -0.12, 0)}
	b := open(t, changing(t, ledgerOf(c, proposal("other"))).URL)
	b.visit("/changes/p1?refresh=off")
	b.until(`document.querySelector(".c-diff")`)
	shown := eval[string](b, `document.querySelector(".c-diff").textContent`)
	if want := strings.Replace(diff, "\u202e", `\u{202e}`, 1); shown != want {
		t.Errorf("the diff is shown as\n%q, want\n%q", shown, want)
	}
	for kind, n := range map[string]int{"file": 2, "at": 1, "comes": 1, "goes": 1} {
		if got := eval[int](b, fmt.Sprintf(`document.querySelectorAll(".c-diff .%s").length`, kind)); got != n {
			t.Errorf("%d lines are %s, want %d", got, kind, n)
		}
	}
	if n := eval[int](b, `document.querySelectorAll("main img, main script").length + (window.__hit ?? 0)`); n != 0 {
		t.Error("text of the diff has become markup")
	}
	if got := eval[string](b, `document.querySelector('[data-part="diff"]').textContent + document.querySelector(".tiles").textContent`); !strings.Contains(got, "at most") || !strings.Contains(got, "into main") || !strings.Contains(got, "Source patch") && strings.Contains(got, "95 %") {
		t.Errorf("it says %s", got)
	}
	for _, w := range []int64{1440, 640} {
		b.do(chromedp.EmulateViewport(w, 900))
		if !eval[bool](b, visible) {
			t.Errorf("at %d px something is out of sight", w)
		}
	}
	b.visit("/changes/other?refresh=off")
	b.until(`document.querySelector('[data-part="head"], .f-title h1')`)
	if eval[bool](b, `!document.querySelector('[data-part="diff"]').hidden`) {
		t.Error("a change of settings shows a diff")
	}
}
