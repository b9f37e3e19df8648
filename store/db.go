package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"runtime"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/profile"
)

// Options of [Open]. The zero value is a good one. In every bound 0 is the default beside
// it and a negative figure is no bound.
type Options struct {
	FS     vfs.FS           // vfs.Default
	Logger *slog.Logger     // nil is silent
	Now    func() time.Time // time.Now

	// Backend takes over what is in memory, a minute's worth at a time, as blocks. Close closes it. Nil is none:
	// all stays in memory and in the log, and the oldest goes when a bound is passed.
	Backend Backend
	Region  string // of the blocks; "local"

	// Retention is how old a profile may be, from the end of its window; 7 days. What has been handed
	// over is the backend's to keep.
	Retention time.Duration
	// MaxBytes bounds the log on disk, 2 GiB, and MaxHeadBytes the memory of what is in it, estimated, 1 GiB.
	// With a backend that does not take what it is given for so long, Append is ErrOverloaded;
	// without one the oldest whole segments go.
	MaxBytes     int64
	MaxHeadBytes int64

	// A segment of the log is handed over when it is this old, or takes this much memory, estimated.
	FlushEvery time.Duration // 1 minute
	FlushBytes int64         // 64 MiB, at most a quarter of MaxHeadBytes
	// FlushStuckAfter is how long a segment may wait to be handed over before Healthy says so; 5 minutes.
	FlushStuckAfter time.Duration
	// DedupeFor is how long after its arrival an upload that is sent again is known, at least; 2 hours.
	// MaxRecent bounds how many are remembered for it; 1,000,000.
	DedupeFor time.Duration
	MaxRecent int

	SegmentBytes int64 // when a new segment starts; 32 MiB, at most a quarter of MaxBytes

	// What is let in; beyond it Append is ErrOverloaded.
	MaxInFlight int64 // bytes of uploads that are not durable yet; 64 MiB
	MaxSeries   int   // of one tenant; 10,000
	MaxTenants  int   // 1,000

	// StuckAfter is how long uploads may wait with none of them done before
	// Healthy says so; 30 s.
	StuckAfter time.Duration

	// QueryMemory bounds what one question may take; 256 MiB; beyond it is ErrTooLarge. QueryConcurrency is how many
	// are worked on at a time, tenants in turn; GOMAXPROCS. QueryQueue is how many may wait; 100; beyond it
	// is ErrOverloaded.
	QueryMemory      int64
	QueryConcurrency int
	QueryQueue       int

	// Limits bound the decoding of what is in the log, at the start.
	Limits profile.Limits
	// Progress, if not nil, hears how many bytes of the log have been read at
	// the start, from one goroutine.
	Progress func(done, total int64)
}

func (o Options) withDefaults() Options {
	const most = 1 << 62
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	bound := func(v *int64, def int64) {
		if *v = cmp.Or(*v, def); *v < 0 {
			*v = most
		}
	}
	bound((*int64)(&o.Retention), int64(7*24*time.Hour))
	bound(&o.MaxBytes, 2<<30)
	bound(&o.MaxHeadBytes, 1<<30)
	bound(&o.SegmentBytes, 32<<20)
	bound(&o.MaxInFlight, 64<<20)
	bound((*int64)(&o.StuckAfter), int64(30*time.Second))
	series, tenants := int64(o.MaxSeries), int64(o.MaxTenants)
	bound(&series, 10_000)
	bound(&tenants, 1_000)
	o.MaxSeries, o.MaxTenants = int(min(series, 1<<31-1)), int(min(tenants, 1<<31-1))
	o.SegmentBytes = max(1, min(o.SegmentBytes, o.MaxBytes/4))
	o.Region = cmp.Or(o.Region, "local")
	bound((*int64)(&o.FlushEvery), int64(time.Minute))
	bound(&o.FlushBytes, 64<<20)
	o.FlushBytes = max(1, min(o.FlushBytes, o.MaxHeadBytes/4))
	bound((*int64)(&o.FlushStuckAfter), int64(5*time.Minute))
	bound((*int64)(&o.DedupeFor), int64(2*time.Hour))
	recent, slots, queue := int64(o.MaxRecent), int64(o.QueryConcurrency), int64(o.QueryQueue)
	bound(&recent, 1_000_000)
	bound(&o.QueryMemory, 256<<20)
	bound(&slots, int64(runtime.GOMAXPROCS(0)))
	bound(&queue, 100)
	o.MaxRecent, o.QueryConcurrency, o.QueryQueue = int(min(recent, 1<<31-1)), int(min(slots, 1<<31-1)), int(min(queue, 1<<31-1))
	return o
}

