// Package audit is an audit log that anyone who has its public key can check: a transparency log in tiles (C2SP tlog-tiles), with signed
// checkpoints, proofs that an entry is in it, and proofs that it only ever grew. What Append has confirmed is on disk and under a signed
// checkpoint; what could not be recorded is counted, and the count is recorded. The bytes are drawn in docs/format/audit.md.
//
// A [Log] is written by one process; a [View] reads it, also meanwhile. The signing key is never in the log's folder.
package audit

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/seal"
)

// The errors that callers branch on.
var (
	// ErrBroken: the log is not what was written. The text says where. Nothing is appended to such a log.
	ErrBroken = errors.New("the audit log is broken")
	// ErrKey: the key is not the one that the log is signed with.
	ErrKey = errors.New("the log has another key")
	// ErrUnavailable: the entry is not confirmed, as it cannot be written now. What it is about must not happen.
	ErrUnavailable = errors.New("the audit log cannot be written")
	// ErrDropped: nobody waited, the queue was full: the entry is counted, and the count will be in the log.
	ErrDropped = errors.New("the queue of the audit log is full: the entry was counted, not recorded")
	// ErrClosed: the log is closed.
	ErrClosed = errors.New("the audit log is closed")
	// ErrEntry: the entry is no JSON object of at most [MaxEntry] bytes.
	ErrEntry = errors.New("no entry of an audit log")
)

// Index is an entry's place in the log. The first is 0.
type Index int64

// Unknown is the index of an entry that nobody waited for.
const Unknown Index = -1

// Options are how a log is opened. Dir and Key are needed.
type Options struct {
	Dir string
	FS  vfs.FS // nil is the host's
	Key seal.Key
	// NextKey, if not nil, takes Key's place from now on: the log's keys say so, signed by Key.
	NextKey *seal.Key
	// Origin is the name of a log that is new, which stands in its checkpoints; "" is a random one.
	Origin string
	// Anchor is a file outside of Dir that has the last checkpoint, too, by which a log that was cut back is found out when it is
	// opened; "" is none.
	Anchor string

	QueueEntries int   // how many may wait to be written; 0 is 16,384
	QueueBytes   int64 // of those; 0 is 16 MiB
	// Entries that nobody waits for are written when BatchEntries of them are there (0 is 100) or after BatchAge (0 is 5 s).
	BatchEntries int
	BatchAge     time.Duration
	PublishEvery time.Duration // how often tiles and checkpoint are written, at most; 0 is 1 s
	RetryEvery   time.Duration // how often what failed is tried again, at least; 0 is 1 s
	Writers      int           // files written at a time; 0 is 4
	// PendingBytes bounds what is committed and in no tile: past it nothing is committed. 0 is 64 MiB.
	PendingBytes int64

	Logger *slog.Logger     // nil is silent
	Now    func() time.Time // of entries of the log's own; nil is time.Now
}

// Bounds that are no options.
const (
	maxBatchEntries = 4096
	maxBatchBytes   = 4 << 20
	publishEntries  = 4096 // these are published without waiting for PublishEvery
	probeEvery      = 100 * time.Millisecond
)

