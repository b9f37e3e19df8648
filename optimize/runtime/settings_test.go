package runtime

import (
	"encoding/json"
	"strings"
	"testing"
)

func num(n int64) *int64 { return &n }

// TestParseSpec: what no agent would take, and what is not understood, is refused with what is wrong.
func TestParseSpec(t *testing.T) {
	for spec, want := range map[string]string{
		`{"gogc":300,"gomemlimit":419430400,"gomaxprocs":4}`: "GOGC 300, GOMEMLIMIT 400 MiB, GOMAXPROCS 4",
		`{"gogc":-1,"gomemlimit":4194304}`:                   "GOGC off, GOMEMLIMIT 4.0 MiB",
		`{"gomemlimit":9223372036854775807}`:                 "GOMEMLIMIT none",
		` {"gomaxprocs":1} `:                                 "GOMAXPROCS 1",
		`{}`:                                                 "it sets nothing",
		``:                                                   "must be a JSON object",
		`null`:                                               "must be a JSON object",
		`{"gogc":null}`:                                      "it sets nothing",
		`{"gogc":9}`:                                         "gogc 9",
		`{"gogc":10001}`:                                     "gogc 10001",
		`{"gogc":-1}`:                                        "give a gomemlimit",
		`{"gogc":-1,"gomemlimit":9223372036854775807}`:                 "give a gomemlimit",
		`{"gomemlimit":4194303}`:                                       "4 MiB",
		`{"gomaxprocs":0}`:                                             "gomaxprocs 0",
		`{"gomaxproc":2}`:                                              "unknown field",
		`{"gogc":1.5}`:                                                 "cannot unmarshal",
		`{"gogc":100} {}`:                                              "something follows",
		`{"gomemlimit":9223372036854775808}`:                           "cannot unmarshal",
		`{"gogc":300,"cpu_rate":100}`:                                  "unknown field",
		`{"gogc":100,"gogc":` + strings.Repeat("9", 400) + `}`:         "cannot unmarshal",
		`{"gogc":` + strings.Repeat("[", 20_000):                       "exceeded max depth",
		`{"gomaxprocs":10001}`:                                         "gomaxprocs 10001",
		`{"gogc":20,"gomaxprocs":10000,"gomemlimit":268435456}` + "\n": "GOGC 20, GOMEMLIMIT 256 MiB, GOMAXPROCS 10000",
	} {
		s, err := ParseSpec(json.RawMessage(spec))
		got := s.String()
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) || (err == nil) != (s != Settings{}) {
			t.Errorf("%.60s: %s, want %s", spec, got, want)
		}
	}
}

// FuzzParseSpec: what is taken is written and read as the same, and is in its bounds.
func FuzzParseSpec(f *testing.F) {
	f.Add([]byte(`{"gogc":300,"gomemlimit":419430400,"gomaxprocs":4}`))
	f.Add([]byte(`{"gogc":-1,"gomemlimit":4194304}`))
	f.Add([]byte(`{"gomaxprocs":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSpec(b)
		if err != nil {
			return
		}
		again, err := ParseSpec(s.raw())
		if err != nil || !again.equal(s) || !s.within(again) {
			t.Errorf("%s, again %s: %v", s, again, err)
		}
		if all, ok := s.of(s); !ok || !all.equal(s) {
			t.Errorf("%s of itself is %s", s, all)
		}
	})
}

// TestOf: the settings of a snapshot that a change touches, and whether the snapshot has them.
func TestOf(t *testing.T) {
	all := Settings{num(100), num(NoLimit), num(2)}
	if got, ok := all.of(Settings{GOGC: num(300)}); !ok || !got.equal(Settings{GOGC: num(100)}) {
		t.Errorf("%v, %v", got, ok)
	}
	if _, ok := (Settings{GOGC: num(100)}).of(Settings{MaxProcs: num(1)}); ok {
		t.Error("what is not there is had")
	}
	if (Settings{GOGC: num(100)}).equal(Settings{}) || (Settings{GOGC: num(100)}).within(Settings{}) || !(Settings{}).within(all) {
		t.Error("nothing is not 100, and is within everything")
	}
}
