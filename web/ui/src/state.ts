// The URL is the state: every view is made from it, so every view can be shared
// and back and forward work. This file reads and writes it.

import type { Filter, Selection, Service, TimeRange } from "./api";

export type Params = URLSearchParams;

let changed: () => void = () => {};

/** onNavigate names who draws the page when the URL has changed. */
export function onNavigate(f: () => void): void {
  changed = f;
  addEventListener("popstate", f);
}

/** go is another page. */
export function go(url: string): void {
  if (url !== location.pathname + location.search) history.pushState(null, "", url);
  changed();
}

export function params(): Params {
  return new URLSearchParams(location.search);
}

/** link is a path with parameters, the empty ones left out. */
export function link(path: string, p: { [k: string]: string | null | undefined }): string {
  const u = new URLSearchParams();
  for (const k in p) if (p[k]) u.set(k, p[k]!);
  const s = pretty(u);
  return s ? path + "?" + s : path;
}

/** set changes parameters of this page; empty ones go. With replace, back skips what was. */
export function set(p: { [k: string]: string | null | undefined }, replace = false): void {
  const u = params();
  for (const k in p) {
    if (p[k]) u.set(k, p[k]!);
    else u.delete(k);
  }
  const s = pretty(u), url = location.pathname + (s ? "?" + s : "");
  if (url === location.pathname + location.search) return;
  if (replace) history.replaceState(null, "", url);
  else history.pushState(null, "", url);
  changed();
}

// pretty leaves characters readable that a query may hold as they are.
function pretty(u: Params): string {
  return u.toString().replaceAll("%3A", ":").replaceAll("%2F", "/").replaceAll("%2C", ",").replaceAll("%28", "(").replaceAll("%29", ")").replaceAll("%2A", "*");
}

// ---- time ----

const unitMs: { [u: string]: number } = { s: 1e3, m: 60e3, h: 3600e3, d: 86400e3, w: 604800e3 };

/** when reads "now", "now-15m" or Unix milliseconds; NaN if it is neither. */
export function when(text: string, now: number): number {
  const t = text.trim();
  if (/^\d{10,}$/.test(t)) return Number(t);
  const m = /^now(?:\s*-\s*(\d+(?:\.\d+)?)([smhdw]))?$/.exec(t);
  if (m) return now - (m[1] ? Number(m[1]) * unitMs[m[2]] : 0);
  return t ? Date.parse(t.replace(" ", "T")) : NaN;
}

export const ranges: [string, string][] = [
  ["now-5m", "Last 5 minutes"], ["now-15m", "Last 15 minutes"], ["now-30m", "Last 30 minutes"], ["now-1h", "Last hour"],
  ["now-3h", "Last 3 hours"], ["now-6h", "Last 6 hours"], ["now-12h", "Last 12 hours"], ["now-1d", "Last 24 hours"], ["now-7d", "Last 7 days"],
];

export interface Span { from: string; to: string; fromMs: number; toMs: number; live: boolean }

const usualFrom = "now-15m", youngFrom = "now-5m";
let defaultFrom = usualFrom; // where the URL names no range

/** serviceSpan is where to look for services: never shorter for their being young. */
export function serviceSpan(p: Params): Span {
  return p.get("from") || p.get("to") ? span(p) : span(new URLSearchParams({ from: usualFrom }));
}

/** fitDefault shortens the default range while all there is fits into a third
 * of it, so that a new server's first minutes are not a sliver at the right. */
export function fitDefault(services: Service[], now = Date.now()): void {
  const first = Math.min(...services.map((x) => Number(x.firstMs ?? 0)));
  defaultFrom = services.length && now - first < 295e3 ? youngFrom : usualFrom;
}

/** span is the time range of the URL. A relative range ends now. */
export function span(p: Params, prefix = "", now = Date.now()): Span {
  let from = p.get(prefix + "from") || (p.get(prefix + "to") ? usualFrom : defaultFrom), to = p.get(prefix + "to") || "now";
  let a = when(from, now), b = when(to, now);
  if (!(a < b)) {
    from = defaultFrom;
    to = "now";
    a = when(from, now);
    b = now;
  }
  return { from, to, fromMs: Math.floor(a), toMs: Math.ceil(b), live: to.includes("now") };
}

/** niceStep is the width of a point on a timeline. Steps are multiples of 10 s,
 * the window of an agent, so that each holds the same number of windows. */
export function niceStep(ms: number): number {
  const want = ms / 60;
  for (const s of [10, 20, 30, 60, 120, 300, 600, 1200, 3600, 7200, 21600]) if (s * 1000 >= want) return s * 1000;
  return 86400e3;
}

