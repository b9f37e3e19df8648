package profile

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
)

// Filter chooses samples and frames as `go tool pprof` does, with its options
// and their meaning. Each field is a regular expression that is matched,
// unanchored, against a frame's function name and file name and against the
// name of the mapping it is in; "" is no filter.
type Filter struct {
	Focus    string `json:"focus,omitempty"`    // keep samples with a matching frame
	Ignore   string `json:"ignore,omitempty"`   // drop samples with a matching frame
	Hide     string `json:"hide,omitempty"`     // drop matching frames, keep the samples
	Show     string `json:"show,omitempty"`     // keep only matching frames
	ShowFrom string `json:"showFrom,omitempty"` // drop the frames that call the outermost matching one

	// TagFocus keeps, TagIgnore drops the samples with a matching label. As in
	// pprof: "key=regexp,regexp" matches if a value of key matches one of
	// them, "regexp,regexp" if each matches a label written as key:value, and
	// a number or a range with a unit ("32kb", ":64kb", "4mb:", "12kb:64mb",
	// also after "key=") compares numeric labels. One thing is ours: where pprof's
	// "key=regexp" never matches a number, here it is matched against the
	// number as [Profile.ByLabel] writes it, so that whatever is listed can be chosen.
	TagFocus  string `json:"tagFocus,omitempty"`
	TagIgnore string `json:"tagIgnore,omitempty"`
	TagShow   string `json:"tagShow,omitempty"` // keep only labels whose key matches
	TagHide   string `json:"tagHide,omitempty"` // drop labels whose key matches

	NoInlines bool `json:"noInlines,omitempty"` // count inlined frames as the function they were inlined into
}

// Filter is the profile with only what f lets through; p itself is left as it
// is, and shares tables with the result. The warnings name the expressions that
// matched nothing. The error names the field whose expression is wrong.
// A sample whose frames are all hidden is gone, as in pprof.
func (p *Profile) Filter(f Filter) (out *Profile, warnings []string, err error) {
	if f == (Filter{}) {
		return p, nil, nil
	}
	c, err := compileFilter(p, f)
	if err != nil {
		return nil, nil, err
	}
	q := *p
	stack := c.frames(p, &q)  // of each stack: what it is now, or gone
	labels := c.labels(p, &q) // of each label set likewise
	c.samples(p, &q, stack, labels)
	return &q, c.warnings(f), nil
}

// gone marks a stack or a label set whose samples are dropped.
const gone = ^uint32(0)

// filterRun is one filter at work on one profile.
type filterRun struct {
	focus, ignore, hide, show, showFrom *nameMatch
	tagFocus, tagIgnore                 func([]SampleLabel) bool
	tagShow, tagHide                    *regexp.Regexp
	noInlines                           bool

	tagFocused, tagIgnored, tagShown, tagHidden bool // matched something
}

func compileFilter(p *Profile, f Filter) (*filterRun, error) {
	c := &filterRun{noInlines: f.NoInlines}
	for _, x := range []struct {
		field, expr string
		to          **nameMatch
	}{
		{"focus", f.Focus, &c.focus}, {"ignore", f.Ignore, &c.ignore}, {"hide", f.Hide, &c.hide},
		{"show", f.Show, &c.show}, {"show_from", f.ShowFrom, &c.showFrom},
	} {
		re, err := compileExpr(x.field, x.expr)
		if err != nil {
			return nil, err
		}
		*x.to = newNameMatch(p, re)
	}
	var err error
	if c.tagShow, err = compileExpr("tagshow", f.TagShow); err != nil {
		return nil, err
	}
	if c.tagHide, err = compileExpr("taghide", f.TagHide); err != nil {
		return nil, err
	}
	if c.tagFocus, err = compileTagMatch(p, "tagfocus", f.TagFocus); err != nil {
		return nil, err
	}
	c.tagIgnore, err = compileTagMatch(p, "tagignore", f.TagIgnore)
	return c, err
}

func compileExpr(field, expr string) (*regexp.Regexp, error) {
	if expr == "" {
		return nil, nil
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, notRegexp(field, expr, err)
	}
	return re, nil
}

// notRegexp says once what is wrong: regexp's own text repeats the expression.
func notRegexp(field, expr string, err error) error {
	var e *syntax.Error
	if errors.As(err, &e) {
		return fmt.Errorf("%s: %q is not a regular expression: %s", field, expr, e.Code)
	}
	return fmt.Errorf("%s: %q is not a regular expression: %w", field, expr, err)
}

// nameMatch is a regular expression's verdict on every function and mapping,
// asked once each.
type nameMatch struct {
	function, mapping []bool
	any               bool // set by the user of the match
}

