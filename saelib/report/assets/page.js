"use strict";
const payload = (id) => JSON.parse(document.getElementById(id).textContent);
const charts = payload("charts");
const rows = payload("rows");
const embedded = [];

const axis = {
  labelColor: "currentColor", titleColor: "currentColor", domainColor: "currentColor", tickColor: "currentColor",
  gridColor: "currentColor", gridOpacity: 0.12, titleFontWeight: "normal", labelFontSize: 12, titleFontSize: 12,
};
const options = {
  renderer: "svg",
  ast: true, // the page's policy forbids making code from text
  actions: false,
  tooltip: { theme: "page" },
  config: {
    background: null, font: "system-ui, sans-serif", view: { stroke: null }, axis,
    legend: { labelColor: "currentColor", orient: "top", labelLimit: 400, labelFontSize: 12 },
    header: { labelColor: "currentColor", labelFontWeight: "bold", labelAnchor: "start", labelFontSize: 13 },
  },
};

function show(domain) {
  const wanted = (row) => !domain || row.domain === domain;
  for (const element of document.querySelectorAll("tr[data-domain]")) element.hidden = !wanted(element.dataset);
  for (const count of document.querySelectorAll("[data-counts]")) {
    count.textContent = rows[count.dataset.counts].filter(wanted).length;
  }
  for (const { view, name } of embedded) view.data(name, rows[name].filter(wanted)).resize().runAsync();
}

function sort(button) {
  const header = button.closest("th");
  const descending = header.getAttribute("aria-sort") === "ascending";
  const body = header.closest("table").tBodies[0];
  const value = (row) => row.cells[header.cellIndex].dataset.value;
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === ""); // missing values stay at the end
    const order = header.dataset.kind === "number" ? Number(x) - Number(y) : x.localeCompare(y);
    return descending ? -order : order;
  };
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  body.append(...[...body.rows].sort(compare));
}

for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => sort(button));
const filter = document.getElementById("filter");
filter.addEventListener("change", () => show(new FormData(filter).get("domain")));

async function draw() {
  for (const [id, chart] of Object.entries(charts)) {
    const { view } = await vegaEmbed(`#${id}`, chart.spec, options);
    embedded.push({ view, name: chart.rows });
  }
  show(new FormData(filter).get("domain"));
  document.documentElement.dataset.drawn = "yes";
}
draw();
