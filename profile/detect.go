package profile

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
)

// The formats that [Read] tells apart.
const (
	FormatPprof  = "pprof"
	FormatFolded = "folded"
	FormatPerf   = "perf script"
)

// Read reads a profile of any format that this package knows: pprof, folded
// stacks or the text of perf script, each raw or compressed with gzip or zstd.
// It looks at the first bytes, not at a file's name, and says which it found.
// The error wraps [ErrCorrupt] or [ErrTooLarge].
func Read(r io.Reader, lim Limits) (p *Profile, format string, err error) {
	const head = 160 << 10 // zstd tells nothing of a block before all of it is there, which is up to 128 KiB
	in := bufio.NewReaderSize(r, head)
	raw, err := in.Peek(head)
	if err != nil && err != io.EOF {
		return nil, "", err
	}
	if len(raw) == 0 {
		return nil, "", fmt.Errorf("%w: it is empty; %s", ErrCorrupt, understood)
	}
	open, start := Unpack(raw)
	format = sniff(start)
	switch {
	case format == FormatPprof:
		p, err = Decode(in, lim)
		return p, format, err
	case format == "":
		return nil, "", fmt.Errorf("%w: it starts with %.40q; %s", ErrCorrupt, start, understood)
	}
	text, err := open(in)
	if err != nil {
		return nil, format, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if format == FormatPerf {
		p, err = ParsePerfScript(text, lim)
	} else {
		p, err = ParseFolded(text, lim)
	}
	if c, ok := text.(io.Closer); ok {
		c.Close() // nothing depends on it: what is wrong was said by reading
	}
	return p, format, err
}

const understood = "understood are pprof, folded stacks (a;b;c 12) and the text of perf script, raw, gzip or zstd"

// zstdReader is a decoder of one goroutine.
type zstdReader struct{ *zstd.Decoder }

// Close frees what the decoder holds.
func (z *zstdReader) Close() error {
	z.Decoder.Close()
	return nil
}

func openZstd(r io.Reader) (io.Reader, error) {
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
	if err != nil {
		return nil, err
	}
	return &zstdReader{d}, nil
}

// Unpack says how the data that starts with raw is to be opened (gzip and zstd are
// undone), and what it then starts with, as far as the first bytes tell. A reader
// that open gives may be an io.Closer.
func Unpack(raw []byte) (open func(io.Reader) (io.Reader, error), start []byte) {
	switch {
	case bytes.HasPrefix(raw, []byte{0x1f, 0x8b}):
		open = func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }
	case bytes.HasPrefix(raw, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		open = openZstd
	default:
		return func(r io.Reader) (io.Reader, error) { return r, nil }, raw
	}
	start = make([]byte, 4<<10)
	r, err := open(bytes.NewReader(raw))
	if err != nil {
		return open, nil
	}
	n, _ := io.ReadFull(r, start) // what raw cuts off is of no matter here
	if c, ok := r.(*zstdReader); ok {
		c.Close()
	}
	return open, start[:n]
}

// sniff is the format of data that starts with start, "" if it is none of ours.
// pprof is protobuf: its lengths and small numbers are control characters.
func sniff(start []byte) string {
	if len(start) == 0 || !isText(start) {
		return FormatPprof // and if it is none either, Decode says where
	}
	for line := range strings.SplitSeq(string(start), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if _, _, ok := perfHeader([]byte(line)); ok {
			return FormatPerf
		}
		if at := strings.LastIndexAny(line, " \t"); at > 0 {
			if _, err := parseCount(line[at+1:]); err == nil {
				return FormatFolded
			}
		}
		if len(start) >= 4<<10 && strings.Contains(line, ";") && !strings.ContainsAny(line[:1], "<{[") && len(line) > 2<<10 {
			return FormatFolded // a stack so long that its value is out of sight
		}
		return ""
	}
	return ""
}

func isText(b []byte) bool {
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		cutOff := len(b)-i < utf8.UTFMax && !utf8.FullRune(b[i:])
		if r == utf8.RuneError && n == 1 && !cutOff || r < ' ' && r != '\n' && r != '\t' && r != '\r' {
			return false
		}
		i += n
	}
	return true
}
