package chaostest

import (
	"strings"
	"testing"
)

// TestBooks: each fault that they are there for is found.
func TestBooks(t *testing.T) {
	good := func() *Books {
		b := NewBooks()
		b.Promise("m1", "bob")
		b.Show("bob", "m1", 1)
		b.Say("ann", "b1")
		b.Hear("bob", "b1", "ann")
		return b
	}
	if b := good(); len(b.Wrong())+len(b.Missing()) > 0 || !b.Heard("bob", "b1") {
		t.Errorf("nothing is wrong, and they say %v, %v", b.Wrong(), b.Missing())
	}
	for want, plant := range map[string]func(*Books){
		"is shown \"m1\" again":      func(b *Books) { b.Show("bob", "m1", 2) },
		"which another message had":  func(b *Books) { b.Show("bob", "m2", 1) },
		"hears \"b1\" again":         func(b *Books) { b.Hear("bob", "b1", "ann") },
		"who did not say it":         func(b *Books) { b.Hear("bob", "b1", "eve") },
		"by eve, who did not say it": func(b *Books) { b.Hear("bob", "never", "eve") },
	} {
		b := good()
		plant(b)
		if got := strings.Join(b.Wrong(), "\n"); !strings.Contains(got, want) {
			t.Errorf("%s is not found: %s", want, got)
		}
	}
	b := good()
	b.Show("bob", "m1", 1) // given again with its index, after a crash
	if len(b.Wrong()) > 0 {
		t.Error(b.Wrong())
	}
	b.Promise("m3", "bob")
	if len(b.Missing()) != 1 {
		t.Error(b.Missing())
	}
	if len(NewBooks().Wrong()) == 0 {
		t.Error("empty books are not wrong")
	}
}
