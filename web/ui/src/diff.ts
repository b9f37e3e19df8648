// Two selections beside each other: A is what was, B is what is. Red grew, blue shrank.

import { api, exportURL, type DiffResponse, type Selection, type Service } from "./api";
import { copy, h, icon, pick, seg, type MenuItem } from "./dom";
import { Banner, filterChips, filterPick, labelFilters, menuButton, rangePick, Search, typePick } from "./controls";
import { fnCell } from "./explore";
import { FlameView } from "./flame";
import { count, percent, points, shortName, sortTypes, typeInfo, value, type TypeInfo } from "./format";
import { Layout, matcher, type Width } from "./layout";
import { apiRange, exactly, fitDefault, formatMatchers, link, go, matchersOf, niceStep, params, selection, serviceSpan, set, sidesOf, span, versionLabel, type Span } from "./state";
import { Table } from "./table";
import { Timeline } from "./timeline";
import type { Page } from "./main";

interface Row { name: string; a: number; b: number; d: number; sa: number; sb: number; sd: number; max: number; maxSelf: number }
type Side = "a" | "b";
type View = "both" | "flame" | "top";

/** DiffView is a difference as a table of functions and as a flame graph. */
export class DiffView {
  readonly el: HTMLElement;
  readonly flame: FlameView;
  readonly table: Table<Row>;

  constructor(o: { actions: (name: string) => (MenuItem | string)[]; pick: (name: string) => void; zoom?: (hash: number) => void; focus?: (name: string) => void }) {
    this.flame = new FlameView({ label: "Difference as a flame graph", onZoom: o.zoom, onMenu: o.actions, onFocus: o.focus });
    const pct = (f: number) => [h("span", null, percent(f))];
    const change = (d: number, max: number) => [h("div", { class: "delta " + (d > 0 ? "worse" : d < 0 ? "better" : "") }, h("i", { style: `width:${Math.min(50, (Math.abs(d) / max) * 50).toFixed(2)}%;${d > 0 ? "left:50%" : "right:50%"}` }), h("span", null, points(d)))];
    this.table = new Table<Row>("Functions by change", [
      { key: "name", head: "Function", width: "minmax(var(--w-name,160px),1fr)", sort: (x, y) => (shortName(x.name) < shortName(y.name) ? -1 : 1), cls: "fn", cell: (r) => fnCell(r.name) },
      { key: "sd", head: "Self change", title: "Change of the function's own share, in percentage points", width: "var(--w-change,118px)", sort: (x, y) => Math.abs(y.sd) - Math.abs(x.sd), cls: "num", cell: (r) => change(r.sd, r.maxSelf) },
      { key: "a", head: "A", title: "Share of A, with what it calls", width: "var(--w-share,72px)", sort: (x, y) => y.a - x.a, cls: "num", cell: (r) => pct(r.a) },
      { key: "b", head: "B", title: "Share of B, with what it calls", width: "var(--w-share,72px)", sort: (x, y) => y.b - x.b, cls: "num", cell: (r) => pct(r.b) },
      { key: "d", head: "Change", title: "Change of the share with what it calls, in percentage points", width: "var(--w-change,118px)", sort: (x, y) => Math.abs(y.d) - Math.abs(x.d), cls: "num", cell: (r) => change(r.d, r.max) },
    ], "sd", { onPick: (r) => o.pick(r.name), onMenu: (r) => [shortName(r.name), { text: "Copy name", run: () => copy(r.name) }, ...o.actions(r.name)] });
    this.el = h("div", { class: "panes" }, h("section", { class: "pane pane-top", "aria-label": "Table of changes" }, this.table.el), h("section", { class: "pane pane-flame", "aria-label": "Flame graph of changes" }, this.flame.el));
  }

  destroy(): void {
    this.flame.destroy();
    this.table.destroy();
  }

