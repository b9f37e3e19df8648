// Where each frame of a call tree lies, computed once a tree: drawing only
// reads typed arrays and allocates nothing.

import type { Tree } from "./api";
import { packageOf } from "./format";

/** Buckets of colour. The first ones have meanings, the rest are hues by package. */
export const enum Bucket { Root, Grey, Dim, Hit, Tiny, Above, DiffFirst, DiffLast = DiffFirst + 20, HueFirst }
export const hues = 36;
export const buckets = Bucket.HueFirst + hues;

export type Width = "both" | "head" | "base";

function fnv(s: string): number {
  let x = 0x811c9dc5;
  for (let i = 0; i < s.length; i++) x = Math.imul(x ^ s.charCodeAt(i), 0x01000193);
  return x >>> 0;
}

const standard = /^(runtime|internal\/|syscall|sync\b|sync\/|\[|libc|__)/;

/** hueOf is the bucket of a function's package: the same in every session and on every machine. */
export function hueOf(name: string): number {
  if (name === "total" || name === "root") return Bucket.Root;
  const p = packageOf(name);
  if (p === "" ? /^(runtime|gc|mcall|memmove|memclr|_)/.test(name) : standard.test(p)) return Bucket.Grey;
  return Bucket.HueFirst + (fnv(p || name) % hues);
}

export class Layout {
  readonly n: number;
  readonly names: string[];
  readonly name: Uint32Array;
  readonly level: Uint32Array;
  readonly parent: Int32Array;
  readonly end: Uint32Array; // one past the last row of the subtree
  readonly self: Float64Array;
  readonly total: Float64Array;
  readonly baseSelf: Float64Array | null;
  readonly baseTotal: Float64Array | null;
  readonly x: Float64Array;
  readonly w: Float64Array;
  readonly hash: Uint32Array; // of the path of names: how a URL names a frame
  readonly levels: number;
  readonly levelStart: Uint32Array;
  readonly order: Uint32Array; // rows by level, then x
  readonly left: Float64Array; // by place in order: where that frame starts
  readonly right: Float64Array; // and ends; what is searched lies side by side in memory
  readonly hue: Uint8Array;
  readonly leftOut: number;
  readonly other: number;

  constructor(t: Tree, width: Width = "both") {
    this.names = t.names ?? [];
    const rows = byName(t), n = (this.n = rows.length);
    this.name = rows.map((i) => t.name![i]);
    const level = (this.level = rows.map((i) => t.level![i]));
    this.self = pick(t.self, rows);
    this.total = pick(t.total, rows);
    this.baseSelf = t.baseTotal ? pick(t.baseSelf, rows) : null;
    this.baseTotal = t.baseTotal ? pick(t.baseTotal, rows) : null;
    this.other = t.other ?? 0;
    this.leftOut = t.leftOut ?? 0;
    this.w = this.widths(width);
    this.x = new Float64Array(n);
    this.parent = new Int32Array(n).fill(-1);
    this.end = new Uint32Array(n);
    this.hash = new Uint32Array(n);
    this.hue = new Uint8Array(n);
    let levels = 0;
    for (let i = 0; i < n; i++) if (level[i] >= levels) levels = level[i] + 1;
    this.levels = levels;
    this.levelStart = new Uint32Array(levels + 1);
    this.order = new Uint32Array(n);
    this.left = new Float64Array(n);
    this.right = new Float64Array(n);
    this.place();
  }

  // In a diff a frame is as wide as the mean of its two shares: widths then add
  // up level by level, and neither what vanished nor what is new is invisible.
  private widths(width: Width): Float64Array {
    if (!this.baseTotal || width === "head") return this.total;
    const out = new Float64Array(this.n);
    const h = this.total[0] || 1, b = this.baseTotal[0] || 1;
    for (let i = 0; i < this.n; i++) out[i] = width === "base" ? this.baseTotal[i] : (this.total[i] / h + this.baseTotal[i] / b) / 2;
    return out;
  }

  private place(): void {
    const { n, level, x, w, parent, end, hash, levelStart, order, names, name, hue } = this;
    const cursor = new Float64Array(this.levels + 1); // where the next frame of a level starts
    const open = new Int32Array(this.levels + 1); // the last row of a level
    const nameHash = Uint32Array.from(names, fnv), nameHue = Uint8Array.from(names, hueOf);
    if (this.other) nameHue[this.other] = Bucket.Grey;
    for (let i = 0; i < n; i++) {
      const l = level[i];
      if (l > 0) parent[i] = open[l - 1];
      open[l] = i;
      x[i] = cursor[l];
      cursor[l] += w[i];
      cursor[l + 1] = x[i];
      hash[i] = (Math.imul((l ? hash[parent[i]] : 17) ^ nameHash[name[i]], 0x9e3779b1) + l) >>> 0;
      hue[i] = nameHue[name[i]];
      levelStart[l + 1]++;
      end[i] = i + 1;
    }
    for (let i = n - 1; i > 0; i--) if (end[i] > end[parent[i]]) end[parent[i]] = end[i];
    for (let l = 0; l < this.levels; l++) levelStart[l + 1] += levelStart[l];
    const at = levelStart.slice();
    for (let i = 0; i < n; i++) {
      const k = at[level[i]]++;
      order[k] = i;
      this.left[k] = x[i];
      this.right[k] = x[i] + w[i];
    }
  }

  nameOf(row: number): string {
    return this.names[this.name[row]] ?? "";
  }

  find(hash: number): number {
    return this.hash.indexOf(hash);
  }

  /** first is the first place in order, of [lo, hi), whose frame ends after v. */
  first(lo: number, hi: number, v: number): number {
    const { right } = this;
    while (lo < hi) {
      const m = (lo + hi) >>> 1;
      if (right[m] > v) hi = m;
      else lo = m + 1;
    }
    return lo;
  }

  /** near is first where the answer is likely close to lo: it looks in steps that double. */
  near(lo: number, hi: number, v: number): number {
    for (let step = 1; lo < hi; step *= 2) {
      const p = Math.min(lo + step, hi) - 1;
      if (this.right[p] > v) return this.first(lo, p, v);
      lo = p + 1;
    }
    return hi;
  }

  /** at is the row of a level that covers v, or -1. */
  at(level: number, v: number): number {
    if (level < 0 || level >= this.levels) return -1;
    const e = this.levelStart[level + 1], k = this.first(this.levelStart[level], e, v);
    return k < e && this.left[k] <= v ? this.order[k] : -1;
  }

  /** matched is the share of the total under frames that match, each sample counted once. */
  matched(match: Uint8Array): number {
    let sum = 0;
    for (let i = 0; i < this.n; ) {
      if (match[this.name[i]]) {
        sum += this.w[i];
        i = this.end[i];
      } else i++;
    }
    return this.w[0] ? sum / this.w[0] : 0;
  }

  /** change is by how much of the whole a row's share grew from base to head. */
  change(row: number): number {
    if (!this.baseTotal) return 0;
    return this.total[row] / (this.total[0] || 1) - this.baseTotal[row] / (this.baseTotal[0] || 1);
  }

  /** diffBuckets colours rows by change; the largest change has the strongest
   * colour, and a square root keeps small ones visible. */
  diffBuckets(): Uint8Array {
    let max = 0.001;
    for (let i = 1; i < this.n; i++) max = Math.max(max, Math.abs(this.change(i)));
    const out = new Uint8Array(this.n);
    for (let i = 0; i < this.n; i++) {
      const c = this.change(i) / max;
      out[i] = Bucket.DiffFirst + 10 + Math.round(Math.sign(c) * Math.sqrt(Math.abs(c)) * 10);
    }
    return out;
  }
}

// byName is the rows in preorder, the children of each frame by name: their
// sizes change with every refresh, and a frame that changes places for that is
// lost to the eye, and to the mouse on its way to it. The same function is then
// also at about the same place in two versions' graphs. What was left out is last.
function byName(t: Tree): Uint32Array {
  const level = t.level ?? [], name = t.name ?? [], names = t.names ?? [], n = level.length;
  const rank = new Uint32Array(names.length);
  names.map((_, i) => i).sort((a, b) => (names[a] < names[b] ? -1 : names[a] > names[b] ? 1 : a - b)).forEach((k, i) => (rank[k] = i));
  if (t.other) rank[t.other] = names.length;
  // Rows by rank, by counting; taken from the last and put before their
  // siblings, they make lists in order without a sort for each parent.
  const start = new Uint32Array(names.length + 2), rows = new Uint32Array(n);
  for (let i = 0; i < n; i++) start[rank[name[i]] + 1]++;
  for (let k = 0; k <= names.length; k++) start[k + 1] += start[k];
  for (let i = 0; i < n; i++) rows[start[rank[name[i]]]++] = i;
  const parent = new Int32Array(n).fill(-1), child = new Int32Array(n).fill(-1), next = new Int32Array(n).fill(-1), open: number[] = [];
  for (let i = 0; i < n; i++) {
    if (level[i] > 0) parent[i] = open[level[i] - 1];
    open[level[i]] = i;
  }
  for (let k = n - 1; k >= 0; k--) {
    const i = rows[k], p = parent[i];
    if (p < 0) continue;
    next[i] = child[p];
    child[p] = i;
  }
  const out = new Uint32Array(n);
  let k = 0;
  for (let i = n ? 0 : -1; i >= 0; ) {
    out[k++] = i;
    if (child[i] >= 0) i = child[i];
    else {
      while (i >= 0 && next[i] < 0) i = parent[i];
      if (i >= 0) i = next[i];
    }
  }
  return out.subarray(0, k);
}

// pick is a column's values in the order of rows; zeroes at its end are not sent.
function pick(a: number[] | undefined, rows: Uint32Array): Float64Array {
  const out = new Float64Array(rows.length);
  if (a) for (let k = 0; k < rows.length; k++) out[k] = a[rows[k]] ?? 0;
  return out;
}

/** matcher is a test of names for a search, or null for an empty or broken one. */
export function matcher(query: string, regex: boolean): ((s: string) => boolean) | null {
  if (!query) return null;
  if (!regex) {
    const q = query.toLowerCase();
    return (s) => s.toLowerCase().includes(q);
  }
  try {
    const re = new RegExp(query, "i");
    return (s) => re.test(s);
  } catch {
    return null;
  }
}
