// Package policyfile reads what may be done to a fleet, and how, from a YAML file: docs/changes.md has its form. A file that changes is
// read again; one with a slip in it is not, and what was read before stays in force.
package policyfile

import (
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // zones of windows, where the machine has none

	"github.com/quantra-l/quantra/internal/strictyaml"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/judge"
)

// ErrFile says that bytes are no policy. The error's text says at which line, in which field, and why.
var ErrFile = errors.New("not a policy file")

// Bounds of a policy file.
const (
	MaxFile     = 256 << 10
	maxStages   = 20
	maxServices = 1000
	maxWindows  = 100
	maxTold     = 100
	maxTime     = 366 * 24 * time.Hour
	maxMoney    = 1e9
)

// File is what a policy file says.
type File struct {
	Policy *optimize.Policy
	// Told are channels of the file of alerts that hear of all that happens to changes, beside what its rules say.
	Told []string
	// KillFile is a file whose presence freezes all changes; "" is none but that in the data folder.
	KillFile string
	// Places are where what a service runs on can be changed, by service.
	Places map[string]*Place
	// PGO are where services' profiles for the Go compiler go.
	PGO []PGO
	// Patch are where services' source is, for patches of it.
	Patch []Patch
}

// Decode reads a policy file: YAML of at most 256 KiB, with no field but those that docs/changes.md has, each once. What is not given is as
// in [optimize.DefaultPolicy]. Errors that are not the reader's are [ErrFile].
func Decode(r io.Reader) (*File, error) {
	f, err := decode(r)
	var e *strictyaml.Error
	switch {
	case errors.As(err, &e):
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	case err != nil:
		return nil, fmt.Errorf("policy file: %w", err)
	}
	return f, nil
}

type node = strictyaml.Node

func decode(r io.Reader) (*File, error) {
	root, err := strictyaml.Parse(r, MaxFile)
	if err != nil {
		return nil, err
	}
	f := &File{Policy: optimize.DefaultPolicy(), Places: map[string]*Place{}}
	p := f.Policy
	plan := optimize.DefaultPlan()
	// A plan is what kinds begin with, and a kind what services do, wherever they stand in the file.
	var planAt, kindsAt, servicesAt *node
	later := func(to **node) strictyaml.Reader { return func(n *node, _ string) error { *to = n; return nil } }
	if _, err := strictyaml.Fields(root, "", map[string]strictyaml.Reader{
		"plan": later(&planAt), "kinds": later(&kindsAt), "services": later(&servicesAt),
		"breaker": func(n *node, f string) error {
			failures := float64(p.BreakerFailures)
			_, err := strictyaml.Fields(n, f, map[string]strictyaml.Reader{
				"failures": func(n *node, f string) error { return whole(n, f, 1, 1000, &failures) },
				"open":     duration(time.Minute, &p.BreakerOpen),
			})
			p.BreakerFailures = int(failures)
			return err
		},
		"budget":         number(0, maxMoney, &p.Budget),
		"approve_above":  number(0, maxMoney, &p.ApproveAbove),
		"node_every":     duration(0, &p.NodeEvery),
		"withdraw_after": duration(time.Minute, &p.WithdrawAfter),
		"windows": func(n *node, f string) error {
			return strictyaml.Items(n, f, maxWindows, func(n *node, f string) error {
				w, err := window(n, f)
				p.Windows = append(p.Windows, w)
				return err
			})
		},
		"told": func(n *node, field string) error {
			return strictyaml.Items(n, field, maxTold, func(n *node, field string) error {
				s, err := strictyaml.Text(n, field)
				f.Told = append(f.Told, s)
				return err
			})
		},
		"places":    func(n *node, field string) error { return readPlaces(n, field, f.Places) },
		"pgo":       pgo(&f.PGO),
		"patch":     patches(&f.Patch),
		"kill_file": func(n *node, field string) (err error) { f.KillFile, err = strictyaml.Text(n, field); return err },
	}); err != nil {
		return nil, err
	}
	if planAt != nil {
		if _, err := strictyaml.Fields(planAt, "plan", planFields(&plan)); err != nil {
			return nil, err
		}
		if err := sound(planAt, "plan", optimize.KindPolicy{Mode: optimize.Propose, Plan: plan}); err != nil {
			return nil, err
		}
	}
	kinds := map[optimize.Kind]optimize.KindPolicy{}
	for _, k := range optimize.Kinds {
		kinds[k] = optimize.KindPolicy{Mode: optimize.Propose, Approve: p.Kinds[k].Approve, Plan: plan.For(k)}
	}
	if planAt != nil && given(planAt, "apply_within") { // what is said of all is also of machines, which else have longer
		m := kinds[optimize.Machine]
		m.Plan.ApplyWithin = plan.ApplyWithin
		kinds[optimize.Machine] = m
	}
	if kindsAt != nil {
		if err := readKinds(kindsAt, "kinds", kinds, kinds); err != nil {
			return nil, err
		}
	}
	p.Kinds = kinds
	if servicesAt != nil {
		if err := strictyaml.Items(servicesAt, "services", maxServices, func(n *node, f string) error { return service(n, f, p) }); err != nil {
			return nil, err
		}
	}
	if err := p.Check(); err != nil { // all of it was checked at its line
		return nil, strictyaml.Wrong(root, "", "%v", err)
	}
	return f, nil
}