// DB is the store: a log on disk, all that is in it in memory, and a backend that takes it over.
//
// Three goroutines do the work, each the one owner of what it changes. The
// committer writes uploads to the log and syncs it, many at a time. The applier
// puts what is durable into memory, answers who waits, and lets old segments go. The flusher
// hands whole segments over to the backend.
//
// Lock order: DB.mu before head.mu. No other lock is taken, or waited for, under Watch.mu.
type DB struct {
	opt Options
	fs  vfs.FS
	dir string // of the segments
	// flushDir has a folder of blocks for each segment that is being handed over; damagedDir the segments that
	// were handed over as far as they could be read.
	flushDir, damagedDir string
	lock                 io.Closer
	log                  logWriter // the committer's
	gate                 gate
	toHead               chan []*pending
	wake                 chan struct{}
	tend                 chan chan struct{} // asks for a round of upkeep, and to hear when it is done
	done                 chan struct{}      // closed when committer and applier have ended

	flushWake chan struct{} // a segment is complete
	flushing  sync.WaitGroup
	ctx       context.Context // ends with Close: the flusher's
	stop      context.CancelFunc

	mu        sync.Mutex
	closed    bool
	queue     []*pending
	inFlight  int64
	waiting   int
	moved     time.Time // when waiting last went down, or up from 0
	seen      map[key]*pending
	recent    []recentKeys              // of segments that were handed over, the oldest first; their keys are in seen
	admitted  map[string]map[string]int // tenant -> series not in memory yet -> uploads
	known     map[string]map[string]int // tenant -> series in memory -> segments that have it
	told      *sync.Cond                // on mu: a segment's blind went down
	staged    []Staged                  // found at the start, not put yet
	segments  []*segment                // oldest first
	active    *segment                  // the last of segments, if it is being written
	wantSeal  bool
	commitErr error // of the last commit, nil if it went well
	flushErr  error // of the last flush
	stats     Stats
	watches   []*Watch // replaced, not written
	watching  sync.WaitGroup
}

// segment is a file of the log. DB.mu guards it.
type segment struct {
	seq     uint64
	path    string
	size    int64
	created time.Time
	newest  int64 // end of the last window in it, Unix nanoseconds, but not later than its arrival
	head    *head // its profiles
	bytes   int64 // memory of them, estimated
	keys    []key // of its uploads, to forget them with it
	dropped bool

	closed  bool     // nothing more is written to it,
	pending int      // and so many uploads in it are not in head yet
	damaged bool     // it has bytes that cannot be read: the file is never removed
	blocks  []Staged // as what it is being put
	blind   int      // questions under way that do not know blocks
}

// pending is an upload on its way.
type pending struct {
	u      Upload
	key    key
	meta   []byte
	sum    uint32
	size   int64  // what it counts towards MaxInFlight
	series string // its key
	seg    *segment
	err    error
	done   chan struct{} // closed when err is final
}

// Stats is how the store is.
type Stats struct {
	Profiles, Series, Stacks, Tenants int
	HeadBytes                         int64 // estimated
	LogBytes                          int64
	Segments                          int
	InFlightBytes                     int64
	Appended, Duplicates              int64 // uploads since the start
	Overloaded, Failed                int64 // uploads turned away, and not written
	DroppedSegments, DroppedProfiles  int64 // by retention and bounds
	Flushes, FlushFailures            int64 // segments handed over, and times that it failed
	FlushedProfiles                   int64
	LastFlush                         time.Duration // how long it took
	Unflushed                         int           // segments that are complete, and wait
	QueriesWaiting                    int
	Syncs                             int64
	LastSync                          time.Duration // how long it took
	Recovered                         Recovered
}

