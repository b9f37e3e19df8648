// One finding, with all it rests on: the chart, the figures with their doubt, the flame graph that shows it, what was done about it.

import { api, Fault, type Selection } from "./api";
import { Chart } from "./chart";
import { Banner, nameField, nameOf } from "./controls";
import { DiffView } from "./diff";
import { copy, h, icon, menu, rebuild, seg, toast, type MenuItem } from "./dom";
import { listURL } from "./findings";
import { FlameView } from "./flame";
import { count, percent, shortName, typeInfo, value } from "./format";
import { answerable, answerTo, guard, type Change } from "./guard";
import { Layout } from "./layout";
import { exactly, formatMatchers, go, link, selection, versionLabel } from "./state";
import { stateText } from "./terms";
import { ms, watch, type Action, type Chosen, type Event as Moment, type Finding, type Item } from "./watch";
import { ageing, basis, better, chance, delta, falsely, figure, fullTime, interval, kinds, known, moment, money, named, resource, rich, stateTag, when } from "./words";
import type { Page } from "./main";

type Child = Node | string | null;
type Words = Child | Words[];

const nodes = 16384;
const day = 86400e3;
const mutes: [string, number][] = [["1 day", day], ["1 week", 7 * day], ["For ever", 0]];

export class FindingPage implements Page {
  title = "Finding";
  readonly every = 5000;
  readonly el: HTMLElement;
  private id = decodeURIComponent(location.pathname.split("/").pop()!);
  private banner = new Banner();
  private crumb = h("nav", { class: "f-crumb", "aria-label": "Where this is" }, h("a", { href: listURL() }, icon("back", 12), "Findings"));
  private parts: { [name: string]: HTMLElement } = {};
  private keys: { [name: string]: string } = {};
  private acts = h("div", { class: "row wrap f-buttons", role: "group", "aria-label": "What to do about it" });
  private by = nameField();
  private note = h("input", { class: "input", name: "note", placeholder: "Note", maxlength: "1000", "aria-label": "Note" });
  private act = h("section", { class: "panel f-act", "aria-label": "What to do about it" }, h("h2", null, "Decide"), this.acts, h("div", { class: "row f-says" }, this.by, this.note));
  private chart = new Chart();
  private proof = new Proof();
  private body: HTMLElement;
  private ctl: AbortController | null = null;
  private sending = false;
  private have: Item | null = null;
  private change: Change | null = null; // that answers it
  private unchanged = false; // this server makes no changes: it is asked once

  constructor() {
    const p = (name: string, cls = "") => (this.parts[name] = h("div", { class: cls }));
    this.body = h("div", { class: "f-body", hidden: true }, p("head", "f-title"), p("notices"), p("tiles", "tiles"),
      h("div", { class: "f-cols" }, h("section", { class: "panel f-chart", "aria-label": "Over time" }, h("h2", null, "Over time"), this.chart.el, p("key", "f-key muted")), h("section", { class: "panel f-sure", "aria-label": "How sure it is" }, h("h2", null, "How sure it is"), p("sure"))),
      h("div", { class: "f-cols even" }, p("next", "panel f-next"), this.act),
      this.proof.el,
      h("div", { class: "f-cols even" }, h("section", { class: "panel f-also", "aria-label": "What else moved" }, h("h2", null, "What else moved"), p("also")), h("section", { class: "panel f-history", "aria-label": "History" }, h("h2", null, "History"), p("history"))));
    this.el = h("div", { class: "page narrow finding" }, this.crumb, this.banner.el, h("div", { class: "f-wait skeleton row-skeleton" }), this.body);
  }

  destroy(): void {
    this.ctl?.abort();
    this.chart.destroy();
    this.proof.destroy();
  }

  update(): void {
    if (!this.have) this.tick();
  }

