// One change: how far it is, where it is in force, what was measured of it there and beside it, what was judged, and what happened.

import { Fault } from "./api";
import { Banner } from "./controls";
import { changesURL } from "./changes";
import { CohortChart, legend } from "./cohort";
import { did, Note, Rails, startDialog } from "./decide";
import { h, icon, rebuild, toast } from "./dom";
import { shortName } from "./format";
import { acting, answeredBy, ended, guard, runOf, unapproved, type Answer, type Change, type Compared, type Course, type Event as Moment, type Run, type Verdict } from "./guard";
import { exactly, formatMatchers, instanceLabel, link, params, set } from "./state";
import { changeKinds, changeTag, clockOf, decisionTag, duration, effect, harm, judgedText, local, metricName, pOf, relative, shown, size, stateText, ticking, unitTag } from "./terms";
import { ms } from "./watch";
import { ageing, basis, delta, figure, fullTime, interval, kinds, moment, money, resource, rich, when } from "./words";
import type { Page } from "./main";

type Child = Node | string | null;

const cpuType = "process_cpu:cpu:nanoseconds:cpu:nanoseconds";
const most = 50; // nodes of a side that a link names
const newest = 300; // events that are shown at first

export class ChangePage implements Page {
  title = "Change";
  readonly every = 2000;
  readonly el: HTMLElement;
  private id = decodeURIComponent(location.pathname.split("/").pop()!);
  private banner = new Banner();
  private rails = new Rails(() => this.tick());
  private crumb = h("nav", { class: "f-crumb", "aria-label": "Where this is" }, h("a", { href: changesURL() }, icon("back", 12), "Changes"));
  private parts: { [name: string]: HTMLElement } = {};
  private keys: { [name: string]: string } = {};
  private acts = h("div", { class: "row wrap f-buttons", role: "group", "aria-label": "What to do with it" });
  private note = new Note();
  private act = h("section", { class: "panel f-act", "aria-label": "What to do with it" }, h("h2", null, "Decide"), this.acts, this.note.el);
  private charts: Charts;
  private body: HTMLElement;
  private ctl: AbortController | null = null;
  private sending = false;
  private older = false; // the whole history is shown, however long
  private have: { change: Change; history: Moment[]; latest: Verdict | null } | null = null;
  private all: Answer | null = null;
  private second = window.setInterval(() => ticking(this.body), 1000);

  constructor() {
    const p = (name: string, cls = "") => (this.parts[name] = h("div", { class: cls }));
    this.charts = new Charts(this.id, this.banner, () => this.facts());
    const panel = (name: string, title: string, cls = "") => h("section", { class: "panel" + cls, "data-part": name, "aria-label": title }, h("h2", null, title), p(name));
    this.body = h("div", { class: "f-body", hidden: true }, p("head", "f-title"), p("notices"), p("tiles", "tiles"),
      h("div", { class: "f-cols" }, panel("stages", "Stages"), this.act), panel("diff", "What it changes"), this.charts.el,
      panel("verdict", "Verdict"), panel("moved", "Functions that moved"),
      h("div", { class: "f-cols even" }, panel("nodes", "Nodes"), panel("history", "History", " f-history")));
    this.el = h("div", { class: "page narrow finding change" }, this.crumb, this.rails.el, this.banner.el, h("div", { class: "f-wait skeleton row-skeleton" }), this.body);
  }

  destroy(): void {
    this.ctl?.abort();
    clearInterval(this.second);
    this.charts.destroy();
  }

  update(): void {
    if (this.have) this.draw();
    else this.tick();
  }

