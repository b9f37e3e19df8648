package access

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/control"
	"github.com/quantra-l/quantra/internal/jsonapi"
	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust"
)

// ServiceAttribute is the attribute of an agent's identity that says whose profiles it sends; without it, anybody's.
const ServiceAttribute = "service"

// Agent is a program that has enrolled. ID is its identity's.
type Agent struct {
	ID       string    `json:"id"`
	Service  string    `json:"service,omitempty"` // whose profiles it may send; "" is any
	Note     string    `json:"note,omitempty"`
	Enrolled time.Time `json:"enrolled"`
	Expires  time.Time `json:"expires"`
}

type keptAgent struct {
	Agent
	Document []byte `json:"document"`
}

type keptEnrol struct {
	Hash    secretHash `json:"hash"`
	Service string     `json:"service"`
	Note    string     `json:"note"`
}

// CreateEnrol makes a one-time token by which an agent enrols for a service; "" is any.
func (a *Access) CreateEnrol(ctx context.Context, service, note string, ttl time.Duration) (secret string, err error) {
	if ttl == 0 {
		ttl = EnrolTTL
	}
	if ttl < time.Minute || ttl > 7*24*time.Hour {
		return "", fmt.Errorf("%w: an enrolment token holds for 1m to 168h", ErrInvalid)
	}
	if err := (Grant{Role: "writer", Service: service}).check(); err != nil {
		return "", err
	}
	if len(note) > 200 {
		return "", fmt.Errorf("%w: a note has at most 200 bytes", ErrInvalid)
	}
	id := newID()
	secret, hash := newSecret(prefixEnrol, id)
	return secret, a.keep(ctx, control.AccessRow{Kind: kindEnrol, ID: id, Expires: a.opt.Now().Add(ttl)}, keptEnrol{hash, service, note})
}

// enrolDomain is what an agent signs its key by, to show that it has it.
const enrolDomain = "quantra enrolment v1"

// EnrolProof is an agent's signature over the token it enrols by: that the key is its own, and for this enrolment.
func EnrolProof(key seal.Key, secret string) (seal.Signature, error) {
	return key.Sign(enrolDomain, []byte(secret))
}

// Enrol takes a token, and vouches for the key of whoever has shown it.
func (a *Access) Enrol(ctx context.Context, secret string, key seal.PublicKey, proof seal.Signature) (*Agent, error) {
	id, err := parseSecret(prefixEnrol, secret)
	if err != nil {
		return nil, &unproven{"", "the enrolment token is not one of this server"}
	}
	if err := key.Verify(enrolDomain, []byte(secret), proof); err != nil {
		return nil, &unproven{id, "who enrols has not shown to have the key"}
	}
	row, ok, err := a.db.Access(ctx, kindEnrol, id)
	if err != nil {
		return nil, a.word(err)
	}
	gone := &unproven{id, "the enrolment token has been used, or has expired"}
	if !ok {
		return nil, gone
	}
	e, err := decodeRow[keptEnrol](row)
	if err != nil {
		return nil, err
	}
	if !e.Hash.matches(secret) {
		return nil, &unproven{id, "the enrolment token is not right"}
	}
	agent, doc, err := a.vouch(key, e.Service, e.Note)
	if err != nil {
		return nil, err
	}
	if _, ok, err = a.db.TakeAccess(ctx, kindEnrol, id); err != nil {
		return nil, a.word(err)
	} else if !ok {
		return nil, gone
	}
	for range 2 { // one that enrols anew has its identity renewed
		err = a.keep(ctx, control.AccessRow{Kind: kindAgent, ID: agent.ID, Expires: agent.Expires}, keptAgent{agent, doc})
		if !errors.Is(err, control.ErrConflict) {
			break
		}
		if _, err := a.db.DropAccess(ctx, kindAgent, agent.ID, ""); err != nil {
			return nil, a.word(err)
		}
	}
	return &agent, err
}

