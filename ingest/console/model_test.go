package console

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/quantra-l/quantra/profile"
	consolev1 "github.com/quantra-l/quantra/wire/console/v1"
)

const start = int64(1_800_000_000) // seconds since 1970

// at is so many seconds after start.
func at(s float64) *timestamppb.Timestamp {
	return timestamppb.New(time.Unix(start, int64(s*1e9)))
}

func seconds(s float64) *durationpb.Duration { return durationpb.New(time.Duration(s * 1e9)) }

// planted is a task of the tests: what differs from one that was polled once and sleeps.
func planted(id uint64, name string, change func(*consolev1.Task, *consolev1.TaskStats)) (*consolev1.Task, *consolev1.TaskStats) {
	file, line := "/home/u/.cargo/registry/src/index-1/shop-1.0/src/main.rs", uint32(40)
	t := &consolev1.Task{Id: &consolev1.Id{Id: id}, Metadata: &consolev1.Id{Id: 7}, Location: &consolev1.Location{File: &file, Line: &line},
		Fields: []*consolev1.Field{
			{Name: &consolev1.Field_NameIdx{NameIdx: 1}, Value: &consolev1.Field_DebugVal{DebugVal: name}, MetadataId: &consolev1.Id{Id: 7}},
			{Name: &consolev1.Field_StrName{StrName: "task.id"}, Value: &consolev1.Field_U64Val{U64Val: id + 1000}},
		}}
	s := &consolev1.TaskStats{CreatedAt: at(1), Wakes: 10, WakerClones: 1, LastWake: at(1),
		PollStats: &consolev1.PollStats{Polls: 1, FirstPoll: at(1), LastPollStarted: at(1.5), LastPollEnded: at(2), BusyTime: seconds(0.5)}, ScheduledTime: seconds(0.25)}
	if change != nil {
		change(t, s)
	}
	return t, s
}

// update is one of the tasks that are given, at so many seconds.
func update(s float64, add func(u *consolev1.Update, task func(uint64, string, func(*consolev1.Task, *consolev1.TaskStats)))) []byte {
	u := &consolev1.Update{Now: at(s), TaskUpdate: &consolev1.TaskUpdate{StatsUpdate: map[uint64]*consolev1.TaskStats{}}, ResourceUpdate: &consolev1.ResourceUpdate{}, AsyncOpUpdate: &consolev1.AsyncOpUpdate{},
		NewMetadata: &consolev1.RegisterMetadata{Metadata: []*consolev1.NewMetadata{{Id: &consolev1.Id{Id: 7}, Metadata: &consolev1.Metadata{Target: "tokio::task", FieldNames: []string{"kind", "task.name"}}}}}}
	add(u, func(id uint64, name string, change func(*consolev1.Task, *consolev1.TaskStats)) {
		t, st := planted(id, name, change)
		u.TaskUpdate.NewTasks = append(u.TaskUpdate.NewTasks, t)
		u.TaskUpdate.StatsUpdate[id] = st
	})
	b, err := proto.Marshal(u)
	if err != nil {
		panic(err) // cannot be: it is made above
	}
	return b
}

func newTestModel(t *testing.T) *model {
	t.Helper()
	m := newModel(1<<20, &budget{limit: 1 << 20})
	t.Cleanup(func() {
		if m.close(); m.shared.used.Load() != 0 {
			t.Errorf("%d bytes are still held of a model that is closed", m.shared.used.Load())
		}
	})
	return m
}

func apply(t *testing.T, m *model, b []byte) {
	t.Helper()
	if err := m.apply(b); err != nil {
		t.Fatal(err)
	}
	check(t, m)
}

