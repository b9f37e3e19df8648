package overhead

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// Load is requests at fixed times, whatever becomes of them.
type Load struct {
	Addr string // host:port of the program, which speaks HTTP/1.1
	// Requests are whole requests as they go over the wire, sent in turn. At least one.
	Requests    [][]byte
	Rate        float64       // requests a second, above 0
	Connections int           // kept open, so many requests can be under way; at least 1
	Warmup      time.Duration // sent, not counted
	Time        time.Duration // counted
	// Timeout bounds one request. 0 is 10 s.
	Timeout time.Duration
}

// Outcome is what became of the requests that were due in the measured span.
type Outcome struct {
	Offered   int64
	InTime    int64     // answered well before the span's end; what the warm-up left over counts, too
	Completed int64     // answered well at all
	Failed    int64     // refused, broken off, too late
	Latency   Histogram // of the completed: from the time a request was due to the last byte of its answer
	Late      Histogram // from the time a request was due to its sending
	Err       error     // why the first one failed
}

// Drive sends the load from start on and returns when every request has ended. Requests have times of their own, start + i/Rate, and a latency
// begins there: a program that stalls for a second is charged with all that was due in that second, as its users would
// charge it (G. Tene's "co-ordinated omission"). A request for which no connection is free waits, and that is part of its latency.
func Drive(ctx context.Context, l Load, start time.Time) (*Outcome, error) {
	if l.Rate <= 0 || l.Connections < 1 || len(l.Requests) == 0 {
		return nil, fmt.Errorf("overhead: a load needs a rate above 0, a connection and a request; it has %g, %d, %d", l.Rate, l.Connections, len(l.Requests))
	}
	if l.Timeout == 0 {
		l.Timeout = 10 * time.Second
	}
	d := &driver{Load: l, from: start.Add(l.Warmup), to: start.Add(l.Warmup + l.Time), idle: make(chan *connection, l.Connections)}
	var readers sync.WaitGroup
	var conns []*connection
	// Nobody waits for an answer any more when ctx is over: the connections are closed under their readers.
	stop := context.AfterFunc(ctx, func() { d.closeAll() })
	defer stop()
	for range l.Connections {
		c := &connection{sent: make(chan request, 1)}
		if err := d.dial(ctx, c); err != nil {
			err = fmt.Errorf("overhead: %w", err)
			d.end(conns, &readers)
			return nil, err
		}
		conns = append(conns, c)
		readers.Go(func() { d.read(ctx, c) })
		d.idle <- c
	}
	err := d.send(ctx, start)
	d.end(conns, &readers)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	return &d.out, nil
}

type driver struct {
	Load
	from, to time.Time // the measured span
	idle     chan *connection

	mu     sync.Mutex
	out    Outcome
	open   map[net.Conn]struct{}
	closed bool
}

// connection is one connection and its reader. Who took it from idle may write to it; its reader puts it back.
type connection struct {
	net.Conn
	answers *bufio.Reader
	sent    chan request
}

type request struct {
	due time.Time
	err error // it could not be sent
}

func (d *driver) dial(ctx context.Context, c *connection) error {
	conn, err := (&net.Dialer{Timeout: d.Timeout}).DialContext(ctx, "tcp", d.Addr)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		conn.Close()
		return net.ErrClosed
	}
	if d.open == nil {
		d.open = map[net.Conn]struct{}{}
	}
	delete(d.open, c.Conn)
	d.open[conn] = struct{}{}
	c.Conn, c.answers = conn, bufio.NewReaderSize(conn, 16<<10)
	return nil
}

func (d *driver) closeAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for c := range d.open {
		c.Close()
	}
}

// end waits until every answer is there, or given up, and closes what is open.
func (d *driver) end(conns []*connection, readers *sync.WaitGroup) {
	for _, c := range conns {
		close(c.sent)
	}
	readers.Wait()
	d.closeAll()
}

// send writes each request when it is due.
func (d *driver) send(ctx context.Context, start time.Time) error {
	n := int64(d.Rate * (d.Warmup + d.Time).Seconds())
	sleep, done := sleeper()
	defer done()
	for i := range n {
		due := start.Add(time.Duration(float64(i) / d.Rate * float64(time.Second)))
		for wait := time.Until(due); wait > 0; wait = time.Until(due) { // a signal may end a sleep early
			sleep(wait)
		}
		var c *connection
		select {
		case c = <-d.idle:
		case <-ctx.Done():
			return ctx.Err()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		now := time.Now()
		if d.measured(due) {
			d.mu.Lock()
			d.out.Offered++
			d.out.Late.Add(now.Sub(due))
			d.mu.Unlock()
		}
		c.SetDeadline(now.Add(d.Timeout)) // of an open connection it cannot fail
		_, err := c.Write(d.Requests[int(i)%len(d.Requests)])
		c.sent <- request{due, err} // there is room: the reader has taken the one before
	}
	return nil
}

func (d *driver) measured(due time.Time) bool { return !due.Before(d.from) && due.Before(d.to) }

// read takes the answers of one connection until no more requests come.
func (d *driver) read(ctx context.Context, c *connection) {
	for q := range c.sent {
		again, err := false, q.err
		if err == nil {
			again, err = c.answer()
		}
		d.count(q.due, time.Now(), err)
		if !again && ctx.Err() == nil {
			c.Close()
			d.dial(ctx, c) // where it fails, so does the next request on it, which is counted and tries again
		}
		d.idle <- c
	}
}

// answer reads one answer. again says that the connection stays open.
func (c *connection) answer() (again bool, err error) {
	resp, err := http.ReadResponse(c.answers, nil)
	if err != nil {
		return false, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return false, err
	}
	if resp.StatusCode/100 != 2 {
		err = fmt.Errorf("the program answers %s", resp.Status)
	}
	return !resp.Close, err
}

func (d *driver) count(due, now time.Time, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil && !now.Before(d.from) && now.Before(d.to) {
		d.out.InTime++
	}
	if !d.measured(due) {
		return
	}
	if err != nil {
		d.out.Failed++
		if d.out.Err == nil {
			d.out.Err = err
		}
		return
	}
	d.out.Completed++
	d.out.Latency.Add(now.Sub(due))
}
