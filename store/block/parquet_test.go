package block

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/encoding/delta"
	"github.com/parquet-go/parquet-go/encoding/rle"

	"github.com/quantra-l/quantra/internal/vfs"
)

// padded gives b the room behind it that pages have.
func padded(b []byte) []byte { return append(slices.Clip(b), make([]byte, pad)...)[:len(b)] }

// FuzzPage gives the decoders of values any bytes at all: an error or as many values as were asked for, from no
// more memory than they take, and what another implementation packed comes out again.
func FuzzPage(f *testing.F) {
	f.Add([]byte{0x03, 0xff, 0x10, 0x07}, uint8(3), uint16(9))
	f.Add([]byte{0x80, 0x01, 0x04, 0x05, 0x02, 0x04, 0, 0, 0, 0}, uint8(1), uint16(5))
	f.Add([]byte{0xfe, 0xff, 0xff, 0xff, 0x0f, 0x01}, uint8(8), uint16(1000))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, uint8(64), uint16(2))
	f.Fuzz(func(t *testing.T, raw []byte, width uint8, n16 uint16) {
		b, n := padded(raw), int(n16)
		if got, err := hybrid(nil, b, uint(width), n); err == nil && len(got) != n {
			t.Fatalf("hybrid gave %d values of %d", len(got), n)
		}
		for _, typ := range []int64{typeInt32, typeInt64} {
			if got, _, err := deltaOf[int64](b, n, typ); err == nil && len(got) != n {
				t.Fatalf("delta gave %d values of %d", len(got), n)
			}
			if got, err := plainNumbers([]int64(nil), b, n, typ); err == nil && len(got) != n {
				t.Fatalf("plain gave %d values of %d", len(got), n)
			}
		}
		for _, enc := range []int64{encPlain, encDeltaLength} {
			starts, ends, err := texts(b, n, enc)
			if err == nil && (len(starts) != n || len(ends) != n) {
				t.Fatalf("%d and %d texts of %d", len(starts), len(ends), n)
			}
			for i := range ends {
				_ = b[starts[i]:ends[i]]
			}
		}
		if h, err := parsePageHeader(raw); err == nil {
			if _, err := unpack(nil, raw[h.bytes:], 6, &h); err == nil && h.unpacked > 0 && h.packed == 0 {
				t.Fatal("bytes came out of none")
			}
		}
		if f, err := parseFooter(raw, 1<<20); err == nil && len(f.groups) > len(raw) {
			t.Fatalf("%d row groups in %d bytes", len(f.groups), len(raw))
		}
		roundTrips(t, raw, width)
	})
}

func deltaOf[T number](b []byte, n int, typ int64) ([]T, []byte, error) {
	return appendDeltas([]T(nil), b, n, typ)
}

// roundTrips packs numbers with the writer's own library and reads them here.
func roundTrips(t *testing.T, raw []byte, width uint8) {
	t.Helper()
	var wide []int64
	var narrow, small []int32
	for b := raw; len(b) >= 8; b = b[8:] {
		v := int64(binary.LittleEndian.Uint64(b))
		wide = append(wide, v>>(width%64))
		narrow = append(narrow, int32(v)>>(width%32))
		small = append(small, int32(uint32(v)>>(1+width%31)))
	}
	packed, err := (&delta.BinaryPackedEncoding{}).EncodeInt64(nil, wide)
	if err != nil {
		t.Fatal(err)
	}
	if got, rest, err := deltaOf[int64](padded(packed), len(wide), typeInt64); err != nil || !slices.Equal(got, wide) || len(rest) != 0 {
		t.Fatalf("int64 deltas: %v, %d bytes are left\n%d\nwant\n%d", err, len(rest), got, wide)
	}
	if packed, err = (&delta.BinaryPackedEncoding{}).EncodeInt32(nil, narrow); err != nil {
		t.Fatal(err)
	}
	if got, rest, err := deltaOf[int32](padded(packed), len(narrow), typeInt32); err != nil || !slices.Equal(got, narrow) || len(rest) != 0 {
		t.Fatalf("int32 deltas: %v, %d bytes are left\n%d\nwant\n%d", err, len(rest), got, narrow)
	}
	if packed, err = (&rle.DictionaryEncoding{}).EncodeInt32(nil, small); err != nil {
		t.Fatal(err)
	}
	if len(small) > 0 {
		got, err := hybrid(nil, padded(packed)[1:], uint(packed[0]), len(small))
		if err != nil {
			t.Fatalf("indexes: %v", err)
		}
		for i, v := range small {
			if got[i] != uint32(v) {
				t.Fatalf("index %d is %d, want %d", i, got[i], v)
			}
		}
	}
}