func (o Options) check() (Options, error) {
	if o.Dir == "" {
		return o, errors.New("audit: no folder is given")
	}
	if o.Key.Public() == (seal.PublicKey{}) {
		return o, errors.New("audit: no key is given")
	}
	if o.Anchor != "" {
		if rel, err := filepath.Rel(o.Dir, o.Anchor); err == nil && filepath.IsLocal(rel) {
			return o, fmt.Errorf("audit: the anchor %s is in the log's own folder: who can cut the log could cut it, too", o.Anchor)
		}
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.QueueEntries, o.QueueBytes = cmp.Or(o.QueueEntries, 16384), cmp.Or(o.QueueBytes, 16<<20)
	o.BatchEntries, o.BatchAge = cmp.Or(o.BatchEntries, 100), cmp.Or(o.BatchAge, 5*time.Second)
	o.PublishEvery, o.RetryEvery = cmp.Or(o.PublishEvery, time.Second), cmp.Or(o.RetryEvery, time.Second)
	o.Writers, o.PendingBytes = cmp.Or(o.Writers, 4), cmp.Or(o.PendingBytes, 64<<20)
	if o.QueueEntries < 1 || o.QueueBytes < 1 || o.BatchEntries < 1 || o.BatchAge < 0 || o.PublishEvery < 0 || o.RetryEvery < 0 || o.Writers < 1 || o.PendingBytes < 1 {
		return o, errors.New("audit: a bound below 1")
	}
	return o, nil
}

// Log is a log that is open to append. Many goroutines may.
//
// One goroutine commits: it takes what is queued, adds it to the tree, signs, and writes all of it as one record with one fsync. One
// publishes: it makes tiles of what was committed and removes the records. They meet in pending, under mu.
type Log struct {
	o      Options
	fs     vfs.FS
	origin string
	signer signer
	lock   io.Closer

	q       *queue
	bytes   atomic.Int64 // of what is queued
	waiting atomic.Int64 // of those queued, how many wait
	active  atomic.Int64 // how many are about to push
	want    atomic.Int64 // the committer is woken when so many are queued
	closed  atomic.Bool
	wake    chan struct{}
	closing chan struct{}
	ended   chan struct{} // the committer has
	done    chan struct{} // the publisher has, too
	once    sync.Once

	committer committer
	publisher publisher

	dropMu sync.Mutex // held for a moment, with no other
	drops  drops

	mu sync.Mutex // guards what follows
	// fault is why nothing can be committed, failedAt when that was tried last; nil is that all is well.
	fault    error
	failedAt time.Time
	tried    chan struct{} // closed when it is tried again
	room     chan struct{} // closed when there is room in the queue, or a write failed
	roomFor  int           // how many wait for that
	pending  []committed
	pendingN int64 // its bytes
	taken    chan struct{}
	more     chan struct{}
	stats    Stats
}

// drops are events that were not recorded.
type drops struct {
	n        uint64
	from, to time.Time
}

// Stats are figures of a log.
type Stats struct {
	Queued     int    // entries that wait to be written
	QueueBytes int64  // of them
	Size       uint64 // entries that are durable
	Published  uint64 // of them, those in tiles
	// Checkpoint is when a checkpoint was last published, in this process.
	Checkpoint time.Time
	// Commits are the records written; Dropped the entries that were not recorded; Failures the times that writing failed, Publishes and
	// PublishFailures those of tiles; AnchorFailures those of the anchor.
	Commits, Dropped, Failures, Publishes, PublishFailures, AnchorFailures uint64
}

// Stats is how the log is doing.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.Queued, s.QueueBytes = l.q.len(), l.bytes.Load()
	return s
}

// Healthy says what keeps entries from being recorded, or published; nil is nothing.
func (l *Log) Healthy() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.fault != nil:
		return fmt.Errorf("audit: %s: %w: %w", l.o.Dir, ErrUnavailable, l.fault)
	case l.publisher.fault != nil:
		return fmt.Errorf("audit: %s: tiles cannot be written: %w", l.o.Dir, l.publisher.fault)
	}
	return nil
}

// Key is what the log's checkpoints are verified by.
func (l *Log) Key() PublicKey { return l.signer.k }

// CheckEntry says why b is no entry: [ErrEntry].
func CheckEntry(b []byte) error {
	switch {
	case len(b) > MaxEntry:
		return fmt.Errorf("audit: %w: %d bytes; it has at most %d", ErrEntry, len(b), MaxEntry)
	case len(b) == 0 || b[0] != '{' || !utf8.Valid(b) || !json.Valid(b):
		return fmt.Errorf("audit: %w: it must be a JSON object in UTF-8: %.40q", ErrEntry, b)
	}
	if _, ours := ownEntry(b); ours {
		return fmt.Errorf("audit: %w: a field \"log\" has the log's own entries only", ErrEntry)
	}
	return nil
}

// Append records an entry, a JSON object of at most [MaxEntry] bytes. With wait it returns when the entry is on disk and under a signed
// checkpoint, and its index with it; while the queue is full it waits, as long as ctx does. An error then says that the entry is not
// confirmed, and what it is about must not happen; [ErrUnavailable] that the log cannot be written now. An entry whose error came
// when it was on its way may be in the log all the same, and if so the log says that it was late.
//
// Without wait it returns at once, with [Unknown]. If the queue is full the error is [ErrDropped]; the log will say how many were.
func (l *Log) Append(ctx context.Context, entry []byte, wait bool) (Index, error) {
	if err := CheckEntry(entry); err != nil {
		return Unknown, err
	}
	if !wait {
		switch full, err := l.offer(item{entry: bytes.Clone(entry)}); {
		case err != nil:
			return Unknown, err
		case full:
			l.drop()
			return Unknown, ErrDropped
		}
		return Unknown, nil
	}
	if err := l.probe(ctx); err != nil {
		return Unknown, err
	}
	it := item{bytes.Clone(entry), make(chan result, 1)}
	if err := l.offerWaiting(ctx, it); err != nil {
		return Unknown, err
	}
	select {
	case r := <-it.done:
		return r.index, r.err
	case <-ctx.Done():
		return Unknown, fmt.Errorf("audit: the entry is not confirmed: %w", context.Cause(ctx))
	}
}

