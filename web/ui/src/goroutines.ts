// Goroutines arranged for the eye: a tree by who created whom, stacks as a call
// tree, and what grew. The tree is that of the package agent/live; the two must agree.

import type { Tree } from "./api";
import type { Group, Snapshot } from "./fleet";

/** Node is the goroutines that began with one function and were created in one place. */
export interface Node {
  key: number; // the same in every snapshot
  func: string;
  creator: string; // the function with the go statement; "" if it is not known
  at: string; // and its file and line
  ended: boolean; // stands for creators that are no more: func is theirs, and it counts none itself
  parts: [Group, number][]; // groups, and how many of each are here
  children: Node[];
  states: Map<string, number>; // of this node and all below
  own: Map<string, number>; // of this node
  wait: number; // seconds, the longest of this node and all below
  leaked: number;
}

const elided = "...", parentEnded = "(ended)", parentUnknown = "(unknown)";
// Functions that only call what they were given.
const wrappers = new Set(["sync.(*WaitGroup).Go.func1", "golang.org/x/sync/errgroup.(*Group).Go.func1", "golang.org/x/sync/errgroup.(*Group).Go.func1.1", "runtime/pprof.Do"]);

/** entryOf is the function that a group's goroutines began with. */
export function entryOf(g: Group): string {
  for (let i = g.stack.length - 1; i >= 0; i--) if (i === 0 || !wrappers.has(g.stack[i].func) || g.stack[i - 1].func === elided) return g.stack[i].func;
  return g.state === "other" ? "(other)" : "(stack not known)";
}

const hashes = new Map<string, number>();
function fnv(s: string): number {
  let x = hashes.get(s);
  if (x === undefined) {
    x = 0x811c9dc5;
    for (let i = 0; i < s.length; i++) x = Math.imul(x ^ s.charCodeAt(i), 0x01000193);
    if (hashes.size > 50_000) hashes.clear();
    hashes.set(s, (x >>>= 0));
  }
  return x;
}

// join is 53 bits of several names and numbers.
function join(...parts: (string | number)[]): number {
  let a = 0x9e3779b1, b = 0x85ebca6b;
  for (const p of parts) {
    const v = typeof p === "string" ? fnv(p) : p;
    a = Math.imul(a ^ v, 0x01000193) + 1;
    b = Math.imul((b << 5) ^ (b >>> 3) ^ v, 0x27d4eb2f);
  }
  return (a >>> 0) * 2 ** 21 + (b >>> 11);
}

interface Place { parent: string; creator: string; entry: string; node: Node; count: number }

/** treeOf arranges a snapshot's goroutines: below an entry function are those that its goroutines created. */
export function treeOf(s: Snapshot): Node {
  const places = new Map<string, Place>();
  const put = (parent: string, g: Group, n: number) => {
    const entry = entryOf(g), creator = g.creator?.func ?? "", k = parent + "\0" + creator + "\0" + entry;
    let p = places.get(k);
    if (!p) places.set(k, (p = { parent, creator, entry, count: 0, node: newNode(join(parent, creator, entry), entry, creator) }));
    if (!p.node.at && g.creator?.file) p.node.at = place(g.creator.file, g.creator.line);
    p.count += n;
    p.node.parts.push([g, n]);
  };
  for (const g of s.groups) {
    let left = g.count;
    for (const [parent, n] of Object.entries(g.parents ?? {})) {
      const k = Math.min(n, left);
      left -= k;
      if (k > 0) put(parent, g, k);
    }
    if (left > 0) put("", g, left);
  }
  const root = newNode(0, "all goroutines", ""), all = [...places.values()], home = homes(all), ended = new Map<string, Node>();
  for (const p of all) {
    let above = root;
    const h = home.get(p.parent);
    if (p.parent === parentEnded || p.parent === parentUnknown) {
      const known = ended.get(p.creator);
      above = known ?? newNode(join(p.parent, p.creator), p.creator || "(creator not known)", "");
      if (!known) {
        above.ended = true;
        ended.set(p.creator, above);
        root.children.push(above);
      }
    } else if (h && !(home.get(p.entry)!.place === p && home.get(p.entry)!.atRoot)) above = h.place.node;
    above.children.push(p.node);
  }
  sum(root);
  return root;
}

