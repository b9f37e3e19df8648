package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/quantra-l/quantra/fleet"
	"github.com/quantra-l/quantra/integrity"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/p2p/nodeapi"
	"github.com/quantra-l/quantra/zerotrust"
	"github.com/quantra-l/quantra/zerotrust/audit"
)

// The audit log's folder in the data folder, and the files beside the key of --audit-key.
const (
	auditDir       = "audit"
	auditKeyFile   = "audit.key"
	pseudonymsFile = "pseudonyms.key"
)

// auditWait is how long an act waits to be recorded.
const auditWait = 10 * time.Second

// auditPlace is where an audit log and its keys are.
type auditPlace struct{ dir, key, pseudonyms, anchor string }

// placeOf is where the audit log of a data folder is. Its keys are in the user's configuration, not in the data folder: who can write
// the log must not be able to sign it anew.
func placeOf(data, key string) (auditPlace, error) {
	dir, err := filepath.Abs(filepath.Join(data, auditDir))
	if err != nil {
		return auditPlace{}, err
	}
	return placeIn(dir, key)
}

// auditKeyPath is the file of the signing key: what --audit-key says, or the one in the user's configuration.
func auditKeyPath(flag string) (string, error) {
	if flag == "" {
		config, err := os.UserConfigDir()
		if err != nil {
			return "", fmt.Errorf("this user has no folder for configuration: name the audit log's key with --audit-key (%w)", err)
		}
		flag = filepath.Join(config, "quantra", auditKeyFile)
	}
	return filepath.Abs(flag)
}

// placeIn is the place of a log by its own folder.
func placeIn(dir, key string) (auditPlace, error) {
	key, err := auditKeyPath(key)
	if err != nil {
		return auditPlace{}, err
	}
	if err := audit.Outside(dir, key); err != nil {
		return auditPlace{}, usagef("--audit-key: %w", err)
	}
	// One key may be that of several logs: the checkpoint that is kept beside it has a name by the log's folder.
	h := sha256.Sum256([]byte(dir))
	beside := filepath.Dir(key)
	return auditPlace{dir, key, filepath.Join(beside, pseudonymsFile), filepath.Join(beside, "audit-"+hex.EncodeToString(h[:6])+".checkpoint")}, nil
}

// auditLog is the audit log of the data folder. It is opened with the first decision, or at the start if it is there. A server whose log
// cannot be opened says so, tries again with each decision, and lets nobody in meanwhile.
type auditLog struct {
	data, key string
	log       *slog.Logger

	use     sync.RWMutex // held for reading while something is recorded, for writing while the log changes its key; taken before mu
	pruning sync.Mutex   // held while old entries are removed; taken before use

	mu     sync.Mutex
	opened *audit.Log
	names  audit.Pseudonyms
	fault  error // why it could not be opened

	recent *nodeapi.Events // the last of what was recorded of peers and files
}

// openAuditLog opens the log if it is there, or should be. That it cannot is said, and tried again at each act.
func openAuditLog(data, key string, log *slog.Logger) (*auditLog, error) {
	a := &auditLog{data: data, key: key, log: log, recent: &nodeapi.Events{}}
	p, err := placeOf(data, key) // where it is to be is checked at once
	if err != nil {
		return nil, err
	}
	_, err = os.Stat(p.dir)
	_, was := os.Stat(p.anchor) // what is known of one that was there
	if errors.Is(err, fs.ErrNotExist) && errors.Is(was, fs.ErrNotExist) {
		return a, nil
	}
	if _, _, err := a.open(); err != nil {
		log.Error("THE AUDIT LOG CANNOT BE OPENED: what must be recorded is refused until it can", "err", err)
	}
	return a, nil
}

// open is the log, opened if it was not.
func (a *auditLog) open() (*audit.Log, audit.Pseudonyms, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.opened == nil {
		a.fault = a.openNow()
	}
	return a.opened, a.names, a.fault
}

