package ingest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"time"

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
	form          bool   // they came in one
	config        map[string]sampleTypeConfig
}

// receivePyroscope reads what Pyroscope's clients send to /ingest.
func (in *Ingest) receivePyroscope(r *http.Request, h *hold) (Push, error) {
	q, err := queryOf(r)
	if err != nil {
		return Push{}, err
	}
	app, tags, err := parseAppName(q["name"])
	if err != nil {
		return Push{}, err
	}
	now := in.opt.Now()
	from, err := looseTime("from", q["from"], now)
	if err != nil {
		return Push{}, err
	}
	until, err := looseTime("until", q["until"], now)
	if err != nil {
		return Push{}, err
	}
	u, err := in.readUpload(r, h, q["format"])
	if err != nil {
		return Push{}, err
	}
	var p Push
	asText := q["format"] == "groups" || q["format"] == "folded" || q["format"] == "lines"
	if !asText {
		err = in.pyroscopePprof(r, h, &p, u)
		// Pyroscope's default is text. What is neither is told of as pprof.
		asText = q["format"] == "" && !u.form && errors.Is(err, profile.ErrCorrupt) && !packed(u.profile)
	}
	if asText {
		textErr := in.pyroscopeText(h, &p, u, &app, q)
		if err == nil || !errors.Is(textErr, profile.ErrCorrupt) {
			err = textErr
		}
	}
	if err != nil {
		return Push{}, err
	}
	if p.Labels, err = labelsOf(tagLabels(app, tags)); err != nil {
		return Push{}, err
	}
	if !from.Before(until) {
		// The Go SDK rounds its times when it is flushed, so a window may end
		// where it began, or before. The profile knows better.
		from, until = time.Time{}, time.Time{}
	}
	p.From, p.To, err = in.window(from, until, p.Profile)
	return p, err
}

// pyroscopePprof reads the upload as pprof.
func (in *Ingest) pyroscopePprof(r *http.Request, h *hold, p *Push, u upload) (err error) {
	p.Pprof = u.profile
	if p.Profile, err = in.decode(r.Context(), h, u.profile); err != nil {
		return err
	}
	p.Name = pyroscopeName(p.Profile, u.config)
	return in.subtractPrevious(r, h, p, u)
}

// pyroscopeText reads the upload as folded stacks, and takes what they measure off app.
func (in *Ingest) pyroscopeText(h *hold, p *Push, u upload, app *string, q map[string]string) (err error) {
	name, m := splitMeasure(*app)
	if p.Profile, err = in.parseFolded(h, u.profile, q["format"] == "lines", m, q["sampleRate"]); err != nil {
		return err
	}
	p.Name, p.Pprof, *app = m.name, p.Profile.AppendPprof(nil), name
	return h.grow(int64(len(p.Pprof)))
}

// readUpload takes a body apart: a multipart form as Pyroscope's SDKs send it, or a bare profile.
func (in *Ingest) readUpload(r *http.Request, h *hold, format string) (upload, error) {
	switch format {
	case "", "pprof", "groups", "folded", "lines":
	default:
		return upload{}, faultf(http.StatusUnsupportedMediaType, "format", "format=%.40q is not understood: send pprof, groups (folded stacks) or lines", format)
	}
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || !strings.HasPrefix(kind, "multipart/") {
		b, err := in.body(r, h, false)
		return upload{profile: b}, err
	}
	if params["boundary"] == "" {
		return upload{}, faultf(http.StatusBadRequest, "multipart", "Content-Type %s has no boundary", kind)
	}
	b, err := in.body(r, h, true)
	if err != nil {
		return upload{}, err
	}
	return readForm(h, b, params["boundary"])
}

// maxParts is more than any client sends: a form has 3 fields that mean something.
const maxParts = 16

// maxConfig bounds sample_type_config, in bytes; real ones have a few hundred.
const maxConfig = 64 << 10

// readForm reads the fields of a form; those it does not know are left out.
func readForm(h *hold, body []byte, boundary string) (upload, error) {
	u := upload{form: true}
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
			return u, bad(err)
		}
		if n == maxParts {
			return u, faultf(http.StatusBadRequest, "multipart", "the form has more than %d fields", maxParts)
		}
		name := part.FormName()
		switch name {
		case "profile", "prev_profile", "sample_type_config":
		case "jfr":
			return u, faultf(http.StatusUnsupportedMediaType, "format", "Java Flight Recorder data is not understood: send pprof")
		default:
			continue
		}
		b, err := h.read(part, -1, int64(len(body)))
		var f *fault
		if errors.As(err, &f) {
			return u, f
		}
		if err != nil {
			return u, bad(err)
		}
		switch name {
		case "profile":
			u.profile = b
		case "prev_profile":
			u.prev = b
		default:
			if len(b) > maxConfig {
				return u, faultf(http.StatusBadRequest, "sample_type_config", "sample_type_config has %d bytes, the limit is %d", len(b), maxConfig)
			}
			if err := json.Unmarshal(b, &u.config); err != nil {
				return u, faultf(http.StatusBadRequest, "sample_type_config", "sample_type_config is not the JSON it must be: %v", err)
			}
		}
	}
	if len(u.profile) == 0 {
		return u, faultf(http.StatusBadRequest, "empty", "the form has no field \"profile\", or an empty one: put the bytes of a pprof profile there")
	}
	return u, nil
}

// subtractPrevious makes a profile that counts since the start of its process
// one of its window alone, from the one before that came with it. Old SDKs send the
// two; newer ones subtract themselves.
func (in *Ingest) subtractPrevious(r *http.Request, h *hold, p *Push, u upload) error {
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
	prev, err := in.decode(r.Context(), h, u.prev)
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