func newNameMatch(p *Profile, re *regexp.Regexp) *nameMatch {
	if re == nil {
		return nil
	}
	verdict := make([]int8, len(p.Strings)) // 0: not asked; functions share file names
	match := func(s uint32) bool {
		if verdict[s] == 0 {
			verdict[s] = -1
			if re.MatchString(p.Strings[s]) {
				verdict[s] = 1
			}
		}
		return verdict[s] > 0
	}
	m := &nameMatch{function: make([]bool, len(p.Functions)), mapping: make([]bool, len(p.Mappings))}
	for i, f := range p.Functions {
		m.function[i] = match(f.Name) || match(f.File)
	}
	for i := 1; i < len(p.Mappings); i++ { // mapping 0 is none at all
		m.mapping[i] = match(p.Mappings[i].File)
	}
	return m
}

// location says whether any line of l, or its mapping, matches.
func (m *nameMatch) location(p *Profile, l uint32) bool {
	return m.mapping[p.Locations[l].Mapping] ||
		slices.ContainsFunc(p.LinesOf(l), func(ln Line) bool { return m.function[ln.Function] })
}

// What the filters by name make of a location.
const (
	locFocus  = 1 << iota // it makes its sample one to keep
	locIgnore             // it makes its sample one to drop
	locHidden             // it is no longer in any stack
	locFrom               // show_from starts here
)

// frames applies the filters by name: it gives q its new locations and stacks,
// and returns for each stack of p its stack in q, or gone.
func (c *filterRun) frames(p, q *Profile) []uint32 {
	n := p.Stacks.Len()
	stack := make([]uint32, n)
	byName := c.focus != nil || c.ignore != nil || c.hide != nil || c.show != nil
	if !byName && c.showFrom == nil && !c.noInlines {
		for i := range stack {
			stack[i] = uint32(i)
		}
		return stack
	}
	flags := c.locations(p, q)
	q.Stacks = Stacks{Parent: append(make([]uint32, 0, n), 0), Loc: append(make([]uint32, 0, n), 0)}
	// Hiding a location can make two stacks one; otherwise they stay distinct
	// and no look-up is needed.
	merges := c.hide != nil || c.show != nil || c.showFrom != nil
	var nodes pairTable
	state := make([]uint8, n) // locFocus, locIgnore and locFrom of the stack so far
	if c.showFrom == nil {
		state[0] = locFrom
	}
	for i := 1; i < n; i++ {
		loc, parent := p.Stacks.Loc[i], p.Stacks.Parent[i]
		fl := flags[loc]
		state[i] = state[parent] | fl&(locFocus|locIgnore)
		stack[i] = stack[parent]
		if state[i]&locIgnore != 0 || fl&locHidden != 0 {
			continue
		}
		state[i] |= fl & locFrom
		if state[i]&locFrom == 0 {
			continue
		}
		at, fresh := uint32(len(q.Stacks.Parent)), true
		if merges {
			at, fresh = nodes.get(uint64(stack[parent])<<32|uint64(loc), at)
		}
		if fresh {
			q.Stacks.Parent = append(q.Stacks.Parent, stack[parent])
			q.Stacks.Loc = append(q.Stacks.Loc, loc)
		}
		stack[i] = at
	}
	for i, s := range state {
		switch {
		case byName && s&(locFocus|locIgnore) != locFocus,
			s&locFrom == 0,
			stack[i] == 0 && i != 0: // every frame is hidden
			stack[i] = gone
		}
	}
	return stack
}

// locations decides about every location, and gives q those whose lines change.
func (c *filterRun) locations(p, q *Profile) []uint8 {
	flags := make([]uint8, len(p.Locations))
	q.Locations = slices.Clone(p.Locations)
	q.Lines = slices.Clip(p.Lines)
	for l := range flags {
		loc := uint32(l)
		if c.ignore != nil && c.ignore.location(p, loc) {
			flags[l] |= locIgnore
			c.ignore.any = true
		} else if c.focus == nil || c.focus.location(p, loc) {
			flags[l] |= locFocus
			if c.focus != nil {
				c.focus.any = true
			}
		}
		lines := p.LinesOf(loc)
		kept, hidden, from := c.lines(p.Locations[l].Mapping, lines)
		if hidden {
			flags[l] |= locHidden
		}
		if from {
			flags[l] |= locFrom
		}
		if c.noInlines && len(kept) > 1 {
			kept = kept[len(kept)-1:]
		}
		if len(kept) != len(lines) {
			q.Locations[l].FirstLine, q.Locations[l].NumLines = uint32(len(q.Lines)), uint32(len(kept))
			q.Lines = append(q.Lines, kept...)
		}
	}
	return flags
}

