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

// Actuator makes changes of the kind [optimize.PGO], or of the kind [optimize.Patch]: what is put where is another job, and all else the same. It implements
// [optimize.Actuator] and [optimize.Versioned]. It keeps nothing but, for a while, what places elsewhere have answered.
type Actuator struct {
	instances func(tenant, service string) []Instance
	now       func() time.Time
	// job reads a change's spec, and allowed says why the policy does not have it there.
	job     func(service string, spec json.RawMessage) (*job, error)
	allowed func(service string, spec json.RawMessage) error

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

// job is what one change puts where.
type job struct {
	where string // as the target is called
	title string // of its pull request
	what  string // for people: "the profile"
	mind  string // for those who merge; "" is nothing
	sum   string // of a profile
	// version is that which new ones are compared with, where it runs; "" is all that ran before. any is that every new version has it.
	version string
	any     bool

	open  func() (Place, error)
	files func(ctx context.Context) (map[string][]byte, error)
}

// NewActuator makes one for profiles, of options that are complete.
func NewActuator(o Options) (*Actuator, error) {
	if o.Where == nil || o.Open == nil || o.Profile == nil || o.Instances == nil {
		return nil, errors.New("builds: Options.Where, Open, Profile and Instances are needed")
	}
	return newActuator(o.Instances, o.Now, o.job, o.allowed), nil
}

func newActuator(instances func(tenant, service string) []Instance, now func() time.Time, j func(string, json.RawMessage) (*job, error), allowed func(string, json.RawMessage) error) *Actuator {
	if now == nil {
		now = time.Now
	}
	return &Actuator{instances: instances, now: now, job: j, allowed: allowed, looks: map[string]looked{}}
}

// job is that of a change which puts a profile to its place.
func (o *Options) job(service string, raw json.RawMessage) (*job, error) {
	s, err := ParseSpec(raw)
	if err != nil {
		return nil, err
	}
	name := s.Where.String()
	j := &job{
		where: name, what: "the profile", sum: s.Profile, version: s.Version, any: o.AnyVersion,
		title: name[strings.LastIndexAny(name, "/:")+1:] + ": profile of " + plain(service, 80) + " for the compiler",
		open:  func() (Place, error) { return o.Open(s.Where) },
	}
	if s.Where.Pull != nil {
		name = s.Where.Pull.Path
	}
	j.files = func(ctx context.Context) (map[string][]byte, error) {
		b, err := o.Profile(ctx, s.Profile)
		return map[string][]byte{name: b}, err
	}
	return j, nil
}

func (o *Options) allowed(service string, raw json.RawMessage) error {
	s, err := ParseSpec(raw)
	if err != nil {
		return err
	}
	w, ok := o.Where(service)
	switch {
	case !ok:
		return fmt.Errorf("builds: %w: the policy has no place for %s's profile: name it under pgo", optimize.ErrRefused, service)
	case !w.equal(s.Where):
		return fmt.Errorf("builds: %w: the policy has %s's profile at %s, and the change is of %s", optimize.ErrRefused, service, w, s.Where)
	}
	return nil
}

// snapshot is what was there before the change, and what ran.
type snapshot struct {
	At       time.Time       `json:"at"`
	Versions []string        `json:"versions"`
	Was      json.RawMessage `json:"was"`
}

// Check implements [optimize.Checker]: a proposal may go only where the policy has the service's profile, or its source, whoever makes it.
func (a *Actuator) Check(p *optimize.Proposal) error { return a.allowed(p.Service, p.Spec) }

// Traits implements [optimize.Actuator]: a build is of the service as a whole.
func (*Actuator) Traits(*optimize.Change) optimize.Traits { return optimize.Traits{Whole: true} }

// Targets implements [optimize.Actuator]: the place.
func (a *Actuator) Targets(_ context.Context, c *optimize.Change) ([]optimize.Target, error) {
	j, err := a.job(c.Service, c.Spec)
	if err != nil {
		return nil, err
	}
	if !c.State.Acting() && a.allowed(c.Service, c.Spec) != nil {
		return nil, nil
	}
	return []optimize.Target{{ID: j.where}}, nil
}

// put is what a change does, at the place where it does it.
func (a *Actuator) put(c *optimize.Change, raw json.RawMessage) (j *job, place Place, p Put, snap snapshot, err error) {
	j, err = a.job(c.Service, c.Spec)
	if err != nil {
		return nil, nil, p, snap, fmt.Errorf("%w: %w", optimize.ErrRefused, err)
	}
	if raw != nil {
		if err := json.Unmarshal(raw, &snap); err != nil {
			return nil, nil, p, snap, fmt.Errorf("builds: %w: the snapshot cannot be read: %v", optimize.ErrRefused, err)
		}
	}
	place, err = j.open()
	p = Put{Change: c.ID, Service: c.Service, Sum: j.sum, Was: snap.Was, Title: j.title, Body: body(c, j.mind)}
	return j, place, p, snap, err
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
func body(c *optimize.Change, mind string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nIt is change `%s`. When a build with it runs beside one without, it is judged; what it is then is told there.\n", markdown(c.Sentence, 2000), c.ID)
	if c.State == optimize.Undoing {
		fmt.Fprintf(&b, "\n**It is taken back:** %s Roll back what was built with it: this pull request alone changes nothing that runs.\n", markdown(c.Reason, 2000))
	}
	for _, w := range append(slices.Clone(c.Warnings), mind) {
		if w == "" {
			continue
		}
		fmt.Fprintf(&b, "\n- Mind: %s", markdown(w, 500))
	}
	return b.String()
}

// Snapshot implements [optimize.Actuator].
func (a *Actuator) Snapshot(ctx context.Context, c *optimize.Change, _ optimize.Target) (json.RawMessage, error) {
	j, place, p, _, err := a.put(c, nil)
	if err == nil {
		err = a.allowed(c.Service, c.Spec)
	}
	if err != nil {
		return nil, err
	}
	files, err := j.files(ctx)
	if err != nil {
		return nil, err
	}
	snap := snapshot{At: a.now().UTC()}
	if snap.Was, err = place.Was(ctx, p, files); err != nil {
		return nil, err
	}
	for _, i := range a.instances(c.Tenant, c.Service) {
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
	j, place, p, _, err := a.put(c, raw)
	if err != nil {
		return err
	}
	files, err := j.files(ctx)
	if err != nil {
		return err
	}
	return place.Rehearse(ctx, p, files)
}

// Apply implements [optimize.Actuator].
func (a *Actuator) Apply(ctx context.Context, c *optimize.Change, _ optimize.Target, raw json.RawMessage) error {
	j, place, p, _, err := a.put(c, raw)
	if err != nil {
		return err
	}
	files, err := j.files(ctx)
	if err != nil {
		return err
	}
	a.forget(c)
	return place.Put(ctx, p, files)
}

// Undo implements [optimize.Actuator].
func (a *Actuator) Undo(ctx context.Context, c *optimize.Change, _ optimize.Target, raw json.RawMessage) error {
	_, place, p, _, err := a.put(c, raw)
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
	now := a.now()
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
	j, place, p, snap, err := a.put(c, raw)
	if err != nil {
		return "", "", err
	}
	l, err := a.look(ctx, c, place, p)
	if err != nil {
		return "", "", err
	}
	if c.State == optimize.Undoing {
		s, why := a.undone(c, j, l, &snap)
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
	treated, control := a.sides(c, j, &snap, l)
	if len(treated) > 0 {
		return optimize.InForce, "", nil
	}
	return optimize.Pending, fmt.Sprintf("%s is in place; no new version of %s that was built with it runs yet, there is %s", j.what, c.Service, versionsOf(control)), nil
}

// undone is how an undo stands: it is not done before what was built with it runs no more.
func (a *Actuator) undone(c *optimize.Change, j *job, l Look, snap *snapshot) (optimize.Standing, string) {
	running := map[string]bool{}
	for i := range c.Units {
		if u := &c.Units[i]; !u.Place && !u.Applied.IsZero() {
			running[u.Version] = true
		}
	}
	left := 0
	var version string
	for _, i := range a.instances(c.Tenant, c.Service) {
		if running[i.Version] && !slices.Contains(snap.Versions, i.Version) {
			left, version = left+1, i.Version
		}
	}
	rollBack := fmt.Sprintf("version %s still runs at %d instances: roll back to %s", version, left, strings.Join(snap.Versions, ", "))
	switch {
	case l.State == Kept:
		return optimize.Absent, l.Note // that is what people want
	case l.State == There || l.State == Asked || l.State == Waiting:
		still := cmp.Or(l.Note, j.what+" is still in place")
		if left > 0 {
			return optimize.Pending, still + "; " + rollBack
		}
		return optimize.Pending, still
	case left > 0:
		return optimize.Pending, "no new build takes " + j.what + "; " + rollBack
	}
	return optimize.Absent, l.Note
}

// Sides implements [optimize.Versioned].
func (a *Actuator) Sides(ctx context.Context, c *optimize.Change, _ optimize.Target, raw json.RawMessage) (optimize.Sides, error) {
	j, place, p, snap, err := a.put(c, raw)
	if err != nil {
		return optimize.Sides{}, err
	}
	l, err := a.look(ctx, c, place, p)
	if err != nil {
		return optimize.Sides{}, err
	}
	treated, control := a.sides(c, j, &snap, l)
	return optimize.Sides{Treated: targets(treated), Control: targets(control)}, nil
}

// sides are the instances of versions that came since the profile, or the patch, has been in place, and the others. Versions that ran together with what was there
// before, and of which none was built with a profile, do not count. Where several ran before, new ones are compared with the one that the profile is of.
func (a *Actuator) sides(c *optimize.Change, j *job, snap *snapshot, l Look) (treated, control []Instance) {
	since := snap.At
	if l.Since.After(since) {
		since = l.Since
	}
	since = since.Add(-skew)
	all := a.instances(c.Tenant, c.Service)
	fresh := map[string]bool{}
	for _, i := range all {
		had, known := fresh[i.Version]
		is := !slices.Contains(snap.Versions, i.Version) && !i.Started.Before(since) && (j.any || i.Profiled == nil || *i.Profiled)
		fresh[i.Version] = is && (had || !known)
	}
	for _, i := range all {
		if fresh[i.Version] {
			treated = append(treated, i)
		} else {
			control = append(control, i)
		}
	}
	if j.version != "" && slices.ContainsFunc(control, func(i Instance) bool { return i.Version == j.version }) {
		control = slices.DeleteFunc(control, func(i Instance) bool { return i.Version != j.version })
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
