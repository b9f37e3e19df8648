package judge

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/quantra-l/quantra/analyze"
)

// tape reads an input from bytes: every field may be anything, and most are near what is usual.
type tape struct{ b []byte }

func (t *tape) byte() byte {
	if len(t.b) == 0 {
		return 0
	}
	c := t.b[0]
	t.b = t.b[1:]
	return c
}

func (t *tape) float() float64 {
	switch c := t.byte(); {
	case c < 200:
		return float64(c) / 100
	case c < 210:
		return []float64{math.NaN(), math.Inf(1), math.Inf(-1), -1, math.MaxFloat64, math.SmallestNonzeroFloat64, 1e18, 1e-300, 0, 1e300}[c-200]
	default:
		var b [8]byte
		t.b = t.b[copy(b[:], t.b):]
		return math.Float64frombits(binary.LittleEndian.Uint64(b[:]))
	}
}

func (t *tape) time() time.Time {
	switch c := t.byte(); {
	case c < 240:
		return noon.Add(time.Duration(int(c)-60) * window)
	case c < 245:
		return time.Time{}
	default:
		return time.Unix(int64(int32(binary.LittleEndian.Uint32([]byte{t.byte(), t.byte(), t.byte(), t.byte()})))*20, 0) // of 600 to 3300, about
	}
}

func (t *tape) member(metrics []Metric) Member {
	m := Member{Series: map[string][]Point{}, Gone: t.byte() > 230, Restarts: int(int8(t.byte())) / 60}
	if t.byte() > 128 {
		m.Started = t.time()
	}
	if t.byte() > 128 {
		m.Applied = t.time()
	}
	for _, metric := range metrics {
		at := t.time()
		step := time.Duration(t.byte()) * time.Second / 4
		value, noise := t.float(), t.float()
		for range t.byte() {
			p := Point{From: at, To: at.Add(step), Value: value, Weight: 100}
			if c := t.byte(); c > 250 {
				p = Point{From: t.time(), To: t.time(), Value: t.float(), Weight: t.float()}
			} else {
				p.Value += noise * float64(c) / 256
			}
			at = at.Add(step)
			m.Series[metric.Name] = append(m.Series[metric.Name], p)
		}
	}
	return m
}

func (t *tape) input() Input {
	in := Input{From: noon, To: noon.Add(10 * time.Minute)}
	if t.byte() > 200 {
		in.From, in.To = t.time(), t.time()
	}
	metrics := DefaultMetrics()
	for i := range metrics {
		if t.byte() > 200 {
			metrics[i].Tolerate, metrics[i].Floor, metrics[i].Bound = t.float(), t.float(), t.float()
		}
		metrics[i].Critical = t.byte() < 200
	}
	in.Metrics = metrics[:1+int(t.byte())%len(metrics)]
	for range 1 + t.byte()%8 {
		in.Treated = append(in.Treated, t.member(in.Metrics))
	}
	for range t.byte() % 8 {
		in.Control = append(in.Control, t.member(in.Metrics))
	}
	for range t.byte() % 20 {
		in.Periods = append(in.Periods, Period{From: t.time(), To: t.time(), On: t.byte() > 128})
	}
	return in
}

// empty says that nothing of a metric of the treated in the stage is a number.
func empty(in *Input, name string) bool {
	for i := range in.Treated {
		for _, p := range in.Treated[i].Series[name] {
			if !p.To.Before(in.From) && p.Weight > 0 && p.Value >= 0 && !math.IsInf(p.Value, 0) {
				return false
			}
		}
	}
	return true
}

// check is what holds of every verdict.
func check(t *testing.T, in *Input, v Verdict, guard bool) {
	t.Helper()
	if !slices.Contains([]Decision{Pass, Fail, Hold}, v.Decision) || v.Reason == "" || guard && v.Decision == Pass {
		t.Fatalf("%q: %q", v.Decision, v.Reason)
	}
	critical := 0
	for _, m := range in.Metrics {
		if !m.Critical {
			continue
		}
		critical++
		if v.Decision == Pass && empty(in, m.Name) {
			t.Fatalf("passed without %s", m.Name)
		}
	}
	if v.Decision == Pass && critical == 0 {
		t.Fatal("passed with nothing that is critical")
	}
	for _, m := range v.Metrics {
		for _, e := range []analyze.Estimate{m.Effect, m.Difference, m.PerHour} {
			if !(e.Low <= e.Value && e.Value <= e.High) {
				t.Fatalf("%s: %+v", m.Name, e)
			}
		}
		if !(m.P >= 0 && m.P <= 1) || !(m.PHarm >= 0 && m.PHarm <= 1) || !(m.E >= 0) || m.Before < 0 || m.After < 0 {
			t.Fatalf("%+v", m)
		}
	}
	if _, err := json.Marshal(v); err != nil {
		t.Fatal(err)
	}
}

// FuzzJudge: whatever comes in, there is an answer that can be written down, and nothing passes with a critical metric that is empty.
func FuzzJudge(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 60, 40, 100, 20, 60, 1, 2, 3, 4, 5, 6, 7, 8, 9})
	long := make([]byte, 4096)
	for i := range long {
		long[i] = byte(i * 37 % 251)
	}
	f.Add(long)
	odd := slices.Clone(long)
	for i := 0; i < len(odd); i += 29 {
		odd[i] = byte(200 + i%56)
	}
	f.Add(odd)
	f.Add(plain(false))
	f.Add(plain(true))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<14 {
			return
		}
		in := (&tape{b}).input()
		check(t, &in, Guard(in, Options{}), true)
		check(t, &in, Judge(in, Options{MinRequests: -1}), false)
		check(t, &in, Judge(in, Options{MinWindows: 1, MinRequests: -1, WarmUp: -1, Alpha: 0.5, HarmAlpha: 0.5}), false)
	})
}

// plain is the tape of two members a side with steady windows of one metric, that pass; or of one whose change is switched.
func plain(alone bool) []byte {
	b := append(make([]byte, 14), 1)
	for range 2 {
		b = append(b, 0, 0, 0, 0, 0, 40, 100, 10, 120) // from 10 minutes before, windows of 10 s, about 1
		for i := range 120 {
			b = append(b, byte(i*97%200))
		}
	}
	if !alone {
		return slices.Concat(b, []byte{2}, b[15:], []byte{0})
	}
	b = append(b, 0, 17)
	for i := range byte(17) {
		b = append(b, 9*i, 9*i+9, i%2*255)
	}
	return b
}

// TestPlainPasses: the fuzz target's seed does pass, so that what it asks of a pass is asked.
func TestPlainPasses(t *testing.T) {
	in := (&tape{plain(false)}).input()
	if v := Judge(in, Options{MinRequests: -1}); v.Decision != Pass {
		t.Errorf("%s: %s", v.Decision, v.Reason)
	}
}
