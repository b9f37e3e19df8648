package fleet

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"time"
)

const (
	maxResult     = 64 << 20
	maxAgentTasks = 8
	maxSeconds    = 30 // of a trace: a busy program writes megabytes a second
	maxWhy        = 1024
)

// The kinds of tasks.
const (
	kindGoroutines = "goroutines"
	kindTrace      = "trace"
)

// task is work that an agent is asked for. Someone waits for it, or it is not in Fleet.tasks.
type task struct {
	id, kind  string
	full      bool
	seconds   int
	agent     *agent
	signedBy  string // the key of who took it: only that may answer. Valid once it was handed
	isHanded  bool
	receiving bool // its result is being read
	done      chan result
}

// result is a task's outcome. held is what it takes of Options.ResultBytes.
type result struct {
	body []byte
	held int64
	err  error
}

// taskReply is a task as an agent is told of it.
type taskReply struct {
	ID      string `json:"id"`
	Kind    string `json:"kind"`
	Full    *bool  `json:"full,omitempty"`
	Seconds int    `json:"seconds,omitempty"`
}

// hand takes the tasks that wait for a, each once. Under Fleet.mu.
func (a *agent) hand() []taskReply {
	var out []taskReply
	for _, t := range a.queue {
		r := taskReply{ID: t.id, Kind: t.kind, Seconds: t.seconds}
		if t.kind == kindGoroutines {
			r.Full = &t.full
		}
		out = append(out, r)
		t.isHanded, t.signedBy = true, a.signedBy
		a.handed[t.id] = t
	}
	a.queue = nil
	return out
}

// Goroutines is a snapshot of an agent's goroutines, taken now: JSON as docs/format/agents.md draws it. full asks for all of
// them, however many there are.
func (f *Fleet) Goroutines(ctx context.Context, t Target, full bool) (json.RawMessage, error) {
	return f.run(ctx, t, task{kind: kindGoroutines, full: full})
}

// Trace is an execution trace of an agent's program, as runtime/trace writes it, over so many seconds (1 to 30) from now on.
func (f *Fleet) Trace(ctx context.Context, t Target, seconds int) ([]byte, error) {
	if seconds < 1 || seconds > maxSeconds {
		return nil, errorf(ErrInvalid, "a trace of %d seconds: it must be 1 to %d", seconds, maxSeconds)
	}
	return f.run(ctx, t, task{kind: kindTrace, seconds: seconds})
}

// run has an agent do work, and waits for what comes of it.
func (f *Fleet) run(ctx context.Context, target Target, work task) ([]byte, error) {
	t := &work
	t.id, t.done = rand.Text(), make(chan result, 1)
	if err := f.look(target, func(a *agent, now time.Time) error {
		target.Instance = a.instance // from here on it is that one
		return f.mayQueue(t, a, now)
	}); err != nil {
		return nil, err
	}
	if err := f.record(ctx, Event{Kind: t.kind, ID: t.id, Tenant: target.Tenant, Service: target.Service, Instance: target.Instance, Seconds: t.seconds}); err != nil {
		return nil, err
	}
	if err := f.look(target, func(a *agent, now time.Time) error {
		if err := f.mayQueue(t, a, now); err != nil {
			return err
		}
		t.agent = a
		a.queue = append(a.queue, t)
		f.tasks[t.id] = t
		if t.kind == kindTrace {
			f.traces++
		}
		a.wake()
		return nil
	}); err != nil {
		return nil, err
	}
	timeout := f.opt.TaskTimeout + time.Duration(t.seconds)*time.Second
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	var res result
	select {
	case res = <-t.done:
	case <-timer.C:
		res.err = errorf(ErrTimeout, "the agent of service %.200q with instance %.200q did not answer within %v", target.Service, target.Instance, timeout)
	case <-ctx.Done():
		res.err = ctx.Err()
	case <-f.closed:
		res.err = errClosed
	}
	f.leave(t)
	f.giveBack(res.held) // from here on it is the caller's
	f.metrics.tasks.WithLabelValues(t.kind, outcome(res.err)).Inc()
	return res.body, res.err
}

func outcome(err error) string {
	for _, w := range words {
		if errors.Is(err, w.err) {
			return w.code
		}
	}
	if err != nil {
		return "canceled"
	}
	return "ok"
}

// mayQueue says why t may not be asked of a now.
func (f *Fleet) mayQueue(t *task, a *agent, now time.Time) error {
	switch {
	case !f.online(a, now):
		return a.gone(now)
	case len(a.queue)+len(a.handed) >= maxAgentTasks:
		return errorf(ErrOverloaded, "the agent has %d tasks already", maxAgentTasks)
	case len(f.tasks) >= f.opt.MaxTasks:
		return errorf(ErrOverloaded, "%d tasks are waited for already", f.opt.MaxTasks)
	case t.kind == kindTrace && f.traces >= f.opt.MaxTraces:
		return errorf(ErrOverloaded, "%d traces are being taken already", f.opt.MaxTraces)
	}
	return nil
}

