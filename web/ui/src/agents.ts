// Who profiles: each agent, how it is, what it costs its program, what it leaves out
// to keep its budget, and the settings that it was given for a time.

import { serverNow } from "./api";
import { Banner } from "./controls";
import { copy, h, icon, pick, rebuild, toast } from "./dom";
import { fleet, type Agent } from "./fleet";
import { ago, count, remaining, stamp, value } from "./format";
import { gogcText, leaseDialog, memoryText, rateText } from "./lease";
import { agentCard } from "./services";
import { link, params, set } from "./state";
import type { Page } from "./main";

const step = 200; // rows drawn at first, and with each "show more"

interface Column { key: string; head: string; title: string; sort: (a: Agent, b: Agent) => number; cell: (a: Agent) => (Node | string | null)[] }
type Child = Node | string | null;

const share = (now = 0, most = 0) => (most > 0 ? now / most : now > 0 ? 1e-9 * now : 0);
const cpu = (a: Agent) => share(a.status.cost.cpu_percent, a.status.cost.budget?.cpu_percent);
const memory = (a: Agent) => share(a.status.cost.memory_bytes, a.status.cost.budget?.memory_bytes);
const sent = (a: Agent) => share(a.status.cost.bytes_per_minute, a.status.cost.budget?.bytes_per_minute);
const waiting = (a: Agent) => (a.status.queued_bytes ?? 0) + (a.status.spooled_bytes ?? 0);
// An error stays in the status after a success; it matters while it is the latest news.
const failing = (a: Agent) => !!a.status.last_error && ((a.status.queued ?? 0) + (a.status.spooled ?? 0) > 0 || !a.status.uploaded);
const trouble = (a: Agent) => (failing(a) ? 1000 : 0) + (a.status.spool_error ? 1000 : 0) + (a.status.dropped ? 500 : 0) + (a.status.rejected ? 200 : 0) + a.status.warnings.length * 100 + Math.min(99, a.status.gaps ?? 0);
const left = (a: Agent) => (a.granted ? Date.parse(a.granted.expires) - serverNow() : -1);
const key = (a: Agent) => a.service + "/" + a.instance;
const seen = (a: Agent) => ago(Date.parse(a.seen), serverNow());
const percent = (v: number) => (v >= 10 ? v.toFixed(1) : v.toFixed(2)) + " %";
const bytes = (v = 0) => value(v, "bytes");
const time = (t?: string) => (t && !t.startsWith("0001") ? Date.parse(t) : NaN);

/** meter is what is used of what may be; doubt is how far off the number may be, as a lighter part on both of its sides. */
function meter(now: number | undefined, most: number | undefined, show: (v: number) => string, doubt = 0): HTMLElement {
  if (now === undefined || (!now && !most)) return h("span", { class: "muted", title: "Not measured yet" }, "–"); // as before the first window
  const pct = (v: number) => (Math.min(1, Math.max(0, most ? v / most : 0)) * 100).toFixed(1) + "%";
  const title = `${show(now)}${doubt ? ` ± ${show(doubt)}` : ""}${most ? ` of ${show(most)} allowed` : ", without a bound"}`;
  return h("div", { class: "meter" + (most && now - doubt > most ? " over" : ""), title },
    h("span", null, show(now), doubt ? h("span", { class: "muted" }, ` ±${show(doubt).replace(" %", "")}`) : null),
    most ? h("div", { class: "meter-bar" }, h("i", { style: `width:${pct(now)}` }), doubt ? h("b", { style: `left:${pct(now - doubt)};right:calc(100% - ${pct(now + doubt)})` }) : null) : null);
}

export class AgentsPage implements Page {
  readonly title = "Agents";
  readonly every = 5000;
  readonly el: HTMLElement;
  private banner = new Banner();
  private service = h("div", null);
  private filter = h("input", { class: "input filter-services", type: "search", placeholder: "Filter agents", spellcheck: "false", "aria-label": "Filter agents" });
  private facts = h("span", { class: "muted agents-facts", role: "status" });
  private list = h("div", { class: "agents", role: "table", "aria-label": "Agents" });
  private ctl: AbortController | null = null;
  private agents: Agent[] | null = null;
  private most = step;
  private soon = 0;

  constructor() {
    this.filter.value = params().get("q") ?? "";
    this.filter.addEventListener("input", () => set({ q: this.filter.value }, true));
    this.el = h("div", { class: "page" }, h("div", { class: "page-head" }, h("h1", null, "Agents"), this.filter, this.service, h("div", { class: "grow" }), this.facts), this.banner.el, this.list);
    this.list.append(...Array.from({ length: 3 }, () => h("div", { class: "skeleton row-skeleton" })));
  }

