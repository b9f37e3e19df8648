package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/bucket"
	"github.com/quantra-l/quantra/symbols"
)

// symbolsDir is where symbols are kept in the data folder of a server whose profiles are in ClickHouse.
const symbolsDir = "symbols"

// openSymbols keeps symbols beside the blocks: servers that share the bucket share them.
func (e *engine) openSymbols(ctx context.Context, dir string, log *slog.Logger) (err error) {
	at := e.bucket
	if at == nil {
		e.folder, err = bucket.Open(ctx, folderURL(filepath.Join(dir, symbolsDir)), bucket.Options{Create: true})
		if err != nil {
			return err
		}
		at = e.folder
	}
	e.symbols, err = symbols.NewStore(symbols.StoreOptions{Bucket: at, CacheBytes: e.share.symbols / 3, Logger: log}) // it counts what takes three times that in memory
	return err
}

// namesOf names functions of profiles that arrive. A bucket that does not answer is no reason to refuse a profile: it is named when it is read.
func namesOf(s *symbols.Store, log *slog.Logger) func(context.Context, string, *profile.Profile) *profile.Profile {
	return func(ctx context.Context, tenant string, p *profile.Profile) *profile.Profile {
		out, err := s.Named(ctx, cmp.Or(tenant, store.DefaultTenant), p, symbols.Arriving)
		if err != nil {
			if ctx.Err() == nil {
				log.Warn("a profile is kept without names for its addresses: the symbols cannot be read", "err", err)
			}
			out = symbols.Resolve(p, nil, symbols.Arriving)
		}
		return symbols.Demangle(out)
	}
}

// named is a store whose sums of profiles have names for addresses that were kept without: symbols came later than the profiles.
type named struct {
	store.Store
	symbols *symbols.Store
}

// Select is the store's, with names.
func (n named) Select(ctx context.Context, q store.Query) (*store.Result, error) {
	res, err := n.Store.Select(ctx, q)
	if err != nil || res.Profile == nil {
		return res, err
	}
	p, err := n.symbols.Named(ctx, cmp.Or(q.Tenant, store.DefaultTenant), res.Profile, symbols.Kept)
	out := *res
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		out.Warnings = append(append([]string{}, res.Warnings...), "the symbols cannot be read now, so some functions are shown by their addresses")
		return &out, nil
	}
	out.Profile = p
	return &out, nil
}

func (a *app) symbolsCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "symbols",
		GroupID: "main",
		Short:   "Names for profiles that have addresses only: upload, list",
		Long: `Profiles of native programs may have addresses and the build ids of binaries, and no names. Give a running server the
symbols of the binaries, and it names what arrives from then on, and what it has, whenever that is looked at.
docs/symbols.md says what is read of a binary.`,
		Example: `  quantraband symbols upload bin/server lib/*.so
  quantraband symbols list`,
	}, a.symbolsUpload(), a.symbolsList())
}

func (a *app) symbolsUpload() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "upload BINARY...",
		Short: "Send the symbols of ELF binaries to a running server",
		Long: `Read functions, lines and inlined calls of ELF binaries (debug information, a Go program's own table, symbols), and send
them to a running server: a table of some megabytes, never the binary. Each must have a build id. One that cannot be
read does not stop the others; the exit code is then that of the first.

It takes a token with the role writer, or an admin; the server's own user needs neither.`,
		Example: `  quantraband symbols upload bin/server
  quantraband symbols upload /usr/lib/debug/.build-id/*/*.debug --json`,
		Args: cobra.MinimumNArgs(1),
	}
	cmd.RunE = q.asking(func(ctx context.Context, names []string) error {
		return a.uploadSymbols(ctx, &q, names)
	})
	q.serverFlags(cmd)
	return cmd
}

// uploadedSymbols is what became of one binary.
type uploadedSymbols struct {
	Binary string        `json:"binary"`
	Kept   *symbols.Info `json:"kept,omitempty"`
	Reason string        `json:"reason,omitempty"`
}

func (a *app) uploadSymbols(ctx context.Context, q *question, names []string) error {
	var all []uploadedSymbols
	var first error
	failed := 0
	for _, name := range names {
		info, err := a.uploadBinary(ctx, q, name)
		if errors.Is(err, context.Canceled) {
			return err
		}
		u := uploadedSymbols{Binary: name}
		if err != nil {
			failed++
			if u.Reason = err.Error(); first == nil {
				first = fmt.Errorf("%s: %w", name, err)
			}
		} else {
			u.Kept = &info
		}
		all = append(all, u)
		if q.asJSON {
			continue
		}
		if err != nil {
			fmt.Fprintf(a.stdout, "skipped  %s: %s\n", plain(name), plain(oneLine(u.Reason)))
			continue
		}
		fmt.Fprintf(a.stdout, "kept     %s: %d functions, %d inlined calls, %d lines (%s), %s, build id %s\n",
			plain(name), info.Functions, info.Inlined, info.Lines, info.Source, sizeText(info.Bytes), plain(strings.Join(info.BuildIDs, " ")))
	}
	if q.asJSON {
		if err := writeJSON(a.stdout, all); err != nil {
			return err
		}
	}
	if first != nil {
		return &codedError{exitCode(first), fmt.Errorf("%d of %d binaries were skipped; the first is %w", failed, len(names), first)}
	}
	return nil
}

// uploadBinary sends the symbols of one binary.
func (a *app) uploadBinary(ctx context.Context, q *question, name string) (info symbols.Info, err error) {
	f, err := os.Open(name)
	if err != nil {
		return info, pathError("open", name, err)
	}
	defer f.Close()
	if stat, err := f.Stat(); err != nil || !stat.Mode().IsRegular() {
		return info, corruptf("it is no regular file")
	}
	t, err := symbols.ReadBinary(f, name)
	if err != nil {
		return info, corruptf("%w", err)
	}
	raw := t.Encode()
	if len(raw) > symbols.MaxTable {
		return info, corruptf("its symbols have %d bytes, the limit is %d; upload the binary without its debug information (strip --strip-debug)", len(raw), symbols.MaxTable)
	}
	err = q.ask(ctx, http.MethodPost, symbols.Path, symbols.Pack(raw), &info)
	return info, err
}

func (a *app) symbolsList() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "list",
		Short: "The binaries of which the server has symbols",
		Example: `  quantraband symbols list
  quantraband symbols list --json | jq '.[].buildIds'`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		var answer struct{ Symbols []symbols.Info }
		if err := q.ask(ctx, http.MethodGet, symbols.Path, nil, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, append([]symbols.Info{}, answer.Symbols...))
		}
		return a.lines("FILE\tSOURCE\tFUNCTIONS\tINLINED\tLINES\tSIZE\tUPLOADED\tBUILD ID", func(line func(...any)) {
			for _, s := range answer.Symbols {
				line(plain(s.File), plain(s.Source), s.Functions, s.Inlined, s.Lines, sizeText(s.Bytes), s.Uploaded.Format(time.RFC3339), plain(strings.Join(s.BuildIDs, " ")))
			}
		})
	})
	q.serverFlags(cmd)
	return cmd
}
