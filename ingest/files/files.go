// Package files reads what profilers leave in files, whatever wrote it: pprof,
// folded stacks, the text of perf script, speedscope, V8's .cpuprofile, Chrome's
// traces and recordings of Java's Flight Recorder, each raw or compressed with gzip
// or zstd. What a file is, its bytes say, not its name.
//
// Errors wrap [profile.ErrCorrupt] or [profile.ErrTooLarge]; all is bound by
// [profile.Limits].
package files

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/quantra-l/quantra/ingest/formats"
	"github.com/quantra-l/quantra/ingest/jfr"
	"github.com/quantra-l/quantra/profile"
)

// The formats, as they are named to [Read].
const (
	Pprof      = "pprof"
	Folded     = "folded"
	Perf       = "perf"
	Speedscope = "speedscope"
	CPUProfile = "cpuprofile" // V8's: Node's --cpu-prof, DevTools' JavaScript profiler
	Chrome     = "chrome"     // the CPU profiles of a trace
	JFR        = "jfr"
)

// Formats are all of them.
func Formats() []string {
	return []string{Pprof, Folded, Perf, Speedscope, CPUProfile, Chrome, JFR}
}

// Understood says them to a person.
const Understood = "understood are pprof, folded stacks (a;b;c 12), the text of perf script, speedscope, V8's .cpuprofile, Chrome's trace and Java's Flight Recorder, raw, gzip or zstd"

// Options are the choices of [Read]; the zero value finds out what a file is.
type Options struct {
	Format string // one of [Formats]; "" looks
	Rate   int    // samples of CPU a second in a Flight Recorder's file, which does not say; 0 is 100
	Size   int64  // bytes that there are to read, where that is known: a file that is too large is then not read at all; 0 is not known
	Limits profile.Limits
}

// File is what was read of a file. It has at least one profile.
type File struct {
	Format   string
	Profiles []Named
}

// Named is one profile of a file. Name is "" where the format has none: all but Flight Recorder's have one profile without.
type Named struct {
	Name    string
	Profile *profile.Profile
}

// maxWhole bounds the formats that are read as a whole (JSON and recordings), in bytes: they take some eight times that in memory.
const maxWhole = 256 << 20

// maxFile is what profile.Limits says for 0, of Compressed and Decoded.
const maxFile = 1 << 30

// Read reads a file of any format.
func Read(r io.Reader, o Options) (*File, error) {
	// No format may be larger: text is bound by Decoded, all else by Compressed as well.
	if most := max(cmp.Or(o.Limits.Compressed, maxFile), cmp.Or(o.Limits.Decoded, maxFile)); o.Size > most && o.Limits.Compressed >= 0 && o.Limits.Decoded >= 0 {
		return nil, fmt.Errorf("%w: it has %d bytes, the limit of a file is %d", profile.ErrTooLarge, o.Size, most)
	}
	const head = 160 << 10 // as profile.Read, which then reads on in the same buffer
	in := bufio.NewReaderSize(r, head)
	raw, err := in.Peek(head)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if len(raw) == 0 {
		return nil, fmt.Errorf("%w: it is empty; %s", profile.ErrCorrupt, Understood)
	}
	open, start := profile.Unpack(raw)
	format := o.Format
	if format == "" {
		if what := foreign(start); what != "" {
			return nil, fmt.Errorf("%w: %s", profile.ErrCorrupt, what)
		}
		format = whole(start)
	}
	switch format {
	case "": // of the formats of package profile, or none
		p, found, err := profile.Read(in, o.Limits)
		if found == "" {
			return nil, fmt.Errorf("%w: it starts with %.40q; %s", profile.ErrCorrupt, start, Understood)
		}
		return one(names[found], p, err)
	case Pprof:
		p, err := profile.Decode(in, o.Limits)
		return one(format, p, err)
	}
	plain, err := open(in)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", profile.ErrCorrupt, err)
	}
	if c, ok := plain.(io.Closer); ok {
		defer c.Close()
	}
	switch format {
	case Folded:
		p, err := profile.ParseFolded(plain, o.Limits)
		return one(format, p, err)
	case Perf:
		p, err := profile.ParsePerfScript(plain, o.Limits)
		return one(format, p, err)
	}
	b, err := all(plain, o.Limits)
	if err != nil {
		return nil, err
	}
	return parse(b, format, o)
}