  destroy(): void {
    this.ctl?.abort();
    clearTimeout(this.soon);
  }

  update(): void {
    if (this.agents) this.draw();
    else this.tick();
  }

  tick(): void {
    this.ctl?.abort();
    const ctl = (this.ctl = new AbortController());
    fleet.agents("", ctl.signal).then((agents) => {
      this.banner.clear();
      this.agents = agents;
      this.draw(true);
    }, (e) => {
      if (ctl.signal.aborted) return;
      if (!this.agents) this.list.replaceChildren();
      this.banner.fail(e, () => this.tick());
    });
  }

  // later looks again soon: an agent takes a moment to follow.
  private later(): void {
    this.tick();
    clearTimeout(this.soon);
    this.soon = window.setTimeout(() => this.tick(), 1200);
  }

  private draw(fresh = false): void {
    const agents = this.agents!, p = params(), service = p.get("service") ?? "", names = [...new Set(agents.map((a) => a.service))].sort();
    rebuild(this.service, () => [pick("Service", service || "All services", () => [{ text: "All services", checked: !service, run: () => set({ service: "" }) }, ...names.map((n) => ({ text: n, checked: n === service, run: () => set({ service: n }) }))])]);
    const chosen = getSelection();
    if (fresh && chosen && !chosen.isCollapsed && this.list.contains(chosen.anchorNode)) return; // somebody is about to copy what it says
    const q = this.filter.value.trim().toLowerCase();
    const shown = agents.filter((a) => (!service || a.service === service) && (!q || [a.service, a.instance, a.version, a.region, a.go, ...Object.values(a.labels ?? {})].some((x) => x?.toLowerCase().includes(q))));
    const on = shown.filter((a) => a.online).length, shed = shown.filter((a) => a.status.shed.length).length, leased = shown.filter((a) => a.granted).length;
    this.filter.hidden = !agents.length;
    this.facts.textContent = shown.length ? [`${on} of ${count(shown.length, "agent")} online`, shed ? `${shed} with something left out` : "", leased ? count(leased, "lease") : ""].filter(Boolean).join(" · ") : "";
    if (!shown.length) {
      this.list.replaceChildren(agents.length ? h("div", { class: "empty" }, q ? `None of the ${count(agents.length, "agent")} has “${this.filter.value}” in its name, version, region or labels.` : `No agent of ${service} asks this server. `,
        h("div", { class: "row center" }, h("button", { class: "btn", type: "button", onclick: () => { this.filter.value = ""; set({ service: "", q: "" }); } }, "All agents"))) : nobody());
      return;
    }
    const by = p.get("sort") ?? "service", c = columns.find((x) => x.key === by) ?? columns[0], back = p.get("dir") === "up" ? -1 : 1;
    shown.sort((a, b) => back * c.sort(a, b) || Number(b.online) - Number(a.online) || (key(a) < key(b) ? -1 : 1));
    const focus = (document.activeElement as HTMLElement | null)?.closest?.<HTMLElement>("[data-focus]")?.dataset.focus;
    rebuild(this.list, () => [h("div", { class: "a-row a-head", role: "row" }, columns.map((x) => h("div", { class: "a-" + x.key, role: "columnheader", "aria-sort": x === c ? (back < 0 ? "ascending" : "descending") : "none" },
      h("button", { type: "button", class: "t-sort" + (x === c ? " on" : ""), title: x.title, "data-focus": "sort " + x.key, onclick: () => set({ sort: x.key, dir: x === c && back > 0 ? "up" : "" }, true) }, x.head, x === c ? h("span", { class: "t-arrow", "aria-hidden": "true" }, back < 0 ? "↑" : "↓") : null)))),
      ...shown.slice(0, this.most).map((a) => this.row(a)),
      shown.length > this.most ? h("div", { class: "empty small" }, `${count(shown.length - this.most, "more agent")}. `, h("button", { class: "linkish", type: "button", onclick: () => { this.most += step; this.draw(); } }, `Show ${Math.min(step, shown.length - this.most)}`)) : ""]);
    if (focus && !document.activeElement?.closest("[data-focus]")) this.list.querySelector<HTMLElement>(`[data-focus="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
  }

  private row(a: Agent): HTMLElement {
    const k = key(a), open = params().get("open") === k, turn = () => set({ open: open ? "" : k }, true);
    return h("div", { class: "a-item" + (a.online ? "" : " off") + (open ? " open" : ""), role: "rowgroup", "data-agent": k },
      h("div", { class: "a-row", role: "row", onclick: (e: Event) => { if (!(e.target as Element).closest("a,button") && getSelection()?.isCollapsed !== false) turn(); } },
        columns.map((c, i) => h("div", { class: "a-" + c.key, role: "cell" }, i ? null : h("button", { class: "g-twist" + (open ? " open" : ""), type: "button", "aria-expanded": String(open), "aria-label": `Details of ${a.service} ${a.instance}`, "data-focus": "open " + k, onclick: turn }, icon("chevron", 12)), c.cell(a)))),
      open ? this.details(a) : null);
  }

  private details(a: Agent): HTMLElement {
    const s = a.status, c = s.cost, b = c.budget ?? {}, g = a.granted, set = a.settings, followed = !!a.lease && g?.id === a.lease, k = key(a);
    const leased = (name: keyof typeof set) => (followed && g![name] !== undefined ? h("span", { class: "tag hot" }, "leased") : null);
    const refuses = !a.optimizer ? "This agent refuses all leases (PROFILER_OPTIMIZER_ENABLED=false)" : !a.online ? "It is offline: nobody could tell it" : "";
    const old = time(a.started);
    return h("div", { class: "a-more" },
      h("div", { class: "a-acts row wrap" },
        h("a", { class: "btn", href: link("/explore", { service: a.service, labels: `{service_instance_id=${JSON.stringify(a.instance)}}` }) }, icon("flame"), "Profiles of this instance"),
        h("a", { class: "btn", href: link("/live", { service: a.service, instance: a.instance }) }, icon("pulse"), "Goroutines now"),
        h("button", { class: "btn", type: "button", disabled: !!refuses, title: refuses || "Give it settings for a time", "data-focus": "lease " + k, onclick: () => leaseDialog(a, () => this.later()) }, "Lease settings…"),
        g ? h("button", { class: "btn", type: "button", title: "End the lease: the agent restores what it found", "data-focus": "release " + k, onclick: () => this.release(a) }, "Release") : null,
        h("button", { class: "btn ghost", type: "button", "data-focus": "copy " + k, onclick: () => copy(a.instance) }, "Copy its name")),
      notices(a),
      h("div", { class: "a-facts" },
        part("Program", [["instance", h("code", null, a.instance)], ["version", a.version], ["process", a.pid ? String(a.pid) : ""], ["started", isNaN(old) ? "" : `${stamp(old)}, ${ago(old, serverNow())}`], ["built with", [a.go, a.os].filter(Boolean).join(" ")],
          ["region", a.region ? a.region + (s.region_source ? ` (from ${s.region_source})` : "") : ""], ...Object.entries(a.labels ?? {}).map(([n, v]): [string, Child] => [n, h("code", null, v)])]),
        part("Agent", [["agent", a.agent], ["sends to", s.server], ["signed by", a.signed_by ? h("code", { title: "The key that signs its requests" }, a.signed_by) : h("span", { class: "muted" }, s.key_id ? "nobody; its key is " + s.key_id.slice(0, 10) + "…" : "nobody")], ["heard of", `${stamp(Date.parse(a.seen))}, ${seen(a)}`], ["waits for work", a.polling ? "yes" : "no"]]),
        part("Settings", [["GOGC", both(gogcText(set.gogc), leased("gogc"))], ["GOMEMLIMIT", both(memoryText(set.gomemlimit), leased("gomemlimit"))], ["GOMAXPROCS", both(String(set.gomaxprocs ?? "–"), leased("gomaxprocs"))], ["CPU sampling", both(rateText(set.cpu_rate), leased("cpu_rate"))],
          ["lease", g ? leaseText(a) : "none"]]),
        part("Cost, of two minutes", [["processor time", c.cpu_percent === undefined ? "" : `${percent(c.cpu_percent)} ± ${percent(c.cpu_doubt_percent ?? 0)} of the program's${b.cpu_percent ? `, ${percent(b.cpu_percent)} allowed` : ""}`], ["of a core", c.core_percent === undefined ? "" : percent(c.core_percent)],
          ["memory", c.memory_bytes === undefined ? "" : bytes(c.memory_bytes) + (b.memory_bytes ? `, ${bytes(b.memory_bytes)} allowed` : "")], ["the runtime's buckets", c.bucket_bytes ? bytes(c.bucket_bytes) : ""], ["profiles made", c.bytes_per_minute === undefined ? "" : bytes(c.bytes_per_minute) + " a minute" + (b.bytes_per_minute ? `, ${bytes(b.bytes_per_minute)} allowed` : "")],
          ["a sample's signal", c.signal_ns ? value(c.signal_ns, "nanoseconds") : ""], ["takes", (s.types ?? "").replaceAll("|", ", ")]]),
        part("Delivery", [["uploaded", s.uploaded === undefined ? "" : `${count(s.uploaded, "profile")}, ${bytes(s.uploaded_bytes)}`], ["last", isNaN(time(s.last_upload)) ? "" : ago(time(s.last_upload), serverNow())], ["waits in memory", s.queued ? `${count(s.queued, "profile")}, ${bytes(s.queued_bytes)}` : "nothing"],
          ["waits on disk", s.spooled ? `${count(s.spooled, "profile")}, ${bytes(s.spooled_bytes)}` : "nothing"], ["failed tries", String(s.failed ?? 0)], ["refused", String(s.rejected ?? 0)], ["given up", String(s.dropped ?? 0)], ["gaps", String(s.gaps ?? 0)], ["last error", s.last_error], ["last gap", s.last_gap]]),
        ...Object.entries(s.sources ?? {}).slice(0, 10).map(([name, v]) => h("section", null, h("h3", null, name), h("pre", null, JSON.stringify(v, null, 1).slice(0, 4000))))),
      h("section", { class: "a-steps" }, h("h3", null, "Steps"), s.steps.length ? h("ol", null, [...s.steps].reverse().map((x) => h("li", null, h("time", null, isNaN(time(x.at)) ? "" : stamp(time(x.at))), h("span", null, String(x.what ?? ""))))) : h("p", { class: "muted" }, "It had no need to leave anything out.")));
  }

  private release(a: Agent): void {
    fleet.release(a).then(() => {
      toast("Released. The agent restores what it found");
      this.later();
    }, (e) => this.banner.fail(e, () => { this.banner.clear("act"); this.release(a); }, "act"));
  }
}

