// One service's profiles: a timeline to choose from, and below it the call
// tree as a flame graph, as a table, around one function, or by sample label.

import { api, exportURL, type FlameGraphResponse, type LabelKey, type SampleLabelsResponse, type SandwichResponse, type Selection, type Service, type TopResponse } from "./api";
import { may } from "./session";
import { copy, h, icon, pick, rebuild, seg, toast, type MenuItem } from "./dom";
import { Banner, filterChips, filterPick, labelFilters, menuButton, rangePick, Search, typePick } from "./controls";
import { FlameView, type Show } from "./flame";
import { count, packageOf, percent, shortName, sortTypes, typeInfo, value, type TypeInfo } from "./format";
import { Layout, matcher } from "./layout";
import { apiRange, exactly, fitDefault, go, instanceLabel, link, matchersOf, niceStep, onlySamples, params, parseMatchers, selection, serviceSpan, set, sidesOf, span } from "./state";
import { bar, Table } from "./table";
import { Timeline } from "./timeline";
import type { Page } from "./main";

const nodes = 16384, allNodes = 500_000;

interface Row { name: string; file: string; self: number; total: number; s: number; t: number; unit: string; scale: number; max: number }
type View = "flame" | "top" | "both" | "sandwich" | "labels";

export class ExplorePage implements Page {
  title = "Explore";
  readonly el: HTMLElement;
  private head = h("div", { class: "controls" });
  private banner = new Banner();
  private warn = new Banner();
  private busy = h("div", { class: "busy", hidden: true });
  private bar = h("div", { class: "viewbar" });
  private facts = h("div", { class: "facts" });
  private timeline: Timeline;
  private flame: FlameView;
  private callers: FlameView;
  private callees: FlameView;
  private table: Table<Row>;
  private panes: HTMLElement;
  private nothing = h("div", { class: "empty", hidden: true });
  private sandTitle = h("div", { class: "sand-title" });
  private byLabel = h("div", { class: "by-label" });
  private search: Search;
  private services: Service[] = [];
  private labelNames: string[] = [];
  private data: { flame?: FlameGraphResponse; top?: TopResponse; sandwich?: SandwichResponse } = {};
  private lay: Layout | null = null;
  private have: { [k: string]: string } = {}; // what each part was asked for
  private ctl: { [k: string]: AbortController } = {};
  private pending = 0;

  constructor() {
    this.search = new Search((q, re) => set({ q, re: re ? "1" : "" }, true));
    this.timeline = new Timeline({ label: "Values over time; drag to select a range, double-click to reset", height: 132,
      onBrush: (a, b) => set({ from: String(a), to: String(b) }), onReset: () => set({ from: "", to: "" }) });
    const actions = (name: string) => this.actions(name);
    const focus = (name: string) => set({ focus: exactly(name), zoom: "" });
    this.flame = new FlameView({ label: "Flame graph", onMenu: actions, onFocus: focus, onZoom: (z) => set({ zoom: z ? z.toString(16) : "" }) });
    this.callers = new FlameView({ label: "Callers", flip: true, onMenu: actions, onFocus: focus, empty: "Nothing calls it in this selection." });
    this.callees = new FlameView({ label: "Callees", onMenu: actions, onFocus: focus, empty: "It calls nothing in this selection." });
    this.table = new Table<Row>("Functions", [
      { key: "name", head: "Function", width: "minmax(var(--w-name,160px),1fr)", sort: (a, b) => (shortName(a.name) < shortName(b.name) ? -1 : 1), cls: "fn", cell: (r) => fnCell(r.name) },
      { key: "self", head: "Self", title: "In the function itself; bars are relative to the largest", width: "var(--w-num,150px)", sort: (a, b) => b.self - a.self, cls: "num", cell: (r) => [bar(r.s / r.max, value(r.self * r.scale, r.unit)), h("span", { class: "pct" }, percent(r.s))] },
      { key: "total", head: "Total", title: "In the function and what it calls; bars are shares of the whole", width: "var(--w-num,150px)", sort: (a, b) => b.total - a.total, cls: "num", cell: (r) => [bar(r.t, value(r.total * r.scale, r.unit)), h("span", { class: "pct" }, percent(r.t))] },
    ], "self", { onPick: (r) => set({ q: params().get("q") === exactly(r.name) ? "" : exactly(r.name), re: params().get("q") === exactly(r.name) ? "" : "1" }, true), onMenu: (r) => [shortName(r.name), { text: "Copy name", run: () => copy(r.name) }, ...actions(r.name)] });
    this.panes = h("div", { class: "panes" }, h("section", { class: "pane pane-top", "aria-label": "Top table" }, this.table.el), h("section", { class: "pane pane-flame", "aria-label": "Flame graph" }, this.flame.el),
      h("section", { class: "pane pane-sand", "aria-label": "Sandwich" }, this.sandTitle, h("div", { class: "sand-half" }, this.callers.el), h("div", { class: "sand-half" }, this.callees.el)),
      h("section", { class: "pane pane-labels", "aria-label": "By sample label" }, this.byLabel));
    this.el = h("div", { class: "page explore" }, this.head, this.banner.el, this.warn.el, this.nothing, h("div", { class: "panel timeline-panel" }, this.timeline.el), h("div", { class: "panel grow-panel" }, this.busy, this.bar, this.facts, this.panes));
  }

