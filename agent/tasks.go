package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"runtime/trace"
	"time"

	"github.com/quantra-l/quantra/agent/live"
)

const (
	// maxTrace bounds an execution trace, which is kept in memory until it is sent; a busy program
	// writes a few megabytes a second. What is over the bound is cut at a whole batch.
	maxTrace        = 16 << 20
	maxTraceSeconds = 60
	textPlain       = "text/plain"
)

// doTask does what the server wants to know once. contentType "" is a kind that is not known.
func doTask(ctx context.Context, t task) (contentType string, body []byte) {
	var err error
	switch t.Kind {
	case "goroutines":
		contentType = "application/json"
		var s live.Snapshot
		if s, err = live.Take(ctx, live.Options{Full: t.Full}); err == nil {
			body, err = json.Marshal(s)
		}
	case "trace":
		contentType = "application/octet-stream"
		body, err = takeTrace(ctx, t.Seconds)
	}
	if err != nil {
		return textPlain, []byte(err.Error())
	}
	return contentType, body
}

// takeTrace is an execution trace of the next seconds, shorter where ctx ends or it grows too large.
func takeTrace(ctx context.Context, seconds float64) ([]byte, error) {
	if math.IsNaN(seconds) || seconds <= 0 || seconds > maxTraceSeconds {
		return nil, fmt.Errorf("a trace of %v seconds: it must be above 0 and at most %d", seconds, maxTraceSeconds)
	}
	w := &traceBuffer{full: make(chan struct{})}
	if err := trace.Start(w); err != nil {
		return nil, fmt.Errorf("another execution trace runs already: %w", err)
	}
	end := time.NewTimer(time.Duration(seconds * float64(time.Second)))
	defer end.Stop()
	select {
	case <-end.C:
	case <-ctx.Done():
	case <-w.full:
	}
	trace.Stop() // after it nothing is written any more
	return w.buf.Bytes(), nil
}

// traceBuffer keeps what is written up to a bound, in whole writes.
type traceBuffer struct {
	buf  bytes.Buffer
	full chan struct{} // closed at the bound
	over bool
}

var errTraceFull = errors.New("the trace has its full size")

func (b *traceBuffer) Write(p []byte) (int, error) {
	if b.over {
		return 0, errTraceFull
	}
	if b.buf.Len()+len(p) > maxTrace {
		b.over = true
		close(b.full)
		return 0, errTraceFull
	}
	return b.buf.Write(p)
}
