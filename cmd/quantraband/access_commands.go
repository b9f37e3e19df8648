package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/access"
)

func grantTexts(grants []access.Grant) string {
	var out []string
	for _, g := range grants {
		out = append(out, g.String())
	}
	return strings.Join(out, ", ")
}

func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.DateTime)
}

func (a *app) userCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "user",
		GroupID: "main",
		Short:   "People who may ask a server: list, create, grant, revoke",
		Long: `Look after the people whom a server lets in. A grant is a role, reader, analyst, operator or admin, or a role for one service, as
operator:checkout. docs/access.md says what each may do.`,
		Example: `  quantraband user create ann@example.com --grant reader --grant operator:checkout
  quantraband user grant ann@example.com analyst`,
	}, a.userList(), a.userCreate(), a.userGrant(), a.userRevoke())
}

func (a *app) userList() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "Everybody, with what was granted",
		Example: `  quantraband user list`,
		Args:    cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		var answer struct{ People []access.Person }
		if err := q.ask(ctx, http.MethodGet, access.APIPath+"/people", nil, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, append([]access.Person{}, answer.People...))
		}
		return a.lines("NAME\tID\tGRANTS\tLAST LOGIN", func(line func(...any)) {
			for _, p := range answer.People {
				line(plain(p.Name), plain(p.ID), plain(grantTexts(p.Grants)), when(p.Last))
			}
		})
	})
	q.serverFlags(cmd)
	return cmd
}

func (a *app) userCreate() *cobra.Command {
	var q question
	var grants []string
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a person, who can then log in by a link",
		Example: `  quantraband user create ann@example.com --grant reader
  quantraband login --link --user ann@example.com`,
		Args: cobra.ExactArgs(1),
	}
	cmd.RunE = q.asking(func(ctx context.Context, args []string) error {
		var answer struct{ Person access.Person }
		if err := q.ask(ctx, http.MethodPost, access.APIPath+"/people", map[string]any{"name": args[0], "grants": grants}, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, answer.Person)
		}
		_, err := fmt.Fprintf(a.stdout, "%s is %s in records\n", plain(answer.Person.Name), plain(answer.Person.ID))
		return err
	})
	q.serverFlags(cmd)
	cmd.Flags().StringArrayVar(&grants, "grant", nil, "a `role`, or role:service; may be given more than once")
	return cmd
}

func (a *app) userGrant() *cobra.Command {
	var q question
	var take []string
	cmd := &cobra.Command{
		Use:   "grant NAME ROLE[:SERVICE]...",
		Short: "Grant roles to a person, and take others with --take",
		Example: `  quantraband user grant ann@example.com analyst operator:checkout
  quantraband user grant ann@example.com --take operator:checkout`,
		Args: cobra.MinimumNArgs(1),
	}
	cmd.RunE = q.asking(func(ctx context.Context, args []string) error {
		var answer struct{ Person access.Person }
		body := map[string]any{"give": args[1:], "take": take}
		if err := q.ask(ctx, http.MethodPost, access.APIPath+"/people/"+url.PathEscape(args[0]), body, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, answer.Person)
		}
		_, err := fmt.Fprintf(a.stdout, "%s has: %s\n", plain(answer.Person.Name), plain(grantTexts(answer.Person.Grants)))
		return err
	})
	q.serverFlags(cmd)
	cmd.Flags().StringArrayVar(&take, "take", nil, "a `role`, or role:service, to take away; may be given more than once")
	return cmd
}

// removal is a command that deletes one thing.
func (a *app) removal(use, short, example, path, done string) *cobra.Command {
	var q question
	cmd := &cobra.Command{Use: use, Short: short, Example: example, Args: cobra.ExactArgs(1)}
	cmd.RunE = q.asking(func(ctx context.Context, args []string) error {
		var answer struct{}
		if err := q.ask(ctx, http.MethodDelete, access.APIPath+path+url.PathEscape(args[0]), nil, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, answer)
		}
		_, err := fmt.Fprintf(a.stdout, "%s %s\n", plain(args[0]), done)
		return err
	})
	q.serverFlags(cmd)
	return cmd
}

