package live

import (
	"cmp"
	"slices"
)

// Node is the goroutines that began with one function and were created in one place.
type Node struct {
	Func    string `json:"func"`              // their entry function
	Creator string `json:"creator,omitempty"` // the function with the go statement; "" if it is not known
	// Ended says that the goroutines that created the children are no more: Func is
	// the function with the go statement, and no goroutine of this node is counted.
	Ended    bool           `json:"ended,omitempty"`
	Count    int            `json:"count"` // of this node alone
	Total    int            `json:"total"` // and of all below
	States   map[string]int `json:"states,omitempty"`
	WaitMax  int            `json:"wait_max_s"` // seconds; of this node alone
	Groups   []int          `json:"groups"`     // indexes of Snapshot.Groups, the largest first
	Children []*Node        `json:"children,omitempty"`
}

// RootFunc is the name of a tree's root.
const RootFunc = "all goroutines"

// place is what makes a node: who created what, from where.
type place struct{ parent, creator, entry string }

// Tree arranges a snapshot's goroutines by who created whom: below a goroutine's
// entry function are those that goroutines of this function created. Snapshots by
// counts know no creators: their tree is a list of entry functions.
//
// A snapshot knows of each group the entry functions of its creators, not the chain
// above. Where a creating function itself stands at several places of the tree, all
// that it created is shown at the one with the most goroutines.
func Tree(s Snapshot) *Node {
	nodes := map[place]*Node{}
	for i, g := range s.Groups {
		spread(nodes, i, g)
	}
	root := &Node{Func: RootFunc, Groups: []int{}}
	home := homes(nodes)
	ended := map[string]*Node{}
	for p, n := range nodes {
		above := root
		h, ok := home[p.parent]
		switch {
		case p.parent == ParentEnded || p.parent == ParentUnknown:
			e := ended[p.creator]
			if e == nil {
				e = &Node{Func: p.creator, Ended: true, Groups: []int{}}
				ended[p.creator] = e
				root.Children = append(root.Children, e)
			}
			above = e
		case ok && !home[p.entry].is(p, true):
			above = nodes[h.place]
		}
		above.Children = append(above.Children, n)
	}
	root.sum()
	return root
}

// homeOf is the one place of an entry function below which all stands that its goroutines created.
type homeOf struct {
	place
	atRoot bool // nothing but a circle leads to it, so it stands at the root
}

func (h homeOf) is(p place, atRoot bool) bool { return h.place == p && h.atRoot == atRoot }

// homes chooses a home for each entry function, nearest to the root, then with the
// most goroutines, so that every way up ends at the root.
func homes(nodes map[place]*Node) map[string]homeOf {
	byParent := map[string][]place{}
	entries := map[string]bool{}
	for p := range nodes {
		entries[p.entry] = true
		byParent[p.parent] = append(byParent[p.parent], p)
	}
	home := map[string]homeOf{}
	larger := func(a, b place) int {
		return cmp.Or(cmp.Compare(nodes[b].Count, nodes[a].Count), comparePlaces(a, b))
	}
	// settle gives the entry functions of these places a home, and returns those that had none.
	settle := func(ps []place, atRoot bool) (fresh []string) {
		slices.SortFunc(ps, larger)
		for _, p := range ps {
			if _, ok := home[p.entry]; !ok {
				home[p.entry] = homeOf{p, atRoot}
				fresh = append(fresh, p.entry)
			}
		}
		return fresh
	}
	var top, all []place
	for p := range nodes {
		all = append(all, p)
		if !entries[p.parent] {
			top = append(top, p)
		}
	}
	slices.SortFunc(all, larger)
	for level := settle(top, false); len(home) < len(entries); {
		var next []place
		for _, entry := range level {
			next = append(next, byParent[entry]...)
		}
		if level = settle(next, false); len(level) > 0 {
			continue
		}
		// What is left was created in a circle, whose beginning has ended: the largest is let begin it.
		for home[all[0].entry].entry != "" {
			all = all[1:]
		}
		level = settle(all[:1], true)
	}
	return home
}

