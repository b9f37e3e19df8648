// Changes under guard: what could be saved comes first, then what is under way, then how the others ended.

import { Banner } from "./controls";
import { Rails, startDialog } from "./decide";
import { h, icon, pick, rebuild, retext } from "./dom";
import { count } from "./format";
import { acting, ended, guard, undecided, waits, type Answer, type Change, type Place } from "./guard";
import { go, link, params, set } from "./state";
import { changeKinds, changeTag, clockOf, harm, size, ticking, units } from "./terms";
import { ms } from "./watch";
import { ageing, basis, fullTime, moment, money, resource, rich, when } from "./words";
import type { Page } from "./main";

type Child = Node | string | null;
type Words = Child | Words[];

const worth = (c: Change) => c.price?.amount ?? c.saving * 1e-6; // what is not priced comes after what is
const time = (t: string | undefined) => ms(t) || 0;
const groups: { id: string; title: string; empty: string; of: (c: Change) => boolean; order: (a: Change, b: Change) => number }[] = [
  { id: "decide", title: "Waiting for a decision", empty: "Nothing waits for a decision.", of: undecided, order: (a, b) => worth(b) - worth(a) },
  { id: "acting", title: "Under way", empty: "", of: (c) => !undecided(c) && !ended(c), order: (a, b) => Number(acting(b)) - Number(acting(a)) || time(a.started_at) - time(b.started_at) },
  { id: "ended", title: "Ended", empty: "", of: ended, order: (a, b) => time(b.ended_at) - time(a.ended_at) },
];
const choices: [string, string][] = [["", "All changes"], ...groups.map((g): [string, string] => [g.id, g.title])];

// What the list was when it was left: who comes back finds the same place.
let left: { answer: Answer; scroll: number; url: string } | null = null;

/** changesURL is the list as it was left. */
export function changesURL(): string {
  return left?.url ?? "/changes";
}

export class ChangesPage implements Page {
  readonly title = "Changes";
  readonly every = 2000;
  readonly el: HTMLElement;
  private banner = new Banner();
  private rails = new Rails(() => this.tick());
  private service: HTMLButtonElement;
  private state: HTMLButtonElement;
  private facts = h("span", { class: "muted f-count", role: "status" });
  private none = h("div", { hidden: true });
  private lists = groups.map((g) => h("ol", { class: "f-list", "aria-label": g.title }));
  private parts = groups.map((g, i) => h("section", { class: "c-group", "data-group": g.id, hidden: true }, h("h2", null, g.title), this.lists[i], h("p", { class: "muted", hidden: true }, g.empty)));
  private places = h("section", { class: "c-group c-places", hidden: true });
  private rows = new Map<string, { el: HTMLElement; key: string }>();
  private ctl: AbortController | null = null;
  private have: Answer | null = null;
  private url = "/changes";
  private second = window.setInterval(() => ticking(this.el), 1000);

  constructor() {
    this.service = pick("Service", "", () => [{ text: "All services", checked: !params().get("service"), run: () => set({ service: "" }) }, ...this.services().map((n) => ({ text: n, checked: n === params().get("service"), run: () => set({ service: n }) }))]);
    this.state = pick("State", "", () => choices.map(([v, text]) => ({ text, checked: v === (params().get("state") ?? ""), run: () => set({ state: v }) })));
    this.el = h("div", { class: "page narrow findings change-list" }, h("div", { class: "page-head wrap" }, h("h1", null, "Changes"), h("div", { class: "row wrap f-filters", role: "group", "aria-label": "Filters" }, this.service, this.state), h("div", { class: "grow" }), this.facts),
      this.rails.el, this.banner.el, this.none, this.parts, this.places);
    if (left) {
      this.have = left.answer;
      const scroll = left.scroll;
      requestAnimationFrame(() => (this.el.scrollTop = scroll));
    } else {
      this.parts[0].hidden = false;
      this.lists[0].append(...Array.from({ length: 3 }, () => h("li", { class: "skeleton row-skeleton" })));
    }
  }

  destroy(): void {
    this.ctl?.abort();
    clearInterval(this.second);
    if (this.have) left = { answer: this.have, scroll: this.el.scrollTop, url: this.url };
  }

  private services(): string[] {
    const s = params().get("service");
    return [...new Set([...(this.have?.changes ?? []).map((c) => c.service), ...(s ? [s] : [])])].sort();
  }

  update(): void {
    const p = params(), service = p.get("service") ?? "", state = p.get("state") ?? "";
    this.url = location.pathname + location.search;
    retext(this.service, "Service", service || "All services", !!service);
    retext(this.state, "State", choices.find(([v]) => v === state)?.[1] ?? state, !!state);
    if (this.have) this.draw();
    this.tick();
  }

  // All are asked for, whatever the filters: the strip is of all.
  tick(): void {
    this.ctl?.abort();
    const ctl = (this.ctl = new AbortController());
    guard.list({}, ctl.signal).then((r) => {
      this.banner.clear();
      this.have = r;
      waits(r.changes);
      this.draw();
    }, (e) => {
      if (ctl.signal.aborted) return;
      if (!this.have) {
        this.parts[0].hidden = true;
        this.lists[0].replaceChildren();
      }
      this.banner.fail(e, () => this.tick());
    });
  }

