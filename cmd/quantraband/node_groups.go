package main

import (
	"net/http"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/internal/jsonapi"
	"github.com/quantra-l/quantra/p2p/direct"
)

// What the commands of groups send, and are answered.
type (
	creating struct {
		Name    string   `json:"name"`
		Members []string `json:"members"`
	}
	changing struct {
		Group  string   `json:"group"`
		Add    []string `json:"add,omitempty"`
		Remove []string `json:"remove,omitempty"`
	}
	groupSending struct {
		Group string `json:"group"`
		Body  []byte `json:"body"`
	}
	groupStatus struct {
		ID      string    `json:"id"`
		Name    string    `json:"name"`
		Owner   string    `json:"owner"`
		Members []string  `json:"members"` // the owner among them
		Version uint32    `json:"version"` // of the list of members
		Changed time.Time `json:"changed"`
		Member  bool      `json:"member"` // this node is one: it may have been removed
	}
)

func (n *runningNode) groupStatus(g *direct.Group) groupStatus {
	s := groupStatus{ID: g.ID.String(), Name: g.Name, Owner: g.Owner.String(), Version: g.Version, Changed: g.Changed.UTC(), Member: g.Has(n.core.ID())}
	for _, m := range g.Members {
		s.Members = append(s.Members, m.String())
	}
	return s
}

func groupOf(text string) (direct.GroupID, error) {
	id, err := direct.ParseGroupID(text)
	if err != nil {
		return id, jsonapi.Invalid("%w", err)
	}
	return id, nil
}

// membersOf reads ids of peers.
func membersOf(list []string) (out []peer.ID, err error) {
	if len(list) > direct.MaxMembers {
		return nil, jsonapi.Invalid("%d peers: a group has at most %d members", len(list), direct.MaxMembers)
	}
	for _, text := range list {
		p, err := peerOf(text)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func (n *runningNode) answerGroups(*http.Request, string) (any, error) {
	out := []groupStatus{}
	for _, g := range n.direct.Groups() {
		out = append(out, n.groupStatus(&g))
	}
	return map[string][]groupStatus{"groups": out}, nil
}

func (n *runningNode) answerCreate(r *http.Request, _ string) (any, error) {
	var q creating
	if err := jsonapi.Body(r, &q); err != nil {
		return nil, err
	}
	members, err := membersOf(q.Members)
	if err != nil {
		return nil, err
	}
	if err := direct.CheckGroupName(q.Name); err != nil {
		return nil, jsonapi.Invalid("%w", err)
	}
	if others := len(slices.DeleteFunc(slices.Compact(slices.Sorted(slices.Values(members))), func(p peer.ID) bool { return p == n.core.ID() })); others == 0 || others >= direct.MaxMembers {
		return nil, jsonapi.Invalid("a group has 1 to %d members beside this node, not %d", direct.MaxMembers-1, others)
	}
	g, err := n.direct.CreateGroup(r.Context(), q.Name, members)
	return n.groupStatus(&g), err
}

func (n *runningNode) answerChange(r *http.Request, _ string) (any, error) {
	var q changing
	if err := jsonapi.Body(r, &q); err != nil {
		return nil, err
	}
	id, err := groupOf(q.Group)
	if err != nil {
		return nil, err
	}
	add, err := membersOf(q.Add)
	if err != nil {
		return nil, err
	}
	remove, err := membersOf(q.Remove)
	if err != nil {
		return nil, err
	}
	if slices.Contains(remove, n.core.ID()) {
		return nil, jsonapi.Invalid("this node is the group's owner, or has no say in it: it cannot be removed by this node")
	}
	for _, g := range n.direct.Groups() {
		if members := len(slices.Compact(slices.Sorted(slices.Values(append(g.Members, add...))))); g.ID == id && members > direct.MaxMembers+len(remove) {
			return nil, jsonapi.Invalid("the group would have more than %d members", direct.MaxMembers)
		}
	}
	g, err := n.direct.ChangeGroup(r.Context(), id, add, remove)
	return n.groupStatus(&g), err
}

func (n *runningNode) answerGroupSend(r *http.Request, _ string) (any, error) {
	var q groupSending
	if err := jsonapi.Body(r, &q); err != nil {
		return nil, err
	}
	id, err := groupOf(q.Group)
	if err != nil {
		return nil, err
	}
	if len(q.Body) > direct.MaxMessage {
		return nil, jsonapi.Invalid("a message to a group has at most %d bytes, this one %d", direct.MaxMessage, len(q.Body))
	}
	for _, g := range n.direct.Groups() {
		if g.ID == id && len(g.Members) == 1 && g.Has(n.core.ID()) {
			return nil, jsonapi.Invalid("there is nobody else in the group")
		}
	}
	sentID, err := n.direct.SendGroup(r.Context(), id, q.Body)
	return sent{ID: sentID}, err
}
