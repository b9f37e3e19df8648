package watch

import (
	"context"
	"fmt"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/profile"
)

// How anomalies are looked for: windows of a minute of each instance, against the hour before.
const (
	anomalyNow  = 3 * time.Minute
	anomalyPast = time.Hour
)

// anomalies looks for profiles that are unlike this service's past. A shape is kept of each minute of each instance: the past is not read
// again.
func (l *leader) anomalies(ctx context.Context, s *subject, at time.Time) ([]analyze.Finding, bool, error) {
	t, ok := s.known.typ("process_cpu", "cpu")
	if !ok {
		return nil, false, nil
	}
	if s.shapes == nil {
		s.shapes = map[shapeKey]analyze.Shape{}
	}
	end := at.Truncate(column)
	for k := range s.shapes {
		if end.Sub(time.Unix(k.minute*60, 0)) > anomalyPast || s.dirty[k.minute] {
			delete(s.shapes, k)
		}
	}
	var now, past []analyze.Shape
	for _, i := range s.known.instances {
		for from := maxTime(i.first.Truncate(column), end.Add(-anomalyPast)); from.Before(end) && from.Before(i.last); from = from.Add(column) {
			k := shapeKey{i.name, i.version, from.Unix() / 60}
			shape, ok := s.shapes[k]
			if !ok {
				res, err := l.selectSum(ctx, s, "process_cpu", "cpu", from, from.Add(column), equal("service_instance_id", i.name), equal("service_version", i.version))
				if err != nil {
					return nil, false, err
				}
				if res == nil {
					continue
				}
				shape = analyze.NewShape(res.Profile, 0, i.name, from, from.Add(column))
				shape.Version = i.version
				s.shapes[k] = shape
			}
			if end.Sub(from) <= anomalyNow {
				now = append(now, shape)
			} else if len(past) < analyze.MaxPast {
				past = append(past, shape)
			}
		}
	}
	found, err := analyze.Anomalies(s.service, t, now, past, analyze.AnomalyOptions{})
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", errPart, err)
	}
	return found, len(now) > 0, nil
}

// shapeKey is a minute of an instance.
type shapeKey struct {
	instance, version string
	minute            int64
}

// How steps are judged: in times of five minutes, the last two of them against the day before.
const (
	spanWindow = 5 * time.Minute
	spanPast   = 24 * time.Hour
	spanNow    = 2
)

// transitions looks for steps that are slow or became faster, in the profile of spans. What was read of a time that is over is kept: it is asked again only if
// a late profile comes.
func (l *leader) transitions(ctx context.Context, s *subject, at time.Time) ([]analyze.Finding, bool, error) {
	if _, ok := s.known.typ("spans", "spans"); !ok {
		return nil, false, nil
	}
	if s.spans == nil {
		s.spans = map[time.Time]analyze.SpanWindow{}
	}
	for m := range s.dirty {
		delete(s.spans, time.Unix(m*60, 0).UTC().Truncate(spanWindow))
	}
	end := at.Truncate(spanWindow)
	in := analyze.TransitionInput{Service: s.service, Now: spanNow, Known: map[string]time.Time{}}
	for from := end.Add(-spanPast); from.Before(end); from = from.Add(spanWindow) {
		win, ok := s.spans[from]
		if !ok {
			win = analyze.SpanWindow{From: from, To: from.Add(spanWindow)}
			res, err := l.selectSum(ctx, s, "spans", "spans", win.From, win.To)
			if err != nil {
				return nil, false, err
			}
			if res != nil {
				win.Profile, win.Instances = res.Profile, res.Series
			}
			s.spans[from] = win
		}
		in.Windows = append(in.Windows, win)
	}
	for from := range s.spans {
		if end.Sub(from) > spanPast {
			delete(s.spans, from)
		}
	}
	slow, err := l.w.book.records(ctx, s.tenant, Filter{Service: s.service, Kinds: []analyze.Kind{analyze.Transition}, States: []State{StateNew, StateCameBack, StateAcknowledged, StateMuted}, Limit: maxKnown})
	if err != nil {
		return nil, false, err
	}
	for i := range slow {
		in.Known[slow[i].Finding.Subject] = slow[i].Finding.Since
	}
	opt := analyze.TransitionOptions{Machines: l.w.opt.Machines()}
	edges, found, err := analyze.Transitions(in, opt)
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", errPart, err)
	}
	if len(found) > 0 {
		versions, err := l.spansByVersion(ctx, s, in.Windows[len(in.Windows)-spanNow:])
		if err != nil {
			return nil, false, err
		}
		if err := analyze.CauseTransitions(found, edges, versions, opt); err != nil {
			return nil, false, fmt.Errorf("%w: %w", errPart, err)
		}
	}
	s.steps = map[string][2]analyze.Estimate{}
	for i := range edges {
		s.steps[edges[i].Name] = [2]analyze.Estimate{edges[i].P50, edges[i].P99}
	}
	l.w.mu.Lock()
	l.w.edges[s.key] = edges
	l.w.mu.Unlock()
	return found, true, nil
}

// maxVersions bounds the versions whose spans are read beside each other.
const maxVersions = 20

// spansByVersion are the spans of the same windows by version, as far as agents tell one.
func (l *leader) spansByVersion(ctx context.Context, s *subject, windows []analyze.SpanWindow) ([]analyze.TransitionVersion, error) {
	var out []analyze.TransitionVersion
	index := map[string]int{}
	for _, i := range s.known.instances {
		if i.version == "" {
			return nil, nil // whose spans these are is not known
		}
		k, ok := index[i.version]
		if !ok {
			if k = len(out); k == maxVersions {
				return nil, nil
			}
			index[i.version] = k
			out = append(out, analyze.TransitionVersion{Version: i.version, First: i.first})
		}
		out[k].First = minTime(out[k].First, i.first)
	}
	for k := range out {
		for _, win := range windows {
			of := analyze.SpanWindow{From: win.From, To: win.To}
			res, err := l.selectSum(ctx, s, "spans", "spans", win.From, win.To, equal(profile.LabelVersion, out[k].Version))
			if err != nil {
				return nil, err
			}
			if res != nil {
				of.Profile, of.Instances = res.Profile, res.Series
			}
			out[k].Windows = append(out[k].Windows, of)
		}
	}
	return out, nil
}

// Transitions are the steps of a service as they were judged last, those that took most time first. On a server that does not
// analyse there are none.
func (w *Watcher) Transitions(tenant, service string) []analyze.Edge {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.edges[key{tenant, service}]
}