func (a *auditLog) openNow() error {
	p, err := placeOf(a.data, a.key)
	if err != nil {
		return err
	}
	key, err := audit.OpenKey(p.key)
	if err != nil {
		return err
	}
	if a.names, err = audit.OpenPseudonyms(p.pseudonyms); err != nil {
		return err
	}
	a.opened, err = audit.Open(audit.Options{Dir: p.dir, Key: key, Anchor: p.anchor, Logger: a.log})
	if err == nil {
		a.log.Info("the audit log is open", "dir", p.dir, "key", a.opened.Key())
	}
	return err
}

// machines are the actors that are no people, by the names that they have in the journal.
var machines = map[string]bool{"": true, "optimizer": true, "policy": true, "dashboard": true, "pagerduty": true, "alertmanager": true}

// changeEntry is an act in the audit log: with a resource to filter by, and with a pseudonym in place of a person.
type changeEntry struct {
	optimize.Entry
	Resource string `json:"resource"`
}

// record is optimize.Options.Record: it returns when the act is on disk and under a signed checkpoint.
func (a *auditLog) record(ctx context.Context, e optimize.Entry) error {
	a.use.RLock()
	defer a.use.RUnlock()
	l, names, err := a.open()
	if err != nil {
		return err
	}
	if !machines[e.Actor] {
		e.Actor = names.Of(e.Actor)
	}
	entry := changeEntry{e, "changes"}
	if e.Service != "" {
		entry.Resource += "/" + e.Service
	}
	raw, err := json.Marshal(entry)
	if err == nil && len(raw) > audit.MaxEntry { // it is in the journal; here is what it was
		h := sha256.Sum256([]byte(e.Spec))
		entry.Spec = "sha256:" + hex.EncodeToString(h[:])
		raw, err = json.Marshal(entry)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, auditWait)
	defer cancel()
	_, err = l.Append(ctx, raw, true)
	return err
}

// decisionEntry is an event of the guard in the audit log. It has no address and no name: principals are ids and pseudonyms.
type decisionEntry struct {
	Time       time.Time `json:"time"`
	What       string    `json:"what"`
	Decision   string    `json:"decision,omitempty"`
	Principal  string    `json:"principal,omitempty"`
	Kind       string    `json:"kind,omitempty"`
	Action     string    `json:"action,omitempty"`
	Resource   string    `json:"resource,omitempty"`
	Allowed    bool      `json:"allowed"`
	Trust      int       `json:"trust"`
	Level      string    `json:"level"`
	Policies   []string  `json:"policies,omitempty"`
	Reason     string    `json:"reason,omitempty"`
	Privileged bool      `json:"privileged,omitempty"`
}

// decided is zerotrust.Options.Record. What is privileged waits until it is on disk and under a signed checkpoint, and an error denies it. The
// rest is queued; where there is no room it is counted, and the log says how many there were.
func (a *auditLog) decided(ctx context.Context, e zerotrust.Event) error {
	a.use.RLock()
	defer a.use.RUnlock()
	l, _, err := a.open()
	if err != nil {
		return err
	}
	entry := decisionEntry{
		Time: e.Time.UTC(), What: e.What, Principal: e.Principal, Kind: e.Kind, Action: e.Action, Resource: e.Resource,
		Allowed: e.Allowed, Trust: e.Trust, Level: e.Level.String(), Policies: e.Policies, Reason: e.Reason, Privileged: e.Privileged,
	}
	if e.Decision != (zerotrust.DecisionID{}) {
		entry.Decision = e.Decision.String()
	}
	raw, err := json.Marshal(entry)
	if err != nil {
		return err
	}
	if !e.Privileged {
		if _, err = l.Append(ctx, raw, false); errors.Is(err, audit.ErrDropped) || errors.Is(err, audit.ErrUnavailable) {
			return nil
		}
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, auditWait)
	defer cancel()
	_, err = l.Append(ctx, raw, true)
	return err
}

