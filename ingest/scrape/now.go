package scrape

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/quantra-l/quantra/profile"
)

// MaxNow bounds the targets of one profile that is taken now, and MaxNowFor how long it takes.
const (
	MaxNow    = 100
	MaxNowFor = 5 * time.Minute
)

// onDemand is what is fetched for a profile of now, by its name in net/http/pprof: what is counted is asked for with seconds, of which the
// program itself makes the difference; of what is in use only the columns that are so.
var onDemand = map[string]struct {
	kind, path string
	timed      bool
	only       string // the columns whose types begin so; "" is all
}{
	"profile":   {"process_cpu", "profile", true, ""},
	"heap":      {"memory", "heap", false, "inuse_"},
	"allocs":    {"memory", "allocs", true, "alloc_"},
	"goroutine": {"goroutine", "goroutine", false, ""},
	"mutex":     {"mutex", "mutex", true, ""},
	"block":     {"block", "block", true, ""},
}

// Now takes a profile of each target of a service, for d, and keeps it. It says of how many it took one: 0 is that the service has no
// targets, or that its targets have no such profile. The error is of those that failed, where all did.
func (s *Scraper) Now(ctx context.Context, tenant, service, kind string, d time.Duration) (int, error) {
	k, ok := onDemand[kind]
	if !ok {
		return 0, nil
	}
	if d < time.Second || d > MaxNowFor {
		return 0, fmt.Errorf("a profile of now takes from 1s to %v", MaxNowFor)
	}
	if !k.timed {
		d = 0
	}
	var of []*target
	s.mu.Lock()
	for _, t := range s.targets {
		if t.wrong == nil && !t.Console && t.labels.Get(profile.LabelService) == service && sameTenant(t.Tenant, tenant) {
			of = append(of, t)
		}
	}
	s.mu.Unlock()
	if len(of) > MaxNow {
		return 0, fmt.Errorf("%s has %d targets, at most %d can be profiled at once", service, len(of), MaxNow)
	}
	errs := make([]error, len(of))
	var wait sync.WaitGroup
	for i, t := range of {
		wait.Go(func() {
			from := s.opt.Now()
			raw, err := s.fetch(ctx, t, k.path, d)
			if err == nil && k.only != "" {
				raw, err = s.columns(raw, k.only)
			}
			if err == nil {
				err = s.append(ctx, t, k.kind, from, s.opt.Now(), raw)
			}
			if err != nil {
				errs[i] = fmt.Errorf("%s: %w", t.url, err)
			}
		})
	}
	wait.Wait()
	n := 0
	for _, err := range errs {
		if err == nil {
			n++
		}
	}
	if n == 0 {
		return 0, errors.Join(errs...)
	}
	return n, nil
}

// defaultTenant is whose what names no tenant is, as in the store.
const defaultTenant = "default"

func sameTenant(a, b string) bool {
	if a == "" {
		a = defaultTenant
	}
	if b == "" {
		b = defaultTenant
	}
	return a == b
}

// columns is a profile with those columns only whose types begin with prefix.
func (s *Scraper) columns(raw []byte, prefix string) ([]byte, error) {
	p, err := profile.DecodeBytes(raw, s.opt.Limits)
	if err != nil {
		return nil, err
	}
	q := *p
	q.SampleTypes, q.Values, q.DefaultSampleType = nil, nil, ""
	for i, t := range p.SampleTypes {
		if strings.HasPrefix(t.Type, prefix) {
			q.SampleTypes, q.Values = append(q.SampleTypes, t), append(q.Values, p.Values[i])
		}
	}
	if len(q.SampleTypes) == 0 {
		return nil, fmt.Errorf("%w: it has no column that begins with %s", profile.ErrCorrupt, prefix)
	}
	return q.Compact().AppendPprof(nil), nil
}
