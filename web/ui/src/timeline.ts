// Values over time on a canvas: lines by group or one filled area, a brush to
// choose a range, what is under the pointer in words.

import type { SeriesResponse } from "./api";
import { fit, css, h, tip } from "./dom";
import { clock, rate, stamp, value, type TypeInfo } from "./format";
import { onTheme } from "./theme";

export interface TimelineOptions {
  label: string;
  height: number;
  mini?: boolean;
  onBrush?: (from: number, to: number) => void;
  onReset?: () => void;
}

interface Line { name: string; t: number[]; v: number[]; colour: string }

/** lineColour is the colour of the i-th line, by name of a CSS variable. */
export function lineColour(i: number): string {
  return `--line-${i % 8}`;
}

const padL = 78, padR = 12, padT = 8, padB = 20;

export class Timeline {
  readonly el: HTMLElement;
  private canvas = h("canvas", { class: "timeline-canvas", role: "img" });
  private legend = h("div", { class: "legend" });
  private lines: Line[] = [];
  private unit = "";
  private step = 1000;
  private from = 0;
  private to = 1;
  private w = 0;
  private brush: { a: number; b: number } | null = null;
  private band: { from: number; to: number; cls: string } | null = null;
  private at = -1;
  private raf = 0;
  private off: (() => void)[] = [];

  constructor(private o: TimelineOptions) {
    this.canvas.setAttribute("aria-label", o.label);
    const box = h("div", { class: "timeline-box", style: `height:${o.height}px` }, this.canvas);
    this.el = h("div", { class: "timeline" }, box, o.mini ? null : this.legend);
    const ro = new ResizeObserver(() => { this.w = box.clientWidth; this.draw(); });
    ro.observe(box);
    this.off.push(() => ro.disconnect(), onTheme(() => this.paint()));
    this.pointer();
  }

  destroy(): void {
    for (const f of this.off) f();
    cancelAnimationFrame(this.raf);
    tip.hide();
  }

  setData(res: SeriesResponse | null, t: TypeInfo, from: number, to: number): void {
    this.from = from;
    this.to = to;
    this.step = Number(res?.stepMs ?? 10000);
    const r = rate(t, this.step);
    this.unit = r.unit;
    // A step that has not ended is not a fall.
    const whole = (l: { tMs?: number[] }) => { const ts = l.tMs ?? []; return ts.length > 3 && ts[ts.length - 1] + this.step > to ? ts.length - 1 : ts.length; };
    this.lines = (res?.lines ?? []).map((l, i) => ({
      name: (l.labels ?? []).map((x) => x.value || "(none)").join(" · ") || "total",
      t: (l.tMs ?? []).slice(0, whole(l)),
      v: (l.value ?? []).slice(0, whole(l)).map((v, j) => r.of(v, l.profiles?.[j] ?? 1)),
      colour: lineColour(i),
    }));
    const many = this.lines.length > 1 || (this.lines[0]?.name ?? "total") !== "total";
    this.legend.replaceChildren(...(many ? this.lines.slice(0, 12).map((l) => h("span", { class: "legend-item" }, h("i", { style: `background:var(${l.colour})` }), l.name)) : []));
    this.paint();
  }

  setBand(band: { from: number; to: number; cls: string } | null): void {
    this.band = band;
    this.paint();
  }

  private x(t: number): number {
    const l = this.o.mini ? 8 : padL;
    return l + ((t - this.from) / (this.to - this.from)) * (this.w - l - padR);
  }

  private t(x: number): number {
    const l = this.o.mini ? 8 : padL;
    return this.from + (Math.min(Math.max(x, l), this.w - padR) - l) / (this.w - l - padR) * (this.to - this.from);
  }

  private pointer(): void {
    const c = this.canvas;
    c.addEventListener("pointerdown", (e) => {
      if (e.button !== 0 || !this.o.onBrush) return;
      const t = this.t(e.offsetX);
      this.brush = { a: t, b: t };
      c.setPointerCapture(e.pointerId);
      e.preventDefault();
    });
    c.addEventListener("pointermove", (e) => {
      const t = this.t(e.offsetX);
      if (this.brush) this.brush.b = t;
      this.at = t;
      this.say(e);
      this.paint();
    });
    c.addEventListener("pointerup", () => {
      const b = this.brush;
      this.brush = null;
      this.paint();
      if (b && Math.abs(this.x(b.a) - this.x(b.b)) > 6) this.o.onBrush!(Math.floor(Math.min(b.a, b.b)), Math.ceil(Math.max(b.a, b.b)));
    });
    c.addEventListener("pointercancel", () => { this.brush = null; this.paint(); });
    c.addEventListener("pointerleave", () => { this.at = -1; tip.hide(); this.paint(); });
    c.addEventListener("dblclick", () => this.o.onReset?.());
  }

