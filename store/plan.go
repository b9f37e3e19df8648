package store

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store/block"
)

// MaxIDs bounds how many single profiles one question may name.
const MaxIDs = 10_000

// Plan is a checked query, ready to run. A [Backend] is asked with it, and reads it from
// many goroutines.
type Plan struct {
	Tenant   string
	Type     profile.Type
	AnyType  bool       // Type is zero: all types
	From, To int64      // Unix nanoseconds: windows that start in [From, To)
	IDs      []block.ID // if not empty, these profiles only

	text    string // of Type
	tests   []test // on labels
	types   []test // on profile.LabelType
	samples []test // on labels of samples
}

// Plan checks the query. The error is [ErrInvalid].
func (q Query) Plan() (*Plan, error) {
	p := &Plan{Tenant: cmp.Or(q.Tenant, DefaultTenant), Type: q.Type, AnyType: q.Type == profile.Type{}, From: math.MinInt64, To: math.MaxInt64, IDs: q.IDs}
	p.text = p.Type.String()
	if n := len(q.Matchers) + len(q.SampleMatchers); n > MaxMatchers {
		return p, fmt.Errorf("%w: %d matchers, at most %d can be", ErrInvalid, n, MaxMatchers)
	}
	if len(q.IDs) > MaxIDs {
		return p, fmt.Errorf("%w: %d profiles are named, at most %d can be", ErrInvalid, len(q.IDs), MaxIDs)
	}
	for _, m := range q.Matchers {
		t, err := m.compile()
		if err != nil {
			return p, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		if m.Name == profile.LabelType {
			p.types = append(p.types, t)
		} else {
			p.tests = append(p.tests, t)
		}
	}
	for _, m := range q.SampleMatchers {
		t, err := m.compile()
		if err != nil {
			return p, fmt.Errorf("%w: sample labels: %w", ErrInvalid, err)
		}
		p.samples = append(p.samples, t)
	}
	if !q.From.IsZero() {
		p.From = nanos(q.From)
	}
	if !q.To.IsZero() {
		p.To = nanos(q.To)
	}
	return p, nil
}

var earliest, latest = time.Unix(0, math.MinInt64), time.Unix(0, math.MaxInt64)

// nanos is t in Unix nanoseconds, the nearest there is.
func nanos(t time.Time) int64 {
	if t.Before(earliest) {
		return math.MinInt64
	}
	if t.After(latest) {
		return math.MaxInt64
	}
	return t.UnixNano()
}

// MatchLabels says whether a series with these labels is asked.
func (p *Plan) MatchLabels(ls profile.Labels) bool {
	for i := range p.tests {
		if !p.tests[i].match(ls.Get(p.tests[i].Name)) {
			return false
		}
	}
	return true
}

// MatchType says whether the type, in text, is asked.
func (p *Plan) MatchType(text string) bool {
	if !p.AnyType && text != p.text {
		return false
	}
	return !slices.ContainsFunc(p.types, func(t test) bool { return !t.match(text) })
}

// Equal is the value that one of the matchers wants the label to have, if there is such a matcher: what a
// source may look series up by, before it asks MatchLabels.
func (p *Plan) Equal(label string) (value string, ok bool) {
	for i := range p.tests {
		if p.tests[i].Name == label && p.tests[i].Op == MatchEqual {
			return p.tests[i].Value, true
		}
	}
	return "", false
}

// HasSampleMatchers says whether MatchSample can be false.
func (p *Plan) HasSampleMatchers() bool { return len(p.samples) > 0 }

// MatchSample says whether a sample with these labels is asked. A number matches by its decimal
// text. A key that a sample has several times matches = and =~ by any of its values, and != and
// !~ by all; one that it does not have counts as "".
func (p *Plan) MatchSample(strings []string, set []profile.SampleLabel) bool {
	for i := range p.samples {
		t := &p.samples[i]
		all := t.Op == MatchNotEqual || t.Op == MatchNotRegexp
		found, ok := false, all
		for _, l := range set {
			if strings[l.Key] != t.Name {
				continue
			}
			found = true
			v := strings[l.Str]
			if l.Str == 0 {
				v = strconv.FormatInt(l.Num, 10)
			}
			if t.match(v) != all {
				ok = !all
			}
		}
		if !found {
			ok = t.match("")
		}
		if !ok {
			return false
		}
	}
	return true
}

// GroupLabels is the labels of a line to which a series belongs when it is grouped by names.
func GroupLabels(ls profile.Labels, typ string, names []string) profile.Labels {
	var out profile.Labels
	for _, name := range names {
		v := ls.Get(name)
		if name == profile.LabelType {
			v = typ
		}
		if v != "" {
			out = append(out, profile.Label{Name: name, Value: v})
		}
	}
	return out
}
