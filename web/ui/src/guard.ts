// What docs/format/changes.md lets a person ask: what is proposed, how far each change is, what was measured of it. The fields are those
// of optimize.Change and judge.Verdict. Times are RFC 3339, durations nanoseconds; what is zero, empty or unknown may be left out.

import { ask } from "./api";
import { ms, type Estimate, type Money } from "./watch";

export interface Evidence { what: string; link: string }
export interface Stage { nodes?: number; percent?: number; dwell: number; deadline: number }
export interface Metric { name: string; better?: string; critical?: boolean; tolerate?: number; floor?: number }
export interface Plan { stages: Stage[]; metrics: Metric[] }
export interface Unit { id: string; zone?: string; version?: string; started?: string; state: string; stage: number; applied?: string; undone?: string; restarts?: number; note?: string; place?: boolean }
export interface Difference { before: Estimate; after: Estimate; change: Estimate; real: Estimate; p: number; q: number }
/** Compared is a function of which control and treated differ: control before, treated after. */
export interface Compared { function: string; was?: string; self: Difference; full: Difference; own: Difference; verdict: string; metric?: string; by?: string }
export interface MetricVerdict {
  name: string; better: string; critical?: boolean; decision: string; why?: string; before: number; after: number; effect: Estimate; difference: Estimate; worse: number;
  windows: number; control_windows: number; members: number; control_members: number; test?: string; p: number; p_harm: number; e: number;
}
export interface Verdict { decision: string; reason: string; metrics: MetricVerdict[]; functions: Compared[]; guilty?: string; warnings: string[]; at?: string }
export interface Period { from: string; to: string; on: boolean }
export interface Change {
  id: string; kind: string; service: string; subject?: string; spec?: unknown; sentence: string; evidence: Evidence[]; warnings: string[]; expected?: { [metric: string]: Estimate };
  saving: number; price?: Money; cost?: number;
  state: string; reason?: string; held?: string; needs_approval?: boolean; proposed_at?: string; started_at?: string; ended_at?: string; started_by?: string; approved_by?: string;
  rejected?: boolean; paused?: boolean; paused_by?: string; plan: Plan; stage: number; units: Unit[]; nodes?: { [state: string]: number }; stage_at?: string; stage_until?: string; deadline?: string; frozen_at?: string;
  periods: Period[]; replaced?: number; undo_to?: string; next_try?: string; tries?: number; verdict?: Verdict; saved?: { cores: Estimate; price?: Money };
}
export interface Event { seq: number; time: string; actor: string; what: string; note?: string; target?: string; stage: number; verdict?: Verdict; evidence: Evidence[] }
export interface Hold { by: string; at: string; note?: string; until?: string }
export interface Holds { paused?: Hold; incidents: { [name: string]: Hold } }
export interface Breaker { failures?: number; open_until?: string; trial?: string }
export interface Status { leader?: boolean; frozen?: string; policy: { name?: string; error?: string }; breakers: { [kind: string]: Breaker }; budget: { month?: string; spent?: number; limit?: number }; errors: string[]; places: Place[] }
/** Place is where changes of a service are made, and what was last said there: why nothing is proposed, what is, or why it cannot be asked. */
export interface Place { service: string; kind: string; place: string; says?: string; error?: string; at?: string }
/** Situation is what holds for all changes. */
export interface Situation { holds: Holds; status: Status }
export interface Answer extends Situation { changes: Change[] }
/** Planned is what would happen if a change were started now. */
export interface Planned { change: { id: string }; why?: string; targets: number; stages: number[]; nodes: string[]; controls: string[] }
/** Series is a metric of the nodes on both sides, a point with the middle of its window in ms. */
export interface Series { metric: Metric; members: { name: string; role: "treated" | "control"; points: [number, number][] }[] }
/** Course is what was measured in a stage, with times in ms: at is when the stage came into force, first when the change did anywhere. */
export interface Course { from: number; to: number; at: number; first: number; metrics: Series[]; periods: Period[]; warnings: string[] }
export interface Act { do: string; by: string; note?: string }