function newNode(key: number, func: string, creator: string): Node {
  return { key, func, creator, at: "", ended: false, parts: [], children: [], states: new Map(), own: new Map(), wait: 0, leaked: 0 };
}

function place(file: string, line?: number): string {
  return file.slice(file.lastIndexOf("/") + 1) + (line ? ":" + line : "");
}

// homes is for each entry function the one place below which all stands that its goroutines created: the nearest
// to the root, then the one with the most of them. A circle, whose beginning has ended, begins at its largest.
function homes(all: Place[]): Map<string, { place: Place; atRoot: boolean }> {
  const home = new Map<string, { place: Place; atRoot: boolean }>(), entries = new Set(all.map((p) => p.entry)), byParent = new Map<string, Place[]>();
  for (const p of all) {
    const known = byParent.get(p.parent);
    if (known) known.push(p);
    else byParent.set(p.parent, [p]);
  }
  const name = (p: Place) => p.parent + "\0" + p.creator + "\0" + p.entry;
  const larger = (a: Place, b: Place) => b.count - a.count || (name(a) < name(b) ? -1 : 1);
  const settle = (ps: Place[], atRoot: boolean) => {
    const fresh: string[] = [];
    for (const p of ps.sort(larger)) {
      if (home.has(p.entry)) continue;
      home.set(p.entry, { place: p, atRoot });
      fresh.push(p.entry);
    }
    return fresh;
  };
  const bySize = [...all].sort(larger);
  let level = settle(all.filter((p) => !entries.has(p.parent)), false);
  while (home.size < entries.size) {
    level = settle(level.flatMap((e) => byParent.get(e) ?? []), false);
    if (level.length || home.size >= entries.size) continue;
    level = settle([bySize.find((p) => !home.has(p.entry))!], true);
  }
  return home;
}

function sum(n: Node): void {
  for (const [g, k] of n.parts) {
    n.own.set(g.state, (n.own.get(g.state) ?? 0) + k);
    n.wait = Math.max(n.wait, g.wait_max_s ?? 0);
    n.leaked += Math.min(k, g.leaked ?? 0);
  }
  for (const [s, k] of n.own) n.states.set(s, k);
  for (const c of n.children) {
    sum(c);
    for (const [s, k] of c.states) n.states.set(s, (n.states.get(s) ?? 0) + k);
    n.wait = Math.max(n.wait, c.wait);
    n.leaked += c.leaked;
  }
}

/** among is how many are in one of these states; an empty filter is all of them. */
export function among(states: Map<string, number>, filter: Set<string>): number {
  let n = 0;
  for (const [s, k] of states) if (!filter.size || filter.has(s)) n += k;
  return n;
}

/** each calls f with a node and all below it. */
export function each(n: Node, f: (n: Node) => void): void {
  f(n);
  for (const c of n.children) each(c, f);
}

/** stacksOf is the call tree of a node's goroutines and of all below it, for the flame graph: the root of a stack first. */
export function stacksOf(top: Node, filter: Set<string>): Tree {
  interface Trie { name: string; self: number; total: number; kids: Map<string, Trie> }
  const make = (name: string): Trie => ({ name, self: 0, total: 0, kids: new Map() });
  const root = make("total");
  each(top, (n) => {
    for (const [g, k] of n.parts) {
      if (filter.size && !filter.has(g.state)) continue;
      let at = root;
      at.total += k;
      for (let i = g.stack.length - 1; i >= 0; i--) {
        const f = g.stack[i], name = f.func === elided ? `… ${f.line ?? ""} frames left out` : f.func;
        let next = at.kids.get(name);
        if (!next) at.kids.set(name, (next = make(name)));
        next.total += k;
        at = next;
      }
      at.self += k;
    }
  });
  const names: string[] = [], index = new Map<string, number>(), t = { names, name: [] as number[], level: [] as number[], self: [] as number[], total: [] as number[] };
  const walk = (n: Trie, level: number) => {
    let i = index.get(n.name);
    if (i === undefined) {
      index.set(n.name, (i = names.length));
      names.push(n.name);
    }
    t.name.push(i);
    t.level.push(level);
    t.self.push(n.self);
    t.total.push(n.total);
    for (const c of n.kids.values()) walk(c, level + 1);
  };
  if (root.total) walk(root, 0);
  return t;
}

