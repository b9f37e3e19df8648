// Package journal keeps changes in the control database: SQLite, or PostgreSQL for several servers.
//
// A change is one row with its document; its history is rows that are only ever added. What acting has used up, and what people hold all
// changes by, are marks of the tenant. A change, its events and the rails are written in one transaction.
package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/quantra-l/quantra/control"
	"github.com/quantra-l/quantra/optimize"
)

// Journal is an [optimize.Journal] on a control database.
type Journal struct{ db *control.DB }

// New is the journal in db.
func New(db *control.DB) *Journal { return &Journal{db} }

// The names of marks.
const (
	railsMark = "changes/rails"
	holdsMark = "changes/holds"
)

// Keep implements [optimize.Journal].
func (j *Journal) Keep(ctx context.Context, c *optimize.Change, rails *optimize.Rails, events ...optimize.Event) error {
	doc, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("journal: change %s: %w", c.ID, err)
	}
	u := control.RowUpdate{Row: control.Row{
		Tenant: c.Tenant, ID: c.ID, Service: c.Service, Kind: string(c.Kind), State: string(c.State), Seen: seen(c, events), Version: c.Version(), Doc: doc,
	}}
	for _, e := range events {
		e.Seq = 0 // the row's number is what counts
		b, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("journal: change %s: %w", c.ID, err)
		}
		u.Events = append(u.Events, b)
	}
	marks := map[string][]byte{}
	if rails != nil {
		if marks[railsMark], err = json.Marshal(rails); err != nil {
			return fmt.Errorf("journal: rails: %w", err)
		}
	}
	if err := j.db.KeepChange(ctx, c.Tenant, u, marks); err != nil {
		return worded(err)
	}
	c.SetVersion(c.Version() + 1)
	return nil
}

// seen is when something last happened to c, as far as this write knows.
func seen(c *optimize.Change, events []optimize.Event) time.Time {
	t := c.SeenAt
	for i := range events {
		if events[i].Time.After(t) {
			t = events[i].Time
		}
	}
	return t
}

// worded is err with optimize's word for what its callers branch on.
func worded(err error) error {
	switch {
	case errors.Is(err, control.ErrConflict):
		return fmt.Errorf("%w: %w", optimize.ErrConflict, err)
	case errors.Is(err, control.ErrInvalid):
		return fmt.Errorf("%w: %w", optimize.ErrInvalid, err)
	}
	return err
}

func changeOf(row *control.Row) (c optimize.Change, err error) {
	if err := json.Unmarshal(row.Doc, &c); err != nil {
		return c, fmt.Errorf("journal: change %s as the control database has it: %w", row.ID, err)
	}
	c.SetVersion(row.Version)
	return c, nil
}

// Change implements [optimize.Journal].
func (j *Journal) Change(ctx context.Context, tenant, id string) (c optimize.Change, ok bool, err error) {
	row, ok, err := j.db.Change(ctx, tenant, id)
	if err != nil || !ok {
		return c, false, err
	}
	c, err = changeOf(&row)
	return c, err == nil, err
}

// Changes implements [optimize.Journal].
func (j *Journal) Changes(ctx context.Context, tenant string, f optimize.Filter) ([]optimize.Change, error) {
	q := control.RowFilter{Service: f.Service, Since: f.Since, Limit: f.Limit}
	for _, k := range f.Kinds {
		q.Kinds = append(q.Kinds, string(k))
	}
	for _, s := range f.States {
		q.States = append(q.States, string(s))
	}
	rows, err := j.db.Changes(ctx, tenant, q)
	if err != nil {
		return nil, err
	}
	out := make([]optimize.Change, len(rows))
	for i := range rows {
		if out[i], err = changeOf(&rows[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Events implements [optimize.Journal].
func (j *Journal) Events(ctx context.Context, tenant, id string, after int64) ([]optimize.Event, error) {
	rows, err := j.db.ChangeEvents(ctx, tenant, id, after)
	if err != nil {
		return nil, err
	}
	out := make([]optimize.Event, len(rows))
	for i := range rows {
		if err := json.Unmarshal(rows[i].Doc, &out[i]); err != nil {
			return nil, fmt.Errorf("journal: event %d of change %s as the control database has it: %w", rows[i].Seq, id, err)
		}
		out[i].Seq = rows[i].Seq
	}
	return out, nil
}

// Tenants implements [optimize.Journal].
func (j *Journal) Tenants(ctx context.Context) ([]string, error) { return j.db.ChangeTenants(ctx) }

// Rails implements [optimize.Journal].
func (j *Journal) Rails(ctx context.Context, tenant string) (r optimize.Rails, err error) {
	err = j.mark(ctx, tenant, railsMark, &r)
	return r, err
}

// Holds implements [optimize.Journal].
func (j *Journal) Holds(ctx context.Context, tenant string) (h optimize.Holds, err error) {
	err = j.mark(ctx, tenant, holdsMark, &h)
	return h, err
}

func (j *Journal) mark(ctx context.Context, tenant, name string, to any) error {
	doc, err := j.db.Mark(ctx, tenant, name)
	if err != nil || doc == nil {
		return err
	}
	if err := json.Unmarshal(doc, to); err != nil {
		return fmt.Errorf("journal: %s as the control database has it: %w", name, err)
	}
	return nil
}

// ChangeHolds implements [optimize.Journal].
func (j *Journal) ChangeHolds(ctx context.Context, tenant string, change func(*optimize.Holds) error) error {
	var refused error // change's own words, without the database's around them
	err := j.db.ChangeMark(ctx, tenant, holdsMark, func(old []byte) ([]byte, error) {
		var h optimize.Holds
		if old != nil {
			if err := json.Unmarshal(old, &h); err != nil {
				return nil, fmt.Errorf("as the control database has it: %w", err)
			}
		}
		if refused = change(&h); refused != nil {
			return nil, refused
		}
		return json.Marshal(h)
	})
	if refused != nil {
		return refused
	}
	return worded(err)
}
