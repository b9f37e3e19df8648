package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/quantra-l/quantra/sandbox/channel"
)

// HandlerError is what a handler gave for an answer that it has not. It is a stranger's text.
type HandlerError struct{ Text string }

func (e *HandlerError) Error() string { return fmt.Sprintf("the handler has no answer: %q", e.Text) }

// Session is a handler that takes calls, one at a time. It ends at its deadline, when it is closed, when a call is given up, and when the
// handler does what it may not.
type Session struct {
	*running
	released atomic.Bool
}

// running is a guest with its seat, from the start until nothing of it is left.
type running struct {
	pool      *Pool
	principal string
	key       string
	kind      Kind
	limits    Limits
	seat      *Seat
	deadline  *time.Timer
	cancel    context.CancelFunc // of what waits for bandwidth
	guest     *Guest
	stderr    tail
	frames    *channel.Reader
	out       io.Writer

	turn    chan struct{} // holds a token while a call, or a ping, is under way
	endOnce sync.Once
	cause   error         // why it ended; set before ending is closed
	ending  chan struct{} // closed when it is being ended
	done    chan struct{} // closed when nothing of it is left
}

func (r *running) start(ctx context.Context, spec Spec, image *Image) (err error) {
	if r.seat == nil {
		if r.seat, err = r.pool.Reserve(ctx, spec.Class); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.pool.startTimeout, Unavailable("the %s sandbox did not start within %v", spec.Isolation, r.pool.startTimeout))
	defer cancel()
	guest, err := r.pool.isolations[spec.Isolation].Start(ctx, Launch{Image: image, Args: spec.Args, Limits: r.limits, Network: spec.Network, Fixed: spec.Fixed, Stderr: &r.stderr})
	if err != nil {
		return err
	}
	own, cancelOwn := context.WithCancel(context.Background())
	b := newBucket(own, r.limits)
	r.guest, r.cancel = guest, cancelOwn
	r.frames = channel.NewReader(&throttledReader{guest.Stdout, b})
	r.out = &throttledWriter{guest.Stdin, b}

	stop := context.AfterFunc(ctx, guest.Kill)
	err = hello(r.frames)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		guest.Kill()
		cancelOwn()
		if ended := guest.Wait(); ended != nil {
			err = fmt.Errorf("%w (%w)", err, ended)
		}
		return fmt.Errorf("%s: %w%s", image.Path, err, &r.stderr)
	}
	r.deadline = time.AfterFunc(spec.Deadline, func() { r.end(ErrDeadline) })
	r.pool.mu.Lock()
	closed := r.pool.closed
	r.pool.sessions[r] = true
	r.pool.mu.Unlock()
	if closed {
		r.end(errors.New("the pool was closed"))
	}
	go r.watch() // Pool.Close waits for it
	return nil
}

// watch waits until nothing of the guest is left, and gives back what it held.
func (r *running) watch() {
	ended := r.guest.Wait()
	if ended == nil {
		ended = errors.New("the handler went away")
	}
	r.end(fmt.Errorf("%w%s", ended, &r.stderr))
	r.deadline.Stop()
	r.seat.Release()
	r.pool.leave(r.principal, r)
	close(r.done) // who waits for it finds everything given back
	r.pool.starting.Done()
}

// end ends the session; the first cause is kept.
func (r *running) end(cause error) {
	r.endOnce.Do(func() {
		r.cause = cause
		close(r.ending)
		r.cancel()
		r.guest.Kill()
	})
}

// Done is closed when nothing of the session is left.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err is nil while the session lives, and then why it ended: it is [ErrEnded], and [ErrDeadline] where that was the reason.
func (r *running) Err() error {
	select {
	case <-r.ending:
		return fmt.Errorf("%w: %w", ErrEnded, r.cause)
	default:
		return nil
	}
}

// Isolation is what the session runs in.
func (s *Session) Isolation() Kind { return s.kind }

// Close ends the session and waits until nothing of it is left.
func (s *Session) Close() {
	if s.released.Swap(true) {
		return
	}
	s.end(errors.New("it was closed"))
	<-s.done
}

// Release is Close for who has made no mistake: where that is sound the handler is kept for the same principal's next session of the same
// handler, arguments and class. The session is not used any more after it.
func (s *Session) Release() {
	if s.released.Load() {
		return
	}
	select {
	case s.turn <- struct{}{}:
		<-s.turn
	default: // a call is under way
		s.Close()
		return
	}
	if s.released.Swap(true) {
		return
	}
	if !s.pool.park(s.running) {
		s.end(errors.New("it was released"))
		<-s.done
	}
}