// clone is a plan that shares nothing.
func clone(p optimize.Plan) optimize.Plan {
	p.Stages, p.Metrics = slices.Clone(p.Stages), slices.Clone(p.Metrics)
	return p
}

func number(low, high float64, to *float64) strictyaml.Reader {
	return func(n *node, f string) error { return strictyaml.Number(n, f, low, high, to) }
}

func duration(low time.Duration, to *time.Duration) strictyaml.Reader {
	return func(n *node, f string) error { return strictyaml.Duration(n, f, low, maxTime, to) }
}

// whole reads a number without a fraction.
func whole(n *node, field string, low, high float64, to *float64) error {
	if err := strictyaml.Number(n, field, low, high, to); err != nil {
		return err
	}
	if *to != math.Trunc(*to) {
		return strictyaml.Wrong(n, field, "%s: it must be a whole number", n.Value)
	}
	return nil
}

// readKinds reads policies by kind: each begins with what from has of it.
func readKinds(n *node, field string, from, to map[optimize.Kind]optimize.KindPolicy) error {
	_, err := strictyaml.Each(n, field, func(key, value *node, field string) error {
		k := optimize.Kind(key.Value)
		if !slices.Contains(optimize.Kinds, k) {
			return strictyaml.Wrong(key, field, "there is no such kind; there are %v", optimize.Kinds)
		}
		kp := from[k]
		kp.Plan = clone(kp.Plan)
		fields := planFields(&kp.Plan)
		fields["mode"] = func(n *node, f string) error {
			kp.Mode = optimize.Mode(n.Value)
			if n.Value == "false" { // off is a truth value of older YAML
				kp.Mode = optimize.Off
			}
			if !slices.Contains([]optimize.Mode{optimize.Off, optimize.Propose, optimize.Auto}, kp.Mode) {
				return strictyaml.Wrong(n, f, "%.40q: it must be off, propose or auto", n.Value)
			}
			if kp.Mode == optimize.Auto && k.ByPerson() {
				return strictyaml.Wrong(n, f, "auto: only a person starts a %s: it must be off or propose", k)
			}
			return nil
		}
		fields["approve"] = func(n *node, f string) error { return strictyaml.Bool(n, f, &kp.Approve) }
		if _, err := strictyaml.Fields(value, field, fields); err != nil {
			return err
		}
		if err := sound(value, field, kp); err != nil {
			return err
		}
		to[k] = kp
		return nil
	})
	return err
}

// sound says at n what the engine has against a kind's policy as a whole.
func sound(n *node, field string, kp optimize.KindPolicy) error {
	p := optimize.DefaultPolicy()
	p.Kinds = map[optimize.Kind]optimize.KindPolicy{optimize.Runtime: kp}
	if err := p.Check(); err != nil {
		_, why, _ := strings.Cut(err.Error(), string(optimize.Runtime)+": ")
		return strictyaml.Wrong(n, field, "%s", why)
	}
	return nil
}