const cures: { [code: string]: string } = {
  invalid_argument: "Change what is asked for and try again.",
  permission_denied: "Ask whoever runs this server for access.",
  not_found: "It may be of another server, or no longer be kept.",
  failed_precondition: "Look at how far it is now, and decide again.",
  aborted: "Look at what it is now, and decide again.",
  unavailable: "The page keeps trying while it refreshes. Until then `quantraband changes pause` and the kill switch on the node still hold.",
  resource_exhausted: "Wait a moment.",
};

const base = "/api/v1/changes";
const none = { value: 0, low: 0, high: 0 };
const list = <T>(x: T[] | undefined | null): T[] => (Array.isArray(x) ? x : []);
const difference = (d: Partial<Difference> | undefined): Difference => ({ before: none, after: none, change: none, real: none, p: 1, q: 1, ...d });

// whole fills in what the pages read without asking.
function whole(c: Change): Change {
  return { ...c, saving: c.saving ?? 0, stage: c.stage ?? 0, evidence: list(c.evidence), warnings: list(c.warnings), units: list(c.units), periods: list(c.periods),
    plan: { ...c.plan, stages: list(c.plan?.stages), metrics: list(c.plan?.metrics) }, verdict: c.verdict ? judged(c.verdict) : undefined };
}

function judged(v: Verdict): Verdict {
  return { ...v, warnings: list(v.warnings), metrics: list(v.metrics).map((m) => ({ ...m, effect: { ...none, ...m.effect }, difference: { ...none, ...m.difference } })),
    functions: list(v.functions).map((f) => ({ ...f, self: difference(f.self), full: difference(f.full), own: difference(f.own) })) };
}

function situation(r: Partial<Situation>): Situation {
  return { holds: { ...r.holds, incidents: r.holds?.incidents ?? {} }, status: { ...r.status, policy: r.status?.policy ?? {}, breakers: r.status?.breakers ?? {}, budget: r.status?.budget ?? {}, errors: list(r.status?.errors), places: list(r.status?.places) } };
}

interface Measured {
  from: string; to: string; stage_at: string; metrics?: Metric[]; periods?: Period[]; warnings?: string[];
  members?: { name: string; treated?: boolean; applied?: string; series?: { [metric: string]: { from: string; to: string; value?: number }[] } }[];
}

function course(r: Measured): Course {
  const members = list(r.members), applied = members.filter((m) => m.treated).map((m) => ms(m.applied)).filter((t) => !isNaN(t));
  return { from: ms(r.from), to: ms(r.to), at: ms(r.stage_at), first: Math.min(ms(r.stage_at), ...applied), periods: list(r.periods), warnings: list(r.warnings),
    metrics: list(r.metrics).map((metric) => ({ metric, members: members.map((m) => ({ name: m.name, role: m.treated ? ("treated" as const) : ("control" as const), points: list(m.series?.[metric.name]).map((p): [number, number] => [(ms(p.from) + ms(p.to)) / 2, p.value ?? 0]) })) })) };
}

const most = "1000"; // that the server lists; a proposal may be older than many that have ended
const post = (what: string, path: string, body: unknown) => ask<{ change: Change }>(what, base + path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }, cures);
const one = (id: string) => "/" + encodeURIComponent(id);
const fresh = (s?: AbortSignal): RequestInit => ({ signal: s, cache: "no-store" });

