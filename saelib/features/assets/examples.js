// Examples in context: a text with shaded tokens, letters of a sequence, patches of a picture, rows of an array.
const NEAR = 24; // tokens of a text around the peak that are shown at first; of a sequence, one line
const LONGEST_GAP = 300; // characters between two tokens that are shown

/** An example's tokens in the order of the text: number, start, end and level. Spans are in code points. */
function tokensOf(example, levels) {
  const spans = example.spans;
  const found = [];
  let end = 0;
  for (let i = 0; i < example.count; i++) {
    const start = typeof spans === "number" ? spans + i : end + spans[2 * i];
    end = typeof spans === "number" ? start + 1 : start + spans[2 * i + 1];
    found.push({ number: example.first + i, start, end, level: levels.get(example.first + i) ?? 0 });
  }
  return found.sort((a, b) => a.start - b.start || a.number - b.number); // some models read backwards
}

/** One example of a latent as an element; `shown` is [example, peak, steps and levels in turn]. */
function drawExample(example, shown, largest) {
  const [number, peak, packed] = shown;
  const numbers = summed(packed.filter((_, i) => i % 2 === 0));
  const levels = new Map(numbers.map((token, i) => [token, packed[2 * i + 1]]));
  const context = { example, number, peak, levels, value: (level) => short((level / about.levels) * largest) };
  const parts = { text: passage, sequence: letters, image: picture, row: arrayRows }[about.kind](context);
  const note = `${context.value(levels.get(peak))} at ${about.kind === "image" ? "the framed patch" : `token ${peak}`} of ${example.id}`;
  return make("div", { class: "example" }, make("p", { class: "note" }, make("bdi", {}, note)), ...parts);
}

/** Shades an element by a level; its title gives the activation. */
function shade(element, token, context) {
  if (token.level) {
    element.classList.add("level");
    element.classList.toggle("negative", token.level < 0);
    element.style.setProperty("--level", Math.abs(token.level) / about.levels);
    element.title = `token ${token.number}: ${context.value(token.level)}`;
  }
  if (token.number === context.peak) element.classList.add("peak");
  if (context.example.massive.includes(token.number)) {
    element.classList.add("massive");
    element.title = `${element.title} (a massive token)`;
  }
  return element;
}

/** A part around the peak, with a button that shows all of it. */
function expandable(draw, isWhole) {
  const place = make("div");
  place.append(draw(false));
  if (isWhole) return [place];
  const button = make("button", { type: "button" }, "more context");
  button.addEventListener("click", () => { place.replaceChildren(draw(true)); button.remove(); });
  return [place, button];
}

function passage(context) {
  const tokens = tokensOf(context.example, context.levels);
  const chars = [...context.example.text];
  const at = tokens.findIndex((token) => token.number === context.peak);
  const [first, last] = [Math.max(0, at - NEAR), Math.min(tokens.length, at + NEAR + 1)];
  const draw = (whole) => drawPassage(context, chars, whole ? tokens : tokens.slice(first, last), whole);
  return expandable(draw, first === 0 && last === tokens.length);
}

function drawPassage(context, chars, tokens, whole) {
  const text = make("p", { class: "passage" });
  const { offset, length } = context.example;
  let place = whole || !tokens.length ? 0 : tokens[0].start;
  if (offset + place > 0) text.append("…");
  for (const token of tokens) {
    if (token.start === token.end) {
      if (token.level) text.append(shade(make("span", { class: "special" }, "⟨special token⟩"), token, context));
      continue;
    }
    if (token.start > place) text.append(cut(chars.slice(place, token.start).join("")));
    const start = Math.max(place, token.start);
    if (start < token.end) {
      text.append(shade(make("span", {}, chars.slice(start, token.end).join("")), token, context));
      place = token.end;
    } else if (token.level) {
      // Several tokens share one letter, such as the bytes of an emoji: the strongest of them shades it.
      const before = text.lastElementChild;
      if (before && Math.abs(token.level) / about.levels > Number(before.style.getPropertyValue("--level"))) shade(before, token, context);
    }
  }
  if (whole) text.append(cut(chars.slice(place).join("")));
  if (offset + (whole ? chars.length : place) < length) text.append("…");
  return text;
}

