package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/quantra-l/quantra/ingest"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/web"
)

// handler joins what takes profiles and what shows them.
func handler(e *engine, o upOptions, log *slog.Logger) (http.Handler, error) {
	db := e.db
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		newStatsCollector("quantra_store_", db.Stats, storeMetrics),
	)
	if e.clickhouse != nil {
		registry.MustRegister(newStatsCollector("quantra_clickhouse_", e.clickhouse.Stats, clickhouseMetrics))
	} else {
		registry.MustRegister(newStatsCollector("quantra_blocks_", e.blocks.Stats, blocksMetrics))
	}
	in, err := ingest.New(ingest.Options{
		Append:   appendTo(db),
		Logger:   log,
		Registry: registry,
		MaxAge:   o.engine.longest(), // what is older would go at once

		InFlightBytes: e.share.ingest,
		TenantRate:    cmp.Or(int64(o.engine.tenantRate), -1),
	})
	if err != nil {
		return nil, err
	}
	ui, err := web.New(web.Options{
		Store:    db,
		Ready:    db.Healthy, // what is stuck is no reason to start the process anew
		Hosts:    o.hosts,
		Version:  readBuild().Version,
		Logger:   log,
		Registry: registry,
		Gatherer: registry,
	})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	in.Register(mux)
	mux.Handle("/", ui)
	return mux, nil
}

// appendTo hands what arrives to the store, and the store's words to ingest:
// these two rooms do not know each other.
func appendTo(s store.Store) func(context.Context, ingest.Push) error {
	words := []struct{ from, to error }{
		{store.ErrInvalid, ingest.ErrInvalid},
		{store.ErrOverloaded, ingest.ErrOverloaded},
		{store.ErrUnavailable, ingest.ErrUnavailable},
	}
	return func(ctx context.Context, p ingest.Push) error {
		err := s.Append(ctx, store.Upload{
			Tenant: p.Tenant, Name: p.Name, Labels: p.Labels,
			From: p.From, To: p.To, Pprof: p.Pprof, Profile: p.Profile,
		})
		for _, w := range words {
			if errors.Is(err, w.from) {
				return &translated{err, w.to}
			}
		}
		return err
	}
}

// translated is an error that reads as it did, and is another word to branch on.
type translated struct{ err, word error }

func (t *translated) Error() string   { return t.err.Error() }
func (t *translated) Unwrap() []error { return []error{t.err, t.word} }