// leased is fleet.Options.Record: what people lease and release over the API stands in the log before it happens. What the optimizer
// leases is there as its own act, once, and not each time that it is prolonged. A log that cannot be written keeps no release from being made.
func (a *auditLog) leased(log *slog.Logger) func(context.Context, fleet.Event) error {
	return func(ctx context.Context, e fleet.Event) error {
		if e.By == "" || e.Kind != "lease" && e.Kind != "release" {
			return nil
		}
		entry := optimize.Entry{Time: e.Time, Tenant: e.Tenant, Kind: optimize.Runtime, Service: e.Service, Act: e.Kind, Actor: e.By, Target: e.Instance}
		if e.Kind == "lease" {
			spec, err := json.Marshal(e.Settings)
			if err != nil {
				return err
			}
			entry.Spec, entry.Reason = string(spec), "Until "+e.Expires.Format(time.RFC3339)+"."
		}
		err := a.record(ctx, entry)
		if err != nil && e.Kind == "release" {
			log.Error("a release goes into the audit log late", "service", e.Service, "instance", e.Instance, "err", err)
			return nil
		}
		return err
	}
}

// files is integrity.Options.Record: it returns when the event is on disk and under a signed checkpoint.
func (a *auditLog) files(ctx context.Context, e integrity.Event) error {
	a.use.RLock()
	defer a.use.RUnlock()
	l, _, err := a.open()
	if err != nil {
		return err
	}
	raw, err := json.Marshal(e)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, auditWait)
	defer cancel()
	if _, err = l.Append(ctx, raw, true); err == nil {
		a.recent.Touched(e)
	}
	return err
}

// Healthy says why nothing can be recorded.
func (a *auditLog) Healthy() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.opened != nil {
		return a.opened.Healthy()
	}
	return a.fault
}

// stats are its figures; none while it is not open.
func (a *auditLog) stats() audit.Stats {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.opened == nil {
		return audit.Stats{}
	}
	return a.opened.Stats()
}

// Close closes it, after the last act.
func (a *auditLog) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.opened == nil {
		return nil
	}
	return a.opened.Close()
}

// auditMetrics are of the audit log.
var auditMetrics = []metric[audit.Stats]{
	{"entries", "Entries that are on disk.", gauge, func(s audit.Stats) float64 { return float64(s.Size) }},
	{"published_entries", "Entries that are in tiles.", gauge, func(s audit.Stats) float64 { return float64(s.Published) }},
	{"queued_entries", "Entries that wait to be written.", gauge, func(s audit.Stats) float64 { return float64(s.Queued) }},
	{"queued_bytes", "Bytes of them.", gauge, func(s audit.Stats) float64 { return float64(s.QueueBytes) }},
	{"dropped_total", "Events that were not recorded, as the queue was full. The log says so, too.", counter, func(s audit.Stats) float64 { return float64(s.Dropped) }},
	{"commits_total", "Batches written.", counter, func(s audit.Stats) float64 { return float64(s.Commits) }},
	{"failures_total", "Times that did not work.", counter, func(s audit.Stats) float64 { return float64(s.Failures) }},
	{"publishes_total", "Times tiles were written.", counter, func(s audit.Stats) float64 { return float64(s.Publishes) }},
	{"publish_failures_total", "Times that did not work.", counter, func(s audit.Stats) float64 { return float64(s.PublishFailures) }},
	{"anchor_failures_total", "Times the last checkpoint could not be kept beside the key.", counter, func(s audit.Stats) float64 { return float64(s.AnchorFailures) }},
	{"checkpoint_age_seconds", "How long ago a checkpoint was published; 0 while the log is not open.", gauge, func(s audit.Stats) float64 {
		if s.Checkpoint.IsZero() {
			return 0
		}
		return time.Since(s.Checkpoint).Seconds()
	}},
}
