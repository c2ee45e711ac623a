// Cards: everything known of one layer or one model, at an address of its own (#layer/gpt2/5, #model/gpt2).
const card = document.getElementById("card");
const layerHash = (row) =>
  `#layer/${encodeURIComponent(row.model)}/${row.layer}${row.site === "residual" ? "" : `/${row.site}`}`;
const modelHash = (row) => `#model/${encodeURIComponent(row.model)}`;
const DEATHS = {
  dead_total: "as it is", dead_total_center_median: "centered on the geometric median", dead_total_pca: "PCA-whitened",
  dead_total_center_mean: "centered on the mean", dead_total_ln_center: "after LayerNorm, centered", dead_total_zscore: "z-scored",
};
const NUMBERS = {
  gamma_unit: "γ, of tokens of length 1", gamma: "γ after LayerNorm (the paper's)", gamma_raw: "γ of the tokens as they are",
  effective_rank: "effective rank", d_in: "dimensions", excess_kurtosis: "excess kurtosis",
  norm_ratio: "largest token norm over the median", tokens: "tokens",
};

/** An element with text or other elements inside. Text never becomes markup. */
function make(tag, attributes = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...inside);
  return element;
}

function bars(row) {
  const names = Object.keys(row).filter((name) => /^dead_total(_(?!sd)|$)/.test(name) && row[name] !== null);
  const order = [...Object.keys(DEATHS), ...names].filter((name, i, list) => names.includes(name) && list.indexOf(name) === i);
  const most = Math.max(0.01, ...order.map((name) => row[name]));
  return make("table", { class: "bars" }, ...order.map((name) => {
    const bar = make("div", { class: "bar" });
    bar.style.width = `${(100 * row[name]) / most}%`;
    const label = DEATHS[name] ?? name.replace("dead_total_", "");
    return make("tr", {}, make("th", { scope: "row" }, label), make("td", { class: "number" }, percent(row[name])), make("td", {}, bar));
  }));
}

function pairs(entries) {
  const list = make("dl");
  for (const [name, value] of entries) if (value !== null && value !== undefined) list.append(make("dt", {}, name), make("dd", {}, value));
  return list;
}

const short = (value) => (value === null ? null : Number.isInteger(value) ? value.toLocaleString("en") : value.toPrecision(3));

function trainedTable(row) {
  const saes = rows.saes.filter((sae) => sameLayer(sae, row));
  if (!saes.length) return [];
  const head = ["variant", "all dead", "never positive", "typical FVU", "learning rate"];
  const cells = (sae) => [sae.variant, percent(sae.dead_total), percent(sae.dead_relu), short(sae.token_fvu_median), String(sae.learning_rate)];
  return [make("h3", {}, "After training"), wideTable(head, saes.map(cells))];
}

/** A table that scrolls by itself, with a heading over each column. */
function wideTable(head, lines) {
  const line = (tag, texts) => make("tr", {}, ...texts.map((text, i) => make(tag, i ? { class: "number" } : {}, text)));
  return make("div", { class: "wide", tabindex: "0" }, make("table", {}, line("th", head), ...lines.map((texts) => line("td", texts))));
}

function outliersTable(row) {
  const found = rows.outliers.find((one) => sameLayer(one, row));
  if (!found) return [];
  const massive = row.massive_share > 0 ? `${percent(row.massive_share)} of the tokens are more than ten times as long as the median one.` : "No token is ten times as long as the median one.";
  const lines = found.dimensions.map((one) => [String(one.index), short(one.mean), short(one.std), percent(one.share)]);
  return [
    make("h3", {}, "What carries the mean"),
    lines.length ? wideTable(["dimension", "mean", "std", "share of the mean's square"], lines) : make("p", {}, "No dimension holds 5% of the mean's square."),
    make("p", { class: "note" }, massive),
  ];
}

function sizesTables(row) {
  const found = rows.landscape.find((one) => sameLayer(one, row));
  if (!found) return [];
  const head = ["d_sae", ...found.k.map((k) => `k ${k}`)];
  const lines = (grid) => grid.map((cells, i) => [found.d_sae[i].toLocaleString("en"), ...cells.map((cell) => (cell === null ? "" : percent(cell)))]);
  return [
    make("h3", {}, "Dead for other sizes of the SAE, predicted"),
    ...Object.entries(found.dead).flatMap(([name, grid]) => [make("p", { class: "note" }, DEATHS[name === "raw" ? "dead_total" : `dead_total_${name}`]), wideTable(head, lines(grid))]),
  ];
}

function layerCard(row) {
  const links = rows.files.filter((file) => sameLayer(file, row));
  const advice = row.recommendation && make("p", {},
    make("span", { class: `advice ${row.recommendation}` }, rows.advice[row.recommendation]), `. ${row.recommendation_reason}`);
  return [
    make("p", { class: "note" }, make("a", { href: modelHash(row) }, row.model), ` · ${row.domain}`),
    advice || make("p", {}, "No recommendation: death was not measured."),
    make("h3", {}, "Latents dead at initialization"),
    bars(row),
    pairs([["never positive, as it is", row.dead_relu === null ? null : percent(row.dead_relu)],
      ["theory, from γ", row.predicted_dead_total === null ? null : percent(row.predicted_dead_total)]]),
    make("h3", {}, "Statistics"),
    pairs(Object.entries(NUMBERS).map(([name, label]) => [label, short(row[name])])),
    ...outliersTable(row),
    ...trainedTable(row),
    ...sizesTables(row),
    make("p", { class: "note" }, "Files: ", ...links.flatMap((file) => [make("a", { href: file.href }, file.name), " "])),
  ];
}

function modelCard(model) {
  const layers = rows.layers.filter((row) => row.model === model.model);
  const link = (row) => make("li", {}, make("a", { href: layerHash(row) }, layerName(row)),
    row.recommendation ? `: ${rows.advice[row.recommendation]}` : "", row.dead_total === null ? "" : `, ${percent(row.dead_total)} dead as it is`);
  return [
    pairs([["domain", model.domain], ["data", model.data], ["license", model.license], ["notes", model.notes || null]]),
    make("h3", {}, "Layers"),
    make("ul", { class: "columns" }, ...layers.map(link)),
  ];
}

/** A part of an address as text; empty if it is no valid address. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return "";
  }
}

/** Title and content of the card at an address; nothing if there is none. */
function cardAt(hash) {
  const [kind, name, layer, site = "residual"] = hash.slice(1).split("/").map(decoded);
  if (kind === "layer") {
    const row = rows.layers.find((one) => sameLayer(one, { model: name, layer, site }));
    return row && [`${row.model}, ${layerName(row)}`, layerCard(row)];
  }
  const model = kind === "model" && rows.models.find((one) => one.model === name);
  return model && [model.model, modelCard(model)];
}

function openCard() {
  const found = cardAt(location.hash);
  if (!found) return card.close();
  const close = make("button", { type: "button", class: "close", "aria-label": "Close" }, "×");
  close.addEventListener("click", () => card.close());
  card.replaceChildren(make("h2", { id: "card-title" }, found[0]), close, ...found[1]);
  if (!card.open) card.showModal();
  card.scrollTop = 0;
}
