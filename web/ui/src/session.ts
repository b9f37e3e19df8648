// Who is logged in, and what she may: what she may not is not offered. docs/access.md has what the server decides; this only saves her the
// refusal.

import { ask, Fault } from "./api";
import { h } from "./dom";

export type Right = "read_aggregate" | "read_raw" | "change" | "triage" | "administer";
interface Me { name?: string; how?: string; level?: string; grants?: { role: string; service?: string }[]; may?: { [right: string]: boolean } }

let me: Me | null = null; // null is that it is not known yet

/** may says whether something is to be offered. A server without a door lets everyone do everything, and
 * until it is known who she is everything is. */
export function may(right: Right): boolean {
  return me === null || me.how === "open" || me.may?.[right] === true;
}

/** enter finds out who is logged in, and is false where nobody is. */
export async function enter(): Promise<boolean> {
  try {
    me = await ask<Me>("Who you are", "/api/v1/access/me", { cache: "no-store" });
  } catch (e) {
    if (e instanceof Fault && e.code !== "unauthenticated") {
      me = { how: "open", name: "" }; // it does not answer now: the pages say so, and try again
      return true;
    }
    me = null;
    return false;
  }
  const b = document.body.classList;
  for (const r of ["change", "triage"] as const) b.toggle("no-" + r, !may(r));
  return true;
}

/** badge is who is logged in, with the way out; nothing on a server without a door. */
export function badge(): HTMLElement | null {
  if (!me || me.how === "open") return null;
  const roles = (me.grants ?? []).map((g) => g.role + (g.service ? ":" + g.service : "")).join(", ");
  return h("div", { class: "row who" }, h("span", { class: "who-name", title: `${roles || "no roles"} · level ${me.level}, by ${me.how}` }, me.name ?? ""),
    h("button", { class: "btn ghost tiny", type: "button", onclick: logOut }, "Log out"));
}

async function logOut(): Promise<void> {
  try {
    await ask("Logging out", "/logout", { method: "POST" });
  } catch (e) {
    if (!(e instanceof Fault && e.code === "unauthenticated")) throw e;
  }
  await enter(); // which finds that nobody is logged in any more
}

/** loginPage is what somebody sees who is not logged in. why is what has happened, if anything has; entered is called
 * when she is. */
export function loginPage(why: string, entered: () => void): HTMLElement {
  const code = h("input", { class: "input", name: "code", type: "password", autocomplete: "off", spellcheck: "false", "aria-label": "One-time code", placeholder: "qll_…" });
  const said = h("p", { class: "muted", role: "status" }, why);
  const go = async (e: Event): Promise<void> => {
    e.preventDefault();
    try {
      // Pasted whole, a link has the code in it.
      const text = code.value.trim(), at = text.indexOf("code=");
      await ask("The code", "/login", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ code: at < 0 ? text : text.slice(at + 5) }) });
      entered();
    } catch (err) {
      said.textContent = (err as Error).message;
    }
  };
  return h("section", { class: "empty login" }, h("h2", null, "Log in"), said,
    h("p", null, "Open the one-time link that ", h("code", null, "quantraband up"), " printed. Another is made on the server's machine by ", h("code", null, "quantraband login --link"), "."),
    h("form", { class: "row center", onsubmit: go }, code, h("button", { class: "btn primary", type: "submit" }, "Log in")));
}
