//go:build !linux && !darwin

package clickhousetest

import "errors"

// loadEngine is for systems that have libchdb.
func loadEngine(string, string) (*engine, error) {
	return nil, errors.New("libchdb is for Linux and macOS")
}

type engine struct{}

func (*engine) run(string, string) ([]byte, string) { return nil, "" }
