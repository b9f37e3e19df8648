package web

import (
	"io"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/gzip"
)

// withFastGzip packs answers at the fastest level: a tree's columns shrink to a
// fifth at any level, and who waits is a person at the other end of a loopback or a LAN.
func withFastGzip() connect.HandlerOption {
	return connect.WithCompression("gzip",
		func() connect.Decompressor { return new(gzip.Reader) },
		func() connect.Compressor {
			w, err := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed)
			if err != nil { // cannot be: the level is a constant
				return gzip.NewWriter(io.Discard)
			}
			return w
		})
}
