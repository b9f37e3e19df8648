package policy

import (
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	schemaast "github.com/cedar-policy/cedar-go/x/exp/schema/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"
)

//go:embed model.cedarschema
var modelText []byte

// ModelText is the schema that policies are checked against.
func ModelText() string { return string(modelText) }

// model is what policies may speak of.
type model struct {
	schema     *resolved.Schema
	validator  *validate.Validator
	attributes map[string]bool
	roles      []string
}

// Bounds of what a folder's schema declares.
const (
	maxDeclared     = 64 // of roles and of attributes; roles are the bits of a word
	maxDeclaredName = 64
)

// modelOf is the model, with what the schema among the files declares.
func modelOf(files []sourceFile) (*model, Errors) {
	var base schema.Schema
	if err := base.UnmarshalCedar(modelText); err != nil {
		panic(err) // it is embedded, and the tests read it
	}
	m := &model{attributes: map[string]bool{}, roles: Roles}
	tree := base.AST()
	from := ""
	for _, f := range files {
		if path.Ext(f.name) != ".cedarschema" {
			continue
		}
		if from != "" {
			return nil, Errors{{File: f.name, Text: fmt.Sprintf("%s is a schema as well; there may be one", from)}}
		}
		from = f.name
		if wrong := m.declare(f, tree); wrong != nil {
			return nil, Errors{wrong}
		}
	}
	var err error
	if m.schema, err = schema.NewSchemaFromAST(tree).Resolve(); err != nil {
		return nil, Errors{{File: from, Text: err.Error()}}
	}
	m.validator = validate.New(m.schema)
	return m, nil
}

// declare takes a folder's schema into the model's: attributes that are texts, and roles.
func (m *model) declare(f sourceFile, tree *schemaast.Schema) *Error {
	text := string(f.text)
	toks, wrong := tokens(text)
	if wrong != nil {
		return wrong.in(f.name)
	}
	t := &policyText{file: f.name, text: text, tokens: toks, ast: &ast.Policy{}}
	var own schema.Schema
	if err := own.UnmarshalCedar(f.text); err != nil {
		return schemaSyntax(f.name, err)
	}
	const form = "a schema here has `type Attributes = { team?: String };` and `entity Role enum [\"reader\"];`, either or both, and nothing else"
	o := own.AST()
	for name := range maps.Keys(o.CommonTypes) {
		if name != "Attributes" {
			return t.wrong(string(name), "the type %s: %s", name, form)
		}
	}
	for name := range o.Enums {
		if name != "Role" {
			return t.wrong(string(name), "the entity %s: %s", name, form)
		}
	}
	if len(o.Entities)+len(o.Actions)+len(o.Namespaces) > 0 || len(o.CommonTypes)+len(o.Enums) == 0 {
		return t.wrong("", "%s", form)
	}
	if c, ok := o.CommonTypes["Attributes"]; ok {
		record, ok := c.Type.(schemaast.RecordType)
		if !ok || len(record) > maxDeclared {
			return t.wrong("Attributes", "Attributes must be a record of at most %d names", maxDeclared)
		}
		for name, a := range record {
			if isText := a.Type == schemaast.IsType(schemaast.StringType{}) || a.Type == schemaast.IsType(schemaast.TypeRef("String")); !isText || !a.Optional || len(name) > maxDeclaredName {
				return t.wrong(string(name), "the attribute %.40q must be written as `%.40s?: String`: a text that an identity may be without", name, name)
			}
			m.attributes[string(name)] = true
		}
		tree.CommonTypes["Attributes"] = c
	}
	if e, ok := o.Enums["Role"]; ok {
		if len(e.Values) > maxDeclared {
			return t.wrong("Role", "there are more than %d roles", maxDeclared)
		}
		m.roles = nil
		for _, v := range e.Values {
			if v == "" || len(v) > maxDeclaredName {
				return t.wrong("Role", "the role %.40q must have 1 to %d bytes", v, maxDeclaredName)
			}
			m.roles = append(m.roles, string(v))
		}
	}
	return nil
}

var schemaAt = regexp.MustCompile(`(?s)^(?:.*?:)?(\d+):(\d+): (.*)$`)

func schemaSyntax(file string, err error) *Error {
	e := &Error{File: file, Text: err.Error()}
	if m := schemaAt.FindStringSubmatch(err.Error()); m != nil {
		_, _ = fmt.Sscan(m[1]+" "+m[2], &e.Line, &e.Column) // both are digits
		e.Text = m[3]
	}
	return e
}

