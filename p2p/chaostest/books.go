// Package chaostest has nodes bear what networks, disks and people do to them, by chance and by a seed, and looks afterwards whether what was
// promised was kept:
//
//   - a private message whose Send has returned is shown to its reader, once;
//   - a broadcast is heard once at most by each who hears, was made by who is said to have made it, and when all is well again each is heard by all;
//   - who was not let in is answered by no protocol of ours;
//   - memory is bounded, and nothing runs on when a node is closed.
//
// There are two searches with the same books. The wide one runs the rooms p2p/direct and p2p/broadcast on a network in memory and on virtual time
// (testing/synctest): hours of it take seconds. The narrow one runs whole nodes over real sockets, between which are links that hold back,
// slow down and cut what goes over them. The seed says what is done to whom, and in which order; what goroutines make of it is theirs, so
// that a seed that has found something finds it mostly, not always.
//
//	go test ./p2p/chaostest -chaos.seed 7 -chaos.rounds 1 -v
//	go test ./p2p/chaostest -run Virtual -chaos.rounds 500 -timeout 2h
package chaostest

import (
	"fmt"
	"slices"
	"sync"
)

// Books are what was promised to readers, and what they were shown. They are outside of all nodes, and crash with none.
type Books struct {
	mu       sync.Mutex
	promised map[string]string         // private: what, to whom
	shown    map[string]map[string]int // private: who, what, how often
	last     map[string]uint64         // the index of who's last message: direct.Options.Deliver says that a reader keeps it
	said     map[string]string         // broadcast: what, by whom
	heard    map[string]map[string]int // broadcast: who, what, how often
	wrong    []string                  // what must not be
}

// NewBooks are empty ones.
func NewBooks() *Books {
	return &Books{promised: map[string]string{}, shown: map[string]map[string]int{}, last: map[string]uint64{}, said: map[string]string{}, heard: map[string]map[string]int{}}
}

func count(m map[string]map[string]int, who, what string) int {
	if m[who] == nil {
		m[who] = map[string]int{}
	}
	m[who][what]++
	return m[who][what]
}

// Promise notes a private message that was acknowledged.
func (b *Books) Promise(what, to string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.promised[what] = to
}

// Show notes a private message that a reader is given. One that has the index of an earlier one is that one.
func (b *Books) Show(who, what string, index uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if index <= b.last[who] {
		if b.shown[who][what] == 0 {
			b.wrong = append(b.wrong, fmt.Sprintf("%s is given %q with the index %d, which another message had", who, what, index))
		}
		return
	}
	b.last[who] = index
	if count(b.shown, who, what) > 1 {
		b.wrong = append(b.wrong, fmt.Sprintf("%s is shown %q again", who, what))
	}
}

// Say notes a broadcast before it is published.
func (b *Books) Say(who, what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.said[what] = who
}

// Hear notes a broadcast that is heard, and who is said to have made it.
func (b *Books) Hear(who, what, from string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.said[what] != from {
		b.wrong = append(b.wrong, fmt.Sprintf("%s hears %q by %s, who did not say it", who, what, from))
	}
	if count(b.heard, who, what) > 1 {
		b.wrong = append(b.wrong, fmt.Sprintf("%s hears %q again", who, what))
	}
}

// Heard says whether somebody has heard something.
func (b *Books) Heard(who, what string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.heard[who][what] > 0
}

// Missing are the promises that were not kept yet.
func (b *Books) Missing() (out []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for what, to := range b.promised {
		if b.shown[to][what] == 0 {
			out = append(out, fmt.Sprintf("%q to %s", what, to))
		}
	}
	slices.Sort(out)
	return out
}

// Wrong is what must not be and was. Empty books are wrong, too: nothing was tried.
func (b *Books) Wrong() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := slices.Clone(b.wrong)
	if len(b.promised) == 0 || len(b.heard) == 0 {
		out = append(out, fmt.Sprintf("%d promises and %d who heard: nothing is shown by that", len(b.promised), len(b.heard)))
	}
	return out
}

// Size is how much is in them.
func (b *Books) Size() (promised, heard int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.heard {
		heard += len(m)
	}
	return len(b.promised), heard
}
