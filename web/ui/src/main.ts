// The dashboard: a shell, a router and a timer for live refresh.

import { onReach } from "./api";
import { closeMenu, h, icon, rebuild, seg, tip } from "./dom";
import { DiffPage } from "./diff";
import { ExplorePage } from "./explore";
import { ServicesPage } from "./services";
import { go, onNavigate, params, set, span } from "./state";
import { setTheme, theme, type Theme } from "./theme";
import { pick } from "./dom";

/** Page is one page while it is shown. update is called when the URL has changed, tick when data may have. */
export interface Page {
  readonly el: HTMLElement;
  readonly title: string;
  /** controls sit in the page's bar, beside refresh. */
  update(): void;
  tick(): void;
  destroy(): void;
}

const pages: { [path: string]: [string, () => Page] } = {
  "/": ["Services", () => new ServicesPage()],
  "/explore": ["Explore", () => new ExplorePage()],
  "/diff": ["Compare", () => new DiffPage()],
};

const main = h("main", { class: "main", id: "main" });
const nav = h("nav", { class: "nav", "aria-label": "Pages" });
const live = h("div", { class: "row" });
const look = h("div", null);
let page: Page | null = null, path = "", timer = 0, lost = false;

function refreshMs(): number {
  const p = params(), r = p.get("refresh");
  if (r === "off" || (location.pathname === "/diff" && !r)) return 0;
  if (!span(p).live) return 0;
  return r && /^\d+s$/.test(r) ? Math.max(2, parseInt(r)) * 1000 : 10_000;
}

function shell(): void {
  const p = params(), keep = new URLSearchParams();
  for (const k of ["service", "type", "from", "to", "labels"]) if (p.get(k)) keep.set(k, p.get(k)!);
  nav.replaceChildren(...Object.entries(pages).map(([url, [name]]) => {
    const q = url === "/" ? new URLSearchParams([...keep].filter(([k]) => k === "from" || k === "to")).toString() : keep.toString();
    return h("a", { class: "nav-item", href: url + (q ? "?" + q : ""), "aria-current": location.pathname === url ? "page" : undefined }, icon(url === "/" ? "grid" : url === "/diff" ? "diff" : "flame"), name);
  }));
  const ms = refreshMs(), closed = !span(p).live;
  const now = ms ? `${ms / 1000} s` : "Off";
  rebuild(live, () => page ? [
    lost ? h("span", { class: "live lost", role: "status", title: "The server does not answer" }, h("i"), "Not reached")
      : ms ? h("span", { class: "live", title: `The page refreshes every ${now}` }, h("i"), "Live") : "",
    closed ? "" : pick("Refresh", now, () => [["off", "Off"], ["5s", "5 s"], ["10s", "10 s"], ["30s", "30 s"]].map(([v, text]) => ({ text, checked: v === (ms ? ms / 1000 + "s" : "off"), run: () => set({ refresh: v }, true) })), "refresh", "ghost"),
    closed ? "" : h("button", { class: "btn ghost", type: "button", title: "Refresh now", "aria-label": "Refresh now", onclick: () => page?.tick() }, icon("refresh")),
  ] : []);
  clearInterval(timer);
  if (ms) timer = window.setInterval(() => { if (!document.hidden) page?.tick(); }, ms);
}

function themes(): void {
  const names: [Theme, "auto" | "sun" | "moon"][] = [["auto", "auto"], ["light", "sun"], ["dark", "moon"]];
  const s = seg("Theme", theme(), names.map(([t]) => [t, ""]), (t) => { setTheme(t); themes(); });
  [...s.children].forEach((b, i) => {
    b.append(icon(names[i][1], 13));
    b.setAttribute("aria-label", names[i][0] + " theme");
    b.setAttribute("title", names[i][0] === "auto" ? "As the system" : names[i][0]);
  });
  s.classList.add("theme");
  look.replaceChildren(s);
}

function show(): void {
  closeMenu();
  tip.hide();
  const known = pages[location.pathname];
  if (!page || path !== location.pathname) {
    page?.destroy();
    path = location.pathname;
    page = known ? known[1]() : null;
    main.replaceChildren(page?.el ?? h("div", { class: "empty" }, h("h2", null, "There is no such page"), h("p", null, h("a", { href: "/" }, "Go to the services"))));
  }
  page?.update();
  document.title = (page ? page.title + " · " : "") + "Quantra-L";
  shell();
}

document.addEventListener("click", (e) => {
  const a = (e.target as Element).closest?.("a");
  if (!a || a.dataset.raw !== undefined || a.origin !== location.origin || a.target || e.metaKey || e.ctrlKey || e.shiftKey || e.button) return;
  e.preventDefault();
  go(a.pathname + a.search);
});
document.addEventListener("keydown", (e) => {
  const t = e.target as HTMLElement;
  if (e.key !== "/" || e.ctrlKey || e.metaKey || /^(INPUT|TEXTAREA|SELECT)$/.test(t.tagName)) return;
  const s = document.querySelector<HTMLInputElement>(".search-input");
  if (!s) return;
  e.preventDefault();
  s.focus();
  s.select();
});

document.getElementById("app")!.append(
  h("header", { class: "top" }, h("a", { class: "brand", href: "/" }, h("img", { src: "/icon.svg", width: 20, height: 20, alt: "" }), "Quantra-L"), nav, h("div", { class: "grow" }), live, look), main);
themes();
onReach((now) => { lost = !now; shell(); });
onNavigate(show);
show();
