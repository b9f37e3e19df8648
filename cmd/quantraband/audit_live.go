package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/internal/jsonapi"
	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/zerotrust/audit"
)

// auditPath is under what a running server's audit log is asked to change.
const auditPath = "/api/v1/audit"

// auditOptions say how long a server keeps what is in its audit log, and its key.
type auditOptions struct {
	key     string
	keep    age
	archive string
	rekey   age
}

func (o *auditOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.key, "audit-key", "", "`file` of the key that signs the audit log, made if it is missing; never in the log's folder: docs/audit.md (default: quantra/audit.key in the user's configuration)")
	f.Var(&o.keep, "audit-keep", "how long entries of the audit log are kept, in bundles of 256, as 365d; their hashes stay (default: for ever)")
	f.StringVar(&o.archive, "audit-archive", "", "`folder` that entries are copied to before --audit-keep removes them (default: they are gone)")
	f.Var(&o.rekey, "audit-rotate", "how old the key of the audit log becomes before another takes its place, as 90d (default: until audit rotate)")
}

func (o *auditOptions) check() error {
	const least = 24 * time.Hour
	switch {
	case o.keep < 0 || o.keep > 0 && time.Duration(o.keep) < least:
		return usagef("--audit-keep %s: it must be a day at least, or 0 for ever", &o.keep)
	case o.rekey < 0 || o.rekey > 0 && time.Duration(o.rekey) < least:
		return usagef("--audit-rotate %s: it must be a day at least, or 0 for never", &o.rekey)
	case o.archive != "" && o.keep == 0:
		return usagef("--audit-archive needs --audit-keep: nothing would be copied")
	}
	return nil
}

// keepAudit removes what is older than it is to be kept, and changes the key in its time, each hour until ctx ends. What fails is said, and tried an
// hour later.
func (a *auditLog) keepAudit(o auditOptions, now func() time.Time, tick <-chan time.Time) func(context.Context) {
	return func(ctx context.Context) {
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick:
			}
			if o.keep > 0 {
				if _, err := a.prune(ctx, now().Add(-time.Duration(o.keep)), o.archive); err != nil && ctx.Err() == nil {
					a.log.Error("old entries of the audit log stay", "err", err)
				}
			}
			if o.rekey > 0 {
				if err := a.rotateIfOld(now().Add(-time.Duration(o.rekey))); err != nil {
					a.log.Error("the audit log's key stays what it was", "err", err)
				}
			}
		}
	}
}

// rotateIfOld changes the key if its file is older than a time. A log that is not there has no key to change.
func (a *auditLog) rotateIfOld(before time.Time) error {
	p, err := placeOf(a.data, a.key)
	if err != nil {
		return err
	}
	info, err := os.Stat(p.key)
	if err != nil || info.ModTime().After(before) {
		return nil // opening the log says what is wrong with its key
	}
	_, err = a.rotate()
	return err
}

// prune removes whole bundles of entries from before a time.
func (a *auditLog) prune(ctx context.Context, before time.Time, archive string) (audit.Pruned, error) {
	a.pruning.Lock()
	defer a.pruning.Unlock()
	a.use.RLock()
	defer a.use.RUnlock()
	l, _, err := a.open()
	if err != nil {
		return audit.Pruned{}, err
	}
	done, err := l.Prune(ctx, before, archive)
	if err == nil && done.Bundles > 0 {
		a.log.Info("old entries of the audit log were removed; their hashes stay", "bundles", done.Bundles, "from", done.Next)
	}
	return done, err
}

// rotate has a new key sign the log. Who has something to record waits meanwhile.
func (a *auditLog) rotate() (key audit.PublicKey, err error) {
	a.use.Lock()
	defer a.use.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	p, err := placeOf(a.data, a.key)
	if err != nil {
		return key, err
	}
	if a.opened != nil {
		err := a.opened.Close()
		a.opened = nil // the next act opens it again, by the key that is there then
		if err != nil {
			return key, err
		}
	}
	l, err := rotateKey(p, a.log)
	if l == nil {
		return key, err
	}
	a.opened, a.fault = l, nil
	if a.names, err = audit.OpenPseudonyms(p.pseudonyms); err != nil {
		return key, err
	}
	a.log.Info("another key signs the audit log", "key", l.Key())
	return l.Key(), nil
}

