package watch

import (
	"context"
	"fmt"
	"time"

	"github.com/quantra-l/quantra/analyze"
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

// transitions looks for steps that are slow, in the profile of spans.
func (l *leader) transitions(ctx context.Context, s *subject, at time.Time) ([]analyze.Finding, bool, error) {
	return nil, false, nil
}