// vouch is an identity for an agent's key.
func (a *Access) vouch(key seal.PublicKey, service, note string) (Agent, []byte, error) {
	now := a.opt.Now().UTC().Truncate(time.Second)
	d := zerotrust.Identity{Kind: "agent", Key: key, Issuer: a.opt.Issuer.Public(), NotBefore: now.Add(-time.Minute), Expires: now.Add(agentTTL)}
	if service != "" {
		d.Attributes = append(d.Attributes, zerotrust.Attribute{Name: ServiceAttribute, Value: service})
	}
	doc, err := d.Sign(a.opt.Issuer)
	if err != nil {
		return Agent{}, nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return Agent{ID: d.ID(), Service: service, Note: note, Enrolled: now, Expires: d.Expires}, doc, nil
}

// EnrolOwn vouches for the server's own agents, which need no token: their key lies in its data folder. It is called before the first request.
func (a *Access) EnrolOwn(key seal.PublicKey) error {
	_, doc, err := a.vouch(key, "", "")
	if err == nil {
		a.own[key] = doc
	}
	return err
}

// Agents are all that have enrolled, by service.
func (a *Access) Agents(ctx context.Context) ([]Agent, error) {
	rows, err := a.db.AccessRows(ctx, kindAgent, "", maxListed)
	if err != nil {
		return nil, a.word(err)
	}
	out := make([]Agent, 0, len(rows))
	for _, row := range rows {
		k, err := decodeRow[keptAgent](row)
		if err != nil {
			return nil, err
		}
		out = append(out, k.Agent)
	}
	slices.SortFunc(out, func(x, y Agent) int {
		if c := strings.Compare(x.Service, y.Service); c != 0 {
			return c
		}
		return strings.Compare(x.ID, y.ID)
	})
	return out, nil
}

// RemoveAgent ends an agent's right to send, at once.
func (a *Access) RemoveAgent(ctx context.Context, id string) error {
	n, err := a.db.DropAccess(ctx, kindAgent, id, "")
	if err == nil && n == 0 {
		return fmt.Errorf("%w: there is no agent %.60s", ErrNotFound, id)
	}
	return a.word(err)
}

// Known is why a key is not one that may sign: nil where it has enrolled, is the server's own, or is allowed by the operator's list, and
// where the server is open to all.
func (a *Access) Known(ctx context.Context, key seal.PublicKey) error {
	_, _, err := a.identity(ctx, key)
	if err == nil || !errors.Is(err, ErrNotFound) {
		return err
	}
	if a.opt.Open && a.opt.Allowed == nil {
		return nil
	}
	if a.failures.take(netip.Addr{}) { // past the bound of all such together they are refused alone
		if err := a.record(ctx, zerotrust.IDOf(key), "agents", "the agent's key has not enrolled"); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: it has not enrolled here: `quantraband enrol create` makes a token for it", ErrDenied)
}

// identity is the document of an agent's key, nil for one that the operator's list has.
func (a *Access) identity(ctx context.Context, key seal.PublicKey) (doc []byte, service string, err error) {
	if doc, ok := a.own[key]; ok {
		return doc, "", nil
	}
	if a.opt.Allowed != nil && a.opt.Allowed(key) {
		return nil, "", nil
	}
	row, ok, err := a.db.Access(ctx, kindAgent, zerotrust.IDOf(key))
	if err != nil {
		return nil, "", a.word(err)
	}
	if !ok {
		return nil, "", ErrNotFound
	}
	k, err := decodeRow[keptAgent](row)
	return k.Document, k.Service, err
}

// Send has the guard decide whether a sender may send profiles of a service, or ask for its settings (action connect). key is who has signed
// the request, nil where nobody did; the caller is the context's.
func (a *Access) Send(ctx context.Context, key *seal.PublicKey, action, service string) error {
	c := CallerOf(ctx)
	switch {
	case c != nil: // a token
	case key != nil:
		doc, only, err := a.identity(ctx, *key)
		if errors.Is(err, ErrNotFound) && a.opt.Open {
			c = local()
			break
		}
		if errors.Is(err, ErrNotFound) {
			return &Refusal{Status: http.StatusForbidden, Code: "permission_denied", Text: "the agent's key has not enrolled here"}
		}
		if err != nil {
			return err
		}
		if only != "" && only != service && (action != "connect" || service != "") {
			reason := fmt.Sprintf("the agent has enrolled for %.60q and sends as %.60q", only, service)
			if err := a.record(ctx, zerotrust.IDOf(*key), "agents", reason); err != nil {
				return err
			}
			return &Refusal{Status: http.StatusForbidden, Code: "permission_denied", Text: reason}
		}
		c = &Caller{Principal: zerotrust.IDOf(*key), Kind: "service", Grants: []Grant{{Role: "writer"}}, Trust: TrustBasic, How: "key"}
		if doc != nil {
			c.Kind, c.Grants, c.Trust, c.doc, c.key = "agent", nil, 0, doc, *key
		}
	case a.opt.Open:
		c = local()
	default:
		return &Refusal{Status: http.StatusUnauthorized, Code: "unauthenticated", Text: "a sender must sign, or show a token with the role writer"}
	}
	resource := under("profiles/raw", service)
	if action == "connect" {
		resource = "agents/" + c.Principal
	}
	return a.decide(ctx, c, c.roles(service), action, resource)
}

// local is whoever sends from this machine where the server is open to that.
func local() *Caller {
	return &Caller{Principal: "local", Kind: "service", Grants: []Grant{{Role: "writer"}}, Trust: TrustBasic, How: "open"}
}

// agentRoutes are those about agents.
func (a *Access) agentRoutes(handle func(string, []string, func(context.Context, *http.Request, *Caller) (any, error))) {
	handle("GET "+APIPath+"/agents", nil, func(ctx context.Context, _ *http.Request, _ *Caller) (any, error) {
		list, err := a.Agents(ctx)
		return map[string]any{"agents": list}, err
	})
	handle("DELETE "+APIPath+"/agents/{id}", nil, func(ctx context.Context, r *http.Request, _ *Caller) (any, error) {
		return struct{}{}, a.RemoveAgent(ctx, r.PathValue("id"))
	})
	handle("POST "+APIPath+"/enrol", nil, func(ctx context.Context, r *http.Request, _ *Caller) (any, error) {
		var q struct {
			Service string `json:"service"`
			Note    string `json:"note"`
			For     string `json:"for"`
		}
		if err := jsonapi.Body(r, &q); err != nil {
			return nil, err
		}
		var ttl time.Duration
		if q.For != "" {
			var err error
			if ttl, err = time.ParseDuration(q.For); err != nil {
				return nil, jsonapi.Invalid("for=%.40q: it must be a time as 1h", q.For)
			}
		}
		secret, err := a.CreateEnrol(ctx, q.Service, q.Note, ttl)
		return map[string]any{"secret": secret}, err
	})
	handle("POST "+APIPath+"/agents", nil, func(ctx context.Context, r *http.Request, _ *Caller) (any, error) {
		var q struct {
			Token string `json:"token"`
			Key   []byte `json:"key"`   // 32 bytes
			Proof []byte `json:"proof"` // 64 bytes
		}
		if err := jsonapi.Body(r, &q); err != nil {
			return nil, err
		}
		if len(q.Key) != seal.PublicKeySize || len(q.Proof) != seal.SignatureSize {
			return nil, jsonapi.Invalid("key has %d bytes and proof %d: they have %d and %d, in base64", len(q.Key), len(q.Proof), seal.PublicKeySize, seal.SignatureSize)
		}
		agent, err := a.Enrol(ctx, q.Token, seal.PublicKey(q.Key), seal.Signature(q.Proof))
		var u *unproven
		if errors.As(err, &u) {
			err = a.failed(r, a.remote(r), u)
		}
		return map[string]any{"agent": agent}, err
	})
}