  private say(e: PointerEvent): void {
    if (this.brush && Math.abs(this.x(this.brush.a) - this.x(this.brush.b)) > 6) {
      const a = Math.min(this.brush.a, this.brush.b), b = Math.max(this.brush.a, this.brush.b);
      tip.show(e.clientX, e.clientY, h("div", null, `${clock(a)} – ${clock(b)}`), h("div", { class: "muted" }, value((b - a) * 1e6, "nanoseconds")));
      return;
    }
    const rows = this.lines.map((l) => ({ l, i: this.near(l) })).filter((r) => r.i >= 0).sort((a, b) => b.l.v[b.i] - a.l.v[a.i]).slice(0, 10);
    if (!rows.length) {
      tip.hide();
      return;
    }
    tip.show(e.clientX, e.clientY, h("div", { class: "muted" }, stamp(rows[0].l.t[rows[0].i])),
      h("table", null, rows.map((r) => h("tr", null, h("th", null, h("i", { class: "dot", style: `background:var(${r.l.colour})` }), r.l.name), h("td", null, value(r.l.v[r.i], this.unit))))));
  }

  private near(l: Line): number {
    for (let i = 0; i < l.t.length; i++) if (this.at >= l.t[i] && this.at < l.t[i] + this.step) return i;
    return -1;
  }

  private paint(): void {
    if (!this.raf) this.raf = requestAnimationFrame(() => { this.raf = 0; this.draw(); });
  }

  private draw(): void {
    if (!this.w) return;
    const hgt = this.o.height, c = fit(this.canvas, this.w, hgt), mini = this.o.mini;
    c.clearRect(0, 0, this.w, hgt);
    let max = 0;
    for (const l of this.lines) for (const v of l.v) if (v > max) max = v;
    const top = mini ? 6 : padT, bottom = hgt - padB;
    const ticks = niceTicks(max || 1, mini ? 1 : 3, this.unit.includes("bytes"));
    const cap = ticks[ticks.length - 1];
    const y = (v: number) => bottom - (v / cap) * (bottom - top);
    c.font = "11px system-ui, -apple-system, 'Segoe UI', sans-serif";
    c.lineWidth = 1;
    const grid = css("--line"), muted = css("--muted");
    if (!mini) {
      c.textAlign = "right";
      c.textBaseline = "middle";
      for (const v of ticks) {
        c.strokeStyle = grid;
        line(c, padL, Math.round(y(v)) + 0.5, this.w - padR, Math.round(y(v)) + 0.5);
        c.fillStyle = muted;
        c.fillText(value(v, this.unit), padL - 8, y(v));
      }
    }
    this.timeAxis(c, bottom, muted, grid);
    c.save();
    c.beginPath();
    c.rect(mini ? 8 : padL, 0, this.w - padR - (mini ? 8 : padL) + 1, bottom + 1);
    c.clip();
    for (const l of this.lines) this.drawLine(c, l, y, bottom);
    c.restore();
    this.overlay(c, top, bottom);
  }

  private timeAxis(c: CanvasRenderingContext2D, bottom: number, muted: string, grid: string): void {
    c.strokeStyle = grid;
    line(c, this.o.mini ? 8 : padL, bottom + 0.5, this.w - padR, bottom + 0.5);
    c.textAlign = "center";
    c.textBaseline = "top";
    c.fillStyle = muted;
    for (const [t, text] of timeTicks(this.from, this.to, Math.max(2, Math.floor(this.w / 110)))) {
      const x = this.x(t);
      if (x < (this.o.mini ? 24 : padL + 10) || x > this.w - 24) continue;
      line(c, Math.round(x) + 0.5, bottom, Math.round(x) + 0.5, bottom + 4);
      c.fillText(text, x, bottom + 6);
    }
  }

