// Package pgo makes of a fleet's CPU profiles the one that the Go compiler should optimise by (default.pgo), and says
// how far it can be relied on.
//
// What the compiler takes from a profile is little: how often each function calls each other, by the line of the call
// counted from where the caller starts, in the innermost two locations of each stack (see [EdgesOf]). The calls that
// together have 99 % of the weight are hot; these it inlines with a larger budget, and the most frequent
// callee of an indirect call it calls directly. So a profile is as good as its weights are right for the fleet:
//
//   - Every stretch of the week weighs alike, and in it every instance ([Merger]): neither an instance that lives longer
//     or works harder, nor an hour that was profiled more, decides for the others.
//   - Nothing is kept but what the compiler reads, without labels, addresses, file names and times, and the same
//     profiles give the same bytes: a repository has a difference only where something has changed.
//   - Where a bound on size is passed the coldest calls go, and their weight stays in calls that do not exist,
//     so that what was hot is hot, to the last call ([Result]).
//
// Nothing here does I/O: profiles and facts in, bytes and a report out.
package pgo
