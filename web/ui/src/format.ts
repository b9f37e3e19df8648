// Values and times as a person reads them, and profile types by the names a
// person calls them.

const siUnits = ["", "k", "M", "G", "T"];
const binUnits = ["B", "KiB", "MiB", "GiB", "TiB"];

function digits(v: number): string {
  const a = Math.abs(v);
  return a >= 100 ? v.toFixed(0) : a >= 10 ? v.toFixed(1) : v.toFixed(2);
}

function trim(s: string): string {
  return s.includes(".") ? s.replace(/\.?0+$/, "") : s;
}

function scaled(v: number, base: number, units: string[], sep: string): string {
  let i = 0;
  while (Math.abs(v) >= base && i < units.length - 1) {
    v /= base;
    i++;
  }
  return trim(i === 0 && Number.isInteger(v) ? String(v) : digits(v)) + sep + units[i];
}

/** value is v, in a profile's unit, as 1.25 s, 12.3 MiB or 4.5k. */
export function value(v: number, unit: string): string {
  const sign = v < 0 ? "−" : "";
  v = Math.abs(v);
  switch (unit) {
    case "nanoseconds": {
      if (v === 0) return "0 s";
      if (v >= 3600e9) return sign + trim(digits(v / 3600e9)) + " h";
      if (v >= 60e9) return sign + trim(digits(v / 60e9)) + " min";
      if (v >= 1e9) return sign + trim(digits(v / 1e9)) + " s";
      if (v >= 1e6) return sign + trim(digits(v / 1e6)) + " ms";
      if (v >= 1e3) return sign + trim(digits(v / 1e3)) + " µs";
      return sign + trim(digits(v)) + " ns";
    }
    case "bytes":
      return sign + scaled(v, 1024, binUnits, " ");
    case "cores":
      return sign + (v >= 1 || v === 0 ? trim(digits(v)) + (v === 1 ? " core" : " cores") : trim(digits(v * 1000)) + " mcores");
    case "bytes/s":
      return sign + scaled(v, 1024, binUnits, " ") + "/s";
    case "count/s":
      return sign + scaled(v, 1000, siUnits, " ").trim() + "/s";
    case "seconds/s":
      return value(v * 1e9, "nanoseconds").replace(/^0 s$/, "0 ms") + "/s";
  }
  return sign + scaled(v, 1000, siUnits, " ").trim() + (unit && unit !== "count" ? " " + unit : "");
}

/** percent is a share of 1 as 12.3 %. */
export function percent(f: number): string {
  if (!isFinite(f)) return "–";
  const p = f * 100, a = Math.abs(p);
  if (a > 0 && a < 0.005) return (p < 0 ? "−" : "") + "<0.01 %";
  return (p < 0 ? "−" : "") + (a >= 10 ? a.toFixed(1) : a.toFixed(2)).replace(/^100\.0$/, "100") + " %";
}

/** points is a change in percentage points, with its sign. */
export function points(f: number): string {
  const p = f * 100, a = Math.abs(p);
  return (p > 0 ? "+" : p < 0 ? "−" : "±") + (a >= 10 ? a.toFixed(1) : a.toFixed(2)) + " pp";
}

export function count(n: number, one: string, many = one + "s"): string {
  return n.toLocaleString("en") + " " + (n === 1 ? one : many);
}

export interface TypeInfo {
  id: string;
  name: string;
  group: string;
  unit: string;
  /** gauge: each profile is a state, so profiles are averaged; else they add up over time. */
  gauge: boolean;
  /** noun completes "x % of ...". */
  noun: string;
}