  tick(): void {
    if (this.sending) return; // its answer is newer
    this.ctl?.abort();
    const ctl = (this.ctl = new AbortController());
    guard.one(this.id, ctl.signal).then((r) => {
      this.banner.clear();
      this.have = r;
      this.draw();
    }, (e) => {
      if (ctl.signal.aborted) return;
      this.el.querySelector(".f-wait")?.remove();
      if (e instanceof Fault && e.code === "not_found") this.body.hidden = true;
      this.banner.fail(e, () => this.tick());
    });
    // What holds all is beside the point when it cannot be told: the change is shown without, and the banner has the same fault.
    guard.list({ state: "applying,dwelling,undoing" }, ctl.signal).then((r) => {
      this.all = r;
      this.rails.set(r, r.changes);
    }, () => {});
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

  // The stage that is looked at: the one that was chosen, or that a link of the history leads to, or the present one.
  private stage(runs: Map<number, Run>): number {
    const c = this.have!.change, p = params(), n = Number(p.get("stage") ?? NaN), from = Number(p.get("from") ?? NaN);
    if (Number.isInteger(n) && n >= 0 && n < c.plan.stages.length) return n;
    const at = [...runs].filter(([, r]) => r.at <= from + 1000).pop();
    return at && from ? at[0] : c.stage;
  }

  // facts is what charts and links are made from.
  private facts(): { c: Change; stage: number; runs: Map<number, Run> } {
    const c = this.have!.change, runs = runOf(c, this.have!.history);
    return { c, stage: this.stage(runs), runs };
  }

  private draw(): void {
    const { change: c, history, latest } = this.have!, { stage, runs } = this.facts();
    this.title = `${changeKinds[c.kind] ?? c.kind} · ${c.service}`;
    document.title = this.title + " · Quantra-L";
    this.el.querySelector(".f-wait")?.remove();
    this.body.hidden = false;
    this.part("head", [c.state, c.rejected, c.kind, c.sentence, c.service, c.proposed_at, c.started_at, c.started_by, c.approved_by, c.evidence], () => head(c));
    this.part("notices", [c.state, c.held, c.reason, c.paused, c.paused_by, c.warnings, c.saved, c.verdict?.guilty, c.ended_at, c.cost, c.approved_by, c.replaced], () => notices(c));
    this.part("tiles", [c.price, c.saving, c.expected, c.cost, c.saved, c.state], () => tiles(c));
    const patch = patchOf(c), began = c.plan.stages.length > 0;
    this.parts.diff.parentElement!.hidden = !patch;
    this.part("diff", patch, () => patch ? diff(patch) : []);
    this.part("stages", [c.plan.stages, c.stage, c.state, c.stage_until, c.deadline, c.frozen_at, stage, [...runs.keys()]], () => began ? this.stages(c, stage, runs) : [h("p", { class: "muted" }, c.kind === "pgo" || c.kind === "patch" ? "It has not been started. Then it waits for people to take it and roll a build out, for two weeks unless the policy says else, and is judged beside the version before." : "It has not been started. The first stage is the smallest; each further one begins only once the one before is shown to be no worse than tolerated.")]);
    this.buttons(c);
    this.charts.set(c, stage);
    const v = runs.get(stage)?.verdict ?? (stage === c.stage ? (acting(c) ? (latest ?? c.verdict) : (c.verdict ?? latest)) : undefined) ?? null;
    this.parts.verdict.parentElement!.hidden = !began && !v;
    this.part("verdict", [v, c.state], () => [v ? verdict(v, c) : h("p", { class: "muted" }, "Nothing has been judged of this stage yet: it takes some windows of the nodes that have the change and of those that do not.")]);
    this.parts.moved.parentElement!.hidden = !v?.functions.length && !v?.guilty;
    const times = this.charts.times(stage);
    this.part("moved", [v?.functions, v?.guilty, c.state, this.charts.sides(stage), this.span(c, stage, runs, times)], () => v ? [this.moved(c, v, stage, runs)] : []);
    this.parts.nodes.parentElement!.hidden = !c.units.length;
    this.part("nodes", c.units.map((u) => [u.id, u.state, u.version, u.zone, u.applied, u.undone, u.restarts, u.note]), () => [nodes(c)]);
    this.part("history", [history, this.older], () => [events(history, c, this.older), history.length > newest && !this.older ? h("button", { class: "linkish", type: "button", "data-focus": "older", onclick: () => { this.older = true; this.draw(); } }, `Show the ${history.length - newest} before them`) : null]);
    ageing(this.el);
    ticking(this.body);
  }

  private stages(c: Change, chosen: number, runs: Map<number, Run>): Child[] {
    const clock = c.state === "dwelling" ? clockOf(c) : null, deadline = ms(c.deadline);
    const how = (i: number): [string, string] => {
      if (i < c.stage) return runs.size && !runs.has(i) ? ["skipped", "not needed"] : ["passed", "passed"];
      if (i > c.stage) return c.state === "done" ? ["skipped", "not needed"] : ended(c) || c.state === "undoing" ? ["todo", "not begun"] : ["todo", "to come"];
      return c.state === "done" ? ["passed", "passed"] : c.state === "waiting" || c.state === "withdrawn" ? ["todo", "to come"] : [c.state, c.state === "applying" ? "being applied" : c.state === "dwelling" ? "watched" : stateText(c).toLowerCase()];
    };
    return [h("ol", { class: "c-stages" }, c.plan.stages.map((s, i) => {
      const [cls, text] = how(i), on = i === c.stage && acting(c);
      return h("li", { class: cls, "aria-current": on ? "step" : undefined },
        h("button", { type: "button", class: "c-stage" + (i === chosen ? " picked" : ""), disabled: !runs.has(i), "aria-pressed": String(i === chosen), "data-focus": "stage " + i, title: runs.has(i) ? "Show what was measured and judged in this stage" : undefined, onclick: () => set({ stage: i === c.stage ? "" : String(i), from: "", until: "" }, true) }, h("b", null, size(s)), h("span", { class: "muted" }, duration(s.dwell)), h("span", { class: "c-at" }, text)),
        on && clock ? clock.bar : h("div", { class: "c-bar" + (cls === "passed" ? " full" : "") }, h("i", null)));
    })), h("p", { class: "c-clock" }, c.state === "dwelling" ? [clock!.text, h("span", { class: "muted" }, ` of ${duration(c.plan.stages[c.stage]?.dwell ?? 0)}; then it is judged.`, isNaN(deadline) ? "" : ` Undone at ${moment(deadline)} if nothing can be shown by then.`)]
      : c.state === "applying" ? `Being applied to ${size(c.plan.stages[c.stage])}; the time of the stage begins when it is in force at all of them.` : c.state === "undoing" ? "What was there before is being restored, node by node." : stateText(c) + (isNaN(ms(c.ended_at)) ? "." : ` at ${moment(ms(c.ended_at))}.`))];
  }

  // ---- what a person does ----

  private buttons(c: Change): void {
    const key = [c.state, c.paused, !!c.needs_approval, this.sending].join();
    if (this.keys.acts === key) return;
    this.keys.acts = key;
    const focused = this.acts.contains(document.activeElement), open = c.state === "proposed" || c.state === "waiting", on = c.state === "waiting" || acting(c);
    const b = (text: string, ic: Parameters<typeof icon>[0], title: string, run: () => void, cls = "") => h("button", { class: "btn " + cls, type: "button", title, disabled: this.sending, "data-focus": "do " + text, onclick: run }, icon(ic), text);
    rebuild(this.acts, () => [
      c.state === "proposed" || c.state === "undone" ? b(c.state === "undone" ? "Start again" : "Start", "play", "See what will happen, and start it", () => this.start("start"), "primary") : "",
      c.state === "proposed" && c.needs_approval ? b("Approve and start", "check", "Approve what it costs, and start it", () => this.start("approve")) : "",
      unapproved(c) ? b("Approve", "check", "It may cost what it does", () => this.send("approve"), "primary") : "",
      on && !c.paused && c.state !== "undoing" ? b("Pause", "pause", "It goes no further; what is in force stays, and is watched", () => this.send("pause")) : "",
      c.paused ? b("Resume", "play", "It goes on from where it stood", () => this.send("resume"), "primary") : "",
      c.state === "applying" || c.state === "dwelling" || c.state === "done" ? b("Undo", "back", "Restore what was there before, at once", () => this.send("undo"), "danger") : "",
      open ? b("Reject", "close", "It is not proposed again as it is", () => this.send("reject")) : "",
      c.state === "failed" ? h("p", { class: "muted" }, "It did harm here, and is not tried again on the same version.") : c.state === "undoing" ? h("p", { class: "muted" }, "It is being undone. Nothing stops that.") : c.state === "withdrawn" ? h("p", { class: "muted" }, "Nothing is left to decide.") : ""]);
    if (focused) this.acts.querySelector<HTMLElement>("button:not(:disabled)")?.focus({ preventScroll: true });
  }

  private start(what: "start" | "approve"): void {
    startDialog(this.have!.change, this.all, what, "do " + (what === "approve" ? "Approve and start" : this.have!.change.state === "undone" ? "Start again" : "Start"), (c) => {
      this.have = { ...this.have!, change: c };
      this.draw();
      this.tick();
    });
  }

  private send(what: string): void {
    this.ctl?.abort();
    this.sending = true;
    this.buttons(this.have!.change);
    guard.act(this.id, this.note.act(what)).then((c) => {
      this.sending = false;
      this.note.note.value = "";
      this.banner.clear("act");
      toast(did[what] ?? "Done");
      this.have = { ...this.have!, change: c };
      this.draw();
      this.tick(); // the history
    }, (e) => {
      this.sending = false;
      this.buttons(this.have!.change);
      this.banner.fail(e, () => { this.banner.clear("act"); this.send(what); }, "act");
      this.tick(); // it may have changed meanwhile
    });
  }

  // ---- functions ----

  // span is the time of a stage in which the change was in force, in ms; null while it is not.
  private span(c: Change, stage: number, runs: Map<number, Run>, times: Course | null): [number, number] | null {
    const v = runs.get(stage)?.verdict, from = times?.at || runs.get(stage)?.at || ms(c.stage_at), to = ms(v?.at) || (times?.to ?? ms(c.ended_at));
    return from && to > from ? [from, to] : null;
  }

  // compare is the flame graph of the control against that of the treated, in the stage's time.
  private compare(c: Change, stage: number, runs: Map<number, Run>, fn: string): string | null {
    const at = this.span(c, stage, runs, this.charts.times(stage)), s = this.charts.sides(stage);
    const names = (role: string) => (s[role]?.length ? s[role] : c.units.filter((u) => (role === "control") === (u.state === "control") && !u.place).map((u) => u.id)).slice(0, most);
    const of = (role: string) => formatMatchers([{ name: instanceLabel, op: "=~", value: names(role).map((n) => exactly(n).slice(1, -1)).join("|") }]);
    if (!at || !names("treated").length) return null;
    const [from, to] = at.map(String), before = names("control").length ? null : String(at[0] - (at[1] - at[0])); // without a control it is held to its past
    return link("/diff", { service: c.service, type: cpuType, from: before ?? from, to, "a.labels": before ? of("treated") : of("control"), "a.from": before ?? from, "a.to": before ? from : to, "b.labels": of("treated"), "b.from": from, "b.to": to, ...(fn ? { q: exactly(fn), re: "1" } : {}) });
  }

  private moved(c: Change, v: Verdict, stage: number, runs: Map<number, Run>): Node {
    const whole = this.compare(c, stage, runs, v.guilty ?? "");
    const fn = (name: string) => {
      const to = this.compare(c, stage, runs, name);
      return to ? h("a", { class: "fn-link", href: to, title: name + "\nControl against treated in the flame graph", "data-focus": "fn " + name }, shortName(name)) : h("code", { title: name }, shortName(name));
    };
    return h("div", null,
      v.guilty ? h("p", { class: "c-guilty" }, h("i", { class: "verdict-mark" }), h("span", null, "What grew is ", fn(v.guilty), ".")) : null,
      v.functions.length ? h("table", { class: "moved" }, h("thead", null, h("tr", null, ["Function", "Control", "Treated", "Change for the same work", "Why"].map((t) => h("th", { scope: "col" }, t)))),
        h("tbody", null, v.functions.slice(0, 50).map((f) => functionRow(f, fn)))) : null,
      whole ? h("div", { class: "row c-more" }, h("a", { class: "btn", href: whole, "data-focus": "diff" }, icon("diff"), "Control against treated in the flame graph")) : null);
  }
}

function functionRow(f: Compared, fn: (name: string) => Node): HTMLElement {
  const d = f.metric === "total" ? f.full : f.metric === "own" ? f.own : f.self, by = f.by ? h("code", { title: f.by }, shortName(f.by)) : null;
  const why: Child[] = f.verdict === "grew" ? ["it costs more"] : f.verdict === "fell" ? ["it costs less"] : f.verdict === "explained" ? ["because of ", by ?? "what it calls"] : f.verdict === "shifted" ? ["moved from or to ", by ?? "another"] : [f.verdict];
  const range = interval(d.real, (x) => delta(x, "share"));
  return h("tr", null, h("td", null, fn(f.function), f.was && f.was !== f.function ? h("div", { class: "muted" }, "was ", f.was) : null), h("td", null, figure(d.before.value, "share")), h("td", null, figure(d.after.value, "share")),
    h("td", { class: d.real.value > 0 ? "worse" : "better" }, delta(d.real.value, "share"), range ? h("div", { class: "muted" }, `95 %: ${range}`) : null), h("td", { class: "muted" }, why));
}

// ---- the parts ----

function head(c: Change): Child[] {
  const found = answeredBy(c), t = ms(c.started_at), proposed = ms(c.proposed_at), by = [c.started_by ? `started by ${c.started_by}` : "", c.approved_by ? `approved by ${c.approved_by}` : ""].filter(Boolean).join(", ");
  const link_ = (what: string, to: string) => { const href = local(to); return href ? h("a", { class: "btn tiny", href, "data-focus": "evidence " + what }, icon("link", 12), what) : h("span", { class: "muted" }, `${what}: ${to}`); };
  return [h("h1", null, rich(c.sentence)), h("div", { class: "f-tags" }, changeTag(c), h("span", { class: "tag kind" }, changeKinds[c.kind] ?? c.kind),
    h("a", { class: "tag", href: link("/changes", { service: c.service }), title: "Changes of this service", "data-focus": "service" }, c.service),
    isNaN(proposed) ? null : h("span", { class: "muted", title: fullTime(proposed) }, `proposed ${moment(proposed)}`), by ? h("span", { class: "muted", title: isNaN(t) ? "" : fullTime(t) }, by + (isNaN(t) ? "" : ` at ${moment(t)}`)) : null),
    h("div", { class: "row wrap c-evidence" }, c.evidence.length || found ? h("span", { class: "muted" }, "It rests on") : null, c.evidence.map((e) => link_(e.what, e.link)),
      found ? h("a", { class: "btn tiny", href: link("/findings", { service: c.service, kind: found, state: "all" }), "data-focus": "finding" }, icon("trend", 12), kinds[found] ?? found) : null)];
}

function saves(s: NonNullable<Change["saved"]>): Child[] {
  const range = interval(s.cores, (v) => resource(v, "cores"));
  return ["It saves ", h("b", null, resource(s.cores.value, "cores")), range ? ` (95 %: ${range})` : "", ...(s.price ? [": ", h("b", { title: basis(s.price) }, money(s.price) + " a month"), h("span", { class: "muted" }, ` (${basis(s.price)})`)] : []), ". "];
}

function notices(c: Change): Child[] {
  const out: HTMLElement[] = [], li = (cls: string, ...text: (Child | Child[])[]) => out.push(h("li", { class: cls }, icon(cls === "good" ? "check" : cls === "held" ? "pause" : "warn", 14), h("span", null, text.flat() as Child[])));
  const s = c.saved, at = isNaN(ms(c.ended_at)) ? "" : ` at ${moment(ms(c.ended_at))}`;
  if (c.state === "done") li("good", h("b", null, `Done${at}, and kept in force. `), s ? saves(s) : "What it saves was not measured. ", c.reason ? rich(c.reason) : "");
  if (c.state === "failed") li("bad", h("b", null, `It did harm, and was undone${at}. `), harm(c));
  if (c.state === "undoing") li("bad", h("b", null, "It is being undone. "), harm(c));
  if (c.state === "undone" || c.state === "withdrawn") li("", h("b", null, `${stateText(c)}${at}. `), c.reason ? rich(c.reason) : "");
  if (c.held) li("held", h("b", null, c.state === "undoing" ? "" : "It waits. "), c.held);
  else if (c.paused) li("held", `It is paused by ${c.paused_by || "somebody"}.`);
  if (c.replaced) li("", "All nodes of this stage went away once, and others took their places.");
  for (const w of c.warnings) li("", ...rich(w));
  return out.length ? [h("ul", { class: "a-notices f-notices" }, out)] : [];
}

function tiles(c: Change): Child[] {
  const tile = (name: string, text: string, below: string, cls = "", title = "") => h("div", { class: "tile " + cls, title }, h("div", { class: "muted" }, name), h("b", null, text), h("div", { class: "muted" }, below || " "));
  const s = c.saved, out: Child[] = [];
  if (s?.price) out.push(tile(c.state === "done" ? "Saves a month" : "Saved so far, a month", money(s.price), resource(s.cores.value, "cores"), "good", basis(s.price)));
  const bound = c.kind === "patch"; // what its code takes: it saves no more
  if (c.price?.amount) out.push(tile(c.price.amount < 0 ? "Costs a month" : bound ? "Saves a month, at most" : "Expected to save a month", money(c.price), [c.saving ? resource(c.saving, "cores") : "", c.price.basis].filter(Boolean).join("; "), s || c.state === "failed" || c.state === "undone" || c.state === "withdrawn" ? "" : "good", basis(c.price)));
  else if (c.saving) out.push(tile(c.saving < 0 ? "Takes" : bound ? "Saves, at most" : "Expected to save", resource(Math.abs(c.saving), "cores"), "not priced"));
  for (const [name, e] of Object.entries(c.expected ?? {})) out.push(tile(`Expected: ${metricName(name)}`, relative(e.value), bound ? "at most" : interval(e, relative) && "95 %: " + interval(e, relative)));
  if (c.cost) out.push(tile("Adds to the bill, a month", Math.round(c.cost).toLocaleString("en"), c.approved_by ? `approved by ${c.approved_by}` : "counts against the budget", "bad"));
  return out;
}

/** Patch is what a change of source does, of its spec. */
interface Patch { repository: string; base?: string; diff: string }

function patchOf(c: Change): Patch | null {
  const s = c.spec as Partial<Patch> | null | undefined;
  return c.kind === "patch" && s && typeof s.diff === "string" && typeof s.repository === "string" ? { repository: s.repository, base: typeof s.base === "string" ? s.base : "", diff: s.diff } : null;
}

// hiding are characters that cannot be seen, or turn the direction of what is behind them: they are shown by their numbers.
const hiding = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;

// diff is a unified diff, as text.
function diff(p: Patch): Child[] {
  const lines = p.diff.replace(/\r?\n$/, "").split(/\r?\n/);
  const kind = (l: string) => /^(---|\+\+\+) /.test(l) ? "file" : l.startsWith("@@") ? "at" : l.startsWith("+") ? "comes" : l.startsWith("-") ? "goes" : "";
  return [h("p", { class: "muted" }, "A pull request at ", h("code", null, p.repository), p.base ? [" into ", h("code", null, p.base)] : ". ", p.base ? ". " : "", "Nobody has compiled it here: the checks of the repository do."),
    h("pre", { class: "c-diff", tabindex: "0", role: "region", "aria-label": "The diff" }, lines.map((l) => h("span", { class: kind(l) }, l.replace(hiding, (c) => "\\u{" + c.codePointAt(0)!.toString(16) + "}") + "\n")))];
}

function verdict(v: Verdict, c: Change): Node {
  const at = ms(v.at), floor = (name: string) => c.plan.metrics.find((m) => m.name === name)?.floor ?? 0;
  const worse = (m: Verdict["metrics"][number]) => `up to ${Number((m.worse * 100).toPrecision(3))} % ${m.better === "higher" ? "less" : "more"}` + (floor(m.name) && m.worse === 0 ? ` or ${Number((floor(m.name) * 100).toPrecision(2))} points` : "");
  return h("div", null, h("p", { class: "c-said" }, decisionTag(v.decision), h("span", null, rich(v.reason || "")), isNaN(at) ? null : h("span", { class: "muted", title: fullTime(at) }, moment(at), " (", when(at), ")")),
    v.metrics.length ? h("div", { class: "c-wide", tabindex: "0", role: "region", "aria-label": "Metrics, each as it was judged" }, h("table", { class: "moved judged" },
      h("thead", null, h("tr", null, [["Metric", ""], ["Without", "What the treated would have had without the change: what they had before, moved as the control moved"], ["With", "What the treated had"], ["Effect", "What the change did, with its 95 % interval"], ["Tolerated", "The change for the worse that is no harm"], ["n", "Windows of the treated and of the control, and of how many nodes"], ["Test", ""], ["p", "That it is no worse than tolerated, were it exactly that: small shows no harm"], ["Judged", ""]].map(([t, title]) => h("th", { scope: "col", title: title || undefined }, t)))),
      v.metrics.map((m) => {
        const e = effect(m), sure = m.effect.low > 0 || m.effect.high < 0, bad = m.effect.value > 0 !== (m.better === "higher");
        return h("tbody", { "data-metric": m.name }, h("tr", null, h("th", { scope: "row" }, metricName(m.name), m.critical ? null : h("span", { class: "muted", title: "Harm in it is a warning, and fails nothing" }, " (aside)")), h("td", null, shown(m.name, m.before)), h("td", null, shown(m.name, m.after)),
          h("td", { class: !sure ? "" : bad ? "worse" : "better" }, e.text, e.range ? h("div", { class: "muted" }, e.range) : null), h("td", null, worse(m)),
          h("td", { title: `${m.windows} windows of ${m.members} treated, ${m.control_windows} of ${m.control_members} in the control` }, `${m.windows} and ${m.control_windows} windows`, h("div", { class: "muted" }, `of ${m.members} and ${m.control_members} nodes`)),
          h("td", null, m.test || "–"), h("td", null, pOf(m)), h("td", null, decisionTag(m.decision))),
          h("tr", { class: "in-words" }, h("td", { colspan: "9" }, judgedText(m, metricName(m.name)))));
      }))) : null,
    v.warnings.length ? h("ul", { class: "a-notices f-notices c-more" }, v.warnings.map((w) => h("li", null, icon("warn", 14), h("span", null, rich(w))))) : null);
}

function nodes(c: Change): Node {
  const rank = ["undoing", "intended", "planned", "applied", "treated", "off", "control", "refused", "undone", "gone"];
  const all = [...c.units].sort((a, b) => rank.indexOf(a.state) - rank.indexOf(b.state) || a.stage - b.stage || (a.id < b.id ? -1 : 1));
  return h("div", { class: "c-wide c-tall", tabindex: "0", role: "region", "aria-label": "Nodes" }, h("table", { class: "moved nodes" }, h("thead", null, h("tr", null, ["Node", "Is", "Version", "Zone", "Since"].map((t) => h("th", { scope: "col" }, t)))),
    h("tbody", null, all.map((u) => {
      const t = ms(u.state === "undone" ? u.undone : u.applied);
      return h("tr", { "data-unit": u.id }, h("th", { scope: "row" }, h("code", null, u.id), u.note ? h("div", { class: "muted" }, u.note) : null), h("td", null, unitTag(u), u.restarts ? h("span", { class: "warned", title: "Since the change came into force; of a control since the stage began" }, ` ${u.restarts} × restarted`) : null), h("td", null, u.version || "–"), h("td", null, u.zone || "–"), h("td", { title: isNaN(t) ? "" : fullTime(t) }, isNaN(t) ? "–" : moment(t)));
    }))));
}

const happened: { [what: string]: string } = { proposed: "proposed", started: "started", approved: "approved", waiting: "waits", stage: "a stage begins", intent: "about to be applied", applied: "in force", refused: "refused", gone: "went away", restarted: "restarted", dwelling: "the stage is in force", verdict: "judged", paused: "paused", resumed: "goes on", undoing: "being undone", undo: "about to be undone", unit_undone: "undone there", undone: "undone", failed: "failed", done: "done", withdrawn: "withdrawn", error: "an error" };

function events(history: Moment[], c: Change, older: boolean): Node {
  if (!history.length) return h("p", { class: "muted" }, "Nothing is kept of it.");
  return h("ol", { class: "f-events", tabindex: "0", "aria-label": "History, the newest first" }, history.slice(older ? 0 : -newest).reverse().map((e) => h("li", { class: e.what === "failed" || e.what === "error" || e.what === "undoing" ? "bad" : "" }, h("time", { title: fullTime(ms(e.time)) }, moment(ms(e.time))), h("div", null, h("b", null, happened[e.what] ?? e.what), e.target ? [" ", h("code", null, e.target)] : "", e.actor === "optimizer" ? "" : " by " + e.actor,
    e.verdict ? [" ", decisionTag(e.verdict.decision)] : "", c.plan.stages[e.stage] && (e.what === "stage" || e.what === "dwelling") ? h("span", { class: "muted" }, ` ${size(c.plan.stages[e.stage])}`) : null, e.note ? h("div", { class: "muted" }, rich(e.note)) : null,
    e.evidence.map((x) => { const href = local(x.link); return href ? h("div", null, h("a", { class: "c-proof", href, "data-focus": `${e.seq} ${x.what}` }, x.what)) : h("div", { class: "muted" }, `${x.what}: ${x.link}`); })))));
}

/** Charts is what was measured in a stage: one chart a metric, which fill while it is watched. */
class Charts {
  private key = h("div", { class: "f-key muted" });
  private grid = h("div", { class: "c-grid" });
  readonly el = h("section", { class: "panel c-charts", "aria-label": "Treated against control", hidden: true }, h("h2", null, "Treated against control"), this.key, this.grid);
  private charts = new Map<string, CohortChart>();
  private ctl: AbortController | null = null;
  private have: { stage: number; course: Course; done: boolean } | null = null;
  private asked = -1;
  private legend = "";

