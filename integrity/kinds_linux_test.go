package integrity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// settle makes the baseline say that its times are proof, as they are some seconds later, and waits until the file system's clock has moved.
func (t *tree) settle() {
	t.Helper()
	b := t.open()
	h := b.Header
	h.Number, h.Previous = b.Number+1, b.Mark.Digest
	_, _, err := t.store.write(context.Background(), &h, Event{}, func(w *writer) error {
		for c := b.from(""); ; {
			e, err := c.next()
			if e == nil || err != nil {
				return err
			}
			e.Racy = false
			if err := w.add(e); err != nil {
				return err
			}
		}
	})
	must(t, err)
	probe := filepath.Join(t.store.Dir, "probe")
	ctime := func() int64 {
		var st unix.Stat_t
		must(t, os.WriteFile(probe, nil, 0o600), os.Chmod(probe, 0o600), unix.Stat(probe, &st))
		return st.Ctim.Nano()
	}
	for first := ctime(); ctime() == first; {
	}
}

// sameTimes writes other bytes of the same length and sets the times of the bytes back, as someone who hides does.
func (t *tree) sameTimes(name string) {
	t.Helper()
	info, err := os.Lstat(t.path(name))
	must(t, err)
	f, err := os.OpenFile(t.path(name), os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte{'!'}, 0)
	must(t, err, f.Close(), os.Chtimes(t.path(name), info.ModTime(), info.ModTime()))
}

