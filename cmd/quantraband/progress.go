package main

import (
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

// progressDelay is how long a job may take before a bar appears: a bar that
// flashes by says nothing.
const progressDelay = time.Second

// progress is a bar on standard error for a job that takes longer than
// progressDelay, and nothing at all for one that does not, or where no person
// looks. Its zero value draws nothing.
type progress struct {
	w       io.Writer // nil: never draw
	now     func() time.Time
	started time.Time
	what    string
	total   int64 // bytes, -1 if unknown
	done    int64
	bar     *progressbar.ProgressBar
}

// progress begins a job of total bytes.
func (a *app) progress(what string, total int64) *progress {
	if !isTerminal(a.stderr) {
		return &progress{}
	}
	return newProgress(a.stderr, what, total, time.Now)
}

func newProgress(w io.Writer, what string, total int64, now func() time.Time) *progress {
	return &progress{w: w, now: now, started: now(), what: what, total: total}
}

// add says that n more bytes are done.
func (p *progress) add(n int64) {
	p.done += n
	if p.w == nil {
		return
	}
	if p.bar == nil {
		if p.now().Sub(p.started) < progressDelay {
			return
		}
		p.bar = progressbar.NewOptions64(p.total,
			progressbar.OptionSetWriter(p.w),
			progressbar.OptionSetDescription(p.what),
			progressbar.OptionShowBytes(true),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionSetWidth(30),
			progressbar.OptionClearOnFinish(),
			progressbar.OptionSetRenderBlankState(true),
		)
	}
	p.bar.Set64(p.done) // it fails only where done passes total, and then the bar is full
}

// end takes the bar away.
func (p *progress) end() {
	if p.bar != nil {
		p.bar.Clear()
	}
}

// reader is r, counted.
func (p *progress) reader(r io.Reader) io.Reader { return &countingReader{r, p} }

type countingReader struct {
	r io.Reader
	p *progress
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.p.add(int64(n))
	return n, err
}
