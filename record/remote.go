package record

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/snappy"
	"google.golang.org/protobuf/encoding/protowire"
)

// Bounds of sending.
const (
	maxQueue  = 60 // minutes that wait for a receiver that is away; then the oldest go
	sendFor   = 30 * time.Second
	maxPause  = time.Minute
	maxSecret = 64 << 10
)

// sender sends to one receiver, one minute after the other: a receiver takes no sample that is older than the one before.
type sender struct {
	r      *Recorder
	remote Remote
	queue  chan []sample
	v1     bool // the receiver knows no version 2
}

// put queues a minute; the oldest goes where there is no room.
func (s *sender) put(batch []sample) {
	if len(batch) == 0 {
		return
	}
	for {
		select {
		case s.queue <- batch:
			return
		default:
		}
		select {
		case <-s.queue:
			s.r.results.WithLabelValues("dropped").Inc()
		default:
		}
	}
}

func (s *sender) run(ctx context.Context) {
	for batch := range s.queue {
		for pause := time.Second; ; pause = min(2*pause, maxPause) {
			after, err := s.send(ctx, batch)
			if err == nil {
				s.r.results.WithLabelValues("sent").Inc()
				break
			}
			var final *refusedError
			if errors.As(err, &final) {
				s.r.results.WithLabelValues("refused").Inc()
				s.r.opt.Logger.Error("record: a minute was refused, and is lost", "url", s.remote.URL, "err", err)
				break
			}
			s.r.opt.Logger.Warn("record: a minute could not be sent; it is tried again", "url", s.remote.URL, "err", err)
			if !wait(ctx, max(after, pause/2+rand.N(pause))) {
				return
			}
		}
	}
}

// refusedError is an answer that will be the same next time.
type refusedError struct{ text string }

func (e *refusedError) Error() string { return e.text }

// send sends once. after is how long the receiver wants to be left alone.
func (s *sender) send(ctx context.Context, batch []sample) (after time.Duration, err error) {
	v2 := s.remote.Version != 1 && !s.v1
	body := appendV1(nil, batch)
	if v2 {
		body = appendV2(nil, batch)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.remote.URL, bytes.NewReader(snappy.Encode(nil, body)))
	if err != nil {
		return 0, &refusedError{err.Error()}
	}
	for k, v := range s.remote.Headers {
		req.Header.Set(k, v)
	}
	req.Header.Set("Content-Encoding", "snappy")
	req.Header.Set("User-Agent", "quantraband")
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("X-Prometheus-Remote-Write-Version", "0.1.0")
	if v2 {
		req.Header.Set("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request")
		req.Header.Set("X-Prometheus-Remote-Write-Version", "2.0.0")
	}
	if err := s.authorize(req); err != nil {
		return 0, err // the file may be there the next time
	}
	res, err := s.r.opt.Client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, 300)) // what can be read of it
	switch {
	case res.StatusCode/100 == 2 && (!v2 || res.Header.Get("X-Prometheus-Remote-Write-Samples-Written") != ""):
		return 0, nil
	case v2 && s.remote.Version == 0 && (res.StatusCode/100 == 2 || res.StatusCode == http.StatusUnsupportedMediaType || res.StatusCode == http.StatusBadRequest):
		// Version 2 says that a receiver answers how much it has written. One that knows version 1 only takes the body for an empty or a broken one.
		s.v1 = true
		return s.send(ctx, batch)
	case res.StatusCode == http.StatusTooManyRequests || res.StatusCode >= 500:
		if n, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && n > 0 {
			after = min(time.Duration(n)*time.Second, 10*maxPause)
		}
		return after, fmt.Errorf("it answers %s: %q", res.Status, text)
	}
	return 0, &refusedError{fmt.Sprintf("it answers %s: %q", res.Status, text)}
}

func (s *sender) authorize(req *http.Request) error {
	secret := func(path string) (string, error) {
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxSecret))
		return strings.TrimSpace(string(b)), err
	}
	switch {
	case s.remote.TokenFile != "":
		t, err := secret(s.remote.TokenFile)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+t)
	case s.remote.User != "":
		p, err := secret(s.remote.Password)
		if err != nil {
			return err
		}
		req.SetBasicAuth(s.remote.User, p)
	}
	return nil
}

// message appends a field that is a message.
func message(b []byte, field protowire.Number, m []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), m)
}

// appendSample is Sample of either version: value = 1, timestamp in Unix milliseconds = 2.
func appendSample(b []byte, x sample) []byte {
	b = protowire.AppendFixed64(protowire.AppendTag(b, 1, protowire.Fixed64Type), math.Float64bits(x.value))
	return protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.VarintType), uint64(x.at.UnixMilli()))
}

// appendV1 is prometheus.WriteRequest: timeseries = 1 of labels = 1 (name = 1, value = 2) and samples = 2.
func appendV1(b []byte, batch []sample) []byte {
	for _, x := range batch {
		var series []byte
		for _, l := range x.labels {
			series = message(series, 1, message(message(nil, 1, []byte(l.Name)), 2, []byte(l.Value)))
		}
		b = message(b, 1, message(series, 2, appendSample(nil, x)))
	}
	return b
}

// metadataGauge is Metadata of version 2: type = 1, of which 2 is a gauge.
var metadataGauge = []byte{1 << 3, 2}

// appendV2 is io.prometheus.write.v2.Request: symbols = 4, of which the first is empty, and timeseries = 5 of labels_refs = 1 (packed: name,
// value, ...), samples = 2 and metadata = 5.
func appendV2(b []byte, batch []sample) []byte {
	refs, symbols := map[string]uint64{"": 0}, []string{""}
	ref := func(s string) uint64 {
		n, ok := refs[s]
		if !ok {
			n = uint64(len(symbols))
			refs[s], symbols = n, append(symbols, s)
		}
		return n
	}
	var all []byte
	for _, x := range batch {
		var labels []byte
		for _, l := range x.labels {
			labels = protowire.AppendVarint(protowire.AppendVarint(labels, ref(l.Name)), ref(l.Value))
		}
		series := message(message(nil, 1, labels), 2, appendSample(nil, x))
		all = message(all, 5, message(series, 5, metadataGauge))
	}
	for _, s := range symbols {
		b = message(b, 4, []byte(s))
	}
	return append(b, all...)
}
