package direct

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/seal"
)

const (
	// MaxMembers is how many members a group may have, its owner among them.
	MaxMembers = 128
	// maxGroups is how many groups a node is in.
	maxGroups = 1024
	// maxOwned is how many of them one peer may be the owner of: who may write to us cannot fill our place.
	maxOwned = 64

	maxName     = 128
	listVersion = 1
	listDomain  = "quantra direct group v1"
	nonceSize   = 16
	contentSize = 16
	listFixed   = 1 + 32 + nonceSize + 4 + 8 + 1 + 1 + seal.SignatureSize
	maxList     = listFixed + maxName + 32*MaxMembers
)

// GroupID names a group: 16 bytes of SHA-256 over its owner and a random number.
type GroupID [16]byte

// String is 32 hex digits.
func (g GroupID) String() string { return hex.EncodeToString(g[:]) }

// ParseGroupID reads what [GroupID.String] writes.
func ParseGroupID(text string) (g GroupID, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(g) {
		return g, fmt.Errorf("%q is no id of a group, which is %d hex digits", text, 2*len(g))
	}
	copy(g[:], b)
	return g, nil
}

// Group is who is in a group, by the last list that its owner has signed.
type Group struct {
	ID      GroupID
	Name    string
	Owner   peer.ID
	Members []peer.ID // with the owner, by their bytes
	Version uint32
	Changed time.Time // by the owner's clock
}

// Has says whether a peer is a member.
func (g Group) Has(p peer.ID) bool { return slices.Contains(g.Members, p) }

// list is a group with its signed bytes.
type list struct {
	Group
	nonce [nonceSize]byte
	raw   []byte
}

func groupID(owner peer.ID, nonce [nonceSize]byte) (id GroupID) {
	sum := sha256.Sum256(append(appendKey([]byte(listDomain), owner), nonce[:]...))
	copy(id[:], sum[:])
	return id
}

// signList signs a list. Members are put in order, each once.
func signList(k seal.Key, g Group, nonce [nonceSize]byte) (*list, error) {
	g.Members = slices.Clone(g.Members)
	slices.Sort(g.Members)
	g.Members = slices.Compact(g.Members)
	if len(g.Members) == 0 || len(g.Members) > MaxMembers {
		return nil, fmt.Errorf("a group has 1 to %d members, not %d", MaxMembers, len(g.Members))
	}
	for _, m := range g.Members {
		if _, err := keyOf(m); err != nil {
			return nil, err
		}
	}
	if err := CheckGroupName(g.Name); err != nil {
		return nil, err
	}
	b := appendKey([]byte{listVersion}, g.Owner)
	b = append(b, nonce[:]...)
	b = binary.BigEndian.AppendUint32(b, g.Version)
	b = binary.BigEndian.AppendUint64(b, uint64(g.Changed.Unix()))
	b = append(append(b, byte(len(g.Name))), g.Name...)
	b = append(b, byte(len(g.Members)))
	for _, m := range g.Members {
		b = appendKey(b, m)
	}
	sig, err := k.Sign(listDomain, b)
	if err != nil {
		return nil, err
	}
	return decodeList(append(b, sig[:]...))
}

// CheckGroupName is an error for what is no name of a group.
func CheckGroupName(name string) error {
	if name == "" || len(name) > maxName || !utf8.ValidString(name) {
		return fmt.Errorf("a group's name has 1 to %d bytes of UTF-8, not %d", maxName, len(name))
	}
	for _, r := range name {
		if unicode.IsControl(r) {
			return fmt.Errorf("a group's name has the control character %U", r)
		}
	}
	return nil
}

// decodeList reads a list and verifies that its owner has signed it.
func decodeList(raw []byte) (*list, error) {
	s := scan{b: raw}
	version, owner := s.u8(), s.key()
	l := &list{Group: Group{Owner: idOf(owner)}}
	copy(l.nonce[:], s.next(nonceSize))
	l.Version, l.Changed = s.u32(), time.Unix(int64(s.u64()), 0)
	l.Name = string(s.next(int(s.u8())))
	n := int(s.u8())
	for range n {
		l.Members = append(l.Members, idOf(s.key()))
		if s.bad {
			break
		}
	}
	var sig seal.Signature
	copy(sig[:], s.next(len(sig)))
	if err := s.done("a group's list"); err != nil {
		return nil, err
	}
	sorted := slices.IsSortedFunc(l.Members, func(a, b peer.ID) int {
		if a < b {
			return -1
		}
		return 1 // equal ones are not in order: each is there once
	})
	switch {
	case version != listVersion:
		return nil, fmt.Errorf("%w: a group's list of version %d, not %d", ErrCorrupt, version, listVersion)
	case n == 0 || n > MaxMembers || !sorted || l.Version == 0:
		return nil, fmt.Errorf("%w: a group's list with %d members is not in order", ErrCorrupt, n)
	}
	if err := CheckGroupName(l.Name); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if err := owner.Verify(listDomain, raw[:len(raw)-len(sig)], sig); err != nil {
		return nil, fmt.Errorf("%w: a group's list: %w", ErrCorrupt, err)
	}
	l.ID, l.raw = groupID(l.Owner, l.nonce), bytes.Clone(raw)
	return l, nil
}

