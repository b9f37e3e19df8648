package control

import "context"

// Bounds of what is kept of a change.
const (
	MaxChangeDoc    = 4 << 20 // its nodes and the verdicts of its stages are in it
	maxChangeEvents = 100_000
	// MaxChangeEventsRead is how many events one call of ChangeEvents returns.
	MaxChangeEventsRead = 1000
)

// KeepChange writes a change with what happened to it, and marks, as one: all of it, or nothing. Events are never removed; a change that
// has had 100,000 is still kept, and its further events are not: it must be possible to take it back. ErrConflict is that it has been
// changed, or made, by another since it was read.
func (d *DB) KeepChange(ctx context.Context, tenant string, update RowUpdate, marks map[string][]byte) error {
	return d.keepRows(ctx, changes, tenant, []RowUpdate{update}, marks)
}

// Changes are a tenant's changes, those that something happened to last first.
func (d *DB) Changes(ctx context.Context, tenant string, f RowFilter) ([]Row, error) {
	return d.list(ctx, changes, tenant, f)
}

// Change is one of them; ok is false if there is none.
func (d *DB) Change(ctx context.Context, tenant, id string) (c Row, ok bool, err error) {
	return d.row(ctx, changes, tenant, id)
}

// ChangeEvents are at most MaxChangeEventsRead of a change's after the event number after, the oldest first; with after below 0 they are
// its last -after.
func (d *DB) ChangeEvents(ctx context.Context, tenant, id string, after int64) ([]RowEvent, error) {
	return d.history(ctx, changes, tenant, id, after, MaxChangeEventsRead)
}

// ChangeTenants are the tenants that have changes, sorted.
func (d *DB) ChangeTenants(ctx context.Context) ([]string, error) { return d.tenants(ctx, changes) }
