package profile

import (
	"bytes"
	"strings"
	"testing"
)

func TestRename(t *testing.T) {
	b := NewBuilder(ValueType{"cpu", "nanoseconds"})
	p := b.Profile()
	p.Strings = []string{"", "main.main", "secret.Key", "secret.Key-linker", "main.go", "secret.go", "secret.Other"}
	p.Functions = []Function{{Name: 1, File: 4}, {Name: 2, SystemName: 3, File: 5, StartLine: 7}, {Name: 6, File: 4}}
	hide := func(name string) (string, bool) { return "hidden", strings.HasPrefix(name, "secret.") }
	out := p.Rename(hide)
	if got := out.Functions; out.Strings[got[0].Name] != "main.main" || out.Strings[got[1].Name] != "hidden" || out.Strings[got[2].Name] != "hidden" || got[1].StartLine != 0 || got[1].File != 0 {
		t.Errorf("%+v %q", got, out.Strings)
	}
	if p.Strings[2] != "secret.Key" || p.Functions[1].File != 5 {
		t.Errorf("the profile that was handed in was changed: %q", p.Strings)
	}
	var raw bytes.Buffer
	if err := out.Encode(&raw); err != nil {
		t.Fatal(err)
	}
	for _, s := range out.Strings {
		if strings.Contains(s, "secret") {
			t.Errorf("%q is still there", s)
		}
	}
	if err := out.Check(); err != nil {
		t.Error(err)
	}
	if same := p.Rename(func(n string) (string, bool) { return n, false }); same != p {
		t.Error("where nothing is renamed it is another profile")
	}
}
