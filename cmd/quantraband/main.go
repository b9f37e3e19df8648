// Command quantraband is Quantra-L's one binary: the profile server with its
// dashboard (up), the tools on profile files (profile), and the questions to a
// running server (query).
//
// This package is flags, environment, wiring and exit codes, and nothing else:
// it is the only place where the rooms meet, and the only one that reads flags
// and environment variables for them.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	sandboxChild() // what a sandbox is made of starts this binary again
	// The first signal asks the command to end; the second, whose default is
	// restored by then, ends the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the whole command as a function: what it was told, what it reads,
// where it writes, and the exit code (see exit.go) it ends with.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	return a.finish(cmd, err)
}
