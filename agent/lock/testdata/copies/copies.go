// Package copies copies locks, for go vet to see.
package copies

import "github.com/quantra-l/quantra/agent/lock"

func mutex(m lock.Mutex) {}

func rwMutex(m lock.RWMutex) {}
