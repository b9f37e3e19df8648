package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"
	"unicode/utf8"
)

// Types is a set of kinds of profiles: CPU|Heap, and so on.
type Types uint8

// The kinds of profiles.
const (
	CPU       Types = 1 << iota // where the processor's time goes, by samples at 100 Hz
	Heap                        // what is live: objects and bytes, as of the last garbage collection
	Allocs                      // what was allocated in the window: objects and bytes
	Goroutine                   // where goroutines are
	Mutex                       // which contended mutexes made others wait in the window, and how long
	Block                       // where goroutines waited in the window, and how long

	// DefaultTypes is what an empty set means: all but Block, whose cost grows
	// with the program's own channel operations.
	DefaultTypes = CPU | Heap | Allocs | Goroutine | Mutex
	allTypes     = DefaultTypes | Block
)

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
	// and name, from and until are taken. A "region" here beats QUANTRA_REGION.
	Labels map[string]string

	// Server is the base URL of the server. "" is QUANTRA_SERVER, else http://127.0.0.1:4040.
	Server string
	// HTTPClient sends the uploads. nil is a client of the agent's own. The agent
	// uses a copy that follows no redirects: profiles go to Server or nowhere.
	HTTPClient *http.Client
	// Timeout bounds one upload. 0 is 10 s; <0 is an error.
	Timeout time.Duration

	// Types is what is profiled. 0 is DefaultTypes.
	Types Types
	// CPURate is the CPU profile's samples a second. 0 is 100, <0 turns the CPU profile
	// off. 100 is the only rate: the runtime's profiler has no other without
	// writing a warning to the program's stderr at every window.
	CPURate int
	// Window is the time that one profile covers, give or take 5 % so that a fleet does not
	// beat in step. 0 is 10 s; at least 100 ms, <0 is an error.
	Window time.Duration
	// Upload is the time between uploads, give or take 10 %. 0 is 60 s; <0 is an error.
	// The first window is uploaded at once, and so is a queue that is half full.
	Upload time.Duration
	// QueueBytes bounds the profiles that wait for an upload, the oldest are dropped first.
	// 0 is 8 MiB; <0 is an error.
	QueueBytes int

	// Logger hears when uploads begin to fail, when they work again, and of
	// profiles that cannot be taken. nil is slog.Default().
	Logger *slog.Logger
}

const (
	envServer  = "QUANTRA_SERVER"
	envRegion  = "QUANTRA_REGION"
	envEnabled = "PROFILER_ENABLED"

	labelService  = "service_name"
	labelVersion  = "service_version"
	labelInstance = "service_instance_id"

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
	labels     url.Values
	types      Types
	window     time.Duration
	upload     time.Duration
	timeout    time.Duration
	queueBytes int
	client     *http.Client
	ownClient  bool // the connections are ours to close
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
	if o.CPURate > 0 && o.CPURate != 100 {
		add("CPURate", fmt.Errorf("%d: the Go runtime samples at 100 a second; leave it 0, or set it below 0 to take no CPU profile", o.CPURate))
	}
	switch c.queueBytes = o.QueueBytes; {
	case c.queueBytes == 0:
		c.queueBytes = 8 << 20
	case c.queueBytes < 0:
		add("QueueBytes", fmt.Errorf("%d is below 0; leave it 0 for 8 MiB", o.QueueBytes))
	}
	c.endpoint, err = endpoint(o.Server)
	add("Server", err)
	c.labels, err = o.uploadLabels()
	add("Labels", err)
	if len(errs) > 0 {
		return config{}, errors.Join(errs...)
	}
	c.client, c.ownClient = client(o.HTTPClient)
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

func (o Options) profileTypes() (Types, error) {
	t := o.Types
	if t == 0 {
		t = DefaultTypes
	}
	if t&^allTypes != 0 {
		return 0, fmt.Errorf("%#x has bits that are no type; join CPU, Heap, Allocs, Goroutine, Mutex and Block with |", uint8(t))
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
	return u.JoinPath("/api/v1/profiles"), nil
}

// uploadLabels are the labels of all uploads, as the query has them.
func (o Options) uploadLabels() (url.Values, error) {
	v := url.Values{}
	if r := os.Getenv(envRegion); r != "" {
		v.Set("region", r)
	}
	names := map[string]string{}
	maps.Copy(names, o.Labels)
	for name, value := range names {
		switch name {
		case labelService, labelVersion, labelInstance:
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
	if len(v) > maxLabels {
		return nil, fmt.Errorf("%d labels, service, version, instance and region included, are too many, the limit is %d", len(v), maxLabels)
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
func client(c *http.Client) (hc *http.Client, own bool) {
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
		t.MaxConnsPerHost = 1
		cp.Transport = t
	}
	cp.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &cp, own
}