// lines is what hide, show and show_from leave of a location's lines, in that
// order, with pprof's rules: a matching mapping stands for all of the lines,
// and a location that loses its last line is hidden. (So show hides all that
// was never symbolised, as in pprof.)
func (c *filterRun) lines(mapping uint32, lines []Line) (kept []Line, hidden, from bool) {
	kept = lines
	if m := c.hide; m != nil {
		matches := func(ln Line) bool { return m.function[ln.Function] }
		switch {
		case m.mapping[mapping]:
			kept, m.any, hidden = nil, true, true
		case slices.ContainsFunc(kept, matches):
			kept, m.any = slices.DeleteFunc(slices.Clone(kept), matches), true
			hidden = len(kept) == 0
		}
	}
	if m := c.show; m != nil {
		if !m.mapping[mapping] {
			kept = slices.DeleteFunc(slices.Clone(kept), func(ln Line) bool { return !m.function[ln.Function] })
		}
		if len(kept) == 0 {
			hidden = true
		} else {
			m.any = true
		}
	}
	if m := c.showFrom; m != nil {
		from = m.mapping[mapping]
		for i := len(kept) - 1; i >= 0 && !from; i-- {
			if m.function[kept[i].Function] {
				kept, from = kept[:i+1], true
			}
		}
		m.any = m.any || from
	}
	return kept, hidden, from
}

// labels applies the filters by label: it gives q its new label sets, and
// returns for each set of p its set in q, or gone.
func (c *filterRun) labels(p, q *Profile) []uint32 {
	to := make([]uint32, len(p.LabelSets))
	for i := range to {
		to[i] = uint32(i)
	}
	if c.tagShow != nil || c.tagHide != nil {
		c.labelKeys(p, q, to)
	}
	for i, set := range p.LabelSets {
		focused, ignored := true, false
		if c.tagFocus != nil {
			focused = c.tagFocus(set)
		}
		if c.tagIgnore != nil {
			ignored = c.tagIgnore(set)
		}
		c.tagFocused = c.tagFocused || focused
		c.tagIgnored = c.tagIgnored || ignored
		if !focused || ignored {
			to[i] = gone
		}
	}
	return to
}

// labelKeys gives q label sets of only the keys that tagshow and taghide leave.
func (c *filterRun) labelKeys(p, q *Profile, to []uint32) {
	q.LabelSets = [][]SampleLabel{nil}
	index := map[string]uint32{"": 0}
	for i, set := range p.LabelSets {
		var kept []SampleLabel
		var key strings.Builder
		for _, l := range set {
			name := p.Strings[l.Key]
			show := c.tagShow == nil || c.tagShow.MatchString(name)
			hide := c.tagHide != nil && c.tagHide.MatchString(name)
			c.tagShown, c.tagHidden = c.tagShown || show, c.tagHidden || hide
			if show && !hide {
				kept = append(kept, l)
				fmt.Fprint(&key, l.Key, ",", l.Str, ",", l.Num, ",", l.Unit, ";")
			}
		}
		at, ok := index[key.String()]
		if !ok {
			at = uint32(len(q.LabelSets))
			q.LabelSets = append(q.LabelSets, kept)
			index[key.String()] = at
		}
		to[i] = at
	}
}

// samples gives q the samples that are left, those that have become alike summed.
func (c *filterRun) samples(p, q *Profile, stack, labels []uint32) {
	n := p.NumSamples()
	q.SampleStack, q.SampleLabels = make([]uint32, 0, n), make([]uint32, 0, n)
	row := make([]uint32, n) // of each sample of p: its sample in q, or gone
	var rows pairTable
	for i := range row {
		s, l := stack[p.SampleStack[i]], labels[p.SampleLabels[i]]
		if s == gone || l == gone {
			row[i] = gone
			continue
		}
		at, fresh := rows.get(uint64(s)<<32|uint64(l), uint32(len(q.SampleStack)))
		if fresh {
			q.SampleStack, q.SampleLabels = append(q.SampleStack, s), append(q.SampleLabels, l)
		}
		row[i] = at
	}
	q.Values = make([][]int64, len(p.Values))
	for t, from := range p.Values {
		q.Values[t] = make([]int64, len(q.SampleStack))
		for i, at := range row {
			if at != gone {
				q.Values[t][at] += from[i]
			}
		}
	}
}