/** Suspect is a group that waits and only grows. */
export interface Suspect { group: Group; grew: number; sinceMs: number }

const leakWait = 60, leakRises = 2;

/** History is what became of each group while the page watched. */
export class History {
  private kinds = new Map<number, { first: number; last: number; fell: boolean; rises: number; since: number }>();

  /** add takes a snapshot into account; the answer is what may be leaks in it: they wait for over a minute, rose at least twice and never fell. */
  add(s: Snapshot): Suspect[] {
    const now = Date.parse(s.time), out: Suspect[] = [], seen = new Map<number, number>(), groups = new Map<number, Group>();
    for (const g of s.groups) {
      if (!g.stack.length) continue;
      const k = join(g.state, g.creator?.func ?? "", g.creator?.line ?? 0, ...g.stack.flatMap((f) => [f.func, f.line ?? 0]));
      seen.set(k, (seen.get(k) ?? 0) + g.count);
      groups.set(k, g);
    }
    for (const [k, n] of seen) {
      const h = this.kinds.get(k);
      if (!h) {
        this.kinds.set(k, { first: n, last: n, fell: false, rises: 0, since: now });
        continue;
      }
      h.fell ||= n < h.last;
      if (n > h.last) h.rises++;
      h.last = n;
      const g = groups.get(k)!;
      if (!h.fell && h.rises >= leakRises && (g.wait_max_s ?? 0) >= leakWait) out.push({ group: g, grew: n - h.first, sinceMs: h.since });
    }
    for (const k of this.kinds.keys()) if (!seen.has(k)) this.kinds.delete(k);
    return out.sort((a, b) => b.grew - a.grew);
  }
}

/** stopNs is about how long a program stands still for a full list: 3.5 µs for a goroutine of three frames and 0.8 µs
 * for each frame more, as agent/live has measured. */
export function stopNs(s: Snapshot): number {
  let ns = 0, n = 0;
  for (const g of s.groups) {
    ns += g.count * (3500 + 800 * Math.max(0, g.stack.length - 3));
    n += g.count;
  }
  return n ? (ns / n) * s.total : 3500 * s.total;
}

const order = ["running", "run", "runnable", "scheduled", "syscall", "IO wait", "network", "select", "chan receive", "chan send", "sync", "sync.Mutex.Lock", "sync.RWMutex.Lock", "sync.RWMutex.RLock", "sync.WaitGroup.Wait", "sync.Cond.Wait", "sync.(*Cond).Wait", "semacquire", "sleep", "idle"];
const colours: { [state: string]: number } = { running: 2, run: 2, runnable: 4, scheduled: 4, idle: 8, syscall: 5, "IO wait": 1, network: 1, select: 7, "chan receive": 3, "chan send": 6, semacquire: 0, sync: 0, sleep: 8 };

/** colourOf is a state's colour, the same in tree, legend and traces. */
export function colourOf(state: string): string {
  return `var(--line-${colours[state] ?? (state.startsWith("sync.") ? 0 : 9)})`;
}

/** byState is states in the order in which they are always drawn. */
export function byState<T>(states: Iterable<[string, T]>): [string, T][] {
  const rank = (s: string) => (order.indexOf(s) + order.length + 1) % (order.length + 1);
  return [...states].sort((a, b) => rank(a[0]) - rank(b[0]) || (a[0] < b[0] ? -1 : 1));
}
