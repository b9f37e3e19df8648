package policy

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// The native path. A policy is compiled once for each kind of principal and action, which settles what its scope says of both; what is left
// is a tree of tests of which none can fail. Evaluation is a switch over concrete nodes, without interfaces or func values, so that nothing
// of a request escapes to the heap.

type op uint8

const (
	opFalse op = iota
	opTrue
	opAnd
	opOr
	opNot
	opIf             // a ? b : c
	opSame           // a == b
	opRole           // one of the roles in the mask is granted
	opLevel          // the level is at least n
	opIsolation      // the isolation is at least n
	opIsolationIs    // the isolation is n
	opPathIn         // the path is text, or below it
	opEqual          // left == right
	opAmong          // left is among list
	opLike           // left is like pattern
	opHas            // there is an attribute named text
	opMFA            // a second factor was shown
	opTrust          // trust compare n
	opTime           // time compare n
	opHasRemote      // the address is known
	opRemoteIn       // the address is in prefix
	opRemoteLoopback // the address is one of this machine
)

// compare is how two numbers are compared.
type compare uint8

const (
	less compare = iota
	lessEqual
	greater
	greaterEqual
	equal
)

func (c compare) of(a, b int64) bool {
	switch c {
	case less:
		return a < b
	case lessEqual:
		return a <= b
	case greater:
		return a > b
	case greaterEqual:
		return a >= b
	}
	return a == b
}

// mirrored is the comparison with its sides exchanged.
func (c compare) mirrored() compare {
	return [...]compare{greater, greaterEqual, less, lessEqual, equal}[c]
}

// test is a node.
type test struct {
	op          op
	compare     compare
	a, b, c     *test
	left, right term
	text        string // opPathIn: with a slash behind it
	n           int64
	mask        uint64 // of roles, by their places in the set's
	list        []string
	pattern     types.Pattern
	prefix      netip.Prefix
}

// term is a text of a request, or a literal.
type term struct {
	source source
	text   string // the literal, or the attribute's name
}

type source uint8

const (
	sourceLiteral source = iota
	sourcePrincipal
	sourcePath
	sourceName
	sourceAttribute
)

func (t *term) of(f *facts) string {
	switch t.source {
	case sourcePrincipal:
		return f.r.Principal
	case sourcePath:
		return f.r.Resource
	case sourceName:
		return lastSegment(f.r.Resource)
	case sourceAttribute:
		return f.r.Attributes[t.text]
	}
	return t.text
}

// holds evaluates a test.
func (t *test) holds(f *facts) bool {
	switch t.op {
	case opTrue:
		return true
	case opAnd:
		return t.a.holds(f) && t.b.holds(f)
	case opOr:
		return t.a.holds(f) || t.b.holds(f)
	case opNot:
		return !t.a.holds(f)
	case opIf:
		if t.a.holds(f) {
			return t.b.holds(f)
		}
		return t.c.holds(f)
	case opSame:
		return t.a.holds(f) == t.b.holds(f)
	case opRole:
		return f.roles&t.mask != 0
	case opLevel:
		return int64(f.r.Level) >= t.n
	case opIsolation:
		return int64(f.isolation) >= t.n
	case opIsolationIs:
		return int64(f.isolation) == t.n
	case opPathIn:
		p := f.r.Resource
		return strings.HasPrefix(p, t.text) || len(p) == len(t.text)-1 && p == t.text[:len(p)]
	case opEqual:
		return t.left.of(f) == t.right.of(f)
	case opAmong:
		return slices.Contains(t.list, t.left.of(f))
	case opLike:
		return t.pattern.Match(types.String(t.left.of(f)))
	case opHas:
		_, ok := f.r.Attributes[t.text]
		return ok
	case opMFA:
		return f.r.MFA
	case opTrust:
		return t.compare.of(int64(f.r.Trust), t.n)
	case opTime:
		return t.compare.of(f.time, t.n)
	case opHasRemote:
		return f.remote.IsValid()
	case opRemoteIn:
		return t.prefix.Contains(f.remote)
	case opRemoteLoopback:
		return f.remote.IsLoopback()
	}
	return false
}

