// What the goroutines of one program do now: a tree by who created whom, beside it
// the stacks of what is selected as a flame graph; and an execution trace on demand.

import { Fault, serverNow } from "./api";
import { Banner, Search } from "./controls";
import { h, icon, pick, rebuild, seg } from "./dom";
import { FlameView } from "./flame";
import { fleet, type Agent, type Group, type Snapshot } from "./fleet";
import { ago, clock, count, shortName, value } from "./format";
import { among, byState, colourOf, each, History, stacksOf, stopNs, treeOf, type Node, type Suspect } from "./goroutines";
import { Layout, matcher } from "./layout";
import { agentCard } from "./services";
import { link, params, set } from "./state";
import { TraceView } from "./trace";
import { TreeView, waited, type Sort } from "./tree";
import type { Page } from "./main";

const everyMs = 2000, agentsMs = 10_000;
// A snapshot costs the program: it may take this part of the time at most.
const share = 0.02;

// What is wrong with tasks besides lost wakers, for one and for several.
const lints: { [code: string]: [string, string] } = {
  "self-wakes": ["task wakes itself most of the time", "tasks wake themselves most of the time"],
  "never-yielded": ["task holds a thread in its first poll", "tasks hold threads in their first polls"],
  "large-future": ["task has a large future", "tasks have large futures"],
  "auto-boxed": ["task was moved to the heap for its size", "tasks were moved to the heap for their size"],
};

export class LivePage implements Page {
  readonly title = "Goroutines";
  readonly el: HTMLElement;
  private head = h("div", { class: "controls" });
  private banner = new Banner();
  private note = h("div", { class: "notice", hidden: true });
  private leaks = h("div", { class: "notice", hidden: true });
  private nothing = h("div", { hidden: true });
  private busy = h("div", { class: "busy", hidden: true });
  private bar = h("div", { class: "viewbar" });
  private facts = h("div", { class: "facts" });
  private states = h("div", { class: "states", role: "group", "aria-label": "States" });
  private chosen = h("div", { class: "chosen" });
  private panel: HTMLElement;
  private panes: HTMLElement;
  private search: Search;
  private tree: TreeView;
  private flame: FlameView;
  private trace: TraceView;
  private services: Agent[] = []; // all there are, for the choice of a service
  private agents: Agent[] = []; // of the service
  private rust: Agent[] | null = null; // programs whose tasks are watched, of all services
  private asking: Promise<Agent[]> | null = null;
  private agentsAt = 0;
  private asked = ""; // whose agents those are
  private who = ""; // whose goroutines are shown
  private snap: Snapshot | null = null;
  private root: Node | null = null;
  private first: { [detail: string]: Map<number, Node> } = {}; // of the first snapshots of each kind, by node
  private firstAt = 0;
  private history = new History();
  private suspects: Suspect[] = [];
  private flameOf = "";
  private raf = 0;
  private notBefore = 0;
  private waitMs = everyMs;
  private failed = false;
  private ctl: { [k: string]: AbortController } = {};

  constructor() {
    this.search = new Search((q, re) => set({ q, re: re ? "1" : "" }, true));
    this.tree = new TreeView({ onSelect: (n) => set({ node: n.key ? n.key.toString(36) : "" }, true), onSort: (s) => set({ sort: s === "count" ? "" : s }, true) });
    this.flame = new FlameView({ label: "Stacks of the goroutines that are selected", empty: "None is in this state now.", onZoom: (z) => set({ zoom: z ? z.toString(16) : "" }, true) });
    this.trace = new TraceView();
    this.panes = h("div", { class: "panes live-panes", "data-view": "both" }, h("section", { class: "pane pane-top", "aria-label": "Goroutines by creator" }, this.tree.el),
      h("section", { class: "pane pane-flame", "aria-label": "Stacks" }, this.chosen, this.flame.el));
    this.panel = h("div", { class: "panel grow-panel" }, this.busy, this.bar, this.facts, this.states, this.panes, this.trace.el);
    this.el = h("div", { class: "page live-page" }, this.head, this.banner.el, this.note, this.leaks, this.nothing, this.panel);
  }

  /** every is 0 where a trace is shown: it is of its time. */
  get every(): number {
    return this.tracing() ? 0 : everyMs;
  }

  destroy(): void {
    for (const k in this.ctl) this.ctl[k]?.abort();
    cancelAnimationFrame(this.raf);
    for (const v of [this.tree, this.flame, this.trace]) v.destroy();
  }

