package clickhouse

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/quantra-l/quantra/store"
)

// Bounds on what an answer may hold; none is near what our statements give.
const (
	maxText    = 1 << 20 // bytes of one text
	maxArray   = 1 << 16 // elements of one array
	maxColumns = 64
)

// rows reads an answer in RowBinaryWithNamesAndTypes: a row after the other, each value as
// its column's type lays it out (docs of ClickHouse, "RowBinary"). The first error stays, and
// all reads after it give zeros.
type rows struct {
	ctx  context.Context
	body io.ReadCloser
	r    *bufio.Reader
	n    int // rows begun
	err  error
}

// ask runs a question. types are what its columns must be, in ClickHouse's words.
func (db *DB) ask(ctx context.Context, sql string, types ...string) (*rows, error) {
	settings := append([]setting{{"max_memory_usage", number(uint64(db.opt.QueryMemory))}}, db.target.ask...)
	return db.http.ask(ctx, statement{sql: sql, settings: settings, read: true}, types...)
}

func (c *client) ask(ctx context.Context, st statement, types ...string) (*rows, error) {
	body, err := c.do(ctx, st)
	if err != nil {
		return nil, err
	}
	rs := newRows(ctx, body)
	rs.header(types)
	if rs.err != nil {
		return nil, rs.close()
	}
	return rs, nil
}

func newRows(ctx context.Context, body io.ReadCloser) *rows {
	return &rows{ctx: ctx, body: body, r: bufio.NewReaderSize(body, 64<<10)}
}

// header checks that the columns are those that the caller reads.
func (rs *rows) header(types []string) {
	if n := rs.uvarint(); rs.err == nil && (n != uint64(len(types)) || n > maxColumns) {
		rs.fail(fmt.Errorf("the answer has %d columns, %d were asked for", n, len(types)))
	}
	for range types {
		rs.text()
	}
	for i, want := range types {
		got := rs.text()
		got = strings.NewReplacer("LowCardinality(String)", "String").Replace(got)
		if rs.err == nil && got != want {
			rs.fail(fmt.Errorf("column %d of the answer is %.100q, %q was asked for", i+1, got, want))
		}
	}
}

// next says whether there is a row.
func (rs *rows) next() bool {
	if rs.err != nil {
		return false
	}
	if rs.n%4096 == 0 {
		if rs.err = rs.ctx.Err(); rs.err != nil {
			return false
		}
	}
	if _, err := rs.r.Peek(1); err == io.EOF {
		return false
	} else if err != nil {
		rs.fail(err)
		return false
	}
	rs.n++
	return true
}

// close ends the answer and gives the first error.
func (rs *rows) close() error {
	err := rs.body.Close()
	if rs.err == nil {
		rs.err = err
	}
	return rs.err
}

// fail keeps the first error: a connection that broke, or bytes that are not what was asked for.
func (rs *rows) fail(err error) {
	switch {
	case rs.err != nil:
	case rs.ctx.Err() != nil:
		rs.err = rs.ctx.Err()
	default:
		rs.err = fmt.Errorf("%w: clickhouse: answer, row %d: %w", store.ErrUnavailable, rs.n, err)
	}
}

func (rs *rows) uvarint() uint64 {
	if rs.err != nil {
		return 0
	}
	n, err := binary.ReadUvarint(rs.r)
	if err != nil {
		rs.fail(noEOF(err))
		return 0
	}
	return n
}

// noEOF: the end of the answer within a row is not the end of the rows.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (rs *rows) text() string {
	n := rs.uvarint()
	if rs.err == nil && n > maxText {
		rs.fail(fmt.Errorf("a text of %d bytes, at most %d can be", n, maxText))
	}
	if rs.err != nil {
		return ""
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(rs.r, b); err != nil {
		rs.fail(noEOF(err))
		return ""
	}
	return string(b)
}

func (rs *rows) uint64() uint64 {
	var b [8]byte
	if rs.err != nil {
		return 0
	}
	if _, err := io.ReadFull(rs.r, b[:]); err != nil {
		rs.fail(noEOF(err))
		return 0
	}
	return binary.LittleEndian.Uint64(b[:])
}

func (rs *rows) int64() int64 { return int64(rs.uint64()) }

func (rs *rows) fixed16() (b [16]byte) {
	if rs.err != nil {
		return b
	}
	if _, err := io.ReadFull(rs.r, b[:]); err != nil {
		rs.fail(noEOF(err))
		return [16]byte{}
	}
	return b
}

// array reads the elements of an array with read, one by one.
func array[T any](rs *rows, read func() T) []T {
	n := rs.uvarint()
	if rs.err == nil && n > maxArray {
		rs.fail(fmt.Errorf("an array of %d elements, at most %d can be", n, maxArray))
	}
	if rs.err != nil {
		return nil
	}
	// What is not there is not made room for: each element takes a byte at the least.
	out := make([]T, 0, min(n, 1024))
	for range n {
		if rs.err != nil {
			return nil
		}
		out = append(out, read())
	}
	return out
}
