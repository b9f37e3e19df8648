package block

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// This file reads the part of Parquet that a block's tables are written in: flat required columns, pages of either
// version, zstd or none, the encodings that schema.go names, and a page index. It holds every count and length to the
// bytes that are there before it makes room, so that no page, however it came to be, takes more than maxPage.
// The format: https://github.com/apache/parquet-format (README.md, Encodings.md, parquet.thrift, PageIndex.md).

const (
	maxPage   = 64 << 20 // bytes of a page, packed or not; a writer's are pageBytes and a value of at most 1 MiB
	maxFooter = maxTail  // it has the least and the greatest text of each group whole
	maxLeaves = 256
	readBytes = 1 << 20 // of neighbouring pages that are fetched as one
	pad       = 16      // bytes behind a page's, so that eight can be loaded from any
)

// Physical types.
const (
	typeBoolean = 0
	typeInt32   = 1
	typeInt64   = 2
	typeText    = 6
	typeFixed   = 7
)

var typeNames = map[int64]string{typeBoolean: "BOOLEAN", typeInt32: "INT32", typeInt64: "INT64", typeText: "BYTE_ARRAY", typeFixed: "FIXED_LEN_BYTE_ARRAY"}

// Encodings.
const (
	encPlain           = 0
	encPlainDictionary = 2
	encRLE             = 3
	encDelta           = 5
	encDeltaLength     = 6
	encDictionary      = 8
)

// parquetFile is what a footer says.
type parquetFile struct {
	rows   int64
	cols   map[string]int // of the columns that can be read: flat and required
	leaves []leaf
	groups []rowGroup
}

type leaf struct {
	typ, width int64
}

type rowGroup struct {
	rows int64
	cols []columnChunk
}

// columnChunk is a column in a row group.
type columnChunk struct {
	leaf
	codec          int64
	dict, data     int64 // where the dictionary page and the first data page are; dict is 0 if there is none
	offsets        byteRange
	bounds         byteRange
	rows           int64
	once           sync.Once
	locations      []location
	locationsError error
}

type byteRange struct{ off, n int64 }

// location is where a page is.
type location struct{ off, size, first int64 }

// thrift reads Thrift's compact protocol. After the first thing that cannot be, bad is set, and it yields zeros.
type thrift struct {
	b   []byte
	at  int
	bad bool
}

// Types of the compact protocol.
const (
	thriftTrue   = 1
	thriftFalse  = 2
	thriftByte   = 3
	thriftI16    = 4
	thriftI32    = 5
	thriftI64    = 6
	thriftDouble = 7
	thriftBinary = 8
	thriftList   = 9
	thriftSet    = 10
	thriftMap    = 11
	thriftStruct = 12
	thriftDepth  = 16
)

func (t *thrift) fail() {
	t.bad, t.at = true, len(t.b)
}

func (t *thrift) byte() byte {
	if t.at >= len(t.b) {
		t.fail()
		return 0
	}
	t.at++
	return t.b[t.at-1]
}

func (t *thrift) uvarint() uint64 {
	v, n := binary.Uvarint(t.b[t.at:])
	if n <= 0 {
		t.fail()
		return 0
	}
	t.at += n
	return v
}

