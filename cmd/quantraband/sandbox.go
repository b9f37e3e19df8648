package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/sandbox"
	"github.com/quantra-l/quantra/sandbox/channel"
	"github.com/quantra-l/quantra/sandbox/jail"
	"github.com/quantra-l/quantra/sandbox/microvm"
	"github.com/quantra-l/quantra/sandbox/microvm/guest"
	"github.com/quantra-l/quantra/sandbox/oci"
	"github.com/quantra-l/quantra/sandbox/process"
	"github.com/quantra-l/quantra/sandbox/wasm"
)

// echoWord has this binary be the small guest by which isolations are tried.
const echoWord = "sandbox-echo"

// sandboxChild does not return where this process was started for a sandbox: as the launcher of a jail, as a machine's first process, or as
// the small guest.
func sandboxChild() {
	jail.Main()
	guest.Main()
	if len(os.Args) != 2 || filepath.Base(os.Args[0]) != "handler" || os.Args[1] != echoWord {
		return
	}
	err := channel.Serve(os.Stdin, os.Stdout, func(in io.Reader, out io.Writer) error {
		_, err := io.Copy(out, in)
		return err
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (a *app) sandboxCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "sandbox",
		GroupID: "main",
		Short:   "See what this host can isolate, and run a handler isolated: doctor, run",
		Long: `See what this host can isolate, and run a handler isolated. There are four ways: a WebAssembly module,
a process with nothing around it, a container, a virtual machine. What cannot be had is refused; nothing is run in less than was asked for.`,
		Example: `  quantraband sandbox doctor
  echo hello | quantraband sandbox run --isolation process -- ./handler`,
	}, a.sandboxDoctor(), a.sandboxRun())
}

// sandboxOptions are what both commands take.
type sandboxOptions struct {
	cgroup, runtime, monitor, kernel, cache string
	timeout                                 time.Duration
}

func (o *sandboxOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.cgroup, "cgroup", "", "make cgroups below this `path` of the hierarchy (default: this process's own, or the one above)")
	f.StringVar(&o.runtime, "runtime", "", "the container runtime's `name` or path (default: runsc, or else runc)")
	f.StringVar(&o.monitor, "monitor", "qemu", "what runs virtual machines: qemu or firecracker")
	f.StringVar(&o.kernel, "kernel", "", "the virtual machines' kernel, a `file` with all drivers built in (default: the newest of /boot with its modules)")
	f.StringVar(&o.cache, "cache", "", "keep compiled WebAssembly modules in this `folder`, which nobody else may write to (default: in memory)")
	f.DurationVar(&o.timeout, "start-timeout", time.Minute, "how long a start may take")
}

// pool makes a pool of all isolations that this host has.
func (o *sandboxOptions) pool(deadline time.Duration) (*sandbox.Pool, error) {
	return o.poolOf(sandbox.Options{Deadline: deadline}, sandbox.Kinds())
}

// poolOf makes a pool of those isolations of kinds that this host has.
func (o *sandboxOptions) poolOf(po sandbox.Options, kinds []sandbox.Kind) (*sandbox.Pool, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	echo := []string{self, echoWord}
	po.Isolations, po.Missing, po.StartTimeout = map[sandbox.Kind]sandbox.Isolation{}, map[sandbox.Kind]error{}, o.timeout
	for _, kind := range kinds {
		var iso sandbox.Isolation
		switch kind {
		case sandbox.Wasm:
			if iso, err = wasm.New(wasm.Options{Cache: o.cache}); err != nil {
				return nil, err // a folder that is not to be trusted: the caller's slip, not the host's lack
			}
		case sandbox.Process:
			iso, err = process.New(process.Options{Cgroup: o.cgroup, Echo: echo})
		case sandbox.OCI:
			iso, err = oci.New(oci.Options{Cgroup: o.cgroup, Runtime: o.runtime, Echo: echo})
		case sandbox.MicroVM:
			iso, err = microvm.New(microvm.Options{Cgroup: o.cgroup, Monitor: o.monitor, Kernel: o.kernel, Echo: echo})
		}
		if err != nil {
			po.Missing[kind] = err
			continue
		}
		po.Isolations[kind] = iso
	}
	return sandbox.New(po)
}

