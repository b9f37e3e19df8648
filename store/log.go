package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store/block"
	"github.com/zeebo/xxh3"
)

// The bytes of the log; docs/format/log.md draws them. Integers are little endian.
const (
	logMagic      = "QLOG"
	logVersion    = 1
	logHeaderLen  = 32
	recordHeadLen = 16
	// maxRecord bounds a length read from disk, and so what a damaged one can cost.
	maxRecord = 512 << 20

	recordUpload = 1
	logSuffix    = ".qlog"
)

var crcTable = crc32.MakeTable(crc32.Castagnoli)

// marker is eight random bytes, new for each segment, ahead of each record:
// where to look for the next good record after damage. A sender
// does not know them, so no upload can hold bytes that pass for a record.
type marker [8]byte

// key is the identity of an upload: everything but the moment it came.
type key = block.ID

func segmentName(seq uint64) string { return fmt.Sprintf("%08d%s", seq, logSuffix) }

// segmentSeq is the number in a segment's name.
func segmentSeq(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(filepath.Base(name), logSuffix)
	if !ok {
		return 0, false
	}
	seq, err := strconv.ParseUint(digits, 10, 64)
	return seq, err == nil && seq > 0 && segmentName(seq) == filepath.Base(name)
}

func appendHeader(b []byte, seq uint64, m marker) []byte {
	start := len(b)
	b = append(b, logMagic...)
	b = binary.LittleEndian.AppendUint32(b, logVersion)
	b = binary.LittleEndian.AppendUint64(b, seq)
	b = append(b, m[:]...)
	b = binary.LittleEndian.AppendUint32(b, 0)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], crcTable))
}

// errVersion says that a segment is whole and of a later version: reading on
// would lose what it says.
var errVersion = errors.New("written by a later version")

// readHeader is the marker of a segment. The error is errVersion, or says what is damaged.
func readHeader(b []byte) (marker, error) {
	if len(b) < logHeaderLen {
		return marker{}, fmt.Errorf("header has %d of %d bytes", len(b), logHeaderLen)
	}
	if got, want := crc32.Checksum(b[:28], crcTable), binary.LittleEndian.Uint32(b[28:]); got != want {
		return marker{}, fmt.Errorf("header's checksum is %08x, its bytes give %08x", want, got)
	}
	if string(b[:4]) != logMagic {
		return marker{}, fmt.Errorf("header starts with %q, not %q", b[:4], logMagic)
	}
	if v := binary.LittleEndian.Uint32(b[4:]); v != logVersion {
		return marker{}, fmt.Errorf("%w: version %d, this program knows %d", errVersion, v, logVersion)
	}
	return marker(b[16:24]), nil
}

// recordMeta is the body of an upload's record up to its pprof bytes.
func recordMeta(u *Upload) []byte {
	b := make([]byte, 0, 128)
	str := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	b = append(b, recordUpload)
	str(u.Tenant)
	str(u.Name)
	b = binary.LittleEndian.AppendUint64(b, uint64(u.From.UnixNano()))
	b = binary.LittleEndian.AppendUint64(b, uint64(u.To.UnixNano()))
	b = binary.AppendUvarint(b, uint64(len(u.Labels)))
	for _, l := range u.Labels {
		str(l.Name)
		str(l.Value)
	}
	return binary.AppendUvarint(b, uint64(len(u.Pprof)))
}

// recordSum is the checksum of a record's length and body, in two parts so
// that nothing is copied.
func recordSum(meta, pprof []byte) uint32 {
	var n [4]byte
	binary.LittleEndian.PutUint32(n[:], uint32(len(meta)+len(pprof)))
	sum := crc32.Update(0, crcTable, n[:])
	sum = crc32.Update(sum, crcTable, meta)
	return crc32.Update(sum, crcTable, pprof)
}

func appendRecord(b []byte, m marker, sum uint32, meta, pprof []byte) []byte {
	b = append(b, m[:]...)
	b = binary.LittleEndian.AppendUint32(b, sum)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(meta)+len(pprof)))
	b = append(b, meta...)
	return append(b, pprof...)
}

// uploadKey is the identity of the upload whose record starts with meta.
func uploadKey(meta, pprof []byte) key {
	return xxh3.Hash128(binary.LittleEndian.AppendUint64(meta[:len(meta):len(meta)], xxh3.Hash(pprof)))
}