// Open opens the store in dir, made if need be, and reads what is in it. One process
// at a time may have it: ErrUnavailable tells of another.
func Open(ctx context.Context, dir string, opt Options) (*DB, error) {
	opt = opt.withDefaults()
	db := &DB{
		opt: opt, fs: opt.FS, dir: filepath.Join(dir, "log"), flushDir: filepath.Join(dir, "flush"), damagedDir: filepath.Join(dir, "damaged"),
		toHead: make(chan []*pending, 1), wake: make(chan struct{}, 1), tend: make(chan chan struct{}), done: make(chan struct{}),
		seen: map[key]*pending{}, admitted: map[string]map[string]int{}, known: map[string]map[string]int{},
		gate: gate{slots: opt.QueryConcurrency, room: opt.QueryQueue}, flushWake: make(chan struct{}, 1),
	}
	db.told = sync.NewCond(&db.mu)
	db.ctx, db.stop = context.WithCancel(context.Background())
	if err := makeDir(db.fs, db.dir); err != nil {
		return nil, fmt.Errorf("store: make %s: %w: %w", db.dir, ErrUnavailable, err)
	}
	lock, err := db.fs.Lock(filepath.Join(dir, "LOCK"))
	if errors.Is(err, vfs.ErrLocked) {
		return nil, fmt.Errorf("store: %s is in use by another process: end it, or choose another folder: %w: %w", dir, ErrUnavailable, err)
	} else if err != nil {
		return nil, fmt.Errorf("store: lock %s: %w: %w", dir, ErrUnavailable, err)
	}
	db.lock = lock
	if err := db.recover(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("store: read %s: %w", db.dir, err), lock.Close())
	}
	db.log = logWriter{db: db}
	db.enforce()
	go db.commitLoop()
	go db.applyLoop()
	if opt.Backend != nil {
		db.flushing.Go(db.flushLoop)
	}
	return db, nil
}