func (a *app) sandboxDoctor() *cobra.Command {
	var o sandboxOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Start a small guest in each isolation, and say what is there and how fast",
		Long: `Start a small guest in each isolation, and say what is there, how long the start took, and what holds a
guest: the hypervisor, the kernel, software, or nothing. It looks at what works, not at what is installed: a /dev/kvm that is there and too
slow to use counts as missing.`,
		Example: `  quantraband sandbox doctor
  quantraband sandbox doctor --json | jq -r '.[] | select(.available) | .isolation'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.doctor(cmd.Context(), &o, asJSON) },
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	return cmd
}

func (a *app) doctor(ctx context.Context, o *sandboxOptions, asJSON bool) (err error) {
	pool, err := o.pool(0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.Close()) }()
	var reports []sandbox.Report
	for _, kind := range sandbox.Kinds() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		reports = append(reports, pool.Probe(ctx, kind))
	}
	if asJSON {
		return writeJSON(a.stdout, reports)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "isolation\tavailable\tboundary\tstart\t")
	for _, r := range reports {
		available, start, text := "yes", r.Start.Round(100*time.Microsecond).String(), r.How
		switch {
		case !r.Available:
			available, start, text = "no", "-", r.Reason
		case r.Boundary == sandbox.BoundaryNone:
			available = "to try"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Kind, available, r.Boundary, start, oneLine(text))
	}
	return w.Flush()
}

func (a *app) sandboxRun() *cobra.Command {
	var o sandboxOptions
	var isolation, class string
	var spec sandbox.Spec
	cmd := &cobra.Command{
		Use:   "run --isolation KIND -- HANDLER [ARGUMENT...]",
		Short: "Run a handler for one call: standard input is the request, standard output the answer",
		Long: `Run a handler for one call: standard input is the request, standard output the answer. The handler is a
WebAssembly module (wasip1) for wasm, and a static Linux program for the others; it speaks the protocol of docs/sandbox.md over its
standard input and output, which in Go is one call of a function.`,
		Example: `  echo hello | quantraband sandbox run --isolation wasm -- ./handler.wasm
  quantraband sandbox run --isolation process --class critical --deadline 10s -- ./handler --strict < request > answer`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if isolation == "" {
				return usagef("--isolation is needed: wasm, process, oci or microvm")
			}
			if spec.Isolation, err = sandbox.ParseKind(isolation); err != nil {
				return usagef("--isolation: %w", err)
			}
			if spec.Class, err = sandbox.ParseClass(class); err != nil {
				return usagef("--class: %w", err)
			}
			spec.Handler, spec.Args = args[0], args[1:]
			return a.runSandboxed(cmd.Context(), &o, spec)
		},
	}
	o.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&isolation, "isolation", "", "how to isolate: wasm, process, oci or microvm")
	f.StringVar(&class, "class", "privileged", "what it may use: privileged (512 MiB, half a processor) or critical (1 GiB, one)")
	f.DurationVar(&spec.Deadline, "deadline", time.Minute, "how long it may live")
	f.BoolVar(&spec.Network, "network", false, "grant the host's network (process only)")
	f.BoolVar(&spec.Fixed, "fixed", false, "the same clock and randomness at each start (wasm only)")
	f.BoolVar(&spec.Emulated, "emulated", false, "accept an isolation without a boundary: an emulated machine")
	_ = cmd.RegisterFlagCompletionFunc("isolation", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		kinds := []string{}
		for _, k := range sandbox.Kinds() {
			kinds = append(kinds, string(k))
		}
		return kinds, cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

func (a *app) runSandboxed(ctx context.Context, o *sandboxOptions, spec sandbox.Spec) (err error) {
	if spec.Deadline <= 0 {
		return usagef("--deadline %v: it must be above 0", spec.Deadline)
	}
	spec.Principal = "command line"
	pool, err := o.pool(spec.Deadline)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.Close()) }()
	s, err := pool.Start(ctx, spec)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Stream(ctx, a.stdin, a.stdout)
}
