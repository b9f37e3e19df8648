package gce

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	compute "google.golang.org/api/compute/v1"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/scale"
)

// maxShapes bounds a list of machine types: a zone has some 600.
const maxShapes = 5000

// Shapes are the machine types of a zone.
func (c *Cloud) Shapes(ctx context.Context, project, zone string) (out []scale.Shape, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	err = c.api.MachineTypes.List(project, zone).MaxResults(500).Pages(ctx, func(l *compute.MachineTypeList) error {
		for _, t := range l.Items {
			out = append(out, shape(t))
		}
		if len(out) > maxShapes {
			return fmt.Errorf("more than %d machine types", maxShapes)
		}
		return nil
	})
	if err != nil {
		return nil, told("projects/"+project+"/zones/"+zone, "list of machine types", err)
	}
	return out, nil
}

func shape(t *compute.MachineType) scale.Shape {
	s := scale.Shape{Name: t.Name, Cores: float64(t.GuestCpus), Memory: float64(t.MemoryMb) * (1 << 20)}
	switch {
	case t.IsSharedCpu:
		s.Odd = "its cores are shared"
	case len(t.Accelerators) > 0:
		s.Odd = "it has accelerators"
	case t.BundledLocalSsds != nil && t.BundledLocalSsds.PartitionCount > 0:
		s.Odd = "it has local SSDs, whose data a stop loses"
	case t.Deprecated != nil && t.Deprecated.State != "" && t.Deprecated.State != "ACTIVE":
		s.Odd = "it is " + strings.ToLower(t.Deprecated.State)
	}
	return s
}

// Machine is the type of a machine by its name as projects/P/zones/Z/instances/N, and why that cannot be changed by a plan; "" is nothing.
func (c *Cloud) Machine(ctx context.Context, resource string) (typ, unfitFor string, err error) {
	_, inst, err := (&Machines{MachineOptions{Cloud: c}}).get(ctx, resource)
	if err != nil {
		return "", "", err
	}
	return path.Base(inst.MachineType), unfit(inst), nil
}

// MachineOptions are of [Machines].
type MachineOptions struct {
	Cloud *Cloud
	// Rejoined says that a machine has been heard of again since a time: its agent uploads, its load balancer sends to it.
	Rejoined func(ctx context.Context, t optimize.Target, since time.Time) (bool, error)
	// StepTime is how long one call goes on with a plan; 0 is 20 s. What is not done then is gone on with by the next.
	StepTime time.Duration
}

// Machines makes changes of the kind [optimize.Machine]: stop, set, start, rejoin. It implements [optimize.Actuator], and keeps
// nothing: how far a machine is, it says itself by its status and type, so a plan goes on wherever it was left.
type Machines struct{ o MachineOptions }

// NewMachines checks the options.
func NewMachines(o MachineOptions) (*Machines, error) {
	o.StepTime = cmp.Or(o.StepTime, 20*time.Second)
	if o.Cloud == nil || o.Rejoined == nil || o.StepTime < 0 {
		return nil, errors.New("scale/gce: machines need the cloud, a way to know that one has rejoined, and a step time above 0")
	}
	return &Machines{o}, nil
}

// before is a machine's snapshot.
type before struct {
	ID      string    `json:"id"`
	Type    string    `json:"type"`
	Started time.Time `json:"started"`
}

// Traits implements [optimize.Actuator]: machines are changed one by one, beside others that are not.
func (*Machines) Traits(*optimize.Change) optimize.Traits { return optimize.Traits{} }

func (m *Machines) spec(c *optimize.Change) (s scale.MachineSpec, err error) {
	if err := json.Unmarshal(c.Spec, &s); err != nil {
		return s, fmt.Errorf("scale/gce: %w: the change's spec cannot be read: %v", optimize.ErrRefused, err)
	}
	if s.From == s.To || !typeName.MatchString(s.From) || !typeName.MatchString(s.To) {
		return s, fmt.Errorf("scale/gce: %w: from machine type %.100q to %.100q is no change", optimize.ErrRefused, s.From, s.To)
	}
	return s, nil
}

