// The tree of goroutines as rows: only those in sight are in the document, so two
// thousand groups scroll as well as twenty. The keyboard walks it as it does any tree.

import { h, icon, rebuild } from "./dom";
import { among, byState, colourOf, type Node } from "./goroutines";
import { fnCell } from "./explore";

const rowH = 26;

export type Sort = "count" | "grew" | "wait";

export interface TreeOptions {
  onSelect: (n: Node) => void;
  onSort: (s: Sort) => void;
}

/** Row is a node where it is drawn. */
interface Row { node: Node; depth: number; open: boolean; parent: number }

/** Look is how a tree is drawn. With the same key as before only another row may be selected. */
export interface Look { key: string; sort: Sort; filter: Set<string>; grew: (n: Node) => number; suspect: (n: Node) => boolean; match: ((n: Node) => boolean) | null; selected: number }

export class TreeView {
  readonly el: HTMLElement;
  private head = h("div", { class: "t-row t-head", role: "row" });
  private body = h("div", { class: "t-body", tabindex: "0", role: "treegrid", "aria-label": "Goroutines by who created them. Arrows walk and unfold, the flame graph beside shows the stacks." });
  private inner = h("div", { class: "t-inner", role: "rowgroup" });
  private none = h("div", { class: "empty small", hidden: true });
  private rows: Row[] = [];
  private root: Node | null = null;
  private look: Look | null = null;
  private turned = new Map<number, boolean>(); // nodes that a person folded or unfolded
  private every: boolean | null = null; // all folded, or all unfolded
  private most = 1;
  // Where the body is scrolled to and how high it is: asking the document after each change would have it laid out each time.
  private top = 0;
  private height = 0;
  private ro: ResizeObserver;

  constructor(private o: TreeOptions) {
    this.body.append(this.inner, this.none);
    this.el = h("div", { class: "table gtree", style: "--cols:minmax(0,1fr) var(--w-grew,66px) var(--w-count,92px) var(--w-states,96px) 58px" }, this.head, this.body);
    this.body.addEventListener("scroll", () => {
      this.top = this.body.scrollTop;
      this.draw();
    }, { passive: true });
    this.body.addEventListener("keydown", (e) => this.key(e));
    this.ro = new ResizeObserver(() => {
      this.height = this.body.clientHeight;
      this.top = this.body.scrollTop;
      this.draw();
    });
    this.ro.observe(this.body);
  }

  destroy(): void {
    this.ro.disconnect();
  }

  set(root: Node, look: Look): void {
    const sorted = this.look?.sort !== look.sort, same = this.root === root && this.look?.key === look.key;
    this.root = root;
    this.look = look;
    this.most = Math.max(1, among(root.states, look.filter));
    if (sorted) this.drawHead();
    if (same) this.draw();
    else this.arrange();
  }

  /** fold folds or unfolds all. */
  fold(open: boolean): void {
    this.turned.clear();
    this.every = open;
    this.arrange();
  }

  /** reveal unfolds what is above a node and scrolls to it. */
  reveal(key: number): void {
    const path = (n: Node): boolean => {
      const found = n.key === key || n.children.some(path);
      if (found && n.key !== key) this.turned.set(n.key, true);
      return found;
    };
    if (this.root) path(this.root);
    this.arrange();
    this.show(this.rows.findIndex((r) => r.node.key === key));
  }

