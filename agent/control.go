package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	pollPath    = "/api/v1/agents/poll"
	resultsPath = "/api/v1/agents/results"

	// pollWait is how long the server may hold a poll that it has nothing to say to; each asks
	// for a little more or less, so that a fleet spreads.
	pollWait = 30 * time.Second
	// pollGrace is how much later its answer may come. A server that hangs is noticed then.
	pollGrace = 15 * time.Second
	// pollGap is the least time between the starts of two polls, whatever happens.
	pollGap = time.Second
	// pollPause follows an answer that came at once and said nothing: that server does not wait.
	pollPause = 5 * time.Second

	// After failures the time to the next poll doubles up to these: a server that is
	// away comes back, one that does not know the route will after its next release at best.
	maxPollBackoff   = time.Minute
	maxAbsentBackoff = 10 * time.Minute

	maxPollReply = 256 << 10
	maxStatus    = 64 << 10 // the server keeps no more (docs/format/agents.md)
	maxLease     = 24 * time.Hour
	maxID        = 128 // bytes of a lease's or a task's id or kind
	maxTasks     = 16  // that wait; the server has long given up on what is behind them

	taskTimeout   = 5 * time.Minute // a task that does not end must not be the last one
	resultTimeout = time.Minute     // for one try to send its result
	resultTries   = 3
	maxResult     = 64 << 20
)