  update(): void {
    const p = params();
    this.flame.setZoom(parseInt(p.get("zoom") ?? "", 16) || 0);
    if (this.asked !== (p.get("service") ?? "") || !this.agentsAt) this.loadAgents();
    else this.change();
    this.controls();
    this.draw();
  }

  tick(asked = false): void {
    const now = Date.now();
    if (asked || now - this.agentsAt > agentsMs) this.loadAgents();
    if (!this.tracing()) this.load(false, asked);
  }

  private tracing(): boolean {
    return params().get("view") === "trace";
  }

  // noun is what the program's own are called: it is a Rust program's tasks, or a Go program's goroutines.
  private noun(): string {
    return this.agent()?.tasks ? "task" : "goroutine";
  }

  private paused(): boolean {
    return params().get("refresh") === "off";
  }

  // ---- loading ----

  private loadAgents(): void {
    const service = params().get("service") ?? "";
    this.ctl.agents?.abort();
    const ctl = (this.ctl.agents = new AbortController());
    this.agentsAt = Date.now();
    this.asked = service;
    const rust = this.programs(), both = (service: string) => Promise.all([fleet.agents(service, ctl.signal), rust]).then(([a, p]) => [...a, ...p.filter((x) => !service || x.service === service)]);
    const own = both(service), all = !service || this.services.length ? own : both("");
    Promise.all([own, all]).then(([own, all]) => {
      if (ctl.signal.aborted) return;
      this.banner.clear("agents");
      if (all !== own || !service) this.services = all;
      if (!service) {
        const s = (all.find((a) => a.online) ?? all[0])?.service;
        if (s) set({ service: s }, true);
        else this.empty(true);
        return;
      }
      this.agents = own.sort((a, b) => Number(b.online) - Number(a.online) || (a.instance < b.instance ? -1 : 1));
      this.empty(!own.length);
      this.change();
      this.controls();
      this.draw();
    }, (e) => {
      if (!ctl.signal.aborted) this.banner.fail(e, () => this.tick(true), "agents");
    });
  }

  // programs are the Rust programs that are known. Agents wait for the first list only: after that it follows them.
  private programs(): Agent[] | Promise<Agent[]> {
    this.asking ??= fleet.programs("").then((p) => (this.rust = p)).finally(() => (this.asking = null));
    return this.rust ?? this.asking;
  }

  // change makes the URL name one program, and asks for its goroutines if it is another than before.
  private change(): void {
    const p = params(), service = p.get("service") ?? "", instance = p.get("instance") ?? "";
    if (!service || !this.agents.length) return;
    if (!instance) {
      set({ instance: this.agents[0].instance }, true);
      return;
    }
    const who = service + "\0" + instance + "\0" + (this.agent()?.started ?? "");
    if (who === this.who) return;
    this.who = who;
    this.ctl.snap?.abort();
    this.forget();
    this.trace.forget();
    if (!this.tracing()) this.load(false, true);
  }

  private forget(): void {
    this.snap = this.root = null;
    this.first = {};
    this.history = new History();
    this.suspects = [];
    this.flameOf = "";
    this.notBefore = 0;
    this.failed = false;
    this.ctl.snap = undefined!;
    this.banner.clear("snap");
  }

  private agent(): Agent | undefined {
    return this.agents.find((a) => a.instance === params().get("instance"));
  }

  private load(full: boolean, force: boolean): void {
    const p = params(), service = p.get("service") ?? "", instance = p.get("instance") ?? "";
    if (!service || !instance || (this.ctl.snap && !force) || (!force && Date.now() < this.notBefore)) return;
    this.ctl.snap?.abort();
    const ctl = (this.ctl.snap = new AbortController()), began = Date.now();
    this.busy.hidden = !force;
    (this.agent()?.tasks ? fleet.tasks(service, instance, ctl.signal) : fleet.goroutines(service, instance, full, ctl.signal)).then((s) => {
      if (ctl.signal.aborted) return;
      this.banner.clear("snap");
      this.failed = false;
      // What takes long is asked for less often: the program shall not stand still for it, nor shall requests pile up.
      this.waitMs = Math.max(everyMs, s.took_ns / 1e6 / share, 2 * (Date.now() - began));
      this.got(s);
      if (full) set({ refresh: "off" }, true); // the next would be counts again
    }, (e) => {
      if (ctl.signal.aborted) return;
      this.waitMs = Math.min(30_000, Math.max(2 * this.waitMs, 2 * everyMs));
      this.failed = true;
      this.banner.fail(e, () => this.load(full, true), "snap");
      if (e instanceof Fault && e.code !== "network") this.agentsAt = 0; // is it gone?
      this.draw();
    }).finally(() => {
      if (this.ctl.snap !== ctl) return;
      this.ctl.snap = undefined!;
      this.busy.hidden = true;
      this.notBefore = began + this.waitMs - 100; // the timer that asks is not exact
    });
  }

