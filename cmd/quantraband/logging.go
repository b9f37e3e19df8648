package main

import (
	"io"
	"log/slog"

	"github.com/spf13/cobra"
)

// logOptions are the flags of commands that log, on standard error.
type logOptions struct{ level, format string }

func (l *logOptions) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&l.level, "log-level", "info", "`level` to log from: debug, info, warn or error")
	cmd.Flags().StringVar(&l.format, "log-format", "text", "`format` of the log: text or json")
	cmd.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions([]string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("log-format", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

func (l *logOptions) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.level)); err != nil {
		return nil, usagef("--log-level %q: it must be debug, info, warn or error", l.level)
	}
	opt := &slog.HandlerOptions{Level: level}
	switch l.format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opt)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opt)), nil
	}
	return nil, usagef("--log-format %q: it must be text or json", l.format)
}
