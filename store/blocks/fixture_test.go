package blocks

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
)

// The two types of all profiles of these tests.
var (
	perCPU  = profile.ValueType{Type: "cpu", Unit: "nanoseconds"}
	counts  = profile.Type{Name: "process_cpu", Sample: profile.ValueType{Type: "samples", Unit: "count"}, Period: perCPU}
	cpuTime = profile.Type{Name: "process_cpu", Sample: perCPU, Period: perCPU}
)

// upload is a profile as the head would have it.
type upload struct {
	id       uint64
	labels   profile.Labels
	from, to int64
	period   int64
	p        *profile.Profile
}

func labelsOf(pairs ...string) profile.Labels {
	var ls []profile.Label
	for i := 0; i < len(pairs); i += 2 {
		ls = append(ls, profile.Label{Name: pairs[i], Value: pairs[i+1]})
	}
	out, err := profile.NewLabels(ls...)
	if err != nil {
		panic(err)
	}
	return out
}

// randomUpload has inlined frames, recursion, frames without symbols, sample labels, and negative values.
func randomUpload(rng *rand.Rand, id uint64, from time.Time) *upload {
	b := profile.NewBuilder(counts.Sample, cpuTime.Sample)
	line := func() profile.Line {
		name := b.String(fmt.Sprint("f", rng.IntN(12)))
		return profile.Line{Function: b.Function(profile.Function{Name: name, SystemName: name, File: b.String("f.go"), StartLine: 1}), Line: int64(rng.IntN(3))}
	}
	nodes := []uint32{0}
	for range 1 + rng.IntN(30) {
		var loc uint32
		switch rng.IntN(6) {
		case 0:
			loc = b.Location(profile.Location{Address: uint64(rng.IntN(100)), Mapping: b.Mapping(profile.Mapping{Limit: 1 << 20, File: b.String("libc.so")})})
		case 1:
			loc = b.Location(profile.Location{}, line(), line())
		default:
			loc = b.Location(profile.Location{}, line())
		}
		nodes = append(nodes, b.Stack(nodes[rng.IntN(len(nodes))], loc))
	}
	for range 1 + rng.IntN(40) {
		set := uint32(0)
		if rng.IntN(4) == 0 {
			set = b.LabelSet([]profile.SampleLabel{{Key: b.String("span_id"), Str: b.String(fmt.Sprint("s", rng.IntN(3)))}})
		}
		n := int64(rng.IntN(5))
		if rng.IntN(20) == 0 {
			n = -2
		}
		b.Add(nodes[rng.IntN(len(nodes))], set, n, n*10_000_000)
	}
	return &upload{id: id, labels: labelsOf(profile.LabelService, fmt.Sprint("svc", rng.IntN(3)), profile.LabelVersion, fmt.Sprint("v", rng.IntN(2))),
		from: from.UnixNano(), to: from.Add(10 * time.Second).UnixNano(), period: 10_000_000, p: b.Profile()}
}

// plainUpload is the n-th of a workload: its value says which it is.
func plainUpload(n int) *upload {
	b := profile.NewBuilder(counts.Sample, cpuTime.Sample)
	f := b.Function(profile.Function{Name: b.String(fmt.Sprint("work", n%5))})
	b.Add(b.Stack(0, b.Location(profile.Location{}, profile.Line{Function: f, Line: 1})), 0, int64(n), int64(n)*10_000_000)
	from := epoch.Add(time.Duration(n) * time.Second)
	return &upload{id: uint64(n), labels: labelsOf(profile.LabelService, fmt.Sprint("svc", n%3)), from: from.UnixNano(), to: from.Add(10 * time.Second).UnixNano(),
		period: 10_000_000, p: b.Profile()}
}

