package nodeapi

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quantra-l/quantra/integrity"
	"github.com/quantra-l/quantra/zerotrust"
)

const (
	// kept is how many of each kind are remembered: decisions that let somebody do something, what else the guard said, events of files.
	kept = 256
	// alike is among how many of the newest one that is like the new one is looked for: a peer that goes on doing the same, or is refused the
	// same again and again, is one line.
	alike = 32
	// maxText bounds reasons and paths, in bytes.
	maxText = 512
)

// Decision is what the guard said of a peer, as the audit log has it: principals are ids, and there are no names. Only where the network broke
// may a reason quote its error with an address.
type Decision struct {
	Time      time.Time `json:"time"`
	First     time.Time `json:"first"` // of several that were alike but for their ids
	Times     int       `json:"times"`
	What      string    `json:"what"`               // decision, challenge, behaviour, drift, session, revocation
	Decision  string    `json:"decision,omitempty"` // its id in the audit log; of several the last one's
	Principal string    `json:"principal"`          // "" where nobody was shown to be there
	Action    string    `json:"action"`
	Resource  string    `json:"resource"`
	Allowed   bool      `json:"allowed"`
	Trust     int       `json:"trust"`
	Level     string    `json:"level"`
	Policies  []string  `json:"policies"`
	Reason    string    `json:"reason"`
}

// File is an event of a watched file. Which processes and users touched it the audit log alone says.
type File struct {
	Time     time.Time          `json:"time"`
	Kind     string             `json:"kind"` // baseline, change, restored, problem, lost
	Severity string             `json:"severity"`
	Path     string             `json:"path,omitempty"`
	What     string             `json:"what,omitempty"` // of a change: added, removed, changed, renamed
	From     string             `json:"from,omitempty"` // of a rename
	Aspects  []integrity.Aspect `json:"aspects,omitempty"`
	Text     string             `json:"text,omitempty"`
}

// Events are the last things that the guard said of peers, and that happened to watched files: 256 of each kind, in memory. What was refused has
// room of its own, so that nothing which is let through drives it out. The zero value is ready, and nil remembers nothing.
type Events struct {
	mu         sync.Mutex
	permitted  []Decision // the newest last, as all of these
	told       []Decision
	files      []File
	severities map[string]int
}

// Decided notes what stands in the audit log, if it is about a peer or what peers do. People's questions are not.
func (e *Events) Decided(g zerotrust.Event) {
	if e == nil || g.Kind != "peer" && !strings.HasPrefix(g.Resource, "peer/") && !strings.HasPrefix(g.Resource, "topic/") {
		return
	}
	d := Decision{
		Time: g.Time.UTC(), First: g.Time.UTC(), Times: 1, What: g.What, Principal: g.Principal, Action: g.Action, Resource: bounded(g.Resource),
		Allowed: g.Allowed, Trust: g.Trust, Level: g.Level.String(), Policies: append([]string{}, g.Policies...), Reason: bounded(g.Reason),
	}
	if g.Decision != (zerotrust.DecisionID{}) {
		d.Decision = g.Decision.String()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if d.What == "decision" && d.Allowed {
		e.permitted = remember(e.permitted, d)
	} else {
		e.told = remember(e.told, d)
	}
}

// remember adds a decision, together with what was like it lately, and drops the oldest beyond the bound.
func remember(all []Decision, d Decision) []Decision {
	for i := len(all) - 1; i >= max(0, len(all)-alike); i-- {
		if o := all[i]; o.What == d.What && o.Allowed == d.Allowed && o.Principal == d.Principal && o.Action == d.Action && o.Resource == d.Resource && o.Level == d.Level && o.Reason == d.Reason {
			d.First, d.Times = o.First, o.Times+1
			all = slices.Delete(all, i, i+1)
			break
		}
	}
	return last(append(all, d))
}

// last is at most the newest of a list, without keeping the memory of the others for long.
func last[T any](all []T) []T {
	if len(all) > kept {
		all = slices.Delete(all, 0, len(all)-kept)
	}
	return all
}

// Touched notes an event of a watched file that stands in the audit log.
func (e *Events) Touched(i integrity.Event) {
	if e == nil {
		return
	}
	f := File{Time: i.Time.UTC(), Kind: string(i.Kind), Severity: i.Severity.String(), Path: bounded(i.Path), Text: bounded(i.Text)}
	if c := i.Change; c != nil {
		f.What, f.From, f.Aspects = string(c.What), bounded(c.From), slices.Clone(c.Aspects)
		if f.Path == "" {
			f.Path = bounded(c.Path)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.severities == nil {
		e.severities = map[string]int{}
	}
	e.severities[f.Severity]++
	e.files = last(append(e.files, f))
}

// bounded is text with a bound, cut between characters.
func bounded(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + "…"
}

// recent are the newest decisions and events of files, the newest first. refused leaves out what was allowed.
func (e *Events) recent(limit int, refused bool) (decisions []Decision, files []File) {
	e.mu.Lock()
	defer e.mu.Unlock()
	decisions = slices.Clone(e.told)
	if refused {
		decisions = slices.DeleteFunc(decisions, func(d Decision) bool { return d.Allowed })
	} else {
		decisions = append(decisions, e.permitted...)
	}
	slices.SortStableFunc(decisions, func(a, b Decision) int { return b.Time.Compare(a.Time) })
	files = slices.Clone(e.files)
	slices.Reverse(files)
	return head(decisions, limit), head(files, limit)
}

// head is the first of a list, which is never nil: it is an array in JSON.
func head[T any](all []T, limit int) []T {
	if len(all) == 0 {
		return []T{}
	}
	return all[:min(limit, len(all))]
}

// bySeverity is how many events of files there were since the start.
func (e *Events) bySeverity() map[string]int {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make(map[string]int, len(e.severities))
	for name, n := range e.severities {
		out[name] = n
	}
	return out
}