func (t *thrift) varint() int64 {
	v := t.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

// int reads a field that is a number.
func (t *thrift) int(typ byte) int64 {
	if typ < thriftI16 || typ > thriftI64 {
		t.fail()
		return 0
	}
	return t.varint()
}

// binary reads a text. It shares the memory of what is read.
func (t *thrift) binary(typ byte) []byte {
	n := t.uvarint()
	if typ != thriftBinary || n > uint64(len(t.b)-t.at) {
		t.fail()
		return nil
	}
	t.at += int(n)
	return t.b[t.at-int(n) : t.at]
}

// list reads a list's head. There are no more elements than bytes.
func (t *thrift) list(typ byte) (n int, elem byte) {
	h := t.byte()
	size := uint64(h >> 4)
	if size == 15 {
		size = t.uvarint()
	}
	if typ != thriftList && typ != thriftSet || size > uint64(len(t.b)-t.at) {
		t.fail()
		return 0, 0
	}
	return int(size), h & 15
}

// structs reads a list of structs that take at least so many bytes each, so that it makes room for no more than there can be.
func structs[T any](t *thrift, typ byte, least int, see func(e *T, id int64, typ byte)) []T {
	n, elem := t.list(typ)
	if n > 0 && elem != thriftStruct || n > (len(t.b)-t.at)/least {
		t.fail()
		return nil
	}
	all := make([]T, n)
	for i := 0; i < n && !t.bad; i++ {
		t.fields(thriftStruct, func(id int64, typ byte) { see(&all[i], id, typ) })
	}
	return all
}

// fields reads a struct. see reads the field, or skips it.
func (t *thrift) fields(typ byte, see func(id int64, typ byte)) {
	if typ != thriftStruct {
		t.fail()
	}
	for id := int64(0); !t.bad; {
		h := t.byte()
		if h == 0 {
			return
		}
		if d := h >> 4; d != 0 {
			id += int64(d)
		} else {
			id = t.varint()
		}
		see(id, h&15)
	}
}

func (t *thrift) skip(typ byte) { t.skipTo(typ, false, thriftDepth) }

// skipTo skips a value. As an element of a list a truth value takes a byte, as a field none.
func (t *thrift) skipTo(typ byte, element bool, depth int) {
	if depth == 0 {
		t.fail()
	}
	if t.bad {
		return
	}
	switch typ {
	case thriftTrue, thriftFalse:
		if element {
			t.byte()
		}
	case thriftByte:
		t.byte()
	case thriftI16, thriftI32, thriftI64:
		t.uvarint()
	case thriftDouble:
		for range 8 {
			t.byte()
		}
	case thriftBinary:
		t.binary(typ)
	case thriftList, thriftSet:
		n, elem := t.list(typ)
		for i := 0; i < n && !t.bad; i++ {
			t.skipTo(elem, true, depth-1)
		}
	case thriftMap:
		n := t.uvarint()
		if n == 0 {
			return
		}
		kinds := t.byte()
		if n > uint64(len(t.b)-t.at) {
			t.fail()
		}
		for ; n > 0 && !t.bad; n-- {
			t.skipTo(kinds>>4, true, depth-1)
			t.skipTo(kinds&15, true, depth-1)
		}
	case thriftStruct:
		t.fields(typ, func(_ int64, typ byte) { t.skipTo(typ, false, depth-1) })
	default:
		t.fail()
	}
}

var errThrift = errors.New("it does not parse as Thrift's compact protocol")

// openParquet reads the footer.
func openParquet(cf *checkedFile) (*parquetFile, error) {
	size := cf.meta.Bytes
	end, err := cf.bytes(size-8, 8)
	if err != nil {
		return nil, err
	}
	n := int64(binary.LittleEndian.Uint32(end))
	if string(end[4:]) != "PAR1" || n > min(size-12, maxFooter) {
		return nil, fmt.Errorf("no Parquet footer: the file ends in % x", end)
	}
	b, err := cf.bytes(size-8-n, n)
	if err != nil {
		return nil, err
	}
	f, err := parseFooter(b, size)
	if err != nil {
		return nil, fmt.Errorf("footer: %w", err)
	}
	return f, nil
}

// schemaElement is a node of the schema, in the order of a walk.
type schemaElement struct {
	leaf
	optional bool
	name     string
	children int64
}

func parseFooter(b []byte, size int64) (*parquetFile, error) {
	f := &parquetFile{cols: map[string]int{}}
	t := &thrift{b: b}
	var schema []schemaElement
	t.fields(thriftStruct, func(id int64, typ byte) {
		switch id {
		case 2:
			schema = structs(t, typ, 3, func(e *schemaElement, id int64, typ byte) {
				switch id {
				case 1:
					e.typ = t.int(typ)
				case 2:
					e.width = t.int(typ)
				case 3:
					e.optional = t.int(typ) != 0
				case 4:
					e.name = string(t.binary(typ))
				case 5:
					e.children = t.int(typ)
				default:
					t.skip(typ)
				}
			})
		case 3:
			f.rows = t.int(typ)
		case 4:
			f.groups = structs(t, typ, leastChunk, func(g *rowGroup, id int64, typ byte) {
				switch id {
				case 1:
					g.cols = parseChunks(t, typ)
				case 3:
					g.rows = t.int(typ)
				default:
					t.skip(typ)
				}
			})
		default:
			t.skip(typ)
		}
	})
	if t.bad {
		return nil, errThrift
	}
	if err := f.takeSchema(schema); err != nil {
		return nil, err
	}
	return f, f.check(size)
}

// leastChunk is fewer bytes than any column chunk or row group takes in a footer.
const leastChunk = 24

func parseChunks(t *thrift, typ byte) []columnChunk {
	return structs(t, typ, leastChunk, func(c *columnChunk, id int64, typ byte) {
		switch id {
		case 3:
			t.fields(typ, func(id int64, typ byte) {
				switch id {
				case 1:
					c.typ = t.int(typ)
				case 4:
					c.codec = t.int(typ)
				case 9:
					c.data = t.int(typ)
				case 11:
					c.dict = t.int(typ)
				default:
					t.skip(typ)
				}
			})
		case 4:
			c.offsets.off = t.int(typ)
		case 5:
			c.offsets.n = t.int(typ)
		case 6:
			c.bounds.off = t.int(typ)
		case 7:
			c.bounds.n = t.int(typ)
		default:
			t.skip(typ)
		}
	})
}

// takeSchema numbers the leaves, and names those that stand at the top and have a value in every row.
func (f *parquetFile) takeSchema(schema []schemaElement) error {
	if len(schema) == 0 || len(schema) > 2*maxLeaves {
		return fmt.Errorf("a schema of %d elements", len(schema))
	}
	i := 1
	var walk func(children int64, depth int) error
	walk = func(children int64, depth int) error {
		for ; children > 0; children-- {
			if i >= len(schema) || depth > thriftDepth {
				return errors.New("a schema that has fewer elements than it says, or too deep ones")
			}
			e := &schema[i]
			i++
			if e.children > 0 {
				if err := walk(e.children, depth+1); err != nil {
					return err
				}
				continue
			}
			if depth == 1 && !e.optional {
				f.cols[e.name] = len(f.leaves)
			}
			f.leaves = append(f.leaves, e.leaf)
		}
		return nil
	}
	if err := walk(schema[0].children, 1); err != nil {
		return err
	}
	if i != len(schema) {
		return fmt.Errorf("a schema of %d elements, %d of them in its tree", len(schema), i)
	}
	return nil
}

// check holds the groups to the schema and to the file's size.
func (f *parquetFile) check(size int64) error {
	rows := int64(0)
	for i := range f.groups {
		g := &f.groups[i]
		if g.rows < 0 || g.rows > f.rows-rows {
			return fmt.Errorf("row group %d has %d rows, the file has %d", i, g.rows, f.rows)
		}
		rows += g.rows
		if len(g.cols) != len(f.leaves) {
			return fmt.Errorf("row group %d has %d columns, the schema has %d", i, len(g.cols), len(f.leaves))
		}
		for j := range g.cols {
			c := &g.cols[j]
			if c.typ != f.leaves[j].typ {
				return fmt.Errorf("row group %d, column %d is of type %d, the schema says %d", i, j, c.typ, f.leaves[j].typ)
			}
			c.leaf, c.rows = f.leaves[j], g.rows
			for _, r := range []byteRange{c.offsets, c.bounds, {c.dict, 0}, {c.data, 0}} {
				if r.off < 0 || r.n < 0 || r.off > size || r.n > size-r.off {
					return fmt.Errorf("row group %d, column %d: bytes %d to %d, the file has %d", i, j, r.off, r.off+r.n, size)
				}
			}
		}
	}
	if rows != f.rows {
		return fmt.Errorf("row groups of %d rows, the file has %d", rows, f.rows)
	}
	return nil
}

// pages is where the pages are.
func (c *columnChunk) pages(cf *checkedFile) ([]location, error) {
	c.once.Do(func() { c.locations, c.locationsError = c.readPages(cf) })
	return c.locations, c.locationsError
}

func (c *columnChunk) readPages(cf *checkedFile) ([]location, error) {
	b, err := cf.inTail(c.offsets)
	if err != nil {
		return nil, fmt.Errorf("offset index: %w", err)
	}
	var pages []location
	t := &thrift{b: b}
	t.fields(thriftStruct, func(id int64, typ byte) {
		if id != 1 {
			t.skip(typ)
			return
		}
		pages = structs(t, typ, 7, func(p *location, id int64, typ byte) {
			switch id {
			case 1:
				p.off = t.int(typ)
			case 2:
				p.size = t.int(typ)
			case 3:
				p.first = t.int(typ)
			default:
				t.skip(typ)
			}
		})
	})
	if t.bad {
		return nil, fmt.Errorf("offset index: %w", errThrift)
	}
	last := int64(-1)
	for i, p := range pages {
		if p.first <= last || p.first >= c.rows || i == 0 && p.first != 0 || p.off < 0 || p.size < 0 || p.size > maxPage || p.off > cf.meta.Bytes-p.size {
			return nil, fmt.Errorf("offset index: page %d of %d rows: %d bytes at %d, from row %d on", i, c.rows, p.size, p.off, p.first)
		}
		last = p.first
	}
	return pages, nil
}

// minMax yields the least and the greatest value of each page, as they are in the index: a text may be cut.
func (c *columnChunk) minMax(cf *checkedFile, pages int) (first, last [][]byte, err error) {
	b, err := cf.inTail(c.bounds)
	if err != nil {
		return nil, nil, fmt.Errorf("column index: %w", err)
	}
	t := &thrift{b: b}
	t.fields(thriftStruct, func(id int64, typ byte) {
		if id != 2 && id != 3 {
			t.skip(typ)
			return
		}
		n, elem := t.list(typ)
		texts := make([][]byte, 0, n)
		for range n {
			texts = append(texts, t.binary(elem))
		}
		if id == 2 {
			first = texts
		} else {
			last = texts
		}
	})
	if t.bad || len(first) != pages || len(last) != pages {
		return nil, nil, fmt.Errorf("column index: it has %d and %d bounds for %d pages", len(first), len(last), pages)
	}
	return first, last, nil
}

// scan reads ranges of rows of one file's columns. One goroutine uses it.
type scan struct {
	cf      *checkedFile
	pf      *parquetFile
	buf     []byte // of the page that is looked at
	indexes []uint32
}

// page is a data page, unpacked.
type page struct {
	chunk      *columnChunk
	encoding   int64
	n          int // values
	data       []byte
	skip, take int // of its values, those that are wanted
}

// eachPage calls see with the pages of a column that have rows of [first, first+n), in order.
func (s *scan) eachPage(name string, types []int64, first, n int64, see func(p *page) error) error {
	col, ok := s.pf.cols[name]
	if !ok {
		return fmt.Errorf("%w: no column %q that has a value in every row", ErrCorrupt, name)
	}
	if typ := s.pf.leaves[col].typ; !slices.Contains(types, typ) {
		return fmt.Errorf("%w: column %s is of type %s", ErrCorrupt, name, typeNames[typ])
	}
	at := int64(0)
	for i := range s.pf.groups {
		g := &s.pf.groups[i]
		lo, hi := max(first, at), min(first+n, at+g.rows)
		if lo < hi {
			if err := s.chunkPages(&g.cols[col], lo-at, hi-at, see); err != nil {
				return fmt.Errorf("column %s, row group %d: %w", name, i, err)
			}
		}
		at += g.rows
	}
	return nil
}

func (s *scan) chunkPages(c *columnChunk, lo, hi int64, see func(p *page) error) error {
	pages, err := c.pages(s.cf)
	if err != nil {
		return err
	}
	k, found := slices.BinarySearchFunc(pages, lo, func(p location, row int64) int { return int(p.first - row) })
	if !found && k > 0 {
		k--
	}
	for k < len(pages) && pages[k].first < hi {
		// Neighbours are fetched as one.
		m, end := k+1, pages[k].off+pages[k].size
		for m < len(pages) && pages[m].first < hi && pages[m].off == end && end+pages[m].size-pages[k].off <= readBytes {
			end += pages[m].size
			m++
		}
		raw, err := s.cf.bytes(pages[k].off, end-pages[k].off)
		if err != nil {
			return err
		}
		for ; k < m; k++ {
			if err := s.cf.ctx.Err(); err != nil {
				return err
			}
			to := c.rows
			if k+1 < len(pages) {
				to = pages[k+1].first
			}
			p, err := s.dataPage(c, raw[:pages[k].size], to-pages[k].first)
			raw = raw[pages[k].size:]
			if err == nil {
				from := max(lo, pages[k].first)
				p.skip, p.take = int(from-pages[k].first), int(min(hi, to)-from)
				err = see(&p)
			}
			if err != nil {
				return fmt.Errorf("page %d: %w", k, err)
			}
		}
	}
	return nil
}

// pageHeader is the part of the header that is needed.
type pageHeader struct {
	typ, unpacked, packed, values, encoding int64
	levels, nulls                           int64 // bytes of levels, of version 2
	plain                                   bool  // not compressed, of version 2
	bytes                                   int   // of the header itself
}

// Page types.
const (
	pageData       = 0
	pageDictionary = 2
	pageDataV2     = 3
)

func parsePageHeader(b []byte) (h pageHeader, err error) {
	t := &thrift{b: b}
	body := func(of int64) func(id int64, typ byte) {
		return func(id int64, typ byte) {
			switch {
			case id == 1:
				h.values = t.int(typ)
			case id == 2 && of != pageDataV2, id == 4 && of == pageDataV2:
				h.encoding = t.int(typ)
			case id == 2:
				h.nulls = t.int(typ)
			case (id == 5 || id == 6) && of == pageDataV2:
				h.levels |= t.int(typ) // none is to have any
			case id == 7 && of == pageDataV2:
				h.plain = typ == thriftFalse
			default:
				t.skip(typ)
			}
		}
	}
	h.typ = -1
	t.fields(thriftStruct, func(id int64, typ byte) {
		switch {
		case id == 1:
			h.typ = t.int(typ)
		case id == 2:
			h.unpacked = t.int(typ)
		case id == 3:
			h.packed = t.int(typ)
		case id == 5 && h.typ == pageData, id == 7 && h.typ == pageDictionary, id == 8 && h.typ == pageDataV2:
			t.fields(typ, body(h.typ))
		default:
			t.skip(typ)
		}
	})
	h.bytes = t.at
	switch {
	case t.bad:
		return h, fmt.Errorf("header: %w", errThrift)
	case h.unpacked < 0 || h.unpacked > maxPage || h.packed < 0 || h.packed > maxPage:
		return h, fmt.Errorf("header: %d bytes, %d unpacked; at most %d can be", h.packed, h.unpacked, maxPage)
	case h.values < 0 || h.levels != 0 || h.nulls != 0:
		return h, fmt.Errorf("header: %d values, %d of them null, %d bytes of levels", h.values, h.nulls, h.levels)
	}
	return h, nil
}

func (s *scan) dataPage(c *columnChunk, raw []byte, rows int64) (page, error) {
	h, err := parsePageHeader(raw)
	if err != nil {
		return page{}, err
	}
	if h.typ != pageData && h.typ != pageDataV2 || h.values != rows || h.packed != int64(len(raw)-h.bytes) {
		return page{}, fmt.Errorf("a page of type %d with %d values in %d bytes, the index says %d in %d", h.typ, h.values, h.packed, rows, len(raw)-h.bytes)
	}
	if s.buf, err = unpack(s.buf, raw[h.bytes:], c.codec, &h); err != nil {
		return page{}, err
	}
	return page{chunk: c, encoding: h.encoding, n: int(rows), data: s.buf}, nil
}

// dictionary reads the dictionary page of a column chunk.
func (s *scan) dictionary(c *columnChunk) (data []byte, n int, err error) {
	// Some writers say that the dictionary is where the first page is.
	from, to := c.dict, c.data
	if from == 0 || from >= to || to-from > maxPage {
		return nil, 0, fmt.Errorf("a dictionary page from %d to %d", from, to)
	}
	raw, err := s.cf.bytes(from, to-from)
	if err != nil {
		return nil, 0, err
	}
	h, err := parsePageHeader(raw)
	if err == nil && (h.typ != pageDictionary || h.packed != int64(len(raw)-h.bytes) || h.encoding != encPlain && h.encoding != encPlainDictionary) {
		err = fmt.Errorf("a page of type %d and encoding %d with %d bytes of %d", h.typ, h.encoding, h.packed, len(raw)-h.bytes)
	}
	if err == nil {
		data, err = unpack(nil, raw[h.bytes:], c.codec, &h)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("dictionary: %w", err)
	}
	if h.values > int64(len(data)) {
		return nil, 0, fmt.Errorf("dictionary: %d values in %d bytes", h.values, len(data))
	}
	return data, int(h.values), nil
}

var unzstd = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxMemory(maxPage))
})

