//go:build linux || darwin

package clickhousetest

import (
	"bytes"
	"errors"
	"fmt"
	"unsafe"

	"github.com/ebitengine/purego"
)

// engine is ClickHouse as a library. One goroutine at a time uses it.
type engine struct {
	conn    uintptr
	query   func(conn uintptr, query, format string) uintptr
	buffer  func(result uintptr) *byte
	length  func(result uintptr) uint
	failure func(result uintptr) string
	destroy func(result uintptr)
}

// loadEngine opens the data in dir.
func loadEngine(lib, dir string) (*engine, error) {
	h, err := purego.Dlopen(lib, purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return nil, err
	}
	e := &engine{}
	var connect func(argc int, argv []*byte) *uintptr
	purego.RegisterLibFunc(&connect, h, "chdb_connect")
	purego.RegisterLibFunc(&e.query, h, "chdb_query")
	purego.RegisterLibFunc(&e.buffer, h, "chdb_result_buffer")
	purego.RegisterLibFunc(&e.length, h, "chdb_result_length")
	purego.RegisterLibFunc(&e.failure, h, "chdb_result_error")
	purego.RegisterLibFunc(&e.destroy, h, "chdb_destroy_query_result")
	name, path := []byte("clickhouse\x00"), []byte(fmt.Sprintf("--path=%s\x00", dir))
	conn := connect(2, []*byte{&name[0], &path[0]})
	if conn == nil {
		return nil, errors.New("chdb_connect: nothing came back")
	}
	e.conn = *conn
	return e, nil
}

// run gives the rows in a format, or what went wrong.
func (e *engine) run(sql, format string) ([]byte, string) {
	r := e.query(e.conn, sql, format)
	if r == 0 {
		return nil, ""
	}
	defer e.destroy(r)
	if msg := e.failure(r); msg != "" {
		return nil, msg
	}
	n := e.length(r)
	if n == 0 {
		return nil, ""
	}
	return bytes.Clone(unsafe.Slice(e.buffer(r), n)), ""
}
