//go:build linux || darwin

package block_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/ebitengine/purego"
)

// chdb runs the statements on its input, JSON, in ClickHouse, and writes the rows of each.
func chdb(lib string) error {
	h, err := purego.Dlopen(lib, purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return err
	}
	var (
		connect func(argc int, argv []*byte) *uintptr
		query   func(conn uintptr, query, format string) uintptr
		buffer  func(result uintptr) *byte
		length  func(result uintptr) uint
		failure func(result uintptr) string
	)
	purego.RegisterLibFunc(&connect, h, "chdb_connect")
	purego.RegisterLibFunc(&query, h, "chdb_query")
	purego.RegisterLibFunc(&buffer, h, "chdb_result_buffer")
	purego.RegisterLibFunc(&length, h, "chdb_result_length")
	purego.RegisterLibFunc(&failure, h, "chdb_result_error")
	name := []byte("clickhouse\x00")
	conn := connect(1, []*byte{&name[0]})
	if conn == nil {
		return errors.New("chdb_connect: nothing came back")
	}
	var statements []string
	if err := json.NewDecoder(os.Stdin).Decode(&statements); err != nil {
		return err
	}
	var all [][][]string
	for _, s := range statements {
		r := query(*conn, s, "JSONCompactStringsEachRow")
		if msg := failure(r); msg != "" {
			return fmt.Errorf("%s\n%s", s, msg)
		}
		rows := [][]string{}
		if n := length(r); n > 0 {
			for dec := json.NewDecoder(bytes.NewReader(unsafe.Slice(buffer(r), n))); dec.More(); {
				var row []string
				if err := dec.Decode(&row); err != nil {
					return err
				}
				rows = append(rows, row)
			}
		}
		all = append(all, rows)
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}
