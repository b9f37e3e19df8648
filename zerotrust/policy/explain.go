package policy

import (
	"fmt"
	"strings"

	"github.com/cedar-policy/cedar-go"
	cedarast "github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/eval"
)

// Info is what a policy is.
type Info struct {
	ID         string `json:"id"`
	File       string `json:"file"`
	Line       int    `json:"line"`
	Effect     string `json:"effect"` // "permit" or "forbid"
	Doc        string `json:"doc,omitempty"`
	Conditions string `json:"conditions,omitempty"` // its annotations
	Native     bool   `json:"native"`               // it never needs cedar-go
}

// Verdict is what one policy says of a request.
type Verdict struct {
	Info
	Matches bool `json:"matches"`
	Decides bool `json:"decides"` // it is one of those that the answer names
	// Why is the first of the policy's conditions that does not hold, as Cedar; or, where that one cannot be evaluated, why not.
	Why string `json:"why,omitempty"`
}

// Policies are what the set has, in its order.
func (s *Set) Policies() []Info {
	var out []Info
	for _, p := range s.policies {
		out = append(out, p.info())
	}
	return out
}

func (p *compiled) info() Info {
	effect := "permit"
	if p.forbid {
		effect = "forbid"
	}
	return Info{ID: p.id, File: p.file, Line: p.line, Effect: effect, Doc: p.doc, Conditions: p.conditions.String(), Native: p.native}
}

// Explain decides as Decide does, and says of every policy what it has to do with it, in the set's order. It is slow: for people.
func (s *Set) Explain(r *Request) (Result, []Verdict) {
	res := s.Decide(r)
	if _, why := factsOf(r); why != "" {
		return res, nil
	}
	q := s.ask(*r)
	env := eval.Env{Entities: q.entities, Principal: q.request.Principal, Action: q.request.Action, Resource: q.request.Resource, Context: q.request.Context}
	decides := map[string]bool{}
	for _, id := range res.Policies {
		decides[id] = true
	}
	var out []Verdict
	for _, p := range s.policies {
		v := Verdict{Info: p.info(), Decides: decides[p.id]}
		v.Why = p.fails(env)
		v.Matches = v.Why == ""
		out = append(out, v)
	}
	return res, out
}

// fails is the first conjunct of a policy that does not hold, or "".
func (p *compiled) fails(env eval.Env) string {
	for _, n := range conjunctsOf(eval.PolicyToNode(p.ast).AsIsNode(), nil) {
		v, err := eval.Eval(n, env)
		if err != nil {
			return fmt.Sprintf("%s cannot be evaluated: %v", textOfNode(n), err)
		}
		if b, ok := v.(types.Boolean); !ok || !bool(b) {
			return textOfNode(n)
		}
	}
	return ""
}

func conjunctsOf(n ast.IsNode, out []ast.IsNode) []ast.IsNode {
	if and, ok := n.(ast.NodeTypeAnd); ok {
		return conjunctsOf(and.Right, conjunctsOf(and.Left, out))
	}
	return append(out, n)
}

// textOfNode is an expression as Cedar, on one line.
func textOfNode(n ast.IsNode) string {
	p := cedar.NewPolicyFromAST((*cedarast.Policy)(ast.Permit().When(ast.NewNode(n))))
	_, text, _ := strings.Cut(string(p.MarshalCedar()), "when {")
	text = strings.TrimSuffix(strings.TrimSpace(text), ";")
	return strings.Join(strings.Fields(strings.TrimSuffix(text, "}")), " ")
}
