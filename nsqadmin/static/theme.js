// Loaded before the page is painted, so that a chosen theme does not flash. Without a choice the system's holds.
(() => {
  "use strict";
  const root = document.documentElement;
  const key = "console_theme";
  const stored = () => {
    try {
      return localStorage.getItem(key);
    } catch {
      return null; // storage may be forbidden
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
      // it holds for this page then
    }
    document.dispatchEvent(new Event("console:theme"));
  });
  addEventListener("storage", (event) => {
    if (event.key !== key) return;
    apply(event.newValue);
    document.dispatchEvent(new Event("console:theme"));
  });
})();
