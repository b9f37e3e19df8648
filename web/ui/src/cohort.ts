// A metric of the nodes that have a change against those that do not, over time: their means, each node thinly behind them, the moment
// from which the change was in force, and the band in which the treated may be.

import { css, fit, h, tip } from "./dom";
import { count, stamp } from "./format";
import type { Period, Series } from "./guard";
import { runs } from "./chart";
import { metricName, metricUnit, shown } from "./terms";
import { onTheme } from "./theme";
import { line, niceTicks, timeTicks } from "./timeline";
import { ms } from "./watch";
import { moment } from "./words";

interface Point { t: number; v: number }
interface Band { t: number; lo: number; hi: number }

/** Shown is what a chart is made from: at is when the stage came into force, first when the change did anywhere; until is where the time
 * axis ends. */
export interface Shown { series: Series; from: number; until: number; at: number; first: number; periods: Period[] }

/** Cohorts is a metric's two sides, brought to common steps of time. */
export class Cohorts {
  readonly treated: Point[];
  readonly control: Point[];
  readonly band: Band[];
  readonly step: number;

  constructor(readonly o: Shown) {
    const gaps = o.series.members.flatMap((m) => m.points.slice(1).map((p, i) => p[0] - m.points[i][0])).sort((a, b) => a - b);
    this.step = Math.max(1000, gaps[gaps.length >> 1] ?? 1000);
    this.treated = this.mean("treated");
    this.control = this.mean("control");
    this.band = this.tolerated();
  }

  of(role: string): Series["members"] {
    return this.o.series.members.filter((m) => m.role === role);
  }

  // The mean of a side's nodes at each step at which one of them has a value.
  private mean(role: string): Point[] {
    const sums = new Map<number, [number, number]>();
    for (const m of this.of(role)) for (const [t, v] of m.points) {
      const k = Math.floor((t - this.o.from) / this.step), s = sums.get(k);
      if (s) { s[0] += v; s[1]++; } else sums.set(k, [v, 1]);
    }
    return [...sums].sort((a, b) => a[0] - b[0]).map(([k, [sum, n]]) => ({ t: this.o.from + (k + 0.5) * this.step, v: sum / n }));
  }

  // The judge's Before is what the treated would have had without the change: what they had before, moved as the control moved, or else
  // the control. From there to what is tolerated is the band; five steps of the control are smoothed, as each is noise.
  private tolerated(): Band[] {
    const { at: since, first, series, periods } = this.o, { better, tolerate = 0, floor = 0 } = series.metric, on = (t: number) => t >= since;
    const level = (ps: Point[]) => (ps.length >= 3 ? ps.reduce((s, p) => s + p.v, 0) / ps.length : NaN);
    const off = (t: number) => periods.some((p) => !p.on && t >= ms(p.from) && t < ms(p.to)), before = level(this.treated.filter((p) => p.t < first || off(p.t)));
    const base = level(this.control.filter((p) => p.t < first)), ratio = before / base, moved = isFinite(ratio) && ratio > 0 ? ratio : 1;
    const at = this.control.length ? this.control.map((p, i, all) => ({ t: p.t, v: moved * mean(all.slice(Math.max(0, i - 2), i + 3)) })) : isNaN(before) ? [] : this.treated.map((p) => ({ t: p.t, v: before }));
    return at.filter((p) => on(p.t)).map(({ t, v }) => (better === "higher" ? { t, lo: v * (1 - tolerate) - floor, hi: v } : { t, lo: v, hi: v * (1 + tolerate) + floor }));
  }

  /** told is the chart as a sentence, for who cannot see it. */
  told(): string {
    const { at, series } = this.o, { name: id } = series.metric, show = (v: number) => shown(id, v), name = metricName(id);
    const since = (ps: Point[]) => ps.filter((p) => p.t >= at), t = since(this.treated), c = since(this.control);
    if (!this.treated.length && !this.control.length) return `${name}: nothing was measured yet`;
    const side = (who: string, ps: Point[]) => (ps.length ? `${who} ${show(mean(ps))} in the mean` : `nothing of the ${who} yet`);
    return `${name}, since ${stamp(at)}: ${side("treated", t)}, ${side("control", c)}`;
  }
}

const mean = (ps: Point[]) => ps.reduce((s, p) => s + p.v, 0) / ps.length;
const padL = 66, padR = 12, padT = 18, padB = 20, hgt = 150;

