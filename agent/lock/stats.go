package lock

import (
	"cmp"
	"io"
	"slices"
	"time"

	"github.com/quantra-l/quantra/agent"
)

// Stat is what is known of the locks of one name, in one mode, since the program began.
type Stat struct {
	Name string `json:"name"`
	// Mode is "read" or "write" of a RWMutex, "" of a Mutex.
	Mode string `json:"mode,omitempty"`
	// Waiting is how many goroutines wait now. What they wait is counted when it ends.
	Waiting int64 `json:"waiting"`
	// Wait counts every wait.
	Wait Histogram `json:"wait"`
	// Hold is, but for readers, an estimate of all holds; the package comment says of what it is made.
	Hold Histogram `json:"hold"`
}

// Histogram is durations, counted by the powers of two.
type Histogram struct {
	Count int64         `json:"count"`
	Sum   time.Duration `json:"sum_ns"`
	// Buckets are those that count something, shortest first.
	Buckets []Bucket `json:"buckets,omitempty"`
}

// Bucket counts the durations of at least Min and less than twice that; that of 0 counts those of 0 alone, and
// that of 2^40 ns (18 minutes) all from there on.
type Bucket struct {
	Min   time.Duration `json:"min_ns"`
	Count int64         `json:"count"`
}

// Quantile is a duration that the share q of all, 0 to 1, does not exceed: the end of the bucket where
// that share is reached, so up to twice the true one. It is 0 without any.
func (h Histogram) Quantile(q float64) time.Duration {
	seen := int64(0)
	for _, b := range h.Buckets {
		if seen += b.Count; float64(seen) >= q*float64(h.Count) {
			return max(0, 2*b.Min-1)
		}
	}
	return 0
}

// Stats is what is known of each name and mode, the longest total wait first. There are at most MaxNames
// names; locks of further ones are summed as "other".
func Stats() []Stat { return all.stats() }

func (g *registry) stats() []Stat {
	var out []Stat
	g.eachMode(func(m *mode) {
		s := Stat{Name: m.series.name, Mode: m.id.String(), Waiting: m.waiting.Load(), Wait: m.wait.read(), Hold: m.hold.read()}
		if s.Waiting != 0 || s.Wait.Count > 0 || s.Hold.Count > 0 {
			out = append(out, s)
		}
	})
	slices.SortFunc(out, func(a, b Stat) int {
		return cmp.Or(cmp.Compare(b.Wait.Sum, a.Wait.Sum), cmp.Compare(b.Hold.Sum, a.Hold.Sum),
			cmp.Compare(a.Name, b.Name), cmp.Compare(a.Mode, b.Mode))
	})
	return out
}

// read copies h. While others add to it, the sum may be of a few more or less than the counts.
func (h *histogram) read() Histogram {
	out := Histogram{Sum: time.Duration(h.sum.Load())}
	for i := range h.counts {
		n := h.counts[i].Load()
		if n == 0 {
			continue
		}
		out.Count += n
		out.Buckets = append(out.Buckets, Bucket{Min: time.Duration(uint64(1) << i >> 1), Count: n})
	}
	return out
}

// Source is the profile "lock", for the agent to take along: agent.Options has a place for it.
func Source() agent.Source {
	return agent.Source{Name: "lock", Write: WriteProfile, Report: func() any { return all.report() }}
}

// maxReport is how many locks the agent's status shows: it has 64 KiB for all there is.
const maxReport = 30

// report is Stats without its buckets.
type report struct {
	Locks []summary `json:"locks"`
	// More is how many there are beside these.
	More int `json:"more"`
}

type summary struct {
	Name    string        `json:"name"`
	Mode    string        `json:"mode,omitempty"`
	Waiting int64         `json:"waiting"`
	Waits   int64         `json:"waits"`
	Wait    time.Duration `json:"wait_ns"`
	WaitP99 time.Duration `json:"wait_p99_ns"`
	Holds   int64         `json:"holds"`
	Hold    time.Duration `json:"hold_ns"`
	HoldP99 time.Duration `json:"hold_p99_ns"`
}

func (g *registry) report() report {
	stats := g.stats()
	r := report{Locks: []summary{}, More: max(0, len(stats)-maxReport)}
	for _, s := range stats[:len(stats)-r.More] {
		r.Locks = append(r.Locks, summary{
			Name: s.Name, Mode: s.Mode, Waiting: s.Waiting,
			Waits: s.Wait.Count, Wait: s.Wait.Sum, WaitP99: s.Wait.Quantile(0.99),
			Holds: s.Hold.Count, Hold: s.Hold.Sum, HoldP99: s.Hold.Quantile(0.99),
		})
	}
	return r
}

// WriteProfile writes the profile of all locks since the program began, pprof in gzip. Its sample types are
//
//	contentions/count    waits, at the stack that waited
//	wait/nanoseconds     their time
//	acquisitions/count   holds, at the stack that took the lock, or where it did not look at
//	                     the clock, at the stack that released it
//	hold/nanoseconds     their time
//
// and its labels lock, the name, and of a RWMutex mode, read or write. All values only grow. It writes with
// no lock held.
func WriteProfile(w io.Writer) error { return all.writeProfile(w) }
