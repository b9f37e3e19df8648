package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
)

// publisher is what the goroutine that writes tiles owns, but for fault.
type publisher struct {
	edge  edge
	size  uint64 // of the tree that the checkpoint file has
	todo  *edition
	dirs  map[string]bool // folders whose names are durable
	last  time.Time       // when it was last done or tried
	fault error           // under Log.mu: why tiles cannot be written
	quiet bool            // that the anchor cannot be written was said
}

// edition is what makes a checkpoint true: files first, then the checkpoint. One that could not be written is written again.
type edition struct {
	files   []file
	note    []byte
	size    uint64
	bytes   int64 // of the records it is made of
	seg     uint64
	partial []string // folders of partial tiles that are complete now
}

// publish runs until the committer has ended and all is published that can be.
func (l *Log) publish() {
	defer close(l.done)
	p := &l.publisher
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		next := time.Hour
		l.mu.Lock()
		waiting := len(l.pending) > 0
		much := l.stats.Size-p.size >= publishEntries || l.pendingN >= l.o.PendingBytes/2
		fault := p.fault
		l.mu.Unlock()
		if waiting || p.todo != nil {
			every := l.o.PublishEvery
			if fault != nil {
				every = max(every, l.o.RetryEvery)
			}
			next = every - time.Since(p.last)
			if much && fault == nil {
				next = 0
			}
		}
		if next > 0 {
			timer.Reset(next)
			select {
			case <-l.more:
				continue // perhaps it is enough now
			case <-timer.C:
			case <-l.ended:
				l.publishRest()
				return
			}
		}
		l.publishOnce()
	}
}

// publishRest publishes all there is, or fails once.
func (l *Log) publishRest() {
	for l.publishOnce() {
	}
	if l.faultOfTiles() == nil {
		l.removeSegments(never)
	}
}

func (l *Log) faultOfTiles() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.publisher.fault
}

// publishOnce publishes some of what is committed. It is false if there was nothing, or it failed.
func (l *Log) publishOnce() bool {
	p := &l.publisher
	p.last = time.Now()
	if p.todo == nil {
		l.mu.Lock()
		var take []committed
		var n int
		for i := range l.pending {
			if n += l.pending[i].count; n > 4*publishEntries && i > 0 {
				break
			}
			take = l.pending[:i+1]
		}
		l.pending = l.pending[len(take):]
		l.mu.Unlock()
		if len(take) == 0 {
			return false
		}
		p.todo = p.edition(take)
	}
	err := l.writeEdition(p.todo)
	l.mu.Lock()
	was := p.fault
	p.fault = err
	if err != nil {
		l.stats.PublishFailures++
	} else {
		l.pendingN -= p.todo.bytes
		l.stats.Publishes++
		l.stats.Published, l.stats.Checkpoint = p.todo.size, l.o.Now()
	}
	close(l.taken)
	l.taken = make(chan struct{})
	l.mu.Unlock()
	switch {
	case err != nil && was == nil:
		l.o.Logger.Error("the tiles of the audit log cannot be written; what was recorded is in its files of records until they can", "dir", l.o.Dir, "err", err)
	case err == nil && was != nil:
		l.o.Logger.Info("the tiles of the audit log can be written again", "dir", l.o.Dir)
	}
	if err != nil {
		return false
	}
	done := p.todo
	p.size, p.todo = done.size, nil
	l.writeAnchor(done.note)
	for _, dir := range done.partial {
		l.tidy(vfs.RemoveAll(l.fs, filepath.Join(l.o.Dir, filepath.FromSlash(dir))))
	}
	l.removeSegments(done.seg)
	return true
}

// tidy says that what is not needed any more could not be removed, which harms nothing.
func (l *Log) tidy(err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.o.Logger.Warn("a file of the audit log that is not needed any more was not removed", "err", err)
	}
}

