package formats

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/quantra-l/quantra/profile"
)

// nodes writes what both binary formats are made of.
func nodes(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b = append(binary.AppendUvarint(b, uint64(len(p))), p...)
		case int:
			b = binary.AppendUvarint(b, uint64(p))
		}
	}
	return b
}

// The same stacks in each format.
const wantFolded = "a 3\na;b 1\na;bc;d 2\n"

var (
	treeOf = nodes("", 0, 1, "a", 3, 2, "b", 1, 0, "bc", 0, 1, "d", 2, 0)
	trieOf = nodes("", 0, 1, "a", 3, 1, ";b", 1, 1, "c;d", 2, 0)
)

const speedscopeOf = `{"$schema":"https://www.speedscope.app/file-format-schema.json",
"shared":{"frames":[{"name":"a","file":"a.py","line":3},{"name":"b"},{"name":"bc"},{"name":"d"}]},
"profiles":[{"type":"sampled","name":"main","unit":"none","startValue":0,"endValue":6,"samples":[[0],[0,1],[0,2,3]],"weights":[3,1,2]}]}`

const eventedOf = `{"shared":{"frames":[{"name":"a"},{"name":"b"},{"name":"bc"},{"name":"d"}]},
"profiles":[{"type":"evented","name":"main","unit":"microseconds","startValue":0,"endValue":6,"events":[
{"type":"O","frame":0,"at":10},{"type":"O","frame":1,"at":11},{"type":"C","frame":1,"at":12},{"type":"O","frame":2,"at":13},{"type":"O","frame":3,"at":13},
{"type":"C","frame":3,"at":15},{"type":"C","frame":2,"at":15},{"type":"C","frame":0,"at":16}]}]}`

