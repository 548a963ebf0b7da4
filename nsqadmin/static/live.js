// Keeps the page up to date: it is fetched again after each poll of the cluster, and what differs is changed in place.
// Searching, sorting and paging work the same way.
//
// An event stream that all windows of the browser share says when (shared_stream.js). Without one, because the browser
// has no shared workers or the console has too many streams, the page is fetched once an interval. A hidden page does
// neither.
(() => {
  "use strict";
  const TIMEOUT_MS = 20000;
  const RETRY_MS = 15000;
  const TYPING_MS = 250;

  const content = () => document.getElementById("content");
  const pulse = document.getElementById("pulse");
  const pulseText = pulse.querySelector("span");
  const everyMs = Number(pulse.dataset.everyMs);
  const lateMs = 3 * everyMs + 5000;
  let stream = null;
  let streaming = false;
  let timer = 0;
  let running = null;
  let again = false;
  let updated = performance.now() - Number(pulse.dataset.ageMs || 0);
  let state = "wait";

  // Left as they are: charts, which draw themselves, forms, and the open state of <details>.
  const callbacks = {
    beforeNodeMorphed: (old) => !(old.nodeType === 1 && old.hasAttribute("data-keep")),
    beforeAttributeUpdated: (name, node) => !(name === "open" && node.tagName === "DETAILS"),
  };

  async function load(url) {
    const response = await fetch(url, {
      headers: { Accept: "text/html" },
      credentials: "same-origin",
      redirect: "manual",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    // To a page for logging in, the console's or a proxy's: the session is over. The browser has to go there itself.
    if (response.type === "opaqueredirect") {
      location.reload();
      return;
    }
    // A 404 is a page, too: of a topic that does not exist yet, or any more. So is a 403: of what the user may not see.
    if (!response.ok && ![403, 404].includes(response.status)) throw new Error(`the console answered ${response.status}`);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const fresh = page.getElementById("content");
    if (!fresh) throw new Error("the response is not a page of the console");
    const active = document.activeElement;
    // A focused field keeps the text being typed; other focused elements are updated like the rest.
    const ignoreActiveValue = active !== null && active.matches("input, select");
    Idiomorph.morph(content(), fresh, { ignoreActiveValue, callbacks });
    if (active && active.id && document.activeElement !== active) document.getElementById(active.id)?.focus();
    document.getElementById("alarm-count").replaceWith(page.getElementById("alarm-count"));
    document.title = page.title;
    updated = performance.now() - Number(page.getElementById("pulse")?.dataset.ageMs || 0);
    document.dispatchEvent(new Event("console:updated"));
  }

  // One at a time; requests that arrive meanwhile are served together by one more.
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
          state = "live";
        } catch (error) {
          state = "lost";
          console.warn(`refresh: ${error.message}`);
        }
      } while (again);
      running = null;
      showPulse();
      schedule();
    })();
    return running;
  }

  // A page with data-still stays as it is until somebody does something on it.
  function renew() {
    if (!content().hasAttribute("data-still")) {
      refresh();
      return;
    }
    if (streaming) state = "live";
    showPulse();
    schedule();
  }

  // The next refresh if no event comes before: a stream may be silent because its connection is dead.
  function schedule() {
    clearTimeout(timer);
    if (document.hidden) return;
    const pause = streaming ? lateMs : everyMs;
    timer = setTimeout(renew, state === "lost" ? Math.min(pause, RETRY_MS) : pause);
  }

  function connect() {
    try {
      stream = new SharedWorker(pulse.dataset.worker, { name: pulse.dataset.stream }).port;
    } catch {
      return; // the browser has none, or may not use them
    }
    stream.onmessage = ({ data }) => {
      streaming = data !== "lost";
      // A lost stream may be no more than that: whether the console answers, a refresh finds out.
      if (data !== "open" || state === "lost") {
        renew();
        return;
      }
      state = "live";
      showPulse();
      schedule();
    };
  }

  function watch() {
    if (document.hidden) return;
    stream?.postMessage("watch");
    schedule();
  }

  function leave() {
    stream?.postMessage("leave");
    streaming = false;
    clearTimeout(timer);
  }

  function showPulse() {
    const age = Math.max(0, Math.round((performance.now() - updated) / 1000));
    const late = state === "live" && age * 1000 > lateMs && !content().hasAttribute("data-still");
    pulse.dataset.state = late ? "late" : state;
    const text = state === "lost" ? "No connection" : state === "live" ? "Live" : "Connecting";
    pulseText.textContent = state === "lost" || late ? `${text}, updated ${age} s ago` : text;
    pulse.title = `Updated ${age} s ago`;
  }

  function go(url, { replace = false } = {}) {
    history[replace ? "replaceState" : "pushState"](null, "", url);
    return refresh();
  }

  // The time range applies to all pages: the server reads the cookie if the address has none.
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
    if (event.target.hasAttribute("data-leave")) leave(); // logging out: nothing here is to be fetched any more
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
      leave();
      return;
    }
    renew();
    watch();
  });
  addEventListener("pagehide", leave);
  addEventListener("pageshow", watch);
  setInterval(showPulse, 1000);
  connect();
  watch();
})();
