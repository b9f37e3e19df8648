package otlp

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/quantra-l/quantra/profile"
)

// Wire encoding by hand: the decoder has no other half in this package.

func varint(b []byte, field protowire.Number, n uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), n)
}

func sub(b []byte, field protowire.Number, in []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), in)
}

func packed(ns ...uint64) (b []byte) {
	for _, n := range ns {
		b = protowire.AppendVarint(b, n)
	}
	return b
}

// dictionary has two frames, main.main and main.work, and an attribute for each of names.
func dictionary(names ...string) []byte {
	var b []byte
	for i := range 5 {
		if i != 4 {
			b = sub(b, protowire.Number([]int{1, 2, 3, 4, 0}[i]), nil)
		}
	}
	b = sub(sub(b, 6, nil), 7, nil)
	strings := append([]string{"", "samples", "count", "cpu", "nanoseconds", "main.main", "main.work", "process.executable.name"}, names...)
	for _, s := range strings {
		b = sub(b, 5, []byte(s))
	}
	for i := range uint64(2) {
		b = sub(b, 3, varint(nil, 1, 5+i))
		b = sub(b, 2, sub(nil, 3, varint(varint(nil, 1, i+1), 2, 10*i+3)))
	}
	b = sub(b, 7, sub(nil, 1, packed(2, 1)))
	for i := range names {
		b = sub(b, 6, sub(varint(nil, 1, 7), 2, varint(nil, 8, uint64(8+i))))
	}
	return b
}

func typed(fields []byte) []byte {
	b := sub(nil, 1, varint(varint(nil, 1, 1), 2, 2))
	b = protowire.AppendFixed64(protowire.AppendTag(b, 3, protowire.Fixed64Type), 1_777_000_000_000_000_000)
	b = varint(b, 4, 10_000_000_000)
	b = sub(b, 5, varint(varint(nil, 1, 3), 2, 4))
	return append(varint(b, 6, 10_000_000), fields...)
}

func request(dict []byte, profiles ...[]byte) []byte {
	var scope []byte
	for _, p := range profiles {
		scope = sub(scope, 2, p)
	}
	b := sub(nil, 1, sub(sub(nil, 1, nil), 2, scope))
	if dict != nil {
		b = sub(b, 2, dict)
	}
	return b
}

func one(t *testing.T, b []byte) Profile {
	t.Helper()
	out, rejected, err := Decode(b, profile.Limits{})
	if err != nil || len(rejected) > 0 || len(out) != 1 {
		t.Fatalf("%d profiles, %v, %v", len(out), rejected, err)
	}
	if err := out[0].Profile.Check(); err != nil {
		t.Fatal(err)
	}
	return out[0]
}

// TestCollector reads what the collector's own code has written of one request, in both forms.
func TestCollector(t *testing.T) {
	for ext, decode := range map[string]func([]byte, profile.Limits) ([]Profile, []*Rejected, error){"binpb": Decode, "json": DecodeJSON} {
		b, err := os.ReadFile("testdata/collector-0.165.0." + ext)
		if err != nil {
			t.Fatal(err)
		}
		out, rejected, err := decode(b, profile.Limits{})
		if err != nil || len(rejected) > 0 || len(out) != 1 {
			t.Fatalf("%s: %d profiles, %v, %v", ext, len(out), rejected, err)
		}
		p := out[0]
		if err := p.Profile.Check(); err != nil {
			t.Fatal(err)
		}
		var folded strings.Builder
		if err := profile.WriteFolded(&folded, p.Profile, 0); err != nil || folded.String() != "main.main;main.work 7\n" {
			t.Errorf("%s: %q %v", ext, &folded, err)
		}
		var labels []string
		for _, l := range p.Profile.LabelSets[p.Profile.SampleLabels[0]] {
			labels = append(labels, p.Profile.Strings[l.Key]+"="+p.Profile.Strings[l.Str])
		}
		if got := strings.Join(labels, " "); got != "span_id=0102030405060708 thread_name=worker-1 trace_id=0102030405060708090a0b0c0d0e0f10" {
			t.Errorf("%s: %s", ext, got)
		}
		if p.Service != "client.test" || get(p.Resource, "service.version") != "v1" || p.Profile.Period != 10_000_000 || p.Profile.DurationNanos != 10_000_000_000 || p.Profile.TimeNanos != 1_777_895_940_000_000_000 {
			t.Errorf("%s: %q %v, period %d, %d for %d", ext, p.Service, p.Resource, p.Profile.Period, p.Profile.TimeNanos, p.Profile.DurationNanos)
		}
		if m := p.Profile.Mappings; len(m) != 2 || p.Profile.Strings[m[1].BuildID] != "abcdef" || p.Profile.Strings[m[1].File] != "/usr/bin/program" || m[1].Start != 4096 {
			t.Errorf("%s: %+v", ext, m)
		}
		if f := p.Profile.Functions; f[0].StartLine+f[1].StartLine != 12 {
			t.Errorf("%s: %+v", ext, f)
		}
	}
}

