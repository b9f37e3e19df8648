package fleet

import (
	"errors"
	"io"
	"net/http"
	"time"

	"golang.org/x/time/rate"
)

// The polls of one agent are held to this: one a second over time. An agent asks about once in half a minute, at once only
// when something has changed. Two processes under one name end each other's polls, and would do so without a pause.
const (
	pollRate  = 1
	pollBurst = 20
)

// maxWait is the longest that a poll may wait.
const maxWait = time.Minute

// Register puts the agents' routes on mux. They are registered for every method, so that a wrong one gets an answer in JSON.
func (f *Fleet) Register(mux *http.ServeMux) {
	mux.Handle("/api/v1/agents/poll", f.route("poll", f.receivePoll))
	mux.Handle("/api/v1/agents/results", f.route("results", f.receiveResult))
}

// route is what the agents' routes have in common: who may come in, and what they are told.
func (f *Fleet) route(name string, receive func(w http.ResponseWriter, r *http.Request, tenant string) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, err := f.admit(w, r, receive)
		if err != nil {
			ref := f.refusalOf(r, err, "overloaded")
			f.metrics.requests.WithLabelValues(name, ref.Code).Inc()
			ref.reply(w)
			return
		}
		f.metrics.requests.WithLabelValues(name, "ok").Inc()
		replyJSON(w, http.StatusOK, answer)
	})
}

func (f *Fleet) admit(w http.ResponseWriter, r *http.Request, receive func(http.ResponseWriter, *http.Request, string) (any, error)) (any, error) {
	f.deadline(w)
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return nil, refusal(http.StatusMethodNotAllowed, "method", "%s is not understood here: agents POST", r.Method)
	}
	if err := f.origins.Check(r); err != nil {
		return nil, refusal(http.StatusForbidden, "cross_origin", "a web page of another origin may not speak as an agent: %v", err)
	}
	if f.opt.Authorize != nil {
		if err := f.opt.Authorize(r); err != nil {
			return nil, asRefusal(err, http.StatusForbidden, "denied")
		}
	}
	tenant, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	if enc := r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return nil, refusal(http.StatusUnsupportedMediaType, "content_encoding", "Content-Encoding %.40q is not understood here: send the body as it is", enc)
	}
	if f.isClosed() {
		return nil, errClosed
	}
	return receive(w, r, tenant)
}

func asRefusal(err error, status int, code string) *Refusal {
	var ref *Refusal
	if errors.As(err, &ref) {
		return ref
	}
	return refusal(status, code, "%v", err)
}

// read reads a body of at most limit bytes and checks its signature. take is asked for room before the bytes that it is told of are held.
func (f *Fleet) read(w http.ResponseWriter, r *http.Request, limit int64, take func(n int64) error) (body []byte, keyID string, err error) {
	select {
	case f.reading <- struct{}{}:
		defer func() { <-f.reading }()
	default:
		return nil, "", errorf(ErrOverloaded, "%d requests are being read already", cap(f.reading))
	}
	if r.ContentLength > limit {
		return nil, "", &http.MaxBytesError{Limit: limit}
	}
	if body, err = f.readWithin(w, r, limit, take); err != nil {
		return nil, "", err
	}
	if f.opt.Verify == nil {
		return body, "", nil
	}
	if keyID, err = f.opt.Verify(r, body); err != nil {
		return nil, "", asRefusal(err, http.StatusUnauthorized, "signature")
	}
	return body, keyID, nil
}

// readWithin reads a body within its time. The deadline is lifted when it is there: what follows is no fault of the sender's, and the
// server goes on reading to see whether it is still there. Else it stays, and bounds how long the server reads what is left.
func (f *Fleet) readWithin(w http.ResponseWriter, r *http.Request, limit int64, take func(n int64) error) ([]byte, error) {
	rc := f.deadline(w)
	body, err := readAll(r.Body, limit, take)
	if err == nil {
		_ = rc.SetReadDeadline(time.Time{}) // not every ResponseWriter has deadlines; the servers of cmd and of the tests do
	}
	return body, err
}

// deadline bounds the reading of the body from now on, also where nobody reads it but the server, to get past it.
func (f *Fleet) deadline(w http.ResponseWriter) *http.ResponseController {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(f.opt.ReadTimeout))
	return rc
}

// readAll reads r to its end. A buffer grows as bytes come, so that a Content-Length alone costs nothing.
func readAll(r io.Reader, limit int64, take func(n int64) error) ([]byte, error) {
	const first = 4 << 10
	var buf []byte
	for {
		if len(buf) == cap(buf) {
			want := int(min(max(first, 2*int64(cap(buf))), limit+1)) // one more, so that what is too long is seen
			if err := take(int64(want - cap(buf))); err != nil {
				return nil, err
			}
			next := make([]byte, len(buf), want)
			copy(next, buf)
			buf = next
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case int64(len(buf)) > limit:
			return nil, &http.MaxBytesError{Limit: limit}
		case err == io.EOF:
			return buf, nil
		case err != nil:
			return nil, err
		}
	}
}

