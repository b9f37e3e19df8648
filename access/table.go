package access

import (
	"net/http"
)

// demand is what a route asks of its caller.
type demand struct {
	kind             demandKind
	action, resource string
	service          serviceFrom
}

type demandKind int

const (
	denied  demandKind = iota // the zero value: what is forgotten is denied
	public                    // for everyone: tells nothing of anybody's
	known                     // for whoever is logged in, about herself; the route looks after the rest
	decided                   // the guard decides here
	asked                     // the guard decides when the room knows what the question is about: [Access.Allow]
	sender                    // of profiles: the guard decides when it is known who signed and for which service: [Access.Send]
)

// serviceFrom says how a route's service is found out.
type serviceFrom int

const (
	ofAll       serviceFrom = iota // it is about all services, or none
	fromQuery                      // ?service=
	fromBody                       // {"service": ...}
	ofFinding                      // of the finding {id}
	ofChange                       // of the change {id}
	needService                    // ?service=, which must be there
)

// Row is one row of the table of what routes demand.
type Row struct {
	Pattern string // of [http.ServeMux]
	demand
}

// Rows are what each route of the server demands. A route that is not here is denied.
func Rows() []Row {
	row := func(pattern string, kind demandKind, action, resource string, from serviceFrom) Row {
		return Row{pattern, demand{kind, action, resource, from}}
	}
	rows := []Row{
		// The page's own files, and probes.
		row("/", public, "", "", ofAll),
		row("GET /healthz", public, "", "", ofAll),
		row("GET /readyz", public, "", "", ofAll),
		row("GET /api/node", decided, "read", "node", ofAll),
		row("GET /api/v1/node", decided, "read", "node/figures", ofAll),
		row("GET /api/v1/node/peers", decided, "read", "node/peers", ofAll),
		row("GET /api/v1/node/events", decided, "read", "node/events", ofAll),
		row("POST /api/v1/node/peers/{id}/terminate", decided, "change", "node/peers", ofAll),
		row("GET /metrics", decided, "read", "metrics", ofAll),

		// Who is who.
		row("GET /login", public, "", "", ofAll),
		row("POST /login", public, "", "", ofAll),
		row("POST /login/mfa", known, "", "", ofAll),
		row("GET /login/provider", public, "", "", ofAll),
		row("GET /login/callback", public, "", "", ofAll),
		row("GET /api/v1/access/login", public, "", "", ofAll),
		row("POST /logout", known, "", "", ofAll),
		row("GET /api/v1/access/me", known, "", "", ofAll),
		row("GET /api/v1/access/sessions", known, "", "", ofAll),
		row("DELETE /api/v1/access/sessions/{id}", known, "", "", ofAll),
		row("GET /api/v1/access/tokens", known, "", "", ofAll),
		row("POST /api/v1/access/tokens", known, "", "", ofAll),
		row("DELETE /api/v1/access/tokens/{id}", known, "", "", ofAll),
		row("GET /api/v1/access/people", decided, "read", "people", ofAll),
		row("POST /api/v1/access/people", decided, "administer", "people", ofAll),
		row("POST /api/v1/access/people/{id}", decided, "administer", "people", ofAll),
		row("DELETE /api/v1/access/people/{id}", decided, "administer", "people", ofAll),
		row("POST /api/v1/access/links", decided, "administer", "people", ofAll),
		row("GET /api/v1/access/mfa", decided, "read", "people", ofAll),
		row("POST /api/v1/access/mfa", known, "", "", ofAll),
		row("DELETE /api/v1/access/mfa/{id}", decided, "administer", "people", ofAll),
		row("GET /api/v1/access/agents", decided, "read", "people", ofAll),
		row("POST /api/v1/access/enrol", decided, "administer", "people", ofAll),
		row("DELETE /api/v1/access/agents/{id}", decided, "administer", "people", ofAll),
		row("POST /api/v1/access/agents", public, "", "", ofAll), // an agent enrols, by a one-time token

		// Senders of profiles.
		row("/api/v1/profiles", sender, "write", "profiles/raw", ofAll),
		row("/ingest", sender, "write", "profiles/raw", ofAll),
		row("/pyroscope/ingest", sender, "write", "profiles/raw", ofAll),
		row("/push.v1.PusherService/Push", sender, "write", "profiles/raw", ofAll),
		row("/parca.profilestore.v1alpha1.ProfileStoreService/WriteRaw", sender, "write", "profiles/raw", ofAll),
		row("/parca.profilestore.v1alpha1.ProfileStoreService/Write", sender, "write", "profiles/raw", ofAll), // this and the next are refused
		row("/parca.profilestore.v1alpha1.ProfileStoreService/WriteArrow", sender, "write", "profiles/raw", ofAll),
		row("/v1development/profiles", sender, "write", "profiles/raw", ofAll),
		row("/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export", sender, "write", "profiles/raw", ofAll),
		row("/google.devtools.cloudprofiler.v2.ProfilerService/CreateProfile", sender, "write", "profiles/raw", ofAll),
		row("/google.devtools.cloudprofiler.v2.ProfilerService/UpdateProfile", sender, "write", "profiles/raw", ofAll),
		row("/google.devtools.cloudprofiler.v2.ProfilerService/CreateOfflineProfile", sender, "write", "profiles/raw", ofAll),
		row("/profiling/v1/input", sender, "write", "profiles/raw", ofAll),
		row("/api/v2/profile", sender, "write", "profiles/raw", ofAll),
		row("GET /$discovery/rest", public, "", "", ofAll), // what Google's clients for Python ask for paths: tells nothing of anybody's
		row("/v2/projects/{project}/profiles", sender, "write", "profiles/raw", ofAll),
		row("/v2/projects/{project}/profiles:createOffline", sender, "write", "profiles/raw", ofAll),
		row("PATCH /v2/projects/{project}/profiles/{id}", sender, "write", "profiles/raw", ofAll),
		row("/api/v1/agents/poll", sender, "connect", "agents", ofAll),
		row("/api/v1/agents/results", sender, "connect", "agents", ofAll),

		// Files.
		row("GET /api/v1/export", asked, "read", "profiles", ofAll),

		row("GET /pprof/{service}/{kind}", asked, "read", "profiles", ofAll),

		// Google Cloud Profiler's list of single profiles; senders POST to the same path.
		row("GET /v2/projects/{project}/profiles", asked, "read", "profiles", ofAll),
		row("/google.devtools.cloudprofiler.v2.ExportService/ListProfiles", asked, "read", "profiles", ofAll),

		// Grafana's.
		row("GET /pyroscope/render", asked, "read", "profiles", ofAll),
		row("GET /pyroscope/render-diff", asked, "read", "profiles", ofAll),

		// Agents. Goroutines and traces are of one process, as single profiles are.
		row("GET /api/v1/agents", decided, "read", "agents", fromQuery),
		row("GET /api/v1/agents/{$}", decided, "read", "agents", fromQuery),
		row("POST /api/v1/agents/lease", decided, "change", "changes", fromBody),
		row("POST /api/v1/agents/release", decided, "change", "changes", fromBody),
		row("GET /api/v1/agents/goroutines", decided, "read", "profiles/raw", needService),
		row("GET /api/v1/agents/trace", decided, "read", "profiles/raw", needService),

		// Targets that are scraped. A profile of now is of single processes.
		row("GET /api/v1/targets", decided, "read", "agents", fromQuery),
		row("POST /api/v1/targets/profile", decided, "read", "profiles/raw", fromBody),

		// Tasks of Rust programs. They are of one process, as goroutines are.
		row("GET /api/v1/tasks", decided, "read", "agents", fromQuery),
		row("GET /api/v1/tasks/snapshot", decided, "read", "profiles/raw", needService),
		row("GET /api/v1/tasks/list", decided, "read", "profiles/raw", needService),
		row("GET /api/v1/tasks/details", decided, "read", "profiles/raw", needService),
		// Symbols. Who may send profiles may send the names in them; that a binary is there tells no more than its profiles do.
		row("GET /api/v1/symbols", decided, "read", "profiles/aggregate", ofAll),
		row("POST /api/v1/symbols", decided, "write", "profiles/symbols", ofAll),

		// Findings.
		row("GET /api/v1/findings", decided, "read", "findings", fromQuery),
		row("GET /api/v1/findings/{id}", decided, "read", "findings", ofFinding),
		row("POST /api/v1/findings/{id}", decided, "change", "findings", ofFinding),
		row("GET /api/v1/deploys", decided, "read", "findings", fromQuery),
		row("POST /api/v1/deploys", decided, "change", "findings", fromBody),
		row("GET /api/v1/analysis", decided, "read", "findings", ofAll),
		row("GET /api/v1/transitions", decided, "read", "findings", fromQuery),

		// Changes.
		row("GET /api/v1/changes", decided, "read", "changes", fromQuery),
		row("POST /api/v1/changes", decided, "change", "changes", fromBody),
		row("POST /api/v1/changes/patch", decided, "change", "changes", fromBody),
		row("GET /api/v1/changes/status", decided, "read", "changes", ofAll),
		row("GET /api/v1/changes/{id}", decided, "read", "changes", ofChange),
		row("POST /api/v1/changes/{id}", decided, "change", "changes", ofChange),
		row("GET /api/v1/changes/{id}/series", decided, "read", "changes", ofChange),
		row("POST /api/v1/changes/pause", decided, "change", "changes", ofAll),
		row("POST /api/v1/changes/resume", decided, "change", "changes", ofAll),
		row("POST /api/v1/changes/plan", decided, "read", "changes", ofAll), // says what would happen
		row("POST /api/v1/incidents", decided, "change", "changes", ofAll),

		// The audit log.
		row("POST /api/v1/audit/rotate", decided, "administer", "audit", ofAll),
		row("POST /api/v1/audit/prune", decided, "administer", "audit", ofAll),

		// The guard.
		row("GET /api/guard/status", decided, "read", "guard", ofAll),
		row("GET /api/guard/connections", decided, "read", "guard", ofAll),
		row("POST /api/guard/connections/{id}/terminate", decided, "administer", "guard", ofAll),
		row("POST /api/guard/revocations", decided, "administer", "guard", ofAll),
	}
	for _, method := range []string{
		"Services", "ProfileTypes", "LabelNames", "LabelValues", "Series", "FlameGraph", "Top", "Sandwich", "Diff", "SampleLabels", "LabelSets", "Profiles", "Heatmap", "Trend",
	} {
		rows = append(rows, row("/quantra.v1.QuerierService/"+method, asked, "read", "profiles", ofAll))
	}
	for _, method := range []string{
		"ProfileTypes", "LabelNames", "LabelValues", "Series", "SelectMergeStacktraces", "SelectMergeSpanProfile", "SelectMergeProfile", "SelectSeries", "SelectHeatmap", "Diff", "GetProfileStats", "AnalyzeQuery",
	} {
		rows = append(rows, row("/querier.v1.QuerierService/"+method, asked, "read", "profiles", ofAll))
	}
	// What is under these and not above is nothing, and not the page.
	for _, rest := range []string{"/api/", "/quantra.v1.QuerierService/", "/querier.v1.QuerierService/", "/pyroscope/", "/pprof/", "/ingest/", "/metrics/"} {
		rows = append(rows, row(rest, denied, "", "", ofAll))
	}
	return rows
}

// demands is the table as a router: a request's pattern is found as the server's own router finds it.
func (a *Access) demands() *http.ServeMux {
	mux := http.NewServeMux()
	for _, r := range Rows() {
		mux.Handle(r.Pattern, r.demand)
	}
	return mux
}

// ServeHTTP is never called: a demand is a handler so that a router can hold it.
func (d demand) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "denied", http.StatusForbidden)
}

// demandOf is what a request's route demands, and the pattern that it has; denied where there is none.
func (a *Access) demandOf(r *http.Request) (demand, string) {
	h, pattern := a.table.Handler(r)
	d, _ := h.(demand) // a redirect of the router's, or its 404 and 405, are none
	return d, pattern
}