  tick(): void {
    if (this.sending) return; // its answer is newer
    this.ctl?.abort();
    const ctl = (this.ctl = new AbortController());
    watch.one(this.id, ctl.signal).then((r) => {
      this.banner.clear();
      this.draw(r.finding, r.history);
      this.answer(r.finding.finding);
    }, (e) => {
      if (ctl.signal.aborted) return;
      this.el.querySelector(".f-wait")?.remove();
      if (e instanceof Fault && e.code === "not_found") this.body.hidden = true;
      this.banner.fail(e, () => this.tick());
    });
  }

  // The change that would mend it is beside the point when it cannot be told: the finding is shown without.
  private answer(f: Finding): void {
    if (this.unchanged || !answerable(f.kind) || !this.ctl) return;
    guard.list({ service: f.service }, this.ctl.signal).then((r) => {
      this.change = answerTo(f.kind, f.service, r.changes);
      this.next(f);
    }, (e) => { this.unchanged = e instanceof Fault && e.code === "not_found"; });
  }

  private next(f: Finding): void {
    const c = this.change;
    this.part("next", [f.next, f.base, f.head, f.type, f.service, f.function, c?.id, c?.state, c?.sentence], () => [h("h2", null, "Next"), h("p", null, f.next ? rich(f.next) : "There is no suggestion for this."),
      c ? h("p", { class: "f-change" }, h("a", { class: "btn", href: "/changes/" + encodeURIComponent(c.id), title: c.sentence, "data-focus": "change" }, icon("guard"), c.state === "proposed" ? "A change is proposed for this" : `The change for this: ${stateText(c).toLowerCase()}`)) : null, h("div", { class: "row wrap" }, ways(f))]);
  }

