// Package profile is what a profile is: columns of samples over a tree of
// stacks, the codec between those columns and pprof's wire format, and the
// pure operations on them: merge, diff, filter, call trees, tables, flame
// graphs.
//
// The terms are pprof's own (proto/profile.proto in github.com/google/pprof):
// a sample is a stack with one value per sample type; a stack is a list of
// locations; a location is one or more lines, more than one where the compiler
// inlined; a line is a function and a line number in it.
//
// A [Profile] holds no object per sample. Stacks form one parent-pointer tree,
// samples are parallel columns, and every operation works on dense arrays
// indexed by stack: its limit is memory bandwidth, not the garbage collector.
//
// Nothing in this package does I/O but through an io.Reader or io.Writer it is
// handed, and nothing keeps state between calls.
package profile

import "errors"

// ErrCorrupt says that bytes are not the profile they claim to be. It is the
// sentinel to branch on; the error's text says where and what was wrong.
var ErrCorrupt = errors.New("corrupt profile")

// ErrTooLarge says that a profile passes one of its reader's [Limits]. The
// error's text names the limit and the figure that passed it.
var ErrTooLarge = errors.New("profile too large")

// ValueType names what a column of values measures, and in what unit.
// {"cpu", "nanoseconds"} and {"alloc_space", "bytes"} are examples.
type ValueType struct {
	Type, Unit string
}

// Mapping is a range of a process's memory that code was loaded into.
type Mapping struct {
	Start, Limit, Offset uint64
	File, BuildID        uint32 // index into Profile.Strings

	HasFunctions, HasFilenames, HasLineNumbers, HasInlineFrames bool
}

// Function is one function of the profiled program.
type Function struct {
	Name       uint32 // index into Profile.Strings: the name a person reads
	SystemName uint32 // index into Profile.Strings: the linker's name
	File       uint32 // index into Profile.Strings
	StartLine  int64  // the line of the function's first line, 0 if unknown
}

// Line is a place in a function.
type Line struct {
	Function     uint32 // index into Profile.Functions
	Line, Column int64  // from 1; 0 if unknown
}

// Location is one frame of the machine's stack. Its lines are
// Profile.Lines[FirstLine : FirstLine+NumLines], the innermost (most inlined)
// first, as pprof has them: the last is the function that was really called.
// A location without lines was never symbolised; Address is all that is known.
type Location struct {
	Address             uint64
	Mapping             uint32 // index into Profile.Mappings; 0 is "none"
	FirstLine, NumLines uint32
	Folded              bool // other code was folded into this address by the linker
}

// SampleLabel is a key with either a string or a number, on one sample.
type SampleLabel struct {
	Key  uint32 // index into Profile.Strings
	Str  uint32 // index into Profile.Strings, 0 if the label is a number
	Num  int64
	Unit uint32 // index into Profile.Strings, of Num
}

// Stacks is a tree of stacks in columns. Node 0 is the root, the empty stack;
// node i is the stack of Parent[i] with the location Loc[i] called from it.
// Parent[i] < i for every i > 0, so one pass forwards visits callers before
// callees and one pass backwards sums callees into callers.
// (Parent, Loc) is unique: the same stack is never there twice.
type Stacks struct {
	Parent []uint32
	Loc    []uint32 // index into Profile.Locations; Loc[0] means nothing
}

// Len is the number of nodes, the root among them.
func (s *Stacks) Len() int { return len(s.Parent) }

// Profile is one profile, or the sum of many, in columns.
//
// Index 0 of Strings is the empty string. Index 0 of Mappings, of LabelSets and of
// Stacks is "none". Functions, Lines and Locations start at index 0.
// All indexes are in range: [Profile.Check] says so, and every function of this
// package that makes a Profile keeps it so. A Profile that has been handed out
// is not changed by this package, and may be read by many goroutines.
type Profile struct {
	SampleTypes       []ValueType // one per column of Values
	DefaultSampleType string      // the Type of the column to show first, "" for the last
	PeriodType        ValueType
	Period            int64 // in PeriodType.Unit, between two samples
	TimeNanos         int64 // when it was taken, in Unix nanoseconds, UTC; 0 if unknown
	DurationNanos     int64 // for how long; 0 if unknown
	Comments          []string
	DocURL            string
	DropFrames        string // regular expressions of pprof's; kept, never applied on their own
	KeepFrames        string

	Strings   []string
	Mappings  []Mapping
	Functions []Function
	Lines     []Line
	Locations []Location
	Stacks    Stacks

	// LabelSets holds each distinct set of sample labels once, sorted by key; set 0 is empty.
	LabelSets [][]SampleLabel

	// The samples, in columns of one length. Sample i is the stack
	// SampleStack[i] with the labels LabelSets[SampleLabels[i]] and the
	// values Values[t][i], t an index into SampleTypes.
	SampleStack  []uint32
	SampleLabels []uint32
	Values       [][]int64
}

// NumSamples is the length of the sample columns.
func (p *Profile) NumSamples() int { return len(p.SampleStack) }

// LinesOf is the lines of location l, the innermost first. It is empty where
// the location was never symbolised.
func (p *Profile) LinesOf(l uint32) []Line {
	loc := &p.Locations[l]
	return p.Lines[loc.FirstLine : loc.FirstLine+loc.NumLines]
}

// Column is the index of the sample type called name ("cpu",
// "alloc_space"), or -1. The empty name asks for the column to show first:
// DefaultSampleType if it is there, else the last, as `go tool pprof` chooses.
func (p *Profile) Column(name string) int {
	want := name
	if want == "" {
		want = p.DefaultSampleType
	}
	for i, t := range p.SampleTypes {
		if t.Type == want {
			return i
		}
	}
	if name != "" {
		return -1
	}
	return len(p.SampleTypes) - 1
}

// Total is the sum of column t over all samples. In the difference of two
// profiles it is the net change.
func (p *Profile) Total(t int) int64 {
	var sum int64
	for _, v := range p.Values[t] {
		sum += v
	}
	return sum
}
