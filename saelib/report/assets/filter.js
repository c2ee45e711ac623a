// The filter: which rows are shown, in the tables, in the charts, and in the lead.
const filter = document.getElementById("filter");
const chosen = { domain: "", model: "", search: "" };

/** Whether a row of data, or the dataset of an element, is to be shown. */
function wanted(row) {
  if (row.model === undefined) return true; // of the lab
  if (chosen.domain && row.domain !== chosen.domain) return false;
  if (chosen.model && row.model !== chosen.model) return false;
  if (!chosen.search) return true;
  const layer = row.layer === undefined ? "" : `layer ${row.layer} ${row.site}`;
  const text = [row.model, row.domain, layer, row.variant, rows.advice[row.recommendation]].join(" ").toLowerCase();
  return chosen.search.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

function readFilter() {
  for (const [name, value] of new FormData(filter)) chosen[name] = value.trim();
  for (const option of all("option[data-domain]", filter)) {
    option.hidden = option.disabled = Boolean(chosen.domain) && option.dataset.domain !== chosen.domain;
    if (option.disabled && option.selected) filter.elements.model.value = chosen.model = "";
  }
}

function applyFilter() {
  readFilter();
  for (const element of all("tr[data-model], li[data-model]")) element.hidden = !wanted(element.dataset);
  for (const count of all("[data-counts]")) count.textContent = rows[count.dataset.counts].filter(wanted).length;
  showLead();
  showAgreement();
  chooseTrainedLayer();
  drawAgain();
}

function showLead() {
  if (!document.getElementById("shown")) return; // there are no models
  const layers = rows.layers.filter(wanted);
  document.getElementById("shown").textContent = `${layers.length} of ${rows.layers.length} layers`;
  if (!document.getElementById("chosen")) return; // nothing was measured
  const words = [chosen.domain, chosen.model, chosen.search && `“${chosen.search}”`].filter(Boolean);
  document.getElementById("chosen").textContent = words.length ? ` (${words.join(", ")})` : "";
  const exceptions = all(".exceptions li").filter((item) => !item.hidden).length;
  document.getElementById("but").hidden = !exceptions;
  const counts = { still_dead: exceptions, measured: layers.filter((row) => row.recommendation).length };
  document.getElementById("plural").hidden = counts.measured === 1;
  for (const count of all("[data-count]")) {
    const name = count.dataset.count;
    count.textContent = counts[name] ?? layers.filter((row) => row.recommendation === name).length;
  }
}

/** Correlations and distances exist for all layers, each domain and each model: show those of the choice. */
function showAgreement() {
  const by = chosen.model ? "model" : chosen.domain ? "domain" : "";
  for (const text of all("p[data-by]")) {
    text.hidden = text.dataset.by !== by || text.dataset.name !== (by && chosen[by]);
  }
  const note = document.getElementById("not-searched");
  if (note) note.hidden = !chosen.search;
}

/** The layer whose training is drawn; one that is filtered out gives way to the first that is not. */
function chooseTrainedLayer() {
  const select = document.getElementById("trained-layer");
  if (!select) return;
  for (const option of select.options) option.hidden = option.disabled = !wanted(option.dataset);
  const possible = [...select.options].filter((option) => !option.disabled);
  if (!possible.includes(select.selectedOptions[0])) select.value = possible[0]?.value ?? "";
}

function ofTrainedLayer(row) {
  const option = document.getElementById("trained-layer").selectedOptions[0];
  return Boolean(option) && sameLayer(row, option.dataset);
}