// Targets implements [optimize.Actuator].
func (m *Machines) Targets(ctx context.Context, c *optimize.Change) (out []optimize.Target, err error) {
	s, err := m.spec(c)
	if err != nil {
		return nil, err
	}
	for _, ref := range s.Machines { // sorted
		n, inst, err := m.get(ctx, ref.Resource)
		if errors.Is(err, optimize.ErrGone) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if t := path.Base(inst.MachineType); t != s.From && t != s.To || unfit(inst) != "" {
			continue
		}
		out = append(out, optimize.Target{ID: ref.ID, Zone: n.zone, Started: started(inst)})
	}
	return out, nil
}

// one finds a target's machine.
func (m *Machines) one(ctx context.Context, c *optimize.Change, t optimize.Target) (s scale.MachineSpec, resource string, n name, inst *compute.Instance, err error) {
	if s, err = m.spec(c); err != nil {
		return s, "", n, nil, err
	}
	for _, ref := range s.Machines {
		if ref.ID == t.ID {
			n, inst, err = m.get(ctx, ref.Resource)
			return s, ref.Resource, n, inst, err
		}
	}
	return s, "", n, nil, fmt.Errorf("scale/gce: %s: %w: it is not of this change", t.ID, optimize.ErrRefused)
}

func (m *Machines) get(ctx context.Context, resource string) (n name, inst *compute.Instance, err error) {
	n, err = parse(machineName, resource, "projects/P/zones/Z/instances/N")
	if err != nil {
		return n, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, m.o.Cloud.o.Timeout)
	defer cancel()
	inst, err = m.o.Cloud.api.Instances.Get(n.project, n.zone, n.id).Context(ctx).Do()
	if err != nil {
		return n, nil, told(resource, "get", err)
	}
	return n, inst, nil
}

// Snapshot implements [optimize.Actuator].
func (m *Machines) Snapshot(ctx context.Context, c *optimize.Change, t optimize.Target) (json.RawMessage, error) {
	s, resource, _, inst, err := m.one(ctx, c, t)
	if err != nil {
		return nil, err
	}
	if err := fit(resource, s.From, inst); err != nil {
		return nil, err
	}
	return json.Marshal(before{ID: fmt.Sprint(inst.Id), Type: s.From, Started: started(inst)})
}

// fit says that a plan may begin with a machine.
func fit(resource, from string, inst *compute.Instance) error {
	why := unfit(inst)
	if t := path.Base(inst.MachineType); t != from {
		why = fmt.Sprintf("its type is %s, and the change is from %s", t, from)
	}
	if inst.Status != "RUNNING" {
		why = fmt.Sprintf("it is %s: only a machine that runs is changed", inst.Status)
	}
	if why != "" {
		return fmt.Errorf("scale/gce: %s: %w: %s", resource, optimize.ErrRefused, why)
	}
	return nil
}

// unfit is why a machine's type cannot be changed by stopping it, with what must be done by hand; "" is nothing.
func unfit(inst *compute.Instance) string {
	for _, d := range inst.Disks {
		if d.Type == "SCRATCH" {
			return fmt.Sprintf("it has a local SSD (%s), whose data a stop loses: copy that away and make a new machine by hand", d.DeviceName)
		}
	}
	if inst.Metadata != nil {
		for _, i := range inst.Metadata.Items {
			if i.Key == "created-by" && i.Value != nil && strings.Contains(*i.Value, "/instanceGroupManagers/") {
				return fmt.Sprintf("it is of the managed instance group %s, which would replace it: change the machine type in the group's instance template by hand, and roll that out", path.Base(*i.Value))
			}
		}
	}
	switch s := inst.Scheduling; {
	case len(inst.GuestAccelerators) > 0:
		return "it has accelerators, which go with few machine types: change it by hand"
	case s != nil && len(s.NodeAffinities) > 0:
		return "it runs on sole-tenant nodes, which must have room for the new type: change it by hand"
	case s != nil && (s.Preemptible || s.ProvisioningModel == "SPOT"):
		return "it is a spot machine, which may not get its place back once it is stopped: make a new one by hand"
	case inst.AdvancedMachineFeatures != nil && (inst.AdvancedMachineFeatures.ThreadsPerCore > 0 || inst.AdvancedMachineFeatures.VisibleCoreCount > 0):
		return "its cores are limited by advanced machine features, which the new type may not have: change it by hand"
	case inst.ReservationAffinity != nil && inst.ReservationAffinity.ConsumeReservationType == "SPECIFIC_RESERVATION":
		return "it uses a reservation of its own type: change the reservation by hand first"
	}
	return ""
}

