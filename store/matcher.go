package store

// MatchOp is how a matcher compares.
type MatchOp uint8

// The operators, as Prometheus has them. Regular expressions are anchored at both ends.
const (
	MatchEqual     MatchOp = iota // =
	MatchNotEqual                 // !=
	MatchRegexp                   // =~
	MatchNotRegexp                // !~
)

// Matcher is one condition on a label. A label that is not there has the value "".
type Matcher struct {
	Name  string
	Op    MatchOp
	Value string
}