/** part is a group of facts; those that are empty are left out. */
export function part(title: string, facts: [string, Child | undefined][]): HTMLElement {
  return h("section", null, h("h3", null, title), h("dl", null, facts.filter(([, v]) => v !== "" && v !== undefined && v !== null).map(([n, v]) => h("div", null, h("dt", null, n), h("dd", null, v)))));
}

function both(text: string, more: Node | null): Node {
  return h("span", { class: "row" }, text, more);
}

function leaseText(a: Agent): string {
  const g = a.granted!;
  return g.refused ? `refused: ${g.refused}` : `${g.in_force ? "in force" : "told, not yet in force"}, ${remaining(left(a))} left`;
}

/** notices is what somebody should act on. */
function notices(a: Agent): HTMLElement | null {
  const s = a.status, all: [string, string, string][] = [];
  if (failing(a)) all.push(["bad", "It cannot upload: ", s.last_error!]);
  if (s.spool_error) all.push(["bad", "It cannot keep profiles on disk: ", s.spool_error]);
  if (a.granted?.refused) all.push(["bad", "It refused its lease: ", a.granted.refused]);
  else if (a.lease_error) all.push(["", "The lease before ended: ", a.lease_error]);
  if (s.dropped) all.push(["", "", `${count(s.dropped, "profile")} were given up: queue and disk were full.`]);
  if (!a.optimizer) all.push(["", "", "It refuses all leases (PROFILER_OPTIMIZER_ENABLED=false)."]);
  for (const w of s.warnings) all.push(["", "", w]);
  return all.length ? h("ul", { class: "a-notices" }, all.map(([cls, head, text]) => h("li", { class: cls }, icon("warn", 14), h("span", null, head ? h("b", null, head) : null, text)))) : null;
}

