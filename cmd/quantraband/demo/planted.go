package demo

import "github.com/quantra-l/quantra/analyze"

// Plant is one thing that is wrong with the demo's service on purpose.
type Plant struct {
	Kind     analyze.Kind
	Function string // as the finding names it; "" is no function's
	Subject  string // as the finding has it; "" where its kind has none
	// Follows says that it comes of another plant, and may be too little to be found.
	Follows bool
}

const here = "github.com/quantra-l/quantra/cmd/quantraband/demo."

// Planted is all of them: findings of the fleet's profiles have each, and of these kinds and those of harm nothing else. Hot spots are
// measurements and not among them.
func Planted() []Plant {
	return []Plant{
		{Kind: analyze.Regression, Function: here + "(*Cache).evict"},
		{Kind: analyze.Contention, Function: here + "(*Ledger).Post", Subject: "ledger"},
		{Kind: analyze.Blocking, Function: here + "(*Bank).authorisePayment", Subject: "connection set-up"},
		{Kind: analyze.GCPressure, Subject: "gc_cpu"},
		{Kind: analyze.AllocHotLoop, Function: here + "compressJournal"},
		{Kind: analyze.Contention, Function: here + "(*Cache).Put", Subject: "prices", Follows: true},
	}
}