// check is what holds of every model: its bytes and its places' tasks are the sums of what is in it.
func check(t *testing.T, m *model) {
	t.Helper()
	bytes, live := int64(0), map[*site]int{}
	for id, x := range m.tasks {
		bytes += x.bytes
		live[x.site]++
		if x.id != id || m.sites[x.site.siteKey] != x.site {
			t.Errorf("task %d has id %d and a place that is not of the model", id, x.id)
		}
	}
	for _, x := range m.ops {
		bytes += x.bytes
	}
	for _, x := range m.resources {
		bytes += x.bytes
	}
	for _, x := range m.metas {
		bytes += x.bytes
	}
	for _, s := range m.sites {
		bytes += s.bytes
		if w := s.window; s.live != live[s] || w.busy < 0 || w.scheduled < 0 {
			t.Errorf("a place has %d tasks, and %d are of it, in %+v", s.live, live[s], w)
		}
	}
	if bytes != m.bytes || m.bytes > m.limit || m.shared.used.Load() != m.bytes {
		t.Errorf("the model counts %d bytes, what is in it %d, all %d", m.bytes, bytes, m.shared.used.Load())
	}
}

// TestLints: each task that is wrong in one way has that warning and no other, by the bounds of tokio's own console.
func TestLints(t *testing.T) {
	kind := func(k string) func(*consolev1.Task) {
		return func(n *consolev1.Task) {
			n.Fields = append(n.Fields, &consolev1.Field{Name: &consolev1.Field_StrName{StrName: "kind"}, Value: &consolev1.Field_StrVal{StrVal: k}})
		}
	}
	size := func(n *consolev1.Task, field string, bytes uint64) {
		n.Fields = append(n.Fields, &consolev1.Field{Name: &consolev1.Field_StrName{StrName: field}, Value: &consolev1.Field_U64Val{U64Val: bytes}})
	}
	running := func(s *consolev1.TaskStats, since float64) { s.PollStats.LastPollStarted = at(since) }
	for name, c := range map[string]struct {
		change func(*consolev1.Task, *consolev1.TaskStats)
		want   string
	}{
		"sleeps":                    {nil, ""},
		"half of its wakes are own": {func(_ *consolev1.Task, s *consolev1.TaskStats) { s.SelfWakes = 5 }, ""},
		"more than half are":        {func(_ *consolev1.Task, s *consolev1.TaskStats) { s.SelfWakes = 6 }, SelfWakes},
		"no waker":                  {func(_ *consolev1.Task, s *consolev1.TaskStats) { s.WakerDrops = 1 }, LostWaker},
		"more dropped than cloned":  {func(_ *consolev1.Task, s *consolev1.TaskStats) { s.WakerDrops = 9 }, LostWaker},
		"no waker, but woken":       {func(_ *consolev1.Task, s *consolev1.TaskStats) { s.WakerDrops, s.LastWake = 1, at(3) }, ""},
		"no waker, but running":     {func(_ *consolev1.Task, s *consolev1.TaskStats) { s.WakerDrops = 1; running(s, 9.8) }, ""},
		"no waker, never polled":    {func(_ *consolev1.Task, s *consolev1.TaskStats) { s.WakerDrops, s.PollStats = 1, nil }, ""},
		"first poll of 0.9 s":       {func(_ *consolev1.Task, s *consolev1.TaskStats) { running(s, 9.1); s.PollStats.BusyTime = nil }, ""},
		"first poll of 1.1 s":       {func(_ *consolev1.Task, s *consolev1.TaskStats) { running(s, 8.9); s.PollStats.BusyTime = nil }, NeverYielded},
		"second poll of 7 s":        {func(_ *consolev1.Task, s *consolev1.TaskStats) { running(s, 3); s.PollStats.Polls = 2 }, ""},
		"blocks, as it may":         {func(n *consolev1.Task, s *consolev1.TaskStats) { kind("blocking")(n); running(s, 2); s.SelfWakes = 9 }, ""},
		"1,023 bytes":               {func(n *consolev1.Task, _ *consolev1.TaskStats) { size(n, "size.bytes", 1023) }, ""},
		"1,024 bytes":               {func(n *consolev1.Task, _ *consolev1.TaskStats) { size(n, "size.bytes", 1024) }, LargeFuture},
		"moved to the heap": {func(n *consolev1.Task, _ *consolev1.TaskStats) {
			size(n, "size.bytes", 8)
			size(n, "original_size.bytes", 20_000)
		}, AutoBoxed},
	} {
		m := newTestModel(t)
		apply(t, m, update(10, func(_ *consolev1.Update, task func(uint64, string, func(*consolev1.Task, *consolev1.TaskStats))) {
			task(3, name, c.change)
		}))
		var got []string
		for _, w := range m.tasks[3].lint(m.now) {
			got = append(got, w.Code)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %q", name, got, c.want)
		}
	}
}