// planFields are the fields of a plan: those that are there take the place of what p has.
func planFields(p *optimize.Plan) map[string]strictyaml.Reader {
	return map[string]strictyaml.Reader{
		"stages": func(n *node, f string) error {
			p.Stages = nil
			return strictyaml.Items(n, f, maxStages, func(n *node, f string) error {
				s, err := stage(n, f)
				p.Stages = append(p.Stages, s)
				return err
			})
		},
		"metrics":      func(n *node, f string) error { return metrics(n, f, p) },
		"judge":        func(n *node, f string) error { return judging(n, f, &p.Judge) },
		"baseline":     duration(0, &p.Baseline),
		"apply_within": duration(time.Second, &p.ApplyWithin),
	}
}

// stage reads one stage; without a deadline it is three times the dwell, as in the default plan.
func stage(n *node, field string) (s optimize.Stage, err error) {
	nodes := 0.0
	seen, err := strictyaml.Fields(n, field, map[string]strictyaml.Reader{
		"nodes":    func(n *node, f string) error { return whole(n, f, 1, 1e6, &nodes) },
		"percent":  number(0.01, 100, &s.Percent),
		"dwell":    duration(time.Second, &s.Dwell),
		"deadline": duration(time.Second, &s.Deadline),
	})
	s.Nodes = int(nodes)
	switch {
	case err != nil:
		return s, err
	case (s.Nodes > 0) == (s.Percent > 0):
		return s, strictyaml.Wrong(n, field, "it must have either nodes or percent")
	case !slices.Contains(seen, "dwell"):
		return s, strictyaml.Wrong(n, field+".dwell", "it is missing")
	case !slices.Contains(seen, "deadline"):
		s.Deadline = 3 * s.Dwell
	case s.Deadline < s.Dwell:
		return s, strictyaml.Wrong(n, field, "deadline %s is before the end of the dwell, %s", s.Deadline, s.Dwell)
	}
	return s, nil
}

// known are the metrics that are measured, with what is the same of them whatever a policy says.
func known() map[string]judge.Metric {
	m := map[string]judge.Metric{"cpu": {Name: "cpu", Tolerate: 0.05}, "stacks": judge.Stacks()}
	for _, d := range judge.DefaultMetrics() {
		m[d.Name] = d
	}
	return m
}

// metrics reads what is other than in the plan of the metrics that are named; the rest stays as it is.
func metrics(n *node, field string, p *optimize.Plan) error {
	_, err := strictyaml.Each(n, field, func(key, value *node, field string) error {
		all := known()
		m, ok := all[key.Value]
		if !ok {
			names := []string{}
			for k := range all {
				names = append(names, k)
			}
			slices.Sort(names)
			return strictyaml.Wrong(key, field, "there is no such metric; there are %s", strings.Join(names, ", "))
		}
		at := slices.IndexFunc(p.Metrics, func(have judge.Metric) bool { return have.Name == key.Value })
		if at >= 0 {
			m = p.Metrics[at]
		}
		off := false
		if _, err := strictyaml.Fields(value, field, map[string]strictyaml.Reader{
			"tolerate": number(0, 100, &m.Tolerate),
			"floor":    number(0, 1e15, &m.Floor),
			"bound":    number(0, 1e18, &m.Bound),
			"critical": func(n *node, f string) error { return strictyaml.Bool(n, f, &m.Critical) },
			"off":      func(n *node, f string) error { return strictyaml.Bool(n, f, &off) },
		}); err != nil {
			return err
		}
		switch {
		case off && at >= 0:
			p.Metrics = slices.Delete(p.Metrics, at, at+1)
		case off:
		case at >= 0:
			p.Metrics[at] = m
		default:
			p.Metrics = append(p.Metrics, m)
		}
		return nil
	})
	return err
}

