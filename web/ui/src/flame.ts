// The flame graph: one canvas that draws what is visible and no more. A frame
// costs about as many rectangles as there are pixels to show them in, however
// many frames the tree has: levels are sorted by x and searched, and runs of
// frames narrower than a pixel are drawn as one.

import { copy, css, fit, h, menu, tip, type MenuItem } from "./dom";
import { percent, points, shortName, value } from "./format";
import { Bucket, buckets, hues, type Layout } from "./layout";
import { isDark, onTheme } from "./theme";

const rowH = 19;
const font = 11.5;
const minPx = 1;

export interface FlameOptions {
  label: string;
  flip?: boolean; // callers grow upwards from the root
  empty?: string;
  onZoom?: (hash: number) => void;
  onMenu?: (name: string) => (MenuItem | string)[];
  onFocus?: (name: string) => void;
}

/** Show is what the numbers of a tree mean. */
export interface Show { unit: string; scale: number; noun: string; labels?: [string, string] }

interface Perf { lastDrawMs: number; rects: number; frames: number; draws: number; zoomTo?: (i: number) => void; redraw?: () => number }
declare global { interface Window { __quantra?: Perf } }
const perf: Perf = (window.__quantra = { lastDrawMs: 0, rects: 0, frames: 0, draws: 0 });

const reduced = matchMedia("(prefers-reduced-motion: reduce)");

export class FlameView {
  readonly el: HTMLElement;
  private crumbs = h("nav", { class: "crumbs", "aria-label": "Zoom" });
  private scroller = h("div", { class: "flame-scroll" });
  private spacer = h("div", { class: "flame-spacer" });
  private canvas = h("canvas", { class: "flame-canvas", tabindex: "0", role: "application" });
  private said = h("div", { class: "offscreen", "aria-live": "polite" });
  private none = h("div", { class: "empty small", hidden: true });
  private lay: Layout | null = null;
  private show: Show = { unit: "", scale: 1, noun: "" };
  private colour: Uint8Array = new Uint8Array(0);
  private match: Uint8Array | null = null;
  private marked = ""; // the function whose frames have an outline
  private v0 = 0;
  private v1 = 1;
  private zoomed = 0;
  private wantHash = 0;
  private cursor = -1; // the row the keyboard is on
  private hover = -1;
  private flip: boolean;
  private width = 0;
  private height = 0;
  private raf = 0;
  private anim = 0;
  private off: (() => void)[] = [];
  // What one draw emits, reused by every draw.
  private cap = 4096;
  private rx = new Float32Array(this.cap);
  private rw = new Float32Array(this.cap);
  private ry = new Float32Array(this.cap);
  private rrow = new Int32Array(this.cap);
  private rb = new Uint8Array(this.cap);
  private rsort = new Uint32Array(this.cap);
  private counts = new Uint32Array(buckets + 1);
  private fills: string[] = [];
  private inks: string[] = [];
  private charW = 7;
  private shortNames: string[] = []; // by name
  private cut: string[] = []; // by row, the label last drawn
  private cutLen = new Int16Array(0); // and for how many characters

  constructor(private o: FlameOptions) {
    this.flip = !!o.flip;
    this.scroller.append(this.spacer, this.canvas);
    this.canvas.setAttribute("aria-label", o.label + ". Arrow keys walk the frames, Enter zooms, Escape resets; the table has the same data as text.");
    this.el = h("div", { class: "flame" }, this.crumbs, this.scroller, this.none, this.said);
    const ro = new ResizeObserver(() => this.resize());
    ro.observe(this.scroller);
    this.off.push(() => ro.disconnect(), onTheme(() => this.paint()));
    this.scroller.addEventListener("scroll", () => this.paint(), { passive: true });
    this.pointer();
    this.canvas.addEventListener("keydown", (e) => this.key(e));
    this.canvas.addEventListener("blur", () => this.paint());
    this.canvas.addEventListener("focus", () => this.paint());
    this.theme();
  }

  destroy(): void {
    for (const f of this.off) f();
    cancelAnimationFrame(this.raf);
    cancelAnimationFrame(this.anim);
    tip.hide();
  }

