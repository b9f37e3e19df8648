// A table of functions: only the rows in sight are in the document, so fifty
// thousand scroll as well as fifty.

import { h, icon, menu, type MenuItem } from "./dom";

export interface Column<R> {
  key: string;
  head: string;
  title?: string;
  width: string;
  sort: (a: R, b: R) => number; // the way a first click sorts
  cell: (r: R) => (Node | string)[];
  cls?: string;
}

const rowH = 28;

export class Table<R extends { name: string }> {
  readonly el: HTMLElement;
  private head = h("div", { class: "t-row t-head", role: "row" });
  private body = h("div", { class: "t-body" });
  private inner = h("div", { class: "t-inner", role: "rowgroup" });
  private none = h("div", { class: "empty small", hidden: true });
  private all: R[] = [];
  private rows: R[] = [];
  private sort: string;
  private back = false;
  private test: ((s: string) => boolean) | null = null;
  private selected = "";
  private drawn = "";
  private ro: ResizeObserver;

  constructor(label: string, private cols: Column<R>[], sort: string, private o: { onPick: (r: R) => void; onMenu: (r: R) => (MenuItem | string)[] }) {
    this.sort = sort;
    this.body.append(this.inner, this.none);
    this.body.setAttribute("tabindex", "0");
    this.el = h("div", { class: "table", role: "table", "aria-label": label, style: `--cols:${cols.map((c) => c.width).join(" ")} 32px` }, this.head, this.body);
    this.body.addEventListener("scroll", () => this.draw(), { passive: true });
    this.ro = new ResizeObserver(() => this.draw());
    this.ro.observe(this.body);
    this.drawHead();
  }

  destroy(): void {
    this.ro.disconnect();
  }

  setRows(rows: R[]): void {
    this.all = rows;
    this.arrange();
  }

  /** setFilter shows only names that pass; null shows all. */
  setFilter(test: ((s: string) => boolean) | null, selected = ""): void {
    this.test = test;
    this.selected = selected;
    this.arrange();
  }

  private arrange(): void {
    const c = this.cols.find((x) => x.key === this.sort)!;
    this.rows = this.test ? this.all.filter((r) => this.test!(r.name)) : this.all.slice();
    this.rows.sort((a, b) => (this.back ? -1 : 1) * c.sort(a, b) || (a.name < b.name ? -1 : 1));
    this.inner.style.height = this.rows.length * rowH + "px";
    this.none.hidden = this.rows.length > 0;
    this.none.textContent = this.all.length ? "No function matches the search." : "No samples in this selection.";
    this.el.setAttribute("aria-rowcount", String(this.rows.length));
    this.drawn = "";
    this.draw();
  }

  private drawHead(): void {
    this.head.replaceChildren(...this.cols.map((c) => h("div", { class: "t-cell " + (c.cls ?? ""), role: "columnheader", "aria-sort": this.sort === c.key ? (this.back ? "ascending" : "descending") : "none" },
      h("button", { type: "button", class: "t-sort" + (this.sort === c.key ? " on" : ""), title: c.title, onclick: () => this.sortBy(c.key) }, c.head, this.sort === c.key ? h("span", { class: "t-arrow", "aria-hidden": "true" }, this.back ? "↑" : "↓") : null))),
      h("div", { class: "t-cell" }));
  }

  private sortBy(key: string): void {
    this.back = this.sort === key ? !this.back : false;
    this.sort = key;
    this.drawHead();
    this.arrange();
  }

  private draw(): void {
    const top = Math.max(0, Math.floor(this.body.scrollTop / rowH) - 8);
    const end = Math.min(this.rows.length, top + Math.ceil(this.body.clientHeight / rowH) + 16);
    const key = top + ":" + end;
    if (key === this.drawn) return;
    this.drawn = key;
    const out: HTMLElement[] = [];
    for (let i = top; i < end; i++) out.push(this.row(this.rows[i], i));
    this.inner.replaceChildren(...out);
  }

  private row(r: R, i: number): HTMLElement {
    const more = h("button", { type: "button", class: "btn ghost tiny t-more", "aria-label": "Actions for " + r.name, "aria-haspopup": "menu", onclick: (e: Event) => { e.stopPropagation(); menu(more, this.o.onMenu(r)); } }, icon("more"));
    return h("div", {
      class: "t-row" + (r.name === this.selected ? " selected" : ""), role: "row", "aria-rowindex": i + 1, style: `transform:translateY(${i * rowH}px)`,
      onclick: () => this.o.onPick(r),
      oncontextmenu: (e: MouseEvent) => { e.preventDefault(); menu(more, this.o.onMenu(r), { x: e.clientX, y: e.clientY }); },
    }, this.cols.map((c) => h("div", { class: "t-cell " + (c.cls ?? ""), role: "cell" }, c.cell(r))), h("div", { class: "t-cell" }, more));
  }
}

/** bar is a share drawn behind its number. */
export function bar(share: number, text: string, cls = ""): HTMLElement {
  return h("div", { class: "bar " + cls }, h("i", { style: `width:${(Math.min(1, Math.max(0, share)) * 100).toFixed(2)}%` }), h("span", null, text));
}
