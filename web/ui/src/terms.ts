// A change in words: its kind and state, its stages, its metrics with their units, and what was judged.

import { serverNow } from "./api";
import { h } from "./dom";
import { count, remaining, shortName, value } from "./format";
import type { Change, MetricVerdict, Stage, Unit } from "./guard";
import { exact, figure, interval, known, oneIn, rich } from "./words";
import { ms, type Estimate } from "./watch";

export const changeKinds: { [k: string]: string } = { runtime: "Runtime settings", pgo: "Profile-guided build", scale: "Replicas", machine: "Machine type", rebalance: "Load", patch: "Source patch" };

const states: { [k: string]: string } = { proposed: "Proposed", waiting: "Waiting", applying: "Being applied", dwelling: "Watched", undoing: "Being undone", done: "Done", undone: "Undone", failed: "Failed, undone", withdrawn: "Withdrawn" };

/** stateText is where a change is. */
export function stateText(c: Change): string {
  return c.state === "withdrawn" && c.rejected ? "Rejected" : (states[c.state] ?? c.state);
}

export function changeTag(c: Change): HTMLElement {
  return h("span", { class: "tag at-" + c.state }, stateText(c));
}

/** harm is why a change was taken back, with the guilty function as code. */
export function harm(c: Change): (Node | string)[] {
  const fn = c.verdict?.decision === "fail" ? c.verdict.guilty : "", reason = c.reason ?? "";
  if (!fn) return rich(reason);
  const at = reason.indexOf(fn), code = h("code", { title: fn }, shortName(fn));
  return at < 0 ? [...rich(reason), " What grew is ", code, "."] : [...rich(reason.slice(0, at)), code, ...rich(reason.slice(at + fn.length))];
}

const unitStates: { [k: string]: [string, string] } = {
  control: ["Control", "Left as it is, to compare with"], planned: ["Planned", "It is of this stage; nothing was done yet"], intended: ["On its way", "The way back is proven and kept; the change may be in force"],
  applied: ["Treated", "It has the change"], treated: ["Treated", "It came with the change, as a node that runs a new build"], off: ["Off", "Switched off for a period, to compare with"], undoing: ["Being undone", "What was there before is being restored"],
  undone: ["Undone", "It is as it was before"], refused: ["Refused", "It does not take the change"], gone: ["Gone", "It went away"],
};

/** unitTag is how a change is at a node. */
export function unitTag(u: Unit): HTMLElement {
  const [text, title] = u.place && u.state === "applied" ? ["In place", "The change is made here; the nodes that have it came with it"] : unitStates[u.state] ?? [u.state, ""];
  return h("span", { class: "tag unit-" + u.state, title }, text);
}

/** units sums up the nodes: 1 treated, 1 control. */
export function units(c: Change): string {
  const n = (...s: string[]) => (c.nodes ? s.reduce((sum, x) => sum + (c.nodes![x] ?? 0), 0) : c.units.filter((u) => !u.place && s.includes(u.state)).length);
  return ([[n("applied", "treated", "off", "intended"), "treated"], [n("planned"), "planned"], [n("control"), "control"], [n("undoing"), "being undone"], [n("undone"), "undone"], [n("refused"), "refused"], [n("gone"), "gone"]] as [number, string][])
    .filter(([k]) => k).map(([k, text]) => `${k} ${text}`).join(", ");
}

/** duration is a time in ns as a plan has it. */
export function duration(ns: number): string {
  return remaining(ns / 1e6).replace(/ 0 s$| 0 min$/, "");
}

/** size is how much of a service a stage has. */
export function size(s: Stage): string {
  return s.nodes ? count(s.nodes, "node") : `${Number((s.percent ?? 0).toPrecision(3))} %`;
}

/** back is how a change of a kind is taken back. */
export function back(kind: string): string {
  return {
    runtime: "Each node's settings are a lease: when it is taken back, runs out, or this server is gone, the agent restores what it found.",
    pgo: "The profile that was there before is put back, and the next build has it.",
    scale: "The number of replicas goes back to what it was.",
    machine: "The machine is given its old type again, by the same steps.",
    rebalance: "The shares of the load go back to what they were.",
    patch: "The pull request is closed. If it is merged already another one takes it out again, which people merge and roll out.",
  }[kind] ?? "What was there before is kept first, and is put back.";
}

const metrics: { [k: string]: [string, string] } = {
  cpu_per_request: ["CPU per request", "seconds"], latency_p99: ["p99 latency", "seconds"], rss: ["Memory (RSS)", "bytes"], gc_cpu: ["GC's share of CPU", "share"],
  errors: ["Errors, share of requests", "share"], throughput: ["Requests", "count/s"], cpu: ["CPU", "cores"],
};

export function metricName(name: string): string {
  return metrics[name]?.[0] ?? name.replaceAll("_", " ");
}

export function metricUnit(name: string): string {
  return metrics[name]?.[1] ?? "";
}

