package sandbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/quantra-l/quantra/sandbox/channel"
)

// Options are a pool's.
type Options struct {
	Isolations   map[Kind]Isolation // what there is; the pool closes them
	Missing      map[Kind]error     // why others are not there, to say it
	Capacity     int                // seats; 0 is 100
	PerPrincipal int                // sessions of one principal; 0 is a quarter of the seats, at least one
	Deadline     time.Duration      // how long a session may live; 0 is 5 minutes
	StartTimeout time.Duration      // how long a start may take; 0 is 20 seconds
	HealthEvery  time.Duration      // how often idle sessions are asked whether they are there; 0 is 30 seconds
	WarmFor      time.Duration      // how long a released session waits for its principal; 0 is 1 minute, <0 not at all
}

// pingTimeout is how long an idle session may take to answer.
const pingTimeout = 5 * time.Second

func (o *Options) defaults() error {
	if o.Capacity < 0 || o.PerPrincipal < 0 || o.Deadline < 0 || o.StartTimeout < 0 || o.HealthEvery < 0 {
		return errors.New("sandbox: capacity, sessions of a principal and times may not be negative")
	}
	set := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	if o.Capacity == 0 {
		o.Capacity = 100
	}
	if o.PerPrincipal == 0 {
		o.PerPrincipal = max(1, o.Capacity/4)
	}
	set(&o.Deadline, 5*time.Minute)
	set(&o.StartTimeout, 20*time.Second)
	set(&o.HealthEvery, 30*time.Second)
	set(&o.WarmFor, time.Minute)
	return nil
}

// Pool holds the seats and the sessions. Its lock guards the fields below it and is never held while anything is waited for.
type Pool struct {
	o            Options
	isolations   map[Kind]Isolation
	trials       map[Kind]*trials
	startTimeout time.Duration
	images       images
	stopHealth   context.CancelFunc
	health       sync.WaitGroup
	starting     sync.WaitGroup // starts and sessions, until nothing is left of them

	mu       sync.Mutex
	closed   bool
	seats    int // taken
	sessions map[*running]bool
	of       map[string]int // sessions by principal
	warm     []*running     // released, the oldest first
}

// New makes a pool.
func New(o Options) (*Pool, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	p := &Pool{o: o, isolations: o.Isolations, trials: map[Kind]*trials{}, startTimeout: o.StartTimeout, sessions: map[*running]bool{}, of: map[string]int{}}
	for kind := range o.Isolations {
		if _, err := ParseKind(string(kind)); err != nil {
			return nil, err
		}
		t := &trials{turn: make(chan struct{}, 1)}
		t.turn <- struct{}{}
		p.trials[kind] = t
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.stopHealth = cancel
	p.health.Go(func() { p.watchHealth(ctx) })
	return p, nil
}

// Seat is room for one session. Who has reserved one gives it to a session or releases it.
type Seat struct {
	pool  *Pool
	class Class
	once  sync.Once
}

// Release gives the seat back. It may be called again.
func (s *Seat) Release() {
	s.once.Do(func() {
		s.pool.mu.Lock()
		s.pool.seats--
		s.pool.mu.Unlock()
	})
}

// Reserve takes a seat, or returns [ErrFull]. Sessions that wait for their principal make room.
func (p *Pool) Reserve(ctx context.Context, class Class) (*Seat, error) {
	for {
		p.mu.Lock()
		switch {
		case p.closed:
			p.mu.Unlock()
			return nil, fmt.Errorf("%w: the pool is closed", ErrUnavailable)
		case p.seats < p.o.Capacity:
			p.seats++
			p.mu.Unlock()
			return &Seat{pool: p, class: class}, nil
		case len(p.warm) == 0:
			p.mu.Unlock()
			return nil, fmt.Errorf("%w (%d)", ErrFull, p.o.Capacity)
		}
		oldest := p.warm[0]
		p.warm = p.warm[1:]
		p.mu.Unlock()
		oldest.end(errors.New("its seat was needed"))
		select {
		case <-oldest.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Free is how many seats are not taken.
func (p *Pool) Free() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.o.Capacity - p.seats
}

// Stats are a pool's figures.
type Stats struct {
	Capacity, Taken int // seats
	Sessions, Warm  int // guests that live, and those of them that wait for their principal
}

// Stats are the figures now.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Stats{p.o.Capacity, p.seats, len(p.sessions), len(p.warm)}
}

// Start starts a session, or takes one that its principal has released. ctx bounds the start; the session lives until its deadline, or until
// it is closed. Errors are [ErrUnavailable], [ErrFull], or say what is wrong with the spec or the handler.
func (p *Pool) Start(ctx context.Context, spec Spec) (*Session, error) {
	if err := spec.check(p.o.Deadline); err != nil {
		return nil, err
	}
	if spec.Seat != nil && (spec.Seat.pool != p || spec.Seat.class != spec.Class) {
		return nil, fmt.Errorf("the seat is not one for a %s session of this pool", spec.Class)
	}
	if spec.Deadline == 0 {
		spec.Deadline = p.o.Deadline
	}
	r := p.Probe(ctx, spec.Isolation)
	err := r.Err()
	if spec.Emulated {
		err = r.err()
	}
	if err != nil {
		return nil, err
	}
	image, err := p.images.take(spec.Handler)
	if err != nil {
		return nil, err
	}
	defer p.images.drop(image)
	key := spec.key(image)
	if r := p.takeWarm(key); r != nil {
		if spec.Seat != nil {
			spec.Seat.Release() // the warm one has its own
		}
		r.deadline.Reset(spec.Deadline)
		return &Session{running: r}, nil
	}
	return p.startCold(ctx, spec, image, key)
}

func (p *Pool) startCold(ctx context.Context, spec Spec, image *Image, key string) (*Session, error) {
	if err := p.enter(spec.Principal); err != nil {
		return nil, err
	}
	r := &running{pool: p, principal: spec.Principal, key: key, kind: spec.Isolation, limits: spec.Class.Limits(), seat: spec.Seat,
		turn: make(chan struct{}, 1), ending: make(chan struct{}), done: make(chan struct{})}
	err := r.start(ctx, spec, image)
	if err != nil {
		if spec.Seat == nil && r.seat != nil {
			r.seat.Release()
		}
		p.leave(spec.Principal, nil)
		p.starting.Done()
		return nil, err
	}
	return &Session{running: r}, nil
}

// enter counts a session that is about to start.
func (p *Pool) enter(principal string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return fmt.Errorf("%w: the pool is closed", ErrUnavailable)
	case p.of[principal] >= p.o.PerPrincipal:
		return fmt.Errorf("%w: this principal has %d sessions", ErrFull, p.of[principal])
	}
	p.of[principal]++
	p.starting.Add(1)
	return nil
}

// leave follows enter in the end, and then starting.Done.
func (p *Pool) leave(principal string, r *running) {
	p.mu.Lock()
	if p.of[principal]--; p.of[principal] == 0 {
		delete(p.of, principal)
	}
	delete(p.sessions, r)
	p.warm = slices.DeleteFunc(p.warm, func(w *running) bool { return w == r })
	p.mu.Unlock()
}

// key says which sessions are the same but for their calls.
func (s *Spec) key(image *Image) string {
	return fmt.Sprintf("%s\x00%x\x00%s\x00%d %v %v\x00%q", s.Isolation, image.Sum, s.Principal, s.Class, s.Network, s.Emulated, s.Args)
}

func (p *Pool) takeWarm(key string) *running {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.warm) - 1; i >= 0; i-- {
		r := p.warm[i]
		if r.key != key {
			continue
		}
		p.warm = slices.Delete(p.warm, i, i+1)
		select {
		case <-r.ending:
			continue // it ended while it waited
		default:
			return r
		}
	}
	return nil
}