  private got(s: Snapshot): void {
    this.snap = s;
    this.root = treeOf(s);
    if (!this.first[s.detail]) {
      const m = new Map<number, Node>();
      each(this.root, (n) => m.set(n.key, n));
      this.first[s.detail] = m;
      this.firstAt = Date.parse(s.time);
    }
    this.suspects = s.detail === "full" ? this.history.add(s) : [];
    this.flameOf = "";
    this.draw();
  }

  // ---- drawing ----

  private filter(): Set<string> {
    return new Set((params().get("state") ?? "").split(",").filter(Boolean));
  }

  private draw(): void {
    const p = params(), trace = this.tracing(), s = this.snap;
    this.panel.classList.toggle("tracing", trace);
    this.trace.el.hidden = !trace;
    for (const el of [this.facts, this.states, this.panes]) el.hidden = trace;
    this.panes.classList.toggle("lost", !s);
    this.panes.classList.toggle("stale", !!s && this.failed);
    this.notes();
    if (trace) {
      this.trace.draw();
      return;
    }
    if (!s || !this.root) {
      this.facts.replaceChildren(this.failed ? "No answer" : "Asking…");
      this.states.replaceChildren();
      return;
    }
    const filter = this.filter(), q = p.get("q") ?? "", re = p.get("re") === "1", test = matcher(q, re), first = this.first[s.detail], suspects = new Set(this.suspects.map((x) => x.group));
    const names = new Map<string, boolean>();
    const hit = (name: string) => {
      let y = names.get(name);
      if (y === undefined) names.set(name, (y = test!(name)));
      return y;
    };
    let selected = this.root;
    const want = parseInt(p.get("node") ?? "", 36) || 0;
    if (want) each(this.root, (n) => { if (n.key === want) selected = n; });
    this.tree.set(this.root, {
      key: JSON.stringify([this.sort(), [...filter], q, re]), sort: this.sort(), filter, selected: selected.key,
      grew: (n) => among(n.states, filter) - among(first.get(n.key)?.states ?? new Map(), filter),
      suspect: (n) => n.parts.some(([g]) => suspects.has(g)),
      match: test ? (n) => hit(n.func) || hit(n.creator) || n.parts.some(([g]) => g.stack.some((f) => hit(f.func))) : null,
    });
    this.search.set(q, re);
    const flameOf = selected.key + "|" + [...filter].join();
    cancelAnimationFrame(this.raf);
    // The stacks of thousands take longer than the step of a key that is held: they follow when it rests.
    this.raf = requestAnimationFrame(() => {
      if (flameOf !== this.flameOf) {
        this.flameOf = flameOf;
        this.flame.setData(new Layout(stacksOf(selected, filter)), { unit: "count", scale: 1, noun: `the ${this.noun()}s` });
      }
      const found = this.flame.setSearch(test);
      this.search.say(q ? (test ? `${(found * 100).toFixed(0)} %` : "invalid") : "", !!q && !test);
    });
    this.drawFacts(s);
    this.drawStates(this.root, filter);
    this.drawChosen(selected, filter);
  }

  private sort(): Sort {
    const s = params().get("sort");
    return s === "wait" || s === "grew" ? s : "count";
  }

  private drawFacts(s: Snapshot): void {
    const at = Date.parse(s.time), slow = this.waitMs > 1.5 * everyMs, grew = s.total - (among(this.first[s.detail].get(0)!.states, new Set()) || s.total);
    rebuild(this.facts, () => [h("b", null, s.total.toLocaleString("en")), ` ${this.noun()}s in ${count(s.groups.length, "group")} · `,
      h("span", { title: `taken in ${value(s.took_ns, "nanoseconds")}` }, this.failed ? h("span", { class: "worse" }, `as they were at ${clock(at)}, ${ago(at, serverNow())}`) : `at ${clock(at)}`),
      s.runtime ? " · as the program tells of them itself" : ` · ${s.detail === "full" ? "full list, the program stood still for " : "counted in "}${value(s.took_ns, "nanoseconds")}`,
      ...this.lost(s),
      grew ? ` · ${grew > 0 ? "+" : "−"}${Math.abs(grew).toLocaleString("en")} since ${clock(this.firstAt)}` : "",
      slow && !this.paused() && !this.failed ? ` · asked for every ${Math.round(this.waitMs / 1000)} s, as it takes that long` : "",
      s.truncated && !s.runtime ? h("span", { class: "worse" }, " · not all: past the agent's bounds, small groups are summed up as “other” and deep stacks lose their middle") : ""]);
  }

