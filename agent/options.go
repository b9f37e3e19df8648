package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Types is a set of kinds of profiles: CPU|Heap, and so on.
type Types uint16

// The kinds of profiles.
const (
	CPU           Types = 1 << iota // where the processor's time goes, by samples
	Heap                            // what is live: objects and bytes, as of the last garbage collection
	Allocs                          // what was allocated in the window: objects and bytes
	Goroutine                       // where goroutines are
	Mutex                           // which contended mutexes made others wait in the window, and how long
	Block                           // where goroutines waited in the window, and how long
	GoroutineLeak                   // goroutines that can never run again, once in ten minutes; see DefaultTypes
	Runtime                         // figures of runtime/metrics and of the agent itself

	// DefaultTypes is what an empty set means: all but Block, whose cost grows
	// with the program's own channel operations, and GoroutineLeak, for which the
	// runtime runs a garbage collection of its own; that one is a gap in [Status] where
	// the runtime does not offer it (Go 1.26 does with GOEXPERIMENT=goroutineleakprofile).
	DefaultTypes = CPU | Heap | Allocs | Goroutine | Mutex | Runtime
	allTypes     = DefaultTypes | Block | GoroutineLeak
)

// typeNames are the types as [Types.String] writes them, in their order.
var typeNames = []string{"CPU", "Heap", "Allocs", "Goroutine", "Mutex", "Block", "GoroutineLeak", "Runtime"}

// String is as "CPU|Heap".
func (t Types) String() string {
	var names []string
	for i, name := range typeNames {
		if t&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, "|")
}

// Options says what is profiled and where it goes. The zero value works.
type Options struct {
	// Service is the name of the program, the same in all its instances.
	// "" is the base name of the executable.
	Service string
	// Version tells releases apart, so that they can be compared. "" is what the
	// build recorded: the main module's version, else the VCS revision, else none.
	Version string
	// Instance is this process among those of the service. "" is host-pid.
	Instance string
	// Labels are further labels of all profiles, as in {"team": "pay"}. Names match
	// [a-zA-Z_][a-zA-Z0-9_]*; those that start with "__", those of the fields above
	// and name, from and until are taken; "region" is [Options.Region].
	Labels map[string]string

	// Region is where the program runs, a label of its profiles. "" is QUANTRA_REGION, else what
	// the metadata service of GCP, AWS or Azure says within 300 ms, asked in the background, else "local".
	Region string
	// Endpoints are the servers of regions, by region; where there is none for the region it is Server.
	Endpoints map[string]string

	// Server is the base URL of the server. "" is QUANTRA_SERVER, else http://127.0.0.1:4040.
	Server string
	// HTTPClient sends the uploads. nil is a client of the agent's own. The agent
	// uses a copy that follows no redirects: profiles go to Server or nowhere.
	HTTPClient *http.Client
	// Timeout bounds one upload. 0 is 10 s; <0 is an error.
	Timeout time.Duration

	// Types is what is profiled. 0 is DefaultTypes.
	Types Types
	// CPURate is the CPU profile's samples a second: 50, 100 or 200. 0 is 100, <0 turns the CPU
	// profile off. Rates other than 100 need Linux; elsewhere it is 100, and Status says so.
	CPURate int
	// Window is the time that one profile covers, give or take 5 % so that a fleet does not
	// beat in step. 0 is 10 s; at least 100 ms, <0 is an error.
	Window time.Duration
	// Upload is the time between uploads, give or take 10 %. 0 is 60 s; <0 is an error.
	// The first window is uploaded at once, and so is a queue that is half full, and each window while a lease is in force.
	Upload time.Duration
	// QueueBytes bounds the profiles that wait in memory for an upload; past it they go to
	// the spool, or the oldest are dropped. 0 is 4 MiB; <0 is an error.
	QueueBytes int
	// SpoolDir is the folder for profiles that wait on disk while the server is away, until this or
	// the next run of the service uploads them. Nothing is written while the server answers. "" is
	// QUANTRA_SPOOL, else quantra/spool in the user's cache folder; there is no
	// spool where no folder is to be had.
	SpoolDir string
	// SpoolBytes bounds what waits on disk, for each process; past it the oldest are dropped.
	// 0 is 64 MiB; <0 turns the spool off.
	SpoolBytes int64
	// KeyFile is the file with the agent's Ed25519 key (PKCS #8 in PEM), by which it signs what it sends; it is made,
	// readable by its owner only, where it is missing. "" is QUANTRA_KEY_FILE, else a key that lives in memory.
	KeyFile string

	// Budget is what the agent may cost. The zero value has defaults.
	Budget Budget
	// Sources are further profiles, as lock.Source().
	Sources []Source

	// Logger hears when uploads begin to fail, when they work again, and of
	// profiles that cannot be taken. nil is slog.Default().
	Logger *slog.Logger
}

