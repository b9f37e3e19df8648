package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/ingest"
	"github.com/quantra-l/quantra/ingest/console"
	"github.com/quantra-l/quantra/ingest/scrape"
	"github.com/quantra-l/quantra/profile"
)

// openScraper makes what fetches profiles by the file that --scrape names; nil without one.
func openScraper(path string, in *ingest.Ingest, tasks *console.Watcher, registry prometheus.Registerer, log *slog.Logger) (*scrape.Scraper, error) {
	if path == "" {
		return nil, nil
	}
	file, err := openReread("targets to scrape", path, nil, loadScrape, log)
	if err != nil {
		return nil, err
	}
	return scrape.New(scrape.Options{
		Config: file.get, Logger: log, Registry: registry,
		Console: func(ctx context.Context, t scrape.ConsoleTarget, seen func(bool, error)) {
			tasks.Watch(ctx, console.Target{Tenant: t.Tenant, Labels: t.Labels, URL: t.URL, TLS: t.TLS, Interval: t.Interval}, seen)
		},
		Append: func(ctx context.Context, p scrape.Profile) error {
			return in.Keep(ctx, "scrape", ingest.Push{Tenant: p.Tenant, Name: p.Name, Labels: p.Labels, From: p.From, To: p.To, Pprof: p.Pprof})
		},
	})
}

// openConsole makes what watches the tasks of Rust programs; which ones the file of targets says.
func openConsole(in *ingest.Ingest, registry prometheus.Registerer, log *slog.Logger) (*console.Watcher, error) {
	return console.New(console.Options{
		Logger: log, Registry: registry,
		Append: func(ctx context.Context, p console.Profile) error {
			return in.Keep(ctx, "tokio_console", ingest.Push{Tenant: p.Tenant, Name: p.Name, Labels: p.Labels, From: p.From, To: p.To, Pprof: p.Pprof})
		},
	})
}

func loadScrape(path string) (*scrape.Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, pathError("read", path, err)
	}
	defer f.Close()
	c, err := scrape.Parse(f, filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// scraped answers questions about targets, also where there are none.
func scraped(s *scrape.Scraper, log *slog.Logger) http.Handler {
	if s == nil {
		var err error
		s, err = scrape.New(scrape.Options{Config: func() *scrape.Config { return nil }, Append: func(context.Context, scrape.Profile) error { return nil }, Logger: log})
		if err != nil { // cannot be: both are given
			panic(err)
		}
	}
	return s.Handler(tenantOf)
}

func (a *app) targetsCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "targets",
		GroupID: "main",
		Short:   "See the targets that a running server scrapes, and profile them now: list, profile",
		Long: `See the targets whose net/http/pprof a running server fetches (up --scrape FILE), how that went, and take a
profile of all targets of a service now. Rust programs with console-subscriber are targets, too: see quantraband tasks.
docs/scrape.md has the file.`,
		Example: `  quantraband targets list
  quantraband targets profile -s checkout --type heap
  quantraband targets profile -s checkout --type profile --seconds 10`,
	}, a.targetsList(), a.targetsProfile())
}

func (a *app) targetsList() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "list",
		Short: "The targets that the server scrapes, and how the last fetch of each went",
		Example: `  quantraband targets list
  quantraband targets list --service checkout --json | jq '.activeTargets[].lastError'`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		path := scrape.TargetsPath
		if q.service != "" {
			path += "?" + url.Values{"service": {q.service}}.Encode()
		}
		var answer struct{ Data scrape.Targets }
		if err := q.ask(ctx, http.MethodGet, path, nil, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, answer.Data)
		}
		return a.writeTargets(answer.Data)
	})
	q.serverFlags(cmd)
	cmd.Flags().StringVarP(&q.service, "service", "s", "", "only this service")
	return cmd
}

func (a *app) writeTargets(l scrape.Targets) error {
	err := a.lines("HEALTH\tJOB\tSERVICE\tURL\tLAST\tKEPT\tLAST ERROR", func(line func(...any)) {
		for _, t := range l.Active {
			kept := 0
			for _, p := range t.Profiles {
				kept += p.Kept
			}
			last := "-"
			if !t.LastScrape.IsZero() {
				last = t.LastScrape.Format(time.RFC3339)
			}
			line(t.Health, plain(t.Job), plain(t.Labels[profile.LabelService]), plain(t.URL), last, kept, plain(t.LastError))
		}
	})
	if l.Dropped > 0 {
		a.warn(fmt.Sprintf("%d more are dropped by relabelling", l.Dropped))
	}
	if l.Surplus > 0 {
		a.warn(fmt.Sprintf("%d more are past the bound, and not scraped", l.Surplus))
	}
	if l.Wrong != "" {
		a.warn("the newest configuration is not in force: " + l.Wrong)
	}
	return err
}

func (a *app) targetsProfile() *cobra.Command {
	var q question
	var kind string
	var seconds int
	cmd := &cobra.Command{
		Use:   "profile",
		Short: "Take a profile of each target of a service now, and keep it",
		Example: `  quantraband targets profile -s checkout --type heap
  quantraband targets profile -s checkout --type profile --seconds 10`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		q.timeout = max(q.timeout, time.Duration(seconds)*time.Second+30*time.Second)
		var answer struct {
			Targets int `json:"targets"`
		}
		err := q.ask(ctx, http.MethodPost, scrape.NowPath, map[string]any{"service": q.service, "profile": kind, "seconds": seconds}, &answer)
		if err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, answer)
		}
		_, err = fmt.Fprintf(a.stdout, "Targets of %s profiled: %d. To see what was kept: go tool pprof %s/pprof/%s/%s\n", plain(q.service), answer.Targets, q.server, url.PathEscape(q.service), kind)
		return err
	})
	q.serverFlags(cmd)
	q.serviceFlag(cmd)
	cmd.Flags().StringVar(&kind, "type", "profile", "`which`: profile, heap, allocs, goroutine, mutex or block")
	cmd.Flags().IntVar(&seconds, "seconds", 10, "for how many `seconds`, of what is not a state")
	return cmd
}
