// What was found, what to look at first comes first: a sentence each, with a chart, a price and since when.

import { api, serverNow } from "./api";
import { Banner, checksPick } from "./controls";
import { h, icon, pick, rebuild, retext } from "./dom";
import { clock, count, stamp, typeInfo, value } from "./format";
import { spark } from "./chart";
import { apiRange, go, link, params, set } from "./state";
import { ms, watch, type Analysis, type Item } from "./watch";
import { ageing, basis, better, fullTime, kinds, moment, money, resource, rich, states, stateTag, when } from "./words";
import type { Page } from "./main";

const most = 1000; // that the server lists
const stateChoices: [string, string][] = [["", "Not fixed"], ["open", "Open"], ...Object.entries(states), ["all", "All"]];
const sinceChoices: [string, string][] = [["", "Any time"], ["1h", "Last hour"], ["6h", "Last 6 hours"], ["24h", "Last 24 hours"], ["168h", "Last 7 days"], ["720h", "Last 30 days"]];
const filterNames = ["service", "kind", "state", "since"];

interface Answer { query: string; findings: Item[]; analysis: Analysis }

// What the list was when it was left: who comes back finds the same place.
let left: { answer: Answer; scroll: number; url: string } | null = null;

/** listURL is the list as it was left. */
export function listURL(): string {
  return left?.url ?? "/findings";
}

export class FindingsPage implements Page {
  readonly title = "Findings";
  readonly every = 5000;
  readonly el: HTMLElement;
  private banner = new Banner();
  private service: HTMLButtonElement;
  private kind: HTMLButtonElement;
  private state: HTMLButtonElement;
  private since: HTMLButtonElement;
  private clear = h("button", { class: "btn ghost", type: "button", onclick: () => set(Object.fromEntries(filterNames.map((k) => [k, ""]))) }, "Clear filters");
  private facts = h("span", { class: "muted f-count", role: "status" });
  private strip = new Strip();
  private head = h("div", { class: "f-row f-head", "aria-hidden": "true" }, ["What was found", "Over time", "A month", "Since"].map((t) => h("div", null, t)));
  private list = h("ol", { class: "f-list", "aria-label": "Findings, what to look at first comes first" });
  private none = h("div", { hidden: true });
  private rows = new Map<string, { el: HTMLElement; key: string }>();
  private names = new Set<string>();
  private ctl: AbortController | null = null;
  private have: Answer | null = null;

  constructor() {
    this.service = pick("Service", "", () => [{ text: "All services", checked: !params().get("service"), run: () => set({ service: "" }) }, ...[...this.names].sort().map((n) => ({ text: n, checked: n === params().get("service"), run: () => set({ service: n }) }))]);
    this.kind = checksPick("Kind", Object.entries(kinds), () => some("kind"), (v) => set({ kind: v.join(",") }));
    this.state = pick("State", "", () => stateChoices.map(([v, text]) => ({ text, checked: v === (params().get("state") ?? ""), run: () => set({ state: v }) })));
    this.since = pick("Seen since", "", () => sinceChoices.map(([v, text]) => ({ text, checked: v === (params().get("since") ?? ""), run: () => set({ since: v }) })), "clock");
    this.el = h("div", { class: "page narrow findings" }, h("div", { class: "page-head wrap" }, h("h1", null, "Findings"), h("div", { class: "row wrap f-filters", role: "group", "aria-label": "Filters" }, this.service, this.kind, this.state, this.since, this.clear), h("div", { class: "grow" }), this.facts),
      this.banner.el, this.strip.el, this.none, h("div", null, this.head, this.list));
    if (left?.answer.query === query()) {
      this.have = left.answer;
      const scroll = left.scroll;
      requestAnimationFrame(() => (this.el.scrollTop = scroll));
    } else {
      this.list.append(...Array.from({ length: 3 }, () => h("li", { class: "skeleton row-skeleton" })));
    }
    // Names beside those that something was found in are a comfort: without them the filter has fewer.
    const now = Date.now();
    api.services(apiRange({ fromMs: now - 86400e3, toMs: now })).then((r) => r.services?.forEach((s) => this.names.add(s.name)), () => {});
  }

  destroy(): void {
    this.ctl?.abort();
    if (this.have) left = { answer: this.have, scroll: this.el.scrollTop, url: this.url };
  }

  private url = "/findings";

  update(): void {
    const p = params(), service = p.get("service") ?? "", kind = some("kind"), state = p.get("state") ?? "", since = p.get("since") ?? "";
    this.url = location.pathname + location.search;
    if (service) this.names.add(service);
    retext(this.service, "Service", service || "All services", !!service);
    retext(this.kind, "Kind", !kind.length ? "All kinds" : kind.length === 1 ? (kinds[kind[0]] ?? kind[0]) : count(kind.length, "kind"), kind.length > 0);
    retext(this.state, "State", stateChoices.find(([v]) => v === state)?.[1] ?? some("state").map((s) => states[s] ?? s).join(", "), !!state);
    retext(this.since, "Seen since", sinceChoices.find(([v]) => v === since)?.[1] ?? since, !!since);
    this.clear.hidden = !filterNames.some((k) => p.get(k));
    this.banner.reset();
    if (this.have?.query === query()) this.draw();
    this.tick();
  }

