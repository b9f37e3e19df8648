package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust"
	"github.com/quantra-l/quantra/zerotrust/policy"
)

// guardDir is where a server's guard keeps its records and revocations, in the data folder.
const guardDir = "guard"

// guardOptions are whom a guard believes.
type guardOptions struct {
	policies   string
	issuers    string
	selfSigned []string
}

func (o *guardOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.policies, "policies", "", "`folder` (or file) of Cedar policies of who may do what, read again when it changes (default: those of quantraband policy standard)")
	f.StringVar(&o.issuers, "issuers", "", "`file` of the ids of those who may vouch for identities and revoke them, one a line")
	f.StringSliceVar(&o.selfSigned, "self-signed", []string{"peer"}, "`kinds` of identities that may vouch for themselves, or none")
}

// options reads the file of issuers.
func (o *guardOptions) options() (out zerotrust.Options, err error) {
	if len(o.selfSigned) != 1 || o.selfSigned[0] != "none" {
		out.SelfSigned = o.selfSigned
	}
	if o.issuers == "" {
		return out, nil
	}
	const most = 1 << 20
	info, err := os.Stat(o.issuers)
	if err == nil && info.Size() > most {
		return out, usagef("--issuers: %s is longer than %d bytes", o.issuers, most)
	}
	raw, err := os.ReadFile(o.issuers)
	if err != nil {
		return out, usagef("--issuers: %w", pathError("read", o.issuers, err))
	}
	n := 0
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		n++
		text, _, _ := strings.Cut(lines.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		key, err := zerotrust.ParseID(text)
		if err != nil {
			return out, usagef("--issuers: %s, line %d: %w", o.issuers, n, err)
		}
		out.Issuers = append(out.Issuers, key)
	}
	if len(out.Issuers) == 0 {
		return out, usagef("--issuers: there is nobody in %s", o.issuers)
	}
	return out, nil
}

// openGuard opens the guard of a server, which believes its own issuer beside those of --issuers, and isolates with room, nil for nothing.
// policies is what keeps its policies fresh; nil where they are the standard ones.
func openGuard(dir string, o guardOptions, issuer seal.PublicKey, room *seats, record func(context.Context, zerotrust.Event) error, log *slog.Logger) (g *zerotrust.Guard, policies *policy.Source, err error) {
	opt, err := o.options()
	if err != nil {
		return nil, nil, err
	}
	if o.policies != "" {
		if policies, err = policy.Open(o.policies, log, nil); err != nil {
			return nil, nil, usagef("--policies: %w", err)
		}
		opt.Policy, opt.PolicyStatus = policies.Set, policies.Status
	} else {
		began := time.Now()
		opt.PolicyStatus = func() policy.Status { return policy.StandardStatus(began) }
	}
	if room != nil {
		opt.Capacity, opt.Isolated, opt.Seats = room.reserve, room.isolated, room.status
	}
	if !slices.Contains(opt.Issuers, issuer) {
		opt.Issuers = append(opt.Issuers, issuer)
	}
	opt.Dir, opt.Record = filepath.Join(dir, guardDir), record
	g, err = zerotrust.New(opt)
	return g, policies, err
}

func (a *app) zerotrustCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "zerotrust",
		GroupID: "main",
		Short:   "The guard: who is connected, and what would be allowed",
		Long:    `Ask the guard of a running server, or judge on files what it would. docs/guard.md tells of it.`,
		Example: `  quantraband zerotrust status
  quantraband zerotrust evaluate --identity node.qid --resource topic/chat --action send`,
	}, a.zerotrustStatus(), a.zerotrustEvaluate(), a.zerotrustConnections(), a.zerotrustTerminate())
}

func (a *app) zerotrustStatus() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "What a server's guard is doing",
		Example: `  quantraband zerotrust status --json`,
		Args:    cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		var st zerotrust.Status
		if err := q.ask(ctx, http.MethodGet, zerotrust.APIPath+"/status", nil, &st); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, st)
		}
		fmt.Fprintf(a.stdout, "%d allowed, %d denied; %d documents verified, %d records, %d connections\n", st.Allowed, st.Denied, st.Verified, st.Records, st.Connections)
		for _, id := range st.Issuers {
			fmt.Fprintf(a.stdout, "issuer %s\n", plain(id))
		}
		for _, l := range st.Revocations {
			fmt.Fprintf(a.stdout, "revocations %d of %s, %s: %d entries\n", l.Number, plain(l.Issuer), l.Issued.Format(time.RFC3339), l.Entries)
		}
		a.writePolicies(st.Policy)
		if err := a.writeSeats(st.Seats); err != nil {
			return err
		}
		if behind := time.Until(st.Clock); behind > time.Minute {
			fmt.Fprintf(a.stdout, "the clock has gone back by %s: expiry goes by %s\n", behind.Round(time.Second), st.Clock.Format(time.RFC3339))
		}
		if st.Fault != "" {
			return unavailablef("%s: trust is not kept: %s", q.server, plain(st.Fault))
		}
		return nil
	})
	q.serverFlags(cmd)
	return cmd
}

func (a *app) zerotrustConnections() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:     "connections",
		Short:   "Who is connected, with trust, level and behaviour",
		Example: `  quantraband zerotrust connections`,
		Args:    cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		var answer struct {
			Connections []zerotrust.Connection `json:"connections"`
		}
		if err := q.ask(ctx, http.MethodGet, zerotrust.APIPath+"/connections", nil, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, answer)
		}
		return a.lines("ID\tPRINCIPAL\tKIND\tTRUST\tLEVEL\tBEHAVIOUR\tSINCE\tREMOTE", func(line func(...any)) {
			for _, c := range answer.Connections {
				line(plain(c.ID), plain(c.Principal), plain(c.Kind), c.Trust, plain(c.Level), fmt.Sprintf("%.2f", c.Score), c.Since.Format(time.RFC3339), plain(c.Remote))
			}
		})
	})
	q.serverFlags(cmd)
	return cmd
}

