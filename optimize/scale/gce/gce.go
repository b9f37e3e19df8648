// Package gce scales what Google's Compute Engine runs: managed instance groups by their size, and machines by their type. It is the
// only room that knows Google's compute client.
//
// It needs compute.instanceGroupManagers.get and .update for groups, and for machines compute.instances.get, .stop, .start and
// .setMachineType, compute.machineTypes.list and .get; and compute.zoneOperations.get (compute.regionOperations.get) for both.
package gce

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"regexp"
	"slices"
	"time"

	compute "google.golang.org/api/compute/v1"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"
	htransport "google.golang.org/api/transport/http"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/scale"
)

const (
	maxAnswer = 32 << 20 // bytes of one answer: a page of 500 machine types is under 1 MiB
	maxSize   = 10000    // replicas; a regional group has up to 4000
)

// Options are of a [Cloud].
type Options struct {
	// Endpoint is the API's base, "" is Google's own. A test, or a private endpoint, has another.
	Endpoint string
	// NoCredentials calls without any; else they are the application-default ones of the environment.
	NoCredentials bool
	// Timeout is how long one call may take, with the operation that it starts; 0 is 30 s.
	Timeout time.Duration
	// Poll is how often a machine is looked at while it changes by itself; 0 is 2 s.
	Poll time.Duration
}

// Cloud is Compute Engine. It implements [scale.Replicas] for managed instance groups, by names as
// projects/P/zones/Z/instanceGroupManagers/N or projects/P/regions/R/instanceGroupManagers/N.
type Cloud struct {
	api *compute.Service
	o   Options
}

var _ scale.Replicas = (*Cloud)(nil)

// New finds the credentials. ctx is for them alone.
func New(ctx context.Context, o Options) (*Cloud, error) {
	o.Timeout, o.Poll = cmp.Or(o.Timeout, 30*time.Second), cmp.Or(o.Poll, 2*time.Second)
	if o.Timeout < 0 || o.Poll < 0 {
		return nil, fmt.Errorf("scale/gce: timeout %v, poll %v: both must be above 0", o.Timeout, o.Poll)
	}
	opts := []option.ClientOption{option.WithScopes(compute.ComputeScope), option.WithUserAgent("quantra")}
	if o.NoCredentials {
		opts = []option.ClientOption{option.WithoutAuthentication()}
	}
	transport, err := htransport.NewTransport(ctx, bounded{http.DefaultTransport}, opts...)
	if err != nil {
		return nil, fmt.Errorf("scale/gce: application-default credentials: %w", err)
	}
	opts = []option.ClientOption{option.WithHTTPClient(&http.Client{Transport: transport})}
	if o.Endpoint != "" {
		opts = append(opts, option.WithEndpoint(o.Endpoint))
	}
	api, err := compute.NewService(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("scale/gce: %w", err)
	}
	return &Cloud{api, o}, nil
}

// bounded holds answers to maxAnswer bytes.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}

// name is a resource's.
type name struct {
	project, zone, region, id string // one of zone and region
}

const segment = `([a-z0-9](?:[-a-z0-9.:]{0,252}[a-z0-9])?)`

