"use strict";
// Draws every figure from the specification beside it; nothing is fetched.

const MODEBAR = {
  displaylogo: false, plotlyServerURL: "", responsive: false,
  modeBarButtonsToRemove: ["sendChartToCloud", "toImage", "lasso2d", "select2d", "autoScale2d"],
};
const PAPER_WIDTH = 680; // px of a figure on an A4 or letter page
const darkOf = JSON.parse(document.getElementById("palette").textContent);
const isDark = matchMedia("(prefers-color-scheme: dark)");
const isTouch = matchMedia("(pointer: coarse)");

/** Text of an element that holds base64 of gzip. */
const unpack = (element) => {
  const bytes = Uint8Array.from(atob(element.textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
};

async function loadPlotly() {
  const script = document.createElement("script");
  script.textContent = await unpack(document.getElementById("plotly"));
  document.head.append(script);
}

/** Colours are written for a light page; on a dark one each has its partner in the palette. */
const themed = (text, dark) => (dark ? text.replace(/#[0-9a-f]{6}/g, (colour) => darkOf[colour] ?? colour) : text);

// --- choices: N, T and the definition of B_crit; what says nothing about one is shown whatever is chosen

const choice = {};
const agrees = (about) => Object.entries(about ?? {}).every(([key, value]) => !(key in choice) || choice[key] === String(value));
const ordinal = (reference) => Number((reference ?? "x").match(/^[xy](\d*)/)?.[1] || 1) - 1; // "x3 domain" -> 2
const axisOf = (letter, panel) => `${letter}axis${panel ? panel + 1 : ""}`;
const referenceOf = (letter, panel) => letter + (panel ? panel + 1 : "");

/** Traces and layout of what is chosen, in as many columns as `width` (px) has room for; null if nothing is. */
function compose(plot, width, dark) {
  const { data, layout } = JSON.parse(themed(plot.text, dark));
  const { about, arrangements, narrow, titles } = layout.meta;
  const traces = data.filter((trace) => agrees(trace.meta) && agrees(about[ordinal(trace.xaxis)]));
  const pointed = new Set(data.filter((trace) => trace.hovertemplate).map((trace) => ordinal(trace.xaxis))); // other panels have curves alone
  const tells = new Set(traces.filter((trace) => trace.hovertemplate || !pointed.has(ordinal(trace.xaxis))).map((trace) => ordinal(trace.xaxis)));
  const shown = about.flatMap((_, panel) => (tells.has(panel) ? [panel] : []));
  if (!shown.length) return null;
  const byColumns = arrangements[shown.length];
  const { height, axes } = byColumns[Math.max(0, Math.min(byColumns.length, Math.floor(width / narrow)) - 1)];
  about.forEach((_, panel) => {
    const place = axes[shown.indexOf(panel)];
    for (const letter of "xy") {
      const name = axisOf(letter, panel), axis = layout[name], title = letter === "x" ? titles.x : titles.y[panel];
      if (!place) { delete layout[name]; continue; }
      const { domain, titled, ticked } = place[letter];
      Object.assign(axis, { domain, showticklabels: ticked, title: { ...axis.title, text: titled ? title : "" } });
      if (axis.matches) axis.matches = panel === shown[0] ? undefined : referenceOf(letter, shown[0]);
    }
  });
  layout.annotations = layout.annotations?.filter((note) => shown.includes(ordinal(note.xref)));
  Object.assign(layout, { width, height, autosize: false, showlegend: false });
  const kept = traces.filter((trace) => shown.includes(ordinal(trace.xaxis)));
  const groups = new Set(kept.map((trace) => trace.legendgroup));
  const legend = data.filter((trace) => trace.showlegend && trace.name && groups.has(trace.legendgroup));
  return { data: kept, layout, legend };
}

/** Unless its name was clicked; a definition that is chosen is shown anyway. */
const isShown = (plot, { legendgroup, meta }) => !plot.hidden.has(legendgroup) || (meta?.definition && meta.definition === choice.definition);

function draw(plot, paper = false) {
  plot.figure.classList.remove("nothing"); // or the box has no width
  const composed = compose(plot, paper ? PAPER_WIDTH : plot.box.clientWidth, isDark.matches && !paper);
  plot.figure.classList.toggle("nothing", !composed);
  plot.points = null;
  if (!composed) return;
  for (const trace of composed.data) trace.visible = isShown(plot, trace);
  composed.layout.dragmode = isTouch.matches ? false : "zoom";
  drawLegend(plot, composed.legend);
  return Plotly.react(plot.box, composed.data, composed.layout, MODEBAR);
}

const SHAPES = {
  circle: "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z", square: "M-3.6,-3.6H3.6V3.6H-3.6Z", diamond: "M0,-5L5,0L0,5L-5,0Z",
  "triangle-up": "M0,-4.6L4.6,3.6H-4.6Z", cross: "M-1.6,-4.6H1.6V-1.6H4.6V1.6H1.6V4.6H-1.6V1.6H-4.6V-1.6H-1.6Z",
  x: "M-4,-2.2L-2.2,-4L0,-1.8L2.2,-4L4,-2.2L1.8,0L4,2.2L2.2,4L0,1.8L-2.2,4L-4,2.2L-1.8,0Z",
  star: "M0,-5.4L1.4,-1.7H5.2L2.2,.7L3.3,4.5L0,2.3L-3.3,4.5L-2.2,.7L-5.2,-1.7H-1.4Z", hexagon: "M-4.6,0L-2.3,-4H2.3L4.6,0L2.3,4H-2.3Z",
};
const DASHES = { dash: "5 3", dot: "1.5 2.5" };

function swatch({ mode, line, marker }) {
  const hasLine = mode.includes("lines"), colour = hasLine ? line.color : marker.color;
  const [shape, open] = (marker?.symbol ?? "circle").split("-open");
  const stroke = `stroke="${colour}" stroke-width="1.8"`;
  return `<svg width="26" height="14" viewBox="-13 -7 26 14" aria-hidden="true">` +
    (hasLine ? `<path d="M-12,0H12" fill="none" ${stroke} stroke-dasharray="${DASHES[line.dash] ?? ""}"/>` : "") +
    (mode.includes("markers") ? `<path d="${SHAPES[shape] ?? SHAPES.circle}" ${open === "" ? `fill="none" ${stroke}` : `fill="${colour}"`}/>` : "") + "</svg>";
}

function drawLegend(plot, traces) {
  const items = traces.map((trace) => {
    const button = document.createElement("button");
    button.type = "button";
    button.innerHTML = swatch(trace) + `<span>${trace.name}</span>`;
    button.title = "Show or hide";
    button.setAttribute("aria-pressed", String(!plot.hidden.has(trace.legendgroup)));
    button.onclick = () => {
      if (!plot.hidden.delete(trace.legendgroup)) plot.hidden.add(trace.legendgroup);
      draw(plot);
      plot.legend.children[items.indexOf(button)].focus();
    };
    return button;
  });
  plot.legend.replaceChildren(...items);
}

async function main() {
  const figures = [...document.querySelectorAll("figure[data-drawn]")];
  const plots = await Promise.all(figures.map(async (figure) => ({
    figure, box: figure.querySelector(".plot"), legend: figure.querySelector(".legend"),
    text: await unpack(figure.querySelector("script[data-plot]")),
  })));
  for (const plot of plots) {
    const atFirst = JSON.parse(plot.text).data.filter((trace) => trace.visible === "legendonly");
    plot.hidden = new Set(atFirst.map((trace) => trace.legendgroup));
  }
  for (const link of document.querySelectorAll("a[data-csv]")) offerCsv(link);
  await loadPlotly();
  for (const plot of plots) {
    await draw(plot);
    offerSvg(plot);
    walkPoints(plot);
    let drawn = plot.box.clientWidth;
    new ResizeObserver(() => { if (plot.box.clientWidth !== drawn) { drawn = plot.box.clientWidth; draw(plot); } }).observe(plot.box);
  }
  offerChoices(() => plots.forEach((plot) => draw(plot)));
  isDark.addEventListener("change", () => plots.forEach((plot) => draw(plot)));
  addEventListener("beforeprint", () => plots.forEach((plot) => draw(plot, true)));
  addEventListener("afterprint", () => plots.forEach((plot) => draw(plot)));
  document.documentElement.dataset.state = "drawn";
}

main().catch((error) => {
  document.documentElement.dataset.state = "failed";
  console.error(error);
});
