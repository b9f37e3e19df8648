package p2p

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/zerotrust"
)

// The file of known peers: JSON, docs/format/guard-protocol.md.
const (
	knownFile    = "peers.json"
	maxKnown     = 1024
	maxKnownFile = 16 << 20
	maxAddrs     = 16 // of a peer
)

// Known is a peer that this node keeps to.
type Known struct {
	ID    string    `json:"id"`
	Addrs []string  `json:"addresses"`
	Met   time.Time `json:"met,omitzero"`    // when it came by invitation
	Words string    `json:"words,omitempty"` // that both sides saw then
	// Document is the identity that the peer has issued to us, and that we show to it.
	Document []byte `json:"document,omitempty"`
}

// known are the peers that a node keeps to.
type known struct {
	fs  vfs.FS
	dir string

	mu    sync.Mutex
	peers map[peer.ID]*Known // of the file
	extra map[peer.ID]peer.AddrInfo
	moved map[peer.ID]peer.AddrInfo // one that is kept to -> where it has led us
	gone  map[peer.ID]bool          // those that we have led elsewhere: they are not called back
}

func openKnown(f vfs.FS, dir string) (*known, error) {
	k := &known{fs: f, dir: dir, peers: map[peer.ID]*Known{}, extra: map[peer.ID]peer.AddrInfo{}, moved: map[peer.ID]peer.AddrInfo{}, gone: map[peer.ID]bool{}}
	if dir == "" {
		return k, nil
	}
	if err := f.MkdirAll(dir); err != nil {
		return nil, err
	}
	raw, err := readWhole(f, dir, knownFile, maxKnownFile)
	if raw == nil || err != nil {
		return k, err
	}
	if err := k.decode(raw); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, knownFile), err)
	}
	return k, nil
}

// readWhole is a file of a folder, nil where there is none. Of one that is larger than most it is most+1 bytes, which its decoder refuses.
func readWhole(f vfs.FS, dir, name string, most int64) ([]byte, error) {
	r, err := f.Open(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, most+1))
}