// kinds are the kinds of changes, each done to a tree of its own, and what is told of it.
var kinds = []struct {
	name string
	root bool // only root can
	do   func(*tree) error
	want []string
}{
	{"nothing", false, func(t *tree) error { return nil }, nil},
	{"read", false, func(t *tree) error { _, err := os.ReadFile(t.path("d/f")); return err }, nil},
	{"content", false, func(t *tree) error { return os.WriteFile(t.path("d/f"), []byte("other text"), 0) }, []string{"changed d/f: content, size, mtime, ctime"}},
	{"same size, times restored", false, func(t *tree) error { t.sameTimes("d/f"); return nil }, []string{"changed d/f: content, ctime"}},
	{"touched", false, func(t *tree) error {
		i, err := os.Lstat(t.path("d/f"))
		must(t, err)
		return os.Chtimes(t.path("d/f"), i.ModTime(), i.ModTime().Add(-1))
	}, []string{"changed d/f: mtime, ctime"}},
	{"mode", false, func(t *tree) error { return os.Chmod(t.path("d/f"), 0o600) }, []string{"changed d/f: mode, ctime"}},
	{"mode and back", false, func(t *tree) error {
		return errors.Join(os.Chmod(t.path("d/f"), 0o600), os.Chmod(t.path("d/f"), 0o644))
	}, []string{"changed d/f: ctime"}},
	{"setuid", false, func(t *tree) error { return os.Chmod(t.path("d/f"), 0o644|fs.ModeSetuid) }, []string{"changed d/f: setuid, ctime"}},
	{"setgid", false, func(t *tree) error { return os.Chmod(t.path("d/f"), 0o644|fs.ModeSetgid) }, []string{"changed d/f: setgid, ctime"}},
	{"sticky folder", false, func(t *tree) error { return os.Chmod(t.path("d"), 0o755|fs.ModeSticky) }, []string{"changed d: mode"}},
	{"mode of the root", false, func(t *tree) error { return os.Chmod(t.dir, 0o700) }, []string{"changed " + "ROOT: mode"}},
	{"owner", true, func(t *tree) error { return os.Lchown(t.path("d/f"), 1234, -1) }, []string{"changed d/f: owner, ctime"}},
	{"group", true, func(t *tree) error { return os.Lchown(t.path("d/f"), -1, 1234) }, []string{"changed d/f: group, ctime"}},
	{"owner of a link", true, func(t *tree) error { return os.Lchown(t.path("l"), 1234, -1) }, []string{"changed l: owner, ctime"}},
	{"owner of a folder", true, func(t *tree) error { return os.Lchown(t.path("d"), 1234, -1) }, []string{"changed d: owner"}},
	{"extended attribute", true, func(t *tree) error { return unix.Setxattr(t.path("d/f"), "trusted.x", []byte("v"), 0) }, []string{"changed d/f: xattrs, ctime"}},
	{"extended attribute of a folder", true, func(t *tree) error { return unix.Setxattr(t.path("d"), "trusted.x", []byte("v"), 0) }, []string{"changed d: xattrs"}},
	{"extended attribute of a link", true, func(t *tree) error { return unix.Lsetxattr(t.path("l"), "trusted.x", []byte("v"), 0) }, []string{"changed l: xattrs, ctime"}},
	{"added", false, func(t *tree) error { t.write("d/new", "n"); return nil }, []string{"added d/new"}},
	{"added with rights", false, func(t *tree) error { t.write("d/new", "n"); return os.Chmod(t.path("d/new"), 0o755|fs.ModeSetuid) }, []string{"added d/new: setuid"}},
	{"added folders", false, func(t *tree) error { t.write("n/m/new", "n"); return nil }, []string{"added n", "added n/m", "added n/m/new"}},
	{"removed", false, func(t *tree) error { return os.Remove(t.path("d/f")) }, []string{"removed d/f"}},
	{"removed folder", false, func(t *tree) error { return os.RemoveAll(t.path("d")) }, []string{"removed d", "removed d/f", "removed d/g", "changed hard: links, ctime"}},
	{"removed root", false, func(t *tree) error { return os.RemoveAll(t.dir) }, []string{"removed ROOT", "removed d", "removed d/f", "removed d/g", "removed hard", "removed l", "removed pipe"}},
	{"renamed", false, func(t *tree) error { return os.Rename(t.path("d/f"), t.path("z")) }, []string{"renamed z from d/f"}},
	{"renamed forwards", false, func(t *tree) error { return os.Rename(t.path("d/f"), t.path("a")) }, []string{"renamed a from d/f"}},
	{"renamed, and its mode", false, func(t *tree) error {
		return errors.Join(os.Rename(t.path("d/f"), t.path("a")), os.Chmod(t.path("a"), 0o600))
	}, []string{"renamed a from d/f: mode"}},
	{"renamed folder", false, func(t *tree) error { return os.Rename(t.path("d"), t.path("e")) }, []string{"renamed e from d", "renamed e/f from d/f", "renamed e/g from d/g"}},
	{"renamed over", false, func(t *tree) error { return os.Rename(t.path("hard"), t.path("d/f")) },
		[]string{"changed d/f: content, size, inode, links, mtime, ctime", "changed d/g: ctime", "removed hard"}},
	{"replaced by the same", false, func(t *tree) error {
		i, err := os.Lstat(t.path("d/f"))
		must(t, err)
		t.write("copy", "some text")
		return errors.Join(os.Chtimes(t.path("copy"), i.ModTime(), i.ModTime()), os.Rename(t.path("copy"), t.path("d/f")))
	}, []string{"changed d/f: inode, ctime"}},
	{"retargeted link", false, func(t *tree) error {
		return errors.Join(os.Remove(t.path("l")), os.Symlink("/etc/shadow", t.path("l")))
	}, []string{"changed l: target, inode?, mtime, ctime"}},
	{"file into link", false, func(t *tree) error { return errors.Join(os.Remove(t.path("d/f")), os.Symlink("g", t.path("d/f"))) }, []string{"changed d/f: type"}},
	{"folder into link", false, func(t *tree) error {
		return errors.Join(os.Rename(t.path("d"), t.path("../moved")), os.Symlink("../moved", t.path("d")))
	}, []string{"changed d: type", "removed d/f", "removed d/g"}},
	{"file into fifo", false, func(t *tree) error {
		return errors.Join(os.Remove(t.path("d/f")), syscall.Mkfifo(t.path("d/f"), 0o644))
	}, []string{"changed d/f: type"}},
	{"hard link", false, func(t *tree) error { return os.Link(t.path("d/f"), t.path("second")) }, []string{"changed d/f: links, ctime", "added second"}},
	{"bytes by another name", false, func(t *tree) error { t.sameTimes("hard"); return nil }, []string{"changed d/g: content, ctime", "changed hard: content, ctime"}},
	{"device", true, func(t *tree) error { return unix.Mknod(t.path("dev"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) }, []string{"added dev"}},
	{"socket", false, func(t *tree) error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		must(t, err)
		defer unix.Close(fd)
		must(t, os.Chdir(t.dir)) // such addresses are short
		return unix.Bind(fd, &unix.SockaddrUnix{Name: "sock"})
	}, []string{"added sock"}},
	{"mounted over", true, func(t *tree) error {
		if err := unix.Mount("none", t.path("d"), "tmpfs", 0, ""); err != nil {
			t.Logf("NOT TESTED: this process may not mount: %v", err)
			return errOmit
		}
		t.Cleanup(func() { must(t, unix.Unmount(t.path("d"), 0)) })
		return os.WriteFile(t.path("d/hidden"), nil, 0o600)
	}, []string{"changed d: mode?, mount, inode", "removed d/f", "removed d/g"}},
}

