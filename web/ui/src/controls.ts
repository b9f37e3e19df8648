// Controls that more than one page has: the time range, label filters, search.

import { api, Fault } from "./api";
import { closeMenu, h, icon, menu, pick, popup, type MenuItem } from "./dom";
import { clock, sortTypes, stamp, typeInfo } from "./format";
import { apiRange, filters, formatMatchers, parseMatchers, ranges, type Matcher, type Op, type Span, when } from "./state";

/** Banner says what went wrong and what to do. A part's fault stays until that
 * part has an answer: another's answer does not take it away. */
export class Banner {
  readonly el = h("div", { class: "banner", role: "alert", hidden: true });
  private faults = new Map<string, () => void>();
  fail(e: unknown, retry: () => void, part = ""): void {
    this.faults.set(part, () => this.show(e, retry));
    this.draw();
  }
  private draw(): void {
    const [first] = this.faults.values();
    this.el.hidden = !first;
    if (first) first();
    else this.el.replaceChildren(); // what is over is not there for who reads what is hidden
  }
  private show(e: unknown, retry: () => void): void {
    const f = e instanceof Fault ? e : new Fault("unknown", String((e as Error).message ?? e), "");
    this.el.replaceChildren(icon("warn", 16), h("div", { class: "banner-text" }, h("strong", null, f.message), " ", f.remedy), h("button", { class: "btn tiny", type: "button", onclick: retry }, "Try again"));
  }
  warn(texts: string[]): void {
    this.el.hidden = texts.length === 0;
    this.el.classList.toggle("warn", true);
    this.el.replaceChildren(icon("warn", 16), h("div", { class: "banner-text" }, texts.join(" ")));
  }
  clear(part = ""): void {
    if (this.faults.delete(part)) this.draw();
  }
  /** reset forgets faults of what is no longer asked for. */
  reset(): void {
    this.faults.clear();
    this.draw();
  }
}

const nameKey = "quantra.name";

/** me is the name of who acts, as it was given last in this browser. */
export function me(): string {
  return localStorage.getItem(nameKey) ?? "";
}

/** nameField asks who acts. */
export function nameField(): HTMLInputElement {
  return h("input", { class: "input", name: "by", placeholder: "Your name", maxlength: "100", autocomplete: "name", "aria-label": "Your name", value: me() });
}

/** nameOf reads a field for who acts, and keeps it. */
export function nameOf(field: HTMLInputElement): string {
  const name = field.value.trim();
  localStorage.setItem(nameKey, name);
  return name;
}

export function spanText(s: Span): string {
  const r = ranges.find(([f]) => f === s.from);
  if (r && s.to === "now") return r[1];
  const sameDay = new Date(s.fromMs).toDateString() === new Date(s.toMs).toDateString();
  const today = new Date(s.fromMs).toDateString() === new Date().toDateString();
  const a = today && sameDay ? clock(s.fromMs) : stamp(s.fromMs);
  return `${s.from.startsWith("now") ? s.from : a} – ${s.to.startsWith("now") ? s.to : sameDay ? clock(s.toMs) : stamp(s.toMs)}`;
}

/** rangePick is the time range as a button with a menu. */
export function rangePick(s: Span, choose: (from: string, to: string) => void): HTMLElement {
  const b: HTMLButtonElement = h("button", { class: "btn pick", type: "button", "aria-haspopup": "dialog", "aria-expanded": "false", title: "Time range", "aria-label": "Time range: " + spanText(s), onclick: () => open() },
    icon("clock"), h("span", { class: "pick-text" }, spanText(s)), icon("chevron", 12));
  const open = () => {
    const err = h("div", { class: "field-error", hidden: true });
    const from = h("input", { class: "input", value: s.from.startsWith("now") ? s.from : stamp(s.fromMs), spellcheck: "false" });
    const to = h("input", { class: "input", value: s.to.startsWith("now") ? s.to : stamp(s.toMs), spellcheck: "false" });
    const form = h("form", { class: "range-form", onsubmit: (e: Event) => {
      e.preventDefault();
      const now = Date.now(), a = when(from.value, now), z = when(to.value, now);
      if (!(a < z)) {
        err.hidden = false;
        err.textContent = isNaN(a) || isNaN(z) ? "Write now-15m, or a date as 2006-01-02 15:04:05." : "From must be before to.";
        return;
      }
      const text = (t: string, ms: number) => (t.trim().startsWith("now") ? t.replaceAll(" ", "") : String(Math.round(ms)));
      closeMenu();
      choose(text(from.value, a), text(to.value, z));
    } }, h("label", null, "From", from), h("label", null, "To", to), err, h("button", { class: "btn primary", type: "submit" }, "Apply"));
    popup(b, h("div", { class: "menu range-menu", role: "dialog", "aria-label": "Time range" },
      h("div", { class: "range-quick" }, ranges.map(([f, text]) => h("button", { class: "menu-item", type: "button", role: "menuitemradio", "aria-checked": String(f === s.from && s.to === "now"), onclick: () => { closeMenu(); choose(f, "now"); } }, text))), form));
  };
  return b;
}

