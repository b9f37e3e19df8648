package watch

import (
	"context"
	"errors"
	"time"

	"github.com/quantra-l/quantra/watch/alert"
)

// tellLoop joins what has one cause in several services, and tells people what is due, again and again.
func (w *Watcher) tellLoop(ctx context.Context) {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := w.tell(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			w.opt.Logger.Error("alerts; they are tried again", "error", err)
		}
	}
}

// tell sends what is due. What came through is kept before the next is sent: a crash between the two tells one thing twice, never not at
// all.
func (w *Watcher) tell(ctx context.Context) error {
	tenants, err := w.book.tenants(ctx)
	if err != nil {
		return err
	}
	rules := w.opt.Alerts()
	for _, tenant := range tenants {
		records, err := w.book.records(ctx, tenant, Filter{States: States, Limit: maxTold})
		if err != nil {
			return err
		}
		tell, covered := due(rules, records, w.opt.Now().UTC())
		for _, r := range covered {
			if err := w.mark(ctx, r, func(k *Record) { k.CoveredBy = r.CoveredBy }); err != nil {
				return err
			}
		}
		for _, t := range tell {
			if err := w.tellOne(ctx, rules, t); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxTold is how many of a tenant's records are looked at for alerts: the ones seen last.
const maxTold = 5000

func (w *Watcher) tellOne(ctx context.Context, rules *alert.Config, t telling) error {
	r := t.record
	m := alert.Message{ID: r.ID, Episode: r.Episode, Status: "open", Link: w.opt.Link(r.ID), Also: t.also}
	if t.fixed {
		m.Status = "fixed"
	}
	f := r.Finding
	f.Chart = nil
	m.Finding = &f
	err := rules.Channel(t.channel).Send(ctx, m)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	now := w.opt.Now().UTC()
	if err != nil {
		w.m.untold.Inc()
		w.opt.Logger.Warn("an alert did not come through", "finding", r.ID, "channel", t.channel, "error", err)
	} else {
		w.m.told.Inc()
	}
	return w.mark(ctx, r, func(k *Record) {
		alerts := map[string]Told{}
		for ch, told := range k.Alerts {
			alerts[ch] = told
		}
		alerts[t.channel] = alerts[t.channel].after(r.Episode, t.fixed, now, err)
		k.Alerts = alerts
	})
}

// mark changes a record that a look or a person may be changing too.
func (w *Watcher) mark(ctx context.Context, r *Record, change func(*Record)) error {
	for {
		k, err := w.book.record(ctx, r.Tenant, r.ID)
		if err != nil {
			if errors.Is(err, ErrNotFound) {
				return nil
			}
			return err
		}
		change(&k)
		if err := w.book.write(ctx, r.Tenant, []Update{{Record: k}}); !errors.Is(err, ErrConflict) {
			return err
		}
	}
}