export const guard = {
  list: (q: { [k: string]: string }, s?: AbortSignal): Promise<Answer> => {
    const query = new URLSearchParams({ ...q, limit: most }).toString();
    return ask<Partial<Answer>>("Changes", base + "?" + query, fresh(s), cures).then((r) => ({ ...situation(r), changes: list(r.changes).map(whole) }));
  },
  one: (id: string, s?: AbortSignal) => ask<{ change: Change; history?: Event[]; latest?: Verdict | null }>("Change", base + one(id), fresh(s), cures)
    .then((r) => ({ change: whole(r.change), history: list(r.history).map((e): Event => ({ ...e, stage: e.stage ?? 0, evidence: list(e.evidence), verdict: e.verdict ? judged(e.verdict) : undefined })), latest: r.latest ? judged(r.latest) : null })),
  course: (id: string, stage: number, s?: AbortSignal) => ask<Measured>("What was measured", `${base}${one(id)}/series?stage=${stage}`, fresh(s), cures).then(course),
  plan: () => ask<{ plan?: Planned[] }>("What would happen", base + "/plan", { method: "POST" }, cures).then((r) => list(r.plan)),
  act: (id: string, a: Act) => post("What was asked", one(id), a).then((r) => whole(r.change)),
  all: (what: "pause" | "resume", by: string, note = "") => post(what === "pause" ? "The pause" : "Going on", "/" + what, { by, note: note || undefined }),
};

/** acting says that something of it is in force, or may be, and is not proven. */
export function acting(c: Change): boolean {
  return c.state === "applying" || c.state === "dwelling" || c.state === "undoing";
}

/** ended says that nothing more is done unless somebody asks. */
export function ended(c: Change): boolean {
  return c.state === "done" || c.state === "undone" || c.state === "failed" || c.state === "withdrawn";
}

/** unapproved says that it was started, and waits for a person's approval. */
export function unapproved(c: Change): boolean {
  return c.state === "waiting" && !!c.needs_approval;
}

/** undecided says that a person is waited for. */
export function undecided(c: Change): boolean {
  return c.state === "proposed" || unapproved(c);
}

// What kind of change answers a kind of finding, and of which subjects.
const answers: { [finding: string]: { kind: string; subjects: string[] } } = { gc_pressure: { kind: "runtime", subjects: ["gc", ""] } };

/** answerable says that a kind of finding may have a change. */
export function answerable(kind: string): boolean {
  return kind in answers;
}

/** answeredBy is the kind of finding that a change answers; "" is none. */
export function answeredBy(c: Change): string {
  return Object.keys(answers).find((k) => answers[k].kind === c.kind && answers[k].subjects.includes(c.subject ?? "")) ?? "";
}

/** answerTo is the change that would mend what was found in a service: one that can still be decided or is under way before one that has ended. */
export function answerTo(kind: string, service: string, all: Change[]): Change | null {
  const a = answers[kind], fits = all.filter((c) => c.service === service && c.kind === a?.kind && a.subjects.includes(c.subject ?? "") && c.state !== "withdrawn");
  return fits.find((c) => !ended(c)) ?? fits.sort((x, y) => (ms(y.ended_at) || 0) - (ms(x.ended_at) || 0))[0] ?? null;
}

// How many changes wait for a decision, and who wants to know.
let waiting = 0;
let heard: (n: number) => void = () => {};

/** onWaiting hears how many changes wait for a decision. */
export function onWaiting(f: (n: number) => void): void {
  heard = f;
}

/** waits tells how many of all changes wait for a decision. */
export function waits(all: Change[]): void {
  const n = all.filter(undecided).length;
  if (n === waiting) return;
  waiting = n;
  heard(n);
}

/** Run is what the history says of the stages since the change was started last, by stage. */
export interface Run { at: number; verdict?: Verdict }

/** runOf finds in a history which stages there were, from when, and how each was judged. A verdict that leads to the next stage is
 * written together with it: it is of the stage that came into force last before it. */
export function runOf(c: Change, history: Event[]): Map<number, Run> {
  const out = new Map<number, Run>(), since = ms(c.started_at);
  let stage = -1;
  for (const e of history) {
    if (!isNaN(since) && ms(e.time) < since) continue;
    if (e.what === "stage" || e.what === "dwelling") {
      stage = e.stage;
      out.set(stage, { ...out.get(stage), at: ms(e.time) });
    } else if (e.what === "verdict" && e.verdict && stage >= 0) out.set(stage, { ...out.get(stage)!, verdict: e.verdict });
  }
  return out;
}