  /** set shows an answer; names are the words beside the two sides' figures. before is called with the frames before they are drawn. */
  set(r: DiffResponse, t: TypeInfo, width: Width, names: [string, string], before?: (lay: Layout) => void): Row[] {
    const tree = r.tree ?? {};
    // A diff whose base is empty still is one.
    if (tree.level && !tree.baseTotal) tree.baseTotal = new Array<number>(tree.level.length).fill(0);
    const lay = new Layout(tree, width);
    before?.(lay);
    this.flame.setData(lay, { unit: t.unit, scale: 1, noun: t.noun, labels: names });
    const ta = lay.baseTotal?.[0] || 1, tb = lay.total[0] || 1;
    let max = 1e-9, maxSelf = 1e-9;
    const rows = (r.rows ?? []).map((x) => {
      const a = (x.baseTotal ?? 0) / ta, b = (x.total ?? 0) / tb, sa = (x.baseSelf ?? 0) / ta, sb = (x.self ?? 0) / tb;
      max = Math.max(max, Math.abs(b - a));
      maxSelf = Math.max(maxSelf, Math.abs(sb - sa));
      return { name: x.name ?? "", a, b, d: b - a, sa, sb, sd: sb - sa, max: 1, maxSelf: 1 };
    });
    for (const x of rows) Object.assign(x, { max, maxSelf });
    this.table.setRows(rows);
    return rows;
  }
}

export class DiffPage implements Page {
  title = "Compare";
  readonly el: HTMLElement;
  private head = h("div", { class: "controls" });
  private banner = new Banner();
  private busy = h("div", { class: "busy", hidden: true });
  private verdict = h("div", { class: "verdict", role: "status" });
  private bar = h("div", { class: "viewbar" });
  private sides: { [k in Side]: { head: HTMLElement; time: Timeline } };
  private view: DiffView;
  private search: Search;
  private services: Service[] = [];
  private res: DiffResponse | null = null;
  private have: { [k: string]: string } = {};
  private ctl: { [k: string]: AbortController } = {};
  private pending = 0;
  private chosen = ""; // the service whose sides were chosen here

  constructor() {
    const side = (k: Side) => ({
      head: h("div", { class: "side-head" }),
      time: new Timeline({ label: `Selection ${k.toUpperCase()}; drag to select a range, double-click to reset`, height: 64, mini: true,
        onBrush: (f, t) => set({ [k + ".from"]: String(f), [k + ".to"]: String(t) }), onReset: () => set({ [k + ".from"]: "", [k + ".to"]: "" }) }),
    });
    this.sides = { a: side("a"), b: side("b") };
    this.search = new Search((q, re) => set({ q, re: re ? "1" : "" }, true));
    this.view = new DiffView({ actions: (n) => this.actions(n), zoom: (z) => set({ zoom: z ? z.toString(16) : "" }), focus: (n) => set({ focus: exactly(n), zoom: "" }),
      pick: (n) => set({ q: params().get("q") === exactly(n) ? "" : exactly(n), re: "1" }, true) });
    const panel = (k: Side) => h("section", { class: "panel side side-" + k, "aria-label": "Selection " + k.toUpperCase() }, this.sides[k].head, this.sides[k].time.el);
    this.el = h("div", { class: "page diff" }, this.head, this.banner.el, h("div", { class: "sides" }, panel("a"), panel("b")), h("div", { class: "panel grow-panel" }, this.busy, this.verdict, this.bar, this.view.el));
  }

  destroy(): void {
    for (const k in this.ctl) this.ctl[k].abort();
    for (const v of [this.sides.a.time, this.sides.b.time, this.view]) v.destroy();
  }

  private actions(name: string): (MenuItem | string)[] {
    const c = this.current(), p = params();
    const to = (k: Side) => go(link("/explore", { service: c.service, type: c.type, from: p.get(k + ".from") || p.get("from"), to: p.get(k + ".to") || p.get("to"), labels: p.get(k + ".labels"), view: "sandwich", fn: name }));
    return [{ text: "Sandwich in A", run: () => to("a") }, { text: "Sandwich in B", run: () => to("b") }, { text: "Focus", hint: "f", run: () => set({ focus: exactly(name), zoom: "" }) }, { text: "Ignore", run: () => set({ ignore: exactly(name), zoom: "" }) }];
  }

