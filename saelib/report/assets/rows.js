"use strict";
// The page's content: its charts, and the rows that tables, charts and cards show.
const payload = (id) => JSON.parse(document.getElementById(id).textContent);
const charts = payload("charts");
const rows = payload("rows");
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

/** The name of a layer: "layer 5", or "layer 5 mlp_out" at another site than the residual stream. */
const layerName = (row) => `layer ${row.layer}${row.site === "residual" ? "" : ` ${row.site}`}`;
/** Whether two rows of data, or datasets of elements, are about the same layer and site. */
const sameLayer = (a, b) => a.model === b.model && String(a.layer) === String(b.layer) && a.site === b.site;

function percent(rate) {
  if (rate === 0) return "0%";
  if (rate < 0.00005) return "<0.01%";
  return `${(100 * rate).toFixed(rate < 0.1 ? 2 : 1)}%`;
}