// rotateKey opens a log with a new key, which the old one names, and puts it in the old one's place. After a crash it goes on where it was: the
// new key is in a file beside the old one until all is done. A log that is returned beside an error is open with the new key.
func rotateKey(p auditPlace, log *slog.Logger) (*audit.Log, error) {
	for _, name := range []string{p.key, p.dir} {
		if _, err := os.Lstat(name); err != nil { // neither is made
			return nil, pathError("read", name, err)
		}
	}
	key, err := audit.OpenKey(p.key)
	if err != nil {
		return nil, err
	}
	next := p.key + ".next"
	nextKey, err := audit.OpenKey(next)
	if err != nil {
		return nil, err
	}
	l, err := audit.Open(audit.Options{Dir: p.dir, Key: key, NextKey: &nextKey, Anchor: p.anchor, Logger: log})
	if err != nil {
		return nil, err
	}
	if err := os.Rename(next, p.key); err != nil {
		return l, pathError("write", p.key, err)
	}
	return l, vfs.Default.SyncDir(filepath.Dir(p.key))
}

// handler lets those who look after the server change the log while it runs. Where entries are copied to is the server's own flag, never the
// asker's word.
func (a *auditLog) handler(archive string, log *slog.Logger) http.Handler {
	door := &jsonapi.Door{Tenant: func(*http.Request) (string, error) { return "", nil }, Fault: func(err error) *jsonapi.Fault {
		return &jsonapi.Fault{Status: http.StatusServiceUnavailable, Code: "unavailable", Text: err.Error()}
	}, Logger: log}
	mux := http.NewServeMux()
	door.Handle(mux, "POST "+auditPath+"/rotate", nil, func(*http.Request, string) (any, error) {
		key, err := a.rotate()
		return map[string]string{"key": key.String()}, err
	})
	door.Handle(mux, "POST "+auditPath+"/prune", nil, func(r *http.Request, _ string) (any, error) {
		var q struct {
			Before time.Time `json:"before"`
		}
		if err := jsonapi.Body(r, &q); err != nil {
			return nil, err
		}
		if q.Before.IsZero() || time.Since(q.Before) < 24*time.Hour {
			return nil, jsonapi.Invalid("before: it must be a day ago at least: a server's own doings are not removed as they are done")
		}
		done, err := a.prune(r.Context(), q.Before, archive)
		return map[string]any{"bundles": done.Bundles, "next": done.Next}, err
	})
	door.Else(mux)
	return mux
}

// heldByServer says what to do where a server has the log.
func heldByServer(err error, command string) error {
	if errors.Is(err, vfs.ErrLocked) {
		return inUsef("%w: a server has the log; `quantraband audit %s --server URL` has it do this while it runs", err, command)
	}
	return auditError(err)
}

// askRotate has a running server change its key.
func (a *app) askRotate(ctx context.Context, q *question) error {
	var answer struct {
		Key string `json:"key"`
	}
	if err := q.ask(ctx, http.MethodPost, auditPath+"/rotate", struct{}{}, &answer); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.stdout, "%s signs from now on\n", plain(answer.Key))
	return err
}

// askPrune has a running server remove old entries.
func (a *app) askPrune(ctx context.Context, q *question, before time.Time) error {
	var answer struct {
		Bundles int   `json:"bundles"`
		Next    int64 `json:"next"`
	}
	if err := q.ask(ctx, http.MethodPost, auditPath+"/prune", map[string]time.Time{"before": before.UTC()}, &answer); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.stdout, "%d bundles of 256 entries are pruned; entries from %d on are here\n", answer.Bundles, answer.Next)
	return err
}
