package ingest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/quantra-l/quantra/profile"
)

// Datadog's profiling clients send a form: event.json, which says whose the profiles are and when they were taken, and a file for each profile
// (github.com/DataDog/dd-trace-go, profiler/upload.go; libdatadog's exporter sends the same).
const (
	maxDatadogParts = 64
	maxDatadogEvent = 256 << 10 // bytes; real ones have a few thousand
	maxDatadogTags  = 4 * profile.MaxLabels
)

// datadogEvent is what is read of event.json.
type datadogEvent struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
	Tags  string    `json:"tags_profiler"`
}

// datadogLabels are Datadog's tags in OpenTelemetry's words.
var datadogLabels = map[string]string{
	"service": profile.LabelService, "version": "service_version", "env": "deployment_environment", "host": "host_name", "runtime": "process_runtime_name",
	"language": "process_runtime_name", "runtime_version": "process_runtime_version", "runtime-id": "service_instance_id",
}

// datadogLeftOut are tags that say nothing of the service: each upload would be a series of its own.
var datadogLeftOut = map[string]bool{"profile_seq": true, "pid": true, "process_id": true, "profiler_version": true}

// datadogNames are the names of files that Go's types do not tell apart; the others are named by what is in them.
var datadogNames = map[string]string{"mutex": "mutex", "block": "block", "goroutines": "goroutine", "goroutineleak": "goroutineleak"}

// receiveDatadog reads what Datadog's clients send. Files that are no pprof (metrics, traces of Go's runtime, JFR) are left out.
func (in *Ingest) receiveDatadog(r *http.Request, h *hold) (b batch, err error) {
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || !strings.HasPrefix(kind, "multipart/") || params["boundary"] == "" {
		return b, faultf(http.StatusUnsupportedMediaType, "content_type", "Content-Type %.60q is not understood: send multipart/form-data with event.json and profiles", r.Header.Get("Content-Type"))
	}
	body, err := in.body(r, h, true)
	if err != nil {
		return b, err
	}
	event, files, err := readDatadog(h, body, params["boundary"])
	if err != nil {
		return b, err
	}
	labels, err := datadogTags(event.Tags)
	if err != nil {
		return b, err
	}
	for _, f := range files {
		p := Push{Labels: labels, Pprof: f.b}
		if p.Profile, err = in.decode(r.Context(), h, f.b); err != nil {
			return b, err
		}
		if err := modelled(h, &p); err != nil {
			return b, err
		}
		if p.Name = datadogNames[f.name]; p.Name == "" {
			p.Name = profile.NameOf(p.Profile)
		}
		from, until := event.Start, event.End
		if !from.Before(until) { // the profile knows better
			from, until = time.Time{}, time.Time{}
		}
		if p.From, p.To, err = in.window(from, until, p.Profile); err != nil {
			return b, err
		}
		b.pushes = append(b.pushes, p)
	}
	if len(b.pushes) == 0 {
		return b, faultf(http.StatusBadRequest, "empty", "the form has no file of pprof: send one that is called NAME.pprof")
	}
	return b, nil
}

// datadogFile is one profile: its file's name without suffix and prefix.
type datadogFile struct {
	name string
	b    []byte
}

// readDatadog takes a form apart.
func readDatadog(h *hold, body []byte, boundary string) (event datadogEvent, files []datadogFile, err error) {
	bad := func(err error) error {
		return faultf(http.StatusBadRequest, "multipart", "the multipart form cannot be read: %v", err)
	}
	parts, found := multipart.NewReader(bytes.NewReader(body), boundary), false
	for n := 0; ; n++ {
		part, err := parts.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			return event, nil, bad(err)
		}
		if n == maxDatadogParts {
			return event, nil, faultf(http.StatusBadRequest, "multipart", "the form has more than %d fields", maxDatadogParts)
		}
		file, isEvent := part.FileName(), part.FormName() == "event"
		if !isEvent && path.Ext(file) != ".pprof" {
			continue
		}
		b, err := h.read(part, -1, int64(len(body)))
		var f *fault
		switch {
		case errors.As(err, &f):
			return event, nil, f
		case err != nil:
			return event, nil, bad(err)
		case !isEvent:
			name := strings.TrimPrefix(strings.TrimSuffix(file, ".pprof"), "delta-")
			files = append(files, datadogFile{name, b})
			continue
		case len(b) > maxDatadogEvent:
			return event, nil, faultf(http.StatusBadRequest, "event", "event.json has %d bytes, the limit is %d", len(b), maxDatadogEvent)
		}
		if err := json.Unmarshal(b, &event); err != nil {
			return event, nil, faultf(http.StatusBadRequest, "event", "event.json is not the JSON it must be: %v", err)
		}
		found = true
	}
	if !found {
		return event, nil, faultf(http.StatusBadRequest, "event", "the form has no field \"event\": it says whose the profiles are")
	}
	return event, files, nil
}

// datadogTags are the labels of tags: "service:shop,env:prod". Of those that come twice the first counts.
func datadogTags(tags string) (profile.Labels, error) {
	var pairs []profile.Label
	have := map[string]bool{}
	for tag := range strings.SplitSeq(tags, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(tag), ":")
		name := datadogLabels[key]
		if name == "" {
			name = profile.LabelName(key)
		}
		if !ok || value == "" || name == "" || have[name] || datadogLeftOut[key] || strings.HasPrefix(key, "_dd.") {
			continue
		}
		if have[name] = true; len(pairs) == maxDatadogTags {
			return nil, faultf(http.StatusBadRequest, "labels", "tags_profiler has more than %d tags, of which %d would be kept at most", maxDatadogTags, profile.MaxLabels)
		}
		pairs = append(pairs, profile.Label{Name: name, Value: value})
	}
	_, ls, err := modelLabels(pairs)
	return ls, err
}
