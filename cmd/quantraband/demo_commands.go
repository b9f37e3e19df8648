package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/cmd/quantraband/demo"
)

// demoCommands are the hidden commands that up --demo starts this binary with.
// Their flags are the demo's own affair.
func (a *app) demoCommands() []*cobra.Command {
	type body func(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error
	hidden := func(name string, run body) *cobra.Command {
		return &cobra.Command{
			Use:                name,
			Hidden:             true,
			DisableFlagParsing: true,
			RunE: func(cmd *cobra.Command, args []string) error {
				return run(cmd.Context(), args, a.stdin, a.stdout, a.stderr)
			},
		}
	}
	return []*cobra.Command{hidden(demo.ServiceCommand, demo.ServiceMain), hidden(demo.LoadCommand, demo.LoadMain)}
}

// startDemo starts the fleet. Its agents sign with the key in keyFile; "" is without. It is built anew when a profile is put to the file build.
func startDemo(ctx context.Context, server, region, keyFile, build string, log *slog.Logger) (*demo.Fleet, error) {
	o := demo.FleetOptions{Server: server, Region: region, Build: build, Logger: log}
	if build != "" {
		if err := os.MkdirAll(filepath.Dir(build), 0o755); err != nil {
			return nil, err
		}
	}
	if keyFile != "" {
		o.Env = append(o.Env, keyFileEnv+"="+keyFile)
	}
	return demo.StartFleet(ctx, o)
}
