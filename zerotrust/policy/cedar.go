package policy

import (
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
)

// Names of model.cedarschema.
const (
	typeRole      types.EntityType = "Role"
	typeLevel     types.EntityType = "Level"
	typeIsolation types.EntityType = "Isolation"
	typePath      types.EntityType = "Path"
	typeAction    types.EntityType = "Action"

	noIsolation types.String = "none" // the name of "" in Isolations
)

// kindTypes are the entity types of Kinds.
var kindTypes = []types.EntityType{"Peer", "Agent", "Person", "Token", "Service"}

// question is a request as Cedar has it.
type question struct {
	request  cedar.Request
	entities types.EntityMap
}

// ask makes Cedar's form of a request that has passed its checks.
func (s *Set) ask(r Request) *question {
	f, _ := factsOf(&r)
	q := &question{entities: types.EntityMap{}}
	var groups []types.EntityUID
	for l := Untrusted; l <= r.Level; l++ {
		groups = append(groups, types.NewEntityUID(typeLevel, types.String(l.String())))
	}
	for _, role := range r.Roles {
		groups = append(groups, types.NewEntityUID(typeRole, types.String(role)))
	}
	attributes := types.RecordMap{}
	for name, value := range r.Attributes {
		if s.attributes[name] {
			attributes[types.String(name)] = types.String(value)
		}
	}
	q.request.Principal = q.put(kindTypes[f.kind], r.Principal, groups, types.RecordMap{
		"id":         types.String(r.Principal),
		"trust":      types.Long(r.Trust),
		"mfa":        types.Boolean(r.MFA),
		"attributes": types.NewRecord(attributes),
	})
	var above []types.EntityUID
	for i := range len(r.Resource) {
		if r.Resource[i] == '/' {
			above = append(above, types.NewEntityUID(typePath, types.String(r.Resource[:i])))
		}
	}
	q.request.Resource = q.put(typePath, r.Resource, above, types.RecordMap{
		"path": types.String(r.Resource),
		"name": types.String(lastSegment(r.Resource)),
	})
	q.request.Action = types.NewEntityUID(typeAction, types.String(r.Action))
	context := types.RecordMap{"isolation": q.isolation(f.isolation), "time": types.NewDatetimeFromMillis(f.time)}
	if f.remote.IsValid() {
		p, _ := f.remote.Prefix(f.remote.BitLen()) // of all its bits: there is no other error
		context["remote"] = types.IPAddr(p)
	}
	q.request.Context = types.NewRecord(context)
	return q
}

// put adds an entity.
func (q *question) put(t types.EntityType, id string, parents []types.EntityUID, attributes types.RecordMap) types.EntityUID {
	uid := types.NewEntityUID(t, types.String(id))
	q.entities[uid] = types.Entity{UID: uid, Parents: types.NewEntityUIDSet(parents...), Attributes: types.NewRecord(attributes)}
	return uid
}

// isolation adds an isolation, in all weaker ones.
func (q *question) isolation(n int) types.EntityUID {
	var weaker []types.EntityUID
	for i := range n {
		weaker = append(weaker, types.NewEntityUID(typeIsolation, isolationName(i)))
	}
	return q.put(typeIsolation, string(isolationName(n)), weaker, nil)
}

func isolationName(n int) types.String {
	if n == 0 {
		return noIsolation
	}
	return types.String(Isolations[n])
}

// matches asks cedar-go whether the policy is one that decides. An error is one of its evaluation.
func (p *compiled) matches(q *question) (bool, error) {
	_, diag := cedar.Authorize(p.alone, q.entities, q.request)
	if len(diag.Errors) > 0 {
		return false, &evaluationError{p.id, diag.Errors[0].Message}
	}
	return len(diag.Reasons) > 0, nil
}

// evaluationError says that a policy could not be evaluated.
type evaluationError struct{ id, text string }

func (e *evaluationError) Error() string { return "policy " + e.id + ": " + strings.TrimSpace(e.text) }