export class CohortChart {
  private title = h("h3", null);
  private box = h("div", { class: "chart", style: `height:${hgt}px` });
  private canvas = h("canvas", { class: "chart-canvas", role: "img" });
  readonly el = h("div", { class: "c-chart" }, this.title, this.box);
  private c: Cohorts | null = null;
  private w = 0;
  private at = NaN; // the time under the pointer
  private raf = 0;
  private off: (() => void)[] = [];

  constructor() {
    this.box.append(this.canvas);
    const ro = new ResizeObserver(() => { this.w = this.box.clientWidth; this.draw(); });
    ro.observe(this.box);
    this.off.push(() => ro.disconnect(), onTheme(() => this.paint()));
    this.canvas.addEventListener("pointermove", (e) => this.over(e));
    this.canvas.addEventListener("pointerleave", () => { this.at = NaN; tip.hide(); this.paint(); });
  }

  destroy(): void {
    for (const f of this.off) f();
    cancelAnimationFrame(this.raf);
    tip.hide();
  }

  set(o: Shown): void {
    this.c = new Cohorts(o);
    const name = metricName(o.series.metric.name);
    if (this.title.textContent !== name) this.title.textContent = name;
    this.canvas.setAttribute("aria-label", this.c.told());
    this.paint();
  }

  private paint(): void {
    if (!this.raf) this.raf = requestAnimationFrame(() => { this.raf = 0; this.draw(); });
  }

  private x(t: number): number {
    const { from, until } = this.c!.o;
    return padL + ((t - from) / (until - from || 1)) * (this.w - padL - padR);
  }

  private over(e: PointerEvent): void {
    const c = this.c;
    if (!c || this.w <= padL + padR) return;
    const { from, until, series } = c.o, t = from + ((e.offsetX - padL) / (this.w - padL - padR)) * (until - from), near = (ps: Point[]) => ps.filter((p) => Math.abs(p.t - t) <= 1.5 * c.step).sort((a, b) => Math.abs(a.t - t) - Math.abs(b.t - t))[0];
    const a = near(c.treated), b = near(c.control), rows: [string, string, Point | undefined][] = [["Treated", "--side-b", a], ["Control", "--side-a", b]];
    this.at = (a ?? b)?.t ?? NaN;
    this.paint();
    if (!a && !b) return tip.hide();
    tip.show(e.clientX, e.clientY, h("div", { class: "muted" }, stamp(this.at)), h("table", null, rows.map(([who, colour, p]) => p ? h("tr", null, h("th", null, h("span", { class: "dot", style: `background:var(${colour})` }), who), h("td", null, h("b", null, shown(series.metric.name, p.v)))) : null)));
  }

  private draw(): void {
    const cohorts = this.c;
    if (!this.w || !cohorts) return;
    const c = fit(this.canvas, this.w, hgt), o = cohorts.o, bottom = hgt - padB, right = this.w - padR;
    c.clearRect(0, 0, this.w, hgt);
    c.font = "11px system-ui, -apple-system, 'Segoe UI', sans-serif";
    c.fillStyle = css("--muted");
    if (!cohorts.treated.length && !cohorts.control.length) {
      c.textAlign = "center";
      c.fillText("Nothing was measured of this yet.", this.w / 2, hgt / 2);
      return;
    }
    const all = [...cohorts.treated, ...cohorts.control].map((p) => p.v), his = cohorts.band.map((b) => b.hi), los = cohorts.band.map((b) => b.lo);
    const hi = Math.max(...all, ...his), lo = Math.min(...all, ...los), near = hi > lo && hi - lo < 0.4 * hi; // a change of a hundredth is no flat line
    const ticks = niceTicks(hi > 0 ? hi + 0.02 * (hi - lo) : 1, 3, metricUnit(o.series.metric.name) === "bytes", near ? Math.max(0, lo - 0.1 * (hi - lo)) : Math.min(0, lo)), low = ticks[0], cap = ticks[ticks.length - 1];
    const y = (v: number) => bottom - ((Math.min(cap, Math.max(low, v)) - low) / (cap - low)) * (bottom - padT);
    this.axes(c, ticks, y, bottom, right);
    c.save();
    c.beginPath();
    c.rect(padL, padT - 6, right - padL, bottom - padT + 6);
    c.clip();
    this.periods(c, bottom);
    for (const r of runs(cohorts.band)) {
      c.beginPath();
      for (const b of r) c.lineTo(this.x(b.t), y(b.hi));
      for (const b of [...r].reverse()) c.lineTo(this.x(b.t), y(b.lo));
      c.fillStyle = css("--ok");
      c.globalAlpha = 0.16;
      c.fill();
      c.globalAlpha = 1;
    }
    for (const [role, mean, colour] of [["control", cohorts.control, "--side-a"], ["treated", cohorts.treated, "--side-b"]] as [string, Point[], string][]) {
      const members = cohorts.of(role);
      if (members.length > 1 && members.length <= 20) for (const m of members) this.trace(c, m.points.map(([t, v]) => ({ t, v })), y, colour, 0.7, 0.3);
      this.trace(c, mean, y, colour, 1.8, 1);
    }
    c.restore();
    this.mark(c, o.at, bottom);
  }