  private draw(): void {
    const all = this.have!.changes, p = params(), service = p.get("service") ?? "", state = p.get("state") ?? "", shown = all.filter((c) => !service || c.service === service);
    this.rails.set(this.have!, all);
    const focus = (document.activeElement as HTMLElement | null)?.closest?.<HTMLElement>("[data-focus]")?.dataset.focus;
    let n = 0;
    groups.forEach((g, i) => {
      const of = state && state !== g.id ? [] : shown.filter(g.of).sort(g.order);
      n += of.length;
      this.parts[i].hidden = !of.length && (!shown.length || !g.empty || !!state && state !== g.id);
      (this.parts[i].lastChild as HTMLElement).hidden = of.length > 0;
      this.arrange(this.lists[i], of);
    });
    const ids = new Set(shown.map((c) => c.id));
    for (const id of this.rows.keys()) if (!ids.has(id)) this.rows.delete(id);
    if (focus && !document.activeElement?.closest("[data-focus]")) (this.el.querySelector<HTMLElement>(`[data-focus="${CSS.escape(focus)}"]`) ?? this.el.querySelector<HTMLElement>(`[data-focus="${CSS.escape(focus.split(" ").pop()!)}"]`))?.focus({ preventScroll: true });
    this.facts.textContent = [n ? count(n, "change") : "", spent(this.have!)].filter(Boolean).join(" · ");
    this.none.hidden = n > 0 || shown.length > 0 && !state;
    if (!this.none.hidden) rebuild(this.none, () => [nothing(this.have!)]);
    const places = this.have!.status.places.filter((x) => !service || x.service === service);
    this.places.hidden = !places.length;
    if (places.length) rebuild(this.places, () => placeTable(places));
    ageing(this.el);
    ticking(this.el);
  }

  // arrange brings rows into order. What has not changed is left as it is, with the focus and what is marked in it.
  private arrange(list: HTMLElement, changes: Change[]): void {
    const wanted = changes.map((c) => {
      const key = JSON.stringify([c.sentence, c.state, c.reason, c.held, c.stage, c.stage_until, c.frozen_at, c.price, c.saving, c.saved, c.cost, c.paused, c.approved_by, c.warnings.length, units(c), c.verdict?.guilty, c.verdict?.decision, c.ended_at]);
      let row = this.rows.get(c.id);
      if (row?.key === key) return row.el;
      row ??= { el: h("li", { "data-change": c.id }), key };
      const chosen = getSelection();
      if (!row.el.firstChild || !chosen || chosen.isCollapsed || !row.el.contains(chosen.anchorNode)) { // else somebody is about to copy what it says
        row.key = key;
        rebuild(row.el, () => [this.row(c)]);
      }
      this.rows.set(c.id, row);
      return row.el;
    });
    if (wanted.length !== list.children.length || wanted.some((e, i) => list.children[i] !== e)) rebuild(list, () => wanted);
  }

  private row(c: Change): HTMLElement {
    const url = "/changes/" + encodeURIComponent(c.id);
    return h("div", { class: "f-row c-row" + (c.state === "withdrawn" ? " quiet" : ""), onclick: (e: Event) => { if (!(e.target as Element).closest("a,button") && getSelection()?.isCollapsed !== false) go(url); } },
      h("div", { class: "f-what" }, h("a", { class: "f-sentence", href: url, "data-focus": c.id }, rich(c.sentence)),
        h("div", { class: "f-tags" }, changeTag(c), h("span", { class: "tag kind" }, changeKinds[c.kind] ?? c.kind), h("a", { class: "tag", href: link("/changes", { service: c.service }), title: "Changes of this service", "data-focus": "service " + c.id }, c.service),
          c.warnings.length ? h("span", { class: "warned", title: c.warnings.join("\n") }, icon("warn", 12), " ", count(c.warnings.length, "warning")) : null),
        told(c)),
      h("div", { class: "c-how" }, progress(c)), h("div", { class: "f-price" }, price(c)),
      h("div", { class: "c-do" }, undecided(c) ? h("button", { class: "btn primary", type: "button", "data-focus": "start " + c.id, "aria-label": `${c.state === "proposed" ? "Start" : "Approve"}: ${c.sentence}`, onclick: () => this.start(c) }, icon(c.state === "proposed" ? "play" : "check"), c.state === "proposed" ? "Start" : "Approve") : since(c)));
  }

  private start(c: Change): void {
    startDialog(c, this.have, c.state === "proposed" ? "start" : "approve", "start " + c.id, (r) => {
      if (this.have) this.have = { ...this.have, changes: this.have.changes.map((x) => (x.id === r.id ? r : x)) };
      this.draw();
      this.tick();
    });
  }
}

