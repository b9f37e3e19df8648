// The summary of an execution trace: for each entry function how long its goroutines
// ran, waited for a processor, were in system calls, and in what they were blocked.

import { Banner } from "./controls";
import { h, icon, pick, rebuild } from "./dom";
import { fnCell } from "./explore";
import { fleet, type Times, type TraceGroup, type TraceSummary } from "./fleet";
import { clock, count, percent, value } from "./format";
import { byState, colourOf } from "./goroutines";

const lengths = [1, 5, 10, 30];

interface Column { key: string; head: string; title: string; of: (g: TraceGroup) => number; cell?: (g: TraceGroup) => Node }

const ns = (v: number) => (v ? value(v, "nanoseconds") : "–");
const blockedOf = (t: Times) => Object.values(t.blocked_ns ?? {}).reduce((a, b) => a + b, 0);
const wanted = (t: Times): [string, number][] => [["run", t.run_ns], ["runnable", t.runnable_ns], ["syscall", t.syscall_ns]];
const life = (t: Times): [string, number][] => [...wanted(t), ...byState(Object.entries(t.blocked_ns ?? {})), ["unknown", t.unknown_ns ?? 0]];

export class TraceView {
  readonly el = h("div", { class: "trace", hidden: true });
  private banner = new Banner();
  private facts = h("div", { class: "facts" });
  private body = h("div", { class: "trace-body" });
  private ctl: AbortController | null = null;
  private seconds = 5;
  private since = 0; // when the one that is being taken began; 0 is none
  private timer = 0;
  private who: [string, string] = ["", ""];
  private have: { summary: TraceSummary; at: number } | null = null;
  private sort = "wanted";
  private most = 1;
  private drawn: unknown = null;
  private cols: Column[] = [
    { key: "count", head: "n", title: "Goroutines that began with this function", of: (g) => g.count, cell: (g) => h("span", null, g.count.toLocaleString("en")) },
    { key: "wanted", head: "Active", title: "How long they ran, were ready and no processor took them, and were in system calls; bars are relative to the largest", of: (g) => g.run_ns + g.runnable_ns + g.syscall_ns, cell: (g) => stack(wanted(g), this.most) },
    { key: "run", head: "Run", title: "On a processor", of: (g) => g.run_ns },
    { key: "runnable", head: "Ready", title: "Ready to run, waiting for a processor: scheduler latency", of: (g) => g.runnable_ns, cell: (g) => h("span", { title: `the longest wait was ${ns(g.runnable_max_ns)}` }, ns(g.runnable_ns)) },
    { key: "syscall", head: "Syscall", title: "In system calls", of: (g) => g.syscall_ns },
    { key: "assist", head: "GC assist", title: "Marking for the garbage collector; it is within the others", of: (g) => g.assist_ns },
    { key: "life", head: "Lifetime", title: "All their time in the window, with what they were blocked in", of: (g) => g.lifetime_ns, cell: (g) => stack(life(g), g.lifetime_ns) },
    { key: "blocked", head: "Blocked", title: "In all that they wait for", of: blockedOf },
  ];

  constructor() {
    this.el.append(this.banner.el, this.facts, this.body);
  }

  destroy(): void {
    this.forget();
  }

  /** forget gives up what is taken and what is shown: it is another program's. */
  forget(): void {
    this.ctl?.abort();
    clearInterval(this.timer);
    this.since = 0;
    this.have = null;
    this.drawn = this;
    this.banner.reset();
  }

  /** controls are the buttons of the view's bar. */
  controls(service: string, instance: string): HTMLElement {
    this.who = [service, instance];
    return h("div", { class: "row" }, pick("Length of the trace", this.seconds + " s", () => lengths.map((s) => ({ text: s + " s", checked: s === this.seconds, run: () => { this.seconds = s; this.again(); } })), "clock"),
      h("button", { class: "btn", type: "button", disabled: this.since > 0 || !instance, onclick: () => this.take(service, instance, this.seconds) }, icon("pulse"), this.since ? "Tracing…" : "Take a trace"),
      h("a", { class: "btn", href: instance ? fleet.rawTrace(service, instance, this.seconds) : undefined, download: "execution.trace", "data-raw": true, title: `Takes a trace of ${this.seconds} s and downloads it, for go tool trace` }, icon("down"), "Raw"));
  }

  private bar: HTMLElement | null = null;
  private again(): void {
    this.bar = this.el.parentElement?.querySelector(".viewbar .right") ?? null;
    if (this.bar) rebuild(this.bar, () => [this.controls(...this.who)]);
  }

