package console

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/agent/live"
	"github.com/quantra-l/quantra/analyze/sched"
	"github.com/quantra-l/quantra/profile"
)

// recorded is a real list of goroutines, of the room that reads them.
func recorded(t testing.TB) live.Snapshot {
	t.Helper()
	f, err := os.Open("../../../agent/live/testdata/go1.26-minutes.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := live.ParseDump(f, live.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	s.Time, s.Took = noon, 3*time.Millisecond
	return s
}

func recordedTrace(t testing.TB) sched.Summary {
	t.Helper()
	f, err := os.Open("../../../analyze/sched/testdata/small.trace")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := sched.Summarize(f, sched.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.Local)

// source answers with recorded figures.
func source(t testing.TB) *Source {
	return &Source{
		Name:       "localhost:6060",
		Goroutines: func(context.Context, bool) (live.Snapshot, error) { return recorded(t), nil },
		Functions: func(context.Context) (Functions, error) {
			return Functions{Rows: []profile.TopRow{{Name: "crypto/sha256.block", Self: 3e9, Total: 3e9}, {Name: "github.com/a/shop.(*Cart).sum", Self: 1e9, Total: 4e9}},
				Sample: profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, Total: 4e9, Over: "the last 5 s"}, nil
		},
		Runtime: func(context.Context) (Runtime, error) {
			return Runtime{Time: noon, Figures: []Figure{{Group: "memory", Name: "heap", Value: 5 << 20, Unit: "bytes"}, {Group: "gc", Name: "collections", Value: 7, Unit: "count", Counter: true}, {Name: "settings", Text: "GOGC 100"}}}, nil
		},
		Trace: func(context.Context) (sched.Summary, error) { return recordedTrace(t), nil },
	}
}

// seen is a model that has what its view needs.
func seen(t testing.TB, v View) *Model {
	t.Helper()
	m := NewModel(source(t), Options{View: v})
	m.Tick(noon)
	answerAll(t, m)
	return m
}

func answerAll(t testing.TB, m *Model) {
	t.Helper()
	if r, ok := m.next(); ok {
		m.take(ask(t.Context(), m.src, r))
	}
}

func screen(m *Model, width, height int) string { return strings.Join(m.Render(width, height), "\n") }

func press(m *Model, keys ...string) (quit bool) {
	for _, k := range keys {
		quit = m.Key(k)
	}
	return quit
}

func has(t *testing.T, what, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if ok, err := regexp.MatchString(w, text); err != nil || !ok {
			t.Errorf("%s: %q is not in\n%s", what, w, text)
		}
	}
}

// TestViews: each view shows what its data say.
func TestViews(t *testing.T) {
	for v, want := range map[View][]string{
		Goroutines: {`(?m)^ localhost:6060 +goroutines, every 2s`, `140 goroutines in \d+ groups, all details, taken in 3ms`, `COUNT +WAIT STATE +FUNCTION`,
			`(?m)^> +120 +- running +▾ main.main$`, `(?m)^ +101 +2m chan receive +  ▸ main.\(\*T\[...\]\).work$`, `(?m)^ +20 +- +▾ main.spawn  \(created by it, and it has ended\)`},
		States:  {`(?m)^> +124 +2m ▸ chan receive$`, `(?m)^ +2 +2m ▸ sync.Mutex.Lock`},
		Leaks:   {`140 goroutines, \+0 since 12:00:00`, `nothing grew, and nothing has waited for minutes`},
		Hottest: {`4s of the last 5 s`, `(?m)^> +3s +75.00% +3s +75.00% ▸ sha256.block$`, `(?m)^ +1s +25.00% +4s +100% ▸ shop.\(\*Cart\).sum`},
		Memory:  {`(?m)^ +5MB .* heap$`, `(?m)^ +7 .* collections$`, `settings: GOGC 100`},
		Trace:   {`GOMAXPROCS 2: run .*GC 1, world stopped`, `(?m)^.* 1 .*▸ main.main$`, `(?m)^ +3 .*▸ main.work$`},
	} {
		has(t, v.Name(), screen(seen(t, v), 110, 40), want...)
		has(t, v.Name()+" as text", seen(t, v).Text(0, 0), strings.ReplaceAll(strings.ReplaceAll(want[len(want)-1], "> +", " *"), "^ +", "^ *"))
	}
}

// TestKeys: the keys move, open, search, pause and end.
func TestKeys(t *testing.T) {
	m := seen(t, Goroutines)
	press(m, "down", "enter")
	has(t, "a node opened", screen(m, 110, 40), `(?m)^> +101 +2m chan receive +  ▾ main.\(\*T\[...\]\).work$`, `▸ at main.\(\*T\[...\]\).work main.go:20`)
	press(m, "down", "right")
	has(t, "a stack opened", screen(m, 110, 40), `created by main.main  main.go:\d+`, `ids \d+`)
	press(m, "left", "left")
	has(t, "back to where it stands below", screen(m, 110, 40), `(?m)^> .*▾ main.\(\*T`)
	press(m, "home", "enter")
	if s := screen(m, 110, 40); strings.Contains(s, ".work") {
		t.Errorf("closed, but\n%s", s)
	}
	press(m, "end")
	has(t, "at the end", screen(m, 110, 40), `(?m)^> +20 .*main.spawn.func1`)
	press(m, "/", "D", "e", "x", "backspace", "e", "p", "enter")
	s := screen(m, 110, 40)
	has(t, "searched", s, `▾ main.main`, `main.deep`, `/deep \(esc ends\)`)
	if strings.Contains(s, ".work") {
		t.Errorf("searched, but\n%s", s)
	}
	press(m, "esc", "?")
	has(t, "help", screen(m, 110, 40), `q +quit`)
	if press(m, "q") {
		t.Error("a key that ends the help ends the console")
	}
	press(m, "p")
	has(t, "paused", screen(m, 110, 40), `goroutines, paused`)
	m.Tick(noon.Add(time.Hour))
	if r, ok := m.next(); ok {
		t.Errorf("paused, but it looks: %+v", r)
	}
	press(m, "F")
	if r, ok := m.next(); !ok || !r.full || !m.pause {
		t.Errorf("F is no look with all details that stays: %+v", r)
	}
	if !press(m, "q") || !press(m, "ctrl-c") {
		t.Error("q and ctrl-c do not end it")
	}
	m = seen(t, Goroutines)
	press(m, "/")
	if press(m, "q") || !press(m, "ctrl-c") {
		t.Error("while a search is typed q is a letter, and ctrl-c ends")
	}
}

// TestGrowth: between two looks what grew is counted; c begins anew.
func TestGrowth(t *testing.T) {
	m := seen(t, Leaks)
	grown := recorded(t)
	for i := range grown.Groups {
		if grown.Groups[i].Entry() == "main.spawn.func1" {
			grown.Groups[i].Count += 30
			grown.Groups[i].WaitMax = 600
			grown.Total += 30
		}
	}
	m.take(answer{request: request{view: Goroutines}, value: grown})
	has(t, "grown", screen(m, 110, 20), `170 goroutines, \+30 since`, `(?m)^> +\+30 +50 +10m chan receive +▸ main.spawn.func1  at main.spawn.func1 main.go:\d+$`)
	if g := m.Growths(); len(g) != 1 || !g[0].Suspect {
		t.Errorf("%+v", g)
	}
	press(m, "c")
	has(t, "counted anew", screen(m, 110, 20), `170 goroutines, \+0 since`, `(?m)^> +- +50 +10m`)
}

// TestCursorStays: a look does not move the cursor to another row, though its row moves.
func TestCursorStays(t *testing.T) {
	m := seen(t, States)
	press(m, "down", "down", "down")
	before := m.rows()[m.place().cursor]
	next := recorded(t)
	next.Groups = append(next.Groups, live.Group{Count: 500, State: "semacquire", Stack: []live.Frame{{Func: "f"}}})
	m.take(answer{request: request{view: Goroutines}, value: next})
	if now := m.rows()[m.place().cursor]; now.key != before.key || m.place().cursor != 4 {
		t.Errorf("on %q, was on %q", now.text, before.text)
	}
}

// TestPace: a look that costs the program much is not taken often; one asked for is taken at once.
func TestPace(t *testing.T) {
	m := seen(t, Goroutines)
	m.Tick(noon.Add(1900 * time.Millisecond))
	if _, ok := m.next(); ok {
		t.Error("it looks before the time")
	}
	m.Tick(noon.Add(2 * time.Second))
	if _, ok := m.next(); !ok {
		t.Error("it does not look when it is time")
	}
	if _, ok := m.next(); ok {
		t.Error("it looks twice at once")
	}
	dear := recorded(t)
	dear.Took = 400 * time.Millisecond
	m.take(answer{request: request{view: Goroutines}, value: dear})
	has(t, "dear", screen(m, 110, 20), `every 8s`)
	m.Tick(noon.Add(9 * time.Second))
	if _, ok := m.next(); ok {
		t.Error("it looks though the last look was dear")
	}
	press(m, "t")
	if r, ok := m.next(); !ok || r.view != Trace {
		t.Errorf("t takes no trace: %+v", r)
	}
	m.Tick(noon.Add(10 * time.Second))
	has(t, "while it is taken", screen(m, 110, 20), `waiting for an execution trace`)
	m.take(ask(t.Context(), m.src, request{view: Trace}))
	m.Tick(noon.Add(time.Hour))
	if _, ok := m.next(); ok {
		t.Error("a trace is taken without being asked for")
	}
}

// TestErrors: what went wrong is said, and what was seen before stays.
func TestErrors(t *testing.T) {
	m := seen(t, Goroutines)
	m.take(answer{request: request{view: Goroutines}, err: errors.New("no program\nanswers")})
	has(t, "an error", screen(m, 110, 20), `! no program answers; what is shown is older`, `main.main`)
	m = NewModel(&Source{Name: "x"}, Options{})
	m.Tick(noon)
	has(t, "no goroutines", screen(m, 80, 20), `this program does not give a list of goroutines`)
	if _, err := m.Look(t.Context(), false); !errors.Is(err, ErrUnanswerable) {
		t.Errorf("%v", err)
	}
	src := source(t)
	src.Goroutines = func(context.Context, bool) (live.Snapshot, error) { panic("boom") }
	if a := ask(t.Context(), src, request{view: Goroutines}); a.err == nil || !strings.Contains(a.err.Error(), "boom") {
		t.Errorf("a panic of the source: %v", a.err)
	}
}

// TestAnySize: every view fits every screen, without control characters whatever the program is called.
func TestAnySize(t *testing.T) {
	for _, v := range Views {
		for _, colour := range []bool{false, true} {
			m := seen(t, v.View)
			m.o.Colour = colour
			m.src.Name = "evil\x1b[2J\u202e"
			if len(m.snap.Groups) > 0 {
				m.snap.Groups[0].Stack = []live.Frame{{Func: "evil\x1b]0;x\a\n.f"}}
				m.tree = live.Tree(m.snap)
				press(m, "/", "e", "v", "i", "l", "enter")
			}
			for width := 0; width < 130; width += 3 {
				for _, height := range []int{0, 1, 4, 5, 6, 24, 100} {
					lines := m.Render(width, height)
					if len(lines) != height {
						t.Fatalf("%s at %dx%d: %d lines", v.Name, width, height, len(lines))
					}
					for _, line := range lines {
						bare := regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllString(line, "")
						if n := len([]rune(bare)); n > width || strings.ContainsAny(bare, "\x1b\a\n\r\u202e") || !colour && bare != line {
							t.Fatalf("%s at %dx%d: %d wide: %q", v.Name, width, height, n, line)
						}
					}
				}
			}
		}
	}
}

// TestScroll: the cursor is always on the screen.
func TestScroll(t *testing.T) {
	m := seen(t, Goroutines)
	for i := range 60 {
		press(m, []string{"down", "pgdn", "up", "pgup", "end", "home", "enter"}[i*5%7])
		if s := screen(m, 80, 10); strings.Count(s, "\n> ") != 1 {
			t.Fatalf("after %d keys the cursor is not seen once:\n%s", i, s)
		}
	}
}

func TestNextKey(t *testing.T) {
	in := "q\x1b[A\x1b[1;5C\x1b[5~é\r\x7f\x03\x1bOB\x1bx\x1b"
	want := []string{"q", "up", "", "pgup", "é", "enter", "backspace", "ctrl-c", "down", "", "esc"}
	var got []string
	for b := []byte(in); len(b) > 0; {
		var k string
		k, b = nextKey(b)
		got = append(got, k)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// FuzzNextKey: whatever a terminal sends, each step takes something and no key has a control character.
func FuzzNextKey(f *testing.F) {
	f.Add([]byte("q\x1b[A\x1b[1;5C\x1b[5~é\r\x7f\x03\x1bOB\x1bx\x1b"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			k, rest := nextKey(b)
			if len(rest) >= len(b) || strings.IndexFunc(k, unsafeRune) >= 0 {
				t.Fatalf("%q: key %q, rest %q", b, k, rest)
			}
			b = rest
		}
	})
}