// foreign says of what starts with start, and is no profile though people take it for one, what it is and what to do; "" of all else.
// Their first bytes: perf's tools/perf/util/header.c (of recordings and of those to a pipe), the ELF specification, Go's
// internal/trace/version.
func foreign(start []byte) string {
	for _, f := range []struct{ magic, what string }{
		{"PERFILE2", perfData}, {"2ELIFREP", perfData},
		{"\x7fELF", "it is a program, not a profile; quantraband symbols upload reads the names of its functions"},
	} {
		if bytes.HasPrefix(start, []byte(f.magic)) {
			return f.what
		}
	}
	if head := start[:min(len(start), 16)]; bytes.HasPrefix(head, []byte("go 1.")) && bytes.Contains(head, []byte(" trace\x00")) { // without the second, a stack may begin so
		return "it is an execution trace of Go, not a profile: go tool trace -pprof=net|sync|syscall|sched FILE makes one of it"
	}
	return ""
}

const perfData = "it is perf's recording (perf.data), which only perf of that machine reads: give what perf script -i FILE prints"

// names are the formats that package profile finds.
var names = map[string]string{profile.FormatPprof: Pprof, profile.FormatFolded: Folded, profile.FormatPerf: Perf}

// anyJSON is one of those that are JSON: which, only the whole tells.
const anyJSON = "json"

// whole is the format of data that starts with start, where it is one that is read as a whole.
func whole(start []byte) string {
	text := bytes.TrimLeft(start, " \t\r\n")
	switch {
	case bytes.HasPrefix(start, []byte("FLR\x00")):
		return JFR
	case len(text) > 1 && text[0] == '{' && slices.Contains([]byte(" \t\r\n\"}"), text[1]), len(text) > 1 && text[0] == '[' && slices.Contains([]byte(" \t\r\n{]"), text[1]):
		return anyJSON // a folded stack may begin with a bracket: [unknown];a 12
	}
	return ""
}

func one(format string, p *profile.Profile, err error) (*File, error) {
	if errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, profile.ErrCorrupt) {
		return nil, fmt.Errorf("%w: it is cut short: %w", profile.ErrCorrupt, err)
	}
	if err != nil {
		return nil, err
	}
	return &File{format, []Named{{"", p}}}, nil
}

// all reads the rest, within the bounds.
func all(r io.Reader, lim profile.Limits) ([]byte, error) {
	bound := cmp.Or(lim.Decoded, maxWhole)
	if bound < 0 || bound > maxWhole {
		bound = maxWhole
	}
	b, err := io.ReadAll(io.LimitReader(r, bound+1))
	switch {
	case int64(len(b)) > bound:
		return nil, fmt.Errorf("%w: more than %d bytes, the limit of this format", profile.ErrTooLarge, bound)
	case err != nil && len(b) > 0:
		return nil, fmt.Errorf("%w: after %d bytes: %w", profile.ErrCorrupt, len(b), err)
	}
	return b, err
}

// parse reads one of the formats that are read as a whole.
func parse(b []byte, format string, o Options) (*File, error) {
	if format == anyJSON {
		if format = formats.Sniff(b); format == "" {
			return nil, fmt.Errorf("%w: it is JSON of another kind, or cut short; %s", profile.ErrCorrupt, Understood)
		}
	}
	switch format {
	case Speedscope:
		p, err := formats.ParseSpeedscope(b, o.Limits)
		return one(format, p, err)
	case CPUProfile:
		p, err := formats.ParseCPUProfile(b, o.Limits)
		return one(format, p, err)
	case Chrome:
		p, err := formats.ParseChromeTrace(b, o.Limits)
		return one(format, p, err)
	case JFR:
		named, err := jfr.Parse(b, jfr.Options{Rate: o.Rate, Limits: o.Limits})
		if err != nil {
			return nil, err
		}
		f := &File{Format: format}
		for _, n := range named {
			f.Profiles = append(f.Profiles, Named{n.Name, n.Profile})
		}
		if len(f.Profiles) == 0 {
			return nil, fmt.Errorf("%w: the recording has no sample, allocation or wait", profile.ErrCorrupt)
		}
		return f, nil
	}
	return nil, fmt.Errorf("format %q is none of %s", format, strings.Join(Formats(), ", "))
}

// Main is the profile to show first: of CPU time where there is one.
func (f *File) Main() *profile.Profile {
	at := slices.IndexFunc(f.Profiles, func(n Named) bool { return n.Name == "process_cpu" })
	return f.Profiles[max(at, 0)].Profile
}

// Window is when a profile was, in Unix nanoseconds, and by what that is known: "file" where it says both, "length" where it says for how long
// and modified is when it ended, "modified" where it says nothing: then it is the 10 s before.
func Window(p *profile.Profile, modified int64) (from, until int64, by string) {
	const unknown = 10e9
	switch length := p.DurationNanos; {
	case p.TimeNanos > 0 && length >= 0 && length <= math.MaxInt64-p.TimeNanos:
		return p.TimeNanos, p.TimeNanos + max(length, 1e6), "file"
	case length > 0 && length < modified:
		return modified - max(length, 1e6), modified, "length"
	}
	return modified - unknown, modified, "modified"
}