export function typePick(types: string[], current: string, choose: (t: string) => void): HTMLElement {
  return pick("Profile type", current ? typeInfo(current).name : "No profiles", () => {
    const out: (MenuItem | string)[] = [];
    let group = "";
    for (const id of sortTypes(types)) {
      const t = typeInfo(id);
      if (t.group !== group) out.push((group = t.group));
      out.push({ text: t.name, hint: t.unit === "nanoseconds" ? "time" : t.unit, checked: id === current, run: () => choose(id) });
    }
    return out;
  });
}

const ops: Op[] = ["=", "!=", "=~", "!~"];

/** labelFilters is a chip per condition and a button for another, with the names and values there are. */
export function labelFilters(labels: string, scope: () => { matchers: string; fromMs: number; toMs: number }, change: (labels: string) => void): HTMLElement {
  const ms = parseMatchers(labels);
  const chips = ms.map((m, i) => {
    const edit: HTMLElement = h("button", { class: "chip-text", type: "button", title: "Change", onclick: () => form(edit, m, (n) => change(formatMatchers(ms.map((x, j) => (j === i ? n : x))))) }, m.name, h("b", null, m.op), m.value || '""');
    return h("span", { class: "chip" }, edit, h("button", { class: "chip-x", type: "button", "aria-label": `Remove ${m.name}`, onclick: () => change(formatMatchers(ms.filter((_, j) => j !== i))) }, icon("close", 10)));
  });
  const add: HTMLElement = h("button", { class: "btn ghost add-label", type: "button", "aria-haspopup": "dialog", onclick: () => form(add, { name: "", op: "=", value: "" }, (n) => change(formatMatchers([...ms, n]))) }, icon("plus", 12), ms.length ? "" : "Label filter");
  add.setAttribute("aria-label", "Add a label filter");
  const form = (anchor: HTMLElement, m: Matcher, done: (m: Matcher) => void) => {
    const sc = scope();
    const name = h("input", { class: "input mono", placeholder: "label", value: m.name, list: "label-names", spellcheck: "false", "aria-label": "Label" });
    const value = h("input", { class: "input mono", placeholder: "value", value: m.value, list: "label-values", spellcheck: "false", "aria-label": "Value" });
    const op = h("select", { class: "input mono", "aria-label": "Operator" }, ops.map((o) => h("option", { selected: o === m.op }, o)));
    const names = h("datalist", { id: "label-names" }), values = h("datalist", { id: "label-values" });
    const options = (el: HTMLElement, list: string[] | undefined) => el.replaceChildren(...(list ?? []).filter((x) => !x.startsWith("__")).map((v) => h("option", { value: v })));
    // Suggestions are a comfort: without them the field still takes what is typed.
    api.labelNames(sc.matchers, apiRange(sc)).then((r) => options(names, r.names), () => {});
    const load = () => { if (name.value) api.labelValues(name.value, sc.matchers, apiRange(sc)).then((r) => options(values, r.values), () => {}); };
    name.addEventListener("change", load);
    load();
    popup(anchor, h("form", { class: "menu label-form", role: "dialog", "aria-label": "Label filter", onsubmit: (e: Event) => {
      e.preventDefault();
      if (!/^[a-zA-Z_][a-zA-Z0-9_]*$/.test(name.value)) {
        name.focus();
        return;
      }
      closeMenu();
      done({ name: name.value, op: op.value as Op, value: value.value });
    } }, name, op, value, names, values, h("button", { class: "btn primary", type: "submit" }, "Apply")));
  };
  return h("div", { class: "labels" }, chips, add);
}

