package zerotrust_test

import (
	"context"
	"testing"
	"time"

	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust"
)

// BenchmarkFirstSight is a decision on an identity that was never seen; BenchmarkSignature is the bare check of a document's signature.
func BenchmarkFirstSight(b *testing.B) {
	h := open(b, func(o *zerotrust.Options) {
		o.Record = func(context.Context, zerotrust.Event) error { return nil }
		o.Now = time.Now
		o.MaxRecords = 100_000
	})
	var rs []zerotrust.Request
	for i := range 2000 {
		k, err := seal.KeyFromSeed([]byte{31: byte(i), 30: byte(i >> 8), 0: 7})
		must(b, err)
		rs = append(rs, asks(now(b, k, h.issuer), k))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if d, err := h.Evaluate(context.Background(), rs[i%len(rs)]); err != nil || !d.Allow {
			b.Fatal(d.Reason, err)
		}
	}
}

func BenchmarkSignature(b *testing.B) {
	issuer := keyOf(1)
	doc := now(b, keyOf(2), issuer)
	n := len(doc) - seal.SignatureSize
	for b.Loop() {
		if err := issuer.Public().Verify("quantra identity v1", doc[:n], seal.Signature(doc[n:])); err != nil {
			b.Fatal(err)
		}
	}
}
