package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/optimize/pgo"
	"github.com/quantra-l/quantra/profile"
)

type pgoCheckOptions struct {
	pkg, profile string
	goTool       string
	cached       bool
	asJSON       bool
}

// pgoBuild is one build.
type pgoBuild struct {
	Seconds       float64 `json:"seconds,omitempty"` // from an empty cache; 0 where it was not measured
	Bytes         int64   `json:"bytes"`
	Inlined       int     `json:"inlined_calls"`
	Devirtualized int     `json:"devirtualized_calls"`
}

func (a *app) pgoCheck() *cobra.Command {
	var o pgoCheckOptions
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Build a program with and without a profile, and say what that costs",
		Long: `Build a package twice with the go command, without a profile and with one, and say how large the programs are, how long
the builds took and how many calls were inlined and made direct. Both begin with an empty cache, so that both do all of the
work: that is a minute or more each for a large program. With --cached the usual cache is used, and no time is told.

It ends with 7 if the program, or the build's time, grows by more than is usual: docs/pgo.md has the limits. Stacks and memory
are for a canary to show.`,
		Example: `  quantraband pgo check --package ./cmd/checkout --profile cmd/checkout/default.pgo`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.checkPGO(cmd.Context(), &o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.pkg, "package", ".", "the program's `package`, as go build takes it")
	f.StringVar(&o.profile, "profile", "default.pgo", "the profile `file`")
	f.StringVar(&o.goTool, "go", "go", "the go `command`")
	f.BoolVar(&o.cached, "cached", false, "build with the usual cache, and do not measure time")
	f.BoolVar(&o.asJSON, "json", false, "write JSON")
	return cmd
}

func (a *app) checkPGO(ctx context.Context, o *pgoCheckOptions) error {
	if strings.HasPrefix(o.pkg, "-") {
		return usagef("--package %s: it must be a package, as ./cmd/checkout", o.pkg)
	}
	// What the compiler would refuse is said before a minute of building.
	p, err := a.read(ctx, &input{}, o.profile)
	if err != nil {
		return err
	}
	edges, err := pgo.EdgesOf(p)
	if err != nil {
		return corruptf("%s: %w", o.profile, err)
	}
	file, err := filepath.Abs(o.profile)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "quantraband-pgo-")
	if err != nil {
		return err
	}
	// The go command makes what it caches read-only nowhere but in the module cache, so this removes all.
	defer os.RemoveAll(dir)
	var builds [2]pgoBuild
	for i, flag := range []string{"off", file} {
		if builds[i], err = o.build(ctx, filepath.Join(dir, fmt.Sprint(i)), flag); err != nil {
			return err
		}
	}
	objections := pgo.Guard(builds[0].facts(), builds[1].facts())
	if err := a.tellCheck(o, builds, edges, objections); err != nil {
		return err
	}
	if len(objections) > 0 {
		var texts []string
		for _, ob := range objections {
			texts = append(texts, ob.String())
		}
		return &codedError{exitGate, errors.New(strings.Join(texts, "; "))}
	}
	return nil
}

func (b *pgoBuild) facts() pgo.BuildFacts {
	return pgo.BuildFacts{BinaryBytes: b.Bytes, BuildTime: time.Duration(b.Seconds * float64(time.Second))}
}

// build builds into dir with -pgo=flag. The compiler says by -m what it inlines; what it makes is the same.
func (o *pgoCheckOptions) build(ctx context.Context, dir, flag string) (b pgoBuild, err error) {
	cache := filepath.Join(dir, "cache")
	if err := os.MkdirAll(cache, 0o777); err != nil {
		return b, err
	}
	out := filepath.Join(dir, "program")
	cmd := exec.CommandContext(ctx, o.goTool, "build", "-pgo="+flag, "-gcflags=all=-m", "-o", out, o.pkg)
	cmd.WaitDelay = 10 * time.Second // for what the go command started, where it is interrupted
	cmd.Env = os.Environ()
	if !o.cached {
		cmd.Env = append(cmd.Env, "GOCACHE="+cache)
	}
	said, w := io.Pipe()
	cmd.Stderr = w
	done := make(chan []string)
	go func() { done <- b.count(said) }()
	began := time.Now()
	err = cmd.Run()
	took := time.Since(began)
	w.Close()
	last := <-done
	switch {
	case ctx.Err() != nil:
		return b, context.Canceled
	case errors.Is(err, exec.ErrNotFound):
		return b, fmt.Errorf("%s is not there: pgo check builds with the go command; --go says where it is", o.goTool)
	case err != nil:
		return b, fmt.Errorf("go build -pgo=%s %s: %w: %s", flag, o.pkg, err, strings.Join(last, " "))
	}
	if !o.cached {
		b.Seconds = took.Seconds()
	}
	info, err := os.Stat(out)
	if err != nil {
		return b, fmt.Errorf("go build wrote no program: is %s a package main? %w", o.pkg, err)
	}
	b.Bytes = info.Size()
	return b, nil
}

// count counts what the compiler says, and keeps the last lines that say something else: the errors, if there are any.
func (b *pgoBuild) count(r io.Reader) (last []string) {
	const keep = 5
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := lines.ReadSlice('\n') // of a longer line the parts are looked at one by one
		switch {
		case bytes.Contains(line, []byte(": inlining call to ")):
			b.Inlined++
		case bytes.Contains(line, []byte(": PGO devirtualizing ")):
			b.Devirtualized++
		case len(bytes.TrimSpace(line)) == 0, slices.ContainsFunc(compilerSays, func(s string) bool { return bytes.Contains(line, []byte(s)) }):
		default:
			last = append(last, clip(strings.TrimSpace(string(line)), 300))
			last = last[max(0, len(last)-keep):]
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			io.Copy(io.Discard, r) // so that the go command never waits for us
			return last
		}
	}
}

// compilerSays are the other remarks of -m.
var compilerSays = []string{": can inline ", " escapes to heap", " does not escape", ": moved to heap: ", ": leaking param", "leaking closure", " ignoring self-assignment", ": devirtualizing ", " capturing by ", " stack object ", "zero-copy string->"}

func (a *app) tellCheck(o *pgoCheckOptions, builds [2]pgoBuild, edges *pgo.Edges, objections []pgo.Objection) error {
	if o.asJSON {
		texts := []string{}
		for _, ob := range objections {
			texts = append(texts, ob.String())
		}
		return writeJSON(a.stdout, struct {
			Without    pgoBuild `json:"without"`
			With       pgoBuild `json:"with"`
			Hot        int      `json:"hot_calls"`
			Objections []string `json:"objections"`
		}{builds[0], builds[1], len(edges.Hot()), texts})
	}
	return a.lines("\tWITHOUT\tWITH\t", func(line func(...any)) {
		growth := func(a, b float64) string {
			if a == 0 {
				return ""
			}
			return fmt.Sprintf("%+.1f %%", (b/a-1)*100)
		}
		x, y := builds[0], builds[1]
		line("program", profile.FormatValue(x.Bytes, "bytes"), profile.FormatValue(y.Bytes, "bytes"), growth(float64(x.Bytes), float64(y.Bytes)))
		if !o.cached {
			line("build", fmt.Sprintf("%.1f s", x.Seconds), fmt.Sprintf("%.1f s", y.Seconds), growth(x.Seconds, y.Seconds))
		}
		line("calls inlined", x.Inlined, y.Inlined, growth(float64(x.Inlined), float64(y.Inlined)))
		line("calls made direct", x.Devirtualized, y.Devirtualized, "")
		line("hot calls of the profile", "", len(edges.Hot()), "")
	})
}