// unpack puts a page's bytes into buf, with pad bytes behind them, and returns it.
func unpack(buf, packed []byte, codec int64, h *pageHeader) ([]byte, error) {
	n := int(h.unpacked)
	buf = slices.Grow(buf[:0], n+pad)
	switch {
	case codec == 0 || h.plain:
		if len(packed) != n {
			return nil, fmt.Errorf("%d bytes, the header says %d", len(packed), n)
		}
		return append(buf, packed...), nil
	case codec == 6:
		d, err := unzstd()
		if err != nil {
			return nil, err
		}
		out, err := d.DecodeAll(packed, buf[:0:n])
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		if len(out) != n {
			return nil, fmt.Errorf("%d bytes unpacked, the header says %d", len(out), n)
		}
		return buf[:n], nil // the same memory, with the room behind it
	}
	return nil, fmt.Errorf("compression codec %d: only zstd and none are read", codec)
}

// number is what columns of numbers become.
type number interface {
	~int32 | ~uint32 | ~int64 | ~uint64
}

// numbers appends a column's values to dst.
func numbers[T number](s *scan, name string, first, n int64, dst []T) ([]T, error) {
	had := int64(len(dst))
	dst = slices.Grow(dst, int(min(n, maxAhead)))
	var of *columnChunk // whose the table is
	var table []T
	err := s.eachPage(name, []int64{typeInt32, typeInt64}, first, n, func(p *page) (err error) {
		from := len(dst)
		switch p.encoding {
		case encPlain:
			dst, err = plainNumbers(dst, p.data, p.n, p.chunk.typ)
		case encDelta:
			dst, _, err = appendDeltas(dst, p.data, p.n, p.chunk.typ)
		case encDictionary, encPlainDictionary:
			if of != p.chunk {
				data, n, err := s.dictionary(p.chunk)
				if err != nil {
					return err
				}
				if table, err = plainNumbers(table[:0], data, n, p.chunk.typ); err != nil {
					return err
				}
				of = p.chunk
			}
			if err := s.readIndexes(p); err != nil {
				return err
			}
			dst = slices.Grow(dst, p.take)
			to := dst[from : from+p.take]
			for k, i := range s.indexes[p.skip : p.skip+p.take] {
				if int(i) >= len(table) {
					return fmt.Errorf("entry %d of a dictionary of %d", i, len(table))
				}
				to[k] = table[i]
			}
			dst = dst[:from+p.take]
			return nil
		default:
			err = fmt.Errorf("encoding %d of numbers is not read", p.encoding)
		}
		if err == nil {
			dst = cut(dst, from, p)
		}
		return err
	})
	return counted(dst, had, n, name, err)
}

