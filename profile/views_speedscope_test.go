package profile

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestSpeedscopeSchema checks what is written against the rules of
// https://www.speedscope.app/file-format-schema.json for "sampled" profiles,
// and that the weights are the samples' values.
func TestSpeedscopeSchema(t *testing.T) {
	units := "none nanoseconds microseconds milliseconds seconds bytes"
	for seed := range uint64(20) {
		p := viewRandom(rand.New(rand.NewPCG(seed, 4)), 40)
		var b bytes.Buffer
		if err := WriteSpeedscope(&b, p); err != nil {
			t.Fatal(err)
		}
		var file struct {
			Schema             string `json:"$schema"`
			Exporter           string `json:"exporter"`
			ActiveProfileIndex *int   `json:"activeProfileIndex"`
			Shared             struct {
				Frames []struct {
					Name string  `json:"name"`
					File *string `json:"file"`
				} `json:"frames"`
			} `json:"shared"`
			Profiles []struct {
				Type, Name, Unit     string
				StartValue, EndValue *int64
				Samples              [][]int
				Weights              []int64
			} `json:"profiles"`
		}
		dec := json.NewDecoder(&b)
		dec.DisallowUnknownFields()
		if err := dec.Decode(&file); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(file.Schema, "file-format-schema.json") || len(file.Profiles) != len(p.SampleTypes) || *file.ActiveProfileIndex != 1 {
			t.Fatalf("%+v", file)
		}
		for col, sp := range file.Profiles {
			if sp.Type != "sampled" || sp.Name != p.SampleTypes[col].Type || !strings.Contains(units, sp.Unit) ||
				*sp.StartValue != 0 || *sp.EndValue != p.Total(col) || len(sp.Samples) != len(sp.Weights) {
				t.Fatalf("column %d: %+v", col, sp)
			}
			self := map[string]int64{}
			var sum int64
			for i, s := range sp.Samples {
				for _, f := range s {
					if f < 0 || f >= len(file.Shared.Frames) {
						t.Fatalf("frame %d of %d", f, len(file.Shared.Frames))
					}
				}
				sum += sp.Weights[i]
				if len(s) > 0 {
					self[file.Shared.Frames[s[len(s)-1]].Name] += sp.Weights[i]
				}
			}
			if sum != p.Total(col) {
				t.Fatalf("weights are %d, want %d", sum, p.Total(col))
			}
			for _, r := range Top(p, col) {
				if self[r.Name] != r.Self {
					t.Fatalf("%s: self %d, want %d", r.Name, self[r.Name], r.Self)
				}
			}
		}
	}
	if err := WriteSpeedscope(&bytes.Buffer{}, viewProfile(t, "a -1")); err == nil || !strings.Contains(err.Error(), "negative") {
		t.Errorf("a negative value: %v", err)
	}
}
