package policy

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// lookEvery is how often a source looks for a change. All of it is read then: times of files say too little where a file is replaced within
// one tick of the clock, or restored from elsewhere.
const lookEvery = time.Second

// Source is a folder, or file, of policies that is read again when it changes. Policies with a slip in them leave in force what was read
// before, and Status says so.
type Source struct {
	name string
	log  *slog.Logger
	now  func() time.Time
	set  atomic.Pointer[Set]

	mu         sync.Mutex // held while it looks
	generation uint64
	loaded     time.Time
	seen       string // the digest of what was seen last, or the error of reading it
	taken      string // the digest or error that was acted upon last
	err        string
	since      time.Time
}

// Status is where a source stands.
type Status struct {
	Name       string    `json:"name"`
	Generation uint64    `json:"generation"` // 1 is what it began with; each set that is taken is one more
	Digest     string    `json:"digest"`     // of what is in force
	Files      []string  `json:"files"`      // of what is in force, as they were read
	Policies   int       `json:"policies"`
	Loaded     time.Time `json:"loaded"` // when what is in force was read
	// Error says what is wrong with the files as they are now, with file, line and column; Since when. What is in force is older then.
	Error string    `json:"error,omitempty"`
	Since time.Time `json:"since,omitzero"`
}

// Open reads policies for the first time, when what is wrong with them is an error. Run, or Reload, then keeps them fresh. log may be nil,
// which is silence; now may be nil.
func Open(dirOrFile string, log *slog.Logger, now func() time.Time) (*Source, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if now == nil {
		now = time.Now
	}
	set, err := Load(dirOrFile)
	if err != nil {
		return nil, err
	}
	s := &Source{name: dirOrFile, log: log, now: now, generation: 1, loaded: now().UTC(), seen: set.digest, taken: set.digest}
	s.set.Store(set)
	return s, nil
}

// Set is what is in force. It costs a load from memory.
func (s *Source) Set() *Set { return s.set.Load() }

// Run looks for changes until ctx ends. A change is taken when two looks, a second apart, have seen the same: who copies several files one
// after the other is not caught in between.
func (s *Source) Run(ctx context.Context) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			s.look(false)
		}
	}
}

// Reload takes the files as they are now, and says what is wrong with them.
func (s *Source) Reload() error { return s.look(true) }

// StandardStatus is where the standard set stands, which is in force where there are no files. since is since when.
func StandardStatus(since time.Time) Status {
	set := Standard()
	return Status{Name: "standard", Generation: 1, Digest: set.digest, Files: set.Files(), Policies: set.Len(), Loaded: since.UTC()}
}

// Status says where it stands.
func (s *Source) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	set := s.set.Load()
	return Status{Name: s.name, Generation: s.generation, Digest: set.digest, Files: set.Files(), Policies: set.Len(), Loaded: s.loaded, Error: s.err, Since: s.since}
}

// look reads the files, and acts where they differ from what was acted upon last.
func (s *Source) look(atOnce bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	files, err := read(s.name)
	seen := digestOf(files)
	if err != nil {
		seen = err.Error()
	}
	settled := seen == s.seen
	s.seen = seen
	if !atOnce && (!settled || seen == s.taken) {
		return nil
	}
	s.taken = seen
	var set *Set
	if err == nil {
		set, err = compile(files)
	}
	if err != nil {
		if text := err.Error(); text != s.err {
			s.err = text
			if s.since.IsZero() {
				s.since = s.now().UTC()
			}
			s.log.Error("the policies are wrong, and what was read before stays in force", "policies", s.name, "generation", s.generation, "err", err)
		}
		return err
	}
	s.err, s.since = "", time.Time{}
	if set.digest != s.set.Load().digest {
		s.generation++
		s.loaded = s.now().UTC()
		s.set.Store(set)
	}
	s.log.Info("policies are in force", "policies", s.name, "generation", s.generation, "count", set.Len(), "digest", set.digest)
	return nil
}