  tick(): void {
    this.ctl?.abort();
    const ctl = (this.ctl = new AbortController()), asked = query();
    watch.list(Object.fromEntries(new URLSearchParams(asked)), ctl.signal).then((r) => {
      this.banner.clear();
      this.have = { query: asked, ...r };
      this.draw();
    }, (e) => {
      if (ctl.signal.aborted) return;
      if (this.have?.query !== asked) { // an older answer would be read as this one's
        this.have = null;
        this.arrange([]);
        this.facts.textContent = "";
        this.head.hidden = this.none.hidden = true;
      }
      this.banner.fail(e, () => this.tick());
    });
  }

  private draw(): void {
    const { findings, analysis } = this.have!;
    this.strip.set(analysis);
    for (const r of findings) this.names.add(r.finding.service);
    this.head.hidden = !findings.length;
    const full = findings.length >= (Number(params().get("limit")) || 200);
    this.facts.replaceChildren(findings.length ? count(findings.length, "finding") + (full ? ", the first ones" : "") : "",
      full && findings.length < most ? h("button", { class: "linkish", type: "button", "data-focus": "more", onclick: () => set({ limit: String(most) }, true) }, "Show more") : "");
    this.none.hidden = findings.length > 0;
    if (!findings.length) this.none.replaceChildren(nothing(analysis, () => this.clear.click()));
    this.arrange(findings);
    ageing(this.el);
  }

