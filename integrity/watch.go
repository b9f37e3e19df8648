package integrity

import (
	"slices"
	"sync"
)

// maxPending bounds how many paths wait to be looked at; past it all is looked at.
const maxPending = 1 << 16

// maxWho bounds how many processes are told of one path.
const maxWho = 4

// hint is that something may have changed at a path, or below it.
type hint struct {
	path string
	who  *Who
}

// kernel is what tells of changes: fanotify, and inotify where that is refused.
type kernel interface {
	name() string
	// add tells of what happens in an open directory from now on. The same directory may be added again, also under another path.
	add(path string, d *folder) error
	// read waits for events. lost says that the kernel dropped some.
	read() (hints []hint, lost bool, err error)
	watched() int
	close() error
}

// pending is what waits to be looked at. It is filled by who reads events, and emptied by the monitor.
type pending struct {
	signal chan struct{} // has one token when there is something

	mu    sync.Mutex
	paths map[string][]Who
	lost  bool
}

func newPending() *pending {
	return &pending{signal: make(chan struct{}, 1), paths: map[string][]Who{}}
}

func (p *pending) add(hints []hint, lost bool) {
	p.mu.Lock()
	for _, h := range hints {
		who, ok := p.paths[h.path]
		if !ok && len(p.paths) == maxPending {
			lost = true
			break
		}
		if h.who != nil && !slices.ContainsFunc(who, func(w Who) bool { return w.PID == h.who.PID && w.Exe == h.who.Exe }) {
			if who = append(who, *h.who); len(who) > maxWho {
				who = who[1:]
			}
		}
		p.paths[h.path] = who
	}
	p.lost = p.lost || lost
	any := p.lost || len(p.paths) > 0
	p.mu.Unlock()
	if any {
		select {
		case p.signal <- struct{}{}:
		default:
		}
	}
}

func (p *pending) take() (paths map[string][]Who, lost bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	paths, lost = p.paths, p.lost
	p.paths, p.lost = map[string][]Who{}, false
	return paths, lost
}