func (a *app) zerotrustTerminate() *cobra.Command {
	var q question
	var reason string
	cmd := &cobra.Command{
		Use:     "terminate ID",
		Short:   "End a connection",
		Example: `  quantraband zerotrust terminate 5f0c8d2a9b1e4c775f0c8d2a9b1e4c77 --reason 'sends too much'`,
		Args:    cobra.ExactArgs(1),
	}
	cmd.RunE = q.asking(func(ctx context.Context, args []string) error {
		var done struct {
			Terminated bool `json:"terminated"`
		}
		path := zerotrust.APIPath + "/connections/" + url.PathEscape(args[0]) + "/terminate"
		if err := q.ask(ctx, http.MethodPost, path, map[string]string{"reason": reason}, &done); err != nil {
			return err
		}
		_, err := fmt.Fprintf(a.stdout, "%s has ended\n", args[0])
		return err
	})
	q.serverFlags(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return cmd
}

// evaluation is a question to a guard on files.
type evaluation struct {
	guardOptions
	identity, resource, action, isolation string
	data, revocations                     string
	mfa, asJSON                           bool
}

// judged is the answer.
type judged struct {
	Allowed    bool              `json:"allowed"`
	Reason     string            `json:"reason"`
	Principal  string            `json:"principal"`
	Kind       string            `json:"kind"`
	Trust      int               `json:"trust"`
	Level      string            `json:"level"`
	Policies   []string          `json:"policies"`
	Conditions policy.Conditions `json:"conditions"`
}

func (a *app) zerotrustEvaluate() *cobra.Command {
	var o evaluation
	cmd := &cobra.Command{
		Use:   "evaluate --identity FILE --resource PATH",
		Short: "What would be decided of an identity, without a server",
		Long: `Judge on files what a guard would decide of an identity whose owner has shown to have its key. With --data the trust and the
revocations are those that the server of that data folder keeps, which may run; without it a stranger is judged. A denial ends with
code 8.`,
		Example: `  quantraband zerotrust evaluate --identity node.qid --resource topic/chat --action send
  quantraband zerotrust evaluate --identity node.qid --resource critical/keys --action read --isolation process --issuers issuers.txt --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.evaluate(cmd.Context(), &o) },
	}
	o.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.identity, "identity", "", "`file` of the identity")
	f.StringVar(&o.resource, "resource", "", "`path` that it asks for: profiles/aggregate/checkout, topic/chat, critical/keys, ...")
	f.StringVar(&o.action, "action", "connect", "what it wants to do: connect, send, subscribe, read, write, change, administer")
	f.StringVar(&o.isolation, "isolation", "", "what it would run in: wasm, process, oci, microvm (default: nothing)")
	f.StringVar(&o.data, "data", "", "data `folder` of a server, for trust and revocations")
	f.StringVar(&o.revocations, "revocations", "", "`file` of a list of revocations to apply as well")
	f.BoolVar(&o.mfa, "mfa", false, "as if a second factor had been shown")
	f.BoolVar(&o.asJSON, "json", false, "write JSON")
	return cmd
}

func (a *app) evaluate(ctx context.Context, o *evaluation) error {
	if o.identity == "" || o.resource == "" {
		return usagef("evaluate needs --identity FILE and --resource PATH")
	}
	doc, err := readArmoured(o.identity, pemIdentity, maxIdentity)
	if err != nil {
		return err
	}
	d, err := zerotrust.Decode(doc)
	if err != nil {
		return fmt.Errorf("%s: %w", o.identity, err)
	}
	g, err := o.guard()
	if err != nil {
		return err
	}
	defer g.Close()
	if o.revocations != "" {
		raw, _, err := readRevocationList(o.revocations)
		if err != nil {
			return err
		}
		if err := g.Revoke(raw); err != nil {
			return fmt.Errorf("%s: %w", o.revocations, err)
		}
	}
	dec, err := g.Evaluate(ctx, zerotrust.Request{Document: doc, Key: d.Key, Action: o.action, Resource: o.resource, MFA: o.mfa, Isolation: o.isolation})
	if err != nil {
		return err
	}
	dec.Release()
	j := judged{dec.Allow, dec.Reason, dec.Principal, dec.Kind, dec.Trust, dec.Level.String(), dec.Policies, dec.Conditions}
	if o.asJSON {
		err = writeJSON(a.stdout, j)
	} else if j.Allowed {
		_, err = fmt.Fprintf(a.stdout, "allowed: %s (%s)\n  trust %d, level %s\n", j.Reason, strings.Join(j.Policies, ", "), j.Trust, j.Level)
	}
	if err == nil && !j.Allowed {
		err = deniedf("denied: %s", plain(j.Reason))
	}
	return err
}

// guard is a guard on files, which records nothing: nobody is let in. It has a seat for everybody, as seats are not in files.
func (o *evaluation) guard() (*zerotrust.Guard, error) {
	opt, err := o.options()
	if err != nil {
		return nil, err
	}
	opt.ReadOnly = true
	opt.Record = func(context.Context, zerotrust.Event) error { return nil }
	opt.Capacity = func(context.Context, policy.Level) (func(), error) { return func() {}, nil }
	if o.data != "" {
		opt.Dir = filepath.Join(o.data, guardDir)
	}
	return zerotrust.New(opt)
}
