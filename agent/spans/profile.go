package spans

import (
	"cmp"
	"compress/gzip"
	"encoding/binary"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/quantra-l/quantra/agent"
)

// The profile's name, and the labels of its samples. docs/format/spans.md draws it.
const (
	Profile = "spans"
	// LabelLE is a number with the unit nanoseconds: the upper bound of the bucket of durations that the sample counts. A
	// sample without it has durations of any length.
	LabelLE     = "le"
	LabelStatus = "status" // "ok", or "error" where the span's status says so
)

var statusNames = [2]string{"ok", "error"}

// Source is the profile "spans", for the agent to take along. Counting begins with the first call: who never asks
// pays nothing for it.
func (p *Processor) Source() agent.Source {
	p.counting()
	return agent.Source{Name: Profile, Write: p.WriteProfile, Report: func() any { return p.report() }}
}

func (p *Processor) counting() *counts {
	if p.counts.Load() == nil {
		p.counts.CompareAndSwap(nil, newCounts(p.opt))
	}
	return p.counts.Load()
}

// WriteProfile writes the profile of all spans that have ended since the first call of Source, pprof in gzip. Its sample types are
//
//	spans/count            spans, at the path of operations from their root
//	duration/nanoseconds   what they took, what is inside of them included
//	self/nanoseconds       the same without the spans inside of them, 0 at least; of steps between events 0
//
// and its labels [LabelLE] and [LabelStatus]. All values only grow. It writes with no lock held.
func (p *Processor) WriteProfile(w io.Writer) error { return p.counting().writeProfile(w) }

// encoder writes a profile: the messages of profile.proto (github.com/google/pprof/proto), whose field
// numbers these are. Frames are operations: locations without code.
type encoder struct {
	out, msg, sub []byte
	strings       map[string]uint64
	table         []string
	locations     map[*frame]uint64
}

func (c *counts) writeProfile(w io.Writer) error {
	e := &encoder{strings: map[string]uint64{"": 0}, table: []string{""}, locations: map[*frame]uint64{}}
	e.valueType(1, "spans", "count")
	e.valueType(1, "duration", "nanoseconds")
	e.valueType(1, "self", "nanoseconds")
	c.each(func(p *path) {
		p.cells(func(status int, le int64, c *cell) { e.sample(p, status, le, c) })
	})
	e.out = putNumber(e.out, 9, uint64(time.Now().UnixNano()))
	e.valueType(11, "spans", "count")
	e.out = putNumber(e.out, 12, 1)
	e.out = putNumber(e.out, 14, e.str("self")) // the column whose tree adds up
	for _, s := range e.table {
		e.out = putText(e.out, 6, s)
	}
	zip, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if _, err := zip.Write(e.out); err != nil {
		return err
	}
	return zip.Close()
}

// putNumber appends a varint field; 0 is the default and left out.
func putNumber(b []byte, field int, n uint64) []byte {
	if n == 0 {
		return b
	}
	return binary.AppendUvarint(append(b, byte(field<<3)), n)
}

// putText appends a field of bytes.
func putText[B string | []byte](b []byte, field int, s B) []byte {
	return append(binary.AppendUvarint(append(b, byte(field<<3|2)), uint64(len(s))), s...)
}

func (e *encoder) str(s string) uint64 {
	i, ok := e.strings[s]
	if !ok {
		i = uint64(len(e.table))
		e.strings[s] = i
		e.table = append(e.table, s)
	}
	return i
}

func (e *encoder) valueType(field int, typ, unit string) {
	e.msg = putNumber(putNumber(e.msg[:0], 1, e.str(typ)), 2, e.str(unit))
	e.out = putText(e.out, field, e.msg)
}

