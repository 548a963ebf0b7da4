// The number of all messages, running on at the present rate between two answers of the cluster.
(() => {
  "use strict";
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const place = document.getElementById("counter-value");
  let counted = -1;
  let from = 0;
  let since = 0;
  let shown = 0;

  const said = () => document.getElementById("counter").dataset;

  function read() {
    const count = Number(said().count);
    if (count === counted) return;
    // What is shown may be a little ahead of the count: let the count catch up instead of running back.
    const ahead = shown - count;
    from = ahead > 0 && ahead < Number(said().rate) * 30 ? shown : count;
    counted = count;
    since = performance.now();
  }

  function show() {
    const passed = calm.matches ? 0 : Math.min(performance.now() - since, Number(said().everyMs) * 2);
    shown = Math.floor(from + (Number(said().rate) * passed) / 1000);
    const text = shown.toLocaleString("en");
    if (place.textContent !== text) place.textContent = text;
    requestAnimationFrame(show);
  }

  document.addEventListener("console:updated", read);
  read();
  show();
})();
