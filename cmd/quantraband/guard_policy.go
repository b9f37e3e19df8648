package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/zerotrust/policy"
)

func (a *app) policyCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "policy",
		GroupID: "main",
		Short:   "Who may do what: check, test and explain policies in Cedar, or write the standard set: check, test, explain, standard",
		Long: `Policies say who may do what: peers, agents, people, tokens and services, on paths as profiles/raw/checkout. They are files of
Cedar in a folder; docs/policy.md tells of them. None of these commands needs a server.

What may be done to the fleet, and when, is another policy, of YAML: see "quantraband changes policy".`,
		Example: `  quantraband policy standard > policies/standard.cedar
  quantraband policy check policies
  quantraband policy test policies/tests.yaml`,
	}, a.policyCheck(), a.policyTest(), a.policyExplain(), a.policyStandard())
}

// loadPolicies reads a folder or file of policies; "" is the standard set.
func loadPolicies(name string) (*policy.Set, error) {
	if name == "" {
		return policy.Standard(), nil
	}
	s, err := policy.Load(name)
	if err != nil {
		return nil, usagef("%w", err)
	}
	return s, nil
}

func (a *app) policyCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check DIR|FILE",
		Short: "Say what is wrong with policies, or what they are",
		Long: `Read policies as a server does, and list all that is wrong with them as FILE:LINE:COLUMN (code 2), or what they are: names that
nobody can have, attributes that nothing has and conditions that are not known are wrong, as they would hold nothing.`,
		Example: `  quantraband policy check policies`,
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := loadPolicies(args[0])
			var wrong policy.Errors
			if errors.As(err, &wrong) {
				for _, e := range wrong {
					fmt.Fprintln(a.stdout, sentenceText(e.Error()))
				}
				return usagef("%s: %d things are wrong with these policies; the first is %w", args[0], len(wrong), wrong[0])
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "%s: %d policies in %d files, SHA-256 %s\n", args[0], s.Len(), len(s.Files()), s.Digest())
			return a.lines("POLICY\tEFFECT\tDECIDED\tCONDITIONS\tWHERE", func(line func(...any)) {
				for _, v := range s.Policies() {
					line(plain(v.ID), v.Effect, map[bool]string{true: "natively", false: "by cedar-go"}[v.Native], plain(v.Conditions), fmt.Sprintf("%s:%d", plain(v.File), v.Line))
				}
			})
		},
	}
}

func (a *app) policyTest() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "test FILE",
		Short: "Ask policies what a file of example requests expects of them",
		Long: `Make each request of a file of YAML (docs/format/policy-tests.md), and say where the answer, the policies that decided it or its
conditions are others than it expects (code 1). The policies are those that the file names, or --policy, or the standard set.`,
		Example: `  quantraband policy test policies/tests.yaml
  quantraband policy test tests.yaml --policy policies`,
		Args: cobra.ExactArgs(1),
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		f, err := os.Open(args[0])
		if err != nil {
			return usagef("%w", pathError("read", args[0], err))
		}
		defer f.Close()
		tests, err := policy.DecodeTests(f)
		if err != nil {
			return usagef("%s: %w", args[0], err)
		}
		if dir == "" && tests.Policies != "" {
			if dir = tests.Policies; !filepath.IsAbs(dir) {
				dir = filepath.Join(filepath.Dir(args[0]), dir)
			}
		}
		s, err := loadPolicies(dir)
		if err != nil {
			return err
		}
		failed, silent := 0, s.IDs()
		for _, t := range tests.Tests {
			wrong := t.Run(s)
			if len(wrong) > 0 {
				failed++
			}
			for _, w := range wrong {
				fmt.Fprintf(a.stdout, "%s:%d: %s: %s\n", args[0], t.Line, plain(t.Name), sentenceText(w))
			}
			by := s.Decide(&t.Request).Policies
			silent = slices.DeleteFunc(silent, func(id string) bool { return slices.Contains(by, id) })
		}
		if len(silent) > 0 {
			fmt.Fprintf(a.stderr, "No test is decided by %s.\n", strings.Join(silent, ", "))
		}
		if failed > 0 {
			return fmt.Errorf("%s: %d of %d tests fail", args[0], failed, len(tests.Tests))
		}
		_, err = fmt.Fprintf(a.stdout, "%s: %d tests hold\n", args[0], len(tests.Tests))
		return err
	}
	cmd.Flags().StringVar(&dir, "policy", "", "the `folder` or file of policies, whatever the file of tests names")
	return cmd
}

// explained is what policy explain writes as JSON.
type explained struct {
	Allow      bool             `json:"allow"`
	Reason     string           `json:"reason"`
	Policies   []string         `json:"policies"`
	Conditions string           `json:"conditions,omitempty"`
	Verdicts   []policy.Verdict `json:"verdicts"`
}