// makeDir makes dir, and makes its name and those above it durable. All of them,
// whether they were there or not: an earlier start may have ended between making a
// name and syncing it. One above that may not be read was not made by us.
func makeDir(f vfs.FS, dir string) error {
	if err := f.MkdirAll(dir); err != nil {
		return err
	}
	for d := filepath.Clean(dir); d != filepath.Dir(d); d = filepath.Dir(d) {
		if err := f.SyncDir(filepath.Dir(d)); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	return nil
}

// checkUpload checks u, whose labels are pairs, and fills in what it leaves
// out. Its profile is looked at if it is there. The error wraps no sentinel.
func checkUpload(u *Upload, pairs []profile.Label) error {
	u.Tenant = cmp.Or(u.Tenant, DefaultTenant)
	if len(u.Tenant) > profile.MaxLabelName || !utf8.ValidString(u.Tenant) {
		return fmt.Errorf("tenant %.40q: it must be UTF-8 of at most %d bytes", u.Tenant, profile.MaxLabelName)
	}
	labels, err := profile.NewLabels(pairs...)
	if err != nil {
		return err
	}
	if labels.Get(profile.LabelService) == "" {
		return fmt.Errorf("label %s is missing", profile.LabelService)
	}
	u.Labels = labels
	if u.Name == "" && u.Profile != nil {
		u.Name = profile.NameOf(u.Profile)
	}
	if err := profile.CheckLabelName(u.Name); err != nil {
		return fmt.Errorf("profile name: %w", err)
	}
	if !u.From.After(earliest) || !u.To.Before(latest) || !u.To.After(u.From) {
		return fmt.Errorf("window from %v to %v: its end must be after its start, both between the years 1678 and 2262", u.From, u.To)
	}
	return nil
}

// Append is of [Store]. An upload that is there already, bytes and all, is
// acknowledged and kept once: so a client that lost an answer may send again, also
// after a restart. A tenant's series past the bound are ErrOverloaded, as they will do
// when old ones have gone.
func (db *DB) Append(ctx context.Context, u Upload) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p, err := db.prepare(u)
	if err != nil {
		return fmt.Errorf("store: append: %w: %w", ErrInvalid, err)
	}
	p, err = db.enqueue(p)
	if p == nil {
		return err // nil: it was durable before
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (db *DB) prepare(u Upload) (*pending, error) {
	switch {
	case u.Profile == nil || len(u.Pprof) == 0:
		return nil, errors.New("no profile")
	case int64(len(u.Pprof)) > min(db.opt.MaxInFlight, maxRecord/2):
		return nil, fmt.Errorf("profile of %d bytes, the limit is %d", len(u.Pprof), min(db.opt.MaxInFlight, maxRecord/2))
	}
	if err := checkUpload(&u, u.Labels); err != nil {
		return nil, err
	}
	// One bad profile must not end the applier, and everybody's service with it.
	if err := u.Profile.Check(); err != nil {
		return nil, err
	}
	if db.opt.Now().Sub(u.To) > db.opt.Retention {
		return nil, fmt.Errorf("window ended %v, %v are kept", u.To.UTC().Format(time.RFC3339), db.opt.Retention)
	}
	p := &pending{u: u, done: make(chan struct{})}
	p.meta = recordMeta(&u)
	p.sum = recordSum(p.meta, u.Pprof)
	p.key = uploadKey(p.meta, u.Pprof)
	p.series = seriesKey(u.Name, u.Labels)
	pr := u.Profile
	p.size = int64(len(u.Pprof)) + int64(pr.NumSamples()*(8+8*len(pr.Values))) + int64(8*pr.Stacks.Len()+40*len(pr.Locations)+24*len(pr.Lines))
	return p, nil
}

// enqueue is the upload to wait for: p, or the same one that is on its way.
// Without either there is nothing to wait for.
func (db *DB) enqueue(p *pending) (*pending, error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return nil, fmt.Errorf("store: append: %w: closed", ErrUnavailable)
	}
	if same, ok := db.seen[p.key]; ok {
		db.stats.Duplicates++
		return same, nil
	}
	if db.waiting > 0 && db.inFlight+p.size > db.opt.MaxInFlight {
		db.stats.Overloaded++
		return nil, fmt.Errorf("store: append: %w: %d bytes in flight, the limit is %d", ErrOverloaded, db.inFlight, db.opt.MaxInFlight)
	}
	if err := db.handedOver(); err != nil {
		db.stats.Overloaded++
		return nil, err
	}
	if err := db.admit(p); err != nil {
		db.stats.Overloaded++
		return nil, err
	}
	if db.waiting == 0 {
		db.moved = db.opt.Now()
	}
	db.seen[p.key] = p
	db.inFlight += p.size
	db.waiting++
	db.queue = append(db.queue, p)
	select {
	case db.wake <- struct{}{}:
	default:
	}
	return p, nil
}

// admit holds tenants and series to their bounds, those on their way among them. Under mu.
func (db *DB) admit(p *pending) error {
	t := p.u.Tenant
	on := db.admitted[t]
	series, tenants := len(db.known[t]), len(db.known)
	ok := db.known[t][p.series] > 0
	if !ok && on[p.series] == 0 && series+len(on) >= db.opt.MaxSeries {
		return fmt.Errorf("store: append: %w: tenant %q has %d series, the limit is %d; use fewer distinct labels, or wait until old ones have gone",
			ErrOverloaded, t, series, db.opt.MaxSeries)
	}
	if series == 0 && on == nil && tenants+len(db.admitted) >= db.opt.MaxTenants {
		return fmt.Errorf("store: append: %w: %d tenants, the limit is %d", ErrOverloaded, tenants, db.opt.MaxTenants)
	}
	if !ok {
		if on == nil {
			on = map[string]int{}
			db.admitted[t] = on
		}
		on[p.series]++
	}
	return nil
}

// finish answers who waits for p. Under mu.
func (db *DB) finish(p *pending, err error) {
	if p.seg != nil && err == nil {
		if p.seg.pending--; p.seg.pending == 0 && p.seg.closed {
			db.wakeFlusher()
		}
	}
	if on := db.admitted[p.u.Tenant]; on != nil {
		if on[p.series]--; on[p.series] <= 0 {
			delete(on, p.series)
		}
		if len(on) == 0 {
			delete(db.admitted, p.u.Tenant)
		}
	}
	if err != nil {
		delete(db.seen, p.key)
		db.stats.Failed++
	} else {
		if p.seg.dropped {
			delete(db.seen, p.key)
		} else {
			db.seen[p.key] = nil
		}
		db.stats.Appended++
	}
	db.inFlight -= p.size
	db.waiting--
	db.moved = db.opt.Now()
	p.err = err
	close(p.done)
}

// open says whether the store can be asked.
func (db *DB) open(ctx context.Context) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return fmt.Errorf("store: %w: closed", ErrUnavailable)
	}
	return ctx.Err()
}