  // lost is what a snapshot of tasks does not have.
  private lost(s: Snapshot): HTMLElement[] {
    const d = s.dropped_events, dropped = d ? d.tasks + d.resources + d.async_ops : 0, out = s.left_out ?? 0;
    return [...(dropped ? [h("span", { class: "worse" }, ` · the program dropped ${count(dropped, "event")}: its buffer was full`)] : []),
      ...(out ? [h("span", { class: "worse" }, ` · not all: ${count(out, "task or resource", "tasks and resources")} past the server's bound`)] : [])];
  }

  private drawStates(root: Node, filter: Set<string>): void {
    const shown = new Map(root.states);
    for (const s of filter) if (!shown.has(s)) shown.set(s, 0);
    rebuild(this.states, () => [...byState(shown).map(([s, k]) => h("button", { class: "state", type: "button", "aria-pressed": String(filter.has(s)), "data-state": s, title: filter.has(s) ? "Show all states" : `Only ${this.noun()}s in ${s}`, onclick: () => {
      if (!filter.delete(s)) filter.add(s);
      set({ state: [...filter].join(",") }, true);
    } }, h("i", { style: `background:${colourOf(s)}` }), s, h("b", null, k.toLocaleString("en")))),
      filter.size ? h("button", { class: "linkish", type: "button", onclick: () => set({ state: "" }, true) }, "all states") : ""]);
  }

  private drawChosen(n: Node, filter: Set<string>): void {
    const own = among(n.own, filter), all = among(n.states, filter), ids = n.parts.flatMap(([g]) => (filter.size && !filter.has(g.state) ? [] : g.ids ?? [])), locked = n.parts.reduce((k, [g, c]) => k + Math.min(c, g.locked ?? 0), 0);
    rebuild(this.chosen, () => [
      h("div", { class: "row" }, h("code", { title: n.func }, shortName(n.func)), h("span", null, count(all, this.noun()), n.key && own !== all ? `, ${own.toLocaleString("en")} without what they created` : "")),
      h("div", { class: "muted chosen-more" }, [
        n.ended ? "These creators have ended; what they created lives on" : "",
        n.creator ? `created by ${shortName(n.creator)}${n.at ? ` at ${n.at}` : ""}` : "",
        n.wait >= 60 ? `waiting for up to ${waited(n.wait)}` : "", locked ? `${locked} locked to a thread` : "", n.leaked ? `${count(n.leaked, this.noun())} leaked: nothing can wake them` : "",
        ...this.figures(n, filter),
        n.key && ids.length ? `ids ${ids.slice(0, 6).join(", ")}${ids.length > 6 ? ", …" : ""}` : "", !n.key ? "Choose a row of the tree to see its stacks alone" : "",
      ].filter(Boolean).join(" · "))]);
  }

  // figures are what only tasks have, of a node's own.
  private figures(n: Node, filter: Set<string>): string[] {
    const parts = n.parts.map(([g]) => g).filter((g) => g.busy_ns !== undefined && (!filter.size || filter.has(g.state)));
    if (!parts.length) return [];
    const sum = (f: (g: Group) => number | undefined) => parts.reduce((k, g) => k + (f(g) ?? 0), 0), warnings = new Map<string, number>();
    for (const g of parts) for (const [code, k] of Object.entries(g.warnings ?? {})) warnings.set(code, (warnings.get(code) ?? 0) + k);
    return [`busy ${value(sum((g) => g.busy_ns), "nanoseconds")}, scheduled ${value(sum((g) => g.scheduled_ns), "nanoseconds")}, idle ${value(sum((g) => g.idle_ns), "nanoseconds")}`,
      `${count(sum((g) => g.polls), "poll")}, ${count(sum((g) => g.wakes), "wake")}, ${sum((g) => g.self_wakes).toLocaleString("en")} by themselves, ${count(sum((g) => g.wakers), "waker")}`,
      ...[...warnings].sort().map(([code, k]) => `${k.toLocaleString("en")} × ${code}`)];
  }