func folded(t *testing.T, p *profile.Profile) string {
	t.Helper()
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := profile.WriteFolded(&b, p, 0); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestFormats(t *testing.T) {
	for name, read := range map[string]func() (*profile.Profile, error){
		"tree":       func() (*profile.Profile, error) { return ParseTree(treeOf, profile.Limits{}) },
		"trie":       func() (*profile.Profile, error) { return ParseTrie(trieOf, profile.Limits{}) },
		"speedscope": func() (*profile.Profile, error) { return ParseSpeedscope([]byte(speedscopeOf), profile.Limits{}) },
	} {
		p, err := read()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := folded(t, p); got != wantFolded {
			t.Errorf("%s: %q", name, got)
		}
		if p.SampleTypes[0] != count {
			t.Errorf("%s: %v", name, p.SampleTypes)
		}
	}
	p, err := ParseSpeedscope([]byte(eventedOf), profile.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if got := folded(t, p); got != "a 3000\na;b 1000\na;bc;d 2000\n" || p.SampleTypes[0].Unit != "nanoseconds" {
		t.Errorf("evented: %q %v", got, p.SampleTypes)
	}
	// What Pyroscope's own tests have as the bytes of a tree.
	if p, err = ParseTree([]byte("\x00\x00\x01\x01a\x00\x02\x01b\x01\x00\x01c\x02\x00"), profile.Limits{}); err != nil || folded(t, p) != "a;b 1\na;c 2\n" {
		t.Errorf("Pyroscope's tree: %v", err)
	}
}

func TestRefused(t *testing.T) {
	deep := []any{"", 0, 1}
	for range 5000 {
		deep = append(deep, "f", 1, 1)
	}
	deep = append(deep, "f", 1, 0)
	// A name of the limit's length, and one more byte at each of many nodes: each a frame of its own.
	long := []any{"", 0, 1, strings.Repeat("x", maxFrame-600), 1, 1}
	for range 500 {
		long = append(long, "y", 1, 1)
	}
	long = append(long, "y", 1, 0)
	speedscope := func(b []byte) error { _, err := ParseSpeedscope(b, profile.Limits{}); return err }
	tree := func(b []byte) error { _, err := ParseTree(b, profile.Limits{}); return err }
	trie := func(b []byte) error { _, err := ParseTrie(b, profile.Limits{}); return err }
	replace := func(old, new string) []byte { return []byte(strings.Replace(speedscopeOf, old, new, 1)) }
	for name, c := range map[string]struct {
		read func([]byte) error
		b    []byte
		want error
		text string
	}{
		"tree, empty":                 {tree, nil, profile.ErrCorrupt, "cut short"},
		"tree, cut":                   {tree, treeOf[:len(treeOf)-1], profile.ErrCorrupt, "cut short"},
		"tree, more":                  {tree, append(bytes.Clone(treeOf), 0), profile.ErrCorrupt, "follow the last node"},
		"tree, a name beyond the end": {tree, append(bytes.Repeat([]byte{0xff}, 9), 1), profile.ErrCorrupt, "are left"},
		"tree, children beyond it":    {tree, nodes("", 0, 1000), profile.ErrCorrupt, "1000 children"},
		"tree, a root with a name":    {tree, nodes("a", 1, 0), profile.ErrCorrupt, "root"},
		"tree, no values":             {tree, nodes("", 0, 1, "a", 0, 0), profile.ErrCorrupt, "no node has a value"},
		"tree, deep":                  {tree, nodes(deep...), profile.ErrTooLarge, "4097 frames"},
		"trie, cut":                   {trie, trieOf[:len(trieOf)-1], profile.ErrCorrupt, "cut short"},
		"trie, much text of little":   {trie, nodes(long...), profile.ErrTooLarge, "times what was sent"},
		"speedscope, no JSON":         {speedscope, []byte("{"), profile.ErrCorrupt, "speedscope"},
		"speedscope, no profile":      {speedscope, []byte("{}"), profile.ErrCorrupt, "no profile"},
		"speedscope, unknown frame":   {speedscope, replace("[0,2,3]", "[0,2,4]"), profile.ErrCorrupt, "frame 4, and there are 4"},
		"speedscope, a weight less":   {speedscope, replace("[3,1,2]", "[3,1]"), profile.ErrCorrupt, "3 samples and 2 weights"},
		"speedscope, below zero":      {speedscope, replace("[3,1,2]", "[3,1,-2]"), profile.ErrCorrupt, "weight -2"},
		"speedscope, another unit":    {speedscope, replace("none", "parsecs"), profile.ErrCorrupt, "parsecs"},
		"speedscope, closes nothing":  {speedscope, []byte(strings.Replace(eventedOf, `"type":"O","frame":1`, `"type":"C","frame":1`, 1)), profile.ErrCorrupt, "opens nothing"},
		"speedscope, back in time":    {speedscope, []byte(strings.Replace(eventedOf, `"at":12`, `"at":9`, 1)), profile.ErrCorrupt, "before the one ahead"},
	} {
		err := c.read(c.b)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v; want %v ...%s...", name, err, c.want, c.text)
		}
	}
}

// FuzzFormats: whatever comes, a profile is sound or there is an error of the contract.
func FuzzFormats(f *testing.F) {
	f.Add(uint8(0), treeOf)
	f.Add(uint8(1), trieOf)
	f.Add(uint8(2), []byte(speedscopeOf))
	f.Add(uint8(2), []byte(eventedOf))
	f.Add(uint8(3), readFile(f, "node-20.cpuprofile"))
	f.Add(uint8(3), []byte(tinyV8))
	f.Add(uint8(4), readFile(f, "chromium-trace.json"))
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		read := []func([]byte, profile.Limits) (*profile.Profile, error){ParseTree, ParseTrie, ParseSpeedscope, ParseCPUProfile, ParseChromeTrace}[which%5]
		p, err := read(b, profile.Limits{Stacks: 1 << 16, Samples: 1 << 16})
		if err != nil {
			if !errors.Is(err, profile.ErrCorrupt) && !errors.Is(err, profile.ErrTooLarge) {
				t.Fatalf("%v is of no kind", err)
			}
			return
		}
		if err := p.Check(); err != nil {
			t.Fatal(err)
		}
		if _, err := profile.DecodeBytes(p.AppendPprof(nil), profile.Limits{Depth: 1 << 16}); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkTree(b *testing.B) {
	parts := []any{"", 0, 100}
	for i := range 100 {
		parts = append(parts, "outer.function.number"+string(rune('a'+i%26)), 1, 10)
		for j := range 10 {
			parts = append(parts, "inner.function.number"+string(rune('a'+j)), i+j+1, 0)
		}
	}
	raw := nodes(parts...)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseTree(raw, profile.Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}
