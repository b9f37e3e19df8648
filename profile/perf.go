package profile

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ParsePerfScript reads what `perf script` prints without options (or with -g
// off, or with +srcline): for each sample a line
//
//	comm pid[/tid] [cpu] time: [period] event:
//
// and below it its frames, "address symbol+0xoffset (file)", the innermost
// first, until an empty line. As in stackcollapse-perf the command is the
// outermost frame. The profile has a column "samples", and one for each event
// with the sum of its periods (or of its samples, where perf printed none).
// pid and tid are numeric labels. A symbol that perf did not know keeps its
// address; "(inlined)" frames are lines of the function they are in. The
// duration is from the first sample to the last: their times are of a clock that
// says nothing of the date.
// The error wraps [ErrCorrupt] or [ErrTooLarge] and tells the line.
func ParsePerfScript(r io.Reader, lim Limits) (*Profile, error) {
	lines := newLineReader(r, lim)
	p := &perfReader{textProfile: newTextProfile(lines.lim), lines: lines, events: map[string]int{}}
	for {
		line, err := lines.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := p.line(line); err != nil {
			return nil, err
		}
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	if len(p.rows) == 0 {
		return nil, fmt.Errorf("%w: perf script: no sample", ErrCorrupt)
	}
	return p.profile(), nil
}

// perfSample is a sample as it is read.
type perfSample struct {
	comm     string
	pid, tid int64
	event    string
	period   int64 // 0: not printed
	at       int64 // nanoseconds since some start; 0: not printed
}

// perfRow is a sample that was read.
type perfRow struct {
	stack, labels uint32
	event         int
	period        int64
}

type perfReader struct {
	*textProfile
	lines  *lineReader
	open   bool // a sample's frames are being read
	sample perfSample
	frames []uint32 // its locations, the innermost first
	inline []Line   // inlined frames that wait for the function they are in
	depth  int

	events map[string]int
	names  []string // of events, in the order they came
	period []bool   // of event: perf printed one
	rows   []perfRow

	first, last int64 // times of samples; 0: none was printed
}

func (p *perfReader) line(line []byte) error {
	text := bytes.TrimSpace(line)
	switch {
	case len(text) == 0:
		return p.finish()
	case text[0] == '#' && !p.open:
		return nil
	}
	if p.open {
		if addr, symbol, file, ok := perfFrame(text); ok {
			return p.frame(addr, symbol, file)
		}
	}
	if s, rest, ok := perfHeader(text); ok {
		if err := p.finish(); err != nil {
			return err
		}
		p.open, p.sample = true, s
		if addr, symbol, file, ok := perfFrame(rest); ok { // no call chain: the frame is on the same line
			return p.frame(addr, symbol, file)
		}
		return nil
	}
	if p.open && perfSource.Match(text) {
		return nil
	}
	want := "a sample's first line, as \"comm 1234 [000] 12.345678: 250000 cycles:\""
	if p.open {
		want = "a frame, as \"ffffffff810aa7e1 schedule+0x41 (/usr/lib/libx.so)\""
	}
	return p.lines.corrupt("%.80q is not %s", text, want)
}

var (
	perfHead   = regexp.MustCompile(`^(\S.*?)\s+(-?\d+)(?:/(-?\d+))?\s+(?:\[\d+\]\s+)?(?:[a-zA-Z.]{1,8}\s+)?(?:(\d+\.\d+):\s+)?(?:(\d+)\s+)?([^\s:()][^\s()]*):(?:\s+(.*))?$`)
	perfOffset = regexp.MustCompile(`\+0x[0-9a-f]+$`)
	perfSplit  = regexp.MustCompile(`\+0x[0-9a-f]+ \(`)
	perfSource = regexp.MustCompile(`^\S+:\d+$`)
)

// perfHeader reads a sample's first line; rest is what follows the event.
func perfHeader(text []byte) (s perfSample, rest []byte, ok bool) {
	m := perfHead.FindSubmatch(text)
	if m == nil {
		return s, nil, false
	}
	s.comm, s.event, rest = string(m[1]), string(m[6]), m[7]
	s.event = strings.TrimSuffix(s.event, ":")
	var err [3]error
	s.pid, err[0] = strconv.ParseInt(string(m[2]), 10, 64)
	s.tid = s.pid
	if m[3] != nil {
		s.tid, err[1] = strconv.ParseInt(string(m[3]), 10, 64)
	}
	if m[5] != nil {
		s.period, err[2] = strconv.ParseInt(string(m[5]), 10, 64)
	}
	s.at = perfTime(string(m[4]))
	return s, rest, err == [3]error{} && s.event != ""
}

// perfTime is a time as perf prints it, seconds with six digits of fraction or nine (--ns), in nanoseconds; 0 for one that is no such.
func perfTime(s string) int64 {
	whole, fraction, ok := strings.Cut(s, ".")
	if !ok || len(whole) > 9 || len(fraction) > 9 { // nine digits of seconds are 31 years
		return 0
	}
	ns, err := strconv.ParseInt(whole+(fraction + "000000000")[:9], 10, 64)
	if err != nil {
		return 0
	}
	return ns
}

// perfFrame reads "address symbol+0xoffset (file)". Symbols and files may have
// spaces and brackets in them.
func perfFrame(text []byte) (addr uint64, symbol, file string, ok bool) {
	at := bytes.IndexByte(text, ' ')
	if at < 0 || text[len(text)-1] != ')' {
		return 0, "", "", false
	}
	addr, err := strconv.ParseUint(string(text[:at]), 16, 64)
	if err != nil {
		return 0, "", "", false
	}
	rest := string(bytes.TrimSpace(text[at:]))
	open := -1
	if all := perfSplit.FindAllStringIndex(rest, -1); all != nil {
		open = all[len(all)-1][1] - 2
	} else if cut, deleted := strings.CutSuffix(rest, " (deleted))"); deleted {
		open = strings.LastIndex(cut, " (")
	} else {
		open = strings.LastIndex(rest, " (")
	}
	if open < 0 {
		if rest[0] != '(' {
			return 0, "", "", false
		}
		return addr, "", rest[1 : len(rest)-1], true // no symbol at all
	}
	symbol = perfOffset.ReplaceAllString(strings.TrimSpace(rest[:open]), "")
	return addr, symbol, rest[open+2 : len(rest)-1], true
}

// frame adds a frame to the open sample.
func (p *perfReader) frame(addr uint64, symbol, file string) error {
	if p.depth++; p.depth > p.lim.Depth {
		return p.lines.tooLarge("depth", p.depth, p.lim.Depth)
	}
	if file == "inlined" {
		ln, err := p.lineOf(symbol)
		p.inline = append(p.inline, ln)
		return err
	}
	var loc Location
	if file != "[unknown]" && file != "" {
		m := Mapping{File: p.b.String(strings.ToValidUTF8(file, "\uFFFD")), HasFunctions: true}
		loc.Mapping = p.b.Mapping(m)
		if int(loc.Mapping) >= p.lim.Mappings {
			return p.lines.tooLarge("mappings", int(loc.Mapping)+1, p.lim.Mappings)
		}
	}
	lns := p.inline
	p.inline = nil
	if symbol == "" || symbol == "[unknown]" {
		// Symbolised frames of one function are one location; an address is
		// kept only where it is all that is known.
		loc.Address = addr
	} else {
		ln, err := p.lineOf(symbol)
		if err != nil {
			return err
		}
		lns = append(lns, ln)
	}
	return p.push(loc, lns)
}

func (p *perfReader) push(loc Location, lns []Line) error {
	i := p.b.Location(loc, lns...)
	if int(i) >= p.lim.Locations {
		return p.lines.tooLarge("locations", int(i)+1, p.lim.Locations)
	}
	p.frames = append(p.frames, i)
	return nil
}

// lineOf is the line of a function of which only the name is known.
func (p *perfReader) lineOf(symbol string) (Line, error) {
	s := p.b.String(strings.ToValidUTF8(symbol, "\uFFFD"))
	fn := p.b.Function(Function{Name: s, SystemName: s})
	if int(fn) >= p.lim.Functions {
		return Line{}, p.lines.tooLarge("functions", int(fn)+1, p.lim.Functions)
	}
	return Line{Function: fn}, nil
}

// finish ends the open sample, if there is one.
func (p *perfReader) finish() error {
	if !p.open {
		return nil
	}
	if len(p.rows) >= p.lim.Samples {
		return p.lines.tooLarge("samples", len(p.rows)+1, p.lim.Samples)
	}
	if len(p.inline) > 0 {
		if err := p.push(Location{}, p.inline); err != nil {
			return err
		}
	}
	event, ok := p.events[p.sample.event]
	if !ok {
		event = len(p.names)
		if event+1 >= p.lim.SampleTypes { // the column "samples" is one too
			return p.lines.tooLarge("sample types", event+2, p.lim.SampleTypes)
		}
		p.events[p.sample.event] = event
		p.names, p.period = append(p.names, p.sample.event), append(p.period, false)
	}
	p.period[event] = p.period[event] || p.sample.period != 0
	comm, err := p.function(p.lines, []byte(p.sample.comm))
	if err != nil {
		return err
	}
	at := p.b.Stack(0, comm)
	for _, loc := range slices.Backward(p.frames) {
		at = p.b.Stack(at, loc)
	}
	labels := p.b.LabelSet([]SampleLabel{
		{Key: p.b.String("pid"), Num: p.sample.pid}, {Key: p.b.String("tid"), Num: p.sample.tid}})
	p.rows = append(p.rows, perfRow{at, labels, event, p.sample.period})
	if t := p.sample.at; t > 0 {
		if p.first == 0 || t < p.first { // those of several processors are not in order
			p.first = t
		}
		p.last = max(p.last, t)
	}
	p.open, p.frames, p.inline, p.depth = false, p.frames[:0], nil, 0
	return nil
}

// profile is what was read. Only now is it known which events there are, so
// the columns are made here, over the stacks that were built before.
func (p *perfReader) profile() *Profile {
	prof := p.b.Profile()
	prof.SampleTypes = []ValueType{{"samples", "count"}}
	for _, name := range p.names {
		prof.SampleTypes = append(prof.SampleTypes, ValueType{perfColumn(name), perfUnit(name)})
	}
	prof.Values = make([][]int64, len(prof.SampleTypes))
	index := map[[2]uint32]int{}
	for _, r := range p.rows {
		key := [2]uint32{r.stack, r.labels}
		i, ok := index[key]
		if !ok {
			i = len(prof.SampleStack)
			index[key] = i
			prof.SampleStack, prof.SampleLabels = append(prof.SampleStack, r.stack), append(prof.SampleLabels, r.labels)
			for t := range prof.Values {
				prof.Values[t] = append(prof.Values[t], 0)
			}
		}
		v := r.period
		if !p.period[r.event] {
			v = 1
		}
		prof.Values[0][i]++
		prof.Values[r.event+1][i] += v
	}
	prof.DefaultSampleType = prof.SampleTypes[1].Type
	prof.DurationNanos = p.last - p.first
	return prof
}

// perfColumn is an event's name; one that is called as our own column is told apart.
func perfColumn(event string) string {
	event = strings.ToValidUTF8(event, "\uFFFD")
	if event == "samples" {
		return "samples (event)"
	}
	return event
}

// perfUnit is the unit of an event's period: the clocks count nanoseconds.
func perfUnit(event string) string {
	base, _, _ := strings.Cut(event, ":")
	if base == "cpu-clock" || base == "task-clock" {
		return "nanoseconds"
	}
	return "count"
}