var (
	always = &test{op: opTrue}
	never  = &test{op: opFalse}
)

func constant(v bool) *test {
	if v {
		return always
	}
	return never
}

// and, or and not settle what is settled. No test can fail, so the order in which they stand does not matter.
func and(a, b *test) *test {
	switch {
	case a == never || b == never:
		return never
	case a == always:
		return b
	case b == always:
		return a
	}
	return &test{op: opAnd, a: a, b: b}
}

func or(a, b *test) *test {
	switch {
	case a == always || b == always:
		return always
	case a == never:
		return b
	case b == never:
		return a
	case a.op == opRole && b.op == opRole:
		return &test{op: opRole, mask: a.mask | b.mask}
	}
	return &test{op: opOr, a: a, b: b}
}

func not(a *test) *test {
	switch a {
	case always:
		return never
	case never:
		return always
	}
	return &test{op: opNot, a: a}
}

func same(a, b *test) *test {
	switch {
	case a == always:
		return b
	case b == always:
		return a
	case a == never:
		return not(b)
	case b == never:
		return not(a)
	}
	return &test{op: opSame, a: a, b: b}
}

func choose(cond, then, other *test) *test {
	switch cond {
	case always:
		return then
	case never:
		return other
	}
	return &test{op: opIf, a: cond, b: then, c: other}
}

// compiler compiles for one kind of principal and one action, by their places in Kinds and Actions.
type compiler struct {
	kind, action int
	roles        []string
}

// scope is a policy's head: always native.
func (c compiler) scope(p *ast.Policy) *test {
	t := always
	for _, part := range []struct {
		variable types.String
		scope    ast.IsScopeNode
	}{{"principal", p.Principal}, {"action", p.Action}, {"resource", p.Resource}} {
		variable := part.variable
		switch s := part.scope.(type) {
		case ast.ScopeTypeEq:
			t = and(t, c.is(variable, s.Entity))
		case ast.ScopeTypeIn:
			t = and(t, c.in(variable, s.Entity))
		case ast.ScopeTypeInSet:
			any := never
			for _, e := range s.Entities {
				any = or(any, c.in(variable, e))
			}
			t = and(t, any)
		case ast.ScopeTypeIs:
			t = and(t, c.typeIs(variable, s.Type))
		case ast.ScopeTypeIsIn:
			t = and(t, and(c.typeIs(variable, s.Type), c.in(variable, s.Entity)))
		}
	}
	return t
}

// conditions are a policy's when and unless; not ok where one of them is for cedar-go.
func (c compiler) conditions(p *ast.Policy) (t *test, ok bool) {
	t = always
	for _, cond := range p.Conditions {
		body, ok := c.boolean(cond.Body)
		if !ok {
			return nil, false
		}
		if cond.Condition == ast.ConditionUnless {
			body = not(body)
		}
		t = and(t, body)
	}
	return t, true
}

// typeIs is `variable is Type`.
func (c compiler) typeIs(variable types.String, t types.EntityType) *test {
	switch variable {
	case "principal":
		return constant(t == kindTypes[c.kind])
	case "action":
		return constant(t == typeAction)
	}
	return constant(t == typePath)
}

// is is `variable == Entity`.
func (c compiler) is(variable types.String, e types.EntityUID) *test {
	switch id := string(e.ID); {
	case c.typeIs(variable, e.Type) == never:
		return never
	case variable == "principal":
		return &test{op: opEqual, left: term{source: sourcePrincipal}, right: term{text: id}}
	case variable == "action":
		return constant(id == Actions[c.action])
	default:
		return &test{op: opEqual, left: term{source: sourcePath}, right: term{text: id}}
	}
}

