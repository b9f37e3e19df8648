// Package gcp is what Google Cloud Profiler's agents say and are told, version 2 of its API (google/devtools/cloudprofiler/v2/profiler.proto of
// Google's published API definitions), and who is asked for which profile when.
//
// An agent calls CreateProfile with the kinds of profiles that it can take. The call hangs until one is to be taken, and the answer says of
// which kind and how long; the agent takes it and calls UpdateProfile with it. So it is the server that sets the pace ([Pacer]).
//
// Go's and Java's agents speak gRPC, Python's and Node's the same messages as JSON: both are read here, and bounded.
package gcp

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/quantra-l/quantra/profile"
)

// Kind is a kind of profile, numbered as the protocol does.
type Kind int32

// The kinds. A kind of 0 is none.
const (
	CPU        Kind = 1
	Wall       Kind = 2
	Heap       Kind = 3
	Threads    Kind = 4
	Contention Kind = 5
	PeakHeap   Kind = 6
	HeapAlloc  Kind = 7
)

var kinds = []string{"PROFILE_TYPE_UNSPECIFIED", "CPU", "WALL", "HEAP", "THREADS", "CONTENTION", "PEAK_HEAP", "HEAP_ALLOC"}

// String is the kind's name in the protocol.
func (k Kind) String() string {
	if k.known() {
		return kinds[k]
	}
	return strconv.Itoa(int(k))
}

func (k Kind) known() bool { return k > 0 && int(k) < len(kinds) }

// Timed says that a profile of this kind covers a time, rather than a moment.
func (k Kind) Timed() bool { return k == CPU || k == Wall || k == Contention || k == HeapAlloc }

// UnmarshalJSON reads a name or a number, as protobuf's JSON has both.
func (k *Kind) UnmarshalJSON(b []byte) error {
	var name string
	if json.Unmarshal(b, &name) != nil {
		return json.Unmarshal(b, (*int32)(k))
	}
	for i := range kinds {
		if kinds[i] == name {
			*k = Kind(i)
			return nil
		}
	}
	return fmt.Errorf("profile type %.40q is none of %v", name, kinds[1:])
}

// Deployment is the service that an agent belongs to.
type Deployment struct {
	Project string            `json:"projectId,omitempty"`
	Target  string            `json:"target,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"` // zone, version, language
}

// Profile is a profile that was asked for, or that came.
type Profile struct {
	Name       string // projects/PROJECT/profiles/ID
	Kind       Kind
	Deployment Deployment
	Duration   time.Duration
	Start      time.Time // zero where it is not said
	Bytes      []byte    // pprof
	Labels     map[string]string
}

// Create is a request for what to profile.
type Create struct {
	Parent     string // projects/PROJECT
	Deployment Deployment
	Kinds      []Kind // at least one, each once, all known
}

// maxKinds bounds the kinds of a request; the protocol has 7.
const maxKinds = 64

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: message of Cloud Profiler's: %s", profile.ErrCorrupt, fmt.Sprintf(format, args...))
}

// ReadCreate reads CreateProfileRequest. Errors wrap [profile.ErrCorrupt].
func ReadCreate(b []byte, asJSON bool) (Create, error) {
	var c Create
	if asJSON {
		var q struct {
			Parent     string     `json:"parent"`
			Deployment Deployment `json:"deployment"`
			Kinds      []Kind     `json:"profileType"`
		}
		if err := json.Unmarshal(b, &q); err != nil {
			return c, corrupt("%v", err)
		}
		c = Create{q.Parent, q.Deployment, q.Kinds}
	} else if err := fields(b, func(num protowire.Number, v uint64, b []byte) (err error) {
		switch num {
		case 1:
			err = c.Deployment.read(b)
		case 2:
			if b == nil {
				c.Kinds = append(c.Kinds, Kind(v))
			}
			for n := 0; len(b) > 0 && len(c.Kinds) <= maxKinds; b = b[n:] {
				if v, n = protowire.ConsumeVarint(b); n < 0 {
					return protowire.ParseError(n)
				}
				c.Kinds = append(c.Kinds, Kind(v))
			}
		case 4:
			c.Parent = string(b)
		}
		if len(c.Kinds) > maxKinds {
			return fmt.Errorf("more than %d profile types", maxKinds)
		}
		return err
	}); err != nil {
		return c, corrupt("%v", err)
	}
	// A kind of a later version of the protocol is not asked for.
	known, seen := c.Kinds[:0], map[Kind]bool{}
	for _, k := range c.Kinds[:min(len(c.Kinds), maxKinds)] {
		if k.known() && !seen[k] {
			seen[k] = true
			known = append(known, k)
		}
	}
	if c.Kinds = known; len(known) == 0 {
		return c, corrupt("it names no profile type of %v", kinds[1:])
	}
	if c.Deployment.Target == "" {
		return c, corrupt("deployment.target is empty: it is the service's name")
	}
	return c, c.Deployment.check()
}

