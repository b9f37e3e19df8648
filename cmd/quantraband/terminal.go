package main

import (
	"io"
	"os"
	"strconv"

	"golang.org/x/term"
)

// isTerminal says that a person, not a file or a pipe, is at the other end of s.
func isTerminal(s any) bool {
	f, ok := s.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// colours decides whether to write colours to w. --color always and never are
// obeyed; auto is yes for a terminal, unless NO_COLOR is set (https://no-color.org)
// or the terminal is a dumb one.
func colours(w io.Writer, mode string) (bool, error) {
	switch mode {
	case "always":
		return true, nil
	case "never":
		return false, nil
	case "auto":
		return isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb", nil
	}
	return false, usagef("--color %q: it must be auto, always or never", mode)
}

// columns is the width to draw at: the terminal's, else COLUMNS, else 100.
func columns(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if n, _, err := term.GetSize(int(f.Fd())); err == nil && n > 0 {
			return n
		}
	}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		return n
	}
	return 100
}