  private axes(c: CanvasRenderingContext2D, ticks: number[], y: (v: number) => number, bottom: number, right: number): void {
    const { from, until, series } = this.c!.o;
    c.lineWidth = 1;
    c.textAlign = "right";
    c.textBaseline = "middle";
    c.strokeStyle = css("--line");
    for (const v of ticks) {
      line(c, padL, Math.round(y(v)) + 0.5, right, Math.round(y(v)) + 0.5);
      c.fillText(shown(series.metric.name, v), padL - 7, y(v));
    }
    c.textAlign = "center";
    c.textBaseline = "top";
    for (const [t, text] of timeTicks(from, until, Math.max(2, Math.floor(this.w / 100)))) {
      const x = this.x(t);
      if (x < padL + 8 || x > this.w - 24) continue;
      line(c, Math.round(x) + 0.5, bottom, Math.round(x) + 0.5, bottom + 4);
      c.fillText(text, x, bottom + 6);
    }
  }

  // A single node is switched on and off: the periods in which it has the change are shaded.
  private periods(c: CanvasRenderingContext2D, bottom: number): void {
    c.fillStyle = css("--side-b");
    c.globalAlpha = 0.08;
    for (const p of this.c!.o.periods) if (p.on) c.fillRect(this.x(ms(p.from)), padT, this.x(ms(p.to)) - this.x(ms(p.from)), bottom - padT);
    c.globalAlpha = 1;
  }

  private trace(c: CanvasRenderingContext2D, ps: Point[], y: (v: number) => number, colour: string, width: number, alpha: number): void {
    c.strokeStyle = c.fillStyle = css(colour);
    c.lineWidth = width;
    c.lineJoin = "round";
    c.globalAlpha = alpha;
    for (const r of runs(ps)) {
      c.beginPath();
      for (const p of r) c.lineTo(this.x(p.t), y(p.v));
      c.stroke();
      if (r.length === 1 || r.some((p) => p.t === this.at)) {
        const p = r.find((q) => q.t === this.at) ?? r[0];
        c.beginPath();
        c.arc(this.x(p.t), y(p.v), r.length === 1 ? 2 : 3.5, 0, 7);
        c.fill();
      }
    }
    c.globalAlpha = 1;
  }

  // The moment from which the stage was in force.
  private mark(c: CanvasRenderingContext2D, at: number, bottom: number): void {
    const { from, until } = this.c!.o;
    if (at < from || at > until) return;
    const x = Math.round(this.x(at)) + 0.5, text = "in force " + moment(at), w = c.measureText(text).width;
    c.strokeStyle = c.fillStyle = css("--accent");
    c.lineWidth = 1.5;
    line(c, x, padT - 6, x, bottom);
    c.textAlign = "left";
    c.textBaseline = "top";
    c.fillText(text, Math.max(padL, Math.min(x - w / 2, this.w - padR - w)), 0);
  }
}

/** legend says what the lines and the band are, and of how many nodes. */
export function legend(series: Series[]): HTMLElement[] {
  const most = (role: string) => Math.max(0, ...series.map((s) => s.members.filter((m) => m.role === role).length));
  const t = most("treated"), n = most("control");
  return [h("span", null, h("i", { class: "key-treated" }), `with the change${t ? ` (${count(t, "node")})` : ""}`), n ? h("span", null, h("i", { class: "key-control" }), `left as it was (${count(n, "node")})`) : h("span", null, "There is no control: it is held to its own past."),
    h("span", null, h("i", { class: "key-tolerated" }), "from what it would be without the change to what is tolerated")];
}
