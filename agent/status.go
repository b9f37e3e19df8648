package agent

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Status is what an agent did since it started, and how it is now. As JSON it
// goes to the server with each poll (docs/format/agents.md).
type Status struct {
	Enabled bool `json:"enabled"` // false for a nil agent and where PROFILER_ENABLED=false

	Uploaded      int64     `json:"uploaded"`             // profiles that the server acknowledged
	UploadedBytes int64     `json:"uploaded_bytes"`       // their bytes
	LastUpload    time.Time `json:"last_upload,omitzero"` // when it last did; zero if never
	Failed        int64     `json:"failed"`               // requests that failed, each try counted
	Rejected      int64     `json:"rejected"`             // profiles that the server refused for good, not tried again
	Dropped       int64     `json:"dropped"`              // profiles given up: queue and spool were full, or Stop ended first

	Queued       int   `json:"queued"`        // profiles that wait in memory
	QueuedBytes  int   `json:"queued_bytes"`  // their bytes
	Spooled      int   `json:"spooled"`       // profiles that wait on disk
	SpooledBytes int64 `json:"spooled_bytes"` // their bytes
	// SpoolError is why profiles could not be kept on disk the last time; "" if they could, or need not.
	SpoolError string `json:"spool_error,omitempty"`

	Gaps    int64  `json:"gaps"`               // profiles that could not be taken, or in part only, as when another profiler had the CPU profile
	LastGap string `json:"last_gap,omitempty"` // which and why; "" if there was none

	LastError string `json:"last_error,omitempty"` // why the last failed request failed; it stays after a success

	Region       string `json:"region"`        // "" until it is known
	RegionSource string `json:"region_source"` // options, env, gcp, aws, azure or default
	Server       string `json:"server"`        // where profiles go
	KeyID        string `json:"key_id"`        // the agent's public key, base64url

	CPURate int      `json:"cpu_rate"`           // samples a second now; 0 is none
	Types   string   `json:"types"`              // what is taken now, as "CPU|Heap"
	Shed    []string `json:"shed,omitempty"`     // what is not taken at the moment to keep the budget
	Steps   []Step   `json:"steps,omitempty"`    // the latest of those that led there, at most 20
	Cost    Cost     `json:"cost"`               // of the last two minutes
	Notes   []string `json:"warnings,omitempty"` // what the owner of the program should know

	Lease      string `json:"lease,omitempty"`       // the lease that is followed; "" is none
	LeaseError string `json:"lease_error,omitempty"` // why one was refused, or ended before its time

	Sources map[string]any `json:"sources,omitempty"` // what Options.Sources report, by name
}

// Step is a change that the budget, or the program's load, made necessary or possible.
type Step struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
}

// Cost is what the agent costs the program, beside what it may.
type Cost struct {
	// CPUPercent is the agent's share of the program's processor time, in percent;
	// CPUDoubt is how far off that may be, one-sided 95 %, as it is measured by samples.
	CPUPercent float64 `json:"cpu_percent"`
	CPUDoubt   float64 `json:"cpu_doubt_percent"`
	// CorePercent is its processor time in percent of one core.
	CorePercent float64 `json:"core_percent"`
	// SignalNanos is what one sample's signal was measured to cost at the start, in ns.
	SignalNanos int64 `json:"signal_ns"`
	// Memory is the bytes that the agent holds; Buckets those of the runtime's profiling
	// buckets, which only grow and are there in every program that can be heap-profiled.
	Memory  int64 `json:"memory_bytes"`
	Buckets int64 `json:"bucket_bytes"`
	// BytesPerMinute is the profiles made, as they are sent.
	BytesPerMinute int64 `json:"bytes_per_minute"`
	Budget         struct {
		CPUPercent     float64 `json:"cpu_percent"`
		Memory         int64   `json:"memory_bytes"`
		BytesPerMinute int64   `json:"bytes_per_minute"`
	} `json:"budget"`
}

// status is a Status behind a lock. It logs when things change from good to bad and back, not
// each time: a server that is away for an hour is two lines.
type status struct {
	log *slog.Logger

	mu      sync.Mutex
	s       Status
	lost    int64 // of the spool
	failing bool
	gapped  map[string]bool // by profile: its last window was a gap, said already
}

func newStatus(log *slog.Logger) *status {
	return &status{log: log, gapped: map[string]bool{}}
}

func (s *status) get() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.s
	st.Dropped = s.lost
	st.Shed, st.Steps, st.Notes = slices.Clone(st.Shed), slices.Clone(st.Steps), slices.Clone(st.Notes)
	return st
}

func (s *status) gap(name string, err error) {
	s.mu.Lock()
	s.s.Gaps++
	s.s.LastGap = name + ": " + err.Error()
	said := s.gapped[name]
	s.gapped[name] = true
	s.mu.Unlock()
	if !said {
		s.log.Warn("profile could not be taken, trying again each window", "profile", name, "err", err)
	}
}

func (s *status) uploaded(n int, at time.Time) {
	s.mu.Lock()
	s.s.Uploaded++
	s.s.UploadedBytes += int64(n)
	s.s.LastUpload = at
	again := s.failing
	s.failing = false
	s.mu.Unlock()
	if again {
		s.log.Info("profiles are uploaded again")
	}
}

func (s *status) failed(err error, rejected bool) {
	s.mu.Lock()
	s.s.Failed++
	if rejected {
		s.s.Rejected++
	}
	s.s.LastError = err.Error()
	said := s.failing
	s.failing = true
	s.mu.Unlock()
	if !said {
		s.log.Warn("profiles cannot be uploaded", "err", err)
	}
}

func (s *status) identified(key string) { s.s.KeyID = key } // before it is shared

func (s *status) located(region, source, server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.s.Region, s.s.RegionSource, s.s.Server = region, source, server
}

// spooled tells what is on disk. Only the sender calls it.
func (s *status) spooled(sp *spool) {
	if sp == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.s.Spooled, s.s.SpooledBytes, s.lost = len(sp.entries), sp.bytes, sp.lost
	if len(sp.entries) > 0 {
		s.s.SpoolError = ""
	}
}

func (s *status) spoolFailed(err error) {
	s.mu.Lock()
	said := s.s.SpoolError != ""
	s.s.SpoolError = err.Error()
	s.mu.Unlock()
	if !said {
		s.log.Warn("profiles cannot be kept on disk, they stay in memory", "err", err)
	}
}

// step tells of one.
func (s *status) step(what string) {
	s.mu.Lock()
	s.s.Steps = append(s.s.Steps, Step{time.Now(), what})
	if n := len(s.s.Steps); n > maxSteps {
		s.s.Steps = slices.Delete(s.s.Steps, 0, n-maxSteps)
	}
	s.mu.Unlock()
	s.log.Info("the agent keeps its budget", "step", what)
}

// note tells the program's owner something, once for each kind.
func (s *status) note(kind, format string, args ...any) {
	text := kind + ": " + fmt.Sprintf(format, args...)
	s.mu.Lock()
	i := slices.IndexFunc(s.s.Notes, func(n string) bool { return len(n) > len(kind) && n[:len(kind)+1] == kind+":" })
	if i >= 0 {
		s.s.Notes[i] = text // with its latest figures
	} else {
		s.s.Notes = append(s.s.Notes, text)
	}
	s.mu.Unlock()
	if i < 0 {
		s.log.Warn(text)
	}
}

// measured tells how the agent is after a window.
func (s *status) measured(p plan, shed []string, c Cost) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.s.CPURate, s.s.Types, s.s.Shed, s.s.Cost = p.rate, p.types.String(), shed, c
}
