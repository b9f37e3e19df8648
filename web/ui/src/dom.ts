// What every view needs of the document: making elements without innerHTML
// (names of functions and labels are other people's text), menus, icons.

type Child = Node | string | null | undefined | false;
type Props = { [k: string]: unknown };

// What is held down right now, and what waits until it is let go.
let held: Node | null = null;
const waiting = new Map<Element, () => (Node | string)[]>();

function release(): void {
  // The click comes after the release, and first of all.
  setTimeout(() => {
    held = null;
    const all = [...waiting];
    waiting.clear();
    for (const [el, make] of all) el.replaceChildren(...make());
  });
}

document.addEventListener("pointerdown", (e) => { held = e.target as Node; }, true);
document.addEventListener("pointerup", release, true);
document.addEventListener("pointercancel", release, true);

/** rebuild gives el other children, but not under a finger or a mouse button that is down on one of them: the click would go
 * nowhere. Then it waits until that is over. */
export function rebuild(el: Element, make: () => (Node | string)[]): void {
  if (held && el.contains(held)) {
    waiting.set(el, make);
    return;
  }
  waiting.delete(el);
  el.replaceChildren(...make());
}

/** h makes an element. Properties that start with "on" are listeners; `class`,
 * aria-*, data-* and the like are attributes. */
export function h<K extends keyof HTMLElementTagNameMap>(tag: K, props?: Props | null, ...children: (Child | Child[])[]): HTMLElementTagNameMap[K] {
  const e = document.createElement(tag);
  for (const k in props) {
    const v = props[k];
    if (v === undefined || v === null || v === false) continue;
    if (k.startsWith("on")) e.addEventListener(k.slice(2), v as EventListener);
    else if (k === "style") e.style.cssText = v as string; // the content security policy forbids the attribute
    else if (k === "value") (e as unknown as HTMLInputElement).value = v as string;
    else e.setAttribute(k, v === true ? "" : String(v));
  }
  e.append(...(children.flat().filter((c) => c !== null && c !== undefined && c !== false) as (Node | string)[]));
  return e;
}

const NS = "http://www.w3.org/2000/svg";

const paths = {
  flame: "M2 3h12M2 7h8M11.5 7H14M2 11h4M7.5 11H10",
  search: "M7 2.5a4.5 4.5 0 1 1 0 9 4.5 4.5 0 0 1 0-9zM10.3 10.3 14 14",
  clock: "M8 2a6 6 0 1 1 0 12A6 6 0 0 1 8 2zM8 4.8V8l2.2 1.6",
  refresh: "M13.5 8a5.5 5.5 0 1 1-1.7-4M13.5 1.8V5h-3.2",
  down: "M8 2v8M4.8 7.2 8 10.4l3.2-3.2M2.5 13.5h11",
  chevron: "M4 6l4 4 4-4",
  close: "M4 4l8 8M12 4l-8 8",
  plus: "M8 3v10M3 8h10",
  sun: "M8 5a3 3 0 1 1 0 6 3 3 0 0 1 0-6zM8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15M3 3l1 1M12 12l1 1M3 13l1-1M12 4l1-1",
  moon: "M13.5 9.7A5.8 5.8 0 0 1 6.3 2.5a5.8 5.8 0 1 0 7.2 7.2z",
  auto: "M8 2a6 6 0 1 1 0 12A6 6 0 0 1 8 2zM8 2v12M10 3v10M12 5v6",
  diff: "M5 2v9M2.5 8.5 5 11l2.5-2.5M11 14V5M8.5 7.5 11 5l2.5 2.5",
  flip: "M4 13V4M1.8 6.2 4 4l2.2 2.2M12 3v9M9.8 9.8 12 12l2.2-2.2",
  grid: "M2.5 2.5h4v4h-4zM9.5 2.5h4v4h-4zM2.5 9.5h4v4h-4zM9.5 9.5h4v4h-4z",
  palette: "M8 2a6 6 0 0 0 0 12c1.2 0 1.4-.9 1-1.6-.5-.9 0-1.9 1.200-1.900H12c1.200 0 2-.8 2-2C14 4.800 11.300 2 8 2zM5.500 6.500h.01M8.500 5h.01M5 9.500h.01",
  warn: "M8 2 15 14H1zM8 6.500v3.500M8 12h.01",
  link: "M6.500 9.500l3-3M7 4.500l1.500-1.500a3 3 0 0 1 4.300 4.300L11.500 9M9 11.500 7.500 13a3 3 0 0 1-4.300-4.300L4.500 7",
  swap: "M2 5.500h11M10 2.500l3 3-3 3M14 10.500H3M6 7.500l-3 3 3 3",
  fleet: "M2.500 3h11v4h-11zM2.500 9h11v4h-11zM5 5h.01M5 11h.01",
  node: "M8 6.2a1.8 1.8 0 1 1 0 3.6 1.8 1.8 0 0 1 0-3.6zM3 2.2a1.3 1.3 0 1 1 0 2.6 1.3 1.3 0 0 1 0-2.6zM13 2.2a1.3 1.3 0 1 1 0 2.6 1.3 1.3 0 0 1 0-2.6zM8 12.2a1.3 1.3 0 1 1 0 2.6 1.3 1.3 0 0 1 0-2.6zM4 4.4 6.6 6.9M12 4.4 9.4 6.9M8 9.8v2.4",
  pulse: "M1.500 8h3l2-5 3.500 10 2-5h2.500",
  trend: "M2 12.500l4-4.500 2.500 2 5-6.500M9.800 3.500h3.700v3.700",
  guard: "M8 1.800l5 1.900v4c0 3.300-2.100 5.400-5 6.500-2.900-1.100-5-3.200-5-6.500v-4zM5.800 8l1.600 1.600 3-3",
  back: "M10 3.500 5.500 8l4.500 4.500",
  check: "M3 8.500l3.500 3.500L13 4.500",
  mute: "M3 6.500v3h2.500L9 12.500v-9L5.500 6.500zM11.500 6.500l3 3M14.500 6.500l-3 3",
  pause: "M5.500 3.500v9M10.500 3.500v9",
  play: "M5 3.500v9l7.500-4.500z",
  more: "M3.500 8h.01M8 8h.01M12.500 8h.01",
};
export type Icon = keyof typeof paths;

