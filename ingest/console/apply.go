package console

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	consolev1 "github.com/quantra-l/quantra/wire/console/v1"
)

// ErrCorrupt says that what a program sent is not what the protocol has.
var ErrCorrupt = errors.New("console: not an update as console-subscriber sends it")

// Fields of the messages that have lists. A message as a whole is not decoded, as structs of many tiny messages take a hundred times their
// bytes: lists are gone through on the wire, and one element at a time is decoded.
const (
	updateNow, updateTasks, updateResources, updateOps, updateMetadata = 1, 2, 3, 4, 5
	metadataList                                                       = 1
	tasksNew, tasksStats, tasksDropped                                 = 1, 3, 4
	resourcesNew, resourcesStats, resourcesDropped                     = 1, 2, 4
	opsNew, opsStats, opsDropped                                       = 1, 2, 3
	entryKey, entryValue                                               = 1, 2 // of a map
)

// maxElement bounds one element of a list: a task with its fields is some hundred bytes.
const maxElement = 64 << 10

// apply brings an update's news into the model. After an error the model is not to be used: what is in it is half of an update.
func (m *model) apply(update []byte) error {
	var now timestamppb.Timestamp
	err := errors.Join(
		element(update, updateNow, "now", &now),
		// Before what is described by it, though it comes after on the wire.
		lists(update, updateMetadata, "new_metadata", func(b []byte) error { return elements(b, metadataList, "metadata", m.register) }),
	)
	if err != nil {
		return err
	}
	if m.now = max(m.now, nanos(&now)); m.now == 0 {
		return fmt.Errorf("%w: it has no time", ErrCorrupt)
	}
	m.updates++
	for _, part := range []struct {
		field protowire.Number
		name  string
		apply func([]byte) error
	}{{updateTasks, "task_update", m.applyTasks}, {updateResources, "resource_update", m.applyResources}, {updateOps, "async_op_update", m.applyOps}} {
		if err := lists(update, part.field, part.name, part.apply); err != nil {
			return err
		}
	}
	return nil
}

// lists calls f with the bytes of each field of a message that has this number.
func lists(b []byte, number protowire.Number, name string, f func([]byte) error) error {
	return walk(b, number, func(typ protowire.Type, v []byte, _ uint64) error {
		if typ != protowire.BytesType {
			return fmt.Errorf("%w: %s is not a message", ErrCorrupt, name)
		}
		return f(v)
	})
}

// walk goes through a message's fields of one number: v is a length-delimited one's bytes, u a varint.
func walk(b []byte, number protowire.Number, f func(typ protowire.Type, v []byte, u uint64) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("%w: %w", ErrCorrupt, protowire.ParseError(n))
		}
		b = b[n:]
		var v []byte
		var u uint64
		switch typ {
		case protowire.BytesType:
			v, n = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			u, n = protowire.ConsumeVarint(b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return fmt.Errorf("%w: field %d: %w", ErrCorrupt, num, protowire.ParseError(n))
		}
		b = b[n:]
		if num == number {
			if err := f(typ, v, u); err != nil {
				return err
			}
		}
	}
	return nil
}

// element decodes a message that is there once.
func element(b []byte, number protowire.Number, name string, to proto.Message) error {
	return lists(b, number, name, func(v []byte) error { return decode(v, name, to) })
}

func decode(b []byte, name string, to proto.Message) error {
	if len(b) > maxElement {
		return fmt.Errorf("%w: %s has %d bytes, the limit is %d", ErrCorrupt, name, len(b), maxElement)
	}
	if err := (proto.UnmarshalOptions{DiscardUnknown: true, RecursionLimit: 10}).Unmarshal(b, to); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrCorrupt, name, err)
	}
	return nil
}

// elements decodes the elements of a list, one at a time: f keeps nothing of one.
func elements[T any, P interface {
	*T
	proto.Message
}](b []byte, number protowire.Number, name string, f func(P)) error {
	return lists(b, number, name, func(v []byte) error {
		e := P(new(T))
		if err := decode(v, name, e); err != nil {
			return err
		}
		f(e)
		return nil
	})
}

