package zerotrust

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
)

// The files of records: what docs/format/trust.md draws.
const (
	fileMagic    = "QLTR"
	fileVersion  = 1
	kindLog      = 1
	kindSnapshot = 2
	headerSize   = 4 + 1 + 1 + 2 + 8 + 8 + 4

	frameMagic = "QLTF"
	frameHead  = 4 + 4 + 4 // magic, length, checksum
	maxFrame   = 4 << 20   // bytes of a frame's body
	// maxEntry is the longest entry: see appendEntry.
	maxEntry = 8 + 1 + 1 + maxPrincipal + 8 + 8 + 8 + 4 + 4*4 + baselineSize
	// maxKept bounds a file that is read: what is far more than MaxRecords would need is not ours.
	maxKept = 1 << 30

	baselineSize = 4 + 4 + 1 + 6*measures*4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type header struct {
	kind   byte
	number uint64
	// before is, of a log, how many bytes of the log before it count; of a snapshot, how many records it has.
	before uint64
}

func appendHeader(b []byte, h header) []byte {
	at := len(b)
	b = append(b, fileMagic...)
	b = append(b, fileVersion, h.kind, 0, 0)
	b = binary.BigEndian.AppendUint64(b, h.number)
	b = binary.BigEndian.AppendUint64(b, h.before)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
}

func decodeHeader(b []byte) (h header, err error) {
	if len(b) < headerSize || string(b[:4]) != fileMagic || binary.BigEndian.Uint32(b[headerSize-4:]) != crc32.Checksum(b[:headerSize-4], castagnoli) {
		return h, errors.New("its header is damaged")
	}
	if b[4] != fileVersion || b[6] != 0 || b[7] != 0 {
		return h, fmt.Errorf("it has version %d; this program understands %d", b[4], fileVersion)
	}
	return header{b[5], binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])}, nil
}

// entry is a record as it was, or that it was put out.
type entry struct {
	seq     uint64
	removed bool
	state   Record // of one that was removed the principal only
}

// appendFrame appends a frame of as many entries as it takes, and is how many. floor is the latest time seen, in Unix seconds.
func appendFrame(b []byte, entries []entry, floor int64) ([]byte, int) {
	at := len(b)
	b = append(b, frameMagic...)
	b = append(b, make([]byte, 8)...)
	b = binary.BigEndian.AppendUint64(b, uint64(floor))
	n := 0
	for n < len(entries) && len(b)-at-frameHead+maxEntry <= maxFrame {
		b = appendEntry(b, &entries[n])
		n++
	}
	body := b[at+frameHead:]
	binary.BigEndian.PutUint32(b[at+4:], uint32(len(body)))
	binary.BigEndian.PutUint32(b[at+8:], frameSum(b[at+4:at+8], body))
	return b, n
}

func frameSum(length, body []byte) uint32 {
	return crc32.Update(crc32.Checksum(length, castagnoli), castagnoli, body)
}

const (
	flagRemoved = 1 << iota
	flagVouched
)

func appendEntry(b []byte, e *entry) []byte {
	s := &e.state
	var flags byte
	if e.removed {
		flags |= flagRemoved
	}
	if s.Vouched && !e.removed {
		flags |= flagVouched
	}
	b = binary.BigEndian.AppendUint64(b, e.seq)
	b = append(b, flags, byte(len(s.Principal)))
	b = append(b, s.Principal...)
	if e.removed {
		return b
	}
	for _, t := range []time.Time{s.First, s.Last, s.Counted} {
		var unix int64 // the zero time is 0
		if !t.IsZero() {
			unix = t.Unix()
		}
		b = binary.BigEndian.AppendUint64(b, uint64(unix))
	}
	b = append(b, byte(s.Merit), byte(s.Penalty), byte(s.History), byte(s.Age))
	for _, n := range []uint32{s.Connections, s.Failures, s.Passed, s.Failed} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	bl := &s.Baseline
	b = binary.BigEndian.AppendUint32(b, bl.N)
	b = binary.BigEndian.AppendUint32(b, bl.Reanchored)
	b = append(b, bl.Learnt)
	for _, column := range bl.columns() {
		for _, v := range column {
			b = binary.BigEndian.AppendUint32(b, math.Float32bits(v))
		}
	}
	return b
}

func (b *Baseline) columns() [6]*[measures]float32 {
	return [...]*[measures]float32{&b.Mean, &b.Var, &b.Anchor, &b.Spread, &b.Up, &b.Down}
}

