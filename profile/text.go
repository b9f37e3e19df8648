package profile

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// FormatValue is v for a person, in the unit that fits: FormatValue(1500000,
// "nanoseconds") is "1.50ms". Bytes are binary with pprof's names (kB is 1024).
// A count has no unit; any other unit is written as it is.
func FormatValue(v int64, unit string) string { return formatIn(v, unit, "auto") }

func formatIn(v int64, unit, to string) string {
	f, u := scaleUnit(v, unit, to)
	s := strings.TrimSuffix(fmt.Sprintf("%.2f", f), ".00")
	if s == "0" || s == "-0" {
		return "0"
	}
	return s + u
}

// valueUnit is one unit of a family, by the names pprof knows it by.
type valueUnit struct {
	name    string
	aliases []string
	factor  float64
}

// unitFamilies are those of pprof's internal/measurement, so that our tables
// and its read alike. The first of a family's units is the base; small values
// are shown in fallback.
var unitFamilies = []struct {
	fallback       string
	fallbackFactor float64
	units          []valueUnit
}{
	{"B", 1, []valueUnit{
		{"B", []string{"b", "byte"}, 1}, {"kB", []string{"kb", "kbyte", "kilobyte"}, 1 << 10},
		{"MB", []string{"mb", "mbyte", "megabyte"}, 1 << 20}, {"GB", []string{"gb", "gbyte", "gigabyte"}, 1 << 30},
		{"TB", []string{"tb", "tbyte", "terabyte"}, 1 << 40}, {"PB", []string{"pb", "pbyte", "petabyte"}, 1 << 50}}},
	{"s", 1e9, []valueUnit{
		{"ns", []string{"ns", "nanosecond"}, 1}, {"us", []string{"μs", "us", "microsecond"}, 1e3},
		{"ms", []string{"ms", "millisecond"}, 1e6}, {"s", []string{"s", "sec", "second"}, 1e9},
		{"hrs", []string{"hour", "hr"}, 3600e9}}},
}

// scaleUnit is v in the unit to; "auto" is the largest in which it is at least 1.
func scaleUnit(v int64, from, to string) (float64, string) {
	if v < 0 && v != math.MinInt64 {
		f, u := scaleUnit(-v, from, to)
		return -f, u
	}
	for _, fam := range unitFamilies {
		find := func(name string) *valueUnit {
			name = strings.ToLower(name)
			if utf8.RuneCountInString(name) > 2 {
				name = strings.TrimSuffix(name, "s")
			}
			for i := range fam.units {
				if slices.Contains(fam.units[i].aliases, name) {
					return &fam.units[i]
				}
			}
			return nil
		}
		u := find(from)
		if u == nil {
			continue
		}
		base := float64(v) * u.factor
		if to == "auto" {
			best := valueUnit{}
			for _, c := range fam.units {
				if base/c.factor >= 1 {
					best = c
				}
			}
			if best.factor != 0 {
				return base / best.factor, best.name
			}
		} else if t := find(to); t != nil {
			return base / t.factor, t.name
		}
		return base / fam.fallbackFactor, fam.fallback
	}
	switch to {
	case "auto":
		// Not worth writing: every number is a count of something.
		if from == "" || from == "count" || from == "sample" || from == "samples" || from == "unit" || from == "objects" {
			return float64(v), ""
		}
		return float64(v), from
	case "count", "sample", "unit":
		return float64(v), ""
	}
	return float64(v), to
}

// FormatPercent is v as a share of total, six characters wide, as pprof has it.
func FormatPercent(v, total int64) string {
	r := 0.0
	if total != 0 {
		r = math.Abs(float64(v)/float64(total)) * 100
	}
	switch {
	case r >= 99.95 && r <= 100.05:
		return "  100%"
	case r >= 1:
		return fmt.Sprintf("%5.2f%%", r)
	}
	return fmt.Sprintf("%5.2g%%", r)
}

// TextOptions says how tables are written. The zero value writes every row,
// with raw counts, and percentages of the sum of self.
type TextOptions struct {
	Unit  string // of the values, as [ValueType] has it
	Total int64  // what percentages are of; 0 is the sum of self of all rows
	N     int    // rows to write; 0 is all. What is not written is counted in the header
	Diff  bool   // rows have a base: write it and the change
	Base  int64  // in a difference, the total of the base; 0 is the sum of its self
}

