package scale

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/quantra-l/quantra/optimize"
)

// Replicas is a place where groups of replicas are: a cluster, a project of a cloud, commands. Errors that are
// [optimize.ErrGone] (no such group) or [optimize.ErrRefused] (it never will) are final, all others worth another try.
type Replicas interface {
	// Get is what a group is now.
	Get(ctx context.Context, group string) (State, error)
	// Set asks for n replicas if the group still has was.ID and was.Replicas, which it checks as close to the act as the place allows; a
	// group that has others is [optimize.ErrRefused]. Asking for as many as there are is no error and changes nothing, but that what
	// was.Drained says takes load again. With dry nothing is changed: the place proves as much as it can of that it would do it.
	// Fewer replicas are ended gracefully: what they still do is done first, or the place refuses.
	Set(ctx context.Context, group string, was State, n int, dry bool) error
}

// State is what a group of replicas is.
type State struct {
	// ID is the group's identity: one that was made anew under the same name has another. "" is a place that cannot tell.
	ID string `json:"id,omitempty"`
	// Replicas is how many are asked for, Ready how many bear load now, Current how many there are, those that end or start included.
	Replicas int `json:"replicas"`
	Ready    int `json:"ready"`
	Current  int `json:"current"`
	// Owner is who else decides how many there are, in words: an autoscaler. "" is nobody.
	Owner string `json:"-"`
	// Drained says that replicas that are asked for were told to take no load.
	Drained bool   `json:"-"`
	Zone    string `json:"-"`
}

// Place is where a group is, as whoever knows the places says.
type Place struct {
	Replicas Replicas
	// Floor and Ceiling bound every change once more, whatever a proposal says. 0 are 2 and 1000.
	Floor, Ceiling int
}

// Spec is a change of how many there are, as it is in [optimize.Proposal].Spec.
type Spec struct {
	Place string `json:"place"` // its name, for ActuatorOptions.Place
	Group string `json:"group"` // as that place names it
	From  int    `json:"from"`
	To    int    `json:"to"`
}

// ErrNoPlace says that nobody knows the place of a change: it is not, or not any more, in the policy.
var ErrNoPlace = errors.New("there is no such place")

// ActuatorOptions are of an [Actuator].
type ActuatorOptions struct {
	// Place finds the place of a change's group, each time that something is done there: places come and go. Its error is ErrNoPlace where
	// there is none.
	Place func(c *optimize.Change, s Spec) (Place, error)
}

// Actuator makes changes of the kind [optimize.Scale]. It implements [optimize.Actuator] and [optimize.Checker], and keeps nothing.
type Actuator struct{ o ActuatorOptions }

// NewActuator checks the options.
func NewActuator(o ActuatorOptions) (*Actuator, error) {
	if o.Place == nil {
		return nil, fmt.Errorf("scale: nobody knows the places: give Place")
	}
	return &Actuator{o}, nil
}

// Check implements [optimize.Checker]: a change is of a place that there is, and within its bounds.
func (a *Actuator) Check(p *optimize.Proposal) error {
	s, place, err := a.spec(&optimize.Change{Proposal: *p})
	if err != nil {
		return err
	}
	return place.bounds(s)
}

// Traits implements [optimize.Actuator]: replicas are of the service as a whole.
func (a *Actuator) Traits(*optimize.Change) optimize.Traits { return optimize.Traits{Whole: true} }

// Targets implements [optimize.Actuator]: the group, unless it cannot take the change.
func (a *Actuator) Targets(ctx context.Context, c *optimize.Change) ([]optimize.Target, error) {
	s, place, err := a.spec(c)
	if errors.Is(err, ErrNoPlace) {
		return nil, nil
	}
	if err == nil {
		err = place.bounds(s)
	}
	if err != nil {
		return nil, err
	}
	st, err := place.Replicas.Get(ctx, s.Group)
	switch {
	case errors.Is(err, optimize.ErrGone):
		return nil, nil
	case err != nil:
		return nil, err
	case st.Owner != "" || st.Replicas != s.From && st.Replicas != s.To:
		return nil, nil
	}
	return []optimize.Target{{ID: s.Place + ":" + s.Group, Zone: st.Zone}}, nil
}

