package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/blocks"
	"github.com/quantra-l/quantra/store/clickhouse"
)

const (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue
)

// metric is one figure of S as /metrics names it.
type metric[S any] struct {
	name, help string
	kind       prometheus.ValueType
	value      func(S) float64
}

// storeMetrics are of the log and of what is in memory.
var storeMetrics = []metric[store.Stats]{
	{"profiles", "Profiles in memory.", gauge, func(s store.Stats) float64 { return float64(s.Profiles) }},
	{"series", "Series in memory.", gauge, func(s store.Stats) float64 { return float64(s.Series) }},
	{"stacks", "Distinct stacks in memory.", gauge, func(s store.Stats) float64 { return float64(s.Stacks) }},
	{"head_bytes", "Estimated memory of the profiles.", gauge, func(s store.Stats) float64 { return float64(s.HeadBytes) }},
	{"log_bytes", "Bytes of the log on disk.", gauge, func(s store.Stats) float64 { return float64(s.LogBytes) }},
	{"log_segments", "Segments of the log.", gauge, func(s store.Stats) float64 { return float64(s.Segments) }},
	{"in_flight_bytes", "Bytes of uploads that are not durable yet.", gauge, func(s store.Stats) float64 { return float64(s.InFlightBytes) }},
	{"appended_total", "Uploads kept since the start.", counter, func(s store.Stats) float64 { return float64(s.Appended) }},
	{"duplicates_total", "Uploads that were there already.", counter, func(s store.Stats) float64 { return float64(s.Duplicates) }},
	{"overloaded_total", "Uploads turned away at a bound.", counter, func(s store.Stats) float64 { return float64(s.Overloaded) }},
	{"failed_total", "Uploads that could not be written.", counter, func(s store.Stats) float64 { return float64(s.Failed) }},
	{"dropped_profiles_total", "Profiles that retention and bounds let go.", counter, func(s store.Stats) float64 { return float64(s.DroppedProfiles) }},
	{"syncs_total", "Times the log was forced to disk.", counter, func(s store.Stats) float64 { return float64(s.Syncs) }},
	{"last_sync_seconds", "How long the last of them took.", gauge, func(s store.Stats) float64 { return s.LastSync.Seconds() }},
	{"flushes_total", "Segments of the log that became blocks.", counter, func(s store.Stats) float64 { return float64(s.Flushes) }},
	{"flush_failures_total", "Times that did not work.", counter, func(s store.Stats) float64 { return float64(s.FlushFailures) }},
	{"flushed_profiles_total", "Profiles in those blocks.", counter, func(s store.Stats) float64 { return float64(s.FlushedProfiles) }},
	{"last_flush_seconds", "How long the last flush took.", gauge, func(s store.Stats) float64 { return s.LastFlush.Seconds() }},
	{"unflushed_segments", "Segments that are complete and wait to become blocks.", gauge, func(s store.Stats) float64 { return float64(s.Unflushed) }},
	{"queries_waiting", "Questions that wait their turn.", gauge, func(s store.Stats) float64 { return float64(s.QueriesWaiting) }},
}

