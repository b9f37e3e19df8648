package main

import (
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	const line = `{"protocol":"B","client":"c","version":"1","sent":"s","seen":"old","date":"2026-01-01"}
{"protocol":"A","client":"c","version":"1","sent":"a|b","seen":"x","date":"2026-01-01"}
{"protocol":"B","client":"c","version":"2","sent":"s","seen":"new","date":"2026-01-02"}
`
	rows, err := read(strings.NewReader(line))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := write(&b, rows); err != nil {
		t.Fatal(err)
	}
	want := "| A | c | 1 | a\\|b | x | 2026-01-01 |\n| B | c | 2 | s | new | 2026-01-02 |\n"
	if !strings.HasSuffix(b.String(), want) {
		t.Errorf("%s", &b)
	}
	for name, bad := range map[string]string{"nothing": "", "no JSON": "x\n", "a row without its client": `{"protocol":"B"}` + "\n"} {
		if _, err := read(strings.NewReader(bad)); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}
