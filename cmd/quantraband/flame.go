package main

import (
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/profile"
)

// drawing is how a flame graph is drawn: in the terminal, or into an SVG file.
type drawing struct {
	svg, colour string
	width       int
}

func (d *drawing) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&d.svg, "svg", "", "write an SVG to `file` (- for standard output) instead of drawing here")
	f.StringVar(&d.colour, "color", "auto", "colours: `auto`, always or never")
	f.IntVar(&d.width, "width", 0, "columns to draw at (default: the terminal's)")
}

// draw draws tree.
func (a *app) draw(d *drawing, tree *profile.Tree, t profile.ValueType, title string) error {
	if d.svg != "" {
		return a.emit(d.svg, false, func(w io.Writer) error {
			return profile.WriteSVG(w, tree, profile.SVGOptions{Title: title, Unit: t.Unit})
		})
	}
	colour, err := colours(a.stdout, d.colour)
	if err != nil {
		return err
	}
	width := d.width
	if width <= 0 {
		width = columns(a.stdout)
	}
	return profile.WriteFlame(a.stdout, tree, profile.FlameOptions{Width: width, Unit: t.Unit, Colour: colour})
}

func (a *app) flameCommand() *cobra.Command {
	var s selection
	var d drawing
	var out string
	cmd := &cobra.Command{
		Use:   "flame FILE...",
		Short: "Draw a flame graph, in the terminal or as SVG",
		Long: `Draw a flame graph in the terminal, or with --svg into a file that any browser
opens: one that can be zoomed and searched and refers to nothing outside itself.

` + profileInputsHelp,
		Example: `  quantraband profile flame cpu.pb.gz
  quantraband profile flame --svg cpu.svg cpu.pb.gz
  quantraband profile flame -t alloc_space --focus 'json' heap.pb.gz`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out != "" {
				if d.svg != "" {
					return usagef("give --svg or -o, not both")
				}
				if !strings.HasSuffix(out, ".svg") {
					return usagef("-o %s: a flame graph is written as SVG, so the name must end in .svg", out)
				}
				d.svg = out
			}
			o, err := a.load(cmd.Context(), &s, args)
			if err != nil {
				return err
			}
			return a.draw(&d, profile.NewTree(o.p, o.col), o.sample(), title(args, o.sample()))
		},
	}
	s.flags(cmd)
	d.flags(cmd)
	cmd.Flags().StringVarP(&out, "output", "o", "", "the same as --svg, for a `file` that ends in .svg")
	return cmd
}

// title names a drawing after its files.
func title(names []string, t profile.ValueType) string {
	name := names[0]
	if len(names) > 1 {
		name += " and others"
	}
	return name + ", " + t.Type
}
