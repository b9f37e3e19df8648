package optimize

import (
	"cmp"
	"net/http"
	"strings"

	"github.com/quantra-l/quantra/internal/jsonapi"
)

// incident is one that is opened or closed: the body of a request in our own form.
type incident struct {
	Name  string `json:"name"`
	State string `json:"state"` // "open" or "closed"
	holding
}

// The forms in which an incident may come, by the parameter format.
var incidentFormats = map[string]func(*http.Request) ([]incident, error){
	"":             ownIncident,
	"pagerduty":    pagerDutyIncident,
	"alertmanager": alertmanagerIncidents,
}

func ownIncident(q *http.Request) ([]incident, error) {
	var i incident
	err := jsonapi.Body(q, &i)
	return []incident{i}, err
}

// pagerDutyIncident is a webhook of PagerDuty, version 3: https://developer.pagerduty.com/docs/webhooks-overview. An event that is not
// of an incident is taken and changes nothing.
func pagerDutyIncident(q *http.Request) ([]incident, error) {
	var w struct {
		Event struct {
			Type     string `json:"event_type"`
			Resource string `json:"resource_type"`
			Data     struct {
				ID, Title, Status string
			} `json:"data"`
		} `json:"event"`
	}
	if err := jsonapi.Foreign(q, &w); err != nil {
		return nil, err
	}
	switch d := &w.Event.Data; {
	case w.Event.Type == "":
		return nil, jsonapi.Invalid("this is no webhook of PagerDuty's version 3: event.event_type is missing")
	case w.Event.Resource != "incident" || !strings.HasPrefix(w.Event.Type, "incident."):
		return nil, nil
	case d.ID == "":
		return nil, jsonapi.Invalid("an incident of PagerDuty's without event.data.id")
	default:
		i := incident{Name: "pagerduty/" + d.ID, State: "open", holding: holding{By: "pagerduty", Note: d.Title}}
		if d.Status == "resolved" || w.Event.Type == "incident.resolved" {
			i.State = "closed"
		}
		return []incident{i}, nil
	}
}

// maxAlerts bounds a webhook of Alertmanager's: each alert is a write.
const maxAlerts = 200

// alertmanagerIncidents is a webhook of Prometheus's Alertmanager, version 4, with each alert as an incident:
// https://prometheus.io/docs/alerting/latest/configuration/#webhook_config.
func alertmanagerIncidents(q *http.Request) (out []incident, err error) {
	var w struct {
		Version string `json:"version"`
		Alerts  []struct {
			Status      string            `json:"status"`
			Labels      map[string]string `json:"labels"`
			Annotations map[string]string `json:"annotations"`
			Fingerprint string            `json:"fingerprint"`
		} `json:"alerts"`
	}
	if err := jsonapi.Foreign(q, &w); err != nil {
		return nil, err
	}
	if len(w.Alerts) == 0 {
		return nil, jsonapi.Invalid("this is no webhook of Alertmanager's version 4: it has no alerts")
	}
	if len(w.Alerts) > maxAlerts {
		return nil, jsonapi.Invalid("%d alerts in one webhook: at most %d are taken; set max_alerts", len(w.Alerts), maxAlerts)
	}
	for _, a := range w.Alerts {
		i := incident{Name: a.Labels["alertname"], State: "open", holding: holding{By: "alertmanager", Note: cmp.Or(a.Annotations["summary"], a.Annotations["description"])}}
		if i.Name == "" || a.Fingerprint == "" {
			return nil, jsonapi.Invalid("an alert of Alertmanager's without labels.alertname or fingerprint")
		}
		i.Name = "alertmanager/" + i.Name + "/" + a.Fingerprint
		if a.Status == "resolved" {
			i.State = "closed"
		}
		out = append(out, i)
	}
	return out, nil
}

func (r *Runner) askIncident(q *http.Request, tenant string) (any, error) {
	v := q.URL.Query()
	read, ok := incidentFormats[v.Get("format")]
	if !ok {
		return nil, jsonapi.Invalid("format=%.40q: it must be pagerduty or alertmanager, or left out", v.Get("format"))
	}
	list, err := read(q)
	if err != nil {
		return nil, err
	}
	for _, i := range list {
		if v.Get("format") == "" { // of the others it is we who say what has sent them
			i.By = r.by(q, i.By)
		}
		if i.State != "open" && i.State != "closed" {
			return nil, jsonapi.Invalid("state %.40q: it must be open or closed", i.State)
		}
		end, err := until(cmp.Or(i.For, v.Get("for")), r.o.Now())
		if err != nil {
			return nil, err
		}
		if err := r.Incident(q.Context(), tenant, i.Name, i.By, clip(i.Note, maxNote), i.State == "open", end); err != nil {
			return nil, err
		}
	}
	r.look()
	return r.held(q.Context(), tenant)
}

// clip is s within n bytes, whole characters.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-3], "") + "..."
}
