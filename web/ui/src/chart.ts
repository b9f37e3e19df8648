// A finding's series: the line with its 95 % interval as a band, and a mark where it began.

import { fit, css, h, tip } from "./dom";
import { stamp } from "./format";
import { onTheme } from "./theme";
import { line, niceTicks, timeTicks } from "./timeline";
import { ms, type ChartPoint, type Finding } from "./watch";
import { figure, interval, known, moment } from "./words";

interface Point { t: number; v: number; lo: number; hi: number }

function pointsOf(chart: ChartPoint[]): Point[] {
  return chart.map((p) => ({ t: ms(p.time), v: p.value ?? 0, lo: p.low ?? p.value ?? 0, hi: p.high ?? p.value ?? 0 })).filter((p) => !isNaN(p.t));
}

/** runs are points without a hole between them: three usual steps without a point are one. */
export function runs<P extends { t: number }>(ps: P[]): P[][] {
  const gaps = ps.slice(1).map((p, i) => p.t - ps[i].t).sort((a, b) => a - b), most = 3.5 * (gaps[gaps.length >> 1] ?? Infinity);
  const out: P[][] = [];
  ps.forEach((p, i) => { if (i && p.t - ps[i - 1].t <= most) out[out.length - 1].push(p); else out.push([p]); });
  return out;
}

// A change of a hundredth would be a flat line above a zero that is far below: then the axis starts near the values.
function bounds(ps: Point[], f: Finding): [number, number] {
  const levels = known(f.before) ? [f.before.value, f.after.value] : [f.after.value];
  const hi = Math.max(...ps.map((p) => p.hi), ...levels), lo = Math.min(...ps.map((p) => p.lo), ...levels);
  if (!(hi > lo)) return [Math.min(0, lo), hi > 0 ? hi : 1];
  return hi - lo < 0.3 * hi ? [Math.max(0, lo - 0.1 * (hi - lo)), hi] : [Math.min(0, lo), hi];
}

const ns = "http://www.w3.org/2000/svg";

/** spark is the chart of a row: no axes, and the mark. */
export function spark(f: Finding, w: number, hgt: number): SVGSVGElement {
  const s = document.createElementNS(ns, "svg"), ps = pointsOf(f.chart);
  for (const [k, v] of Object.entries({ viewBox: `0 0 ${w} ${hgt}`, width: w, height: hgt, class: "spark", role: "img", "aria-label": told(f) })) s.setAttribute(k, String(v));
  if (ps.length < 2) return s;
  const [lo, hi] = bounds(ps, f), from = ps[0].t, span = ps[ps.length - 1].t - from || 1;
  const x = (t: number) => (((t - from) / span) * w).toFixed(1), y = (v: number) => (hgt - 2 - ((v - lo) / (hi - lo)) * (hgt - 4)).toFixed(1);
  const add = (d: string, cls: string) => {
    const p = document.createElementNS(ns, "path");
    p.setAttribute("d", d);
    p.setAttribute("class", cls);
    s.append(p);
  };
  for (const r of runs(ps)) {
    add("M" + [...r.map((p) => `${x(p.t)} ${y(p.hi)}`), ...[...r].reverse().map((p) => `${x(p.t)} ${y(p.lo)}`)].join("L") + "Z", "spark-fill");
    add("M" + r.map((p) => `${x(p.t)} ${y(p.v)}`).join("L"), "spark-line");
  }
  const since = ms(f.since);
  if (since > from && since < from + span) add(`M${x(since)} 0V${hgt}`, "spark-mark");
  return s;
}

/** told is a chart as a sentence, for who cannot see it. */
function told(f: Finding): string {
  const ps = pointsOf(f.chart), show = (v: number) => figure(v, f.unit), since = ms(f.since);
  if (!ps.length) return "No chart";
  return `From ${stamp(ps[0].t)} to ${stamp(ps[ps.length - 1].t)}: ${known(f.before) ? `${show(f.before.value)} before, ` : ""}${show(f.after.value)} after${isNaN(since) ? "" : `, since ${stamp(since)}`}; between ${show(Math.min(...ps.map((p) => p.v)))} and ${show(Math.max(...ps.map((p) => p.v)))}`;
}

const padL = 74, padR = 14, padT = 20, padB = 20, hgt = 210;

export class Chart {
  readonly el: HTMLElement;
  private canvas = h("canvas", { class: "chart-canvas", role: "img" });
  private f: Finding | null = null;
  private ps: Point[] = [];
  private w = 0;
  private at = -1; // the point under the pointer
  private raf = 0;
  private off: (() => void)[] = [];

  constructor() {
    this.el = h("div", { class: "chart", style: `height:${hgt}px` }, this.canvas);
    const ro = new ResizeObserver(() => { this.w = this.el.clientWidth; this.draw(); });
    ro.observe(this.el);
    this.off.push(() => ro.disconnect(), onTheme(() => this.paint()));
    this.canvas.addEventListener("pointermove", (e) => this.over(e));
    this.canvas.addEventListener("pointerleave", () => { this.at = -1; tip.hide(); this.paint(); });
  }

  destroy(): void {
    for (const f of this.off) f();
    cancelAnimationFrame(this.raf);
    tip.hide();
  }

