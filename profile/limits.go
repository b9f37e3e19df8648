package profile

import "cmp"

// Limits bounds what [Decode] accepts, so that no sender can make its reader
// allocate without end. Every field works alike: 0 is the default written
// beside it, and a negative figure is no limit. A profile that passes a limit
// is [ErrTooLarge], and the error names the limit and the figure.
type Limits struct {
	Compressed int64 // bytes as they came; 1 GiB
	Decoded    int64 // bytes after gzip or zstd; 1 GiB

	SampleTypes int // values per sample; 64
	Samples     int // 16 Mi
	Depth       int // locations in one sample's stack; 4096
	Labels      int // labels of one sample; 256
	Locations   int // 8 Mi
	Lines       int // of all locations together, the inlined among them; 16 Mi
	Functions   int // 8 Mi
	Mappings    int // 64 Ki
	Strings     int // 8 Mi
	StringBytes int // in one string; 1 MiB
}

// withDefaults is lim with every 0 replaced, and "no limit" as the largest figure.
func (lim Limits) withDefaults() Limits {
	const most = int(^uint(0) >> 1)
	or := func(v *int, def int) {
		if *v = cmp.Or(*v, def); *v < 0 {
			*v = most
		}
	}
	or64 := func(v *int64, def int64) {
		if *v = cmp.Or(*v, def); *v < 0 {
			*v = int64(most)
		}
	}
	or64(&lim.Compressed, 1<<30)
	or64(&lim.Decoded, 1<<30)
	or(&lim.SampleTypes, 64)
	or(&lim.Samples, 16<<20)
	or(&lim.Depth, 4096)
	or(&lim.Labels, 256)
	or(&lim.Locations, 8<<20)
	or(&lim.Lines, 16<<20)
	or(&lim.Functions, 8<<20)
	or(&lim.Mappings, 64<<10)
	or(&lim.Strings, 8<<20)
	or(&lim.StringBytes, 1<<20)
	return lim
}
