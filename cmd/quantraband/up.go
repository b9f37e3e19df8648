package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/agent"
	"github.com/quantra-l/quantra/agent/spans"
	"github.com/quantra-l/quantra/cmd/quantraband/demo"
)

// How long each part of a stop may take. Together they are well under the 30 s
// after which systemd and Kubernetes kill.
const (
	fleetGrace = 5 * time.Second
	agentGrace = 3 * time.Second
	drainGrace = 5 * time.Second
)

type upOptions struct {
	data, listen   string
	hosts          []string
	demo           bool
	noSelfProfile  bool
	requireSigned  bool
	agentKeys      string
	alerts         string
	prices         string
	machines       string
	policy         string
	audit          auditOptions
	scrape         string
	record         string
	url            string
	integrity      bool
	integrityRules string
	node           upNodeOptions
	guard          guardOptions
	seats          seatOptions
	access         accessOptions
	tls            tlsOptions
	engine         engineOptions
	log            logOptions
}

// signed says that only signed requests are taken.
func (o *upOptions) signed() bool { return o.requireSigned || o.agentKeys != "" }

func (a *app) upCommand() *cobra.Command {
	var o upOptions
	cmd := &cobra.Command{
		Use:     "up",
		GroupID: "main",
		Short:   "Start the server: it takes profiles, keeps them, and draws them",
		Long: `Start the server with its dashboard and its storage, in this one process. It takes
profiles from any program and keeps them: what it has acknowledged is on disk, in
the log of the data folder, and after a minute in blocks in the bucket. The
bucket is a folder in the data folder, or object storage that --bucket names;
docs/buckets.md has the URLs, docs/operations.md what lies where. It profiles itself, too.

Nobody reads anything without a decision of the guard. The one-time link that is
printed opens the dashboard; commands of the same user on this machine need
nothing. docs/access.md has people, roles, tokens, agents and TLS.

It listens on this machine only, unless --listen says otherwise. Here whoever
can reach the address may send profiles, unless --require-signed or --agent-keys
asks for signatures; elsewhere an agent must have enrolled, or show a token.

Interrupt it (Ctrl-C) to stop it; everything is written and nothing is left running.`,
		Example: `  quantraband up
  quantraband up --demo                      # with a small fleet to look at
  quantraband up --data ./profiles --listen 127.0.0.1:4141
  quantraband up --bucket 's3://profiles?region=eu-central-1' --region eu`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.up(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.data, "data", "", "`folder` to keep profiles in (default: quantra in the user's data home)")
	f.StringVar(&o.listen, "listen", "127.0.0.1:4040", "`address` to listen on; port 0 is any free one")
	f.StringSliceVar(&o.hosts, "host", nil, "further host `names` that browsers may reach the dashboard by")
	f.BoolVar(&o.demo, "demo", false, "start a small fleet of demo services that send profiles")
	f.BoolVar(&o.noSelfProfile, "no-self-profile", false, "do not profile the server itself")
	f.BoolVar(&o.requireSigned, "require-signed", false, "take profiles, and polls of agents, only where they are signed")
	f.StringVar(&o.agentKeys, "agent-keys", "", "`file` of the keys that may sign, one a line; it is read again when it changes (implies --require-signed)")
	f.StringVar(&o.alerts, "alerts", "", "`file` of rules that say who is told of findings: docs/alerts.md; it is read again when it changes")
	f.StringVar(&o.prices, "prices", "", "`file` of prices that findings are reckoned in: docs/price.md; it is read again when it changes (default: a list price, shown with each)")
	f.StringVar(&o.machines, "machines", "", "`file` of state machines whose steps are watched, beside every span by its name: docs/transitions.md; it is read again when it changes")
	f.StringVar(&o.scrape, "scrape", "", "`file` of targets whose net/http/pprof is fetched, or whose tokio tasks are watched, found as Prometheus finds them: docs/scrape.md; it is read again when it changes")
	f.StringVar(&o.record, "record", "", "`file` of rules that make series for Prometheus of profiles, shown on /metrics and sent by remote write: docs/prometheus.md; it is read again when it changes")
	f.StringVar(&o.policy, "policy", "", "`file` that says which changes may be made, how and when: docs/changes.md (default: they are only proposed)")
	o.audit.flags(cmd)
	f.StringVar(&o.url, "url", "", "the dashboard's `address` as people reach it, for links in alerts (default: the one it listens on)")
	o.guard.flags(cmd)
	f.BoolVar(&o.integrity, "integrity", false, "watch files by the baseline in the data folder, which is made of this program, its keys and the files named here if there is none: docs/integrity.md")
	f.StringVar(&o.integrityRules, "integrity-rules", "", "`file` of rules that say how bad a change of a file is (implies --integrity)")
	o.seats.flags(cmd)
	o.node.flags(cmd)
	o.access.flags(cmd)
	o.tls.flags(cmd)
	o.engine.flags(cmd)
	o.log.flags(cmd)
	return cmd
}

// given is what up's flags say, read: what is wrong with it ends the start before anything is opened.
type given struct {
	upOptions
	dir     string
	log     *slog.Logger
	rules   analysis
	changes changesOptions // its places are to be closed
	secured *serving       // nil is without TLS
	keys    *agentKeys
	spans   *spans.Processor // of the server's node, where the server profiles itself
}

func (a *app) readGiven(o upOptions) (*given, error) {
	g := &given{upOptions: o}
	err := errors.Join(o.engine.check(), o.tls.check(o.listen, o.demo), o.audit.check())
	if err != nil {
		return nil, err
	}
	if g.log, err = o.log.logger(a.stderr); err != nil {
		return nil, err
	}
	if g.dir, err = dataDir(o.data); err != nil {
		return nil, err
	}
	if g.rules, err = openAnalysis(o, g.log); err != nil {
		return nil, err
	}
	if g.secured, err = o.tls.serve(g.dir, o.hosts, g.log); err != nil {
		return nil, err
	}
	if g.keys, err = openAgentKeys(o.agentKeys, g.log); err != nil {
		return nil, err
	}
	if g.changes, err = openPolicy(g.dir, o.policy, os.Getenv, g.log); err != nil {
		return nil, err
	}
	if o.demo {
		g.changes.builtIn, g.changes.demo = demo.Policy(), true
	}
	return g, nil
}

// up runs the server until ctx ends, and then stops everything in the order
// in which things depend on each other: who sends, who takes, who keeps.
func (a *app) up(ctx context.Context, o upOptions) (err error) {
	g, err := a.readGiven(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.changes.places.Close()) }()
	// The address first: it is the quicker to fail, and who connects while the
	// store still recovers waits in the backlog instead of being refused.
	ln, err := listen(ctx, o.listen)
	if err != nil {
		return err
	}
	addr := ln.Addr().(*net.TCPAddr)
	defer ln.Close() // again after the server has closed it: harmless
	e, err := a.openEngine(ctx, g.dir, o.engine, g.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()

	audit, err := openAuditLog(g.dir, o.audit.key, g.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, audit.Close()) }()
	door, err := openDoor(g.dir, o, addr, e.control, g.keys, audit, g.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, door.close()) }()
	node, err := g.openNode(ctx, door)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	if node != nil {
		g.changes.node = node.core
	}
	base := baseURL(addr, g.secured != nil)
	g.rules.link, g.rules.changeLink = linkTo(cmp.Or(o.url, base), "/findings"), linkTo(cmp.Or(o.url, base), "/changes")
	all, err := assemble(e, o, g.rules, g.changes, audit, door.guard, door.who, node, openSigning(door.who, e.share, door.began), g.log)
	if err != nil {
		return err
	}
	// All of these end after the server has, and before the store.
	defer door.work(ctx, g.log)()
	hourly := time.NewTicker(time.Hour)
	defer hourly.Stop()
	defer inBackground(ctx, audit.keepAudit(o.audit, time.Now, hourly.C))()
	stopFiles, err := watchOwnFiles(ctx, g.dir, o, audit, newFileAlerts(g.rules.alerts.get, cmp.Or(o.url, base), all.registry, g.log), g.log)
	if err != nil {
		return err
	}
	defer stopFiles()
	defer inBackground(ctx, all.watcher.Run)()
	defer inBackground(ctx, all.optimizer.Run)()
	defer inBackground(ctx, all.node.Run)()
	if all.scraper != nil {
		defer inBackground(ctx, all.scraper.Run)()
	}
	if all.recorder != nil {
		defer inBackground(ctx, all.recorder.Run)()
	}
	stopChallenges, err := g.secured.challenges(ctx, o.tls.acmeHTTP, g.log)
	if err != nil {
		return err
	}
	defer stopChallenges()
	a.warnOfReach(addr, o)
	return a.serve(ctx, g, ln, base, e, door, node, all)
}