// TestKinds: each kind of change is told once, with its aspects, and nothing else is.
func TestKinds(t *testing.T) {
	root := os.Geteuid() == 0
	for _, c := range kinds {
		t.Run(c.name, func(t *testing.T) {
			if c.root && !root {
				t.Log("NOT TESTED: only root can")
				return
			}
			t.Chdir(t.TempDir())
			tr := newTree(t)
			tr.write("d/f", "some text")
			tr.write("d/g", "g")
			must(t, os.Symlink("d/f", tr.path("l")), os.Link(tr.path("d/g"), tr.path("hard")), syscall.Mkfifo(tr.path("pipe"), 0o644))
			tr.baseline()
			tr.settle()
			if err := c.do(tr); errors.Is(err, errOmit) {
				return
			} else if err != nil {
				t.Fatal(err)
			}
			for _, full := range []bool{false, true} {
				r := tr.check(full)
				if got := tr.lines(r.Changes); !alike(got, c.want, tr.dir) || len(r.Problems) > 0 {
					t.Errorf("full %v: %q, not %q; problems %v", full, got, c.want, r.Problems)
				}
			}
			if _, err := os.Lstat(tr.dir); err != nil {
				return
			}
			b := tr.open()
			r, err := b.Check(context.Background(), Look{Full: true})
			must(t, err)
			if len(r.Changes) > 0 {
				_, err := tr.store.Approve(context.Background(), b, r.Changes)
				must(t, err)
			}
			tr.expect(true) // what was approved is the baseline
			tr.expect(false)
		})
	}
}

var errOmit = errors.New("omit")

// alike compares lines; an aspect with a question mark may be there or not: a file system may give a freed inode again at once.
func alike(got, want []string, root string) bool {
	if len(got) != len(want) {
		return false
	}
	for i := range got {
		w, g := strings.ReplaceAll(want[i], "ROOT", root), got[i]
		for _, maybe := range []string{"inode?, ", "mode?, "} {
			plain := strings.ReplaceAll(maybe, "?", "")
			if strings.Contains(w, maybe) {
				w, g = strings.ReplaceAll(w, maybe, ""), strings.ReplaceAll(g, plain, "")
			}
		}
		if g != w {
			return false
		}
	}
	return true
}

// TestFIFO: what would block who opens it is not opened.
func TestFIFO(t *testing.T) {
	tr := newTree(t)
	must(t, syscall.Mkfifo(tr.path("p"), 0o644))
	tr.baseline()
	tr.expect(true)
	// Also where it takes a file's place between the stat and the open.
	e := &Entry{Path: tr.path("p"), Type: Regular, Inode: 1}
	d, err := nowhere().open(tr.dir)
	must(t, err)
	defer d.release()
	if err := d.look(context.Background(), "p", e, newHasher(BLAKE3, nil)); !errors.Is(err, errMoved) {
		t.Errorf("%v", err)
	}
}

// TestLinkedParent: nothing is reached through a link that took the place of a folder, also by a look at one path.
func TestLinkedParent(t *testing.T) {
	tr := newTree(t)
	tr.write("d/f", "x")
	tr.baseline()
	must(t, os.Rename(tr.path("d"), tr.path("../elsewhere")), os.Symlink("../elsewhere", tr.path("d")))
	n := 0
	_, err := scan(context.Background(), tr.open(), []string{tr.path("d/f")}, Look{}, nil, func(s seen) error {
		n++
		if s.before == nil || s.after != nil {
			t.Errorf("%+v", s)
		}
		return nil
	})
	if err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
}

// TestUnreadable: what may not be read is said, and what is below is neither there nor gone.
func TestUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		// Root reads all: a folder that is deeper than is walked stands for one that may not be read.
		tr := newTree(t)
		deep := strings.Repeat("/x", maxDepth+2)
		must(t, os.MkdirAll(tr.dir+deep, 0o755))
		made, err := tr.store.Create(context.Background(), Header{Roots: []string{tr.dir}}, Look{}, false)
		must(t, err)
		if len(made.Problems) != 1 || made.Entries != maxDepth+1 {
			t.Errorf("%d entries, %v", made.Entries, made.Problems)
		}
		if r := tr.check(true); len(r.Changes) != 0 || len(r.Problems) != 1 {
			t.Errorf("%v, %v", tr.lines(r.Changes), r.Problems)
		}
		return
	}
	tr := newTree(t)
	tr.write("d/f", "x")
	tr.write("g", "x")
	tr.baseline()
	must(t, os.Chmod(tr.path("d"), 0), os.Chmod(tr.path("g"), 0))
	defer os.Chmod(tr.path("d"), 0o755)
	r := tr.check(true)
	if got := tr.lines(r.Changes); !slices.Equal(got, []string{"changed d: mode", "changed g: mode, ctime"}) || len(r.Problems) != 2 {
		t.Errorf("%q, %v", got, r.Problems)
	}
}

