package control

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// The words of findings.
var (
	ErrNotFound = errors.New("not found") // no such finding
	ErrConflict = errors.New("conflict")  // it was changed since it was read: read it again
)

// Finding is the row of a finding. What it says is in Doc, which is not read here; beside it stands what findings are
// looked up by.
type Finding struct {
	Tenant, ID           string // which it is
	Service, Kind, State string
	FirstSeen, LastSeen  time.Time // to the microsecond
	// Updated is when it was written last, by the database's clock. Put sets it.
	Updated time.Time
	// Version counts how often it was written. Put wants that of the row that was read, 0 of one that is not there
	// yet, and sets the new one.
	Version int64
	Doc     []byte // JSON
}

// Event is a line of a finding's history.
type Event struct {
	Seq   int64     // from 1 on; Put sets it
	Time  time.Time // by the database's clock; Put sets it
	Actor string    // who: a person, or the part of this program
	What  string    // a word: "found", "acknowledged", ...
	Doc   []byte    // JSON, or nothing
}

// Bounds of what is kept. Past them a write is ErrInvalid.
const (
	MaxDoc    = 256 << 10 // bytes of one document
	MaxEvents = 1000      // of one finding; past it the oldest go
	maxText   = 1000      // bytes of any other text
)

// Tx is a transaction: all that is written through it is there when Update returns nil, and none of it else. One goroutine uses
// it, and only until the function that got it returns.
type Tx struct {
	d   *DB
	ctx context.Context
	tx  *sql.Tx
	row rower // tx, or the database itself for what only reads
}

type rower interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// Update runs f in one transaction, which ends with f's error if there is one. It is bound by Options.Timeout, and others who
// write may wait for it: f should do nothing but read and write here.
func (d *DB) Update(ctx context.Context, f func(*Tx) error) error {
	err := d.change(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := f(&Tx{d, ctx, tx, tx}); err != nil {
			return own{err}
		}
		return nil
	})
	var o own
	if errors.As(err, &o) {
		return o.error // it has its word, or is the caller's
	}
	if err != nil {
		return fmt.Errorf("control: %s: update: %w", d.name, err)
	}
	return nil
}

// own is an error that needs no word of ours.
type own struct{ error }

func (o own) Unwrap() error { return o.error }

const findingColumns = "tenant, id, service, kind, state, first_seen, last_seen, updated, version, doc"

type scanner interface{ Scan(...any) error }

func scanFinding(row scanner) (f Finding, err error) {
	var first, last, updated int64
	var doc string
	if err := row.Scan(&f.Tenant, &f.ID, &f.Service, &f.Kind, &f.State, &first, &last, &updated, &f.Version, &doc); err != nil {
		return f, err
	}
	f.FirstSeen, f.LastSeen, f.Updated, f.Doc = time.UnixMicro(first).UTC(), time.UnixMicro(last).UTC(), time.UnixMicro(updated).UTC(), []byte(doc)
	return f, nil
}

func (t *Tx) failed(what string, err error) error {
	return fmt.Errorf("control: %s: %s: %w", t.d.name, what, word(err))
}

// Finding reads one; [ErrNotFound].
func (t *Tx) Finding(tenant, id string) (Finding, error) {
	f, err := scanFinding(t.row.QueryRowContext(t.ctx, t.d.kind.param("select "+findingColumns+" from findings where tenant = ?1 and id = ?2"), tenant, id))
	if errors.Is(err, sql.ErrNoRows) {
		return f, fmt.Errorf("control: finding %.40q of %.40q: %w", id, tenant, ErrNotFound)
	}
	if err != nil {
		return f, t.failed("finding "+id, err)
	}
	return f, nil
}

