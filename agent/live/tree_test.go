package live

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// drawn is a tree as text.
func drawn(n *Node, indent string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s %d/%d", indent, n.Func, n.Count, n.Total)
	if n.Creator != "" {
		fmt.Fprintf(&b, " by %s", n.Creator)
	}
	if n.Ended {
		b.WriteString(" ended")
	}
	b.WriteByte('\n')
	for _, c := range n.Children {
		b.WriteString(drawn(c, indent+"  "))
	}
	return b.String()
}

func of(count int, entry, creator string, parents map[string]int) Group {
	g := Group{Count: count, State: "select", Stack: []Frame{{Func: "leaf"}, {Func: entry}}, Parents: parents}
	if creator != "" {
		g.Creator = &Frame{Func: creator}
	}
	return g
}

// TestTree: who was created stands below who created it, also where goroutines create their like,
// where the creator is gone, and where nothing but a circle is left.
func TestTree(t *testing.T) {
	by := func(name string, n int) map[string]int { return map[string]int{name: n} }
	for name, c := range map[string]struct {
		groups []Group
		want   string
	}{
		"chain": {[]Group{
			of(1, "main.main", "", nil), of(2, "serve", "main.start", by("main.main", 2)), of(50, "conn", "serve", by("serve", 50)), of(3, "conn", "other", by("main.main", 3)),
			of(9, "write", "conn", by("conn", 9)),
		}, `
all goroutines 0/65
  main.main 1/65
    serve 2/52 by main.start
      conn 50/50 by serve
    conn 3/12 by other
      write 9/9 by conn
`},
		"ended": {[]Group{of(1, "main.main", "", nil), of(7, "work", "spawn", by(ParentEnded, 7)), of(2, "work2", "spawn", by(ParentEnded, 2))}, `
all goroutines 0/10
  spawn 0/9 ended
    work 7/7 by spawn
    work2 2/2 by spawn
  main.main 1/1
`},
		"their like": {[]Group{of(1, "main.main", "", nil), of(100, "walk", "walk", map[string]int{"walk": 99, "main.main": 1})}, `
all goroutines 0/101
  main.main 1/101
    walk 1/100 by walk
      walk 99/99 by walk
`},
		"circle": {[]Group{of(5, "ping", "ping", by("pong", 5)), of(4, "pong", "pong", by("ping", 4)), of(1, "x", "x", by("x", 1))}, `
all goroutines 0/10
  ping 5/9 by ping
    pong 4/4 by pong
  x 1/1 by x
`},
		"counts": {[]Group{of(5, "a", "", nil), of(4, "b", "", nil), of(1, "a", "", nil), {Count: 3, State: StateOther}}, `
all goroutines 0/13
  a 6/6
  b 4/4
  (other) 3/3
`},
		"too many parents": {[]Group{of(2, "main.main", "", nil), of(2, "a", "m", by("main.main", 9))}, `
all goroutines 0/4
  main.main 2/4
    a 2/2 by m
`},
		"nothing": {nil, "\nall goroutines 0/0\n"},
	} {
		s := Snapshot{Groups: c.groups}
		for _, g := range c.groups {
			s.Total += g.Count
		}
		if got := "\n" + drawn(Tree(s), ""); got != c.want {
			t.Errorf("%s: got%swant%s", name, got, c.want)
		}
	}
	root := Tree(parseFile(t, "go1.26-minutes.txt", Limits{}))
	if got := drawn(root, ""); !strings.Contains(got, "\n  main.main 1/120\n    main.(*T[...]).work 101/101 by main.main\n") ||
		!strings.Contains(got, "\n  main.spawn 0/20 ended\n    main.spawn.func1 20/20 by main.spawn\n") {
		t.Errorf("of a real dump: %s", got)
	}
}

// TestCompare: what grew is told, with those first that have waited long.
func TestCompare(t *testing.T) {
	long := of(12, "leaky", "handler", nil)
	long.WaitMax = 60 * LeakMinutes
	before, after := parseFile(t, "go1.26-minutes.txt", Limits{}), parseFile(t, "go1.26-minutes.txt", Limits{})
	if g := Compare(before, after); len(g) != 0 {
		t.Errorf("nothing changed, but %+v", g)
	}
	was := long
	was.Count, was.WaitMax = 2, 0
	before.Groups = append(before.Groups, of(5, "load", "serve", nil), was)
	after.Groups = append(after.Groups, of(500, "load", "serve", nil), long, Group{Count: 3, State: StateOther})
	got := Compare(before, after)
	if len(got) != 2 || got[0].Entry() != "leaky" || !got[0].Suspect || got[0].Before != 2 || got[0].Count != 12 || got[1].Before != 5 || got[1].Suspect {
		t.Errorf("%+v", got)
	}
	leaked := parseFile(t, "go1.26-leaked.txt", Limits{})
	if g := Compare(leaked, leaked); len(g) != 1 || !g[0].Suspect || g[0].Leaked != 3 {
		t.Errorf("what the runtime knows to be leaked: %+v", g)
	}
}

// TestJSON: the names are those of docs/format/agents.md, and what is read back is what was written.
func TestJSON(t *testing.T) {
	s := parseFile(t, "go1.26-minutes.txt", Limits{})
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"time":`, `"took_ns":`, `"detail":"full"`, `"total":140`, `"truncated":true`, `"groups":[{"count":100,"state":"chan receive","wait_max_s":120,"wait_min_s":120,"locked":0,"stack":[{"func":"main.(*T[...]).work","file":"probe/states/main.go","line":20}],"creator":{"func":"main.main","file":`, `"parents":{"main.main":100},"ids":[`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%s is not in %.400s", want, b)
		}
	}
	var back Snapshot
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if again, err := json.Marshal(back); err != nil || string(again) != string(b) {
		t.Errorf("read back it is another: %v", err)
	}
}