/** why is the latest step that tells why something is left out. */
function why(a: Agent, shed: string): string {
  const step = [...a.status.steps].reverse().find((x) => x.what?.startsWith(shed + ":") || x.what?.startsWith(shed.split(":")[0] + ":"));
  return step ? `${shed}, since ${stamp(time(step.at))}\n${step.what}` : shed;
}

const byNumber = (f: (a: Agent) => number) => (a: Agent, b: Agent) => f(b) - f(a);

const columns: Column[] = [
  { key: "service", head: "Service", title: "By service and instance", sort: (a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0), cell: (a) => [h("div", { class: "a-name" }, h("div", { class: "row" }, h("b", null, a.service), a.version ? h("span", { class: "tag plain", title: a.version }, a.version.slice(0, 14)) : null, a.region ? h("span", { class: "tag region" }, a.region) : null), h("code", { class: "muted", title: a.instance }, a.instance))] },
  { key: "state", head: "State", title: "By when it was heard of", sort: byNumber((a) => Date.parse(a.seen)), cell: (a) => [h("div", null, h("i", { class: "on-dot" + (a.online ? " on" : "") }), a.online ? "online" : h("span", { class: "worse" }, "offline")), h("div", { class: "muted" }, a.polling ? "waits for work" : seen(a))] },
  { key: "cpu", head: "Processor", title: "Of the program's processor time, against what it may", sort: byNumber(cpu), cell: (a) => [meter(a.status.cost.cpu_percent, a.status.cost.budget?.cpu_percent, percent, a.status.cost.cpu_doubt_percent)] },
  { key: "memory", head: "Memory", title: "That it holds, against what it may", sort: byNumber(memory), cell: (a) => [meter(a.status.cost.memory_bytes, a.status.cost.budget?.memory_bytes, (v) => bytes(v))] },
  { key: "sent", head: "A minute", title: "Bytes of profiles a minute, against what it may", sort: byNumber(sent), cell: (a) => [meter(a.status.cost.bytes_per_minute, a.status.cost.budget?.bytes_per_minute, (v) => bytes(v))] },
  { key: "takes", head: "Takes", title: "By how much is left out", sort: byNumber((a) => a.status.shed.length), cell: (a) => [h("div", { title: (a.status.types ?? "").replaceAll("|", ", ") }, a.status.cpu_rate ? a.status.cpu_rate + " Hz" : a.status.types ? "no CPU" : "–", a.status.types ? h("span", { class: "muted" }, ` · ${count(a.status.types.split("|").length, "type")}`) : null),
    a.status.shed.length ? h("div", { class: "row wrap tight" }, a.status.shed.map((s) => h("button", { class: "tag bad", type: "button", title: why(a, s), "data-focus": `shed ${s} ${key(a)}`, onclick: () => { set({ open: key(a) }, true); setTimeout(() => document.querySelector(".a-steps")?.scrollIntoView({ block: "nearest" })); } }, s))) : null] },
  { key: "waiting", head: "Waiting", title: "Profiles that wait to be sent, in memory and on disk", sort: byNumber(waiting), cell: (a) => {
    const n = (a.status.queued ?? 0) + (a.status.spooled ?? 0);
    return n ? [h("div", null, count(n, "profile")), h("div", { class: "muted" }, bytes(waiting(a)) + (a.status.spooled ? ", disk" : ""))] : [h("span", { class: "muted" }, "–")];
  } },
  { key: "trouble", head: "Trouble", title: "By what needs a look most", sort: byNumber(trouble), cell: (a) => {
    const s = a.status, bad = [failing(a) ? h("div", { class: "worse", title: s.last_error }, s.last_error!) : s.spool_error ? h("div", { class: "worse", title: s.spool_error }, s.spool_error) : null,
      s.gaps ? h("span", { class: "muted", title: s.last_gap ?? "" }, count(s.gaps, "gap") + " ") : null, s.warnings.length ? h("span", { class: "warned", title: s.warnings.join("\n") }, count(s.warnings.length, "warning")) : null].filter(Boolean);
    return bad.length ? bad : [h("span", { class: "muted" }, "–")];
  } },
  { key: "lease", head: "Lease", title: "By how long the settings that it was given last", sort: byNumber(left), cell: (a) => {
    const g = a.granted;
    if (!g) return [a.lease_error ? h("span", { class: "worse", title: a.lease_error }, "ended early") : h("span", { class: "muted" }, "–")];
    return g.refused ? [h("span", { class: "worse", title: g.refused }, "refused")] : [h("div", null, g.in_force ? "in force" : "told"), h("div", { class: "muted" }, remaining(left(a)) + " left")];
  } },
];

function nobody(): HTMLElement {
  return h("div", { class: "welcome" }, h("h2", null, icon("fleet", 22), "No agent asks this server"),
    h("p", { class: "muted" }, "An agent shows up here as soon as its program starts, and is forgotten an hour after it was last heard of."),
    h("div", { class: "cards" }, agentCard(), h("section", { class: "card" }, h("h3", null, "Is one running?"), h("p", null, "Profiles may come from senders that are not the Go agent, or from an agent that was built before it asked its server. One whose server was away asks again within ten minutes."), h("div", { class: "row wrap" }, h("a", { class: "btn", href: "/" }, "Services with profiles")))));
}