  /** setData shows another tree, zoomed into the same path if it has it. */
  setData(lay: Layout | null, show: Show): void {
    cancelAnimationFrame(this.anim);
    this.lay = lay && lay.n > 0 && lay.w[0] > 0 ? lay : null;
    this.show = show;
    this.cursor = this.hover = -1;
    this.none.hidden = !!this.lay || !lay;
    this.none.textContent = this.o.empty ?? "No samples in this selection.";
    if (this.lay) {
      this.colour = this.lay.baseTotal ? this.lay.diffBuckets() : this.lay.hue;
      this.shortNames = this.lay.names.map(shortName);
      this.cut = new Array<string>(this.lay.n);
      this.cutLen = new Int16Array(this.lay.n).fill(-1);
      const z = this.wantHash ? this.lay.find(this.wantHash) : 0;
      this.zoomed = z < 0 ? 0 : z;
      this.v0 = this.lay.x[this.zoomed];
      this.v1 = this.v0 + this.lay.w[this.zoomed];
      perf.frames = this.lay.n;
      perf.zoomTo = (i) => { this.setView(lay!.x[i], lay!.x[i] + lay!.w[i], i); this.draw(); };
      perf.redraw = () => { this.draw(); return perf.lastDrawMs; };
    }
    this.match = null;
    this.size();
    this.showCrumbs();
  }

  setFlip(flip: boolean): void {
    if (this.flip === flip) return;
    this.flip = flip;
    this.size();
    this.scroller.scrollTop = flip ? this.scroller.scrollHeight : 0;
  }

  /** setSearch dims what does not match; the answer is the share that does. */
  setSearch(test: ((s: string) => boolean) | null): number {
    if (!this.lay) return 0;
    this.match = test ? Uint8Array.from(this.lay.names, (s) => (test(s) ? 1 : 0)) : null;
    this.paint();
    return this.match ? this.lay.matched(this.match) : 0;
  }

  /** setMark draws an outline around every frame of a function; "" is none. */
  setMark(name: string): void {
    this.marked = name;
    this.paint();
  }

  setZoom(hash: number): void {
    if (hash === this.wantHash) return;
    this.wantHash = hash;
    if (!this.lay) return;
    const z = hash ? this.lay.find(hash) : 0;
    this.fly(z < 0 ? 0 : z);
  }

  paint(): void {
    if (this.raf) return;
    this.raf = requestAnimationFrame(() => {
      this.raf = 0;
      this.draw();
    });
  }

  // ---- geometry ----

  private resize(): void {
    this.width = this.scroller.clientWidth;
    this.height = this.scroller.clientHeight;
    this.size();
    if (this.width) this.draw();
  }

  private size(): void {
    const rows = this.lay?.levels ?? 0;
    this.spacer.style.height = Math.max(rows * rowH, 1) + "px";
    this.theme();
    this.paint();
  }

  private contentH(): number {
    return Math.max((this.lay?.levels ?? 0) * rowH, this.height);
  }

  private y(level: number): number {
    return (this.flip ? this.contentH() - (level + 1) * rowH : level * rowH) - this.scroller.scrollTop;
  }

  private rowAt(px: number, py: number): number {
    if (!this.lay || !this.width) return -1;
    const y = py + this.scroller.scrollTop;
    const level = Math.floor((this.flip ? this.contentH() - y : y) / rowH);
    return this.lay.at(level, this.v0 + (px / this.width) * (this.v1 - this.v0));
  }

  // ---- zooming ----

  private setView(a: number, b: number, row: number): void {
    const max = this.lay!.w[0], least = max * 1e-7;
    if (b - a < least) b = a + least;
    const size = Math.min(b - a, max);
    this.v0 = Math.max(0, Math.min(a, max - size));
    this.v1 = this.v0 + size;
    this.zoomed = row;
  }

  private zoom(row: number): void {
    if (!this.lay) return;
    this.wantHash = row > 0 ? this.lay.hash[row] : 0;
    this.fly(row);
    this.o.onZoom?.(this.wantHash);
  }

  private fly(row: number): void {
    const lay = this.lay!;
    cancelAnimationFrame(this.anim);
    const a0 = this.v0, b0 = this.v1, a1 = lay.x[row], b1 = a1 + lay.w[row];
    this.zoomed = row;
    this.reveal(lay.level[row], 2);
    this.showCrumbs();
    if (reduced.matches || document.hidden) {
      this.setView(a1, b1, row);
      this.paint();
      return;
    }
    const start = performance.now(), ms = 140;
    const step = (now: number) => {
      const t = Math.min(1, Math.max(0, (now - start) / ms)), k = 1 - (1 - t) ** 3;
      this.setView(a0 + (a1 - a0) * k, b0 + (b1 - b0) * k, row);
      this.draw();
      if (t < 1) this.anim = requestAnimationFrame(step);
    };
    this.anim = requestAnimationFrame(step);
  }

