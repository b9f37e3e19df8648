package analyze

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/quantra-l/quantra/profile"
)

// ErrNothingToCompare says that a side of a comparison has no replicate with a sample in it.
var ErrNothingToCompare = errors.New("nothing to compare")

// Bounds of one comparison, so that no input makes it grow without end.
const (
	maxReplicates       = 1000
	maxCompareFunctions = 1 << 20
	maxCompareNodes     = 1 << 22 // distinct stacks by name, of both sides together
)

// Replicate is one independent measurement: an instance, or a run. It is the unit of inference: how much replicates
// of one side differ says how sure a difference between the sides is. Two windows of one process are not independent; sum them.
type Replicate struct {
	Name    string
	Profile *profile.Profile
	Column  int     // of Profile's sample types; the same measure in all replicates of both sides
	Seconds float64 // that it covers; 0 is unknown
	// Requests is how much work was done meanwhile, in any unit that both sides count alike. 0 is unknown.
	Requests float64
}

// Cohort is one side of a comparison.
type Cohort struct {
	Name       string // "v1", a file's name
	Replicates []Replicate
}

// CompareOptions says what to assume and what to leave out. The zero value is ready.
type CompareOptions struct {
	// Q bounds the share of false ones among the differences that are called so (Benjamini and Hochberg). 0 is 0.05.
	Q float64
	// MinChange is the least difference that is worth a word, in shares. 0 is 0.001, a tenth of a point.
	MinChange float64
	// Overdispersion and Spread stand in for what cannot be measured where both sides have one replicate: how many times more a
	// count varies than a Poisson count (0 is 1.5), and how much a function's share differs from one replicate to
	// another beside that, as a coefficient of variation (0 is 0.03).
	Overdispersion float64
	Spread         float64
	// Rename tells that functions of the base are called otherwise in the head, base's name first. Those
	// that can be seen in the profiles themselves need not be told. nil is none.
	Rename map[string]string
}

func (o *CompareOptions) defaults() error {
	for _, f := range []struct {
		name     string
		value    *float64
		standard float64
		most     float64
	}{{"Q", &o.Q, 0.05, 1}, {"MinChange", &o.MinChange, 0.001, 1}, {"Overdispersion", &o.Overdispersion, 1.5, 1e6}, {"Spread", &o.Spread, 0.03, 10}} {
		if *f.value == 0 {
			*f.value = f.standard
		}
		if !(*f.value > 0) || *f.value > f.most {
			return fmt.Errorf("compare: %s is %v: it must be above 0 and at most %v", f.name, *f.value, f.most)
		}
	}
	return nil
}

// Side is what a cohort came to.
type Side struct {
	Name       string  `json:"name"`
	Replicates int     `json:"replicates"`
	Total      float64 `json:"total"`   // sum of the values, in the unit of Comparison.Sample
	Samples    float64 `json:"samples"` // that it rests on; about, where values are no samples of equal weight
	Seconds    float64 `json:"seconds,omitempty"`
	Cores      float64 `json:"cores,omitempty"` // that all replicates together kept busy: processor time by time; 0 is unknown
	// PerRequest is Total by the requests, in the unit of Comparison.Sample; zero where they are not known.
	PerRequest float64 `json:"per_request,omitempty"`
}

// Verdict is what a function's difference was judged to be.
type Verdict string

// The verdicts. All but Same, Explained and Unclear need a difference that is sure by its Q.
const (
	Same      Verdict = "same"      // no difference that could be told from noise
	Grew      Verdict = "grew"      // it costs more, and no callee is why
	Fell      Verdict = "fell"      // it costs less, likewise
	Explained Verdict = "explained" // it differs because of what it calls, or is called by: Comparison says by whom
	Shifted   Verdict = "shifted"   // cost that moved from or to another function; what holds both costs what it did
)

// Difference is a function's share before and after.
type Difference struct {
	Before Estimate `json:"before"`
	After  Estimate `json:"after"`
	Change Estimate `json:"change"` // After less Before, as shares are
	// Real is the change for the same work, as a share of the head: After less Before times [Comparison.Scale].
	Real Estimate `json:"real"`
	P    float64  `json:"p"`
	Q    float64  `json:"q"`
}