const (
	envServer  = "QUANTRA_SERVER"
	envRegion  = "QUANTRA_REGION"
	envSpool   = "QUANTRA_SPOOL"
	envKey     = "QUANTRA_KEY_FILE"
	envEnabled = "PROFILER_ENABLED"

	profilesPath = "/api/v1/profiles"
	userAgent    = "quantra-agent/1"

	labelService  = "service_name"
	labelVersion  = "service_version"
	labelInstance = "service_instance_id"
	labelRegion   = "region"

	defaultServer = "http://127.0.0.1:4040"
	// The server's bounds on labels: it is better to be told at Start than by
	// an upload that is refused.
	maxLabels     = 30
	maxLabelName  = 128
	maxLabelValue = 2048
)

// config is Options after its defaults, checked.
type config struct {
	endpoint   *url.URL
	endpoints  map[string]*url.URL // by region
	region     string              // "" is to be found out
	locate     func(context.Context) (region, source string)
	labels     url.Values
	types      Types
	rate       int // 0 takes no CPU profile
	budget     Budget
	sources    []Source
	window     time.Duration
	upload     time.Duration
	timeout    time.Duration
	queueBytes int
	spoolDir   string // "" is no spool
	spoolBytes int64
	keyFile    string
	client     *http.Client
	polls      *http.Client // for what is not an upload
	ownClient  bool         // the connections are ours to close
	logger     *slog.Logger
}

// killSwitch reads PROFILER_ENABLED. What is not clearly yes or no is an
// error: who set it wanted something.
func killSwitch() (enabled bool, err error) {
	switch v := os.Getenv(envEnabled); strings.ToLower(v) {
	case "", "1", "t", "true", "on", "yes":
		return true, nil
	case "0", "f", "false", "off", "no":
		return false, nil
	default:
		return false, fmt.Errorf("agent: %s=%q: set it to true or false", envEnabled, v)
	}
}