// TestSnapshot: tasks are grouped by where they were spawned and what they wait for, and their figures are sums.
func TestSnapshot(t *testing.T) {
	m := newTestModel(t)
	file, line := "src/lock.rs", uint32(9)
	apply(t, m, update(10, func(u *consolev1.Update, task func(uint64, string, func(*consolev1.Task, *consolev1.TaskStats))) {
		task(1, "worker", nil)
		task(2, "worker", nil)
		task(3, "worker", func(n *consolev1.Task, s *consolev1.TaskStats) { s.PollStats.LastPollEnded = at(4); s.WakerDrops = 1 })
		task(4, "reader", func(n *consolev1.Task, s *consolev1.TaskStats) {
			n.Parents = []*consolev1.Id{{Id: 99}, {Id: 1}}
			s.PollStats.LastPollStarted, s.PollStats.Polls = at(8), 2
		})
		task(5, "over", func(_ *consolev1.Task, s *consolev1.TaskStats) { s.DroppedAt = at(9) })
		u.ResourceUpdate.NewResources = []*consolev1.Resource{{Id: &consolev1.Id{Id: 20}, ConcreteType: "Semaphore", Kind: &consolev1.ResourceKind{Kind: &consolev1.ResourceKind_Other{Other: "Sync"}}, Location: &consolev1.Location{File: &file, Line: &line}}}
		u.ResourceUpdate.DroppedEvents = 3
		u.AsyncOpUpdate.NewAsyncOps = []*consolev1.AsyncOp{
			{Id: &consolev1.Id{Id: 31}, Source: "Mutex::lock", ResourceId: &consolev1.Id{Id: 20}},
			{Id: &consolev1.Id{Id: 32}, Source: "Semaphore::acquire", ResourceId: &consolev1.Id{Id: 20}, ParentAsyncOpId: &consolev1.Id{Id: 31}},
			{Id: &consolev1.Id{Id: 33}, Source: "ended", ResourceId: &consolev1.Id{Id: 20}},
		}
		on := func(task uint64) *consolev1.AsyncOpStats {
			return &consolev1.AsyncOpStats{TaskId: &consolev1.Id{Id: task}, PollStats: &consolev1.PollStats{LastPollStarted: at(2)}}
		}
		u.AsyncOpUpdate.StatsUpdate = map[uint64]*consolev1.AsyncOpStats{31: on(2), 32: on(2), 33: {DroppedAt: at(3), TaskId: &consolev1.Id{Id: 2}}}
	}))
	s := m.snapshot()
	if s.Total != 4 || len(s.Groups) != 3 || s.Dropped != (Dropped{Resources: 3}) || s.Truncated || !s.Time.Equal(time.Unix(start+10, 0)) {
		t.Fatalf("%+v", s)
	}
	var idle, waiting, running Group
	for _, g := range s.Groups {
		switch {
		case len(g.Stack) == 3:
			waiting = g
		case g.State == stateRunning:
			running = g
		default:
			idle = g
		}
	}
	if idle.Count != 2 || idle.Leaked != 1 || idle.Warnings[LostWaker] != 1 || idle.WaitMax != 8 || idle.WaitMin != 6 || !slices.Equal(idle.IDs, []uint64{1001, 1003}) ||
		idle.Polls != 2 || idle.Wakes != 20 || idle.Busy != 1e9 || idle.Scheduled != 0.5e9 || idle.Idle != 2*(9e9-0.75e9) || idle.Wakers != 1 ||
		idle.Stack[0] != (Frame{"worker", "shop-1.0/src/main.rs", 40}) || *idle.Creator != (Frame{"tokio::spawn", "shop-1.0/src/main.rs", 40}) {
		t.Errorf("idle: %+v", idle)
	}
	if waiting.Count != 1 || waiting.Stack[0] != (Frame{"Semaphore::acquire", "src/lock.rs", 9}) || waiting.Stack[1].Func != "Mutex::lock" || waiting.Stack[2].Func != "worker" {
		t.Errorf("waiting: %+v", waiting)
	}
	if running.Count != 1 || running.Parents["worker"] != 1 || running.Busy != 2.5e9 {
		t.Errorf("running: %+v", running)
	}
	if r := s.Resources; len(r) != 1 || r[0] != (ResourceGroup{"Semaphore", "Sync", false, "src/lock.rs", 9, 1, 2}) {
		t.Errorf("%+v", r)
	}
	list := m.list(2)
	if len(list) != 2 || list[0].ID != 1003 || list[0].Warnings[0].Code != LostWaker || list[1].ID != 1004 || list[1].Target != "tokio::task" || list[1].Location != "shop-1.0/src/main.rs:40:0" {
		t.Errorf("%+v", list)
	}
}