func started(inst *compute.Instance) time.Time {
	t, err := time.Parse(time.RFC3339, inst.LastStartTimestamp)
	if err != nil {
		return time.Time{} // it never was
	}
	return t
}

// Rehearse implements [optimize.Actuator]. There is no dry run: it proves that this account may do every step both ways, and that the
// zone offers both types. That it has room for a machine when it is started again nobody can promise.
func (m *Machines) Rehearse(ctx context.Context, c *optimize.Change, t optimize.Target, _ json.RawMessage) error {
	s, resource, n, inst, err := m.one(ctx, c, t)
	if err != nil {
		return err
	}
	if err := fit(resource, s.From, inst); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, m.o.Cloud.o.Timeout)
	defer cancel()
	need := []string{"compute.instances.get", "compute.instances.stop", "compute.instances.setMachineType", "compute.instances.start"}
	may, err := m.o.Cloud.api.Instances.TestIamPermissions(n.project, n.zone, n.id, &compute.TestPermissionsRequest{Permissions: need}).Context(ctx).Do()
	if err != nil {
		return told(resource, "test of permissions", err)
	}
	has := map[string]bool{}
	for _, p := range may.Permissions {
		has[p] = true
	}
	for _, p := range need {
		if !has[p] {
			return fmt.Errorf("scale/gce: %s: %w: this account has not %s: grant it", resource, optimize.ErrRefused, p)
		}
	}
	for _, name := range []string{s.To, s.From} {
		mt, err := m.o.Cloud.api.MachineTypes.Get(n.project, n.zone, name).Context(ctx).Do()
		if err != nil {
			err = told(resource, "machine type "+name, err)
			if errors.Is(err, optimize.ErrGone) {
				return fmt.Errorf("scale/gce: %s: %w: zone %s has no machine type %s", resource, optimize.ErrRefused, n.zone, name)
			}
			return err
		}
		if odd := shape(mt).Odd; odd != "" {
			return fmt.Errorf("scale/gce: %s: %w: machine type %s: %s", resource, optimize.ErrRefused, name, odd)
		}
	}
	return nil
}

// Apply implements [optimize.Actuator]. It goes on with the plan for StepTime; an error that is not final says how far it is. Once a
// machine was stopped no error is final, so that it is never left behind: it is gone on with, or undone.
func (m *Machines) Apply(ctx context.Context, c *optimize.Change, t optimize.Target, snapshot json.RawMessage) error {
	if c.ApprovedBy == "" {
		return fmt.Errorf("scale/gce: %s: %w: nobody has approved that machines are stopped", t.ID, optimize.ErrRefused)
	}
	s, resource, _, inst, err := m.one(ctx, c, t)
	if err != nil {
		return err
	}
	was, err := m.same(s, resource, inst, snapshot)
	if err != nil {
		return err
	}
	begun := inst.Status != "RUNNING" || path.Base(inst.MachineType) == s.To
	if !begun {
		if err := fit(resource, s.From, inst); err != nil {
			return err
		}
	}
	return m.drive(ctx, c, t, was, s.To, begun)
}

// Undo implements [optimize.Actuator]: the same plan with the type that was there before.
func (m *Machines) Undo(ctx context.Context, c *optimize.Change, t optimize.Target, snapshot json.RawMessage) error {
	s, resource, _, inst, err := m.one(ctx, c, t)
	if err != nil {
		return err
	}
	was, err := m.same(s, resource, inst, snapshot)
	if err != nil {
		return err
	}
	return m.drive(ctx, c, t, was, was.Type, true)
}