// decodeEntry reads one entry, and is what is behind it.
func decodeEntry(b []byte) (e entry, rest []byte, err error) {
	bad := func(why string) (entry, []byte, error) { return e, nil, errors.New("an entry " + why) }
	if len(b) < 10 || len(b) < 10+int(b[9]) {
		return bad("is cut off")
	}
	e.seq = binary.BigEndian.Uint64(b)
	flags := b[8]
	s := &e.state
	s.Principal, b = string(b[10:10+int(b[9])]), b[10+int(b[9]):]
	e.removed, s.Vouched = flags&flagRemoved != 0, flags&flagVouched != 0
	if flags&^(flagRemoved|flagVouched) != 0 || e.removed && s.Vouched || !principalOK(s.Principal) {
		return bad("has flags or a principal that cannot be")
	}
	if e.removed {
		return e, b, nil
	}
	const fixed = 3*8 + 4 + 4*4 + baselineSize
	if len(b) < fixed {
		return bad("is cut off")
	}
	for _, t := range []*time.Time{&s.First, &s.Last, &s.Counted} {
		unix := binary.BigEndian.Uint64(b)
		if unix > 1<<40 {
			return bad("has a time out of range")
		}
		if b = b[8:]; unix > 0 {
			*t = time.Unix(int64(unix), 0).UTC()
		}
	}
	s.Merit, s.Penalty, s.History, s.Age = int(b[0]), int(b[1]), int(b[2]), int(b[3])
	if s.Merit > maxTrust || s.Penalty > maxPenalty || s.History > maxHistory || s.Age > maxAge {
		return bad("has a trust that cannot be")
	}
	b = b[4:]
	for _, n := range []*uint32{&s.Connections, &s.Failures, &s.Passed, &s.Failed, &s.Baseline.N, &s.Baseline.Reanchored} {
		*n, b = binary.BigEndian.Uint32(b), b[4:]
	}
	if s.Baseline.Learnt, b = b[0], b[1:]; s.Baseline.Learnt > anchorAfter {
		return bad("has an anchor that cannot be")
	}
	for _, column := range s.Baseline.columns() {
		for i := range column {
			v := math.Float32frombits(binary.BigEndian.Uint32(b))
			if b = b[4:]; !(math.Abs(float64(v)) <= math.MaxFloat32) {
				return bad("has a number that is none")
			}
			column[i] = v
		}
	}
	return e, b, nil
}

// decodeFrame reads the frame at the start of b. ok is false where there is none that is whole.
func decodeFrame(b []byte) (body []byte, size int, ok bool) {
	if len(b) < frameHead+8 || string(b[:4]) != frameMagic {
		return nil, 0, false
	}
	n := binary.BigEndian.Uint32(b[4:])
	if n < 8 || n > maxFrame || int(n) > len(b)-frameHead {
		return nil, 0, false
	}
	body = b[frameHead : frameHead+int(n)]
	return body, frameHead + int(n), binary.BigEndian.Uint32(b[8:]) == frameSum(b[4:8], body)
}

// decodeFile reads a log or a snapshot: its header, what its frames say, and how many of its bytes are good. What is behind those is torn;
// that a good frame is there says that it is damage instead.
func decodeFile(b []byte, take func(e entry, floor int64)) (h header, good int64, err error) {
	if h, err = decodeHeader(b); err != nil {
		return h, 0, err
	}
	at := headerSize
	for {
		body, size, ok := decodeFrame(b[at:])
		if !ok {
			break
		}
		floor := int64(binary.BigEndian.Uint64(body))
		if floor < 0 || floor > 1<<40 {
			return h, int64(at), fmt.Errorf("the frame at byte %d has a time out of range", at)
		}
		take(entry{}, floor)
		for rest := body[8:]; len(rest) > 0; {
			var e entry
			if e, rest, err = decodeEntry(rest); err != nil {
				return h, int64(at), fmt.Errorf("the frame at byte %d: %w", at, err)
			}
			take(e, floor)
		}
		at += size
	}
	for i := at + 1; i < len(b); i++ {
		skip := bytes.Index(b[i:], []byte(frameMagic))
		if skip < 0 {
			break
		}
		i += skip
		if _, _, ok := decodeFrame(b[i:]); ok {
			return h, int64(at), fmt.Errorf("what is at byte %d is damaged: behind it, at byte %d, it goes on", at, i)
		}
	}
	return h, int64(at), nil
}

// kept is what a folder of records holds.
type kept struct {
	entries       map[string]entry // the newest of each principal
	floor         int64
	number        uint64 // of the newest log, or snapshot
	good          int64  // bytes of the newest log that count
	snapshotBytes int64
	logBytes      int64
	torn          int64    // bytes at the end of the newest log that were never acknowledged
	files         []string // that count
	leftovers     []string // of a crash: to be removed
}

func (k *kept) take(e entry, floor int64) {
	k.floor = max(k.floor, floor)
	if e.seq == 0 {
		return
	}
	if have, ok := k.entries[e.state.Principal]; !ok || e.seq > have.seq {
		k.entries[e.state.Principal] = e
	}
}

// fill puts what was kept into a table. One that has grown smaller by its options holds all the same.
func (k *kept) fill(t *records) {
	now := t.now()
	var seq uint64
	for _, e := range k.entries {
		seq = max(seq, e.seq)
		if e.removed {
			continue
		}
		r := makeRecord(e.state)
		r.seq = e.seq
		r.publish(now)
		t.shard(r.principal).all[r.principal] = r
	}
	t.seq.Store(seq)
	for i := range t.shards {
		t.most = max(t.most, len(t.shards[i].all))
	}
}