  private current(): { service: string; type: string; types: string[]; versions: string[] } {
    const p = params(), s = this.services.find((x) => x.name === p.get("service")) ?? (p.get("service") ? undefined : this.services[0]);
    const types = sortTypes(s?.profileTypes ?? []);
    return { service: p.get("service") || s?.name || "", type: p.get("type") || types[0] || "", types, versions: s?.versions ?? [] };
  }

  // A side without a range of its own has the page's; split halves that.
  private range(k: Side): Span {
    const p = params(), whole = span(p), from = p.get(k + ".from"), to = p.get(k + ".to");
    if (from || to) {
      const q = new URLSearchParams({ from: from || whole.from, to: to || whole.to });
      return span(q);
    }
    if (!p.get("split")) return whole;
    const mid = Math.floor((whole.fromMs + whole.toMs) / 2);
    return k === "a" ? { ...whole, to: String(mid), toMs: mid } : { ...whole, from: String(mid), fromMs: mid };
  }

  update(): void {
    const p = params(), v = p.get("view");
    this.view.el.dataset.view = v === "flame" || v === "top" ? v : "both";
    this.view.flame.setFlip(p.get("dir") === "up");
    this.view.flame.setZoom(parseInt(p.get("zoom") ?? "", 16) || 0);
    this.banner.reset();
    this.load(false);
    this.controls();
    if (this.res && this.have.width !== (p.get("width") ?? "")) this.drawDiff();
    this.applySearch();
  }

  tick(): void {
    this.load(true);
  }

  private ask<T>(part: string, key: string, force: boolean, f: (s: AbortSignal) => Promise<T>, done: (r: T) => void): void {
    if (this.have[part] === key && !force) return;
    this.ctl[part]?.abort();
    const ctl = (this.ctl[part] = new AbortController()), fresh = this.have[part] !== key;
    if (fresh) this.busy.hidden = false;
    this.have[part] = key;
    this.pending++;
    f(ctl.signal).then((r) => {
      if (ctl.signal.aborted) return;
      this.banner.clear(part);
      done(r);
    }, (e) => {
      if (ctl.signal.aborted) return;
      if (this.have[part] === key) this.have[part] = "";
      if (part === "diff" && fresh) this.forget();
      this.banner.fail(e, () => this.tick(), part);
    }).finally(() => {
      if (--this.pending === 0) this.busy.hidden = true;
    });
  }

  private load(force: boolean): void {
    const s = serviceSpan(params());
    this.ask("services", s.from + s.to, force, (sig) => api.services(apiRange(s), sig), (r) => {
      this.services = r.services ?? [];
      fitDefault(this.services);
      if (this.choose()) return;
      this.controls();
      this.loadData(false);
    });
    if (this.services.length && !this.choose()) this.loadData(force);
  }

  // A URL that names no sides would compare the range with itself. It is asked
  // once a service, so that who removes both sides' labels is not overruled.
  private choose(): boolean {
    const p = params(), c = this.current();
    if (!c.service || !c.type || this.chosen === c.service) return false;
    this.chosen = c.service;
    if ([...p.keys()].some((k) => k === "split" || /^[ab]\./.test(k))) return false;
    set(sidesOf(c.versions, p.get("labels") ?? ""), true);
    return true;
  }

  private selection(k: Side): Selection {
    const p = params(), c = this.current();
    return selection(c.type, c.service, p.get(k + ".labels") ?? "", this.range(k), p);
  }

