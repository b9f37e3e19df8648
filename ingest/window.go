package ingest

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/quantra-l/quantra/profile"
)

// Where neither the sender nor the profile says when it was, it is taken to be
// what the agents' windows are.
const defaultWindow = 10 * time.Second

// moment is the length of a window of a profile that is a snapshot (goroutines,
// heap): windows are never empty, and times are shown in milliseconds.
const moment = time.Millisecond

// window is the time that a profile is filed under: what the sender says, else
// what the profile says, else the last 10 s. A zero time is one not given.
func (in *Ingest) window(from, until time.Time, p *profile.Profile) (time.Time, time.Time, error) {
	now := in.opt.Now()
	if from.IsZero() || until.IsZero() {
		switch length := time.Duration(p.DurationNanos); {
		case p.TimeNanos > 0 && length >= 0 && length <= math.MaxInt64-time.Duration(p.TimeNanos):
			from = time.Unix(0, p.TimeNanos)
			until = from.Add(max(length, moment))
		default:
			from, until = now.Add(-defaultWindow), now
		}
	}
	const remedy = "; say when it was with from and until"
	if until.After(now.Add(maxAhead)) {
		return from, until, faultf(http.StatusUnprocessableEntity, "future", "the profile ends at %s, which is %v from now; set the sender's clock, or%s",
			until.UTC().Format(time.RFC3339), until.Sub(now).Round(time.Second), remedy[1:])
	}
	if in.opt.MaxAge > 0 && until.Before(now.Add(-in.opt.MaxAge)) {
		return from, until, faultf(http.StatusUnprocessableEntity, "too_old", "the profile ends at %s, and what is older than %v is not kept%s",
			until.UTC().Format(time.RFC3339), in.opt.MaxAge, remedy)
	}
	return from, until, nil
}

// strictTime reads Unix nanoseconds or RFC 3339; "" is no time. Anything
// smaller than a year's nanoseconds is some other unit by mistake.
func strictTime(param, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		if t := time.Unix(0, n); t.Year() > 1970 {
			return t, nil
		}
		return time.Time{}, faultf(http.StatusBadRequest, "time", "%s=%.40s is in the year 1970: it must be Unix nanoseconds (or RFC 3339)", param, s)
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil && t.Year() > 1970 && t.Year() < 2200 {
		return t, nil
	}
	return time.Time{}, faultf(http.StatusBadRequest, "time", "%s=%.40q is not a time: it must be Unix nanoseconds, or RFC 3339 as 2006-01-02T15:04:05Z", param, s)
}

// looseTime reads a time as Pyroscope does: Unix seconds, milliseconds,
// microseconds or nanoseconds, told apart by size, RFC 3339, or now, now-15m.
func looseTime(param, s string, now time.Time) (time.Time, error) {
	if ago, ok := strings.CutPrefix(s, "now"); ok {
		d, err := time.ParseDuration(strings.TrimPrefix(ago, "-"))
		if ago == "" || err == nil && ago[0] == '-' && d >= 0 {
			return now.Add(-d), nil
		}
		return time.Time{}, faultf(http.StatusBadRequest, "time", "%s=%.40q is not a time: after now comes a length, as in now-15m", param, s)
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n <= 0 {
		return strictTime(param, s)
	}
	// The boundaries are far from every time of use: 1e11 s is the year 5138, 1e11 ms is 1973.
	switch {
	case n < 1e11:
		return time.Unix(n, 0), nil
	case n < 1e14:
		return time.UnixMilli(n), nil
	case n < 1e17:
		return time.UnixMicro(n), nil
	}
	return time.Unix(0, n), nil
}