  private reveal(level: number, above: number): void {
    const y = this.y(level), s = this.scroller;
    if (y < 0 || y > this.height - rowH * 3)
      s.scrollTop += this.flip ? y - this.height + rowH * (above + 1) : y - rowH * above;
  }

  private showCrumbs(): void {
    const lay = this.lay;
    this.crumbs.hidden = !lay || this.zoomed === 0;
    if (!lay || this.zoomed === 0) {
      this.crumbs.replaceChildren();
      return;
    }
    const path: number[] = [];
    for (let i = this.zoomed; i >= 0; i = lay.parent[i]) path.unshift(i);
    const shown = path.length > 6 ? [path[0], -1, ...path.slice(-4)] : path;
    this.crumbs.replaceChildren(...shown.flatMap((i, k) => {
      const last = k === shown.length - 1;
      const b = i < 0 ? h("span", { class: "crumb-gap" }, "…")
        : h("button", { type: "button", class: "crumb", title: lay.nameOf(i), "aria-current": last || undefined, onclick: () => this.zoom(i) }, this.shortNames[lay.name[i]]);
      return k ? [h("span", { class: "crumb-sep", "aria-hidden": "true" }, "›"), b] : [b];
    }), h("span", { class: "crumb-pct" }, percent(lay.w[this.zoomed] / lay.w[0])),
      h("button", { type: "button", class: "btn ghost tiny crumb-reset", onclick: () => this.zoom(0) }, "Reset zoom"));
  }

  // ---- pointer and keyboard ----

  private pointer(): void {
    const c = this.canvas;
    let drag: { x: number; v0: number; v1: number; moved: boolean } | null = null;
    c.addEventListener("pointerdown", (e) => {
      if (e.button === 0) drag = { x: e.offsetX, v0: this.v0, v1: this.v1, moved: false };
    });
    c.addEventListener("pointermove", (e) => {
      if (drag && this.lay && (drag.moved || Math.abs(e.offsetX - drag.x) > 4) && drag.v1 - drag.v0 < this.lay.w[0] * 0.9999) {
        if (!drag.moved) c.setPointerCapture(e.pointerId);
        drag.moved = true;
        const d = ((drag.x - e.offsetX) / this.width) * (drag.v1 - drag.v0);
        this.setView(drag.v0 + d, drag.v1 + d, this.zoomed);
        tip.hide();
        this.paint();
        return;
      }
      this.hoverAt(e);
    });
    c.addEventListener("pointerleave", () => this.unhover());
    c.addEventListener("click", (e) => {
      const moved = drag?.moved;
      drag = null;
      if (moved) return;
      const row = this.rowAt(e.offsetX, e.offsetY);
      if (row >= 0) {
        this.cursor = row;
        this.zoom(row);
      }
    });
    c.addEventListener("contextmenu", (e) => {
      const row = this.rowAt(e.offsetX, e.offsetY);
      if (row < 0 || !this.lay) return;
      e.preventDefault();
      tip.hide();
      this.openMenu(row, e.clientX, e.clientY);
    });
    c.addEventListener("wheel", (e) => {
      if (!this.lay) return;
      const size = this.v1 - this.v0;
      if (e.ctrlKey || e.metaKey) {
        e.preventDefault();
        const at = this.v0 + (e.offsetX / this.width) * size, k = Math.exp(Math.max(-60, Math.min(60, e.deltaY)) * 0.006);
        this.setView(at - (at - this.v0) * k, at + (this.v1 - at) * k, 0);
      } else if (Math.abs(e.deltaX) > Math.abs(e.deltaY) || e.shiftKey) {
        if (size >= this.lay.w[0] * 0.9999) return;
        e.preventDefault();
        const d = ((e.deltaX || e.deltaY) / this.width) * size;
        this.setView(this.v0 + d, this.v1 + d, this.zoomed);
      } else return;
      cancelAnimationFrame(this.anim);
      tip.hide();
      this.paint();
    }, { passive: false });
  }

