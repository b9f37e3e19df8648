package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/sandbox"
	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/seal/pgp"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/zerotrust"
)

// The exit codes. Scripts branch on them: their meaning never changes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitCorrupt     = 3
	exitUnavailable = 4
	exitInUse       = 5
	exitUndecided   = 6
	exitGate        = 7
	exitDenied      = 8
	exitInterrupted = 130 // 128 + SIGINT, as shells have it
)

const exitCodesHelp = `quantraband ends with one of these codes, and with one line on standard error
that starts with "quantraband: " unless the code is 0.

    0  it did what it was asked
    1  it failed, in a way that no other code names; of integrity: it looked, and something changed
    2  the command line is wrong: unknown command or flag, bad value
    3  the input is corrupt, too large, or in a format that is not understood
    4  no server answers, or it answers that it cannot serve now, or this host has not what was asked for
    5  the address or the data folder is in use by another process
    6  it measured, and cannot tell: more samples, more trials or a quieter machine are needed
    7  a gate did not let it pass: it measured, and something is surely above a limit that was given
    8  it was denied: somebody was judged, and may not do what was asked
  130  it was interrupted (up ends with 0 when it is: that is how it is stopped)`

// codedError is an error with the exit code it asks for.
type codedError struct {
	code int
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &codedError{exitUsage, fmt.Errorf(format, args...)}
}

func corruptf(format string, args ...any) error {
	return &codedError{exitCorrupt, fmt.Errorf(format, args...)}
}

func unavailablef(format string, args ...any) error {
	return &codedError{exitUnavailable, fmt.Errorf(format, args...)}
}

func inUsef(format string, args ...any) error {
	return &codedError{exitInUse, fmt.Errorf(format, args...)}
}

func undecidedf(format string, args ...any) error {
	return &codedError{exitUndecided, fmt.Errorf(format, args...)}
}

func deniedf(format string, args ...any) error {
	return &codedError{exitDenied, fmt.Errorf(format, args...)}
}

// exitCode is the code that err asks for.
func exitCode(err error) int {
	var coded *codedError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &coded):
		return coded.code
	case errors.Is(err, profile.ErrCorrupt), errors.Is(err, profile.ErrTooLarge), errors.Is(err, store.ErrCorrupt), errors.Is(err, zerotrust.ErrCorrupt),
		errors.Is(err, seal.ErrCorrupt), errors.Is(err, pgp.ErrCorrupt):
		return exitCorrupt
	case errors.Is(err, vfs.ErrLocked):
		return exitInUse
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrOverloaded), errors.Is(err, zerotrust.ErrUnavailable), errors.Is(err, seal.ErrUnavailable),
		errors.Is(err, sandbox.ErrUnavailable), errors.Is(err, sandbox.ErrFull):
		return exitUnavailable
	case errors.Is(err, zerotrust.ErrDenied):
		return exitDenied
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	return exitFailed
}

// finish says what went wrong, in one line, and is the exit code.
func (a *app) finish(cmd *cobra.Command, err error) int {
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, syscall.EPIPE):
		// The reader of a pipe has what it wanted (`| head`): not our failure.
		return exitOK
	case !a.ran:
		// cobra refused the command line before the command ran.
		err = usagef("%w; see `%s --help`", err, cmd.CommandPath())
	case errors.Is(err, context.Canceled):
		err = &codedError{exitInterrupted, errors.New("interrupted")}
	}
	fmt.Fprintf(a.stderr, "quantraband: %s\n", oneLine(err.Error()))
	return exitCode(err)
}

// oneLine joins the lines of s: what reads standard error line by line must
// see one error as one line.
func oneLine(s string) string {
	var parts []string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			parts = append(parts, line)
		}
	}
	return strings.Join(parts, " ")
}