// TestValues: a sample's value is the sum of its values, or how many timestamps it has.
func TestValues(t *testing.T) {
	for want, s := range map[int64][]byte{
		5:  sub(varint(nil, 1, 1), 4, packed(5)),
		9:  varint(varint(varint(nil, 1, 1), 4, 4), 4, 5), // not packed
		12: sub(sub(varint(nil, 1, 1), 4, packed(5, 7)), 5, make([]byte, 16)),
		3:  sub(varint(nil, 1, 1), 5, make([]byte, 24)),
	} {
		if got := one(t, request(dictionary(), typed(sub(nil, 2, s)))).Profile.Total(0); got != want {
			t.Errorf("%d, must be %d", got, want)
		}
	}
}

// TestServices: a profile of a whole machine becomes one for each program.
func TestServices(t *testing.T) {
	sample := func(attr, n uint64) []byte { return sub(sub(varint(nil, 1, 1), 2, packed(attr)), 4, packed(n)) }
	b := request(dictionary("nginx", "postgres"), typed(sub(sub(sub(sub(nil, 2, sample(1, 3)), 2, sample(2, 4)), 2, sample(1, 5)), 2, sub(varint(nil, 1, 1), 4, packed(6)))))
	out, rejected, err := Decode(b, profile.Limits{})
	if err != nil || len(rejected) > 0 {
		t.Fatal(rejected, err)
	}
	got := map[string]int64{}
	for _, p := range out {
		got[p.Service] = p.Profile.Total(0)
	}
	if len(out) != 3 || got["unknown_service:nginx"] != 8 || got["unknown_service:postgres"] != 4 || got["unknown_service"] != 6 {
		t.Errorf("%v", got)
	}
}

func TestRefused(t *testing.T) {
	good := typed(sub(nil, 2, sub(varint(nil, 1, 1), 4, packed(5))))
	with := func(s []byte) []byte { return request(dictionary(), typed(sub(nil, 2, s))) }
	deep := dictionary()
	deep = sub(deep, 7, sub(nil, 1, bytes.Repeat([]byte{1}, 5000)))
	for name, c := range map[string]struct {
		b    []byte
		want error
		text string
	}{
		"no dictionary (before 1.7)":              {request(nil, good), ErrVersion, "no dictionary"},
		"string 0 is not empty":                   {request(sub(nil, 5, []byte("x")), good), ErrVersion, "must be empty"},
		"a sample without values (1.9)":           {with(sub(varint(nil, 1, 1), 2, packed())), ErrVersion, "neither values nor timestamps"},
		"a sample's link is a list (1.9)":         {with(sub(varint(nil, 1, 1), 3, packed(1))), ErrVersion, "field 3"},
		"a field of a profile that is not known":  {request(dictionary(), varint(good, 20, 1)), ErrVersion, "field 20"},
		"a field of a sample that is not known":   {with(varint(sub(varint(nil, 1, 1), 4, packed(5)), 9, 1)), ErrVersion, "field 9"},
		"a field of the dictionary":               {request(sub(dictionary(), 8, nil), good), ErrVersion, "field 8"},
		"a field of the request":                  {sub(request(dictionary(), good), 3, nil), ErrVersion, "field 3"},
		"cut":                                     {request(dictionary(), good)[:20], profile.ErrCorrupt, "the request"},
		"a stack that is not there":               {with(sub(varint(nil, 1, 9), 4, packed(5))), profile.ErrCorrupt, "stack 9"},
		"an attribute that is not there":          {with(sub(sub(varint(nil, 1, 1), 2, packed(9)), 4, packed(5))), profile.ErrCorrupt, "attribute 9"},
		"a link that is not there":                {with(sub(varint(varint(nil, 1, 1), 3, 9), 4, packed(5))), profile.ErrCorrupt, "link 9"},
		"an index below zero":                     {with(sub(varint(nil, 1, 1<<63), 4, packed(5))), profile.ErrCorrupt, "31 bits"},
		"values of more than 64 bits":             {with(sub(varint(nil, 1, 1), 4, packed(1<<63-1, 1<<63-1))), profile.ErrCorrupt, "64 bits"},
		"a function that is not there":            {request(sub(dictionary(), 2, sub(nil, 3, varint(nil, 1, 99))), good), profile.ErrCorrupt, "function 99"},
		"a location that is not there":            {request(sub(dictionary(), 7, sub(nil, 1, packed(99))), good), profile.ErrCorrupt, "location 99"},
		"a stack of 5000":                         {request(deep, good), profile.ErrTooLarge, "5000 locations"},
		"samples past the limit":                  {request(dictionary(), typed(bytes.Repeat(sub(nil, 2, sub(varint(nil, 1, 1), 4, packed(5))), 2000))), profile.ErrTooLarge, "1000 samples"},
		"profiles past the limit":                 {request(dictionary(), slicesOf(typed(nil), maxProfiles+1)...), profile.ErrTooLarge, "profiles"},
		"a link's identity of another length":     {request(sub(dictionary(), 4, sub(nil, 1, []byte("short"))), good), profile.ErrCorrupt, "5 bytes"},
		"a time of more than 63 bits":             {request(dictionary(), protowire.AppendFixed64(protowire.AppendTag(bytes.Clone(good), 3, protowire.Fixed64Type), 1<<63)), profile.ErrCorrupt, "63 bits"},
		"a sample type that is not there":         {request(dictionary(), sub(bytes.Clone(good), 1, varint(nil, 1, 99))), profile.ErrCorrupt, "string 99"},
		"a group, which no version has":           {append(request(dictionary(), good), 0x0b, 0x0c), profile.ErrCorrupt, "wire type"},
		"a mapping's attribute that is not there": {request(sub(dictionary(), 1, sub(nil, 5, packed(99))), good), profile.ErrCorrupt, "attribute 99"},
		"an attribute's text that is not there":   {request(sub(dictionary(), 6, sub(nil, 2, varint(nil, 8, 99))), good), profile.ErrCorrupt, "string 99"},
		"an attribute's key that is not there":    {request(sub(dictionary(), 6, varint(nil, 1, 99)), good), profile.ErrCorrupt, "string 99"},
		"a unit that is not there":                {request(sub(dictionary(), 6, varint(nil, 3, 99)), good), profile.ErrCorrupt, "unit 99"},
	} {
		_, rejected, err := Decode(c.b, profile.Limits{Samples: 1000})
		if err == nil && len(rejected) == 1 {
			err = rejected[0]
		}
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v; want %v ...%s...", name, err, c.want, c.text)
		}
	}
	for name, text := range map[string]string{
		`{"resourceProfiles":[{"scopeProfiles":[{"profiles":[{"locationIndices":[1]}]}]}],"dictionary":{"stringTable":[""]}}`: "locationIndices",
		`{"resourceProfiles":[{"scopeProfiles":[{"profiles":[{}]}]}]}`:                                                        "no dictionary",
		`{"dictionary":{"attributeUnits":[]}}`:                                                                                "attributeUnits",
	} {
		if _, _, err := DecodeJSON([]byte(name), profile.Limits{}); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := DecodeJSON([]byte(`{"dictionary":{"stringTable":[""],"linkTable":[{"traceId":"zz"}]}}`), profile.Limits{}); !errors.Is(err, profile.ErrCorrupt) {
		t.Errorf("an identity that is not hex: %v", err)
	}
}

