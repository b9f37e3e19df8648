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

// Finding is one row of what the analysis has found. Doc is the caller's, in JSON: the other fields are what it is
// looked up by.
type Finding struct {
	Tenant, ID, Service, Kind, State string
	Seen                             time.Time
	// Version is 0 for one that is new, and else what it was when it was read: a change of another's in between is ErrConflict.
	Version int64
	Doc     []byte
}

// FindingFilter chooses findings. Zero fields choose all.
type FindingFilter struct {
	Service       string
	Kinds, States []string
	Since         time.Time // seen at or after
	Limit         int       // those seen last; 0 is 1000
}

// FindingChange is a finding to keep, and what happened to it, the oldest first.
type FindingChange struct {
	Finding
	Events [][]byte
}

// Bounds of what is kept.
const (
	MaxFindingDoc    = 256 << 10
	maxFindingEvents = 200 // of one finding; the oldest go
	maxMarkDoc       = 256 << 10
)

// KeepFindings writes changes and marks as one: all of it, or nothing. ErrConflict is that a finding has been changed, or made,
// by another since it was read.
func (d *DB) KeepFindings(ctx context.Context, tenant string, changes []FindingChange, marks map[string][]byte) error {
	for i := range changes {
		if n := len(changes[i].Doc); n > MaxFindingDoc {
			return fmt.Errorf("control: finding %s: %w: it has %d bytes, the limit is %d", changes[i].ID, ErrInvalid, n, MaxFindingDoc)
		}
	}
	err := d.change(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for i := range changes {
			if err := d.keepFinding(ctx, tx, tenant, &changes[i]); err != nil {
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
		return fmt.Errorf("control: %s: findings: %w", d.name, err)
	}
	return nil
}

func (d *DB) keepFinding(ctx context.Context, tx *sql.Tx, tenant string, c *FindingChange) error {
	q := "insert into findings (tenant, id, service, kind, state, seen, version, doc) values (?1, ?2, ?3, ?4, ?5, ?6, ?7 + 1, ?8) on conflict (tenant, id) do nothing"
	if c.Version > 0 {
		q = "update findings set service = ?3, kind = ?4, state = ?5, seen = ?6, version = version + 1, doc = ?8 where tenant = ?1 and id = ?2 and version = ?7"
	}
	res, err := tx.ExecContext(ctx, d.kind.param(q), tenant, c.ID, c.Service, c.Kind, c.State, c.Seen.UnixMicro(), c.Version, string(c.Doc))
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil {
		return err
	} else if n == 0 {
		return fmt.Errorf("%w: finding %s has been changed since it was read", ErrConflict, c.ID)
	}
	if len(c.Events) == 0 {
		return nil
	}
	var last int64
	if err := tx.QueryRowContext(ctx, d.kind.param("select coalesce(max(seq), 0) from finding_events where tenant = ?1 and finding = ?2"), tenant, c.ID).Scan(&last); err != nil {
		return err
	}
	for _, e := range c.Events {
		last++
		if _, err := tx.ExecContext(ctx, d.kind.param("insert into finding_events (tenant, finding, seq, doc) values (?1, ?2, ?3, ?4)"), tenant, c.ID, last, string(e)); err != nil {
			return err
		}
	}
	_, err = tx.ExecContext(ctx, d.kind.param("delete from finding_events where tenant = ?1 and finding = ?2 and seq <= ?3"), tenant, c.ID, last-maxFindingEvents)
	return err
}

func (d *DB) setMark(ctx context.Context, tx *sql.Tx, tenant, name string, doc []byte) error {
	if len(doc) > maxMarkDoc || name == "" || len(name) > maxName {
		return fmt.Errorf("%w: mark %.40q with %d bytes: a name has 1 to %d, a mark at most %d", ErrInvalid, name, len(doc), maxName, maxMarkDoc)
	}
	_, err := tx.ExecContext(ctx, d.kind.param("insert into marks (tenant, name, doc) values (?1, ?2, ?3) on conflict (tenant, name) do update set doc = excluded.doc"), tenant, name, string(doc))
	return err
}

// ask runs a question within the timeout.
func (d *DB) ask(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d.opt.Timeout)
	defer cancel()
	if err := do(ctx); err != nil {
		return fmt.Errorf("control: %s: findings: %w", d.name, word(err))
	}
	return nil
}

// Findings are a tenant's findings, those seen last first.
func (d *DB) Findings(ctx context.Context, tenant string, f FindingFilter) (out []Finding, err error) {
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
	q := "select " + findingColumns + " from findings where " + where + " order by seen desc, id limit " + fmt.Sprint(limit)
	err = d.ask(ctx, func(ctx context.Context) error {
		rows, err := d.sql.QueryContext(ctx, d.kind.param(q), args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			f, err := scanFinding(rows)
			if err != nil {
				return err
			}
			out = append(out, f)
		}
		return rows.Err()
	})
	return out, err
}

const findingColumns = "tenant, id, service, kind, state, seen, version, doc"

func scanFinding(r interface{ Scan(...any) error }) (f Finding, err error) {
	var seen int64
	var doc string
	err = r.Scan(&f.Tenant, &f.ID, &f.Service, &f.Kind, &f.State, &seen, &f.Version, &doc)
	f.Seen, f.Doc = time.UnixMicro(seen).UTC(), []byte(doc)
	return f, err
}

// Finding is one of them; ok is false if there is none.
func (d *DB) Finding(ctx context.Context, tenant, id string) (f Finding, ok bool, err error) {
	err = d.ask(ctx, func(ctx context.Context) error {
		f, err = scanFinding(d.sql.QueryRowContext(ctx, d.kind.param("select "+findingColumns+" from findings where tenant = ?1 and id = ?2"), tenant, id))
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		ok = err == nil
		return err
	})
	return f, ok, err
}

// FindingEvents are the last 200 of a finding's, the oldest first.
func (d *DB) FindingEvents(ctx context.Context, tenant, id string) (out [][]byte, err error) {
	err = d.ask(ctx, func(ctx context.Context) error {
		out, err = d.texts(ctx, "select doc from finding_events where tenant = ?1 and finding = ?2 order by seq", tenant, id)
		return err
	})
	return out, err
}

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

// FindingTenants are the tenants that have findings, sorted.
func (d *DB) FindingTenants(ctx context.Context) (tenants []string, err error) {
	err = d.ask(ctx, func(ctx context.Context) error {
		list, err := d.texts(ctx, "select distinct tenant from findings")
		for _, t := range list {
			tenants = append(tenants, string(t))
		}
		slices.Sort(tenants)
		return err
	})
	return tenants, err
}

// ForgetFindings removes findings in a state that were last seen before a time, with their history.
func (d *DB) ForgetFindings(ctx context.Context, state string, before time.Time) error {
	err := d.change(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for _, q := range []string{
			"delete from finding_events where exists (select 1 from findings f where f.tenant = finding_events.tenant and f.id = finding_events.finding and f.state = ?1 and f.seen < ?2)",
			"delete from findings where state = ?1 and seen < ?2",
		} {
			if _, err := tx.ExecContext(ctx, d.kind.param(q), state, before.UnixMicro()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("control: %s: findings: %w", d.name, err)
	}
	return nil
}

// Mark is what is kept under a name; nil if there is nothing.
func (d *DB) Mark(ctx context.Context, tenant, name string) (doc []byte, err error) {
	err = d.ask(ctx, func(ctx context.Context) error {
		list, err := d.texts(ctx, "select doc from marks where tenant = ?1 and name = ?2", tenant, name)
		if len(list) > 0 {
			doc = list[0]
		}
		return err
	})
	return doc, err
}

// ChangeMark makes of what is kept under a name what change says; nobody else changes it meanwhile. change may be called more than once.
func (d *DB) ChangeMark(ctx context.Context, tenant, name string, change func(old []byte) ([]byte, error)) error {
	err := d.change(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if d.kind.marks != "" {
			if _, err := tx.ExecContext(ctx, d.kind.marks); err != nil {
				return err
			}
		}
		var old []byte
		var text string
		switch err := tx.QueryRowContext(ctx, d.kind.param("select doc from marks where tenant = ?1 and name = ?2"), tenant, name).Scan(&text); {
		case err == nil:
			old = []byte(text)
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
		doc, err := change(old)
		if err != nil {
			return err
		}
		return d.setMark(ctx, tx, tenant, name, doc)
	})
	if err != nil {
		return fmt.Errorf("control: %s: mark %.40q: %w", d.name, name, err)
	}
	return nil
}
