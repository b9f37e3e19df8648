package blocks

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store/block"
)

// Block is a block that is known. It is never changed: what changes is a new Block in a new set.
type Block struct {
	Meta       block.Meta
	Key        string // its objects' keys start with it
	Dir        string // a folder with all of it, "" if there is none here
	Waiting    bool   // only in Dir: the bucket does not have it yet
	Tombstoned bool   // there is a TombstoneFile
	Archived   bool   // its samples are in the archive class

	bytes int64     // of its files
	since time.Time // when it was put, if it waits
	// uploaded is the change at which it left the queue: listings from before do not have it.
	uploaded uint64
	// damage is why it is refused: shared by all copies of the Block.
	damage *atomic.Pointer[string]
}

func newBlock(m block.Meta) *Block {
	k := &Block{Meta: m, Key: Prefix(m.Region, m.Tenant, m.ULID), damage: &atomic.Pointer[string]{}}
	for _, f := range m.Files {
		k.bytes += f.Bytes
	}
	return k
}

// Bytes is how much its files have, all but meta.json.
func (k *Block) Bytes() int64 { return k.bytes }

// set is all blocks known at a moment.
type set struct {
	all map[ulid.ULID]*Block
	ask map[string][]*Block // tenant -> those to ask, by ULID
	by  map[ulid.ULID][]*Block
}

// newSet works out which blocks to ask: those without a tombstone that no known block
// replaces. A block that was deleted still replaces its sources: their
// tombstones may not have come through yet.
func newSet(all map[ulid.ULID]*Block) *set {
	s := &set{all: all, ask: map[string][]*Block{}, by: map[ulid.ULID][]*Block{}}
	for _, k := range all {
		for _, src := range k.Meta.Sources {
			s.by[src] = append(s.by[src], k)
		}
	}
	for id, k := range all {
		if !k.Tombstoned && len(s.by[id]) == 0 {
			s.ask[k.Meta.Tenant] = append(s.ask[k.Meta.Tenant], k)
		}
	}
	for _, ks := range s.ask {
		slices.SortFunc(ks, byULID)
	}
	return s
}

func byULID(a, b *Block) int { return a.Meta.ULID.Compare(b.Meta.ULID) }

// without is the blocks of a tenant to ask when some must not be, as they are answered from
// elsewhere. A block that was merged from one of those is not asked either, but
// its other sources in its place: compaction may be quicker than a flush. Missing are those of them
// that are not there any more.
func (s *set) without(tenant string, exclude []ulid.ULID) (ask []*Block, missing []ulid.ULID) {
	ask = s.ask[tenant]
	if len(exclude) == 0 {
		return ask, nil
	}
	not := make(map[ulid.ULID]bool, len(exclude))
	merged := map[ulid.ULID]bool{} // has an excluded one in it
	var mark func(ulid.ULID)
	mark = func(id ulid.ULID) {
		for _, k := range s.by[id] {
			if !merged[k.Meta.ULID] {
				merged[k.Meta.ULID] = true
				mark(k.Meta.ULID)
			}
		}
	}
	for _, id := range exclude {
		not[id] = true
		mark(id)
	}
	var out []*Block
	var take func(*Block)
	done := map[ulid.ULID]bool{}
	take = func(k *Block) {
		id := k.Meta.ULID
		if not[id] || done[id] {
			return
		}
		done[id] = true
		if !merged[id] {
			out = append(out, k)
			return
		}
		for _, src := range k.Meta.Sources {
			// One that another source replaces is in that one.
			if slices.ContainsFunc(s.by[src], func(o *Block) bool { return slices.Contains(k.Meta.Sources, o.Meta.ULID) }) {
				continue
			}
			if o := s.all[src]; o != nil {
				take(o)
			} else if !not[src] {
				missing = append(missing, src)
			}
		}
	}
	for _, k := range ask {
		take(k)
	}
	slices.SortFunc(out, byULID)
	return out, missing
}

// interner holds each label set once, however many blocks name it: a tenant's thousand
// series are in each of its blocks.
type interner struct {
	mu     sync.Mutex
	labels map[string]profile.Labels
	names  map[string]string
}

// maxInterned bounds it; past the bound it starts anew, and some are held twice.
const maxInterned = 100_000

func (in *interner) share(m *block.Meta) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.labels == nil || len(in.labels) > maxInterned || len(in.names) > maxInterned {
		in.labels, in.names = map[string]profile.Labels{}, map[string]string{}
	}
	name := func(s string) string {
		if t, ok := in.names[s]; ok {
			return t
		}
		s = strings.Clone(s)
		in.names[s] = s
		return s
	}
	var k strings.Builder
	for i := range m.Series {
		s := &m.Series[i]
		s.Name = name(s.Name)
		k.Reset()
		for _, l := range s.Labels {
			k.WriteString(l.Name)
			k.WriteByte(0)
			k.WriteString(l.Value)
			k.WriteByte(0)
		}
		if ls, ok := in.labels[k.String()]; ok {
			s.Labels = ls
		} else {
			in.labels[k.String()] = s.Labels
		}
	}
	for i := range m.Types {
		m.Types[i] = name(m.Types[i])
	}
}
