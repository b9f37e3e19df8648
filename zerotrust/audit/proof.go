package audit

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// Proof is that an entry is in a log: C2SP tlog-proof, with the entry as its extra data.
type Proof struct {
	Index Index
	Entry []byte
	Path  []tlog.Hash // from the entry's sibling to the root's child
	Note  []byte      // the checkpoint, with its signatures
}

const (
	proofMagic = "c2sp.org/tlog-proof@v1"
	// maxProof bounds the text: an entry in base64, 63 hashes, a checkpoint.
	maxProof = (MaxEntry+2)/3*4 + 63*45 + maxNote + 1024
)

// ErrProof says that a proof does not hold, or is none.
var ErrProof = errors.New("it is no proof")

// ErrPending says that an entry is durable and in no published checkpoint yet: it will be, in a moment.
var ErrPending = errors.New("the entry is not in a published checkpoint yet")

// Prove makes the proof of an entry under the published checkpoint.
func (v *View) Prove(at Index) (*Proof, error) {
	switch {
	case at < 0 || at >= v.Size():
		return nil, fmt.Errorf("audit: %s: there is no entry %d: it has %d", v.d.dir, at, v.Size())
	case uint64(at) >= v.c.Size:
		return nil, fmt.Errorf("audit: %s: entry %d: %w", v.d.dir, at, ErrPending)
	}
	n := uint64(at) / tileWidth
	entries, err := v.bundle(n)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("audit: %s: entry %d was pruned: %w", v.d.dir, at, err)
	} else if err != nil {
		return nil, fmt.Errorf("audit: %s: %w", v.d.dir, err)
	}
	path, err := tlog.ProveRecord(int64(v.c.Size), int64(at), v.d.reader(v.c))
	if err != nil {
		return nil, fmt.Errorf("audit: %s: %w", v.d.dir, broken(err))
	}
	return &Proof{at, entries[uint64(at)%tileWidth], path, v.note}, nil
}

// Encode is the text of a proof.
func (p *Proof) Encode() []byte {
	b := fmt.Appendf(nil, "%s\nextra %s\nindex %d\n", proofMagic, base64.StdEncoding.EncodeToString(p.Entry), p.Index)
	for _, h := range p.Path {
		b = fmt.Appendf(b, "%s\n", h)
	}
	return append(append(b, '\n'), p.Note...)
}

// ParseProof reads the text of a proof. It says nothing of whether it holds.
func ParseProof(b []byte) (*Proof, error) {
	bad := func(why string) (*Proof, error) { return nil, fmt.Errorf("audit: %w: %s", ErrProof, why) }
	if len(b) > maxProof {
		return bad(fmt.Sprintf("it has more than %d bytes", maxProof))
	}
	head, n, ok := bytes.Cut(b, []byte("\n\n"))
	if !ok {
		return bad("it has no checkpoint")
	}
	lines := strings.Split(string(head), "\n")
	if lines[0] != proofMagic || len(lines) < 3 {
		return bad("its first line is not " + proofMagic + ", or its index and entry are missing")
	}
	p := &Proof{Note: n}
	extra, ok := strings.CutPrefix(lines[1], "extra ")
	entry, err := base64.StdEncoding.Strict().DecodeString(extra)
	if !ok || err != nil || strings.ContainsRune(extra, '\r') || len(entry) > MaxEntry {
		return bad("its second line is not the entry")
	}
	p.Entry = entry
	index, ok := strings.CutPrefix(lines[2], "index ")
	at, err := strconv.ParseUint(index, 10, 62)
	if !ok || err != nil || strconv.FormatUint(at, 10) != index {
		return bad("its third line is not an index")
	}
	p.Index = Index(at)
	if len(lines) > 3+63 {
		return bad("it has more hashes than any tree needs")
	}
	for _, line := range lines[3:] {
		h, err := tlog.ParseHash(line)
		if err != nil || h.String() != line {
			return bad(fmt.Sprintf("%.60q is no hash", line))
		}
		p.Path = append(p.Path, h)
	}
	if _, err := parseCheckpoint(n); err != nil {
		return bad(err.Error())
	}
	return p, nil
}

// Check says whether the proof holds under the trust in some keys, and of which checkpoint. An error is [ErrProof].
func (p *Proof) Check(trust []PublicKey) (Checkpoint, error) {
	c, _, err := openCheckpoint(p.Note, trust)
	if err != nil {
		return c, fmt.Errorf("audit: %w: its checkpoint: %w", ErrProof, err)
	}
	if err := tlog.CheckRecord(p.Path, int64(c.Size), c.Root, int64(p.Index), tlog.RecordHash(p.Entry)); err != nil {
		return c, fmt.Errorf("audit: %w: entry %d is not in the tree of %d entries: %w", ErrProof, p.Index, c.Size, err)
	}
	return c, nil
}

// ProveSince is the proof that the published tree grew from the one of size entries (RFC 6962 section 2.1.2).
func (v *View) ProveSince(size uint64) ([]tlog.Hash, error) {
	p, err := tlog.ProveTree(int64(v.c.Size), int64(size), v.d.reader(v.c))
	return p, broken(err)
}