var (
	groupName   = regexp.MustCompile(`^projects/` + segment + `/(zones|regions)/` + segment + `/instanceGroupManagers/` + segment + `$`)
	typeName    = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)+$`)
	machineName = regexp.MustCompile(`^projects/` + segment + `/(zones)/` + segment + `/instances/` + segment + `$`)
)

func parse(form *regexp.Regexp, s, example string) (n name, err error) {
	m := form.FindStringSubmatch(s)
	if m == nil {
		return n, fmt.Errorf("scale/gce: %.300q: %w: it must be %s", s, optimize.ErrRefused, example)
	}
	n = name{project: m[1], zone: m[3], id: m[4]}
	if m[2] == "regions" {
		n.zone, n.region = "", m[3]
	}
	return n, nil
}

func parseGroup(s string) (name, error) {
	return parse(groupName, s, "projects/P/zones/Z/instanceGroupManagers/N, or regions/R in place of zones/Z")
}

// Get implements [scale.Replicas].
func (c *Cloud) Get(ctx context.Context, group string) (scale.State, error) {
	n, err := parseGroup(group)
	if err != nil {
		return scale.State{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	var m *compute.InstanceGroupManager
	if n.zone != "" {
		m, err = c.api.InstanceGroupManagers.Get(n.project, n.zone, n.id).Context(ctx).Do()
	} else {
		m, err = c.api.RegionInstanceGroupManagers.Get(n.project, n.region, n.id).Context(ctx).Do()
	}
	if err != nil {
		return scale.State{}, told(group, "get", err)
	}
	if m.TargetSize < 0 || m.TargetSize > maxSize {
		return scale.State{}, fmt.Errorf("scale/gce: %s: it has a target size of %d", group, m.TargetSize)
	}
	st := scale.State{ID: fmt.Sprint(m.Id), Replicas: int(m.TargetSize), Zone: n.zone}
	if a := m.CurrentActions; a != nil {
		// Those that nothing is being done to run; the others are on their way, or out.
		st.Ready = int(a.None)
		st.Current = int(a.None + a.Abandoning + a.Creating + a.CreatingWithoutRetries + a.Deleting + a.Recreating + a.Refreshing + a.Restarting + a.Resuming + a.Starting +
			a.Stopping + a.Suspending + a.Verifying)
	}
	if m.Status != nil && m.Status.Autoscaler != "" {
		st.Owner = "autoscaler " + path.Base(m.Status.Autoscaler)
	}
	return st, nil
}

// Set implements [scale.Replicas]. The API compares nothing on a resize, so the group is looked at just before: somebody who is faster
// than that by some milliseconds is overwritten, and seen by the read after it. There is no dry run either: one sets the size that there
// is, which proves that it may. Machines are ended gracefully by the group: its load balancer drains them, if it has one.
func (c *Cloud) Set(ctx context.Context, group string, was scale.State, n int, dry bool) error {
	g, err := parseGroup(group)
	if err != nil {
		return err
	}
	if n < 0 || n > maxSize {
		return fmt.Errorf("scale/gce: %s: %w: %d replicas: it must be 0 to %d", group, optimize.ErrRefused, n, maxSize)
	}
	now, err := c.Get(ctx, group)
	if err != nil {
		return err
	}
	if now.ID != was.ID || now.Replicas != was.Replicas {
		return fmt.Errorf("scale/gce: %s: %w: it had %d replicas, and somebody set it to %d", group, optimize.ErrRefused, was.Replicas, now.Replicas)
	}
	if dry {
		n = now.Replicas
	} else if n == now.Replicas {
		return nil
	}
	what := fmt.Sprintf("resize to %d", n)
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	var op *compute.Operation
	if g.zone != "" {
		op, err = c.api.InstanceGroupManagers.Resize(g.project, g.zone, g.id, int64(n)).Context(ctx).Do()
	} else {
		op, err = c.api.RegionInstanceGroupManagers.Resize(g.project, g.region, g.id, int64(n)).Context(ctx).Do()
	}
	if err != nil {
		return told(group, what, err)
	}
	return c.finish(ctx, g, group, what, op)
}

// finish waits for an operation. Its error, if it has one, is told.
func (c *Cloud) finish(ctx context.Context, n name, resource, what string, op *compute.Operation) error {
	for op.Status != "DONE" {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("scale/gce: %s: %s: operation %s is %s still: %w", resource, what, op.Name, op.Status, err)
		}
		// The API holds a wait for up to two minutes, so this is no busy loop; a server that does not is asked no more often than Poll says.
		asked := time.NewTimer(c.o.Poll)
		var next *compute.Operation
		var err error
		if n.zone != "" {
			next, err = c.api.ZoneOperations.Wait(n.project, n.zone, op.Name).Context(ctx).Do()
		} else {
			next, err = c.api.RegionOperations.Wait(n.project, n.region, op.Name).Context(ctx).Do()
		}
		if err != nil {
			asked.Stop()
			if ctx.Err() != nil {
				continue // says so
			}
			return fmt.Errorf("scale/gce: %s: %s: operation %s: %v", resource, what, op.Name, err) // what became of it is not known: not final
		}
		op = next
		if op.Status != "DONE" {
			select {
			case <-asked.C:
			case <-ctx.Done():
			}
		}
		asked.Stop()
	}
	if op.Error == nil || len(op.Error.Errors) == 0 {
		return nil
	}
	e := op.Error.Errors[0]
	kind := optimize.ErrRefused
	switch e.Code {
	case "RESOURCE_NOT_FOUND":
		kind = optimize.ErrGone
	// There is no room in the zone now, or something else is being done to it: both pass.
	case "ZONE_RESOURCE_POOL_EXHAUSTED", "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "RESOURCE_NOT_READY", "RESOURCE_IN_USE", "RESOURCE_OPERATION_RATE_EXCEEDED", "INTERNAL_ERROR", "TIMEOUT":
		return fmt.Errorf("scale/gce: %s: %s: %s: %s", resource, what, e.Code, e.Message)
	}
	return fmt.Errorf("scale/gce: %s: %s: %w: %s: %s", resource, what, kind, e.Code, e.Message)
}

// told makes of an API error one that says whether it is final.
func told(resource, what string, err error) error {
	var api *googleapi.Error
	if !errors.As(err, &api) {
		return fmt.Errorf("scale/gce: %s: %s: %w", resource, what, err)
	}
	passing := slices.ContainsFunc(api.Errors, func(e googleapi.ErrorItem) bool {
		return e.Reason == "rateLimitExceeded" || e.Reason == "userRateLimitExceeded" || e.Reason == "resourceNotReady"
	})
	hint := ""
	var kind error
	switch {
	case passing:
	case api.Code == http.StatusNotFound:
		kind = optimize.ErrGone
	case api.Code == http.StatusForbidden:
		kind, hint = optimize.ErrRefused, ": grant it to this account"
	case api.Code == http.StatusBadRequest:
		kind = optimize.ErrRefused
	}
	if kind != nil {
		return fmt.Errorf("scale/gce: %s: %s: %w: %d %s%s", resource, what, kind, api.Code, api.Message, hint)
	}
	return fmt.Errorf("scale/gce: %s: %s: %d %s", resource, what, api.Code, api.Message)
}
