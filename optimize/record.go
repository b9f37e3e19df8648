package optimize

import (
	"encoding/json"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/optimize/judge"
)

// State is where a change is. DESIGN.md draws the ways between the states.
type State string

// The states of a change. Those after Undoing are ends, and Done can still be undone.
const (
	Proposed  State = "proposed"  // nobody has decided
	Waiting   State = "waiting"   // decided, and a rail keeps it from starting: Change.Held says which
	Applying  State = "applying"  // a stage is being applied, target by target
	Dwelling  State = "dwelling"  // a stage is in force and is watched
	Undoing   State = "undoing"   // what was applied is being taken back
	Done      State = "done"      // proven everywhere, and kept in force
	Undone    State = "undone"    // taken back, without having failed: a person's wish, or nothing could be shown
	Failed    State = "failed"    // it did harm and was taken back; it is not tried again
	Withdrawn State = "withdrawn" // it was rejected, or what it rested on is gone
)

// States is all of them.
var States = []State{Proposed, Waiting, Applying, Dwelling, Undoing, Done, Undone, Failed, Withdrawn}

// Acting says that something of the change is, or may be, in force and not yet proven.
func (s State) Acting() bool { return s == Applying || s == Dwelling || s == Undoing }

// Ended says that nothing more will be done, unless somebody asks.
func (s State) Ended() bool { return s == Done || s == Undone || s == Failed || s == Withdrawn }

// Change is a change with its life. It is what the journal keeps, as JSON.
type Change struct {
	ID     string `json:"id"`
	Tenant string `json:"tenant"`
	Proposal
	State State `json:"state"`
	// Reason says in a sentence why it is where it is.
	Reason string `json:"reason,omitempty"`
	// Held is what keeps it from going on, in a sentence: a rail, a pause, an approval that is missing. "" is nothing.
	Held string `json:"held,omitempty"`
	// NeedsApproval says that it does not begin until a person approves it, by the policy that is in force when somebody asks. It is of
	// answers alone: the journal has it false.
	NeedsApproval bool `json:"needs_approval,omitempty"`

	ProposedAt time.Time `json:"proposed_at"`
	SeenAt     time.Time `json:"seen_at"` // when it was proposed last: what is not proposed any more is withdrawn
	StartedAt  time.Time `json:"started_at,omitzero"`
	EndedAt    time.Time `json:"ended_at,omitzero"`
	StartedBy  string    `json:"started_by,omitempty"`
	ApprovedBy string    `json:"approved_by,omitempty"`
	// Versions are those that ran when it started: what is judged is judged on these.
	Versions []string `json:"versions,omitempty"`
	// Awaiting says that it is made and waits for others, as for a build that has it: nothing of it runs yet.
	Awaiting bool `json:"awaiting,omitempty"`
	// Paused says that somebody holds this one; all at once are held by [Optimizer.Pause].
	Rejected bool   `json:"rejected,omitempty"` // by a person: of what is Withdrawn
	Paused   bool   `json:"paused,omitempty"`
	PausedBy string `json:"paused_by,omitempty"`

	// Plan is the policy's, as it was when the change started: it does not change under way.
	Plan  Plan   `json:"plan"`
	Stage int    `json:"stage"` // index of Plan.Stages
	Units []Unit `json:"units,omitempty"`
	// StageAt is when the stage came into force, StageUntil when its dwell ends, Deadline when it is undone if nothing can be shown.
	StageAt    time.Time `json:"stage_at,omitzero"`
	StageUntil time.Time `json:"stage_until,omitzero"`
	Deadline   time.Time `json:"deadline,omitzero"`
	// FrozenAt is since when a pause has stopped the stage's clock; zero is not.
	FrozenAt time.Time `json:"frozen_at,omitzero"`
	// EmptyAt is since when nothing runs that a proven change is kept in force at.
	EmptyAt time.Time `json:"empty_at,omitzero"`
	// Periods are those of a single target that is switched on and off.
	Periods []judge.Period `json:"periods,omitempty"`
	// Replaced counts how often all nodes of a stage went away and others took their places.
	Replaced int `json:"replaced,omitempty"`
	// UndoTo is what it ends as once it is taken back; Reason says why.
	UndoTo State `json:"undo_to,omitempty"`
	// Tries counts errors of the step that is being made, NextTry is when it is made again.
	Tries   int       `json:"tries,omitempty"`
	NextTry time.Time `json:"next_try,omitzero"`

	// Verdict is the last one, Verdicts that of each stage that ended.
	Verdict  *judge.Verdict  `json:"verdict,omitempty"`
	Verdicts []judge.Verdict `json:"verdicts,omitempty"`
	// Saved is the saving that came true, in cores, by the last verdict that had a control.
	Saved *Saved `json:"saved,omitempty"`

	// Beside is, by target, the specs of other changes of the kind that are, or may be, in force there: the optimizer sets it before each step, for
	// the actuator. Nobody keeps it.
	Beside map[string][]json.RawMessage `json:"-"`

	version int64 // of the row
}

