package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"time"

	"cloud.google.com/go/profiler"
	"github.com/grafana/pyroscope-go"
	"github.com/spf13/cobra"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/quantra-l/quantra/agent"
	"github.com/quantra-l/quantra/cmd/quantraband/demo"
	"github.com/quantra-l/quantra/cmd/quantraband/overhead"
)

// The agents of others that can be measured beside ours.
const (
	variantPyroscope = "pyroscope-go"
	variantCloud     = "cloud-profiler"
)

// subjectService is the name that the profiles have.
const subjectService = "overhead"

// subjectReport is the last line that a subject writes.
type subjectReport struct {
	Failed int64  `json:"failed"` // uploads, and profiles that were dropped or could not be taken
	Error  string `json:"error"`  // the last
}

// benchSubject is the program whose cost `bench overhead` measures: the demo's service with one agent, or none. It ends when its
// standard input does. It is a process of its own for each trial.
func (a *app) benchSubject() *cobra.Command {
	var variant, server, cloud string
	cmd := &cobra.Command{
		Use: "subject", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			signal.Ignore(os.Interrupt) // the parent ends it
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			srv := &http.Server{Handler: demo.NewShop(demo.V1, nil).Handler(), ReadHeaderTimeout: 5 * time.Second}
			served := make(chan error, 1)
			go func() { served <- srv.Serve(ln) }()
			stop, err := startAgent(cmd.Context(), variant, server, cloud)
			if err != nil {
				return errors.Join(err, srv.Close())
			}
			fmt.Fprintf(a.stdout, "listening %s\n", ln.Addr())
			asked := make(chan struct{})
			go func() {
				defer close(asked)
				io.Copy(io.Discard, a.stdin) // an error is an end, too
			}()
			select {
			case <-asked:
			case err := <-served:
				return err
			}
			if err := srv.Close(); err != nil {
				return err
			}
			return json.NewEncoder(a.stdout).Encode(stop())
		},
	}
	cmd.Flags().StringVar(&variant, "variant", overhead.Baseline, "")
	cmd.Flags().StringVar(&server, "server", "", "")
	cmd.Flags().StringVar(&cloud, "cloud", "", "")
	return cmd
}

// startAgent starts the variant's agent, each as its makers' documentation starts it. stop ends it, delivers what is left, and tells how it went.
func startAgent(ctx context.Context, variant, server, cloud string) (stop func() subjectReport, err error) {
	switch variant {
	case overhead.Baseline:
		return func() subjectReport { return subjectReport{} }, nil
	case variantPyroscope:
		return startPyroscope(server)
	case variantCloud:
		return startCloudProfiler(cloud)
	}
	rate, err := strconv.Atoi(variant)
	if err != nil {
		return nil, fmt.Errorf("--variant %q: there is no such variant", variant)
	}
	ag, err := agent.Start(ctx, agent.Options{Service: subjectService, Server: server, CPURate: rate, Region: "local", SpoolBytes: -1})
	if err != nil {
		return nil, err
	}
	return func() subjectReport {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), agentGrace)
		defer cancel()
		err := ag.Stop(end)
		s := ag.Status()
		r := subjectReport{Failed: s.Failed + s.Rejected + s.Dropped + s.Gaps, Error: s.LastError}
		if s.LastGap != "" {
			r.Error = s.LastGap
		}
		if err != nil {
			r.Failed, r.Error = r.Failed+1, err.Error()
		}
		return r
	}, nil
}

// pyroscopeLog keeps what the SDK complains of: an upload that failed is an Errorf.
type pyroscopeLog struct {
	failed atomic.Int64
	last   atomic.Value
}

func (*pyroscopeLog) Infof(string, ...any)  {}
func (*pyroscopeLog) Debugf(string, ...any) {}
func (l *pyroscopeLog) Errorf(format string, args ...any) {
	l.failed.Add(1)
	l.last.Store(fmt.Sprintf(format, args...))
}

// startPyroscope starts Grafana's SDK with what it does by itself where nothing is chosen (DefaultProfileTypes): CPU at 100 Hz, alloc_objects, alloc_space,
// inuse_objects and inuse_space, in windows of 15 s; no goroutine, mutex or block profiles; a garbage collection is forced where there was none in a window.
func startPyroscope(server string) (func() subjectReport, error) {
	log := &pyroscopeLog{}
	p, err := pyroscope.Start(pyroscope.Config{ApplicationName: subjectService, ServerAddress: server, Logger: log})
	if err != nil {
		return nil, err
	}
	return func() subjectReport {
		p.Flush(true)
		var r subjectReport
		if err := p.Stop(); err != nil {
			log.Errorf("stop: %v", err)
		}
		r.Failed = log.failed.Load()
		r.Error, _ = log.last.Load().(string)
		return r
	}, nil
}

// startCloudProfiler starts Google's agent against a server of ours. Project, zone and instance are given and GCE_METADATA_HOST is set
// by who starts this process, as otherwise the agent would ask the metadata service of the machine it runs on.
func startCloudProfiler(addr string) (func() subjectReport, error) {
	if os.Getenv("GCE_METADATA_HOST") == "" {
		return nil, errors.New("cloud-profiler: GCE_METADATA_HOST is not set: the agent would ask the machine's metadata service")
	}
	err := profiler.Start(profiler.Config{
		Service: subjectService, ServiceVersion: "1", ProjectID: "quantra-bench", Zone: "local", Instance: "bench", APIAddr: addr,
	}, option.WithoutAuthentication(), option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	if err != nil {
		return nil, err
	}
	// It has no end: it lives as long as the process. The server counts what arrives.
	return func() subjectReport { return subjectReport{} }, nil
}
