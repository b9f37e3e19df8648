package profile

import (
	"cmp"
	"fmt"
	"math"
)

// Limits bounds what [Decode] accepts, so that no sender can make its reader
// allocate without end. Every field works alike: 0 is the default written
// beside it, and a negative figure is no limit. A profile that passes a limit
// is [ErrTooLarge], and the error names the limit and the figure.
//
// The defaults are for files of one's own: at their worst they are about 2 GiB of
// memory. Who reads from strangers sets Compressed and Decoded to what one
// sender may cost; the other figures are there because a byte of a hostile
// profile can otherwise cost forty of memory.
type Limits struct {
	Compressed int64 // bytes as they came; 1 GiB
	Decoded    int64 // bytes after gzip or zstd; 1 GiB, and never more than 4 GiB, since offsets are of 32 bits

	SampleTypes int // values per sample; 64
	Samples     int // 16 Mi
	Depth       int // locations in one sample's stack; 4096
	Stacks      int // distinct stacks, every caller's stack among them; 16 Mi
	Labels      int // labels of one sample; 256
	LabelSets   int // labels in all distinct sets of labels together; 4 Mi
	Locations   int // 8 Mi
	Lines       int // of all locations together, inlined frames among them; 16 Mi
	Functions   int // 8 Mi
	Mappings    int // 64 Ki
	Comments    int // 64 Ki
	Strings     int // 8 Mi
	StringBytes int // in one string; 1 MiB
}

// withDefaults is lim with every 0 replaced, and "no limit" as the largest
// figure that an index of a [Profile] can hold.
func (lim Limits) withDefaults() Limits {
	or64 := func(v *int64, def int64) {
		if *v = cmp.Or(*v, def); *v < 0 {
			*v = math.MaxInt64
		}
	}
	or := func(v *int, def int) {
		if *v = cmp.Or(*v, def); *v < 0 || int64(*v) > math.MaxUint32-1 {
			*v = int(min(math.MaxInt, int64(math.MaxUint32-1)))
		}
	}
	or64(&lim.Compressed, 1<<30)
	or64(&lim.Decoded, 1<<30)
	lim.Decoded = min(lim.Decoded, math.MaxUint32)
	or(&lim.SampleTypes, 64)
	or(&lim.Samples, 16<<20)
	or(&lim.Depth, 4096)
	or(&lim.Stacks, 16<<20)
	or(&lim.Labels, 256)
	or(&lim.LabelSets, 4<<20)
	or(&lim.Locations, 8<<20)
	or(&lim.Lines, 16<<20)
	or(&lim.Functions, 8<<20)
	or(&lim.Mappings, 64<<10)
	or(&lim.Comments, 64<<10)
	or(&lim.Strings, 8<<20)
	or(&lim.StringBytes, 1<<20)
	return lim
}

func tooLarge[N int | int64](what string, n, limit N) error {
	return fmt.Errorf("%w: %d %s, the limit is %d", ErrTooLarge, n, what, limit)
}
