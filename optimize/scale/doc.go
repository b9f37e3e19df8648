// Package scale says how many replicas a service needs, and makes it so through whatever holds them.
//
// [Propose] and [ProposeMachine] are pure functions over what was measured; they have no clock. [Actuator] is the optimizer's actuator
// for the number of replicas. It knows the places where replicas are by [Replicas] alone: rooms scale/kube, scale/gce and scale/command
// are three, each behind a door of its own so that its dependencies are in no other room's build.
//
// docs/scale.md has the rules and what was measured of them.
package scale
