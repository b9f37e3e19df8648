// The first page: what sends profiles, and how to send some.

import { api, Fault, type SeriesResponse, type Service } from "./api";
import { copy, h, icon, rebuild } from "./dom";
import { Banner, rangePick } from "./controls";
import { ago, count, rate, sortTypes, stamp, typeInfo, value } from "./format";
import { apiRange, fitDefault, go, link, niceStep, params, serviceSpan, set, sidesOf, span, type Span } from "./state";
import { sparkline } from "./timeline";
import { watch } from "./watch";
import type { Page } from "./main";

const mostFindings = 1000; // that the server lists
let unwatched = false; // a server without analysis is asked once

export class ServicesPage implements Page {
  readonly title = "Services";
  readonly el: HTMLElement;
  private banner = new Banner();
  private range = h("div", null);
  private filter = h("input", { class: "input filter-services", type: "search", placeholder: "Filter services", spellcheck: "false", "aria-label": "Filter services", hidden: true });
  private list = h("div", { class: "services" });
  private ctl: AbortController | null = null;
  private have: { services: Service[]; series: SeriesResponse; type: string; range: Span; from: number; step: number } | null = null;
  private open = new Map<string, number>(); // findings, by service
  private openAll = true; // or only those that the server lists

  constructor() {
    this.filter.value = params().get("q") ?? "";
    this.filter.addEventListener("input", () => set({ q: this.filter.value }, true));
    this.el = h("div", { class: "page" }, h("div", { class: "page-head" }, h("h1", null, "Services"), this.filter, h("div", { class: "grow" }), this.range), this.banner.el, this.list);
    this.list.append(...Array.from({ length: 3 }, () => h("div", { class: "skeleton row-skeleton" })));
  }

  destroy(): void {
    this.ctl?.abort();
  }

  update(): void {
    const p = params(), s = span(p);
    rebuild(this.range, () => [rangePick(s, (from, to) => set({ from, to: to === "now" ? "" : to }))]);
    if (this.have && this.have.range.from === s.from && this.have.range.to === s.to) this.draw();
    else this.tick();
  }

  tick(): void {
    this.ctl?.abort();
    const ctl = (this.ctl = new AbortController());
    this.load(ctl.signal).catch((e) => {
      if (ctl.signal.aborted) return;
      if (!this.have) this.list.replaceChildren();
      this.banner.fail(e, () => this.tick());
    });
    if (!unwatched) this.count(ctl.signal);
  }

  // How many findings there are is beside the point when it cannot be told: the services are shown without.
  private count(signal: AbortSignal): void {
    watch.list({ state: "open", limit: String(mostFindings) }, signal).then(({ findings }) => {
      this.open.clear();
      this.openAll = findings.length < mostFindings;
      for (const { finding: f } of findings) this.open.set(f.service, (this.open.get(f.service) ?? 0) + 1);
      if (this.have) this.draw();
    }, (e) => {
      unwatched = e instanceof Fault && e.code === "not_found";
      if (!signal.aborted) this.open.clear();
    });
  }

  private async load(signal: AbortSignal): Promise<void> {
    const services = (await api.services(apiRange(serviceSpan(params())), signal)).services ?? [];
    fitDefault(services);
    const s = span(params()), step = niceStep(s.toMs - s.fromMs), from = Math.floor(s.fromMs / step) * step;
    const type = services.flatMap((x) => x.profileTypes ?? []).find((t) => t.startsWith("process_cpu:cpu:")) ?? "";
    const series = type ? await api.series({ profileType: type, matchers: "", range: apiRange({ fromMs: from, toMs: s.toMs }) }, step, ["service_name"], signal) : {};
    this.banner.clear();
    this.have = { services, series, type, range: s, from, step: Number(series.stepMs ?? step) };
    rebuild(this.range, () => [rangePick(s, (a, b) => set({ from: a, to: b === "now" ? "" : b }))]);
    this.draw();
  }

  private draw(): void {
    const { services, series, type, range: s, from, step } = this.have!;
    this.filter.hidden = services.length <= 10 && !this.filter.value;
    if (!services.length) {
      this.list.replaceChildren(emptyState(s.live ? "Waiting for the first profile" : "No profiles in this range", s.live));
      return;
    }
    const q = this.filter.value.trim().toLowerCase(), shown = services.filter((x) => x.name.toLowerCase().includes(q));
    if (!shown.length) {
      this.list.replaceChildren(h("div", { class: "empty" }, `None of the ${services.length} services has “${this.filter.value}” in its name.`));
      return;
    }
    const lines = new Map((series.lines ?? []).map((l) => [l.labels?.[0]?.value ?? "", l]));
    const now = Date.now(), n = Math.ceil((s.toMs - s.fromMs) / step) + 1;
    this.list.replaceChildren(h("div", { class: "s-row s-head", "aria-hidden": "true" }, ["Service", "CPU", "", "Versions", "Instances", "Profiles", "Last seen"].map((t) => h("div", null, t))),
      ...shown.map((v) => {
        const l = lines.get(v.name), cpu = new Array<number>(n).fill(0);
        l?.tMs?.forEach((t, i) => {
          const k = Math.floor((t - from) / step);
          if (k >= 0 && k < n) cpu[k] = rate(typeInfo(type), step).of(l.value?.[i] ?? 0, 1);
        });
        // What has not arrived yet is not a fall: a live line ends where its last whole step does.
        let end = n - 1;
        for (let k = 0; s.live && k < Math.max(2, 90_000 / step) && end > 3 && !cpu[end - 1]; k++) end--;
        return this.row(v, l ? cpu.slice(0, end) : null, now, s.from, s.to);
      }));
    // A new server profiles nobody but itself: that is no reason to stop helping.
    if (services.length === 1 && services[0].name === "quantraband" && s.live) this.list.append(emptyState("Only this server itself so far", true));
  }