func (a *app) policyExplain() *cobra.Command {
	var dir, level, remote, at string
	var asJSON bool
	r := policy.Request{Trust: 50}
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Say how one request is decided, and of each policy why it does or does not match",
		Long: `Decide one request, and say of each policy whether it matches, or which of its conditions is the first that fails. The code is 0
whatever the answer; "policy test" is for scripts.`,
		Example: `  quantraband policy explain --principal ann --kind person --role reader --level verified --action read --resource profiles/aggregate/checkout
  quantraband policy explain --policy policies --principal p1 --kind peer --trust 19 --action connect --resource peer/n1 --json`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		if remote != "" {
			if r.Remote, err = netip.ParseAddr(remote); err != nil {
				return usagef("--remote %q is no address", remote)
			}
		}
		r.Time = time.Now()
		if at != "" {
			if r.Time, err = time.Parse(time.RFC3339, at); err != nil {
				return usagef("--time %q is no time as 2026-01-31T09:30:00Z", at)
			}
		}
		if err := r.SetLevel(level, cmd.Flags().Changed("trust")); err != nil {
			return usagef("--level: %w", err)
		}
		s, err := loadPolicies(dir)
		if err != nil {
			return err
		}
		res, verdicts := s.Explain(&r)
		if asJSON {
			return writeJSON(a.stdout, explained{res.Allow, res.Reason, append([]string{}, res.Policies...), res.Conditions.String(), append([]policy.Verdict{}, verdicts...)})
		}
		return a.writeExplained(&r, &res, verdicts)
	}
	f := cmd.Flags()
	f.StringVar(&dir, "policy", "", "the `folder` or file of policies; without it the standard set")
	f.StringVar(&r.Principal, "principal", "", "`who` asks: an identity's id, or a name")
	f.StringVar(&r.Kind, "kind", "person", "what it is: "+strings.Join(policy.Kinds, ", "))
	f.StringSliceVar(&r.Roles, "role", nil, "its `roles`")
	f.StringVar(&r.Action, "action", "", "what it wants: "+strings.Join(policy.Actions, ", "))
	f.StringVar(&r.Resource, "resource", "", "the `path` that it wants it on, as profiles/raw/checkout")
	f.IntVar(&r.Trust, "trust", r.Trust, "0 to 100")
	f.StringVar(&level, "level", "", "untrusted, basic, verified, privileged or critical; without it what the trust has")
	f.BoolVar(&r.MFA, "mfa", false, "a second factor was shown")
	f.StringVar(&r.Isolation, "isolation", "", "what the session runs in: "+strings.Join(policy.Isolations[1:], ", "))
	f.StringToStringVar(&r.Attributes, "attribute", nil, "a signed attribute, as team=payments")
	f.StringVar(&remote, "remote", "", "the `address` it comes from")
	f.StringVar(&at, "time", "", "`when`, as 2026-01-31T09:30:00Z; without it now")
	f.BoolVar(&asJSON, "json", false, "write JSON")
	for _, name := range []string{"principal", "action", "resource"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is defined above
		}
	}
	return cmd
}

func (a *app) writeExplained(r *policy.Request, res *policy.Result, verdicts []policy.Verdict) error {
	answer := map[bool]string{true: "allowed", false: "denied"}[res.Allow]
	fmt.Fprintf(a.stdout, "%s: %s", answer, res.Reason)
	if len(res.Policies) > 0 {
		fmt.Fprintf(a.stdout, ", by %s", strings.Join(res.Policies, ", "))
	}
	if c := res.Conditions.String(); c != "" {
		fmt.Fprintf(a.stdout, ", with %s", c)
	}
	fmt.Fprintf(a.stdout, "\n%s %s, trust %d, level %s\n", r.Kind, plain(r.Principal), r.Trust, r.Level)
	if len(verdicts) == 0 {
		return nil
	}
	return a.lines("POLICY\tEFFECT\tMATCHES\tBECAUSE THIS IS NOT SO", func(line func(...any)) {
		for _, v := range verdicts {
			why, matches := "-", "yes"
			if !v.Matches {
				why, matches = sentenceText(v.Why), "no"
			}
			line(plain(v.ID), v.Effect, matches, why)
		}
	})
}

func (a *app) policyStandard() *cobra.Command {
	var schema bool
	cmd := &cobra.Command{
		Use:   "standard",
		Short: "Write the standard set, to be kept in a folder and changed there",
		Long: `Write the policies that hold where no folder of policies is given, or the schema that all policies are checked against. What is written
into a folder stays as it is when a later version has another standard set.`,
		Example: `  quantraband policy standard > policies/standard.cedar
  quantraband policy standard --schema`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			text := policy.StandardText()
			if schema {
				text = policy.ModelText()
			}
			_, err := fmt.Fprint(a.stdout, text)
			return err
		},
	}
	cmd.Flags().BoolVar(&schema, "schema", false, "write the schema instead")
	return cmd
}
