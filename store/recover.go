package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/quantra-l/quantra/profile"
)

// Recovered is what the last start found in the log.
type Recovered struct {
	Segments, Profiles int
	Bytes              int64         // read
	Duplicates         int           // uploads that were there already
	Torn               int64         // bytes of a write that never finished, cut off
	Skipped            int64         // damaged bytes, left as they are
	Undecodable        int           // whole records that hold no profile this program can read
	Took               time.Duration // how long it took
}

// replayed is one record, being decoded.
type replayed struct {
	u    Upload
	key  key
	err  error
	done chan struct{}
}

// recover reads the log into the head.
func (db *DB) recover(ctx context.Context) error {
	start := time.Now()
	if err := db.recoverFlush(ctx); err != nil {
		return err
	}
	names, err := db.fs.List(db.dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	var total, done int64
	for _, name := range names {
		seq, ok := segmentSeq(name)
		if !ok {
			db.opt.Logger.Warn("a file in the log's folder is not the log's; it is left alone", "path", filepath.Join(db.dir, name))
			continue
		}
		path := filepath.Join(db.dir, name)
		st, err := db.fs.Stat(path)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		total += st.Size
		// How old it is shows when it is read.
		db.segments = append(db.segments, &segment{seq: seq, path: path, size: st.Size, newest: db.opt.Now().UnixNano(), created: db.opt.Now(), head: newHead(), closed: true})
	}
	db.enforce() // what the bound on bytes lets go need not be read
	for _, seg := range append([]*segment(nil), db.segments...) {
		if seg.dropped {
			continue
		}
		if err := db.replay(ctx, seg, seg == db.segments[len(db.segments)-1]); err != nil {
			return err
		}
		db.enforce()
		done += seg.size
		if db.opt.Progress != nil {
			db.opt.Progress(done, total)
		}
	}
	r := &db.stats.Recovered
	r.Took = time.Since(start)
	if r.Segments > 0 {
		db.opt.Logger.Info("the log is read", "profiles", r.Profiles, "segments", r.Segments, "bytes", r.Bytes,
			"duplicates", r.Duplicates, "torn_bytes", r.Torn, "skipped_bytes", r.Skipped, "undecodable", r.Undecodable, "took", r.Took)
	}
	return nil
}

func (db *DB) readSegment(seg *segment) ([]byte, error) {
	f, err := db.fs.Open(seg.path)
	if err != nil {
		return nil, err
	}
	data := make([]byte, seg.size)
	n, err := f.ReadAt(data, 0)
	if err == io.EOF && n == len(data) {
		err = nil
	}
	return data, errors.Join(err, f.Close())
}

// replay reads one segment. last says that no other comes after it.
func (db *DB) replay(ctx context.Context, seg *segment, last bool) error {
	data, err := db.readSegment(seg)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("%w: read %s: %w", ErrUnavailable, seg.path, err)
	}
	s, err := scanSegment(data)
	if err != nil {
		return fmt.Errorf("%w: %s: %w; use a program as new as the one that wrote it", ErrUnavailable, seg.path, err)
	}
	r := &db.stats.Recovered
	r.Segments++
	r.Bytes += seg.size
	now := db.opt.Now()
	seg.created, seg.newest = now, 0
	if s.header != nil && len(data) <= logHeaderLen {
		// The header is synced before anything else is written: nothing was here.
		return db.removeTorn(seg, s.header)
	}
	if s.header != nil {
		seg.damaged = true
		db.opt.Logger.Warn("a segment's header is damaged", "path", seg.path, "why", s.header, "profiles_found", len(s.bodies))
	}
	if err := db.replayRecords(ctx, seg, s.bodies); err != nil {
		return err
	}
	if len(s.bodies) == 0 {
		seg.newest = now.UnixNano() // damaged or empty: it stays for a person to look at, as long as others do
	}
	for _, g := range s.gaps {
		r.Skipped += int64(g.len)
		seg.damaged = true
		db.opt.Logger.Error("the log is damaged: bytes were skipped; the segment is left as it is", "path", seg.path, "offset", g.off, "bytes", g.len)
	}
	tail := len(data) - s.good
	switch {
	case tail <= 0:
	case last && s.header == nil:
		return db.cutTail(seg, int64(s.good))
	default:
		r.Skipped += int64(tail)
		seg.damaged = true
		db.opt.Logger.Error("the log is damaged, or a write failed there: bytes after the last good record were skipped; the segment is left as it is",
			"path", seg.path, "offset", s.good, "bytes", tail)
	}
	return nil
}