  private drawLine(c: CanvasRenderingContext2D, l: Line, y: (v: number) => number, bottom: number): void {
    const colour = css(l.colour);
    const trace = () => {
      c.beginPath();
      let gap = true, start = 0, x = 0;
      const shut = () => { if (!gap && filling) { c.lineTo(x, bottom); c.lineTo(start, bottom); } };
      for (let i = 0; i < l.t.length; i++) {
        if (i > 0 && l.t[i] - l.t[i - 1] > this.step * 2.5) { shut(); gap = true; }
        x = this.x(l.t[i] + this.step / 2);
        if (gap) { c.moveTo(x, y(l.v[i])); start = x; gap = false; }
        else c.lineTo(x, y(l.v[i]));
      }
      shut();
    };
    let filling = this.lines.length === 1;
    if (filling) {
      trace();
      c.globalAlpha = 0.16;
      c.fillStyle = colour;
      c.fill();
      c.globalAlpha = 1;
      filling = false;
    }
    trace();
    c.strokeStyle = colour;
    c.lineWidth = 1.5;
    c.lineJoin = "round";
    c.stroke();
    // A point without neighbours has no line.
    for (let i = 0; i < l.t.length; i++) {
      const alone = (i === 0 || l.t[i] - l.t[i - 1] > this.step * 2.5) && (i === l.t.length - 1 || l.t[i + 1] - l.t[i] > this.step * 2.5);
      if (!alone) continue;
      c.fillStyle = colour;
      c.beginPath();
      c.arc(this.x(l.t[i] + this.step / 2), y(l.v[i]), 2.5, 0, 7);
      c.fill();
    }
  }

  private overlay(c: CanvasRenderingContext2D, top: number, bottom: number): void {
    const box = (a: number, b: number, colour: string) => {
      c.globalAlpha = 0.2;
      c.fillStyle = colour;
      c.fillRect(a, top - 4, b - a, bottom - top + 4);
      c.globalAlpha = 1;
      c.strokeStyle = colour;
      c.lineWidth = 1;
      line(c, Math.round(a) + 0.5, top - 4, Math.round(a) + 0.5, bottom);
      line(c, Math.round(b) + 0.5, top - 4, Math.round(b) + 0.5, bottom);
    };
    if (this.band) box(this.x(Math.max(this.from, this.band.from)), this.x(Math.min(this.to, this.band.to)), css(this.band.cls));
    if (this.brush) box(this.x(Math.min(this.brush.a, this.brush.b)), this.x(Math.max(this.brush.a, this.brush.b)), css("--accent"));
    else if (this.at >= 0) {
      c.strokeStyle = css("--muted");
      line(c, Math.round(this.x(this.at)) + 0.5, top - 4, Math.round(this.x(this.at)) + 0.5, bottom);
    }
  }
}

export function line(c: CanvasRenderingContext2D, x0: number, y0: number, x1: number, y1: number): void {
  c.beginPath();
  c.moveTo(x0, y0);
  c.lineTo(x1, y1);
  c.stroke();
}

/** timeTicks is at most about room round times of a range, each with its text. */
export function timeTicks(from: number, to: number, room: number): [number, string][] {
  const steps = [5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800];
  const s = (steps.find((x) => (to - from) / (x * 1000) <= room) ?? 604800) * 1000;
  const zone = new Date(from).getTimezoneOffset() * 60e3, out: [number, string][] = [];
  for (let t = Math.ceil((from - zone) / s) * s + zone; t <= to; t += s) out.push([t, s >= 86400e3 ? stamp(t).slice(5, 10) : clock(t, s < 60e3)]);
  return out;
}

/** niceTicks is about n round values, the first at or below min, the last at or above max. */
export function niceTicks(max: number, n: number, binary: boolean, min = 0): number[] {
  let unit = 1;
  if (binary) while (max / unit >= 1024) unit *= 1024;
  const raw = (max - min) / unit / n, p = 10 ** Math.floor(Math.log10(raw)), f = raw / p;
  const step = (f <= 1 ? 1 : f <= 2 ? 2 : f <= 2.5 ? 2.5 : f <= 5 ? 5 : 10) * p * unit;
  const out: number[] = [];
  for (let i = Math.floor(min / step + 1e-9); i <= Math.ceil(max / step - 1e-9); i++) out.push(i * step);
  return out;
}

/** sparkline is a line without axes. */
export function sparkline(values: number[], w: number, hgt: number, label: string): SVGSVGElement {
  const ns = "http://www.w3.org/2000/svg", s = document.createElementNS(ns, "svg");
  for (const [k, v] of Object.entries({ viewBox: `0 0 ${w} ${hgt}`, width: w, height: hgt, class: "spark", role: "img", "aria-label": label })) s.setAttribute(k, String(v));
  const max = Math.max(...values, 1e-12), dx = w / Math.max(1, values.length - 1);
  const pts = values.map((v, i) => `${(i * dx).toFixed(1)} ${(hgt - 1.5 - (v / max) * (hgt - 4)).toFixed(1)}`);
  const add = (d: string, cls: string) => {
    const p = document.createElementNS(ns, "path");
    p.setAttribute("d", d);
    p.setAttribute("class", cls);
    s.append(p);
  };
  if (pts.length > 1) {
    add(`M0 ${hgt}L${pts.join("L")}L${w} ${hgt}Z`, "spark-fill");
    add("M" + pts.join("L"), "spark-line");
  }
  return s;
}
