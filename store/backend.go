package store

import (
	"context"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store/block"
)

// Backend keeps the blocks that the head has let go, and answers from them: a bucket
// (store/blocks), or a ClickHouse cluster (store/clickhouse). A [DB] asks its head and
// its backend, and adds up.
//
// Every question takes the blocks not to ask: those that are on their way and still answered from memory.
type Backend interface {
	// Put takes over staged blocks. When it returns nil they are durable, and
	// every question that does not exclude them is answered from them. It is idempotent by
	// ULID: after an error, or a crash, the same blocks are put again. It
	// may move the blocks' folders away. ErrUnavailable: the head keeps its data and tries again.
	Put(ctx context.Context, blocks []Staged) error

	// Select adds all samples of p to g.
	Select(ctx context.Context, p *Plan, exclude []ulid.ULID, g *Gather) error
	// Series calls add for each point of a line; points of one line and time are added up.
	Series(ctx context.Context, p *Plan, step time.Duration, groupBy []string, exclude []ulid.ULID, add func(profile.Labels, Point)) error
	// Catalog calls see for each series and type, more than once where that is easier.
	Catalog(ctx context.Context, p *Plan, exclude []ulid.ULID, see func(Known)) error
	// Profiles calls see for each profile, in no order, until it returns false.
	Profiles(ctx context.Context, p *Plan, exclude []ulid.ULID, see func(ProfileInfo) bool) error
	// Trend calls add for each minute (or longer step) of each function; points of one
	// function, line and time are added up.
	Trend(ctx context.Context, p *Plan, q TrendQuery, exclude []ulid.ULID, add func(function string, labels profile.Labels, pt TrendPoint)) error
	// Rollup adds a part for each of its sources to g.
	Rollup(ctx context.Context, p *Plan, q RollupQuery, exclude []ulid.ULID, g *RollupGather) error

	// Watch calls see for what is in blocks that were made since, then for what comes by other ways than Put of this
	// process, as soon as it is in answers; until ctx ends.
	Watch(ctx context.Context, since time.Time, see func(Change)) error

	// Recent are the uploads that came after since, so that one sent again is kept once.
	Recent(ctx context.Context, since time.Time) ([]block.ID, error)
	// Warnings is what every answer must say: a damaged block, a region that cannot be read.
	Warnings() []string
	// Usage is what there is and what it weighs.
	Usage(ctx context.Context) ([]Usage, error)
	// Healthy says what is stuck or broken; ErrUnavailable.
	Healthy() error
	Close() error
}

// Staged is a block in a local folder, whole and synced.
type Staged struct {
	Dir  string // in the store's vfs.FS
	Meta block.Meta
}

// Known is a series that there are profiles of.
type Known struct {
	Name        string
	Labels      profile.Labels
	Type        profile.Type
	Profiles    int   // rows of this type
	First, Last int64 // start of the first window and end of the last, Unix nanoseconds
}

// ProfileInfo is one profile, without its samples.
type ProfileInfo struct {
	ID       block.ID
	Name     string
	Labels   profile.Labels
	Type     profile.Type
	From, To time.Time
	Total    int64
}

// TrendQuery asks how much of a type's values functions had over time.
type TrendQuery struct {
	Query
	Functions []string      // names, exact; at least one, at most 100
	Step      time.Duration // at least a minute; points are aligned to multiples of it in Unix time
	GroupBy   []string
}

// TrendPoint is one function's values in [Time, Time+Step).
type TrendPoint struct {
	Time             time.Time
	Self, Cumulative int64 // of the query's type; a recursive function counts once a sample
	Samples          int64 // how many samples (rows with the function on the stack) that rests on
}

// TrendLine is one function in one group.
type TrendLine struct {
	Function string
	Labels   profile.Labels
	Points   []TrendPoint
}

// TrendResult is lines over time, sorted by function and labels. Minutes without the function are not there.
type TrendResult struct {
	Step     time.Duration
	Lines    []TrendLine
	Warnings []string
}

// ProfilesResult is single profiles.
type ProfilesResult struct {
	Profiles []ProfileInfo
	All      int // how many there are, those past the limit among them
	Warnings []string
}

// HeatmapQuery asks how many profiles there are by time and total.
type HeatmapQuery struct {
	Query
	Step    time.Duration // width of a column, at least a second; columns are aligned to multiples of it in Unix time
	Buckets int           // how many, 1 to MaxBuckets
	Log     bool          // buckets grow by a constant factor instead of a constant
}

// HeatmapResult is a heat map.
type HeatmapResult struct {
	Step     time.Duration
	Min, Max int64     // of the totals
	Bounds   []float64 // of the buckets, one more than there are; a total on a bound is in the lower bucket
	Columns  []HeatmapColumn
	Warnings []string
}

// HeatmapColumn counts the profiles whose windows start in [Time, Time+Step).
type HeatmapColumn struct {
	Time   time.Time
	Counts []int
}

// Usage is what a tenant's service keeps of one type in one state of storage.
type Usage struct {
	Tenant, Service string
	Type            string // profile.Type in text, "" if not told apart
	Day             time.Time
	Class           string  // "memory", "local", "standard", "archive"
	Profiles        float64 // of one with several types, each type has its part
	Bytes           int64
}
