// Connects the parts, and draws.
for (const button of all("th button")) button.addEventListener("click", () => sort(button));
for (const button of all(".downloads button")) button.addEventListener("click", () => download(button));
filter.addEventListener("input", applyFilter);
filter.addEventListener("submit", (event) => event.preventDefault());
filter.addEventListener("reset", () => setTimeout(applyFilter));
document.getElementById("trained-layer")?.addEventListener("change", drawAgain);
addEventListener("hashchange", openCard);
card.addEventListener("close", () => history.replaceState(null, "", "#"));
card.addEventListener("click", (event) => event.target === card && card.close());

let drawnWidth = document.body.clientWidth;
let waiting;
addEventListener("resize", () => {
  if (document.body.clientWidth === drawnWidth) return;
  drawnWidth = document.body.clientWidth;
  clearTimeout(waiting);
  waiting = setTimeout(drawAll, 150);
});

applyFilter();
openCard();
drawAll().then(() => (document.documentElement.dataset.drawn = "yes"));
