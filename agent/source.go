package agent

import "io"

// Source is a profile of the program's own that the agent takes along, as agent/lock's.
type Source struct {
	// Name is the profile's name: [a-zA-Z_][a-zA-Z0-9_]*, not one of the agent's own.
	Name string
	// Write writes running totals since the program began, pprof in gzip; the agent sends what each
	// window added to them. It must not block. All its sample types (at most 4) are totals.
	Write func(w io.Writer) error
	// Report is what the agent's status shows of it, as JSON; nil is nothing.
	Report func() any
}
