package audit

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/quantra-l/quantra/internal/vfs"
)

// Open opens a log, which is made if there is none. It reads the end of it and what a crash left in its files of records, and holds that
// to the checkpoint and the anchor; all of it is read by [Verify] only. A log that is [ErrBroken], or has another key ([ErrKey]), is not
// opened.
func Open(o Options) (*Log, error) {
	o, err := o.check()
	if err != nil {
		return nil, err
	}
	l := &Log{
		o: o, fs: o.FS, q: newQueue(o.QueueEntries),
		wake: make(chan struct{}, 1), closing: make(chan struct{}), ended: make(chan struct{}), done: make(chan struct{}),
		tried: make(chan struct{}), room: make(chan struct{}), taken: make(chan struct{}), more: make(chan struct{}, 1),
	}
	l.publisher.dirs, l.publisher.last = map[string]bool{}, time.Now()
	l.want.Store(1)
	if err := l.load(); err != nil {
		if l.lock != nil {
			err = errors.Join(err, l.lock.Close())
		}
		return nil, fmt.Errorf("audit: %s: %w", o.Dir, err)
	}
	go l.commit()
	go l.publish()
	return l, nil
}

// load finds the log as it was left, and brings what is only in records into tiles.
func (l *Log) load() (err error) {
	if err := l.fs.MkdirAll(l.o.Dir); err != nil {
		return err
	}
	if err := l.fs.SyncDir(filepath.Dir(l.o.Dir)); err != nil {
		return err
	}
	if l.lock, err = l.fs.Lock(filepath.Join(l.o.Dir, lockFile)); err != nil {
		return err
	}
	anchor, err := readAnchor(l.fs, l.o.Anchor)
	if err != nil {
		return err
	}
	keys, err := readKeys(l.fs, l.o.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = l.create(anchor)
		if err == nil {
			keys, err = readKeys(l.fs, l.o.Dir)
		}
		if err != nil {
			return err
		}
	case err != nil:
		return err
	}
	l.origin = keys[0].Name
	if err := l.chooseKey(keys); err != nil {
		return err
	}
	p := &l.publisher
	switch raw, err := readFile(l.fs, filepath.Join(l.o.Dir, checkpointFile), maxNote); {
	case errors.Is(err, fs.ErrNotExist):
		// A crash when the log was new: its key is there, and nothing else can be.
		if err := l.mustBeNew(anchor); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		c, _, err := openCheckpoint(raw, keys)
		if err != nil || c.Origin != l.origin {
			return fmt.Errorf("%w: %s: it is not signed by a key of this log: %w", ErrBroken, checkpointFile, errors.Join(err, errOrigin(c.Origin, l.origin)))
		}
		if p.edge, err = loadEdge(folder{l.fs, l.o.Dir}, c); err != nil {
			return err
		}
		p.size = c.Size
		if err := checkAnchor(folder{l.fs, l.o.Dir}, c, anchor, keys); err != nil {
			return err
		}
	}
	return l.recover(keys, anchor)
}

func errOrigin(is, want string) error {
	if is == want {
		return nil
	}
	return fmt.Errorf("it is of the log %s, this is %s", is, want)
}

// create makes the key of a log that is new.
func (l *Log) create(anchor []byte) error {
	if err := l.mustBeNew(anchor); err != nil {
		return err
	}
	name := l.o.Origin
	if name == "" {
		b := make([]byte, 8)
		rand.Read(b)
		name = "quantra/audit/" + hex.EncodeToString(b)
	}
	if err := checkName(name); err != nil {
		return err
	}
	if err := l.makeDir(keysDir); err != nil {
		return err
	}
	return replaceFile(l.fs, keyPath(l.o.Dir, 0), []byte(PublicKey{Name: name, Key: l.o.Key.Public()}.String()+"\n"))
}

