// Tables: a click on a heading sorts, a second one in the other direction.
function sort(button) {
  const header = button.closest("th");
  const descending = header.getAttribute("aria-sort") === "ascending";
  const body = header.closest("table").tBodies[0];
  const value = (row) => row.cells[header.cellIndex].dataset.value;
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === ""); // missing values stay at the end
    const order = header.dataset.kind === "number" ? Number(x) - Number(y) : x.localeCompare(y);
    return descending ? -order : order;
  };
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  body.append(...[...body.rows].sort(compare));
}
