package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// age is a flag for how long something is kept: 30d, 36h, 90m.
type age time.Duration

// Set reads what a user wrote.
func (a *age) Set(s string) error {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseFloat(days, 64)
		if err != nil || math.IsNaN(n) || math.Abs(n) > 36500 {
			return fmt.Errorf("%q is not a time; write it as 30d or 36h", s)
		}
		*a = age(n * float64(24*time.Hour))
		return nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is not a time; write it as 30d or 36h", s)
	}
	*a = age(d)
	return nil
}

// String is what Set reads, in days where they are whole.
func (a *age) String() string {
	const day = 24 * time.Hour
	if d := time.Duration(*a); d != 0 && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := time.Duration(*a).String()
	if t, ok := strings.CutSuffix(s, "m0s"); ok {
		s = t + "m"
	}
	if t, ok := strings.CutSuffix(s, "h0m"); ok {
		s = t + "h"
	}
	return s
}

// Type is the word for the value in help texts.
func (a *age) Type() string { return "age" }