// column is the samples of one type of u as a block has them: in the numbers of d, sorted, each once.
func (u *upload) column(t int, stacks, sets []uint32) (outSets, outStacks []uint32, values []int64) {
	sum := map[uint64]int64{}
	for i, s := range u.p.SampleStack {
		sum[uint64(sets[u.p.SampleLabels[i]])<<32|uint64(stacks[s])] += u.p.Values[t][i]
	}
	var keys []uint64
	for k, v := range sum {
		if v != 0 {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		outSets, outStacks, values = append(outSets, uint32(k>>32)), append(outStacks, uint32(k)), append(values, sum[k])
	}
	return outSets, outStacks, values
}

// writeBlock stages a block of some uploads.
func writeBlock(t testing.TB, fs vfs.FS, n int, level block.Level, partition time.Time, ups []*upload, sources ...ulid.ULID) store.Staged {
	t.Helper()
	return writeBlockIn(t, fs, stagedDir, n, level, partition, ups, sources...)
}

func writeBlockIn(t testing.TB, fs vfs.FS, parent string, n int, level block.Level, partition time.Time, ups []*upload, sources ...ulid.ULID) store.Staged {
	t.Helper()
	d := block.NewDict()
	m := block.Meta{ULID: idOf(n), Region: "local", Tenant: "t", Level: level, Partition: partition, Created: epoch, Sources: sources,
		Types: []string{cpuTime.String(), counts.String()}}
	byLabels := map[string]profile.Labels{}
	for _, u := range ups {
		byLabels[u.labels.String()] = u.labels
	}
	var names []string
	for name := range byLabels {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(byLabels[a].Get(profile.LabelService), byLabels[b].Get(profile.LabelService)), cmp.Compare(a, b))
	})
	for _, name := range names {
		m.Series = append(m.Series, block.Series{Name: "process_cpu", Labels: byLabels[name]})
	}
	var rows []*block.Row
	var fns []block.FunctionRow
	for _, u := range ups {
		stacks, sets := d.Intern(u.p)
		series := uint32(slices.Index(names, u.labels.String()))
		for typ, column := range []int{1, 0} {
			r := &block.Row{Series: series, Type: uint32(typ), ID: block.ID{Lo: u.id}, From: u.from, To: u.to, Duration: u.to - u.from, Period: u.period}
			r.Sets, r.Stacks, r.Values = u.column(column, stacks, sets)
			for _, v := range r.Values {
				r.Total += v
			}
			rows = append(rows, r)
			for name, f := range u.functions(column) {
				fns = append(fns, block.FunctionRow{Type: uint32(typ), Series: series, Function: name, Minute: align(u.from, minute), Self: f.self, Cumulative: f.cumulative, Samples: f.samples})
			}
		}
	}
	slices.SortFunc(rows, func(a, b *block.Row) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Series, b.Series), cmp.Compare(a.From, b.From), cmp.Compare(a.ID.Lo, b.ID.Lo))
	})
	dir := filepath.Join(parent, "gen", m.ULID.String())
	w, err := block.NewWriter(dir, m, &d.Tables, block.WriterOptions{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if err := w.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	if level > block.LevelHead {
		for _, f := range mergeFunctions(fns) {
			if err := w.AddFunction(f); err != nil {
				t.Fatal(err)
			}
		}
	}
	meta, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	for d := dir; d != "/"; {
		d = filepath.Dir(d)
		if err := fs.SyncDir(d); err != nil {
			t.Fatal(err)
		}
	}
	return store.Staged{Dir: dir, Meta: meta}
}

func mergeFunctions(rows []block.FunctionRow) (out []block.FunctionRow) {
	slices.SortFunc(rows, func(a, b block.FunctionRow) int { return a.Compare(&b) })
	for _, r := range rows {
		if n := len(out); n > 0 && out[n-1].Compare(&r) == 0 {
			out[n-1].Self += r.Self
			out[n-1].Cumulative += r.Cumulative
			out[n-1].Samples += r.Samples
			continue
		}
		out = append(out, r)
	}
	return out
}

// stage is the n-th block: the one plain upload n.
func stage(t testing.TB, fs vfs.FS, n int) store.Staged {
	return writeBlock(t, fs, n, block.LevelHead, epoch, []*upload{plainUpload(n)})
}

// stageMerged is what compaction would make of blocks that stage made.
func stageMerged(t testing.TB, fs vfs.FS, n int, metas ...block.Meta) store.Staged {
	var ups []*upload
	var sources []ulid.ULID
	for _, m := range metas {
		ups = append(ups, plainUpload(int(m.ULID[14])<<8|int(m.ULID[15])))
		sources = append(sources, m.ULID)
	}
	return writeBlock(t, fs, n, block.LevelPart, epoch, ups, sources...)
}

func planOf(t testing.TB, q store.Query) *store.Plan {
	t.Helper()
	q.Tenant = "t"
	p, err := q.Plan()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// present is which uploads of stage there are, sorted, as often as they are there; their sum by stack must agree.
func present(t testing.TB, b *Blocks) (ids []int) {
	t.Helper()
	ctx := context.Background()
	var mu sync.Mutex
	var sum int64
	p := planOf(t, store.Query{Type: counts})
	err := b.Profiles(ctx, p, nil, func(i store.ProfileInfo) bool {
		mu.Lock()
		defer mu.Unlock()
		ids = append(ids, int(i.ID.Lo))
		sum += i.Total
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(ids)
	g := store.NewGather(1 << 30)
	if err := b.Select(ctx, p, nil, g); err != nil {
		t.Fatal(err)
	}
	want := int64(0)
	for _, id := range ids {
		want += int64(id)
	}
	if r := g.Result(p); r.Profile.Total(0) != want || sum != want || r.Profiles != len(ids) {
		t.Fatalf("%v are there, with %d in %d profiles, totals of %d", ids, r.Profile.Total(0), r.Profiles, sum)
	}
	return ids
}

// fnSums is what a function has in a profile.
type fnSums struct{ self, cumulative, samples int64 }

// functions works out naively what each function has in a column of u. Samples of one stack and one label
// set are one.
func (u *upload) functions(column int) map[string]fnSums { return u.functionsOf(column, nil) }

func (u *upload) functionsOf(column int, takes func([]profile.SampleLabel) bool) map[string]fnSums {
	sum := map[[2]uint32]int64{}
	for i, s := range u.p.SampleStack {
		if takes == nil || takes(u.p.LabelSets[u.p.SampleLabels[i]]) {
			sum[[2]uint32{u.p.SampleLabels[i], s}] += u.p.Values[column][i]
		}
	}
	out := map[string]fnSums{}
	for k, v := range sum {
		if v == 0 {
			continue
		}
		on := map[string]bool{}
		for s := k[1]; s != 0; s = u.p.Stacks.Parent[s] {
			for j, ln := range u.p.LinesOf(u.p.Stacks.Loc[s]) {
				name := u.p.Strings[u.p.Functions[ln.Function].Name]
				on[name] = true
				if s == k[1] && j == 0 {
					f := out[name]
					f.self += v
					out[name] = f
				}
			}
		}
		for name := range on {
			f := out[name]
			f.cumulative += v
			f.samples++
			out[name] = f
		}
	}
	return out
}
