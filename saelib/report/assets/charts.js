// Charts: drawn by Vega-Lite from the rows that the filter lets through, as wide as the page allows.
const views = {};
const axis = {
  labelColor: "currentColor", titleColor: "currentColor", domainColor: "currentColor", tickColor: "currentColor",
  gridColor: "currentColor", gridOpacity: 0.12, labelOverlap: "greedy", labelSeparation: 6, titleFontWeight: "normal", labelFontSize: 12, titleFontSize: 12,
};

function optionsFor(width) {
  const legend = { labelColor: "currentColor", titleColor: "currentColor", titleFontWeight: "normal" };
  return {
    renderer: "svg",
    ast: true, // the page's policy forbids making code from text
    actions: false,
    tooltip: { theme: "page" },
    config: {
      background: null, font: "system-ui, sans-serif", view: { stroke: null },
      axis: { ...axis, labelLimit: labelLimit(width) },
      legend: { ...legend, orient: "top", labelLimit: width - 60, labelFontSize: 12, columns: width < 600 ? 1 : 0 },
      header: {
        labelColor: "currentColor", labelFontWeight: "bold", labelAnchor: "start", labelFontSize: 13,
      },
    },
  };
}

const labelLimit = (width) => (width < 600 ? 130 : 220);

/** The room to the left of a chart's panels. */
function leftOf(encoding, width) {
  if (encoding.y.type !== "nominal") return 45;
  const longest = Math.max(...encoding.y.sort.map((label) => label.length));
  return Math.min(labelLimit(width), 7 * longest) + 10;
}

/** A chart as wide as the page; one of several panels has as many in a line as there is room for. */
function fitted(spec, width) {
  const { encoding } = spec;
  if (!encoding) return { ...spec, width, autosize: { type: "fit-x", contains: "padding" } }; // layers of marks
  const left = leftOf(encoding, width);
  if (!encoding.facet) return { ...spec, width: width - left - 20 };
  const columns = Math.max(1, Math.min(encoding.facet.columns, Math.floor((width - left) / 210)));
  const panel = Math.max(120, Math.floor((width - left) / columns) - 24);
  return { ...spec, width: panel, encoding: { ...encoding, facet: { ...encoding.facet, columns } } };
}

const rowsOf = (name) =>
  rows[charts[name].rows].filter((row) => wanted(row) && (name !== "training" || ofTrainedLayer(row)));

async function drawChart(name) {
  const element = document.getElementById(name);
  const width = element.clientWidth;
  const { spec, rows: source } = charts[name];
  const filled = { ...spec, datasets: { ...spec.datasets, [source]: rowsOf(name) } };
  const { view } = await vegaEmbed(element, fitted(filled, width), optionsFor(width));
  views[name]?.finalize();
  views[name] = view;
  view.addEventListener("click", (_, item) => {
    const row = item?.datum;
    if (row?.model !== undefined && row.layer !== undefined) location.hash = layerHash(row);
  });
}

function drawAgain() {
  for (const [name, view] of Object.entries(views)) view.data(charts[name].rows, rowsOf(name)).resize().runAsync();
}

async function drawAll() {
  for (const name of Object.keys(charts)) await drawChart(name);
}
