package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/access"
)

// enrolEnv is an enrolment token, which would be seen on a command line.
const enrolEnv = "QUANTRA_ENROL_TOKEN"

func (a *app) enrolCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "enrol",
		GroupID: "main",
		Short:   "Let programs send profiles: one-time tokens for agents, list, revoke",
		Long: `An agent enrols once, by a one-time token, and from then on signs what it sends by its own key. docs/access.md tells of it; agents that
cannot sign show a token with the role writer instead (` + "`quantraband token create`" + `).`,
		Example: `  quantraband enrol create --service checkout
  QUANTRA_ENROL_TOKEN=qle_... quantraband agents enrol --key /var/lib/checkout/agent.key --server https://profiles.example.com`,
	}, a.enrolCreate(), a.enrolList(),
		a.removal("revoke ID", "Take an agent's right to send, at once", `  quantraband enrol revoke 12D3KooWGzBfvbVgxg9qYT7hTFkAkJcPhZiuxvdwDjRWqYvNkXxg`, "/agents/", "sends no more"))
}

func (a *app) enrolCreate() *cobra.Command {
	var q question
	var note string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:     "create",
		Short:   "Make a one-time token, and write it to standard output",
		Example: `  quantraband enrol create --service checkout --for 24h`,
		Args:    cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		var answer struct {
			Secret string `json:"secret"`
		}
		body := map[string]string{"service": q.service, "note": note, "for": ttl.String()}
		if err := q.ask(ctx, http.MethodPost, access.APIPath+"/enrol", body, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, answer)
		}
		_, err := fmt.Fprintln(a.stdout, plain(answer.Secret))
		return err
	})
	q.serverFlags(cmd)
	f := cmd.Flags()
	f.StringVarP(&q.service, "service", "s", "", "the only `service` whose profiles it may send (default: any)")
	f.StringVar(&note, "note", "", "what it is, for people")
	f.DurationVar(&ttl, "for", access.EnrolTTL, "how long the token holds, 1m to 168h")
	return cmd
}

func (a *app) enrolList() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "The agents that have enrolled",
		Example: `  quantraband enrol list --json`,
		Args:    cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		var answer struct{ Agents []access.Agent }
		if err := q.ask(ctx, http.MethodGet, access.APIPath+"/agents", nil, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, append([]access.Agent{}, answer.Agents...))
		}
		return a.lines("ID\tSERVICE\tENROLLED\tEXPIRES\tNOTE", func(line func(...any)) {
			for _, g := range answer.Agents {
				line(plain(g.ID), plain(g.Service), when(g.Enrolled), when(g.Expires), plain(g.Note))
			}
		})
	})
	q.serverFlags(cmd)
	return cmd
}

func (a *app) agentsEnrol() *cobra.Command {
	var q question
	var keyFile string
	cmd := &cobra.Command{
		Use:   "enrol --key FILE",
		Short: "Enrol this machine's agent: its key is known to the server from then on",
		Long: `Enrol by a one-time token, which is in ` + enrolEnv + ` or comes on standard input. The key is made if the file is not there; give the agent
the same file (` + keyFileEnv + `, or Options.KeyFile).`,
		Example: `  quantraband enrol create -s checkout | quantraband agents enrol --key agent.key`,
		Args:    cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		if keyFile == "" {
			return usagef("enrol needs --key FILE")
		}
		token := os.Getenv(enrolEnv)
		if token == "" {
			raw, err := readAtMost(a.stdin, 1<<10)
			if err != nil {
				return usagef("the enrolment token on standard input: %w", err)
			}
			token = string(raw)
		}
		token = strings.TrimSpace(token)
		key, err := keyIn(keyFile, true, nil)
		if err != nil {
			return err
		}
		proof, err := access.EnrolProof(key, token)
		if err != nil {
			return err
		}
		public := key.Public()
		var answer struct{ Agent access.Agent }
		if err := q.ask(ctx, http.MethodPost, access.APIPath+"/agents", map[string]any{"token": token, "key": public[:], "proof": proof[:]}, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, answer.Agent)
		}
		_, err = fmt.Fprintf(a.stdout, "%s has enrolled, until %s\n", plain(answer.Agent.ID), when(answer.Agent.Expires))
		return err
	})
	q.serverFlags(cmd)
	cmd.Flags().StringVar(&keyFile, "key", "", "`file` of the agent's key; it is made if it is not there")
	return cmd
}

// readAtMost reads all of r, which must have no more than n bytes.
func readAtMost(r io.Reader, n int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, n+1))
	if err == nil && int64(len(raw)) > n {
		err = fmt.Errorf("it has more than %d bytes", n)
	}
	return raw, err
}