// ReadProfile reads UpdateProfileRequest, or CreateOfflineProfileRequest, whose profile is its field 2. As JSON it is the profile alone.
func ReadProfile(b []byte, asJSON, offline bool) (p Profile, err error) {
	if asJSON {
		return readProfileJSON(b)
	}
	want, found := protowire.Number(1), false
	if offline {
		want = 2
	}
	err = fields(b, func(num protowire.Number, _ uint64, b []byte) error {
		if num != want {
			return nil
		}
		found = true
		return p.read(b)
	})
	if err == nil && !found {
		err = fmt.Errorf("it has no profile")
	}
	if err != nil {
		return p, corrupt("%v", err)
	}
	return p, p.check()
}

// readProfileJSON takes a profile, and one wrapped in a request, as JSON over gRPC's own paths has it.
func readProfileJSON(b []byte) (p Profile, err error) {
	type inner struct {
		Name       string            `json:"name"`
		Kind       Kind              `json:"profileType"`
		Deployment Deployment        `json:"deployment"`
		Duration   string            `json:"duration"`
		Start      time.Time         `json:"startTime"`
		Bytes      []byte            `json:"profileBytes"`
		Labels     map[string]string `json:"labels"`
	}
	var q struct {
		inner
		Profile *inner `json:"profile"`
	}
	if err := json.Unmarshal(b, &q); err != nil {
		return p, corrupt("%v", err)
	}
	if q.Profile != nil {
		q.inner = *q.Profile
	}
	p = Profile{q.Name, q.Kind, q.Deployment, 0, q.Start, q.Bytes, q.Labels}
	if q.Duration != "" {
		if p.Duration, err = time.ParseDuration(q.Duration); err != nil {
			return p, corrupt("duration %.40q is none, as in 10s", q.Duration)
		}
	}
	return p, p.check()
}

func (p *Profile) check() error {
	if len(p.Labels) > profile.MaxLabels {
		return corrupt("the profile has %d labels, the limit is %d", len(p.Labels), profile.MaxLabels)
	}
	if p.Duration < 0 {
		return corrupt("the profile's duration is negative: %v", p.Duration)
	}
	return p.Deployment.check()
}

func (d *Deployment) check() error {
	if len(d.Labels) > profile.MaxLabels {
		return corrupt("the deployment has %d labels, the limit is %d", len(d.Labels), profile.MaxLabels)
	}
	return nil
}

func (p *Profile) read(b []byte) error {
	return fields(b, func(num protowire.Number, v uint64, b []byte) (err error) {
		switch num {
		case 1:
			p.Name = string(b)
		case 2:
			p.Kind = Kind(v)
		case 3:
			err = p.Deployment.read(b)
		case 4:
			p.Duration, err = readDuration(b)
		case 5:
			p.Bytes = b
		case 6:
			err = readLabel(&p.Labels, b)
		case 7: // google.protobuf.Timestamp has the fields of a Duration
			var since time.Duration
			if since, err = readDuration(b); err == nil {
				p.Start = time.Unix(0, int64(since))
			}
		}
		return err
	})
}

