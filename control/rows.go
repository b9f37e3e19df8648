package control

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Row is one document, as a finding or a change is. Doc is the caller's, in JSON: the other fields are what it is looked up by.
type Row struct {
	Tenant, ID, Service, Kind, State string
	// Seen is the time that rows are ordered by: of a finding when it was seen last, of a change when something last happened to it.
	Seen time.Time
	// Version is 0 for one that is new, and else what it was when it was read: a change of another's in between is ErrConflict.
	Version int64
	Doc     []byte
}

// RowFilter chooses rows. Zero fields choose all.
type RowFilter struct {
	Service       string
	Kinds, States []string
	Since         time.Time // seen at or after
	Limit         int       // those seen last; 0 is 1000
}

// RowUpdate is a row to keep, and what happened to it, the oldest first.
type RowUpdate struct {
	Row
	Events [][]byte
}

// RowEvent is an event with its number: those of a row are counted from 1.
type RowEvent struct {
	Seq int64
	Doc []byte
}

// table is where rows of one sort lie, with their history in another.
type table struct {
	rows, events, of string // the names of both tables, and of the column by which an event names its row
	one              string // in a message
	maxDoc           int
	maxEvents        int64 // of one row
	// append says that no event ever goes: past maxEvents none is taken any more. Else the oldest go.
	append bool
}

var (
	findings = &table{rows: "findings", events: "finding_events", of: "finding", one: "finding", maxDoc: MaxFindingDoc, maxEvents: maxFindingEvents}
	changes  = &table{rows: "changes", events: "change_events", of: "change", one: "change", maxDoc: MaxChangeDoc, maxEvents: maxChangeEvents, append: true}
)

// keepRows writes rows and marks as one: all of it, or nothing.
func (d *DB) keepRows(ctx context.Context, t *table, tenant string, rows []RowUpdate, marks map[string][]byte) error {
	for i := range rows {
		if n := len(rows[i].Doc); n > t.maxDoc {
			return fmt.Errorf("control: %s %s: %w: it has %d bytes, the limit is %d", t.one, rows[i].ID, ErrInvalid, n, t.maxDoc)
		}
	}
	err := d.change(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for i := range rows {
			if err := d.keepRow(ctx, tx, t, tenant, &rows[i]); err != nil {
				return err
			}
		}
		for name, doc := range marks {
			if err := d.setMark(ctx, tx, tenant, name, doc); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("control: %s: %s: %w", d.name, t.rows, err)
	}
	return nil
}

func (d *DB) keepRow(ctx context.Context, tx *sql.Tx, t *table, tenant string, c *RowUpdate) error {
	q := "insert into " + t.rows + " (tenant, id, service, kind, state, seen, version, doc) values (?1, ?2, ?3, ?4, ?5, ?6, ?7 + 1, ?8) on conflict (tenant, id) do nothing"
	if c.Version > 0 {
		q = "update " + t.rows + " set service = ?3, kind = ?4, state = ?5, seen = case when seen > ?6 then seen else ?6 end, version = version + 1, doc = ?8 where tenant = ?1 and id = ?2 and version = ?7"
	}
	res, err := tx.ExecContext(ctx, d.kind.param(q), tenant, c.ID, c.Service, c.Kind, c.State, c.Seen.UnixMicro(), c.Version, string(c.Doc))
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil {
		return err
	} else if n == 0 {
		return fmt.Errorf("%w: %s %s has been changed since it was read", ErrConflict, t.one, c.ID)
	}
	if len(c.Events) == 0 {
		return nil
	}
	var last int64
	if err := tx.QueryRowContext(ctx, d.kind.param("select coalesce(max(seq), 0) from "+t.events+" where tenant = ?1 and "+t.of+" = ?2"), tenant, c.ID).Scan(&last); err != nil {
		return err
	}
	for _, e := range c.Events {
		if t.append && last >= t.maxEvents {
			return nil
		}
		last++
		if _, err := tx.ExecContext(ctx, d.kind.param("insert into "+t.events+" (tenant, "+t.of+", seq, doc) values (?1, ?2, ?3, ?4)"), tenant, c.ID, last, string(e)); err != nil {
			return err
		}
	}
	if t.append {
		return nil
	}
	_, err = tx.ExecContext(ctx, d.kind.param("delete from "+t.events+" where tenant = ?1 and "+t.of+" = ?2 and seq <= ?3"), tenant, c.ID, last-t.maxEvents)
	return err
}

// ask runs a question about something within the timeout.
func (d *DB) ask(ctx context.Context, about string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d.opt.Timeout)
	defer cancel()
	if err := do(ctx); err != nil {
		return fmt.Errorf("control: %s: %s: %w", d.name, about, word(err))
	}
	return nil
}

