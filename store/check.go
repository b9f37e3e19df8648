package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store/block"
)

// Problem is something in a data folder that is not as it should be.
type Problem struct {
	Path string
	What string
	// Damage: bytes are not what was written, or are missing. Else it is a trace of a crash that the next start
	// deals with, or something that is not ours.
	Damage bool
	// Aside is what to move away so that a start does without it; "" if a start copes, and keeps what can be read.
	Aside string
}

// CheckDir reads the log and the staged blocks in a data folder, all of them, and tells what is wrong. It changes nothing and
// takes no lock: beside a server it sees what comes and goes as it is at that moment. progress, if not nil, hears of each
// file's bytes.
func CheckDir(ctx context.Context, fsys vfs.FS, dir string, progress func(bytes int64), see func(Problem)) error {
	c := checker{fs: fsys, dir: dir, see: see, progress: progress}
	if c.progress == nil {
		c.progress = func(int64) {}
	}
	staged, err := c.staged(ctx)
	if err != nil {
		return fmt.Errorf("store: check %s: %w", dir, err)
	}
	if err := c.log(ctx, staged); err != nil {
		return fmt.Errorf("store: check %s: %w", dir, err)
	}
	names, err := c.list(filepath.Join(dir, "damaged"))
	for _, name := range names {
		see(Problem{Path: filepath.Join(dir, "damaged", name), What: "a segment of the log that was damaged; what could be read of it has been kept"})
	}
	if err != nil {
		return fmt.Errorf("store: check %s: %w", dir, err)
	}
	return nil
}

type checker struct {
	fs       vfs.FS
	dir      string
	progress func(int64)
	see      func(Problem)
}

// list is the names in a folder, none if it is not there.
func (c *checker) list(dir string) ([]string, error) {
	names, err := c.fs.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return names, nil
}

// staged checks the blocks that wait to be handed over; their segments are not read at a start.
func (c *checker) staged(ctx context.Context) (map[uint64]bool, error) {
	flush := filepath.Join(c.dir, "flush")
	names, err := c.list(flush)
	if err != nil {
		return nil, err
	}
	found := map[uint64]bool{}
	for _, name := range names {
		path := filepath.Join(flush, name)
		seq, ok := segmentSeq(strings.TrimPrefix(name, stagedPrefix) + logSuffix)
		switch {
		case strings.HasSuffix(name, stagedTemp):
			continue // being written, or left by a crash: the next start removes it
		case !ok || !strings.HasPrefix(name, stagedPrefix):
			c.see(Problem{Path: path, What: "it is not of the staged blocks"})
			continue
		}
		found[seq] = true
		ids, err := c.list(path)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			if err := c.stagedBlock(ctx, path, id, seq); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

func (c *checker) stagedBlock(ctx context.Context, gen, id string, seq uint64) error {
	dir := filepath.Join(gen, id)
	err := verifyDir(ctx, c.fs, dir, c.progress)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
		return nil
	}
	if _, e := c.fs.Stat(dir); errors.Is(e, fs.ErrNotExist) {
		return nil // it has been taken over
	}
	p := Problem{Path: dir, What: err.Error(), Damage: true, Aside: dir}
	if _, e := c.fs.Stat(filepath.Join(c.dir, "log", segmentName(seq))); e == nil {
		// The log still has it all.
		p.Aside = gen
	}
	c.see(p)
	return nil
}

// verifyDir verifies a block in a folder.
func verifyDir(ctx context.Context, fsys vfs.FS, dir string, progress func(int64)) error {
	st, err := fsys.Stat(filepath.Join(dir, block.MetaFile))
	if err != nil {
		return err
	}
	src := block.DirSource(fsys, dir)
	raw, err := src(ctx, block.MetaFile, 0, st.Size)
	if err != nil {
		return err
	}
	m, err := block.ReadMeta(raw)
	if err != nil {
		return err
	}
	defer progress(m.Bytes())
	if name := filepath.Base(dir); m.ULID.String() != name {
		return fmt.Errorf("%w: %s says that it is block %s", block.ErrCorrupt, block.MetaFile, m.ULID)
	}
	return block.Verify(ctx, m, src)
}

// log checks the segments that the next start will read.
func (c *checker) log(ctx context.Context, staged map[uint64]bool) error {
	dir := filepath.Join(c.dir, "log")
	names, err := c.list(dir)
	if err != nil {
		return err
	}
	var last uint64
	for i, name := range names {
		path := filepath.Join(dir, name)
		seq, ok := segmentSeq(name)
		switch {
		case !ok:
			c.see(Problem{Path: path, What: "it is not of the log"})
			continue
		case last > 0 && seq != last+1:
			// Numbers are skipped where a segment could not be begun.
			c.see(Problem{Path: path, What: fmt.Sprintf("it comes after segment %d: what is between has been handed over, or was never written", last)})
		}
		last = seq
		if staged[seq] {
			continue
		}
		if err := c.segment(ctx, path, i == len(names)-1); err != nil {
			return err
		}
	}
	return nil
}

// segment reads a segment as a start would, and decodes every profile in it.
func (c *checker) segment(ctx context.Context, path string, last bool) error {
	st, err := c.fs.Stat(path)
	var data []byte
	if err == nil {
		data, err = (&DB{fs: c.fs}).readSegment(&segment{path: path, size: st.Size})
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has been handed over
	} else if err != nil {
		return fmt.Errorf("%w: read %s: %w", ErrUnavailable, path, err)
	}
	c.progress(st.Size)
	s, err := scanSegment(data)
	if err != nil {
		c.see(Problem{Path: path, What: err.Error(), Damage: true})
		return nil
	}
	if s.header != nil && len(data) <= logHeaderLen {
		c.see(Problem{Path: path, What: "it was being made when the last run ended; nothing was in it, and the next start removes it"})
		return nil
	}
	damage := func(format string, args ...any) {
		c.see(Problem{Path: path, What: fmt.Sprintf(format, args...) + "; a start keeps the rest, and sets the file aside in the folder damaged", Damage: true})
	}
	if s.header != nil {
		damage("the header is damaged: %v", s.header)
	}
	for _, g := range s.gaps {
		damage("%d bytes at %d are damaged", g.len, g.off)
	}
	for i, body := range s.bodies {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, _, err := decodeRecord(body, profile.Limits{}); err != nil {
			damage("record %d cannot be read: %v", i, err)
		}
	}
	switch tail := len(data) - s.good; {
	case tail <= 0:
	case last && s.header == nil:
		c.see(Problem{Path: path, What: fmt.Sprintf("the %d bytes at its end are of a write under way, or of one that never finished; a start cuts them off, nothing acknowledged is in them", tail)})
	default:
		damage("%d bytes at its end, at %d, are damaged", tail, s.good)
	}
	return nil
}
