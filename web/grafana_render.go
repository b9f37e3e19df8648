package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"github.com/quantra-l/quantra/store"
	querierv1 "github.com/quantra-l/quantra/wire/querier/v1"
)

// rendered is the JSON of /pyroscope/render and /pyroscope/render-diff: Pyroscope's "flamebearer", version 1.
type rendered struct {
	Version     int `json:"version"`
	Flamebearer struct {
		Names    []string  `json:"names"`
		Levels   [][]int64 `json:"levels"`
		NumTicks int64     `json:"numTicks"`
		MaxSelf  int64     `json:"maxSelf"`
	} `json:"flamebearer"`
	Metadata struct {
		Format     string `json:"format"` // single, or double for a difference
		SpyName    string `json:"spyName"`
		SampleRate uint32 `json:"sampleRate"`
		Units      string `json:"units"`
		Name       string `json:"name"`
	} `json:"metadata"`
	Timeline   *timeline            `json:"timeline"`
	Groups     map[string]*timeline `json:"groups"`
	Heatmap    any                  `json:"heatmap"`
	LeftTicks  int64                `json:"leftTicks,omitempty"`
	RightTicks int64                `json:"rightTicks,omitempty"`
}

// timeline is values from StartTime (Unix seconds) on, one every DurationDelta seconds; a time without a profile is 0.
type timeline struct {
	StartTime     int64             `json:"startTime"`
	Samples       []int64           `json:"samples"`
	DurationDelta int64             `json:"durationDelta"`
	Watermarks    map[string]string `json:"watermarks"`
}

// minTimeline is the shortest step of a timeline, as Pyroscope has it.
const minTimeline = 15 * time.Second

// setGraph fills in what both kinds of graph have.
func (r *rendered) setGraph(typ, format string, names []string, rows []*querierv1.Level, total, maxSelf int64) error {
	r.Version = 1
	r.Flamebearer.Names, r.Flamebearer.NumTicks, r.Flamebearer.MaxSelf = names, total, maxSelf
	for _, row := range rows {
		r.Flamebearer.Levels = append(r.Flamebearer.Levels, row.Values)
	}
	t, _, err := typedSelector(typ)
	if err != nil {
		return err
	}
	r.Metadata.Format, r.Metadata.Name, r.Metadata.Units, r.Metadata.SampleRate = format, t.Sample.Type, t.Sample.Unit, 100
	switch t.Sample.Type {
	case "inuse_objects", "alloc_objects", "goroutine", "samples":
		r.Metadata.Units = "objects"
	case "cpu": // what is drawn as time is a count divided by a rate
		r.Metadata.Units, r.Metadata.SampleRate = "samples", 1e9
	}
	return nil
}

// renderRequest reads TYPE{LABELS}, a range and a bound on nodes of a URL's parameters.
func (g *grafana) renderRequest(v url.Values, query, from, until string) (*querierv1.SelectMergeStacktracesRequest, error) {
	t, labels, err := typedSelector(v.Get(query))
	if err != nil {
		return nil, err
	}
	if t.Name == "" {
		return nil, invalid("%s=%.200q names no profile type: write TYPE{LABELS}, as process_cpu:cpu:nanoseconds:cpu:nanoseconds{service_name=\"checkout\"}", query, v.Get(query))
	}
	m := &querierv1.SelectMergeStacktracesRequest{ProfileTypeID: t.String(), LabelSelector: labels}
	if m.Start, err = g.renderTime(from, v.Get(from)); err != nil {
		return nil, err
	}
	if m.End, err = g.renderTime(until, v.Get(until)); err != nil {
		return nil, err
	}
	if m.Start >= m.End { // where both are left out, as in Pyroscope, that is nothing; say so
		return nil, invalid("%s=%.40q is not before %s=%.40q", from, v.Get(from), until, v.Get(until))
	}
	for _, name := range []string{"max-nodes", "maxNodes"} {
		if n, err := strconv.ParseInt(v.Get(name), 10, 64); err == nil {
			m.MaxNodes = &n
		}
	}
	return m, nil
}

