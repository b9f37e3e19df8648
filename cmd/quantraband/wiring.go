package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/quantra-l/quantra/access"
	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/analyze/price"
	"github.com/quantra-l/quantra/analyze/sched"
	"github.com/quantra-l/quantra/fleet"
	"github.com/quantra-l/quantra/ingest"
	"github.com/quantra-l/quantra/ingest/console"
	"github.com/quantra-l/quantra/ingest/scrape"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/p2p/nodeapi"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/record"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/symbols"
	"github.com/quantra-l/quantra/watch"
	"github.com/quantra-l/quantra/watch/alert"
	"github.com/quantra-l/quantra/web"
	"github.com/quantra-l/quantra/zerotrust"
)

// parts are what answers, and what works beside it.
type parts struct {
	http.Handler
	agents    *fleet.Fleet // to be closed when the server stops
	watcher   *watch.Watcher
	optimizer *optimize.Runner
	registry  *prometheus.Registry // of what has figures and begins later
	scraper   *scrape.Scraper      // nil where nothing is scraped
	recorder  *record.Recorder     // nil where nothing is recorded
	ingest    *ingest.Ingest       // to be closed when the server stops
	node      *nodeapi.API
}

// assemble joins what takes profiles, what speaks with agents, what looks at it all, and what shows it.
func assemble(e *engine, o upOptions, rules analysis, changes changesOptions, audit *auditLog, guard *zerotrust.Guard, who *access.Access, node *runningNode, signatures *ingest.Verifier, log *slog.Logger) (*parts, error) {
	db := e.db
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		newStatsCollector("quantra_store_", db.Stats, storeMetrics),
		newStatsCollector("quantra_audit_", audit.stats, auditMetrics),
	)
	if node != nil {
		registry.MustRegister(node.registry)
	}
	if e.clickhouse != nil {
		registry.MustRegister(newStatsCollector("quantra_clickhouse_", e.clickhouse.Stats, clickhouseMetrics))
	} else {
		registry.MustRegister(newStatsCollector("quantra_blocks_", e.blocks.Stats, blocksMetrics))
	}
	in, err := ingest.New(ingest.Options{
		Append:   sendsBy(who, appendTo(db)),
		Names:    namesOf(e.symbols, log),
		Logger:   log,
		Registry: registry,
		MaxAge:   o.engine.longest(), // what is older would go at once

		InFlightBytes: e.share.ingest,
		TenantRate:    cmp.Or(int64(o.engine.tenantRate), -1),
		Signatures:    signatures,
	})
	if err != nil {
		return nil, err
	}
	agents, err := fleet.New(fleet.Options{
		Verify: verifyAgents(signatures, who), By: byCaller, Summarize: summarize, Record: audit.leased(log), Logger: log, Registry: registry,
		MaxBytes: e.share.agents, ResultBytes: e.share.results,
	})
	if err != nil {
		return nil, err
	}
	watcher, err := watch.New(watch.Options{
		Store: db, Control: e.control, Watch: db.Watch, Lease: leases(e.control, log), Region: o.engine.region,
		Price: rules.price, Machines: rules.machines.get, Alerts: rules.alerts.get, Faults: rules.faults, Link: rules.link, Tenant: tenantOf, By: byCaller,
		Logger: log, Registry: registry,
	})
	if err != nil {
		return nil, err
	}
	optimizer, err := openOptimizer(e, changes, audit, agents, growingOf(watcher), rules, registry, log)
	if err != nil {
		return nil, err
	}
	readers, findings, acts := agents.Handler(), who.Redacted(watcher.Handler()), who.Redacted(optimizer.Handler())
	routes := map[string]http.Handler{fleet.ReaderPath: readers, fleet.ReaderPath + "/": readers}
	for _, path := range []string{watch.FindingsPath, watch.DeploysPath, watch.AnalysisPath, watch.StepsPath} {
		routes[path], routes[path+"/"] = findings, findings
	}
	for _, path := range []string{optimize.ChangesPath, optimize.IncidentsPath} {
		routes[path], routes[path+"/"] = acts, acts
	}
	routes[nodePath] = node.page(log)
	tasks, err := openConsole(in, registry, log)
	if err != nil {
		return nil, err
	}
	ofTasks := tasks.Handler(tenantOf)
	routes[console.ProgramsPath], routes[console.ProgramsPath+"/"] = ofTasks, ofTasks
	nodes := node.api(guard, audit, o.integrity || o.integrityRules != "", log)
	routes[nodeapi.Path], routes[nodeapi.Path+"/"] = nodes.Handler(), nodes.Handler()
	scraper, err := openScraper(o.scrape, in, tasks, registry, log)
	if err != nil {
		return nil, err
	}
	var profileNow func(ctx context.Context, tenant, service, kind string, d time.Duration) (int, error)
	if scraper != nil {
		profileNow = scraper.Now
	}
	targets := scraped(scraper, log)
	routes[scrape.TargetsPath], routes[scrape.TargetsPath+"/"] = targets, targets
	recorder, err := openRecorder(e, o, registry, log)
	if err != nil {
		return nil, err
	}
	routes[symbols.Path] = e.symbols.Handler(tenantOf, log)
	guarded := guard.Handler(log)
	routes[zerotrust.APIPath], routes[zerotrust.APIPath+"/"] = guarded, guarded
	routes[auditPath+"/"] = audit.handler(o.audit.archive, log)
	ui, err := web.New(web.Options{
		Store: named{db, e.symbols},
		Allow: allowQuestions(who),
		Ready: func() error { // what is stuck is no reason to start the process anew
			return errors.Join(db.Healthy(), watcher.Healthy(), optimizer.Healthy(), audit.Healthy())
		},
		ProfileNow: profileNow,

		Hosts:    o.hosts,
		Routes:   routes,
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
	agents.Register(mux)
	mux.Handle("GET "+web.CloudListPath, ui) // POST is a sender's
	mux.Handle("/", ui)
	return &parts{who.Door(mux), agents, watcher, optimizer, registry, scraper, recorder, in, nodes}, nil
}

// openRecorder makes what records series by the file that --record names; nil without one.
func openRecorder(e *engine, o upOptions, registry prometheus.Registerer, log *slog.Logger) (*record.Recorder, error) {
	if o.record == "" {
		return nil, nil
	}
	rules, err := openReread("rules that record", o.record, nil, func(path string) (*record.Config, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, pathError("read", path, err)
		}
		defer f.Close()
		c, err := record.Parse(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return c, nil
	}, log)
	if err != nil {
		return nil, err
	}
	return record.New(record.Options{Config: rules.get, Store: e.db, Lease: leases(e.control, log), Region: o.engine.region, Logger: log, Registry: registry})
}

// analysis is by what findings are priced and told: files that are read again when they change.
type analysis struct {
	machines *reread[[]analyze.Machine]
	prices   *reread[*price.File]
	alerts   *reread[*alert.Config]
	// The pages of a finding and of a change, for alerts; those of all changes for "".
	link, changeLink func(id string) string
}

// openAnalysis reads the files that up's flags name.
func openAnalysis(o upOptions, log *slog.Logger) (a analysis, err error) {
	if a.prices, err = openReread("prices", o.prices, price.Default(), readPrices, log); err != nil {
		return a, err
	}
	if a.machines, err = openReread("state machines", o.machines, nil, loadMachines, log); err != nil {
		return a, err
	}
	a.alerts, err = openReread("alert rules", o.alerts, nil, loadAlerts, log)
	return a, err
}

func (a analysis) price(f *analyze.Finding, machines []profile.Labels) {
	a.prices.get().Price(f, machines...)
}

// faults are what is wrong with the files as they are.
func (a analysis) faults() (out []string) {
	for _, f := range []string{a.alerts.wrong(), a.prices.wrong(), a.machines.wrong()} {
		if f != "" {
			out = append(out, f)
		}
	}
	return out
}

// linkTo is the page of a finding or a change, for alerts.
func linkTo(base, page string) func(id string) string {
	base = strings.TrimRight(base, "/") + page
	return func(id string) string {
		if id == "" {
			return base
		}
		return base + "/" + url.PathEscape(id)
	}
}

// tenantOf is whose findings a request is about.
func tenantOf(r *http.Request) (string, error) {
	t, err := ingest.TenantOf(r)
	return cmp.Or(t, store.DefaultTenant), err
}

// summarize is what a reader is shown of an execution trace.
func summarize(trace []byte) (any, error) {
	return sched.Summarize(bytes.NewReader(trace), sched.Limits{})
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