export function apiRange(s: { fromMs: number; toMs: number }): TimeRange {
  return { fromMs: String(s.fromMs), toMs: String(s.toMs) };
}

// ---- labels ----

export type Op = "=" | "!=" | "=~" | "!~";
export interface Matcher { name: string; op: Op; value: string }

export const serviceLabel = "service_name";
export const versionLabel = "service_version";
export const instanceLabel = "service_instance_id";

/** parseMatchers reads {a="x", b!~"y"}. What it cannot read it leaves to the server to complain about. */
export function parseMatchers(s: string): Matcher[] {
  const out: Matcher[] = [];
  const re = /([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*("(?:[^"\\]|\\.)*")/g;
  for (let m = re.exec(s); m; m = re.exec(s)) {
    try {
      out.push({ name: m[1], op: m[2] as Op, value: JSON.parse(m[3]) as string });
    } catch {
      out.push({ name: m[1], op: m[2] as Op, value: m[3].slice(1, -1) });
    }
  }
  return out;
}

export function formatMatchers(ms: Matcher[]): string {
  return ms.length ? "{" + ms.map((m) => m.name + m.op + JSON.stringify(m.value)).join(", ") + "}" : "";
}

/** matchersOf is the matchers of a service and more conditions, as the API has them. */
export function matchersOf(service: string, labels: string): string {
  const ms = parseMatchers(labels);
  if (service) ms.unshift({ name: serviceLabel, op: "=", value: service });
  return formatMatchers(ms);
}

/** samplesOf is the condition on samples' own labels as the API has it. An id alone, as it is
 * pasted from a tracing page, is that trace or span. */
export function samplesOf(p: Params): string {
  const s = (p.get("samples") ?? "").trim();
  if (/^[0-9a-f]{32}$/.test(s)) return formatMatchers([{ name: "trace_id", op: "=", value: s }]);
  if (/^[0-9a-f]{16}$/.test(s)) return formatMatchers([{ name: "span_id", op: "=", value: s }]);
  return s;
}

/** onlySamples is the samples parameter with one more value: of a label there is one. */
export function onlySamples(p: Params, name: string, value: string): string {
  return formatMatchers([...parseMatchers(samplesOf(p)).filter((m) => m.name !== name), { name, op: "=", value }]);
}

/** filters are pprof's, by the names pprof has for them, and the one without a field, samples, is the store's. */
export const filters: { param: string; field?: keyof Filter; text: string; hint?: string }[] = [
  { param: "samples", text: "only samples of a trace, a span or labels", hint: 'a trace id, or trace_id="5f3a…"' },
  { param: "focus", field: "focus", text: "only stacks through" },
  { param: "ignore", field: "ignore", text: "no stacks through" },
  { param: "hide", field: "hide", text: "without these frames" },
  { param: "show", field: "show", text: "only these frames" },
  { param: "show_from", field: "showFrom", text: "without the callers of" },
  { param: "tag_focus", field: "tagFocus", text: "only samples with label", hint: "endpoint=/checkout" },
  { param: "tag_ignore", field: "tagIgnore", text: "no samples with label", hint: "endpoint=/health" },
];

/** sidesOf is what to compare when nobody said: the newest version with the one
 * before it, and with fewer than two the first half of the range with the second. */
export function sidesOf(versions: string[], labels: string): { [k: string]: string } {
  const rest = parseMatchers(labels).filter((m) => m.name !== versionLabel), n = versions.length;
  const at = (v: string) => formatMatchers([...rest, { name: versionLabel, op: "=" as const, value: v }]);
  if (n > 1) return { "a.labels": at(versions[n - 2]), "b.labels": at(versions[n - 1]) };
  return { "a.labels": formatMatchers(rest), "b.labels": formatMatchers(rest), split: "1" };
}

export function selection(type: string, service: string, labels: string, s: Span, p?: Params): Selection {
  const sel: Selection = { profileType: type, matchers: matchersOf(service, labels), range: apiRange(s) };
  if (p) {
    const filter: Filter = {};
    for (const f of filters) if (f.field && p.get(f.param)) filter[f.field] = p.get(f.param)!;
    if (Object.keys(filter).length) sel.filter = filter;
    if (samplesOf(p)) sel.sampleMatchers = samplesOf(p);
  }
  return sel;
}

/** exactly is a regular expression for one name and no other. */
export function exactly(name: string): string {
  return "^" + name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&") + "$";
}
