package judge

// Stacks is the memory of goroutines' stacks, bytes: what a build pays with whose functions have taken others in. A fifth more of it is
// tolerated (golang/go#65532 had a third more, and a service that lost by it), and 4 MiB, as few goroutines have so little that one that is deep doubles it.
func Stacks() Metric {
	return Metric{Name: "stacks", Critical: true, Tolerate: 0.20, Floor: 4 << 20}
}

// DefaultMetrics is what a change is judged by unless it is told otherwise. What is tolerated is about what a pair of instances can show within
// ten minutes of windows of 10 s (docs/judge.md has the rates); a change that trades one for another, as GOGC does memory for CPU, says so by
// tolerating more of it.
func DefaultMetrics() []Metric {
	return []Metric{
		// Cost of the work itself: load cancels, hosts differ by a few percent, windows vary by about 5 %.
		{Name: "cpu_per_request", Critical: true, Tolerate: 0.05, PerRequest: true},
		// The 99th percentile of 10 s rests on a few slow requests: it varies by 15 % from window to window.
		{Name: "latency_p99", Critical: true, Tolerate: 0.15, PerRequest: true},
		{Name: "rss", Critical: true, Tolerate: 0.10, Stock: true},
		// Costs of collection are in cpu_per_request already: by themselves they are worth a word.
		{Name: "gc_cpu", Tolerate: 0.10, Floor: 0.02},
		// A fifth of a percent of requests, and a quarter of what failed anyway.
		{Name: "errors", Critical: true, Tolerate: 0.25, Floor: 0.002, PerRequest: true},
		// What a load balancer sends to the treated falls when they answer late or not at all.
		{Name: "throughput", Better: Higher, Critical: true, Tolerate: 0.10},
	}
}
