package agent

import (
	"bytes"
	"io"
	"math"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// maxKernelFile bounds what is read of a file of /proc or of a control group; those read here have some hundred bytes.
const maxKernelFile = 16 << 10

// maxGroups bounds the control groups above each other that are looked at.
const maxGroups = 32

// machine reads what the kernel allows this process, and what it takes. One goroutine at a time.
type machine struct {
	proc      string   // /proc
	groups    []string // folders of the process's control groups (version 2), its own first
	throttled float64  // nanoseconds at the last look, of the group with the tightest quota
	group     string   // that group
}

// newMachine finds the process's control groups. A process that is moved later is seen where it was.
func newMachine() *machine { return machineAt("/proc", "/sys/fs/cgroup") }

func machineAt(proc, cgroups string) *machine {
	m := &machine{proc: proc}
	for line := range strings.Lines(string(readKernel(filepath.Join(proc, "self/cgroup")))) {
		own, ok := strings.CutPrefix(strings.TrimSpace(line), "0::") // version 2 has this one line
		if !ok {
			continue
		}
		own = path.Clean("/" + own)
		for len(m.groups) < maxGroups {
			m.groups = append(m.groups, filepath.Join(cgroups, own))
			if own == "/" {
				break
			}
			own = path.Dir(own)
		}
	}
	return m
}

// readKernel is the file's text, empty where it cannot be read.
func readKernel(name string) []byte {
	f, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKernelFile))
	if err != nil {
		return nil
	}
	return b
}

// figures adds what is known.
func (m *machine) figures(gs []gauge) []gauge {
	if rss := residentBytes(readKernel(filepath.Join(m.proc, "self/statm")), int64(os.Getpagesize())); rss > 0 {
		gs = append(gs, gauge{gRSS, []string{"resident"}, rss})
	}
	if load, _, ok := bytes.Cut(readKernel(filepath.Join(m.proc, "loadavg")), []byte(" ")); ok {
		if x, err := strconv.ParseFloat(string(load), 64); err == nil && x > 0 && x < 1e6 {
			gs = append(gs, gauge{gLoad, []string{"load"}, int64(1000 * x)})
		}
	}
	quota, memory, group := math.Inf(1), math.Inf(1), ""
	for _, g := range m.groups {
		if q := groupQuota(readKernel(filepath.Join(g, "cpu.max"))); q < quota {
			quota, group = q, g
		}
		if n, err := strconv.ParseInt(string(bytes.TrimSpace(readKernel(filepath.Join(g, "memory.max")))), 10, 64); err == nil && n > 0 { // "max" is none
			memory = min(memory, float64(n))
		}
	}
	if !math.IsInf(memory, 1) {
		gs = append(gs, gauge{gMemoryMax, []string{"allowed"}, clampInt64(memory)})
	}
	if group == "" {
		return gs
	}
	gs = append(gs, gauge{gQuota, []string{"allowed"}, clampInt64(1000 * quota)})
	throttled := groupThrottled(readKernel(filepath.Join(group, "cpu.stat")))
	if n := throttled - m.throttled; group == m.group && n > 0 {
		gs = append(gs, gauge{gThrottled, []string{"throttled"}, clampInt64(n)})
	}
	m.throttled, m.group = throttled, group
	return gs
}

// residentBytes reads /proc/self/statm: pages, the resident ones second (proc(5)). 0 is unknown.
func residentBytes(statm []byte, page int64) int64 {
	fields := bytes.Fields(statm)
	if len(fields) < 2 {
		return 0
	}
	n, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/page {
		return 0
	}
	return n * page
}

// groupQuota reads cpu.max: "quota period", in microseconds, as cores; +Inf where there is none.
func groupQuota(text []byte) float64 {
	quota, period, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	q, err1 := strconv.ParseInt(quota, 10, 64) // "max" is none
	p, err2 := strconv.ParseInt(period, 10, 64)
	if err1 != nil || err2 != nil || q <= 0 || p <= 0 {
		return math.Inf(1)
	}
	return float64(q) / float64(p)
}

// groupThrottled reads throttled_usec of cpu.stat, in nanoseconds: how long threads of the group stood still, as its quota was used up.
func groupThrottled(text []byte) float64 {
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(line, "throttled_usec "); ok {
			if us, err := strconv.ParseInt(strings.TrimSpace(n), 10, 64); err == nil && us > 0 {
				return 1e3 * float64(us)
			}
		}
	}
	return 0
}
