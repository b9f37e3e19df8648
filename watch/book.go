package watch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/quantra-l/quantra/control"
)

// book is the control database, in this package's words.
type book struct{ db *control.DB }

func (b *book) records(ctx context.Context, tenant string, f Filter) ([]Record, error) {
	q := control.RowFilter{Service: f.Service, Since: f.Since, Limit: f.Limit}
	for _, k := range f.Kinds {
		q.Kinds = append(q.Kinds, string(k))
	}
	for _, s := range f.States {
		q.States = append(q.States, string(s))
	}
	rows, err := b.db.Findings(ctx, tenant, q)
	if err != nil {
		return nil, err
	}
	out := make([]Record, len(rows))
	for i := range rows {
		if out[i], err = recordOf(&rows[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func recordOf(row *control.Row) (r Record, err error) {
	if err := json.Unmarshal(row.Doc, &r); err != nil {
		return r, fmt.Errorf("watch: finding %s as the control database has it: %w", row.ID, err)
	}
	r.version = row.Version
	return r, nil
}

func (b *book) record(ctx context.Context, tenant, id string) (Record, error) {
	row, ok, err := b.db.Finding(ctx, tenant, id)
	if err != nil {
		return Record{}, err
	}
	if !ok {
		return Record{}, fmt.Errorf("%w: there is no finding %.40q", ErrNotFound, id)
	}
	return recordOf(&row)
}

func (b *book) events(ctx context.Context, tenant, id string) ([]Event, error) {
	docs, err := b.db.FindingEvents(ctx, tenant, id)
	if err != nil {
		return nil, err
	}
	out := make([]Event, len(docs))
	for i, d := range docs {
		if err := json.Unmarshal(d, &out[i]); err != nil {
			return nil, fmt.Errorf("watch: the history of finding %s: %w", id, err)
		}
	}
	return out, nil
}

// write keeps updates. ErrConflict is that somebody else changed one of them meanwhile.
func (b *book) write(ctx context.Context, tenant string, updates []Update) error {
	return b.keepWith(ctx, tenant, updates, nil)
}

// keep does too, and notes up to when the service was looked at, as one.
func (b *book) keep(ctx context.Context, tenant, service string, at time.Time, updates []Update) error {
	mark, err := json.Marshal(at.UTC())
	if err != nil {
		return err
	}
	return b.keepWith(ctx, tenant, updates, map[string][]byte{analysedMark + service: mark, analysedToMark: mark})
}

// The names of marks; those of one service have its name behind.
const (
	analysedMark   = "analysed/"
	analysedToMark = "analysed"
	deploysMark    = "deploys/"
)

func (b *book) keepWith(ctx context.Context, tenant string, updates []Update, marks map[string][]byte) error {
	changes := make([]control.RowUpdate, len(updates))
	for i := range updates {
		u := &updates[i]
		r := &u.Record
		doc, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("watch: finding %s: %w", r.ID, err)
		}
		changes[i].Row = control.Row{Tenant: tenant, ID: r.ID, Service: r.Finding.Service, Kind: string(r.Finding.Kind), State: string(r.State), Seen: r.LastSeen, Version: r.version, Doc: doc}
		for _, e := range u.Events {
			doc, err := json.Marshal(e)
			if err != nil {
				return fmt.Errorf("watch: finding %s: %w", r.ID, err)
			}
			changes[i].Events = append(changes[i].Events, doc)
		}
	}
	err := b.db.KeepFindings(ctx, tenant, changes, marks)
	if errors.Is(err, control.ErrConflict) {
		return fmt.Errorf("%w: %w", ErrConflict, err)
	}
	return err
}

// analysed is up to when a service was looked at; zero is never.
func (b *book) analysed(ctx context.Context, tenant, service string) (time.Time, error) {
	return b.moment(ctx, tenant, analysedMark+service)
}

// analysedTo is up to when any of a tenant's was.
func (b *book) analysedTo(ctx context.Context, tenant string) (time.Time, error) {
	return b.moment(ctx, tenant, analysedToMark)
}

func (b *book) moment(ctx context.Context, tenant, name string) (t time.Time, err error) {
	doc, err := b.db.Mark(ctx, tenant, name)
	if err != nil || doc == nil {
		return t, err
	}
	if err := json.Unmarshal(doc, &t); err != nil {
		return t, fmt.Errorf("watch: mark %s: %w", name, err)
	}
	return t, nil
}

func (b *book) tenants(ctx context.Context) ([]string, error) { return b.db.FindingTenants(ctx) }

func (b *book) deploys(ctx context.Context, tenant, service string) ([]Deploy, error) {
	doc, err := b.db.Mark(ctx, tenant, deploysMark+service)
	if err != nil || doc == nil {
		return []Deploy{}, err
	}
	var list []Deploy
	if err := json.Unmarshal(doc, &list); err != nil {
		return nil, fmt.Errorf("watch: deploys of %s: %w", service, err)
	}
	return list, nil
}

func (b *book) addDeploy(ctx context.Context, tenant string, d Deploy) error {
	return b.db.ChangeMark(ctx, tenant, deploysMark+d.Service, func(old []byte) ([]byte, error) {
		var list []Deploy
		if old != nil {
			if err := json.Unmarshal(old, &list); err != nil {
				return nil, fmt.Errorf("watch: deploys of %s: %w", d.Service, err)
			}
		}
		list = append(list, d)
		slices.SortStableFunc(list, func(a, b Deploy) int { return a.Time.Compare(b.Time) })
		return json.Marshal(list[max(0, len(list)-maxDeploys):])
	})
}
