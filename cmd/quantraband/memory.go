package main

import (
	"bytes"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// minMemory is the least that a server can do its work in.
const minMemory = 96 << 20

// memoryShares is how the server divides what it may use. The rest is for what is decoded
// on its way, for the garbage that Go lets stand, and for the runtime.
type memoryShares struct {
	head, query, columns, inFlight, ingest int64

	agents, results, nonces int64 // what agents say of themselves, their results on their way, signed requests that are remembered

	symbols int64 // tables of symbols that were asked lately
}

// shares divides total; 0 is no limit, and each share is what it is at most.
func shares(total, query int64) memoryShares {
	if total <= 0 {
		total = math.MaxInt64
	}
	s := memoryShares{
		head:     min(1<<30, total/4),
		query:    min(256<<20, total/8),
		columns:  min(64<<20, total/16),
		inFlight: min(64<<20, total/16),
		ingest:   min(256<<20, total/8),
		agents:   min(256<<20, total/32),
		results:  min(128<<20, total/16),
		nonces:   min(64<<20, total/64),
		symbols:  min(192<<20, total/64),
	}
	if query > 0 {
		s.query = query
	}
	return s
}

// memoryLimit is how much memory this process may use: what --memory says, else GOMEMLIMIT, else its control
// group's limit; 0 is no limit. Where Go has not been told, it is: 9/10 of it, so that the
// collector works harder before the kernel kills.
func memoryLimit(flag int64, read func(string) ([]byte, error)) int64 {
	told := debug.SetMemoryLimit(-1)
	switch {
	case flag > 0:
		debug.SetMemoryLimit(flag / 10 * 9)
		return flag
	case told != math.MaxInt64:
		return told
	}
	limit := cgroupLimit(read)
	if limit > 0 {
		debug.SetMemoryLimit(limit / 10 * 9)
	}
	return limit
}

// cgroupLimit is the least limit on this process's control group (version 2, Linux) and those above it; 0 is none.
func cgroupLimit(read func(string) ([]byte, error)) int64 {
	raw, err := read("/proc/self/cgroup")
	if err != nil {
		return 0 // no Linux, or no groups
	}
	var limit int64
	for line := range bytes.Lines(raw) {
		group, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "0::")
		if !ok {
			continue
		}
		for dir := path.Clean("/" + group); ; dir = path.Dir(dir) {
			text, err := read(path.Join("/sys/fs/cgroup", dir, "memory.max"))
			if n, perr := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && perr == nil && n > 0 && (limit == 0 || n < limit) {
				limit = n
			}
			if dir == "/" {
				break
			}
		}
	}
	return limit
}

func hostFile(name string) ([]byte, error) { return os.ReadFile(name) }