// cut leaves of a page's values, which are at the end of dst from from on, those that are wanted.
func cut[T any](dst []T, from int, p *page) []T {
	if p.skip > 0 {
		copy(dst[from:], dst[from+p.skip:])
	}
	return dst[:from+p.take]
}

// counted holds what was read to what was wanted.
func counted[T any](dst []T, had, n int64, name string, err error) ([]T, error) {
	if got := int64(len(dst)) - had; err == nil && got != n {
		err = fmt.Errorf("%w: column %s has %d values in %d rows", ErrCorrupt, name, got, n)
	}
	return dst, err
}

func plainNumbers[T number](dst []T, b []byte, n int, typ int64) ([]T, error) {
	width := 4
	if typ == typeInt64 {
		width = 8
	}
	if len(b) != n*width {
		return dst, fmt.Errorf("%d bytes for %d values of %d", len(b), n, width)
	}
	dst = slices.Grow(dst, n)
	if width == 4 {
		for ; len(b) >= 4; b = b[4:] {
			dst = append(dst, T(binary.LittleEndian.Uint32(b)))
		}
		return dst, nil
	}
	for ; len(b) >= 8; b = b[8:] {
		dst = append(dst, T(binary.LittleEndian.Uint64(b)))
	}
	return dst, nil
}

