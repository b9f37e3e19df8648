package ingest

import (
	"context"
	"encoding/json"
	"net/http"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/quantra-l/quantra/profile"
)

// The procedures of the two protocols that send labelled pprof: Pyroscope's (github.com/grafana/pyroscope, api/push/v1) and Parca's
// (github.com/parca-dev/parca, profilestore). Their messages differ in one wrapping of labels.
const (
	pushProcedure     = "/push.v1.PusherService/Push"
	writeRawProcedure = "/parca.profilestore.v1alpha1.ProfileStoreService/WriteRaw"
)

// arrowProcedures are Parca's other two, by which its agent sends Arrow records: a stream in which the server asks for the stacks that it does not
// have, and single calls whose records have everything. Why they are not read is in DESIGN.md, section 4.
var arrowProcedures = []string{"/parca.profilestore.v1alpha1.ProfileStoreService/Write", "/parca.profilestore.v1alpha1.ProfileStoreService/WriteArrow"}

// refuseArrow tells Parca's agent how else it can send.
func (in *Ingest) refuseArrow() http.Handler {
	refusals := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := faultf(http.StatusNotImplemented, "arrow", "Arrow records are not read here; have parca-agent send OpenTelemetry's profiles with --remote-store-format=otlp --debuginfo-upload-disable, or send pprof by WriteRaw")
		in.metrics.rejected("parca", f.code, 0)
		if r.Method != http.MethodPost || !refusals.IsSupported(r) {
			f.reply(w)
			return
		}
		refusals.Write(w, r, f.connect()) // an error means that the sender is gone
	})
}

// maxSeries bounds the profiles of one call; a scraper sends one, an aggregator some dozens.
const maxSeries = 1024

// series is the profiles of one set of labels.
type series struct {
	labels   []profile.Label
	profiles [][]byte
}

// receiveSeries is the receiver of both.
func (in *Ingest) receiveSeries(read func(message) ([]series, error)) rpcReceiver {
	return func(ctx context.Context, h *hold, m message) (b batch, err error) {
		if m.json {
			if err := h.grow(jsonCost * int64(len(m.b))); err != nil {
				return b, err
			}
		}
		all, err := read(m)
		if err != nil {
			return b, err
		}
		for _, s := range all {
			name, labels, err := modelLabels(s.labels)
			if err != nil {
				return b, err
			}
			for _, raw := range s.profiles {
				p := Push{Labels: labels, Pprof: raw}
				if p.Profile, err = in.decode(ctx, h, raw); err != nil {
					return b, err
				}
				p.Name = modelName(name, p.Profile)
				if err := modelled(h, &p); err != nil {
					return b, err
				}
				if p.From, p.To, err = in.window(p.From, p.To, p.Profile); err != nil {
					return b, err
				}
				b.pushes = append(b.pushes, p)
			}
		}
		if len(b.pushes) == 0 {
			return b, faultf(http.StatusBadRequest, "empty", "the call has no profile: send at least one series with one")
		}
		return b, nil
	}
}

// jsonCost is how much memory JSON takes when it is decoded, for each byte: an empty object of 3 bytes is a struct.
const jsonCost = 32

// answerEmpty is a response without fields.
func answerEmpty(_ batch, json bool) []byte {
	if json {
		return []byte("{}")
	}
	return nil
}

// readPush reads push.v1.PushRequest.
func readPush(m message) ([]series, error) {
	if m.json {
		return readSeriesJSON(m.b, false)
	}
	return readSeries(m.b, 1, false)
}

// readWriteRaw reads parca.profilestore.v1alpha1.WriteRawRequest. Its tenant is left out: who may send for a tenant is decided by the header that all
// protocols have.
func readWriteRaw(m message) ([]series, error) {
	if m.json {
		return readSeriesJSON(m.b, true)
	}
	return readSeries(m.b, 2, true)
}

func badMessage(format string, args ...any) error {
	return faultf(http.StatusBadRequest, "message", "the message cannot be read: "+format, args...)
}