const endless = 1e300; // an interval without an end travels as one that ends very far away

/** shown is a metric's value in its unit. */
export function shown(name: string, v: number): string {
  return Math.abs(v) >= endless ? (v < 0 ? "−∞" : "∞") : metricUnit(name) ? figure(v, metricUnit(name)) : value(v, "");
}

/** relative is a change relative to what was, with its sign: −11 %. */
export function relative(v: number): string {
  const a = Math.abs(v * 100);
  return Math.abs(v) >= endless ? (v < 0 ? "−∞" : "+∞") : (a < 5e-4 ? "±0" : (v > 0 ? "+" : "−") + (a >= 1000 ? Math.round(a).toLocaleString("en") : Number(a.toPrecision(a < 1 ? 2 : 3)))) + " %";
}

/** effect is what a change did to a metric: relative to what was, or for shares near 0 in points. */
export function effect(m: MetricVerdict): { text: string; range: string } {
  const points = metricUnit(m.name) === "share" && known(m.difference), e: Estimate = points ? m.difference : m.effect;
  const show = points ? (v: number) => (Math.abs(v) >= endless ? relative(v) : (v > 0 ? "+" : v < 0 ? "−" : "±") + Number(Math.abs(v * 100).toPrecision(3)) + " points") : relative;
  return { text: show(e.value), range: interval(e, show) };
}

const decisions: { [k: string]: string } = { pass: "Not worse", fail: "Worse", hold: "Not known yet" };

export function decisionTag(decision: string): HTMLElement {
  return h("span", { class: "tag judged-" + decision }, decisions[decision] ?? decision);
}

/** pOf is the p-value that a decision rests on. */
export function pOf(m: MetricVerdict): string {
  return m.decision === "fail" ? `harm: ${exact(m.p_harm)}` : exact(m.p);
}

/** judgedText says in words what was judged of a metric, and how sure that is. */
export function judgedText(m: MetricVerdict, name: string): string {
  const e = effect(m), moved = m.after === m.before ? "did not move" : `went from ${shown(m.name, m.before)} to ${shown(m.name, m.after)} (${e.text}${e.range ? `; 95 %: ${e.range}` : ""})`;
  const sure = m.decision === "pass" ? `Were it exactly as bad as is tolerated, the chance of figures as good is ${oneIn(m.p)}.`
    : m.decision === "fail" ? `Were it no worse than is tolerated, the chance of figures as bad is ${oneIn(m.e > 1 ? Math.min(m.p_harm, 1 / m.e) : m.p_harm)}.` : "Neither harm nor its absence is shown.";
  return `${name} ${moved}. ${m.why ? m.why + " " : ""}${sure}`;
}

// left is the time that a stage's clock has still to go, in ms; a pause stops it.
const left = (until: number, frozen: number) => Math.max(0, until - (isNaN(frozen) ? serverNow() : frozen));

/** clockOf is the bar of a dwell and the time that is left, which [ticking] keeps true. */
export function clockOf(c: Change): { bar: HTMLElement; text: HTMLElement } {
  const until = ms(c.stage_until), at = until - (c.plan.stages[c.stage]?.dwell ?? 0) / 1e6, data = { "data-at": at, "data-until": until, "data-frozen": isNaN(ms(c.frozen_at)) ? "" : ms(c.frozen_at) };
  const bar = h("div", { class: "c-bar", role: "progressbar", "aria-label": "Of the time that it is watched", "aria-valuemin": "0", "aria-valuemax": "100", ...data }, h("i", null)), text = h("span", { class: "c-left", ...data });
  const both = h("div", null, bar, text);
  ticking(both);
  return { bar, text };
}

/** ticking brings what [clockOf] has made below root up to date. */
export function ticking(root: Element): void {
  for (const e of root.querySelectorAll<HTMLElement>("[data-until]")) {
    const until = Number(e.dataset.until), frozen = e.dataset.frozen ? Number(e.dataset.frozen) : NaN, rest = left(until, frozen), share = Math.min(1, 1 - rest / (until - Number(e.dataset.at) || 1));
    if (e.classList.contains("c-bar")) {
      const pct = (100 * share).toFixed(1);
      (e.firstChild as HTMLElement).style.width = pct + "%";
      e.setAttribute("aria-valuenow", String(Math.round(100 * share)));
    } else {
      const text = rest > 0 ? remaining(rest) + " left" + (isNaN(frozen) ? "" : ", stopped") : "being judged";
      if (e.textContent !== text) e.textContent = text;
    }
  }
}

/** local is where a link of the server's leads, if it leads to a page: other text is no link. */
export function local(link: string): string | null {
  try {
    const u = new URL(link, location.origin);
    return u.protocol === "http:" || u.protocol === "https:" ? (u.origin === location.origin ? u.pathname + u.search : u.href) : null;
  } catch {
    return null;
  }
}
