package integrity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"time"
)

// tries is how often what changes while it is looked at is looked at again.
const tries = 3

// item is what a walk comes to, in the order of paths.
type item struct {
	e      *Entry
	in     *folder // it is open in until the visit returns; of a directory, itself where it could be opened
	name   string
	looked time.Time // before the stat
	// problem is what could not be told.
	problem error
	// blind says that what is below is not known: it is neither there nor gone.
	blind bool
}

// walker goes through trees in the order of paths.
type walker struct {
	h       *Header
	exclude patterns
	pace    *pacer
	// enter, which may be nil, is called with each directory before its names are read: a watch that is set in it misses nothing that the
	// names do not have.
	enter func(path string, d *folder)
	visit func(item) error
}

// start visits all that is at a path, which is within a root, and below. What a walk from the root would not come to is not there: below a link, a
// mount, or what is excluded.
func (w *walker) start(ctx context.Context, path string) error {
	root := w.h.root(path)
	if root == "" {
		return fmt.Errorf("%s is in none of the roots", path)
	}
	in, name, at, depth := nowhere(), root, root, 0
	defer func() { in.release() }()
	rest := strings.Trim(path[len(root):], "/")
	for rest != "" {
		if w.exclude.match(at) {
			return nil
		}
		e, err := in.stat(name)
		if err == nil && e.Type == Directory && depth > 0 && !w.h.CrossMounts && in.mounted(name, e) {
			return nil
		}
		var sub *folder
		if err == nil {
			sub, err = in.open(name)
		}
		switch {
		case absent(err):
			return nil
		case err != nil:
			return w.visit(item{e: &Entry{Path: path}, problem: fmt.Errorf("open %s: %w", printable(at), err), blind: true})
		}
		in.release()
		in = sub
		name, rest, _ = strings.Cut(rest, "/")
		at = join2(at, name)
		depth++
	}
	return w.tree(ctx, in, name, path, depth)
}

func join2(dir, name string) string {
	if strings.HasSuffix(dir, "/") {
		return dir + name
	}
	return dir + "/" + name
}

// absent says that err means: there is nothing, or no directory on the way to it.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP)
}

// tree visits what is at name in a folder, and below.
func (w *walker) tree(ctx context.Context, in *folder, name, path string, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if w.exclude.match(path) {
		return nil
	}
	if err := w.pace.wait(ctx, entryCost); err != nil {
		return err
	}
	var problem error
	for range tries {
		it := item{in: in, name: name, looked: time.Now()}
		e, err := in.stat(name)
		if absent(err) {
			return nil
		}
		if err != nil {
			return w.visit(item{e: &Entry{Path: path}, problem: err, blind: true})
		}
		e.Path, it.e = path, e
		if len(path) > maxPath {
			it.problem, it.blind = fmt.Errorf("its path has more than %d bytes", maxPath), true
			return w.visit(it)
		}
		if e.Type != Directory {
			return w.visit(it)
		}
		if depth > 0 && in.mounted(name, e) && !w.h.CrossMounts {
			e.Mount, it.in = true, nil
			return w.visit(it)
		}
		sub, err := in.open(name)
		switch {
		case absent(err) || errors.Is(err, errMoved):
			problem = errMoved
			continue // it was replaced in between
		case err != nil:
			e.Unread, it.problem, it.blind, it.in = true, err, true, nil
			return w.visit(it)
		}
		err = w.folder(ctx, sub, it, depth)
		sub.release()
		return err
	}
	return w.visit(item{e: &Entry{Path: path}, problem: problem, blind: true})
}

// folder visits an open directory and what is in it.
func (w *walker) folder(ctx context.Context, d *folder, it item, depth int) error {
	it.in, it.name = d, ""
	path := it.e.Path
	var names []string
	switch {
	case depth == maxDepth:
		it.problem, it.blind = fmt.Errorf("what is in it is more than %d folders deep", maxDepth), true
	default:
		if w.enter != nil {
			w.enter(path, d)
		}
		var err error
		if names, err = steady(d); errors.Is(err, errMoved) {
			it.problem = err // some of its names may have been missed
		} else if err != nil {
			it.problem, it.blind = err, true
		}
	}
	if err := w.visit(it); err != nil {
		return err
	}
	for _, n := range names {
		if n == "" || n == "." || n == ".." || strings.ContainsAny(n, "/\x00") { // a file system that is not to be trusted
			if err := w.visit(item{e: &Entry{Path: path}, problem: fmt.Errorf("it has something with the name %q, which is none", n)}); err != nil {
				return err
			}
			continue
		}
		if err := w.tree(ctx, d, n, join2(path, n), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// steady reads the names of a folder in which none came or went meanwhile, where it can. With errMoved the names are the last that were read.
func steady(d *folder) (names []string, err error) {
	before, err := d.state()
	if err != nil {
		return nil, err
	}
	for range tries {
		if names, err = d.names(); err != nil {
			return nil, err
		}
		after, err := d.state()
		if err != nil {
			return nil, err
		}
		if before == after {
			return names, nil
		}
		before = after
	}
	return names, errMoved
}