// Compared is one function in both sides.
type Compared struct {
	Function string `json:"function"`
	Was      string `json:"was,omitempty"` // its name in the base, where it is another
	File     string `json:"file,omitempty"`
	Line     int64  `json:"line,omitempty"` // of its beginning; 0 is unknown
	// Self is at the top of the stack; Full anywhere on it, once a sample; Own is Self and that of the standard
	// library that it called, up to the next function that is not of the standard library.
	Self Difference `json:"self"`
	Full Difference `json:"full"`
	Own  Difference `json:"own"`

	Verdict Verdict `json:"verdict"`
	// Metric is what the verdict was passed on: "self", "own" or "total".
	Metric string `json:"metric,omitempty"`
	// By is the function that explains it, or that cost moved from or to.
	By string `json:"by,omitempty"`
}

// Judged is the difference that the verdict was passed on.
func (c *Compared) Judged() *Difference {
	switch c.Metric {
	case "total":
		return &c.Full
	case "own":
		return &c.Own
	}
	return &c.Self
}

// Comparison is two cohorts, function by function.
type Comparison struct {
	Base   Side              `json:"base"`
	Head   Side              `json:"head"`
	Sample profile.ValueType `json:"sample"`
	// Scale is what happened to the share of a function that did not change: below 1 where others grew. ScaleBy says what
	// it was taken from: "requests", "functions" or "" where there was nothing to take it from and it is 1.
	Scale   Estimate `json:"scale"`
	ScaleBy string   `json:"scale_by,omitempty"`
	// Spread is the coefficient of variation of a function's share between replicates, beyond what counting
	// explains, as measured or assumed; SpreadDF how many degrees of freedom all functions together lend to each.
	Spread   float64 `json:"spread"`
	SpreadDF float64 `json:"spread_df"`
	Assumed  bool    `json:"assumed"` // Spread and overdispersion are assumed, not measured

	Test     string   `json:"test"`
	Warnings []string `json:"warnings,omitempty"`
	// Changes has every function of either side: causes first, then by the size of what changed, then by name.
	Changes []Compared `json:"changes"`

	moved map[string][]Moved // by cause
}

// metrics of a function.
const (
	mSelf = iota
	mFull
	mOwn
	numMetrics
)

// comparer holds what Compare gathers: sums by function, and both sides' stacks as one tree by name.
type comparer struct {
	o         CompareOptions
	ids       map[string]int32
	funcs     []compareFunc
	pkgs      map[string]int32
	sides     [2]compareSide
	trie      compareTrie
	equal     bool    // values are samples of equal weight, and those of all replicates are known
	tau2      float64 // of the spread, squared
	squares   float64 // sum of the squares of self shares
	phi0      float64 // overdispersion that functions have in common
	d0        float64 // what that is worth, in degrees of freedom
	assume    bool
	fewToFit  bool // few functions have the samples to say how much replicates differ
	scale     Estimate
	logVar    float64            // variance of log(scale)
	quantiles map[uint32]float64 // of Student's t, by degrees of freedom
}

type compareFunc struct {
	name, file string
	line       int64
	pkg        int32
	user       bool
	alias      int32 // itself, or what it is called in the head
}

// compareSide is one side's sums. Values are in samples: divided by what one is worth.
type compareSide struct {
	n        int
	weight   []float64 // of replicates: total in samples
	noise    []float64 // of replicates: what its samples are worth, by the mean of all
	moments  [numMetrics][]moments
	packages []moments
	// Of weights w = weight/sum: sum, sum w^2; coefficients of the two parts of the variance, see varianceOf.
	sum                        float64
	aVar, bVar, aResid, bResid float64
	total, samples             float64 // in values; in samples
	seconds, requests          float64
	rate                       float64   // values by time, of all replicates together
	timed                      int       // of how many that is known
	ratios                     []float64 // total by requests, of replicates
}

// moments are sums over replicates of a function's value x: enough for its share and for what is left over.
type moments struct{ x, xx, xn float64 }

func (m *moments) add(x, n float64) {
	m.x += x
	m.xx += x * x
	m.xn += x * n
}

