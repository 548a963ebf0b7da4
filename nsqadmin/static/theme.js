// Loaded before the page is painted, so that the page does not flash in the wrong theme. The default is the system's.
(() => {
  "use strict";
  const root = document.documentElement;
  const key = "console_theme";
  const stored = () => {
    try {
      return localStorage.getItem(key);
    } catch {
      return null; // storage may be disabled
    }
  };
  const apply = (theme) => {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
  };
  apply(stored());

  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-theme-switch]")) return;
    const systemIsDark = matchMedia("(prefers-color-scheme: dark)").matches;
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : systemIsDark;
    const next = isDark ? "light" : "dark";
    apply(next);
    try {
      localStorage.setItem(key, next);
    } catch {
      // the choice applies to this page only
    }
    document.dispatchEvent(new Event("console:theme"));
  });
  addEventListener("storage", (event) => {
    if (event.key !== key) return;
    apply(event.newValue);
    document.dispatchEvent(new Event("console:theme"));
  });
})();
