"use strict";
// The page's content: its charts, and the rows that tables, charts and cards show.
const payload = (id) => JSON.parse(document.getElementById(id).textContent);
const charts = payload("charts");
const rows = payload("rows");
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

function percent(rate) {
  if (rate === 0) return "0%";
  if (rate < 0.00005) return "<0.01%";
  return `${(100 * rate).toFixed(rate < 0.1 ? 2 : 1)}%`;
}
