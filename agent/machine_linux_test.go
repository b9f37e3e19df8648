package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// machineTree writes files into a /proc and control groups of its own.
func machineTree(t *testing.T, files map[string]string) *machine {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return machineAt(filepath.Join(dir, "proc"), filepath.Join(dir, "groups"))
}

// TestMachine: the tightest of the groups that the process is in holds; what is missing or none of a number is not said.
func TestMachine(t *testing.T) {
	statm := fmt.Sprintf("90000 %d 100 1 0 5 0\n", (64<<20)/os.Getpagesize())
	for name, c := range map[string]struct {
		files map[string]string
		want  map[int]int64
	}{
		"in a container": {map[string]string{
			"proc/self/cgroup": "0::/\n", "proc/self/statm": statm, "proc/loadavg": "1.25 0.5 0.1 1/200 4711\n",
			"groups/cpu.max": "150000 100000\n", "groups/memory.max": "419430400\n", "groups/cpu.stat": "usage_usec 9\nthrottled_usec 3000\n",
		}, map[int]int64{gRSS: 64 << 20, gLoad: 1250, gQuota: 1500, gMemoryMax: 400 << 20, gThrottled: 2e6}},
		"groups above each other": {map[string]string{
			"proc/self/cgroup": "1:name=systemd:/old\n0::/pods/a/app\n", "proc/self/statm": statm,
			"groups/pods/a/app/cpu.max": "max 100000\n", "groups/pods/a/app/memory.max": "max\n",
			"groups/pods/a/cpu.max": "400000 100000\n", "groups/pods/a/memory.max": "1073741824\n", "groups/pods/a/cpu.stat": "throttled_usec 1000\n",
			"groups/pods/memory.max": "536870912\n",
		}, map[int]int64{gRSS: 64 << 20, gQuota: 4000, gMemoryMax: 512 << 20}},
		"no limits": {map[string]string{"proc/self/cgroup": "0::/x\n", "groups/x/cpu.max": "max 100000\n", "groups/x/memory.max": "max\n"}, map[int]int64{}},
		"nothing":   {map[string]string{}, map[int]int64{}},
		"garbage": {map[string]string{
			"proc/self/cgroup": "0::/../../etc\n", "proc/self/statm": "1 99999999999999999999", "proc/loadavg": "NaN x",
			"groups/etc/cpu.max": "-5 0\n", "groups/etc/memory.max": "-1\n", "groups/cpu.max": "1\n",
		}, map[int]int64{}},
	} {
		t.Run(name, func(t *testing.T) {
			m := machineTree(t, c.files)
			m.throttled = 1e6
			if len(m.groups) > 0 {
				m.group = m.groups[0] // as after a look, at which it was 1 ms
			}
			got := map[int]int64{}
			for _, g := range m.figures(nil) {
				got[g.typ] = g.value
			}
			if fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

// TestMachineHere: this process, as the kernel tells it.
func TestMachineHere(t *testing.T) {
	for _, g := range newMachine().figures(nil) {
		if g.typ == gRSS && g.value > 4<<20 && g.value < 64<<30 {
			return
		}
	}
	t.Error("this process has no resident memory, or none that could be")
}
