package noise

import (
	"fmt"
	"io"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
)

// BenchmarkHandshake is a handshake, both ends of which are here, over memory; go-libp2p's own beside it.
func BenchmarkHandshake(b *testing.B) {
	alice, bob := identity(b, crypto.Ed25519, 1), identity(b, crypto.Ed25519, 2)
	for _, m := range makers {
		b.Run(m.name, func(b *testing.B) {
			dialer, listener := m.make(b, alice, "/yamux/1.0.0"), m.make(b, bob, "/yamux/1.0.0")
			b.ReportAllocs()
			for b.Loop() {
				x, y := pipe(b)
				in := make(chan error, 1)
				go func() {
					_, err := listener.SecureInbound(b.Context(), y, "")
					in <- err
				}()
				if _, err := dialer.SecureOutbound(b.Context(), x, idOf(b, bob)); err != nil {
					b.Fatal(err)
				}
				if err := <-in; err != nil {
					b.Fatal(err)
				}
				x.Close()
			}
		})
	}
}

// BenchmarkThroughput is writes of a size over TCP on loopback, read into a buffer of yamux's size for small ones and of the write's for large ones.
func BenchmarkThroughput(b *testing.B) {
	alice, bob := identity(b, crypto.Ed25519, 1), identity(b, crypto.Ed25519, 2)
	for _, size := range []int{128, 4 << 10, 16 << 10, 1 << 20} {
		for _, m := range makers {
			b.Run(fmt.Sprintf("%d/%s", size, m.name), func(b *testing.B) {
				x, y := tcp(b)
				out, in := pair(b, m.make(b, alice), m.make(b, bob), x, y, idOf(b, bob))
				end := make(chan int64, 1)
				go func() {
					n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{in}, make([]byte, max(4<<10, size)))
					end <- n
				}()
				data := make([]byte, size)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				sent := int64(0)
				for b.Loop() {
					if _, err := out.Write(data); err != nil {
						b.Fatal(err)
					}
					sent += int64(size)
				}
				out.Close()
				if n := <-end; n != sent {
					b.Fatalf("of %d bytes %d came", sent, n)
				}
			})
		}
	}
}
