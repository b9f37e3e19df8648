// What a person decides of changes: the confirmation before one is started, and the strip that holds all of them.

import { Fault, serverNow } from "./api";
import { Banner, me, nameField, nameOf } from "./controls";
import { h, icon, rebuild, toast } from "./dom";
import { count } from "./format";
import { acting, guard, type Act, type Change, type Hold, type Situation } from "./guard";
import { ms } from "./watch";
import { back, changeKinds, duration, size } from "./terms";
import { ageing, fullTime, moment, rich, when } from "./words";

/** actor is who acts where nobody said: the server keeps a name with each act. */
export const actor = (name: string) => name || "dashboard";

/** did says what was done, for a toast. */
export const did: { [act: string]: string } = { start: "Started: it begins within seconds, unless something holds it", approve: "Approved", pause: "Paused: it stays as it is and is watched", resume: "It goes on", undo: "It is being undone", reject: "Rejected: it is not proposed again" };

const inForce = (hold: Hold | undefined) => !!hold && !(ms(hold.until) <= serverNow());

/** heldBy says what holds all changes, in a sentence; "" is nothing. */
export function heldBy(s: Situation | null): string {
  if (!s) return "";
  const { holds, status } = s;
  if (status.disabled) return status.disabled;
  if (inForce(holds.paused)) return `All changes are paused by ${holds.paused!.by}.`;
  const open = Object.keys(holds.incidents).filter((n) => inForce(holds.incidents[n]));
  return open.length ? `${count(open.length, "incident")} open: ${open.join(", ")}.` : "";
}

// steps says what will happen, in order.
function steps(c: Change, s: Situation | null): (Node | string | (Node | string)[])[] {
  const plan = c.plan.stages, first = plan[0], held = heldBy(s);
  const rest = plan.slice(1).map((x) => `${size(x)} for ${duration(x.dwell)}`);
  return [
    ...(held ? [[h("b", null, "It waits. "), held]] : []),
    first ? [h("b", null, `First ${size(first)}, for ${duration(first.dwell)}`), ", beside a control of the same size that is left as it is. Before anything is set, the way back is tried."]
      : [h("b", null, "First one node"), " beside a control that is left as it is, then more of them, each stage for as long as the policy says (1 node, 10 %, 50 %, all; 10 min each, unless it says otherwise). Before anything is set, the way back is tried."],
    rest.length ? `Then ${rest.join(", ")}: each only once the one before is shown to be no worse than tolerated.` : first ? "There is no further stage: it is kept if it is shown to be no worse than tolerated." : "Each stage begins only once the one before is shown to be no worse than tolerated.",
    `If it does harm it is undone at once; if nothing can be shown${first ? ` within ${duration(first.deadline)}` : " in time"}, too.`,
    [h("b", null, "How it is undone: "), back(c.kind) + " You can undo it at any time, also when it is done."],
  ];
}

/** startDialog says what will happen, and starts the change or, as approve, approves what it costs and starts it. done has its answer.
 * When it closes, the focus is on what has the mark from, or on the change's own line where that is gone. */