// column is a profile's values of one type by function.
func column(t *testing.T, p *profile.Profile, typ string) map[string]int64 {
	t.Helper()
	i := slices.IndexFunc(p.SampleTypes, func(v profile.ValueType) bool { return v.Type == typ })
	out := map[string]int64{}
	for _, r := range profile.Top(p, i) {
		if r.Self != 0 {
			out[r.Name] = r.Self
		}
	}
	return out
}

// TestTake: windows add up to what tasks did while they were watched: not what they did before, and what is under way as far as it has come.
func TestTake(t *testing.T) {
	m := newTestModel(t)
	apply(t, m, update(10, func(_ *consolev1.Update, task func(uint64, string, func(*consolev1.Task, *consolev1.TaskStats))) {
		task(1, "old", nil)
		task(2, "holds", func(_ *consolev1.Task, s *consolev1.TaskStats) { s.PollStats.LastPollStarted = at(8) })
	}))
	p := m.take()
	if got := column(t, p, "tasks"); got["old"] != 1 || got["holds"] != 1 || len(column(t, p, "busy")) != 0 || len(column(t, p, "spawned")) != 0 {
		t.Errorf("before anybody watched: %v, %v", got, column(t, p, "busy"))
	}
	apply(t, m, update(13, func(u *consolev1.Update, task func(uint64, string, func(*consolev1.Task, *consolev1.TaskStats))) {
		_, s := planted(1, "old", func(_ *consolev1.Task, s *consolev1.TaskStats) {
			s.PollStats.BusyTime, s.PollStats.Polls, s.Wakes = seconds(2), 4, 12
		})
		u.TaskUpdate.StatsUpdate[1] = s
		task(3, "new", func(_ *consolev1.Task, s *consolev1.TaskStats) { s.DroppedAt = at(12) })
	}))
	p = m.take()
	if busy := column(t, p, "busy"); busy["old"] != 1.5e9 || busy["holds"] != 3e9 || busy["new"] != 0.5e9 {
		t.Errorf("busy: %v", busy)
	}
	for typ, want := range map[string]map[string]int64{"polls": {"old": 3, "new": 1}, "wakes": {"old": 2, "new": 10}, "spawned": {"new": 1}, "ended": {"new": 1}, "tasks": {"old": 1, "holds": 1}, "scheduled": {"new": 0.25e9}} {
		got := column(t, p, typ)
		for name, v := range want {
			if got[name] != v || len(got) != len(want) {
				t.Errorf("%s: %v, want %v", typ, got, want)
			}
		}
	}
	if _, err := profile.DecodeBytes(p.AppendPprof(nil), profile.Limits{}); err != nil {
		t.Error(err)
	}
	// What the program takes back is not taken off, and counts again when it is past what it was.
	for i, busy := range []float64{1, 2.5} {
		apply(t, m, update(13+float64(i), func(u *consolev1.Update, _ func(uint64, string, func(*consolev1.Task, *consolev1.TaskStats))) {
			_, u.TaskUpdate.StatsUpdate[1] = planted(1, "old", func(_ *consolev1.Task, s *consolev1.TaskStats) { s.PollStats.BusyTime = seconds(busy) })
		}))
		if got := column(t, m.take(), "busy")["old"]; got != []int64{0, 0.5e9}[i] {
			t.Errorf("at %v s: %d", busy, got)
		}
	}
	if m.sites[siteKey{file: "shop-1.0/src/main.rs", line: 40, kind: kindTask, name: "new"}] != nil {
		t.Error("a place where nothing lives any more is still known")
	}
}

