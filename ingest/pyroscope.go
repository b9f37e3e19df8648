package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"time"

	"github.com/quantra-l/quantra/ingest/formats"
	"github.com/quantra-l/quantra/ingest/jfr"
	"github.com/quantra-l/quantra/profile"
)

// sampleTypeConfig is what Pyroscope's clients say about one sample type. They
// say more (units, aggregation, "sampled"), all of it for drawing, and the
// profile itself says as much.
type sampleTypeConfig struct {
	DisplayName string `json:"display-name"`
	Cumulative  bool   `json:"cumulative"`
}

// upload is the parts of a request to /ingest.
type upload struct {
	profile, prev []byte // as they came
	labels        []byte // of a recording's contexts
	form          bool   // they came in one
	config        map[string]sampleTypeConfig
}

// receivePyroscope reads what Pyroscope's clients send to /ingest.
func (in *Ingest) receivePyroscope(r *http.Request, h *hold) (b batch, err error) {
	q, err := queryOf(r)
	if err != nil {
		return b, err
	}
	app, tags, err := parseAppName(q["name"])
	if err != nil {
		return b, err
	}
	now := in.opt.Now()
	from, err := looseTime("from", q["from"], now)
	if err != nil {
		return b, err
	}
	until, err := looseTime("until", q["until"], now)
	if err != nil {
		return b, err
	}
	u, format, err := in.readUpload(r, h, q["format"])
	if err != nil {
		return b, err
	}
	if b.pushes, err = in.pyroscopeProfiles(r.Context(), h, u, format, &app, q); err != nil {
		return b, err
	}
	labels, err := labelsOf(tagLabels(app, tags))
	if err != nil {
		return b, err
	}
	if !from.Before(until) {
		// The Go SDK rounds its times when it is flushed, so a window may end
		// where it began, or before. The profile knows better.
		from, until = time.Time{}, time.Time{}
	}
	for i := range b.pushes {
		p := &b.pushes[i]
		p.Labels = labels
		if p.From, p.To, err = in.window(from, until, p.Profile); err != nil {
			return b, err
		}
	}
	return b, nil
}

// pyroscopeProfiles reads an upload in its format, and takes what it measures off app where the format does not say.
func (in *Ingest) pyroscopeProfiles(ctx context.Context, h *hold, u upload, format string, app *string, q map[string]string) ([]Push, error) {
	switch format {
	case "jfr":
		return in.recording(ctx, h, u, q["sampleRate"])
	case "", "pprof":
		var p Push
		err := in.pyroscopePprof(ctx, h, &p, u)
		// Pyroscope's default is text. What is neither is told of as pprof.
		if format == "pprof" || u.form || packed(u.profile) || !errors.Is(err, profile.ErrCorrupt) {
			return []Push{p}, err
		}
		text, textErr := in.pyroscopeStacks(ctx, h, u.profile, "groups", app, q)
		if textErr != nil && errors.Is(textErr, profile.ErrCorrupt) {
			return nil, err
		}
		return text, textErr
	}
	return in.pyroscopeStacks(ctx, h, u.profile, format, app, q)
}

// pyroscopePprof reads the upload as pprof.
func (in *Ingest) pyroscopePprof(ctx context.Context, h *hold, p *Push, u upload) (err error) {
	p.Pprof = u.profile
	if p.Profile, err = in.decode(ctx, h, u.profile); err != nil {
		return err
	}
	if err := in.subtractPrevious(ctx, h, p, u); err != nil {
		return err
	}
	if err := modelled(h, p); err != nil {
		return err
	}
	p.Name = pyroscopeName(p.Profile, u.config)
	return nil
}

// stacksCost is how much memory stacks take when they are decoded, for each byte of trie, tree or speedscope.
const stacksCost = 16