// naive is what is at each path below dir, by other means than those that are tested.
func naive(t testing.TB, dir string) map[string]string {
	out := map[string]string{}
	must(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(p)
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		s := fmt.Sprintf("%v", info.Mode())
		if !info.IsDir() {
			s += fmt.Sprintf(" %d %d %d %d", st.Nlink, st.Mtim.Nano(), st.Ctim.Nano(), st.Ino)
		}
		switch {
		case info.Mode().IsRegular():
			raw, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			s += fmt.Sprintf(" %q", raw)
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			s += " " + to
		case info.IsDir():
			s += fmt.Sprintf(" %d", st.Ino)
		}
		out[p] = s
		return nil
	}))
	return out
}

// operate does one random thing to a tree. That it may fail, as a name is there already, is part of it.
func operate(t testing.TB, rng *rand.Rand, dir string) {
	name := func() string {
		p := dir
		for range 1 + rng.IntN(3) {
			p += "/" + []string{"a", "b", "a-b", "a.b", "c"}[rng.IntN(5)]
		}
		return p
	}
	p, q := name(), name()
	text := []byte(strings.Repeat("x", rng.IntN(3)) + string(rune('a'+rng.IntN(3))))
	switch rng.IntN(13) {
	case 0, 1:
		os.MkdirAll(p, 0o755)
	case 2, 3, 4:
		os.MkdirAll(filepath.Dir(p), 0o755)
		if i, err := os.Lstat(p); err != nil || i.Mode().IsRegular() { // a FIFO would wait for who reads it
			os.WriteFile(p, text, 0o644)
		}
	case 5:
		if _, err := os.Lstat(p); err == nil { // else it may open a FIFO on the way, and wait
			os.RemoveAll(p)
		}
	case 6:
		os.Rename(p, q)
	case 7:
		if i, err := os.Lstat(p); err == nil && i.Mode()&fs.ModeSymlink == 0 {
			os.Chmod(p, []fs.FileMode{0o755, 0o700, 0o644 | fs.ModeSetuid}[rng.IntN(3)])
		}
	case 8:
		os.Remove(p)
		os.Symlink(q, p)
	case 9:
		os.Link(p, q)
	case 10:
		os.Remove(p)
		syscall.Mkfifo(p, 0o644)
	case 11: // same size, times restored
		if i, err := os.Lstat(p); err == nil && i.Mode().IsRegular() && i.Size() > 0 {
			if f, err := os.OpenFile(p, os.O_WRONLY, 0); err == nil {
				f.WriteAt([]byte{byte('a' + rng.IntN(3))}, 0)
				must(t, f.Close(), os.Chtimes(p, i.ModTime(), i.ModTime()))
			}
		}
	case 12:
		os.Rename(p, q)
		os.Rename(q, name())
	}
}

// TestRandom: after random operations the changes are those that a naive model finds, path by path, with times as proof and without.
func TestRandom(t *testing.T) {
	for seed := range uint64(25) {
		rng := rand.New(rand.NewPCG(seed, 8))
		tr := newTree(t)
		for range 30 {
			operate(t, rng, tr.dir)
		}
		tr.baseline()
		for range 4 {
			tr.settle()
			before := naive(t, tr.dir)
			for range rng.IntN(12) {
				operate(t, rng, tr.dir)
			}
			after := naive(t, tr.dir)
			want := map[string]string{}
			for p, s := range before {
				if now, ok := after[p]; !ok {
					want[p] = "removed"
				} else if now != s {
					want[p] = "changed"
				}
			}
			for p := range after {
				if _, ok := before[p]; !ok {
					want[p] = "added"
				}
			}
			b := tr.open()
			var r *Report
			for _, full := range []bool{false, true} {
				var err error
				r, err = b.Check(context.Background(), Look{Full: full})
				must(t, err)
				got := map[string]string{}
				for _, c := range r.Changes {
					what := string(c.What)
					if c.What == Renamed {
						if got[c.From] != "" {
							t.Errorf("seed %d: %s is told twice", seed, c.From)
						}
						got[c.From], what = "removed", "added"
					}
					if got[c.Path] != "" {
						t.Errorf("seed %d: %s is told twice", seed, c.Path)
					}
					got[c.Path] = what
				}
				if fmt.Sprint(got) != fmt.Sprint(want) || len(r.Problems) > 0 {
					t.Fatalf("seed %d, full %v:\n got %v\nwant %v\nproblems %v", seed, full, got, want, r.Problems)
				}
			}
			if len(r.Changes) > 0 {
				_, err := tr.store.Approve(context.Background(), b, r.Changes)
				must(t, err)
				tr.expect(true)
			}
		}
	}
}