  // part makes a part of the page anew if what it is made from has changed, and leaves it alone otherwise.
  private part(name: string, from: unknown, make: () => Child[]): void {
    const key = JSON.stringify(from ?? null), el = this.parts[name], chosen = getSelection();
    if (this.keys[name] === key || (this.keys[name] && chosen && !chosen.isCollapsed && el.contains(chosen.anchorNode))) return;
    this.keys[name] = key;
    const focus = document.activeElement instanceof HTMLElement && el.contains(document.activeElement) ? document.activeElement.dataset.focus : undefined;
    rebuild(el, () => make().filter((c): c is Node | string => c !== null));
    if (focus) el.querySelector<HTMLElement>(`[data-focus="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
  }

  private draw(r: Item, history: Moment[] | null): void {
    const f = r.finding;
    this.have = r;
    this.title = named(f) + " · " + f.service;
    document.title = this.title + " · Quantra-L";
    this.el.querySelector(".f-wait")?.remove();
    this.body.hidden = false;
    this.part("head", [r.state, r.muted_until, f.kind, f.sentence, f.service, f.since, f.function], () => this.head(r));
    this.part("notices", [r.state, f.warnings, r.saved, r.fixed_at, r.gone_since, r.covered_by, r.alerts, r.episode], () => notices(r));
    this.part("tiles", [f.before, f.after, f.change, f.price, f.saving, f.unit, f.kind], () => tiles(f));
    if (this.keys.chart !== JSON.stringify([f.chart, f.before, f.after, f.since, f.unit])) {
      this.keys.chart = JSON.stringify([f.chart, f.before, f.after, f.since, f.unit]);
      this.chart.set(f);
    }
    this.part("key", [f.type, f.metric, f.unit, known(f.before)], () => [h("span", null, h("i", { class: "key-line" }), what(f)), h("span", null, h("i", { class: "key-band" }), "its 95 % interval"), known(f.before) ? h("span", null, h("i", { class: "key-dash" }), "before") : null, h("span", null, h("i", { class: "key-dash after" }), known(f.before) ? "after" : "now")]);
    this.part("sure", [f.samples, f.instances, f.test, f.p, f.q, f.cause, f.from, f.to, f.type, f.metric, f.unit], () => sure(f));
    this.next(f);
    this.buttons(r);
    this.proof.set(f);
    this.parts.also.parentElement!.hidden = !f.also.length && !compared(f); // where nothing moved, nothing else did
    this.part("also", [f.also, f.head, f.type, f.service], () => [also(f)]);
    if (history) this.part("history", history, () => [events(history)]);
    ageing(this.el);
  }

  private head(r: Item): Child[] {
    const f = r.finding, since = ms(f.since);
    return [h("h1", null, rich(f.sentence)), h("div", { class: "f-tags" }, stateTag(r), h("span", { class: "tag kind" + (better(f) ? " good" : "") }, kinds[f.kind] ?? f.kind),
      h("a", { class: "tag", href: link("/findings", { service: f.service }), title: "Findings of this service", "data-focus": "service" }, f.service),
      isNaN(since) ? null : h("span", { class: "muted", title: fullTime(since) }, `since ${moment(since)}, `, when(since)),
      f.function ? h("button", { class: "btn ghost tiny f-fn", type: "button", title: "Copy the function's full name", "data-focus": "copy", onclick: () => copy(f.function!) }, h("code", null, f.function)) : f.subject ? h("code", { class: "muted" }, f.subject) : null)];
  }

  // ---- what a person does ----

  private buttons(r: Item): void {
    const key = r.state + (this.sending ? " sending" : "");
    if (this.keys.acts === key) return;
    this.keys.acts = key;
    const focused = this.acts.contains(document.activeElement);
    const b = (text: string, ic: Parameters<typeof icon>[0], title: string, run: () => void, cls = "") => h("button", { class: "btn " + cls, type: "button", title, disabled: this.sending, onclick: run }, icon(ic), text);
    const mute: HTMLElement = h("button", { class: "btn", type: "button", title: "Nobody wants to hear of it", disabled: this.sending || r.state === "fixed", "aria-haspopup": "menu", "aria-expanded": "false", onclick: () => menu(mute, mutes.map(([text, time]) => ({ text, run: () => this.send({ do: "mute", until: time ? new Date(Date.now() + time).toISOString() : undefined }) }))) }, icon("mute"), "Mute", icon("chevron", 12));
    rebuild(this.acts, () => [
      r.state === "new" || r.state === "came_back" ? b("Acknowledge", "check", "Somebody is at it; it stays listed", () => this.send({ do: "acknowledge" }), "primary") : "",
      r.state === "muted" ? b("Unmute", "refresh", "It is new again", () => this.send({ do: "unmute" }), "primary") : "",
      r.state === "fixed" ? "" : mute,
      r.state === "fixed" ? "" : b("Fixed", "check", "It is done; it comes back if it is not", () => this.send({ do: "fix" })),
      r.state === "fixed" || r.state === "acknowledged" ? b("Reopen", "refresh", "It is new again", () => this.send({ do: "reopen" })) : ""]);
    if (focused) this.acts.querySelector<HTMLElement>("button:not(:disabled)")?.focus({ preventScroll: true });
  }

  private send(a: Action): void {
    const by = nameOf(this.by), note = this.note.value.trim();
    this.ctl?.abort();
    this.sending = true;
    this.buttons(this.have!);
    watch.act(this.id, { ...a, by: by || undefined, note: note || undefined }).then((r) => {
      this.sending = false;
      this.note.value = "";
      this.banner.clear("act");
      toast({ acknowledge: "Acknowledged", mute: "Muted", unmute: "Unmuted", fix: "Marked as fixed", reopen: "Reopened" }[a.do] ?? "Done");
      this.draw(r, null);
      this.tick(); // the history
    }, (e) => {
      this.sending = false;
      this.buttons(this.have!);
      this.banner.fail(e, () => { this.banner.clear("act"); this.send(a); }, "act");
      this.tick(); // it may have changed meanwhile
    });
  }
}

// ---- the parts ----

function notices(r: Item): Child[] {
  const f = r.finding, out: HTMLElement[] = [], li = (cls: string, ...text: Words[]) => out.push(h("li", { class: cls }, icon(cls === "good" ? "check" : "warn", 14), h("span", null, text.flat(3) as Child[])));
  const fixed = ms(r.fixed_at), gone = ms(r.gone_since);
  if (r.state === "fixed") {
    const s = r.saved;
    li("good", h("b", null, `Fixed${isNaN(fixed) ? "" : " at " + moment(fixed)}. `), s && s.amount ? ["It saved ", h("b", null, resource(s.amount, s.unit)), s.price ? [": ", h("b", { title: basis(s.price) }, money(s.price) + " a month"), h("span", { class: "muted" }, ` (${basis(s.price)})`)] : "", "."] : "What it saved is not measured.");
  } else if (!isNaN(gone)) li("good", `It has not been seen since ${moment(gone)}, and counts as fixed when it stays away.`);
  if (r.state === "came_back") li("bad", `It was fixed, and is there again: for the ${ordinal(r.episode)} time.`);
  for (const w of f.warnings) li("", ...rich(w));
  if (r.covered_by) li("", "The same change in another service stands for this one in alerts: ", h("a", { href: "/findings/" + encodeURIComponent(r.covered_by) }, "see it"), ".");
  for (const [name, t] of Object.entries(r.alerts ?? {})) if (t.error) li("", h("b", null, name), " could not be told: ", t.error);
  return out.length ? [h("ul", { class: "a-notices f-notices" }, out)] : [];
}

function ordinal(n: number): string {
  return n + (n % 100 > 10 && n % 100 < 14 ? "th" : (["th", "st", "nd", "rd"][n % 10] ?? "th"));
}

// compared says whether there is a before.
function compared(f: Finding): boolean {
  return known(f.before) || known(f.change);
}

function tiles(f: Finding): Child[] {
  const show = (v: number) => figure(v, f.unit), change = (v: number) => delta(v, f.unit), two = compared(f);
  const tile = (name: string, text: string, below: string, title = "", cls = "") => h("div", { class: "tile " + cls, title }, h("div", { class: "muted" }, name), h("b", null, text), h("div", { class: "muted" }, below || " "));
  const doubt = (s: string) => s && "95 %: " + s, good = better(f);
  return [two ? tile("Before", show(f.before.value), doubt(interval(f.before, show))) : null, tile(two ? "After" : "Now", show(f.after.value), doubt(interval(f.after, show))),
    two ? tile("Change", change(f.change.value), doubt(interval(f.change, change)), "", f.change.value > 0 && !good ? "bad" : "good") : null,
    f.price ? tile(good ? "Costs less, a month" : f.kind === "regression" ? "Costs more, a month" : "Could save, a month", money(f.price), [f.saving ? resource(f.saving, f.saving_unit ?? "") : "", f.price.basis].filter(Boolean).join("; "), basis(f.price), "price " + (good ? "good" : ""))
      : f.saving ? tile(good ? "Takes less" : f.kind === "regression" ? "Takes more" : "Could save", resource(f.saving, f.saving_unit ?? ""), "not priced") : null];
}

// what names the series of a chart.
function what(f: Finding): string {
  const t = f.type ? typeInfo(f.type) : null, of = f.metric === "self" ? "in the function itself" : f.metric === "total" ? "in the function and what it calls" : "";
  return [t ? (f.unit === "share" ? `share of ${f.service}'s ${t.noun}` : t.name) : f.subject || "value", of].filter(Boolean).join(", ");
}

function sure(f: Finding): Child[] {
  const from = ms(f.from), to = ms(f.to), c = f.cause, rows: [string, Child | Child[]][] = [
    ["Rests on", `${count(Math.round(f.samples), "sample")} of ${count(f.instances, "instance")}`],
    ["Looked at", isNaN(from) || isNaN(to) ? "" : h("span", { title: `${fullTime(from)} to ${fullTime(to)}` }, `${moment(from)} to ${moment(to)} (${value((to - from) * 1e6, "nanoseconds")})`)],
    ["Measured", what(f)],
    ["Test", f.test ? f.test : "None: it was measured, not tested."],
    ...(f.test ? [["By chance", chance(f.p)], ["False ones", falsely(f.q)]] as [string, string][] : []),
    ["Cause", c ? [c.event ? [h("b", null, c.event), " came with it"] : ["It came with ", h("code", null, `${c.label}=${c.value}`)], c.share > 1.005 ? ", which has all of the change and more: others went the other way." : `, which has ${percent(c.share)} of the change.`].flat() : compared(f) ? "Not known." : ""],
  ];
  return [h("dl", null, rows.filter(([, v]) => v !== "").map(([n, v]) => h("div", null, h("dt", null, n), h("dd", null, v))))];
}

const span = (s: Chosen) => ({ from: String(ms(s.from)), to: String(ms(s.to)) });
const equal = (set: { [k: string]: string } | undefined) => formatMatchers(Object.entries(set ?? {}).map(([name, value]) => ({ name, op: "=" as const, value })));
const labels = (s: Chosen) => equal(s.labels), samples = (s: Chosen) => equal(s.samples);

/** explore is where a selection is looked at. */
function explore(f: Finding, s: Chosen, more: { [k: string]: string } = {}): string {
  return link("/explore", { service: f.service, type: s.type, ...span(s), labels: labels(s), samples: samples(s), ...more });
}

function compare(f: Finding): string {
  const a = f.base!, b = f.head!;
  return link("/diff", { service: f.service, type: b.type, from: String(Math.min(ms(a.from), ms(b.from))), to: String(Math.max(ms(a.to), ms(b.to))), "a.labels": labels(a), "a.from": span(a).from, "a.to": span(a).to, "b.labels": labels(b), "b.from": span(b).from, "b.to": span(b).to, samples: samples(b), // one for both sides, as the page has it
    ...(f.function ? { q: exactly(f.function), re: "1" } : {}) });
}

function ways(f: Finding): HTMLElement[] {
  const a = (href: string, ic: Parameters<typeof icon>[0], text: string) => h("a", { class: "btn", href, "data-focus": text }, icon(ic), text), out: HTMLElement[] = [];
  if (f.base && f.head) out.push(a(compare(f), "diff", "Compare before with after"));
  if (f.head && f.function) out.push(a(explore(f, f.head, { view: "sandwich", fn: f.function }), "flip", "Who calls it"));
  if (f.head) out.push(a(explore(f, f.head), "flame", "Profiles of it"));
  if (f.kind.startsWith("goroutine")) out.push(a(link("/live", { service: f.service }), "pulse", "Goroutines now"));
  return out;
}

function also(f: Finding): Node {
  if (!f.also.length) return h("p", { class: "muted" }, "Nothing else moved that could be told from chance.");
  const s = f.head, fn = (name: string) => (s ? h("a", { class: "fn-link", href: explore(f, s, { view: "sandwich", fn: name }), title: name + "\nWho calls it, and what it calls", "data-focus": "fn " + name }, shortName(name)) : h("code", { title: name }, shortName(name)));
  return h("table", { class: "moved" }, h("thead", null, h("tr", null, ["Function", "Before", "After", "Change", "Why", ""].map((t) => h("th", { scope: "col" }, t)))),
    h("tbody", null, f.also.map((m) => h("tr", null, h("td", null, fn(m.function)), h("td", null, figure(m.before, "share")), h("td", null, figure(m.after, "share")), h("td", { class: m.after > m.before ? "worse" : "better" }, delta(m.after - m.before, "share")), h("td", { class: "muted" }, m.why || "–"),
      h("td", null, s ? h("a", { class: "tag", href: explore(f, s, { focus: exactly(m.function) }), title: "Only stacks through it", "aria-label": "Explore " + m.function, "data-focus": "explore " + m.function }, "Explore") : null)))));
}

function events(history: Moment[]): Node {
  if (!history.length) return h("p", { class: "muted" }, "Nothing is kept of it.");
  return h("ol", { class: "f-events" }, [...history].reverse().map((e) => h("li", null, h("time", { title: fullTime(ms(e.time)) }, moment(ms(e.time))), h("div", null, h("b", null, e.what), e.actor === "analysis" ? "" : " by " + e.actor, e.note ? h("div", { class: "muted" }, rich(e.note)) : null))));
}

/** Proof is the flame graph that shows a finding: the difference of base and head, or head alone. */
class Proof {
  private said = h("span", { class: "muted f-sides" });
  private missing = h("span", { class: "warned", hidden: true });
  private link = h("div", { class: "row wrap" });
  private banner = new Banner();
  private busy = h("div", { class: "busy", hidden: true });
  private place = h("div", { class: "f-flame" });
  private title = h("h2", null);
  readonly el = h("section", { class: "panel f-proof diff", "aria-label": "The flame graph that shows it", hidden: true }, this.busy, h("div", { class: "row wrap f-proof-head" }, this.title, this.said, this.missing, h("div", { class: "grow" }), this.link), this.banner.el, this.place);
  private diff: DiffView | null = null;
  private flame: FlameView | null = null;
  private ctl: AbortController | null = null;
  private key = "";
  private f: Finding | null = null;
  private only = false; // of a graph without base, the stacks through the function alone

  destroy(): void {
    this.ctl?.abort();
    this.diff?.destroy();
    this.flame?.destroy();
  }

  set(f: Finding): void {
    const key = JSON.stringify([f.service, f.function, f.base, f.head]);
    if (key === this.key) return;
    this.key = key;
    this.f = f;
    this.el.hidden = !f.head?.type;
    if (!f.head?.type) return;
    const [na, nb] = this.names(f), side = (name: string, s: Chosen) => `${name}: ${moment(ms(s.from))} to ${moment(ms(s.to))}${[labels(s), samples(s)].filter(Boolean).map((x) => " " + x).join("")}`;
    this.title.textContent = f.base ? "What changed" : "Where it is";
    this.said.textContent = f.base ? `${side("A", f.base)} · ${side("B", f.head)}. Red grew, blue shrank` : side("Profiles", f.head);
    this.links();
    this.load(na, nb);
  }

  private links(): void {
    const f = this.f!;
    this.link.replaceChildren(f.base || !f.function ? "" : seg("Stacks", this.only ? "only" : "all", [["all", "Beside others"], ["only", "Only through it"]], (v) => {
      this.only = v === "only";
      this.links();
      this.link.querySelector<HTMLElement>("[aria-checked=true]")?.focus();
      this.load("A", "B");
    }), f.base ? h("a", { class: "btn tiny", href: compare(f) }, icon("diff"), "Open in Compare") : h("a", { class: "btn tiny", href: explore(f, f.head!, f.function ? { focus: exactly(f.function) } : {}) }, icon("flame"), "Open in Explore"));
  }

  // The words beside the figures: versions where they tell the sides apart, else A and B.
  private names(f: Finding): [string, string] {
    const a = f.base?.labels?.[versionLabel], b = f.head?.labels?.[versionLabel];
    return a && b && a !== b ? [a, b] : ["A", "B"];
  }

  private select(s: Chosen, focus = ""): Selection {
    const sel = selection(s.type, this.f!.service, labels(s), { from: s.from, to: s.to, fromMs: Math.floor(ms(s.from)), toMs: Math.ceil(ms(s.to)), live: false });
    if (samples(s)) sel.sampleMatchers = samples(s);
    return focus ? { ...sel, filter: { focus: exactly(focus) } } : sel;
  }

  private load(na: string, nb: string): void {
    const f = this.f!, head = f.head!;
    this.ctl?.abort();
    const ctl = (this.ctl = new AbortController());
    this.busy.hidden = false;
    const t = typeInfo(head.type), fn = f.function ?? "";
    const asked = f.base ? api.diff(this.select(f.base), this.select(head), nodes, ctl.signal).then((r) => {
      if (ctl.signal.aborted) return;
      const empty = !r.base?.total ? "base" : !r.head?.total ? "head" : "";
      this.diff ??= new DiffView({ actions: (n) => this.actions(n), pick: (n) => go(explore(this.f!, this.f!.head!, { view: "sandwich", fn: n })) });
      this.diff.el.dataset.view = "both";
      this.diff.flame.setMark(fn);
      this.diff.set(r, t, "both", [na, nb], (lay) => { this.high(lay); this.diff!.flame.setZoom(around(lay, fn)); });
      this.diff.table.setFilter(null, fn);
      this.place.replaceChildren(empty ? gone(empty === "base" ? "from before" : "from after") : this.diff.el);
    }) : api.flame(this.select(head, this.only ? fn : ""), nodes, ctl.signal).then((r) => {
      if (ctl.signal.aborted) return;
      this.flame ??= new FlameView({ label: "Flame graph", onMenu: (n) => this.actions(n) });
      this.flame.setMark(fn);
      const lay = new Layout(r.tree ?? {});
      this.high(lay);
      this.flame.setZoom(this.only ? 0 : around(lay, fn));
      this.flame.setData(lay, { unit: t.unit, scale: t.gauge ? 1 / Math.max(1, r.meta?.profiles ?? 1) : 1, noun: t.noun });
      this.place.replaceChildren(r.meta?.total ? this.flame.el : gone("of it"));
    });
    asked.then(() => this.banner.clear(), (e) => {
      if (ctl.signal.aborted) return;
      this.place.replaceChildren();
      this.banner.fail(e, () => this.load(na, nb));
    }).finally(() => { if (this.ctl === ctl) this.busy.hidden = true; });
  }

  // high makes room for the frames there are, and no more, and says when none is the function's.
  private high(lay: Layout): void {
    this.place.classList.toggle("solo", !this.f!.base);
    this.missing.hidden = !this.f!.function || lay.n === 0 || lay.names.includes(this.f!.function);
    this.missing.textContent = lay.leftOut ? "The function is not among the largest frames, which are shown." : "The function is in none of these profiles.";
    this.place.style.setProperty("--flame", Math.min(420, Math.max(160, lay.levels * 19 + 56)) + "px");
  }

  private actions(name: string): (MenuItem | string)[] {
    const f = this.f!, to = (s: Chosen, more: { [k: string]: string }) => go(explore(f, s, more));
    return [...(f.base ? [{ text: "Sandwich before", run: () => to(f.base!, { view: "sandwich", fn: name }) }] : []), { text: f.base ? "Sandwich after" : "Sandwich", hint: "callers and callees", run: () => to(f.head!, { view: "sandwich", fn: name }) }, { text: "Focus in Explore", run: () => to(f.head!, { focus: exactly(name) }) }];
  }
}

function gone(which: string): HTMLElement {
  return h("div", { class: "empty small" }, `There are no profiles ${which} any more: they are older than what is kept, or have been deleted.`);
}

// around is the frame to zoom into for a function to be seen beside others: above where it changed most, or is most, until it is at most a third as wide.
function around(lay: Layout, fn: string): number {
  const much = (i: number) => (lay.baseTotal ? Math.abs(lay.change(i)) : lay.w[i]);
  let row = -1;
  for (let i = 0; i < lay.n; i++) if (lay.nameOf(i) === fn && (row < 0 || much(i) > much(row))) row = i;
  if (row < 0) return 0;
  let top = lay.parent[row];
  while (top > 0 && lay.w[top] < 3 * lay.w[row]) top = lay.parent[top];
  return top > 0 ? lay.hash[top] : 0;
}
