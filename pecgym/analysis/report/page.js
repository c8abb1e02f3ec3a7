"use strict";

const DASHES = ["solid", "solid", "solid", "solid", "solid", "dash", "dash", "dash", "dot", "dot"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star", "hexagon", "x", "cross"];
const BORDERS = { solid: "solid", dash: "dashed", dot: "dotted" };
const MODE_BAR = [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]];
const redraws = [];

/** The text of a compressed script element. */
async function unpacked(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

const probe = document.createElement("i");

/** The value of a colour variable under the present theme. */
function colour(name) {
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}

const policyColour = (number) => colour(`--policy${number % 10}`);

/** The page's styles on top of a figure that says only what is shown. */
function styledLayout(layout, tail) {
  const axis = { gridcolor: colour("--grid"), linecolor: colour("--line"), zeroline: false, automargin: true, ticks: "outside", tickcolor: colour("--line") };
  const tailAxis = { type: "log", title: { text: "share of requests above" }, tickvals: [1, 0.1, 0.01, 1e-3, 1e-4], ticktext: ["100%", "10%", "1%", "0.1%", "0.01%"], range: [-4.05, 0.05] };
  const own = (given) => ({ ...axis, ...given, title: { ...given.title, standoff: 10 } });
  return {
    showlegend: false,
    hovermode: "closest",
    dragmode: "zoom",
    margin: { l: 56, r: 14, t: 28, b: 46 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--faint"), activecolor: colour("--accent") },
    font: { color: colour("--ink"), family: getComputedStyle(document.body).fontFamily, size: 12 },
    ...layout,
    xaxis: own(layout.xaxis),
    yaxis: own(tail ? tailAxis : layout.yaxis),
  };
}

/** Ticks of a log axis at 1, at 1, 2, 5, or at round numbers, as its range asks for; range: powers of ten. */
function logTicks(range) {
  const [low, high] = range;
  let values = [];
  if (high - low < 0.8) {
    values = roundSteps(10 ** low, 10 ** high, 5);
  } else {
    const factors = high - low < 3 ? [1, 2, 5] : [1];
    for (let power = Math.floor(low); power <= high; power++) values.push(...factors.map((factor) => factor * 10 ** power));
  }
  return { tickvals: values, ticktext: values.map((value) => value.toLocaleString("en", { maximumSignificantDigits: 5 })) };
}

function styledTraces(figure, hidden, tail) {
  return figure.data.map((trace) => {
    if (trace.meta.front === true) return { ...trace, line: { ...trace.line, color: colour("--faint") } };
    const number = trace.meta.policy;
    const own = policyColour(number);
    if (trace.mode === "lines") {
      const y = tail ? trace.y.map((share) => (share < 1 ? 1 - share : null)) : trace.y;
      const line = { ...trace.line, color: own, width: 2, dash: DASHES[number % 10] };
      return { ...trace, y, line, visible: !hidden.has(number) };
    }
    const symbol = SYMBOLS[number % 10] + (trace.meta.hollow ? "-open" : "");
    const marker = { size: 12, color: own, symbol, line: { width: trace.meta.hollow ? 2 : 1, color: trace.meta.hollow ? own : colour("--card") } };
    const bars = { error_x: { ...trace.error_x, color: own }, error_y: { ...trace.error_y, color: own } };
    return { ...trace, ...bars, marker, textfont: { color: colour("--ink"), size: 12 }, visible: !hidden.has(number) };
  });
}

/** The range of a log axis around all points and their bars, with a margin. */
function logRange(traces, axis, margin) {
  const values = traces.flatMap((trace) => {
    const bars = trace[`error_${axis}`];
    const spread = bars && bars.visible ? [bars.array[0], -bars.arrayminus[0]] : [];
    return trace[axis].flatMap((value) => [value, ...spread.map((d) => value + d)]);
  });
  const [low, high] = [Math.log10(Math.min(...values)), Math.log10(Math.max(...values))];
  const room = Math.max((high - low) * margin, 0.02);
  return [low - room, high + room];
}

/** Puts each name where it covers no marker, no bar and no other name. */
function placeNames(traces, layout, box) {
  const size = [box.clientWidth - 80, box.clientHeight - 80];
  const pixels = (value, range, length) => ((Math.log10(value) - range[0]) / (range[1] - range[0])) * length;
  const x = (value) => pixels(value, layout.xaxis.range, size[0]);
  const y = (value) => size[1] - pixels(value, layout.yaxis.range, size[1]);
  const points = traces.filter((trace) => trace.text);
  const taken = points.flatMap(({ x: [px], y: [py], error_x: ex, error_y: ey }) => {
    const marker = [x(px) - 8, y(py) - 8, 16, 16];
    if (!ex.visible) return [marker];
    const [left, right] = [x(px - ex.arrayminus[0]), x(px + ex.array[0])];
    const [bottom, top] = [y(py - ey.arrayminus[0]), y(py + ey.array[0])];
    return [marker, [left, y(py) - 4, right - left, 8], [x(px) - 4, top, 8, bottom - top]];
  });
  const common = (a, b, i) => Math.max(0, Math.min(a[i] + a[i + 2], b[i] + b[i + 2]) - Math.max(a[i], b[i]));
  const overlap = (a, b) => common(a, b, 0) * common(a, b, 1);
  const shifts = { "top right": [4, -24], "top left": [-4, -24], "bottom right": [4, 8], "bottom left": [-4, 8], "middle right": [12, -8], "middle left": [-12, -8], "top center": [0, -25], "bottom center": [0, 9] };
  for (const trace of points) {
    const width = 7 * trace.text[0].length;
    const places = Object.entries(shifts).map(([position, [dx, dy]]) => {
      const left = position.endsWith("center") ? -width / 2 : position.endsWith("left") ? -width : 0;
      const place = [x(trace.x[0]) + dx + left, y(trace.y[0]) + dy, width, 16];
      const outside = place[0] < 0 || place[0] + width > size[0] ? 1e6 : 0;
      return { cost: taken.reduce((sum, other) => sum + overlap(place, other), outside), position, place };
    });
    const best = places.reduce((a, b) => (b.cost < a.cost ? b : a));
    trace.textposition = best.position;
    taken.push(best.place);
  }
}

function drawFigure(element, figure, hidden, tail) {
  const traces = styledTraces(figure, hidden, tail);
  const layout = { ...styledLayout(figure.layout, tail), width: element.clientWidth, height: element.clientHeight };
  const isPareto = element.dataset.figure === "pareto";
  layout.xaxis.range = logRange(figure.data, "x", isPareto ? 0.1 : 0.02);
  Object.assign(layout.xaxis, logTicks(layout.xaxis.range));
  if (isPareto) {
    layout.yaxis.range = logRange(figure.data, "y", 0.15);
    Object.assign(layout.yaxis, logTicks(layout.yaxis.range));
    placeNames(traces, layout, element);
  }
  Plotly.react(element, traces, layout, { displaylogo: false, modeBarButtons: MODE_BAR });
  if (element.dataset.drawn) return;
  element.dataset.drawn = "true";
  element.on("plotly_relayout", (change) => {
    if (!Object.keys(change).some((key) => key.includes("range"))) return;
    const ticks = {};
    for (const name of isPareto ? ["xaxis", "yaxis"] : ["xaxis"]) {
      for (const [key, value] of Object.entries(logTicks(element.layout[name].range))) ticks[`${name}.${key}`] = value;
    }
    Plotly.relayout(element, ticks);
  });
}

function setUpFigures(root, data) {
  const hidden = new Set();
  const axis = root.querySelector("select.axis");
  const draw = () => {
    for (const element of root.querySelectorAll(".plot")) {
      const isPareto = element.dataset.figure === "pareto";
      drawFigure(element, data.figures[element.dataset.figure], isPareto ? new Set() : hidden, !isPareto && axis.value === "tail");
    }
  };
  if (axis) {
    axis.addEventListener("change", draw);
    const legend = Object.assign(document.createElement("span"), { className: "policies" });
    data.policies.forEach((policy, number) => {
      const button = Object.assign(document.createElement("button"), { type: "button" });
      const swatch = Object.assign(document.createElement("i"), { className: "swatch" });
      swatch.dataset.policy = number;
      button.append(swatch, policy);
      button.setAttribute("aria-pressed", "true");
      button.addEventListener("click", () => {
        if (!hidden.delete(number)) hidden.add(number);
        button.setAttribute("aria-pressed", String(!hidden.has(number)));
        draw();
      });
      legend.append(button);
    });
    axis.closest(".controls").append(legend);
  }
  return draw;
}

function paintSwatches() {
  for (const swatch of document.querySelectorAll(".swatch")) {
    const number = Number(swatch.dataset.policy);
    swatch.style.borderTopColor = policyColour(number);
    swatch.style.borderTopStyle = BORDERS[DASHES[number % 10]];
  }
}

function setUpTimelines(root, data, kinds, firstLongKind) {
  const area = root.querySelector(".gantts");
  if (!area) return () => {};
  const pick = (name) => root.querySelector(`.timeline .${name}`);
  const end = Math.max(...Object.values(data.timelines).map((line) => line.end_s), 1e-3);
  let [from, to] = [0, end];
  let gantts = [];
  const draw = () => {
    pick("from").value = Number(from.toPrecision(8));
    pick("to").value = Number(to.toPrecision(8));
    for (const gantt of gantts) gantt.draw(from, to);
  };
  const show = (first, last) => {
    [from, to] = [Math.max(0, first), Math.min(end, last)];
    if (!(to - from >= end * 1e-7)) [from, to] = [0, end];
    draw();
  };
  const choose = () => {
    const policies = [...new Set([pick("first").value, pick("second").value])].filter(Boolean);
    area.replaceChildren();
    gantts = policies.map((policy) => new Gantt(area, policy, data.timelines[policy], kinds, firstLongKind, colour, show));
    draw();
  };
  const chosen = Object.keys(data.timelines);
  pick("second").value = chosen.length > 1 ? chosen[1] : "";
  for (const name of ["first", "second"]) pick(name).addEventListener("change", choose);
  for (const name of ["from", "to"]) pick(name).addEventListener("change", () => show(Number(pick("from").value), Number(pick("to").value)));
  const width = () => to - from;
  pick("earlier").addEventListener("click", () => { const back = Math.min(width() / 2, from); show(from - back, to - back); });
  pick("later").addEventListener("click", () => { const on = Math.min(width() / 2, end - to); show(from + on, to + on); });
  pick("wider").addEventListener("click", () => show(from - width() / 2, to + width() / 2));
  pick("all").addEventListener("click", () => show(0, end));
  return () => (gantts.length ? draw() : choose());
}

function setUpSorting(table) {
  const headings = [...table.querySelectorAll("thead th")];
  const body = table.tBodies[0];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      for (const other of headings) other.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const known = (row) => row.cells[column].dataset.value !== "";
      const order = (a, b) => {
        if (!column) return a.cells[0].textContent.localeCompare(b.cells[0].textContent) * (up ? 1 : -1);
        if (known(a) !== known(b)) return known(a) ? -1 : 1;
        return (a.cells[column].dataset.value - b.cells[column].dataset.value) * (up ? 1 : -1);
      };
      body.append(...[...body.rows].sort(order));
    });
  });
}