// Call sends a request and returns the answer, of at most the class's limit. ctx ends the session if it ends before the answer is there: a
// handler that is in the middle of something is of no use to the next call.
func (s *Session) Call(ctx context.Context, request []byte) ([]byte, error) {
	var answer bytes.Buffer
	if err := s.Stream(ctx, bytes.NewReader(request), &answer); err != nil {
		return nil, err
	}
	return answer.Bytes(), nil
}

// Stream is a call whose request comes from in until io.EOF and whose answer goes to out, both as they come. It returns when in does not
// block any more; in is not read further when the answer is whole. Errors: a [HandlerError] leaves the session as it was, all others end
// it and are [ErrEnded].
func (s *Session) Stream(ctx context.Context, in io.Reader, out io.Writer) error {
	if s.released.Load() {
		return fmt.Errorf("%w: it was released", ErrEnded)
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.ending:
		return s.Err()
	}
	if err := s.Err(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { s.end(fmt.Errorf("a call was given up: %w", context.Cause(ctx))) })
	defer stop()
	var answered atomic.Bool
	sent := make(chan error, 1)
	go func() { sent <- s.send(in, &answered) }()
	err := s.receive(out)
	answered.Store(true)
	if bad := (*HandlerError)(nil); err != nil && !errors.As(err, &bad) {
		s.end(s.why(err))
	}
	if sendErr := <-sent; sendErr != nil {
		s.end(sendErr)
	}
	if ended := s.Err(); ended != nil && err != nil {
		return ended
	}
	return err
}

// why waits for a guest that went away to have ended, which says more than that its pipe broke.
func (r *running) why(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, syscall.EPIPE) {
		r.guest.Kill()
		<-r.done
	}
	return err
}

func (r *running) send(in io.Reader, answered *atomic.Bool) error {
	buf := make([]byte, channel.MaxFrame)
	for !answered.Load() {
		n, err := in.Read(buf)
		if n > 0 {
			if err := channel.Write(r.out, channel.Data, buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading the request: %w", err)
		}
	}
	return channel.Write(r.out, channel.End, nil)
}

func (r *running) receive(out io.Writer) error {
	var total int64
	for {
		kind, payload, err := r.frames.Read()
		if err != nil {
			return err
		}
		switch kind {
		case channel.Fail:
			return &HandlerError{string(payload[:min(len(payload), channel.MaxFailText)])}
		case channel.Data, channel.End:
			if total += int64(len(payload)); total > r.limits.Answer {
				return fmt.Errorf("an answer of more than %d bytes", r.limits.Answer)
			}
			if _, err := out.Write(payload); err != nil {
				return fmt.Errorf("writing the answer: %w", err)
			}
			if kind == channel.End {
				return nil
			}
		default:
			return fmt.Errorf("%w: kind %d within an answer", channel.ErrCorrupt, kind)
		}
	}
}

// Ping asks the handler whether it is there.
func (s *Session) Ping(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.ending:
		return s.Err()
	}
	return s.ping(ctx)
}

func (r *running) pingIfIdle(ctx context.Context) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	default:
		return // a call has a deadline of its own
	}
	ctx, cancel := context.WithTimeoutCause(ctx, pingTimeout, fmt.Errorf("the handler did not answer a ping within %v", pingTimeout))
	defer cancel()
	_ = r.ping(ctx) // a session that fails is ended, and says so itself
}

// ping is called with the turn.
func (r *running) ping(ctx context.Context) error {
	if err := r.Err(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { r.end(context.Cause(ctx)) })
	defer stop()
	err := channel.Write(r.out, channel.Ping, []byte("ping"))
	if err == nil {
		var kind channel.Kind
		var payload []byte
		kind, payload, err = r.frames.Read()
		if err == nil && (kind != channel.Ping || string(payload) != "ping") {
			err = fmt.Errorf("%w: a ping came back as kind %d", channel.ErrCorrupt, kind)
		}
	}
	if err != nil {
		r.end(r.why(err))
		return r.Err()
	}
	return nil
}

// throttledReader takes what it has read from the bucket, so a guest that writes without end waits.
type throttledReader struct {
	r io.Reader
	b bucket
}

func (t *throttledReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if n > 0 {
		if taken := t.b.take(n); taken != nil {
			return 0, taken
		}
	}
	return n, err
}

type throttledWriter struct {
	w io.Writer
	b bucket
}

func (t *throttledWriter) Write(p []byte) (int, error) {
	if err := t.b.take(len(p)); err != nil {
		return 0, err
	}
	return t.w.Write(p)
}

// Same says whether two sessions are of one guest, which was kept in between.
func (s *Session) Same(other *Session) bool { return s.running == other.running }