  private loadData(force: boolean): void {
    const p = params(), c = this.current();
    if (!c.type) {
      this.verdict.replaceChildren(icon("warn", 16), h("span", null, c.service ? `There is no profile of ${c.service} in this range: choose another above.` : "There are no profiles in this range."));
      return;
    }
    const t = typeInfo(c.type), whole = span(p), step = niceStep(whole.toMs - whole.fromMs), from = Math.floor(whole.fromMs / step) * step;
    for (const k of ["a", "b"] as const) {
      const sel = this.selection(k), r = this.range(k), time = this.sides[k].time;
      this.ask("series" + k, [c.type, sel.matchers, sel.sampleMatchers, whole.from, whole.to].join("|"), force, (sig) => api.series({ ...sel, filter: undefined, range: apiRange({ fromMs: from, toMs: whole.toMs }) }, step, [], sig), (x) => time.setData(x, t, from, whole.toMs));
      const full = !p.get("split") && !p.get(k + ".from") && !p.get(k + ".to");
      time.setBand(full ? null : { from: r.fromMs, to: r.toMs, cls: k === "a" ? "--side-a" : "--side-b" });
    }
    const a = this.selection("a"), b = this.selection("b");
    const key = (s: Span) => s.from + "," + s.to;
    this.ask("diff", JSON.stringify([c.type, a.matchers, b.matchers, a.sampleMatchers, a.filter, key(this.range("a")), key(this.range("b"))]), force, (sig) => api.diff(a, b, 16384, sig), (r) => {
      this.res = r;
      this.drawDiff();
    });
  }

  // What was asked has no answer: an older one would be read as its.
  private forget(): void {
    this.res = null;
    this.verdict.replaceChildren(icon("warn", 16), h("span", null, "There is no answer to this."));
    this.view.el.classList.add("lost");
  }

  private drawDiff(): void {
    const r = this.res!, p = params(), t = typeInfo(this.current().type);
    this.have.width = p.get("width") ?? "";
    this.view.el.classList.remove("lost");
    const rows = this.view.set(r, t, (p.get("width") as Width) || "both", this.names());
    this.say(rows, r, t);
    this.applySearch();
  }

  // The words beside the colours: versions where they tell the sides apart, else A and B.
  private names(): [string, string] {
    const p = params(), v = (k: Side) => new RegExp(versionLabel + '="([^"]*)"').exec(p.get(k + ".labels") ?? "")?.[1];
    const a = v("a"), b = v("b");
    return a && b && a !== b ? [a, b] : ["A", "B"];
  }

  private say(rows: Row[], r: DiffResponse, t: TypeInfo): void {
    const base = r.base ?? {}, head = r.head ?? {}, [na, nb] = this.names();
    const missing = !base.total && !head.total ? "Neither side has" : !base.total ? `${na} has no` : !head.total ? `${nb} has no` : "";
    if (missing) {
      this.verdict.replaceChildren(icon("warn", 16), h("span", null, `${missing} samples: choose other labels or ranges above.`));
      return;
    }
    // The guilty one: among functions of the program whose total grew about as much as the
    // largest, the deepest, which is the one whose own and standard-library work grew.
    const worst = guilty(rows, r), best = fell(rows, worst);
    const fn = (x: Row) => h("button", { class: "fn-link", type: "button", title: x.name, onclick: () => set({ q: exactly(x.name), re: "1" }, true) }, shortName(x.name));
    const totals = h("span", { class: "muted totals" }, `${na}: ${value(base.total ?? 0, t.unit)} in ${count(base.profiles ?? 0, "profile")} · ${nb}: ${value(head.total ?? 0, t.unit)} in ${count(head.profiles ?? 0, "profile")} · shares compared`);
    const same = !worst || worst.d < 0.005;
    this.verdict.replaceChildren(...(same ? [icon("diff", 16), h("span", null, "No function's share grew by half a percentage point or more.")]
      : [h("i", { class: "verdict-mark" }), h("span", null, fn(worst), worst.a ? [" rose from ", h("b", null, percent(worst.a)), " to "] : ` is not in ${na}, and in ${nb} `, h("b", { class: "worse" }, percent(worst.b)), ` of ${t.noun}`,
        best ? h("span", { class: "muted" }, "; ", fn(best), ` fell from ${percent(best.a)} to ${percent(best.b)}`) : "", ".")]), totals);
  }

