package console

import (
	"cmp"
	"math"
	"slices"

	"github.com/quantra-l/quantra/profile"
)

// ProfileName is the profile that is kept of each program.
const ProfileName = "tokio_tasks"

// profileTypes are its columns: how many tasks live at the end of the window, then what has come together in it.
var profileTypes = []profile.ValueType{
	{Type: "tasks", Unit: "count"},
	{Type: "busy", Unit: "nanoseconds"},      // polled
	{Type: "scheduled", Unit: "nanoseconds"}, // woken, and not polled yet
	{Type: "polls", Unit: "count"},
	{Type: "wakes", Unit: "count"},
	{Type: "self_wakes", Unit: "count"},
	{Type: "spawned", Unit: "count"},
	{Type: "ended", Unit: "count"},
}

// maxPlaces bounds the stacks of one profile: the busiest places, the others are one.
const maxPlaces = 2000

// take is the profile of what has come together since the last one, and begins the next. nil is that there is nothing in it. A stack is how
// tasks were spawned, and the tasks of one place: their name, else the place.
func (m *model) take() *profile.Profile {
	for _, t := range m.tasks {
		t.advance(m.now)
	}
	var sites []*site
	for _, s := range m.sites {
		if s.live > 0 || s.window != (figures{}) {
			sites = append(sites, s)
		}
	}
	if len(sites) == 0 {
		return nil
	}
	slices.SortFunc(sites, func(a, b *site) int {
		return cmp.Or(cmp.Compare(b.window.busy, a.window.busy), cmp.Compare(b.live, a.live), cmp.Compare(a.location(), b.location()), cmp.Compare(a.name, b.name), cmp.Compare(a.kind, b.kind))
	})
	b := profile.NewBuilder(profileTypes...)
	for i, s := range sites {
		k := s.siteKey
		if i >= maxPlaces {
			k = siteKey{kind: k.kind, name: "(other tasks)"}
		}
		root := b.Location(profile.Location{}, profile.Line{Function: b.Function(profile.Function{Name: b.String(k.spawner())})})
		leaf := b.Location(profile.Location{}, profile.Line{Function: b.Function(profile.Function{Name: b.String(k.entry()), File: b.String(k.file)}), Line: int64(k.line), Column: int64(k.column)})
		w := s.window
		b.Add(b.Stack(b.Stack(0, root), leaf), 0, int64(s.live), bound(uint64(w.busy)), bound(uint64(w.scheduled)), bound(w.polls), bound(w.wakes), bound(w.selfWakes), bound(w.spawned), bound(w.ended))
	}
	m.rest()
	p := b.Profile()
	p.PeriodType, p.Period = profile.ValueType{Type: "tasks", Unit: "count"}, 1
	p.DefaultSampleType = "busy"
	return p
}

// bound is a value of which maxPlaces fit into a sum, whatever a program tells: 27 days in nanoseconds.
func bound(n uint64) int64 { return int64(min(n, math.MaxInt64/(2*maxPlaces))) }