// park keeps a released session for its principal, if that may be.
func (p *Pool) park(r *running) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.o.WarmFor < 0 || !p.isolations[r.kind].Warm() {
		return false
	}
	select {
	case <-r.ending:
		return false
	default:
	}
	r.deadline.Reset(p.o.WarmFor)
	p.warm = append(p.warm, r)
	return true
}

func (p *Pool) watchHealth(ctx context.Context) {
	tick := time.NewTicker(p.o.HealthEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		p.mu.Lock()
		all := make([]*running, 0, len(p.sessions))
		for r := range p.sessions {
			all = append(all, r)
		}
		p.mu.Unlock()
		var asked sync.WaitGroup
		for _, r := range all {
			asked.Go(func() { r.pingIfIdle(ctx) })
		}
		asked.Wait()
	}
}

// Close ends all sessions, waits until nothing is left of them, and closes the isolations.
func (p *Pool) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	all := make([]*running, 0, len(p.sessions))
	for r := range p.sessions {
		all = append(all, r)
	}
	p.mu.Unlock()
	p.stopHealth()
	for _, r := range all {
		r.end(errors.New("the pool was closed"))
	}
	p.starting.Wait()
	p.health.Wait()
	var errs []error
	for kind, t := range p.trials {
		<-t.turn // a trial that runs has its guest still
		t.closed = true
		errs = append(errs, p.isolations[kind].Close())
		t.turn <- struct{}{}
	}
	p.images.close()
	return errors.Join(errs...)
}

// tail keeps the last bytes that a guest wrote beside the channel, to say why it ended.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailSize = 2 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	keep := p[max(0, len(p)-tailSize):]
	t.buf = append(t.buf, keep...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

// lines are what was said, in one line and in quotes: it is a stranger's text.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := strings.TrimSpace(string(t.buf))
	if s == "" {
		return ""
	}
	const most = 400
	if len(s) > most {
		s = s[:most/2] + " ... " + s[len(s)-most/2:]
	}
	return fmt.Sprintf("; it said %q", s)
}

// bucket throttles a guest's channel, both ways together.
type bucket struct {
	ctx context.Context
	l   *rate.Limiter
}

func newBucket(ctx context.Context, l Limits) bucket {
	return bucket{ctx, rate.NewLimiter(rate.Limit(l.Bandwidth), int(max(l.Burst, channel.MaxFrame+channel.HeaderSize)))}
}

func (b bucket) take(n int) error {
	for n > 0 {
		part := min(n, b.l.Burst())
		if err := b.l.WaitN(b.ctx, part); err != nil {
			return err
		}
		n -= part
	}
	return nil
}