// groupOf is the group of a message as it is kept: the group's id, the content's id, what was given to SendGroup.
func groupOf(kind byte, body []byte) (id GroupID, ok bool) {
	if kind != kindGroup || len(body) < len(id)+contentSize {
		return id, false
	}
	copy(id[:], body)
	return id, true
}

// wire is a pending message's body as it is sent: a group's has the newest list with it, so that who gets it knows who is in the group.
func (l *ledger) wire(p *pending) []byte {
	if p.kind == kindMessage || len(p.body) < len(GroupID{}) {
		return p.body
	}
	l.mu.Lock()
	g := l.lists[GroupID(p.body[:len(GroupID{})])]
	l.mu.Unlock()
	if g == nil {
		return p.body // it cannot be: lists are not forgotten
	}
	if p.kind == kindList {
		return g.raw
	}
	b := binary.BigEndian.AppendUint16(nil, uint16(len(g.raw)))
	b = append(b, g.raw...)
	return append(b, p.body[len(GroupID{}):]...)
}

// kept turns the body of a group's message or list as it came into what is kept of it, and the list where it is newer than ours. The
// error is ErrNotMember where the sender or we are none.
func (l *ledger) kept(from peer.ID, e *envelope) (body, raw []byte, err error) {
	s := scan{b: e.body}
	given := e.body
	if e.kind == kindGroup {
		given = s.next(int(s.u16()))
	}
	content := s.rest()
	if s.bad || e.kind == kindGroup && (len(content) < contentSize || len(content) > contentSize+MaxMessage) {
		return nil, nil, fmt.Errorf("%w: a group's message of %d bytes", ErrCorrupt, len(e.body))
	}
	g, err := decodeList(given)
	if err != nil {
		return nil, nil, err
	}
	l.mu.Lock()
	known := l.lists[g.ID]
	full := l.groupsFull(g.Owner)
	l.mu.Unlock()
	now := g
	switch {
	case known == nil && full != nil:
		return nil, nil, full
	case known == nil && !g.Has(l.self):
		return nil, nil, fmt.Errorf("%w: %s", ErrNotMember, g.ID)
	case known == nil || g.Version > known.Version:
		raw = g.raw
	default:
		now = known
	}
	body = bytes.Clone(g.ID[:])
	if e.kind == kindList {
		return body, raw, nil
	}
	if !now.Has(from) || !now.Has(l.self) {
		return nil, nil, fmt.Errorf("%w: %s, or %s is not any more", ErrNotMember, g.ID, from)
	}
	return append(body, content...), raw, nil
}

// groupsFull says why there can be no other group of an owner, nil where there can. The lock is held.
func (l *ledger) groupsFull(owner peer.ID) error {
	owned := 0
	for _, g := range l.lists {
		if g.Owner == owner {
			owned++
		}
	}
	if len(l.lists) < maxGroups && owned < maxOwned {
		return nil
	}
	return fmt.Errorf("%w: we are in %d groups, of at most %d, %d of them of %s, of at most %d", ErrUnavailable, len(l.lists), maxGroups, owned, owner, maxOwned)
}

// ErrNotMember says that there is no such group, or that it is not ours to write to or change.
var ErrNotMember = errors.New("no such group, or not a member of it")

// Groups are those that we are or were in, by name.
func (s *Service) Groups() []Group {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	var out []Group
	for _, g := range s.ledger.lists {
		c := g.Group
		c.Members = slices.Clone(c.Members)
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Group) int {
		if a.Name != b.Name {
			return bytes.Compare([]byte(a.Name), []byte(b.Name))
		}
		return bytes.Compare(a.ID[:], b.ID[:])
	})
	return out
}