  constructor(private id: string, private banner: Banner, private facts: () => { c: Change; stage: number }) {}

  destroy(): void {
    this.ctl?.abort();
    for (const c of this.charts.values()) c.destroy();
  }

  /** times is what was measured of a stage, if it is there. */
  times(stage: number): Course | null {
    return this.have?.stage === stage ? this.have.course : null;
  }

  /** sides are the names of the nodes on each side. */
  sides(stage: number): { [role: string]: string[] } {
    const out: { [role: string]: string[] } = {};
    for (const m of this.times(stage)?.metrics ?? []) for (const x of m.members) if (!(out[x.role] ??= []).includes(x.name)) out[x.role].push(x.name);
    return out;
  }

  // What is over stays as it is, and is asked for once.
  set(c: Change, stage: number): void {
    const over = ended(c) || stage < c.stage;
    if (stage > c.stage || !c.units.some((u) => !isNaN(ms(u.applied)))) { // it was in force nowhere yet
      this.el.hidden = true;
      return;
    }
    if (this.asked === stage || (this.have?.stage === stage && this.have.done)) return;
    this.ctl?.abort();
    const ctl = (this.ctl = new AbortController());
    this.asked = stage;
    guard.course(this.id, stage, ctl.signal).then((r) => {
      this.banner.clear("series");
      this.have = { stage, course: r, done: over };
      this.draw();
    }, (e) => {
      if (ctl.signal.aborted) return;
      if (this.have && this.have.stage !== stage) this.el.hidden = true; // another stage's would be read as this one's
      this.banner.fail(e, () => { const f = this.facts(); this.set(f.c, f.stage); }, "series");
    }).finally(() => { if (this.ctl === ctl) this.asked = -1; });
  }

