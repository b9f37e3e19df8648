package analyze

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Machine is a state machine of a service: the steps that its spans make.
type Machine struct {
	Name    string
	Service string // a pattern; "" is every service
	Edges   []MachineEdge
}

// MachineEdge is a step from one state to the next, and where its duration is seen: in the spans of an operation, or between two events of
// a span. Patterns are compared with the whole name; a star stands for any characters, or none.
type MachineEdge struct {
	From, To string
	// Span is the pattern of the operation that takes as long as the step. If it is "", the step is the time between two events that
	// follow each other in a span, of names Events.
	Span   string
	Events [2]string
	// In is the pattern of an operation that must be around it; the span that has the events is one. "" is any.
	In string
	// Slow: the step is slow when surely more than half of all take longer. P99: when surely more than 1 in 100 do. With neither
	// it is compared with its own past. 0 is none.
	Slow, P99 time.Duration
	Line      int // of the file, where it is declared
}

// Bounds of a file of machines.
const (
	maxMachineBytes  = 256 << 10
	maxMachines      = 100
	maxMachineEdges  = 1000 // of all machines together
	maxMachineName   = 200  // bytes
	maxMachineSlower = 30 * 24 * time.Hour
)

// ErrMachines says that bytes are no file of machines; the text names the line and what is wrong there.
var ErrMachines = errors.New("not a file of machines")

// ParseMachines reads a file of machines, YAML as docs/transitions.md has it. It is strict: what it does not know is an error, and
// so are aliases, keys that are there twice, steps that are declared twice, and a file without machines. Errors wrap ErrMachines.
func ParseMachines(file []byte) ([]Machine, error) {
	m, err := parseMachines(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMachines, err)
	}
	return m, nil
}

func parseMachines(file []byte) ([]Machine, error) {
	if len(file) > maxMachineBytes {
		return nil, fmt.Errorf("it has %d bytes, more than %d", len(file), maxMachineBytes)
	}
	if !utf8.Valid(file) {
		return nil, errors.New("it is not UTF-8")
	}
	dec := yaml.NewDecoder(strings.NewReader(string(file)))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("it is empty")
	case err != nil:
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more than one document")
	}
	if len(doc.Content) == 0 {
		return nil, errors.New("it is empty")
	}
	p := &machineParser{names: map[string]int{}}
	if err := p.fields(doc.Content[0], "the file", map[string]func(*yaml.Node) error{"machines": p.machines}); err != nil {
		return nil, err
	}
	if len(p.out) == 0 {
		return nil, errors.New("it has no machines")
	}
	return p.out, nil
}

// machineParser walks the nodes of the file, as they know their lines.
type machineParser struct {
	out   []Machine
	names map[string]int // -> line
	edges int
}

func lineError(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("line %d: %w", n.Line, fmt.Errorf(format, args...))
}

// fields calls for each key of n the function of that name.
func (p *machineParser) fields(n *yaml.Node, what string, known map[string]func(*yaml.Node) error) error {
	if n.Kind != yaml.MappingNode {
		return lineError(n, "%s must be a mapping", what)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		f := known[key.Value]
		if key.Kind != yaml.ScalarNode || f == nil {
			return lineError(key, "%s has no field %.40q", what, key.Value)
		}
		if seen[key.Value] {
			return lineError(key, "%s has %s twice", what, key.Value)
		}
		seen[key.Value] = true
		if err := f(value); err != nil {
			return err
		}
	}
	return nil
}

// list calls f for each of n's elements.
func (p *machineParser) list(n *yaml.Node, what string, f func(*yaml.Node) error) error {
	if n.Kind != yaml.SequenceNode {
		return lineError(n, "%s must be a list", what)
	}
	for _, e := range n.Content {
		if err := f(e); err != nil {
			return err
		}
	}
	return nil
}

// name reads a name into to: one line of text.
func (p *machineParser) name(what string, to *string) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		switch s := n.Value; {
		case n.Kind != yaml.ScalarNode || n.Tag == "!!null":
			return lineError(n, "%s must be a name", what)
		case s == "" || strings.TrimSpace(s) != s:
			return lineError(n, "%s is empty, or has spaces around it", what)
		case len(s) > maxMachineName:
			return lineError(n, "%s has %d bytes, more than %d", what, len(s), maxMachineName)
		case strings.ContainsFunc(s, unicode.IsControl):
			return lineError(n, "%s has a control character", what)
		}
		*to = n.Value
		return nil
	}
}