// readDir reads a folder of records, and changes nothing. Damage is [ErrCorrupt], and names the file.
func readDir(f vfs.FS, dir string) (*kept, error) {
	k := &kept{entries: map[string]entry{}}
	names, err := f.List(dir)
	if err != nil {
		return nil, fmt.Errorf("zerotrust: %w", err)
	}
	corrupt := func(name, format string, args ...any) error {
		return fmt.Errorf("%w: %s: %s; move the folder's trust-* files away and all records begin anew, or put a copy of them back",
			ErrCorrupt, filepath.Join(dir, name), fmt.Sprintf(format, args...))
	}
	logs, snapshots := map[uint64]bool{}, map[uint64]bool{}
	for _, name := range names {
		switch n, kind, ok := parseName(name); {
		case name == tempName || strings.HasSuffix(name, revokedTemp):
			k.leftovers = append(k.leftovers, name)
		case ok && kind == kindLog:
			logs[n] = true
		case ok:
			snapshots[n] = true
		}
	}
	var from uint64
	for n := range snapshots {
		from = max(from, n)
	}
	for n := range snapshots {
		if n < from {
			k.leftovers = append(k.leftovers, snapshotName(n))
		}
	}
	if from > 0 {
		if err := k.readSnapshot(f, dir, from); err != nil {
			return nil, corrupt(snapshotName(from), "%v", err)
		}
		k.number = from
	}
	order := slices.Sorted(maps.Keys(logs))
	for i, n := range order {
		if n < from {
			k.leftovers = append(k.leftovers, logName(n))
			continue
		}
		if i > 0 && order[i-1] >= from && order[i-1] != n-1 || from > 0 && !logs[from] || from == 0 && i == 0 && n != 1 {
			return nil, corrupt(logName(n), "the log before it is missing")
		}
		if err := k.readLog(f, dir, n, i == len(order)-1); err != nil {
			return nil, corrupt(logName(n), "%v", err)
		}
	}
	if from > 0 && len(order) == 0 {
		return nil, corrupt(logName(from), "it is missing: the snapshot was begun with it")
	}
	slices.Sort(k.leftovers)
	return k, nil
}

func readFile(f vfs.FS, name string, most int64) ([]byte, error) {
	r, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("it is longer than %d bytes", most)
	}
	return b, err
}

func (k *kept) readSnapshot(f vfs.FS, dir string, n uint64) error {
	b, err := readFile(f, filepath.Join(dir, snapshotName(n)), maxKept)
	if err != nil {
		return err
	}
	count := uint64(0)
	h, good, err := decodeFile(b, func(e entry, floor int64) {
		if e.seq > 0 {
			count++
		}
		k.take(e, floor)
	})
	switch {
	case err != nil:
		return err
	case h.kind != kindSnapshot || h.number != n:
		return errors.New("its header is that of another file")
	case good != int64(len(b)):
		return fmt.Errorf("what is at byte %d is damaged", good)
	case count != h.before:
		return fmt.Errorf("it has %d records, its header says %d", count, h.before)
	}
	k.snapshotBytes = good
	k.files = append(k.files, snapshotName(n))
	return nil
}

func (k *kept) readLog(f vfs.FS, dir string, n uint64, last bool) error {
	b, err := readFile(f, filepath.Join(dir, logName(n)), maxKept)
	if err != nil {
		return err
	}
	if _, err := decodeHeader(b); err != nil && last && len(b) <= headerSize {
		k.leftovers = append(k.leftovers, logName(n)) // it was being made, and nothing was written to it
		return nil
	}
	var entries []entry
	var floor int64
	h, good, err := decodeFile(b, func(e entry, at int64) { entries, floor = append(entries, e), max(floor, at) })
	if err != nil {
		return err
	}
	if h.kind != kindLog || h.number != n {
		return errors.New("its header is that of another file")
	}
	k.torn = int64(len(b)) - good
	for _, e := range entries {
		k.take(e, floor)
	}
	if before := int64(h.before); k.good > 0 && before > k.good {
		return fmt.Errorf("the log before it has %d bytes that are good, and had %d", k.good, before)
	}
	k.number, k.good = n, good
	k.logBytes += good
	k.files = append(k.files, logName(n))
	return nil
}

// FsckReport is what [Fsck] found.
type FsckReport struct {
	Records     int
	Files       []string // that were read
	Torn        int64    // bytes of a write that a crash cut short: they were never acknowledged
	Leftovers   []string // files of a crash that the next start removes
	Revocations int      // lists of revocations
}

// Fsck reads all that a guard keeps in a folder, and changes nothing. Damage is [ErrCorrupt].
func Fsck(f vfs.FS, dir string) (FsckReport, error) {
	k, err := readDir(f, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return FsckReport{}, fmt.Errorf("zerotrust: %s: there is no such folder: %w", dir, err)
	} else if err != nil {
		return FsckReport{}, err
	}
	r := FsckReport{Files: k.files, Torn: k.torn, Leftovers: k.leftovers}
	for _, e := range k.entries {
		if !e.removed {
			r.Records++
		}
	}
	lists, err := readRevocations(f, dir)
	r.Revocations = len(lists)
	return r, err
}
