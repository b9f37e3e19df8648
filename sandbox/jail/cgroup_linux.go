//go:build amd64 || arm64

package jail

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// GroupLimits are what a group of processes may use together.
type GroupLimits struct {
	Memory int64   // bytes, what the kernel holds for it included; there is no swap beside it
	CPU    float64 // processors
	Tasks  int     // processes and threads
}

// cpuPeriod is the time over which a group's share of processors is counted, in microseconds: the kernel's default.
const cpuPeriod = 100_000

// controllers are what a jail cannot be without.
var controllers = []string{"cpu", "memory", "pids"}

// hierarchy is where groups are made: one folder for all controllers (version 2) or one for each (version 1).
type hierarchy struct {
	version int
	folders []string // the folders that ours are made in; version 1: by controllers' order
	all     []string // this process's groups in every hierarchy, those that we have no use for included
}

// findHierarchy finds where this process may make groups below its own, or below parent, a path within the hierarchy.
func findHierarchy(parent string) (*hierarchy, error) {
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	h, err := parseHierarchy(string(self), string(mounts), parent)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return h, nil
}

// parseHierarchy reads what cgroups(7) and proc(5) say of /proc/self/cgroup and /proc/self/mountinfo.
func parseHierarchy(self, mounts, parent string) (*hierarchy, error) {
	own := map[string]string{} // controller, "" for version 2 -> path
	for line := range strings.Lines(self) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			return nil, fmt.Errorf("/proc/self/cgroup has the line %.80q", line)
		}
		for name := range strings.SplitSeq(parts[1], ",") {
			own[name] = parts[2]
		}
	}
	found := map[string]string{} // the same -> folder
	for line := range strings.Lines(mounts) {
		before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(head) < 6 || len(tail) < 3 || tail[0] != "cgroup" && tail[0] != "cgroup2" {
			continue
		}
		names := []string{""}
		if tail[0] == "cgroup" {
			names = strings.Split(tail[2], ",")
		}
		for _, name := range names {
			path, ok := own[name]
			if !ok || found[name] != "" {
				continue
			}
			if parent != "" {
				path = parent
			}
			below, err := filepath.Rel(head[3], path)
			if err != nil || below == ".." || strings.HasPrefix(below, "../") {
				below = "." // our group is outside of what is mounted here, as in a container: then the mount's root is ours
			}
			found[name] = filepath.Join(head[4], below)
		}
	}
	h := &hierarchy{version: 1, all: slices.Sorted(maps.Values(found))}
	h.all = slices.Compact(h.all)
	for _, c := range controllers {
		if found[c] != "" {
			h.folders = append(h.folders, found[c])
		}
	}
	if len(h.folders) == len(controllers) {
		return h, nil
	}
	if found[""] == "" {
		return nil, errors.New("no cgroups are mounted that this process is in")
	}
	return &hierarchy{version: 2, folders: []string{found[""]}, all: h.all}, nil
}

// open makes the folder name, in which groups of this process will be.
func (h *hierarchy) open(name string) (*hierarchy, error) {
	if h.version == 2 {
		return h.open2(name)
	}
	in := &hierarchy{version: 1, all: h.all}
	for _, folder := range h.all {
		sweep(folder)
	}
	for _, folder := range h.folders {
		at := filepath.Join(folder, name)
		if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, errors.Join(fmt.Errorf("%w: %w", ErrUnsupported, err), in.remove())
		}
		// The same folder can serve two controllers.
		if !slices.Contains(in.folders, at) {
			in.folders = append(in.folders, at)
		}
	}
	return in, nil
}

