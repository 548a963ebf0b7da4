// Keeps the page true: one stream of events says when the cluster was asked anew, then the page is fetched
// again and only what differs is changed in place. Searching, sorting and paging go the same way.
//
// A hidden page closes its stream: browsers allow few connections to one host, and servers few streams.
(() => {
  "use strict";
  const TIMEOUT_MS = 20000;
  const RETRY_MS = 15000;
  const TYPING_MS = 250;

  const content = () => document.getElementById("content");
  const pulse = document.getElementById("pulse");
  const pulseText = pulse.querySelector("span");
  let source = null;
  let retry = 0;
  let running = null;
  let again = false;
  let asked = performance.now() - Number(pulse.dataset.ageMs || 0);
  let state = "wait";

  // What may not be touched: charts draw themselves, forms are being filled in, and what was opened stays open.
  const callbacks = {
    beforeNodeMorphed: (old) => !(old.nodeType === 1 && old.hasAttribute("data-keep")),
    beforeAttributeUpdated: (name, node) => !(name === "open" && node.tagName === "DETAILS"),
  };

  async function load(url) {
    const response = await fetch(url, {
      headers: { Accept: "text/html" },
      credentials: "same-origin",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    if (!response.ok) throw new Error(`the console answered ${response.status}`);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const fresh = page.getElementById("content");
    if (!fresh) throw new Error("the console answered with something else");
    const active = document.activeElement;
    // Who is typing keeps the text; anything else that has the focus changes like the rest.
    const ignoreActiveValue = active !== null && active.matches("input, select");
    Idiomorph.morph(content(), fresh, { ignoreActiveValue, callbacks });
    if (active && active.id && document.activeElement !== active) document.getElementById(active.id)?.focus();
    document.title = page.title;
    asked = performance.now() - Number(page.getElementById("pulse")?.dataset.ageMs || 0);
    document.dispatchEvent(new Event("console:updated"));
  }

  // One at a time; what comes in between is done once afterwards.
  async function refresh() {
    if (running) {
      again = true;
      return running;
    }
    running = (async () => {
      do {
        again = false;
        try {
          await load(location.href);
          if (state === "lost" && source) state = "live";
        } catch (error) {
          state = "lost";
          console.warn(`refresh: ${error.message}`);
        }
      } while (again);
      running = null;
      showPulse();
    })();
    return running;
  }

  function open() {
    if (source || document.hidden) return;
    clearTimeout(retry);
    source = new EventSource(pulse.dataset.stream);
    source.addEventListener("open", () => {
      state = "live";
      showPulse();
    });
    source.addEventListener("picture", () => refresh());
    source.addEventListener("error", () => {
      // The browser tries again by itself unless it was refused: then the page asks now and then.
      if (source.readyState !== EventSource.CLOSED) {
        state = "lost";
        showPulse();
        return;
      }
      close();
      retry = setTimeout(() => refresh().then(open), RETRY_MS);
    });
  }

  function close() {
    source?.close();
    source = null;
  }

  function showPulse() {
    const age = Math.max(0, Math.round((performance.now() - asked) / 1000));
    const every = Number(pulse.dataset.everyMs) / 1000;
    const late = state === "live" && age > 3 * every + 5;
    pulse.dataset.state = late ? "late" : state;
    const text = state === "lost" ? "No connection" : state === "live" ? "Live" : "Connecting";
    pulseText.textContent = state === "lost" || late ? `${text}, ${age} s old` : text;
    pulse.title = `The cluster was asked ${age} s ago`;
  }

  function go(url, { replace = false } = {}) {
    history[replace ? "replaceState" : "pushState"](null, "", url);
    return refresh();
  }

  // How far back charts look holds for all pages: the server reads it when an address does not say.
  function remember(name, value) {
    const path = new URL(pulse.dataset.stream, location.href).pathname.replace(/\/live$/, "") || "/";
    document.cookie = `console_${name}=${value}; path=${path}; max-age=31536000; samesite=strict`;
  }

  function addressOf(form) {
    const url = new URL(form.action);
    const words = new URLSearchParams();
    for (const [name, value] of new FormData(form)) if (value !== "") words.append(name, value);
    url.search = words.toString();
    return url.href;
  }

  let typing = 0;
  document.addEventListener("input", (event) => {
    const form = event.target.form;
    if (!form || !form.hasAttribute("data-live")) return;
    clearTimeout(typing);
    typing = setTimeout(() => go(addressOf(form), { replace: true }), event.target.tagName === "SELECT" ? 0 : TYPING_MS);
  });
  document.addEventListener("submit", (event) => {
    if (!event.target.hasAttribute("data-live")) return;
    event.preventDefault();
    clearTimeout(typing);
    go(addressOf(event.target), { replace: true });
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-live]");
    if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    if (link.dataset.remember) remember(...link.dataset.remember.split("="));
    go(link.href);
  });
  addEventListener("popstate", () => refresh());
  document.addEventListener("console:refresh", () => refresh());
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      close();
      return;
    }
    refresh();
    open();
  });
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  setInterval(showPulse, 1000);
  open();
})();