  destroy(): void {
    for (const k in this.ctl) this.ctl[k].abort();
    for (const v of [this.timeline, this.flame, this.callers, this.callees, this.table]) v.destroy();
  }

  private actions(name: string): (MenuItem | string)[] {
    return [
      { text: "Sandwich", hint: "callers and callees", run: () => set({ view: "sandwich", fn: name }) },
      { text: "Focus", hint: "f", run: () => set({ focus: exactly(name), zoom: "" }) },
      { text: "Ignore", hint: "drop its stacks", run: () => set({ ignore: exactly(name), zoom: "" }) },
      { text: "Hide", hint: "drop its frames", run: () => set({ hide: exactly(name), zoom: "" }) },
      { text: "Search", run: () => set({ q: exactly(name), re: "1" }, true) },
    ];
  }

  private current(): { service: string; type: string; types: string[] } {
    const p = params();
    const s = this.services.find((x) => x.name === p.get("service")) ?? (p.get("service") ? undefined : this.services[0]);
    const types = sortTypes(s?.profileTypes ?? []);
    const want = p.get("type") ?? "";
    return { service: p.get("service") || s?.name || "", type: want || types[0] || "", types };
  }

  private view(): View {
    const v = params().get("view");
    return v === "flame" || v === "top" || v === "sandwich" || v === "labels" ? v : "both";
  }

  update(): void {
    const p = params(), view = this.view();
    this.panes.dataset.view = view;
    this.flame.setFlip(p.get("dir") === "up");
    this.flame.setZoom(parseInt(p.get("zoom") ?? "", 16) || 0);
    this.banner.reset();
    this.load(false);
    this.controls();
    this.applySearch();
  }

  tick(): void {
    this.load(true);
  }

  // ---- loading ----

  private ask<T>(part: string, key: string, force: boolean, f: (s: AbortSignal) => Promise<T>, done: (r: T) => void): void {
    if (this.have[part] === key && !force) return;
    this.ctl[part]?.abort();
    const ctl = (this.ctl[part] = new AbortController()), fresh = this.have[part] !== key;
    this.have[part] = key;
    this.pending++;
    if (fresh) this.busy.hidden = false;
    f(ctl.signal).then((r) => {
      if (ctl.signal.aborted) return;
      this.banner.clear(part);
      done(r);
    }, (e) => {
      if (ctl.signal.aborted) return;
      if (this.have[part] === key) this.have[part] = "";
      if (part === "flame" && fresh) this.forget();
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
      this.controls();
      this.loadData(false);
    });
    if (this.services.length) this.loadData(force);
  }