// in is `variable in Entity`.
func (c compiler) in(variable types.String, e types.EntityUID) *test {
	id := string(e.ID)
	switch {
	case variable == "principal" && e.Type == typeRole:
		if i := slices.Index(c.roles, id); i >= 0 {
			return &test{op: opRole, mask: 1 << i}
		}
		return never
	case variable == "principal" && e.Type == typeLevel:
		l, err := ParseLevel(id)
		if err != nil {
			return never
		}
		if l == Untrusted {
			return always
		}
		return &test{op: opLevel, n: int64(l)}
	case variable == "resource" && e.Type == typePath:
		return &test{op: opPathIn, text: id + "/"}
	}
	return c.is(variable, e) // who has no parents is in itself alone
}

// under settles what a test says of paths whose first segment is known.
func (t *test) under(first string) *test {
	switch t.op {
	case opAnd:
		return and(t.a.under(first), t.b.under(first))
	case opOr:
		return or(t.a.under(first), t.b.under(first))
	case opNot:
		return not(t.a.under(first))
	case opIf:
		return choose(t.a.under(first), t.b.under(first), t.c.under(first))
	case opSame:
		return same(t.a.under(first), t.b.under(first))
	case opPathIn:
		switch {
		case firstSegment(t.text) != first:
			return never
		case t.text == first+"/":
			return always
		}
	case opEqual:
		if t.left.source == sourcePath && t.right.source == sourceLiteral && firstSegment(t.right.text) != first {
			return never
		}
	}
	return t
}

// firsts collects the first segments of the paths that a test names.
func (t *test) firsts(into map[string]int) {
	switch {
	case t == nil:
		return
	case t.op == opPathIn:
		into[firstSegment(t.text)]++
	}
	t.a.firsts(into)
	t.b.firsts(into)
	t.c.firsts(into)
}

// conjuncts are the tests that a test is the conjunction of, those first that cost least.
func (t *test) conjuncts() []test {
	var out []test
	var walk func(t *test)
	walk = func(t *test) {
		switch t.op {
		case opAnd:
			walk(t.a)
			walk(t.b)
		case opTrue:
		default:
			out = append(out, *t)
		}
	}
	walk(t)
	slices.SortStableFunc(out, func(a, b test) int { return a.cost() - b.cost() })
	return out
}

// cost is a rank: compared numbers, then compared texts, then what has parts.
func (t *test) cost() int {
	switch t.op {
	case opLevel, opRole, opTrust, opMFA, opIsolation, opIsolationIs, opTime, opHasRemote:
		return 0
	case opPathIn, opEqual, opRemoteLoopback, opRemoteIn:
		return 1
	}
	return 2
}

// boolean compiles an expression of type Bool; not ok where it is for cedar-go.
func (c compiler) boolean(n ast.IsNode) (*test, bool) {
	switch n := n.(type) {
	case ast.NodeValue:
		b, ok := n.Value.(types.Boolean)
		return constant(bool(b)), ok
	case ast.NodeTypeAnd:
		a, okA := c.boolean(n.Left)
		b, okB := c.boolean(n.Right)
		return both(and, a, okA, b, okB)
	case ast.NodeTypeOr:
		a, okA := c.boolean(n.Left)
		b, okB := c.boolean(n.Right)
		return both(or, a, okA, b, okB)
	case ast.NodeTypeNot:
		a, ok := c.boolean(n.Arg)
		if !ok {
			return nil, false
		}
		return not(a), true
	case ast.NodeTypeIfThenElse:
		return c.choice(n)
	case ast.NodeTypeEquals:
		return c.equals(n.Left, n.Right)
	case ast.NodeTypeNotEquals:
		t, ok := c.equals(n.Left, n.Right)
		if !ok {
			return nil, false
		}
		return not(t), true
	case ast.NodeTypeLessThan:
		return number(less, n.BinaryNode)
	case ast.NodeTypeLessThanOrEqual:
		return number(lessEqual, n.BinaryNode)
	case ast.NodeTypeGreaterThan:
		return number(greater, n.BinaryNode)
	case ast.NodeTypeGreaterThanOrEqual:
		return number(greaterEqual, n.BinaryNode)
	case ast.NodeTypeIn:
		return c.within(n.Left, n.Right)
	case ast.NodeTypeIs:
		v, ok := n.Left.(ast.NodeTypeVariable)
		return c.typeIs(v.Name, n.EntityType), ok && v.Name != "context"
	case ast.NodeTypeIsIn:
		v, isVar := n.Left.(ast.NodeTypeVariable)
		t, ok := c.within(n.Left, n.Entity)
		return both(and, c.typeIs(v.Name, n.EntityType), isVar && v.Name != "context", t, ok)
	case ast.NodeTypeHas:
		return has(n)
	case ast.NodeTypeLike:
		left, ok := textOf(n.Arg)
		return &test{op: opLike, left: left, pattern: n.Value}, ok
	case ast.NodeTypeContains:
		return contains(n)
	case ast.NodeTypeAccess:
		return &test{op: opMFA}, access(n) == "principal.mfa"
	case ast.NodeTypeExtensionCall:
		return remote(n)
	}
	return nil, false
}

