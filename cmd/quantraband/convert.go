package main

import (
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/profile"
)

// formats are what convert writes, with the file names that ask for each.
var formats = []struct {
	name     string
	suffixes []string
	binary   bool
	write    func(w io.Writer, o one, title string) error
}{
	{"pprof", []string{".pb.gz", ".pprof", ".pb", ".prof"}, true, func(w io.Writer, o one, _ string) error {
		return o.p.Encode(w)
	}},
	{"folded", []string{".folded", ".collapsed", ".txt"}, false, func(w io.Writer, o one, _ string) error {
		return profile.WriteFolded(w, o.p, o.col)
	}},
	{"speedscope", []string{".speedscope.json", ".json"}, false, func(w io.Writer, o one, _ string) error {
		return profile.WriteSpeedscope(w, o.p)
	}},
	{"svg", []string{".svg"}, false, func(w io.Writer, o one, title string) error {
		return profile.WriteSVG(w, profile.NewTree(o.p, o.col), profile.SVGOptions{Title: title, Unit: o.sample().Unit})
	}},
	{"top", []string{".top"}, false, func(w io.Writer, o one, _ string) error {
		return profile.WriteTop(w, profile.Top(o.p, o.col), profile.TextOptions{Unit: o.sample().Unit})
	}},
}

func formatNames() string {
	var names []string
	for _, f := range formats {
		names = append(names, f.name)
	}
	return strings.Join(names, ", ")
}

// formatFor is the index in formats that to names, or if it is "" the output's name.
func formatFor(to, out string) (int, error) {
	for i, f := range formats {
		if to == f.name {
			return i, nil
		}
		for _, suffix := range f.suffixes {
			if to == "" && strings.HasSuffix(filepath.Base(out), suffix) {
				return i, nil
			}
		}
	}
	if to == "" && out == "" {
		return 0, usagef("add -o OUT, or --to with one of %s", formatNames())
	}
	if to == "" {
		return 0, usagef("what to convert to is not clear from the name %q: add --to with one of %s", out, formatNames())
	}
	return 0, usagef("--to %q: it must be one of %s", to, formatNames())
}

func (a *app) convertCommand() *cobra.Command {
	var s selection
	var to, out string
	cmd := &cobra.Command{
		Use:   "convert [--to FORMAT] -o OUT FILE...",
		Short: "Write a profile in another format",
		Long: `Write a profile as pprof, folded (one stack a line, for flamegraph.pl),
speedscope (https://www.speedscope.app), svg or top. Without --to the name of the
output says which. pprof and speedscope hold all sample types, the others the one
that --type names.

` + profileInputsHelp,
		Example: `  perf script | quantraband profile convert -o perf.pb.gz -
  quantraband profile convert --to folded cpu.pb.gz | sort -t' ' -k2
  quantraband profile convert -o cpu.speedscope.json cpu.pb.gz`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			i, err := formatFor(to, out)
			if err != nil {
				return err
			}
			o, err := a.load(cmd.Context(), &s, args)
			if err != nil {
				return err
			}
			return a.emit(out, formats[i].binary, func(w io.Writer) error {
				return formats[i].write(w, o, title(args, o.sample()))
			})
		},
	}
	s.flags(cmd)
	cmd.Flags().StringVar(&to, "to", "", "`format`: "+formatNames())
	cmd.Flags().StringVarP(&out, "output", "o", "", "write to `file` (default: standard output)")
	return cmd
}