// readIndexes reads a page's indexes into a dictionary into s.indexes.
func (s *scan) readIndexes(p *page) (err error) {
	if len(p.data) == 0 {
		return errors.New("an empty page of dictionary indexes")
	}
	s.indexes, err = hybrid(s.indexes[:0], p.data[1:], uint(p.data[0]), p.n)
	return err
}

// hybrid appends n numbers that are packed in width bits or repeated (Encodings.md, RLE = 3). There are pad bytes
// behind b's.
func hybrid(dst []uint32, b []byte, width uint, n int) ([]uint32, error) {
	if width > 32 {
		return dst, fmt.Errorf("indexes of %d bits", width)
	}
	dst = slices.Grow(dst, n)
	for n > 0 {
		head, k := binary.Uvarint(b)
		if k <= 0 {
			return dst, fmt.Errorf("%d values are missing", n)
		}
		b = b[k:]
		if head&1 == 0 {
			run := head >> 1
			size := int(width+7) / 8
			if run == 0 || run > uint64(n) || len(b) < size {
				return dst, fmt.Errorf("a run of %d values where %d are missing", run, n)
			}
			v := uint32(0)
			for i := range size {
				v |= uint32(b[i]) << (8 * i)
			}
			b = b[size:]
			for range run {
				dst = append(dst, v)
			}
			n -= int(run)
			continue
		}
		groups := head >> 1
		if groups == 0 || groups > uint64(n+7)/8 || groups*uint64(width) > uint64(len(b)) {
			return dst, fmt.Errorf("%d groups of eight values of %d bits in %d bytes, where %d are missing", groups, width, len(b), n)
		}
		k = min(int(groups)*8, n)
		dst = dst[:len(dst)+k]
		unpackBits(dst[len(dst)-k:], b[:len(b)+pad], width)
		b = b[groups*uint64(width):]
		n -= k
	}
	return dst, nil
}