  private applySearch(): void {
    const p = params(), q = p.get("q") ?? "", re = p.get("re") === "1", test = matcher(q, re);
    this.search.set(q, re);
    const share = this.view.flame.setSearch(test);
    this.search.say(q ? (test ? percent(share) : "invalid") : "", !!q && !test);
    const picked = re && this.res?.rows?.find((r) => exactly(r.name ?? "") === q)?.name;
    this.view.table.setFilter(picked ? null : test, picked || "");
  }

  private controls(): void {
    const p = params(), s = span(p), c = this.current();
    this.title = c.service ? c.service + " compared" : "Compare";
    this.head.replaceChildren(
      pick("Service", c.service || "Service", () => this.services.map((x) => ({ text: x.name, checked: x.name === c.service, run: () => set({ service: x.name, "a.labels": "", "b.labels": "", zoom: "" }) })), undefined, "strong"),
      typePick(c.types, c.type, (t) => set({ type: t, zoom: "" })), ...this.quick(c.versions), ...filterChips(p, (k) => set({ [k]: "", zoom: "" })), h("div", { class: "grow" }),
      rangePick(s, (from, to) => set({ from, to: to === "now" ? "" : to })));
    for (const k of ["a", "b"] as const) {
      const r = this.range(k), own = !!(p.get(k + ".from") || p.get(k + ".to") || p.get("split"));
      this.sides[k].head.replaceChildren(h("span", { class: "side-mark" }, k.toUpperCase()), h("span", { class: "side-name" }, k === "a" ? "Base" : "Head"),
        labelFilters(p.get(k + ".labels") ?? "", () => ({ matchers: matchersOf(c.service, ""), fromMs: s.fromMs, toMs: s.toMs }), (l) => set({ [k + ".labels"]: l })), h("div", { class: "grow" }),
        own ? rangePick(r, (from, to) => set({ [k + ".from"]: from, [k + ".to"]: to })) : h("span", { class: "muted side-hint" }, "whole range · drag to narrow"),
        own && !p.get("split") ? h("button", { class: "btn ghost tiny", type: "button", "aria-label": "Whole range", title: "Whole range", onclick: () => set({ [k + ".from"]: "", [k + ".to"]: "" }) }, icon("close", 10)) : "");
    }
    this.viewbar(p);
  }

  private quick(vs: string[]): HTMLElement[] {
    const at = (v: string) => formatMatchers([{ name: versionLabel, op: "=", value: v }]), clear = { "a.from": "", "a.to": "", "b.from": "", "b.to": "", split: "", zoom: "" }, p = params();
    const out = vs.slice(1).slice(-3).map((v, i, all) => {
      const old = vs[vs.length - all.length - 1 + i], on = p.get("a.labels") === at(old) && p.get("b.labels") === at(v);
      return h("button", { class: "btn" + (on ? " on" : ""), type: "button", onclick: () => set({ ...clear, "a.labels": at(old), "b.labels": at(v) }) }, `${old.slice(0, 10)} → ${v.slice(0, 10)}`);
    });
    out.push(h("button", { class: "btn" + (p.get("split") ? " on" : ""), type: "button", title: "The first half of the range with the second", onclick: () => set({ ...clear, "a.labels": "", "b.labels": "", split: "1" }) }, "Before → after"));
    out.push(h("button", { class: "btn ghost", type: "button", title: "Swap A and B", "aria-label": "Swap A and B", onclick: () => this.swap() }, icon("swap")));
    return out;
  }

