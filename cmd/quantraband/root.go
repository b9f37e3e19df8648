package main

import (
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// app is what every command shares: the three streams, and how far the run came.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	// ran says that the command line was accepted and the command itself
	// began. An error before that is the command line's.
	ran bool
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "quantraband",
		Short: "Find what is slow, in files and in running fleets",
		Long: `quantraband keeps profiles of running programs and draws them.

Start the server with its dashboard, look at any profile file without a server,
or ask a running server from the shell.`,
		Example: `  quantraband up --demo                # a server, a dashboard, and something to see
  quantraband profile top cpu.pb.gz    # the functions that cost most
  quantraband query top --service checkout --type cpu --since 1h`,
		SilenceErrors:     true, // finish says them, once
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		PersistentPreRun:  func(*cobra.Command, []string) { a.ran = true },
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddGroup(
		&cobra.Group{ID: "main", Title: "Commands:"},
		&cobra.Group{ID: "about", Title: "About quantraband:"},
	)
	root.SetHelpCommandGroupID("about")
	root.AddCommand(
		a.upCommand(),
		a.nodeCommand(),
		a.p2pCommand(),
		a.profileCommand(),
		a.queryCommand(),
		a.ingestCommand(),
		a.symbolsCommand(),
		a.gateCommand(),
		a.costCommand(),
		a.agentsCommand(),
		a.targetsCommand(),
		a.tasksCommand(),
		a.findingsCommand(),
		a.changesCommand(),
		a.auditCommand(),
		a.policyCommand(),
		a.integrityCommand(),
		a.alertsCommand(),
		a.identityCommand(),
		a.zerotrustCommand(),
		a.userCommand(),
		a.accessCommand(),
		a.tokenCommand(),
		a.sessionCommand(),
		a.loginCommand(),
		a.enrolCommand(),
		a.tlsCommand(),
		a.transitionsCommand(),
		a.pgoCommand(),
		a.storeCommand(),
		a.keyCommand(),
		a.encryptCommand(),
		a.decryptCommand(),
		a.signCommand(),
		a.verifyCommand(),
		a.sandboxCommand(),
		a.liveTopCommand(),
		a.benchCommand(),
		a.versionCommand(),
		a.completionCommand(),
		exitCodesTopic(),
	)
	root.AddCommand(a.demoCommands()...)
	return root
}

// group makes cmd a mere holder of others: called by itself, or with a name it
// does not hold, it is a usage error. (cobra would print help and succeed.)
func (a *app) group(cmd *cobra.Command, held ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(held...)
	cmd.Args = cobra.ArbitraryArgs
	cmd.SuggestionsMinimumDistance = 2
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef("%s needs a command after it; see `%[1]s --help`", cmd.CommandPath())
		}
		hint := ""
		if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
			hint = " (did you mean " + strings.Join(like, " or ") + "?)"
		}
		return usagef("%s has no command %q%s; see `%[1]s --help`", cmd.CommandPath(), args[0], hint)
	}
	return cmd
}

func exitCodesTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes mean",
		Long:  exitCodesHelp,
	}
}

func (a *app) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "completion bash|zsh|fish|powershell",
		GroupID: "about",
		Short:   "Write a shell's completion script",
		Long:    `Write the script that lets a shell complete quantraband's commands, flags and values.`,
		Example: `  source <(quantraband completion bash)
  quantraband completion zsh > "${fpath[1]}/_quantraband"
  quantraband completion fish > ~/.config/fish/completions/quantraband.fish
  quantraband completion powershell | Out-String | Invoke-Expression`,
		Args:                  cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs:             []string{"bash", "zsh", "fish", "powershell"},
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.stdout)
			case "fish":
				return root.GenFishCompletion(a.stdout, true)
			default:
				return root.GenPowerShellCompletionWithDesc(a.stdout)
			}
		},
	}
}