  private drawHead(): void {
    const { sort } = this.look!;
    const by = (key: Sort, text: string, title: string) => h("div", { class: "t-cell num", role: "columnheader", "aria-sort": sort === key ? "descending" : "none" },
      h("button", { type: "button", class: "t-sort" + (sort === key ? " on" : ""), title, "data-sort": key, onclick: () => this.o.onSort(key) }, text, sort === key ? h("span", { class: "t-arrow", "aria-hidden": "true" }, "↓") : null));
    this.head.replaceChildren(
      h("div", { class: "t-cell row", role: "columnheader" }, h("span", { class: "g-title" }, "Created by whom"),
        h("button", { type: "button", class: "btn ghost tiny", onclick: () => this.fold(true) }, "Unfold all"), h("button", { type: "button", class: "btn ghost tiny", onclick: () => this.fold(false) }, "Fold")),
      by("grew", "Growth", "How many more there are than when the page opened"), by("count", "Goroutines", "With all that they created"),
      h("div", { class: "t-cell", role: "columnheader" }, "States"), by("wait", "Waits", "The longest that one has waited; the runtime tells whole minutes"));
  }

  private arrange(): void {
    const { root, look } = this;
    if (!root || !look) return;
    const { sort, filter, grew, match } = look;
    const size = new Map<Node, number>(), hit = new Map<Node, boolean>();
    const weigh = (n: Node): boolean => {
      size.set(n, among(n.states, filter));
      let any = !match || match(n);
      for (const c of n.children) if (weigh(c)) any = true;
      hit.set(n, any);
      return any;
    };
    weigh(root);
    const rank = (n: Node) => (sort === "wait" ? n.wait : sort === "grew" ? grew(n) : size.get(n)!);
    this.rows = [];
    const walk = (n: Node, depth: number, parent: number) => {
      if (depth && (!size.get(n) || !hit.get(n))) return;
      const open = n.children.length > 0 && (match ? true : (this.turned.get(n.key) ?? this.every ?? depth < 3) || depth === 0), at = this.rows.length;
      this.rows.push({ node: n, depth, open, parent });
      if (open) for (const c of [...n.children].sort((a, b) => rank(b) - rank(a) || size.get(b)! - size.get(a)! || (a.func < b.func ? -1 : a.func > b.func ? 1 : a.key - b.key))) walk(c, depth + 1, at);
    };
    walk(root, 0, -1);
    this.inner.style.height = this.rows.length * rowH + "px";
    this.body.setAttribute("aria-rowcount", String(this.rows.length));
    this.none.hidden = this.rows.length > 1;
    this.none.textContent = match ? "No goroutine's functions match the search." : filter.size ? "No goroutine is in this state now." : "";
    this.draw();
  }

  private draw(): void {
    const top = Math.max(0, Math.floor(this.top / rowH) - 8), end = Math.min(this.rows.length, top + Math.ceil(this.height / rowH) + 16);
    rebuild(this.inner, () => {
      const out: HTMLElement[] = [];
      for (let i = top; i < end && i < this.rows.length; i++) out.push(this.row(this.rows[i], i));
      return out;
    });
    const at = this.look ? this.rows.findIndex((r) => r.node.key === this.look!.selected) : -1;
    if (at >= top && at < end) this.body.setAttribute("aria-activedescendant", "g" + at);
    else this.body.removeAttribute("aria-activedescendant");
  }