func (e *encoder) sample(p *path, status int, le int64, c *cell) {
	e.sub = e.sub[:0]
	for ; p != nil; p = p.up {
		e.sub = binary.AppendUvarint(e.sub, e.location(p.frame))
	}
	msg := putText(e.msg[:0], 1, e.sub)
	e.sub = e.sub[:0]
	for _, v := range [...]int64{c.count.Load(), c.duration.Load(), c.self.Load()} {
		e.sub = binary.AppendUvarint(e.sub, uint64(v))
	}
	msg = putText(msg, 2, e.sub)
	if le > 0 {
		e.sub = putNumber(putNumber(putNumber(e.sub[:0], 1, e.str(LabelLE)), 3, uint64(le)), 4, e.str("nanoseconds"))
		msg = putText(msg, 3, e.sub)
	}
	e.sub = putNumber(putNumber(e.sub[:0], 1, e.str(LabelStatus)), 2, e.str(statusNames[status]))
	e.msg = putText(msg, 3, e.sub)
	e.out = putText(e.out, 2, e.msg)
}

// location is the id of a frame's. Its address is the frame's number, which never changes: by it the agent knows a stack again.
func (e *encoder) location(f *frame) uint64 {
	id, ok := e.locations[f]
	if ok {
		return id
	}
	id = uint64(len(e.locations)) + 1
	e.locations[f] = id
	file := ""
	if f.event {
		file = eventsFile
	}
	var b []byte
	b = putNumber(putNumber(putNumber(b, 1, id), 2, e.str(f.text)), 3, e.str(f.text))
	e.out = putText(e.out, 5, putNumber(b, 4, e.str(file)))
	line := putNumber(nil, 1, id)
	b = putNumber(putNumber(b[:0], 1, id), 3, f.id)
	e.out = putText(e.out, 4, putText(b, 4, line))
	return id
}

// maxReport is how many paths the agent's status shows: it has 64 KiB for all there is.
const maxReport = 20

// report is what the agent's status shows.
type report struct {
	Counted uint64    `json:"counted"`
	Unseen  uint64    `json:"unseen"`
	Other   uint64    `json:"other"`
	Paths   []summary `json:"paths"` // the longest total time first
	More    int       `json:"more"`  // paths beside these
}

type summary struct {
	Path     []string      `json:"path"` // the last four of it
	Spans    int64         `json:"spans"`
	Errors   int64         `json:"errors"`
	Duration time.Duration `json:"duration_ns"`
	P50      time.Duration `json:"p50_ns"` // the end of its bucket
	P99      time.Duration `json:"p99_ns"`
}

func (p *Processor) report() report {
	c := p.counting()
	r := report{Counted: c.ended.Load(), Unseen: c.unseen.Load(), Other: c.elsewhere.Load(), Paths: []summary{}}
	type row struct {
		p                       *path
		spans, errors, duration int64
	}
	var rows []row
	c.each(func(p *path) {
		w := row{p: p}
		p.cells(func(status int, _ int64, c *cell) {
			n := c.count.Load()
			w.spans += n
			w.duration += c.duration.Load()
			if status == 1 {
				w.errors += n
			}
		})
		if w.spans > 0 {
			rows = append(rows, w)
		}
	})
	slices.SortFunc(rows, func(a, b row) int { return cmp.Compare(b.duration, a.duration) })
	r.More = max(0, len(rows)-maxReport)
	for _, w := range rows[:len(rows)-r.More] {
		s := summary{Spans: w.spans, Errors: w.errors, Duration: time.Duration(w.duration)}
		for p := w.p; p != nil && len(s.Path) < 4; p = p.up {
			s.Path = append(s.Path, cut(p.frame.text, defaultMaxOperation))
		}
		slices.Reverse(s.Path)
		s.P50, s.P99 = w.p.quantiles()
		r.Paths = append(r.Paths, s)
	}
	return r
}

// quantiles are the ends of the buckets where a half and 99 in 100 are reached.
func (p *path) quantiles() (p50, p99 time.Duration) {
	by := map[int64]int64{} // well or not
	sum := int64(0)
	p.cells(func(_ int, le int64, c *cell) {
		if n := c.count.Load(); le > 0 {
			by[le] += n
			sum += n
		}
	})
	seen := int64(0)
	for _, le := range slices.Sorted(maps.Keys(by)) {
		seen += by[le]
		if p50 == 0 && 2*seen >= sum {
			p50 = time.Duration(le)
		}
		if p99 == 0 && 100*seen >= 99*sum {
			p99 = time.Duration(le)
		}
	}
	return p50, p99
}