  private draw(): void {
    const { course, stage } = this.have!, { c } = this.facts(), watched = c.state === "dwelling" && stage === c.stage;
    this.el.hidden = false;
    const names = course.metrics.map((m) => m.metric.name), until = Math.max(course.to, watched ? ms(c.stage_until) || 0 : 0);
    for (const m of course.metrics) {
      let chart = this.charts.get(m.metric.name);
      if (!chart) this.charts.set(m.metric.name, (chart = new CohortChart()));
      chart.set({ series: m, from: course.from, until, at: course.at, first: course.first, periods: course.periods });
    }
    for (const [name, chart] of this.charts) if (!names.includes(name)) { chart.destroy(); this.charts.delete(name); }
    const wanted: HTMLElement[] = names.map((n) => this.charts.get(n)!.el);
    if (!course.metrics.some((m) => m.members.some((x) => x.points.length))) this.grid.replaceChildren(h("p", { class: "muted" }, "Nothing was measured of its nodes yet: the first windows come within half a minute of profiles."));
    else if (wanted.length !== this.grid.children.length || wanted.some((e, i) => this.grid.children[i] !== e)) this.grid.replaceChildren(...wanted);
    const words = JSON.stringify([course.metrics.map((m) => m.members.map((x) => x.role)), course.warnings]);
    if (words !== this.legend) {
      this.legend = words;
      this.key.replaceChildren(...legend(course.metrics), ...course.warnings.map((w) => h("span", { class: "warned" }, icon("warn", 12), w)));
    }
  }
}
