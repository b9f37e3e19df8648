package zerotrust

import (
	"time"
)

// The rules of trust. All numbers are issue 7's, items 2 and 5; trust is a whole number from 0 to 100.
const (
	startTrust = 50
	maxTrust   = 100

	connectionReward = 1  // a good connection
	historyEvery     = 10 // connections: one more for each ten,
	maxHistory       = 20 // at most so many times
	ageEvery         = 30 * 24 * time.Hour
	maxAge           = 10 // one more for each 30 days, at most so many times

	failurePenalty = 5  // a failed verification: a debt that is taken off,
	maxPenalty     = 30 // never more than this at once; good connections pay it back first

	passedReward     = 5  // a challenge answered
	failedPunishment = 15 // one that was not
)

// goodAfter is how long a connection must have stood to count as a good one, and only one at a time counts: so trust is worth at least a
// minute a point, and is not to be had by connecting a hundred times a second.
const goodAfter = time.Minute

// Record is all that is known of a principal.
type Record struct {
	Principal   string    `json:"principal"`
	Vouched     bool      `json:"vouched"` // an issuer, or whoever logged it in, stands for it
	First       time.Time `json:"first"`   // whole seconds, as the others
	Last        time.Time `json:"last"`    // it was let in, or judged again
	Merit       int       `json:"merit"`   // 0 to 100: what it has earned
	Penalty     int       `json:"penalty"` // 0 to 30: what is taken off
	Connections uint32    `json:"connections"`
	Failures    uint32    `json:"failures"` // verifications that failed
	Passed      uint32    `json:"challenges_passed"`
	Failed      uint32    `json:"challenges_failed"`
	History     int       `json:"history"` // how often ten connections were rewarded
	Age         int       `json:"age"`     // how often 30 days were
	// Counted is when the last good connection that counted had ended.
	Counted  time.Time `json:"counted"`
	Baseline Baseline  `json:"-"`
}

// newRecord is a record of one who was never here.
func newRecord(principal string, vouched bool, now time.Time) Record {
	now = now.Truncate(time.Second).UTC()
	return Record{Principal: principal, Vouched: vouched, First: now, Last: now, Merit: startTrust}
}

// Trust is what it is worth now, 0 to 100.
func (r *Record) Trust() int { return max(0, r.Merit-r.Penalty) }

// earn pays the debt first.
func (r *Record) earn(n int) {
	paid := min(n, r.Penalty)
	r.Penalty -= paid
	r.Merit = min(maxTrust, r.Merit+n-paid)
}

// connected counts a connection that stood from..to in order.
func (r *Record) connected(from, to time.Time) {
	from, to = from.Truncate(time.Second), to.Truncate(time.Second)
	if to.Sub(from) < goodAfter || from.Before(r.Counted) {
		return
	}
	r.Counted = to.UTC()
	r.Connections++
	r.earn(connectionReward)
	if r.Connections%historyEvery == 0 && r.History < maxHistory {
		r.History++
		r.earn(1)
	}
}

// failed counts a verification that failed.
func (r *Record) failed() {
	r.Failures++
	r.Penalty = min(maxPenalty, r.Penalty+failurePenalty)
}

// challenged counts a challenge.
func (r *Record) challenged(passed bool) {
	if passed {
		r.Passed++
		r.earn(passedReward)
		return
	}
	r.Failed++
	r.Merit = max(0, r.Merit-failedPunishment)
}

// aged gives what is due for its age, and is when more is; the zero time is never. It counts only while somebody looks: what
// comes due in an absence comes due at the return.
func (r *Record) aged(now time.Time) (next time.Time) {
	for r.Age < maxAge {
		if next = r.First.Add(time.Duration(r.Age+1) * ageEvery); now.Before(next) {
			return next
		}
		r.Age++
		r.earn(1)
	}
	return time.Time{}
}

// class says who goes first where there is no room for all: the lowest. Nobody puts out one of a higher class, and only
// strangers put out their like.
func (r *Record) class() int {
	switch {
	case r.Vouched:
		return vouched
	case r.Connections >= historyEvery:
		return known
	}
	return stranger
}

const (
	stranger = iota
	known    // ten good connections: at least ten minutes of good behaviour each
	vouched
)
