// The map: a canvas of all latents, to zoom, move and point at. Those that the filter leaves out stay as faint dots.
const map = document.getElementById("map");
const color = document.getElementById("map-color");
const dark = matchMedia("(prefers-color-scheme: dark)");
const view = { x: 0.5, y: 0.5, zoom: 1 };
const pointers = new Map();
const MARGIN = 14;

function spot(n) {
  const [width, height] = [map.clientWidth - 2 * MARGIN, map.clientHeight - 2 * MARGIN];
  const at = (i) => table.places[2 * n + i] / 4095;
  return [MARGIN + width * (0.5 + (at(0) - view.x) * view.zoom), MARGIN + height * (0.5 + (at(1) - view.y) * view.zoom)];
}

/** Colors by number: from pale to strong, over the values that are shown, densities and activations by their logarithm. */
function shades(column) {
  const log = column === "density" || column === "largest";
  const value = (n) => (table[column][n] === null || (log && !(table[column][n] > 0)) ? null : log ? Math.log10(table[column][n]) : table[column][n]);
  const values = shown.map(value).filter((x) => x !== null);
  const low = values.reduce((a, b) => Math.min(a, b), Infinity);
  const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const [pale, strong] = dark.matches ? [[52, 66, 78], [160, 220, 255]] : [[200, 216, 228], [0, 48, 92]];
  const mixed = (share) => `rgb(${pale.map((part, i) => Math.round(part + share * (strong[i] - part)))})`;
  const format = (x) => (column === "density" ? percent(10 ** x) : short(log ? 10 ** x : x));
  const text = values.length ? [format(low), format(high)] : null;
  return { of: (n) => (value(n) === null ? null : mixed(high > low ? Math.max(0, Math.min(1, (value(n) - low) / (high - low))) : 1)), ends: [mixed(0), mixed(1)], text };
}

function legend(scale) {
  const place = document.getElementById("map-legend");
  if (!scale) return place.replaceChildren(...STATES.flatMap((state) => [make("span", { class: `state ${state}` }, state), "  "]));
  if (!scale.text) return place.replaceChildren("No latent that is shown has a value.");
  const ramp = make("span", { class: "ramp" });
  ramp.style.background = `linear-gradient(to right, ${scale.ends})`;
  place.replaceChildren(scale.text[0], ramp, scale.text[1]);
}

function drawMap() {
  if (!map || !table || !map.clientWidth) return;
  const ratio = devicePixelRatio || 1;
  map.width = map.clientWidth * ratio;
  map.height = map.clientHeight * ratio;
  const pen = map.getContext("2d");
  pen.scale(ratio, ratio);
  const style = getComputedStyle(document.documentElement);
  const named = (name) => style.getPropertyValue(name).trim();
  const states = { alive: named("--center"), dense: named("--dense"), dead: named("--quiet") };
  const scale = color.value === "state" ? null : shades(color.value);
  legend(scale);
  const size = Math.max(1.2, Math.min(5, (40 / Math.sqrt(table.state.length)) * Math.sqrt(view.zoom) * 2));
  const draw = (n, paint, alpha) => {
    const [x, y] = spot(n);
    if (x < -9 || y < -9 || x > map.clientWidth + 9 || y > map.clientHeight + 9) return;
    pen.globalAlpha = alpha;
    pen.fillStyle = pen.strokeStyle = paint;
    mark(pen, table.state[n], x, y, size);
  };
  for (let n = 0; n < passes.length; n++) if (!passes[n]) draw(n, named("--line"), 0.5);
  for (const n of shown) draw(n, scale ? scale.of(n) ?? named("--line") : states[table.state[n]], 0.8);
  if (current !== null) ring(pen, ...spot(current), named("--ink"));
}