  private openMenu(row: number, x: number, y: number): void {
    const name = this.lay!.nameOf(row);
    menu(this.canvas, [shortName(name), { text: "Zoom here", hint: "Enter", run: () => this.zoom(row) },
      { text: "Copy name", hint: "c", run: () => copy(name) }, ...(row > 0 ? (this.o.onMenu?.(name) ?? []) : [])], { x, y });
  }

  private hoverAt(e: PointerEvent): void {
    const row = this.rowAt(e.offsetX, e.offsetY);
    if (row < 0) {
      this.unhover();
      return;
    }
    if (row !== this.hover) {
      this.hover = row;
      tip.show(e.clientX, e.clientY, ...this.describe(row));
      this.canvas.style.cursor = "pointer";
      this.paint();
    } else tip.move(e.clientX, e.clientY);
  }

  private unhover(): void {
    if (this.hover < 0) return;
    this.hover = -1;
    this.canvas.style.cursor = "";
    tip.hide();
    this.paint();
  }

  private describe(row: number): Node[] {
    const l = this.lay!, s = this.show, v = (x: number) => value(x * s.scale, s.unit);
    const line = (k: string, a: string, b = "", cls = "") => h("tr", null, h("th", null, k), h("td", { class: cls }, a), h("td", { class: "muted" }, b));
    const head = h("div", { class: "tip-name" }, l.nameOf(row));
    if (l.baseTotal) {
      const a = l.baseTotal[row] / (l.baseTotal[0] || 1), b = l.total[row] / (l.total[0] || 1), d = b - a;
      const [na, nb] = s.labels ?? ["A", "B"];
      return [head, h("table", null, line(na, percent(a), v(l.baseTotal[row])), line(nb, percent(b), v(l.total[row])),
        line("Change", points(d), a > 0 ? "×" + (b / a).toFixed(2) : b > 0 ? "new" : "", d > 0 ? "worse" : d < 0 ? "better" : ""))];
    }
    const p = l.parent[row];
    return [head, h("table", null,
      line("Total", v(l.total[row]), percent(l.total[row] / l.total[0])),
      line("Self", v(l.self[row]), percent(l.self[row] / l.total[0])),
      p >= 0 ? line("Of parent", percent(l.total[row] / (l.total[p] || 1))) : line("", ""))];
  }

  private key(e: KeyboardEvent): void {
    const l = this.lay;
    if (!l || e.ctrlKey || e.metaKey || e.altKey) return;
    const cur = this.cursor < 0 ? this.zoomed : this.cursor;
    const k = l.level[cur], down = this.flip ? "ArrowUp" : "ArrowDown", up = this.flip ? "ArrowDown" : "ArrowUp";
    let to = cur;
    if (e.key === down) to = this.widestChild(cur);
    else if (e.key === up) to = Math.max(0, l.parent[cur]);
    else if (e.key === "ArrowRight" || e.key === "ArrowLeft") {
      let at = l.levelStart[k];
      while (l.order[at] !== cur) at++;
      at += e.key === "ArrowRight" ? 1 : -1;
      if (at >= l.levelStart[k] && at < l.levelStart[k + 1]) to = l.order[at];
    } else if (e.key === "Home") to = 0;
    else if (e.key === "Enter" || e.key === " ") this.zoom(cur);
    else if (e.key === "Escape") this.zoom(0);
    else if (e.key === "f" && cur > 0) this.o.onFocus?.(l.nameOf(cur));
    else if (e.key === "c") copy(l.nameOf(cur));
    else if (e.key === "ContextMenu" || (e.key === "F10" && e.shiftKey)) {
      const r = this.canvas.getBoundingClientRect();
      this.openMenu(cur, r.left + Math.max(0, this.px(l.x[cur])), r.top + this.y(k) + rowH);
    } else return;
    e.preventDefault();
    e.stopPropagation();
    if (to !== cur || this.cursor < 0) {
      this.cursor = to;
      // A frame outside of what is zoomed into is shown by zooming out to what has both.
      if (l.x[to] + l.w[to] <= this.v0 || l.x[to] >= this.v1) this.zoom(Math.max(0, l.parent[to]));
      this.reveal(l.level[to], 1);
      this.said.textContent = `${l.nameOf(to)}, ${percent(l.w[to] / l.w[0])} of ${this.show.noun}, level ${l.level[to]}`;
      this.paint();
    }
  }

