//go:build !linux && !darwin

package block_test

import "errors"

// chdb is for systems that have libchdb.
func chdb(string) error { return errors.New("libchdb is for Linux and macOS") }
