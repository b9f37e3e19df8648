package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	firstBackoff  = time.Second
	maxBackoff    = time.Minute
	maxRetryAfter = 10 * time.Minute // a server's slip must not silence an agent for a day
	finalTries    = 3                // failures in a row after which Stop gives up
	finalBackoff  = 500 * time.Millisecond
	maxReply      = 4 << 10 // bytes of a reply that are read
)

// sender uploads what is queued. Its loop is one goroutine, started and awaited by [Agent.run].
type sender struct {
	cfg    config
	queue  *queue
	status *status
	now    chan struct{} // upload without waiting for the next time
	final  chan struct{} // closed after the last push: flush and return
}

func newSender(cfg config, q *queue, st *status) *sender {
	return &sender{cfg: cfg, queue: q, status: st, now: make(chan struct{}, 1), final: make(chan struct{})}
}

// hurry asks for an upload before its time. A sender that backs off does not hear it.
func (s *sender) hurry() {
	select {
	case s.now <- struct{}{}:
	default:
	}
}

// loop uploads at its times, until final is closed and the queue is flushed
// or given up. The error says how much was lost at the end. ctx aborts it.
func (s *sender) loop(ctx context.Context) error {
	if s.cfg.ownClient {
		defer s.cfg.client.CloseIdleConnections()
	}
	wait, backoff := jitter(s.cfg.upload, 0.1), firstBackoff
	now := s.now
	for {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-now:
		case <-s.final:
		}
		timer.Stop()
		select {
		case <-s.final:
			return s.flush(ctx)
		default:
		}
		if retry, err := s.drain(ctx); err != nil {
			// Full jitter: after an outage a fleet must not come back all at once.
			wait = max(retry, time.Duration(rand.Float64()*float64(backoff))+backoff/2)
			backoff, now = min(2*backoff, maxBackoff), nil
			continue
		}
		wait, backoff, now = jitter(s.cfg.upload, 0.1), firstBackoff, s.now
	}
}

// drain uploads until the queue is empty, Stop wants the final flush, or an upload
// fails that is worth another try: after retry at the earliest, if the server said so.
func (s *sender) drain(ctx context.Context) (retry time.Duration, err error) {
	for {
		i, ok := s.queue.take()
		if !ok {
			return 0, nil
		}
		retry, err := s.upload(ctx, i)
		if err != nil {
			return retry, err
		}
	}
}

// flush uploads what is left, with a few tries.
func (s *sender) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopGrace)
	defer cancel()
	for try := 1; ; try++ {
		before := s.status.get().Uploaded
		retry, err := s.drain(ctx)
		if err == nil {
			return nil
		}
		if s.status.get().Uploaded > before {
			try = 1
		}
		pause := max(retry, jitter(finalBackoff, 0.5))
		deadline, _ := ctx.Deadline()
		if try >= finalTries || ctx.Err() != nil || time.Now().Add(pause).After(deadline) {
			return fmt.Errorf("%d profiles dropped: %w", s.queue.clear(), err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// upload sends one item that was taken from the queue. An error means that it is
// in the queue again; an item that the server will never take is forgotten.
func (s *sender) upload(ctx context.Context, i item) (retry time.Duration, err error) {
	again, retry, err := s.post(ctx, i)
	switch {
	case err == nil:
		s.queue.done()
		s.status.uploaded(len(i.body), time.Now())
		return 0, nil
	case again:
		s.queue.putBack(i)
		s.status.failed(err, false)
		return retry, err
	default:
		s.queue.done()
		s.status.failed(err, true)
		return 0, nil
	}
}

// post is one request. again says that the same request may work later.
func (s *sender) post(ctx context.Context, i item) (again bool, retry time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.timeout)
	defer cancel()
	u := *s.cfg.endpoint
	q := url.Values{
		"name":  {i.name},
		"from":  {strconv.FormatInt(i.from.UnixNano(), 10)},
		"until": {strconv.FormatInt(i.until.UnixNano(), 10)},
	}
	u.RawQuery = q.Encode() + "&" + s.cfg.labels.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(i.body))
	if err != nil {
		return false, 0, fmt.Errorf("%s: %w", i.name, err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("User-Agent", "quantra-agent")
	resp, err := s.cfg.client.Do(req)
	if err != nil {
		// Without url.Error, which would repeat the whole query.
		if ue := (*url.Error)(nil); errors.As(err, &ue) {
			err = ue.Err
		}
		return true, 0, fmt.Errorf("%s: %w", s.where(), err)
	}
	defer resp.Body.Close()
	// A reply that trickles in ends with ctx; one that never ends is cut.
	reply, _ := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	switch code := resp.StatusCode; {
	case code/100 == 2:
		return false, 0, nil
	case code/100 == 3:
		return false, 0, fmt.Errorf("%s: redirects to %.200q, which is not followed; set Options.Server to the right address", s.where(), resp.Header.Get("Location"))
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable:
		return true, retryAfter(resp.Header.Get("Retry-After"), time.Now()), s.refused(i, resp, reply)
	case code == http.StatusRequestTimeout || code/100 == 5:
		return true, 0, s.refused(i, resp, reply)
	default:
		return false, 0, s.refused(i, resp, reply)
	}
}

func (s *sender) where() string { return s.cfg.endpoint.Redacted() }

func (s *sender) refused(i item, resp *http.Response, reply []byte) error {
	text := strings.TrimSpace(string(reply[:min(len(reply), 300)]))
	return fmt.Errorf("%s: %s refused with %s: %q", s.where(), i.name, resp.Status, text)
}

// retryAfter reads the header: seconds or a date (RFC 9110, 10.2.3). 0 where there is none or it makes no sense.
func retryAfter(h string, now time.Time) time.Duration {
	var d time.Duration
	if n, err := strconv.ParseInt(h, 10, 32); err == nil {
		d = time.Duration(n) * time.Second
	} else if t, err := http.ParseTime(h); err == nil {
		d = t.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}
