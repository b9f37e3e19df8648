package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/watch/alert"
)

func (a *app) alertsCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "alerts",
		GroupID: "main",
		Short:   "Check a file of alert rules, and send a test: check, test",
		Long: `Alerts go out by the rules of the file that up --alerts names; docs/alerts.md has its form. These commands need no
running server.`,
		Example: `  quantraband alerts check alerts.yaml
  quantraband alerts test alerts.yaml --channel oncall`,
	}, a.alertsCheck(), a.alertsTest())
}

func loadAlerts(name string) (*alert.Config, error) {
	c, err := alert.Load(name, os.LookupEnv)
	if errors.Is(err, alert.ErrInvalid) {
		return nil, usagef("%w", err)
	}
	return c, err
}

func (a *app) alertsCheck() *cobra.Command {
	return &cobra.Command{
		Use:     "check FILE",
		Short:   "Say what is wrong with a file of rules, or where each kind of finding goes",
		Example: `  quantraband alerts check alerts.yaml`,
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := loadAlerts(args[0])
			if err != nil {
				return err
			}
			return a.lines("RULE\tCHANNELS\tKINDS", func(line func(...any)) {
				for _, r := range c.Rules {
					line(plain(r.Name), join(r.Channels), join(r.Kinds))
				}
				for _, r := range c.Changes {
					line(plain(r.Name), join(r.Channels), "changes"+map[bool]string{true: " of " + join(r.Kinds)}[len(r.Kinds) > 0]+": "+join(r.What))
				}
				for _, r := range c.Files {
					line(plain(r.Name), join(r.Channels), "files: "+plain(r.MinSeverity)+" and worse")
				}
			})
		},
	}
}

func (a *app) alertsTest() *cobra.Command {
	var channel string
	cmd := &cobra.Command{
		Use:   "test FILE",
		Short: "Send a test to each channel of a file of rules",
		Long: `Send an alert that says that it is a test to each channel, or to one. It fails if one of them does not take it.
PagerDuty opens an incident for it, of severity info.`,
		Example: `  quantraband alerts test alerts.yaml
  quantraband alerts test alerts.yaml --channel oncall`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := loadAlerts(args[0])
			if err != nil {
				return err
			}
			if channel != "" && c.Channel(channel) == nil {
				return usagef("--channel %q: the file has no such channel", channel)
			}
			return a.testAlerts(cmd.Context(), c, channel)
		},
	}
	cmd.Flags().StringVar(&channel, "channel", "", "only to the channel of this `name`")
	return cmd
}

func (a *app) testAlerts(ctx context.Context, c *alert.Config, only string) error {
	now := time.Now().UTC()
	m := alert.Message{ID: "test", Episode: 1, Status: "test", Finding: &analyze.Finding{
		Kind: analyze.Regression, Service: "test", Sentence: "This is sent by `quantraband alerts test`: nothing is wrong.", Unit: "share", From: now.Add(-time.Hour), To: now, P: 1, Q: 1,
	}}
	change := alert.Message{ID: "test-change", Episode: 1, Status: "test", Change: &alert.Change{
		Kind: "runtime", Service: "test", What: "proposed", Time: now, By: me(), Sentence: "This is sent by `quantraband alerts test`: nothing is changed.",
	}}
	failed := 0
	for i := range c.Channels {
		ch := &c.Channels[i]
		if only != "" && ch.Name != only {
			continue
		}
		// What of changes goes to it is told in another form than a finding.
		err := ch.Send(ctx, m)
		if err == nil && hearsOfChanges(c, ch.Name) {
			err = ch.Send(ctx, change)
		}
		if err != nil {
			failed++
			fmt.Fprintf(a.stdout, "%s: failed: %v\n", ch.Name, err)
			continue
		}
		fmt.Fprintf(a.stdout, "%s: sent\n", ch.Name)
	}
	if failed > 0 {
		return unavailablef("%d of the channels did not take it", failed)
	}
	return nil
}

func hearsOfChanges(c *alert.Config, channel string) bool {
	return slices.ContainsFunc(c.Changes, func(r alert.ChangeRule) bool { return slices.Contains(r.Channels, channel) })
}
