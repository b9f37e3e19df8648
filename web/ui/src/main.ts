// The dashboard: a shell, a router and a timer for live refresh.

import { Fault, onLost, onReach } from "./api";
import { AgentsPage } from "./agents";
import { ChangePage } from "./change";
import { ChangesPage } from "./changes";
import { closeMenu, h, icon, rebuild, seg, tip, type Icon } from "./dom";
import { DiffPage } from "./diff";
import { ExplorePage } from "./explore";
import { FindingPage } from "./finding";
import { FindingsPage } from "./findings";
import { guard, onWaiting, waits } from "./guard";
import { LivePage } from "./live";
import { NodePage } from "./node";
import { ServicesPage } from "./services";
import { badge, canRaise, enter, factorPage, loginPage, may, whyLogin } from "./session";
import { count } from "./format";
import { go, link, onNavigate, params, set, span } from "./state";
import { setTheme, theme, type Theme } from "./theme";
import { pick } from "./dom";

/** Page is one page while it is shown. update is called when the URL has changed, tick when data may have. */
export interface Page {
  readonly el: HTMLElement;
  readonly title: string;
  /** every is how often the page refreshes where nobody says otherwise, in ms, of a page that shows how things are now; 0 is not at all. */
  readonly every?: number;
  /** controls sit in the page's bar, beside refresh. */
  update(): void;
  /** asked says that a person wants it now. */
  tick(asked?: boolean): void;
  destroy(): void;
}

const pages: { [path: string]: [string, Icon, () => Page] } = {
  "/": ["Services", "grid", () => new ServicesPage()],
  "/findings": ["Findings", "trend", () => new FindingsPage()],
  "/changes": ["Changes", "guard", () => new ChangesPage()],
  "/explore": ["Explore", "flame", () => new ExplorePage()],
  "/diff": ["Compare", "diff", () => new DiffPage()],
  "/live": ["Goroutines", "pulse", () => new LivePage()],
  "/agents": ["Agents", "fleet", () => new AgentsPage()],
  "/node": ["Node", "node", () => new NodePage()],
};

// pageAt is the page of a path.
function pageAt(path: string): (() => Page) | undefined {
  return /^\/findings\/[^/]+$/.test(path) ? () => new FindingPage() : /^\/changes\/[^/]+$/.test(path) ? () => new ChangePage() : pages[path]?.[2];
}

const main = h("main", { class: "main", id: "main" });
const nav = h("nav", { class: "nav", "aria-label": "Pages" });
const live = h("div", { class: "row" });
const look = h("div", null);
const account = h("div", null);
let page: Page | null = null, path = "", timer = 0, lost = false, out = false;

function refreshMs(): number {
  const p = params(), r = p.get("refresh");
  if (r === "off" || (location.pathname === "/diff" && !r)) return 0;
  if (closed(p)) return 0;
  return r && /^\d+s$/.test(r) ? Math.max(2, parseInt(r)) * 1000 : (page?.every ?? 10_000);
}

// closed is where nothing changes, as in a range in the past.
function closed(p: URLSearchParams): boolean {
  return page?.every === undefined ? !span(p).live : page.every === 0;
}

// kept is what a page takes over from the one before, by the start of its path.
const kept: [RegExp, string[]][] = [[/^\/$/, ["from", "to"]], [/^\/live/, ["service", "instance", "from", "to"]], [/^\/agents/, ["from", "to"]], [/^\/node/, []], [/^\/(findings|changes)/, ["service"]], [/./, ["service", "type", "from", "to", "labels"]]];