func (p *machineParser) duration(what string, to *time.Duration) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		d, err := time.ParseDuration(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil {
			return lineError(n, "%s is %.40q: it must be a duration as 1.5s, 200ms, 50us", what, n.Value)
		}
		if d <= 0 || d > maxMachineSlower {
			return lineError(n, "%s is %v: it must be above 0 and at most 720h", what, d)
		}
		*to = d
		return nil
	}
}

func (p *machineParser) machines(n *yaml.Node) error { return p.list(n, "machines", p.machine) }

func (p *machineParser) machine(n *yaml.Node) error {
	if len(p.out) >= maxMachines {
		return lineError(n, "there are more than %d machines", maxMachines)
	}
	var m Machine
	var edges *yaml.Node
	if err := p.fields(n, "a machine", map[string]func(*yaml.Node) error{
		"name": p.name("name", &m.Name), "service": p.name("service", &m.Service),
		"edges": func(e *yaml.Node) error { edges = e; return nil },
	}); err != nil {
		return err
	}
	if m.Name == "" {
		return lineError(n, "a machine has no name")
	}
	if at, twice := p.names[m.Name]; twice {
		return lineError(n, "there is a machine %.40q on line %d already", m.Name, at)
	}
	p.names[m.Name] = n.Line
	if edges == nil {
		return lineError(n, "machine %.40q has no edges", m.Name)
	}
	steps := map[[2]string]int{}
	if err := p.list(edges, "edges", func(n *yaml.Node) error {
		e, err := p.edge(n)
		if err != nil {
			return err
		}
		step := [2]string{e.From, e.To}
		if at, twice := steps[step]; twice {
			return lineError(n, "the edge from %.40q to %.40q is on line %d already", e.From, e.To, at)
		}
		steps[step] = n.Line
		m.Edges = append(m.Edges, e)
		return nil
	}); err != nil {
		return err
	}
	if len(m.Edges) == 0 {
		return lineError(n, "machine %.40q has no edges", m.Name)
	}
	p.out = append(p.out, m)
	return nil
}

func (p *machineParser) edge(n *yaml.Node) (e MachineEdge, err error) {
	if p.edges++; p.edges > maxMachineEdges {
		return e, lineError(n, "there are more than %d edges", maxMachineEdges)
	}
	e.Line = n.Line
	events := 0
	err = p.fields(n, "an edge", map[string]func(*yaml.Node) error{
		"from": p.name("from", &e.From), "to": p.name("to", &e.To), "span": p.name("span", &e.Span), "in": p.name("in", &e.In),
		"slow": p.duration("slow", &e.Slow), "p99": p.duration("p99", &e.P99),
		"events": func(n *yaml.Node) error {
			return p.list(n, "events", func(n *yaml.Node) error {
				if events++; events > len(e.Events) {
					return lineError(n, "events are two names: of the one and of the next")
				}
				return p.name("an event", &e.Events[events-1])(n)
			})
		},
	})
	switch {
	case err != nil:
		return e, err
	case e.From == "" || e.To == "":
		return e, lineError(n, "an edge needs from and to")
	case e.From == e.To:
		return e, lineError(n, "the edge goes from %.40q to itself", e.From)
	case e.Span != "" && events > 0:
		return e, lineError(n, "span and events are two ways to see the same step: give one")
	case events == 1:
		return e, lineError(n, "events are two names: of the one and of the next")
	case e.P99 != 0 && e.Slow > e.P99:
		return e, lineError(n, "slow, for half of all, is %v, above p99, %v", e.Slow, e.P99)
	}
	if e.Span == "" && events == 0 {
		e.Events = [2]string{e.From, e.To}
	}
	return e, nil
}

// matchPattern says that name is of pattern, in which a star stands for any characters, or none. It takes time by the length of one times the
// other at most, as a star that has matched never takes back more than the last one did.
func matchPattern(pattern, name string) bool {
	star, mark := -1, 0
	p, n := 0, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && pattern[p] == name[n]:
			p++
			n++
		case star >= 0:
			mark++
			p, n = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
