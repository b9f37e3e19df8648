// Package vfs is the seam between an engine and its disk: the real file
// system, one in memory that forgets what was not synced when it crashes, and
// one that fails when told to.
package vfs