/** icon is decoration beside a label: hidden from screen readers. */
export function icon(name: Icon, size = 14): SVGSVGElement {
  const s = document.createElementNS(NS, "svg");
  for (const [k, v] of Object.entries({ viewBox: "0 0 16 16", width: size, height: size, fill: "none", stroke: "currentColor", "stroke-width": name === "more" ? 2.4 : 1.5, "stroke-linecap": "round", "stroke-linejoin": "round", "aria-hidden": "true", class: "icon" }))
    s.setAttribute(k, String(v));
  const p = document.createElementNS(NS, "path");
  p.setAttribute("d", paths[name]);
  s.append(p);
  return s;
}

let openMenu: { close: () => void; anchor: Element } | null = null;

/** closeMenu closes the menu that is open, if any. */
export function closeMenu(): void {
  openMenu?.close();
}

/** popup shows content below anchor, or at a point, until a click elsewhere or Esc. */
export function popup(anchor: Element, content: HTMLElement, at?: { x: number; y: number }): void {
  const again = openMenu?.anchor === anchor && !at;
  closeMenu();
  if (again) return;
  content.classList.add("popup");
  document.body.append(content);
  const r = anchor.getBoundingClientRect();
  const w = content.offsetWidth, hgt = content.offsetHeight;
  let x = at ? at.x : r.left, y = at ? at.y : r.bottom + 4;
  if (!at && x + w > innerWidth - 8) x = r.right - w;
  x = Math.max(8, Math.min(x, innerWidth - w - 8));
  if (y + hgt > innerHeight - 8) y = Math.max(8, at ? at.y - hgt : r.top - hgt - 4);
  content.style.left = x + "px";
  content.style.top = y + "px";
  anchor.setAttribute("aria-expanded", "true");
  const away = (e: Event) => {
    if (!content.contains(e.target as Node) && !(anchor.contains(e.target as Node) && !at)) close();
  };
  const key = (e: KeyboardEvent) => {
    const items = [...content.querySelectorAll<HTMLElement>("[role=menuitem],[role=option],[role=menuitemradio]")];
    const i = items.indexOf(document.activeElement as HTMLElement);
    if (e.key === "Escape") {
      close();
      (anchor as HTMLElement).focus?.({ preventScroll: true });
    } else if (e.key === "ArrowDown" && items.length) items[(i + 1) % items.length].focus();
    else if (e.key === "ArrowUp" && items.length) items[(i - 1 + items.length) % items.length].focus();
    else return;
    e.preventDefault();
    e.stopPropagation();
  };
  const close = () => {
    content.remove();
    anchor.setAttribute("aria-expanded", "false");
    document.removeEventListener("pointerdown", away, true);
    document.removeEventListener("keydown", key, true);
    openMenu = null;
  };
  document.addEventListener("pointerdown", away, true);
  document.addEventListener("keydown", key, true);
  openMenu = { close, anchor };
  (content.querySelector<HTMLElement>("input,[aria-checked=true]") ?? content.querySelector<HTMLElement>("[role=menuitem],[role=menuitemradio]"))?.focus({ preventScroll: true });
}

