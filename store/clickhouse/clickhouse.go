// Package clickhouse keeps profiles on a ClickHouse server, or on a cluster of them: a
// [store.Backend] to put beside package store's log and head when one machine is not enough.
//
// A block arrives as the very Parquet files that the bucket would get. ClickHouse
// reads them, and its SQL turns what is numbered within a block (stacks, label sets,
// series) into identities that are the same everywhere. So a stack is stored once a day,
// not once a block, a sample is a row with the stack's 64 bits, and the rows of one stack lie together: ORDER BY is service,
// hour, stack. ClickHouse's own merges are the compaction, its TTL the retention, its volumes
// the tiers, its replicas the copies.
//
// # What makes an insert safe to repeat
//
// Each insert carries the deduplication token ULID/table, so that one whose answer was lost is
// kept once. ClickHouse forgets tokens in time, so a block that this process did not stage, or
// has failed to put before, is counted first, and what is there in part is removed. The
// row in table blocks comes last, and questions are asked of blocks that have one. A
// question lists those blocks first and then names them in every statement: it sees one state of
// the store, whatever arrives meanwhile.
//
// docs/clickhouse.md is the operator's page.
package clickhouse

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store"
)

// Options of [Open]. Only URL is needed.
type Options struct {
	// URL is clickhouse://user:password@host:8123/database, with ?cluster=NAME and others
	// that docs/clickhouse.md lists. The database must be there.
	URL string
	// FS is where staged blocks are; nil is vfs.Default.
	FS vfs.FS
	// Retention is how long profiles are kept, by their windows' start; 0 is 30 days, less than 0 is for ever.
	Retention time.Duration
	// Keep are other times for some; the first that fits counts.
	Keep []Keep
	// ColdAfter is when parts move to the URL's cold_volume, if it names one; 0 is 7 days, less than 0 is never.
	ColdAfter time.Duration
	// QueryMemory is what one statement of a question may use on the server; 0 is 4 GiB.
	QueryMemory int64
	// DictionaryBytes bounds the memory here for the names of stacks that questions needed lately; 0 is 128 MiB.
	DictionaryBytes int64
	// WatchEvery is how often Watch asks for the blocks of other servers; 0 is 30 s.
	WatchEvery time.Duration
	// ReadOnly makes and alters nothing: the tables must be there.
	ReadOnly bool
	Logger   *slog.Logger     // nil discards
	Now      func() time.Time // nil is time.Now
}

// Keep is how long some profiles are kept.
type Keep struct {
	Tenant  string        // "" is any
	Service string        // "" is any
	For     time.Duration // less than 0 is for ever
}

const (
	defaultColdAfter  = 7 * 24 * time.Hour
	defaultRetention  = 30 * 24 * time.Hour
	defaultMemory     = 4 << 30
	defaultWatchEvery = 30 * time.Second
	defaultDictionary = 128 << 20
)

// DB is a store's data on ClickHouse. Many goroutines may use it.
type DB struct {
	opt    Options
	target target
	http   *client
	names  *dictionaries
	opened time.Time

	mu       sync.Mutex
	tried    map[ulid.ULID]bool      // blocks that Put has failed with
	mine     map[ulid.ULID]time.Time // blocks that are put while somebody watches, and when
	watching int
	failing  time.Time // since when Put fails; zero: it does not
	failure  error
	notes    map[string]time.Time // warnings, and when they came
	stats    Stats
}

var _ store.Backend = (*DB)(nil)

// Open connects, and makes or upgrades the tables. Errors are [store.ErrInvalid] where the options are
// wrong (and say what to do), and [store.ErrUnavailable] where the server is away.
func Open(ctx context.Context, opt Options) (*DB, error) {
	if opt.FS == nil {
		opt.FS = vfs.Default
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	opt.Retention = cmp.Or(opt.Retention, defaultRetention)
	opt.ColdAfter = cmp.Or(opt.ColdAfter, defaultColdAfter)
	opt.QueryMemory = cmp.Or(opt.QueryMemory, defaultMemory)
	opt.WatchEvery = cmp.Or(opt.WatchEvery, defaultWatchEvery)
	opt.DictionaryBytes = cmp.Or(opt.DictionaryBytes, defaultDictionary)
	t, err := parseURL(opt.URL)
	if err != nil {
		return nil, err
	}
	for _, k := range opt.Keep {
		if k.For == 0 {
			return nil, fmt.Errorf("clickhouse: %w: no time to keep tenant %q, service %q", store.ErrInvalid, k.Tenant, k.Service)
		}
	}
	if opt.WatchEvery < 0 {
		return nil, fmt.Errorf("clickhouse: %w: other servers are asked for every %v", store.ErrInvalid, opt.WatchEvery)
	}
	if opt.QueryMemory < 0 || opt.DictionaryBytes < 0 {
		return nil, fmt.Errorf("clickhouse: %w: memory of %d bytes for a question and %d for names", store.ErrInvalid, opt.QueryMemory, opt.DictionaryBytes)
	}
	db := &DB{opt: opt, target: t, http: newClient(t), names: newDictionaries(opt.DictionaryBytes), opened: opt.Now(),
		tried: map[ulid.ULID]bool{}, mine: map[ulid.ULID]time.Time{}, notes: map[string]time.Time{}}
	if err := db.prepare(ctx); err != nil {
		db.http.close()
		return nil, fmt.Errorf("clickhouse at %s: %w", t, err)
	}
	return db, nil
}

// String is the server and database, without the password.
func (db *DB) String() string { return db.target.String() }

// Close ends connections. What was put stays.
func (db *DB) Close() error {
	db.http.close()
	return nil
}

// Stats are figures since the start, but for DictionaryBytes.
type Stats struct {
	Blocks, Profiles, Bytes int64 // put; Bytes is of their files
	PutFailed               int64
	Statements              int64
	Retries                 int64 // statements that were sent again
	DictionaryBytes         int64 // of names in memory
}

// Stats is of now.
func (db *DB) Stats() Stats {
	db.mu.Lock()
	s := db.stats
	db.mu.Unlock()
	s.Statements, s.Retries, s.DictionaryBytes = db.http.statements.Load(), db.http.retries.Load(), db.names.bytes()
	return s
}

// stuckAfter is how long Put may fail before Healthy says so: a server that starts anew is none to be told of.
const stuckAfter = 2 * time.Minute

// Healthy says since when no block could be put, if that is long.
func (db *DB) Healthy() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.failing.IsZero() || db.opt.Now().Sub(db.failing) < stuckAfter {
		return nil
	}
	return fmt.Errorf("%w: no block could be put into clickhouse at %s since %s: %w", store.ErrUnavailable, db.target, db.failing.UTC().Format(time.RFC3339), db.failure)
}

// noteFor is how long a warning is part of answers.
const noteFor = time.Minute

// note keeps a warning for the answers that it is about.
func (db *DB) note(text string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if len(db.notes) < 100 {
		db.notes[text] = db.opt.Now()
	}
}

// Warnings is of [store.Backend].
func (db *DB) Warnings() []string {
	db.mu.Lock()
	defer db.mu.Unlock()
	var out []string
	for text, at := range db.notes {
		if db.opt.Now().Sub(at) > noteFor {
			delete(db.notes, text)
			continue
		}
		out = append(out, text)
	}
	return out
}

// settled notes how a Put went.
func (db *DB) settled(err error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	switch {
	case err == nil:
		db.failing, db.failure = time.Time{}, nil
	case errors.Is(err, context.Canceled):
	default:
		db.stats.PutFailed++
		if db.failing.IsZero() {
			db.failing = db.opt.Now()
		}
		db.failure = err
	}
}