// Put writes a finding and, after those that there are, lines of its history. [ErrConflict] if it is not of the version that
// f names; then the transaction may go on.
func (t *Tx) Put(f *Finding, events ...Event) error {
	if err := checkFinding(f, events); err != nil {
		return fmt.Errorf("control: finding %.40q: %w: %w", f.ID, ErrInvalid, err)
	}
	var now int64
	if err := t.row.QueryRowContext(t.ctx, "select "+t.d.now()).Scan(&now); err != nil {
		return t.failed("put finding "+f.ID, err)
	}
	q := "insert into findings (" + findingColumns + ") values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 + 1, ?10) on conflict (tenant, id) do nothing"
	if f.Version > 0 {
		q = "update findings set service = ?3, kind = ?4, state = ?5, first_seen = ?6, last_seen = ?7, updated = ?8, version = version + 1, doc = ?10 where tenant = ?1 and id = ?2 and version = ?9"
	}
	r, err := t.tx.ExecContext(t.ctx, t.d.kind.param(q), f.Tenant, f.ID, f.Service, f.Kind, f.State, f.FirstSeen.UnixMicro(), f.LastSeen.UnixMicro(), now, f.Version, string(f.Doc))
	if err != nil {
		return t.failed("put finding "+f.ID, err)
	}
	if n, err := r.RowsAffected(); err != nil {
		return t.failed("put finding "+f.ID, err)
	} else if n == 0 {
		return fmt.Errorf("control: finding %.40q of %.40q: %w: it is not of version %d", f.ID, f.Tenant, ErrConflict, f.Version)
	}
	if err := t.events(f, now, events); err != nil {
		return t.failed("history of finding "+f.ID, err)
	}
	f.Version++
	f.Updated = time.UnixMicro(now).UTC()
	f.FirstSeen, f.LastSeen = f.FirstSeen.Truncate(time.Microsecond), f.LastSeen.Truncate(time.Microsecond)
	return nil
}

// events writes lines of the history.
func (t *Tx) events(f *Finding, now int64, events []Event) error {
	if len(events) == 0 {
		return nil
	}
	var seq int64
	if err := t.row.QueryRowContext(t.ctx, t.d.kind.param("select coalesce(max(seq), 0) from finding_events where tenant = ?1 and finding = ?2"), f.Tenant, f.ID).Scan(&seq); err != nil {
		return err
	}
	for i := range events {
		e := &events[i]
		seq++
		_, err := t.tx.ExecContext(t.ctx, t.d.kind.param("insert into finding_events (tenant, finding, seq, at, actor, what, doc) values (?1, ?2, ?3, ?4, ?5, ?6, ?7)"),
			f.Tenant, f.ID, seq, now, e.Actor, e.What, string(e.Doc))
		if err != nil {
			return err
		}
		e.Seq, e.Time = seq, time.UnixMicro(now).UTC()
	}
	_, err := t.tx.ExecContext(t.ctx, t.d.kind.param("delete from finding_events where tenant = ?1 and finding = ?2 and seq <= ?3"), f.Tenant, f.ID, seq-MaxEvents)
	return err
}

func checkFinding(f *Finding, events []Event) error {
	for _, x := range []struct {
		what, text string
		empty      bool
	}{{"tenant", f.Tenant, false}, {"id", f.ID, false}, {"service", f.Service, true}, {"kind", f.Kind, false}, {"state", f.State, false}} {
		if err := checkText(x.what, x.text, x.empty); err != nil {
			return err
		}
	}
	switch {
	case f.Version < 0:
		return fmt.Errorf("version %d", f.Version)
	case f.FirstSeen.IsZero() || f.LastSeen.Before(f.FirstSeen):
		return fmt.Errorf("seen from %v to %v", f.FirstSeen, f.LastSeen)
	case len(events) > MaxEvents:
		return fmt.Errorf("%d events at once, at most %d can be", len(events), MaxEvents)
	}
	for i := range events {
		if err := errors.Join(checkText("actor", events[i].Actor, true), checkText("what", events[i].What, false)); err != nil {
			return fmt.Errorf("event %d: %w", i, err)
		}
		if len(events[i].Doc) == 0 {
			continue
		}
		if err := checkDoc(events[i].Doc); err != nil {
			return fmt.Errorf("event %d: %w", i, err)
		}
	}
	return checkDoc(f.Doc)
}

// checkText: both databases keep any UTF-8 but the byte 0.
func checkText(what, s string, empty bool) error {
	if s == "" && !empty || len(s) > maxText || !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		return fmt.Errorf("%s %.40q: it must be UTF-8 of at most %d bytes, without a byte 0", what, s, maxText)
	}
	return nil
}