/** Search is the search box: as typed, it highlights; the URL follows. */
export class Search {
  readonly el: HTMLElement;
  readonly input = h("input", { class: "search-input", type: "search", placeholder: "Search functions", spellcheck: "false", "aria-label": "Search functions", "aria-keyshortcuts": "/" });
  private found = h("span", { class: "search-found", "aria-live": "polite" });
  private re = h("button", { class: "search-re", type: "button", title: "Regular expression", "aria-label": "Regular expression", "aria-pressed": "false", onclick: () => this.toggle() }, ".*");
  private timer = 0;
  regex = false;
  constructor(private change: (q: string, regex: boolean) => void) {
    this.el = h("div", { class: "search" }, icon("search"), this.input, this.found, this.re, h("kbd", { class: "search-key" }, "/"));
    this.input.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = window.setTimeout(() => this.change(this.input.value, this.regex), 90);
    });
    this.input.addEventListener("keydown", (e) => {
      if (e.key !== "Escape") return;
      this.input.value = "";
      this.change("", this.regex);
      this.input.blur();
    });
  }
  private toggle(): void {
    this.regex = !this.regex;
    this.change(this.input.value, this.regex);
  }
  set(q: string, regex: boolean): void {
    this.regex = regex;
    this.re.setAttribute("aria-pressed", String(regex));
    if (document.activeElement !== this.input) this.input.value = q;
  }
  say(text: string, bad = false): void {
    this.found.textContent = text;
    this.found.classList.toggle("bad", bad);
  }
}

/** checksPick is a pick of none, one or several; none is all. */
export function checksPick(label: string, options: [string, string][], chosen: () => string[], change: (values: string[]) => void): HTMLButtonElement {
  const b: HTMLButtonElement = h("button", { class: "btn pick", type: "button", "aria-haspopup": "dialog", "aria-expanded": "false", title: label, onclick: () => {
    const now = chosen(), boxes = options.map(([v]) => h("input", { type: "checkbox", name: v, checked: now.includes(v) }));
    const send = (clear: boolean) => { closeMenu(); b.focus({ preventScroll: true }); change(clear ? [] : options.map(([v]) => v).filter((_, i) => boxes[i].checked)); };
    popup(b, h("form", { class: "menu checks", role: "dialog", "aria-label": label, onsubmit: (e: Event) => { e.preventDefault(); send(false); } },
      options.map(([, text], i) => h("label", null, boxes[i], text)),
      h("div", { class: "row end" }, h("button", { class: "btn tiny", type: "button", onclick: () => send(true) }, "All"), h("button", { class: "btn tiny primary", type: "submit" }, "Apply"))));
  } }, h("span", { class: "pick-text" }), icon("chevron", 12));
  return b;
}

/** filterPick is pprof's filters behind one button. */
export function filterPick(p: URLSearchParams, apply: (f: { [k: string]: string }) => void): HTMLElement {
  const n = filters.filter((f) => p.get(f.param)).length;
  const b: HTMLButtonElement = h("button", { class: "btn pick" + (n ? " on" : ""), type: "button", "aria-haspopup": "dialog", "aria-expanded": "false", title: "Focus, ignore, hide, show, labels", onclick: () => {
    const ins = filters.map((f) => ({ ...f, in: h("input", { class: "input mono", name: f.param, value: p.get(f.param) ?? "", placeholder: f.hint ?? "regular expression", spellcheck: "false" }) }));
    const send = (clear: boolean) => { closeMenu(); apply(Object.fromEntries(ins.map((i) => [i.param, clear ? "" : i.in.value.trim()]))); };
    popup(b, h("form", { class: "menu filter-form", role: "dialog", "aria-label": "Filters", onsubmit: (e: Event) => { e.preventDefault(); send(false); } },
      ins.map((i) => h("label", null, h("span", null, h("b", null, i.param.replace("_", " ")), " ", i.text), i.in)),
      h("div", { class: "row end" }, h("button", { class: "btn", type: "button", onclick: () => send(true) }, "Clear"), h("button", { class: "btn primary", type: "submit" }, "Apply"))));
  } }, "Filter", n ? h("span", { class: "badge" }, String(n)) : null, icon("chevron", 12));
  return b;
}

/** filterChips shows what is filtered, so that nobody reads a part for the whole. */
export function filterChips(p: URLSearchParams, drop: (k: string) => void): HTMLElement[] {
  return filters.map((f) => f.param).filter((k) => p.get(k)).map((k) => h("span", { class: "chip filter" }, h("span", { class: "chip-text", title: p.get(k)! }, k.replace("_", " "), h("b", null, ":"), p.get(k)!),
    h("button", { class: "chip-x", type: "button", "aria-label": "Remove " + k, onclick: () => drop(k) }, icon("close", 10))));
}

export function menuButton(label: string, ic: Parameters<typeof icon>[0], items: () => (MenuItem | string)[], text = ""): HTMLButtonElement {
  const b: HTMLButtonElement = h("button", { class: "btn", type: "button", title: label, "aria-label": label, "aria-haspopup": "menu", "aria-expanded": "false", onclick: () => menu(b, items()) }, icon(ic), text || null);
  return b;
}
