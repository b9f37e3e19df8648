package analyze

import "github.com/quantra-l/quantra/profile"

// Roots counts the spans at the roots of a profile of spans (docs/format/spans.md), which are a program's requests. The zero value counts
// none.
type Roots struct{ d durations }

// ReadRoots reads a profile of spans with the column "spans"; ok is false where it has none, or values below 0, as of a difference.
func ReadRoots(p *profile.Profile) (r Roots, ok bool) {
	counts, ok := spanColumn(p, "spans")
	if !ok {
		return Roots{}, false
	}
	reader := spanReader{p: p}
	for s, n := range counts {
		if n < 0 || r.d.n+r.d.loose > maxSpansJudged-n {
			return Roots{}, false
		}
		stack := p.SampleStack[s]
		if n == 0 || stack == 0 || p.Stacks.Parent[stack] != 0 {
			continue
		}
		le, failed := reader.labels(p.SampleLabels[s])
		r.d.add(le, n, float64(n)*(durationBucket{le: le}).middle(), failed)
	}
	return r, true
}

// Add adds the requests of o.
func (r *Roots) Add(o *Roots) { r.d.merge(&o.d) }

// Requests is how many there were, and Failed how many of them ended in an error.
func (r *Roots) Requests() float64 { return float64(r.d.n + r.d.loose) }

// Failed is of [Roots.Requests].
func (r *Roots) Failed() float64 { return float64(r.d.errors) }

// Seconds is how long requests took together, by the middles of their buckets; those without a bucket are left out. Divided by a time on the
// clock it is how many were in flight on average (Little's law).
func (r *Roots) Seconds() float64 { return r.d.sum / 1e9 }

// Quantile is the q-quantile of how long requests took, in seconds, spread evenly within its bucket. ok is false where there is none with
// a bucket, or more than one of a hundred has none.
func (r *Roots) Quantile(q float64) (seconds float64, ok bool) {
	if r.d.n == 0 || 100*r.d.loose > r.d.n {
		return 0, false
	}
	return r.d.at(max(1, q*float64(r.d.n))) / 1e9, true
}