// Snapshot implements [optimize.Actuator]: a [State] as JSON.
func (a *Actuator) Snapshot(ctx context.Context, c *optimize.Change, _ optimize.Target) (json.RawMessage, error) {
	s, place, err := a.spec(c)
	if err == nil {
		err = place.bounds(s)
	}
	if err != nil {
		return nil, err
	}
	st, err := place.Replicas.Get(ctx, s.Group)
	if err != nil {
		return nil, err
	}
	if st.Owner != "" {
		return nil, owned(s, st)
	}
	if st.Replicas != s.From {
		return nil, fmt.Errorf("scale: %s: %w: it has %d replicas by now, and the proposal was made for %d", s, optimize.ErrRefused, st.Replicas, s.From)
	}
	return json.Marshal(st)
}

// Rehearse implements [optimize.Actuator]: a dry run of the change, and one of its undo.
func (a *Actuator) Rehearse(ctx context.Context, c *optimize.Change, _ optimize.Target, snapshot json.RawMessage) error {
	s, place, was, err := a.read(c, snapshot)
	if err == nil {
		err = place.bounds(s)
	}
	if err != nil {
		return err
	}
	now, err := a.look(ctx, place, s, was)
	if err != nil {
		return err
	}
	if now.Replicas != was.Replicas {
		return other(s, was, now)
	}
	if err := place.Replicas.Set(ctx, s.Group, now, s.To, true); err != nil {
		return fmt.Errorf("scale: %s: dry run of the change: %w", s, err)
	}
	if err := place.Replicas.Set(ctx, s.Group, now, was.Replicas, true); err != nil {
		return fmt.Errorf("scale: %s: dry run of the undo: %w", s, err)
	}
	return nil
}

// Apply implements [optimize.Actuator].
func (a *Actuator) Apply(ctx context.Context, c *optimize.Change, _ optimize.Target, snapshot json.RawMessage) error {
	s, place, was, err := a.read(c, snapshot)
	if err == nil {
		err = place.bounds(s)
	}
	if err != nil {
		return err
	}
	now, err := a.look(ctx, place, s, was)
	switch {
	case err != nil:
		return err
	case now.Replicas == s.To:
		return nil
	case now.Replicas != was.Replicas:
		return other(s, was, now)
	}
	return place.Replicas.Set(ctx, s.Group, now, s.To, false)
}

// Undo implements [optimize.Actuator]. A number that is neither what the change set nor what was there before is somebody else's,
// and is left: [optimize.ErrRefused].
func (a *Actuator) Undo(ctx context.Context, c *optimize.Change, _ optimize.Target, snapshot json.RawMessage) error {
	s, place, was, err := a.read(c, snapshot)
	if err != nil {
		return err
	}
	now, err := a.look(ctx, place, s, was)
	switch {
	case err != nil:
		return err
	case now.Replicas == was.Replicas && !now.Drained:
		return nil
	case now.Replicas != was.Replicas && now.Replicas != s.To:
		return other(s, was, now)
	}
	return place.Replicas.Set(ctx, s.Group, now, was.Replicas, false)
}

