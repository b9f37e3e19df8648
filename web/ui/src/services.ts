// The first page: what sends profiles, and how to send some.

import { api, type Service } from "./api";
import { copy, h, icon } from "./dom";
import { Banner, rangePick } from "./controls";
import { ago, count, rate, sortTypes, stamp, typeInfo, value } from "./format";
import { apiRange, go, link, niceStep, params, set, span } from "./state";
import { sparkline } from "./timeline";
import type { Page } from "./main";

export class ServicesPage implements Page {
  readonly title = "Services";
  readonly el: HTMLElement;
  private banner = new Banner();
  private bar = h("div", { class: "page-head" });
  private list = h("div", { class: "services" });
  private ctl: AbortController | null = null;
  private first = true;

  constructor() {
    this.el = h("div", { class: "page" }, this.bar, this.banner.el, this.list);
    this.list.append(...Array.from({ length: 3 }, () => h("div", { class: "skeleton row-skeleton" })));
  }

  destroy(): void {
    this.ctl?.abort();
  }

  update(): void {
    const p = params(), s = span(p);
    this.bar.replaceChildren(h("h1", null, "Services"), h("div", { class: "grow" }), rangePick(s, (from, to) => set({ from, to })));
    this.tick();
  }

  tick(): void {
    this.ctl?.abort();
    const ctl = (this.ctl = new AbortController());
    this.load(ctl.signal).catch((e) => {
      if (ctl.signal.aborted) return;
      if (this.first) this.list.replaceChildren();
      this.banner.fail(e, () => this.tick());
    });
  }

  private async load(signal: AbortSignal): Promise<void> {
    const s = span(params()), step = niceStep(s.toMs - s.fromMs);
    const range = apiRange({ fromMs: Math.floor(s.fromMs / step) * step, toMs: s.toMs });
    const services = (await api.services(apiRange(s), signal)).services ?? [];
    const type = services.flatMap((x) => x.profileTypes ?? []).find((t) => t.startsWith("process_cpu:cpu:"));
    const series = type ? await api.series({ profileType: type, matchers: "", range }, step, ["service_name"], signal) : {};
    this.first = false;
    this.banner.clear();
    if (!services.length) {
      this.list.replaceChildren(emptyState(s.live));
      return;
    }
    const got = Number(series.stepMs ?? step);
    const lines = new Map((series.lines ?? []).map((l) => [l.labels?.[0]?.value ?? "", l]));
    const now = Date.now(), n = Math.ceil((s.toMs - s.fromMs) / got) + 1;
    this.list.replaceChildren(h("div", { class: "s-row s-head", "aria-hidden": "true" }, ["Service", "CPU", "", "Versions", "Instances", "Profiles", "Last seen"].map((t) => h("div", null, t))),
      ...services.map((v) => {
        const l = lines.get(v.name), cpu = new Array<number>(n).fill(0);
        l?.tMs?.forEach((t, i) => {
          const k = Math.floor((t - Number(range.fromMs)) / got);
          if (k >= 0 && k < n) cpu[k] = rate(typeInfo(type!), got).of(l.value?.[i] ?? 0, 1);
        });
        // What has not arrived yet is not a fall: a live line ends where its last whole step does.
        let end = n - 1;
        for (let k = 0; s.live && k < Math.max(2, 90_000 / got) && end > 3 && !cpu[end - 1]; k++) end--;
        return this.row(v, l ? cpu.slice(0, end) : null, now, s.from, s.to);
      }));
  }

  private row(v: Service, cpu: number[] | null, now: number, from: string, to: string): HTMLElement {
    const types = sortTypes(v.profileTypes ?? []);
    const p = params(), keep = { from: p.get("from") ? from : "", to: p.get("to") ? to : "" };
    const busy = cpu?.filter((x) => x > 0) ?? [], mean = busy.length ? busy.reduce((a, b) => a + b, 0) / busy.length : 0;
    const last = Number(v.lastMs ?? 0), vs = v.versions ?? [];
    const url = link("/explore", { service: v.name, type: types[0], ...keep });
    return h("div", { class: "s-row", "data-service": v.name, onclick: (e: Event) => { if (!(e.target as Element).closest("a")) go(url); } },
      h("div", { class: "s-name" }, h("a", { href: url }, v.name),
        h("div", { class: "s-types" }, types.filter((t) => !/:(samples|alloc_objects|inuse_objects|contentions):/.test(t)).map((t) => h("a", { class: "tag", href: link("/explore", { service: v.name, type: t, ...keep }) }, typeInfo(t).name)))),
      h("div", { class: "s-num" }, cpu ? value(mean, "cores") : "–"),
      h("div", null, cpu ? sparkline(cpu, 180, 32, "CPU over the range") : null),
      h("div", { class: "s-versions" }, vs.slice(-3).map((x) => h("span", { class: "tag plain", title: x }, x.slice(0, 12))), vs.length > 3 ? h("span", { class: "muted" }, "+" + (vs.length - 3)) : null,
        vs.length > 1 ? h("a", { class: "s-compare", href: link("/diff", { service: v.name, type: types[0], ...keep, "a.labels": `{service_version=${JSON.stringify(vs[vs.length - 2])}}`, "b.labels": `{service_version=${JSON.stringify(vs[vs.length - 1])}}` }) }, "Compare") : null),
      h("div", { class: "s-num" }, String(v.instances ?? 0)),
      h("div", { class: "s-num", title: count(v.profiles ?? 0, "profile") }, (v.profiles ?? 0).toLocaleString("en")),
      h("div", { class: "s-num", title: last ? stamp(last) : "" }, last ? ago(last, now) : "–"));
  }
}

function emptyState(live: boolean): HTMLElement {
  const base = location.origin;
  const card = (title: string, why: string, code: string) => h("section", { class: "card" }, h("h3", null, title), h("p", null, why),
    h("div", { class: "code" }, h("pre", null, code), h("button", { class: "btn tiny", type: "button", onclick: () => copy(code) }, "Copy")));
  return h("div", { class: "welcome" },
    h("h2", null, icon("flame", 22), live ? "Waiting for the first profile" : "No profiles in this range"),
    h("p", { class: "muted" }, live ? "This page fills by itself as soon as a program sends one. Pick a way:" : "Choose another range above, or send some:"),
    h("div", { class: "cards" },
      card("A Go program", "Import the agent and start it in main.", `import "github.com/quantra-l/quantra/agent"

a, err := agent.Start(ctx, agent.Options{
    Service: "checkout",
    Server:  "${base}",
})
defer a.Stop(ctx)`),
      card("Any pprof file", "Post the bytes; labels go in the query.", `go test -bench . -cpuprofile cpu.pb.gz ./...
curl --data-binary @cpu.pb.gz \\
  "${base}/api/v1/profiles?service_name=bench"`),
      card("A program that uses Pyroscope's SDK", "Change its address and nothing else.", `pyroscope.Start(pyroscope.Config{
    ApplicationName: "checkout",
    ServerAddress:   "${base}",
})`),
      card("No program at hand", "A small fleet with a planted regression.", "quantraband up --demo")));
}