// Compare compares two cohorts function by function.
//
// A function's share of its side is a ratio estimate: its values in all replicates by all values there, so that shares
// are those that any viewer of the summed profiles shows. Its variance has two parts: samples are counted, and
// replicates differ. The second is found from the replicates themselves, function by function, where two or three of them
// say little; so each function's variance is drawn towards what all functions show, by as much as they agree (the
// moderated variance of Smyth, "Linear models and empirical Bayes methods", 2004, on quasi-Poisson counts as in Lund et
// al., 2012). It is never below the Poisson variance of the samples.
//
// Where one function grows the shares of all others fall: nothing there became faster. So each difference is tested twice, as it is,
// and for the same work: the base's shares times [Comparison.Scale]. That is known from requests where both sides
// count them; else it is the weighted median, over functions, of head by base, as most functions do not change from one
// version to the next (the argument of Anders and Huber, 2010, for counts of another kind). The larger p-value of the two counts.
// Seconds are not used for it: two instances, or two hours, rarely have the same load.
//
// A function that differs because of what it calls is not a cause. Each sample belongs to the deepest function of its stack
// that is not of the standard library; by that partition causes are looked for first. What remains unexplained in a
// function's full share is a cause of its own. Functions that are only called otherwise are matched by their share, callers
// and callees. Where cost moved between functions and what holds both did not change, it is no regression.
func Compare(base, head Cohort, o CompareOptions) (*Comparison, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	sample, err := sameSample(base, head)
	if err != nil {
		return nil, err
	}
	c := &comparer{o: o, ids: map[string]int32{}, pkgs: map[string]int32{}, quantiles: map[uint32]float64{}, equal: true}
	if err := c.gather(base, head); err != nil {
		return nil, err
	}
	c.rename(o.Rename)
	c.fitSpread()
	c.fitScale()
	out := &Comparison{Sample: sample, moved: map[string][]Moved{}}
	out.Base, out.Head = c.side(0, base.Name, sample), c.side(1, head.Name, sample)
	c.matchRenamed()
	out.Scale, out.ScaleBy = c.scale, c.scaleBy()
	out.Spread, out.SpreadDF, out.Assumed = math.Sqrt(c.tau2), c.d0, c.assume
	out.Changes = c.changes()
	c.judge(out)
	out.Test = c.test()
	out.Warnings = c.warnings(out, base, head)
	slices.SortStableFunc(out.Changes, compareChanges)
	return out, nil
}

func compareChanges(a, b Compared) int {
	rank := func(c *Compared) int {
		switch c.Verdict {
		case Grew:
			return 0
		case Fell:
			return 1
		case Shifted:
			return 2
		}
		return 3
	}
	return cmp.Or(cmp.Compare(rank(&a), rank(&b)), cmp.Compare(math.Abs(b.Judged().Change.Value), math.Abs(a.Judged().Change.Value)),
		cmp.Compare(math.Abs(b.Full.Change.Value), math.Abs(a.Full.Change.Value)), cmp.Compare(a.Function, b.Function))
}

// sameSample is what all replicates measure.
func sameSample(base, head Cohort) (profile.ValueType, error) {
	var sample profile.ValueType
	first := ""
	for side, co := range []Cohort{base, head} {
		if len(co.Replicates) == 0 {
			return sample, fmt.Errorf("compare: %w: %s has no profile", ErrNothingToCompare, sideName(side, co.Name))
		}
		if len(co.Replicates) > maxReplicates {
			return sample, fmt.Errorf("compare: %s has %d replicates, more than %d", sideName(side, co.Name), len(co.Replicates), maxReplicates)
		}
		for i, r := range co.Replicates {
			name := cmp.Or(r.Name, fmt.Sprintf("%s, replicate %d", sideName(side, co.Name), i+1))
			if r.Profile == nil || r.Column < 0 || r.Column >= len(r.Profile.SampleTypes) {
				return sample, fmt.Errorf("compare: %s has no column %d", name, r.Column)
			}
			if r.Seconds < 0 || r.Requests < 0 || math.IsNaN(r.Seconds+r.Requests) || math.IsInf(r.Seconds+r.Requests, 0) {
				return sample, fmt.Errorf("compare: %s: seconds %v and requests %v must be finite, and not negative", name, r.Seconds, r.Requests)
			}
			t := r.Profile.SampleTypes[r.Column]
			if first == "" {
				sample, first = t, name
			}
			if t != sample {
				return sample, fmt.Errorf("compare: %s measures %s in %s, and %s %s in %s", first, sample.Type, sample.Unit, name, t.Type, t.Unit)
			}
		}
	}
	return sample, nil
}

func sideName(side int, name string) string {
	return cmp.Or(name, []string{"the base", "the head"}[side])
}