func (d *Deployment) read(b []byte) error {
	return fields(b, func(num protowire.Number, _ uint64, b []byte) error {
		switch num {
		case 1:
			d.Project = string(b)
		case 2:
			d.Target = string(b)
		case 3:
			return readLabel(&d.Labels, b)
		}
		return nil
	})
}

func readLabel(to *map[string]string, b []byte) error {
	var key, value string
	err := fields(b, func(num protowire.Number, _ uint64, b []byte) error {
		switch num {
		case 1:
			key = string(b)
		case 2:
			value = string(b)
		}
		return nil
	})
	if *to == nil {
		*to = map[string]string{}
	}
	if (*to)[key] = value; len(*to) > profile.MaxLabels {
		return fmt.Errorf("more than %d labels", profile.MaxLabels)
	}
	return err
}

func readDuration(b []byte) (time.Duration, error) {
	var seconds, nanos int64
	err := fields(b, func(num protowire.Number, v uint64, _ []byte) error {
		switch num {
		case 1:
			seconds = int64(v)
		case 2:
			nanos = int64(int32(v))
		}
		return nil
	})
	if err == nil && (seconds < 0 || seconds > 1<<33 || nanos < 0 || nanos >= 1e9) { // 2^33 s are 272 years: 64 bits of nanoseconds have them
		err = fmt.Errorf("a time of %d s and %d ns is out of bounds", seconds, nanos)
	}
	return time.Duration(seconds)*time.Second + time.Duration(nanos), err
}

// fields calls do for each field of a message: a number, or bytes, which are then not nil. Fields of other kinds are none of this protocol's.
func fields(b []byte, do func(num protowire.Number, v uint64, b []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		var v uint64
		var field []byte
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			if field, n = protowire.ConsumeBytes(b); n >= 0 && field == nil {
				field = []byte{}
			}
		default:
			if n = protowire.ConsumeFieldValue(num, typ, b); n >= 0 {
				b = b[n:]
				continue
			}
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := do(num, v, field); err != nil {
			return fmt.Errorf("field %d: %w", num, err)
		}
		b = b[n:]
	}
	return nil
}

// Append appends the profile as the protocol has it, without its bytes: agents that sent them want none back.
func (p *Profile) Append(dst []byte, asJSON bool) ([]byte, error) {
	if asJSON {
		b, err := json.Marshal(struct {
			Name       string            `json:"name"`
			Kind       string            `json:"profileType"`
			Deployment Deployment        `json:"deployment"`
			Duration   string            `json:"duration,omitempty"`
			Labels     map[string]string `json:"labels,omitempty"`
		}{p.Name, p.Kind.String(), p.Deployment, durationJSON(p.Duration), p.Labels})
		return append(dst, b...), err
	}
	dst = text(dst, 1, p.Name)
	dst = protowire.AppendVarint(protowire.AppendTag(dst, 2, protowire.VarintType), uint64(p.Kind))
	d := labels(text(text(nil, 1, p.Deployment.Project), 2, p.Deployment.Target), 3, p.Deployment.Labels)
	dst = protowire.AppendBytes(protowire.AppendTag(dst, 3, protowire.BytesType), d)
	if p.Duration > 0 {
		d = protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(p.Duration/time.Second))
		d = protowire.AppendVarint(protowire.AppendTag(d, 2, protowire.VarintType), uint64(p.Duration%time.Second))
		dst = protowire.AppendBytes(protowire.AppendTag(dst, 4, protowire.BytesType), d)
	}
	return labels(dst, 6, p.Labels), nil
}

// durationJSON is a duration as protobuf's JSON has it: seconds with an s, and nothing for none.
func durationJSON(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "s"
}

func text(dst []byte, num protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(dst, num, protowire.BytesType), s)
}

func labels(dst []byte, num protowire.Number, m map[string]string) []byte {
	for k, v := range m {
		dst = protowire.AppendBytes(protowire.AppendTag(dst, num, protowire.BytesType), text(text(nil, 1, k), 2, v))
	}
	return dst
}