// edition adds committed records to the edge.
func (p *publisher) edition(take []committed) *edition {
	e := &edition{}
	for i := range take {
		r := &take[i]
		entries, err := splitBundle(r.entries, r.count)
		if err != nil {
			panic(err) // we have joined them
		}
		for _, entry := range entries {
			e.files = append(e.files, p.edge.add(entry)...)
		}
		e.note, e.seg = r.note, r.seg
		e.bytes += int64(len(r.entries))
	}
	e.size = p.edge.size
	for _, f := range e.files {
		e.partial = append(e.partial, f.path+".p")
	}
	e.files = append(e.files, p.edge.partial(p.size)...)
	return e
}

// writeEdition writes files, makes them and their names durable, and then the checkpoint.
func (l *Log) writeEdition(e *edition) error {
	var dirs []string
	for _, f := range e.files {
		dir := path.Dir(f.path)
		if err := l.makeDir(dir); err != nil {
			return err
		}
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	var wg sync.WaitGroup
	errs := make([]error, min(l.o.Writers, len(e.files)))
	for w := range errs {
		wg.Go(func() {
			for i := w; i < len(e.files) && errs[w] == nil; i += len(errs) {
				errs[w] = writeFile(l.fs, filepath.Join(l.o.Dir, filepath.FromSlash(e.files[i].path)), e.files[i].data)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := l.fs.SyncDir(filepath.Join(l.o.Dir, filepath.FromSlash(dir))); err != nil {
			return err
		}
	}
	return replaceFile(l.fs, filepath.Join(l.o.Dir, checkpointFile), e.note)
}

// makeDir makes a folder of tiles, and its name durable.
func (l *Log) makeDir(dir string) error {
	p := &l.publisher
	if dir == "." || p.dirs[dir] {
		return nil
	}
	if err := l.fs.MkdirAll(filepath.Join(l.o.Dir, filepath.FromSlash(dir))); err != nil {
		return err
	}
	if err := l.makeDir(path.Dir(dir)); err != nil {
		return err
	}
	if err := l.fs.SyncDir(filepath.Join(l.o.Dir, filepath.FromSlash(path.Dir(dir)))); err != nil {
		return err
	}
	p.dirs[dir] = true
	return nil
}

// writeFile makes a file, durably but for its name. One that is there is what an attempt that failed has left.
func writeFile(f vfs.FS, name string, b []byte) error {
	w, err := f.Create(name)
	if errors.Is(err, fs.ErrExist) {
		if err = f.Remove(name); err == nil {
			w, err = f.Create(name)
		}
	}
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	if err == nil {
		err = w.Sync()
	}
	return errors.Join(err, w.Close())
}

// replaceFile makes name have b, durably: it has what it had, or all of b.
func replaceFile(f vfs.FS, name string, b []byte) error {
	tmp := name + ".tmp"
	if err := writeFile(f, tmp, b); err != nil {
		return err
	}
	if err := f.Rename(tmp, name); err != nil {
		return err
	}
	return f.SyncDir(filepath.Dir(name))
}

// writeAnchor keeps a checkpoint outside of the log's folder. That it cannot is said, and stops nothing: the log is whole without it.
func (l *Log) writeAnchor(note []byte) {
	if l.o.Anchor == "" {
		return
	}
	err := replaceFile(l.fs, l.o.Anchor, note)
	if err != nil {
		l.mu.Lock()
		l.stats.AnchorFailures++
		l.mu.Unlock()
		if !l.publisher.quiet {
			l.o.Logger.Error("the last checkpoint of the audit log could not be kept beside its key: a log that is cut back would not be found out", "file", l.o.Anchor, "err", err)
		}
	}
	l.publisher.quiet = err != nil
}

// removeSegments removes the files of records ahead of number before. The folder is not synced: one that comes back is passed over.
func (l *Log) removeSegments(before uint64) {
	segs, err := segments(l.fs, l.o.Dir)
	l.tidy(err)
	for _, n := range segs {
		if n < before {
			l.tidy(l.fs.Remove(segmentPath(l.o.Dir, n)))
		}
	}
}

// String is for errors.
func (c Checkpoint) String() string { return fmt.Sprintf("%s %d %s", c.Origin, c.Size, c.Root) }