// readRecord is the body of the record at the start of b, whole and as written, or not ok.
func readRecord(b []byte, m marker) (body []byte, ok bool) {
	if len(b) < recordHeadLen || marker(b[:8]) != m {
		return nil, false
	}
	n := binary.LittleEndian.Uint32(b[12:])
	if n > maxRecord || int(n) > len(b)-recordHeadLen {
		return nil, false
	}
	body = b[recordHeadLen : recordHeadLen+int(n)]
	return body, recordSum(body, nil) == binary.LittleEndian.Uint32(b[8:])
}

// gap is bytes of a segment that no good record covers.
type gap struct{ off, len int }

// scan is what there is in a segment's bytes.
type scan struct {
	bodies [][]byte // of the good records, in order
	gaps   []gap    // what was skipped between good records
	good   int      // end of the last good record
	header error    // what is wrong with the header; the marker was then guessed
}

// scanSegment finds the good records of a segment. Where a record is not good it looks for
// the next that is. The only error is errVersion.
func scanSegment(data []byte) (scan, error) {
	var s scan
	m, err := readHeader(data)
	if errors.Is(err, errVersion) {
		return s, err
	}
	if err != nil {
		s.header = err
		// The first record's marker stands at a known place.
		if len(data) < logHeaderLen+recordHeadLen {
			return s, nil
		}
		m = marker(data[logHeaderLen:])
		if _, ok := readRecord(data[logHeaderLen:], m); !ok {
			return s, nil
		}
	}
	s.good = logHeaderLen
	for off := logHeaderLen; off < len(data); {
		body, ok := readRecord(data[off:], m)
		if !ok {
			next := bytes.Index(data[off+1:], m[:])
			if next < 0 {
				break
			}
			off += 1 + next
			continue
		}
		if off > s.good {
			s.gaps = append(s.gaps, gap{s.good, off - s.good})
		}
		s.bodies = append(s.bodies, body)
		off += recordHeadLen + len(body)
		s.good = off
	}
	return s, nil
}

// errUnknownRecord is a record of a kind that this version does not know.
var errUnknownRecord = errors.New("unknown kind of record")

// parseRecord is the upload in body, without its decoded profile. Its Pprof
// is part of body. It also gives the upload's key.
func parseRecord(body []byte) (Upload, key, error) {
	var u Upload
	r := recordReader{b: body}
	if t := r.byte(); r.err == nil && t != recordUpload {
		return u, key{}, fmt.Errorf("%w: %d", errUnknownRecord, t)
	}
	u.Tenant, u.Name = r.str(), r.str()
	u.From, u.To = time.Unix(0, r.int64()).UTC(), time.Unix(0, r.int64()).UTC()
	n := r.uvarint()
	if n > profile.MaxLabels {
		return u, key{}, fmt.Errorf("%w: %d labels, at most %d can be", ErrCorrupt, n, profile.MaxLabels)
	}
	pairs := make([]profile.Label, n)
	for i := range pairs {
		pairs[i] = profile.Label{Name: r.str(), Value: r.str()}
	}
	size := r.uvarint()
	if r.err != nil {
		return u, key{}, fmt.Errorf("%w: %w", ErrCorrupt, r.err)
	}
	if size != uint64(len(r.b)) {
		return u, key{}, fmt.Errorf("%w: profile of %d bytes, %d are left", ErrCorrupt, size, len(r.b))
	}
	u.Pprof = r.b
	k := uploadKey(body[:len(body)-len(r.b)], r.b)
	if err := checkUpload(&u, pairs); err != nil {
		return u, key{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return u, k, nil
}

// recordReader takes fields off the front of b; after the first error it gives zeros.
type recordReader struct {
	b   []byte
	err error
}

var errShort = errors.New("record ends early")

func (r *recordReader) take(n uint64) []byte {
	if r.err == nil && n > uint64(len(r.b)) {
		r.err = errShort
	}
	if r.err != nil {
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *recordReader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *recordReader) int64() int64 {
	if b := r.take(8); b != nil {
		return int64(binary.LittleEndian.Uint64(b))
	}
	return 0
}

func (r *recordReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.err = errShort
		return 0
	}
	r.take(uint64(n))
	return v
}

func (r *recordReader) str() string { return string(r.take(r.uvarint())) }
