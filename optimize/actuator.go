package optimize

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/quantra-l/quantra/optimize/judge"
)

// Actuator is how changes of one kind are made. Each call may be repeated: the optimizer calls it again after a crash, or where an
// answer was lost. Errors that are [ErrGone] or [ErrRefused] are final; all others are tried again until their time is over.
type Actuator interface {
	// Traits say how changes of this kind are made and judged.
	Traits(c *Change) Traits
	// Targets are what the change can be applied to now, sorted by ID. Those that cannot take it are left out.
	Targets(ctx context.Context, c *Change) ([]Target, error)
	// Snapshot is what is in force at a target now: all that Undo needs.
	Snapshot(ctx context.Context, c *Change, t Target) (json.RawMessage, error)
	// Rehearse proves that Undo would bring back what the snapshot says, without the change being made: by a dry run, or by
	// setting what is set already and taking that back. It leaves the target as it was.
	Rehearse(ctx context.Context, c *Change, t Target, snapshot json.RawMessage) error
	// Apply makes the change, or keeps it in force: it is called again as often as Traits.Keep says. It does not wait until it is in
	// force; Standing tells.
	Apply(ctx context.Context, c *Change, t Target, snapshot json.RawMessage) error
	// Undo brings back what the snapshot says. That the change was never made is no error.
	Undo(ctx context.Context, c *Change, t Target, snapshot json.RawMessage) error
	// Standing is how the change stands, with a word of why.
	Standing(ctx context.Context, c *Change, t Target, snapshot json.RawMessage) (Standing, string, error)
}

// Watcher is an actuator that can have targets measured closely that it does not change: what is treated and what is left alone
// must be seen at the same pace, at the same cost. The optimizer calls it for the controls of a stage as often as Traits.Keep says.
// A control that is gone, or will not be watched, is no error: its measurements tell.
type Watcher interface {
	Watch(ctx context.Context, c *Change, controls []Target) error
}

// Traits are what the optimizer must know of a kind.
type Traits struct {
	// Whole says that the change is of the service as a whole: there is one target and no control, and it is held to bounds and to
	// its own past instead. The policy's bound on changes of one node is not for it: those who propose such changes have cool-downs.
	Whole bool
	// Toggles says that on a single target it can be switched on and off to be judged.
	Toggles bool
	// Keep is how often Apply is called again while the change is in force; 0 is never.
	Keep time.Duration
	// AtOnce is for how many targets Snapshot and Rehearse may be called at the same time; 0 is 1.
	AtOnce int
}

// What an actuator's error is, for the optimizer to branch on.
var (
	ErrGone    = errors.New("gone")    // there is no such target any more
	ErrRefused = errors.New("refused") // the target does not take it, and trying again is no use
)

// Sight is what was measured of some instances of a service: the judge's input, but for which of them is treated.
type Sight struct {
	Members []judge.Member // by the target's ID
	// To is up to when measurements can be expected to be there. Zero is now.
	To time.Time
}

// Question asks for measurements.
type Question struct {
	Tenant, Service string
	Instances       []string
	// Whole says that Instances is one target that stands for the service: what all of its instances were together is asked for, as of
	// one of them on average, under that name.
	Whole    bool
	From, To time.Time // of the points; baselines included
	// Profiles are summed over [ProfileFrom, To) and the baseline's over [From, BaselineTo). Zero ProfileFrom asks for none.
	ProfileFrom, BaselineTo time.Time
}
