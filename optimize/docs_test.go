package optimize_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/judge"
)

// TestFormat: what docs/format/changes.md draws is what there is: no field of it is unknown, and each that a change has is drawn.
func TestFormat(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "docs", "format", "changes.md"))
	if err != nil {
		t.Fatal(err)
	}
	drawn := map[string][]byte{}
	for _, m := range regexp.MustCompile("(?s)\n## ([A-Z][a-z]+)\n\n```json\n(.*?)```").FindAllSubmatch(text, -1) {
		drawn[string(m[1])] = m[2]
	}
	for name, v := range map[string]any{
		"Change": &optimize.Change{}, "Event": &optimize.Event{}, "Verdict": &judge.Verdict{}, "Holds": &optimize.Holds{},
		"Status": &optimize.Status{}, "Series": &optimize.Series{}, "Planned": &optimize.Planned{},
	} {
		raw := drawn[name]
		if raw == nil {
			t.Errorf("%s is not drawn", name)
			continue
		}
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.DisallowUnknownFields()
		if err := dec.Decode(v); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var have, is map[string]json.RawMessage
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, &have); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, &is); err != nil {
			t.Fatal(err)
		}
		for field := range is {
			if have[field] == nil {
				t.Errorf("%s has %s, which is not drawn", name, field)
			}
		}
	}
}
