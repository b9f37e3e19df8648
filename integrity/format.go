package integrity

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zeebo/blake3"
)

// Algorithm is what bytes are hashed by; its number is in the file.
type Algorithm byte

// The algorithms.
const (
	BLAKE3 Algorithm = 1 // twice to three times as fast
	SHA256 Algorithm = 2 // where a rule asks for a standard of NIST's
)

// ParseAlgorithm reads a name.
func ParseAlgorithm(s string) (Algorithm, error) {
	for _, a := range []Algorithm{BLAKE3, SHA256} {
		if s == a.String() {
			return a, nil
		}
	}
	return 0, fmt.Errorf("there is no hash %q; there are %s and %s", s, BLAKE3, SHA256)
}

func (a Algorithm) String() string {
	if a == SHA256 {
		return "sha256"
	}
	return "blake3"
}

func (a Algorithm) new() hash.Hash {
	if a == SHA256 {
		return sha256.New()
	}
	return blake3.New()
}

// Domain is what a signature of a baseline is for, and HeadDomain that of the file which says which baseline is in force.
const (
	Domain     = "quantra integrity baseline v1"
	HeadDomain = "quantra integrity head v1"
)

const magic = "QNTRINT1"

// Bounds of the format, in bytes where nothing else is said.
const (
	maxFile      = 4 << 30 // some 50 million entries
	maxHeader    = 1 << 20
	maxRoots     = 1000
	maxPath      = 16 << 10
	maxXAttrs    = 256 // of one entry
	maxXAttrName = 255 // Linux' own
	maxSignature = 1 << 10
	// A block ends with the record that brings it to blockFull, and so has less than maxBlock.
	blockFull = 64 << 10
	maxBlock  = blockFull + 2*maxPath + maxXAttrs*(maxXAttrName+2+HashSize) + 256
)

// Header is what a baseline says before its entries.
type Header struct {
	Number    uint64 // counts from 1; each that was approved has one more
	Created   time.Time
	Previous  Hash // the digest of the one before; of the first zeros
	Algorithm Algorithm
	Roots     []string // sorted, none within another
	Exclude   []string // patterns of paths that are not looked at
	// CrossMounts goes into file systems that are mounted below a root.
	CrossMounts bool
}

// Mark names one baseline: kept elsewhere, it shows later that no older one is in its place.
type Mark struct {
	Number uint64
	Digest Hash
}

func (m Mark) String() string { return fmt.Sprintf("%d:%s", m.Number, m.Digest) }

// MarshalText is N:HASH.
func (m Mark) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// ParseMark reads what [Mark.String] says; "" is the zero Mark.
func ParseMark(s string) (m Mark, err error) {
	if s == "" {
		return m, nil
	}
	n, h, _ := strings.Cut(s, ":")
	b, herr := hex.DecodeString(h)
	m.Number, err = strconv.ParseUint(n, 10, 64)
	if err != nil || herr != nil || len(b) != HashSize || m.Number == 0 {
		return Mark{}, errors.New("it must be a baseline's number, a colon and the 64 digits of its hash")
	}
	copy(m.Digest[:], b)
	return m, nil
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendHeader(b []byte, h *Header) []byte {
	b = binary.AppendUvarint(b, h.Number)
	b = binary.AppendVarint(b, h.Created.UnixNano())
	b = append(b, h.Previous[:]...)
	for _, list := range [][]string{h.Roots, h.Exclude} {
		b = binary.AppendUvarint(b, uint64(len(list)))
		for _, s := range list {
			b = appendString(b, s)
		}
	}
	if h.CrossMounts {
		return append(b, 1)
	}
	return append(b, 0)
}

// The flags of a record.
const (
	flagMount  = 1
	flagUnread = 2
	flagRacy   = 4
)

// shared is how many bytes two paths begin with alike.
func shared(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// appendEntry writes a record behind one of the path prev, which is "" at the beginning of a block.
func appendEntry(b []byte, prev string, e *Entry) []byte {
	flags := byte(0)
	for f, set := range map[byte]bool{flagMount: e.Mount, flagUnread: e.Unread, flagRacy: e.Racy} {
		if set {
			flags |= f
		}
	}
	b = append(b, byte(e.Type), flags)
	n := shared(prev, e.Path)
	b = binary.AppendUvarint(b, uint64(n))
	b = appendString(b, e.Path[n:])
	for _, v := range []uint64{uint64(e.Mode), uint64(e.UID), uint64(e.GID), e.Inode} {
		b = binary.AppendUvarint(b, v)
	}
	if e.Type != Directory {
		b = binary.AppendUvarint(b, e.Links)
		b = binary.AppendVarint(b, e.MTime)
		b = binary.AppendVarint(b, e.CTime)
	}
	switch e.Type {
	case Regular:
		b = binary.AppendUvarint(b, uint64(e.Size))
		if !e.Unread {
			b = append(b, e.Hash[:]...)
		}
	case CharDevice, BlockDevice:
		b = binary.AppendUvarint(b, e.Device)
	case Symlink:
		b = appendString(b, e.Target)
	}
	b = binary.AppendUvarint(b, uint64(len(e.XAttrs)))
	for _, x := range e.XAttrs {
		b = append(appendString(b, x.Name), x.Hash[:]...)
	}
	return b
}

// decoder reads values off the front of b. After the first error all are zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = corrupt(format, args...)
	}
	d.b = nil
}