// TestAgain: an id that another task has now is that one's.
func TestAgain(t *testing.T) {
	m := newTestModel(t)
	for i, name := range []string{"first", "second"} {
		apply(t, m, update(10+float64(i), func(_ *consolev1.Update, task func(uint64, string, func(*consolev1.Task, *consolev1.TaskStats))) {
			task(1, name, nil)
		}))
	}
	if len(m.tasks) != 1 || m.tasks[1].site.name != "second" {
		t.Errorf("%+v", m.tasks[1].site)
	}
	p := m.take()
	if ended := column(t, p, "ended"); ended["first"] != 1 {
		t.Errorf("ended: %v", ended)
	}
}

// TestBounds: what there is no room for is left out and counted, of texts too long for their bound there is the beginning, and absurd
// figures have no sums below zero.
func TestBounds(t *testing.T) {
	m := newModel(20_000, &budget{limit: 30_000})
	defer m.close()
	long := strings.Repeat("ü", 400)
	for i := range uint64(20) {
		apply(t, m, update(10, func(u *consolev1.Update, task func(uint64, string, func(*consolev1.Task, *consolev1.TaskStats))) {
			for j := range uint64(50) {
				task(1+i*50+j, long, func(_ *consolev1.Task, s *consolev1.TaskStats) {
					s.ScheduledTime = &durationpb.Duration{Seconds: math.MaxInt64}
					s.PollStats.BusyTime = &durationpb.Duration{Seconds: math.MaxInt64, Nanos: -1}
					s.PollStats.LastPollStarted = &timestamppb.Timestamp{Seconds: math.MinInt64}
					s.Wakes, s.SelfWakes = math.MaxUint64, math.MaxUint64
				})
				u.AsyncOpUpdate.NewAsyncOps = append(u.AsyncOpUpdate.NewAsyncOps, &consolev1.AsyncOp{Id: &consolev1.Id{Id: 1 + i*50 + j}, Source: long, ParentAsyncOpId: &consolev1.Id{Id: 1 + i*50 + j}})
			}
		}))
	}
	if m.leftOut < 800 || len(m.tasks) < 20 || len(m.tasks[1].site.name) != maxText {
		t.Errorf("%d left out, %d tasks, a name of %d bytes", m.leftOut, len(m.tasks), len(m.tasks[1].site.name))
	}
	s := m.snapshot()
	if !s.Truncated || s.LeftOut != m.leftOut || s.Groups[0].Busy < 0 || s.Groups[0].Scheduled < 0 {
		t.Errorf("%+v", s.Groups[0])
	}
	p := m.take()
	for i := range p.SampleTypes {
		if p.Total(i) < 0 {
			t.Errorf("%v: %d", p.SampleTypes[i], p.Total(i))
		}
	}
	other := newModel(20_000, m.shared)
	defer other.close()
	for i := range uint64(60) {
		b := update(10, func(_ *consolev1.Update, task func(uint64, string, func(*consolev1.Task, *consolev1.TaskStats))) {
			task(i+1, "x", nil)
		})
		if err := other.apply(b); err != nil {
			t.Fatal(err)
		}
	}
	if all := m.shared.used.Load(); all > 30_000 || all != m.bytes+other.bytes || other.leftOut == 0 {
		t.Errorf("both hold %d bytes, %d and %d", all, m.bytes, other.bytes)
	}
}

