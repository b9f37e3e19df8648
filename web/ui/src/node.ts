// The server's node: its own figures, who is let in and what is between us, topics, what the guard decided lately, seats of sandboxes, and
// what happened to watched files.

import { Fault, serverNow } from "./api";
import { part } from "./agents";
import { Banner } from "./controls";
import { copy, h, icon, pick, rebuild, seg, toast } from "./dom";
import { ago, count, remaining, stamp, value } from "./format";
import { node, type Decision, type Figures, type FileEvent, type Happened, type Peer, type Peers, type Topic } from "./nodeapi";
import { card } from "./services";
import { may } from "./session";
import { link, params, set } from "./state";
import { sparkline } from "./timeline";
import { ageing, moment, when } from "./words";
import type { Page } from "./main";

type Child = Node | string | null;

const step = 100; // rows drawn at first, and with each "show more"
const views: { id: string; title: string; operator: boolean }[] = [
  { id: "peers", title: "Peers", operator: true }, { id: "topics", title: "Topics", operator: false }, { id: "decisions", title: "Decisions", operator: true },
  { id: "sandbox", title: "Sandbox", operator: false }, { id: "files", title: "Files", operator: true },
];
// What the refusals of messages mean; docs/node-broadcast.md has the reasons.
const reasons: { [why: string]: string } = {
  corrupt: "malformed", topic: "of another topic", signature: "the signature does not verify", late: "signed too long ago", early: "signed in the future", own: "signed by us in another run", replay: "taken before",
  rights: "the author may not send there", peer_rights: "the neighbour may not send there", listener_rights: "a neighbour may not hear it any more", graylist: "from a neighbour on the gray list", peer_rate: "the neighbour sends too much",
  author_rate: "the author sends too much", authors: "no room for another author", overload: "no room for what is being verified", queue: "pubsub's queue was full", closed: "the node was closing",
};

const bytes = (v: number) => value(v, "bytes");
const perSecond = (v: number) => value(v, "count/s");
const short = (id: string) => (id.length > 20 ? id.slice(0, 8) + "…" + id.slice(-6) : id);
const time = (t: string) => Date.parse(t);
const kindOf = (transport: string) => ({ tcp: "TCP", "quic-v1": "QUIC", quic: "QUIC" })[transport] ?? transport;

/** both is two rates, what comes and what goes. */
function both(come: string, go: string, quiet: boolean): HTMLElement {
  return h("div", { class: "n-both" + (quiet ? " muted" : "") }, h("span", { title: "comes in" }, h("i", { "aria-label": "in" }, "↓"), come), h("span", { title: "goes out" }, h("i", { "aria-label": "out" }, "↑"), go));
}

interface Column { key: string; head: string; title: string; cell: (p: Peer) => Child[] }

// The server sorts: it has more peers than an answer.
const columns: Column[] = [
  { key: "since", head: "Peer", title: "By when it came", cell: (p) => [h("div", { class: "a-name" }, h("code", { title: p.id }, short(p.id)), h("div", { class: "row" }, h("span", { class: "muted" }, `${p.direction === "inbound" ? "came" : "was dialed"} ${ago(time(p.since), serverNow())}`)))] },
  { key: "trust", head: "Trust", title: "By trust", cell: (p) => [levelTag(p.level), h("span", { class: "muted n-points" }, ` ${p.trust}`), p.read_only ? h("div", { class: "muted" }, "only listens") : null] },
  { key: "way", head: "Way", title: "", cell: (p) => [h("div", null, p.relayed ? h("span", { class: "tag hot", title: "By a relay, which limits it" }, "relay") : "direct", h("span", { class: "muted" }, ` · ${kindOf(p.transport)}`)), h("code", { class: "muted", title: p.address }, p.address)] },
  { key: "rtt", head: "Round trip", title: "By the time that the last challenge took", cell: (p) => [p.rtt_ns ? value(p.rtt_ns, "nanoseconds") : "–"] },
  { key: "messages", head: "Messages", title: "By messages a second, of the last seconds", cell: (p) => [both(perSecond(p.messages_in_per_second), perSecond(p.messages_out_per_second), !p.messages_in_per_second && !p.messages_out_per_second)] },
  { key: "bytes", head: "Bytes", title: "By bytes a second", cell: (p) => [both(bytes(Math.round(p.bytes_in_per_second)) + "/s", bytes(Math.round(p.bytes_out_per_second)) + "/s", p.bytes_in_per_second + p.bytes_out_per_second < 1)] },
  { key: "in_flight", head: "In flight", title: "By requests that are waited for and envelopes in the queue", cell: (p) => [p.in_flight ? String(p.in_flight) : h("span", { class: "muted" }, "–")] },
  { key: "pending", head: "Waiting", title: "By private messages that it has not acknowledged", cell: (p) => [p.pending ? h("span", { class: "warned" }, String(p.pending)) : h("span", { class: "muted" }, "–")] },
];