  // arrange brings the rows into the server's order. What has not changed is left as it is, with the focus and what is marked in it.
  private arrange(findings: Item[]): void {
    const focus = (document.activeElement as HTMLElement | null)?.closest?.<HTMLElement>("[data-focus]")?.dataset.focus;
    const wanted = findings.map((r) => {
      const key = JSON.stringify([r.state, r.episode, r.muted_until, r.gone_since, r.fixed_at, r.saved, r.covered_by, r.finding]);
      let row = this.rows.get(r.id);
      if (row?.key === key) return row.el;
      row ??= { el: h("li", { "data-finding": r.id }), key };
      const chosen = getSelection();
      if (!row.el.firstChild || !chosen || chosen.isCollapsed || !row.el.contains(chosen.anchorNode)) { // else somebody is about to copy what it says
        row.key = key;
        rebuild(row.el, () => [rowOf(r)]);
      }
      this.rows.set(r.id, row);
      return row.el;
    });
    const ids = new Set(findings.map((r) => r.id));
    for (const id of this.rows.keys()) if (!ids.has(id)) this.rows.delete(id);
    if (wanted.length !== this.list.children.length || wanted.some((e, i) => this.list.children[i] !== e)) rebuild(this.list, () => wanted);
    if (focus && !document.activeElement?.closest("[data-focus]")) this.el.querySelector<HTMLElement>(`[data-focus="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
  }
}

const some = (name: string) => (params().get(name) ?? "").split(",").filter(Boolean);

// query is what the URL asks the server for.
function query(): string {
  const p = params(), q = new URLSearchParams();
  for (const k of [...filterNames, "limit"]) if (p.get(k)) q.set(k, p.get(k)!);
  return q.toString();
}

function rowOf(r: Item): HTMLElement {
  const f = r.finding, url = "/findings/" + encodeURIComponent(r.id), since = ms(f.since), seen = ms(r.first_seen), price = r.saved?.price ?? f.price, fixed = r.state === "fixed";
  return h("div", { class: "f-row" + (fixed || r.state === "muted" ? " quiet" : ""), onclick: (e: Event) => { if (!(e.target as Element).closest("a,button") && getSelection()?.isCollapsed !== false) go(url); } },
    h("div", { class: "f-what" }, h("a", { class: "f-sentence", href: url, "data-focus": r.id }, rich(f.sentence)),
      h("div", { class: "f-tags" }, stateTag(r), h("span", { class: "tag kind" + (better(f) ? " good" : "") }, kinds[f.kind] ?? f.kind),
        h("a", { class: "tag", href: link("/findings", { service: f.service }), title: "Findings of this service", "data-focus": "service " + r.id }, f.service),
        f.warnings.length ? h("span", { class: "warned", title: f.warnings.join("\n") }, icon("warn", 12), " ", count(f.warnings.length, "warning")) : null,
        !fixed && r.gone_since ? h("span", { class: "muted", title: "It counts as fixed when it stays away" }, "not seen since " + moment(ms(r.gone_since))) : null,
        r.covered_by ? h("span", { class: "muted", title: "Another finding of the same cause stands for it in alerts" }, "same cause elsewhere") : null)),
    h("div", { class: "f-spark" }, spark(f, 170, 38)),
    h("div", { class: "f-price" }, price ? [h("b", { class: fixed || better(f) ? "gain" : "", title: basis(price) }, money(price)), h("div", { class: "muted" }, fixed && r.saved ? "saved" : better(f) ? "less" : f.kind === "regression" ? "more" : "to save")]
      : f.saving ? [h("b", null, resource(f.saving, f.saving_unit ?? "")), h("div", { class: "muted" }, "not priced")] : h("span", { class: "muted", title: "What it costs is not known" }, "–")),
    h("div", { class: "f-since" }, fixed ? [h("div", { title: fullTime(ms(r.fixed_at)) }, "fixed " + moment(ms(r.fixed_at))), when(ms(r.fixed_at))]
      : isNaN(since) ? [h("div", { title: isNaN(seen) ? "" : fullTime(seen) }, "found"), isNaN(seen) ? null : when(seen)] : [h("div", { title: fullTime(since) }, moment(since)), when(since)]));
}

// nothing says over what nothing was found, so that nobody takes an analysis that stands still for peace.
function nothing(a: Analysis, clear: () => void): HTMLElement {
  const p = params(), narrow = ["service", "kind", "state"].some((k) => p.get(k)), since = sinceChoices.find(([v]) => v && v === p.get("since"))?.[1];
  if (!looked(a)) return h("div", { class: "empty" }, h("h2", null, "The analysis has not looked yet"), h("p", null, "It looks by itself as profiles come in, and says here what it has found. A change can be told after some minutes of profiles; what is wasted, sooner."),
    h("div", { class: "row center" }, h("a", { class: "btn", href: "/" }, "Services with profiles")));
  const over = a.services ? ` over ${scope(a)}` : "", time = since ? ` in the ${since.toLowerCase().replace("24 hours", "24 h")}` : p.get("since") ? ` since ${p.get("since")}` : "";
  return h("div", { class: "empty" }, h("h2", null, narrow ? "No finding passes these filters" : `Nothing found${time}`),
    h("p", null, narrow ? (over ? `The analysis has looked${over}.` : "") : `Nothing found${time}${over}${time ? "" : " that is not fixed"}.`, a.behind_seconds > 60 ? " It is behind: what is newest has not been looked at." : "", elsewhere(a) ? " Another server analyses, and knows over how much." : ""),
    h("div", { class: "row center" }, narrow || p.get("since") ? h("button", { class: "btn", type: "button", onclick: clear }, "Clear filters") : h("button", { class: "btn", type: "button", onclick: () => set({ state: "all" }) }, "Show fixed ones, too")));
}

// Servers that share a control database take turns; who has not the turn knows little.
const elsewhere = (a: Analysis) => a.leader === false;
const looked = (a: Analysis) => a.passes > 0 || !isNaN(ms(a.analysed_to)) || elsewhere(a);

// scope is over how much is looked: a function is a series by itself and one with what it calls, of each type.
function scope(a: Analysis): string {
  return `${count(a.series, "series", "series")} (functions over time) of ${count(a.services, "service")}`;
}

/** Strip says how the analysis itself is. */
class Strip {
  private text = h("div", { class: "f-how" });
  private aside = h("ul", null);
  private more = h("details", { hidden: true }, h("summary", null), this.aside);
  readonly el = h("section", { class: "strip", "aria-label": "The analysis", hidden: true }, this.text, this.more);
  private key = "";

  set(a: Analysis): void {
    const to = ms(a.analysed_to), key = JSON.stringify(a);
    if (key === this.key) return;
    this.key = key;
    this.el.hidden = false;
    const late = a.behind_seconds > 60, left = value(a.behind_seconds * 1e9, "nanoseconds");
    this.el.classList.toggle("late", late || serverNow() - to > 3600e3);
    rebuild(this.text, () => (!looked(a) ? [h("i", { class: "on-dot" }), "The analysis has not looked yet"] : [
      h("span", { title: isNaN(to) ? "" : fullTime(to) }, h("i", { class: "on-dot" + (late ? "" : " on") }), isNaN(to) ? "Analysed" : `Analysed up to ${clock(to)}${moment(to).length > 5 ? " on " + stamp(to).slice(0, 10) : ""}`),
      elsewhere(a) ? "" : h("span", { class: late ? "worse" : "muted" }, a.behind_seconds < 1 ? "not behind" : left + " behind"),
      a.services ? h("span", { class: "muted", title: "A series is a function's share over time, by itself or with what it calls, of one profile type" }, scope(a)) : "",
      a.latency_p50_ms ? h("span", { class: "muted f-late", title: "From when a profile was acknowledged to when it had been looked at: the median, and what 99 % are below" }, `profile to finding ${value(a.latency_p50_ms * 1e6, "nanoseconds")}, ${value((a.latency_p99_ms ?? 0) * 1e6, "nanoseconds")} at p99`) : "",
      elsewhere(a) ? h("span", { class: "muted" }, "another server analyses") : ""]));
    const n = a.set_aside.length;
    this.more.hidden = !n;
    this.more.firstChild!.textContent = `${count(n, "part")} set aside`;
    rebuild(this.aside, () => a.set_aside.map((x) => h("li", null, h("b", null, x.service || "?"), ` ${x.type ? typeInfo(x.type).name : ""}${isNaN(ms(x.from)) ? "" : `, ${moment(ms(x.from))} to ${moment(ms(x.to))}`}: `, x.reason || "no reason is known")));
  }
}