// unpackBits reads len(dst) numbers of width bits, at most 32, the lowest bits first. in has pad bytes more than they take.
func unpackBits(dst []uint32, in []byte, width uint) {
	mask := uint64(1)<<width - 1
	// Eight numbers take width bytes: they come from one load, two or four, as many as fit beside up to 6 bits of the
	// number before.
	switch {
	case width <= 8:
		for ; len(dst) >= 8; dst = dst[8:] {
			v := binary.LittleEndian.Uint64(in)
			d := dst[:8:8]
			d[0], d[1], d[2], d[3] = uint32(v&mask), uint32(v>>width&mask), uint32(v>>(2*width)&mask), uint32(v>>(3*width)&mask)
			v >>= 4 * width
			d[4], d[5], d[6], d[7] = uint32(v&mask), uint32(v>>width&mask), uint32(v>>(2*width)&mask), uint32(v>>(3*width)&mask)
			in = in[width:]
		}
	case width <= 15:
		half, shift := width/2, width%2*4
		for ; len(dst) >= 8; dst = dst[8:] {
			v, w := binary.LittleEndian.Uint64(in), binary.LittleEndian.Uint64(in[half:])>>shift
			d := dst[:8:8]
			d[0], d[1], d[2], d[3] = uint32(v&mask), uint32(v>>width&mask), uint32(v>>(2*width)&mask), uint32(v>>(3*width)&mask)
			d[4], d[5], d[6], d[7] = uint32(w&mask), uint32(w>>width&mask), uint32(w>>(2*width)&mask), uint32(w>>(3*width)&mask)
			in = in[width:]
		}
	case width <= 29:
		for ; len(dst) >= 8; dst = dst[8:] {
			d := dst[:8:8]
			for i := uint(0); i < 4; i++ {
				at := i * 2 * width
				v := binary.LittleEndian.Uint64(in[at>>3:]) >> (at & 7)
				d[2*i], d[2*i+1] = uint32(v&mask), uint32(v>>width&mask)
			}
			in = in[width:]
		}
	}
	at := uint(0)
	for i := range dst {
		dst[i] = uint32(binary.LittleEndian.Uint64(in[at>>3:]) >> (at & 7) & mask)
		at += width
	}
}