function levelTag(level: string): HTMLElement {
  return h("span", { class: "tag level-" + level }, level);
}

export class NodePage implements Page {
  readonly every = 5000;
  readonly el: HTMLElement;
  private banner = new Banner();
  private name = h("div", { class: "row n-id" });
  private facts = h("span", { class: "muted f-count", role: "status" });
  private figures = h("div", { class: "tiles n-tiles", role: "group", "aria-label": "The node's own figures" });
  private notes = h("div", null);
  private tabs = h("div", { class: "row wrap n-bar" });
  private body = h("div", { class: "n-body" });
  private ctl: AbortController | null = null;
  private have: Figures | null = null;
  private peers: Peers | null = null;
  private events: Happened | null = null;
  private closed = false; // she may not see peers: the server has said so
  private drawn = "";
  private most = step;

  constructor() {
    this.el = h("div", { class: "page narrow node" }, h("div", { class: "page-head wrap" }, h("h1", null, "Node"), this.name, h("div", { class: "grow" }), this.facts), this.banner.el, this.notes, this.figures, this.tabs, this.body);
    this.figures.append(...Array.from({ length: 4 }, () => h("div", { class: "skeleton row-skeleton" })));
  }

  get title(): string {
    const v = this.view();
    return "Node" + (v.id === "peers" ? "" : ": " + v.title.toLowerCase());
  }

  destroy(): void {
    this.ctl?.abort();
  }

  private open(v: { operator: boolean }): boolean {
    return !v.operator || may("read_node") && !this.closed;
  }

  private view(): (typeof views)[number] {
    const all = views.filter((v) => this.open(v));
    return all.find((v) => v.id === params().get("view")) ?? all[0];
  }

  // What the URL asks of the server: when that has changed, what is there is of something else.
  private wanted(): string {
    const p = params();
    return [this.view().id, p.get("sort"), p.get("only")].join(" ");
  }

  update(): void {
    if (this.have) this.draw();
    if (this.wanted() !== this.drawn) this.tick();
  }

  tick(): void {
    this.ctl?.abort();
    const ctl = (this.ctl = new AbortController()), p = params(), v = this.view();
    this.drawn = this.wanted();
    const asked = v.id === "peers" ? node.peers(p.get("sort") ?? "", ctl.signal).then((r) => { this.peers = r; })
      : v.id === "decisions" || v.id === "files" ? node.events(p.get("only") === "refused" && v.id === "decisions", ctl.signal).then((r) => { this.events = r; }) : Promise.resolve();
    const denied = (e: unknown) => {
      if (!(e instanceof Fault && e.code === "permission_denied")) throw e;
      this.closed = true; // she sees the rest
    };
    Promise.all([node.figures(ctl.signal), asked.catch(denied)]).then(([f]) => {
      if (ctl.signal.aborted) return;
      this.banner.clear();
      this.have = f;
      if (f) this.draw(true);
      else this.nobody();
      if (this.wanted() !== this.drawn) this.tick();
    }, (e) => {
      if (ctl.signal.aborted) return;
      if (!this.have) this.figures.replaceChildren();
      this.banner.fail(e, () => this.tick());
    });
  }

