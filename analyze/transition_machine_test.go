package analyze

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

// pageMachines is the file in docs/transitions.md.
func pageMachines(t testing.TB) []byte {
	page, err := os.ReadFile("../docs/transitions.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(page), "```yaml\n")
	file, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("docs/transitions.md shows no file: the test shows nothing")
	}
	return []byte(file)
}

// TestParseMachines reads what the page shows.
func TestParseMachines(t *testing.T) {
	got, err := ParseMachines(pageMachines(t))
	if err != nil {
		t.Fatal(err)
	}
	want := []Machine{
		{Name: "connection", Service: "node-*", Edges: []MachineEdge{
			{From: "dial", To: "handshake", Events: [2]string{"dial", "handshake"}, Slow: 200 * time.Millisecond, P99: time.Second, Line: 5},
			{From: "handshake", To: "established", Events: [2]string{"handshake", "established"}, P99: 500 * time.Millisecond, Line: 6},
			{From: "established", To: "active", Events: [2]string{"established", "active"}, Line: 7},
			{From: "active", To: "closed", Events: [2]string{"active", "closed"}, In: "connection", Line: 8},
		}},
		{Name: "message", Edges: []MachineEdge{
			{From: "receive", To: "verify", Span: "message.verify", Line: 12},
			{From: "verify", To: "route", Span: "message.route", P99: 5 * time.Millisecond, Line: 13},
			{From: "route", To: "send", Span: "message.send *", In: "message.receive", Line: 14},
		}},
		{Name: "request", Service: "checkout", Edges: []MachineEdge{
			{From: "request", To: "decision", Span: "POST /decide*", Slow: 20 * time.Millisecond, P99: 100 * time.Millisecond, Line: 19},
			{From: "decision", To: "answer", Events: [2]string{"policy evaluated", "answer written"}, Line: 20},
		}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("it says\n%+v\nwant\n%+v", got, want)
	}
}

func TestParseMachinesRefuses(t *testing.T) {
	edge := func(e string) string { return "machines:\n- name: m\n  edges:\n  - " + e + "\n" }
	many := func(n int, f func(i int) string) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(f(i))
		}
		return b.String()
	}
	for _, c := range []struct{ file, want string }{
		{"", "it is empty"},
		{"# nothing\n", "it is empty"},
		{"machines: []", "it has no machines"},
		{"{}", "it has no machines"},
		{"[]", "line 1: the file must be a mapping"},
		{"machines: 1", "line 1: machines must be a list"},
		{"machines:\n- 1", "line 2: a machine must be a mapping"},
		{"machine:\n- name: m", `line 1: the file has no field "machine"`},
		{"machines: []\nmachines: []", "line 2: the file has machines twice"},
		{"machines: [", "did not find expected node content"},
		{"machines: []\n---\nmachines: []", "more than one document"},
		{"\xff", "not UTF-8"},
		{strings.Repeat("#", maxMachineBytes+1), "more than 262144"},
		{"machines:\n- edges: []", "line 2: a machine has no name"},
		{"machines:\n- name: m", `line 2: machine "m" has no edges`},
		{"machines:\n- name: m\n  edges: []", `line 2: machine "m" has no edges`},
		{"machines:\n- name:\n  edges: []", "line 2: name must be a name"},
		{"machines:\n- name: ''\n", "line 2: name is empty"},
		{"machines:\n- name: ' m'\n", "line 2: name is empty, or has spaces around it"},
		{"machines:\n- name: \"m\\e\"\n", "line 2: name has a control character"},
		{"machines:\n- name: " + strings.Repeat("m", 201), "line 2: name has 201 bytes"},
		{"machines:\n- name: [m]\n", "line 2: name must be a name"},
		{"machines:\n- name: m\n  colour: red\n", `line 3: a machine has no field "colour"`},
		{"a: &a 1\nmachines: *a", `line 1: the file has no field "a"`},
		{"machines: &a\n- name: m\n  edges: *a", "line 3: edges must be a list"},
		{edge("{from: a, to: b}") + "- name: m\n  edges: [{from: a, to: b}]", `line 5: there is a machine "m" on line 2 already`},
		{edge("{from: a, to: b}\n  - {from: a, to: b, span: x}"), `line 5: the edge from "a" to "b" is on line 4 already`},
		{edge("{from: a}"), "line 4: an edge needs from and to"},
		{edge("{from: a, to: a}"), `line 4: the edge goes from "a" to itself`},
		{edge("{from: a, to: b, span: x, events: [a, b]}"), "line 4: span and events are two ways"},
		{edge("{from: a, to: b, events: [a]}"), "line 4: events are two names"},
		{edge("{from: a, to: b, events: [a, b, c]}"), "line 4: events are two names"},
		{edge("{from: a, to: b, events: a}"), "line 4: events must be a list"},
		{edge("{from: a, to: b, events: [a, '']}"), "line 4: an event is empty"},
		{edge("{from: a, to: b, slow: 5}"), `line 4: slow is "5": it must be a duration`},
		{edge("{from: a, to: b, slow: [1s]}"), "line 4: slow is \"\": it must be a duration"},
		{edge("{from: a, to: b, p99: -1s}"), "line 4: p99 is -1s: it must be above 0"},
		{edge("{from: a, to: b, p99: 1000h}"), "at most 720h"},
		{edge("{from: a, to: b, slow: 2s, p99: 1s}"), "line 4: slow, for half of all, is 2s, above p99, 1s"},
		{edge("{from: a, to: b, from: c}"), "line 4: an edge has from twice"},
		{edge("{from: a, to: b, p50: 1s}"), `line 4: an edge has no field "p50"`},
		{"machines:\n" + many(101, func(i int) string { return fmt.Sprintf("- {name: m%d, edges: [{from: a, to: b}]}\n", i) }), "line 102: there are more than 100 machines"},
		{"machines:\n- name: m\n  edges:\n" + many(1001, func(i int) string { return fmt.Sprintf("  - {from: a, to: b%d}\n", i) }), "line 1004: there are more than 1000 edges"},
	} {
		got, err := ParseMachines([]byte(c.file))
		if err == nil || !errors.Is(err, ErrMachines) || !strings.Contains(err.Error(), c.want) || got != nil {
			t.Errorf("%.80q: %v, %v; want %q", c.file, got, err, c.want)
		}
	}
}

func TestMatchPattern(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"", "", true}, {"", "a", false}, {"a", "", false}, {"*", "", true}, {"*", "a/b c", true}, {"a", "a", true}, {"a", "A", false}, {"a", "ab", false},
		{"a*", "a", true}, {"a*", "ba", false}, {"*a", "ba", true}, {"*a", "bab", false}, {"a*c", "abc", true}, {"a*c", "abcb", false}, {"a*b*c", "a1b2b3c", true},
		{"a*b*c", "acb", false}, {"**", "x", true}, {"a**", "a", true}, {"[a]", "a", false}, {"a?", "ab", false}, {"*ab", "aab", true}, {"*é", "né", true}, {"GET *", "GET *", true},
		{"a*a*a*a*a*a*a*a*b", strings.Repeat("a", 5000), false},
	} {
		if got := matchPattern(c.pattern, c.name); got != c.want {
			t.Errorf("%q on %.20q: %v, want %v", c.pattern, c.name, got, c.want)
		}
	}
}

// FuzzParseMachines: whatever the bytes, an error that says so, or machines that keep what the comments promise.
func FuzzParseMachines(f *testing.F) {
	f.Add(pageMachines(f))
	f.Add([]byte("machines:\n- name: m\n  edges: [{from: a, to: b, events: [a, b], in: '*', slow: 1ms}]\n"))
	f.Add([]byte("machines: &a\n- name: m\n  edges: *a\n"))
	f.Add([]byte("machines:\n- {name: !!binary bQ==, edges: [{from: 1, to: 2.5, span: yes}]}\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		machines, err := ParseMachines(file)
		if err != nil {
			if !errors.Is(err, ErrMachines) || machines != nil {
				t.Errorf("%v, %v", machines, err)
			}
			return
		}
		edges := 0
		for _, m := range machines {
			if m.Name == "" || len(m.Edges) == 0 {
				t.Errorf("%+v", m)
			}
			for _, e := range m.Edges {
				edges++
				if e.From == "" || e.To == "" || e.From == e.To || (e.Span == "") == (e.Events == [2]string{}) || e.Slow < 0 || e.P99 < 0 || e.P99 > 0 && e.Slow > e.P99 || e.Line < 1 {
					t.Errorf("%+v", e)
				}
			}
		}
		if len(machines) == 0 || len(machines) > maxMachines || edges > maxMachineEdges {
			t.Errorf("%d machines, %d edges", len(machines), edges)
		}
	})
}