// gather reads every profile once.
func (c *comparer) gather(base, head Cohort) error {
	cohorts := [2]Cohort{base, head}
	unit, weight := 0.0, 0.0
	units := [2][]float64{}
	for side, co := range cohorts {
		for i, r := range co.Replicates {
			u, equal, err := sampleWorth(r.Profile, r.Column)
			if err != nil {
				return fmt.Errorf("compare: %s: %w", cmp.Or(r.Name, fmt.Sprintf("%s, replicate %d", sideName(side, co.Name), i+1)), err)
			}
			n := float64(r.Profile.Total(r.Column))
			c.equal = c.equal && (equal || n == 0)
			unit, weight = unit+u*n, weight+n
			units[side] = append(units[side], u)
		}
	}
	if weight == 0 {
		return fmt.Errorf("compare: %w: no replicate of either side has a sample", ErrNothingToCompare)
	}
	unit /= weight
	for side, co := range cohorts {
		s := &c.sides[side]
		for i, r := range co.Replicates {
			n := float64(r.Profile.Total(r.Column))
			if n == 0 {
				continue // it ran, or did not: nothing was seen of it
			}
			if err := c.add(side, r, unit); err != nil {
				return err
			}
			s.n++
			s.weight = append(s.weight, n/unit)
			s.noise = append(s.noise, units[side][i]/unit)
			s.total += n
			s.samples += n / units[side][i]
			s.seconds += r.Seconds
			if r.Seconds > 0 {
				s.rate += n / r.Seconds
				s.timed++
			}
			s.requests += r.Requests
			if r.Requests > 0 {
				s.ratios = append(s.ratios, n/r.Requests)
			}
		}
		if s.n == 0 {
			return fmt.Errorf("compare: %w: no replicate of %s has a sample", ErrNothingToCompare, sideName(side, co.Name))
		}
		s.coefficients()
	}
	for side := range c.sides {
		s := &c.sides[side]
		for m := range s.moments {
			s.moments[m] = grown(s.moments[m], len(c.funcs))
		}
		s.packages = grown(s.packages, len(c.pkgs))
	}
	return nil
}

func grown[T any](s []T, n int) []T {
	if len(s) >= n {
		return s
	}
	return append(s, make([]T, n-len(s))...)
}

// sampleWorth is what one sample of a column is worth, in its unit, and whether all are worth the same. Where they are not, it is the
// value by which a sum of them varies as a count would: the sum of squares by the sum. (Samples of one stack are one
// row, so it is more than the truth, and intervals are wider.)
func sampleWorth(p *profile.Profile, col int) (worth float64, equal bool, err error) {
	t := p.SampleTypes[col]
	var sum, squares float64
	for _, v := range p.Values[col] {
		if v < 0 {
			return 0, false, errors.New("it has values below 0: a difference of profiles cannot be compared")
		}
		sum += float64(v)
		squares += float64(v) * float64(v)
	}
	switch {
	case p.Period > 0 && t.Unit == p.PeriodType.Unit && (t.Type == p.PeriodType.Type || t.Type == p.PeriodType.Type+"_time"):
		return float64(p.Period), true, nil // cpu/nanoseconds: the interval between two samples
	case p.Period > 0 && p.PeriodType.Type == "space" && t.Unit == p.PeriodType.Unit:
		return float64(p.Period), true, nil // bytes: one sample for so many, of whatever object
	case t.Type == "samples" && t.Unit == "count":
		return 1, true, nil
	case sum == 0:
		return 1, false, nil
	}
	return squares / sum, false, nil
}

// coefficients are of the variance of a ratio estimate and of the sum of squares that is left over by it. With the share p,
// replicate r of the weight N varies by p(1-p)*noise*N + spread^2*spreads(p)*N^2.
func (s *compareSide) coefficients() {
	var w2 float64
	for _, n := range s.weight {
		s.sum += n
	}
	for _, n := range s.weight {
		w2 += n / s.sum * n / s.sum
	}
	for i, n := range s.weight {
		left := 1 - 2*n/s.sum + w2
		s.aResid += s.noise[i] * n * left
		s.bResid += n * n * left
		s.aVar += s.noise[i] * n / s.sum / s.sum
		s.bVar += n / s.sum * n / s.sum
	}
}