func both(join func(a, b *test) *test, a *test, okA bool, b *test, okB bool) (*test, bool) {
	if !okA || !okB {
		return nil, false
	}
	return join(a, b), true
}

func (c compiler) choice(n ast.NodeTypeIfThenElse) (*test, bool) {
	cond, ok1 := c.boolean(n.If)
	then, ok2 := c.boolean(n.Then)
	other, ok3 := c.boolean(n.Else)
	if !ok1 || !ok2 || !ok3 {
		return nil, false
	}
	return choose(cond, then, other), true
}

// access is the name of an attribute as "principal.mfa" or "principal.attributes.team", or "".
func access(n ast.IsNode) string {
	switch n := n.(type) {
	case ast.NodeTypeVariable:
		return string(n.Name)
	case ast.NodeTypeAccess:
		if on := access(n.Arg); on != "" {
			return on + "." + string(n.Value)
		}
	}
	return ""
}

// attributePrefix is what the name of a signed attribute begins with.
const attributePrefix = "principal.attributes."

// textOf is an expression of type String.
func textOf(n ast.IsNode) (term, bool) {
	if v, ok := n.(ast.NodeValue); ok {
		s, ok := v.Value.(types.String)
		return term{text: string(s)}, ok
	}
	switch name := access(n); name {
	case "principal.id":
		return term{source: sourcePrincipal}, true
	case "resource.path":
		return term{source: sourcePath}, true
	case "resource.name":
		return term{source: sourceName}, true
	default:
		attribute, ok := strings.CutPrefix(name, attributePrefix)
		return term{source: sourceAttribute, text: attribute}, ok
	}
}

// entityOf is a literal entity.
func entityOf(n ast.IsNode) (types.EntityUID, bool) {
	v, ok := n.(ast.NodeValue)
	if !ok {
		return types.EntityUID{}, false
	}
	e, ok := v.Value.(types.EntityUID)
	return e, ok
}

// equals compiles ==, of texts, entities, numbers and truth values.
func (c compiler) equals(l, r ast.IsNode) (*test, bool) {
	if left, ok := textOf(l); ok {
		right, ok := textOf(r)
		return &test{op: opEqual, left: left, right: right}, ok
	}
	for _, side := range [][2]ast.IsNode{{l, r}, {r, l}} {
		e, ok := entityOf(side[1])
		if !ok {
			continue
		}
		if v, ok := side[0].(ast.NodeTypeVariable); ok && v.Name != "context" {
			return c.is(v.Name, e), true
		}
		if access(side[0]) == "context.isolation" {
			n := isolationNamed(e)
			return &test{op: opIsolationIs, n: int64(n)}, n >= 0
		}
	}
	if t, ok := number(equal, ast.BinaryNode{Left: l, Right: r}); ok {
		return t, true
	}
	a, okA := c.boolean(l)
	b, okB := c.boolean(r)
	if !okA || !okB {
		return nil, false
	}
	return same(a, b), true
}

