package policyfile

import (
	"cmp"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/internal/strictyaml"
	"github.com/quantra-l/quantra/optimize/rebalance"
	peers "github.com/quantra-l/quantra/optimize/rebalance/command"
	"github.com/quantra-l/quantra/optimize/scale"
	"github.com/quantra-l/quantra/optimize/scale/command"
)

// Bounds of places.
const (
	maxPlaces   = 1000
	maxMembers  = 256 // nodes of a place: all of them are asked, and named in one question
	maxArgs     = 100
	maxText     = 4096 // bytes of an argument or a path
	maxEnv      = 100
	maxTypes    = 100
	maxReplicas = 1_000_000
	// maxCommand is the longest that a command may take: the optimizer waits for it (docs/scale.md).
	maxCommand = 50 * time.Second
)

// Place is where what a service runs on can be changed. A part that is nil is not changed.
type Place struct {
	Tenant   string // "" is the default one
	Replicas *Replicas
	Machines *Machines
	Peers    *Peers
}

// Replicas are where a service's replicas are: in one of Kube, Managed and Command.
type Replicas struct {
	Kube    *Kube
	Managed *Managed
	Command *Command
	Rules   scale.Options // but for the price
}

// Kube is a resource of a Kubernetes cluster.
type Kube struct {
	Kubeconfig string // a file; "" is the cluster that the server runs in
	Context    string // of the file; "" is its current one
	// Resource is deployments, statefulsets, replicasets, or RESOURCE.VERSION.GROUP of another with a scale subresource.
	Resource, Namespace, Name string
}

// Managed is a managed instance group of Google Cloud. One of Zone and Region is "".
type Managed struct{ Project, Zone, Region, Group string }

// Run is how commands are run.
type Run struct {
	Env     []string // names of the server's own variables, which the commands get
	Dir     string
	Timeout time.Duration // 0 is 30 s
}

// Command is a group of replicas that commands change.
type Command struct {
	Group                           string
	Get, Set, Check, Drain, Undrain []string
	Run
}

// Machines are Google Cloud's machines that have the names of a service's instances.
type Machines struct {
	Project, Zone string
	Types         []string // patterns of those that may be chosen; never none
	Others        float64  // bytes of memory that all but the service take of a machine
	Rules         scale.MachineOptions
}

// Peers are moved between a service's nodes by commands, or, where it has members, by the nodes themselves.
type Peers struct {
	Members                         []string // ids of nodes of ours
	Nodes, Check, Move, Back, Moved []string
	Run
	Rules rebalance.Options
}

// Place is the name of the place, and of the group as the place has it.
func (r *Replicas) Place() (name, group string) {
	switch {
	case r.Kube != nil:
		return "kube", r.Kube.Resource + "/" + r.Kube.Namespace + "/" + r.Kube.Name
	case r.Managed != nil && r.Managed.Zone != "":
		return "gce", "projects/" + r.Managed.Project + "/zones/" + r.Managed.Zone + "/instanceGroupManagers/" + r.Managed.Group
	case r.Managed != nil:
		return "gce", "projects/" + r.Managed.Project + "/regions/" + r.Managed.Region + "/instanceGroupManagers/" + r.Managed.Group
	}
	return "command", r.Command.Group
}