/** A mark has the state's shape as well as its color: dot, triangle, ring. */
function mark(pen, state, x, y, size) {
  pen.beginPath();
  if (state === "dense") {
    pen.moveTo(x, y - 1.5 * size);
    pen.lineTo(x + 1.4 * size, y + size);
    pen.lineTo(x - 1.4 * size, y + size);
  } else pen.arc(x, y, size, 0, 7);
  if (state === "dead") pen.stroke();
  else pen.fill();
}

function ring(pen, x, y, paint) {
  pen.globalAlpha = 1;
  pen.strokeStyle = paint;
  pen.lineWidth = 2;
  pen.beginPath();
  pen.arc(x, y, 9, 0, 7);
  pen.stroke();
}

/** The latent at a place on the canvas: the closest one that is shown, within 15 pixels. */
function latentAt(x, y) {
  let [best, least] = [null, 225];
  for (const n of shown) {
    const [px, py] = spot(n);
    const distance = (px - x) ** 2 + (py - y) ** 2;
    if (distance < least) [best, least] = [n, distance];
  }
  return best;
}

/** Zooms around a place on the canvas, which stays where it is; 0 shows the whole map. */
function zoom(factor, x = map.clientWidth / 2, y = map.clientHeight / 2) {
  if (!factor) Object.assign(view, { x: 0.5, y: 0.5, zoom: 1 });
  const now = Math.max(1, Math.min(60, view.zoom * (factor || 1)));
  const shift = 1 / view.zoom - 1 / now;
  view.x += ((x - MARGIN) / (map.clientWidth - 2 * MARGIN) - 0.5) * shift;
  view.y += ((y - MARGIN) / (map.clientHeight - 2 * MARGIN) - 0.5) * shift;
  view.zoom = now;
  drawMap();
}

function moved(event) {
  const last = pointers.get(event.pointerId);
  if (!last) return point(event.offsetX, event.offsetY);
  const others = [...pointers.entries()].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
  const now = { x: event.offsetX, y: event.offsetY, moved: last.moved + Math.hypot(event.offsetX - last.x, event.offsetY - last.y) };
  pointers.set(event.pointerId, now);
  if (others.length) {
    const gap = (place) => Math.max(1, Math.hypot(place.x - others[0].x, place.y - others[0].y));
    zoom(gap(now) / gap(last), others[0].x, others[0].y);
  } else if (now.moved > 4) {
    view.x -= (now.x - last.x) / (map.clientWidth - 2 * MARGIN) / view.zoom;
    view.y -= (now.y - last.y) / (map.clientHeight - 2 * MARGIN) / view.zoom;
    drawMap();
  }
}

function point(x, y) {
  const name = document.getElementById("map-name");
  const n = latentAt(x, y);
  name.hidden = n === null;
  if (n === null) return;
  const peaks = about.kind === "image" ? [] : (table.peaks[n] ?? []).map(visible);
  name.textContent = [`${n}: ${table.state[n]}, ${percent(table.density[n])}`, conceptOf(n), ...peaks].filter(Boolean).join(" · ");
  name.style.left = `${Math.min(x + 12, map.clientWidth - 200)}px`;
  name.style.top = `${y + 12}px`;
}

function openMap() {
  if (!map) return;
  if (!table.places) return document.getElementById("map-box").remove();
  map.addEventListener("pointerdown", (event) => {
    map.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY, moved: 0 });
  });
  map.addEventListener("pointermove", moved);
  map.addEventListener("pointerleave", () => (document.getElementById("map-name").hidden = true));
  map.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
  map.addEventListener("pointerup", (event) => {
    const last = pointers.get(event.pointerId);
    pointers.delete(event.pointerId);
    const n = last && last.moved <= 4 ? latentAt(event.offsetX, event.offsetY) : null;
    if (n !== null) choose(n, true);
  });
  map.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
  }, { passive: false });
  for (const button of all("[data-zoom]")) button.addEventListener("click", () => zoom(Number(button.dataset.zoom)));
  color.addEventListener("change", drawMap);
  dark.addEventListener("change", drawMap);
  document.getElementById("map-box").addEventListener("toggle", () => { drawMap(); drawRows(); });
}
