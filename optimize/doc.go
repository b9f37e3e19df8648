// Package optimize changes the world, and undoes what made it worse: it takes a proposal through stages, each on more of a
// service than the one before, has it judged beside what was left as it was, and promotes or undoes it.
//
// It acts through an [Actuator] for each kind of change and looks through a func field; both are its only ways out. What it is
// about to do is in the [Journal] before it is done, so a crash at any point is gone on with, or undone. Undo is rehearsed on a
// target before the change is applied to it. The states and the ways between them are drawn in DESIGN.md.
//
// Time is [Options.Now] and [Optimizer.Tick]: a whole fleet can be simulated in virtual time.
package optimize
