// Package commands runs commands of whoever runs the place: a supervisor's, a scheduler's, a script. It is how changes are made at all that
// has no room of its own.
//
// A command is a program with its arguments, each a template; no shell is involved, so nothing that is put in is ever a command of its own.
// What commands print is bounded, and so is the time they take. Their exit codes are a contract: [ExitGone] and [ExitRefused] are final,
// any other but 0 is tried again.
package commands

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/quantra-l/quantra/optimize"
)

// What a command's exit code means.
const (
	ExitGone    = 3 // there is no such thing
	ExitRefused = 4 // it will never be done
)

const (
	maxOutput = 1 << 20 // bytes of standard output that are read
	tail      = 2 << 10 // bytes of standard error that an error quotes
	maxArgs   = 100
)

// Name keeps what is put into arguments from being an option.
var Name = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.:/@-]{0,252}$`)

// Line is a command with its arguments; none is no command.
type Line []*template.Template

// Parse makes templates of arguments. They are filled in with a and with b, which must differ where something of them must be used:
// has is what that is called, and "" is that nothing must.
func Parse(argv []string, a, b any, has string) (Line, error) {
	if len(argv) > maxArgs {
		return nil, fmt.Errorf("%d arguments: at most %d", len(argv), maxArgs)
	}
	var out Line
	for i, s := range argv {
		t, err := template.New(strconv.Itoa(i)).Parse(s)
		if err != nil {
			return nil, fmt.Errorf("argument %d: %v", i, err)
		}
		out = append(out, t)
	}
	if len(argv) == 0 {
		return nil, nil
	}
	x, err := out.fill(a)
	if err != nil {
		return nil, err
	}
	y, err := out.fill(b)
	if err != nil {
		return nil, err
	}
	if x[0] == "" {
		return nil, errors.New("the program's name is empty")
	}
	if has != "" && strings.Join(x, "\x00") == strings.Join(y, "\x00") {
		return nil, fmt.Errorf("no argument has {{.%s}}", has)
	}
	return out, nil
}

func (l Line) fill(data any) (out []string, err error) {
	for i, t := range l {
		var b strings.Builder
		if err := t.Execute(&b, data); err != nil {
			return nil, fmt.Errorf("argument %d: %v", i, err)
		}
		out = append(out, b.String())
	}
	return out, nil
}

// Runner runs commands.
type Runner struct {
	// Env is their whole environment, as KEY=VALUE; Dir is where they run.
	Env []string
	Dir string
	// Timeout is how long one of them may take; 0 is 30 s.
	Timeout time.Duration
}

// Run runs one command, and gives what it printed. Its error is [optimize.ErrGone] or [optimize.ErrRefused] where that is final.
func (r *Runner) Run(ctx context.Context, l Line, data any) ([]byte, error) {
	if len(l) == 0 {
		return nil, fmt.Errorf("%w: there is no such command", optimize.ErrRefused)
	}
	args, err := l.fill(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", optimize.ErrRefused, err)
	}
	timeout := cmp.Or(r.Timeout, 30*time.Second)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env, cmd.Dir = r.Env, r.Dir
	if cmd.Env == nil {
		cmd.Env = []string{} // nil would be the environment of this process
	}
	// What a command has started may hold its output open.
	cmd.WaitDelay = time.Second
	together(cmd)
	stdout, stderr := &bounded{max: maxOutput, stop: cancel}, &last{}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case stdout.over:
		return nil, fmt.Errorf("%w: it printed more than %d bytes", optimize.ErrRefused, maxOutput)
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return stdout.b.Bytes(), nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%w: it was ended, as it may take %v%s", ctx.Err(), timeout, stderr)
	case errors.As(err, &exit) && exit.ExitCode() == ExitGone:
		return nil, fmt.Errorf("%w: exit %d%s", optimize.ErrGone, ExitGone, stderr)
	case errors.As(err, &exit) && exit.ExitCode() == ExitRefused:
		return nil, fmt.Errorf("%w: exit %d%s", optimize.ErrRefused, ExitRefused, stderr)
	case errors.As(err, &exit):
		return nil, fmt.Errorf("%v%s", err, stderr)
	}
	return nil, fmt.Errorf("%w: it cannot be started: %v", optimize.ErrRefused, err)
}

// bounded keeps up to max bytes; past that it stops the writer.
type bounded struct {
	b    bytes.Buffer
	max  int
	over bool
	stop func()
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.b.Len()+len(p) > b.max {
		b.over = true
		b.stop()
		return 0, errors.New("too much output")
	}
	return b.b.Write(p)
}

// last keeps the end of what was written.
type last struct{ b []byte }

func (l *last) Write(p []byte) (int, error) {
	l.b = append(l.b, p[max(0, len(p)-tail):]...)
	l.b = l.b[max(0, len(l.b)-tail):]
	return len(p), nil
}

func (l *last) String() string {
	if s := strings.TrimSpace(strings.ToValidUTF8(string(l.b), "?")); s != "" {
		return ": " + s
	}
	return ""
}
