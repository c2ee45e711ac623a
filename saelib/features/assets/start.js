// Connects the parts, and starts.
const numbered = () => (/^#\d+$/.test(location.hash) && Number(location.hash.slice(1)) < about.latents ? Number(location.hash.slice(1)) : null);

function onKey(event) {
  const typing = event.target.matches("input[type=search]");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/" && !typing) filter.elements.words.select();
  else if (event.key === "Escape") stopReading();
  else if (event.key === "Enter" && (typing || event.target === list)) {
    if (current === null || !passes[current]) step(1);
    if (current !== null) choose(current, true);
    article.focus();
  } else if (event.key === "ArrowDown" && (typing || event.target === list || event.target === document.body)) step(1);
  else if (event.key === "ArrowUp" && (typing || event.target === list || event.target === document.body)) step(-1);
  else if (event.key === "PageDown" && event.target === list) step(10);
  else if (event.key === "PageUp" && event.target === list) step(-10);
  else if (event.key === "Home" && event.target === list) step(-shown.length);
  else if (event.key === "End" && event.target === list) step(shown.length);
  else return;
  event.preventDefault();
}

function start(columns) {
  openList(columns);
  openMap();
  filter.addEventListener("input", applyFilter);
  filter.addEventListener("submit", (event) => event.preventDefault());
  list.addEventListener("scroll", () => requestAnimationFrame(drawRows));
  list.addEventListener("click", (event) => {
    const row = event.target.closest(".row");
    if (row) choose(Number(row.dataset.latent), true);
  });
  addEventListener("keydown", onKey);
  addEventListener("resize", () => { drawRows(); drawMap(); });
  addEventListener("hashchange", () => numbered() !== null && choose(numbered(), true));
  addEventListener("popstate", () => { if (numbered() === null) stopReading(); });
  drawMap();
  if (numbered() !== null) choose(numbered(), true);
  else if (about.latents && matchMedia("(min-width: 64rem)").matches) choose(Math.max(0, table.state.indexOf("alive")));
  document.documentElement.dataset.drawn = "yes";
}

load("list").then(start, (error) => list.replaceChildren(make("p", {}, String(error.message))));