// appendDeltas appends n numbers that are packed as differences (Encodings.md, DELTA_BINARY_PACKED = 5), and returns what
// is behind them. There are pad bytes behind b's.
func appendDeltas[T number](dst []T, b []byte, n int, typ int64) ([]T, []byte, error) {
	var head [3]uint64
	for i := range head {
		v, k := binary.Uvarint(b)
		if k <= 0 {
			return dst, nil, errors.New("deltas without a head")
		}
		head[i], b = v, b[k:]
	}
	block, minis := head[0], head[1]
	first, k := binary.Varint(b)
	if k <= 0 || head[2] != uint64(n) || block == 0 || block > 1<<20 || minis == 0 || minis > block || block%minis != 0 || block/minis%8 != 0 {
		return dst, nil, fmt.Errorf("%d deltas in blocks of %d in %d parts, %d values are missing", head[2], block, minis, n)
	}
	b = b[k:]
	if n == 0 {
		return dst, b, nil
	}
	mini := int(block / minis)
	acc := uint64(first)
	dst = append(slices.Grow(dst, n), deltaValue[T](acc, typ))
	for n--; n > 0; {
		least, k := binary.Varint(b)
		if k <= 0 || len(b)-k < int(minis) {
			return dst, nil, fmt.Errorf("%d deltas are missing", n)
		}
		widths := b[k : k+int(minis)]
		b = b[k+int(minis):]
		for _, w := range widths {
			if n == 0 {
				break
			}
			width, take := uint(w), min(mini, n)
			if width > 64 || (take*int(width)+7)/8 > len(b) {
				return dst, nil, fmt.Errorf("%d deltas of %d bits in %d bytes", take, width, len(b))
			}
			in := b[:len(b)+pad]
			at, mask := uint(0), uint64(1)<<width-1
			dst = dst[:len(dst)+take]
			for i, d := 0, dst[len(dst)-take:]; i < len(d); i++ {
				if width > 0 {
					v := binary.LittleEndian.Uint64(in[at>>3:]) >> (at & 7)
					if width > 56 {
						v |= uint64(in[at>>3+8]) << (64 - at&7)
					}
					acc += v & mask
					at += width
				}
				acc += uint64(least)
				d[i] = deltaValue[T](acc, typ)
			}
			n -= take
			b = b[min(mini*int(width)/8, len(b)):]
		}
	}
	return dst, b, nil
}

func deltaValue[T number](v uint64, typ int64) T {
	if typ == typeInt32 {
		return T(uint32(v))
	}
	return T(v)
}