// same reads the snapshot, and says that the machine is that one, and of one of the two types.
func (m *Machines) same(s scale.MachineSpec, resource string, inst *compute.Instance, snapshot json.RawMessage) (was before, err error) {
	if err := json.Unmarshal(snapshot, &was); err != nil || was.Type != s.From {
		return was, fmt.Errorf("scale/gce: %s: %w: the snapshot cannot be read, or has type %q: %v", resource, optimize.ErrRefused, was.Type, err)
	}
	if fmt.Sprint(inst.Id) != was.ID {
		return was, fmt.Errorf("scale/gce: %s: %w: it was made anew since", resource, optimize.ErrGone)
	}
	if t := path.Base(inst.MachineType); t != s.From && t != s.To {
		return was, fmt.Errorf("scale/gce: %s: %w: somebody else made it %s: it is left so", resource, optimize.ErrRefused, t)
	}
	return was, nil
}

// drive takes a machine to a type and to running, from wherever it is.
func (m *Machines) drive(ctx context.Context, c *optimize.Change, t optimize.Target, was before, want string, begun bool) error {
	ctx, cancel := context.WithTimeout(ctx, m.o.StepTime)
	defer cancel()
	for {
		_, resource, n, inst, err := m.one(ctx, c, t)
		if err == nil && fmt.Sprint(inst.Id) != was.ID {
			err = fmt.Errorf("scale/gce: %s: %w: it was made anew since", resource, optimize.ErrGone)
		}
		if err != nil {
			return err
		}
		api := m.o.Cloud.api.Instances
		var op *compute.Operation
		what := ""
		switch is := path.Base(inst.MachineType); {
		case is == want && inst.Status == "RUNNING":
			return nil
		case inst.Status == "RUNNING":
			what = "stop"
			op, err = api.Stop(n.project, n.zone, n.id).Context(ctx).Do()
		case inst.Status == "TERMINATED" && is != want:
			what = "set of its type to " + want
			op, err = api.SetMachineType(n.project, n.zone, n.id, &compute.InstancesSetMachineTypeRequest{MachineType: "zones/" + n.zone + "/machineTypes/" + want}).Context(ctx).Do()
		case inst.Status == "TERMINATED":
			what = "start"
			op, err = api.Start(n.project, n.zone, n.id).Context(ctx).Do()
		}
		switch {
		case what != "" && err != nil:
			err = told(resource, what, err)
		case what != "":
			begun = true
			err = m.o.Cloud.finish(ctx, n, resource, what, op)
		default: // STOPPING, STAGING, PROVISIONING, REPAIRING, SUSPENDING, SUSPENDED
			select {
			case <-ctx.Done():
				err = fmt.Errorf("scale/gce: %s: under way to %s: it is %s", resource, want, inst.Status)
			case <-time.After(m.o.Cloud.o.Poll):
			}
		}
		if err != nil && begun {
			return fmt.Errorf("%v", err) // not final: see Apply
		}
		if err != nil {
			return err
		}
	}
}

// Standing implements [optimize.Actuator]. A machine that was started again counts once it has rejoined.
func (m *Machines) Standing(ctx context.Context, c *optimize.Change, t optimize.Target, snapshot json.RawMessage) (optimize.Standing, string, error) {
	s, resource, _, inst, err := m.one(ctx, c, t)
	if errors.Is(err, optimize.ErrGone) {
		return optimize.Gone, err.Error(), nil
	}
	if err != nil {
		return "", "", err
	}
	was, err := m.same(s, resource, inst, snapshot)
	switch {
	case errors.Is(err, optimize.ErrGone):
		return optimize.Gone, err.Error(), nil
	case errors.Is(err, optimize.ErrRefused):
		return optimize.Refused, err.Error(), nil
	}
	is := path.Base(inst.MachineType)
	word := fmt.Sprintf("%s, %s", is, strings.ToLower(inst.Status))
	if inst.Status != "RUNNING" {
		return optimize.Pending, word, nil
	}
	if since := started(inst); since.After(was.Started) {
		back, err := m.o.Rejoined(ctx, t, since)
		if err != nil {
			return "", "", fmt.Errorf("scale/gce: %s: whether it has rejoined: %w", resource, err)
		}
		if !back {
			return optimize.Pending, word + ", not heard of since its start", nil
		}
	}
	if is == s.To {
		return optimize.InForce, word, nil
	}
	return optimize.Absent, word, nil
}