// warnings is what every answer must say.
func (db *DB) warnings() []string {
	db.mu.Lock()
	var ws []string
	if r := &db.stats.Recovered; r.Skipped > 0 || r.Undecodable > 0 {
		ws = append(ws, fmt.Sprintf("The log is damaged: %d bytes and %d profiles of it cannot be read, and are missing here.", r.Skipped, r.Undecodable))
	}
	if n := len(db.staged); n > 0 {
		ws = append(ws, fmt.Sprintf("%d blocks of profiles from before the last start wait to be handed over, and are missing here.", n))
	}
	db.mu.Unlock()
	if db.opt.Backend != nil {
		ws = append(ws, db.opt.Backend.Warnings()...)
	}
	return ws
}

// Stats is how the store is now. Profiles, series and stacks are those in memory.
func (db *DB) Stats() Stats {
	db.mu.Lock()
	defer db.mu.Unlock()
	s := db.stats
	s.Segments, s.InFlightBytes, s.Tenants = len(db.segments), db.inFlight, len(db.known)
	for _, seg := range db.segments {
		s.LogBytes += seg.size
		s.Profiles += len(seg.keys)
		s.Stacks += seg.head.stacks()
		if seg.closed && db.opt.Backend != nil {
			s.Unflushed++
		}
	}
	for _, series := range db.known {
		s.Series += len(series)
	}
	s.QueriesWaiting = db.gate.waiting()
	return s
}

// Healthy says what is wrong: nothing gets through, the last write failed, what is complete is
// not handed over, or the backend is not well. It is ErrUnavailable.
func (db *DB) Healthy() error {
	db.mu.Lock()
	var err error
	now := db.opt.Now()
	switch since := now.Sub(db.moved); {
	case db.closed:
		err = fmt.Errorf("store: %w: closed", ErrUnavailable)
	case db.waiting > 0 && since > db.opt.StuckAfter:
		err = fmt.Errorf("store: %w: %d uploads wait, none has got through for %v", ErrUnavailable, db.waiting, since.Round(time.Second))
	default:
		err = db.commitErr
	}
	for _, seg := range db.segments {
		if late := now.Sub(seg.created) - db.opt.FlushEvery; err == nil && db.opt.Backend != nil && late > db.opt.FlushStuckAfter {
			err = fmt.Errorf("store: %w: profiles in memory should have been handed over %v ago: %w", ErrUnavailable, late.Round(time.Second), cmp.Or(db.flushErr, errSlow))
		}
	}
	db.mu.Unlock()
	if err == nil && db.opt.Backend != nil {
		err = db.opt.Backend.Healthy()
	}
	return err
}

var errSlow = errors.New("it is still being tried")

// Close is of [Store].
func (db *DB) Close() error {
	db.mu.Lock()
	if db.closed {
		db.mu.Unlock()
		<-db.done
		return nil
	}
	db.closed = true
	db.mu.Unlock()
	close(db.wake) // nobody sends once closed is set
	<-db.done
	db.stop()
	db.mu.Lock()
	db.told.Broadcast() // the flusher may wait for questions
	watches := db.watches
	db.mu.Unlock()
	for _, w := range watches {
		w.close()
	}
	db.flushing.Wait()
	db.watching.Wait()
	err := db.log.close()
	if db.opt.Backend != nil {
		err = errors.Join(err, db.opt.Backend.Close())
	}
	return errors.Join(err, db.lock.Close())
}