// serve answers on ln until ctx ends.
func (a *app) serve(ctx context.Context, g *given, ln net.Listener, base string, e *engine, door *door, node *runningNode, all *parts) (err error) {
	srv := newHTTPServer(all, g.log)
	srv.RegisterOnShutdown(all.agents.Close) // polls wait for up to a minute, and must not hold up the end
	srv.RegisterOnShutdown(all.ingest.Close) // as calls for what to profile do
	served := make(chan error, 1)
	if g.secured != nil {
		srv.TLSConfig = g.secured.config
		go func() { served <- srv.ServeTLS(ln, "", "") }()
	} else {
		go func() { served <- srv.Serve(ln) }()
	}
	defer func() { err = errors.Join(err, drain(ctx, srv, g.log)) }()

	credential, err := leaveCredential(g.dir, ln.Addr().(*net.TCPAddr).Port, door.secret, g.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, credential.remove()) }()
	stop, err := g.senders(ctx, base, door.ownKey)
	defer stop()
	if err != nil {
		return err
	}
	link, err := firstLink(ctx, door.who)
	if err != nil {
		return err
	}
	if err := writeReady(a.stdout, base, link, g.dir, e, node, g.upOptions); err != nil {
		return err
	}
	forgetStart()
	select {
	case <-ctx.Done():
		fmt.Fprintln(a.stderr, "stopping; once more to stop at once")
		return nil
	case err := <-served:
		return fmt.Errorf("serve %s: %w", ln.Addr(), err)
	}
}

