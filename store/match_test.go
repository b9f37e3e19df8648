package store_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/quantra-l/quantra/store"
)

func TestParseMatchers(t *testing.T) {
	for in, want := range map[string]string{
		"":                      "{}",
		"{}":                    "{}",
		" { } ":                 "{}",
		`a="x"`:                 `{a="x"}`,
		`{a="x",}`:              `{a="x"}`,
		"{a=`x\\d`,b!=\"\\n\"}": `{a="x\\d", b!="\n"}`,
		`{service_name="checkout", version!~"v1.*"}`: `{service_name="checkout", version!~"v1.*"}`,
		`a =~ "b|c" , d = ""`:                        `{a=~"b|c", d=""}`,
		`{__profile_type__="x:y:z:a:b"}`:             `{__profile_type__="x:y:z:a:b"}`,
	} {
		ms, err := store.ParseMatchers(in)
		if got := store.FormatMatchers(ms); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		`{`:               "at 2: want a label's name, found the end",
		`{a}`:             "at 3: want =, !=, =~ or !~ after a",
		`{a="x"`:          `at 7: want "," or "}"`,
		`a="x" b="y"`:     `at 7: want "," or the end`,
		`a='x'`:           "at 3: want a quoted value",
		`a="x`:            "at 3: want a quoted value",
		`a=~"("`:          "at 4: matcher on a: error parsing regexp",
		`{a="x"} b`:       "want nothing after",
		`9a="x"`:          "at 1: want a label's name",
		`{,}`:             "at 2: want a label's name",
		`a=="x"`:          "at 3: want a quoted value",
		"a=\"\\q\"":       "at 3",
		"\xff=\"x\"":      "at 1",
		`a=~"x{2000}"`:    "repeat",
		`a` + `<"x"`:      "at 2",
		manyMatchers():    "more than 100",
		`}`:               "at 1",
		`{a="x"}}`:        "want nothing after",
		`a="x",,b="y"`:    "at 7",
		`{a="x",b="y",,}`: "at 14",
	} {
		ms, err := store.ParseMatchers(in)
		if !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: got %v, %v, want %q", in, ms, err, want)
		}
	}
}

func manyMatchers() string { return strings.Repeat(`a="x",`, 101) }

func FuzzParseMatchers(f *testing.F) {
	for _, s := range []string{"", "{}", `{service_name="checkout", version!~"v1.*"}`, "a=`b`", `a=~"(`, `{a="\x41", b!="\""}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ms, err := store.ParseMatchers(s)
		if err != nil {
			if !errors.Is(err, store.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		again, err := store.ParseMatchers(store.FormatMatchers(ms))
		if err != nil || !reflect.DeepEqual(ms, again) {
			t.Fatalf("%q is %v, and again %v: %v", s, ms, again, err)
		}
	})
}