// spread counts a group's goroutines at their places.
func spread(nodes map[place]*Node, index int, g Group) {
	p := place{entry: g.Entry()}
	switch {
	case g.State == StateOther && p.entry == "":
		p.entry = "(" + StateOther + ")"
	case p.entry == "":
		p.entry = "(stack not known)"
	}
	if g.Creator != nil {
		p.creator = g.Creator.Func
	}
	put := func(p place, count int) {
		n := nodes[p]
		if n == nil {
			n = &Node{Func: p.entry, Creator: p.creator, States: map[string]int{}}
			nodes[p] = n
		}
		n.Count += count
		n.States[g.State] += count
		n.WaitMax = max(n.WaitMax, g.WaitMax)
		n.Groups = append(n.Groups, index)
	}
	left := g.Count
	for parent, count := range g.Parents {
		count = min(count, left) // a snapshot may come from elsewhere
		if left -= count; count > 0 {
			put(place{parent, p.creator, p.entry}, count)
		}
	}
	if left > 0 {
		put(p, left)
	}
}

func comparePlaces(a, b place) int {
	return cmp.Or(cmp.Compare(a.parent, b.parent), cmp.Compare(a.creator, b.creator), cmp.Compare(a.entry, b.entry))
}

// sum fills the totals and puts the largest first.
func (n *Node) sum() {
	n.Total = n.Count
	for _, c := range n.Children {
		c.sum()
		n.Total += c.Total
	}
	slices.Sort(n.Groups) // as in the snapshot
	slices.SortFunc(n.Children, func(a, b *Node) int {
		return cmp.Or(cmp.Compare(b.Total, a.Total), cmp.Compare(a.Func, b.Func), cmp.Compare(a.Creator, b.Creator))
	})
}

// LeakMinutes is how long goroutines must have waited before growing numbers of them are suspicious.
const LeakMinutes = 5

// Growth is what became of one kind of goroutines between two snapshots.
type Growth struct {
	Group        // as it is in the later snapshot
	Before  int  `json:"before"`  // goroutines then; Count is now
	Suspect bool `json:"suspect"` // there are more, and some have waited for LeakMinutes; or the runtime knows that they are leaked
}

// Compare lists the groups that grew from one snapshot to the next, and those that
// the runtime says are leaked: suspects first, then by how much they grew. Goroutines
// are of one kind when state, stack and creator are the same. Snapshots by counts have
// no waiting times: nothing in them is a suspect.
//
// What grows may be load. A leak is what grows, waits, and does not go when the load does.
func Compare(before, after Snapshot) []Growth {
	then := map[string]int{}
	for _, g := range before.Groups {
		then[g.kind()] += g.Count
	}
	out := []Growth{}
	for _, g := range after.Groups {
		if len(g.Stack) == 0 {
			continue
		}
		b := then[g.kind()]
		grew := g.Count > b
		if grew || g.Leaked > 0 {
			out = append(out, Growth{g, b, grew && g.WaitMax >= 60*LeakMinutes || g.Leaked > 0})
		}
	}
	slices.SortStableFunc(out, func(x, y Growth) int {
		if x.Suspect != y.Suspect {
			if x.Suspect {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(y.Count-y.Before, x.Count-x.Before), cmp.Compare(y.WaitMax, x.WaitMax))
	})
	return out
}

// kind is the text by which groups of two snapshots are the same. Lines are of it:
// two places in a function are two kinds.
func (g *Group) kind() string {
	var b []byte
	b = append(b, g.State...)
	add := func(f Frame) {
		b = append(append(b, '\n'), f.Func...)
		b = append(b, ':', byte(f.Line), byte(f.Line>>8), byte(f.Line>>16), byte(f.Line>>24))
	}
	for _, f := range g.Stack {
		add(f)
	}
	if g.Creator != nil {
		add(*g.Creator)
	}
	return string(b)
}