export interface MenuItem {
  text: string;
  hint?: string;
  checked?: boolean;
  href?: string;
  run?: () => void;
}

/** menu is a popup of choices; a string is a heading. */
export function menu(anchor: Element, items: (MenuItem | string)[], at?: { x: number; y: number }): void {
  const rows = items.map((it) => {
    if (typeof it === "string") return h("div", { class: "menu-head" }, it);
    const inner = [h("span", { class: "menu-text" }, it.text), it.hint ? h("span", { class: "menu-hint" }, it.hint) : null];
    if (it.href) return h("a", { class: "menu-item", role: "menuitem", href: it.href, download: "", "data-raw": true, onclick: () => setTimeout(closeMenu) }, inner);
    return h("button", {
      class: "menu-item", type: "button",
      role: it.checked === undefined ? "menuitem" : "menuitemradio",
      "aria-checked": it.checked === undefined ? undefined : String(it.checked),
      onclick: () => { closeMenu(); it.run?.(); },
    }, inner);
  });
  popup(anchor, h("div", { class: "menu", role: "menu" }, rows), at);
}

/** pick is a button that shows a value and opens a menu of others. */
export function pick(label: string, text: string, items: () => (MenuItem | string)[], ic?: Icon, cls = ""): HTMLButtonElement {
  const b = h("button", { class: "btn pick " + cls, type: "button", "aria-haspopup": "menu", "aria-expanded": "false", "aria-label": label + ": " + text, title: label, onclick: () => menu(b, items()) },
    ic ? icon(ic) : null, h("span", { class: "pick-text" }, text), icon("chevron", 12));
  return b;
}

/** retext changes what a pick says, in place: it may have the focus, or its menu be open. */
export function retext(b: HTMLButtonElement, label: string, text: string, on = false): void {
  b.querySelector(".pick-text")!.textContent = text;
  b.setAttribute("aria-label", label + ": " + text);
  b.classList.toggle("on", on);
}

/** seg is a row of buttons of which one is pressed. */
export function seg<T extends string>(label: string, value: T, options: [T, string][], choose: (v: T) => void): HTMLElement {
  return h("div", { class: "seg", role: "radiogroup", "aria-label": label },
    options.map(([v, text]) => h("button", { type: "button", role: "radio", "aria-checked": String(v === value), "data-value": v, onclick: () => choose(v) }, text)));
}

let toastTimer = 0;
/** toast says for a moment what was done. */
export function toast(text: string): void {
  document.querySelector(".toast")?.remove();
  const t = h("div", { class: "toast", role: "status" }, text);
  document.body.append(t);
  clearTimeout(toastTimer);
  toastTimer = window.setTimeout(() => t.remove(), 2200);
}

/** copy puts text on the clipboard, also where the page is not a secure context. */
export function copy(text: string): void {
  const old = () => {
    const t = h("textarea", { class: "offscreen", value: text });
    document.body.append(t);
    t.select();
    document.execCommand("copy");
    t.remove();
  };
  if (navigator.clipboard) navigator.clipboard.writeText(text).catch(old);
  else old();
  toast("Copied");
}

/** css reads a colour of the theme for what is drawn on a canvas. */
export function css(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** fit gives a canvas one pixel of its own for each of the screen's, and a context in CSS pixels. */
export function fit(canvas: HTMLCanvasElement, w: number, hgt: number): CanvasRenderingContext2D {
  const dpr = window.devicePixelRatio || 1;
  const pw = Math.max(1, Math.round(w * dpr)), ph = Math.max(1, Math.round(hgt * dpr));
  if (canvas.width !== pw || canvas.height !== ph) {
    canvas.width = pw;
    canvas.height = ph;
    canvas.style.width = w + "px";
    canvas.style.height = hgt + "px";
  }
  const ctx = canvas.getContext("2d")!;
  ctx.setTransform(dpr, 0, 0, dpr, 0, 0);
  return ctx;
}

/** tip is the one tooltip of the page. */
export const tip = {
  el: null as HTMLElement | null,
  show(x: number, y: number, ...content: (Node | string)[]) {
    this.el ??= document.body.appendChild(h("div", { class: "tip", role: "presentation" }));
    this.el.replaceChildren(...content);
    this.el.hidden = false;
    this.move(x, y);
  },
  move(x: number, y: number) {
    if (!this.el || this.el.hidden) return;
    const w = this.el.offsetWidth, hgt = this.el.offsetHeight;
    this.el.style.left = Math.max(8, x + 14 + w > innerWidth - 8 ? x - w - 10 : x + 14) + "px";
    this.el.style.top = Math.max(8, y + 16 + hgt > innerHeight - 8 ? y - hgt - 10 : y + 16) + "px";
  },
  hide() {
    if (this.el) this.el.hidden = true;
  },
};
