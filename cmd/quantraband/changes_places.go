package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/policyfile"
)

func (a *app) changesPlaces() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "places",
		Short: "Where replicas, machines and peers are, as the policy names them: can each be reached, and why is nothing proposed there?",
		Long: `Say of each place that the policy of the server names whether it can be reached, and why nothing is proposed there, or what is.
docs/scale.md and docs/rebalance.md tell of places.`,
		Example: `  quantraband changes places`,
		Args:    cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		var raw json.RawMessage
		if err := q.ask(ctx, http.MethodGet, optimize.ChangesPath+"/status", nil, &raw); err != nil {
			return err
		}
		var answer struct {
			Status optimize.Status `json:"status"`
		}
		if err := q.decode(raw, &answer); err != nil {
			return err
		}
		places := answer.Status.Places
		if q.asJSON {
			return writeJSON(a.stdout, append([]optimize.PlaceStatus{}, places...))
		}
		if len(places) == 0 {
			_, err := fmt.Fprintln(a.stderr, "No place is known: the policy names none, they were not asked yet, or another server acts.")
			return err
		}
		return a.lines("SERVICE\tKIND\tPLACE\tASKED\tSAYS", func(line func(...any)) {
			for _, p := range places {
				says := p.Says
				if p.Error != "" {
					says = "Error: " + oneLine(p.Error)
				}
				line(plain(p.Service), plain(string(p.Kind)), plain(p.Place), p.At.Local().Format(time.DateTime), sentenceText(says))
			}
		})
	})
	q.serverFlags(cmd)
	return cmd
}

// listPlaces says where a policy file has what, and within which bounds.
func (a *app) listPlaces(places map[string]*policyfile.Place) error {
	if len(places) == 0 {
		return nil
	}
	return a.lines("SERVICE\tKIND\tPLACE\tBOUNDS", func(line func(...any)) {
		for _, service := range slices.Sorted(maps.Keys(places)) {
			p := places[service]
			if r := p.Replicas; r != nil {
				name, group := r.Place()
				floor, ceiling := r.Rules.Bounds()
				line(plain(service), string(optimize.Scale), plain(name+":"+group), fmt.Sprintf("%d to %d replicas", floor, ceiling))
			}
			if m := p.Machines; m != nil {
				line(plain(service), string(optimize.Machine), plain("projects/"+m.Project+"/zones/"+m.Zone), plain(strings.Join(m.Types, ", ")))
			}
			if p.Peers != nil {
				by := "command"
				if n := len(p.Peers.Members); n > 0 {
					by = fmt.Sprintf("%d nodes", n)
				}
				line(plain(service), string(optimize.Rebalance), by, "-")
			}
		}
	})
}
