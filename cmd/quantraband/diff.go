package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/profile"
)

func (a *app) diffCommand() *cobra.Command {
	var s selection
	var n int
	var normalize, asJSON bool
	var svg string
	cmd := &cobra.Command{
		Use:   "diff BASE HEAD",
		Short: "What changed between two profiles",
		Long: `Write a table of the functions whose cost changed most from BASE to HEAD, or
with --svg a flame graph in which red grew and blue shrank. Percentages are of each
profile's own total. --normalize scales BASE to HEAD's total, so that a difference in
load is not taken for a difference in code.

` + profileInputsHelp,
		Example: `  quantraband profile diff before.pb.gz after.pb.gz
  quantraband profile diff --normalize --svg diff.svg before.pb.gz after.pb.gz`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			base, err := a.load(cmd.Context(), &s, args[:1])
			if err != nil {
				return err
			}
			s.sampleType = base.sample().Type // HEAD's own default may be another
			head, err := a.load(cmd.Context(), &s, args[1:])
			if err != nil {
				return err
			}
			if base.sample() != head.sample() {
				return corruptf("%s is in %s and %s in %s: they cannot be compared",
					args[0], base.sample().Unit, args[1], head.sample().Unit)
			}
			d := profile.NewDiffTree(profile.NewTree(base.p, base.col), profile.NewTree(head.p, head.col), normalize)
			if svg != "" {
				return a.emit(svg, false, func(w io.Writer) error {
					return profile.WriteDiffSVG(w, d, profile.SVGOptions{
						Title: args[0] + " -> " + title(args[1:], head.sample()), Unit: head.sample().Unit,
					})
				})
			}
			return a.writeDiff(d, head.sample(), n, asJSON)
		},
	}
	s.flags(cmd)
	cmd.Flags().IntVarP(&n, "count", "n", 30, "rows to write, 0 for all")
	cmd.Flags().BoolVar(&normalize, "normalize", false, "scale BASE to the total of HEAD")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	cmd.Flags().StringVar(&svg, "svg", "", "write a flame graph of the difference to `file`")
	return cmd
}

func (a *app) writeDiff(d *profile.DiffTree, t profile.ValueType, n int, asJSON bool) error {
	rows := d.Top()
	if asJSON {
		out := newTable(t, d.Total[0], rows, n)
		out.Base = &d.BaseTotal[0]
		return writeJSON(a.stdout, out)
	}
	return profile.WriteTop(a.stdout, rows, profile.TextOptions{
		Unit: t.Unit, Total: d.Total[0], Base: d.BaseTotal[0], N: n, Diff: true,
	})
}
