package main

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/quantra-l/quantra/store/blocks"
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

// forever is longer than anything is kept.
const forever = 100 * 365 * 24 * time.Hour

// keepRules is a flag, repeated: how long what is kept, by tenant and service.
type keepRules []blocks.KeepRule

// Set reads one rule: TENANT/SERVICE=AGE, where * is any and the age may be forever.
func (k *keepRules) Set(s string) error {
	who, howLong, ok := strings.Cut(s, "=")
	tenant, service, ok2 := strings.Cut(who, "/")
	if !ok || !ok2 || tenant == "" || service == "" {
		return fmt.Errorf("%q is not TENANT/SERVICE=AGE, as default/checkout=90d or */batch=3d", s)
	}
	r := blocks.KeepRule{Tenant: tenant, Service: service, Keep: -1}
	if howLong != "forever" {
		var a age
		if err := a.Set(howLong); err != nil {
			return err
		}
		if a <= 0 {
			return fmt.Errorf("%q: the age must be more than 0, or forever", s)
		}
		r.Keep = time.Duration(a)
	}
	for _, part := range []*string{&r.Tenant, &r.Service} {
		if *part == "*" {
			*part = ""
		}
	}
	*k = append(*k, r)
	return nil
}

// String is the rules as Set reads them.
func (k *keepRules) String() string {
	var out []string
	for _, r := range *k {
		a, howLong := age(r.Keep), "forever"
		if r.Keep >= 0 {
			howLong = a.String()
		}
		out = append(out, cmp.Or(r.Tenant, "*")+"/"+cmp.Or(r.Service, "*")+"="+howLong)
	}
	return strings.Join(out, ",")
}

// Type is the word for the value in help texts.
func (k *keepRules) Type() string { return "rule" }

// Type is the word for the value in help texts.
func (a *age) Type() string { return "age" }