// lint finds what the validator lets pass because it can only be false: a name that no entity will ever have, and memberships and
// attributes that nothing has.
func (m *model) lint(t *policyText) Errors {
	var all Errors
	add := func(e *Error) {
		if e != nil {
			all = append(all, e)
		}
	}
	for _, scope := range []ast.IsScopeNode{t.ast.Principal, t.ast.Resource} {
		switch s := scope.(type) {
		case ast.ScopeTypeEq:
			add(m.name(t, s.Entity))
		case ast.ScopeTypeIn:
			add(m.name(t, s.Entity))
		case ast.ScopeTypeIsIn:
			add(m.name(t, s.Entity))
		}
	}
	for _, c := range t.ast.Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			switch n := n.(type) {
			case ast.NodeValue:
				if e, ok := n.Value.(types.EntityUID); ok {
					add(m.name(t, e))
				}
			case ast.NodeTypeIn:
				add(t.membership(n.Left, n.Right))
			case ast.NodeTypeIsIn:
				add(t.membership(n.Left, n.Entity))
			case ast.NodeTypeHas:
				add(m.known(t, n))
			case ast.NodeTypeIs:
				if !m.isType(n.EntityType) {
					add(t.wrong(string(n.EntityType), "there is no kind %s; there are %s", n.EntityType, join(kindTypes)))
				}
			}
			return true
		})
	}
	return all
}

func (m *model) isType(e types.EntityType) bool { _, ok := m.schema.Entities[e]; return ok }

// name says what is wrong with the name of an entity.
func (m *model) name(t *policyText, e types.EntityUID) *Error {
	id, have := string(e.ID), []string(nil)
	switch e.Type {
	case typeRole:
		have = m.roles
	case typeLevel:
		have = levels
	case typeIsolation:
		have = append([]string{string(noIsolation)}, Isolations[1:]...)
	case typePath:
		if !cleanPath(id) {
			return t.wrong(e.String(), "%s can never match: a path is segments with one slash between them, none at its ends, as in Path::\"profiles/raw\"", e)
		}
		return nil
	default:
		return nil // the validator knows actions; a principal may have any id
	}
	if !slices.Contains(have, id) {
		return t.wrong(e.String(), "there is no %s; there are %s", e, strings.Join(have, ", "))
	}
	return nil
}

// membership says what is wrong with `left in right`, where left is of one type that can be in few others.
func (t *policyText) membership(left, right ast.IsNode) *Error {
	if set, ok := right.(ast.NodeTypeSet); ok {
		for _, e := range set.Elements {
			if wrong := t.membership(left, e); wrong != nil {
				return wrong
			}
		}
		return nil
	}
	e, ok := entityOf(right)
	if !ok {
		return nil
	}
	var may []types.EntityType
	switch access(left) {
	case "principal":
		may = append([]types.EntityType{typeRole, typeLevel}, kindTypes...)
	case "resource":
		may = []types.EntityType{typePath}
	case "action":
		may = []types.EntityType{typeAction}
	case "context.isolation":
		may = []types.EntityType{typeIsolation}
	default:
		return nil
	}
	if slices.Contains(may, e.Type) {
		return nil
	}
	return t.wrong(e.String(), "%s is never in %s: it can be in %s", access(left), e, join(may))
}

// known says what is wrong with `has`.
func (m *model) known(t *policyText, n ast.NodeTypeHas) *Error {
	var have []string
	switch access(n.Arg) {
	case "principal":
		have = []string{"id", "trust", "mfa", "attributes"}
	case "resource":
		have = []string{"path", "name"}
	case "context":
		have = []string{"isolation", "time", "remote"}
	case "principal.attributes":
		have = slices.Sorted(maps.Keys(m.attributes))
	default:
		return nil
	}
	if slices.Contains(have, string(n.Value)) {
		return nil
	}
	hint := ""
	if access(n.Arg) == "principal.attributes" {
		hint = "; declare it in a file that ends in .cedarschema: type Attributes = { " + string(n.Value) + "?: String };"
	}
	return t.wrong(string(n.Value), "%s never has %.40q; there are [%s]%s", access(n.Arg), n.Value, strings.Join(have, ", "), hint)
}

func join[T ~string](names []T) string {
	var out []string
	for _, n := range names {
		out = append(out, string(n))
	}
	return strings.Join(out, ", ")
}

var (
	quotedName = regexp.MustCompile("`([^`]+)`")
	// ofType is what makes one slip as many errors as there are kinds of principals or actions that it is one for.
	ofType   = regexp.MustCompile("( on entity type `[^`]+`| in context for Action::\"[a-z]+\")")
	noAction = "unable to find an applicable action given the policy scope constraints"
)

// validation are the validator's errors, each once, at the first name of the policy that it speaks of.
func (m *model) validation(t *policyText, err error) Errors {
	list := []error{err}
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		list = joined.Unwrap()
	}
	var all Errors
	said := map[string]bool{}
	for _, one := range list {
		text := ofType.ReplaceAllString(one.Error(), "")
		if said[text] || text == noAction && len(all) > 0 { // the latter follows from what was said
			continue
		}
		said[text] = true
		e := t.wrong("", "%s", text)
		for _, found := range quotedName.FindAllStringSubmatch(text, -1) {
			if named := t.wrong(found[1], "%s", text); named.Line != e.Line || named.Column != e.Column {
				e = named
				break
			}
		}
		switch {
		case strings.HasPrefix(text, "attribute "):
			e.Text += "; a principal has id, trust, mfa and attributes, a resource path and name, the context isolation, time and remote"
		case strings.HasPrefix(text, "unable to guarantee safety"):
			e.Text += "; ask for it first, as in `context has remote && ...`"
		case text == noAction:
			e.Text = "it can never match: no action is of such a principal on such a resource"
		}
		all = append(all, e)
	}
	return all
}
