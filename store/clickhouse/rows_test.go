package clickhouse

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"testing"

	"github.com/quantra-l/quantra/store"
)

// answerTypes are the columns of the answers that have all kinds.
var answerTypes = []string{"String", "UInt64", "Int64", "FixedString(16)", "Array(String)", "Array(Int64)", "Float64"}

// answer is as ClickHouse lays out RowBinaryWithNamesAndTypes.
func answer(rows int) []byte {
	var b []byte
	text := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	b = binary.AppendUvarint(b, uint64(len(answerTypes)))
	for range answerTypes {
		text("c")
	}
	for _, t := range answerTypes {
		text(t)
	}
	for i := range rows {
		text("row")
		b = binary.LittleEndian.AppendUint64(b, uint64(i))
		b = binary.LittleEndian.AppendUint64(b, uint64(-i))
		b = append(b, make([]byte, 16)...)
		b = binary.AppendUvarint(b, 2)
		text("")
		text("two")
		b = binary.AppendUvarint(b, 1)
		b = binary.LittleEndian.AppendUint64(b, 7)
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(0.5))
	}
	return b
}

func readAnswer(b []byte) (n int, err error) {
	rs := newRows(context.Background(), io.NopCloser(bytes.NewReader(b)))
	rs.header(answerTypes)
	for rs.next() {
		rs.text()
		rs.uint64()
		rs.int64()
		rs.fixed16()
		if s := array(rs, rs.text); rs.err == nil && len(s) > len(b) {
			panic("more elements than bytes")
		}
		array(rs, rs.int64)
		rs.uint64()
		if rs.err == nil {
			n++
		}
	}
	return n, rs.close()
}

func TestRows(t *testing.T) {
	good := answer(3)
	if n, err := readAnswer(good); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	head := len(answer(0))
	row := (len(good) - head) / 3
	for cut := range good {
		n, err := readAnswer(good[:cut])
		if whole := cut >= head && (cut-head)%row == 0; whole != (err == nil) || cut >= head && n != (cut-head)/row {
			t.Fatalf("cut at %d: %d rows, %v", cut, n, err)
		} else if err != nil && !errors.Is(err, store.ErrUnavailable) {
			t.Fatal(err)
		}
	}
}

func FuzzRows(f *testing.F) {
	f.Add(answer(0))
	f.Add(answer(2))
	f.Add(bytes.Replace(answer(1), []byte("String"), []byte("LowCardinality(String)"), 1))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = readAnswer(b) })
}