  // nobody says how a node is started.
  private nobody(): void {
    for (const e of [this.name, this.notes, this.figures, this.tabs]) e.replaceChildren();
    this.facts.textContent = "";
    if (this.body.querySelector(".welcome")) return;
    this.body.replaceChildren(h("div", { class: "welcome" }, h("h2", null, icon("node", 22), "No node runs beside this server"),
      h("p", { class: "muted" }, "A node speaks with others whom the guard lets in: private messages, and messages on topics. This page shows it as soon as there is one."),
      h("div", { class: "cards" }, card("With this server", "Start the server again with a node. It listens on port 4242.", "quantraband up --node"),
        card("By itself", "On another machine, or without a server. Its peers are told by a command.", "quantraband node\nquantraband p2p peers"))));
  }

  private draw(fresh = false): void {
    const f = this.have!, v = this.view(), chosen = getSelection();
    document.title = `${this.title} · Quantra-L`;
    if (fresh && chosen && !chosen.isCollapsed && this.el.contains(chosen.anchorNode)) return; // somebody is about to copy what it says
    const focus = (document.activeElement as HTMLElement | null)?.closest?.<HTMLElement>("[data-focus]")?.dataset.focus;
    rebuild(this.name, () => [h("code", { title: f.id }, short(f.id)), h("button", { class: "btn ghost tiny", type: "button", "data-focus": "copy id", "aria-label": "Copy the node's id", onclick: () => copy(f.id) }, "Copy")]);
    this.facts.textContent = [`up ${remaining(time(f.time) - time(f.since))}`, f.reach === "unknown" ? "" : f.reach, f.version].filter(Boolean).join(" · ");
    rebuild(this.figures, () => tiles(f));
    const faults = this.events?.faults ?? [];
    rebuild(this.notes, () => f.faults ? [h("ul", { class: "a-notices f-notices" }, (faults.length ? faults : [`The node has ${count(f.faults, "fault")}; the server's log has the details.`]).map((t) => h("li", { class: "bad" }, icon("warn", 14), h("span", null, t))))] : []);
    const shown = views.filter((x) => this.open(x)), tally: { [id: string]: number } = { peers: f.peers.all, topics: f.topics_total };
    rebuild(this.tabs, () => {
      const s = seg("What is shown", v.id, shown.map((x) => [x.id, tally[x.id] ? `${x.title} ${tally[x.id].toLocaleString("en")}` : x.title]), (id) => { this.most = step; set({ view: id === shown[0].id ? "" : id, open: "" }); });
      s.querySelectorAll<HTMLElement>("button").forEach((b) => (b.dataset.focus = "view " + b.dataset.value));
      return [s, h("div", { class: "grow" }), ...this.choices(v.id)];
    });
    rebuild(this.body, () => this.content(v.id, f));
    ageing(this.body);
    if (focus && !document.activeElement?.closest("[data-focus]")) this.el.querySelector<HTMLElement>(`[data-focus="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
  }

  private choices(view: string): Node[] {
    if (view !== "decisions") return [];
    const only = params().get("only") ?? "", b = pick("Decisions", only ? "Refused only" : "All", () => [{ text: "All", checked: !only, run: () => set({ only: "" }) }, { text: "Refused only", checked: !!only, run: () => set({ only: "refused" }) }]);
    b.dataset.focus = "only";
    return [b];
  }

  private content(view: string, f: Figures): Node[] {
    switch (view) {
      case "peers": return this.peers ? this.who(this.peers) : [waiting()];
      case "topics": return [topics(f)];
      case "sandbox": return [sandbox(f)];
      case "decisions": return this.events ? this.decided(this.events.decisions) : [waiting()];
    }
    return this.events ? files(this.events) : [waiting()];
  }

  private who(r: Peers): Node[] {
    const p = params(), by = columns.find((c) => c.key === (p.get("sort") ?? "since")) ?? columns[0];
    if (!r.peers.length) return [alone(r.addresses), ...away(r)];
    return [h("div", { class: "agents", role: "table", "aria-label": "Peers" },
      h("div", { class: "a-row a-head", role: "row" }, columns.map((c) => h("div", { class: "n-" + c.key, role: "columnheader", "aria-sort": c === by ? "descending" : "none" },
        c.title ? h("button", { type: "button", class: "t-sort" + (c === by ? " on" : ""), title: c.title, "data-focus": "sort " + c.key, onclick: () => set({ sort: c.key === "since" ? "" : c.key }, true) }, c.head, c === by ? h("span", { class: "t-arrow", "aria-hidden": "true" }, "↓") : null) : c.head))),
      ...r.peers.slice(0, this.most).map((x) => this.row(x))),
      ...this.more(Math.min(r.peers.length, r.total), "peer"), ...(r.total > r.peers.length && this.most >= r.peers.length ? [h("p", { class: "muted center-text" }, `${count(r.total, "peer")} are connected; the first ${r.peers.length} by this order are shown.`)] : []), ...away(r)];
  }

  private more(all: number, what: string): Node[] {
    if (all <= this.most) return [];
    return [h("div", { class: "empty small" }, `${count(all - this.most, "more " + what)}. `, h("button", { class: "linkish", type: "button", "data-focus": "more", onclick: () => { this.most += step; this.draw(); } }, `Show ${Math.min(step, all - this.most)}`))];
  }

  private row(p: Peer): HTMLElement {
    const open = params().get("open") === p.id, turn = () => set({ open: open ? "" : p.id }, true);
    return h("div", { class: "a-item" + (open ? " open" : ""), role: "rowgroup", "data-peer": p.id },
      h("div", { class: "a-row", role: "row", onclick: (e: Event) => { if (!(e.target as Element).closest("a,button") && getSelection()?.isCollapsed !== false) turn(); } },
        columns.map((c, i) => h("div", { class: "n-" + c.key, role: "cell", "data-head": c.head }, i ? null : h("button", { class: "g-twist" + (open ? " open" : ""), type: "button", "aria-expanded": String(open), "aria-label": `Details of ${short(p.id)}`, "data-focus": "open " + p.id, onclick: turn }, icon("chevron", 12)), c.cell(p)))),
      open ? this.details(p) : null);
  }

  private details(p: Peer): HTMLElement {
    return h("div", { class: "a-more" },
      h("div", { class: "a-acts row wrap" },
        h("button", { class: "btn", type: "button", "data-focus": "copy " + p.id, onclick: () => copy(p.id) }, "Copy its id"),
        h("a", { class: "btn", href: link("/node", { view: "decisions" }) }, icon("guard"), "Decisions"),
        may("change_node") ? h("button", { class: "btn danger", type: "button", "data-focus": "end " + p.id, onclick: () => endDialog(p, () => this.tick()) }, "End its session…") : null),
      h("div", { class: "a-facts" },
        part("Who", [["id", h("code", null, p.id)], ["level", p.level], ["trust", `${p.trust} of 100`], ["may", p.read_only ? "listen alone" : "what the policies say"], ["program", p.agent], ["session", h("code", null, p.session)]]),
        part("Connection", [["address", h("code", null, p.address)], ["way", (p.relayed ? "by a relay" : "direct") + ", " + kindOf(p.transport)], ["begun by", p.direction === "inbound" ? "the peer" : "us"], ["since", stamp(time(p.since))], ["round trip", p.rtt_ns ? value(p.rtt_ns, "nanoseconds") + ", of the last challenge" : ""], ["streams", String(p.streams)]]),
        part("Messages", [["came", p.messages_in.toLocaleString("en")], ["went", p.messages_out.toLocaleString("en")], ["in flight", String(p.in_flight)], ["wait for it", p.pending ? count(p.pending, "private message") : "none"], ["hears", count(p.topics, "topic")], ["score", p.score < 0 ? p.score.toFixed(1) + ", for what it sent" : "0: nothing is held against it"], ["remembered", count(p.rights, "decision")]])));
  }

  private decided(all: Decision[]): Node[] {
    const only = params().get("only") === "refused";
    if (!all.length) return [h("div", { class: "empty small" }, only ? "Nothing was refused lately." : "The guard has decided nothing of peers yet.")];
    return [h("ol", { class: "f-list n-list", "aria-label": "Decisions, the newest first" }, all.slice(0, this.most).map(decision)), ...this.more(all.length, "line"),
      h("p", { class: "muted center-text" }, "The last 256 that were allowed and the last 256 of all else, since the start. All of them are in the audit log: ", h("code", null, "quantraband audit tail"), ".")];
  }
}

function waiting(): Node {
  return h("div", { class: "skeleton row-skeleton" });
}

function tiles(f: Figures): Node[] {
  const tile = (name: string, text: Child[], below: Child[], cls = "", title = "") => h("div", { class: "tile " + cls, title }, h("div", { class: "muted" }, name), h("b", null, text), h("div", { class: "muted n-below" }, below.length ? below : " "));
  const spark = (v: number[], label: string) => (v.length > 2 ? sparkline(v, 96, 22, label) : null);
  const past = f.past, total = past.messages_in_per_second.map((v, i) => v + past.messages_out_per_second[i]), minutes = `the last ${remaining(past.messages_in_per_second.length * past.step_s * 1000)}`;
  const levels = ["critical", "privileged", "verified", "basic", "untrusted"].filter((l) => f.peers.levels[l]).map((l) => `${f.peers.levels[l]} ${l}`);
  return [
    tile("Messages a second", [perSecond(f.messages_in_per_second + f.messages_out_per_second).replace("/s", "")], [both(perSecond(f.messages_in_per_second), perSecond(f.messages_out_per_second), false), spark(total, `Messages a second, ${minutes}`)]),
    tile("Peers", [f.peers.all.toLocaleString("en")], [[...levels, f.peers.relayed ? `${f.peers.relayed} by a relay` : ""].filter(Boolean).join(" · ") || "nobody is connected"]),
    tile("Traffic", [bytes(Math.round(f.bytes_in_per_second + f.bytes_out_per_second)) + "/s"], [both(bytes(Math.round(f.bytes_in_per_second)) + "/s", bytes(Math.round(f.bytes_out_per_second)) + "/s", false)]),
    tile("Private messages waiting", [f.pending.toLocaleString("en")], [f.pending ? `${bytes(f.pending_bytes)}, kept on disk` : "all are acknowledged"], "", "Sent, and not acknowledged by the peer"),
    tile("Processor", [value(f.process.cpu_cores, "cores")], ["of the whole server", spark(past.cpu_cores, `Processor, ${minutes}`)]),
    tile("Memory", [f.process.memory_bytes ? bytes(f.process.memory_bytes) : "–"], [count(f.process.goroutines, "goroutine")]),
    tile("Connections refused", [(f.counts.refused + f.counts.denied).toLocaleString("en")], [`${count(f.counts.judged, "was", "were")} let in, ${count(f.counts.failed, "handshake")} failed`], "", `${f.counts.refused} before any work with keys, ${f.counts.denied} by the guard`),
  ];
}

// alone says how others come.
function alone(addresses: string[]): Node {
  return h("div", { class: "welcome n-alone" }, h("h2", null, icon("node", 22), "Nobody is connected"), h("p", { class: "muted" }, "Peers of the local network are found by themselves, and let in where the guard says so. Others come by an invitation, or are told an address of this node."),
    h("div", { class: "cards" }, card("Invite somebody", "It prints a short code; the other side joins with it.", "quantraband p2p invite"),
      card("Or tell an address", addresses.length ? "With --bootstrap the other node stays connected." : "This node has no address yet.", addresses.slice(0, 4).join("\n") || "–")));
}

function away(r: Peers): Node[] {
  if (!r.away.length) return [];
  return [h("section", { class: "panel n-panel", "aria-label": "Away" }, h("h2", null, "Away, with messages waiting"),
    h("ul", { class: "n-away" }, r.away.slice(0, 50).map((a) => h("li", null, h("code", { title: a.id }, short(a.id)), h("span", null, count(a.pending, "private message")))), r.away.length > 50 ? h("li", { class: "muted" }, `and ${count(r.away.length - 50, "more peer")}`) : null))];
}

function topics(f: Figures): Node {
  if (!f.topics.length) return h("div", { class: "empty" }, h("h2", null, "No topics"), h("p", null, "A topic is here while somebody hears it by this node, or publishes to it: ", h("code", null, "quantraband p2p subscribe TOPIC"), ", or from the start with ", h("code", null, "up --node-topic TOPIC"), "."));
  const row = (t: Topic) => h("tr", { "data-topic": t.topic }, h("th", { scope: "row" }, h("code", null, t.topic), t.heard ? null : h("span", { class: "muted" }, " only published to")),
    h("td", { title: `${t.mesh} of them are sent to directly` }, String(t.listeners)), h("td", null, perSecond(t.messages_in_per_second)), h("td", null, perSecond(t.messages_out_per_second)),
    h("td", null, t.messages_in.toLocaleString("en"), h("div", { class: "muted" }, `${t.messages_out.toLocaleString("en")} ours`)), h("td", null, t.waiting ? String(t.waiting) : "–"),
    h("td", { class: "n-refused" }, Object.keys(t.refused).length ? h("div", { class: "row wrap tight" }, Object.entries(t.refused).sort((a, b) => b[1] - a[1]).map(([why, n]) => h("span", { class: "tag bad", title: reasons[why] ?? why }, `${why.replaceAll("_", " ")} ${n.toLocaleString("en")}`))) : h("span", { class: "muted" }, "nothing")));
  return h("section", { class: "panel n-panel", "aria-label": "Topics" }, h("div", { class: "c-wide", tabindex: "0", role: "region", "aria-label": "Topics" }, h("table", { class: "moved n-topics" },
    h("thead", null, h("tr", null, [["Topic", ""], ["Listeners", "Neighbours that hear it"], ["In", "Messages a second that were verified and taken"], ["Out", "Messages a second of ours"], ["Taken", "Messages since the topic was joined"], ["Waiting", "Messages of ours that are not sent yet"], ["Refused", "By reason, since the topic was joined"]].map(([t, title]) => h("th", { scope: "col", title: title || undefined }, t)))),
    h("tbody", null, f.topics.map(row)))), f.topics_total > f.topics.length ? h("p", { class: "muted" }, `The busiest ${f.topics.length} of ${f.topics_total}.`) : null);
}

function decision(d: Decision): HTMLElement {
  const about = d.what === "decision" ? h("span", null, h("b", null, d.action), " ", h("code", { title: d.resource }, d.resource.replace(/12D3KooW\w+/g, short))) : h("b", null, d.what);
  const outcome = d.allowed ? h("span", { class: "tag n-ok" }, "allowed") : h("span", { class: "tag bad" }, d.what === "decision" ? "refused" : "ended");
  return h("li", { "data-what": d.what }, h("div", { class: "n-line" }, outcome, h("div", null, about, " ", h("span", { class: "muted" }, d.what === "decision" ? "by " : "of "), d.principal ? h("code", { title: d.principal }, short(d.principal)) : h("span", { class: "muted" }, "one who showed no identity"),
    h("div", { class: "muted" }, d.reason, d.policies.length ? [" · ", d.policies.join(", ")] : "", ` · ${d.level}, trust ${d.trust}`)), h("div", { class: "n-when" }, when(time(d.time)), d.times > 1 ? h("div", { class: "muted", title: `Since ${stamp(time(d.first))}` }, `${d.times.toLocaleString("en")} times`) : null)));
}

const states: { [state: string]: [string, string] } = { yes: ["there", "n-ok"], no: ["not there", "bad"], weak: ["no boundary", "bad"], untried: ["not tried yet", ""] };

function sandbox(f: Figures): Node {
  const s = f.seats;
  if (!s) return h("div", { class: "empty" }, h("h2", null, "There are no seats"), h("p", null, "The server was started with ", h("code", null, "--isolations none"), ". A peer of level privileged or above is refused without a seat: start with ", h("code", null, "quantraband up --node --isolations wasm,process"), "."));
  const share = s.all ? Math.min(1, s.taken / s.all) : 0, full = s.taken >= s.all;
  return h("section", { class: "panel n-panel", "aria-label": "Sandbox" }, h("h2", null, "Seats"),
    h("div", { class: "meter n-seats" + (full ? " over" : "") }, h("span", null, `${s.taken} of ${count(s.all, "seat")} taken, ${count(s.sessions, "session")} running`), h("div", { class: "meter-bar" }, h("i", { style: `width:${(share * 100).toFixed(1)}%` }))),
    full ? h("p", { class: "worse" }, "All seats are taken: the next peer of level privileged or above is refused.") : null,
    h("div", { class: "c-wide", tabindex: "0", role: "region", "aria-label": "Isolations" }, h("table", { class: "moved nodes" }, h("thead", null, h("tr", null, ["Isolation", "State", "Boundary", "Starts in", "How, or why not", "Tried"].map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", null, s.isolations.map((i) => h("tr", null, h("th", { scope: "row" }, i.isolation), h("td", null, h("span", { class: "tag " + (states[i.state]?.[1] ?? "") }, states[i.state]?.[0] ?? i.state)), h("td", null, i.boundary || "–"), h("td", null, i.start_ns ? value(i.start_ns, "nanoseconds") : "–"), h("td", null, i.text || "–"), h("td", null, i.at ? moment(time(i.at)) : "–")))))));
}

function files(e: Happened): Node[] {
  if (!e.watched && !e.files.length) return [h("div", { class: "empty" }, h("h2", null, "Files are not watched"), h("p", null, "With ", h("code", null, "quantraband up --integrity"), " the server watches its program, its keys and its settings, and what changes is here with how bad it is."))];
  if (!e.files.length) return [h("div", { class: "empty small" }, "No watched file has changed since the start.")];
  const line = (x: FileEvent) => h("li", null, h("div", { class: "n-line" }, h("span", { class: "tag " + (x.severity === "critical" ? "bad" : x.severity === "warning" ? "hot" : "") }, x.severity),
    h("div", null, h("b", null, x.what || x.kind), " ", x.path ? h("code", null, x.path) : null, x.from ? h("span", { class: "muted" }, ` from ${x.from}`) : null, h("div", { class: "muted" }, [x.aspects?.join(", "), x.text].filter(Boolean).join(" · "))), h("div", { class: "n-when" }, when(time(x.time)))));
  return [h("ol", { class: "f-list n-list", "aria-label": "Events of watched files, the newest first" }, e.files.map(line)),
    h("p", { class: "muted center-text" }, "Who changed a file is in the audit log: ", h("code", null, "quantraband audit tail"), ".")];
}

// endDialog asks whether a peer's session is to be ended, and ends it.
function endDialog(p: Peer, done: () => void): void {
  const why = h("input", { class: "input", name: "reason", placeholder: "Why? The audit log keeps it", maxlength: "100", "aria-label": "Reason" }), err = h("div", { class: "field-error", role: "alert", hidden: true });
  const go = h("button", { class: "btn danger", type: "submit" }, "End the session");
  const send = (e: Event) => {
    e.preventDefault();
    if (go.disabled) return;
    go.disabled = true;
    node.terminate(p.id, why.value.trim()).then(() => {
      dialog.close();
      toast("The session has ended");
      done();
    }, (e) => {
      go.disabled = false;
      err.hidden = false;
      err.textContent = e instanceof Fault ? `${e.message} ${e.remedy}` : String(e);
    });
  };
  const dialog = h("dialog", { class: "dialog", "aria-labelledby": "end-title" }, h("form", { class: "c-start", onsubmit: send }, h("h2", { id: "end-title" }, "End this session?"),
    h("p", null, h("code", null, p.id)), h("p", null, "Its connection ends at once, and its trust is not changed. It may come again: to keep it out, revoke its identity with ", h("code", null, "quantraband identity revoke"), "."), why, err,
    h("div", { class: "row end" }, h("button", { class: "btn", type: "button", onclick: () => dialog.close() }, "Cancel"), go)));
  dialog.addEventListener("close", () => {
    dialog.remove();
    const at = (s: string) => document.querySelector<HTMLElement>(s);
    (at(`[data-focus="${CSS.escape("end " + p.id)}"]`) ?? at('.n-bar [aria-checked="true"]'))?.focus({ preventScroll: true });
  });
  dialog.addEventListener("pointerdown", (e) => { if (e.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (e) => {
    e.stopPropagation();
    if (e.repeat && e.key === "Enter") e.preventDefault(); // who holds the key that opened it has not confirmed
  });
  document.body.append(dialog);
  dialog.showModal();
  why.focus();
}