// texts is where each of n texts is, and the bytes they are in.
func texts(data []byte, n int, encoding int64) (starts, ends []uint32, err error) {
	if n > len(data) { // each has a length
		return nil, nil, fmt.Errorf("%d texts in %d bytes", n, len(data))
	}
	starts, ends = make([]uint32, 0, n), make([]uint32, 0, n)
	switch encoding {
	case encPlain, encPlainDictionary:
		at := 0
		for range n {
			if len(data)-at < 4 || uint64(binary.LittleEndian.Uint32(data[at:])) > uint64(len(data)-at-4) {
				return nil, nil, fmt.Errorf("text %d of %d does not fit into %d bytes", len(starts), n, len(data))
			}
			size := int(binary.LittleEndian.Uint32(data[at:]))
			starts, ends = append(starts, uint32(at+4)), append(ends, uint32(at+4+size))
			at += 4 + size
		}
		return starts, ends, nil
	case encDeltaLength:
		sizes, rest, err := appendDeltas([]uint32(nil), data, n, typeInt32)
		if err != nil {
			return nil, nil, err
		}
		at := len(data) - len(rest)
		for i, size := range sizes {
			if uint64(size) > uint64(len(data)-at) {
				return nil, nil, fmt.Errorf("text %d of %d does not fit into %d bytes", i, n, len(data))
			}
			starts, ends = append(starts, uint32(at)), append(ends, uint32(at)+size)
			at += int(size)
		}
		return starts, ends, nil
	}
	return nil, nil, fmt.Errorf("encoding %d of texts is not read", encoding)
}

// textColumn appends the numbers of a column's texts to dst, as number gives them.
func (s *scan) textColumn(name string, first, n int64, dst []uint32, number func(string) (uint32, error)) ([]uint32, error) {
	const none = ^uint32(0)
	had := int64(len(dst))
	dst = slices.Grow(dst, int(min(n, maxAhead)))
	var of *columnChunk // whose the dictionary is
	var words []byte
	var starts, ends, table []uint32
	err := s.eachPage(name, []int64{typeText}, first, n, func(p *page) error {
		if p.encoding != encDictionary && p.encoding != encPlainDictionary {
			starts, ends, err := texts(p.data, p.n, p.encoding)
			for i := p.skip; err == nil && i < p.skip+p.take; i++ {
				var v uint32
				v, err = number(string(p.data[starts[i]:ends[i]]))
				dst = append(dst, v)
			}
			return err
		}
		if of != p.chunk {
			var count int
			var err error
			if words, count, err = s.dictionary(p.chunk); err == nil {
				starts, ends, err = texts(words, count, encPlain)
			}
			if err != nil {
				return err
			}
			table = slices.Repeat([]uint32{none}, count)
			of = p.chunk
		}
		if err := s.readIndexes(p); err != nil {
			return err
		}
		for _, i := range s.indexes[p.skip : p.skip+p.take] {
			if int(i) >= len(table) {
				return fmt.Errorf("entry %d of a dictionary of %d", i, len(table))
			}
			if table[i] == none {
				v, err := number(string(words[starts[i]:ends[i]]))
				if err != nil {
					return err
				}
				table[i] = v
			}
			dst = append(dst, table[i])
		}
		return nil
	})
	return counted(dst, had, n, name, err)
}

// fixed calls see with each value of a column of so many bytes.
func (s *scan) fixed(name string, width int, first, n int64, see func(b []byte)) error {
	return s.eachPage(name, []int64{typeFixed}, first, n, func(p *page) error {
		if p.encoding != encPlain || p.chunk.width != int64(width) || len(p.data) != p.n*width {
			return fmt.Errorf("encoding %d, %d bytes for %d values of %d, %d are expected", p.encoding, len(p.data), p.n, p.chunk.width, width)
		}
		for i := p.skip; i < p.skip+p.take; i++ {
			see(p.data[i*width : (i+1)*width])
		}
		return nil
	})
}

// booleans appends a column's truth values to dst.
func (s *scan) booleans(name string, first, n int64, dst []bool) ([]bool, error) {
	had := int64(len(dst))
	err := s.eachPage(name, []int64{typeBoolean}, first, n, func(p *page) (err error) {
		switch p.encoding {
		case encPlain:
			if len(p.data) < (p.n+7)/8 {
				return fmt.Errorf("%d bytes for %d bits", len(p.data), p.n)
			}
			for i := p.skip; i < p.skip+p.take; i++ {
				dst = append(dst, p.data[i/8]>>(i%8)&1 != 0)
			}
			return nil
		case encRLE:
			if len(p.data) < 4 {
				return fmt.Errorf("%d bytes for %d bits", len(p.data), p.n)
			}
			if s.indexes, err = hybrid(s.indexes[:0], p.data[4:], 1, p.n); err != nil {
				return err
			}
			for _, v := range s.indexes[p.skip : p.skip+p.take] {
				dst = append(dst, v != 0)
			}
			return nil
		}
		return fmt.Errorf("encoding %d of truth values is not read", p.encoding)
	})
	return counted(dst, had, n, name, err)
}