// Standing implements [optimize.Actuator]. A change is in force when as many bear load as were asked for and those that were to end have.
func (a *Actuator) Standing(ctx context.Context, c *optimize.Change, _ optimize.Target, snapshot json.RawMessage) (optimize.Standing, string, error) {
	s, place, was, err := a.read(c, snapshot)
	if err != nil {
		return "", "", err
	}
	now, err := place.Replicas.Get(ctx, s.Group)
	if errors.Is(err, optimize.ErrGone) {
		return optimize.Gone, err.Error(), nil
	}
	if err != nil {
		return "", "", err
	}
	word := fmt.Sprintf("%d asked for, %d ready, %d there", now.Replicas, now.Ready, now.Current)
	switch {
	case now.ID != was.ID:
		return optimize.Gone, "the group was made anew", nil
	case now.Replicas == s.To && now.Ready >= s.To && now.Current <= s.To:
		return optimize.InForce, word, nil
	case now.Replicas == s.To:
		return optimize.Pending, word, nil
	case now.Replicas != was.Replicas:
		return optimize.Refused, fmt.Sprintf("somebody else asked for %d: %s", now.Replicas, word), nil
	// Replicas that were not ready before are not waited for.
	case now.Drained || now.Ready < min(was.Ready, was.Replicas):
		return optimize.Pending, word, nil
	}
	return optimize.Absent, word, nil
}

func (s Spec) String() string { return s.Place + ":" + s.Group }

func owned(s Spec, st State) error {
	return fmt.Errorf("scale: %s: %w: %s decides how many there are: change its bounds, or remove it", s, optimize.ErrRefused, st.Owner)
}

func other(s Spec, was, now State) error {
	return fmt.Errorf("scale: %s: %w: somebody else set it from %d to %d: it is left so", s, optimize.ErrRefused, was.Replicas, now.Replicas)
}

// look gets the group, which must be the same as ever and nobody else's.
func (a *Actuator) look(ctx context.Context, place Place, s Spec, was State) (State, error) {
	now, err := place.Replicas.Get(ctx, s.Group)
	if err != nil {
		return now, err
	}
	if now.ID != was.ID {
		return now, fmt.Errorf("scale: %s: %w: it was made anew since", s, optimize.ErrGone)
	}
	if now.Owner != "" {
		return now, owned(s, now)
	}
	return now, nil
}

// spec reads a change's.
func (a *Actuator) spec(c *optimize.Change) (s Spec, place Place, err error) {
	if err := json.Unmarshal(c.Spec, &s); err != nil {
		return s, place, fmt.Errorf("scale: %w: the change's spec cannot be read: %v", optimize.ErrRefused, err)
	}
	if s.From < 0 || s.To < 0 || s.To == s.From {
		return s, place, fmt.Errorf("scale: %s: %w: from %d to %d replicas is no change", s, optimize.ErrRefused, s.From, s.To)
	}
	// That there is no place is not final: what was begun at one that was taken out of the policy is to be undone once it is back.
	if place, err = a.o.Place(c, s); err != nil {
		return s, place, fmt.Errorf("scale: %s of %s: %w", s, c.Service, err)
	}
	place.Floor, place.Ceiling = cmp.Or(place.Floor, DefaultFloor), cmp.Or(place.Ceiling, DefaultCeiling)
	return s, place, nil
}

// bounds are for what makes a change. An undo is not held to them: they may have moved since.
func (p *Place) bounds(s Spec) error {
	switch {
	case s.To < s.From && s.To < p.Floor:
		return fmt.Errorf("scale: %s: %w: %d replicas are below the floor of %d", s, optimize.ErrRefused, s.To, p.Floor)
	case s.To > s.From && s.To > p.Ceiling:
		return fmt.Errorf("scale: %s: %w: %d replicas are above the ceiling of %d", s, optimize.ErrRefused, s.To, p.Ceiling)
	}
	return nil
}

// read is spec with the snapshot.
func (a *Actuator) read(c *optimize.Change, snapshot json.RawMessage) (s Spec, place Place, was State, err error) {
	if s, place, err = a.spec(c); err != nil {
		return s, place, was, err
	}
	if err = json.Unmarshal(snapshot, &was); err != nil {
		err = fmt.Errorf("scale: %s: %w: the snapshot cannot be read: %v", s, optimize.ErrRefused, err)
	} else if was.Replicas != s.From {
		err = fmt.Errorf("scale: %s: %w: the snapshot has %d replicas, and the change is from %d", s, optimize.ErrRefused, was.Replicas, s.From)
	}
	return s, place, was, err
}