// renderTime reads a time as [Server.timeMs] does, and Unix seconds too: what is before the year 5138 in them. "" is now.
func (g *grafana) renderTime(name, s string) (int64, error) {
	if s == "" {
		s = "now"
	}
	ms, err := g.timeMs(name, s)
	if err != nil {
		return 0, err
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n == ms && n > 0 && n < 1e11 {
		ms *= 1000
	}
	return ms, nil
}

// render is GET /pyroscope/render: a flame graph and its timeline.
func (g *grafana) render(w http.ResponseWriter, r *http.Request) {
	g.answerJSON(w, r, "Render", func(ctx context.Context, v url.Values) (any, error) {
		m, err := g.renderRequest(v, "query", "from", "until")
		if err != nil {
			return nil, err
		}
		switch f := v.Get("format"); f {
		case "", "json":
		case "dot":
			m.Format = querierv1.ProfileFormat_PROFILE_FORMAT_DOT
		default:
			return nil, invalid("format=%.40q is not understood: ask for json or dot", f)
		}
		res, err := g.SelectMergeStacktraces(ctx, connect.NewRequest(m))
		if err != nil {
			return nil, err
		}
		if v.Get("format") == "dot" {
			return res.Msg.GetDot(), nil
		}
		fg := res.Msg.GetFlamegraph()
		out := &rendered{}
		if err := out.setGraph(m.ProfileTypeID, "single", fg.Names, fg.Levels, fg.Total, fg.MaxSelf); err != nil {
			return nil, err
		}
		return out, g.addTimelines(ctx, out, m, v["groupBy"], v.Get("aggregation") == "avg")
	})
}

func (g *grafana) addTimelines(ctx context.Context, out *rendered, m *querierv1.SelectMergeStacktracesRequest, groupBy []string, average bool) error {
	sel, err := selection(m, nil, nil, nil)
	if err != nil {
		return err
	}
	q, err := readSelection(ctx, sel)
	if err != nil {
		return err
	}
	step, err := g.step(ctx, q, 0) // both ends are given: nothing is asked
	if err != nil {
		return err
	}
	step = max(step, minTimeline)
	lines, _, err := g.series(ctx, sel, groupBy, step.Seconds())
	if err != nil {
		return err
	}
	one := store.SeriesLine{}
	if len(lines) == 1 {
		one = lines[0]
	}
	out.Timeline = timelineOf(seriesOf(one, average), m.Start, m.End, step)
	if len(groupBy) == 0 {
		return nil
	}
	out.Groups = map[string]*timeline{}
	for _, l := range lines {
		key := l.Labels.Get(groupBy[0])
		if key == "" {
			key = "*"
		}
		out.Groups[key] = timelineOf(seriesOf(l, average), m.Start, m.End, step)
	}
	return nil
}

// timelineOf is a series without gaps. Its ends are those of the steps that the range, in milliseconds, touches.
func timelineOf(s *querierv1.Series, from, to int64, step time.Duration) *timeline {
	width := step.Milliseconds()
	from -= from % width
	t := &timeline{StartTime: from / 1000, DurationDelta: width / 1000, Samples: make([]int64, (to-from+width-1)/width)}
	for _, p := range s.Points {
		if i := (p.Timestamp - from) / width; i >= 0 && i < int64(len(t.Samples)) {
			t.Samples[i] += int64(p.Value)
		}
	}
	return t
}

// renderDiff is GET /pyroscope/render-diff: Drilldown's comparison.
func (g *grafana) renderDiff(w http.ResponseWriter, r *http.Request) {
	g.answerJSON(w, r, "RenderDiff", func(ctx context.Context, v url.Values) (any, error) {
		left, err := g.renderRequest(v, "leftQuery", "leftFrom", "leftUntil")
		if err != nil {
			return nil, err
		}
		right, err := g.renderRequest(v, "rightQuery", "rightFrom", "rightUntil")
		if err != nil {
			return nil, err
		}
		if left.ProfileTypeID != right.ProfileTypeID {
			return nil, invalid("leftQuery is of %s and rightQuery of %s: they cannot be compared", left.ProfileTypeID, right.ProfileTypeID)
		}
		d, err := g.diff(ctx, left, right)
		if err != nil {
			return nil, err
		}
		out := &rendered{LeftTicks: d.LeftTicks, RightTicks: d.RightTicks}
		return out, out.setGraph(left.ProfileTypeID, "double", d.Names, d.Levels, d.Total, d.MaxSelf)
	})
}

// answerJSON answers a GET with what f makes of its parameters: a text as it is, all else as JSON.
func (s *Server) answerJSON(w http.ResponseWriter, r *http.Request, name string, f func(context.Context, url.Values) (any, error)) {
	err := s.ask(r.Context(), name, func(ctx context.Context) error {
		v, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			return invalid("the query cannot be read: %w", err)
		}
		out, err := f(ctx, v)
		if err != nil {
			return err
		}
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		if text, ok := out.(string); ok {
			h.Set("Content-Type", "text/plain; charset=utf-8")
			io.WriteString(w, text) // an error means that the asker is gone
			return nil
		}
		b, err := json.Marshal(out)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		h.Set("Content-Type", "application/json")
		w.Write(b) // an error means that the asker is gone
		return nil
	})
	var c *connect.Error
	if errors.As(err, &c) {
		replyError(w, statusOf(c.Code()), c.Code(), c.Message())
	}
}
