package clickhouse

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/store"
)

// watchBack is how late a row may come to the replica that is asked, after it was recorded.
const watchBack = 10 * time.Minute

// Watch is of [store.Backend]: blocks that are recorded by others. What this process puts meanwhile is left out.
func (db *DB) Watch(ctx context.Context, since time.Time, see func(store.Change)) error {
	w := &watch{db: db, since: since, seen: map[string]int64{}}
	db.mu.Lock()
	db.watching++
	db.mu.Unlock()
	defer func() {
		db.mu.Lock()
		defer db.mu.Unlock()
		if db.watching--; db.watching == 0 {
			clear(db.mine)
		}
	}()
	tick := time.NewTicker(db.opt.WatchEvery)
	defer tick.Stop()
	for failed := false; ; {
		err := w.poll(ctx, see)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !failed:
			db.opt.Logger.Warn("blocks of other servers cannot be asked for; it is tried again", "err", err)
		}
		failed = err != nil
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// watch is where one who watches stands.
type watch struct {
	db     *DB
	since  time.Time        // of the blocks that count the first time
	newest int64            // recorded, of those that were seen; Unix milliseconds
	seen   map[string]int64 // block -> when it was recorded; those that may come once more
	polled bool
}

// poll asks for blocks that were recorded lately, and tells what is in those that are new. After an error the next one asks for
// the same.
func (w *watch) poll(ctx context.Context, see func(store.Change)) error {
	sql := "SELECT block, toUnixTimestamp64Milli(recorded), toUnixTimestamp64Nano(first), toUnixTimestamp64Nano(last), toUnixTimestamp64Milli(created) FROM blocks"
	if w.polled {
		sql += fmt.Sprintf(" WHERE recorded >= fromUnixTimestamp64Milli(toInt64(%d))", w.newest-watchBack.Milliseconds())
	}
	rs, err := w.db.ask(ctx, sql, "String", "Int64", "Int64", "Int64", "Int64")
	if err != nil {
		return err
	}
	fresh := map[string]int64{} // and those that are not told of
	var ids []string
	newest, first, last := w.newest, int64(math.MaxInt64), int64(math.MinInt64)
	for rs.next() {
		id, recorded, from, to, created := rs.text(), rs.int64(), rs.int64(), rs.int64(), rs.int64()
		if rs.err != nil {
			break
		}
		newest = max(newest, recorded)
		if _, ok := w.seen[id]; ok {
			continue
		}
		fresh[id] = recorded
		if w.db.isMine(id) || !w.polled && time.UnixMilli(created).Before(w.since) {
			continue
		}
		ids = append(ids, id)
		first, last = min(first, from), max(last, to)
	}
	if err := rs.close(); err != nil {
		return err
	}
	for lo := 0; lo < len(ids); lo += perStatement {
		if err := w.tell(ctx, ids[lo:min(lo+perStatement, len(ids))], first, last, see); err != nil {
			return err
		}
	}
	for id, at := range fresh {
		w.seen[id] = at
	}
	for id, at := range w.seen {
		if at < newest-2*watchBack.Milliseconds() {
			delete(w.seen, id)
		}
	}
	w.newest, w.polled = newest, true
	w.db.forgetMine()
	return nil
}

// tell tells the minutes of the blocks' profiles, by service and name.
func (w *watch) tell(ctx context.Context, ids []string, first, last int64, see func(store.Change)) error {
	rs, err := w.db.ask(ctx, fmt.Sprintf("SELECT tenant, service, type, %s AS minute FROM profiles WHERE time >= %s AND time < %s AND block IN %s GROUP BY tenant, service, type, minute",
		aligned("time", time.Minute), instant(first), instant(last), list(ids, quote)), "String", "String", "String", "Int64")
	if err != nil {
		return err
	}
	for rs.next() {
		tenant, service, typ, at := rs.text(), rs.text(), rs.text(), rs.int64()
		if rs.err != nil {
			break
		}
		name, _, _ := strings.Cut(typ, ":")
		from := time.Unix(0, at).UTC()
		see(store.Change{Tenant: tenant, Service: service, Name: name, From: from, To: from.Add(time.Minute)})
	}
	return rs.close()
}

// isMine says whether this process put the block while somebody watched: it was told of by the store's head.
func (db *DB) isMine(id string) bool {
	u, err := ulid.ParseStrict(id)
	db.mu.Lock()
	defer db.mu.Unlock()
	_, ok := db.mine[u]
	return err == nil && ok
}

// forgetMine forgets blocks that were put, or tried last, so long ago that no poll finds them new.
func (db *DB) forgetMine() {
	now := db.opt.Now()
	db.mu.Lock()
	defer db.mu.Unlock()
	for id, at := range db.mine {
		if now.Sub(at) > 2*watchBack {
			delete(db.mine, id)
		}
	}
}