// TestForeignPages reads what other settings of a writer give: no compression, pages of version 1, texts and
// truth values in the encodings a block's writer does not choose.
func TestForeignPages(t *testing.T) {
	type row struct {
		A string `parquet:"a,dict"`
		B bool   `parquet:"b"`
		C string `parquet:"c"`
		D uint64 `parquet:"d,dict"`
	}
	var rows []row
	for i := range 5000 {
		rows = append(rows, row{string(rune('a'+i%26)) + "x", i%3 == 0, string(make([]byte, i%50)), uint64(i % 700)})
	}
	for name, opts := range map[string][]parquet.WriterOption{
		"plain":     {parquet.PageBufferSize(1000)},
		"version 1": {parquet.DataPageVersion(1), parquet.Compression(&parquet.Zstd), parquet.MaxRowsPerRowGroup(1700)},
		"version 2": {parquet.DataPageVersion(2), parquet.Compression(&parquet.Zstd), parquet.PageBufferSize(3000)},
	} {
		var out bytes.Buffer
		w := parquet.NewGenericWriter[row](&out, opts...)
		if _, err := w.Write(rows); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		cf := &checkedFile{ctx: t.Context(), meta: File{Bytes: int64(out.Len())}, tail: out.Bytes()}
		pf, err := openParquet(cf)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		s := &scan{cf: cf, pf: pf}
		for _, r := range [][2]int64{{0, 5000}, {1, 1}, {1699, 3}, {777, 2345}, {4999, 1}} {
			var words []string
			word := func(x string) (uint32, error) { words = append(words, x); return uint32(len(words) - 1), nil }
			a, err := s.textColumn("a", r[0], r[1], nil, word)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			c, err := s.textColumn("c", r[0], r[1], nil, word)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			b, err := s.booleans("b", r[0], r[1], nil)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			d, err := numbers[uint64](s, "d", r[0], r[1], nil)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for i := range a {
				want := rows[r[0]+int64(i)]
				if got := (row{words[a[i]], b[i], words[c[i]], d[i]}); got != want {
					t.Fatalf("%s: row %d is %+v, want %+v", name, r[0]+int64(i), got, want)
				}
			}
		}
		if _, err := numbers[uint32](s, "a", 0, 1, nil); err == nil {
			t.Errorf("%s: texts were read as numbers", name)
		}
		if _, err := numbers[uint32](s, "e", 0, 1, nil); err == nil {
			t.Errorf("%s: a column that is not there was read", name)
		}
	}
}

// TestThrift gives the reader of heads what cannot be.
func TestThrift(t *testing.T) {
	deep := bytes.Repeat([]byte{0x1c}, 100)
	for name, b := range map[string][]byte{
		"nothing": {}, "no end": {0x15}, "too deep": deep, "a list of more than there is": {0x29, 0xfc, 0xff, 0xff, 0xff, 0x0f},
		"a text of more than there is": {0x18, 0xff, 0xff, 0xff, 0xff, 0x0f}, "a number that does not end": bytes.Repeat([]byte{0x16, 0xff}, 9),
		"an unknown type": {0x1e, 0}, "a map of more than there is": {0x1b, 0xff, 0xff, 0x7f, 0x55},
	} {
		if _, err := parsePageHeader(b); err == nil {
			t.Errorf("%s was read as a page's header", name)
		}
		if _, err := parseFooter(b, 1000); err == nil {
			t.Errorf("%s was read as a footer", name)
		}
	}
}

// TestLongTexts writes and reads frames whose names are as long as a profile may have them: no page grows past what is read.
func TestLongTexts(t *testing.T) {
	fs := vfs.NewMem()
	if err := fs.MkdirAll("/b"); err != nil {
		t.Fatal(err)
	}
	w, err := newTable[frameRow](fs, "/b", FramesFile)
	if err != nil {
		t.Fatal(err)
	}
	name := func(i int) string { return strings.Repeat(string(rune('a'+i%26)), 1<<20-8) + fmt.Sprintf("%08d", i) }
	const n = 150
	for i := range n {
		w.texts += 2 << 20
		if err := w.add(frameRow{Location: uint32(i), Function: name(i), File: name(i / 2)}); err != nil {
			t.Fatal(err)
		}
	}
	files := map[string]File{}
	if err := w.close(files); err != nil {
		t.Fatal(err)
	}
	cf := &checkedFile{ctx: t.Context(), name: FramesFile, meta: files[FramesFile], src: DirSource(fs, "/b")}
	if cf.tail, err = cf.chunks(cf.tailAt(), cf.meta.Bytes); err != nil {
		t.Fatal(err)
	}
	pf, err := openParquet(cf)
	if err != nil {
		t.Fatal(err)
	}
	s := &scan{cf: cf, pf: pf}
	var got []string
	see := func(x string) (uint32, error) { got = append(got, x); return 0, nil }
	if _, err := s.textColumn("function", 0, n, nil, see); err != nil {
		t.Fatal(err)
	}
	if _, err := s.textColumn("file", n-1, 1, nil, see); err != nil {
		t.Fatal(err)
	}
	for i, g := range got[:n] {
		if g != name(i) {
			t.Fatalf("the name of row %d is %.20q...", i, g)
		}
	}
	if got[n] != name((n-1)/2) {
		t.Fatalf("the last file is %.20q...", got[n])
	}
}
