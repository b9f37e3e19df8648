package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/p2p/direct"
)

// The bounds of the inbox, beside its bytes (p2p.Config.Inbox): half of these and of its files are for one peer.
const (
	filesDir      = "files"
	maxInboxFiles = 4096
)

// inbox is the folder of files that peers have sent, each peer's in a folder with its id for a name. What is taken out of it makes room.
type inbox struct {
	dir  string
	most int64 // bytes; 0 takes no files
	log  *slog.Logger

	mu     sync.Mutex
	coming map[string]coming // on their way, by the sender and the part's name: their room is taken
	whole  map[string]string // where those are that have come, likewise: who sends one again needs no room for it
}

// coming is a file that was let in and has not ended. A sender that was cut off may offer it again before that was noticed here.
type coming struct {
	direct.FileOffer
	times int
}

func newInbox(dir string, most int64, log *slog.Logger) *inbox {
	return &inbox{dir: filepath.Join(dir, filesDir), most: most, log: log, coming: map[string]coming{}, whole: map[string]string{}}
}

func offerKey(o direct.FileOffer) string { return o.From.String() + "/" + o.Part() }

// accept is direct.Options.AcceptFile.
func (b *inbox) accept(_ context.Context, o direct.FileOffer) (string, error) {
	if b.most == 0 {
		return "", errors.New("this node takes no files")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if path, ok := b.whole[offerKey(o)]; ok {
		if info, err := os.Lstat(path); err == nil && info.Size() == o.Size {
			b.coming[offerKey(o)] = coming{o, b.coming[offerKey(o)].times + 1}
			return filepath.Dir(path), nil
		}
	}
	all, err := b.read()
	if err != nil {
		b.log.Error("the inbox cannot be read", "err", err)
		return "", errors.New("this node cannot read its inbox")
	}
	type sum struct {
		bytes int64
		files int
	}
	var whole, one sum
	add := func(from peer.ID, bytes int64) {
		whole.bytes, whole.files = whole.bytes+bytes, whole.files+1
		if from == o.From {
			one.bytes, one.files = one.bytes+bytes, one.files+1
		}
	}
	for _, f := range all {
		if _, comes := b.coming[f.from.String()+"/"+f.part]; !comes && (f.from != o.From || f.part != o.Part()) {
			add(f.from, f.Size)
		}
	}
	for key, c := range b.coming {
		if key != offerKey(o) {
			add(c.From, c.Size)
		}
	}
	switch {
	case o.Size > b.most/2-one.bytes:
		return "", fmt.Errorf("the inbox has room for %d bytes more of yours, and the file has %d", max(0, b.most/2-one.bytes), o.Size)
	case o.Size > b.most-whole.bytes:
		return "", fmt.Errorf("the inbox has room for %d bytes more, and the file has %d", max(0, b.most-whole.bytes), o.Size)
	case one.files >= maxInboxFiles/2 || whole.files >= maxInboxFiles:
		return "", fmt.Errorf("the inbox has %d files of yours and %d in all, which is the most", one.files, whole.files)
	}
	dir := filepath.Join(b.dir, o.From.String())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		b.log.Error("the inbox has no folder for a peer", "peer", o.From, "err", err)
		return "", errors.New("this node cannot write to its inbox")
	}
	b.coming[offerKey(o)] = coming{o, b.coming[offerKey(o)].times + 1}
	return dir, nil
}

// ended is direct.Options.FileEnded.
func (b *inbox) ended(o direct.FileOffer, path string, err error) {
	b.mu.Lock()
	if c := b.coming[offerKey(o)]; c.times > 1 {
		b.coming[offerKey(o)] = coming{o, c.times - 1}
	} else {
		delete(b.coming, offerKey(o))
	}
	if path != "" {
		if len(b.whole) >= maxInboxFiles {
			clear(b.whole) // it is of use for moments
		}
		b.whole[offerKey(o)] = path
	}
	b.mu.Unlock()
	if path == "" {
		b.log.Info("a file was broken off", "peer", o.From, "name", o.Name, "bytes", o.Size, "why", err)
		return
	}
	b.log.Info("a file was received", "peer", o.From, "path", path, "bytes", o.Size, "sha256", fmt.Sprintf("%x", o.SHA256))
}

// inboxFile is a file that has come, or that is on its way.
type inboxFile struct {
	From   string    `json:"from"`
	Name   string    `json:"name,omitempty"` // "" where it was broken off, and nobody goes on with it now
	Path   string    `json:"path"`
	Size   int64     `json:"bytes"` // that are there
	Of     int64     `json:"of,omitempty"`
	Coming bool      `json:"coming,omitempty"` // it is not whole yet
	Time   time.Time `json:"time"`             // when it was last written to

	from peer.ID
	part string // for what is not whole: direct.FileOffer.Part
}

// read is what is in the folder. The lock is held.
func (b *inbox) read() (out []inboxFile, err error) {
	folders, err := os.ReadDir(b.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	for _, folder := range folders {
		from, err := peer.Decode(folder.Name())
		if err != nil || !folder.IsDir() {
			continue // not of ours
		}
		files, err := os.ReadDir(filepath.Join(b.dir, folder.Name()))
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			hidden := strings.HasPrefix(f.Name(), ".")
			part, isPart := strings.CutSuffix(f.Name(), ".part")
			if hidden && !isPart {
				continue // how far a part is: a few bytes
			}
			info, err := f.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // it was taken out meanwhile
			} else if err != nil {
				return nil, err
			}
			one := inboxFile{From: from.String(), Name: f.Name(), Path: filepath.Join(b.dir, folder.Name(), f.Name()), Size: info.Size(), Time: info.ModTime().UTC(), from: from}
			if hidden {
				one.Name, one.Coming, one.part = "", true, part
			}
			out = append(out, one)
		}
	}
	return out, nil
}

// list is what has come and what comes, the oldest first.
func (b *inbox) list() ([]inboxFile, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all, err := b.read()
	for i := range all {
		f := &all[i]
		if o, ok := b.coming[f.From+"/"+f.part]; ok && f.Coming {
			f.Name, f.Of = o.Name, o.Size
		}
	}
	slices.SortFunc(all, func(x, y inboxFile) int { return cmp.Or(x.Time.Compare(y.Time), cmp.Compare(x.Path, y.Path)) })
	return all, err
}
