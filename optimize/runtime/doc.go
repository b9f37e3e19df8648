// Package runtime proposes settings of the Go runtime (GOGC, GOMEMLIMIT, GOMAXPROCS) from what was measured, and makes them by
// leases that agents take, which end by themselves and restore what was found.
//
// [Propose] is a pure function of figures; docs/runtime.md has its model and what was measured of it. [Actuator] reaches agents through
// func fields, and keeps nothing: after a restart it knows its leases by their settings.
package runtime
