package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/p2p/direct"
)

func (a *app) p2pGroup() *cobra.Command {
	return a.group(&cobra.Command{
		Use:   "group",
		Short: "Groups of peers: create, list, change, send, history",
		Long: `Speak with a group of peers. Who creates a group is its owner, and alone says who is in it. A message goes to each member by itself, encrypted
to that member, and is kept until the member has it; who was removed gets none from whoever knows of that. Members hear them with
subscribe --private. docs/node-direct.md tells of it.`,
		Example: `  quantraband p2p group create friends --member 12D3KooWQ5JRMQHGTXhPRwwENXfRU1grfMcZGuUXYVqXvUGBpeSR
  quantraband p2p group send 00112233445566778899aabbccddeeff --message hello`,
	}, a.groupCreate(), a.groupList(), a.groupChange(), a.groupSend(), a.groupHistory())
}

// writeGroup says what a group is now.
func (a *app) writeGroup(g groupStatus, asJSON bool) error {
	if asJSON {
		return writeJSON(a.stdout, g)
	}
	_, err := fmt.Fprintf(a.stdout, "%s  %s, %d members\n", plain(g.ID), harmless(g.Name), len(g.Members))
	return err
}

func (a *app) groupCreate() *cobra.Command {
	var q nodeQuestion
	var c creating
	cmd := &cobra.Command{
		Use:     "create NAME --member PEER...",
		Short:   "Make a group of this node and others, whose owner this node is",
		Example: `  quantraband p2p group create friends --member 12D3KooWQ5JRMQHGTXhPRwwENXfRU1grfMcZGuUXYVqXvUGBpeSR`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Name = args[0]
			var g groupStatus
			if err := q.ask(cmd.Context(), http.MethodPost, "/v1/groups/create", c, &g); err != nil {
				return err
			}
			return a.writeGroup(g, q.asJSON)
		},
	}
	q.flags(cmd)
	cmd.Flags().StringSliceVar(&c.Members, "member", nil, "ids of `peers` that are in it")
	return cmd
}

func (a *app) groupList() *cobra.Command {
	var q nodeQuestion
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Groups that this node is in, or was",
		Example: `  quantraband p2p group list
  quantraband p2p group list --json | jq -r '.[].id'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var got struct {
				Groups []groupStatus `json:"groups"`
			}
			if err := q.ask(cmd.Context(), http.MethodGet, "/v1/groups", nil, &got); err != nil {
				return err
			}
			if q.asJSON {
				return writeJSON(a.stdout, got.Groups)
			}
			if len(got.Groups) == 0 {
				_, err := fmt.Fprintln(a.stdout, "this node is in no group")
				return err
			}
			return a.lines("GROUP\tNAME\tMEMBERS\tOWNER\t", func(line func(...any)) {
				for _, g := range got.Groups {
					line(plain(g.ID), harmless(g.Name), len(g.Members), plain(g.Owner), map[bool]string{false: "removed"}[g.Member])
				}
			})
		},
	}
	q.flags(cmd)
	return cmd
}

func (a *app) groupChange() *cobra.Command {
	var q nodeQuestion
	var c changing
	cmd := &cobra.Command{
		Use:     "change GROUP --add PEER --remove PEER",
		Short:   "Add members to a group of this node's, or remove some",
		Example: `  quantraband p2p group change 00112233445566778899aabbccddeeff --remove 12D3KooWQ5JRMQHGTXhPRwwENXfRU1grfMcZGuUXYVqXvUGBpeSR`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(c.Add)+len(c.Remove) == 0 {
				return usagef("group change needs --add PEER or --remove PEER")
			}
			c.Group = args[0]
			var g groupStatus
			if err := q.ask(cmd.Context(), http.MethodPost, "/v1/groups/change", c, &g); err != nil {
				return err
			}
			return a.writeGroup(g, q.asJSON)
		},
	}
	q.flags(cmd)
	cmd.Flags().StringSliceVar(&c.Add, "add", nil, "ids of `peers` that come in")
	cmd.Flags().StringSliceVar(&c.Remove, "remove", nil, "ids of `peers` that go out")
	return cmd
}

func (a *app) groupSend() *cobra.Command {
	var q nodeQuestion
	var m groupSending
	var text string
	cmd := &cobra.Command{
		Use:   "send GROUP",
		Short: "Send a message to all members of a group",
		Long: `Send a message to all members. When this command has ended it is on the node's disk, and goes to each member until that one has it. Without
--message it is read from standard input.`,
		Example: `  quantraband p2p group send 00112233445566778899aabbccddeeff --message hello`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m.Group, m.Body = args[0], []byte(text)
			if !cmd.Flags().Changed("message") {
				var err error
				if m.Body, err = io.ReadAll(io.LimitReader(a.stdin, direct.MaxMessage+1)); err != nil {
					return err
				}
			}
			if len(m.Body) > direct.MaxMessage {
				return usagef("the message has more than %d bytes", direct.MaxMessage)
			}
			var got sent
			if err := q.ask(cmd.Context(), http.MethodPost, "/v1/groups/send", m, &got); err != nil {
				return err
			}
			if q.asJSON {
				return writeJSON(a.stdout, got)
			}
			_, err := fmt.Fprintln(a.stdout, plain(got.ID))
			return err
		},
	}
	q.flags(cmd)
	cmd.Flags().StringVar(&text, "message", "", "`text` of the message (default: standard input)")
	return cmd
}

func (a *app) groupHistory() *cobra.Command {
	var q nodeQuestion
	limit := 100
	cmd := &cobra.Command{
		Use:     "history GROUP",
		Short:   "What was said last in a group",
		Example: `  quantraband p2p group history 00112233445566778899aabbccddeeff --limit 10`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.showHistory(cmd.Context(), &q, url.Values{"limit": {fmt.Sprint(limit)}, "group": {args[0]}})
		},
	}
	q.flags(cmd)
	cmd.Flags().IntVar(&limit, "limit", limit, "so many `messages` at most")
	return cmd
}
