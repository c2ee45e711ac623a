// The list: which latents are shown, in which order. Only rows in sight exist as elements, however many latents there are.
const filter = document.getElementById("filter");
const list = document.getElementById("list");
const body = document.getElementById("rows");
let table; // columns of the list, see saelib/features/latents.py
let shown = []; // numbers of the latents that pass the filter, in order
let passes = []; // for each latent, whether it does
let words = []; // for each latent, its text in lower case
let current = null;
let order = { column: "latent", down: false };

const STATES = ["alive", "dense", "dead"];
const SORTED = {
  latent: (n) => n, state: (n) => STATES.indexOf(table.state[n]), density: (n) => table.density[n],
  largest: (n) => table.largest[n], concept: (n) => table.score[n], twin: (n) => table.cosine[n],
};
const HEADS = { latent: "latent", state: "state", density: "density", largest: "largest", peaks: "fires most on", concept: "concept, F1", twin: "twin" };
const conceptOf = (n) => (table.concept[n] === null ? null : table.concepts[table.concept[n]]);

function openList(columns) {
  table = columns;
  const has = { concept: table.concepts.length > 0, twin: table.saes.length > 0 };
  for (const [name, there] of Object.entries(has)) {
    document.body.classList.toggle(`no-${name}`, !there);
    if (!there) for (const element of all(`[data-column="${name}"]`)) element.remove();
  }
  const peaks = about.kind === "text" || about.kind === "sequence" ? table.peaks : [];
  words = table.state.map((state, n) => [state, conceptOf(n), ...(peaks[n] ?? [])].join("\n").toLowerCase());
  document.getElementById("heads").append(...Object.entries(HEADS).map(([name, title]) => {
    const place = { latent: "right", density: "right", largest: "right", twin: "right twin-cell", concept: "concept-cell" }[name] ?? "";
    if (!SORTED[name]) return make("span", { class: place }, title);
    const button = make("button", { type: "button", class: place, "data-sort": name }, title);
    button.addEventListener("click", () => sortBy(name));
    return button;
  }));
  applyFilter();
}

function wanted(n, chosen) {
  if (chosen.state !== "all" && table.state[n] !== chosen.state) return false;
  if (chosen.concept && table.concept[n] === null) return false;
  if (chosen.twin && table.twin[n] === null) return false;
  return chosen.words.every((word) => String(n) === word || words[n].includes(word));
}

function applyFilter() {
  const chosen = Object.fromEntries(new FormData(filter));
  chosen.words = chosen.words.toLowerCase().split(/\s+/).filter(Boolean);
  passes = table.state.map((_, n) => wanted(n, chosen));
  shown = [...passes.keys()].filter((n) => passes[n]);
  document.getElementById("count").textContent = `${shown.length.toLocaleString("en")} of ${about.latents.toLocaleString("en")}`;
  arrange();
}

function sortBy(column) {
  const first = { latent: false, state: false }[column] ?? true; // numbers begin with the largest
  order = { column, down: order.column === column ? !order.down : first };
  arrange();
}

/** Sorts what is shown; latents without a value come last in both directions. */
function arrange() {
  const value = SORTED[order.column];
  const sign = order.down ? -1 : 1;
  shown.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null) || a - b;
    return sign * (x - y) || a - b;
  });
  for (const button of all("#heads button")) {
    const pressed = button.dataset.sort === order.column;
    button.setAttribute("aria-pressed", pressed);
    button.dataset.arrow = order.down ? " ▼" : " ▲";
  }
  list.scrollTop = 0;
  drawRows();
  drawMap();
}

const rowHeight = () => parseFloat(getComputedStyle(list).getPropertyValue("--row")) * parseFloat(getComputedStyle(document.documentElement).fontSize);

function drawRows() {
  const height = rowHeight();
  const first = Math.max(0, Math.floor(list.scrollTop / height) - 4);
  const last = Math.min(shown.length, first + Math.ceil(list.clientHeight / height) + 8);
  body.style.height = `${shown.length * height}px`;
  body.replaceChildren(...shown.slice(first, last).map((n, i) => makeRow(n, first + i, height)));
  if (shown.includes(current)) list.setAttribute("aria-activedescendant", `row-${current}`);
  else list.removeAttribute("aria-activedescendant");
}

function makeRow(n, place, height) {
  const concept = conceptOf(n);
  const about = { role: "option", class: "row", id: `row-${n}`, "data-latent": n, "aria-selected": n === current, "aria-posinset": place + 1, "aria-setsize": shown.length };
  const row = make("div", about,
    make("span", { class: "right" }, String(n)),
    make("span", { class: `state ${table.state[n]}` }, table.state[n]),
    make("span", { class: "right" }, percent(table.density[n])),
    make("span", { class: "right" }, short(table.largest[n])),
    make("span", { class: "peaks" }, ...previews(n)),
    make("span", { class: "concept-cell", ...(concept === null ? {} : { title: concept }) }, concept === null ? "" : `${fixed(table.score[n])} ${concept}`),
    make("span", { class: "right twin-cell" }, short(table.cosine[n])),
  );
  row.style.top = `${place * height}px`;
  return row;
}

/** What a latent fires on most: tokens, or pieces of pictures around its patches. */
function previews(n) {
  const found = table.peaks[n] ?? [];
  return about.kind === "image" ? found.map(thumbnail) : found.map((text) => make("bdi", {}, visible(text)));
}

function thumbnail([example, width, height, x0, y0, x1, y1]) {
  const piece = make("span", { class: "thumb" });
  const side = Math.min(width, height, 3 * Math.max(x1 - x0, y1 - y0)); // the patch and its surroundings
  const scale = 32 / side;
  const from = (low, high, size) => Math.max(0, Math.min(size - side, (low + high - side) / 2));
  piece.style.backgroundImage = `url("pictures/${example}.webp")`;
  piece.style.backgroundSize = `${width * scale}px ${height * scale}px`;
  piece.style.backgroundPosition = `${-from(x0, x1, width) * scale}px ${-from(y0, y1, height) * scale}px`;
  return piece;
}

/** Text with its blanks made visible. */
const visible = (text) => text.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/ /g, "·");

/** Moves the choice up or down the list. */
function step(by) {
  if (!shown.length) return;
  const place = shown.indexOf(current);
  const next = place < 0 ? (by > 0 ? 0 : shown.length - 1) : Math.max(0, Math.min(shown.length - 1, place + by));
  choose(shown[next]);
}

function reveal(n) {
  const place = shown.indexOf(n);
  if (place < 0) return;
  const height = rowHeight();
  if (place * height < list.scrollTop) list.scrollTop = place * height;
  if ((place + 1) * height > list.scrollTop + list.clientHeight) list.scrollTop = (place + 1) * height - list.clientHeight;
}
