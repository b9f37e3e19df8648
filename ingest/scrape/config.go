package scrape

import (
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/model/relabel"
	"go.yaml.in/yaml/v2"

	// What a file may name. Each registers its field of a job by being imported: that is how the library is made.
	_ "github.com/prometheus/prometheus/discovery/dns"
	_ "github.com/prometheus/prometheus/discovery/file"
	_ "github.com/prometheus/prometheus/discovery/kubernetes"
)

// Bounds of a file.
const (
	maxFile = 1 << 20
	maxJobs = 200
)

// Defaults of a job. A tenth of a processor's time is profiled unless a job says otherwise: the profile itself costs about 1 % of that.
const (
	defaultInterval = time.Minute
	defaultCPU      = 10 * time.Second
	defaultTimeout  = 10 * time.Second // beside the seconds that a profile takes
	minInterval     = 5 * time.Second
)

// Config is what a file says.
type Config struct {
	Jobs []*Job `yaml:"scrape_configs"`
}

// Job is targets that are found and profiled alike. Its fields are those of a Prometheus scrape_config where they mean the same.
type Job struct {
	Name     string         `yaml:"job_name"`
	Tenant   string         `yaml:"tenant,omitempty"` // whose the profiles are; "" is the store's default
	Interval model.Duration `yaml:"scrape_interval,omitempty"`
	Timeout  model.Duration `yaml:"scrape_timeout,omitempty"` // beside the seconds that a profile takes
	Scheme   string         `yaml:"scheme,omitempty"`
	// Path is where net/http/pprof stands: /debug/pprof.
	Path string `yaml:"pprof_path,omitempty"`
	// Profiles are which are taken: cpu, memory, goroutine, mutex, block.
	Profiles []string `yaml:"profiles,omitempty"`
	// Seconds is how long a CPU profile takes in each interval.
	Seconds model.Duration `yaml:"cpu_duration,omitempty"`
	// Deltas says that the targets have the endpoints of godeltaprof, which subtract by themselves.
	Deltas bool `yaml:"godeltaprof,omitempty"`
	// Console says that the targets are Rust programs with console-subscriber, whose tasks are watched: they have no net/http/pprof.
	Console bool                    `yaml:"tokio_console,omitempty"`
	Relabel []*relabel.Config       `yaml:"relabel_configs,omitempty"`
	Client  config.HTTPClientConfig `yaml:",inline"`
	Found   discovery.Configs       `yaml:"-"` // static_configs, file_sd_configs, dns_sd_configs, kubernetes_sd_configs
}

func defaultJob() Job {
	return Job{Interval: model.Duration(defaultInterval), Timeout: model.Duration(defaultTimeout), Scheme: "http", Path: "/debug/pprof", Seconds: model.Duration(defaultCPU),
		Profiles: []string{"cpu", "memory", "goroutine", "mutex", "block"}, Client: config.DefaultHTTPClientConfig}
}

// UnmarshalYAML is for the YAML library.
func (j *Job) UnmarshalYAML(unmarshal func(any) error) error {
	*j = defaultJob()
	return discovery.UnmarshalYAMLWithInlineConfigs(j, unmarshal)
}

// Parse reads a file of jobs. Relative paths in it are under dir.
func Parse(r io.Reader, dir string) (*Config, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxFile {
		return nil, fmt.Errorf("the file has more than %d bytes", maxFile)
	}
	c := &Config{}
	if err := yaml.UnmarshalStrict(raw, c); err != nil {
		return nil, err
	}
	if len(c.Jobs) == 0 || len(c.Jobs) > maxJobs {
		return nil, fmt.Errorf("scrape_configs has %d jobs, it must have 1 to %d", len(c.Jobs), maxJobs)
	}
	seen := map[string]bool{}
	for i, j := range c.Jobs {
		if j == nil || j.Name == "" {
			return nil, fmt.Errorf("scrape_configs: job %d has no job_name", i+1)
		}
		if seen[j.Name] {
			return nil, fmt.Errorf("scrape_configs: job_name %q is there twice", j.Name)
		}
		seen[j.Name] = true
		if err := j.check(dir); err != nil {
			return nil, fmt.Errorf("scrape_configs: job %q: %w", j.Name, err)
		}
	}
	return c, nil
}

// checkConsole refuses what a job of programs with console-subscriber would pass over.
func (j *Job) checkConsole() error {
	d, client := defaultJob(), j.Client
	client.TLSConfig = d.Client.TLSConfig
	switch {
	case j.Path != d.Path || !slices.Equal(j.Profiles, d.Profiles) || j.Seconds != d.Seconds || j.Timeout != d.Timeout || j.Deltas:
		return fmt.Errorf("tokio_console: pprof_path, profiles, cpu_duration, scrape_timeout and godeltaprof are about net/http/pprof, which these targets do not have: leave them out")
	case !reflect.DeepEqual(client, d.Client):
		return fmt.Errorf("tokio_console: of how to connect only scheme and tls_config are known: console-subscriber itself asks nobody who they are")
	}
	return nil
}

func (j *Job) check(dir string) error {
	interval, seconds := time.Duration(j.Interval), time.Duration(j.Seconds)
	switch {
	case interval < minInterval:
		return fmt.Errorf("scrape_interval is %v, it must be at least %v", interval, minInterval)
	case j.Timeout <= 0:
		return fmt.Errorf("scrape_timeout is %v, it must be more than 0", j.Timeout)
	case !j.Console && (seconds < time.Second || seconds >= interval || seconds%time.Second != 0):
		return fmt.Errorf("cpu_duration is %v, it must be whole seconds, 1 at least and less than scrape_interval", seconds)
	case j.Scheme != "http" && j.Scheme != "https":
		return fmt.Errorf("scheme is %q, it must be http or https", j.Scheme)
	case len(j.Path) == 0 || j.Path[0] != '/':
		return fmt.Errorf("pprof_path is %q, it must begin with /", j.Path)
	case len(j.Profiles) == 0:
		return fmt.Errorf("profiles is empty: name cpu, memory, goroutine, mutex or block")
	case len(j.Found) == 0:
		return fmt.Errorf("it has no targets: give static_configs, file_sd_configs, dns_sd_configs or kubernetes_sd_configs")
	}
	if j.Console {
		if err := j.checkConsole(); err != nil {
			return err
		}
	}
	for _, p := range j.Profiles {
		if _, ok := kinds[p]; !ok {
			return fmt.Errorf("profiles: %q is not known: there are cpu, memory, goroutine, mutex and block", p)
		}
	}
	for _, r := range j.Relabel {
		if r == nil {
			return fmt.Errorf("relabel_configs has an empty entry")
		}
		if err := r.Validate(model.LegacyValidation); err != nil { // labels of ours are of these characters
			return fmt.Errorf("relabel_configs: %w", err)
		}
	}
	if err := j.Client.Validate(); err != nil {
		return err
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	j.Client.SetDirectory(abs)
	j.Found.SetDirectory(abs)
	return nil
}
