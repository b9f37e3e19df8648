package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quantra-l/quantra/integrity"
	"github.com/quantra-l/quantra/watch/alert"
)

// How alerts of watched files go.
const (
	maxFileAlerts  = 256 // that wait; past it the monitor keeps what it has found, and tells it again
	fileAlertTries = 50
	fileAlertWait  = 5 * time.Second // after a try that failed; doubled up to fileAlertLast
	fileAlertLast  = 10 * time.Minute
)

var errAlertsFull = errors.New("too many alerts of files wait to be told")

// fileAlerts tells people of watched files, by the file of alerts, and counts what is found for Prometheus. What waits is in memory: who stops the
// server before a channel has taken it is told by the audit log.
type fileAlerts struct {
	rules func() *alert.Config
	link  string
	host  string
	log   *slog.Logger
	first time.Duration // fileAlertWait, but in tests

	putting sync.Mutex // held while an event's alerts are put in, all or none
	queue   chan fileAlert
	events  *prometheus.CounterVec
	told    *prometheus.CounterVec
	number  atomic.Int64
}

type fileAlert struct {
	channel string
	message alert.Message
}

func newFileAlerts(rules func() *alert.Config, link string, registry prometheus.Registerer, log *slog.Logger) *fileAlerts {
	host, err := os.Hostname()
	if err != nil {
		log.Debug("this host has no name", "err", err)
	}
	f := &fileAlerts{
		rules: rules, link: link, host: host, log: log, first: fileAlertWait, queue: make(chan fileAlert, maxFileAlerts),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "quantra_integrity_events_total", Help: "Events of watched files, by what and how bad."}, []string{"kind", "severity"}),
		told:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "quantra_integrity_alerts_total", Help: "Alerts of watched files, by what came of them: sent, given_up."}, []string{"outcome"}),
	}
	for _, outcome := range []string{"sent", "given_up"} {
		f.told.WithLabelValues(outcome)
	}
	waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "quantra_integrity_alerts_waiting", Help: "Alerts of watched files that no channel has taken yet."}, func() float64 { return float64(len(f.queue)) })
	registry.MustRegister(f.events, f.told, waiting)
	return f
}

// count is of each event that stands in the audit log.
func (f *fileAlerts) count(e integrity.Event) {
	f.events.WithLabelValues(string(e.Kind), e.Severity.String()).Inc()
}

// alert is integrity.Options.Alert. Its error has the monitor tell the event again.
func (f *fileAlerts) alert(_ context.Context, e integrity.Event) error {
	f.log.Warn("integrity", "severity", e.Severity.String(), "event", e.String())
	c := f.rules()
	if c == nil {
		return nil
	}
	to := c.RouteFile(e.Severity.String())
	f.putting.Lock()
	defer f.putting.Unlock()
	if len(f.queue)+len(to) > cap(f.queue) {
		return errAlertsFull
	}
	sum := sha256.Sum256([]byte(f.host + "\x00" + string(e.Kind) + "\x00" + e.Path))
	m := alert.Message{
		ID: "file-" + hex.EncodeToString(sum[:8]), Episode: int(f.number.Add(1)), Status: "open", Link: f.link,
		File: &alert.File{Severity: e.Severity.String(), Kind: string(e.Kind), Path: e.Path, Time: e.Time.UTC(), Host: f.host, Sentence: oneLine(e.String())},
	}
	for _, name := range to {
		f.queue <- fileAlert{name, m}
	}
	return nil
}

// run tells until ctx ends, each alert by itself, so that a channel that is away holds up no other.
func (f *fileAlerts) run(ctx context.Context) {
	var under sync.WaitGroup
	defer under.Wait()
	const atOnce = 4
	for range atOnce {
		under.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case a := <-f.queue:
					f.tell(ctx, a)
				}
			}
		})
	}
}

func (f *fileAlerts) tell(ctx context.Context, a fileAlert) {
	wait := f.first
	for try := 1; ; try++ {
		err := fmt.Errorf("there is no channel %s any more", a.channel)
		refused := true
		if c := f.rules(); c != nil && c.Channel(a.channel) != nil {
			err = c.Channel(a.channel).Send(ctx, a.message)
			var r *alert.Refused
			refused = errors.As(err, &r)
		}
		if err == nil {
			f.told.WithLabelValues("sent").Inc()
			return
		}
		if ctx.Err() != nil {
			return
		}
		if refused || try == fileAlertTries {
			f.told.WithLabelValues("given_up").Inc()
			f.log.Error("nobody was told of a file", "channel", a.channel, "path", a.message.File.Path, "err", err)
			return
		}
		var later *alert.Later
		pause := wait
		if errors.As(err, &later) {
			pause = cmp.Or(later.After, wait)
		}
		f.log.Warn("a channel does not take an alert of a file: it is tried again", "channel", a.channel, "in", pause, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		wait = min(2*wait, fileAlertLast)
	}
}
