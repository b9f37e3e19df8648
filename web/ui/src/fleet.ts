// What docs/format/agents.md lets a person ask: who the agents are, leases, and
// what a program's goroutines do. Times are RFC 3339, fields that are zero may be missing.

import { ask } from "./api";

/** Settings of a program; 2^63-1 bytes, which a double rounds up, is no memory limit. */
export interface Settings { gogc?: number; gomemlimit?: number; gomaxprocs?: number; cpu_rate?: number }
export interface Lease extends Settings { id: string; expires: string; in_force?: boolean; refused?: string }
export interface Cost {
  cpu_percent?: number; cpu_doubt_percent?: number; core_percent?: number; signal_ns?: number; memory_bytes?: number; bucket_bytes?: number; bytes_per_minute?: number;
  budget?: { cpu_percent?: number; memory_bytes?: number; bytes_per_minute?: number };
}
/** Status is agent.Status. */
export interface Status {
  enabled?: boolean; uploaded?: number; uploaded_bytes?: number; last_upload?: string; failed?: number; rejected?: number; dropped?: number;
  queued?: number; queued_bytes?: number; spooled?: number; spooled_bytes?: number; spool_error?: string; gaps?: number; last_gap?: string; last_error?: string;
  region?: string; region_source?: string; server?: string; key_id?: string; cpu_rate?: number; types?: string;
  shed: string[]; steps: { at?: string; what?: string }[]; cost: Cost; warnings: string[]; sources?: { [name: string]: unknown };
}
export interface Agent {
  service: string; version?: string; instance: string; region?: string; labels?: { [k: string]: string };
  agent?: string; go?: string; os?: string; pid?: number; started?: string;
  settings: Settings; lease?: string; lease_error?: string; optimizer: boolean; status: Status;
  seen: string; online: boolean; polling?: boolean; signed_by?: string; granted?: Lease;
  tasks?: Program; // it is a Rust program whose tasks the server watches: there is no agent in it
}
/** Program is a Rust program with console-subscriber, of ingest/console. */
export interface Program {
  service: string; instance: string; version?: string; labels: { [k: string]: string }; url: string;
  online: boolean; connected?: string; seen?: string; paused: boolean; last_error?: string; warnings?: { [code: string]: number };
}

export interface Frame { func: string; file?: string; line?: number }
export interface Group {
  count: number; state: string; wait_max_s?: number; wait_min_s?: number; locked?: number; leaked?: number;
  stack: Frame[]; creator?: Frame; parents?: { [entry: string]: number }; ids?: number[];
  // Of tasks only: sums since each was spawned, and how many have which warning.
  busy_ns?: number; scheduled_ns?: number; idle_ns?: number; polls?: number; wakes?: number; self_wakes?: number; wakers?: number; warnings?: { [code: string]: number };
}
export interface Snapshot {
  time: string; took_ns: number; detail: "full" | "counts"; total: number; truncated?: boolean; groups: Group[];
  runtime?: string; dropped_events?: { tasks: number; resources: number; async_ops: number }; left_out?: number; // of tasks only
}

export interface Times {
  lifetime_ns: number; run_ns: number; runnable_ns: number; runnable_max_ns: number; syscall_ns: number; blocked_ns?: { [reason: string]: number } | null;
  unknown_ns?: number; assist_ns: number; runs: number;
}
export interface TraceGroup extends Times { entry: string; system?: boolean; count: number }
export interface TraceSummary extends Times {
  window_ns: number; procs: number; events: number; goroutines: number; gc: { cycles: number; mark_ns: number; stw_ns: number; stw_max_ns: number; stw_count: number };
  groups: TraceGroup[] | null; truncated?: boolean; warnings?: string[] | null;
}

