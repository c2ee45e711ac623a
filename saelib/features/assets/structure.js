// A protein's structure: the trace of its C-alpha atoms, colored like its letters, and a file for viewers of molecules.
const BOND = 45; // longest distance of neighbors that are joined, in tenths of an Angstrom
const LIGHT = { pale: [205, 205, 205], strong: [11, 92, 173], negative: [213, 94, 0] };
const DARK = { pale: [95, 95, 95], strong: [130, 200, 255], negative: [240, 150, 90] };

/** A fold that draws the structure when it is opened. */
function structure(context) {
  const place = make("details", { class: "structure" }, make("summary", {}, "On the structure"));
  place.addEventListener("toggle", async () => {
    if (!place.open || place.children.length > 1) return;
    const note = make("p", { class: "note" }, "…");
    place.append(note);
    try {
      const found = await load(`structures/${context.number}`);
      const levels = levelsOfLetters(context, found.residues.length);
      note.replaceChildren(`${found.name}, chain ${found.chain}. Drag or use the arrows to turn it. `, sceneLink(found, levels, context));
      place.insertBefore(trace(found, levels, context), note);
    } catch (error) {
      note.replaceChildren(String(error.message));
    }
  });
  return place;
}

/** The level of each letter of the whole sequence. */
function levelsOfLetters(context, count) {
  const levels = new Array(count).fill(0);
  for (const token of tokensOf(context.example, context.levels)) levels.fill(token.level, context.example.offset + token.start, context.example.offset + token.end);
  return levels;
}

function trace(found, levels, context) {
  const canvas = make("canvas", { tabindex: "0", role: "img", "aria-label": `Structure of ${context.example.id}, colored by activation` });
  const known = found.places.filter((place) => place !== null);
  const reach = Math.max(1, ...known.map((place) => Math.hypot(...place)));
  let turn = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];
  const draw = () => drawTrace(canvas, found.places.map((place) => place && turn.map((row) => row[0] * place[0] + row[1] * place[1] + row[2] * place[2])), levels, reach);
  const rotate = (right, down) => {
    const [cx, sx, cy, sy] = [Math.cos(right), Math.sin(right), Math.cos(down), Math.sin(down)];
    const [x, y, z] = turn;
    const tilted = [y.map((value, i) => cy * value - sy * z[i]), y.map((value, i) => sy * value + cy * z[i])];
    turn = [x.map((value, i) => cx * value + sx * tilted[1][i]), tilted[0], x.map((value, i) => cx * tilted[1][i] - sx * value)];
    draw();
  };
  canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("pointermove", (event) => event.buttons && rotate(event.movementX / 100, event.movementY / 100));
  canvas.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: [-0.2, 0], ArrowRight: [0.2, 0], ArrowUp: [0, -0.2], ArrowDown: [0, 0.2] }[event.key];
    if (!by) return;
    rotate(...by);
    event.preventDefault();
    event.stopPropagation();
  });
  dark.addEventListener("change", draw);
  requestAnimationFrame(draw); // once it has a size
  return canvas;
}

/** Draws the parts between neighbors from the back to the front, each half in the color of its letter. */
function drawTrace(canvas, places, levels, reach) {
  const ratio = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.translate(width / 2, height / 2);
  pen.lineCap = "round";
  const scale = (Math.min(width, height) / 2 - 8) / reach;
  const parts = [];
  places.forEach((place, i) => {
    if (!place) return;
    for (const other of [places[i - 1], places[i + 1]]) {
      if (other && Math.hypot(...place.map((value, axis) => value - other[axis])) > BOND) continue;
      const end = other ? place.map((value, axis) => (value + other[axis]) / 2) : place;
      parts.push({ place, end, level: levels[i] / about.levels });
    }
  });
  parts.sort((a, b) => a.place[2] - b.place[2]);
  for (const { place, end, level } of parts) {
    const near = (place[2] / reach + 1) / 2; // 0 at the back, 1 in front
    pen.globalAlpha = 0.35 + 0.65 * near;
    pen.strokeStyle = `rgb(${blend(level, dark.matches ? DARK : LIGHT)})`;
    pen.lineWidth = (2 + 2 * near) * (1 + Math.abs(level));
    pen.beginPath();
    pen.moveTo(place[0] * scale, -place[1] * scale);
    pen.lineTo(end[0] * scale, -end[1] * scale);
    pen.stroke();
  }
}

/** A color between that of silent letters and that of the strongest ones; `level` is between -1 and 1. */
function blend(level, colors) {
  const strong = level < 0 ? colors.negative : colors.strong;
  return colors.pale.map((part, i) => Math.round(part + Math.abs(level) * (strong[i] - part)));
}
