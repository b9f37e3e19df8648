package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/access"
)

func (a *app) accessCommand() *cobra.Command {
	mfa := a.group(&cobra.Command{
		Use:   "mfa",
		Short: "Second factors: enrol, list, remove",
		Long: `Look after people's second factors: six digits that an authenticator shows, by time (TOTP). She shows them to the dashboard when
she logs in; what a policy gives with @mfa("required") is then hers.`,
		Example: `  quantraband access mfa enrol ann@example.com
  quantraband access mfa list`,
	}, a.mfaEnrol(), a.mfaList(),
		a.removal("remove NAME", "Take a person's second factor away, with the sessions that it raised", `  quantraband access mfa remove ann@example.com`, "/mfa/", "has no second factor any more"))
	return a.group(&cobra.Command{
		Use:     "access",
		GroupID: "main",
		Short:   "What people show to be let in: second factors",
		Long:    `Look after what people show to be let in. People and what they may are ` + "`quantraband user`" + `; docs/access.md tells of both.`,
		Example: `  quantraband access mfa enrol ann@example.com`,
	}, mfa)
}

func (a *app) mfaEnrol() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "enrol NAME",
		Short: "Give a person a new second factor, and write what her authenticator takes to standard output",
		Long: `Give a person a new second factor, in place of the one that she has. What is written is an address that authenticators take, as a QR
code or by hand; it has the secret, which is told once, so pass it on as you would a password.`,
		Example: `  quantraband access mfa enrol ann@example.com`,
		Args:    cobra.ExactArgs(1),
	}
	cmd.RunE = q.asking(func(ctx context.Context, args []string) error {
		var answer struct {
			Person string `json:"person"`
			URI    string `json:"uri"`
		}
		if err := q.ask(ctx, http.MethodPost, access.APIPath+"/mfa", map[string]string{"person": args[0]}, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, answer)
		}
		u, err := url.Parse(answer.URI)
		if err != nil {
			return err
		}
		if _, err = fmt.Fprintln(a.stdout, plain(answer.URI)); err == nil {
			fmt.Fprintf(a.stderr, "by hand: the key %s, by time, 6 digits; it is not told again\n", plain(u.Query().Get("secret")))
		}
		return err
	})
	q.serverFlags(cmd)
	return cmd
}

func (a *app) mfaList() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "Who has a second factor",
		Example: `  quantraband access mfa list`,
		Args:    cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		var answer struct{ Factors []access.Factor }
		if err := q.ask(ctx, http.MethodGet, access.APIPath+"/mfa", nil, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, append([]access.Factor{}, answer.Factors...))
		}
		return a.lines("NAME\tID\tSINCE\tSHOWN", func(line func(...any)) {
			for _, f := range answer.Factors {
				shown := "not yet"
				if f.Confirmed {
					shown = "yes"
				}
				line(plain(f.Name), plain(f.Person), when(f.Created), shown)
			}
		})
	})
	q.serverFlags(cmd)
	return cmd
}
