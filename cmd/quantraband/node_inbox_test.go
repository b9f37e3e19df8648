package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/quantra-l/quantra/p2p"
	"github.com/quantra-l/quantra/p2p/direct"
	"github.com/quantra-l/quantra/seal"
)

// TestInbox: what is on its way has its room as what has come; half is for one peer; what is taken out makes room, and so does what was broken off and
// is offered again.
func TestInbox(t *testing.T) {
	b := newInbox(t.TempDir(), 1000, slog.New(slog.DiscardHandler))
	one, two := p2p.IDOf(seal.NewKey().Public()), p2p.IDOf(seal.NewKey().Public())
	offer := func(from int, name string, size int64) direct.FileOffer {
		o := direct.FileOffer{From: one, Name: name, Size: size, SHA256: [32]byte{byte(size), byte(size >> 8)}}
		if from == 2 {
			o.From = two
		}
		return o
	}
	takes := func(o direct.FileOffer, want string) (dir string) {
		t.Helper()
		dir, err := b.accept(context.Background(), o)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s of %d bytes: %v, want %q", o.Name, o.Size, err, want)
		}
		return dir
	}
	come := func(dir string, o direct.FileOffer) {
		t.Helper()
		path := filepath.Join(dir, o.Name)
		if err := os.WriteFile(path, make([]byte, o.Size), 0o600); err != nil {
			t.Fatal(err)
		}
		b.ended(o, path, nil)
	}
	takes(offer(1, "big", 501), "room for 500 bytes more of yours")
	a := offer(1, "a", 400)
	dir := takes(a, "")
	takes(offer(1, "b", 101), "room for 100 bytes more of yours") // a has not come yet
	takes(a, "")                                                  // again, before it was noticed that the line was cut
	b.ended(a, "", errors.New("cut"))
	takes(offer(1, "b", 101), "room for 100 bytes more of yours") // the other a still comes
	if err := os.WriteFile(filepath.Join(dir, a.Part()+".part"), make([]byte, 300), 0o600); err != nil {
		t.Fatal(err)
	}
	b.ended(a, "", errors.New("cut"))
	takes(offer(1, "b", 201), "room for 200 bytes more of yours") // the part is there
	takes(a, "")                                                  // and is gone on with: its own bytes are not counted
	if all, err := b.list(); err != nil || len(all) != 1 || !all[0].Coming || all[0].Of != 400 || all[0].Size != 300 || all[0].Name != "a" {
		t.Errorf("%+v, %v", all, err)
	}
	if err := os.Remove(filepath.Join(dir, a.Part()+".part")); err != nil {
		t.Fatal(err)
	}
	come(dir, a)
	takes(a, "") // whoever was not told sends it again
	b.ended(a, filepath.Join(dir, "a"), nil)
	c := offer(2, "c", 500)
	come(takes(c, ""), c)
	takes(offer(1, "d", 101), "room for 100 bytes more")
	if err := os.Remove(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	takes(offer(1, "d", 500), "")
	if _, err := newInbox(t.TempDir(), 0, b.log).accept(context.Background(), a); err == nil {
		t.Error("an inbox of no bytes takes a file")
	}
}