// leave takes t out of everything: nobody waits for it any more.
func (f *Fleet) leave(t *task) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remove(t)
}

func (f *Fleet) remove(t *task) {
	if f.tasks[t.id] != t {
		return
	}
	delete(f.tasks, t.id)
	if t.kind == kindTrace {
		f.traces--
	}
	delete(t.agent.handed, t.id)
	t.agent.queue = slices.DeleteFunc(t.agent.queue, func(q *task) bool { return q == t })
	// A result that came just when its waiter gave up is nobody's.
	select {
	case res := <-t.done:
		f.resultBytes -= res.held
	default:
	}
}

// finish hands t's waiter its result. Under Fleet.mu; a task has one result at most.
func (f *Fleet) finish(t *task, res result) bool {
	if f.tasks[t.id] != t {
		return false
	}
	select {
	case t.done <- res:
		return true
	default:
		return false
	}
}

func (f *Fleet) dropTasks(a *agent, err error) {
	for _, t := range a.queue {
		f.finish(t, result{err: err})
	}
	for _, t := range a.handed {
		f.finish(t, result{err: err})
	}
}

func (f *Fleet) giveBack(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resultBytes -= n
}

// holder counts what a result that is being read takes of Options.ResultBytes.
func (f *Fleet) holder(held *int64) func(n int64) error {
	return func(n int64) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.resultBytes+n > f.opt.ResultBytes {
			return errorf(ErrOverloaded, "results hold %d bytes already, and may hold %d", f.resultBytes, f.opt.ResultBytes)
		}
		f.resultBytes += n
		*held += n
		return nil
	}
}

// noWaiter is the answer to a result that came too late, twice, or from nowhere.
var noWaiter = refusal(http.StatusNotFound, "not_found", "nobody waits for this task any more")

func (f *Fleet) receiveResult(w http.ResponseWriter, r *http.Request, tenant string) (_ any, err error) {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return nil, refusal(http.StatusUnsupportedMediaType, "content_type", "Content-Type %.40q cannot be read: %v", r.Header.Get("Content-Type"), err)
	}
	// Before the body: who does not know a task's id cannot make the server hold anything.
	t, err := f.claim(r.URL.Query().Get("task"), tenant)
	if err != nil {
		return nil, err
	}
	held, kept := int64(0), false
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if t.receiving = false; !kept {
			f.resultBytes -= held
		}
	}()
	body, keyID, err := f.read(w, r, maxResult, f.holder(&held))
	if err != nil {
		return nil, err
	}
	res, err := t.judge(kind, body)
	res.held = held
	f.mu.Lock()
	defer f.mu.Unlock()
	if keyID != t.signedBy {
		return nil, refusal(http.StatusForbidden, "denied", "the task was given to the agent with key %q, and this answer is signed by %q", t.signedBy, keyID)
	}
	if kept = f.finish(t, res); !kept {
		return nil, noWaiter
	}
	if err != nil {
		return nil, err
	}
	return struct{}{}, nil
}

// claim finds the task that a result is of, for one request at a time.
func (f *Fleet) claim(id, tenant string) (*task, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.tasks[id]
	if t == nil || !t.isHanded || t.receiving || t.agent.tenant != tenant || len(t.done) > 0 {
		return nil, noWaiter
	}
	t.receiving = true
	return t, nil
}

// traceMagic begins every execution trace of Go 1.11 and later (internal/trace: "go 1.N trace").
var traceMagic = []byte("go 1.")

// judge looks at a result. What is wrong with it is told to both sides.
func (t *task) judge(kind string, body []byte) (result, error) {
	why := ""
	switch {
	case kind == "text/plain":
		text := body[:min(len(body), maxWhy)]
		return result{err: errorf(ErrFailed, "the agent could not do it: %q", bytes.ToValidUTF8(text, []byte("?")))}, nil
	case kind == "application/json" && t.kind == kindGoroutines:
		if json.Valid(body) && bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) {
			return result{body: body}, nil
		}
		why = "it is not a JSON object"
	case kind == "application/octet-stream" && t.kind == kindTrace:
		if bytes.HasPrefix(body, traceMagic) {
			return result{body: body}, nil
		}
		why = "it does not begin as an execution trace does"
	default:
		why = fmt.Sprintf("it is %.40q, which is no answer to this task", kind)
	}
	ref := refusal(http.StatusUnprocessableEntity, "result", "the result of a task %s was not understood: %s", t.kind, why)
	return result{err: errorf(ErrFailed, "the agent's answer was not understood: %s", why)}, ref
}
