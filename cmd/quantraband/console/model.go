package console

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/agent/live"
	"github.com/quantra-l/quantra/analyze/sched"
)

// Options say how a console begins.
type Options struct {
	View   View          // 0 is Goroutines
	Every  time.Duration // between two looks: 2 s; longer where a look costs much
	Colour bool
}

// dutyCycle bounds what looking costs the program: after a look that took so long,
// the next waits this many times as long at least.
const dutyCycle = 20

// Model is what the console shows. It is used from one goroutine.
type Model struct {
	src   *Source
	o     Options
	view  View
	pause bool
	help  bool

	typing bool   // a search is being typed
	search string // in lower case

	at     map[View]*place
	toggle map[string]bool // rows whose fold is not as it is by default
	page   int             // rows that fit, as drawn last

	snap  live.Snapshot
	tree  *live.Node
	first map[live.Detail]live.Snapshot // that growth is counted from
	grown []live.Growth                 // from first to snap
	funcs Functions
	figs  Runtime
	was   Runtime // the figures before
	trace sched.Summary

	got     map[View]time.Time // when each view's data came
	err     map[View]error
	cost    map[View]time.Duration
	loading View // whose data are being fetched, 0 for none
	since   time.Time
	now     time.Time
	wantNow bool // the next look shall not wait
	full    bool // and shall be full
}

// place is where one view is scrolled to.
type place struct{ cursor, top int }

// NewModel is a console that has seen nothing yet.
func NewModel(src *Source, o Options) *Model {
	if o.View == 0 {
		o.View = Goroutines
	}
	if o.Every <= 0 {
		o.Every = 2 * time.Second
	}
	return &Model{
		src: src, o: o, view: o.View, wantNow: true, at: map[View]*place{}, toggle: map[string]bool{}, first: map[live.Detail]live.Snapshot{},
		got: map[View]time.Time{}, err: map[View]error{}, cost: map[View]time.Duration{}, page: 10,
	}
}

// data is the view that v's data are kept as: three views show one snapshot.
func (v View) data() View {
	if v == States || v == Leaks {
		return Goroutines
	}
	return v
}

func (m *Model) place() *place {
	if m.at[m.view] == nil {
		m.at[m.view] = &place{}
	}
	return m.at[m.view]
}

// Key does what a key stands for, and says whether the console shall end.
func (m *Model) Key(key string) (quit bool) {
	switch {
	case key == "ctrl-c":
		return true
	case m.typing:
		m.type_(key)
		return false
	case m.help:
		m.help = false
		return false
	}
	p := m.place()
	switch key {
	case "q":
		return true
	case "?", "h":
		m.help = true
	case "p", " ":
		m.pause = !m.pause
	case "/":
		m.typing, m.search = true, ""
	case "esc":
		m.search = ""
	case "up", "k":
		p.cursor--
	case "down", "j":
		p.cursor++
	case "pgup":
		p.cursor -= m.page
	case "pgdn":
		p.cursor += m.page
	case "home":
		p.cursor = 0
	case "end":
		p.cursor = 1 << 30 // as far as there are rows: see rows
	case "enter", "left", "right":
		m.fold(key)
	case "F": // and it stays: the next look would show less again
		m.wantNow, m.full, m.pause = true, true, true
	case "R":
		m.wantNow = true
	case "c":
		m.first = map[live.Detail]live.Snapshot{}
		if m.tree != nil {
			m.first[m.snap.Detail] = m.snap
			m.grown = m.growths()
		}
	default:
		if len(key) == 1 && View(key[0]).Name() != "" {
			m.show(View(key[0]))
		}
	}
	return false
}

// show goes to another view. Its data are fetched at once if they are old; a trace each time it is asked for.
func (m *Model) show(v View) {
	m.view, m.search = v, ""
	if v == Trace || m.now.Sub(m.got[v.data()]) > m.every(v) {
		m.wantNow = true
	}
}