// senders starts what sends this server profiles from the inside: its own agent, and the demo. stop is to be called also where there is an
// error.
func (g *given) senders(ctx context.Context, base, key string) (stop func(), err error) {
	stop = func() {}
	if !g.noSelfProfile {
		var sources []agent.Source
		if g.spans != nil {
			sources = append(sources, g.spans.Source())
		}
		self, err := agent.Start(context.WithoutCancel(ctx), agent.Options{Service: "quantraband", Server: base, Region: g.engine.region, KeyFile: key, HTTPClient: g.secured.ownClient(), SpoolBytes: -1, Sources: sources, Logger: g.log})
		if err != nil {
			return stop, err
		}
		stop = func() { stopWithin(ctx, agentGrace, "the agent", g.log, self.Stop) }
	}
	if !g.demo {
		return stop, nil
	}
	fleet, err := startDemo(ctx, base, g.engine.region, key, g.changes.demoFile(), g.log)
	if err != nil {
		return stop, fmt.Errorf("demo: %w", err)
	}
	agentStop := stop
	return func() {
		stopWithin(ctx, fleetGrace, "the demo fleet", g.log, fleet.Stop)
		agentStop()
	}, nil
}

// warnOfReach says what an address lets others do that is not this machine's alone.
func (a *app) warnOfReach(addr *net.TCPAddr, o upOptions) {
	if addr.IP.IsLoopback() {
		return
	}
	if o.access.openIngest {
		a.warn(fmt.Sprintf("listening on %s with --open-ingest: whoever reaches this address can send profiles", addr))
	}
	if !o.tls.on() {
		a.warn(fmt.Sprintf("listening on %s without TLS: others on the way can read profiles, and steal sessions and tokens", addr))
	}
}

// inBackground lets run work until the function that it returns is called.
func inBackground(ctx context.Context, run func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// listen opens the address, with an error that says what to do.
func listen(ctx context.Context, address string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, usagef("--listen %q: it must be host:port, as 127.0.0.1:4040", address)
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err == nil {
		return ln, nil
	}
	const wsaEADDRINUSE = syscall.Errno(10048) // Windows has a number of its own
	if errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, wsaEADDRINUSE) {
		return nil, inUsef("listen on %s: the port is taken, perhaps by another quantraband; stop it, or choose another port with --listen %s",
			address, net.JoinHostPort(host, "0"))
	}
	return nil, fmt.Errorf("listen on %s: %w; choose another address with --listen", address, err)
}

// baseURL is the address as a program on this machine reaches it.
func baseURL(addr *net.TCPAddr, secured bool) string {
	scheme := "http://"
	if secured {
		scheme = "https://"
	}
	host := addr.IP.String()
	if addr.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	return scheme + net.JoinHostPort(host, fmt.Sprint(addr.Port))
}

// newHTTPServer is a server that no slow or greedy client can hold up. Reading
// a body has its own bound, in ingest.
func newHTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true) // gRPC clients speak nothing else
	return &http.Server{
		Handler:           h,
		Protocols:         protocols,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// drain lets requests under way finish, within bounds.
func drain(ctx context.Context, srv *http.Server, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainGrace)
	defer cancel()
	err := srv.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		log.Warn("requests did not end in time and were cut off", "after", drainGrace)
		return srv.Close()
	}
	return err
}

// stopWithin stops one part, within bounds. That it fails is said and does not
// keep the others from being stopped.
func stopWithin(ctx context.Context, grace time.Duration, what string, log *slog.Logger, stop func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := stop(ctx); err != nil {
		log.Warn("could not stop "+what+" cleanly", "err", err)
	}
}