  private widestChild(row: number): number {
    const l = this.lay!;
    let best = row;
    for (let c = row + 1; c < l.end[row]; c = l.end[c]) if (best === row || l.w[c] > l.w[best]) best = c;
    return best;
  }

  // ---- drawing ----

  private theme(): void {
    const dark = isDark();
    this.fills = new Array<string>(buckets);
    this.inks = new Array<string>(buckets).fill(dark ? "#f2f2f0" : "#1c1917");
    const f = this.fills;
    f[Bucket.Root] = dark ? "#3b3f46" : "#d3d6db";
    f[Bucket.Grey] = dark ? "#43474e" : "#dcdee2";
    f[Bucket.Dim] = dark ? "#26292e" : "#eff0f2";
    f[Bucket.Hit] = dark ? "#b3478f" : "#f29ed4";
    f[Bucket.Tiny] = dark ? "#55504c" : "#d9cfc4";
    f[Bucket.Above] = dark ? "#2c3036" : "#e9ebee";
    this.inks[Bucket.Dim] = dark ? "#74797f" : "#9aa0a8";
    this.inks[Bucket.Above] = dark ? "#a0a5ac" : "#6b7280";
    for (let i = -10; i <= 10; i++) {
      const k = Math.abs(i) / 10, hue = i > 0 ? 8 : 214;
      f[Bucket.DiffFirst + 10 + i] = i === 0 ? (dark ? "#3c4046" : "#e3e5e8")
        : dark ? `hsl(${hue} ${12 + 52 * k}% ${27 + 17 * k}%)` : `hsl(${hue} ${20 + 62 * k}% ${89 - 23 * k}%)`;
    }
    // Hues are spread by the golden angle, warm ones first, so that neighbours by hash differ.
    for (let i = 0; i < hues; i++) {
      const hue = Math.round((24 + i * 137.508) % 360), v = (i % 3) - 1;
      f[Bucket.HueFirst + i] = dark ? `hsl(${hue} ${34 + 4 * v}% ${36 + 3 * v}%)` : `hsl(${hue} ${66 + 6 * v}% ${79 + 3 * v}%)`;
    }
    const ctx = this.canvas.getContext("2d")!;
    ctx.font = this.font();
    this.charW = ctx.measureText("mmmmmmmmmm").width / 10;
  }

  private font(): string {
    return `${font}px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace`;
  }

  private px(v: number): number {
    return ((v - this.v0) / (this.v1 - this.v0)) * this.width;
  }

  private emit(n: number, x: number, w: number, y: number, row: number, bucket: number): void {
    if (n === this.cap) this.grow();
    this.rx[n] = x;
    this.rw[n] = w;
    this.ry[n] = y;
    this.rrow[n] = row;
    this.rb[n] = bucket;
    this.counts[bucket + 1]++;
  }

  private grow(): void {
    const cap = this.cap * 2;
    const to = <T extends Float32Array | Int32Array | Uint8Array>(b: T, a: T) => (b.set(a), b);
    this.rx = to(new Float32Array(cap), this.rx);
    this.rw = to(new Float32Array(cap), this.rw);
    this.ry = to(new Float32Array(cap), this.ry);
    this.rrow = to(new Int32Array(cap), this.rrow);
    this.rb = to(new Uint8Array(cap), this.rb);
    this.rsort = new Uint32Array(cap);
    this.cap = cap;
  }

  /** collect finds what is visible: at most about two rectangles a pixel and level. */
  private collect(): number {
    const l = this.lay!, { order, left, right, name, level } = l, { v0, v1, width, match, colour } = this;
    const k = width / (v1 - v0), least = minPx / k, zl = level[this.zoomed], whole = this.zoomed === 0;
    this.counts.fill(0);
    let n = 0;
    for (let lev = 0; lev < l.levels; lev++) {
      const y = this.y(lev);
      if (y + rowH < 0 || y > this.height) continue;
      const e = l.levelStart[lev + 1];
      let at = l.first(l.levelStart[lev], e, v0);
      let run = -1, runEnd = 0, runHit = false; // a run of frames too narrow to be seen alone
      while (at < e) {
        const i = order[at], a = left[at];
        if (a >= v1) break;
        if (right[at] - a >= least) {
          const from = Math.max(0, (a - v0) * k), to = Math.min(width, (right[at] - v0) * k);
          const b = match ? (match[name[i]] ? Bucket.Hit : Bucket.Dim) : !whole && lev < zl ? Bucket.Above : colour[i];
          this.emit(n++, from, to - from, y, i, b);
          at++;
          continue;
        }
        const next = l.near(at + 1, e, a + least), end = right[next - 1];
        const from = (a - v0) * k, to = (end - v0) * k, hit = match !== null && match[name[i]] === 1;
        if (run >= 0 && from - runEnd < 1.25 && hit === runHit) {
          this.rw[run] = Math.max(to - this.rx[run], 0.6);
          runEnd = to;
        } else {
          run = n;
          this.emit(n++, from, Math.max(to - from, 0.6), y, -1, hit ? Bucket.Hit : match ? Bucket.Dim : Bucket.Tiny);
          runEnd = to;
          runHit = hit;
        }
        at = next;
      }
    }
    return n;
  }

