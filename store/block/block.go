// Package block is what a block of profiles is: immutable files, in Parquet, that this
// program, ClickHouse and DuckDB read as they lie. docs/format/block.md draws
// them.
//
// A block holds the profiles of one tenant in one region whose windows start in one
// partition of time, an hour or a day. It is a folder named by its ULID, with
//
//	meta.json          what is in it, with the length and checksum of every other file; written last: a block without it is not there
//	profiles.parquet   a row for each profile and sample type: series, window, total, and which rows of samples are its
//	samples.parquet    a row for each sample: type, service, series, time, sample labels, stack, value
//	stacks.parquet     the tree of stacks: parent, frame, identity (profile.StackIDs)
//	frames.parquet     the frames of stacks: a row for each line, the innermost first
//	labels.parquet     the sets of sample labels: a row for each label; absent if there are none
//	functions.parquet  the roll-up by function, series and minute: self, cumulative, samples
//	totals.parquet     the roll-up by series and stack over the whole block; absent in blocks of the lowest level
//
// A folder that a crash left half-written has no meta.json.
package block

import (
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/zeebo/xxh3"

	"github.com/quantra-l/quantra/profile"
)

// Version of the format. A reader refuses a later one.
const Version = 1

// The files of a block.
const (
	MetaFile      = "meta.json"
	ProfilesFile  = "profiles.parquet"
	SamplesFile   = "samples.parquet"
	StacksFile    = "stacks.parquet"
	FramesFile    = "frames.parquet"
	LabelsFile    = "labels.parquet"
	FunctionsFile = "functions.parquet"
	TotalsFile    = "totals.parquet"
)

// ID is the identity of an upload, and so of a profile: the same bytes sent twice have the
// same. Its text is 32 hexadecimal digits.
type ID = xxh3.Uint128

// Level is how far a block has been compacted.
type Level int

// The levels: cut from the head; merged within an hour that is still being
// written; a whole hour; a whole day.
const (
	LevelHead Level = iota
	LevelPart
	LevelHour
	LevelDay
)

// Meta is meta.json.
type Meta struct {
	Version   int       `json:"version"`
	ULID      ulid.ULID `json:"ulid"`
	Region    string    `json:"region"`
	Tenant    string    `json:"tenant"`
	Level     Level     `json:"level"`
	Partition time.Time `json:"partition"` // start of the hour, or of the day at LevelDay, that all its windows start in; UTC
	From, To  time.Time // first start and last end of a window
	Created   time.Time `json:"created"`

	// Sources are the blocks that this one replaces: whoever sees both asks this one only.
	Sources []ulid.ULID `json:"sources,omitempty"`

	Types    []string         `json:"types"`    // profile.Type in text; sorted; samples.parquet names them by index here as well as by text
	Series   []Series         `json:"series"`   // sorted by service, name, labels; a row's series is an index here
	Services map[string]int64 `json:"services"` // service -> bytes of the block that are its, about
	// Shares are the same by service and type. Blocks of before it was written have none.
	Shares   map[string]map[string]int64 `json:"shares,omitempty"`
	Profiles int                         `json:"profiles"` // distinct uploads
	Samples  int64                       `json:"samples"`
	Stacks   int                         `json:"stacks"`

	Files map[string]File `json:"files"`
}

// Series is whose profiles they are.
type Series struct {
	Name   string         `json:"name"` // of the profile: process_cpu, memory, ...
	Labels profile.Labels `json:"labels"`
}

// File is one file's length and checksums.
type File struct {
	Bytes int64  `json:"bytes"`
	Rows  int64  `json:"rows"`
	XXH3  string `json:"xxh3"` // 128-bit xxh3 of all its bytes, 32 hexadecimal digits
	// Chunks is the 64-bit xxh3 of each ChunkBytes of the file, big endian, one after the other. So a
	// reader of a part checks what it reads.
	Chunks []byte `json:"chunks"`
	// Tail is where the file's indexes and footer begin.
	Tail int64 `json:"tail"`
}

// ChunkBytes is how much of a file one checksum of File.Chunks covers; the last covers what is left.
const ChunkBytes = 128 << 10

// Tables are strings, functions, locations, stacks and sample label sets, each distinct one once, in the same
// form as a [profile.Profile] has them. They only grow at the end, so a copy
// of the struct is a snapshot: what it reaches never changes.
type Tables struct {
	Strings   []string
	Mappings  []profile.Mapping
	Functions []profile.Function
	Lines     []profile.Line
	Locations []profile.Location
	Stacks    profile.Stacks
	StackIDs  []uint64 // of each stack, as profile.StackIDs has it
	LabelSets [][]profile.SampleLabel
}

// Row is one column of one profile.
type Row struct {
	Series, Type     uint32 // indexes into Meta.Series and Meta.Types
	ID               ID
	From, To         int64 // the window, Unix nanoseconds
	Duration, Period int64
	Total            int64
	// The samples, in columns, ordered by label set and then stack; no value is 0.
	Sets, Stacks []uint32 // into Tables.LabelSets and Tables.Stacks
	Values       []int64
}
