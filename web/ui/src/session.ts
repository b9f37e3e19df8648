// Who is logged in, and what she may: what she may not is not offered. docs/access.md has what the server decides; this only saves her the
// refusal.

import { ask, Fault } from "./api";
import { h } from "./dom";

export type Right = "read_aggregate" | "read_raw" | "change" | "triage" | "administer" | "read_node" | "change_node";
interface Me { name?: string; how?: string; level?: string; mfa?: boolean; factor?: boolean; grants?: { role: string; service?: string }[]; may?: { [right: string]: boolean } }

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

/** badge is who is logged in, with the way out, and to her second factor, for which raise is called; nothing on a server without a door. */
export function badge(raise: () => void): HTMLElement | null {
  if (!me || me.how === "open") return null;
  const roles = (me.grants ?? []).map((g) => g.role + (g.service ? ":" + g.service : "")).join(", ");
  return h("div", { class: "row who" }, h("span", { class: "who-name", title: `${roles || "no roles"} · level ${me.level}, by ${me.how}` }, me.name ?? ""),
    canRaise() ? h("button", { class: "btn ghost tiny", type: "button", onclick: raise }, "Second factor") : null,
    h("button", { class: "btn ghost tiny", type: "button", onclick: logOut }, "Log out"));
}

/** canRaise says whether she has a second factor that she has not shown. */
export function canRaise(): boolean { return me?.factor === true && me.mfa !== true; }

async function logOut(): Promise<void> {
  let next: string | undefined;
  try {
    next = (await ask<{ next?: string }>("Logging out", "/logout", { method: "POST" })).next;
  } catch (e) {
    if (!(e instanceof Fault && e.code === "unauthenticated")) throw e;
  }
  if (next) location.assign(next); // where the identity provider ends its own session
  else await enter(); // which finds that nobody is logged in any more
}

// What the server says by a word in the address when a login has come to nothing.
const said: { [word: string]: string } = {
  used: "The link has been used, or is too old.",
  refused: "The identity provider's answer was refused: the login took too long, was begun in another browser, or your account may not come in. The audit log has the reason.",
  norole: "The identity provider knows you, and nobody here has given you a role. Ask an admin.",
  undecided: "Who may come in cannot be decided or recorded now, so nobody is let in. The server's log says why, and what to do; then make another link.",
  away: "The identity provider does not answer. Try again in a moment, or use a one-time link.",
};

/** whyLogin is what has happened, by the address; otherwise what the page says. */
export function whyLogin(word: string | null, otherwise: string): string { return said[word ?? ""] ?? otherwise; }

/** loginPage is what somebody sees who is not logged in. why is what has happened, if anything has; entered is called
 * when she is. */
export function loginPage(why: string, entered: () => void): HTMLElement {
  const code = h("input", { class: "input", name: "code", type: "password", autocomplete: "off", spellcheck: "false", "aria-label": "One-time code", placeholder: "qll_…" });
  const told = h("p", { class: "muted", role: "status" }, why);
  const go = async (e: Event): Promise<void> => {
    e.preventDefault();
    try {
      // Pasted whole, a link has the code in it.
      const text = code.value.trim(), at = text.indexOf("code=");
      await ask("The code", "/login", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ code: at < 0 ? text : text.slice(at + 5) }) });
      entered();
    } catch (err) {
      told.textContent = (err as Error).message;
    }
  };
  const provider = h("p", { hidden: true }, h("a", { class: "btn primary", href: "/login/provider" }, "Log in"));
  void ask<{ provider?: string }>("The ways to log in", "/api/v1/access/login", {}).then((ways) => {
    provider.hidden = !ways.provider;
    provider.querySelector("a")!.textContent = `Log in by ${ways.provider}`;
  }, () => { /* the code does as well */ });
  return h("section", { class: "empty login" }, h("h2", null, "Log in"), told, provider,
    h("p", null, "Open the one-time link that ", h("code", null, "quantraband up"), " printed. Another is made on the server's machine by ", h("code", null, "quantraband login --link"), "."),
    h("form", { class: "row center", onsubmit: go }, code, h("button", { class: "btn primary", type: "submit" }, "Log in")));
}

/** factorPage asks for the code of the second factor. done is called with whether it was shown. */
export function factorPage(done: (shown: boolean) => void): HTMLElement {
  const code = h("input", { class: "input", name: "totp", inputmode: "numeric", autocomplete: "one-time-code", maxlength: "6", "aria-label": "Code of the second factor", placeholder: "123456" });
  const told = h("p", { class: "muted", role: "status" }, "The code that your authenticator shows.");
  const go = async (e: Event): Promise<void> => {
    e.preventDefault();
    try {
      await ask("The second factor", "/login/mfa", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ code: code.value.replace(/\s/g, "") }) });
      done(true);
    } catch (err) {
      told.textContent = (err as Error).message;
      code.select();
    }
  };
  return h("section", { class: "empty login" }, h("h2", null, "Second factor"), told,
    h("form", { class: "row center", onsubmit: go }, code, h("button", { class: "btn primary", type: "submit" }, "Show it"),
      h("button", { class: "btn ghost", type: "button", onclick: () => done(false) }, "Later")));
}