func (a *app) userRevoke() *cobra.Command {
	return a.removal("revoke NAME", "Remove a person with her sessions and tokens, at once", `  quantraband user revoke ann@example.com`, "/people/", "is gone, with sessions and tokens")
}

func (a *app) tokenCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "token",
		GroupID: "main",
		Short:   "Tokens by which programs ask a server: list, create, revoke",
		Long:    `Make tokens for programs, with some of the rights that you have. A token's secret is told once; the server keeps what it hashes to.`,
		Example: `  quantraband token create ci --grant reader:checkout --for 720h
  QUANTRA_TOKEN=qlt_... quantraband query services --server https://profiles.example.com`,
	}, a.tokenList(), a.tokenCreate(),
		a.removal("revoke ID", "End a token at once", `  quantraband token revoke t-0123456789abcdef`, "/tokens/", "is revoked"))
}

func (a *app) tokenList() *cobra.Command {
	var q question
	var all bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "Your tokens, or with --all everybody's",
		Example: `  quantraband token list --all`,
		Args:    cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		var answer struct{ Tokens []access.Token }
		if err := q.ask(ctx, http.MethodGet, access.APIPath+"/tokens"+allQuery(all), nil, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, append([]access.Token{}, answer.Tokens...))
		}
		return a.lines("ID\tNAME\tGRANTS\tEXPIRES\tOF", func(line func(...any)) {
			for _, t := range answer.Tokens {
				line(plain(t.ID), plain(t.Name), plain(grantTexts(t.Grants)), when(t.Expires), plain(t.Person))
			}
		})
	})
	q.serverFlags(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "everybody's: for admins")
	return cmd
}

func allQuery(all bool) string {
	if all {
		return "?all=true"
	}
	return ""
}

func (a *app) tokenCreate() *cobra.Command {
	var q question
	var grants []string
	var level string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "create NAME --grant ROLE[:SERVICE]",
		Short: "Make a token, and write its secret to standard output",
		Example: `  quantraband token create prometheus --grant reader
  quantraband token create sdk --grant writer:shop --for 8760h > shop.token`,
		Args: cobra.ExactArgs(1),
	}
	cmd.RunE = q.asking(func(ctx context.Context, args []string) error {
		var answer struct {
			Token  access.Token `json:"token"`
			Secret string       `json:"secret"`
		}
		body := map[string]any{"name": args[0], "grants": grants, "level": level, "for": ttl.String()}
		if err := q.ask(ctx, http.MethodPost, access.APIPath+"/tokens", body, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, answer)
		}
		fmt.Fprintf(a.stderr, "token %s, until %s; its secret is not told again\n", plain(answer.Token.ID), when(answer.Token.Expires))
		_, err := fmt.Fprintln(a.stdout, plain(answer.Secret))
		return err
	})
	q.serverFlags(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&grants, "grant", nil, "a `role` of yours (reader, analyst, operator, admin, writer), or role:service; may be given more than once")
	f.StringVar(&level, "level", "", "what it is worth: basic, verified, privileged or critical, at most your login's (default: verified)")
	f.DurationVar(&ttl, "for", access.DefaultToken, "how long it holds, at most 8784h")
	return cmd
}

func (a *app) sessionCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "session",
		GroupID: "main",
		Short:   "Browsers that are logged in to a server: list, revoke",
		Example: `  quantraband session list --all
  quantraband session revoke 0123456789abcdef`,
	}, a.sessionList(),
		a.removal("revoke ID", "End a session at once", `  quantraband session revoke 0123456789abcdef`, "/sessions/", "has ended"))
}