// Saved is a saving that came true.
type Saved struct {
	Cores analyze.Estimate `json:"cores"`
	Price *analyze.Money   `json:"price,omitempty"`
}

// UnitState is how far a change is at one target.
type UnitState string

// The states of a unit. In all but UnitControl, UnitTreated, UnitGone, UnitUndone and UnitRefused there may be something to take back.
const (
	UnitControl  UnitState = "control"  // it is left as it is, to compare with
	UnitPlanned  UnitState = "planned"  // it is of the stage; nothing was done
	UnitIntended UnitState = "intended" // the snapshot is kept, the effect may have happened
	UnitApplied  UnitState = "applied"
	UnitTreated  UnitState = "treated" // it came with the change, as an instance of a new version does
	UnitOff      UnitState = "off"     // switched off for a period
	UnitUndoing  UnitState = "undoing"
	UnitUndone   UnitState = "undone"
	UnitRefused  UnitState = "refused"
	UnitGone     UnitState = "gone"
)

// Unit is a target in a change.
type Unit struct {
	Target
	State     UnitState       `json:"state"`
	Stage     int             `json:"stage"`           // in which it was applied
	Place     bool            `json:"place,omitempty"` // it is where the change is made, and no instance
	Snapshot  json.RawMessage `json:"snapshot,omitempty"`
	Rehearsed bool            `json:"rehearsed,omitempty"` // its undo is proven
	Applied   time.Time       `json:"applied,omitzero"`
	Kept      time.Time       `json:"kept,omitzero"` // when Apply was last called
	Undone    time.Time       `json:"undone,omitzero"`
	Left      time.Time       `json:"left,omitzero"`      // when it went away
	Restarts  int             `json:"restarts,omitempty"` // since Applied; of a control since the stage began
	Note      string          `json:"note,omitempty"`     // why it was refused, what the last error was
}

// Event is a moment of a change's history. Events are only added.
type Event struct {
	Seq   int64     `json:"seq"` // counts a change's events from 1; the journal sets it
	Time  time.Time `json:"time"`
	Actor string    `json:"actor"` // "optimizer", or who asked
	What  string    `json:"what"`  // one of the What constants
	Note  string    `json:"note,omitempty"`
	// Target is the unit's, where it is about one.
	Target   string         `json:"target,omitempty"`
	Stage    int            `json:"stage"`
	Verdict  *judge.Verdict `json:"verdict,omitempty"`
	Evidence []Evidence     `json:"evidence,omitempty"`

	of *int // the stage that it is about, where the change has gone on already
}

// What happens to a change.
const (
	WhatProposed  = "proposed"
	WhatStarted   = "started"
	WhatApproved  = "approved"
	WhatWaiting   = "waiting"
	WhatStage     = "stage"     // a stage begins
	WhatIntent    = "intent"    // it is about to be applied to a target
	WhatApplied   = "applied"   // it is in force there
	WhatRefused   = "refused"   // the target does not take it
	WhatGone      = "gone"      // the target went away
	WhatRestarted = "restarted" // the target's process is another
	WhatDwelling  = "dwelling"  // the whole stage is in force
	WhatVerdict   = "verdict"
	WhatPaused    = "paused"
	WhatResumed   = "resumed"
	WhatUndoing   = "undoing"
	WhatUndo      = "undo" // it is about to be taken back from a target
	WhatUnit      = "unit_undone"
	WhatUndone    = "undone"
	WhatFailed    = "failed"
	WhatDone      = "done"
	WhatWithdrawn = "withdrawn"
	WhatError     = "error"
)
