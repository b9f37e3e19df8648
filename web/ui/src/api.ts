// The questions of proto/quantra/v1, asked with Connect's JSON: POST with the
// request's message; fields that are zero are not in the answer; 64-bit
// integers are strings.

export interface TimeRange { fromMs?: string; toMs?: string }
export interface Filter { focus?: string; ignore?: string; hide?: string; show?: string; showFrom?: string; tagFocus?: string; tagIgnore?: string }
export interface Selection { profileType: string; matchers: string; range: TimeRange; filter?: Filter; sampleMatchers?: string }
export interface Service { name: string; profileTypes?: string[]; versions?: string[]; instances?: number; profiles?: number; firstMs?: string; lastMs?: string }
export interface Label { name: string; value?: string }
export interface SeriesLine { labels?: Label[]; tMs?: number[]; value?: number[]; profiles?: number[] }
export interface SeriesResponse { stepMs?: string; lines?: SeriesLine[]; warnings?: string[] }
export interface Meta { profileType?: string; unit?: string; total?: number; profiles?: number; series?: number; range?: TimeRange; warnings?: string[]; samples?: number }
export interface Tree { names?: string[]; name?: number[]; level?: number[]; self?: number[]; total?: number[]; baseSelf?: number[]; baseTotal?: number[]; leftOut?: number; other?: number }
export interface FlameGraphResponse { meta?: Meta; tree?: Tree }
export interface TopRow { name?: string; file?: string; self?: number; total?: number; baseSelf?: number; baseTotal?: number }
export interface TopResponse { meta?: Meta; rows?: TopRow[] }
export interface LabelKey { key?: string; values?: { value?: string; total?: number }[] }
export interface SampleLabelsResponse { meta?: Meta; keys?: LabelKey[] }
export interface SandwichResponse { meta?: Meta; callers?: Tree; callees?: Tree }
export interface DiffResponse { base?: Meta; head?: Meta; tree?: Tree; rows?: TopRow[] }

/** Fault is an answer that is not one, with what to do about it. */
export class Fault extends Error {
  constructor(readonly code: string, message: string, readonly remedy: string) {
    super(message);
  }
}

const remedies: { [code: string]: string } = {
  invalid_argument: "Change the selection or the filter and try again.",
  unauthenticated: "Log in again.",
  permission_denied: "Whoever runs this server can grant it: the reason says which policy decided.",
  resource_exhausted: "The server is at its limit: choose a shorter range or wait a moment.",
  unavailable: "The server is starting or its disk is away. The page keeps trying.",
  deadline_exceeded: "Choose a shorter range or fewer services.",
  network: "Is quantraband running? The page keeps trying while live refresh is on.",
};

let reached = true;
let changed: (reached: boolean) => void = () => {};

/** onReach hears when the server is no longer reached, and when it is again. */
export function onReach(f: (reached: boolean) => void): void {
  changed = f;
}

function reach(now: boolean): void {
  if (now === reached) return;
  reached = now;
  changed(now);
}

let lost: () => void = () => {};

/** onLost hears that the server no longer knows who asks. */
export function onLost(f: () => void): void {
  lost = f;
}

let ahead = 0; // by how much the server's clock is ahead of ours, in ms

/** serverNow is the time by the clock of the server, whose times are compared with it. */
export function serverNow(): number {
  return Date.now() + ahead;
}

/** ask sends a request whose answer is JSON. An error is a Fault that names the request as what, with what to do by its code. */
export async function ask<T>(what: string, url: string, init: RequestInit, cures: { [code: string]: string } = remedies): Promise<T> {
  let res: Response;
  try {
    res = await fetch(url, init);
  } catch (e) {
    if ((e as Error).name === "AbortError") throw e;
    reach(false);
    throw new Fault("network", "The server does not answer.", remedies.network);
  }
  reach(true);
  const date = Date.parse(res.headers.get("Date") ?? "");
  if (Math.abs(date - serverNow()) > 2000) ahead = date - Date.now(); // it is told in whole seconds
  if (res.ok) return (await res.json()) as T;
  let code = "unknown", message = `${what}: HTTP ${res.status}`;
  try {
    const j = await res.json();
    code = j.code ?? code;
    message = j.message ?? message;
  } catch {
    // A proxy's page rather than our JSON: the status is all there is.
  }
  if (code === "unauthenticated") lost();
  throw new Fault(code, message, cures[code] ?? "Try again; if it stays, the server's log has the details.");
}

function call<T>(method: string, req: unknown, signal?: AbortSignal): Promise<T> {
  return ask(method, "/quantra.v1.QuerierService/" + method, {
    method: "POST",
    headers: { "Content-Type": "application/json", "Connect-Protocol-Version": "1" },
    body: JSON.stringify(req),
    signal,
  });
}

// v9 is before v10.
const natural = new Intl.Collator("en", { numeric: true });

export const api = {
  services: (range: TimeRange, s?: AbortSignal) => call<{ services?: Service[] }>("Services", { range }, s).then((r) => {
    for (const x of r.services ?? []) x.versions?.sort(natural.compare); // oldest first, as far as names tell
    return r;
  }),
  labelNames: (matchers: string, range: TimeRange, s?: AbortSignal) => call<{ names?: string[] }>("LabelNames", { matchers, range }, s),
  labelValues: (name: string, matchers: string, range: TimeRange, s?: AbortSignal) => call<{ values?: string[] }>("LabelValues", { name, matchers, range }, s),
  series: (selection: Selection, stepMs: number, groupBy: string[], s?: AbortSignal) => call<SeriesResponse>("Series", { selection, stepMs: String(stepMs), groupBy }, s),
  flame: (selection: Selection, maxNodes: number, s?: AbortSignal) => call<FlameGraphResponse>("FlameGraph", { selection, maxNodes }, s),
  top: (selection: Selection, s?: AbortSignal) => call<TopResponse>("Top", { selection }, s),
  sampleLabels: (selection: Selection, s?: AbortSignal) => call<SampleLabelsResponse>("SampleLabels", { selection }, s),
  sandwich: (selection: Selection, fn: string, s?: AbortSignal) => call<SandwichResponse>("Sandwich", { selection, function: fn }, s),
  diff: (base: Selection, head: Selection, maxNodes: number, s?: AbortSignal) => call<DiffResponse>("Diff", { base, head, normalize: true, maxNodes }, s),
};

/** exportURL is where a selection is downloaded. */
export function exportURL(format: string, sel: Selection, base?: Selection): string {
  const p = new URLSearchParams({ format, profile_type: sel.profileType, matchers: sel.matchers, from: sel.range.fromMs ?? "0", to: sel.range.toMs ?? "0" });
  for (const [k, v] of Object.entries(sel.filter ?? {})) if (v) p.set(k.replace(/[A-Z]/g, (c) => "_" + c.toLowerCase()), v);
  if (sel.sampleMatchers) p.set("sample_matchers", sel.sampleMatchers);
  if (base) {
    if (base.sampleMatchers) p.set("base_sample_matchers", base.sampleMatchers);
    p.set("base_matchers", base.matchers);
    p.set("base_from", base.range.fromMs ?? "0");
    p.set("base_to", base.range.toMs ?? "0");
  }
  return "/api/v1/export?" + p;
}