// pollRequest is what the agent says of itself (docs/format/agents.md).
type pollRequest struct {
	Service   string            `json:"service"`
	Version   string            `json:"version,omitempty"`
	Instance  string            `json:"instance"`
	Region    string            `json:"region,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Agent     string            `json:"agent"`
	Go        string            `json:"go"`
	OS        string            `json:"os"`
	PID       int               `json:"pid"`
	Started   time.Time         `json:"started"`
	Optimizer bool              `json:"optimizer"`
	PGO       *bool             `json:"pgo,omitempty"` // built with a profile for the compiler; nil is not known

	// The controller fills these.
	Settings   settings        `json:"settings"`
	Lease      string          `json:"lease,omitempty"`
	LeaseError string          `json:"lease_error,omitempty"`
	Status     json.RawMessage `json:"status,omitempty"`
}

// task is something the server wants to know once.
type task struct {
	ID      string  `json:"id"`
	Kind    string  `json:"kind"`
	Full    bool    `json:"full"`
	Seconds float64 `json:"seconds"`
}

// pollReply is what the server wants.
type pollReply struct {
	lease *lease // nil is none
	tasks []task
}

// decodeReply reads the answer to a poll. An error means that nothing of it counts: a lease
// that is misread is worse than none.
func decodeReply(body []byte) (pollReply, error) {
	if t := bytes.TrimLeft(body, " \t\r\n"); len(t) == 0 || t[0] != '{' {
		return pollReply{}, errors.New("not a JSON object") // null would pass for "no lease"
	}
	var wire struct {
		Lease *struct {
			ID    string `json:"id"`
			TTL   int64  `json:"ttl_ms"`
			GOGC  *int   `json:"gogc"`
			Limit *int64 `json:"gomemlimit"`
			Procs *int   `json:"gomaxprocs"`
			Rate  *int   `json:"cpu_rate"`
		} `json:"lease"`
		Tasks []task `json:"tasks"`
	}
	if err := json.Unmarshal(body, &wire); err != nil {
		return pollReply{}, err
	}
	r := pollReply{tasks: wire.Tasks}
	if w := wire.Lease; w != nil {
		if w.ID == "" || len(w.ID) > maxID {
			return pollReply{}, fmt.Errorf("the lease's id has %d bytes, not 1 to %d", len(w.ID), maxID)
		}
		if w.TTL < 1 || w.TTL > maxLease.Milliseconds() {
			return pollReply{}, fmt.Errorf("the lease's ttl_ms is %d, not within 1 and %d", w.TTL, maxLease.Milliseconds())
		}
		r.lease = &lease{ID: w.ID, TTL: time.Duration(w.TTL) * time.Millisecond, GOGC: w.GOGC, Limit: w.Limit, Procs: w.Procs, Rate: w.Rate}
	}
	for _, t := range r.tasks {
		if t.ID == "" || len(t.ID) > maxID || len(t.Kind) > maxID {
			return pollReply{}, fmt.Errorf("a task's id has %d bytes and its kind %d, not 1 to %d", len(t.ID), len(t.Kind), maxID)
		}
	}
	return r, nil
}

// controller asks the server what it wants, follows its leases and does its tasks. Its
// loop is one goroutine that owns all below it: one for the poll under way, one
// for tasks. Make it with [newController].
type controller struct {
	base   *url.URL     // of the server
	client *http.Client // a poll occupies a connection for half a minute, and results go beside it
	// ownClient: its connections are ours to close.
	ownClient bool
	id        *identity // nil: requests are not signed
	report    func() pollRequest
	status    func() any // nil: none
	leases    *leaser
	// tasks does one task, within ctx. contentType "" says that it knows no such kind.
	tasks func(ctx context.Context, t task) (contentType string, body []byte)
	log   *slog.Logger

	wake chan struct{} // poll now
}

func newController(c controller) *controller {
	// No redirects: what the agent says, and what it obeys, is its server's alone.
	client := *c.client
	client.Timeout = 0 // each request has its own bound, and a poll's is long
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.client = &client
	c.wake = make(chan struct{}, 1)
	return &c
}

// nudge makes the loop poll now, as something that the server should know has
// changed. While the server is failing its back-off stands.
func (c *controller) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// pollState is the loop's own.
type pollState struct {
	abort   context.CancelFunc // ends the poll under way; nil where there is none
	nudged  bool               // it was ended to ask again
	began   time.Time          // when the last poll did
	wait    time.Duration      // what it asked for
	backoff time.Duration      // 0 where the last poll was answered
	said    bool               // that it fails is in the log
}

// pollAnswer is the outcome of a poll.
type pollAnswer struct {
	reply  pollReply
	err    error
	retry  time.Duration // not before
	absent bool          // the server has no such route
}

// run is loop with the server that was found.
func (c *controller) run(ctx context.Context, base *url.URL) {
	c.base = base
	if c.ownClient {
		defer c.client.CloseIdleConnections()
	}
	c.loop(ctx)
}

// loop polls until ctx ends. Then it restores the settings and waits for its goroutines.
func (c *controller) loop(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var working sync.WaitGroup
	// In reverse: no more requests, no more leases, no more goroutines.
	defer working.Wait()
	defer c.leases.restore()
	defer cancel()
	todo := make(chan task, maxTasks)
	working.Go(func() { c.work(ctx, todo) })

	var s pollState
	answers := make(chan pollAnswer, 1)
	_, _, since := c.leases.state()
	poll := time.NewTimer(rand.N(pollGap))
	defer poll.Stop()
	tick := time.NewTimer(c.leases.next())
	defer tick.Stop()
	for {
		asap := false
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.leases.tick()
		case <-c.wake:
			asap = true
		case <-poll.C:
			s.began, s.nudged = time.Now(), false
			s.wait = jitter(pollWait, 0.1).Truncate(time.Second)
			var pctx context.Context
			pctx, s.abort = context.WithTimeout(ctx, s.wait+pollGrace)
			body, wait := c.request(), s.wait
			working.Go(func() { answers <- c.poll(pctx, body, wait) })
		case a := <-answers:
			s.abort()
			s.abort = nil
			poll.Reset(c.heed(ctx, &s, a, todo))
		}
		// The server hears at once of a lease that is taken, refused or ended.
		if _, _, t := c.leases.state(); !t.Equal(since) {
			since, asap = t, true
		}
		switch {
		case !asap:
		case s.abort != nil:
			s.nudged = true
			s.abort()
		case s.backoff == 0:
			poll.Reset(time.Until(s.began.Add(pollGap)))
		}
		tick.Reset(c.leases.next())
	}
}

// heed does what an answer says, and is the time until the next poll.
func (c *controller) heed(ctx context.Context, s *pollState, a pollAnswer, todo chan<- task) time.Duration {
	if a.err != nil {
		if s.nudged && errors.Is(a.err, context.Canceled) {
			return time.Until(s.began.Add(pollGap))
		}
		if ctx.Err() == nil && !s.said {
			s.said = true
			c.log.Warn("the server takes no polls: no settings or tasks from it until it does", "err", a.err)
		}
		bound := maxPollBackoff
		if a.absent {
			bound = maxAbsentBackoff
		}
		s.backoff = min(bound, max(2*pollGap, 2*s.backoff))
		// Full jitter: after an outage a fleet must not come back all at once.
		wait := pollGap + rand.N(s.backoff)
		if a.retry > wait {
			wait = a.retry + rand.N(a.retry/10+1)
		}
		return wait
	}
	if s.said {
		c.log.Info("the server takes polls again")
	}
	s.backoff, s.said = 0, false
	c.leases.follow(a.reply.lease)
	for _, t := range a.reply.tasks {
		select {
		case todo <- t:
		default:
			c.log.Warn("task not done: too many wait", "task", t.ID, "kind", t.Kind)
		}
	}
	switch took := time.Since(s.began); {
	case s.nudged || len(a.reply.tasks) > 0:
		return pollGap - took
	case took < s.wait/2:
		return jitter(pollPause, 0.5)
	default:
		return rand.N(pollGap)
	}
}

// request is the body of a poll.
func (c *controller) request() []byte {
	r := c.report()
	r.Settings = c.leases.settings()
	r.Lease, r.LeaseError, _ = c.leases.state()
	if c.status != nil {
		if s, err := json.Marshal(c.status()); err == nil && len(s) <= maxStatus {
			r.Status = s
		}
	}
	body, err := json.Marshal(r)
	if err != nil {
		// A year beyond 9999 in Started is all that JSON does not take here.
		r.Started = time.Time{}
		body, _ = json.Marshal(r)
	}
	return body
}

// poll asks once.
func (c *controller) poll(ctx context.Context, body []byte, wait time.Duration) pollAnswer {
	resp, err := c.post(ctx, pollPath, url.Values{"wait": {strconv.Itoa(int(wait/time.Second)) + "s"}}, "application/json", body)
	if err != nil {
		return pollAnswer{err: err}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxPollReply+1))
	code := resp.StatusCode
	switch {
	case code == http.StatusNotFound || code == http.StatusMethodNotAllowed || code == http.StatusNotImplemented:
		return pollAnswer{err: c.refused(resp, text), absent: true}
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable:
		return pollAnswer{err: c.refused(resp, text), retry: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	case code != http.StatusOK:
		return pollAnswer{err: c.refused(resp, text)}
	case err != nil:
		return pollAnswer{err: fmt.Errorf("%s: %w", c.where(), err)}
	case len(text) > maxPollReply:
		return pollAnswer{err: fmt.Errorf("%s: the answer to a poll has more than %d bytes", c.where(), maxPollReply)}
	}
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return pollAnswer{err: fmt.Errorf("%s: the answer to a poll is %.60q, not application/json; is this a Quantra-L server?", c.where(), resp.Header.Get("Content-Type"))}
	}
	reply, err := decodeReply(text)
	if err != nil {
		return pollAnswer{err: fmt.Errorf("%s: the answer to a poll is malformed: %w", c.where(), err)}
	}
	return pollAnswer{reply: reply}
}

// post sends one request, signed where there is an identity.
func (c *controller) post(ctx context.Context, path string, query url.Values, contentType string, body []byte) (*http.Response, error) {
	u := c.base.JoinPath(path)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.where(), err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", userAgent)
	if c.id != nil {
		if err := c.id.sign(req, body, time.Now()); err != nil {
			return nil, err
		}
	}
	resp, err := c.client.Do(req)
	if err != nil {
		// Without url.Error, which would repeat the query.
		if ue := (*url.Error)(nil); errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, fmt.Errorf("%s: %w", c.where(), err)
	}
	return resp, nil
}

func (c *controller) where() string { return c.base.Redacted() }

func (c *controller) refused(resp *http.Response, text []byte) error {
	if to := resp.Header.Get("Location"); resp.StatusCode/100 == 3 {
		return fmt.Errorf("%s: redirects to %.200q, which is not followed", c.where(), to)
	}
	return fmt.Errorf("%s: refused with %s: %q", c.where(), resp.Status, strings.TrimSpace(string(text[:min(len(text), 300)])))
}

// work does tasks one at a time, as they cost the program time.
func (c *controller) work(ctx context.Context, todo <-chan task) {
	for {
		select {
		case <-ctx.Done():
			return
		case t := <-todo:
			contentType, body := c.do(ctx, t)
			if err := c.deliver(ctx, t, contentType, body); err != nil && ctx.Err() == nil {
				c.log.Warn("the result of a task is lost", "task", t.ID, "kind", t.Kind, "err", err)
			}
		}
	}
}

// do is a task's result, or why there is none.
func (c *controller) do(ctx context.Context, t task) (contentType string, body []byte) {
	ctx, cancel := context.WithTimeout(ctx, taskTimeout)
	defer cancel()
	if c.tasks != nil {
		contentType, body = c.tasks(ctx, t)
	}
	switch {
	case contentType == "":
		return "text/plain", fmt.Appendf(nil, "this agent knows no task %q", t.Kind)
	case len(body) > maxResult:
		return "text/plain", fmt.Appendf(nil, "the result has %d bytes, the limit is %d", len(body), maxResult)
	}
	return contentType, body
}

// deliver sends a result, with a few tries: the task is not handed out again.
func (c *controller) deliver(ctx context.Context, t task, contentType string, body []byte) error {
	for try := 1; ; try++ {
		again, err := c.result(ctx, t, contentType, body)
		if err == nil || !again || try == resultTries {
			return err
		}
		pause := time.NewTimer(jitter(time.Duration(try)*time.Second, 0.5))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return err
		}
	}
}

// result is one try. again says that another may work.
func (c *controller) result(ctx context.Context, t task, contentType string, body []byte) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, resultTimeout)
	defer cancel()
	resp, err := c.post(ctx, resultsPath, url.Values{"task": {t.ID}}, contentType, body)
	if err != nil {
		return true, err
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	switch code := resp.StatusCode; {
	case code/100 == 2:
		return false, nil
	case code == http.StatusNotFound:
		return false, nil // nobody waits for it any more
	default:
		return code == http.StatusTooManyRequests || code/100 == 5, c.refused(resp, text)
	}
}

// builtWithProfile says whether the program was built with a profile for the compiler, as the go command notes it (-pgo in its settings); nil is
// not known: other build systems note nothing.
func builtWithProfile(b *debug.BuildInfo, ok bool) *bool {
	if !ok {
		return nil
	}
	known, with := false, false
	for _, s := range b.Settings {
		known = known || s.Key == "-compiler" // the go command's note
		with = with || s.Key == "-pgo"
	}
	if !known {
		return nil
	}
	return &with
}
