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
  if (name === "other") return Bucket.Grey;
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
  readonly hue: Uint8Array;
  readonly leftOut: number;

  constructor(t: Tree, width: Width = "both") {
    const n = (this.n = t.level?.length ?? 0);
    this.names = t.names ?? [];
    this.name = Uint32Array.from(t.name ?? []);
    const level = (this.level = Uint32Array.from(t.level ?? []));
    this.self = pad(t.self, n);
    this.total = pad(t.total, n);
    this.baseSelf = t.baseTotal ? pad(t.baseSelf, n) : null;
    this.baseTotal = t.baseTotal ? pad(t.baseTotal, n) : null;
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
    for (let i = 0; i < n; i++) order[at[level[i]]++] = i;
  }

  nameOf(row: number): string {
    return this.names[this.name[row]] ?? "";
  }

  find(hash: number): number {
    return this.hash.indexOf(hash);
  }

  /** first is the first place in order, of [lo, hi), whose frame ends after v. */
  first(lo: number, hi: number, v: number): number {
    const { order, x, w } = this;
    while (lo < hi) {
      const m = (lo + hi) >>> 1, i = order[m];
      if (x[i] + w[i] > v) hi = m;
      else lo = m + 1;
    }
    return lo;
  }

  /** at is the row of a level that covers v, or -1. */
  at(level: number, v: number): number {
    if (level < 0 || level >= this.levels) return -1;
    const e = this.levelStart[level + 1], k = this.first(this.levelStart[level], e, v);
    return k < e && this.x[this.order[k]] <= v ? this.order[k] : -1;
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

function pad(a: number[] | undefined, n: number): Float64Array {
  const out = new Float64Array(n);
  if (a) out.set(a.length > n ? a.slice(0, n) : a);
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
