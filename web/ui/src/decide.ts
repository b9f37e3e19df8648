// What a person decides of changes: the confirmation before one is started, and the strip that holds all of them.

import { Fault, serverNow } from "./api";
import { Banner, me, nameField, nameOf } from "./controls";
import { h, icon, rebuild, toast } from "./dom";
import { count } from "./format";
import { acting, guard, type Act, type Change, type Hold, type Planned, type Situation } from "./guard";
import { ms } from "./watch";
import { back, changeKinds, duration, size } from "./terms";
import { ageing, fullTime, moment, rich, when } from "./words";

/** actor is who acts where nobody said: the server keeps a name with each act. */
export const actor = (name: string) => name || "dashboard";

/** did says what was done, for a toast. */
export const did: { [act: string]: string } = { start: "Started: it begins within seconds, unless something holds it", approve: "Approved", pause: "Paused: it stays as it is and is watched", resume: "It goes on", undo: "It is being undone", reject: "Rejected: it is not proposed again" };

const inForce = (hold: Hold | undefined) => !!hold && !(ms(hold.until) <= serverNow());

// steps says what will happen, in order: as far as the plan of the change that runs or, of one that does not, the server tells.
function steps(c: Change, s: Situation | null, p: Planned | null): (Node | string)[][] {
  const plan = c.plan.stages, first = plan[0], held = s?.status.frozen || (p?.why !== unstarted && p?.why);
  const dwell = first ? `for ${duration(first.dwell)}` : "for as long as the policy says (10 min unless it says otherwise)";
  const then = p?.stages.length ? p.stages.filter((n, i, all) => i > 0 && n > all[i - 1]).map((n) => `${n} of ${p.targets}`) : plan.length ? plan.slice(1).map(size) : ["10 %", "50 %", "all of them, unless the policy has other stages"];
  return [
    ...(held ? [[h("b", null, "It waits. "), held]] : []),
    [h("b", null, p?.nodes.length ? `First ${some(p.nodes)} (${p.nodes.length} of ${count(p.targets, "node")})` : first ? `First ${size(first)}` : "First one node"), `, ${dwell}`, p?.nodes.length && !p.controls.length ? ", held to its own past: there is no other to compare with." : `, beside ${p?.controls.length ? some(p.controls) : "a control of the same size"} that is left as it is.`, " Before anything is set, the way back is tried."],
    [then.length ? `Then ${then.join(", ")}: each only once the stage before is shown to be no worse than tolerated.` : "There is no further stage: it is kept if it is shown to be no worse than tolerated."],
    [`If it does harm it is undone at once; if nothing can be shown ${first ? `within ${duration(first.deadline)}` : "in time"}, too.`],
    [h("b", null, "How it is undone: "), back(c.kind) + " You can undo it at any time, also when it is done."],
  ];
}

const unstarted = "Nobody has started it.";
const some = (names: string[]) => names.slice(0, 3).join(", ") + (names.length > 3 ? ` and ${names.length - 3} more` : "");

let asking = false; // what would happen is being asked for: a second click opens no second dialog

/** startDialog says what will happen, and starts the change or, as approve, approves what it costs and starts it. done has its answer.
 * When it closes, the focus is on what has the mark from, or on the change's own line where that is gone. */
export function startDialog(c: Change, s: Situation | null, what: "start" | "approve", from: string, done: (c: Change) => void): void {
  if (asking) return;
  asking = true;
  // What would happen exactly is worth a second; without it, what the plan or the default is will do.
  const late = new Promise<null>((r) => setTimeout(() => r(null), 1000));
  Promise.race([guard.plan().then((all) => all.find((p) => p.change.id === c.id) ?? null, () => null), late]).then((p) => {
    asking = false;
    confirm(c, s, what, from, done, p);
  });
}

function confirm(c: Change, s: Situation | null, what: "start" | "approve", from: string, done: (c: Change) => void, p: Planned | null): void {
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
    h("ol", null, steps(c, s, p).map((x) => h("li", null, x))), by, err,
    h("div", { class: "row end" }, h("button", { class: "btn", type: "button", onclick: () => dialog.close() }, "Cancel"), go)));
  dialog.addEventListener("close", () => {
    dialog.remove();
    const marked = (mark: string) => document.querySelector<HTMLElement>(`[data-focus="${CSS.escape(mark)}"]:not(:disabled)`);
    (marked(from) ?? marked(c.id))?.focus({ preventScroll: true });
  });
  dialog.addEventListener("pointerdown", (e) => { if (e.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (e) => {
    e.stopPropagation();
    if (e.repeat && e.key === "Enter") e.preventDefault(); // who holds the key that opened it has not confirmed
  });
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
    const key = JSON.stringify([holds, status.frozen, status.policy, status.breakers, status.errors, this.running, this.sending]);
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
  const told = inForce(holds.paused) && status.frozen?.includes(holds.paused!.by), incident = Object.keys(holds.incidents).some((n) => status.frozen?.includes(n));
  if (status.frozen && !told && !incident) out.push({ bad: true, text: [h("b", null, "No change is made: "), status.frozen] });
  for (const [name, i] of Object.entries(holds.incidents)) if (inForce(i)) out.push({ text: [h("b", null, `Incident ${name} is open`), ` since ${moment(ms(i.at))}, told by ${i.by || "nobody"}${i.note ? `: ${i.note}` : ""}. Nothing is begun or goes further until it is closed.`] });
  for (const [kind, b] of Object.entries(status.breakers)) {
    const until = ms(b.open_until), what = kind ? `changes of the kind ${changeKinds[kind] ?? kind}` : "changes";
    if (!isNaN(until)) out.push({ text: [h("b", null, "The circuit breaker is open"), ` for ${what}: ${b.failures ?? 0} in a row did harm. ${until > serverNow() ? `One is tried after ${moment(until)}.` : "One is let through, to see."}`] });
  }
  if (status.policy.error) out.push({ bad: true, text: [h("b", null, `The policy file ${status.policy.name ?? ""} cannot be used; what was read before is in force: `), status.policy.error] });
  for (const e of status.errors) out.push({ text: [h("b", null, "An error: "), e] });
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
