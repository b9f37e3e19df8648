package p2p

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
}

func openKnown(f vfs.FS, dir string) (*known, error) {
	k := &known{fs: f, dir: dir, peers: map[peer.ID]*Known{}, extra: map[peer.ID]peer.AddrInfo{}}
	if dir == "" {
		return k, nil
	}
	if err := f.MkdirAll(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, knownFile)
	r, err := f.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, maxKnownFile+1))
	if err != nil {
		return nil, err
	}
	if err := k.decode(raw); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
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
	path := filepath.Join(k.dir, knownFile)
	if err := k.fs.Remove(path + ".new"); err != nil && !errors.Is(err, fs.ErrNotExist) { // what a crash has left
		return err
	}
	f, err := k.fs.Create(path + ".new")
	if err != nil {
		return err
	}
	_, err = f.Write(append(raw, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := k.fs.Rename(path+".new", path); err != nil {
		return err
	}
	return k.fs.SyncDir(k.dir)
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