// entries does the same with a map's.
func entries[T any, P interface {
	*T
	proto.Message
}](b []byte, number protowire.Number, name string, f func(uint64, P)) error {
	return lists(b, number, name, func(entry []byte) error {
		var key uint64
		err := walk(entry, entryKey, func(_ protowire.Type, _ []byte, u uint64) error { key = u; return nil })
		if err != nil {
			return err
		}
		value := P(new(T))
		if err := element(entry, entryValue, name, value); err != nil {
			return err
		}
		f(key, value)
		return nil
	})
}

// sum adds up a number that is there once.
func sum(b []byte, number protowire.Number, to *uint64) error {
	return walk(b, number, func(_ protowire.Type, _ []byte, u uint64) error { *to += u; return nil })
}

func (m *model) register(n *consolev1.NewMetadata) {
	id, d := n.GetId().GetId(), n.GetMetadata()
	if id == 0 || m.metas[id] != nil || len(d.GetFieldNames()) > maxFields {
		return
	}
	made := &meta{target: cut(d.GetTarget())}
	made.bytes = metaBytes + int64(len(made.target))
	for _, f := range d.GetFieldNames() {
		f = cut(f)
		made.fields = append(made.fields, f)
		made.bytes += int64(len(f)) + 16
	}
	if m.charge(made.bytes) {
		m.metas[id] = made
	}
}

func (m *model) applyTasks(b []byte) error {
	return errors.Join(
		elements(b, tasksNew, "new_tasks", m.spawn),
		entries(b, tasksStats, "stats_update", m.taskStats),
		sum(b, tasksDropped, &m.dropped.Tasks),
	)
}

// The kinds of tasks, as tokio names them.
const (
	kindTask     = "task"
	kindBlocking = "blocking"
	kindBlockOn  = "block_on"
	kindLocal    = "local"
)

// spawn adds a task.
func (m *model) spawn(n *consolev1.Task) {
	id := n.GetId().GetId()
	if id == 0 {
		return
	}
	if old := m.tasks[id]; old != nil {
		m.remove(old)
	}
	t := &task{id: id, stats: stats{created: m.now}, bytes: taskBytes}
	key := siteKey{kind: kindTask, file: shorten(cut(n.GetLocation().GetFile())), line: n.GetLocation().GetLine(), column: n.GetLocation().GetColumn()}
	if n.GetKind() == consolev1.Task_BLOCKING {
		key.kind = kindBlocking
	}
	described := m.metas[n.GetMetadata().GetId()]
	if described != nil {
		t.target = described.target
	}
	for i, f := range n.GetFields() {
		if i >= maxFields {
			break
		}
		switch m.fieldName(f) {
		case "task.name":
			key.name = cut(fieldText(f))
		case "task.id":
			t.number = f.GetU64Val()
		case "kind":
			key.kind = cut(fieldText(f))
		case "size.bytes":
			t.size = f.GetU64Val()
		case "original_size.bytes":
			t.original = f.GetU64Val()
		}
	}
	for _, p := range n.GetParents() {
		if m.tasks[p.GetId()] != nil {
			t.parent = p.GetId()
			break
		}
	}
	if t.site = m.siteOf(key); t.site == nil || !m.charge(t.bytes) {
		return
	}
	t.site.live++
	if m.updates > 1 {
		t.site.window.spawned++
	}
	m.tasks[id] = t
}

func (m *model) fieldName(f *consolev1.Field) string {
	if s := f.GetStrName(); s != "" {
		return s
	}
	if d := m.metas[f.GetMetadataId().GetId()]; d != nil && f.GetNameIdx() < uint64(len(d.fields)) {
		return d.fields[f.GetNameIdx()]
	}
	return ""
}

func fieldText(f *consolev1.Field) string {
	if s := f.GetStrVal(); s != "" {
		return s
	}
	return f.GetDebugVal()
}

func (m *model) taskStats(id uint64, n *consolev1.TaskStats) {
	t := m.tasks[id]
	if t == nil {
		return
	}
	p := n.GetPollStats()
	t.stats = stats{
		created: nanos(n.GetCreatedAt()), dropped: nanos(n.GetDroppedAt()), lastWake: nanos(n.GetLastWake()),
		pollStarted: nanos(p.GetLastPollStarted()), pollEnded: nanos(p.GetLastPollEnded()),
		busy: span(p.GetBusyTime()), scheduled: span(n.GetScheduledTime()),
		polls: p.GetPolls(), wakes: n.GetWakes(), selfWakes: n.GetSelfWakes(), wakerClones: n.GetWakerClones(), wakerDrops: n.GetWakerDrops(),
	}
	if m.updates == 1 { // it was there before us: what it did then is of no window of ours
		t.counted = t.figures(m.now)
	}
	if t.stats.dropped != 0 {
		m.remove(t)
	}
}

