package runtime

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// NoLimit is GOMEMLIMIT where there is none.
const NoLimit = math.MaxInt64

// The bounds on settings, those of agents and their server (docs/format/agents.md). Agents have more, which know the machine.
const (
	leastGOGC  = 10 // below it a program does little but collect
	mostGOGC   = 10_000
	leastLimit = 4 << 20 // Go's runtime alone needs about that
	mostProcs  = 10_000
)

// Settings are what a change sets, what an agent says is in force, and what a snapshot keeps. nil is left alone, or not said.
type Settings struct {
	GOGC        *int64 `json:"gogc,omitempty"`       // percent; -1 is off
	MemoryLimit *int64 `json:"gomemlimit,omitempty"` // bytes; NoLimit is none
	MaxProcs    *int64 `json:"gomaxprocs,omitempty"` // threads that run Go code
}

// ParseSpec reads a proposal's Spec. It must set something, and nothing that no agent would take.
func ParseSpec(spec json.RawMessage) (Settings, error) {
	s, err := parse(spec)
	if err != nil {
		return Settings{}, fmt.Errorf("runtime: spec: %w", err)
	}
	switch {
	case s == Settings{}:
		err = errors.New("it sets nothing: name gogc, gomemlimit or gomaxprocs")
	case s.GOGC != nil && *s.GOGC != -1 && (*s.GOGC < leastGOGC || *s.GOGC > mostGOGC):
		err = fmt.Errorf("gogc %d: it must be %d to %d, or -1 for off", *s.GOGC, leastGOGC, mostGOGC)
	case s.GOGC != nil && *s.GOGC == -1 && (s.MemoryLimit == nil || *s.MemoryLimit == NoLimit):
		err = errors.New("gogc -1 turns the collector off: give a gomemlimit with it")
	case s.MemoryLimit != nil && *s.MemoryLimit < leastLimit:
		err = fmt.Errorf("gomemlimit %d: it must be at least %d bytes (4 MiB)", *s.MemoryLimit, int64(leastLimit))
	case s.MaxProcs != nil && (*s.MaxProcs < 1 || *s.MaxProcs > mostProcs):
		err = fmt.Errorf("gomaxprocs %d: it must be 1 to %d", *s.MaxProcs, mostProcs)
	}
	if err != nil {
		return Settings{}, fmt.Errorf("runtime: spec: %w", err)
	}
	return s, nil
}

// parse reads settings as JSON. Names that are not understood are refused, so that no setting is left out for its spelling.
func parse(b []byte) (s Settings, err error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if t := bytes.TrimSpace(b); len(t) == 0 || t[0] != '{' {
		return Settings{}, errors.New("it must be a JSON object")
	}
	if err := dec.Decode(&s); err != nil {
		return Settings{}, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return Settings{}, errors.New("something follows the object")
	}
	return s, nil
}

// raw is s as a Spec or a snapshot.
func (s Settings) raw() json.RawMessage {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // three numbers
	}
	return b
}

// pairs are the settings one by one.
func (s *Settings) pairs(o *Settings) [3][2]*int64 {
	return [3][2]*int64{{s.GOGC, o.GOGC}, {s.MemoryLimit, o.MemoryLimit}, {s.MaxProcs, o.MaxProcs}}
}

// equal says that both set the same to the same.
func (s Settings) equal(o Settings) bool {
	for _, p := range s.pairs(&o) {
		if (p[0] == nil) != (p[1] == nil) || p[0] != nil && *p[0] != *p[1] {
			return false
		}
	}
	return true
}

// within says that in has all that s sets, as s sets it.
func (s Settings) within(in Settings) bool {
	for _, p := range s.pairs(&in) {
		if p[0] != nil && (p[1] == nil || *p[0] != *p[1]) {
			return false
		}
	}
	return true
}

// of is what s has of the settings that spec sets; ok says that s has each.
func (s Settings) of(spec Settings) (out Settings, ok bool) {
	if spec.GOGC != nil {
		out.GOGC = s.GOGC
	}
	if spec.MemoryLimit != nil {
		out.MemoryLimit = s.MemoryLimit
	}
	if spec.MaxProcs != nil {
		out.MaxProcs = s.MaxProcs
	}
	for _, p := range spec.pairs(&out) {
		if p[0] != nil && p[1] == nil {
			return Settings{}, false
		}
	}
	return out, true
}

// fields are the settings one by one, to be set.
func (s *Settings) fields() [3]**int64 { return [3]**int64{&s.GOGC, &s.MemoryLimit, &s.MaxProcs} }

// plus is s with what o sets.
func (s Settings) plus(o Settings) Settings {
	for i, f := range o.fields() {
		if *f != nil {
			*s.fields()[i] = *f
		}
	}
	return s
}

// Of says that each of the settings in s is as one of specs sets it.
func (s Settings) Of(specs ...Settings) bool {
	for i, f := range s.fields() {
		if *f != nil && !slices.ContainsFunc(specs, func(o Settings) bool { v := *o.fields()[i]; return v != nil && *v == **f }) {
			return false
		}
	}
	return true
}

// shares says that both set one of the settings, whatever to.
func (s Settings) shares(o Settings) bool {
	for _, p := range s.pairs(&o) {
		if p[0] != nil && p[1] != nil {
			return true
		}
	}
	return false
}

// String is as "GOGC 300, GOMEMLIMIT 400 MiB, GOMAXPROCS 4".
func (s Settings) String() string {
	var parts []string
	if s.GOGC != nil {
		parts = append(parts, "GOGC "+gogcText(*s.GOGC))
	}
	if s.MemoryLimit != nil {
		parts = append(parts, "GOMEMLIMIT "+limitText(*s.MemoryLimit))
	}
	if s.MaxProcs != nil {
		parts = append(parts, fmt.Sprintf("GOMAXPROCS %d", *s.MaxProcs))
	}
	if parts == nil {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

func gogcText(n int64) string {
	if n < 0 {
		return "off"
	}
	return fmt.Sprint(n)
}

func limitText(n int64) string {
	if n == NoLimit {
		return "none"
	}
	return bytesText(float64(n))
}

// bytesText is bytes as "400 MiB".
func bytesText(b float64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; b >= 1024 && i < len(units)-1; i++ {
		b /= 1024
	}
	if b < 10 && i > 0 {
		return fmt.Sprintf("%.1f %s", b, units[i])
	}
	return fmt.Sprintf("%.0f %s", b, units[i])
}
