package policyfile

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/quantra-l/quantra/optimize"
)

// checkEvery is how often a file is looked at for a change, at most: it is small, and read whole.
const checkEvery = time.Second

// Source is a policy file that is read again when it has changed. One that is wrong then leaves in force what was read before.
type Source struct {
	name string
	log  *slog.Logger
	now  func() time.Time

	mu      sync.Mutex
	file    *File
	raw     []byte // what was read last, right or wrong
	checked time.Time
	status  optimize.PolicyFile
}

// Open reads a policy file for the first time, when what is wrong with it is an error. now may be nil.
func Open(name string, log *slog.Logger, now func() time.Time) (*Source, error) {
	if now == nil {
		now = time.Now
	}
	s := &Source{name: name, log: log, now: now}
	var err error
	if s.raw, err = read(name); err != nil {
		return nil, err
	}
	if s.file, err = Decode(bytes.NewReader(s.raw)); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	s.checked = now()
	s.status = optimize.PolicyFile{Name: name, Read: s.checked.UTC()}
	return s, nil
}

func read(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, MaxFile+1))
}

// File is what is in force now.
func (s *Source) File() *File {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.now(); now.Sub(s.checked) >= checkEvery || now.Before(s.checked) {
		s.checked = now
		s.refresh(now)
	}
	return s.file
}

// Status says where it comes from, and what is wrong with the file as it is now.
func (s *Source) Status() optimize.PolicyFile {
	s.File()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// refresh reads the file anew.
func (s *Source) refresh(now time.Time) {
	raw, err := read(s.name)
	var f *File
	switch {
	case err != nil:
		s.raw = nil
	case bytes.Equal(raw, s.raw):
		return // right or wrong, that is said
	default:
		s.raw = raw
		f, err = Decode(bytes.NewReader(raw))
	}
	if err != nil {
		if text := err.Error(); text != s.status.Error {
			s.status.Error = text
			s.log.Error("the policy file is wrong, and what was read before stays in force", "file", s.name, "err", err)
		}
		return
	}
	s.file = f
	s.status = optimize.PolicyFile{Name: s.name, Read: now.UTC()}
	s.log.Info("the policy file was read again", "file", s.name)
}
