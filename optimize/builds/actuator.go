package builds

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quantra-l/quantra/optimize"
)

// Instance is a process of a service that is there now.
type Instance struct {
	ID, Version, Zone string
	Started           time.Time
	// Profiled says that it was built with a profile for the compiler, as the program knows of itself; nil is not known.
	Profiled *bool
}

// Options of an [Actuator]. None has a default but those that say so.
type Options struct {
	// Where is where a service's builds take the profile from; ok is false where nobody has said.
	Where func(service string) (w Where, ok bool)
	// Open is such a place.
	Open func(Where) (Place, error)
	// Profile is the bytes of one by its [Sum]; [optimize.ErrRefused] where it is not there any more.
	Profile func(ctx context.Context, sum string) ([]byte, error)
	// Instances are those of a service that are there now.
	Instances func(tenant, service string) []Instance
	// AnyVersion says that every new version counts as built with the profile, also where its instances say that they are not: for fleets whose
	// builds are made up.
	AnyVersion bool
	Now        func() time.Time // nil is time.Now
}

// Actuator makes changes of the kind [optimize.PGO]. It implements [optimize.Actuator] and [optimize.Versioned]. It keeps nothing but, for a
// while, what places elsewhere have answered.
type Actuator struct {
	o Options

	mu    sync.Mutex
	looks map[string]looked // by change
}

type looked struct {
	at   time.Time
	look Look
}

// skew is by how much the clocks of servers and of instances may differ.
const skew = 2 * time.Minute

// maxLooks bounds what is remembered of places.
const maxLooks = 1000