  private row(r: Row, i: number): HTMLElement {
    const n = r.node, look = this.look!, kids = n.children.length > 0, k = among(n.states, look.filter), grew = look.grew(n), on = n.key === look.selected;
    const why = [n.func, n.creator ? `created by ${n.creator}${n.at ? " (" + n.at + ")" : ""}` : "", n.ended ? "its goroutines have ended; these are those that they created" : ""].filter(Boolean).join("\n");
    return h("div", { class: "t-row g-row" + (on ? " selected" : "") + (n.ended ? " ended" : ""), id: "g" + i, role: "row", "aria-level": r.depth + 1, "aria-selected": String(on), "aria-expanded": kids ? String(r.open) : undefined, "data-func": n.func,
      style: `transform:translateY(${i * rowH}px)`, onclick: () => this.o.onSelect(n) },
      h("div", { class: "t-cell g-name", role: "gridcell", style: `padding-left:${indent(r.depth)}px`, title: why },
        h("span", { class: "g-twist" + (r.open ? " open" : ""), "data-twist": kids || undefined, onclick: (e: Event) => { if (!kids) return; e.stopPropagation(); this.turn(r); } }, kids && r.depth ? icon("chevron", 11) : null),
        r.depth ? fnCell(n.func) : h("b", null, n.func),
        n.leaked ? h("span", { class: "tag bad", title: `Nothing can wake ${n.leaked} of them any more: the runtime has found them leaked` }, "leaked") : look.suspect(n) ? h("span", { class: "tag bad", title: "They wait for over a minute, and only ever became more" }, "leak?") : null),
      h("div", { class: "t-cell num" + (grew > 0 ? " worse" : " muted"), role: "gridcell" }, grew ? (grew > 0 ? "+" : "−") + Math.abs(grew).toLocaleString("en") : ""),
      h("div", { class: "t-cell num", role: "gridcell" }, h("div", { class: "bar" }, h("i", { style: `width:${((k / this.most) * 100).toFixed(2)}%` }), h("span", null, k.toLocaleString("en")))),
      h("div", { class: "t-cell", role: "gridcell" }, stateBar(n.states, look.filter)),
      h("div", { class: "t-cell num muted", role: "gridcell" }, waited(n.wait)));
  }

  private turn(r: Row): void {
    if (!r.node.children.length || !r.depth) return;
    this.turned.set(r.node.key, !r.open);
    this.arrange();
  }

  private show(i: number): void {
    if (i < 0) return;
    const y = i * rowH;
    if (y < this.top) this.body.scrollTop = y;
    else if (y + rowH > this.top + this.height) this.body.scrollTop = y + rowH - this.height;
  }

  private key(e: KeyboardEvent): void {
    if (e.ctrlKey || e.metaKey || e.altKey || !this.rows.length) return;
    const last = this.rows.length - 1, at = Math.max(0, this.rows.findIndex((r) => r.node.key === this.look!.selected)), r = this.rows[at];
    let to = at;
    if (e.key === "ArrowDown") to = Math.min(last, at + 1);
    else if (e.key === "ArrowUp") to = Math.max(0, at - 1);
    else if (e.key === "Home") to = 0;
    else if (e.key === "End") to = last;
    else if (e.key === "PageDown") to = Math.min(last, at + 15);
    else if (e.key === "PageUp") to = Math.max(0, at - 15);
    else if (e.key === "ArrowRight" && r.node.children.length) {
      if (r.open) to = Math.min(last, at + 1);
      else this.turn(r);
    } else if (e.key === "ArrowLeft") {
      if (r.open && r.depth) this.turn(r);
      else to = Math.max(0, r.parent);
    } else if (e.key === "Enter" || e.key === " ") this.turn(r);
    else return;
    e.preventDefault();
    if (to !== at) this.o.onSelect(this.rows[to].node);
    this.show(to);
  }
}

// Deep levels are closer: a name must be left to read.
function indent(depth: number): number {
  return 14 * Math.min(depth, 6) + 4 * Math.min(12, Math.max(0, depth - 6));
}

/** stateBar is what a node's goroutines do, as parts of a whole. */
export function stateBar(states: Map<string, number>, filter: Set<string>): HTMLElement {
  const parts = byState(states).filter(([s]) => !filter.size || filter.has(s)), all = parts.reduce((n, [, k]) => n + k, 0) || 1, text = parts.map(([s, k]) => `${s} ${k.toLocaleString("en")}`).join(", ");
  return h("div", { class: "stack", role: "img", "aria-label": text, title: text }, parts.map(([s, k]) => h("i", { style: `width:${((k / all) * 100).toFixed(2)}%;background:${colourOf(s)}` })));
}

/** waited is seconds as the runtime tells them: whole minutes, below one nothing. */
export function waited(s: number): string {
  return s < 60 ? "" : s < 3600 ? Math.floor(s / 60) + " min" : s < 48 * 3600 ? Math.floor(s / 3600) + " h" : Math.floor(s / 86400) + " d";
}