func (m *model) applyResources(b []byte) error {
	return errors.Join(
		elements(b, resourcesNew, "new_resources", func(n *consolev1.Resource) {
			r := &resource{typ: cut(n.GetConcreteType()), kind: "timer", internal: n.GetIsInternal(), file: shorten(cut(n.GetLocation().GetFile())), line: n.GetLocation().GetLine()}
			if other, ok := n.GetKind().GetKind().(*consolev1.ResourceKind_Other); ok {
				r.kind = cut(other.Other)
			}
			r.bytes = resourceBytes + int64(len(r.typ)+len(r.kind)+len(r.file))
			id := n.GetId().GetId()
			m.forgetResource(id)
			if id != 0 && m.charge(r.bytes) {
				m.resources[id] = r
			}
		}),
		entries(b, resourcesStats, "stats_update", func(id uint64, n *consolev1.ResourceStats) {
			if n.GetDroppedAt() != nil {
				m.forgetResource(id)
			}
		}),
		sum(b, resourcesDropped, &m.dropped.Resources),
	)
}

func (m *model) applyOps(b []byte) error {
	return errors.Join(
		elements(b, opsNew, "new_async_ops", func(n *consolev1.AsyncOp) {
			o := &op{source: cut(n.GetSource()), resource: n.GetResourceId().GetId(), parent: n.GetParentAsyncOpId().GetId()}
			o.bytes = opBytes + int64(len(o.source))
			id := n.GetId().GetId()
			m.forgetOp(id)
			if id != 0 && m.charge(o.bytes) {
				m.ops[id] = o
			}
		}),
		entries(b, opsStats, "stats_update", func(id uint64, n *consolev1.AsyncOpStats) {
			if n.GetDroppedAt() != nil {
				m.forgetOp(id)
			} else if o := m.ops[id]; o != nil {
				o.task, o.polled = n.GetTaskId().GetId(), nanos(n.GetPollStats().GetLastPollStarted())
			}
		}),
		sum(b, opsDropped, &m.dropped.Ops),
	)
}

// forgetResource takes a resource out that has ended, or whose id another one has now.
func (m *model) forgetResource(id uint64) {
	if r := m.resources[id]; r != nil {
		delete(m.resources, id)
		m.charge(-r.bytes)
	}
}

func (m *model) forgetOp(id uint64) {
	if o := m.ops[id]; o != nil {
		delete(m.ops, id)
		m.charge(-o.bytes)
	}
}

// lastSecond is the latest time that is believed, in the year 2255, and the longest span: as nanoseconds they fit 64 bits.
const lastSecond = 9_000_000_000

func nanos(t *timestamppb.Timestamp) int64 {
	if t == nil || t.GetSeconds() < 0 {
		return 0
	}
	return min(t.GetSeconds(), lastSecond)*1e9 + int64(min(max(t.GetNanos(), 0), 999_999_999))
}

// span is a duration in nanoseconds.
func span(d *durationpb.Duration) int64 {
	if d == nil || d.GetSeconds() < 0 {
		return 0
	}
	return min(d.GetSeconds(), lastSecond)*1e9 + int64(min(max(d.GetNanos(), 0), 999_999_999))
}

// shorten is a source file's path without what differs from machine to machine: where cargo keeps other people's crates, and where
// the standard library was built.
func shorten(file string) string {
	file = strings.ReplaceAll(file, `\`, "/")
	if _, crate, ok := strings.Cut(file, "/registry/src/"); ok {
		if _, rest, ok := strings.Cut(crate, "/"); ok {
			return rest
		}
	}
	if _, rest, ok := strings.Cut(file, "/git/checkouts/"); ok {
		return rest
	}
	if _, rest, ok := strings.Cut(file, "/rustc/"); ok {
		if _, rest, ok := strings.Cut(rest, "/"); ok {
			return rest
		}
	}
	return file
}
