package control

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Lease is a name that one holder has, among all who share the database. It is renewed in the
// background until Release, or until the context it was taken with ends.
type Lease struct {
	db     *DB
	name   string
	token  int64
	ttl    time.Duration
	ctx    context.Context
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when renewing has ended
	once   sync.Once
}

// The bounds of what a lease may ask for.
const (
	minTTL  = 50 * time.Millisecond
	maxTTL  = 24 * time.Hour
	maxName = 1000
)

// keepExpired is how long the row of a lease that nobody released is kept, so that a person can see who had it.
const keepExpired = 24 * time.Hour

// Lease takes name for holder, if nobody has it: ok is false if another does. holder is for people to
// read; two leases of one holder exclude each other too.
//
// A holder that dies without Release has the lease until ttl is over. One that lives renews it
// three times within ttl. One that cannot (the database is away, or has given the lease
// to another) finds its Context ended before ttl has passed since the last renewal that
// came through, as its own clock counts, so that two never work at once; a process
// that was stopped as a whole (a laptop asleep) may still wake and believe for a moment, and so whatever
// is written under a lease must be safe to write twice, or carry the Token.
//
// Time is the database's. If its clock goes back, leases from its future are taken to have been
// renewed just now; if it goes forward, a lease may be given to another early, and the first holder is
// told at its next renewal.
func (d *DB) Lease(ctx context.Context, name, holder string, ttl time.Duration) (l *Lease, ok bool, err error) {
	if name == "" || len(name) > maxName || len(holder) > maxName || ttl < minTTL || ttl > maxTTL {
		return nil, false, fmt.Errorf("control: lease %.40q for %v: %w: a name has 1 to %d bytes, a time is from %v to %v", name, ttl, ErrInvalid, maxName, minTTL, maxTTL)
	}
	asked := time.Now()
	if taken, err := d.taken(ctx, name); taken || err != nil {
		return nil, false, err
	}
	var token int64
	err = d.change(ctx, func(ctx context.Context, tx *sql.Tx) error {
		token, err = d.take(ctx, tx, name, holder, ttl)
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("control: %s: lease %s: %w", d.name, name, err)
	}
	if token == 0 {
		return nil, false, nil
	}
	l = &Lease{db: d, name: name, token: token, ttl: ttl, done: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	go l.renew(asked)
	return l, true, nil
}

// taken says whether another surely has the lease, without a lock: who ask in vain must not keep the
// holder from renewing.
func (d *DB) taken(ctx context.Context, name string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, d.opt.Timeout)
	defer cancel()
	now := d.now()
	var n int
	q := "select count(*) from leases where name = ?1 and renewed <= " + now + " and renewed + ttl > " + now
	if err := d.sql.QueryRowContext(ctx, d.kind.param(q), name).Scan(&n); err != nil {
		return false, fmt.Errorf("control: %s: lease %s: %w", d.name, name, word(err))
	}
	return n > 0, nil
}

// take is the token of a new lease, 0 if another has it. All who take wait for each other at the row
// of tokens.
func (d *DB) take(ctx context.Context, tx *sql.Tx, name, holder string, ttl time.Duration) (int64, error) {
	var token, now int64
	if err := tx.QueryRowContext(ctx, "update tokens set last = last + 1 returning last").Scan(&token); err != nil {
		return 0, err
	}
	if err := tx.QueryRowContext(ctx, "select "+d.now()).Scan(&now); err != nil {
		return 0, err
	}
	var renewed, has int64
	err := tx.QueryRowContext(ctx, d.kind.param("select renewed, ttl from leases where name = ?1"), name).Scan(&renewed, &has)
	switch {
	case errors.Is(err, sql.ErrNoRows):
	case err != nil:
		return 0, err
	case renewed > now:
		_, err := tx.ExecContext(ctx, d.kind.param("update leases set renewed = ?1 where name = ?2"), now, name)
		return 0, err
	case now < renewed+has:
		return 0, nil
	}
	_, err = tx.ExecContext(ctx, d.kind.param(`insert into leases (name, holder, token, renewed, ttl) values (?1, ?2, ?3, ?4, ?5)
		on conflict (name) do update set holder = excluded.holder, token = excluded.token, renewed = excluded.renewed, ttl = excluded.ttl`),
		name, holder, token, now, ttl.Microseconds())
	if err != nil {
		return 0, err
	}
	_, err = tx.ExecContext(ctx, d.kind.param("delete from leases where renewed + ttl < ?1"), now-keepExpired.Microseconds())
	return token, err
}

// renew keeps the lease until it is released, or lost. asked is when the last renewal that
// came through was asked for: the database's time of it is later.
func (l *Lease) renew(asked time.Time) {
	defer close(l.done)
	every := l.ttl / 3
	end := time.AfterFunc(time.Until(asked.Add(l.ttl-l.ttl/10)), func() {
		l.cancel(fmt.Errorf("control: lease %s: %w: it could not be renewed for %v", l.name, ErrLost, l.ttl))
	})
	defer end.Stop()
	tick := time.NewTicker(every)
	defer tick.Stop()
	failed := false
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
		}
		asked := time.Now()
		mine, err := l.touch()
		switch {
		case l.ctx.Err() != nil:
			return
		case err != nil:
			if !failed {
				l.db.opt.Logger.Warn("a lease could not be renewed", "lease", l.name, "err", err)
			}
			failed = true
			continue
		case !mine:
			l.cancel(fmt.Errorf("control: lease %s: %w: another has it", l.name, ErrLost))
			return
		}
		failed = false
		// Stopped, it would have fired just now: then the lease is lost, though the database has it still.
		if !end.Stop() {
			return
		}
		end.Reset(time.Until(asked.Add(l.ttl - l.ttl/10)))
	}
}

// touch renews the lease, and says whether it is still this one's.
func (l *Lease) touch() (bool, error) {
	// A renewal that takes longer than the lease is no use.
	ctx, cancel := context.WithTimeout(l.ctx, l.ttl)
	defer cancel()
	var n int64
	err := l.db.change(ctx, func(ctx context.Context, tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, l.db.kind.param("update leases set renewed = "+l.db.now()+" where name = ?1 and token = ?2"), l.name, l.token)
		if err != nil {
			return err
		}
		n, err = r.RowsAffected()
		return err
	})
	return n == 1, err
}

// Context ends when the lease is lost, released, or the context that it was taken with ends. Its cause
// is [ErrLost] in the first case.
func (l *Lease) Context() context.Context { return l.ctx }

// Token is greater than that of every lease taken before, of whatever name: a fencing token.
func (l *Lease) Token() int64 { return l.token }

// Release gives the lease back, so that another may have it at once. Its context ends first. An error means that
// the lease lies until it expires.
func (l *Lease) Release() error {
	var err error
	l.once.Do(func() {
		l.cancel(context.Canceled)
		<-l.done
		err = l.db.change(context.WithoutCancel(l.ctx), func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, l.db.kind.param("delete from leases where name = ?1 and token = ?2"), l.name, l.token)
			return err
		})
		if err != nil {
			err = fmt.Errorf("control: %s: release of lease %s: %w", l.db.name, l.name, err)
		}
	})
	return err
}