// warnings names the expressions that matched nothing.
func (c *filterRun) warnings(f Filter) []string {
	var out []string
	warn := func(field, expr string, matched bool) {
		if expr != "" && !matched {
			out = append(out, fmt.Sprintf("%s=%s matched nothing", field, expr))
		}
	}
	hit := func(m *nameMatch) bool { return m != nil && m.any }
	warn("focus", f.Focus, hit(c.focus))
	warn("ignore", f.Ignore, hit(c.ignore))
	warn("hide", f.Hide, hit(c.hide))
	warn("show", f.Show, hit(c.show))
	warn("show_from", f.ShowFrom, hit(c.showFrom))
	warn("tagfocus", f.TagFocus, c.tagFocused)
	warn("tagignore", f.TagIgnore, c.tagIgnored)
	warn("tagshow", f.TagShow, c.tagShown)
	warn("taghide", f.TagHide, c.tagHidden)
	return out
}

// tagRange is one end of a range of numeric labels, as "32kb".
var tagRange = regexp.MustCompile("([+-]?[[:digit:]]+)([[:alpha:]]+)?")

// compileTagMatch reads tagfocus and tagignore: see [Filter].
func compileTagMatch(p *Profile, field, expr string) (func([]SampleLabel) bool, error) {
	if expr == "" {
		return nil, nil
	}
	key, value, hasKey := strings.Cut(expr, "=")
	if !hasKey {
		key, value = "", expr
	}
	inRange, err := parseTagRange(value)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	if inRange != nil {
		units := numLabelUnits(p)
		return func(set []SampleLabel) bool {
			return slices.ContainsFunc(set, func(l SampleLabel) bool {
				return l.Str == 0 && (!hasKey || p.Strings[l.Key] == key) && inRange(l.Num, units[l.Key])
			})
		}, nil
	}
	var res []*regexp.Regexp
	for v := range strings.SplitSeq(value, ",") {
		re, err := regexp.Compile(v)
		if err != nil {
			return nil, notRegexp(field, v, err)
		}
		res = append(res, re)
	}
	if hasKey {
		units := numLabelUnits(p)
		return func(set []SampleLabel) bool {
			return slices.ContainsFunc(set, func(l SampleLabel) bool {
				if p.Strings[l.Key] != key {
					return false
				}
				text := labelText(p, l, units)
				return slices.ContainsFunc(res, func(re *regexp.Regexp) bool { return re.MatchString(text) })
			})
		}, nil
	}
	return func(set []SampleLabel) bool {
		for _, re := range res {
			if !slices.ContainsFunc(set, func(l SampleLabel) bool {
				return l.Str != 0 && re.MatchString(p.Strings[l.Key]+":"+p.Strings[l.Str])
			}) {
				return false
			}
		}
		return true
	}, nil
}

// parseTagRange is nil if expr is no range.
func parseTagRange(expr string) (func(v int64, unit string) bool, error) {
	ends := tagRange.FindAllStringSubmatch(expr, 2)
	if len(ends) == 0 {
		return nil, nil
	}
	var shape string
	switch {
	case len(ends) == 2 && expr == ends[0][0]+":"+ends[1][0]:
		shape = "a:b"
	case len(ends) == 1:
		shape = map[string]string{ends[0][0]: "a", ends[0][0] + ":": "a:", ":" + ends[0][0]: ":a"}[expr]
	}
	if shape == "" {
		return nil, nil
	}
	var at [2]float64
	unit := ends[0][2]
	for i, e := range ends {
		v, err := strconv.ParseInt(e[1], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", expr, err)
		}
		to := unit
		if i == 0 {
			to = e[2]
		}
		var u string
		at[i], u = scaleUnit(v, e[2], to)
		if i == 0 {
			unit = u
		} else if u != unit {
			return nil, nil
		}
	}
	return func(v int64, u string) bool {
		sv, su := scaleUnit(v, u, unit)
		if su != unit {
			return false
		}
		switch shape {
		case "a":
			return sv == at[0]
		case "a:":
			return sv >= at[0]
		case ":a":
			return sv <= at[0]
		}
		return sv >= at[0] && sv <= at[1]
	}, nil
}

// numLabelUnits is the unit of each numeric label's key: the first that a
// sample gives it, else pprof's guess, bytes for "request" and "alignment" and
// otherwise the key itself.
func numLabelUnits(p *Profile) map[uint32]string {
	units := map[uint32]string{}
	for _, set := range p.LabelSets {
		for _, l := range set {
			if l.Str == 0 && units[l.Key] == "" {
				units[l.Key] = p.Strings[l.Unit]
			}
		}
	}
	for k, u := range units {
		if u != "" {
			continue
		}
		switch units[k] = p.Strings[k]; units[k] {
		case "request", "alignment":
			units[k] = "bytes"
		}
	}
	return units
}