// blocksMetrics are of the bucket and of what waits for it.
var blocksMetrics = []metric[blocks.Stats]{
	{"known", "Blocks known.", gauge, func(s blocks.Stats) float64 { return float64(s.Blocks) }},
	{"asked", "Blocks that are neither replaced nor deleted.", gauge, func(s blocks.Stats) float64 { return float64(s.Asked) }},
	{"damaged", "Blocks that are refused as damaged.", gauge, func(s blocks.Stats) float64 { return float64(s.Damaged) }},
	{"queued", "Blocks that wait for the bucket.", gauge, func(s blocks.Stats) float64 { return float64(s.QueueBlocks) }},
	{"queued_bytes", "Bytes that wait for the bucket.", gauge, func(s blocks.Stats) float64 { return float64(s.QueueBytes) }},
	{"local_bytes", "Bytes of local copies of blocks in the bucket.", gauge, func(s blocks.Stats) float64 { return float64(s.LocalBytes) }},
	{"memory_bytes", "Bytes of decoded columns in memory.", gauge, func(s blocks.Stats) float64 { return float64(s.MemoryBytes) }},
	{"memory_hits_total", "Columns that were in memory when they were asked for.", counter, func(s blocks.Stats) float64 { return float64(s.MemoryHits) }},
	{"memory_misses_total", "Columns that were not.", counter, func(s blocks.Stats) float64 { return float64(s.MemoryMisses) }},
	{"uploaded_total", "Blocks written to the bucket.", counter, func(s blocks.Stats) float64 { return float64(s.Uploaded) }},
	{"upload_failures_total", "Times that did not work.", counter, func(s blocks.Stats) float64 { return float64(s.UploadFailed) }},
	{"missed_total", "Blocks that could not be read when they were asked.", counter, func(s blocks.Stats) float64 { return float64(s.Missed) }},
	{"listings_total", "Listings of the bucket.", counter, func(s blocks.Stats) float64 { return float64(s.Listings) }},
	{"listing_failures_total", "Times that did not work.", counter, func(s blocks.Stats) float64 { return float64(s.ListingsFailed) }},
	{"compactions_total", "Merges of blocks.", counter, func(s blocks.Stats) float64 { return float64(s.Compactions) }},
	{"compaction_failures_total", "Times that did not work.", counter, func(s blocks.Stats) float64 { return float64(s.CompactionsFailed) }},
	{"compacted_blocks_total", "Blocks that were merged into others.", counter, func(s blocks.Stats) float64 { return float64(s.CompactedBlocks) }},
	{"compacted_samples_total", "Samples in those merges.", counter, func(s blocks.Stats) float64 { return float64(s.CompactedSamples) }},
	{"compaction_seconds_total", "Time that merging took.", counter, func(s blocks.Stats) float64 { return s.CompactionTime.Seconds() }},
	{"tombstones_total", "Blocks marked as deleted.", counter, func(s blocks.Stats) float64 { return float64(s.Tombstones) }},
	{"deleted_total", "Blocks whose bytes were deleted.", counter, func(s blocks.Stats) float64 { return float64(s.DeletedBlocks) }},
	{"deleted_bytes_total", "Bytes that were deleted.", counter, func(s blocks.Stats) float64 { return float64(s.DeletedBytes) }},
	{"archived_total", "Blocks moved to the archive class.", counter, func(s blocks.Stats) float64 { return float64(s.ArchivedBlocks) }},
	{"orphans_total", "Remains of uploads that never ended, removed.", counter, func(s blocks.Stats) float64 { return float64(s.Orphans) }},
}

// clickhouseMetrics are of what goes to ClickHouse. Its own metrics are its own.
var clickhouseMetrics = []metric[clickhouse.Stats]{
	{"blocks_total", "Blocks put.", counter, func(s clickhouse.Stats) float64 { return float64(s.Blocks) }},
	{"profiles_total", "Profiles in them.", counter, func(s clickhouse.Stats) float64 { return float64(s.Profiles) }},
	{"bytes_total", "Bytes of their files.", counter, func(s clickhouse.Stats) float64 { return float64(s.Bytes) }},
	{"put_failures_total", "Times that did not work.", counter, func(s clickhouse.Stats) float64 { return float64(s.PutFailed) }},
	{"statements_total", "Statements sent.", counter, func(s clickhouse.Stats) float64 { return float64(s.Statements) }},
	{"retries_total", "Times one was sent again.", counter, func(s clickhouse.Stats) float64 { return float64(s.Retries) }},
	{"dictionary_bytes", "Bytes of the names of stacks in memory.", gauge, func(s clickhouse.Stats) float64 { return float64(s.DictionaryBytes) }},
}

// statsCollector reads figures when they are asked for.
type statsCollector[S any] struct {
	stats   func() S
	metrics []metric[S]
	descs   []*prometheus.Desc // beside metrics
}

func newStatsCollector[S any](prefix string, stats func() S, metrics []metric[S]) *statsCollector[S] {
	c := &statsCollector[S]{stats: stats, metrics: metrics}
	for _, m := range metrics {
		c.descs = append(c.descs, prometheus.NewDesc(prefix+m.name, m.help, nil, nil))
	}
	return c
}

// Describe is prometheus.Collector's.
func (c *statsCollector[S]) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect is prometheus.Collector's.
func (c *statsCollector[S]) Collect(ch chan<- prometheus.Metric) {
	s := c.stats()
	for i, m := range c.metrics {
		ch <- prometheus.MustNewConstMetric(c.descs[i], m.kind, m.value(s))
	}
}