  set(f: Finding): void {
    this.f = f;
    this.ps = pointsOf(f.chart);
    this.at = -1;
    this.canvas.setAttribute("aria-label", told(f));
    this.paint();
  }

  private paint(): void {
    if (!this.raf) this.raf = requestAnimationFrame(() => { this.raf = 0; this.draw(); });
  }

  private span(): [number, number] {
    const a = this.ps[0].t, b = this.ps[this.ps.length - 1].t;
    return a < b ? [a, b] : [a - 1, a + 1];
  }

  private x(t: number): number {
    const [a, b] = this.span();
    return padL + ((t - a) / (b - a)) * (this.w - padL - padR);
  }

  private over(e: PointerEvent): void {
    const f = this.f;
    if (!f || !this.ps.length) return;
    let at = 0;
    this.ps.forEach((p, i) => { if (Math.abs(this.x(p.t) - e.offsetX) < Math.abs(this.x(this.ps[at].t) - e.offsetX)) at = i; });
    this.at = at;
    const p = this.ps[at], show = (v: number) => figure(v, f.unit), doubt = interval({ value: p.v, low: p.lo, high: p.hi }, show);
    tip.show(e.clientX, e.clientY, h("div", { class: "muted" }, stamp(p.t)), h("div", null, h("b", null, show(p.v)), doubt ? ` (95 %: ${doubt})` : ""));
    this.paint();
  }

  private draw(): void {
    const f = this.f;
    if (!this.w || !f) return;
    const c = fit(this.canvas, this.w, hgt), muted = css("--muted"), grid = css("--line"), bottom = hgt - padB, right = this.w - padR;
    c.clearRect(0, 0, this.w, hgt);
    c.font = "11px system-ui, -apple-system, 'Segoe UI', sans-serif";
    c.fillStyle = muted;
    if (!this.ps.length) {
      c.textAlign = "center";
      c.fillText("There is no chart of this.", this.w / 2, hgt / 2);
      return;
    }
    const [lo, hi] = bounds(this.ps, f), ticks = niceTicks(hi, 4, f.unit.includes("bytes"), lo), low = ticks[0], cap = ticks[ticks.length - 1];
    const y = (v: number) => bottom - ((v - low) / (cap - low)) * (bottom - padT);
    c.lineWidth = 1;
    c.textAlign = "right";
    c.textBaseline = "middle";
    c.strokeStyle = grid;
    for (const v of ticks) {
      line(c, padL, Math.round(y(v)) + 0.5, right, Math.round(y(v)) + 0.5);
      c.fillText(figure(v, f.unit), padL - 8, y(v));
    }
    c.textAlign = "center";
    c.textBaseline = "top";
    for (const [t, text] of timeTicks(...this.span(), Math.max(2, Math.floor(this.w / 110)))) {
      const x = this.x(t);
      if (x < padL + 10 || x > this.w - 24) continue;
      line(c, Math.round(x) + 0.5, bottom, Math.round(x) + 0.5, bottom + 4);
      c.fillText(text, x, bottom + 6);
    }
    this.series(c, y);
    this.marks(c, f, y, bottom);
  }

  private series(c: CanvasRenderingContext2D, y: (v: number) => number): void {
    c.fillStyle = c.strokeStyle = css("--line-1");
    for (const r of runs(this.ps)) {
      c.beginPath();
      for (const p of r) c.lineTo(this.x(p.t), y(p.hi));
      for (const p of [...r].reverse()) c.lineTo(this.x(p.t), y(p.lo));
      c.globalAlpha = 0.2;
      c.fill();
      c.globalAlpha = 1;
      c.beginPath();
      for (const p of r) c.lineTo(this.x(p.t), y(p.v));
      c.lineWidth = 1.6;
      c.lineJoin = "round";
      c.stroke();
      if (r.length > 1) continue;
      c.beginPath(); // a point without neighbours has no line
      c.arc(this.x(r[0].t), y(r[0].v), 2.5, 0, 7);
      c.fill();
    }
    if (this.at < 0) return;
    c.beginPath();
    c.arc(this.x(this.ps[this.at].t), y(this.ps[this.at].v), 4, 0, 7);
    c.fill();
  }

  // The levels before and after, and where one became the other.
  private marks(c: CanvasRenderingContext2D, f: Finding, y: (v: number) => number, bottom: number): void {
    const [a, b] = this.span(), since = ms(f.since), inside = since >= a && since <= b, left = padL, right = this.w - padR, x = inside ? this.x(since) : since > b ? right : left;
    const level = (v: number, from: number, to: number, colour: string) => {
      if (to - from < 1) return;
      c.strokeStyle = css(colour);
      c.setLineDash([5, 4]);
      c.lineWidth = 1.5;
      line(c, from, y(v), to, y(v));
      c.setLineDash([]);
    };
    if (known(f.before)) level(f.before.value, left, x, "--muted");
    level(f.after.value, x, right, "--accent");
    if (!inside) return;
    const colour = css("--accent"), text = "since " + moment(since), w = c.measureText(text).width;
    c.strokeStyle = c.fillStyle = colour;
    c.lineWidth = 1.5;
    line(c, Math.round(x) + 0.5, padT - 6, Math.round(x) + 0.5, bottom);
    c.textAlign = "left";
    c.textBaseline = "top";
    c.fillText(text, Math.max(padL, Math.min(x - w / 2, right - w)), 0);
  }
}