const cures: { [code: string]: string } = {
  invalid_argument: "Change what is asked for and try again.",
  permission_denied: "Ask whoever runs this server for access.",
  not_found: "Its program has ended, or its agent has not asked this server yet.",
  refused: "",
  failed: "The program's own log may say more.",
  deadline_exceeded: "The program may stand still, or be cut off.",
  unavailable: "The page keeps trying while it refreshes.",
  resource_exhausted: "Wait a moment.",
  unimplemented: "",
};

const base = "/api/v1/agents", tasks = "/api/v1/tasks";

function get<T>(what: string, path: string, q: { [k: string]: string }, signal?: AbortSignal, under = base): Promise<T> {
  return ask(what, url(path, q, under), { signal, cache: "no-store" }, cures);
}

function post<T>(what: string, path: string, body: string): Promise<T> {
  return ask(what, base + path, { method: "POST", headers: { "Content-Type": "application/json" }, body }, cures);
}

function url(path: string, q: { [k: string]: string }, under = base): string {
  const s = new URLSearchParams(Object.entries(q).filter(([, v]) => v)).toString();
  return under + path + (s ? "?" + s : "");
}

const list = <T>(x: unknown): T[] => (Array.isArray(x) ? (x as T[]) : []);
const object = (x: unknown): object => (x && typeof x === "object" ? x : {});

export const fleet = {
  agents: (service: string, s?: AbortSignal) => get<{ agents?: Agent[] }>("Agents", "", { service }, s).then((r) => list<Agent>(r.agents).map(whole)),
  lease: (a: Agent, settings: Settings, time: string) => post<{ lease: Lease }>("Lease", "/lease", leaseBody(a, settings, time)),
  release: (a: Agent) => post<object>("Release", "/release", JSON.stringify({ service: a.service, instance: a.instance })),
  goroutines: (service: string, instance: string, full: boolean, s?: AbortSignal) => get<Snapshot>("Goroutines", "/goroutines", { service, instance, full: full ? "true" : "" }, s).then(grouped),
  /** programs are the Rust programs whose tasks are watched; none where the server has no answer, as agents are shown all the same. */
  programs: (service: string) => get<{ programs?: Program[] }>("Programs", "", { service }, undefined, tasks).then((r) => list<Program>(r.programs).map(asAgent), () => []),
  tasks: (service: string, instance: string, s?: AbortSignal) => get<Snapshot>("Tasks", "/snapshot", { service, instance }, s, tasks).then(grouped),
  trace: (service: string, instance: string, seconds: number, s?: AbortSignal) => get<TraceSummary>("Trace", "/trace", { service, instance, seconds: String(seconds) }, s),
  rawTrace: (service: string, instance: string, seconds: number) => url("/trace", { service, instance, seconds: String(seconds), format: "raw" }),
};

function grouped(r: Snapshot): Snapshot {
  return { ...r, groups: list<Group>(r.groups).map((g) => ({ ...g, stack: list<Frame>(g.stack) })) };
}

// asAgent lets a page show a program beside those that have an agent.
function asAgent(p: Program): Agent {
  const { service, instance, version, labels, online } = p;
  return { ...whole({ service, instance, version, labels, online } as Agent), started: p.connected, seen: p.seen ?? "", optimizer: false, tasks: p };
}

// whole fills in what a page reads without asking. The server keeps a status as it came: what is another's is left out.
function whole(a: Agent): Agent {
  const s = object(a.status) as Partial<Status>;
  return { ...a, settings: a.settings ?? {}, status: { ...s, shed: list<string>(s.shed).map(String), steps: list<{ at?: string; what?: string }>(s.steps), warnings: list<string>(s.warnings).map(String), cost: object(s.cost) as Cost } };
}

/** unlimited is a memory limit that is none. */
export const unlimited = 2 ** 63;

// JSON.stringify cannot write 2^63-1.
function leaseBody(a: Agent, s: Settings, time: string): string {
  return JSON.stringify({ service: a.service, instance: a.instance, for: time, ...s }).replace(/"gomemlimit":9223372036854776000/, '"gomemlimit":9223372036854775807');
}