// NewActuator makes one of options that are complete.
func NewActuator(o Options) (*Actuator, error) {
	if o.Where == nil || o.Open == nil || o.Profile == nil || o.Instances == nil {
		return nil, errors.New("builds: Options.Where, Open, Profile and Instances are needed")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Actuator{o: o, looks: map[string]looked{}}, nil
}

// snapshot is what was there before the change, and what ran.
type snapshot struct {
	At       time.Time       `json:"at"`
	Versions []string        `json:"versions"`
	Was      json.RawMessage `json:"was"`
}

// Check implements [optimize.Checker]: a proposal may go only where the policy has the service's profile, whoever makes it.
func (a *Actuator) Check(p *optimize.Proposal) error {
	s, err := ParseSpec(p.Spec)
	if err != nil {
		return err
	}
	return a.allowed(p.Service, s)
}

func (a *Actuator) allowed(service string, s Spec) error {
	w, ok := a.o.Where(service)
	switch {
	case !ok:
		return fmt.Errorf("builds: %w: the policy has no place for %s's profile: name it under pgo", optimize.ErrRefused, service)
	case !w.equal(s.Where):
		return fmt.Errorf("builds: %w: the policy has %s's profile at %s, and the change is of %s", optimize.ErrRefused, service, w, s.Where)
	}
	return nil
}

// Traits implements [optimize.Actuator]: a build is of the service as a whole.
func (*Actuator) Traits(*optimize.Change) optimize.Traits { return optimize.Traits{Whole: true} }

// Targets implements [optimize.Actuator]: the place.
func (a *Actuator) Targets(_ context.Context, c *optimize.Change) ([]optimize.Target, error) {
	s, err := ParseSpec(c.Spec)
	if err != nil {
		return nil, err
	}
	if !c.State.Acting() && a.allowed(c.Service, s) != nil {
		return nil, nil
	}
	return []optimize.Target{{ID: s.Where.String()}}, nil
}

// put is what a change does, at the place where it does it.
func (a *Actuator) put(c *optimize.Change, raw json.RawMessage) (place Place, p Put, snap snapshot, err error) {
	s, err := ParseSpec(c.Spec)
	if err != nil {
		return nil, p, snap, fmt.Errorf("%w: %w", optimize.ErrRefused, err)
	}
	if raw != nil {
		if err := json.Unmarshal(raw, &snap); err != nil {
			return nil, p, snap, fmt.Errorf("builds: %w: the snapshot cannot be read: %v", optimize.ErrRefused, err)
		}
	}
	place, err = a.o.Open(s.Where)
	p = Put{Change: c.ID, Service: c.Service, Sum: s.Profile, Was: snap.Was, Title: title(c.Service, s), Body: body(c)}
	return place, p, snap, err
}

func title(service string, s Spec) string {
	name := s.Where.String()
	return name[strings.LastIndexAny(name, "/:")+1:] + ": profile of " + plain(service, 80) + " for the compiler"
}

// plain is text of at most n bytes in one line.
func plain(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	return strings.ToValidUTF8(s[:min(len(s), n)], "")
}

// markdown is plain as Markdown shows it: nothing in it becomes a link, a mark or the mention of anybody.
func markdown(s string, n int) string {
	var b strings.Builder
	for _, r := range plain(s, n) {
		switch {
		case r == '@' || r == '#': // GitHub takes names and numbers behind them also where they are escaped
			b.WriteString("<span>" + string(r) + "</span>")
		case strings.ContainsRune("`<>[]()*_|\\!&~", r):
			b.WriteString(`\` + string(r))
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// body is a pull request's description.
func body(c *optimize.Change) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nIt is change `%s`. When a build with it runs beside one without, it is judged; what it is then is told there.\n", markdown(c.Sentence, 2000), c.ID)
	if c.State == optimize.Undoing {
		fmt.Fprintf(&b, "\n**It is taken back:** %s Roll back what was built with it: this pull request alone changes nothing that runs.\n", markdown(c.Reason, 2000))
	}
	for _, w := range c.Warnings {
		fmt.Fprintf(&b, "\n- Mind: %s", markdown(w, 500))
	}
	return b.String()
}

// Snapshot implements [optimize.Actuator].
func (a *Actuator) Snapshot(ctx context.Context, c *optimize.Change, _ optimize.Target) (json.RawMessage, error) {
	place, p, _, err := a.put(c, nil)
	if err != nil {
		return nil, err
	}
	s, err := ParseSpec(c.Spec)
	if err == nil {
		err = a.allowed(c.Service, s)
	}
	if err != nil {
		return nil, err
	}
	profile, err := a.o.Profile(ctx, p.Sum)
	if err != nil {
		return nil, err
	}
	snap := snapshot{At: a.o.Now().UTC()}
	if snap.Was, err = place.Was(ctx, profile); err != nil {
		return nil, err
	}
	for _, i := range a.o.Instances(c.Tenant, c.Service) {
		snap.Versions = append(snap.Versions, i.Version)
	}
	if len(snap.Versions) == 0 {
		return nil, fmt.Errorf("builds: no instance of %s is there: there is nothing to compare a build with", c.Service)
	}
	slices.Sort(snap.Versions)
	snap.Versions = slices.Compact(snap.Versions)
	return json.Marshal(snap)
}

// Rehearse implements [optimize.Actuator].
func (a *Actuator) Rehearse(ctx context.Context, c *optimize.Change, _ optimize.Target, raw json.RawMessage) error {
	place, p, _, err := a.put(c, raw)
	if err != nil {
		return err
	}
	profile, err := a.o.Profile(ctx, p.Sum)
	if err != nil {
		return err
	}
	return place.Rehearse(ctx, p, profile)
}

// Apply implements [optimize.Actuator].
func (a *Actuator) Apply(ctx context.Context, c *optimize.Change, _ optimize.Target, raw json.RawMessage) error {
	place, p, _, err := a.put(c, raw)
	if err != nil {
		return err
	}
	profile, err := a.o.Profile(ctx, p.Sum)
	if err != nil {
		return err
	}
	a.forget(c)
	return place.Put(ctx, p, profile)
}

// Undo implements [optimize.Actuator].
func (a *Actuator) Undo(ctx context.Context, c *optimize.Change, _ optimize.Target, raw json.RawMessage) error {
	place, p, _, err := a.put(c, raw)
	if err != nil {
		return err
	}
	// What people are asked already is not asked each few seconds; what somebody else has put there is theirs.
	if l, err := a.look(ctx, c, place, p); err != nil || l.State != There && l.State != Waiting && (l.State != Before || place.Every() > 0) {
		return err
	}
	a.forget(c)
	return place.Back(ctx, p)
}

// look is how the place is, asked no more often than it likes.
func (a *Actuator) look(ctx context.Context, c *optimize.Change, place Place, p Put) (Look, error) {
	a.mu.Lock()
	had, ok := a.looks[c.ID]
	a.mu.Unlock()
	now := a.o.Now()
	if ok && now.Sub(had.at) < place.Every() {
		return had.look, nil
	}
	l, err := place.Look(ctx, p)
	if err != nil {
		return l, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.looks) >= maxLooks {
		clear(a.looks)
	}
	a.looks[c.ID] = looked{now, l}
	return l, nil
}

func (a *Actuator) forget(c *optimize.Change) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.looks, c.ID)
}

// Standing implements [optimize.Actuator].
func (a *Actuator) Standing(ctx context.Context, c *optimize.Change, _ optimize.Target, raw json.RawMessage) (optimize.Standing, string, error) {
	place, p, snap, err := a.put(c, raw)
	if err != nil {
		return "", "", err
	}
	l, err := a.look(ctx, c, place, p)
	if err != nil {
		return "", "", err
	}
	if c.State == optimize.Undoing {
		s, why := a.undone(c, l, &snap)
		return s, why, nil
	}
	switch l.State {
	case Denied, Other:
		return optimize.Refused, l.Note, nil
	case Before:
		return optimize.Absent, l.Note, nil
	case Waiting:
		return optimize.Pending, l.Note, nil
	}
	treated, control := a.sides(c, &snap, l)
	if len(treated) > 0 {
		return optimize.InForce, "", nil
	}
	return optimize.Pending, fmt.Sprintf("the profile is in place; no new version of %s that was built with it runs yet, there is %s", c.Service, versionsOf(control)), nil
}

// undone is how an undo stands: it is not done before what was built with the profile runs no more.
func (a *Actuator) undone(c *optimize.Change, l Look, snap *snapshot) (optimize.Standing, string) {
	running := map[string]bool{}
	for i := range c.Units {
		if u := &c.Units[i]; !u.Place && !u.Applied.IsZero() {
			running[u.Version] = true
		}
	}
	left := 0
	var version string
	for _, i := range a.o.Instances(c.Tenant, c.Service) {
		if running[i.Version] && !slices.Contains(snap.Versions, i.Version) {
			left, version = left+1, i.Version
		}
	}
	rollBack := fmt.Sprintf("version %s still runs at %d instances: roll back to %s", version, left, strings.Join(snap.Versions, ", "))
	switch {
	case l.State == Kept:
		return optimize.Absent, l.Note // that is what people want
	case l.State == There || l.State == Asked || l.State == Waiting:
		if left > 0 {
			return optimize.Pending, cmp.Or(l.Note, "the profile is still in place") + "; " + rollBack
		}
		return optimize.Pending, cmp.Or(l.Note, "the profile is still in place")
	case left > 0:
		return optimize.Pending, "no new build takes the profile; " + rollBack
	}
	return optimize.Absent, l.Note
}

// Sides implements [optimize.Versioned].
func (a *Actuator) Sides(ctx context.Context, c *optimize.Change, _ optimize.Target, raw json.RawMessage) (optimize.Sides, error) {
	place, p, snap, err := a.put(c, raw)
	if err != nil {
		return optimize.Sides{}, err
	}
	l, err := a.look(ctx, c, place, p)
	if err != nil {
		return optimize.Sides{}, err
	}
	treated, control := a.sides(c, &snap, l)
	return optimize.Sides{Treated: targets(treated), Control: targets(control)}, nil
}

// sides are the instances of versions that came since the profile has been in place, and the others. Versions that ran together with what was there
// before, and of which none was built with a profile, do not count. Where several ran before, new ones are compared with the one that the profile is of.
func (a *Actuator) sides(c *optimize.Change, snap *snapshot, l Look) (treated, control []Instance) {
	since := snap.At
	if l.Since.After(since) {
		since = l.Since
	}
	since = since.Add(-skew)
	all := a.o.Instances(c.Tenant, c.Service)
	fresh := map[string]bool{}
	for _, i := range all {
		had, known := fresh[i.Version]
		is := !slices.Contains(snap.Versions, i.Version) && !i.Started.Before(since) && (a.o.AnyVersion || i.Profiled == nil || *i.Profiled)
		fresh[i.Version] = is && (had || !known)
	}
	for _, i := range all {
		if fresh[i.Version] {
			treated = append(treated, i)
		} else {
			control = append(control, i)
		}
	}
	var s Spec
	if json.Unmarshal(c.Spec, &s) == nil && slices.ContainsFunc(control, func(i Instance) bool { return i.Version == s.Version }) {
		control = slices.DeleteFunc(control, func(i Instance) bool { return i.Version != s.Version })
	}
	return treated, control
}

func targets(is []Instance) (out []optimize.Target) {
	for _, i := range is {
		out = append(out, optimize.Target{ID: i.ID, Zone: i.Zone, Version: i.Version, Started: i.Started})
	}
	slices.SortFunc(out, func(a, b optimize.Target) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// versionsOf is as "version v41 at 4 instances".
func versionsOf(is []Instance) string {
	n := map[string]int{}
	for _, i := range is {
		n[i.Version]++
	}
	var out []string
	for v, k := range n {
		out = append(out, fmt.Sprintf("version %s at %d instances", cmp.Or(v, "without a name"), k))
	}
	slices.Sort(out)
	return cmp.Or(strings.Join(out, ", "), "none at all")
}

var (
	_ optimize.Actuator  = (*Actuator)(nil)
	_ optimize.Versioned = (*Actuator)(nil)
	_ optimize.Checker   = (*Actuator)(nil)
)