// pollReply is the answer to a poll.
type pollReply struct {
	Lease *leaseReply `json:"lease,omitempty"`
	Tasks []taskReply `json:"tasks,omitempty"`
}

func (f *Fleet) receivePoll(w http.ResponseWriter, r *http.Request, tenant string) (any, error) {
	wait, err := waitOf(r)
	if err != nil {
		return nil, err
	}
	// The bodies at work are bounded by their number.
	body, keyID, err := f.read(w, r, maxPoll, func(int64) error { return nil })
	if err != nil {
		return nil, err
	}
	report, err := decodeReport(body)
	if err != nil {
		return nil, err
	}
	a, p, err := f.begin(tenant, report, keyID)
	if err != nil {
		return nil, err
	}
	defer f.end(a, p)
	return f.await(r, a, p, wait)
}

// waitOf is how long a poll may wait.
func waitOf(r *http.Request) (time.Duration, error) {
	s := r.URL.Query().Get("wait")
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > maxWait {
		return 0, refusal(http.StatusBadRequest, "wait", "wait=%.40q: it must be 0s to %v, as 30s", s, maxWait)
	}
	return d, nil
}

// begin notes what a poll says, and makes it the agent's one poll.
func (f *Fleet) begin(tenant string, r Report, keyID string) (*agent, *poll, error) {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.isClosed() {
		return nil, nil, errClosed
	}
	f.sweep(now)
	k := key{tenant, r.Service, r.Instance}
	a := f.agents[k]
	if a != nil && !a.limit.AllowN(now, 1) {
		return nil, nil, errorf(ErrOverloaded, "this agent asks more than %d times and once a second; perhaps two processes have the service %.100q and the instance %.100q",
			pollBurst, r.Service, r.Instance)
	}
	held := int64(0)
	if a != nil {
		held = a.size
	}
	size := r.size()
	if f.bytes-held+size > f.opt.MaxBytes {
		r.Status = nil
		if size = r.size(); f.bytes-held+size > f.opt.MaxBytes {
			return nil, nil, errorf(ErrOverloaded, "agents have told of themselves as much as may be kept, %d bytes", f.opt.MaxBytes)
		}
		f.metrics.unkept.Inc()
	}
	if a == nil {
		if err := f.room(now); err != nil {
			return nil, nil, err
		}
		a = &agent{key: k, limit: rate.NewLimiter(pollRate, pollBurst), handed: map[string]*task{}}
		a.limit.AllowN(now, 1)
		f.agents[k] = a
	} else if a.report.process() != r.process() {
		f.restarted(a)
	}
	if a.poll != nil {
		close(a.poll.replaced)
	}
	f.bytes += size - a.size
	a.report, a.size, a.signedBy, a.seen = r, size, keyID, now
	a.poll = &poll{wake: make(chan struct{}, 1), replaced: make(chan struct{})}
	f.heard(a, now)
	return a, a.poll, nil
}

// restarted is what changes when another process has an agent's name: it knows nothing of what the one before was told.
func (f *Fleet) restarted(a *agent) {
	a.sent = sent{}
	for _, t := range a.handed {
		f.finish(t, result{err: errorf(ErrUnavailable, "the agent was started anew")})
	}
}

// end says that p waits no more.
func (f *Fleet) end(a *agent, p *poll) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a.poll == p {
		a.poll, a.seen = nil, time.Now()
	}
}

// wake tells the poll that there may be something. Under Fleet.mu.
func (a *agent) wake() {
	if a.poll == nil {
		return
	}
	select {
	case a.poll.wake <- struct{}{}:
	default:
	}
}

// gone is the error of an agent that is not there.
func (a *agent) gone(now time.Time) error {
	return errorf(ErrUnavailable, "the agent of service %.200q with instance %.200q was heard of last %v ago",
		a.service, a.instance, now.Sub(a.seen).Round(time.Second))
}

// await waits until there is something to say, or wait is over.
func (f *Fleet) await(r *http.Request, a *agent, p *poll, wait time.Duration) (any, error) {
	over := time.Now().Add(wait)
	for {
		now := time.Now()
		reply, next := f.answer(a, p, now, !now.Before(over))
		if reply != nil {
			return reply, nil
		}
		if next.IsZero() || over.Before(next) {
			next = over
		}
		timer := time.NewTimer(next.Sub(now))
		select {
		case <-timer.C:
		case <-p.wake:
		case <-p.replaced:
		case <-r.Context().Done():
			timer.Stop()
			return nil, r.Context().Err()
		case <-f.closed:
			timer.Stop()
			return nil, errClosed
		}
		timer.Stop()
	}
}

// answer is what p is told now, nil if it is to wait, at the longest until next where that is not zero.
func (f *Fleet) answer(a *agent, p *poll, now time.Time, over bool) (_ *pollReply, next time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a.poll != p { // replaced: as if its time were over, but what it is told may not arrive, so it counts for nothing
		return &pollReply{Lease: f.tell(a, now, false)}, time.Time{}
	}
	next, due := f.due(a, now)
	if !due && !over && len(a.queue) == 0 {
		return nil, next
	}
	return &pollReply{Lease: f.tell(a, now, true), Tasks: a.hand()}, time.Time{}
}