func (s *Service) list(id GroupID) *list {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	return s.ledger.lists[id]
}

// CreateGroup makes a group of which we are the owner, and tells its members. It returns when that is durable.
func (s *Service) CreateGroup(ctx context.Context, name string, members []peer.ID) (Group, error) {
	s.groupMu.Lock()
	defer s.groupMu.Unlock()
	var nonce [nonceSize]byte
	rand.Read(nonce[:])
	s.ledger.mu.Lock()
	full := s.ledger.groupsFull(s.self)
	s.ledger.mu.Unlock()
	if full != nil {
		return Group{}, full
	}
	g := Group{Name: name, Owner: s.self, Members: append(slices.Clone(members), s.self), Version: 1, Changed: s.o.Now()}
	l, err := signList(s.o.Key, g, nonce)
	if err != nil {
		return Group{}, err
	}
	return s.publish(ctx, l, l.Members)
}

// ChangeGroup makes another list of a group of ours, with some added and some removed, and tells all of both lists. Who was removed gets
// no message from anybody who has the new list: there is no key of the group that could be kept.
func (s *Service) ChangeGroup(ctx context.Context, id GroupID, add, remove []peer.ID) (Group, error) {
	s.groupMu.Lock()
	defer s.groupMu.Unlock()
	was := s.list(id)
	if was == nil || was.Owner != s.self {
		return Group{}, fmt.Errorf("%w: %s: only its owner changes a group", ErrNotMember, id)
	}
	if slices.Contains(remove, s.self) {
		return Group{}, errors.New("the owner of a group cannot leave it")
	}
	members := map[peer.ID]bool{}
	for _, m := range append(slices.Clone(was.Members), add...) {
		members[m] = true
	}
	for _, m := range remove {
		delete(members, m)
	}
	g := was.Group
	g.Members, g.Version, g.Changed = slices.Collect(maps.Keys(members)), was.Version+1, s.o.Now()
	l, err := signList(s.o.Key, g, was.nonce)
	if err != nil {
		return Group{}, err
	}
	return s.publish(ctx, l, append(slices.Clone(was.Members), l.Members...))
}

// publish keeps a list and sends it. Who has no room for it is passed over: what waits for that member has the newest list with it anyway,
// and a member that is away for good must not keep the owner from removing it.
func (s *Service) publish(ctx context.Context, l *list, to []peer.ID) (Group, error) {
	if err := s.ledger.note(ctx, recList, l.raw); err != nil {
		return Group{}, err
	}
	slices.Sort(to)
	for _, p := range slices.Compact(to) {
		if err := s.fanOut(ctx, []peer.ID{p}, kindList, l.ID[:]); err != nil {
			s.o.Log.Warn("a group's list was not sent to a member", "group", l.ID, "peer", p, "error", err)
		}
	}
	return l.Group, nil
}

// SendGroup sends a message to all members of a group, to each by itself. It returns its id when it is durable for all of them. Where
// there is no room for what one of them has not acknowledged it goes to none, and the error names that member.
func (s *Service) SendGroup(ctx context.Context, id GroupID, body []byte) (string, error) {
	if len(body) > MaxMessage {
		return "", fmt.Errorf("a message of %d bytes, of at most %d: larger things are files", len(body), MaxMessage)
	}
	g := s.list(id)
	if g == nil || !g.Has(s.self) {
		return "", fmt.Errorf("%w: %s", ErrNotMember, id)
	}
	var content [contentSize]byte
	rand.Read(content[:])
	if len(g.Members) == 1 {
		return "", fmt.Errorf("there is nobody else in the group %s", id)
	}
	b := append(append(bytes.Clone(id[:]), content[:]...), body...)
	if err := s.fanOut(ctx, g.Members, kindGroup, b); err != nil {
		return "", err
	}
	return hex.EncodeToString(content[:]), nil
}

// fanOut sends one body to several peers, each named once, but not to us.
func (s *Service) fanOut(ctx context.Context, to []peer.ID, kind byte, body []byte) error {
	var out []outgoing
	for _, p := range to {
		if p != s.self {
			out = append(out, outgoing{p, kind, body})
		}
	}
	_, err := s.ledger.send(ctx, out, s.o.Now())
	if err == nil {
		for _, o := range out {
			s.rouse(o.to)
		}
	}
	return err
}

// GroupHistory is the last messages of a group, the oldest first.
func (s *Service) GroupHistory(id GroupID, limit int) ([]Message, error) {
	return s.ledger.groupHistory(id, limit)
}
