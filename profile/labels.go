package profile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/zeebo/xxh3"
)

// Names of the labels that every profile's series has. They are OpenTelemetry's
// resource attributes (service.name, service.version, service.instance.id) in
// the spelling that Prometheus-style matchers allow.
const (
	LabelService  = "service_name"
	LabelVersion  = "service_version"
	LabelInstance = "service_instance_id"
	// LabelType is the label that a store adds to name the profile type, as in
	// Pyroscope and Parca; its value is a [Type] in text. Nobody may send it.
	LabelType = "__profile_type__"
)

// Bounds on labels, so that no sender can grow a store's index without end.
// Names and counts are Prometheus's usual limits.
const (
	MaxLabels      = 30
	MaxLabelName   = 128  // bytes
	MaxLabelValue  = 2048 // bytes
	reservedPrefix = "__"
)

// Label is one name with its value.
type Label struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Labels says whose profile it is: pairs sorted by name, each name once, no
// empty value. They identify a series; a sample's own labels are [SampleLabel].
type Labels []Label

// NewLabels sorts and checks pairs. Pairs with an empty value are left out: no
// label and an empty one are the same, as in Prometheus. The error says which
// label is wrong and why.
func NewLabels(pairs ...Label) (Labels, error) {
	ls := make(Labels, 0, len(pairs))
	for _, l := range pairs {
		if err := CheckLabelName(l.Name); err != nil {
			return nil, err
		}
		if strings.HasPrefix(l.Name, reservedPrefix) {
			return nil, fmt.Errorf("label %q: names that start with %q are reserved", l.Name, reservedPrefix)
		}
		if len(l.Value) > MaxLabelValue {
			return nil, fmt.Errorf("label %q: value has %d bytes, the limit is %d", l.Name, len(l.Value), MaxLabelValue)
		}
		if !utf8.ValidString(l.Value) {
			return nil, fmt.Errorf("label %q: value is not UTF-8", l.Name)
		}
		if l.Value != "" {
			ls = append(ls, l)
		}
	}
	if len(ls) > MaxLabels {
		return nil, fmt.Errorf("%d labels, the limit is %d", len(ls), MaxLabels)
	}
	slices.SortFunc(ls, func(a, b Label) int { return cmp.Compare(a.Name, b.Name) })
	for i := 1; i < len(ls); i++ {
		if ls[i].Name == ls[i-1].Name {
			return nil, fmt.Errorf("label %q is there twice", ls[i].Name)
		}
	}
	return ls, nil
}

// CheckLabelName says why name cannot be a label's name: it must match
// [a-zA-Z_][a-zA-Z0-9_]* and be no longer than [MaxLabelName].
func CheckLabelName(name string) error {
	if len(name) == 0 || len(name) > MaxLabelName {
		return fmt.Errorf("label name %.40q has %d bytes, it must have 1 to %d", name, len(name), MaxLabelName)
	}
	for i, c := range []byte(name) {
		if !(c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && c >= '0' && c <= '9') {
			return fmt.Errorf("label name %q: character %q at %d; it must match [a-zA-Z_][a-zA-Z0-9_]*", name, c, i)
		}
	}
	return nil
}

// LabelName makes a label's name of any attribute's: every character that is
// not allowed becomes '_', so "service.name" is "service_name".
func LabelName(attr string) string {
	b := []byte(attr)
	for i, c := range b {
		if !(c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9') {
			b[i] = '_'
		}
	}
	if len(b) > 0 && b[0] >= '0' && b[0] <= '9' {
		b = append([]byte{'_'}, b...)
	}
	return string(b)
}

// Get is the value of name, "" if it is not there.
func (ls Labels) Get(name string) string {
	if i, ok := slices.BinarySearchFunc(ls, name, func(l Label, n string) int { return cmp.Compare(l.Name, n) }); ok {
		return ls[i].Value
	}
	return ""
}

// String is the labels as a matcher has them: {a="x", b="y"}.
func (ls Labels) String() string {
	var b strings.Builder
	b.WriteByte('{')
	for i, l := range ls {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s=%q", l.Name, l.Value)
	}
	b.WriteByte('}')
	return b.String()
}

// Hash is the 64-bit xxh3 of the labels: of each name and value, ended by a
// zero byte, in order.
func (ls Labels) Hash() uint64 {
	var b []byte
	for _, l := range ls {
		b = append(append(b, l.Name...), 0)
		b = append(append(b, l.Value...), 0)
	}
	return xxh3.Hash(b)
}

// Type is a profile type: the profile's name, what one column of its values
// measures and what its period is in. Its text, with colons between, is the one
// Pyroscope and Parca use: process_cpu:cpu:nanoseconds:cpu:nanoseconds.
type Type struct {
	Name   string // process_cpu, memory, goroutine, mutex, block
	Sample ValueType
	Period ValueType
}

func (t Type) String() string {
	return strings.Join([]string{t.Name, t.Sample.Type, t.Sample.Unit, t.Period.Type, t.Period.Unit}, ":")
}

// ParseType reads what [Type.String] writes.
func ParseType(s string) (Type, error) {
	f := strings.Split(s, ":")
	if len(f) != 5 || f[0] == "" || f[1] == "" {
		return Type{}, fmt.Errorf("profile type %q: it must be name:sample type:sample unit:period type:period unit, as process_cpu:cpu:nanoseconds:cpu:nanoseconds", s)
	}
	return Type{f[0], ValueType{f[1], f[2]}, ValueType{f[3], f[4]}}, nil
}

// NameOf guesses a profile's name from what it measures, as Pyroscope and Parca
// name them, for senders that do not say. A profile of unknown kind has the
// name of its first sample type.
func NameOf(p *Profile) string {
	has := func(t string) bool { return p.Column(t) >= 0 }
	switch {
	case len(p.SampleTypes) == 0:
		return "unknown"
	case has("cpu"):
		return "process_cpu"
	case has("alloc_space"), has("inuse_space"), has("alloc_objects"), has("inuse_objects"):
		return "memory"
	case has("goroutine"), has("goroutines"):
		return "goroutine"
	case has("contentions") && has("delay"):
		// Go writes block and mutex profiles with the same types; who sends one says which.
		return "contention"
	}
	if n := LabelName(p.SampleTypes[0].Type); n != "" {
		return n
	}
	return "unknown"
}