  // warned is what is wrong with tasks, in words.
  private warned(): string {
    const sums = new Map<string, number>();
    for (const g of this.snap?.groups ?? []) for (const [code, k] of Object.entries(g.warnings ?? {})) if (code !== "lost-waker") sums.set(code, (sums.get(code) ?? 0) + k);
    return [...sums].sort().map(([code, k]) => count(k, ...(lints[code] ?? [`task with ${code}`, `tasks with ${code}`]))).join(", ");
  }

  private notes(): void {
    const s = this.snap, a = this.agent(), trace = this.tracing(), found = trace ? [] : this.suspects, leaked = trace ? 0 : this.root?.leaked ?? 0;
    const counts = !trace && s?.detail === "counts", full = !trace && s?.detail === "full" && this.paused() && !!this.first.counts;
    const warned = trace ? "" : this.warned();
    this.note.hidden = !counts && !full && !(a && !a.online) && !a?.tasks?.paused;
    rebuild(this.note, () => a?.tasks && (!a.online || a.tasks.paused) ? [icon("warn", 16), h("div", { class: "banner-text" }, h("strong", null, a.online ? `Another console has paused ${a.instance}.` : `${a.instance} cannot be watched.`),
        a.online ? " What is shown is as it was then." : ` ${a.tasks.last_error || "It has not sent anything yet."}`), ...this.others(a)]
      : a && !a.online ? [icon("warn", 16), h("div", { class: "banner-text" }, h("strong", null, `The agent of ${a.instance} is offline.`), ` It was heard of ${ago(Date.parse(a.seen), serverNow())}: its program has ended or cannot reach this server.`), ...this.others(a)]
      : counts ? [h("div", { class: "banner-text" }, h("strong", null, `${s!.total.toLocaleString("en")} goroutines are counted by stack`), ", without creators, ids and waiting times: for a full list the program would stand still."),
        h("button", { class: "btn tiny", type: "button", onclick: () => this.load(true, true) }, `Take the full list (stops the program for about ${this.stop(s!)})`)]
      : full ? [h("div", { class: "banner-text" }, h("strong", null, `The full list as it was at ${clock(Date.parse(s!.time))}`), ", for which the program stood still; the page does not refresh meanwhile."), h("button", { class: "btn tiny", type: "button", onclick: () => this.goOn() }, "Go on with counts")] : []);
    this.leaks.hidden = !found.length && !leaked && !warned;
    this.leaks.classList.toggle("sure", leaked > 0);
    rebuild(this.leaks, () => {
      const top = found[0];
      return [icon("warn", 16), h("div", { class: "banner-text" }, leaked ? h("strong", null, `${count(leaked, this.noun())} leaked: nothing can wake ${leaked === 1 ? "it" : "them"} any more. `) : "",
        warned ? h("span", null, `${warned}. `) : "",
        top ? h("span", null, h("strong", null, "Perhaps a leak: "), `${found.length === 1 ? "a group has" : `${found.length} groups have`} waited for over a minute and only grown, `,
          h("code", null, shortName(top.group.stack[top.group.stack.length - 1].func)), ` by ${top.grew.toLocaleString("en")} since ${clock(top.sinceMs)}. What only load makes grow shrinks with it.`) : ""),
        h("button", { class: "btn tiny", type: "button", onclick: () => this.showLeak() }, "Show")];
    });
  }

  private stop(s: Snapshot): string {
    const ns = stopNs(s);
    return ns < 10e6 ? Math.max(1, Math.round(ns / 1e6)) + " ms" : ns < 1e9 ? Math.round(ns / 10e6) * 10 + " ms" : (ns / 1e9).toFixed(1) + " s";
  }

  private goOn(): void {
    set({ refresh: "" }, true);
    this.load(false, true);
  }

  private others(a: Agent): HTMLElement[] {
    const on = this.agents.find((x) => x.online && x !== a);
    return on ? [h("a", { class: "btn tiny", href: link("/live", { service: on.service, instance: on.instance }) }, `Show ${on.instance}`)] : [];
  }

