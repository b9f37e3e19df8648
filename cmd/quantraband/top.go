package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/agent/live"
	"github.com/quantra-l/quantra/analyze/sched"
	"github.com/quantra-l/quantra/cmd/quantraband/console"
)

// liveTop is the command `quantraband top` as it was asked for.
type liveTop struct {
	q        question // of a service: the server, and how long to wait
	instance string
	every    time.Duration
	seconds  int
	full     bool
	view     string
	once     bool
	count    int
	colour   string
	width    int
}

func (a *app) liveTopCommand() *cobra.Command {
	t := liveTop{}
	var names []string
	for _, v := range console.Views {
		names = append(names, v.Name)
	}
	cmd := &cobra.Command{
		Use:     "top ADDR|SERVICE",
		GroupID: "main",
		Short:   "Watch a running program: its goroutines, hottest functions, memory and scheduler",
		Long: `Watch a running Go program in the terminal. Press ? there for the keys.

ADDR is a program with net/http/pprof: localhost:6060, or a URL, with the path of its
pprof pages where that is not /debug/pprof. Without a port it is 6060. SERVICE is a
program with our agent, by the name it has on the server; a name without a dot, a colon and a
slash that is not localhost is one, and with --server any name is.

A list of goroutines with all details stops the program, some 3 µs for each. It is
asked for where there are few; where there are many they are counted by stack, which
does not stop it, unless you ask for more (F, or --full). The more a look costs,
the longer the next one waits. docs/top.md says how to read what it shows.`,
		Example: `  quantraband top localhost:6060
  quantraband top checkout                                  # through our server
  quantraband top --once --view states localhost:6060       # for a script
  quantraband top --once --json http://10.0.0.7:6060 | jq '.groups[0]'
  quantraband top --once --view trace --seconds 2 localhost:6060`,
		Args: cobra.ExactArgs(1),
	}
	t.q.serverFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&t.instance, "instance", "", "which `instance` of the service (default: the first that is there)")
	f.DurationVar(&t.every, "every", 2*time.Second, "how long to wait between two looks; longer where a look costs much")
	f.IntVar(&t.seconds, "seconds", 5, "how long a processor profile or an execution trace lasts")
	f.BoolVar(&t.full, "full", false, "all details of goroutines, however long the program stands still for them")
	f.StringVar(&t.view, "view", console.Goroutines.Name(), "begin with `view`: "+strings.Join(names, ", "))
	f.BoolVar(&t.once, "once", false, "write the view once and end, for scripts")
	f.Lookup("json").Usage = "with --once, write JSON"
	f.IntVarP(&t.count, "count", "n", 50, "with --once, rows to write, 0 for all")
	f.StringVar(&t.colour, "color", "auto", "colours: `auto`, always or never")
	f.IntVar(&t.width, "width", 0, "with --once, columns to write (default: the terminal's, else all)")
	cmd.RegisterFlagCompletionFunc("view", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := t.check(); err != nil {
			return err
		}
		src, err := t.source(cmd.Context(), args[0], cmd.Flags().Changed("server"))
		if err != nil {
			return err
		}
		return a.runTop(cmd.Context(), &t, src)
	}
	return cmd
}

// check refuses values that make no sense.
func (t *liveTop) check() error {
	switch {
	case t.every < 100*time.Millisecond:
		return usagef("--every %s: it must be 100ms at least", t.every)
	case t.seconds < 1 || t.seconds > 60:
		return usagef("--seconds %d: it must be 1 to 60", t.seconds)
	case t.q.timeout <= 0:
		return usagef("--timeout %s: it must be more than nothing", t.q.timeout)
	case t.count < 0:
		return usagef("-n %d: it must not be negative", t.count)
	case t.q.asJSON && !t.once:
		return usagef("--json goes with --once")
	}
	_, err := viewNamed(t.view)
	return err
}

func viewNamed(name string) (console.View, error) {
	var names []string
	for _, v := range console.Views {
		if v.Name == name {
			return v.View, nil
		}
		names = append(names, v.Name)
	}
	return 0, usagef("--view %q: it must be one of %s", name, strings.Join(names, ", "))
}

// source is what arg names: a server's service, or a program's own pages.
func (t *liveTop) source(ctx context.Context, arg string, serverNamed bool) (*console.Source, error) {
	if serverNamed || !strings.ContainsAny(arg, ".:/") && arg != "localhost" {
		if arg == "" {
			return nil, usagef("the name of the service is empty")
		}
		if err := t.q.checkServer(); err != nil {
			return nil, err
		}
		t.q.service = arg
		return (&serviceSource{t: t}).source(ctx), nil
	}
	p, err := newPprofSource(t, arg)
	if err != nil {
		return nil, err
	}
	return p.source(), nil
}

func (a *app) runTop(ctx context.Context, t *liveTop, src *console.Source) error {
	view, err := viewNamed(t.view)
	if err != nil {
		return err
	}
	colour, err := colours(a.stdout, t.colour)
	if err != nil {
		return err
	}
	o := console.Options{View: view, Every: t.every, Colour: colour}
	if t.once {
		return a.topOnce(ctx, t, src, o)
	}
	in, ok := a.stdin.(*os.File)
	out, ok2 := a.stdout.(*os.File)
	if !ok || !ok2 || !isTerminal(in) || !isTerminal(out) {
		return usagef("standard input and output must be a terminal; for scripts there is --once")
	}
	return console.Run(ctx, in, out, src, o)
}

// topOnce writes one view. Growth needs two looks, so leaks wait --every between them.
func (a *app) topOnce(ctx context.Context, t *liveTop, src *console.Source, o console.Options) error {
	m := console.NewModel(src, o)
	value, err := m.Look(ctx, t.full)
	if err == nil && o.View == console.Leaks {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(t.every):
		}
		value, err = m.Look(ctx, t.full)
	}
	if errors.Is(err, console.ErrUnanswerable) {
		return usagef("--view %s: %s does not tell that", t.view, src.Name)
	}
	if err != nil {
		return err
	}
	if !t.q.asJSON {
		width := t.width
		if width <= 0 && isTerminal(a.stdout) {
			width = columns(a.stdout)
		}
		_, err := a.stdout.Write([]byte(m.Text(width, t.count)))
		return err
	}
	switch x := value.(type) {
	case console.Functions:
		return writeJSON(a.stdout, newTable(x.Sample, x.Total, x.Rows, t.count))
	case live.Snapshot:
		if o.View == console.Leaks {
			return writeJSON(a.stdout, m.Growths())
		}
		return writeJSON(a.stdout, x)
	case sched.Summary, console.Runtime:
		return writeJSON(a.stdout, x)
	}
	return errors.New("there is nothing to write") // Look gives one of these
}