const known: { [k: string]: [string, string, boolean, string] } = {
  "process_cpu:cpu": ["CPU time", "CPU", false, "CPU"],
  "process_cpu:samples": ["CPU samples", "CPU", false, "samples"],
  "memory:alloc_space": ["Allocated bytes", "Memory", false, "allocated bytes"],
  "memory:alloc_objects": ["Allocated objects", "Memory", false, "allocations"],
  "memory:inuse_space": ["Live heap bytes", "Memory", true, "the live heap"],
  "memory:inuse_objects": ["Live heap objects", "Memory", true, "live objects"],
  "goroutine:goroutine": ["Goroutines", "Concurrency", true, "goroutines"],
  "goroutine:goroutines": ["Goroutines", "Concurrency", true, "goroutines"],
  "goroutines:goroutine": ["Goroutines", "Concurrency", true, "goroutines"],
  "goroutines:goroutines": ["Goroutines", "Concurrency", true, "goroutines"],
  "mutex:delay": ["Lock wait", "Concurrency", false, "lock wait"],
  "mutex:contentions": ["Lock contentions", "Concurrency", false, "contentions"],
  "block:delay": ["Blocked time", "Concurrency", false, "blocked time"],
  "block:contentions": ["Blocking events", "Concurrency", false, "blocking events"],
  "lock:wait": ["Named locks: wait", "Concurrency", false, "lock wait"],
  "lock:hold": ["Named locks: hold", "Concurrency", false, "time that locks are held"],
  "lock:contentions": ["Named locks: contentions", "Concurrency", false, "contentions"],
  "lock:acquisitions": ["Named locks: acquisitions", "Concurrency", false, "acquisitions"],
  "goroutineleak:goroutineleak": ["Leaked goroutines", "Concurrency", true, "leaked goroutines"],
  "tokio_tasks:busy": ["Tasks: busy time", "Tasks", false, "the time that tasks are polled"],
  "tokio_tasks:scheduled": ["Tasks: time waited for a thread", "Tasks", false, "time waited for a thread"],
  "tokio_tasks:tasks": ["Tasks", "Tasks", true, "tasks"],
  "tokio_tasks:polls": ["Tasks: polls", "Tasks", false, "polls"],
  "tokio_tasks:wakes": ["Tasks: wakes", "Tasks", false, "wakes"],
  "tokio_tasks:self_wakes": ["Tasks: wakes by themselves", "Tasks", false, "wakes by themselves"],
  "tokio_tasks:spawned": ["Tasks: spawned", "Tasks", false, "spawned tasks"],
  "tokio_tasks:ended": ["Tasks: ended", "Tasks", false, "ended tasks"],
  "runtime:process_cpu": ["Process CPU", "Runtime", false, "the process's CPU"],
  "runtime:gc_cpu": ["Garbage collection CPU", "Runtime", false, "GC CPU"],
  "runtime:heap_live": ["Live heap", "Runtime", true, "the live heap"],
  "runtime:heap_goal": ["Heap goal", "Runtime", true, "the heap goal"],
  "runtime:memory": ["Memory by class", "Runtime", true, "memory"],
  "runtime:memory_limit": ["Memory limit", "Runtime", true, "the memory limit"],
  "runtime:goroutines": ["Goroutines by state", "Runtime", true, "goroutines"],
  "runtime:gomaxprocs": ["GOMAXPROCS", "Runtime", true, "GOMAXPROCS"],
  "runtime:sched_latency": ["Scheduling latencies", "Runtime", false, "schedulings"],
  "runtime:sched_latency_time": ["Time waited for a processor", "Runtime", false, "time waited for a processor"],
  "runtime:mutex_wait": ["Time waited for mutexes", "Runtime", false, "time waited for mutexes"],
  "runtime:agent_cpu": ["Agent: CPU", "Agent", false, "the agent's CPU"],
  "runtime:agent_memory": ["Agent: memory", "Agent", true, "the agent's memory"],
  "runtime:agent_sent": ["Agent: bytes sent", "Agent", false, "bytes sent"],
  "runtime:agent_rate": ["Agent: sampling rate", "Agent", true, "the sampling rate"],
  "runtime:windows": ["Agent: windows", "Agent", false, "windows"],
};
const order = Object.keys(known);

export function typeInfo(id: string): TypeInfo {
  const f = id.split(":");
  const k = known[f[0] + ":" + f[1]];
  const unit = f[2] ?? "";
  if (k) return { id, name: k[0], group: k[1], unit, gauge: k[2], noun: k[3] };
  const name = f.length > 1 ? `${f[0]} · ${f[1].replaceAll("_", " ")}` : id;
  return { id, name, group: "Other", unit, gauge: (f[1] ?? "").startsWith("inuse"), noun: (f[1] ?? id).replaceAll("_", " ") };
}

/** sortTypes puts what people look at first, first. */
export function sortTypes(ids: string[]): string[] {
  const rank = (id: string) => {
    const f = id.split(":"), i = order.indexOf(f[0] + ":" + f[1]);
    return i < 0 ? order.length : i;
  };
  return [...ids].sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
}

/** rate is how a series of a type is drawn: the factor on each point's value, and the unit. */
export function rate(t: TypeInfo, stepMs: number): { unit: string; of: (v: number, profiles: number) => number } {
  const s = stepMs / 1000;
  if (t.gauge) return { unit: t.unit, of: (v, n) => v / Math.max(1, n) };
  if (t.unit === "nanoseconds") {
    const unit = /^(process_cpu|runtime:\w+_cpu):/.test(t.id) ? "cores" : "seconds/s";
    return { unit, of: (v) => v / 1e9 / s };
  }
  return { unit: t.unit === "bytes" ? "bytes/s" : "count/s", of: (v) => v / s };
}

const pad = (n: number) => String(n).padStart(2, "0");

export function clock(ms: number, seconds = true): string {
  const d = new Date(ms);
  return pad(d.getHours()) + ":" + pad(d.getMinutes()) + (seconds ? ":" + pad(d.getSeconds()) : "");
}

export function stamp(ms: number): string {
  const d = new Date(ms);
  return `${d.getFullYear()}-${pad(d.getMonth() + 1)}-${pad(d.getDate())} ${clock(ms)}`;
}

export function ago(ms: number, now: number): string {
  const s = Math.max(0, Math.round((now - ms) / 1000));
  if (s < 5) return "just now";
  if (s < 90) return s + " s ago";
  if (s < 5400) return Math.round(s / 60) + " min ago";
  if (s < 48 * 3600) return Math.round(s / 3600) + " h ago";
  return Math.round(s / 86400) + " days ago";
}

/** remaining is a time that is left, as 9 min 5 s. */
export function remaining(ms: number): string {
  const s = Math.max(0, Math.round(ms / 1000));
  return s < 60 ? s + " s" : s < 3600 ? `${Math.floor(s / 60)} min${s < 600 ? ` ${s % 60} s` : ""}` : `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

/** shortName is a Go function without the path of its package: cache.(*LRU).Get. */
export function shortName(name: string): string {
  let end = name.indexOf("[");
  if (end < 0) end = name.length;
  const i = name.lastIndexOf("/", end);
  return i < 0 || name.includes(" ") ? name : name.slice(i + 1);
}

/** packageOf is the package of a function's name: up to the first dot after the last slash. */
export function packageOf(name: string): string {
  let end = name.search(/[[( ]/);
  if (end < 0) end = name.length;
  const slash = name.lastIndexOf("/", end);
  const dot = name.indexOf(".", slash + 1);
  if (dot > 0) return name.slice(0, dot);
  const colons = name.lastIndexOf("::");
  return colons > 0 ? name.slice(0, colons) : "";
}