func slicesOf(b []byte, n int) (out [][]byte) {
	for range n {
		out = append(out, b)
	}
	return out
}

// TestOneOfTwo: one profile that is wrong leaves the other.
func TestOneOfTwo(t *testing.T) {
	good, bad := typed(sub(nil, 2, sub(varint(nil, 1, 1), 4, packed(5)))), typed(sub(nil, 2, sub(varint(nil, 1, 9), 4, packed(5))))
	out, rejected, err := Decode(request(dictionary(), bad, good), profile.Limits{})
	if err != nil || len(out) != 1 || len(rejected) != 1 || rejected[0].Index != 0 || !errors.Is(rejected[0], profile.ErrCorrupt) {
		t.Errorf("%d profiles, %v, %v", len(out), rejected, err)
	}
}

// TestWorkIsBounded: profiles that all refer to one long stack are not built without end.
func TestWorkIsBounded(t *testing.T) {
	dict := sub(dictionary(), 7, sub(nil, 1, bytes.Repeat([]byte{1}, 4000)))
	p := typed(sub(nil, 2, sub(varint(nil, 1, 2), 4, packed(5))))
	_, _, err := Decode(request(dict, slicesOf(p, 2000)...), profile.Limits{})
	if !errors.Is(err, profile.ErrTooLarge) || !strings.Contains(err.Error(), "frames of stacks") {
		t.Errorf("%v", err)
	}
}

// FuzzDecode: whatever comes, in either form, profiles are sound or there is an error of the contract.
func FuzzDecode(f *testing.F) {
	for _, ext := range []string{"binpb", "json"} {
		b, err := os.ReadFile("testdata/collector-0.165.0." + ext)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(ext == "json", b)
	}
	f.Add(false, request(dictionary("nginx"), typed(sub(nil, 2, sub(sub(varint(nil, 1, 1), 2, packed(1)), 4, packed(5))))))
	f.Fuzz(func(t *testing.T, json bool, b []byte) {
		decode := Decode
		if json {
			decode = DecodeJSON
		}
		out, rejected, err := decode(b, profile.Limits{Samples: 1 << 16, Stacks: 1 << 16})
		for _, r := range rejected {
			err = r
		}
		if err != nil && !errors.Is(err, profile.ErrCorrupt) && !errors.Is(err, profile.ErrTooLarge) && !errors.Is(err, ErrVersion) {
			t.Fatalf("%v is of no kind", err)
		}
		for _, p := range out {
			if err := p.Profile.Check(); err != nil {
				t.Fatal(err)
			}
			if p.Service == "" {
				t.Fatal("a profile of no service")
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	var samples []byte
	for i := range 10_000 {
		samples = sub(samples, 2, sub(varint(nil, 1, 1), 4, packed(uint64(i))))
	}
	raw := request(dictionary(), typed(samples))
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Decode(raw, profile.Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}