// open2 tries this process's own group and the one above: a group with processes in it cannot give controllers to groups below (cgroups(7),
// "no internal processes"), so a service that was given a group of its own runs in a part of it.
func (h *hierarchy) open2(name string) (*hierarchy, error) {
	var errs []error
	for _, folder := range []string{h.folders[0], filepath.Dir(h.folders[0])} {
		if _, err := os.Stat(filepath.Join(folder, "cgroup.controllers")); err != nil {
			break // above the mount
		}
		sweep(folder)
		err := give(folder)
		if err == nil {
			at := filepath.Join(folder, name)
			if err = os.Mkdir(at, 0o755); err == nil || errors.Is(err, fs.ErrExist) {
				if err = give(at); err == nil {
					return &hierarchy{version: 2, folders: []string{at}, all: h.all}, nil
				}
				err = errors.Join(err, os.Remove(at))
			}
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("%w: no cgroup that may have groups with limits below it (as a systemd service: Delegate=yes with DelegateSubgroup=, or name an empty one): %w", ErrUnsupported, errors.Join(errs...))
}

// give has a group of version 2 give its controllers to the groups below it.
func give(folder string) error {
	has, err := os.ReadFile(filepath.Join(folder, "cgroup.controllers"))
	if err != nil {
		return err
	}
	names := strings.Fields(string(has))
	for _, c := range controllers {
		if !slices.Contains(names, c) {
			return fmt.Errorf("%s has no controller %s", folder, c)
		}
	}
	return writeFile(folder, "cgroup.subtree_control", "+"+strings.Join(controllers, " +"))
}

// Group is one program's.
type Group struct{ in hierarchy }

// group makes a group with limits.
func (h *hierarchy) group(name string, l GroupLimits) (_ *Group, err error) {
	if l.Memory <= 0 || l.CPU <= 0 || l.Tasks <= 0 {
		return nil, fmt.Errorf("limits of a group: %d bytes, %g processors, %d tasks; all must be above 0", l.Memory, l.CPU, l.Tasks)
	}
	g := &Group{hierarchy{version: h.version}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%w: %w", ErrUnsupported, err), g.Remove())
		}
	}()
	for _, folder := range h.folders {
		at := filepath.Join(folder, name)
		if err := os.Mkdir(at, 0o755); err != nil {
			return nil, err
		}
		g.in.folders = append(g.in.folders, at)
	}
	memory, quota, tasks := strconv.FormatInt(l.Memory, 10), max(1000, int(l.CPU*cpuPeriod)), strconv.Itoa(l.Tasks)
	files := [][2]string{{"memory.max", memory}, {"memory.swap.max", "0"}, {"memory.oom.group", "1"}, {"cpu.max", fmt.Sprintf("%d %d", quota, cpuPeriod)}, {"pids.max", tasks}}
	if h.version == 1 {
		files = [][2]string{{"memory.limit_in_bytes", memory}, {"memory.memsw.limit_in_bytes", memory}, {"cpu.cfs_period_us", strconv.Itoa(cpuPeriod)}, {"cpu.cfs_quota_us", strconv.Itoa(quota)}, {"pids.max", tasks}}
	}
	for _, f := range files {
		// Where the kernel does not count swap, these two are not there, and there is none to bound.
		optional := f[0] == "memory.swap.max" || f[0] == "memory.memsw.limit_in_bytes"
		if err := g.set(f[0], f[1]); err != nil && !(optional && errors.Is(err, fs.ErrNotExist)) {
			return nil, err
		}
	}
	return g, nil
}

// set writes to the folder that has the file.
func (g *Group) set(name, value string) error {
	err := error(fs.ErrNotExist)
	for _, folder := range g.in.folders {
		if err = writeFile(folder, name, value); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return err
}

// writeFile writes to a file of the kernel's: it is there, or it is an error.
func writeFile(folder, name, value string) error {
	f, err := os.OpenFile(filepath.Join(folder, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// add puts a process into the group, with what it will start.
func (g *Group) add(pid int) error {
	for _, folder := range g.in.folders {
		if err := writeFile(folder, "cgroup.procs", strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("%w: putting it into its cgroup: %w", ErrUnsupported, err)
		}
	}
	return nil
}

// outOfMemory says whether the kernel has killed something in the group for its memory.
func (g *Group) outOfMemory() bool {
	for _, folder := range g.in.folders {
		for _, name := range []string{"memory.events", "memory.oom_control"} {
			b, err := os.ReadFile(filepath.Join(folder, name))
			if err != nil {
				continue
			}
			for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
				if n, ok := strings.CutPrefix(lines.Text(), "oom_kill "); ok && n != "0" {
					return true
				}
			}
		}
	}
	return false
}

// Remove removes the group, and groups that a program has made in it. It must be empty of processes.
func (g *Group) Remove() error { return g.in.remove() }

func (h *hierarchy) remove() error {
	var errs []error
	for _, folder := range h.folders {
		errs = append(errs, removeTree(folder))
	}
	return errors.Join(errs...)
}

// removeTree removes a folder of groups from the leaves up. Their files are the kernel's and go with them.
func removeTree(folder string) error {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if e.IsDir() {
			errs = append(errs, removeTree(filepath.Join(folder, e.Name())))
		}
	}
	if err := syscall.Rmdir(folder); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, &fs.PathError{Op: "rmdir", Path: folder, Err: err})
	}
	return errors.Join(errs...)
}

// folderPrefix begins the name of each process's folder of groups; its id, the time it started at, and numbers follow.
const folderPrefix = "quantra-sandbox-"

func folderName(pid int) (string, error) {
	started, err := startTime(pid)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s%d-%d", folderPrefix, pid, started), nil
}

// startTime is when a process started, in clock ticks since the machine did: with its id, it is one process's only.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// proc(5): field 22; the second is a name in parentheses that may have anything in it.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields after the name", pid, len(fields))
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// sweep removes what processes have left that were killed. Groups with somebody in them stay as they are.
func sweep(folder string) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return // open will say it
	}
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), folderPrefix)
		parts := strings.Split(rest, "-") // process, start, numbers
		if !ok || len(parts) < 3 {
			continue
		}
		pid, err := strconv.Atoi(parts[0])
		if err != nil {
			continue
		}
		if now, err := startTime(pid); err == nil && strconv.FormatUint(now, 10) == parts[1] {
			continue
		}
		_ = removeTree(filepath.Join(folder, e.Name())) // not empty: left
	}
}
