// The chosen latent: its figures, its neighbors, and the examples that it fires on.
const article = document.getElementById("latent");
let asked = 0;

function pairs(entries) {
  const rows = entries.filter(([, value]) => value !== null && value !== "");
  return make("dl", {}, ...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

function twinOf(n) {
  if (table.twin[n] === null) return null;
  const sae = table.saes[table.sae[n]];
  const name = `latent ${table.twin[n]} of ${sae}`;
  const page = Object.hasOwn(about.twins, sae) ? make("a", { href: `${about.twins[sae]}#${table.twin[n]}` }, name) : make("bdi", {}, name);
  return make("span", {}, page, ` (cosine ${short(table.cosine[n])})`);
}

function heading(n) {
  const close = make("button", { type: "button", id: "close" }, "Close");
  close.addEventListener("click", stopReading);
  return [
    make("h2", {}, `Latent ${n}`, make("small", { class: `state ${table.state[n]}` }, table.state[n]), close),
    pairs([
      ["density", percent(table.density[n])],
      ["largest activation", short(table.largest[n])],
      ["concept", conceptOf(n) === null ? null : make("bdi", {}, `${conceptOf(n)} (F1 ${fixed(table.score[n])})`)],
      ["twin", twinOf(n)],
    ]),
  ];
}

function histogram(counts) {
  const most = Math.max(...counts, 1);
  const bars = counts.map((count) => {
    const bar = make("div", { title: count.toLocaleString("en") });
    bar.style.height = `${(100 * Math.sqrt(count)) / Math.sqrt(most)}%`;
    return bar;
  });
  return [make("h3", {}, "Activations"), make("div", { class: "histogram", role: "img", "aria-label": `Counts in equal steps from 0 to the largest: ${counts.join(", ")}` }, ...bars),
    make("p", { class: "note" }, "In equal steps from 0 to the largest; heights are square roots of counts.")];
}

function neighbors(latent) {
  if (!latent.near.length) return [];
  return [make("h3", {}, "Nearest decoder directions"),
    make("p", { class: "links" }, ...latent.near.map((n, i) => make("span", {}, make("a", { href: `#${n}` }, `${n}`), ` ${short(latent.cosines[i])} `, make("span", { class: "peaks" }, ...previews(n).slice(0, 1)))))];
}

const chunkOf = (example) => table.first_of_chunk.findLastIndex((first) => first <= example);

async function examplesUnder(title, shown, largest) {
  if (!shown.length) return [];
  const chunks = await Promise.all(shown.map(([example]) => load(`examples/${chunkOf(example)}`)));
  const drawn = shown.map((one, i) => drawExample(chunks[i][one[0]], one, largest));
  return [make("h3", {}, title), make("div", { class: about.kind === "image" ? "pictures" : "" }, ...drawn)];
}

async function read(n) {
  const mine = ++asked;
  article.replaceChildren(...heading(n));
  article.scrollTop = 0;
  let parts;
  try {
    const latent = (await load(`latents/${Math.floor(n / about.per_chunk)}`))[n % about.per_chunk];
    parts = [...neighbors(latent)];
    if (latent.top.length) {
      const random = "At random, of the other examples in which it fires";
      parts.push(...histogram(latent.histogram), ...(await examplesUnder("Where it fires most", latent.top, latent.largest)),
        ...(await examplesUnder(random, latent.random, latent.largest)));
    } else parts.push(make("p", {}, "It fires for none of these tokens."));
  } catch (error) {
    parts = [make("p", {}, String(error.message))];
  }
  if (mine === asked) {
    article.append(...parts);
    document.documentElement.dataset.read = n;
  }
}

let soon;
/** Chooses a latent; `open` also opens it on a small screen. Quick steps through the list read only the last one. */
function choose(n, open = false) {
  current = n;
  reveal(n);
  drawRows();
  drawMap();
  if (open && !document.body.classList.contains("reading")) {
    document.body.classList.add("reading");
    history.pushState(null, "", `#${n}`);
  } else history.replaceState(null, "", `#${n}`);
  clearTimeout(soon);
  soon = setTimeout(() => read(n), open ? 0 : 60);
}

function stopReading() {
  document.body.classList.remove("reading");
  list.focus();
}