// TestCorrupt: what is no update is refused with the word for it.
func TestCorrupt(t *testing.T) {
	good := update(10, func(_ *consolev1.Update, task func(uint64, string, func(*consolev1.Task, *consolev1.TaskStats))) {
		task(1, "x", nil)
	})
	large := update(10, func(_ *consolev1.Update, task func(uint64, string, func(*consolev1.Task, *consolev1.TaskStats))) {
		task(1, strings.Repeat("x", maxElement), nil)
	})
	for name, b := range map[string][]byte{"nothing": nil, "cut": good[:len(good)-1], "text": []byte("GET / HTTP/1.1\r\n"), "a number for a message": {0x10, 1, 0x0a, 2, 8, 1}, "a large element": large} {
		if err := newModel(1<<20, &budget{limit: 1 << 20}).apply(b); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMemory: what things are counted as is what they take, within a half.
func TestMemory(t *testing.T) {
	m := newModel(1<<40, &budget{limit: 1 << 40})
	var updates [][]byte
	for i := range uint64(20) {
		updates = append(updates, update(10, func(u *consolev1.Update, task func(uint64, string, func(*consolev1.Task, *consolev1.TaskStats))) {
			for j := range uint64(1000) {
				id := 1 + i*1000 + j
				task(id, "worker", nil)
				u.AsyncOpUpdate.NewAsyncOps = append(u.AsyncOpUpdate.NewAsyncOps, &consolev1.AsyncOp{Id: &consolev1.Id{Id: id}, Source: "Sleep::new_timeout"})
				u.ResourceUpdate.NewResources = append(u.ResourceUpdate.NewResources, &consolev1.Resource{Id: &consolev1.Id{Id: id}, ConcreteType: "Sleep"})
			}
		}))
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for _, b := range updates {
		if err := m.apply(b); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	took := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	runtime.KeepAlive(updates)
	if len(m.tasks) != 20_000 || took > m.bytes*3/2 || took < m.bytes/2 {
		t.Errorf("%d tasks take %d bytes and are counted as %d", len(m.tasks), took, m.bytes)
	}
	t.Logf("%d bytes for %d counted", took, m.bytes)
}

// FuzzApply: whatever a program sends, models stay sound and within their bounds, and what is shown and kept of them can be made. The seeds
// are updates of a real program (TestRust records them).
func FuzzApply(f *testing.F) {
	files, err := filepath.Glob("testdata/*.update")
	if err != nil || len(files) < 3 {
		f.Fatalf("%d updates of a real program: %v", len(files), err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, b[:len(b)/2])
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		m := newModel(100_000, &budget{limit: 100_000})
		for _, b := range [][]byte{first, second, first} {
			if err := m.apply(b); err != nil && !errors.Is(err, ErrCorrupt) {
				t.Errorf("an error without its word: %v", err)
			}
			check(t, m)
		}
		m.snapshot()
		m.list(100)
		if p := m.take(); p != nil {
			if _, err := profile.DecodeBytes(p.AppendPprof(nil), profile.Limits{}); err != nil {
				t.Error(err)
			}
		}
		check(t, m)
		if _, _, err := readDetails(second); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("an error without its word: %v", err)
		}
		if m.close(); m.shared.used.Load() != 0 {
			t.Errorf("%d bytes are left", m.shared.used.Load())
		}
	})
}