// decode reads the file's bytes.
func (k *known) decode(raw []byte) error {
	if len(raw) > maxKnownFile {
		return fmt.Errorf("%w: it has more than %d bytes", ErrCorrupt, maxKnownFile)
	}
	var file struct {
		Peers []*Known `json:"peers"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if len(file.Peers) > maxKnown {
		return fmt.Errorf("%w: it has %d peers, more than %d", ErrCorrupt, len(file.Peers), maxKnown)
	}
	for i, p := range file.Peers {
		if p == nil {
			return fmt.Errorf("%w: peer %d is none", ErrCorrupt, i)
		}
		info, err := p.info()
		if err != nil {
			return fmt.Errorf("%w: peer %d: %w", ErrCorrupt, i, err)
		}
		k.peers[info.ID] = p
	}
	return nil
}

func (p *Known) info() (peer.AddrInfo, error) {
	info, err := ParsePeer(p.ID)
	if err != nil {
		return info, err
	}
	if len(p.Addrs) > maxAddrs {
		return info, fmt.Errorf("%d addresses are more than %d", len(p.Addrs), maxAddrs)
	}
	info.Addrs, err = parseAddresses(p.Addrs)
	if err == nil && len(p.Document) > 0 {
		_, err = zerotrust.Decode(p.Document)
	}
	return info, err
}

// keep adds one that is not in the file.
func (k *known) keep(p peer.AddrInfo) {
	k.mu.Lock()
	defer k.mu.Unlock()
	have := k.extra[p.ID]
	have.ID = p.ID
	for _, a := range p.Addrs {
		if !hasAddr(have.Addrs, a) {
			have.Addrs = append(have.Addrs, a)
		}
	}
	k.extra[p.ID] = have
}

// list are all, each once.
func (k *known) list() (out []peer.AddrInfo) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.extra {
		out = append(out, p)
	}
	for id, p := range k.peers {
		if _, ok := k.extra[id]; ok {
			continue
		}
		if info, err := p.info(); err == nil {
			out = append(out, info)
		}
	}
	slices.SortFunc(out, func(a, b peer.AddrInfo) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return out
}

// now are those that are kept to at this moment: where one has led us elsewhere, the other in its place, and none that we have led away.
func (k *known) now() []peer.AddrInfo {
	all := k.list()
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []peer.AddrInfo
	for _, p := range all {
		if to, ok := k.moved[p.ID]; ok {
			p = to
		}
		if !k.gone[p.ID] && !slices.ContainsFunc(out, func(o peer.AddrInfo) bool { return o.ID == p.ID }) {
			out = append(out, p)
		}
	}
	return out
}

// homeOf is for which of those that are kept to a peer stands: itself, or one that has led us to it.
func (k *known) homeOf(p peer.ID) (home peer.ID, ok bool) {
	all := k.list()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, h := range all {
		at := h.ID
		if to, led := k.moved[h.ID]; led {
			at = to.ID
		}
		if at == p {
			return h.ID, true
		}
	}
	return "", false
}

// at is who stands for one that is kept to now: itself, or to whom it has led us.
func (k *known) at(home peer.ID) peer.ID {
	k.mu.Lock()
	defer k.mu.Unlock()
	if to, led := k.moved[home]; led {
		return to.ID
	}
	return home
}

// move keeps to another in the place of one, until it leads back, or is not reached any more. It says who was in that place.
func (k *known) move(home peer.ID, to peer.AddrInfo) (was peer.AddrInfo) {
	k.mu.Lock()
	defer k.mu.Unlock()
	was, led := k.moved[home]
	if !led {
		was.ID = home
	}
	if k.moved[home] = to; to.ID == home {
		delete(k.moved, home)
	}
	return was
}

// home goes back to whom we were told to keep to, where a peer stands in the place of one.
func (k *known) home(p peer.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.moved, func(_ peer.ID, to peer.AddrInfo) bool { return to.ID == p })
}

// away notes that a peer was led elsewhere, or has come back.
func (k *known) away(p peer.ID, gone bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !gone {
		delete(k.gone, p)
		return
	}
	if _, one := k.extra[p]; one || k.peers[p] != nil { // others are not called anyway
		k.gone[p] = true
	}
}

// shown is what is shown of one: the document is not.
func (k *known) shown(p peer.AddrInfo) Known {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := Known{ID: p.ID.String(), Addrs: addressesOf(p.Addrs)}
	if have := k.peers[p.ID]; have != nil {
		out.Met, out.Words = have.Met, have.Words
	}
	return out
}

// document is what a peer has issued to us, nil where it has not, or where that has expired.
func (k *known) document(p peer.ID, now time.Time) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	have := k.peers[p]
	if have == nil || len(have.Document) == 0 {
		return nil
	}
	if d, err := zerotrust.Decode(have.Document); err != nil || !now.Before(d.Expires) {
		return nil
	}
	return have.Document
}

// add keeps a peer that was met, durably. The newest replaces what was known of it.
func (k *known) add(p *Known) error {
	info, err := p.info()
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.peers[info.ID]; !ok && len(k.peers) >= maxKnown {
		return fmt.Errorf("%w: %d peers are known, and there is no room for more: remove some from %s", ErrUnavailable, maxKnown, filepath.Join(k.dir, knownFile))
	}
	old := k.peers[info.ID]
	k.peers[info.ID] = p
	if err := k.write(); err != nil {
		if k.peers[info.ID] = old; old == nil {
			delete(k.peers, info.ID)
		}
		return err
	}
	return nil
}

// write replaces the file: it is there whole or not at all.
func (k *known) write() error {
	if k.dir == "" {
		return nil
	}
	file := struct {
		Peers []*Known `json:"peers"`
	}{[]*Known{}}
	for _, p := range k.peers {
		file.Peers = append(file.Peers, p)
	}
	slices.SortFunc(file.Peers, func(a, b *Known) int { return strings.Compare(a.ID, b.ID) })
	raw, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(k.fs, k.dir, knownFile, append(raw, '\n'))
}

// replaceFile writes a file of a folder anew, durably: it is there whole or as it was.
func replaceFile(f vfs.FS, dir, name string, raw []byte) error {
	path := filepath.Join(dir, name)
	if err := f.Remove(path + ".new"); err != nil && !errors.Is(err, fs.ErrNotExist) { // what a crash has left
		return err
	}
	w, err := f.Create(path + ".new")
	if err != nil {
		return err
	}
	_, err = w.Write(raw)
	if err = errors.Join(err, w.Sync(), w.Close()); err != nil {
		return err
	}
	if err := f.Rename(path+".new", path); err != nil {
		return err
	}
	return f.SyncDir(dir)
}

// addressesOf are addresses as text, so many as are kept.
func addressesOf(list []ma.Multiaddr) (out []string) {
	for _, a := range list {
		if len(out) < maxAddrs {
			out = append(out, a.String())
		}
	}
	return out
}
