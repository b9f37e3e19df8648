package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/quantra-l/quantra/ingest/files"
	"github.com/quantra-l/quantra/profile"
)

// input is where profiles come from.
type input struct {
	timeout time.Duration // for a URL
	stdin   bool          // standard input was read
}

// source is one opened argument.
type source struct {
	io.ReadCloser
	size     int64     // -1 if unknown
	modified time.Time // when a file was last written; zero if unknown
}

// open opens a file, standard input ("-") or a URL.
func (a *app) open(ctx context.Context, in *input, name string) (source, error) {
	switch {
	case name == "-":
		if in.stdin {
			return source{}, usagef("standard input (-) can be read only once")
		}
		if isTerminal(a.stdin) {
			return source{}, usagef("standard input is a terminal: pipe a profile into it, or name a file")
		}
		in.stdin = true
		return source{ReadCloser: io.NopCloser(a.stdin), size: -1}, nil
	case strings.HasPrefix(name, "http://"), strings.HasPrefix(name, "https://"):
		return download(ctx, name, in.timeout)
	}
	f, err := os.Open(name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return source{}, fmt.Errorf("%s: no such file", name)
		}
		return source{}, pathError("open", name, err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return source{}, pathError("open", name, err)
	}
	if info.IsDir() {
		f.Close()
		return source{}, fmt.Errorf("%s: it is a folder; name the profile files in it", name)
	}
	if !info.Mode().IsRegular() {
		return source{ReadCloser: f, size: -1}, nil
	}
	return source{f, info.Size(), info.ModTime()}, nil
}

// download begins to read what a URL answers, such as a program's
// /debug/pprof/profile. The timeout is for all of it: such a handler answers only
// after the seconds it was asked to profile.
func download(ctx context.Context, url string, timeout time.Duration) (source, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		cancel()
		return source{}, usagef("%w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			return source{}, unavailablef("%s: no answer within %s; --timeout sets how long to wait", url, timeout)
		}
		return source{}, unavailablef("%w", err)
	}
	body := &cancelCloser{resp.Body, cancel}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 200)) // only adds to an error we have
		body.Close()
		return source{}, unavailablef("%s: the server answers %s: %s", url, resp.Status, strings.TrimSpace(string(text)))
	}
	return source{ReadCloser: body, size: resp.ContentLength}, nil
}

type cancelCloser struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (c *cancelCloser) Close() error {
	defer c.cancel()
	return c.ReadCloser.Close()
}

// read reads one profile of any format we understand.
func (a *app) read(ctx context.Context, in *input, name string) (*profile.Profile, error) {
	src, err := a.open(ctx, in, name)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	bar := a.progress("reading "+name, src.size)
	defer bar.end()
	f, err := files.Read(&ctxReader{ctx, bar.reader(src)}, files.Options{Size: src.size})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", argName(name), err)
	}
	if n := len(f.Profiles); n > 1 {
		a.warn(fmt.Sprintf("%s has %d profiles; this is that of %s", argName(name), n, profile.NameOf(f.Main())))
	}
	return f.Main(), nil
}

// argName is an argument as people are told of it.
func argName(name string) string {
	if name == "-" {
		return "standard input"
	}
	return name
}

// ctxReader ends with ctx's error, so that Ctrl-C ends the decoding of a big file.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}
