// What docs/api.md lets a person ask of the server's node: its figures, who is let in, what the guard decided of them, what happened to
// files. Times are RFC 3339, durations nanoseconds.

import { ask } from "./api";

export interface Rates { messages_in_per_second: number; messages_out_per_second: number }
export interface Past { step_s: number; messages_in_per_second: number[]; messages_out_per_second: number[]; cpu_cores: number[] }
export interface Isolation { isolation: string; state: string; boundary?: string; text?: string; start_ns?: number; at?: string }
export interface Seats { all: number; taken: number; sessions: number; isolations: Isolation[] }
export interface Topic extends Rates { topic: string; heard: boolean; listeners: number; mesh: number; messages_in: number; messages_out: number; waiting: number; refused: { [reason: string]: number } }
export interface Figures extends Rates {
  running: boolean; id: string; version: string; time: string; since: string; reach: string; bytes_in_per_second: number; bytes_out_per_second: number; past: Past;
  process: { cpu_cores: number; memory_bytes: number; goroutines: number };
  peers: { all: number; levels: { [level: string]: number }; relayed: number; rtt_max_ns: number; known: number; table: number };
  pending: number; pending_bytes: number;
  counts: { accepted: number; dialed: number; refused: number; judged: number; denied: number; failed: number; lost: number };
  guard: { allowed: number; denied: number }; seats: Seats | null; topics: Topic[]; topics_total: number;
  files: { watched: boolean; events: { [severity: string]: number } }; faults: number;
}
export interface Peer extends Rates {
  id: string; session: string; address: string; transport: string; direction: string; relayed: boolean; since: string; trust: number; level: string; read_only: boolean; rtt_ns: number;
  bytes_in_per_second: number; bytes_out_per_second: number; streams: number; rights: number; agent?: string; messages_in: number; messages_out: number; in_flight: number; pending: number; topics: number; score: number;
}
export interface Peers { running: boolean; addresses: string[]; peers: Peer[]; total: number; away: { id: string; pending: number }[] }
export interface Decision { time: string; first: string; times: number; what: string; decision?: string; principal: string; action: string; resource: string; allowed: boolean; trust: number; level: string; policies: string[]; reason: string }
export interface FileEvent { time: string; kind: string; severity: string; path?: string; what?: string; from?: string; aspects?: string[]; text?: string }
export interface Happened { running: boolean; decisions: Decision[]; files: FileEvent[]; watched: boolean; faults: string[] }

const cures: { [code: string]: string } = {
  invalid_argument: "Change what is asked for and try again.",
  permission_denied: "It is for operators: an admin can grant the role.",
  not_found: "Look at who is connected now.",
  unavailable: "The page keeps trying while it refreshes.",
  resource_exhausted: "Wait a moment, or choose a longer refresh.",
};

const base = "/api/v1/node";
const list = <T>(x: T[] | undefined | null): T[] => (Array.isArray(x) ? x : []);

function get<T>(what: string, path: string, q: { [k: string]: string }, signal?: AbortSignal): Promise<T> {
  const query = new URLSearchParams(Object.entries(q).filter(([, v]) => v)).toString();
  return ask<T>(what, base + path + (query ? "?" + query : ""), { signal, cache: "no-store" }, cures);
}

/** node asks; null is that no node runs. */
export const node = {
  figures: (s?: AbortSignal) => get<Figures>("The node", "", {}, s).then((f) => (f.running ? { ...f, topics: list(f.topics), seats: f.seats ? { ...f.seats, isolations: list(f.seats.isolations) } : null } : null)),
  peers: (sort: string, s?: AbortSignal) => get<Peers>("The peers", "/peers", { sort, limit: "1000" }, s).then((p) => (p.running ? { ...p, addresses: list(p.addresses), peers: list(p.peers), away: list(p.away) } : null)),
  events: (refused: boolean, s?: AbortSignal) => get<Happened>("What happened", "/events", { refused: refused ? "true" : "", limit: "256" }, s)
    .then((e) => (e.running ? { ...e, decisions: list(e.decisions), files: list(e.files), faults: list(e.faults) } : null)),
  terminate: (id: string, reason: string) => ask<object>("The end of the session", `${base}/peers/${encodeURIComponent(id)}/terminate`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ reason }) }, cures),
};
