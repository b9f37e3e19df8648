// Render is a program with real work for its processor, to measure what a profile for the Go compiler gains: it does to
// profile files what quantraband does (decompress, decode, merge, encode; trees, SVG, JSON; tables, filters, text), or
// compiles TypeScript as the dashboard's build does.
//
// As an instance of a fleet it works until it is stopped, under the agent; as a measured one it works a number of rounds
// and ends; and it compares builds of itself, by the processor time of whole processes that take turns. bench/pgo
// has it all in one.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/evanw/esbuild/pkg/api"

	"github.com/quantra-l/quantra/agent"
	"github.com/quantra-l/quantra/profile"
)

func main() {
	log.SetFlags(0)
	corpus := flag.String("corpus", "profile/testdata/corpus/*.pb.gz", "the `files` to work on")
	kind := flag.String("kind", "all", "what to do: read, draw, find or all of profiles; minify, translate or page of TypeScript")
	service := flag.String("service", "render", "the service's name")
	rounds := flag.Int("rounds", 0, "do so many rounds, and end; 0 is to work until -for is over, under the agent")
	length := flag.Duration("for", time.Minute, "how long an instance works")
	busy := flag.Float64("busy", 1, "the part of the time that an instance works")
	instance := flag.String("instance", "", "the instance's name")
	compare := flag.Int("compare", 0, "run each of the programs that follow so many times, in turns, and write what they took")
	flag.Parse()
	if *compare > 0 {
		if err := takeTurns(*compare, *rounds, *kind, *corpus, flag.Args()); err != nil {
			log.Fatal(err)
		}
		return
	}
	files, err := load(*corpus)
	if err != nil {
		log.Fatal(err)
	}
	work, ok := kinds[*kind]
	if !ok {
		log.Fatalf("-kind %s: it must be read, draw, find, all, minify, translate or page", *kind)
	}
	if *rounds > 0 {
		err = repeat(work, files, *rounds)
	} else {
		err = serve(work, files, *service, *instance, *length, *busy)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func load(pattern string) (files [][]byte, err error) {
	names, err := filepath.Glob(pattern)
	if err == nil && len(names) == 0 {
		err = fmt.Errorf("%s: no file is there", pattern)
	}
	for _, name := range names {
		b, e := os.ReadFile(name)
		files, err = append(files, b), errors.Join(err, e)
	}
	return files, err
}

func repeat(work func([]byte) error, files [][]byte, rounds int) error {
	for range rounds {
		for _, b := range files {
			if err := work(b); err != nil {
				return err
			}
		}
	}
	return nil
}

// serve works as an instance of a fleet: for some time, and busy for a part of it.
func serve(work func([]byte) error, files [][]byte, service, instance string, length time.Duration, busy float64) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	a, err := agent.Start(ctx, agent.Options{Service: service, Version: "v1", Instance: instance, Types: agent.CPU, SpoolBytes: -1})
	if err != nil {
		return err
	}
	for end := time.Now().Add(length); time.Now().Before(end) && ctx.Err() == nil; {
		for _, b := range files {
			began := time.Now()
			if err := work(b); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Duration(float64(time.Since(began)) * (1/busy - 1))):
			}
		}
	}
	return a.Stop(context.Background())
}

var kinds = map[string]func([]byte) error{
	"read": read, "draw": draw, "find": find,
	"all":    func(b []byte) error { return errors.Join(read(b), draw(b), find(b)) },
	"minify": minify, "translate": translate,
	"page": func(b []byte) error { return errors.Join(minify(b), translate(b)) },
}

// minify is what the dashboard's build does to a source file.
func minify(b []byte) error {
	return transform(b, api.TransformOptions{MinifySyntax: true, MinifyWhitespace: true, MinifyIdentifiers: true, Target: api.ES2022})
}

// translate is what a build for old browsers does to it.
func translate(b []byte) error {
	return transform(b, api.TransformOptions{Target: api.ES2017, Format: api.FormatIIFE, Sourcemap: api.SourceMapInline})
}

func transform(b []byte, o api.TransformOptions) error {
	o.Loader, o.LogLevel = api.LoaderTS, api.LogLevelSilent
	if r := api.Transform(string(b), o); len(r.Errors) > 0 {
		return errors.New(r.Errors[0].Text)
	}
	return nil
}

// read is what a server does to an upload.
func read(b []byte) error {
	p, _, err := profile.Read(bytes.NewReader(b), profile.Limits{})
	if err != nil {
		return err
	}
	sum, err := profile.Merge(p, p)
	if err != nil {
		return err
	}
	return sum.Encode(io.Discard)
}

// draw is what the dashboard asks for.
func draw(b []byte) error {
	p, _, err := profile.Read(bytes.NewReader(b), profile.Limits{})
	if err != nil {
		return err
	}
	col := p.Column("")
	t := profile.NewTree(p, col)
	return errors.Join(profile.WriteSVG(io.Discard, t, profile.SVGOptions{}), profile.WriteSpeedscope(io.Discard, p), t.Invert().WriteFolded(io.Discard))
}

// find is what the command line asks for.
func find(b []byte) error {
	p, _, err := profile.Read(bytes.NewReader(b), profile.Limits{})
	if err != nil {
		return err
	}
	p, _, err = p.Filter(profile.Filter{Focus: `runtime|encoding/.*\.`, Hide: `^runtime\.(gcBgMarkWorker|systemstack)`, NoInlines: true})
	if err != nil {
		return err
	}
	col := p.Column("")
	var folded bytes.Buffer
	if err := profile.WriteFolded(&folded, p, col); err != nil {
		return err
	}
	if folded.Len() > 0 { // nothing may be in focus
		if _, _, err := profile.Read(&folded, profile.Limits{}); err != nil {
			return err
		}
	}
	t := profile.NewTree(p, col)
	return errors.Join(profile.WriteTop(io.Discard, t.Top(), profile.TextOptions{}), profile.WriteTree(io.Discard, t, profile.TextOptions{}))
}

// takeTurns runs each program n times, and writes the processor time of each run as a benchmark's line: first, second,
// third, and then backwards, so that what the machine does besides strikes all alike.
func takeTurns(n, rounds int, kind, corpus string, programs []string) error {
	if len(programs) < 2 || rounds <= 0 {
		return errors.New("-compare needs -rounds and two programs or more")
	}
	for turn := range n {
		for i := range programs {
			if turn%2 == 1 {
				i = len(programs) - 1 - i
			}
			cmd := exec.Command(programs[i], "-rounds", fmt.Sprint(rounds), "-kind", kind, "-corpus", corpus)
			cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
			cmd.Stderr = os.Stderr
			if err := cmd.Run(); err != nil {
				return fmt.Errorf("%s: %w", programs[i], err)
			}
			took := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
			name := strings.TrimSuffix(filepath.Base(programs[i]), ".exe")
			fmt.Printf("BenchmarkRender/kind=%s/profile=%s %d %d ns/op\n", kind, name, rounds, took.Nanoseconds()/int64(rounds))
		}
	}
	return nil
}