  private swap(): void {
    const p = params(), out: { [k: string]: string } = { split: "" };
    for (const k of ["labels", "from", "to"]) {
      out["a." + k] = p.get("b." + k) ?? "";
      out["b." + k] = p.get("a." + k) ?? "";
    }
    if (p.get("split")) {
      const a = this.range("a"), b = this.range("b");
      Object.assign(out, { "a.from": String(b.fromMs), "a.to": String(b.toMs), "b.from": String(a.fromMs), "b.to": String(a.toMs) });
    }
    set(out);
  }

  private viewbar(p: URLSearchParams): void {
    if (!this.bar.firstChild) this.bar.append(h("div", { class: "row left" }), this.search.el, h("div", { class: "row right" }));
    const [left, , right] = [...this.bar.children], up = p.get("dir") === "up", v = p.get("view");
    left.replaceChildren(seg<View>("View", v === "flame" || v === "top" ? v : "both", [["both", "Both"], ["flame", "Flame graph"], ["top", "Table"]], (x) => set({ view: x === "both" ? "" : x })),
      seg<Width>("Width of frames", (p.get("width") as Width) || "both", [["both", "A + B"], ["base", "A"], ["head", "B"]], (x) => set({ width: x === "both" ? "" : x })),
      h("span", { class: "diff-key", "aria-hidden": "true" }, "less", h("i"), "more"));
    right.replaceChildren(h("button", { class: "btn", type: "button", title: "Turn the graph over", "aria-label": "Turn the graph over", "aria-pressed": String(up), onclick: () => set({ dir: up ? "" : "up" }, true) }, icon("flip")),
      filterPick(p, (f) => set({ ...f, zoom: "" })),
      menuButton("Download", "down", () => { const a = this.selection("a"), b = this.selection("b"); return [{ text: "pprof of the difference", href: exportURL("pprof", b, a) }, { text: "SVG of the difference", href: exportURL("svg", b, a) }, { text: "pprof of A", href: exportURL("pprof", a) }, { text: "pprof of B", href: exportURL("pprof", b) }]; }),
      h("button", { class: "btn", type: "button", title: "Copy a link", "aria-label": "Copy link", onclick: () => copy(location.href) }, icon("link")));
  }
}

// fell is a function whose fall is worth a word, if there is one. Shares add up to one: what
// one function gains, all others lose in proportion, and that is no news of theirs.
function fell(rows: Row[], worst: Row | null): Row | undefined {
  const rest = 1 - Math.max(0, worst?.d ?? 0), beyond = (x: Row) => x.sb - x.sa * rest;
  return rows.filter((x) => beyond(x) < -0.02 && !/^(total$|runtime)/.test(x.name)).sort((x, y) => beyond(x) - beyond(y))[0];
}

// guilty is the row to name in a sentence. Everything above a regression grows with it, so
// the largest total names main; the largest self often names the runtime. It is the deepest
// function outside of the standard library whose total grew by half of the largest growth:
// chance elsewhere adds to what is above, so that more of it would name a caller now and then.
function guilty(rows: Row[], r: DiffResponse): Row | null {
  const grew = new Map(rows.filter((x) => x.d > 0).map((x) => [x.name, x]));
  const names = r.tree?.names ?? [], depth = new Map<string, number>();
  const ours = (n: string) => /^(main|[^/]+\.[^/]+\/)/.test(n) && !n.startsWith("runtime");
  (r.tree?.level ?? []).forEach((l, i) => {
    const n = names[r.tree!.name![i]];
    if (grew.has(n)) depth.set(n, Math.max(depth.get(n) ?? 0, l));
  });
  let pool = [...grew.values()].filter((x) => ours(x.name));
  if (!pool.length) pool = [...grew.values()].filter((x) => x.name !== "total");
  const most = Math.max(...pool.map((x) => x.d), 0);
  return pool.filter((x) => x.d >= most / 2).sort((x, y) => (depth.get(y.name) ?? 0) - (depth.get(x.name) ?? 0) || y.sd - x.sd)[0] ?? null;
}
