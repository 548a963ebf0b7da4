// Draws the charts of a page: <figure data-chart="URL"> with a .legend and a .plot in it.
// The URL answers {"at":[unix seconds],"lines":{"in":[values or null]}}. The legend's items say which lines to draw
// (data-line), with which label and colour, and have the values of the instant that the page shows.
(() => {
  "use strict";
  // Ticks of counts: without these, uPlot divides a small range into fractions.
  const WHOLE = [...Array(15).keys()].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power));
  const drawn = new Map();
  let requests = new Map();

  const color = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();

  // A canvas does not know light-dark(): let the browser compute the colour on an element.
  const probe = document.createElement("i");
  probe.hidden = true;
  document.body.append(probe);
  function resolved(name) {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  }

  const linesOf = (figure) =>
    [...figure.querySelectorAll(".legend [data-line]")].map((item) => ({
      key: item.dataset.line,
      label: item.dataset.label,
      color: getComputedStyle(item.querySelector(".swatch")).color,
    }));

  function short(value) {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size >= 1e9) return `${(value / 1e9).toFixed(1)}G`;
    if (size >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
    if (size >= 1e4) return `${(value / 1e3).toFixed(1)}k`;
    if (size >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
    return value.toFixed(size >= 10 ? 1 : 2);
  }

  const clock = (seconds) => {
    const date = new Date(seconds * 1000);
    const parts = [date.getHours(), date.getMinutes()];
    if (date.getSeconds()) parts.push(date.getSeconds());
    return parts.map((part) => String(part).padStart(2, "0")).join(":");
  };

  function fetchSeries(address) {
    if (!requests.has(address)) {
      requests.set(
        address,
        fetch(address, { credentials: "same-origin", signal: AbortSignal.timeout(20000) }).then((response) => {
          if (!response.ok) throw new Error(`the console answered ${response.status}`);
          return response.json();
        }),
      );
    }
    return requests.get(address);
  }

  function options(figure, lines, plot) {
    const ink = resolved("--ink-3");
    const line = resolved("--line");
    const axis = { stroke: ink, font: `11px ${color("--sans")}`, ticks: { show: false } };
    return {
      width: plot.clientWidth,
      height: plot.clientHeight,
      padding: [8, 18, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 }, sync: { key: "console" } },
      scales: { y: { range: (_u, _low, high) => [0, Math.max(1, high * 1.12)] } },
      axes: [
        { ...axis, grid: { show: false }, space: 64, size: 26, values: (_u, ticks) => ticks.map(clock) },
        {
          ...axis,
          grid: { stroke: line, width: 1 },
          size: 46,
          space: 38,
          values: (_u, ticks) => ticks.map(short),
          ...("counts" in figure.dataset && { incrs: WHOLE }),
        },
      ],
      series: [
        {},
        ...lines.map(({ label, color: stroke }, index) => {
          const fill = index ? undefined : stroke.replace("rgb(", "rgba(").replace(")", ", 0.10)");
          return { label, stroke, fill, width: 1.6, points: { show: false } };
        }),
      ],
      hooks: { setCursor: [(u) => showTip(figure, u)] },
    };
  }

  function showTip(figure, u) {
    let tip = figure.querySelector(".chart-tip");
    const index = u.cursor.idx;
    if (index === null || index === undefined || u.cursor.left < 0 || !figure.matches(":hover")) {
      tip?.remove();
      return;
    }
    if (!tip) {
      tip = document.createElement("div");
      tip.className = "chart-tip";
      tip.setAttribute("aria-hidden", "true");
      figure.append(tip);
    }
    const rows = [new Date(u.data[0][index] * 1000).toLocaleTimeString()];
    tip.replaceChildren(Object.assign(document.createElement("div"), { textContent: rows[0] }));
    u.series.slice(1).forEach((series, n) => {
      const row = document.createElement("div");
      const swatch = document.createElement("i");
      swatch.className = "swatch";
      swatch.style.color = series.stroke(u, n + 1);
      const value = document.createElement("b");
      value.textContent = short(u.data[n + 1][index]);
      row.append(swatch, series.label, value);
      tip.append(row);
    });
    const box = figure.getBoundingClientRect();
    const over = u.over.getBoundingClientRect();
    const left = over.left - box.left + u.cursor.left;
    tip.style.left = `${left > box.width / 2 ? left - tip.offsetWidth - 12 : left + 12}px`;
    tip.style.top = `${over.top - box.top + 6}px`;
  }

  // For those who do not see it: the plot is kept when the page is updated, so that its label is set here.
  function describe(figure, plot) {
    const values = [...figure.querySelectorAll(".legend li")].map((item) => item.textContent.trim());
    plot.setAttribute("aria-label", `${plot.dataset.title}: ${values.join(", ")} now`);
  }

  async function draw(figure, redraw) {
    const plot = figure.querySelector(".plot");
    describe(figure, plot);
    let data;
    try {
      data = await fetchSeries(figure.dataset.chart);
    } catch (error) {
      console.warn(`chart: ${error.message}`);
      return;
    }
    if (!figure.isConnected) return;
    const lines = linesOf(figure);
    const table = [data.at, ...lines.map(({ key }) => data.lines[key])];
    const chart = drawn.get(figure);
    if (chart && !redraw) {
      chart.setData(table);
      return;
    }
    chart?.destroy();
    plot.replaceChildren();
    drawn.set(figure, new uPlot(options(figure, lines, plot), table, plot));
  }

  function drawAll(redraw) {
    requests = new Map();
    const figures = document.querySelectorAll("figure[data-chart]");
    for (const [figure, chart] of drawn) {
      if (figure.isConnected) continue;
      chart.destroy();
      drawn.delete(figure);
    }
    for (const figure of figures) draw(figure, redraw);
  }

  let resizing = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(resizing);
    resizing = requestAnimationFrame(() => {
      for (const [figure, chart] of drawn) {
        const plot = figure.querySelector(".plot");
        chart.setSize({ width: plot.clientWidth, height: plot.clientHeight });
      }
    });
  });
  document.addEventListener("console:updated", () => drawAll(false));
  document.addEventListener("console:theme", () => drawAll(true));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll(true));
  drawAll(false);
})();
