package judge

import (
	"fmt"
	"math"
	"strings"

	"github.com/quantra-l/quantra/analyze"
)

// words is what metrics are called in a sentence.
var words = map[string]string{"cpu_per_request": "CPU per request", "latency_p99": "p99", "rss": "RSS", "gc_cpu": "GC CPU", "cpu": "CPU", "stacks": "goroutine stacks"}

func wordOf(name string) string {
	if w, ok := words[name]; ok {
		return w
	}
	return strings.ReplaceAll(name, "_", " ")
}

// figure is a number for a person.
func figure(v float64) string {
	if v == math.Trunc(v) && math.Abs(v) < 1e6 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// signed is a relative change: 0.052 is "+5.2 %", 12 is "13 times".
func signed(v float64) string {
	if v >= 4 {
		return fmt.Sprintf("%.3g times as much", v+1)
	}
	return fmt.Sprintf("%+.1f %%", v*100)
}

func percentOf(e analyze.Estimate) string {
	return fmt.Sprintf("%s (95 %%: %s to %s)", signed(e.Value), signed(e.Low), signed(e.High))
}

// say is a metric's effect: "p99 +31.0 % (95 %: +22.1 % to +40.4 %)", of a share "errors +1.20 points (95 %: +0.80 to +1.61)".
func (x *measured) say(v *MetricVerdict) string {
	if x.log {
		return wordOf(v.Name) + " " + percentOf(v.Effect)
	}
	d := v.Difference
	if !x.share() {
		return fmt.Sprintf("%s %+.3g (95 %%: %+.3g to %+.3g)", wordOf(v.Name), d.Value, d.Low, d.High)
	}
	return fmt.Sprintf("%s %+.2f points (95 %%: %+.2f to %+.2f)", wordOf(v.Name), d.Value*100, d.Low*100, d.High*100)
}

// share says that a metric that is compared by difference is a part of 1: what is told in points.
func (x *measured) share() bool { return x.m.Floor < 1 }

// sayShift is a change for the worse on the compared scale.
func (x *measured) sayShift(y float64) string {
	if !x.log && !x.share() {
		return figure(y)
	}
	if !x.log {
		return fmt.Sprintf("%.2f points", y*100)
	}
	e := x.relative(analyze.Estimate{Value: y, Low: y, High: y})
	return fmt.Sprintf("%.1f %%", math.Abs(e.Value)*100)
}

// sayMargin is what is tolerated: "the 5.0 % that are tolerated".
func (x *measured) sayMargin() string {
	return "the " + x.sayShift(x.margin()) + " that are tolerated"
}
