package control

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// MaxAccessDoc bounds what is kept of a person, a token, a session or an agent, in bytes.
const MaxAccessDoc = 64 << 10

// AccessRow is one document of who may ask: a person, a token, a session, an agent's identity. Doc is the caller's, in JSON, without secrets:
// the other fields are what it is looked up by.
type AccessRow struct {
	Kind, ID string
	Owner    string    // whose it is; "" is nobody's
	Expires  time.Time // it is no longer there from then on; the zero time is never
	// Version is 0 for one that is new, and else what it was when it was read: a change of another's in between is ErrConflict.
	Version int64
	Doc     []byte
}

const accessColumns = "kind, id, owner, expires, version, doc"

func scanAccess(r interface{ Scan(...any) error }) (a AccessRow, err error) {
	var expires int64
	var doc string
	err = r.Scan(&a.Kind, &a.ID, &a.Owner, &expires, &a.Version, &doc)
	if a.Doc = []byte(doc); expires > 0 {
		a.Expires = time.UnixMicro(expires).UTC()
	}
	return a, err
}

// KeepAccess writes a row. ErrConflict is that it has been changed, made or removed by another since it was read.
func (d *DB) KeepAccess(ctx context.Context, a AccessRow) error {
	if a.Kind == "" || a.ID == "" || len(a.Kind) > maxName || len(a.ID) > maxName || len(a.Owner) > maxName || len(a.Doc) > MaxAccessDoc {
		return fmt.Errorf("control: access: %w: %.20s %.40q with %d bytes: names have 1 to %d bytes, a document at most %d", ErrInvalid, a.Kind, a.ID, len(a.Doc), maxName, MaxAccessDoc)
	}
	q := "insert into access (kind, id, owner, expires, version, doc) values (?1, ?2, ?3, ?4, ?5 + 1, ?6) on conflict (kind, id) do nothing"
	if a.Version > 0 {
		q = "update access set owner = ?3, expires = ?4, version = version + 1, doc = ?6 where kind = ?1 and id = ?2 and version = ?5"
	}
	var expires int64
	if !a.Expires.IsZero() {
		expires = a.Expires.UnixMicro()
	}
	return d.ask(ctx, "access", func(ctx context.Context) error {
		res, err := d.sql.ExecContext(ctx, d.kind.param(q), a.Kind, a.ID, a.Owner, expires, a.Version, string(a.Doc))
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil {
			return err
		} else if n == 0 {
			return fmt.Errorf("%w: the %s %s has been changed since it was read", ErrConflict, a.Kind, a.ID)
		}
		return nil
	})
}

// live is the condition that a row has not expired.
func (d *DB) live() string { return "(expires = 0 or expires > " + d.now() + ")" }

// Access is one row; ok is false if there is none, or it has expired.
func (d *DB) Access(ctx context.Context, kind, id string) (a AccessRow, ok bool, err error) {
	return d.oneAccess(ctx, "select "+accessColumns+" from access where kind = ?1 and id = ?2 and "+d.live(), kind, id)
}

// TakeAccess is one row, which is gone then: of several that ask at once one gets it.
func (d *DB) TakeAccess(ctx context.Context, kind, id string) (a AccessRow, ok bool, err error) {
	return d.oneAccess(ctx, "delete from access where kind = ?1 and id = ?2 and "+d.live()+" returning "+accessColumns, kind, id)
}

func (d *DB) oneAccess(ctx context.Context, q, kind, id string) (a AccessRow, ok bool, err error) {
	err = d.ask(ctx, "access", func(ctx context.Context) error {
		a, err = scanAccess(d.sql.QueryRowContext(ctx, d.kind.param(q), kind, id))
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		ok = err == nil
		return err
	})
	return a, ok, err
}

// AccessRows are the rows of a kind that have not expired, by id: those of an owner, or all where it is "". At most limit.
func (d *DB) AccessRows(ctx context.Context, kind, owner string, limit int) (out []AccessRow, err error) {
	err = d.ask(ctx, "access", func(ctx context.Context) error {
		rows, err := d.sql.QueryContext(ctx, d.kind.param("select "+accessColumns+" from access where kind = ?1 and (?2 = '' or owner = ?2) and "+d.live()+" order by id limit ?3"), kind, owner, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			a, err := scanAccess(rows)
			if err != nil {
				return err
			}
			out = append(out, a)
		}
		return rows.Err()
	})
	return out, err
}

// DropAccess removes the rows of a kind that are named by id, or else all of an owner's. It is how many there were.
func (d *DB) DropAccess(ctx context.Context, kind, id, owner string) (n int64, err error) {
	q, arg := "delete from access where kind = ?1 and id = ?2", id
	if id == "" {
		q, arg = "delete from access where kind = ?1 and owner = ?2", owner
	}
	if arg == "" {
		return 0, fmt.Errorf("control: access: %w: neither an id nor an owner is named", ErrInvalid)
	}
	err = d.ask(ctx, "access", func(ctx context.Context) error {
		res, err := d.sql.ExecContext(ctx, d.kind.param(q), kind, arg)
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	return n, err
}

// ExpireAccess removes what has expired.
func (d *DB) ExpireAccess(ctx context.Context) error {
	return d.ask(ctx, "access", func(ctx context.Context) error {
		_, err := d.sql.ExecContext(ctx, "delete from access where not "+d.live())
		return err
	})
}