export function startDialog(c: Change, s: Situation | null, what: "start" | "approve", from: string, done: (c: Change) => void): void {
  const by = nameField(), err = h("div", { class: "field-error", role: "alert", hidden: true });
  const go = h("button", { class: "btn primary", type: "submit" }, icon("play"), what === "start" ? "Start" : c.state === "waiting" ? "Approve" : "Approve and start");
  const send = (e: Event) => {
    e.preventDefault();
    if (go.disabled) return;
    go.disabled = true;
    guard.act(c.id, { do: what, by: actor(nameOf(by)) }).then((r) => {
      dialog.close();
      toast(c.state === "waiting" ? did.approve : did.start);
      done(r);
    }, (e) => {
      go.disabled = false;
      err.hidden = false;
      err.textContent = e instanceof Fault ? `${e.message} ${e.remedy}` : String(e);
    });
  };
  const dialog = h("dialog", { class: "dialog", "aria-labelledby": "start-title" }, h("form", { class: "c-start", onsubmit: send },
    h("h2", { id: "start-title" }, c.state === "waiting" ? "Approve this change?" : "Start this change?"), h("p", null, rich(c.sentence)),
    c.cost ? h("p", { class: "warned" }, `It adds ${Math.round(c.cost).toLocaleString("en")} a month to the bill.`) : null,
    h("ol", null, steps(c, s).map((x) => h("li", null, x))), by, err,
    h("div", { class: "row end" }, h("button", { class: "btn", type: "button", onclick: () => dialog.close() }, "Cancel"), go)));
  dialog.addEventListener("close", () => {
    dialog.remove();
    const marked = (mark: string) => document.querySelector<HTMLElement>(`[data-focus="${CSS.escape(mark)}"]:not(:disabled)`);
    (marked(from) ?? marked(c.id))?.focus({ preventScroll: true });
  });
  dialog.addEventListener("pointerdown", (e) => { if (e.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (e) => e.stopPropagation());
  document.body.append(dialog);
  dialog.showModal();
  go.focus();
}

/** Rails is the strip that stays in sight: what holds all changes, and the button that does. */
export class Rails {
  private banner = new Banner();
  private hold = h("div", { class: "c-hold", role: "status" });
  private notes = h("ul", { class: "a-notices c-notes", hidden: true });
  private why = h("input", { class: "input", name: "why", placeholder: "Why? Others read it here", maxlength: "1000", "aria-label": "Why all is paused" });
  private whyForm = h("form", { class: "row c-why", hidden: true, onsubmit: (e: Event) => { e.preventDefault(); this.send("pause", this.why.value.trim()); } }, this.why, h("button", { class: "btn", type: "submit" }, "Say why"));
  readonly el = h("div", { class: "c-rails" }, this.banner.el, this.hold, this.whyForm, this.notes);
  private key = "";
  private sending = false;
  private have: Situation | null = null;
  private running = 0;

  /** changed asks the page to look again. */
  constructor(private changed: () => void) {}

  /** set shows what is so now; all are the changes that act, and perhaps others. */
  set(s: Situation, all: Change[]): void {
    this.have = s;
    this.running = all.filter(acting).length;
    this.draw();
    ageing(this.el);
  }

  private draw(): void {
    const s = this.have!, { holds, status } = s, paused = inForce(holds.paused) ? holds.paused! : null;
    const key = JSON.stringify([holds, status, this.running, this.sending]);
    if (key === this.key) return;
    this.key = key;
    const focused = this.hold.contains(document.activeElement);
    const b = (text: string, ic: "pause" | "play", title: string, run: () => void, cls: string) => h("button", { class: "btn " + cls, type: "button", title, disabled: this.sending, onclick: run }, icon(ic), text);
    this.hold.hidden = !paused && !this.running;
    this.hold.classList.toggle("paused", !!paused);
    rebuild(this.hold, () => paused ? [icon("pause", 16), h("div", { class: "banner-text" }, h("b", null, `All changes are paused by ${paused.by}`), " ", h("span", { title: fullTime(ms(paused.at)) }, `since ${moment(ms(paused.at))}`), " (", when(ms(paused.at)), ")",
      isNaN(ms(paused.until)) ? "" : ` until ${moment(ms(paused.until))}`, paused.note ? [": ", paused.note] : ".", h("span", { class: "muted" }, " Nothing is begun or goes further. What is in force is watched, and undone if it does harm.")),
      b("Resume", "play", "Changes go on from where they stood", () => this.send("resume", ""), "primary")]
      : this.running ? [h("i", { class: "on-dot on" }), h("div", { class: "banner-text" }, `${count(this.running, "change is", "changes are")} under way.`), b("Pause all", "pause", "Nothing is begun or goes further until you resume; what is in force stays, and is watched", () => this.send("pause", ""), "danger")] : []);
    this.whyForm.hidden = !paused || !!paused.note;
    const notes = said(s);
    this.notes.hidden = !notes.length;
    rebuild(this.notes, () => notes.map((n) => h("li", { class: n.bad ? "bad" : "" }, icon("warn", 14), h("span", null, n.text))));
    if (focused) this.hold.querySelector<HTMLElement>("button:not(:disabled)")?.focus({ preventScroll: true });
  }

  private send(what: "pause" | "resume", note: string): void {
    if (this.sending) return;
    this.sending = true;
    this.draw();
    guard.all(what, actor(me()), note).then(() => {
      this.banner.clear();
      this.why.value = "";
      toast(what === "resume" ? "Changes go on" : note ? "Said" : "All changes are paused");
    }, (e) => this.banner.fail(e, () => { this.banner.clear(); this.send(what, note); })).finally(() => {
      this.sending = false;
      this.draw();
      this.changed();
    });
  }
}

// said is what else holds changes, or is wrong with what governs them.
function said({ holds, status }: Situation): { text: (Node | string)[]; bad?: boolean }[] {
  const out: { text: (Node | string)[]; bad?: boolean }[] = [];
  if (status.disabled) out.push({ bad: true, text: [h("b", null, "No change is made: "), status.disabled] });
  for (const [name, i] of Object.entries(holds.incidents)) if (inForce(i)) out.push({ text: [h("b", null, `Incident ${name} is open`), ` since ${moment(ms(i.at))}, told by ${i.by || "nobody"}${i.note ? `: ${i.note}` : ""}. Nothing is begun or goes further until it is closed.`] });
  for (const [kind, b] of Object.entries(status.breakers)) {
    const until = ms(b.open_until), what = kind ? `changes of the kind ${changeKinds[kind] ?? kind}` : "changes";
    if (!isNaN(until)) out.push({ text: [h("b", null, "The circuit breaker is open"), ` for ${what}: ${b.failures ?? 0} in a row did harm. ${until > serverNow() ? `One is tried after ${moment(until)}.` : "One is let through, to see."}`] });
  }
  if (status.policy_error) out.push({ bad: true, text: [h("b", null, "The policy file cannot be used; the last good one is in force: "), status.policy_error] });
  return out;
}

/** Note is the fields of what a person does: a name and a note. */
export class Note {
  readonly by = nameField();
  readonly note = h("input", { class: "input", name: "note", placeholder: "Note", maxlength: "1000", "aria-label": "Note" });
  readonly el = h("div", { class: "row f-says" }, this.by, this.note);

  act(what: string): Act {
    return { do: what, by: actor(nameOf(this.by)), note: this.note.value.trim() || undefined };
  }
}
