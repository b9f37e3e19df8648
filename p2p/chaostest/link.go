package chaostest

import (
	"io"
	"net"
	"sync"
	"time"
)

// Weather is how a link treats what goes over it.
type Weather struct {
	Hold  bool          // nothing arrives until it is over: a partition, as TCP sees one that ends before it gives up
	Delay time.Duration // of each way
	Rate  int           // bytes a second of each way; 0 is as fast as it goes
}

const (
	chunk = 16 << 10 // bytes that are read at once
	queue = 64       // chunks on the way
)

// Link is a wire between two nodes, as a proxy of TCP: what connects to it is connected to its target.
type Link struct {
	ln net.Listener

	mu      sync.Mutex
	to      string
	weather Weather
	changed chan struct{} // closed and made anew when the weather changes
	conns   map[net.Conn]bool
	closed  bool
	group   sync.WaitGroup
}

// NewLink listens on loopback. It has no target yet.
func NewLink() (*Link, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := newLink()
	l.ln = ln
	l.group.Go(l.accept)
	return l, nil
}

func newLink() *Link { return &Link{changed: make(chan struct{}), conns: map[net.Conn]bool{}} }

// Port is where it listens.
func (l *Link) Port() int { return l.ln.Addr().(*net.TCPAddr).Port }

// Target says where connections lead from now on; "" is nowhere.
func (l *Link) Target(address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.to = address
}

// Set changes the weather, also for what is on the way.
func (l *Link) Set(w Weather) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.weather = w
	close(l.changed)
	l.changed = make(chan struct{})
}

// Cut breaks all connections.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		c.Close()
	}
	clear(l.conns)
}

// Close breaks everything, and waits for it.
func (l *Link) Close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	var err error
	if l.ln != nil {
		err = l.ln.Close()
	}
	l.Cut()
	l.Set(Weather{})
	l.group.Wait()
	return err
}

func (l *Link) accept() {
	for {
		a, err := l.ln.Accept()
		if err != nil {
			return
		}
		l.mu.Lock()
		to := l.to
		l.mu.Unlock()
		b, err := net.Dial("tcp", to)
		if err != nil {
			a.Close()
			continue
		}
		l.join(a, b)
	}
}

// join has two ends be one connection.
func (l *Link) join(a, b net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		a.Close()
		b.Close()
		return
	}
	l.conns[a], l.conns[b] = true, true
	l.group.Go(func() { l.carry(a, b) })
	l.group.Go(func() { l.carry(b, a) })
}

// parcel is bytes on the way.
type parcel struct {
	bytes []byte
	sent  time.Time
}

// carry brings what comes from one end to the other, until either breaks.
func (l *Link) carry(from, to net.Conn) {
	way := make(chan parcel, queue)
	broken := make(chan struct{})
	l.group.Go(func() {
		defer close(way)
		for {
			b := make([]byte, chunk)
			n, err := from.Read(b)
			if n > 0 {
				select {
				case way <- parcel{b[:n], time.Now()}:
				case <-broken:
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	for p := range way {
		l.wait(p)
		if _, err := to.Write(p.bytes); err != nil {
			break
		}
	}
	close(broken)
	from.Close()
	to.Close()
	l.mu.Lock()
	delete(l.conns, from)
	delete(l.conns, to)
	l.mu.Unlock()
	_, _ = io.Copy(io.Discard, from) // it is closed: this is until the reader has seen that
}

// wait waits until a parcel may arrive.
func (l *Link) wait(p parcel) {
	var slow time.Duration // what its length takes, once
	for {
		l.mu.Lock()
		w, changed := l.weather, l.changed
		l.mu.Unlock()
		if slow == 0 && w.Rate > 0 {
			slow = time.Duration(len(p.bytes)) * time.Second / time.Duration(w.Rate)
			p.sent = time.Now().Add(slow - w.Delay)
		}
		left := time.Until(p.sent.Add(w.Delay))
		if !w.Hold && left <= 0 {
			return
		}
		if w.Hold {
			<-changed
			continue
		}
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-changed:
		}
		timer.Stop()
	}
}
