// The form that gives an agent settings for a time. What is wrong the server and the
// agent know; the form only reads numbers, and says before it acts what will change.

import { Fault } from "./api";
import { h, toast } from "./dom";
import { fleet, unlimited, type Agent, type Settings } from "./fleet";
import { value } from "./format";

const byteUnits: { [u: string]: number } = { "": 1, b: 1, kib: 2 ** 10, mib: 2 ** 20, gib: 2 ** 30, tib: 2 ** 40, kb: 1e3, mb: 1e6, gb: 1e9, tb: 1e12 };

/** gogcText, memoryText and rateText are settings as a person reads them. */
export function gogcText(v: number | undefined): string {
  return v === undefined ? "–" : v < 0 ? "off" : String(v);
}
export function memoryText(v: number | undefined): string {
  return v === undefined ? "–" : v >= unlimited ? "none" : value(v, "bytes");
}
export function rateText(v: number | undefined): string {
  return v === undefined ? "–" : v === 0 ? "none" : v + " Hz";
}

interface Field { key: keyof Settings; label: string; hint: string; show: (v: number | undefined) => string; read: (s: string) => number; wrong: string }

const whole = (s: string) => (/^-?\d+$/.test(s) ? Number(s) : NaN);
const fields: Field[] = [
  { key: "gogc", label: "GOGC", hint: "percent; off with a memory limit only", show: gogcText, read: (s) => (s === "off" ? -1 : whole(s)), wrong: "GOGC must be a whole number of percent, or off." },
  { key: "gomemlimit", label: "GOMEMLIMIT", hint: "as 512MiB, or none", show: memoryText, wrong: "GOMEMLIMIT must be as 512MiB or 2GiB, or none.", read: (s) => {
    const m = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/.exec(s);
    return s === "none" || s === "off" ? unlimited : m && m[2] in byteUnits ? Math.round(Number(m[1]) * byteUnits[m[2]]) : NaN;
  } },
  { key: "gomaxprocs", label: "GOMAXPROCS", hint: "processors", show: (v) => (v === undefined ? "–" : String(v)), read: whole, wrong: "GOMAXPROCS must be a whole number." },
  { key: "cpu_rate", label: "CPU sampling", hint: "50, 100 or 200 Hz; 0 is none", show: rateText, read: (s) => whole(s.replace(/\s*hz$/, "")), wrong: "The sampling rate must be a whole number." },
];

/** leaseDialog asks for the settings, has them confirmed, and gives the lease. done is called when it is given. */
export function leaseDialog(a: Agent, done: () => void): void {
  const ins = fields.map((f) => ({ ...f, in: h("input", { class: "input mono", name: f.key, placeholder: f.show(a.settings[f.key]), spellcheck: "false", autocomplete: "off" }) }));
  const time = h("input", { class: "input mono", name: "for", value: "10m", spellcheck: "false", autocomplete: "off" });
  const err = h("div", { class: "field-error", role: "alert", hidden: true }), body = h("div", null);
  const dialog = h("dialog", { class: "dialog", "aria-label": "Lease settings" }, body);
  const say = (text: string) => {
    err.hidden = !text;
    err.textContent = text;
  };
  const form = h("form", { class: "lease-form", onsubmit: (e: Event) => { e.preventDefault(); review(); } },
    h("h2", null, "Lease settings"), h("p", { class: "muted" }, h("b", null, a.service), " ", h("code", null, a.instance), ". Fields left empty stay as they are. When the time is over, or the server is away, the agent restores what it found."),
    ins.map((f) => h("label", null, h("span", null, h("b", null, f.label), " ", f.hint), f.in)),
    h("label", null, h("span", null, h("b", null, "For how long"), " 1s to 24h"), time), err,
    h("div", { class: "row end" }, h("button", { class: "btn", type: "button", onclick: () => dialog.close() }, "Cancel"), h("button", { class: "btn primary", type: "submit" }, "Review")));
  const review = () => {
    const s: Settings = {};
    for (const f of ins) {
      const text = f.in.value.trim().toLowerCase(), v = text ? f.read(text) : 0;
      if (!text) continue;
      if (!Number.isFinite(v)) {
        say(f.wrong);
        f.in.focus();
        return;
      }
      s[f.key] = v;
    }
    if (!Object.keys(s).length) {
      say("Give at least one setting.");
      ins[0].in.focus();
      return;
    }
    say("");
    confirm(s);
  };
  const confirm = (s: Settings) => {
    const go = h("button", { class: "btn primary", type: "button", onclick: () => send(s, go) }, `Lease for ${time.value.trim()}`);
    body.replaceChildren(h("div", { class: "lease-form" }, h("h2", null, "Change these settings?"), h("p", { class: "muted" }, h("b", null, a.service), " ", h("code", null, a.instance), a.granted ? ". The lease that it has is replaced." : ""),
      h("table", { class: "changes" }, fields.filter((f) => s[f.key] !== undefined).map((f) => h("tr", null, h("th", null, f.label), h("td", null, f.show(a.settings[f.key])), h("td", { class: "muted" }, "→"), h("td", null, h("b", null, f.show(s[f.key])))))),
      h("div", { class: "row end" }, h("button", { class: "btn", type: "button", onclick: edit }, "Back"), go)));
    go.focus();
  };
  const edit = () => {
    body.replaceChildren(form);
    ins[0].in.focus();
  };
  const send = (s: Settings, go: HTMLButtonElement) => {
    go.disabled = true;
    fleet.lease(a, s, time.value.trim()).then(() => {
      dialog.close();
      toast("Leased. It is in force when the agent says so");
      done();
    }, (e) => {
      edit();
      say(e instanceof Fault ? e.message : String(e));
    });
  };
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("pointerdown", (e) => { if (e.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (e) => e.stopPropagation());
  document.body.append(dialog);
  edit();
  dialog.showModal();
  ins[0].in.focus();
}