func checkDoc(doc []byte) error {
	if len(doc) > MaxDoc {
		return fmt.Errorf("a document of %d bytes, at most %d can be", len(doc), MaxDoc)
	}
	if !json.Valid(doc) || !utf8.Valid(doc) {
		return errors.New("the document is not JSON in UTF-8")
	}
	return nil
}

// Mark reads what SetMark wrote last, nil if nothing.
func (t *Tx) Mark(tenant, name string) ([]byte, error) {
	var doc string
	err := t.row.QueryRowContext(t.ctx, t.d.kind.param("select doc from marks where tenant = ?1 and name = ?2"), tenant, name).Scan(&doc)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, t.failed("mark "+name, err)
	}
	return []byte(doc), nil
}

// SetMark keeps a small document under a name: how far something has come, as JSON. Nil removes it.
func (t *Tx) SetMark(tenant, name string, doc []byte) error {
	err := errors.Join(checkText("tenant", tenant, true), checkText("name", name, false))
	if err == nil && doc != nil {
		err = checkDoc(doc)
	}
	if err != nil {
		return fmt.Errorf("control: mark %.40q: %w: %w", name, ErrInvalid, err)
	}
	if doc == nil {
		_, err = t.tx.ExecContext(t.ctx, t.d.kind.param("delete from marks where tenant = ?1 and name = ?2"), tenant, name)
	} else {
		_, err = t.tx.ExecContext(t.ctx, t.d.kind.param("insert into marks (tenant, name, doc) values (?1, ?2, ?3) on conflict (tenant, name) do update set doc = excluded.doc"), tenant, name, string(doc))
	}
	if err != nil {
		return t.failed("mark "+name, err)
	}
	return nil
}

// Finding is of [Tx].
func (d *DB) Finding(ctx context.Context, tenant, id string) (Finding, error) {
	ctx, cancel := context.WithTimeout(ctx, d.opt.Timeout)
	defer cancel()
	t := Tx{d: d, ctx: ctx, row: d.sql}
	return t.Finding(tenant, id)
}

// Put is of [Tx], in a transaction of its own.
func (d *DB) Put(ctx context.Context, f *Finding, events ...Event) error {
	return d.Update(ctx, func(t *Tx) error { return t.Put(f, events...) })
}

// Mark is of [Tx].
func (d *DB) Mark(ctx context.Context, tenant, name string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, d.opt.Timeout)
	defer cancel()
	t := Tx{d: d, ctx: ctx, row: d.sql}
	return t.Mark(tenant, name)
}

// SetMark is of [Tx], in a transaction of its own.
func (d *DB) SetMark(ctx context.Context, tenant, name string, doc []byte) error {
	return d.Update(ctx, func(t *Tx) error { return t.SetMark(tenant, name, doc) })
}

// FindingFilter says which findings. What is empty does not count.
type FindingFilter struct {
	Tenant, Service string
	Kinds, States   []string
	Since           time.Time // last seen then or later
	// After goes on behind the last finding of an answer that had more.
	After *Finding
	Limit int // 0 is 100; at most MaxFindings
}

// Bounds of one answer: past them there is more to ask for.
const (
	MaxFindings     = 1000
	maxFindingBytes = 32 << 20
)