func (a *app) sessionList() *cobra.Command {
	var q question
	var all bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "Your sessions, or with --all everybody's",
		Example: `  quantraband session list --all`,
		Args:    cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		var answer struct{ Sessions []access.Session }
		if err := q.ask(ctx, http.MethodGet, access.APIPath+"/sessions"+allQuery(all), nil, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, append([]access.Session{}, answer.Sessions...))
		}
		return a.lines("ID\tNAME\tBY\tSEEN\tEXPIRES", func(line func(...any)) {
			for _, s := range answer.Sessions {
				line(plain(s.ID), plain(s.Name), plain(s.How), when(s.Seen), when(s.Expires))
			}
		})
	})
	q.serverFlags(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "everybody's: for admins")
	return cmd
}

func (a *app) loginCommand() *cobra.Command {
	var q question
	var link, out, who bool
	var user string
	cmd := &cobra.Command{
		Use:     "login",
		GroupID: "main",
		Short:   "Keep a token for a server, or make a one-time link to its dashboard",
		Long: `Read a token from standard input, ask the server whose it is, and keep it in a file that only you can read: commands that ask this
server show it from then on. With --link make a one-time link that opens the dashboard in a browser, once and within 10 minutes; that takes
a login of level critical, as that of whoever runs the server on this machine.`,
		Example: `  quantraband login --server https://profiles.example.com   # and the token on standard input
  quantraband login --link
  quantraband login --who
  quantraband login --out --server https://profiles.example.com`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		switch {
		case link:
			return a.makeLink(ctx, &q, user)
		case out:
			return a.keepLogin(&q, "")
		case !who:
			raw, err := readAtMost(a.stdin, 1<<10)
			if err != nil {
				return usagef("the token on standard input: %w", err)
			}
			q.token = strings.TrimSpace(string(raw))
			if q.token == "" {
				return usagef("there is no token on standard input")
			}
		}
		var me access.Me
		if err := q.ask(ctx, http.MethodGet, access.APIPath+"/me", nil, &me); err != nil {
			return err
		}
		if !who {
			if err := a.keepLogin(&q, q.token); err != nil {
				return err
			}
		}
		if q.asJSON {
			return writeJSON(a.stdout, me)
		}
		_, err := fmt.Fprintf(a.stdout, "%s at %s: %s (%s), level %s, with %s\n", plain(me.Name), q.server, plain(me.Principal), plain(me.Kind), plain(me.Level), plain(grantTexts(me.Grants)))
		return err
	})
	q.serverFlags(cmd)
	f := cmd.Flags()
	f.BoolVar(&link, "link", false, "make a one-time link")
	f.StringVar(&user, "user", "", "`name` of the person whom the link logs in (default: the server's owner)")
	f.BoolVar(&out, "out", false, "forget the token that is kept for the server")
	f.BoolVar(&who, "who", false, "say who you are to the server")
	cmd.MarkFlagsMutuallyExclusive("link", "out", "who")
	return cmd
}

func (a *app) makeLink(ctx context.Context, q *question, user string) error {
	var answer struct{ Person, Code, Path, For string }
	if err := q.ask(ctx, http.MethodPost, access.APIPath+"/links", map[string]string{"person": user}, &answer); err != nil {
		return err
	}
	if q.asJSON {
		return writeJSON(a.stdout, answer)
	}
	_, err := fmt.Fprintf(a.stdout, "%s%s\n", q.server, answer.Path)
	return err
}

// keepLogin keeps a token for a server, or forgets it where it is "".
func (a *app) keepLogin(q *question, token string) error {
	path, err := loginsFile()
	if err != nil {
		return err
	}
	logins, err := readLogins()
	if err != nil {
		return err
	}
	server, err := url.Parse(q.server)
	if err != nil {
		return usagef("--server %q: %w", q.server, err)
	}
	if logins == nil {
		logins = map[string]string{}
	}
	if logins[originOf(server)] = token; token == "" {
		delete(logins, originOf(server))
	}
	var raw bytes.Buffer
	enc := json.NewEncoder(&raw)
	enc.SetIndent("", "  ")
	if err := enc.Encode(logins); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return pathError("make", filepath.Dir(path), err)
	}
	return writeSecret(path, strings.TrimSuffix(raw.String(), "\n"))
}