func (d *decoder) take(n int) []byte {
	if n > len(d.b) {
		d.fail("it ends within a value")
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) hash() (h Hash) {
	copy(h[:], d.take(HashSize))
	return h
}

// uvarint reads a number in its shortest form, at most most.
func (d *decoder) uvarint(what string, most uint64) uint64 {
	v, n := binary.Uvarint(d.b)
	switch {
	case n <= 0:
		d.fail("%s is cut off or too large", what)
		return 0
	case n > 1 && d.b[n-1] == 0:
		d.fail("%s is not in its shortest form", what)
		return 0
	case v > most:
		d.fail("%s is %d, more than %d", what, v, most)
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint(what string) int64 {
	u := d.uvarint(what, 1<<64-1)
	v := int64(u >> 1)
	if u&1 != 0 {
		v = ^v
	}
	return v
}

func (d *decoder) string(what string, most int) string {
	return string(d.take(int(d.uvarint("the length of "+what, uint64(most)))))
}

// entry reads a record.
func (d *decoder) entry(prev string) *Entry {
	e := &Entry{Type: Type(d.byte())}
	if _, ok := typeNames[e.Type]; !ok {
		d.fail("there is no type %q", byte(e.Type))
	}
	flags := d.byte()
	if flags > flagMount|flagUnread|flagRacy {
		d.fail("it has flags %#x", flags)
	}
	e.Mount, e.Unread, e.Racy = flags&flagMount != 0, flags&flagUnread != 0, flags&flagRacy != 0
	n := int(d.uvarint("the shared part of a path", uint64(len(prev))))
	e.Path = prev[:n] + d.string("a path", maxPath-n)
	e.Mode = uint32(d.uvarint("a mode", 0o7777))
	e.UID = uint32(d.uvarint("a user's number", 1<<32-1))
	e.GID = uint32(d.uvarint("a group's number", 1<<32-1))
	e.Inode = d.uvarint("an inode", 1<<64-1)
	if e.Type != Directory {
		e.Links = d.uvarint("a number of links", 1<<64-1)
		e.MTime = d.varint("a time")
		e.CTime = d.varint("a time")
	}
	switch e.Type {
	case Regular:
		e.Size = int64(d.uvarint("a size", 1<<63-1))
		if !e.Unread {
			e.Hash = d.hash()
		}
	case CharDevice, BlockDevice:
		e.Device = d.uvarint("a device", 1<<64-1)
	case Symlink:
		e.Target = d.string("a link's target", maxPath)
	}
	for range d.uvarint("a number of extended attributes", maxXAttrs) {
		x := XAttr{Name: d.string("an extended attribute's name", maxXAttrName)}
		x.Hash = d.hash()
		if k := len(e.XAttrs); k > 0 && e.XAttrs[k-1].Name >= x.Name {
			d.fail("extended attributes are not in order")
		}
		e.XAttrs = append(e.XAttrs, x)
	}
	switch {
	case d.err != nil:
		return nil
	case n != shared(prev, e.Path):
		d.fail("a path shares more with the one before than it says")
	case prev != "" && compare(prev, e.Path) >= 0:
		d.fail("paths are not in order")
	case !clean(e.Path):
		d.fail("%q is no path", e.Path)
	case e.Mount && e.Type != Directory:
		d.fail("a %s is no place to mount", e.Type)
	}
	return e
}

// clean says that a path is absolute and in its one form: it has no empty name, none that is . or .., no NUL and no slash at its end.
func clean(p string) bool {
	if !isAbs(p) || len(p) > maxPath || strings.ContainsRune(p, 0) {
		return false
	}
	if p == "/" || len(p) == 3 && p[0] != '/' {
		return true
	}
	_, rest, _ := strings.Cut(p, "/")
	for name := range strings.SplitSeq(rest, "/") {
		if name == "" || name == "." || name == ".." {
			return false
		}
	}
	return true
}

func (d *decoder) header(h *Header) {
	h.Number = d.uvarint("the number", 1<<63-1)
	h.Created = time.Unix(0, d.varint("the time")).UTC()
	h.Previous = d.hash()
	for _, list := range []*[]string{&h.Roots, &h.Exclude} {
		for range d.uvarint("a number of paths", maxRoots) {
			*list = append(*list, d.string("a path", maxPath))
		}
	}
	mounts := d.byte()
	h.CrossMounts = mounts == 1
	switch {
	case d.err != nil:
	case len(d.b) > 0 || mounts > 1 || h.Number == 0:
		d.fail("its header has what no header has")
	default:
		if err := h.check(); err != nil {
			d.fail("%v", err)
		}
	}
}

// check says what is wrong with a header's roots and patterns.
func (h *Header) check() error {
	if len(h.Roots) == 0 || len(h.Roots) > maxRoots {
		return fmt.Errorf("there are %d roots: it must be 1 to %d", len(h.Roots), maxRoots)
	}
	for i, r := range h.Roots {
		switch {
		case !clean(r):
			return fmt.Errorf("%q is no root", r)
		case i > 0 && (compare(h.Roots[i-1], r) >= 0 || within(r, h.Roots[i-1])):
			return fmt.Errorf("the root %q is within another, or not in order", r)
		}
	}
	_, err := compilePatterns(h.Exclude)
	return err
}

// writer writes a baseline. What it holds is a block.
type writer struct {
	w     *bufio.Writer
	hash  hash.Hash
	block []byte
	prev  string // in the block
	last  string // of all
	count uint64
	err   error
}

func newWriter(w io.Writer, h *Header) *writer {
	out := &writer{hash: h.Algorithm.new(), w: bufio.NewWriterSize(w, 256<<10)}
	if out.err = h.check(); out.err != nil {
		return out
	}
	body := appendHeader(nil, h)
	if len(body) > maxHeader {
		out.err = fmt.Errorf("roots and exclusions take %d bytes, more than %d", len(body), maxHeader)
	}
	out.write(append([]byte(magic), byte(h.Algorithm)))
	out.write(appendString(nil, string(body)))
	return out
}

func (w *writer) write(b []byte) {
	if w.err == nil {
		w.hash.Write(b)
		_, w.err = w.w.Write(b)
	}
}

// add writes an entry, whose path is behind all before it.
func (w *writer) add(e *Entry) error {
	if w.err == nil && w.count > 0 && compare(w.last, e.Path) >= 0 {
		w.err = fmt.Errorf("%s comes behind %s", e.Path, w.last)
	}
	w.block = appendEntry(w.block, w.prev, e)
	w.prev, w.last = e.Path, e.Path
	w.count++
	if len(w.block) >= blockFull {
		w.flush()
	}
	return w.err
}

func (w *writer) flush() {
	w.write(binary.LittleEndian.AppendUint32(nil, uint32(len(w.block))))
	w.write(w.block)
	w.block, w.prev = w.block[:0], ""
}

// finish writes the end, signed, and is the digest.
func (w *writer) finish(sign func(domain string, message []byte) ([]byte, error)) (digest Hash, err error) {
	if len(w.block) > 0 {
		w.flush()
	}
	w.write(binary.AppendUvarint(binary.LittleEndian.AppendUint32(nil, 0), w.count))
	if w.err != nil {
		return digest, w.err
	}
	w.hash.Sum(digest[:0])
	sig, err := sign(Domain, digest[:])
	if err != nil {
		return digest, fmt.Errorf("sign: %w", err)
	}
	if len(sig) > maxSignature {
		return digest, fmt.Errorf("sign: a signature of %d bytes, more than %d", len(sig), maxSignature)
	}
	w.write(digest[:])
	w.write(append(binary.LittleEndian.AppendUint16(nil, uint16(len(sig))), sig...))
	if w.err == nil {
		w.err = w.w.Flush()
	}
	return digest, w.err
}

// Baseline is an open baseline, read and verified as a whole. What is read of it later is held to what was verified. Many goroutines
// may use it, until it is closed.
type Baseline struct {
	Header
	Mark    Mark
	Entries uint64
	Size    int64 // of the file, in bytes

	r       io.ReaderAt
	close   func() error
	index   []block
	exclude patterns
}

// block is where records are, and what they are: memory for 64 KiB of file.
type block struct {
	at   int64
	size int
	path string // of the first record
	sum  [16]byte
}

func sumOf(b []byte) (s [16]byte) {
	h := blake3.Sum256(b)
	copy(s[:], h[:])
	return s
}

// Close closes the file.
func (b *Baseline) Close() error {
	if b.close == nil {
		return nil
	}
	return b.close()
}

// readBaseline reads and verifies all of a baseline. verify returns nil for a signature of a key that is trusted.
func readBaseline(r io.ReaderAt, size int64, verify func(domain string, message, signature []byte) error) (*Baseline, error) {
	if size > maxFile {
		return nil, corrupt("it has %d bytes, more than %d", size, int64(maxFile))
	}
	in := &reader{r: bufio.NewReaderSize(io.NewSectionReader(r, 0, size), 256<<10)}
	b := &Baseline{r: r, Size: size}
	start := in.bytes(len(magic) + 1)
	if in.err == nil && (string(start[:len(magic)]) != magic || start[len(magic)] != byte(BLAKE3) && start[len(magic)] != byte(SHA256)) {
		return nil, corrupt("it does not begin as one")
	}
	if in.err == nil {
		b.Algorithm = Algorithm(start[len(magic)])
		in.hash = b.Algorithm.new()
		in.hash.Write(start)
		d := decoder{b: in.bytes(int(in.uvarint(maxHeader)))}
		if in.err == nil {
			d.header(&b.Header)
			in.err = d.err
			b.exclude, _ = compilePatterns(b.Exclude) // header has refused what cannot be
		}
	}
	prev := ""
	for in.err == nil {
		n := binary.LittleEndian.Uint32(in.bytes4())
		if n == 0 || in.err != nil {
			break
		}
		prev = b.readBlock(in, int(n), prev)
	}
	count := in.uvarint(1<<63 - 1)
	if in.err == nil && count != b.Entries {
		return nil, corrupt("it says that it has %d entries, and has %d", count, b.Entries)
	}
	if in.err != nil {
		return nil, in.err
	}
	in.hash.Sum(b.Mark.Digest[:0])
	b.Mark.Number = b.Number
	return b, in.end(b.Mark.Digest, verify)
}

// readBlock reads a block of n bytes behind the path prev, and is its last path.
func (b *Baseline) readBlock(in *reader, n int, prev string) string {
	if n > maxBlock {
		in.err = corrupt("a block has %d bytes, more than %d", n, maxBlock)
		return ""
	}
	at := in.at
	raw := in.bytes(n)
	if in.err != nil {
		return ""
	}
	d := decoder{b: raw}
	first, within, filled := "", "", 0
	for len(d.b) > 0 {
		filled = n - len(d.b)
		if filled >= blockFull {
			in.err = corrupt("a block goes on after it is full")
			return ""
		}
		e := d.entry(within)
		if d.err == nil && prev != "" && compare(prev, e.Path) >= 0 {
			d.fail("paths are not in order")
		}
		if d.err == nil && !b.inRoots(e.Path) {
			d.fail("%q is in none of its roots", e.Path)
		}
		if in.err = d.err; in.err != nil {
			return ""
		}
		if first == "" {
			first = e.Path
		}
		within, prev = e.Path, e.Path
		b.Entries++
	}
	if k := len(b.index); k > 0 && b.index[k-1].size < blockFull {
		in.err = corrupt("a block ends before it is full")
		return ""
	}
	b.index = append(b.index, block{at, n, first, sumOf(raw)})
	return prev
}

// root is the root that a path is within, or "".
func (h *Header) root(path string) string {
	i, ok := slices.BinarySearchFunc(h.Roots, path, compare)
	if ok {
		return path
	}
	if i > 0 && within(path, h.Roots[i-1]) {
		return h.Roots[i-1]
	}
	return ""
}

func (h *Header) inRoots(path string) bool { return h.root(path) != "" }

// reader reads a stream into its hash. After the first error all is empty.
type reader struct {
	r    *bufio.Reader
	hash hash.Hash // nil: not yet
	at   int64
	buf  []byte
	err  error
}

// bytes are the next n, until the next call.
func (r *reader) bytes(n int) []byte {
	if r.err != nil {
		return nil
	}
	r.buf = slices.Grow(r.buf[:0], n)[:n]
	if _, err := io.ReadFull(r.r, r.buf); err != nil {
		if r.err = err; err == io.EOF || err == io.ErrUnexpectedEOF {
			r.err = corrupt("it is cut off at byte %d", r.at)
		}
		return nil
	}
	r.at += int64(n)
	if r.hash != nil {
		r.hash.Write(r.buf)
	}
	return r.buf
}

func (r *reader) bytes4() []byte {
	if b := r.bytes(4); b != nil {
		return b
	}
	return make([]byte, 4)
}

func (r *reader) uvarint(most uint64) uint64 {
	var raw []byte
	for range binary.MaxVarintLen64 {
		b := r.bytes(1)
		if r.err != nil {
			return 0
		}
		if raw = append(raw, b[0]); b[0] < 0x80 {
			break
		}
	}
	d := decoder{b: raw}
	v := d.uvarint("a length", most)
	r.err = d.err
	return v
}

// end reads the digest and the signature, behind which is nothing.
func (r *reader) end(digest Hash, verify func(domain string, message, signature []byte) error) error {
	r.hash = nil
	have := Hash{}
	copy(have[:], r.bytes(HashSize))
	var n uint16
	if b := r.bytes(2); r.err == nil {
		n = binary.LittleEndian.Uint16(b)
	}
	if n > maxSignature {
		return corrupt("a signature of %d bytes, more than %d", n, maxSignature)
	}
	sig := slices.Clone(r.bytes(int(n)))
	if r.err != nil {
		return r.err
	}
	if have != digest {
		return corrupt("its bytes do not have the hash that it says")
	}
	if _, err := r.r.ReadByte(); err != io.EOF {
		return corrupt("something is behind its end")
	}
	if err := verify(Domain, digest[:], sig); err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return nil
}

// cursor goes over a baseline's entries in their order.
type cursor struct {
	b     *Baseline
	block int // the next
	d     decoder
	prev  string
}

// from is a cursor whose first entry is at path or behind it. "" is all.
func (b *Baseline) from(path string) *cursor {
	c := &cursor{b: b}
	i, _ := slices.BinarySearchFunc(b.index, path, func(k block, p string) int { return compare(k.path, p) })
	c.block = max(0, i-1) // the one before may reach to it
	return c
}

// next is the next entry, or nil at the end.
func (c *cursor) next() (*Entry, error) {
	if len(c.d.b) == 0 {
		if c.block == len(c.b.index) {
			return nil, nil
		}
		k := c.b.index[c.block]
		c.block++
		raw := make([]byte, k.size)
		if _, err := c.b.r.ReadAt(raw, k.at); err != nil {
			return nil, fmt.Errorf("read the baseline: %w", err)
		}
		if sumOf(raw) != k.sum {
			return nil, corrupt("it was changed while it was in use, at byte %d", k.at)
		}
		c.d, c.prev = decoder{b: raw}, ""
	}
	e := c.d.entry(c.prev)
	if c.d.err != nil {
		return nil, c.d.err
	}
	c.prev = e.Path
	return e, nil
}