// offer puts an item into the queue, or says that it is full.
func (l *Log) offer(it item) (full bool, err error) {
	l.active.Add(1)
	defer l.active.Add(-1)
	if l.closed.Load() {
		return false, ErrClosed
	}
	n := int64(len(it.entry))
	if all := l.bytes.Add(n); all > l.o.QueueBytes && all > n { // one alone always fits
		l.bytes.Add(-n)
		return true, nil
	}
	if it.done != nil {
		l.waiting.Add(1)
	}
	if l.q.len() >= l.o.QueueEntries || !l.q.push(it) {
		if it.done != nil {
			l.waiting.Add(-1)
		}
		l.bytes.Add(-n)
		return true, nil
	}
	if it.done != nil || int64(l.q.len()) >= l.want.Load() {
		signal(l.wake)
	}
	return false, nil
}

// offerWaiting puts an item into the queue when there is room, unless the log cannot be written.
func (l *Log) offerWaiting(ctx context.Context, it item) error {
	for {
		if full, err := l.offer(it); err != nil || !full {
			return err
		}
		l.mu.Lock()
		room, fault := l.room, l.fault
		l.roomFor++
		l.mu.Unlock()
		signal(l.wake)           // who waits for room wants it soon
		full, err := l.offer(it) // room may have come before roomFor said that someone waits
		switch {
		case err != nil || !full:
		case fault != nil:
			err = fmt.Errorf("audit: %s: %w: %w", l.o.Dir, ErrUnavailable, fault)
		default:
			select {
			case <-room:
			case <-l.closing:
				err = ErrClosed
			case <-ctx.Done():
				err = fmt.Errorf("audit: the queue is full, the entry is not recorded: %w", context.Cause(ctx))
			}
		}
		l.mu.Lock()
		l.roomFor--
		l.mu.Unlock()
		if err != nil || !full {
			return err
		}
	}
}

// probe is nil if the log can be written, as far as is known. If it could not the last time, that is tried again first, but not too often.
func (l *Log) probe(ctx context.Context) error {
	l.mu.Lock()
	fault, again := l.fault, time.Since(l.failedAt) >= probeEvery
	tried := l.tried
	l.mu.Unlock()
	switch {
	case fault == nil:
		return nil
	case l.closed.Load():
		return ErrClosed
	case again:
		signal(l.wake)
		select {
		case <-tried:
		case <-l.closing:
			return ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("audit: the entry is not recorded: %w", context.Cause(ctx))
		}
		l.mu.Lock()
		fault = l.fault
		l.mu.Unlock()
	}
	if fault != nil {
		return fmt.Errorf("audit: %s: %w: %w", l.o.Dir, ErrUnavailable, fault)
	}
	return nil
}

// drop counts an event that is not recorded.
func (l *Log) drop() {
	now := l.o.Now()
	l.dropMu.Lock()
	if l.drops.n == 0 {
		l.drops.from = now
	}
	l.drops.n++
	l.drops.to = now
	l.dropMu.Unlock()
	l.mu.Lock()
	l.stats.Dropped++
	first := l.stats.Dropped == 1
	l.mu.Unlock()
	if first {
		l.o.Logger.Error("the queue of the audit log is full: events are counted and not recorded; the log will say how many", "dir", l.o.Dir)
	}
}

// signal wakes who waits for c, which has room for one.
func signal(c chan struct{}) {
	if len(c) > 0 {
		return
	}
	select {
	case c <- struct{}{}:
	default:
	}
}

// Close records what is queued, publishes, and closes the log. Its error says what was not recorded.
func (l *Log) Close() error {
	l.once.Do(func() {
		l.closed.Store(true)
		close(l.closing)
	})
	<-l.done
	l.mu.Lock()
	defer l.mu.Unlock()
	err := errors.Join(l.committer.lost, l.publisher.fault)
	if l.lock != nil {
		err = errors.Join(err, l.lock.Close())
		l.lock = nil
	}
	return err
}

// never is more than there can be in the queue.
const never = math.MaxInt64
