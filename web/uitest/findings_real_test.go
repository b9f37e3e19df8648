package uitest

import (
	"encoding/json"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/quantra-l/quantra/control"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/watch"
	"github.com/quantra-l/quantra/web"
)

// TestFindingsOfTheServer: the page on the server's own handler and control database, where the other tests have a book that is in every state
// at once: what is decided on the page is kept, and is there after a restart.
func TestFindingsOfTheServer(t *testing.T) {
	quarter(t)
	db, err := control.Open(t.Context(), filepath.Join(t.TempDir(), "control.db"), control.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	r := record(rose(time.Now().UTC()), time.Minute)
	doc, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	found, err := json.Marshal(watch.Event{Time: r.FirstSeen, Actor: "analysis", What: "found", Note: r.Finding.Sentence})
	if err != nil {
		t.Fatal(err)
	}
	row := control.Row{ID: r.ID, Service: r.Finding.Service, Kind: string(r.Finding.Kind), State: string(r.State), Seen: r.LastSeen, Doc: doc}
	if err := db.KeepFindings(t.Context(), store.DefaultTenant, []control.RowUpdate{{Row: row, Events: [][]byte{found}}}, nil); err != nil {
		t.Fatal(err)
	}
	serve := func() string {
		t.Helper()
		w, err := watch.New(watch.Options{Store: shared.store, Control: db, Watch: func(time.Time) (*store.Watch, error) { return nil, store.ErrUnavailable }})
		if err != nil {
			t.Fatal(err)
		}
		h := w.Handler()
		routes := ledgerOf().routes()
		routes[watch.FindingsPath], routes[watch.FindingsPath+"/"] = h, h
		page, err := web.New(web.Options{Store: shared.store, Routes: routes})
		if err != nil {
			t.Fatal(err)
		}
		s := httptest.NewServer(page)
		t.Cleanup(s.Close)
		return s.URL
	}
	b := open(t, serve())
	b.visit("/findings?refresh=off")
	b.until(`document.querySelectorAll("[data-finding]").length === 1 && /rose from 2.8 % to 19.5 %/.test(document.querySelector("[data-finding]").innerText)`)
	b.visit("/findings/" + r.ID + "?refresh=off")
	const state = `document.querySelector(".f-title [class*=state-]")?.textContent`
	b.until(state + ` === "New"`)
	b.do(chromedp.SendKeys(`.f-act [name="by"]`, "ada"), chromedp.SendKeys(`.f-act [name="note"]`, "known"+kb.Tab))
	b.click(".f-buttons button", "Acknowledge")
	b.until(state + ` === "Acknowledged" && /acknowledged by ada\s+known/.test(` + text(".f-history") + `)`)
	b.quiet()

	b = open(t, serve()) // another process on the same database
	b.visit("/findings?refresh=off")
	b.until(`/Acknowledged/.test(` + text("[data-finding]") + `)`)
	b.quiet()
}