  /** take asks for a trace of so many seconds. */
  take(service: string, instance: string, seconds: number): void {
    this.ctl?.abort();
    const ctl = (this.ctl = new AbortController());
    this.seconds = seconds;
    this.since = Date.now();
    clearInterval(this.timer);
    this.timer = window.setInterval(() => this.draw(), 500);
    this.again();
    this.draw();
    fleet.trace(service, instance, seconds, ctl.signal).then((summary) => {
      if (ctl.signal.aborted) return;
      this.banner.clear();
      this.have = { summary, at: Date.now() };
    }, (e) => {
      if (!ctl.signal.aborted) this.banner.fail(e, () => this.take(service, instance, seconds));
    }).finally(() => {
      if (this.ctl !== ctl || ctl.signal.aborted) return;
      clearInterval(this.timer);
      this.since = 0;
      this.again();
      this.draw();
    });
  }

  draw(): void {
    if (this.since) {
      const s = (Date.now() - this.since) / 1000;
      this.facts.replaceChildren(s < this.seconds ? `Tracing: ${Math.ceil(this.seconds - s)} s left` : "The trace is on its way and being added up…");
    } else if (this.have) this.facts.replaceChildren(...this.factsOf(this.have.summary, this.have.at));
    else this.facts.replaceChildren("An execution trace tells what each goroutine did with its time. It costs the program a few percent of its speed while it is taken.");
    const now = this.have ?? this;
    if (this.drawn === now) return;
    this.drawn = now;
    this.table();
  }

  private factsOf(t: TraceSummary, at: number): (Node | string)[] {
    const g = t.gc;
    return [h("b", null, value(t.window_ns, "nanoseconds")), ` until ${clock(at)} · ${count(t.goroutines, "goroutine")} on ${count(t.procs, "processor")} · ran ${ns(t.run_ns)} (${percent(t.run_ns / (t.window_ns * t.procs || 1))}), waited ${ns(t.runnable_ns)} for a processor, at most ${ns(t.runnable_max_ns)} at a time · `,
      `${count(g.cycles, "GC cycle")}${g.cycles ? ", marking " + ns(g.mark_ns) : ""} · world stopped ${count(g.stw_count, "time")}, ${ns(g.stw_ns)}`,
      ...(t.warnings?.length ? [h("span", { class: "worse" }, " · " + t.warnings.join("; "))] : [])];
  }

  private table(): void {
    const t = this.have?.summary;
    if (!t) {
      this.body.replaceChildren();
      return;
    }
    const groups = t.groups ?? [], c = this.cols.find((x) => x.key === this.sort)!;
    this.most = Math.max(1, ...groups.map((g) => g.run_ns + g.runnable_ns + g.syscall_ns));
    const reasons = new Map<string, number>();
    for (const g of groups) for (const [s, v] of life(g)) if (v) reasons.set(s, (reasons.get(s) ?? 0) + v);
    const head = h("div", { class: "x-row t-head", role: "row" }, h("div", { class: "t-cell", role: "columnheader" }, "Began with"), this.cols.map((x) => h("div", { class: "t-cell num x-" + x.key, role: "columnheader", "aria-sort": x === c ? "descending" : "none" },
      h("button", { type: "button", class: "t-sort" + (x === c ? " on" : ""), title: x.title, onclick: () => { this.sort = x.key; this.table(); } }, x.head, x === c ? h("span", { class: "t-arrow", "aria-hidden": "true" }, "↓") : null))));
    const rows = [...groups].sort((a, b) => c.of(b) - c.of(a) || (a.entry < b.entry ? -1 : 1)).map((g) => h("div", { class: "x-row", role: "row", "data-entry": g.entry },
      h("div", { class: "t-cell row", role: "cell" }, fnCell(g.entry), g.system ? h("span", { class: "tag", title: "Of the runtime itself" }, "runtime") : null),
      this.cols.map((x) => h("div", { class: "t-cell num x-" + x.key, role: "cell" }, x.cell?.(g) ?? ns(x.of(g))))));
    this.body.replaceChildren(h("div", { class: "states legend-only" }, byState(reasons).map(([s, v]) => h("span", { class: "state" }, h("i", { style: `background:${colourOf(s)}` }), s, h("b", null, ns(v))))),
      h("div", { class: "x-table", role: "table", "aria-label": "Goroutines by the function they began with" }, head, rows.length ? rows : h("div", { class: "empty small" }, "No goroutine did anything in this trace.")));
  }
}

function stack(parts: [string, number][], whole: number): HTMLElement {
  const text = parts.filter(([, v]) => v).map(([s, v]) => `${s} ${ns(v)}`).join(", ");
  return h("div", { class: "stack", role: "img", "aria-label": text, title: text.replaceAll(", ", "\n") }, parts.filter(([, v]) => v).map(([s, v]) => h("i", { style: `width:${((v / (whole || 1)) * 100).toFixed(2)}%;background:${colourOf(s)}` })));
}