  private showLeak(): void {
    const top = this.suspects[0]?.group;
    let to: Node | null = null;
    const wrong = (g: Group) => (top ? g === top : this.root!.leaked ? !!g.leaked : !!g.warnings);
    each(this.root!, (n) => { if (!to && n.parts.some(([g]) => wrong(g))) to = n; });
    if (!to) return;
    const key = (to as Node).key;
    set({ node: key.toString(36), q: "", state: "" }, true);
    this.tree.reveal(key);
  }

  // With no agent there are no empty panes, but a way on.
  private empty(none: boolean): void {
    const service = params().get("service") ?? "", others = [...new Set(this.services.map((a) => a.service))];
    this.panel.hidden = none;
    this.nothing.hidden = !none;
    if (!none) return;
    this.note.hidden = this.leaks.hidden = true;
    this.nothing.replaceChildren(h("div", { class: "welcome" }, h("h2", null, icon("pulse", 22), service ? `No agent of ${service} asks this server` : "No agent asks this server"),
      h("p", { class: "muted" }, "What goroutines do now is known where the Go agent runs, and what tasks do of Rust programs that this server watches; other senders only push profiles. An agent shows up here as soon as its program starts."),
      h("div", { class: "cards" }, agentCard(), h("section", { class: "card" }, h("h3", null, others.length ? "Services with an agent" : "Is one running?"),
        h("p", null, others.length ? "These can be looked into now." : "An agent whose server was away asks again within ten minutes. Its own log says why it does not."),
        h("div", { class: "row wrap" }, others.length ? others.map((s) => h("a", { class: "btn", href: link("/live", { service: s }) }, s)) : ""),
          service ? h("p", { class: "more" }, h("a", { href: link("/explore", { service }) }, `The profiles of ${service}`), " may have its goroutines as they were.") : ""))));
  }

  // ---- controls ----

  private controls(): void {
    const p = params(), service = p.get("service") ?? "", instance = p.get("instance") ?? "", a = this.agent(), off = this.paused();
    const names = [...new Set([...this.services, ...this.agents].map((x) => x.service))].sort();
    rebuild(this.head, () => [
      pick("Service", service || "Service", () => names.map((s) => ({ text: s, checked: s === service, run: () => set({ service: s, instance: "", node: "", zoom: "", state: "" }) })), undefined, "strong"),
      pick("Instance", instance || "Instance", () => this.agents.map((x) => ({ text: x.instance, hint: (x.version ?? "") + (x.online ? "" : " offline"), checked: x.instance === instance, run: () => set({ instance: x.instance, node: "", zoom: "" }) }))),
      a ? h("span", { class: "muted who" }, h("i", { class: "on-dot" + (a.online ? " on" : "") }), [a.online ? "online" : "offline", a.version, a.go, a.os].filter(Boolean).join(" · ")) : "",
      h("div", { class: "grow" }),
      service && !a?.tasks ? h("a", { class: "btn ghost", href: link("/agents", { service, open: instance ? service + "/" + instance : "" }) }, icon("fleet"), "Agent") : "",
      service ? h("a", { class: "btn ghost", href: link("/explore", { service, labels: instance ? `{service_instance_id=${JSON.stringify(instance)}}` : "" }) }, icon("flame"), "Profiles") : ""]);
    if (!this.bar.firstChild) this.bar.append(h("div", { class: "row left" }), this.search.el, h("div", { class: "row right" }));
    const [left, , right] = [...this.bar.children], trace = this.tracing();
    this.search.el.hidden = trace;
    rebuild(left, () => [seg<string>("View", trace ? "trace" : "now", [["now", a?.tasks ? "Tasks now" : "Goroutines now"], ...(a?.tasks ? [] : [["trace", "Execution trace"] as [string, string]])], (v) => { set({ view: v === "trace" ? v : "" }); if (v !== "trace") this.load(false, true); })]);
    rebuild(right, () => trace ? [this.trace.controls(service, instance)] : [
      h("button", { class: "btn", type: "button", "aria-pressed": String(off), title: off ? "Take snapshots again" : "Keep what is shown", onclick: () => { if (off) this.goOn(); else { this.ctl.snap?.abort(); set({ refresh: "off" }, true); } } }, icon(off ? "play" : "pause"), off ? "Go on" : "Pause"),
      a?.tasks ? "" : h("button", { class: "btn", type: "button", title: "What each goroutine did with its time, over five seconds", onclick: () => { set({ view: "trace" }); this.trace.take(service, instance, 5); } }, icon("pulse"), "Execution trace 5 s")]);
  }
}