const cut = (text) => (text.length > LONGEST_GAP ? `${text.slice(0, LONGEST_GAP / 2)} … ${text.slice(-LONGEST_GAP / 2)}` : text);

/** Letters of a sequence, in lines with their positions, and the annotations below each line. */
function letters(context) {
  const tokens = tokensOf(context.example, context.levels);
  const chars = [...context.example.text];
  const peak = tokens.find((token) => token.number === context.peak);
  const columns = Math.max(20, Math.min(60, Math.floor((article.clientWidth - 30) / 95) * 10));
  const first = Math.max(0, Math.min(peak.start - columns / 2, chars.length - columns));
  const last = Math.min(chars.length, first + columns);
  const draw = (whole) => drawLetters(context, chars, tokens, columns, whole ? [0, chars.length] : [first, last]);
  return [...expandable(draw, first === 0 && last === chars.length), ...(context.example.structure ? [structure(context)] : [])];
}

function drawLetters(context, chars, tokens, columns, [first, last]) {
  const owner = new Map();
  for (const token of tokens) for (let i = Math.max(first, token.start); i < Math.min(last, token.end); i++) owner.set(i, token);
  const block = document.createDocumentFragment();
  for (let start = first; start < last; start += columns) {
    const stop = Math.min(last, start + columns);
    const line = make("div", { class: "letters" }, make("span", { class: "place" }, String(context.example.offset + start + 1)));
    for (let i = start; i < stop; i++) {
      const letter = make("span", {}, chars[i]);
      const token = owner.get(i);
      line.append(token ? shade(letter, token, context) : letter);
    }
    for (const [from, to, concept] of context.example.notes) if (from < stop && to > start) line.append(lane(from, to, concept, start, stop));
    block.append(line);
  }
  return block;
}

function lane(from, to, concept, start, stop) {
  const bar = make("span", { title: concept }, concept);
  bar.style.left = `${Math.max(from, start) - start}ch`;
  bar.style.width = `${Math.min(to, stop) - Math.max(from, start)}ch`;
  return make("span", { class: "lane" }, bar);
}

/** A picture, darkened the more the less the latent fires in a patch; pointing at it shows the picture itself. */
function picture(context) {
  const { size: [width, height], boxes, count, first } = context.example;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const notes = [];
  const rect = (box, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const place = { x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1] };
    for (const [name, value] of Object.entries({ ...place, ...attributes })) element.setAttribute(name, value);
    return element;
  };
  let peak = null;
  for (let i = 0; i < count; i++) {
    const box = boxes.slice(4 * i, 4 * i + 4);
    const level = context.levels.get(first + i) ?? 0;
    if (box[2] - box[0] === width && box[3] - box[1] === height) {
      if (level) notes.push(make("p", { class: "note" }, `whole picture (special token): ${context.value(level)}`));
      continue;
    }
    const share = Math.abs(level) / about.levels;
    svg.append(rect(box, { "fill-opacity": (0.75 * (1 - share)).toFixed(3), "shape-rendering": "crispEdges" }));
    if (first + i === context.peak) peak = rect(box, { fill: "none", stroke: "#fff", "stroke-width": 2, "vector-effect": "non-scaling-stroke" });
  }
  if (peak) svg.append(peak);
  const image = make("img", { src: `pictures/${context.number}.webp`, alt: context.example.id, width, height, loading: "lazy" });
  return [make("div", { class: "frame", tabindex: "0" }, image, svg), ...notes];
}

function arrayRows(context) {
  const { rows, first } = context.example;
  const items = [...context.levels].filter(([token]) => token >= first && token - first < rows.length).map(([token, level]) => {
    const item = make("span", {}, `row ${rows[token - first]}: ${context.value(level)}`);
    return make("li", {}, shade(item, { number: token, level }, context));
  });
  return [make("ul", {}, ...items)];
}
