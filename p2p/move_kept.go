package p2p

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/quantra-l/quantra/internal/vfs"
)

// The file of moves: JSON, docs/format/move.md.
const (
	movesFile    = "moves.json"
	maxKeptMoves = 512
	// maxMovesFile is more than so many have: JSON writes a byte of a name as six at most.
	maxMovesFile = 512 << 10
)

// keptMove is what a node must not forget of a move when it is started anew: that it has begun to give, or it would give the same again; and that the
// move was taken back, or who comes by it later would stay.
type keptMove struct {
	ID      string `json:"id"`
	Given   bool   `json:"given,omitempty"`
	Stopped bool   `json:"stopped,omitempty"`
}

// keptMoves are the newest of them, on disk. Whoever has them has the lock.
type keptMoves struct {
	fs   vfs.FS
	dir  string // "" is nowhere
	list []keptMove
}

func openKeptMoves(f vfs.FS, dir string) (*keptMoves, error) {
	k := &keptMoves{fs: f, dir: dir}
	if dir == "" {
		return k, nil
	}
	raw, err := readWhole(f, dir, movesFile, maxMovesFile)
	if raw == nil || err != nil {
		return k, err
	}
	if k.list, err = decodeKeptMoves(raw); err != nil {
		return nil, fmt.Errorf("%s: %w; without the file the node knows of no moves, and peers that were moved stay where they are", filepath.Join(dir, movesFile), err)
	}
	return k, nil
}

// decodeKeptMoves reads the file's bytes.
func decodeKeptMoves(raw []byte) ([]keptMove, error) {
	if len(raw) > maxMovesFile {
		return nil, fmt.Errorf("%w: it has more than %d bytes", ErrCorrupt, maxMovesFile)
	}
	var file struct {
		Moves []keptMove `json:"moves"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if len(file.Moves) > maxKeptMoves {
		return nil, fmt.Errorf("%w: it has %d moves, more than %d", ErrCorrupt, len(file.Moves), maxKeptMoves)
	}
	seen := map[string]bool{}
	for i, m := range file.Moves {
		if m.ID == "" || len(m.ID) > maxMoveID || seen[m.ID] {
			return nil, fmt.Errorf("%w: move %d has the name %.40q, which is none, or is there twice", ErrCorrupt, i, m.ID)
		}
		seen[m.ID] = true
	}
	return file.Moves, nil
}

// get is what is kept of a move.
func (k *keptMoves) get(id string) (m keptMove) {
	if i := slices.IndexFunc(k.list, func(m keptMove) bool { return m.ID == id }); i >= 0 {
		return k.list[i]
	}
	return m
}

// note adds to what is kept of a move, durably; the oldest are forgotten. Where it cannot be written nothing is added.
func (k *keptMoves) note(add keptMove) error {
	was := k.get(add.ID)
	add.Given, add.Stopped = add.Given || was.Given, add.Stopped || was.Stopped
	if add == was {
		return nil
	}
	old := k.list
	k.list = append(slices.DeleteFunc(slices.Clone(old), func(m keptMove) bool { return m.ID == add.ID }), add)
	k.list = k.list[max(0, len(k.list)-maxKeptMoves):]
	if err := k.write(); err != nil {
		k.list = old
		return fmt.Errorf("%w: %s cannot be written: %w", ErrUnavailable, filepath.Join(k.dir, movesFile), err)
	}
	return nil
}

// write replaces the file: it is there whole or not at all.
func (k *keptMoves) write() error {
	if k.dir == "" {
		return nil
	}
	raw, err := json.Marshal(struct {
		Moves []keptMove `json:"moves"`
	}{k.list})
	if err != nil {
		return err
	}
	return replaceFile(k.fs, k.dir, movesFile, append(raw, '\n'))
}
