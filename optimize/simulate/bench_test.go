package simulate

import "testing"

// BenchmarkRun is one change that is promoted through all its stages at eight nodes.
func BenchmarkRun(b *testing.B) {
	for b.Loop() {
		if _, err := Run(b.Context(), 1, Scenario{Effect: Effect{CPU: 0.85}}); err != nil {
			b.Fatal(err)
		}
	}
}