var (
	dnsName    = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	custom     = regexp.MustCompile(`^[a-z][a-z0-9]{0,62}\.v[a-z0-9]{1,62}\.[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	cloudName  = regexp.MustCompile(`^[a-z0-9](?:[-a-z0-9.:]{0,252}[a-z0-9])?$`)
	groupName  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.:/@-]{0,252}$`)
	nodeID     = regexp.MustCompile(`^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$`) // a peer id of an Ed25519 key
	variable   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
	tenantName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,128}$`)
)

// kinds of Kubernetes' own resources.
var kubeKinds = map[string]string{"deployment": "deployments", "statefulset": "statefulsets", "replicaset": "replicasets"}

// readPlaces reads places by service.
func readPlaces(n *node, field string, to map[string]*Place) error {
	if len(n.Content) > 2*maxPlaces {
		return strictyaml.Wrong(n, field, "it has %d services, more than %d", len(n.Content)/2, maxPlaces)
	}
	groups := map[string]string{} // by group, whose it is
	_, err := strictyaml.Each(n, field, func(key, value *node, field string) error {
		if key.Value == "" || len(key.Value) > 2048 {
			return strictyaml.Wrong(key, field, "a service has a name of 1 to 2048 bytes")
		}
		p := &Place{}
		if _, err := strictyaml.Fields(value, field, map[string]strictyaml.Reader{
			"tenant":   matching(tenantName, "letters, digits and ._-", &p.Tenant),
			"replicas": func(n *node, f string) (err error) { p.Replicas, err = replicas(n, f); return err },
			"machines": func(n *node, f string) (err error) { p.Machines, err = machines(n, f); return err },
			"peers":    func(n *node, f string) (err error) { p.Peers, err = readPeers(n, f); return err },
		}); err != nil {
			return err
		}
		if p.Replicas != nil {
			// Two that scale one group would undo each other's changes.
			name, group := p.Replicas.Place()
			if k := p.Replicas.Kube; k != nil {
				name += " " + k.Kubeconfig + " " + k.Context
			}
			if other, is := groups[name+" "+group]; is {
				return strictyaml.Wrong(value, field, "its replicas are those of %s", other)
			}
			groups[name+" "+group] = key.Value
		}
		to[key.Value] = p
		return nil
	})
	return err
}

// matching reads a text of a form; what is the form in words.
func matching(form *regexp.Regexp, what string, to *string) strictyaml.Reader {
	return func(n *node, field string) error {
		s, err := strictyaml.TextOf(n, field, maxText)
		if err == nil && !form.MatchString(s) {
			err = strictyaml.Wrong(n, field, "%.100q: it must be %s", s, what)
		}
		*to = s
		return err
	}
}

// long reads a text of at most maxText bytes.
func long(to *string) strictyaml.Reader {
	return func(n *node, field string) (err error) {
		*to, err = strictyaml.TextOf(n, field, maxText)
		return err
	}
}

// need says which of some fields are missing.
func need(n *node, field string, seen []string, fields ...string) error {
	for _, f := range fields {
		if !slices.Contains(seen, f) {
			return strictyaml.Wrong(n, field+"."+f, "it is missing")
		}
	}
	return nil
}

// count reads a whole number.
func count(low, high float64, to *int) strictyaml.Reader {
	return func(n *node, f string) error {
		v := 0.0
		err := whole(n, f, low, high, &v)
		*to = int(v)
		return err
	}
}

func replicas(n *node, field string) (*Replicas, error) {
	r := &Replicas{}
	o := &r.Rules
	seen, err := strictyaml.Fields(n, field, map[string]strictyaml.Reader{
		"kube":           func(n *node, f string) (err error) { r.Kube, err = kube(n, f); return err },
		"gce":            func(n *node, f string) (err error) { r.Managed, err = managed(n, f); return err },
		"command":        func(n *node, f string) (err error) { r.Command, err = scaling(n, f); return err },
		"floor":          count(1, maxReplicas, &o.Floor),
		"ceiling":        count(1, maxReplicas, &o.Ceiling),
		"target":         number(0.01, 1, &o.Target),
		"up_at":          number(0.01, 1, &o.UpAt),
		"band":           number(0.01, 1, &o.Band),
		"up_for":         duration(2*time.Minute, &o.UpFor),
		"peers_per_node": count(1, maxReplicas, &o.Peers),
		"lead":           duration(time.Second, &o.Lead),
		"horizon":        duration(time.Second, &o.Horizon),
		"min_history":    duration(0, &o.MinHistory),
		"up_every":       duration(time.Second, &o.UpEvery),
		"down_every":     duration(time.Second, &o.DownEvery),
		"up_most":        number(0.01, 10, &o.UpMost),
		"down_most":      number(0.01, 0.5, &o.DownMost),
		"max_sched":      duration(time.Microsecond, &o.MaxSched),
	})
	if err != nil {
		return nil, err
	}
	where := 0
	for _, f := range []string{"kube", "gce", "command"} {
		if slices.Contains(seen, f) {
			where++
		}
	}
	if where != 1 {
		return nil, strictyaml.Wrong(n, field, "it must have one of kube, gce and command, which say where the replicas are; it has %d", where)
	}
	if slices.Contains(seen, "min_history") && o.MinHistory == 0 {
		o.MinHistory = -1 // in the options 0 is what is usual, and none is below
	}
	if err := o.Check(); err != nil {
		return nil, strictyaml.Wrong(n, field, "%s", strings.TrimPrefix(err.Error(), "scale: "))
	}
	return r, nil
}

func kube(n *node, field string) (*Kube, error) {
	k := &Kube{}
	kind := ""
	seen, err := strictyaml.Fields(n, field, map[string]strictyaml.Reader{
		"kubeconfig": long(&k.Kubeconfig),
		"context":    long(&k.Context),
		"namespace":  matching(dnsName, "a name as Kubernetes has them", &k.Namespace),
		"name":       matching(dnsName, "a name as Kubernetes has them", &k.Name),
		"kind": func(n *node, f string) error {
			if kind = kubeKinds[n.Value]; kind == "" && custom.MatchString(n.Value) {
				kind = n.Value
			}
			if kind == "" {
				return strictyaml.Wrong(n, f, "%.100q: it must be deployment, statefulset, replicaset, or RESOURCE.VERSION.GROUP as rollouts.v1alpha1.argoproj.io", n.Value)
			}
			return nil
		},
	})
	if err == nil {
		err = need(n, field, seen, "namespace", "name")
	}
	if err == nil && k.Context != "" && k.Kubeconfig == "" {
		err = strictyaml.Wrong(n, field+".context", "it is one of a kubeconfig, which is missing")
	}
	k.Resource = cmp.Or(kind, "deployments")
	return k, err
}

func managed(n *node, field string) (*Managed, error) {
	m := &Managed{}
	name := func(to *string) strictyaml.Reader { return matching(cloudName, "a name as Google Cloud has them", to) }
	seen, err := strictyaml.Fields(n, field, map[string]strictyaml.Reader{
		"project": name(&m.Project), "zone": name(&m.Zone), "region": name(&m.Region), "group": name(&m.Group),
	})
	if err == nil {
		err = need(n, field, seen, "project", "group")
	}
	if err == nil && (m.Zone == "") == (m.Region == "") {
		err = strictyaml.Wrong(n, field, "it must have either zone or region")
	}
	return m, err
}

// runFields are those of commands, whatever they are of.
func runFields(r *Run) map[string]strictyaml.Reader {
	return map[string]strictyaml.Reader{
		"dir": long(&r.Dir),
		"timeout": func(n *node, f string) error {
			return strictyaml.Duration(n, f, 100*time.Millisecond, maxCommand, &r.Timeout)
		},
		"env": func(n *node, f string) error {
			return strictyaml.Items(n, f, maxEnv, func(n *node, f string) error {
				v := ""
				err := matching(variable, "the name of a variable of the server's environment: values, which may be secret, have no place in this file", &v)(n, f)
				r.Env = append(r.Env, v)
				return err
			})
		},
	}
}

// argv reads a program with its arguments.
func argv(to *[]string) strictyaml.Reader {
	return func(n *node, field string) error {
		return strictyaml.Items(n, field, maxArgs, func(n *node, f string) error {
			s := ""
			err := long(&s)(n, f)
			*to = append(*to, s)
			return err
		})
	}
}

func scaling(n *node, field string) (*Command, error) {
	c := &Command{}
	fields := runFields(&c.Run)
	fields["group"] = matching(groupName, "letters, digits and ._:/@-, with no - first", &c.Group)
	for name, to := range map[string]*[]string{"get": &c.Get, "set": &c.Set, "check": &c.Check, "drain": &c.Drain, "undrain": &c.Undrain} {
		fields[name] = argv(to)
	}
	seen, err := strictyaml.Fields(n, field, fields)
	if err == nil {
		err = need(n, field, seen, "group", "get", "set")
	}
	if err != nil {
		return nil, err
	}
	if _, err := command.New(c.Options(nil)); err != nil {
		return nil, strictyaml.Wrong(n, field, "%s", strings.TrimPrefix(err.Error(), "scale/command: "))
	}
	return c, nil
}

// Options are those of the commands; getenv is the server's environment.
func (c *Command) Options(getenv func(string) string) command.Options {
	return command.Options{Get: c.Get, Set: c.Set, Check: c.Check, Drain: c.Drain, Undrain: c.Undrain, Env: c.environment(getenv), Dir: c.Dir, Timeout: c.Timeout}
}

// environment is what the commands get of the server's; a variable that it has not is not there.
func (r *Run) environment(getenv func(string) string) []string {
	env := []string{}
	for _, name := range r.Env {
		if getenv == nil {
			break
		}
		if v := getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

func machines(n *node, field string) (*Machines, error) {
	m := &Machines{}
	var gib float64
	o := &m.Rules
	seen, err := strictyaml.Fields(n, field, map[string]strictyaml.Reader{
		"gce": func(n *node, f string) error {
			name := func(to *string) strictyaml.Reader { return matching(cloudName, "a name as Google Cloud has them", to) }
			seen, err := strictyaml.Fields(n, f, map[string]strictyaml.Reader{"project": name(&m.Project), "zone": name(&m.Zone)})
			if err != nil {
				return err
			}
			return need(n, f, seen, "project", "zone")
		},
		"types": func(n *node, f string) error {
			return strictyaml.Items(n, f, maxTypes, func(n *node, f string) error {
				s, err := strictyaml.Text(n, f)
				if err != nil {
					return err
				}
				if _, err := path.Match(s, ""); err != nil {
					return strictyaml.Wrong(n, f, "%q is no pattern: it is a name with * and ?, as n2-standard-*", s)
				}
				m.Types = append(m.Types, s)
				return nil
			})
		},
		"others_gib":    number(0, 1e5, &gib),
		"window":        duration(7*24*time.Hour, &o.Window),
		"target":        number(0.01, 1, &o.Target),
		"target_memory": number(0.01, 1, &o.TargetMemory),
		"up_at":         number(0.01, 1, &o.UpAt),
		"up_at_memory":  number(0.01, 1, &o.UpAtMemory),
	})
	if err == nil {
		err = need(n, field, seen, "gce", "types", "others_gib")
	}
	if err != nil {
		return nil, err
	}
	if len(m.Types) == 0 {
		return nil, strictyaml.Wrong(n, field+".types", "it has none: nothing could be chosen")
	}
	m.Others = gib * (1 << 30)
	if err := o.Check(); err != nil {
		return nil, strictyaml.Wrong(n, field, "%s", strings.TrimPrefix(err.Error(), "scale: "))
	}
	return m, nil
}

// May says that a machine type may be chosen.
func (m *Machines) May(name string) bool {
	return slices.ContainsFunc(m.Types, func(p string) bool {
		ok, err := path.Match(p, name)
		return err == nil && ok // patterns were checked when they were read
	})
}

func readPeers(n *node, field string) (*Peers, error) {
	p := &Peers{}
	fields := runFields(&p.Run)
	for name, to := range map[string]*[]string{"nodes": &p.Nodes, "check": &p.Check, "move": &p.Move, "back": &p.Back, "moved": &p.Moved} {
		fields[name] = argv(to)
	}
	o := &p.Rules
	var cost time.Duration
	for name, read := range map[string]strictyaml.Reader{
		"gap": number(0.01, 99, &o.Gap), "gain": number(0.01, 0.99, &o.Gain), "damp": number(0.01, 1, &o.Damp), "most": number(0.01, 1, &o.Most),
		"moves": count(1, 1e5, &o.MostMoves), "move_cost": duration(time.Millisecond, &cost), "payback": duration(time.Second, &o.Payback), "settle": duration(time.Second, &o.Settle),
	} {
		fields[name] = read
	}
	fields["members"] = members(&p.Members)
	seen, err := strictyaml.Fields(n, field, fields)
	switch {
	case err != nil:
	case len(p.Members) == 0:
		err = need(n, field, seen, "nodes", "check", "move", "back", "moved")
	case len(p.Members) == 1 || p.Nodes != nil || p.Check != nil || p.Move != nil || p.Back != nil || p.Moved != nil:
		err = strictyaml.Wrong(n, field, "it has two members or more, or commands in their place")
	}
	if err != nil {
		return nil, err
	}
	o.MoveCost = cost.Seconds()
	if err := o.Check(); err != nil {
		return nil, strictyaml.Wrong(n, field, "%s", strings.TrimPrefix(err.Error(), "rebalance: "))
	}
	if len(p.Members) > 0 {
		return p, nil
	}
	if _, err := peers.New(p.Options(nil)); err != nil {
		return nil, strictyaml.Wrong(n, field, "%s", strings.TrimPrefix(err.Error(), "rebalance/command: "))
	}
	return p, nil
}

// members reads ids of nodes, each once.
func members(to *[]string) strictyaml.Reader {
	return func(n *node, field string) error {
		return strictyaml.Items(n, field, maxMembers, func(n *node, field string) error {
			var id string
			if err := matching(nodeID, "a node's id, as 12D3KooW...", &id)(n, field); err != nil {
				return err
			}
			if slices.Contains(*to, id) {
				return strictyaml.Wrong(n, field, "%s is there twice", id)
			}
			*to = append(*to, id)
			return nil
		})
	}
}

// Options are those of the commands; getenv is the server's environment.
func (p *Peers) Options(getenv func(string) string) peers.Options {
	return peers.Options{Nodes: p.Nodes, Check: p.Check, Move: p.Move, Back: p.Back, Moved: p.Moved, Env: p.environment(getenv), Dir: p.Dir, Timeout: p.Timeout}
}
