// A finding in words: its kind, figures with their units, times, money, and how sure it is.

import { serverNow } from "./api";
import { h } from "./dom";
import { ago, clock, shortName, stamp, value } from "./format";
import { ms, type Estimate, type Finding, type Item, type Money } from "./watch";

export const kinds: { [k: string]: string } = {
  regression: "Regression", improvement: "Improvement", hot_spot: "Hot spot", gc_pressure: "GC pressure", allocation: "Allocation", contention: "Lock contention", blocking: "Blocking call",
  goroutine_growth: "Goroutine growth", goroutine_leak: "Goroutine leak", recursion: "Recursion", repeated: "Repeated work", transition: "Slow transition", anomaly: "Anomaly",
};

export const states: { [k: string]: string } = { new: "New", came_back: "Came back", acknowledged: "Acknowledged", muted: "Muted", fixed: "Fixed" };

/** open says whether something is to be done about it. */
export function open(r: Item): boolean {
  return r.state === "new" || r.state === "came_back" || r.state === "acknowledged";
}

/** better says whether what was found is good news. */
export function better(f: Finding): boolean {
  return f.kind === "improvement";
}

const minus = (v: number) => (v < 0 ? "−" : "");

// A share has three digits that count: a change of 0.005 % of a service is what the analysis is there for.
function share(v: number): string {
  const a = Math.abs(v * 100);
  return a > 0 && a < 1e-4 ? "<0.0001 %" : minus(v) + Number(a.toPrecision(3)) + " %";
}

/** figure is a value in a finding's unit. */
export function figure(v: number, unit: string): string {
  return unit === "share" ? share(v) : unit === "seconds" ? value(v * 1e9, "nanoseconds") : value(v, unit);
}

/** delta is a change in a finding's unit, with its sign. */
export function delta(v: number, unit: string): string {
  const a = Math.abs(v);
  return (v > 0 ? "+" : minus(v)) + (unit === "share" ? figure(a, unit).replace(" %", " points") : figure(a, unit));
}

/** interval is the 95 % interval of an estimate; "" where it has none. */
export function interval(e: Estimate, show: (v: number) => string): string {
  if (e.low === e.high) return "";
  const a = show(e.low), b = show(e.high), unit = / [^\d ]+$/.exec(b)?.[0];
  return `${unit && a.endsWith(unit) ? a.slice(0, -unit.length) : a} to ${b}`;
}

export function known(e: Estimate): boolean {
  return e.value !== 0 || e.low !== 0 || e.high !== 0;
}

function amount(v: number): string {
  const a = Math.abs(v);
  return minus(v) + (a >= 10 || a === 0 ? Math.round(a).toLocaleString("en") : a.toPrecision(2));
}

/** money is an amount a month. */
export function money(m: Money): string {
  return `${amount(m.amount)} ${m.currency}`;
}

/** basis is how money was reckoned, with its interval. */
export function basis(m: Money): string {
  return (m.basis ? m.basis + "; " : "") + `95 %: ${amount(m.low)} to ${amount(m.high)} ${m.currency} a month`;
}

/** resource is what money was reckoned from: cores or bytes of memory. */
export function resource(v: number, unit: string): string {
  return unit === "bytes" ? value(v, "bytes") + " of memory" : value(v, unit);
}

/** moment is a time as short as it can be, in this browser's zone. */
export function moment(t: number): string {
  return new Date(t).toDateString() === new Date(serverNow()).toDateString() ? clock(t, false) : stamp(t).slice(0, 16);
}

/** fullTime is a time for who wants it exactly. The sentences of findings have times in UTC. */
export function fullTime(t: number): string {
  return `${stamp(t)}, ${new Date(t).toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

/** when is a time that says how long ago it is; [ageing] keeps that true. */
export function when(t: number): HTMLElement {
  return h("time", { class: "muted", datetime: new Date(t).toISOString(), title: fullTime(t), "data-ago": t }, ago(t, serverNow()));
}

/** ageing brings what [when] has made below root up to date. */
export function ageing(root: Element): void {
  for (const e of root.querySelectorAll<HTMLElement>("[data-ago]")) {
    const text = ago(Number(e.dataset.ago), serverNow());
    if (e.textContent !== text) e.textContent = text;
  }
}

/** rich is a sentence whose parts between backticks are code: a name, not markup. */
export function rich(s: string): (Node | string)[] {
  const parts = s.split("`");
  return parts.length % 2 ? parts.map((x, i) => (i % 2 ? h("code", { title: x }, shortName(x)) : x)) : [s];
}

/** named is what it is about in a few words. */
export function named(f: Finding): string {
  return shortName(f.function || f.subject || "") || (kinds[f.kind] ?? f.kind);
}

/** oneIn is a probability as 1 in so many. */
export function oneIn(p: number): string {
  const n = Number((1 / p).toPrecision(2)); // 1 / 1e-9 is a little less than a billion
  if (n > 1e15) return "less than 1 in a million billion";
  const [by, word] = n >= 1e12 ? [1e12, " trillion"] : n >= 1e9 ? [1e9, " billion"] : n >= 1e6 ? [1e6, " million"] : [1, ""];
  return `1 in ${(n / by).toLocaleString("en")}${word}`;
}

/** exact is a p-value as a figure. */
export const exact = (p: number) => (p > 0 ? (p < 1e-3 ? p.toExponential(0).replace("e-", " × 10⁻").replace(/\d+$/, (d) => [...d].map((c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(c)]).join("")) : String(Number(p.toPrecision(2)))) : "0");

/** chance says a p-value in words. */
export function chance(p: number): string {
  return p > 0.5 ? `It would show with nothing behind it as often as not (p = ${exact(p)}).` : `With nothing behind it, the chance of as large a change is ${p > 0 ? oneIn(p) : "less than 1 in a million billion"} (p = ${exact(p)}).`;
}

/** falsely says in words which share of findings as sure as this one are false. */
export function falsely(q: number): string {
  return q > 0.5 ? `Of all that is this sure, most may be false (q = ${exact(q)}).` : `Of all findings at least this sure, ${q > 0 ? oneIn(q) : "less than 1 in a million billion"} is expected to be false; all that was looked at is counted (q = ${exact(q)}).`;
}

/** stateTag is where a finding is in its life. */
export function stateTag(r: Item): HTMLElement {
  const until = ms(r.muted_until), text = r.state === "muted" && !isNaN(until) ? `Muted until ${moment(until)}` : (states[r.state] ?? r.state);
  return h("span", { class: "tag state-" + r.state, title: r.state === "came_back" ? `It was fixed, and is there again (episode ${r.episode})` : undefined }, text);
}