// add adds one replicate to its side.
func (c *comparer) add(side int, r Replicate, unit float64) error {
	t := profile.NewTree(r.Profile, r.Column)
	if t.Len() > maxCompareNodes || len(t.Names) > maxCompareFunctions {
		return fmt.Errorf("compare: %s has %d distinct stacks and %d functions, more than %d and %d", cmp.Or(r.Name, "a replicate"), t.Len(), len(t.Names), maxCompareNodes, maxCompareFunctions)
	}
	fn := make([]int32, len(t.Names))
	lines := startLines(r.Profile)
	for i, name := range t.Names[1:] { // the first is the root's
		fn[i+1] = c.function(name, t.Files[i+1], lines[name])
	}
	if len(c.funcs) > maxCompareFunctions {
		return fmt.Errorf("compare: more than %d functions", maxCompareFunctions)
	}
	n := float64(t.Total[0]) / unit
	values := [numMetrics][]float64{}
	for m := range values {
		values[m] = make([]float64, len(c.funcs))
	}
	packages := make([]float64, len(c.pkgs))
	onPath := make([]int32, len(c.funcs))
	node := make([]int32, t.Len())  // in the common tree
	owner := make([]int32, t.Len()) // the function that the node's samples belong to
	owner[0] = -1
	var path []int32
	for i := 1; i < t.Len(); i++ {
		for len(path) > 0 && path[len(path)-1] != t.Parent[i] {
			onPath[fn[t.Name[path[len(path)-1]]]]--
			path = path[:len(path)-1]
		}
		path = append(path, int32(i))
		f := fn[t.Name[i]]
		owner[i] = c.owner(owner[t.Parent[i]], f)
		self := float64(t.Self[i]) / unit
		values[mSelf][f] += self
		values[mOwn][owner[i]] += self
		packages[c.funcs[owner[i]].pkg] += self
		if onPath[f] == 0 {
			values[mFull][f] += float64(t.Total[i]) / unit
		}
		onPath[f]++
		node[i] = c.trie.child(node[t.Parent[i]], f, owner[i])
		c.trie.add(side, node[i], self)
	}
	if len(c.trie.parent) > maxCompareNodes {
		return fmt.Errorf("compare: more than %d distinct stacks", maxCompareNodes)
	}
	s := &c.sides[side]
	for m := range values {
		s.moments[m] = grown(s.moments[m], len(c.funcs))
		for f, x := range values[m] {
			if x != 0 {
				s.moments[m][f].add(x, n)
			}
		}
	}
	s.packages = grown(s.packages, len(c.pkgs))
	for p, x := range packages {
		if x != 0 {
			s.packages[p].add(x, n)
		}
	}
	return nil
}

// owner is whom samples at f belong to, where those of its caller belong to above (-1 is none). What runs below nothing of the program's own, as
// the collector's workers do, is its outermost function's: where exactly they are is nothing that a reader can change.
func (c *comparer) owner(above, f int32) int32 {
	if above < 0 || c.funcs[f].user {
		return f
	}
	return above
}

func (c *comparer) function(name, file string, line int64) int32 {
	if f, ok := c.ids[name]; ok {
		if fn := &c.funcs[f]; fn.line == 0 && line != 0 || fn.file == "" {
			fn.file, fn.line = cmp.Or(fn.file, file), cmp.Or(fn.line, line)
		}
		return f
	}
	pkg := packageOf(name)
	p, ok := c.pkgs[pkg]
	if !ok {
		p = int32(len(c.pkgs))
		c.pkgs[pkg] = p
	}
	f := int32(len(c.funcs))
	c.ids[name] = f
	c.funcs = append(c.funcs, compareFunc{name: name, file: file, line: line, pkg: p, user: !isStandard(name), alias: f})
	return f
}

// startLines is where each function begins, by name: its own start line, else the least line that a sample has in it.
func startLines(p *profile.Profile) map[string]int64 {
	starts, least := map[string]int64{}, map[string]int64{}
	for _, f := range p.Functions {
		if name := p.Strings[f.Name]; f.StartLine > 0 && starts[name] == 0 {
			starts[name] = f.StartLine
		}
	}
	for _, l := range p.Lines {
		name := p.Strings[p.Functions[l.Function].Name]
		if l.Line > 0 && (least[name] == 0 || l.Line < least[name]) {
			least[name] = l.Line
		}
	}
	for name, line := range least {
		if starts[name] == 0 {
			starts[name] = line
		}
	}
	return starts
}

func (c *comparer) side(i int, name string, sample profile.ValueType) Side {
	s := &c.sides[i]
	out := Side{Name: name, Replicates: s.n, Total: s.total, Samples: s.samples, Seconds: s.seconds}
	if seconds, ok := inSeconds(sample.Unit); ok && s.timed == s.n && sample.Type == "cpu" {
		out.Cores = s.rate * seconds
	}
	if len(s.ratios) == s.n {
		out.PerRequest = s.total / s.requests
	}
	return out
}

// inSeconds is how many seconds a unit of time is.
func inSeconds(unit string) (float64, bool) {
	s, ok := map[string]float64{"nanoseconds": 1e-9, "microseconds": 1e-6, "milliseconds": 1e-3, "seconds": 1}[unit]
	return s, ok
}
