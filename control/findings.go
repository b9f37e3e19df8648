package control

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// Bounds of what is kept of a finding.
const (
	MaxFindingDoc    = 256 << 10
	maxFindingEvents = 200 // the oldest go
)

// KeepFindings writes findings and marks as one: all of it, or nothing. ErrConflict is that a finding has been changed, or made,
// by another since it was read.
func (d *DB) KeepFindings(ctx context.Context, tenant string, updates []RowUpdate, marks map[string][]byte) error {
	return d.keepRows(ctx, findings, tenant, updates, marks)
}

// Findings are a tenant's findings, those seen last first.
func (d *DB) Findings(ctx context.Context, tenant string, f RowFilter) ([]Row, error) {
	return d.list(ctx, findings, tenant, f)
}

// Finding is one of them; ok is false if there is none.
func (d *DB) Finding(ctx context.Context, tenant, id string) (f Row, ok bool, err error) {
	return d.row(ctx, findings, tenant, id)
}

// FindingEvents are the last 200 of a finding's, the oldest first.
func (d *DB) FindingEvents(ctx context.Context, tenant, id string) (out [][]byte, err error) {
	events, err := d.history(ctx, findings, tenant, id, 0, maxFindingEvents)
	for i := range events {
		out = append(out, events[i].Doc)
	}
	return out, err
}

// FindingTenants are the tenants that have findings, sorted.
func (d *DB) FindingTenants(ctx context.Context) ([]string, error) { return d.tenants(ctx, findings) }

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
