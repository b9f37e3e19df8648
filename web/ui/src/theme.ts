// Light, dark, or as the system has it.

const key = "quantra.theme";
export type Theme = "auto" | "light" | "dark";

const dark = matchMedia("(prefers-color-scheme: dark)");
const listeners = new Set<() => void>();

export function theme(): Theme {
  const t = localStorage.getItem(key);
  return t === "light" || t === "dark" ? t : "auto";
}

function apply(): void {
  const t = theme();
  document.documentElement.dataset.theme = t === "auto" ? (dark.matches ? "dark" : "light") : t;
  for (const f of listeners) f();
}

export function setTheme(t: Theme): void {
  localStorage.setItem(key, t);
  apply();
}

export function isDark(): boolean {
  return document.documentElement.dataset.theme === "dark";
}

/** onTheme calls f when colours have changed; canvases have to be drawn again. */
export function onTheme(f: () => void): () => void {
  listeners.add(f);
  return () => listeners.delete(f);
}

dark.addEventListener("change", apply);
apply();
