package blocks

import (
	"context"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/store"
)

// watch is one who wants to know of blocks that came by the bucket.
type watch struct{ see func(store.Change) }

// Watch is of [store.Backend]: the blocks that a listing of the bucket finds.
func (b *Blocks) Watch(ctx context.Context, since time.Time, see func(store.Change)) error {
	w := &watch{see}
	b.mu.Lock()
	if b.watches == nil {
		b.watches = map[*watch]struct{}{}
	}
	b.watches[w] = struct{}{}
	all := b.now.Load().all
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.watches, w)
	}()
	for _, k := range all {
		if !k.Meta.Created.Before(since) && isNew(k, all) {
			store.ChangesOf(&k.Meta, see)
		}
	}
	<-ctx.Done()
	return nil
}

// isNew says whether a block has profiles that no other known block told of: what a merge made has not, unless its
// sources have gone before they were seen here.
func isNew(k *Block, all map[ulid.ULID]*Block) bool {
	for _, s := range k.Meta.Sources {
		if all[s] == nil {
			return true
		}
	}
	return len(k.Meta.Sources) == 0
}

// tell tells who watches of blocks that came.
func (b *Blocks) tell(came []*Block) {
	if len(came) == 0 {
		return
	}
	b.mu.Lock()
	var see []func(store.Change)
	for w := range b.watches {
		see = append(see, w.see)
	}
	all := b.now.Load().all
	b.mu.Unlock()
	for _, k := range came {
		if !isNew(k, all) {
			continue
		}
		for _, f := range see {
			store.ChangesOf(&k.Meta, f)
		}
	}
}