  private row(v: Service, cpu: number[] | null, now: number, from: string, to: string): HTMLElement {
    const types = sortTypes(v.profileTypes ?? []);
    const p = params(), keep = { from: p.get("from") ? from : "", to: p.get("to") ? to : "" };
    const busy = cpu?.filter((x) => x > 0) ?? [], mean = busy.length ? busy.reduce((a, b) => a + b, 0) / busy.length : 0;
    const last = Number(v.lastMs ?? 0), vs = v.versions ?? [];
    const url = link("/explore", { service: v.name, type: types[0], ...keep });
    return h("div", { class: "s-row", "data-service": v.name, onclick: (e: Event) => { if (!(e.target as Element).closest("a")) go(url); } },
      h("div", { class: "s-name" }, h("a", { href: url }, v.name), this.open.has(v.name) ? h("a", { class: "tag hot", href: link("/findings", { service: v.name, state: "open" }), title: "What was found and is not fixed" }, count(this.open.get(v.name)!, "finding") + (this.openAll ? "" : " or more")) : null,
        h("div", { class: "s-types" }, types.filter((t) => !/:(samples|alloc_objects|inuse_objects|contentions|acquisitions):|^runtime:/.test(t)).map((t) => h("a", { class: "tag", href: link("/explore", { service: v.name, type: t, ...keep }) }, typeInfo(t).name)),
          h("a", { class: "tag", href: link("/live", { service: v.name }), title: "What its goroutines do now" }, "Goroutines now"))),
      h("div", { class: "s-num" }, cpu ? value(mean, "cores") : "–"),
      h("div", null, cpu ? sparkline(cpu, 180, 32, "CPU over the range") : null),
      h("div", { class: "s-versions" }, vs.slice(-3).map((x) => h("span", { class: "tag plain", title: x }, x.slice(0, 12))), vs.length > 3 ? h("span", { class: "muted" }, "+" + (vs.length - 3)) : null,
        vs.length > 1 ? h("a", { class: "s-compare", href: link("/diff", { service: v.name, type: types[0], ...keep, ...sidesOf(vs, "") }) }, "Compare") : null),
      h("div", { class: "s-num" }, String(v.instances ?? 0)),
      h("div", { class: "s-num", title: count(v.profiles ?? 0, "profile") }, (v.profiles ?? 0).toLocaleString("en")),
      h("div", { class: "s-num", title: last ? stamp(last) : "" }, last ? ago(last, now) : "–"));
  }
}

export function card(title: string, why: string, code: string): HTMLElement {
  return h("section", { class: "card" }, h("h3", null, title), h("p", null, why),
    h("div", { class: "code" }, h("pre", null, code), h("button", { class: "btn tiny", type: "button", onclick: () => copy(code) }, "Copy")));
}

/** agentCard says how a Go program starts the agent. */
export function agentCard(): HTMLElement {
  return card("A Go program", "Import the agent and start it in main.", `import "github.com/quantra-l/quantra/agent"

a, err := agent.Start(ctx, agent.Options{
    Service: "checkout",
    Server:  "${location.origin}",
})
defer a.Stop(ctx)`);
}

function emptyState(title: string, live: boolean): HTMLElement {
  const base = location.origin;
  return h("div", { class: "welcome" },
    h("h2", null, icon("flame", 22), title),
    h("p", { class: "muted" }, live ? "This page fills by itself as soon as a program sends one. Pick a way:" : "Choose another range above, or send some:"),
    h("div", { class: "cards" },
      agentCard(),
      card("Any pprof file", "Post the bytes; labels go in the query.", `go test -bench . -cpuprofile cpu.pb.gz ./...
curl --data-binary @cpu.pb.gz \\
  "${base}/api/v1/profiles?service_name=bench"`),
      card("A program that uses Pyroscope's SDK", "Change its address and nothing else.", `pyroscope.Start(pyroscope.Config{
    ApplicationName: "checkout",
    ServerAddress:   "${base}",
})`),
      card("No program at hand", "A small fleet with a planted regression.", "quantraband up --demo")));
}
