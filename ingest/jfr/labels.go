package jfr

import (
	"cmp"
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/quantra-l/quantra/profile"
)

// maxContexts bounds the contexts of one recording, and maxContextLabels the labels of one.
const (
	maxContexts      = 64 << 10
	maxContextLabels = 32
)

// ParseContexts reads Pyroscope's LabelsSnapshot, which its Java agent sends beside a recording: contexts (1), each a map (1) of numbers to numbers, and
// the strings (2) that these are the numbers of.
func ParseContexts(b []byte) (Contexts, error) {
	strings := map[int64]string{}
	contexts := map[int64][][2]int64{}
	err := entries(b, func(num protowire.Number, key int64, value []byte, _ int64) error {
		switch num {
		case 1:
			if len(contexts) >= maxContexts {
				return fmt.Errorf("%w: more than %d contexts of labels", profile.ErrTooLarge, maxContexts)
			}
			return entries(value, func(num protowire.Number, k int64, _ []byte, v int64) error {
				if num == 1 && len(contexts[key]) < maxContextLabels {
					contexts[key] = append(contexts[key], [2]int64{k, v})
				}
				return nil
			})
		case 2:
			strings[key] = string(value)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := Contexts{}
	for id, pairs := range contexts {
		var ls []profile.Label
		for _, p := range pairs {
			if k, v := strings[p[0]], strings[p[1]]; k != "" && v != "" {
				ls = append(ls, profile.Label{Name: k, Value: v})
			}
		}
		slices.SortFunc(ls, func(a, b profile.Label) int { return cmp.Compare(a.Name, b.Name) }) // a map has no order of its own
		out[id] = ls
	}
	return out, nil
}

// entries calls f with the entries of all maps of a message: their field, key and value.
func entries(b []byte, f func(num protowire.Number, key int64, value []byte, number int64) error) error {
	bad := func(n int) error {
		return fmt.Errorf("%w: labels of a recording: %w", profile.ErrCorrupt, protowire.ParseError(n))
	}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return bad(n)
		}
		size := protowire.ConsumeFieldValue(num, typ, b[n:])
		if size < 0 {
			return bad(size)
		}
		if typ == protowire.BytesType {
			entry, _ := protowire.ConsumeBytes(b[n:])
			var key, number int64
			var value []byte
			for len(entry) > 0 {
				num, typ, n := protowire.ConsumeTag(entry)
				if n < 0 {
					return bad(n)
				}
				size := protowire.ConsumeFieldValue(num, typ, entry[n:])
				if size < 0 {
					return bad(size)
				}
				switch {
				case typ == protowire.VarintType && num == 1:
					v, _ := protowire.ConsumeVarint(entry[n:])
					key = int64(v)
				case typ == protowire.VarintType && num == 2:
					v, _ := protowire.ConsumeVarint(entry[n:])
					number = int64(v)
				case typ == protowire.BytesType && num == 2:
					value, _ = protowire.ConsumeBytes(entry[n:])
				}
				entry = entry[n+size:]
			}
			if err := f(num, key, value, number); err != nil {
				return err
			}
		}
		b = b[n+size:]
	}
	return nil
}