  private loadData(force: boolean): void {
    const p = params(), s = span(p), { service, type } = this.current(), labels = p.get("labels") ?? "";
    this.empty(type ? null : service);
    if (!type) return;
    const t = typeInfo(type), sel = selection(type, service, labels, s, p), base = [type, sel.matchers, sel.sampleMatchers, s.from, s.to].join("|"), key = base + JSON.stringify(sel.filter ?? {});
    const step = niceStep(s.toMs - s.fromMs), from = Math.floor(s.fromMs / step) * step, by = p.get("by") ?? "";
    this.ask("series", base + by, force, (sig) => api.series({ ...sel, filter: undefined, range: apiRange({ fromMs: from, toMs: s.toMs }) }, step, by ? [by] : [], sig), (r) => this.timeline.setData(r, t, from, s.toMs));
    this.ask("labels", sel.matchers + s.from, false, (sig) => api.labelNames(matchersOf(service, ""), apiRange(s), sig), (r) => {
      this.labelNames = (r.names ?? []).filter((n) => !n.startsWith("__") && n !== "service_name");
      this.controls();
    });
    const max = p.get("all") ? allNodes : nodes;
    this.ask("flame", key + max, force, (sig) => api.flame(sel, max, sig), (r) => this.gotFlame(r, t));
    const view = this.view();
    if (view === "top" || view === "both") this.ask("top", key, force, (sig) => api.top(sel, sig), (r) => this.gotTop(r, t));
    if (view === "labels") this.ask("tags", key, force, (sig) => api.sampleLabels(sel, sig), (r) => this.gotLabels(r, t));
    const fn = p.get("fn") ?? "";
    if (view === "sandwich" && fn) this.ask("sandwich", key + fn, force, (sig) => api.sandwich(sel, fn, sig), (r) => this.gotSandwich(r, t));
    else if (view === "sandwich") this.sandTitle.replaceChildren(h("span", { class: "muted" }, "Right-click a frame, or use a row's menu in the table, and choose Sandwich."));
  }

  // With nothing to draw there are no empty axes and tables either, but a way on.
  private empty(service: string | null): void {
    this.el.classList.toggle("nothing", service !== null);
    this.nothing.hidden = service === null;
    if (service === null) return;
    this.warn.warn([]);
    const known = this.services.some((s) => s.name === service);
    const ways = [!known && params().get("from") !== "now-1d" ? h("button", { class: "btn", type: "button", onclick: () => set({ from: "now-1d", to: "" }) }, "Last 24 hours") : null,
      h("button", { class: "btn", type: "button", onclick: () => go(link("/", {})) }, this.services.length ? "All services" : "How to send profiles")];
    this.nothing.replaceChildren(h("h2", null, service ? `No profile of ${service} in this range` : "No profiles in this range"),
      h("p", null, this.services.length ? `There ${this.services.length === 1 ? "is" : "are"} ${count(this.services.length, "service")} with profiles in it.` : "No service sent one."), h("div", { class: "row center" }, ways));
  }

  // What was asked has no answer: an older one would be read as its.
  private forget(): void {
    this.panes.classList.add("lost");
    this.facts.replaceChildren("No answer ", ...filterChips(params(), (k) => set({ [k]: "", zoom: "" })));
  }

  private showOf(t: TypeInfo, profiles: number): Show {
    return { unit: t.unit, scale: t.gauge ? 1 / Math.max(1, profiles) : 1, noun: t.noun };
  }

  private gotFlame(r: FlameGraphResponse, t: TypeInfo): void {
    this.data.flame = r;
    this.panes.classList.remove("lost");
    this.lay = new Layout(r.tree ?? {});
    const m = r.meta ?? {}, show = this.showOf(t, m.profiles ?? 1);
    this.flame.setData(this.lay, show);
    this.warn.warn(m.warnings ?? []);
    const out = this.lay.leftOut;
    if (!m.profiles) this.facts.replaceChildren("No profile matches: remove a label, or choose another range. ", ...filterChips(params(), (k) => set({ [k]: "", zoom: "" })));
    else this.facts.replaceChildren(
      h("b", null, value((m.total ?? 0) * show.scale, t.unit)), t.gauge ? " mean of a profile · " : ` ${t.noun === "CPU" ? "of CPU" : t.noun} · `,
      `${count(m.profiles ?? 0, "profile")} of ${count(m.series ?? 0, "series", "series")}`, this.lay.n ? ` · ${count(this.lay.n, "frame")}` : "",
      out ? h("span", null, ` · ${count(out, "small frame")} summed up as “other” `, h("button", { class: "linkish", type: "button", onclick: () => set({ all: "1" }, true) }, "show all")) : "",
      ...filterChips(params(), (k) => set({ [k]: "", zoom: "" })));
    this.applySearch();
  }

  private gotTop(r: TopResponse, t: TypeInfo): void {
    this.data.top = r;
    const total = r.meta?.total || 1, show = this.showOf(t, r.meta?.profiles ?? 1);
    let max = 1e-12;
    for (const x of r.rows ?? []) max = Math.max(max, (x.self ?? 0) / total);
    this.table.setRows((r.rows ?? []).map((x) => ({ name: x.name ?? "", file: x.file ?? "", self: x.self ?? 0, total: x.total ?? 0, s: (x.self ?? 0) / total, t: (x.total ?? 0) / total, unit: t.unit, scale: show.scale, max })));
    this.applySearch();
  }