/** Draws what is visible; what is hidden is drawn when it is shown. */
function redraw() {
  paintSwatches();
  for (const [root, draw] of redraws) if (!root.hidden) draw();
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  redraw();
}

async function start() {
  document.body.append(probe);
  const library = document.createElement("script");
  const [code, text] = await Promise.all([unpacked("plotly"), unpacked("data")]);
  library.textContent = code;
  document.head.append(library);
  const data = JSON.parse(text);
  const roots = [...document.querySelectorAll(".case")];
  roots.forEach((root, number) => {
    redraws.push([root, setUpFigures(root, data.cases[number])]);
    redraws.push([root, setUpTimelines(root, data.cases[number], data.kinds, data.firstLongKind)]);
  });
  document.querySelectorAll("table.sortable").forEach(setUpSorting);
  for (const tab of document.querySelectorAll(".tabs button")) {
    tab.addEventListener("click", () => {
      for (const other of document.querySelectorAll(".tabs button")) other.setAttribute("aria-selected", String(other === tab));
      roots.forEach((root, number) => { root.hidden = number !== Number(tab.dataset.case); });
      redraw();
    });
  }
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", redraw);
  document.getElementById("theme").addEventListener("click", () => {
    const isDark = (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
    setTheme(isDark ? "light" : "dark");
  });
  let before;
  addEventListener("beforeprint", () => {
    before = document.documentElement.dataset.theme;
    document.documentElement.dataset.printing = "true";
    setTheme("light");
  });
  addEventListener("afterprint", () => {
    delete document.documentElement.dataset.printing;
    setTheme(before);
  });
  addEventListener("resize", redraw);
  redraw();
  document.body.dataset.ready = "true";
}

start();