// Findings lists findings, those that were seen last first. more says that there are others behind the last: as many as
// the limit are one answer, or fewer where their documents are large.
func (d *DB) Findings(ctx context.Context, filter FindingFilter) (found []Finding, more bool, err error) {
	limit := filter.Limit
	if limit == 0 {
		limit = 100
	}
	if limit < 1 || limit > MaxFindings || len(filter.Kinds) > 100 || len(filter.States) > 100 {
		return nil, false, fmt.Errorf("control: findings: %w: a limit of %d, %d kinds and %d states: at most %d, 100 and 100 can be", ErrInvalid, filter.Limit, len(filter.Kinds), len(filter.States), MaxFindings)
	}
	q, args := d.findingsQuery(filter, limit+1)
	ctx, cancel := context.WithTimeout(ctx, d.opt.Timeout)
	defer cancel()
	rows, err := d.sql.QueryContext(ctx, q, args...)
	if err != nil {
		return nil, false, fmt.Errorf("control: %s: findings: %w", d.name, word(err))
	}
	defer rows.Close()
	bytes := 0
	for rows.Next() {
		if len(found) == limit || bytes > maxFindingBytes {
			return found, true, nil
		}
		f, err := scanFinding(rows)
		if err != nil {
			return nil, false, fmt.Errorf("control: %s: findings: %w", d.name, word(err))
		}
		bytes += len(f.Doc)
		found = append(found, f)
	}
	if err := rows.Err(); err != nil {
		return nil, false, fmt.Errorf("control: %s: findings: %w", d.name, word(err))
	}
	return found, false, nil
}

func (d *DB) findingsQuery(filter FindingFilter, limit int) (string, []any) {
	var args []any
	arg := func(v any) string {
		args = append(args, v)
		return fmt.Sprint("?", len(args))
	}
	where := []string{"1 = 1"}
	in := func(column string, values ...string) {
		var list []string
		for _, v := range values {
			if v != "" {
				list = append(list, arg(v))
			}
		}
		if len(list) > 0 {
			where = append(where, column+" in ("+strings.Join(list, ", ")+")")
		}
	}
	in("tenant", filter.Tenant)
	in("service", filter.Service)
	in("kind", filter.Kinds...)
	in("state", filter.States...)
	if !filter.Since.IsZero() {
		where = append(where, "last_seen >= "+arg(filter.Since.UnixMicro()))
	}
	if a := filter.After; a != nil {
		at, tenant, id := arg(a.LastSeen.UnixMicro()), arg(a.Tenant), arg(a.ID)
		where = append(where, "(last_seen < "+at+" or last_seen = "+at+" and (tenant > "+tenant+" or tenant = "+tenant+" and id > "+id+"))")
	}
	return d.kind.param("select " + findingColumns + " from findings where " + strings.Join(where, " and ") + " order by last_seen desc, tenant, id limit " + arg(limit)), args
}

// Events is a finding's history, the oldest first.
func (d *DB) Events(ctx context.Context, tenant, id string) ([]Event, error) {
	ctx, cancel := context.WithTimeout(ctx, d.opt.Timeout)
	defer cancel()
	rows, err := d.sql.QueryContext(ctx, d.kind.param("select seq, at, actor, what, doc from finding_events where tenant = ?1 and finding = ?2 order by seq"), tenant, id)
	if err != nil {
		return nil, fmt.Errorf("control: %s: history of finding %s: %w", d.name, id, word(err))
	}
	defer rows.Close()
	var out []Event
	for rows.Next() {
		var e Event
		var at int64
		var doc string
		if err := rows.Scan(&e.Seq, &at, &e.Actor, &e.What, &doc); err != nil {
			return nil, fmt.Errorf("control: %s: history of finding %s: %w", d.name, id, word(err))
		}
		e.Time = time.UnixMicro(at).UTC()
		if doc != "" {
			e.Doc = []byte(doc)
		}
		out = append(out, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("control: %s: history of finding %s: %w", d.name, id, word(err))
	}
	return out, nil
}

// DropFindings removes findings of one state that were written last before a time, with their history, and says how many.
func (d *DB) DropFindings(ctx context.Context, state string, before time.Time) (n int64, err error) {
	err = d.change(ctx, func(ctx context.Context, tx *sql.Tx) error {
		const which = " where state = ?1 and updated < ?2"
		_, err := tx.ExecContext(ctx, d.kind.param("delete from finding_events where exists (select 1 from findings f where f.tenant = finding_events.tenant and f.id = finding_events.finding and f.state = ?1 and f.updated < ?2)"), state, before.UnixMicro())
		if err != nil {
			return err
		}
		r, err := tx.ExecContext(ctx, d.kind.param("delete from findings"+which), state, before.UnixMicro())
		if err != nil {
			return err
		}
		n, err = r.RowsAffected()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("control: %s: drop findings: %w", d.name, err)
	}
	return n, nil
}