func (m *Model) type_(key string) {
	switch key {
	case "enter":
		m.typing = false
	case "esc":
		m.typing, m.search = false, ""
	case "backspace":
		if r := []rune(m.search); len(r) > 0 {
			m.search = string(r[:len(r)-1])
		}
	default:
		if len([]rune(key)) == 1 && len(m.search) < 200 {
			m.search += strings.ToLower(key)
		}
	}
}

// fold opens or closes the row under the cursor; left on a closed one goes to the row it is below.
func (m *Model) fold(key string) {
	rows := m.rows()
	p := m.place()
	if p.cursor < 0 || p.cursor >= len(rows) {
		return
	}
	r := rows[p.cursor]
	switch {
	case key == "enter" && r.fold != leaf, key == "right" && r.fold == closed, key == "left" && r.fold == opened:
		m.toggle[r.key] = !m.toggle[r.key]
	case key == "left":
		for i := p.cursor - 1; i >= 0; i-- {
			if rows[i].depth < r.depth {
				p.cursor = i
				return
			}
		}
	}
}

// every is how long to wait between two looks at v's data.
func (m *Model) every(v View) time.Duration {
	return max(m.o.Every, dutyCycle*m.cost[v.data()])
}

// Tick tells the time.
func (m *Model) Tick(now time.Time) { m.now = now }

// request is a look that shall be taken now.
type request struct {
	view View // as data
	full bool
}

// next says whether a look is due.
func (m *Model) next() (request, bool) {
	v := m.view.data()
	if m.loading != 0 || !m.can(v) {
		return request{}, false
	}
	due := m.wantNow || v != Trace && !m.pause && m.now.Sub(m.got[v]) >= m.every(v)
	if !due {
		return request{}, false
	}
	r := request{v, m.full && v == Goroutines}
	m.wantNow, m.full, m.loading, m.since = false, false, v, m.now
	return r, true
}

func (m *Model) can(v View) bool {
	switch v {
	case Goroutines:
		return m.src.Goroutines != nil
	case Hottest:
		return m.src.Functions != nil
	case Memory:
		return m.src.Runtime != nil
	case Trace:
		return m.src.Trace != nil
	}
	return false
}

// answer is what came of a request.
type answer struct {
	request
	value any
	err   error
}

// take keeps an answer.
func (m *Model) take(a answer) {
	v := a.view
	m.loading = 0
	m.got[v], m.err[v] = m.now, a.err
	if a.err != nil {
		return
	}
	if m.view.data() == v { // the cursor stays on its row, wherever that goes
		defer m.keepCursor(m.rows())
	}
	switch x := a.value.(type) {
	case live.Snapshot:
		m.snap, m.tree = x, live.Tree(x)
		m.cost[v] = x.Took
		if a.full {
			m.cost[v] = 0 // it was asked for once; the next is as ever
		}
		if _, ok := m.first[x.Detail]; !ok {
			m.first[x.Detail] = x
		}
		m.grown = m.growths()
	case Functions:
		m.funcs = x
	case Runtime:
		m.was, m.figs = m.figs, x
	case sched.Summary:
		m.trace = x
	}
}

// keepCursor puts the cursor on the row that it was on among the rows before.
func (m *Model) keepCursor(before []row) {
	p := m.place()
	if p.cursor >= len(before) || p.cursor == 0 {
		return
	}
	if i := slices.IndexFunc(m.rows(), func(r row) bool { return r.key == before[p.cursor].key }); i >= 0 {
		p.cursor = i
	}
}

// ErrUnanswerable says that the source does not tell what a view shows.
var ErrUnanswerable = errors.New("the program does not tell this")

// Look takes one look for the view that the console begins with, without a terminal,
// and is what came of it: a live.Snapshot, Functions, Runtime or sched.Summary.
func (m *Model) Look(ctx context.Context, full bool) (any, error) {
	v := m.view.data()
	if !m.can(v) {
		return nil, ErrUnanswerable
	}
	m.Tick(time.Now())
	a := ask(ctx, m.src, request{v, full})
	m.Tick(time.Now())
	m.take(a)
	return a.value, a.err
}

// Growths is what the view of leaks shows, the suspects first.
func (m *Model) Growths() []live.Growth { return append([]live.Growth{}, m.grown...) }