// mustBeNew says that a log without keys or without a checkpoint is what is left of one.
func (l *Log) mustBeNew(anchor []byte) error {
	if anchor != nil {
		c, _ := parseCheckpoint(anchor)
		return fmt.Errorf("%w: the log that was here, %s, is gone or was begun anew: %s has a checkpoint of its %d entries; move that file away if a new log is to begin", ErrBroken, c.Origin, l.o.Anchor, c.Size)
	}
	segs, err := segments(l.fs, l.o.Dir)
	if err != nil {
		return err
	}
	if _, err := l.fs.Stat(filepath.Join(l.o.Dir, "tile")); err == nil || len(segs) > 0 {
		return fmt.Errorf("%w: its keys or its %s are missing, and its entries are there", ErrBroken, checkpointFile)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// chooseKey finds which key signs, and hands over to the next one if that is asked for.
func (l *Log) chooseKey(keys []PublicKey) error {
	last := keys[len(keys)-1]
	switch next := l.o.NextKey; {
	case next != nil && next.Public() == last.Key:
		l.signer = newSigner(l.origin, *next) // a crash came after that was written
		return nil
	case l.o.Key.Public() != last.Key:
		return fmt.Errorf("%w: it is signed by %s, the one given is %s", ErrKey, last, PublicKey{Name: l.origin, Key: l.o.Key.Public()})
	}
	l.signer = newSigner(l.origin, l.o.Key)
	return nil
}

// recover takes what is in records and in no tile, publishes it, and removes the records.
func (l *Log) recover(keys []PublicKey, anchor []byte) error {
	p := &l.publisher
	at := p.edge.frontier()
	seen, err := newMark(anchor, keys)
	if err != nil {
		return err
	}
	var take []committed
	err = replay(l.fs, l.o.Dir, p.size, func(r record) error {
		if err := addRecord(&at, r, keys, l.origin, seen.at); err != nil {
			return err
		}
		take = append(take, committed{record: r})
		return nil
	})
	if err != nil {
		return err
	}
	if err := seen.end(at.size); err != nil {
		return err
	}
	l.committer.tree = at
	segs, err := segments(l.fs, l.o.Dir)
	if err != nil {
		return err
	}
	if len(segs) > 0 {
		l.committer.segN = segs[len(segs)-1] + 1
	}
	e := p.edition(take)
	_, err = l.fs.Stat(filepath.Join(l.o.Dir, checkpointFile))
	switch {
	case len(take) == 0 && err == nil:
	case len(take) == 0:
		if e.note, err = (Checkpoint{l.origin, 0, at.root()}).sign(l.signer); err != nil {
			return err
		}
		fallthrough
	default:
		if err := l.writeEdition(e); err != nil {
			return err
		}
		p.size = e.size
		l.writeAnchor(e.note)
	}
	l.removeSegments(never)
	l.stats.Size, l.stats.Published, l.stats.Checkpoint = at.size, p.size, l.o.Now()
	return l.handOver(keys)
}

// handOver writes that NextKey signs from now on: signed by the key before, in the checkpoint, and as an entry.
func (l *Log) handOver(keys []PublicKey) error {
	last := keys[len(keys)-1]
	if l.o.NextKey == nil {
		return nil
	}
	next, signers := newSigner(l.origin, *l.o.NextKey), []note.Signer{l.signer}
	fresh := next.k != last
	if fresh {
		n, err := note.Sign(&note.Note{Text: handover(next.k, len(keys), l.committer.tree.size)}, l.signer)
		if err != nil {
			return err
		}
		if err := replaceFile(l.fs, keyPath(l.o.Dir, len(keys)), n); err != nil {
			return err
		}
		l.signer, signers = next, append(signers, next)
	}
	tree := &l.committer.tree
	n, err := Checkpoint{l.origin, tree.size, tree.root()}.sign(signers...)
	if err != nil {
		return err
	}
	if err := replaceFile(l.fs, filepath.Join(l.o.Dir, checkpointFile), n); err != nil {
		return err
	}
	l.writeAnchor(n)
	if fresh {
		_, err = l.offer(item{entry: l.own(own{Log: "key", Key: next.k.String(), Was: last.String()})})
	}
	return err
}

// addRecord adds a record to a tree and holds it to its checkpoint. each is told of every size on the way.
func addRecord(at *frontier, r record, keys []PublicKey, origin string, each func(size uint64, root func() tlog.Hash) error) error {
	entries, err := splitBundle(r.entries, r.count)
	if err != nil {
		return fmt.Errorf("%w: the record of entry %d: %w", ErrBroken, r.first, err)
	}
	for _, e := range entries {
		at.add(tlog.RecordHash(e))
		if err := each(at.size, at.root); err != nil {
			return err
		}
	}
	c, _, err := openCheckpoint(r.note, keys)
	if err != nil {
		return fmt.Errorf("%w: the record of entry %d: %w", ErrBroken, r.first, err)
	}
	if want := (Checkpoint{origin, at.size, at.root()}); c != want {
		return fmt.Errorf("%w: entries %d to %d were altered: their checkpoint is of other ones", ErrBroken, r.first, r.next()-1)
	}
	return nil
}

// mark holds the tree as it grows to a checkpoint that was made earlier.
type mark struct{ c *Checkpoint }

func newMark(raw []byte, keys []PublicKey) (*mark, error) {
	if raw == nil {
		return &mark{}, nil
	}
	c, _, err := openCheckpoint(raw, keys)
	if err != nil {
		return nil, fmt.Errorf("%w: a checkpoint that was kept is not signed by a key of this log: %w", ErrBroken, err)
	}
	return &mark{c: &c}, nil
}

func (m *mark) at(size uint64, root func() tlog.Hash) error {
	if m.c == nil || size != m.c.Size {
		return nil
	}
	if h := root(); h != m.c.Root {
		return fmt.Errorf("%w: its first %d entries are not those of the checkpoint that was kept: they were replaced (now %s, then %s)", ErrBroken, size, h, m.c.Root)
	}
	return nil
}

func (m *mark) end(size uint64) error {
	if m.c != nil && m.c.Size > size {
		return fmt.Errorf("%w: entries %d to %d are missing: a checkpoint that was kept has %d, the log %d", ErrBroken, size, m.c.Size-1, m.c.Size, size)
	}
	return nil
}

func readAnchor(f vfs.FS, name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	b, err := readFile(f, name, maxNote)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// checkAnchor holds a log to a checkpoint that was kept, if that is of a size that the tiles have.
func checkAnchor(d folder, c Checkpoint, anchor []byte, keys []PublicKey) error {
	m, err := newMark(anchor, keys)
	if err != nil || m.c == nil || m.c.Size > c.Size {
		return err
	}
	if err := errOrigin(m.c.Origin, c.Origin); err != nil {
		return fmt.Errorf("%w: the checkpoint that was kept: %w", ErrBroken, err)
	}
	root, err := d.rootAt(c, m.c.Size)
	if err != nil {
		return err
	}
	return m.at(m.c.Size, func() tlog.Hash { return root })
}
