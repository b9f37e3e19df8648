package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"

	"github.com/quantra-l/quantra/internal/jsonapi"
	"github.com/quantra-l/quantra/p2p"
	"github.com/quantra-l/quantra/p2p/direct"
)

const (
	// fileLine is how often it is said how far a file is.
	fileLine = 200 * time.Millisecond
	// fileRetry is the pause after a first attempt that was broken off; it doubles up to fileRetryMost.
	fileRetry, fileRetryMost = time.Second, 15 * time.Second
	// leastRate is the least that --rate may be, in bytes a second: with less, a record of 64 KiB takes so long that the peer gives up.
	leastRate = 4 << 10
	// rateBurst is what goes at once under a rate: a record.
	rateBurst = 64 << 10
)

// What send-file sends, and is answered: lines of how it is going, the last with Sent or Code.
type (
	sendingFile struct {
		To   string `json:"to"`
		Path string `json:"path"` // the node reads it itself: it is of the same user and machine
		Name string `json:"name"`
		Rate int64  `json:"rate,omitempty"` // bytes a second; 0 is as fast as it goes
		Wait int    `json:"wait"`           // seconds without any byte going after which it is given up
	}
	fileState struct {
		Done  int64  `json:"bytes"`
		Size  int64  `json:"of"`
		From  int64  `json:"from,omitempty"`  // bytes that the peer had when it went on
		Waits string `json:"waits,omitempty"` // why it does not go on now; it is tried again
		Sent  bool   `json:"sent,omitempty"`  // the peer has it, whole
		Code  string `json:"code,omitempty"`  // it was given up, and why
		Fault string `json:"message,omitempty"`
	}
)

// streamFile sends a file, says how it goes, and tries again until the peer has it.
func (n *runningNode) streamFile(w http.ResponseWriter, r *http.Request) {
	var q sendingFile
	r.Body = http.MaxBytesReader(w, r.Body, jsonapi.MaxBody)
	t, err := func() (*fileTransfer, error) {
		if err := jsonapi.Body(r, &q); err != nil {
			return nil, err
		}
		return n.openTransfer(&q)
	}()
	if err != nil {
		streamFault(w, err)
		return
	}
	defer t.file.Close()
	t.out = newStream(w)
	err = t.run(r.Context())
	if err == nil {
		_ = t.out.put(fileState{Done: t.state.Size, Size: t.state.Size, From: t.state.From, Sent: true})
		return
	}
	last := t.state
	last.Code, last.Fault = "internal", err.Error()
	if f := nodeFault(err); f != nil {
		last.Code = f.Code
	}
	_ = t.out.put(last)
}

// streamFault answers an error in place of a stream.
func streamFault(w http.ResponseWriter, err error) {
	f := (*jsonapi.Fault)(nil)
	if !errors.As(err, &f) {
		if f = nodeFault(err); f == nil {
			f = &jsonapi.Fault{Status: http.StatusInternalServerError, Code: "internal", Text: err.Error()}
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(f.Status)
	_ = json.NewEncoder(w).Encode(map[string]string{"code": f.Code, "message": f.Text})
}

// fileTransfer is a file on its way to a peer.
type fileTransfer struct {
	node  *runningNode
	to    peer.ID
	name  string
	file  *os.File
	wait  time.Duration
	limit *rate.Limiter // nil is none
	out   *stream
	state fileState
	moved time.Time // when bytes last went, or it began
	told  time.Time
}

// openTransfer checks what is asked, and opens the file.
func (n *runningNode) openTransfer(q *sendingFile) (*fileTransfer, error) {
	to, err := peerOf(q.To)
	if err != nil {
		return nil, err
	}
	if err := direct.CheckFileName(q.Name); err != nil {
		return nil, jsonapi.Invalid("%w: give it another with --name", err)
	}
	if q.Rate != 0 && q.Rate < leastRate || q.Wait < 1 || !filepath.IsAbs(q.Path) {
		return nil, jsonapi.Invalid("a rate of %d, a wait of %d s, the path %.200q: they must be 0 or at least %d, at least 1, and absolute", q.Rate, q.Wait, q.Path, leastRate)
	}
	if to == n.core.ID() {
		return nil, jsonapi.Invalid("a file to this node itself")
	}
	info, err := os.Stat(q.Path)
	if err == nil && !info.Mode().IsRegular() { // to open a pipe would wait for who writes to it
		return nil, jsonapi.Invalid("%.200q is no regular file: it is read twice", q.Path)
	}
	var f *os.File
	if err == nil {
		f, err = os.Open(q.Path)
	}
	if err != nil {
		return nil, jsonapi.Invalid("the node reads the file itself, and cannot: %w", err)
	}
	t := &fileTransfer{node: n, to: to, name: q.Name, file: f, wait: time.Duration(q.Wait) * time.Second, moved: time.Now(), state: fileState{Size: info.Size()}}
	if q.Rate > 0 {
		t.limit = rate.NewLimiter(rate.Limit(q.Rate), rateBurst)
	}
	return t, nil
}

// run tries until the peer has the file, refuses it, or nothing has gone for as long as is waited.
func (t *fileTransfer) run(ctx context.Context) error {
	for pause := fileRetry; ; pause = min(2*pause, fileRetryMost) {
		before := t.moved
		err := t.attempt(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		away := errors.Is(err, direct.ErrUnavailable) || errors.Is(err, p2p.ErrUnavailable) || errors.Is(err, p2p.ErrUnguarded)
		if !away || time.Since(t.moved) > t.wait {
			return err
		}
		if t.moved.After(before) {
			pause = fileRetry
		}
		t.state.Waits = err.Error()
		if err := t.out.put(t.state); err != nil {
			return err
		}
		t.state.Waits = ""
		timer := time.NewTimer(min(pause, t.wait))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// attempt connects first: a file is read whole before it is offered, which is not to be done in vain.
func (t *fileTransfer) attempt(ctx context.Context) error {
	if err := t.node.core.Connect(ctx, peer.AddrInfo{ID: t.to}); err != nil {
		return unreachable(err)
	}
	if _, err := t.file.Seek(0, 0); err != nil {
		return err
	}
	at := int64(-1) // of this attempt
	return t.node.direct.SendFile(ctx, t.to, t.name, t.file, func(done, size int64) {
		if at < 0 { // what the peer has
			at, t.state.From, t.state.Done, t.state.Size = done, done, done, size
			return
		}
		if t.limit != nil {
			_ = t.limit.WaitN(ctx, int(min(done-at, rateBurst))) // its error is ctx's, which ends the stream
		}
		at = done
		now := time.Now()
		t.state.Done, t.state.Size, t.moved = done, size, now
		if now.Sub(t.told) >= fileLine {
			t.told = now
			_ = t.out.put(t.state) // whoever asked is gone, and ctx with him
		}
	})
}

func (n *runningNode) answerFiles(*http.Request, string) (any, error) {
	all, err := n.inbox.list()
	if err != nil {
		return nil, err
	}
	return map[string][]inboxFile{"files": append([]inboxFile{}, all...)}, nil
}
