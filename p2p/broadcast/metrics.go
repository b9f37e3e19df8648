package broadcast

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// reason is why something was refused or dropped: a closed set, so that no peer can make series.
type reason int

const (
	refusedCorrupt   reason = iota // the form of the envelope
	refusedTopic                   // the envelope is of another topic
	refusedSignature               // it does not verify
	refusedLate                    // signed too long ago
	refusedEarly                   // signed in the future
	refusedOwn                     // signed by us, and not sent by this run
	refusedReplay                  // taken already, or so far behind that it cannot be known
	refusedRights                  // the author may not send there
	refusedPeer                    // the neighbour may not send there
	refusedListener                // a neighbour may not hear the topic any more
	refusedStream                  // a neighbour without any right
	refusedGray                    // the neighbour is on our gray list
	refusedPeerRate                // the neighbour sends too much
	refusedAuthorRate
	refusedAuthors  // no room for another author
	refusedOverload // no room for what is being verified
	refusedQueue    // pubsub's queue was full
	refusedClosed
	reasons
)

var reasonNames = [reasons]string{"corrupt", "topic", "signature", "late", "early", "own", "replay", "rights", "peer_rights", "listener_rights", "stream_rights",
	"graylist", "peer_rate", "author_rate", "authors", "overload", "queue", "closed"}

type metrics struct {
	received, receivedMessages, receivedBytes    prometheus.Counter
	delivered, duplicate, dropped, sendDropped   prometheus.Counter
	published, publishedEnvelopes, publishFailed prometheus.Counter
	badSignatures, sendWaits                     prometheus.Counter
	refused                                      [reasons]prometheus.Counter
	batch, age, verify                           prometheus.Histogram
	keepFailed                                   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, s *Service) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "quantra_broadcast_" + name, Help: help})
	}
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "quantra_broadcast_" + name, Help: help}, f)
	}
	m := &metrics{
		received:           counter("received_envelopes_total", "Envelopes that came from neighbours and were not there yet."),
		receivedMessages:   counter("received_messages_total", "Messages in envelopes that were verified and taken."),
		receivedBytes:      counter("received_bytes_total", "Bytes of envelopes that came from neighbours and were not there yet."),
		delivered:          counter("delivered_messages_total", "Messages that were put into the queue of a subscription, counted for each."),
		duplicate:          counter("duplicate_envelopes_total", "Envelopes that were there already and cost no verification."),
		dropped:            counter("dropped_messages_total", "Messages that a subscription had no room for."),
		sendDropped:        counter("send_dropped_total", "RPCs that were not sent because the queue to the neighbour was full."),
		published:          counter("published_messages_total", "Messages of ours that were handed to the network."),
		publishedEnvelopes: counter("published_envelopes_total", "Envelopes of ours that were handed to the network."),
		publishFailed:      counter("publish_failed_messages_total", "Messages of ours that were accepted and could not be handed to the network."),
		badSignatures:      counter("bad_signatures_total", "Signatures that did not verify."),
		sendWaits:          counter("send_waits_total", "Envelopes of ours that waited as the queues to most neighbours were half full."),
		keepFailed:         counter("keep_failed_total", "Times that what was received could not be kept on disk."),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "quantra_broadcast_verify_batch_signatures",
			Help: "Signatures verified together.", Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128}}),
		age: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "quantra_broadcast_age_seconds",
			Help: "From an envelope's signature, by its author's clock, until it was taken here.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 18)}),
		verify: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "quantra_broadcast_verify_seconds",
			Help: "From an envelope's arrival at the validator until its signature was judged.", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16)}),
	}
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "quantra_broadcast_refused_total",
		Help: "What was refused or given up, by reason: envelopes, but streams and neighbours for stream_rights and listener_rights."}, []string{"reason"})
	for r, name := range reasonNames {
		m.refused[r] = refused.WithLabelValues(name)
	}
	if reg == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.received, m.receivedMessages, m.receivedBytes, m.delivered, m.duplicate, m.dropped, m.sendDropped, m.published,
		m.publishedEnvelopes, m.publishFailed, m.badSignatures, m.sendWaits, m.keepFailed, m.batch, m.age, m.verify, refused,
		gauge("in_flight_envelopes", "Envelopes that are being verified and delivered.", func() float64 { _, n := s.inFlight.used(); return float64(n) }),
		gauge("in_flight_bytes", "Bytes of them.", func() float64 { n, _ := s.inFlight.used(); return float64(n) }),
		gauge("publish_queue_messages", "Messages of ours that wait to be signed and sent.", func() float64 { return float64(s.waiting()) }),
		gauge("authors", "Authors whose numbers are remembered.", func() float64 { return float64(s.authors.len()) }),
		gauge("topics", "Topics that are subscribed to or published to.", func() float64 { return float64(len(*s.topics.Load())) }),
	} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}