  private gotSandwich(r: SandwichResponse, t: TypeInfo): void {
    this.data.sandwich = r;
    const fn = params().get("fn") ?? "", all = r.meta?.total || 1, show = this.showOf(t, r.meta?.profiles ?? 1);
    const callers = new Layout(r.callers ?? {}), callees = new Layout(r.callees ?? {}), total = callees.total[0] ?? 0, self = callees.self[0] ?? 0;
    this.callers.setData(callers, show);
    this.callees.setData(callees, show);
    this.sandTitle.replaceChildren(h("code", { title: fn }, fn), h("span", null, `total ${value(total * show.scale, t.unit)} (${percent(total / all)})`), h("span", null, `self ${value(self * show.scale, t.unit)} (${percent(self / all)})`),
      h("div", { class: "grow" }), h("button", { class: "btn ghost tiny", type: "button", onclick: () => set({ view: "", fn: "" }) }, icon("close", 10), "Close"));
    this.applySearch();
  }

  private gotLabels(r: SampleLabelsResponse, t: TypeInfo): void {
    const total = r.meta?.total || 1, show = this.showOf(t, r.meta?.profiles ?? 1), keys = r.keys ?? [];
    this.byLabel.replaceChildren(...(keys.length ? keys.map((k) => labelTable(k, total, show))
      : [h("div", { class: "empty small" }, "No sample in this selection has labels. In Go, pprof.Do gives them: ", h("code", null, 'pprof.Do(ctx, pprof.Labels("endpoint", "/checkout"), f)'))]));
  }

  private applySearch(): void {
    const p = params(), q = p.get("q") ?? "", re = p.get("re") === "1", test = matcher(q, re);
    this.search.set(q, re);
    const share = this.flame.setSearch(test);
    this.callers.setSearch(test);
    this.callees.setSearch(test);
    this.search.say(q ? (test ? percent(share) : "invalid") : "", !!q && !test);
    // Picking a row marks it and keeps the table; typing filters it.
    const picked = re && this.data.top?.rows?.find((r) => exactly(r.name ?? "") === q)?.name;
    this.table.setFilter(picked ? null : test, picked || "");
  }

  // ---- controls ----

  private controls(): void {
    const p = params(), s = span(p), { service, type, types } = this.current(), labels = p.get("labels") ?? "";
    this.title = service || "Explore";
    const scope = () => ({ matchers: matchersOf(service, ""), fromMs: s.fromMs, toMs: s.toMs });
    const by = p.get("by") ?? "";
    rebuild(this.head, () => [
      pick("Service", service || "Service", () => this.services.map((x) => ({ text: x.name, checked: x.name === service, run: () => set({ service: x.name, zoom: "", labels: "", fn: "", type: (x.profileTypes ?? []).includes(type) ? type : "" }) })), undefined, "strong"),
      typePick(types, type, (t) => set({ type: t, zoom: "" })),
      labelFilters(labels, scope, (l) => set({ labels: l })),
      h("div", { class: "grow" }),
      service && may("read_raw") ? h("a", { class: "btn ghost", href: link("/live", { service, instance: parseMatchers(labels).find((m) => m.name === instanceLabel && m.op === "=")?.value }), title: "What its goroutines do now" }, icon("pulse"), "Goroutines now") : "",
      pick("Group by", by ? "By " + by : "Group by", () => [{ text: "Total", checked: !by, run: () => set({ by: "" }) }, ...this.labelNames.map((n) => ({ text: n, checked: n === by, run: () => set({ by: n }) }))], undefined, "ghost"),
      rangePick(s, (from, to) => set({ from, to: to === "now" ? "" : to }))]);
    this.viewbar(p, service, type, selection(type, service, labels, s, p));
  }

