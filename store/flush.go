package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store/block"
)

// How long the flusher waits after a failure: at first, and at most.
const (
	flushRetry    = time.Second
	flushRetryMax = 30 * time.Second
)

// stagedPrefix and stagedTemp name the folders of flushDir: gen-00000012 is the blocks of segment 12, all of them.
const (
	stagedPrefix = "gen-"
	stagedTemp   = ".tmp"
)

// recentKeys are the uploads of a segment that was handed over.
type recentKeys struct {
	at   time.Time
	keys []key
}

// wakeFlusher says that a segment may be complete. Under mu or not.
func (db *DB) wakeFlusher() {
	select {
	case db.flushWake <- struct{}{}:
	default:
	}
}

// flushLoop is the flusher: it hands complete segments over, the oldest first.
func (db *DB) flushLoop() {
	wait := time.Duration(0)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-db.ctx.Done():
			return
		case <-db.flushWake:
			if wait > 0 {
				continue // the timer decides
			}
		case <-timer.C:
		}
		err := db.flushAll()
		db.noteFlush(err)
		switch {
		case err == nil:
			wait = 0
		default:
			wait = min(max(2*wait, flushRetry), flushRetryMax)
			timer.Reset(wait)
		}
	}
}

// noteFlush keeps the outcome for Healthy and logs when it changes.
func (db *DB) noteFlush(err error) {
	if db.ctx.Err() != nil {
		return
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	switch {
	case err != nil && db.flushErr == nil:
		db.opt.Logger.Error("profiles cannot be handed over; they stay in memory and in the log, and it is tried again", "err", err)
	case err == nil && db.flushErr != nil:
		db.opt.Logger.Info("profiles can be handed over again")
	}
	if err != nil {
		db.stats.FlushFailures++
	}
	db.flushErr = err
}

// flushAll hands over what is complete.
func (db *DB) flushAll() error {
	if err := db.putStaged(db.ctx); err != nil {
		return err
	}
	for {
		db.mu.Lock()
		var seg *segment
		if n := slices.IndexFunc(db.segments, func(s *segment) bool { return s.closed && s.pending == 0 }); n >= 0 {
			seg = db.segments[n]
		}
		db.mu.Unlock()
		if seg == nil {
			return nil
		}
		start := time.Now()
		if err := db.flush(seg); err != nil {
			return err
		}
		db.mu.Lock()
		db.stats.Flushes++
		db.stats.FlushedProfiles += int64(len(seg.keys))
		db.stats.LastFlush = time.Since(start)
		db.mu.Unlock()
	}
}

// flush hands one segment over: staged blocks, Put, out of memory, out of the log.
func (db *DB) flush(seg *segment) error {
	if seg.blocks == nil && len(seg.head.tenants) > 0 {
		staged, err := db.stage(seg)
		if err != nil {
			return fmt.Errorf("store: flush: %w", err)
		}
		db.mu.Lock()
		seg.blocks = staged
		// Questions that were asked before do not know that they must leave these blocks out.
		for seg.blind > 0 && db.ctx.Err() == nil {
			db.told.Wait()
		}
		db.mu.Unlock()
	}
	if err := db.ctx.Err(); err != nil {
		return err
	}
	if len(seg.blocks) > 0 {
		if err := db.opt.Backend.Put(db.ctx, seg.blocks); err != nil {
			return fmt.Errorf("store: flush: %w", err)
		}
	}
	// From here on the backend answers. What is still on disk is no more than a restart can tell.
	db.mu.Lock()
	seg.dropped = true
	db.recent = append(db.recent, recentKeys{db.opt.Now(), seg.keys})
	db.forgetLocked(seg)
	db.mu.Unlock()
	return db.removeFlushed(seg.path, seg.seq, seg.damaged)
}

// removeFlushed removes a segment that was handed over, and then its staged blocks' folder, which is what says so.
func (db *DB) removeFlushed(path string, seq uint64, damaged bool) error {
	if err := db.removeSegment(path, damaged); err != nil {
		return fmt.Errorf("store: remove %s, which was handed over: %w: %w", path, ErrUnavailable, err)
	}
	if err := vfs.RemoveAll(db.fs, db.stagedDir(seq)); err != nil {
		return fmt.Errorf("store: remove %s: %w: %w", db.stagedDir(seq), ErrUnavailable, err)
	}
	return nil
}

// removeSegment removes a segment's file. One with damage is set aside for a person to look at.
func (db *DB) removeSegment(path string, damaged bool) error {
	var err error
	if damaged {
		if err = makeDir(db.fs, db.damagedDir); err == nil {
			to := filepath.Join(db.damagedDir, filepath.Base(path))
			db.opt.Logger.Warn("a damaged segment of the log was handed over as far as it could be read; it is set aside", "path", to)
			if err = db.fs.Rename(path, to); err == nil {
				err = db.fs.SyncDir(db.damagedDir)
			}
		}
	} else {
		err = db.fs.Remove(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err == nil {
		err = db.fs.SyncDir(db.dir)
	}
	return err
}

func (db *DB) stagedDir(seq uint64) string {
	return filepath.Join(db.flushDir, fmt.Sprintf("%s%08d", stagedPrefix, seq))
}

// stage writes a segment's profiles as blocks, one for each tenant and hour of window
// starts. They are there all or not at all: their folder gets its name when they are synced.
func (db *DB) stage(seg *segment) ([]Staged, error) {
	dir := db.stagedDir(seg.seq)
	temp := dir + stagedTemp
	if err := makeDir(db.fs, db.flushDir); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	// An earlier try may have got somewhere.
	if err := errors.Join(vfs.RemoveAll(db.fs, temp), vfs.RemoveAll(db.fs, dir)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err := db.fs.MkdirAll(temp); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	var staged []Staged
	for name, t := range seg.head.tenants {
		for hour, entries := range t.byHour() {
			m, err := db.writeBlock(temp, name, t, hour, entries)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ErrUnavailable, errors.Join(err, vfs.RemoveAll(db.fs, temp)))
			}
			staged = append(staged, Staged{Dir: filepath.Join(dir, m.ULID.String()), Meta: m})
		}
	}
	err := db.fs.SyncDir(temp)
	if err == nil {
		err = db.fs.Rename(temp, dir)
	}
	if err == nil {
		err = db.fs.SyncDir(db.flushDir)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	slices.SortFunc(staged, func(a, b Staged) int { return a.Meta.ULID.Compare(b.Meta.ULID) })
	return staged, nil
}

// located is an entry with its series.
type located struct {
	s *series
	e *entry
}

// byHour is the tenant's profiles by the hour that their windows start in.
func (t *tenant) byHour() map[time.Time][]located {
	out := map[time.Time][]located{}
	for _, s := range t.series {
		for _, e := range s.entries {
			hour := time.Unix(0, align(e.from, int64(time.Hour))).UTC()
			out[hour] = append(out[hour], located{s, e})
		}
	}
	return out
}

// writeBlock writes profiles of one tenant and hour to a folder of dir.
func (db *DB) writeBlock(dir, tenant string, t *tenant, hour time.Time, entries []located) (block.Meta, error) {
	now := db.opt.Now()
	id, err := ulid.New(ulid.Timestamp(now), rand.Reader)
	if err != nil {
		return block.Meta{}, err
	}
	m := block.Meta{ULID: id, Region: db.opt.Region, Tenant: tenant, Level: block.LevelHead, Partition: hour, Created: now.UTC()}
	seriesOf, typeOf := map[*series]uint32{}, map[string]uint32{}
	for _, x := range entries {
		seriesOf[x.s] = 0
		for _, text := range x.e.shape.texts {
			typeOf[text] = 0
		}
	}
	for text := range typeOf {
		m.Types = append(m.Types, text)
	}
	slices.Sort(m.Types)
	for i, text := range m.Types {
		typeOf[text] = uint32(i)
	}
	var order []*series
	for s := range seriesOf {
		order = append(order, s)
	}
	face := func(s *series) block.Series { return block.Series{Name: s.name, Labels: s.labels} }
	slices.SortFunc(order, func(a, b *series) int { x, y := face(a), face(b); return x.Compare(&y) })
	for i, s := range order {
		seriesOf[s] = uint32(i)
		m.Series = append(m.Series, face(s))
	}
	tables, stacks, sets := db.tablesOf(t, entries)
	w, err := block.NewWriter(filepath.Join(dir, id.String()), m, tables, block.WriterOptions{FS: db.fs})
	if err != nil {
		return m, err
	}
	type columnRef struct {
		row block.Row
		c   *column
	}
	var refs []columnRef
	for _, x := range entries {
		for i := range x.e.columns {
			refs = append(refs, columnRef{block.Row{Series: seriesOf[x.s], Type: typeOf[x.e.shape.texts[i]], ID: x.e.id, From: x.e.from, To: x.e.to,
				Duration: x.e.duration, Period: x.e.period, Total: x.e.columns[i].total}, &x.e.columns[i]})
		}
	}
	slices.SortFunc(refs, func(a, b columnRef) int {
		x, y := &a.row, &b.row
		return cmp.Or(cmp.Compare(x.Type, y.Type), cmp.Compare(x.Series, y.Series), cmp.Compare(x.From, y.From), cmp.Compare(x.ID.Hi, y.ID.Hi), cmp.Compare(x.ID.Lo, y.ID.Lo))
	})
	var row block.Row
	for i := range refs {
		sets0, stacks0, values0 := row.Sets[:0], row.Stacks[:0], row.Values[:0]
		row = refs[i].row
		refs[i].c.each(func(set, stack uint32, v int64) {
			if stacks != nil {
				set, stack = sets[set], stacks[stack]
			}
			sets0, stacks0, values0 = append(sets0, set), append(stacks0, stack), append(values0, v)
		})
		row.Sets, row.Stacks, row.Values = sets0, stacks0, values0
		if err := w.Add(&row); err != nil {
			return m, errors.Join(err, w.Abort())
		}
	}
	return w.Close()
}

// tablesOf is the dictionary of a block of these profiles, and its numbers of the tenant's stacks and label sets: nil if
// they are the same. Where the block has all the tenant has it is the tenant's. Numbers keep their order.
func (db *DB) tablesOf(t *tenant, entries []located) (tables *block.Tables, stacks, sets []uint32) {
	all := 0
	for _, s := range t.series {
		all += len(s.entries)
	}
	if all == len(entries) {
		return &t.view, nil, nil
	}
	usedStacks, usedSets := make([]bool, t.view.Stacks.Len()), make([]bool, len(t.view.LabelSets))
	for _, x := range entries {
		for i := range x.e.columns {
			x.e.columns[i].each(func(set, stack uint32, _ int64) { usedStacks[stack], usedSets[set] = true, true })
		}
	}
	d := block.NewDict()
	stacks, sets = d.Add(&t.view, usedStacks, usedSets)
	return &d.Tables, stacks, sets
}

// recoverFlush finds what an earlier run was handing over: blocks that were staged are put again, as the same, and
// their segments are not read.
func (db *DB) recoverFlush(ctx context.Context) error {
	names, err := db.fs.List(db.flushDir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(names) == 0 {
		return db.recoverRecent(ctx)
	} else if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if db.opt.Backend == nil {
		return fmt.Errorf("%w: %s has blocks that wait to be handed over, and there is no backend to take them", ErrInvalid, db.flushDir)
	}
	for _, name := range names {
		path := filepath.Join(db.flushDir, name)
		if strings.HasSuffix(name, stagedTemp) {
			if err := vfs.RemoveAll(db.fs, path); err != nil {
				return fmt.Errorf("%w: %w", ErrUnavailable, err)
			}
			continue
		}
		seq, ok := segmentSeq(strings.TrimPrefix(name, stagedPrefix) + logSuffix)
		if !ok || !strings.HasPrefix(name, stagedPrefix) {
			db.opt.Logger.Warn("a file in the folder of staged blocks is not of them; it is left alone", "path", path)
			continue
		}
		if err := db.recoverStaged(ctx, path, seq); err != nil {
			return err
		}
	}
	// Put before the first question, where that is quick (a bucket's queue is): until then they are in no answer.
	quick, cancel := context.WithTimeout(ctx, startPut)
	defer cancel()
	if err := db.putStaged(quick); err != nil {
		db.opt.Logger.Warn("blocks that an earlier run staged are not in answers yet", "err", err)
	}
	return db.recoverRecent(ctx)
}

// startPut is how long a start waits for a backend to take what an earlier run staged.
const startPut = 2 * time.Second

// recoverStaged takes up the blocks of one segment.
func (db *DB) recoverStaged(ctx context.Context, dir string, seq uint64) error {
	ids, err := db.fs.List(dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	var found []Staged
	for _, id := range ids {
		s, keys, err := db.readStaged(ctx, filepath.Join(dir, id))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a Put took what was in it
		} else if err != nil {
			return fmt.Errorf("staged block %s: %w; move it away to start without it", filepath.Join(dir, id), err)
		}
		found = append(found, s)
		db.remember(keys)
	}
	seg := filepath.Join(db.dir, segmentName(seq))
	damaged := false
	size := int64(0)
	if st, err := db.fs.Stat(seg); err == nil {
		size = st.Size
	}
	if raw, err := db.readSegment(&segment{path: seg, size: size}); err == nil {
		s, err := scanSegment(raw)
		damaged = err != nil || s.header != nil || len(s.gaps) > 0 || s.good < len(raw)
	}
	if err := db.removeSegment(seg, damaged); err != nil {
		return fmt.Errorf("%w: remove %s, whose blocks are staged: %w", ErrUnavailable, seg, err)
	}
	db.log.next = max(db.log.next, seq)
	if len(found) == 0 {
		if err := vfs.RemoveAll(db.fs, dir); err != nil {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return nil
	}
	db.staged = append(db.staged, found...)
	return nil
}

// readStaged is a staged block and the uploads in it.
func (db *DB) readStaged(ctx context.Context, dir string) (Staged, []key, error) {
	st, err := db.fs.Stat(filepath.Join(dir, block.MetaFile))
	if err != nil {
		return Staged{}, nil, err
	}
	raw, err := block.DirSource(db.fs, dir)(ctx, block.MetaFile, 0, st.Size)
	if err != nil {
		return Staged{}, nil, err
	}
	m, err := block.ReadMeta(raw)
	if err != nil {
		return Staged{}, nil, err
	}
	r, err := block.Open(ctx, m, block.DirSource(db.fs, dir))
	if err != nil {
		return Staged{}, nil, err
	}
	cols, err := r.Profiles(ctx, nil)
	if err != nil {
		return Staged{}, nil, err
	}
	return Staged{Dir: dir, Meta: m}, cols.ID, nil
}

// remember notes uploads that were acknowledged before the start.
func (db *DB) remember(keys []key) {
	for _, k := range keys {
		db.seen[k] = nil
	}
	db.recent = append(db.recent, recentKeys{db.opt.Now(), keys})
}

// recoverRecent asks the backend for the uploads that came of late. That it cannot say is no
// reason not to start: an upload that is sent again may then be kept twice, and it is said.
func (db *DB) recoverRecent(ctx context.Context) error {
	if db.opt.Backend == nil {
		return nil
	}
	keys, err := db.opt.Backend.Recent(ctx, db.opt.Now().Add(-db.opt.DedupeFor))
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		db.opt.Logger.Warn("what was kept of late cannot be asked for: an upload that is sent again may be kept twice", "err", err)
		return nil
	}
	db.remember(keys)
	return nil
}

// putStaged puts the blocks that were found at the start.
func (db *DB) putStaged(ctx context.Context) error {
	db.mu.Lock()
	staged := db.staged
	db.mu.Unlock()
	if len(staged) == 0 {
		return nil
	}
	if err := db.opt.Backend.Put(ctx, staged); err != nil {
		return fmt.Errorf("store: flush: %w", err)
	}
	db.mu.Lock()
	db.staged = nil
	db.mu.Unlock()
	for _, s := range staged {
		ChangesOf(&s.Meta, db.tell)
	}
	var errs []error
	for _, s := range staged {
		errs = append(errs, vfs.RemoveAll(db.fs, filepath.Dir(s.Dir)))
	}
	return errors.Join(errs...)
}

// forgetRecent forgets uploads of long ago, and the oldest where there are too many.
func (db *DB) forgetRecent() {
	db.mu.Lock()
	defer db.mu.Unlock()
	n := 0
	for _, r := range db.recent {
		n += len(r.keys)
	}
	old := db.opt.Now().Add(-db.opt.DedupeFor)
	for len(db.recent) > 0 && (db.recent[0].at.Before(old) || n > db.opt.MaxRecent) {
		for _, k := range db.recent[0].keys {
			if p, ok := db.seen[k]; ok && p == nil {
				delete(db.seen, k)
			}
		}
		n -= len(db.recent[0].keys)
		db.recent = db.recent[1:]
	}
}

// handedOver says whether the backend takes what it is given: memory and log that wait for it are bounded. Under mu.
func (db *DB) handedOver() error {
	if db.opt.Backend == nil {
		return nil
	}
	var log int64
	for _, s := range db.segments {
		log += s.size
	}
	if db.stats.HeadBytes <= db.opt.MaxHeadBytes && log <= db.opt.MaxBytes {
		return nil
	}
	return fmt.Errorf("store: append: %w: %d MiB in memory and %d MiB of log wait to be handed over, the limits are %d and %d: %w", ErrOverloaded,
		db.stats.HeadBytes>>20, log>>20, db.opt.MaxHeadBytes>>20, db.opt.MaxBytes>>20, cmp.Or(db.flushErr, errSlow))
}

// source is what a question is answered from.
type source struct {
	heads   []*head
	exclude []ulid.ULID
	blind   []*segment
}

// sources takes a snapshot: what is in memory, and which blocks the backend must leave out because they are. leave must be
// called when the question is done.
func (db *DB) sources() (src source, leave func()) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, seg := range db.segments {
		src.heads = append(src.heads, seg.head)
		if db.opt.Backend == nil {
			continue
		}
		if seg.blocks == nil {
			seg.blind++
			src.blind = append(src.blind, seg)
		}
		for _, b := range seg.blocks {
			src.exclude = append(src.exclude, b.Meta.ULID)
		}
	}
	return src, func() {
		if len(src.blind) == 0 {
			return
		}
		db.mu.Lock()
		defer db.mu.Unlock()
		for _, seg := range src.blind {
			seg.blind--
		}
		db.told.Broadcast()
	}
}
