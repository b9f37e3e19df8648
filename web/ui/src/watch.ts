// What docs/format/findings.md lets a person ask: what was found, one finding with its
// history, and how the analysis is. Times are RFC 3339; what is zero, empty or unknown may be left out.

import { ask } from "./api";

export interface Estimate { value: number; low: number; high: number }
export interface Money { amount: number; low: number; high: number; currency: string; basis: string }
/** Chosen names profiles of the finding's service, and samples in them by their own labels. */
export interface Chosen { type: string; from: string; to: string; labels?: { [k: string]: string }; samples?: { [k: string]: string } }
export interface Moved { function: string; before: number; after: number; why?: string }
export interface ChartPoint { time: string; value: number; low: number; high: number }
export interface Cause { label?: string; value?: string; event?: string; share: number }
export interface Finding {
  kind: string; service: string; function?: string; subject?: string; type: string; metric: string;
  sentence: string; next?: string; unit: string; before: Estimate; after: Estimate; change: Estimate;
  since?: string; from?: string; to?: string; cause?: Cause; samples: number; instances: number; test?: string; p: number; q: number;
  warnings: string[]; also: Moved[]; chart: ChartPoint[]; base?: Chosen; head?: Chosen; saving: number; saving_unit?: string; price?: Money;
}
export interface Saved { amount: number; unit: string; price?: Money }
export interface Told { episode: number; at?: string; error?: string }
/** Item is watch.Record: a finding with its life. */
export interface Item {
  id: string; state: string; finding: Finding; first_seen?: string; last_seen?: string; episode: number;
  muted_until?: string; gone_since?: string; fixed_at?: string; saved?: Saved; covered_by?: string; alerts?: { [channel: string]: Told };
}
export interface Event { time: string; actor: string; what: string; note?: string }
export interface SetAside { service?: string; type?: string; from?: string; to?: string; reason?: string; at?: string }
export interface Analysis {
  leader?: boolean; analysed_to?: string; behind_seconds: number; services: number; series: number; passes: number; last_pass_ms?: number;
  latency_p50_ms?: number; latency_p99_ms?: number; set_aside: SetAside[];
}
export interface Action { do: string; by?: string; note?: string; until?: string }

/** ms is a time of the API; NaN is none. */
export function ms(t: string | undefined): number {
  return t && !t.startsWith("0001") ? Date.parse(t) : NaN;
}

const cures: { [code: string]: string } = {
  invalid_argument: "Change what is asked for and try again.",
  permission_denied: "Ask whoever runs this server for access.",
  not_found: "It may be of another server, or no longer be kept.",
  aborted: "Look at what it is now, and decide again.",
  unavailable: "The page keeps trying while it refreshes.",
  resource_exhausted: "Wait a moment.",
};

const base = "/api/v1/findings";
const none = { value: 0, low: 0, high: 0 };
const list = <T>(x: T[] | undefined | null): T[] => (Array.isArray(x) ? x : []);

// whole fills in what the page reads without asking.
function whole(r: Item): Item {
  const f = r.finding;
  return { ...r, finding: { ...f, before: { ...none, ...f.before }, after: { ...none, ...f.after }, change: { ...none, ...f.change }, samples: f.samples ?? 0, instances: f.instances ?? 0, p: f.p ?? 1, q: f.q ?? 1,
    warnings: list(f.warnings), also: list(f.also), chart: list(f.chart), saving: f.saving ?? 0 } };
}

function status(a: Partial<Analysis> | undefined): Analysis {
  return { behind_seconds: 0, services: 0, series: 0, passes: 0, ...a, set_aside: list(a?.set_aside) };
}

export const watch = {
  list: (q: { [k: string]: string }, s?: AbortSignal) => {
    const query = new URLSearchParams(Object.entries(q).filter(([, v]) => v)).toString();
    return ask<{ findings?: Item[]; analysis?: Analysis }>("Findings", base + (query ? "?" + query : ""), { signal: s, cache: "no-store" }, cures)
      .then((r) => ({ findings: list(r.findings).map(whole), analysis: status(r.analysis) }));
  },
  one: (id: string, s?: AbortSignal) => ask<{ finding: Item; history?: Event[] }>("Finding", base + "/" + encodeURIComponent(id), { signal: s, cache: "no-store" }, cures)
    .then((r) => ({ finding: whole(r.finding), history: list(r.history) })),
  act: (id: string, a: Action) => ask<{ finding: Item }>("What was asked", base + "/" + encodeURIComponent(id), { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(a) }, cures)
    .then((r) => whole(r.finding)),
};