  private viewbar(p: URLSearchParams, service: string, type: string, sel: Selection): void {
    const up = p.get("dir") === "up";
    if (!this.bar.firstChild) this.bar.append(h("div", { class: "row left" }), this.search.el, h("div", { class: "row right" }));
    const [left, , right] = [...this.bar.children];
    rebuild(left, () => [seg<View>("View", this.view(), [["both", "Both"], ["flame", "Flame graph"], ["top", "Top table"], ["sandwich", "Sandwich"], ...(may("read_raw") ? [["labels", "Labels"] as [View, string]] : [])], (v) => set({ view: v === "both" ? "" : v }))]);
    rebuild(right, () => [
      h("button", { class: "btn", type: "button", title: up ? "Root at the bottom; click for root on top" : "Root on top; click for root at the bottom", "aria-label": "Turn the graph over", "aria-pressed": String(up), onclick: () => set({ dir: up ? "" : "up" }, true) }, icon("flip")),
      filterPick(p, (f) => set({ ...f, zoom: "" })),
      h("button", { class: "btn", type: "button", title: "Compare two versions or ranges", onclick: () => this.compare(service, type) }, icon("diff"), "Compare"),
      menuButton("Download", "down", () => [...(may("read_raw") ? [{ text: "pprof", hint: "go tool pprof", href: exportURL("pprof", sel) }] : []), { text: "SVG flame graph", hint: "self-contained", href: exportURL("svg", sel) }, { text: "Folded stacks", hint: "text", href: exportURL("folded", sel) }, { text: "speedscope", hint: "JSON", href: exportURL("speedscope", sel) }]),
      h("button", { class: "btn", type: "button", title: "Copy a link to exactly this view", "aria-label": "Copy link", onclick: () => this.share() }, icon("link"))]);
  }

  // A link to what is seen now must not move on with the clock.
  private share(): void {
    const u = new URL(location.href), s = span(params());
    u.searchParams.set("from", String(s.fromMs));
    u.searchParams.set("to", String(s.toMs));
    copy(u.href);
    toast("Link copied, with the range as it is now");
  }

  private compare(service: string, type: string): void {
    const p = params(), vs = this.services.find((x) => x.name === service)?.versions ?? [];
    go(link("/diff", { service, type, from: p.get("from"), to: p.get("to"), ...sidesOf(vs, p.get("labels") ?? "") }));
  }
}

const mostValues = 100;
const ids = ["trace_id", "span_id"]; // texts, whatever they look like

/** labelTable is one key of the samples' labels: a click on a value keeps only its samples. */
function labelTable(k: LabelKey, total: number, show: Show): HTMLElement {
  const key = k.key ?? "", values = k.values ?? [];
  // A comma would be an or in pprof's syntax.
  const only = (v: string) => key + "=" + exactly(v).replaceAll(",", ".");
  return h("section", { class: "label-key" }, h("h3", null, h("code", null, key), h("span", { class: "muted" }, count(values.filter((v) => v.value).length, "value"))),
    values.slice(0, mostValues).map((x) => {
      const v = x.value ?? "", n = x.total ?? 0;
      // Samples without the key are those left when all with it go.
      // A text is looked for where samples lie, which the timeline can follow; a number is shown rounded
      // and with its unit, which only pprof's filter knows.
      const text = /^[a-zA-Z_][a-zA-Z0-9_]*$/.test(key) && (ids.includes(key) || !/^[-\d]/.test(v));
      const keep: { [k: string]: string } = v && text ? { samples: onlySamples(params(), key, v), zoom: "" } : v ? { tag_focus: only(v), zoom: "" } : { tag_ignore: key + "=.*", zoom: "" };
      const drop = v ? { tag_ignore: only(v), zoom: "" } : { tag_focus: key + "=.*", zoom: "" };
      return h("div", { class: "l-row" },
        h("button", { class: "l-value" + (v ? "" : " muted"), type: "button", title: v ? `Only samples with ${key}=${v}` : `Only samples without ${key}`, onclick: () => set(keep) }, v || "without it"),
        bar(n / total, value(n * show.scale, show.unit)), h("span", { class: "pct" }, percent(n / total)),
        h("button", { class: "btn ghost tiny", type: "button", title: "Leave these samples out", onclick: () => set(drop) }, "Ignore"));
    }), values.length > mostValues ? h("p", { class: "muted" }, `and ${values.length - mostValues} smaller ones`) : null);
}

/** fnCell is a function's name with the package quieter than the rest. */
export function fnCell(name: string): Node[] {
  const short = shortName(name), pkg = packageOf(short);
  return [h("span", { class: "fn-name", title: name }, h("span", { class: "fn-pkg" }, pkg ? pkg + "." : ""), pkg ? short.slice(pkg.length + 1) : short)];
}