func (o Options) resolve() (config, error) {
	c := config{logger: o.Logger}
	if c.logger == nil {
		c.logger = slog.Default()
	}
	var errs []error
	add := func(option string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("agent: Options.%s: %w", option, err))
		}
	}
	var err error
	c.window, err = period(o.Window, 10*time.Second, 100*time.Millisecond)
	add("Window", err)
	c.upload, err = period(o.Upload, time.Minute, 0)
	add("Upload", err)
	c.timeout, err = period(o.Timeout, 10*time.Second, 0)
	add("Timeout", err)
	c.types, err = o.profileTypes()
	add("Types", err)
	c.rate, err = o.cpuRate()
	add("CPURate", err)
	switch c.queueBytes = o.QueueBytes; {
	case c.queueBytes == 0:
		c.queueBytes = 4 << 20
	case c.queueBytes < 0:
		add("QueueBytes", fmt.Errorf("%d is below 0; leave it 0 for 4 MiB", o.QueueBytes))
	}
	c.spoolDir, c.spoolBytes = o.spool()
	c.keyFile = or(o.KeyFile, func() string { return os.Getenv(envKey) })
	c.budget = o.Budget.resolve()
	add("Sources", checkSources(o.Sources))
	c.sources = o.Sources
	c.endpoint, err = endpoint(o.Server)
	add("Server", err)
	c.endpoints = map[string]*url.URL{}
	for region, server := range o.Endpoints {
		c.endpoints[region], err = endpoint(or(server, func() string { return defaultServer }))
		add(fmt.Sprintf("Endpoints[%q]", region), err)
	}
	c.region = o.Region
	c.labels, err = o.uploadLabels()
	add("Labels", err)
	if len(errs) > 0 {
		return config{}, errors.Join(errs...)
	}
	c.client, c.ownClient = client(o.HTTPClient, 1)
	c.polls, _ = client(o.HTTPClient, 2) // a poll, and the result of a task beside it
	c.locate = func(ctx context.Context) (string, string) { return detectRegion(ctx, os.Getenv, nil) }
	return c, nil
}

func period(d, zero, least time.Duration) (time.Duration, error) {
	switch {
	case d == 0:
		return zero, nil
	case d < 0:
		return 0, fmt.Errorf("%v is below 0; leave it 0 for %v", d, zero)
	case d < least:
		return 0, fmt.Errorf("%v is too short, the least is %v", d, least)
	}
	return d, nil
}

func (o Options) cpuRate() (int, error) {
	switch {
	case o.CPURate < 0:
		return 0, nil
	case o.CPURate == 0:
		return defaultRate, nil
	case !slices.Contains(cpuRates, o.CPURate):
		return 0, fmt.Errorf("%d: it must be 50, 100 or 200 samples a second; leave it 0 for 100, or set it below 0 to take no CPU profile", o.CPURate)
	}
	return o.CPURate, nil
}

// spool is where profiles wait on disk; "" is nowhere.
func (o Options) spool() (dir string, limit int64) {
	if limit = o.SpoolBytes; limit < 0 {
		return "", 0
	} else if limit == 0 {
		limit = 64 << 20
	}
	dir = or(o.SpoolDir, func() string { return os.Getenv(envSpool) })
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", 0 // no home: a service that was given no folder
		}
		dir = filepath.Join(cache, "quantra", "spool")
	}
	return dir, limit
}

func (b Budget) resolve() Budget {
	if b.CPU == 0 {
		b.CPU = 0.01
	}
	if b.Memory == 0 {
		b.Memory = 10e6
	}
	if b.BytesPerMinute == 0 {
		b.BytesPerMinute = 1e6
	}
	return b
}

// checkSources refuses names that are wrong, taken or there twice.
func checkSources(sources []Source) error {
	taken := []string{"process_cpu", "memory", "goroutine", "mutex", "block", "goroutineleak", "runtime"}
	for i, s := range sources {
		if !labelName(s.Name) || slices.Contains(taken, s.Name) {
			return fmt.Errorf("%d: the name %.40q must match [a-zA-Z_][a-zA-Z0-9_]* and be none of %s or of those before", i, s.Name, strings.Join(taken, ", "))
		}
		if s.Write == nil {
			return fmt.Errorf("%d, %q: Write is nil", i, s.Name)
		}
		taken = append(taken, s.Name)
	}
	return nil
}

func (o Options) profileTypes() (Types, error) {
	t := o.Types
	if t == 0 {
		t = DefaultTypes
	}
	if t&^allTypes != 0 {
		return 0, fmt.Errorf("%#x has bits that are no type; join %s with |", uint16(t), strings.Join(typeNames, ", "))
	}
	if o.CPURate < 0 {
		t &^= CPU
	}
	return t, nil
}

