package demo

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"time"
)

// The hidden commands by which the fleet's processes are started: the first
// argument after [FleetOptions].Args. Their bodies are [ServiceMain] and [LoadMain].
const (
	ServiceCommand = "demo-service"
	LoadCommand    = "demo-load"
)

// readyPrefix starts the first line that a service writes to its standard output; its URL follows.
const readyPrefix = "listening "

// ParseService reads the arguments of [ServiceCommand]:
//
//	--version v1 --instance NAME --addr 127.0.0.1:0 --server URL --region local --spool DIR --window 4s
func ParseService(args []string) (o Options, err error) {
	f := flagSet(ServiceCommand)
	f.StringVar(&o.Version, "version", V1, "v1, v2 or v3")
	f.StringVar(&o.Instance, "instance", "", "name among the instances")
	f.StringVar(&o.Addr, "addr", "127.0.0.1:0", "where to listen")
	f.StringVar(&o.Server, "server", "", "where profiles go")
	f.StringVar(&o.Region, "region", "", "label of the profiles")
	f.StringVar(&o.Spool, "spool", "", "folder for profiles while the server is away")
	f.DurationVar(&o.Window, "window", 4*time.Second, "time that a profile covers")
	if err := parse(f, args); err != nil {
		return Options{}, err
	}
	if f.NArg() > 0 {
		return Options{}, fmt.Errorf("demo: %s: argument %q: there are flags only", ServiceCommand, f.Arg(0))
	}
	return o, nil
}

// ParseLoad reads the arguments of [LoadCommand]; targets may also come line
// by line on standard input:
//
//	--rate 100 --concurrency 32 [URL ...]
func ParseLoad(args []string) (o LoadOptions, err error) {
	f := flagSet(LoadCommand)
	f.Float64Var(&o.Rate, "rate", 0, "requests a second")
	f.IntVar(&o.Concurrency, "concurrency", 0, "requests under way at most")
	if err := parse(f, args); err != nil {
		return LoadOptions{}, err
	}
	o.Targets = f.Args()
	return o, nil
}

func flagSet(name string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard) // the error says it
	return f
}

func parse(f *flag.FlagSet, args []string) error {
	if err := f.Parse(args); err != nil {
		return fmt.Errorf("demo: %s: %w", f.Name(), err)
	}
	return nil
}

// ServiceMain is the body of [ServiceCommand]. It serves until stdin ends,
// which it does when the parent stops it or dies, or ctx does. The first line on
// stdout is "listening URL".
//
// It ignores the interrupt signal for the rest of the process: Ctrl-C in a
// terminal reaches parent and children at once, and it is the parent who stops them in order.
func ServiceMain(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	signal.Ignore(os.Interrupt)
	o, err := ParseService(args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// This goroutine may wait for stdin when Run has failed; the process ends then.
	go func() {
		defer cancel()
		io.Copy(io.Discard, stdin) // an error is an end, too
	}()
	o.Logger = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	o.Ready = func(url string) error {
		_, err := fmt.Fprintf(stdout, "%s%s\n", readyPrefix, url)
		return err
	}
	return Run(ctx, o)
}

// LoadMain is the body of [LoadCommand]. It sends load until stdin ends. Each
// line on stdin is the targets from then on, with spaces between. Like
// [ServiceMain] it ignores the interrupt signal.
func LoadMain(ctx context.Context, args []string, stdin io.Reader, _, _ io.Writer) error {
	signal.Ignore(os.Interrupt)
	o, err := ParseLoad(args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	updates := make(chan []string)
	o.Updates = updates
	go func() {
		defer cancel()
		for s := bufio.NewScanner(stdin); s.Scan(); {
			select {
			case updates <- strings.Fields(s.Text()):
			case <-ctx.Done():
				return
			}
		}
	}()
	_, err = Load(ctx, o)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
