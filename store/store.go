// Package store keeps profiles: what was acknowledged is on disk, and what is
// asked is summed by stack.
//
// Two kinds of implementation are meant to stand behind [Store]: the embedded
// one in this package ([Open]) and the one on a ClickHouse cluster. Callers see
// no difference, and one conformance suite holds both to it. So the interface speaks
// of uploads, label matchers and time ranges, never of files, segments or rows.
package store

import (
	"context"
	"errors"
	"time"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store/block"
)

// The words a caller branches on. The text of an error says what and where.
var (
	// ErrCorrupt: bytes at rest are not what was written.
	ErrCorrupt = errors.New("corrupt")
	// ErrUnavailable: not now; the same call may do later (closed, disk full, storage away).
	ErrUnavailable = errors.New("unavailable")
	// ErrOverloaded: a bound was reached; the same call will do after a pause.
	ErrOverloaded = errors.New("overloaded")
	// ErrInvalid: the call itself is wrong and will never do.
	ErrInvalid = errors.New("invalid")
	// ErrTooLarge: the answer would take more memory than one question may; a narrower one will do.
	ErrTooLarge = errors.New("too large")
)

// DefaultTenant is the tenant of calls that name none.
const DefaultTenant = "default"

// Upload is one profile as it arrived, with who it is of.
type Upload struct {
	Tenant string         // "" is DefaultTenant
	Name   string         // the profile's name: process_cpu, memory, ...; "" is profile.NameOf
	Labels profile.Labels // must have profile.LabelService
	// From and To are the window that was profiled, [From, To), To after From.
	From, To time.Time
	// Pprof is the profile's bytes as they came, usually gzip: what is logged.
	// Profile is the same, decoded. The store owns both after the call.
	Pprof   []byte
	Profile *profile.Profile
}

// Store keeps profiles and answers questions about them. All methods may be
// called by many goroutines. Every method ends early with ctx's error.
type Store interface {
	// Append keeps an upload. When it returns nil the upload is durable: it survives
	// a crash of the process and of the machine. When it returns an error
	// the upload may or may not be found later; sending it again is right.
	// Errors: ErrInvalid, ErrOverloaded, ErrUnavailable.
	Append(ctx context.Context, u Upload) error

	// Select sums every sample that Query names, by stack.
	Select(ctx context.Context, q Query) (*Result, error)

	// Series is the sum of values over time, one line per group.
	Series(ctx context.Context, q SeriesQuery) (*SeriesResult, error)

	// ProfileTypes, LabelNames and LabelValues say what there is in the range
	// of q, sorted; they ignore q.Type where it is zero. Labels of samples do
	// not count.
	ProfileTypes(ctx context.Context, q Query) ([]profile.Type, error)
	LabelNames(ctx context.Context, q Query) ([]string, error)
	LabelValues(ctx context.Context, name string, q Query) ([]string, error)

	// Services says, service by service and sorted by name, what there is in the range.
	Services(ctx context.Context, q Query) ([]Service, error)

	// LabelSets is each series and type there is, sorted.
	LabelSets(ctx context.Context, q Query) ([]Known, error)

	// Profiles lists single profiles: of those that Query names the limit with the largest totals, by time.
	Profiles(ctx context.Context, q Query, limit int) (*ProfilesResult, error)

	// Heatmap counts profiles by time and total.
	Heatmap(ctx context.Context, q HeatmapQuery) (*HeatmapResult, error)

	// Trend is what functions had of a type's values over time.
	Trend(ctx context.Context, q TrendQuery) (*TrendResult, error)

	// Rollup is what every function had of a type's values over time. ErrTooLarge where that is more than one question
	// may take in memory.
	Rollup(ctx context.Context, q RollupQuery) (*RollupResult, error)

	// Usage is what is kept and what it weighs, of all tenants.
	Usage(ctx context.Context) ([]Usage, error)

	// Close waits for what is under way and releases everything. What was
	// acknowledged stays.
	Close() error
}

// Query names samples.
type Query struct {
	Tenant   string // "" is DefaultTenant
	Type     profile.Type
	Matchers []Matcher // all must match
	// SampleMatchers must all match a sample's own labels (span_id, any pprof tag) for it to count. Of profiles
	// without such a sample the windows and counts still do.
	SampleMatchers []Matcher
	IDs            []block.ID // if not empty, these profiles only
	// From and To are the range, [From, To): a profile counts if its window's start is in it.
	// A zero From is "since ever", a zero To "until ever".
	From, To time.Time
}

// Result is a sum of samples, with its doubt.
type Result struct {
	// Profile has one sample type, that of the query. Addresses of frames that have a
	// function are left out, as are mappings' addresses: what was merged ran in many processes.
	// Its sample labels are kept.
	Profile *profile.Profile
	// Profiles and Series count what was summed. Both 0 and an empty Profile
	// where nothing matched.
	Profiles, Series int
	// From and To bound the windows that were really there.
	From, To time.Time
	// Warnings say, each in a sentence, why the answer may mislead.
	Warnings []string
}

// SeriesQuery asks for values over time.
type SeriesQuery struct {
	Query
	Step    time.Duration // width of a point, at least a second; points are aligned to multiples of it in Unix time
	GroupBy []string      // labels to group by; none is one line for all
}

// SeriesResult is lines over time, sorted by labels.
type SeriesResult struct {
	Step     time.Duration
	Lines    []SeriesLine
	Warnings []string
}

// SeriesLine is one group's sum over time. Points without a profile are not there.
type SeriesLine struct {
	Labels profile.Labels
	Points []Point
}

// Point is the sum of the values of all profiles whose window starts in [Time, Time+Step).
type Point struct {
	Time     time.Time
	Value    int64
	Profiles int
}

// Service is what there is of one service.
type Service struct {
	Name      string
	Types     []profile.Type
	Versions  []string
	Instances int
	Profiles  int
	First     time.Time // start of the first window in the range
	Last      time.Time // end of the last
}