// told is what holds it, or how it ended.
function told(c: Change): Child {
  const p = (cls: string, ic: Parameters<typeof icon>[0], ...text: Words[]) => h("p", { class: "c-told " + cls }, icon(ic, 13), h("span", null, text.flat(3) as Child[]));
  if (c.state === "failed") return p("bad", "warn", harm(c));
  if (c.held) return p("held", "pause", c.held);
  if (c.paused) return p("held", "pause", `It is paused by ${c.paused_by || "somebody"}.`);
  if (c.state === "undone" || c.state === "withdrawn" || c.state === "undoing") return c.reason ? p("", "back", harm(c)) : null;
  return null;
}

/** progress is how far a change is through its stages, as a bar and in words. */
function progress(c: Change): Child[] {
  const plan = c.plan.stages;
  if (!plan.length || c.state === "proposed" || c.state === "waiting" || c.state === "withdrawn") return [c.state === "waiting" && !c.held ? h("span", { class: "muted" }, "It begins in a moment.") : null];
  const name = c.state === "done" ? "In force" : c.state === "undone" || c.state === "failed" ? `Ended at stage ${c.stage + 1} of ${plan.length}` : `Stage ${c.stage + 1} of ${plan.length}: ${size(plan[c.stage])}`, dwell = c.state === "dwelling" ? clockOf(c) : null;
  return [h("div", { class: "c-mini" }, plan.map((s, i) => h("i", { class: c.state === "done" || i < c.stage ? "passed" : i > c.stage ? "" : c.state, title: size(s) }))),
    h("div", null, name), h("div", { class: "muted" }, dwell ? dwell.text : c.state === "applying" ? "being applied" : c.state === "undoing" ? "being undone" : ""), acting(c) ? h("div", { class: "muted" }, units(c)) : null];
}

function price(c: Change): Child[] {
  const p = c.saved?.price ?? c.price, what = c.saved ? (c.state === "done" ? "saved" : "saved so far") : ended(c) ? "was expected" : "to save";
  return [p && p.amount ? h("b", { class: c.saved ? "gain" : "", title: basis(p) }, money(p)) : c.saving > 0 ? h("b", null, resource(c.saved?.cores.value ?? c.saving, "cores")) : null, p?.amount || c.saving > 0 ? h("div", { class: "muted" }, what + (p?.amount ? "" : ", not priced")) : null,
    c.cost ? h("div", { class: "muted", title: "What it adds to the bill a month" }, `adds ${Math.round(c.cost).toLocaleString("en")}`) : null];
}

function since(c: Change): Child[] {
  const t = ms(ended(c) ? c.ended_at : c.started_at), out = { done: "done", failed: "failed", undone: "undone", withdrawn: c.rejected ? "rejected" : "withdrawn" }[c.state] ?? "started";
  return isNaN(t) ? [] : [h("div", { title: fullTime(t) }, `${out} ${moment(t)}`), when(t)];
}

// placeTable is where replicas, machines and load are changed, and what was said there last: also where nothing is proposed she sees that it was looked at.
function placeTable(places: Place[]): HTMLElement[] {
  const row = (p: Place) => h("tr", { class: p.error ? "bad" : "", "data-place": p.place },
    h("th", { scope: "row" }, h("a", { href: link("/changes", { service: p.service }) }, p.service)), h("td", null, changeKinds[p.kind] ?? p.kind), h("td", null, h("code", null, p.place)),
    h("td", null, p.error ? [icon("warn", 13), " ", p.error] : p.says ?? ""), h("td", null, time(p.at) ? when(time(p.at)) : "not asked yet"));
  return [h("h2", null, "Places"), h("div", { class: "c-wide", tabindex: "0", role: "region", "aria-label": "Places where changes are made" }, h("table", { class: "moved nodes places" },
    h("thead", null, h("tr", null, ["Service", "What is changed", "Place", "What was found", "Asked"].map((t) => h("th", { scope: "col" }, t)))), h("tbody", null, places.map(row))))];
}

// nothing says why there is nothing, and what to do.
function nothing(a: Answer): HTMLElement {
  if (a.changes.length) return h("div", { class: "empty" }, h("h2", null, "No change passes these filters"), h("div", { class: "row center" }, h("button", { class: "btn", type: "button", onclick: () => set({ service: "", state: "" }) }, "Clear filters")));
  const held = a.status.frozen;
  return h("div", { class: "empty" }, h("h2", null, "Nothing is proposed"), h("p", null, held ? `${held} ` : "", "A change is proposed once profiles show that it would save something: settings of the runtime after some minutes of profiles of an agent, others as the policy has them. Nothing is ever done that nobody has started or opted into."),
    a.status.leader === false ? h("p", null, "Another server acts; what it proposes is here, too.") : null, h("div", { class: "row center" }, h("a", { class: "btn", href: "/findings" }, "What was found"), h("a", { class: "btn", href: "/agents" }, "Who profiles")));
}

// spent is what changes have added to the bill this month, of what they may.
function spent(a: Answer): string {
  const { spent = 0, limit, month } = a.status.budget;
  return limit ? `${Math.round(spent).toLocaleString("en")} of ${Math.round(limit).toLocaleString("en")} added to the bill in ${month || "this month"}` : "";
}
