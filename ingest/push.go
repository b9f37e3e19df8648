package ingest

import (
	"net/http"
	"net/url"

	"github.com/quantra-l/quantra/profile"
)

// receivePush reads our own protocol. Every parameter but three is a label, so
// that a sender's labels need no syntax of their own.
func (in *Ingest) receivePush(r *http.Request, h *hold) (Push, error) {
	q, err := queryOf(r)
	if err != nil {
		return Push{}, err
	}
	var p Push
	var pairs []profile.Label
	for k, v := range q {
		switch k {
		case "name":
			if err := profile.CheckLabelName(v); err != nil {
				return Push{}, faultf(http.StatusBadRequest, "name", "name=%.40q, the profile's name: %v", v, err)
			}
			p.Name = v
		case "from":
			p.From, err = strictTime(k, v)
		case "until":
			p.To, err = strictTime(k, v)
		default:
			pairs = append(pairs, profile.Label{Name: k, Value: v})
		}
		if err != nil {
			return Push{}, err
		}
	}
	if p.Labels, err = labelsOf(pairs); err != nil {
		return Push{}, err
	}
	if p.From.IsZero() != p.To.IsZero() {
		return Push{}, faultf(http.StatusBadRequest, "time", "give both from and until, or neither")
	}
	if !p.From.IsZero() && !p.From.Before(p.To) {
		return Push{}, faultf(http.StatusBadRequest, "time", "from=%s is not before until=%s", q["from"], q["until"])
	}
	if p.Pprof, err = in.body(r, h, false); err != nil {
		return Push{}, err
	}
	if p.Profile, err = in.decode(r.Context(), h, p.Pprof); err != nil {
		return Push{}, err
	}
	if p.Name == "" {
		p.Name = profile.NameOf(p.Profile)
	}
	p.From, p.To, err = in.window(p.From, p.To, p.Profile)
	return p, err
}

// queryOf is the request's parameters, each of which may be given once.
func queryOf(r *http.Request) (map[string]string, error) {
	all, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, faultf(http.StatusBadRequest, "query", "the query cannot be read: %v", err)
	}
	q := make(map[string]string, len(all))
	for k, vs := range all {
		if len(vs) > 1 {
			return nil, faultf(http.StatusBadRequest, "query", "parameter %.40q is given %d times", k, len(vs))
		}
		q[k] = vs[0]
	}
	return q, nil
}

// labelsOf checks what will name the series.
func labelsOf(pairs []profile.Label) (profile.Labels, error) {
	ls, err := profile.NewLabels(pairs...)
	if err != nil {
		return nil, faultf(http.StatusBadRequest, "labels", "%v", err)
	}
	if ls.Get(profile.LabelService) == "" {
		return nil, faultf(http.StatusBadRequest, "service", "no service is named: add ?%s=NAME", profile.LabelService)
	}
	return ls, nil
}
