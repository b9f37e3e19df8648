package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
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
	maxReply      = 64 << 10 // bytes of a reply that are read
)

// sender uploads what is queued, and keeps on disk what cannot be. Its loop is
// one goroutine, started and awaited by [Agent.run].
type sender struct {
	cfg    config
	queue  *queue
	spool  *spool // nil where there is none
	status *status
	sign   func(req *http.Request, body []byte, now time.Time) error // nil signs nothing
	now    chan struct{}                                             // upload without waiting for the next time
	spill  chan struct{}                                             // the queue is filling up: make room
	final  chan struct{}                                             // closed after the last push: flush and return

	endpoint *url.URL // where profiles go
	labels   string   // of all profiles, as a query
}

func newSender(cfg config, q *queue, st *status) *sender {
	s := &sender{
		cfg: cfg, queue: q, status: st,
		now: make(chan struct{}, 1), spill: make(chan struct{}, 1), final: make(chan struct{}),
	}
	if cfg.spoolDir != "" {
		s.spool = newSpool(cfg.spoolDir, cfg.labels.Get(labelService), cfg.spoolBytes)
	}
	return s
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// base is the server that profiles go to, without the path.
func (s *sender) base() *url.URL {
	u := *s.endpoint
	u.Path = strings.TrimSuffix(u.Path, profilesPath[1:]) // JoinPath gives a server without a path none of its slash
	return &u
}

// loop uploads at its times, until final is closed and the queue is flushed
// or given up. The error says how much was lost at the end. ctx aborts it.
func (s *sender) loop(ctx context.Context) error {
	if s.cfg.ownClient {
		defer s.cfg.client.CloseIdleConnections()
	}
	defer s.spool.close()
	s.spool.adopt()
	s.status.spooled(s.spool)
	wait, backoff := jitter(s.cfg.upload, 0.1), firstBackoff
	if len(s.spool.waiting()) > 0 {
		wait = jitter(firstBackoff, 0.5) // what an earlier run left goes first, and soon
	}
	now, next := s.now, time.Now().Add(wait)
	for {
		timer := time.NewTimer(time.Until(next))
		spilled := false
		select {
		case <-timer.C:
		case <-now:
		case <-s.spill:
			spilled = now == nil
		case <-s.final:
		}
		timer.Stop()
		select {
		case <-s.final:
			return s.flush(ctx)
		default:
		}
		if spilled { // the server was away a moment ago: no use to ask it sooner
			s.toDisk()
			continue
		}
		if retry, err := s.drain(ctx); err != nil {
			s.toDisk()
			// Full jitter: after an outage a fleet must not come back all at once.
			wait = max(retry, time.Duration(rand.Float64()*float64(backoff))+backoff/2)
			backoff, now, next = min(2*backoff, maxBackoff), nil, time.Now().Add(wait)
			continue
		}
		backoff, now, next = firstBackoff, s.now, time.Now().Add(jitter(s.cfg.upload, 0.1))
	}
}

// locate finds out the region and with it the server. It comes before loop.
func (s *sender) locate(ctx context.Context) {
	region := s.cfg.region
	source := "options"
	if region == "" {
		region, source = s.cfg.locate(ctx)
	}
	s.endpoint = s.cfg.endpoint
	if e, ok := s.cfg.endpoints[region]; ok {
		s.endpoint = e
	}
	labels := maps.Clone(s.cfg.labels)
	labels.Set(labelRegion, region)
	s.labels = labels.Encode()
	s.status.located(region, source, s.endpoint.Redacted())
}

// toDisk moves what is queued to the spool. Where the disk takes it not, it stays in memory.
func (s *sender) toDisk() {
	if s.spool == nil {
		return
	}
	for {
		i, ok := s.queue.take()
		if !ok {
			break
		}
		i.labels = or(i.labels, func() string { return s.labels })
		if err := s.spool.put(i); err != nil {
			s.queue.putBack(i)
			s.status.spoolFailed(err)
			break
		}
		s.queue.done()
	}
	s.status.spooled(s.spool)
}

// drain uploads until nothing is left, Stop wants the final flush, or an upload
// fails that is worth another try: after retry at the earliest, if the server said so.
// The oldest go first: those on disk.
func (s *sender) drain(ctx context.Context) (retry time.Duration, err error) {
	defer func() { s.status.spooled(s.spool) }()
	for {
		i, ok := s.spool.head()
		if !ok {
			break
		}
		if retry, again, err := s.upload(ctx, i); again {
			return retry, err
		}
		s.spool.drop()
	}
	for {
		i, ok := s.queue.take()
		if !ok {
			return 0, nil
		}
		retry, again, err := s.upload(ctx, i)
		if again {
			s.queue.putBack(i)
			return retry, err
		}
		s.queue.done()
	}
}

// flush uploads what is left, with a few tries, and leaves the rest on disk for the next run.
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
			s.toDisk()
			if n := s.queue.clear(); n > 0 {
				return fmt.Errorf("%d profiles dropped: %w", n, err)
			}
			return nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// upload sends one item. again means that it is to be tried once more, err
// why; an item that the server will never take is counted and to be forgotten.
func (s *sender) upload(ctx context.Context, i item) (retry time.Duration, again bool, err error) {
	again, retry, err = s.post(ctx, i)
	switch {
	case err == nil:
		s.status.uploaded(len(i.body), time.Now())
		return 0, false, nil
	case again:
		s.status.failed(err, false)
		return retry, true, err
	default:
		s.status.failed(err, true)
		return 0, false, nil
	}
}

// post is one request. again says that the same request may work later.
func (s *sender) post(ctx context.Context, i item) (again bool, retry time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.timeout)
	defer cancel()
	u := *s.endpoint
	q := url.Values{
		"name":  {i.name},
		"from":  {strconv.FormatInt(i.from.UnixNano(), 10)},
		"until": {strconv.FormatInt(i.until.UnixNano(), 10)},
	}
	u.RawQuery = q.Encode() + "&" + or(i.labels, func() string { return s.labels })
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(i.body))
	if err != nil {
		return false, 0, fmt.Errorf("%s: %w", i.name, err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("User-Agent", userAgent)
	if s.sign != nil {
		if err := s.sign(req, i.body, time.Now()); err != nil {
			return true, 0, fmt.Errorf("sign: %w", err)
		}
	}
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
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil && resp.StatusCode/100 == 2 {
		return true, 0, fmt.Errorf("%s: the answer was cut short: %w", s.where(), err)
	}
	return s.judge(i, resp, body)
}

// reply is what a server of ours says, of all its answers.
type reply struct {
	Service  string `json:"service"`  // of a profile that was kept
	Error    string `json:"error"`    // of one that was not
	Endpoint string `json:"endpoint"` // of 421: the server that is right
}

// judge is what an answer means. What is wrong with this profile is final. What is
// wrong with the way (a redirect, a missing key, an address that answers
// something else) is for a person to mend, and the profile is kept until then.
func (s *sender) judge(i item, resp *http.Response, body []byte) (again bool, retry time.Duration, err error) {
	var a reply
	ours := json.Unmarshal(body, &a) == nil
	switch code := resp.StatusCode; {
	case code/100 == 2 && ours && a.Service != "":
		return false, 0, nil
	case code/100 == 2:
		// A login page, a proxy, another program: nobody said that the profile is kept.
		return true, 0, fmt.Errorf("%s: %s answered %s, but not as a server of profiles does: %.100q; set Options.Server to the right address", s.where(), i.name, resp.Status, body)
	case code/100 == 3:
		return true, maxBackoff, fmt.Errorf("%s: redirects to %.200q, which is not followed; set Options.Server to the right address", s.where(), resp.Header.Get("Location"))
	case code == http.StatusMisdirectedRequest:
		return s.misdirected(a)
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable:
		return true, retryAfter(resp.Header.Get("Retry-After"), time.Now()), s.refused(i, resp, body)
	case code == http.StatusRequestTimeout || code/100 == 5:
		return true, 0, s.refused(i, resp, body)
	case code == http.StatusBadRequest, code == http.StatusRequestEntityTooLarge, code == http.StatusUnsupportedMediaType, code == http.StatusUnprocessableEntity:
		return false, 0, s.refused(i, resp, body)
	default:
		return true, maxBackoff, s.refused(i, resp, body)
	}
}

// misdirected is a server of another region. The one that it names is asked
// if it is one of our own; a stranger is not.
func (s *sender) misdirected(a reply) (again bool, retry time.Duration, err error) {
	for _, e := range s.cfg.endpoints {
		if base := strings.TrimSuffix(a.Endpoint, "/"); base != "" && e.String() == base+profilesPath && e.String() != s.endpoint.String() {
			err := fmt.Errorf("%s: not the server of this region; from now on %s", s.where(), e.Redacted())
			s.endpoint = e
			return true, 0, err
		}
	}
	return true, maxBackoff, fmt.Errorf("%s: not the server of this region: %.200q (it names %.100q); set QUANTRA_REGION, or Options.Endpoints", s.where(), a.Error, a.Endpoint)
}

func (s *sender) where() string { return s.endpoint.Redacted() }

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