// list is a tenant's rows, those seen last first.
func (d *DB) list(ctx context.Context, t *table, tenant string, f RowFilter) (out []Row, err error) {
	args := []any{tenant}
	arg := func(v any) string { args = append(args, v); return fmt.Sprintf("?%d", len(args)) }
	where := "tenant = ?1"
	if f.Service != "" {
		where += " and service = " + arg(f.Service)
	}
	for _, in := range []struct {
		column string
		values []string
	}{{"kind", f.Kinds}, {"state", f.States}} {
		if len(in.values) > 0 {
			var list []string
			for _, v := range in.values {
				list = append(list, arg(v))
			}
			where += " and " + in.column + " in (" + strings.Join(list, ", ") + ")"
		}
	}
	if !f.Since.IsZero() {
		where += " and seen >= " + arg(f.Since.UnixMicro())
	}
	limit := f.Limit
	if limit <= 0 {
		limit = 1000
	}
	q := "select " + rowColumns + " from " + t.rows + " where " + where + " order by seen desc, id limit " + fmt.Sprint(limit)
	err = d.ask(ctx, t.rows, func(ctx context.Context) error {
		rows, err := d.sql.QueryContext(ctx, d.kind.param(q), args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			f, err := scanRow(rows)
			if err != nil {
				return err
			}
			out = append(out, f)
		}
		return rows.Err()
	})
	return out, err
}

const rowColumns = "tenant, id, service, kind, state, seen, version, doc"

func scanRow(r interface{ Scan(...any) error }) (f Row, err error) {
	var seen int64
	var doc string
	err = r.Scan(&f.Tenant, &f.ID, &f.Service, &f.Kind, &f.State, &seen, &f.Version, &doc)
	f.Seen, f.Doc = time.UnixMicro(seen).UTC(), []byte(doc)
	return f, err
}

// row is one of them; ok is false if there is none.
func (d *DB) row(ctx context.Context, t *table, tenant, id string) (f Row, ok bool, err error) {
	err = d.ask(ctx, t.rows, func(ctx context.Context) error {
		f, err = scanRow(d.sql.QueryRowContext(ctx, d.kind.param("select "+rowColumns+" from "+t.rows+" where tenant = ?1 and id = ?2"), tenant, id))
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		ok = err == nil
		return err
	})
	return f, ok, err
}

// history is at most limit of a row's events after one, the oldest first; with after below 0 it is the last -after.
func (d *DB) history(ctx context.Context, t *table, tenant, id string, after int64, limit int) (out []RowEvent, err error) {
	err = d.ask(ctx, t.rows, func(ctx context.Context) error {
		q := "select seq, doc from " + t.events + " where tenant = ?1 and " + t.of + " = ?2 and seq > ?3 order by seq limit ?4"
		if after < 0 {
			q = "select seq, doc from " + t.events + " where tenant = ?1 and " + t.of + " = ?2 and seq > ?3 order by seq desc limit ?4"
			after, limit = 0, int(min(-after, int64(limit)))
			defer func() { slices.Reverse(out) }()
		}
		rows, err := d.sql.QueryContext(ctx, d.kind.param(q), tenant, id, after, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var e RowEvent
			var doc string
			if err := rows.Scan(&e.Seq, &doc); err != nil {
				return err
			}
			e.Doc = []byte(doc)
			out = append(out, e)
		}
		return rows.Err()
	})
	return out, err
}

// tenants are those that have rows, sorted.
func (d *DB) tenants(ctx context.Context, t *table) (tenants []string, err error) {
	err = d.ask(ctx, t.rows, func(ctx context.Context) error {
		list, err := d.texts(ctx, "select distinct tenant from "+t.rows)
		for _, t := range list {
			tenants = append(tenants, string(t))
		}
		slices.Sort(tenants)
		return err
	})
	return tenants, err
}

// texts are the only column of a question's answer.
func (d *DB) texts(ctx context.Context, q string, args ...any) (out [][]byte, err error) {
	rows, err := d.sql.QueryContext(ctx, d.kind.param(q), args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, []byte(s))
	}
	return out, rows.Err()
}
