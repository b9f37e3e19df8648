package main

import (
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// rereadEvery is how often a file is looked at for a change, at most: when what it says is asked for.
const rereadEvery = time.Second

// reread is what a file says that a flag of up names. It is read again when it has changed. One that is wrong then is said so in the log
// and by [reread.wrong], and what was read last stays: a slip of an editor must not leave findings unpriced, or people untold.
type reread[T any] struct {
	what string // "alert rules"
	path string // "" is no file: value stays as it is
	load func(path string) (T, error)
	log  *slog.Logger
	now  func() time.Time

	mu      sync.Mutex
	value   T
	checked time.Time
	seen    fileStamp
	fault   string
}

// fileStamp tells one state of a file from another.
type fileStamp struct {
	modified time.Time
	size     int64
	loose    bool // it was read so soon after it was written that another write may have the same time
}

// openReread reads the file for the first time, when what is wrong with it is an error. Without a path it is value.
func openReread[T any](what, path string, value T, load func(path string) (T, error), log *slog.Logger) (*reread[T], error) {
	r := &reread[T]{what: what, path: path, value: value, load: load, log: log, now: time.Now}
	if path == "" {
		return r, nil
	}
	r.checked = r.now()
	stamp, err := r.stamp()
	if err != nil {
		return nil, err
	}
	if r.value, err = load(path); err != nil {
		return nil, err
	}
	r.seen = stamp
	return r, nil
}

// get is what the file says now, or said when it was last right.
func (r *reread[T]) get() T {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.now(); r.path != "" && now.Sub(r.checked) >= rereadEvery {
		r.checked = now
		r.refresh()
	}
	return r.value
}

// wrong says what is wrong with the file as it is; "" is nothing.
func (r *reread[T]) wrong() string {
	r.get()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fault == "" {
		return ""
	}
	return fmt.Sprintf("the %s stay what they were: %s", r.what, r.fault)
}

// refresh reads the file anew if it has changed.
func (r *reread[T]) refresh() {
	stamp, err := r.stamp()
	same := err == nil && stamp.modified.Equal(r.seen.modified) && stamp.size == r.seen.size
	if same && !r.seen.loose {
		return
	}
	var value T
	if err == nil {
		value, err = r.load(r.path)
	}
	r.seen = stamp // of a file that is not there it is zero, so that any is another
	if err != nil {
		if err.Error() != r.fault { // once
			r.fault = err.Error()
			r.log.Warn("a file could not be read again: the "+r.what+" stay what they were", "err", err)
		}
		return
	}
	if r.fault != "" || !same {
		r.log.Info("the "+r.what+" were read again", "file", r.path)
	}
	r.value, r.fault = value, ""
}

// stamp is taken before the file is read: what is written meanwhile is seen as a change.
func (r *reread[T]) stamp() (fileStamp, error) {
	info, err := os.Stat(r.path)
	if err != nil {
		return fileStamp{}, pathError("read", r.path, err)
	}
	if !info.Mode().IsRegular() {
		return fileStamp{}, fmt.Errorf("%s is not a regular file", r.path)
	}
	const coarsest = 3 * time.Second // FAT has 2 s
	return fileStamp{info.ModTime(), info.Size(), r.now().Sub(info.ModTime()) < coarsest}, nil
}
