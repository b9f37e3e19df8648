package control

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// maxMarkDoc bounds a mark: a few megabytes are when each node of a large fleet was changed last.
const maxMarkDoc = 4 << 20

func (d *DB) setMark(ctx context.Context, tx *sql.Tx, tenant, name string, doc []byte) error {
	if len(doc) > maxMarkDoc || name == "" || len(name) > maxName {
		return fmt.Errorf("%w: mark %.40q with %d bytes: a name has 1 to %d, a mark at most %d", ErrInvalid, name, len(doc), maxName, maxMarkDoc)
	}
	_, err := tx.ExecContext(ctx, d.kind.param("insert into marks (tenant, name, doc) values (?1, ?2, ?3) on conflict (tenant, name) do update set doc = excluded.doc"), tenant, name, string(doc))
	return err
}

// Mark is what is kept under a name; nil if there is nothing.
func (d *DB) Mark(ctx context.Context, tenant, name string) (doc []byte, err error) {
	err = d.ask(ctx, "marks", func(ctx context.Context) error {
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