  private draw(): void {
    const t0 = performance.now();
    if (!this.width) return;
    const ctx = fit(this.canvas, this.width, this.height);
    ctx.clearRect(0, 0, this.width, this.height);
    if (!this.lay) return;
    const n = this.collect(), { rb, rx, rw, ry, rsort, counts } = this;
    // Sorted by colour: the fill style changes once a colour, not once a frame.
    for (let b = 0; b < buckets; b++) counts[b + 1] += counts[b];
    for (let i = 0; i < n; i++) rsort[counts[rb[i]]++] = i;
    let last = -1;
    for (let j = 0; j < n; j++) {
      const i = rsort[j], b = rb[i], wide = rw[i];
      if (b !== last) {
        ctx.fillStyle = this.fills[b];
        last = b;
      }
      ctx.fillRect(rx[i], ry[i], wide > 2.5 ? wide - 1 : wide, rowH - 1);
    }
    this.text(ctx, n);
    this.marks(ctx, n);
    perf.lastDrawMs = performance.now() - t0;
    perf.rects = n;
    perf.draws++;
    perf.frames = this.lay.n;
  }

  private text(ctx: CanvasRenderingContext2D, n: number): void {
    const { rb, rx, rw, ry, rrow, rsort, charW } = this, l = this.lay!;
    ctx.font = this.font();
    ctx.textBaseline = "middle";
    let last = "";
    for (let j = 0; j < n; j++) {
      const i = rsort[j], row = rrow[i];
      const fits = Math.floor((rw[i] - 8) / charW);
      if (row < 0 || fits < 3) continue;
      if (this.cutLen[row] !== fits) {
        const s = row === 0 ? this.rootText() : this.shortNames[l.name[row]];
        this.cut[row] = s.length <= fits ? s : s.slice(0, fits - 1) + "…";
        this.cutLen[row] = fits;
      }
      const ink = this.inks[rb[i]];
      if (ink !== last) ctx.fillStyle = last = ink;
      ctx.fillText(this.cut[row], rx[i] + 4, ry[i] + rowH / 2);
    }
  }

  private rootText(): string {
    const l = this.lay!, s = this.show, name = l.nameOf(0);
    if (l.baseTotal) return `${name}  ${s.labels ? s.labels.join(" → ") : "A → B"}`;
    return `${name === "total" ? "all" : this.shortNames[l.name[0]]}  ${value(l.total[0] * s.scale, s.unit)}`;
  }

  private marks(ctx: CanvasRenderingContext2D, n: number): void {
    const mark = (row: number, colour: string, width: number) => {
      const l = this.lay!, a = Math.max(0, this.px(l.x[row])), b = Math.min(this.width, this.px(l.x[row] + l.w[row]));
      ctx.strokeStyle = colour;
      ctx.lineWidth = width;
      ctx.strokeRect(a + width / 2, this.y(l.level[row]) + width / 2, Math.max(1, b - a - 1 - width), rowH - 1 - width);
    };
    const name = this.marked ? this.lay!.names.indexOf(this.marked) : -1;
    for (let i = 0; name >= 0 && i < n; i++) if (this.rrow[i] >= 0 && this.lay!.name[this.rrow[i]] === name && this.rw[i] > 4) mark(this.rrow[i], css("--text"), 2);
    if (this.hover >= 0) mark(this.hover, css("--text"), 1);
    if (this.cursor >= 0 && document.activeElement === this.canvas) mark(this.cursor, css("--accent"), 2);
  }
}