// pyroscopeStacks reads an upload in a format that has stacks and numbers, and does not say what they are.
func (in *Ingest) pyroscopeStacks(ctx context.Context, h *hold, b []byte, format string, app *string, q map[string]string) ([]Push, error) {
	name, m := measureOf(*app, q["units"])
	done, err := in.decoding(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	p := Push{Name: m.name}
	if format == "groups" || format == "folded" || format == "lines" {
		p.Profile, err = in.parseFolded(h, b, format == "lines")
	} else if err = h.grow(stacksCost * int64(len(b))); err == nil {
		switch format {
		case "trie":
			p.Profile, err = formats.ParseTrie(b, in.opt.Limits)
		case "tree":
			p.Profile, err = formats.ParseTree(b, in.opt.Limits)
		default:
			p.Profile, err = formats.ParseSpeedscope(b, in.opt.Limits)
		}
	}
	if err != nil {
		return nil, err
	}
	if err := measured(p.Profile, m, q["sampleRate"]); err != nil {
		return nil, err
	}
	if p.Profile.SampleTypes[0] == measures["alloc_space"].sample {
		p.Name = measures["alloc_space"].name
	}
	*app = name
	return []Push{p}, encoded(h, &p)
}

// recordingCost is how much memory a recording's constants and stacks take, for each byte.
const recordingCost = 8

// recording reads an upload of Java's Flight Recorder: several profiles.
func (in *Ingest) recording(ctx context.Context, h *hold, u upload, rate string) (out []Push, err error) {
	plain := func(b []byte) ([]byte, error) {
		if !packed(b) {
			return b, nil
		}
		return undo(h, "gzip", b, in.opt.Limits.Decoded, false)
	}
	hz, err := rateOf(rate)
	if err != nil {
		return nil, err
	}
	raw, err := plain(u.profile)
	if err != nil {
		return nil, err
	}
	o := jfr.Options{Rate: hz, Limits: in.opt.Limits}
	if len(u.labels) > 0 {
		b, err := plain(u.labels)
		if err != nil {
			return nil, err
		}
		if err := h.grow(recordingCost * int64(len(b))); err != nil {
			return nil, err
		}
		if o.Contexts, err = jfr.ParseContexts(b); err != nil {
			return nil, err
		}
	}
	if err := h.grow(recordingCost * int64(len(raw))); err != nil {
		return nil, err
	}
	done, err := in.decoding(ctx)
	if err != nil {
		return nil, err
	}
	named, err := jfr.Parse(raw, o)
	done()
	if err != nil {
		return nil, err
	}
	for _, n := range named {
		p := Push{Name: n.Name, Profile: n.Profile}
		if err := encoded(h, &p); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// readUpload takes a body apart: a multipart form as Pyroscope's SDKs send it, or a bare profile. It tells the format as well, "" where nobody says.
func (in *Ingest) readUpload(r *http.Request, h *hold, format string) (upload, string, error) {
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if format == "" { // old clients say it here
		switch _, suffix, _ := strings.Cut(kind, "+"); suffix {
		case "trie", "tree":
			format = suffix
		}
	}
	switch format {
	case "", "pprof", "groups", "folded", "lines", "trie", "tree", "speedscope", "jfr":
	default:
		return upload{}, "", faultf(http.StatusUnsupportedMediaType, "format", "format=%.40q is not understood: send pprof, jfr, speedscope, trie, tree, groups (folded stacks) or lines", format)
	}
	if err != nil || !strings.HasPrefix(kind, "multipart/") {
		b, err := in.body(r, h, format != "" && format != "pprof")
		return upload{profile: b}, format, err
	}
	if params["boundary"] == "" {
		return upload{}, "", faultf(http.StatusBadRequest, "multipart", "Content-Type %s has no boundary", kind)
	}
	b, err := in.body(r, h, true)
	if err != nil {
		return upload{}, "", err
	}
	return readForm(h, b, params["boundary"], format)
}

// maxParts is more than any client sends: a form has 3 fields that mean something.
const maxParts = 16

// maxConfig bounds sample_type_config, in bytes; real ones have a few hundred.
const maxConfig = 64 << 10

// readForm reads the fields of a form; those it does not know are left out.
func readForm(h *hold, body []byte, boundary, format string) (u upload, _ string, err error) {
	u.form = true
	bad := func(err error) error {
		return faultf(http.StatusBadRequest, "multipart", "the multipart form cannot be read: %v", err)
	}
	parts := multipart.NewReader(bytes.NewReader(body), boundary)
	for n := 0; ; n++ {
		part, err := parts.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			return u, "", bad(err)
		}
		if n == maxParts {
			return u, "", faultf(http.StatusBadRequest, "multipart", "the form has more than %d fields", maxParts)
		}
		name := part.FormName()
		switch name {
		case "profile", "prev_profile", "sample_type_config", "labels":
		case "jfr":
			format = "jfr"
		default:
			continue
		}
		b, err := h.read(part, -1, int64(len(body)))
		var f *fault
		if errors.As(err, &f) {
			return u, "", f
		}
		if err != nil {
			return u, "", bad(err)
		}
		switch name {
		case "profile", "jfr":
			u.profile = b
		case "labels":
			u.labels = b
		case "prev_profile":
			u.prev = b
		default:
			if len(b) > maxConfig {
				return u, "", faultf(http.StatusBadRequest, "sample_type_config", "sample_type_config has %d bytes, the limit is %d", len(b), maxConfig)
			}
			if err := json.Unmarshal(b, &u.config); err != nil {
				return u, "", faultf(http.StatusBadRequest, "sample_type_config", "sample_type_config is not the JSON it must be: %v", err)
			}
		}
	}
	if len(u.profile) == 0 {
		return u, "", faultf(http.StatusBadRequest, "empty", "the form has no field \"profile\", or an empty one: put the bytes of a pprof profile there")
	}
	return u, format, nil
}

// subtractPrevious makes a profile that counts since the start of its process
// one of its window alone, from the one before that came with it. Old SDKs send the
// two; newer ones subtract themselves.
func (in *Ingest) subtractPrevious(ctx context.Context, h *hold, p *Push, u upload) error {
	columns := make([]int, 0, len(p.Profile.SampleTypes))
	for i, t := range p.Profile.SampleTypes {
		c, known := u.config[t.Type]
		if !known { // without a word from the client: what Go itself counts since the start
			c.Cumulative = u.prev != nil && (strings.HasPrefix(t.Type, "alloc_") || t.Type == "contentions" || t.Type == "delay")
		}
		if c.Cumulative {
			columns = append(columns, i)
		}
	}
	if len(columns) == 0 {
		return nil
	}
	if u.prev == nil {
		return faultf(http.StatusUnprocessableEntity, "cumulative",
			"sample type %q counts since the start of the process; send the difference of two profiles, or the one before as prev_profile", p.Profile.SampleTypes[columns[0]].Type)
	}
	prev, err := in.decode(ctx, h, u.prev)
	if err != nil {
		return err
	}
	if p.Profile, err = subtract(p.Profile, prev, columns); err != nil {
		return faultf(http.StatusUnprocessableEntity, "prev_profile", "prev_profile cannot be subtracted: %v", err)
	}
	raw := p.Profile.AppendPprof(nil)
	if err := h.grow(int64(len(raw))); err != nil {
		return err
	}
	p.Pprof = raw
	return nil
}

// subtract takes prev's values off p's in the columns named. What would be
// negative (the process was started anew between the two) counts as 0.
func subtract(p, prev *profile.Profile, columns []int) (*profile.Profile, error) {
	m := profile.NewMerger(p.SampleTypes...)
	if err := m.Add(p, 1); err != nil {
		return nil, err
	}
	minus := *prev
	minus.Values = make([][]int64, len(prev.Values))
	for i := range minus.Values {
		minus.Values[i] = make([]int64, len(prev.Values[i])) // 0 in the columns that are not cumulative
	}
	for _, c := range columns {
		if c >= len(prev.SampleTypes) || prev.SampleTypes[c] != p.SampleTypes[c] {
			return nil, errors.New("its sample types are not the profile's")
		}
		for i, v := range prev.Values[c] {
			minus.Values[c][i] = -v
		}
	}
	if err := m.Add(&minus, 1); err != nil {
		return nil, err
	}
	d := m.Profile()
	for _, col := range d.Values {
		for i, v := range col {
			col[i] = max(v, 0)
		}
	}
	d.DefaultSampleType, d.Comments = p.DefaultSampleType, p.Comments
	d.PeriodType, d.Period = p.PeriodType, p.Period
	d.TimeNanos, d.DurationNanos = p.TimeNanos, p.DurationNanos
	return d, nil
}

// pyroscopeName is the profile's name. Pyroscope finds it by the names under
// which a client shows the sample types; that tells mutex from block, which Go
// writes alike. Where the two differ (Pyroscope says "goroutines"), ours is the
// name that other senders use, so that a query finds both.
func pyroscopeName(p *profile.Profile, config map[string]sampleTypeConfig) string {
	for _, t := range p.SampleTypes {
		shown := config[t.Type].DisplayName
		switch {
		case strings.HasPrefix(shown, "mutex"):
			return "mutex"
		case strings.HasPrefix(shown, "block"):
			return "block"
		case t.Type == "wall":
			return "wall"
		}
	}
	return profile.NameOf(p)
}

// parseAppName reads app{key=value,...}. There are no quotes in it: a value
// ends at a comma that a key follows, so that a value may have commas.
func parseAppName(s string) (app string, tags []profile.Label, err error) {
	app, rest, braces := strings.Cut(s, "{")
	app = strings.TrimSpace(app)
	if app == "" {
		return "", nil, faultf(http.StatusBadRequest, "service", "no application is named: add ?name=NAME or ?name=NAME{key=value}")
	}
	if !braces {
		return app, nil, nil
	}
	rest, closed := strings.CutSuffix(strings.TrimSpace(rest), "}")
	if !closed {
		return "", nil, faultf(http.StatusBadRequest, "name", "name=%.200q: the labels must end with }", s)
	}
	if strings.TrimSpace(rest) == "" {
		return app, nil, nil
	}
	for pair := range strings.SplitSeq(rest, ",") {
		k, v, ok := strings.Cut(pair, "=")
		switch {
		case ok:
			tags = append(tags, profile.Label{Name: strings.TrimSpace(k), Value: strings.TrimSpace(v)})
		case len(tags) > 0:
			tags[len(tags)-1].Value += "," + pair
		case strings.TrimSpace(pair) != "":
			return "", nil, faultf(http.StatusBadRequest, "name", "name=%.200q: label %q has no value: write key=value", s, pair)
		}
	}
	return app, tags, nil
}

// tagLabels makes labels of an application's name and tags. Names that start
// with __ are Pyroscope's own (the session's number) and no part of who it is.
// A tag service_name wins over the application's name, which is then app_name.
func tagLabels(app string, tags []profile.Label) []profile.Label {
	service := profile.Label{Name: profile.LabelService, Value: app}
	var ls []profile.Label
	for _, t := range tags {
		if strings.HasPrefix(t.Name, "__") {
			continue
		}
		t.Name = profile.LabelName(t.Name) // OpenTelemetry's service.version is service_version
		if t.Name == profile.LabelService && t.Value != "" {
			service.Name = "app_name"
		}
		ls = append(ls, t)
	}
	return append(ls, service)
}