// number compares trust or time with a literal.
func number(cmp compare, n ast.BinaryNode) (*test, bool) {
	for _, side := range [][2]ast.IsNode{{n.Left, n.Right}, {n.Right, n.Left}} {
		switch v, ok := literalOf(side[1]); access(side[0]) {
		case "principal.trust":
			long, isLong := v.(types.Long)
			return &test{op: opTrust, compare: cmp, n: int64(long)}, ok && isLong
		case "context.time":
			at, isTime := v.(types.Datetime)
			return &test{op: opTime, compare: cmp, n: at.Milliseconds()}, ok && isTime
		}
		cmp = cmp.mirrored()
	}
	return nil, false
}

// literalOf is a value that stands in the policy, as it is or as the argument of an extension's constructor.
func literalOf(n ast.IsNode) (types.Value, bool) {
	switch n := n.(type) {
	case ast.NodeValue:
		return n.Value, true
	case ast.NodeTypeExtensionCall:
		if len(n.Args) != 1 {
			return nil, false
		}
		arg, ok := n.Args[0].(ast.NodeValue)
		if !ok {
			return nil, false
		}
		text, ok := arg.Value.(types.String)
		if !ok {
			return nil, false
		}
		switch n.Name {
		case "datetime":
			v, err := types.ParseDatetime(string(text))
			return v, err == nil
		case "ip":
			v, err := types.ParseIPAddr(string(text))
			return v, err == nil
		}
	}
	return nil, false
}

// isolationNamed is the place in Isolations of an isolation as policies name it, or -1.
func isolationNamed(e types.EntityUID) int {
	switch {
	case e.Type != typeIsolation || e.ID == "":
		return -1
	case e.ID == noIsolation:
		return 0
	}
	return isolationOf(string(e.ID))
}

// within compiles `in`, of an entity or a list of them.
func (c compiler) within(l, r ast.IsNode) (*test, bool) {
	if set, ok := r.(ast.NodeTypeSet); ok {
		t := never
		for _, e := range set.Elements {
			one, ok := c.within(l, e)
			if !ok {
				return nil, false
			}
			t = or(t, one)
		}
		return t, true
	}
	e, ok := entityOf(r)
	if !ok {
		return nil, false
	}
	if v, ok := l.(ast.NodeTypeVariable); ok && v.Name != "context" {
		return c.in(v.Name, e), true
	}
	if access(l) == "context.isolation" {
		n := isolationNamed(e)
		return &test{op: opIsolation, n: int64(n)}, n >= 0
	}
	return nil, false
}

func has(n ast.NodeTypeHas) (*test, bool) {
	switch on := access(n.Arg); {
	case on == "context" && n.Value == "remote":
		return &test{op: opHasRemote}, true
	case on+"." == attributePrefix:
		return &test{op: opHas, text: string(n.Value)}, true
	}
	return nil, false
}

// contains is `["a", "b"].contains(text)`.
func contains(n ast.NodeTypeContains) (*test, bool) {
	left, ok := textOf(n.Right)
	set, isSet := n.Left.(ast.NodeTypeSet)
	if !ok || !isSet {
		return nil, false
	}
	t := &test{op: opAmong, left: left}
	for _, e := range set.Elements {
		lit, ok := textOf(e)
		if !ok || lit.source != sourceLiteral {
			return nil, false
		}
		t.list = append(t.list, lit.text)
	}
	return t, true
}

// remote compiles tests of the remote address.
func remote(n ast.NodeTypeExtensionCall) (*test, bool) {
	if len(n.Args) == 0 || access(n.Args[0]) != "context.remote" {
		return nil, false
	}
	switch {
	case n.Name == "isLoopback" && len(n.Args) == 1:
		return &test{op: opRemoteLoopback}, true
	case n.Name == "isInRange" && len(n.Args) == 2:
		v, ok := literalOf(n.Args[1])
		ip, isIP := v.(types.IPAddr)
		return &test{op: opRemoteIn, prefix: netip.Prefix(ip)}, ok && isIP
	}
	return nil, false
}