// eachField calls f with the fields of a message that are texts, bytes or messages; others are skipped.
func eachField(what string, b []byte, f func(num protowire.Number, b []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return badMessage("%s: %v", what, protowire.ParseError(n))
		}
		size := protowire.ConsumeFieldValue(num, typ, b[n:])
		if size < 0 {
			return badMessage("%s: field %d: %v", what, num, protowire.ParseError(size))
		}
		if typ == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(b[n:])
			if err := f(num, v); err != nil {
				return err
			}
		}
		b = b[n+size:]
	}
	return nil
}

// readSeries reads a request whose series are the field at; wrapped says that their labels are in a message of their own.
func readSeries(b []byte, at protowire.Number, wrapped bool) (out []series, err error) {
	n := 0
	err = eachField("the request", b, func(num protowire.Number, b []byte) error {
		if num != at {
			return nil
		}
		if len(out) == maxSeries {
			return tooManySeries()
		}
		var s series
		label := func(b []byte) error {
			var l profile.Label
			err := eachField("a label", b, func(num protowire.Number, b []byte) error {
				switch num {
				case 1:
					l.Name = string(b)
				case 2:
					l.Value = string(b)
				}
				return nil
			})
			if s.labels = append(s.labels, l); len(s.labels) > 4*profile.MaxLabels {
				return tooManyLabels()
			}
			return err
		}
		err := eachField("a series", b, func(num protowire.Number, b []byte) error {
			switch {
			case num == 1 && wrapped:
				return eachField("a set of labels", b, func(num protowire.Number, b []byte) error {
					if num != 1 {
						return nil
					}
					return label(b)
				})
			case num == 1:
				return label(b)
			case num == 2:
				return eachField("a sample", b, func(num protowire.Number, b []byte) error {
					if num != 1 {
						return nil
					}
					if n++; n > maxSeries {
						return tooManySeries()
					}
					s.profiles = append(s.profiles, b)
					return nil
				})
			}
			return nil
		})
		out = append(out, s)
		return err
	})
	return out, err
}

func tooManySeries() error {
	return faultf(http.StatusRequestEntityTooLarge, "too_large", "the call has more than %d series or profiles; send fewer at once", maxSeries)
}

func tooManyLabels() error {
	return faultf(http.StatusBadRequest, "labels", "a series has more than %d labels, of which %d would be kept at most", 4*profile.MaxLabels, profile.MaxLabels)
}

type jsonLabel struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// jsonSamples takes both spellings that protobuf's JSON has.
type jsonSamples []struct {
	RawProfile  []byte `json:"rawProfile"`
	RawProfile2 []byte `json:"raw_profile"`
}

// readSeriesJSON reads the JSON of the same messages.
func readSeriesJSON(b []byte, wrapped bool) (out []series, err error) {
	var q struct {
		Series []struct {
			Labels  json.RawMessage `json:"labels"`
			Samples jsonSamples     `json:"samples"`
		} `json:"series"`
	}
	if err := json.Unmarshal(b, &q); err != nil {
		return nil, badMessage("%v", err)
	}
	if len(q.Series) > maxSeries {
		return nil, tooManySeries()
	}
	n := 0
	for _, s := range q.Series {
		var labels []jsonLabel
		if len(s.Labels) > 0 {
			if wrapped {
				var set struct{ Labels []jsonLabel }
				err = json.Unmarshal(s.Labels, &set)
				labels = set.Labels
			} else {
				err = json.Unmarshal(s.Labels, &labels)
			}
			if err != nil {
				return nil, badMessage("labels: %v", err)
			}
		}
		if len(labels) > 4*profile.MaxLabels {
			return nil, tooManyLabels()
		}
		var one series
		for _, l := range labels {
			one.labels = append(one.labels, profile.Label(l))
		}
		for _, x := range s.Samples {
			if x.RawProfile == nil {
				x.RawProfile = x.RawProfile2
			}
			if n++; n > maxSeries {
				return nil, tooManySeries()
			}
			one.profiles = append(one.profiles, x.RawProfile)
		}
		out = append(out, one)
	}
	return out, nil
}