// tableUnit is the one unit that all values of a table are written in, so that
// a column can be compared at a glance. Like pprof it is the unit of the
// smallest value, or where the total is over 100 times that and of another
// unit, the unit of 100 times the smallest, so that the smallest is still 0.01.
func tableUnit(unit string, total int64, values func(yield func(self, total int64) bool)) string {
	least, most := uint64(0), magnitude(total)
	values(func(self, total int64) bool {
		m := cmp.Or(magnitude(self), magnitude(total))
		if m > 0 && (least == 0 || m < least) {
			least = m
		}
		most = max(most, m, magnitude(total))
		return true
	})
	_, u := scaleUnit(int64(least), unit, "auto")
	_, um := scaleUnit(int64(most), unit, "auto")
	if u != um && least < most/100 {
		_, u = scaleUnit(int64(least*100), unit, "auto")
	}
	return cmp.Or(u, "count")
}

// WriteTop writes rows as `go tool pprof -top` writes them; with opt.Diff, base,
// head and change of each instead.
func WriteTop(w io.Writer, rows []TopRow, opt TextOptions) error {
	out := bufio.NewWriter(w)
	for _, r := range rows {
		if opt.Total == 0 {
			opt.Base += r.BaseSelf
		}
	}
	if opt.Total == 0 {
		for _, r := range rows {
			opt.Total += r.Self
		}
	}
	shown := rows
	if opt.N > 0 && len(rows) > opt.N {
		shown = rows[:opt.N]
	}
	if opt.Diff {
		writeTopDiff(out, shown, opt)
	} else {
		writeTopPlain(out, shown, opt)
	}
	if len(shown) < len(rows) {
		fmt.Fprintf(out, "(%d more of %d functions)\n", len(rows)-len(shown), len(rows))
	}
	return out.Flush()
}

func writeTopPlain(out *bufio.Writer, rows []TopRow, opt TextOptions) {
	unit := tableUnit(opt.Unit, opt.Total, func(yield func(int64, int64) bool) {
		for _, r := range rows {
			yield(r.Self, r.Total)
		}
	})
	var nodes int64
	for _, r := range rows {
		nodes += r.Self
	}
	fmt.Fprintf(out, "Showing functions accounting for %s, %s of %s total\n", formatIn(nodes, opt.Unit, unit),
		strings.TrimSpace(FormatPercent(nodes, opt.Total)), formatIn(opt.Total, opt.Unit, unit))
	fmt.Fprintf(out, "%10s %5s%% %5s%% %10s %5s%%\n", "flat", "flat", "sum", "cum", "cum")
	var sum int64
	for _, r := range rows {
		sum += r.Self
		fmt.Fprintf(out, "%10s %s %s %10s %s  %s\n", formatIn(r.Self, opt.Unit, unit), FormatPercent(r.Self, opt.Total),
			FormatPercent(sum, opt.Total), formatIn(r.Total, opt.Unit, unit), FormatPercent(r.Total, opt.Total), printable(r.Name))
	}
}

// share is v as percent of total.
func share(v, total int64) float64 {
	if total == 0 {
		return 0
	}
	return 100 * float64(v) / float64(total)
}

func writeTopDiff(out *bufio.Writer, rows []TopRow, opt TextOptions) {
	unit := tableUnit(opt.Unit, opt.Total, func(yield func(int64, int64) bool) {
		for _, r := range rows {
			yield(r.Self, r.Total)
			yield(r.BaseSelf, r.BaseTotal)
		}
	})
	signed := func(v int64) string {
		s := formatIn(v, opt.Unit, unit)
		if v > 0 {
			s = "+" + s
		}
		return s
	}
	fmt.Fprintf(out, "Total %s -> %s\n", formatIn(opt.Base, opt.Unit, unit), formatIn(opt.Total, opt.Unit, unit))
	fmt.Fprintf(out, "%10s %7s %10s %7s %10s %8s %10s  %s\n", "base", "base%", "flat", "flat%", "change", "points", "cum change", "function")
	for _, r := range rows {
		a, b := share(r.BaseSelf, opt.Base), share(r.Self, opt.Total)
		fmt.Fprintf(out, "%10s %6.2f%% %10s %6.2f%% %10s %+8.2f %10s  %s\n",
			formatIn(r.BaseSelf, opt.Unit, unit), a, formatIn(r.Self, opt.Unit, unit), b,
			signed(r.Self-r.BaseSelf), b-a, signed(r.Total-r.BaseTotal), printable(r.Name))
	}
}

// printable is name with control characters replaced: a function's name must
// not be able to steer a terminal or to break a line.
func printable(name string) string {
	clean := func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' {
			return '\uFFFD'
		}
		return r
	}
	return strings.Map(clean, name)
}
