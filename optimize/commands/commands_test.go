package commands

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/optimize"
)

// The test's own program is also what is run: it prints its second argument, and exits with the first.
const envSay = "QUANTRA_TEST_SAY"

func TestMain(m *testing.M) {
	if os.Getenv(envSay) == "" {
		os.Exit(m.Run())
	}
	switch os.Args[1] {
	case "hang":
		select {}
	case "flood":
		for {
			fmt.Println(strings.Repeat("x", 1<<16))
		}
	}
	code, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	fmt.Print(os.Args[2], " ", os.Getenv("HOME"))
	fmt.Fprint(os.Stderr, "because")
	os.Exit(code)
}

type what struct{ Code, Text string }

func run(t *testing.T, r Runner, args ...string) ([]byte, error) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l, err := Parse(append([]string{exe}, args...), what{}, what{}, "")
	if err != nil {
		t.Fatal(err)
	}
	r.Env = append(r.Env, envSay+"=1")
	return r.Run(t.Context(), l, what{"0", "$(id); {{.Code}}"})
}

// TestRun: the contract of exit codes, with what was said; nothing that is put in is a command; and there are bounds on all of it.
func TestRun(t *testing.T) {
	if out, err := run(t, Runner{}, "{{.Code}}", "{{.Text}}"); err != nil || string(out) != "$(id); {{.Code}} " {
		t.Errorf("%q, %v: want what was put in as it is, and no environment", out, err)
	}
	if out, err := run(t, Runner{Env: []string{"HOME=/here"}}, "0", "at"); err != nil || string(out) != "at /here" {
		t.Errorf("%q, %v", out, err)
	}
	for code, want := range map[string]error{"3": optimize.ErrGone, "4": optimize.ErrRefused, "1": nil} {
		_, err := run(t, Runner{}, code, "x")
		if err == nil || !strings.Contains(err.Error(), "because") || errors.Is(err, optimize.ErrGone) != (want == optimize.ErrGone) || errors.Is(err, optimize.ErrRefused) != (want == optimize.ErrRefused) {
			t.Errorf("exit %s: %v", code, err)
		}
	}
	if _, err := run(t, Runner{Timeout: 50 * time.Millisecond}, "hang"); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, optimize.ErrRefused) {
		t.Errorf("one that hangs: %v", err)
	}
	if _, err := run(t, Runner{}, "flood"); !errors.Is(err, optimize.ErrRefused) || !strings.Contains(err.Error(), "1048576") {
		t.Errorf("one that floods: %v", err)
	}
	if _, err := new(Runner).Run(t.Context(), nil, nil); !errors.Is(err, optimize.ErrRefused) {
		t.Errorf("none: %v", err)
	}
	none, err := Parse([]string{"/nowhere/at/all"}, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := new(Runner).Run(t.Context(), none, nil); !errors.Is(err, optimize.ErrRefused) {
		t.Errorf("one that is not there: %v", err)
	}
}

// TestParse: what can never do is refused before anything is run.
func TestParse(t *testing.T) {
	a, b := what{"1", "x"}, what{"2", "x"}
	for text, want := range map[string]string{
		"x\x00{{.Code": "argument 1", "x\x00{{.Nonsense}}": "argument 1", "\x00y": "empty", "x\x00{{.Text}}": "no argument has {{.Code}}",
		"x\x00{{.Code}}": "", strings.Repeat("x\x00", maxArgs): "at most",
	} {
		if _, err := Parse(strings.Split(text, "\x00"), a, b, "Code"); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
	if l, err := Parse(nil, a, b, "Code"); l != nil || err != nil {
		t.Errorf("none: %v, %v", l, err)
	}
}
