package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// byteSize is a flag for a number of bytes: 500MB, 2GiB, 1048576.
type byteSize int64

// byteUnits have the largest first, as String wants them. Decimal and binary
// units are told apart as IEC 80000-13 has it.
var byteUnits = []struct {
	name   string
	factor int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1},
}

// Set reads what a user wrote.
func (b *byteSize) Set(s string) error {
	number, factor := strings.TrimSpace(s), int64(1)
	for _, u := range byteUnits {
		if n, ok := cutSuffixFold(number, u.name); ok {
			number, factor = strings.TrimSpace(n), u.factor
			break
		}
	}
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(v) || v < 0 || v*float64(factor) >= math.MaxInt64 {
		return fmt.Errorf("%q is not a size; write it as 500MB or 2GiB", s)
	}
	*b = byteSize(v * float64(factor))
	return nil
}

func cutSuffixFold(s, suffix string) (string, bool) {
	if len(s) < len(suffix) || !strings.EqualFold(s[len(s)-len(suffix):], suffix) {
		return s, false
	}
	return s[:len(s)-len(suffix)], true
}

// String is what Set reads, in the largest unit that says it exactly.
func (b *byteSize) String() string {
	for _, u := range byteUnits {
		if v := int64(*b); v != 0 && v%u.factor == 0 {
			return strconv.FormatInt(v/u.factor, 10) + u.name
		}
	}
	return "0"
}

// Type is the word for the value in help texts.
func (b *byteSize) Type() string { return "size" }