function shell(): void {
  const p = params();
  nav.replaceChildren(...Object.entries(pages).filter(([url]) => url !== "/live" || may("read_raw")).map(([url, [name, ic]]) => {
    const q = kept.find(([re]) => re.test(url))![1].filter((k) => p.get(k)).map((k): [string, string] => [k, p.get(k)!]);
    return h("a", { class: "nav-item", href: link(url, Object.fromEntries(q)), "aria-current": location.pathname === url || location.pathname.startsWith(url + "/") ? "page" : undefined }, icon(ic), name);
  }));
  mark();
  const ms = refreshMs(), past = closed(p);
  const now = ms ? `${ms / 1000} s` : "Off";
  rebuild(live, () => page ? [
    lost ? h("span", { class: "live lost", role: "status", title: "The server does not answer" }, h("i"), "Not reached")
      : ms ? h("span", { class: "live", title: `The page refreshes every ${now}` }, h("i"), "Live") : "",
    past ? "" : pick("Refresh", now, () => [["off", "Off"], ...(page?.every === 2000 ? [["2s", "2 s"]] : []), ["5s", "5 s"], ["10s", "10 s"], ["30s", "30 s"]].map(([v, text]) => ({ text, checked: v === (ms ? ms / 1000 + "s" : "off"), run: () => set({ refresh: v }, true) })), "refresh", "ghost"),
    past ? "" : h("button", { class: "btn ghost", type: "button", title: "Refresh now", "aria-label": "Refresh now", onclick: () => page?.tick(true) }, icon("refresh")),
  ] : []);
  clearInterval(timer);
  if (ms) timer = window.setInterval(() => { if (!document.hidden) page?.tick(); }, ms);
}

// What waits for a decision is marked in the navigation, in place: it may have the focus.
let waiting = 0;

function mark(): void {
  const a = nav.querySelector<HTMLElement>('.nav-item[href^="/changes"]');
  if (!a) return;
  a.querySelector(".badge")?.remove();
  if (!waiting) return a.removeAttribute("aria-label");
  a.append(h("span", { class: "badge", title: `${count(waiting, "change waits", "changes wait")} for a decision` }, waiting > 99 ? "99+" : String(waiting)));
  a.setAttribute("aria-label", `Changes, ${waiting} to decide`);
}

// A server that makes no changes is asked once. The list of changes tells by itself.
function decisions(): void {
  if (out) return;
  const again = () => { setTimeout(decisions, 15_000); };
  if (document.hidden || location.pathname === "/changes") return again();
  guard.list({ state: "proposed,waiting" }).then((r) => { waits(r.changes); again(); }, (e) => { if (!(e instanceof Fault && e.code === "not_found")) again(); });
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
  if (out) return;
  closeMenu();
  tip.hide();
  const known = pageAt(location.pathname);
  if (!page || path !== location.pathname) {
    page?.destroy();
    path = location.pathname;
    page = known ? known() : null;
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
  h("header", { class: "top" }, h("a", { class: "brand", href: "/" }, h("img", { src: "/icon.svg", width: 20, height: 20, alt: "" }), "Quantra-L"), nav, h("div", { class: "grow" }), live, look, account), main);
themes();
// Nobody is logged in: nothing is asked and nothing is shown but the way in.
function locked(why: string): void {
  if (out) return;
  shut("Log in", loginPage(why, begin));
}

// shut takes everything away but what is to be done first.
function shut(title: string, first: HTMLElement): void {
  out = true;
  clearInterval(timer);
  page?.destroy();
  page = null;
  path = "";
  closeMenu();
  nav.replaceChildren();
  live.replaceChildren();
  account.replaceChildren();
  document.title = `${title} · Quantra-L`;
  main.replaceChildren(first);
}

const later = "second-factor-later";

// She has a second factor: it is asked for once, and then when she wants to.
function raise(): void {
  shut("Second factor", factorPage((shown) => {
    if (!shown) sessionStorage.setItem(later, "1");
    begin();
  }));
  main.querySelector<HTMLInputElement>("input[name=totp]")?.focus();
}

// The page begins before it is known who she is: a server that does not know her refuses what it asks.
function begin(): void {
  out = false;
  show();
  decisions();
  void enter().then((known) => {
    if (!known) return locked(whyLogin(params().get("login"), ""));
    if (canRaise() && sessionStorage.getItem(later) === null) return raise();
    account.replaceChildren(...[badge(raise)].filter((x) => x !== null));
    if (may("read_raw") || out) return;
    shell();
    page?.update();
  });
}

onLost(() => locked(whyLogin(params().get("login"), "Log in to go on.")));
onReach((now) => { lost = !now; if (!out) shell(); });
onNavigate(show);
onWaiting((n) => { waiting = n; mark(); });
begin();
