// The total of messages, which grows at the present rate between two updates of the page.
(() => {
  "use strict";
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const place = document.getElementById("counter-value");
  let counted = -1;
  let from = 0;
  let since = 0;
  let shown = 0;

  const latest = () => document.getElementById("counter").dataset;

  function read() {
    const count = Number(latest().count);
    if (count === counted) return;
    // The number shown may be a little ahead of the count: let the count catch up instead of going back.
    const ahead = shown - count;
    from = ahead > 0 && ahead < Number(latest().rate) * 30 ? shown : count;
    counted = count;
    since = performance.now();
  }

  function show() {
    const passed = calm.matches ? 0 : Math.min(performance.now() - since, Number(latest().everyMs) * 2);
    shown = Math.floor(from + (Number(latest().rate) * passed) / 1000);
    const text = shown.toLocaleString("en");
    if (place.textContent !== text) place.textContent = text;
    requestAnimationFrame(show);
  }

  document.addEventListener("console:updated", read);
  read();
  show();
})();