// judging reads how much is enough for a verdict.
func judging(n *node, field string, o *judge.Options) error {
	windows := float64(o.MinWindows)
	_, err := strictyaml.Fields(n, field, map[string]strictyaml.Reader{
		"min_windows":       func(n *node, f string) error { return whole(n, f, 1, 1e6, &windows) },
		"min_requests":      number(0, 1e12, &o.MinRequests),
		"warm_up":           duration(0, &o.WarmUp),
		"alpha":             number(1e-9, 0.5, &o.Alpha),
		"harm_alpha":        number(1e-9, 0.5, &o.HarmAlpha),
		"q":                 number(1e-9, 0.5, &o.Q),
		"function_tolerate": number(1e-6, 1, &o.FunctionTolerate),
		"host_spread":       number(1e-6, 10, &o.HostSpread),
		"settled":           duration(time.Second, &o.Settled),
		"horizon":           duration(time.Minute, &o.Horizon),
	})
	o.MinWindows = int(windows)
	// 0 in the file means none; in the options none is below 0, and 0 what is usual.
	if err == nil && given(n, "min_requests") && o.MinRequests == 0 {
		o.MinRequests = -1
	}
	if err == nil && given(n, "warm_up") && o.WarmUp == 0 {
		o.WarmUp = -1
	}
	return err
}

// given says whether a mapping has a field.
func given(n *node, field string) bool {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == field {
			return true
		}
	}
	return false
}

// service reads the policies of services by a pattern.
func service(n *node, field string, p *optimize.Policy) error {
	s := optimize.ServicePolicy{Kinds: map[optimize.Kind]optimize.KindPolicy{}}
	seen, err := strictyaml.Fields(n, field, map[string]strictyaml.Reader{
		"match": func(n *node, f string) (err error) {
			if s.Match, err = strictyaml.Text(n, f); err != nil {
				return err
			}
			if _, err := path.Match(s.Match, ""); err != nil {
				return strictyaml.Wrong(n, f, "%q is no pattern: it is a name with * and ?", s.Match)
			}
			return nil
		},
		"kinds": func(n *node, f string) error { return readKinds(n, f, p.Kinds, s.Kinds) },
	})
	if err != nil {
		return err
	}
	for _, f := range []string{"match", "kinds"} {
		if !slices.Contains(seen, f) {
			return strictyaml.Wrong(n, field+"."+f, "it is missing")
		}
	}
	p.Services = append(p.Services, s)
	return nil
}

// days are the names of weekdays in a file.
var days = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// window reads a part of the week.
func window(n *node, field string) (w optimize.Window, err error) {
	clock := func(to *time.Duration) strictyaml.Reader {
		return func(n *node, f string) error {
			t, err := time.Parse("15:04", n.Value)
			if n.Value == "24:00" {
				*to = 24 * time.Hour
				return nil
			}
			if err != nil {
				return strictyaml.Wrong(n, f, "%.40q: it must be a time of day as \"09:30\", up to \"24:00\"", n.Value)
			}
			*to = time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute
			return nil
		}
	}
	seen, err := strictyaml.Fields(n, field, map[string]strictyaml.Reader{
		"days": func(n *node, f string) error {
			return strictyaml.Items(n, f, len(days), func(n *node, f string) error {
				i := slices.Index(days, n.Value)
				if i < 0 {
					return strictyaml.Wrong(n, f, "%.40q: it must be one of %s", n.Value, strings.Join(days, ", "))
				}
				w.Days = append(w.Days, time.Weekday(i))
				return nil
			})
		},
		"from": clock(&w.From),
		"to":   clock(&w.To),
		"zone": func(n *node, f string) (err error) {
			if w.Zone, err = time.LoadLocation(n.Value); err != nil || n.Value == "" {
				return strictyaml.Wrong(n, f, "%.40q: it must be a time zone as Europe/Berlin", n.Value)
			}
			return nil
		},
	})
	switch {
	case err != nil:
		return w, err
	case !slices.Contains(seen, "from") || !slices.Contains(seen, "to"):
		return w, strictyaml.Wrong(n, field, "it must have from and to")
	case w.From == w.To || w.From == 24*time.Hour:
		return w, strictyaml.Wrong(n, field, "from and to must differ, and from be before 24:00")
	}
	return w, nil
}