// removeTorn removes a segment that a crash cut short as it was made.
func (db *DB) removeTorn(seg *segment, why error) error {
	if err := db.fs.Remove(seg.path); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err := db.fs.SyncDir(db.dir); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	db.forget(seg)
	db.stats.Recovered.Torn += seg.size
	db.opt.Logger.Warn("a segment was being made when the last run ended; it is removed", "path", seg.path, "bytes", seg.size, "why", why)
	return nil
}

// cutTail cuts the write that was under way when the last run ended.
func (db *DB) cutTail(seg *segment, good int64) error {
	f, err := db.fs.Append(seg.path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	err = f.Truncate(good)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("%w: cut the torn tail of %s: %w", ErrUnavailable, seg.path, err)
	}
	db.opt.Logger.Warn("a write was under way when the last run ended; its torn tail is cut, nothing acknowledged is lost",
		"path", seg.path, "offset", good, "bytes", seg.size-good)
	db.stats.Recovered.Torn += seg.size - good
	seg.size = good
	return nil
}

// replayRecords decodes on all cores and applies in order.
func (db *DB) replayRecords(ctx context.Context, seg *segment, bodies [][]byte) error {
	workers := runtime.GOMAXPROCS(0)
	jobs := make(chan func(), workers)
	order := make(chan *replayed, 4*workers)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for job := range jobs {
				job()
			}
		})
	}
	wg.Go(func() {
		defer close(order)
		defer close(jobs)
		for _, body := range bodies {
			if ctx.Err() != nil {
				return
			}
			x := &replayed{done: make(chan struct{})}
			order <- x
			jobs <- func() {
				defer close(x.done)
				x.u, x.key, x.err = decodeRecord(body, db.opt.Limits)
			}
		}
	})
	for x := range order {
		<-x.done
		db.replayOne(seg, x)
	}
	wg.Wait()
	return ctx.Err()
}

func (db *DB) replayOne(seg *segment, x *replayed) {
	r := &db.stats.Recovered
	if x.err != nil {
		r.Undecodable++
		seg.damaged = true
		db.opt.Logger.Error("a record of the log cannot be read; it is left there", "path", seg.path, "err", x.err)
		return
	}
	if _, ok := db.seen[x.key]; ok {
		r.Duplicates++
		return
	}
	db.seen[x.key] = nil
	seg.keys = append(seg.keys, x.key)
	seg.newest = max(seg.newest, min(db.opt.Now().UnixNano(), x.u.To.UnixNano()))
	r.Profiles++
	db.apply(&x.u, x.key, seg)
}

// decodeRecord is the upload in body, decoded. Bytes that passed their
// checksum and still break the decoder are an error like another: the store must start.
func decodeRecord(body []byte, lim profile.Limits) (u Upload, k key, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: decoder: %v", ErrCorrupt, r)
		}
	}()
	u, k, err = parseRecord(body)
	if err != nil {
		return u, k, err
	}
	if u.Profile, err = profile.DecodeBytes(u.Pprof, lim); err != nil {
		return u, k, fmt.Errorf("%s %s: %w", u.Name, u.Labels, err)
	}
	u.Pprof = nil
	return u, k, nil
}

var _ Store = (*DB)(nil)