func endpoint(server string) (*url.URL, error) {
	from := ""
	if server == "" {
		if server = os.Getenv(envServer); server != "" {
			from = " (from " + envServer + ")"
		} else {
			server = defaultServer
		}
	}
	u, err := url.Parse(server)
	if err != nil {
		// The parser's error would repeat the text, and with it a password.
		return nil, fmt.Errorf("not a URL%s; it must be like %s", from, defaultServer)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q%s: it must be like %s: http or https, a host, no query", u.Redacted(), from, defaultServer)
	}
	if u.Path == "" {
		u.Path = "/" // else JoinPath leaves out the first slash, and [sender.base] would not find the path
	}
	return u.JoinPath(profilesPath), nil
}

// uploadLabels are the labels of all uploads, as the query has them.
func (o Options) uploadLabels() (url.Values, error) {
	v := url.Values{}
	names := map[string]string{}
	maps.Copy(names, o.Labels)
	for name, value := range names {
		switch name {
		case labelService, labelVersion, labelInstance, labelRegion:
			return nil, fmt.Errorf("%q has a field of its own in Options", name)
		case "name", "from", "until":
			return nil, fmt.Errorf("%q is a parameter of the upload; choose another name", name)
		}
		if !labelName(name) {
			return nil, fmt.Errorf("name %.40q must match [a-zA-Z_][a-zA-Z0-9_]*, not start with \"__\" and have at most %d bytes", name, maxLabelName)
		}
		v.Set(name, value)
	}
	v.Set(labelService, or(o.Service, defaultService))
	v.Set(labelInstance, or(o.Instance, defaultInstance))
	v.Set(labelVersion, or(o.Version, defaultVersion))
	for name := range v {
		value := v.Get(name)
		switch {
		case value == "":
			v.Del(name) // an empty label is the same as none
		case len(value) > maxLabelValue:
			return nil, fmt.Errorf("the value of %q has %d bytes, the limit is %d", name, len(value), maxLabelValue)
		case !utf8.ValidString(value):
			return nil, fmt.Errorf("the value of %q is not UTF-8", name)
		}
	}
	if len(o.Region) > maxLabelValue || !utf8.ValidString(o.Region) {
		return nil, fmt.Errorf("the region is not UTF-8 of at most %d bytes", maxLabelValue)
	}
	if n := len(v) + 1; n > maxLabels {
		return nil, fmt.Errorf("%d labels, service, version, instance and region included, are too many, the limit is %d", n, maxLabels)
	}
	return v, nil
}

func labelName(s string) bool {
	if s == "" || len(s) > maxLabelName || strings.HasPrefix(s, "__") {
		return false
	}
	for i, c := range []byte(s) {
		if !(c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && c >= '0' && c <= '9') {
			return false
		}
	}
	return true
}

func or(s string, otherwise func() string) string {
	if s != "" {
		return s
	}
	return otherwise()
}

func defaultService() string {
	exe, err := os.Executable()
	if err != nil {
		exe = os.Args[0]
	}
	return strings.TrimSuffix(filepath.Base(exe), ".exe")
}

func defaultInstance() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s-%d", host, os.Getpid())
}

func defaultVersion() string {
	b, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	if v := b.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	revision, dirty := "", ""
	for _, s := range b.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	if revision == "" {
		return ""
	}
	return revision + dirty
}

// client is c, or one of our own, that follows no redirect: a POST to another
// host would hand it the profiles, and one to another path is a wrong address
// that its owner should hear about.
func client(c *http.Client, conns int) (hc *http.Client, own bool) {
	cp := http.Client{}
	if c != nil {
		cp = *c
	} else {
		own = true
		t, ok := http.DefaultTransport.(*http.Transport)
		if ok {
			t = t.Clone()
		} else {
			t = &http.Transport{Proxy: http.ProxyFromEnvironment}
		}
		t.MaxConnsPerHost, t.MaxIdleConnsPerHost = conns, conns
		cp.Transport = t
	}
	cp.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &cp, own
}
