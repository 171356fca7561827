// What a reader can do with a figure: choose what is shown, save it, walk through its points with the keyboard.

const save = (content, type, name) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};

/** The link to a figure's CSV saves the copy in the page, so that the page alone is enough. */
function offerCsv(link) {
  link.addEventListener("click", async (event) => {
    event.preventDefault();
    save(await unpack(link.closest("figure").querySelector("script[data-csv]")), "text/csv", link.dataset.csv);
  });
}

const SVG_WIDTH = 1080; // px

/** What is shown now, on white, with title and legend inside. */
async function svgOf(plot) {
  const { data, layout, legend } = compose(plot, SVG_WIDTH, false);
  const first = { xaxis: data[0].xaxis, yaxis: data[0].yaxis };
  const keys = legend.filter((trace) => isShown(plot, trace))
    .map((trace) => ({ ...trace, ...first, x: [null], y: [null], text: undefined, error_x: undefined, error_y: undefined, visible: true }));
  for (const trace of data) Object.assign(trace, { showlegend: false, visible: isShown(plot, trace) });
  const title = plot.figure.querySelector("h3").innerHTML;
  const entrywidth = 10 + 7.5 * Math.max(...keys.map(({ name }) => spoken(name).length)); // px of a name; 45 more with its mark
  const rows = Math.ceil(keys.length / Math.floor((SVG_WIDTH - 80) / (entrywidth + 45))), top = 76 + 30 * rows;
  layout.height += top - layout.margin.t;
  Object.assign(layout, {
    paper_bgcolor: "#ffffff", showlegend: true, title: { text: title, x: 0, xanchor: "left", xref: "paper", y: 1, yanchor: "top", yref: "container", pad: { t: 14 }, font: { size: 16 } },
    margin: { ...layout.margin, t: top },
    legend: { orientation: "h", x: 0, xanchor: "left", y: 1 - 40 / layout.height, yanchor: "top", yref: "container", entrywidth },
  });
  const url = await Plotly.toImage({ data: [...data, ...keys], layout }, { format: "svg", width: SVG_WIDTH, height: layout.height });
  return decodeURIComponent(url.slice(url.indexOf(",") + 1));
}

function offerSvg(plot) {
  const button = plot.figure.querySelector("button[data-svg]");
  button.addEventListener("click", async () => save(await svgOf(plot), "image/svg+xml", `${plot.figure.id}.svg`));
  button.hidden = false;
}

/** Selections of N, T and definition: figures and the rows of the tables follow. */
function offerChoices(redraw) {
  const form = document.querySelector("form.choose");
  if (!form) return;
  form.hidden = false;
  const follow = () => {
    for (const { name, value } of form.querySelectorAll("select")) {
      if (value) choice[name] = value; else delete choice[name];
    }
    for (const table of document.querySelectorAll("#tables table")) {
      const head = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
      for (const row of table.tBodies[0].rows) {
        const about = Object.fromEntries(["N", "T"].filter((key) => head.includes(key)).map((key) => [key, row.cells[head.indexOf(key)]]));
        row.hidden = Object.entries(about).some(([key, cell]) => key in choice && cell.textContent !== "all" && cell.textContent !== form.elements[key].selectedOptions[0].dataset.text);
      }
    }
    form.querySelector("output").textContent = Object.keys(choice).length ? "A part is shown, in the figures and tables; sentences are about everything." : "";
    redraw();
  };
  form.addEventListener("change", follow);
  form.addEventListener("reset", () => setTimeout(follow));
}

const spoken = (html) => html.replace(/<br>/g, ", ").replace(/<sup>/g, "^").replace(/<[^>]*>/g, "");

/** Arrow keys go from point to point, panel by panel: the label appears, and is said aloud. */
function walkPoints(plot) {
  const { box, figure } = plot, said = figure.querySelector(".said");
  const list = () => box._fullData.flatMap((trace, curveNumber) => (trace.visible === true && trace.hovertemplate
    ? [...trace.x].map((x, pointNumber) => ({ curveNumber, pointNumber, text: trace.text[pointNumber], at: trace.xaxis + trace.yaxis, panel: ordinal(trace.xaxis) }))
    : [])).sort((a, b) => a.panel - b.panel);
  let place = -1;
  box.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") { Plotly.Fx.unhover(box); said.textContent = ""; return; }
    if (!step) return;
    event.preventDefault();
    if (!plot.points) { plot.points = list(); place = step > 0 ? -1 : 0; }
    place = (place + step + plot.points.length) % plot.points.length;
    const { curveNumber, pointNumber, at, text, panel } = plot.points[place];
    Plotly.Fx.hover(box, [{ curveNumber, pointNumber }], at);
    const title = box.layout.annotations?.find((note) => ordinal(note.xref) === panel)?.text;
    said.textContent = `${place + 1} of ${plot.points.length}: ${spoken([title, text].filter(Boolean).join("<br>"))}`;
  });
  box.addEventListener("blur", () => { Plotly.Fx.unhover(box); said.textContent = ""; });
}
